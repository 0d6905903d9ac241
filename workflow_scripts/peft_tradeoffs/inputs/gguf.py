"""A model in one GGUF file, made into what the workflow loads: float32 safetensors, config.json and a tokenizer."""

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import sha256, shared, system_errors
from peft_tradeoffs.inputs.file_kind import refuse_pointer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAGIC = b"GGUF"
REMEDY = "take another quantisation of it, or the original weights (safetensors)"


def check_gguf(path: Path) -> None:
    """Raise InputError for a file that is no GGUF file by its first bytes."""
    refuse_pointer(path)
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror}): correct its mode") from error
    if head != MAGIC:
        raise InputError(f"{path}: no GGUF file (it begins with {head!r}); download it again")


def dequantise(path: Path, target: Path) -> dict[str, Any]:
    """Write the model of a GGUF file to `target`, a folder as `save_pretrained` writes it; what it was made from.

    That is the file's name and SHA-256, file_type, the format's name of the quantisation (None: not said), and
    tensor_types, all that occur. The values are those that the file's bits stand for, so those of a model that was
    rounded to them. Raises InputError for a file that is damaged or of an architecture that Transformers cannot read.
    """
    import torch
    from gguf import GGUFReader, LlamaFileType

    check_gguf(path)
    try:
        reader = GGUFReader(path)
        field = reader.fields.get("general.file_type")
        kind = None if field is None else LlamaFileType(field.contents()).name
        types = sorted({tensor.tensor_type.name for tensor in reader.tensors})
        with contextlib.redirect_stderr(io.StringIO()):  # bars of its progress
            model, tokenizer = _loaded(path)
    except OSError as error:
        raise InputError(f"{path}: it cannot be read: {_one_line(error)}") from error
    except Exception as error:  # gguf and Transformers raise whatever the file's bytes lead to
        raise InputError(f"{path}: no model can be made of it: {_one_line(error)}; {REMEDY}") from error
    for parameter in model.parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"{path}: weights that are not finite; {REMEDY}")
    with system_errors(target):
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    shared(target)
    return {"file": path.name, "sha256": sha256(path), "file_type": kind, "tensor_types": types}


def _loaded(path: Path) -> tuple["PreTrainedModel", Any]:
    """The model of a GGUF file, as one that never was quantised, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    read = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
    config = type(read.config).from_dict(
        {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    )
    with torch.device("meta"):
        model = type(read)(config)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    return model, AutoTokenizer.from_pretrained(path.parent, **where)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""A model in one GGUF file, made into what the workflow loads: float32 safetensors, config.json and a tokenizer."""

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_tradeoffs.core.errors import InputError, error_text
from peft_tradeoffs.core.files import sha256, shared, system_errors
from peft_tradeoffs.inputs.file_kind import refuse_pointer

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedModel

MAGIC = b"GGUF"
FLOATS = {"F64", "F32", "F16", "BF16"}
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
    tensor_types, all that occur. The values are those that the file's bits stand for. Raises InputError for a file that
    is damaged, lacks weights, or is of an architecture, or has parts, that Transformers does not read.
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
            model, tokenizer, lacking = _loaded(path)
        unread = _unread(reader, model)
    except OSError as error:
        raise InputError(f"{path}: it cannot be read: {error_text(error)}") from error
    except Exception as error:  # gguf and Transformers raise whatever the file's bytes lead to
        raise InputError(f"{path}: no model can be made of it: {error_text(error)}; {REMEDY}") from error
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise InputError(f"{path}: it has no weights for {lacking[0]}{more}; {REMEDY}")
    if unread:
        raise InputError(f"{path}: Transformers does not read its {unread}, so the model would be another; {REMEDY}")
    for parameter in model.parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"{path}: weights that are not finite; {REMEDY}")
    with system_errors(target):
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    shared(target)
    return {"file": path.name, "sha256": sha256(path), "file_type": kind, "tensor_types": types}


def is_rounded(made_from: dict[str, Any]) -> bool:
    """Whether what `dequantise` says was made from tensors of fewer bits than a float's."""
    return not FLOATS.issuperset(made_from["tensor_types"])


def _unread(reader: "GGUFReader", model: "PreTrainedModel") -> str | None:
    """What of the file Transformers passes over without a word: a scaling of rotary positions, biases."""
    names = [tensor.name for tensor in reader.tensors]
    scaling = [name for name in reader.fields if name.endswith("rope.scaling.type")]
    scaled = scaling and reader.fields[scaling[0]].contents() not in ("none", "")
    if "rope_freqs.weight" in names or scaled:
        rope = getattr(model.config, "rope_parameters", None) or {}
        if rope.get("rope_type", "default") == "default":
            return "scaling of rotary positions"
    biases = sum(name.endswith(".bias") for name in names)
    return "biases" if biases > sum(name.endswith(".bias") for name in model.state_dict()) else None


def _loaded(path: Path) -> tuple["PreTrainedModel", Any, list[str]]:
    """The model of a GGUF file, as one that never was quantised, its tokenizer, and the weights that it lacks."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    read, info = AutoModelForCausalLM.from_pretrained(
        path.parent, dtype=torch.float32, output_loading_info=True, **where
    )
    lacking = sorted({*info["missing_keys"], *(str(key) for key in info["mismatched_keys"])})
    config = type(read.config).from_dict(
        {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    )
    with torch.device("meta"):
        model = type(read)(config)
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    return model, AutoTokenizer.from_pretrained(path.parent, **where), lacking

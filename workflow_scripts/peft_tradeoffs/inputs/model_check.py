"""A model's folder, looked at once when it is fetched, whatever its source; its tokenizer, config and model for a task.

Cheap to import: torch and Transformers come with what needs them.
"""

import contextlib
import json
import math
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from peft_tradeoffs.core.errors import InputError, error_text
from peft_tradeoffs.inputs.file_kind import foreign_content, refuse_pointer
from peft_tradeoffs.inputs.model_files import (
    ADAPTER,
    CONFIG,
    TOKENIZER_FILES,
    WEIGHTS,
    WEIGHTS_INDEX,
    folder_files,
    read_object,
    refuse_lacking,
    required_files,
)

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from peft_tradeoffs.tasks.classes import Names
    from peft_tradeoffs.tasks.task import Task

RESIZE = "resize them: model.resize_token_embeddings(len(tokenizer)), then save model and tokenizer"


def load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer, with a pad token. Raises InputError for a folder without a usable tokenizer."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; make it with fetch_model.py")
    tokenizer = bare_tokenizer(folder, f"{folder}: its tokenizer")
    # from a config.json alone Transformers makes a tokenizer that knows the special tokens only
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise InputError(
            f"{folder}: no tokenizer; a tokenizer.json or the vocabulary its model type needs must be there"
        )
    longest = tokenizer.model_max_length
    if not isinstance(longest, int | float) or longest < 1:
        raise InputError(
            f"{folder / 'tokenizer_config.json'}: model_max_length is {longest!r}; write the most tokens that the "
            "model takes, or take it out"
        )
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise InputError(f"{folder}: the tokenizer has no pad token and no eos token; set its pad_token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def bare_tokenizer(folder: Path, which: str) -> "PreTrainedTokenizerBase":
    """The folder's tokenizer as it is. Raises InputError that begins with `which` if it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        _ = tokenizer.all_special_ids  # without end where the unknown token itself is unknown
        return tokenizer
    except Exception as error:  # the tokenizers library raises nothing narrower, Transformers whatever a file leads to
        said = error_text(error)
        raise InputError(f"{which} cannot be loaded: {said}") from error


def check_pad_token(folder: Path, tokenizer: "PreTrainedTokenizerBase", embeddings: int | None) -> None:
    """Raise InputError for a pad token that is none of the model's `embeddings` (None: it takes any)."""
    if embeddings is not None and tokenizer.pad_token_id >= embeddings:
        raise InputError(
            f"{folder}: the pad token {tokenizer.pad_token_id} ({tokenizer.pad_token!r}) is beyond the model's "
            f"{embeddings} embeddings; {RESIZE}, or make a token of the vocabulary the pad token"
        )


def tokens_beyond(tokenizer: "PreTrainedTokenizerBase", embeddings: int | None) -> list[str]:
    """The tokens whose ids are none of the model's `embeddings`, by id, as a message names them: 28 ('<user>')."""
    if embeddings is None:
        return []
    return [f"{i} ({token!r})" for token, i in sorted(tokenizer.get_vocab().items(), key=_by_id) if i >= embeddings]


def check_ids(
    place: str,
    rows: Iterable[list[int]],
    tokenizer: "PreTrainedTokenizerBase",
    embeddings: int | None,
    numbers: Iterable[int],
) -> None:
    """Raise InputError for rows with a token that is none of the model's `embeddings`; `place` names the split.

    `numbers` are those of the rows in the source, from 0.
    """
    if embeddings is None:
        return
    found = [(number, max(ids)) for number, ids in zip(numbers, rows, strict=True) if ids and max(ids) >= embeddings]
    if found:
        token = found[0][1]
        named = ", ".join(str(number + 1) for number, _ in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise InputError(
            f"{place}, row{'s' if len(found) > 1 else ''} {named}{more}: token {token} "
            f"({tokenizer.convert_ids_to_tokens(token)!r}) is beyond the model's {embeddings} embeddings; {RESIZE}"
        )


def _by_id(item: tuple[str, int]) -> int:
    return item[1]


HEADER_LIMIT = 100_000_000  # bytes; the format's own
LENGTH = struct.Struct("<Q")  # the header's length, which stands before it
FLOATS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}  # dtype: bits
INFINITE = {"F16": 0x7C00, "BF16": 0x7F80}  # the bits of infinity; what is above is no number
CHUNK = 1 << 20  # bytes that are read at once
BITS = {
    **FLOATS,
    **dict.fromkeys(("C64", "I64", "U64"), 64),
    **dict.fromkeys(("I32", "U32"), 32),
    **dict.fromkeys(("I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a header; `dtype` as safetensors names it, F32 say; `begins` and `ends`: bytes of the file."""

    dtype: str
    shape: tuple[int, ...]
    begins: int
    ends: int


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors by name. Raises InputError for a file that cannot be read, is another kind of file or not whole."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(LENGTH.size)
            length = LENGTH.unpack(start)[0] if len(start) == LENGTH.size else 0
            text = file.read(length) if 0 < length <= min(HEADER_LIMIT, size - LENGTH.size) else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct its mode or copy it") from error
    refuse_pointer(path)
    if not text:
        found = foreign_content(path)
        raise _damaged(path, f"it holds {found}" if found else f"it ends after {size} bytes, within its header")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is no JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    header.pop("__metadata__", None)
    spans = sorted(_span(path, name, value) for name, value in header.items())
    end = 0
    for begins, ends, name in spans:
        if begins != end:
            raise _damaged(path, f"tensor {name} starts at byte {begins}, the one before it ends at {end}")
        end = ends
    if (expected := LENGTH.size + length + end) != size:
        raise _damaged(path, f"it has {size} bytes, its header speaks of {expected}")
    before = LENGTH.size + length
    tensors = {
        name: Tensor(header[name]["dtype"], tuple(header[name]["shape"]), before + begins, before + ends)
        for begins, ends, name in spans
    }
    _refuse_unwritten(path, list(tensors.values()), before)
    return {name: tensors[name] for name in header}


def _refuse_unwritten(path: Path, tensors: list[Tensor], before: int) -> None:
    """Raise InputError for weights whose end was never written, as of a download into a file of the full size.

    `tensors` stand in the order of their bytes, which begin at `before`. Such an end is zero from amid a tensor and
    through two of two dimensions, or half of the file: a new head, biases, an adapter's B or rows of padding are less.
    """
    size = tensors[-1].ends if tensors else before
    zero = _zero_from(path, before, size)
    if zero == size:
        return
    amid = any(tensor.begins < zero < tensor.ends for tensor in tensors)
    tables = [
        tensor
        for tensor in tensors
        if len(tensor.shape) > 1
        and tensor.ends > zero
        and (tensor.begins >= zero or (tensor.ends - zero) * tensor.shape[0] > tensor.ends - tensor.begins)
    ]
    if (amid and len(tables) > 1) or (tables and 2 * (size - zero) >= size - before):
        raise _damaged(path, f"it is zero from byte {zero} to its end at {size}, as if it was never written there")


def _zero_from(path: Path, begins: int, ends: int) -> int:
    """Where the zero bytes at the end, between these two places of the file, begin."""
    with path.open("rb") as file:
        while ends > begins:
            start = max(begins, ends - CHUNK)
            file.seek(start)
            if written := file.read(ends - start).rstrip(b"\0"):
                return start + len(written)
            ends = start
    return begins


def refuse_nan(folder: Path, files: Iterable[str]) -> None:
    """Raise InputError for a NaN in one of the weights `files`; reads all of them, about 1 GiB per second."""
    for path in (folder / name for name in sorted(files) if name.endswith(".safetensors")):
        with path.open("rb") as file:
            for name, tensor in read_header(path).items():
                if tensor.dtype in FLOATS and _has_nan(file, tensor):
                    raise InputError(
                        f"{path}: tensor {name} holds NaN, which no training gets rid of; download it again, or take a "
                        "checkpoint from before the training that made it diverged"
                    )


def _has_nan(file: BinaryIO, tensor: Tensor) -> bool:
    import numpy as np  # planning does without

    file.seek(tensor.begins)
    for start in range(tensor.begins, tensor.ends, CHUNK):
        part = file.read(min(CHUNK, tensor.ends - start))
        if tensor.dtype in INFINITE:  # numpy has no BF16, and is slow with F16
            if ((np.frombuffer(part, "<u2") & 0x7FFF) > INFINITE[tensor.dtype]).any():
                return True
        elif np.isnan(np.frombuffer(part, "<f4" if tensor.dtype == "F32" else "<f8")).any():
            return True
    return False


def _span(path: Path, name: str, value: Any) -> tuple[int, int, str]:
    """Where the tensor's bytes begin and end, and its name."""
    try:
        shape, (begins, ends), bits = value["shape"], value["data_offsets"], BITS[value["dtype"]]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begins, ends))
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(path, f"its header describes tensor {name} by {str(value)[:200]}") from error
    if not whole or (ends - begins) * 8 != math.prod(shape) * bits:
        raise _damaged(path, f"tensor {name} has other bytes than its shape needs")
    return begins, ends, name


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: no whole safetensors file: {reason}; download or save it again")


# Keys of config.json under which checkpoints say how they were quantised, and files that say it beside it.
QUANTIZED_KEYS = ("quantization_config", "compression_config")
QUANTIZED_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq", "quant_strategy.json": "exl2"}
PACKED = re.compile(r"\.(qweight|qzeros|weight_packed|weight_scale|absmax|quant_map|SCB|quant_state\.[\w.]+)$")
# Keys of config.json by which Transformers reads other files than those of `required_files`.
ELSEWHERE = ("transformers_weights", "configuration_files")
SHARED = 1000  # layers that may share their weights, as ALBERT's do
LISTED = 4  # names that a message spells out
LAYER = re.compile(r"^(.*?\.)(\d+)\.")


def check_folder(where: str, folder: Path) -> set[str]:
    """The files that loading the model in `folder` reads; `where` says which model it is.

    Raises InputError for a folder from which no whole, plain model can be loaded, and for one that holds an adapter.
    Reads no weights, only the headers of their files, and no tokenizer.
    """
    refuse_closed(folder)
    names = folder_files(folder)
    _refuse_adapter(where, folder, names)
    _refuse_no_file(folder, {CONFIG, WEIGHTS, WEIGHTS_INDEX, *TOKENIZER_FILES} - names)
    files, lacking = required_files(folder, names)
    refuse_lacking(where, names, lacking)
    if absent := sorted(files - names):
        _refuse_no_file(folder, set(absent))
        raise InputError(f"{where}: no {', no '.join(absent)}; fetch or save the model again")
    _check_files(folder, files, names)
    return files


def refuse_closed(folder: Path) -> None:
    """Raise InputError for a folder that cannot be listed."""
    if not os.access(folder, os.R_OK | os.X_OK):
        raise InputError(f"{folder}: permission denied; chmod it or copy it")


ENCODERS = ("albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta")


def refuse_encoder(where: str, folder: Path) -> None:
    """Raise InputError for a model of a kind that reads texts and writes none. Reads config.json, if it can."""
    try:
        found = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return  # what loads the model says so
    if isinstance(found, dict) and found.get("model_type") in ENCODERS and not found.get("is_decoder"):
        raise InputError(
            f"{where}: {found['model_type']} reads texts and writes none; this data needs a causal language model"
        )


def _refuse_adapter(where: str, folder: Path, names: set[str]) -> None:
    """Raise InputError for an adapter in the model's folder, alone or beside a model; `names` are its files."""
    if ADAPTER not in names:
        return
    path = folder / ADAPTER
    if CONFIG in names:
        raise InputError(
            f"{path}: an adapter lies beside the model, which Transformers would load on top of it: move "
            f"{ADAPTER} and the adapter's weights away"
        )
    base = read_object(path).get("base_model_name_or_path")
    raise InputError(
        f"{where}: {path} is an adapter{f' of {base}' if base else ''}, no model; take "
        f"{'that model' if base else 'its base model'}, or merge the adapter into it (merge_and_unload) and save "
        "the result"
    )


def _refuse_no_file(folder: Path, names: set[str]) -> None:
    """Raise InputError for one of `names` that is there and is no file: a broken link, a pipe, a folder."""
    for path in (folder / name for name in sorted(names)):
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path}: a link to {path.readlink()}, which is not there; download or copy the file")
        if path.is_dir():
            raise InputError(f"{path}: a folder where a file must be; download or save the model again")
        if path.exists():
            raise InputError(f"{path}: a pipe, socket or device where a file must be; download or save the model again")


def _check_files(folder: Path, files: set[str], names: set[str]) -> None:
    """Look at the `files` that loading reads, of all `names` in the folder.

    Raises InputError for a file that cannot be read or is a pointer, for weights that are not whole or quantised, and
    for a config.json that leads to other files.
    """
    for name in sorted(files):
        _check_readable(folder / name)
        refuse_pointer(folder / name)
    config = read_object(folder / CONFIG)
    _refuse_quantized(folder, config, names)
    for key in ELSEWHERE:
        if config.get(key):
            raise InputError(
                f"{folder / CONFIG}: `{key}` leads to other files than {WEIGHTS} and {CONFIG}, {config[key]}; "
                "take it out, and give the files these names"
            )
    weights = {name: read_header(folder / name) for name in sorted(files) if name.endswith(".safetensors")}
    if not any(weights.values()):
        raise InputError(f"{folder / WEIGHTS}: it holds no weights; download or save the model again")
    layers, tensors_in_all = config.get("num_hidden_layers"), sum(map(len, weights.values()))
    if isinstance(layers, int) and layers > max(tensors_in_all, SHARED):  # whose modules alone take hours to make
        raise InputError(
            f"{folder / CONFIG}: it asks for {layers} layers and the weights have {tensors_in_all} tensors; they "
            "belong to different models"
        )
    for name, tensors in weights.items():
        _refuse_packed(folder / name, tensors)
    if WEIGHTS_INDEX in files:
        _check_index(folder, weights)


# What Transformers raises for values of a config.json that make no model, or that want a package that is not there.
UNBUILDABLE = (
    *(ValueError, TypeError, RuntimeError, AttributeError, AssertionError, ArithmeticError, LookupError),
    ImportError,
)


def load_config(folder: Path, **fields: Any) -> "PreTrainedConfig":
    """The config of a model folder, never by code from the folder.

    Raises InputError for a folder that is gone, needs such code, is of a type Transformers does not know or has
    values that this type does not take.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    if not folder.is_dir():
        raise InputError(f"{folder}: the model is gone; delete {folder}.json and run again, which fetches it")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, **fields)
    except (StrictDataclassError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{folder}/config.json: {error_text(error)}; correct it") from error
    except ValueError as error:
        reason = (str(error).strip().splitlines() or ["no model's config.json"])[0]
        unknown = any(words in reason for words in ("model type", "custom code", "Unrecognized model"))
        remedy = (
            "code that comes with a model is never run; choose a model that Transformers knows"
            if unknown
            else "correct its config.json"
        )
        raise InputError(f"{folder}: {reason} ({remedy})") from error


def name_outputs(config: "PreTrainedConfig", names: "Names") -> None:
    """Give the config the names of the outputs; None: no names are known.

    The names that a base model's config has are those of the task that it was trained for.
    """
    if names is not None:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}


def saved_head(config: "PreTrainedConfig") -> dict[str, Any]:
    """What Transformers must be given, beside the base model, to make this classifier's head."""
    return {
        "problem_type": config.problem_type,
        "labels": [config.id2label[index] for index in range(config.num_labels)],
        "pad_token_id": config.pad_token_id,
        **{key: getattr(config, key) for key in ("target_mean", "target_sd") if hasattr(config, key)},
    }


def empty_model(config: "PreTrainedConfig", task: "Task") -> "PreTrainedModel":
    """The task's model of a config on the meta device.

    Raises InputError for a model type that has none, and for values that make no model.
    """
    import torch
    import transformers

    place = Path(config.name_or_path) / "config.json"
    with torch.device("meta"):
        try:
            return getattr(transformers, task.auto_class).from_config(config, trust_remote_code=False)
        except UNBUILDABLE as error:
            if "Unrecognized configuration class" in str(error):
                raise InputError(
                    f"Transformers has no {task.model_kind} for model type {config.model_type}: choose an "
                    f"encoder or a decoder that {task.auto_class} knows"
                ) from error
            if "Padding_idx" in str(error):
                raise InputError(
                    f"{place}: pad_token_id {config.pad_token_id} is beyond the model's {config.vocab_size} "
                    "embeddings; set it to a token of the vocabulary, or resize them: "
                    "model.resize_token_embeddings(len(tokenizer))"
                ) from error
            said = error_text(error)
            raise InputError(f"{place}: no {config.model_type} model can be built of it: {said}") from error


def in_head(name: str, head: list[str]) -> bool:
    """Whether the parameter `name` belongs to one of the modules `head`."""
    return any(name.startswith(f"{part}.") for part in head)


def check_loaded(info: Mapping[str, Any], head: list[str], folder: Path) -> None:
    """Raise InputError if weights outside the head are not the checkpoint's; `info` is Transformers' loading_info.

    Transformers draws those at random that the checkpoint lacks or has in another shape.
    """
    lacking = sorted(key for key in info["missing_keys"] if not in_head(key, head))
    if lacking:
        raise InputError(
            f"{folder}: the checkpoint lacks {len(lacking)} backbone weights ({', '.join(lacking[:3])}"
            f"{', …' if len(lacking) > 3 else ''}); its config.json and weights belong to different models"
        )
    other = sorted((key, tuple(found), tuple(needed)) for key, found, needed in info["mismatched_keys"])
    for key, found, needed in other:
        if not in_head(key, head):
            raise InputError(
                f"{folder}: the checkpoint's {key} is {list(found)}, its config.json asks for {list(needed)}; "
                "they belong to different models"
            )


def is_linear(module: "nn.Module") -> bool:
    """Whether a module is a linear layer (GPT-2's Conv1D is one)."""
    from torch import nn

    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def linear_names(model: "nn.Module") -> list[str]:
    """Last parts of the names of all linear layers, sorted: what target_modules usually lists."""
    return sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if is_linear(module)})


def load_empty(folder: Path, config: Any, kind: type["PreTrainedModel"]) -> tuple["PreTrainedModel", dict[str, Any]]:
    """The model of class `kind` as loading makes it, but on the meta device, and what loading found (`loading_info`).

    Raises InputError if Transformers cannot load it.
    """
    import torch
    from safetensors import SafetensorError

    try:
        with _quiet():
            return kind.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                device_map={"": "meta"},
            )
    except (OSError, RuntimeError, ImportError, SafetensorError, ArithmeticError, AssertionError) as error:
        raise InputError(f"{folder}: it cannot be loaded: {error_text(error)}") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise InputError(f"{folder}: it cannot be loaded: {error_text(error)}; check its config.json") from error


def number_of_embeddings(model: "PreTrainedModel") -> int | None:
    """How many tokens the model has embeddings of; None where it has no such table, as CANINE."""
    try:
        table = model.get_input_embeddings()
    except (RuntimeError, AttributeError):  # how Transformers says that it knows of none
        return None
    return getattr(table, "num_embeddings", None)


def notes(model: "PreTrainedModel", info: dict[str, Any], head: list[str]) -> list[str]:
    """What a reader may want to know of a model that can be used, a sentence each."""
    found = []
    fresh = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    lacking = sorted(key for key in fresh if "pooler" in key)
    if lacking and head:
        found.append(
            f"The checkpoint has no {listed(lacking)} that fits: the pooler starts at random, as the head does."
        )
    layers = {match[1] for name, _ in model.named_parameters() if (match := LAYER.match(name))}
    beyond = sorted(
        key for key in info["unexpected_keys"] if (match := LAYER.match(key)) and _ends_in(layers, match[1])
    )
    if beyond:
        found.append(
            f"The checkpoint has weights of layers that config.json does not have, {listed(beyond)}; they are not "
            "loaded."
        )
    return found


def _ends_in(layers: set[str], found: str) -> bool:
    """Whether `found`, encoder.layer. say, is one of `layers`, with or without the base model's prefix."""
    return any(layer == found or layer.endswith(f".{found}") or found.endswith(f".{layer}") for layer in layers)


def _check_readable(path: Path) -> None:
    try:
        path.open("rb").close()
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read: permission denied; chmod it or copy it") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); download or save the model again") from error


def _refuse_quantized(folder: Path, config: dict[str, Any], names: set[str]) -> None:
    blocks = [config, *(value for value in config.values() if isinstance(value, dict))]  # text_config and the like
    for block in blocks:
        for key in QUANTIZED_KEYS:
            said = block.get(key)
            if said is not None and said is not False:
                method = said.get("quant_method") if isinstance(said, dict) else None
                raise _quantized(folder / CONFIG, str(method or key))
    for name, method in QUANTIZED_FILES.items():
        if name in names:
            raise _quantized(folder / name, method)


def _refuse_packed(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raise InputError for weights that are no floating-point numbers; buffers, positions say, may be integers."""
    packed = [
        f"{name} {tensor.dtype}"
        for name, tensor in tensors.items()
        if PACKED.search(name) or (name.endswith(".weight") and tensor.dtype not in FLOATS)
    ]
    if packed:
        raise _quantized(path, listed(sorted(packed)))


def _quantized(path: Path, how: str) -> InputError:
    return InputError(
        f"{path}: the checkpoint is quantised ({how}); take the unquantised one (a method's `quantization` block "
        "quantises it)"
    )


def _check_index(folder: Path, weights: dict[str, dict[str, Tensor]]) -> None:
    """Raise InputError for an index that names weights which its shards do not have."""
    index = read_object(folder / WEIGHTS_INDEX)
    if not isinstance(index.get("metadata"), dict):
        raise InputError(
            f'{folder / WEIGHTS_INDEX}: no `metadata`, which Transformers reads; add "metadata": {{}} to it'
        )
    shards: dict[str, str] = index["weight_map"]
    absent = sorted(name for name, shard in shards.items() if name not in weights[shard])
    if absent:
        raise InputError(
            f"{folder / shards[absent[0]]}: it lacks weights that {WEIGHTS_INDEX} says are in it, {listed(absent)}; "
            "download or save the model again"
        )


def listed(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within it Transformers shows neither progress nor its report of a head that is new."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

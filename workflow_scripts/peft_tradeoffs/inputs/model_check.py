"""A model is looked at once, when it is fetched, whatever its source: what is not whole, not plain or not one model."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_tradeoffs.core.errors import InputError
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
from peft_tradeoffs.inputs.pointers import refuse_pointer
from peft_tradeoffs.inputs.safetensors_header import FLOATS, Tensor, read_header

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
        raise InputError(f"{folder}: it cannot be loaded: {_one_line(error)}") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise InputError(f"{folder}: it cannot be loaded: {_one_line(error)}; check its config.json") from error


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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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

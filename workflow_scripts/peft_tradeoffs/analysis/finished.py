"""Finished runs, read through one door: nothing counts that is not as the run wrote it.

Whoever reads a run asks `read_summary` for its summary, and `verified` before it reads a file beside it.
"""

import csv
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import FILES, REMEDY, TENSORS, weight_files
from peft_tradeoffs.core.layout import json_schema

PLACE = ("dataset", "model", "arm")  # the folders above that of the seed
TYPES: dict[str, tuple[type, ...]] = {
    **{"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "object": (dict,)},
    "null": (type(None),),
}
LARGEST = 1e100  # of a number: its square can still be added up
ENV, METRICS = "env.json", "metrics.csv"
# Of files that Transformers or PEFT may read from a folder of weights.
LOADED = {
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"),
    *(".json", ".txt", ".model", ".py", ".jinja"),
}
LINE_ENDS = "its line ends were converted (git does that: set core.autocrlf false and check it out again)"


def read_summary(path: Path, place: bool = True) -> dict[str, Any]:
    """The summary of a finished run, as the run sealed it; with `place`, one that lies in the folder of its own run.

    Raises InputError for one that is damaged, edited, of another run or of another version; FileNotFoundError without.
    """
    summary = files.read_json(path, REMEDY, unique=True)
    try:
        files.check_summary(summary, path)
    except RecursionError:
        raise InputError(f"{path}: not a run's summary (nested too deep); {REMEDY}") from None
    for key, (types, allowed, low, high) in _keys().items():
        value = summary.get(key, ...)
        if value is ...:
            raise InputError(f"{path}: not a run's summary of this version, no {key}; {REMEDY}")
        right = type(value) in types and (allowed is None or value in allowed)
        if right and type(value) in (int, float):
            right = low <= value <= high
        if not right:
            raise InputError(f"{path}: {key} cannot be {files.shown(value)}; {REMEDY}")
    for key, value in summary.items():
        if type(value) is int and abs(value) >= 2**63:  # what no column of whole numbers holds
            raise InputError(f"{path}: {key} cannot be {files.shown(value)}; {REMEDY}")
    if any(not isinstance(reason, str) for reason in summary["null_reasons"].values()):
        raise InputError(f"{path}: null_reasons holds more than texts; {REMEDY}")
    own = (*(summary[axis] for axis in PLACE), f"seed{summary['seed']}")
    parts = Path(*own).parts  # a name with a slash is more than one folder
    if place and path.absolute().parts[-1 - len(parts) : -1] != parts:
        raise InputError(f"{path}: of another run, {'/'.join(own)}; {REMEDY}")
    return summary


def verified(folder: Path, *names: str, place: bool = True) -> dict[str, Any]:
    """The summary of the finished run in `folder`, whose files `names` are as it published them; InputError if not.

    `place` as of `read_summary`.
    """
    try:
        summary = read_summary(folder / "summary.json", place=place)
    except FileNotFoundError:
        raise InputError(f"{folder / 'summary.json'}: no such summary; run that arm again") from None
    check_files(folder, summary, names)
    return summary


def has(summary: dict[str, Any], name: str) -> bool:
    """Whether the run published a file of this name."""
    return name in summary[files.FILES]


def read_env(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The env.json of the finished run in `folder`; InputError unless it is what the run published."""
    check_files(folder, summary, [ENV])
    env = files.read_object(folder / ENV, {"settings": (dict,)}, "a run's environment", REMEDY)
    if env.get("fingerprint") != summary["fingerprint"]:
        raise InputError(f"{folder / ENV}: of another run than summary.json beside it; {REMEDY}")
    return env


def read_evaluations(folder: Path, summary: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of the metrics.csv of the finished run in `folder`; InputError unless it is as the run published it."""
    check_files(folder, summary, [METRICS])
    with (folder / METRICS).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check_files(folder: Path, summary: dict[str, Any], names: Iterable[str]) -> None:
    """Raise InputError, one line per file, for those of `names` that are missing or not as the run published them."""
    lines = []
    for name in names:
        path = folder / name
        try:
            files.check_files(folder, summary, [name])
        except InputError as error:
            why = _converted(path, summary[files.FILES].get(name))
            lines.append(f"{path}: {why}" if why else str(error))
        except OSError as error:
            lines.append(f"{path}: cannot be read ({error.strerror}); give yourself the right to, or {REMEDY}")
    if lines:
        raise InputError("\n".join(lines))


def check_all(folder: Path, summary: dict[str, Any], keep_weights: bool = True) -> None:
    """As `check_files` for all that the run published, and for files beside its weights that it did not.

    Without `keep_weights` it may have no weights any more.
    """
    problems = []
    try:
        check_files(folder, summary, files.expected(folder, summary, keep_weights))
    except InputError as error:
        problems.append(str(error))
    problems += [f"{path}: the run did not write it; move it away" for path in strangers(folder, summary)]
    if problems:
        raise InputError("\n".join(problems))


def has_weights(folder: Path, summary: dict[str, Any]) -> bool:
    """Whether the run published weights that are all still there."""
    names = files.weight_files(summary)
    return bool(names) and all((folder / name).is_file() for name in names)


def strangers(folder: Path, summary: dict[str, Any]) -> list[Path]:
    """Files among a run's weights that it did not publish and a loader might take for the run's, by their suffix.

    Hidden ones, which a file system or a Finder makes, and an editor's copies are none.
    """
    found = sorted(path for name in files.FOLDERS for path in (folder / name).rglob("*") if not path.is_dir())
    names = {path: path.relative_to(folder) for path in found if path.suffix.lower() in LOADED}
    hidden = {path for path, name in names.items() if any(part.startswith(".") for part in name.parts)}
    return [path for path in names if path not in hidden and names[path].as_posix() not in summary[files.FILES]]


def _converted(path: Path, sha256: str | None) -> str | None:
    """What to say of a text file that differs from the published one in its line ends alone."""
    if path.suffix == ".safetensors" or not path.is_file():
        return None
    try:
        text = path.read_bytes().replace(b"\r\n", b"\n")
    except OSError:
        return None
    both = (text, text.replace(b"\n", b"\r\n"))
    return LINE_ENDS if sha256 in [hashlib.sha256(content).hexdigest() for content in both] else None


@functools.cache
def _keys() -> dict[str, tuple[tuple[type, ...], list[Any] | None, float, float]]:
    """By required key of a summary: types, the only values, the lowest and the highest number."""
    schema = json_schema("summary")
    found = {}
    for key in schema["required"]:
        about = schema["properties"][key]
        kinds = about.get("type", list(TYPES))
        kinds = kinds if isinstance(kinds, list) else [kinds]
        types = tuple(kind for name in kinds for kind in TYPES[name])
        low, high = about.get("minimum", -LARGEST), about.get("maximum", LARGEST)
        found[key] = (types, about.get("enum"), max(low, -LARGEST), min(high, LARGEST))
    return found


def weights_sha256(summary: dict[str, Any]) -> str | None:
    """SHA-256 over the weights that the run saved, adapter or checkpoint, by its summary; None if it saved none.

    Whether they still are so, `finished.check_files` says.
    """
    names = [name for name in weight_files(summary) if name.endswith(TENSORS)]
    if not names:
        return None
    lines = (f"{PurePosixPath(name).name} {summary[FILES][name]}\n" for name in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def predictions_sha256(summary: dict[str, Any]) -> str | None:
    """SHA-256 of the run's predictions.csv, whose digits tell any two logits apart; None if there is none."""
    return summary[FILES].get(files.PREDICTIONS)

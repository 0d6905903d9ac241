"""The seal of a run: its summary names what was published beside it, each file by its SHA-256.

Whoever reads a run can so tell whether its files are still those that the summary was made with.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from peft_tradeoffs.core import code, files
from peft_tradeoffs.core.errors import InputError

FILES, WEIGHTS, SHA256 = "files", "weights", "sha256"
KEYS = (WEIGHTS, FILES, SHA256)  # that `seal` adds
KEPT, NOT_KEPT = "kept", "not kept"
GENERAL = "predictions_general.csv"
NAMES = ("summary.csv", "metrics.csv", "env.json", "predictions.csv", "predictions_heldout.csv", GENERAL)
FOLDERS = ("adapter", "checkpoint")  # of a run's weights
TENSORS = ".safetensors"
REMEDY = "delete the run's folder and run it again"


def seal(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`summary` with the three keys, of the results that stand in `folder`."""
    found = {path.relative_to(folder).as_posix(): files.sha256(path) for path in _published(folder)}
    kept = KEPT if any(is_weight(name) for name in found) else NOT_KEPT
    own = {key: value for key, value in summary.items() if key not in KEYS}
    return signed({**own, WEIGHTS: kept, FILES: found})


def check_summary(summary: Any, path: Path) -> None:
    """Raise InputError unless `summary`, read from `path`, is as it was sealed."""
    if not isinstance(summary, dict):
        raise InputError(f"{path}: not a run's summary, which is a JSON object; {REMEDY}")
    missing = [key for key in KEYS if key not in summary]
    if missing:
        raise InputError(f"{path}: no {', '.join(missing)}, which every run writes; {REMEDY}")
    if summary[SHA256] != signed(summary)[SHA256]:
        raise InputError(f"{path}: changed after the run wrote it: its content is not that of its sha256; {REMEDY}")
    if not _is_listing(summary[FILES]) or summary[WEIGHTS] not in (KEPT, NOT_KEPT):
        raise InputError(f"{path}: files and weights are not what a run writes; {REMEDY}")


def check_files(run_folder: Path, summary: dict[str, Any], names: Iterable[str] | None = None) -> None:
    """Raise InputError for a published file that is missing or has other content.

    `names`: only these files, as the summary lists them; None: all. A name that the summary does not list is missing
    from it, and so an error too.
    """
    listed = summary[FILES]
    for name in sorted(listed if names is None else names):
        path = run_folder / name
        if name not in listed:
            raise InputError(f"{path}: the run's summary does not list it; {REMEDY}")
        if not path.is_file():
            raise InputError(f"{path}: missing, though the run's summary lists it; {REMEDY}")
        if files.sha256(path) != listed[name]:
            raise InputError(f"{path}: changed after the run wrote it: its SHA-256 is not the summary's; {REMEDY}")


def expected(run_folder: Path, summary: dict[str, Any], keep_weights: bool = True) -> list[str]:
    """The published files that must stand. All of them; but without `keep_weights` a run may have lost its weights.

    It has where no file of tensors is there: rsync may have left those alone out, and what lies beside them stayed.
    """
    weights = weight_files(summary)
    gone = [name for name in weights if not (run_folder / name).exists()]
    if keep_weights or any(name.endswith(TENSORS) for name in weights if name not in gone):
        gone = []
    return sorted(set(summary[FILES]) - set(gone))


def weight_files(summary: dict[str, Any]) -> list[str]:
    """The files of the run's weights that its summary lists: all that stands in adapter/ or checkpoint/."""
    return sorted(name for name in summary[FILES] if is_weight(name))


def other_files(summary: dict[str, Any]) -> list[str]:
    """The files that the run's summary lists beside its weights: predictions, metrics, env.json, summary.csv."""
    return sorted(name for name in summary[FILES] if not is_weight(name))


def is_weight(name: str) -> bool:
    """Whether a published file is of the run's weights."""
    return name.partition("/")[0] in FOLDERS


def signed(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with `sha256`, the SHA-256 of the rest of it in code.digest's form."""
    content = {key: found for key, found in value.items() if key != SHA256}
    return {**content, SHA256: code.digest(content)}


def read_signed(path: Path) -> dict[str, Any]:
    """The JSON object that `signed` made, without `sha256`. Raises FileNotFoundError, or InputError if it changed."""
    value = files.read_json(path)
    if not isinstance(value, dict) or value.get(SHA256) != signed(value)[SHA256]:
        raise InputError(f"{path}: changed after it was written: its content is not that of its sha256")
    return {key: found for key, found in value.items() if key != SHA256}


def _published(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in NAMES if (folder / name).is_file())
    for name in FOLDERS:
        yield from sorted(path for path in (folder / name).rglob("*") if path.is_file())


def _is_listing(value: Any) -> bool:
    """Whether it is an object of checksums by names that stay in the run's folder."""
    return isinstance(value, dict) and all(
        isinstance(sha256, str) and not name.startswith("/") and ".." not in name.split("/")
        for name, sha256 in value.items()
    )

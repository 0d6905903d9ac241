"""The files of a reference, and whether they are as they were stored. Cheap to import: read before anything trains."""

import csv
import io
from pathlib import Path
from typing import Any

from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError

RUNS, NOISE, ENV = "runs.csv", "noise.csv", "env.json"
AGAIN = "put back what is missing, or store the reference again"
STORE = "store the reference again"
SHOWN = 5  # names in a sentence


def checksums(folder: Path, names: list[str]) -> dict[str, str]:
    """SHA-256 of the files that lie beside env.json, as it keeps them."""
    return {name: files.sha256(folder / name) for name in names}


def read_env(folder: Path) -> dict[str, Any]:
    """env.json of a reference, whose other files are as they were stored.

    Raises InputError for a file that is missing, broken or changed; of runs.csv it names the runs that it lost.
    """
    path = folder / ENV
    kinds: dict[str, tuple[type, ...]] = dict.fromkeys(("common", "arms", "checksums", "files"), (dict,))
    what = "of a reference of this version"
    try:
        env = files.read_object(path, kinds, what, STORE)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; a reference is a folder that `snakemake store_reference` made"
        ) from None
    for of_run in env["checksums"].values():
        files.check_object(path, of_run, dict.fromkeys(("weights", "predictions"), (str, type(None))), what, STORE)
    for of_arm in env["arms"].values():
        files.check_object(path, of_arm, {}, what, STORE)
    if strange := [name for name in env["files"] if name not in (RUNS, NOISE)]:
        raise InputError(f"{path}: names {', '.join(strange)}, which is no file of a reference; {STORE}")
    for name in dict.fromkeys([RUNS, *env["files"]]):
        _check(folder / name, env["files"].get(name), env["checksums"])
    return env


def _check(path: Path, stored: str | None, runs: dict[str, Any]) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file, though the reference was stored with it; {AGAIN}")
    if files.sha256(path) == stored:
        return
    lost = sorted(set(runs) - _runs(path)) if path.name == RUNS else []
    more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
    which = f": it lacks {', '.join(lost[:SHOWN])}{more}" if lost else " (by its SHA-256 in env.json)"
    raise InputError(f"{path}: not as it was stored{which}; {AGAIN}")


def _runs(path: Path) -> set[str]:
    """The runs of a table as "dataset/model/arm/seed0", as far as it can be read."""
    rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8", errors="replace")))
    return {f"{row.get('dataset')}/{row.get('model')}/{row.get('arm')}/seed{row.get('seed')}" for row in rows}

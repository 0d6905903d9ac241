"""The files of a reference, and whether they are as they were stored. Cheap to import: read before anything trains."""

import csv
import io
from pathlib import Path
from typing import Any

from peft_tradeoffs import files
from peft_tradeoffs.errors import InputError

RUNS, NOISE, ENV = "runs.csv", "noise.csv", "env.json"
AGAIN = "put back what is missing, or store the reference again"
SHOWN = 5  # names in a sentence


def checksums(folder: Path, names: list[str]) -> dict[str, str]:
    """SHA-256 of the files that lie beside env.json, as it keeps them."""
    return {name: files.sha256(folder / name) for name in names}


def read_env(folder: Path) -> dict[str, Any]:
    """env.json of a reference, whose other files are as they were stored.

    Raises InputError for a file that is missing, broken or changed; of runs.csv it names the runs that it lost.
    """
    path = folder / ENV
    try:
        env = files.read_json(path)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; a reference is a folder that `snakemake store_reference` made"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); store the reference again") from None
    kinds = {"common": dict, "arms": dict, "checksums": dict, "files": dict}
    if not isinstance(env, dict) or not all(isinstance(env.get(key), kind) for key, kind in kinds.items()):
        raise InputError(f"{path}: not of a reference, or of an older version; store the reference again")
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

"""Training processes of this machine that a killed Snakemake left at work: they still hold the locks of their runs."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from peft_tradeoffs.runs.lock import Owner, holds, machine, process_started, read_owner
from peft_tradeoffs.runs.snakemake_lock import LOCKS

LOCK = re.compile(r"\.(.+)\.lock\.\d+")  # of a run, beside its folder: see lock.py


@dataclass(frozen=True)
class Orphan:
    """A run and the process that trains it."""

    run: Path
    owner: Owner
    known: bool = True  # False: its process cannot be looked into, another user's say

    def __str__(self) -> str:
        return f"process {self.owner.pid} trains {self.run} (since {self.owner.since})"


def at_work(folder: Path) -> list[Orphan]:
    """Who trains a run below `folder`, or one that the Snakemake locked there was to make somewhere else.

    A lock file that names a process which does not hold it is none: anybody who can write to the folder can write one.
    """
    found = []
    for path in sorted(_run_locks(folder)):
        owner = read_owner(path)
        alive = owner and owner.machine == machine() and process_started(owner.pid) == owner.started
        held = alive and holds(owner.pid, path)
        if held is not False and alive:
            name = path.parent / LOCK.fullmatch(path.name)[1]
            name = name.relative_to(folder) if name.is_relative_to(folder) else name
            found.append(Orphan(name, owner, known=held is True))
    return found


def _run_locks(folder: Path) -> set[Path]:
    found = set()
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]  # .snakemake, .venv, .git
        found |= {Path(place, name) for name in names if LOCK.fullmatch(name)}
    for listing in (folder / LOCKS).glob("*.output.lock"):  # Snakemake's: one line per file that it was to make
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            run = folder / Path(line).parent
            if Path(line).name == "summary.json":
                found |= {path for path in run.parent.glob(f".{run.name}.lock.*") if LOCK.fullmatch(path.name)}
    return found

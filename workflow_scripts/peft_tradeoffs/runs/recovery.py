"""What a Snakemake that was killed leaves: its lock on a folder, and training processes that still hold runs."""

import os
import re
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from peft_tradeoffs.core import files
from peft_tradeoffs.runs.lock import Owner, holds, machine, process_started, read_owner

LOCKS = ".snakemake/locks"  # Snakemake reads *.lock there alone, and removes the folder when it unlocks
MODULE = re.compile(r"-[bBdEhiIOPqRsSuvVx]*m(.*)")  # python's option -m, behind others or not


def record() -> None:
    """This process is the Snakemake that has locked its working folder; nothing with --nolock.

    Snakemake's own lock does not name its owner. This file stands beside it, and goes when it goes.
    """
    folder, owner = Path(LOCKS), Owner.here()
    if any(folder.glob("*.lock")):
        files.write_json(folder / f"{owner.host}.{owner.pid}.json", asdict(owner))


def living(folder: Path) -> int | None:
    """The process id of a Snakemake that works in `folder` on this machine; not those that Snakemake starts itself."""
    for owner in _recorded(folder):
        if _lives(owner):
            return owner.pid
    for process in psutil.process_iter():
        try:
            alive = process.status() != psutil.STATUS_ZOMBIE
            if alive and is_snakemake(process.cmdline()) and Path(process.cwd()) == folder:
                return process.pid
        except psutil.Error:  # ended meanwhile, or somebody else's
            continue
    return None


def elsewhere(folder: Path) -> Owner | None:
    """The owner of the folder's lock if it was on another machine, where it may still run.

    One of this machine that has been started again since is gone.
    """
    boot = machine().partition(" ")[0]
    for owner in _recorded(folder):
        restarted = owner.host == socket.gethostname() and owner.machine.partition(" ")[0] != boot
        if owner.machine != machine() and not restarted:
            return owner
    return None


def is_snakemake(words: list[str]) -> bool:
    """Whether a command line is a call of Snakemake, and not one of those that run its jobs (--mode)."""
    if not words or "--mode" in words:
        return False
    if Path(words[0]).name == "snakemake":
        return True
    if not re.match(r"(python|pypy)[\d.]*$", Path(words[0]).name):
        return False
    rest = iter(words[1:])
    for word in rest:
        if found := MODULE.fullmatch(word):
            return (found[1] or next(rest, "")) == "snakemake"
        if word in ("-W", "-X"):
            next(rest, None)
        elif not word.startswith("-"):
            return Path(word).name == "snakemake" or word.endswith("snakemake/__main__.py")
        elif word.startswith("-c"):
            return False
    return False


def _lives(owner: Owner) -> bool:
    """Whether the process runs, on this machine."""
    return owner.machine == machine() and process_started(owner.pid) == owner.started


def _recorded(folder: Path) -> list[Owner]:
    owners = map(read_owner, (folder / LOCKS).glob("*.json"))
    return [owner for owner in owners if owner is not None]


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
        owner, lock = read_owner(path), LOCK.fullmatch(path.name)
        if owner is None or lock is None or not _lives(owner):
            continue
        held = holds(owner.pid, path)
        if held is not False:
            name = path.parent / lock[1]
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

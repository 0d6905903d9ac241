"""One writer per run: one process, on whatever machine; what a killed Snakemake leaves, its lock and its processes.

The lock of `seed0` is a file beside it, `.seed0.lock.N`, that only one process can create; N is one above the highest
there is, so the lock of a dead owner is taken over by whoever creates the next one first. The owner touches its file
every BEAT_S. It is dead

- on this machine, when its process (id and start time) is gone;
- elsewhere, when it has missed MISSED beats, or two and SLURM no longer runs its job. A machine that is only cut off
  from SLURM keeps beating, and so keeps its lock.

Ages are differences of times that the file system gave, so clocks of different machines do not matter. An owner that
was suspended for long finds its file gone and must not write any more.

A Snakemake that was killed leaves its own lock on the folder, and processes that still hold runs: both are found here.
"""

import contextlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from peft_tradeoffs.core import files, slurm
from peft_tradeoffs.core.errors import InputError, LockLost
from peft_tradeoffs.runs.status import now

BEAT_S = 10.0
MISSED = 6
POLL_S = 1.0  # between looks while waiting
RUNNING = "RUNNING,COMPLETING,SUSPENDED,STOPPED,SIGNALING,STAGE_OUT"  # states in which a job's processes may be there

LOCK = re.compile(r"\.(.+)\.lock\.\d+")  # of a run, beside its folder
LOCKS = ".snakemake/locks"  # Snakemake reads *.lock there alone, and removes the folder when it unlocks
MODULE = re.compile(r"-[bBdEhiIOPqRsSuvVx]*m(.*)")  # python's option -m, behind others or not


@dataclass(frozen=True)
class Owner:
    """Who holds a lock."""

    host: str
    machine: str  # boot and process namespace: within them a process id has one meaning
    pid: int
    started: int  # of the process, clock ticks after boot
    slurm_job_id: int | None
    since: str
    token: str

    @classmethod
    def here(cls) -> "Owner":
        """This process."""
        job = slurm.job()
        started = process_started(os.getpid()) or 0
        number = job["job_id"] if job else None
        return cls(socket.gethostname(), machine(), os.getpid(), started, number, now(), uuid.uuid4().hex)

    def __str__(self) -> str:
        job = f", SLURM job {self.slurm_job_id}" if self.slurm_job_id is not None else ""
        return f"process {self.pid} on {self.host}{job}, since {self.since}"


# By field: the types that it has in a lock file.
OWNER: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("host", "machine", "since", "token"), (str,)),
    **dict.fromkeys(("pid", "started"), (int,)),
    "slurm_job_id": (int, type(None)),
}


class RunLock:
    """The lock of one run."""

    def __init__(self, run: Path, beat: Callable[[float], None] | None = None) -> None:
        """`run` is its folder; `beat` is called with every beat, in a thread of its own.

        It is given the seconds for which the process stood still since the last one (SIGSTOP, a job that SLURM
        suspended); 0 where they are no more than a beat.
        """
        self._run, self._beat = run, beat
        self._prefix = f".{run.name}.lock."
        self._mine: Path | None = None
        self._descriptor: int | None = None  # of the lock's file, open as long as it is held: see `holds`
        self._token = ""
        self._lost = False
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self, wait_s: float = 0.0) -> bool:
        """Take the lock; wait up to `wait_s` for its owner to end, which is said once on stderr. Whether it waited.

        Raises InputError, naming the owner, if it still runs then.
        """
        self._run.parent.mkdir(parents=True, exist_ok=True)
        deadline, told = time.monotonic() + wait_s, False
        while True:
            owner = self._try()
            if owner is None:
                self._thread = threading.Thread(target=self._keep, name=f"lock of {self._run.name}", daemon=True)
                self._thread.start()
                return told
            if time.monotonic() >= deadline:
                raise InputError(
                    f"{self._run}: another process trains this run: {owner} (left by a Snakemake that was killed?); "
                    "wait for it or end it, then run again"
                )
            if not told:
                print(f"waits up to {wait_s:.0f} s for {self._run}: {owner} trains it", file=sys.stderr, flush=True)
                told = True
            time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))

    def check(self) -> None:
        """Raise LockLost if a beat found the lock taken over. Costs nothing."""
        if self._lost:
            raise LockLost(
                f"{self._run}: this process stood still for so long that another took the run over; it writes no more"
            )

    def confirm(self) -> None:
        """Look, and beat; raises LockLost if the lock was taken over. Call it before writing."""
        if self._mine is not None:
            self._touch()
        self.check()

    def release(self) -> None:
        """Give the lock back."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(BEAT_S)  # it may hang on a file server
            self._thread = None
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._mine is not None and not self._lost and _token(self._mine) == self._token:
            self._mine.unlink(missing_ok=True)
        self._mine = None

    def _try(self) -> Owner | str | None:
        """Take the lock and return None, or say who has it."""
        dead = {}
        found = self._found()
        for path in found.values():
            token, owner = _token(path), read_owner(path)
            if not self._is_dead(path, owner):
                return owner or "a process that has just begun"
            dead[path] = token
        mine = self._run.with_name(f"{self._prefix}{max(found, default=0) + 1}")
        here = Owner.here()
        try:
            descriptor = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return read_owner(mine) or "a process that has just begun"
        try:
            os.write(descriptor, json.dumps(asdict(here)).encode())
            os.fsync(descriptor)
        except OSError:
            os.close(descriptor)
            mine.unlink(missing_ok=True)
            raise
        # Who came late, to a lock taken over and given back meanwhile, meets a number lower or higher than its own.
        others = [path for path in self._found().values() if path != mine]
        if any(path not in dead or _token(path) != dead[path] for path in others):
            os.close(descriptor)
            mine.unlink(missing_ok=True)
            time.sleep(random.uniform(0.05, 0.5))
            return "a process that has just begun"
        for path in others:
            path.unlink(missing_ok=True)
        self._mine, self._descriptor, self._token = mine, descriptor, here.token
        return None

    def _found(self) -> dict[int, Path]:
        """The lock files there are, by number."""
        paths = {path.name.removeprefix(self._prefix): path for path in self._run.parent.glob(f"{self._prefix}*")}
        return {int(number): path for number, path in paths.items() if number.isdecimal()}

    def _is_dead(self, path: Path, owner: Owner | None) -> bool:
        if owner is not None and owner.machine == machine():
            return process_started(owner.pid) != owner.started and not _is_hidden(owner.pid)
        with contextlib.suppress(FileNotFoundError):
            touched = path.stat().st_mtime
            age_s = self._time() - touched
            if age_s < -BEAT_S:  # the server's clock was set back since
                return self._stands_still(path, touched)
            if age_s > MISSED * BEAT_S:
                return True
            job = owner.slurm_job_id if owner else None
            return age_s > 2 * BEAT_S and job is not None and job_is_running(job) is False
        return True  # released just now

    def _stands_still(self, path: Path, touched: float) -> bool:
        """Whether its owner lets MISSED beats pass, which takes so long, or gives it back."""
        deadline = time.monotonic() + MISSED * BEAT_S
        with contextlib.suppress(FileNotFoundError):
            while time.monotonic() < deadline:
                if path.stat().st_mtime != touched:
                    return False
                time.sleep(min(POLL_S, BEAT_S))
        return True

    def _time(self) -> float:
        """The file system's time, which is its server's."""
        probe = self._run.with_name(f".{self._run.name}.time.{uuid.uuid4().hex}")
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _keep(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(BEAT_S):
            late_s = time.monotonic() - began - BEAT_S
            with contextlib.suppress(OSError):  # a file server that is away; the next beat tells
                self._touch()
                if self._beat is not None and not self._lost:
                    self._beat(late_s if late_s > BEAT_S else 0.0)
            began = time.monotonic()

    def _touch(self) -> None:
        assert self._mine is not None
        if _token(self._mine) != self._token:
            self._lost = True
            return
        try:
            os.utime(self._mine)
        except FileNotFoundError:
            self._lost = True


def machine() -> str:
    """What processes must have in common for a process id to mean the same: the boot and the process namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode()}"


def process_started(pid: int) -> int | None:
    """When a process of this machine started, clock ticks after boot; None if there is none, or only its zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def holds(pid: int, path: Path) -> bool | None:
    """Whether a process of this machine has the lock file at `path` open, as its owner has; anybody can write one.

    None where the process cannot be looked into, as another user's.
    """
    try:
        lock = path.stat()
        descriptors = list(Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return False
    except OSError:
        return None
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # closed meanwhile
            if os.path.samestat(descriptor.stat(), lock):
                return True
    return False


def _is_hidden(pid: int) -> bool:
    """Whether there is such a process, owned by another user and hidden by hidepid."""
    if Path(f"/proc/{pid}").exists():
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        pass
    return False


def job_is_running(job: int) -> bool | None:
    """Whether SLURM still runs a job; None if it cannot be asked."""
    if shutil.which("squeue") is None:
        return None
    words = ["squeue", "--noheader", "--format=%A", f"--jobs={job}", f"--states={RUNNING}"]
    try:
        done = slurm.command(*words, timeout_s=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return False if "Invalid job id" in done.stderr else None
    return bool(done.stdout.strip())


def read_owner(path: Path) -> Owner | None:
    """Who a lock file names; None if it is gone or not written yet."""
    with contextlib.suppress(OSError, InputError):
        found = files.read_object(path, OWNER, "a lock", "")
        return Owner(**{key: found[key] for key in OWNER})
    return None


def _token(path: Path) -> str | None:
    owner = read_owner(path)
    return owner.token if owner else None


def record() -> None:
    """This process is the Snakemake that has locked its working folder; nothing with --nolock.

    Snakemake's own lock does not name its owner. This file stands beside it, and goes when it goes.
    """
    folder, owner = Path(LOCKS), Owner.here()
    if any(folder.glob("*.lock")):
        files.write_json(folder / f"{owner.host}.{owner.pid}.json", asdict(owner))


def living(folder: Path) -> int | None:
    """The process id of a Snakemake that works in `folder` on this machine; not those that Snakemake starts itself."""
    import psutil

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

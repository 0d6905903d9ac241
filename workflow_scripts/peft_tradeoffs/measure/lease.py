"""Which GPU of a machine each job takes, so that two never share one: Snakemake counts GPUs but does not assign them.

A job that finds all of them taken waits, its imports done, so that a GPU is idle for no job's start.

Not by the library filelock, whose locks (4.2) refuse a file of another user's in /tmp: here all users share one.
"""

import contextlib
import fcntl
import math
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peft_tradeoffs.core.errors import InputError

FOLDER = Path("/tmp")  # not TMPDIR, which users and jobs set to folders of their own
POLL_S = 0.1
TELL_S = 300.0  # between two lines that say that a job waits
IDLE_S = 600.0  # a job makes its CUDA context as soon as it has the lease


@dataclass(frozen=True)
class Lease:
    """A GPU that is one job's until its process ends, however it ends, or `descriptor` is closed."""

    index: int  # torch's
    descriptor: int  # of the locked file


def acquire(uuids: Sequence[str], folder: Path = FOLDER, in_use: Callable[[int], bool] | None = None) -> Lease:
    """Take the first GPU among `uuids` that no other job has; wait for one, and say so, if each has its job.

    The lease is a lock on one file per GPU in `folder`, which all users of the machine share, so that their jobs wait
    for each other. Nobody contends for it where SLURM gives each job its own GPU. Any user can also hold it over a GPU
    that they do not use: `in_use`, whether a process is on the GPU of an index, tells. Such a lease of another user's
    is passed over after `IDLE_S`, and said so; this user's jobs then keep apart by a file of their own.
    """
    told_at = -math.inf
    idle_since: dict[str, float] = {}
    while True:
        holders = []
        for index, uuid in enumerate(uuids):
            shared = folder / f"peft-tradeoffs-{uuid}.lock"
            own = folder / f"peft-tradeoffs-{uuid}.{os.geteuid()}.lock"
            descriptor, holder = _lock(shared)
            if descriptor is not None:
                if _is_free(own):
                    return Lease(index, descriptor)
                os.close(descriptor)
            elif in_use is not None and _is_another_users(shared) and not in_use(index):
                since = idle_since.setdefault(uuid, time.monotonic())
                if time.monotonic() - since >= IDLE_S and (passed := _lock(own, private=True)[0]) is not None:
                    print(
                        f"takes GPU {uuid}: another user's process {holder or 'unknown'} has held its lease for "
                        f"{IDLE_S:.0f} s without using it",
                        flush=True,
                    )
                    return Lease(index, passed)
            else:
                idle_since.pop(uuid, None)
            holders.append(f"{uuid} by process {holder or 'unknown'}")
        if time.monotonic() - told_at >= TELL_S:
            print(f"waits for a GPU: taken are {', '.join(holders)}", flush=True)
            told_at = time.monotonic()
        time.sleep(POLL_S)


def _is_free(own: Path) -> bool:
    """Whether no job of this user's has the GPU by the file of its own, in place of a lease that was passed over."""
    try:
        if own.lstat().st_uid != os.geteuid():  # another user made it, who could so keep this one off for ever
            return True
    except FileNotFoundError:
        return True
    descriptor, _ = _lock(own, private=True)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is not None


def _is_another_users(path: Path) -> bool:
    """Whether the kernel says that a process of another user holds the lock on the file."""
    try:
        inode = path.stat().st_ino
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].endswith(f":{inode}"):
                return Path("/proc", fields[4]).stat().st_uid != os.geteuid()
    except (OSError, IndexError):  # ended meanwhile, or not shown here
        pass
    return False


def _lock(path: Path, private: bool = False) -> tuple[int | None, str]:
    """The locked file's descriptor, this process's id written in it; or None and what its holder wrote."""
    while True:
        descriptor = _open(path, private)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace")
            os.close(descriptor)
            return None, holder if holder.isdecimal() else ""
        if _is_at(descriptor, path):
            with contextlib.suppress(OSError):  # a full disk: the lock holds without the id
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            return descriptor, ""
        os.close(descriptor)  # somebody tidied the file away between opening and locking


def _open(path: Path, private: bool = False) -> int:
    """A descriptor of the file, made if it is not there; raises InputError if it is no file.

    Every user may open it, or, where it is `private`, this one alone, whose it must be.

    An existing file is opened without O_CREAT, which Linux refuses for another user's file (fs.protected_regular).
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            try:
                descriptor = os.open(path, flags)
            except FileNotFoundError:
                descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
                os.fchmod(descriptor, 0o600 if private else 0o666)  # past the umask
        except FileExistsError:
            continue  # another job made it meanwhile
        except OSError as error:
            raise InputError(
                f"{path}: the GPU's lease cannot be opened ({error.strerror}); remove it or make room"
            ) from error
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1 and (not private or status.st_uid == os.geteuid()):
            return descriptor
        os.close(descriptor)
        raise InputError(f"{path}: not a plain file, as a GPU's lease must be: remove it")


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at the path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False

"""Which GPU of a machine a job takes, so that two never share one: Snakemake counts GPUs but does not assign them.

A job that finds all of them taken waits, its imports done, so that a GPU is idle for no job's start.
"""

import contextlib
import fcntl
import math
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peft_tradeoffs.errors import InputError

FOLDER = Path("/tmp")  # not TMPDIR, which users and jobs set to folders of their own
POLL_S = 0.1
TELL_S = 300.0  # between two lines that say that a job waits


@dataclass(frozen=True)
class Lease:
    """A GPU that is one job's until its process ends, however it ends, or `descriptor` is closed."""

    index: int  # torch's
    descriptor: int  # of the locked file


def acquire(uuids: Sequence[str], folder: Path = FOLDER) -> Lease:
    """Take the first GPU among `uuids` that no other job has; wait for one, and say so, if each has its job.

    The lease is a lock on a file a GPU in `folder`. Nobody contends for it where SLURM gives each job its own GPU.
    """
    told_at = -math.inf
    while True:
        holders = []
        for index, uuid in enumerate(uuids):
            descriptor, holder = _lock(folder / f"peft-tradeoffs-{uuid}.lock")
            if descriptor is not None:
                return Lease(index, descriptor)
            holders.append(f"{uuid} by process {holder or 'unknown'}")
        if time.monotonic() - told_at >= TELL_S:
            print(f"waits for a GPU: taken are {', '.join(holders)}", flush=True)
            told_at = time.monotonic()
        time.sleep(POLL_S)


def _lock(path: Path) -> tuple[int | None, str]:
    """The locked file's descriptor, this process's id written in it; or None and what its holder wrote."""
    while True:
        descriptor = _open(path)
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


def _open(path: Path) -> int:
    """A descriptor of the file, which every user may open, made if it is not there; raises InputError if it is no file.

    An existing file is opened without O_CREAT, which Linux refuses for another user's file (fs.protected_regular).
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            try:
                descriptor = os.open(path, flags)
            except FileNotFoundError:
                descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
                os.fchmod(descriptor, 0o666)  # past the umask
        except FileExistsError:
            continue  # another job made it meanwhile
        except OSError as error:
            raise InputError(
                f"{path}: the GPU's lease cannot be opened ({error.strerror}); remove it or make room"
            ) from error
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
            return descriptor
        os.close(descriptor)
        raise InputError(f"{path}: not a plain file, as a GPU's lease must be: remove it")


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at the path."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False

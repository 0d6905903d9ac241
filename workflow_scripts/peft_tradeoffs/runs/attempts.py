"""The attempts at a run, kept beside its state, and its status while one is under way."""

import contextlib
import datetime
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peft_tradeoffs.core import files, slurm
from peft_tradeoffs.core.errors import InputError, LockLost
from peft_tradeoffs.runs.interruption import Interrupted

NO_WORD = "ended without giving a reason"


class Attempts:
    """`attempts.json` and `status.json` in a run's state directory. Attempts of another fingerprint are forgotten.

    An attempt: started_at and ended_at (for readers: the machine's clock when it began, and elapsed_s later), elapsed_s
    (of the monotonic clock, which nobody sets; None: it left no sign), host, slurm, queued_s (of its SLURM job),
    gpu_uuid, gpu_name, waited_s (for the GPU), first_step (from 1; where it began), last_step (None: it did none),
    stood_still_s (suspended, after its first step) and reason, why it ended. One that left no reason gets it from the
    next: NO_WORD, with what its last sign of life said. Both files end in the SHA-256 of what they say; one that says
    something else is damaged.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        confirm: Callable[[], None] = lambda: None,
        queued: slurm.Queued | None = None,
    ) -> None:
        """`confirm` is called before attempts.json is written; it raises LockLost if the run is another's by then.

        `queued` is that of the process, which all of its runs share.
        """
        self._path, self._status = folder / "attempts.json", folder / "status.json"
        self._fingerprint, self._confirm = fingerprint, confirm
        self._queued = queued or slurm.Queued()
        self.damaged = False  # attempts.json, when this process began
        self._began_s = 0.0  # time.monotonic() then
        self._all: list[dict[str, Any]] = []
        self._writing = threading.Lock()  # status.json: the heartbeat's thread writes it too
        self._step: int | None = None
        self._total: int | None = None
        self._waits_since: float | None = None  # s
        self._first: tuple[float, int] | None = None  # s and step when the first step of this attempt was done

    def begin(self) -> None:
        """A new attempt starts, if this process has not started one already."""
        if self._all:
            return
        self._began_s = time.monotonic()
        earlier = self._read()
        if earlier and earlier[-1]["reason"] is None:
            earlier[-1] |= {"reason": NO_WORD, **self._last_sign(earlier[-1])}
        where = {"host": socket.gethostname(), "slurm": slurm.job(), "queued_s": self._queued.seconds()}
        where |= {"gpu_uuid": None, "gpu_name": None, "waited_s": 0.0}
        steps = {"first_step": None, "last_step": None, "stood_still_s": 0.0}
        when = {"started_at": now(), "ended_at": None, "elapsed_s": None}
        self._all = [*earlier, {**when, **where, **steps, "reason": None}]
        self._write()
        self.write_status()

    def beat(self, stood_still_s: float) -> None:
        """Write status.json as of now if the attempt is under way; count the seconds if it was at its steps."""
        with self._writing:
            if self._running():
                if self._first is not None:  # before that, an import from a slow disk looks the same
                    self._all[-1]["stood_still_s"] += stood_still_s
                self._write_status()

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Begin an attempt, or go on with it, and note what ends it early; nothing if the run is another's by then."""
        try:
            self.begin()
            yield
        except LockLost:
            raise
        except Interrupted as end:
            self.end(f"signal {end.signal_name}")
            raise Interrupted(end.signal_name, f"{end.where} of {self._path.parents[1]}") from None
        except BaseException:
            self.end("error")
            raise

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The process waits for a GPU; the time is this attempt's waited_s, also if it ends meanwhile."""
        self._waits_since = time.monotonic()
        try:
            yield
        finally:
            waited_s, self._waits_since = self._waited_s(), None
            self._all[-1]["waited_s"] = waited_s

    def on(self, gpu_uuid: str | None, gpu_name: str | None) -> None:
        """The GPU that this attempt has."""
        self._all[-1] |= {"gpu_uuid": gpu_uuid, "gpu_name": gpu_name}
        self._write()

    def start_at(self, done: int) -> None:
        """Training begins, `done` steps having been done by earlier attempts."""
        self._all[-1]["first_step"] = done + 1
        self._write()

    def reached(self, step: int, total: int) -> None:
        """`step` of `total` is done; nothing is written yet."""
        if self._first is None:
            self._first = (time.monotonic(), step)
        self._step, self._total = step, total

    def end(self, reason: str) -> list[dict[str, Any]]:
        """This attempt ends; all attempts at the run."""
        if self._all and self._all[-1]["reason"] is None:
            self._all[-1] |= {
                **self._ended(self._all[-1], self._elapsed_s()),
                "last_step": self._step,
                "reason": reason,
            }
            self._write()
            self.write_status()
        return self._all

    def write_status(self) -> None:
        """Write status.json as of now, if this process has begun an attempt."""
        with self._writing:
            if self._all:
                self._write_status()

    def status(self) -> dict[str, Any]:
        """How far this attempt is."""
        running, job = self._running(), slurm.job()
        first = self._all[-1]["first_step"] if self._all else None
        return {
            "status": "running" if running else "ended",
            "step": self._step or (None if first is None else first - 1),
            "total": self._total,
            "eta_s": self._eta_s() if running else None,
            "waited_s": self._waited_s() if self._all else 0.0,
            "stood_still_s": self._all[-1]["stood_still_s"] if self._all else 0.0,
            "started_at": self._all[-1]["started_at"] if self._all else None,
            "elapsed_s": self._elapsed_s() if self._all else 0.0,
            "updated_at": now(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "slurm_job_id": job["job_id"] if job else None,
        }

    def _running(self) -> bool:
        return bool(self._all) and self._all[-1]["reason"] is None

    def _write_status(self) -> None:
        """A reader never meets half of it; whether the disk has it at once does not matter."""
        temporary = self._status.with_name(f".{self._status.name}.tmp")
        temporary.write_text(json.dumps(files.signed(self.status()), indent=2) + "\n", encoding="utf-8")
        temporary.replace(self._status)

    def _eta_s(self) -> float | None:
        if self._first is None or self._step is None or self._total is None or self._step == self._first[1]:
            return None
        began, step = self._first
        return (time.monotonic() - began) / (self._step - step) * (self._total - self._step)

    def _waited_s(self) -> float:
        since = self._waits_since  # another thread may end the wait
        waited_s: float = self._all[-1]["waited_s"]
        return waited_s + (0.0 if since is None else time.monotonic() - since)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    @staticmethod
    def _ended(attempt: dict[str, Any], elapsed_s: float) -> dict[str, Any]:
        began = datetime.datetime.fromisoformat(attempt["started_at"])
        ended = began + datetime.timedelta(seconds=elapsed_s)
        return {"ended_at": ended.isoformat(timespec="milliseconds"), "elapsed_s": elapsed_s}

    def _read(self) -> list[dict[str, Any]]:
        try:
            kept = files.read_signed(self._path)
        except FileNotFoundError:
            return []
        except InputError:
            if self._is_of_another_version():
                return []
            self.damaged = True
            print(
                f"{self._path}: not what an earlier attempt wrote (a disk that failed?), so this attempt counts as the "
                "first",
                file=sys.stderr,
                flush=True,
            )
            return []
        return kept["attempts"] if kept["fingerprint"] == self._fingerprint else []

    def _is_of_another_version(self) -> bool:
        """Whether attempts.json is whole, of a version that wrote no SHA-256 and so of another fingerprint."""
        with contextlib.suppress(OSError, ValueError, RecursionError, InputError):
            found = files.read_json(self._path)
            keys = {"fingerprint", "attempts"}
            return isinstance(found, dict) and found.keys() == keys and found["fingerprint"] != self._fingerprint
        return False

    def _last_sign(self, attempt: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError, InputError):
            status = files.read_signed(self._status)
            if status["started_at"] == attempt["started_at"]:
                did_one = (status["step"] or 0) >= (attempt["first_step"] or 1)
                return {
                    **self._ended(attempt, status["elapsed_s"]),
                    "waited_s": max(attempt["waited_s"], status["waited_s"]),
                    "stood_still_s": status["stood_still_s"],
                    "last_step": status["step"] if did_one else None,
                }
        return {}

    def _write(self) -> None:
        self._confirm()
        files.write_json(self._path, files.signed({"fingerprint": self._fingerprint, "attempts": self._all}))


def mixed_gpus(attempts: list[dict[str, Any]]) -> bool:
    """Whether the steps that made the result ran on GPUs of different models.

    An attempt whose steps were all done again, from an earlier state, has no part in it.
    """
    names, begin = set(), None
    for attempt in reversed(attempts):
        first = attempt["first_step"]
        if attempt["last_step"] is not None and first is not None and (begin is None or first < begin):
            names.add(attempt["gpu_name"])
            begin = first
    return len(names) > 1


def wall_s(attempts: list[dict[str, Any]]) -> float:
    """Seconds from the start to the end of each attempt (or its last sign of life), those for a GPU left out."""
    timed = [attempt for attempt in attempts if attempt["elapsed_s"] is not None]
    seconds: float = sum(max(0.0, attempt["elapsed_s"] - attempt["waited_s"]) for attempt in timed)
    return seconds


def stood_still_s(attempts: list[dict[str, Any]]) -> float:
    """Seconds for which the attempts were suspended while they trained."""
    seconds: float = sum(attempt["stood_still_s"] for attempt in attempts)
    return seconds


def queue_s(attempts: list[dict[str, Any]]) -> float | None:
    """Seconds that the attempts' SLURM jobs were queued; None if one of them was in none, or did not say."""
    waits = [attempt["queued_s"] for attempt in attempts]
    return None if None in waits else sum(waits)


def now() -> str:
    """UTC, ISO 8601, with milliseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")

"""Whether a job has its GPU to itself, and under which process id the driver knows it."""

import os
import time
from pathlib import Path
from typing import Any

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.measure.gpu import Gpu, Unavailable

INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, linux/proc_ns.h
HIDDEN = "NVML does not list this job's own process, so it may hide others too"


class Isolation:
    """The processes of others on a GPU over a job's life. Made before the job has a CUDA context.

    A meter of the training phase too: it looks at both ends of a stretch, so that no state is saved of a stretch that
    another process has disturbed.
    """

    def __init__(self, gpu: Gpu | None, reason: str | None, allow_shared: bool, patience_s: float = 0.0) -> None:
        """`reason`: why there is no `gpu`. Raises InputError if another process is there and that is not allowed.

        `patience_s`: how long that may be a process that is leaving.
        """
        self._gpu = gpu
        self._reason = reason
        self._allow_shared = allow_shared
        self._others: dict[int, dict[str, Any]] = {}
        self._own: set[int] | None = None
        self._before: set[int] = set()
        ends = time.monotonic() + patience_s
        while True:
            try:
                self.check()
                break
            except InputError:
                if time.monotonic() >= ends:
                    raise
                time.sleep(0.1)

    def context_made(self) -> None:
        """Learn which process id is this job's: call it once, as soon as the job has its CUDA context."""
        if self._gpu is not None and self._reason is None:
            try:
                self._own = new_pids(self._gpu, self._before)
            except Unavailable as error:
                self._reason = str(error)
        self.check()

    def begin(self) -> None:
        """Forget whom earlier runs of this job met, and check."""
        self._others = {}
        self.check()

    def start(self) -> None:
        """Check."""
        self.check()

    def stop(self) -> None:
        """Check."""
        self.check()

    def totals(self) -> dict[str, Any]:
        """Whom this run has met, for its state."""
        return {"others": self.others()}

    def restore(self, totals: dict[str, Any]) -> None:
        """Add the `totals` of the attempts before this one."""
        self._others |= {other["pid"]: other for other in totals["others"]}

    def check(self) -> None:
        """Look who is on the GPU now; raises InputError for another process, unless that is allowed."""
        if self._gpu is None or self._reason is not None:
            return
        try:
            found = check_alone(self._gpu, self._own or set(), self._allow_shared)
        except Unavailable as error:
            self._reason = str(error)
            return
        if self._own is None:
            self._before = {other["pid"] for other in found}
        self._others |= {other["pid"]: other for other in found}

    def others(self) -> list[dict[str, Any]]:
        """Process id, MiB and command of every other process that a check has seen, for env.json."""
        return list(self._others.values())

    def shared(self) -> tuple[bool | None, str | None]:
        """Whether a check has seen another process; None and why where NVML cannot tell."""
        if self._others:
            return True, None
        reason = self._reason or (HIDDEN if self._own == set() else None)
        return (False, None) if reason is None else (None, reason)

    def process_MiB(self) -> tuple[float | None, str | None]:
        """Memory that the driver counts for this job now; or None and why."""
        if self._gpu is None or self._reason is not None:
            return None, self._reason
        if not self._own:
            return None, "NVML does not list this process (a container's process ids?)"
        return self._gpu.process_MiB(*self._own)


def new_pids(gpu: Gpu, before: set[int]) -> set[int]:
    """This process's id as the driver gives it, from the ids listed before its CUDA context and those listed now.

    Inside a container the driver may list a process by its id outside. The only new one is then ours; of several,
    none is claimed. Raises Unavailable if the driver does not list processes.
    """
    new = {pid for pid, _ in gpu.processes()} - before
    if os.getpid() in new:
        return {os.getpid()}
    return new if len(new) == 1 else set()


def check_alone(gpu: Gpu, own_pids: set[int], allow_shared: bool) -> list[dict[str, Any]]:
    """Process id, MiB and command of the processes on a GPU that are not ours; without `allow_shared` an InputError.

    Raises Unavailable if the driver does not list processes.
    """
    others = [
        {"pid": pid, "MiB": size, "command": _command(pid)} for pid, size in gpu.processes() if pid not in own_pids
    ]
    if others and not allow_shared:
        raise InputError(
            f"config key training.allow_shared_gpu: false, but another process is on GPU {gpu.uuid}: "
            f"{', '.join(map(_named, others))}. End it, choose another GPU with CUDA_VISIBLE_DEVICES, "
            "or set training.allow_shared_gpu: true (time, power and memory are then not this run's alone)"
        )
    return others


def _named(other: dict[str, Any]) -> str:
    size = "memory unknown" if other["MiB"] is None else f"{other['MiB']:.0f} MiB"
    return f"pid {other['pid']} ({', '.join(filter(None, (other['command'], size)))})"


def _command(pid: int) -> str | None:
    """A process's command name; None inside a container, where the number may be another process's."""
    try:
        if str(Path("/proc/self/ns/pid").readlink()) != INITIAL_PID_NAMESPACE:
            return None
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None

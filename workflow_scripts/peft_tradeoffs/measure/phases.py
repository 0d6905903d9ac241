"""Measures memory and time by phase. Knows neither methods nor training."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from peft_tradeoffs.core.quantities import PHASES, Missing

MIB = 2**20
NO_GPU = Missing("the run was on a CPU")
DROPPED = 20  # steps that percentiles leave out: caches and clocks settle
PREPARE = "prepare"  # optimizer, data and graphs: their memory is training's, their time and energy are not
MASK = "mask"  # choosing the form of the attention mask: no other phase's time or memory
FORGETTING = "forgetting"  # the loss on a general text: no other phase's time, memory or energy
STATE = "state"  # saving and loading what a resume needs: no other phase's time or memory
GPU_KEYS = ("peak_allocated_MiB", "peak_reserved_MiB", "process_MiB")
PEAKS = (*GPU_KEYS, "peak_rss_MiB")  # of each phase


class Meter(Protocol):
    """Runs during one phase; restored with what earlier attempts at the run measured."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def totals(self) -> dict[str, Any]: ...
    def restore(self, totals: dict[str, Any]) -> None: ...


Meters = Mapping[str, Mapping[str, Meter]]  # by phase, by name


class StepTimer:
    """Seconds of each step: CUDA events on a GPU, read after one synchronise; the clock on a CPU."""

    def __init__(self, device: torch.device, seconds: list[float]) -> None:
        """`seconds`: the steps of earlier attempts."""
        self._cuda = device.type == "cuda"
        self._seconds = list(seconds)
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._start: Any = None

    def start(self) -> None:
        self._start = self._now()

    def stop(self) -> None:
        end = self._now()
        if self._cuda:
            self._events.append((self._start, end))
        else:
            self._seconds.append(end - self._start)

    def seconds(self) -> list[float]:
        """Seconds of every step so far, in order."""
        if self._events:
            torch.cuda.synchronize()
            self._seconds += [start.elapsed_time(end) / 1000 for start, end in self._events]
            self._events.clear()
        return self._seconds

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Phases:
    """Seconds and peak memory of each phase of a run, peaks reset between them.

    A phase may come several times (train, evaluate, train …): seconds add up, the highest peak counts.
    """

    def __init__(
        self,
        device: torch.device,
        process_MiB: Callable[[], float | Missing] | None = None,
        meters: Meters | None = None,
    ) -> None:
        """`process_MiB`: what the driver counts for this process."""
        self._device, self._process_MiB, self._meters = device, process_MiB, meters or {}
        self.current: str | None = None
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, float] = {}  # MiB by summary key
        self._unknown: dict[str, Missing] = {}  # by name
        self._began = 0.0

    def switch(self, phase: str | None) -> None:
        """End the current phase and start `phase`."""
        self._synchronize()
        if self.current is not None:
            self._end(self.current)
        self.current = phase
        if phase is None:
            return
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # blocks that the last phase left reserved
            torch.cuda.reset_peak_memory_stats(self._device)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, proc(5)
        except OSError:
            self._unknown["peak_rss_MiB"] = Missing("this system does not let a process reset its peak (clear_refs)")
        self._began = time.perf_counter()
        for meter in self._meters.get(phase, {}).values():
            meter.start()

    def totals(self) -> dict[str, Any]:
        """What has been measured so far, as plain values."""
        meters = {name: meter.totals() for name, meter in self._by_name().items()}
        return {"seconds": dict(self.seconds), "peaks": dict(self.peaks), "meters": meters}

    def restore(self, totals: dict[str, Any]) -> None:
        """Add what earlier attempts at the run measured; before the phases that add to it."""
        for phase, seconds in totals["seconds"].items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds
        for key, value in totals["peaks"].items():
            self._keep(key, value)
        meters = self._by_name()
        for name, values in totals["meters"].items():
            meters[name].restore(values)

    def summary(self) -> dict[str, float | Missing]:
        """MiB by summary key."""
        names = [(f"{phase}_{name}", name) for phase in PHASES for name in PEAKS]
        return {key: self.peaks[key] if key in self.peaks else self._missing(name) for key, name in names}

    def _by_name(self) -> dict[str, Meter]:
        return {name: meter for meters in self._meters.values() for name, meter in meters.items()}

    def _missing(self, name: str) -> Missing:
        if name in GPU_KEYS and self._device.type == "cpu":
            return NO_GPU
        return self._unknown.get(name, Missing("not reached"))

    def _end(self, phase: str) -> None:
        memory = "train" if phase == PREPARE else phase
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - self._began
        for meter in self._meters.get(phase, {}).values():
            meter.stop()
        if "peak_rss_MiB" not in self._unknown:
            rss = status_MiB("VmHWM")
            if rss is None:
                self._unknown["peak_rss_MiB"] = Missing("not listed in /proc/self/status")
            else:
                self._keep(f"{memory}_peak_rss_MiB", rss)
        if self._device.type == "cuda":
            self._keep(f"{memory}_peak_allocated_MiB", torch.cuda.max_memory_allocated(self._device) / MIB)
            self._keep(f"{memory}_peak_reserved_MiB", torch.cuda.max_memory_reserved(self._device) / MIB)
            process = self._process_MiB() if self._process_MiB else Missing("not asked for")
            if isinstance(process, Missing):
                self._unknown["process_MiB"] = process
            else:
                self._keep(f"{memory}_process_MiB", process)

    def _keep(self, key: str, value: float) -> None:
        self.peaks[key] = max(self.peaks.get(key, 0.0), value)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def step_percentiles(seconds: list[float], prefix: str = "step", dropped: int = DROPPED) -> dict[str, float | Missing]:
    """Median, 95th and 99th percentile of a step in ms without the first `dropped`; missing for too few."""
    keys = {f"{prefix}_p{q}_ms": q for q in (50, 95, 99)}
    if len(seconds) < 2 * dropped:
        reason = f"{len(seconds)} steps: percentiles take {2 * dropped}, of which the first {dropped} are dropped"
        return dict.fromkeys(keys, Missing(reason))
    return {key: float(np.percentile(seconds[dropped:], q)) * 1000 for key, q in keys.items()}


def status_MiB(key: str) -> float | None:
    """A size of this process from /proc/self/status (which counts in KiB), or None without one."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:")), None)


_IMPORTED_S = time.monotonic()


def process_age_s() -> float:
    """Seconds since the process started; where the system does not tell, since this module was imported.

    psutil's create_time is of the wall clock, which may have been set since.
    """
    imported_s = time.monotonic() - _IMPORTED_S
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # after boot, as CLOCK_BOOTTIME counts
        return max(imported_s, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)
    except (OSError, ValueError, IndexError, AttributeError):
        return imported_s


def dense_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """What holds the tensor's bytes; a sparse tensor, as some adapters have, has no storage of its own."""
    tensor = tensor.detach()
    match tensor.layout:
        case torch.sparse_coo:
            return [tensor._indices(), tensor._values()]  # noqa: SLF001
        case torch.sparse_csr | torch.sparse_bsr:
            return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
        case torch.sparse_csc | torch.sparse_bsc:
            return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor]

"""Takes memory and time. Knows neither methods nor training."""

import os
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

MIB = 2**20
NO_GPU = "the run was on a CPU"


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
            return perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class PeakMemory:
    """Peak memory over the stretches between `start` and `stop`; what lies outside them does not count."""

    def __init__(self, device: torch.device, peaks: dict[str, float]) -> None:
        """`peaks`: MiB by summary key, of earlier attempts."""
        self._device = device
        self._peaks = dict(peaks)
        self._reasons: dict[str, str] = {}
        self.rss_before_MiB = status_MiB("VmRSS")

    def start(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # blocks that loading or evaluation left reserved
            torch.cuda.reset_peak_memory_stats(self._device)
        try:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, proc(5)
        except OSError:
            self._reasons["peak_rss_MiB"] = "this system does not let a process reset its peak (clear_refs)"

    def stop(self) -> None:
        if "peak_rss_MiB" not in self._reasons:
            self._keep("peak_rss_MiB", status_MiB("VmHWM"))
        if self._device.type == "cuda":
            self._keep("gpu_peak_allocated_MiB", torch.cuda.max_memory_allocated(self._device) / MIB)
            self._keep("gpu_peak_reserved_MiB", torch.cuda.max_memory_reserved(self._device) / MIB)
            self._keep("gpu_process_MiB", self._process_MiB())

    def peaks(self) -> dict[str, float]:
        """MiB by summary key, of what could be measured."""
        return dict(self._peaks)

    def summary(self) -> tuple[dict[str, float | None], dict[str, str]]:
        """MiB by summary key, None where not measured, and why."""
        keys = ("peak_rss_MiB", "gpu_peak_allocated_MiB", "gpu_peak_reserved_MiB", "gpu_process_MiB")
        reasons = dict(self._reasons)
        if self._device.type == "cpu":
            reasons.update(dict.fromkeys(keys[1:], NO_GPU))
        return {key: None if key in reasons else self._peaks[key] for key in keys}, reasons

    def _keep(self, key: str, value: float | None) -> None:
        if value is not None:
            self._peaks[key] = max(self._peaks.get(key, 0.0), value)
        elif key not in self._reasons:
            self._reasons[key] = "not listed in /proc/self/status"

    def _process_MiB(self) -> float | None:
        """Memory that the driver counts for this process on the device, found by its UUID."""
        import pynvml

        try:
            pynvml.nvmlInit()
            uuid = torch.cuda.get_device_properties(self._device).uuid
            handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except pynvml.NVMLError as error:
            self._reasons["gpu_process_MiB"] = f"NVML: {error}"
            return None
        for process in processes:
            if process.pid == os.getpid() and process.usedGpuMemory is not None:
                return process.usedGpuMemory / MIB
        self._reasons["gpu_process_MiB"] = "NVML does not list this process (a container's process ids?)"
        return None


def step_summary(seconds: list[float], samples: int, tokens: int) -> dict[str, float]:
    """Training time, median and 95th percentile of a step, and rates over step time alone.

    `samples` and `tokens` are those of the steps in `seconds`; padding is not counted.
    """
    total = sum(seconds)
    return {
        "train_s": total,
        "step_p50_ms": float(np.percentile(seconds, 50)) * 1000,
        "step_p95_ms": float(np.percentile(seconds, 95)) * 1000,
        "samples_per_s": samples / total,
        "tokens_per_s": tokens / total,
    }


def status_MiB(key: str) -> float | None:
    """A size of this process from /proc/self/status (which counts in KiB), or None without one."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:")), None)

"""Energy and power of a GPU from its energy counter. Cheap to import."""

from time import perf_counter
from typing import Any

from peft_tradeoffs.measure.gpu import Gpu, Unavailable, machine_gpus

NO_GPU = "no GPU: the processor's energy is not measured"
SHORT_S = 30.0  # a shorter window is marked: the counter moves every 0.1 s and power takes seconds to settle
STILL_S = 1.0  # a counter that moves every 0.1 s and stands still for so long does not work
IDLE_S = 1.0  # least time over which idle power is taken
KEYS = ("energy_J", "energy_J_per_sample", "mean_power_W", "energy_window_s", "energy_window_short")


class EnergyMeter:
    """Energy of the stretches between `start` and `stop`, over every attempt of a run; what lies outside is left out.

    The caller has synchronised the device at both ends. A stretch that an exception leaves open does not count.
    """

    def __init__(self, gpu: Gpu | None, reason: str | None = None) -> None:
        """`reason`: why there is no `gpu`."""
        self._gpu = gpu
        self._no_gpu = reason or NO_GPU
        self._energy_J = 0.0
        self._window_s = 0.0
        self._reason: str | None = None
        self._start: tuple[float, float] | None = None  # J, s

    def start(self) -> None:
        """Begin a stretch of training."""
        self._start = self._read()

    def stop(self) -> None:
        """End it. Without a counter nothing is added, and the energy of the whole run is unknown from then on."""
        start, end, self._start = self._start, self._read(), None
        if start is None or end is None:
            return
        energy_J, seconds = (after - before for after, before in zip(end, start, strict=True))
        if energy_J < 0:
            self._fail("the energy counter went back during training (was the driver loaded again?)")
            return
        if energy_J == 0 and seconds >= STILL_S:
            self._fail(f"the energy counter stood still during {seconds:.1f} s of training")
        self._energy_J += energy_J
        self._window_s += seconds

    def totals(self) -> dict[str, Any]:
        """J and seconds of the closed stretches so far and why they are not the whole, for the run's state."""
        return {"energy_J": self._energy_J, "energy_window_s": self._window_s, "energy_reason": self._reason}

    def restore(self, totals: dict[str, Any]) -> None:
        """Add the `totals` of the attempts before this one."""
        self._energy_J += totals["energy_J"]
        self._window_s += totals["energy_window_s"]
        if totals["energy_reason"] is not None:
            self._fail(totals["energy_reason"])

    def summary(
        self, samples: int, idle_power_W: float | None = None, idle_reason: str | None = None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The summary's energy keys, None where not measured, and why.

        `samples` were trained on in the stretches. `idle_power_W`, `idle_reason`: what IdlePower gave.
        """
        reason = self._reason
        if reason is None and self._energy_J == 0:
            reason = self._no_gpu if self._gpu is None else self._still()
        values: dict[str, Any] = dict.fromkeys(KEYS)
        reasons = dict.fromkeys(KEYS, reason) if reason else {}
        if reason is None:
            values |= {
                "energy_J": self._energy_J,
                "energy_J_per_sample": self._energy_J / samples if samples else None,
                "mean_power_W": self._energy_J / self._window_s,
                "energy_window_s": self._window_s,
                "energy_window_short": self._window_s < SHORT_S,
            }
            if not samples:
                reasons["energy_J_per_sample"] = "no sample was trained on"
        values["idle_power_W"] = idle_power_W
        if idle_power_W is None:
            reasons["idle_power_W"] = idle_reason or (self._no_gpu if self._gpu is None else "not taken")
        return values, reasons

    def _read(self) -> tuple[float, float] | None:
        """J and s now; None, the reason kept, if they cannot be read."""
        energy_J, reason = (None, self._no_gpu) if self._gpu is None else self._gpu.energy_J()
        if energy_J is None:
            self._fail(str(reason))
            return None
        return energy_J, perf_counter()

    def _fail(self, reason: str) -> None:
        """Keep the first reason; a part of the run's energy is never given as the whole."""
        if self._reason is None:
            self._reason = f"measured in a part of the run only: {reason}" if self._energy_J else reason

    def _still(self) -> str:
        if self._window_s == 0:
            return "no stretch of training was measured"
        return f"the energy counter, which moves every 0.1 s, did not move during {self._window_s:.2f} s of training"


class IdlePower:
    """Power of a GPU before a job uses it: the energy counter at the process's start and before its CUDA context.

    At the start nothing can be known of CUDA's devices without importing torch, so every GPU is read.
    """

    def __init__(self) -> None:
        """First reading."""
        self._first: dict[str, tuple[float, float, str | None]] = {}  # by UUID: J, s, why it was not idle
        self._reason = "the GPU could not be read at the process's start"
        try:
            gpus = machine_gpus()
        except Unavailable as error:
            gpus, self._reason = [], str(error)
        for gpu in gpus:
            energy_J, _ = gpu.energy_J()
            if energy_J is not None:
                self._first[gpu.uuid] = (energy_J, perf_counter(), _busy(gpu))

    def finish(self, gpu: Gpu) -> tuple[float | None, str | None]:
        """Second reading: mean W since the first, or None and why. Call it before the CUDA context is made."""
        energy_J, reason = gpu.energy_J()
        if energy_J is None:
            return None, reason
        if gpu.uuid not in self._first:
            return None, self._reason
        first_J, first_s, busy = self._first[gpu.uuid]
        seconds = perf_counter() - first_s
        busy = busy or _busy(gpu)
        if busy is not None:
            return None, busy
        if seconds < IDLE_S:
            return None, f"the imports took {seconds:.2f} s; idle power needs {IDLE_S:.0f} s"
        if energy_J <= first_J:
            return None, f"the energy counter did not move during {seconds:.1f} s"
        return (energy_J - first_J) / seconds, None


def _busy(gpu: Gpu) -> str | None:
    """Why the GPU is not known to be idle; None if no process is on it."""
    try:
        return "another process was on the GPU" if gpu.processes() else None
    except Unavailable as error:
        return f"whether the GPU was idle is not known: {error}"

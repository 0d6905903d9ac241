"""What a run ran on: versions, machine, code; its GPU as NVML knows it: who is on it, its clocks, its energy and power.

No secrets; of the environment CUDA_VISIBLE_DEVICES and SLURM's ids.
"""

import importlib.metadata
import os
import platform
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any, final

from peft_tradeoffs.core import slurm
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import REPOSITORY
from peft_tradeoffs.core.quantities import LIBRARIES, Missing

# The GPU --------------------------------------------------------------------------------------------------------------

MIB = 2**20
CLOCK_EVENT_REASONS = {  # bits of nvmlDeviceGetCurrentClocksEventReasons, as nvidia-smi names them
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}
UNLISTED = "NVML does not list this process (a container's process ids?)"
COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}


class Unavailable(Exception):
    """NVML cannot answer; the message is a reason for `null_reasons`."""


@final
class Gpu:
    """A GPU, or a MIG instance of one, found in NVML by its UUID.

    NVML counts every GPU of the machine; CUDA only those that CUDA_VISIBLE_DEVICES leaves, in an order of its own.
    The UUID alone is the same in both.
    """

    def __init__(self, device: int | str) -> None:
        """`device`: torch's index, or a UUID with or without its prefix. Raises Unavailable if NVML has no such one."""
        self._nvml = _nvml()
        bare = _torch_uuid(device) if isinstance(device, int) else device
        bare = bare.removeprefix("GPU-").removeprefix("MIG-")
        for prefix in ("GPU-", "MIG-"):
            self.uuid = prefix + bare
            try:
                self._handle = self._call("nvmlDeviceGetHandleByUUID", self.uuid)
                break
            except Unavailable as error:
                reason = error
        else:
            raise Unavailable(f"NVML knows no GPU and no MIG instance of UUID {bare} ({reason})")
        self.is_mig = self.uuid.startswith("MIG-")
        # clocks, power and name are the card's; NVML refuses them of an instance
        self._card = self._handle
        if self.is_mig:
            self._card = self._call("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", self._handle)

    @classmethod
    def find(cls, device: int | str) -> "Gpu | Missing":
        """The GPU, or why NVML does not have it."""
        try:
            return cls(device)
        except Unavailable as error:
            return Missing(str(error))

    @property
    def name(self) -> str:
        """The card's name; of a MIG instance too."""
        name: str = self._call("nvmlDeviceGetName", self._card)
        return name

    def energy_J(self) -> float | Missing:
        """Energy since the driver was loaded, which moves every 100 ms."""
        if self.is_mig:
            return Missing("MIG instance: the energy counter is the whole card's")
        if self._is_split():  # CUDA may name a card and compute on an instance of it
            return Missing("MIG mode is on: the energy counter is the whole card's, not this job's instance's")
        try:
            return float(self._call("nvmlDeviceGetTotalEnergyConsumption", self._handle) / 1000)
        except Unavailable as error:
            return Missing(f"no energy counter: {error}")

    def processes(self) -> list[tuple[int, float | None]]:
        """Process id and MiB (None where the driver keeps it back) of each process with a CUDA context here.

        The ids are those of the machine, which inside a container may not be the container's.
        Raises Unavailable if the driver does not list them.
        """
        found: dict[int, float | None] = {}
        for process in self._call("nvmlDeviceGetComputeRunningProcesses", self._handle):
            size = None if process.usedGpuMemory is None else process.usedGpuMemory / MIB
            known = found.get(process.pid, 0.0)
            found[process.pid] = None if size is None or known is None else known + size
        return list(found.items())

    def process_MiB(self, pid: int) -> float | Missing:
        """Memory that the driver counts for a process: context, kernels and all allocations."""
        try:
            sizes = dict(self.processes())
        except Unavailable as error:
            return Missing(str(error))
        if pid not in sizes:
            return Missing(UNLISTED)
        size = sizes[pid]
        return Missing("the driver lists this process without its memory") if size is None else size

    def facts(self) -> dict[str, Any]:
        """What decides the GPU's speed, as it is now, for env.json; a value that the driver refuses is None.

        `reasons` says why, by key. Clocks and power limit are a whole card's also for a MIG instance, memory is not.
        """
        asked: dict[str, Callable[[], Any]] = {
            "name": lambda: self.name,
            "driver_version": lambda: self._call("nvmlSystemGetDriverVersion"),
            "cuda_driver_version": self._cuda_driver_version,
            "sm_clock_MHz": lambda: self._call("nvmlDeviceGetClockInfo", self._card, self._nvml.NVML_CLOCK_SM),
            "max_sm_clock_MHz": lambda: self._call("nvmlDeviceGetMaxClockInfo", self._card, self._nvml.NVML_CLOCK_SM),
            "memory_clock_MHz": lambda: self._call("nvmlDeviceGetClockInfo", self._card, self._nvml.NVML_CLOCK_MEM),
            "max_memory_clock_MHz": lambda: self._call(
                "nvmlDeviceGetMaxClockInfo", self._card, self._nvml.NVML_CLOCK_MEM
            ),
            "power_limit_W": lambda: self._call("nvmlDeviceGetEnforcedPowerLimit", self._card) / 1000,
            "clock_event_reasons": self._clock_event_reasons,
            "mig_mode": self._mig_mode,
            "compute_mode": self._compute_mode,
            "persistence_mode": lambda: bool(self._call("nvmlDeviceGetPersistenceMode", self._card)),
            "memory_MiB": lambda: self._call("nvmlDeviceGetMemoryInfo", self._handle).total / MIB,
        }
        facts: dict[str, Any] = {"uuid": self.uuid, "mig_instance": self.is_mig}
        reasons: dict[str, str] = {}
        for key, ask in asked.items():
            try:
                facts[key] = ask()
            except Unavailable as error:
                facts[key], reasons[key] = None, str(error)
        return {**facts, "reasons": reasons}

    def _cuda_driver_version(self) -> str:
        version = self._call("nvmlSystemGetCudaDriverVersion")
        return f"{version // 1000}.{version % 1000 // 10}"

    def _clock_event_reasons(self) -> list[str]:
        """Why the clocks are lower than they could be, by name; bits that have none in hexadecimal."""
        try:
            bits = self._call("nvmlDeviceGetCurrentClocksEventReasons", self._card)
        except Unavailable as error:
            if getattr(error.__cause__, "value", None) != self._nvml.NVML_ERROR_FUNCTION_NOT_FOUND:
                raise
            bits = self._call("nvmlDeviceGetCurrentClocksThrottleReasons", self._card)  # its name in older drivers
        set_bits = [1 << index for index in range(bits.bit_length()) if bits >> index & 1]
        return [CLOCK_EVENT_REASONS.get(bit, hex(bit)) for bit in set_bits]

    def _mig_mode(self) -> bool:
        """Whether the card's MIG mode is on now."""
        return bool(self._call("nvmlDeviceGetMigMode", self._card)[0] == self._nvml.NVML_DEVICE_MIG_ENABLE)

    def _is_split(self) -> bool:
        """The same; False of a card that knows no MIG."""
        try:
            return self._mig_mode()
        except Unavailable:
            return False

    def _compute_mode(self) -> str:
        mode = self._call("nvmlDeviceGetComputeMode", self._card)
        return COMPUTE_MODES.get(mode, str(mode))

    def _call(self, function: str, *arguments: Any) -> Any:
        return _call(self._nvml, function, *arguments)


def visible_uuids() -> list[str]:
    """UUIDs, without prefix, of the devices that torch sees, by torch's index; makes no CUDA context."""
    import torch

    return [_torch_uuid(index) for index in range(torch.cuda.device_count())]


def machine_gpus() -> list[Gpu]:
    """Every GPU that NVML shows this process, visible to CUDA or not; raises Unavailable without NVML."""
    nvml = _nvml()
    found = []
    for index in range(_call(nvml, "nvmlDeviceGetCount")):
        try:
            found.append(Gpu(_call(nvml, "nvmlDeviceGetUUID", _call(nvml, "nvmlDeviceGetHandleByIndex", index))))
        except Unavailable:
            continue  # another job's: this process may not ask
    return found


def first_gpu() -> tuple[str, bool] | None:
    """The name of this machine's first GPU and whether it computes in bf16; None without a GPU that NVML shows."""
    try:
        gpu, nvml = machine_gpus()[0], _nvml()
        card = _call(nvml, "nvmlDeviceGetHandleByUUID", gpu.uuid)
        major, _ = _call(nvml, "nvmlDeviceGetCudaComputeCapability", card)
        return gpu.name, int(major) >= 8
    except (Unavailable, IndexError):
        return None


def gpus_here() -> int | None:
    """How many GPUs this machine shows; None where NVML cannot tell. Loads no torch."""
    if without_gpu():
        return 0
    try:
        return len(machine_gpus())
    except Unavailable:
        return None


def without_gpu() -> bool:
    """Whether a process here certainly sees no GPU: there is no driver's device, nor WSL's, or all are hidden."""
    devices = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/nvmap", "/dev/kfd")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return hidden or not any(Path(device).exists() for device in devices)


def _call(nvml: ModuleType, function: str, *arguments: Any) -> Any:
    """What an NVML function returns; raises Unavailable for its error."""
    try:
        return getattr(nvml, function)(*arguments)
    except (nvml.NVMLError, nvml.NVMLLibraryMismatchError) as error:
        raise Unavailable(f"NVML, {function}: {error}") from error


def _torch_uuid(index: int) -> str:
    import torch

    return str(torch.cuda.get_device_properties(index).uuid)


def _nvml() -> ModuleType:
    """pynvml, initialised; raises Unavailable without it or without a driver."""
    try:
        import pynvml
    except ImportError as error:
        raise Unavailable(f"nvidia-ml-py is not installed ({error})") from error
    nvml: ModuleType = pynvml
    _call(nvml, "nvmlInit")
    return nvml


CLOCKS = ("sm_clock_MHz", "memory_clock_MHz")
EVENTS = "clock_event_reasons"
NO_READING = "no stretch of training has ended"


class Clocks:
    """A meter of the training phase: reads the clocks at the end of every stretch, before the GPU slows down again."""

    def __init__(self, gpu: Gpu | Missing) -> None:
        self._gpu = gpu
        self._lowest: dict[str, float] = {}
        self._events: set[str] | None = None
        self._refused: dict[str, str] = {}
        self._readings = 0

    def start(self) -> None:
        """Nothing: an idle GPU's clocks say little."""

    def stop(self) -> None:
        """Read the clocks. The caller has just synchronised the device."""
        if not self._gpu:
            return
        facts = self._gpu.facts()
        self.restore(
            {
                "readings": 1,
                "lowest": {key: facts[key] for key in CLOCKS},
                EVENTS: facts[EVENTS],
                "reasons": {key: why for key, why in facts["reasons"].items() if key in (*CLOCKS, EVENTS)},
            }
        )

    def totals(self) -> dict[str, Any]:
        """Readings, the lowest clocks in MHz and every reason for a clock below its maximum that was given.

        None where no reading has it; `reasons` says by key why one has not.
        """
        return {
            "readings": self._readings,
            "lowest": {key: self._lowest.get(key) for key in CLOCKS},
            EVENTS: None if self._events is None else sorted(self._events),
            "reasons": dict(self._refused) if self._readings else dict.fromkeys((*CLOCKS, EVENTS), NO_READING),
        }

    def restore(self, totals: dict[str, Any]) -> None:
        """Add the `totals` of the attempts before this one."""
        if not totals["readings"]:
            return
        self._readings += totals["readings"]
        self._refused = {**totals["reasons"], **self._refused}
        if totals[EVENTS] is not None:
            self._events = (self._events or set()) | set(totals[EVENTS])
        for key, value in totals["lowest"].items():
            if value is not None:
                self._lowest[key] = min(value, self._lowest.get(key, value))


INITIAL_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, linux/proc_ns.h
HIDDEN = "NVML does not list this job's own process, so it may hide others too"


class Isolation:
    """The processes of others on a GPU over a job's life. Made before the job has a CUDA context.

    A meter of the training phase too: it looks at both ends of a stretch, so that no state is saved of a stretch that
    another process has disturbed.
    """

    def __init__(self, gpu: Gpu | Missing, allow_shared: bool, patience_s: float = 0.0) -> None:
        """Raises InputError if another process is there and that is not allowed.

        `patience_s`: how long that may be a process that is leaving.
        """
        self._gpu = gpu  # missing too once NVML does not list its processes
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
        if self._gpu:
            try:
                self._own = new_pids(self._gpu, self._before)
            except Unavailable as error:
                self._gpu = Missing(str(error))
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
        if not self._gpu:
            return
        try:
            found = check_alone(self._gpu, self._own or set(), self._allow_shared)
        except Unavailable as error:
            self._gpu = Missing(str(error))
            return
        if self._own is None:
            self._before = {other["pid"] for other in found}
        self._others |= {other["pid"]: other for other in found}

    def others(self) -> list[dict[str, Any]]:
        """Process id, MiB and command of every other process that a check has seen, for env.json."""
        return list(self._others.values())

    def shared(self) -> bool | Missing:
        """Whether a check has seen another process."""
        if self._others:
            return True
        if not self._gpu:
            return self._gpu
        return Missing(HIDDEN) if self._own == set() else False

    def process_MiB(self) -> float | Missing:
        """Memory that the driver counts for this job now."""
        if not self._gpu:
            return self._gpu
        if not self._own:
            return Missing(UNLISTED)
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


NO_GPU = Missing("no GPU: the processor's energy is not measured")
SHORT_S = 30.0  # a shorter window is marked: the counter moves every 0.1 s and power takes seconds to settle
STILL_S = 1.0  # a counter that moves every 0.1 s and stands still for so long does not work
IDLE_S = 1.0  # least time over which idle power is taken
KEYS = ("energy_J", "energy_J_per_sample", "mean_power_W", "energy_window_s", "energy_window_short")


class EnergyMeter:
    """Energy of the stretches between `start` and `stop`, over every attempt of a run; what lies outside is left out.

    The caller has synchronised the device at both ends. A stretch that an exception leaves open does not count.
    """

    def __init__(self, gpu: Gpu | Missing) -> None:
        self._gpu = gpu
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

    def summary(self, samples: int) -> dict[str, float | bool | Missing]:
        """The summary's energy keys; `samples` were trained on in the stretches."""
        if self._reason is not None:
            return dict.fromkeys(KEYS, Missing(self._reason))
        if self._energy_J == 0:
            return dict.fromkeys(KEYS, Missing(self._still()) if self._gpu else self._gpu)
        return {
            "energy_J": self._energy_J,
            "energy_J_per_sample": self._energy_J / samples if samples else Missing("no sample was trained on"),
            "mean_power_W": self._energy_J / self._window_s,
            "energy_window_s": self._window_s,
            "energy_window_short": self._window_s < SHORT_S,
        }

    def _read(self) -> tuple[float, float] | None:
        """J and s now; None, the reason kept, if they cannot be read."""
        energy_J = self._gpu.energy_J() if self._gpu else self._gpu
        if isinstance(energy_J, Missing):
            self._fail(energy_J.reason)
            return None
        return energy_J, perf_counter()

    def lack(self, reason: str) -> None:
        """Say why a part of the run's energy is not known."""
        self._fail(reason)

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
        self._missing = Missing("the GPU could not be read at the process's start")
        try:
            gpus = machine_gpus()
        except Unavailable as error:
            gpus, self._missing = [], Missing(str(error))
        for gpu in gpus:
            energy_J = gpu.energy_J()
            if not isinstance(energy_J, Missing):
                self._first[gpu.uuid] = (energy_J, perf_counter(), _busy(gpu))

    def finish(self, gpu: Gpu) -> float | Missing:
        """Second reading: mean W since the first. Call it before the CUDA context is made."""
        energy_J = gpu.energy_J()
        if isinstance(energy_J, Missing):
            return energy_J
        if gpu.uuid not in self._first:
            return self._missing
        first_J, first_s, busy = self._first[gpu.uuid]
        seconds = perf_counter() - first_s
        busy = busy or _busy(gpu)
        if busy is not None:
            return Missing(busy)
        if seconds < IDLE_S:
            return Missing(f"the imports took {seconds:.2f} s; idle power needs {IDLE_S:.0f} s")
        if energy_J <= first_J:
            return Missing(f"the energy counter did not move during {seconds:.1f} s")
        return (energy_J - first_J) / seconds


def _busy(gpu: Gpu) -> str | None:
    """Why the GPU is not known to be idle; None if no process is on it."""
    try:
        return "another process was on the GPU" if gpu.processes() else None
    except Unavailable as error:
        return f"whether the GPU was idle is not known: {error}"


# What env.json says of the process, its machine and its code ----------------------------------------------------------

NOT_ASKED = Missing("NVML was not asked")


def versions() -> dict[str, str | None]:
    """Installed version of each library that can change a result; None if it is not installed."""
    found: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def describe(device: str, threads: int, gpu: Gpu | Missing = NOT_ASKED) -> dict[str, Any]:
    """Machine, versions and code of this process, for env.json; on a GPU also what decides its results."""
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "slurm": slurm.job(),
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "cpu": cpu_name(),
        "threads": threads,
        "device": device,
        "device_name": device_name(device),
        **({} if device == "cpu" else cuda(gpu)),
        "git": git_state(),
    }


def cuda(gpu: Gpu | Missing) -> dict[str, Any]:
    """The GPU's facts, versions and flags that a CPU run does not have."""
    import torch

    nccl = torch.cuda.nccl.version() if torch.distributed.is_nccl_available() else None
    return {
        "gpu": gpu.facts() if gpu else {"reasons": {"gpu": gpu.reason}},
        "cuda_runtime_version": torch.version.cuda,
        "cudnn_version": torch.backends.cudnn.version(),
        "nccl_version": nccl and ".".join(map(str, nccl)),
        "nccl_settings": {key: value for key, value in sorted(os.environ.items()) if key.startswith("NCCL_")},
        "flags": flags(),
    }


def flags() -> dict[str, Any]:
    """Torch's switches that change a GPU's arithmetic or the choice of its kernels.

    TF32 is read from `fp32_precision` (torch 2.9 and later): the older `allow_tf32` raises once both ways of setting
    it were used, and so does torch.get_float32_matmul_precision, whose value is None then.
    """
    import torch

    try:
        matmul_precision = torch.get_float32_matmul_precision()
    except RuntimeError:
        matmul_precision = None
    return {
        "tf32_matmul": torch.backends.cuda.matmul.fp32_precision == "tf32",
        "tf32_cudnn": torch.backends.cudnn.conv.fp32_precision == "tf32",  # type: ignore[attr-defined] # of the module's own class
        "float32_matmul_precision": matmul_precision,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def device_name(device: str) -> str:
    """The GPU's name, or the processor's."""
    if device == "cpu":
        return cpu_name()
    import torch

    return torch.cuda.get_device_name()


def cpu_name() -> str:
    """The processor's model name as the kernel gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def git_state(folder: Path = REPOSITORY) -> dict[str, Any]:
    """Commit of the workflow in `folder` and whether a tracked file differs from it; a reason where git cannot say.

    Untracked files are the user's own data and configurations; one that is imported shows in the code's checksum.

    A repository that only encloses the workflow, unpacked somewhere in it, says nothing about its code.
    """

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", folder, *words], check=True, capture_output=True, text=True, timeout=30
        ).stdout.strip()

    try:
        if not Path(git("rev-parse", "--show-toplevel")).samefile(folder):
            return {"commit": None, "dirty": None, "reason": "not a git checkout, though inside another repository"}
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError) as error:
        return {"commit": None, "dirty": None, "reason": f"{type(error).__name__}: not a git checkout?"}

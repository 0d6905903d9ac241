"""The device a job computes on: chosen, leased, checked to be the job's alone; memory and time of each phase on it.

Snakemake counts GPUs but does not assign them: by their leases two jobs never share one. A job that finds all of them
taken waits, its imports done, so that a GPU is idle for no job's start. Knows neither methods nor training.
"""

import contextlib
import ctypes
import fcntl
import gc
import math
import os
import re
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.quantities import PHASES, Missing
from peft_tradeoffs.measure.machine import NO_GPU, EnergyMeter, Gpu, IdlePower, Isolation, Unavailable, visible_uuids

# The device, and its lease --------------------------------------------------------------------------------------------

# Not by the library filelock, whose locks (4.2) refuse a file of another user's in /tmp: here all users share one.
LEASES = Path("/tmp")  # not TMPDIR, which users and jobs set to folders of their own
POLL_S = 0.1
TELL_S = 300.0  # between two lines that say that a job waits
IDLE_S = 600.0  # a job makes its CUDA context as soon as it has the lease
LEAVING_S = 10.0  # a process that gave up its lease may still be taking down its CUDA context
WAITED_S = 0.5  # taking a free GPU takes less
RAN_OUT = (  # what libraries say in a RuntimeError
    *("DefaultCPUAllocator", "out of memory", "cudaErrorMemoryAllocation"),
    *("CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED"),
)
NO_HANDLE = "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate"  # no room for its workspace, or CUDA is broken
HANDLE_MiB = 512  # more than the workspace takes
UNITS = {"bytes": 1, **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)}}


@dataclass(frozen=True)
class Device:
    """A device, and what NVML knows of it."""

    torch: torch.device
    gpu: Gpu | Missing
    isolation: Isolation
    idle_power_W: float | Missing
    waited_s: float  # for other jobs to leave it

    def energy_meter(self) -> EnergyMeter:
        """A meter for one run."""
        return EnergyMeter(self.gpu)


def open_device(
    kind: str,
    allow_shared: bool,
    idle: IdlePower | None,
    waiting: contextlib.AbstractContextManager[None] | None = None,
) -> Device:
    """Take the CPU, or a GPU that no other job has, waiting for one if need be, and make its CUDA context.

    `idle` is a first reading of idle power; `waiting` is entered while other jobs have the GPU. Raises InputError
    without a GPU, or one that others use than our jobs.
    """
    if kind == "cpu":
        return Device(torch.device("cpu"), NO_GPU, Isolation(NO_GPU, allow_shared), NO_GPU, 0.0)
    if not torch.cuda.is_available():
        raise InputError(
            "config key training.device: cuda, but torch sees no GPU (CUDA_VISIBLE_DEVICES, driver, or a CPU "
            "build of torch); set device: cpu for a CPU run"
        )
    began = time.monotonic()
    with waiting or contextlib.nullcontext():
        held = acquire(visible_uuids(), in_use=_in_use)  # until the process ends
        gpu = Gpu.find(held.index)
        isolation = Isolation(gpu, allow_shared, patience_s=LEAVING_S)
    waited_s = time.monotonic() - began
    idle_power_W: float | Missing
    if waited_s > WAITED_S:
        idle_power_W = Missing("another job of this workflow was on the GPU while this one started")
    elif gpu:
        idle_power_W = idle.finish(gpu) if idle else Missing("not taken")
    else:
        idle_power_W = gpu
    torch.cuda.set_device(held.index)  # makes the context, as does the first tensor
    torch.zeros(1, device="cuda")
    isolation.context_made()
    where = torch.device("cuda", held.index)
    return Device(where, gpu, isolation, idle_power_W, waited_s)


def check_precision(device: torch.device, precision: str) -> None:
    """Raise InputError for bf16 on a GPU that has none of it: torch would emulate it, many times slower."""
    if device.type == "cuda" and precision == "bf16" and torch.cuda.get_device_capability(device) < (8, 0):
        raise InputError(
            f"config key training.precision: bf16, which {torch.cuda.get_device_name(device)} cannot compute; set "
            "precision: fp16, and bnb_4bit_compute_dtype float16 where weights are quantised"
        )


def free_memory(device: torch.device) -> None:
    """Give back what earlier seeds left, reference cycles and freed heap, so that it is not the next run's."""
    gc.collect()
    empty_caches(device)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
    if trim is not None:
        trim(0)


def empty_caches(device: torch.device) -> None:
    """Give back the GPU memory that PyTorch keeps and nothing holds. Quick: it looks for no reference cycles."""
    if device.type == "cuda":
        torch._C._cuda_clearCublasWorkspaces()  # noqa: SLF001 # as PyTorch's notes on CUDA semantics have it
        torch.cuda.empty_cache()


def requested_bytes() -> int:
    """CUDA bytes in use as asked for: without the up to 1 MiB that the allocator leaves unsplit at a block's end."""
    requested: int = torch.cuda.memory_stats()["requested_bytes.all.current"]
    return requested


def _in_use(index: int) -> bool:
    """Whether a process is on the GPU that torch calls so, or NVML cannot tell."""
    gpu = Gpu.find(index)
    try:
        return not gpu or bool(gpu.processes())
    except Unavailable:
        return True


def _is_full() -> bool:
    try:
        return torch.cuda.mem_get_info()[0] < HANDLE_MiB * 2**20
    except RuntimeError:  # CUDA is broken
        return False


def refused_bytes(error: BaseException) -> tuple[bool, int | None]:
    """Whether `error` says that memory ran out, and how many bytes were asked for, if it says.

    PyTorch and NumPy give the size in their message alone.
    """
    text = str(error)
    said = any(words in text for words in RAN_OUT) or (NO_HANDLE in text and _is_full())
    if not isinstance(error, torch.OutOfMemoryError | MemoryError) and not said:
        return False, None
    if found := re.search(rf"(?:[Tt]ried|Unable) to allocate ([\d.]+) ?({'|'.join(UNITS)})", text):
        return True, round(float(found[1]) * UNITS[found[2]])
    return True, None


@dataclass(frozen=True)
class Lease:
    """A GPU that is one job's until its process ends, however it ends, or `descriptor` is closed."""

    index: int  # torch's
    descriptor: int  # of the locked file


def acquire(uuids: Sequence[str], folder: Path = LEASES, in_use: Callable[[int], bool] | None = None) -> Lease:
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


# Memory and time by phase ---------------------------------------------------------------------------------------------

MIB = 2**20
ON_CPU = Missing("the run was on a CPU")
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


# Of meters by name: what the time of another rank, which is this one's, must not add.
_TIMELESS = {key: {"energy_window_s": 0.0} for key in ("energy", "decoding_energy")}
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

    def take_in(self, rank: int, totals: dict[str, Any] | None) -> None:
        """Add what another rank of the run measured meanwhile: the higher peaks, and what it used; not its time."""
        if totals is None:
            for meter in self._by_name().values():
                if isinstance(meter, EnergyMeter):
                    meter.lack(f"rank {rank} left no word of its energy")
            return
        meters = {name: {**values, **_TIMELESS.get(name, {})} for name, values in totals["meters"].items()}
        self.restore({"seconds": {}, "peaks": totals["peaks"], "meters": meters})

    def summary(self) -> dict[str, float | Missing]:
        """MiB by summary key."""
        names = [(f"{phase}_{name}", name) for phase in PHASES for name in PEAKS]
        return {key: self.peaks[key] if key in self.peaks else self._missing(name) for key, name in names}

    def _by_name(self) -> dict[str, Meter]:
        return {name: meter for meters in self._meters.values() for name, meter in meters.items()}

    def _missing(self, name: str) -> Missing:
        if name in GPU_KEYS and self._device.type == "cpu":
            return ON_CPU
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

"""The device a job computes on: chosen, leased, checked to be the job's alone; memory and time of each phase on it.

Snakemake counts GPUs but does not assign them: by their leases two jobs never share one. A job that finds all of them
taken waits, its imports done, so that a GPU is idle for no job's start. A job of several GPUs, each with a process of
its own, has all of them or waits. Knows neither methods nor training.
"""

import contextlib
import ctypes
import fcntl
import functools
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
# A process that gave up its lease may still be taking down its CUDA context. Of a job of several, the first holds the
# leases, and the others may take 10 s to end after it (runs/interruption.py).
LEAVING_S = 20.0
WAITED_S = 0.5  # taking a free GPU takes less
RAN_OUT = (  # what libraries say in a RuntimeError
    *("DefaultCPUAllocator", "out of memory", "cudaErrorMemoryAllocation"),
    *("CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED"),
)
NO_HANDLE = "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate"  # no room for its workspace, or CUDA is broken
HANDLE_MiB = 512  # more than the workspace takes
UNITS = {"bytes": 1, **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGT", 1)}}


@dataclass(frozen=True)
class Held:
    """What a job has leased, as its first process tells the others."""

    indices: list[int]  # torch's, of the GPU of each process
    idle_W: list[float | Missing]  # of each, before the job used it
    waited_s: float  # for other jobs to leave them


@dataclass(frozen=True)
class Device:
    """A device, and what NVML knows of it."""

    torch: torch.device
    gpu: Gpu | Missing
    isolation: Isolation
    idle_W: list[float | Missing]  # of the GPU of each of the job's processes
    waited_s: float  # for other jobs to leave it

    @property
    def idle_power_W(self) -> float | Missing:
        """Idle power of the job's GPUs together."""
        for rank, found in enumerate(self.idle_W):
            if isinstance(found, Missing):
                return Missing(f"rank {rank}: {found.reason}") if len(self.idle_W) > 1 else found
        return sum(found for found in self.idle_W if not isinstance(found, Missing))

    def energy_meter(self) -> EnergyMeter:
        """A meter for one run."""
        return EnergyMeter(self.gpu)


def open_device(
    kind: str,
    allow_shared: bool,
    waiting: contextlib.AbstractContextManager[None] | None = None,
    hold: "Callable[[], Held] | None" = None,
    rank: int = 0,
) -> Device:
    """Take the CPU, or a GPU that no other job has, waiting for one if need be, and make its CUDA context.

    `hold` leases the job's GPUs, of which this process has that of its `rank`: one GPU, if it is not given. `waiting`
    is entered while other jobs have them. Raises InputError without a GPU, with fewer than the job wants, or for one
    that others use than our jobs.
    """
    if kind == "cpu":
        return Device(torch.device("cpu"), NO_GPU, Isolation(NO_GPU, allow_shared), [NO_GPU], 0.0)
    if not torch.cuda.is_available():
        raise InputError(
            "config key training.device: cuda, but torch sees no GPU (CUDA_VISIBLE_DEVICES, driver, or a CPU "
            "build of torch); set device: cpu for a CPU run"
        )
    with waiting or contextlib.nullcontext():
        held = (hold or lease)()
        index = held.indices[rank]
        gpu = Gpu.find(index)
        began = time.monotonic()
        isolation = Isolation(gpu, allow_shared, patience_s=LEAVING_S)
        left_s = time.monotonic() - began
    torch.cuda.set_device(index)  # makes the context, as does the first tensor
    torch.zeros(1, device="cuda")
    isolation.context_made()
    idle_W = held.idle_W
    if left_s > WAITED_S:  # its last process was there when the power was read
        idle_W = [ANOTHER_JOB if place == rank else found for place, found in enumerate(idle_W)]
    return Device(torch.device("cuda", index), gpu, isolation, idle_W, held.waited_s + left_s)


def lease(count: int = 1, keys: str = "training.gpus", idle: IdlePower | None = None) -> Held:
    """Lease GPUs for all of a job's processes, until this one ends; waits for those that other jobs have.

    `keys`: of the configuration, which asks for so many; `idle`: a first reading of idle power. Raises InputError where
    torch sees fewer.
    """
    uuids, began = visible_uuids(), time.monotonic()
    if count > len(uuids):
        seen = f"{len(uuids)} GPU{'s' * (len(uuids) != 1)}"
        raise InputError(
            f"config key {keys}: {count} GPUs per run, but this job sees {seen} "
            f"(CUDA_VISIBLE_DEVICES: {os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}); set {len(uuids)}, or "
            "give it as many (under SLURM by the resource gpu or gres)"
        )
    indices = [held.index for held in acquire(uuids, in_use=_in_use, count=count)]
    waited_s = time.monotonic() - began
    return Held(indices, [_idle_W(Gpu.find(index), idle, waited_s) for index in indices], waited_s)


ANOTHER_JOB = Missing("another job of this workflow was on the GPU while this one started")


def _idle_W(gpu: Gpu | Missing, idle: IdlePower | None, waited_s: float) -> float | Missing:
    if waited_s > WAITED_S:
        return ANOTHER_JOB
    if not gpu:
        return gpu
    return idle.finish(gpu) if idle else Missing("not taken")


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
    """A GPU that is one job's until the process that took it ends, however it ends, or `descriptor` is closed."""

    index: int  # torch's
    descriptor: int  # of the locked file


def acquire(
    uuids: Sequence[str], folder: Path = LEASES, in_use: Callable[[int], bool] | None = None, count: int = 1
) -> list[Lease]:
    """Take the first `count` GPUs among `uuids` that no other job has; wait for those that lack, and say so.

    The lease is a lock on one file per GPU in `folder`, which all users of the machine share, so that their jobs wait
    for each other. Nobody contends for it where SLURM gives each job its own GPU. Any user can also hold it over a GPU
    that they do not use: `in_use`, whether a process is on the GPU of an index, tells. Such a lease of another user's
    is passed over after `IDLE_S`, and said so; this user's jobs then keep apart by a file of their own.

    A job of one GPU waits with empty hands. One of several keeps what it has got, or jobs of one would always be before
    it; so that no two of these wait for each other, a job first has the gates of all GPUs that it sees, or none: a
    further file per GPU. One gate for all would have a job wait for GPUs that it does not see.
    """

    def unused(index: int) -> bool:
        return in_use is not None and not in_use(index)

    leases = [_Claim(folder, uuid, functools.partial(unused, index)) for index, uuid in enumerate(uuids)]
    # Who has a gate takes every GPU that is free: one that stays free shows that its gate is held for nothing.
    gates = [_Claim(folder, each.uuid, each.is_free, gate=True) for each in sorted(leases, key=lambda each: each.uuid)]
    told_at = -math.inf
    taken: dict[int, int] = {}
    with contextlib.ExitStack() as kept, contextlib.ExitStack() as through:
        collects = count == 1
        while True:
            holders = [] if collects else _all_of(gates, through)
            collects = collects or not holders
            if collects:
                holders = _collect(leases, count, taken, kept)
            if len(taken) == count:
                kept.pop_all()
                return [Lease(*each) for each in sorted(taken.items())]
            if time.monotonic() - told_at >= TELL_S:
                has = [uuids[index] for index in sorted(taken)]
                print(_waits(count, has, holders, collects), flush=True)
                told_at = time.monotonic()
            time.sleep(POLL_S)


def _collect(leases: "list[_Claim]", count: int, taken: dict[int, int], kept: contextlib.ExitStack) -> list[str]:
    """Take the GPUs that are free, up to `count` of them with those `taken`; who has the others, in words."""
    holders = []
    for index, claim in enumerate(leases):
        if index in taken or len(taken) == count:
            continue
        descriptor, holder = claim.take()
        if descriptor is None:
            holders.append(f"{claim.uuid} by process {holder}")
        else:
            taken[index] = descriptor
            kept.callback(os.close, descriptor)
    return holders


def _all_of(gates: "list[_Claim]", through: contextlib.ExitStack) -> list[str]:
    """Take all gates, in `through`, or none; who has the one that is not free, or nobody."""
    with contextlib.ExitStack() as got:
        for gate in gates:
            descriptor, holder = gate.take()
            if descriptor is None:
                return [f"process {holder}"]
            got.callback(os.close, descriptor)
        through.push(got.pop_all())
    return []


def _waits(count: int, has: list[str], holders: list[str], collects: bool) -> str:
    wanted = "a GPU" if count == 1 else f"{count} GPUs"
    if not collects:
        return f"waits for {wanted}: first come those of {', '.join(holders)}"
    kept = f", has {', '.join(has)}" if has else ""
    return f"waits for {wanted}{kept}: taken are {', '.join(holders)}"


class _Claim:
    """A file that one job at a time holds; this user's own in its place while another user holds it for nothing."""

    def __init__(self, folder: Path, uuid: str, unused: Callable[[], bool], gate: bool = False) -> None:
        """Of a GPU, or of its gate; `unused`: whether its holder makes no use of it."""
        name = f"peft-tradeoffs-{uuid}{'.gate' * gate}"
        self._shared, self._own = folder / f"{name}.lock", folder / f"{name}.{os.geteuid()}.lock"
        self.uuid, self._unused = uuid, unused
        self._named = f"{'the gate of ' * gate}GPU {uuid}"
        self._since: float | None = None  # it has been held for nothing

    def take(self) -> tuple[int | None, str]:
        """The locked file's descriptor; or None and the process that has it."""
        descriptor, holder = _lock(self._shared)
        holder = holder or "unknown"
        if descriptor is not None:
            if _is_free(self._own):
                return descriptor, ""
            os.close(descriptor)
        elif _is_another_users(self._shared) and self._unused():
            now = time.monotonic()
            self._since = now if self._since is None else self._since
            if now - self._since >= IDLE_S and (passed := _lock(self._own, private=True)[0]) is not None:
                print(
                    f"takes {self._named}: another user's process {holder} has held its lease for "
                    f"{IDLE_S:.0f} s without using it",
                    flush=True,
                )
                return passed, ""
        else:
            self._since = None
        return None, holder

    def is_free(self) -> bool:
        """Whether nobody has it now."""
        descriptor, _ = _lock(self._shared)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None


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

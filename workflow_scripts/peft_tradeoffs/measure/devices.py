"""The device a job computes on: chosen, leased, checked to be the job's alone."""

import contextlib
import ctypes
import gc
import re
import time
from dataclasses import dataclass

import torch

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.quantities import Missing
from peft_tradeoffs.measure import lease
from peft_tradeoffs.measure.gpu import NO_GPU, EnergyMeter, Gpu, IdlePower, Isolation, Unavailable, visible_uuids

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
        held = lease.acquire(visible_uuids(), in_use=_in_use)  # until the process ends
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


def free_memory(device: torch.device) -> None:
    """Give back what earlier seeds left, reference cycles and freed heap, so that it is not the next run's."""
    gc.collect()
    if device.type == "cuda":
        torch._C._cuda_clearCublasWorkspaces()  # noqa: SLF001 # as PyTorch's notes on CUDA semantics have it
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
    if trim is not None:
        trim(0)


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

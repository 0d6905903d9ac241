"""What a run ran on: versions, machine, code. No secrets; of the environment CUDA_VISIBLE_DEVICES and SLURM's ids."""

import importlib.metadata
import os
import platform
import socket
import subprocess
from pathlib import Path
from typing import Any

from peft_tradeoffs.core import slurm
from peft_tradeoffs.core.layout import REPOSITORY
from peft_tradeoffs.core.quantities import LIBRARIES, Missing
from peft_tradeoffs.measure.gpu import Gpu

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

    return {
        "gpu": gpu.facts() if gpu else {"reasons": {"gpu": gpu.reason}},
        "cuda_runtime_version": torch.version.cuda,
        "cudnn_version": torch.backends.cudnn.version(),
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

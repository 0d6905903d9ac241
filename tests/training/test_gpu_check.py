"""The GPU check: a report with a plain verdict, and an error where a GPU was asked for and does not work."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from peft_tradeoffs.measure import machine
from peft_tradeoffs.training import gpu_check
from peft_tradeoffs.training.step import EagerSteps


def verdict(report: str) -> str:
    return report.splitlines()[-1]


def test_without_a_gpu_asked_for_the_cpu_is_tried():
    report, good = gpu_check.check("cpu", "bf16", False)
    assert good
    assert verdict(report) == "GPU check: no GPU (none is asked for: config key training.device is cpu); the CPU passed"
    for said in ("bitsandbytes", "peft", machine.versions()["torch"], "20 eager steps in bf16"):
        assert said in report
    assert "QLoRA (NF4)" in report


@pytest.mark.parametrize(
    ("cuda", "visible", "reason"),
    [
        (None, None, "this torch is a CPU build"),
        ("13.0", "", "CUDA_VISIBLE_DEVICES is empty"),
        ("13.0", "0", "torch sees none"),
    ],
)
def test_a_gpu_that_is_missing_is_said_with_the_reason(monkeypatch, cuda, visible, reason):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    report, good = gpu_check.check("cuda", "bf16", False)
    assert not good
    assert verdict(report).startswith(f"GPU check: no GPU ({reason}")
    assert verdict(report).endswith(", and config key training.device is cuda")


def test_steps_that_cannot_be_right_are_a_failure(monkeypatch):
    monkeypatch.setattr(EagerSteps, "__call__", lambda self, shape: self._step._losses.fill_(float("nan")))
    report, good = gpu_check.check("cpu", "fp32", False)
    assert not good
    assert verdict(report) == "GPU check: failed (full: eager steps: the loss goes from nan to nan)"


def test_a_library_that_is_broken_is_a_failure(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("CUDA error: no kernel image is available\nfor execution on the device")

    monkeypatch.setattr(gpu_check.methods, "build", broken)
    report, good = gpu_check.check("cpu", "fp32", False)
    assert not good
    assert verdict(report) == "GPU check: failed (full: CUDA error: no kernel image is available)"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_gpu_passes_with_captured_steps(precision, tmp_path):
    words = ["--device", "cuda", "--precision", precision, "--allow-shared-gpu", "--output", str(tmp_path / "report")]
    script = tiny.REPOSITORY / "workflow_scripts/check_gpu.py"  # a process of its own: a lease lasts as long as one
    done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True)
    report = (tmp_path / "report").read_text()
    assert done.returncode == 0, report
    assert verdict(report) == f"GPU check: passed on {torch.cuda.get_device_name()}"
    assert report.count("20 captured steps") == 2


def test_the_target_checks_at_every_call(tmp_path: Path, finished: Path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    report = folder / "results/gpu_check.txt"
    for _ in range(2):
        report.unlink(missing_ok=True)
        said = tiny.snakemake(folder, None, "gpu_check").stdout
        assert report.read_text() in said and "the CPU passed" in report.read_text()
    settings = tiny.config(folder)
    settings["training"]["device"] = "cuda"
    done = tiny.snakemake(folder, settings, "gpu_check", "--show-failed-logs", check=False, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert "GPU check: no GPU (" in done.stdout and "GPU check: no GPU (" in report.read_text()

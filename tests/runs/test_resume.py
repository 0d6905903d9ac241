"""kill -9 in mid-epoch, then the same command: the weights are bit for bit those of an uninterrupted run."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import tiny
from tiny import curve

EPOCHS, STEPS = 3, 3 * 24  # 96 rows in batches of 4
WEIGHTS = {"full": "checkpoint/model.safetensors"}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    tiny.write_inputs(folder, tiny_bert, rows=96)
    tiny.snakemake(folder, settings(folder), "runs")
    return folder


def settings(folder: Path) -> dict:
    experiment = tiny.config(folder, seeds=[0])
    experiment["training"].update(epochs=EPOCHS, batch_size=4)
    return experiment


def weights(folder: Path, arm: str) -> bytes:
    name = WEIGHTS.get(arm, "adapter/adapter_model.safetensors")
    return (folder / f"results/runs/reviews/tiny/{arm}/seed0" / name).read_bytes()


def kill_group(process: subprocess.Popen) -> None:
    """SIGKILL for Snakemake and the jobs it started, as a node that goes down does."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("arm", ["full", "lora-r4", "qlora-r4"])
def test_killed_run_resumes_to_the_same_weights(uninterrupted, tmp_path, arm):
    shutil.copytree(uninterrupted, tmp_path, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "results/runs")
    run = tmp_path / f"results/runs/reviews/tiny/{arm}/seed0"
    target = str((run / "summary.json").relative_to(tmp_path))
    # A state after every step, so that the kill meets the run in mid-epoch.
    slow = [target, "--set-resources", "train:checkpoint_interval_s=0"]
    checkpoint = run / "state" / "checkpoint.pt"
    process = subprocess.Popen(
        tiny.command(tmp_path, *slow, cores=1),
        env=tiny.environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    step = wait_for_step(checkpoint, process, 30)
    kill_group(process)
    assert 24 < step < 48, "killed between the first and the second evaluation"
    assert not (run / "summary.json").exists()

    tiny.snakemake(tmp_path, None, "--unlock")
    tiny.snakemake(tmp_path, None, target)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["attempts"] == 2
    assert summary["steps"] == STEPS
    assert weights(tmp_path, arm) == weights(uninterrupted, arm)
    other = uninterrupted / run.relative_to(tmp_path)
    assert (run / "predictions.csv").read_bytes() == (other / "predictions.csv").read_bytes()
    assert curve(run) == curve(other)
    assert not (run / "state").exists()


def wait_for_step(checkpoint: Path, process: subprocess.Popen, step: int) -> int:
    """Wait until the saved state is at `step` or later; returns its step."""
    import torch

    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        if checkpoint.exists():
            found = torch.load(checkpoint, weights_only=True)["progress"]["step"]
            if found >= step:
                os.killpg(process.pid, signal.SIGSTOP)
                return torch.load(checkpoint, weights_only=True)["progress"]["step"]
        time.sleep(0.002)
    raise AssertionError("no state was saved within ten minutes")

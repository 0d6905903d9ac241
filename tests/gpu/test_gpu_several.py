"""On two GPUs: a run that has both, beside one that has one; marked gpu, skipped where there are fewer."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpu_runs import command, prepare, summaries
from safetensors.torch import load_file

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices"),
]
WEIGHTS = {"full": "checkpoint/model.safetensors"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    return prepare(tmp_path_factory.mktemp("several") / "prepared", tiny_bert)


def trained(prepared: Path, arm: str, folder: Path, **changes: Any) -> Path:
    done = subprocess.run(command(prepared, arm, folder, **changes), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def weights(folder: Path, arm: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "seed0" / WEIGHTS.get(arm, "adapter/adapter_model.safetensors"))


@pytest.mark.parametrize("arm", ["full", "lora-r4", "qlora-r4"])
def test_captured_steps_are_those_of_the_eager_engine_bit_for_bit(arm: str, prepared: Path, tmp_path: Path) -> None:
    on_two = {"gpus": 2, "parallel": "data"}
    captured = trained(prepared, arm, tmp_path / "captured", **on_two)
    eager = trained(prepared, arm, tmp_path / "eager", **on_two, engine="eager")
    again = trained(prepared, arm, tmp_path / "again", **on_two)
    found = weights(captured, arm)
    for other in (eager, again):
        assert all(torch.equal(value, found[name]) for name, value in weights(other, arm).items())
    for summary in summaries(captured):
        assert (summary["status"], summary["engine"], summary["engine_reason"]) == ("completed", "captured", None)
        assert summary["train_gpu_s"] == pytest.approx(2 * summary["train_s"])
        assert len(summary["gpu_uuid"].split(", ")) == 2 and not summary["mixed_gpus"]
    env = json.loads((captured / "seed0/env.json").read_text())
    assert len({rank["gpu"]["uuid"] for rank in env["ranks"]}) == 2 and env["nccl_version"]


@pytest.mark.parametrize("arm", ["full", "lora-r4", "qlora-r4"])
def test_two_gpus_learn_as_one_does_within_rounding(arm: str, prepared: Path, tmp_path: Path) -> None:
    one = trained(prepared, arm, tmp_path / "one")
    two = trained(prepared, arm, tmp_path / "two", gpus=2, parallel="data")
    losses = [np.array([summary["test_loss"] for summary in summaries(folder)]) for folder in (one, two)]
    assert np.allclose(*losses, atol=0.02)

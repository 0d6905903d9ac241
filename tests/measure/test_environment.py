"""What env.json says of the machine, the flags and the workflow's commit."""

import json
import subprocess
import sys
from pathlib import Path

import pynvml
import pytest
import recorded_nvml
import tiny
import torch
from peft_tradeoffs.core import slurm
from peft_tradeoffs.core.quantities import Missing
from peft_tradeoffs.measure import machine
from peft_tradeoffs.measure.machine import Gpu
from peft_tradeoffs.runs.status import queue_s, wall_s
from recorded_nvml import UUID, Device

OFF = ("tf32_matmul", "deterministic_algorithms", "cudnn_deterministic", "cudnn_benchmark")


@pytest.fixture
def on_a_gpu(monkeypatch) -> Device:
    device = Device()
    recorded_nvml.install(monkeypatch, device)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: device.name)
    return device


def test_a_gpu(on_a_gpu, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_precious")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    on_a_gpu.refused["nvmlDeviceGetMigMode"] = pynvml.NVML_ERROR_NOT_SUPPORTED
    found = machine.describe("cuda", 4, Gpu(UUID))
    assert found["device_name"] == found["gpu"]["name"] == "NVIDIA H100 80GB HBM3"
    assert found["gpu"]["max_sm_clock_MHz"] == 1980
    assert set(found["gpu"]["reasons"]) == {"mig_mode"}
    assert found["cuda_runtime_version"] == "13.0"
    assert "cudnn_version" in found
    assert found["cuda_visible_devices"] == "1"
    assert found["flags"] == machine.flags()
    assert "precious" not in json.dumps(found)


def test_a_gpu_that_nvml_does_not_have(on_a_gpu, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = machine.describe("cuda", 4, Missing("no driver"))
    assert found["gpu"] == {"reasons": {"gpu": "no driver"}}
    assert found["cuda_visible_devices"] is None


def test_a_cpu_has_none_of_it():
    assert not {"gpu", "flags"} & set(machine.describe("cpu", 4))


def test_the_slurm_job_and_its_devices(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    given = {"SLURM_JOB_ID": "42", "SLURM_RESTART_COUNT": "2", "SLURM_JOB_PARTITION": "gpu", "SLURMD_NODENAME": "node7"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    for name in ("SLURM_JOB_ACCOUNT", "SLURM_CLUSTER_NAME"):
        monkeypatch.delenv(name, raising=False)
    found = machine.describe("cpu", 4)
    assert found["cuda_visible_devices"] == "3"
    assert found["host"]
    assert found["slurm"] == {
        **{"job_id": 42, "restart_count": 2, "node": "node7", "partition": "gpu", "account": None, "cluster": None},
    }
    monkeypatch.delenv("SLURM_JOB_ID")
    assert machine.describe("cpu", 4)["slurm"] is None


SCONTROL = """#!/bin/sh
[ "$SLURM_TIME_FORMAT" = standard ] || exit 1
echo "JobId=$3 SubmitTime=2026-01-01T10:00:00 EligibleTime=2026-01-01T10:01:00 LastSchedEval=2026-01-01T10:02:00 $MORE"
"""


def test_how_long_the_slurm_job_was_queued(tmp_path, monkeypatch):
    queued = slurm.Queued()
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert queued.seconds() is None
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert queued.seconds() is None  # no scontrol
    (tmp_path / "scontrol").write_text(SCONTROL, encoding="utf-8")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("MORE", "StartTime=Unknown")
    assert queued.seconds() is None
    monkeypatch.setenv("MORE", "StartTime=2026-01-01T09:51:30")  # slurmctld's clock was set back
    assert queued.seconds() is None
    monkeypatch.setenv("MORE", "StartTime=2026-01-01T10:01:30 EndTime=2026-01-01T11:00:00")
    assert queued.seconds() == 30.0
    assert queued.seconds() == 0.0  # the job's later runs did not wait


def test_hours_and_queue_of_several_attempts():
    first = {"started_at": "2026-01-01T10:00:00.000+00:00", "elapsed_s": 600.5}
    again = {"started_at": "2026-01-01T11:00:00.000+00:00", "elapsed_s": 10.0}
    lost = {"started_at": "2026-01-01T10:30:00.000+00:00", "elapsed_s": None}
    tried = [first | {"waited_s": 100.0, "queued_s": 5.0}, lost | {"waited_s": 0.0, "queued_s": 1.0}]
    tried += [again | {"waited_s": 0.0, "queued_s": 0.0}]
    assert wall_s(tried) == pytest.approx(510.5)
    assert queue_s(tried) == 6.0
    assert queue_s([*tried, first | {"queued_s": None}]) is None


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("pass", {**dict.fromkeys(OFF, False), "tf32_cudnn": True, "float32_matmul_precision": "highest"}),
        ("torch.set_float32_matmul_precision('high')", {"tf32_matmul": True, "float32_matmul_precision": "high"}),
        (
            "torch.backends.cuda.matmul.allow_tf32 = True; torch.backends.cudnn.allow_tf32 = False",
            {"tf32_matmul": True, "tf32_cudnn": False},
        ),
        (
            "torch.backends.cuda.matmul.fp32_precision = 'tf32'; torch.backends.cudnn.conv.fp32_precision = 'ieee'",
            {"tf32_matmul": True, "tf32_cudnn": False, "float32_matmul_precision": None},
        ),
        ("torch.use_deterministic_algorithms(True)", {"deterministic_algorithms": True, "cudnn_benchmark": False}),
        (
            "torch.backends.cudnn.deterministic = True; torch.backends.cudnn.benchmark = True",
            {"cudnn_deterministic": True, "cudnn_benchmark": True, "deterministic_algorithms": False},
        ),
    ],
)
def test_flags_however_they_were_set(setting, expected):
    """In a process of its own: flags are the process's."""
    code = f"import json, torch; from peft_tradeoffs.measure import machine; {setting}; " + (
        "import warnings; warnings.simplefilter('error'); print(json.dumps(machine.flags()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tiny.REPOSITORY / "workflow_scripts"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout).items() >= expected.items()


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path) -> Path:
    """A git repository with one commit."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "Snakefile").write_text("")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_the_workflows_commit(repository, tmp_path):
    head = git(repository, "rev-parse", "HEAD")
    assert machine.git_state(repository) == {"commit": head, "dirty": False}
    link = tmp_path / "link"
    link.symlink_to(repository)
    assert machine.git_state(link)["commit"] == head
    (repository / "my.yaml").write_text("of the user's own")
    assert machine.git_state(repository)["dirty"] is False
    (repository / "Snakefile").write_text("changed")
    assert machine.git_state(repository) == {"commit": head, "dirty": True}


def test_an_enclosing_repository_is_not_the_workflows(repository):
    unpacked = repository / "peft-tradeoffs"
    unpacked.mkdir()
    state = machine.git_state(unpacked)
    assert state["commit"] is None
    assert state["dirty"] is None
    assert "inside another repository" in state["reason"]


def test_no_repository(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    state = machine.git_state(tmp_path)
    assert state["commit"] is None
    assert "not a git checkout" in state["reason"]


def test_a_repository_without_a_commit(tmp_path):
    git(tmp_path, "init", "--quiet")
    assert machine.git_state(tmp_path)["commit"] is None


def test_it_is_asked_of_the_workflows_own_folder():
    assert (machine.REPOSITORY / "Snakefile").is_file()
    assert tiny.REPOSITORY.samefile(machine.REPOSITORY)

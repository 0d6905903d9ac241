"""On a GPU: jobs as a sweep starts them, from a process that is not on it; marked gpu, skipped without one."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from gpu_runs import command, prepare, summaries

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_two_jobs_at_a_time_take_turns_on_one_gpu(tmp_path: Path, tiny_bert: Path) -> None:
    prepared = prepare(tmp_path / "prepared", tiny_bert)
    jobs = {}
    for arm in ("full", "qlora-r4"):
        words = command(prepared, arm, tmp_path / arm, allow_shared_gpu=False)
        jobs[arm] = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = {arm: job.communicate() for arm, job in jobs.items()}
    assert [job.returncode for job in jobs.values()] == [0, 0], said
    (waiting,) = (arm for arm in jobs if "waits for a GPU" in said[arm][0])
    (going,) = jobs.keys() - {waiting}
    waited = {}
    for arm in jobs:
        for summary in summaries(tmp_path / arm):
            assert (summary["status"], summary["shared_gpu"]) == ("completed", False)
            assert summary["startup_s"] is None or summary["startup_s"] < 60
        env = json.loads((tmp_path / arm / "seed0/env.json").read_text())
        assert env["other_processes"] == [] and env["under_load"]["readings"] > 0
        waited[arm] = env["attempts"][0]["waited_s"]
    assert waited[going] < 0.5 < waited[waiting]
    assert summaries(tmp_path / going)[0]["idle_power_W"] > 10
    late = summaries(tmp_path / waiting)[0]
    assert late["idle_power_W"] is None and "another job" in late["null_reasons"]["idle_power_W"]
    assert late["wall_s"] + waited[waiting] > summaries(tmp_path / going)[1]["wall_s"]

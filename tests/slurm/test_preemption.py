"""Slurm ends a training job in mid-run, in each of its ways: it goes on later, to the weights of one left alone."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tiny

from slurm import workflow
from slurm.cluster import Cluster, wait_for
from slurm.jobs import Job

# Which arm meets what. All run in one call of Snakemake.
WITHOUT_WARNING, WARNED, REQUEUED, SIGNALLED = "without-warning", "warned", "requeued", "signalled"
ARMS = (WITHOUT_WARNING, WARNED, REQUEUED, SIGNALLED)
STEPS = 24 * 40  # 96 rows in batches of 4, 40 epochs


def settings(folder: Path) -> dict[str, Any]:
    experiment = tiny.config(folder, seeds=[0])
    experiment["methods"] = {arm: {"learning_rate": 1e-3 * i} for i, arm in enumerate(ARMS, 1)}
    experiment["training"].update(epochs=40, batch_size=4)
    return experiment


@dataclass
class Ended:
    """What is left of a benchmark whose jobs were ended in mid-run, beside one that ran on this machine."""

    folder: Path
    local: Path
    first_states: dict[str, str]  # of the jobs that were ended, by arm

    def env(self, arm: str) -> dict[str, Any]:
        return json.loads((self.folder / f"results/runs/reviews/tiny/{arm}/seed0/env.json").read_text())


@pytest.fixture(scope="module")
def ended(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Ended:
    """Every arm's job is stopped (SIGSTOP) when it trains and ended by Slurm, which sends SIGCONT with the signal."""
    folder, local = tmp_path_factory.mktemp("ended"), tmp_path_factory.mktemp("local")
    for one in (folder, local):
        tiny.write_inputs(one, tiny_bert, rows=96)
    tiny.snakemake(local, settings(local), f"results/runs/reviews/tiny/{ARMS[0]}/seed0/summary.json")
    # The shipped profile's signal is what WARNED gets; the others' limit is hours away or comes without it.
    shipped = workflow.shipped()["set-resources"]["train"]["slurm_extra"]
    extra = f"{shipped} if wildcards.arm != '{WITHOUT_WARNING}' else ''"
    workflow.site(folder, train={"slurm_extra": extra, "checkpoint_interval_s": 1})
    before = {job.id for job in cluster.jobs()}

    def job_of(arm: str) -> Job:
        own = [job for job in cluster.jobs() if job.id not in before and job.comment.endswith(f"_{arm}")]
        return own[0]

    def end(arm: str, *words: str) -> None:
        cluster.run(*(word.format(job=job_of(arm).id) for word in words))

    process = workflow.start(folder, settings(folder), "runs")
    ends: dict[str, Callable[[], None]] = {
        WITHOUT_WARNING: lambda: end(WITHOUT_WARNING, "scontrol", "update", "JobId={job}", "TimeLimit=1"),
        WARNED: lambda: end(WARNED, "scontrol", "update", "JobId={job}", "TimeLimit=2"),
        REQUEUED: lambda: end(REQUEUED, "scontrol", "requeue", "{job}"),
        SIGNALLED: lambda: end(SIGNALLED, "scancel", "--signal=TERM", "{job}"),
    }
    try:
        while ends:
            arm = wait_for(lambda: next((arm for arm in ends if trains(folder, arm)), None), "a job that trains", 900)
            pid = status(folder, arm)["pid"]
            os.kill(pid, signal.SIGSTOP)
            ends.pop(arm)()
            if arm == SIGNALLED:  # scancel sends this signal and no other
                os.kill(pid, signal.SIGCONT)
        tiny.snakemake(local, None, *(f"results/runs/reviews/tiny/{arm}/seed0/summary.json" for arm in ARMS))
    finally:
        workflow.finish(folder, process)
    cluster.wait_idle()
    return Ended(folder, local, {arm: job_of(arm).state for arm in ARMS})


def status(folder: Path, arm: str) -> dict[str, Any]:
    return json.loads((folder / f"results/runs/reviews/tiny/{arm}/seed0/state/status.json").read_text())


def trains(folder: Path, arm: str) -> bool:
    """Whether the arm's first attempt has done steps: it saved a state."""
    return (folder / f"results/runs/reviews/tiny/{arm}/seed0/state/checkpoint.pt").exists()


@pytest.mark.parametrize("arm", ARMS)
def test_the_weights_are_those_of_a_run_left_alone(ended: Ended, arm: str) -> None:
    for name in ("checkpoint/model.safetensors", "predictions.csv"):
        path = f"results/runs/reviews/tiny/{arm}/seed0/{name}"
        assert (ended.folder / path).read_bytes() == (ended.local / path).read_bytes()


@pytest.mark.parametrize("arm", ARMS)
def test_the_attempts_are_listed(ended: Ended, arm: str) -> None:
    first, last = ended.env(arm)["attempts"]
    assert first["reason"] == "signal SIGTERM"
    assert (first["first_step"], last["last_step"], last["reason"]) == (1, STEPS, "completed")
    assert 0 < first["last_step"] < STEPS
    assert last["first_step"] == first["last_step"] + 1
    same_job = first["slurm"]["job_id"] == last["slurm"]["job_id"]
    assert same_job == (arm == REQUEUED)
    summary = json.loads((ended.folder / f"results/runs/reviews/tiny/{arm}/seed0/summary.json").read_text())
    assert (summary["attempts"], summary["steps"], summary["mixed_gpus"]) == (2, STEPS, False)


def test_slurm_ended_them_as_meant(ended: Ended) -> None:
    assert ended.first_states == {
        WITHOUT_WARNING: "TIMEOUT",
        WARNED: "FAILED",
        REQUEUED: "COMPLETED",
        SIGNALLED: "FAILED",
    }


def test_nothing_is_left(ended: Ended) -> None:
    runs = ended.folder / "results/runs"
    assert not [*runs.rglob("state"), *runs.rglob(".seed*")]

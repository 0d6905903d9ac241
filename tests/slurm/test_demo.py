"""A small benchmark through profiles/slurm: three training jobs on two GPUs, beside the same on this machine."""

import datetime
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny

from slurm import workflow
from slurm.cluster import Cluster
from slurm.jobs import Job, Use, most_at_once, sharing
from slurm.workflow import ARMS


@dataclass
class Demo:
    """What the runs on Slurm and on this machine left."""

    folder: Path
    jobs: list[Job]
    uses: list[Use]
    local: Path


@pytest.fixture(scope="module")
def demo(cluster: Cluster, request: pytest.FixtureRequest, tiny_bert: Path) -> Demo:
    """The benchmark run with a GPU a training job, which computes on the CPU."""
    folder = request.getfixturevalue("tmp_path_factory").mktemp("demo")
    tiny.copy_workflow(folder)
    tiny.write_inputs(folder, tiny_bert)
    workflow.site(folder)
    before = {job.id for job in cluster.jobs()}
    process = workflow.start(folder, tiny.config(folder, seeds=[0]), "tables")
    try:
        # Asked for here, so that it runs while the other waits for jobs.
        local = request.getfixturevalue("finished")
    finally:
        workflow.finish(folder, process)
    cluster.wait_idle()
    jobs = [job for job in cluster.jobs() if job.id not in before]
    return Demo(folder, jobs, [use for use in cluster.uses() if use.job in {job.id for job in jobs}], local)


def test_the_result_is_the_local_runs_bit_for_bit(demo: Demo) -> None:
    local = workflow.weights_and_predictions(demo.local)
    on_slurm = workflow.weights_and_predictions(demo.folder)
    assert len(on_slurm) == 2 * len(ARMS)
    assert on_slurm == {name: content for name, content in local.items() if "/seed0/" in name}


def test_every_training_job_ran_under_slurm(demo: Demo) -> None:
    assert sorted((job.comment, job.partition, job.state) for job in demo.jobs) == [
        ("rule_tokenize_wildcards_reviews_tiny", "cpu", "COMPLETED"),
        *((f"rule_train_wildcards_reviews_tiny_{arm}", "gpu", "COMPLETED") for arm in ARMS),
    ]
    (name,) = {job.name for job in demo.jobs}
    assert name.startswith("peft-tradeoffs_")


def timestamp(text: str) -> float:
    """Seconds since the epoch of an ISO 8601 time."""
    return datetime.datetime.fromisoformat(text).timestamp()


def test_a_gpu_has_one_training_job_at_a_time(demo: Demo) -> None:
    training = [use for use in demo.uses if use.job in {job.id for job in demo.jobs if job.partition == "gpu"}]
    assert [len(use.gpus) for use in training] == [1] * len(ARMS)
    assert most_at_once(training) == 2
    assert not sharing(training)


def test_the_third_job_on_two_gpus_says_how_long_it_was_queued(demo: Demo) -> None:
    runs = tiny.summaries(demo.folder).values()
    assert len(runs) == len(ARMS) and all(0 <= run["queue_s"] < 300 and run["wall_s"] > 1 for run in runs)
    assert max(run["queue_s"] for run in runs) > 2
    assert "Queue hours" in (demo.folder / "results/tables/cost.md").read_text(encoding="utf-8")


def test_every_run_says_which_job_and_gpu_it_had(demo: Demo) -> None:
    for arm in ARMS:
        (job,) = (job for job in demo.jobs if job.comment == f"rule_train_wildcards_reviews_tiny_{arm}")
        (use,) = (use for use in demo.uses if use.job == job.id)
        env = json.loads((demo.folder / f"results/runs/reviews/tiny/{arm}/seed0/env.json").read_text())
        assert (
            env["slurm"].items() >= {"job_id": job.id, "partition": "gpu", "node": "node0", "cluster": "tests"}.items()
        )
        assert env["cuda_visible_devices"] == ",".join(map(str, use.gpus))
        (attempt,) = env["attempts"]
        assert (attempt["slurm"], attempt["host"], attempt["reason"]) == (env["slurm"], env["host"], "completed")
        assert use.started_at < timestamp(attempt["started_at"]) < timestamp(attempt["ended_at"]) < use.ended_at

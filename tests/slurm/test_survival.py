"""What clusters do to jobs, and what stands at the end."""

import json
from pathlib import Path

import pytest
import tiny

from slurm import workflow
from slurm.cluster import Cluster, ids, wait_for
from slurm.jobs import Job
from slurm.workflow import ARMS

TWO_METHODS, TWO = ("full", "lora"), ARMS[:2]  # for each of which there is a GPU


def training(cluster: Cluster, before: set[int], state: str = "") -> dict[str, Job]:
    """Training jobs by arm, without those in `before`; the last one of an arm that was submitted again."""
    jobs = [job for job in cluster.jobs() if job.id not in before and job.comment.startswith("rule_train_")]
    return {job.comment.removeprefix("rule_train_wildcards_reviews_tiny_"): job for job in jobs if state in job.state}


def wait_training(folder: Path, count: int = 1) -> None:
    """Wait until so many arms train, or did; a job's first seconds are Snakemake's own and srun's."""

    def arms() -> int:
        runs = folder / "results/runs/reviews/tiny"
        return len({path.parts[-3] for name in ("state", "summary.json") for path in runs.glob(f"*/seed*/{name}")})

    wait_for(lambda: arms() >= count, f"{count} arms that train", 600)


# Without accounting nothing answers meanwhile, so that the longer downtime has all that the shorter one has.
@pytest.mark.parametrize(
    ("cluster", "downtime_s"),
    [(False, 60), (True, 15)],
    ids=["60-accounting_off", "15-accounting_on"],
    indirect=["cluster"],
)
def test_slurmctld_down_in_mid_run(cluster: Cluster, finished: Path, tmp_path: Path, downtime_s: int) -> None:
    folder, before = workflow.untrained(finished, tmp_path), ids(cluster)
    process = workflow.start(folder, None, "runs")
    wait_training(folder, count=2)
    cluster.restart_controller(downtime_s)
    # The job that waited may find no GPU of its own in its first attempt: Slurm's "Invalid generic resource".
    said = workflow.finish(folder, process)
    assert cluster.settings.accounting or "Slurm answers again." in said  # slurmdbd answers meanwhile
    assert workflow.weights_and_predictions(folder) == workflow.weights_and_predictions(finished)
    assert {arm: job.state for arm, job in training(cluster, before).items()} == dict.fromkeys(ARMS, "COMPLETED")
    assert {run["attempts"] for run in tiny.summaries(folder).values()} == {1}


def test_a_cancelled_job_is_missing_the_others_are_not(cluster: Cluster, finished: Path, tmp_path: Path) -> None:
    folder, before = workflow.untrained(finished, tmp_path, TWO_METHODS), ids(cluster)
    workflow.site(folder, retries=0)
    process = workflow.start(folder, None, "runs")
    jobs = wait_for(lambda: len(found := training(cluster, before)) == len(TWO) and found, "all jobs submitted")
    cluster.cancel(jobs["full"].id)
    said = workflow.finish(folder, process, check=False)
    assert process.returncode == 1
    assert f"SLURM-job '{jobs['full'].id}' failed, SLURM status is: 'CANCELLED'" in said
    done = tiny.summaries(folder)
    assert {name.split("/")[0] for name in done} == {"lora-r4"}
    before = ids(cluster)
    workflow.run(folder, None, "runs")
    assert list(training(cluster, before)) == ["full"]
    again = tiny.summaries(folder)
    assert {name: again[name] for name in done} == done
    assert workflow.weights_and_predictions(folder) == workflow.weights_and_predictions(finished, TWO)


def test_a_job_that_fails_for_good_shows_its_log(cluster: Cluster, finished: Path, tmp_path: Path) -> None:
    folder, before = workflow.untrained(finished, tmp_path, TWO_METHODS), ids(cluster)
    workflow.site(folder, retries=1)
    (folder / "results/runs/reviews/tiny/full/seed0").mkdir(parents=True)
    (folder / "results/runs/reviews/tiny/full/seed0/state").write_text("a file where a folder must be")
    process = workflow.start(folder, None, "runs")
    said = workflow.finish(folder, process, check=False)
    assert process.returncode == 1
    log = folder / "results/logs/train/reviews/tiny/full/train.log"
    assert {name.split("/")[0] for name in tiny.summaries(folder)} == {"lora-r4"}
    assert log.read_text() in said and "error: " in log.read_text()
    assert [job.state for job in training(cluster, before).values()].count("FAILED") == 1
    (line,) = [line for line in workflow.status(folder).splitlines() if line.split()[:3] == ["full", "seed", "0"]]
    assert line.endswith(f"failed  {log.relative_to(folder)}")


def test_a_drained_node_only_delays(cluster: Cluster, finished: Path, tmp_path: Path) -> None:
    folder, before = workflow.untrained(finished, tmp_path), ids(cluster)
    (node,) = cluster.states()
    process = workflow.start(folder, None, "runs")
    wait_training(folder)
    cluster.drain(node)
    wait_for(lambda: cluster.states() == {node: "drained"}, "the running jobs' end", 600)
    assert training(cluster, before, "PENDING")
    assert "queued" in workflow.status(folder)
    cluster.resume(node)
    workflow.finish(folder, process)
    assert workflow.weights_and_predictions(folder) == workflow.weights_and_predictions(finished)
    assert len(training(cluster, before)) == len(ids(cluster) - before) == len(ARMS)


@pytest.mark.parametrize("cancel", [False, True], ids=["wait", "cancel"])
def test_the_way_back_after_snakemake_was_killed(
    cluster: Cluster, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cancel: bool
) -> None:
    monkeypatch.setenv("SQUEUE_STATES", "COMPLETED")  # a user's own, as the next
    monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")
    folder, before = workflow.untrained(finished, tmp_path), ids(cluster)
    process = workflow.start(folder, None, "runs")
    wait_training(folder)
    refused = workflow.recover(folder)
    assert refused.wait() == 1 and f"(process {process.pid})" in refused.communicate()[1]
    (owner,) = (folder / ".snakemake/locks").glob("*.json")
    assert json.loads(owner.read_text())["pid"] == process.pid
    process.kill()
    process.wait()

    back = workflow.recover(folder, *(["--cancel"] if cancel else []))
    if not cancel:  # meanwhile
        assert "LockException" in workflow.run(folder, None, "runs", check=False)
        assert workflow.status(folder).count("  seed ") == 2 * len(ARMS)  # some are running, unless the machine is slow
    said, errors = back.communicate(timeout=800)
    if not cancel and "Snakemake works in" in errors:  # one of these two, which a slow machine takes long for
        back = workflow.recover(folder)
        more, errors = back.communicate(timeout=800)
        said += more
    assert back.returncode == 0, errors
    jobs = training(cluster, before).values()
    assert {job.id for job in jobs if f"{job.id} ended" in said} and len(jobs) == len(ARMS)
    assert {job.state for job in jobs} <= {"COMPLETED", "CANCELLED" if cancel else ""}
    assert not cancel or "CANCELLED" in {job.state for job in jobs}
    done = tiny.summaries(folder)
    assert cancel or len(done) == 2 * len(ARMS)

    workflow.run(folder, None, "runs")
    again = tiny.summaries(folder)
    assert {name: again[name] for name in done} == done  # not trained twice
    assert workflow.weights_and_predictions(folder) == workflow.weights_and_predictions(finished)
    assert not (folder / ".snakemake/locks").exists()
    assert None not in {run["queue_s"] for run in again.values()}


def test_slurmctld_down_at_the_start(cluster: Cluster, finished: Path, tmp_path: Path) -> None:
    folder, before = workflow.untrained(finished, tmp_path, TWO_METHODS), ids(cluster)
    cluster.stop_controller()
    process = workflow.start(folder, None, "runs")
    wait_for(lambda: "cannot reach slurmctld" in (folder / "snakemake.out").read_text(), "a submission")
    cluster.start_controller()
    said = workflow.finish(folder, process)
    assert "Trying to restart job" not in said
    assert len(training(cluster, before)) == len(TWO)

"""A job of two GPUs: one task on one node that has both, which Slurm queues again and which goes on where it was."""

import json
import os
import signal
from pathlib import Path

import tiny
import yaml

from slurm import workflow
from slurm.cluster import Cluster, wait_for

EPOCHS, STEPS = 30, 30 * 16  # 64 rows in batches of 4


def test_a_job_of_two_gpus_has_both_and_goes_on_when_it_is_queued_again(
    cluster: Cluster, finished: Path, tmp_path: Path
) -> None:
    """On the CPU: a process for each of them all the same."""
    folder, before = workflow.untrained(finished, tmp_path, methods=["full"]), {job.id for job in cluster.jobs()}
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    settings["methods"]["full"]["gpus"] = 2
    settings["training"].update(epochs=EPOCHS, batch_size=4)
    workflow.site(folder, train={"gpu": "threads", "checkpoint_interval_s": 1})
    (run,) = (folder / f"results/runs/reviews/tiny/full/seed{seed}" for seed in settings["seeds"][:1])
    process = workflow.start(folder, {**settings, "seeds": settings["seeds"][:1]}, "runs")
    try:
        wait_for((run / "state/checkpoint.pt").exists, "the run trains", 300)
        os.kill(json.loads((run / "state/status.json").read_text())["pid"], signal.SIGSTOP)
        (job,) = [job for job in cluster.jobs() if job.id not in before]
        shown = cluster.show(job.id)
        cluster.run("scontrol", "requeue", str(job.id))
    finally:
        workflow.finish(folder, process)
    cluster.wait_idle()
    keys = ("NumNodes", "NumTasks", "NumCPUs", "CPUs/Task", "MinMemoryNode", "TresPerJob")
    # 2 CPUs and the shipped profile's memory for each process.
    assert [shown.get(key) for key in keys] == ["1", "1", "4", "4", "32000M", "gres:gpu:2"]
    assert [use.gpus for use in cluster.uses() if use.job == job.id] == [(0, 1)] * 2
    env = json.loads((run / "env.json").read_text())
    first, last = env["attempts"]
    assert first["slurm"]["job_id"] == last["slurm"]["job_id"] == job.id
    assert 1 < last["first_step"] == first["last_step"] + 1
    assert (last["last_step"], last["reason"]) == (STEPS, "completed")
    assert [rank["rank"] for rank in env["ranks"]] == [0, 1]
    assert env["threads"] == 1
    assert tiny.summaries(folder)["full/seed0"]["gpus"] == 2

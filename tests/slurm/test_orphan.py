"""An orphan, left by a Snakemake that was killed, and the job that a second call submits beside it."""

import json
import subprocess
from pathlib import Path
from typing import Any

import psutil
import tiny

from slurm import workflow
from slurm.cluster import Cluster, wait_for

RUNS = "results/runs/reviews/tiny/full"
LOG = "results/logs/train/reviews/tiny/full/train.log"


def settings(folder: Path) -> dict[str, Any]:
    experiment = tiny.config(folder)
    experiment["methods"] = {"full": experiment["methods"]["full"]}
    experiment["training"].update(epochs=40, batch_size=4)
    return experiment


def state(run: Path, name: str) -> dict[str, Any]:
    """A file of the run's state; empty before it is there."""
    path = run / f"state/{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def test_an_orphan_that_ends_while_its_successor_waits_loses_nothing(
    cluster: Cluster, tmp_path: Path, tiny_bert: Path
) -> None:
    """The orphan's own Snakemake removes the summary of the seed that was finished, after the successor saw it."""
    folder, local = tmp_path / "cluster", tmp_path / "local"
    for one in (folder, local):
        one.mkdir()
        tiny.write_inputs(one, tiny_bert, rows=96)
    workflow.site(folder, train={"checkpoint_interval_s": 1})
    snakemake = workflow.start(folder, settings(folder), "runs")
    first, second = folder / RUNS / "seed0", folder / RUNS / "seed1"
    wait_for(lambda: state(second, "status").get("step"), "the second seed's steps", 900)
    training = psutil.Process(state(second, "status")["pid"])
    training.suspend()
    snakemake.kill()
    snakemake.wait()
    trained = (first / "env.json").stat().st_mtime_ns
    subprocess.run(workflow.command(folder, "--unlock"), check=True, capture_output=True)
    snakemake = workflow.start(folder, None, "runs")
    log = folder / LOG
    wait_for(lambda: log.exists() and "waits up to" in log.read_text(), "the successor's wait", 600)
    waiting = training.parent()
    waiting.suspend()
    training.terminate()
    training.resume()
    wait_for(lambda: len(state(second, "attempts").get("attempts", [])) == 2, "the successor's training")
    waiting.resume()
    wait_for(lambda: not (first / "summary.json").exists(), "the cleaning of the orphan's Snakemake")

    workflow.finish(folder, snakemake)
    assert (first / "env.json").stat().st_mtime_ns == trained
    assert {name: run["attempts"] for name, run in tiny.summaries(folder).items()} == {
        "full/seed0": 1,
        "full/seed1": 2,
    }
    ended, last = json.loads((second / "env.json").read_text())["attempts"]
    assert ended["reason"] == "signal SIGTERM" and last["first_step"] == ended["last_step"] + 1
    tiny.snakemake(local, settings(local), "runs")
    assert workflow.weights_and_predictions(folder) == workflow.weights_and_predictions(local)
    assert "interrupted" not in (status := workflow.status(folder)) and "2 done" in status

"""Time what SLURM and Snakemake add to training: from submission to start, between jobs, and within a job.

Starts the tests' Slurm on this machine (as root; two fake GPUs, the CPU computes) and trains LoRA arms of a tiny model,
a seed and a job each. Medians; the parts of a job's wall time are those that its runs recorded.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path[:0] = [str(REPOSITORY / folder) for folder in ("tests", "tests/helpers", "workflow_scripts")]

import tiny  # noqa: E402
from slurm import workflow  # noqa: E402
from slurm.cluster import Cluster, missing  # noqa: E402
from slurm.jobs import Use  # noqa: E402

IN_TRAINING = ("load_s", "mask_s", "probe_s", "prepare_s", "evaluate_s", "save_s", "state_s")
COLUMNS = {
    "arms": "arms",
    "call": "whole call",
    "submitted": "call to first submission",
    "started": "submission to start, GPU free",
    "between": "GPU idle between jobs",
    "job": "job",
    "imports": "of it imports",
    "train": "of it steps",
    "phases": "of it other phases",
    "rest": "of it Snakemake, srun, exit",
    "noticed": "last job's end to the call's end",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", type=int, nargs="+", default=[1, 10, 40])
    arguments = parser.parse_args()
    if reason := missing():
        sys.exit(f"error: {reason}")
    print("Seconds.")
    print("| " + " | ".join(COLUMNS.values()) + " |")
    print("|" + "---:|" * len(COLUMNS))
    with Cluster(extra="MinJobAge=7200\n") as cluster, tempfile.TemporaryDirectory() as name:
        model = tiny.bert(Path(name) / "bert")
        for arms in arguments.arms:
            folder = Path(name) / str(arms)
            folder.mkdir()
            row = measure(cluster, folder, model, arms)
            cells = [f"{row[key]:.{int(key != 'arms')}f}" for key in COLUMNS]
            print(f"| {' | '.join(cells)} |", flush=True)


def measure(cluster: Cluster, folder: Path, model: Path, arms: int) -> dict[str, float]:
    """Times in s of one call that trains `arms` arms; what comes before training is done already."""
    tiny.write_inputs(folder, model)
    methods = {"lora": {"learning_rate": 1e-2, "ranks": list(range(1, arms + 1)), "peft": tiny.LORA}}
    settings = tiny.config(folder, methods=methods, seeds=[0])
    tiny.snakemake(folder, settings, "results/tokens/reviews/tiny.npz")
    workflow.site(folder)
    before = {job.id for job in cluster.jobs()}
    began = time.time()
    workflow.finish(folder, workflow.start(folder, None, "runs"), seconds=1800)
    ended = time.time()
    cluster.wait_idle()
    uses = [use for use in cluster.uses() if use.job not in before]
    submitted = {use.job: submission(cluster, use.job) for use in uses}
    runs = list(tiny.summaries(folder).values())
    parts = {
        "imports": median(run["startup_s"] for run in runs),
        "train": median(run["train_s"] for run in runs),
        "phases": median(sum(run[key] or 0.0 for key in IN_TRAINING) for run in runs),
    }
    job = median(use.ended_at - use.started_at for use in uses)
    free = uses[: cluster.settings.gpus]  # the first jobs find their GPUs free
    return {
        "arms": arms,
        "call": ended - began,
        "submitted": min(submitted.values()) - began,
        "started": median(use.started_at - submitted[use.job] for use in free),
        "between": median(gaps(uses)),
        "job": job,
        **parts,
        "rest": job - sum(parts.values()),
        "noticed": ended - max(use.ended_at for use in uses),
    }


def submission(cluster: Cluster, job: int) -> float:
    """When the job was submitted, s since the epoch; Slurm knows it to the second."""
    return datetime.fromisoformat(cluster.show(job)["SubmitTime"]).timestamp()


def gaps(uses: list[Use]) -> list[float]:
    """Seconds from a job's end on a GPU to the next one's start there."""
    found, last = [], defaultdict(float)
    for use in uses:
        for gpu in use.gpus:
            if gpu in last:
                found.append(use.started_at - last[gpu])
            last[gpu] = use.ended_at
    return found


def median(values) -> float:
    """The median; nan of nothing."""
    values = list(values)
    return statistics.median(values) if values else float("nan")


if __name__ == "__main__":
    main()

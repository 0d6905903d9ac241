"""What sbatch, squeue and sacct of a real Slurm say where they cannot do what is asked, and what becomes of it."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from peft_tradeoffs.core import slurm
from peft_tradeoffs.runs import slurm_executor

from slurm import workflow
from slurm.cluster import Cluster, ids, wait_for
from slurm.workflow import ARMS

WITH_ACCOUNTING = pytest.mark.parametrize("cluster", [True], ids=["accounting_on"], indirect=True)
NAME = "peft-tradeoffs_13f32f26-3e76-4285-b0bf-0f28cc44a36f"
SBATCH = """#!/bin/sh
case "$*" in *rule_train*) ;; *) exec {real} "$@" ;; esac
echo x >> {calls}
case $(wc -l < {calls}) in
1) echo 'sbatch: error: Batch job submission failed: Resource temporarily unavailable' >&2; exit 1 ;;
2) echo 'sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received' >&2; exit 1 ;;
esac
exec {real} "$@"
"""


def submit(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    words = ["sbatch", "--parsable", "--output=/dev/null", f"--job-name={NAME}", f"--chdir={folder}", *options]
    return subprocess.run([*words, "--wrap=sleep 1000"], stdin=subprocess.DEVNULL, capture_output=True, text=True)


def states(jobs: list[str], sources: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    return asyncio.run(slurm_executor.job_states(NAME, jobs, sources))


def test_sacct_without_accounting_says_so_and_squeue_answers(cluster: Cluster, tmp_path: Path) -> None:
    job = submit(tmp_path).stdout.strip()
    found, failed = states([job], ["sacct", "squeue"])
    assert found[job] in ("PENDING", "RUNNING", "CONFIGURING")
    assert list(failed) == ["sacct"] and "accounting" in failed["sacct"]
    cluster.cancel(int(job))


@pytest.mark.parametrize("limit", ["", "%2"])
def test_tasks_of_an_array_that_wait_are_listed_each(cluster: Cluster, tmp_path: Path, limit: str) -> None:
    array = submit(tmp_path, "--hold", f"--array=1-3,7{limit}", "--comment=rule_train").stdout.strip()
    tasks = [f"{array}_{number}" for number in (1, 2, 3, 7)]
    assert states(tasks, ["squeue"]) == (dict.fromkeys(tasks, "PENDING"), {})
    assert [job.id for job in slurm.jobs(tmp_path)] == tasks
    slurm.cancel(slurm.jobs(tmp_path)[:1])
    assert states(tasks[:2], ["squeue"])[0] == {tasks[1]: "PENDING"}  # squeue keeps no word of one that had not begun


@WITH_ACCOUNTING
def test_sacct_tells_tasks_apart_and_a_cancelled_job(cluster: Cluster, tmp_path: Path) -> None:
    array = submit(tmp_path, "--array=1-3%1").stdout.strip()
    tasks = [f"{array}_{number}" for number in (1, 2, 3)]

    def told(*sources: str) -> list[str | None]:
        found, _ = states(tasks, list(sources))
        return [found.get(task) for task in tasks]

    # slurmdbd hears of jobs with a delay, so that squeue has a word on them too.
    wait_for(lambda: told("sacct", "squeue") == ["RUNNING", "PENDING", "PENDING"], "the array")
    cluster.run("scancel", *tasks)
    wait_for(lambda: told("sacct")[0] == "CANCELLED", "the cancelled task in sacct")  # "CANCELLED by 0"


@WITH_ACCOUNTING
def test_a_limit_on_jobs_is_told_from_one_on_their_size(cluster: Cluster, tmp_path: Path) -> None:
    account = ("where", "account=tests", "user=root", "set")
    try:
        cluster.run("sacctmgr", "--immediate", "modify", "user", *account, "MaxSubmitJobs=1")
        job = submit(tmp_path, "--hold").stdout.strip()
        said = submit(tmp_path, "--hold").stderr
        assert slurm_executor.limited(said) and slurm_executor.passes(said), said
        assert slurm_executor.only_own_jobs_count(slurm_executor.limited(said) or ""), said
        cluster.cancel(int(job))
    finally:
        cluster.run("sacctmgr", "--immediate", "modify", "user", *account, "MaxSubmitJobs=-1")
    for options in (("--partition=nowhere",), ("--account=nobody",), ("--gres=tpu:1",)):
        assert not slurm_executor.passes(submit(tmp_path, *options).stderr)


def test_a_name_of_several_lines_is_in_nobodys_way(cluster: Cluster, tmp_path: Path) -> None:
    words = ("sbatch", "--parsable", "--hold", "--output=/dev/null", "--job-name=a\nb|c", "--wrap=true")
    other = cluster.run(*words).strip()
    own = submit(tmp_path, "--hold").stdout.strip()
    assert [job.id for job in slurm.jobs(tmp_path)] == [own]
    assert slurm.unfinished() >= {own, other}
    cluster.cancel(int(own), int(other))


def test_an_array_through_momentary_errors_where_sacct_cannot_answer(
    cluster: Cluster, finished: Path, tmp_path: Path
) -> None:
    """One run for all of it: two refused submissions, waiting tasks, and a status command without accounting."""
    folder, before = workflow.untrained(finished, tmp_path / "work"), ids(cluster)
    workflow.site(folder, retries=0, slurm_status_command="sacct", slurm_array_jobs="train")
    (tmp_path / "bin").mkdir()
    text = SBATCH.format(real=shutil.which("sbatch"), calls=tmp_path / "calls")
    (tmp_path / "bin/sbatch").write_text(text)
    (tmp_path / "bin/sbatch").chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    said = workflow.run(folder, None, "runs", PATH=path)
    assert "Slurm accounting storage is disabled" in said and "squeue is asked in its place" in said
    assert said.count("no attempt of the job") == 2 and "Trying to restart" not in said
    assert (tmp_path / "calls").read_text().count("x") == 3
    assert len({job.comment for job in cluster.jobs() if job.id not in before}) == 1
    assert len(list((folder / "results/runs").rglob("summary.json"))) == 2 * len(ARMS)

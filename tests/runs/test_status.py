"""How far each run is: one line per run, from its folder and Slurm's queue."""

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import synthetic
import tiny
from peft_tradeoffs.core import files, slurm
from peft_tradeoffs.core.slurm import Job
from peft_tradeoffs.runs import status
from peft_tradeoffs.runs.status import grid_status, table, time_left, tuning_status

GRID = {"dataset": ["reviews"], "model": ["tiny"], "arm": ["full", "lora-r4"], "seed": [0, 1]}
UUID = "13f32f26-3e76-4285-b0bf-0f28cc44a36f"


def live(folder: Path, age_s: float = 0.0, **changes) -> None:
    """A run's status.json, as its process wrote it `age_s` ago by the file system's clock."""
    written = "1999-01-01T00:00:00.000+00:00"  # by the clock of its node, which is wrong
    values = {"status": "running", "step": 40, "total": 100, "eta_s": 3725.4, "updated_at": written, "host": "node7"}
    values |= {"pid": 12, "slurm_job_id": 17, **changes}
    (folder / "state").mkdir(parents=True, exist_ok=True)
    path = folder / "state/status.json"
    path.write_text(json.dumps(files.signed(values)))
    os.utime(path, (time.time() - age_s, time.time() - age_s))


def summary(folder: Path, **changes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values = {"status": "completed", "metric": "accuracy", "metric_value": 0.91234, "failed_phase": None}
    values |= {"fingerprint": "f", **changes}
    (folder / "summary.json").write_text(json.dumps(files.seal(values, folder)))


def job(number: int, arm: str, state: str = "RUNNING", reason: str = "None", node: str = "node7") -> Job:
    return Job(str(number), state, reason, node, f"rule_train_wildcards_reviews_tiny_{arm}")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs/reviews/tiny"


def lines(output: Path, *jobs: Job, unfinished: set[str] | None = None) -> list[str]:
    return table(grid_status(output, GRID, list(jobs), unfinished)).splitlines()


def test_a_line_a_run_and_their_counts(tmp_path, runs):
    summary(runs / "full/seed0")
    live(runs / "full/seed1")
    assert lines(tmp_path, job(17, "full"), job(18, "lora-r4", "PENDING", "Resources", "")) == [
        "reviews · tiny",
        "  full     seed 0  done     accuracy 0.9123",
        "  full     seed 1  running  step 40/100, 1:02:05 left, job 17 on node7",
        "  lora-r4  seed 0  queued   job 18, Resources",
        "  lora-r4  seed 1  queued   job 18, Resources",
        "1 done, 1 running, 2 queued",
    ]


def test_what_did_not_complete_is_done_too(tmp_path, runs):
    summary(runs / "full/seed0", status="oom", failed_phase="probe", metric_value=None)
    summary(runs / "full/seed1", status="diverged", failed_phase="train", metric_value=None)
    summary(runs / "lora-r4/seed0", metric="mcc", metric_value=None)
    assert [line.split("  ")[-1].strip() for line in lines(tmp_path)[1:4]] == [
        *("out of memory in probe", "diverged in train", "mcc –"),
    ]


def test_a_failed_run_names_its_log(tmp_path, runs):
    logs = tmp_path / "logs/train/reviews/tiny"
    for arm, text in {"full": "error: no space left\n", "lora-r4": "UserWarning: harmless\n"}.items():
        (logs / arm).mkdir(parents=True)
        (logs / arm / "train.log").write_text(text)
    summary(runs / "full/seed0")
    assert [line.split()[3:] for line in lines(tmp_path)[1:]][:4] == [
        ["done", "accuracy", "0.9123"],
        ["failed", str(logs / "full/train.log")],
        ["not", "started"],
        ["not", "started"],
    ]
    (logs / "lora-r4/seed1.log").write_text("Traceback (most recent call last):\nValueError: no\n")
    assert lines(tmp_path)[4].endswith(f"failed       {logs / 'lora-r4/seed1.log'}")


def test_a_run_that_stopped_is_not_running(tmp_path, runs):
    live(runs / "full/seed0", age_s=1e5)
    live(runs / "full/seed1", age_s=1e5, step=None, total=None)
    live(runs / "lora-r4/seed0", age_s=-1e5)  # the file system's clock was set back
    dead = subprocess.Popen(["true"])
    dead.wait()
    live(runs / "lora-r4/seed1", slurm_job_id=None, host=socket.gethostname(), pid=dead.pid)
    resubmitted = job(19, "lora-r4", "PENDING", "Priority", "")
    shown = [" ".join(line.split()[2:]) for line in lines(tmp_path)[1:5]]
    assert shown == [
        "0 interrupted at step 40/100; the next call goes on with it",
        "1 interrupted the next call starts it",
        "0 interrupted at step 40/100; the next call goes on with it",
        "1 interrupted at step 40/100; the next call goes on with it",
    ]
    shown = [" ".join(line.split()[2:]) for line in lines(tmp_path, resubmitted)[3:5]]
    assert shown == [f"{seed} queued job 19, Priority; at step 40/100" for seed in (0, 1)]


def test_a_run_of_this_machine_is_running(tmp_path, runs):
    live(runs / "full/seed0", slurm_job_id=None, host=socket.gethostname(), pid=os.getpid(), eta_s=None)
    assert lines(tmp_path)[1].endswith(f"step 40/100, process {os.getpid()} on {socket.gethostname()}")


def test_a_job_that_started_has_no_steps_yet(tmp_path):
    assert lines(tmp_path, job(17, "full"))[1].endswith("running      job 17 on node7, not at its steps yet")


def test_of_an_orphan_and_the_job_that_waits_for_it_the_one_that_trains_is_shown(tmp_path, runs):
    live(runs / "full/seed0", eta_s=None)
    shown = lines(tmp_path, job(17, "full", node="node7"), job(20, "full", node="node8"))
    assert shown[1].endswith("running      step 40/100, job 17 on node7")


def test_a_seed_waits_for_the_one_before_it_in_its_job(tmp_path, runs):
    live(runs / "full/seed0", eta_s=None)
    live(runs / "full/seed1", slurm_job_id=3)  # of an earlier attempt
    assert lines(tmp_path, job(17, "full"))[1:3] == [
        "  full     seed 0  running      step 40/100, job 17 on node7",
        "  full     seed 1  queued       job 17, after seed 0; at step 40/100",
    ]


def test_a_node_has_one_name(tmp_path, runs):
    live(runs / "full/seed0", eta_s=None, host="node7.cluster.example")
    assert lines(tmp_path, job(17, "full"))[1].endswith("job 17 on node7")


@pytest.mark.parametrize("fingerprint", ["f", "another"])
def test_a_finished_seed_of_a_job_that_failed_is_done(tmp_path, runs, fingerprint):
    """Snakemake removed its summary; its state has it, unless the run was begun again with other settings."""
    live(runs / "full/seed0", status="ended", step=100)
    summary(runs / "full/seed0/state", fingerprint="f")
    (runs / "full/seed0/state/attempts.json").write_text(
        json.dumps(files.signed({"fingerprint": fingerprint, "attempts": []}))
    )
    done = "done         accuracy 0.9123" in lines(tmp_path)[1]
    assert done == (fingerprint == "f") != ("interrupted" in lines(tmp_path)[1])
    (runs / "full/seed0/state/attempts.json").unlink()
    (runs / "full/seed0/state/status.json").unlink()
    assert "done         accuracy 0.9123" in lines(tmp_path)[1]


def test_a_job_that_slurm_does_not_list_is_not_running(tmp_path, runs, monkeypatch):
    """Whatever its last sign of life says by the clock of its node."""
    live(runs / "full/seed0", eta_s=None)
    assert "interrupted" in lines(tmp_path, unfinished={"18"})[1]
    assert "running" in lines(tmp_path, unfinished={"17", "18"})[1]  # by hand, not through Snakemake
    monkeypatch.setattr(os, "getuid", lambda: (runs / "full/seed0").stat().st_uid + 1)
    assert "running" in lines(tmp_path, unfinished={"18"})[1]  # another user's


def test_a_job_a_seed(tmp_path):
    shown = lines(tmp_path, job(17, "full_1"))
    assert "not started" in shown[1] and "job 17" in shown[2]


@pytest.fixture
def fake_squeue(tmp_path, monkeypatch) -> Path:
    """A squeue that prints the file `queue` in its folder; it knows of no job if a user's variable reaches it."""
    path = tmp_path / "bin/squeue"
    path.parent.mkdir()
    path.write_text('#!/bin/sh\n[ "$SQUEUE_STATES" ] || cat "$(dirname "$0")/queue"\n')
    monkeypatch.setenv("SQUEUE_STATES", "COMPLETED")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


def test_jobs_are_those_that_snakemake_submitted_from_the_folder(tmp_path, fake_squeue):
    comment = "rule_train_wildcards_reviews_tiny_full"
    (fake_squeue.parent / "queue").write_text(
        f"7|peft-tradeoffs_{UUID}|PENDING|Priority||{comment}|{tmp_path}\n"
        f"8|{UUID}|RUNNING|None|node1|rule_all|{tmp_path}/.\n"
        f"9|peft-tradeoffs_{UUID}|RUNNING|None|node1|rule_all|{tmp_path}/elsewhere\n"
        f"10|interactive|RUNNING|None|node1|(null)|{tmp_path}\n"
    )
    found = slurm.jobs(tmp_path)
    assert [job.id for job in found] == ["7", "8"]
    assert str(found[0]) == "7 train reviews_tiny_full: PENDING Priority"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("slurm_load_jobs error: Unable to contact", "squeue: slurm_load_jobs error: Unable to contact"),
        ("squeue: error: no configuration", "squeue: error: no configuration"),
        ("", "squeue: exit status 1"),
    ],
)
def test_a_slurm_that_does_not_answer_is_said(said, shown, tmp_path, fake_squeue):
    fake_squeue.write_text(f"#!/bin/sh\necho {said} >&2\nexit 1\n")
    with pytest.raises(slurm.NoAnswer, match=f"^{shown}$"):
        slurm.jobs(tmp_path)


@pytest.mark.parametrize("sent", [False, True])
def test_slurm_is_asked_where_jobs_were_sent_to_it(sent, tmp_path, fake_squeue):
    """A machine may have its commands and no cluster."""
    fake_squeue.write_text("#!/bin/sh\necho squeue: error: no configuration >&2\nexit 1\n")
    if sent:
        (tmp_path / ".snakemake/slurm_logs").mkdir(parents=True)
    script = [sys.executable, tiny.REPOSITORY / "workflow_scripts/status.py", "--config"]
    done = subprocess.run([*script, json.dumps(tiny.config(tmp_path))], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert ("squeue" in done.stdout) == sent and "6 not started" in done.stdout


def test_the_target_makes_nothing_and_leaves_a_running_call_its_lock(tmp_path, finished):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    lock = folder / ".snakemake/locks/0.output.lock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text("results/tables/runs.csv\n")
    before = {path for path in folder.rglob("*") if ".snakemake" not in path.parts}
    for _ in range(2):
        said = tiny.snakemake(folder, None, "status").stdout
        assert "6 done" in said
    assert lock.exists()
    made = {path for path in folder.rglob("*") if ".snakemake" not in path.parts} - before
    assert {str(path.relative_to(folder)) for path in made} <= {"results/logs/status.log"}


def test_what_was_made_with_other_settings_is_not_done(tmp_path, finished):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    settings = tiny.config(folder)
    script = [sys.executable, tiny.REPOSITORY / "workflow_scripts/status.py", "--config"]

    def said() -> str:
        return subprocess.run([*script, json.dumps(settings)], cwd=folder, capture_output=True, text=True).stdout

    assert "6 done" in said()
    settings["training"]["epochs"] += 1
    assert "6 not started" in said() and said().count("is of other settings") == 6
    settings["training"]["epochs"] -= 1
    settings["methods"]["lora"]["learning_rate"] = [1e-3, 3e-3]
    settings["methods"]["full"]["learning_rate"] = [1e-4, 3e-4]
    settings["methods"]["qlora"]["learning_rate"] = [1e-3, 3e-3]
    settings["tune"] = {"extend": True, "max_extensions": 1, "retry": 1}
    assert re.search(r"; 0 of at most \d+ trainings$", said().strip()), said()


def test_it_starts_without_torch():
    script = "import sys; import status; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=tiny.REPOSITORY / "workflow_scripts")
    assert done.returncode == 0
    assert status.duration(59.9) == "0:59"


def test_a_line_a_tuning_before_the_runs(tmp_path, runs):
    trials = {"full": [1e-5, 1e-4], "lora-r4": [1e-4, 1e-3], "a": [1e-4, 1e-3], "b": [1e-4, 1e-3], "c": [1e-4, 1e-3]}
    best = tmp_path / "tune/best/reviews/tiny/full.json"
    best.parent.mkdir(parents=True)
    (found,) = synthetic.tunings([synthetic.summary("full", None, 0)], {})
    best.write_text(json.dumps(files.signed({**found, "learning_rate": 1e-4, "rates": [1e-5, 1e-4]})))
    summary(tmp_path / "tune/trials/reviews/tiny/lora-r4/lr0.0001")
    summary(tmp_path / "tune/trials/reviews/tiny/lora-r4/lr3e-05")
    live(tmp_path / "tune/trials/reviews/tiny/lora-r4/lr0.001")
    live(tmp_path / "tune/trials/reviews/tiny/a/lr0.001", status="interrupted")
    log = tmp_path / "logs/tune/reviews/tiny/b.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: no room\n")
    jobs = [
        Job("17", "RUNNING", "None", "node7", "rule_tune_wildcards_reviews_tiny_lora-r4"),
        Job("18", "PENDING", "Resources", "", "rule_tune_wildcards_reviews_tiny_c"),
    ]
    found = tuning_status(tmp_path, GRID, trials, jobs)["reviews · tiny"]
    assert [(one.arm, one.state, one.detail) for one in found] == [
        ("full", "done", "learning rate 0.0001 of 3 tried"),
        (
            "lora-r4",
            "running",
            "1 of 2 trials; trial of learning rate 0.001: step 40/100, 1:02:05 left, job 17 on node7",
        ),
        ("a", "interrupted", "0 of 2 trials; the next call goes on"),
        ("b", "failed", str(log)),
        ("c", "queued", "job 18, Resources"),
    ]
    assert table({"reviews · tiny": found[:2]}).splitlines()[1:] == [
        "  full     tuning  done     learning rate 0.0001 of 3 tried",
        "  lora-r4  tuning  running  1 of 2 trials; trial of learning rate 0.001: step 40/100, 1:02:05 left, "
        "job 17 on node7",
        "1 done, 1 running; 1 of 4 trainings",
    ]


def test_the_time_left_is_told_at_the_pace_of_the_last_trainings(tmp_path, runs):
    """By hand: four ended a minute apart, the last a minute ago; a trial and three runs are missing."""
    trials = {"full": [1e-5, 1e-4]}

    def left() -> str:
        every = tuning_status(tmp_path, GRID, trials, [])["reviews · tiny"]
        return time_left(tmp_path, {"reviews · tiny": every + grid_status(tmp_path, GRID, [])["reviews · tiny"]})

    own = tmp_path / "tune/trials/reviews/tiny/full"
    ended = [own / "lr0.0001", own / "retry1/lr0.0001", own / "lr3e-05", runs / "full/seed0"]
    for minutes, folder in zip((4, 3, 2, 1), ended, strict=True):
        assert left() == ""
        summary(folder)
        was = time.time() - 60 * minutes
        os.utime(folder / "summary.json", (was, was))
    assert left() == "", "nothing runs"
    live(runs / "full/seed1", slurm_job_id=None, host=socket.gethostname(), pid=os.getpid())
    assert left() in [f"about {told} left, at the pace of the last 4 trainings" for told in ("3:00", "2:59", "2:58")]

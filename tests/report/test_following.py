"""Runs followed while they train: every point once, in place of nothing but their own, and no harm from a tracker."""

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import tiny
from peft_tradeoffs.core import files
from peft_tradeoffs.report import tracking
from peft_tradeoffs.runs.status import POINTS, Points, points_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

NAME = "reviews/tiny/full/seed0"
SCRIPTS = tiny.REPOSITORY / "workflow_scripts"
KEEPS_ITS_STATE = """
import sys
sys.path.insert(0, {scripts!r})
import train
from peft_tradeoffs.training.job import RunDirectory
RunDirectory.clear_state = lambda *_, **__: None
train.main()
"""
# A package in place of a tracker's.
FAKE = "import os, time\nclass Live:\n    step = 0\n    def __init__(self, dir, **_):\n        self.dir = dir\n{}"
FAKE += "    def log_metric(self, *_): pass\n"
FAKE += "    def make_summary(self): open(self.dir.replace('/', '-'), 'w').close()\n"
HANGS = "        open('hangs', 'w').close()\n        time.sleep(1e6)\n"
RAISES = "        if dir.endswith('seed0'):\n            raise RuntimeError('https://me:pw@host refused')\n"
TRACKIO = """
import json, sys, trackio
from trackio.sqlite_storage import SQLiteStorage
try:
    found = [run for run in trackio.Api().runs("trial") if run.name == sys.argv[1]]
except ValueError:
    found = []
logs = [log for run in found for log in SQLiteStorage.get_logs(run.project, run.name, run_id=run.id)]
print("\\n" + json.dumps([log["test/loss"] for log in logs if "test/loss" in log]))
"""
OWNER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {scripts!r})
from peft_tradeoffs.report.tracking import Account, start_following
process = start_following(Account("tensorboard", "trial", Path("tracking/tensorboard")), Path(), Path("log"))
print(process.pid, flush=True)
time.sleep(1e6)
"""


def loss(step: int, value: float = 0.5) -> dict:
    return {"epoch": step / 4, "step": step, "recent_train_loss": value, "learning_rate": 1e-3}


def evaluation(step: int, value: float, split: str = "test") -> dict:
    given = {"epoch": step / 4, "step": step, "split": split, "train_loss": 0.5, "learning_rate": 1e-3, "train_s": 1.0}
    return {**given, "loss": value, "f1": None}


def begin(output: Path, name: str = NAME, done: int = 0, fingerprint: str = "f") -> Callable[..., None]:
    """A run that trains; what appends rows to its points."""
    state = output / "runs" / name / "state"
    state.mkdir(parents=True, exist_ok=True)
    points = Points(state / POINTS)
    points.begin({"fingerprint": fingerprint, "started_at": str(time.time_ns())}, done)

    def add(*rows: dict) -> None:
        for row in rows:
            points.add(row)
        points.write()

    return add


def account(output: Path, tracker: str = "tensorboard") -> tracking.Account:
    return tracking.Account(tracker, "trial", output / "tracking" / tracker)


def look(follower: tracking.Follower) -> list[str]:
    """Let it look once; the names of the runs that it sent of."""
    found = follower.changed()
    for run in found:
        follower.send(run)
    return ["/".join(run.parts[-4:]) for run in found]


def shown(folder: Path, name: str = NAME) -> dict[int, dict[str, float]]:
    """What TensorBoard has of a run, in which no point stands twice."""
    events = EventAccumulator(str(folder / name), purge_orphaned_data=False).Reload()
    points: dict[int, dict[str, float]] = {}
    for tag in events.Tags()["scalars"]:
        for event in events.Scalars(tag):
            assert tag not in points.setdefault(event.step, {}), (tag, event.step)
            points[event.step][tag] = event.value
    return points


def as_shown(points: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    """In float32, as TensorBoard has them."""
    return {step: {key: pytest.approx(value, rel=1e-6) for key, value in row.items()} for step, row in points.items()}


def test_the_points_of_a_run_are_the_rows_of_its_metrics(finished, tmp_path):
    results = finished / "results"
    settings = json.loads((results / f"runs/{NAME}/env.json").read_text())["settings"]
    words = ["--settings", json.dumps(settings), "--seeds", "0", "--output-dir", str(tmp_path)]
    words += ["--tokens", str(results / "tokens/reviews/tiny.npz"), "--model", str(results / "models/tiny")]
    script = KEEPS_ITS_STATE.format(scripts=str(SCRIPTS))
    done = subprocess.run([sys.executable, "-c", script, *words, "--checkpoint-interval", "0"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    attempt, rows = points_of(tmp_path / "seed0/state" / POINTS)
    assert attempt["fingerprint"] == files.read_json(tmp_path / "seed0/summary.json")["fingerprint"]
    found, recorded = tracking.by_step(rows), tracking.read_points(tmp_path / "seed0/metrics.csv")
    assert len(recorded) == 1 and len(found) == files.read_json(tmp_path / "seed0/summary.json")["steps"] == 8
    for step, values in recorded.items():
        assert {key: value for key, value in found[step].items() if key != "recent_train_loss"} == values
    assert all({"epoch", "learning_rate", "recent_train_loss"} <= set(values) for values in found.values())


def test_a_run_that_goes_on_and_ends_has_every_point_once(tmp_path):
    folder = account(tmp_path).folder
    left = begin(tmp_path, "reviews/tiny/lora/seed0")  # by an earlier call
    left(loss(1))
    follower = tracking.Follower(account(tmp_path), tmp_path)
    assert look(follower) == []
    add = begin(tmp_path)
    add(loss(1), loss(2))
    assert look(follower) == [NAME] and look(follower) == []
    assert set(shown(folder)) == {1, 2}
    add(loss(4), evaluation(4, 0.25), evaluation(4, 0.75, "validation"), loss(5))
    assert look(follower) == [NAME]
    wanted = tracking.by_step([loss(4), evaluation(4, 0.25), evaluation(4, 0.75, "validation")])
    assert shown(folder)[4] == as_shown(wanted)[4]
    assert {"test/loss", "validation/loss", "train_loss"} < set(wanted[4]) and "test/f1" not in wanted[4]

    again = begin(tmp_path, done=4)  # the run was killed and goes on; the follower of the same call sees both attempts
    again(loss(6, 0.125), loss(8), evaluation(8, 0.125))
    left(loss(2))
    assert sorted(look(follower)) == [NAME, "reviews/tiny/lora/seed0"]
    assert set(shown(folder)) == {1, 2, 4, 6, 8} and shown(folder)[6]["recent_train_loss"] == 0.125

    points = sorted(tracking.by_step([evaluation(4, 0.25), evaluation(8, 0.125)]).items())
    points[-1][1]["summary/train_s"] = 1.0
    run = tracking.TrackedRun(NAME, NAME.rpartition("/")[0], {"seed": 0}, points)
    assert tracking.send("tensorboard", "trial", folder, run, []) is None
    shutil.rmtree(tmp_path / "runs" / NAME / "state")
    assert look(follower) == [NAME]
    follower.close()
    assert shown(folder) == as_shown(dict(points))
    assert len(list((folder / NAME).glob("events.*"))) == 1
    assert set(shown(folder, "reviews/tiny/lora/seed0")) == {1, 2}


def test_a_run_that_was_sent_whole_is_not_followed_unless_it_is_trained_again(tmp_path):
    record = tmp_path / f"tracking/sent/tensorboard/{NAME}.json"
    was = {"status": "sent", "id": "before", "failed_attempts": 0, "reason": None, "earlier": []}
    files.write_json(record, was)
    follower = tracking.Follower(account(tmp_path), tmp_path)
    files.write_json(tmp_path / f"runs/{NAME}/summary.json", files.signed({"fingerprint": "f"}))
    begin(tmp_path)(loss(1))  # state of the job that ended: other seeds of it train
    look(follower)
    assert files.read_json(record) == was and not account(tmp_path).folder.exists()

    add = begin(tmp_path, fingerprint="another")
    add(loss(1))
    look(follower)
    assert set(shown(account(tmp_path).folder)) == {1}
    now = files.read_json(record)  # so that track sends it, whatever becomes of this training
    assert (now["status"], now["failed_attempts"], now["earlier"]) == ("not sent", 1, ["before"])
    assert tracking.failed_attempts(record) == 1
    files.write_json(record, was | {"id": "after"})  # track has sent it
    add(loss(2))
    look(follower)
    assert set(shown(account(tmp_path).folder)) == {1}
    assert files.read_json(record)["id"] == "after"


@pytest.mark.parametrize("tracker", ["mlflow", "trackio", "dvclive"])
def test_other_trackers_show_what_is_there(tmp_path, tracker):
    if importlib.util.find_spec(tracker) is None:
        pytest.skip(f"{tracker} is not installed")
    add = begin(tmp_path)
    add(loss(1))
    second = begin(tmp_path, "reviews/tiny/full/seed1")
    second(loss(1))
    words = ["--tracker", tracker, "--project", "trial", "--folder", str(account(tmp_path, tracker).folder)]
    words += ["--output", str(tmp_path), "--parent", str(os.getpid()), "--interval", "0.2"]
    unset = ("TRACKIO_DIR", "MLFLOW_TRACKING_URI", "HF_HUB_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, SCRIPTS / "follow_runs.py", *words], stderr=log, env=environment)
    wait_for((tmp_path / f"tracking/.{tracker}.lock").exists)  # it has seen what was there
    second(loss(2))
    for step in range(2, 5):
        add(loss(step), evaluation(step, 1 / step))
        time.sleep(0.5)
    read = {"mlflow": read_mlflow, "trackio": read_trackio, "dvclive": read_dvclive}[tracker]
    try:
        wait_for(lambda: read(account(tmp_path, tracker).folder) == [1 / 2, 1 / 3, 1 / 4])
    finally:
        process.terminate()
    assert process.wait(60) == 0 and (tmp_path / "log").read_text() == ""


def read_mlflow(folder: Path) -> list[float]:
    import sqlite3

    try:
        with sqlite3.connect(f"file:{folder}/mlflow.db?mode=ro", uri=True) as database:
            ask = "select value from metrics join runs using (run_uuid) where name = ? and key = ? order by step"
            return [value for (value,) in database.execute(ask, (NAME, "test/loss"))]
    except sqlite3.OperationalError:
        return []


def read_trackio(folder: Path) -> list[float]:
    environment = {**os.environ, "TRACKIO_DIR": str(folder.absolute()), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", TRACKIO, NAME], env=environment, text=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def read_dvclive(folder: Path) -> list[float]:
    path = folder / NAME / "plots/metrics/test/loss.tsv"
    return [float(line.split("\t")[1]) for line in path.read_text().splitlines()[1:]] if path.exists() else []


def wait_for(found: Callable[[], object], limit_s: float = 300.0) -> None:
    deadline = time.monotonic() + limit_s
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("does", [HANGS, RAISES], ids=["hangs", "raises"])
def test_a_tracker_that_hangs_or_raises_is_one_line(tmp_path, does):
    (tmp_path / "fake/dvclive").mkdir(parents=True)
    (tmp_path / "fake/dvclive/__init__.py").write_text(FAKE.format(does))
    words = ["--tracker", "dvclive", "--project", "trial", "--folder", "dvc", "--output", "."]
    words += ["--parent", str(os.getpid()), "--interval", "0.1", "--limit", "2"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "fake"), "PYTHONDONTWRITEBYTECODE": "1"}
    with (tmp_path / "log").open("w") as log:
        call = [sys.executable, SCRIPTS / "follow_runs.py", *words]
        process = subprocess.Popen(call, stderr=log, env=environment, cwd=tmp_path)
    wait_for((tmp_path / ".dvclive.lock").exists)
    adds = [begin(tmp_path, f"reviews/tiny/full/seed{seed}") for seed in (0, 1)]
    for add in adds:
        add(loss(1))
    log = tmp_path / "log"
    if does == RAISES:
        wait_for((tmp_path / "dvc-reviews-tiny-full-seed1").exists)  # the other run goes on
        wait_for(lambda: "seed0" in log.read_text())
        adds[0](loss(2))
        process.terminate()
        said = "runs/reviews/tiny/full/seed0: no more points before it is done: RuntimeError: https://…@host refused"
    else:
        wait_for((tmp_path / "hangs").exists)
        with tracking.turn(tracking.Account("dvclive", "trial", tmp_path / "dvc"), 0.0, fcntl.LOCK_SH) as mine:
            assert not mine  # track would wait, for no longer than this does
        wait_for(log.read_text)
        said = "dvclive gave no answer: no more points are sent; runs that are done are"
    assert process.wait(300) == 0
    (line,) = log.read_text().splitlines()
    assert line.partition("  ")[2] == said
    with tracking.turn(tracking.Account("dvclive", "trial", tmp_path / "dvc"), 0.0, fcntl.LOCK_SH) as mine:
        assert mine


def test_who_follows_ends_with_the_process_that_started_it(tmp_path):
    call = [sys.executable, "-c", OWNER.format(scripts=str(SCRIPTS))]
    owner = subprocess.Popen(call, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    follower = psutil.Process(int(owner.stdout.readline()))
    wait_for((tmp_path / "tracking/.tensorboard.lock").exists)  # it is at work
    owner.kill()
    owner.wait()
    wait_for(lambda: not follower.is_running() or follower.status() == psutil.STATUS_ZOMBIE)
    assert (tmp_path / "log").read_text() == ""


def test_a_workflow_shows_points_before_a_run_is_done_and_each_once_when_it_is(finished, tmp_path):
    """Snakemake is killed while a run trains; the next call goes on with the run, and the tracker with its points."""
    shutil.copytree(finished, tmp_path, symlinks=True, dirs_exist_ok=True)
    settings = tiny.config(tmp_path, tracking="tensorboard", seeds=[0])
    settings["methods"] = {"full": settings["methods"]["full"]}
    settings["training"]["epochs"] = 3
    log, run = tmp_path / "results/logs/follow_runs.log", tmp_path / "results/runs" / NAME
    folder = tmp_path / "results/tracking/tensorboard"
    words = ("tracking", "--set-resources", "train:checkpoint_interval_s=0")
    assert "  track " not in tiny.snakemake(tmp_path, settings, "-n", "runs").stdout and not log.exists()
    call = tiny.command(tmp_path, *words, cores=1)
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    snakemake = subprocess.Popen(call, env=tiny.environment(), start_new_session=True, **quiet)
    state = run / "state"
    wait_for(lambda: len(points_of(state / POINTS)[1]) > 9)
    trainer = psutil.Process(files.read_json(state / "status.json")["pid"])
    trainer.suspend()
    try:
        wait_for(lambda: len(shown(folder) if (folder / NAME).exists() else ()) > 5)
        assert len(shown(folder)) < 24  # steps that it will have
        children = psutil.Process(snakemake.pid).children()
        (follower,) = [one for one in children if "follow_runs.py" in str(one.cmdline())]
    finally:
        snakemake.kill()
        snakemake.wait()
        trainer.kill()
    wait_for(lambda: not follower.is_running() or follower.status() == psutil.STATUS_ZOMBIE)
    assert log.read_text() == ""

    trainer.wait(60)
    tiny.snakemake(tmp_path, None, "--unlock")
    tiny.snakemake(tmp_path, None, *words)
    assert files.read_json(run / "summary.json")["attempts"] == 2 and not state.exists()
    assert shown(folder) == as_shown(dict(tracking.read_run(run).points))
    assert len(list((folder / NAME).glob("events.*"))) == 1
    assert files.read_json(tmp_path / f"results/tracking/sent/tensorboard/{NAME}.json")["status"] == "sent"
    assert log.read_text() == ""
    log.unlink()
    tiny.snakemake(tmp_path, None, "status")
    assert not log.exists()

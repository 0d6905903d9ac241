"""A run that is told to end writes its state; run again, it ends with the weights of an uninterrupted one."""

import datetime
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft_tradeoffs.measure.devices import acquire
from peft_tradeoffs.runs.interruption import EXIT_STATUS, Interrupted
from peft_tradeoffs.runs.status import NO_WORD, Attempts, mixed_gpus, stood_still_s, wall_s
from peft_tradeoffs.training.job import RunDirectory
from recorded_nvml import UUID
from small_fits import Memory, fit, split
from tiny import curve

EPOCHS, PER_EPOCH = 40, 24  # 96 rows in batches of 4
TRAIN = tiny.REPOSITORY / "workflow_scripts/train.py"
INSIDE = """
import os, signal, sys
sys.path.insert(0, {scripts!r})
from peft_tradeoffs.{module} import {name} as whole
import peft_tradeoffs.{module} as inside
def told(*words, **named):
    os.kill(os.getpid(), signal.SIGTERM)
    return whole(*words, **named)
inside.{name} = told
import train
train.errors.run(train.main)
"""
SETS_THE_CLOCK = """
import datetime, sys, time
sys.path.insert(0, {scripts!r})
from peft_tradeoffs.runs import status
from peft_tradeoffs.tasks import metrics
true, evaluate, steps = time.time, metrics.evaluate, iter([-600, 86_400])
added = 0.0
def now():
    moment = datetime.datetime.fromtimestamp(time.time(), datetime.UTC)
    return moment.isoformat(timespec="milliseconds")
def sets(*words, **named):
    global added
    added += next(steps, 0)
    return evaluate(*words, **named)
time.time, status.now, metrics.evaluate = lambda: true() + added, now, sets
import train
train.errors.run(train.main)
"""
WAITS = """
import functools, json, sys
from pathlib import Path
sys.path.insert(0, {scripts!r})
import torch
from peft_tradeoffs.measure import devices
from peft_tradeoffs.runs import lock
lock.BEAT_S = 0.1
torch.cuda.is_available = lambda: True
devices.visible_uuids = lambda: [{uuid!r}]
devices.acquire = functools.partial(devices.acquire, folder=Path({folder!r}))
import train
train.errors.run(train.main)
"""


class Told(Memory):
    """A state whose process is told to end when it is asked for the `at`-th time (from 1) whether it is."""

    def __init__(self, saved: dict | None = None, at: int | None = None) -> None:
        super().__init__(saved)
        self.at, self.asked = at, 0

    def interrupted(self) -> str | None:
        self.asked += 1
        return "SIGTERM" if self.asked == self.at or (self.at and self.asked > self.at) else None


@pytest.mark.parametrize("stopping", [None, {"patience": 2, "min_delta": 1.0}])
def test_told_at_any_moment_of_a_training_nothing_is_lost(stopping: dict | None) -> None:
    """Before, between and after steps, in evaluations, while batches are made ready; stopped early, in the last one."""
    splits = {"train": split(50), "test": split(11, seed=1), "heldout": split(11, seed=2)}
    changes = {"splits": splits}
    if stopping:  # nothing is better than the first epoch by 1: ends after the third of four
        changes |= {"splits": {**splits, "validation": split(6, seed=3)}, "early_stopping": stopping, "epochs": 4}
    never = Told()
    expected, straight = fit(never, **changes)
    assert never.asked > 3 * 7  # steps; evaluations ask too
    strip = [{k: v for k, v in row.items() if k != "train_s"} for row in straight.progress.rows]
    for at in range(never.asked - 7 if stopping else 1, never.asked + 1):
        told = Told(at=at)
        with pytest.raises(Interrupted, match=r"SIGTERM after step \d+ of 2[18]"):
            fit(told, **changes)
        saved = told.history[-1] if told.history else None
        step = saved["progress"]["step"] if saved else 0
        assert step == len(saved["progress"]["step_s"]) if saved else at <= 2
        resumed, again = fit(Told(saved), **changes)
        for name, weight in expected.state_dict().items():
            assert torch.equal(resumed.state_dict()[name], weight), (at, name)
        assert [{k: v for k, v in row.items() if k != "train_s"} for row in again.progress.rows] == strip
        assert len(again.progress.step_s) == again.progress.step == 21
        assert again.progress.samples == straight.progress.samples
        assert again.progress.tokens == straight.progress.tokens
        assert (again.logits == straight.logits).all()
        assert (again.heldout_logits == straight.heldout_logits).all()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """Folder of tokens and a model, for runs of some seconds."""
    folder = tmp_path_factory.mktemp("prepared")
    tiny.write_inputs(folder, tiny_bert, rows=96)
    settings = tiny.config(folder, seeds=[0, 1])
    settings["training"].update(epochs=EPOCHS, batch_size=4)
    done = tiny.snakemake(folder, settings, "results/tokens/reviews/tiny.npz", "-p")
    assert done.returncode == 0
    from peft_tradeoffs.config.experiment import resolve

    chosen = resolve(settings).run_settings("reviews", "tiny", "full")
    (folder / "settings.json").write_text(json.dumps(chosen.to_dict()))
    return folder


@pytest.fixture(scope="module")
def uninterrupted(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    arm = tmp_path_factory.mktemp("uninterrupted")
    assert finish(start(prepared, arm))[0] == 0
    return arm


def words(
    prepared: Path, arm: Path, seeds: tuple[int, ...] = (0,), interval_s: float = 1000.0, lock_wait_s: float = 0.0
) -> list[str]:
    return [
        *("--lock-wait", str(lock_wait_s)),
        *("--settings", str(prepared / "settings.json"), "--seeds", *map(str, seeds), "--output-dir", str(arm)),
        *("--tokens", str(prepared / "results/tokens/reviews/tiny.npz")),
        *("--model", str(prepared / "results/models/tiny"), "--checkpoint-interval", str(interval_s)),
    ]


def start(prepared: Path, arm: Path, *inside: str, **named: Any) -> subprocess.Popen[str]:
    """Begin a training process; `inside`: a module and a function of it on whose call it sends itself SIGTERM."""
    script = [str(TRAIN)]
    if inside:
        module, name = inside
        script = ["-c", INSIDE.format(scripts=str(TRAIN.parent), module=module, name=name)]
    return subprocess.Popen(
        [sys.executable, *script, *words(prepared, arm, **named)],
        env={name: value for name, value in tiny.environment().items() if not name.startswith("SLURM_")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and what was said on stderr."""
    said = process.communicate(timeout=900)[1]
    return process.returncode, said


def wait_for_attempt(process: subprocess.Popen[str], run: Path, count: int, training: bool = True) -> None:
    """Wait until the run's attempt of that number (from 1) has begun, and with it the training."""
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        if (run / "state/attempts.json").exists():
            attempts = json.loads((run / "state/attempts.json").read_text())["attempts"]
            if len(attempts) == count and (attempts[-1]["first_step"] is not None or not training):
                return
        time.sleep(0.005)
    raise AssertionError("the attempt did not begin within ten minutes")


def assert_as(arm: Path, expected: Path, seed: int = 0) -> dict[str, Any]:
    """The run's results are those of `expected`, bit for bit; its env.json."""
    run, other = arm / f"seed{seed}", expected / f"seed{seed}"
    for name in ("checkpoint/model.safetensors", "predictions.csv"):
        assert (run / name).read_bytes() == (other / name).read_bytes()
    modes = [(run / name).stat().st_mode for name in ("checkpoint/model.safetensors", "summary.json")]
    assert modes[0] == modes[1]  # who can read one can read the other
    assert curve(run) == curve(other)
    found, straight = (json.loads((folder / "summary.json").read_text()) for folder in (run, other))
    for key in ("steps", "metric_value", "test_loss", "train_rows"):
        assert found[key] == straight[key]
    assert 0.1 < found["train_s"] / straight["train_s"] < 10
    env = json.loads((run / "env.json").read_text())
    assert found["attempts"] == len(env["attempts"])
    assert not found["mixed_gpus"]
    return env


def test_signals_at_random_steps(prepared: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "seed0"
    numbers = [signal.SIGTERM, signal.SIGUSR1, signal.SIGKILL, signal.SIGINT]
    for count, number in enumerate(numbers, 1):
        process = start(prepared, tmp_path)
        wait_for_attempt(process, run, count)
        time.sleep(random.uniform(0.1, 0.8))  # any moment of a training of several times that
        process.send_signal(number)
        if number != signal.SIGKILL:  # a storm: more of them while the first is answered
            for another in random.choices([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT], k=2):
                time.sleep(random.uniform(0.0, 0.3))
                process.send_signal(another)
        code, said = finish(process)
        if number == signal.SIGKILL:
            assert code == -number
            continue
        assert code == EXIT_STATUS, said
        attempt = json.loads((run / "state/attempts.json").read_text())["attempts"][-1]
        (line,) = (line for line in said.splitlines() if "ended by" in line)
        total = EPOCHS * PER_EPOCH
        assert f"{number.name} after step {attempt['last_step']} of {total} of {run}" in line
        assert "run again to go on" in line
        saved = torch.load(run / "state/checkpoint.pt", weights_only=True)["progress"]
        assert saved["step"] == attempt["last_step"] == len(saved["step_s"])
        assert json.loads((run / "state/status.json").read_text())["status"] == "ended"
        assert not (run / "summary.json").exists()
        assert not list(tmp_path.glob(".seed0.lock*"))
    code, said = finish(start(prepared, tmp_path))
    assert code == 0, said
    attempts = assert_as(tmp_path, uninterrupted)["attempts"]
    assert [one["reason"] for one in attempts] == [
        *("signal SIGTERM", "signal SIGUSR1", NO_WORD, "signal SIGINT", "completed"),
    ]
    first, second, killed, fourth, last = attempts
    assert [first["first_step"], last["last_step"]] == [1, EPOCHS * PER_EPOCH]
    assert second["first_step"] == first["last_step"] + 1
    assert killed["first_step"] == fourth["first_step"] == second["last_step"] + 1
    assert all(one["host"] and one["slurm"] is None and one["gpu_name"] is None for one in attempts)
    assert not (run / "state").exists()
    assert not list(tmp_path.glob(".seed0.*"))


@pytest.mark.parametrize(
    ("module", "name", "where"),
    [
        ("training.engine", "probe", "before the first step of"),
        ("tasks.metrics", "evaluate", f"after step {PER_EPOCH} of"),
        ("training.run", "summarise", "after a run was finished"),
    ],
)
def test_a_signal_outside_the_steps(
    prepared: Path, uninterrupted: Path, tmp_path: Path, module: str, name: str, where: str
) -> None:
    process = start(prepared, tmp_path, module, name)
    code, said = finish(process)
    assert (code, where in said) == (EXIT_STATUS, True), said
    if "finished" in where:
        (tmp_path / "seed0/summary.json").unlink()  # as Snakemake does with a failed job's outputs
    before = time.time()
    code, said = finish(start(prepared, tmp_path))
    assert code == 0, said
    env = assert_as(tmp_path, uninterrupted)
    ended = [one["reason"] for one in env["attempts"]]
    assert ended == (["completed"] if "finished" in where else ["signal SIGTERM", "completed"])
    if "finished" in where:
        assert (tmp_path / "seed0/env.json").stat().st_mtime < before
    assert not (tmp_path / "seed0/state").exists()


def test_a_clock_set_back_and_forward_in_mid_run_changes_no_time(prepared: Path, tmp_path: Path) -> None:
    """By 10 minutes and by a day, between steps."""
    settings = json.loads((prepared / "settings.json").read_text()) | {"epochs": 3}
    script = SETS_THE_CLOCK.format(scripts=str(TRAIN.parent))
    options = [*words(prepared, tmp_path), "--settings", json.dumps(settings)]
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script, *options], capture_output=True, text=True)
    took_s = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "seed0/summary.json").read_text())
    parts = [summary[key] for key in ("load_s", "probe_s", "train_s", "evaluate_s", "save_s")]
    assert sum(parts) < summary["wall_s"] < took_s
    assert 0 < summary["startup_s"] < took_s
    (attempt,) = json.loads((tmp_path / "seed0/env.json").read_text())["attempts"]
    began, ended = (datetime.datetime.fromisoformat(attempt[key]) for key in ("started_at", "ended_at"))
    assert (ended - began).total_seconds() == pytest.approx(summary["wall_s"], abs=0.01)


def test_a_signal_during_the_imports(prepared: Path, tmp_path: Path) -> None:
    process = start(prepared, tmp_path)
    wait_for_attempt(process, tmp_path / "seed0", 1, training=False)
    process.terminate()
    code, said = finish(process)
    assert code == EXIT_STATUS
    assert "SIGTERM before the first step" in said
    (attempt,) = json.loads((tmp_path / "seed0/state/attempts.json").read_text())["attempts"]
    assert (attempt["reason"], attempt["last_step"]) == ("signal SIGTERM", None)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_that_ends_while_it_waits_for_a_gpu_has_its_wait_recorded(
    prepared: Path, tmp_path: Path, number: signal.Signals
) -> None:
    (tmp_path / "leases").mkdir()
    (held,) = acquire([UUID], folder=tmp_path / "leases")
    script = WAITS.format(scripts=str(TRAIN.parent), uuid=UUID, folder=str(tmp_path / "leases"))
    settings = json.loads((prepared / "settings.json").read_text()) | {"device": "cuda"}
    options = [*words(prepared, tmp_path), "--settings", json.dumps(settings)]
    process = subprocess.Popen(
        [sys.executable, "-c", script, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not (line := process.stdout.readline()).startswith("waits for a GPU"):
        assert line, process.communicate()[1]
    began = time.monotonic()
    time.sleep(2)
    waited_s = time.monotonic() - began
    process.send_signal(number)
    finish(process)
    os.close(held.descriptor)
    kept = json.loads((tmp_path / "seed0/state/attempts.json").read_text())
    second = Attempts(tmp_path / "seed0/state", kept["fingerprint"])
    second.begin()
    attempt, _ = second.end("completed")
    assert attempt["reason"] == (NO_WORD if number == signal.SIGKILL else "signal SIGTERM")
    assert waited_s - 1 < attempt["waited_s"] < waited_s + 5
    assert 0 < wall_s([attempt]) == pytest.approx(wall_s([attempt | {"waited_s": 0.0}]) - attempt["waited_s"])


def test_a_signal_between_two_seeds_begins_no_other(prepared: Path, tmp_path: Path) -> None:
    code, said = finish(start(prepared, tmp_path, "training.run", "summarise", seeds=(0, 1)))
    assert code == EXIT_STATUS, said
    assert (tmp_path / "seed0/summary.json").exists()
    assert not (tmp_path / "seed1").exists()


def test_summaries_that_another_snakemake_removes_are_put_back(prepared: Path, tmp_path: Path) -> None:
    """It ends in its own time: while this job trains, and after this job is done."""
    summaries = [tmp_path / f"seed{seed}/summary.json" for seed in (0, 1)]
    holder = RunDirectory(tmp_path / "seed0", "f", 60)
    holder.lock()
    process = start(prepared, tmp_path, seeds=(0, 1), lock_wait_s=60)
    assert "waits up to 60 s" in process.stderr.readline()
    holder.unlock()
    wait_for_attempt(process, tmp_path / "seed1", 1)
    summaries[0].unlink()
    assert finish(process)[0] == 0
    trained = [(tmp_path / f"seed{seed}/env.json").stat().st_mtime_ns for seed in (0, 1)]
    for summary in summaries:
        assert [path.name for path in (summary.parent / "state").iterdir()] == ["summary.json"]
        summary.unlink()
    assert finish(start(prepared, tmp_path, seeds=(0, 1)))[0] == 0
    assert [(tmp_path / f"seed{seed}/env.json").stat().st_mtime_ns for seed in (0, 1)] == trained
    assert [(summary.exists(), (summary.parent / "state").exists()) for summary in summaries] == [(True, False)] * 2


def test_mixed_gpus() -> None:
    def attempt(first: int | None, last: int | None, name: str) -> dict[str, Any]:
        return {"first_step": first, "last_step": last, "gpu_name": name}

    a, b = "NVIDIA A100", "NVIDIA H100"
    assert not mixed_gpus([attempt(1, 9, a), attempt(10, 20, a)])
    assert mixed_gpus([attempt(1, 9, a), attempt(10, 20, b)])
    assert not mixed_gpus([attempt(1, 9, a), attempt(1, 20, b)])  # its steps were done again
    assert mixed_gpus([attempt(1, 9, a), attempt(10, 12, b), attempt(10, 20, b)])
    assert not mixed_gpus([attempt(1, 9, a), attempt(10, 12, b), attempt(10, 20, a)])
    assert not mixed_gpus([attempt(None, None, a), attempt(1, 20, b)])
    assert not mixed_gpus([attempt(1, 20, a), attempt(21, None, b)])  # evaluated alone


def test_time_standing_still_counts_from_the_first_step_on(tmp_path: Path) -> None:
    first = Attempts(tmp_path, "f")
    first.begin()
    first.beat(100.0)  # an import from a slow disk
    first.start_at(0)
    first.reached(1, 20)
    first.beat(30.0)
    first.beat(0.0)  # its last sign of life
    second = Attempts(tmp_path, "f")
    second.begin()
    second.start_at(0)
    second.reached(1, 20)
    second.beat(5.5)
    attempts = second.end("completed")
    assert [one["stood_still_s"] for one in attempts] == [30.0, 5.5]
    assert stood_still_s(attempts) == 35.5


def test_an_attempt_that_left_no_word_is_named_by_the_next(tmp_path: Path) -> None:
    first = Attempts(tmp_path, "f")
    first.begin()
    first.start_at(0)
    first.reached(5, 20)
    first.write_status()
    second = Attempts(tmp_path, "f")
    second.begin()
    second.start_at(0)
    one, two = second.end("completed")
    assert (one["reason"], one["last_step"], one["ended_at"] >= one["started_at"]) == (NO_WORD, 5, True)
    assert two["reason"] == "completed"
    other = Attempts(tmp_path, "another fingerprint")
    other.begin()
    assert len(other.end("oom")) == 1

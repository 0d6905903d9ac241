"""What a terminal has of a call: one line per event, how far the sweep is, what failed, and what to do."""

import io
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from peft_tradeoffs.core.quantities import Span
from peft_tradeoffs.core.text import WIDTH, wrapped
from peft_tradeoffs.runs import status
from peft_tradeoffs.runs.plan import Trials, possible_trials
from peft_tradeoffs.runs.terminal import (
    Lines,
    Sweep,
    Terminal,
    duration,
    ended_badly,
    ended_well,
    job_name,
    planned,
    say_briefly,
)
from snakemake.logging import ColorizingTextHandler, DefaultFormatter
from snakemake_interface_logger_plugins.common import LogEvent


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def call():
    """A logger as Snakemake has it, what its terminal shows, its lines, and their clock."""
    logger, stream = logging.Logger("snakemake"), io.StringIO()
    logger.addHandler(ColorizingTextHandler(stream=stream, formatter=DefaultFormatter()))
    lines = say_briefly(logger, lambda: False)
    lines.clock = Clock()
    return logger, stream, lines


def begins(logger: logging.Logger, job: int, rule: str, **wildcards: Any) -> None:
    extra = {"event": LogEvent.JOB_INFO, "jobid": job, "rule_name": rule, "wildcards": wildcards, "rule_msg": None}
    extra["local"] = True
    logger.info(f"Rule: {rule}", extra=extra)


def ends(logger: logging.Logger, done: int, total: int, *jobs: int) -> None:
    for job in jobs:
        logger.info(f"Finished jobid: {job}", extra={"event": LogEvent.JOB_FINISHED, "job_id": job})
    logger.info(None, extra={"event": LogEvent.PROGRESS, "done": done, "total": total})


def fails(logger: logging.Logger, job: int, rule: str) -> None:
    said = {"jobid": job, "rule_name": rule, "rule_msg": None, "input": ["a"] * 50, "output": ["b"]}
    said |= {"log": ["logs/train/full.log"], "conda_env": None, "shellcmd": "exec python " + "x" * 5000, "aux": {}}
    logger.error("Error in rule", extra={"event": LogEvent.JOB_ERROR, **said})


def shown(stream: io.StringIO) -> list[str]:
    return [line[10:] if line[2:3] == ":" else line for line in stream.getvalue().splitlines()]


def test_one_line_per_event(call):
    logger, stream, lines = call
    lines.left = lambda: "trials 3 of 12"
    logger.info("Select jobs to execute...")
    logger.info("Execute 2 jobs...")
    begins(logger, 1, "fetch_model", model="tiny")
    begins(logger, 2, "tune", dataset="reviews", model="tiny", arm="lora-r4")
    lines.clock.now += 70
    ends(logger, 1, 9, 1)
    lines.clock.now += 130
    ends(logger, 2, 9, 2)
    assert shown(stream) == [
        "tune reviews/tiny/lora-r4: begins",
        "fetch_model tiny: done in 70 s (1 of 9 jobs)",
        "tune reviews/tiny/lora-r4: done in 3 min (2 of 9 jobs; trials 3 of 12)",
    ]


def test_jobs_that_end_together_are_counted_one_by_one(call):
    logger, stream, _ = call
    for job in (1, 2):
        begins(logger, job, "make_tables")
    ends(logger, 5, 5, 1, 2)
    assert [line.partition("(")[2] for line in shown(stream)] == ["4 of 5 jobs)", "5 of 5 jobs)"]


@pytest.mark.parametrize(
    "before", [*(f"{more}CalledProcessError in file a.smk:\n" for more in ("", "RuleException:\n")), ""]
)
def test_a_failed_job_has_its_log_and_no_command_and_stands_at_the_end_again(call, before):
    logger, stream, lines = call
    begins(logger, 1, "train", dataset="reviews", model="tiny", arm="full")
    logger.error(f"{before}Command 'set -e;\nexec python x' returned non-zero exit status 2.")
    fails(logger, 1, "train")
    logger.warning("something else")
    assert shown(stream) == [
        "train reviews/tiny/full: begins",
        "train reviews/tiny/full: FAILED (returned non-zero exit status 2)",
        "    log: logs/train/full.log (check log file(s) for error details)",
        "something else",
    ]
    assert ended_badly(lines).splitlines() == [
        "Failed: train reviews/tiny/full, see logs/train/full.log",
        "Finished runs stay. Once the cause is fixed, the same command goes on.",
    ]


def test_what_ends_because_it_was_asked_to_has_not_failed(call):
    logger, stream, lines = call
    begins(logger, 1, "train", dataset="reviews", model="tiny", arm="full")
    logger.warning("Terminating processes on user request, this might take some time.")
    logger.error(
        "RuleException:\nCalledProcessError in file \"a.smk\", line 3:\nCommand 'x' returned non-zero exit status 75."
    )
    fails(logger, 1, "train")
    logger.error("WorkflowError:\nAt least one job did not complete successfully.")
    assert shown(stream)[1:] == ["Stopping: each run saves its state first."] and not lines.failures
    assert ended_badly(lines) == "Ended before all was done. Nothing is lost: the same command goes on from here."


def test_a_dry_run_and_a_plugin_are_left_alone():
    logger, stream, other = logging.Logger("snakemake"), io.StringIO(), io.StringIO()
    plugin = logging.StreamHandler(other)
    plugin.setFormatter(logging.Formatter("plugin: %(message)s"))
    logger.addHandler(plugin)
    logger.addHandler(ColorizingTextHandler(stream=stream, formatter=DefaultFormatter()))
    say_briefly(logger, lambda: True)
    logger.info("Select jobs to execute...")
    assert stream.getvalue() == "Select jobs to execute...\n"
    assert other.getvalue() == "plugin: Select jobs to execute...\n"
    lines = say_briefly(logger, lambda: False)  # a second workflow in the same process
    assert [type(one) for one in logger.handlers] == [logging.StreamHandler, Terminal]
    assert isinstance(lines, Lines) and logger.handlers[1].formatter is lines


def test_the_plan_fits_the_terminal():
    stats = {f"a_rule_with_a_name_{number}": number + 1 for number in range(20)} | {"total": 210}
    text = planned(stats)
    assert text.startswith("210 jobs: a_rule_with_a_name_0, 2 × a_rule_with_a_name_1, ")
    assert max(map(len, text.splitlines())) <= WIDTH and "20 × a_rule_with_a_name_19" in text


def test_a_job_is_named_by_what_it_is_about():
    assert job_name("all", {}) == "all"
    assert job_name("train", {"arm": "full", "model": "tiny", "dataset": "reviews"}) == "train reviews/tiny/full"
    assert job_name("odd", {"table": "arms"}) == "odd arms"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0, "0.0 s"), (0.4, "0.4 s"), (9.96, "10 s"), (99, "99 s"), (100, "2 min"), (5900, "98 min"), (6000, "1.7 h")],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_a_sweep_counts_what_this_call_wrote_and_says_what_is_left(tmp_path: Path):
    clock = Clock()
    clock.now = 1000.0

    def write(path: Path) -> None:
        path.touch()
        os.utime(path, (clock.now, clock.now))

    runs = [tmp_path / f"run{number}.json" for number in range(4)]
    folders = {arm: [tmp_path / f"trial{arm}{number}.json" for number in range(2)] for arm in "ab"}
    stood = {"a": Trials(folders["a"], 2, Span(0, 0)), "b": Trials(folders["b"], 0, Span(2, 2))}
    clock.now = 900.0
    for path in (*runs, *folders["a"]):
        write(path)  # of other settings, or an earlier call
    clock.now = 1000.0
    sweep = Sweep(runs, {tmp_path / f"best{arm}.json": own for arm, own in stood.items()}, clock)
    assert sweep.left() == "trials 2 of 4, runs 0 of 4"
    clock.now = 1060
    write(folders["b"][0])
    assert sweep.left() == "trials 3 of 4, runs 0 of 4, about 5 min left"
    write(tmp_path / "besta.json")  # from the trials that stood
    assert sweep.left() == "trials 3 of 4, runs 0 of 4, about 5 min left"
    for path in (*runs, folders["b"][1]):
        write(path)
    assert sweep.left() == "trials 4 of 4, runs 4 of 4"
    clock.now = 2000
    assert Sweep(runs, {}, clock).left() == "runs 0 of 4"


def test_trials_that_stood_and_are_made_anew_count_once(tmp_path: Path):
    """Of three that were there two stood, as far as the plan could know; the data is other, and none does."""
    clock, best = Clock(), tmp_path / "best.json"
    clock.now = 1000.0
    paths = [tmp_path / f"trial{number}.json" for number in range(4)]

    def write(path: Path) -> None:
        path.touch()
        os.utime(path, (clock.now, clock.now))

    for path in paths[:3]:
        write(path)
    clock.now = 2000.0
    sweep = Sweep([], {best: Trials(paths, 2, Span(2, 2))}, clock)
    assert sweep.left() == "trials 2 of 4"
    write(paths[0])  # that which did not stand, it may be
    assert sweep.left().startswith("trials 3 of 4")
    write(paths[1])
    assert sweep.left().startswith("trials 2 of ")
    write(paths[2])
    write(paths[3])
    write(best)
    assert sweep.left() == "trials 4 of 4"


def test_a_sweep_says_at_most_where_tied_rates_and_edges_may_add_trials(tmp_path: Path):
    clock, best, run = Clock(), tmp_path / "best.json", tmp_path / "run.json"
    paths = possible_trials(tmp_path, [1e-4, 2e-4], 1, 2)
    assert len(set(paths)) == len(paths) == 4 * 3  # a rate beyond either edge, and each of the four twice more
    sweep = Sweep([run], {best: Trials(paths, 0, Span(2, 9))}, clock)
    assert sweep.left() == "trials 0 of at most 9, runs 0 of 1"
    clock.now = 60.0
    for path in paths[:3]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert sweep.left() == "trials 3 of at most 9, runs 0 of 1, about 20 s to 2 min left"
    run.touch()
    assert sweep.left() == "trials 3 of at most 9, runs 1 of 1, up to 90 s left"
    best.touch()
    assert sweep.left() == "trials 3 of 3, runs 1 of 1"


def test_a_reason_that_slurm_gives_stands_there_and_the_log_is_left_as_it_is(call):
    logger, stream, _ = call
    said = {
        "jobid": 1,
        "rule_name": "train",
        "rule_msg": "SLURM-job '77' failed: OUT_OF_MEMORY",
        "input": [],
        "aux": {},
    }
    said |= {"output": ["b"], "log": ["a.log"], "conda_env": None, "shellcmd": "x"}
    logger.handlers[0].formatter.inner = Logged()
    logger.error("Error in rule", extra={"event": LogEvent.JOB_ERROR, **said})
    text = stream.getvalue()
    assert "message: SLURM-job '77' failed: OUT_OF_MEMORY" in text and "Logfile a.log:\n    input: kept\n" in text
    assert "output: b" not in text


class Logged(DefaultFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"{super().format(record)}\nLogfile a.log:\n    input: kept"


def test_a_job_that_is_tried_again_has_not_failed(call):
    logger, stream, lines = call
    for job in (1, 1):
        begins(logger, job, "train", arm="full")
        if not lines.failures:
            fails(logger, job, "train")
    ends(logger, 1, 1, 1)
    assert not lines.failures and shown(stream)[-1] == "train full: done in 0.0 s (1 of 1 job)"


def test_a_signal_to_snakemake_is_said_once(call):
    logger, stream, lines = call
    for _ in range(3):
        logger.info("Will exit after finishing currently running jobs (scheduler).")
    assert shown(stream) == ["Stops when the jobs that run have ended."] and lines.interrupted


def test_what_snakemake_is_quiet_about_is_counted(call):
    logger, stream, _ = call
    ends(logger, 3, 40, 7)
    assert shown(stream) == ["3 of 40 jobs done"]


def test_the_end_names_the_verdict_and_the_page(tmp_path: Path):
    table = tmp_path / "recommendation.md"
    table.write_text("## reviews · tiny\n\n**Take LoRA r4.**\n\n> **Warning**\n\n## other · tiny\n\n**None.**\n")
    assert ended_well(table, Path("results/report.html")).splitlines() == [
        "reviews · tiny: Take LoRA r4.",
        "other · tiny: None.",
        f"The page is results/report.html, the tables are in {tmp_path}.",
    ]


def test_a_run_says_how_far_it_is_now_and_then_on_a_terminal_and_its_end_in_a_pipe_too(capsys, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(status.time, "monotonic", clock)
    rows = {"epoch": 1, "split": "test", "loss": 0.5, "accuracy": 0.75}
    monkeypatch.setattr(status, "METRICS", {"accuracy": status.METRICS["accuracy"]})
    for terminal in (True, False):
        monkeypatch.setattr(status.sys.stdout, "isatty", lambda terminal=terminal: terminal, raising=False)
        reporter = status.TerminalReporter("reviews/tiny/full seed 0")
        for step in range(1, 121):
            clock.now += 1
            if reporter.due():
                reporter.step(step, 120, 1, 2, 0.25)
        reporter.evaluation([rows])
        clock.now += 30
        reporter.evaluation([rows])
        reporter.done("accuracy 0.7500, 60.0 s of training")
        said = [line[10:] for line in capsys.readouterr().out.splitlines()]
        assert said[-1] == "reviews/tiny/full seed 0: accuracy 0.7500, 60.0 s of training"
        assert said[:-1] == terminal * [
            "reviews/tiny/full seed 0: epoch 1 of 2, step 30 of 120, loss 0.250, … left",
            "reviews/tiny/full seed 0: epoch 1 of 2, step 60 of 120, loss 0.250, 1:00 left",
            "reviews/tiny/full seed 0: epoch 1 of 2, step 90 of 120, loss 0.250, 0:30 left",
            "reviews/tiny/full seed 0: epoch 1 of 2, step 120 of 120, loss 0.250, 0:00 left",
            "reviews/tiny/full seed 0: epoch 1, test loss 0.500, accuracy 0.750",
        ]


def test_a_command_is_not_broken():
    command = "`snakemake --profile profiles/local fetch --configfile=my.yaml`"
    for words in range(1, 30):
        assert command in wrapped(f"{'word ' * words}run {command} first")
    assert command in wrapped(f"a ` alone, {'word ' * 26} run {command} first")
    assert "\0" not in wrapped(command) and wrapped("a b", "- ", 3) == "- a\n  b"


def test_a_long_sentence_is_wrapped_and_a_long_path_stays_whole():
    lines = wrapped(f"note: {'word ' * 60}/{'x' * 200} end").splitlines()
    assert len(lines) == 4 and max(map(len, lines[:2])) <= WIDTH and all(line.startswith("  ") for line in lines[1:])
    assert lines[2] == f"  /{'x' * 200}"

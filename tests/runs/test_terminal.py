"""What a terminal has of a call: one line per event, how far the sweep is, what failed, and what to do."""

import io
import logging
from pathlib import Path
from typing import Any

import pytest
from peft_tradeoffs.runs.terminal import (
    WIDTH,
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


def test_a_failed_job_has_its_log_and_no_command_and_stands_at_the_end_again(call):
    logger, stream, lines = call
    begins(logger, 1, "train", dataset="reviews", model="tiny", arm="full")
    fails(logger, 1, "train")
    logger.error("CalledProcessError in file Snakefile, line 3:\nCommand 'exec python x' returned 1")
    logger.warning("something else")
    assert shown(stream) == [
        "train reviews/tiny/full: begins",
        "train reviews/tiny/full: FAILED",
        "    log: logs/train/full.log (check log file(s) for error details)",
        "something else",
    ]
    assert ended_badly(lines).splitlines() == [
        "Failed: train reviews/tiny/full, whose log is logs/train/full.log",
        "What is finished stays. The same command goes on when the cause is mended.",
    ]


def test_what_ends_because_it_was_asked_to_has_not_failed(call):
    logger, stream, lines = call
    begins(logger, 1, "train", dataset="reviews", model="tiny", arm="full")
    logger.warning("Terminating processes on user request, this might take some time.")
    fails(logger, 1, "train")
    logger.error("WorkflowError:\nAt least one job did not complete successfully.")
    assert shown(stream)[1:] == ["Ends: each run keeps its state first."] and not lines.failures
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
    ("seconds", "said"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5900, "98 min"), (6000, "1.7 h")]
)
def test_durations(seconds, said):
    assert duration(seconds) == said


def test_a_sweep_counts_what_stands_and_says_what_is_left(tmp_path: Path):
    clock = Clock()
    runs, trials = ([tmp_path / f"{kind}{number}.json" for number in range(4)] for kind in ("run", "trial"))
    trials[0].touch()
    sweep = Sweep(runs, trials, clock)
    assert sweep.left() == "trials 1 of 4, runs 0 of 4"
    clock.now = 60
    trials[1].touch()
    assert sweep.left() == "trials 2 of 4, runs 0 of 4, about 6 min left"
    for path in (*trials, *runs):
        path.touch()
    assert sweep.left() == "trials 4 of 4, runs 4 of 4"
    assert Sweep(runs, [], clock).left() == "runs 4 of 4"


def test_the_end_names_the_verdict_and_the_page(tmp_path: Path):
    table = tmp_path / "recommendation.md"
    table.write_text("## reviews · tiny\n\n**Take LoRA r4.**\n\n> **Warning**\n\n## other · tiny\n\n**None.**\n")
    assert ended_well(table, Path("results/report.html")).splitlines() == [
        "reviews · tiny: Take LoRA r4.",
        "other · tiny: None.",
        f"The page is results/report.html, the tables are in {tmp_path}.",
    ]

"""What a person reads on a terminal while Snakemake works: one line per event; its log file keeps all of it."""

import contextlib
import logging
import re
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake.logging import ColorizingTextHandler

from peft_tradeoffs.core.quantities import Span
from peft_tradeoffs.core.text import WIDTH, plural, wrapped
from peft_tradeoffs.runs.plan import Trials, of_all

LONG = ("tune", "train", "train_at_equal_memory", "repeat", "profile", "answer_untrained")  # they say that they begin
PLACE = ("dataset", "model", "arm", "seed", "repeat", "split", "cap", "batch")  # wildcards, in this order
# What Snakemake says between events, of no use to who waits for them.
BETWEEN = re.compile(
    r"(Select jobs to execute|Execute \d+ jobs|Using shell|Provided (cores|resources|remote nodes)|Conda environments: "
    r"|Rules claiming more|Assuming unrestricted|Singularity containers|Building DAG|DAG of jobs will be updated"
    r"|Elapsed time|Group jobs|Job rate limit)"
)
# Said of a failed job once more, with its whole command; and at the end, after `ended_badly` has said what failed.
AGAIN = re.compile(
    r"((RuleException:\n)?CalledProcessError in file|Command '.*' (returned non-zero exit status|died with <)"
    r"|WorkflowError:\nAt least one job did not complete)",
    re.DOTALL,
)
HOW = re.compile(r"(returned non-zero exit status \d+|died with <Signals\.\w+: \d+>)")
CTRL_C = "Terminating processes on user request"
TERM = "Will exit after finishing currently running jobs"
OF_A_FAILED_JOB = re.compile(r"    (message: None$|(input|output|shell|jobid|conda-env|container|wildcards):)")


def event_of(record: logging.LogRecord) -> str:
    """The name of Snakemake's event in small letters, "" of a record that has none."""
    return str(getattr(record, "event", None) or "").rpartition(".")[2].lower()


@dataclass
class Lines(logging.Formatter):
    """Formats Snakemake's records as one line per event, "" for those that are none."""

    inner: logging.Formatter  # Snakemake's, for what is not shortened
    whole: Callable[[], bool]  # whether all is wanted, as in a dry run, which has no log file
    left: Callable[[], str] = lambda: ""  # how far the trainings are, and how long the rest may take
    clock: Callable[[], float] = time.time
    failures: dict[str, str] = field(default_factory=dict)  # the log of each failed job, by its name
    interrupted: bool = False  # by a person or a signal
    _how: str = ""  # the job ended that failed last
    _begun: dict[int, tuple[str, float]] = field(default_factory=dict)  # name and time, by job
    _ended: list[int] = field(default_factory=list)  # since the last progress

    def __post_init__(self) -> None:
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        """Override: the line of an event."""
        if self.whole():
            return self.inner.format(record)
        event, said = event_of(record), record.__dict__
        if event == "job_info":
            return self._begins(said)
        if event == "job_finished":
            self._ended.append(said["job_id"])
            return ""
        if event == "progress":
            return self._ends(said["done"], said["total"])
        if event == "run_info":
            return planned(said["stats"])
        text = self.inner.format(record) or ""
        if event == "job_error":
            return self._fails(said, text)
        if text.startswith(CTRL_C):
            self.interrupted = True
            return "Stopping: each run saves its state first."
        if text.startswith(TERM):
            first, self.interrupted = not self.interrupted, True
            return "Stops when the jobs that run have ended." if first else ""
        if AGAIN.match(text):
            found = HOW.search(text)
            self._how = f" ({found[0]})" if found else ""
            return ""
        if record.levelno < logging.WARNING and (event in ("group_info", "job_started") or BETWEEN.match(text)):
            return ""
        return text

    def _fails(self, said: Mapping[str, Any], text: str) -> str:
        name, _ = self._begun.pop(said["jobid"], (said["rule_name"], 0.0))
        how, self._how = self._how, ""
        if self.interrupted:  # it ended because it was asked to
            return ""
        if not said.get("indent"):  # of a group each member is said to have failed, those that finished too
            self.failures[name] = ", ".join(map(str, said["log"]))
        return f"{self._line(f'{name}: FAILED{how}')}\n{without_command(textwrap.dedent(text))}"

    def _begins(self, said: Mapping[str, Any]) -> str:
        name = job_name(said["rule_name"], said["wildcards"])
        self._begun[said["jobid"]] = name, self.clock()
        return self._line(f"{name}: {'begins' if said['local'] else 'submitted'}") if said["rule_name"] in LONG else ""

    def _ends(self, done: int, total: int) -> str:
        """The lines of the jobs that ended since the last progress."""
        ended, self._ended = self._ended, []
        lines = []
        for place, job in enumerate(ended):
            count = f"{done - len(ended) + 1 + place} of {total} {plural('job', total)}"
            if job not in self._begun:  # Snakemake is quiet about rules
                lines.append(self._line(f"{count} done"))
                continue
            name, began = self._begun.pop(job)
            self.failures.pop(name, None)  # a job that failed and was tried again
            more = f"; {left}" if name.partition(" ")[0] in LONG and (left := self.left()) else ""
            lines.append(self._line(f"{name}: done in {duration(self.clock() - began)} ({count}{more})"))
        return "\n".join(lines)

    def _line(self, text: str) -> str:
        line = f"{time.strftime('%H:%M:%S', time.localtime(self.clock()))}  {text}"
        return line if len(line) <= WIDTH else f"{line[: WIDTH - 1]}…"


class Terminal(ColorizingTextHandler):  # type: ignore[misc]
    """Snakemake's handler without the empty line before a job; nothing where the formatter says nothing."""

    def emit(self, record: logging.LogRecord) -> None:
        """Override."""
        try:
            if text := self.format(record):
                self.stream.write(self.decorate(record, text) + self.terminator)
                self.flush()
        except BrokenPipeError:
            raise
        except Exception:
            self.handleError(record)


def say_briefly(logger: logging.Logger, whole: Callable[[], bool]) -> Lines:
    """Let the terminal have one line per event, by what is returned; Snakemake's log file keeps all.

    `whole`: see `Lines`. A logger plugin that the user chose is left alone.
    """
    lines = Lines(logging.Formatter(), whole)
    for handler in list(logger.handlers):
        if isinstance(handler, Terminal) and isinstance(handler.formatter, Lines):
            lines = handler.formatter
            lines.whole = whole
        elif isinstance(handler, ColorizingTextHandler) and handler.formatter:
            lines.inner = handler.formatter
            new = Terminal(handler.nocolor, handler.stream, lines)
            new.filters, new.level, new.name = handler.filters, handler.level, handler.name
            logger.removeHandler(handler)
            logger.addHandler(new)
    return lines


def job_name(rule: str, wildcards: Mapping[str, Any]) -> str:
    """A rule and what it is about: "train reviews/distilbert/lora-r8"."""
    known = [str(wildcards[name]) for name in PLACE if name in wildcards]
    others = [str(value) for name, value in wildcards.items() if name not in PLACE]
    return f"{rule} {'/'.join([*known, *others])}".strip()


def planned(stats: Mapping[str, int]) -> str:
    """How many jobs a call has, and of which rules, on lines of at most WIDTH characters."""
    total = stats.get("total", sum(stats.values()))
    parts = [rule if count == 1 else f"{count} × {rule}" for rule, count in stats.items() if rule != "total"]
    lines = [f"{total} {plural('job', total)}: "]
    for place, part in enumerate(parts):
        part += ", " if place + 1 < len(parts) else ""
        if len(lines[-1]) + len(part) > WIDTH:
            lines.append("  ")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


@dataclass
class Sweep:
    """How far the trainings of a call are: which of those that it has to make were written since it began."""

    runs: Sequence[Path]  # summary.json of each
    trials: Mapping[Path, Trials]  # those of each tuning's result
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        self._began = self.clock()
        self._there = {path for own in self.trials.values() for path in own.paths if path.exists()}

    def left(self) -> str:
        """Such as "trials 3 of at most 12, runs 0 of 15, about 12 to 20 min left"."""
        trials, ended, missing = self._trials()
        runs = sum(map(self._new, self.runs))
        said = [f"trials {of_all(ended, missing)}"] if self.trials else []
        said += [f"runs {runs} of {len(self.runs)}"] if self.runs else []
        made, missing = trials + runs, missing + Span(len(self.runs) - runs, len(self.runs) - runs)
        if made and missing.most:
            said.append(f"{_about(missing.times((self.clock() - self._began) / made))} left")
        return ", ".join(said)

    def _trials(self) -> tuple[int, int, Span]:
        """How many were made, how many have ended, and how many are to come: none of a tuning that has its result."""
        made, ended, missing = 0, 0, Span(0, 0)
        for best, own in self.trials.items():
            written = set(filter(self._new, own.paths))
            new, there = len(written), self._there.intersection(own.paths)
            # One that stood is made anew where the data is other than the plan could know: then none stands.
            stood = own.stood if len(written & there) <= len(there) - own.stood else 0
            made, ended = made + new, ended + stood + new
            if not self._new(best):
                missing += Span(max(0, own.left.least - new), max(0, own.left.most - new))
        return made, ended, missing

    def _new(self, path: Path) -> bool:
        with contextlib.suppress(OSError):
            return path.stat().st_mtime >= self._began
        return False


def _about(seconds: Span) -> str:
    """Such as "about 12 min", "about 12 to 20 min", "up to 20 min"."""
    least, most = duration(seconds.least), duration(seconds.most)
    if not seconds.least:
        return f"up to {most}"
    (number, unit), other = least.rsplit(" ", 1), most.rsplit(" ", 1)[1]
    return f"about {most if least == most else f'{number if unit == other else least} to {most}'}"


def verdicts(path: Path) -> list[str]:
    """The first sentence of each recommendation in recommendation.md, behind its data set and model."""
    found, about = [], ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            about = line.removeprefix("## ")
        elif line.startswith("**") and line.endswith("**") and about:
            found.append(f"{about}: {line.strip('*')}")
            about = ""
    return found


def ended_well(recommendation: Path, page: Path) -> str:
    """The last lines of a call that made the page: what to use, and where to read why."""
    return "\n".join(
        [*map(wrapped, verdicts(recommendation)), f"The page is {page}, the tables are in {recommendation.parent}."]
    )


def ended_badly(lines: Lines) -> str:
    """The last lines of a call that did not do all: what failed, where to read why, and what to do."""
    if lines.interrupted:
        return "Ended before all was done. Nothing is lost: the same command goes on from here."
    failed = [wrapped(f"Failed: {name}{f', see {log}' if log else ''}") for name, log in lines.failures.items()]
    return "\n".join([*failed, "Finished runs stay. Once the cause is fixed, the same command goes on."])


def without_command(text: str) -> str:
    """What Snakemake says of a failed job, without its files and its command."""
    kept: list[str] = []
    dropped = False
    lines = text.splitlines()[2:]  # without the date and the rule
    of_log = next((place for place, line in enumerate(lines) if line.startswith("Logfile ")), len(lines))
    for line in lines[:of_log]:
        if OF_A_FAILED_JOB.match(line):
            dropped = True
        elif not (dropped and line.startswith("        ")):
            dropped = False
            kept.append(line)
    return "\n".join([*kept, *lines[of_log:]])


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in few words."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"

"""Progress on a terminal; where there is none, a line when a run ends. What Snakemake says of a job, in short lines."""

import logging
import re
import sys
import time
from typing import Any

from peft_tradeoffs.tasks.metrics import METRICS

INTERVAL_S = 5.0
WIDTH = 160  # characters of a line about a job
LISTS = re.compile(r" *(input|output|reason): ")  # resources, which a user sets, stay whole


class TerminalReporter:
    """One line every few seconds on a terminal: run, epoch, step, loss, time left."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._terminal = sys.stdout.isatty()
        self._started = self._last = time.monotonic()
        self._first_step: int | None = None

    def due(self) -> bool:
        return self._terminal and time.monotonic() - self._last >= INTERVAL_S

    def step(self, step: int, total: int, epoch: int, epochs: int, loss: float) -> None:
        now = time.monotonic()
        if self._first_step is None:  # warm-up and steps of an earlier attempt do not count
            self._first_step, self._started, eta = step, now, "…"
        else:
            left = (now - self._started) / (step - self._first_step) * (total - step)
            eta = f"{int(left // 60)}:{int(left % 60):02d}"
        self._last = now
        self._print(f"epoch {epoch}/{epochs}  step {step}/{total}  loss {loss:.3f}  ETA {eta}")

    def evaluation(self, row: dict[str, Any]) -> None:
        if self._terminal:
            shown = [name for name, metric in METRICS.items() if metric.on_terminal and row[name] is not None]
            figures = "  ".join(f"{name} {row[name]:.3f}" for name in shown)
            self._print(f"epoch {row['epoch']:g}  {row['split']} loss {row['loss']:.3f}  {figures}")

    def done(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        print(f"{self._name}  {text}", flush=True)


class BriefJobs(logging.Formatter):
    """Formats as `inner`, but cuts the lists of a job's files, and why it runs, to a line of WIDTH characters."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        text = self._inner.format(record)
        about_a_job = str(getattr(record, "event", "")).rpartition(".")[2].lower() in ("job_info", "group_info")
        if not about_a_job:
            return text
        return "\n".join(shortened(line) if LISTS.match(line) else line for line in text.split("\n"))


def shortened(line: str) -> str:
    """A list "a, b; c" cut to WIDTH characters, and how many of its entries were left out."""
    if len(line) <= WIDTH:
        return line
    entries = re.split(r"(?<=[,;]) ", line)
    kept = 1
    while len(" ".join(entries[: kept + 1])) < WIDTH - 20:
        kept += 1
    text, left = " ".join(entries[:kept]).rstrip(",;"), len(entries) - kept
    text = text if len(text) <= WIDTH - 20 else text[: WIDTH - 20] + "…"
    return f"{text} and {left} more" if left else text


def say_briefly(logger: logging.Logger) -> None:
    """Let the terminal have short lines about jobs; Snakemake's log file keeps them whole."""
    for handler in logger.handlers:
        on_a_terminal = isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
        if on_a_terminal and handler.formatter and not isinstance(handler.formatter, BriefJobs):
            handler.setFormatter(BriefJobs(handler.formatter))

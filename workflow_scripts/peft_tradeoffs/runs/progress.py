"""Progress on a terminal; where there is none, a line when a run ends."""

import sys
import time
from typing import Any

from peft_tradeoffs.tasks.metrics import METRICS

INTERVAL_S = 5.0


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

"""Signals that come in storms: a script that trains ends with status 75, whenever they come."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
from peft_tradeoffs.runs.interruption import EXIT_STATUS, SIGNALS

SCRIPT = """
import signals_first
import argparse, atexit, json, sys, threading, time
from pathlib import Path
print("imports", flush=True)
time.sleep({imports})
from peft_tradeoffs.core import errors
from peft_tradeoffs.runs.interruption import Interruption

def step():
    end = time.monotonic() + 0.01
    while time.monotonic() < end:
        sum(range(1000))

def main():
    atexit.register(time.sleep, 0.3)
    atexit.register(print, "exits", flush=True)
    interruption = Interruption()
    with interruption.answered():
        print("begins", flush=True)
        try:
            for _ in range({before}):
                step()
        except BaseException as error:
            {on_error}
        interruption.hold()
        print("holds", flush=True)
        for _ in range({steps}):
            step()
            if interruption.signal_name:
                break
        time.sleep({saves})
        interruption.release()

errors.run(main)
"""
LIBRARY = 'raise ImportError("cannot import name") from error'  # what an extension makes of an exception within it


def storm(process: subprocess.Popen[str], said: str, seed: str, count: int = 3) -> tuple[int, str]:
    """Wait for a line, then send signals 0 to 300 ms apart; exit status and stderr."""
    for line in process.stdout:
        if line.strip() == said:
            break
    noise = random.Random(seed)
    for number in noise.choices(SIGNALS, k=count):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        time.sleep(noise.uniform(0.0, 0.3) * noise.choice([0, 1]))
    error = process.communicate(timeout=600)[1]
    return process.returncode, error


def start(**changes: object) -> subprocess.Popen[str]:
    values = {"imports": 0.0, "before": 0, "steps": 0, "saves": 0.2, "on_error": "raise"} | changes
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(**values)],
        env={**os.environ, "PYTHONPATH": str(tiny.REPOSITORY / "workflow_scripts")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ("imports", {"imports": 5.0}),
        ("begins", {"before": 10_000}),
        ("begins", {"before": 10_000, "on_error": LIBRARY}),
        ("begins", {"before": 10_000, "on_error": "pass"}),  # a bare except in a library: answered at the next step
        ("holds", {"steps": 10_000}),
        ("holds", {"steps": 10_000, "saves": 0.5}),
    ],
)
def test_storms_end_with_status_75(said: str, changes: dict[str, object]) -> None:
    code, error = storm(start(**changes), said, f"{said} {changes}")
    assert code == EXIT_STATUS, error
    assert "Traceback" not in error
    (line,) = error.splitlines()
    assert line.startswith("ended by SIG") and line.endswith("nothing is lost, run again to go on")


def test_a_storm_after_the_last_line_changes_nothing() -> None:
    """While Python takes itself down, after the work is done."""
    assert storm(start(), "exits", "last") == (0, "")


@pytest.mark.parametrize("script", ["train", "tune", "train_at_equal_memory", "profile_arm", "answer_untrained"])
def test_scripts_that_train_take_signals_over_before_all_else(script: str) -> None:
    text = Path(tiny.REPOSITORY / f"workflow_scripts/{script}.py").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert lines[0].startswith("import signals_first")


def test_a_real_error_keeps_its_traceback() -> None:
    broken = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(imports=0, before=1, steps=0, saves="None", on_error="raise")],
        env={**os.environ, "PYTHONPATH": str(tiny.REPOSITORY / "workflow_scripts")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert broken.returncode == 1 and "TypeError" in broken.stderr


def test_signals_are_those_of_schedulers_and_people() -> None:
    assert set(SIGNALS) == {signal.SIGTERM, signal.SIGUSR1, signal.SIGINT}

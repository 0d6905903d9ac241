"""Which runs a tracker has, and the sending of the others within a time limit. Cheap to import."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peft_tradeoffs import files
from peft_tradeoffs.attempts import now
from peft_tradeoffs.redaction import redacted
from peft_tradeoffs.tracking import not_installed, read_run

WAITS = "not tried yet"
SENDER = Path(__file__).parents[1] / "send_runs.py"
START_S = 300.0  # for Python to import accelerate and torch, from a slow disk too
GRACE_S = 5.0  # to end by itself, and to be gone after SIGKILL, which one that waits for a dead disk is not


def failed_attempts(record: Path) -> int:
    """How often runs of an arm could not be sent, as its record says; 0 without one that can be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return int(files.read_json(record)["failed_attempts"])
    return 0


def track(
    tracker: str, project: str, folder: Path, runs: list[Path], record: Path, call: str, limit_s: float
) -> dict[str, Any]:
    """Send the finished runs in the folders `runs` that the tracker does not have, and write `record` with what came.

    A tracker that gives no sign for `limit_s` is ended, and not tried again by the same `call` of Snakemake. Whatever
    it does, nothing is raised: a run that was not sent has the reason in `record`.
    """
    before = _read(record)
    found = {run.name: _known(run, before["runs"].get(run.name, {})) for run in runs}
    waiting = [run for run in runs if found[run.name]["reason"] == WAITS]
    silent = False
    if why := not_installed(tracker) or _hung_before(record, tracker, call):
        reasons: dict[str, str | None] = {run.name: why for run in waiting}
    else:
        reasons, silent = _send(tracker, project, folder, waiting, limit_s)
    for name, reason in reasons.items():
        found[name] |= {"status": "not sent" if reason else "sent", "reason": reason, "at": now()}
    failures = before["failed_attempts"] + any(run["status"] != "sent" for run in found.values())
    result = {"tracker": tracker, "project": project, "call": call, "silent": silent}
    result |= {"failed_attempts": failures, "runs": found}
    files.write_json(record, result)
    return result


def _known(run: Path, earlier: dict[str, Any]) -> dict[str, Any]:
    """What is known of a run before anything is sent; `earlier`, what its record said."""
    try:
        id = read_run(run).id
    except (OSError, ValueError, KeyError) as error:
        reason = f"its files cannot be read: {type(error).__name__} {error}"
        return {"status": "not sent", "reason": reason, "id": None, "at": now()}
    if (earlier.get("status"), earlier.get("id")) == ("sent", id):
        return earlier
    return {"status": "not sent", "reason": WAITS, "id": id, "at": now()}


def _send(
    tracker: str, project: str, folder: Path, runs: list[Path], limit_s: float
) -> tuple[dict[str, str | None], bool]:
    """By name of a run why it was not sent, None if it was; and whether the tracker was silent.

    After a run that made the tracker raise, the next one is tried in a new process.
    """
    reasons: dict[str, str | None] = {}
    while runs:
        error = "the process that sent it ended without a word"
        with contextlib.closing(_sent(tracker, project, folder, runs, limit_s)) as words:
            for said in words:
                if "sent" in said:
                    reasons[runs[0].name], runs = None, runs[1:]
                elif said.get("silent"):
                    return reasons | {run.name: said["error"] for run in runs}, True
                elif "error" in said:
                    error = redacted(said["error"])
        if runs:
            reasons[runs[0].name], runs = error, runs[1:]
    return reasons, False


def _sent(tracker: str, project: str, folder: Path, runs: list[Path], limit_s: float) -> Iterator[dict[str, Any]]:
    """What a process that sends the runs says of each; it is ended, with all it started, when it says nothing."""
    words = ["--tracker", tracker, "--project", project, "--folder", folder, "--runs", *runs]
    process = subprocess.Popen(
        [sys.executable, SENDER, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a tracker may print what it logs in with
        bufsize=0,
        start_new_session=True,
    )
    assert process.stdout is not None
    wait_s = START_S
    try:
        while True:
            if not select.select([process.stdout], [], [], wait_s)[0]:
                yield {"error": f"no answer within {wait_s:g} s", "silent": True}
                return
            wait_s = limit_s
            line = process.stdout.readline()
            if not line:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_S)
                return
            yield json.loads(line)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)


def _hung_before(record: Path, tracker: str, call: str) -> str | None:
    """Why there is no use in trying, if this call of Snakemake found the tracker silent for another arm."""
    for other in sorted(record.parents[2].glob("*/*/*.json")):
        if other != record and (known := _read(other))["silent"] and known["call"] == call:
            return f"{tracker} gave no answer for {other.parent.parent.name}/{other.parent.name}/{other.stem}"
    return None


def _read(record: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        return files.read_json(record)
    return {"runs": {}, "failed_attempts": 0, "silent": False, "call": None}

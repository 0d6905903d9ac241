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

SENDER = Path(__file__).parents[1] / "send_runs.py"
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
    found: dict[str, dict[str, Any]] = {}
    waiting: dict[str, Path] = {}
    for run in runs:
        try:
            id = read_run(run).id
        except (OSError, ValueError, KeyError) as error:
            found[run.name] = _not_sent(None, f"its files cannot be read: {type(error).__name__} {error}")
            continue
        earlier = before["runs"].get(run.name, {})
        if earlier.get("status") == "sent" and earlier.get("id") == id:
            found[run.name] = earlier
        else:
            found[run.name] = _not_sent(id, "not tried")
            waiting[run.name] = run
    hung = _hung_before(record, tracker, call)
    if why := not_installed(tracker) or hung:
        found |= {name: _not_sent(found[name]["id"], why) for name in waiting}
        waiting = {}
    silent = False
    while waiting and not silent:
        error, failed = None, next(iter(waiting))
        for said in _sent(tracker, project, folder, list(waiting.values()), limit_s):
            if "sent" in said:
                name = Path(said["sent"]).name
                found[name] = {"status": "sent", "reason": None, "id": found[name]["id"], "at": now()}
                del waiting[name]
                failed = next(iter(waiting), None)
            else:
                error, silent = redacted(said["error"]), said.get("silent", False)
        if failed is None:
            break
        found[failed] = _not_sent(found[failed]["id"], error or "the process that sent it ended without a word")
        if silent:
            found |= {name: _not_sent(found[name]["id"], error) for name in waiting}
        del waiting[failed]
    failures = before["failed_attempts"] + any(run["status"] != "sent" for run in found.values())
    result = {"tracker": tracker, "project": project, "call": call, "silent": silent or bool(hung)}
    result |= {"failed_attempts": failures, "runs": found}
    files.write_json(record, result)
    return result


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
    try:
        while True:
            if not select.select([process.stdout], [], [], limit_s)[0]:
                yield {"error": f"no answer within {limit_s:g} s", "silent": True}
                return
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


def _not_sent(id: str | None, reason: str | None) -> dict[str, Any]:
    return {"status": "not sent", "reason": reason, "id": id, "at": now()}

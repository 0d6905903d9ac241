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

from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import SCRIPTS
from peft_tradeoffs.core.redaction import redacted
from peft_tradeoffs.report.tracking import not_installed, read_run
from peft_tradeoffs.runs.attempts import now

WAITS = "not tried yet"
SENDER = SCRIPTS / "send_runs.py"
START_S = 300.0  # for Python to import accelerate and torch, from a slow disk too
GRACE_S = 5.0  # to end by itself, and to be gone after SIGKILL, which one that waits for a dead disk is not


def failed_attempts(record: Path) -> int:
    """How often a run could not be sent, as its record says; 0 without one that can be read."""
    return _read(record).get("failed_attempts", 0)


def track(
    tracker: str, project: str, folder: Path, records: dict[Path, Path], all_records: Path, call: str, limit_s: float
) -> dict[Path, dict[str, Any]]:
    """Send the finished runs that the tracker does not have; `records`: the file of what is known, by a run's folder.

    A tracker that gives no sign for `limit_s` is ended, and not tried again by the same `call` of Snakemake, which
    the records below `all_records` tell. Whatever it does, nothing is raised: a run that was not sent has the reason
    in its record.
    """
    found = {run: _known(run, _read(record)) for run, record in records.items()}
    waiting = [run for run in records if found[run]["reason"] == WAITS]
    why = waiting and (not_installed(tracker) or _silent_before(all_records, tracker, call))
    earlier = {run: found[run].get("earlier", []) for run in waiting}
    none = ((run, why, False, None) for run in waiting)
    for run, reason, silent, remark in none if why else _send(tracker, project, folder, earlier, limit_s):
        found[run] |= {"status": "not sent" if reason else "sent", "reason": reason, "at": now(), "remark": remark}
        found[run] |= {} if reason else {"earlier": []}
        found[run] |= {"tracker": tracker, "project": project, "call": call, "silent": silent}
        found[run]["failed_attempts"] += bool(reason)
        files.write_json(records[run], found[run])
    for run, record in records.items():  # also those kept: Snakemake wants them newer than the summaries
        files.write_json(record, found[run])
    return found


def _known(run: Path, earlier: dict[str, Any]) -> dict[str, Any]:
    """The record of a run before anything is sent; `earlier`, what it was."""
    failed = earlier.get("failed_attempts", 0)
    known = {"status": "not sent", "reason": WAITS, "id": None, "at": now(), "failed_attempts": failed}
    # What the tracker may have of the run as it was trained before; an attempt that failed may have sent a part.
    ids = dict.fromkeys([*earlier.get("earlier", []), earlier.get("id")])
    try:
        known["id"] = read_run(run).id
    except InputError as error:
        reason = f"its files cannot be read: {error}"
        return known | {"reason": reason, "failed_attempts": failed + 1, "earlier": list(filter(None, ids))}
    if (earlier.get("status"), earlier.get("id")) == ("sent", known["id"]):
        return earlier
    return known | {"earlier": [one for one in ids if one and one != known["id"]]}


def _send(
    tracker: str, project: str, folder: Path, earlier: dict[Path, list[str]], limit_s: float
) -> Iterator[tuple[Path, str | None, bool, str | None]]:
    """For each run why it was not sent, None if it was; whether the tracker was silent; and what is to be said of it.

    `earlier`: the ids under which the tracker may have each run as it was before.

    After a run that made the tracker raise, the next one is tried in a new process.
    """
    runs = list(earlier)
    while runs:
        error = "the process that sent it ended without a word"
        with contextlib.closing(_sent(tracker, project, folder, runs, earlier, limit_s)) as words:
            for said in words:
                if "sent" in said:
                    yield runs[0], None, False, said["remark"]
                    runs = runs[1:]
                elif said.get("silent"):
                    yield from ((run, said["error"], True, None) for run in runs)
                    return
                elif "error" in said:
                    error = redacted(said["error"])
        if runs:
            yield runs[0], error, False, None
            runs = runs[1:]


def _sent(
    tracker: str, project: str, folder: Path, runs: list[Path], earlier: dict[Path, list[str]], limit_s: float
) -> Iterator[dict[str, Any]]:
    """What a process that sends the runs says of each; it is ended, with all it started, when it says nothing."""
    words = ["--tracker", tracker, "--project", project, "--folder", folder, "--runs", *runs]
    words += ["--earlier", *(",".join(earlier[run]) or "-" for run in runs)]
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


def _silent_before(all_records: Path, tracker: str, call: str) -> str | None:
    """Why there is no use in trying, if this call of Snakemake found the tracker silent over another run."""
    for other in sorted(all_records.rglob("*.json")):
        known = _read(other)
        if call and known.get("silent") and known.get("call") == call:
            return f"{tracker} gave no answer for {other.relative_to(all_records).with_suffix('')}"
    return None


def _read(record: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, InputError):
        return files.read_object(record, {"failed_attempts": (int,)}, "a record", "")
    return {}

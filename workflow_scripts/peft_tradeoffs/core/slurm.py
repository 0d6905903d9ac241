"""Slurm's commands, its queue, and the SLURM job that this process is part of. Cheap to import."""

import datetime
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLES = {
    "restart_count": "SLURM_RESTART_COUNT",
    "node": "SLURMD_NODENAME",
    "partition": "SLURM_JOB_PARTITION",
    "account": "SLURM_JOB_ACCOUNT",
    "cluster": "SLURM_CLUSTER_NAME",
}
FORMATTING = ("SQUEUE_", "SCANCEL_", "SACCT_")  # a user's own defaults of what they list, and how


def neutral(variables: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Slurm's commands do and print what their command line says, times as ISO 8601."""
    kept = {name: value for name, value in variables.items() if not name.startswith(FORMATTING)}
    return {**kept, "SLURM_TIME_FORMAT": "standard"}


def command(*words: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands, whatever the user's variables. Raises OSError or subprocess.TimeoutExpired."""
    return subprocess.run(
        words, env=neutral(os.environ), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
    )


def job() -> dict[str, Any] | None:
    """Its job_id, restart_count, node, partition, account and cluster, each None if the environment lacks it.

    None outside SLURM. Snakemake's jobstep hides restart_count and account from the processes it starts.
    """
    number = os.environ.get("SLURM_JOB_ID")
    if not number or not number.isdecimal():
        return None
    found: dict[str, Any] = {key: os.environ.get(name) or None for key, name in VARIABLES.items()}
    if found["restart_count"] is not None:
        found["restart_count"] = int(found["restart_count"])
    return {"job_id": int(number), **found}


_told = False


def queued_s() -> float | None:
    """Seconds from when this process's job could have started to when it did, as sacct's Planned; then always 0.

    None outside SLURM, or where scontrol does not say.
    """
    global _told
    found = job()
    if found is None or _told:
        return None if found is None else 0.0
    try:
        done = command("scontrol", "show", "job", str(found["job_id"]), "--oneliner", timeout_s=30)
        times = [re.search(rf"{key}=(\S+)", done.stdout) for key in (r"\bEligibleTime", r"\bStartTime")]
        eligible, start = (datetime.datetime.fromisoformat(time[1]) for time in times if time)
    except (OSError, subprocess.TimeoutExpired, ValueError):  # no scontrol, no answer, "Unknown"
        return None
    queued_s = (start - eligible).total_seconds()
    if queued_s < 0:  # the controller's clock was set back meanwhile
        return None
    _told = True
    return queued_s


FORMAT = "%i|%j|%T|%r|%N|%k|%Z"
# The plugin names all jobs of one call of Snakemake alike: slurm-jobname-prefix, "_" and a UUID.
NAME = re.compile(r"(?:[A-Za-z0-9_-]{1,50}_)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ID = re.compile(r"\d+(?:_\d+|_\[[^|]*\]|\+\d+)?")  # of a job, a task of an array, several tasks, a part of a job
TIMEOUT_S = 60.0


class NoAnswer(Exception):
    """Slurm is there, but squeue or scancel failed; the message says how."""


@dataclass(frozen=True)
class Job:
    """A job that is queued, runs or is about to end."""

    id: str
    state: str  # as squeue has it: PENDING, RUNNING, COMPLETING, ...
    reason: str  # why it waits
    node: str
    comment: str  # the plugin's: rule_NAME_wildcards_A_B
    name: str = ""  # the plugin's: one for all jobs of a call of Snakemake

    @property
    def waits(self) -> bool:
        """Whether it has not started."""
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING")

    def __str__(self) -> str:
        where = self.reason if self.waits else f"on {self.node}"
        what = self.comment.removeprefix("rule_").replace("_wildcards_", " ")
        return f"{self.id} {what}: {self.state} {where}"


def installed() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("squeue") is not None


def jobs(folder: Path) -> list[Job]:
    """This user's unfinished jobs that Snakemake submitted with `folder` as its working folder, oldest first.

    Empty where Slurm is not installed; raises NoAnswer where it does not answer.
    """
    if not installed():
        return []
    listing = _run("squeue", "--me", "--array", "--noheader", "--sort=i", f"--format={FORMAT}")
    return [job for job, where in map(_read, listing.split("\n")) if job and Path(where).resolve() == folder.resolve()]


def _read(line: str) -> tuple[Job | None, str]:
    """A job of Snakemake's and its folder; None for any other, in whose name may stand "|" and line breaks."""
    fields = line.split("|", maxsplit=FORMAT.count("|"))
    if len(fields) <= FORMAT.count("|") or not ID.fullmatch(fields[0]) or not NAME.fullmatch(fields[1]):
        return None, ""
    number, name, state, reason, node, comment, where = fields
    return Job(number, state, reason, node, comment, name), where


def unfinished() -> set[str]:
    """The ids of all of this user's unfinished jobs, whoever submitted them. Raises NoAnswer."""
    return set(_run("squeue", "--me", "--noheader", "--format=%A").split())


def cancel(jobs: list[Job]) -> None:
    """Scancel the jobs. Raises NoAnswer if Slurm refuses."""
    _run("scancel", *(job.id for job in jobs))


def _run(*words: str) -> str:
    try:
        done = command(*words, timeout_s=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{words[0]}: no answer within {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise NoAnswer(f"{words[0]}: {' '.join(done.stderr.split()) or f'exit status {done.returncode}'}")
    return done.stdout

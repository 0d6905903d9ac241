"""Slurm's commands, and the SLURM job that this process is part of. Cheap to import."""

import datetime
import os
import re
import subprocess
from collections.abc import Mapping
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
        times = [re.search(rf"{key}=(\S+)", done.stdout)[1] for key in (r"\bEligibleTime", r"\bStartTime")]
        eligible, start = map(datetime.datetime.fromisoformat, times)
    except (OSError, subprocess.TimeoutExpired, TypeError, ValueError):  # no scontrol, no answer, "Unknown"
        return None
    queued_s = (start - eligible).total_seconds()
    if queued_s < 0:  # the controller's clock was set back meanwhile
        return None
    _told = True
    return queued_s

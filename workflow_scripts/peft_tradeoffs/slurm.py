"""The SLURM job that this process is part of. Cheap to import."""

import os
from typing import Any

VARIABLES = {
    "restart_count": "SLURM_RESTART_COUNT",
    "node": "SLURMD_NODENAME",
    "partition": "SLURM_JOB_PARTITION",
    "account": "SLURM_JOB_ACCOUNT",
    "cluster": "SLURM_CLUSTER_NAME",
}


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

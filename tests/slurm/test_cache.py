"""A Hugging Face cache that a site shares: somebody else's, and nobody may write to it."""

import os
from pathlib import Path

import hub_client
import tiny
from hub_server import HubServer

from slurm import workflow
from slurm.cluster import Cluster

NOBODY = 65534


def test_a_read_only_cache_of_somebody_else(cluster: Cluster, tmp_path: Path) -> None:
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    scratch.mkdir()
    with HubServer(hub_client.repositories(tmp_path / "hub")) as server:
        online = {"HF_HOME": str(home), "HF_ENDPOINT": server.url, "NO_PROXY": "127.0.0.1"}
        tiny.snakemake(scratch, hub_client.experiment("filled"), "fetch", **online)
    shared = hub_client.read_only(home, tmp_path / "shared")
    for path in [shared, *shared.rglob("*")]:
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    before = hub_client.listing(shared)
    jobs = {job.id for job in cluster.jobs()}
    workflow.site(scratch)
    variables = {"HF_HOME": str(shared), "HF_HUB_OFFLINE": "1"}
    process = workflow.start(
        scratch, hub_client.experiment("results"), "runs", before=hub_client.obey_modes, **variables
    )
    workflow.finish(scratch, process)
    runs = tiny.summaries(scratch)
    assert {name: run["status"] for name, run in runs.items()} == {
        "full/seed0": "completed", "lora-r4/seed0": "completed",
    }  # fmt: skip
    assert hub_client.listing(shared) == before
    assert (scratch / "results/models/tiny").resolve().is_relative_to(shared)
    trained = [job for job in cluster.jobs() if job.id not in jobs and job.partition == "gpu"]
    assert len(trained) == 2

"""`snakemake --profile … gpu_check`: one job, as training jobs are; these compute on the CPU."""

from pathlib import Path

import pytest
import tiny

from slurm import workflow
from slurm.cluster import Cluster


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_verdict_is_plain(cluster: Cluster, tmp_path: Path, tiny_bert: Path, device: str) -> None:
    tiny.write_inputs(tmp_path, tiny_bert)
    workflow.site(tmp_path)
    before = {job.id for job in cluster.jobs()}
    settings = tiny.config(tmp_path)
    settings["training"]["device"] = device
    process = workflow.start(tmp_path, settings, "gpu_check")
    said = workflow.finish(tmp_path, process, check=False)
    (job,) = [job for job in cluster.jobs() if job.id not in before]  # not tried again
    report = (tmp_path / "results/gpu_check.txt").read_text()
    assert (job.partition, job.comment) == ("gpu", "rule_gpu_check")
    assert f"SLURM job {job.id}" in report and said.count(report) == 1
    assert process.returncode == (device == "cuda")
    asked = {"cpu": "none is asked for", "cuda": "this torch is a CPU build"}[device]
    assert report.splitlines()[-1].startswith(f"GPU check: no GPU ({asked}")
    uses = [use for use in cluster.uses() if use.job == job.id]
    assert [len(use.gpus) for use in uses] == [int(device == "cuda")]

"""Site profiles: one that asks for GPUs with --gres runs the benchmark; what does not exist is named at submission."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from slurm import workflow
from slurm.cluster import Cluster
from slurm.jobs import most_at_once, sharing

SITES = tiny.REPOSITORY / "examples/slurm-sites"
WITH_ACCOUNTING = pytest.mark.parametrize("cluster", [True], ids=["accounting_on"], indirect=True)


def site(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """One of the example profiles in `folder`/site, with the tests' quick looks at jobs."""
    settings = yaml.safe_load((SITES / name / "profile.yaml").read_text(encoding="utf-8"))
    quick = yaml.safe_load((workflow.site(folder) / "profile.yaml").read_text(encoding="utf-8"))
    del quick["set-resources"]
    (folder / "site/profile.yaml").write_text(yaml.safe_dump({**quick, **settings, **changes}), encoding="utf-8")
    return settings


@WITH_ACCOUNTING
def test_gpus_by_gres(cluster: Cluster, finished: Path, tmp_path: Path) -> None:
    for words in (("add", "account", "edu"), ("add", "user", "root", "Account=edu")):
        cluster.run("sacctmgr", "--immediate", *words, "Cluster=tests")
    folder, before = workflow.untrained(finished, tmp_path), {job.id for job in cluster.jobs()}
    site(folder, "teaching")
    workflow.run(folder, None, "runs")
    assert workflow.weights_and_predictions(folder) == workflow.weights_and_predictions(finished)
    jobs = [job for job in cluster.jobs() if job.id not in before]
    assert {(job.partition, cluster.show(job.id)["Account"]) for job in jobs} == {("gpu", "edu")}
    uses = [use for use in cluster.uses() if use.job in {job.id for job in jobs}]
    assert [len(use.gpus) for use in uses] == [1, 1, 1]
    assert most_at_once(uses) == 2 and not sharing(uses)


@WITH_ACCOUNTING
@pytest.mark.parametrize(
    ("resource", "value"),
    [("slurm_partition", "nowhere"), ("slurm_account", "nobody"), ("gres", "tpu:1")],
)
def test_what_does_not_exist_is_named(
    cluster: Cluster, finished: Path, tmp_path: Path, resource: str, value: str
) -> None:
    folder, before = workflow.untrained(finished, tmp_path), {job.id for job in cluster.jobs()}
    train = {"slurm_partition": "gpu", "slurm_account": "tests", "mem_mb": 4000, "gpu": 0, resource: value}
    workflow.site(folder, retries=0)
    settings = yaml.safe_load((folder / "site/profile.yaml").read_text(encoding="utf-8"))
    settings["set-resources"] = {"train": train}
    (folder / "site/profile.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    process = workflow.start(folder, None, "runs")
    said = workflow.finish(folder, process, check=False)
    assert process.returncode == 1
    errors = [line for line in said.splitlines() if "error" in line.lower() or "invalid" in line.lower()]
    assert errors and value in said.split("rror", 1)[1]
    assert {job.id for job in cluster.jobs()} == before


@pytest.mark.parametrize("name", ["gpus", "teaching"])
def test_a_site_profile_is_understood(tmp_path: Path, finished: Path, name: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    shutil.rmtree(folder / "results/runs")
    settings = site(folder, name)
    said = workflow.run(folder, None, "runs", "-n")
    train = settings["set-resources"]["train"]
    for word in (settings["default-resources"]["slurm_account"], train["runtime"], train["slurm_extra"].strip("'")):
        assert str(word).split()[-1] in said

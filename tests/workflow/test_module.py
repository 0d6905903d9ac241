"""The workflow from elsewhere: as a module of another workflow, and from a checkout that cannot be written to."""

import json
import shutil
import subprocess
import sys

import pytest
import tiny
import yaml

MODULE = """
configfile: "study.yaml"

module peft:
    snakefile: {snakefile!r}
    config: config["peft"]

use rule * from peft as peft_*

rule all:
    default_target: True
    input: rules.peft_runs.input
"""
ONE = {"full": {"learning_rate": 1e-3}}


def call(folder, *words, before=()):
    command = [*before, sys.executable, "-m", "snakemake", "--directory", str(folder), "--cores", "2", *words]
    return subprocess.run(
        command, cwd=folder, env=tiny.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_another_workflow_takes_it_as_a_module(tmp_path, tiny_bert):
    """Its configuration is a part of the other one's; its rules keep to their own checkout."""
    tiny.write_inputs(tmp_path, tiny_bert)
    settings = tiny.config(tmp_path, methods=ONE, seeds=[0])
    (tmp_path / "study.yaml").write_text(yaml.safe_dump({"peft": settings, "of another": {"module": [1, 2]}}))
    (tmp_path / "Snakefile").write_text(MODULE.format(snakefile=str(tiny.REPOSITORY / "Snakefile")))
    done = call(tmp_path)
    assert done.returncode == 0, done.stdout
    summary = tmp_path / "results/runs/reviews/tiny/full/seed0/summary.json"
    assert json.loads(summary.read_text())["status"] == "completed"
    again = call(tmp_path)
    assert "Nothing to be done" in again.stdout, again.stdout


def test_a_checkout_that_cannot_be_written_to_serves_a_study_elsewhere(tmp_path, tiny_bert):
    checkout = tmp_path / "checkout"
    shutil.copytree(
        tiny.REPOSITORY,
        checkout,
        ignore=shutil.ignore_patterns(".git", ".venv", "results", ".snakemake", "__pycache__"),
    )
    study = tmp_path / "study"
    study.mkdir()
    tiny.write_inputs(study, tiny_bert)
    (study / "config.yaml").write_text(yaml.safe_dump(tiny.config(study, methods=ONE, seeds=[0])))
    mount = f'mount --bind "{checkout}" "{checkout}" && mount -o remount,ro,bind "{checkout}" && exec "$@"'
    apart = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    if subprocess.run([*apart, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    refused = subprocess.run([*apart, "touch", str(checkout / "x")], capture_output=True, text=True)
    assert "Read-only file system" in refused.stderr
    done = call(study, "--snakefile", str(checkout / "Snakefile"), "runs", before=apart)
    assert done.returncode == 0, done.stdout
    assert (study / "results/runs/reviews/tiny/full/seed0/summary.json").is_file()

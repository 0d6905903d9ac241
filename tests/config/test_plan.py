"""The configuration as Snakemake hands it on: `--config`, `--lint`, and the resources of a profile."""

import json
import re
from pathlib import Path

import pytest
import tiny
import yaml


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Rows of the small experiment; its model is one of the hub, for nothing is fetched here."""
    tiny.write_inputs(tmp_path, tmp_path)
    return tmp_path


def config(folder: Path) -> dict:
    hub = {"source": "hub", "path": "owner/model", "revision": "0" * 40}
    return json.loads(json.dumps(tiny.config(folder, models={"tiny": hub})))


def test_config_on_the_command_line(folder):
    """Snakemake makes texts of what stands in lists and mappings there, and hands on ~ as it is."""
    words = ("--config", "seeds=[0,4]", "training={epochs: 2}", "output=~/there", "comparison={margin: 0.05}")
    said = tiny.snakemake(folder, config(folder), "-n", "-p", *words, HOME=str(folder)).stdout
    assert re.search(rf"--seeds 0 4 .*--output-dir {folder}/there/runs/reviews/tiny/full ", said)
    assert not re.search(r"seed[1-35-9]/", said)


def test_lint_of_all_that_can_be_asked_for(folder):
    """With the default output, and with names in braces, which are no wildcards of ours."""
    result = {
        "run_info": {"experiment_name": "x", "train_config": {"model_id": "m"}},
        "train_info": {"status": "success", "metrics": []},
        "meta_info": {},
    }
    (folder / "published.json").write_text(json.dumps(result))
    settings = config(folder)
    for method in settings["methods"].values():
        method["learning_rate"] = [1e-3, 1e-2]
    settings["datasets"]["reviews"] |= {"text": ["{text}"], "label": "{dataset}"}
    for name in ("train.tsv", "test.tsv"):
        rows = (folder / name).read_text().replace("sentence\tlabel", "{text}\t{dataset}", 1)
        (folder / name).write_text(rows)
    settings |= {"noise": {}, "equal_memory": {"caps_GiB": [1]}, "imported": {"peft": ["published.json"]}}
    settings |= {"seeds_per_job": 1, "tracking": "tensorboard"}
    assert "Congratulations" in tiny.snakemake(folder, settings, "--lint").stdout


def test_resources_are_judged_when_a_plan_is_made(folder):
    """`1-0`, a day to SLURM, is 1 to Snakemake, which calculates: a minute."""
    (folder / "profile").mkdir()
    blocks = {"default-resources": {"slurm_partition": "cpu"}, "set-resources": {"train": {"runtime": "1-0"}}}
    (folder / "profile/profile.yaml").write_text(yaml.safe_dump(blocks))
    words = ("-n", "--profile", str(folder / "profile"))
    done = tiny.snakemake(folder, config(folder), *words, check=False)
    assert done.returncode == 1
    assert "set-resources, train: runtime: 1-0: SLURM's way to write a time" in done.stdout
    assert "Traceback" not in done.stdout
    assert "Job stats" not in done.stdout

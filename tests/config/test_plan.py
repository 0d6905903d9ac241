"""The configuration as Snakemake hands it on: `--config`, `--lint`, and the resources of a profile."""

import json
import re
from pathlib import Path

import pytest
import tiny
import yaml
from peft_tradeoffs.config import preflight
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.core.errors import InputError


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


def on_gpus(folder: Path, device: str = "cuda", **of_training: int) -> dict:
    """The experiment with an arm of two GPUs, unless `of_training` has them, and two of one."""
    settings = config(folder) | {"contract": {"strict": False}}
    settings["training"] |= {"device": device, **of_training}
    if not of_training:
        settings["methods"]["full"]["gpus"] = 2
    return settings


def jobs(said: str) -> dict[str, str]:
    """What a plan says of the job of each arm."""
    return {
        found[1]: found[0]
        for found in re.finditer(r"^rule train:.*?arm=([\w-]+).*?^    resources: .*?$", said, re.M | re.S)
    }


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_plan_shows_the_gpus_of_each_job(folder, device):
    words = ("--profile", str(tiny.REPOSITORY / "profiles/slurm"))
    found = jobs(tiny.snakemake(folder, on_gpus(folder, device), "-n", *words).stdout)
    for arm, count in {"full": 2, "lora-r4": 1, "qlora-r4": 1}.items():
        asked = {"gpu": count * (device == "cuda"), "nodes": 1, "cpus_per_task": 2 * count, "mem_mb": 16000 * count}
        assert {f"{key}={value}" for key, value in asked.items()} <= set(re.split("[ ,]+", found[arm])), found[arm]
        assert ("threads: 2" in found[arm]) == (count == 2)


def test_a_plan_says_where_all_jobs_may_have_fewer_gpus_than_one_is_to_have(folder):
    """Snakemake would give the job fewer, and say nothing."""
    done = tiny.snakemake(folder, on_gpus(folder), "-n", "--resources", "gpu=1", check=False)
    assert done.returncode == 1
    assert "config key methods.full.gpus: 2, but all jobs together may have 1 (--resources gpu=1, or" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("here", "limit", "of_training", "said"),
    [
        (True, None, {}, "config key methods.full.gpus: 2, but this machine has 1, and the runs of full would be"),
        (True, 8, {"gpus": 4}, "config key training.gpus: 4, but this machine has 1, and the runs of full would be"),
        (False, 3, {"gpus": 4}, "config key training.gpus: 4, but all jobs together may have 3 "),
        (False, 2, {}, None),
        (False, None, {"gpus": 4}, None),
    ],
)
def test_gpus_that_no_job_could_get(folder, monkeypatch, here, limit, of_training, said):
    monkeypatch.setattr(preflight.machine, "gpus_here", lambda: 1)
    experiment = resolve(on_gpus(folder, **of_training))
    preflight.check_gpus(resolve(config(folder)), "full", here, limit)  # one, which is there
    if said is None:
        preflight.check_gpus(experiment, "full", here, limit)
        return
    with pytest.raises(InputError) as caught:
        preflight.check_gpus(experiment, "full", here, limit)
    assert str(caught.value).startswith(said)

"""Resources that SLURM would not take, or that Snakemake reads as something else: refused when a plan is made."""

from types import SimpleNamespace

import pytest
import tiny
import yaml
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.slurm import check_commands, check_resources
from snakemake.resources import Resources


def check(written: str, rule: str | None = None, *others: str) -> None:
    """Judge one resource as Snakemake reads it, on a cluster."""
    block = Resources.parse([written, *others], allow_expressions=True)
    others = Resources.parse(["slurm_extra='--signal=TERM@90'"], allow_expressions=True)
    check_resources(*((others, {rule: block}) if rule else ({**others, **block}, {})))


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("runtime=1-0", "SLURM's way to write a time"),
        ("runtime=1-12:00:00", "SLURM's way to write a time"),
        ("runtime=4:00:00", "SLURM's way to write a time"),
        ("runtime='02:30'", "SLURM's way to write a time"),
        ("runtime=2d12h", "neither a time nor an expression"),
        ("runtime=UNLIMITED", "not a whole number of minutes"),
        ("gres=gpu:1,shard:2", "several kinds of gres"),
        ("gres='gpu:a100:1,nvme:10'", "several kinds of gres"),
        ("gres=gpu:rtx-6000:1", "not NAME, NAME:NUMBER"),
        ("gres=1", "a number; write it in two pairs of quotes"),
        ("gpu_model=h100-80gb", "letters, digits, _ and . alone"),
        ("gpu_model='a100 80gb'", "letters, digits, _ and . alone"),
        ("gpu_model=4090", "a number; write it in two pairs of quotes"),
        ("slurm_partition=all", "Python's own all, not the name"),
        ("slurm_partition=input", "Python's own input, not the name"),
        ("slurm_partition=2024-1", "Python calculates with it"),
        ("qos=max", "Python's own max, not the name"),
        ("slurm_account=filter", "Python's own filter, not the name"),
        ("constraint=any", "Python's own any, not the name"),
    ],
)
def test_refused(written, said):
    for rule in (None, "train"):
        with pytest.raises(InputError) as caught:
            check(written, rule)
        assert said in str(caught.value)
        name, _, value = written.partition("=")
        assert f"{'set-resources, train' if rule else 'default-resources'}: {name}: {value}: " in str(caught.value)


@pytest.mark.parametrize(
    "written",
    [
        *("runtime=240", "runtime=2h", "runtime='1d'", "runtime=60*attempt", "runtime=min(60 * attempt, 240)"),
        *(
            "runtime='2h' if attempt == 1 else '4h'",
            "runtime=600 if wildcards.arm == 'full' else 240",
            "gres=gpu:1",
            "gres=gpu:a100:2",
            "gres='gpu:1'",
        ),
        *("gpu_model=a100", "gpu_model=2080ti", "gpu_model=tesla_v100", "gpu_model='a100' if attempt > 1 else 'v100'"),
        *("slurm_partition='all'", "slurm_partition=gpu", "slurm_partition=cpu-long", "slurm_partition=gpu,cpu"),
        *("constraint='a100|h100'", "constraint=a100|h100", "qos=normal", "slurm_account=my.project", "mem_mb=4000"),
    ],
)
def test_taken(written):
    check(written)
    check(written, "train")


def test_other_executors_name_gpus_as_they_like():
    check_resources(Resources.parse(["gpu_model=nvidia-tesla-t4"], allow_expressions=True), {})
    check_resources(None, {})


@pytest.mark.parametrize(
    "path", [*(tiny.REPOSITORY / "profiles").glob("*/*.yaml"), *tiny.REPOSITORY.glob("examples/slurm-sites/*/*.yaml")]
)
def test_our_own_profiles(path):
    profile = yaml.safe_load(path.read_text())

    def parsed(block: dict) -> Resources:
        return Resources.parse([f"{name}={value}" for name, value in block.items()], allow_expressions=True)

    by_rule = profile.get("set-resources", {})
    check_resources(
        parsed(profile.get("default-resources", {})), {rule: parsed(block) for rule, block in by_rule.items()}
    )


def test_without_sbatch_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="no sbatch on the PATH"):
        check_commands(SimpleNamespace(name="slurm"))
    check_commands(SimpleNamespace(name="local"))
    check_commands(None)

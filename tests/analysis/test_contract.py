"""The contract: every way in which arms can be made unequal is refused by name, or printed by name."""

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forks
import pytest
import synthetic
import synthetic_predictions
import tiny
import torch
from peft_tradeoffs.analysis import tables
from peft_tradeoffs.analysis.contract import (
    DECLARED,
    DIFFERS,
    EQUAL,
    OWN,
    UNREACHED,
    Finding,
    compare,
    read_grid,
    undeclared,
    with_differences,
)
from peft_tradeoffs.analysis.finished import FACTS
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.config.preflight import check_planned
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import signed
from peft_tradeoffs.report.style import drawings
from peft_tradeoffs.training import methods

ARMS = synthetic.grid(["full", "lora", "qlora"], [4, 16])
AXES = ("dataset", "model", "arm", "seed")
SCRIPTS = tiny.REPOSITORY / "workflow_scripts"
TUNING = {
    "arm": "full",
    "rates": [1e-5, 1e-4],
    "retry": 2,
    "seed": 1000,
    "epochs": 3,
    "max_steps": None,
    "batch_size": 32,
}
TUNING |= {"train_rows": 5760, "dev_rows": 640, "dev": "train", "data_sha256": "d" * 64, "tied": [], "gaps": []}
TUNING |= {"trials": [], "retries": [], "earlier": []}
TUNING |= {"dataset": "sst2", "model": "distilbert", "method": "full", "rank": None, "metric": "accuracy"}
Change = Callable[[dict[str, Any]], Any]


def runs(device: str = "cuda", seeds: int = 3, **changes: Any) -> list[dict[str, Any]]:
    return [synthetic.summary(*arm, seed, device=device, **changes) for arm in ARMS for seed in range(seeds)]


def write(folder: Path, summaries: list[dict[str, Any]]) -> Path:
    """Write the runs; the folder of those of one data set and model."""
    synthetic.write(folder, summaries)
    return folder / "runs/sst2/distilbert"


def change(runs: Path, arm: str, of: Change, seed: str = "*", file: str = "env.json") -> None:
    """Change what an arm's runs recorded; of the settings by `settings(...)`."""
    paths = sorted(runs.glob(f"{arm}/seed{seed}/{file}"))
    assert paths
    for path in paths:
        value = json.loads(path.read_text())
        of(value)
        path.write_text(json.dumps(value))


def settings(**fields: Any) -> Change:
    return lambda env: env["settings"].update(fields)


def tuned(runs: Path, arms: str, **tuning: Any) -> None:
    """Let an arm's runs have taken the rate that they recorded from this tuning, by tune.py's file of it."""
    tuning = {**TUNING, **tuning}
    for path in sorted(runs.glob(f"{arms}/seed0/env.json")):
        tuning.setdefault("learning_rate", json.loads(path.read_text())["settings"]["learning_rate"])
    best = runs.parents[2] / f"tune/best/sst2/distilbert/{tuning['arm']}.json"
    best.parent.mkdir(parents=True, exist_ok=True)
    best.write_text(json.dumps(signed(tuning)))
    change(runs, arms, settings(tuned_as=tuning["arm"]))


def versions(**names: str) -> Change:
    return lambda env: env["versions"].update(names)


def fields(**values: Any) -> Change:
    return lambda value: value.update(values)


def grid(summaries: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {axis: list(dict.fromkeys(run[axis] for run in summaries)) for axis in AXES}


def findings(
    folder: Path, declared: dict[str, list[str]] | None = None, baseline: str = "full"
) -> dict[tuple[str, str], Finding]:
    """What the contract finds, by arm and fact, in runs that published what is there."""
    synthetic.seal_all(folder)
    found = read_grid(folder.parents[1], folder.parents[2] / "tune/best", grid(runs()))["sst2", "distilbert"]
    return {(one.arm, one.fact): one for one in compare(found, baseline, declared or {})}


def refused(folder: Path, **options: Any) -> dict[str, list[str]]:
    """The arms that are refused, by fact."""
    by_fact: dict[str, list[str]] = {}
    for one in undeclared(findings(folder, **options).values()):
        by_fact.setdefault(one.fact, []).append(one.arm)
    return by_fact


def check(folder: Path, *words: str, summaries: list[dict[str, Any]] | None = None) -> subprocess.CompletedProcess[str]:
    """The command line over the runs in `folder`, which published what is there."""
    synthetic.seal_all(folder)
    place = ["--runs-dir", str(folder / "runs"), "--grid", json.dumps(grid(summaries or runs()))]
    place += ["--output-dir", str(folder / "tables"), "--baseline", "full"]
    place += ["--tunings-dir", str(folder / "tune/best")]
    return forks.script(SCRIPTS / "check_contract.py", *place, *words)


LORA = ["lora-r4", "lora-r16"]
PEFT = [*LORA, "qlora-r4", "qlora-r16"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_equal_arms_keep_the_contract(tmp_path, device):
    found = findings(write(tmp_path, runs(device)))
    assert {one.verdict for one in found.values()} == {EQUAL, OWN}
    assert {one.fact for one in found.values() if one.verdict == OWN} == {"learning_rate"}
    assert {fact for _, fact in found} == set(FACTS)


# What the issue names: the mistakes that configuration or code can make.


def test_an_unequal_batch_is_refused(tmp_path):
    """Full fine-tuning at batch 8 beside 32: four times the steps, nothing else."""
    folder = write(tmp_path, runs())
    change(folder, "full", settings(batch_size=8))
    change(folder, "full", fields(batch_size=8, steps=2400), file="summary.json")
    for seed in range(3):
        path = folder / f"full/seed{seed}/metrics.csv"
        path.write_text(path.read_text().replace("3,600,", "3,2400,"))
    assert refused(folder) == {"batch_size": PEFT, "steps": PEFT}
    one = findings(folder)["lora-r4", "batch_size"]
    assert (one.value, one.compared_with, one.other) == ("32", "full", "8")


def test_a_rate_that_is_shared_and_not_tuned_is_refused(tmp_path):
    folder = write(tmp_path, runs())
    change(folder, "lora-r*", fields(learning_rate=3e-5), file="summary.json")
    assert refused(folder) == {"learning_rate": LORA}
    one = findings(folder)["lora-r4", "learning_rate"]
    assert (one.value, one.compared_with) == ("3e-05, not tuned", "full")
    assert refused(folder, declared={arm: ["learning_rate"] for arm in LORA}) == {}
    # Where a PEFT arm is the baseline, it is full fine-tuning and the other arms that are told.
    assert refused(folder, baseline="lora-r4") == {"learning_rate": ["full", "lora-r16"]}


def test_seeds_of_one_arm_at_two_rates_are_refused(tmp_path):
    folder = write(tmp_path, runs())
    change(folder, "lora-r4", fields(learning_rate=1e-3), seed="2", file="summary.json")
    assert refused(folder) == {"learning_rate": ["lora-r4"]}
    one = findings(folder)["lora-r4", "learning_rate"]
    assert one.value == "0.0005, not tuned (seeds 0, 1); 0.001, not tuned (seed 2)" and one.compared_with == "lora-r4"


def test_a_rate_tuned_for_full_fine_tuning_alone_is_refused(tmp_path):
    folder = write(tmp_path, runs())
    change(folder, "full", settings(learning_rate=5e-4))
    change(folder, "full", fields(learning_rate=5e-4), file="summary.json")
    for arm in ("full", "lora-r*"):
        tuned(folder, arm)
    tuned(folder, "qlora-r*", arm="qlora-r4")
    assert refused(folder) == {"learning_rate": LORA}
    assert findings(folder)["lora-r4", "learning_rate"].value == "0.0005, tuned for full"


def test_the_same_rate_tuned_for_each_is_no_breach(tmp_path):
    folder = write(tmp_path, runs())
    for arm in ("full", "lora-r4", "lora-r16", "qlora-r4", "qlora-r16"):
        change(folder, arm, settings(learning_rate=1e-4))
        change(folder, arm, fields(learning_rate=1e-4), file="summary.json")
        tuned(folder, arm, arm=arm, rates=[len(arm), 9.0], edge=arm)
    assert refused(folder) == {}


def test_a_rate_that_is_not_the_best_any_more_is_refused(tmp_path):
    """The grid was widened, and the runs of the rate before are mixed in."""
    folder = write(tmp_path, runs())
    for arm in ("full", "qlora-r4", "qlora-r16", "lora-r16"):
        tuned(folder, arm, arm=arm)
    tuned(folder, "lora-r4", arm="lora-r4", learning_rate=1e-3)
    assert refused(folder) == {"tuning": ["lora-r4"]}
    assert findings(folder)["lora-r4", "tuning"].value.startswith("taken 0.0005, not the best, 0.001")


def test_rates_tuned_under_another_version_are_refused(tmp_path):
    folder = write(tmp_path, runs())
    for arm in ("full", "qlora-r4", "qlora-r16", "lora-r16"):
        tuned(folder, arm, arm=arm, versions={"torch": "1.0.0"}, code_sha256="c" * 64)
    trial = {"learning_rate": 1e-4, "status": "completed", "value": 0.9, "loss": 0.3, "added": False}
    trials = [{**trial, "device_name": "NVIDIA A100"}]
    tuned(folder, "lora-r4", arm="lora-r4", versions={"torch": "0.9.0"}, code_sha256="b" * 64, trials=trials)
    assert refused(folder) == {"tuning": ["lora-r4"]}
    assert "tuned_with torch 0.9.0, other code, NVIDIA A100" in findings(folder)["lora-r4", "tuning"].value


@pytest.mark.parametrize(
    ("tuning", "value"),
    [
        (None, "none"),
        ({"rates": [1e-4]}, "rates 1"),
        ({"train_rows": 5120, "dev_rows": 1280}, "train_rows 5120, dev_rows 1280"),
        ({"seed": 7}, "seed 7"),
        ({"epochs": 1}, "epochs 1"),
        ({"retry": 0}, "retry 0"),
    ],
)
def test_methods_that_are_not_tuned_alike_are_refused(tmp_path, tuning, value):
    folder = write(tmp_path, runs())
    for arm in ("full", "qlora-r4", "qlora-r16"):
        tuned(folder, arm, arm=arm)
    if tuning:
        tuned(folder, "lora-r*", arm="lora-r4", **tuning)
    assert refused(folder) == {"tuning": LORA}
    assert findings(folder)["lora-r4", "tuning"].value.startswith(value)


def test_gradient_checkpointing_in_one_arm_is_refused(tmp_path):
    """What `prepare_model_for_kbit_training` does unasked: QLoRA's time and memory with it."""
    folder = write(tmp_path, runs())
    change(folder, "qlora-r4", settings(gradient_checkpointing=True))
    assert refused(folder) == {"gradient_checkpointing": ["qlora-r4"]}


def test_a_frozen_head_is_refused(tmp_path):
    """Also where every arm has one: a random classifier."""
    folder = write(tmp_path, runs())
    for arm in ("full", "*-r*"):
        change(folder, arm, lambda env: env["head"].update(trained_parameters=0))
    assert refused(folder) == {"trained_head": ["full", *PEFT]}
    one = findings(folder)["full", "trained_head"]
    assert (one.value, one.other) == (f"0 of {synthetic.HEAD} parameters", "all")


def test_a_frozen_head_shows_in_the_counts_of_older_recordings(tmp_path):
    folder = write(tmp_path, runs())
    for arm in ("full", "*-r*"):
        change(folder, arm, lambda env: env.pop("head"))
    assert refused(folder) == {}
    adapter = 4 * 18_432
    change(folder, "lora-r4", fields(trainable_parameters=adapter), file="summary.json")
    assert refused(folder) == {"trained_head": ["lora-r4"]}


def test_a_quantised_head_is_refused(tmp_path):
    folder = write(tmp_path, runs())
    change(folder, "qlora-r*", lambda env: env["head"].update(trained_parameters=0, dtypes=["uint8"]))
    assert refused(folder) == {"head": ["qlora-r4", "qlora-r16"], "trained_head": ["qlora-r4", "qlora-r16"]}
    assert findings(folder)["qlora-r4", "head"].value == "dtypes uint8"


@pytest.mark.parametrize("quantization", [None, tiny.NF4])
def test_what_is_recorded_of_a_head_is_what_was_built(tiny_bert, quantization):
    def build(peft: dict | None, quantization: dict | None) -> methods.Built:
        return tiny.build(tiny_bert, peft=peft, quantization=quantization)

    built = build({**tiny.LORA, "r": 4, "lora_alpha": 8}, quantization)
    size = built.parameters.head
    expected = {"modules": built.head, "trained_parameters": size, "dtypes": ["float32"]}
    assert methods.head_facts(built) == methods.head_facts(build(None, None)) == expected
    for name, parameter in built.model.named_parameters():
        if "original_module" in name:  # as frozen layers are held under autocast
            parameter.data = parameter.data.to(torch.bfloat16)
    assert methods.head_facts(built) == expected
    for name, parameter in built.model.named_parameters():
        if "classifier.modules_to_save" in name:
            parameter.requires_grad = False
            parameter.data = parameter.data.to(torch.bfloat16)
    assert methods.head_facts(built) == {
        **expected,
        "trained_parameters": size - 130,
        "dtypes": ["bfloat16", "float32"],
    }


def test_alpha_that_is_fixed_over_ranks_is_refused(tmp_path):
    folder = write(tmp_path, runs())
    change(folder, "lora-r*", lambda env: env["settings"]["peft"].update(lora_alpha=16))
    assert refused(folder) == {"scaling": ["lora-r16", "qlora-r4"]}
    one = findings(folder)["lora-r16", "scaling"]
    assert (one.value, one.compared_with) == ("1 (alpha 16 at rank 16)", "lora-r4")
    assert one.other == "4 (alpha 16 at rank 4)"


def peft(**fields: Any) -> Change:
    return lambda env: env["settings"]["peft"].update(fields)


@pytest.mark.parametrize(
    ("fields", "value", "other"),
    [
        ({"target_modules": "all-linear"}, "target_modules all-linear", "target_modules query, value"),
        ({"lora_dropout": 0.5}, "lora_dropout 0.5", "lora_dropout not set"),
        ({"bias": "all"}, "bias all", "bias not set"),
    ],
)
def test_an_adapter_unlike_another_of_its_peft_type_is_refused(tmp_path, fields, value, other):
    """LoRA on query and value beside QLoRA on all linear layers: the difference is not what NF4 costs."""
    folder = write(tmp_path, runs())
    change(folder, "*lora-r*", peft(target_modules=["query", "value"]))
    assert refused(folder) == {}
    change(folder, "qlora-r*", peft(**fields))
    assert refused(folder) == {"adapter": ["qlora-r4"]}
    one = findings(folder)["qlora-r4", "adapter"]
    assert (one.value, one.compared_with, one.other) == (value, "lora-r4", other)
    assert refused(folder, declared={"qlora-r4": ["adapter"]}) == {}


def test_alpha_of_one_method_that_is_not_the_others_is_refused(tmp_path):
    folder = write(tmp_path, runs())
    for rank in (4, 16):
        change(folder, f"qlora-r{rank}", peft(lora_alpha=128 * rank))
    assert refused(folder) == {"scaling": ["qlora-r4"]}
    one = findings(folder)["qlora-r4", "scaling"]
    assert (one.value, one.compared_with) == ("128 (alpha 512 at rank 4)", "lora-r4")


def test_seeds_of_one_arm_with_other_adapters_are_refused(tmp_path):
    folder = write(tmp_path, runs())
    change(folder, "lora-r16", peft(target_modules=["query"]), seed="1")
    assert refused(folder) == {"adapter": ["lora-r16"]}
    one = findings(folder)["lora-r16", "adapter"]
    assert one.value == "target_modules not set (seeds 0, 2); target_modules query (seed 1)"
    change(folder, "lora-r16", peft(target_modules=["query"]), seed="[02]")
    change(folder, "lora-r4", peft(target_modules=["query"]), seed="1")
    one = findings(folder)["lora-r4", "adapter"]
    assert (one.verdict, one.compared_with) == (DIFFERS, "lora-r4")


def test_whoever_declares_it_is_compared_with_who_does_not(tmp_path):
    """Whatever the order of the methods: DoRA may come before LoRA."""
    folder = write(tmp_path, runs())
    change(folder, "lora-r*", peft(use_dora=True))
    assert refused(folder, declared={arm: ["adapter"] for arm in LORA}) == {}
    found = findings(folder, {arm: ["adapter"] for arm in LORA})
    assert (found["lora-r4", "adapter"].verdict, found["lora-r4", "adapter"].compared_with) == (DECLARED, "qlora-r4")
    assert found["qlora-r4", "adapter"].verdict == EQUAL
    assert refused(folder, baseline="lora-r4", declared={arm: ["adapter"] for arm in LORA}) == {}
    assert refused(folder, baseline="qlora-r16") == {"adapter": ["lora-r4"]}


def test_the_order_of_target_modules_is_none(tmp_path):
    folder = write(tmp_path, runs())
    change(folder, "lora-r*", peft(target_modules=["query", "value"]))
    change(folder, "qlora-r*", peft(target_modules=["value", "query"]))
    assert refused(folder) == {}


def test_another_peft_type_has_an_adapter_of_its_own(tmp_path):
    folder = write(tmp_path, runs())
    change(folder, "qlora-r*", settings(peft={"peft_type": "IA3", "target_modules": ["key"]}))
    assert refused(folder) == {}
    found = findings(folder)
    assert {arm: found[arm, "adapter"].verdict for arm in ("full", "lora-r4", "qlora-r4", "qlora-r16")} == {
        **{"full": EQUAL, "lora-r4": EQUAL, "qlora-r4": OWN, "qlora-r16": OWN}
    }
    change(folder, "qlora-r16", peft(target_modules=["value"]))
    assert refused(folder) == {"adapter": ["qlora-r16"]}


def test_rslora_scales_by_the_root_of_the_rank(tmp_path):
    folder = write(tmp_path, runs())
    change(folder, "*lora-r4", peft(lora_alpha=8, use_rslora=True))
    change(folder, "*lora-r16", peft(lora_alpha=16, use_rslora=True))
    assert refused(folder) == {}
    change(folder, "lora-r16", lambda env: env["settings"]["peft"].update(lora_alpha=32))
    assert refused(folder) == {"scaling": ["lora-r16"]}


def test_an_arm_without_a_seed_that_others_have_is_refused(tmp_path):
    folder = write(tmp_path, runs())
    shutil.rmtree(folder / "qlora-r4/seed2")
    assert refused(folder) == {"seeds": ["qlora-r4"]}
    one = findings(folder)["qlora-r4", "seeds"]
    assert (one.value, one.other) == ("0, 1", "0, 1, 2")


def test_one_seed_keeps_the_contract_and_has_no_interval(tmp_path):
    """The comparison of arms says why (test_comparison.py); the contract has nothing to refuse."""
    one_each = runs(seeds=1)
    folder = write(tmp_path, one_each)
    found = read_grid(folder.parents[1], folder.parents[2] / "tune/best", grid(one_each))["sst2", "distilbert"]
    assert undeclared(compare(found, "full", {})) == []


def test_the_best_epoch_is_refused(tmp_path):
    """Also where every arm reports its best: that selects on the test split."""
    folder = write(tmp_path, runs())
    for arm in ("full", "*-r*"):
        for path in folder.glob(f"{arm}/seed*/summary.json"):
            rows = list(csv.DictReader((path.parent / "metrics.csv").open()))
            early = next(row for row in rows if row["split"] == "test" and row["step"] == "400")
            value = json.loads(path.read_text()) | {"metric_value": float(early["accuracy"])}
            path.write_text(json.dumps(value))
    assert refused(folder) == {"reported_step": ["full", *PEFT]}
    one = findings(folder)["full", "reported_step"]
    assert (one.value, one.other) == ("step 400 of 600", "the last")


def test_an_evaluation_before_the_last_step_is_refused(tmp_path):
    folder = write(tmp_path, runs())
    path = folder / "lora-r4/seed0/metrics.csv"
    path.write_text("".join(line for line in path.open() if not line.startswith("3,")))
    one = findings(folder)["lora-r4", "reported_step"]
    assert (one.verdict, one.value.split(";")[0]) == (DIFFERS, "last evaluated at step 400 of 600 (seed 0)")


def test_another_gpu_is_refused(tmp_path):
    folder = write(tmp_path, runs())
    change(folder, "lora-r4", fields(device_name="NVIDIA A100-SXM4-80GB"), file="summary.json")
    assert refused(folder) == {"device_name": ["lora-r4"]}


def test_a_run_that_went_on_on_another_gpu_is_refused(tmp_path):
    folder = write(tmp_path, runs())
    change(folder, "lora-r4", fields(mixed_gpus=True), file="summary.json")
    change(folder, "lora-r4", fields(attempts=[{"gpu_name": "NVIDIA H100 80GB HBM3"}, {"gpu_name": "NVIDIA A100"}]))
    assert findings(folder)["lora-r4", "device_name"].value == "NVIDIA A100 and NVIDIA H100 80GB HBM3"
    assert refused(folder) == {"device_name": ["lora-r4"]}


def test_results_of_an_older_version_are_refused(tmp_path):
    folder = write(tmp_path, runs())
    change(folder, "lora-r4", versions(torch="0.9.0", peft="0.1.0"))
    change(folder, "lora-r4", fields(code_sha256="b" * 64, git={"commit": "fedcba98" * 5, "dirty": True}))
    assert refused(folder) == {"torch": ["lora-r4"], "peft": ["lora-r4"], "code": ["lora-r4"]}
    assert findings(folder)["lora-r4", "code"].value == "bbbbbbbbbbbb (commit fedcba98fedc, changed)"


def test_what_an_older_recording_lacks_differs(tmp_path):
    folder = write(tmp_path, runs())
    change(folder, "lora-r4", lambda env: (env["settings"].pop("tuned_as"), env.pop("threads"), env.pop("flags")))
    assert refused(folder) == {"tuning": ["lora-r4"], "threads": ["lora-r4"], "torch_flags": ["lora-r4"]}
    assert findings(folder)["lora-r4", "threads"].value == "not recorded"


def test_seeds_of_one_arm_that_differ_are_refused(tmp_path):
    """Versions of different days; of the baseline too, which every comparison has a part of."""
    folder = write(tmp_path, runs())
    change(folder, "lora-r4", versions(torch="0.9.0"), seed="1")
    assert refused(folder) == {"torch": ["lora-r4"]}
    assert findings(folder)["lora-r4", "torch"].value == "1.0.0 (seeds 0, 2); 0.9.0 (seed 1)"
    change(folder, "full", versions(torch="0.9.0"), seed="1")
    found = findings(folder)
    assert refused(folder) == {"torch": ["full", *PEFT]}
    assert {arm: found[arm, "torch"].compared_with for arm in ("full", "lora-r4", "lora-r16")} == {
        **{"full": "full", "lora-r4": "lora-r4", "lora-r16": "full"}
    }


@pytest.mark.parametrize(
    ("fact", "of"),
    [
        ("gradient_accumulation_steps", settings(gradient_accumulation_steps=4)),
        ("early_stopping", settings(early_stopping={"patience": 2})),
        ("max_length", settings(max_length=64)),
        ("precision", settings(precision="bf16")),
        ("dtype", settings(dtype="bfloat16")),
        ("optimizer", settings(weight_decay=0.1)),
        ("optimizer", settings(max_grad_norm=0.3)),
        ("schedule", settings(warmup_ratio=0.0)),
        ("model", fields(model_sha256="e" * 64)),
        ("data", fields(data_sha256="e" * 64)),
        ("compile", settings(compile=True)),
        ("threads", fields(threads=8)),
        ("driver", lambda env: env["gpu"].update(driver_version="570.0")),
        ("power_limit_W", lambda env: env["gpu"].update(power_limit_W=350.0)),
        ("torch_flags", lambda env: env["flags"].update(tf32_matmul=True)),
        ("bitsandbytes", versions(bitsandbytes="0.1")),
        ("cuda_runtime", fields(cuda_runtime_version="12.8")),
        ("cudnn", fields(cudnn_version=90000)),
        ("python", fields(python="3.12.0")),
        ("evaluation_batch_size", settings(evaluation_batch_size=8)),
        ("metric", settings(metric="f1")),
    ],
)
def test_every_other_setting_and_version_is_refused_by_name(tmp_path, fact, of):
    folder = write(tmp_path, runs())
    change(folder, "lora-r4", of)
    assert refused(folder) == {fact: ["lora-r4"]}


@pytest.mark.parametrize(
    ("fact", "values"),
    [
        ("epochs", {"epochs": 2.0}),
        ("data", {"train_rows": 640}),
        ("head", {"head_parameters": 1}),
        ("engine", {"engine": "eager", "engine_reason": "no kernel"}),
        ("shared_gpu", {"shared_gpu": True}),
    ],
)
def test_what_a_summary_says_is_compared(tmp_path, fact, values):
    folder = write(tmp_path, runs())
    change(folder, "lora-r4", fields(**values), file="summary.json")
    assert fact in refused(folder) and refused(folder)[fact] == ["lora-r4"]


# Results are no breach.


def test_runs_that_failed_are_compared_in_what_they_reached(tmp_path):
    every = runs()
    every[1] = synthetic.diverged("full", None, 1, device="cuda")
    every[3:6] = [synthetic.oom("lora", 4, seed, "load", device="cuda", engine="eager") for seed in range(3)]
    folder = write(tmp_path, every)
    assert refused(folder) == {}
    found = findings(folder)
    reached = {"steps", "epochs", "head", "trained_head", "reported_step", "engine"}
    assert {fact for arm, fact in found if found[arm, fact].verdict == UNREACHED} == reached
    change(folder, "lora-r4", settings(batch_size=64))
    assert refused(folder) == {"batch_size": ["lora-r4"]}


def test_a_baseline_that_failed_leaves_the_others_to_be_compared(tmp_path):
    every = [synthetic.oom("full", None, seed, "load", device="cuda") for seed in range(3)] + runs()[3:]
    every[-1]["epochs"] = 1.0
    folder = write(tmp_path, every)
    assert refused(folder) == {"epochs": ["qlora-r16"]}
    assert findings(folder)["qlora-r16", "epochs"].compared_with == "lora-r4"


def test_early_stopping_ends_runs_at_steps_of_their_own(tmp_path):
    folder = write(tmp_path, runs())
    for arm in ("full", "*-r*"):
        change(folder, arm, settings(early_stopping={"patience": 1, "min_delta": 0.0}))
    path = folder / "lora-r4/seed0"
    change(folder, "lora-r4", fields(stopped_early=True, steps=400, epochs=2.0), seed="0", file="summary.json")
    lines = [line for line in (path / "metrics.csv").open() if not line.startswith("3,")]
    (path / "metrics.csv").write_text("".join(lines))
    last = next(row for row in reversed(list(csv.DictReader(lines))) if row["split"] == "test")
    change(folder, "lora-r4", fields(metric_value=float(last["accuracy"])), seed="0", file="summary.json")
    assert refused(folder) == {}


# Declared, and printed.


def test_what_is_declared_is_let_be(tmp_path):
    folder = write(tmp_path, runs())
    change(folder, "lora-r*", settings(dtype="bfloat16", batch_size=64))
    declared = {"lora-r4": ["dtype"], "lora-r16": ["dtype", "batch_size"]}
    assert refused(folder, declared=declared) == {"batch_size": ["lora-r4"]}
    assert findings(folder, declared)["lora-r4", "dtype"].verdict == DECLARED


def test_strict_writes_nothing_and_names_arm_fact_values_and_remedy(tmp_path):
    folder = write(tmp_path, runs())
    change(folder, "lora-r*", settings(batch_size=64))
    change(folder, "qlora-r4", versions(torch="0.9.0"))
    done = check(tmp_path, "--strict")
    assert done.returncode == 1 and not (tmp_path / "tables").exists()
    first, *lines, last = done.stderr.splitlines()
    assert first == (
        "error: the contract is broken by 2 differences that no method declares: no table or figure is made, every "
        "run is kept"
    )
    assert [line.strip() for line in lines] == [
        "sst2/distilbert, lora-r4, lora-r16: batch_size: 64, but full has 32; delete the runs made with the other "
        "setting and run again, or add batch_size to methods.lora.varies",
        "sst2/distilbert, qlora-r4: torch: 0.9.0, but full has 1.0.0; delete the runs of the older version and run "
        "again, or add torch to methods.qlora.varies",
    ]
    assert last.strip().startswith("Or set contract.strict: false")
    declared = {"lora-r4": ["batch_size"], "lora-r16": ["batch_size"], "qlora-r4": ["torch"]}
    assert check(tmp_path, "--strict", "--declared", json.dumps(declared)).returncode == 0


def test_without_strict_every_table_and_figure_says_what_differs(tmp_path):
    every = runs()
    folder = write(tmp_path, every)
    change(folder, "lora-r*", settings(batch_size=64, dtype="bfloat16"))
    change(folder, "full", versions(torch="0.9.0"), seed="0")
    change(folder, "full", fields(learning_rate=2e-5), file="summary.json")
    done = check(tmp_path, "--declared", json.dumps({arm: ["dtype", "max_length"] for arm in LORA}))
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "tables/contract.md").read_text()
    said = "Of the 41 facts of the contract that these runs have, batch_size, torch differ, and no method declares it; "
    said += "dtype differs as declared. In all others the arms are equal, but for each arm's own learning_rate."
    assert said in text
    assert re.search(r"\| full +\| 2e-05, not tuned +\|", text)
    assert re.search(r"\| LoRA r4 +\| 0.0005, not tuned +\|", text)
    assert r"Each arm's own learning\_rate: full: 2e-05, not tuned; " in (tmp_path / "tables/contract.tex").read_text()
    assert "methods.lora.varies names max_length, which does not differ: it can go." in text
    assert re.search(r"\| LoRA r4 +\| batch_size +\| 64 +\| full +\| 32 +\| differs +\|", text)
    assert re.search(r"\| full +\| torch +\| 0.9.0 \(seed 0\); 1.0.0 \(seeds 1, 2\) +\| its own seeds", text)
    assert re.search(r"\| max_length +\| 128 +\| Tokens after", text)
    assert r"batch\_size & \shortstack[l]{64} & full" in (tmp_path / "tables/contract.tex").read_text()

    words = ["--runs-dir", tmp_path / "runs", "--grid", json.dumps(grid(every)), "--output-dir", tmp_path / "tables"]
    words += ["--contract", tmp_path / "tables/contract.csv"]
    forks.script(SCRIPTS / "make_tables.py", *words).check_returncode()
    lora = "from full in batch_size, torch; from full in dtype (declared)"
    for name in ("runs", "arms"):
        found = {row["arm"]: row["differs"] for row in csv.DictReader((tmp_path / f"tables/{name}.csv").open())}
        assert found["lora-r16"] == lora and found["full"] == "between its seeds in torch"
    assert re.search(rf"\| LoRA r4 .*\| {re.escape(lora)} +\|", (tmp_path / "tables/arms.md").read_text())
    for name in ("runs", "memory", "cost"):
        assert f"LoRA r4, LoRA r16 differ {lora}." in (tmp_path / f"tables/{name}.md").read_text()

    from peft_tradeoffs.report.sweep import Tables, load

    figures = load(Tables(tmp_path / "tables/runs.csv"), folder, "sst2", "distilbert")
    for name, draw in drawings().items():
        notes = draw(figures).get_supxlabel().replace("\n", " ")
        assert f"LoRA r4, LoRA r16 differ {lora}." in notes, name


def test_the_comparison_says_what_differs(tmp_path):
    pairs = synthetic_predictions.arms({"lora-r4": 10})
    every = [summary for summary, _ in pairs]
    synthetic_predictions.write(tmp_path, pairs)
    words = ["--runs-dir", tmp_path / "runs", "--grid", json.dumps(grid(every)), "--output-dir", tmp_path / "tables"]
    words += ["--baseline", "full", "--margin", "0.01"]
    for differs in ({}, {"lora": "batch_size"}):
        contract = synthetic.contract(tmp_path, every, **differs)
        forks.script(SCRIPTS / "compare_arms.py", *words, "--contract", contract).check_returncode()
        text = (tmp_path / "tables/comparison.md").read_text()
        assert ("Differs" in text) == bool(differs)
    assert re.search(r"\| LoRA r4 .*\| from full in batch_size \|", text)


def test_a_contract_of_other_runs_is_refused(tmp_path):
    every = runs()
    path = synthetic.contract(tmp_path, every[:3])
    frame = tables.runs_frame(every)
    with pytest.raises(InputError, match=r"contract.csv: no arm sst2/distilbert/lora-r4; make it again"):
        with_differences(frame, path)
    with pytest.raises(InputError, match=r"none.csv: no such file; make it again with check_contract.py"):
        with_differences(frame, tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda run: (run / "env.json").unlink(), r"env.json: the run's summary does not list it"),
        (lambda run: (run / "env.json").write_text("{"), r"env.json: not JSON"),
        (lambda run: (run / "env.json").write_text("{}"), r"not a run's environment: no settings"),
        (lambda run: change(run.parent, ".", fields(fingerprint="1"), "0"), r"of another run than summary.json"),
        (lambda run: shutil.rmtree(run.parent), r"lora-r4: no run has a summary; run `snakemake runs`"),
    ],
)
def test_broken_recordings_are_named(tmp_path, damage, said):
    folder = write(tmp_path, runs())
    damage(folder / "lora-r4/seed0")
    with pytest.raises(InputError, match=said):
        findings(folder)


# Before anything runs.


def planned(**changes: Any) -> dict[str, Any]:
    return tiny.config(Path(), **changes)


def method(name: str, **fields: Any) -> dict[str, Any]:
    config = planned()["methods"]
    return {**config, name: {**config[name], **fields}}


@pytest.mark.parametrize(
    ("name", "fields", "fact", "said"),
    [
        (
            *("qlora", {"gradient_checkpointing": True}, "gradient_checkpointing"),
            "config key methods.qlora.gradient_checkpointing: true, but full has false; set it alike, or add "
            "gradient_checkpointing to methods.qlora.varies, or set contract.strict: false",
        ),
        (
            *("qlora", {"gpus": 2}, "gpus"),
            "config key methods.qlora.gpus: 2 (data), but full has 1; set it alike, or add gpus to methods.qlora.varies"
            ", or set contract.strict: false",
        ),
        (
            *("lora", {"learning_rate": 1e-3}, "learning_rate"),
            "config key methods.lora.learning_rate: 0.001, not tuned, which full has too; give each method "
            "a list of rates to tune",
        ),
        (
            *("lora", {"learning_rate": [1e-3, 1e-2]}, "tuning"),
            "config key methods.lora.learning_rate: 2 rates to tune, but full has a rate that is not tuned; give every "
            "method a list of as many rates, or add tuning to methods.lora.varies, or set contract.strict: false",
        ),
        (
            *("qlora", {"ranks": [4, 16], "peft": {**tiny.LORA, "lora_alpha": 8}}, "scaling"),
            "config key methods.qlora.peft: 0.5 (alpha 8 at rank 16), but qlora-r4 has 2 (alpha 8 at rank 4); leave",
        ),
        (
            *("qlora", {"peft": {**tiny.LORA, "target_modules": "all-linear", "bias": "all"}}, "adapter"),
            "config key methods.qlora.peft: target_modules all-linear, bias all, but lora-r4 has target_modules query, "
            "value, bias not set; set the fields of peft alike, or add adapter to methods.qlora.varies, or set",
        ),
    ],
)
def test_what_the_configuration_shows_is_refused_before_anything_runs(name, fields, fact, said):
    with pytest.raises(InputError) as caught:
        check_planned(resolve(planned(methods=method(name, **fields))))
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    assert f"add {fact} to methods.{name}.varies" in str(caught.value)
    check_planned(resolve(planned(methods=method(name, **fields, varies=[fact]))))
    check_planned(resolve(planned(methods=method(name, **fields), contract={"strict": False})))


def test_a_dtype_of_one_method_is_refused_before_anything_runs():
    changed = {"precision": "bf16", **{key: planned()["training"][key] for key in ("device", "epochs")}}
    lora = {**method("lora", dtype="bfloat16"), "full": planned()["methods"]["full"]}
    del lora["qlora"]
    with pytest.raises(InputError, match=r"methods.lora.dtype: bfloat16, but full has float32"):
        check_planned(resolve(planned(methods=lora, training=changed)))


def test_each_breach_of_the_configuration_is_a_line():
    both = {**method("qlora", gradient_checkpointing=True), **{"lora": method("lora", learning_rate=1e-3)["lora"]}}
    with pytest.raises(InputError) as caught:
        check_planned(resolve(planned(methods=both)))
    assert [line.partition(": ")[0] for line in str(caught.value).splitlines()] == [
        "config key methods.qlora.gradient_checkpointing",
        "config key methods.lora.learning_rate",
    ]


@pytest.mark.parametrize(
    ("fact", "said"),
    [
        ("reported_step", "reported_step must be 'the last' in every arm and cannot vary; remove it"),
        ("trained_head", "trained_head must be 'all' in every arm and cannot vary; remove it"),
        ("data", "data must be the same in every arm that is compared and cannot vary; remove it"),
    ],
)
def test_what_no_arm_may_have_otherwise_cannot_be_declared(tmp_path, fact, said):
    with pytest.raises(InputError, match=f"^config key methods.lora.varies: {said}$"):
        resolve(planned(methods=method("lora", varies=[fact])))
    folder = write(tmp_path, runs())
    change(folder, "lora-r*", fields(data_sha256="e" * 64))
    change(folder, "lora-r*", lambda env: env["head"].update(trained_parameters=0))
    path = folder / "lora-r4/seed0/metrics.csv"
    path.write_text("".join([line for line in path.open() if not line.startswith("3,")]))
    done = check(tmp_path, "--strict", "--declared", json.dumps({arm: [fact] for arm in LORA}))
    assert done.returncode == 1 and f": {fact}: " in done.stderr and "varies" not in done.stderr


def test_tables_of_an_earlier_state_are_named(tmp_path):
    folder = write(tmp_path, runs())
    assert check(tmp_path, "--strict").returncode == 0
    change(folder, "lora-r*", settings(batch_size=64))
    for name in ("figures/sst2/arms.svg", "report.html"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    last = check(tmp_path, "--strict").stderr.splitlines()[-1].strip()
    place = [str(tmp_path / name) for name in ("tables", "figures", "report.html")]
    assert last == f"Of an earlier state, not of these runs: {', '.join(place)}."


def test_facts_that_a_cpu_has_not_are_not_counted(tmp_path):
    said = []
    for device in ("cpu", "cuda"):
        write(tmp_path / device, runs(device))
        assert check(tmp_path / device, summaries=runs(device)).returncode == 0
        said.append(re.search(r"none of the (\d+) facts", (tmp_path / device / "tables/contract.md").read_text())[1])
    on_cpu, on_gpu = map(int, said)
    assert on_gpu - on_cpu == len(("shared_gpu", "driver", "power_limit_W", "torch_flags", "cuda_runtime", "cudnn"))


def test_a_name_that_is_no_fact_is_refused():
    with pytest.raises(
        InputError, match=r"methods.lora.varies: there is no fact 'batchsize'; did you mean batch_size\?"
    ):
        resolve(planned(methods=method("lora", varies=["batchsize"])))


def test_the_workflow_refuses_and_keeps_the_runs(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    assert "keep the contract" in (folder / "results/tables/contract.md").read_text()
    place = folder / "results/runs/reviews/tiny"
    change(place, "lora-r4", versions(torch="0.9.0"), seed="1")
    synthetic.seal(place / "lora-r4/seed1")
    before = tiny.summaries(folder)
    methods = tiny.config(folder)["methods"]
    checkpointed = {"gradient_checkpointing": True, "varies": ["gradient_checkpointing"]}
    methods |= {f"{name}-ckpt": methods[name] | checkpointed for name in ("lora", "qlora")}
    cells = [f"{name}-r4" for name in methods if name != "full"]
    noise = {"arms": ["full"], "repeats": 2, "seed": 0}
    settings = tiny.config(folder, methods=methods, attribution={"nf4": cells}, noise=noise)
    shutil.rmtree(folder / "results/tables")
    words = ["--forcerun", "check_contract", "--show-failed-logs", "--keep-going"]
    done = tiny.snakemake(folder, settings, *words, check=False)
    assert done.returncode != 0
    assert re.search(r"reviews/tiny, lora-r4: torch: \S+ \(seed 0\); 0.9.0 \(seed 1\), but full has", done.stdout)
    assert {path.stem for path in (folder / "results/tables").iterdir()} == {"noise"}
    assert before.items() <= tiny.summaries(folder).items()
    tiny.snakemake(folder, tiny.config(folder, contract={"strict": False}), "tables")
    for name in ("arms", "comparison", "recommendation"):
        assert "from full in torch" in (folder / f"results/tables/{name}.md").read_text()

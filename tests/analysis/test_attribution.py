"""Attribution: which arms are a factorial, what each factor takes of a change, what is not known, and the tables."""

import json
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pandas as pd
import pytest
import synthetic
import synthetic_predictions
import tiny
from peft_tradeoffs.analysis import tables
from peft_tradeoffs.analysis.attribution import (
    attribution_frame,
    attribution_notes,
    attribution_readable,
    attribution_sentences,
)
from peft_tradeoffs.analysis.comparison import Predicted, comparison_frame
from peft_tradeoffs.config.experiment import factors, resolve
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.tasks.metrics import METRICS
from scipy import stats

LORA = {"learning_rate": 1e-2, "ranks": [4, 8], "peft": tiny.LORA}
METHODS = {
    "full": {"learning_rate": 1e-3},
    "lora": LORA,
    "lora-ckpt": {**LORA, "gradient_checkpointing": True},
    "qlora": {**LORA, "quantization": tiny.NF4, "learning_rate": 2e-2},
    "qlora-ckpt": {**LORA, "quantization": tiny.NF4, "gradient_checkpointing": True},
    "full-ckpt": {"learning_rate": 1e-3, "gradient_checkpointing": True},
    "alpha": {**LORA, "peft": {**tiny.LORA, "lora_alpha": 32}},
    "dora": {**LORA, "peft": {**tiny.LORA, "use_dora": True}},
}
QLORA = ["qlora-ckpt-r4", "lora-r4", "qlora-r4", "lora-ckpt-r4"]
NAMES = ["NF4", "gradient checkpointing"]


def found(cells: list[str]) -> dict[str, Any]:
    experiment = resolve(tiny.config(Path(), methods=METHODS, attribution={"mine": cells}))
    return factors("mine", experiment.attribution["mine"], experiment.arms)


def test_the_factors_are_the_settings_in_which_the_arms_differ():
    assert found(QLORA) == {
        "factors": NAMES,
        "arms": {"qlora-ckpt-r4": [1, 1], "lora-r4": [0, 0], "qlora-r4": [1, 0], "lora-ckpt-r4": [0, 1]},
    }
    assert found(["lora-r4", "lora-r8", "qlora-r4", "qlora-r8"])["factors"] == ["NF4", "rank 8"]
    assert found(["full", "full-ckpt", "lora-r4", "lora-ckpt-r4"])["factors"] == ["gradient checkpointing", "LORA"]
    three = [f"{name}-r{rank}" for name in ("lora", "lora-ckpt", "qlora", "qlora-ckpt") for rank in (4, 8)]
    assert found(three)["arms"]["qlora-r8"] == [1, 0, 1]


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (
            [*QLORA[:3], "lora-ckpt-r8"],
            "differ in 3 settings (NF4, gradient checkpointing, rank 8), so there must be 8",
        ),
        (["lora-r4", "lora-r8", "qlora-ckpt-r4", "qlora-ckpt-r8"], "NF4 and gradient checkpointing change together"),
        ([*QLORA[:3], "dora-r4"], "(NF4, gradient checkpointing, use_dora), so there must be 8, one per"),
        ([*QLORA, "lora-r8"], "add one with gradient checkpointing and rank 8 and without NF4, or"),
        (["full", "lora-r4", "dora-r4", "full-ckpt"], "peft has 3 values (in full, lora-r4, dora-r4)"),
        (["alpha-r4", "alpha-r8", "lora-r4", "lora-r8"], "lora_alpha / rank has 3 values"),
    ],
)
def test_what_is_no_factorial_is_refused_before_any_job(cells, said):
    with pytest.raises(InputError) as caught:
        found(cells)
    assert str(caught.value).startswith("config key attribution.mine: ") and said in str(caught.value)


def test_arms_that_differ_in_the_learning_rate_alone_are_no_factorial():
    same = {f"lora{i}": {**LORA, "ranks": [4], "learning_rate": 1e-3 * (i + 1)} for i in range(4)}
    settings = tiny.config(Path(), methods=same, attribution={"mine": [f"lora{i}-r4" for i in range(4)]})
    with pytest.raises(InputError, match="its arms differ in no setting"):
        resolve(settings)
    twice = {**METHODS, "again": METHODS["lora"]}
    settings = tiny.config(Path(), methods=twice, attribution={"mine": [*QLORA, "again-r4"]})
    with pytest.raises(InputError, match="lora-r4 and again-r4 have the same settings; name one of them"):
        resolve(settings)


SPEC = {"qlora": {"factors": NAMES, "arms": {"lora-r8": [0, 0], "lora-ckpt-r8": [0, 1], "qlora-r8": [1, 0],
                                             "qlora-ckpt-r8": [1, 1]}}}  # fmt: skip
OF_SEED = [0.0, 2.0, 7.0]
CELLS = {"lora": (0, 0), "lora-ckpt": (0, 1), "qlora": (1, 0), "qlora-ckpt": (1, 1)}


def runs(seeds: int = 3, device: str = "cuda", **changes: Any) -> list[dict[str, Any]]:
    """Memory 640 - 35 NF4 - 180 checkpointing + 3 both; time 50 + NF4 (10 + what the seed adds) + 4 checkpointing."""
    found = []
    for method, (nf4, checkpointing) in CELLS.items():
        for seed in range(seeds):
            values = {
                "probe_peak_allocated_MiB": 640.0 - 35 * nf4 - 180 * checkpointing + 3 * nf4 * checkpointing,
                "train_s": 50.0 + nf4 * (10 + OF_SEED[seed]) + 4 * checkpointing,
                "metric_value": 0.9 - 0.01 * nf4 + 0.001 * seed,
                "energy_J_per_sample": 0.02 if device == "cuda" else None,
            }
            found.append(synthetic.summary(method, 8, seed, device=device, **values, **changes))
    return found


def split(summaries: list[dict[str, Any]], noise: pd.DataFrame | None = None) -> pd.DataFrame:
    frame = attribution_frame(tables.runs_frame(summaries), SPEC, predicted, noise)
    return frame.set_index(["quantity", "effect"])


def predicted(run: dict[str, Any], split: str) -> Predicted:
    """Predictions with the run's accuracy: of 1,000 rows the last ones are wrong."""
    assert split == "test"
    right = np.arange(1000) < round(1000 * run["metric_value"])
    return Predicted(np.arange(1000), np.arange(1000) % 2, right, right.astype(float), 500)


def one_job(summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same runs, the seeds of an arm trained by one process."""
    for run in summaries:
        run["startup_s"] = run["startup_s"] if run["seed"] == 0 else None
        run["null_reasons"] |= {"startup_s": "the process was started for an earlier seed"} if run["seed"] else {}
    return summaries


def noise_table(rows: list[tuple[str, int, float, float]]) -> pd.DataFrame:
    """A noise table of the runs' device: quantity, n, mean and sd a row."""
    table = pd.DataFrame(rows, columns=["quantity", "n", "mean", "sd"])
    return table.assign(dataset="sst2", model="distilbert", arm="lora-r8", device_name="NVIDIA H100 80GB HBM3")


def test_effects_and_interaction_add_up_to_the_total():
    frame = split(runs())
    memory = frame.loc["probe_peak_allocated_MiB", "value"]
    assert memory.to_dict() == {"base": 640, NAMES[0]: -35, NAMES[1]: -180, " × ".join(NAMES): 3, "total": -212}
    assert frame.loc[("probe_peak_allocated_MiB", "total"), "percent"] == pytest.approx(-33.125)
    nf4 = frame.loc[("train_s", "NF4")]
    half = stats.t.ppf(0.975, 2) * np.std(OF_SEED, ddof=1) / np.sqrt(3)
    assert (nf4["value"], nf4["low"], nf4["high"]) == pytest.approx((13, 13 - half, 13 + half))
    assert frame.loc[("energy_J_per_1000_rows", "base"), "value"] == pytest.approx(20)
    assert frame.loc[("train_s", "gradient checkpointing"), ["low", "high", "n"]].to_list() == [4, 4, 3]


def test_three_factors():
    names = ["a", "b", "c"]
    cells = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    spec = {"cube": {"factors": names, "arms": {f"m{i}{j}{k}-r8": [i, j, k] for i, j, k in cells}}}
    summaries = [
        synthetic.summary(f"m{i}{j}{k}", 8, 0, train_s=100.0 + i + 2 * j + 4 * k + 10 * i * j + 100 * i * j * k)
        for i, j, k in cells
    ]
    frame = attribution_frame(tables.runs_frame(summaries), spec, predicted)
    time = frame[frame["quantity"] == "train_s"].set_index("effect")["value"]
    assert time.to_dict() == {
        **{"base": 100, "a": 1, "b": 2, "c": 4},
        **{"a × b": 10, "a × c": 0, "b × c": 0, "a × b × c": 100, "total": 117},
    }
    assert "the interaction a × b × c +100" in " ".join(attribution_sentences(frame))


def test_a_cell_that_failed_takes_its_contrasts_alone():
    summaries = runs()
    failed = [synthetic.oom("lora-ckpt", 8, seed, device="cuda") for seed in range(3)]
    frame = split([run for run in summaries if run["method"] != "lora-ckpt"] + failed)
    time = frame.loc["train_s"]
    assert time.loc["total", "value"] == 17 and time.loc["NF4", "value"] == 13
    for effect in ("gradient checkpointing", " × ".join(NAMES)):
        assert np.isnan(time.loc[effect, "value"])
        assert time.loc[effect, "reason"] == "lora-ckpt-r8: all 3 runs out of memory in probe, 12.0 GiB asked for"
    said = " ".join(attribution_sentences(frame.reset_index()))
    assert "not known: gradient checkpointing alone, their interaction (lora-ckpt-r8: all 3" in said


def test_only_seeds_that_all_cells_share_count():
    summaries = runs()
    summaries[-1] = synthetic.diverged("qlora-ckpt", 8, 2, device="cuda")
    frame = split(summaries)
    assert set(frame.loc["train_s", "n"]) == {2}
    assert frame.loc[("train_s", "NF4"), "value"] == 11
    summaries[-2] = synthetic.diverged("qlora-ckpt", 8, 1, device="cuda")
    summaries[0] = synthetic.diverged("lora", 8, 0, device="cuda")
    frame = split(summaries)
    assert frame["value"].isna().all() and set(frame["reason"]) == {"no seed that all arms share"}


def test_seeds_of_one_job_give_time_and_energy_no_interval():
    frame = split(one_job(runs()))
    for quantity in ("train_s", "step_p50_ms", "energy_J_per_1000_rows"):
        own = frame.loc[quantity]
        assert own["value"].notna().all() and own["low"].isna().all()
        assert set(own["reason"]) == {"how far jobs differ was not measured"}
    for quantity in ("probe_peak_allocated_MiB", "metric_value"):
        assert frame.loc[quantity, "low"].notna().all()
    notes = " ".join(attribution_notes(frame.reset_index()))
    assert "so training time, step p50 and energy have no interval." in notes


def test_how_far_jobs_differ_widens_intervals_of_time():
    """Of each cell (cv · mean)², of which the effect is made; degrees of freedom are the fewer: 2 seeds, 2 of noise."""
    noise = noise_table([("train_s", 2, 50.0, 1.0), ("train_s", 2, 100.0, 4.0)])
    frame = split(one_job(runs()), noise)
    cv = np.sqrt((0.02**2 + 0.04**2) / 2)
    nf4 = frame.loc[("train_s", "NF4")]
    se = np.sqrt(np.var(OF_SEED, ddof=1) / 3 + cv**2 * (50**2 + 63**2))
    half = stats.t.ppf(0.975, 2) * se
    assert (nf4["low"], nf4["high"]) == pytest.approx((13 - half, 13 + half))
    checkpointing = frame.loc[("train_s", "gradient checkpointing")]
    half = stats.t.ppf(0.975, 2) * cv * np.hypot(50, 54)
    assert checkpointing["high"] == pytest.approx(4 + half) and checkpointing["jobs_sd_percent"] == pytest.approx(
        100 * cv
    )
    other = split(one_job(runs()), noise.assign(device_name="NVIDIA A100-SXM4-80GB"))
    assert other.loc["train_s", "low"].isna().all()


def test_seeds_in_jobs_of_their_own_have_the_jobs_in_their_spread():
    alone, noisy = split(runs()), split(runs(), noise_table([("train_s", 3, 50.0, 5.0)]))
    pd.testing.assert_frame_equal(alone, noisy)
    assert alone.loc["train_s", "low"].notna().all() and alone["jobs_sd_percent"].isna().all()


def test_failed_seeds_are_named():
    summaries = runs()
    summaries[-1] = synthetic.diverged("qlora-ckpt", 8, 2, device="cuda")
    notes = " ".join(attribution_notes(split(summaries).reset_index()))
    assert "2 of the 3 seeds count: a seed that an arm lacks counts in none." in notes
    assert "Failed runs are left out: qlora-ckpt-r8 (1 of 3 runs diverged at step 17)." in notes
    assert "seeds count" not in " ".join(attribution_notes(split(runs()).reset_index()))


def test_one_seed_has_no_interval_and_a_cpu_no_energy():
    frame = split(runs(1, "cpu"))
    assert frame.loc[("train_s", "NF4"), ["value", "reason"]].to_list() == [10, "one seed, which gives no interval"]
    assert frame["low"].isna().all()
    assert set(frame.loc["energy_J_per_1000_rows", "reason"]) == {"no CUDA device: the run was on the CPU"}
    rows = frame.reset_index()
    assert "Energy: nothing is known (no CUDA device: the run was on the CPU)." in attribution_sentences(rows)
    assert any(note.startswith("One seed: no intervals") for note in attribution_notes(rows))


def test_cells_of_different_devices_are_not_subtracted_but_in_quality():
    summaries = runs()
    for run in summaries:
        run["device_name"] = "NVIDIA A100-SXM4-80GB" if run["method"] == "qlora" else run["device_name"]
    frame = split(summaries)
    assert np.isnan(frame.loc[("train_s", "NF4"), "value"])
    assert frame.loc[("train_s", "NF4"), "reason"] == "not all runs ran on the same device"
    assert frame.loc[("metric_value", "NF4"), "value"] == pytest.approx(-0.01)
    assert frame.loc[("weights_MiB", "NF4"), "value"] == 0


def test_sentences_and_cells():
    rows = split(runs()).reset_index()
    said = attribution_sentences(rows)
    assert said[0] == (
        "Peak memory: of 212 MiB less (-33 %) in all, NF4 alone -35, gradient checkpointing alone -180, their "
        "interaction +3."
    )
    assert said[-1].startswith("Accuracy: of 1.0 points less in all, NF4 alone -1.0,")
    cells = attribution_readable(rows).set_index(["Quantity", "Effect"])
    assert cells.loc[("Training time, s", "NF4"), "Mean or change"] == "+13 [+4, +22]"
    assert cells.loc[("Peak memory, MiB", "lora-r8 (base)"), "Mean or change"] == "640"
    assert any(note.startswith("Interaction (A × B)") for note in attribution_notes(rows))


def test_the_metric_has_the_intervals_of_the_comparison():
    """A factor alone is a difference of two arms, and the base an arm; other test examples count in both."""
    summaries = runs()
    own = split(summaries).loc["metric_value"]
    compared = comparison_frame(tables.runs_frame(summaries), "lora-r8", 0.01, predicted).set_index("arm")
    for effect, arm in (("NF4", "qlora-r8"), ("gradient checkpointing", "lora-ckpt-r8"), ("total", "qlora-ckpt-r8")):
        of_arm = compared.loc[arm, ["difference", "difference_low", "difference_high"]]
        assert own.loc[effect, ["value", "low", "high"]].to_list() == pytest.approx(of_arm.to_list())
    alone = compared.loc["lora-r8", ["mean", "low", "high"]].to_list()
    assert own.loc["base", ["value", "low", "high"]].to_list() == pytest.approx(alone)
    notes = " ".join(attribution_notes(split(summaries).reset_index()))
    assert "Accuracy: intervals count other test examples too, as in the comparison." in notes


def test_an_interaction_of_the_metric_is_no_proof_from_nothing():
    """Where the four arms answer so that it is 0 its interval is twice that of a difference, of which there are two."""
    own = split(runs()).loc["metric_value"]
    apart, floor = own.loc[" × ".join(NAMES)], METRICS["accuracy"].floor(pd.Series([1000.0]), 0.95)[0]
    assert apart["value"] == pytest.approx(0, abs=1e-12)
    assert apart["high"] - apart["low"] >= 4 * floor * 0.99
    assert own.loc["gradient checkpointing", "high"] >= floor * 0.99


def test_two_seeds_give_the_metric_no_interval():
    frame = split(runs(2))
    assert frame.loc["metric_value", "low"].isna().all() and frame.loc["train_s", "low"].notna().all()
    notes = attribution_notes(frame.reset_index())
    assert "Accuracy: no interval (2 seeds, where 3 or more are needed)." in notes


def test_random_weights_have_costs_alone():
    summaries = [synthetic.randomly(method, 8, seed, device="cuda") for method in CELLS for seed in range(2)]
    assert "metric_value" not in set(split(summaries).reset_index()["quantity"])


def test_different_learning_rates_are_said():
    summaries = runs()
    assert split(summaries)["learning_rates"].isna().all()
    for run in summaries:
        run["learning_rate"] = 1e-3 if run["method"] == "qlora" else run["learning_rate"]
    assert "Learning rates differ (lora-r8 0.0005" in " ".join(attribution_notes(split(summaries).reset_index()))


def test_the_command_line_writes_the_tables(tmp_path):
    summaries = one_job(runs())
    synthetic_predictions.answer(tmp_path, summaries)
    grid = {"dataset": ["sst2"], "model": ["distilbert"], "arm": list(SPEC["qlora"]["arms"]), "seed": [0, 1, 2]}
    words = ["--runs-dir", str(tmp_path / "runs"), "--grid", json.dumps(grid), "--factorials", json.dumps(SPEC)]
    words += ["--contract", str(synthetic.contract(tmp_path, summaries, qlora="batch_size"))]
    noise_table([("train_s", 3, 50.0, 1.0)]).to_csv(tmp_path / "noise.csv", index=False)
    words += ["--noise", str(tmp_path / "noise.csv")]
    script = tiny.REPOSITORY / "workflow_scripts/attribute_changes.py"
    forks.script(script, *words, "--output-dir", tmp_path).check_returncode()
    assert (tmp_path / "attribution.md").read_text().startswith("## sst2 · distilbert · qlora\n\n- Peak memory: of")
    text = (tmp_path / "attribution.md").read_text()
    assert (
        "By the contract, which compares every arm with the comparison's baseline: QLoRA r8 differs from full" in text
    )
    assert "a standard deviation of 2 % of training time." in text
    assert "One job per arm: how far jobs differ was not measured (set noise), so step p50 and energy have no" in text
    assert r"NF4 $\times$ gradient checkpointing" in (tmp_path / "attribution.tex").read_text()
    assert len(pd.read_csv(tmp_path / "attribution.csv")) == 7 * 5

"""Arms whose runs differ in device, engine or a setting: what is averaged, and what a reader is told."""

import math
import statistics

import pytest
import synthetic
from peft_tradeoffs.analysis import readable, tables
from shown_tables import cells, notes


def test_no_mean_of_time_over_different_devices():
    summaries = [synthetic.summary("lora", 4, 0), synthetic.summary("lora", 4, 1, device_name="another CPU")]
    arm = tables.arms_frame(tables.runs_frame(summaries)).iloc[0]
    assert math.isnan(arm["train_s_mean"]) and math.isnan(arm["probe_peak_rss_MiB_mean"])
    assert arm["train_s_n"] == 0
    assert arm["metric_value_mean"] == pytest.approx(statistics.mean(run["metric_value"] for run in summaries))
    assert arm["device_name"] == "Example CPU, 2 cores; another CPU"


def test_no_mean_of_training_time_over_different_engines():
    summaries = [synthetic.summary("lora", 4, seed, device="cuda") for seed in (0, 1)]
    summaries[1] |= {"engine": "eager", "engine_reason": "it broke", "capture_s": None}
    arm = tables.arms_frame(tables.runs_frame(summaries)).iloc[0]
    assert math.isnan(arm["train_s_mean"]) and math.isnan(arm["energy_J_mean"]) and arm["train_s_n"] == 0
    for key in ("probe_peak_allocated_MiB", "probe_step_p50_ms", "metric_value", "activations_measured_MiB"):
        assert arm[f"{key}_mean"] == pytest.approx(statistics.mean(run[key] for run in summaries)), key
    assert "different engines" in notes(summaries)


def test_a_run_on_gpus_of_two_models_has_no_part_in_means_of_time():
    summaries = [synthetic.summary("lora", 4, seed, device="cuda") for seed in range(3)]
    summaries[2] |= {"mixed_gpus": True, "train_s": 1e6, "energy_J": 1e9, "probe_peak_allocated_MiB": 1e5}
    summaries[2] |= {"device_name": "NVIDIA A100-SXM4-80GB", "engine": "eager", "engine_reason": "it broke"}
    for runs in (tables.runs_frame(summaries), tables.runs_frame(summaries).astype({"mixed_gpus": bool})):
        arm = tables.arms_frame(runs).iloc[0]
        assert (arm["n"], arm["mixed_gpus"]) == (3, "False; True")
        for key in ("train_s", "energy_J", "probe_peak_allocated_MiB"):
            values = [run[key] for run in summaries[:2]]
            assert (arm[f"{key}_mean"], arm[f"{key}_n"]) == (pytest.approx(statistics.mean(values)), 2), key
            assert arm[f"{key}_sd"] == pytest.approx(statistics.stdev(values)), key
        for key in ("metric_value", "weights_MiB"):
            mean = statistics.mean(run[key] for run in summaries)
            assert (arm[f"{key}_mean"], arm[f"{key}_n"]) == (pytest.approx(mean), 3), key
    assert cells(summaries)["Training time, s"][0].endswith("(n = 2)")
    assert "(mixed_gpus); no mean" in notes(summaries) and "mixed_gpus" not in notes(summaries[:2])
    alone = tables.arms_frame(tables.runs_frame(summaries[2:])).iloc[0]
    assert math.isnan(alone["train_s_mean"]) and alone["train_s_n"] == 0


def test_settings_that_differ_are_all_shown():
    summaries = [synthetic.summary("lora", 4, 0), synthetic.summary("lora", 4, 1, learning_rate=1e-3)]
    arm = tables.arms_frame(tables.runs_frame(summaries)).iloc[0]
    assert arm["learning_rate"] == "0.0005; 0.001"


def test_arms_whose_frozen_layers_are_held_otherwise_are_told_apart():
    full, lora, qlora = (synthetic.summary(name, rank, 0) for name, rank in (("full", None), ("lora", 4), ("qlora", 4)))
    runs = tables.runs_frame([full, lora | {"frozen_linear_dtype": "bfloat16"}, qlora])
    memory = tables.memory_frame(tables.arms_frame(runs))
    assert memory["frozen_linear_dtype"].fillna("").tolist() == ["", "bfloat16", "nf4"]
    said = "Frozen linear layers are held in: LoRA r4 bfloat16, QLoRA r4 nf4."
    assert said in readable.memory_notes(memory)
    alike = tables.memory_frame(tables.arms_frame(tables.runs_frame([full, lora])))
    assert not [note for note in readable.memory_notes(alike) if "Frozen" in note]

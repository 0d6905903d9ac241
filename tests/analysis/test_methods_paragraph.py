"""The methods paragraph: what it says of a classifier and of a generative model, as golden/ has it; nothing unrecorded.

UPDATE_GOLDEN=1 writes them anew: read the difference.
"""

import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic
import synthetic_predictions
from peft_tradeoffs.analysis import tables
from peft_tradeoffs.analysis.comparison_text import methods_paragraph

GOLDEN = Path(__file__).parent / "golden"
ARMS = ["full", "lora-r4", "qlora-r4"]


def environment(run: dict[str, Any], **settings: Any) -> dict[str, Any]:
    env = synthetic.environment(run)
    if run["method"] == "qlora":
        settings |= {
            "quantization": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "bfloat16"}
        }
    env["settings"] |= settings
    env["model"] |= {
        "source": "hub",
        "path": "distilbert/distilbert-base-uncased",
        "revision": "12040accade4e8a0f71eabdb258fecc2e7e948be",
    }
    return env


def classification(folder: Path) -> str:
    found = synthetic_predictions.arms({"lora-r4": 24, "qlora-r4": 80}, seeds=3)
    found = [(run | {"device": "cuda", "device_name": "NVIDIA H100 80GB HBM3"}, columns) for run, columns in found]
    compared = synthetic_predictions.compared(folder, found)
    runs = tables.runs_frame([run for run, _ in found])
    envs = {run["arm"]: environment(run) for run, _ in found if run["seed"] == 0}
    return methods_paragraph(runs, envs, compared, synthetic.tuning([run for run, _ in found], {}), 35)


def sft(folder: Path) -> str:
    """Two seeds, one of which failed in an arm; nothing tuned, no comparison, settings that differ."""
    task = {"task": "sft", "metric": "exact_match", "exact_match": 0.4, "metric_value": 0.4, "max_new_tokens": 64}
    runs = [
        synthetic.summary(*arm, seed, dataset="gsm8k", device="cuda", **task)
        for arm in (("full", None), ("lora", 4), ("qlora", 4))
        for seed in (0, 1)
    ]
    runs[-1] = synthetic.oom("qlora", 4, 1, dataset="gsm8k", device="cuda", **task)
    generate = {"max_new_tokens": 64, "batch_size": 8}
    envs = {run["arm"]: environment(run, generate=generate) for run in runs if run["seed"] == 0}
    envs["lora-r4"]["settings"]["batch_size"] = 16
    nothing = pd.DataFrame(columns=["split"])
    return methods_paragraph(tables.runs_frame(runs), envs, nothing, pd.DataFrame())


@pytest.mark.parametrize("study", [classification, sft])
def test_the_paragraph_is_as_golden_has_it(tmp_path, study):
    text, path = study(tmp_path) + "\n", GOLDEN / f"methods-{study.__name__}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_what_was_not_recorded_is_not_said(tmp_path):
    run = synthetic.summary("full", None, 0)
    env = {"settings": {key: run[key] for key in ("arm", "method", "rank", "learning_rate")}}
    text = methods_paragraph(tables.runs_frame([run]), {"full": env}, pd.DataFrame(columns=["split"]), pd.DataFrame())
    for word in ("None", "nan", "optimizer", "Software", "interval", "compared", "revision"):
        assert word not in text, word
    assert "Learning rates were given, not tuned." in text


def test_a_path_of_the_machine_is_left_out(tmp_path):
    run = synthetic.summary("full", None, 0)
    env = synthetic.environment(run)
    env["model"] |= {"source": "folder", "path": "/home/me/models/bert"}
    text = methods_paragraph(tables.runs_frame([run]), {"full": env}, pd.DataFrame(columns=["split"]), pd.DataFrame())
    assert "/home" not in text

"""Regression targets of any size: scaled for training, in their own units in files and in what is saved."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import HEAD
from peft_tradeoffs.report import cards
from peft_tradeoffs.tasks.labels import TargetScale, spread
from peft_tradeoffs.tasks.task import TASKS
from peft_tradeoffs.training import methods
from peft_tradeoffs.training import run as runs
from peft_tradeoffs.training.methods import in_own_units
from small_fits import Bag, fit, split
from tiny import build
from tiny_arms import LORA, batch
from torch import nn
from transformers import AutoModelForSequenceClassification


class Value(Bag):
    """Bag for one value."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 1)
        nn.init.zeros_(self.linear.weight)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        logits = super().forward(input_ids, attention_mask).logits
        loss = None if labels is None else nn.functional.mse_loss(logits[:, 0], labels)
        return type("Output", (), {"loss": loss, "logits": logits})


def targets(scale: float, offset: float) -> dict[str, Any]:
    made = {"train": split(50), "test": split(11, seed=1)}
    noise = np.random.default_rng(3)
    return {
        name: dataclasses.replace(one, labels=(one.labels + 0.1 * noise.normal(size=len(one))) * scale + offset)
        for name, one in made.items()
    }


def trained(scale: float, offset: float) -> Any:
    splits = targets(scale, offset)
    return splits, fit(None, Value(), splits, task="regression", metric="pearson")[1]


@pytest.mark.parametrize(("scale", "offset"), [(1e6, 1e6), (1e-9, 0), (3, 1e5), (1e30, 0), (1, 1e9)])
def test_targets_of_any_unit_are_learned_alike(scale, offset):
    (_, plain), (splits, other) = trained(1, 0), trained(scale, offset)
    expected, found = (result.progress.rows[-1] for result in (plain, other))
    assert found["pearson"] == pytest.approx(expected["pearson"], abs=1e-4) and expected["pearson"] > 0.8
    for key in ("loss", "train_loss"):  # in the square of the targets' unit
        assert found[key] / scale**2 == pytest.approx(expected[key], rel=1e-3)
    np.testing.assert_allclose((other.logits - offset) / scale, plain.logits, atol=1e-3)
    labels = splits["test"].labels
    assert other.logits.dtype == np.float64
    assert found["loss"] == pytest.approx(float(np.mean((other.logits[:, 0] - labels) ** 2)))
    assert 0.5 < spread(other.logits, labels) < 1.5


def test_spread_is_0_of_a_constant_and_counts_what_is_small():
    labels = np.array([0.0, 1e6, 2e6])
    assert spread(np.full((3, 1), 0.7), labels) == 0
    assert spread(np.array([[0.0], [1.0], [2.0]]), labels) == pytest.approx(1e-6)
    assert spread(labels[:, None] * 1e200, labels * 1e200) == 1


@pytest.mark.parametrize("labels", [[0.0, 1e200], [-1e308, 1e308], [0.0, 1e-200]])
def test_targets_that_cannot_be_squared_are_refused(labels):
    with pytest.raises(InputError, match=r"^the training targets reach .*; multiply the label column by"):
        TargetScale.of(np.array(labels))


def logits(model: nn.Module) -> np.ndarray:
    texts = {key: value for key, value in batch().items() if key != "labels"}
    with torch.no_grad():
        return model.eval()(**texts).logits.double().numpy()


SCALE = TargetScale(5e5, 4e4)


@pytest.mark.parametrize(
    ("peft", "dtype"),
    [(None, "float32"), (LORA, "float32"), ({**LORA, "r": 1, "bias": "all"}, "float32"), (LORA, "bfloat16")],
    ids=["full", "lora", "lora-r1", "lora-bfloat16"],
)
def test_what_is_saved_gives_the_datas_units(peft, dtype, tiny_bert, tmp_path):
    built = build(tiny_bert, task="regression", num_labels=1, peft=peft, dtype=dtype)
    before = {name: weight.clone() for name, weight in built.model.state_dict().items()}
    text = batch(1)["input_ids"][0]
    precision = "fp32" if dtype == "float32" else "bf16"

    def forward() -> torch.Tensor:
        return runs._logits(built.model, text, precision, torch.device("cpu"))

    told = methods.save(built, tmp_path, SCALE, forward)
    assert told == {"mean": SCALE.mean, "sd": SCALE.sd, "in_weights": True}
    assert all(torch.equal(weight, before[name]) for name, weight in built.model.state_dict().items())
    if dtype == "bfloat16":
        return
    if peft:
        base = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=1)
        loaded = PeftModel.from_pretrained(base, tmp_path)
    else:
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert not hasattr(loaded.config, "target_mean")
    assert np.abs(logits(loaded) - SCALE.own_units(logits(built.model))).max() < 1e-4 * SCALE.sd


@pytest.mark.parametrize("peft", [None, {**LORA, "target_modules": ["q_proj"]}], ids=["full", "lora"])
def test_a_head_without_a_bias_leaves_the_scale_to_its_configuration(peft, tiny_llama, tmp_path):
    built = build(tiny_llama, task="regression", num_labels=1, pad_token_id=1, peft=peft)
    told = methods.save(built, tmp_path, SCALE, lambda: built.model(batch(1)["input_ids"]).logits)
    assert told["in_weights"] is False
    saved = json.loads((tmp_path / (HEAD if peft else "config.json")).read_text())
    assert (saved["target_mean"], saved["target_sd"]) == (SCALE.mean, SCALE.sd)
    if not peft:
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert (loaded.config.target_mean, loaded.config.target_sd) == (SCALE.mean, SCALE.sd)
        assert np.array_equal(logits(loaded), logits(built.model))


def test_targets_that_float32_cannot_tell_apart_stay_out_of_the_weights(tiny_bert):
    built = build(tiny_bert, task="regression", num_labels=1)
    for scale, expected in (
        (TargetScale(1e9, 1.0), False),
        (TargetScale(1e3, 1.0), True),
        (TargetScale(0, 1e45), False),
    ):
        weight = built.model.classifier.weight.clone()
        forward = lambda: built.model(batch(1)["input_ids"]).logits  # noqa: E731
        with in_own_units(built.model, built.head, scale, forward) as own:
            assert own is expected
            assert torch.equal(built.model.classifier.weight, weight) is (not own or scale.sd == 1)
        assert torch.equal(built.model.classifier.weight, weight)


def test_the_card_says_how_a_value_is_had():
    env = {
        "settings": {"peft": None, "quantization": None, "task": "regression"},
        "targets": {"mean": 2.5, "sd": 0.5, "in_weights": True},
    }
    tokens = {"max_length": 32, "num_labels": 1, "pad_token_id": 0}
    assert "\n    value = logits[0, 0]  # in the units" not in (code := cards.example(env, tokens, {"pair": False}))
    assert "\nvalue = logits[0, 0]  # in the units of the data\n" in code
    env["targets"]["in_weights"] = False
    assert "\nvalue = logits[0, 0] * 0.5 + 2.5  # in the units" in cards.example(env, tokens, {"pair": False})


def test_predictions_are_written_as_they_are(tmp_path: Path):
    splits = targets(1, 1e9)
    values = splits["test"].labels[:, None] + 1e-6
    task, test = TASKS["regression"], splits["test"]
    task.write(tmp_path / "p.csv", task.predicted(test.rows, test.labels, values))
    rows = [line.split(",") for line in (tmp_path / "p.csv").read_text().splitlines()[1:]]
    assert [[float(row[1]), float(row[2]), float(row[3])] for row in rows] == [
        [label, value, value] for label, value in zip(splits["test"].labels, values[:, 0], strict=True)
    ]

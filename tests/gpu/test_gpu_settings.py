"""On a GPU: fp16, bfloat16 weights, 8-bit AdamW and schedules, captured as eager; marked gpu, skipped without one."""

from pathlib import Path
from typing import Any

import causal_fits
import numpy as np
import pytest
import tiny
import torch
from causal_fits import CASES, fit
from peft_tradeoffs.training import methods, updates
from small_fits import Memory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda", 0)
STEPS, SAVED = 110, 57


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return causal_fits.wide(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return causal_fits.splits(203)


@pytest.mark.parametrize("case", CASES)
def test_captured_eager_and_resumed_steps_give_the_same_bits(model, data, case):
    state = Memory(due_at=SAVED)
    captured, result = fit(model, data, case, CUDA, state, max_steps=STEPS)
    assert (result.engine, result.progress.engine_reason, result.progress.step) == ("captured", None, STEPS)
    eager, other = fit(model, data, case, CUDA, max_steps=STEPS, engine="eager")
    assert all(torch.equal(captured[name], eager[name]) for name in eager)
    assert np.array_equal(result.logits, other.logits)
    resumed, again = fit(model, data, case, CUDA, Memory(state.saved), max_steps=STEPS)
    assert all(torch.equal(captured[name], resumed[name]) for name in resumed)
    skipped = {result.skipped_steps, other.skipped_steps, again.skipped_steps}
    assert len(skipped) == 1
    assert (skipped.pop() > 0) is ("fp16" in case)
    assert result.progress.rows[-1]["train_loss"] < result.progress.rows[0]["train_loss"]


@pytest.mark.parametrize("case", ["fp16", "8-bit"])
def test_compiled_steps_are_captured_too(model, data, case):
    plain = fit(model, data, case, CUDA, max_steps=40)[1]
    result = fit(model, data, case, CUDA, max_steps=40, compile=True)[1]
    assert (result.engine, result.progress.engine_reason) == ("captured", None)
    assert result.skipped_steps == plain.skipped_steps
    assert result.progress.rows[-1]["train_loss"] == pytest.approx(plain.progress.rows[-1]["train_loss"], abs=0.03)


@pytest.mark.parametrize("case", ["fp16", "bfloat16", "8-bit", "8-bit-bfloat16"])
def test_measured_bytes_of_gradients_and_state_are_those_of_tensors(model, data, case):
    recipe, own = CASES[case]
    built = tiny.build(model, task="sft", num_labels=0, **recipe).model
    expected = methods.training_bytes(built, own.get("optimizer", "adamw"))
    probe = fit(model, data, case, CUDA, max_steps=1)[1].probe
    assert probe.gradients_measured_MiB * 2**20 == pytest.approx(expected["gradients"], rel=0.01)
    assert probe.optimizer_measured_MiB * 2**20 == pytest.approx(expected["optimizer"], rel=0.001)


def test_pages_are_taken_again_and_measured_by_nobody(model, data):
    result = fit(model, data, "paged", CUDA, max_steps=2)[1]
    assert result.probe.optimizer_measured_MiB is None
    before = len(updates._pages)
    assert before == 2 * 2 * 3  # moments of each layer's three wide weights; the probe's are the training's
    fit(model, data, "paged", CUDA, max_steps=2)
    assert len(updates._pages) == before

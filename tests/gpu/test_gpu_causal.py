"""On a GPU: a causal model's captured steps give the weights of eager ones; marked gpu, skipped without one."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_causal
import torch
from peft_tradeoffs.measure.devices import Phases, free_memory
from peft_tradeoffs.training import engine
from peft_tradeoffs.training.batches import Data, longest_text
from peft_tradeoffs.training.methods import hold_as_computed
from peft_tradeoffs.training.step import Settings, Subject
from peft_tradeoffs.training.targets import Behind, loss_of
from small_fits import Memory, Silent

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LORA = {"peft_type": "LORA", "target_modules": "all-linear", "r": 8, "lora_alpha": 16}
ARMS = {
    "full": {},
    "lora": {"peft": LORA},
    "qlora": {"peft": LORA, "quantization": tiny.NF4_BF16},
}
SETTINGS = Settings(
    **{**tiny.TRAINING, "task": "sft", "metric": "token_loss", "epochs": 100, "max_steps": 300, "batch_size": 16}
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_causal.causal(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def splits() -> dict[str, Any]:
    own = tiny_causal.tokenizer()
    return {"train": tiny_causal.encoded(503, own), "test": tiny_causal.encoded(101, own, 1)}


def fit(
    folder: Path, splits: dict[str, Any], arm: str, state: Memory | None = None, **changes: Any
) -> tuple[dict[str, torch.Tensor], engine.Result]:
    model = tiny.build(folder, task="sft", device="cuda", **ARMS[arm]).model
    settings, device = dataclasses.replace(SETTINGS, **changes), torch.device("cuda", 0)
    hold_as_computed(model, settings.precision, device, longest_text(splits["train"]))
    free_memory(device)
    subject = Subject(model, Data.of(splits, 0, settings.task), settings, 3)
    result = engine.train(subject, device, Phases(device), engine.Watch(state or Memory(), Silent()))
    return {name: p.detach().clone() for name, p in subject.parameters.items()}, result


@pytest.mark.parametrize("changes", [{}, {"gradient_accumulation_steps": 2, "max_grad_norm": 0.05}], ids=["", "parts"])
@pytest.mark.parametrize("arm", ARMS)
def test_captured_and_eager_parameters_are_bit_identical(model, splits, arm, changes):
    captured, result = fit(model, splits, arm, **changes)
    assert (result.engine, result.progress.engine_reason, result.progress.step) == ("captured", None, 300)
    eager, other = fit(model, splits, arm, engine="eager", **changes)
    assert all(torch.equal(captured[name], eager[name]) for name in eager)
    assert np.array_equal(result.logits, other.logits)


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(model, splits):
    state = Memory(due_at=77)
    expected, _ = fit(model, splits, "lora", state, max_steps=150)
    resumed, _ = fit(model, splits, "lora", Memory(state.saved), max_steps=150)
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


@pytest.mark.parametrize("arm", ARMS)
def test_compiled_steps_lose_what_others_do(model, splits, arm):
    plain = fit(model, splits, arm, max_steps=60)[1].progress.rows[-1]["train_loss"]
    _, result = fit(model, splits, arm, max_steps=60, compile=True)
    assert (result.engine, result.progress.engine_reason) == ("captured", None)
    assert result.progress.rows[-1]["train_loss"] == pytest.approx(plain, abs=0.02)


def test_a_gradient_in_half_precision_is_not_scaled_by_a_rounded_share():
    """1/1777 in bfloat16 is 0.3 % more, where a GPU rounds it; each element's own rounding averages out."""
    torch.manual_seed(0)
    states = torch.randn(1777, 8, device="cuda", requires_grad=True)
    weight, labels = torch.randn(50, 8, device="cuda"), torch.randint(50, (1777,), device="cuda")
    exact = torch.autograd.grad(torch.nn.functional.cross_entropy(states @ weight.T, labels), states)[0]
    half = states.detach().bfloat16().requires_grad_()
    with torch.autocast("cuda", torch.bfloat16):
        loss = loss_of(half, torch.nn.Parameter(weight), None, labels, Behind())
    found = torch.autograd.grad(loss, half)[0].float()
    assert ((found * exact).sum() / (exact * exact).sum()).item() == pytest.approx(1, abs=1e-3)

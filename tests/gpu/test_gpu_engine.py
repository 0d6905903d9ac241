"""On a GPU: the captured engine gives the weights of the eager one; marked gpu, skipped without one."""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from peft_tradeoffs.inputs.tokens import Split, load_tokens
from peft_tradeoffs.measure.devices import Phases, free_memory
from peft_tradeoffs.training import engine, step
from peft_tradeoffs.training.batches import Data, longest_text
from peft_tradeoffs.training.methods import hold_as_computed
from peft_tradeoffs.training.step import BlockGenerators, Settings, Subject
from small_fits import Memory, Silent, split

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
LORA = {"peft_type": "LORA", "target_modules": ["query", "value"], "r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
ARMS = {
    "full": {"peft": None, "quantization": None},
    "lora": {"peft": LORA, "quantization": None},
    "qlora": {"peft": LORA, "quantization": tiny.NF4_BF16},
    "dora": {"peft": {**LORA, "use_dora": True}, "quantization": None},
}
HELD = {"full": None, "lora": "bfloat16", "qlora": "nf4", "dora": "float32"}  # what frozen linear layers are held in
SETTINGS = Settings(**{**tiny.TRAINING, "epochs": 100, "max_steps": 400, "batch_size": 16, "evaluation_batch_size": 64})
VARIANTS = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 2},
    "clipping": {"max_grad_norm": 0.05},
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random BERT wide enough for the kernels that real models use, without dropout."""
    return save_bert(tmp_path_factory.mktemp("bert"), dropout=0.0)


@pytest.fixture(scope="module")
def dropping(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with dropout."""
    return save_bert(tmp_path_factory.mktemp("dropping"), dropout=0.1)


def save_bert(folder: Path, dropout: float) -> Path:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=500,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def splits() -> dict[str, Split]:
    return {"train": texts(1003), "test": texts(101, seed=1)}


def texts(rows: int, seed: int = 0) -> Split:
    return split(rows, seed, lengths=(4, 60), words=249)


def fit(
    folder: Path,
    splits: dict[str, Split],
    arm: str,
    state: Memory | None = None,
    checkpointing: bool = False,
    **changes,
) -> tuple[dict[str, torch.Tensor], engine.Result]:
    generators = BlockGenerators(0) if checkpointing and not changes.get("compile") else None
    built = tiny.build(
        folder,
        **{**ARMS[arm], **changes.pop("method", {})},
        gradient_checkpointing=checkpointing,
        checkpoint_arguments=generators.checkpoint_arguments() if generators else None,
        device="cuda",
    )
    settings = dataclasses.replace(SETTINGS, **changes)
    device = torch.device("cuda", 0)
    assert hold_as_computed(built.model, settings.precision, device, longest_text(splits["train"])) == HELD[arm]
    free_memory(device)
    subject = Subject(built.model, Data.of(splits, 0, settings.task), settings, 3, generators)
    result = engine.train(subject, device, Phases(device), engine.Watch(state or Memory(), Silent()))
    if generators is not None:
        for forward, recomputed in generators._pairs:
            assert torch.equal(forward.get_state(), recomputed.get_state())
    return {name: p.detach().clone() for name, p in built.model.named_parameters() if p.requires_grad}, result


def assert_identical(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, different


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("arm", ARMS)
def test_captured_and_eager_parameters_are_bit_identical(bert, splits, arm, variant):
    captured, result = fit(bert, splits, arm, **VARIANTS[variant])
    assert (result.engine, result.progress.engine_reason, result.progress.step) == ("captured", None, 400)
    eager, other = fit(bert, splits, arm, engine="eager", **VARIANTS[variant])
    assert other.engine == "eager"
    assert_identical(captured, eager)
    assert np.array_equal(result.logits, other.logits)
    assert [row["train_loss"] for row in result.progress.rows] == [row["train_loss"] for row in other.progress.rows]
    start = fit(bert, splits, arm, engine="eager", max_steps=1, learning_rate=1e-30)[0]
    assert any(not torch.equal(captured[name], start[name]) for name in start), "nothing was trained"


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("arm", ["full", "lora"])
def test_dropout_draws_the_same_in_both_engines(dropping, splits, arm, checkpointing):
    lora = {"method": {"peft": {**LORA, "lora_dropout": 0.1}}} if arm == "lora" else {}
    captured, result = fit(dropping, splits, arm, checkpointing=checkpointing, max_steps=100, **lora)
    assert (result.engine, result.progress.engine_reason) == ("captured", None)
    eager, _ = fit(dropping, splits, arm, checkpointing=checkpointing, max_steps=100, engine="eager", **lora)
    assert_identical(captured, eager)
    other = fit(dropping, splits, arm, checkpointing=checkpointing, max_steps=100, engine="eager", **lora)[0]
    assert_identical(eager, other)


def test_checkpointing_changes_no_weight(bert, splits):
    plain, without = fit(bert, splits, "full", max_steps=50)
    checkpointed, with_it = fit(bert, splits, "full", checkpointing=True, max_steps=50)
    assert_identical(plain, checkpointed)
    assert with_it.probe.activations_measured_MiB < 0.7 * without.probe.activations_measured_MiB


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("engine_name", ["captured", "eager"])
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(dropping, splits, engine_name, checkpointing):
    options = {"checkpointing": checkpointing, "engine": engine_name, "max_steps": 150}
    straight, _ = fit(dropping, splits, "lora", **options)
    state = Memory(due_at=77)
    interrupted, _ = fit(dropping, splits, "lora", state, **options)
    assert state.saved["progress"]["step"] == 77
    resumed, result = fit(dropping, splits, "lora", Memory(state.saved), **options)
    assert_identical(straight, interrupted)
    assert_identical(straight, resumed)
    assert len(result.progress.step_s) == 150


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_that_cannot_be_captured_goes_on_eagerly_and_says_why(dropping, splits, monkeypatch, checkpointing):
    from transformers import BertForSequenceClassification

    forward = BertForSequenceClassification.forward

    def waits(self: Any, *arguments: Any, **named: Any) -> Any:
        output = forward(self, *arguments, **named)
        output.logits.sum().item()  # the CPU waits for the GPU
        return output

    options = {"checkpointing": checkpointing, "max_steps": 60}
    expected, _ = fit(dropping, splits, "lora", engine="eager", **options)
    monkeypatch.setattr(BertForSequenceClassification, "forward", waits)
    state = Memory(due_at=31)
    weights, result = fit(dropping, splits, "lora", state, **options)
    assert result.engine == "eager"
    assert (
        result.progress.engine_reason.startswith("capture failed: ") and "captur" in result.progress.engine_reason[16:]
    )
    assert_identical(expected, weights)
    resumed, again = fit(dropping, splits, "lora", Memory(state.saved), **options)
    assert (again.engine, again.progress.engine_reason) == ("eager", result.progress.engine_reason)
    assert_identical(expected, resumed)


def test_graphs_that_memory_does_not_hold_leave_the_arm_eager(dropping, splits, monkeypatch):
    expected, _ = fit(dropping, splits, "full", engine="eager", max_steps=60)
    warm_up, calls = step._warm_up, []

    def runs_out(taken: Any, shape: tuple[int, int]) -> None:
        calls.append(shape)
        if len(calls) == 2:  # the second length, gradients made
            backward = taken.backward
            taken.backward = lambda *of: (backward(*of), torch.empty(2**50, dtype=torch.uint8, device="cuda"))
        try:
            warm_up(taken, shape)
        finally:
            vars(taken).pop("backward", None)

    monkeypatch.setattr(step, "_warm_up", runs_out)
    weights, result = fit(dropping, splits, "full", max_steps=60)
    assert result.engine == "eager" and "out of memory" in result.progress.engine_reason
    assert_identical(expected, weights)


def test_early_stopping_and_the_partial_batch_work_when_captured(bert, splits):
    data = {**splits, "validation": texts(50, seed=2)}
    stopping = {"patience": 1, "min_delta": 1.0}
    captured, result = fit(bert, data, "lora", early_stopping=stopping, max_steps=None)
    eager, other = fit(bert, data, "lora", early_stopping=stopping, max_steps=None, engine="eager")
    assert result.progress.stopped and result.progress.step == other.progress.step == 2 * 63
    assert result.progress.samples == 2 * 1003
    assert_identical(captured, eager)


def test_a_diverged_captured_run_names_its_step(bert, splits):
    _, captured = fit(bert, splits, "full", learning_rate=1e30, max_steps=100)
    _, eager = fit(bert, splits, "full", learning_rate=1e30, max_steps=100, engine="eager")
    assert captured.diverged_step == eager.diverged_step is not None
    assert captured.logits is None


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("engine_name", ["captured", "eager"])
def test_compiled_training_is_close_to_eager(bert, splits, engine_name, checkpointing):
    captured, result = fit(
        bert, splits, "lora", checkpointing=checkpointing, compile=True, max_steps=20, engine=engine_name
    )
    assert (result.engine, result.progress.engine_reason) == (engine_name, None)
    assert result.progress.compile_s > 0
    eager, _ = fit(bert, splits, "lora", engine="eager", max_steps=20)
    for name, weight in eager.items():
        torch.testing.assert_close(captured[name], weight, rtol=0, atol=20 * 2e-3)  # 20 steps of at most the rate


@pytest.fixture
def sst2() -> Iterator[tuple[Path, dict[str, Split]]]:
    """MiniLM's folder and SST-2's tokens, from a run of examples/sst2-minilm.yaml without its limit."""
    model, tokens = os.environ.get("MINILM"), os.environ.get("SST2_TOKENS")
    if not model or not tokens:
        pytest.skip("set MINILM (model folder) and SST2_TOKENS (tokens of all of SST-2, .npz)")
    return Path(model), load_tokens(Path(tokens))[0]


def test_mean_accuracy_on_sst2_is_that_of_the_eager_engine(sst2):
    folder, splits = sst2
    accuracies: dict[str, list[float]] = {"captured": [], "eager": []}
    for name, values in accuracies.items():
        for seed in range(3):
            built = tiny.build(folder, peft={**LORA, "lora_dropout": 0.05}, seed=seed, device="cuda")
            changes = {"epochs": 1, "max_steps": None, "batch_size": 32, "learning_rate": 5e-4, "engine": name}
            settings = dataclasses.replace(SETTINGS, **changes)
            device = torch.device("cuda", 0)
            hold_as_computed(built.model, settings.precision, device, longest_text(splits["train"]))
            subject = Subject(built.model, Data.of(splits, 0, settings.task), settings, seed)
            result = engine.train(subject, device, Phases(device), engine.Watch(Memory(), Silent()))
            assert result.engine == name
            values.append(result.progress.rows[-1]["accuracy"])
    print(json.dumps(accuracies))
    means = [np.mean(values) for values in accuracies.values()]
    pooled = np.sqrt(sum(np.var(values, ddof=1) for values in accuracies.values()) / 3)
    assert abs(means[0] - means[1]) <= 2 * max(pooled, np.sqrt(0.9 * 0.1 / len(splits["test"]) / 3))
    assert min(means) > 0.84

"""The loss on a general text before and after training: of whom it is, and what neither training nor a resume does."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_causal
import torch
from peft_tradeoffs.core.quantities import Missing
from peft_tradeoffs.inputs.tokens import Split
from peft_tradeoffs.measure.devices import FORGETTING, Phases
from peft_tradeoffs.tasks.texts import ANY_TEXT, GENERAL, PLAIN, Form
from peft_tradeoffs.training import engine, run
from peft_tradeoffs.training.batches import Data
from peft_tradeoffs.training.parallel import ALONE
from peft_tradeoffs.training.step import Settings, Subject
from peft_tradeoffs.training.summary import FORGOTTEN, forgetting, general_losses
from small_fits import Memory, Silent

CPU = torch.device("cpu")
LORA = {"peft_type": "LORA", "target_modules": "all-linear", "r": 4, "lora_alpha": 8}
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": "float32"}
TEXTS = [" ".join(prompt.split()[: 3 + number]) for number, (prompt, _) in enumerate(tiny_causal.rows(9, 5))]
TRAINING = {"task": "sft", "metric": "token_loss", "precision": "fp32", "engine": "eager", "warmup_ratio": 0.0}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_causal.tokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_causal.causal(tmp_path_factory.mktemp("causal") / "model")


@pytest.fixture(scope="module")
def splits(tokenizer) -> dict[str, Split]:
    rows = ANY_TEXT.encode(tokenizer, [(text,) for text in TEXTS], Form(PLAIN), 64)
    general = Split(
        np.concatenate([row.ids for row in rows]).astype(np.int32),
        None,
        np.cumsum([0, *(len(row.ids) for row in rows)]),
        np.zeros(len(rows), dtype=np.int64),
        np.arange(len(rows)),
        np.concatenate([row.targets for row in rows]),
    )
    trained = {"train": tiny_causal.encoded(40, tokenizer), "test": tiny_causal.encoded(8, tokenizer, 1)}
    return {**trained, GENERAL: general}


def by_hand(model: torch.nn.Module, split: Split) -> list[float]:
    """The sum of each text's losses, text by text, as Transformers gives their mean."""
    model.eval()
    found = []
    for start, end in itertools.pairwise(split.offsets):
        ids = torch.from_numpy(split.input_ids[start:end]).long()[None]
        with torch.no_grad():
            found.append(model(input_ids=ids, labels=ids).loss.item() * (end - start - 1))
    return found


def fit(
    folder: Path, splits: dict[str, Split], state: Memory | None = None, rate: float = 1e-3, **recipe: Any
) -> tuple[torch.nn.Module, engine.Result, Phases]:
    model = tiny.build(folder, task="sft", num_labels=0, **recipe).model
    settings = Settings(**{**tiny.TRAINING, **TRAINING, "epochs": 2, "learning_rate": rate})
    phases = Phases(CPU)
    subject = Subject(model, Data.of(splits, 0, "sft"), settings, 0)
    result = engine.train(subject, CPU, phases, engine.Watch(state or Memory(), Silent()))
    return model, result, phases


def test_before_is_the_checkpoints_loss_and_after_that_of_what_was_trained(folder, splits):
    from transformers import AutoModelForCausalLM

    model, result, phases = fit(folder, splits)
    checkpoint = AutoModelForCausalLM.from_pretrained(folder)
    found = general_losses(result, Missing("not quantised"))
    assert list(found) == ["tokens", "loss_before", "loss_after"]
    assert found["tokens"].tolist() == (splits[GENERAL].lengths - 1).tolist()  # all but the first
    assert found["loss_before"] == pytest.approx(by_hand(checkpoint, splits[GENERAL]), rel=1e-5)
    assert found["loss_after"] == pytest.approx(by_hand(model, splits[GENERAL]), rel=1e-5)
    assert abs(found["loss_after"] - found["loss_before"]).min() > 1e-3
    assert phases.seconds[FORGETTING] > 0


def test_a_general_text_changes_nothing_of_training_and_is_in_no_other_split(folder, splits):
    without = {name: split for name, split in splits.items() if name != GENERAL}
    model, result, _ = fit(folder, splits, peft={**LORA, "lora_dropout": 0.2})
    other, plain, _ = fit(folder, without, peft={**LORA, "lora_dropout": 0.2})
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), other.parameters(), strict=True))
    assert np.array_equal(result.logits, plain.logits)
    assert {row["split"] for row in result.progress.rows} == {"test"}
    assert plain.general is None and plain.progress.general_before is None


@pytest.mark.parametrize("quantization", [None, NF4])
def test_an_adapter_that_learns_nothing_forgets_nothing(folder, splits, quantization):
    """Of a quantised base too: not a bit, whatever quantisation lost before."""
    _, result, _ = fit(folder, splits, rate=0.0, peft=LORA, quantization=quantization)
    assert np.array_equal(result.general, np.array(result.progress.general_before))


def test_a_resumed_run_keeps_what_was_measured_before_its_first_step(folder, splits):
    """The model of a resumed run is no longer at its start."""
    state = Memory(due_at=7)
    _, straight, _ = fit(folder, splits, state)
    kept = state.saved["progress"]["general_before"]
    assert kept == straight.progress.general_before
    kept = [[loss + 1, *rest] for loss, *rest in kept]  # which no model gives
    planted = {**state.saved, "progress": {**state.saved["progress"], "general_before": kept}}
    _, resumed, _ = fit(folder, splits, Memory(planted))
    assert resumed.progress.general_before == kept
    assert np.array_equal(resumed.general, straight.general)


def asked(folder: Path, splits: dict[str, Split], **settings: Any) -> tuple[Any, ...]:
    """What `run.original_losses` is told of a QLoRA arm."""
    recipe = {"task": "sft", "peft": LORA, "quantization": NF4, "gradient_checkpointing": True, "head": None}
    whole = {
        **tiny.TRAINING,
        **TRAINING,
        **recipe,
        "dtype": "float32",
        "learning_rate": 1e-3,
        "arm": "qlora",
        **settings,
    }
    plan = SimpleNamespace(settings=whole, seed=0, model=SimpleNamespace(path=folder))
    phases = Phases(CPU)
    phases.switch("load")
    bench = SimpleNamespace(device=SimpleNamespace(torch=CPU), phases=phases, originals={}, world=ALONE)
    tokens = run.Tokens(splits, {"num_labels": 0, "pad_token_id": 0, "labels": None})
    return plan, bench, tokens, Data.of(splits, 0, "sft")


def test_the_original_of_a_quantised_model_is_the_checkpoint_and_read_once_a_process(folder, splits, monkeypatch):
    from transformers import AutoModelForCausalLM

    plan, bench, tokens, data = asked(folder, splits)
    found = run.original_losses(plan, bench, tokens, data)
    expected = by_hand(AutoModelForCausalLM.from_pretrained(folder), splits[GENERAL])
    assert found[:, 0] == pytest.approx(expected, rel=1e-5)
    _, quantised, _ = fit(folder, splits, rate=0.0, peft=LORA, quantization=NF4)
    assert abs(quantised.general[:, 0] - expected).max() > 1e-2
    assert bench.phases.current == "load" and bench.phases.seconds[FORGETTING] > 0
    monkeypatch.setattr(run.methods, "build", None)
    assert run.original_losses(plan, bench, tokens, data) is found  # of a later seed
    plain = asked(folder, splits, quantization=None)
    assert run.original_losses(*plain).reason == "the base model is not quantised"


def test_the_original_is_held_in_the_arms_dtype(folder, splits):
    exact, rounded = (
        run.original_losses(*asked(folder, splits, dtype=dtype, precision="bf16")) for dtype in ("float32", "bfloat16")
    )
    assert rounded[:, 0] == pytest.approx(exact[:, 0], rel=1e-2) and not np.array_equal(rounded, exact)


def test_an_original_that_does_not_fit_is_no_failed_run(folder, splits, monkeypatch):
    def build(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 30.00 GiB.")

    monkeypatch.setattr(run.methods, "build", build)
    plan, bench, tokens, data = asked(folder, splits)
    found = run.original_losses(plan, bench, tokens, data)
    assert found.reason == "memory did not suffice for the model that is not quantised"
    assert bench.phases.current == "load"


def result(before: list[float], after: list[float], tokens: list[int]) -> engine.Result:
    progress = engine.Progress(general_before=[[loss, count, 0] for loss, count in zip(before, tokens, strict=True)])
    columns = np.column_stack([after, tokens, np.zeros(len(tokens))])
    return engine.Result(progress, None, None, None, "eager", None, general=columns)


def test_losses_are_per_token_of_all_texts_and_two_differences_of_a_quantised_base():
    trained = result([2.0, 30.0], [5.0, 31.0], [2, 18])
    original = np.array([[1.0, 2, 0], [27.0, 18, 0]])
    found = forgetting(trained, original, pretrained=True)
    assert list(found) == list(FORGOTTEN)
    assert list(found.values()) == pytest.approx([32 / 20, 36 / 20, 4 / 20, 28 / 20, 8 / 20])


def test_what_has_no_value_says_why():
    trained = result([2.0, 30.0], [5.0, math.inf], [2, 18])
    found = forgetting(trained, Missing("too large"), pretrained=True)
    assert found["forgetting_loss_before"] == 1.6
    reasons = {key: value.reason for key, value in found.items() if isinstance(value, Missing)}
    not_finite = "the loss on the general text is not finite"
    assert reasons == {
        **dict.fromkeys(("forgetting_loss_after", "forgetting"), not_finite),
        "forgetting_loss_original": "too large",
        "forgetting_vs_original": not_finite,
    }
    assert {value.reason for value in forgetting(trained, Missing("x"), False).values()} == {"random weights"}
    none = engine.Result(engine.Progress(), None, None, None, "eager", None)
    assert {one.reason for one in forgetting(none, Missing("x"), True).values()} == {
        "the data set names no general text"
    }


@pytest.mark.parametrize("call", [1, 2])
def test_a_general_text_that_does_not_fit_fails_no_run(folder, splits, monkeypatch, call):
    calls, taken = [], engine.general_losses

    def losses(*arguments: Any) -> np.ndarray:
        calls.append(arguments)
        if len(calls) == call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 30.00 GiB.")
        return taken(*arguments)

    monkeypatch.setattr(engine, "general_losses", losses)
    _, trained, _ = fit(folder, splits)
    assert trained.logits is not None
    assert len(calls) == call  # none is taken after training that has nothing to be less than
    found = forgetting(trained, Missing("not quantised"), pretrained=True)
    reasons = {key: value.reason for key, value in found.items() if isinstance(value, Missing)}
    no_memory = "memory did not suffice for the general text"
    own = FORGOTTEN[call - 1 : 3]  # what was taken before stands
    assert reasons == {
        **dict.fromkeys(own, no_memory),
        "forgetting_loss_original": "not quantised",
        "forgetting_vs_original": no_memory,
    }
    assert general_losses(trained, Missing("not quantised")) == {}

"""Several ranks train as one process does: the same batches, gradients, losses and decisions."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tiny
import tiny_arms
import tiny_causal
import torch
from bitsandbytes.autograd._functions import MatMul4Bit
from bitsandbytes.nn import Linear4bit
from peft_tradeoffs.measure.devices import Phases
from peft_tradeoffs.training import decoding, engine
from peft_tradeoffs.training.batches import Data, ResidentSplit, Sizes, padding_mask
from peft_tradeoffs.training.decoding import Decoding, decode
from peft_tradeoffs.training.parallel import ALONE, World
from peft_tradeoffs.training.sharding import Shards
from peft_tradeoffs.training.step import Subject, TrainingStep
from peft_tradeoffs.training.updates import Updates
from ranks import together
from small_fits import CPU, SETTINGS, Memory, Silent, split
from torch.distributed.fsdp import FSDPModule

STEPS = 30
RECIPE = ("quantization", "gradient_checkpointing", "dtype")
LORA = {"peft_type": "LORA", "target_modules": "all-linear", "r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
OF_TEXTS = {"task": "sft", "metric": "token_loss", "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without dropout, of which each rank has its own."""
    folder = shutil.copytree(tiny_bert, tmp_path_factory.mktemp("bert") / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_causal.causal(tmp_path_factory.mktemp("llama") / "model")


def classified(rows: int, seed: int = 0) -> Any:
    made = split(rows, seed)
    return dataclasses.replace(made, input_ids=np.minimum(made.input_ids, 25))  # words that the models have


def case(
    folder: Path, peft: dict[str, Any] | None, rows: int = 50, sharded: bool = False, **changes: Any
) -> Callable[[World], Subject]:
    """Makes what a rank trains: a model in float64, of which rounding leaves room for 1e-5 under Adam."""
    sft = (folder / "generation_config.json").exists() or "task" in changes
    own = {"evaluation_batch_size": 4, "batch_size": 8, "learning_rate": 1e-3, "max_steps": STEPS, "epochs": 9}
    recipe = {
        name: changes.pop(name) for name in ("quantization", "gradient_checkpointing", "dtype") if name in changes
    }
    settings = dataclasses.replace(SETTINGS, **{**own, **(OF_TEXTS if sft else {}), **changes})

    def make(world: World) -> Subject:
        torch.manual_seed(1)
        built = tiny.build(folder, peft=peft, **recipe, **({"task": "sft", "num_labels": 0} if sft else {}))
        if sft:
            own = tiny_causal.tokenizer()
            splits = {"train": tiny_causal.encoded(rows, own), "test": tiny_causal.encoded(11, own, 1)}
        else:
            splits = {"train": classified(rows), "test": classified(11, 1)}
        model = built.model if "dtype" in recipe else built.model.double()
        shards = Shards(model, world) if sharded and world.size > 1 else None
        return Subject(model, Data.of(splits, 0, settings.task), settings, 3, world=world, shards=shards)

    return make


@dataclasses.dataclass
class Trained:
    """What a training came to."""

    gradients: dict[str, torch.Tensor]  # of the first step
    losses: list[float]
    weights: dict[str, torch.Tensor]
    logits: np.ndarray
    rows: list[dict[str, Any]]
    states: list[dict[str, Any]]


def train(make: Callable[[World], Subject], world: World = ALONE, state: Memory | None = None) -> Trained:
    subject, state = make(world), state or Memory()
    gradients: dict[str, torch.Tensor] = {}
    losses: list[float] = []

    def update(self: Updates) -> None:
        if not gradients:
            found = {name: p.grad for name, p in subject.parameters.items() if p.grad is not None}
            gradients.update({name: whole(subject, name, gradient) for name, gradient in found.items()})
        updated(self)

    def read(self: TrainingStep, start: int, end: int) -> list[float]:
        losses.extend(found := told(self, start, end))
        return found

    def backward(self: TrainingStep, *shape: int) -> torch.Tensor:
        return passed(self, *shape).float()  # as losses are kept

    updated, told, passed = Updates.on_device, TrainingStep.losses, TrainingStep.backward
    with (
        mock.patch.object(Updates, "on_device", update),
        mock.patch.multiple(TrainingStep, losses=read, backward=backward),
    ):
        watch = engine.Watch(state, Silent())
        result = engine.train(subject, CPU, Phases(CPU), watch, probing=False)
    weights = {name: whole(subject, name, p) for name, p in subject.parameters.items()}
    rows = [{key: value for key, value in row.items() if key != "train_s"} for row in result.progress.rows]
    assert result.logits is not None
    return Trained(gradients, losses, weights, result.logits, rows, state.history)


def whole(subject: Subject, name: str, part: torch.Tensor) -> torch.Tensor:
    """A copy of what each rank of a sharded model has a part of."""
    return part.detach().clone() if subject.shards is None else subject.shards.whole(name, part)


def assert_close(found: Trained, expected: Trained) -> None:
    assert found.gradients.keys() == expected.gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected.gradients.values())
    for name, gradient in expected.gradients.items():
        assert torch.allclose(found.gradients[name], gradient, rtol=1e-5, atol=1e-5 * largest), name
    assert len(found.losses) == len(expected.losses) == STEPS
    assert np.allclose(found.losses, expected.losses, rtol=0, atol=1e-5)
    assert np.allclose(found.logits, expected.logits, rtol=0, atol=1e-5)


def assert_same(found: Trained, expected: Trained) -> None:
    assert found.losses == expected.losses
    assert found.rows == expected.rows
    assert all(torch.equal(found.weights[name], weight) for name, weight in expected.weights.items())


CASES: dict[str, tuple[str, dict[str, Any] | None, dict[str, Any]]] = {
    "full": ("bert", None, {}),
    "full in parts": ("bert", None, {"gradient_accumulation_steps": 2}),
    "lora": ("bert", tiny_arms.LORA, {}),
    "sft full": ("llama", None, OF_TEXTS),
    # of four ranks one has a row less, and a part less
    "sft lora in parts": ("llama", LORA, {**OF_TEXTS, "gradient_accumulation_steps": 2, "batch_size": 7}),
}


@pytest.mark.parametrize("parallel", ["data", "sharded"])
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_ranks_train_as_one_process_does(name: str, count: int, parallel: str, bert: Path, llama: Path) -> None:
    """Of 50 rows in batches of 8 the last has 2: of four ranks two have none of it. Of 11 to evaluate one has none."""
    which, peft, changes = CASES[name]
    make = case({"bert": bert, "llama": llama}[which], peft, sharded=parallel == "sharded", **changes)
    expected = train(make)
    every = together(count, lambda world: train(make, world))
    assert expected.losses[0] - expected.losses[-1] > 1e-3  # it learns something
    for found in every:
        assert_close(found, expected)
        assert_same(found, every[0])


@pytest.mark.parametrize("name", ["full", "sft full", "lora"])
def test_each_rank_holds_its_part_of_every_weight(name: str, bert: Path, llama: Path) -> None:
    """Between steps, and after an evaluation; layer by layer, as Transformers names them."""
    which, peft, changes = CASES[name]
    kinds = {"bert": ["BertEmbeddings", "BertLayer", "BertLayer"], "llama": ["LlamaDecoderLayer"] * 2}[which]
    kinds = [f"FSDP{kind}" for kind in kinds]

    def work(world: World) -> tuple[list[str], int, int]:
        subject = case({"bert": bert, "llama": llama}[which], peft, sharded=True, **{**changes, "max_steps": 2})(world)
        sharded = [type(module).__name__ for module in subject.model.modules() if isinstance(module, FSDPModule)]
        prepared = engine.Prepared.of(subject, engine.Start(engine.Progress()), CPU, Phases(CPU))
        engine.predict(subject, prepared.data["test"], Sizes.of(subject.data.splits["test"]), prepared.mask)
        held: list[Any] = list(subject.model.parameters())
        return sharded[1:], sum(p.to_local().numel() for p in held), sum(p.numel() for p in held)

    for found, own, every in together(2, work):
        assert found == kinds
        assert 0.45 < own / every < 0.55  # head and biases of odd lengths


def test_what_activations_take_does_not_count_weights_that_are_whole_for_a_while(llama: Path) -> None:
    def work(world: World, sharded: bool) -> float:
        subject = case(llama, None, sharded=sharded, **OF_TEXTS)(world)
        return float(engine.probe(subject, CPU, padding_mask).activations_MiB)

    assert together(2, lambda w: work(w, True)) == pytest.approx(together(2, lambda w: work(w, False)), rel=1e-3)


def test_layers_that_are_compiled_learn_the_same(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        made.append(graph)
        return graph

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda forward, **how: compile_(forward, backend=backend, **how))
    few = {**OF_TEXTS, "max_steps": 4}
    expected = train(case(llama, LORA, **few))
    make = case(llama, LORA, sharded=True, compile=True, **few)
    for found, graphs in together(2, lambda world: (train(make, world), len(made))):
        assert graphs and np.allclose(found.losses, expected.losses, rtol=0, atol=1e-5)
        assert np.allclose(found.logits, expected.logits, rtol=0, atol=1e-5)


def test_weights_of_two_precisions_are_sharded(tmp_path: Path) -> None:
    """Of a bfloat16 model whose head is float32, gradients of both are summed in float32."""
    how, folder = {"dtype": "bfloat16", "precision": "bf16"}, tiny.llama(tmp_path / "model")

    def work(world: World, sharded: bool) -> tuple[Trained, set[torch.dtype]]:
        found = train(case(folder, None, sharded=sharded, **how), world)
        return found, {gradient.dtype for gradient in found.gradients.values()}

    data, sharded = (together(2, lambda w, own=own: work(w, own)) for own in (False, True))
    for (found, kinds), (expected, _) in zip(sharded, data, strict=True):
        assert kinds == {torch.bfloat16, torch.float32}
        assert np.allclose(found.losses[:5], expected.losses[:5], atol=5e-3)


def test_a_sharded_model_writes_what_a_whole_one_does(llama: Path) -> None:
    """Also where the texts are left to Transformers, whose call PEFT takes past its own."""
    texts = [np.array([3, 4, 5, 6], np.int32), np.array([7, 8], np.int32)]
    wanted = Decoding(5, 2, (1,), 0, "fp32", "eager")

    def work(world: World, peft: Any, static: bool) -> list[list[int]]:
        subject = case(llama, peft, sharded=world.size > 1, **OF_TEXTS)(world)
        why = None if static else "not static"
        with mock.patch.object(decoding, "why_not_static", lambda _: why):
            return [ids.tolist() for ids in decoding.decode(subject.model, texts, wanted, CPU, lambda: None).tokens]

    for peft in (None, LORA):
        for static in (True, False):
            expected = work(ALONE, peft, static)
            assert together(2, lambda w, p=peft, s=static: work(w, p, s)) == [expected] * 2


@pytest.mark.parametrize("quantised", [False, True])
def test_a_model_put_together_again_is_that_of_one_process(quantised: bool, bert: Path) -> None:
    """Rank 0 alone has it: to save what is trained, or to compute with it once more."""
    how = {"quantization": tiny_arms.NF4} if quantised else {}
    make = functools.partial(case, bert, tiny_arms.LORA, **how)
    inputs = tiny_arms.batch()

    def work(world: World) -> Any:
        subject = make(sharded=world.size > 1)(world)
        kind = type(subject.model)
        if subject.shards is not None:
            kind = kind.__mro__[2]
            subject.shards.unite(computes=True)
        assert type(subject.model) is kind
        if not world.leads:
            return None
        subject.model.eval()
        with torch.no_grad():
            logits = subject.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        return logits.numpy(), sorted(subject.model.state_dict())

    expected, names = work(ALONE)
    found, also = together(2, work)[0]
    assert (found == expected).all() and also == names


@pytest.mark.parametrize("checkpointing", [False, True])
def test_quantised_weights_are_sharded_as_bytes(checkpointing: bool, llama: Path) -> None:
    """Each rank has its part of them between steps, and in a layer's passes every byte that one process has."""
    how = {"quantization": tiny_arms.NF4, "gradient_checkpointing": checkpointing, **OF_TEXTS}
    make = functools.partial(case, llama, LORA, gradient_accumulation_steps=2, **how)
    seen: list[tuple[str, bytes]] = []
    most: list[int] = [0]  # bytes at once

    def work(world: World, sharded: bool) -> tuple[Trained, set[tuple[str, bytes]], list[int], int, int]:
        subject = make(sharded=sharded)(world)
        seen.clear()
        most[0] = 0
        packed = {name: p for name, p in subject.model.named_parameters() if p.dtype == torch.uint8}
        held = [weight.untyped_storage().nbytes() for weight in packed.values()]
        backward = MatMul4Bit.backward

        def look(name: str, weight: torch.Tensor) -> None:
            seen.append((name, weight.data.clone().numpy().tobytes()))
            most[0] = max(most[0], sum(one.untyped_storage().nbytes() for one in packed.values()))

        def watched(ctx: Any, gradient: torch.Tensor) -> Any:
            look("backward", ctx.tensors[1])
            return backward(ctx, gradient)

        for name, module in subject.model.named_modules():
            if isinstance(module, Linear4bit):
                module.register_forward_pre_hook(lambda module, _, name=name: look(name, module.weight))
        with mock.patch.object(MatMul4Bit, "backward", staticmethod(watched)):
            trained = train(lambda _: subject, world)
        left = sum(weight.untyped_storage().nbytes() for weight in packed.values())
        return trained, set(seen), held, left, most[0]

    expected, bytes_, whole, *_ = work(ALONE, False)
    assert len(bytes_) > 1.5 * len(whole) > 0 and all(whole)  # forwards and backwards
    for data, sharded in zip(together(2, lambda w: work(w, False)), together(2, lambda w: work(w, True)), strict=True):
        assert sharded[1] == data[1] == bytes_
        assert set(sharded[2]) == {0} and sharded[3] == 0
        assert sharded[4] == sum(whole) / 2  # one of two layers
        assert np.allclose(sharded[0].losses, data[0].losses, rtol=0, atol=1e-9)
        assert np.allclose(sharded[0].losses, expected.losses, rtol=0, atol=1e-5)


# States


def interrupted(make: Callable[[World], Subject], count: int) -> list[dict[str, Any]]:
    """The states that `count` ranks have saved, one after each eight steps of an epoch."""
    if count == 1:
        return train(make, state=Memory(every=True)).states
    first, *others = together(count, lambda world: train(make, world, Memory(every=world.leads)).states)
    assert [[state["progress"]["step"] for state in states] for states in others] == [
        [state["progress"]["step"] for state in first]
    ] * (count - 1)  # all agree when
    return first


@pytest.mark.parametrize(("optimizer", "sharded"), [("adamw", False), ("adamw", True), ("adamw_8bit", False)], ids=str)
def test_the_same_number_of_ranks_resumes_to_the_same_bits(optimizer: str, sharded: bool, tiny_bert: Path) -> None:
    """With dropout, of which each rank has its own stream."""
    make = case(tiny_bert, {**tiny_arms.LORA, "lora_dropout": 0.3}, sharded=sharded, optimizer=optimizer)
    states = interrupted(make, 2)
    straight = together(2, lambda world: train(make, world))
    for state in (states[0], states[-1]):
        resumed = together(2, lambda world, given=state: train(make, world, Memory(given if world.leads else None)))
        for found, expected in zip(resumed, straight, strict=True):
            assert all(torch.equal(found.weights[name], weight) for name, weight in expected.weights.items())
            assert found.rows == expected.rows and (found.logits == expected.logits).all()
    again = together(2, lambda world: train(make, world))
    assert_same(again[0], straight[0])


WAYS = [(2, "data", 1, ""), (1, "", 2, "data"), (2, "data", 4, "data"), (2, "sharded", 1, ""), (1, "", 2, "sharded")]
WAYS += [(2, "sharded", 4, "sharded"), (2, "sharded", 2, "data"), (2, "data", 4, "sharded")]


@pytest.mark.parametrize(("before", "by", "now", "then"), WAYS)
def test_another_number_of_ranks_goes_on_with_the_same_batches(
    before: int, by: str, now: int, then: str, bert: Path
) -> None:
    """A state of a sharded model is that of one process. It may have computed before it is given back."""
    states = interrupted(case(bert, None, sharded=by == "sharded"), before)
    state = next(one for one in states if one["progress"]["step"] == 16)
    built = case(bert, None, sharded=then == "sharded")

    def make(world: World) -> Subject:
        subject = built(world)
        with torch.no_grad():
            subject.model(**tiny_arms.batch())
        return subject

    if now == 1:
        every = [train(make, state=Memory(state))]
    else:
        every = together(now, lambda world: train(make, world, Memory(state if world.leads else None)))
    straight = train(make)
    left = len(every[0].losses)
    assert left == STEPS - state["progress"]["step"]
    for found in every:
        assert np.allclose(found.losses, straight.losses[-left:], rtol=0, atol=1e-5)
        assert np.allclose(found.logits, straight.logits, rtol=0, atol=1e-5)


def test_each_rank_draws_dropout_of_its_own(tiny_bert: Path) -> None:
    """Two ranks that have the same row lose unlike; with one stream for both they would lose alike."""

    def losses(world: World) -> float:
        made = case(tiny_bert, None)(world)
        prepared = engine.Prepared.of(made, engine.Start(engine.Progress()), CPU, Phases(CPU))
        prepared.subject.model.train()
        loss, _ = prepared.step.forward(torch.zeros(4, dtype=torch.int64), 16)
        return float(loss)

    first, second = together(2, losses)
    assert first != second
    assert together(2, losses) == [first, second]


# Evaluations


def test_batches_of_an_evaluation_are_dealt_and_put_together_bit_for_bit(bert: Path, llama: Path) -> None:
    """Also where there are fewer batches than ranks, and each is computed by one rank alone."""
    for make in (case(bert, None), case(llama, None, **OF_TEXTS)):

        def predicted(world: World, size: int = 3, make: Any = make) -> tuple[np.ndarray, int]:
            made = make(world)
            made = dataclasses.replace(made, settings=dataclasses.replace(made.settings, evaluation_batch_size=size))
            split = made.data.splits["test"]
            data, counted = ResidentSplit(split, 0, CPU), mock.Mock(wraps=engine._outputs)
            with mock.patch.object(engine, "_outputs", counted):
                found = engine.predict(made, data, Sizes.of(split), padding_mask)
            return found, counted.call_count

        for size, turns in ((3, [1, 1, 1, 1]), (6, [1, 1, 0, 0])):
            expected, _ = predicted(ALONE, size)
            every = together(4, lambda world, size=size: predicted(world, size))
            assert [count for _, count in every] == turns
            for found, _ in every:
                assert found.dtype == expected.dtype and (found == expected).all()


def test_memory_that_runs_out_on_one_rank_in_an_evaluation_does_so_on_all(bert: Path) -> None:
    def predicted(world: World) -> str:
        made = case(bert, None)(world)
        split = made.data.splits["test"]
        outputs = engine._outputs

        def full(*words: Any) -> torch.Tensor:
            if world.rank == 1:
                raise torch.OutOfMemoryError("Tried to allocate 2.00 MiB")
            return outputs(*words)

        with mock.patch.object(engine, "_outputs", full), pytest.raises(torch.OutOfMemoryError) as caught:
            engine.predict(made, ResidentSplit(split, 0, CPU), Sizes.of(split), padding_mask)
        return str(caught.value)

    assert together(2, predicted) == ["another GPU of the run ran out of memory", "Tried to allocate 2.00 MiB"]


def test_prompts_are_dealt_and_answered_as_by_one_process(llama: Path) -> None:
    """Batch by batch the same tokens; of two batches and four ranks two have none."""

    def answers(world: World) -> tuple[list[list[int]], list[bool], list[list[int]], int]:
        torch.manual_seed(1)
        model = tiny.build(llama, task="sft", num_labels=0).model.double().eval()
        asked = [np.arange(1, 2 + number % 5, dtype=np.int32) for number in range(11)]
        found = decode(model, asked, Decoding(6, 6, (3,), 0, "fp32"), CPU, world=world)
        return [list(tokens) for tokens in found.tokens], found.ended.tolist(), found.batches, found.steps

    alone = answers(ALONE)
    assert len(alone[2]) == 2 and any(alone[0])
    for count in (2, 4):
        assert together(count, answers) == [alone] * count


def test_ranks_that_part_take_the_groups_down_with_nccl_too() -> None:
    """Where NCCL is, groups are aborted, which leaves none to destroy."""

    def parts(world: World) -> bool:
        with mock.patch.object(torch.distributed, "is_nccl_available", lambda: True):
            own = World(world.rank, world.size)
            own.part()
        return own.broken and not torch.distributed.is_initialized()

    assert together(2, lambda world: parts(world) and _ends(world)) == [True, True]


def _ends(world: World) -> bool:
    world.size = 1  # its groups are gone
    return True

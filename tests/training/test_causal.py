"""Training of causal models: the losses are TRL's, the head computes where targets are, tokens count alike."""

import contextlib
import itertools
import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_causal
import torch
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.tokens import Split
from peft_tradeoffs.measure.devices import Phases
from peft_tradeoffs.tasks.metrics import OF_TEXT
from peft_tradeoffs.tasks.texts import IGNORED
from peft_tradeoffs.training import engine, targets
from peft_tradeoffs.training.batches import (
    FEW,
    LARGER,
    Data,
    ResidentSplit,
    Sizes,
    check_causal,
    check_padding,
    choose_mask,
    epoch_batches,
    last_logits,
    no_mask,
    padding_mask,
)
from peft_tradeoffs.training.methods import hold_as_computed, save
from peft_tradeoffs.training.step import EagerSteps, Settings, Subject, TrainingStep
from peft_tradeoffs.training.targets import AtTargets, Behind
from peft_tradeoffs.training.updates import Updates
from small_fits import Memory, Silent, subject

CPU = torch.device("cpu")
LORA = {"peft_type": "LORA", "target_modules": "all-linear", "r": 4, "lora_alpha": 8}


def settings(**changes: Any) -> Settings:
    """Of 20 steps in fp32 on a CPU."""
    own = {"task": "sft", "metric": "token_loss", "precision": "fp32", "engine": "eager", "warmup_ratio": 0.0}
    return Settings(**{**tiny.TRAINING, **own, "weight_decay": 0.0, "epochs": 2, "learning_rate": 1e-3, **changes})


def built(folder: Path, **recipe: Any) -> torch.nn.Module:
    """The model in `folder` as an arm has it."""
    return tiny.build(folder, task="sft", num_labels=0, **recipe).model


def losses(model: torch.nn.Module, split: Split, **changes: Any) -> list[float]:
    """Of each step of our loop over the split, dropout off."""
    own = settings(**changes)
    subject = Subject(model, Data({"train": split}, {"train": split}, None, 0), own, 0)
    schedule = engine.Schedule.of(own, len(split))
    data = ResidentSplit(split, 0, CPU)
    step = TrainingStep(subject, data, padding_mask, Updates(subject.parameters, own, CPU), schedule.rates)
    steps, sizes, found = EagerSteps(step, False, None), Sizes.of(split), []
    for epoch in range(own.epochs):
        batches = epoch_batches(split.lengths, own.batch_size, 0, epoch)
        step.begin(batches, 0, epoch * schedule.per_epoch)
        for rows in batches:
            steps(sizes.shape(rows))
        found += step.losses(0, len(batches))
    return found


def losses_of_trl(model: torch.nn.Module, split: Split, tokenizer: Any, folder: Path, **changes: Any) -> list[float]:
    """Of each step of TRL's SFTTrainer on the same batches."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    own, seen = settings(**changes), []
    labels = np.where(split.targets, split.input_ids, IGNORED)
    rows = [
        {"input_ids": split.input_ids[a:b].tolist(), "labels": labels[a:b].tolist()}
        for a, b in itertools.pairwise(split.offsets)
    ]
    order = [rows for epoch in range(own.epochs) for rows in epoch_batches(split.lengths, own.batch_size, 0, epoch)]

    class SameBatches(SFTTrainer):
        def get_train_dataloader(self) -> Any:
            return [self.data_collator([rows[index] for index in batch]) for batch in order]

        def compute_loss(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
            found = super().compute_loss(model, inputs, *arguments, **named)
            seen.append(float(found[0] if isinstance(found, tuple) else found))
            return found

    config = SFTConfig(
        output_dir=str(folder),
        max_steps=len(order),
        per_device_train_batch_size=own.batch_size,
        learning_rate=own.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=own.max_grad_norm,
        adam_epsilon=own.adam_epsilon,
        bf16=False,
        use_cpu=True,
        activation_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    SameBatches(model, config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer).train()
    return seen


@pytest.mark.parametrize("family", tiny_causal.FAMILIES)
def test_the_losses_of_twenty_steps_are_those_of_trl(family, tmp_path):
    tokenizer, folder = tiny_causal.tokenizer(), tiny_causal.causal(tmp_path / "model", family)
    split = tiny_causal.encoded(80, tokenizer)
    ours = losses(built(folder), split)
    theirs = losses_of_trl(built(folder), split, tokenizer, tmp_path / "trl")
    assert len(ours) == 20 and ours[-1] < ours[0] - 0.1
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.skipif("CHECKPOINT" not in os.environ, reason="needs CHECKPOINT, the folder of a causal model")
@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "lora"])
def test_the_losses_of_two_steps_of_a_real_model_are_those_of_trl(peft, tmp_path):
    """As SmolLM2-135M-Instruct; texts of unequal lengths of which the chat template's prompt is no target."""
    from transformers import AutoTokenizer

    folder = Path(os.environ["CHECKPOINT"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    split = tiny_causal.encoded(32, tokenizer)
    changes = {"epochs": 1, "learning_rate": 1e-4, "batch_size": 16}
    ours = losses(built(folder, peft=peft), split, **changes)
    theirs = losses_of_trl(built(folder, peft=peft), split, tokenizer, tmp_path, **changes)
    assert len(ours) == 2 and ours[1] != ours[0]
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_causal.tokenizer()


def batch_of(split: Split, rows: np.ndarray) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The inputs of a batch, mask included, and its answers."""
    found = ResidentSplit(split, 0, CPU).gather(torch.from_numpy(rows), *Sizes.of(split).shape(rows)[1:])
    mask = padding_mask(found.sizes, found.inputs["input_ids"].shape[1], torch.float32)
    return {**found.inputs, "attention_mask": mask}, found.answers


def at_targets(model: torch.nn.Module) -> AtTargets:
    return AtTargets(model, contextlib.nullcontext)


def expected_loss(model: torch.nn.Module, inputs: dict[str, Any], answers: dict[str, Any]) -> torch.Tensor:
    """Of a batch, by Transformers alone."""
    labels = torch.full_like(inputs["input_ids"], IGNORED)
    for row, (places, tokens) in enumerate(zip(answers["positions"], answers["labels"], strict=True)):
        kept = tokens != IGNORED
        labels[row, places[kept]] = tokens[kept]
    return model(**inputs, labels=labels).loss


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of what is trained."""
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    return found


ON_THE_HEAD = {"peft_type": "LORA", "target_modules": ["q_proj", "lm_head"], "r": 4, "lora_alpha": 8}
MODELS: dict[str, tuple[str, dict[str, Any] | None, Behind | None]] = {
    **{family: (family, None, Behind()) for family in tiny_causal.FAMILIES},
    "gemma": ("gemma", None, Behind(cap=2.0)),
    "cohere": ("cohere", None, Behind(scale=0.25)),
    "granite": ("granite", None, Behind(scale=1 / 3)),
    "lora": ("llama", LORA, Behind()),
    "lora on the head": ("llama", ON_THE_HEAD, None),
}


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_in_pieces_are_those_of_transformers(name, tokenizer, tmp_path, monkeypatch):
    """Caps and scales of logits too. Pieces of two positions, so that the seven texts take many."""
    monkeypatch.setattr(targets, "AT_ONCE", 600)
    family, peft, behind = MODELS[name]
    model = built(tiny_causal.causal(tmp_path / "model", family), peft=peft).eval()
    inputs, answers = batch_of(tiny_causal.encoded(20, tokenizer), np.arange(7))
    expected, forward = expected_loss(model, inputs, answers), at_targets(model)
    assert forward.behind == behind
    expected_gradients = gradients(model, expected)
    found = forward(**answers, **inputs).loss
    assert found.item() == pytest.approx(expected.item(), abs=1e-6)
    for key, gradient in gradients(model, found).items():
        torch.testing.assert_close(gradient, expected_gradients[key], atol=1e-7, rtol=1e-4)
    assert forward.scores(**answers, **inputs)[:, :2].sum(0).tolist() == pytest.approx(
        [expected.item() * int((answers["labels"] != IGNORED).sum()), int((answers["labels"] != IGNORED).sum())]
    )
    assert model(**inputs).logits.shape[:2] == inputs["input_ids"].shape  # a plain call stays what it was


@pytest.mark.parametrize("family", ["llama", "gemma"])
@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "lora"])
def test_what_torch_compile_makes_of_it_loses_and_learns_the_same(family, peft, tokenizer, tmp_path, monkeypatch):
    """As it is traced: what a kernel is made of it only a GPU tells. Other sizes are no other compilation."""
    monkeypatch.setattr(targets, "AT_ONCE", 600)
    monkeypatch.setitem(tiny_causal.FAMILIES, family, {**tiny_causal.FAMILIES[family], "num_hidden_layers": 4})
    model = built(tiny_causal.causal(tmp_path / "model", family), peft=peft)
    forward, plain, made = at_targets(model), at_targets(model), []
    forward.compile(backend=lambda graph, example: made.append(graph) or graph, dynamic=True)
    for rows in (np.arange(7), np.arange(7, 12), np.arange(12, 20)):
        count = len(made)
        inputs, answers = batch_of(tiny_causal.encoded(20, tokenizer), rows)
        expected = plain(**answers, **inputs).loss
        expected_gradients = gradients(model, expected)
        found = forward(**answers, **inputs).loss
        assert found.item() == pytest.approx(expected.item(), abs=1e-6)
        for key, gradient in gradients(model, found).items():
            torch.testing.assert_close(gradient, expected_gradients[key], atol=1e-7, rtol=1e-4)
    assert len(made) == count > 0


def test_a_step_is_warmed_up_at_sizes_that_its_batch_does_not_have(tokenizer, tmp_path):
    """Shapes are captured one after the other, on the texts of the epoch's first batch; a GPU would stop for good."""
    split = tiny_causal.encoded(40, tokenizer)
    data, sizes = ResidentSplit(split, 0, CPU), Sizes.of(split)
    longest = torch.from_numpy(np.argsort(-split.lengths)[:4].copy())
    _, length, count = sizes.shape(np.argsort(split.lengths)[:4])
    batch = data.gather(longest, length, count)
    assert batch.answers["positions"].max() < length < split.lengths.max()


def test_what_is_behind_a_head_is_not_guessed(tmp_path):
    """A model that does something that no name in its configuration tells keeps its own logits."""
    model = built(tiny_causal.causal(tmp_path / "model", "gemma"))
    model.config.final_logit_softcapping, cap = None, 2.0
    assert at_targets(model).behind == Behind()
    model.config.final_logit_softcapping = cap

    def moved(_: Any, inputs: Any, output: Any) -> None:
        output.logits += 1.0

    model.register_forward_hook(moved)
    assert at_targets(model).behind is None


def test_no_more_logits_are_held_than_of_some_positions(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "AT_ONCE", 600)
    model = built(tiny_causal.causal(tmp_path / "model"))
    inputs, answers = batch_of(tiny_causal.encoded(20, tokenizer), np.arange(7))
    forward, sizes = at_targets(model), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(tuple(t.shape)) or t, lambda t: t):
        forward(**answers, **inputs)
    assert forward.vocabulary == 300 and answers["labels"].numel() > 20
    assert not [shape for shape in sizes if shape[-1:] == (300,) and shape != (64, 300)]  # but for the head's weight


def test_a_gradient_in_half_precision_does_not_vanish(tokenizer, tmp_path):
    """One token among many has a small share of the loss: in float16 below what it can hold, if divided at once."""
    states = torch.randn(20_000, 8, requires_grad=True)
    weight, labels = torch.randn(50, 8), torch.randint(50, (20_000,))
    exact = torch.autograd.grad(torch.nn.functional.cross_entropy(states @ weight.T, labels), states)[0]
    with torch.autocast("cpu", torch.float16):
        loss = targets.loss_of(states, torch.nn.Parameter(weight), None, labels, Behind())
    found = torch.autograd.grad(loss, states)[0]
    assert (found - exact).norm() < 0.01 * exact.norm()


def test_parts_of_a_batch_count_by_their_tokens(tokenizer, tmp_path):
    """A mean over the target tokens of the whole step; the mean of the parts' means is another one."""
    folder, split = tiny_causal.causal(tmp_path / "model"), tiny_causal.encoded(16, tokenizer)
    counts = split.target_counts
    assert len(set(counts.reshape(2, 8).sum(1))) > 1  # parts of unlike weight
    whole = losses(built(folder), split)
    parts = losses(built(folder), split, gradient_accumulation_steps=3)
    assert parts == pytest.approx(whole, abs=2e-6)
    model = built(folder)
    inputs, answers = batch_of(split, np.arange(16))
    means = [
        at_targets(model)(**{key: value[part] for key, value in (inputs | answers).items()}).loss.item()
        for part in np.array_split(np.arange(16), 3)
    ]
    assert abs(np.mean(means) - at_targets(model)(**answers, **inputs).loss.item()) > 1e-4


def test_an_evaluation_gives_each_texts_sums_whatever_its_batches(tokenizer, tmp_path):
    model, split = built(tiny_causal.causal(tmp_path / "model")), tiny_causal.encoded(20, tokenizer)
    data, sizes, given = ResidentSplit(split, 0, CPU), Sizes.of(split), {"train": split}
    found, again = (
        engine.predict(subject(model, given, settings(evaluation_batch_size=size)), data, sizes, padding_mask)
        for size in (20, 3)
    )
    assert found[:, 1:].tolist() == again[:, 1:].tolist()
    assert found[:, 0] == pytest.approx(again[:, 0], abs=1e-4)
    assert found[:, 1].tolist() == split.target_counts.tolist()
    for row, (start, end) in enumerate(itertools.pairwise(split.offsets)):
        ids = torch.from_numpy(split.input_ids[start:end]).long()
        labels = torch.where(torch.from_numpy(split.targets[start:end]), ids, IGNORED)
        logits = model(input_ids=ids[None]).logits[0, :-1]
        mean = torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=IGNORED).item()
        right = ((logits.argmax(-1) == labels[1:]) & (labels[1:] != IGNORED)).sum().item()
        assert (found[row, 0] / found[row, 1], found[row, 2]) == (pytest.approx(mean, abs=1e-5), right)


def test_batches_of_long_texts_share_few_shapes():
    """Every pair of a length and a number of targets is a graph."""
    random = np.random.default_rng(0)
    sizes = Sizes(random.integers(20, 1024, 4000), random.integers(1, 1000, 4000))
    shapes = {sizes.shape(rows) for rows in random.permutation(4000).reshape(-1, 1)}
    assert len({length for _, length, _ in shapes}) <= 40 and len({count for *_, count in shapes}) <= 32
    for rows in random.permutation(4000).reshape(-1, 8)[:50]:
        _, length, count = sizes.shape(rows)
        longest, most = sizes.lengths[rows].max(), sizes.targets[rows].max()
        assert longest <= length <= max(longest + 8, 1.125 * longest + 1)
        assert most <= count <= max(most + 8, 1.25 * most + 1)


@pytest.mark.parametrize("count", [300, 2000, 6500])
@pytest.mark.parametrize("seed", range(3))
def test_a_shape_that_few_batches_have_is_padded_to_another_that_holds_it(count, seed):
    random = np.random.default_rng(seed)
    sizes = Sizes(random.lognormal(4, 0.8, count).astype(int) + 8, random.lognormal(3, 0.8, count).astype(int) + 2)
    batches = epoch_batches(sizes.lengths, 32, seed, 0)
    own, now = [sizes.shape(rows) for rows in batches], sizes.shapes(batches)
    assert all((np.array(after) >= before).all() for before, after in zip(own, now, strict=True))
    assert [shape[0] for shape in now] == [len(rows) for rows in batches]
    assert len(set(now)) < len(set(own)) and set(now) <= set(own)
    assert all(math.prod(after) <= LARGER * math.prod(before) for before, after in zip(own, now, strict=True))
    assert all(Counter(now)[after] >= Counter(own)[before] for before, after in zip(own, now, strict=True))
    labels = Sizes(sizes.lengths, None)
    assert labels.shapes(batches) == [labels.shape(rows) for rows in batches]


def test_batches_of_much_the_same_length_share_a_few_graphs():
    random = np.random.default_rng(1)
    sizes = Sizes(random.normal(70, 12, 6500).astype(int), random.normal(25, 6, 6500).astype(int))
    batches = epoch_batches(sizes.lengths, 32, 0, 0)
    own, now = Counter(map(sizes.shape, batches)), Counter(sizes.shapes(batches))
    assert len(now) <= 0.8 * len(own)
    assert sum(count < FEW for count in now.values()) < sum(count < FEW for count in own.values())


@pytest.mark.parametrize("family", ["llama", "qwen"])
def test_lora_leaves_the_head_out_and_a_quantised_model_keeps_it(family, tmp_path):
    folder = tiny_causal.causal(tmp_path / "model", family)
    lora = built(folder, peft=LORA)
    assert not any("lm_head" in name for name, p in lora.named_parameters() if p.requires_grad)
    quantised = built(folder, peft=LORA, quantization={"load_in_4bit": True, "bnb_4bit_compute_dtype": "float32"})
    head = quantised.get_output_embeddings()
    assert type(head) is torch.nn.Linear and head.weight.dtype == torch.float32
    kinds = {type(module).__name__ for name, module in quantised.named_modules() if name.endswith("q_proj.base_layer")}
    assert kinds == {"Linear4bit"}


def test_what_is_saved_writes_with_the_cache_that_the_checkpoint_had(tmp_path):
    folder = tiny_causal.causal(tmp_path / "model")
    full = tiny.build(folder, task="sft")
    assert not full.model.config.use_cache  # while it trains
    save(full, tmp_path / "checkpoint")
    before, after = (json.loads((own / "config.json").read_text()) for own in (folder, tmp_path / "checkpoint"))
    assert before["use_cache"] is True is after["use_cache"] and not full.model.config.use_cache
    save(tiny.build(folder, task="sft", peft=LORA), tmp_path / "adapter")
    assert not (tmp_path / "adapter/config.json").exists()  # it is loaded onto the checkpoint as that stands


def test_tied_embeddings_count_once(tmp_path):
    tied, own = (tiny.build(tiny_causal.causal(tmp_path / name, name), task="sft") for name in ("qwen", "llama"))
    embeddings = own.model.get_input_embeddings().weight.numel()
    assert own.parameters.total - tied.parameters.total > embeddings / 2  # qwen has biases besides
    assert tied.parameters.trainable == sum(p.numel() for p in tied.model.parameters())
    assert (tied.parameters.head, own.parameters.head) == (0, 0)


def test_virtual_tokens_before_a_text_move_its_targets(tokenizer, tmp_path):
    """Prompt tuning puts its own before each text; the head is to look behind them."""
    prompt = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}
    model, split = built(tiny_causal.causal(tmp_path / "model"), peft=prompt), tiny_causal.encoded(4, tokenizer)
    inputs, answers = batch_of(split, np.arange(4))
    model.eval()
    whole = model(**inputs).logits[:, 3:]
    places = (answers["positions"] - 1).clamp(min=0)[..., None].expand(-1, -1, whole.shape[-1])
    expected = torch.nn.functional.cross_entropy(whole.gather(1, places).flatten(0, 1), answers["labels"].flatten())
    found = at_targets(model)
    assert found.behind == Behind()
    assert found(**answers, **inputs).loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_what_a_model_pads_with_is_trained_where_it_ends_texts(tmp_path):
    """A configuration whose pad token is eos would leave the end of a text without a gradient."""
    model = built(tiny_causal.causal(tmp_path / "model", pad_token="<|im_end|>"), pad_token_id=2)
    inputs = {"input_ids": torch.tensor([[5, 2, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    answers = {"positions": torch.tensor([[2]]), "labels": torch.tensor([[7]])}
    at_targets(model)(**answers, **inputs).loss.backward()
    assert model.get_input_embeddings().weight.grad[2].abs().sum() > 0


def test_a_resumed_run_ends_with_the_weights_and_numbers_of_an_uninterrupted_one(tokenizer, tmp_path):
    folder = tiny_causal.causal(tmp_path / "model")
    splits = {"train": tiny_causal.encoded(40, tokenizer), "test": tiny_causal.encoded(12, tokenizer, 1)}

    def fit(state: Memory) -> tuple[dict[str, torch.Tensor], engine.Result]:
        subject = Subject(built(folder, peft=LORA), Data.of(splits, 0, "sft"), settings(), 0)
        result = engine.train(subject, CPU, Phases(CPU), engine.Watch(state, Silent()))
        return {name: p.detach() for name, p in subject.parameters.items()}, result

    state = Memory(due_at=7)
    expected, straight = fit(state)
    resumed, again = fit(Memory(state.saved))
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)
    assert np.array_equal(again.logits, straight.logits) and straight.logits.shape == (12, len(OF_TEXT))
    assert straight.progress.rows[-1]["token_loss"] == straight.logits[:, 0].sum() / straight.logits[:, 1].sum()


def test_the_probe_takes_as_many_targets_as_any_text_has():
    """A text that is shorter may have more of them, and its step the larger head."""
    sizes = Sizes(np.array([500] * 8 + [400] * 8), np.array([10] * 8 + [390] * 8))
    trained = {sizes.shape(np.arange(8)), sizes.shape(np.arange(8, 16))}
    largest = sizes.largest(np.arange(8))
    assert all(one <= other for shape in trained for one, other in zip(shape, largest, strict=True))


def test_an_encoder_that_sees_what_it_is_to_predict_is_refused(tiny_bert, tmp_path, tokenizer):
    """Transformers makes a causal model of it all the same."""
    from transformers import AutoConfig, AutoModelForCausalLM

    text, context = torch.arange(5, 15), contextlib.nullcontext
    torch.manual_seed(0)
    bert = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny_bert))
    with pytest.raises(InputError, match="config key models: bert sees the tokens that it is to predict"):
        check_causal(bert, text, context)
    for family in ("llama", "gpt2"):
        check_causal(built(tiny_causal.causal(tmp_path / family, family)), text, context)


@pytest.mark.parametrize("peft", [None, {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 3}], ids=["", "prompts"])
def test_checks_of_a_long_text_take_few_of_its_logits(peft, tmp_path):
    """Of a text of 8,000 tokens and a vocabulary of 128,000 they would take more memory than training."""
    model, seen = built(tiny_causal.causal(tmp_path / "model"), peft=peft), []
    model.get_output_embeddings().register_forward_hook(lambda _, inputs, output: seen.append(output.shape[1]))
    text, context = torch.arange(5, 205), contextlib.nullcontext
    check_causal(model, text, context)
    assert seen == [64]
    expected = [model(input_ids=text[None, :9]).logits[:, -1]]
    seen.clear()
    check_padding(model, [text[:9]], 40, 0, context)
    assert choose_mask(model, text, 0, torch.float32, context) is (padding_mask if peft else no_mask)
    assert set(seen) == {1} and len(seen) >= 3
    kept = last_logits(model, torch.tensor([-32]))
    mask = padding_mask(torch.tensor([9]), 40, torch.float32)
    padded = model(input_ids=torch.nn.functional.pad(text[:9], (0, 31))[None], attention_mask=mask, **kept).logits
    torch.testing.assert_close(padded[:, 0], expected[0])


@pytest.mark.parametrize("family", ["llama", "qwen", "gpt2"])
def test_frozen_layers_are_held_as_computed_beside_a_tied_embedding(family, tmp_path):
    model = built(tiny_causal.causal(tmp_path / "model", family), peft=LORA)
    assert hold_as_computed(model, "bf16", CPU, torch.arange(20)) == "bfloat16"
    assert model.get_input_embeddings().weight.dtype == torch.float32


def test_a_head_that_is_named_is_refused(tmp_path):
    with pytest.raises(InputError, match="a causal language model has its head already"):
        built(tiny_causal.causal(tmp_path / "model"), head=["lm_head"])

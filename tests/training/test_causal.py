"""Training of causal models: the losses are TRL's, the head computes where targets are, tokens count alike."""

import contextlib
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_causal
import torch
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.tokens import Split
from peft_tradeoffs.measure.phases import Phases
from peft_tradeoffs.tasks.metrics import OF_TEXT
from peft_tradeoffs.tasks.texts import IGNORED
from peft_tradeoffs.training import engine
from peft_tradeoffs.training.batches import Data, ResidentSplit, Sizes, check_causal, epoch_batches, padding_mask
from peft_tradeoffs.training.step import EagerSteps, Settings, Subject, TrainingStep, adamw
from peft_tradeoffs.training.targets import AtTargets
from small_fits import Memory, Silent

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
    step = TrainingStep(subject, data, padding_mask, adamw(subject.parameters, own, CPU), schedule.rates)
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


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_causal.tokenizer()


def batch_of(split: Split, rows: np.ndarray) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The inputs of a batch, mask included, and its answers."""
    found = ResidentSplit(split, 0, CPU).gather(torch.from_numpy(rows), *Sizes.of(split).shape(rows)[1:])
    mask = padding_mask(found.sizes, found.inputs["input_ids"].shape[1], torch.float32)
    return {**found.inputs, "attention_mask": mask}, found.answers


@pytest.mark.parametrize("family", tiny_causal.FAMILIES)
def test_the_head_at_targets_alone_gives_what_transformers_gives(family, tokenizer, tmp_path):
    """Gemma's cap on logits too: 2, so that leaving it out would show."""
    model, split, rows = (
        built(tiny_causal.causal(tmp_path / "model", family)),
        tiny_causal.encoded(20, tokenizer),
        np.arange(7),
    )
    inputs, answers = batch_of(split, rows)
    labels = torch.full_like(inputs["input_ids"], IGNORED)
    for row, (places, tokens) in enumerate(zip(answers["positions"], answers["labels"], strict=True)):
        kept = tokens != IGNORED
        labels[row, places[kept]] = tokens[kept]
    expected = model(**inputs, labels=labels)
    found = AtTargets(model)(**answers, **inputs)
    assert found.logits.shape[1] < inputs["input_ids"].shape[1]
    assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-6)
    before = expected.logits.gather(1, (answers["positions"] - 1).clamp(min=0)[..., None].expand(found.logits.shape))
    torch.testing.assert_close(found.logits, before)
    assert model(**inputs).logits.shape == expected.logits.shape  # a plain call stays what it was


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
        AtTargets(model)(**{key: value[part] for key, value in (inputs | answers).items()}).loss.item()
        for part in np.array_split(np.arange(16), 3)
    ]
    assert abs(np.mean(means) - AtTargets(model)(**answers, **inputs).loss.item()) > 1e-4


def test_an_evaluation_gives_each_texts_sums_whatever_its_batches(tokenizer, tmp_path):
    model, split = built(tiny_causal.causal(tmp_path / "model")), tiny_causal.encoded(20, tokenizer)
    data, sizes = ResidentSplit(split, 0, CPU), Sizes.of(split)
    forward = AtTargets(model)
    found = engine.predict(forward, data, sizes, padding_mask, settings(evaluation_batch_size=20))
    again = engine.predict(forward, data, sizes, padding_mask, settings(evaluation_batch_size=3))
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
    found = AtTargets(model).logits(answers["positions"], **inputs)
    whole = model(**inputs).logits[:, 3:]
    places = (answers["positions"] - 1).clamp(min=0)[..., None].expand(found.shape)
    torch.testing.assert_close(found, whole.gather(1, places))


def test_what_a_model_pads_with_is_trained_where_it_ends_texts(tmp_path):
    """A configuration whose pad token is eos would leave the end of a text without a gradient."""
    model = built(tiny_causal.causal(tmp_path / "model", pad_token="<|im_end|>"), pad_token_id=2)
    inputs = {"input_ids": torch.tensor([[5, 2, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    answers = {"positions": torch.tensor([[2]]), "labels": torch.tensor([[7]])}
    AtTargets(model)(**answers, **inputs).loss.backward()
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


def test_a_head_that_is_named_is_refused(tmp_path):
    with pytest.raises(InputError, match="a causal language model has its head already"):
        built(tiny_causal.causal(tmp_path / "model"), head=["lm_head"])

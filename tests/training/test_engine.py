"""Batches, schedule, accumulation, early stopping and the metrics."""

import copy
import dataclasses
import random
from typing import Any

import numpy as np
import pytest
import torch
from peft_tradeoffs.core.quantities import Missing
from peft_tradeoffs.measure.devices import Phases, step_percentiles
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.training import engine, summary
from peft_tradeoffs.training.batches import (
    ResidentSplit,
    Sizes,
    epoch_batches,
    longest_rows,
    padded_length,
    padding_mask,
)
from peft_tradeoffs.training.step import (
    CaptureError,
    Randomness,
    TrainingStep,
)
from peft_tradeoffs.training.updates import Updates
from small_fits import CPU, SETTINGS, Bag, Memory, Silent, fit, split, subject
from torch import nn

PROBE_PASSES = 3  # forward passes of the probe on a CPU


def test_batches_hold_every_text_once_and_like_lengths_together():
    lengths = np.random.default_rng(0).integers(1, 100, 1003)
    batches = epoch_batches(lengths, 16, seed=1, epoch=0)
    assert sorted(np.concatenate(batches)) == list(range(1003))
    assert sorted(map(len, batches)) == [11] + [16] * 62
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert padded < 1.15 * lengths.sum()
    same, epoch, seed = (epoch_batches(lengths, 16, s, e) for s, e in ((1, 0), (1, 1), (2, 0)))
    assert all(np.array_equal(a, b) for a, b in zip(batches, same, strict=True))
    for other in (epoch, seed):
        assert not all(np.array_equal(a, b) for a, b in zip(batches, other, strict=True))


def test_a_gathered_batch_is_padded_to_a_multiple_of_eight_on_the_right():
    data = split(4)
    rows = np.array([2, 0])
    length = padded_length(data.lengths[rows])
    batch = ResidentSplit(data, 29, CPU).gather(torch.from_numpy(rows), length)
    inputs, lengths, labels = batch.inputs, batch.sizes, batch.answers["labels"]
    assert length == -(-max(data.lengths[rows]) // 8) * 8 == inputs["input_ids"].shape[1]
    assert (
        lengths.tolist() == padding_mask(lengths, length, torch.float32).sum(1).tolist() == data.lengths[rows].tolist()
    )
    assert labels.tolist() == data.labels[rows].tolist()
    for row, index in enumerate(rows):
        tokens = data.input_ids[data.offsets[index] : data.offsets[index + 1]].tolist()
        assert inputs["input_ids"][row].tolist() == tokens + [29] * (length - len(tokens))


def test_taken_texts_are_the_same_texts_in_the_new_order():
    data = split(9)
    rows = longest_rows(data.lengths, 4)
    assert sorted(data.lengths[rows]) == sorted(data.lengths)[-4:]
    taken = data.take(rows)
    for row, index in enumerate(rows):
        given = data.input_ids[data.offsets[index] : data.offsets[index + 1]]
        assert taken.input_ids[taken.offsets[row] : taken.offsets[row + 1]].tolist() == given.tolist()
    assert taken.labels.tolist() == data.labels[rows].tolist()


def test_accumulation_gives_the_gradient_of_the_whole_batch():
    whole, parts = fit()[0], fit(gradient_accumulation_steps=4)[0]
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], weight, rtol=1e-4, atol=1e-5)


def test_the_step_is_that_of_torch_written_out():
    """One step against AdamW, clipping and mean loss as PyTorch's documentation has them."""
    data = {"train": split(8), "test": split(4)}
    trained = fit(splits=data, epochs=1, warmup_ratio=0.0)[0]
    model = Bag()
    matrices, vectors = [model.embedding.weight, model.linear.weight], [model.linear.bias]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, fused=True)
    rows = epoch_batches(data["train"].lengths, 8, 7, 0)[0]
    length = padded_length(data["train"].lengths[rows])
    batch = ResidentSplit(data["train"], 0, CPU).gather(torch.from_numpy(rows), length)
    mask = padding_mask(batch.sizes, length, torch.float32)
    model(**batch.inputs, attention_mask=mask, **batch.answers).loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    for name, weight in model.state_dict().items():
        assert torch.equal(trained.state_dict()[name], weight)


@pytest.mark.parametrize("stop", [1, 6, 7, 13])
def test_resume_from_any_step_gives_the_same_weights_and_curve(stop):
    every = Memory(every=True)
    expected, straight = fit(every)
    resumed, again = fit(Memory(every.history[stop - 1]))
    assert every.history[stop - 1]["progress"]["step"] == stop
    for name, weight in expected.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], weight)
    saved = every.history[stop - 1]["progress"]["phases"]
    peaks = again.progress.phases["peaks"]
    assert peaks["probe_peak_rss_MiB"] == saved["peaks"]["probe_peak_rss_MiB"]  # the loaded state is not in it
    assert again.progress.phases["seconds"]["probe"] == saved["seconds"]["probe"]
    assert again.progress.phases["seconds"]["state"] > saved["seconds"]["state"] > 0
    assert len(again.progress.step_s) == len(straight.progress.step_s) == again.progress.step
    strip = [{k: v for k, v in row.items() if k != "train_s"} for row in straight.progress.rows]
    assert [{k: v for k, v in row.items() if k != "train_s"} for row in again.progress.rows] == strip
    assert np.array_equal(straight.logits, again.logits)


class Counts:
    """A meter that notes how many optimizer steps each stretch of training had."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.stretches, self._passes = model, [], 0
        model.register_forward_hook(lambda *_: self._passed())

    def _passed(self) -> None:
        self._passes += self.model.training

    def start(self) -> None:
        self._passes = 0

    def stop(self) -> None:
        self.stretches.append(self._passes)

    def totals(self) -> dict:
        return {}

    def restore(self, totals: dict) -> None: ...


@pytest.mark.parametrize("saving", [False, True])
def test_every_stretch_of_training_has_steps(saving):
    """Clocks, energy and other processes are read at its end."""
    model = Bag()
    counts = Counts(model)
    data = {"train": split(50), "test": split(11, seed=1)}
    phases = Phases(CPU, meters={"train": {"counts": counts}})
    engine.train(subject(model, data), CPU, phases, engine.Watch(Memory(every=saving), Silent()))
    assert counts.stretches == ([1] * 3 * 7 if saving else [7, 7, 7])


def prepared(model: nn.Module, state: Memory) -> engine.Loop:
    phases, taught = Phases(CPU), subject(model, {"train": split(50), "test": split(11, seed=1)})
    start = engine.begin(taught, CPU, phases, state.load)
    return engine.Loop(engine.Prepared.of(taught, start, CPU, phases), engine.Watch(state, Silent()))


class Heard(Silent):
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.evaluations: list[dict] = []
        self.points: list[dict] = []

    def losses(self, row: dict) -> None:
        self.points.append(row)

    def evaluation(self, rows: list[dict]) -> None:
        self.evaluations += rows


@pytest.mark.parametrize("saving", [False, True])
def test_losses_are_reported_where_they_are_read_and_evaluations_as_they_are_recorded(saving):
    heard = Heard()
    data = {"train": split(50), "validation": split(8, seed=2), "test": split(11, seed=1)}
    watch = engine.Watch(Memory(every=saving), heard)
    result = engine.train(subject(Bag(), data), CPU, Phases(CPU), watch)
    assert heard.evaluations == result.progress.rows and len(heard.evaluations) == 3 * 2
    assert [row["step"] for row in heard.points] == ([*range(1, 22)] if saving else [7, 14, 21])
    for row in heard.evaluations:  # a mean of means over as many steps each
        within = [one for one in heard.points if row["step"] - 7 < one["step"] <= row["step"]]
        assert np.mean([one["recent_train_loss"] for one in within]) == pytest.approx(row["train_loss"])
        assert {key: within[-1][key] for key in ("epoch", "learning_rate")}.items() <= row.items()


def test_the_loop_goes_a_step_at_a_time_and_on_from_any_snapshot():
    model, other = Bag(), Bag()
    loop = prepared(model, Memory())
    loop.resume()
    events, snapshots = [], []
    while not loop.ended:
        events.append(loop.advance().name)
        snapshots.append(copy.deepcopy(loop.snapshot()))
        assert (loop.result().logits is None) is (not loop.ended)
    assert events == 2 * ([*["STEPPED"] * 7, "EVALUATED"]) + [*["STEPPED"] * 7, "FINISHED"]
    for place in (3, 6, 7):  # in the first epoch; before its evaluation; after it
        again = prepared(other, Memory(snapshots[place]))
        again.resume()
        following = []
        while not again.ended:
            following.append(again.advance().name)
        assert following == events[place + 1 :]
        assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in other.state_dict().items())
        assert curve(again.result()) == curve(loop.result())


def curve(result: engine.Result) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "train_s"} for row in result.progress.rows]


def test_a_run_leaves_the_generators_as_it_found_them():
    def draw() -> list[float]:
        return [float(torch.rand(1)), float(np.random.rand()), random.random()]

    with Randomness.kept(CPU):
        expected = draw()
    with pytest.raises(KeyError), Randomness.kept(CPU):
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        assert draw() != expected
        raise KeyError
    assert draw() == expected


@pytest.mark.parametrize("parts", [1, 3])
def test_parts_count_by_their_weight_and_a_single_one_is_left_alone(monkeypatch, parts):
    """As tokens will weigh, which are counted on the device."""
    data, model = split(8), Bag()
    settings = dataclasses.replace(SETTINGS, gradient_accumulation_steps=parts)
    resident, counts = ResidentSplit(data, 0, CPU), torch.from_numpy(data.lengths)
    taught = subject(model, {"train": data}, settings)
    step = TrainingStep(taught, resident, padding_mask, Updates(taught.parameters, settings, CPU), [0.0])
    step.begin([np.arange(8)], 0, 0)
    monkeypatch.setattr(step, "_weight", lambda rows: counts[rows].sum() if parts > 1 else 1 / torch.zeros(1))
    pieces = torch.tensor_split(torch.arange(8), parts)
    losses = [step.forward(piece, 24)[0] for piece in pieces]
    shares = [float(counts[piece].sum() / counts.sum()) for piece in pieces]
    whole = sum(loss * share for loss, share in zip(losses, shares, strict=True)) if parts > 1 else losses[0]
    expected = torch.autograd.grad(whole, list(model.parameters()))
    torch.testing.assert_close(step.backward(8, 24), whole.detach())
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_max_steps_ends_in_mid_epoch_with_an_evaluation():
    result = fit(max_steps=9)[1]
    assert result.progress.step == 9
    assert [row["step"] for row in result.progress.rows] == [7, 9]
    assert result.progress.rows[-1]["epoch"] == pytest.approx(9 / 7)
    assert result.progress.samples == 50 + 2 * 8


def test_the_result_is_that_of_the_last_step_not_of_the_best_epoch():
    data = {"train": split(50), "test": split(11, seed=1)}
    model, result = fit(splits=data, learning_rate=3.0, epochs=6)
    test = data["test"]
    logits = engine.predict(subject(model, data), ResidentSplit(test, 0, CPU), Sizes.of(test), padding_mask)
    assert np.array_equal(result.logits, logits)
    assert result.progress.rows[-1]["step"] == result.progress.step == 42


def test_early_stopping_watches_validation_and_ends_the_run():
    contrary = split(20, seed=2)
    data = {
        "train": split(50),
        "validation": dataclasses.replace(contrary, labels=1 - contrary.labels),
        "test": split(11, seed=1),
    }
    stopping = {"patience": 2, "min_delta": 0.0}
    result = fit(splits=data, epochs=20, early_stopping=stopping)[1]
    values = [row["accuracy"] for row in result.progress.rows if row["split"] == "validation"]
    best = int(np.argmax(values))
    assert result.progress.stopped
    assert len(values) == best + 1 + 2 < 20
    assert [row["split"] for row in result.progress.rows[:2]] == ["validation", "test"]


@pytest.mark.parametrize("stopping", [None, {"patience": 2, "min_delta": 0.0}])
def test_the_heldout_split_is_evaluated_after_the_last_step_alone(stopping):
    contrary, heldout = split(20, seed=2), split(30, seed=3)
    data = {
        "train": split(50),
        "validation": dataclasses.replace(contrary, labels=1 - contrary.labels),
        "test": split(11, seed=1),
    }
    changes = {"epochs": 20 if stopping else 3, "early_stopping": stopping}
    model, result = fit(splits={**data, "heldout": heldout}, **changes)
    other, without = fit(splits=data, **changes)
    assert result.progress.stopped is bool(stopping)
    for name, weight in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
    *before, row = result.progress.rows
    keys = ("split", "step", "accuracy", "train_loss")
    assert [[row[key] for key in keys] for row in before] == [
        [row[key] for key in keys] for row in without.progress.rows
    ]
    logits = engine.predict(subject(model, data), ResidentSplit(heldout, 0, CPU), Sizes.of(heldout), padding_mask)
    assert np.array_equal(result.heldout_logits, logits) and without.heldout_logits is None
    accuracy = float((logits.argmax(axis=1) == heldout.labels).mean())
    assert (row["split"], row["step"], row["accuracy"]) == ("heldout", result.progress.step, accuracy)


def test_a_heldout_split_with_logits_that_are_not_finite_is_divergence():
    class Breaks(Bag):
        def forward(self, labels=None, **inputs):
            output = super().forward(labels=labels, **inputs)
            if (inputs["input_ids"] == 29).any():
                output.logits = output.logits * torch.nan
            return output

    strange = split(12, seed=3)
    strange.input_ids[0] = 29
    result = fit(model=Breaks(), splits={"train": split(50), "test": split(11, seed=1), "heldout": strange})[1]
    assert (result.diverged_step, result.logits, result.heldout_logits) == (21, None, None)
    assert [row["step"] for row in result.progress.rows] == [7, 14]


def test_a_loss_that_is_not_finite_ends_the_run_and_names_its_step():
    class Breaks(Bag):
        steps = 0

        def forward(self, labels=None, **inputs):
            output = super().forward(labels=labels, **inputs)
            if self.training and labels is not None:
                self.steps += 1
            if self.steps > PROBE_PASSES + 9:  # in the second epoch of seven steps
                output.loss = output.loss * torch.nan
            return output

    result = fit(model=Breaks())[1]
    assert result.diverged_step == 10
    assert result.logits is None
    assert [row["step"] for row in result.progress.rows] == [7]


def test_weights_that_break_in_the_last_step_are_divergence():
    class Breaks(Bag):
        def forward(self, labels=None, **inputs):
            output = super().forward(labels=labels, **inputs)
            if not self.training:
                output.logits = output.logits * torch.nan
            return output

    result = fit(model=Breaks(), max_steps=5)[1]
    assert (result.diverged_step, result.logits, result.progress.rows) == (5, None, [])


def test_the_probe_changes_nothing_and_counts_what_is_saved_for_backward():
    model = Bag()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    result = fit(model=model, max_steps=1, learning_rate=1e-30)[1]
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=1e-6)
    lengths = np.sort(split(50).lengths)[-8:]
    padded = padded_length(lengths)
    tokens, mask, sizes, pooled, log_softmax, labels, rows = 8 * padded * 8, 8 * padded * 8, 64, 192, 64, 64, 4
    assert result.probe.activations_MiB * 2**20 == tokens + mask + sizes + pooled + log_softmax + labels + rows
    assert result.probe.step_s == []


class CapturesTwice:
    """Captured steps, as far as a CPU can be asked for them: the third epoch's lengths are refused."""

    name = "captured"
    capture_s, compile_s = 1.5, 0.0

    def __init__(self, step: TrainingStep, *_: Any) -> None:
        self._step, self._prepared = step, 0

    def prepare(self, shapes: list[tuple[int, int]], stop: Any) -> None:
        self._prepared += 1
        if self._prepared == 3:
            raise CaptureError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def __call__(self, shape: tuple[int, int]) -> None:
        self._step(*shape)


def test_a_run_that_falls_back_on_its_way_has_no_rates_of_two_engines(monkeypatch):
    monkeypatch.setattr(engine, "CapturedSteps", CapturesTwice)
    _, mixed = fit(engine="captured", epochs=8)
    monkeypatch.undo()
    _, eager = fit(epochs=8)
    progress = mixed.progress
    assert (mixed.engine, progress.captured_steps) == ("eager", 2 * progress.step // 8)
    assert progress.engine_reason == "capture failed: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert summary._training(mixed)["capture_s"] == 1.5
    missing = Missing("steps of two engines: 14 captured, the others eager")
    assert summary._of_two_engines(progress) == dict.fromkeys(summary.OF_ONE_ENGINE, missing)
    assert summary._of_two_engines(eager.progress) == {}


def test_compilation_is_the_seeds_that_paid_it():
    progress = engine.Progress(compile_s=61.0)
    assert summary._compiling(progress, True, compiled_before=False) == 61.0
    assert not summary._compiling(progress, True, compiled_before=True)
    assert summary._compiling(engine.Progress(), False, False) == Missing("compile was off")


def test_percentiles_leave_out_the_first_steps_and_want_enough():
    steps = [9.0] * 20 + [0.001 * i for i in range(1, 102)]
    found = step_percentiles(steps)
    assert found["step_p50_ms"] == pytest.approx(51) and found["step_p99_ms"] == pytest.approx(100)
    (few,) = set(step_percentiles(steps[:39]).values())
    assert "39 steps" in few.reason


def test_peaks_of_one_phase_do_not_show_in_another():
    phases = Phases(CPU)
    phases.switch("load")
    held = np.ones(50 * 2**20, np.uint8)
    phases.switch("train")
    more = np.ones(200 * 2**20, np.uint8)
    del more
    phases.switch("evaluate")
    phases.switch(None)
    peaks = phases.summary()
    assert 190 < peaks["train_peak_rss_MiB"] - peaks["evaluate_peak_rss_MiB"] < 230, held.size
    assert 190 < peaks["train_peak_rss_MiB"] - peaks["load_peak_rss_MiB"] < 230
    assert peaks["save_peak_rss_MiB"] == Missing("not reached")
    assert peaks["train_peak_allocated_MiB"] == Missing("the run was on a CPU")


def test_classification_metrics_by_hand():
    logits = np.array([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 3.0]], np.float32)
    found = metrics.evaluate(logits, np.array([0, 1, 1, 1]), "classification")
    assert found["accuracy"] == 0.75
    assert found["f1"] == pytest.approx(2 * 1 * (2 / 3) / (1 + 2 / 3))
    assert found["mcc"] == pytest.approx((1 * 2 - 0 * 1) / np.sqrt(2 * 3 * 1 * 2))
    losses = [np.log(1 + np.exp(-gap)) for gap in (2, 1, -1, 3)]
    assert found["loss"] == pytest.approx(np.mean(losses))
    assert found["pearson"] is None


@pytest.mark.parametrize("classes", [2, 5])
def test_classification_metrics_are_scikit_learns(classes):
    from sklearn import metrics as expected

    random = np.random.default_rng(classes)
    for rows, kinds in ((200, classes), (9, classes), (5, 1)):  # 1: a constant label, other classes absent
        labels, logits = random.integers(0, kinds, rows), random.normal(size=(rows, classes)).astype(np.float32)
        predicted = logits.argmax(axis=1)
        found = metrics.evaluate(logits, labels, "classification")
        average = "binary" if classes == 2 else "macro"
        assert found["accuracy"] == expected.accuracy_score(labels, predicted)
        assert found["f1"] == pytest.approx(expected.f1_score(labels, predicted, average=average, zero_division=0))
        assert found["mcc"] == pytest.approx(expected.matthews_corrcoef(labels, predicted))
        probabilities = np.exp(logits.astype(float))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        assert found["loss"] == pytest.approx(expected.log_loss(labels, probabilities, labels=range(classes)))


def test_regression_metrics_and_a_constant_prediction():
    labels = np.array([0.0, 1.0, 3.0], np.float32)
    found = metrics.evaluate(np.array([[1.0], [2.0], [2.5]], np.float32), labels, "regression")
    assert found["loss"] == pytest.approx((1 + 1 + 0.25) / 3)
    assert found["spearman"] == pytest.approx(1.0)
    assert found["pearson"] == pytest.approx(np.corrcoef([1, 2, 2.5], labels)[0, 1])
    constant = metrics.evaluate(np.ones((3, 1), np.float32), labels, "regression")
    assert constant["pearson"] is None and constant["loss"] > 0

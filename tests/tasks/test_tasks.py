"""What every task promises: predictions that read back as they were written, errors in a line, code that parses."""

import ast
import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft_tradeoffs.core.errors import Faults, InputError
from peft_tradeoffs.tasks.classes import Column
from peft_tradeoffs.tasks.metrics import Scored
from peft_tradeoffs.tasks.outputs import STATISTICS
from peft_tradeoffs.tasks.task import DEFAULT, TASKS

CLASSES, NUMBERS = TASKS["classification"], TASKS["regression"]
LOGITS = {
    "classification": np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32),
    "regression": np.random.default_rng(1).normal(size=(7, 1)) * 1e9 + 1 / 3,
    **dict.fromkeys(("sft", "lm"), np.column_stack([np.arange(1, 8) / 3, np.arange(1.0, 8), np.arange(7.0)])),
}
TARGETS = {
    "classification": np.array([0, 1, 2, 0, 1, 2, 0]),
    "regression": np.arange(7) / 3,
    **dict.fromkeys(("sft", "lm"), np.arange(1.0, 8)),
}


WRITTEN = np.arange(7.0 * len(STATISTICS)).reshape(7, -1)


def predictions(name: str) -> Scored:
    return TASKS[name].predicted(np.arange(7) * 10, TARGETS[name], LOGITS[name])


def columns(path: Path, **changes: list[float]) -> dict[str, np.ndarray]:
    """A predictions file's columns, some of them replaced."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    return found | {name: np.array(values) for name, values in changes.items()}


@pytest.mark.parametrize("name", TASKS)
def test_predictions_read_back_bit_by_bit(name, tmp_path):
    task, path = TASKS[name], tmp_path / "p.csv"
    expected = predictions(name)
    task.write(path, expected)
    found = task.read(path, columns(path), 7)
    assert set(task.columns) <= set(columns(path))
    for field in ("target", "prediction", "rows"):
        assert np.array_equal(getattr(found, field), getattr(expected, field)), field
    assert np.array_equal(found.logits.astype(expected.logits.dtype), expected.logits)
    assert (found.classes, found.target.dtype) == (expected.classes, TARGETS[name].dtype)


@pytest.mark.parametrize(
    ("name", "changes", "count", "message"),
    [
        ("classification", {}, 8, r"p\.csv: 7 rows, but the run's summary says 8; "),
        ("classification", {"prediction": [0, 1, 2, 0, 1, 2, 3]}, 7, r"line 8: .* none of 3 classes"),
        ("classification", {"label": [0, 1, 0.5, 0, 1, 2, 0]}, 7, r"line 4: .* none of 3 classes"),
        ("classification", {"logit_1": [9e9] * 7}, 7, r"line \d: a prediction that its logits contradict"),
        ("regression", {"prediction": [1.0] * 7}, 7, r"line 2: a prediction that its logits contradict"),
        ("regression", {"label": [0, np.nan, 1, 1, 1, np.inf, 1]}, 7, r"2 rows .* not finite, the first in line 3"),
        ("regression", {"logit_0": ["x"] * 7}, 7, r"not a run's predictions \(could not convert string to float"),
    ],
)
def test_a_file_that_cannot_be_is_refused(name, changes, count, message, tmp_path):
    path = tmp_path / "p.csv"
    TASKS[name].write(path, predictions(name))
    with pytest.raises(InputError, match=message):
        TASKS[name].read(path, columns(path, **changes), count)


def test_a_column_that_is_missing_is_named(tmp_path):
    path = tmp_path / "p.csv"
    CLASSES.write(path, predictions("classification"))
    left = {name: values for name, values in columns(path).items() if name != "label"}
    with pytest.raises(InputError, match=r"no column 'label'"):
        CLASSES.read(path, left, 7)


@pytest.mark.parametrize("name", TASKS)
def test_scores_have_every_metric_and_those_of_the_task_alone_have_values(name):
    found = TASKS[name].evaluate(replace(predictions(name), written=WRITTEN))
    assert next(iter(found)) == "loss" and set(TASKS[name].metrics) < set(found)
    assert {key for key, value in found.items() if value is not None} == {"loss", *TASKS[name].metrics}


def test_the_default_is_a_task_and_names_are_their_own():
    assert DEFAULT in TASKS and all(name == task.name for name, task in TASKS.items())


def test_classes_are_strata_and_numbers_are_drawn_at_random():
    labels = np.array([1, 0, 1])
    assert np.array_equal(CLASSES.strata(labels), labels)
    assert np.array_equal(NUMBERS.strata(labels / 2), [0, 0, 0])
    assert CLASSES.counts(labels, ["a", "b", "c"]) == {"a": 1, "b": 2, "c": 0}
    assert NUMBERS.counts(labels / 2, None) is None
    assert (CLASSES.outputs(["a", "b", "c"]), NUMBERS.outputs(None)) == (3, 1)


def test_numbers_are_learned_in_standard_deviations_and_read_in_their_own_unit():
    labels = np.array([1e6, 2e6, 4e6])
    scale = NUMBERS.scale(labels)
    assert CLASSES.scale(labels) is None and scale is not None
    scaled = scale.scaled(labels)
    assert scaled.dtype == np.float32 and abs(scaled.mean()) < 1e-6 and scaled.std() == pytest.approx(1)
    assert scale.own_units(scaled[:, None])[:, 0] == pytest.approx(labels)
    perfect = NUMBERS.predicted(np.arange(3), labels, labels[:, None])
    assert (NUMBERS.spread(perfect), CLASSES.spread(predictions("classification"))) == (1, None)


def test_faults_of_numbers_have_their_places():
    faults = Faults("a.tsv", "line")
    names, labels = NUMBERS.read_labels("score", {"train": Column("a.tsv", ["1", "x", "2,5"], [2, 3, 4], faults)}, [])
    assert names is None and labels["train"][0] == 1
    assert faults.texts() == [
        "a.tsv, line 3: 'score' is 'x', not a number; correct it, or set `task: classification`",
        "a.tsv, line 4: 'score' is '2,5', not a number; write decimals with a point, and nothing between thousands",
    ]


@pytest.mark.parametrize(
    ("name", "prediction", "names", "said"),
    [
        ("classification", "1", ["ham", "spam"], "'spam'"),
        ("classification", "1", None, "class 1"),
        ("classification", "7", ["ham", "spam"], "one and the same class"),
        ("classification", None, ["ham", "spam"], "one and the same class"),
        ("regression", "0.25", None, "nearly the same value"),
        ("regression", None, None, "nearly the same value"),
    ],
)
def test_a_constant_answer_in_words(name, prediction, names, said):
    assert TASKS[name].answer(prediction, names) == said


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("targets", [None, {"mean": 1.0, "sd": 2.0, "in_weights": False}])
def test_what_a_card_shows_is_python(name, targets):
    lines, options = TASKS[name].head_options(["a", 'b"'])
    ast.parse("\n".join([*lines, f"model = load({', '.join(options)})", *TASKS[name].usage('"a text"', targets)]))


def test_classes_are_right_or_wrong_and_numbers_neither():
    found = predictions("classification")
    assert np.array_equal(CLASSES.right(found), LOGITS["classification"].argmax(axis=1) == TARGETS["classification"])
    assert NUMBERS.right(predictions("regression")) is None


class Output:
    loss = object()


@pytest.mark.parametrize("name", TASKS)
def test_a_loss_is_the_models_mean_over_rows_or_their_target_tokens(name):
    assert TASKS[name].loss(Output()) is Output.loss
    counts = torch.tensor([5, 1, 2, 7, 4])
    expected = 2 if TASKS[name].reader is None else 1 + 4
    assert TASKS[name].weight(counts, torch.tensor([1, 4])) == expected

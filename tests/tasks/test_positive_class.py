"""Of which class F1 is: chosen by a key, the same everywhere, and named wherever the number stands."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
import tiny
from peft_tradeoffs.analysis import comparison_text, readable, tables
from peft_tradeoffs.analysis.comparison import read_comparison
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.data_files import Table
from peft_tradeoffs.inputs.splits import Split
from peft_tradeoffs.tasks import metrics, shown
from peft_tradeoffs.tasks.metrics import METRICS, Answers
from peft_tradeoffs.tasks.shown import metric_words
from peft_tradeoffs.tasks.task import TASKS
from synthetic_predictions import ROWS, compared

LABELS = ["anomaly", "normal", "normal", "normal"] * 5


def table(labels: list[Any], rows: int = 0) -> Table:
    texts = [f"text {rows + i}" for i in range(len(labels))]
    return Table("a.tsv", {"text": texts, "label": labels}, range(2, len(labels) + 2), "line")


def made(labels: list[Any], positive: Any, **settings: Any) -> tuple[dict[str, Split], list[str]]:
    tables_ = {"train": table(labels), "test": table(labels, 100)}
    splits, names = tiny.splits(tables_, **settings)
    block = {} if positive is None else {"positive_class": positive}
    names, labels = TASKS["classification"].arrange("datasets.d", block, names, {s: splits[s].labels for s in splits})
    return {name: dataclasses.replace(split, labels=labels[name]) for name, split in splits.items()}, names


def test_the_positive_class_is_the_second_and_the_rows_stay():
    plain, names = made(LABELS, None, limit={"train": 9})
    chosen, turned = made(LABELS, "anomaly", limit={"train": 9})
    assert (names, turned) == (["anomaly", "normal"], ["normal", "anomaly"])
    for split in ("train", "test"):
        assert np.array_equal(chosen[split].rows, plain[split].rows) and chosen[split].texts == plain[split].texts
        assert [turned[i] for i in chosen[split].labels] == [names[i] for i in plain[split].labels]
    same, kept = made(LABELS, "normal")
    assert kept == names and np.array_equal(same["test"].labels, made(LABELS, None)[0]["test"].labels)


def test_f1_and_its_jackknife_are_of_that_class():
    splits, _ = made(LABELS, "anomaly")
    labels = splits["test"].labels
    never = np.zeros(len(labels), int)
    logits = np.eye(2, dtype=np.float32)[never]
    assert metrics.evaluate(logits, labels, "classification")["f1"] == METRICS["f1"].of(Answers(labels, never, 2)) == 0
    plain = made(LABELS, None)[0]["test"].labels
    assert metrics.evaluate(logits[:, ::-1], plain, "classification")["f1"] == pytest.approx(6 / 7)


@pytest.mark.parametrize(
    ("labels", "positive", "first"),
    [
        ([0, 1], 0, "1"),
        ([0.0, 1.0], 0, "1"),
        (["0", "1"], 0.0, "1"),
        ([0, 1], "0", "1"),
        ([True, False], False, "True"),
        ([True, False], "false", "True"),
        (["true", "false"], False, "true"),
        (["no", "yes"], "no", "yes"),
        (["café", "tea"], "cafe\u0301", "tea"),
        ([" a ", "b"], "a ", "b"),
        (["1", "1e0x"], 1, "1e0x"),
        (["neg\u200b", "pos"], "neg", "pos"),
    ],
)
def test_what_yaml_makes_of_a_name_finds_its_class(labels, positive, first):
    _, names = made(labels * 3, positive)
    assert names[0] == first


@pytest.mark.parametrize(
    ("labels", "positive", "message"),
    [
        (["no", "yes"], True, r"True is no class .* 'no', 'yes'; YAML reads yes, on and true as a boolean: .* quotes"),
        (["neg", "pos"], "positive", r"'positive' is no class of the data; the classes are 'neg', 'pos'$"),
        (["neg", "pos"], "", r"'' is no class"),
        ([0, 1], True, r"True is no class of the data; the classes are '0', '1'"),
        (["a", "b", "c"], "a", r"3 classes \('a', 'b', 'c'\), of which F1 is the macro average"),
    ],
)
def test_a_name_that_is_no_class_lists_the_classes(labels, positive, message):
    with pytest.raises(InputError, match=rf"^config key datasets\.d\.positive_class: .*{message}"):
        made(labels * 3, positive)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"task": "regression", "positive_class": "a"}, "a regression has no classes; remove the key"),
        ({"positive_class": None}, "positive_class: nothing stands there; must be a text, a number or true or false"),
        ({"positive_class": ["a"]}, "positive_class: .* has the wrong type"),
    ],
)
def test_what_cannot_be_a_positive_class_is_refused_at_plan_time(block, message, tmp_path):
    settings = tiny.config(tmp_path)
    settings["datasets"]["reviews"] |= block
    with pytest.raises(InputError, match=rf"^config key datasets\.reviews\..*{message}"):
        resolve(settings)


@pytest.mark.parametrize(("packages", "message"), [(["a", "b"], "'c' is no class"), (["a", "b", "c"], "3 classes")])
def test_docstrings_name_their_classes_at_plan_time(packages, message, tmp_path):
    block = {"source": "docstrings", "packages": packages, "fractions": {"test": 0.2}, "positive_class": "c"}
    with pytest.raises(InputError, match=rf"^config key datasets\.d\.positive_class: .*{message}"):
        resolve(tiny.config(tmp_path, datasets={"d": block}))


def test_names_that_readers_see():
    assert shown.metric_label({"metric": "accuracy", "positive_class": "a"}) == "Accuracy, %"
    assert shown.metric_label({"metric": "f1", "positive_class": "a, b"}) == "F1 of 'a, b'"
    assert shown.heldout_label({"metric": "f1", "positive_class": None}) == "macro F1 (heldout)"
    assert shown.metric_name({"metric": "f1", "positive_class": float("nan")}) == "macro F1"
    assert shown.metric_name({"metric": "f1"}) == "F1"
    assert shown.metric_name({"metric": "f1", "positive_class": "x\n" * 90}).endswith("…'")
    of_labels = TASKS["classification"].positive_class
    assert (of_labels(["a", "b"]), of_labels(["a", "b", "c"])) == ("b", None)
    assert TASKS["regression"].positive_class(None) is None


def f1_runs(positive: str | None) -> list[dict[str, Any]]:
    changes = {"metric": "f1", "positive_class": positive, "metric_value": 0.5}
    arms = synthetic.grid(["full", "lora"], [4])
    return [synthetic.summary(method, rank, seed, **changes) for method, rank in arms for seed in range(3)]


@pytest.mark.parametrize(("positive", "name"), [("1", "F1 of '1'"), (None, "macro F1")])
def test_tables_name_it_and_read_it_back_as_text(positive, name, tmp_path):
    runs = tables.runs_frame(f1_runs(positive))
    runs.to_csv(tmp_path / "runs.csv", index=False)
    back = tables.read_runs(tmp_path / "runs.csv")
    assert shown.metric_name(shown.metric_of(back)) == name
    for frame in (readable.runs_readable(runs), readable.arms_readable(tables.arms_frame(runs))):
        assert name in frame.columns


def test_runs_whose_f1_is_of_different_classes_are_not_put_in_one_table():
    runs = f1_runs("a")
    runs[-1] |= {"positive_class": "b"}
    with pytest.raises(InputError, match=r"report different metrics \(F1 of 'a', F1 of 'b'\)"):
        tables.runs_frame(runs)
    tables.runs_frame([run | {"metric": "accuracy"} for run in runs])


def test_comparison_and_verdict_name_it(tmp_path: Path):
    labels = np.arange(ROWS) % 2
    random = np.random.default_rng(0)
    runs = []
    for arm in (("full", None), ("lora", 4)):
        for seed in range(3):
            predicted = np.where(random.random(ROWS) < 0.8, labels, 1 - labels)
            changes = {
                "metric": "f1",
                "positive_class": "anomaly",
                "metric_value": METRICS["f1"].of(Answers(labels, predicted, 2)),
            }
            columns = {"row": np.arange(ROWS), "label": labels, "prediction": predicted}
            runs.append((synthetic.summary(*arm, seed, test_rows=ROWS, **changes), columns))
    compared(tmp_path, runs).to_csv(tmp_path / "comparison.csv", index=False)
    rows = read_comparison(tmp_path / "comparison.csv")
    assert {"F1 of 'anomaly'", "Difference, F1 of 'anomaly'"} <= set(comparison_text.comparison_readable(rows))
    assert "Within 0.01 of full in F1 of 'anomaly'" in " ".join(comparison_text.comparison_notes(rows))
    assert metric_words(rows.iloc[0].to_dict()) == "F1 of 'anomaly'"


def test_schema_and_summary_agree():
    schema = json.loads((Path(__file__).parents[2] / "schemas/summary.schema.json").read_text(encoding="utf-8"))
    assert {"positive_class", "prediction_spread"} <= set(schema["required"]) & set(tables.COLUMNS)

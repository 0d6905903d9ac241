"""Balanced accuracy: scikit-learn's number, and by its entry in METRICS alone a part of all that readers get."""

import csv
import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import synthetic
import tiny
from peft_tradeoffs.analysis import readable, tables
from peft_tradeoffs.analysis.comparison_text import comparison_notes, comparison_readable
from peft_tradeoffs.analysis.stats import over_seeds_and_examples
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.core.layout import SCHEMAS
from peft_tradeoffs.report import export
from peft_tradeoffs.report.page import pair_data
from peft_tradeoffs.report.sweep import Tables, load
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.tasks.metrics import METRICS, Answers
from synthetic_predictions import compared

NAME, LABEL = "balanced_accuracy", "Balanced accuracy, %"
ROWS, SEEDS = 400, 3


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Runs that report it, two arms of three seeds: folder, summaries, comparison, labels, answers by arm and seed."""
    folder, random = tmp_path_factory.mktemp("balanced"), np.random.default_rng(0)
    labels = (np.arange(ROWS) % 5 == 0).astype(int)  # one in five is of class 1
    runs, predicted = [], {}
    for arm, share in ((("full", None), 0.9), (("lora", 4), 0.8)):
        for seed in range(SEEDS):
            answers = np.where(random.random(ROWS) < share, labels, 1 - labels)
            value = METRICS[NAME].of(Answers(labels, answers, 2))
            columns = {"row": np.arange(ROWS), "label": labels, "prediction": answers}
            changes = {"metric": NAME, "positive_class": None, "metric_value": value, NAME: value, "test_rows": ROWS}
            run = synthetic.summary(*arm, seed, **changes)
            runs.append((run, columns))
            predicted[run["arm"], seed] = answers
    frame = compared(folder, runs, margin=0.1)
    return folder, [run for run, _ in runs], frame, (labels, predicted)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_it_is_scikit_learns(classes):
    random = np.random.default_rng(classes)
    for rows, kinds in ((500, classes), (8, classes), (30, 1), (30, classes - 1)):  # fewer: some do not occur
        labels, logits = random.integers(0, kinds, rows), random.normal(size=(rows, classes)).astype(np.float32)
        expected = sklearn.metrics.balanced_accuracy_score(labels, logits.argmax(axis=1))
        assert metrics.evaluate(logits, labels, "classification")[NAME] == pytest.approx(expected, abs=1e-15)
    assert metrics.evaluate(np.ones((4, 1), np.float32), np.arange(4.0), "regression")[NAME] is None


def test_a_configuration_may_ask_for_it():
    asked = tiny.config(Path())
    asked["datasets"]["reviews"]["metric"] = NAME
    assert resolve(asked).datasets["reviews"].metric == NAME


def test_it_is_recorded_by_every_run(finished):
    folder = finished / "results/runs/reviews/tiny/full/seed0"
    summary = json.loads((folder / "summary.json").read_text())
    with (folder / "predictions.csv").open() as file:
        labels, predicted = zip(*((row["label"], row["prediction"]) for row in csv.DictReader(file)), strict=True)
    assert summary[NAME] == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, predicted), abs=1e-15)
    with (folder / "metrics.csv").open() as file:
        assert float([row for row in csv.DictReader(file) if row["split"] == "test"][-1][NAME]) == summary[NAME]


def test_the_schema_of_a_summary_knows_it(study):
    run = study[1][0]
    schema = json.loads((SCHEMAS / "summary.schema.json").read_text(encoding="utf-8"))
    assert schema["properties"][NAME]["description"] == METRICS[NAME].about
    jsonschema.validate(run, schema)
    for wrong in ({NAME: 1.01}, {NAME: -0.01}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(run | wrong, schema)


def test_tables_show_it_in_per_cent(study):
    frame = tables.runs_frame(study[1])
    runs = readable.runs_readable(frame)
    assert runs[LABEL].tolist() == [f"{100 * run['metric_value']:.2f}" for run in study[1]]
    arms = tables.arms_frame(frame)
    first = np.mean([run[NAME] for run in study[1][:SEEDS]])
    assert arms[f"{NAME}_mean"].iloc[0] == pytest.approx(first)
    assert readable.arms_readable(arms)[LABEL].iloc[0].startswith(f"{100 * first:.1f} ± ")


def test_the_comparison_has_its_intervals(study):
    _, _, frame, (labels, predicted) = study
    everything = np.arange(ROWS)

    def left_out(arm: str, seed: int) -> np.ndarray:
        def value(kept: np.ndarray) -> float:
            return sklearn.metrics.balanced_accuracy_score(labels[kept], predicted[arm, seed][kept])

        whole = value(everything)
        return np.array([ROWS * whole - (ROWS - 1) * value(np.delete(everything, i)) for i in everything])

    full, lora = (np.stack([left_out(arm, seed) for seed in range(SEEDS)]) for arm in ("full", "lora-r4"))
    row = frame.set_index("arm").loc["lora-r4"]
    means = [part.mean(axis=1, keepdims=True) for part in (full, lora)]
    step = max(np.abs(part - mean).max() for part, mean in zip((full, lora), means, strict=True))
    expected = over_seeds_and_examples(lora - full, step)
    half = expected.half_width()
    assert (row["difference_high"] - row["difference_low"]) / 2 == pytest.approx(half, rel=1e-6)
    assert row["difference"] == pytest.approx(expected.value, abs=1e-2)  # but for the jackknife's bias
    shown = comparison_readable(frame)
    assert {LABEL, "Difference, points"} <= set(shown)
    assert shown[LABEL].str.fullmatch(r"\d\d\.\d \[\d\d\.\d, \d\d\.\d\]|\d\d \[\d\d, \d\d\]").all()
    assert "Within 10 points of full" in " ".join(comparison_notes(frame))


def test_the_page_draws_it(study):
    folder, summaries, frame, _ = study
    tables.runs_frame(summaries).to_csv(folder / "runs.csv", index=False)
    sweep = load(Tables(folder / "runs.csv"), folder / "runs/sst2/distilbert", "sst2", "distilbert")
    nothing = pd.DataFrame(columns=["dataset", "model", "arm", "cheapest", "kind"])
    page = pair_data(sweep, frame, nothing, nothing, nothing)
    about = {
        "label": "Balanced accuracy",
        "axis": "Balanced accuracy on the test split, %",
        "scale": 100,
        "unit": "points",
        "better": "high",
        "places": 1,
    }
    assert page["metric"] == about
    axis = {"key": "metric_value", "label": LABEL, "better": "high"}
    assert page["axes"][0] == axis | {"places": 1, "uncompared": None}
    first = page["arms"][0]["values"]["metric_value"]
    assert first["low"] < first["mean"] < first["high"] <= 100
    assert LABEL in page["table"]["headers"]
    assert page["curves"] and all(row["value"] > 1 for row in page["curves"])  # in per cent


def test_the_export_describes_it(study):
    folder, summaries, _, _ = study
    runs = tables.runs_frame(summaries).assign(differs=None)
    made = export.results(runs, export.read_metrics(runs, folder / "runs"))
    of_runs = {field["name"]: field for field in made["runs"].fields}
    of_arms = {field["name"]: field for field in made["arms"].fields}
    assert of_runs[NAME]["constraints"] == {"minimum": 0, "maximum": 1}
    assert METRICS[NAME].about in of_runs[NAME]["description"]
    assert METRICS[NAME].about in of_arms[f"{NAME}_mean"]["description"]
    assert NAME in of_runs["metric"]["constraints"]["enum"] and NAME in made["metrics"].frame
    export.write(folder / "export", made)
    written = pd.read_parquet(folder / "export/runs.parquet")
    assert written[NAME].tolist() == [run[NAME] for run in summaries]

"""Groups of test rows in the comparison: what is counted are groups, and intervals then hold where rows are alike."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import synthetic_predictions
from peft_tradeoffs.analysis.comparison import comparison_frame, read_predictions
from peft_tradeoffs.analysis.comparison_text import comparison_notes
from peft_tradeoffs.analysis.stats import over_seeds_and_examples
from peft_tradeoffs.analysis.tables import runs_frame
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.tasks.metrics import METRICS, Answers
from synthetic_predictions import run


@pytest.mark.parametrize("name", ["accuracy", "f1", "mcc", "balanced_accuracy"])
def test_pseudo_values_of_groups_leave_each_out_whole(name):
    random = np.random.default_rng(0)
    labels, groups = random.integers(0, 2, 90), np.unique(random.integers(0, 15, 90), return_inverse=True)[1]
    predicted = np.where(random.random(90) < 0.8, labels, 1 - labels)

    def value(keep):
        return metrics.evaluate(np.eye(2)[predicted[keep]], labels[keep], "classification")[name]

    count, everything = groups.max() + 1, np.full(90, True)
    expected = [count * value(everything) - (count - 1) * value(groups != group) for group in range(count)]
    assert METRICS[name].contributions(Answers(labels, predicted, 2), groups) == pytest.approx(np.array(expected))


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_pseudo_values_of_groups_of_a_correlation(name):
    random = np.random.default_rng(1)
    x, groups = random.normal(size=60).round(1), np.arange(60) // 5
    y = (x + random.normal(size=60)).round(1)
    of = {"pearson": scipy.stats.pearsonr, "spearman": scipy.stats.spearmanr}[name]
    left = np.array([of(x[groups != group], y[groups != group]).statistic for group in range(12)])
    found = METRICS[name].contributions(Answers(x, y, 1), groups)
    assert found == pytest.approx(12 * of(x, y).statistic - 11 * left)


def test_groups_of_one_row_each_are_rows():
    random = np.random.default_rng(2)
    labels = random.integers(0, 2, 50)
    answers = Answers(labels, np.where(random.random(50) < 0.8, labels, 1 - labels), 2)
    assert METRICS["f1"].contributions(answers, np.arange(50)) == pytest.approx(METRICS["f1"].contributions(answers))
    alone = METRICS["accuracy"].contributions(answers, np.arange(50))
    assert alone == pytest.approx(METRICS["accuracy"].contributions(answers))


def clustered(random: np.random.Generator, groups: int, size: int) -> np.ndarray:
    """Differences of two equal arms, right or wrong, [seed, row]: whole groups suit one arm or the other."""
    shared = random.normal(0, 1, (2, groups, 1)).repeat(size, axis=2)
    own = random.normal(0, 1, (2, 1, groups, size)) * 0.5
    latent = (
        1.5 + random.normal(0, 1, (groups, size)) + shared[:, None] + own + random.normal(0, 0.5, (2, 5, groups, size))
    )
    right = (latent > 0).astype(float)
    return (right[0] - right[1]).reshape(5, groups * size)


@pytest.mark.parametrize("size", [4, 10])
def test_intervals_of_groups_hold_and_those_of_rows_do_not(size):
    random, count, repeats = np.random.default_rng(size), 100, 400
    covered = {"groups": 0, "rows": 0}
    for _ in range(repeats):
        rows = clustered(random, count, size)
        of_groups = rows.reshape(5, count, size).mean(axis=2)
        for name, values in (("groups", of_groups), ("rows", rows)):
            low, high = over_seeds_and_examples(values, 1.0).interval()
            covered[name] += low <= 0 <= high
    assert covered["groups"] >= 0.91 * repeats
    assert covered["rows"] < 0.91 * repeats


def compared(folder, monkeypatch, groups: np.ndarray) -> pd.DataFrame:
    monkeypatch.setattr(synthetic_predictions, "ROWS", len(groups))
    runs = [
        run(arm, seed, np.r_[0 : 20 + more + seed])
        for arm, more in ((("full", None), 0), (("lora", 8), 8))
        for seed in range(5)
    ]
    where = synthetic_predictions.write(folder, runs)

    def predictions(of, split):
        path = where.joinpath(
            *(str(of[axis]) for axis in ("dataset", "model", "arm")), f"seed{of['seed']}", "predictions.csv"
        )
        return read_predictions(path, of, lambda rows: groups[rows])

    return comparison_frame(runs_frame([summary for summary, _ in runs]), "full", 0.05, predictions)


def test_the_comparison_counts_groups(tmp_path, monkeypatch):
    frame = compared(tmp_path, monkeypatch, np.arange(400) // 8)
    row = frame.set_index("arm").loc["lora-r8"]
    assert (row["test_rows"], row["test_groups"]) == (400, 50)
    assert pd.isna(row["mcnemar"]) and row["low"] < row["mean"] < row["high"]
    alone = compared(tmp_path / "rows", monkeypatch, np.arange(400)).set_index("arm").loc["lora-r8"]
    wide, narrow = (one["difference_high"] - one["difference_low"] for one in (row, alone))
    assert wide > 1.5 * narrow
    notes = " ".join(comparison_notes(frame))
    assert "count both other seeds and other groups of test rows (50 of 400)" in notes and "50 groups of rows" in notes


def test_few_groups_say_nothing(tmp_path, monkeypatch):
    frame = compared(tmp_path, monkeypatch, np.arange(400) // 50)
    assert frame["low"].isna().all() and frame["p_different"].isna().all()
    assert set(frame["reason"]) == {"8 groups of test rows, where 10 or more are needed"}
    notes = " ".join(comparison_notes(compared(tmp_path / "more", monkeypatch, np.arange(400) // 20)))
    assert "20 groups are few: with fewer than 30 intervals may be too narrow." in notes

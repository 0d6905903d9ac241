"""Metrics as objects: the same floats as the formulas they took the place of, additive statistics, what each is."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import tiny
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.tasks.metrics import ACCURACY, METRICS, NAMES, Answers, Metric, Scored, metric_called
from peft_tradeoffs.tasks.outputs import statistics
from peft_tradeoffs.tasks.shown import check_margin, difference_unit, metric_label

OF_CLASSES = [metric.name for metric in metrics.of_task("classification")]
OF_VALUES = [metric.name for metric in metrics.of_task("regression")]
BEFORE = ("accuracy", "f1", "mcc")  # those that stood before metrics were objects


# The formulas before metrics were objects, word for word: what runs recorded and tables were made of.
def confusion_before(labels, predicted, classes):
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels, predicted), 1)
    return counts


def of_confusion_before(confusion):
    hits, true, found = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    count = confusion.sum()
    f1 = 2 * hits / np.maximum(true + found, 1)
    spread = (count**2 - true @ true) * (count**2 - found @ found)
    return {
        "accuracy": float(hits.sum() / count),
        "f1": float(f1[1] if len(f1) == 2 else f1[true + found > 0].mean()),
        "mcc": float((hits.sum() * count - true @ found) / np.sqrt(spread)) if spread else 0.0,
    }


def evaluate_before(logits, labels, task):
    logits = logits.astype(np.float64)
    predicted = logits[:, 0] if task == "regression" else logits.argmax(axis=1)
    result = dict.fromkeys(("loss", "accuracy", "f1", "mcc", "pearson", "spearman"))
    if task == "regression":
        result["loss"] = float(np.mean((predicted - labels) ** 2))
        if np.ptp(predicted) > 0 and np.ptp(labels) > 0:
            result["pearson"] = float(scipy.stats.pearsonr(predicted, labels).statistic)
            result["spearman"] = float(scipy.stats.spearmanr(predicted, labels).statistic)
        return result
    chosen = logits[np.arange(len(labels)), labels]
    result["loss"] = float((np.logaddexp.reduce(logits, axis=1) - chosen).mean())
    return result | of_confusion_before(confusion_before(labels, predicted, logits.shape[1]))


def pseudo_values_before(labels, predicted, metric, classes):
    count = len(labels)
    if metric == "accuracy":
        return (labels == predicted).astype(float)
    if metric in ("pearson", "spearman"):
        if metric == "spearman":
            labels, predicted = scipy.stats.rankdata(labels), scipy.stats.rankdata(predicted)
        whole, without = correlations_before(labels.astype(float), predicted.astype(float))
        return count * whole - (count - 1) * without
    confusion = confusion_before(labels, predicted, classes)
    whole = of_confusion_before(confusion)[metric]
    without = np.zeros_like(confusion)
    for cell in zip(*np.nonzero(confusion), strict=True):
        confusion[cell] -= 1
        without[cell] = of_confusion_before(confusion)[metric]
        confusion[cell] += 1
    return count * whole - (count - 1) * without[labels, predicted]


def correlations_before(x, y):
    count = len(x)
    x, y = x - x.mean(), y - y.mean()
    xx, yy, xy = x @ x, y @ y, x @ y
    own = count / (count - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        without = (xy - own * x * y) / np.sqrt((xx - own * x**2) * (yy - own * y**2))
    return float(xy / np.sqrt(xx * yy)), without


def drawn(random: np.random.Generator, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels [n] and float32 logits [n, classes]: few or many rows, skewed, ones that leave classes out or constant."""
    rows = int(random.choice([2, 3, 7, 40, 122, 872, 3000]))
    kinds = int(random.integers(1, classes + 1))
    labels = random.choice(kinds, rows, p=random.dirichlet(np.full(kinds, random.choice([0.2, 1.0, 20.0]))))
    logits = random.normal(size=(rows, classes)) * random.choice([0.1, 1.0, 10.0])
    logits[np.arange(rows), labels] += random.choice([0.0, 1.0, 4.0])
    if random.random() < 0.1:
        logits[:, int(random.integers(classes))] += 1e3
    return labels, logits.astype(np.float32)


@pytest.mark.parametrize("classes", [2, 3, 7, 150])
def test_metrics_of_classes_and_their_jackknife_are_the_same_floats_as_before(classes):
    random = np.random.default_rng(classes)
    for _ in range(60 if classes == 2 else 20):
        labels, logits = drawn(random, classes)
        before = evaluate_before(logits, labels, "classification")
        found = metrics.evaluate(logits, labels, "classification")
        assert {key: found[key] for key in before} == before  # to the last bit
        predicted = logits.argmax(axis=1)
        for name in BEFORE:
            now = METRICS[name].contributions(Answers(labels, predicted, classes))
            assert np.array_equal(now, pseudo_values_before(labels, predicted, name, classes))


def test_correlations_and_their_jackknife_are_the_same_floats_as_before():
    random = np.random.default_rng(0)
    for turn in range(150):
        rows = int(random.choice([3, 8, 122, 1500]))
        labels = random.normal(random.choice([0, 1e3]), 1, rows).astype(np.float32)
        logits = (labels + random.normal(0, random.choice([0.01, 1, 30]), rows))[:, None].astype(np.float32)
        if turn % 3 == 0:  # ties
            labels, logits = labels.round(), logits.round()
        before = evaluate_before(logits, labels, "regression")
        found = metrics.evaluate(logits, labels, "regression")
        assert {key: found[key] for key in before} == before
        scored = Answers(labels.astype(float), logits[:, 0].astype(float), 1)
        if before["pearson"] is not None:
            expected = pseudo_values_before(scored.target, scored.prediction, "pearson", 1)
            for values in (scored.target, scored.prediction):  # without which example are the others all the same?
                expected[[np.ptp(np.delete(values, one)) == 0 for one in range(len(values))]] = np.nan
            assert np.array_equal(METRICS["pearson"].contributions(scored), expected, equal_nan=True)


@pytest.mark.parametrize("name", OF_CLASSES)
def test_a_statistic_adds_up_over_examples_and_groups_can_be_left_out_of_it(name):
    metric, random = METRICS[name], np.random.default_rng(1)
    for classes in (2, 4):
        labels, predicted = random.integers(0, classes, (2, 90))
        statistic = metric.statistic(Answers(labels, predicted, classes))
        assert len(statistic) == 90
        for left in (range(3), range(20, 50), range(60, 90)):
            kept = np.delete(np.arange(90), left)
            expected = metric.of(Answers(labels[kept], predicted[kept], classes))
            assert metric.value(statistic.sum(axis=0) - statistic[list(left)].sum(axis=0)) == expected
            assert metric.value(statistic[kept].sum(axis=0)) == expected


def test_pearsons_statistic_gives_it_of_any_examples_however_far_from_zero():
    random = np.random.default_rng(2)
    for far in (0, 1e6):
        x = far + random.normal(size=200)
        y = x + random.normal(size=200)
        scored = Answers(x, y, 1)
        pearson, statistic = METRICS["pearson"], METRICS["pearson"].statistic(scored)
        assert pearson.value(statistic.sum(axis=0)) == pytest.approx(pearson.of(scored), abs=1e-9)
        kept = np.arange(200) >= 40
        expected = scipy.stats.pearsonr(x[kept], y[kept]).statistic
        assert pearson.value(statistic.sum(axis=0) - statistic[~kept].sum(axis=0)) == pytest.approx(expected, abs=1e-9)
    scored = Answers(np.round(x), np.round(y), 1)
    spearman = METRICS["spearman"]
    assert spearman.value(spearman.statistic(scored).sum(axis=0)) == pytest.approx(spearman.of(scored), abs=1e-12)


@pytest.mark.parametrize("place", [0, 6, 13])
def test_a_correlation_that_one_row_decides_is_not_defined_without_it(place):
    """Of 14 labels one is not 0: without it the others are all the same, wherever it stands."""
    labels = np.zeros(14)
    labels[place] = 1.3
    scored = Answers(labels, np.random.default_rng(place).normal(size=14), 1)
    parts = METRICS["pearson"].contributions(scored)
    assert np.isnan(parts[place]) and np.isfinite(np.delete(parts, place)).all()


def test_a_correlation_with_a_constant_is_not_defined():
    for constant in (np.full(10, 0.1), np.zeros(10)):
        scored = Answers(np.arange(10.0), constant, 1)
        for name in OF_VALUES:
            assert METRICS[name].of(scored) is None
            assert METRICS[name].value(METRICS[name].statistic(scored).sum(axis=0)) is None


def test_they_are_scikit_learns():
    random = np.random.default_rng(5)
    average = {2: "binary", 5: "macro"}
    for classes in (2, 5):
        labels, predicted = random.integers(0, classes, (2, 300))
        scored = Answers(labels, predicted, classes)
        assert ACCURACY.of(scored) == sklearn.metrics.accuracy_score(labels, predicted)
        f1 = sklearn.metrics.f1_score(labels, predicted, average=average[classes])
        assert METRICS["f1"].of(scored) == pytest.approx(f1, abs=1e-15)
        assert METRICS["mcc"].of(scored) == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, predicted))


def test_the_floor_of_a_share_is_what_none_of_the_examples_leaves_possible():
    for units in (10, 872):
        expected = scipy.stats.beta.ppf(0.975, 1, units)  # Clopper and Pearson's upper bound of 0 of `units`
        assert ACCURACY.floor(units, 0.95) == pytest.approx(expected)
    assert all(metric.floor(872, 0.95) == 0 for metric in METRICS.values() if not metric.share)


def test_what_a_registered_metric_must_say():
    assert tuple(METRICS) == NAMES and next(iter(METRICS)) == ACCURACY.name
    scored = {
        "classification": Answers(np.array([0, 1, 1, 0]), np.array([0, 1, 1, 0]), 2),
        "regression": Answers(np.arange(4.0), np.arange(4.0), 1),
        "tokens": Scored(np.arange(2), np.full(2, 3.0), np.zeros(2), np.array([[0.0, 3, 3], [0.0, 2, 2]])),
    }
    right = statistics(["a b c 3", "it is 4"], [["a b c 3", "x"], ["it is 4"]])
    scored["outputs"] = replace(scored["tokens"], written=right)
    assert set(metrics.EVERY_TASK) == set(scored)
    for name, metric in METRICS.items():
        low, high = metric.bounds
        assert metric.name == name and metric.label and metric.about.endswith(".")
        if name == "own_score":  # of which nothing is known before there is one
            assert math.isinf(high - low) and metric.variance(1.0) > 0 and metric.of(scored["outputs"]) is None
            continue
        best, middle = (high, (low + high) / 2) if metric.higher_is_better else (low, low + 1)
        assert low < high and metric.of(scored[metric.task]) == pytest.approx(best)  # nothing is better than all right
        assert 0 < metric.largest_margin < high - low and metric.variance(middle) > 0
        assert metric.equivalence_margin < metric.largest_margin and (not metric.share or metric.scale == 100)


def test_a_gain_is_more_where_a_metric_is_better():
    error = Metric(**{**vars(ACCURACY), "name": "error", "higher_is_better": False})
    assert (ACCURACY.gain(0.25), error.gain(0.25)) == (0.25, -0.25)
    assert error.calls_equivalent(0.01, 0.05) and not error.calls_equivalent(0.01, 0.04)  # of the error, a fifth


def test_a_metric_of_elsewhere_is_shown_as_it_is_stored():
    for name, shown in (("wer", "wer"), (None, ""), (math.nan, "")):
        metric = metric_called(name)
        assert (metric.label, metric.scale, metric.unit, metric.decimals) == (shown, 1.0, "", 4)
        assert metric_label({"metric": name}) == difference_unit({"metric": name}) == shown
        with pytest.raises(ValueError, match="not a metric that is computed here"):
            metric.of(Answers(np.zeros(2), np.zeros(2), 1))


def test_a_margin_is_bounded_by_the_metrics_that_it_is_for(monkeypatch):
    narrow = Metric(**{**vars(ACCURACY), "name": "narrow", "largest_margin": 0.05})
    monkeypatch.setattr(metrics, "METRICS", METRICS | {"narrow": narrow})
    check_margin("margin", 0.2, ["accuracy", "pearson"])
    check_margin("margin", 0.2)
    with pytest.raises(InputError, match=r"^margin: 0.2 is not above 0 and at most 0.05; .* did you mean 0.002\?$"):
        check_margin("margin", 0.2, ["accuracy", "narrow"])
    check_margin("margin", 1, ["bleu"])
    with pytest.raises(InputError, match=r"^margin: 50 is not above 0 and at most 20.0; it is in the metric's unit$"):
        check_margin("margin", 50, ["bleu"])


def test_importing_them_brings_neither_scipy_nor_pandas_nor_torch():
    program = (
        "import sys, peft_tradeoffs.tasks.metrics; print({'torch', 'pandas', 'scipy', 'sklearn'} & set(sys.modules))"
    )
    folder = tiny.REPOSITORY / "workflow_scripts"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_sums_over_classes_are_those_of_their_rows(classes):
    random = np.random.default_rng(classes)
    for rows in (1, 5, 500):
        scored = metrics.Answers(random.integers(0, classes, rows), random.integers(0, classes, rows), classes)
        whole = metrics.class_counts(scored).sum(axis=0, dtype=float)
        assert metrics.class_sums(scored).tolist() == whole.tolist()

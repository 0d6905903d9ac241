"""Metrics of a split from its logits, and what each test example contributes to them."""

import numpy as np
from scipy import stats

NAMES = ("accuracy", "f1", "mcc", "pearson", "spearman")


def predictions(logits: np.ndarray, task: str) -> np.ndarray:
    """Class indices [n] of logits [n, classes], or the values [n] of logits [n, 1] for regression."""
    return logits[:, 0] if task == "regression" else logits.argmax(axis=1)


def evaluate(logits: np.ndarray, labels: np.ndarray, task: str) -> dict[str, float | None]:
    """Loss and metrics of float32 logits [n, k] against labels [n].

    loss is the mean cross-entropy, or the mean squared error for regression. f1 is that of class 1 for two
    classes, the macro average over classes that occur for more, 0 where not defined. mcc is Gorodkin's for k classes
    (Computational Biology and Chemistry 28, 2004), 0 for a constant. A metric that is not the task's, or not defined
    (a correlation with a constant), is None. As scikit-learn, whose import costs a training process 140 MiB.
    """
    logits = logits.astype(np.float64)
    predicted = predictions(logits, task)
    result: dict[str, float | None] = dict.fromkeys(("loss", *NAMES))
    if task == "regression":
        from scipy.stats import pearsonr, spearmanr

        result["loss"] = float(np.mean((predicted - labels) ** 2))
        if np.ptp(predicted) > 0 and np.ptp(labels) > 0:
            result["pearson"] = float(pearsonr(predicted, labels).statistic)
            result["spearman"] = float(spearmanr(predicted, labels).statistic)
        return result
    confusion = np.zeros((logits.shape[1],) * 2)
    np.add.at(confusion, (labels, predicted), 1)
    chosen = logits[np.arange(len(labels)), labels]
    result["loss"] = float((np.logaddexp.reduce(logits, axis=1) - chosen).mean())
    return result | of_confusion(confusion)


def of_confusion(confusion: np.ndarray) -> dict[str, float]:
    """accuracy, f1 and mcc from counts [k, k] by true class and predicted class; as `evaluate` has them."""
    hits, true, found = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    count = confusion.sum()
    f1 = 2 * hits / np.maximum(true + found, 1)
    spread = (count**2 - true @ true) * (count**2 - found @ found)
    return {
        "accuracy": float(hits.sum() / count),
        "f1": float(f1[1] if len(f1) == 2 else f1[true + found > 0].mean()),
        "mcc": float((hits.sum() * count - true @ found) / np.sqrt(spread)) if spread else 0.0,
    }


def metric_of(labels: np.ndarray, predicted: np.ndarray, metric: str, classes: int) -> float:
    """A metric of predictions [n], as a run has it."""
    if metric in ("pearson", "spearman"):
        found = stats.pearsonr(labels, predicted) if metric == "pearson" else stats.spearmanr(labels, predicted)
        return float(found.statistic)
    return of_confusion(_confusion(labels, predicted, classes))[metric]


def pseudo_values(labels: np.ndarray, predicted: np.ndarray, metric: str, classes: int) -> np.ndarray:
    """Tukey's jackknife pseudo-values [n] of a metric: n times it, less n - 1 times it without that example.

    `labels` and `predicted` [n] are class indices below `classes`, or values for pearson and spearman. Of accuracy they
    are 1 where it is right and 0 elsewhere; their mean is the metric but for a bias of order 1/n. Ranks of spearman are
    those among all examples. (Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, chapter 3.)
    """
    count = len(labels)
    if metric == "accuracy":
        return np.asarray(labels == predicted, dtype=float)
    if metric in ("pearson", "spearman"):
        if metric == "spearman":
            labels, predicted = stats.rankdata(labels), stats.rankdata(predicted)
        whole, without = _correlations(labels.astype(float), predicted.astype(float))
        return count * whole - (count - 1) * without
    confusion = _confusion(labels, predicted, classes)
    whole = of_confusion(confusion)[metric]
    without = np.zeros_like(confusion)
    for cell in zip(*np.nonzero(confusion), strict=True):  # examples of one cell contribute alike
        confusion[cell] -= 1
        without[cell] = of_confusion(confusion)[metric]
        confusion[cell] += 1
    return np.asarray(count * whole - (count - 1) * without[labels, predicted])


def _confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels, predicted), 1)
    return counts


def _correlations(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Pearson's correlation of x and y [n], and without each of them [n]."""
    count = len(x)
    x, y = x - x.mean(), y - y.mean()
    xx, yy, xy = x @ x, y @ y, x @ y
    # a sum of products about the mean loses n / (n - 1) of an example's own
    own = count / (count - 1)
    with np.errstate(invalid="ignore", divide="ignore"):  # nan where the others are all the same
        without = (xy - own * x * y) / np.sqrt((xx - own * x**2) * (yy - own * y**2))
    return float(xy / np.sqrt(xx * yy)), without

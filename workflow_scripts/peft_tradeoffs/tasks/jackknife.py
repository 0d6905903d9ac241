"""What each test example contributes to a metric, so that any metric has a mean over examples."""

import numpy as np
from scipy import stats

from peft_tradeoffs.tasks import metrics


def metric_of(labels: np.ndarray, predicted: np.ndarray, metric: str, classes: int) -> float:
    """A metric of predictions [n], as a run has it."""
    if metric in ("pearson", "spearman"):
        correlation = stats.pearsonr if metric == "pearson" else stats.spearmanr
        return float(correlation(labels, predicted).statistic)
    return metrics.of_confusion(_confusion(labels, predicted, classes))[metric]


def pseudo_values(labels: np.ndarray, predicted: np.ndarray, metric: str, classes: int) -> np.ndarray:
    """Tukey's jackknife pseudo-values [n] of a metric: n times it, less n - 1 times it without that example.

    `labels` and `predicted` [n] are class indices below `classes`, or values for pearson and spearman. Of accuracy they
    are 1 where it is right and 0 elsewhere; their mean is the metric but for a bias of order 1/n. Ranks of spearman are
    those among all examples. (Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, chapter 3.)
    """
    count = len(labels)
    if metric == "accuracy":
        return (labels == predicted).astype(float)
    if metric in ("pearson", "spearman"):
        if metric == "spearman":
            labels, predicted = stats.rankdata(labels), stats.rankdata(predicted)
        whole, without = _correlations(labels.astype(float), predicted.astype(float))
        return count * whole - (count - 1) * without
    confusion = _confusion(labels, predicted, classes)
    whole = metrics.of_confusion(confusion)[metric]
    without = np.zeros_like(confusion)
    for cell in zip(*np.nonzero(confusion), strict=True):  # examples of one cell contribute alike
        confusion[cell] -= 1
        without[cell] = metrics.of_confusion(confusion)[metric]
        confusion[cell] += 1
    return count * whole - (count - 1) * without[labels, predicted]


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

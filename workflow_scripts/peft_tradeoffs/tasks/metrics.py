"""Metrics of a split from its logits."""

import numpy as np

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

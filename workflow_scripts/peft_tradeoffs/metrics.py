"""Metrics of a split from its logits."""

import numpy as np

NAMES = ("accuracy", "f1", "mcc", "pearson", "spearman")


def predictions(logits: np.ndarray, task: str) -> np.ndarray:
    """Class indices [n] of logits [n, classes], or the values [n] of logits [n, 1] for regression."""
    return logits[:, 0] if task == "regression" else logits.argmax(axis=1)


def evaluate(logits: np.ndarray, labels: np.ndarray, task: str) -> dict[str, float | None]:
    """Loss and metrics of float32 logits [n, k] against labels [n].

    loss is the mean cross-entropy, or the mean squared error for regression. f1 is that of class 1 for two
    classes, the macro average for more. A metric that is not the task's, or not defined (a correlation with
    a constant), is None.
    """
    from scipy.special import log_softmax
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    logits = logits.astype(np.float64)
    predicted = predictions(logits, task)
    result: dict[str, float | None] = dict.fromkeys(("loss", *NAMES))
    if task == "regression":
        result["loss"] = float(np.mean((predicted - labels) ** 2))
        if np.ptp(predicted) > 0 and np.ptp(labels) > 0:
            result["pearson"] = float(pearsonr(predicted, labels).statistic)
            result["spearman"] = float(spearmanr(predicted, labels).statistic)
        return result
    average = "binary" if logits.shape[1] == 2 else "macro"
    result["loss"] = float(-log_softmax(logits, axis=1)[np.arange(len(labels)), labels].mean())
    result["accuracy"] = float(accuracy_score(labels, predicted))
    result["f1"] = float(f1_score(labels, predicted, average=average, zero_division=0))
    result["mcc"] = float(matthews_corrcoef(labels, predicted))
    return result

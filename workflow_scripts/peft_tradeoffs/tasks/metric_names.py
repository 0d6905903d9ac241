"""What readers see of a metric: its name, which says of which class F1 is, its unit; what a margin may be."""

from typing import TYPE_CHECKING, Any, Protocol

from peft_tradeoffs.core.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

NAMES = {
    "accuracy": "Accuracy",
    "mcc": "MCC",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}
LONGEST = 40  # characters of a class name that are shown


class Row(Protocol):
    """A row with `metric` and `positive_class`: a dict, or a pandas Series."""

    def get(self, key: str, /) -> Any: ...
    def __getitem__(self, key: str, /) -> Any: ...
    def __contains__(self, key: object, /) -> bool: ...


def metric_of(rows: "pd.DataFrame") -> dict[str, Any]:
    """The metric of these rows of one data set and model, and its positive class, as the functions here take them."""
    found = {key: rows[key].dropna() for key in ("metric", "positive_class") if key in rows}
    return {key: values.iloc[0] if len(values) else None for key, values in found.items()}


def metric_name(row: Row) -> str:
    """The name of a row's metric: "F1 of 'spam'", "macro F1" over several classes.

    Plain "F1" of a row without the key `positive_class`, of which it is not known.
    """
    metric = row.get("metric")
    if metric != "f1":
        return NAMES.get(metric, "" if _null(metric) else str(metric))
    if "positive_class" not in row:
        return "F1"
    if _null(row["positive_class"]):
        return "macro F1"
    positive = " ".join(str(row["positive_class"]).split())
    return f"F1 of {positive if len(positive) <= LONGEST else positive[: LONGEST - 1] + '…'!r}"


def said(row: Row) -> str:
    """The metric in a line of a log: by its name in the configuration, and of which class F1 is."""
    return metric_name(row) if row["metric"] == "f1" else str(row["metric"])


def metric_unit(row: Row) -> str:
    """The unit that a row's metric is shown in, "" if it has none."""
    return "%" if row.get("metric") == "accuracy" else ""


def metric_label(row: Row) -> str:
    """The name of a row's metric with its unit, e.g. "Accuracy, %"."""
    return with_unit(metric_name(row), row)


def heldout_label(row: Row) -> str:
    """The name of a row's metric on the heldout split with its unit, e.g. "Accuracy (heldout), %"."""
    return with_unit(f"{metric_name(row)} (heldout)", row)


def with_unit(text: str, row: Row) -> str:
    """A text about a row's metric with the metric's unit behind it."""
    unit = metric_unit(row)
    return f"{text}, {unit}" if unit else text


def difference_unit(row: Row) -> str:
    """What differences of a row's metric are given in."""
    return "points" if row.get("metric") == "accuracy" else metric_label(row)


def _null(value: Any) -> bool:
    return value is None or value != value


LARGEST = 0.2  # in the metric's unit: 20 points of accuracy


def check_margin(where: str, margin: float) -> None:
    """Raise InputError for what is no margin in the metric's unit: 1, say, where a point of accuracy is meant."""
    if 0 < margin <= LARGEST:
        return
    unit = "it is in the metric's unit, and accuracy is a fraction, of which a point is 0.01"
    points = f"; did you mean {margin / 100:g}?" if LARGEST < margin <= 100 * LARGEST else ""
    raise InputError(f"{where}: {margin:g} is not above 0 and at most {LARGEST}; {unit}{points}")

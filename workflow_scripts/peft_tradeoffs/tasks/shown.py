"""How a metric is named and shown to readers, and margins in its unit."""

import contextlib
import json
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.tasks.metrics import LONGEST, METRICS, OUTPUTS, metric_called, null

if TYPE_CHECKING:
    import pandas as pd

Row: TypeAlias = "Mapping[str, Any] | pd.Series[Any]"  # with `metric` and `positive_class`


def metric_of(rows: "pd.DataFrame") -> dict[str, Any]:
    """The metric of these rows of one data set and model, and its positive class, as the functions here take them."""
    found = {key: rows[key].dropna() for key in ("metric", "positive_class") if key in rows}
    return {key: values.iloc[0] if len(values) else None for key, values in found.items()}


def metric_name(row: Row) -> str:
    """The name of a row's metric: "F1 of 'spam'", "macro F1" over several classes.

    Plain "F1" of a row without the key `positive_class`, of which it is not known.
    """
    metric = metric_called(row.get("metric"))
    if not metric.of_class or "positive_class" not in row:
        return metric.label
    if null(row["positive_class"]):
        return f"macro {metric.label}"
    positive = " ".join(str(row["positive_class"]).split())
    return f"{metric.label} of {positive if len(positive) <= LONGEST else positive[: LONGEST - 1] + '…'!r}"


def metric_words(row: Row) -> str:
    """The name of a row's metric within a sentence, where its unit stands behind the number."""
    return metric_called(row.get("metric")).noun or metric_name(row)


def said(row: Row) -> str:
    """The metric in a line of a log: by its name in the configuration, and of which class F1 is."""
    return metric_name(row) if metric_called(row["metric"]).of_class else row["metric"]


def metric_label(row: Row) -> str:
    """The name of a row's metric with its unit, e.g. "Accuracy, %"."""
    return with_unit(metric_name(row), row)


def heldout_label(row: Row) -> str:
    """The name of a row's metric on the heldout split with its unit, e.g. "Accuracy (heldout), %"."""
    return with_unit(f"{metric_name(row)} (heldout)", row)


def with_unit(text: str, row: Row) -> str:
    """A text about a row's metric with the metric's unit behind it."""
    unit = metric_called(row.get("metric")).unit
    return f"{text}, {unit}" if unit else text


def difference_unit(row: Row) -> str:
    """What differences of a row's metric are given in."""
    return metric_called(row.get("metric")).apart or metric_label(row)


LARGEST_MARGIN = max(metric.largest_margin for metric in METRICS.values())
ABOUT_MARGIN = f"in the metric's unit (0.01 is a point of accuracy); at most {LARGEST_MARGIN:g}"


BY_METRIC = (
    "Or one by metric, as in {exact_match: 0.01, bleu: 0.5}. A metric of what models write has no default: the margin "
    "must be named."
)
Margin: TypeAlias = float | Mapping[str, float]  # of any metric, or by metric


def margin_of(margin: Margin, metric: str) -> float:
    """The margin of a metric, in its unit. Raises InputError where it is given by metric, and not for this one."""
    if not isinstance(margin, Mapping):
        return float(margin)
    if metric not in margin:
        raise InputError(f"margin: none for {metric}, but for {', '.join(margin)}; add it, in the metric's unit")
    return float(margin[metric])


def read_margin(text: str) -> Margin:
    """A margin as an option of scripts: a number, or JSON by metric."""
    with contextlib.suppress(ValueError):
        return float(text)
    found: Margin = json.loads(text)
    return found


def check_margins(where: str, margin: Margin, metrics: Collection[str] = (), chosen: bool = True) -> None:
    """Raise InputError for a margin that is none in the unit of one of these metrics, or that is missing.

    One number serves several metrics where none of them is of what models write; of one that is, it must be `chosen`.
    """
    written = sorted(name for name in metrics if metric_called(name).task == OUTPUTS)
    if isinstance(margin, Mapping):
        if missing := sorted(set(metrics) - set(margin)):
            raise InputError(f"{where}: none for {missing[0]}; add it, in the metric's unit")
        for name, value in margin.items():
            check_margin(f"{where}.{name}", value, [name])
        return
    if written and not chosen:
        raise InputError(
            f"{where}: {written[0]} has no default; say which difference counts as none, in the metric's unit (of "
            "exact_match 0.01 is a point, of bleu 0.5 half a BLEU point)"
        )
    if written and len(set(metrics)) > 1:
        raise InputError(
            f"{where}: one number for {', '.join(sorted(metrics))}, which have units of their own; name one by "
            "metric, as in {exact_match: 0.01, bleu: 0.5}"
        )
    check_margin(where, float(margin), metrics)


def check_margin(where: str, margin: float, metrics: Collection[str] = ()) -> None:
    """Raise InputError for what is no margin in the unit of these metrics: 1, say, where a point of accuracy is meant.

    Without metrics: for what is a margin of none.
    """
    largest = min((metric_called(name).largest_margin for name in metrics), default=LARGEST_MARGIN)
    if 0 < margin <= largest:
        return
    scaled = all(metric_called(name).largest_margin < 1 for name in metrics)
    unit = "it is in the metric's unit" + (", and accuracy is a fraction, of which a point is 0.01" if scaled else "")
    points = f"; did you mean {margin / 100:g}?" if scaled and largest < margin <= 100 * largest else ""
    raise InputError(f"{where}: {margin:g} is not above 0 and at most {largest}; {unit}{points}")

"""The table of arms on the report's page: what is shown, and what each column is sorted by."""

import math
from typing import Any

import pandas as pd

from peft_tradeoffs.analysis import readable
from peft_tradeoffs.analysis.comparison_text import with_interval
from peft_tradeoffs.analysis.readable import NULL
from peft_tradeoffs.tasks.metric_names import Row, difference_unit, heldout_label, metric_label, metric_of

DIGITS = 7  # significant digits of a number on the page


def number(value: Any) -> float | None:
    """A JSON number of `DIGITS` significant digits; None for null, nan and infinity."""
    if pd.isna(value) or math.isinf(value):
        return None
    return float(f"{float(value):.{DIGITS}g}")


def arms_table(arms: pd.DataFrame, comparison: pd.DataFrame) -> dict[str, Any]:
    """The table of arms: headers, and one row per arm of what is shown and what it is sorted by."""
    metric = metric_of(arms)
    columns = {
        "n": "n",
        "Failed": "n_failed",
        "Learning rate": "learning_rate",
        metric_label(metric): "metric_value_mean",
        heldout_label(metric): "heldout_metric_value_mean",
        **{label: f"{key}_mean" for key, label in readable.LABEL.items()},
        "Trainable parameters": "trainable_parameters",
        "Trainable, %": "trainable_percent",
    }
    text = readable.arms_readable(arms)
    by = {header: pd.to_numeric(arms[columns[header]], errors="coerce") for header in text if header in columns}
    for split in dict.fromkeys(comparison["split"]):
        rows = comparison[comparison["split"] == split].set_index("arm").reindex(arms["arm"]).reset_index()
        where = "" if split == "test" else f" ({split})"
        _add_comparison(text, by, rows, metric, where)
    cells = [
        {
            "arm": arm,
            "cells": [
                {"text": text[header].iloc[index], "by": _sorted_by(by, text, header, index)} for header in text.columns
            ],
        }
        for index, arm in enumerate(arms["arm"])
    ]
    return {"headers": list(text.columns), "numeric": [header in by for header in text.columns], "rows": cells}


def _sorted_by(by: dict[str, pd.Series], text: pd.DataFrame, header: str, index: int) -> Any:
    if header == "Arm":
        return index
    return number(by[header].iloc[index]) if header in by else text[header].iloc[index]


def _add_comparison(text: pd.DataFrame, by: dict[str, pd.Series], rows: pd.DataFrame, metric: Row, where: str) -> None:
    """Put the difference to the baseline and the verdict behind the column of the metric."""
    header = metric_label(metric) if not where else heldout_label(metric)
    if header not in text:
        return
    scale = readable.metric_scale(metric["metric"] or "")
    at = text.columns.get_loc(header) + 1
    name = f"Difference{where}, {difference_unit(metric)}"
    bounds = ("difference", "difference_low", "difference_high")
    shown = [with_interval(*(row[key] for key in bounds), scale, sign=True) for row in rows.to_dict("records")]
    text.insert(at, name, shown)
    text.insert(at + 1, f"Verdict{where}", rows["verdict"].fillna(NULL).to_list())
    by[name] = rows["difference"].reset_index(drop=True)

"""The comparison of arms as readers see it: no more digits than the intervals support."""

import math
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.arms import arm_label
from peft_tradeoffs.comparison import UNDECIDED
from peft_tradeoffs.readable import NULL, differs, metric_label, metric_scale, number

RANGE = {"accuracy": (0, 1), "f1": (0, 1), "mcc": (-1, 1), "pearson": (-1, 1), "spearman": (-1, 1)}


def unit(metric: str) -> str:
    """What differences of a metric are given in."""
    return "points" if metric == "accuracy" else metric_label(metric)


def decimals(half_width: float) -> int:
    """Decimals that an interval supports: its half width to one digit, to two where the first is 1 or 2."""
    if not half_width > 0:
        return 0
    exponent = math.floor(math.log10(half_width))
    return max(0, -exponent + (half_width / 10**exponent < 3))


def with_interval(value: Any, low: Any, high: Any, scale: float, sign: bool = False) -> str:
    """A value and its interval, rounded as that supports: "87.6 [86.8, 88.5]"; without one the value, three digits.

    A digit finer where a bound that is not 0 would be rounded to it.
    """
    if pd.isna(value):
        return NULL
    if pd.isna(low):
        return number(value * scale)
    places = decimals((high - low) / 2 * scale)
    places += any(bound and not round(bound * scale, places) for bound in (low, high))
    value, low, high = (round(bound * scale, places) + 0.0 for bound in (value, low, high))  # never -0
    shown = (f"{bound:{'+' if sign and bound else ''},.{places}f}" for bound in (value, low, high))
    return "{} [{}, {}]".format(*shown)


def p_value(p: Any) -> str:
    """A p value for readers."""
    return NULL if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def comparison_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `comparison_frame` of one data set and model as text, units in the header."""
    metric = rows["metric"].iloc[0]
    scale = metric_scale(metric)
    cells = []
    for row in rows.to_dict("records"):
        low, high = (np.clip(row[bound], *RANGE[metric]) for bound in ("low", "high"))
        difference = with_interval(row["difference"], row["difference_low"], row["difference_high"], scale, sign=True)
        if difference != NULL and row["n_paired"] != row["n"]:
            difference += f" (n = {row['n_paired']})"
        cells.append(
            {
                "Arm": arm_label(row["method"], row["rank"]),
                "n": str(row["n"]),
                metric_label(metric): with_interval(row["mean"], low, high, scale),
                f"Difference, {unit(metric)}": difference,
                "p of a difference": p_value(row["p_different_holm"]),
                "p of equivalence": p_value(row["p_equivalent_holm"]),
                "Verdict": NULL if pd.isna(row["verdict"]) else row["verdict"],
                **differs(rows, row),
            }
        )
    return pd.DataFrame(cells)


def comparison_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of a comparison: one sentence each."""
    metric, margin = rows["metric"].iloc[0], rows["margin"].iloc[0]
    scale = metric_scale(metric)
    baseline = rows[rows["arm"] == rows["baseline"]].iloc[0]
    name = arm_label(baseline["method"], baseline["rank"])
    lines = ["Means over the n completed runs (seeds) that have a metric."]
    if rows["low"].notna().any():
        lines.append("In brackets: 95 % intervals that count both other seeds and other test examples.")
    if len(rows) > 1:
        lines.append(f"Difference: to {name}, over the same seeds and examples.")
    if (compared := rows["p_different"].notna().sum()) > 0:
        within = f"{margin * scale:g} {unit(metric).removesuffix('s') if margin * scale == 1 else unit(metric)}"
        lines.append(
            f"Equivalent: proven to lie within {within} of {name} (two one-sided tests); better or worse: proven to "
            "differ, and not proven to lie within that; all at 5 %, p values with Holm's correction over "
            f"{compared} arm{'' if compared == 1 else 's'}."
        )
        size = number(rows["smallest_difference"].max() * scale, 1 if metric == "accuracy" else 3)
        lines.append(
            f"With these seeds and {rows['test_rows'].max():,.0f} test examples a true difference of {size} "
            f"{unit(metric)} is found with a probability of 80 %, in the arm where that is largest and at the "
            "strictest level of that correction."
        )
    if (rows["verdict"] == UNDECIDED).any():
        lines.append(f"{UNDECIDED.capitalize()}: these runs cannot tell the arm from {name}, nor prove it equivalent.")
    for reason in rows["reason"].dropna().unique():
        arms = rows[rows["reason"] == reason]
        names = ", ".join(arm_label(method, rank) for method, rank in zip(arms["method"], arms["rank"], strict=True))
        lines.append(f"No interval or test for {names}: {reason}.")
    return lines

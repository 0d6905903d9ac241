"""The comparison of arms as readers see it: no more digits than the intervals support."""

import math
from typing import Any

import pandas as pd

from peft_tradeoffs.arms import arm_label
from peft_tradeoffs.comparison import BASELINE, UNDECIDED
from peft_tradeoffs.readable import NULL, metric_label, metric_scale, number


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
    """ "value [low, high]", rounded as the interval supports; the value alone, three digits, without an interval."""
    if pd.isna(value):
        return NULL
    if pd.isna(low):
        return number(value * scale)
    places = decimals((high - low) / 2 * scale)
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
        against = row["verdict"] != BASELINE
        cells.append(
            {
                "Arm": arm_label(row["method"], row["rank"]),
                "n": str(row["n"]),
                metric_label(metric): with_interval(row["mean"], row["low"], row["high"], scale),
                f"Difference, {unit(metric)}": with_interval(
                    row["difference"], row["difference_low"], row["difference_high"], scale, sign=True
                ),
                "p of a difference": p_value(row["p_different_holm"]) if against else NULL,
                "p of equivalence": p_value(row["p_equivalent_holm"]) if against else NULL,
                "Verdict": NULL if pd.isna(row["verdict"]) else row["verdict"],
            }
        )
    return pd.DataFrame(cells)


def comparison_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of a comparison: one sentence each."""
    metric, margin = rows["metric"].iloc[0], rows["margin"].iloc[0]
    baselines = rows[rows["arm"] == rows["baseline"]]
    if baselines.empty:
        name = rows["baseline"].iloc[0]
    else:
        name = arm_label(baselines["method"].iloc[0], baselines["rank"].iloc[0])
    within = f"{margin * metric_scale(metric):g} {unit(metric)}"
    lines = [
        "Means over the n completed runs (seeds), with 95 % intervals that count both other seeds and other test "
        "examples.",
        f"Difference: to {name}, over the same seeds and examples.",
        f"Equivalent: proven to lie within {within} of {name} (two one-sided tests); better or worse: proven to "
        "differ, and not proven to lie within that; all at 5 %, p values with Holm's correction over the arms.",
    ]
    smallest = rows["smallest_difference"].max()
    if pd.notna(smallest):
        size = number(smallest * metric_scale(metric), 1 if metric == "accuracy" else 3)
        lines.append(
            f"With these seeds and {rows['test_rows'].max():,.0f} test examples a true difference of {size} "
            f"{unit(metric)} is found with a probability of 80 %, in the arm where that is largest."
        )
    if (rows["verdict"] == UNDECIDED).any():
        lines.append(f"{UNDECIDED.capitalize()}: these runs cannot tell the arm from {name}, nor prove it equivalent.")
    for reason in rows["reason"].dropna().unique():
        arms = rows[rows["reason"] == reason]
        names = ", ".join(arm_label(method, rank) for method, rank in zip(arms["method"], arms["rank"], strict=True))
        lines.append(f"No interval for {names}: {reason}.")
    return lines

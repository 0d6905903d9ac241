"""The comparison of arms as readers see it: no more digits than the intervals support."""

from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.comparison import UNDECIDED
from peft_tradeoffs.analysis.digits import at_most, finer, supported_decimals
from peft_tradeoffs.analysis.readable import NULL, differs, failed_counts, metric_scale, number
from peft_tradeoffs.analysis.stats import LEVEL, unseen
from peft_tradeoffs.core.arms import arm_label
from peft_tradeoffs.tasks.metric_names import difference_unit, metric_label

RANGE = {"accuracy": (0, 1), "f1": (0, 1), "mcc": (-1, 1), "pearson": (-1, 1), "spearman": (-1, 1)}
UNCORRECTED = (
    "Intervals of differences are of one arm each, without Holm's correction: one can leave out 0, or lie beyond the "
    "margin, where the corrected test proves nothing."
)
HELDOUT = (
    "The heldout split is there to compare arms on further examples. Where it was carved from train, its examples may "
    "be like each other and like those trained on (parts of the same documents): its intervals may then be too narrow, "
    "what is proven is proven for such texts only, and how good an arm is the test split alone says."
)


def label(row: dict[str, Any]) -> str:
    """An arm's name for readers."""
    return arm_label(row["method"], row["rank"])


def with_interval(value: Any, low: Any, high: Any, scale: float, sign: bool = False) -> str:
    """A value and its interval, rounded as that supports: "87.6 [86.8, 88.5]"; at most four digits of the value.

    A digit finer where a bound that is not 0 would be rounded to it. The value alone, with three digits, without an
    interval and where its bounds are equal; alone where they are equal as rounded.
    """
    if pd.isna(value):
        return NULL
    if pd.isna(low) or high - low <= 1e-9 * abs(value):
        return f"+{number(value * scale)}" if sign and value > 0 else number(value * scale + 0.0)
    value, low, high = value * scale, low * scale, high * scale
    places = finer(at_most(supported_decimals((high - low) / 2), value), low, high)
    value, low, high = (round(bound, places) + 0.0 for bound in (value, low, high))  # never -0
    shown = [f"{bound:{'+' if sign and bound else ''},.{places}f}" for bound in (value, low, high)]
    return shown[0] if low == high else "{} [{}, {}]".format(*shown)


def p_value(p: Any) -> str:
    """A p value for readers."""
    return NULL if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def comparison_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `comparison_frame` of one data set, model and split as text, units in the header."""
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
                metric_label(row): with_interval(row["mean"], low, high, scale),
                f"Difference, {difference_unit(row)}": difference,
                "p of a difference": p_value(row["p_different_holm"]),
                "p of equivalence": p_value(row["p_equivalent_holm"]),
                "Verdict": NULL if pd.isna(row["verdict"]) else row["verdict"],
                **differs(rows, row),
            }
        )
        if rows["groups"].notna().any():
            cells[-1]["Groups"] = NULL if pd.isna(row["groups"]) else row["groups"]
    return pd.DataFrame(cells)


def comparison_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of a comparison: one sentence each."""
    metric, margin = rows["metric"].iloc[0], rows["margin"].iloc[0]
    scale, unit = metric_scale(metric), difference_unit(rows.iloc[0])
    baseline = rows[rows["arm"] == rows["baseline"]].iloc[0]
    name = arm_label(baseline["method"], baseline["rank"])
    lines = [HELDOUT] if rows["split"].iloc[0] == "heldout" else []
    lines.append("Means over the n completed runs (seeds) that have a metric.")
    if rows["left_out"].notna().any():
        ways = (
            f"{', '.join(map(label, arms.to_dict('records')))} ({failed_counts(left_out)}{' each' * (len(arms) > 1)})"
            for left_out, arms in rows.groupby("left_out", sort=False)
        )
        lines.append(f"Runs without one are left out: {', '.join(ways)}.")
    if rows["low"].notna().any():
        lines.append("In brackets: 95 % intervals that count both other seeds and other test examples.")
    if len(rows) > 1:
        lines.append(f"Difference: to {name}, over the same seeds and examples.")
    if (compared := rows["p_different"].notna().sum()) > 0:
        within = (
            f"{margin * scale:g} {unit.removesuffix('s') if metric == 'accuracy' and margin * scale == 1 else unit}"
        )
        lines.append(
            f"Equivalent: proven to lie within {within} of {name} (two one-sided tests); better or worse: proven to "
            "differ, and not proven to lie within that; all at 5 %, p values with Holm's correction over "
            f"{compared} arm{'' if compared == 1 else 's'}."
        )
        if compared > 1:
            lines.append(UNCORRECTED)
        if rows["smallest_difference"].notna().any():
            size = number(rows["smallest_difference"].max() * scale, 1 if metric == "accuracy" else 3)
            lines.append(
                f"With these seeds and {rows['test_rows'].max():,.0f} examples a true difference of {size} "
                f"{unit} is found with a probability of 80 %, in the arm where that is largest and at the "
                "strictest level of that correction."
            )
    lines += _bounded(rows, name)
    if (rows["verdict"] == UNDECIDED).any():
        lines.append(f"{UNDECIDED.capitalize()}: these runs cannot tell the arm from {name}, nor prove it equivalent.")
    if rows["groups"].notna().any():
        lines.append(
            "Groups: arms that share a letter cannot be told apart; every pair is tested, with Holm's correction over "
            "all pairs, which asks for more than the verdicts against one arm do."
        )
    what = rows["low"].notna().map({True: "No test of a difference", False: "No interval or test"})
    for (reason, missing), arms in rows.groupby(["reason", what], sort=False):
        lines.append(f"{missing} for {', '.join(map(label, arms.to_dict('records')))}: {reason}.")
    return lines


def _bounded(rows: pd.DataFrame, baseline: str) -> list[str]:
    """What it means where the number of examples alone makes an interval as wide as it is: one sentence per kind."""
    if rows["metric"].iloc[0] != "accuracy":
        return []
    lines = []
    for low, high, what, of in (
        ("difference_low", "difference_high", f"hardly an answer is unlike {baseline}'s", "the difference"),
        ("low", "high", "hardly an answer is wrong (or hardly one right)", "the accuracy"),
    ):
        known = rows.dropna(subset=low)
        least = unseen((1 - LEVEL) / 2, known["test_rows"].astype(float))
        own = known[np.isclose(known[high] - known[low], 2 * least, rtol=1e-6)]
        if len(own):
            lines.append(
                f"{', '.join(map(label, own.to_dict('records')))}: {what}, and the interval of {of}, ± "
                f"{number(100 * least[own.index[0]], 1)} points, is what {own['test_rows'].iloc[0]:,.0f} examples "
                "leave possible where none shows it (Clopper and Pearson); only more examples narrow it."
            )
    return lines

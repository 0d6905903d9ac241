"""The comparison for readers: its table, and what must be known of it, one sentence each."""

from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.comparison import (
    BASELINE,
    BETTER_WITHIN,
    EQUIVALENT,
    GIVEN,
    SHARED,
    TUNED,
    UNDECIDED,
    WITHIN,
    WORSE_WITHIN,
)
from peft_tradeoffs.analysis.readable import NULL, at_most, differs, failed_counts, finer, number, supported_decimals
from peft_tradeoffs.analysis.stats import LEVEL
from peft_tradeoffs.core.text import and_list, arm_label, plural, records
from peft_tradeoffs.tasks.metrics import difference_unit, metric_called, metric_label, metric_words

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


def margin_words(row: dict[str, Any]) -> str:
    """The margin of a row with its unit: "1 point"."""
    metric = metric_called(row["metric"])
    size, unit = row["margin"] * metric.scale, metric.apart
    return f"{size:g} {unit.removesuffix('s') if f'{size:g}' == '1' else unit}".strip()


def verdict_words(row: dict[str, Any], verdict: str = "verdict") -> str:
    """A row's verdict for readers, with the margin where it is within that: "worse, by less than 1 point"."""
    found = row[verdict]
    if pd.isna(found):
        return NULL
    margin = margin_words(row)
    said = {
        WITHIN: f"within {margin}",
        EQUIVALENT: f"equivalent, within {margin}",
        BETTER_WITHIN: f"better, by less than {margin}",
        WORSE_WITHIN: f"worse, by less than {margin}",
    }
    return said.get(found, str(found))


def margin_as_errors(row: dict[str, Any], baseline: str) -> str:
    """What the margin is of the errors that the baseline, whose row this is, makes; empty where none are counted."""
    metric = metric_called(row["metric"])
    if not metric.share or pd.isna(row["mean"]) or row["mean"] >= 1:
        return ""
    more, margin = row["margin"] / (1 - row["mean"]), margin_words(row)
    are = "is" if margin.startswith("1 ") else "are"
    return f"{margin} {are} {100 * more:,.0f} % more errors than {baseline} makes."


AT_BEST = "At the best rate tried"


def at_best_words(row: dict[str, Any]) -> str:
    """The interval of a row's difference with what the choice of a rate may have missed: "[-13.0, +0.9]"."""
    shown = with_interval(
        row["difference"], row["at_best_low"], row["at_best_high"], metric_called(row["metric"]).scale, sign=True
    )
    return shown[shown.index("[") :] if "[" in shown else NULL


def rate_notes(rows: pd.DataFrame, baseline: str) -> list[str]:
    """What is known of the learning rates of one data set and model: one sentence each."""
    tuned = rows[rows["rate"] != GIVEN]
    if tuned.empty:
        return [
            "No learning rate was tuned: what is said of an arm is said of the rate that was given to it, "
            "and of no other one."
        ]
    lines = [
        "Difference: at the learning rates that the arms were trained with. At the best rate tried: with what the "
        f"choice of a rate may have missed, of the arm upwards and of {baseline} downwards; the p values and the "
        "verdict are of this one."
    ]
    if len(given := rows[rows["rate"] == GIVEN]):
        lines.append(
            f"The rate of {', '.join(map(label, records(given)))} was given, not tuned: what is said of it is said of "
            "that rate."
        )
    if len(shared := rows[rows["rate"] == SHARED]):
        names = ", ".join(map(label, records(shared)))
        lines.append(
            f"{names} {'has' if len(shared) == 1 else 'have'} the rate that was tuned at another rank or for another "
            "method: differences between ranks are of this rate."
        )
    own = rows[rows["rate"] == TUNED]
    for row in records(own[own["rates_as_good"].fillna("") != ""]):
        scale = metric_called(row["metric"]).scale
        others = and_list(row["rates_as_good"].split("; "))
        missed, sd = (round(row[key] * scale, 1) for key in ("missed", "missed_sd"))
        gain = (
            f"it may gain {missed:g} {difference_unit(row)} more (standard deviation {sd:g})"
            if missed
            else "it gains hardly more"
        )
        lines.append(f"{label(row)}: on the dev split {others} did as well as the rate taken; at the best rate {gain}.")
    for edge, arms in own.groupby("edge", sort=False):
        names = ", ".join(map(label, records(arms)))
        lines.append(f"{names}: the rate taken is the {edge} that was tried, so a better one may lie beyond.")
    return lines


def comparison_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `comparison_frame` of one data set, model and split as text, units in the header."""
    metric, tuned = metric_called(rows["metric"].iloc[0]), (rows["rate"] != GIVEN).any()
    cells = []
    for row in records(rows):
        low, high = (np.clip(row[bound], *metric.bounds) for bound in ("low", "high"))
        value, least, most = (row[key] for key in ("difference", "difference_low", "difference_high"))
        difference = with_interval(value, least, most, metric.scale, sign=True)
        if difference != NULL and row["n_paired"] != row["n"]:
            difference += f" (n = {row['n_paired']})"
        at_best = {AT_BEST: at_best_words(row)} if tuned else {}
        cells.append(
            {
                "Arm": arm_label(row["method"], row["rank"]),
                "n": str(row["n"]),
                metric_label(row): with_interval(row["mean"], low, high, metric.scale),
                f"Difference, {difference_unit(row)}": difference,
                **at_best,
                "p of a difference": p_value(row["p_different_holm"]),
                "p of equivalence": p_value(row["p_equivalent_holm"]),
                "Verdict": verdict_words(row),
                **differs(rows, row),
            }
        )
        if rows["groups"].notna().any():
            cells[-1]["Groups"] = NULL if pd.isna(row["groups"]) else row["groups"]
    return pd.DataFrame(cells)


def comparison_notes(rows: pd.DataFrame, tables: int = 1) -> list[str]:
    """What a reader must know of a comparison, one of so many tables with tests: one sentence each."""
    metric = metric_called(rows["metric"].iloc[0])
    scale, unit = metric.scale, difference_unit(rows.iloc[0])
    baseline = records(rows[rows["arm"] == rows["baseline"]])[0]
    name = arm_label(baseline["method"], baseline["rank"])
    lines = [HELDOUT] if rows["split"].iloc[0] == "heldout" else []
    lines.append("Means over the n completed runs (seeds) that have a metric.")
    if rows["left_out"].notna().any():
        ways = (
            f"{', '.join(map(label, records(arms)))} ({failed_counts(left_out)}{' each' * (len(arms) > 1)})"
            for left_out, arms in rows.groupby("left_out", sort=False)
        )
        lines.append(f"Runs without one are left out: {', '.join(ways)}.")
    if rows["low"].notna().any():
        lines += _brackets(rows)
    if len(rows) > 1:
        lines.append(f"Differences are to {name}, over the same seeds and examples.")
        lines += rate_notes(rows, name)
    if (compared := rows["p_different"].notna().sum()) > 0:
        lines += _meaning(rows, baseline, name, compared)
        if compared > 1:
            lines.append(UNCORRECTED)
        if tables > 1:
            lines.append(family(tables))
        if rows["smallest_difference"].notna().any():
            size = number(rows["smallest_difference"].max() * scale, metric.decimals - 1)
            lines.append(
                f"With these seeds and {_counted(rows)} a true difference of {size} "
                f"{unit} is found with a probability of 80 %, in the arm where that is largest and at the "
                "strictest level of that correction."
            )
    lines += _bounded(rows, name)
    lines += _of_unsaid(rows, baseline, name)
    if rows["groups"].notna().any():
        lines.append(
            "Groups: arms that share a letter cannot be told apart; every pair is tested, with Holm's correction over "
            "all pairs, which asks for more than the verdicts against one arm do."
        )
    tested = rows["p_different"].notna()
    if tested.any():
        tested |= rows["verdict"] == BASELINE
    what = tested.map({True: "No interval", False: "No interval or test"})
    what = what.mask(rows["low"].notna(), "No test of a difference")
    for (reason, missing), arms in rows.groupby(["reason", what], sort=False):
        lines.append(f"{missing} for {', '.join(map(label, records(arms)))}: {reason}.")
    return lines


def family(tables: int) -> str:
    """What several tables of tests together may claim falsely."""
    some = 100 * (1 - LEVEL**tables)
    return (
        f"Each table (data set, model, split) has its own 5 %; with {tables} tables some false claim has up to "
        f"{some:.0f} %."
    )


def _meaning(rows: pd.DataFrame, baseline: dict[str, Any], name: str, compared: int) -> list[str]:
    """What the verdicts mean, and what the margin is in errors."""
    metric, margin = metric_called(baseline["metric"]), margin_words(baseline)
    unit = "" if metric.apart else f" {difference_unit(baseline)}"
    lines = [
        f"Within {margin}{unit} of {name}: proven by two one-sided tests; better or worse: proven to differ; all at "
        f"5 %, p values with Holm's correction over {compared} {plural('arm', compared)}."
    ]
    if (rows["verdict"] == EQUIVALENT).any():
        most = number(metric.equivalence_margin * metric.scale, 0 if metric.apart else 2)
        lines.append(
            f"Equivalent is said of a margin of at most {most}{f' {metric.apart}' if metric.apart else ''} that is at "
            f"most a fifth of what {name} lacks to the best value, where no difference is proven."
        )
    errors = margin_as_errors(baseline, name)
    return [*lines, errors] if errors else lines


def _of_unsaid(rows: pd.DataFrame, baseline: dict[str, Any], name: str) -> list[str]:
    """Why there is no verdict on some arms."""
    lines = []
    for row in records(rows[rows["unstable"].notna()]):
        of = "every arm, for it is what they are compared with" if row["verdict"] == BASELINE else "it"
        lines.append(
            f"{label(row)}: one of its {row['n']} runs lies far below the others ({row['unstable']}). How often that "
            f"happens {row['n']} runs cannot tell, so there is no verdict on {of}."
        )
    if (rows["verdict"] == UNDECIDED).any():
        within = margin_words(baseline)
        lines.append(
            f"{UNDECIDED.capitalize()}: these runs cannot tell the arm from {name}, nor prove it within {within} of it."
        )
    return lines


FEW_GROUPS = 30


def _brackets(rows: pd.DataFrame) -> list[str]:
    """What the intervals in brackets are over."""
    groups, examples = rows["test_groups"].max(), rows["test_rows"].max()
    others = "test examples" if pd.isna(groups) else f"groups of test rows ({groups:,} of {examples:,})"
    lines = [f"In brackets: 95 % intervals that count both other seeds and other {others}."]
    if not pd.isna(groups) and groups < FEW_GROUPS:
        lines.append(f"{groups} groups are few: with fewer than {FEW_GROUPS} intervals may be too narrow.")
    return lines


def _counted(rows: pd.DataFrame) -> str:
    """What the intervals are over: "872 examples", or "120 groups of rows"."""
    groups = rows["test_groups"].max()
    return f"{rows['test_rows'].max():,.0f} examples" if pd.isna(groups) else f"{groups:,.0f} groups of rows"


def _bounded(rows: pd.DataFrame, baseline: str) -> list[str]:
    """What it means where the number of examples alone makes an interval as wide as it is: one sentence per kind."""
    metric = metric_called(rows["metric"].iloc[0])
    if not metric.share:
        return []
    lines = []
    for low, high, what, of in (
        ("difference_low", "difference_high", f"hardly an answer is unlike {baseline}'s", "the difference"),
        ("low", "high", "hardly an answer is wrong (or hardly one right)", f"the {metric_words(rows.iloc[0])}"),
    ):
        known = rows.dropna(subset=low)
        counted = known["test_groups"].fillna(known["test_rows"])
        least = metric.floor(counted.astype(float), LEVEL)
        own = known[np.isclose(known[high] - known[low], 2 * least, rtol=1e-6)]
        if len(own):
            half = number(metric.scale * least[own.index[0]], metric.decimals - 1)
            lines.append(
                f"{', '.join(map(label, records(own)))}: {what}, and the interval of {of}, ± "
                f"{half} {metric.apart}, is what {_counted(own)} "
                "leave possible where none shows it (Clopper and Pearson); only more examples narrow it."
            )
    return lines

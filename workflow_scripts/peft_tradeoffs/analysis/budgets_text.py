"""The metric reached within budgets as readers see it: one row per arm, one column per budget."""

from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.budgets import UNITS
from peft_tradeoffs.analysis.comparison_text import RANGE, with_interval
from peft_tradeoffs.analysis.readable import NULL, metric_scale, unlike
from peft_tradeoffs.core.arms import arm_label
from peft_tradeoffs.tasks.metric_names import metric_name, with_unit

WHAT = {"train_s": "training time", "energy_J": "energy"}


def budgets_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `budgets_frame` of one data set and model as text: the metric and the epoch by each budget."""
    metric = rows["metric"].iloc[0]
    name = metric_name(rows.iloc[0])
    cells: dict[str, dict[str, str]] = {}
    for row in rows.to_dict("records"):
        line = cells.setdefault(row["arm"], {"Arm": arm_label(row["method"], row["rank"])})
        line[with_unit(f"{name} by {_amount(row['budget'], row['kind'])}", row)] = _reached_text(row, metric)
    return pd.DataFrame(list(cells.values()))


def budgets_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of a table of budgets: one sentence each."""
    lines = [
        "The metric at the last evaluation of the test split within each budget, mean over seeds, and the epoch that "
        "was; end: the arm was done by then.",
        "Training time: the sum of the step times, in the jobs that ran; another job of the same arm may take a little "
        "more or less.",
        "A learning rate that falls to 0 at a run's end makes a point on its way lower than a run planned for that "
        "budget would be: compare what has not reached its end with care.",
    ]
    if rows["low"].notna().any():
        lines.append(
            "In brackets: 95 % t intervals over seeds, without where every seed gave the same; other test examples are "
            "not counted."
        )
    if (rows["n"] == 1).any():
        lines.append("One seed gives no interval.")
    failed = rows.dropna(subset="failed").drop_duplicates("arm")
    if len(failed):
        ways = (f"{arm_label(row['method'], row['rank'])} ({row['failed']})" for row in failed.to_dict("records"))
        lines.append(f"Failed runs are left out, so those that are shown may flatter the arm: {', '.join(ways)}.")
    kinds = rows.groupby("kind", sort=False)["set"].first()
    unset = [WHAT[kind] for kind, was_set in kinds.items() if not was_set]
    if unset:
        lines.append(f"Budgets of {' and '.join(unset)}: what the cheapest arm and the dearest take to their ends.")
    if "energy_J" in kinds:
        lines.append("Energy by then: the run's mean power times its training time by then, since it is not recorded.")
    elif not rows.empty:
        lines.append("No view of equal energy: none was measured.")
    named: dict[str, list[str]] = {}
    for row in rows[rows["mean"].isna()].to_dict("records"):
        names = named.setdefault(row["reason"], [])
        if (name := arm_label(row["method"], row["rank"])) not in names:
            names.append(name)
    first = [f"{', '.join(names)}: {reason}" for reason, names in named.items()]
    return [*lines, *([f"{NULL}: {'; '.join(first)}."] if first else []), *unlike(rows)]


def _amount(budget: float, kind: str) -> str:
    return f"{f'{budget:,.0f}' if budget == int(budget) else f'{budget:g}'} {UNITS[kind]}"


def _reached_text(row: dict[str, Any], metric: str) -> str:
    if pd.isna(row["mean"]):
        return NULL
    low, high = (np.clip(row[bound], *RANGE[metric]) for bound in ("low", "high"))
    text = with_interval(row["mean"], low, high, metric_scale(metric))
    first, last = (f"{row[key]:.3g}" for key in ("first_epoch", "last_epoch"))
    epoch = "end" if row["end"] else f"epoch {first}" if first == last else f"epochs {first}–{last}"
    if row["n"] != row["n_runs"]:
        epoch += f", n = {row['n']} of {row['n_runs']}"
    return f"{text} ({epoch})"

"""The metric that each arm has reached by a time or an energy: the view of equal cost."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.comparison_text import with_interval
from peft_tradeoffs.analysis.finished import verified
from peft_tradeoffs.analysis.readable import NULL, unlike
from peft_tradeoffs.analysis.stats import by_seed, failures, over_seeds
from peft_tradeoffs.analysis.tables import ARM, COMPLETED, random_weights
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.seal import REMEDY
from peft_tradeoffs.core.text import arm_label, first_record, groups_of, records
from peft_tradeoffs.tasks.metrics import Metric, metric_called, metric_name, with_unit

UNITS = {"train_s": "s", "energy_J": "J"}
MEASURED = {"train_s": "train_s", "energy_J": "mean_power_W"}  # what of a run's summary a budget needs
COLUMNS = (
    *ARM, "method", "rank", "pretrained", "metric", "positive_class", "kind", "budget", "set", "n_runs", "n", "failed",
    "differs", "first_epoch", "last_epoch", "end", "mean", "sd", "low", "high", "reason",
)  # fmt: skip
WHOLE = ("rank", "n_runs", "n")
NUMBERS = ("budget", "first_epoch", "last_epoch", "mean", "sd", "low", "high")
Evaluations = pd.DataFrame  # of the test split: epoch, train_s, value


def read_evaluations(path: Path, metric: str) -> Evaluations:
    """Evaluations of the test split of a run's metrics.csv. Raises InputError if the file is broken."""
    remedy = REMEDY
    verified(path.parent, path.name)
    try:
        table = pd.read_csv(path)
        rows = table[table["split"] == "test"]
        found = pd.DataFrame({"epoch": rows["epoch"], "train_s": rows["train_s"], "value": rows[metric]}).astype(float)
    except KeyError as error:
        raise InputError(f"{path}: not a run's metrics (no column {error}); {remedy}") from None
    except ValueError as error:
        raise InputError(f"{path}: not a run's metrics ({error}); {remedy}") from None
    if found.empty:
        raise InputError(f"{path}: no evaluation of the test split; {remedy}")
    return found.sort_values("train_s").reset_index(drop=True)


def budgets_frame(
    runs: pd.DataFrame, budgets: dict[str, list[float]], evaluations: Callable[[dict[str, Any]], Evaluations]
) -> pd.DataFrame:
    """One row per (data set, model, budget, arm) in the order of `runs`, columns as in COLUMNS; none of random weights.

    `budgets` are seconds of training steps and joules, by kind; for an empty list what the cheapest arm and the dearest
    take to their ends (`set` is False), by their slowest seed, rounded up to two digits. `evaluations` gives those of a
    run. The metric is that of a run's last evaluation within the budget: mean over the n seeds that have one, 95 % t
    interval over seeds (none for one seed), first_epoch to last_epoch, and whether all of them were at their `end`. The
    energy at an evaluation is not recorded: it is taken as the run's mean power times its training time by then. n_runs
    are all runs of the arm, `failed` how some of them ended, if not all. What a null means is in `reason`.
    """
    rows = []
    for _, own in runs.groupby(["dataset", "model"], sort=False):
        if not random_weights(own):
            curves = {(run["arm"], run["seed"]): evaluations(run) for run in records(own[own["status"] == COMPLETED])}
            for kind in UNITS:
                rows += _of_kind(own, kind, budgets[kind], curves)
    types = dict.fromkeys(WHOLE, "Int64") | dict.fromkeys(NUMBERS, float)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(types)


def _of_kind(
    runs: pd.DataFrame, kind: str, budgets: list[float], curves: dict[tuple[str, int], Evaluations]
) -> list[dict[str, Any]]:
    """The rows of one data set and model for budgets of time, or of energy."""
    arms = dict(groups_of(runs, "arm"))
    spent: dict[str, dict[int, Evaluations]] = {}  # with a column `spent`
    reasons = {}
    for arm, own in arms.items():
        values, reasons[arm] = by_seed(own, MEASURED[kind])
        spent[arm] = {
            seed: (curve := curves[arm, seed]).assign(spent=curve["train_s"] * (value if kind == "energy_J" else 1.0))
            for seed, value in values.items()
        }
    chosen = budgets or _ends(spent)
    rows = []
    for budget in sorted(chosen):
        for arm, own in arms.items():
            row = first_record(own[[*ARM, "method", "rank", "pretrained", "metric", "positive_class", "differs"]])
            row |= {"kind": kind, "budget": budget, "set": bool(budgets), "n": 0}
            row["n_runs"] = len(own)
            row["failed"] = failures(own) if (own["status"] == COMPLETED).any() else None
            found = {"reason": reasons[arm]} if reasons[arm] is not None else _reached(spent[arm], budget, UNITS[kind])
            rows.append(row | found)
    return rows


def _ends(spent: dict[str, dict[int, Evaluations]]) -> list[float]:
    """What the arm that is cheapest in the mean takes to its end, and the dearest; rounded up to two digits."""
    ends = {arm: [curve["spent"].iloc[-1] for curve in seeds.values()] for arm, seeds in spent.items() if seeds}
    if not ends:
        return []
    by_mean = sorted(ends, key=lambda arm: np.mean(ends[arm]))
    return list(dict.fromkeys(round_up(max(ends[arm])) for arm in (by_mean[0], by_mean[-1])))


def round_up(value: float) -> float:
    """The next number of two significant digits that is not less."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / step * (1 - 1e-12)) * step:.12g}")


def _reached(curves: dict[int, Evaluations], budget: float, unit: str) -> dict[str, Any]:
    """The metric of an arm at the last evaluations within a budget."""
    last = [within.iloc[-1] for curve in curves.values() if len(within := curve[curve["spent"] <= budget])]
    if not last:
        first = min(curve["spent"].iloc[0] for curve in curves.values())
        return {"reason": f"first evaluation after {first:.3g} {unit}"}
    epochs = [row["epoch"] for row in last]
    ends = [curve["spent"].iloc[-1] <= budget for curve in curves.values()]
    values = np.array([row["value"] for row in last])
    found = {"n": len(last), "first_epoch": min(epochs), "last_epoch": max(epochs), "end": all(ends)}
    if np.isnan(values).any():
        return {**found, "reason": "the metric was not defined then"}
    found["mean"] = float(values.mean())
    estimate = over_seeds(values)
    if estimate is None:
        return {**found, "reason": "one seed, which gives no interval"}
    low, high = estimate.interval()
    return {**found, "sd": float(values.std(ddof=1)), "low": low, "high": high}


WHAT = {"train_s": "training time", "energy_J": "energy"}


def budgets_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `budgets_frame` of one data set and model as text: the metric and the epoch by each budget."""
    metric = metric_called(rows["metric"].iloc[0])
    name = metric_name(rows.iloc[0])
    cells: dict[str, dict[str, str]] = {}
    for row in records(rows):
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
        ways = (f"{arm_label(row['method'], row['rank'])} ({row['failed']})" for row in records(failed))
        lines.append(f"Failed runs are left out, so those that are shown may flatter the arm: {', '.join(ways)}.")
    kinds = {kind: own["set"].iloc[0] for kind, own in groups_of(rows, "kind")}
    unset = [WHAT[kind] for kind, was_set in kinds.items() if not was_set]
    if unset:
        lines.append(f"Budgets of {' and '.join(unset)}: what the cheapest arm and the dearest take to their ends.")
    if "energy_J" in kinds:
        lines.append("Energy by then: the run's mean power times its training time by then, since it is not recorded.")
    elif not rows.empty:
        lines.append("No view of equal energy: none was measured.")
    named: dict[str, list[str]] = {}
    for row in records(rows[rows["mean"].isna()]):
        names = named.setdefault(row["reason"], [])
        if (name := arm_label(row["method"], row["rank"])) not in names:
            names.append(name)
    first = [f"{', '.join(names)}: {reason}" for reason, names in named.items()]
    return [*lines, *([f"{NULL}: {'; '.join(first)}."] if first else []), *unlike(rows)]


def _amount(budget: float, kind: str) -> str:
    return f"{f'{budget:,.0f}' if budget == int(budget) else f'{budget:g}'} {UNITS[kind]}"


def _reached_text(row: dict[str, Any], metric: Metric) -> str:
    if pd.isna(row["mean"]):
        return NULL
    low, high = (np.clip(row[bound], *metric.bounds) for bound in ("low", "high"))
    text = with_interval(row["mean"], low, high, metric.scale)
    first, last = (f"{row[key]:.3g}" for key in ("first_epoch", "last_epoch"))
    epoch = "end" if row["end"] else f"epoch {first}" if first == last else f"epochs {first}–{last}"
    if row["n"] != row["n_runs"]:
        epoch += f", n = {row['n']} of {row['n_runs']}"
    return f"{text} ({epoch})"

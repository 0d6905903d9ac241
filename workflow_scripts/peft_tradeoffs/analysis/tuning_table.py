"""The trials of tuning as a table, one row per learning rate tried, and what a choice of a rate leaves open."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from peft_tradeoffs.analysis.readable import number
from peft_tradeoffs.analysis.tables import ARM, read_table
from peft_tradeoffs.core.layout import VALIDATION
from peft_tradeoffs.core.text import and_list, arm_label, groups_of, plural, records, sort_runs
from peft_tradeoffs.runs.plan import Trial, eligible, failed_again, retried
from peft_tradeoffs.tasks.metrics import metric_called
from peft_tradeoffs.tasks.shown import metric_name, with_unit

COLUMNS = (
    *ARM, "method", "rank", "decides", "pretrained", "metric", "positive_class", "learning_rate", "added", "earlier",
    "status", "failed_phase", "diverged_step", "trials", "value", "loss", "steps", "train_s", "energy_J", "chosen",
    "tied", "gap", "gap_sd", "failed_again", "edge", "reason", "extensions", "seed", "batch_size", "train_rows",
    "dev_rows", "dev",
)  # fmt: skip
WHOLE = ("rank", "extensions", "diverged_step", "trials", "steps", "seed", "batch_size", "train_rows", "dev_rows")
NUMBERS = ("learning_rate", "value", "loss", "train_s", "energy_J", "gap", "gap_sd")


def tuning_frame(tunings: list[dict[str, Any]], deciding: set[str]) -> pd.DataFrame:
    """One row per learning rate that `tunings` (what tune.py wrote) tried, columns as in COLUMNS.

    value and loss are those of the dev split after the last step, means over the rate's trials; train_s and energy_J
    are sums over them; steps and seed are of the first. chosen: the rate that the arm's tuning gives; gap: how far the
    rate lies below it, over the trials that both have, gap_sd its standard error; tied: the gap is no more than two of
    these; failed_again: its first trial gave a metric and a later one did not; dev: the split that the dev rows are of,
    train (carved from it) or validation; earlier: of an earlier grid, still standing, but not chosen from; decides:
    whether final runs take it (`deciding` arms), or it is a check at another rank.
    """
    rows = [
        {
            **{key: found.get(key) for key in COLUMNS},
            "trials": 1,
            **trial,
            **gaps.get(trial["learning_rate"], {}),
            "decides": found["arm"] in deciding,
            "earlier": earlier,
            "chosen": trial["learning_rate"] == found["learning_rate"],
            "tied": not earlier and trial["learning_rate"] in found["tied"],
            "failed_again": not earlier and trial["learning_rate"] in failed,
        }
        for found in tunings
        for gaps, failed in [(_gaps(found), _failed_again(found))]
        for earlier, trials in ((False, _by_rate(found)), (True, found["earlier"]))
        for trial in sorted(trials, key=lambda trial: trial["learning_rate"])
    ]
    frame = sort_runs(pd.DataFrame(rows, columns=list(COLUMNS)))
    return frame.astype(dict.fromkeys(WHOLE, "Int64") | dict.fromkeys(NUMBERS, float))


def _gaps(found: dict[str, Any]) -> dict[float, dict[str, float | None]]:
    return {
        one["learning_rate"]: {
            "gap": one["mean"],
            "gap_sd": None if one["variance"] is None else one["variance"] ** 0.5,
        }
        for one in found["gaps"]
    }


def _failed_again(found: dict[str, Any]) -> set[float]:
    """Rates whose first trial gave a metric, and one that was made again did not."""
    return failed_again(found["retries"]) & {trial["learning_rate"] for trial in eligible(found["trials"])}


def _by_rate(found: dict[str, Any]) -> list[Trial]:
    """One trial per rate of a grid, where several were made with their means and the sums of what they took."""
    made = [*found["trials"], *found["retries"]]
    merged = {
        trial["learning_rate"]: trial for trial in (*found["trials"], *retried(found["trials"], found["retries"]))
    }
    for rate, trial in merged.items():
        own = [one for one in made if one["learning_rate"] == rate]
        sums = {key: _sum(one.get(key) for one in own) for key in ("train_s", "energy_J")}
        merged[rate] = {**trial, **sums, "trials": len(own)}
    return list(merged.values())


def _sum(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if any(value is None for value in known) else sum(value for value in known if value is not None)


def read_tuning(path: Any) -> pd.DataFrame:
    """Read a tuning.csv that `tuning_frame` made. Raises InputError if it is missing or damaged."""
    text = ("dataset", "model", "arm", "method", "metric", "positive_class", "status", "failed_phase", "edge", "reason")
    types = dict.fromkeys(text, object) | dict.fromkeys(WHOLE, "Int64")
    return read_table(path, COLUMNS, "make it again with make_tuning.py", types, NUMBERS)


def outcome(row: dict[str, Any]) -> str:
    """How a trial ended, in words."""
    if row["status"] == "completed":
        return "completed" if not pd.isna(row["value"]) else "no metric"
    if row["status"] == "oom":
        return f"out of memory in {row['failed_phase']}"
    return f"diverged at step {row['diverged_step']}"


def ruined(trials: pd.DataFrame) -> "pd.Series[bool]":
    """Which trials of a data set and model are so far worse than every arm's best one that a figure would press the
    others together: by more than twice what the best ones lie apart, and more than 0.05."""
    values = metric_called(trials["metric"].iloc[0]).gain(trials["value"])
    best = values.groupby(trials["arm"]).max()
    return values < best.min() - max(2 * (best.max() - best.min()), 0.05)


def tuning_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The trials of one data set and model as text, units in the header."""
    metric = rows["metric"].iloc[0]
    scale, decimals = metric_called(metric).scale, metric_called(metric).decimals
    on_dev = with_unit(f"{metric_name(rows.iloc[0])} on dev", rows.iloc[0])
    cells = []
    for row in records(rows):
        chosen = ("chosen" if row["decides"] else "best here") if row["chosen"] else "tied" if row["tied"] else ""
        mark = " (added)" if row["added"] else " (earlier grid)" if row["earlier"] else ""
        cells.append(
            {
                "Arm": arm_label(row["method"], row["rank"]),
                "Learning rate": f"{row['learning_rate']:.3g}{mark}",
                on_dev: number(row["value"] * scale, decimals),
                "Loss on dev": number(row["loss"], 4),
                "Trials": number(row["trials"], 0),
                "Steps": number(row["steps"], 0),
                "Status": outcome(row),
                "": chosen,
            }
        )
    return pd.DataFrame(cells)


def tuning_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of the tuning of one data set and model: one sentence each."""
    first = rows.iloc[0]
    planned = rows[~rows["added"] & ~rows["earlier"]].groupby("arm").size().max()
    shared = first["dev"] == VALIDATION
    judged = f"{first['dev_rows']:,} rows of {VALIDATION}" if shared else f"{first['dev_rows']:,} others of it"
    one_row = f", of which one is {100 / first['dev_rows']:.2g} %" if metric_called(first["metric"]).share else ""
    lines = [
        f"Trials: {planned} rates per arm, {number(rows['steps'].max(), 0)} steps each of batch {first['batch_size']} "
        f"with seed {first['seed']}, trained on {first['train_rows']:,} rows of train and judged on {judged}{one_row}; "
        "test was not looked at.",
    ]
    if shared:
        lines.append(
            f"All trials are judged on the same rows, those of {VALIDATION}: more trials do not average out what is "
            "peculiar to these."
        )
    if (rows["trials"] > 1).any():
        times = int(rows["trials"].max()) - 1
        lines.append(
            f"Rates that could not be told from the best one of an arm were tried again with it, {times} "
            f"{plural('time', times)}, each time with a seed{'' if shared else ' and a dev split'} of its own: their "
            "metric and loss are means, and the best mean decided."
        )
    for _, own in rows.groupby("arm", sort=False):
        lines += _of_arm(own)
    if rows["tied"].any():
        lines.append(
            "±: one standard error; a rate within two of them is tied, and what the choice among such rates may have "
            "missed is in the comparison's intervals."
        )
    return [*lines, f"All trials together took {_taken(rows)}.", *_checks(rows)]


def tuning_cost(rows: pd.DataFrame) -> str:
    """What the trials of one data set and model took, all and by arm, in a sentence; "" where there was none."""
    if rows.empty:
        return ""
    arms = [
        f"{arm_label(own['method'].iloc[0], own['rank'].iloc[0])} {_seconds(own['train_s'])}"
        for _, own in groups_of(rows, "arm")
    ]
    by_arm = f" ({', '.join(arms)})" if len(arms) > 1 else ""
    count = int(rows["trials"].sum())
    return (
        f"Tuning took {count} more {plural('training', count)}: {_taken(rows)}{by_arm}. They are not in the "
        "table, whose hours are of whole runs."
    )


def _taken(rows: pd.DataFrame) -> str:
    """Seconds of training steps and watt-hours of these trials; at least so much where one of them has no seconds."""
    energy_J = rows["energy_J"].sum(min_count=len(rows))
    energy = "" if pd.isna(energy_J) else f" and {number(energy_J / 3600)} Wh"
    return f"{_seconds(rows['train_s'])} of training steps{energy}"


def _seconds(each: pd.Series) -> str:
    if each.isna().all():
        return "an unknown time"
    return f"{'at least ' if each.isna().any() else ''}{number(each.sum())} s"


def _of_arm(rows: pd.DataFrame) -> list[str]:
    """What must be known of one arm's tuning."""
    row, lines = rows.iloc[0], []
    name, rate = arm_label(row["method"], row["rank"]), rows[rows["chosen"]]["learning_rate"].iloc[0]
    if not pd.isna(row["reason"]):
        lines.append(f"{name}: {row['reason']} is taken, {rate:.3g}.")
    if not pd.isna(row["edge"]):
        remedy = "widen the grid" if row["extensions"] else "widen the grid, or set tune.extend"
        lines.append(
            f"{name}: the best rate, {rate:.3g}, is the {row['edge']} that was tried, so a better one may lie "
            f"beyond: {remedy}."
        )
    if pd.isna(row["reason"]) and len(failed := records(rows[rows["failed_again"]])):
        rates = and_list([f"{one['learning_rate']:.3g} ({outcome(one)})" for one in failed])
        lines.append(f"{name}: {rates} failed when tried again: a rate that does not always learn is not taken.")
    if rows["tied"].any():
        lines.append(f"{name}: {_tie(rows)}.")
    if rows["added"].any():
        lines.append(f"{name}: rates added beyond the grid's edge, {rows['added'].sum()}.")
    if rows["earlier"].any():
        rates = ", ".join(f"{rate:.3g}" for rate in rows[rows["earlier"]]["learning_rate"])
        lines.append(f"{name}: of an earlier grid, so not chosen from, {rates}.")
    return lines


def _tie(rows: pd.DataFrame) -> str:
    """Which rates of an arm cannot be told from the one taken, how far they lie from it, and after how many trials."""
    tied, best = records(rows[rows["tied"]]), records(rows[rows["chosen"]])[0]
    metric = metric_called(best["metric"])
    said = []
    for row in tied:
        trials = min(int(row["trials"]), int(best["trials"]))
        after = f"{trials} {plural('trial', trials)}{' each' * (trials > 1)}"
        gap = f"{number(abs(row['gap']) * metric.scale, metric.decimals - 1)} {metric.apart}".strip()
        error = "" if pd.isna(row["gap_sd"]) else f" ± {number(row['gap_sd'] * metric.scale, metric.decimals - 1)}"
        where = "lower" if (row["gap"] >= 0) == metric.higher_is_better else "higher"
        said.append(f"{row['learning_rate']:.3g} ({gap}{error} {where}, by {after})")
    return f"{and_list(said)} cannot be told on dev from {best['learning_rate']:.3g}, which is taken"


def _checks(rows: pd.DataFrame) -> list[str]:
    """Whether a method's rate holds at the ranks that check it."""
    lines = []
    best = rows[rows["chosen"]]
    for method, own in groups_of(best, "method"):
        decided = own[own["decides"]]
        for row in records(own[~own["decides"]]):
            for other in records(decided):
                here, there = (arm_label(method, one["rank"]) for one in (row, other))
                tried = rows[(rows["arm"] == row["arm"]) & (rows["learning_rate"] == other["learning_rate"])]
                if row["learning_rate"] == other["learning_rate"]:
                    lines.append(f"{here}, a check, has the same best rate as {there}.")
                    continue
                line = f"{here}, a check, is best at {row['learning_rate']:.3g}; with the rate of {there}, "
                line += f"{other['learning_rate']:.3g}, "
                if tried.empty:
                    lines.append(f"{line}it was not tried.")
                elif pd.isna(tried["value"].iloc[0]):
                    lines.append(f"{line}it {outcome(tried.iloc[0].to_dict())}.")
                else:
                    metric = metric_called(row["metric"])
                    lost = number(metric.gain(row["value"] - tried["value"].iloc[0]) * metric.scale, metric.decimals)
                    by = f"{lost} {metric.apart}".rstrip()
                    where = "lower" if metric.higher_is_better else "higher"
                    lines.append(f"{line}its {metric_name(row)} is {by} {where}.")
    return lines

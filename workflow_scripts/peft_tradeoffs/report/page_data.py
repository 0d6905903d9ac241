"""What the report's page draws, as JSON, and its table of arms."""

import math
from typing import Any

import pandas as pd

from peft_tradeoffs.analysis import readable, tables
from peft_tradeoffs.analysis.attribution import NAMES
from peft_tradeoffs.analysis.comparison import SHARED, TUNED
from peft_tradeoffs.analysis.comparison_text import AT_BEST, at_best_words, verdict_words, with_interval
from peft_tradeoffs.analysis.stats import WITHOUT, counted, interval_notes
from peft_tradeoffs.analysis.tables import OF_SPLIT, SPLIT
from peft_tradeoffs.analysis.tuning_table import ruined
from peft_tradeoffs.core.quantities import LOW, Quantity
from peft_tradeoffs.core.text import arm_label, method_label, records
from peft_tradeoffs.report.sweep import Sweep, conditions, no_metric
from peft_tradeoffs.tasks import recorded
from peft_tradeoffs.tasks.metrics import Row, difference_unit, heldout_label, metric_called, metric_label, metric_of
from peft_tradeoffs.tasks.recorded import QUANTITIES

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
        **{label: f"{key}_mean" for key, label in recorded.LABEL.items()},
        recorded.LABEL["trainable_parameters"]: "trainable_parameters",
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
    scale = metric_called(metric["metric"]).scale
    at = list(text.columns).index(header) + 1
    name = f"Difference{where}, {difference_unit(metric)}"
    shown = [
        with_interval(row["difference"], row["difference_low"], row["difference_high"], scale, sign=True)
        for row in records(rows)
    ]
    text.insert(at, name, shown)
    if rows["rate"].isin((TUNED, SHARED)).any():
        at += 1
        text.insert(at, f"{AT_BEST}{where}", [at_best_words(row) for row in records(rows)])
    text.insert(at + 1, f"Verdict{where}", [verdict_words(row) for row in records(rows)])
    by[name] = rows["difference"].reset_index(drop=True)


# What an axis of the trade-off can show, and which end of it is better: results, costs by their unit, settings.
_UNITS = ("MiB", "s", "ms", "rows/s", "tokens/s", "J", "J/row")
_KINDS = ("result", "cost", "setting")


def _place(quantity: Quantity) -> tuple[int, int]:
    unit = _UNITS.index(quantity.unit) if quantity.unit in _UNITS else len(_UNITS)
    return _KINDS.index(quantity.kind), unit


AXES = {
    quantity.name: quantity.better
    for quantity in sorted((each for each in QUANTITIES.values() if each.better), key=_place)
} | {"hours": LOW}
OF_KEYS = tuple(keys[0] for keys in OF_SPLIT.values())  # the metrics, whose intervals are the comparison's
LABEL = recorded.LABEL | {"hours": "GPU or machine hours per run"}


def pair_data(
    sweep: Sweep,
    comparison: pd.DataFrame,
    attribution: pd.DataFrame,
    recommendation: pd.DataFrame,
    warnings: list[str],
) -> dict[str, Any]:
    """All that the page shows of one data set and model; the others are rows of their tables, for any pair."""
    runs = sweep.runs.copy().assign(hours=sweep.runs["wall_s"].astype(float) / 3600)
    arms = tables.arms_frame(runs)
    random = tables.random_weights(runs)
    axes = _axes(sweep, arms, random)
    own, causes, judged = (
        table[(table["dataset"] == sweep.dataset) & (table["model"] == sweep.model)]
        for table in (comparison, attribution, recommendation)
    )
    return {
        "dataset": sweep.dataset,
        "model": sweep.model,
        "random": readable.RANDOM if random else "",
        "no_metric": no_metric(sweep),
        "metric": {"label": sweep.metric_name, "axis": sweep.metric_axis, "scale": sweep.scale, "unit": _unit(sweep)},
        "conditions": conditions(runs),
        "warnings": warnings,
        "notes": readable.costs_notes(arms),
        "axes": axes,
        "absent": _absent(runs, {axis["key"] for axis in axes}),
        "arms": _arms(sweep, runs, arms, axes),
        "runs": _runs(sweep, runs, axes),
        "intervals": _interval_notes(sweep, axes),
        "curves": _curves(sweep),
        "trials": _trials(sweep),
        "memory": _memory(arms),
        "attribution": _attribution(causes),
        "taken": judged["arm"][judged["cheapest"].eq(True)].tolist() if len(judged) else [],
        "table": arms_table(arms, own),
    }


def _unit(sweep: Sweep) -> str:
    return difference_unit(sweep.named) if sweep.metric else ""


def _scale(sweep: Sweep, key: str) -> float:
    return sweep.scale if key in OF_KEYS else 1.0


def _axes(sweep: Sweep, arms: pd.DataFrame, random: bool) -> list[dict[str, Any]]:
    names = LABEL | {
        "metric_value": metric_label(sweep.named),
        "heldout_metric_value": heldout_label(sweep.named),
    }
    return [
        {"key": key, "label": names[key], "better": better}
        for key, better in AXES.items()
        if _mean(arms, key).notna().any() and not (random and key in OF_KEYS)
    ]


def _interval_notes(sweep: Sweep, axes: list[dict]) -> list[str]:
    """Which measurements have no interval though seeds would give one, and why."""
    keys = [axis["key"] for axis in axes if axis["key"] in sweep.runs and axis["key"] not in OF_KEYS]
    return interval_notes(sweep.runs, sweep.noise, [key for key in keys if key not in WITHOUT])[1:]


def _absent(runs: pd.DataFrame, measured: set[str]) -> list[str]:
    """What no run has a value of, and why: a text a reason."""
    reasons: dict[str, list[str]] = {}
    for key in AXES:
        if key not in measured and key in tables.COLUMNS:
            for why in readable.null_reasons(runs, key):
                reasons.setdefault(why, []).append(LABEL[key].partition(",")[0])
    return [f"{', '.join(keys)} ({why})" for why, keys in reasons.items()]


def _mean(arms: pd.DataFrame, key: str) -> pd.Series:
    """An axis's mean of every arm: a setting where the arm has one value, as numbers."""
    return pd.to_numeric(arms[f"{key}_mean" if f"{key}_mean" in arms else key], errors="coerce")


def _arms(sweep: Sweep, runs: pd.DataFrame, arms: pd.DataFrame, axes: list[dict]) -> list[dict[str, Any]]:
    found = []
    for position, row in enumerate(records(arms)):
        own = runs[runs["arm"] == row["arm"]]
        values = {}
        for key in (axis["key"] for axis in axes):
            mean = _mean(arms, key).iloc[position]
            if pd.isna(mean):
                continue
            scale = _scale(sweep, key)
            ends = sweep.interval(own, key) if key in own else None
            low, high = ends or (math.nan, math.nan)
            values[key] = {
                "mean": number(mean * scale),
                "low": number(low * scale),
                "high": number(high * scale),
                "text": with_interval(mean, low, high, scale),
            }
        found.append(
            {
                "arm": row["arm"],
                "label": arm_label(row["method"], row["rank"]),
                "method": row["method"],
                "rank": None if pd.isna(row["rank"]) else int(row["rank"]),
                "n": int(row["n"]),
                "values": values,
            }
        )
    return found


def _runs(sweep: Sweep, runs: pd.DataFrame, axes: list[dict]) -> list[dict[str, Any]]:
    """One row per seed: the values that the means are taken over."""
    values: dict[tuple[str, int], dict[str, Any]] = {}
    for key in (axis["key"] for axis in axes):
        for row in records(counted(runs, key)):
            values.setdefault((row["arm"], row["seed"]), {})[key] = number(row[key] * _scale(sweep, key))
    return [{"arm": arm, "seed": int(seed), "values": own} for (arm, seed), own in values.items()]


def _curves(sweep: Sweep) -> list[dict[str, Any]]:
    """The metric at every evaluation that came several times per run: on the validation split if there is one."""
    if sweep.metric is None or sweep.curves.empty or sweep.metric not in sweep.curves:
        return []
    splits = list(sweep.curves["split"].unique())
    split = "validation" if "validation" in splits else "test"
    own = sweep.curves[sweep.curves["split"] == split].dropna(subset=sweep.metric)
    return [
        {
            "arm": row["arm"],
            "seed": int(row["seed"]),
            "split": split,
            "epoch": number(row["epoch"]),
            "step": int(row["step"]),
            "train_s": number(row["train_s"]),
            "value": number(row[sweep.metric] * sweep.scale),
        }
        for row in records(own)
    ]


def _trials(sweep: Sweep) -> list[dict[str, Any]]:
    if sweep.tuning.empty:
        return []
    trials = sweep.tuning.assign(ruined=ruined(sweep.tuning))
    return [
        {
            "arm": row["arm"],
            "method": row["method"],
            "label": arm_label(row["method"], row["rank"]),
            "rank": number(row["rank"]),
            "check": not row["decides"],
            "rate": number(row["learning_rate"]),
            "value": number(row["value"] * sweep.scale),
            "ruined": row["ruined"],
            "chosen": bool(row["chosen"] and row["decides"]),
            "status": row["status"],
        }
        for row in records(trials)
    ]


def _memory(arms: pd.DataFrame) -> list[dict[str, Any]]:
    found = []
    for row in records(arms):
        peak = tables.memory_key(row["device"])
        for order, (part, key) in enumerate(zip(readable.PARTS, SPLIT, strict=True)):
            if (size := number(row[f"{key}_mean"])) is not None:
                found.append(
                    {
                        "arm": row["arm"],
                        "part": part,
                        "order": order,
                        "MiB": size,
                        "peak": number(row[f"{peak}_mean"]) if row["device"] == "cuda" else None,
                    }
                )
    return found


def _attribution(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The change of each quantity by each factor, in percent of the base."""
    found = []
    for row in records(rows[rows["kind"] != "base"]):
        if row["quantity"] == "metric_value" or pd.isna(row["percent"]):
            continue
        share = row["percent"] / row["value"] if row["value"] else 0.0
        found.append(
            {
                "factorial": row["factorial"],
                "quantity": NAMES.get(row["quantity"], row["quantity"]).partition(",")[0],
                "effect": row["effect"],
                "percent": number(row["percent"]),
                "low": number(row["low"] * share),
                "high": number(row["high"] * share),
            }
        )
    return found


def method_data(styles: dict[str, Any]) -> list[dict[str, str]]:
    """The methods in order with their names and shapes; their colours are CSS variables --m0, --m1 …"""
    return [
        {"method": method, "label": method_label(method), "shape": SHAPES[styles[method].marker]} for method in styles
    ]


HEXAGON = "M0,-1L0.87,-0.5L0.87,0.5L0,1L-0.87,0.5L-0.87,-0.5Z"
# Vega's shapes for matplotlib's markers.
SHAPES = {
    "h": HEXAGON, "o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross",
    "X": "triangle-left", "p": "triangle-right",
}  # fmt: skip


def imported_data(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Results that were not measured here: the rows of imported.csv, as one chart draws them."""
    return [
        {
            "source": row["source"],
            "status": row["status"],
            "experiment": row["experiment"],
            "method": row["method"],
            "rank": None if pd.isna(row["rank"]) else int(row["rank"]),
            "model": row["model"],
            "dataset": row["dataset"],
            "metric": None if pd.isna(row["metric"]) else row["metric"],
            "metric_value": number(row["metric_value"]),
            "peak_memory_MiB": number(row["peak_memory_MiB"]),
            "train_s": number(row["train_s"]),
        }
        for row in records(rows)
    ]

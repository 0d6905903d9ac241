"""Trainable parameters: how many each arm has, and what accuracy they bring."""

import csv
import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from peft_tradeoffs.analysis import readable
from peft_tradeoffs.analysis.finished import verified
from peft_tradeoffs.analysis.run_files import REMEDY
from peft_tradeoffs.analysis.tables import COMPLETED
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.report import style
from peft_tradeoffs.report.bars import by_arm, draw_gap, name_rows, names, rows_height
from peft_tradeoffs.report.canvas import canvas, message, styled
from peft_tradeoffs.report.scatter import log_ticks
from peft_tradeoffs.report.sweep import Sweep, no_metric, reason

HEAD = "The head's parameters, which every arm trains, are among them."


@styled
def trainable_parameters_by_arm(sweep: Sweep) -> Figure:
    """How many parameters an arm trains and their share of all it has, on logarithmic axes."""
    title = "Trainable parameters by arm"
    arms = sweep.arms.assign(
        **{
            key: pd.to_numeric(sweep.arms[key], errors="coerce")
            for key in ("trainable_parameters", "trainable_percent")
        }
    )
    if arms["trainable_parameters"].isna().all():
        return message(sweep, title, reason(sweep.runs, "trainable_parameters"))
    labels = names(arms)
    figure = canvas(sweep, title, rows_height(labels) + 0.5, [HEAD], style.DOUBLE)
    left, right = figure.subplots(1, 2, sharey=True)
    draw_counts(left, sweep, arms, "trainable_parameters", lambda value: readable.number(value, 0))
    draw_counts(right, sweep, arms, "trainable_percent", lambda value: f"{readable.number(value)} %")
    right.set_xlim(right=min(right.get_xlim()[1], 140))  # of all parameters no more than all
    for y, row in enumerate(arms.to_dict("records")):
        if pd.isna(row["trainable_parameters"]):
            draw_gap(left, y, reason(sweep.runs[sweep.runs["arm"] == row["arm"]], "trainable_parameters"), labels)
    name_rows(left, labels)
    right.tick_params(axis="y", length=0)
    left.set_xlabel("Trainable parameters (log scale)")
    right.set_xlabel("Share of all parameters, % (log scale)")
    return figure


def draw_counts(axes: Axes, sweep: Sweep, arms: pd.DataFrame, key: str, form: Callable[[float], str]) -> None:
    """One dot per arm on a logarithmic axis, its number at the right."""
    values = arms[key].astype(float)
    axes.scatter(values, range(len(arms)), s=16, color=[sweep.styles[name].colour for name in arms["method"]], zorder=3)
    axes.set_xscale("log")
    axes.margins(x=0.08)
    log_ticks(axes)
    style.grid_along(axes, "x")
    place = axes.get_yaxis_transform()
    for y, value in values.dropna().items():
        axes.text(1.01, y, form(value), transform=place, va="center", fontsize=style.SMALL)


@styled
def accuracy_gain_per_million_by_arm(sweep: Sweep) -> Figure:
    """Accuracy gained over the majority class for each million trainable parameters."""
    title = "Accuracy gain over the majority class a million trainable parameters"
    done = sweep.runs[sweep.runs["status"] == COMPLETED]
    if done["accuracy"].isna().all():
        return message(sweep, title, no_metric(sweep) or reason(sweep.runs, "accuracy"))
    first = done.dropna(subset="accuracy").iloc[0]
    share = majority(sweep.runs_dir / first["arm"] / f"seed{first['seed']}" / "predictions.csv")
    gain = 100 * (sweep.runs["accuracy"].astype(float) - share)
    # In accuracy's column, whose reasons and rules of averaging it shares.
    runs = sweep.runs.assign(accuracy=gain / (sweep.runs["trainable_parameters"].astype(float) / 1e6))
    return by_arm(
        dataclasses.replace(sweep, runs=runs),
        title,
        lambda _: "accuracy",
        lambda _: "Accuracy gain, points a million trainable parameters",
        f"Gain: accuracy on the test split less the share there of its most frequent class, {100 * share:.1f} %.",
        HEAD,
    )


def majority(predictions: Path) -> float:
    """The share of the most frequent label in a run's predictions.csv. Raises InputError without labels."""
    verified(predictions.parent, predictions.name)
    try:
        with predictions.open(encoding="utf-8", newline="") as file:
            counts = Counter(row["label"] for row in csv.DictReader(file))
    except KeyError:
        raise InputError(f"{predictions}: no labels in it, though the run is completed; {REMEDY}") from None
    if not counts:
        raise InputError(f"{predictions}: it has no rows, though the run is completed; {REMEDY}")
    return max(counts.values()) / counts.total()

"""Horizontal figures with one row per arm: measurements, the parts of memory, trainable parameters."""

import csv
import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from peft_tradeoffs.analysis import readable, tables
from peft_tradeoffs.analysis.finished import verified
from peft_tradeoffs.analysis.means import interval, seed_values
from peft_tradeoffs.analysis.run_files import REMEDY
from peft_tradeoffs.analysis.tables import COMPLETED, QUALITY, SPLIT, memory_key
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.text import arm_label
from peft_tradeoffs.report import palette, style
from peft_tradeoffs.report.canvas import (
    absent,
    canvas,
    interval_note,
    legend,
    legend_height,
    message,
    styled,
    thousands,
)
from peft_tradeoffs.report.scatter import log_ticks
from peft_tradeoffs.report.style import shorten, widest, wrap
from peft_tradeoffs.report.sweep import Sweep, conditions, devices, no_metric, reason
from peft_tradeoffs.tasks.metrics import ACCURACY

KEY = "Points: seeds. Line: their mean. At the right: mean ± sample standard deviation."
NAME = 1.15  # inches: a name of an arm that is wider is broken
OTHERWISE = 0.2  # inches of a row that text in it cannot have: ticks and pads


def names(arms: pd.DataFrame) -> list[str]:
    """The arms' names, long ones in several lines."""
    pairs = zip(arms["method"], arms["rank"], strict=True)
    return ["\n".join(wrap(arm_label(*pair), NAME, style.SMALL)) for pair in pairs]


def rows_height(labels: Sequence[str]) -> float:
    """Inches that rows with these labels take: all as tall as the tallest, two rows at least."""
    lines = max(label.count("\n") for label in labels)
    return max(2, len(labels)) * (style.ROW + lines * style.LINE)


def name_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Name the rows of horizontal bars, the first at the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    style.grid_along(axes, "x")


def draw_gap(axes: Axes, y: float, why: str, labels: Sequence[str]) -> None:
    """A row without a bar: grey, with as much of the reason as fits from its left to the edge of the figure."""
    axes.axhspan(y - 0.42, y + 0.42, color="#f4f4f4", linewidth=0)
    room = axes.figure.get_size_inches()[0] - widest(labels, style.SMALL) - OTHERWISE
    text = shorten(why, room, style.SMALL)
    place = axes.get_yaxis_transform()
    note = axes.text(
        0.01, y, text, transform=place, va="center", style="italic", fontsize=style.SMALL, color=style.GREY
    )
    note.set_in_layout(False)


def draw_rows(axes: Axes, sweep: Sweep, runs: pd.DataFrame, key: str) -> None:
    """One row per arm: each run a point, the mean a line, its interval a whisker, mean ± sd in figures at the right."""
    scale = sweep.scale if key == "metric_value" else 1.0
    arms = tables.arms_frame(runs)
    labels = names(arms)
    points, means, whiskers = [], [], []
    for y, row in enumerate(arms.to_dict("records")):
        colour = sweep.styles[row["method"]].colour
        own = runs[runs["arm"] == row["arm"]]
        values = seed_values(own, key, scale)
        mean = row[f"{key}_mean"] * scale
        text = readable.mean_metric(row, "test") if key == "metric_value" else readable.mean_sd(row, key)
        if not len(values):
            done = own[own["status"] == COMPLETED]
            mixed = key not in QUALITY and len(done) and done["mixed_gpus"].eq(True).all()
            draw_gap(axes, y, "resumed on a GPU of another model" if mixed else reason(own, key), labels)
            continue
        if math.isnan(mean):
            text = "several devices" if "; " in str(row["device_name"]) else "several engines"
        elif row["n_failed"] and "(n = " not in text:
            text += f" (n = {row['n']})"
        spread = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
        points += [(x, y + up, colour) for x, up in zip(values, spread, strict=True)]
        if not math.isnan(mean):
            means.append((mean, y, colour, len(values) > 1))
            whiskers += [(y, *ends)] if (ends := interval(own, key, sweep.noise, scale)) else []
        axes.text(1.01, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=style.SMALL)
    if means and key != "metric_value":
        widths, heights, colours, _ = zip(*means, strict=True)
        axes.barh(heights, widths, height=0.7, color=[palette.tint(colour, 0.4) for colour in colours], linewidth=0)
    if points:
        across, up, colours = zip(*points, strict=True)
        axes.scatter(across, up, s=7, color=colours, alpha=0.75, linewidth=0, zorder=3)
    lines = [(mean, y) for mean, y, _, several in means if several]
    axes.vlines(
        [x for x, _ in lines],
        [y - 0.35 for _, y in lines],
        [y + 0.35 for _, y in lines],
        color="black",
        linewidth=1.1,
        zorder=4,
    )
    if whiskers:
        axes.hlines(*zip(*whiskers, strict=True), color="black", linewidth=0.7, zorder=4)
    name_rows(axes, labels)


def by_arm(
    sweep: Sweep, title: str, key_of: Callable[[str], str], label_of: Callable[[str], str], *notes: str
) -> Figure:
    """Horizontal bars from zero, one panel per device; `key_of` and `label_of` take a device."""
    panels = devices(sweep)
    if all(key_of(device) in QUALITY for device, _ in panels):  # the same whatever the device
        panels = [(panels[0][0], sweep.runs)]
    if all(runs[key_of(device)].isna().all() for device, runs in panels):
        done = [(device, runs[runs["status"] == COMPLETED]) for device, runs in panels]
        told = [reason(runs, key_of(device)) for device, runs in done if len(runs)]
        return message(sweep, title, "; ".join(told or [reason(runs, "status") for _, runs in panels]))
    heights = [rows_height(names(tables.arms_frame(runs))) for _, runs in panels]
    drawn = [runs.loc[runs["status"] == COMPLETED].dropna(subset=key_of(device))["arm"] for device, runs in panels]
    keys = [key_of(device) for device, _ in panels]
    about = [conditions(sweep.runs), KEY, interval_note(sweep, *keys), *absent(sweep, pd.concat(drawn), *keys), *notes]
    figure = canvas(sweep, title, sum(heights) + 0.55 * len(panels), about)
    column = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (device, runs) in zip(column, panels, strict=True):
        draw_rows(axes, sweep, runs, key_of(device))
        axes.set_xlim(left=min(0, axes.get_xlim()[0]) if runs[key_of(device)].min() < 0 else 0)
        label = label_of(device) if len(panels) == 1 else f"{label_of(device)} (on {device})"
        room = style.SINGLE - widest(names(tables.arms_frame(runs)), style.SMALL) - 0.1
        axes.set_xlabel("\n".join(wrap(label, room, style.NORMAL)))
        axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        if runs.loc[runs["status"] == COMPLETED, key_of(device)].isna().all():
            axes.set_xticks([])  # what failed runs reached is not drawn
    return figure


COLOURS = ("#37474f", "#6f8fa6", "#b4c7d3", "#e3c58f")  # of SPLIT: what is held always is darkest
PEAK = memory_key("cuda")


@styled
def memory_split_by_arm(sweep: Sweep) -> Figure:
    """The parts of each arm's memory from tensor sizes, and the measured peak of CUDA beside them."""
    title = "Memory by part and arm"
    means = [f"{key}_mean" for key in SPLIT]
    if sweep.arms[means].isna().any(axis=1).all():
        return message(sweep, title, reason(sweep.runs, *SPLIT))
    peaks = bool(sweep.arms[f"{PEAK}_mean"].notna().any())
    notes = [
        conditions(sweep.runs),
        "Parts: from tensor sizes, on the batch_size longest training texts. At the right: their sum, MiB.",
        "Line: measured peak allocated in the probe. Not all parts are held at once, and kernels need room." * peaks,
    ]
    shown = sweep.arms.dropna(subset=means)["arm"]
    notes += absent(sweep, shown, *SPLIT)
    labels = names(sweep.arms)
    left = widest(labels, style.SMALL) + 0.2
    handles = [Patch(color=colour, label=part) for part, colour in zip(readable.PARTS, COLOURS, strict=True)]
    if peaks:
        stroke = {"marker": "|", "linestyle": "", "color": "black", "markersize": 8, "markeredgewidth": 1.1}
        handles += [Line2D([], [], label="Peak allocated", **stroke)]
    height = rows_height(labels) + 0.5 + legend_height(handles, style.SINGLE, left)
    figure = canvas(sweep, title, height, notes)
    axes = figure.subplots()
    for y, row in enumerate(sweep.arms.to_dict("records")):
        parts = [row[key] for key in means]
        if any(map(math.isnan, parts)):
            draw_gap(axes, y, reason(sweep.runs[sweep.runs["arm"] == row["arm"]], *SPLIT), labels)
            continue
        draw_parts(axes, y, parts, row[f"{PEAK}_mean"])
        text = readable.number(sum(parts)) + (f" (n = {row['n']})" if row["n_failed"] else "")
        axes.text(1.01, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=style.SMALL)
    name_rows(axes, labels)
    axes.set_xlim(left=0)
    axes.set_xlabel("Memory, MiB")
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
    legend(axes, handles, style.SINGLE, left)
    return figure


def draw_parts(axes: Axes, y: int, parts: list[float], peak: float) -> None:
    """One arm's parts end to end, MiB, and its measured peak where it has one."""
    left = 0.0
    for size, colour in zip(parts, COLOURS, strict=True):
        axes.barh(y, size, left=left, height=0.7, color=colour, linewidth=0)
        left += size
    if not math.isnan(peak):
        axes.plot([peak, peak], [y - 0.4, y + 0.4], color="black", linewidth=1.3, zorder=4)


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
    if done[ACCURACY.name].isna().all():
        return message(sweep, title, no_metric(sweep) or reason(sweep.runs, ACCURACY.name))
    first = done.dropna(subset=ACCURACY.name).iloc[0]
    share = majority(sweep.runs_dir / first["arm"] / f"seed{first['seed']}" / "predictions.csv")
    gain = 100 * (sweep.runs[ACCURACY.name].astype(float) - share)
    # In accuracy's column, whose reasons and rules of averaging it shares.
    per_million = gain / (sweep.runs["trainable_parameters"].astype(float) / 1e6)
    runs = sweep.runs.assign(**{ACCURACY.name: per_million})
    return by_arm(
        dataclasses.replace(sweep, runs=runs),
        title,
        lambda _: ACCURACY.name,
        lambda _: "Accuracy gain, points a million trainable parameters",
        f"Gain: {ACCURACY.noun} on the test split less the share there of its most frequent class, "
        f"{100 * share:.1f} %.",
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

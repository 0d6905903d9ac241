"""Horizontal figures with one row per arm: every run a point, the mean a line, its interval a whisker."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from peft_tradeoffs.analysis import readable, tables
from peft_tradeoffs.analysis.mean_interval import interval, seed_values
from peft_tradeoffs.analysis.tables import COMPLETED, QUALITY
from peft_tradeoffs.core.arms import arm_label
from peft_tradeoffs.report import palette, style
from peft_tradeoffs.report.canvas import absent, canvas, interval_note, message, thousands
from peft_tradeoffs.report.sweep import Sweep, conditions, devices, reason
from peft_tradeoffs.report.text_width import shorten, widest, wrap

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

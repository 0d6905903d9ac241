"""The drawings: what the arms of one data set and model bring and what they cost."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from peft_tradeoffs import readable, style, tables
from peft_tradeoffs.arms import arm_label
from peft_tradeoffs.canvas import (
    Grid,
    canvas,
    conditions,
    devices,
    draw_gap,
    message,
    metric_limits,
    no_metric,
    reason,
    resolution,
    styled,
)
from peft_tradeoffs.curves import learning_curves, metric_vs_rank
from peft_tradeoffs.memory_split import memory_split_by_arm
from peft_tradeoffs.rates import learning_rate_grid
from peft_tradeoffs.scatter import metric_vs_memory, metric_vs_trainable_parameters
from peft_tradeoffs.tables import COMPLETED, QUALITY, memory_key

KEY = "Points: seeds. Line: their mean. At the right: mean ± sample standard deviation."


def draw_rows(axes: Axes, grid: Grid, runs: pd.DataFrame, key: str) -> None:
    """A row an arm: every run a point, the mean a line, mean ± sd in figures at the right."""
    scale = grid.scale if key == "metric_value" else 1.0
    arms = tables.arms_frame(runs).to_dict("records")
    for y, row in enumerate(arms):
        colour = grid.styles[row["method"]].colour
        own = runs[runs["arm"] == row["arm"]]
        done = own[own["status"] == COMPLETED]
        if key not in QUALITY:
            done = done[~done["mixed_gpus"].eq(True)]  # as the mean
        values = done[key].dropna().to_numpy(dtype=float) * scale
        mean = row[f"{key}_mean"] * scale
        text = readable.mean_metric(row, "test") if key == "metric_value" else readable.mean_sd(row, key)
        if not len(values):
            mixed = done.empty and (own["status"] == COMPLETED).any()
            draw_gap(axes, y, "resumed on a GPU of another model" if mixed else reason(own, key))
        elif math.isnan(mean):
            text = "several devices" if "; " in str(row["device_name"]) else "several engines"
        elif key != "metric_value":
            axes.barh(y, mean, height=0.7, color=style.tint(colour, 0.4), linewidth=0)
        if len(values) and row["n_failed"]:
            text += f" ({readable.failed_counts(row['failures'])})"
        heights = y + (np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(len(values)))
        axes.scatter(values, heights, s=11, color=colour, alpha=0.75, linewidth=0, zorder=3)
        if len(values) > 1:
            axes.plot([mean, mean], [y - 0.35, y + 0.35], color="black", linewidth=1.3, zorder=4)
        axes.text(1.01, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5)
    axes.set_yticks(range(len(arms)), [arm_label(row["method"], row["rank"]) for row in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    style.grid_along(axes, "x")


def by_arm(
    grid: Grid, title: str, key_of: Callable[[str], str], label_of: Callable[[str], str], note: str = ""
) -> Figure:
    """Horizontal bars from zero, a panel a device; `key_of` and `label_of` take a device."""
    panels = [(device, runs) for device, runs in devices(grid)]
    if all(runs[key_of(device)].isna().all() for device, runs in panels):
        done = [(device, runs[runs["status"] == COMPLETED]) for device, runs in panels]
        told = [reason(runs, key_of(device)) for device, runs in done if len(runs)]
        return message(grid, title, "; ".join(told or [reason(runs, "status") for _, runs in panels]))
    counts = [max(2, runs["arm"].nunique()) for _, runs in panels]
    height = style.ROW * sum(counts) + 0.65 + 0.5 * len(panels)
    figure = canvas(grid, title, height, [conditions(grid.runs), KEY, note])
    column = figure.subplots(len(panels), 1, squeeze=False, height_ratios=counts)[:, 0]
    for axes, (device, runs) in zip(column, panels, strict=True):
        draw_rows(axes, grid, runs, key_of(device))
        axes.set_xlim(left=0)
        axes.set_xlabel(label_of(device) if len(panels) == 1 else f"{label_of(device)} (on {device})")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        if runs.loc[runs["status"] == COMPLETED, key_of(device)].isna().all():
            axes.set_xticks([])  # what failed runs reached is not drawn
    return figure


@styled
def metric_by_arm(grid: Grid) -> Figure:
    """Every seed's metric and the arms' means."""
    title = f"{grid.metric_name} by arm"
    if no_metric(grid):
        return message(grid, title, no_metric(grid))
    rows = max(2, len(grid.arms))
    notes = [conditions(grid.runs), KEY, resolution(grid)]
    figure = canvas(grid, title, style.ROW * rows + 1.1, notes)
    axes = figure.subplots()
    draw_rows(axes, grid, grid.runs, "metric_value")
    axes.set_xlim(*metric_limits(grid))
    axes.set_xlabel(grid.metric_axis)
    style.grid_along(axes, "both")
    return figure


@styled
def peak_memory_by_arm(grid: Grid) -> Figure:
    """Peak memory of the probe: resident on a CPU, allocated on CUDA."""
    title = "Peak memory by arm"
    return by_arm(grid, title, memory_key, lambda device: readable.LABEL[memory_key(device)], readable.PROBE)


@styled
def samples_per_s_by_arm(grid: Grid) -> Figure:
    """Training throughput."""
    note = " ".join(readable.fallbacks(grid.runs))
    return by_arm(grid, "Training throughput by arm", lambda _: "samples_per_s", lambda _: "Samples/s", note)


@styled
def energy_by_arm(grid: Grid) -> Figure:
    """Energy of the GPU over the training phase, for each sample trained on."""
    short = grid.runs["energy_window_short"].eq(True) & (grid.runs["status"] == COMPLETED)
    arms = dict.fromkeys(zip(grid.runs[short]["method"], grid.runs[short]["rank"], strict=True))
    notes = readable.fallbacks(grid.runs)
    if arms:
        notes.append(f"Measured over less than 30 s: {', '.join(arm_label(*arm) for arm in arms)}.")
    return by_arm(
        grid,
        "Training energy by arm",
        lambda _: "energy_J_per_sample",
        lambda _: "GPU energy, J/sample",
        " ".join(notes),
    )


FIGURES: dict[str, Callable[[Grid], Figure]] = {
    draw.__name__: draw
    for draw in (
        metric_by_arm,
        peak_memory_by_arm,
        samples_per_s_by_arm,
        energy_by_arm,
        memory_split_by_arm,
        metric_vs_memory,
        metric_vs_trainable_parameters,
        metric_vs_rank,
        learning_curves,
    )
}
TUNING_FIGURES: dict[str, Callable[[Grid], Figure]] = {"learning_rate_grid": learning_rate_grid}

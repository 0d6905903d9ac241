"""The metric against a cost: scatter plots of the arms with their Pareto front."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from peft_tradeoffs import readable, style, tables
from peft_tradeoffs.arms import arm_label, method_label
from peft_tradeoffs.canvas import (
    Grid,
    absent,
    canvas,
    conditions,
    devices,
    message,
    no_metric,
    reason,
    spread,
    styled,
)
from peft_tradeoffs.labels import place_labels
from peft_tradeoffs.tables import memory_key


def pareto(cost: Sequence[float], gain: Sequence[float]) -> list[int]:
    """Positions of the points that no other beats (lower or equal cost, higher or equal gain, one strictly).

    In order of cost. Points equal in both are all members.
    """
    order = sorted(range(len(cost)), key=lambda index: (cost[index], -gain[index]))
    front: list[int] = []
    for index in order:
        last = front[-1] if front else None
        same = last is not None and (cost[last], gain[last]) == (cost[index], gain[index])
        if last is None or same or gain[index] > gain[last]:
            front.append(index)
    return front


def legend(axes: Axes, grid: Grid, arms: pd.DataFrame, area: Callable[[Any], float]) -> None:
    """Methods by colour and marker, ranks by size, right of the axes."""
    handles = []
    for method in dict.fromkeys(arms["method"]):
        look = grid.styles[method]
        handles.append(dot(method_label(method), look.colour, look.marker, 49))
    ranks = sorted(arms["rank"].dropna().unique())
    for rank in ranks if len(ranks) > 1 else []:
        handles.append(dot(f"rank {rank}", "#9a9a9a", "o", area(rank)))
    if len(arms) > 1:
        handles.append(Line2D([], [], color="#555555", linewidth=0.9, label="Pareto front"))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)


def dot(label: str, colour: Any, marker: str, area: float) -> Line2D:
    """A legend's handle that looks like a scattered point; `area` in square points."""
    return Line2D(
        [], [], label=label, color=colour, marker=marker, linestyle="", markersize=math.sqrt(area),
        markeredgewidth=0,
    )  # fmt: skip


def draw_scatter(axes: Axes, grid: Grid, arms: pd.DataFrame, x: str, x_sd: str | None) -> Callable[[], None]:
    """Arms' means with standard deviations and the Pareto front; returns what writes the front's labels.

    `x` and `x_sd` are columns of `arms`, without null in `x` and `metric_value_mean`. Write the labels when
    all axes of the figure are drawn.
    """
    areas = style.sizes(grid.arms["rank"].dropna().unique())

    def area(rank: Any) -> float:
        return style.NO_RANK if pd.isna(rank) else areas[rank]

    radii = np.array([math.sqrt(area(rank)) / 2 for rank in arms["rank"]])
    cost = arms[x].to_numpy(dtype=float)
    gain = arms["metric_value_mean"].to_numpy(dtype=float) * grid.scale
    for row, across, up in zip(arms.to_dict("records"), cost, gain, strict=True):
        look = grid.styles[row["method"]]
        bars = {"xerr": row[x_sd] if x_sd else 0, "yerr": row["metric_value_sd"] * grid.scale}
        bars = {key: value for key, value in bars.items() if value > 0}
        axes.errorbar(across, up, **bars, color=look.colour, alpha=0.35, linewidth=0.8, zorder=2)
        axes.scatter(
            across, up, s=area(row["rank"]), marker=look.marker, color=look.colour,
            edgecolor="white", linewidth=0.5, zorder=3,
        )  # fmt: skip
    axes.set_ylabel(grid.metric_axis)
    style.grid_along(axes, "both")
    legend(axes, grid, arms, area)

    def finish() -> None:
        members = pareto(cost, gain)
        steps = np.array([(cost[index], gain[index]) for index in members])
        corners = [(right[0], left[1]) for left, right in itertools.pairwise(steps)]
        path = np.empty((2 * len(steps), 2))
        path[0::2] = steps
        path[1::2] = [*corners, (axes.get_xlim()[1], steps[-1, 1])]
        if len(arms) > 1:
            axes.plot(*path.T, color="#555555", linewidth=0.9, zorder=1, scalex=False, scaley=False)
        names = [arm_label(arms["method"].iloc[index], arms["rank"].iloc[index]) for index in members]
        place_labels(axes, members, names, np.column_stack([cost, gain]), radii, path)

    return finish


def scatter(
    grid: Grid,
    title: str,
    panels: list[tuple[pd.DataFrame, str, str | None, str]],
    key: str,
    log: bool = False,
    note: str = "",
) -> Figure:
    """A figure of scatter plots: panels are (arms, column of x, column of its sd, label of x).

    `key` is the summary key whose null reasons explain absent arms.
    """
    if no_metric(grid):
        return message(grid, title, no_metric(grid))
    kept = [(arms.dropna(subset=[x, "metric_value_mean"]), x, x_sd, label) for arms, x, x_sd, label in panels]
    kept = [panel for panel in kept if len(panel[0])]
    if not kept:
        return message(grid, title, reason(grid.runs, "metric_value", key))
    entries = grid.arms["method"].nunique() + grid.arms["rank"].nunique() + 1
    height = max(3.6, 0.19 * entries + 0.9) * len(kept)
    shown = pd.concat([arms["arm"] for arms, *_ in kept])
    sd = "Means of seeds, bars: sample standard deviation." if grid.runs["seed"].nunique() > 1 else ""
    notes = [conditions(grid.runs), sd, *absent(grid, shown, "metric_value", key), note]
    figure = canvas(grid, title, height, notes)
    finishes = []
    for axes, (arms, x, x_sd, label) in zip(figure.subplots(len(kept), 1, squeeze=False)[:, 0], kept, strict=True):
        finishes.append(draw_scatter(axes, grid, arms, x, x_sd))
        axes.set_xlabel(label)
        axes.margins(x=0.16)  # room for labels
        sd_y = arms["metric_value_sd"].fillna(0)
        ends = pd.concat([arms["metric_value_mean"] - sd_y, arms["metric_value_mean"] + sd_y]) * grid.scale
        axes.set_ylim(*spread(ends, 0.02 * grid.scale))
        if log:
            axes.set_xscale("log")
            ticks(axes)
        else:
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            widen(axes)
    for finish in finishes:
        finish()
    return figure


def ticks(axes: Axes) -> None:
    """Ticks of a logarithmic axis of counts, as 500k or 2M: powers of ten, or 1, 2, 5, or closer."""
    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    if decades < 1:
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if decades > 3 else (1, 2, 5), numticks=20))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))


def compact(value: float) -> str:
    """A count in short: 500, 20k, 5M, 7B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def widen(axes: Axes) -> None:
    """Let an axis span at least a tenth of its values, so that ticks tell apart and noise looks small."""
    low, high = axes.get_xlim()
    room = max(0.0, (0.1 * (low + high) / 2 - (high - low)) / 2)
    axes.set_xlim(low - room, high + room)


@styled
def metric_vs_memory(grid: Grid) -> Figure:
    """The metric against peak memory, with the arms that no other beats in both."""
    panels = []
    for device, runs in devices(grid):
        key = memory_key(device)
        label = readable.LABEL[key]
        panels.append((tables.arms_frame(runs), f"{key}_mean", f"{key}_sd", label))
    title = f"{grid.metric_name} against peak memory"
    return scatter(grid, title, panels, memory_key(devices(grid)[0][0]), note=readable.PROBE)


@styled
def metric_vs_trainable_parameters(grid: Grid) -> Figure:
    """The metric against the number of trainable parameters, on a logarithmic axis."""
    arms = grid.arms.copy()
    arms["trainable_parameters"] = pd.to_numeric(arms["trainable_parameters"], errors="coerce").astype(float)
    panels = [(arms, "trainable_parameters", None, "Trainable parameters (log scale)")]
    return scatter(grid, f"{grid.metric_name} against trainable parameters", panels, "trainable_parameters", log=True)

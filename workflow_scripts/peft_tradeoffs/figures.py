"""The drawings: what the arms of one data set and model bring and what they cost."""

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from peft_tradeoffs import style, tables
from peft_tradeoffs.arms import arm_label, method_label
from peft_tradeoffs.canvas import (
    Grid,
    absent,
    canvas,
    conditions,
    devices,
    message,
    reason,
    resolution,
    styled,
)
from peft_tradeoffs.labels import place_labels
from peft_tradeoffs.tables import COMPLETED, memory_key

ONE_PANEL = 5  # arms whose learning curves still read well in one panel
KEY = "Points: seeds. Line: their mean. At the right: mean ± sample standard deviation."


def spread(values: pd.Series, least: float) -> tuple[float, float]:
    """Limits of an axis that does not start from zero, `least` wide or more."""
    low, high = float(values.min()), float(values.max())
    room = max(0.07 * (high - low), (least - (high - low)) / 2)
    return low - room, high + room


def draw_rows(axes: Axes, grid: Grid, runs: pd.DataFrame, key: str, decimals: int | None) -> None:
    """A row an arm: every run a point, the mean a line, mean ± sd in figures at the right."""
    scale = grid.scale if key == "metric_value" else 1.0
    arms = tables.arms_frame(runs).to_dict("records")
    for y, row in enumerate(arms):
        colour = grid.styles[row["method"]].colour
        own = runs[runs["arm"] == row["arm"]]
        values = own[own["status"] == COMPLETED][key].dropna().to_numpy(dtype=float) * scale
        mean = row[f"{key}_mean"] * scale
        text = tables.mean_sd(row, key, scale, decimals)
        if not len(values):
            axes.axhspan(y - 0.42, y + 0.42, color="#f4f4f4", linewidth=0)
            why = textwrap.shorten(reason(own, key), 70, placeholder=" …")
            place = axes.get_yaxis_transform()
            axes.text(0.01, y, why, transform=place, va="center", style="italic", fontsize=7.5, color=style.GREY)
        elif math.isnan(mean):
            text = "several devices"
        elif key != "metric_value":
            axes.barh(y, mean, height=0.7, color=style.tint(colour, 0.4), linewidth=0)
        if len(values) and row["n_failed"]:
            text += f" ({row['failures']})"
        heights = y + (np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(len(values)))
        axes.scatter(values, heights, s=11, color=colour, alpha=0.75, linewidth=0, zorder=3)
        if len(values) > 1:
            axes.plot([mean, mean], [y - 0.35, y + 0.35], color="black", linewidth=1.3, zorder=4)
        axes.text(1.01, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5)
    axes.set_yticks(range(len(arms)), [arm_label(row["method"], row["rank"]) for row in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    style.grid_along(axes, "x")


def by_arm(grid: Grid, title: str, key_of: Callable[[str], str], label_of: Callable[[str], str]) -> Figure:
    """Horizontal bars from zero, a panel a device; `key_of` and `label_of` take a device."""
    panels = [(device, runs) for device, runs in devices(grid)]
    if all(runs[key_of(device)].isna().all() for device, runs in panels):
        return message(grid, title, "; ".join(reason(runs, key_of(device)) for device, runs in panels))
    counts = [max(2, runs["arm"].nunique()) for _, runs in panels]
    height = style.ROW * sum(counts) + 0.65 + 0.5 * len(panels)
    figure = canvas(grid, title, height, [conditions(grid.runs), KEY])
    column = figure.subplots(len(panels), 1, squeeze=False, height_ratios=counts)[:, 0]
    for axes, (device, runs) in zip(column, panels, strict=True):
        draw_rows(axes, grid, runs, key_of(device), None)
        axes.set_xlim(left=0)
        axes.set_xlabel(label_of(device) if len(panels) == 1 else f"{label_of(device)} (on {device})")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    return figure


@styled
def metric_by_arm(grid: Grid) -> Figure:
    """Every seed's metric and the arms' means."""
    title = "Metric by arm"
    if grid.runs["metric_value"].isna().all():
        return message(grid, title, reason(grid.runs, "metric_value"))
    rows = max(2, len(grid.arms))
    notes = [conditions(grid.runs), KEY, resolution(grid)]
    figure = canvas(grid, title, style.ROW * rows + 1.1, notes)
    axes = figure.subplots()
    draw_rows(axes, grid, grid.runs, "metric_value", tables.metric_decimals(grid.metric or ""))
    axes.set_xlim(*metric_limits(grid))
    axes.set_xlabel(grid.metric_axis)
    return figure


def metric_limits(grid: Grid) -> tuple[float, float]:
    """Limits of a metric axis around every completed run."""
    values = grid.runs[grid.runs["status"] == COMPLETED]["metric_value"].dropna().astype(float) * grid.scale
    return spread(values, 0.02 * grid.scale)


@styled
def peak_memory_by_arm(grid: Grid) -> Figure:
    """Peak memory of training: resident on a CPU, allocated on CUDA."""
    return by_arm(grid, "Peak memory by arm", memory_key, lambda device: tables.MEMORY_LABEL[memory_key(device)])


@styled
def samples_per_s_by_arm(grid: Grid) -> Figure:
    """Training throughput."""
    return by_arm(grid, "Training throughput by arm", lambda _: "samples_per_s", lambda _: "Samples/s")


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
        corners = [(right[0], left[1]) for left, right in zip(steps[:-1], steps[1:], strict=True)]
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
) -> Figure:
    """A figure of scatter plots: panels are (arms, column of x, column of its sd, label of x).

    `key` is the summary key whose null reasons explain absent arms.
    """
    kept = [(arms.dropna(subset=[x, "metric_value_mean"]), x, x_sd, label) for arms, x, x_sd, label in panels]
    kept = [panel for panel in kept if len(panel[0])]
    if not kept:
        return message(grid, title, reason(grid.runs, key))
    entries = grid.arms["method"].nunique() + grid.arms["rank"].nunique() + 1
    height = max(3.6, 0.19 * entries + 0.9) * len(kept)
    shown = pd.concat([arms["arm"] for arms, *_ in kept])
    sd = "Means of seeds, bars: sample standard deviation." if grid.runs["seed"].nunique() > 1 else ""
    figure = canvas(grid, title, height, [conditions(grid.runs), sd, absent(grid, shown, key)])
    finishes = []
    for axes, (arms, x, x_sd, label) in zip(figure.subplots(len(kept), 1, squeeze=False)[:, 0], kept, strict=True):
        finishes.append(draw_scatter(axes, grid, arms, x, x_sd))
        axes.set_xlabel(label)
        axes.margins(0.1)
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
    """Ticks of a logarithmic axis of counts, as 500k or 2M; at 1, 2 and 5 where it spans little."""
    low, high = axes.get_xlim()
    wide = math.log10(high / low) > 3
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5), numticks=20))
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
        label = tables.MEMORY_LABEL[key]
        panels.append((tables.arms_frame(runs), f"{key}_mean", f"{key}_sd", label))
    return scatter(grid, "Metric against peak memory", panels, memory_key(devices(grid)[0][0]))


@styled
def metric_vs_trainable_parameters(grid: Grid) -> Figure:
    """The metric against the number of trainable parameters, on a logarithmic axis."""
    arms = grid.arms.copy()
    arms["trainable_parameters"] = pd.to_numeric(arms["trainable_parameters"], errors="coerce").astype(float)
    panels = [(arms, "trainable_parameters", None, "Trainable parameters (log scale)")]
    return scatter(grid, "Metric against trainable parameters", panels, "trainable_parameters", log=True)


def rank_curves(grid: Grid) -> dict[str, pd.DataFrame]:
    """The arms of each method that has ranks, completed or not, by method."""
    ranked = grid.arms.dropna(subset="rank")
    return {method: arms for method, arms in ranked.groupby("method", sort=False)}


@styled
def metric_vs_rank(grid: Grid) -> Figure:
    """The metric against the rank, a line a method; arms without a rank are horizontal lines."""
    title = "Metric against rank"
    curves = rank_curves(grid)
    if grid.runs["metric_value"].isna().all():
        return message(grid, title, reason(grid.runs, "metric_value"))
    if all(arms["metric_value_mean"].isna().all() for arms in curves.values()):
        return message(grid, title, "No completed run has a rank.")
    shown = grid.arms.dropna(subset="metric_value_mean")
    several = grid.runs["seed"].nunique() > 1
    notes = [
        conditions(grid.runs),
        "Small points: seeds. Bands: mean ± sample standard deviation." if several else "",
        resolution(grid),
        absent(grid, shown["arm"], "metric_value"),
    ]
    figure = canvas(grid, title, max(3.4, 0.19 * grid.arms["method"].nunique() + 0.9), notes)
    axes = figure.subplots()
    for row in shown[shown["rank"].isna()].to_dict("records"):
        draw_rankless(axes, grid, row)
    ranks = np.array(sorted(grid.arms["rank"].dropna().unique()), dtype=float)
    gap = float(np.diff(np.log2(ranks)).min()) if len(ranks) > 1 else 1.0
    shifts = (np.arange(len(curves)) - (len(curves) - 1) / 2) * gap * min(0.1, 0.5 / len(curves))
    for shift, (method, arms) in zip(shifts, curves.items(), strict=True):
        draw_rank_curve(axes, grid, method, arms, 2.0**shift)
    axes.set_xscale("log", base=2)
    axes.set_xlim(ranks[0] / 2 ** (0.6 * gap), ranks[-1] * 2 ** (0.6 * gap))
    axes.set_xticks(ranks, rank_labels(ranks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(*metric_limits(grid))
    axes.set_xlabel("Rank (log scale)")
    axes.set_ylabel(grid.metric_axis)
    style.grid_along(axes, "y")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)
    return figure


def rank_labels(ranks: np.ndarray) -> list[str]:
    """Tick labels of ranks, left out where they would touch: 0.045 of the axis is a label's width."""
    if len(ranks) < 2:
        return [f"{rank:g}" for rank in ranks]
    places = np.log2(ranks / ranks[0]) / np.log2(ranks[-1] / ranks[0])
    labels, last = [], -1.0
    for rank, place in zip(ranks, places, strict=True):
        fits = place - last >= 0.045
        labels.append(f"{rank:g}" if fits else "")
        last = place if fits else last
    return labels


def draw_rankless(axes: Axes, grid: Grid, row: dict[str, Any]) -> None:
    """The mean of an arm without a rank as a line across, its standard deviation as a band."""
    colour = grid.styles[row["method"]].colour
    mean, sd = row["metric_value_mean"] * grid.scale, row["metric_value_sd"] * grid.scale
    label = f"{method_label(row['method'])} (no rank)"
    axes.axhline(mean, color=colour, linewidth=1.2, linestyle="--", label=label, zorder=2)
    if sd > 0:
        axes.axhspan(mean - sd, mean + sd, color=colour, alpha=0.1, linewidth=0, zorder=1)


def draw_rank_curve(axes: Axes, grid: Grid, method: str, arms: pd.DataFrame, shift: float) -> None:
    """One method's means, seeds and band; `shift` moves it sideways so that methods do not hide each other."""
    look = grid.styles[method]
    ranks = arms["rank"].to_numpy(dtype=float) * shift
    mean, sd = (arms[f"metric_value_{part}"].to_numpy(dtype=float) * grid.scale for part in ("mean", "sd"))
    axes.plot(
        ranks, mean, color=look.colour, marker=look.marker, markersize=5.5, linewidth=1.3,
        markeredgewidth=0, label=method_label(method), zorder=4,
    )  # fmt: skip
    axes.fill_between(ranks, mean - sd, mean + sd, color=look.colour, alpha=0.1, linewidth=0, zorder=1)
    runs = grid.runs[(grid.runs["method"] == method) & (grid.runs["status"] == COMPLETED)]
    if grid.runs["seed"].nunique() > 1:
        values = runs["metric_value"].astype(float) * grid.scale
        places = runs["rank"].astype(float) * shift
        axes.scatter(places, values, s=7, color=look.colour, alpha=0.45, linewidth=0, zorder=3)
    gone = ranks[np.isnan(mean)]
    axes.plot(
        gone, np.full(len(gone), 0.02), "x", color=look.colour, markersize=5,
        transform=axes.get_xaxis_transform(), zorder=4,
    )  # fmt: skip


@styled
def learning_curves(grid: Grid) -> Figure:
    """The metric on the test split at each evaluation; a panel a method where there are many arms."""
    title = "Learning curves"
    if grid.metric is None or grid.metric not in grid.curves:
        return message(grid, title, reason(grid.runs, "metric_value"))
    curves = grid.curves[grid.curves["split"] == "test"].dropna(subset=grid.metric)
    if curves.empty:
        return message(grid, title, reason(grid.runs, "metric_value"))
    x = "epoch" if curves["epoch"].nunique() > 1 else "step"
    methods = list(dict.fromkeys(grid.arms["method"]))
    together = len(grid.arms) <= ONE_PANEL
    panels = [methods] if together else [[method] for method in methods]
    columns = min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    notes = [
        conditions(grid.runs),
        "Thick: mean of the seeds. Thin: seeds." if grid.runs["seed"].nunique() > 1 else "",
        absent(grid, curves["arm"], "metric_value"),
    ]
    figure = canvas(grid, title, 3.2 if together else 0.7 + 1.7 * lines, notes)
    cells = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    shades = rank_shades(grid)
    for axes, names in zip(cells.flat, panels, strict=False):
        for row in grid.arms[grid.arms["method"].isin(names)].itertuples():
            share = 1.0 if pd.isna(row.rank) else shades[row.rank]
            colour = style.tint(grid.styles[row.method].colour, share)
            own = curves[curves["arm"] == row.arm]
            draw_curve(axes, own, x, grid, colour, arm_label(row.method, row.rank))
        if not together:
            axes.set_title(method_label(names[0]), fontsize=8.5)
        style.grid_along(axes, "both")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in list(cells.flat)[len(panels) :]:
        axes.set_visible(False)
    for index, axes in enumerate(cells.flat):
        axes.xaxis.set_tick_params(labelbottom=index + columns >= len(panels))
        axes.set_xlabel("Epoch" if x == "epoch" else "Step" if index + columns >= len(panels) else "")
    figure.supylabel(grid.metric_axis, fontsize=8.5)
    if together:
        cells[0, 0].legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)
    elif len(shades) > 1:
        handles = [
            Line2D([], [], color=style.tint((0.2, 0.2, 0.2), share), label=f"rank {rank}")
            for rank, share in shades.items()
        ]
        cells[0, -1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)
    return figure


def rank_shades(grid: Grid) -> dict[int, float]:
    """How strong each rank's colour is: light for the lowest, the method's own for the highest."""
    ranks = sorted(grid.arms["rank"].dropna().unique())
    shares = np.linspace(0.35, 1.0, len(ranks)) if len(ranks) > 1 else [1.0]
    return dict(zip(ranks, shares, strict=True))


def draw_curve(axes: Axes, curves: pd.DataFrame, x: str, grid: Grid, colour: Any, label: str) -> None:
    """One arm: a thin line a seed and the mean where every seed has a value."""
    seeds = curves.pivot_table(index=x, columns="seed", values=grid.metric) * grid.scale
    if seeds.shape[1] > 1:
        axes.plot(seeds.index, seeds, color=colour, linewidth=0.6, alpha=0.5, zorder=2)
    mean = seeds.dropna().mean(axis=1)
    few = "o" if len(mean) <= 12 else ""
    axes.plot(
        mean.index, mean, color=colour, linewidth=1.5, marker=few, markersize=4, markeredgewidth=0,
        label=label, zorder=3,
    )  # fmt: skip


FIGURES: dict[str, Callable[[Grid], Figure]] = {
    draw.__name__: draw
    for draw in (
        metric_by_arm,
        peak_memory_by_arm,
        samples_per_s_by_arm,
        metric_vs_memory,
        metric_vs_trainable_parameters,
        metric_vs_rank,
        learning_curves,
    )
}

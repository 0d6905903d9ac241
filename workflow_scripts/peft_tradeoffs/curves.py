"""The metric along the rank and along training."""

import math
import textwrap
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from peft_tradeoffs import style
from peft_tradeoffs.arms import arm_label, method_label
from peft_tradeoffs.canvas import (
    Grid,
    absent,
    canvas,
    conditions,
    message,
    metric_limits,
    no_metric,
    reason,
    resolution,
    styled,
)
from peft_tradeoffs.tables import COMPLETED

ONE_PANEL = 5  # arms whose learning curves still read well in one panel
BANDS = 3  # methods whose bands of standard deviation still read well on top of each other


def rank_curves(grid: Grid) -> dict[str, pd.DataFrame]:
    """The arms of each method that has ranks, completed or not, by method."""
    ranked = grid.arms.dropna(subset="rank")
    return {method: arms for method, arms in ranked.groupby("method", sort=False)}


@styled
def metric_vs_rank(grid: Grid) -> Figure:
    """The metric against the rank, a line a method; arms without a rank are horizontal lines."""
    title = f"{grid.metric_name} against rank"
    curves = rank_curves(grid)
    if no_metric(grid):
        return message(grid, title, no_metric(grid))
    if all(arms["metric_value_mean"].isna().all() for arms in curves.values()):
        return message(grid, title, "no completed run has a rank")
    shown = grid.arms.dropna(subset="metric_value_mean")
    several = grid.runs["seed"].nunique() > 1
    bands = len(curves) <= BANDS
    notes = [
        conditions(grid.runs),
        f"Small points: seeds. Bands{'' if bands else ' (no rank)'}: mean ± sample standard deviation." * several,
        resolution(grid),
        *absent(grid, shown["arm"], "metric_value"),
    ]
    figure = canvas(grid, title, max(3.4, 0.19 * grid.arms["method"].nunique() + 0.9), notes)
    axes = figure.subplots()
    for row in shown[shown["rank"].isna()].to_dict("records"):
        draw_rankless(axes, grid, row)
    ranks = np.array(sorted(grid.arms["rank"].dropna().unique()), dtype=float)
    gap = float(np.diff(np.log2(ranks)).min()) if len(ranks) > 1 else 1.0
    shifts = (np.arange(len(curves)) - (len(curves) - 1) / 2) * gap * min(0.1, 0.5 / len(curves))
    for shift, (method, arms) in zip(shifts, curves.items(), strict=True):
        draw_rank_curve(axes, grid, method, arms, 2.0**shift, bands)
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


def draw_rank_curve(axes: Axes, grid: Grid, method: str, arms: pd.DataFrame, shift: float, band: bool) -> None:
    """One method's means and seeds; `shift` moves it sideways so that methods do not hide each other."""
    look = grid.styles[method]
    ranks = arms["rank"].to_numpy(dtype=float) * shift
    mean, sd = (arms[f"metric_value_{part}"].to_numpy(dtype=float) * grid.scale for part in ("mean", "sd"))
    axes.plot(
        ranks, mean, color=look.colour, marker=look.marker, markersize=5.5, linewidth=1.3,
        markeredgewidth=0, label=method_label(method), zorder=4,
    )  # fmt: skip
    if band:
        axes.fill_between(ranks, mean - sd, mean + sd, color=look.colour, alpha=0.12, linewidth=0, zorder=1)
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
    if no_metric(grid) or grid.metric not in grid.curves:
        return message(grid, title, no_metric(grid) or reason(grid.runs, "metric_value"))
    curves = grid.curves[grid.curves["split"] == "test"].dropna(subset=grid.metric)
    if curves.empty:
        return message(grid, title, reason(grid.runs, "metric_value"))
    x = "epoch" if curves["epoch"].nunique() > 1 else "step"
    methods = list(dict.fromkeys(grid.arms["method"]))
    together = len(grid.arms) <= ONE_PANEL
    panels = [methods] if together else [[method] for method in methods]
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    lines = math.ceil(len(panels) / columns)
    notes = [
        conditions(grid.runs),
        "Thick: mean of the seeds. Thin: seeds." if grid.runs["seed"].nunique() > 1 else "",
        *absent(grid, curves["arm"], "metric_value"),
    ]
    figure = canvas(grid, title, 3.2 if together else 0.7 + 1.7 * lines, notes)
    cells = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    shades = rank_shades(grid)
    for axes, names in zip(cells.flat, panels, strict=False):
        for row in grid.arms[grid.arms["method"].isin(names)].itertuples():
            share = 1.0 if pd.isna(row.rank) else shades[row.rank]
            colour = style.tint(grid.styles[row.method].colour, share)
            own = curves[curves["arm"] == row.arm]
            if len(own):
                draw_curve(axes, own, x, grid, colour, arm_label(row.method, row.rank))
        if not axes.lines:
            why = textwrap.fill(reason(grid.runs[grid.runs["method"].isin(names)], "metric_value"), 30)
            axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", style="italic", color=style.GREY)
        if not together:
            axes.set_title(method_label(names[0]), fontsize=8.5)
        style.grid_along(axes, "both")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in list(cells.flat)[len(panels) :]:
        axes.set_visible(False)
    for index, axes in enumerate(cells.flat):
        axes.xaxis.set_tick_params(labelbottom=index + columns >= len(panels))
        axes.set_xlabel(x.capitalize() if index + columns >= len(panels) else "")
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
    shares = np.linspace(0.35, 1.0, len(ranks)) if len(ranks) > 1 else np.ones(len(ranks))
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

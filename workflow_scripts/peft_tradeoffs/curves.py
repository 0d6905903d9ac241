"""The metric along training."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from peft_tradeoffs import style
from peft_tradeoffs.arms import arm_label, method_label
from peft_tradeoffs.canvas import (
    Grid,
    absent,
    canvas,
    conditions,
    draw_reason,
    legend,
    legend_height,
    message,
    no_metric,
    reason,
    styled,
)
from peft_tradeoffs.text_width import wrap

ONE_PANEL = 5  # arms whose learning curves still read well in one panel


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
    columns = 2 if len(panels) == 4 else min(3 if len(panels) <= 9 else 5, len(panels))
    lines = math.ceil(len(panels) / columns)
    notes = [
        conditions(grid.runs),
        "Thick: mean of the seeds. Thin: seeds." if grid.runs["seed"].nunique() > 1 else "",
        *absent(grid, curves["arm"], "metric_value"),
    ]
    shades = rank_shades(grid)
    handles = entries(grid, shades) if together else rank_entries(shades)
    width = style.SINGLE if together else style.DOUBLE
    height = 2.1 + legend_height(handles, width) if together else 0.5 + 1.45 * lines
    figure = canvas(grid, title, height, notes, width)
    cells = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes, names in zip(cells.flat, panels, strict=False):
        for row in grid.arms[grid.arms["method"].isin(names)].itertuples():
            own = curves[curves["arm"] == row.arm]
            if len(own):
                draw_curve(axes, own, x, grid, shade(grid, row, shades), arm_label(row.method, row.rank))
        if not axes.lines:
            draw_reason(axes, reason(grid.runs[grid.runs["method"].isin(names)], "metric_value"))
        if not together:
            axes.set_title("\n".join(wrap(method_label(names[0]), 5.0 / columns, style.NORMAL)))
        style.grid_along(axes, "both")
        style.mark_cut(axes, "y")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    for axes in list(cells.flat)[len(panels) :]:
        axes.set_visible(False)
    for index, axes in enumerate(cells.flat):
        axes.xaxis.set_tick_params(labelbottom=index + columns >= len(panels))
        axes.set_xlabel(x.capitalize() if index + columns >= len(panels) else "")
    figure.supylabel(grid.metric_axis, fontsize=style.NORMAL)
    if together or len(shades) > 1:
        legend(cells[0, -1], handles, width)
    return figure


def shade(grid: Grid, row: Any, shades: dict[int, float]) -> tuple[float, float, float]:
    """The colour of an arm: its method's, the lighter the lower the rank."""
    return style.tint(grid.styles[row.method].colour, 1.0 if pd.isna(row.rank) else shades[row.rank])


def entries(grid: Grid, shades: dict[int, float]) -> list[Line2D]:
    """A legend's entry an arm."""
    return [
        Line2D([], [], color=shade(grid, row, shades), label=arm_label(row.method, row.rank))
        for row in grid.arms.itertuples()
    ]


def rank_entries(shades: dict[int, float]) -> list[Line2D]:
    """A legend's entry a rank."""
    grey = (0.2, 0.2, 0.2)
    return [Line2D([], [], color=style.tint(grey, share), label=f"rank {rank}") for rank, share in shades.items()]


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

"""The metric along training."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from peft_tradeoffs.core.arms import arm_label
from peft_tradeoffs.report import style
from peft_tradeoffs.report.canvas import absent, canvas, draw_reason, legend, legend_height, message, styled
from peft_tradeoffs.report.panels import ONE_PANEL, Panels, arm_entries, rank_entries, rank_shades, shade
from peft_tradeoffs.report.sweep import Sweep, conditions, no_metric, reason


@styled
def learning_curves(sweep: Sweep) -> Figure:
    """The metric on the test split at each evaluation; one panel per method where there are many arms."""
    title = "Learning curves"
    if no_metric(sweep) or sweep.metric not in sweep.curves:
        return message(sweep, title, no_metric(sweep) or reason(sweep.runs, "metric_value"))
    curves = sweep.curves[sweep.curves["split"] == "test"].dropna(subset=sweep.metric)
    if curves.empty:
        return message(sweep, title, reason(sweep.runs, "metric_value"))
    x = "epoch" if curves["epoch"].nunique() > 1 else "step"
    together = len(sweep.arms) <= ONE_PANEL
    panels = Panels.plan(sweep.arms["method"], together)
    notes = [
        conditions(sweep.runs),
        "Thick: mean of the seeds. Thin: seeds." if sweep.runs["seed"].nunique() > 1 else "",
        *absent(sweep, curves["arm"], "metric_value"),
    ]
    shades = rank_shades(sweep.arms["rank"])
    handles = arm_entries(sweep, sweep.arms, shades) if together else rank_entries(shades)
    width = style.SINGLE if together else style.DOUBLE
    height = 2.1 + legend_height(handles, width) if together else 0.5 + 1.45 * panels.lines
    figure = canvas(sweep, title, height, notes, width)
    cells = panels.subplots(figure, x.capitalize(), titles=not together)
    for axes, names in zip(cells, panels.methods, strict=True):
        for row in sweep.arms[sweep.arms["method"].isin(names)].itertuples():
            own = curves[curves["arm"] == row.arm]
            if len(own):
                colour = shade(sweep, row.method, row.rank, shades)
                draw_curve(axes, own, x, sweep, colour, arm_label(row.method, row.rank))
        if not axes.lines:
            draw_reason(axes, reason(sweep.runs[sweep.runs["method"].isin(names)], "metric_value"))
        style.grid_along(axes, "both")
        style.mark_cut(axes, "y")
        evaluated = curves[x].unique()
        axes.xaxis.set_major_locator(FixedLocator(evaluated) if len(evaluated) == 1 else MaxNLocator(5, integer=True))
    figure.supylabel(sweep.metric_axis, fontsize=style.NORMAL)
    if together or len(shades) > 1:
        legend(cells[panels.columns - 1], handles, width)
    return figure


def draw_curve(axes: Axes, curves: pd.DataFrame, x: str, sweep: Sweep, colour: Any, label: str) -> None:
    """One arm: a thin line per seed and the mean where every seed has a value."""
    seeds = curves.pivot_table(index=x, columns="seed", values=sweep.metric) * sweep.scale
    if seeds.shape[1] > 1:
        alone = "o" if len(seeds) == 1 else ""  # a line of one point is none
        axes.plot(seeds.index, seeds, color=colour, linewidth=0.6, alpha=0.5, zorder=2, marker=alone, markersize=2.5)
    mean = seeds.dropna().mean(axis=1)
    few = "o" if len(mean) <= 12 else ""
    axes.plot(
        mean.index, mean, color=colour, linewidth=1.5, marker=few, markersize=4, markeredgewidth=0,
        label=label, zorder=3,
    )  # fmt: skip

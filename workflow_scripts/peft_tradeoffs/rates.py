"""The learning-rate grid of tuning as a figure."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from peft_tradeoffs import style
from peft_tradeoffs.arms import arm_label
from peft_tradeoffs.canvas import Grid, canvas, legend, legend_height, message, spread, styled
from peft_tradeoffs.tuning_table import outcome

ONE_COLUMN = 6  # arms whose lines still read well in one column
TITLE = "{} on the dev split against the learning rate"


@styled
def learning_rate_grid(grid: Grid) -> Figure:
    """A line a tuned arm: its metric on the dev split after the last step, at every rate tried."""
    title, trials = TITLE.format(grid.metric_name), grid.tuning
    shown = trials.dropna(subset="value")
    if shown.empty:
        return message(grid, title, "no trial has a metric")
    first = trials.iloc[0]
    notes = [
        f"Trials: seed {first['seed']}, {int(shown['steps'].max()):,} steps of batch {first['batch_size']}; "
        f"{first['dev_rows']:,} rows carved from train. Ringed: the rate taken. Dashed: checks, which decide nothing.",
        *failed(trials),
    ]
    arms = trials["arm"].nunique()
    width = style.SINGLE if arms <= ONE_COLUMN else style.DOUBLE
    handles = [
        Line2D([], [], label=arm_label(row["method"], row["rank"]), markersize=4, **look_of(grid, row))
        for row in trials.drop_duplicates("arm").to_dict("records")
    ]
    height = (
        2.2 + legend_height(handles, width) if width == style.SINGLE else max(3.0, legend_height(handles, width) + 0.4)
    )
    figure = canvas(grid, title, height, notes, width)
    axes = figure.subplots()
    for _, own in trials.groupby("arm", sort=False):
        own, row = own.dropna(subset="value").sort_values("learning_rate"), own.iloc[0]
        line, values = look_of(grid, row), own["value"] * grid.scale
        axes.plot(own["learning_rate"], values, markersize=3.5, linewidth=1.1, alpha=0.9, **line)
        best = own[own["chosen"] & own["decides"]]
        ring = {"s": 60, "facecolors": "none", "edgecolors": [line["color"]], "linewidths": 1.1, "zorder": 4}
        axes.scatter(best["learning_rate"], best["value"] * grid.scale, **ring)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(*spread(shown["value"] * grid.scale, 0.02 * grid.scale))
    axes.set_xlabel("Learning rate (log scale)")
    axes.set_ylabel(grid.metric_axis.replace("test split", "dev split"))
    style.mark_cut(axes, "y")
    style.grid_along(axes, "y")
    legend(axes, handles, width)
    return figure


def look_of(grid: Grid, row: dict[str, Any]) -> dict[str, Any]:
    """How the line of an arm is drawn: its method's colour and marker, dashed where it decides nothing."""
    look = grid.styles[row["method"]]
    return {"color": look.colour, "marker": look.marker, "linestyle": "-" if row["decides"] else "--"}


def failed(trials: pd.DataFrame) -> list[str]:
    """A note on the trials without a metric."""
    lost = trials[trials["value"].isna()]
    names = [
        f"{arm_label(row['method'], row['rank'])} at {row['learning_rate']:.3g} ({outcome(row)})"
        for row in lost.to_dict("records")
    ]
    return [f"Not shown: {', '.join(names)}."] if names else []

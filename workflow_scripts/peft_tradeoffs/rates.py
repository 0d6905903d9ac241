"""The learning-rate grid of tuning as a figure."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from peft_tradeoffs import style
from peft_tradeoffs.arms import arm_label
from peft_tradeoffs.canvas import Grid, canvas, message, spread, styled
from peft_tradeoffs.tuning_table import outcome

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
    figure = canvas(grid, title, 3.4, notes)
    axes = figure.subplots()
    handles = []
    for _, own in trials.groupby("arm", sort=False):
        own, row = own.dropna(subset="value").sort_values("learning_rate"), own.iloc[0]
        look = grid.styles[row["method"]]
        line = {"color": look.colour, "marker": look.marker, "linestyle": "-" if row["decides"] else "--"}
        values = own["value"] * grid.scale
        axes.plot(own["learning_rate"], values, markersize=4, linewidth=1.2, alpha=0.9, **line)
        best = own[own["chosen"] & own["decides"]]
        ring = {"s": 90, "facecolors": "none", "edgecolors": [look.colour], "linewidths": 1.3, "zorder": 4}
        axes.scatter(best["learning_rate"], best["value"] * grid.scale, **ring)
        handles.append(Line2D([], [], label=arm_label(row["method"], row["rank"]), markersize=5, **line))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(*spread(shown["value"] * grid.scale, 0.02 * grid.scale))
    axes.set_xlabel("Learning rate (log scale)")
    axes.set_ylabel(grid.metric_axis.replace("test split", "dev split"))
    style.grid_along(axes, "y")
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0, handlelength=3.5)
    return figure


def failed(trials: pd.DataFrame) -> list[str]:
    """A note on the trials without a metric."""
    lost = trials[trials["value"].isna()]
    names = [
        f"{arm_label(row['method'], row['rank'])} at {row['learning_rate']:.3g} ({outcome(row)})"
        for row in lost.to_dict("records")
    ]
    return [f"Not shown: {', '.join(names)}."] if names else []

"""The learning-rate grid of tuning as a figure."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from peft_tradeoffs.analysis.tuning_table import outcome, ruined
from peft_tradeoffs.core.arms import arm_label
from peft_tradeoffs.report import style
from peft_tradeoffs.report.canvas import canvas, legend, legend_height, message, spread, styled
from peft_tradeoffs.report.panels import ONE_PANEL, Panels, arm_entries, rank_entries, rank_shades, shade
from peft_tradeoffs.report.sweep import Sweep

TITLE = "{} on the dev split against the learning rate"


@styled
def learning_rate_grid(sweep: Sweep) -> Figure:
    """One line per tuned arm: its metric on the dev split after the last step, at every rate tried.

    There is one panel per method where there are many arms.
    """
    title, trials = TITLE.format(sweep.metric_name), sweep.tuning
    shown = trials.dropna(subset="value")
    if shown.empty:
        return message(sweep, title, "no trial has a metric")
    low, high = spread(shown["value"][~ruined(shown)] * sweep.scale, 0.02 * sweep.scale)
    first = trials.iloc[0]
    notes = [
        f"Trials: seed {first['seed']}, {int(shown['steps'].max()):,} steps of batch {first['batch_size']}; "
        f"{first['dev_rows']:,} rows carved from train. Ringed: the rate taken.",
        "" if trials["decides"].all() else "Dashed: checks, which decide nothing.",
        below(shown["value"] * sweep.scale, low),
        *failed(trials),
    ]
    arms = trials.drop_duplicates("arm")
    together = len(arms) <= ONE_PANEL
    panels = Panels.plan(trials["method"], together)
    shades = rank_shades(trials["rank"])
    handles = arm_entries(sweep, arms, shades, markers=True) if together else rank_entries(shades)
    width = style.SINGLE if together else style.DOUBLE
    height = 2.2 + legend_height(handles, width) if together else 0.5 + 1.45 * panels.lines
    figure = canvas(sweep, title, height, notes, width)
    cells = panels.subplots(figure, "Learning rate (log scale)", titles=not together)
    for axes, names in zip(cells, panels.methods, strict=True):
        for _, own in trials[trials["method"].isin(names)].groupby("arm", sort=False):
            draw_arm(axes, own, sweep, shades, low)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(low, high)
        style.mark_cut(axes, "y")
        style.grid_along(axes, "y")
    figure.supylabel(sweep.metric_axis.replace("test split", "dev split"), fontsize=style.NORMAL)
    if together or len(shades) > 1:
        legend(cells[panels.columns - 1], handles, width)
    return figure


def below(values: pd.Series, low: float) -> str:
    """A note on the trials that lie under the axis, if there are any."""
    under = values[values < low]
    return f"Triangles: lower than the axis goes, down to {under.min():.3g} (table tuning)." if len(under) else ""


def draw_arm(axes: Axes, trials: pd.DataFrame, sweep: Sweep, shades: dict[int, float], low: float) -> None:
    """The line of one arm: dashed where it decides nothing, its rate ringed, triangles for what is below the axis."""
    own, row = trials.dropna(subset="value").sort_values("learning_rate"), trials.iloc[0]
    colour, values = shade(sweep, row["method"], row["rank"], shades), own["value"] * sweep.scale
    axes.plot(
        own["learning_rate"], values, markersize=3.5, linewidth=1.1, color=colour,
        marker=sweep.styles[row["method"]].marker, linestyle="-" if row["decides"] else "--",
    )  # fmt: skip
    under = own["learning_rate"][values < low]
    foot = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 5}
    axes.scatter(under, [0.0] * len(under), s=22, color=[colour], marker="v", **foot)
    best = own[own["chosen"] & own["decides"]]
    ring = {"s": 60, "facecolors": "none", "edgecolors": [colour], "linewidths": 1.1, "zorder": 4}
    axes.scatter(best["learning_rate"], best["value"] * sweep.scale, **ring)


def failed(trials: pd.DataFrame) -> list[str]:
    """A note on the trials without a metric."""
    lost = trials[trials["value"].isna()]
    names = [
        f"{arm_label(row['method'], row['rank'])} at {row['learning_rate']:.3g} ({outcome(row)})"
        for row in lost.to_dict("records")
    ]
    return [f"Not shown: {', '.join(names)}."] if names else []

"""The metric along training and over learning rates, a method per panel where there are many arms."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from peft_tradeoffs.analysis.tuning_table import outcome, ruined
from peft_tradeoffs.core.text import arm_label, method_label
from peft_tradeoffs.report import palette, style
from peft_tradeoffs.report.canvas import absent, canvas, draw_reason, legend, legend_height, message, spread, styled
from peft_tradeoffs.report.style import wrap
from peft_tradeoffs.report.sweep import Sweep, conditions, no_metric, reason

ONE_PANEL = 5  # arms whose lines still read well in one panel


@dataclass(frozen=True)
class Panels:
    """Which methods each panel shows, in reading order."""

    methods: list[list[str]]

    @classmethod
    def plan(cls, methods: Iterable[str], together: bool) -> "Panels":
        """One panel of all methods, or one of each."""
        named = list(dict.fromkeys(methods))
        return cls([named] if together else [[method] for method in named])

    @property
    def columns(self) -> int:
        count = len(self.methods)
        return 2 if count == 4 else min(3 if count <= 9 else 5, count)

    @property
    def lines(self) -> int:
        return math.ceil(len(self.methods) / self.columns)

    def subplots(self, figure: Figure, xlabel: str, titles: bool) -> list[Axes]:
        """Axes of the panels, with common scales; ticks and label of x below the lowest of each column.

        The legend goes beside the first line's last panel: `axes[columns - 1]`.
        """
        cells = figure.subplots(self.lines, self.columns, sharex=True, sharey=True, squeeze=False)
        count = len(self.methods)
        for index, axes in enumerate(cells.flat):
            lowest = index + self.columns >= count
            axes.xaxis.set_tick_params(labelbottom=lowest)
            axes.set_xlabel(xlabel if lowest else "")
            axes.set_visible(index < count)
            if titles and index < count:
                name = method_label(self.methods[index][0])
                axes.set_title("\n".join(wrap(name, 5.0 / self.columns, style.NORMAL)))
        return list(cells.flat)[:count]


def rank_shades(ranks: pd.Series) -> dict[int, float]:
    """How strong each rank's colour is: light for the lowest, the method's own for the highest."""
    ordered = sorted(ranks.dropna().unique())
    shares = np.linspace(0.35, 1.0, len(ordered)) if len(ordered) > 1 else np.ones(len(ordered))
    return dict(zip(ordered, shares, strict=True))


def shade(sweep: Sweep, method: str, rank: float | None, shades: dict[int, float]) -> tuple[float, float, float]:
    """The colour of an arm: its method's, the lighter the lower the rank."""
    return palette.tint(sweep.styles[method].colour, 1.0 if pd.isna(rank) else shades[rank])


def arm_entries(sweep: Sweep, arms: pd.DataFrame, shades: dict[int, float], markers: bool = False) -> list[Line2D]:
    """A legend's entry a row of `arms`, with its method's marker if asked."""
    entries = []
    for row in arms.itertuples():
        colour, label = shade(sweep, row.method, row.rank, shades), arm_label(row.method, row.rank)
        marker = sweep.styles[row.method].marker if markers else ""
        entries.append(Line2D([], [], color=colour, label=label, marker=marker, markersize=4))
    return entries


def rank_entries(shades: dict[int, float]) -> list[Line2D]:
    """A legend's entry a rank."""
    grey = (0.2, 0.2, 0.2)
    return [Line2D([], [], color=palette.tint(grey, share), label=f"rank {rank:g}") for rank, share in shades.items()]


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

"""Lines: the metric along training and over learning rates; the metric, memory and speed along the rank."""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from peft_tradeoffs.analysis import readable, tables
from peft_tradeoffs.analysis.stats import incomparable, seed_values
from peft_tradeoffs.analysis.tables import COMPLETED, memory_key
from peft_tradeoffs.analysis.tuning_table import outcome, ruined
from peft_tradeoffs.core.layout import VALIDATION
from peft_tradeoffs.core.text import FULL, arm_label, groups_of, method_label, records
from peft_tradeoffs.report import style
from peft_tradeoffs.report.style import (
    absent,
    canvas,
    compact,
    draw_intervals,
    draw_reason,
    interval_note,
    legend,
    legend_height,
    message,
    metric_limits,
    resolution,
    spread,
    styled,
    thousands,
    wrap,
)
from peft_tradeoffs.report.sweep import Sweep, conditions, devices, no_metric, reason, tint
from peft_tradeoffs.tasks.metrics import metric_called

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


def shade(sweep: Sweep, method: str, rank: Any, shades: dict[int, float]) -> tuple[float, float, float]:
    """The colour of an arm: its method's, the lighter the lower the rank, which is null where it has none."""
    return tint(sweep.styles[method].colour, 1.0 if pd.isna(rank) else shades[rank])


def arm_entries(sweep: Sweep, arms: pd.DataFrame, shades: dict[int, float], markers: bool = False) -> list[Line2D]:
    """A legend's entry a row of `arms`, with its method's marker if asked."""
    entries = []
    for row in records(arms):
        method, rank = row["method"], row["rank"]
        colour, label = shade(sweep, method, rank, shades), arm_label(method, rank)
        marker = sweep.styles[method].marker if markers else ""
        entries.append(Line2D([], [], color=colour, label=label, marker=marker, markersize=4))
    return entries


def rank_entries(shades: dict[int, float]) -> list[Line2D]:
    """A legend's entry a rank."""
    grey = (0.2, 0.2, 0.2)
    return [Line2D([], [], color=tint(grey, share), label=f"rank {rank:g}") for rank, share in shades.items()]


@styled
def learning_curves(sweep: Sweep) -> Figure:
    """The metric on the test split at each evaluation; one panel per method where there are many arms."""
    title = "Learning curves"
    if no_metric(sweep) or sweep.metric not in sweep.curves:
        return message(sweep, title, no_metric(sweep) or reason(sweep.runs, "metric_value"))
    curves = sweep.curves[sweep.curves["split"] == "test"].dropna(subset=sweep.metric)
    if curves.empty:
        return message(sweep, title, reason(sweep.runs, "metric_value"))
    if curves.groupby(["arm", "seed"])["step"].nunique().max() < 2:
        return message(sweep, title, "every run was evaluated once, which makes no curve")
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
        draw_curves(axes, sweep, curves, x, sweep.arms[sweep.arms["method"].isin(names)], shades)
        if not axes.lines:
            draw_reason(axes, reason(sweep.runs[sweep.runs["method"].isin(names)], "metric_value"))
        style.grid_along(axes, "both")
        style.mark_cut(axes, "y")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.supylabel(sweep.metric_axis, fontsize=style.NORMAL)
    if together or len(shades) > 1:
        legend(cells[panels.columns - 1], handles, width)
    return figure


def draw_curves(
    axes: Axes, sweep: Sweep, curves: pd.DataFrame, x: str, arms: pd.DataFrame, shades: dict[int, float]
) -> None:
    """A thin line per seed and a thick one per arm: the mean where every seed has a value."""
    own = curves[curves["arm"].isin(arms["arm"])]
    own = own.assign(value=own[sweep.metric] * sweep.scale)[["arm", "seed", x, "value"]]
    if own.empty:
        return
    colours = {row["arm"]: shade(sweep, row["method"], row["rank"], shades) for row in records(arms)}
    several = own[own.groupby("arm")["seed"].transform("nunique") > 1]
    alone = "o" if own[x].nunique() == 1 else ""  # a line of one point is none
    drawn = {"x": x, "y": "value", "hue": "arm", "palette": colours, "estimator": None, "legend": False, "ax": axes}
    name = axes.get_xlabel()
    if len(several):
        sns.lineplot(several, units="seed", linewidth=0.6, alpha=0.5, zorder=2, marker=alone, markersize=2.5, **drawn)
    rows = [
        {"arm": arm, x: at, "value": mean}
        for arm, seeds in own.groupby("arm", sort=False)
        for at, mean in seeds.pivot_table(index=x, columns="seed", values="value").dropna().mean(axis=1).items()
    ]
    if rows:
        few = "o" if own[x].nunique() <= 12 else ""
        sns.lineplot(pd.DataFrame(rows), linewidth=1.5, zorder=3, marker=few, markersize=4, markeredgewidth=0, **drawn)
    axes.set(xlabel=name, ylabel="")


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
    judged = f"of {VALIDATION}" if first["dev"] == VALIDATION else "carved from train"
    notes = [
        f"Trials: seed {first['seed']}, {int(shown['steps'].max()):,} steps of batch {first['batch_size']}; "
        f"{first['dev_rows']:,} rows {judged}. Ringed: the rate taken.",
        "Rates that were tried again: means of their trials." if (trials["trials"] > 1).any() else "",
        "" if trials["decides"].all() else "Dashed: checks, which decide nothing.",
        beyond(shown["value"] * sweep.scale, low, high, sweep),
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
        draw_rates(axes, trials[trials["method"].isin(names)], sweep, shades, (low, high))
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


def beyond(values: pd.Series, low: float, high: float, sweep: Sweep) -> str:
    """A note on the trials that are worse than the axis shows, if there are any."""
    if metric_called(sweep.metric).higher_is_better:
        off = values[values < low]
        return f"Triangles: lower than the axis goes, down to {off.min():.3g} (table tuning)." if len(off) else ""
    off = values[values > high]
    return f"Triangles: higher than the axis goes, up to {off.max():.3g} (table tuning)." if len(off) else ""


def draw_rates(
    axes: Axes, trials: pd.DataFrame, sweep: Sweep, shades: dict[int, float], limits: tuple[float, float]
) -> None:
    """One line per arm: dashed where it decides nothing, its rate ringed, triangles for what is worse than the axis."""
    own = trials.dropna(subset="value")
    own = own.assign(shown=own["value"] * sweep.scale)
    if own.empty:
        return
    arms = own.drop_duplicates("arm").set_index("arm")
    colours = {arm: shade(sweep, row["method"], row["rank"], shades) for arm, row in arms.iterrows()}
    markers = {arm: sweep.styles[method].marker for arm, method in arms["method"].items()}
    name = axes.get_xlabel()
    dashes = {arm: "" if decides else (4, 2) for arm, decides in arms["decides"].items()}
    sns.lineplot(
        own, x="learning_rate", y="shown", hue="arm", style="arm", palette=colours, markers=markers, dashes=dashes,
        estimator=None, markersize=4, markeredgewidth=0, linewidth=1.1, legend=False, ax=axes,
    )  # fmt: skip
    axes.set(xlabel=name, ylabel="")
    down = metric_called(sweep.metric).higher_is_better
    off = own[own["shown"] < limits[0]] if down else own[own["shown"] > limits[1]]
    edge: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "clip_on": False, "zorder": 5}
    place, marker = ([0.0], "v") if down else ([1.0], "^")
    axes.scatter(
        off["learning_rate"], place * len(off), s=22, c=[colours[arm] for arm in off["arm"]], marker=marker, **edge
    )
    best = own[own["chosen"] & own["decides"]]
    edges = [colours[arm] for arm in best["arm"]]
    axes.scatter(
        best["learning_rate"], best["shown"], s=60, facecolors="none", edgecolors=edges, linewidths=1.1, zorder=4
    )


def failed(trials: pd.DataFrame) -> list[str]:
    """A note on the trials without a metric."""
    lost = trials[trials["value"].isna()]
    names = [
        f"{arm_label(row['method'], row['rank'])} at {row['learning_rate']:.3g} ({outcome(row)})"
        for row in records(lost)
    ]
    return [f"Not shown: {', '.join(names)}."] if names else []


FEW_METHODS = 4  # methods whose lines still read well in one column
SEEDS = "Large: means. Small: seeds."


@styled
def metric_vs_rank(sweep: Sweep) -> Figure:
    """The metric against the rank, one line per method; arms without a rank are horizontal lines."""
    title = f"{sweep.metric_name} against rank"
    if no_metric(sweep):
        return message(sweep, title, no_metric(sweep))
    if sweep.arms.dropna(subset="rank")["metric_value_mean"].isna().all():
        return message(sweep, title, "no completed run has a rank")
    shown = sweep.arms.dropna(subset="metric_value_mean")
    notes = [conditions(sweep.runs), SEEDS, interval_note(sweep, "metric_value"), resolution(sweep)]
    notes += absent(sweep, shown["arm"], "metric_value")
    width = style.SINGLE if sweep.arms["method"].nunique() <= FEW_METHODS else style.DOUBLE
    handles = method_entries(sweep)
    height = (
        2.2 + legend_height(handles, width) if width == style.SINGLE else max(3.0, legend_height(handles, width) + 0.4)
    )
    figure = canvas(sweep, title, height, notes, width)
    axes = figure.subplots()
    draw_lines(axes, sweep, "metric_value", sweep.metric_axis)
    legend(axes, handles, width)
    return figure


@styled
def speed_vs_rank(sweep: Sweep) -> Figure:
    """A training step's median and 95th percentile and the throughput against the rank; one row per device."""
    title = "Training step and throughput against rank"
    panels = {key: readable.LABEL[key] for key in ("step_p50_ms", "step_p95_ms", "samples_per_s")}
    ranked = sweep.arms.dropna(subset="rank")
    if not ranked["n"].sum():
        return message(sweep, title, "no completed run has a rank")
    if ranked[[f"{key}_mean" for key in panels]].isna().all(axis=None):
        return message(sweep, title, reason(sweep.runs, *panels))
    shown = sweep.arms.dropna(subset=[f"{key}_mean" for key in panels], how="all")["arm"]
    notes = [conditions(sweep.runs), SEEDS, interval_note(sweep, *panels), *absent(sweep, shown, *panels)]
    notes += readable.fallbacks(sweep.runs)
    lines = [(device, runs) for device, runs in devices(sweep) if runs["rank"].notna().any()]
    handles = method_entries(sweep)
    height = max(1.8 * len(lines), legend_height(handles, style.DOUBLE) + 0.3)
    figure = canvas(sweep, title, height, notes, style.DOUBLE)
    cells = figure.subplots(len(lines), len(panels), squeeze=False)
    for line, (device, runs) in zip(cells, lines, strict=True):
        for axes, (key, label) in zip(line, panels.items(), strict=True):
            draw_lines(axes, dataclasses.replace(sweep, runs=runs), key, label)
            if len(lines) > 1:
                axes.set_title(f"On {device}")
    legend(cells[0, -1], handles, style.DOUBLE)
    return figure


@styled
def along_ranks(sweep: Sweep, method: str) -> Figure:
    """One method's ranks in four panels: metric, trainable parameters, peak memory, throughput; full beside it."""
    title = f"{method_label(method)} by rank"
    own = dataclasses.replace(sweep, runs=sweep.runs[sweep.runs["method"] == method])
    if (own.runs["status"] != COMPLETED).all():
        return message(sweep, title, reason(own.runs, "status"))
    beside = dataclasses.replace(sweep, runs=sweep.runs[sweep.runs["method"].isin((FULL, method))])
    memory = memory_key(tables.first(own.runs["device"]))
    shown = own.arms[own.arms["n"] > 0]["arm"]
    notes = [
        conditions(own.runs),
        SEEDS,
        interval_note(own, "metric_value", memory, "samples_per_s"),
        *absent(own, shown, "metric_value"),
    ]
    if len(beside.runs) > len(own.runs):
        notes.append("Dashed: full fine-tuning, where it completed on the same device; it trains all parameters.")
    notes += [readable.PROBE, *readable.fallbacks(own.runs)]
    figure = canvas(sweep, title, 4.0, notes, style.DOUBLE)
    panels = (
        (beside, "metric_value", sweep.metric_axis),
        (own, "trainable_parameters", readable.LABEL["trainable_parameters"]),
        (beside, memory, readable.LABEL[memory]),
        (beside, "samples_per_s", readable.LABEL["samples_per_s"]),
    )
    cells = figure.subplots(2, 2)
    for axes, panel in zip(cells.flat, panels, strict=True):
        draw_lines(axes, *(panel if comparable(*panel[:2]) else (own, *panel[1:])))
    for axes in cells[0]:
        axes.set_xlabel("")
    return figure


def comparable(sweep: Sweep, key: str) -> bool:
    """Whether a measurement of these runs may stand in one panel; settings always may."""
    return f"{key}_mean" not in sweep.arms or incomparable(sweep.runs, key) is None


def method_entries(sweep: Sweep) -> list[Line2D]:
    """A legend's entry a method."""
    handles = []
    for method, arms in groups_of(sweep.arms, "method"):
        look, ranked = sweep.styles[method], bool(arms["rank"].notna().any())
        drawn = {"marker": look.marker, "markersize": 4.5, "markeredgewidth": 0} if ranked else {"linestyle": "--"}
        label = method_label(method) + ("" if ranked else " (no rank)")
        handles.append(Line2D([], [], color=look.colour, linewidth=1.2, label=label, **drawn))
    return handles


def draw_lines(axes: Axes, sweep: Sweep, key: str, label: str) -> None:
    """A measurement against the rank: one line per method, arms without a rank across; from zero but for the metric."""
    scale = sweep.scale if key == "metric_value" else 1.0
    ranks = np.array(sorted(sweep.runs["rank"].dropna().unique()), dtype=float)
    averaged = f"{key}_mean" in sweep.arms
    why = no_metric(sweep) if key == "metric_value" else None
    if not comparable(sweep, key):
        why = incomparable(sweep.runs, key)
    if not why and sweep.runs.dropna(subset=key).empty:
        why = reason(sweep.runs, key)
    if why or not len(ranks):
        draw_reason(axes, why or "no run has a rank")
        axes.set(xticks=[], yticks=[], ylabel=label)
        return
    gap = float(np.diff(np.log2(ranks)).min()) if len(ranks) > 1 else 1.0
    for row in records(sweep.arms[sweep.arms["rank"].isna()]):
        draw_rankless(axes, sweep, row, key, scale)
    draw_methods(axes, sweep, key, scale, gap)
    axes.set_ylabel(label)
    axes.set_xscale("log", base=2)
    axes.set_xlim(ranks[0] / 2 ** (0.6 * gap), ranks[-1] * 2 ** (0.6 * gap))
    axes.set_xticks(ranks, rank_labels(ranks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("Rank (log scale)")
    axes.yaxis.set_major_formatter(FuncFormatter(thousands if averaged else lambda value, _: compact(value)))
    if key == "metric_value":
        axes.set_ylim(*metric_limits(sweep))
        style.mark_cut(axes, "y")
    else:
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
    style.grid_along(axes, "y")


def rank_labels(ranks: np.ndarray) -> list[str]:
    """Tick labels of ranks, left out where they would touch: 0.06 of the axis is a label's width."""
    if len(ranks) < 2:
        return [f"{rank:g}" for rank in ranks]
    places = np.log2(ranks / ranks[0]) / np.log2(ranks[-1] / ranks[0])
    labels, last = [], -1.0
    for rank, place in zip(ranks, places, strict=True):
        fits = place - last >= 0.06
        labels.append(f"{rank:g}" if fits else "")
        last = place if fits else last
    return labels


def draw_rankless(axes: Axes, sweep: Sweep, row: dict[str, Any], key: str, scale: float) -> None:
    """The mean of an arm without a rank as a line across, its interval as a band."""
    colour = sweep.styles[row["method"]].colour
    own = sweep.runs[sweep.runs["arm"] == row["arm"]]
    values = seed_values(own, key, scale)
    if len(values):
        axes.axhline(values.mean(), color=colour, linewidth=1.1, linestyle="--", zorder=2)
    if ends := sweep.interval(own, key, scale):
        axes.axhspan(*ends, color=colour, alpha=0.1, linewidth=0, zorder=1)


def draw_methods(axes: Axes, sweep: Sweep, key: str, scale: float, gap: float) -> None:
    """Each method's means, intervals and seeds, moved sideways so that methods do not hide each other.

    `gap`: between the closest ranks, in powers of two. A line is broken where an arm has no mean; a cross is there.
    """
    methods = dict(groups_of(sweep.arms.dropna(subset="rank"), "method"))
    shifts = (np.arange(len(methods)) - (len(methods) - 1) / 2) * gap * min(0.1, 0.5 / len(methods))
    colours = {method: sweep.styles[method].colour for method in methods}
    means, seeds = [], []
    ends: dict[str, list[dict[str, Any]]] = {}
    for shift, (method, arms) in zip(shifts, methods.items(), strict=True):
        for row in records(arms):
            own = sweep.runs[sweep.runs["arm"] == row["arm"]]
            place = {"x": row["rank"] * 2.0**shift, "method": method}
            if f"{key}_mean" in row:
                values = seed_values(own, key, scale)
                means.append(place | {"y": values.mean() if len(values) else math.nan})
                seeds += [place | {"y": value} for value in values if len(values) > 1]
                bar = sweep.interval(own, key, scale)
                ends.setdefault(method, []).extend(place | {"y": end} for end in bar or ())
            else:  # a setting, the same for every seed
                value = pd.to_numeric(row[key], errors="coerce")
                means.append(place | {"y": math.nan if pd.isna(value) else float(value)})
    frame = pd.DataFrame(means)
    frame = frame.assign(piece=frame["y"].isna().cumsum())
    drawn = {"x": "x", "y": "y", "hue": "method", "palette": colours, "legend": False, "ax": axes}
    sns.lineplot(
        frame.dropna(), style="method", markers={method: sweep.styles[method].marker for method in methods},
        dashes=False, units="piece", estimator=None, markersize=5, linewidth=0 if sweep.uncompared(key) else 1.2,
        markeredgewidth=0, zorder=4, **drawn,
    )  # fmt: skip
    for method, own in ends.items():
        draw_intervals(axes, own, "x", color=colours[method], err_kws={"linewidth": 0.8, "alpha": 0.7, "zorder": 3})
    if seeds:
        sns.scatterplot(pd.DataFrame(seeds), s=5, alpha=0.5, linewidth=0, zorder=3, **drawn)
    gone = frame[frame["y"].isna()]
    foot = axes.get_xaxis_transform()
    for method, own in gone.groupby("method"):
        axes.plot(own["x"], [0.03] * len(own), "x", color=colours[method], markersize=4, transform=foot, zorder=4)

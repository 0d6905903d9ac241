"""The metric, memory and speed along the rank, one line per method."""

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from peft_tradeoffs.analysis import readable, tables
from peft_tradeoffs.analysis.means import incomparable, interval, seed_values
from peft_tradeoffs.analysis.tables import COMPLETED, memory_key
from peft_tradeoffs.core.text import FULL, method_label
from peft_tradeoffs.report import style
from peft_tradeoffs.report.canvas import (
    absent,
    canvas,
    draw_reason,
    interval_note,
    legend,
    legend_height,
    message,
    metric_limits,
    resolution,
    styled,
    thousands,
)
from peft_tradeoffs.report.scatter import compact
from peft_tradeoffs.report.sweep import Sweep, conditions, devices, no_metric, reason

ONE_COLUMN = 4  # methods whose lines still read well in one column
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
    width = style.SINGLE if sweep.arms["method"].nunique() <= ONE_COLUMN else style.DOUBLE
    handles = entries(sweep)
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
    panels = {"step_p50_ms": "Step p50, ms", "step_p95_ms": "Step p95, ms", "samples_per_s": "Samples/s"}
    ranked = sweep.arms.dropna(subset="rank")
    if not ranked["n"].sum():
        return message(sweep, title, "no completed run has a rank")
    if ranked[[f"{key}_mean" for key in panels]].isna().all(axis=None):
        return message(sweep, title, reason(sweep.runs, *panels))
    shown = sweep.arms.dropna(subset=[f"{key}_mean" for key in panels], how="all")["arm"]
    notes = [conditions(sweep.runs), SEEDS, interval_note(sweep, *panels), *absent(sweep, shown, *panels)]
    notes += readable.fallbacks(sweep.runs)
    lines = [(device, runs) for device, runs in devices(sweep) if runs["rank"].notna().any()]
    handles = entries(sweep)
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
        (own, "trainable_parameters", "Trainable parameters"),
        (beside, memory, readable.LABEL[memory]),
        (beside, "samples_per_s", "Samples/s"),
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


def entries(sweep: Sweep) -> list[Line2D]:
    """A legend's entry a method."""
    handles = []
    for method, arms in sweep.arms.groupby("method", sort=False):
        look, ranked = sweep.styles[method], bool(arms["rank"].notna().any())
        drawn = {"marker": look.marker, "markersize": 4.5, "markeredgewidth": 0} if ranked else {"linestyle": "--"}
        label = method_label(method) + ("" if ranked else " (no rank)")
        handles.append(Line2D([], [], color=look.colour, linewidth=1.2, label=label, **drawn))
    return handles


def draw_lines(axes: Axes, sweep: Sweep, key: str, label: str) -> None:
    """A measurement against the rank: one line per method, arms without a rank across; from zero but for the metric."""
    scale = sweep.scale if key == "metric_value" else 1.0
    ranks = np.array(sorted(sweep.runs["rank"].dropna().unique()), dtype=float)
    axes.set_ylabel(label)
    averaged = f"{key}_mean" in sweep.arms
    why = no_metric(sweep) if key == "metric_value" else None
    if not comparable(sweep, key):
        why = incomparable(sweep.runs, key)
    if not why and sweep.runs.dropna(subset=key).empty:
        why = reason(sweep.runs, key)
    if why or not len(ranks):
        draw_reason(axes, why or "no run has a rank")
        axes.set(xticks=[], yticks=[])
        return
    gap = float(np.diff(np.log2(ranks)).min()) if len(ranks) > 1 else 1.0
    curves = dict(list(sweep.arms.dropna(subset="rank").groupby("method", sort=False)))
    shifts = (np.arange(len(curves)) - (len(curves) - 1) / 2) * gap * min(0.1, 0.5 / len(curves))
    for row in sweep.arms[sweep.arms["rank"].isna()].to_dict("records"):
        draw_rankless(axes, sweep, row, key, scale)
    for shift, (method, arms) in zip(shifts, curves.items(), strict=True):
        draw_curve(axes, sweep, method, arms, key, scale, 2.0**shift)
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
    if ends := interval(own, key, sweep.noise, scale):
        axes.axhspan(*ends, color=colour, alpha=0.1, linewidth=0, zorder=1)


def draw_curve(axes: Axes, sweep: Sweep, method: str, arms: pd.DataFrame, key: str, scale: float, shift: float) -> None:
    """One method's means, intervals and seeds; `shift` moves it sideways so that methods do not hide each other."""
    look = sweep.styles[method]
    ranks = arms["rank"].to_numpy(dtype=float) * shift
    bars: list[tuple[float, float] | None] = [None] * len(arms)
    if f"{key}_mean" in arms:
        runs = [sweep.runs[sweep.runs["arm"] == arm] for arm in arms["arm"]]
        own = [seed_values(one, key, scale) for one in runs]
        bars = [interval(one, key, sweep.noise, scale) for one in runs]
        mean = np.array([values.mean() if len(values) else np.nan for values in own])
    else:  # a setting, the same for every seed
        own = [np.empty(0)] * len(arms)
        mean = pd.to_numeric(arms[key], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    axes.plot(
        ranks, mean, color=look.colour, marker=look.marker, markersize=4.5, linewidth=1.2, markeredgewidth=0, zorder=4
    )
    for x, ends in zip(ranks, bars, strict=True):
        if ends:
            axes.plot([x, x], ends, color=look.colour, linewidth=0.8, alpha=0.7, zorder=3)
    across = np.repeat(ranks, [len(values) if len(values) > 1 else 0 for values in own])
    up = np.concatenate([values for values in own if len(values) > 1] or [np.empty(0)])
    axes.scatter(across, up, s=4, color=look.colour, alpha=0.5, linewidth=0, zorder=3)
    gone = ranks[np.isnan(mean)]
    axes.plot(
        gone, np.full(len(gone), 0.03), "x", color=look.colour, markersize=4,
        transform=axes.get_xaxis_transform(), zorder=4,
    )  # fmt: skip

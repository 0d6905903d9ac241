"""The metric against a cost: scatter plots of the arms with their Pareto front, and where labels go."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.transforms import Bbox

from peft_tradeoffs.analysis import readable, tables
from peft_tradeoffs.analysis.tables import COMPLETED, memory_key
from peft_tradeoffs.core.text import arm_label, method_label, records
from peft_tradeoffs.report import style
from peft_tradeoffs.report.style import (
    absent,
    canvas,
    interval_note,
    legend,
    legend_height,
    log_ticks,
    message,
    metric_limits,
    styled,
    thousands,
    widest,
    wrap,
)
from peft_tradeoffs.report.sweep import Sweep, conditions, devices, no_metric, reason
from peft_tradeoffs.tasks.metrics import metric_called

DISTANCES = (2, 4, 6, 10, 16, 24, 34, 46, 60)  # points (1/72 inch) between a marker and its label
ANGLES = range(0, 360, 15)
LEADER = 8  # points: a label further away gets a line to its point


@dataclass(frozen=True)
class Marks:
    """What a plot shows, in data coordinates."""

    points: np.ndarray  # [n, 2] all markers
    radii: np.ndarray  # [n] their sizes, points (1/72 inch)
    path: np.ndarray  # [m, 2] a polyline


def place_labels(axes: Axes, marks: Marks, names: dict[int, str], direction: float) -> None:
    """Write the names of some of the plot's points beside them; call once the axes' limits are final.

    `names` are by index of the point, `direction` is the side of a point [degrees, 0 is right, 90 up] where a label
    stands best. A label covers a marker or another label only where there is no free place, and keeps clear of the
    path where it can.
    """
    figure = style.figure_of(axes)
    figure.draw_without_rendering()
    dot = figure.dpi / 72
    scene = Scene(
        axes.get_window_extent(),
        axes.transData.transform(marks.points),
        marks.radii * dot,
        dense(axes.transData.transform(marks.path), 4 * dot),
        2 * dot,
        [],
    )
    for index, name in sorted(names.items(), key=lambda pair: -marks.points[pair[0], 1]):
        note = axes.annotate(name, marks.points[index], xytext=(0, 0), textcoords="offset points", fontsize=style.SMALL)
        note.set_in_layout(False)
        note.set_path_effects([withStroke(linewidth=2, foreground="white")])
        extent = note.get_window_extent()
        centre, radius = scene.markers[index], scene.radii[index]
        places = [
            (
                distance + 3 * (1 - math.cos(math.radians(angle - direction))),
                distance,
                place(centre, extent.width, extent.height, angle, radius + distance * dot),
            )
            for distance in DISTANCES
            for angle in ANGLES
        ]
        _, distance, box = min(places, key=lambda found: found[0] + scene.cost(found[2], index))
        scene.labels.append(box)
        note.set_position(((box.x0 - centre[0]) / dot, (box.y0 - centre[1]) / dot))
        if distance > LEADER:
            ends = axes.transData.inverted().transform([centre, nearest(box, centre)])
            axes.plot(*ends.T, color="#8a8a8a", linewidth=0.5, zorder=2, scalex=False, scaley=False)


@dataclass(frozen=True)
class Scene:
    """What labels must not cover, in pixels."""

    frame: Bbox  # the axes
    markers: np.ndarray  # [n, 2] centres
    radii: np.ndarray  # [n]
    path: np.ndarray  # [m, 2] points along the polyline
    gap: float  # what stays free around a label
    labels: list[Bbox]  # those written so far

    def cost(self, box: Bbox, own: int) -> float:
        """What marker `own`'s label would cover in this box, weighted; 0 where all is free and `own` is nearest."""
        beyond = max(self.frame.x0 - box.x0, box.x1 - self.frame.x1, self.frame.y0 - box.y0, box.y1 - self.frame.y1)
        gaps = np.maximum(np.maximum(box.min - self.markers, self.markers - box.max), 0)
        free = np.hypot(*gaps.T) - self.radii
        hidden = int((free < self.gap / 2).sum())
        strange = free.min() < free[own]
        near = box.padded(self.gap)
        others = sum(near.overlaps(other) for other in self.labels)
        crossed = int(np.all((self.path >= near.min) & (self.path <= near.max), axis=1).sum())
        return 1000 * (beyond > 0) + 400 * others + 150 * hidden + 12 * crossed + 100 * strange


def place(centre: np.ndarray, width: float, height: float, angle: float, distance: float) -> Bbox:
    """The box [pixels] of a label whose edge is about `distance` from `centre` in the direction `angle`."""
    turn = math.radians(angle)
    across, up = math.cos(turn), math.sin(turn)
    middle = (centre[0] + across * (distance + width / 2), centre[1] + up * (distance + height / 2))
    return Bbox.from_bounds(middle[0] - width / 2, middle[1] - height / 2, width, height)


def nearest(box: Bbox, point: np.ndarray) -> tuple[float, float]:
    """The point of the box that is nearest to a point outside it."""
    return min(max(point[0], box.x0), box.x1), min(max(point[1], box.y0), box.y1)


def dense(path: np.ndarray, gap: float) -> np.ndarray:
    """Points along a polyline [n, 2], at most `gap` apart."""
    parts = [path[:1]]
    for start, end in itertools.pairwise(path):
        steps = max(1, math.ceil(float(np.hypot(*(end - start))) / gap))
        parts.append(start + (end - start) * np.linspace(0, 1, steps + 1)[1:, None])
    return np.concatenate(parts)


ONE_COLUMN = 12  # arms whose scatter plot still reads well in one column
LABEL = {
    style.SINGLE: 0.8,
    style.DOUBLE: 1.3,
}  # inches, by a figure's width: a label of a point that is wider is broken


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


def entries(sweep: Sweep, arms: pd.DataFrame, area: Callable[[Any], float], front: bool) -> list[Line2D]:
    """What a legend says: methods by colour and marker, ranks by size."""
    handles = []
    for method in dict.fromkeys(arms["method"]):
        look = sweep.styles[method]
        handles.append(dot(method_label(method), look.colour, look.marker, 30))
    ranks = sorted(arms["rank"].dropna().unique())
    for rank in ranks if len(ranks) > 1 else []:
        handles.append(dot(f"rank {rank}", "#9a9a9a", "o", area(rank)))
    if front and len(arms) > 1:
        handles.append(Line2D([], [], color="#555555", linewidth=0.9, label="Pareto front"))
    return handles


def areas_of(sweep: Sweep) -> Callable[[Any], float]:
    """The area of a marker, square points, by rank."""
    areas = style.sizes(sweep.arms["rank"].dropna().unique())
    return lambda rank: style.NO_RANK if pd.isna(rank) or len(areas) == 1 else areas[rank]  # one rank: no size to read


def dot(label: str, colour: Any, marker: str, area: float) -> Line2D:
    """A legend's handle that looks like a scattered point; `area` in square points."""
    return Line2D(
        [], [], label=label, color=colour, marker=marker, linestyle="", markersize=math.sqrt(area),
        markeredgewidth=0,
    )  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One scatter plot: its runs, the column of runs that is its x and how that is named."""

    runs: pd.DataFrame
    x: str
    label: str
    more_is_better: bool = False

    def arms(self) -> pd.DataFrame:
        """The arms that can be shown, their x in the column "x"."""
        arms = tables.arms_frame(self.runs)
        mean = f"{self.x}_mean"
        arms["x"] = arms[mean] if mean in arms else pd.to_numeric(arms[self.x], errors="coerce").astype(float)
        return arms.dropna(subset=["x", "metric_value_mean"])


def draw_scatter(axes: Axes, sweep: Sweep, panel: Panel, arms: pd.DataFrame) -> Callable[[], None]:
    """Arms' means and intervals, every seed and the Pareto front; returns what writes the front's labels.

    Write the labels when all axes of the figure are drawn.
    """
    area = areas_of(sweep)
    radii = np.array([math.sqrt(area(rank)) / 2 for rank in arms["rank"]])
    cost = arms["x"].to_numpy(dtype=float)
    gain = arms["metric_value_mean"].to_numpy(dtype=float) * sweep.scale
    seeds = []
    for row, across, up in zip(records(arms), cost, gain, strict=True):
        colour = sweep.styles[row["method"]].colour
        cross: dict[str, Any] = {"color": colour, "alpha": 0.5, "linewidth": 0.8, "zorder": 2}
        own = panel.runs[panel.runs["arm"] == row["arm"]]
        if f"{panel.x}_mean" in row and (bar := sweep.interval(own, panel.x)):
            axes.plot(bar, [up] * 2, **cross)
        if bar := sweep.interval(own, "metric_value", sweep.scale):
            axes.plot([across] * 2, bar, **cross)
        done = own[(own["status"] == COMPLETED) & ~own["mixed_gpus"].eq(True)].dropna(subset=[panel.x, "metric_value"])
        values = zip(done[panel.x].astype(float), done["metric_value"].astype(float) * sweep.scale, strict=True)
        seeds += [{"x": x, "y": y, "method": row["method"]} for x, y in values if len(done) > 1]
    colours = {method: sweep.styles[method].colour for method in arms["method"]}
    drawn = {"x": "x", "y": "y", "hue": "method", "palette": colours, "legend": False, "ax": axes}
    if seeds:
        sns.scatterplot(pd.DataFrame(seeds), s=4, alpha=0.5, linewidth=0, zorder=2, **drawn)
    markers = {method: sweep.styles[method].marker for method in colours}
    sns.scatterplot(
        arms.assign(x=cost, y=gain), style="method", markers=markers,
        size="arm", sizes={arm: area(rank) for arm, rank in zip(arms["arm"], arms["rank"], strict=True)},
        edgecolor="white", linewidth=0.5, zorder=3, **drawn,
    )  # fmt: skip
    axes.set_ylabel(sweep.metric_axis)
    axes.set_xlabel(panel.label)
    style.grid_along(axes, "both")

    def finish() -> None:
        if sweep.uncompared(panel.x):  # no front: every arm is named
            marks = Marks(np.column_stack([cost, gain]), radii, np.column_stack([cost, gain])[:1])
            named = dict(enumerate(labels(arms, style.figure_of(axes).get_figwidth())))
            place_labels(axes, marks, named if len(arms) <= ONE_COLUMN else {}, 120)
            return
        sign = -1 if panel.more_is_better else 1
        members = pareto(list(sign * cost), list(metric_called(sweep.metric).gain(gain)))
        steps = np.array([(cost[index], gain[index]) for index in members])
        corners = [(right[0], left[1]) for left, right in itertools.pairwise(steps)]
        path = np.empty((2 * len(steps), 2))
        path[0::2] = steps
        path[1::2] = [*corners, (axes.get_xlim()[0 if panel.more_is_better else 1], steps[-1, 1])]
        if len(arms) > 1:
            axes.plot(*path.T, color="#555555", linewidth=0.9, zorder=1, scalex=False, scaley=False)
        names = labels(arms.iloc[members], style.figure_of(axes).get_figwidth())
        marks = Marks(np.column_stack([cost, gain]), radii, path)
        place_labels(axes, marks, dict(zip(members, names, strict=True)), 60 if sign < 0 else 120)

    return finish


def scatter(sweep: Sweep, title: str, panels: list[Panel], log: bool = False, notes: Sequence[str] = ()) -> Figure:
    """A figure of scatter plots, one below the other."""
    if no_metric(sweep):
        return message(sweep, title, no_metric(sweep))
    kept = [(panel, arms) for panel in panels if len(arms := panel.arms())]
    keys = [panel.x for panel in panels]
    if not kept:
        return message(sweep, title, reason(sweep.runs, "metric_value", *keys))
    short = len(sweep.arms) <= ONE_COLUMN and not any("\n" in name for name in labels(sweep.arms, style.SINGLE))
    width = style.SINGLE if short else style.DOUBLE
    front = not all(sweep.uncompared(key) for key in keys)
    handles = entries(sweep, sweep.arms, areas_of(sweep), front)
    height = (
        2.3 + legend_height(handles, width) if width == style.SINGLE else max(3.6, legend_height(handles, width) + 0.4)
    )
    shown = pd.concat([arms["arm"] for _, arms in kept])
    seeds = "Large: means. Small: seeds." if sweep.runs["seed"].nunique() > 1 else ""
    lines = [
        conditions(sweep.runs),
        seeds,
        interval_note(sweep, "metric_value", *keys),
        *absent(sweep, shown, "metric_value", *keys),
        *notes,
    ]
    figure = canvas(sweep, title, height * len(kept), lines, width)
    finishes = []
    for index, (axes, (panel, arms)) in enumerate(
        zip(figure.subplots(len(kept), squeeze=False)[:, 0], kept, strict=True)
    ):
        finishes.append(draw_scatter(axes, sweep, panel, arms))
        if index == 0 or width == style.DOUBLE:
            legend(axes, handles, width)
        low, high = metric_limits(sweep)
        axes.set_ylim(low, high + 0.06 * (high - low))
        style.mark_cut(axes, "y")
        if log:
            axes.set_xscale("log")
        make_room(axes, arms, panel.more_is_better, width)
        if log:
            log_ticks(axes, 6 if width == style.SINGLE else 10)
        else:
            axes.xaxis.set_major_formatter(FuncFormatter(thousands))
            axes.xaxis.set_major_locator(MaxNLocator(5))
            widen(axes)
            style.mark_cut(axes, "x")
    for finish in finishes:
        finish()
    return figure


def labels(arms: pd.DataFrame, width: float) -> list[str]:
    """The arms' names in a figure so wide, long ones in several lines."""
    pairs = zip(arms["method"], arms["rank"], strict=True)
    return ["\n".join(wrap(arm_label(*pair), LABEL[width], style.SMALL)) for pair in pairs]


def make_room(axes: Axes, arms: pd.DataFrame, right: bool, width: float) -> None:
    """Widen the x axis so that a label fits beside the front's outermost arm, on its better side."""
    share = min(
        0.4, (widest(labels(arms, width), style.SMALL) + 0.1) / (width - (0.7 if width == style.SINGLE else 1.5))
    )
    axes.margins(x=0.07)
    axes.autoscale_view(scaley=False)
    transform = axes.transScale
    (low, _), (high, _) = transform.transform([(end, 1) for end in axes.get_xlim()])
    room = (high - low) * share / (1 - share)
    ends = [(low, 1), (high + room, 1)] if right else [(low - room, 1), (high, 1)]
    axes.set_xlim(*transform.inverted().transform(ends)[:, 0])


def widen(axes: Axes) -> None:
    """Let an axis span at least a tenth of its values, so that ticks tell apart and noise looks small."""
    low, high = max(0.0, axes.get_xlim()[0]), axes.get_xlim()[1]
    room = max(0.0, (0.1 * (low + high) / 2 - (high - low)) / 2)
    axes.set_xlim(low - room, high + room)


@styled
def metric_vs_memory(sweep: Sweep) -> Figure:
    """The metric against peak memory, with the arms that no other beats in both."""
    keys = {device: memory_key(device) for device, _ in devices(sweep)}
    panels = [Panel(runs, keys[device], readable.LABEL[keys[device]]) for device, runs in devices(sweep)]
    memory = readable.memory_name(sweep.runs["device"])
    return scatter(sweep, f"{sweep.metric_name} against {memory}", panels, notes=[readable.PROBE])


@styled
def metric_vs_samples_per_s(sweep: Sweep) -> Figure:
    """The metric against training throughput, where more of both is better."""
    several, label = len(devices(sweep)) > 1, readable.LABEL["samples_per_s"]
    panels = [
        Panel(runs, "samples_per_s", f"{label} (on {device})" if several else label, more_is_better=True)
        for device, runs in devices(sweep)
    ]
    notes = readable.fallbacks(sweep.runs)
    return scatter(sweep, f"{sweep.metric_name} against training throughput", panels, notes=notes)


@styled
def metric_vs_trainable_parameters(sweep: Sweep) -> Figure:
    """The metric against the number of trainable parameters, on a logarithmic axis."""
    panels = [Panel(sweep.runs, "trainable_parameters", "Trainable parameters (log scale)")]
    return scatter(sweep, f"{sweep.metric_name} against trainable parameters", panels, log=True)

"""The drawings: what the arms of one data set and model bring and what they cost."""

import functools
import json
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from peft_tradeoffs import style, tables
from peft_tradeoffs.arms import arm_label, method_label
from peft_tradeoffs.errors import InputError
from peft_tradeoffs.labels import place_labels
from peft_tradeoffs.tables import COMPLETED, memory_key

ONE_PANEL = 5  # arms whose learning curves still read well in one panel


@dataclass(frozen=True)
class Grid:
    """The runs of one data set and model, and what figures need beside them."""

    dataset: str
    model: str
    metric: str | None  # None if no run says
    runs: pd.DataFrame  # rows of runs.csv
    curves: pd.DataFrame  # metrics.csv of the completed runs: arm, seed, epoch, step, split and scores
    styles: dict[str, style.MethodStyle]  # of every method in runs.csv

    @functools.cached_property
    def arms(self) -> pd.DataFrame:
        """A row an arm (see `tables.arms_frame`)."""
        return tables.arms_frame(self.runs)

    @property
    def scale(self) -> float:
        """What stored metrics are multiplied by when shown."""
        return tables.metric_scale(self.metric or "")

    @property
    def metric_axis(self) -> str:
        """The label of a metric axis."""
        name, comma, unit = tables.metric_label(self.metric or "metric").partition(", ")
        return f"{name} on the test split{comma}{unit}"


def load(runs_csv: Path, runs_dir: Path, dataset: str, model: str) -> Grid:
    """Read the runs of one data set and model and their metrics.csv files.

    Raises InputError if runs.csv has no such runs or a completed run has no metrics.csv.
    """
    every = tables.read_runs(runs_csv)
    runs = every[(every["dataset"] == dataset) & (every["model"] == model)].reset_index(drop=True)
    if runs.empty:
        pairs = every[["dataset", "model"]].drop_duplicates().agg("/".join, axis=1)
        raise InputError(f"{runs_csv}: no run of {dataset}/{model}; it has {', '.join(pairs) or 'no run'}")
    curves = []
    for row in runs[runs["status"] == COMPLETED].itertuples():
        path = runs_dir / row.arm / f"seed{row.seed}" / "metrics.csv"
        if not path.is_file():
            raise InputError(f"{path}: no such file, although the run is completed; run that arm again")
        curves.append(pd.read_csv(path).assign(arm=row.arm, seed=row.seed))
    return Grid(
        dataset=dataset,
        model=model,
        metric=tables.first(runs["metric"]),
        runs=runs,
        curves=pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(),
        styles=style.method_styles(every["method"]),
    )


def styled(draw: Callable[[Grid], Figure]) -> Callable[[Grid], Figure]:
    """Draw with the project's settings, whatever matplotlib's are."""

    @functools.wraps(draw)
    def wrapped(grid: Grid) -> Figure:
        with matplotlib.rc_context(style.RC):
            return draw(grid)

    return wrapped


def canvas(grid: Grid, title: str, height: float, notes: Sequence[str]) -> Figure:
    """An empty figure with its title above and notes below; `height` in inches."""
    lines = [line for note in notes if note for line in textwrap.wrap(note, 112)]
    figure = Figure(figsize=(style.WIDTH, height + 0.13 * len(lines)), layout="constrained")
    FigureCanvasAgg(figure)
    heading = textwrap.fill(f"{title} · {grid.dataset}, {grid.model}", 88)
    figure.suptitle(heading, x=0.008, ha="left", fontsize=9.5)
    if lines:
        figure.supxlabel("\n".join(lines), x=0.008, ha="left", fontsize=7, color=style.GREY)
    return figure


def message(grid: Grid, title: str, text: str) -> Figure:
    """A small figure that says why there is nothing to draw."""
    figure = canvas(grid, title, 1.2, [])
    figure.text(0.5, 0.42, textwrap.fill(text, 90), ha="center", va="center", color=style.GREY)
    return figure


def conditions(runs: pd.DataFrame) -> str:
    """What the runs have in common, as one line: device, precision, batch size, epochs, runs an arm."""
    done = runs[runs["status"] == COMPLETED]
    parts = []
    for key, form in (
        ("device_name", "{}"),
        ("precision", "{}"),
        ("batch_size", "batch size {:g}"),
        ("epochs", "epochs {:g}"),
    ):
        values = done[key].dropna().unique()
        if len(values) == 1:
            parts.append(form.format(values[0]))
        elif key == "device_name" and len(values):
            parts.append("several devices")
    counts = done.groupby("arm").size()
    if len(counts):
        low, high = counts.min(), counts.max()
        parts.append(f"n = {low} seed{'s' * (high > 1)}" if low == high else f"n = {low} to {high} seeds")
    return " · ".join(parts)


def resolution(grid: Grid) -> str:
    """How finely the test split tells accuracies apart, or nothing for other metrics."""
    rows = tables.first(grid.runs["test_rows"])
    mean = grid.arms["metric_value_mean"].mean()
    if grid.metric != "accuracy" or not rows or math.isnan(mean):
        return ""
    error = 100 * math.sqrt(mean * (1 - mean) / rows)
    return f"{rows:,} test rows: one row is {100 / rows:.2g} points, one accuracy's standard error {error:.2g}."


def reason(runs: pd.DataFrame, key: str) -> str:
    """Why these runs have no value of `key`: their failures, or the reasons they give."""
    failed = runs[runs["status"] != COMPLETED]["status"].value_counts(sort=False)
    reasons = []
    for text in runs[runs["status"] == COMPLETED]["null_reasons"].dropna().unique():
        reasons.append(json.loads(text).get(key, "not measured"))
    return "; ".join([*(f"{status} {count}" for status, count in failed.items()), *dict.fromkeys(reasons)])


def absent(grid: Grid, shown: pd.Series, key: str) -> str:
    """A note that names the arms a figure cannot show and why; `shown` holds the arms that it does."""
    missing = grid.arms[~grid.arms["arm"].isin(shown)]
    texts = [
        f"{arm_label(row.method, row.rank)} ({reason(grid.runs[grid.runs['arm'] == row.arm], key)})"
        for row in missing.itertuples()
    ]
    return f"Not shown: {', '.join(texts)}." if texts else ""


def devices(grid: Grid) -> list[tuple[str, pd.DataFrame]]:
    """The runs device by device ("cpu", "cuda"), since what they measure does not compare."""
    named = grid.runs["device"].fillna(tables.first(grid.runs["device"]) or "cpu")
    return [(device, grid.runs[named == device]) for device in dict.fromkeys(named)]


def spread(values: pd.Series, least: float) -> tuple[float, float]:
    """Limits of an axis that does not start from zero, `least` wide or more."""
    low, high = float(values.min()), float(values.max())
    room = max(0.07 * (high - low), (least - (high - low)) / 2)
    return low - room, high + room


def draw_rows(axes: Axes, grid: Grid, runs: pd.DataFrame, key: str, decimals: int | None) -> None:
    """A row an arm: every run a point, the mean a line, mean ± sd in figures at the right."""
    scale = grid.scale if key == "metric_value" else 1.0
    arms = tables.arms_frame(runs).to_dict("records")
    for y, row in enumerate(arms):
        colour = grid.styles[row["method"]].colour
        own = runs[runs["arm"] == row["arm"]]
        values = own[own["status"] == COMPLETED][key].dropna().to_numpy(dtype=float) * scale
        mean = row[f"{key}_mean"] * scale
        text = tables.mean_sd(row, key, scale, decimals)
        if not len(values):
            axes.axhspan(y - 0.42, y + 0.42, color="#f4f4f4", linewidth=0)
            why = textwrap.shorten(reason(own, key), 70, placeholder=" …")
            place = axes.get_yaxis_transform()
            axes.text(0.01, y, why, transform=place, va="center", style="italic", fontsize=7.5, color=style.GREY)
        elif math.isnan(mean):
            text = "several devices"
        elif key != "metric_value":
            axes.barh(y, mean, height=0.7, color=style.tint(colour, 0.4), linewidth=0)
        if len(values) and row["n_failed"]:
            text += f" ({row['failures']})"
        heights = y + (np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(len(values)))
        axes.scatter(values, heights, s=11, color=colour, alpha=0.75, linewidth=0, zorder=3)
        if len(values) > 1:
            axes.plot([mean, mean], [y - 0.35, y + 0.35], color="black", linewidth=1.3, zorder=4)
        axes.text(1.01, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=7.5)
    axes.set_yticks(range(len(arms)), [arm_label(row["method"], row["rank"]) for row in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    style.despine(axes, "x")


def by_arm(grid: Grid, title: str, key_of: Callable[[str], str], label_of: Callable[[str], str]) -> Figure:
    """Horizontal bars from zero, a panel a device; `key_of` and `label_of` take a device."""
    panels = [(device, runs) for device, runs in devices(grid)]
    if all(runs[key_of(device)].isna().all() for device, runs in panels):
        return message(grid, title, "; ".join(reason(runs, key_of(device)) for device, runs in panels))
    counts = [max(2, runs["arm"].nunique()) for _, runs in panels]
    height = style.ROW * sum(counts) + 0.65 + 0.5 * len(panels)
    figure = canvas(grid, title, height, [conditions(grid.runs), KEY])
    column = figure.subplots(len(panels), 1, squeeze=False, height_ratios=counts)[:, 0]
    for axes, (device, runs) in zip(column, panels, strict=True):
        draw_rows(axes, grid, runs, key_of(device), None)
        axes.set_xlim(left=0)
        axes.set_xlabel(label_of(device) if len(panels) == 1 else f"{label_of(device)} (on {device})")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    return figure


KEY = "Points: seeds. Line: their mean. At the right: mean ± sample standard deviation."


@styled
def metric_by_arm(grid: Grid) -> Figure:
    """Every seed's metric and the arms' means."""
    title = "Metric by arm"
    if grid.runs["metric_value"].isna().all():
        return message(grid, title, reason(grid.runs, "metric_value"))
    rows = max(2, len(grid.arms))
    notes = [conditions(grid.runs), KEY, resolution(grid)]
    figure = canvas(grid, title, style.ROW * rows + 1.1, notes)
    axes = figure.subplots()
    draw_rows(axes, grid, grid.runs, "metric_value", tables.metric_decimals(grid.metric or ""))
    axes.set_xlim(*metric_limits(grid))
    axes.set_xlabel(grid.metric_axis)
    return figure


def metric_limits(grid: Grid) -> tuple[float, float]:
    """Limits of a metric axis around every completed run."""
    values = grid.runs[grid.runs["status"] == COMPLETED]["metric_value"].dropna().astype(float) * grid.scale
    return spread(values, 0.02 * grid.scale)


@styled
def peak_memory_by_arm(grid: Grid) -> Figure:
    """Peak memory of training: resident on a CPU, allocated on CUDA."""
    return by_arm(
        grid, "Peak memory by arm", memory_key, lambda device: tables.MEMORY_LABEL[memory_key(device)]
    )


@styled
def samples_per_s_by_arm(grid: Grid) -> Figure:
    """Training throughput."""
    return by_arm(grid, "Training throughput by arm", lambda _: "samples_per_s", lambda _: "Samples/s")


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


def legend(axes: Axes, grid: Grid, arms: pd.DataFrame, area: Callable[[Any], float]) -> None:
    """Methods by colour and marker, ranks by size, right of the axes."""
    handles = []
    for method in dict.fromkeys(arms["method"]):
        look = grid.styles[method]
        options = {"color": look.colour, "marker": look.marker, "linestyle": "", "markersize": 6}
        handles.append(Line2D([], [], label=method_label(method), markeredgewidth=0, **options))
    ranks = sorted(arms["rank"].dropna().unique())
    for rank in ranks if len(ranks) > 1 else []:
        dot = {"marker": "o", "linestyle": "", "color": "#9a9a9a", "markersize": math.sqrt(area(rank))}
        handles.append(Line2D([], [], label=f"rank {rank:g}", markeredgewidth=0, **dot))
    handles.append(Line2D([], [], color="#555555", linewidth=0.9, label="Pareto front"))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)


def draw_scatter(axes: Axes, grid: Grid, arms: pd.DataFrame, x: str, log: bool) -> Callable[[], None]:
    """Means of arms with their standard deviations and the Pareto front; returns what writes the labels."""
    areas = style.sizes(grid.arms["rank"].dropna().unique())

    def area(rank: Any) -> float:
        return style.NO_RANK if pd.isna(rank) else areas[rank]

    rows = arms.to_dict("records")
    cost = [float(row[x]) for row in rows]
    gain = [row["metric_value_mean"] * grid.scale for row in rows]
    for row, across, up in zip(rows, cost, gain, strict=True):
        look = grid.styles[row["method"]]
        errors = {"xerr": None if x not in row else nothing(row.get(x.replace("_mean", "_sd")) if "_mean" in x else None)}
        errors["yerr"] = nothing(row["metric_value_sd"] * grid.scale)
        axes.errorbar(across, up, **errors, color=look.colour, alpha=0.35, linewidth=0.8, zorder=2)
        axes.scatter(
            across, up, s=area(row["rank"]), marker=look.marker, color=look.colour,
            edgecolor="white", linewidth=0.5, zorder=3,
        )  # fmt: skip
    axes.set_ylabel(grid.metric_axis)
    style.despine(axes, "both")
    legend(axes, grid, arms, area)
    members = pareto(cost, gain)
    return lambda: None

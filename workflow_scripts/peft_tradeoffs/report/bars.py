"""Figures with one row per arm: measurements, the parts of memory, trainable parameters, the best arm per method."""

import csv
import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from peft_tradeoffs.analysis import readable, tables
from peft_tradeoffs.analysis.finished import REMEDY, verified
from peft_tradeoffs.analysis.stats import incomparable, seed_values
from peft_tradeoffs.analysis.tables import COMPLETED, QUALITY, SPLIT, memory_key
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import PREDICTIONS
from peft_tradeoffs.core.text import arm_label, records
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
    log_ticks,
    message,
    metric_limits,
    resolution,
    shorten,
    styled,
    thousands,
    widest,
    wrap,
)
from peft_tradeoffs.report.sweep import Sweep, conditions, devices, no_metric, reason, tint
from peft_tradeoffs.tasks.metrics import ACCURACY, metric_called

KEY = "Points: seeds. Line: their mean. At the right: mean ± sample standard deviation."
AS_MEASURED = "Points: seeds. Line and number: their mean."
NAME = 1.15  # inches: a name of an arm that is wider is broken
OTHERWISE = 0.2  # inches of a row that text in it cannot have: ticks and pads


def names(arms: pd.DataFrame) -> list[str]:
    """The arms' names, long ones in several lines."""
    pairs = zip(arms["method"], arms["rank"], strict=True)
    return ["\n".join(wrap(arm_label(*pair), NAME, style.SMALL)) for pair in pairs]


def rows_height(labels: Sequence[str]) -> float:
    """Inches that rows with these labels take: all as tall as the tallest, two rows at least."""
    lines = max(label.count("\n") for label in labels)
    return max(2, len(labels)) * (style.ROW + lines * style.LINE)


def name_rows(axes: Axes, labels: Sequence[str]) -> None:
    """Name the rows of horizontal bars, the first at the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    style.grid_along(axes, "x")


def draw_gap(axes: Axes, y: float, why: str, labels: Sequence[str]) -> None:
    """A row without a bar: grey, with as much of the reason as fits from its left to the edge of the figure."""
    axes.axhspan(y - 0.42, y + 0.42, color="#f4f4f4", linewidth=0)
    room = style.figure_of(axes).get_size_inches()[0] - widest(labels, style.SMALL) - OTHERWISE
    text = shorten(why, room, style.SMALL)
    place = axes.get_yaxis_transform()
    note = axes.text(
        0.01, y, text, transform=place, va="center", style="italic", fontsize=style.SMALL, color=style.GREY
    )
    note.set_in_layout(False)


@dataclass
class Rows:
    """What rows of a figure show of the arms: seeds, means and the means' intervals."""

    sweep: Sweep
    seeds: list[dict[str, Any]] = field(default_factory=list)
    means: list[dict[str, Any]] = field(default_factory=list)
    ends: list[dict[str, Any]] = field(default_factory=list)

    def add(self, y: int, method: str, values: np.ndarray, ends: tuple[float, float] | None) -> None:
        """Row `y`: each seed a point, the seeds beside each other; their mean; its interval, where there is one."""
        self.add_seeds(y, method, values)
        self.means.append({"x": float(values.mean()), "y": y, "method": method, "several": len(values) > 1})
        self.ends += [{"x": end, "y": y} for end in ends or ()]

    def add_seeds(self, y: int, method: str, values: np.ndarray) -> None:
        """Row `y` of seeds that have no common mean."""
        lanes = y + (np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1))
        self.seeds += [{"x": x, "y": lane, "method": method} for x, lane in zip(values, lanes, strict=True)]

    def draw(self, axes: Axes, bars: bool) -> None:
        """Seeds in their method's colour, means as lines, with `bars` as bars from zero too, intervals as whiskers."""
        styles = self.sweep.styles
        if bars:
            for mean in self.means:
                colour = tint(styles[mean["method"]].colour, 0.4)
                axes.barh(mean["y"], mean["x"], height=0.7, color=colour, linewidth=0)
        if self.seeds:
            colours = {method: look.colour for method, look in styles.items()}
            seeds = {"data": pd.DataFrame(self.seeds), "x": "x", "y": "y", "hue": "method", "palette": colours}
            sns.scatterplot(**seeds, s=9, alpha=0.8, linewidth=0, zorder=3, legend=False, ax=axes)
        several = [mean for mean in self.means if mean["several"]]
        places = np.array([(mean["x"], mean["y"] - 0.35, mean["y"] + 0.35) for mean in several]).reshape(-1, 3)
        axes.vlines(*places.T, color="black", linewidth=1.1, zorder=4)
        draw_intervals(axes, self.ends, "y", color="black", err_kws={"linewidth": 0.7, "zorder": 4})
        axes.set_ylabel("")


def draw_rows(axes: Axes, sweep: Sweep, runs: pd.DataFrame, key: str) -> None:
    """One row per arm: each run a point, the mean a line, its interval a whisker, mean ± sd in figures at the right."""
    scale = sweep.scale if key == "metric_value" else 1.0
    arms = tables.arms_frame(runs)
    labels = names(arms)
    places = _places(arms, key)
    rows = Rows(sweep)
    for y, row in enumerate(records(arms)):
        own = runs[runs["arm"] == row["arm"]]
        values = seed_values(own, key, scale)
        text = readable.mean_metric(row, "test") if key == "metric_value" else readable.mean_sd(row, key, 1.0, places)
        if not len(values):
            done = own[own["status"] == COMPLETED]
            mixed = key not in QUALITY and len(done) and done["mixed_gpus"].eq(True).all()
            draw_gap(axes, y, "resumed on a GPU of another model" if mixed else reason(own, key), labels)
            continue
        if math.isnan(row[f"{key}_mean"]):
            text = "several devices" if "; " in str(row["device_name"]) else "several engines"
            rows.add_seeds(y, row["method"], values)
        else:
            if row["n_failed"] and "(n = " not in text:
                text += f" (n = {row['n']})"
            rows.add(y, row["method"], values, sweep.interval(own, key, scale))
        axes.text(1.01, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=style.SMALL)
    rows.draw(axes, bars=key != "metric_value")
    name_rows(axes, labels)


def by_arm(
    sweep: Sweep, title: str, key_of: Callable[[str], str], label_of: Callable[[str], str], *notes: str
) -> Figure:
    """Horizontal bars from zero, one panel per device; `key_of` and `label_of` take a device."""
    panels = devices(sweep)
    if all(key_of(device) in QUALITY for device, _ in panels):  # the same whatever the device
        panels = [(panels[0][0], sweep.runs)]
    if all(runs[key_of(device)].isna().all() for device, runs in panels):
        done = [(device, runs[runs["status"] == COMPLETED]) for device, runs in panels]
        told = [reason(runs, key_of(device)) for device, runs in done if len(runs)]
        return message(sweep, title, "; ".join(told or [reason(runs, "status") for _, runs in panels]))
    heights = [rows_height(names(tables.arms_frame(runs))) for _, runs in panels]
    drawn = [runs.loc[runs["status"] == COMPLETED].dropna(subset=key_of(device))["arm"] for device, runs in panels]
    keys = [key_of(device) for device, _ in panels]
    key = AS_MEASURED if any(map(sweep.uncompared, keys)) else KEY
    about = [conditions(sweep.runs), key, interval_note(sweep, *keys), *absent(sweep, pd.concat(drawn), *keys), *notes]
    figure = canvas(sweep, title, sum(heights) + 0.55 * len(panels), about)
    column = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, (device, runs) in zip(column, panels, strict=True):
        draw_rows(axes, sweep, runs, key_of(device))
        axes.set_xlim(left=min(0, axes.get_xlim()[0]) if runs[key_of(device)].min() < 0 else 0)
        label = label_of(device) if len(panels) == 1 else f"{label_of(device)} (on {device})"
        room = style.SINGLE - widest(names(tables.arms_frame(runs)), style.SMALL) - 0.1
        axes.set_xlabel("\n".join(wrap(label, room, style.NORMAL)))
        axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        if runs.loc[runs["status"] == COMPLETED, key_of(device)].isna().all():
            axes.set_xticks([])  # what failed runs reached is not drawn
    return figure


COLOURS = ("#37474f", "#6f8fa6", "#b4c7d3", "#e3c58f")  # of SPLIT: what is held always is darkest
PEAK = memory_key("cuda")


@styled
def memory_split_by_arm(sweep: Sweep) -> Figure:
    """The parts of each arm's memory from tensor sizes, and the measured peak of CUDA beside them."""
    title = "Memory by part and arm"
    means = [f"{key}_mean" for key in SPLIT]
    if sweep.arms[means].isna().any(axis=1).all():
        return message(sweep, title, reason(sweep.runs, *SPLIT))
    peaks = bool(sweep.arms[f"{PEAK}_mean"].notna().any())
    notes = [
        conditions(sweep.runs),
        "Parts: from tensor sizes, on the batch_size longest training texts. At the right: their sum, MiB.",
        "Line: measured peak allocated in the probe. Not all parts are held at once, and kernels need room." * peaks,
    ]
    shown = sweep.arms.dropna(subset=means)["arm"]
    notes += absent(sweep, shown, *SPLIT)
    labels = names(sweep.arms)
    left = widest(labels, style.SMALL) + 0.2
    handles: list[Artist] = [
        Patch(color=colour, label=part) for part, colour in zip(readable.PARTS, COLOURS, strict=True)
    ]
    if peaks:
        stroke: dict[str, Any] = {"marker": "|", "linestyle": "", "markersize": 8, "markeredgewidth": 1.1}
        handles += [Line2D([], [], label="Peak allocated", color="black", **stroke)]
    height = rows_height(labels) + 0.5 + legend_height(handles, style.SINGLE, left)
    figure = canvas(sweep, title, height, notes)
    axes = figure.subplots()
    for y, row in enumerate(records(sweep.arms)):
        parts = [row[key] for key in means]
        if any(map(math.isnan, parts)):
            draw_gap(axes, y, reason(sweep.runs[sweep.runs["arm"] == row["arm"]], *SPLIT), labels)
            continue
        draw_parts(axes, y, parts, row[f"{PEAK}_mean"])
        text = readable.number(sum(parts), 0) + (f" (n = {row['n']})" if row["n_failed"] else "")
        axes.text(1.01, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=style.SMALL)
    name_rows(axes, labels)
    axes.set_xlim(left=0)
    axes.set_xlabel("Memory, MiB")
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
    legend(axes, handles, style.SINGLE, left)
    return figure


def draw_parts(axes: Axes, y: int, parts: list[float], peak: float) -> None:
    """One arm's parts end to end, MiB, and its measured peak where it has one."""
    left = 0.0
    for size, colour in zip(parts, COLOURS, strict=True):
        axes.barh(y, size, left=left, height=0.7, color=colour, linewidth=0)
        left += size
    if not math.isnan(peak):
        axes.plot([peak, peak], [y - 0.4, y + 0.4], color="black", linewidth=1.3, zorder=4)


HEAD = "Where an arm trains the model's head, the head's parameters are among them."


@styled
def trainable_parameters_by_arm(sweep: Sweep) -> Figure:
    """How many parameters an arm trains and their share of all it has, on logarithmic axes."""
    title = "Trainable parameters by arm"
    arms = sweep.arms.assign(
        **{
            key: pd.to_numeric(sweep.arms[key], errors="coerce")
            for key in ("trainable_parameters", "trainable_percent")
        }
    )
    if arms["trainable_parameters"].isna().all():
        return message(sweep, title, reason(sweep.runs, "trainable_parameters"))
    labels = names(arms)
    figure = canvas(sweep, title, rows_height(labels) + 0.5, [HEAD], style.DOUBLE)
    left, right = figure.subplots(1, 2, sharey=True)
    draw_counts(left, sweep, arms, "trainable_parameters", lambda value: readable.number(value, 0))
    draw_counts(right, sweep, arms, "trainable_percent", lambda value: f"{readable.number(value)} %")
    right.set_xlim(right=min(right.get_xlim()[1], 140))  # of all parameters no more than all
    for y, row in enumerate(records(arms)):
        if pd.isna(row["trainable_parameters"]):
            draw_gap(left, y, reason(sweep.runs[sweep.runs["arm"] == row["arm"]], "trainable_parameters"), labels)
    name_rows(left, labels)
    right.tick_params(axis="y", length=0)
    left.set_xlabel("Trainable parameters (log scale)")
    right.set_xlabel("Share of all parameters, % (log scale)")
    return figure


def draw_counts(axes: Axes, sweep: Sweep, arms: pd.DataFrame, key: str, form: Callable[[float], str]) -> None:
    """One dot per arm on a logarithmic axis, its number at the right."""
    values = arms[key].astype(float)
    axes.scatter(values, range(len(arms)), s=16, color=[sweep.styles[name].colour for name in arms["method"]], zorder=3)
    axes.set_xscale("log")
    axes.margins(x=0.08)
    log_ticks(axes)
    style.grid_along(axes, "x")
    place = axes.get_yaxis_transform()
    for y, value in enumerate(values):
        if not math.isnan(value):
            axes.text(1.01, y, form(value), transform=place, va="center", fontsize=style.SMALL)


@styled
def accuracy_gain_per_million_by_arm(sweep: Sweep) -> Figure:
    """Accuracy gained over the majority class for each million trainable parameters."""
    title = "Accuracy gain over the majority class per million trainable parameters"
    done = sweep.runs[sweep.runs["status"] == COMPLETED]
    if done[ACCURACY.name].isna().all():
        return message(sweep, title, no_metric(sweep) or reason(sweep.runs, ACCURACY.name))
    first = done.dropna(subset=ACCURACY.name).iloc[0]
    share = majority(sweep.runs_dir / first["arm"] / f"seed{first['seed']}" / PREDICTIONS)
    gain = 100 * (sweep.runs[ACCURACY.name].astype(float) - share)
    # In accuracy's column, whose reasons and rules of averaging it shares.
    per_million = gain / (sweep.runs["trainable_parameters"].astype(float) / 1e6)
    runs = sweep.runs.assign(**{ACCURACY.name: per_million})
    return by_arm(
        dataclasses.replace(sweep, runs=runs),
        title,
        lambda _: ACCURACY.name,
        lambda _: "Gain, points per million trainable parameters",
        f"Gain: {ACCURACY.noun} on the test split less the share there of its most frequent class, "
        f"{100 * share:.1f} %.",
        "The fewer parameters an arm trains, the higher it stands, whatever it reaches: choose by no such ratio.",
        HEAD,
    )


def majority(predictions: Path) -> float:
    """The share of the most frequent label in a run's predictions.csv. Raises InputError without labels."""
    verified(predictions.parent, predictions.name)
    try:
        with predictions.open(encoding="utf-8", newline="") as file:
            counts = Counter(row["label"] for row in csv.DictReader(file))
    except KeyError:
        raise InputError(f"{predictions}: no labels in it, though the run is completed; {REMEDY}") from None
    if not counts:
        raise InputError(f"{predictions}: it has no rows, though the run is completed; {REMEDY}")
    return max(counts.values()) / counts.total()


@styled
def metric_by_arm(sweep: Sweep) -> Figure:
    """Every seed's metric and the arms' means."""
    title = f"{sweep.metric_name} by arm"
    if no_metric(sweep):
        return message(sweep, title, no_metric(sweep))
    shown = sweep.runs.dropna(subset="metric_value")["arm"]
    notes = [conditions(sweep.runs), KEY, interval_note(sweep, "metric_value"), resolution(sweep)]
    notes += absent(sweep, shown, "metric_value")
    figure = canvas(sweep, title, rows_height(names(sweep.arms)) + 0.5, notes)
    axes = figure.subplots()
    draw_rows(axes, sweep, sweep.runs, "metric_value")
    axes.set_xlim(*metric_limits(sweep))
    axes.set_xlabel(sweep.metric_axis)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    style.mark_cut(axes, "x")
    style.grid_along(axes, "both")
    return figure


@styled
def peak_memory_by_arm(sweep: Sweep) -> Figure:
    """Peak memory of the probe on CUDA, the sizes of tensors on a CPU."""
    title = f"{readable.memory_name(sweep.runs['device']).capitalize()} by arm"
    return by_arm(sweep, title, memory_key, lambda device: readable.LABEL[memory_key(device)], readable.PROBE)


@styled
def samples_per_s_by_arm(sweep: Sweep) -> Figure:
    """Training throughput."""
    notes = readable.fallbacks(sweep.runs)
    return by_arm(
        sweep,
        "Training throughput by arm",
        lambda _: "samples_per_s",
        lambda _: readable.LABEL["samples_per_s"],
        *notes,
    )


@styled
def energy_by_arm(sweep: Sweep) -> Figure:
    """Energy of the GPU over the training phase, for each sample trained on."""
    short = sweep.runs["energy_window_short"].eq(True) & (sweep.runs["status"] == COMPLETED)
    arms = dict.fromkeys(zip(sweep.runs[short]["method"], sweep.runs[short]["rank"], strict=True))
    notes = ["Energy of the GPU alone.", *readable.fallbacks(sweep.runs)]
    if arms:
        notes.append(f"Measured over less than 30 s: {', '.join(arm_label(*arm) for arm in arms)}.")
    return by_arm(
        sweep,
        "Training energy by arm",
        lambda _: "energy_J_per_sample",
        lambda _: readable.LABEL["energy_J_per_sample"],
        *notes,
    )


@dataclass(frozen=True)
class Choice:
    """The arm of each method and what chose it."""

    arms: pd.DataFrame  # rows of `arms_frame`, one per method
    how: str  # a sentence


def scores(sweep: Sweep) -> tuple[pd.Series, str]:
    """What arms are chosen by, by arm, and its name: the first that every completed arm has.

    In this order: the last evaluation on a validation split, the heldout split, the tuning's dev split at the rate that
    the arm was trained with, the test split.
    """
    done = sweep.runs[sweep.runs["status"] == COMPLETED]
    found = [
        (validation(sweep), "its mean on the validation split after the last step"),
        (done.groupby("arm")["heldout_metric_value"].mean().dropna(), "its mean on the heldout split"),
        (dev(sweep, done), "its value on the dev split of tuning, of one seed, at the rate it was trained with"),
    ]
    arms = set(done["arm"])
    for values, name in found:
        if arms <= set(values.index):
            return values, f"{name}; the test split had no part in it"
    return done.groupby("arm")["metric_value"].mean(), (
        "its mean on the test split itself, since nothing else was evaluated for every arm; that flatters it, the more "
        "the more arms its method has"
    )


def validation(sweep: Sweep) -> pd.Series:
    """The mean of the runs' last metric on a validation split, by arm; empty without one."""
    if sweep.curves.empty or sweep.metric not in sweep.curves:
        return pd.Series(dtype=float)
    rows = sweep.curves[sweep.curves["split"] == "validation"].dropna(subset=sweep.metric)
    last = rows.sort_values("step").groupby(["arm", "seed"])[str(sweep.metric)].last()
    return last.groupby(level="arm").mean()


def dev(sweep: Sweep, done: pd.DataFrame) -> pd.Series:
    """The metric on tuning's dev split of the trial whose rate the arm's runs took, by arm."""
    values = {}
    for arm, rates in done.groupby("arm")["learning_rate"]:
        if sweep.tuning.empty:
            break
        own = sweep.tuning[sweep.tuning["arm"] == arm].dropna(subset="value")
        taken = own[np.isclose(own["learning_rate"], rates.iloc[0], rtol=1e-9)]
        if len(taken) and rates.nunique() == 1:
            values[arm] = taken["value"].iloc[0]
    return pd.Series(values, dtype=float)


def choose(sweep: Sweep) -> Choice:
    """The best arm of each method that has a completed run: of those with the fewest failed runs the best score."""
    values, name = scores(sweep)
    gains = metric_called(sweep.metric).gain(values)
    arms = sweep.arms[sweep.arms["n"] > 0].assign(score=lambda rows: rows["arm"].map(gains))
    ordered = arms.sort_values(["n_failed", "score"], ascending=[True, False], kind="stable")
    best = ordered.drop_duplicates("method").sort_index()
    if len(arms) == len(best):
        return Choice(best, "Every method has one arm that completed, so nothing was chosen.")
    among = ", among those with the fewest failed runs," if arms["n_failed"].any() else ""
    return Choice(best, f"A method's best arm{among} is chosen by {name}.")


@styled
def best_by_method(sweep: Sweep) -> Figure:
    """The best arm of each method in four panels: metric, peak memory, trainable parameters, throughput."""
    title = "Best arm of each method"
    if no_metric(sweep):
        return message(sweep, title, no_metric(sweep))
    choice = choose(sweep)
    arms = choice.arms
    labels = names(arms)
    runs = sweep.runs[sweep.runs["arm"].isin(arms["arm"])]
    memory = memory_key(runs["device"].iloc[0])
    gone = [method for method in dict.fromkeys(sweep.arms["method"]) if method not in set(arms["method"])]
    notes = [conditions(runs), choice.how, "Points: seeds. Lines and numbers: means."]
    notes.append(interval_note(sweep, "metric_value", memory, "samples_per_s"))
    if gone:
        told = [f"{name} ({reason(sweep.runs[sweep.runs['method'] == name], 'status')})" for name in gone]
        notes.append(f"No run completed: {', '.join(told)}.")
    notes += [readable.PROBE, *readable.fallbacks(runs)]
    figure = canvas(sweep, title, rows_height(labels) + 0.6, notes, style.DOUBLE)
    cells = figure.subplots(1, 4, sharey=True)
    panels = ("metric_value", memory, "trainable_parameters", "samples_per_s")
    titles = (sweep.metric_axis, readable.LABEL[memory], "Trainable parameters (log)", readable.LABEL["samples_per_s"])
    for axes, key, label in zip(cells, panels, titles, strict=True):
        draw_panel(axes, sweep, arms, runs, key)
        axes.set_xlabel("\n".join(wrap(label, 1.1, style.NORMAL)))
        axes.tick_params(axis="y", length=0)
    name_rows(cells[0], labels)
    return figure


def _places(arms: pd.DataFrame, key: str) -> int:
    return readable.column_places(arms[f"{key}_mean" if f"{key}_mean" in arms else key])


def draw_panel(axes: Axes, sweep: Sweep, arms: pd.DataFrame, runs: pd.DataFrame, key: str) -> None:
    """One measurement of the chosen arms: bars from zero; points where the axis cannot start there."""
    style.grid_along(axes, "x")
    scale = sweep.scale if key == "metric_value" else 1.0
    setting = key == "trainable_parameters"  # the same for every seed
    bars = key != "metric_value" and not setting
    if bars and (why := incomparable(runs, key)):
        draw_reason(axes, why)
        axes.set_xticks([])
        return
    places = readable.metric_places(sweep.metric) if key == "metric_value" else _places(arms, key)
    rows = Rows(sweep)
    for y, row in enumerate(records(arms)):
        own = runs[runs["arm"] == row["arm"]]
        values = seed_values(own, key, scale)
        if not len(values):
            continue
        mean = values.mean()
        if setting:
            axes.scatter(mean, y, s=16, color=sweep.styles[row["method"]].colour, linewidth=0, zorder=3)
        else:
            rows.add(y, row["method"], values, sweep.interval(own, key, scale))
        text = compact(mean) if setting else readable.number(mean, places)
        axes.text(1.01, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=style.SMALL)
    rows.draw(axes, bars)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
    if key == "metric_value":
        axes.set_xlim(*metric_limits(sweep))
        style.mark_cut(axes, "x")
    elif bars:
        axes.set_xlim(left=0)
    else:
        axes.set_xscale("log")
        axes.margins(x=0.1)
        log_ticks(axes, 3)

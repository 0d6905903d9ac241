"""What every figure shares: the data, the title, the notes below and the figure that says why it is empty."""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from peft_tradeoffs.analysis import readable, tables
from peft_tradeoffs.analysis.finished import verified
from peft_tradeoffs.analysis.job_noise import read_noise
from peft_tradeoffs.analysis.mean_interval import interval, interval_notes, seed_values
from peft_tradeoffs.analysis.tables import COMPLETED
from peft_tradeoffs.analysis.tuning_table import read_tuning
from peft_tradeoffs.core.arms import arm_label
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.report import style
from peft_tradeoffs.report.text_width import widest, wrap
from peft_tradeoffs.tasks.metric_names import metric_name, metric_of, with_unit


@dataclass(frozen=True)
class Grid:
    """The runs of one data set and model, and what figures need beside them."""

    dataset: str
    model: str
    runs_dir: Path  # one folder {arm}/seed{seed} per run
    metric: str | None  # None if no run says
    runs: pd.DataFrame  # rows of runs.csv
    curves: pd.DataFrame  # metrics.csv of the completed runs: arm, seed, epoch, step, split and scores
    tuning: pd.DataFrame  # rows of tuning.csv; none where nothing was tuned
    styles: dict[str, style.MethodStyle]  # of every method in runs.csv
    noise: pd.DataFrame | None = None  # the noise table, if there is one

    @functools.cached_property
    def arms(self) -> pd.DataFrame:
        """One row per arm (see `tables.arms_frame`)."""
        return tables.arms_frame(self.runs)

    @property
    def scale(self) -> float:
        """What stored metrics are multiplied by when shown."""
        return readable.metric_scale(self.metric or "")

    @property
    def metric_axis(self) -> str:
        """The label of a metric axis, e.g. "Accuracy on the test split, %"."""
        return with_unit(f"{self.metric_name} on the test split", self.named)

    @property
    def metric_name(self) -> str:
        """The metric's name in titles."""
        return metric_name(self.named) or "Metric"

    @property
    def named(self) -> dict[str, Any]:
        """The metric as `metric_names` takes it."""
        return metric_of(self.runs) | {"metric": self.metric}


def load(
    runs_csv: Path,
    runs_dir: Path,
    dataset: str,
    model: str,
    tuning_csv: Path | None = None,
    noise_csv: Path | None = None,
) -> Grid:
    """Read the runs of one data set and model, their metrics.csv files and the trials of their tuning.

    Raises InputError if runs.csv has no such runs or the metrics.csv of a completed run is missing or damaged.
    """
    every = tables.read_runs(runs_csv)
    runs = every[(every["dataset"] == dataset) & (every["model"] == model)].reset_index(drop=True)
    if runs.empty:
        pairs = every[["dataset", "model"]].drop_duplicates().agg("/".join, axis=1)
        raise InputError(f"{runs_csv}: no run of {dataset}/{model}; it has {', '.join(pairs) or 'no run'}")
    curves = []
    for row in runs[runs["status"] == COMPLETED].itertuples():
        folder = runs_dir / row.arm / f"seed{row.seed}"
        if verified(folder, "metrics.csv")["fingerprint"] != row.fingerprint:
            raise InputError(f"{runs_csv}: of another run than {folder} has now; make it again with make_tables.py")
        curves.append(pd.read_csv(folder / "metrics.csv").assign(arm=row.arm, seed=row.seed))
    trials = read_tuning(tuning_csv) if tuning_csv else pd.DataFrame(columns=["dataset", "model"])
    own = (trials["dataset"] == dataset) & (trials["model"] == model)
    return Grid(
        dataset=dataset,
        model=model,
        runs_dir=runs_dir,
        metric=tables.first(runs["metric"]),
        runs=runs,
        curves=pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(),
        tuning=trials[own].reset_index(drop=True),
        styles=style.method_styles(every["method"]),
        noise=read_noise(noise_csv),
    )


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw with the project's settings, whatever matplotlib's are."""

    @functools.wraps(draw)
    def wrapped(*words: Any, **named: Any) -> Figure:
        with matplotlib.rc_context(style.RC):
            return draw(*words, **named)

    return wrapped


def canvas(grid: Grid, title: str, height: float, notes: Sequence[str], width: float = style.SINGLE) -> Figure:
    """An empty figure with its title above and notes below, the first on a line of its own.

    `height`, of what is between, and `width` are in inches.
    """
    room = width - 0.1
    first, *others = [*notes, *readable.unlike(grid.runs)] or [""]
    lines = [*wrap(first, room, style.SMALL), *wrap(" ".join(others), room, style.SMALL)]
    heading = wrap(f"{title} · {grid.dataset}, {grid.model}", room, style.TITLE)
    if tables.random_weights(grid.runs):
        heading += [readable.RANDOM.capitalize()]
    height += style.LINE * len(lines) + 0.14 * len(heading)
    figure = Figure(figsize=(width, height), layout="constrained", dpi=style.DPI)
    FigureCanvasAgg(figure)
    figure.suptitle("\n".join(heading), x=0.05 / width, ha="left", fontsize=style.TITLE)
    if lines:
        figure.supxlabel("\n".join(lines), x=0.05 / width, ha="left", fontsize=style.SMALL, color=style.GREY)
    return figure


def message(grid: Grid, title: str, text: str) -> Figure:
    """A small figure that says why there is nothing to draw."""
    lines = wrap(f"Nothing to draw: {text}", style.SINGLE - 0.3, style.SMALL)
    figure = canvas(grid, title, 0.4 + style.LINE * len(lines), [])
    figure.text(0.5, 0.35, "\n".join(lines), ha="center", va="center", fontsize=style.SMALL, color=style.GREY)
    return figure


def legend(axes: Axes, handles: Sequence[Artist], width: float, left: float = 0.55) -> None:
    """A legend right of the axes in a figure as wide as a page, above them in one as wide as a column.

    `left`: inches that a column has left of its axes.
    """
    labels = legend_labels(handles, width)
    if width == style.DOUBLE:
        axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)
        return
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=legend_columns(labels, width - left),
        borderaxespad=0.2, handlelength=1.4, handletextpad=0.5, columnspacing=1.0,
    )  # fmt: skip


def legend_labels(handles: Sequence[Artist], width: float) -> list[str]:
    """What a legend says, long names in several lines."""
    room = 1.4 if width == style.DOUBLE else width - 1.0
    return ["\n".join(wrap(str(handle.get_label()), room, style.SMALL)) for handle in handles]


def legend_columns(labels: Sequence[str], room: float) -> int:
    """How many columns a legend has in so many inches."""
    return max(1, min(len(labels), int(room / (widest(labels, style.SMALL) + 0.36))))


def legend_height(handles: Sequence[Artist], width: float, left: float = 0.55) -> float:
    """Inches that a legend takes: above the axes in a figure as wide as a column, beside them in one as a page."""
    labels = legend_labels(handles, width)
    columns = 1 if width == style.DOUBLE else legend_columns(labels, width - left)
    tallest = 1 + max(label.count("\n") for label in labels)
    lines = sum(1 + label.count("\n") for label in labels) if columns == 1 else -(-len(labels) // columns) * tallest
    return 0.145 * lines + 0.05


def conditions(runs: pd.DataFrame) -> str:
    """What the runs have in common, as one line: device, precision, engine, batch size, epochs, runs per arm."""
    done = runs[runs["status"] == COMPLETED]
    parts = []
    for key, form in (
        ("device_name", "{}"),
        ("precision", "{}"),
        ("batch_size", "batch size {:g}"),
        ("epochs", "epochs {:.3g}"),
    ):
        values = done[key].dropna().unique()
        if len(values) == 1:
            parts.append(form.format(values[0]))
        elif key == "device_name" and len(values):
            parts.append("Several devices")
        if key == "precision" and (done["device"] == "cuda").any():
            parts += [f"{' and '.join(sorted(done['engine'].unique()))} training steps"]
            parts += ["compiled"] if done["compile"].eq(True).all() else []
    counts = done.groupby("arm").size()
    if len(counts):
        low, high = counts.min(), counts.max()
        number = f"{low}" if low == high else f"{low} to {high}"
        parts.append(f"n = {number} {'seed' if high == 1 else 'seeds'}")
    return " · ".join(parts)


def resolution(grid: Grid) -> str:
    """How finely the test split tells accuracies apart, or nothing for other metrics."""
    rows = tables.first(grid.runs["test_rows"])
    mean = grid.arms["metric_value_mean"].mean()
    if grid.metric != "accuracy" or not rows or math.isnan(mean):
        return ""
    error = 100 * math.sqrt(mean * (1 - mean) / rows)
    return f"{rows:,} test rows: one row is {100 / rows:.2g} points, one accuracy's standard error {error:.2g}."


def reason(runs: pd.DataFrame, *keys: str) -> str:
    """Why these runs lack a value of one of `keys`: their failures, or the reasons they give."""
    ways = readable.ways_of_failing(runs)
    if len(ways) > 1:  # room for all: without the size asked for
        ways = [(text.partition(", ")[0], count) for text, count in ways]
    failures = [f"{text}, {count} {'run' if count == 1 else 'runs'}" for text, count in ways]
    return "; ".join([*failures, *dict.fromkeys(text for key in keys for text in readable.null_reasons(runs, key))])


def no_metric(grid: Grid) -> str:
    """Why a figure of the metric has nothing to show, or nothing if it has."""
    if tables.random_weights(grid.runs):
        return "the weights are random, so no metric was taken"
    return reason(grid.runs, "metric_value") if grid.runs["metric_value"].isna().all() else ""


def absent(grid: Grid, shown: pd.Series, *keys: str) -> list[str]:
    """Notes that name the arms a figure cannot show and why, and the shown arms of which runs failed.

    `shown` holds the arms that the figure shows, `keys` the summary keys it needs.
    """
    failed, missing = {}, {}
    for row in grid.arms.itertuples():
        name = arm_label(row.method, row.rank)
        if row.arm not in set(shown):
            why = reason(grid.runs[grid.runs["arm"] == row.arm], *keys)
            missing.setdefault(why, []).append(name)
        elif row.n_failed:
            failed.setdefault(readable.failed_counts(row.failures), []).append(name)
    lines = []
    for lead, named in (("Not shown", missing), ("Without failed runs", failed)):
        if named:
            told = [f"{', '.join(names)} ({why})" for why, names in named.items()]
            lines.append(f"{lead}: {', '.join(told)}.")
    return lines


def interval_note(grid: Grid, *keys: str) -> str:
    """What the intervals of a figure of these measurements are."""
    return " ".join(interval_notes(grid.runs, grid.noise, list(keys)))


def devices(grid: Grid) -> list[tuple[str, pd.DataFrame]]:
    """The runs device by device ("cpu", "cuda"), since what they measure does not compare."""
    named = grid.runs["device"].fillna(tables.first(grid.runs["device"]) or "cpu")
    return [(device, grid.runs[named == device]) for device in dict.fromkeys(named)]


def draw_reason(axes: Axes, why: str) -> None:
    """Why a panel of a figure is empty, in the panel."""
    text = "\n".join(wrap(why, 1.2, style.SMALL))
    place = {"transform": axes.transAxes, "ha": "center", "va": "center", "in_layout": False}
    axes.text(0.5, 0.5, text, style="italic", fontsize=style.SMALL, color=style.GREY, **place)


def thousands(value: float, _: int = 0) -> str:
    """A tick's label with separators."""
    return f"{value:,.9g}"


def spread(values: pd.Series, least: float) -> tuple[float, float]:
    """Limits of an axis that does not start from zero, `least` wide or more."""
    low, high = float(values.min()), float(values.max())
    room = max(0.08 * (high - low), (least - (high - low)) / 2)
    return low - room, high + room


def metric_limits(grid: Grid) -> tuple[float, float]:
    """Limits of a metric axis around every completed run and interval, but no more than the metric can be."""
    ends: list[float] = []
    for _, own in grid.runs.groupby("arm"):
        ends += seed_values(own, "metric_value", grid.scale).tolist()
        ends += interval(own, "metric_value", grid.noise, grid.scale) or ()
    low, high = spread(pd.Series(ends), 0.02 * grid.scale)
    return max(low, -1.03 * grid.scale), min(high, 1.03 * grid.scale)

"""What every figure shares: the data, the title, the notes below and the figure that says why it is empty."""

import functools
import json
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from peft_tradeoffs import style, tables
from peft_tradeoffs.arms import arm_label
from peft_tradeoffs.errors import InputError
from peft_tradeoffs.tables import COMPLETED


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
        """The label of a metric axis, e.g. "Accuracy on the test split, %"."""
        return tables.metric_label(self.metric or "").replace(self.metric_name, f"{self.metric_name} on the test split")

    @property
    def metric_name(self) -> str:
        """The metric's name in titles."""
        return tables.metric_label(self.metric or "Metric").partition(", ")[0]


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
    figure = Figure(figsize=(style.WIDTH, height + 0.13 * len(lines)), layout="constrained", dpi=style.DPI)
    FigureCanvasAgg(figure)
    heading = textwrap.fill(f"{title} · {grid.dataset}, {grid.model}", 88)
    figure.suptitle(heading, x=0.008, ha="left", fontsize=9.5)
    if lines:
        figure.supxlabel("\n".join(lines), x=0.008, ha="left", fontsize=7, color=style.GREY)
    return figure


def message(grid: Grid, title: str, text: str) -> Figure:
    """A small figure that says why there is nothing to draw."""
    figure = canvas(grid, title, 1.2, [])
    figure.text(0.5, 0.42, textwrap.fill(f"Nothing to draw: {text}", 90), ha="center", va="center", color=style.GREY)
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
            parts.append("Several devices")
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


def reason(runs: pd.DataFrame, key: str) -> str:
    """Why these runs have no value of `key`: their failures, or the reasons they give."""
    failed = runs[runs["status"] != COMPLETED]["status"].value_counts(sort=False)
    reasons = []
    for text in runs[runs["status"] == COMPLETED]["null_reasons"].dropna().unique():
        reasons.append(json.loads(text).get(key, "not measured"))
    failures = [f"{status}, {count} {'run' if count == 1 else 'runs'}" for status, count in failed.items()]
    return "; ".join([*failures, *dict.fromkeys(reasons)])


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
    room = max(0.08 * (high - low), (least - (high - low)) / 2)
    return low - room, high + room


def metric_limits(grid: Grid) -> tuple[float, float]:
    """Limits of a metric axis around every completed run."""
    values = grid.runs[grid.runs["status"] == COMPLETED]["metric_value"].dropna().astype(float) * grid.scale
    return spread(values, 0.02 * grid.scale)

"""What every figure shares: the data, the title, the notes below and the figure that says why it is empty."""

import functools
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from peft_tradeoffs import readable, style, tables
from peft_tradeoffs.arms import arm_label
from peft_tradeoffs.errors import InputError
from peft_tradeoffs.tables import COMPLETED
from peft_tradeoffs.tuning_table import read_tuning


@dataclass(frozen=True)
class Grid:
    """The runs of one data set and model, and what figures need beside them."""

    dataset: str
    model: str
    metric: str | None  # None if no run says
    runs: pd.DataFrame  # rows of runs.csv
    curves: pd.DataFrame  # metrics.csv of the completed runs: arm, seed, epoch, step, split and scores
    tuning: pd.DataFrame  # rows of tuning.csv; none where nothing was tuned
    styles: dict[str, style.MethodStyle]  # of every method in runs.csv

    @functools.cached_property
    def arms(self) -> pd.DataFrame:
        """A row an arm (see `tables.arms_frame`)."""
        return tables.arms_frame(self.runs)

    @property
    def scale(self) -> float:
        """What stored metrics are multiplied by when shown."""
        return readable.metric_scale(self.metric or "")

    @property
    def metric_axis(self) -> str:
        """The label of a metric axis, e.g. "Accuracy on the test split, %"."""
        return readable.metric_label(self.metric or "").replace(
            self.metric_name, f"{self.metric_name} on the test split"
        )

    @property
    def metric_name(self) -> str:
        """The metric's name in titles."""
        return readable.metric_label(self.metric or "Metric").partition(", ")[0]


def load(runs_csv: Path, runs_dir: Path, dataset: str, model: str, tuning_csv: Path | None = None) -> Grid:
    """Read the runs of one data set and model, their metrics.csv files and the trials of their tuning.

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
    trials = read_tuning(tuning_csv) if tuning_csv else pd.DataFrame(columns=["dataset", "model"])
    own = (trials["dataset"] == dataset) & (trials["model"] == model)
    return Grid(
        dataset=dataset,
        model=model,
        metric=tables.first(runs["metric"]),
        runs=runs,
        curves=pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(),
        tuning=trials[own].reset_index(drop=True),
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
    lines = [line for note in [*notes, *readable.unlike(grid.runs)] if note for line in textwrap.wrap(note, 112)]
    figure = Figure(figsize=(style.WIDTH, height + 0.13 * len(lines)), layout="constrained", dpi=style.DPI)
    FigureCanvasAgg(figure)
    heading = textwrap.fill(f"{title} · {grid.dataset}, {grid.model}", 88)
    if tables.random_weights(grid.runs):
        heading += f"\n{readable.RANDOM.capitalize()}"
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
    """What the runs have in common, as one line: device, precision, engine, batch size, epochs, runs an arm."""
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
    failed, missing = [], []
    for row in grid.arms.itertuples():
        name = arm_label(row.method, row.rank)
        if row.arm not in set(shown):
            missing.append(f"{name} ({reason(grid.runs[grid.runs['arm'] == row.arm], *keys)})")
        elif row.n_failed:
            failed.append(f"{name} ({readable.failed_counts(row.failures)})")
    notes = [f"Not shown: {', '.join(missing)}."] if missing else []
    return [*notes, f"Without failed runs: {', '.join(failed)}."] if failed else notes


def draw_gap(axes: Axes, y: float, why: str) -> None:
    """A row of horizontal bars without a bar: grey, with the reason."""
    axes.axhspan(y - 0.42, y + 0.42, color="#f4f4f4", linewidth=0)
    text = textwrap.shorten(why, 70, placeholder=" …")
    place = axes.get_yaxis_transform()
    axes.text(0.01, y, text, transform=place, va="center", style="italic", fontsize=7.5, color=style.GREY)


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

"""What every figure shares: the title, the notes below and the figure that says why it is empty."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from peft_tradeoffs.analysis import readable, tables
from peft_tradeoffs.analysis.means import interval, interval_notes, seed_values
from peft_tradeoffs.core.text import arm_label
from peft_tradeoffs.report import style
from peft_tradeoffs.report.style import widest, wrap
from peft_tradeoffs.report.sweep import Sweep, reason
from peft_tradeoffs.tasks.metrics import metric_called, metric_words


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw with the project's settings, whatever matplotlib's are."""

    @functools.wraps(draw)
    def wrapped(*words: Any, **named: Any) -> Figure:
        with matplotlib.rc_context(style.RC):
            return draw(*words, **named)

    return wrapped


def canvas(sweep: Sweep, title: str, height: float, notes: Sequence[str], width: float = style.SINGLE) -> Figure:
    """An empty figure with its title above and notes below, the first on a line of its own.

    `height`, of what is between, and `width` are in inches.
    """
    room = width - 0.1
    first, *others = [*notes, *readable.unlike(sweep.runs)] or [""]
    lines = [*wrap(first, room, style.SMALL), *wrap(" ".join(others), room, style.SMALL)]
    heading = wrap(f"{title} · {sweep.dataset}, {sweep.model}", room, style.TITLE)
    if tables.random_weights(sweep.runs):
        heading += [readable.RANDOM.capitalize()]
    height += style.LINE * len(lines) + 0.14 * len(heading)
    figure = Figure(figsize=(width, height), layout="constrained", dpi=style.DPI)
    FigureCanvasAgg(figure)
    figure.suptitle("\n".join(heading), x=0.05 / width, ha="left", fontsize=style.TITLE)
    if lines:
        figure.supxlabel("\n".join(lines), x=0.05 / width, ha="left", fontsize=style.SMALL, color=style.GREY)
    return figure


def message(sweep: Sweep, title: str, text: str) -> Figure:
    """A small figure that says why there is nothing to draw."""
    lines = wrap(f"Nothing to draw: {text}", style.SINGLE - 0.3, style.SMALL)
    figure = canvas(sweep, title, 0.4 + style.LINE * len(lines), [])
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


def resolution(sweep: Sweep) -> str:
    """How finely the test split tells shares of right answers apart, or nothing for other metrics."""
    rows = tables.first(sweep.runs["test_rows"])
    mean = sweep.arms["metric_value_mean"].mean()
    if not metric_called(sweep.metric).share or not rows or math.isnan(mean):
        return ""
    error, name = sweep.scale * math.sqrt(mean * (1 - mean) / rows), metric_words(sweep.named)
    return f"{rows:,} test rows: one row is {sweep.scale / rows:.2g} points, one {name}'s standard error {error:.2g}."


def absent(sweep: Sweep, shown: pd.Series, *keys: str) -> list[str]:
    """Notes that name the arms a figure cannot show and why, and the shown arms of which runs failed.

    `shown` holds the arms that the figure shows, `keys` the summary keys it needs.
    """
    failed, missing = {}, {}
    for row in sweep.arms.itertuples():
        name = arm_label(row.method, row.rank)
        if row.arm not in set(shown):
            why = reason(sweep.runs[sweep.runs["arm"] == row.arm], *keys)
            missing.setdefault(why, []).append(name)
        elif row.n_failed:
            failed.setdefault(readable.failed_counts(row.failures), []).append(name)
    lines = []
    for lead, named in (("Not shown", missing), ("Without failed runs", failed)):
        if named:
            told = [f"{', '.join(names)} ({why})" for why, names in named.items()]
            lines.append(f"{lead}: {', '.join(told)}.")
    return lines


def interval_note(sweep: Sweep, *keys: str) -> str:
    """What the intervals of a figure of these measurements are."""
    return " ".join(interval_notes(sweep.runs, sweep.noise, list(keys)))


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


def metric_limits(sweep: Sweep) -> tuple[float, float]:
    """Limits of a metric axis around every completed run and interval, but no more than the metric can be."""
    ends: list[float] = []
    for _, own in sweep.runs.groupby("arm"):
        ends += seed_values(own, "metric_value", sweep.scale).tolist()
        ends += interval(own, "metric_value", sweep.noise, sweep.scale) or ()
    low, high = spread(pd.Series(ends), 0.02 * sweep.scale)
    furthest = 1.03 * max(map(abs, metric_called(sweep.metric).bounds))
    return max(low, -furthest * sweep.scale), min(high, furthest * sweep.scale)

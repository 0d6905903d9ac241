"""The one style of all figures: sizes, marks of axes, how wide text is; the title, the notes below, the legend.

Also the figure that says why it is empty, and how a figure is saved.
"""

import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from peft_tradeoffs.analysis import readable, tables
from peft_tradeoffs.analysis.stats import seed_values
from peft_tradeoffs.core.files import atomic, write_text
from peft_tradeoffs.core.layout import FIGURES, sweep_figures
from peft_tradeoffs.core.text import arm_label, records
from peft_tradeoffs.report.sweep import Sweep, reason
from peft_tradeoffs.tasks.metrics import metric_called
from peft_tradeoffs.tasks.shown import metric_words

FAMILY = "DejaVu Sans"  # comes with matplotlib: figures look the same everywhere
BREAKS = re.compile(r"[^\s_/-]+[_/-]*|[_/-]+")  # where a name may be broken: after these characters


@functools.lru_cache(maxsize=20_000)
def width(text: str, size: float) -> float:
    """Inches that one line takes; `size` in points."""
    font = FontProperties(family=FAMILY, size=size)
    return TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] / 72


def widest(texts: Iterable[str], size: float) -> float:
    """Inches of the widest line of these texts, 0 if there is none."""
    return max((width(line, size) for text in texts for line in text.split("\n")), default=0.0)


def wrap(text: str, room: float, size: float) -> list[str]:
    """The text in lines that are no wider than `room` inches: broken at blanks, a word that is wider within."""
    lines = [""]
    for word in text.split():
        for index, part in enumerate(_pieces(word, room, size)):
            longer = lines[-1] + (" " if index == 0 and lines[-1] else "") + part
            if lines[-1] and width(longer, size) > room:
                lines.append(part)
            else:
                lines[-1] = longer
    return lines if lines[0] else []


def _pieces(word: str, room: float, size: float) -> list[str]:
    """A word that is wider than `room` in parts: after _, / and -, or anywhere."""
    if width(word, size) <= room:
        return [word]
    parts: list[str] = []
    for part in BREAKS.findall(word):
        while width(part, size) > room and len(part) > 1:
            fits = next(end for end in range(len(part) - 1, 0, -1) if end == 1 or width(part[:end], size) <= room)
            parts.append(part[:fits])
            part = part[fits:]
        parts.append(part)
    return parts


def shorten(text: str, room: float, size: float) -> str:
    """The text, or as many of its words as `room` inches hold, with an ellipsis."""
    if width(text, size) <= room:
        return text
    words = text.split()
    while words and width(" ".join(words).rstrip(",;:(") + " …", size) > room:
        words.pop()
    return (" ".join(words).rstrip(",;:(") + " …").lstrip()


# Inches: a column and the width of a page of a two-column paper, so that font sizes below are what is printed.
SINGLE, DOUBLE = 3.4, 7.0
ROW = 0.17  # inches per arm in horizontal figures
LINE = 0.115  # inches a line of text of the size SMALL
SMALL, NORMAL, TITLE = 7.0, 7.5, 8.0  # points
DPI = 300
NO_RANK = 36.0  # marker area, square points, of an arm without a rank
GREY = "#6b6b6b"
RC = sns.axes_style("ticks") | {
    "font.family": FAMILY,
    "font.size": NORMAL,
    "axes.labelsize": NORMAL,
    "axes.titlesize": NORMAL,
    "axes.titlelocation": "left",
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.title_fontsize": SMALL,
    "legend.frameon": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "grid.linewidth": 0.5,
    "grid.color": "#e3e3e3",
    "axes.formatter.useoffset": False,
    "text.parse_math": False,  # names may hold $
    "pdf.fonttype": 42,  # TrueType, which publishers ask for
    "svg.fonttype": "path",
    "svg.hashsalt": "peft-tradeoffs",
}
# What files say of themselves: no date and no version, which would make equal figures differ.
FORMATS: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


def sizes(ranks: Iterable[int]) -> dict[int, float]:
    """Marker areas (square points) by rank; the diameter grows in equal steps."""
    ordered = sorted(ranks)
    step = 4.5 / max(1, len(ordered) - 1)
    return {rank: (4 + index * step) ** 2 for index, rank in enumerate(ordered)}


def grid_along(axes: Axes, grid: Literal["both", "x", "y"]) -> None:
    """Keep the grid of one axis ("x" or "y") or of "both"."""
    axes.grid(False)
    axes.grid(True, axis=grid)


def lay_out(figure: Figure) -> None:
    """Settle where everything is, so that no format lays the figure out again."""
    for _ in range(2):  # the first layout decides on ticks, whose labels the second has to fit in
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def mark_cut(axes: Axes, axis: str) -> None:
    """Two strokes through the spine of an axis ("x" or "y") that does not start from zero, near its low end."""
    low, high = sorted(axes.get_xlim() if axis == "x" else axes.get_ylim())
    if low <= 0 <= high:
        return
    for points in (5, 7.5):
        across, up = (points / 72, 0.0) if axis == "x" else (0.0, points / 72)
        place = axes.transAxes + ScaledTranslation(across, up, axes.figure.dpi_scale_trans)
        stroke = [(-0.5, -1), (0.5, 1)] if axis == "x" else [(-1, -0.5), (1, 0.5)]
        axes.plot(
            [0], [0], marker=stroke, markersize=4.5, markeredgewidth=0.7, color="black", transform=place, clip_on=False,
            scalex=False, scaley=False, zorder=5,
        )  # fmt: skip


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write {folder}/{name} as each of FORMATS, each whole or not at all, the same bytes for the same figure."""
    with matplotlib.rc_context(RC):
        lay_out(figure)
        for kind, metadata in FORMATS.items():
            with atomic(folder / f"{name}.{kind}") as temporary:
                figure.savefig(temporary, format=kind, dpi=DPI, metadata=metadata)


def save_bare(figure: Figure, folder: Path, name: str) -> None:
    """Write {folder}/paper/{name} as SVG and PDF without title and notes, and these as {name}.txt, for a caption.

    Call it last: the figure of `canvas` loses them. What says that weights are random stays in the picture.
    """
    heading, notes = (text.split("\n") if text else [] for text in (figure.get_suptitle(), figure.get_supxlabel()))
    kept = [line for line in heading if line == readable.RANDOM.capitalize()]
    wide, height = figure.get_size_inches()
    with matplotlib.rc_context(RC):
        figure.suptitle("\n".join(kept)).set_in_layout(bool(kept))
        figure.supxlabel("").set_in_layout(False)
        figure.set_size_inches(wide, height - LINE * len(notes) - 0.14 * (len(heading) - len(kept)))
        figure.set_layout_engine("constrained")
        lay_out(figure)
        for kind in ("svg", "pdf"):
            with atomic(folder / "paper" / f"{name}.{kind}") as temporary:
                figure.savefig(temporary, format=kind, dpi=DPI, metadata=FORMATS[kind])
    write_text(folder / "paper" / f"{name}.txt", f"{figure.get_label()}\n")


def log_ticks(axes: Axes, most: int = 8) -> None:
    """At most so many ticks of a logarithmic axis of counts, as 500k or 2M: 1, 2, 5 or powers of ten, or closer."""
    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    if decades < 1:
        axes.xaxis.set_major_locator(MaxNLocator(min(5, most)))
    else:
        subs = next((subs for subs in ((1, 2, 5), (1, 3)) if len(subs) * decades <= most), (1,))
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=max(2, most)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))


def compact(value: float) -> str:
    """A count in short, three significant digits: 500, 20k, 5M, 7B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw with the project's settings, whatever matplotlib's are."""

    @functools.wraps(draw)
    def wrapped(*words: Any, **named: Any) -> Figure:
        with matplotlib.rc_context(RC):
            return draw(*words, **named)

    return wrapped


def canvas(sweep: Sweep, title: str, height: float, notes: Sequence[str], width: float = SINGLE) -> Figure:
    """An empty figure with its title above and notes below, the first on a line of its own.

    `height`, of what is between, and `width` are in inches.
    """
    room = width - 0.1
    first, *others = [*notes, *readable.unlike(sweep.runs)] or [""]
    lines = [*wrap(first, room, SMALL), *wrap(" ".join(others), room, SMALL)]
    heading = wrap(f"{title} · {sweep.dataset}, {sweep.model}", room, TITLE)
    marks = [readable.RANDOM.capitalize()] if tables.random_weights(sweep.runs) else []
    heading += marks
    height += LINE * len(lines) + 0.14 * len(heading)
    figure = Figure(figsize=(width, height), layout="constrained", dpi=DPI)
    FigureCanvasAgg(figure)
    about = [f"{title} ({sweep.dataset}, {sweep.model})", *marks, first, " ".join(filter(None, others)).rstrip(".")]
    figure.set_label(". ".join(filter(None, about)) + ".")
    figure.suptitle("\n".join(heading), x=0.05 / width, ha="left", fontsize=TITLE)
    if lines:
        figure.supxlabel("\n".join(lines), x=0.05 / width, ha="left", fontsize=SMALL, color=GREY)
    return figure


def figure_of(axes: Axes) -> Figure:
    """The figure in which axes stand."""
    figure = axes.get_figure(root=True)
    assert figure is not None  # only axes that were taken out stand in none
    return figure


def message(sweep: Sweep, title: str, text: str) -> Figure:
    """A small figure that says why there is nothing to draw."""
    lines = wrap(f"Nothing to draw: {text}", SINGLE - 0.3, SMALL)
    figure = canvas(sweep, title, 0.4 + LINE * len(lines), [])
    figure.text(0.5, 0.35, "\n".join(lines), ha="center", va="center", fontsize=SMALL, color=GREY)
    return figure


def legend(axes: Axes, handles: Sequence[Artist], width: float, left: float = 0.55) -> None:
    """A legend right of the axes in a figure as wide as a page, above them in one as wide as a column.

    `left`: inches that a column has left of its axes.
    """
    labels = legend_labels(handles, width)
    if width == DOUBLE:
        axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.01, 1.02), borderaxespad=0)
        return
    axes.legend(
        handles, labels, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=legend_columns(labels, width - left),
        borderaxespad=0.2, handlelength=1.4, handletextpad=0.5, columnspacing=1.0,
    )  # fmt: skip


def legend_labels(handles: Sequence[Artist], width: float) -> list[str]:
    """What a legend says, long names in several lines."""
    room = 1.4 if width == DOUBLE else width - 1.0
    return ["\n".join(wrap(str(handle.get_label()), room, SMALL)) for handle in handles]


def legend_columns(labels: Sequence[str], room: float) -> int:
    """How many columns a legend has in so many inches."""
    return max(1, min(len(labels), int(room / (widest(labels, SMALL) + 0.36))))


def legend_height(handles: Sequence[Artist], width: float, left: float = 0.55) -> float:
    """Inches that a legend takes: above the axes in a figure as wide as a column, beside them in one as a page."""
    labels = legend_labels(handles, width)
    columns = 1 if width == DOUBLE else legend_columns(labels, width - left)
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
    failed: dict[str, list[str]] = {}
    missing: dict[str, list[str]] = {}
    for row in records(sweep.arms):
        name = arm_label(row["method"], row["rank"])
        if row["arm"] not in set(shown):
            why = reason(sweep.runs[sweep.runs["arm"] == row["arm"]], *keys)
            missing.setdefault(why, []).append(name)
        elif row["n_failed"]:
            failed.setdefault(readable.failed_counts(row["failures"]), []).append(name)
    lines = []
    for lead, named in (("Not shown", missing), ("Without failed runs", failed)):
        if named:
            told = [f"{', '.join(names)} ({why})" for why, names in named.items()]
            lines.append(f"{lead}: {', '.join(told)}.")
    return lines


def interval_note(sweep: Sweep, *keys: str) -> str:
    """What the intervals of a figure of these measurements are."""
    return " ".join(sweep.interval_notes(list(keys)))


def draw_reason(axes: Axes, why: str) -> None:
    """Why a panel of a figure is empty, in the panel."""
    text = "\n".join(wrap(why, 1.2, SMALL))
    axes.text(
        0.5, 0.5, text, style="italic", fontsize=SMALL, color=GREY, transform=axes.transAxes, ha="center", va="center",
        in_layout=False,
    )  # fmt: skip


def draw_intervals(axes: Axes, ends: Sequence[dict[str, Any]], orient: str, **look: Any) -> None:
    """Intervals as lines along x (`orient` "y") or y ("x"); `ends`: two rows per interval, "x" and "y" of its ends.

    They are the given ones: all from the least to the greatest of two ends, seaborn has nothing to estimate.
    """
    if ends:
        given = {"data": pd.DataFrame(ends), "x": "x", "y": "y", "orient": orient, "native_scale": True}
        bare = {"marker": "", "linestyle": "none", "legend": False, "ax": axes}
        sns.pointplot(**given, errorbar=("pi", 100), **bare, **look)


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
        ends += sweep.interval(own, "metric_value", sweep.scale) or ()
    low, high = spread(pd.Series(ends), 0.02 * sweep.scale)
    furthest = 1.03 * max(map(abs, metric_called(sweep.metric).bounds))
    return max(low, -furthest * sweep.scale), min(high, furthest * sweep.scale)


# What draws each figure -----------------------------------------------------------------------------------------------


def drawings(figures: dict[str, str] = FIGURES) -> dict[str, Callable[[Sweep], Figure]]:
    """By name: what draws it."""
    from peft_tradeoffs.report import bars, lines, scatter

    modules = {"bars": bars, "lines": lines, "scatter": scatter}
    return {name: getattr(modules[module], name) for name, module in figures.items()}


def sweeps(sweep: Sweep) -> dict[str, Callable[[Sweep], Figure]]:
    """By name: what draws the figure of each method that has several ranks."""
    from peft_tradeoffs.report.lines import along_ranks

    ranks = [None if pd.isna(rank) else rank for rank in sweep.runs["rank"]]
    named = sweep_figures(zip(sweep.runs["method"], ranks, strict=True))
    return {name: functools.partial(along_ranks, method=method) for name, method in named.items()}

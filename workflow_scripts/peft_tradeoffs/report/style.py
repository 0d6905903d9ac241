"""The one style of all figures: sizes, marks of axes, how wide text is, and how a figure is saved."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import matplotlib
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath
from matplotlib.transforms import ScaledTranslation

from peft_tradeoffs.core.files import atomic

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

"""The one style of all figures: sizes, marks of axes, and how a figure is saved."""

from collections.abc import Iterable
from pathlib import Path

import matplotlib
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from peft_tradeoffs.core.files import atomic
from peft_tradeoffs.report.text_width import FAMILY

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


def grid_along(axes: Axes, grid: str) -> None:
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
        along = (points / 72, 0) if axis == "x" else (0, points / 72)
        place = axes.transAxes + ScaledTranslation(*along, axes.figure.dpi_scale_trans)
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

"""The one style of all figures: sizes, one colour and marker a method, marks of axes, and how a figure is saved."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from peft_tradeoffs.core.arms import FULL, method_order
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
# seaborn's "colorblind" without its palest (pink, yellow) and grey, then three dark ones of Paul Tol's "muted".
PALETTE = [sns.color_palette("colorblind")[index] for index in (0, 1, 2, 3, 4, 9, 5)]
PALETTE += [to_rgb(colour) for colour in ("#882255", "#332288", "#999933")]
MARKERS = "osD^vPXp"
# What files say of themselves: no date and no version, which would make equal figures differ.
FORMATS: dict[str, dict[str, None]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


@dataclass(frozen=True)
class MethodStyle:
    """How one method is drawn in every figure."""

    colour: tuple[float, float, float]
    marker: str


def method_styles(methods: Iterable[str]) -> dict[str, MethodStyle]:
    """One style per method, in `method_order`; full fine-tuning is near-black, the others colour-blind safe."""
    styles = {}
    others = 0
    for method in method_order(methods):
        if method == FULL:
            styles[method] = MethodStyle(to_rgb("#222222"), "h")
            continue
        styles[method] = MethodStyle(PALETTE[others % len(PALETTE)], MARKERS[others % len(MARKERS)])
        others += 1
    return styles


def colours(methods: Iterable[str], dark: bool = False) -> dict[str, str]:
    """The colour of each method as "#rrggbb", on a dark ground if asked; `methods`: all of runs.csv."""
    looks = method_styles(methods)
    return {name: to_hex(on_dark(look.colour) if dark else look.colour) for name, look in looks.items()}


def tint(colour: tuple[float, float, float], share: float) -> tuple[float, float, float]:
    """The colour mixed with white; `share` 1 is the colour itself, 0 is white."""
    red, green, blue = (1 - share * (1 - part) for part in colour)
    return red, green, blue


def on_dark(colour: tuple[float, float, float]) -> tuple[float, float, float]:
    """The colour as it is shown on a dark page: what is nearly black nearly white, others lighter."""
    return tint(colour, 0.12) if max(colour) < 0.2 else tint(colour, 0.75)


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

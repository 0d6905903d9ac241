"""The one style of all figures: sizes, one colour and marker a method, and how a figure is saved."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from peft_tradeoffs.arms import FULL, method_order
from peft_tradeoffs.files import atomic

WIDTH = 6.5  # inches: the text width of a page, so that font sizes below are what is printed
ROW = 0.21  # inches an arm in horizontal figures
DPI = 200
NO_RANK = 50.0  # marker area, square points, of an arm without a rank
GREY = "#6b6b6b"
RC = sns.axes_style("ticks") | {
    "font.family": "DejaVu Sans",  # comes with matplotlib: figures look the same everywhere
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
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
    "svg.fonttype": "path",
    "svg.hashsalt": "peft-tradeoffs",
}
# seaborn's "colorblind" without its palest (pink, yellow) and grey, then three dark ones of Paul Tol's "muted".
PALETTE = [sns.color_palette("colorblind")[index] for index in (0, 1, 2, 3, 4, 9, 5)]
PALETTE += [to_rgb(colour) for colour in ("#882255", "#332288", "#999933")]
MARKERS = "osD^vPXp"


@dataclass(frozen=True)
class MethodStyle:
    """How one method is drawn in every figure."""

    colour: tuple[float, float, float]
    marker: str


def method_styles(methods: Iterable[str]) -> dict[str, MethodStyle]:
    """A style a method, in `method_order`; full fine-tuning is near-black, the others colour-blind safe."""
    styles = {}
    others = 0
    for method in method_order(methods):
        if method == FULL:
            styles[method] = MethodStyle(to_rgb("#222222"), "h")
            continue
        styles[method] = MethodStyle(PALETTE[others % len(PALETTE)], MARKERS[others % len(MARKERS)])
        others += 1
    return styles


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
    step = 6.5 / max(1, len(ordered) - 1)
    return {rank: (5 + index * step) ** 2 for index, rank in enumerate(ordered)}


def grid_along(axes: Axes, grid: str) -> None:
    """Keep the grid of one axis ("x" or "y") or of "both"."""
    axes.grid(False)
    axes.grid(True, axis=grid)


def lay_out(figure: Figure) -> None:
    """Settle where everything is, so that no format lays the figure out again."""
    for _ in range(2):  # the first layout decides on ticks, whose labels the second has to fit in
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write {folder}/{name}.svg and .png, each whole or not at all, the same bytes for the same figure."""
    with matplotlib.rc_context(RC):
        lay_out(figure)
        for kind, metadata in (("svg", {"Date": None, "Creator": None}), ("png", {"Software": None})):
            with atomic(folder / f"{name}.{kind}") as temporary:
                figure.savefig(temporary, format=kind, dpi=DPI, metadata=metadata)

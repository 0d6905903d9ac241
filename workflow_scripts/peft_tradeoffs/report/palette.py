"""One colour and marker per method, in every figure and on the page. Needs no plotting library."""

from collections.abc import Iterable
from dataclasses import dataclass

from peft_tradeoffs.core.text import FULL, method_order

# seaborn's "colorblind" without its palest (pink, yellow) and grey, then three dark ones of Paul Tol's "muted".
PALETTE = (
    *("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#56b4e9", "#ca9161"),
    *("#882255", "#332288", "#999933"),
)
MARKERS = "osD^vPXp"


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
            styles[method] = MethodStyle(_rgb("#222222"), "h")
            continue
        styles[method] = MethodStyle(_rgb(PALETTE[others % len(PALETTE)]), MARKERS[others % len(MARKERS)])
        others += 1
    return styles


def colours(methods: Iterable[str], dark: bool = False) -> dict[str, str]:
    """The colour of each method as "#rrggbb", on a dark ground if asked; `methods`: all of runs.csv."""
    looks = method_styles(methods)
    return {name: _hex(on_dark(look.colour) if dark else look.colour) for name, look in looks.items()}


def tint(colour: tuple[float, float, float], share: float) -> tuple[float, float, float]:
    """The colour mixed with white; `share` 1 is the colour itself, 0 is white."""
    red, green, blue = (1 - share * (1 - part) for part in colour)
    return red, green, blue


def on_dark(colour: tuple[float, float, float]) -> tuple[float, float, float]:
    """The colour as it is shown on a dark page: what is nearly black nearly white, others lighter."""
    return tint(colour, 0.12) if max(colour) < 0.2 else tint(colour, 0.75)


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue


def _hex(colour: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)

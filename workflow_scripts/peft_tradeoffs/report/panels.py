"""Panels of one figure, a method each where there are many arms, and shades of a method's colour for its ranks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from peft_tradeoffs.core.arms import arm_label, method_label
from peft_tradeoffs.report import palette, style
from peft_tradeoffs.report.sweep import Sweep
from peft_tradeoffs.report.text_width import wrap

ONE_PANEL = 5  # arms whose lines still read well in one panel


@dataclass(frozen=True)
class Panels:
    """Which methods each panel shows, in reading order."""

    methods: list[list[str]]

    @classmethod
    def plan(cls, methods: Iterable[str], together: bool) -> "Panels":
        """One panel of all methods, or one of each."""
        named = list(dict.fromkeys(methods))
        return cls([named] if together else [[method] for method in named])

    @property
    def columns(self) -> int:
        count = len(self.methods)
        return 2 if count == 4 else min(3 if count <= 9 else 5, count)

    @property
    def lines(self) -> int:
        return math.ceil(len(self.methods) / self.columns)

    def subplots(self, figure: Figure, xlabel: str, titles: bool) -> list[Axes]:
        """Axes of the panels, with common scales; ticks and label of x below the lowest of each column.

        The legend goes beside the first line's last panel: `axes[columns - 1]`.
        """
        cells = figure.subplots(self.lines, self.columns, sharex=True, sharey=True, squeeze=False)
        count = len(self.methods)
        for index, axes in enumerate(cells.flat):
            lowest = index + self.columns >= count
            axes.xaxis.set_tick_params(labelbottom=lowest)
            axes.set_xlabel(xlabel if lowest else "")
            axes.set_visible(index < count)
            if titles and index < count:
                name = method_label(self.methods[index][0])
                axes.set_title("\n".join(wrap(name, 5.0 / self.columns, style.NORMAL)))
        return list(cells.flat)[:count]


def rank_shades(ranks: pd.Series) -> dict[int, float]:
    """How strong each rank's colour is: light for the lowest, the method's own for the highest."""
    ordered = sorted(ranks.dropna().unique())
    shares = np.linspace(0.35, 1.0, len(ordered)) if len(ordered) > 1 else np.ones(len(ordered))
    return dict(zip(ordered, shares, strict=True))


def shade(sweep: Sweep, method: str, rank: float | None, shades: dict[int, float]) -> tuple[float, float, float]:
    """The colour of an arm: its method's, the lighter the lower the rank."""
    return palette.tint(sweep.styles[method].colour, 1.0 if pd.isna(rank) else shades[rank])


def arm_entries(sweep: Sweep, arms: pd.DataFrame, shades: dict[int, float], markers: bool = False) -> list[Line2D]:
    """A legend's entry a row of `arms`, with its method's marker if asked."""
    entries = []
    for row in arms.itertuples():
        colour, label = shade(sweep, row.method, row.rank, shades), arm_label(row.method, row.rank)
        marker = sweep.styles[row.method].marker if markers else ""
        entries.append(Line2D([], [], color=colour, label=label, marker=marker, markersize=4))
    return entries


def rank_entries(shades: dict[int, float]) -> list[Line2D]:
    """A legend's entry a rank."""
    grey = (0.2, 0.2, 0.2)
    return [Line2D([], [], color=palette.tint(grey, share), label=f"rank {rank:g}") for rank, share in shades.items()]

"""Memory of one training step over its time, stacked by category."""

import textwrap

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from peft_tradeoffs.measure.memory_timeline import CATEGORIES
from peft_tradeoffs.report import style

COLOURS = ("#37474f", "#b4c7d3", "#6f8fa6", "#e3c58f", "#dddddd")  # as in the figure of memory by part; other is grey
PHASES = ("forward", "backward", "optimizer")
BINS = 400  # across the figure; in each the highest total is drawn
DEVICE_NOTES = {
    "cpu": "Weights, optimizer state and data by tensor sizes, and what torch's allocator gave since; not the "
    "process's resident set.",
    "cuda": "Total: what torch's caching allocator counts as allocated, without the CUDA context and what it reserves.",
}


def memory_figure(memory: pd.DataFrame, title: str, device: str) -> Figure:
    """The figure of memory.csv of a profile on `device`; one that says so where it has no row."""
    notes = f"One eager step on the longest texts. {DEVICE_NOTES[device]}"
    if memory.empty:
        notes = "Nothing to draw: the step did not fit into memory."
    with matplotlib.rc_context(style.RC):
        figure = Figure(figsize=(style.DOUBLE, 3.4), layout="constrained", dpi=style.DPI)
        FigureCanvasAgg(figure)
        figure.suptitle(textwrap.fill(title, 88), x=0.008, ha="left", fontsize=style.TITLE)
        figure.supxlabel(textwrap.fill(notes, 112), x=0.008, ha="left", fontsize=style.SMALL, color=style.GREY)
        axes = figure.subplots()
        if memory.empty:
            axes.set_axis_off()
            return figure
        span = memory["ms"].max()
        bins = (memory["ms"] / span * BINS).astype(int)
        memory = memory.loc[memory.groupby(bins)["total_MiB"].idxmax()]
        parts = [memory[f"{name}_MiB"] for name in CATEGORIES]
        axes.stackplot(memory["ms"], *parts, labels=CATEGORIES, colors=COLOURS, step="post", linewidth=0)
        top = memory.loc[memory["total_MiB"].idxmax()]
        axes.plot(top["ms"], top["total_MiB"], "v", color="black", markersize=4)
        axes.annotate(
            f"{top['total_MiB']:,.1f} MiB", (top["ms"], top["total_MiB"]), (0, 5), textcoords="offset points",
            ha="center", fontsize=7.5, bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 0.8},
        )  # fmt: skip
        for phase in PHASES:
            own = memory.loc[memory["phase"] == phase, "ms"]
            if len(own):
                axes.axvline(own.min(), color=style.GREY, linewidth=0.6, linestyle=":")
                side = "left" if own.min() < 0.85 * span else "right"
                axes.text(
                    own.min(), 1.0, f" {phase} ", transform=axes.get_xaxis_transform(), ha=side, va="top", fontsize=7
                )
        axes.set_xlim(0, span)
        axes.set_ylim(0, top["total_MiB"] * 1.15)
        axes.set_xlabel("Time in the profiled step, ms")
        axes.set_ylabel("Memory, MiB")
        style.grid_along(axes, "y")
        axes.legend(
            loc="lower left", bbox_to_anchor=(0, 1.0), ncols=len(CATEGORIES), borderaxespad=0.2, handlelength=1.0,
            columnspacing=1.2,
        )  # fmt: skip
        return figure

"""What an arm's memory goes to: stacked bars of weights, gradients, optimizer state and activations."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

from peft_tradeoffs.analysis import readable
from peft_tradeoffs.analysis.tables import SPLIT, memory_key
from peft_tradeoffs.report import style
from peft_tradeoffs.report.bars import draw_gap, name_rows, names, rows_height
from peft_tradeoffs.report.canvas import absent, canvas, legend, legend_height, message, styled, thousands
from peft_tradeoffs.report.sweep import Sweep, conditions, reason
from peft_tradeoffs.report.text_width import widest

COLOURS = ("#37474f", "#6f8fa6", "#b4c7d3", "#e3c58f")  # of SPLIT: what is held always is darkest
PEAK = memory_key("cuda")


@styled
def memory_split_by_arm(sweep: Sweep) -> Figure:
    """The parts of each arm's memory from tensor sizes, and the measured peak of CUDA beside them."""
    title = "Memory by part and arm"
    means = [f"{key}_mean" for key in SPLIT]
    if sweep.arms[means].isna().any(axis=1).all():
        return message(sweep, title, reason(sweep.runs, *SPLIT))
    peaks = bool(sweep.arms[f"{PEAK}_mean"].notna().any())
    notes = [
        conditions(sweep.runs),
        "Parts: from tensor sizes, on the batch_size longest training texts. At the right: their sum, MiB.",
        "Line: measured peak allocated in the probe. Not all parts are held at once, and kernels need room." * peaks,
    ]
    shown = sweep.arms.dropna(subset=means)["arm"]
    notes += absent(sweep, shown, *SPLIT)
    labels = names(sweep.arms)
    left = widest(labels, style.SMALL) + 0.2
    handles = [Patch(color=colour, label=part) for part, colour in zip(readable.PARTS, COLOURS, strict=True)]
    if peaks:
        stroke = {"marker": "|", "linestyle": "", "color": "black", "markersize": 8, "markeredgewidth": 1.1}
        handles += [Line2D([], [], label="Peak allocated", **stroke)]
    height = rows_height(labels) + 0.5 + legend_height(handles, style.SINGLE, left)
    figure = canvas(sweep, title, height, notes)
    axes = figure.subplots()
    for y, row in enumerate(sweep.arms.to_dict("records")):
        parts = [row[key] for key in means]
        if any(map(math.isnan, parts)):
            draw_gap(axes, y, reason(sweep.runs[sweep.runs["arm"] == row["arm"]], *SPLIT), labels)
            continue
        draw_parts(axes, y, parts, row[f"{PEAK}_mean"])
        text = readable.number(sum(parts)) + (f" (n = {row['n']})" if row["n_failed"] else "")
        axes.text(1.01, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=style.SMALL)
    name_rows(axes, labels)
    axes.set_xlim(left=0)
    axes.set_xlabel("Memory, MiB")
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
    legend(axes, handles, style.SINGLE, left)
    return figure


def draw_parts(axes: Axes, y: int, parts: list[float], peak: float) -> None:
    """One arm's parts end to end, MiB, and its measured peak where it has one."""
    left = 0.0
    for size, colour in zip(parts, COLOURS, strict=True):
        axes.barh(y, size, left=left, height=0.7, color=colour, linewidth=0)
        left += size
    if not math.isnan(peak):
        axes.plot([peak, peak], [y - 0.4, y + 0.4], color="black", linewidth=1.3, zorder=4)

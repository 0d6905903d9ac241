"""Profiles for readers: the top operators of an arm, all arms side by side, and memory over a step."""

import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from peft_tradeoffs.analysis.readable import NULL, escape_pipes, number
from peft_tradeoffs.core.text import records
from peft_tradeoffs.measure.traces import CATEGORIES, OPERATOR
from peft_tradeoffs.report import style

TOP = 15
APART = "Profiles are apart from the benchmark: no figure here is in any other table."
NOTES = (
    "ms and calls are of one step, recorded by torch.profiler, which makes steps longer: compare shares, and take "
    "times from step p50, which is measured without it. Self: without the operators called within. Python: no operator "
    "runs, by the phase of the step. The learning rate is 0; warm-up steps are in no table."
)
GPU_NOTES = (
    "Self GPU: kernels and copies that an operator launched itself. GPU idle: no kernel and no copy runs. A replayed "
    "CUDA graph is one launch, whose kernels are in kernels.csv."
)


def operators_text(title: str, operators: pd.DataFrame, engines: pd.DataFrame, problems: list[str]) -> str:
    """An arm's top operators by CPU and by GPU time, one table per engine and batch, each the whole of its window."""
    parts = [f"# {title}\n"]
    for row in engines.itertuples():
        heading = f"## {row.engine}, {row.batch} batch ({row.rows} texts of {row.tokens} tokens)\n"
        own = operators[(operators["engine"] == row.engine) & (operators["batch"] == row.batch)]
        if own.empty:
            parts.append(f"{heading}\nNot profiled: {row.reason}.\n")
            continue
        said = (
            f"Step p50 without the profiler: {number(row.step_p50_ms)} ms; with it {number(row.profiled_step_ms)} ms."
        )
        tables = [f"By CPU time:\n\n{_top(own, 'self_cpu')}\n"]
        if own["self_gpu_ms"].notna().any():
            tables.append(f"By GPU time:\n\n{_top(own, 'self_gpu')}\n")
        parts.append("\n".join([heading, said + "\n", *tables]))
    gpu = operators["self_gpu_ms"].notna().any() if len(operators) else False
    parts.append(" ".join([NOTES, *([GPU_NOTES] if gpu else []), APART]) + "\n")
    parts += [f"Problem in the trace of {problem}.\n" for problem in problems]
    return "\n".join(parts)


def _top(rows: pd.DataFrame, by: str) -> str:
    """The rows that take most, what the rest takes, and the sum, which is the window."""
    ordered = rows[rows[f"{by}_ms"].notna()].sort_values(f"{by}_ms", ascending=False, kind="stable")
    shown, rest = ordered.head(TOP), ordered.iloc[TOP:]
    cells = [_cells(row["operator"], row["kind"], row["calls"], row, by) for row in records(shown)]
    if len(rest):
        cells.append(_cells(f"{len(rest)} others", "", math.nan, rest.sum(numeric_only=True).to_dict(), by))
    cells.append(_cells("Sum", "", math.nan, ordered.sum(numeric_only=True).to_dict(), by))
    side = "CPU" if by == "self_cpu" else "GPU"
    header = ("Operator", "Kind", "Calls", f"Self {side}, ms", "Share")
    return _markdown(header, cells, left=2)


def _cells(name: str, kind: str, calls: float, row: Mapping[Any, Any], by: str) -> tuple[str, ...]:
    kind = "" if kind in (OPERATOR, "idle") else kind
    return name, kind, number(calls), number(row[f"{by}_ms"]), share(row[f"{by}_share"])


def index_frame(arms: Iterable[tuple[dict[str, str], pd.DataFrame, pd.DataFrame, pd.DataFrame]]) -> pd.DataFrame:
    """One row per arm, engine and batch: what engines.csv has, the operator that takes most, peak memory, links.

    `arms`: where each is in the sweep, its engines, operators and memory.
    """
    rows = []
    for place, engines, operators, memory in arms:
        folder = "/".join(place.values())
        for engine in records(engines):
            own = operators[(operators["engine"] == engine["engine"]) & (operators["batch"] == engine["batch"])]
            traced = not own.empty
            with_peak = engine["engine"] == "eager" and engine["batch"] == "longest" and len(memory)
            rows.append(
                {
                    **place,
                    **engine,
                    "top_cpu": _first(own[own["kind"] != "idle"], "self_cpu"),
                    "top_gpu": _first(own[own["kind"] != "idle"], "self_gpu"),
                    "peak_MiB": memory["total_MiB"].max() if with_peak else None,
                    "trace": f"{folder}/trace_{engine['engine']}.json.gz" if traced else None,
                    "operators": f"{folder}/operators.md",
                    "memory": f"{folder}/memory.svg",
                }
            )
    return pd.DataFrame(rows)


def index_text(frame: pd.DataFrame) -> str:
    """All arms side by side, one table per data set and model."""
    parts = ["# Profiles\n"]
    gpu = bool(frame["gpu_busy_share"].notna().any())
    header = ["Arm", "Engine", "Batch", "Step p50, ms", "Python"]
    header += ["GPU busy", "Kernels", "Launches"] * gpu + ["Takes most", "Peak, MiB", "Files"]
    for (dataset, model), rows in frame.groupby(["dataset", "model"], sort=False):
        cells = []
        for row in records(rows):
            on_gpu = [share(row["gpu_busy_share"]), number(row["kernels"]), number(row["launches"])] if gpu else []
            most = row["top_gpu"] if gpu and pd.notna(row["top_gpu"]) else row["top_cpu"]
            failed = pd.isna(row["trace"])
            links = {"trace": row["trace"], "operators": row["operators"], "memory": row["memory"]}
            cells.append(
                (
                    *(row["arm"], row["engine"], f"{row['batch']}: {row['rows']} × {row['tokens']}"),
                    *(number(row["step_p50_ms"]), share(row["python_share"]), *on_gpu),
                    f"not profiled: {row['reason']}" if failed else most,
                    number(row["peak_MiB"]),
                    ", ".join(f"[{name}]({path})" for name, path in links.items() if pd.notna(path)),
                )
            )
        parts.append(f"## {dataset} · {model}\n\n{_markdown(header, cells, left=3)}\n")
    notes = (
        "Batch: texts × tokens. Peak: of one eager step, by what the allocator gave (memory.csv has it by category)."
    )
    how = "Open a trace at https://ui.perfetto.dev or in chrome://tracing."
    parts.append(" ".join([notes, NOTES, *([GPU_NOTES] if gpu else []), how, APART]) + "\n")
    return "\n".join(parts)


def share(value: Any) -> str:
    """A share as a percentage with one decimal."""
    return NULL if pd.isna(value) else f"{100 * value:.1f} %"


def _first(rows: pd.DataFrame, by: str) -> str | None:
    """The row that takes most, with its share."""
    known = rows[rows[f"{by}_share"].notna()]
    if known.empty:
        return None
    row = max(records(known), key=lambda row: row[f"{by}_share"])
    kind = "" if row["kind"] == OPERATOR else f"{row['kind']}: "
    return f"{kind}{row['operator']} ({share(row[f'{by}_share'])})"


def _markdown(header: Iterable[str], cells: list[tuple[str, ...]], left: int) -> str:
    names = list(header)
    text = pd.DataFrame(cells, columns=names).map(escape_pipes)
    align = ["left" if index < left or name in ("Takes most", "Files") else "right" for index, name in enumerate(names)]
    return text.to_markdown(index=False, disable_numparse=True, colalign=align)


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
        top = max(records(memory), key=lambda row: row["total_MiB"])
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

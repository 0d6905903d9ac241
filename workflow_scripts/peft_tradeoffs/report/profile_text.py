"""Profiles for readers: the top operators of an arm, and all arms side by side."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from peft_tradeoffs.analysis.readable import NULL, number
from peft_tradeoffs.analysis.table_formats import escape_pipes
from peft_tradeoffs.measure.profile_tables import OPERATOR

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
    cells = [_cells(row["operator"], row["kind"], row["calls"], row, by) for row in shown.to_dict("records")]
    if len(rest):
        cells.append(_cells(f"{len(rest)} others", "", math.nan, rest.sum(numeric_only=True).to_dict(), by))
    cells.append(_cells("Sum", "", math.nan, ordered.sum(numeric_only=True).to_dict(), by))
    side = "CPU" if by == "self_cpu" else "GPU"
    header = ("Operator", "Kind", "Calls", f"Self {side}, ms", "Share")
    return _markdown(header, cells, left=2)


def _cells(name: str, kind: str, calls: float, row: dict[str, Any], by: str) -> tuple[str, ...]:
    kind = "" if kind in (OPERATOR, "idle") else kind
    return name, kind, number(calls), number(row[f"{by}_ms"]), share(row[f"{by}_share"])


def index_frame(arms: Iterable[tuple[dict[str, str], pd.DataFrame, pd.DataFrame, pd.DataFrame]]) -> pd.DataFrame:
    """One row per arm, engine and batch: what engines.csv has, the operator that takes most, peak memory, links.

    `arms`: where each is in the sweep, its engines, operators and memory.
    """
    rows = []
    for place, engines, operators, memory in arms:
        folder = "/".join(place.values())
        for engine in engines.to_dict("records"):
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
        for row in rows.to_dict("records"):
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
    row = known.loc[known[f"{by}_share"].idxmax()]
    kind = "" if row["kind"] == OPERATOR else f"{row['kind']}: "
    return f"{kind}{row['operator']} ({share(row[f'{by}_share'])})"


def _markdown(header: Iterable[str], cells: list[tuple[str, ...]], left: int) -> str:
    names = list(header)
    text = pd.DataFrame(cells, columns=names).map(escape_pipes)
    align = ["left" if index < left or name in ("Takes most", "Files") else "right" for index, name in enumerate(names)]
    return text.to_markdown(index=False, disable_numparse=True, colalign=align)

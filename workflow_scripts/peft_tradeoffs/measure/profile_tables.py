"""Rows of an arm's profile: of its engines, operators and kernels."""

from typing import Any

from peft_tradeoffs.measure.trace_times import IDLE, Window

ENGINES = (
    *("engine", "batch", "rows", "tokens", "step_p50_ms", "profiled_step_ms", "python_share", "gpu_busy_ms"),
    *("gpu_busy_share", "kernels", "launches", "capture_s", "compile_s", "reason"),
)
OPERATORS = (
    *("engine", "batch", "kind", "operator", "calls", "self_cpu_ms", "self_cpu_share"),
    *("self_gpu_ms", "self_gpu_share"),
)
KERNELS = ("engine", "batch", "kernel", "calls", "gpu_ms", "gpu_share")
OPERATOR = "operator"


def engine_row(
    engine: str, window: Window, shape: tuple[int, int], step_p50_ms: float, prepared_s: dict[str, float]
) -> dict[str, Any]:
    """How steps of one batch went with one engine; counts and ms are those of a step, shares are of the window."""
    gpu = bool(window.kernels)
    return {
        "engine": engine,
        "batch": window.name,
        "rows": shape[0],
        "tokens": shape[1],
        "step_p50_ms": step_p50_ms,
        "profiled_step_ms": window.us / window.steps / 1000,
        "python_share": window.cpu_share("Python"),
        "gpu_busy_ms": window.busy_us / window.steps / 1000 if gpu else None,
        "gpu_busy_share": window.busy_us / window.us if gpu else None,
        "kernels": window.launched / window.steps if gpu else None,
        "launches": window.launches / window.steps if gpu else None,
        **prepared_s,
        "reason": None if gpu else "the profile is of a CPU",
    }


def failed_row(engine: str, batch: str, shape: tuple[int, int], reason: str) -> dict[str, Any]:
    """The same of an engine that could not do the steps, and why."""
    return {**dict.fromkeys(ENGINES), "engine": engine, "batch": batch, "rows": shape[0], "tokens": shape[1]} | {
        "reason": reason
    }


def operator_rows(engine: str, window: Window) -> list[dict[str, Any]]:
    """One row per operator, call of CUDA and phase of Python, and one of the idle GPU: together the window."""
    gpu = bool(window.kernels)
    return [
        {
            "engine": engine,
            "batch": window.name,
            "kind": row.kind,
            "operator": row.name,
            "calls": row.calls / window.steps if row.kind != "idle" else None,
            "self_cpu_ms": row.cpu_us / window.steps / 1000 if row.kind != "idle" else None,
            "self_cpu_share": row.cpu_us / window.us if row.kind != "idle" else None,
            "self_gpu_ms": row.gpu_us / window.steps / 1000 if gpu else None,
            "self_gpu_share": row.gpu_us / window.us if gpu else None,
        }
        for row in window.rows
    ]


def kernel_rows(engine: str, window: Window) -> list[dict[str, Any]]:
    """One row per kernel and kind of copy, longest first, and one of the idle GPU; none on a CPU."""
    if not window.kernels:
        return []
    found = {**window.kernels, IDLE: (None, window.us - window.busy_us)}
    return [
        {
            "engine": engine,
            "batch": window.name,
            "kernel": name,
            "calls": None if calls is None else calls / window.steps,
            "gpu_ms": us / window.steps / 1000,
            "gpu_share": us / window.us,
        }
        for name, (calls, us) in sorted(found.items(), key=lambda item: -item[1][1])
    ]

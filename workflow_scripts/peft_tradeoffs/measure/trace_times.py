"""Where the time of a trace's windows goes, from its events alone: operators, Python between them, kernels, idle GPU.

A window is an annotation that `window_name` names, on the thread that launches, from one moment at which the device has
nothing to do to another. On the CPU's side every moment of it belongs to one row: to the innermost operator or call of
CUDA that runs, on a thread of the backward pass first; to Python, by the annotation it is in, where none runs. On the
GPU's side to a kernel or copy, or to the row of the idle GPU. So the self times of either side sum to the window, but
for what runs at the same time twice.
"""

import bisect
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from peft_tradeoffs.measure.trace_format import CUDA_API, GPU_KINDS, Event

WINDOW = "window: "
STEP = "step"
PHASES = ("forward", "forward and backward")  # what profiling annotates within a step
OPTIMIZER = "Optimizer."  # what torch annotates: step, zero_grad
CPU_KINDS = {"cpu_op", "user_annotation", *CUDA_API}
LAUNCH = re.compile(r"Launch(Cooperative)?Kernel|GraphLaunch")
IDLE = "GPU idle"
NO_LAUNCH = "launched outside the window"
TOLERANCE = 0.05  # of the window: what self times may sum to beside it


@dataclass
class Row:
    """What an operator, a call of CUDA, or Python in one phase took in a window."""

    kind: str  # operator, CUDA call, Python, idle
    name: str
    calls: int = 0
    cpu_us: float = 0.0
    gpu_us: float = 0.0  # of the kernels and copies that it launched itself


@dataclass
class Window:
    """Times of one window, in µs."""

    name: str
    us: float
    steps: int
    rows: list[Row]  # by CPU time, longest first
    kernels: dict[str, tuple[int, float]] = field(default_factory=dict)  # calls and µs of each, copies too
    busy_us: float = 0.0  # in which the GPU had a kernel or a copy
    launches: int = 0  # calls that launch kernels or graphs
    launched: int = 0  # kernels that ran

    def sums(self) -> dict[str, float]:
        """Self times of either side as a share of the window: 1, or a little more where things overlap."""
        cpu, gpu = sum(row.cpu_us for row in self.rows), sum(row.gpu_us for row in self.rows)
        return {"cpu": cpu / self.us, **({"gpu": gpu / self.us} if self.kernels else {})}

    def problems(self) -> list[str]:
        """Sides whose self times do not sum to the window."""
        return [
            f"{self.name} batch: self times of the {side.upper()} sum to {share:.1%} of the window"
            for side, share in self.sums().items()
            if abs(share - 1) > TOLERANCE
        ]

    def cpu_share(self, kind: str) -> float:
        """Share of the window that rows of this kind take on the CPU's side."""
        return sum(row.cpu_us for row in self.rows if row.kind == kind) / self.us


@dataclass(eq=False)
class _Slice:
    start: float
    end: float
    event: Event

    @property
    def ours(self) -> bool:
        """Whether it annotates what no operator is."""
        name = self.event["name"]
        own = name == STEP or name in PHASES or name.startswith((WINDOW, OPTIMIZER))
        return own and self.event["cat"] == "user_annotation"


def windows(trace: dict[str, Any]) -> list[Window]:
    """The windows of a trace, in their order."""
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    marks = [event for event in events if event["name"].startswith(WINDOW) and event["cat"] == "user_annotation"]
    return [_window(mark, events) for mark in sorted(marks, key=lambda mark: mark["ts"])]


def _window(mark: Event, events: list[Event]) -> Window:
    start, end = mark["ts"], mark["ts"] + mark["dur"]
    threads: dict[tuple[Any, Any], list[_Slice]] = defaultdict(list)
    device: list[_Slice] = []
    for event in events:
        first, last = max(event["ts"], start), min(event["ts"] + event["dur"], end)
        if first > last or event["ts"] >= end:
            continue
        if event.get("cat") in GPU_KINDS:
            device.append(_Slice(first - start, last - start, event))
        elif event.get("cat") in CPU_KINDS and start <= event["ts"]:
            threads[event["pid"], event["tid"]].append(_Slice(first - start, last - start, event))
    rows: dict[tuple[str, str], Row] = {}
    owners: dict[int, tuple[str, str]] = {}  # rows by the correlation of the calls of CUDA in them
    main = mark["pid"], mark["tid"]
    pieces = {thread: _pieces(slices, rows, owners) for thread, slices in threads.items()}
    beside = _union(piece[:2] for thread, own in pieces.items() if thread != main for piece in own)
    for thread, own in pieces.items():
        for first, last, slice_ in own:
            row = _row(rows, slice_)
            # Python waits for the backward pass on another thread.
            row.cpu_us += last - first - (_covered(beside, first, last) if thread == main and slice_.ours else 0.0)
    steps = sum(slice_.event["name"] == STEP and slice_.ours for slice_ in threads[main])
    window = Window(mark["name"].removeprefix(WINDOW), mark["dur"], steps, [])
    if device:
        _add_device(window, device, rows, owners)
    calls = [slice_.event["name"] for own in threads.values() for slice_ in own if slice_.event["cat"] in CUDA_API]
    window.launches = sum(bool(LAUNCH.search(name)) for name in calls)
    window.rows = sorted(rows.values(), key=lambda row: -row.cpu_us)
    return window


def _add_device(
    window: Window, device: list[_Slice], rows: dict[tuple[str, str], Row], owners: dict[int, tuple[str, str]]
) -> None:
    """Count what the GPU did, for the rows that launched it too."""
    for slice_ in device:
        us, name = slice_.end - slice_.start, slice_.event["name"]
        calls, before = window.kernels.get(name, (0, 0.0))
        window.kernels[name] = (calls + 1, before + us)
        window.launched += slice_.event["cat"] == "kernel"
        key = owners.get(slice_.event.get("args", {}).get("correlation"), ("CUDA call", NO_LAUNCH))
        rows.setdefault(key, Row(*key)).gpu_us += us
    busy = _union((slice_.start, slice_.end) for slice_ in device)
    window.busy_us = sum(last - first for first, last in busy)
    rows["idle", IDLE] = Row("idle", IDLE, gpu_us=window.us - window.busy_us)


def _pieces(
    slices: list[_Slice], rows: dict[tuple[str, str], Row], owners: dict[int, tuple[str, str]]
) -> list[tuple[float, float, _Slice]]:
    """The thread's time in pieces, each of the innermost slice then; counts calls and who made the calls of CUDA."""
    pieces: list[tuple[float, float, _Slice]] = []
    stack: list[_Slice] = []
    at = 0.0

    def until(time: float) -> None:
        nonlocal at
        while stack and at < time:
            end = min(stack[-1].end, time)
            if end > at:
                pieces.append((at, end, stack[-1]))
                at = end
            if stack[-1].end <= time:
                stack.pop()
        at = max(at, time)

    for slice_ in sorted(slices, key=lambda slice_: (slice_.start, -slice_.end)):
        until(slice_.start)
        while stack and stack[-1].end <= slice_.start:
            stack.pop()
        if stack:
            slice_.end = min(slice_.end, stack[-1].end)  # clocks that differ
        # As torch counts: what an operator calls by its own name is no other call.
        _row(rows, slice_).calls += not (stack and stack[-1].event["name"] == slice_.event["name"])
        if slice_.event["cat"] in CUDA_API:
            caller = next((outer for outer in reversed(stack) if not outer.ours), slice_)
            owners[slice_.event.get("args", {}).get("correlation")] = _key(caller)
        stack.append(slice_)
    until(max((slice_.end for slice_ in slices), default=0.0))
    return pieces


def _key(slice_: _Slice) -> tuple[str, str]:
    name = slice_.event["name"]
    if slice_.ours:
        place = "between steps" if name.startswith(WINDOW) else name
        return "Python", "optimizer" if name.startswith(OPTIMIZER) else place
    return ("CUDA call" if slice_.event["cat"] in CUDA_API else "operator"), name


def _row(rows: dict[tuple[str, str], Row], slice_: _Slice) -> Row:
    key = _key(slice_)
    return rows.setdefault(key, Row(*key))


def _union(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Disjoint intervals that cover the same, sorted."""
    merged: list[tuple[float, float]] = []
    for first, last in sorted(intervals):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def _covered(intervals: list[tuple[float, float]], first: float, last: float) -> float:
    """How much of the time from `first` to `last` the disjoint sorted intervals cover."""
    index = max(0, bisect.bisect_right(intervals, (first, float("inf"))) - 1)
    covered = 0.0
    for start, end in intervals[index:]:
        if start >= last:
            break
        covered += max(0.0, min(end, last) - max(start, first))
    return covered

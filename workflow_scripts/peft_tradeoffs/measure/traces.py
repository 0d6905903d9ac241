"""Traces of training steps: read and checked, where their time goes, what memory holds, and the rows of a profile.

Traces are in the trace-event format ("Trace Event Format", Google, 2016), which Perfetto and chrome://tracing open; its
times are in µs.
"""

import bisect
import gzip
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft_tradeoffs.core.files import atomic

EVENT_PHASES = set("BEXiICbnestfPNODMVvRc")  # of events
FLOW = set("stf")
ROUNDED_US = 0.01  # times are written to the nanosecond, and stand in doubles of microseconds since the boot
# CUPTI puts the calls of CUDA on the CPU's clock by itself, so that one may seem to end after what called it.
CLOCKS_US = 5.0
CUDA_API = {"cuda_runtime", "cuda_driver"}  # categories of calls of CUDA
GPU_KINDS = {"kernel", "gpu_memcpy", "gpu_memset"}
SHOWN = 5  # problems of a kind

Event = dict[str, Any]


def read(path: Path) -> dict[str, Any]:
    """The trace in a .json or .json.gz file."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        trace: dict[str, Any] = json.load(file)
    return trace


def write(path: Path, trace: dict[str, Any]) -> None:
    """Write the trace as gzipped JSON, the same bytes for the same trace."""
    text = json.dumps(trace, separators=(",", ":")).encode()
    with atomic(path) as temporary:
        temporary.write_bytes(gzip.compress(text, mtime=0))


def with_overlaps_apart(trace: dict[str, Any]) -> dict[str, Any]:
    """The trace with what a GPU's stream began before it had ended what came first on a track of its own.

    A stream that replays a graph starts kernels some µs early, and no viewer shows slices of one track that cross.
    """
    streams: dict[tuple[Any, Any], list[Event]] = defaultdict(list)
    for event in trace["traceEvents"]:
        if event.get("ph") == "X" and event.get("cat") in GPU_KINDS and not _problem(event):
            streams[event["pid"], event["tid"]].append(event)
    tracks: dict[int, str] = {}  # by an event's identity
    arrows: dict[tuple[Any, Any, Any], str | None] = {}  # by where a flow ends: at the first event then
    added: dict[tuple[Any, str], Any] = {}
    for (pid, stream), own in streams.items():
        for event, track in _tracks(own):
            arrows.setdefault((pid, stream, event["ts"]), track)
            if track:
                tracks[id(event)] = track
                added[pid, track] = stream

    def moved(event: Event) -> Event:
        track = tracks.get(id(event))
        if event.get("ph") in FLOW:
            track = arrows.get((event.get("pid"), event.get("tid"), event.get("ts")))
        return {**event, "tid": track} if track else event

    named = []
    for (pid, track), stream in added.items():
        about = {"name": f"stream {track}", "sort_index": stream}
        for key in about:
            named.append({"ph": "M", "name": f"thread_{key}", "pid": pid, "tid": track, "args": {key: about[key]}})
    return {**trace, "traceEvents": [*map(moved, trace["traceEvents"]), *named]}


def _tracks(events: list[Event]) -> Iterator[tuple[Event, str | None]]:
    """Each event in the order of time with the track it fits on; None: the stream's own."""
    ends: list[float] = []  # of the last event on each track
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        track = next((i for i, last in enumerate(ends) if last <= event["ts"] + ROUNDED_US), len(ends))
        ends[track : track + 1] = [event["ts"] + event["dur"]]
        yield event, f"{event['tid']}, overlap {track}" if track else None


def problems(trace: Any) -> list[str]:
    """What keeps the trace from being shown as it was recorded; empty where nothing does.

    Every event has what the format asks for, and the complete events of a thread lie within one another or apart.
    """
    events = trace.get("traceEvents") if isinstance(trace, dict) else None
    if not isinstance(events, list) or not events:
        return ["no list of events under traceEvents"]
    found: dict[str, list[int]] = defaultdict(list)
    for index, event in enumerate(events):
        if problem := _problem(event):
            found[problem].append(index)
    said = [f"{problem}: event {_some(indices)}" for problem, indices in found.items()]
    return said + _not_nested([event for event in events if isinstance(event, dict) and not _problem(event)])


def _problem(event: Any) -> str | None:
    """What an event lacks."""
    if not isinstance(event, dict) or event.get("ph") not in EVENT_PHASES:
        return "no event of a known phase"
    if not isinstance(event.get("name"), str):
        return "no name"
    if event["ph"] == "M":
        return None if isinstance(event.get("args"), dict) else "metadata without args"
    if not all(isinstance(event.get(key), int | str) for key in ("pid", "tid")):
        return "no pid or tid"
    if not _is_time(event.get("ts")):
        return "no time"
    if event["ph"] == "X" and not (_is_time(event.get("dur")) and event["dur"] >= 0):
        return "no duration of a complete event"
    if event["ph"] in FLOW and "id" not in event:
        return "a flow without id"
    return None


def _not_nested(events: list[Event]) -> list[str]:
    threads: dict[tuple[Any, Any], list[Event]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            threads[event["pid"], event["tid"]].append(event)
    crossing: dict[tuple[Any, Any], list[str]] = defaultdict(list)
    for thread, own in threads.items():
        open_: list[tuple[float, Event]] = []  # ends
        for event in sorted(own, key=lambda event: (event["ts"], -event["dur"])):
            while open_ and open_[-1][0] <= event["ts"] + ROUNDED_US:
                open_.pop()
            end = event["ts"] + event["dur"]
            if open_:
                outer_end, outer = open_[-1]
                allowed = CLOCKS_US if {event.get("cat"), outer.get("cat")} & CUDA_API else ROUNDED_US
                if end > outer_end + allowed:
                    crossing[thread].append(f"{event['name']} ends {end - outer_end:.3f} µs after {outer['name']}")
            open_.append((end, event))
    return [
        f"thread {thread[1]} of process {thread[0]}: {len(cases)} events cross others: {'; '.join(cases[:SHOWN])}"
        for thread, cases in crossing.items()
    ]


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _some(indices: list[int]) -> str:
    text = ", ".join(map(str, indices[:SHOWN]))
    return text if len(indices) <= SHOWN else f"{text} and {len(indices) - SHOWN} more"


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
        name: str = self.event["name"]
        own = name == STEP or name in PHASES or name.startswith((WINDOW, OPTIMIZER))
        return own and bool(self.event["cat"] == "user_annotation")


def windows(trace: dict[str, Any]) -> list[Window]:
    """The windows of a trace, in their order.

    A window is an annotation whose name begins with WINDOW, on the thread that launches, from one moment at which the
    device has nothing to do to another. On the CPU's side every moment of it belongs to one row: to the innermost
    operator or call of CUDA that runs, on a thread of the backward pass first; to Python, by the annotation it is
    in, where none runs. On the GPU's side it belongs to a kernel or copy, or to the row of the idle GPU. So the
    self times of either side sum to the window, but for what runs at the same time twice.
    """
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


MIB = 2**20
CATEGORIES = ("weights", "optimizer", "gradients", "activations", "other")
COLUMNS = ("ms", "phase", *(f"{name}_MiB" for name in CATEGORIES), "total_MiB")
DEVICE_TYPES = {"cpu": 0, "cuda": 1}  # c10::DeviceType
FORWARD, BACKWARD = PHASES
OPTIMIZER_STEP = "Optimizer.step"  # as torch annotates it
BETWEEN = "between"  # the phases


@dataclass(frozen=True)
class Held:
    """Bytes allocated when the step begins, and where its gradients were: addresses when each backward pass ended."""

    weights: int
    optimizer: int
    total: int
    gradients: list[set[int]]


@dataclass
class _Block:
    address: int
    born: float  # µs
    died: float = float("inf")
    category: str = "other"


def timeline(trace: dict[str, Any], window: str, held: Held, device: str) -> list[dict[str, Any]]:
    """A row when the window begins and after every allocation and release in it, columns as in COLUMNS.

    `window` is the annotation's whole name; `device` is cpu or cuda. A block that the allocator gives within the step
    is a gradient if a parameter's gradient is stored in it when a backward pass has ended; an activation if a
    forward pass allocated it and it is still held when that pass ends; other if neither: temporaries, what gradient
    checkpointing computes again, data, what kernels work in. Weights and optimizer state are held throughout, by
    their tensors' sizes. The total on a GPU is what the allocator reports as allocated, and what of it no category
    explains is other. On a CPU torch does not know what was allocated before the trace, so the total is weights,
    optimizer state and data by their sizes, and the step's own allocations; it is not the process's resident set.
    """
    events = trace["traceEvents"]
    marks = [event for event in events if event.get("ph") == "X" and event.get("cat") == "user_annotation"]
    (mark,) = (event for event in marks if event["name"] == window)
    start, end = mark["ts"], mark["ts"] + mark["dur"]
    phases = _phases([event for event in marks if start <= event["ts"] < end])
    changes = [event for event in events if event["name"] == "[memory]" and start <= event["ts"] < end]
    changes = [event for event in changes if event["args"]["Device Type"] == DEVICE_TYPES[device]]
    changes.sort(key=lambda event: event["ts"])
    of_changes = _blocks(changes)
    blocks = [block for block in of_changes if block is not None]
    for block in blocks:
        if any(first <= block.born <= last < block.died for first, last in phases["forward"]):
            block.category = "activations"
    for (_, last), addresses in zip(phases["backward"], held.gradients, strict=True):
        for block in blocks:
            if block.address in addresses and block.born <= last < block.died:
                block.category = "gradients"

    sizes = {"weights": held.weights, "optimizer": held.optimizer, "gradients": 0, "activations": 0}
    total = held.total
    rows = [_moment(0.0, BETWEEN, sizes, total)]
    for event, changed in zip(changes, of_changes, strict=True):
        size, time = event["args"]["Bytes"], event["ts"]
        if changed is not None and changed.category in sizes:
            sizes[changed.category] += size
        total = event["args"]["Total Allocated"] if device == "cuda" else total + size
        phase = next((name for name, spans in phases.items() if any(a <= time <= b for a, b in spans)), BETWEEN)
        rows.append(_moment((time - start) / 1000, phase, sizes, total))
    return rows


def _phases(marks: list[Event]) -> dict[str, list[tuple[float, float]]]:
    """Spans of each phase of a step, in order; a forward pass lies within the backward one that needs it."""
    spans: dict[str, list[tuple[float, float]]] = {FORWARD: [], BACKWARD: [], OPTIMIZER_STEP: []}
    for mark in sorted(marks, key=lambda mark: mark["ts"]):
        name = next((name for name in spans if mark["name"] == name), None)
        if mark["name"].startswith(OPTIMIZER_STEP):
            name = OPTIMIZER_STEP
        if name:
            spans[name].append((mark["ts"], mark["ts"] + mark["dur"]))
    forward = spans[FORWARD]
    backward = [(min([a for a, _ in forward if first <= a], default=first), last) for first, last in spans[BACKWARD]]
    return {"forward": forward, "backward": backward, "optimizer": spans[OPTIMIZER_STEP]}


def _blocks(changes: list[Event]) -> list[_Block | None]:
    """The block that each allocation and release is of; None for one that was held before the step."""
    found: list[_Block | None] = []
    live: dict[int, _Block] = {}
    for event in changes:
        address = event["args"]["Addr"]
        if event["args"]["Bytes"] > 0:
            live[address] = _Block(address, event["ts"])
            found.append(live[address])
        else:
            block = live.pop(address, None)
            if block is not None:
                block.died = event["ts"]
            found.append(block)
    return found


def _moment(ms: float, phase: str, sizes: dict[str, int], total: int) -> dict[str, Any]:
    of = {**sizes, "other": total - sum(sizes.values())}
    return {
        "ms": ms,
        "phase": phase,
        **{f"{name}_MiB": of[name] / MIB for name in CATEGORIES},
        "total_MiB": total / MIB,
    }


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
    engine: str, window: Window, shape: tuple[int, ...], step_p50_ms: float, prepared_s: dict[str, float]
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


def failed_row(engine: str, batch: str, shape: tuple[int, ...], reason: str) -> dict[str, Any]:
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

"""Traces in the trace-event format, which Perfetto and chrome://tracing open: read, checked, written.

The format: "Trace Event Format" (Google, 2016). Times are in µs.
"""

import gzip
import json
import math
from collections import defaultdict
from collections.abc import Iterator
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
        return json.load(file)


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
    arrows: dict[tuple[Any, Any, float], str | None] = {}  # by where a flow ends: at the first event then
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

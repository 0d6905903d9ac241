"""What memory holds during one training step, by category, from the allocations that a trace records.

Every block that torch's allocator gives or takes back within the step is known by address, size and time. It is

- a gradient if, when a backward pass has ended, a parameter's gradient is stored in it;
- an activation if a forward pass allocated it and it is still held when that pass ends;
- other if neither: temporaries, what gradient checkpointing computes again, data, what kernels work in.

Weights and optimizer state are held throughout; their sizes are those of their tensors. The total on a GPU is what the
allocator itself reports as allocated, blocks rounded up as it does, and what of it no category explains is other. On a
CPU torch does not know what was allocated before the trace, so the total is weights, optimizer state and data
by their sizes, and the step's own allocations; it is not the process's resident set.
"""

from dataclasses import dataclass
from typing import Any

from peft_tradeoffs.measure.trace_format import Event
from peft_tradeoffs.measure.trace_times import PHASES

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

    `window` is the annotation's whole name; `device` is cpu or cuda.
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
    for event, block in zip(changes, of_changes, strict=True):
        size, time = event["args"]["Bytes"], event["ts"]
        if block is not None and block.category in sizes:
            sizes[block.category] += size
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

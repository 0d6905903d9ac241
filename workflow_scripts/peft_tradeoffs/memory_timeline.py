"""What memory holds during one training step, by category, from the allocations that a trace records.

Every block that torch's allocator gives or takes back within the step is known by address, size and time. It is

- a gradient if, when a backward pass has ended, a parameter's gradient is stored in it;
- an activation if a forward pass allocated it and it is still held when that pass ends;
- other if neither: temporaries, what gradient checkpointing computes again, data, what kernels work in.

Weights and optimizer state are held throughout; their sizes are those of their tensors. The total on a GPU is what the
allocator itself reports as allocated, blocks rounded up as it does, and what of it no category explains is other. On a
CPU torch does not know what was allocated before the trace, so the total is weights, optimizer state and training data
by their sizes, and the step's own allocations; it is not the process's resident set.
"""

from dataclasses import dataclass
from typing import Any

from peft_tradeoffs.trace_format import Event
from peft_tradeoffs.trace_times import PHASES

MIB = 2**20
CATEGORIES = ("weights", "optimizer", "gradients", "activations", "other")
COLUMNS = ("ms", "phase", *(f"{name}_MiB" for name in CATEGORIES), "total_MiB")
DEVICE_TYPES = {"cpu": 0, "cuda": 1}  # c10::DeviceType
FORWARD, BACKWARD = PHASES


@dataclass(frozen=True)
class Held:
    """Bytes allocated when the step begins, and where its gradients were: addresses when each backward pass ended."""

    weights: int
    optimizer: int
    total: int
    gradients: list[set[int]]


@dataclass
class _Block:
    bytes: int
    born: float  # µs
    died: float = float("inf")
    category: str = "other"


def timeline(trace: dict[str, Any], window: str, held: Held, device: str) -> list[dict[str, Any]]:
    """A row when the window begins and after every allocation and release in it, columns as in COLUMNS.

    `window` is the annotation's whole name; `device` is cpu or cuda.
    """
    events = trace["traceEvents"]
    (mark,) = (event for event in events if event.get("ph") == "X" and event["name"] == window and _annotates(event))
    start, end = mark["ts"], mark["ts"] + mark["dur"]
    marked = sorted(
        (event for event in events if event.get("ph") == "X" and _annotates(event) and start <= event["ts"] < end),
        key=lambda event: event["ts"],
    )
    forward, backward = ([_span(event) for event in marked if event["name"] == name] for name in (FORWARD, BACKWARD))
    optimizer = [_span(event) for event in marked if event["name"].startswith("Optimizer.step")]
    changes = sorted(
        (
            event
            for event in events
            if event["name"] == "[memory]" and start <= event["ts"] < end and _on(event, device)
        ),
        key=lambda event: event["ts"],
    )
    blocks = _blocks(changes)
    for block in blocks.values():
        if any(first <= block.born <= last < block.died for first, last in forward):
            block.category = "activations"
    for (_, last), addresses in zip(backward, held.gradients, strict=True):
        for (index, address), block in blocks.items():
            if address in addresses and block.born <= last < block.died and index >= 0:
                block.category = "gradients"

    sizes = {"weights": held.weights, "optimizer": held.optimizer, "gradients": 0, "activations": 0}
    total = held.total
    rows = [_row(0.0, "between", sizes, total)]
    live: dict[int, _Block] = {}
    for index, event in enumerate(changes):
        address, size = event["args"]["Addr"], event["args"]["Bytes"]
        if size > 0:
            block = live[address] = blocks[index, address]
        else:
            block = live.pop(address, None)  # None: held before the step
        if block is not None and block.category in sizes:
            sizes[block.category] += block.bytes if size > 0 else -block.bytes
        total = event["args"]["Total Allocated"] if device == "cuda" else total + size
        spans = {"forward": forward, "optimizer": optimizer, "backward": backward}  # forward lies within backward's
        time = event["ts"]
        phase = next((name for name, own in spans.items() if any(a <= time <= b for a, b in own)), "between")
        rows.append(_row((time - start) / 1000, phase, sizes, total))
    return rows


def peaks(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The highest total, MiB, and what it is made of."""
    top = max(rows, key=lambda row: row["total_MiB"])
    return {key: top[key] for key in COLUMNS if key.endswith("_MiB")}


def _blocks(changes: list[Event]) -> dict[tuple[int, int], _Block]:
    """Blocks allocated within the step, by the number of their event and their address."""
    blocks: dict[tuple[int, int], _Block] = {}
    live: dict[int, _Block] = {}
    for index, event in enumerate(changes):
        address, size = event["args"]["Addr"], event["args"]["Bytes"]
        if size > 0:
            live[address] = blocks[index, address] = _Block(size, event["ts"])
        elif address in live:
            live.pop(address).died = event["ts"]
    return blocks


def _row(ms: float, phase: str, sizes: dict[str, int], total: int) -> dict[str, Any]:
    of = {**sizes, "other": total - sum(sizes.values())}
    return {
        "ms": ms,
        "phase": phase,
        **{f"{name}_MiB": of[name] / MIB for name in CATEGORIES},
        "total_MiB": total / MIB,
    }


def _annotates(event: Event) -> bool:
    return event.get("cat") == "user_annotation"


def _span(event: Event) -> tuple[float, float]:
    return event["ts"], event["ts"] + event["dur"]


def _on(event: Event, device: str) -> bool:
    return event["args"]["Device Type"] == DEVICE_TYPES[device]

"""The largest batch whose peak memory stays under a cap. Cheap to import."""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_tradeoffs.core import code, files, seal
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.quantities import CAP, LARGEST, ROWS

STEP = 8  # rows computed at once are multiples of it from 8 on


@dataclass(frozen=True)
class Fit:
    """The largest batch under a cap: its size and peak (MiB), None where the smallest does not fit."""

    cap_MiB: float
    batch_size: int | None
    peak_MiB: float | None
    next_size: int | None  # the next larger one that was tried; None: none is larger
    next_peak_MiB: float | None  # None: out of memory


class KeptPeaks:
    """Peaks by batch size (MiB, None where memory ran out), each kept in a file as soon as it is measured."""

    def __init__(self, path: Path, conditions: dict[str, Any], measure: Callable[[int], float | None]) -> None:
        """`conditions` are all that decides a peak beside the size: under others the file at `path` says nothing."""
        self._path, self._fingerprint, self._measure = path, code.digest(conditions), measure
        self._known = {peak["batch_size"]: peak["peak_MiB"] for peak in self._kept()}

    def __call__(self, size: int) -> float | None:
        """The peak at a batch size, measured if it is not known."""
        if size not in self._known:
            self._known[size] = self._measure(size)
            files.write_json(self._path, seal.signed({"fingerprint": self._fingerprint, "peaks": self.known()}))
        return self._known[size]

    def _kept(self) -> list[dict[str, Any]]:
        """What the file holds of these conditions; a damaged one is reported, and all is measured again."""
        try:
            kept = seal.read_signed(self._path)
        except FileNotFoundError:
            return []
        except InputError as error:
            print(f"{error}; its peaks are measured again", file=sys.stderr, flush=True)
            return []
        return kept["peaks"] if kept["fingerprint"] == self._fingerprint else []

    def known(self) -> list[dict[str, Any]]:
        """All of them, ascending by size: batch_size, peak_MiB."""
        return [{"batch_size": size, "peak_MiB": self._known[size]} for size in sorted(self._known)]


def candidates(largest: int, rows: int, parts: int = 1) -> list[int]:
    """Batch sizes to try, ascending: `parts` times 1, 2, 4 and multiples of 8, up to `largest` and the training rows.

    Raises InputError where there is none.
    """
    most = min(largest, rows) // parts
    sizes = [parts * rows_at_once for rows_at_once in (1, 2, 4, *range(STEP, most + 1, STEP)) if rows_at_once <= most]
    if not sizes and rows < parts:
        raise InputError(f"{rows} training rows make no batch of {parts} parts; lower gradient_accumulation_steps")
    if not sizes:
        raise InputError(
            f"config key equal_memory.largest_batch_size: {largest} rows do not divide into the {parts} parts of "
            "training.gradient_accumulation_steps; raise it, or lower those"
        )
    return sizes


def ended_at(fit: Fit, largest: int, rows: int) -> str:
    """What kept the search from a larger batch: CAP, or the end of the sizes to try, which LARGEST or ROWS sets."""
    if fit.next_size is not None:
        return CAP
    return ROWS if rows < largest else LARGEST


def largest_batches(
    peak_MiB: Callable[[int], float | None], caps_MiB: Iterable[float], sizes: list[int], start: int
) -> list[Fit]:
    """The largest of `sizes` under each cap.

    `peak_MiB` measures a batch size, None where memory ran out; it is taken to grow with the size, and asked once a
    size. From the size nearest `start` the search doubles until one does not fit, then bisects: it ends after
    2 log2(n) measurements a cap at most.
    """
    known: dict[int, float | None] = {}

    def fits(place: int, cap: float) -> bool:
        size = sizes[place]
        if size not in known:
            known[size] = peak_MiB(size)
        return known[size] is not None and known[size] <= cap

    return [_largest(fits, cap, sizes, start, known) for cap in caps_MiB]


def _largest(
    fits: Callable[[int, float], bool], cap: float, sizes: list[int], start: int, known: dict[int, float | None]
) -> Fit:
    low, high = -1, len(sizes)  # what fits, what does not
    place = max((i for i, size in enumerate(sizes) if size <= start), default=0)
    while low < place < high:
        if fits(place, cap):
            low, larger = place, 2 * sizes[place]
            place = max((i for i, size in enumerate(sizes) if size <= larger), default=place)
        else:
            high = place
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle, cap):
            low = middle
        else:
            high = middle
    size, beyond = (sizes[place] if 0 <= place < len(sizes) else None for place in (low, high))
    return Fit(cap, size, known.get(size), beyond, known.get(beyond))


def scaled_rate(learning_rate: float, factor: float, rule: str) -> float:
    """The learning rate for a batch `factor` times as large, by a rule of `equal_memory.learning_rate_rule`.

    sqrt: Malladi et al., On the SDEs and Scaling Rules for Adaptive Gradient Algorithms, NeurIPS 2022.
    """
    return learning_rate * {"sqrt": factor**0.5, "linear": factor, "constant": 1.0}[rule]

"""The largest batch whose peak memory stays under a cap. Cheap to import."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

STEP = 8  # batch sizes from 8 on are multiples of it


@dataclass(frozen=True)
class Fit:
    """The largest batch under a cap: its size and peak (MiB), None where the smallest does not fit."""

    cap_MiB: float
    batch_size: int | None
    peak_MiB: float | None
    next_size: int | None  # the next larger one that was tried; None: none is larger
    next_peak_MiB: float | None  # None: out of memory


def candidates(largest: int, parts: int = 1) -> list[int]:
    """Batch sizes to try, ascending: 1, 2, 4, multiples of 8 up to `largest`; those that divide into `parts`."""
    sizes = [1, 2, 4, *range(STEP, largest + 1, STEP)]
    return [size for size in sizes if size <= largest and size % parts == 0]


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

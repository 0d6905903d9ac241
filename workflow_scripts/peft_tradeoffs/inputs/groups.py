"""Groups of rows that are not independent examples: read of a column or found in texts, and drawn whole."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peft_tradeoffs.core.errors import Faults
from peft_tradeoffs.inputs.data_files import Table
from peft_tradeoffs.tasks.classes import clean, encodable
from peft_tradeoffs.tasks.task import DEFAULT, TASKS

CONTAINED = "contained"  # the value of the configuration's key datasets.*.group that names no column
MODULE = "module"  # the column of docstrings that groups can be read of
GROUPS = "groups.parquet"  # beside dataset.json
WORD = re.compile(r"\w+")
REMEDY = "fill it in; a row that belongs to no other gets a value of its own"
ROUNDING = 1e-9  # so that no group is taken and put back for ever
LONG = 10  # words; as many in the same order are no coincidence
Words = tuple[str, ...]


@dataclass(frozen=True)
class Groups:
    """The groups of n rows. by: the column, or CONTAINED. index: [n] int64, alike in rows of one group."""

    by: str
    index: np.ndarray

    def take(self, indices: np.ndarray) -> "Groups":
        """Those of the rows with these indices ([k] int64)."""
        return Groups(self.by, self.index[indices])

    @property
    def count(self) -> int:
        """How many groups there are."""
        return len(np.unique(self.index))

    @property
    def largest(self) -> int:
        """Rows of the largest group."""
        return int(np.unique(self.index, return_counts=True)[1].max())


def columns_of(block: Mapping[str, Any]) -> list[str]:
    """The columns that are read of the source of a data set's block, each once; the label, if there is one, last."""
    group = block.get("group")
    own = [group] if group and group != CONTAINED else []
    own += [block["references"]] if block.get("references") else []
    reader = TASKS[block.get("task", DEFAULT)].reader
    if reader is None:
        before, last = list(block["text"]), block["label"]
    else:
        *before, last = reader.form("datasets.*", block).columns
    return list(dict.fromkeys([*before, *own, last]))


def needed_columns(block: Mapping[str, Any], split: str) -> list[str]:
    """Those of `columns_of` that a split's source must have: further references only where models answer rows of it."""
    answered = {*block["splits"], *(block.get("fractions") or {})} & {"test", "validation"}
    found = columns_of(block)
    if split in answered or (split == "train" and not answered <= set(block["splits"])):
        return found
    return [column for column in found if column != block.get("references")]


def of_column(tables: Mapping[str, Table], column: str, faults: Mapping[str, Faults]) -> dict[str, Groups]:
    """The groups of each table's rows, by split: rows with the same value are one group, in all tables.

    A value is compared as text, without outer spaces. An empty one, or none that could be a name, goes to `faults`.
    """
    ids: dict[str, int] = {}
    found = {}
    for split, table in tables.items():
        index = []
        for place, value in zip(table.places, table.columns[column], strict=True):
            if fault := _fault(value):
                faults[split].add(place, f"{fault} in {column!r}", REMEDY)
                continue
            index.append(ids.setdefault(clean(str(value)), len(ids)))
        found[split] = Groups(column, np.array(index, dtype=np.int64))
    return found


def _fault(value: Any) -> str:
    """What keeps a value from naming a group; "" where nothing does."""
    if value is None or value != value or (isinstance(value, str) and not clean(value)):
        return "no group"
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__}, which names no group,"
    return "" if encodable(str(value)) else "half of a surrogate pair"


def of_texts(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """The groups ([n] int64, from 0 in order of appearance) of n rows of one or two texts that repeat each other.

    Words are compared, without case and punctuation. Rows with the same words are one group. A text that is part of
    others, as whole words in a row, is in the group of these, if that is one; one of fewer than LONG words that is
    part of texts of several groups is what anybody says, and is a group with its repetitions. One of more joins them.
    Of two texts a row, rows with the same two are one group, and those that share one of LONG words or contain it.
    Time and memory grow with the number of words, not with that of pairs: SST-2's 67,349 rows take about a second.
    """
    rows = [tuple(_words(text) for text in own) for own in texts]
    of_row = {row: number for number, row in enumerate(dict.fromkeys(rows))}
    if all(len(row) == 1 for row in of_row):
        joined = _joined([row[0] for row in of_row])
    else:
        long = list(dict.fromkeys(words for row in of_row for words in row if len(words) >= LONG))
        groups = dict(zip(long, _joined(long).tolist(), strict=True))
        forest = _Forest(len(long) + len(of_row))
        for row, number in of_row.items():
            for words in row:
                if words in groups:
                    forest.join(groups[words], len(long) + number)
        joined = forest.roots()[len(long) :]
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(joined[of_row[row]], len(numbers)) for row in rows], dtype=np.int64)


def _words(text: str) -> Words:
    folded = clean(text).casefold()
    return tuple(WORD.findall(folded)) or (folded,)


class _Forest:
    """Sets of numbers below `size` that are joined."""

    def __init__(self, size: int) -> None:
        self.above = list(range(size))

    def root(self, number: int) -> int:
        while self.above[number] != number:
            self.above[number] = number = self.above[self.above[number]]
        return number

    def join(self, some: int, others: int) -> None:
        some, others = self.root(some), self.root(others)
        self.above[max(some, others)] = min(some, others)

    def roots(self) -> np.ndarray:
        return np.array([self.root(number) for number in range(len(self.above))], dtype=np.int64)


def _joined(texts: Sequence[Words]) -> np.ndarray:
    """The group ([n] int64) of n different texts, from the longest to the shortest."""
    around: dict[int, set[int]] = {}
    for inner, outer in _within(texts) if texts else ():
        around.setdefault(inner, set()).add(outer)
    forest = _Forest(len(texts))
    common: set[int] = set()
    for inner in sorted(around, key=lambda inner: (-len(texts[inner]), inner)):
        several = len({forest.root(outer) for outer in around[inner]}) > 1 or not common.isdisjoint(around[inner])
        if several and len(texts[inner]) < LONG:
            common.add(inner)
            continue
        for outer in around[inner]:
            forest.join(inner, outer)
    return forest.roots()


def _within(texts: Sequence[Words]) -> Iterator[tuple[int, int]]:
    """Pairs of different texts by their numbers, the first part of the second; all others follow from these.

    The places at which words stand are sorted by all that follows in the text, so those that begin alike are
    neighbours: what begins with a text stands behind it, and the texts that a place begins with form a stack.
    """
    ids: dict[str, int] = {}
    words = np.array([ids.setdefault(word, len(ids)) for text in texts for word in text], dtype=np.int32)
    sizes = np.array([len(text) for text in texts])
    starts = np.cumsum(sizes) - sizes
    owner = np.repeat(np.arange(len(texts)), sizes)
    content = words.tobytes()
    wide = words.itemsize
    begins, ends = (wide * starts).tolist(), (wide * (starts + sizes)).tolist()
    needles = [content[begin:end] for begin, end in zip(begins, ends, strict=True)]
    order = _sorted_places(words, starts, (starts + sizes)[owner])
    open_texts: list[int] = []
    for place, text in zip((wide * order).tolist(), owner[order].tolist(), strict=True):
        while open_texts and not content.startswith(needles[open_texts[-1]], place, ends[text]):
            open_texts.pop()
        if open_texts and open_texts[-1] != text:
            yield open_texts[-1], text
        if place == begins[text]:
            open_texts.append(text)


def _sorted_places(words: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Places ([w] int64) of `words` [w] sorted by the words from there to the end [w] of the text, by prefix doubling.

    Of places that are alike the one at which a text starts is first.
    """
    places, rank, step = np.arange(len(words)), words.astype(np.int64) + 1, 1
    longest = int((ends[starts] - starts).max())
    while step < longest:
        after = np.where(places + step < ends, rank[np.minimum(places + step, len(words) - 1)], 0)
        found, rank = np.unique(rank * (len(words) + 2) + after, return_inverse=True)
        if len(found) == len(words):
            break
        rank, step = rank + 1, 2 * step
    inside = np.ones(len(words), dtype=bool)
    inside[starts] = False
    return np.lexsort((inside, rank))


def independent_rows(groups: np.ndarray) -> float:
    """As how many independent rows n rows of these groups ([n]) count, at worst: where rows of one say the same."""
    sizes = np.unique(groups, return_counts=True)[1].astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def draw_groups(groups: np.ndarray, strata: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Which rows ([n] bool) are drawn: whole groups ([n] int), about `share` of the rows of each stratum ([n] int).

    In a seeded order each group is taken, or put back, if the strata together come nearer to their shares by it, until
    none does. Distances are squared and count by the size of the stratum, so that rare classes keep their share too.
    """
    numbers, group = np.unique(groups, return_inverse=True)
    kinds, stratum, totals = np.unique(strata, return_inverse=True, return_counts=True)
    pairs, counts = np.unique(group * len(kinds) + stratum, return_counts=True)
    rows_of: list[list[tuple[int, int]]] = [[] for _ in numbers]  # strata and rows of each group
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        rows_of[pair // len(kinds)].append((pair % len(kinds), count))
    missing = (share * totals).tolist()  # rows of each stratum
    taken = np.zeros(len(numbers), dtype=bool)
    order = np.random.default_rng(seed).permutation(len(numbers)).tolist()
    changed = True
    while changed:
        changed = False
        for number in order:
            sign = -1 if taken[number] else 1
            nearer = sum(count * (2 * sign * missing[kind] - count) / totals[kind] for kind, count in rows_of[number])
            if nearer > ROUNDING:
                changed, taken[number] = True, not taken[number]
                for kind, count in rows_of[number]:
                    missing[kind] -= sign * count
    return taken[group]

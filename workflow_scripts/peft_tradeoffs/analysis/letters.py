"""Which of several things can be told apart, as a compact letter display."""

import itertools
from collections.abc import Iterator
from string import ascii_letters

import numpy as np


def letter_display(different: np.ndarray) -> list[str]:
    """Letters of m things: two share a letter just where they are not `different` ([m, m] booleans, symmetric).

    Insert and absorb (Piepho, Journal of Computational and Graphical Statistics 13, 2004): all begin in one group; for
    each pair that differs, every group with both is replaced by two, without the one and without the other. A group is
    absorbed where each of its pairs is in another group too, and so are its members: one that is part of another always
    is. Groups are lettered in the order of their members, so give the best first: a to z, A to Z, then a2, b2 and so
    on, all with a blank between them.
    """
    size = len(different)
    groups = [frozenset(range(size))] if size else []
    for one, other in zip(*np.nonzero(np.triu(different, 1)), strict=True):
        split = [group for group in groups if {one, other} <= group]
        kept = [group for group in groups if not {one, other} <= group]
        groups = _absorbed({*kept, *(group - {gone} for group in split for gone in (one, other))}, size)
    ordered = sorted(groups, key=sorted)
    names = list(itertools.islice(_names(), len(ordered)))
    gap = "" if len(ordered) <= len(ascii_letters) else " "
    return [gap.join(name for name, group in zip(names, ordered, strict=True) if one in group) for one in range(size)]


def _absorbed(groups: set[frozenset[int]], size: int) -> list[frozenset[int]]:
    """The groups without those, the smallest first, whose every pair and member is in another one."""
    ordered = sorted(groups, key=lambda group: (len(group), sorted(group)))
    together = np.zeros((size, size), dtype=int)  # in how many groups a pair, or on the diagonal a member, is
    for group in ordered:
        together[_pairs(group)] += 1
    kept = []
    for group in ordered:
        pairs = _pairs(group)
        if together[pairs].min() > 1:
            together[pairs] -= 1
        else:
            kept.append(group)
    return kept


def _pairs(group: frozenset[int]) -> tuple[np.ndarray, ...]:
    members = np.fromiter(group, dtype=int)
    return np.ix_(members, members)


def _names() -> Iterator[str]:
    yield from ascii_letters
    for turn in itertools.count(2):
        yield from (f"{letter}{turn}" for letter in ascii_letters)

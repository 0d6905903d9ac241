"""The compact letter display: two arms share a letter just where they cannot be told apart."""

import itertools

import numpy as np
import pytest
from peft_tradeoffs.analysis.stats import letter_display


def matrix(size: int, *pairs: tuple[int, int]) -> np.ndarray:
    """Which of `size` things, counted from 0, differ."""
    different = np.zeros((size, size), dtype=bool)
    for one, other in pairs:
        different[one, other] = different[other, one] = True
    return different


@pytest.mark.parametrize(
    ("different", "letters"),
    [
        (matrix(1), ["a"]),
        (matrix(3), ["a", "a", "a"]),
        (matrix(2, (0, 1)), ["a", "b"]),
        (matrix(3, (0, 1), (0, 2), (1, 2)), ["a", "b", "c"]),
        # the first is better than the last alone: the one between goes with both
        (matrix(3, (0, 2)), ["a", "ab", "b"]),
        # ends of a scale: 0 and 1 against 3 and 4
        (matrix(5, (0, 3), (0, 4), (1, 4)), ["a", "ab", "abc", "bc", "c"]),
        # no order explains this one: 1 differs from both others, which do not differ
        (matrix(3, (0, 1), (1, 2)), ["a", "b", "a"]),
        # a square: each shares a letter with its two neighbours
        (matrix(4, (0, 2), (1, 3)), ["ab", "ac", "cd", "bd"]),
    ],
)
def test_letters_by_hand(different, letters):
    assert letter_display(different) == letters


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("size", [6, 40])
def test_letters_say_neither_more_nor_less_than_the_tests(size, share):
    random = np.random.default_rng(size)
    different = np.triu(random.random((size, size)) < share, 1)
    different |= different.T
    display = letter_display(different)
    blanks = any(" " in letters for letters in display)
    letters = [set(text.split(" ") if blanks else text) for text in display]
    assert all(letters)
    for one, other in itertools.combinations(range(size), 2):
        assert bool(letters[one] & letters[other]) != different[one, other], (one, other)


def test_no_letter_can_be_left_out():
    """Each group holds a pair, or a member, that no other one holds."""
    random = np.random.default_rng(1)
    for _ in range(50):
        different = np.triu(random.random((8, 8)) < 0.3, 1)
        different |= different.T
        groups = {}
        for one, letters in enumerate(letter_display(different)):
            for letter in letters:
                groups.setdefault(letter, set()).add(one)
        for letter, group in groups.items():
            rest = [other for name, other in groups.items() if name != letter]
            pairs = [{one, other} for one in group for other in group]
            assert not all(any(pair <= other for other in rest) for pair in pairs)


def test_many_groups_are_still_told_apart():
    """Triples that differ among themselves: 3^13 largest groups, of which a few dozen say it all."""
    different = np.kron(np.eye(13), np.ones((3, 3))) > 0
    np.fill_diagonal(different, False)
    assert len({letter for text in letter_display(different) for letter in text}) < 52
    sixty = letter_display(~np.eye(60, dtype=bool))
    assert len(set(sixty)) == 60 and sixty[0] == "a" and sixty[52] == "a2"

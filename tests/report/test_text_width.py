"""Text is broken and cut by its width."""

import pytest
from peft_tradeoffs.report.style import shorten, widest, width, wrap


@pytest.mark.parametrize(
    "text", ["some words of a note", "a_name-with/places_to_break", "anamewithoutaplacetobreakit", "i"]
)
@pytest.mark.parametrize("room", [0.3, 0.7, 5.0])
def test_lines_fit_and_nothing_is_lost(text, room):
    lines = wrap(text, room, 7)
    assert widest(lines, 7) <= room
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert len(lines) == 1 or width(text, 7) > room


def test_names_break_where_they_may():
    assert wrap("query_and_value", width("query_and_", 7), 7) == ["query_and_", "value"]
    assert wrap("", 1.0, 7) == []


def test_a_cut_text_says_so():
    assert shorten("short", 1.0, 7) == "short"
    cut = shorten("out of memory in train, 4 runs", width("out of memory in train, …", 7), 7)
    assert cut == "out of memory in train …"

"""Splits that share rows: the same under any name is an error, single rows are reported with their share."""

import numpy as np
import pytest
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.data_files import Table
from peft_tradeoffs.inputs.splits import Split, check_distinct, contradictions, overlap_warnings, share


def split(texts, labels=None) -> Split:
    texts = [text if isinstance(text, tuple) else (text,) for text in texts]
    labels = [i % 2 for i in range(len(texts))] if labels is None else labels
    return Split(texts, np.array(labels), np.arange(len(texts)))


def tables(splits: dict[str, Split]) -> tuple[dict[str, Table], list[str]]:
    """Tables that these are the rows of, and their text columns."""
    made = {}
    for name, part in splits.items():
        columns = {str(i): [texts[i] for texts in part.texts] for i in range(len(part.texts[0]))}
        made[name] = Table(f"T.{name}", columns, range(len(part.texts)), "line")
    return made, list(columns)


ROWS = [f"row {i}" for i in range(8)]
SAME = {
    "test is train": ({"train": split(ROWS), "test": split(ROWS)}, "test (T.test) and train (T.train) have the same 8"),
    "in another order": (
        {"train": split(ROWS), "test": split(ROWS[::-1])},
        "have the same 8 texts (the first is 'row 7')",
    ),
    "with other labels": ({"train": split(ROWS), "test": split(ROWS, [1] * 4 + [0] * 4)}, "have the same 8 texts"),
    "validation is test": (
        {"train": split("abcd"), "validation": split(ROWS), "test": split(ROWS)},
        "test (T.test) and validation (T.validation) have the same 8 texts",
    ),
    "heldout is train": (
        {"train": split(ROWS), "test": split("abcd"), "heldout": split(ROWS)},
        "heldout (T.heldout) and train (T.train) have the same 8 texts",
    ),
    "each row twice": ({"train": split(ROWS), "test": split([*ROWS, *ROWS])}, "have the same 8 texts"),
    "pairs": (
        {"train": split([("a", "b"), ("c", "d")]), "test": split([("c", "d"), ("a", "b")], [1, 0])},
        "have the same 2 texts",
    ),
}


@pytest.mark.parametrize("case", SAME)
def test_splits_that_are_the_same(case):
    splits, message = SAME[case]
    with pytest.raises(InputError) as raised:
        check_distinct(*tables(splits))
    assert message in str(raised.value)


HARDLY_OTHER = {
    "case": [row.title() for row in ROWS],
    "spaces": [f" {row}\u00a0" for row in ROWS],
    "invisible signs": [row.replace(" ", "\u200b \u00ad") for row in ROWS],
}


@pytest.mark.parametrize("case", HARDLY_OTHER)
def test_splits_that_are_the_same_to_a_reader(case):
    made = tables({"train": split(ROWS), "test": split(HARDLY_OTHER[case])})
    with pytest.raises(InputError, match=r"have the same 8 texts .* but for case, spaces or the Unicode form; name"):
        check_distinct(*made)


APART = {
    "other rows": ({"train": split(ROWS), "test": split("abcd")}, []),
    "a repeated row": (
        {"train": split(["a", "a", "b"]), "test": split(["c", "a", "d"])},
        ["1 of 3 test rows (33 %) has"],
    ),
    "all texts, but other labels": (
        {"train": split(ROWS), "test": split(ROWS[:2], [1, 0])},
        ["2 of 2 test rows (100 %) have the text of a training row; this split shows nothing that is new"],
    ),
    "test is part of train": (
        {"train": split(ROWS), "test": split(ROWS[2:6])},
        ["4 of 4 test rows (100 %) have the text of a training row; this split shows nothing that is new"],
    ),
    "train is part of test": (
        {"train": split(ROWS[:4]), "test": split(ROWS)},
        ["4 of 8 test rows (50 %) have the text of a training row."],
    ),
    "the other way round": ({"train": split([("a", "b"), ("c", "d")]), "test": split([("b", "a"), ("d", "c")])}, []),
    "case and spaces": (
        {"train": split(ROWS), "test": split(["Row 1", "row  2", "x", "y"])},
        ["2 of 4 test rows (50 %) have the text of a training row but for case, spaces or the Unicode form."],
    ),
    "some so and some so": (
        {"train": split([*ROWS, "caf\u00e9"]), "test": split(["row 1", "cafe\u0301", "x", "y"])},
        [
            "1 of 4 test rows (25 %) has the text of a training row; 2 (50 %) if case, spaces or the Unicode form "
            "does not count."
        ],
    ),
    "each split": (
        {
            "train": split(ROWS),
            "validation": split(["row 1", "x"]),
            "test": split(["x", "y"]),
            "heldout": split(["row 2", "y"]),
        },
        [
            "1 of 2 validation rows (50 %) has the text of a training row.",
            "1 of 2 heldout rows (50 %) has the text of a training row.",
            "1 of 2 test rows (50 %) has the text of a validation row.",
            "1 of 2 heldout rows (50 %) has the text of a test row.",
        ],
    ),
    "heldout rows in test": (
        {"train": split("ab"), "test": split("cdefg"), "heldout": split("hcD")},
        ["1 of 3 heldout rows (33 %) has the text of a test row; 2 (67 %) if case"],
    ),
    "heldout is part of test": (
        {"train": split("ab"), "validation": split("xy"), "test": split("cdef"), "heldout": split("cd")},
        ["2 of 2 heldout rows (100 %) have the text of a test row; this split is no second test."],
    ),
    "heldout rows in validation": (
        {"train": split("ab"), "validation": split("cde"), "test": split("fg"), "heldout": split("hcd")},
        ["2 of 3 heldout rows (67 %) have the text of a validation row."],
    ),
    "invisible signs": (
        {"train": split(ROWS), "test": split(["row\u200b 1", "x"])},
        ["1 of 2 test rows (50 %) has the text of a training row but for case"],
    ),
}


@pytest.mark.parametrize("case", APART)
def test_single_rows_are_reported(case):
    splits, said = APART[case]
    check_distinct(*tables(splits))
    warnings = overlap_warnings(splits)
    assert len(warnings) == len(said)
    assert all(warning.startswith(one) for warning, one in zip(warnings, said, strict=True)), warnings


def test_share():
    shares = [share(part, 10_000) for part in (1, 12, 99, 5000, 9960, 9999, 10_000)]
    assert shares == ["below 0.1 %", "0.1 %", "1.0 %", "50 %", "99.6 %", "99.9 %", "100 %"]


def contradicted(splits: dict[str, Split], names: list[str] | None = None) -> list[str]:
    return contradictions(splits, names, tables(splits)[0])


def test_a_text_with_two_labels():
    splits = {"train": split(["a", "b", "a", "c", "A "], [0, 1, 1, 0, 1]), "test": split("xy")}
    assert contradicted(splits, ["neg", "pos"]) == [
        "3 of 5 train rows (60 %) have the text of another train row, and these have different labels, as 'neg' and "
        "'pos' in T.train, lines 0, 2 ('a')."
    ]


def test_texts_with_two_labels_in_each_split_and_in_pairs():
    splits = {
        "train": split([("a", "b"), ("b", "a"), ("a", "c")], [0, 1, 1]),
        "test": split([("a", "b"), ("q", "r"), ("a", "b"), ("Q", "R")], [1, 0, 0, 0]),
    }
    (said,) = contradicted(splits, ["no", "yes"])
    assert said.startswith("2 of 4 test rows (50 %) have the text of another test row") and "T.test, lines 2, 0" in said


def test_a_text_that_has_its_label_again_is_none():
    assert contradicted({"train": split(["a", "a", "b", "B"], [0, 0, 1, 1]), "test": split("xy")}, ["n", "p"]) == []


def test_a_carved_split_names_the_lines_of_train():
    part = Split([("a",), ("a",), ("b",)], np.array([0, 1, 1]), np.array([7, 3, 4]))
    splits = {"train": split([f"t{i}" for i in range(8)]), "test": part}
    made = tables({"train": split(ROWS)})[0]
    assert "T.train, lines 7, 3 ('a')" in contradictions(splits, ["n", "p"], made)[0]


def test_values_of_one_text_may_differ_by_what_people_differ():
    values = [0.0, 5.0, 2.0, 2.5, 3.0]
    alike = {"train": split(["a", "b", "c", "C", "c"], values), "test": split("xy", [0.0, 1.0])}
    assert contradicted(alike) == []
    apart = {"train": split(["a", "b", "c", "C", "a"], values), "test": split("xy", [0.0, 1.0])}
    assert contradicted(apart) == [
        "2 of 5 train rows (40 %) have the text of another train row, and these have labels more than a standard "
        "deviation (1.61) apart, as 0 and 3 in T.train, lines 0, 4 ('a')."
    ]

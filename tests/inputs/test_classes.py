"""Labels in several spellings: one class where that is certain, a warning elsewhere, missing among numbers."""

import re

import pytest
import tiny
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.data_files import Table

OTHER = object()  # the test split has the labels of train


def classes(train: list, test=OTHER, declared=None, **settings) -> tuple[list[str] | None, list[list], list[str]]:
    """The names, each split's labels, and the warnings."""
    tables = {}
    for split, labels in (("train", train), ("test", train if test is OTHER else test)):
        columns = {"text": [f"{split} {i}" for i in range(len(labels))], "label": labels}
        tables[split] = Table(f"{split}.csv", columns, range(2, len(labels) + 2), "line", declared)
    warnings: list[str] = []
    splits, names = tiny.splits(tables, warnings=warnings, **settings)
    return names, [split.labels.tolist() for split in splits.values()], warnings


ONE = {
    "a fraction of nothing": (["0", "1", "0.0", "1.0"], ["0", "1"], [0, 1, 0, 1], "the same number and one class, '0'"),
    "signs and exponents": (
        ["+1", "-0", "1e0", "0"],
        ["+1", "0"],
        [0, 1, 0, 1],
        r"the same number and one class, '\+1'",
    ),
    "half points": (["2.5", "3", "2.50", "3"], ["2.5", "3"], [0, 1, 0, 1], "('2.50'|'2.5') .* the same number"),
    "a text among numbers": (["1", "x", "1.0", "x"], ["1", "x"], [0, 1, 0, 1], "'1.0' .2 rows. are the same number"),
    "numbers as JSON has them": ([1, "1.0", 0, "0"], ["0", "1"], [1, 1, 0, 0], "'1' .2 rows. and '1.0' .2 rows. are"),
    "thirty digits": (["9" * 30, "9" * 29 + "8", "9" * 30 + ".0", "9" * 30], None, [1, 0, 1, 1], "the same number"),
    "booleans": (["True", "false", "true", "True"], ["True", "false"], [0, 1, 0, 0], "the same boolean and one class"),
    "booleans as JSON has them": ([True, "true", False, True], ["False", "True"], [1, 1, 0, 1], "the same boolean"),
    "composed letters": (["café", "cafe\u0301", "x", "x"], ["café", "x"], [0, 0, 1, 1], r"'cafe\\u0301' .* 'café'"),
    "zero width": (["pos", "pos\u200b", "neg", "neg"], ["neg", "pos"], [1, 1, 0, 0], r"'pos\\u200b' .* 'pos'\."),
    "byte order mark": (["pos", "\ufeffpos", "neg", "neg"], ["neg", "pos"], [1, 1, 0, 0], "the same text but for"),
    "soft hyphen": (["posi\u00adtive", "positive", "x", "x"], ["positive", "x"], [0, 0, 1, 1], "the same text but for"),
    "bidi marks": (["\u200epos\u200f", "pos", "neg", "neg"], ["neg", "pos"], [1, 1, 0, 0], "the same text but for"),
}


@pytest.mark.parametrize("case", ONE)
def test_one_class_where_it_is_certain(case):
    labels, names, indices, message = ONE[case]
    found, splits, warnings = classes(labels)
    assert found == (names or found)
    assert splits == [indices, indices]
    assert len(warnings) >= 1
    assert re.search(message, " ".join(warnings)), warnings


def test_a_test_file_of_another_tool_has_the_classes_of_train():
    names, splits, warnings = classes(["0", "1", "0", "1"], ["1.0", "0.0", "1.0"])
    assert (names, splits[1]) == (["0", "1"], [1, 0, 1])
    assert warnings[0] == "The labels '0' (2 rows) and '0.0' (1 row) are the same number and one class, '0'."
    assert classes(["true", "false"] * 2, [True, False])[1][1] == [1, 0]


@pytest.mark.parametrize("labels", [["pos", "neg", "pos ", "\xa0neg"], [0, "0", 1.0, 1], ["a\u200db", "ab c"] * 2])
def test_what_was_one_class_before_is_no_warning(labels):
    assert classes(labels)[2] == []


TWO = {
    "case": (["Pos", "pos", "neg"], "'Pos' (4 rows) and 'pos' (4 rows) differ in case alone; they are two classes."),
    "three of them": (["pos", "Pos", "POS"], "differ in case alone; they are three classes."),
    "inner spaces": (["very good", "very  good", "x"], "differ in spaces alone"),
    "full width": (["ｐｏｓ", "pos", "x"], "differ in the width of their letters alone"),
    "leading zeros": (["007", "7", "8"], "'007' (4 rows) and '7' (4 rows) differ in leading zeros alone"),
    "versions": (["1.1", "1.9", "1.10"], "'1.1' (4 rows) and '1.10' (4 rows) differ in zeros at the end alone"),
    "a boolean and a number": ([True, 1, 0], "'1' (4 rows) and 'True' (4 rows) may be one value"),
    "a full stop": (["pos", "pos.", "x"], "differ in the punctuation at their end alone"),
    "an exclamation mark": (["no", "no!", "x"], "'no' (4 rows) and 'no!' (4 rows) differ in the punctuation at their"),
    "case and a question mark": (["No", "no?", "x"], "look alike; they are two classes"),
    "hyphens": (["semi-final", "semi_final", "x"], "differ in hyphens, underscores and spaces alone"),
    "Cyrillic": (["p\u043es", "pos", "x"], r"'p\u043es' (4 rows) differ in letters or signs that look the same"),
    "spaces before a sign": (["10 %", "10%", "x"], "differ in spaces alone"),
    "apostrophes": (["don\u2019t", "don't", "x"], "differ in letters or signs that look the same"),
    "quotes": (['"pos"', "pos", "x"], "differ in quotes around them alone"),
    "several": (["Very Good", "very-good", "x"], "look alike; they are two classes"),
    "what UCI writes": (["1", "2", "?"], "The label '?' (4 rows) may stand for a missing value; it is a class."),
    "what MySQL writes": (["a", "b", r"\N"], r"The label '\\N' (4 rows) may stand for a missing value; it is a class."),
    "minus one": (["0", "1", "-1"], "The label '-1' (4 rows) may stand for a missing value; it is a class."),
    "minus one as JSON has it": ([1, 2, -1.0], "The label '-1' (4 rows) may stand for a missing value; it is a class."),
    "what questionnaires write": (["1", "2", "99"], "The label '99' (4 rows) may stand for a missing value"),
    "not a number": (
        ["nan", "mild", "severe"],
        "The label 'nan' (4 rows) may stand for a missing value; it is a class.",
    ),
}


@pytest.mark.parametrize("case", TWO)
def test_a_warning_where_labels_look_alike(case):
    labels, message = TWO[case]
    names, _, warnings = classes(labels * 2)
    assert len(names) == 3
    assert len(warnings) == 1
    assert message in warnings[0]


def test_many_warnings_are_counted():
    warnings = classes(list("aAbBcCdDeEfFgG") * 2)[2]
    assert len(warnings) == 6
    assert warnings[-1] == "2 more groups of labels look alike."


FLAGS = ["🏴\U000e0067\U000e0062\U000e0065\U000e006e", "🏴\U000e0067\U000e0062\U000e0073"]  # two countries' tags
PLAIN = [["none", "mild", "severe"], ["A", "A+", "A-"], ["C", "C++", "C#"], ["+", "-", "?"], [":)", ":("]]
PLAIN += [["0", "5", "-1"], ["-2", "-1", "0", "1"], ["x", "0", "-1"], [str(i) for i in range(100)]]
PLAIN += [["1000", "1e3", "x"], ["-1", "1"], ["NA", "EU"], FLAGS]


@pytest.mark.parametrize("labels", PLAIN)
def test_labels_that_are_what_they_seem(labels):
    names, _, warnings = classes(labels * 2)
    assert set(names) == set(labels)
    assert warnings == []


def test_the_classes_that_a_source_fixes_stay():
    names, _, warnings = classes(["1", "1.0", "Yes", "yes"] * 2, declared=["yes", "Yes", "1.0", "1"])
    assert names == ["yes", "Yes", "1.0", "1"]
    assert "differ in case alone" in " ".join(warnings)


MISSING = {
    "nan": (["0", "1", "nan", "0"], "train.csv, line 4: no 'label' ('nan' among numbers is a missing value)"),
    "NA and an empty cell": (
        ["0", "NA", "", "1"],
        "line 4: no 'label'; also train.csv, line 3: no 'label' ('NA' among",
    ),
    "None of numbers": ([1, 0, "None", 1], "line 4: no 'label' ('None' among numbers"),
    "NaN of booleans": (["True", "False", "NaN", "True"], "line 4: no 'label' ('NaN' among"),
    "invisible": (["a", "b", "\u200b", "a"], "line 4: no 'label'; fill in or remove"),
}


@pytest.mark.parametrize("case", MISSING)
def test_missing_labels(case):
    labels, message = MISSING[case]
    with pytest.raises(InputError) as raised:
        classes(labels)
    assert message in str(raised.value)


@pytest.mark.parametrize("others", [["true", "false"], ["1", "2"], [True, False]])
def test_none_is_a_class_that_is_told_of_and_none_of_python_is_missing(others):
    _, _, said = classes([*others, "none"] * 2)
    assert said == ["The label 'none' (4 rows) may stand for a missing value; it is a class."]
    kind = "numbers" if others == ["1", "2"] else "booleans"
    with pytest.raises(InputError, match=rf"'None' among {kind} is a missing value"):
        classes([*others, "None"] * 2)


def test_missing_labels_of_test_alone():
    with pytest.raises(InputError, match=r"^test\.csv, line 3: no 'label' \('nan' among numbers is a missing value\)"):
        classes(["0", "1"] * 2, ["0", "nan", "1"])


def test_all_that_is_wrong_is_listed_at_once():
    with pytest.raises(InputError) as raised:
        classes(["x", "", "y", "\ud800"], ["x", "X", "z", "z", "y"])
    assert str(raised.value) == (
        "train.csv, line 3: no 'label'; fill in or remove; also train.csv, line 5: 'label' has half of a surrogate "
        "pair; correct the escapes; also test.csv, line 3: 'label' is 'X', which no training row has (did you mean "
        "'x'?); also test.csv, lines 4, 5: 'label' is 'z', which no training row has; training rows have x, y; correct "
        "it or add training rows"
    )


def test_bad_targets_are_listed():
    with pytest.raises(InputError) as raised:
        classes(["1", "2,5", "x", "1e999", "y"], ["1", "2"], task="regression")
    assert str(raised.value) == (
        "train.csv, line 3: 'label' is '2,5', not a number; write decimals with a point, and nothing between "
        "thousands; also train.csv, line 4: 'label' is 'x', not a number; correct it, or set `task: classification`; "
        "also train.csv, line 5: 'label' is 1e999, not a finite number; correct or remove it; also train.csv, line 6: "
        "'label' is 'y', not a number; correct it, or set `task: classification`"
    )
    with pytest.raises(InputError, match="line 3: 'label' is a number too large for a float"):
        classes([1, 10**400, 2], task="regression")
    assert classes(["1\u200b", " 2.5"], ["3", "4"], task="regression")[1] == [[1, 2.5], [3, 4]]


RARE = {  # train, test, what is said
    "an entity": (["r&d", "r&amp;d", "x"], ["r&d", "x"], "The class 'r&amp;d' has 2 training rows and no test row; it"),
    "mojibake": (["café", "cafÃ©", "x"], ["café", "x"], "The class 'cafÃ©' has 2 training rows and no test row; it"),
    "short for it": (["yes", "y", "no"], ["yes", "no"], "The class 'y' has 2 training rows and no test row; it may be"),
}


@pytest.mark.parametrize("case", RARE)
def test_a_class_that_no_test_row_has(case):
    train, test, message = RARE[case]
    names, _, warnings = classes(train * 2, test)
    assert set(names) == set(train)
    assert len(warnings) == 1 and warnings[0].startswith(message), warnings
    assert warnings[0].endswith("it may be another class misspelt.")


def test_a_class_of_a_single_training_row():
    assert classes(["x", "y", "z"] * 4 + ["w"], ["w", "w", "x", "y", "z"])[2] == [
        "The class 'w' has 1 training row and 2 test rows; it may be another class misspelt."
    ]
    assert classes(["x", "y"] * 4 + ["w"], ["x", "y"])[2] == [
        "The class 'w' has 1 training row and no test row; it may be another class misspelt."
    ]
    assert classes(["x", "y"] * 2, ["x", "y"])[2] == []


def test_many_rare_classes_are_one_line():
    rare = [f"c{i}" for i in range(9)]
    (said,) = classes(["x", "y"] * 20 + rare[:7] + rare[7:] * 3, ["x", "y", "c0", "c0"])[2]
    assert said == (
        "9 classes have no test row or a single training row: 'c0' (1 training row, 2 test rows), 'c1' (1 training "
        "row, no test row), 'c2' (1 training row, no test row), 'c3' (1 training row, no test row), 'c4' (1 training "
        "row, no test row) and 4 more; they may be other classes misspelt."
    )


def test_a_limit_counts_what_is_left():
    labels = [c for c in "abc" for _ in range(10)]
    assert classes(labels, ["a", "b", "c"], limit={"train": 3})[2][0].startswith(
        "3 classes have no test row or a single"
    )
    assert classes(labels, ["a", "b", "c"], limit={"train": 9})[2] == []


def test_targets_have_no_classes():
    assert classes([0.5, 1, 2], [0.5, 1.5], task="regression")[2] == []


def targets(train: list, test: list, **settings) -> list[str]:
    return classes(train, test, task="regression", **settings)[2]


TENTHS = [i / 10 for i in range(30)]


@pytest.mark.parametrize("value", [-1, -99, -999, -9999, 9999])
def test_targets_that_may_be_missing(value):
    said = "stands apart from the others, 0 to 2.9; it may stand for a missing value and is a number here."
    train = [*TENTHS[:3], value, *TENTHS[3:], str(value)]
    assert targets(train, TENTHS[::4]) == [f"The target {value} (2 rows, the first is train.csv, line 5) {said}"]
    assert targets(TENTHS, [*TENTHS[::4], value]) == [
        f"The target {value} (1 row, the first is test.csv, line 10) {said}"
    ]


@pytest.mark.parametrize(
    "values",
    [
        [-1, 0, 1],
        [-1, -0.4, 0.3, 1],
        [-1, 0.5, -3, 7],
        [0, 40, 99, 101],
        [20, 9999, 8000, 12000],
        [-999, -500, 20],
        [-1, 1],
        [1e308, -1e308, 0],
    ],
)
def test_targets_that_are_what_they_seem(values):
    assert targets(values * 4, values * 3) == []


def test_targets_of_another_unit():
    assert targets(TENTHS, [100 * i for i in range(8)]) == [
        "The targets of test are 0 to 700 and those of train 0 to 2.9; convert them if they are in different units."
    ]
    assert len(targets([1000 * i for i in TENTHS], TENTHS)) == 1
    assert targets(TENTHS, [36.5, 40])[0].startswith("The targets of test are 36.5 to 40 and those of train 0 to 2.9")
    assert targets([*TENTHS, -999, -999], [100 * i for i in range(8)])[1].startswith("The targets of test are 0 to 700")


def test_targets_of_the_same_unit():
    assert targets(TENTHS, [1.4, 1.5]) == []
    assert targets([*TENTHS, 1000], TENTHS[::3]) == []
    assert targets([0] * 30 + [1, 5], [0, 1, 0, 2, 1, 0]) == []


NEAR = {
    "case": (["pos", "neg"], "Pos", "(did you mean 'pos'?)"),
    "spaces": (["very good", "bad"], "verygood", "(did you mean 'very good'?)"),
    "quotes": (["pos", "neg"], "'pos'", "(did you mean 'pos'?)"),
    "a number": (["1", "2"], "01", "(did you mean '1'?)"),
    "a sign": (["yes", "no"], "No!", "(did you mean 'no'?)"),
    "a boolean": (["True", "False"], "1", "(did you mean 'True'?)"),
    "two of them": (["Pos", "pos", "neg"], "POS", "(did you mean 'Pos' or 'pos'?)"),
    "none": (["pos", "neg"], "other", "which no training row has; training rows have neg, pos;"),
}


@pytest.mark.parametrize("case", NEAR)
def test_an_unknown_label_comes_with_what_was_meant(case):
    train, test, message = NEAR[case]
    with pytest.raises(InputError) as raised:
        classes(train * 4, [*train, test])
    assert f"'label' is {test!r}, which no training row has" in str(raised.value)
    assert message in str(raised.value)


def test_the_classes_that_a_source_fixes_are_meant_too():
    with pytest.raises(InputError, match=r"is 'Yes', which no training row has \(did you mean 'yes'\?\)"):
        classes(["yes", "no"] * 4, ["no", "Yes"], declared=["no", "yes", "Yes"])

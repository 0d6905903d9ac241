"""Groups of rows: of a column or of texts within one another, carved whole, written, read again, and missed."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs import datasets, groups
from peft_tradeoffs.inputs.data_files import Table
from peft_tradeoffs.inputs.groups import CONTAINED, draw_groups, independent_rows, of_texts
from peft_tradeoffs.inputs.splits import Split, read_groups, repetition_warnings
from peft_tradeoffs.inputs.tokens import Split as Tokens
from peft_tradeoffs.inputs.tokens import carve, carve_dev


def table(values, labels=None, texts=None, name="a.csv") -> Table:
    labels = labels or [i % 2 for i in range(len(values))]
    texts = texts or [f"{name} text {i}" for i in range(len(values))]
    return Table(name, {"text": texts, "label": labels, "author": list(values)}, range(2, len(values) + 2), "line")


def partition(index) -> set[frozenset[int]]:
    """The groups as sets of row numbers."""
    return {frozenset(np.flatnonzero(index == one).tolist()) for one in set(index.tolist())}


LONG = "one two three four five six seven eight nine ten"
TEXTS = {
    "parts of one sentence": (["a dull and loud film", "a dull", "loud film", "dull and loud"], [{0, 1, 2, 3}]),
    "a part of a part": (["dull", "a dull film", "a dull film with no end"], [{0, 1, 2}]),
    "equal, but for case and punctuation": (["A dull film.", "a  dull film", "(a dull film)"], [{0, 1, 2}]),
    "whole words": (["art", "a cart", "the heart of it"], [{0}, {1}, {2}]),
    "words in a row": (["a film", "a dull film"], [{0}, {1}]),
    "what anybody says": (["good film", "a good film of his", "no good film", "good film"], [{0, 3}, {1}, {2}]),
    "part of what anybody says": (["good", "good film", "a good film", "the good film"], [{0}, {1}, {2}, {3}]),
    "in two parts of one sentence": (["good", "a good one", "so good", "a good one or so good"], [{0, 1, 2, 3}]),
    "a long text in two others": ([f"a {LONG}", LONG, f"{LONG} b"], [{0, 1, 2}]),
    "a text twice in another": (["ha", "ha ha ha"], [{0, 1}]),
    "a text that ends as another begins": (["a b", "c a b", "b c"], [{0, 1}, {2}]),
    "nothing in common": (["a b", "c d", "e"], [{0}, {1}, {2}]),
    "texts without words": (["?", "!", "?"], [{0, 2}, {1}]),
}


@pytest.mark.parametrize("case", TEXTS)
def test_texts_within_one_another(case):
    texts, expected = TEXTS[case]
    assert partition(of_texts([(text,) for text in texts])) == set(map(frozenset, expected))
    turned = of_texts([(text,) for text in texts[::-1]])[::-1]
    assert partition(turned) == set(map(frozenset, expected))


def test_pairs_that_share_a_long_text():
    rows = [(LONG, "yes"), (f"and {LONG}", "no"), ("short", "yes"), ("short", "yes"), ("short", "no")]
    assert partition(of_texts(rows)) == {frozenset({0, 1}), frozenset({2, 3}), frozenset({4})}


def test_all_pairs_follow_from_those_found():
    rng = np.random.default_rng(0)
    texts = list(dict.fromkeys(tuple(rng.choice(list("abc"), size)) for size in rng.integers(1, 9, 300)))
    known = {inner: {outer for one, outer in groups._within(texts) if one == inner} for inner in range(len(texts))}

    def above(inner: int) -> set[int]:
        return known[inner] | {far for outer in known[inner] for far in above(outer)}

    def within(inner: tuple[str, ...], outer: tuple[str, ...]) -> bool:
        return any(outer[i : i + len(inner)] == inner for i in range(len(outer) - len(inner) + 1))

    for number, text in enumerate(texts):
        expected = {other for other, outer in enumerate(texts) if other != number and within(text, outer)}
        assert above(number) == expected


def test_as_how_many_rows_groups_count():
    assert independent_rows(np.arange(8)) == 8
    assert independent_rows(np.repeat(np.arange(4), 2)) == 4
    assert independent_rows(np.zeros(8, dtype=int)) == 1


class TestDraw:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(400), rng.integers(1, 12, 400))
    strata = rng.choice(3, len(groups), p=[0.7, 0.25, 0.05])

    @pytest.mark.parametrize("share", [0.1, 0.25, 0.6])
    def test_groups_are_whole_and_classes_near_their_share(self, share):
        drawn = draw_groups(self.groups, self.strata, share, 0)
        assert not set(self.groups[drawn]) & set(self.groups[~drawn])
        for stratum in range(3):
            assert drawn[self.strata == stratum].mean() == pytest.approx(share, abs=0.02)

    def test_many_classes_with_few_rows_in_mixed_groups(self):
        strata = np.random.default_rng(0).permutation(np.repeat(np.arange(150), 20))
        drawn = draw_groups(np.arange(3000) // 5, strata, 0.2, 0)
        assert drawn.mean() == pytest.approx(0.2, abs=0.01)
        assert set(np.bincount(strata[drawn], minlength=150)) <= {2, 3, 4, 5, 6}

    def test_seeded(self):
        one, again, other = (draw_groups(self.groups, self.strata, 0.2, seed) for seed in (0, 0, 1))
        assert (one == again).all()
        assert (one != other).any()

    def test_large_groups_are_drawn_as_often_as_small_ones(self):
        drawn = np.mean([draw_groups(self.groups, self.strata, 0.25, seed) for seed in range(40)], axis=0)
        large = np.bincount(self.groups)[self.groups] >= 9
        assert drawn[large].mean() == pytest.approx(drawn[~large].mean(), abs=0.05)

    def test_a_group_beyond_the_share_is_left(self):
        groups = np.array([0] * 50 + list(range(1, 51)))
        drawn = draw_groups(groups, np.zeros(100, dtype=int), 0.2, 0)
        assert drawn.sum() == 20
        assert not drawn[0]


def made(fractions, values, labels=None, **settings):
    warnings: list[str] = []
    tables = {"train": table(values, labels)}
    return tiny.splits(tables, fractions=fractions, group="author", warnings=warnings, **settings)[0], warnings


AUTHORS = [f"author {i // 5}" for i in range(600)]


def test_fractions_part_no_group():
    labels = ["a", "a", "b", "a", "c"] * 120
    splits, warnings = made({"test": 0.2, "validation": 0.1, "heldout": 0.25}, AUTHORS, labels)
    assert warnings == []
    assert {name: len(part.rows) for name, part in splits.items()} == {
        "train": 270,
        "validation": 60,
        "test": 120,
        "heldout": 150,
    }
    of = {name: {AUTHORS[row] for row in part.rows} for name, part in splits.items()}
    assert not any(one & other for one, other in itertools.combinations(of.values(), 2))
    assert sorted(np.concatenate([part.rows for part in splits.values()])) == list(range(600))
    for part in splits.values():
        assert (np.diff(part.rows) > 0).all()
        assert np.bincount(part.labels).tolist() == [len(part.rows) * share // 5 for share in (3, 1, 1)]


def test_a_later_fraction_changes_none_before():
    without, _ = made({"test": 0.2}, AUTHORS)
    splits, _ = made({"heldout": 0.3, "test": 0.2}, AUTHORS)
    assert splits["test"].rows.tolist() == without["test"].rows.tolist()


def test_a_regression_is_carved_by_group():
    splits, _ = made({"test": 0.2}, AUTHORS, [i / 7 for i in range(600)], task="regression")
    assert len(splits["test"].rows) == 120


def test_a_text_that_all_authors_write_parts_them_nonetheless():
    same = Table(
        "a.csv",
        {"text": ["ok", "no", "so"] * 40, "label": [0, 1] * 60, "author": [i // 6 for i in range(120)]},
        range(120),
        "row",
    )
    splits, _ = tiny.splits({"train": same}, fractions={"test": 0.2}, group="author")
    assert len(splits["test"].rows) == 24


def test_a_fraction_that_groups_miss_is_said():
    _, warnings = made({"test": 0.2}, ["big"] * 50 + ["large"] * 40 + [f"small {i}" for i in range(10)])
    assert warnings == [
        "test has 10 rows, where the fraction 0.2 asks for 20: groups are not parted, and the largest has 50 of 100 "
        "rows."
    ]


BAD = {
    "empty": (
        ["x", None, " ", float("nan"), "y"] * 4,
        r"lines 3, 4, 5, 8, 9 and 7 more: no group in 'author'; fill",
    ),
    "list": ([["x"], "y"] * 6, r"line.* 2, .*: a list, which names no group, in 'author'"),
    "one group": (
        ["x"] * 20,
        r"test 0\.2 of 20 rows parts 1 groups so that 0 are on one side \(the largest",
    ),
    "one group for train": (["x"] * 10 + ["y"] * 10, r"parts 2 groups so that \d (is|are) on one side"),
    "a class of one group": (
        ([f"a{i}" for i in range(18)] + ["b", "b"], [0, 1] * 9 + [2, 2]),
        r"would get 0 rows of class '2', .* or split_seed, add groups with rows of this class or",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_groups(case):
    values, message = BAD[case]
    values, labels = values if isinstance(values, tuple) else (values, None)
    with pytest.raises(InputError, match=message):
        made({"test": 0.2}, values, labels)


def given(train, test, **settings):
    warnings: list[str] = []
    tables = {"train": table(train), "test": table(test, name="b.csv")}
    splits, _ = tiny.splits(tables, group="author", warnings=warnings, **settings)
    return splits, warnings


def test_groups_in_two_given_splits_are_said():
    splits, warnings = given(["x", "y", "x", 7], ["7", " x ", "z", "z"])
    assert warnings == ["2 of 4 test rows (50 %) are of a group that training rows are of too (column 'author')."]
    assert splits["train"].groups.index.tolist() == [0, 1, 0, 2]
    assert splits["test"].groups.index.tolist() == [2, 0, 3, 3]


def test_a_column_that_groups_nothing_is_said():
    _, warnings = given("abcd", "efgh")
    assert warnings == ["The column 'author' has another value in every row, so each row is a group of its own."]


def test_a_judged_split_of_one_group():
    with pytest.raises(InputError, match=r"split 'test': its 4 rows are all of one group, and at least 2 are needed"):
        given("abcd", "zzzz")


def test_contained_texts_are_carved_together():
    rng = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(5000)])
    sentences = [rng.choice(words, 12, replace=False) for _ in range(100)]
    texts = [" ".join(sentence[a:b]) for sentence in sentences for a, b in ((0, 12), (0, 5), (5, 12), (6, 9))]
    labels = [i // 4 % 2 for i in range(400)]
    splits, _ = tiny.splits(
        {"train": table(range(400), labels, texts)}, fractions={"test": 0.2, "heldout": 0.2}, group=CONTAINED
    )
    assert [len(part.rows) for part in splits.values()] == [240, 80, 80]
    of = [set(part.rows // 4) for part in splits.values()]
    assert not any(one & other for one, other in itertools.combinations(of, 2))
    assert splits["test"].groups.count == 20


class TestWritten:
    def folder(self, path: Path, **settings) -> Path:
        warnings: list[str] = []
        splits, names = tiny.splits(
            {"train": table(AUTHORS)}, fractions={"test": 0.2, "heldout": 0.1}, warnings=warnings, **settings
        )
        (path / "mail").mkdir(parents=True, exist_ok=True)
        tiny.write_splits(splits, names, path / "mail")
        return path

    def test_description(self, tmp_path):
        folder = self.folder(tmp_path, group="author") / "mail"
        described = json.loads((folder / "dataset.json").read_text())
        assert described["group"] == {"by": "author", "sha256": files.sha256(folder / "groups.parquet")}
        assert {name: (part["groups"], part["largest_group"]) for name, part in described["splits"].items()} == {
            "train": (84, 5),
            "test": (24, 5),
            "heldout": (12, 5),
        }
        assert pd.read_parquet(folder / "test.parquet").columns.tolist() == ["text_a", "label", "row"]

    def test_read_again(self, tmp_path):
        folder = self.folder(tmp_path, group="author")
        rows = pd.read_parquet(folder / "mail/test.parquet")["row"].to_numpy()
        found = read_groups(folder, "mail", "test", rows)
        assert found.dtype == np.int64
        assert sorted(set(found)) == list(range(24))
        assert partition(found) == partition(np.array(rows // 5))
        few = read_groups(folder, "mail", "test", rows[[7, 3, 7]])
        assert few.tolist() == ([1, 0, 1] if rows[3] // 5 < rows[7] // 5 else [0, 0, 0])

    def test_none(self, tmp_path):
        folder = self.folder(tmp_path)
        assert read_groups(folder, "mail", "test", np.arange(3)) is None
        assert read_groups(folder, "other", "test", np.arange(3)) is None
        assert not (folder / "mail/groups.parquet").exists()

    def test_without_a_group_nothing_else_is_written_and_a_stale_file_goes(self, tmp_path):
        self.folder(tmp_path / "one")
        self.folder(tmp_path / "two", group="author")
        self.folder(tmp_path / "two")
        names = ["dataset.json", "heldout.parquet", "test.parquet", "train.parquet"]
        for folder in ("one", "two"):
            assert sorted(path.name for path in (tmp_path / folder / "mail").iterdir()) == names
        for name in names:
            assert (tmp_path / "one/mail" / name).read_bytes() == (tmp_path / "two/mail" / name).read_bytes()

    def test_given_splits_are_the_same_with_groups(self, tmp_path):
        """So tokens and runs stay where only `group` is added."""
        tables = {"train": table(AUTHORS), "test": table(AUTHORS[:50], name="b.csv")}
        for name, group in (("with", "author"), ("without", None)):
            splits, names = tiny.splits(tables, group=group)
            (tmp_path / name).mkdir()
            tiny.write_splits(splits, names, tmp_path / name)
        one, other = (json.loads((tmp_path / name / "dataset.json").read_text()) for name in ("with", "without"))
        assert one["sha256"] == other["sha256"]
        for name in ("train", "test"):
            assert one["splits"][name]["sha256"] == other["splits"][name]["sha256"]

    def test_unknown_rows(self, tmp_path):
        folder = self.folder(tmp_path, group="author")
        with pytest.raises(InputError, match=r"no group for split 'test', rows 601, 0, so the runs are of"):
            read_groups(folder, "mail", "test", np.array([600, -1]))
        with pytest.raises(InputError, match=r"no group for split 'validation', row 1"):
            read_groups(folder, "mail", "validation", np.array([0]))

    @pytest.mark.parametrize("state", ["missing", "changed"])
    def test_not_the_file_that_was_written(self, tmp_path, state):
        folder = self.folder(tmp_path, group="author")
        path = folder / "mail/groups.parquet"
        path.unlink() if state == "missing" else path.write_bytes(path.read_bytes() + b" ")
        expected = "no such file" if state == "missing" else "not what was written with dataset.json"
        with pytest.raises(InputError, match=f"groups.parquet: {expected}; put it back, or delete dataset.json"):
            read_groups(folder, "mail", "test", np.array([0]))

    def test_a_broken_description(self, tmp_path):
        folder = self.folder(tmp_path, group="author")
        described = folder / "mail/dataset.json"
        described.write_text(json.dumps(json.loads(described.read_text()) | {"group": {"by": "author"}}))
        with pytest.raises(InputError, match=r"not a description of groups: no sha256; delete dataset.json"):
            read_groups(folder, "mail", "test", np.array([0]))


class TestDevSplit:
    tokens = Tokens(np.arange(600, dtype=np.int32), None, np.arange(601), np.array([0, 0, 1] * 200), np.arange(600))
    groups = np.arange(600) // 6

    def test_parts_no_group(self):
        train, dev = carve(self.tokens, self.tokens.labels, 0.1, 0, self.groups)
        assert (len(train), len(dev), dev.labels.sum()) == (540, 60, 20)
        assert sorted([*train.rows, *dev.rows]) == list(range(600))
        assert not set(train.rows // 6) & set(dev.rows // 6)

    @pytest.mark.parametrize("group", ["author", None])
    def test_from_files(self, tmp_path, group):
        folder = TestWritten().folder(tmp_path, group=group)
        rows = pd.read_parquet(folder / "mail/train.parquet")["row"].to_numpy()
        tokens = tmp_path / "tokens.npz"
        arrays = {"input_ids": np.arange(420, dtype=np.int32), "offsets": np.arange(421), "labels": rows % 2}
        np.savez(tokens, **{f"train_{name}": value for name, value in {**arrays, "rows": rows}.items()})
        about = {"max_length": 8, "pad_token_id": 0, "num_labels": 2, "labels": ["0", "1"], "task": "classification"}
        about |= {"rows": {"train": 420}, "truncated": {"train": 0}, "sha256": files.sha256(tokens)}
        tokens.with_suffix(".json").write_text(json.dumps(about))
        carve_dev(tokens, 0.1, 0, tmp_path / "dev.npz", folder / "mail")
        with np.load(tmp_path / "dev.npz") as found:
            train, dev = found["train_rows"], found["test_rows"]
        assert (len(train), len(dev)) == ((380, 40) if group else (378, 42))  # of five rows
        assert bool(set(train // 5) & set(dev // 5)) is (group is None)

    @pytest.mark.parametrize(
        ("groups", "message"),
        [
            (np.arange(600) // 300, r"tune.fraction: of 0.1 of the 600 rows of train, in 2 groups that .* on one side"),
            (
                np.array([0, 1, 2] * 200),
                r"classes would be missing on one side; take another fraction, or data in",
            ),
        ],
    )
    def test_too_few_groups(self, groups, message):
        with pytest.raises(InputError, match=message):
            carve(self.tokens, self.tokens.labels, 0.1, 0, groups)


def judged(texts) -> dict[str, Split]:
    rows = [(text,) if isinstance(text, str) else text for text in texts]
    plain = [(f"row {i} of train",) for i in range(4)]
    return {
        "train": Split(plain, np.array([0, 1] * 2), np.arange(4)),
        "test": Split(rows, np.arange(len(rows)) % 2, np.arange(len(rows))),
    }


APART = [f"sentence number {i} stands by itself" for i in range(100)]
QUIET = {
    "apart": APART,
    "a few repetitions": [*APART[:95], *APART[:5]],
    "short texts that many contain": [*APART, "number", "by itself", "sentence"],
    "short texts in one other each": [*APART, *(f"number {i}" for i in range(4))],
    "pairs with a short text in common": [(text, "yes" if i % 2 else "no") for i, text in enumerate(APART)],
}


@pytest.mark.parametrize("case", QUIET)
def test_no_warning_where_rows_count_as_nearly_as_many(case):
    assert repetition_warnings(judged(QUIET[case])) == []


def test_a_warning_where_texts_contain_each_other():
    said = repetition_warnings(judged([*APART, *(f"number {i} stands" for i in range(50))]))
    assert said == [
        "100 of 150 test rows (67 %) repeat another test row, contain its text or are part of it: 100 groups, which "
        "tell as little as 90 rows where those of a group get the same answer. Intervals and tests take rows to be "
        "independent; set `group: contained`, or `group` to the column that says where rows come from."
    ]


def test_one_text_of_many_rows_is_enough_for_a_warning():
    (said,) = repetition_warnings(judged([*APART, *["ok"] * 8]))
    assert "8 of 108 test rows (7 %)" in said
    assert "101 groups" in said


def test_heldout_is_looked_at_and_train_is_not():
    splits = judged(APART)
    splits |= {"heldout": judged(APART * 2)["test"], "train": judged(APART * 2)["test"]}
    (said,) = repetition_warnings(splits)
    assert said.startswith("200 of 200 heldout rows (100 %)")


def test_of_a_huge_split_the_first_rows_are_looked_at(monkeypatch):
    monkeypatch.setattr("peft_tradeoffs.inputs.splits.READ_WORDS", 60)
    (said,) = repetition_warnings(judged([*APART[:5], *APART]))
    assert said.startswith("10 of the first 10 test rows (100 %)")


def test_a_group_that_is_named_is_not_warned_of():
    warnings: list[str] = []
    tables = {"train": table("aabbcc"), "test": table("xxyyzz", texts=["one text", "two texts"] * 3, name="b.csv")}
    tiny.splits(tables, group="author", warnings=warnings)
    assert not [said for said in warnings if "independent" in said]


class TestFetched:
    def block(self, folder: Path, header: str = "sentence,label,author", **keys):
        rows = [f"text {i},{i % 2},{i // 4}" for i in range(80)]
        (folder / "a.csv").write_text("\n".join([header, *rows]) + "\n")
        files = {"source": "files", "splits": {"train": str(folder / "a.csv")}, "fractions": {"test": 0.25}}
        return {**files, "text": ["sentence"], "label": "label", **keys}

    def test_a_column_of_a_file(self, tmp_path):
        datasets.fetch_dataset(self.block(tmp_path, group="author"), tmp_path / "mail")
        rows = pd.read_parquet(tmp_path / "mail/test.parquet")["row"].to_numpy()
        assert partition(read_groups(tmp_path, "mail", "test", rows)) == partition(rows // 4)

    def test_a_text_column_may_be_the_group(self, tmp_path):
        datasets.fetch_dataset(self.block(tmp_path, text=["author", "sentence"], group="author"), tmp_path / "mail")
        assert json.loads((tmp_path / "mail/dataset.json").read_text())["group"]["by"] == "author"

    def test_no_such_column(self, tmp_path):
        with pytest.raises(InputError, match=r"a.csv: no column 'autor'; its columns are .* name one of these"):
            datasets.fetch_dataset(self.block(tmp_path, group="autor"), tmp_path / "mail")

    def test_contained_is_no_column(self, tmp_path):
        block = self.block(tmp_path, "sentence,label,contained", group="contained")
        datasets.fetch_dataset(block, tmp_path / "mail")
        described = json.loads((tmp_path / "mail/dataset.json").read_text())
        assert described["group"]["by"] == CONTAINED
        assert described["splits"]["test"]["groups"] == 20

    def test_a_column_of_a_hub_split(self):
        import datasets as hub

        features = hub.Features({"text": hub.Value("string"), "label": hub.ClassLabel(names=["b", "a"])})
        features["author"] = hub.Value("int64")
        rows = {"text": ["t0", "t1", "t2", "t3", "t4"], "label": [0, -1, 1, 0, 1], "author": [3, 4, 4, 3, None]}
        loaded = hub.DatasetDict({"train": hub.Dataset.from_dict(rows, features=features)})
        found = datasets.hub_table("owner/mail", loaded, "train", ["text", "author", "label"])
        with pytest.raises(InputError, match=r"data set 'owner/mail', split 'train', row 5: no group in 'author'"):
            tiny.splits({"train": found, "test": found}, group="author")
        found.columns["author"][-1] = 4
        splits, _ = tiny.splits({"train": found, "test": found}, group="author")
        assert splits["train"].rows.tolist() == [0, 2, 3, 4]
        assert splits["train"].groups.index.tolist() == [0, 1, 0, 1]

    def test_docstrings_by_module(self, tmp_path):
        block = {"source": "docstrings", "packages": ["networkx", "sympy"], "fractions": {"test": 0.2}}
        datasets.fetch_dataset({**block, "group": "module"}, tmp_path / "grouped")
        described = json.loads((tmp_path / "grouped/dataset.json").read_text())
        assert described["group"]["by"] == "module"
        assert 2 <= described["splits"]["test"]["groups"] < described["splits"]["test"]["rows"]

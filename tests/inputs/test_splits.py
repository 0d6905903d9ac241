"""Splits: labels, task checks, fractions, limits, the files written, and fetch_dataset.py's command line."""

import contextlib
import json
import subprocess
from pathlib import Path

import forks
import numpy as np
import pandas as pd
import pytest
import tiny
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs import hub
from peft_tradeoffs.inputs.data_files import Table
from peft_tradeoffs.inputs.datasets import shortened
from peft_tradeoffs.inputs.splits import check_distinct, stratified_sample

SCRIPT = Path(__file__).parents[2] / "workflow_scripts" / "fetch_dataset.py"


def table(labels, texts=None, name="a.tsv", classes=None) -> Table:
    texts = texts or [f"{name} text {i}" for i in range(len(labels))]
    columns = {"text": list(texts), "label": list(labels)}
    return Table(name, columns, range(2, len(labels) + 2), "line", classes)


def split(train, test=None, texts=None, **settings):
    tables = {"train": table(train, texts)} | ({"test": table(test, name="b.tsv")} if test else {})
    return tiny.splits(tables, **settings)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "9", "10", "9"], ["9", "10"]),
        ([10, 9, -1, 10, 9, -1], ["-1", "9", "10"]),
        (["pos", "neg", "pos ", "10"] * 2, ["10", "neg", "pos"]),
        ([True, False, True, False], ["False", "True"]),
        ([1.0, 0.0, 1.0, 0.0], ["0", "1"]),
        (["2.5", "10.0", "2.5", "10.0"], ["2.5", "10.0"]),
        (["nan", "inf", "nan", "inf"], ["inf", "nan"]),
    ],
)
def test_class_names_are_sorted_and_numbers_by_value(labels, names):
    assert split(labels, labels)[1] == names


def test_the_source_s_class_order_is_kept():
    ordered = table(["no", "yes", "no", "yes"], classes=["yes", "unused", "no"])
    other = table(["no", "yes", "no", "yes"], name="b.tsv", classes=["yes", "unused", "no"])
    splits, names = tiny.splits({"train": ordered, "test": other})
    assert names == ["yes", "no"]
    assert splits["test"].labels.tolist() == [1, 0, 1, 0]


def test_a_class_is_the_same_as_text_and_as_a_number():
    splits, names = split(["0", "1", "10", "0", "1", "10"], [10, 0, 1])
    assert names == ["0", "1", "10"]
    assert splits["test"].labels.tolist() == [2, 0, 1]
    assert splits["test"].labels.dtype == np.int64


def test_regression_labels_are_floats():
    splits, names = split(["1", " 2.5", "-1e3"], [3, 0.5], task="regression")
    assert names is None
    assert splits["train"].labels.tolist() == [1.0, 2.5, -1000.0]
    assert splits["train"].labels.dtype == np.float64


def test_two_text_columns():
    both = Table("a.csv", {"a": ["x", "y"], "b": ["z", "z"], "label": [0, 1]}, [2, 3], "line")
    test = Table("b.csv", {"a": ["v", "w"], "b": ["z", "z"], "label": [0, 1]}, [2, 3], "line")
    splits, _ = tiny.splits({"train": both, "test": test}, ["a", "b"])
    assert splits["train"].texts == [("x", "z"), ("y", "z")]


class TestSampling:
    strata = np.array([0] * 70 + [1] * 25 + [2] * 5)

    @pytest.mark.parametrize(
        ("size", "shares"), [(20, [14, 5, 1]), (3, [1, 1, 1]), (10, [7, 2, 1]), (99, [69, 25, 5]), (100, None)]
    )
    def test_shares(self, size, shares):
        counts = np.bincount(self.strata[stratified_sample(self.strata, size, 0)])
        assert counts.tolist() == (shares or [70, 25, 5])

    def test_rare_classes_keep_a_row(self):
        strata = np.array([0] * 1000 + [1, 2, 3])
        assert np.bincount(strata[stratified_sample(strata, 20, 0)]).tolist() == [17, 1, 1, 1]

    def test_seeded_sorted_and_nested(self):
        small, large = (stratified_sample(self.strata, size, 5) for size in (20, 40))
        assert (np.diff(small) > 0).all()
        assert set(small) < set(large)
        assert small.tolist() == stratified_sample(self.strata, 20, 5).tolist()
        assert small.tolist() != stratified_sample(self.strata, 20, 6).tolist()


def test_limit_is_exact_stratified_and_keeps_the_order():
    labels = ["a"] * 60 + ["b"] * 30
    splits, _ = split(labels, ["a", "b"] * 10, limit={"train": 30, "test": None})
    assert np.bincount(splits["train"].labels).tolist() == [20, 10]
    assert (np.diff(splits["train"].rows) > 0).all()
    assert splits["train"].texts == [(f"a.tsv text {row}",) for row in splits["train"].rows]
    assert len(splits["test"].rows) == 20


def test_limit_above_the_rows_takes_all():
    splits, _ = split([0, 1] * 5, [0, 1], limit={"train": 1000})
    assert len(splits["train"].rows) == 10


def test_limit_of_a_regression():
    splits, _ = split(list(range(50)), [0.5, 1], task="regression", limit={"train": 7})
    assert len(set(splits["train"].rows.tolist())) == 7


def test_fractions_are_exact_disjoint_and_stratified():
    labels = ["a", "a", "b"] * 40
    splits, _ = split(labels, fractions={"test": 0.25, "validation": 0.1})
    assert list(splits) == ["train", "validation", "test"]
    assert [len(part.rows) for part in splits.values()] == [78, 12, 30]
    assert np.bincount(splits["test"].labels).tolist() == [20, 10]
    assert sorted(np.concatenate([part.rows for part in splits.values()])) == list(range(120))
    alone, _ = split(labels, fractions={"test": 0.25})
    assert alone["test"].rows.tolist() == splits["test"].rows.tolist()


def test_a_heldout_split_changes_no_other_but_train():
    labels = ["a", "a", "b"] * 80
    without, _ = split(labels, fractions={"test": 0.2, "validation": 0.1})
    splits, _ = split(labels, fractions={"heldout": 0.3, "test": 0.2, "validation": 0.1})
    assert list(splits) == ["train", "validation", "test", "heldout"]
    for name in ("test", "validation"):
        assert splits[name].rows.tolist() == without[name].rows.tolist()
    assert np.bincount(splits["heldout"].labels).tolist() == [48, 24]
    assert sorted(np.concatenate([part.rows for part in splits.values()])) == list(range(240))
    assert set(splits["train"].rows) | set(splits["heldout"].rows) == set(without["train"].rows)
    few, _ = split(labels, labels[:30], fractions={"heldout": 0.3}, limit={"heldout": 12})
    assert [len(part.rows) for part in few.values()] == [168, 30, 12]


def test_fractions_follow_the_seed():
    drawn = [split([0, 1] * 50, fractions={"test": 0.2}, seed=seed)[0]["test"].rows.tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_repeated_texts_stay_on_one_side():
    texts = [f"text {i // 3}" for i in range(300)]
    splits, _ = split([0, 1] * 150, texts=texts, fractions={"test": 0.2, "validation": 0.2})
    seen = [set(part.texts) for part in splits.values()]
    assert sum(map(len, seen)) == 100
    assert len(splits["test"].rows) == 60


def test_fraction_of_a_regression():
    splits, _ = split(list(range(50)), task="regression", fractions={"test": 0.2})
    assert [len(part.rows) for part in splits.values()] == [40, 10]


OK = [0, 1] * 10
BAD = {
    "empty text": (dict(train=[0, 1, 0], texts=["a", " ", ""]), r"a\.tsv, lines 3, 4: empty text in 'text'"),
    "invisible text": (dict(train=[0, 1], texts=["a", "\u200b\ufeff"]), r"a\.tsv, line 3: empty text"),
    "missing text": (dict(train=[0, 1], texts=["a", None]), r"a\.tsv, line 3: empty text"),
    "text is a number": (dict(train=[0, 1], texts=["a", 7]), r"line 3: 'text' is int, not text"),
    "half a surrogate": (dict(train=[0, 1], texts=["a", "\ud800"]), r"line 3: 'text' has half of a surrogate"),
    "missing label": (dict(train=["x", "", None, "y"]), r"a\.tsv, lines 3, 4: no 'label'"),
    "nan class": (dict(train=[1.0, float("nan"), 0.0]), r"line 3: no 'label'"),
    "float class": (dict(train=[1, 0.5, 1]), r"line 3: 'label' is 0\.5, no class.*task: regression"),
    "list class": (dict(train=[1, [1], 1]), r"line 3: 'label' is \[1\], no class"),
    "one class": (dict(train=["x", "x", "x"]), r"split 'train' \(a\.tsv\): every label is 'x'"),
    "one class in test": (dict(train=OK, test=[1, 1]), r"split 'test' \(b\.tsv\): every label is '1'"),
    "one value": (dict(train=[0.5, 0.5], task="regression"), r"every label is '0\.5'"),
    "one row": (dict(train=OK, test=[1]), r"split 'test' \(b\.tsv\): 1 rows, at least 2"),
    "unknown label": (
        dict(train=OK, test=[0, "maybe", 1]),
        r"b\.tsv, line 3: 'label' is 'maybe', which no training row has; training rows have 0, 1; correct it or add",
    ),
    "too many classes": (
        dict(train=["1.5", "2.5", "3.5", "1.5"]),
        r"3 different values of 'label' in 4 rows.*task: regression",
    ),
    "text in a regression": (
        dict(train=["1", "good"], task="regression"),
        r"line 3: 'label' is 'good', not a number.*task: classification",
    ),
    "underscore in a number": (dict(train=["1", "1_0"], task="regression"), r"'1_0', not a number"),
    "bool in a regression": (dict(train=[1, True], task="regression"), r"True, not a number"),
    "no number": (dict(train=[1, None], task="regression"), r"line 3: 'label' is None, not a number"),
    "nan": (dict(train=["1", "nan"], task="regression"), r"a\.tsv, line 3: 'label' is nan, not a finite number"),
    "infinity": (
        dict(train=[1, 2], test=[1, float("inf")], task="regression"),
        r"b\.tsv, line 3: .* inf, not a finite",
    ),
    "test twice": (dict(train=OK, test=OK, fractions={"test": 0.2}), r"'test' stands in both"),
    "fraction of 0": (dict(train=OK, fractions={"test": 0.0}), r"each must be above 0"),
    "fractions of 1": (dict(train=OK, fractions={"test": 0.5, "validation": 0.5}), r"their sum below 1"),
    "unknown split": (dict(train=OK, fractions={"tset": 0.5}), r"split 'tset': a split is one of train, val"),
    "empty test": (dict(train=OK, fractions={"test": 0.01}), r"fractions: test 0\.01 of 20 .* is 0, at least 4"),
    "class of one row": (
        dict(train=["a"] * 17 + ["b"] * 3, fractions={"test": 0.2}),
        r"test would get 1 rows of class 'b'",
    ),
    "empty train": (dict(train=OK, fractions={"test": 0.95}), r"train would get \d rows of class '[01]'"),
    "empty regression test": (
        dict(train=[1, 2, 3], fractions={"test": 0.2}, task="regression"),
        r"test 0\.2 of 3 different texts is 1, at least 2",
    ),
    "limit below the classes": (dict(train=[0, 1, 2] * 3, test=OK, limit={"train": 2}), r"train 2 .* classes, 3"),
    "limit of 1": (dict(train=OK, test=OK, limit={"test": 1}), r"limit: test 1 is below 2"),
    "limit of no split": (
        dict(train=OK, test=OK, limit={"validation": 5}),
        r"no split 'validation'; the splits are train, test",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data(case):
    settings, message = BAD[case]
    if "fractions" not in settings:
        settings = {"test": OK} | settings
    with pytest.raises(InputError, match=message):
        split(**settings)


def test_a_test_split_is_needed():
    with pytest.raises(InputError, match=r"no `test`; give `splits: test` or `fractions: test`"):
        split(OK)


def test_a_warning_names_a_file_and_not_where_it_lies(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inside, elsewhere = str(tmp_path / "data/a.csv"), "/home/me/b.csv"
    said = [f"{inside}: odd", f"{elsewhere}, line 3, and {inside}"]
    assert shortened(said, [inside, elsewhere]) == ["data/a.csv: odd", "b.csv, line 3, and data/a.csv"]
    twins = ["/home/me/b.csv", "/home/you/b.csv"]
    assert shortened([f"{twins[0]} and {twins[1]}"], twins) == [f"{twins[0]} and {twins[1]}"]


class TestWriting:
    def written(self, folder: Path, labels=("x", "y"), **settings):
        splits, names = split(list(labels) * 10, list(labels), **settings)
        tiny.write_splits(splits, names, folder, settings.get("task", "classification"))
        return json.loads((folder / "dataset.json").read_text())

    def test_files(self, tmp_path):
        described = self.written(tmp_path, limit={"train": 4})
        digest = described.pop("sha256")
        for name, part in described["splits"].items():
            assert part.pop("sha256") == files.sha256(tmp_path / f"{name}.parquet")
        assert described == {
            "task": "classification",
            "labels": ["x", "y"],
            "pair": False,
            "splits": {
                "train": {"rows": 4, "label_counts": {"x": 2, "y": 2}},
                "test": {"rows": 2, "label_counts": {"x": 1, "y": 1}, "in_train": 0},
            },
            "warnings": [],
            "source": {"source": "files"},
        }
        assert len(digest) == 64
        frame = pd.read_parquet(tmp_path / "train.parquet")
        assert frame.dtypes.astype(str).to_dict() == {"text_a": "str", "label": "int64", "row": "int64"}
        assert frame.text_a.tolist() == [f"a.tsv text {row}" for row in frame.row]

    def test_sha256_follows_the_content_alone(self, tmp_path):
        first = self.written(tmp_path / "a")["sha256"]
        assert self.written(tmp_path / "b")["sha256"] == first
        assert self.written(tmp_path / "c", limit={"train": 4})["sha256"] != first
        assert self.written(tmp_path / "d", labels=("x", "z"))["sha256"] != first

    def test_regression(self, tmp_path):
        described = self.written(tmp_path, labels=(0.5, 1), task="regression")
        assert described["labels"] is None
        assert described["splits"]["train"]["label_counts"] is None
        assert pd.read_parquet(tmp_path / "train.parquet").label.dtype == "float64"

    def test_pairs_and_texts_of_train_are_counted(self, tmp_path):
        both = Table("a.csv", {"a": ["x", "y"], "b": ["z", "z"], "label": [0, 1]}, [2, 3], "line")
        other = Table("b.csv", {"a": ["x", "new"], "b": ["z", "z"], "label": [0, 1]}, [2, 3], "line")
        splits, names = tiny.splits({"train": both, "test": other}, ["a", "b"])
        tiny.write_splits(splits, names, tmp_path)
        described = json.loads((tmp_path / "dataset.json").read_text())
        assert described["pair"] is True
        assert described["splits"]["test"]["in_train"] == 1
        assert pd.read_parquet(tmp_path / "test.parquet").text_b.tolist() == ["z", "z"]

    def test_a_stale_validation_split_goes(self, tmp_path):
        splits, names = split([0, 1] * 20, fractions={"test": 0.2, "validation": 0.2})
        tiny.write_splits(splits, names, tmp_path)
        assert (tmp_path / "validation.parquet").exists()
        self.written(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "dataset.json",
            "test.parquet",
            "train.parquet",
        ]


def fetch(block, output: Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    source = block if isinstance(block, str) else json.dumps(block)
    with contextlib.chdir(cwd or Path.cwd()):
        return forks.script(SCRIPT, "--source", source, "--output-dir", output)


class TestCommand:
    def test_files(self, tmp_path):
        rows = [f"row {i},{'good' if i % 3 else 'bad'}" for i in range(60)]
        (tmp_path / "all.csv").write_text("\n".join(["text,label", *rows]) + "\n")
        block = {
            "source": "files",
            "splits": {"train": "all.csv"},
            "fractions": {"test": 0.2},
            "text": ["text"],
            "label": "label",
            "limit": {"train": 12},
        }
        for folder in ("one", "two"):
            done = fetch(block, tmp_path / folder, cwd=tmp_path)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        one, two = (json.loads((tmp_path / folder / "dataset.json").read_text()) for folder in ("one", "two"))
        assert one == two
        assert one["splits"]["train"]["label_counts"] == {"bad": 4, "good": 8}
        assert one["splits"]["test"]["rows"] == 12
        assert one["source"]["files"]["train"]["path"] == "all.csv"

    def test_a_task_that_is_none(self, tmp_path):
        (tmp_path / "a.csv").write_text("text,label\na,x\nb,y\n")
        splits = {"train": "a.csv", "test": "a.csv"}
        block = {"source": "files", "splits": splits, "text": ["text"], "label": "label", "task": "regresion"}
        done = fetch(block, tmp_path / "reviews", cwd=tmp_path)
        assert done.stderr == "error: task 'regresion': one of classification, regression, sft, lm is known\n"
        assert done.returncode == 1

    def test_warnings_stand_in_the_log_and_in_the_description(self, tmp_path):
        rows = [f"row {i}\t{['pos', 'neg'][i % 2]}" for i in range(8)]
        (tmp_path / "a.tsv").write_text("\n".join(["text\tlabel", *rows, '"say ""hi"""\tPos']) + "\n")
        (tmp_path / "b.tsv").write_text("text\tlabel\nrow 0\tpos\nnew\tneg\n")
        block = {"source": "files", "splits": {"train": "a.tsv", "test": "b.tsv"}, "text": ["text"], "label": "label"}
        done = fetch(block, tmp_path / "reviews", cwd=tmp_path)
        said = [
            "The labels 'Pos' (1 row) and 'pos' (5 rows) differ in case alone; they are two classes.",
            "1 of 2 test rows (50 %) has the text of a training row.",
            "The class 'Pos' has 1 training row and no test row; it may be another class misspelt.",
        ]
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.splitlines() == [
            "note: data set reviews: a.tsv: quotes enclose fields, as in CSV.",
            *(f"warning: data set reviews: {one}" for one in said),
        ]
        assert json.loads((tmp_path / "reviews" / "dataset.json").read_text())["warnings"] == said

    def test_what_is_read_but_odd_stands_in_the_description(self, tmp_path):
        rows = [f"row {i},{'ab'[i % 2]}" for i in range(40)]
        rows[10], rows[30] = '"row 10,a', 'row 30",a'
        (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows, "row 1,a", "one,c"]) + "\n")
        (tmp_path / "b.csv").write_text("text,label\nnew 0,a\nnew 1,b\n")
        (tmp_path / "c.csv").write_text("text,label\nnew 0,a\nnew 2,b\n")
        splits = {"train": "a.csv", "test": "b.csv", "heldout": "c.csv"}
        done = fetch(
            {"source": "files", "splits": splits, "text": ["text"], "label": "label"}, tmp_path / "reviews", tmp_path
        )
        assert done.returncode == 0, done.stderr
        said = json.loads((tmp_path / "reviews" / "dataset.json").read_text())["warnings"]
        assert done.stderr.splitlines() == [f"warning: data set reviews: {one}" for one in said]
        starts = [
            "a.csv, line 12: the quote that opens there closes in line 32, so 21 lines are one row",
            "1 of 2 heldout rows (50 %) has the text of a test row.",
            "The class 'c' has 1 training row and no test row",
            "2 of 22 train rows (9 %) have the text of another train row, and these have different labels, as 'a' and "
            "'b' in a.csv, lines 42, 3 ('row 1').",
        ]
        assert len(said) == 4 and all(one.startswith(start) for one, start in zip(said, starts, strict=True)), said

    def test_what_is_wrong_in_each_file_stands_in_one_line(self, tmp_path):
        (tmp_path / "a.csv").write_text("text,label\na\nb,1,2\n")
        (tmp_path / "b.csv").write_bytes(b"\x1f\x8b\x08")
        block = {"source": "files", "splits": {"train": "a.csv", "test": "b.csv"}, "text": ["text"], "label": "label"}
        done = fetch(block, tmp_path / "out", cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(
            "error: a.csv, line 2: 1 fields found, 2 expected (text, label); also a.csv, line 3"
        )
        assert done.stderr.endswith(
            "; also b.csv: it is gzip, not a table; unpack it (gunzip) and name what comes out\n"
        )

    def test_docstrings(self, tmp_path):
        block = {"source": "docstrings", "packages": ["networkx", "numpy"], "fractions": {"test": 0.1}}
        done = fetch(block | {"limit": {"train": 40, "test": 20}}, tmp_path / "out")
        assert (done.returncode, done.stderr) == (0, "")
        described = json.loads((tmp_path / "out" / "dataset.json").read_text())
        assert described["splits"]["train"]["label_counts"] == {"networkx": 20, "numpy": 20}
        assert set(described["source"]["packages"]) == {"networkx", "numpy"}
        text = " ".join(pd.read_parquet(tmp_path / "out" / "train.parquet").text_a).lower()
        assert "numpy" not in text
        assert "networkx" not in text

    @pytest.mark.parametrize(
        ("block", "message"),
        [
            ("{", "error: --source: not JSON"),
            ({"source": "web"}, "error: source 'web': one of files, docstrings, hub is known"),
            ({"source": "files", "splits": {}}, "error: source 'files': no 'text' in the data set's block"),
            (
                {"source": "files", "splits": {"train": "no.csv"}, "text": ["a"], "label": "b"},
                "error: no.csv: no such file",
            ),
        ],
    )
    def test_bad_input_is_one_line_and_status_1(self, tmp_path, block, message):
        done = fetch(block, tmp_path / "out", cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(message)
        assert done.stderr.count("\n") == 1


class TestHub:
    """The hub's part behind dataset_snapshot: a folder such as it returns, read with `datasets`."""

    @pytest.fixture
    def block(self, tmp_path, monkeypatch):
        folder = tmp_path / "snapshot"
        folder.mkdir()
        (folder / "README.md").write_text(
            "---\nconfigs:\n- config_name: sst2\n  data_files:\n"
            "  - split: train\n    path: sst2/train-*\n  - split: dev\n    path: sst2/dev-*\n"
            "  - split: hidden\n    path: sst2/hidden-*\n"
            "dataset_info:\n- config_name: sst2\n  features:\n  - name: sentence\n    dtype: string\n"
            "  - name: label\n    dtype:\n      class_label:\n        names:\n"
            "          '0': worse\n          '1': better\n---\n"
        )
        (folder / "sst2").mkdir()
        for name, labels in {"train": [0, 1] * 5, "dev": [1, 0], "hidden": [-1, -1]}.items():
            frame = pd.DataFrame({"sentence": [f"{name} {i}" for i in range(len(labels))], "label": labels})
            frame.to_parquet(folder / "sst2" / f"{name}-00000-of-00001.parquet")
        monkeypatch.setattr(hub, "dataset_snapshot", lambda path, revision, config: folder)
        return {
            "path": "owner/name",
            "config": "sst2",
            "revision": "0" * 40,
            "splits": {"train": "train", "test": "dev"},
            "text": ["sentence"],
            "label": "label",
        }

    @pytest.fixture
    def load(self, tmp_path):
        from peft_tradeoffs.inputs import datasets

        (tmp_path / "data").mkdir()
        return lambda block: datasets.load_hub(block, tmp_path / "data" / "sst2")

    def test_class_label_names_in_their_order(self, block, load, tmp_path):
        tables, identity = load(block)
        assert identity == {"path": "owner/name", "config": "sst2", "revision": "0" * 40}
        splits, names = tiny.splits(tables, ["sentence"])
        assert names == ["worse", "better"]
        assert splits["test"].labels.tolist() == [1, 0]
        assert splits["test"].texts == [("dev 0",), ("dev 1",)]
        assert list((tmp_path / "data").iterdir()) == []  # the cache is gone

    def test_one_hub_split_under_two_names(self, block, load):
        tables, _ = load(block | {"splits": {"train": "train", "test": "train"}})
        with pytest.raises(
            InputError, match=r"splits test \(data set 'owner/name', split 'train'\) and train .* same 10"
        ):
            check_distinct(tables, ["sentence"])

    def test_what_is_odd_in_the_card_is_left_out_and_a_pointer_is_no_data(self, block, load, tmp_path):
        card = tmp_path / "snapshot/README.md"
        card.write_text(card.read_text().replace("dataset_info:", "dataset_info:\n- 5"))
        assert len(load(block)[0]["train"]) == 10
        path = next(tmp_path.glob("snapshot/sst2/dev-*"))
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        with pytest.raises(InputError, match=r"dev-00000-of-00001.parquet is a Git LFS pointer, not the file"):
            load(block)

    def test_a_label_that_is_no_class(self, block, load, tmp_path):
        path = next(tmp_path.glob("snapshot/sst2/dev-*"))
        for label, message in (
            (7, r"generating the dataset \(Class label 7 greater"),
            (-2, r"a label is -2, which is no"),
        ):
            pd.DataFrame({"sentence": ["a", "b", "c"], "label": [0, label, 1]}).to_parquet(path)
            with pytest.raises(InputError, match=message):
                load(block)

    def test_rows_without_a_label_are_left_out_and_counted(self, block, load, tmp_path):
        path = next(tmp_path.glob("snapshot/sst2/dev-*"))
        labels = [0, -1, 1, 1, -1, 0]
        pd.DataFrame({"sentence": [f"dev {i}" for i in range(6)], "label": labels}).to_parquet(path)
        warnings: list[str] = []
        splits, names = tiny.splits(load(block)[0], ["sentence"], warnings=warnings)
        assert names == ["worse", "better"]
        assert splits["test"].texts == [("dev 0",), ("dev 2",), ("dev 3",), ("dev 5",)]
        assert splits["test"].labels.tolist() == [0, 1, 1, 0]
        assert splits["test"].rows.tolist() == [0, 2, 3, 5]  # of the source
        assert warnings == [
            "data set 'owner/name', split 'dev': 2 of 6 labels are -1, no class; these rows are left out."
        ]

    def test_a_split_with_few_labels_is_refused(self, block, load, tmp_path):
        path = next(tmp_path.glob("snapshot/sst2/dev-*"))
        pd.DataFrame({"sentence": list("abcde"), "label": [0, -1, 1, -1, -1]}).to_parquet(path)
        with pytest.raises(InputError, match=r"split 'dev': 3 of 5 labels are -1, so it is not labelled"):
            load(block)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"splits": {"train": "trian"}}, r"no split 'trian'; its splits are train, dev, hidden"),
            ({"text": ["text"]}, r"no column 'text'; its columns are 'sentence', 'label'"),
            ({"splits": {"test": "hidden"}}, r"split 'hidden': 2 of 2 labels are -1, so it is not labelled; take"),
        ],
    )
    def test_bad_names(self, block, load, change, message):
        with pytest.raises(InputError, match=message):
            load(block | change)

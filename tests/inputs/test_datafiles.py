"""Reading data files: values, line numbers and the errors."""

import json
import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs import data_files
from peft_tradeoffs.inputs.data_files import Table, columns_in, count_rows, read_table


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_tsv_takes_quotes_and_na_words_as_text(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"so" they say\tNA\nan "open quote\tnan\n')
    table = read_table(path, ["text", "label"])
    assert table.columns == {"text": ['"so" they say', 'an "open quote'], "label": ["NA", "nan"]}
    assert list(table.places) == [2, 3]


def test_csv_quoted_fields_may_hold_commas_and_line_breaks(tmp_path):
    path = write(tmp_path / "a.csv", 'label,text\n1,"one, two"\n\n0,"say ""hi""\nthere"\n1,NULL\n')
    table = read_table(path, ["text", "label"])
    assert table.columns == {"text": ["one, two", 'say "hi"\nthere', "NULL"], "label": ["1", "0", "1"]}
    assert list(table.places) == [2, 4, 6]  # each record's first line, the blank one counted


def test_only_line_feeds_end_a_line(tmp_path):
    path = write(tmp_path / "a.tsv", "text\tlabel\r\none\u2028two\x85three\t1\r\nfour\t0\r\n")
    assert read_table(path, ["text"]).columns == {"text": ["one\u2028two\x85three", "four"]}


def test_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\na,1\n".encode("utf-8-sig"))
    assert read_table(path, ["text"]).columns == {"text": ["a"]}


def test_separator_replaces_the_extension_s(tmp_path):
    path = write(tmp_path / "a.csv", 'text;label\n"a;b";1\n')
    assert read_table(path, ["text"], ";").columns == {"text": ["a;b"]}


def test_a_field_may_be_long(tmp_path):
    path = write(tmp_path / "a.tsv", f"text\tlabel\n{'x' * 200_000}\t1\n")
    assert len(read_table(path, ["text"]).columns["text"][0]) == 200_000


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "A.JSONL"])
def test_json_lines_keep_types(tmp_path, name):
    records = [{"text": "one\u2028line", "label": 2}, {"label": None, "text": "b", "more": [1]}]
    path = write(tmp_path / name, "\n\n".join(json.dumps(r, ensure_ascii=False) for r in records) + "\n")
    table = read_table(path, ["text", "label"])
    assert table.columns == {"text": ["one\u2028line", "b"], "label": [2, None]}
    assert list(table.places) == [1, 3]


def test_parquet_gives_plain_values_and_row_numbers(tmp_path):
    path = tmp_path / "a.parquet"
    frame = pd.DataFrame({"text": ["a", None], "label": [1, 2], "kind": pd.Categorical(["x", "y"])})
    frame.to_parquet(path)
    table = read_table(path, ["text", "label", "kind"])
    assert table.columns == {"text": ["a", None], "label": [1, 2], "kind": ["x", "y"]}
    assert table.at([1]) == f"{path}, row 2"


def test_at_names_a_few_lines_and_counts_the_rest():
    table = Table("a.tsv", {}, range(2, 12), "line")
    assert table.at([0, 2]) == "a.tsv, lines 2, 4"
    assert table.at(range(7)) == "a.tsv, lines 2, 3, 4, 5, 6 and 2 more"


HEAD = "text\tlabel\n"
BAD = {
    "unknown extension": ("a.txt", HEAD, r"a\.txt: unknown extension '\.txt'; one of \.csv, .* is read"),
    "empty file": ("a.tsv", "", r"a\.tsv: empty; a line with column names"),
    "header only": ("a.tsv", HEAD, r"a\.tsv: no rows"),
    "empty jsonl": ("a.jsonl", "\n", r"a\.jsonl: no rows"),
    "another separator": ("a.csv", "text;label\na;1\n", r"its one column is 'text;label': set `separator` to \";\""),
    "one quoted column": ("a.csv", '"text, long"\na\n', r"its columns are 'text, long': name one of these"),
    "tabs in a csv": ("a.csv", "text\tlabel\na\t1\n", r'set `separator` to "\\t"'),
    "another separator and quotes": (
        "a.csv",
        '"text";"label"\n"a";1\n',
        r'line 1: broken quoting .* `separator`, if it is not ","',
    ),
    "json with such a key": ("a.jsonl", '{"a,b": 1}\n', r"columns are 'a,b': name one of these$"),
    "missing column": ("a.csv", "text,labels\na,1\n", r"no column 'label'; its columns are 'text', 'labels'"),
    "column twice": ("a.csv", "text,label,label\na,1,2\n", r"'label' appears more than once; rename"),
    "short tsv line": ("a.tsv", HEAD + "a\t1\nb\n", r"a\.tsv, line 3: 1 fields found, 2 expected \(text, label"),
    "long tsv line": ("a.tsv", HEAD + "\na\t1\t2\n", r"line 3: 3 fields found, 2 expected.*take tabs"),
    "short csv line": ("a.csv", 'text,label\n"a\nb",1\nc\n', r"line 4: 1 fields found, 2 expected"),
    "long csv line": ("a.csv", "text,label\na, b,1\n", r"line 2: 3 fields found, 2 expected.*in \"quotes\""),
    "open quote": ("a.csv", 'text,label\na,1\n"b,1\nc,0\n', r"a\.csv, line 3: broken quoting.*close the quote"),
    "text after quote": ("a.csv", 'text,label\n"b"c,1\n', r"a\.csv, line 2: broken quoting"),
    "latin-1": (
        "a.tsv",
        b"text\tlabel\na\t1\ncaf\xe9 b\t0\n",
        r"a\.tsv, line 3: not UTF-8 \(byte 0xe9 at offset 18\).*iconv",
    ),
    "latin-1 after a mark": ("a.csv", b"\xef\xbb\xbftext,label\ncaf\xe9,0\n", r"line 2: .*at offset 17"),
    "utf-16": (
        "a.jsonl",
        '{"text": "a"}'.encode("utf-16"),
        r"a\.jsonl: UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 a\.jsonl",
    ),
    "broken json": (
        "a.jsonl",
        '{"text": "a", "label": 1}\n{"text": "b", "label": }\n',
        r"a\.jsonl, line 2: not JSON \(Expecting value, column 24\)",
    ),
    "json array": ("a.json", '[{"text": "a", "label": 1}]\n', r"a\.json: a JSON array, not JSON lines; .* jq -c"),
    "json without the key": ("a.jsonl", '{"text": "a"}\n', r"line 1: no column 'label'; its columns are 'text'"),
    "not parquet": ("a.parquet", "text", r"a\.parquet: text, not Parquet; give it the name"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file(tmp_path, case):
    name, content, message = BAD[case]
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match="(?s)^" + re.escape(str(tmp_path)) + ".*" + message):
        read_table(path, ["text", "label"])


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r"none\.tsv: no such file"):
        read_table(tmp_path / "none.tsv", ["text"])
    (tmp_path / "a.csv").mkdir()
    with pytest.raises(InputError, match=r"a\.csv: a folder"):
        read_table(tmp_path / "a.csv", ["text"])


@pytest.mark.parametrize(
    ("text", "kind"),
    [([b"a", b"b"], "bytes"), ([["a"], ["b"]], "list"), ([{"a": 1}, {"a": 2}], "dict"), ([1.5, 2.5], "float")],
)
def test_parquet_columns_that_are_no_text(tmp_path, text, kind):
    pq.write_table(pa.table({"text": pa.array(text), "label": pa.array([0, 1])}), tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet", ["text", "label"])
    with pytest.raises(
        InputError, match=rf"a\.parquet, rows 1, 2: 'text' is {kind}, not text; set `text` to a text column"
    ):
        tiny.splits({"train": table, "test": table})


@pytest.mark.parametrize("type_", [pa.dictionary(pa.int32(), pa.string()), pa.large_string(), pa.string_view()])
def test_parquet_texts_of_any_type(tmp_path, type_):
    pq.write_table(
        pa.table({"text": pa.array(["a", "b"]).cast(type_), "label": pa.array([0, 1])}), tmp_path / "a.parquet"
    )
    assert read_table(tmp_path / "a.parquet", ["text"]).columns == {"text": ["a", "b"]}


@pytest.mark.parametrize("content", [b"", b"PAR1" + bytes(40), b"PAR1" + b"\xff" * 90 + b"\x20\x00\x00\x00PAR1"])
def test_parquet_that_is_damaged(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.parquet: (empty; text|not a readable Parquet file) .*"):
        read_table(tmp_path / "a.parquet", ["text"])


def test_parquet_with_a_column_twice(tmp_path):
    columns = [pa.array(["a", "b"]), pa.array(["c", "d"])]
    pq.write_table(pa.table(columns, names=["text", "text"]), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="column 'text' appears more than once"):
        read_table(tmp_path / "a.parquet", ["text"])


def test_parquet_without_the_column(tmp_path):
    pd.DataFrame({"sentence": ["a"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"no column 'text'; its columns are 'sentence'"):
        read_table(tmp_path / "a.parquet", ["text"])


def test_separator_of_several_characters(tmp_path):
    with pytest.raises(InputError, match="one character"):
        read_table(write(tmp_path / "a.csv", "text||label\n"), ["text"], "||")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'label,text\n1,"one, two"\n\n0,"say ""hi""\nthere"\n1,NULL\n'),
        ("a.csv", 'sep=;\nlabel;text\n1;"a\n\nb"\n0;c\n1;d'),
        ("a.tsv", '\ufefftext\tlabel\r\n"so" they say\t1\r\n\r\nan "open quote\t0\r\nplain\t1\r\n'),
        ("a.tsv", "text\tlabel\none\u2028two\x85three\t1\nfour\t0\nfive\t1\n"),
        ("a.jsonl", '{"text": "a", "label": 1}\n\n{"text": "b\u2028", "label": 0}\n{"text": "c", "label": 1}\n'),
        ("a.JSON", '{"text": "a", "label": 1}\r{"text": "b", "label": 0}\r{"text": "c", "label": 1}'),
    ],
)
def test_rows_are_counted_as_they_are_read(tmp_path, name, content):
    path = write(tmp_path / name, content)
    assert count_rows(path) == len(read_table(path, ["text", "label"])) == 3


def test_rows_of_parquet_are_counted_by_its_end(tmp_path, monkeypatch):
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0, 1]}), tmp_path / "a.parquet")
    monkeypatch.setattr(data_files, "COUNTED", 1)
    assert count_rows(tmp_path / "a.parquet") == 2


def test_what_cannot_be_counted_quickly_or_at_all_has_no_count(tmp_path, monkeypatch):
    assert count_rows(tmp_path / "absent.csv") is None
    (tmp_path / "folder.csv").mkdir()
    assert count_rows(tmp_path / "folder.csv") is None
    for name, content in (
        ("empty.csv", b""),
        ("bytes.tsv", b"text\tlabel\n\xff\xfe\t1\n"),
        ("quote.csv", b'text,label\n"never closed,1\n'),
        ("a.xlsx", b"text"),
        ("a.parquet", b"PAR1 and nothing more"),
        ("array.csv", b'[{"text": "a"}]'),
    ):
        assert count_rows(write(tmp_path / name, content)) is None, name
    path = write(tmp_path / "large.csv", "text,label\na,1\nb,0\n")
    assert count_rows(path) == 2
    monkeypatch.setattr(data_files, "COUNTED", 10)
    assert count_rows(path) is None


# The columns of a file of which nothing is known


@pytest.mark.parametrize(
    ("name", "content", "columns", "separator"),
    [
        ("a.csv", "body,team\na b,x\nc d,y\n", ["body", "team"], None),
        ("a.csv", "body;team\na, b;x\nc, d;y\n", ["body", "team"], ";"),
        ("a.csv", 'body;team\n"a; b";x\n"c\nd";y\n', ["body", "team"], ";"),
        ("a.csv", "body\tteam\na, b\tx\nc\ty\n", ["body", "team"], "\t"),
        ("a.csv", "body|team|why\na;b|x|1\nc|y|2\n", ["body", "team", "why"], "|"),
        ("a.csv", "sep=;\nbody;team\na, b;x\n", ["body", "team"], None),  # which read_table sees too
        ("a.csv", "body\na; b\nc; d; e\n", ["body"], None),
        ("a.csv", "body, team;why\na b,x;y\nc d,x;z\n", ["body", " team;why"], None),
        ("a.tsv", "body\tteam\na,b\tx\nc,d\ty\n", ["body", "team"], None),
        ("a.tsv", "body,team\na b,x\nc d,y\n", ["body", "team"], ","),
        ("a.csv", ",body,team,body\n0,a,x,b\n", ["team"], None),  # a column without a name, and one twice
        ("a.jsonl", '{"a": 1, "b": 2}\n\n{"b": 3, "c": 4}\n', ["b"], None),
    ],
)
def test_columns_and_the_separator_that_reads_them(tmp_path, name, content, columns, separator):
    path = tmp_path / name
    path.write_text(content)
    assert columns_in(path) == (columns, separator)
    assert set(read_table(path, columns, separator).columns) == set(columns)


def test_columns_of_parquet_and_of_what_is_no_table(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "a.parquet")
    assert columns_in(tmp_path / "a.parquet") == (["text", "label"], None)
    for name, content, wanted in (
        ("a.csv", b"", "empty; a line with column names"),
        ("a.jsonl", b"\n", "empty; a JSON object per line"),
        ("a.json", b"[1]", "a JSON array, not JSON lines"),
        ("b.csv", bytes(range(256)), "binary data, no text"),
        ("b.parquet", b"PAR1 damaged PAR1", "not a readable Parquet file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=re.escape(wanted)):
            columns_in(tmp_path / name)

"""CSV and TSV as spreadsheets, pandas and hands write them: read alike, or told."""

import csv
from pathlib import Path

import pandas as pd
import pytest
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.data_files import Table, check_head, read_table

COLUMNS = ["text", "label"]
FRAME = pd.DataFrame(
    {"text": ['He said "hi"', "tab\there", "a, b; c", "line\nbreak", '"', "plain"], "label": [0, 1, 0, 1, 0, 1]}
)
VALUES = {"text": FRAME.text.tolist(), "label": list("010101")}


def read(folder: Path, name: str, content: str, **settings) -> Table:
    path = folder / name
    path.write_bytes(content.encode())
    check_head(path, COLUMNS, **settings)  # what is read is not refused at plan time
    return read_table(path, COLUMNS, **settings)


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("settings", [{}, {"index": False}, {"encoding": "utf-8-sig"}, {"lineterminator": "\r\n"}])
@pytest.mark.parametrize(("name", "separator"), [("a.tsv", "\t"), ("a.csv", ","), ("a.csv", ";"), ("a.tsv", "|")])
def test_what_pandas_writes_is_read_back(tmp_path, quoting, settings, name, separator):
    path = tmp_path / name
    FRAME.to_csv(path, sep=separator, quoting=quoting, **settings)
    table = read_table(path, COLUMNS, separator)
    assert table.columns == VALUES
    assert table.reading.warnings == []
    assert (table.reading.how is None) == (name == "a.csv")


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('text\tlabel\n"He said ""hi"" 0"\t0\n"so ""it"" is"\t1\n', ['He said "hi" 0', 'so "it" is']),
        ('"text"\t"label"\n"t 0"\t"0"\n"t 1"\t"1"\n', ["t 0", "t 1"]),
        ('"text"\t"label"\n"t 0"\t0\n\t1\n', ["t 0", ""]),
        ('text\tlabel\nplain\t0\n"a ""b"""\t1\n', ["plain", 'a "b"']),
        ('text\tlabel\n"a\tb"\t0\nc\t1\n', ["a\tb", "c"]),
        ('text\tlabel\n"a\nb"\t0\nc\t1\n', ["a\nb", "c"]),
    ],
)
def test_tsv_with_the_quotes_of_csv(tmp_path, content, texts):
    table = read(tmp_path, "a.tsv", content)
    assert table.columns["text"] == texts
    assert table.reading.how.endswith("a.tsv: quotes enclose fields, as in CSV.")
    assert table.reading.warnings == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('text\tlabel\n"so" they say\t0\nan "open quote\t1\n', None),
        ('text\tlabel\n" lagaan " is long\t0\nthe "film" of ""two""\t1\n', None),
        ('text\tlabel\n"Hello."\t0\nplain\t1\n', "line 2: quotes around a field were read as part of it"),
        ('text\tlabel\n"a ""b"""\t0\nthe "c" d\t1\n', "line 2: quotes around a field were read as part of it"),
        ('text\tlabel\n"a"\t0\n"b"\t1\n', "lines 2, 3: quotes around a field were read as part of it"),
        ('text\tlabel\n"say \\"hi\\""\t0\n"b"\t1\n', "line 2: quotes and backslashes"),
    ],
)
def test_tsv_with_quotes_in_the_texts_stays_as_it_is(tmp_path, content, said):
    table = read(tmp_path, "a.tsv", content)
    assert table.columns["text"] == [line.split("\t")[0] for line in content.splitlines()[1:]]
    assert table.reading.how is None
    assert [said in warning for warning in table.reading.warnings] == ([True] if said else [])


@pytest.mark.parametrize("column", ["text", " text"])
@pytest.mark.parametrize(
    "content",
    [
        'label, text\n0, "hello, world"\n1, "so ""it"" is"\n',
        'label, "text"\n0, "hello, world"\n1, "so ""it"" is"\n',
        'label,text\n0,"hello, world"\n1,   "so ""it"" is"\n',
        'text,label\n "hello, world",0\n "so ""it"" is",1\n',
    ],
)
def test_spaces_before_quotes_are_skipped(tmp_path, content, column):
    path = tmp_path / "a.csv"
    path.write_text(content)
    check_head(path, [column, "label"])
    table = read_table(path, [column, "label"])
    assert table.columns == {column: ["hello, world", 'so "it" is'], "label": ["0", "1"]}
    assert table.reading.how.endswith("spaces before quotes are skipped.")


def test_json_lines_need_not_have_every_key_in_the_first(tmp_path):
    """As of chats of which some have tools."""
    path = tmp_path / "chats.jsonl"
    path.write_text('{"messages": []}\n\n{"messages": [], "tools": []}\n')
    check_head(path, ["messages", "tools"])
    with pytest.raises(InputError, match="no column 'functions'"):
        check_head(path, ["messages", "functions"])


@pytest.mark.parametrize("blank", ["\t", "\xa0"])
def test_another_blank_before_quotes_is_told(tmp_path, blank):
    table = read(tmp_path, "a.csv", f'text,label\na,{blank}"0"\nb,1\n')
    assert [text.partition("a.csv, ")[2] for text in table.reading.warnings] == [
        "line 2: a blank and quotes around a field were read as part of it."
    ]


def test_spaces_elsewhere_are_kept(tmp_path):
    table = read(tmp_path, "a.csv", 'text, label\n lead,1\n"x, ""y""",0\n')
    assert table.columns == {"text": [" lead", 'x, "y"'], "label": ["1", "0"]}
    assert table.reading.how is None


@pytest.mark.parametrize("hint", ["sep=;\r\n", "sep=;\n", '"sep=;"\r\n'])
def test_the_separator_that_excel_writes_above_the_header(tmp_path, hint):
    table = read(tmp_path, "a.csv", f"{hint}text;label\na, b;1\nc;0\n")
    assert table.columns == {"text": ["a, b", "c"], "label": ["1", "0"]}
    assert list(table.places) == [3, 4]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\ra,1\rb,0\r"),
        ("a.tsv", "text\tlabel\r\na\t1\r\nb\t0\r\n"),
        ("a.csv", "\ufefftext,label\na,1\nb,0"),
        ("a.csv", "text,label,\na,1,\nb,0,\n"),
        ("a.csv", "text,label\na,1,\nb,0,\n"),
        ("a.csv", "text,label,\na,1\nb,0\n"),
        ("a.tsv", "\ttext\tlabel\n0\ta\t1\n1\tb\t0\n"),
    ],
)
def test_line_ends_marks_and_columns_without_content(tmp_path, name, content):
    assert read(tmp_path, name, content).columns == {"text": ["a", "b"], "label": ["1", "0"]}


BAD = {
    "all ragged lines": (
        "a.tsv",
        "text\tlabel\n" + "a\n" * 7 + "a\t1\na\tb\t1\n",
        "lines 2, 3, 4, 5, 6 and 2 more: 1 fields found, 2 expected (text, label); also ",
        "line 10: 3 fields found",
        "; take tabs and line breaks out of the texts",
    ),
    "several kinds": (
        "a.csv",
        b"text,label\ncaf\xe9,1\na\nb\x00,1\nna\xefve,0\n",
        "lines 2, 5: not UTF-8 (byte 0xe9 at offset 14); convert it: iconv",
        "line 3: 1 fields found, 2 expected",
        "line 4: a NUL byte",
    ),
    "names of rows": (
        "a.tsv",
        "text\tlabel\n1\ta\t0\n2\tb\t1\n",
        "each of its 2 rows has 3 fields and the header 2 (text, label); add the name that is missing",
    ),
    "files that were joined": (
        "a.csv",
        "text,label\na,1\nb,0\ntext,label\nc,1\n",
        "line 4: the header again, as in files that were joined; take the line out",
    ),
    "all broken quotes, and what is ragged between": (
        "a.csv",
        'text,label\n"a"x,1\nb\n"c"y,0\nd,1\n',
        "lines 2, 4: broken quoting (',' expected after '\"'); close the quote",
        "line 3: 1 fields found",
    ),
    "what is no text has no columns": ("a.csv", b"\x01\xfe;\t\n\xff", "lines 1, 2: not UTF-8"),
    "a backslash before a quote": ("a.csv", 'text,label\n"say \\"hi\\", x",1\n', 'two quotes (""), not as \\"'),
    "a space after a quote": ("a.csv", 'text,label\n"a" ,1\n"b" ,0\n', "take out the spaces after the quotes"),
    "bad JSON lines": (
        "a.jsonl",
        '{"text": "a", "label": 1}\n{bad\n[1]\n{"label": 1}\n{"text": "b", "text": "c", "label": 1}\n',
        "line 2: not JSON (",
        "line 3: a JSON list, not an object; JSON lines has",
        "line 4: no key 'text'; ",
        "line 5: the key 'text' appears more than once",
    ),
    "deep JSON": ("a.jsonl", '{"text": ' + "[" * 200_000 + "]" * 200_000 + "}\n", "line 1: JSON nested too deep"),
    "a deep JSON object": ("a.jsonl", '{"a":' * 200_000, "line 1: JSON nested too deep"),
    "a huge number": (
        "a.jsonl",
        '{"text": "a", "label": ' + "9" * 5000 + "}\n",
        "line 1: JSON with a whole number of more than 4300 digits",
    ),
    "pretty JSON": ("a.json", '{\n  "text": "a",\n  "label": 1\n}\n', "one JSON object over several lines; "),
}


@pytest.mark.parametrize("case", BAD)
def test_all_bad_lines_stand_in_one_error(tmp_path, case):
    name, content, *parts = BAD[case]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as raised:
        read_table(path, COLUMNS)
    assert [part for part in parts if part not in str(raised.value)] == [], raised.value
    assert "\n" not in str(raised.value)


def reviews(count: int, labels: str = "ab") -> list[str]:
    return [f"w{i} of {i % 7},{labels[i % len(labels)]}" for i in range(count)]


def open_quote(rows: list[str], first: int, last: int) -> list[str]:
    """Rows between a quote that begins row `first` and one that ends the text of row `last`."""
    marked = list(rows)
    marked[first] = '"' + marked[first]
    marked[last] = marked[last].replace(",", '",', 1)
    return marked


SWALLOWED = {
    "360 rows": (open_quote(reviews(400), 20, 380), 22, 382),
    "two rows": (open_quote(reviews(9), 3, 4), 5, 6),
    "three rows": (open_quote(reviews(9), 3, 5), 5, 7),
    "numbers that all differ": (open_quote([f"w{i},{i}.5" for i in range(30)], 4, 20), 6, 22),
    "some with a comma more": (
        open_quote([f"{row[:2]}, {row}" if 5 < i < 9 else row for i, row in enumerate(reviews(30))], 4, 20),
        6,
        22,
    ),
}


@pytest.mark.parametrize("case", SWALLOWED)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_between_two_stray_quotes_are_told(tmp_path, case, end):
    rows, first, last = SWALLOWED[case]
    content = end.join(["text,label", *rows, ""])
    table = read(tmp_path, "a.csv", content)
    assert len(table) == len(pd.read_csv(tmp_path / "a.csv")) == len(rows) - (last - first)
    assert [text.partition("a.csv, ")[2] for text in table.reading.warnings] == [
        f"line {first}: the quote that opens there closes in line {last}, so {last - first + 1} lines are one row, and "
        "most of them look like rows of their own; take the quote out or double it if they are."
    ]


def test_stray_quotes_where_the_label_stands_first_and_in_a_tsv(tmp_path):
    rows = [f"{'ab'[i % 2]}\tw{i}" for i in range(30)]
    rows[4], rows[20] = 'a\t"w4', 'b\tw20"'
    table = read(tmp_path, "a.csv", "\n".join(["label\ttext", *rows, ""]), separator="\t")
    assert len(table) == 14
    assert "a.csv, line 6: the quote that opens there closes in line 22, so 17" in table.reading.warnings[0]


def test_many_stray_quotes_are_counted(tmp_path):
    rows = reviews(80)
    for first in range(0, 80, 10):
        rows = open_quote(rows, first, first + 4)
    warnings = read(tmp_path, "a.csv", "\n".join(["text,label", *rows, ""])).reading.warnings
    assert len(warnings) == 6
    assert warnings[-1].endswith("a.csv: 3 more rows of that kind.")


PROSE = {
    "a poem": "Roses are red, violets are blue\nSugar is sweet, and so are you\nThis is a line, this one too",
    "a letter": "Dear all,\n\nthank you, very much\nbest wishes, Ann",
    "two lines with commas": "Good, bad\nugly, or not",
    "a list": "flour, 200\nsugar, 1\nbutter, 50\neggs, 3",
    "one line that is like a row": "We said\nso,a\nand this\nand that",
}


@pytest.mark.parametrize("labels", ["ab", "01"])
@pytest.mark.parametrize("case", PROSE)
def test_texts_of_several_lines_are_no_warning(tmp_path, case, labels):
    content = "\n".join(["text,label", *reviews(6, labels), f'"{PROSE[case]}",{labels[0]}', *reviews(6, labels), ""])
    table = read(tmp_path, "a.csv", content)
    assert table.columns["text"][6] == PROSE[case]
    assert table.reading.warnings == []

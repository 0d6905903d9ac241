"""Texts in tables: no spreadsheet computes them, no reader of Markdown or LaTeX runs them, and ours read them back."""

import json

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from peft_tradeoffs.analysis import comparison, readable
from peft_tradeoffs.analysis.tables import read_table
from peft_tradeoffs.core.files import marked, rows_to_csv, to_csv, unmarked
from peft_tradeoffs.core.text import inert
from peft_tradeoffs.report import imported

COMPUTED = (
    '=HYPERLINK("http://127.0.0.1:9/?"&A1,"x")', "@SUM(1)", "-2+3+cmd|' /C calc'!A0", "+1+1", "+1", "\t=1+1",
    "\r=1", "\n=1", " =1+1", "\ufeff=1", "\u200b=1", "＝1+1", "-A1", "=", "-", "'=1", "''@x",
)  # fmt: skip
KEPT = ("-1.5", "-2e-5", "-3", "-inf", "plain", "a=b", "'quoted'", "", "lora-r8", "1+1", "🙂", "don't")
LIVE = (
    "<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "[x](javascript:alert(1))",
    "\\[x](javascript:alert(1))", "![x](http://127.0.0.1:9/)", "[x][y]", "[x]: javascript:alert(1)",
    "<javascript:alert(1)>", "`a` | `b`", "&lt;b&gt;", "a\\|b", "<svg/onload=alert(1)>", "a\n\n# heading", "x\\",
    "\\\\[x](y)", "[[x](y)](z)", "<!-- -->",
)  # fmt: skip


@pytest.mark.parametrize("text", COMPUTED)
def test_a_text_that_a_spreadsheet_computes_is_marked_and_read_back(tmp_path, text):
    assert marked(text) == f"'{text}" and unmarked(marked(text)) == text
    frame = pd.DataFrame({"arm": [text, "full"], "value": [-1.5, 2.0], text: ["x", None]})
    (tmp_path / "t.csv").write_text(to_csv(frame), newline="")
    read = read_table(tmp_path / "t.csv", (), "make it again")
    if "\r" in text:
        frame = frame.replace(text, "\n=1").rename(columns={text: "\n=1"})
    pd.testing.assert_frame_equal(read, frame)


@pytest.mark.parametrize("text", KEPT)
def test_any_other_text_stays_as_it_is(text):
    assert marked(text) == text and unmarked(text) == text


def test_numbers_stay_numbers():
    assert to_csv(pd.DataFrame({"a": [-1.5], "b": [True], "c": [-2]})) == "a,b,c\n-1.5,True,-2\n"


@pytest.mark.parametrize("text", LIVE)
def test_markdown_shows_a_text_and_runs_none(text):
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    (line,) = [token for token in reader.parse(f"x {inert(text)}") if token.type == "inline"]
    assert {child.type for child in line.children} <= {"text", "text_special"}
    shown = "".join(child.content for child in line.children)
    assert shown == f"x {' '.join(text.split())}"
    table = readable.grid(pd.DataFrame({"Arm": [text], "Value": ["1"]}))
    cells = [token for token in reader.parse(table) if token.type == "inline"][2:]
    assert len(cells) == 2 and {child.type for cell in cells for child in cell.children} <= {"text", "text_special"}


@pytest.mark.parametrize(
    "text", ["\\input{/etc/passwd}", "\\write18{id}", "a\n\nb", "[1ex] x", "* x", "$x$ %", "^^5cx"]
)
def test_latex_prints_a_text_and_runs_none(text):
    escaped = readable.escape_latex(text)
    assert "\n" not in escaped and not escaped.startswith(("[", "*"))
    left = escaped.replace("\\textbackslash{}", "").replace("\\textasciicircum{}", "")
    assert "\\input" not in left and "\\write" not in left and "^^" not in left


def test_imported_results_are_inert(tmp_path):
    content = {
        "run_info": {
            "experiment_name": '=HYPERLINK("http://127.0.0.1:9")',
            "created_at": "2026-01-01T00:00:00",
            "total_time": 1.0,
            "train_config": {
                "model_id": "<img src=x onerror=alert(1)>|",
                "dataset_id": "[x](javascript:alert(1)) \\input{/etc/passwd}",
                "dtype": "@SUM(1)",
            },
            "peft_config": {"peft_type": "LORA", "r": 8},
            "error_msg": "-2+3+cmd|' /C calc'!A0",
        },
        "train_info": {"status": "success", "metrics": [{"test accuracy": 0.5}], "train_time": 1.0, "file_size": 3},
        "meta_info": {"package_info": {"peft-version": "+1+1"}, "system_info": {"gpu": "<b>bold</b> | x"}},
    }
    (tmp_path / "hostile.json").write_text(json.dumps(content))
    frame = imported.imported_frame({"peft": [str(tmp_path / "hostile.json")]})
    text = imported
    readable.write_tables(
        tmp_path,
        "imported",
        frame,
        text.imported_readable,
        text.imported_notes,
        readable.Beside(lead=text.imported_lead, by="source"),
    )
    written = pd.read_csv(tmp_path / "imported.csv", dtype=str, keep_default_na=False)
    first = {value[0] for value in written.iloc[0] if value and not value.replace(".", "").isdigit()}
    assert not first & set("=+-@")
    markdown = MarkdownIt("commonmark", {"html": True}).enable("table").render((tmp_path / "imported.md").read_text())
    assert "<img" not in markdown and "<a " not in markdown and "<b>" not in markdown
    assert "\\input" not in (tmp_path / "imported.tex").read_text()


def test_classes_and_names_like_numbers_are_read_back_as_texts(tmp_path):
    """Beside a row without a class pandas would make 7.0 of 007."""
    named = {"dataset": "1e3", "model": "00", "arm": "1", "method": "1", "baseline": "1", "positive_class": "007"}
    row = dict.fromkeys(comparison.COLUMNS) | named
    frame = pd.DataFrame([row, row | {"positive_class": None}])
    (tmp_path / "comparison.csv").write_text(to_csv(frame))
    read = comparison.read_comparison(tmp_path / "comparison.csv")
    assert read.iloc[0][list(named)].to_dict() == named and pd.isna(read["positive_class"][1])


def test_rows_are_written_as_a_table_of_them_is():
    columns = ["name", "=seconds", "calls", "done", "reason"]
    rows = [
        {"name": "=SUM(1)", "=seconds": 0.1 + 0.2, "calls": 3, "done": True, "reason": None, "more": 1},
        {"name": 'a "b", c\r\nd', "=seconds": 1e-7, "calls": -4, "done": False, "reason": "x"},
        {"name": "-2", "=seconds": 2.0, "calls": 5, "done": True},
    ]
    assert rows_to_csv(rows, columns) == to_csv(pd.DataFrame(rows, columns=columns))

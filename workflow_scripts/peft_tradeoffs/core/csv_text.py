"""Tables as CSV in which no spreadsheet computes a text, and back. Texts come from users, libraries and others' files.

Cheap to import.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MARK = "'"  # a spreadsheet takes what follows it for text
# What a spreadsheet may take for a formula, behind white space and signs that cannot be seen too.
FORMULA = re.compile(r"[\s\x00-\x1f\u200b-\u200f\u2060\ufeff]*[=+\-@＝＋－＠]|[\t\r\n]")
MARKED = re.compile(rf"{MARK}+(?:{FORMULA.pattern})")
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|-?(?:inf|nan)", re.IGNORECASE)


def marked(value: Any) -> Any:
    """A cell as it is written: a text that would be computed gets a MARK before it; anything else stays."""
    if not isinstance(value, str) or NUMBER.fullmatch(value):
        return value
    return MARK + value if FORMULA.match(value) or MARKED.match(value) else value


def unmarked(value: Any) -> Any:
    """A cell as it was before `marked`."""
    return value[len(MARK) :] if isinstance(value, str) and MARKED.match(value) else value


def _cell(value: Any) -> Any:
    """`marked`; without carriage returns, which end a row though they stand in no quotes."""
    return marked(value.replace("\r\n", "\n").replace("\r", "\n") if isinstance(value, str) else value)


def rows_to_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as `to_csv` writes a table, where pandas is not to be loaded; what a row lacks, or is None, is empty."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(map(_cell, columns))
    lines.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def to_csv(frame: "pd.DataFrame") -> str:
    """The table as CSV, its texts and the names of its columns marked, line breaks in them as "\\n"."""
    texts = frame.select_dtypes(include=["object", "string", "category"]).columns
    shown = frame.astype(dict.fromkeys(texts, object))
    shown[texts] = shown[texts].map(_cell)
    return shown.rename(columns=_cell).to_csv(index=False, lineterminator="\n")


def restored(frame: "pd.DataFrame") -> "pd.DataFrame":
    """A table that was read from what `to_csv` made, as it was before."""
    texts = frame.select_dtypes(include=["object", "string"]).columns
    changed = {name: frame[name].map(unmarked) for name in texts}
    return frame.assign(**changed).rename(columns=unmarked) if changed else frame.rename(columns=unmarked)

"""Tables that another script of this workflow wrote as CSV, read back: whole, and of the types that they had."""

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from peft_tradeoffs.core import files
from peft_tradeoffs.core.csv_text import restored
from peft_tradeoffs.core.errors import InputError


def read_table(
    path: Path,
    needed: Iterable[str],
    remedy: str,
    dtype: Mapping[str, Any] | None = None,
    numbers: Iterable[str] = (),
) -> pd.DataFrame:
    """The table; an empty cell is null, and nothing else is.

    `dtype` as pandas has it; `numbers` are columns that must hold numbers, true and false, or nothing. Raises
    InputError, which ends in `remedy`, for a file that is missing, cut, damaged, or lacks a column of `needed`.
    """
    try:
        content = files.read_bytes(path, remedy)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {remedy}") from None
    try:
        _check_whole(content)
        frame = restored(pd.read_csv(io.BytesIO(content), keep_default_na=False, na_values=[""], dtype=dtype))
    except (ValueError, OverflowError, csv.Error) as error:
        raise InputError(f"{path}: not a table of this workflow ({error}); {remedy}") from None
    if missing := [name for name in needed if name not in frame]:
        raise InputError(f"{path}: no column {', '.join(missing)}; {remedy}")
    for name in numbers:
        if name in frame and not _are_numbers(frame[name]):
            raise InputError(f"{path}: column {name} holds more than numbers; {remedy}")
    return frame


def _check_whole(content: bytes) -> None:
    """Raise ValueError for a table that ends in mid-line, or with a line of more or fewer cells than it has columns."""
    text = content.decode("utf-8")
    if not text.endswith("\n"):
        raise ValueError("it is cut off: its last line has no end")
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns = len(next(rows, []))
    for row in rows:
        if row and len(row) != columns:
            raise ValueError(f"line {rows.line_num} has {len(row)} cells, the table {columns} columns")


def _are_numbers(values: pd.Series) -> bool:
    return values.dtype.kind in "iufb" or all(isinstance(value, bool) for value in values.dropna())

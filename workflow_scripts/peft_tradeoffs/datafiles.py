"""Reading local data files: CSV, TSV, JSON lines and Parquet, with errors that name the line."""

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from peft_tradeoffs.errors import InputError

EXTENSIONS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
NAMED_PLACES = 5  # line numbers an error spells out before "and n more"
FIELD_LIMIT = 2**31 - 1  # characters; the csv module's own limit is 131,072


@dataclass(frozen=True)
class Table:
    """Columns as lists of plain Python values (None where missing), and where each row stands.

    `name` is what an error calls the table, `places` the 1-based `unit` ("line" or "row") of each row.
    `label_names` is the order of the classes where the source fixes one (a hub ClassLabel), else None.
    """

    name: str
    columns: dict[str, list[Any]]
    places: Sequence[int]
    unit: str
    label_names: list[str] | None = None

    def __len__(self) -> int:
        return len(self.places)

    def at(self, indices: Sequence[int]) -> str:
        """The rows with these 0-based indices, as an error names them: `a.tsv, lines 3, 7`."""
        shown = ", ".join(str(self.places[index]) for index in indices[:NAMED_PLACES])
        more = f" and {len(indices) - NAMED_PLACES} more" if len(indices) > NAMED_PLACES else ""
        return f"{self.name}, {self.unit}{'s' if len(indices) > 1 else ''} {shown}{more}"


def read_table(path: Path, columns: Sequence[str], separator: str | None = None) -> Table:
    """Read `columns` of a .csv, .tsv, .jsonl, .json (JSON lines) or .parquet file.

    CSV is read with quotes and TSV without (a quote is a character like any other), so every CSV and TSV
    value is a str; JSON and Parquet values keep their type. Blank lines are skipped. `separator` replaces
    the comma of .csv and the tab of .tsv.
    Raises InputError for a file that is missing, empty, of another extension, not UTF-8, ragged, broken or
    without one of the columns.
    """
    extension = _extension(path)
    try:
        if extension == ".parquet":
            table = _parquet(path, columns)
        elif extension in (".json", ".jsonl"):
            table = _json_lines(path, columns)
        else:
            table = _delimited(path, columns, separator)
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read: permission denied; chmod it or copy it") from error
    if not len(table):
        raise InputError(f"{path}: no rows; every split needs at least 2")
    return table


def check_head(path: Path, columns: Sequence[str], separator: str | None = None) -> None:
    """Raise InputError for a file that read_table refuses for its name, its columns or having no row.

    Reads the first row and no further, and leaves to read_table what is broken in it: that says where.
    """
    extension = _extension(path)
    if extension == ".parquet":
        return  # its columns stand in no text
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if extension in (".json", ".jsonl"):
                row = json.loads(next(line for line in file if line.strip()))
                header = list(row) if isinstance(row, dict) else columns
            else:
                records = _records(path, file, _separator(path, separator))
                header = next(records)[1]
                _check_parted(path, header, _separator(path, separator))
                next(records)
    except StopIteration:
        raise InputError(f"{path}: no rows; at least 2 with {', '.join(columns)} are needed") from None
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read: permission denied; chmod it or copy it") from error
    except ValueError:  # neither UTF-8 nor JSON
        return
    check_columns(str(path), header, columns)


def _check_parted(path: Path, header: Sequence[str], separator: str) -> None:
    """Raise InputError for a header of one field that another separator would part."""
    if len(header) == 1 and (
        other := next((mark for mark in ";\t|," if mark in header[0] and mark != separator), None)
    ):
        raise InputError(f"{path}: its one column is {header[0]!r}: set `separator` to {json.dumps(other)}")


def check_columns(name: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise InputError unless each of `wanted` is in `found` exactly once."""
    for column in wanted:
        if column not in found:
            there = ", ".join(map(repr, found)) or "none"
            raise InputError(f"{name}: no column {column!r}; its columns are {there}: set `text` and `label` to these")
        if list(found).count(column) > 1:
            raise InputError(f"{name}: column {column!r} appears more than once; rename all but one")


def _extension(path: Path) -> str:
    """The lower-case extension of a file that can be read."""
    if not path.exists():
        raise InputError(f"{path}: no such file; paths are relative to the folder Snakemake runs in")
    if path.is_dir():
        raise InputError(f"{path}: a folder; give one file a split ({', '.join(EXTENSIONS)})")
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        raise InputError(f"{path}: unknown extension {extension!r}; one of {', '.join(EXTENSIONS)} is read")
    return extension


def _text(path: Path) -> str:
    """The file as text, without a byte order mark."""
    content = path.read_bytes()
    start = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    try:
        return content[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        offset = start + error.start
        line = content.count(b"\n", 0, offset) + 1
        raise InputError(
            f"{path}, line {line}: not UTF-8 (byte 0x{content[offset]:02x} at offset {offset}); "
            f"convert it: iconv -f <its encoding> -t UTF-8 {path.name} > utf8{path.suffix}"
        ) from error


def _separator(path: Path, separator: str | None) -> str:
    separator = separator or ("\t" if path.suffix.lower() == ".tsv" else ",")
    if len(separator) != 1:
        raise InputError(f"separator {separator!r}: one character is needed")
    return separator


def _records(path: Path, text: TextIO, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Each record of `text`, the content of `path`, that is not a blank line, with the 1-based line it starts on."""
    csv.field_size_limit(FIELD_LIMIT)
    quoting = csv.QUOTE_NONE if path.suffix.lower() == ".tsv" else csv.QUOTE_MINIMAL
    reader = csv.reader(text, delimiter=separator, quoting=quoting, strict=True)
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        parted = f", or set `separator`, if it is not {json.dumps(separator)}" if line == 1 else ""
        raise InputError(
            f"{path}, line {line}: broken quoting ({error}); close the quote and double those inside a field{parted}"
        ) from error


def _delimited(path: Path, columns: Sequence[str], separator: str | None) -> Table:
    separator = _separator(path, separator)
    records = _records(path, io.StringIO(_text(path), newline=""), separator)
    _, header = next(records, (1, []))
    if not header:
        raise InputError(f"{path}: empty; a line with column names and at least 2 rows are needed")
    _check_parted(path, header, separator)
    check_columns(str(path), header, columns)
    places, rows = [], []
    for line, fields in records:
        if len(fields) != len(header):
            raise InputError(
                f"{path}, line {line}: {len(fields)} fields found, {len(header)} expected "
                f"({', '.join(header)}); "
                + (
                    "take tabs and line breaks out of the texts"
                    if path.suffix.lower() == ".tsv"
                    else f'put fields that hold {separator!r} or a line break in "quotes"'
                )
            )
        places.append(line)
        rows.append(fields)
    indices = {column: header.index(column) for column in columns}
    return Table(str(path), {name: [row[i] for row in rows] for name, i in indices.items()}, places, "line")


def _json_lines(path: Path, columns: Sequence[str]) -> Table:
    values: dict[str, list[Any]] = {column: [] for column in columns}
    places = []
    for line, text in enumerate(_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {line}: not JSON ({error.msg}, column {error.colno}); "
                "JSON lines has one whole object a line"
            ) from error
        if not isinstance(record, dict):
            raise InputError(
                f"{path}, line {line}: a JSON {type(record).__name__}, not an object; "
                "JSON lines has one whole object a line"
            )
        check_columns(f"{path}, line {line}", list(record), columns)
        for column in columns:
            values[column].append(record[column])
        places.append(line)
    return Table(str(path), values, places, "line")


def _parquet(path: Path, columns: Sequence[str]) -> Table:
    import pyarrow as pa  # a second to import, and the other formats do without
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            check_columns(str(path), file.schema_arrow.names, columns)
            table = file.read(columns=list(dict.fromkeys(columns)))
        table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, PermissionError):
            raise
        raise InputError(f"{path}: not a readable Parquet file ({error}); write it again") from error
    values = {column: table.column(column).to_pylist() for column in columns}
    return Table(str(path), values, range(1, table.num_rows + 1), "row")

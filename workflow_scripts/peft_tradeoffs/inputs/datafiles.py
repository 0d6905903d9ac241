"""Reading local data files: CSV, TSV, JSON lines and Parquet, with errors that name the lines."""

import codecs
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs import delimited
from peft_tradeoffs.inputs.bad_places import Faults, listed, refuse
from peft_tradeoffs.inputs.delimited import Reading
from peft_tradeoffs.inputs.file_kind import check_kind

EXTENSIONS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
HEAD = 2**20  # characters that the head of a file is looked for in
ONE_OBJECT = "JSON lines has one whole object per line"


@dataclass(frozen=True)
class Table:
    """Columns as lists of plain Python values (None where missing), and where each row stands.

    `name` is what an error calls the table, `places` the 1-based `unit` ("line" or "row") of each row.
    `label_names` is the order of the classes where the source fixes one (a hub ClassLabel), else None.
    `reading` is how a text file was read.
    """

    name: str
    columns: dict[str, list[Any]]
    places: Sequence[int]
    unit: str
    label_names: list[str] | None = None
    reading: Reading = field(default_factory=lambda: Reading(None, []))

    def __len__(self) -> int:
        return len(self.places)

    def at(self, indices: Sequence[int]) -> str:
        """The rows with these 0-based indices, as an error names them: `a.tsv, lines 3, 7`."""
        return listed(self.name, self.unit, [self.places[index] for index in indices])


def read_table(path: Path, columns: Sequence[str], separator: str | None = None) -> Table:
    """Read `columns` of a .csv, .tsv, .jsonl, .json (JSON lines) or .parquet file.

    CSV and TSV are read as `delimited` says, and every value of theirs is a str; JSON and Parquet values keep their
    type. Blank lines are skipped. `separator` replaces the comma of .csv and the tab of .tsv. A column's name need
    not repeat spaces and quotes around it.
    Raises one InputError, with every bad line, for a file that is missing, empty, of another kind or extension, not
    UTF-8, ragged, broken or without one of the columns.
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
    """Raise InputError for a file that read_table refuses for its kind, its name, its columns or having no row.

    Reads the first row and no further, and leaves to read_table what is broken in it: that says where.
    """
    extension = _extension(path)
    if extension == ".parquet":
        return  # its columns stand in no text
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if extension in (".json", ".jsonl"):
                first = next(line for line in file if line.strip())
                _refuse_array(path, first)
                row = json.loads(first)
                header = list(row) if isinstance(row, dict) else columns
            else:
                start = file.read(HEAD)
                dialect, hint = delimited.own_dialect(path, separator, start)
                head = delimited.Parsed()
                records = delimited.read_records(io.StringIO(start[hint:], newline=""), dialect, head, 2 if hint else 1)
                header = next(records, (1, []))[1]
                if head.broken and len(start) < HEAD:
                    delimited.refuse_broken(path, start, dialect, head)
                if not header:
                    raise StopIteration
                delimited.check_parted(path, header, dialect.separator)
                if next(records, None) is None and not head.broken and len(start) < HEAD:
                    raise StopIteration
    except StopIteration:
        raise InputError(f"{path}: no rows; at least 2 with {', '.join(columns)} are needed") from None
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read: permission denied; chmod it or copy it") from error
    except (ValueError, RecursionError):  # neither UTF-8 nor JSON
        return
    find_columns(str(path), header, columns)


def find_columns(name: str, found: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The name in `found` of each of `wanted`: the same one, or the only one that is but for spaces and quotes around.

    Raises InputError for one that is not there, or there more than once.
    """
    names = []
    for column in wanted:
        alike = [column] if column in found else [other for other in found if _bare(other) == _bare(column)]
        if not alike:
            there = ", ".join(map(repr, found[:50])) or "none"
            raise InputError(f"{name}: no column {column!r}; its columns are {there}: set `text` and `label` to these")
        if len(alike) > 1 or list(found).count(alike[0]) > 1:
            raise InputError(f"{name}: column {column!r} appears more than once; rename all but one")
        names += alike
    return names


def _bare(column: str) -> str:
    return unicodedata.normalize("NFC", column).strip().strip('"\ufeff').strip()


def _extension(path: Path) -> str:
    """The lower-case extension of a file that can be read."""
    check_kind(path)
    extension = path.suffix.lower()
    if extension not in EXTENSIONS:
        raise InputError(f"{path}: unknown extension {extension!r}; one of {', '.join(EXTENSIONS)} is read")
    return extension


def _text(path: Path, faults: Faults) -> str:
    """The file as text, without a byte order mark; lines that are not UTF-8 or hold NUL bytes go to `faults`."""
    content = path.read_bytes()
    start = len(codecs.BOM_UTF8) if content.startswith(codecs.BOM_UTF8) else 0
    if b"\x00" in content:
        for line, text in enumerate(content.split(b"\n"), start=1):
            if b"\x00" in text:
                faults.add(line, "a NUL byte, which no text has", "copy or write the file again")
    try:
        return content[start:].decode("utf-8")
    except UnicodeDecodeError as error:
        first = start + error.start
    kind = f"not UTF-8 (byte 0x{content[first]:02x} at offset {first})"
    remedy = f"convert it: iconv -f <its encoding> -t UTF-8 {path.name} > utf8{path.suffix}"
    for line, text in enumerate(content.split(b"\n"), start=1):
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            faults.add(line, kind, remedy)
    return content[start:].decode("utf-8", errors="replace")


def _delimited(path: Path, columns: Sequence[str], separator: str | None) -> Table:
    faults = Faults(str(path), "line")
    records, reading = delimited.read(path, _text(path, faults), separator, faults)
    if not records:
        refuse([faults])
        raise InputError(f"{path}: empty; a line with column names and at least 2 rows are needed")
    (_, header), *rows = records
    if not faults.kinds:
        names = find_columns(str(path), header, columns)
    for line, fields in rows:
        if fields == header:
            faults.add(line, "the header again, as in files that were joined", "take the line out")
    refuse([faults])
    indices = [header.index(name) for name in names]
    values = {column: [fields[i] for _, fields in rows] for column, i in zip(columns, indices, strict=True)}
    return Table(str(path), values, [line for line, _ in rows], "line", None, reading)


class _Twice(dict[str, Any]):
    """A JSON object that has a key twice; `keys_twice` names them."""

    keys_twice: frozenset[str] = frozenset()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        found = _Twice(found)
        found.keys_twice = frozenset(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
    return found


def _json_lines(path: Path, columns: Sequence[str]) -> Table:
    faults = Faults(str(path), "line")
    text = _text(path, faults)
    _refuse_array(path, text)
    if "\n" not in text:
        text = text.replace("\r", "\n")
    values: dict[str, list[Any]] = {column: [] for column in columns}
    names: list[str] = []
    places = []
    for line, record_text in enumerate(text.split("\n"), start=1):
        if not record_text.strip():
            continue
        record, fault = _record(record_text)
        if record is None:
            faults.add(line, fault, ONE_OBJECT)
            continue
        if not names:
            names = find_columns(f"{path}, line {line}", list(record), columns)
        if lacking := [name for name in names if name not in record]:
            faults.add(line, f"no key {lacking[0]!r}", "give every object the keys that `text` and `label` name")
            continue
        if isinstance(record, _Twice) and (twice := record.keys_twice & set(names)):
            faults.add(line, f"the key {min(twice)!r} appears more than once", "keep one of them")
        for column, name in zip(columns, names, strict=True):
            values[column].append(record[name])
        places.append(line)
    if faults.kinds and not places and _record(text)[0] is not None:
        raise InputError(f"{path}: one JSON object over several lines; {ONE_OBJECT}: jq -c . {path.name} > lines.jsonl")
    refuse([faults])
    return Table(str(path), values, places, "line")


def _refuse_array(path: Path, text: str) -> None:
    if text.lstrip()[:1] == "[":
        raise InputError(
            f"{path}: a JSON array, not JSON lines; write one object per line: jq -c '.[]' {path.name} > lines.jsonl"
        )


def _record(text: str) -> tuple[dict[str, Any] | None, str]:
    """The JSON object of one line, or None and what is wrong with the line."""
    try:
        record = json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        return None, f"not JSON ({error.msg}, column {error.colno})"
    except RecursionError:
        return None, "JSON nested too deep"
    except ValueError:  # Python's own limit
        return None, "JSON with a whole number of more than 4300 digits"
    if not isinstance(record, dict):
        return None, f"a JSON {type(record).__name__}, not an object"
    return record, ""


def _parquet(path: Path, columns: Sequence[str]) -> Table:
    import pyarrow as pa  # a second to import, and the other formats do without
    import pyarrow.parquet as pq

    if not path.stat().st_size:
        raise InputError(f"{path}: empty; {', '.join(columns)} and at least 2 rows are needed")
    try:
        with pq.ParquetFile(path) as file:
            names = find_columns(str(path), file.schema_arrow.names, columns)
            table = file.read(columns=list(dict.fromkeys(names)))
        table.validate(full=True)
        values = {column: table.column(name).to_pylist() for column, name in zip(columns, names, strict=True)}
    except PermissionError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a readable Parquet file ({reason}); write it again") from error
    return Table(str(path), values, range(1, table.num_rows + 1), "row")

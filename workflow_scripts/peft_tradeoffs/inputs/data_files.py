"""Reading local data files: CSV, TSV, JSON lines and Parquet, with errors that list every bad line."""

import codecs
import csv
import io
import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from peft_tradeoffs.core.errors import NAMED_PLACES, Faults, InputError, error_text, listed, refuse
from peft_tradeoffs.inputs.file_kind import check_kind

FIELD_LIMIT = 2**31 - 1  # characters; the csv module's own limit is 131,072
HINT = re.compile(r'"?sep=(.)"?(?:\r\n?|\n)', re.IGNORECASE)  # a first line that Excel writes and reads
JSON = re.compile(r'\s*(?:\[\s*)?\{\s*"')
BREAK = re.compile(r"\r\n?|\n")
PLAIN_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)
ESCAPED = re.compile(r'"(?:[^"\\]|\\.)*\\"(?:[^"\\]|\\.)*"', re.DOTALL)  # a field with \" inside its quotes


@dataclass(frozen=True)
class Dialect:
    """The one character between fields, whether quotes enclose fields, and whether spaces before them are skipped."""

    separator: str
    quoted: bool
    skip_spaces: bool = False


@dataclass
class Parsed:
    """Records as (1-based first line, fields), the header first, and the lines and reasons of those that are none."""

    records: list[tuple[int, list[str]]] = field(default_factory=list)
    broken: list[tuple[int, str]] = field(default_factory=list)

    def even(self) -> bool:
        """Whether all was read and every record has as many fields as the header."""
        return not self.broken and len({len(fields) for _, fields in self.records}) == 1


class Reading(NamedTuple):
    """How a file was read where its name does not say it, warnings where that was not certain, and the separator."""

    how: str | None
    warnings: list[str]
    separator: str = ","


def own_dialect(path: Path, separator: str | None, start: str) -> tuple[Dialect, int]:
    """The dialect that the name, the config's separator and an Excel hint set, and the length of that hint.

    `start` is the beginning of the file's text. CSV is taken as quoted, TSV as plain.
    """
    if JSON.match(start):
        raise InputError(f"{path}: it holds JSON, not column names; name the file .jsonl")
    hint = HINT.match(start)
    tsv = path.suffix.lower() == ".tsv"
    separator = separator or (hint[1] if hint else "\t" if tsv else ",")
    if len(separator) != 1 or separator in '"\r\n\0':
        raise InputError(f"separator {separator!r}: one character is needed, and no quote or line break")
    return Dialect(separator, not tsv), hint.end() if hint else 0


def read_records(
    text: TextIO, dialect: Dialect, parsed: Parsed, first_line: int = 1
) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not a blank line; those whose quotes are broken go to `parsed.broken`, with the first line.

    After such a one, but for the header, reading goes on with the next line.
    """
    csv.field_size_limit(FIELD_LIMIT)
    start, ended, header = first_line, False, False
    while not ended:
        reader = csv.reader(
            text,
            delimiter=dialect.separator,
            quoting=csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE,
            skipinitialspace=dialect.skip_spaces,
            strict=True,
        )
        line = start
        try:
            for fields in reader:
                if fields:
                    header = True
                    yield line, fields
                line = start + reader.line_num
            ended = True
        except csv.Error as error:
            parsed.broken.append((line, str(error)))
            start += reader.line_num
            ended = not header


def parse(text: str, dialect: Dialect, first_line: int) -> Parsed:
    """All records of `text`."""
    parsed = Parsed()
    parsed.records = list(read_records(io.StringIO(text, newline=""), dialect, parsed, first_line))
    return parsed


def read(path: Path, text: str, separator: str | None, faults: Faults) -> tuple[list[tuple[int, list[str]]], Reading]:
    """The records of `text`, the content of `path`, header first, and how they were read.

    Lines that cannot be read go to `faults`; those with another number of fields too.
    """
    decoded = not faults.kinds
    dialect, hint = own_dialect(path, separator, text[:16])
    first_line = 2 if hint else 1
    text = text[hint:]
    parsed: Parsed | None = None
    notes: list[str] = []
    if not dialect.quoted:
        parsed, notes = _plain(path, text, dialect, first_line)
    if parsed is None:
        dialect = replace(dialect, quoted=True)
        parsed, dialect = _quoted(text, dialect, first_line)
    if dialect.quoted:
        notes += _blank_note(path, parsed)
    _add_broken(parsed, text, dialect, faults)
    unusual = [
        words
        for words, so in (
            (f"parted at {json.dumps(dialect.separator)}, as its first line says", hint and separator is None),
            ("quotes enclose fields, as in CSV", dialect.quoted and path.suffix.lower() == ".tsv"),
            ("spaces before quotes are skipped", dialect.skip_spaces),
        )
        if so
    ]
    reading = Reading(f"{path}: {'; '.join(unusual)}." if unusual else None, notes, dialect.separator)
    if parsed.records:
        if decoded:  # what is no text has no columns
            check_parted(path, parsed.records[0][1], dialect.separator)
        return _even(path, parsed, dialect, faults), reading
    return [], reading


def refuse_broken(path: Path, text: str, dialect: Dialect, parsed: Parsed) -> None:
    """Raise InputError for quotes that ended the reading of `text`."""
    faults = Faults(str(path), "line")
    _add_broken(parsed, text, dialect, faults)
    refuse([faults])


def _add_broken(parsed: Parsed, text: str, dialect: Dialect, faults: Faults) -> None:
    for line, reason in parsed.broken:
        faults.add(line, f"broken quoting ({reason})", _quoting_remedy(text, dialect, not parsed.records))


def check_parted(path: Path, header: Sequence[str], separator: str) -> None:
    """Raise InputError for a header of one field that another separator would part."""
    if len(header) == 1 and (
        other := next((mark for mark in ";\t|," if mark in header[0] and mark != separator), None)
    ):
        raise InputError(f"{path}: its one column is {header[0]!r}: set `separator` to {json.dumps(other)}")


def _quoted(text: str, dialect: Dialect, first_line: int) -> tuple[Parsed, Dialect]:
    """As CSV; where spaces stand before quotes, without them if the file is whole only so."""
    parsed = parse(text, dialect, first_line)
    if re.search(f'(?:^|[\r\n]|{re.escape(dialect.separator)}) +"', text) and (
        not parsed.even() or any(value.startswith(" ") and value.lstrip(" ")[:1] == '"' for value in _values(parsed))
    ):
        skip = replace(dialect, skip_spaces=True)
        skipping = parse(text, skip, first_line)
        if skipping.even() or (parsed.broken and not skipping.broken):
            return skipping, skip
    return parsed, dialect


def _plain(path: Path, text: str, dialect: Dialect, first_line: int) -> tuple[Parsed | None, list[str]]:
    """A TSV as plain text, or None if its quotes are those of CSV for certain; with a note where they may be.

    They are for certain where the whole file can be read so, no other field has a quote in it, and either a field
    has its inner quotes doubled, or a tab or line break in quotes, or the header and whole columns are in quotes.
    """
    if not re.search(rf'(?:^|[\r\n]|{re.escape(dialect.separator)}) *"', text):
        return parse(text, dialect, first_line), []
    plain = parse(text, dialect, first_line)
    enclosed, _ = _quoted(text, replace(dialect, quoted=True), first_line)
    if not enclosed.even():
        return plain, _escaped_note(path, plain)
    marked = [(line, value) for line, fields in plain.records for value in fields if value.lstrip(" ")[:1] == '"']
    doubled = any('""' in value.strip(" ")[1:-1] for _, value in marked)
    stray = sum(value.count('"') > 0 for _, fields in plain.records for value in fields) - len(marked)
    if not plain.even() or (not stray and (doubled or _whole_columns(plain))):
        return None, []
    lines = sorted({line for line, _ in marked})
    remedy = f"if the quotes only enclose fields, name it .csv and set `separator` to {json.dumps(dialect.separator)}"
    return plain, [f"{listed(str(path), 'line', lines)}: quotes around a field were read as part of it; {remedy}."]


def _whole_columns(plain: Parsed) -> bool:
    """Whether the header, and in each column all or none of the fields that are not empty, are in quotes."""
    header, *rows = (fields for _, fields in plain.records)
    if not rows or not any(_enclosed(name) for name in header):
        return False
    for index, name in enumerate(header):
        cells = [fields[index] for fields in rows if fields[index]]
        if len({_enclosed(cell) for cell in cells}) > 1 or (cells and _enclosed(cells[0]) and not _enclosed(name)):
            return False
    return True


def _enclosed(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] == '"'


def _escaped_note(path: Path, plain: Parsed) -> list[str]:
    """A note if all fields that begin with a quote end with one and have those inside written with a backslash."""
    marked = [(line, value) for line, fields in plain.records for value in fields if value.startswith('"')]
    lines = sorted({line for line, value in marked if ESCAPED.fullmatch(value)})
    if not lines or not all(_enclosed(value) for _, value in marked):
        return []
    where = listed(str(path), "line", lines)
    return [f'{where}: quotes and backslashes (\\") were read as part of the text; write the file without escapes.']


def _blank_note(path: Path, parsed: Parsed) -> list[str]:
    """A note if fields begin with a blank and are in quotes behind it, which only spaces are skipped for."""
    lines = sorted({line for line, fields in parsed.records for value in fields if _enclosed_behind_blank(value)})
    if not lines:
        return []
    return [f"{listed(str(path), 'line', lines)}: a blank and quotes around a field were read as part of it."]


def _enclosed_behind_blank(value: str) -> bool:
    return value[:1].isspace() and _enclosed(value.strip())


def _swallowed(path: Path, text: str, rows: Sequence[tuple[int, list[str]]], label: int, separator: str) -> list[str]:
    """A sentence for each field of several lines most of which are rows of their own: a stray quote opens it.

    A line is a row of its own if it has as many fields as a row, and in the column `label`, an index, what other rows
    have there, or a number if all of them have numbers. Lines of prose have neither.
    """
    spans = {line: breaks for line, fields in rows if (breaks := sum(len(BREAK.findall(value)) for value in fields))}
    if not spans:
        return []
    width = len(rows[0][1])
    known = {fields[label] for line, fields in rows if line not in spans}
    numbers = bool(known) and all(PLAIN_NUMBER.fullmatch(value) for value in known)

    def is_row(raw: str) -> bool:
        fields = raw.rstrip("\r\n").split(separator)
        return len(fields) == width and (
            fields[label] in known or (numbers and PLAIN_NUMBER.fullmatch(fields[label]) is not None)
        )

    lines = list(io.StringIO(text, newline=""))
    said = []
    for line, breaks in spans.items():
        inner = lines[line : line + breaks - 1]  # the first line and the last have parts of other fields
        if 2 * sum(map(is_row, inner)) > len(inner) or (not inner and all(map(is_row, lines[line - 1 : line + 1]))):
            said.append(
                f"{path}, line {line}: the quote that opens there closes in line {line + breaks}, so {breaks + 1} "
                "lines are one row, and most of them look like rows of their own; take the quote out or double it if "
                "they are."
            )
    more = [f"{path}: {len(said) - NAMED_PLACES} more rows of that kind."] if len(said) > NAMED_PLACES else []
    return said[:NAMED_PLACES] + more


def _values(parsed: Parsed) -> Iterator[str]:
    return (value for _, fields in parsed.records for value in fields)


def _quoting_remedy(text: str, dialect: Dialect, at_start: bool) -> str:
    if '\\"' in text:
        return 'write a quote inside a field as two quotes (""), not as \\"'
    if re.search(f'" +(?:{re.escape(dialect.separator)}|[\r\n])', text):
        return "take out the spaces after the quotes"
    parted = f", or set `separator`, if it is not {json.dumps(dialect.separator)}" if at_start else ""
    return f"close the quote and double those inside a field{parted}"


def _even(path: Path, parsed: Parsed, dialect: Dialect, faults: Faults) -> list[tuple[int, list[str]]]:
    """The records that have as many fields as the header; the others go to `faults`.

    A separator at the end of every row, or of the header alone, is none.
    """
    (line, header), *rows = parsed.records
    width = len(header)
    widths = Counter(len(fields) for _, fields in rows)
    if set(widths) == {width + 1} and not any(fields[-1].strip() for _, fields in rows):
        rows = [(place, fields[:-1]) for place, fields in rows]
    elif width > 1 and set(widths) == {width - 1} and not header[-1].strip():
        header = header[:-1]
    elif set(widths) == {width + 1} and len(rows) > 1:
        raise InputError(
            f"{path}: each of its {len(rows)} rows has {width + 1} fields and the header {width} ({_named(header)}); "
            "add the name that is missing to the header (of an index at the start of each row, perhaps), or "
            + _ragged_remedy(dialect)
        )
    width = len(header)
    even = [(line, header)]
    for place, fields in rows:
        if len(fields) == width:
            even.append((place, fields))
        else:
            kind = f"{len(fields)} fields found, {width} expected ({_named(header)})"
            faults.add(place, kind, _ragged_remedy(dialect))
    return even


def _named(header: Sequence[str]) -> str:
    return ", ".join(header[:20]) + (", …" if len(header) > 20 else "")


def _ragged_remedy(dialect: Dialect) -> str:
    if not dialect.quoted:
        return "take tabs and line breaks out of the texts"
    return f'put fields that hold {dialect.separator!r} or a line break in "quotes"'


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

    def rows(self) -> Sequence[int]:
        """Each row's 0-based number in the source, of which rows may be left out where the unit is "row"."""
        return range(len(self)) if self.unit == "line" else [place - 1 for place in self.places]

    def at(self, rows: Sequence[int]) -> str:
        """The rows with these 0-based numbers in the source, as an error names them: `a.tsv, lines 3, 7`."""
        return listed(self.name, self.unit, [self.places[row] if self.unit == "line" else row + 1 for row in rows])


def labelled(table: Table, label: str) -> Table:
    """`table` without the rows whose `label` is -1, which data sets of the hub write where there is none.

    A warning counts them. Raises InputError if they are more than half of all.
    """
    kept = [index for index, value in enumerate(table.columns[label]) if value != -1]
    lost = len(table) - len(kept)
    if not lost:
        return table
    said = f"{table.name}: {lost} of {len(table)} labels are -1"
    if 2 * lost > len(table):
        raise InputError(f"{said}, so it is not labelled; take another split")
    return replace(
        table,
        columns={name: [values[index] for index in kept] for name, values in table.columns.items()},
        places=[table.places[index] for index in kept],
        reading=Reading(None, [f"{said}, no class; these rows are left out."]),
    )


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


FIRST = 1000  # JSON lines that are looked at before anything runs


def check_head(path: Path, columns: Sequence[str], separator: str | None = None) -> None:
    """Raise InputError for a file that read_table refuses for its kind, its name, its columns or having no row.

    Reads the first row and no further (of JSON lines the first FIRST, which need not have the same keys), and leaves to
    read_table what is broken in it: that says where.
    """
    extension = _extension(path)
    if extension == ".parquet":
        return  # its columns stand in no text
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if extension in (".json", ".jsonl"):
                lines = (line for line in file if line.strip())
                first = next(lines)
                _refuse_array(path, first)
                rows = [json.loads(line) for line in (first, *itertools.islice(lines, FIRST - 1))]
                known = {key: None for row in rows if isinstance(row, dict) for key in row}  # one may lack a key
                header = list(known) if isinstance(rows[0], dict) else columns
            else:
                start = file.read(HEAD)
                dialect, hint = own_dialect(path, separator, start)
                head = Parsed()
                records = read_records(io.StringIO(start[hint:], newline=""), dialect, head, 2 if hint else 1)
                header = next(records, (1, []))[1]
                if head.broken and len(start) < HEAD:
                    refuse_broken(path, start, dialect, head)
                if not header:
                    raise StopIteration
                check_parted(path, header, dialect.separator)
                if next(records, None) is None and not head.broken and len(start) < HEAD:
                    raise StopIteration
    except StopIteration:
        raise InputError(f"{path}: no rows; at least 2 with {', '.join(columns)} are needed") from None
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read: permission denied; chmod it or copy it") from error
    except (ValueError, RecursionError):  # neither UTF-8 nor JSON
        return
    find_columns(str(path), header, columns)


SEPARATORS = ",;\t|"
LOOKED_AT = 200  # records by which the separator of a file is told


def columns_in(path: Path) -> tuple[list[str], str | None]:
    """The columns that read_table can read of a whole file, and the `separator` that it must be given, if any.

    The separator is that of SEPARATORS by which the header and the first records have as many fields, and most. Left
    out are columns without a name, those whose name stands twice, and keys that not every JSON object has.
    Raises InputError for a file that is missing, of another kind or extension, an array of JSON, or empty.
    """
    extension = _extension(path)
    try:
        if extension == ".parquet":
            found, separator = _parquet_names(path), None
        elif extension in (".json", ".jsonl"):
            found, separator = _keys(path), None
        else:
            found, separator = _header(path)
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read: permission denied; chmod it or copy it") from error
    bare = Counter(map(_bare, found))
    return [name for name in found if _bare(name) and bare[_bare(name)] == 1], separator


def _header(path: Path) -> tuple[list[str], str | None]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        start = file.read(HEAD)
    _refuse_binary(path, start)
    own, hint = own_dialect(path, None, start)
    best: list[str] = []
    separator = None
    for mark in dict.fromkeys([own.separator, *SEPARATORS]):
        parsed = Parsed()
        lines = read_records(io.StringIO(start[hint:], newline=""), replace(own, separator=mark), parsed)
        records = [fields for _, fields in itertools.islice(lines, LOOKED_AT)]
        whole = records[:-1] if len(records) > 2 and len(start) == HEAD else records  # the last one may be cut
        even = len({len(fields) for fields in whole}) == 1 and not parsed.broken
        if records and (not best or (even and len(records[0]) > len(best))):
            best, separator = records[0], None if mark == own.separator else mark
    if not best:
        raise InputError(f"{path}: empty; a line with column names and at least 2 rows are needed")
    return best, separator


def _refuse_binary(path: Path, text: str) -> None:
    """Raise InputError for content of which a part is no text in any encoding."""
    if "\0" in text:
        raise InputError(f"{path}: binary data, no text; name a CSV, TSV, JSON lines or Parquet file")


def _keys(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    _refuse_binary(path, text)
    _refuse_array(path, text)
    lines = (text if "\n" in text else text.replace("\r", "\n")).split("\n")
    rows = [record for line in lines if line.strip() and (record := _record(line)[0])]
    if not text.strip():
        raise InputError(f"{path}: empty; a JSON object per line and at least 2 of them are needed")
    return [key for key in rows[0] if all(key in row for row in rows)] if rows else []


def _parquet_names(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names: list[str] = pq.read_schema(path).names
        return names
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error_text(error)}); write it again") from error


COUNTED = 2**23  # bytes; to count the rows of such a file takes a fifth of a second


def count_rows(path: Path, separator: str | None = None) -> int | None:
    """How many rows read_table would find, quickly; None for a text file above COUNTED, or one that cannot be read.

    Where the content of a .tsv shows that quotes enclose fields, lines within them count too.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        extension = _extension(path)
        if extension == ".parquet":
            return int(pq.read_metadata(path).num_rows)
        if path.stat().st_size > COUNTED:
            return None
        with path.open(encoding="utf-8-sig", newline="") as file:
            if extension in (".json", ".jsonl"):
                return sum(1 for line in file if line.strip())
            text = file.read()
        dialect, hint = own_dialect(path, separator, text[:16])
        parsed = Parsed()
        records = sum(1 for _ in read_records(io.StringIO(text[hint:], newline=""), dialect, parsed))
        return records - 1 if records and not parsed.broken else None
    except (InputError, OSError, ValueError, pa.ArrowException):  # reading it says what is wrong
        return None


class NoColumn(InputError):
    """A table without a `column` that is to be read of it."""

    def __init__(self, message: str, column: str) -> None:
        super().__init__(message)
        self.column = column


def find_columns(name: str, found: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The name in `found` of each of `wanted`: the same one, or the only one that is but for spaces and quotes around.

    Raises NoColumn for one that is not there, InputError for one that is there more than once.
    """
    names = []
    for column in wanted:
        alike = [column] if column in found else [other for other in found if _bare(other) == _bare(column)]
        if not alike:
            there = ", ".join(map(repr, found[:50])) or "none"
            raise NoColumn(f"{name}: no column {column!r}; its columns are {there}: name one of these", column)
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
    text = _text(path, faults)
    records, reading = read(path, text, separator, faults)
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
    reading.warnings.extend(_swallowed(path, text, rows, indices[-1], reading.separator))
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
            remedy = "give every object the keys of the columns that are read"
            faults.add(line, f"no key {lacking[0]!r}", remedy)
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
        reason = error_text(error)
        raise InputError(f"{path}: not a readable Parquet file ({reason}); write it again") from error
    return Table(str(path), values, range(1, table.num_rows + 1), "row")

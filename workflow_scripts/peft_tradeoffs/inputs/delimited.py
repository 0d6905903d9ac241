"""How a CSV or TSV file is written: its separator, its quotes, and its records with the lines they start on."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TextIO

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.bad_places import Faults, listed, refuse

FIELD_LIMIT = 2**31 - 1  # characters; the csv module's own limit is 131,072
HINT = re.compile(r'"?sep=(.)"?(?:\r\n?|\n)', re.IGNORECASE)  # a first line that Excel writes and reads
JSON = re.compile(r'\s*(?:\[\s*)?\{\s*"')
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
    """How a file was read where its name does not say it, and sentences of warning where that was not certain."""

    how: str | None
    warnings: list[str]


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


def read_records(text: TextIO, dialect: Dialect, parsed: Parsed, first_line: int = 1) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not a blank line; those whose quotes are broken go to `parsed.broken`, with the first line.

    After such a one, but for the header, reading goes on with the next line.
    """
    csv.field_size_limit(FIELD_LIMIT)
    quoting = csv.QUOTE_MINIMAL if dialect.quoted else csv.QUOTE_NONE
    start, ended, header = first_line, False, False
    while not ended:
        reader = csv.reader(
            text, delimiter=dialect.separator, quoting=quoting, skipinitialspace=dialect.skip_spaces, strict=True
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
    parsed, notes = None, []
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
    reading = Reading(f"{path}: {'; '.join(unusual)}." if unusual else None, notes)
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

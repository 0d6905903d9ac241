"""A column of labels, and its classes: spellings of certainly one class are made one, others alike are reported."""

import functools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from peft_tradeoffs.core.errors import NAMED_PLACES, Faults, InputError, refuse

ORDERED = re.compile(r"-?\d+(\.\d+)?", re.ASCII)  # class names that are ordered by value
NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d*|0?(?=\.\d))(?:\.\d*)?", re.ASCII)  # 007 is none, it may be a code
SCIENTIFIC = re.compile(NUMBER.pattern + r"[eE][+-]?\d{1,3}", re.ASCII)
LOOSE_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?", re.ASCII)
BOOLEANS = {"true": True, "false": False}
MISSING = {"nan", "na", "n/a", "none", "null", "<na>", "nat", "#n/a", "-nan"}  # any case, among numbers or booleans
AMONG_NUMBERS = {"-", "?", "."}  # hardly a class there
CLASS_AMONG_NUMBERS = "none"  # spelled so by hand: programs that mean a missing value write None
NOT_A_NUMBER = {"nan", "-nan", "<na>", "nat", "#n/a", r"\n"}  # hardly a class among texts either
SENTINELS = (-1, -9, -99, -999, -9999, -99999, 99, 999, 9999, 99999)  # a missing value, where nothing else is so far
SHOWN_PAIRS = 5  # warnings of one kind that are written out
SHOWN_NAMES = 20
SHOWN_NEAR = 3  # classes that a label may have meant
AS_NUMBER = {"true": "1", "false": "0"}
JOINT = re.compile(r"(?<=[^\W_])[\s_\-]+(?=[^\W_])")  # between letters or digits
# Characters that show nothing and are not of the category Cf; tags, which tell flags apart, are kept.
BLANKS = {0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10)}
BEYOND = re.compile("[\U00010000-\U0010ffff]")
LOOKALIKES = str.maketrans(  # Cyrillic and Greek letters, lower case, dashes and apostrophes
    "аеорсухіјѕԁһԛԝкοαερυνικт\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2018\u2019\u02bc",
    "aeopcyxijsdhqwkoaepuvikt-------'''",
)
QUOTES = "\"'\u2018\u2019\u201c\u201d\u201e"
Key = tuple[str, Any]  # what is the same for spellings of one class: a kind, and the value
AT_THE_END = ".,;:!?"
SENTENCE = "The labels {} are {} and one class, {!r}."


Names = list[str] | None  # of classes, in the order of their indices; None of a task without classes


@dataclass(frozen=True)
class Column:
    """The labels of one split as its source has them, n of them."""

    table: str  # what an error calls the table
    values: Sequence[Any]
    places: Sequence[int]  # [n] 1-based lines or rows
    faults: Faults  # takes what is wrong at a place
    declared: Sequence[str] | None = None  # class names in their order, where the source fixes them


@dataclass
class Found:
    """The spellings of one class: rows by spelling, over all splits, and those of train."""

    rows: Counter[str] = field(default_factory=Counter)
    in_train: Counter[str] = field(default_factory=Counter)


def clean(text: str) -> str:
    """`text` after NFC, without invisible characters and outer spaces."""
    if text.isascii():
        return text.strip()
    short, beyond = _invisible()
    seen = short.sub("", unicodedata.normalize("NFC", text))
    if BEYOND.search(seen):
        seen = beyond.sub("", seen)
    return unicodedata.normalize("NFC", seen).strip()


@functools.cache
def _invisible() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The characters that show nothing, and those BEYOND: a pattern with both in it takes four times as long."""
    found = sorted({*(code for code in range(0xE0000) if unicodedata.category(chr(code)) == "Cf"), *BLANKS})
    short, beyond = (
        "".join(re.escape(chr(code)) for code in found if (code > 0xFFFF) is above) for above in (False, True)
    )
    return re.compile(f"[{short}]"), re.compile(f"[{beyond}]")


def classify(label: str, columns: Mapping[str, Column], warnings: list[str]) -> tuple[list[str], dict[str, np.ndarray]]:
    """The class names in the order of their indices, and each split's class indices ([n] int64).

    Names are str, in the order of the source or else sorted, numbers by value: an integer 1, the text "1" and a float
    1.0 are the same class, and a bool is "True" or "False". The same number or boolean in two spellings, and the same
    text after `clean`, are one class in all splits, unless the source fixes the classes. It has the shortest spelling
    in train of a number, the most frequent of a boolean, the clean one of a text. What became one class, and classes
    that look alike, are told in `warnings`.
    Labels that are missing (nan or NA among numbers or booleans too, but not "none"), of another type or not in train
    go to the columns' faults. `label` is what errors call the column.
    Raises InputError for those, and for too many classes.
    """
    spelled = {split: _spellings(column, label) for split, column in columns.items()}
    declared = columns["train"].declared
    values = {name for names in spelled.values() for name in names if name}
    keys = {name: ("text", name) for name in values} if declared else _keys(values)
    among = None if declared else _only({name for name in spelled["train"] if name}, keys)
    if among:
        for split, names in spelled.items():
            _miss(names, columns[split], label, among)
    classes: dict[Key, Found] = defaultdict(Found)
    for split, names in spelled.items():
        for name, count in Counter(names).items():
            if name:
                classes[keys[name]].rows[name] += count
                if split == "train":
                    classes[keys[name]].in_train[name] += count
    named = {key: _name(key, found.in_train) for key, found in classes.items() if found.in_train}
    if not any(column.faults.kinds for column in columns.values()):
        _check_count(columns["train"], label, set(named.values()))
    for split, names in spelled.items():
        unknown = [(i, name) for i, name in enumerate(names) if name and keys[name] not in named]
        if unknown:
            _add_unknown(columns[split], unknown, label, _order(named.values(), declared))
    refuse([column.faults for column in columns.values()])
    order = _order(named.values(), declared)
    index = {name: i for i, name in enumerate(order)}
    warnings += _merged(named, classes) + _alike(
        named, classes, NOT_A_NUMBER | ({CLASS_AMONG_NUMBERS, *AMONG_NUMBERS, *_apart(named)} if among else set())
    )
    return order, {
        split: np.array([index[named[keys[name]]] for name in names if name], dtype=np.int64)
        for split, names in spelled.items()
    }


def _spellings(column: Column, label: str) -> list[str | None]:
    """Each row's label as it is spelled, a number that is whole without its fraction; None where it is missing."""
    names: list[str | None] = []
    for place, value in zip(column.places, column.values, strict=True):
        name = None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if value is None or value != value or (isinstance(value, str) and not clean(value)):
            column.faults.add(place, f"no {label!r}", "fill in or remove")
        elif not isinstance(value, bool | int | str):
            kind = f"{label!r} is {value!r:.80}, no class"
            column.faults.add(place, kind, "classes are ints or strings (for other numbers set `task: regression`)")
        elif isinstance(value, str) and not encodable(value):
            column.faults.add(place, f"{label!r} has half of a surrogate pair", "correct the escapes")
        else:
            name = str(value).strip()
        names.append(name)
    return names


def encodable(text: str) -> bool:
    """Whether UTF-8 can hold it: not with half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _keys(names: set[str]) -> dict[str, Key]:
    """What is the same for spellings of one class."""
    cleaned = {name: clean(name) for name in names}
    plain = {text for text in cleaned.values() if NUMBER.fullmatch(text)}
    scientific = all(
        NUMBER.fullmatch(text) or SCIENTIFIC.fullmatch(text) or text.lower() in MISSING for text in cleaned.values()
    )
    keys: dict[str, Key] = {}
    for name, text in cleaned.items():
        if text.lower() in BOOLEANS:
            keys[name] = ("boolean", BOOLEANS[text.lower()])
        elif (text in plain and not _version(text, plain)) or (scientific and SCIENTIFIC.fullmatch(text)):
            keys[name] = ("number", Decimal(text))
        else:
            keys[name] = ("text", text)
    return keys


def _version(text: str, names: set[str]) -> bool:
    """Whether 1.10 is what follows 1.9, not another way to write 1.1."""
    whole, _, fraction = text.partition(".")
    return fraction.endswith("0") and fraction.strip("0") != "" and bool(names & {f"{whole}.9", f"{whole}.11"})


def _only(names: Iterable[str], keys: Mapping[str, Key]) -> str | None:
    """ "numbers" or "booleans" if names are that but for those that may stand for a missing value, else None."""
    rest = [name for name in names if clean(name).lower() not in MISSING | AMONG_NUMBERS]
    if not rest or not all(keys[name][0] != "text" or LOOSE_NUMBER.fullmatch(clean(name)) for name in rest):
        return None
    return "booleans" if all(keys[name][0] == "boolean" for name in rest) else "numbers"


def _miss(names: list[str | None], column: Column, label: str, among: str) -> None:
    """Set to None the names that stand for a missing value, and note their places."""
    for i, name in enumerate(names):
        if name and clean(name).lower() in MISSING and clean(name) != CLASS_AMONG_NUMBERS:
            kind = f"no {label!r} ({name!r} among {among} is a missing value)"
            column.faults.add(column.places[i], kind, "fill in or remove")
            names[i] = None


def _apart(named: Mapping[Key, str]) -> set[str]:
    """The classes that programs write for a missing value, -1 say, where the others are counted from 0 or 1."""
    numbers = {key[1]: name for key, name in named.items() if key[0] == "number"}
    rest = sorted(set(numbers) - set(SENTINELS))
    if len(numbers) < len(named) or len(rest) < 2 or rest[0] not in (0, 1) or rest[-1] - rest[0] != len(rest) - 1:
        return set()
    return {name for number, name in numbers.items() if number in SENTINELS and number != rest[-1] + 1}


def _name(key: Key, spellings: Counter[str]) -> str:
    """The class's name, of its spellings in train."""
    kind, value = key
    if kind == "text" and value in spellings:
        return str(value)
    if kind == "number":
        return min(spellings, key=lambda name: ("e" in name.lower(), len(name), -spellings[name], name))
    return min(spellings, key=lambda name: (-spellings[name], name))


def _order(names: Any, declared: Sequence[str] | None) -> list[str]:
    found = set(names)
    if declared is not None:
        return [name for name in dict.fromkeys(map(str.strip, declared)) if name in found]
    if all(ORDERED.fullmatch(name) for name in found):
        return sorted(found, key=lambda name: (float(name), name))
    return sorted(found)


def _add_unknown(column: Column, unknown: list[tuple[int, str]], label: str, order: list[str]) -> None:
    known = ", ".join(order[:SHOWN_NAMES]) + (", …" if len(order) > SHOWN_NAMES else "")
    remedy = f"training rows have {known}; correct it or add training rows"
    alike: dict[str, list[str]] = defaultdict(list)
    for name in order:
        alike[_loosest(name)].append(name)
    for i, name in unknown:
        near = alike.get(_loosest(name), [])
        meant = f" (did you mean {' or '.join(map(repr, near[:SHOWN_NEAR]))}?)" if near else ""
        column.faults.add(column.places[i], f"{label!r} is {name!r}, which no training row has{meant}", remedy)


def _check_count(column: Column, label: str, found: set[str]) -> None:
    if len(found) < 2:
        raise InputError(
            f"split 'train' ({column.table}): every label is {min(found)!r}; at least two different ones are needed: "
            "add rows"
        )
    rows = len(column.values)
    if len(found) > rows / 2 and len(found) > 2:
        raise InputError(
            f"{column.table}: {len(found)} different values of {label!r} in {rows} rows, too many for "
            "classes; for numbers set `task: regression`, otherwise give more rows per class"
        )


def _shown(names: Sequence[str]) -> list[str]:
    """The names in quotes, escaped where they would look the same."""
    plain = [repr(name) for name in names]
    same = len({unicodedata.normalize("NFKC", name).casefold().translate(LOOKALIKES) for name in plain}) < len(
        {name.casefold() for name in plain}
    )
    return [ascii(name) for name in names] if same else plain


def _counted(rows: Mapping[str, int]) -> str:
    """`'Pos' (3 rows) and 'pos' (120 rows)`, in the order of the names."""
    names = sorted(rows)
    said = [
        f"{shown} ({rows[name]} row{'s' if rows[name] != 1 else ''})"
        for name, shown in zip(names, _shown(names), strict=True)
    ][:NAMED_PLACES]
    if len(names) > NAMED_PLACES:
        said.append(f"{len(names) - NAMED_PLACES} more")
    return ", ".join(said[:-1]) + " and " + said[-1]


def _merged(named: Mapping[Key, str], classes: Mapping[Key, Found]) -> list[str]:
    """A sentence for each class of several spellings, but for outer spaces."""
    kinds = {"number": "the same number", "boolean": "the same boolean"}
    text = "the same text but for invisible characters or composed letters"
    said = [
        SENTENCE.format(_counted(classes[key].rows), kinds.get(key[0], text), name)
        for key, name in named.items()
        if len(classes[key].rows) > 1
    ]
    return _some(sorted(said), "more classes were written in several ways")


def _some(said: list[str], rest: str) -> list[str]:
    return [*said[:SHOWN_PAIRS], *([f"{len(said) - SHOWN_PAIRS} {rest}."] if len(said) > SHOWN_PAIRS else [])]


DIFFERENCES = (  # how classes may differ that look alike, and what they have in common then
    ("differ in the width of their letters alone", lambda name: unicodedata.normalize("NFKC", name)),
    ("differ in case alone", str.casefold),
    ("differ in spaces alone", lambda name: "".join(name.split())),
    ("differ in quotes around them alone", lambda name: name.strip(QUOTES) or name),
    ("differ in leading zeros alone", lambda name: re.sub(r"^([+-]?)0+(?=\d)", r"\1", name)),
    ("differ in zeros at the end alone", lambda name: _value(name)),
    ("may be one value, as a number and as a boolean", lambda name: AS_NUMBER.get(name.lower(), _value(name))),
    ("differ in the punctuation at their end alone", lambda name: name.rstrip(AT_THE_END) or name),
    ("differ in hyphens, underscores and spaces alone", lambda name: JOINT.sub("", name)),
    ("differ in letters or signs that look the same", lambda name: name.lower().translate(LOOKALIKES)),
)


def _value(name: str) -> str:
    """A number without signs, zeros and fractions that add nothing; another name as it is."""
    if not LOOSE_NUMBER.fullmatch(name):
        return name
    return str(Decimal(name).normalize() + 0) if len(name) < 25 else name.lstrip("+0")


def _loosest(name: str) -> str:
    """The same for all names that one difference, or several together, tell apart."""
    name = "".join(unicodedata.normalize("NFKC", clean(name)).casefold().translate(LOOKALIKES).split())
    name = name.strip(QUOTES) or name
    if not LOOSE_NUMBER.fullmatch(name):
        name = JOINT.sub("", name).rstrip(AT_THE_END) or name
    return AS_NUMBER.get(name, _value(name))


def _alike(named: Mapping[Key, str], classes: Mapping[Key, Found], doubtful: set[str]) -> list[str]:
    """A sentence for each group of classes that look alike, and for one in `doubtful`, which may be a missing value."""
    rows = {name: sum(classes[key].rows.values()) for key, name in named.items()}
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(rows):
        groups[_loosest(name)].append(name)
    said = []
    for names in groups.values():
        if len(names) > 1:
            differ = next((how for how, same in DIFFERENCES if len({same(name) for name in names}) == 1), "look alike")
            number = {2: "two", 3: "three"}.get(len(names), str(len(names)))
            said.append(f"The labels {_counted({n: rows[n] for n in names})} {differ}; they are {number} classes.")
    told = _some(said, "more groups of labels look alike")
    for name in rows:
        if clean(name).lower() in doubtful:
            told.append(f"The label {name!r} ({rows[name]} rows) may stand for a missing value; it is a class.")
    return told

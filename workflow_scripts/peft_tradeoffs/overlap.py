"""Rows that two splits share: splits that are the same are refused, single rows reported."""

import itertools
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from peft_tradeoffs.errors import InputError

if TYPE_CHECKING:
    from peft_tradeoffs.datafiles import Table
    from peft_tradeoffs.splits import Split

Texts = tuple[str, ...]


def check_distinct(tables: Mapping[str, "Table"], text: Sequence[str]) -> None:
    """Raise InputError for two tables, by split, that have the same texts in any order, however often each."""
    texts = {split: set(zip(*(table.columns[name] for name in text), strict=True)) for split, table in tables.items()}
    for first, second in itertools.combinations(tables, 2):
        if texts[first] == texts[second]:
            raise InputError(
                f"splits {second} ({tables[second].name}) and {first} ({tables[first].name}) have the same "
                f"{len(texts[first])} texts (the first is {tables[second].columns[text[0]][0][:60]!r}); name another "
                "file or split for one, or leave it out and carve it off train with `fractions`"
            )


def shared(split: "Split", known: set[Texts]) -> int:
    """How many rows of the split have text(s) that are in `known`."""
    return sum(texts in known for texts in split.texts)


def overlap_warnings(splits: Mapping[str, "Split"]) -> list[str]:
    """A sentence for each split with rows whose texts a training row, or test's a validation row, has too."""
    said = []
    for other in ("train", "validation"):
        if other not in splits:
            continue
        known = set(splits[other].texts)
        folded = {_folded(texts) for texts in known}
        for name, split in splits.items():
            if name == "train" or (other == "validation" and name != "test"):
                continue
            exact = shared(split, known)
            near = sum(_folded(texts) in folded for texts in split.texts)
            if near:
                said.append(_sentence(name, {"train": "training"}.get(other, other), exact, near, len(split.texts)))
    return said


def _sentence(name: str, other: str, exact: int, near: int, rows: int) -> str:
    alike = "case, spaces or the Unicode form"
    have = "has" if (exact or near) == 1 else "have"
    if not exact:
        return f"{near} of {rows} {name} rows ({share(near, rows)}) {have} the text of a {other} row but for {alike}."
    more = f"; {near} ({share(near, rows)}) if {alike} does not count" if near > exact else ""
    if exact == rows:
        more = "; this split shows nothing that is new to the model"
    return f"{exact} of {rows} {name} rows ({share(exact, rows)}) {have} the text of a {other} row{more}."


def share(part: int, whole: int) -> str:
    """A share in per cent that is 0 or 100 only where it is exactly so."""
    percent = 100 * part / whole
    if 0 < percent < 1:
        return f"{percent:.1f} %" if percent >= 0.05 else "below 0.1 %"
    return f"{percent:.0f} %" if part == whole or percent < 99.5 else f"{min(percent, 99.9):.1f} %"


def _folded(texts: Sequence[str]) -> Texts:
    """Texts without what a reader hardly sees: case, spaces and the Unicode form."""
    return tuple(" ".join(unicodedata.normalize("NFC", text).casefold().split()) for text in texts)

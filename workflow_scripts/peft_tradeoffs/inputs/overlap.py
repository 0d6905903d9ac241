"""Rows that two splits share: splits that are the same are refused, single rows reported."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.classes import clean

if TYPE_CHECKING:
    from peft_tradeoffs.inputs.datafiles import Table
    from peft_tradeoffs.inputs.splits import Split

Texts = tuple[str, ...]
ALIKE = "case, spaces or the Unicode form"


def check_distinct(tables: Mapping[str, "Table"], text: Sequence[str]) -> None:
    """Raise InputError for two tables, by split, that have the same texts in any order, however often each.

    What a reader hardly sees makes no other text of one.
    """
    texts = {split: set(zip(*(table.columns[name] for name in text), strict=True)) for split, table in tables.items()}
    for first, second in itertools.combinations(tables, 2):
        same = texts[first] == texts[second]
        if same or _alike(texts[first], texts[second]):
            but = "" if same else f" but for {ALIKE}"
            first_text = tables[second].columns[text[0]][0][:60]
            raise InputError(
                f"splits {second} ({tables[second].name}) and {first} ({tables[first].name}) have the same "
                f"{len(texts[first])} texts (the first is {first_text!r}){but}; name another file or "
                "split for one, or leave it out and carve it off train with `fractions`"
            )


def _alike(some: set[Texts], others: set[Texts]) -> bool:
    """Whether they are the same to a reader; not looked at where one has less than half as many as the other."""
    fewer, more = sorted(map(len, (some, others)))
    return more < 2 * fewer and {_folded(one) for one in some} == {_folded(one) for one in others}


def shared(split: "Split", known: set[Texts]) -> int:
    """How many rows of the split have text(s) that are in `known`."""
    return sum(texts in known for texts in split.texts)


def overlap_warnings(splits: Mapping[str, "Split"]) -> list[str]:
    """A sentence for each split with rows whose texts a training row, or a validation row, has too."""
    said = []
    for other in ("train", "validation"):
        if other not in splits:
            continue
        known = set(splits[other].texts)
        folded = {_folded(texts) for texts in known}
        for name, split in splits.items():
            if name in ("train", other):
                continue
            exact = shared(split, known)
            near = sum(_folded(texts) in folded for texts in split.texts)
            if near:
                said.append(_sentence(name, {"train": "training"}.get(other, other), exact, near, len(split.texts)))
    return said


def _sentence(name: str, other: str, exact: int, near: int, rows: int) -> str:
    have = "has" if (exact or near) == 1 else "have"
    if not exact:
        return f"{near} of {rows} {name} rows ({share(near, rows)}) {have} the text of a {other} row but for {ALIKE}."
    more = f"; {near} ({share(near, rows)}) if {ALIKE} does not count" if near > exact else ""
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
    """Texts without what a reader hardly sees: case, spaces and the Unicode form, invisible characters among it."""
    return tuple(" ".join(clean(text).casefold().split()) for text in texts)

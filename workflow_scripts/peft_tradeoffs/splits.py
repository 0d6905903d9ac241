"""From tables to splits: checked texts and labels, fractions, limits, and the files they end in."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peft_tradeoffs.datafiles import Table
from peft_tradeoffs.errors import InputError
from peft_tradeoffs.files import atomic, sha256, write_json

SPLITS = ("train", "validation", "test", "heldout")
CARVED = ("test", "validation", "heldout")  # in this order, so that a later one changes none of those before
NUMBER = re.compile(r"-?\d+(\.\d+)?", re.ASCII)


@dataclass(frozen=True)
class Split:
    """Rows of one split, n of them, in the order of their source.

    texts: n tuples of one or two str. labels: [n] int64 class index, or float64 for regression.
    rows: [n] int64, the 0-based row in the source split.
    """

    texts: list[tuple[str, ...]]
    labels: np.ndarray
    rows: np.ndarray

    def take(self, indices: np.ndarray) -> "Split":
        """The rows with these indices ([k] int64)."""
        return Split([self.texts[index] for index in indices], self.labels[indices], self.rows[indices])


def make_splits(
    tables: Mapping[str, Table],
    text: Sequence[str],
    label: str,
    *,
    task: str = "classification",
    fractions: Mapping[str, float] | None = None,
    limit: Mapping[str, int | None] | None = None,
    seed: int = 0,
) -> tuple[dict[str, Split], list[str] | None]:
    """The splits by name, and the class names in the order of their indices (None for regression).

    `tables` holds "train" and what else the source has of SPLITS; `fractions` are carved from train, in the order of
    CARVED, and `limit` then cuts each split down to so many rows. Both are stratified by class (not for regression),
    draw the same rows for the same `seed`, and keep the rows' order. Rows with the same text(s) stay on the same side
    of a carve, so with repeated texts a fraction's size is approximate, otherwise exact.
    Raises InputError for rows, labels, fractions or limits that cannot be trained or tested on.
    """
    fractions, limit = fractions or {}, limit or {}
    _check_names(tables, fractions)
    names = None if task == "regression" else class_names(tables["train"], label)
    splits = {}
    for split, table in tables.items():
        texts = _texts(table, text)
        labels = _numbers(table, label) if names is None else _classes(table, label, names)
        splits[split] = Split(texts, labels, np.arange(len(table), dtype=np.int64))
        _check_rows(f"split {split!r} ({table.name})", splits[split], names)
    if fractions:
        splits |= _carve(splits["train"], names, fractions, seed)
    for split, rows in limit.items():
        if rows is None:
            continue
        if split not in splits:
            raise InputError(f"limit: there is no split {split!r}; the splits are {', '.join(splits)}")
        splits[split] = _limited(split, splits[split], names, rows, seed)
    return {split: splits[split] for split in SPLITS if split in splits}, names


def class_names(table: Table, label: str) -> list[str]:
    """The class names of a training table: as the source orders them, or else sorted, numbers by value.

    Names are str: an integer 1, the text "1" and a float 1.0 are the same class, and a bool is "True" or
    "False". Raises InputError for a missing label, one of another type, or too many classes.
    """
    found = set(_label_names(table, label))
    if len(found) > len(table) / 2 and len(found) > 2:
        raise InputError(
            f"{table.name}: {len(found)} different values of {label!r} in {len(table)} rows, too many for "
            "classes; for numbers set `task: regression`, otherwise give more rows a class"
        )
    if table.label_names is not None:
        return [name for name in table.label_names if name in found]
    if all(NUMBER.fullmatch(name) for name in found):
        return sorted(found, key=lambda name: (float(name), name))
    return sorted(found)


def stratified_sample(strata: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Sorted indices ([size] int64) of a seeded sample of `strata` ([n] int64), each class in its proportion.

    Sizes are rounded by largest remainder, but no class gets fewer than one row. A larger sample holds every
    row of a smaller one as long as no class's share shrinks. `size` is from the number of classes to n.
    """
    classes, counts = np.unique(strata, return_counts=True)
    exact = counts * size / len(strata)
    shares = np.maximum(1, np.floor(exact).astype(np.int64))
    while shares.sum() < size:
        shares[np.argmax(exact - shares)] += 1
    while shares.sum() > size:
        shares[np.argmax(np.where(shares > 1, shares - exact, -np.inf))] -= 1
    rng = np.random.default_rng(seed)
    chosen = [
        rng.permutation(np.flatnonzero(strata == one))[:share] for one, share in zip(classes, shares, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def write_splits(splits: Mapping[str, Split], names: list[str] | None, source: Mapping[str, Any], folder: Path) -> None:
    """Write a parquet file a split and, last, dataset.json to `folder`; take a stale split's file away.

    dataset.json holds, a split, `rows`, `label_counts` (null for regression) and, but for train, `in_train`:
    how many of the rows have the text(s) of a training row. Its `sha256` is over the contents of the splits, `parquet`
    has that of each file.
    """
    (folder / "dataset.json").unlink(missing_ok=True)  # a killed call leaves none that tells of other files
    digest = hashlib.sha256(json.dumps(names).encode())
    described, written = {}, {}
    known = set(splits["train"].texts)
    pair = len(splits["train"].texts[0]) == 2
    for name in SPLITS:
        path = folder / f"{name}.parquet"
        if name not in splits:
            path.unlink(missing_ok=True)
            continue
        split = splits[name]
        columns = dict(zip(("text_a", "text_b"), zip(*split.texts, strict=True), strict=False))
        table = pa.table({**columns, "label": split.labels, "row": split.rows})
        with atomic(path) as temporary:
            pq.write_table(table, temporary)
            written[name] = sha256(temporary)
        digest.update(name.encode())
        for row in zip(split.texts, split.labels.tolist(), split.rows.tolist(), strict=True):
            digest.update(json.dumps(row).encode())
        counts = None if names is None else np.bincount(split.labels, minlength=len(names)).tolist()
        described[name] = {
            "rows": len(split.rows),
            "label_counts": counts and dict(zip(names, counts, strict=True)),
        }
        if name != "train":
            described[name]["in_train"] = sum(texts in known for texts in split.texts)
    write_json(
        folder / "dataset.json",
        {
            "task": "regression" if names is None else "classification",
            "labels": names,
            "pair": pair,
            "splits": described,
            "source": source,
            "sha256": digest.hexdigest(),
            "parquet": written,
        },
    )


def _check_names(tables: Mapping[str, Table], fractions: Mapping[str, float]) -> None:
    unknown = sorted({*tables, *fractions} - set(SPLITS))
    if unknown:
        raise InputError(f"split {unknown[0]!r}: a split is one of {', '.join(SPLITS)}")
    if "train" not in tables:
        raise InputError("splits: no `train`; name the training split")
    if "test" not in tables and "test" not in fractions:
        raise InputError("splits: no `test`; give `splits: test` or `fractions: test`, 0.2 say")
    twice = sorted(set(tables) & set(fractions))
    if twice:
        raise InputError(f"split {twice[0]!r} stands in both `splits` and `fractions`; take one out")
    if fractions and not (min(fractions.values()) > 0 and sum(fractions.values()) < 1):
        raise InputError(f"fractions {dict(fractions)}: each must be above 0 and their sum below 1")


def _texts(table: Table, columns: Sequence[str]) -> list[tuple[str, ...]]:
    for column in columns:
        values = table.columns[column]
        empty = [i for i, value in enumerate(values) if value is None or value == "" or _is_blank(value)]
        if empty:
            raise InputError(f"{table.at(empty)}: empty text in {column!r}; fill in or remove")
        wrong = [i for i, value in enumerate(values) if not isinstance(value, str)]
        if wrong:
            kind = type(values[wrong[0]]).__name__
            raise InputError(f"{table.at(wrong)}: {column!r} is {kind}, not text; set `text` to a text column")
        broken = [i for i, value in enumerate(values) if not _encodable(value)]
        if broken:
            raise InputError(f"{table.at(broken)}: {column!r} has half of a surrogate pair; mend the escapes")
    return list(zip(*(table.columns[column] for column in columns), strict=True))


def _is_blank(value: Any) -> bool:
    return isinstance(value, str) and not value.strip()


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_missing(value: Any) -> bool:
    return value is None or _is_blank(value) or (isinstance(value, float) and math.isnan(value))


def _label_names(table: Table, label: str) -> list[str]:
    """Each row's label as a class name."""
    values = table.columns[label]
    missing = [i for i, value in enumerate(values) if _is_missing(value)]
    if missing:
        raise InputError(f"{table.at(missing)}: no {label!r}; fill in or remove")
    names = []
    for i, value in enumerate(values):
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, bool | int | str):
            raise InputError(
                f"{table.at([i])}: {label!r} is {value!r}, no class; classes are ints or strings "
                "(for other numbers set `task: regression`)"
            )
        names.append(str(value).strip())
    return names


def _classes(table: Table, label: str, names: list[str]) -> np.ndarray:
    """Each row's class index ([n] int64)."""
    index = {name: i for i, name in enumerate(names)}
    found = _label_names(table, label)
    unknown = [i for i, name in enumerate(found) if name not in index]
    if unknown:
        raise InputError(
            f"{table.at(unknown)}: {label!r} is {found[unknown[0]]!r}, which no training row has "
            f"(they have {', '.join(names[:20])}{', …' if len(names) > 20 else ''}); "
            "correct it or add training rows"
        )
    return np.array([index[name] for name in found], dtype=np.int64)


def _numbers(table: Table, label: str) -> np.ndarray:
    """Each row's target ([n] float64), every one finite."""
    targets = np.empty(len(table), dtype=np.float64)
    for i, value in enumerate(table.columns[label]):
        try:
            if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
                raise ValueError("float() takes it, but it is not written as a number")
            targets[i] = float(value)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{table.at([i])}: {label!r} is {value!r}, not a number; correct it, or set `task: classification`"
            ) from error
    wrong = np.flatnonzero(~np.isfinite(targets)).tolist()
    if wrong:
        value = table.columns[label][wrong[0]]
        raise InputError(f"{table.at(wrong)}: {label!r} is {value}, not a finite number; correct or remove it")
    return targets


def _check_rows(place: str, split: Split, names: list[str] | None) -> None:
    """Raise InputError for a split of fewer than 2 rows or without two different labels."""
    if len(split.rows) < 2:
        raise InputError(f"{place}: {len(split.rows)} rows, at least 2 are needed")
    if len(np.unique(split.labels)) < 2:
        value = names[split.labels[0]] if names else f"{split.labels[0]:g}"
        raise InputError(f"{place}: every label is {value!r}; at least two different ones are needed: add rows")


def _carve(train: Split, names: list[str] | None, fractions: Mapping[str, float], seed: int) -> dict[str, Split]:
    """`train` without the rows of the carved splits, and these."""
    ids: dict[tuple[str, ...], int] = {}
    groups = np.array([ids.setdefault(texts, len(ids)) for texts in train.texts])
    first = np.unique(groups, return_index=True)[1]
    strata = train.labels[first] if names else np.zeros(len(first), dtype=np.int64)
    left = np.arange(len(first))
    carved = {}
    for split, fraction in sorted(fractions.items(), key=lambda item: CARVED.index(item[0])):
        size = round(fraction * len(first))
        classes = len(np.unique(strata[left]))
        if not max(2, classes) <= size <= len(left):
            raise InputError(
                f"fractions: {split} {fraction} of {len(first)} different texts is {size}, at least "
                f"{2 * classes if names else 2} are needed; take a larger fraction or more rows"
            )
        chosen = stratified_sample(strata[left], size, seed)
        carved[split] = train.take(np.flatnonzero(np.isin(groups, left[chosen])))
        left = np.delete(left, chosen)
    carved["train"] = train.take(np.flatnonzero(np.isin(groups, left)))
    for split, part in carved.items():
        for index, name in enumerate(names or ()):
            count = np.count_nonzero(part.labels == index)
            if count < 2:
                raise InputError(
                    f"fractions {dict(fractions)}: {split} would get {count} rows of class {name!r}, "
                    "at least 2 are needed; change the fraction, add rows of this class or leave it out"
                )
        _check_rows(f"fractions {dict(fractions)}: split {split!r}", part, names)
    return carved


def _limited(split: str, part: Split, names: list[str] | None, rows: int, seed: int) -> Split:
    classes = len(np.unique(part.labels)) if names else 1
    if rows < max(2, classes):
        raise InputError(
            f"limit: {split} {rows} is below "
            + (f"its number of classes, {classes}" if classes > 2 else "2, the least a split can have")
            + "; raise it"
        )
    if rows >= len(part.rows):
        return part
    strata = part.labels if names else np.zeros(len(part.rows), dtype=np.int64)
    limited = part.take(stratified_sample(strata, rows, seed))
    _check_rows(f"limit: split {split!r}", limited, names)
    return limited

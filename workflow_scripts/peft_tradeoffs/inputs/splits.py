"""From tables to splits: checked texts and labels, fractions, what two splits share, and the files they end in."""

import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import Faults, InputError, listed, refuse
from peft_tradeoffs.core.files import atomic, check_object, read_object, sha256, write_json
from peft_tradeoffs.core.layout import command
from peft_tradeoffs.inputs.data_files import Table
from peft_tradeoffs.inputs.groups import CONTAINED, GROUPS, Groups, draw_groups, independent_rows, of_column, of_texts
from peft_tradeoffs.tasks.classes import SENTINELS, Column, Names, clean, encodable
from peft_tradeoffs.tasks.outputs import further_references, reference_of
from peft_tradeoffs.tasks.task import Task
from peft_tradeoffs.tasks.texts import GENERAL, Form

Texts = tuple[str, ...]
OTHER_UNIT = 10  # times as far as those of train spread targets that are in another unit
LEAST_SPREAD_ROWS = 5  # whose spread tells something
NAMED_CLASSES = 5  # that a warning spells out
PROMPT = "prompt"  # what groups are by, where several rows have the same one
ALIKE = "case, spaces or the Unicode form"
JUDGED = ("test", "heldout")  # splits on which arms are compared
FEWER = 1.1  # times as many rows as independent ones: intervals of rows are 5 % too narrow then, at worst
READ_WORDS = 2_000_000  # of a split, in which repetitions are looked for: 3 seconds, 400 MB
OFF = 0.1  # of the rows that a fraction asks for


def check_distinct(
    tables: Mapping[str, Table], text: Sequence[str], read: Mapping[str, Sequence[Texts]] | None = None
) -> None:
    """Raise InputError for two tables, by split, that have the same texts in any order, however often each.

    What a reader hardly sees makes no other text of one. `read`: the texts, where they are not as the columns are.
    """
    if read is None:
        read = {
            split: list(zip(*(table.columns[name] for name in text), strict=True)) for split, table in tables.items()
        }
    texts = {split: set(own) for split, own in read.items()}
    for first, second in itertools.combinations(tables, 2):
        same = texts[first] == texts[second]
        if same or _alike(texts[first], texts[second]):
            but = "" if same else f" but for {ALIKE}"
            first_text = read[second][0][0][:60]
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
    """A sentence per split with rows whose texts a training or validation row has too; heldout: or a test row."""
    said = []
    for other in ("train", "validation", "test"):
        if other not in splits:
            continue
        known = set(splits[other].texts)
        folded = {_folded(texts) for texts in known}
        for name, split in splits.items():
            if name in ("train", other) or (other == "test" and name != "heldout"):
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
        more = (
            "; this split shows nothing that is new to the model"
            if other != "test"
            else "; this split is no second test"
        )
    return f"{exact} of {rows} {name} rows ({share(exact, rows)}) {have} the text of a {other} row{more}."


def group_warnings(splits: Mapping[str, "Split"]) -> list[str]:
    """A sentence per split with rows of a group that an earlier split has too; one if every row is its own group.

    Raises InputError for a judged split whose rows are all of one group, from which nothing follows for others.
    """
    groups = {name: split.groups for name, split in splits.items() if split.groups is not None}
    said = []
    for name, own in groups.items():
        rows = len(own.index)
        if name in JUDGED and own.count < 2:
            raise InputError(
                f"split {name!r}: its {rows} rows are all of one group, and at least 2 are needed to tell how much "
                "groups differ; take another column for `group`, or leave it out"
            )
        for other in {"validation": ["train"], "test": ["train", "validation"], "heldout": SPLITS[:3]}.get(name, []):
            count = int(np.isin(own.index, groups[other].index).sum()) if other in groups else 0
            if count:
                whose = {"train": "training"}.get(other, other)
                how = {CONTAINED: "by their texts", PROMPT: "of the same prompt"}.get(own.by, f"column {own.by!r}")
                said.append(
                    f"{count} of {rows} {name} rows ({share(count, rows)}) {'is' if count == 1 else 'are'} of a group "
                    f"that {whose} rows are of too ({how})."
                )
    by = groups["train"].by
    everything = np.concatenate([own.index for own in groups.values()])
    if by not in (CONTAINED, PROMPT) and len(np.unique(everything)) == len(everything):
        said.append(f"The column {by!r} has another value in every row, so each row is a group of its own.")
    return said


def repetition_warnings(splits: Mapping[str, "Split"]) -> list[str]:
    """A sentence for each judged split whose texts repeat each other so much that rows count for notably fewer."""
    said = []
    for name in JUDGED:
        if name not in splits:
            continue
        texts = splits[name].texts
        words = np.cumsum([sum(len(text.split()) for text in own) for own in texts])
        texts = texts[: max(1, int(np.searchsorted(words, READ_WORDS, side="right")))]
        groups = of_texts(texts)
        independent, sizes = independent_rows(groups), np.bincount(groups)
        if len(texts) <= FEWER * independent:
            continue
        count = int(sizes[sizes > 1].sum())
        first = "" if len(texts) == len(splits[name].texts) else "the first "
        said.append(
            f"{count} of {first}{len(texts)} {name} rows ({share(count, len(texts))}) repeat another {name} row, "
            f"contain its text or are part of it: {len(sizes)} groups, which tell as little as {independent:.0f} rows "
            "where those of a group get the same answer. Intervals and tests take rows to be independent; set "
            f"`group: {CONTAINED}`, or `group` to the column that says where rows come from."
        )
    return said


def share(part: int, whole: int) -> str:
    """A share in per cent that is 0 or 100 only where it is exactly so."""
    percent = 100 * part / whole
    if 0 < percent < 1:
        return f"{percent:.1f} %" if percent >= 0.05 else "below 0.1 %"
    return f"{percent:.0f} %" if part == whole or percent < 99.5 else f"{min(percent, 99.9):.1f} %"


def _folded(texts: Sequence[str]) -> Texts:
    """Texts without what a reader hardly sees: case, spaces and the Unicode form, invisible characters among it."""
    return tuple(" ".join(clean(text).casefold().split()) for text in texts)


def class_warnings(splits: Mapping[str, "Split"], names: Sequence[str]) -> list[str]:
    """One sentence on the classes, by the names of their indices, that no test row or a single training row has."""
    train, test = (np.bincount(splits[name].labels, minlength=len(names)) for name in ("train", "test"))
    rare = [
        (f"{name!r:.80}", _counted(train[i], "training row"), _counted(test[i], "test row"))
        for i, name in enumerate(names)
        if train[i] == 1 or not test[i]
    ]
    if not rare:
        return []
    if len(rare) == 1:
        name, in_train, in_test = rare[0]
        return [f"The class {name} has {in_train} and {in_test}; it may be another class misspelt."]
    shown = ", ".join(f"{name} ({in_train}, {in_test})" for name, in_train, in_test in rare[:NAMED_CLASSES])
    more = f" and {len(rare) - NAMED_CLASSES} more" if len(rare) > NAMED_CLASSES else ""
    return [
        f"{len(rare)} classes have no test row or a single training row: {shown}{more}; they may be other classes "
        "misspelt."
    ]


def _counted(rows: int | np.integer, unit: str) -> str:
    return f"{rows or 'no'} {unit}{'s' if rows > 1 else ''}"


def contradictions(
    splits: Mapping[str, "Split"], names: Sequence[str] | None, tables: Mapping[str, Table]
) -> list[str]:
    """A sentence for each split in which a text, to a reader, has more than one label.

    Without `names` labels are values, which several people may have given: they differ by more than a standard
    deviation of train then. `tables` has what splits are of, train at least.
    """
    said = []
    apart = 0 if names is not None else _deviation(splits["train"].labels)
    differ = "different labels" if names is not None else f"labels more than a standard deviation ({apart:.3g}) apart"
    for split, part in splits.items():
        groups: dict[Texts, list[int]] = {}
        for index, texts in enumerate(part.texts):
            groups.setdefault(_folded(texts), []).append(index)
        many = (rows for rows in groups.values() if len(rows) > 1)
        found = [rows for rows in many if _width(part.labels[rows]) > apart]
        if not found:
            continue
        labels = part.labels[found[0]]
        pair = [found[0][int(np.argmin(labels))], found[0][int(np.argmax(labels))]]
        own = [f"{names[part.labels[i]]!r:.80}" if names is not None else f"{part.labels[i]:g}" for i in pair]
        table, where = tables.get(split, tables["train"]), " and ".join(own)
        count, rows = sum(map(len, found)), len(part.rows)
        said.append(
            f"{count} of {rows} {split} rows ({share(count, rows)}) have the text of another {split} row, and these "
            f"have {differ}, as {where} in {table.at(part.rows[pair].tolist())} ({part.texts[pair[0]][0]!r:.80})."
        )
    return said


def value_warnings(splits: Mapping[str, "Split"], tables: Mapping[str, Table]) -> list[str]:
    """A sentence for each value that may stand for a missing one, and for each split in other units than train.

    Labels are numbers, not classes. `tables` has what splits are of, train at least.
    """
    everything = np.concatenate([part.labels for part in splits.values()])
    rest = everything[~np.isin(everything, SENTINELS)]
    if not len(rest):
        return []
    low, high, width = float(rest.min()), float(rest.max()), _width(rest)
    said, missing = [], []
    for value in SENTINELS:
        apart = low >= 0 and high > 1 if value == -1 else not low - width <= value <= high + width
        if apart and width > 0 and value in everything:
            missing.append(value)
            count = np.count_nonzero(everything == value)
            split, part = next((name, part) for name, part in splits.items() if value in part.labels)
            first = tables.get(split, tables["train"]).at([int(part.rows[part.labels == value][0])])
            said.append(
                f"The target {value} ({_counted(count, 'row')}, the first is {first}) stands apart from the others, "
                f"{low:g} to {high:g}; it may stand for a missing value and is a number here."
            )
    train = splits["train"].labels[~np.isin(splits["train"].labels, missing)]
    for split, part in splits.items():
        own = part.labels[~np.isin(part.labels, missing)]
        if split != "train" and len(own) and len(train) and _other_unit(own, train):
            said.append(
                f"The targets of {split} are {own.min():g} to {own.max():g} and those of train {train.min():g} to "
                f"{train.max():g}; convert them if they are in different units."
            )
    return said


def _other_unit(some: np.ndarray, others: np.ndarray) -> bool:
    """Whether values have no range in common, or spread ten times as far as the others; single ones aside."""
    if some.min() > others.max() or some.max() < others.min():
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        narrow, wide = sorted(_width(np.quantile(values, (0.05, 0.95))) for values in (some, others))
    return min(len(some), len(others)) >= LEAST_SPREAD_ROWS and 0 < narrow <= wide / OTHER_UNIT < math.inf


def _deviation(values: np.ndarray) -> float:
    """Standard deviation; infinite where it is beyond what float64 holds."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = float(np.std(values))
    return found if math.isfinite(found) else math.inf


def _width(values: np.ndarray) -> float:
    with np.errstate(over="ignore"):
        return float(np.ptp(values.astype(np.float64)))


SPLITS = ("train", "validation", "test", "heldout")
REFERENCES = "references"  # a column of a split's file
REMEDY = "delete dataset.json, and the next call reads the data set again"
CARVED = ("test", "validation", "heldout")  # in this order, so that a later one changes none of those before


@dataclass(frozen=True)
class Split:
    """Rows of one split, n of them, in the order of their source.

    texts: n tuples of one or two str. labels: [n] int64 class index, or float64 value.
    rows: [n] int64, the 0-based row in the source split. groups: of the n rows; None where each is by itself.
    references: what else would be right of the n rows; None where their texts alone are.
    """

    texts: list[tuple[str, ...]]
    labels: np.ndarray
    rows: np.ndarray
    groups: Groups | None = None
    references: list[Texts] | None = None

    def take(self, indices: np.ndarray) -> "Split":
        """The rows with these indices ([k] int64)."""
        groups = None if self.groups is None else self.groups.take(indices)
        texts = [self.texts[index] for index in indices]
        references = None if self.references is None else [self.references[index] for index in indices]
        return Split(texts, self.labels[indices], self.rows[indices], groups, references)


@dataclass(frozen=True)
class Draw:
    """Which rows are drawn: shares of train that become splits, most rows of a split, the seed of both.

    `group` is the column whose values, or CONTAINED, by which texts, make groups that a fraction does not part.
    """

    fractions: Mapping[str, float] = field(default_factory=dict)
    limit: Mapping[str, int | None] = field(default_factory=dict)
    seed: int = 0
    group: str | None = None


def make_splits(
    tables: Mapping[str, Table], text: Sequence[str] | Form, label: str, task: Task, draw: Draw, warnings: list[str]
) -> tuple[dict[str, Split], Names]:
    """The splits by name, and the class names in the order of their indices (None where labels are no classes).

    `tables` holds "train" and what else the source has of SPLITS; fractions are carved from train, in the order of
    CARVED, and limits then cut splits down to so many rows. Both are stratified by class, if there are classes,
    draw the same rows for the same seed, and keep the rows' order. Rows with the same text(s) stay on the same side
    of a carve, so with repeated texts a fraction's size is approximate, otherwise exact; where `draw` has a group, rows
    of one group do, and classes are as near to their share as groups allow. Sentences on what a reader of the results
    must know (labels that look alike, rows of test that are in train) are added to `warnings`.
    `text` are columns, or of rows without labels their form; `label` names no column then, and rows with the same
    first text, the prompt, are a group.
    Raises InputError for rows, labels, fractions or limits that cannot be trained or tested on, with all bad rows.
    """
    _check_names(tables, draw.fractions)
    tables = {split: tables[split] for split in SPLITS if split in tables}
    warnings += [warning for table in tables.values() for warning in table.reading.warnings]
    faults = {split: Faults(table.name, table.unit) for split, table in tables.items()}
    texts = {split: _read_texts(table, text, task, faults[split]) for split, table in tables.items()}
    further = {split: _further(table, text, faults[split]) for split, table in tables.items()}
    columns = {
        split: Column(table.name, table.columns.get(label, []), table.places, faults[split], table.label_names)
        for split, table in tables.items()
    }
    names, labels = task.read_labels(label, columns, warnings)
    groups = of_column(tables, draw.group, faults) if draw.group and draw.group != CONTAINED else {}
    refuse(list(faults.values()))
    if draw.group == CONTAINED:
        groups = _groups_of_texts(texts)
    elif task.reader is not None:
        groups = groups or _groups_of_prompts(texts)
        check_distinct(tables, (), texts)
    of = _Labels(task, names)
    splits = {}
    for split, table in tables.items():
        rows_of = np.array(table.rows(), dtype=np.int64)
        splits[split] = Split(texts[split], labels[split], rows_of, groups.get(split), further[split])
        _check_rows(f"split {split!r} ({table.name})", splits[split], of)
    if draw.fractions:
        splits |= _carve(splits["train"], of, draw, warnings)
    for split, rows in draw.limit.items():
        if rows is None:
            continue
        if split not in splits:
            raise InputError(f"limit: there is no split {split!r}; the splits are {', '.join(splits)}")
        splits[split] = _limited(split, splits[split], of, rows, draw.seed)
    splits = {split: splits[split] for split in SPLITS if split in splits}
    warnings += overlap_warnings(splits)
    warnings += group_warnings(splits) if splits["train"].groups is not None else repetition_warnings(splits)
    if task.reader is None:
        warnings += value_warnings(splits, tables) if names is None else class_warnings(splits, names)
        warnings += contradictions(splits, names, tables)
    return splits, names


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


def write_splits(
    splits: Mapping[str, Split],
    names: Names,
    task: Task,
    source: Mapping[str, Any],
    folder: Path,
    warnings: Sequence[str] = (),
) -> None:
    """Write one parquet file per split and, last, dataset.json to `folder`; take a stale split's file away.

    dataset.json holds, per split, `rows`, `label_counts` (null without classes), its file's `sha256` and, but for
    train, `in_train`: how many of the rows have the text(s) of a training row. Its own `sha256` is over the contents of
    the splits, `warnings` what make_splits had to say. Groups of rows go to groups.parquet, where `read_groups` looks:
    it has no texts, and neither tokens nor runs change with it. `group` says `by` what they were found (a column,
    "contained" or "prompt") and the file's `sha256`, each split how many `groups` it has and the rows of the
    `largest_group`.
    """
    (folder / "dataset.json").unlink(missing_ok=True)  # a killed call leaves none that tells of other files
    digest = hashlib.sha256(json.dumps(names).encode())
    described = {}
    known = set(splits["train"].texts)
    pair = len(splits["train"].texts[0]) == 2
    for name in (*SPLITS, GENERAL):
        path = folder / f"{name}.parquet"
        if name not in splits:
            path.unlink(missing_ok=True)
            continue
        split = splits[name]
        further = {} if split.references is None else {REFERENCES: split.references}
        columns = dict(zip(("text_a", "text_b"), zip(*split.texts, strict=True), strict=False))
        table = pa.table({**columns, "label": split.labels, "row": split.rows, **further})
        with atomic(path) as temporary:
            pq.write_table(table, temporary)
        digest.update(name.encode())
        for row in zip(split.texts, split.labels.tolist(), split.rows.tolist(), strict=True):
            digest.update(json.dumps(row).encode())
        digest.update(json.dumps(split.references).encode() if further else b"")
        described[name] = {
            "rows": len(split.rows),
            "label_counts": task.counts(split.labels, names),
            "sha256": sha256(path),
        }
        if name != "train":
            described[name]["in_train"] = shared(split, known)
        if split.groups is not None:
            described[name] |= {"groups": split.groups.count, "largest_group": split.groups.largest}
    grouped = _write_groups(splits, folder / GROUPS)
    write_json(
        folder / "dataset.json",
        {
            "task": task.name,
            "labels": names,
            "pair": pair,
            "splits": described,
            **grouped,
            "warnings": list(warnings),
            "source": source,
            "sha256": digest.hexdigest(),
        },
    )


def _write_groups(splits: Mapping[str, Split], path: Path) -> dict[str, Any]:
    """Write the groups of all rows, if they have any, and return what dataset.json says of the file."""
    grouped = {name: split.groups for name, split in splits.items() if split.groups is not None}
    if not grouped:
        path.unlink(missing_ok=True)
        return {}
    rows = {name: splits[name].rows for name in grouped}
    columns = {
        "split": np.repeat(list(rows), [len(own) for own in rows.values()]),
        "row": np.concatenate(list(rows.values())),
        "group": np.concatenate([groups.index for groups in grouped.values()]),
    }
    with atomic(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
    return {"group": {"by": next(iter(grouped.values())).by, "sha256": sha256(path)}}


def read_references(path: Path, rows: Sequence[int]) -> list[tuple[Any, list[str]]]:
    """What a model is asked in each of `rows` of the source, and what is right, from the file of a fetched split.

    As `reference_of`. Raises InputError for a file that is not there, and for rows that it does not have.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run `{command('fetch')}`, which makes it") from None
    found = {name: table.column(name).to_pylist() for name in table.schema.names}
    texts = zip(*(found[name] for name in ("text_a", "text_b") if name in found), strict=True)
    of_row = dict(zip(found["row"], zip(texts, found.get(REFERENCES) or [()] * len(table), strict=True), strict=True))
    if missing := [row for row in rows if row not in of_row]:
        raise InputError(f"{path}: no row {missing[0] + 1}, which a run answered; {files.REMEDY}")
    return [reference_of(*of_row[row]) for row in rows]


def read_groups(data_dir: Path, dataset: str, split: str, rows: np.ndarray) -> np.ndarray | None:
    """The group of each of n rows of a split: [n] int64 from 0 to the number of groups - 1.

    rows: [n] int, the 0-based row in the source split, as predictions.csv has them; those of a dev split are of
    "train". `data_dir` holds {dataset}/dataset.json. None where the data set has no groups, and where that file is not
    there, which the notices say. Raises InputError for files that are broken or changed, and for unknown rows.
    """
    folder = data_dir / dataset
    described, path = folder / "dataset.json", folder / GROUPS
    if not described.exists():
        return None
    found = read_object(described, {}, "a data set's description", REMEDY)
    if "group" not in found:
        return None
    about = check_object(described, found["group"], {"by": (str,), "sha256": (str,)}, "a description of groups", REMEDY)
    if not path.is_file() or sha256(path) != about["sha256"]:
        state = "not what was written with dataset.json" if path.exists() else "no such file"
        raise InputError(f"{path}: {state}; put it back, or {REMEDY}")
    table = pq.read_table(path, filters=[("split", "=", split)])
    known, groups = (table.column(name).to_numpy() for name in ("row", "group"))
    order = np.argsort(known)
    places = np.searchsorted(known, rows, sorter=order)
    there = places < len(known)
    there[there] = known[order[places[there]]] == rows[there]
    if not there.all():
        lost = listed(f"split {split!r}", "row", [int(row) + 1 for row in rows[~there]])
        raise InputError(
            f"{path}: no group for {lost}, so the runs are of other rows; {REMEDY} and trains what is of others"
        )
    return np.unique(groups[order[places]], return_inverse=True)[1]


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


def _read_texts(table: Table, text: Sequence[str] | Form, task: Task, faults: Faults) -> list[Texts]:
    """Each row's text(s), of columns or by the form of rows without labels; what is wrong goes to `faults`."""
    if not isinstance(text, Form):
        return _texts(table, text, faults)
    assert task.reader is not None  # which made the form
    return task.reader.texts(text, table.columns, table.places, faults)


def _further(table: Table, text: Sequence[str] | Form, faults: Faults) -> list[Texts] | None:
    """Each row's further references, where there is a column of them; what is wrong goes to `faults`."""
    column = text.references if isinstance(text, Form) else None
    if column is None or column not in table.columns:
        return None
    return further_references(column, table.columns[column], table.places, faults)


def _texts(table: Table, columns: Sequence[str], faults: Faults) -> list[tuple[str, ...]]:
    """Each row's text(s); those that are none go to `faults`."""
    for column in columns:
        for place, value in zip(table.places, table.columns[column], strict=True):
            if isinstance(value, str):
                if not clean(value):
                    faults.add(place, f"empty text in {column!r}", "fill in or remove")
                elif not encodable(value):
                    faults.add(place, f"{column!r} has half of a surrogate pair", "correct the escapes")
            elif value is None:
                faults.add(place, f"empty text in {column!r}", "fill in or remove")
            else:
                kind = f"{column!r} is {type(value).__name__}, not text"
                faults.add(place, kind, "set `text` to a text column, or write this one as text")
    return list(zip(*(table.columns[column] for column in columns), strict=True))


@dataclass(frozen=True)
class _Labels:
    """What labels are of: the task, and the names of its classes."""

    task: Task
    names: Names


def _check_rows(place: str, split: Split, of: _Labels) -> None:
    """Raise InputError for a split of fewer than 2 rows or without two different labels."""
    if len(split.rows) < 2:
        raise InputError(f"{place}: {len(split.rows)} rows, at least 2 are needed")
    if of.task.reader is None and len(np.unique(split.labels)) < 2:
        value = of.task.shown(split.labels[0], of.names)
        raise InputError(f"{place}: every label is {value!r}; at least two different ones are needed: add rows")


def _groups_of_prompts(texts: Mapping[str, Sequence[Texts]]) -> dict[str, Groups]:
    """The groups by split of rows with the same prompt, in whatever split; none where all prompts differ."""
    if any(len(own) < 2 for part in texts.values() for own in part[:1]):
        return {}
    ids: dict[str, int] = {}
    found = {
        split: Groups(PROMPT, np.array([ids.setdefault(own[0], len(ids)) for own in part], dtype=np.int64))
        for split, part in texts.items()
    }
    return found if any(own.count < len(own.index) for own in found.values()) else {}


def _groups_of_texts(texts: Mapping[str, Sequence[Texts]]) -> dict[str, Groups]:
    """The groups by split of texts that repeat each other, in whatever split."""
    found = of_texts([own for part in texts.values() for own in part])
    ends = np.cumsum([len(part) for part in texts.values()])[:-1]
    return {split: Groups(CONTAINED, own) for split, own in zip(texts, np.split(found, ends), strict=True)}


def _carve(train: Split, of: _Labels, draw: Draw, warnings: list[str]) -> dict[str, Split]:
    """`train` without the rows of the carved splits, and these."""
    fractions = dict(sorted(draw.fractions.items(), key=lambda item: CARVED.index(item[0])))
    groups = train.groups
    if groups is None:
        parts = _draw_texts(train, of, fractions, draw.seed)
        remedy = "change the fraction, add rows of this class"
    else:
        parts = _draw_groups(train.labels, groups, of, fractions, draw.seed)
        remedy = "change the fraction or split_seed, add groups with rows of this class"
    carved = {split: train.take(rows) for split, rows in parts.items()}
    for split, part in carved.items():
        for name, count in (of.task.counts(part.labels, of.names) or {}).items():
            if count < 2:
                raise InputError(
                    f"fractions {dict(draw.fractions)}: {split} would get {count} rows of class {name!r}, "
                    f"at least 2 are needed; {remedy} or leave it out"
                )
        _check_rows(f"fractions {dict(draw.fractions)}: split {split!r}", part, of)
    for split, fraction in fractions.items():
        asked, found = fraction * len(train.rows), len(carved[split].rows)
        if groups is not None and abs(found - asked) > OFF * asked:
            warnings.append(
                f"{split} has {found} rows, where the fraction {fraction} asks for {asked:.0f}: groups are not parted, "
                f"and the largest has {groups.largest} of {len(train.rows)} rows."
            )
    return carved


def _draw_texts(train: Split, of: _Labels, fractions: Mapping[str, float], seed: int) -> dict[str, np.ndarray]:
    """The rows ([k] int64) of each carved split, then those that train keeps; rows with the same text(s) together."""
    ids: dict[tuple[str, ...], int] = {}
    groups = np.array([ids.setdefault(texts, len(ids)) for texts in train.texts])
    first = np.unique(groups, return_index=True)[1]
    strata = of.task.strata(train.labels[first])
    left = np.arange(len(first))
    drawn = {}
    for split, fraction in fractions.items():
        size = round(fraction * len(first))
        classes = len(np.unique(strata[left]))
        if not max(2, classes) <= size <= len(left):
            raise InputError(
                f"fractions: {split} {fraction} of {len(first)} different texts is {size}, at least "
                f"{max(2, 2 * classes)} are needed; take a larger fraction or more rows"
            )
        chosen = stratified_sample(strata[left], size, seed)
        drawn[split] = np.flatnonzero(np.isin(groups, left[chosen]))
        left = np.delete(left, chosen)
    return {**drawn, "train": np.flatnonzero(np.isin(groups, left))}


def _draw_groups(
    labels: np.ndarray, groups: Groups, of: _Labels, fractions: Mapping[str, float], seed: int
) -> dict[str, np.ndarray]:
    """As `_draw_texts`; rows of one group together."""
    left, drawn = np.arange(len(labels)), {}
    for split, fraction in fractions.items():
        share = fraction * len(labels) / len(left)
        chosen = draw_groups(groups.index[left], of.task.strata(labels[left]), share, seed)
        drawn[split], left = left[chosen], left[~chosen]
        fewest = min(len(np.unique(groups.index[rows])) for rows in (drawn[split], left))
        if fewest < 2:
            raise InputError(
                f"fractions: {split} {fraction} of {len(labels)} rows parts {groups.count} groups so that {fewest} "
                f"{'is' if fewest == 1 else 'are'} on one side (the largest has {groups.largest} rows), and at least 2 "
                "are needed; take another fraction, or another `group`"
            )
    return {**drawn, "train": left}


def _limited(split: str, part: Split, of: _Labels, rows: int, seed: int) -> Split:
    strata = of.task.strata(part.labels)
    classes = len(np.unique(strata))
    if rows < max(2, classes):
        raise InputError(
            f"limit: {split} {rows} is below "
            + (f"its number of classes, {classes}" if classes > 2 else "2, the least a split can have")
            + "; raise it"
        )
    if rows >= len(part.rows):
        return part
    limited = part.take(stratified_sample(strata, rows, seed))
    _check_rows(f"limit: split {split!r}", limited, of)
    return limited

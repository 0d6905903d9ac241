"""Reads a data set from where it is: the hub, local files or installed packages' docstrings; writes its splits."""

import ast
import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import inspect
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peft_tradeoffs.core.errors import Faults, InputError, refuse
from peft_tradeoffs.core.files import sha256
from peft_tradeoffs.inputs.data_files import NoColumn, Table, find_columns, labelled, read_table
from peft_tradeoffs.inputs.groups import MODULE, columns_of, needed_columns
from peft_tradeoffs.inputs.network import check_hub_variables
from peft_tradeoffs.inputs.splits import (
    SPLITS,
    Draw,
    Split,
    check_distinct,
    make_splits,
    stratified_sample,
    write_splits,
)
from peft_tradeoffs.tasks.classes import encodable
from peft_tradeoffs.tasks.outputs import no_number, reference_of, without_number
from peft_tradeoffs.tasks.task import DEFAULT, TASKS
from peft_tradeoffs.tasks.texts import ANY_TEXT, GENERAL, Form

Block = dict[str, Any]  # of a data set, in the configuration
Loaded = tuple[dict[str, Table], dict[str, Any]]  # one table per split; what identifies the source
REQUIRED = {"files": ("splits",), "docstrings": ("packages",), "hub": ("path", "revision", "splits")}


def fetch_dataset(block: Block, folder: Path) -> None:
    """Write the splits of the data set that `block` describes to `folder`, as `write_splits` says.

    How files were read and what a reader of the results must know goes to stderr. Only the source hub uses the
    network. Raises InputError for a block that lacks a key and for data that cannot be trained or tested on.
    """
    source = block.get("source")
    if source not in LOADERS:
        raise InputError(f"source {source!r}: one of {', '.join(LOADERS)} is known")
    if (name := block.get("task", DEFAULT)) not in TASKS:
        raise InputError(f"task {name!r}: one of {', '.join(TASKS)} is known")
    task = TASKS[name]
    labelled = task.reader is None and source != "docstrings"
    missing = [key for key in (*REQUIRED[source], *(("text", "label") if labelled else ())) if key not in block]
    if missing:
        raise InputError(f"source {source!r}: no {missing[0]!r} in the data set's block; add it")
    folder.mkdir(parents=True, exist_ok=True)
    tables, identity = LOADERS[source](block, folder)
    for table in tables.values():
        if table.reading.how:
            print(f"note: data set {folder.name}: {table.reading.how}", file=sys.stderr)
    label = block.get("label", "label")
    text: list[str] | Form = ["text"] if source == "docstrings" else block.get("text", [])
    if task.reader is not None:
        text = task.reader.form(f"datasets.{folder.name}", block)
        identity["form"] = text.facts()
    tables = {split: tables[split] for split in SPLITS if split in tables}
    draw = Draw(block.get("fractions") or {}, block.get("limit") or {}, block.get("split_seed", 0), block.get("group"))
    said: list[str] = []
    try:
        splits, names = make_splits(tables, text, label, task, draw, said)
    finally:
        said[:] = shortened(said, block.get("splits", {}).values() if source == "files" else ())
        for warning in said:
            print(f"warning: data set {folder.name}: {warning}", file=sys.stderr)
    if number := (block.get("generate") or {}).get("number"):
        _check_numbers(splits, tables, number, block["generate"].get("answered", ["test"]))
    if not isinstance(text, Form):
        check_distinct(tables, text)
    labels = {name: split.labels for name, split in splits.items()}
    names, labels = task.arrange(f"datasets.{folder.name}", block, names, labels)
    splits = {name: dataclasses.replace(split, labels=labels[name]) for name, split in splits.items()}
    if block.get("forgetting"):
        splits[GENERAL], identity[GENERAL] = read_general(block["forgetting"], folder, block.get("split_seed", 0))
        if warning := _trained_on(splits):
            said.append(warning)
            print(f"warning: data set {folder.name}: {warning}", file=sys.stderr)
    write_splits(splits, names, task, {"source": source, **identity}, folder, said)


def _check_numbers(splits: dict[str, Split], tables: dict[str, Table], number: str, answered: Sequence[str]) -> None:
    """Raise InputError for rows of `answered` splits none of whose references has a number, as `number` finds it."""
    said = []
    for name in answered:
        split, table = splits[name], tables.get(name, tables["train"])
        further = split.references or [()] * len(split.texts)
        references = [reference_of(*row)[1] for row in zip(split.texts, further, strict=True)]
        if lacking := without_number(references, number):
            said.append(f"{table.at(split.rows[lacking].tolist())}: {no_number(references[lacking[0]])}")
    if said:
        raise InputError("; also ".join(said))


def shortened(said: Sequence[str], paths: Iterable[str]) -> list[str]:
    """Sentences with short names of these files: relative to the working directory, or the file's own if it is alone.

    A whole path says where the person works, and readers of the results do not.
    """
    whole = sorted(set(paths), key=len, reverse=True)
    names = [Path(path).name for path in whole]
    found = list(said)
    for path, name in zip(whole, names, strict=True):
        if not Path(path).is_absolute():
            continue
        inside = Path(path).is_relative_to(Path.cwd())
        short = str(Path(path).relative_to(Path.cwd())) if inside else name if names.count(name) == 1 else path
        found = [sentence.replace(path, short) for sentence in found]
    return found


def read_general(block: Block, folder: Path, seed: int) -> tuple[Split, dict[str, Any]]:
    """The texts of a data set's `forgetting` block that differ, at most `rows` of them, and what identifies the source.

    `folder` is that of the data set. Raises InputError for a source that cannot be read, and for fewer than 2 texts.
    """
    key = f"datasets.{folder.name}.forgetting"
    found = {**block, "task": ANY_TEXT.name, "split_seed": seed}
    if block["source"] != "docstrings":
        found["splits"] = {GENERAL: found["path" if block["source"] == "files" else "split"]}
    try:
        tables, identity = LOADERS[block["source"]](found, folder)
        (table,) = tables.values()
        faults = Faults(table.name, table.unit)
        texts = ANY_TEXT.texts(ANY_TEXT.form(key, found), table.columns, table.places, faults)
        refuse([faults])
    except InputError as error:
        raise InputError(f"config key {key}: {error}") from error
    first = np.sort(np.unique([text for (text,) in texts], return_index=True)[1])
    if len(first) < 2:
        raise InputError(f"config key {key}: {table.name} has {len(first)} text, and at least 2 are needed; add some")
    if found["rows"] < len(first):
        first = first[stratified_sample(np.zeros(len(first), dtype=np.int64), found["rows"], seed)]
    rows = np.array(table.rows(), dtype=np.int64)[first]
    split = Split([texts[index] for index in first], np.zeros(len(first), dtype=np.int64), rows)
    return split, {"source": block["source"], **identity}


def _trained_on(splits: dict[str, Split]) -> str:
    """A sentence on general texts that stand in the training rows too; empty where none does."""
    learned = {" ".join(said.split()) for row in splits["train"].texts for said in (*_said(row), " ".join(row))}
    general = [" ".join(text.split()) for (text,) in splits[GENERAL].texts]
    shared = sum(text in learned for text in general)
    if not shared:
        return ""
    return (
        f"{shared:,} of the {len(general):,} general texts of `forgetting` stand in training rows too; take a text "
        "that is not of your task"
    )


def _said(row: tuple[str, ...]) -> Iterator[str]:
    """The texts of a row, and those of a chat's turns, which is one as JSON."""
    for cell in row:
        yield cell
        if cell.startswith(("[", "{")):
            with contextlib.suppress(ValueError):
                found = json.loads(cell)
                turns = found.get("messages", ()) if isinstance(found, dict) else found
                yield from (str(turn["content"]) for turn in turns if isinstance(turn, dict) and "content" in turn)


def load_files(block: Block, folder: Path) -> Loaded:
    """The tables of local files; each is identified by its SHA-256."""
    paths = {split: Path(path) for split, path in block["splits"].items()}
    tables, errors = {}, []
    for split, path in paths.items():
        try:
            read = functools.partial(read_table, path, separator=block.get("separator"))
            tables[split] = _read(read, block, split)
        except InputError as error:
            errors.append(str(error))
    if errors:
        raise InputError("; also ".join(errors))
    files = {split: {"path": str(path), "sha256": sha256(path)} for split, path in paths.items()}
    return tables, {"files": files}


def _read(read: Callable[[list[str]], Table], block: Block, split: str) -> Table:
    """The table of a split, by what reads these columns; without those that it has not and need not have."""
    columns = columns_of(block)
    try:
        return read(columns)
    except NoColumn as error:
        if error.column in needed_columns(block, split):
            raise
        return read([column for column in columns if column != error.column])


def load_docstrings(block: Block, folder: Path) -> Loaded:
    """The docstrings of installed packages, identified by the packages' versions."""
    masked = TASKS[block.get("task", DEFAULT)].reader is None  # else nothing is to be guessed
    table = docstring_table(block["packages"], block.get("split_seed", 0), masked)
    return {"train": table}, {"packages": package_versions(block["packages"])}


def load_hub(block: Block, folder: Path) -> Loaded:
    """The tables of a hub data set at a pinned revision; a ClassLabel's names become the labels."""
    check_hub_variables()
    from peft_tradeoffs.inputs.hub import dataset_snapshot, load_dataset

    config = block.get("config")
    snapshot = dataset_snapshot(block["path"], block["revision"], config)

    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as cache:
        try:
            loaded = load_dataset(snapshot, config, Path(cache))
        except (ValueError, RuntimeError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
            raise InputError(f"data set {block['path']!r}, config {config!r}: {_reason(error)}") from error
        tables = {
            split: _read(functools.partial(hub_table, block["path"], loaded, name), block, split)
            for split, name in block["splits"].items()
        }
    return tables, {key: block.get(key) for key in ("path", "config", "revision")}


def _reason(error: BaseException) -> str:
    """What an error of `datasets` says, and the cause that it hides."""
    said = " ".join(str(error).split())
    while error.__cause__ is not None:
        error = error.__cause__
    cause = " ".join(str(error).split())
    return said if cause in said else f"{said} ({cause})"


def hub_table(path: str, loaded: Any, split: str, columns: list[str]) -> Table:
    """The `columns`, the label last, of one split of a `datasets.DatasetDict`."""
    if split not in loaded:
        raise InputError(f"data set {path!r}: no split {split!r}; its splits are {', '.join(loaded)}")
    rows, name = loaded[split], f"data set {path!r}, split {split!r}"
    found = find_columns(name, rows.column_names, columns)
    values = {column: rows[own][:] for column, own in zip(columns, found, strict=True)}
    classes = getattr(rows.features[found[-1]], "names", None)
    table = Table(name, values, range(1, len(rows) + 1), "row", classes)
    if classes:
        table = labelled(table, columns[-1])
        labels = table.columns[columns[-1]]
        if negative := [label for label in labels if label is not None and label < 0]:
            raise InputError(f"{name}: a label is {negative[0]}, which is no class; pin another revision")
        table.columns[columns[-1]] = [None if label is None else classes[label] for label in labels]
    return table


LOADERS: dict[str, Callable[[Block, Path], Loaded]] = {
    "files": load_files,
    "docstrings": load_docstrings,
    "hub": load_hub,
}


MASK = "package"  # one plain word, so that a masked `numpy.ndarray` stays readable: `package.ndarray`
NOTHING = re.compile(r"(?!)")
ALIASES = ("np", "pd", "plt", "mpl", "nx", "sa", "sp")  # as imports abbreviate the packages; whole words
SKIPPED_FOLDERS = {"test", "tests", "testing", "_vendor", "_vendored"}
WORDS = (6, 100)  # least and most words of a paragraph
LEAST_ROWS = 20  # of a package
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstring_table(packages: Sequence[str], seed: int, masked: bool = True) -> Table:
    """Columns `text`, `label` (the package's name) and `module`: first paragraphs of docstrings, equally many each.

    The packages are read, never imported. A paragraph has 6 to 100 words, its white space collapsed and the
    names of all `packages` `masked`. Paragraphs that several packages share are dropped, repeated ones kept
    once, and every package is cut down (seeded) to the rows of the smallest. Rows stand in the order of
    `packages`, of sorted files and of the source.
    Raises InputError for a package that is not installed or has too few docstrings.
    """
    if len(set(packages)) != len(packages) or len(packages) < 2:
        raise InputError(f"packages {list(packages)}: at least two packages are needed, each named once")
    mask = _mask_pattern(packages) if masked else NOTHING
    texts = {package: _paragraphs(package, mask) for package in packages}
    for package in packages:
        elsewhere = set().union(*(texts[other] for other in packages if other != package))
        own = {text: module for text, module in texts[package].items() if text not in elsewhere}
        if len(own) < LEAST_ROWS:
            raise InputError(
                f"package {package!r}: {len(own)} usable docstrings, at least {LEAST_ROWS} are needed; "
                "take it out of `packages`"
            )
        texts[package] = own
    size = min(map(len, texts.values()))
    rng = np.random.default_rng(seed)
    columns: dict[str, list[str]] = {"text": [], "label": [], MODULE: []}
    for package, own in texts.items():
        kept = np.sort(rng.permutation(len(own))[:size])
        rows = list(own.items())
        columns["text"] += [rows[index][0] for index in kept]
        columns["label"] += [package] * size
        columns[MODULE] += [rows[index][1] for index in kept]
    return Table("docstrings", columns, range(1, size * len(packages) + 1), "row")


def package_versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Each package's version; None for one that no installed distribution provides."""
    providers = importlib.metadata.packages_distributions()
    return {
        package: importlib.metadata.version(providers[package][0]) if package in providers else None
        for package in packages
    }


def _mask_pattern(packages: Sequence[str]) -> re.Pattern[str]:
    """Matches the packages' names in any case, inside identifiers too, and the aliases as whole words."""
    names = "|".join(re.escape(name) for name in sorted(packages, key=len, reverse=True))
    return re.compile(rf"(?i:{names})|\b(?:{'|'.join(ALIASES)})\b")


def _paragraphs(package: str, mask: re.Pattern[str]) -> dict[str, str]:
    """The package's masked first paragraphs of usable length, each once, in source order, with its first module."""
    texts: dict[str, str] = {}
    for path in _source_files(package):
        for docstring in _docstrings(path):
            first = re.split(r"\n\s*\n", inspect.cleandoc(docstring), maxsplit=1)[0]
            words = mask.sub(MASK, first).split()
            if WORDS[0] <= len(words) <= WORDS[1] and encodable(first):
                texts.setdefault(" ".join(words), str(path))
    return texts


def _source_files(package: str) -> list[Path]:
    """The package's Python files, sorted, without its tests."""
    # find_spec would import the parent of a dotted name
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None:
        raise InputError(
            f"package {package!r}: not installed here; `packages` takes names as they are imported. "
            f"Install it (pip install {package}) or take it out"
        )
    if not spec.submodule_search_locations:
        return [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []
    return [
        path
        for root in map(Path, spec.submodule_search_locations)
        for path in sorted(root.rglob("*.py"))
        if SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts[:-1])
        and not path.name.startswith(("test_", "conftest"))
    ]


def _docstrings(path: Path) -> Iterator[str]:
    """Docstrings of the file's module, classes and functions, in source order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # invalid escapes in other people's source
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
            return  # a template, source of another Python version or a broken link: no module of this package
    nodes = [node for node in ast.walk(tree) if isinstance(node, DOCUMENTED)]
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
        docstring = ast.get_docstring(node, clean=False)
        if docstring:
            yield docstring

"""Read a data set, from the hub, local files or installed packages' docstrings, and write its splits.

Writes train.parquet, test.parquet and, if asked for, validation.parquet and heldout.parquet (columns text_a, text_b
for pairs, label, row), then dataset.json, which says what they hold and where it comes from. Fractions and limits are
seeded and stratified by class: the same input gives the same rows. Only the source `hub` uses the network.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_tradeoffs.core.errors import InputError, run

if TYPE_CHECKING:
    from peft_tradeoffs.inputs.data_files import Table

Block = dict[str, Any]
Loaded = tuple[dict[str, "Table"], dict[str, Any]]  # one table per split; what identifies the source


def load_files(block: Block, output_dir: Path) -> Loaded:
    """The tables of local files; each is identified by its SHA-256."""
    from peft_tradeoffs.core.files import sha256
    from peft_tradeoffs.inputs.data_files import read_table

    paths = {split: Path(path) for split, path in block["splits"].items()}
    tables, errors = {}, []
    for split, path in paths.items():
        try:
            tables[split] = read_table(path, [*block["text"], block["label"]], block.get("separator"))
        except InputError as error:
            errors.append(str(error))
    if errors:
        raise InputError("; also ".join(errors))
    files = {split: {"path": str(path), "sha256": sha256(path)} for split, path in paths.items()}
    return tables, {"files": files}


def load_docstrings(block: Block, output_dir: Path) -> Loaded:
    """The docstrings of installed packages, identified by the packages' versions."""
    from peft_tradeoffs.inputs.docstrings import docstring_table, package_versions

    table = docstring_table(block["packages"], block.get("split_seed", 0))
    return {"train": table}, {"packages": package_versions(block["packages"])}


def load_hub(block: Block, output_dir: Path) -> Loaded:
    """The tables of a hub data set at a pinned revision; a ClassLabel's names become the labels."""
    from peft_tradeoffs.inputs.network import check_hub_variables

    check_hub_variables()
    from peft_tradeoffs.inputs.hub import dataset_snapshot, load_dataset

    config = block.get("config")
    folder = dataset_snapshot(block["path"], block["revision"], config)

    import datasets

    datasets.disable_progress_bars()
    wanted = [*block["text"], block["label"]]
    with tempfile.TemporaryDirectory(prefix=f".{output_dir.name}.", dir=output_dir.parent) as cache:
        try:
            loaded = load_dataset(folder, config, Path(cache))
        except (ValueError, RuntimeError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
            raise InputError(f"data set {block['path']!r}, config {config!r}: {_reason(error)}") from error
        tables = {split: hub_table(block["path"], loaded, name, wanted) for split, name in block["splits"].items()}
    return tables, {key: block.get(key) for key in ("path", "config", "revision")}


def _reason(error: BaseException) -> str:
    """What an error of `datasets` says, and the cause that it hides."""
    said = " ".join(str(error).split())
    while error.__cause__ is not None:
        error = error.__cause__
    cause = " ".join(str(error).split())
    return said if cause in said else f"{said} ({cause})"


def hub_table(path: str, loaded: Any, split: str, columns: list[str]) -> "Table":
    """The `columns`, the label last, of one split of a `datasets.DatasetDict`."""
    from peft_tradeoffs.inputs.data_files import Table, find_columns, labelled

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
REQUIRED = {
    "files": ("splits", "text", "label"),
    "docstrings": ("packages",),
    "hub": ("path", "revision", "splits", "text", "label"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, metavar="JSON", help="the data set's block of the config")
    parser.add_argument("--output-dir", required=True, type=Path, help="folder for the splits")
    arguments = parser.parse_args()

    try:
        block = json.loads(arguments.source)
    except json.JSONDecodeError as error:
        raise InputError(f"--source: not JSON ({error})") from error
    source = block.get("source")
    if source not in LOADERS:
        raise InputError(f"source {source!r}: one of {', '.join(LOADERS)} is known")
    missing = [key for key in REQUIRED[source] if key not in block]
    if missing:
        raise InputError(f"source {source!r}: no {missing[0]!r} in the data set's block; add it")

    from peft_tradeoffs.inputs.positive_class import KEY, put_last
    from peft_tradeoffs.inputs.splits import SPLITS, check_distinct, make_splits, write_splits

    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    tables, identity = LOADERS[source](block, arguments.output_dir)
    for table in tables.values():
        if table.reading.how:
            print(f"note: data set {arguments.output_dir.name}: {table.reading.how}", file=sys.stderr)
    text = ["text"] if source == "docstrings" else block["text"]
    tables = {split: tables[split] for split in SPLITS if split in tables}
    warnings: list[str] = []
    try:
        splits, names = make_splits(
            tables,
            text,
            "label" if source == "docstrings" else block["label"],
            task=block.get("task", "classification"),
            fractions=block.get("fractions"),
            limit=block.get("limit"),
            seed=block.get("split_seed", 0),
            warnings=warnings,
        )
    finally:
        for warning in warnings:
            print(f"warning: data set {arguments.output_dir.name}: {warning}", file=sys.stderr)
    check_distinct(tables, text)
    splits, names = put_last(splits, names, block.get(KEY), f"datasets.{arguments.output_dir.name}.{KEY}")
    write_splits(splits, names, {"source": source, **identity}, arguments.output_dir, warnings)


if __name__ == "__main__":
    run(main)

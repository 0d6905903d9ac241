"""Results as CSV, Parquet and JSON, beside the schema of their columns."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from peft_tradeoffs.analysis import tables
from peft_tradeoffs.analysis.finished import METRICS, read_evaluations, verified
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import to_csv
from peft_tradeoffs.core.layout import AXES, run_folder
from peft_tradeoffs.core.quantities import UNREACHED, Quantity, Type
from peft_tradeoffs.core.text import records
from peft_tradeoffs.tasks.task import EVALUATION, QUANTITIES

Field = dict[str, Any]
IDENTITY = tuple(name for name in tables.IDENTITY if name != "status")
CONSTRAINTS = ("minimum", "maximum", "pattern")  # of JSON Schema, which Table Schema calls alike
# What tables have beyond what runs record.
OF_ARM = (
    Quantity("n", "bookkeeping", "integer", None, "Completed runs (seeds), those that means are over.", minimum=None),
    Quantity("n_failed", "bookkeeping", "integer", None,
        "Runs that ended out of memory or diverged; no mean has them.", minimum=None),
    Quantity("failures", "bookkeeping", "string", None,
        'How runs failed, and how many, as in "oom 2; diverged 1".', "Null: none did."),
)  # fmt: skip
OF_REASON = (
    Quantity("column", "identity", "string", None, "Column of the run that is null."),
    Quantity("reason", "bookkeeping", "string", None, "Why it is null."),
)
PARTS: dict[str, tuple[Type, str]] = {
    "mean": ("number", "Mean over the completed runs that have a value. {}"),
    "sd": ("number", "Sample standard deviation over the completed runs that have a value; null for one. {}"),
    "n": ("integer", "Completed runs that have a value and count in the mean. {}"),
}
SEVERAL = ' Values of runs that differ are joined with "; ".'
UNKNOWN = "Not described: a key of another version of the workflow."


def described(key: str) -> str:
    """What a key of the summary is and how it was taken."""
    return QUANTITIES[key].description


def run_fields(runs: pd.DataFrame) -> list[Field]:
    """The columns of `tables.runs_frame`."""
    return [_field(QUANTITIES[name]) if name in QUANTITIES else _unknown(name, runs[name]) for name in map(str, runs)]


def _unknown(name: str, values: pd.Series) -> Field:
    """The column of a key of which nothing is known."""
    kind = {"i": "integer", "f": "number"}.get(values.dtype.kind, "any")
    return {"name": name, "type": kind, "description": UNKNOWN}


def arm_fields(arms: pd.DataFrame) -> list[Field]:
    """The columns of `tables.arms_frame`; a setting in which the runs of some arm differ is a text."""
    of_arm = {quantity.name: quantity for quantity in OF_ARM}
    fields = []
    for name in map(str, arms):
        quantity = of_arm.get(name) or QUANTITIES.get(name)
        if quantity is None:
            quantity = _part(*name.rpartition("_")[::2])
        elif quantity.kind == "setting":
            quantity = _joined(quantity, arms[name])
        fields.append(_field(quantity))
    return fields


def _part(key: str, part: str) -> Quantity:
    """The column of a mean, a standard deviation or a count."""
    kind, about = PARTS[part]
    known = QUANTITIES.get(key)
    return Quantity(
        f"{key}_{part}", "result", kind, known.unit if known and kind == "number" else None,
        about.format(known.description if known else UNKNOWN), UNREACHED if kind == "number" else None, minimum=None,
    )  # fmt: skip


def _joined(quantity: Quantity, values: pd.Series) -> Quantity:
    """A setting as a column of arms: a text where the runs of some arm differ."""
    if quantity.recorded:
        text = values.map(lambda value: isinstance(value, str)).any()
        about, kind = quantity.description + SEVERAL, "string" if text else quantity.type
        return Quantity(quantity.name, "setting", kind, quantity.unit, about, UNREACHED, minimum=None)
    return quantity


def metric_fields() -> list[Field]:
    """The columns of the long table of evaluations: what names the run, then those of metrics.csv."""
    return [*_identity(), *map(_field, EVALUATION.values())]


def reason_fields() -> list[Field]:
    """The columns of the long table of reasons: what names the run, then which of its columns is null, and why."""
    return [*_identity(), *map(_field, OF_REASON)]


def table_schema(fields: list[Field], key: tuple[str, ...]) -> dict[str, Any]:
    """The Table Schema of these fields; the columns of `key` name a row.

    Table Schema is of Frictionless Data (https://datapackage.org/standard/table-schema/): a field has name, type,
    description and constraints, and here `unit`, where it has one.
    """
    profile = "https://datapackage.org/profiles/2.0/tableschema.json"
    return {"$schema": profile, "fields": fields, "missingValues": [""], "primaryKey": list(key)}


def _identity() -> list[Field]:
    return [_field(QUANTITIES[name]) for name in IDENTITY]


def _field(quantity: Quantity) -> Field:
    """A column of this quantity as a field of a Table Schema."""
    field: Field = {"name": quantity.name, "type": quantity.type, "description": quantity.description}
    if quantity.unit is not None and quantity.numeric:
        field["unit"] = quantity.unit
    about = quantity.schema()
    constraints: dict[str, Any] = {"required": True} if quantity.null is None else {}
    constraints |= {key: about[key] for key in CONSTRAINTS if key in about}
    if quantity.values is not None:
        constraints["enum"] = list(quantity.values)
    return field | ({"constraints": constraints} if constraints else {})


PANDAS: dict[str, Literal["Int64", "float64", "boolean"]] = {
    "integer": "Int64",
    "number": "float64",
    "boolean": "boolean",
}
ARROW = {"integer": pa.int64(), "number": pa.float64(), "boolean": pa.bool_()}
MEDIA = {"csv": "text/csv", "json": "application/json"}
FORMATS = {
    "csv": "CSV in UTF-8; true and false are True and False; before texts that a spreadsheet computes a '.",
    "json": "A JSON array of objects, one per row.",
}


class Table(NamedTuple):
    """A table to export: its rows, what its columns are, which of them name a row, what it is."""

    frame: pd.DataFrame
    fields: list[Field]
    key: tuple[str, ...]
    title: str


def results(runs: pd.DataFrame, metrics: pd.DataFrame) -> dict[str, Table]:
    """The tables by name; `runs` as of `tables.runs_frame`, with `differs`, `metrics` as of `read_metrics`."""
    arms = tables.arms_frame(runs)
    reasons = null_reasons(runs)
    return {
        "runs": Table(runs, run_fields(runs), AXES, "One row per run, every number"),
        "arms": Table(arms, arm_fields(arms), tuple(tables.ARM), "One row per arm: mean, standard deviation, n"),
        "metrics": Table(
            metrics, metric_fields(), (*AXES, "step", "split"), "One row per evaluation of a run on a split"
        ),
        "null_reasons": Table(reasons, reason_fields(), (*AXES, "column"), "One row per null of a run: why it is null"),
    }


def read_metrics(runs: pd.DataFrame, runs_dir: Path) -> pd.DataFrame:
    """The rows of every run's metrics.csv, in the order of `runs`, after the columns that name the run.

    Raises InputError for one that is missing or not as its run published it.
    """
    fields = metric_fields()
    names = [field["name"] for field in fields]
    rows: list[dict[str, Any]] = []
    for run in records(runs):
        folder = run_folder(runs_dir, *(run[axis] for axis in AXES))
        found = read_evaluations(folder, verified(folder))
        own = {name: run[name] for name in IDENTITY}
        rows += [{**own, **{name: value or None for name, value in row.items()}} for row in found]
        if found and (missing := [name for name in names if name not in rows[-1]]):
            raise InputError(f"{folder / METRICS}: no column {', '.join(missing)}; run that arm again")
    frame = pd.DataFrame(rows, columns=names, dtype=object)
    try:
        return frame.astype({field["name"]: PANDAS[field["type"]] for field in fields if field["type"] in PANDAS})
    except ValueError as error:
        raise InputError(f"{runs_dir}: a metrics.csv has a value that is no number ({error})") from None


def null_reasons(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per null that a run gives a reason for."""
    rows = [
        {**{name: run[name] for name in IDENTITY}, "column": column, "reason": reason}
        for run in records(runs)
        for column, reason in json.loads(run["null_reasons"]).items()
    ]
    return pd.DataFrame(rows, columns=[*IDENTITY, "column", "reason"]).astype({"rank": "Int64", "seed": "Int64"})


def write(folder: Path, results: dict[str, Table]) -> None:
    """Write every table as {name}.csv, .parquet, .json and .schema.json, and datapackage.json.

    That lists CSV and JSON with the schema; Parquet has types, descriptions and units in itself.
    """
    resources = []
    for name, table in results.items():
        files.write_json(folder / f"{name}.schema.json", table_schema(table.fields, table.key))
        files.write_text(folder / f"{name}.csv", to_csv(table.frame))
        arrow = arrow_table(table)
        with files.atomic(folder / f"{name}.parquet") as temporary:
            pyarrow.parquet.write_table(arrow, temporary)
        files.write_text(folder / f"{name}.json", "[\n" + ",\n".join(_json_rows(arrow, table.fields)) + "\n]\n")
        resources += [_resource(folder, name, kind, table) for kind in MEDIA]
    package = {
        "$schema": "https://datapackage.org/profiles/2.0/datapackage.json",
        "name": "peft-tradeoffs-results",
        "title": "Runs of peft-tradeoffs: accuracy against memory, time and energy of fine-tuning methods",
        "resources": resources,
    }
    files.write_json(folder / "datapackage.json", package)


def arrow_table(table: Table) -> pa.Table:
    """The table with the types of its fields, which pandas reads back as they are; metadata describes each."""
    schema = pa.schema(
        [
            pa.field(
                field["name"],
                ARROW.get(field["type"], pa.string()),
                metadata={key: field[key] for key in ("description", "unit") if key in field},
            )
            for field in table.fields
        ]
    )
    kinds: dict[str, str] = {field["name"]: field["type"] for field in table.fields}
    columns = {name: _column(table.frame[name], kind) for name, kind in kinds.items()}
    found = pa.Table.from_pandas(pd.DataFrame(columns), schema=schema, preserve_index=False)
    return found.replace_schema_metadata({**found.schema.metadata, "title": table.title})


def _column(values: pd.Series, kind: str) -> pd.Series:
    if kind in PANDAS:
        return values.astype(PANDAS[kind])
    # A setting in which runs differ has texts beside numbers; a value this version does not know is JSON.
    text = str if kind == "string" else lambda value: value if isinstance(value, str) else json.dumps(value)
    null = [pd.api.types.is_scalar(value) and pd.isna(value) for value in values]
    texts = [None if absent else text(value) for absent, value in zip(null, values, strict=True)]
    return pd.Series(texts, values.index, dtype=object)


def _json_rows(table: pa.Table, fields: list[Field]) -> Iterator[str]:
    """Each row as a JSON object; a field that is an object is one here, too."""
    objects = [field["name"] for field in fields if field["type"] == "object"]
    for row in table.to_pylist():
        row |= {name: json.loads(row[name]) for name in objects if row[name] is not None}
        yield json.dumps(row, allow_nan=False, ensure_ascii=False)


def _resource(folder: Path, name: str, kind: str, table: Table) -> dict[str, Any]:
    path = folder / f"{name}.{kind}"
    return {
        "name": name if kind == "csv" else f"{name}-{kind}",
        "type": "table",
        "title": table.title,
        "description": FORMATS[kind],
        "path": path.name,
        "format": kind,
        "mediatype": MEDIA[kind],
        "encoding": "utf-8",
        "hash": f"sha256:{files.sha256(path)}",
        "schema": f"{name}.schema.json",
    }

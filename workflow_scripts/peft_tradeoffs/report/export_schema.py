"""What the columns of exported tables are, from the schemas of a run's files, where each is described once.

A field is a descriptor of Table Schema (Frictionless Data, https://datapackage.org/standard/table-schema/): name, type,
description, constraints; and `unit`, where it has one.
"""

from typing import Any

import pandas as pd

from peft_tradeoffs.analysis.tables import SETTINGS
from peft_tradeoffs.core.layout import json_schema

Field = dict[str, Any]
IDENTITY = ("dataset", "model", "method", "arm", "rank", "seed")
UNITS = {
    **{name: name for name in ("s", "ms", "MiB", "J", "W")},
    **{"bytes": "B", "percent": "%", "samples_per_s": "rows/s", "tokens_per_s": "tokens/s", "J_per_sample": "J/row"},
}  # by the end of a name; the longest that fits counts
CONSTRAINTS = ("minimum", "maximum", "pattern")  # of JSON Schema, which Table Schema calls alike
# What tables have beyond the summary: type, description, required.
OF_RUN = {
    "differs": ("string", "What the arm differs in from others or between its seeds. Null: nothing.", False),
}
OF_ARM = {
    "n": ("integer", "Completed runs (seeds), those that means are over.", True),
    "n_failed": ("integer", "Runs that ended out of memory or diverged; no mean has them.", True),
    "failures": ("string", 'How runs failed, and how many, as in "oom 2; diverged 1". Null: none did.', False),
}
OF_REASON = {
    "column": ("string", "Column of the run that is null.", True),
    "reason": ("string", "Why it is null.", True),
}
PARTS = {
    "mean": ("number", "Mean over the completed runs that have a value. {}", False),
    "sd": ("number", "Sample standard deviation over the completed runs that have a value; null for one. {}", False),
    "n": ("integer", "Completed runs that have a value and count in the mean. {}", True),
}
SEVERAL = ' Values of runs that differ are joined with "; ".'
UNKNOWN = "Not described: a key of another version of the workflow."


def unit(name: str) -> str | None:
    """The unit that a column's name ends in, `_mean` and `_sd` left out; None for a name without one."""
    measured = name.removesuffix("_mean").removesuffix("_sd")
    fitting = [ending for ending in UNITS if measured == ending or measured.endswith(f"_{ending}")]
    return UNITS[max(fitting, key=len)] if fitting else None


def described(key: str) -> str:
    """What a key of the summary is and how it was taken."""
    return _properties("summary")[key]["description"]


def run_fields(runs: pd.DataFrame) -> list[Field]:
    """The columns of `tables.runs_frame`."""
    summary = _properties("summary")
    fields = []
    for name in runs:
        if name in OF_RUN:
            fields.append(_field(name, *OF_RUN[name]))
        elif name in summary:
            fields.append(_of_property(name, summary[name]))
        else:
            fields.append(_field(name, {"i": "integer", "f": "number"}.get(runs[name].dtype.kind, "any"), UNKNOWN))
    return fields


def arm_fields(arms: pd.DataFrame) -> list[Field]:
    """The columns of `tables.arms_frame`; a setting in which the runs of some arm differ is a text."""
    summary = _properties("summary")
    fields = []
    for name in arms:
        key, _, part = name.rpartition("_")
        if name in OF_ARM:
            fields.append(_field(name, *OF_ARM[name]))
        elif name in OF_RUN:
            fields.append(_field(name, *OF_RUN[name]))
        elif name in summary:
            field = _of_property(name, summary[name])
            if name in SETTINGS:
                joined = arms[name].map(lambda value: isinstance(value, str)).any()
                about = field["description"] + SEVERAL
                field = _field(name, "string" if joined else field["type"], about)
            fields.append(field)
        else:
            kind, about, required = PARTS[part]
            fields.append(_field(name, kind, about.format(summary.get(key, {}).get("description", UNKNOWN)), required))
    return fields


def metric_fields() -> list[Field]:
    """The columns of the long table of evaluations: what names the run, then those of metrics.csv."""
    return [*_identity(), *(_of_property(name, about) for name, about in _properties("metrics").items())]


def reason_fields() -> list[Field]:
    """The columns of the long table of reasons: what names the run, then which of its columns is null, and why."""
    return [*_identity(), *(_field(name, *about) for name, about in OF_REASON.items())]


def table_schema(fields: list[Field], key: tuple[str, ...]) -> dict[str, Any]:
    """The Table Schema of these fields; the columns of `key` name a row."""
    profile = "https://datapackage.org/profiles/2.0/tableschema.json"
    return {"$schema": profile, "fields": fields, "missingValues": [""], "primaryKey": list(key)}


def _identity() -> list[Field]:
    summary = _properties("summary")
    return [_of_property(name, summary[name]) for name in IDENTITY]


def _properties(schema: str) -> dict[str, Any]:
    return json_schema(schema)["properties"]


def _of_property(name: str, about: dict[str, Any]) -> Field:
    """A field by its property in a JSON schema, whose second type, if it has one, is null."""
    kinds = [about["type"]] if isinstance(about["type"], str) else about["type"]
    kind = next(kind for kind in kinds if kind != "null")
    constraints = {key: about[key] for key in CONSTRAINTS if key in about}
    if "enum" in about:
        constraints["enum"] = [value for value in about["enum"] if value is not None]
    return _field(name, kind, about["description"], "null" not in kinds, **constraints)


def _field(name: str, kind: str, description: str, required: bool = False, **constraints: Any) -> Field:
    field: Field = {"name": name, "type": kind, "description": description}
    if kind in ("number", "integer") and not name.endswith("_n") and (measured := unit(name)):
        field["unit"] = measured
    if required:
        constraints = {"required": True, **constraints}
    return field | ({"constraints": constraints} if constraints else {})

"""All that a run records: the quantities of core with the metrics in their place, and the schemas that follow."""

import math
from typing import Any

from peft_tradeoffs.core import quantities
from peft_tradeoffs.core.quantities import RULES, Quantity, Rule, with_metrics
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.tasks.metrics import Metric
from peft_tradeoffs.tasks.task import TASKS


def _of_metric(metric: Metric) -> Quantity:
    """A metric's value on the test split."""
    lowest, highest = (_bound(bound) for bound in metric.bounds)
    return Quantity(
        metric.name, "result", "number", None, metric.about, quantities.UNREACHED,
        comparable=quantities.ANYWHERE, minimum=lowest, maximum=highest, lacks=(quantities.IF_RANDOM,),
    )  # fmt: skip


def _bound(bound: float) -> float | None:
    if math.isinf(bound):
        return None
    return int(bound) if bound.is_integer() else bound


METRICS = tuple(_of_metric(metric) for metric in metrics.METRICS.values())
# In the order of summary.json.
QUANTITIES = {quantity.name: quantity for quantity in with_metrics(METRICS, tuple(TASKS))}
EVALUATION = {quantity.name: quantity for quantity in (*quantities.EVALUATION, *METRICS)}  # of metrics.csv
LABEL = {name: quantity.label for name, quantity in QUANTITIES.items() if quantity.label is not None}
NOTE = {name: quantity.note for name, quantity in QUANTITIES.items() if quantity.note is not None}
# A quantity of time or energy, and the one that the noise table has of it.
MEASURED_AS = {name: quantity.noise for name, quantity in QUANTITIES.items() if quantity.noise is not None}

_SHA256 = {"type": "string", "pattern": quantities.SHA256}
# Keys that core/seal.py adds to a summary.
_SEALED = {
    "^weights$": {
        "enum": ["kept", "not kept"],
        "description": "Whether the run published its weights. This and the next two are of seal.py, in summary.json "
        "alone, and no table's columns.",
    },
    "^files$": {
        "type": "object",
        "additionalProperties": _SHA256,
        "description": "SHA-256 of every file that the run published beside the summary, by its path.",
    },
    "^sha256$": {
        **_SHA256,
        "description": "SHA-256 of the rest of the summary as JSON with its keys sorted, as code.digest makes it.",
    },
}


def summary_schema() -> dict[str, Any]:
    """The JSON schema of summary.json."""
    recorded = {name: quantity for name, quantity in QUANTITIES.items() if quantity.recorded}
    return {
        **_head("summary.json: one run", recorded),
        "patternProperties": _SEALED,
        "properties": {name: quantity.schema() for name, quantity in recorded.items()},
        "allOf": [_conditions(rule, recorded) for rule in RULES],
        "$defs": {"present": {"not": {"type": "null"}}},
    }


def evaluation_schema() -> dict[str, Any]:
    """The JSON schema of a row of metrics.csv."""
    return {
        **_head("A row of metrics.csv: one evaluation of one split", EVALUATION),
        "properties": {name: quantity.schema() for name, quantity in EVALUATION.items()},
    }


def _head(title: str, known: dict[str, Quantity]) -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": "made by workflow_scripts/write_schemas.py from core/quantities.py",
        "title": title,
        "type": "object",
        "additionalProperties": False,
        "required": list(known),
    }


def _conditions(rule: Rule, recorded: dict[str, Quantity]) -> dict[str, Any]:
    """What the schema asks of the runs of a rule."""
    null, present = {"type": "null"}, {"$ref": "#/$defs/present"}
    having = [name for name, quantity in recorded.items() if quantity.has is rule]
    lacking = [name for name, quantity in recorded.items() if rule in quantity.lacks]
    properties = {**(rule.then or {}), **dict.fromkeys(having, present), **dict.fromkeys(lacking, null)}
    found = {"description": rule.about, "if": {"properties": rule.given}, "then": {"properties": properties}}
    return found | ({"else": {"properties": dict.fromkeys(having, null)}} if rule.otherwise else {})

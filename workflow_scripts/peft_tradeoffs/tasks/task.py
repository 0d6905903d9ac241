"""A task: what is learned of a data set, from its label column to the predictions file and the card; all tasks.

And all that a run of them records: the quantities of core with the metrics in their place, and the schemas that follow.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from peft_tradeoffs.core import quantities
from peft_tradeoffs.core.quantities import RULES, Quantity, Rule, with_metrics
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.tasks.classes import Column, Names
from peft_tradeoffs.tasks.labels import Classification, Regression
from peft_tradeoffs.tasks.metrics import Metric, Scored
from peft_tradeoffs.tasks.texts import LanguageModelling, NextToken, SupervisedFineTuning

if TYPE_CHECKING:
    import torch


class Scale(Protocol):
    """Between the data's units and those that are learned: standard deviations from the mean."""

    @property
    def mean(self) -> float:
        """Of the training targets, in the data's units."""

    @property
    def sd(self) -> float:
        """Their standard deviation."""

    def scaled(self, labels: np.ndarray) -> np.ndarray:
        """Labels [n] as they are learned, float32."""

    def own_units(self, outputs: np.ndarray) -> np.ndarray:
        """What a model's outputs [n, k] are in the data's units, float64."""


class Task(Protocol):
    """What differs between tasks. Nothing outside this room names one."""

    @property
    def name(self) -> str:
        """The value of the configuration's key datasets.*.task."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of its metrics (tasks/metrics.py); the first is the default."""

    @property
    def libraries(self) -> tuple[str, ...]:
        """Modules that evaluating imports; they are imported when a process starts, so that no phase pays for it."""

    # data

    @property
    def reader(self) -> NextToken | None:
        """What reads rows that have no label and says which of their tokens are learned; None where rows have one."""

    def check_block(self, key: str, block: Mapping[str, Any]) -> None:
        """Raise InputError for a data set's block of the configuration that does not go with the task."""

    def read_labels(
        self, label: str, columns: Mapping[str, Column], warnings: list[str]
    ) -> tuple[Names, dict[str, np.ndarray]]:
        """The class names, and each split's labels [n]: a class index (int64), or a value (float64).

        What is wrong at a place goes to the column's faults, which the caller refuses; what a reader must know, to
        `warnings`. `label` is what errors call the column. Raises InputError.
        """

    def arrange(
        self, key: str, block: Mapping[str, Any], names: Names, labels: Mapping[str, np.ndarray]
    ) -> tuple[Names, dict[str, np.ndarray]]:
        """Names and labels by split in the order that the block, which the configuration has as `key`, asks for."""

    def strata(self, labels: np.ndarray) -> np.ndarray:
        """Int64 [n]: rows are drawn from each stratum in its proportion."""

    def shown(self, label: Any, names: Names) -> str:
        """One label, for a reader."""

    def counts(self, labels: np.ndarray, names: Names) -> dict[str, int] | None:
        """Rows by label; None where labels are no classes."""

    def positive_class(self, names: Names) -> str | None:
        """The class that F1 is of; None where there is none such."""

    @property
    def no_positive_class(self) -> str:
        """Why there is none."""

    # model

    @property
    def auto_class(self) -> str:
        """The class of Transformers that makes the model."""

    @property
    def model_kind(self) -> str:
        """What such a model is called in an error."""

    @property
    def peft_task_type(self) -> str:
        """A name of peft.TaskType."""

    def outputs(self, names: Names) -> int:
        """How many numbers the head gives per text."""

    def model_fields(self, outputs: int) -> dict[str, Any]:
        """Fields of the model's configuration."""

    def output_names(self, names: Names) -> Names:
        """What the model's configuration calls the outputs; None: no names are known."""

    def head(self, model: Any, named: list[str] | None = None) -> list[str]:
        """Full names of the modules that make up the head, which is trained in full and never quantised.

        By default all that stands outside the base model, and the base model's pooler, which PEFT would leave
        frozen. Raises InputError for a name in `named` that is no module.
        """

    # training

    def scale(self, labels: np.ndarray) -> Scale | None:
        """The scale that the training split's labels [n] are learned in; None: as they are.

        Raises InputError for labels that cannot be scaled.
        """

    def loss(self, output: Any) -> "torch.Tensor":
        """The mean loss [] of a part of a batch, from what the model gives. In a captured step: no look at values."""

    def weight(self, labels: "torch.Tensor", rows: "torch.Tensor") -> "torch.Tensor | int":
        """What that mean is a mean over, by which parts are put together: the rows, the tokens of their labels, …

        `labels` are a split's, `rows` [b] those of the part. Known before any forward pass.
        """

    # evaluation

    def answers(self, logits: np.ndarray) -> np.ndarray:
        """Predictions [n] of logits [n, k] in the data's units."""

    def predicted(self, rows: np.ndarray, target: np.ndarray, logits: np.ndarray) -> Scored:
        """One run on one split, from rows [n], targets [n] and logits [n, k] in the data's units."""

    def evaluate(self, scored: Scored) -> dict[str, float | None]:
        """`loss` and every metric by name; None of those of other tasks, and where it is not defined."""

    def spread(self, scored: Scored) -> float | None:
        """Standard deviation of the predictions over that of the targets; None where they are no numbers."""

    def right(self, scored: Scored) -> np.ndarray | None:
        """Where [n] a prediction is right; None where none is right or wrong."""

    # the predictions file

    @property
    def columns(self) -> Mapping[str, type]:
        """Columns that every predictions file has, with their types."""

    def write(self, path: Path, scored: Scored) -> None:
        """Write a predictions file: one line per row, in the order of the split, from which `read` gets the same."""

    def read(self, path: Path, columns: Mapping[str, np.ndarray], count: int) -> Scored:
        """What a predictions file says, from its columns by name.

        Raises InputError for columns that are missing or no numbers, for other than `count` rows, for values that are
        not finite, and for predictions that the logits contradict.
        """

    # words

    def apart(self, rows: str) -> str:
        """Of repeats that differ in so many `rows`: that they do, and the subject of "differs by at most …"."""

    def answer(self, prediction: str | None, names: Sequence[Any] | None) -> str:
        """What a run says that predicts the same of every row: `prediction`, as its file has it (None: not known)."""

    @property
    def pipeline_tag(self) -> str:
        """The hub's name of the task."""

    def head_options(self, names: Names) -> tuple[list[str], list[str]]:
        """For a card, lines of Python and then arguments of `from_pretrained` that give the base model this head.

        `names` are None where they are too many to list.
        """

    def usage(self, inputs: str, targets: Mapping[str, Any] | None) -> list[str]:
        """For a card, lines of Python that use `model` and `tokenizer` on `inputs`, the tokenizer's arguments.

        `targets`: mean and standard deviation of the `scale`, and as `in_weights` whether the model's weights have it;
        None without a scale.
        """


CLASSIFICATION: Task = Classification()
DEFAULT = CLASSIFICATION.name  # where a data set's block names none
_ALL: tuple[Task, ...] = (CLASSIFICATION, Regression(), SupervisedFineTuning(), LanguageModelling())
TASKS: dict[str, Task] = {task.name: task for task in _ALL}


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
# Keys that core/files.py adds to a summary.
_SEALED = {
    "^weights$": {
        "enum": ["kept", "not kept"],
        "description": "Whether the run published its weights. This and the next two are of files.py, in summary.json "
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

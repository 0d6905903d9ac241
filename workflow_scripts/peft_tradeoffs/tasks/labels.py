"""One label per text: a class, or a number."""

import abc
import csv
import dataclasses
import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import REMEDY
from peft_tradeoffs.core.layout import HEAD
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.tasks.classes import Column, Names, classify, clean
from peft_tradeoffs.tasks.metrics import Scored, names_of
from peft_tradeoffs.tasks.texts import OF_SFT, refuse_keys

if TYPE_CHECKING:
    import torch

POSITIVE = "positive_class"  # key of a data set's block: of which of two classes F1 is
VALUE = "value"  # the name of a regression's only output, which would be LABEL_0 otherwise
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
LOGIT = "logit_"  # begins the names of the logits' columns in a predictions file
SHOWN_NAMES = 20


@dataclass(frozen=True)
class TargetScale:
    """Mean and standard deviation of the training targets, in their units."""

    mean: float
    sd: float

    @classmethod
    def of(cls, labels: np.ndarray) -> "TargetScale":
        """The scale of targets [n]. Raises InputError for some that are too large, too small or too close to scale."""
        largest = float(np.abs(labels).max()) or 1.0
        mean, sd = float((labels / largest).mean()) * largest, _sd(labels)
        if not (np.isfinite(mean) and 1e-150 < sd < 1e150):
            raise InputError(
                f"the training targets reach {largest:.3g} and their standard deviation is {sd:.3g}, whose square is "
                "no number that a computer holds; multiply the label column by a power of ten"
            )
        return cls(mean, sd)

    def scaled(self, labels: np.ndarray) -> np.ndarray:
        """Labels float32 [n] in standard deviations from the mean."""
        return ((labels - self.mean) / self.sd).astype(np.float32)

    def own_units(self, outputs: np.ndarray) -> np.ndarray:
        """What a model's outputs [n, 1] are in the data's units, float64."""
        return outputs.astype(np.float64) * self.sd + self.mean


class OneLabel(abc.ABC):
    """What classes and numbers have in common: a head over the whole text, logits, one row per text.

    `task.Task` says what the methods are for.
    """

    name: ClassVar[str]
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    model_kind: ClassVar[str] = "sequence classifier"
    peft_task_type: ClassVar[str] = "SEQ_CLS"
    pipeline_tag: ClassVar[str] = "text-classification"
    columns: ClassVar[Mapping[str, type]] = {"row": int, "label": float, "prediction": float}
    digits: ClassVar[str]  # format of numbers in a predictions file
    reader: ClassVar[None] = None

    def head(self, model: Any, named: list[str] | None = None) -> list[str]:
        modules = dict(model.named_modules())
        if named is not None:
            for name in named:
                if name not in modules:
                    raise InputError(
                        f"config key models.*.head: {type(model).__name__} has no module {name}; by default the head "
                        f"is {', '.join(self.head(model))}"
                    )
            return named
        prefix = model.base_model_prefix
        found = [
            name for name, child in model.named_children() if name != prefix and any(True for _ in child.parameters())
        ]
        pooler = getattr(model.base_model, "pooler", None)
        if pooler is not None and any(True for _ in pooler.parameters()):
            found.insert(0, f"{prefix}.pooler")
        return found

    def loss(self, output: Any) -> "torch.Tensor":
        mean: torch.Tensor = output.loss
        return mean

    def weight(self, labels: "torch.Tensor", rows: "torch.Tensor") -> int:
        return len(rows)

    @abc.abstractmethod
    def answers(self, logits: np.ndarray) -> np.ndarray: ...

    def predicted(self, rows: np.ndarray, target: np.ndarray, logits: np.ndarray) -> Scored:
        return Scored(rows, target, self.answers(logits), logits)

    def evaluate(self, scored: Scored) -> dict[str, float | None]:
        return metrics.evaluate(scored.logits, scored.target, self.name)

    def write(self, path: Path, scored: Scored) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["row", "label", "prediction", *(f"{LOGIT}{i}" for i in range(scored.logits.shape[1]))])
            columns = zip(scored.rows, scored.target, scored.prediction, scored.logits, strict=True)
            for row, label, prediction, values in columns:
                numbers = (format(value, self.digits) for value in values)
                writer.writerow([row, label, format(prediction, self.digits), *numbers])

    def read(self, path: Path, columns: Mapping[str, np.ndarray], count: int) -> Scored:
        try:
            labels, predicted, rows = (columns[key] for key in ("label", "prediction", "row"))
            parts = [values for name, values in columns.items() if LOGIT in name]
            logits = np.column_stack([np.empty((len(rows), 0)), *parts]).astype(float)
        except KeyError as error:
            raise InputError(f"{path}: not a run's predictions (no column {error}); {REMEDY}") from None
        except ValueError as error:
            raise InputError(f"{path}: not a run's predictions ({error}); {REMEDY}") from None
        if len(rows) != count:
            raise InputError(f"{path}: {len(rows)} rows, but the run's summary says {count}; {REMEDY}")
        broken = ~np.isfinite(np.column_stack([labels, predicted, logits])).all(axis=1)
        if broken.any():
            where = f"the first in line {int(broken.argmax()) + 2}"
            raise InputError(f"{path}: {broken.sum()} rows with a value that is not finite, {where}; {REMEDY}")
        scored = self._checked(path, Scored(rows, labels, predicted, logits))
        agrees = self._agrees(scored)
        if not agrees.all():
            where = f"line {int(agrees.argmin()) + 2}"
            raise InputError(f"{path}, {where}: a prediction that its logits contradict; {REMEDY}")
        return scored

    def _checked(self, path: Path, scored: Scored) -> Scored:
        """Predictions as they were before they were written, from finite numbers."""
        return scored

    @abc.abstractmethod
    def _agrees(self, scored: Scored) -> np.ndarray:
        """Where [n] the prediction is the one of the logits."""

    def usage(self, inputs: str, targets: Mapping[str, Any] | None) -> list[str]:
        return [
            "model.eval()",
            f'inputs = tokenizer({inputs}, return_tensors="pt")',
            "with torch.no_grad():",
            "    logits = model(**inputs).logits",
        ]


class Classification(OneLabel):
    """Classes by name; logits [n, classes], of which the largest is the prediction."""

    name = "classification"
    metrics = names_of(name)
    libraries: tuple[str, ...] = ()
    no_positive_class = "several classes: F1 is macro F1"
    digits = ".9g"  # tells any two float32 values apart

    def check_block(self, key: str, block: Mapping[str, Any]) -> None:
        refuse_keys(key, block, self.name, OF_SFT)
        if POSITIVE in block and block["source"] == "docstrings":
            index_of(f"config key {key}.{POSITIVE}", block[POSITIVE], sorted(block["packages"]))

    def read_labels(
        self, label: str, columns: Mapping[str, Column], warnings: list[str]
    ) -> tuple[Names, dict[str, np.ndarray]]:
        return classify(label, columns, warnings)

    def arrange(
        self, key: str, block: Mapping[str, Any], names: Names, labels: Mapping[str, np.ndarray]
    ) -> tuple[Names, dict[str, np.ndarray]]:
        """The class that the block names as positive becomes class 1, of which F1 is."""
        positive = block.get(POSITIVE)
        if positive is None or index_of(f"config key {key}.{POSITIVE}", positive, names or []) == 1:
            return names, dict(labels)
        return (names or [])[::-1], {split: 1 - values for split, values in labels.items()}

    def strata(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def shown(self, label: Any, names: Names) -> str:
        return str((names or [])[label])

    def counts(self, labels: np.ndarray, names: Names) -> dict[str, int] | None:
        names = names or []
        return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))

    def outputs(self, names: Names) -> int:
        return len(names or [])

    def model_fields(self, outputs: int) -> dict[str, Any]:
        return {"num_labels": outputs, "problem_type": "single_label_classification"}

    def output_names(self, names: Names) -> Names:
        return names

    def scale(self, labels: np.ndarray) -> TargetScale | None:
        return None

    def answers(self, logits: np.ndarray) -> np.ndarray:
        return np.asarray(logits.argmax(axis=1))

    def spread(self, scored: Scored) -> float | None:
        return None

    def right(self, scored: Scored) -> np.ndarray | None:
        return np.asarray(scored.prediction == scored.target)

    def positive_class(self, names: Names) -> str | None:
        """The class that F1 is of; None of several classes."""
        return names[1] if names and len(names) == 2 else None

    def apart(self, rows: str) -> str:
        return f"they predict {rows} differently, and a logit"

    def answer(self, prediction: str | None, names: Sequence[Any] | None) -> str:
        try:
            index = int(prediction or "")
            return f"'{names[index]}'" if names else f"class {index}"
        except (ValueError, TypeError, LookupError):
            return "one and the same class"

    def head_options(self, names: Names) -> tuple[list[str], list[str]]:
        if not names:
            return [f"# the names of the classes: `labels` in the file {HEAD} beside the adapter"], []
        return [f"labels = {names!r}"], [
            "id2label=dict(enumerate(labels))",
            "label2id={name: index for index, name in enumerate(labels)}",
        ]

    def _checked(self, path: Path, scored: Scored) -> Scored:
        classes = scored.classes
        strange = ~np.isin(np.column_stack([scored.target, scored.prediction]), np.arange(classes)).all(axis=1)
        if strange.any():
            where = f"line {int(strange.argmax()) + 2}"
            raise InputError(f"{path}, {where}: a label or prediction that is none of {classes} classes; {REMEDY}")
        return dataclasses.replace(scored, target=scored.target.astype(int), prediction=scored.prediction.astype(int))

    def _agrees(self, scored: Scored) -> np.ndarray:
        chosen = scored.logits[np.arange(len(scored.logits)), scored.prediction]
        return np.asarray(chosen == scored.logits.max(axis=1))


class Regression(OneLabel):
    """A number; standardised for training, in the data's own units everywhere else. Logits [n, 1]."""

    name = "regression"
    metrics = names_of(name)
    libraries: tuple[str, ...] = ("scipy.stats",)
    no_positive_class = "a regression"
    digits = ".17g"  # tells any two float64 values apart

    def check_block(self, key: str, block: Mapping[str, Any]) -> None:
        refuse_keys(key, block, self.name, OF_SFT)
        _refuse_positive(key, block)
        if block["source"] == "docstrings":
            raise InputError(f"config key {key}.task: docstrings are a classification; remove the key")

    def read_labels(
        self, label: str, columns: Mapping[str, Column], warnings: list[str]
    ) -> tuple[Names, dict[str, np.ndarray]]:
        return None, {split: _numbers(column, label) for split, column in columns.items()}

    def arrange(
        self, key: str, block: Mapping[str, Any], names: Names, labels: Mapping[str, np.ndarray]
    ) -> tuple[Names, dict[str, np.ndarray]]:
        if block.get(POSITIVE) is not None:
            _refuse_positive(key, block)
        return names, dict(labels)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        return np.zeros(len(labels), dtype=np.int64)

    def shown(self, label: Any, names: Names) -> str:
        return f"{label:g}"

    def counts(self, labels: np.ndarray, names: Names) -> dict[str, int] | None:
        return None

    def outputs(self, names: Names) -> int:
        return 1

    def model_fields(self, outputs: int) -> dict[str, Any]:
        return {"num_labels": outputs, "problem_type": "regression"}

    def output_names(self, names: Names) -> Names:
        return [VALUE]

    def scale(self, labels: np.ndarray) -> TargetScale | None:
        return TargetScale.of(labels)

    def answers(self, logits: np.ndarray) -> np.ndarray:
        return logits[:, 0]

    def spread(self, scored: Scored) -> float | None:
        return spread(scored.logits, scored.target)

    def right(self, scored: Scored) -> np.ndarray | None:
        return None

    def positive_class(self, names: Names) -> str | None:
        return None

    def apart(self, rows: str) -> str:
        return f"they predict {rows} differently, and a predicted value"

    def answer(self, prediction: str | None, names: Sequence[Any] | None) -> str:
        return "nearly the same value"

    def head_options(self, names: Names) -> tuple[list[str], list[str]]:
        return [], ['problem_type="regression"']

    def usage(self, inputs: str, targets: Mapping[str, Any] | None) -> list[str]:
        lines = super().usage(inputs, targets)
        if targets and targets["in_weights"]:
            lines.append("value = logits[0, 0]  # in the units of the data")
        elif targets:  # what is learned are standard deviations from the mean of the training targets
            lines.append(f"value = logits[0, 0] * {targets['sd']!r} + {targets['mean']!r}  # in the units of the data")
        return lines

    def _agrees(self, scored: Scored) -> np.ndarray:
        return np.asarray(scored.logits[:, 0] == scored.prediction)


def spread(logits: np.ndarray, labels: np.ndarray) -> float:
    """Standard deviation of predictions [n, 1] over that of the labels [n]; 0 where all predictions are the same."""
    return _sd(logits[:, 0]) / _sd(labels)


def index_of(where: str, positive: Any, names: Sequence[str]) -> int:
    """The index of the class that the value `positive` of the config names.

    YAML makes numbers and booleans of names: 1 is the class "1", true the class "True". Raises InputError, which names
    the key `where`, for a name that is no class or that may be two, and for other than two classes.
    """
    listed = f"{', '.join(map(repr, names[:SHOWN_NAMES]))}{', …' if len(names) > SHOWN_NAMES else ''}"
    if len(names) != 2:
        raise InputError(
            f"{where}: the data set has {len(names)} classes ({listed}), of which F1 is the macro average; "
            "only F1 of two classes has a positive class; remove the key"
        )
    for same in (_exactly, _as_number, _as_boolean, _but_for_invisible_signs):
        found = [index for index, name in enumerate(names) if same(positive, name)]
        if len(found) == 1:
            return found[0]
    hint = "; YAML reads yes, on and true as a boolean: write the name in quotes" if isinstance(positive, bool) else ""
    raise InputError(f"{where}: {positive!r} is no class of the data; the classes are {listed}{hint}")


def _refuse_positive(key: str, block: Mapping[str, Any]) -> None:
    if POSITIVE in block:
        raise InputError(f"config key {key}.{POSITIVE}: a regression has no classes; remove the key")


def _exactly(positive: Any, name: str) -> bool:
    return not isinstance(positive, bool) and _composed(positive) == _composed(name)


def _composed(name: Any) -> str:
    """Letters that look alike are alike, whether an accent is a sign of its own or not."""
    return unicodedata.normalize("NFC", str(name)).strip()


def _but_for_invisible_signs(positive: Any, name: str) -> bool:
    return not isinstance(positive, bool) and clean(str(positive)) == clean(name)


def _as_number(positive: Any, name: str) -> bool:
    try:
        return not isinstance(positive, bool) and float(positive) == float(name)
    except ValueError:
        return False


def _as_boolean(positive: Any, name: str) -> bool:
    return str(positive).strip().lower() == name.lower() and name.lower() in ("true", "false")


def _numbers(column: Column, label: str) -> np.ndarray:
    """Each row's target ([n] float64); those that are not finite numbers go to the column's faults."""
    targets = np.zeros(len(column.values), dtype=np.float64)
    for i, (place, value) in enumerate(zip(column.places, column.values, strict=True)):
        try:
            if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
                raise ValueError("float() takes it, but it is not written as a number")
            targets[i] = float(clean(value) if isinstance(value, str) else value)
        except OverflowError:
            column.faults.add(place, f"{label!r} is a number too large for a float", "correct or remove it")
        except (TypeError, ValueError):
            comma = isinstance(value, str) and DECIMAL_COMMA.fullmatch(value.strip())
            remedy = (
                "write decimals with a point, and nothing between thousands"
                if comma
                else "correct it, or set `task: classification`"
            )
            column.faults.add(place, f"{label!r} is {value!r:.80}, not a number", remedy)
        else:
            if not math.isfinite(targets[i]):
                column.faults.add(place, f"{label!r} is {value!s:.80}, not a finite number", "correct or remove it")
    return targets


def _sd(values: np.ndarray) -> float:
    """Standard deviation of values whose squares may be beyond what float64 holds."""
    values = values.astype(np.float64)
    largest = float(np.abs(values).max()) or 1.0
    return 0.0 if np.ptp(values / largest) == 0 else float((values / largest).std()) * largest

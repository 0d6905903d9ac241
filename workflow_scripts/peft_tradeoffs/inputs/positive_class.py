"""Of which of two classes F1 is: the config key `positive_class`."""

import dataclasses
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from peft_tradeoffs.core.errors import InputError

if TYPE_CHECKING:
    from peft_tradeoffs.inputs.splits import Split

KEY = "positive_class"


def check_positive_class(key: str, dataset: dict[str, Any]) -> None:
    """Raise InputError for a block of the config, `key`, whose positive class cannot be one."""
    if KEY not in dataset:
        return
    where = f"config key {key}.{KEY}"
    if dataset["task"] != "classification":
        raise InputError(f"{where}: a regression has no classes; remove the key")
    if dataset["source"] == "docstrings":
        index_of(where, dataset[KEY], sorted(dataset["packages"]))


def put_last(
    splits: Mapping[str, "Split"], names: list[str] | None, positive: Any, key: str = KEY
) -> tuple[dict[str, "Split"], list[str] | None]:
    """The splits and the class names with the class `positive` as class 1, of which F1 is; as they were for None.

    `key` is the config's key that names it. Raises InputError for a name that is no class, and for other than two
    classes.
    """
    if positive is None:
        return dict(splits), names
    where = f"config key {key}"
    if names is None:
        raise InputError(f"{where}: a regression has no classes; remove the key")
    if index_of(where, positive, names) == 1:
        return dict(splits), names
    return {name: dataclasses.replace(split, labels=1 - split.labels) for name, split in splits.items()}, names[::-1]


def of_labels(labels: list[str] | None) -> str | None:
    """The class that F1 is of, by the class names in order; None for a regression and of several classes."""
    return labels[1] if labels and len(labels) == 2 else None


def index_of(where: str, positive: Any, names: list[str]) -> int:
    """The index of the class that the value `positive` of the config names.

    YAML makes numbers and booleans of names: 1 is the class "1", true the class "True". Raises InputError, which names
    the key `where`, for a name that is no class or that may be two, and for other than two classes.
    """
    listed = f"{', '.join(map(repr, names[:20]))}{', …' if len(names) > 20 else ''}"
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


def _exactly(positive: Any, name: str) -> bool:
    return not isinstance(positive, bool) and _composed(positive) == _composed(name)


def _composed(name: Any) -> str:
    """Letters that look alike are alike, whether an accent is a sign of its own or not."""
    return unicodedata.normalize("NFC", str(name)).strip()


def _but_for_invisible_signs(positive: Any, name: str) -> bool:
    from peft_tradeoffs.inputs.classes import clean  # which brings numpy along

    return not isinstance(positive, bool) and clean(str(positive)) == clean(name)


def _as_number(positive: Any, name: str) -> bool:
    try:
        return not isinstance(positive, bool) and float(positive) == float(name)
    except ValueError:
        return False


def _as_boolean(positive: Any, name: str) -> bool:
    return str(positive).strip().lower() == name.lower() and name.lower() in ("true", "false")

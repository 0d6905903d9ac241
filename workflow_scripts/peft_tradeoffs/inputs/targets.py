"""Whether target modules name something that a model has. Needs neither torch nor PEFT."""

import re
from typing import Any

from peft_tradeoffs.core.errors import InputError

ALL_LINEAR = "all-linear"


def check_patterns(peft: dict[str, Any], adapted: list[str]) -> None:
    """Raise InputError for a key of rank_pattern or the like that fits none of the adapted module names.

    PEFT is silent about it, and the arm would be another than its configuration says.
    """
    for field, values in peft.items():
        for key in values if field.endswith("_pattern") and isinstance(values, dict) else ():
            if not any(re.match(rf"(.*\.)?({key})$", name) for name in adapted):
                raise InputError(
                    f"{field}: {key} fits none of the adapted modules; their names end in "
                    f"{', '.join(sorted({name.rsplit('.', 1)[-1] for name in adapted}))}"
                )


def check_layers(layers: int | list[int] | None, adapted: list[str]) -> None:
    """Raise InputError for a layer of `layers_to_transform` in which no module is adapted."""
    numbers = {int(part) for name in adapted for part in name.split(".") if part.isdecimal()}
    for layer in [layers] if isinstance(layers, int) else layers or []:
        if layer not in numbers:
            raise InputError(
                f"layers_to_transform: no module is adapted in layer {layer}; layers with adapted modules: "
                f"{', '.join(map(str, sorted(numbers))) or 'none'} (they count from 0)"
            )


def check_all_linear(targets: str | list[str] | None) -> None:
    """Raise InputError for PEFT's word all-linear in another spelling or in a list, where it would name a module."""
    for target in [targets] if isinstance(targets, str) else targets or []:
        if targets != ALL_LINEAR and re.sub("[^a-z]", "", target.lower()) == "alllinear":
            raise InputError(f"target_modules: {targets!r} names no module; did you mean {ALL_LINEAR} (no list)?")


def check_targets(targets: str | list[str] | None, modules: list[str], linear: list[str]) -> None:
    """Raise InputError for a target that matches none of the module names `modules`.

    PEFT matches a text as a regular expression on the whole name, a list's entries on the name or its end. It is
    silent about an entry that matches nothing beside one that does; this is not. `linear` is named as the remedy.
    """
    if targets is None or targets == ALL_LINEAR:
        return
    for target in [targets] if isinstance(targets, str) else targets:
        if isinstance(targets, str):
            try:
                found = any(re.fullmatch(target, name) for name in modules)
            except re.error as error:
                raise InputError(f"target_modules: {target} is no regular expression: {error}; correct it") from error
        else:
            found = any(name == target or name.endswith(f".{target}") for name in modules)
        if not found and isinstance(targets, str) and any(name.endswith(f".{target}") for name in modules):
            raise InputError(
                f"target_modules: {target} as a text must match a module's whole name; write [{target}] for every "
                "module whose name ends so"
            )
        if not found:
            raise InputError(
                f"target_modules: {target} matches nothing in the model; its linear layers: {', '.join(linear)}"
            )

"""Whether target modules name something that a model has. Needs neither torch nor PEFT."""

import re

from peft_tradeoffs.errors import InputError


def check_targets(targets: str | list[str] | None, modules: list[str], linear: list[str]) -> None:
    """Raise InputError for a target that matches none of the module names `modules`.

    PEFT matches a text as a regular expression on the whole name, a list's entries on the name or its end. It is
    silent about an entry that matches nothing beside one that does; this is not. `linear` is named as the remedy.
    """
    if targets is None or targets == "all-linear":
        return
    for target in [targets] if isinstance(targets, str) else targets:
        if isinstance(targets, str):
            try:
                found = any(re.fullmatch(target, name) for name in modules)
            except re.error as error:
                raise InputError(f"target_modules: {target} is no regular expression: {error}; correct it") from error
        else:
            found = any(name == target or name.endswith(f".{target}") for name in modules)
        if not found:
            raise InputError(
                f"target_modules: {target} matches nothing in the model; its linear layers: {', '.join(linear)}"
            )

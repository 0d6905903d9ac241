"""Which facts of the contract a method may declare to have otherwise."""

from typing import Any

from peft_tradeoffs.analysis.facts import FACTS
from peft_tradeoffs.config.config_errors import suggestion
from peft_tradeoffs.core.errors import InputError


def check_varies(methods: dict[str, dict[str, Any]]) -> None:
    """Raise InputError for a name under a method's `varies` that is no fact, or one that no arm may have otherwise."""
    for name, method in methods.items():
        for fact in method["varies"]:
            where = f"config key methods.{name}.varies"
            if fact not in FACTS:
                raise InputError(f"{where}: there is no fact {fact!r}; {suggestion(fact, FACTS, 'facts: ')}")
            if (found := FACTS[fact]).required is not None:
                raise InputError(f"{where}: {fact} must be {found.required!r} in every arm and cannot vary; remove it")
            if not found.may_vary:
                raise InputError(
                    f"{where}: {fact} must be the same in every arm that is compared and cannot vary; remove it"
                )

"""The blocks of a configuration that ask for more than the grid: noise, equal memory, attribution."""

from collections.abc import Iterable
from typing import Any

from peft_tradeoffs.config_errors import suggestion
from peft_tradeoffs.errors import InputError


def complete_views(config: dict[str, Any], arms: Iterable[str]) -> None:
    """Write out the defaults of `noise` and `equal_memory`. Raises InputError for an arm that the grid has not."""
    arms = list(arms)
    if (noise := config["noise"]) is not None:
        noise.setdefault("arms", [config["comparison"]["baseline"]])
        noise.setdefault("repeats", 3)
        noise.setdefault("seed", config["seeds"][0])
        _check_arms("noise.arms", noise["arms"], arms)
    if (memory := config["equal_memory"]) is not None:
        memory.setdefault("arms", arms)
        memory.setdefault("largest_batch_size", 1024)
        memory.setdefault("learning_rate_rule", "sqrt")
        _check_arms("equal_memory.arms", memory["arms"], arms)
    for name, cells in config["attribution"].items():
        _check_arms(f"attribution.{name}", cells, arms)


def _check_arms(key: str, named: list[str], arms: list[str]) -> None:
    for arm in named:
        if arm not in arms:
            raise InputError(f"config key {key}: there is no arm {arm!r}; {suggestion(arm, arms, 'arms: ')}")

"""The blocks of a configuration that ask for more than the grid: noise, equal memory, profiles, attribution."""

from collections.abc import Mapping
from typing import Any

from peft_tradeoffs.config.config_errors import suggestion
from peft_tradeoffs.config.factorial import factorial
from peft_tradeoffs.core.errors import InputError


def complete_views(config: dict[str, Any], grid: Mapping[str, Any]) -> None:
    """Write out the defaults of `noise`, `equal_memory` and `profiles`; `grid` are the arms by name.

    Raises InputError for an arm that the grid has not, an engine that the device has not, arms of an attribution that
    are no factorial, or energy that a CPU does not measure.
    """
    arms = list(grid)
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
    _complete_profiles(config["profiles"], config["training"], arms)
    if config["recommendation"]["split"] == "heldout":
        for name, dataset in config["datasets"].items():
            if "heldout" not in {*dataset.get("splits", {}), *dataset["fractions"]}:
                raise InputError(
                    f"config key recommendation.split: heldout, but data set {name} has no such split; set "
                    f"datasets.{name}.fractions.heldout (0.1, say), or test here"
                )
    if config["training"]["device"] == "cpu":
        _refuse_energy(config["recommendation"], config["budgets"])
    for name, cells in config["attribution"].items():
        _check_arms(f"attribution.{name}", cells, arms)
        factors(name, cells, grid)


def factors(name: str, cells: list[str], grid: Mapping[str, Any]) -> dict[str, Any]:
    """What `factorial` finds of these arms of the grid."""
    return factorial(name, {arm: (grid[arm].rank, grid[arm].settings) for arm in cells})


def _complete_profiles(profiles: dict[str, Any], training: dict[str, Any], arms: list[str]) -> None:
    profiles.setdefault("arms", arms)
    _check_arms("profiles.arms", profiles["arms"], arms)
    cuda = training["device"] == "cuda"
    asked = profiles.setdefault("engines", ["captured", "compiled"] if cuda else [])
    if not cuda and (captured := [engine for engine in asked if engine.startswith("captured")]):
        raise InputError(
            f"config key profiles.engines: {captured[0]} needs CUDA graphs, which device cpu has not; remove it"
        )
    trained = "-".join(["captured"] * (training["engine"] == "captured") + ["compiled"] * training["compile"])
    profiles["engines"] = list(dict.fromkeys(["eager", *asked, trained or "eager"]))


def _refuse_energy(recommendation: dict[str, Any], budgets: dict[str, list[float]]) -> None:
    """Raise InputError for what asks for the energy of runs on the CPU."""
    asked = {
        "recommendation.cheapest: energy": (recommendation["cheapest"] == "energy", "memory or time"),
        "recommendation.energy_J": (recommendation["energy_J"], "null"),
        "budgets.energy_J": (budgets["energy_J"], "[]"),
    }
    for key, (wanted, instead) in asked.items():
        if wanted:
            raise InputError(
                f"config key {key}: training.device is cpu, and only a GPU's energy is measured; set {instead} here, "
                "or training.device cuda"
            )


def _check_arms(key: str, named: list[str], arms: list[str]) -> None:
    for arm in named:
        if arm not in arms:
            raise InputError(f"config key {key}: there is no arm {arm!r}; {suggestion(arm, arms, 'arms: ')}")

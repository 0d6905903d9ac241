"""What each factor of a factorial does to memory, time, energy and the metric, and what they do together."""

import itertools
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.seed_values import by_seed, incomparable
from peft_tradeoffs.stats import over_seeds
from peft_tradeoffs.tables import memory_key, random_weights

BASE, FACTOR, INTERACTION, TOTAL = "base", "factor", "interaction", "total"
ENERGY = "energy_J_per_1000_rows"
COLUMNS = (
    "dataset", "model", "factorial", "pretrained", "metric", "learning_rates", "energy_window_short", "quantity",
    "effect", "kind", "arm", "n", "value", "low", "high", "percent", "reason",
)  # fmt: skip
NUMBERS = ("value", "low", "high", "percent")
Cell = tuple[int, ...]  # 0 or 1 a factor


def attribution_frame(runs: pd.DataFrame, factorials: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row a (data set, model, factorial, quantity, effect), columns as in COLUMNS.

    `factorials` are what `factorial.factorial` gives, by name. Effects: the base cell's mean, where every factor is
    off; each factor alone (that one on, the others off, less the base); the interactions, which are what factors change
    together beyond what they, and fewer of them together, change (inclusion and exclusion over their subsets, the other
    factors off, where a main effect would average over the other factors); the total, all on less the base. Factors and
    interactions add up to the total. Each is the mean of its value a seed over the n seeds
    that all cells with values share, with a 95 % t interval (none for one seed), in the quantity's unit and in per
    cent of the base. `arm` is the cell's of a base, a factor and the total. What a null means is in `reason`;
    `learning_rates` are given where the arms' differ.
    """
    rows = []
    for _, own in runs.groupby(["dataset", "model"], sort=False):
        for name, spec in factorials.items():
            rows += _split(own[own["arm"].isin(spec["arms"])], name, spec)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"n": "Int64"} | dict.fromkeys(NUMBERS, float))


def quantities(runs: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """The summary key of each quantity and what it is multiplied by."""
    found = {key: (key, 1.0) for key in (memory_key(runs["device"].iloc[0]), "weights_MiB", "activations_MiB")}
    found |= {"train_s": ("train_s", 1.0), "step_p50_ms": ("step_p50_ms", 1.0)}
    found[ENERGY] = ("energy_J_per_sample", 1000.0)
    return found if random_weights(runs) else {**found, "metric_value": ("metric_value", 1.0)}


def _split(runs: pd.DataFrame, name: str, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one factorial of a data set and model."""
    rows = []
    cells = {tuple(cell): arm for arm, cell in spec["arms"].items()}
    common = runs.iloc[0][["dataset", "model", "pretrained", "metric"]].to_dict() | {"factorial": name}
    common["energy_window_short"] = bool(runs["energy_window_short"].eq(True).any())
    rates = {arm: runs.loc[runs["arm"] == arm, "learning_rate"].iloc[0] for arm in cells.values()}
    if len(set(rates.values())) > 1:
        common["learning_rates"] = ", ".join(f"{arm} {rate:g}" for arm, rate in rates.items())
    for quantity, (key, scale) in quantities(runs).items():
        values: dict[Cell, dict[int, float]] = {}
        reasons: dict[Cell, str] = {}
        for cell, arm in cells.items():
            found, why = by_seed(runs[runs["arm"] == arm], key)
            values[cell] = {seed: scale * value for seed, value in found.items()}
            if why is not None:
                reasons[cell] = why
        mixed = incomparable(runs[~runs["mixed_gpus"].eq(True)], key)
        if len(reasons) == len(cells) and len(set(reasons.values())) == 1:
            mixed = next(iter(reasons.values()))
        seeds = sorted(set.intersection(*(set(found) for found in values.values() if found), set(runs["seed"])))
        base = np.mean([values[(0,) * len(spec["factors"])].get(seed, np.nan) for seed in seeds] or [np.nan])
        for effect, kind, signs in _effects(spec["factors"]):
            row = {**common, "quantity": quantity, "effect": effect, "kind": kind, "n": 0}
            row["arm"] = None if kind == INTERACTION else cells[max(signs, key=sum)]
            lacking = [cell for cell in cells if cell in signs and cell in reasons]
            if mixed is not None and (lacking or len(signs) > 1):
                row["reason"] = mixed
            elif lacking:
                row["reason"] = "; ".join(f"{cells[cell]}: {reasons[cell]}" for cell in lacking)
            elif not seeds:
                row["reason"] = "no seed that all arms share"
            else:
                row |= _mean([sum(sign * values[cell][seed] for cell, sign in signs.items()) for seed in seeds])
                row["percent"] = 100 * row["value"] / base if base else None
            rows.append(row)
    return rows


def _effects(factors: list[str]) -> list[tuple[str, str, dict[Cell, int]]]:
    """Name and kind of every effect, and the sign with which it counts each cell."""
    off = (0,) * len(factors)
    found = [(BASE, BASE, {off: 1})]
    for size in range(1, len(factors) + 1):
        for chosen in itertools.combinations(range(len(factors)), size):
            parts = (part for few in range(size + 1) for part in itertools.combinations(chosen, few))
            signs = {tuple(int(i in part) for i in range(len(factors))): (-1) ** (size - len(part)) for part in parts}
            found.append((" × ".join(factors[i] for i in chosen), FACTOR if size == 1 else INTERACTION, signs))
    return [*found, (TOTAL, TOTAL, {(1,) * len(factors): 1, off: -1})]


def _mean(values: list[float]) -> dict[str, Any]:
    found = {"n": len(values), "value": float(np.mean(values))}
    estimate = over_seeds(np.array(values))
    if estimate is None:
        return {**found, "reason": "one seed, which gives no interval"}
    return {**found, **dict(zip(("low", "high"), estimate.interval(), strict=True))}

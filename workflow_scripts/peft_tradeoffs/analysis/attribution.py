"""What each factor of a factorial does to memory, time, energy and the metric, and what they do together."""

import itertools
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.job_noise import UNKNOWN_SPREAD, JobNoise, job_noise, over_jobs, processes
from peft_tradeoffs.analysis.readable import unlike
from peft_tradeoffs.analysis.seed_values import by_seed, failures, incomparable
from peft_tradeoffs.analysis.stats import over_seeds
from peft_tradeoffs.analysis.tables import COMPLETED, memory_key, random_weights

BASE, FACTOR, INTERACTION, TOTAL = "base", "factor", "interaction", "total"
ENERGY = "energy_J_per_1000_rows"
COLUMNS = (
    "dataset", "model", "factorial", "pretrained", "metric", "positive_class", "learning_rates", "energy_window_short",
    "differs", "failed", "quantity", "effect", "kind", "arm", "n_seeds", "n", "jobs", "jobs_sd_percent", "value", "low",
    "high", "percent", "reason",
)  # fmt: skip
TIMED = {"train_s": "train_s", "step_p50_ms": "step_p50_ms", ENERGY: "energy_J_per_sample"}  # keys of the summary
NUMBERS = ("jobs_sd_percent", "value", "low", "high", "percent")
Cell = tuple[int, ...]  # 0 or 1 a factor


def attribution_frame(
    runs: pd.DataFrame, factorials: dict[str, dict[str, Any]], noise: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row per (data set, model, factorial, quantity, effect), columns as in COLUMNS.

    `factorials` are what `factorial.factorial` gives, by name. Effects: the base cell's mean, where every factor is
    off; each factor alone (that one on, the others off, less the base); the interactions, which are what factors change
    together beyond what they, and fewer of them together, change (inclusion and exclusion over their subsets, the other
    factors off, where a main effect would average over the other factors); the total, all on less the base. Factors and
    interactions add up to the total. Each is the mean of its value a seed over the n seeds
    that all cells with values share (of n_seeds), with a 95 % t interval (none for one seed), in the quantity's unit
    and in per cent of the base. That of time and energy counts, by the noise table `noise`, how far jobs differ
    (jobs_sd_percent of a mean; none where every seed had a job of its own): `job_noise.over_jobs`. `jobs` are the most
    processes that trained a cell. `failed` says which runs of the arms failed, `differs` which arms break the contract
    or differ as declared. `arm` is the cell's of a base, a factor and the total. What a null means is in `reason`;
    `learning_rates` are given where the arms' differ.
    """
    rows = []
    for _, own in runs.groupby(["dataset", "model"], sort=False):
        for name, spec in factorials.items():
            rows += _split(own[own["arm"].isin(spec["arms"])], name, spec, noise)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        dict.fromkeys(("n", "n_seeds", "jobs"), "Int64") | dict.fromkeys(NUMBERS, float)
    )


def quantities(runs: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """The summary key of each quantity and what it is multiplied by."""
    found = {key: (key, 1.0) for key in (memory_key(runs["device"].iloc[0]), "weights_MiB", "activations_MiB")}
    found |= {"train_s": ("train_s", 1.0), "step_p50_ms": ("step_p50_ms", 1.0)}
    found[ENERGY] = ("energy_J_per_sample", 1000.0)
    return found if random_weights(runs) else {**found, "metric_value": ("metric_value", 1.0)}


def _split(runs: pd.DataFrame, name: str, spec: dict[str, Any], noise: pd.DataFrame | None) -> list[dict[str, Any]]:
    """The rows of one factorial of a data set and model."""
    rows = []
    cells = {tuple(cell): arm for arm, cell in spec["arms"].items()}
    common = runs.iloc[0][["dataset", "model", "pretrained", "metric", "positive_class"]].to_dict() | {
        "factorial": name
    }
    common["energy_window_short"] = bool(runs["energy_window_short"].eq(True).any())
    common["n_seeds"] = runs["seed"].nunique()
    common["differs"] = " ".join(unlike(runs)) or None
    ways = {arm: failures(own) for arm, own in runs.groupby("arm", sort=False) if (own["status"] == COMPLETED).any()}
    common["failed"] = ", ".join(f"{arm} ({why})" for arm, why in ways.items() if why) or None
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
        spread = job_noise(noise, runs, TIMED[quantity]) if quantity in TIMED else None
        jobs = {cell: processes(runs[(runs["arm"] == arm) & runs["seed"].isin(seeds)]) for cell, arm in cells.items()}
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
                parts = {cell: np.array([values[cell][seed] for seed in seeds]) for cell in signs}
                row |= _mean(parts, signs, {cell: jobs[cell] for cell in signs}, quantity in TIMED, spread)
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


def _mean(
    parts: dict[Cell, np.ndarray], signs: dict[Cell, int], jobs: dict[Cell, int], timed: bool, noise: JobNoise | None
) -> dict[str, Any]:
    """Mean over seeds of the sum of the cells' values [s] with their signs; `timed`: of time or energy."""
    values = sum(sign * parts[cell] for cell, sign in signs.items())
    found: dict[str, Any] = {"n": len(values), "value": float(values.mean())}
    if len(values) < 2:
        return {**found, "reason": "one seed, which gives no interval"}
    if not timed:
        estimate = over_seeds(values)
    else:
        found["jobs"] = max(jobs.values())
        estimate = over_jobs(values, list(parts.values()), list(jobs.values()), noise)
        if estimate is None:
            return {**found, "reason": UNKNOWN_SPREAD}
        if min(jobs.values()) < len(values):
            found["jobs_sd_percent"] = 100 * noise.cv
    return {**found, **dict(zip(("low", "high"), estimate.interval(), strict=True))}

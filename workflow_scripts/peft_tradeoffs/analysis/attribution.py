"""What each factor of a factorial does to memory, time, energy and the metric; in words too."""

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.comparison import Predictions, Runs, alone, contrast, runs_by_seed
from peft_tradeoffs.analysis.comparison_text import with_interval
from peft_tradeoffs.analysis.readable import (
    NULL,
    PROBE,
    at_most,
    number,
    supported_decimals,
    unlike,
)
from peft_tradeoffs.analysis.stats import (
    UNKNOWN_SPREAD,
    JobNoise,
    by_seed,
    failures,
    incomparable,
    job_noise,
    noise_notes,
    over_jobs,
    over_seeds,
    processes,
)
from peft_tradeoffs.analysis.tables import COMPLETED, memory_key, random_weights
from peft_tradeoffs.core.text import first_record, groups_of, records
from peft_tradeoffs.tasks.metrics import metric_called
from peft_tradeoffs.tasks.shown import difference_unit, metric_label, metric_name
from peft_tradeoffs.tasks.task import LABEL, MEASURED_AS, NOTE

BASE, FACTOR, INTERACTION, TOTAL = "base", "factor", "interaction", "total"
ENERGY = "energy_J_per_1000_rows"
COLUMNS = (
    "dataset", "model", "factorial", "pretrained", "metric", "positive_class", "learning_rates", "energy_window_short",
    "differs", "failed", "quantity", "effect", "kind", "arm", "n_seeds", "n", "jobs", "jobs_sd_percent", "value", "low",
    "high", "percent", "reason",
)  # fmt: skip
NUMBERS = ("jobs_sd_percent", "value", "low", "high", "percent")
SUMMARY_KEY = {ENERGY: "energy_J_per_sample"}  # of a quantity that has another name here
Cell = tuple[int, ...]  # 0 or 1 per factor


def attribution_frame(
    runs: pd.DataFrame,
    factorials: dict[str, dict[str, Any]],
    predictions: Predictions,
    noise: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """One row per (data set, model, factorial, quantity, effect), columns as in COLUMNS.

    `factorials` are what `experiment.factors` gives, by name. Effects: the base cell's mean, where every factor is
    off; each factor alone (that one on, the others off, less the base); the interactions, which are what factors change
    together beyond what they, and fewer of them together, change (inclusion and exclusion over their subsets, the other
    factors off, where a main effect would average over the other factors); the total, all on less the base. Factors and
    interactions add up to the total. Each is the mean of its value per seed over the n seeds
    that all cells with values share (of n_seeds), with a 95 % t interval (none for one seed), in the quantity's unit
    and in per cent of the base. That of the metric is the comparison's, over other seeds and other test examples, by
    what `predictions` gives. That of time and energy counts, by the noise table `noise`, how far jobs differ
    (jobs_sd_percent of a mean; none where every seed had a job of its own): `stats.over_jobs`. `jobs` are the most
    processes that trained a cell. `failed` says which runs of the arms failed, `differs` which arms break the contract
    or differ as declared. `arm` is the cell's of a base, a factor and the total. What a null means is in `reason`;
    `learning_rates` are given where the arms' differ.
    """
    rows = []
    for _, own in runs.groupby(["dataset", "model"], sort=False):
        for name, spec in factorials.items():
            rows += _split(own[own["arm"].isin(spec["arms"])], name, spec, predictions, noise)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        dict.fromkeys(("n", "n_seeds", "jobs"), "Int64") | dict.fromkeys(NUMBERS, float)
    )


def quantities(runs: pd.DataFrame) -> dict[str, tuple[str, float]]:
    """The summary key of each quantity and what it is multiplied by."""
    found = {key: (key, 1.0) for key in (memory_key(runs["device"].iloc[0]), "weights_MiB", "activations_MiB")}
    found |= {"train_s": ("train_s", 1.0), "step_p50_ms": ("step_p50_ms", 1.0)}
    found[ENERGY] = (SUMMARY_KEY[ENERGY], 1000.0)
    return found if random_weights(runs) else {**found, "metric_value": ("metric_value", 1.0)}


def _split(
    runs: pd.DataFrame, name: str, spec: dict[str, Any], predictions: Predictions, noise: pd.DataFrame | None
) -> list[dict[str, Any]]:
    """The rows of one factorial of a data set and model."""
    rows = []
    tested = {} if random_weights(runs) else runs_by_seed(runs.assign(split="test"), predictions)
    cells = {tuple(cell): arm for arm, cell in spec["arms"].items()}
    common = first_record(runs[["dataset", "model", "pretrained", "metric", "positive_class"]])
    common["factorial"] = name
    common["energy_window_short"] = bool(runs["energy_window_short"].eq(True).any())
    common["n_seeds"] = runs["seed"].nunique()
    common["differs"] = " ".join(unlike(runs)) or None
    ways = {arm: failures(own) for arm, own in groups_of(runs, "arm") if (own["status"] == COMPLETED).any()}
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
        spread = job_noise(noise, runs, key) if key in MEASURED_AS else None
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
                if quantity == METRIC:
                    of_cells = [(sign, tested[cells[cell]]) for cell, sign in signs.items()]
                    row |= _of_metric([(sign, {seed: own[seed] for seed in seeds}) for sign, own in of_cells], common)
                else:
                    row |= _mean(parts, signs, {cell: jobs[cell] for cell in signs}, key in MEASURED_AS, spread)
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
    nothing = np.zeros_like(next(iter(parts.values())))
    values = sum((sign * parts[cell] for cell, sign in signs.items()), start=nothing)
    found: dict[str, Any] = {"n": len(values), "value": float(values.mean())}
    if len(values) < 2:
        return {**found, "reason": "one seed, which gives no interval"}
    if timed:
        found["jobs"] = max(jobs.values())
    estimate = over_jobs(values, list(parts.values()), list(jobs.values()), noise) if timed else over_seeds(values)
    if estimate is None:
        return {**found, "reason": UNKNOWN_SPREAD}
    if timed and noise and min(jobs.values()) < len(values):
        found["jobs_sd_percent"] = 100 * noise.cv
    return {**found, **dict(zip(("low", "high"), estimate.interval(), strict=True))}


def _of_metric(cells: list[tuple[int, Runs]], of: dict[str, Any]) -> dict[str, Any]:
    """Mean of the sum of the arms' metrics with their signs, its interval as in the comparison of arms."""
    if len(cells) == 1:
        found = alone(cells[0][1], of["metric"])
        return {key: found.get(key) for key in ("n", "low", "high", "reason")} | {"value": found["mean"]}
    values = [sum(sign * runs[seed][0] for sign, runs in cells) for seed in cells[0][1]]
    estimate, why = contrast(cells, of["metric"])
    low, high = estimate.interval() if estimate else (None, None)
    if estimate and not metric_called(of["metric"]).higher_is_better:
        low, high = -estimate.interval()[1], -estimate.interval()[0]  # of gains
    return {"n": len(values), "value": float(np.mean(values)), "low": low, "high": high, "reason": why}


NAMES = {**LABEL, ENERGY: "Energy, J/1,000 rows"}
UNTOLD = " (cannot be told from 0)"
METRIC = "metric_value"


def attribution_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `attribution_frame` of one factorial as text; quantities of which nothing is known are left out."""
    known = _known(rows) or list(rows["quantity"].unique())
    cells = []
    for row in records(rows[rows["quantity"].isin(known)]):
        base, quantity = row["kind"] == BASE, row["quantity"]
        bounds = metric_called(row["metric"]).bounds if base and quantity == METRIC else (-np.inf, np.inf)
        low, high = (np.clip(row[bound], *bounds) for bound in ("low", "high"))
        percent = NULL if base or quantity == METRIC or pd.isna(row["percent"]) else _percent(row["percent"])
        cells.append(
            {
                "Quantity": _name(rows, quantity),
                "Effect": f"{row['arm']} (base)" if base else row["effect"],
                "Mean or change": with_interval(row["value"], low, high, _scale(rows, quantity), sign=not base),
                "Of the base, %": percent,
            }
        )
    return pd.DataFrame(cells)


def attribution_sentences(rows: pd.DataFrame) -> list[str]:
    """A sentence a quantity: of how much in all each factor takes what part; then what is not known, and why."""
    known = _known(rows)
    unknown: dict[str, list[str]] = {}
    for quantity in dict.fromkeys(rows["quantity"]):
        if quantity not in known:
            own = rows[(rows["quantity"] == quantity) & (rows["kind"] != INTERACTION)]
            reasons = "; ".join(dict.fromkeys(own["reason"].dropna()))
            unknown.setdefault(reasons, []).append(_name(rows, quantity).partition(",")[0])
    return [
        *(_sentence(rows, quantity) for quantity in known),
        *(f"{', '.join(names)}: nothing is known ({reason})." for reason, names in unknown.items()),
    ]


def attribution_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of an attribution: one sentence each."""
    base, last = (rows.loc[rows["kind"] == kind, "arm"].iloc[0] for kind in (BASE, TOTAL))
    lines = [
        f"Base: {base}, which has none of the factors. A factor alone: {base} with that factor, less {base}. Total: "
        f"{last}, which has them all, less {base}.",
        "Interaction (A × B): what A and B change together beyond the sum of what each changes alone. Where it is 0 "
        "their effects add up; where it is not, what one of them is worth depends on whether the other is there.",
    ]
    if rows["low"].notna().any():
        lines.append(
            f"In brackets: 95 % t intervals over the {rows['n'].max()} seeds that the arms share; without brackets, "
            "every seed gave the same, or an interval is narrower than the digits."
        )
    elif rows["n"].max() == 1:
        lines.append("One seed: no intervals, so how much of this is chance is not known.")
    lines += _metric_notes(rows[rows["quantity"] == METRIC])
    short = rows[(rows["n"] > 0) & (rows["n"] < rows["n_seeds"])]
    if len(short):
        few = " or ".join(map(str, sorted(short["n"].unique())))
        lines.append(f"{few} of the {short['n_seeds'].iloc[0]} seeds count: a seed that an arm lacks counts in none.")
    if pd.notna(failed := rows["failed"].iloc[0]):
        lines.append(f"Failed runs are left out: {failed}.")
    timed = [key for key in _known(rows) if SUMMARY_KEY.get(key, key) in MEASURED_AS]
    lines += noise_notes({_short(key): _jobs(rows[rows["quantity"] == key]) for key in timed})
    lines += [PROBE, *(NOTE[key] for key in rows["quantity"].unique() if key in NOTE)]
    lines.append("Weights and activations: from tensor sizes.")
    if ENERGY in _known(rows) and rows["energy_window_short"].any():
        lines.append("Energy: measured over less than 30 s in some runs.")
    if pd.notna(rates := rows["learning_rates"].iloc[0]) and METRIC in _known(rows):
        lines.append(f"Learning rates differ ({rates}): what the metric changes by is theirs, too.")
    if pd.notna(differs := rows["differs"].iloc[0]):
        lines.append(f"By the contract, which compares every arm with the comparison's baseline: {differs}")
    return lines


def _metric_notes(rows: pd.DataFrame) -> list[str]:
    """What the intervals of the metric are over, or why there are none."""
    if rows["value"].isna().all():
        return []
    name = metric_name(rows.iloc[0])
    lines = []
    if rows["low"].notna().any():
        lines.append(f"{name}: intervals count other test examples too, as in the comparison.")
    without = rows["value"].notna() & rows["low"].isna() & (rows["n"] > 1)  # of one seed the notes say it of all
    if why := "; ".join(dict.fromkeys(rows.loc[without, "reason"])):
        lines.append(f"{name}: no interval ({why}).")
    return lines


def _short(quantity: str) -> str:
    name = NAMES[quantity].partition(",")[0]
    return name[0].lower() + name[1:]


def _jobs(rows: pd.DataFrame) -> dict[str, Any]:
    """What `noise_notes` asks of a quantity of time or energy."""
    return {
        "unknown": rows["reason"].eq(UNKNOWN_SPREAD).any(),
        "jobs": rows["jobs"].max(),
        "percent": None if rows["jobs_sd_percent"].isna().all() else rows["jobs_sd_percent"].max(),
    }


def _known(rows: pd.DataFrame) -> list[str]:
    """The quantities of which some change is known."""
    return list(dict.fromkeys(rows[rows["kind"] != BASE].dropna(subset="value")["quantity"]))


def _name(rows: pd.DataFrame, quantity: str) -> str:
    return metric_label(rows.iloc[0]) if quantity == METRIC else NAMES[quantity]


def _scale(rows: pd.DataFrame, quantity: str) -> float:
    return metric_called(rows["metric"].iloc[0]).scale if quantity == METRIC else 1.0


def _no_spread(row: Any) -> bool:
    """Whether every seed gave the same, or there was one alone."""
    return pd.isna(row["low"]) or row["high"] - row["low"] <= 1e-9 * abs(row["value"])


def _signed(value: float, places: int | None = None) -> str:
    """A number with its sign, three significant digits unless decimals are given; 0 has none."""
    text = number(abs(value), places)
    return text if not text.strip("0.,") else ("+" if value > 0 else "-") + text


def _percent(value: float) -> str:
    return _signed(value, 0 if abs(value) >= 10 else 1)


def _sentence(rows: pd.DataFrame, quantity: str) -> str:
    own = rows[rows["quantity"] == quantity]
    scale = _scale(rows, quantity)
    if quantity == METRIC:
        name, units = metric_name(own.iloc[0]), difference_unit(own.iloc[0])
    else:
        name, _, units = _name(rows, quantity).partition(", ")
    units = "" if units == name else f" {units}"
    total = own[own["kind"] == TOTAL].iloc[0]
    places = _places(total, scale)
    single = (own["kind"] == INTERACTION).sum() == 1
    parts, lacking, untold = [], [], []
    for row in records(own[own["kind"].isin((FACTOR, INTERACTION))]):
        interaction = "their interaction" if single else f"the interaction {row['effect']}"
        effect = f"{row['effect']} alone" if row["kind"] == FACTOR else interaction
        if pd.isna(row["value"]):
            lacking.append((effect, row["reason"]))
        else:
            parts.append(f"{effect} {_signed(row['value'] * scale, places)}")
            untold.append(_untold(row))
    if all(untold) and len(untold) > 1:
        parts[-1] += " (none can be told from 0)"
    else:
        parts = [part + remark for part, remark in zip(parts, untold, strict=True)]
    unknown = f"; not known: {', '.join(effect for effect, _ in lacking)} ({lacking[-1][1]})" if lacking else ""
    if pd.isna(total["value"]):
        return f"{name}, change in{units or ' it'}: {', '.join(parts)}{unknown}."
    size = number(abs(total["value"] * scale), places)
    share = f" ({_percent(total['percent'])} %)" if quantity != METRIC and size.strip("0.,") else ""
    whole = f"of {size}{units} {'more' if total['value'] > 0 else 'less'}{share} in all{_untold(total)}"
    if not size.strip("0.,"):
        whole = f"no change in all{_untold(total)};"
    return f"{name}: {whole}, {', '.join(parts)}{unknown}.".replace(";,", ";")


def _places(total: Any, scale: float) -> int | None:
    """Decimals for a sentence's numbers, so that they can be added up: those that the total supports."""
    if pd.isna(total["value"]):
        return None
    if _no_spread(total):
        value = abs(total["value"] * scale)
        return max(0, 2 - math.floor(math.log10(value))) if value else None
    return at_most(supported_decimals((total["high"] - total["low"]) / 2 * scale), total["value"] * scale)


def _untold(row: Any) -> str:
    return UNTOLD if row["low"] <= 0 <= row["high"] and row["low"] < row["high"] else ""

"""How far noise alone moves one run of a sweep, by the runs of its reference: never by the runs that are checked."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy import stats

from peft_tradeoffs.analysis.job_noise import pooled
from peft_tradeoffs.analysis.reference import Sweep
from peft_tradeoffs.analysis.tables import COMPLETED, SPLIT

METRIC = "metric_value"
OF_NOISE, OF_SEEDS, OF_SIZES = "repeats", "seeds", "tensor sizes"  # where a spread comes from
APART = 0.01  # chance that any arm that spreads like the others is set apart from them


@dataclass(frozen=True)
class Spread:
    """Standard deviation of one run (as a share of the mean, of the metric in its unit), its freedom and its source."""

    sd: float
    df: int
    source: str


def spread_of_metric(row: dict[str, Any], reference: Sweep) -> Spread | None:
    """Spread of the metric over the reference's seeds, pooled over arms; None if no arm has two.

    Another seed draws the head, the adapter and the order of the rows anew, so this bounds what a run of the same seed
    that rounds otherwise, by another version or GPU, can do. Repeats on one GPU do not: bit for bit alike, they spread
    by nothing. An arm that spreads more than the others (F test of the widest against the rest, again and again, at
    APART over the arms) is left out of the pool and has its own.
    """
    runs = reference.runs
    done = runs[(runs["status"] == COMPLETED) & _same(runs, row)]
    arms = done[METRIC].astype(float).groupby(done["arm"], sort=False).agg(["var", "count"]).dropna()
    pool = arms.sort_values("var")
    while len(pool) > 1 and _is_wider(pool.iloc[-1], pool.iloc[:-1], len(arms)):
        pool = pool.iloc[:-1]
    own = arms.loc[[row["arm"]]] if row["arm"] in arms.index.difference(pool.index) else pool
    df = int((own["count"] - 1).sum())
    return Spread(math.sqrt(_pooled(own)), df, OF_SEEDS) if df else None


def _is_wider(widest: pd.Series, rest: pd.DataFrame, arms: int) -> bool:
    level = stats.f.ppf(1 - APART / arms, widest["count"] - 1, (rest["count"] - 1).sum())
    return bool(widest["var"] > level * _pooled(rest))


def _pooled(arms: pd.DataFrame) -> float:
    """The variance of one run, weighed by degrees of freedom."""
    return float((arms["var"] * (arms["count"] - 1)).sum() / (arms["count"] - 1).sum())


def spread_of_cost(row: dict[str, Any], reference: Sweep, now: Sweep) -> Spread | None:
    """Spread of a cost on a device, pooled over the arms of a data set and model; None if nothing shows it.

    From the repeats of the reference's noise floor; where it measured none, from today's, whose repeats are of one
    state as well; else from the seeds of each of the reference's arms. Weights have none. Pooling takes the standard
    deviation, as a share of the mean, to be the same in every arm.
    """
    key = row["quantity"]
    if key in SPLIT:
        return Spread(0.0, 1, OF_SIZES)
    device = _device(row, reference)
    for noise in (reference.noise, now.noise):
        if noise is not None:
            own = noise[(noise["quantity"] == key) & (noise["device_name"] == device) & _same(noise, row)]
            if found := _of_shares(own[["mean", "sd", "n"]], OF_NOISE):
                return found
    runs = reference.runs
    if key not in runs:
        return None
    done = runs[(runs["status"] == COMPLETED) & (runs["device_name"] == device) & _same(runs, row)]
    arms = done[key].astype(float).groupby(done["arm"], sort=False).agg(["mean", "std", "count"])
    return _of_shares(arms.set_axis(["mean", "sd", "n"], axis=1), OF_SEEDS)


def _of_shares(arms: pd.DataFrame, source: str) -> Spread | None:
    found = pooled(arms)
    return found and Spread(found.cv, found.df, source)


def _same(frame: pd.DataFrame, row: dict[str, Any]) -> pd.Series:
    return (frame["dataset"] == row["dataset"]) & (frame["model"] == row["model"])


def _device(row: dict[str, Any], sweep: Sweep) -> str:
    own = sweep.runs[_same(sweep.runs, row) & (sweep.runs["arm"] == row["arm"])]
    return str(own["device_name"].dropna().iloc[0])

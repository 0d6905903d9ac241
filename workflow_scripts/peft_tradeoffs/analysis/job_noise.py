"""How far a job differs from another in time and energy, for intervals that count it.

Seeds that one process trained share what makes a process slow: their spread says nothing of another job.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from peft_tradeoffs.analysis.csv_tables import read_table
from peft_tradeoffs.analysis.stats import LEVEL, Estimate, over_seeds

# A quantity of time or energy, and the noise table's that varies by the same share: a run's energy is its rows' sum.
MEASURED_AS = {
    "train_s": "train_s",
    "step_p50_ms": "step_p50_ms",
    "energy_J": "energy_J_per_sample",
    "energy_J_per_sample": "energy_J_per_sample",
    "samples_per_s": "samples_per_s",
    "tokens_per_s": "samples_per_s",
    "step_p95_ms": "step_p95_ms",
}
NEEDED = ("dataset", "model", "arm", "device_name", "quantity", "n", "mean", "sd")
UNKNOWN_SPREAD = "how far jobs differ was not measured"


@dataclass(frozen=True)
class JobNoise:
    """Standard deviation of a job as a share of the mean, pooled over the noise table's arms, and its freedom."""

    cv: float
    df: int


class Positive(Estimate):
    """An estimate of what is above 0: its interval is that of a log-normal variable of this mean and standard error.

    The variance of the logarithm is ln(1 + (se / value)²), with t for a normal quantile (Buckland et al., Distance
    Sampling, 1993). Where the standard error is a small share it is the symmetric interval.
    """

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The `level` confidence interval."""
        sd = math.sqrt(math.log1p((self.se / self.value) ** 2))
        factor = math.exp(float(stats.t.ppf((1 + level) / 2, self.df)) * sd)
        return self.value / factor, self.value * factor


def read_noise(path: Path | None) -> pd.DataFrame | None:
    """The noise table, None without a path. Raises InputError if it is missing or none."""
    if path is None:
        return None
    kinds = dict.fromkeys(("dataset", "model", "arm", "device_name", "quantity"), str)
    return read_table(path, NEEDED, "make it again with measure_noise.py", kinds, ("n", "mean", "sd"))


def processes(runs: pd.DataFrame) -> int:
    """Processes that trained these runs; a process says its start-up time in its first run."""
    return max(1, int(runs["startup_s"].notna().sum()))


def job_noise(noise: pd.DataFrame | None, runs: pd.DataFrame, key: str) -> JobNoise | None:
    """How far jobs differ in a quantity, by the noise table's arms of the data set, model and device of `runs`.

    `key` is one of MEASURED_AS. None if that was not measured. Pooling takes the standard deviation, as a share of the
    mean, to be the same in every arm.
    """
    if noise is None:
        return None
    first = runs.iloc[0]
    of_runs = noise["quantity"] == MEASURED_AS[key]
    for name in ("dataset", "model"):
        of_runs &= noise[name] == first[name]
    of_runs &= noise["device_name"].isin(runs["device_name"].dropna())
    return pooled(noise[of_runs])


def pooled(arms: pd.DataFrame) -> JobNoise | None:
    """The standard deviation as a share of the mean, pooled over rows of n, mean and sd; None without a repeat."""
    own = arms[["n", "mean", "sd"]].dropna()
    df = int((own["n"] - 1).sum())
    if df < 1:
        return None
    return JobNoise(math.sqrt(((own["n"] - 1) * (own["sd"] / own["mean"]) ** 2).sum() / df), df)


def over_jobs(values: np.ndarray, parts: list[np.ndarray], jobs: list[int], noise: JobNoise | None) -> Estimate | None:
    """Mean of one value per seed [s] made of `parts`, each an arm's measurement [s]: other seeds and other jobs.

    values are sums of parts with signs, jobs how many processes trained each part. Where every seed had a job of its
    own the spread over seeds has that of jobs in it. Else the variance is that of the mean over seeds, and for each
    part (cv · mean)² / jobs more; degrees of freedom are the fewer of the two. The interval of a part alone is one of
    its logarithm, for it is positive and jobs differ by a share; a difference can be negative and has a symmetric one.
    None for fewer than 2 seeds, or if jobs were shared and `noise` is not known.
    """
    estimate = over_seeds(values)
    if estimate is None:
        return None
    if any(count < len(values) for count in jobs):
        if noise is None:
            return None
        added = float(sum((noise.cv * part.mean()) ** 2 / count for part, count in zip(parts, jobs, strict=True)))
        estimate = Estimate(estimate.value, math.sqrt(estimate.se**2 + added), min(estimate.df, noise.df))
    if len(parts) > 1 or estimate.value <= 0:
        return estimate
    return Positive(estimate.value, estimate.se, estimate.df)


def noise_notes(quantities: dict[str, dict[str, Any]]) -> list[str]:
    """What a reader must know of intervals of time and energy: one sentence each.

    `quantities` have by name: `unknown`, whether an interval is missing since jobs were shared; `jobs`, the most
    processes of an arm then; `percent`, the standard deviation of a job in per cent that was counted, if one was.
    """
    lines = []
    if lacking := [name for name, of in quantities.items() if of["unknown"]]:
        shared = (
            "One job per arm" if max(quantities[name]["jobs"] for name in lacking) == 1 else "Several seeds per job"
        )
        have = "has" if len(lacking) == 1 else "have"
        lines.append(f"{shared}: {UNKNOWN_SPREAD} (set noise), so {_list(lacking)} {have} no interval.")
    counted = [f"{of['percent']:.2g} % of {name}" for name, of in quantities.items() if of["percent"] is not None]
    if counted:
        lines.append(
            f"Intervals of time and energy count, besides seeds, how far jobs differ: by the noise table a standard "
            f"deviation of {_list(counted)}."
        )
    return lines


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

"""A measurement of arms by seed, and the interval of an arm's mean."""

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis import tables
from peft_tradeoffs.analysis.readable import null_reasons, ways_of_failing
from peft_tradeoffs.analysis.stats import (
    FEWEST_SEEDS,
    UNKNOWN_SPREAD,
    job_noise,
    over_jobs,
    over_seeds,
    processes,
)
from peft_tradeoffs.analysis.tables import BEFORE_TRAINING, COMPLETED, QUALITY
from peft_tradeoffs.tasks.metrics import METRICS
from peft_tradeoffs.tasks.recorded import MEASURED_AS


def by_seed(runs: pd.DataFrame, key: str) -> tuple[dict[int, float], str | None]:
    """The values of an arm's completed runs by seed; where there are none, why."""
    done = runs[runs["status"] == COMPLETED]
    if done.empty:
        return {}, failures(runs)
    timed = done if key in QUALITY else done[~done["mixed_gpus"].eq(True)]
    if timed.empty:
        return {}, "its runs changed GPUs on their way"
    if (why := incomparable(timed, key)) is not None:
        return {}, why
    values = timed.set_index("seed")[key].astype(float).dropna()
    if values.empty:
        return {}, "; ".join(null_reasons(timed, key)) or "not measured"
    return {int(seed): float(value) for seed, value in values.items()}, None


def incomparable(runs: pd.DataFrame, key: str) -> str | None:
    """Why values of completed runs, of one arm or several, cannot be averaged or compared; None if they can."""
    done = runs[runs["status"] == COMPLETED]
    if key not in QUALITY and (done["device"].astype(str) + done["device_name"].astype(str)).nunique() > 1:
        return "not all runs ran on the same device"
    if key not in (*QUALITY, *BEFORE_TRAINING) and done["engine"].nunique() > 1:
        return "not all runs ran with the same engine"
    return None


def failures(runs: pd.DataFrame) -> str | None:
    """How runs of an arm failed, in words; None if all were completed."""
    ways = ways_of_failing(runs)
    if len(ways) == 1 and ways[0][1] == len(runs):
        return ways[0][0] if len(runs) == 1 else f"all {len(runs)} runs {ways[0][0]}"
    return "; ".join(f"{count} of {len(runs)} runs {way}" for way, count in ways) or None


WITHOUT = ("hours",)  # the first run of a job has the imports of all in it


def counted(runs: pd.DataFrame, key: str) -> pd.DataFrame:
    """The runs of an arm that its mean of a measurement is taken over (see `tables.arms_frame`)."""
    done = runs[runs["status"] == COMPLETED].dropna(subset=key)
    return done if key in tables.QUALITY else done[~done["mixed_gpus"].eq(True)]


def seed_values(runs: pd.DataFrame, key: str, scale: float = 1.0) -> np.ndarray:
    """What the mean of an arm's runs is taken over: one value per seed."""
    return counted(runs, key)[key].to_numpy(dtype=float) * scale


def interval(
    runs: pd.DataFrame, key: str, noise: pd.DataFrame | None, scale: float = 1.0
) -> tuple[float, float] | None:
    """The 95 % interval of an arm's mean over other seeds, and for time, energy and throughput over other jobs.

    `noise` is the noise table (`stats.over_jobs`). Of a metric: on these test examples. None for fewer than
    FEWEST_SEEDS, where there is no mean (`by_seed`), and of a time where seeds shared a job and how far
    jobs differ is not known.
    """
    if key in WITHOUT:
        return None
    by, _ = by_seed(runs, key)
    if len(by) < FEWEST_SEEDS:
        return None
    values, own = np.array(list(by.values())) * scale, runs[runs["seed"].isin(by)]
    if key in MEASURED_AS:
        estimate = over_jobs(values, [values], [processes(own)], job_noise(noise, own, key))
    else:
        estimate = over_seeds(values)
    if estimate is None:
        return None
    low, high = estimate.interval()
    if key in ("metric_value", "heldout_metric_value"):  # none lies beyond its range, whatever t says
        least, most = METRICS[own["metric"].iloc[0]].bounds
        low, high = max(low, least * scale), min(high, most * scale)
    return low, high


def interval_notes(runs: pd.DataFrame, noise: pd.DataFrame | None, keys: list[str]) -> list[str]:
    """What the intervals of these measurements are, and which have none for what reason; nothing with few seeds."""
    arms = [(key, own) for key in keys if key in runs for _, own in runs.groupby("arm") if len(own) >= FEWEST_SEEDS]
    drawn = {key for key, own in arms if interval(own, key, noise) is not None}
    lines = ["Whiskers: 95 % interval of the mean over seeds (t)."] if drawn else []
    timed = [key for key, own in arms if key in MEASURED_AS and len(seed_values(own, key)) >= FEWEST_SEEDS]
    if any(key in drawn for key in timed):
        lines = ["Whiskers: 95 % interval of the mean over seeds (t), of time and energy over jobs too."]
    if any(key not in drawn for key in timed):
        lines.append(
            f"Time, throughput and energy have no interval where seeds shared a job: {UNKNOWN_SPREAD} (set noise)."
        )
    return lines

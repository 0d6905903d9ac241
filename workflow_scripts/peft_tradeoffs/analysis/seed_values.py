"""A measurement of arms by seed, for what is paired over seeds; null by the rules of `tables.arms_frame`."""

import pandas as pd

from peft_tradeoffs.analysis.readable import null_reasons, ways_of_failing
from peft_tradeoffs.analysis.tables import BEFORE_TRAINING, COMPLETED, QUALITY


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

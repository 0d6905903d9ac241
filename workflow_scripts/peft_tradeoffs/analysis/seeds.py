"""Seeds that fail now and then: which one lies far below the others, and what failure rate good runs leave possible."""

import math
from collections.abc import Mapping

import numpy as np
from scipy import stats

FALSE_ALARMS = 0.01  # of an arm whose seeds are all of one normal distribution, at most
TRIMMED = 1.25  # standard deviation of 3 to 5 normal values, over that of all but the lowest: 1.30 to 1.22
OTHERWISE = 0.1  # level of the F test that an arm's seeds vary more than those of the others


def failure_rate(failed: int, runs: int, level: float = 0.95) -> float:
    """The largest share of runs that may fail, by Clopper and Pearson's one-sided bound, where so many of them did."""
    return 1.0 if failed >= runs else float(stats.beta.ppf(level, failed + 1, runs - failed))


def low_seeds(arms: Mapping[str, Mapping[int, float]], margin: float) -> dict[str, int]:
    """The seed of an arm that lies far below its other seeds, by arm; `arms` has the metric by seed.

    Far is by more than the margin, and more than other seeds' spread explains: a t test of the lowest seed against the
    others, with Bonferroni's correction for its being the lowest. The spread is that of all arms' seeds without the
    lowest of each; the arm's own where its other seeds vary more than those of the other arms do. Arms of fewer than 3
    seeds have none.
    """
    rest = {arm: np.sort(list(seeds.values()))[1:] for arm, seeds in arms.items() if len(seeds) >= 3}
    found = {}
    for arm, own in rest.items():
        others = [values for name, values in rest.items() if name != arm]
        sd, df = _pooled([own, *others])
        apart, of_others = _pooled(others)
        if of_others and own.var(ddof=1) > apart**2 * stats.f.isf(OTHERWISE, len(own) - 1, of_others):
            sd, df = _pooled([own])
        seed = min(arms[arm], key=lambda seed: arms[arm][seed])
        below, count = float(own.mean()) - arms[arm][seed], len(arms[arm])
        spread = TRIMMED * sd * math.sqrt(1 + 1 / len(own))
        if below > max(margin, float(stats.t.isf(FALSE_ALARMS / count, df)) * spread):
            found[arm] = seed
    return found


def _pooled(arms: list[np.ndarray]) -> tuple[float, int]:
    """The standard deviation of arms' values about their means, and its degrees of freedom."""
    df = sum(len(own) - 1 for own in arms)
    return (math.sqrt(sum((len(own) - 1) * own.var(ddof=1) for own in arms) / df), df) if df else (0.0, 0)

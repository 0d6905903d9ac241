"""Learning rates that did as well as the best one, by paired dev predictions, and what the choice may have missed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 4000  # of an allowance
WITHIN = 2.0  # standard errors within which rates are tied


@dataclass(frozen=True)
class Gap:
    """How far the trials of a rate lie below those of the rate that was chosen, on the same dev rows."""

    mean: float  # in the metric's unit
    variance: float  # of the mean, over other dev rows
    trials: int  # of either rate, each on a dev split of its own

    @property
    def tied(self) -> bool:
        """Whether the rate did as well: the gap is within two standard errors of none."""
        return self.mean <= WITHIN * float(np.sqrt(self.variance))


@dataclass(frozen=True)
class Allowance:
    """What the best of the rates tried may have of the metric beyond the chosen one: its mean, and its variance."""

    mean: float = 0.0
    variance: float = 0.0


NO_ALLOWANCE = Allowance()


def gap(values: Sequence[tuple[float, float]], parts: Sequence[tuple[np.ndarray, np.ndarray]], share: bool) -> Gap:
    """The gap between the chosen rate and another one, trial by trial.

    `values` are the metric of both in each trial, `parts` what each dev row, or group of rows, adds to it ([n],
    jackknife pseudo-values, of a `share` 1 where the row is right). The variance is that of the paired differences with
    a row of + step and one of - step more, step being what one row can change (1 of a share, or more), so that equal
    predictions are no certainty (Agresti and Min, Statistics in Medicine 24, 2005). Infinite where some part is not
    finite.
    """
    variances = []
    for (chosen, other), (value, of_other) in zip(parts, values, strict=True):
        difference, rows = chosen - other, len(chosen) + 2
        step = max(np.abs(chosen - value).max(), np.abs(other - of_other).max(), 1.0 if share else 0.0)
        squares = ((difference**2).sum() + 2 * step**2) / rows
        variances.append((squares - (difference.sum() / rows) ** 2) / rows)
    mean = float(np.mean([chosen - other for chosen, other in values]))
    variance = float(np.sum(variances)) / len(values) ** 2
    return Gap(mean, variance if np.isfinite(variance) else np.inf, len(values))


def allowance(gaps: Sequence[Gap], of_seed: float) -> Allowance:
    """What the choice of a rate may have missed, by its `gaps` to the other rates that have a metric.

    The true metric of each rate is drawn around what its trials gave, independently, so that the difference of a rate
    to the chosen one has its gap's variance and that of two seeds per trial (`of_seed` each); what is missed is the
    largest of them less the chosen one's, 0 or more.
    """
    if not gaps:
        return NO_ALLOWANCE
    variances = np.array([one.variance + 2 * of_seed / one.trials for one in gaps])
    if not np.isfinite(variances).all():
        return Allowance(np.inf, np.inf)
    own = variances.min() / 2  # of the chosen rate
    draws = np.random.default_rng(0).standard_normal((DRAWS, len(gaps) + 1))
    chosen = np.sqrt(own) * draws[:, 0]
    others = np.sqrt(variances - own) * draws[:, 1:] - [one.mean for one in gaps]
    missed = np.maximum(others.max(axis=1) - chosen, 0.0)
    return Allowance(float(missed.mean()), float(missed.var()))


def as_gaps(found: Sequence[Mapping[str, float | int]]) -> list[Gap]:
    """The gaps that tune.py wrote."""
    return [Gap(one["mean"], one["variance"], int(one["trials"])) for one in found]

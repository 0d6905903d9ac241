"""Statistics of a comparison of arms over seeds and test examples. Intervals are two-sided, metrics fractions."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

LEVEL = 0.95
POWER = 0.8
MOST_SEEDS, MOST_EXAMPLES = 100, 1_000_000  # that anyone would be told to take
FEWEST_SEEDS = 3  # with 2, intervals of 95 % over seeds and examples covered 87 to 93 % in simulation
ROUNDING = 1e-12  # of a sum of floats; a part of a variance below it is none


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of means, with its standard error and the degrees of freedom of its t distribution."""

    value: float
    se: float
    df: float
    share_of: int | None = field(
        default=None, kw_only=True
    )  # examples that it is a share of, or a difference of shares

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The `level` confidence interval."""
        half = self.half_width(level)
        return self.value - half, self.value + half

    def half_width(self, level: float = LEVEL) -> float:
        """Half the width of the `level` confidence interval.

        Of a share no less than what none in `share_of` leaves possible (Clopper and Pearson, Biometrika 26, 1934), for
        a standard error of examples that hardly differ, or not at all, knows nothing of those not seen.
        """
        half = float(stats.t.ppf((1 + level) / 2, self.df)) * self.se
        return max(half, unseen((1 - level) / 2, self.share_of)) if self.share_of else half

    def p_different(self) -> float:
        """p of the t test against 0, two-sided; below 0.05 just where 0 lies outside the 95 % interval."""
        return float(min(2 * self._p_beyond(abs(self.value)), 1.0))

    def p_equivalent(self, margin: float) -> float:
        """p of two one-sided t tests (TOST) of "at least `margin` away from 0".

        Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987. Below 0.05 just where the 90 % interval
        lies within the margin.
        """
        inside = margin - abs(self.value)
        return self._p_beyond(inside)

    def p_not_worse(self, margin: float) -> float:
        """p of a one-sided t test (non-inferiority) of "worse by `margin` or more", where higher is better.

        Blackwelder, Controlled Clinical Trials 3, 1982. Better by any amount is not worse; equivalence implies it.
        """
        inside = margin + self.value
        return self._p_beyond(inside)

    def p_worse(self, margin: float) -> float:
        """p of a one-sided t test of "worse by `margin` or less, or better", where higher is better.

        Below 0.025 just where the 95 % interval lies wholly beyond the margin; then `p_different` is below 0.05.
        """
        return self._p_beyond(-self.value - margin)

    def _p_beyond(self, inside: float) -> float:
        """p of a one-sided t test that the true value lies beyond a bound, from which it is `inside` away.

        Of a share no less than what none in `share_of` leaves possible.
        """
        p = float(inside <= 0.0) if self.se == 0.0 else float(stats.t.sf(inside / self.se, self.df))
        return max(p, min(max(1 - inside, 0.0), 1.0) ** self.share_of) if self.share_of else p

    def smallest_difference(self, level: float = LEVEL, power: float = POWER) -> float:
        """The true difference that a test at 1 - `level` sees with probability `power`, given this standard error.

        By the usual approximation with central t quantiles: half the width of the interval and t of the power standard
        errors. nan where there is none of these.
        """
        if self.se == 0.0:
            return math.nan
        return self.half_width(level) + float(stats.t.ppf(power, self.df)) * self.se


def unseen(alpha: float, examples: int) -> float:
    """The largest share of all examples of which so many drawn may show none with a probability of `alpha` or more."""
    return 1 - alpha ** (1 / examples)


@dataclass(frozen=True)
class Crossed(Estimate):
    """An estimate over crossed seeds and examples, with the variances that they add."""

    seeds: int
    examples: int
    of_seed: float
    of_example: float
    of_both: float

    def needed(self, inside: float, alpha: float, power: float = POWER) -> tuple[int | None, int | None]:
        """How many seeds, with these examples, or examples, with these seeds, a one-sided t test at `alpha` needs.

        It then sees a true value that lies `inside` of its bound with probability `power`, if the variances are those
        estimated here. Of a share what none in so many examples leaves possible must lie inside, too, whatever the
        seeds. None for more than MOST_SEEDS or MOST_EXAMPLES.
        """

        def enough(seeds: int, examples: int) -> bool:
            both = self.of_both / (seeds * examples)
            a, extra = self.of_seed / seeds + both, self.of_example / examples
            df, se = _satterthwaite(a, extra, both, seeds, examples), math.sqrt(a + extra)
            least = unseen(alpha, examples) if self.share_of else 0.0
            return inside >= max(stats.t.isf(alpha, df) * se, least) + stats.t.ppf(power, df) * se

        return (
            _smallest(lambda seeds: enough(seeds, self.examples), self.seeds, MOST_SEEDS),
            _smallest(lambda examples: enough(self.seeds, examples), self.examples, MOST_EXAMPLES),
        )


def _smallest(enough: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest number above `low` and up to `high` that is enough; every larger one is, too."""
    if high <= low or not enough(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def seeds_to_decide(values: np.ndarray, bound: float) -> int | None:
    """How many seeds put the 95 % interval of a mean of values [s] on one side of `bound`, if mean and spread stay.

    None for more than MOST_SEEDS.
    """
    mean, sd = values.mean(), values.std(ddof=1)
    return _smallest(
        lambda seeds: stats.t.ppf((1 + LEVEL) / 2, seeds - 1) * sd / math.sqrt(seeds) < abs(mean - bound),
        len(values),
        MOST_SEEDS,
    )


def over_seeds(values: np.ndarray) -> Estimate | None:
    """Mean of one value or difference per seed [s]: this test set, other seeds. None for fewer than 2."""
    if len(values) < 2:
        return None
    return Estimate(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values)), len(values) - 1)


def over_seeds_and_examples(values: np.ndarray) -> Crossed | None:
    """Mean of values [s, n], one row per seed, one column per example: other seeds and other examples.

    None for fewer than FEWEST_SEEDS seeds or 2 examples, and for values that are not finite.

    Seeds and examples are crossed random effects, so the mean's variance has three parts, estimated from the mean
    squares of a two-way analysis of variance: a = seeds + interaction, b = examples + interaction and i = interaction,
    each divided by what it is averaged over. The variance is a + b - i, where a negative b - i counts as 0. Degrees of
    freedom: Satterthwaite (Biometrics Bulletin 2, 1946), at least s - 1. Resampling seeds and examples (the pigeonhole
    bootstrap: Owen, Annals of Applied Statistics 1, 2007) counts the interaction three times and has too few seeds to
    resample; benchmarks/interval_coverage.py compares the two.
    """
    seeds, examples = values.shape
    if seeds < FEWEST_SEEDS or examples < 2 or not np.isfinite(values).all():
        return None
    mean, rows, columns = values.mean(), values.mean(axis=1), values.mean(axis=0)
    residual = values - rows[:, None] - columns + mean
    a = rows.var(ddof=1) / seeds
    if a < ROUNDING**2 * (values**2).mean():
        a = 0.0
    b = columns.var(ddof=1) / examples
    i = (residual**2).sum() / ((seeds - 1) * (examples - 1)) / (seeds * examples)
    extra = b - i if b - i > ROUNDING * b else 0.0
    df = _satterthwaite(a, extra, i, seeds, examples)
    parts = max(a - i, 0.0) * seeds, extra * examples, i * seeds * examples
    return Crossed(float(mean), math.sqrt(a + extra), df, seeds, examples, *map(float, parts))


def _satterthwaite(a: float, extra: float, i: float, seeds: int, examples: int) -> float:
    """Degrees of freedom of the variance a + extra, where extra, if it is not 0, is b - i."""
    uncertain = a**2 / (seeds - 1)
    if extra:
        uncertain += (extra + i) ** 2 / (examples - 1) + i**2 / ((seeds - 1) * (examples - 1))
    df = (a + extra) ** 2 / uncertain if uncertain else seeds - 1
    return float(max(df, seeds - 1))


def mcnemar(correct: np.ndarray, baseline: np.ndarray) -> float:
    """p of McNemar's exact test that two classifiers err equally often; [n] booleans, the same examples.

    Binomial over the examples on which just one is right (Psychometrika 12, 1947); 1 where there are none.
    """
    gained, lost = int((correct & ~baseline).sum()), int((~correct & baseline).sum())
    return float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's adjusted p values [m] (Scandinavian Journal of Statistics 6, 1979)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    steps = p[order] * (len(p) - np.arange(len(p)))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted

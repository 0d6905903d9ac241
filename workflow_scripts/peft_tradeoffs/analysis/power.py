"""Power before training: which differences so many rows and seeds can show. Cheap to import.

One seed of an arm and the same seed of the baseline disagree on a share of the rows; a part of that share repeats over
seeds. This gives the standard error of a difference of shares (accuracies), and with it what the tests of a comparison
find: they count other seeds and other rows, with Holm's correction over the arms.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from peft_tradeoffs.tasks.metrics import ACCURACY, unseen

ALPHA, POWER = 0.05, 0.8
FEWEST_SEEDS = 3  # of an interval: with 2 those of 95 % over seeds and examples covered 87 to 93 % in simulation
MOST_ROWS = 1_000_000  # that anyone would be told to take
OF_ERRORS = 0.7  # the share of rows on which an arm and the baseline disagree, as a part of the baseline's errors
DISAGREE = ACCURACY.disagree  # that share where the errors are not known
REPEATS = 0.5  # the part of it that repeats over seeds
ADDED = 2  # rows that a comparison adds to those tested, for its variance alone: one gained, one lost in every seed
NODES, WEIGHTS = np.polynomial.legendre.leggauss(32)


def disagreement(errors: float | None = None) -> float:
    """The share of rows on which arms are expected to disagree, of the share on which the baseline errs."""
    return DISAGREE if errors is None else OF_ERRORS * errors


@dataclass(frozen=True, kw_only=True)
class Design:
    """A comparison of arms with a baseline, on the same seeds and rows."""

    rows: int  # or groups of rows, where these are drawn
    seeds: int
    arms: int  # besides the baseline
    disagree: float = DISAGREE  # share of rows on which one seed of an arm and the same seed of the baseline disagree
    repeats: float = REPEATS  # the part of it that repeats over seeds
    added: int = ADDED  # rows added to these, on which every seed disagrees

    @property
    def decides(self) -> bool:
        """Whether a comparison of so many arms and seeds has intervals at all."""
        return self.arms > 0 and self.seeds >= FEWEST_SEEDS and self.rows > 1

    def _noise(self) -> tuple[float, float]:
        """The standard error of a difference, a share, and its degrees of freedom by Satterthwaite."""
        count = self.rows + self.added
        of_both = self.disagree * (1 - self.repeats) * self.rows / count / (self.seeds * count)
        of_row = (self.disagree * self.repeats * self.rows + self.added) / count**2
        variance, seeds, rows = of_both + of_row, self.seeds - 1, count - 1
        uncertain = of_both**2 / seeds + variance**2 / rows + of_both**2 / (seeds * rows)
        df = variance**2 / uncertain if uncertain else seeds
        return math.sqrt(variance), max(df, seeds)

    def findable(self, sides: int, power: float) -> float:
        """How far from its bound a difference must lie for a test of one or two sides to find it with `power`.

        By the usual approximation with central t quantiles; the test claims no more than what no row in so many leaves
        possible (Clopper and Pearson, Biometrika 26, 1934).
        """
        if not self.decides:
            raise ValueError(f"{self}: no interval, so nothing is found")
        alpha = ALPHA / (sides * self.arms)  # at Holm's strictest level
        se, df = self._noise()
        return max(t_quantile(1 - alpha, df) * se, unseen(alpha, self.rows)) + t_quantile(power, df) * se


def provable_difference(design: Design) -> float | None:
    """The smallest true difference, a share, that is found with a probability of 80 % at Holm's strictest level.

    None where it is more than arms that disagree so rarely can differ by. No rows are added here: a difference takes
    about as much from the variance over rows as they bring (benchmarks/power.py shows what is found).
    """
    found = replace(design, added=0).findable(2, POWER)
    return found if found <= design.disagree else None


def margin_not_worse(design: Design) -> float:
    """The smallest margin, a share, at which an arm as good as the baseline is proven not worse, with 80 %."""
    return design.findable(1, POWER)


def margin_equivalent(design: Design) -> float:
    """The smallest margin, a share, at which an arm as good as the baseline is proven equivalent, with 80 %.

    Both one-sided tests must succeed, each with 90 %.
    """
    return design.findable(1, (1 + POWER) / 2)


def rows_needed(margin: float, design: Design, provable: Callable[[Design], float] = margin_equivalent) -> int | None:
    """The fewest rows, up to MOST_ROWS, at which `provable` of the design, whose own rows do not count, is the margin.

    `margin` is a share. None where more are needed.
    """
    low, high = 1, MOST_ROWS
    if provable(replace(design, rows=high)) > margin:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if provable(replace(design, rows=middle)) <= margin else (middle, high)
    return high


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a comparison is to show, for readers."""

    of: str  # what its rows are: "872 test rows", "40 groups of test rows"
    margin: float  # a share
    baseline: str
    tuned: bool = False  # whether learning rates are chosen by trials
    seen: str = ""  # where it was seen, if it was: "the trials of LoRA r8 and full on 10 of 48 dev rows"
    unit: str = "rows"  # or groups


def told(design: Design, asked: Asked) -> str:
    """What such a comparison, which must decide, can find and prove, for readers."""
    margin, of, baseline = asked.margin, asked.of, asked.baseline
    arms = f"{design.arms} arm{'s' * (design.arms > 1)} against {baseline}"
    difference, within, least = provable_difference(design), _points(margin), margin_equivalent(design)
    found = f"differences under about {_points(difference, 1)} will not" if difference else "no difference will"
    no_loss = f"an arm that loses nothing can be proven to lose less than {within}"
    if least <= margin:
        proven = f"; {no_loss}, and one that is as good as {baseline}, within {within} of it"
    else:
        rows = rows_needed(margin, design)
        enough = f"about {_rounded(rows, design.rows):,}" if rows else f"more than {MOST_ROWS:,}"
        other = math.ceil(1000 * least) / 1000
        or_margin = f", or a margin of {_points(other)}" if other <= ACCURACY.largest_margin else ""
        but = f"; {no_loss}, but" if margin_not_worse(design) <= margin else ", and"
        way_out = f"{enough} {asked.unit} would be needed{or_margin}"
        proven = f"{but} no arm can be proven within {within} of {baseline} ({way_out})"
    return (
        f"{of}, {design.seeds} seeds, {arms}: {found} be found{proven}. "
        f"Assumed: arms disagree on {100 * design.disagree:{'.0f' if design.disagree >= 0.1 else '.2g'}} % of rows"
        f"{f' ({asked.seen})' if asked.seen else ''}"
        f"{', and learning rates are settled: what their choice may have missed comes on top' if asked.tuned else ''}."
    )


def _points(share: float, decimals: int | None = None) -> str:
    number = f"{100 * share:.10g}" if decimals is None else f"{100 * share:.{decimals}f}"
    return f"{number} point{'s' * (number != '1')}"


def _rounded(needed: int, there: int) -> int:
    """To two digits, unless that hides that there are too few."""
    rounded = round(needed, 2 - len(str(needed)))
    return rounded if rounded > there else needed


def observed(differences: np.ndarray) -> tuple[float, float]:
    """The share of rows on which runs disagreed, and the part of it that repeats over seeds.

    `differences` [s, n] are an arm's right answers less the baseline's: -1, 0 or 1 a seed and row. One row gained and
    one lost in every seed are added (Agresti and Min, Statistics in Medicine 24, 2005): none seen is not none.
    """
    seeds, rows = differences.shape
    of_all = float((differences**2).sum())
    per_seed = of_all / seeds + ADDED
    across = (float((differences.sum(axis=0) ** 2).sum()) - of_all) / (seeds * (seeds - 1)) + ADDED
    return per_seed / (rows + ADDED), min(max(across / per_seed, 0.0), 1.0)


@functools.lru_cache
def t_quantile(p: float, df: float) -> float:
    """Student's t quantile for 0.5 <= p < 1 and df >= 2, to 5 digits; scipy's costs a plan its import.

    With t = sqrt(df) tan(x) the distribution is an integral of cos(x)^(df - 1). Newton's steps from the normal
    quantile, which is smaller, stay below the one sought, for the distribution is concave.
    """
    scale = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(math.pi)
    t = NormalDist().inv_cdf(p)
    for _ in range(100):
        angle = math.atan(t / math.sqrt(df))
        below = 0.5 + scale * angle / 2 * float(WEIGHTS @ np.cos(angle * (NODES + 1) / 2) ** (df - 1))
        step = (p - below) / (scale / math.sqrt(df) * math.cos(angle) ** (df + 1))
        t += step
        if step <= 1e-10 * t:
            break
    return t

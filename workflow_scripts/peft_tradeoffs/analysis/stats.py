"""Statistics of arms: means over seeds with their intervals, tests of a comparison, groups, noise between jobs."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_letters
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from peft_tradeoffs.analysis.power import ALPHA, FEWEST_SEEDS, MOST_ROWS, POWER
from peft_tradeoffs.analysis.readable import null_reasons, ways_of_failing
from peft_tradeoffs.analysis.tables import BEFORE_TRAINING, COMPLETED, QUALITY, read_table
from peft_tradeoffs.core.text import and_list
from peft_tradeoffs.runs.plan import NO_ALLOWANCE, Allowance
from peft_tradeoffs.tasks.metrics import METRICS, unseen
from peft_tradeoffs.tasks.task import MEASURED_AS

LEVEL = 1 - ALPHA
MOST_SEEDS = 100  # that anyone would be told to take
WITHOUT = ("hours",)  # no interval: the first run of a job has the imports of all in it
FALSE_ALARMS = 0.01  # of an arm whose seeds are all of one normal distribution, at most
TRIMMED = 1.25  # standard deviation of 3 to 5 normal values, over that of all but the lowest: 1.30 to 1.22
OTHERWISE = 0.1  # level of the F test that an arm's seeds vary more than those of the others
ROUNDING = 1e-12  # of a sum of floats; a part of a variance below it is none


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of means, with its standard error and the degrees of freedom of its t distribution.

    `below` and `above` widen a difference on one side each, in its interval and in every test: the true one may be
    lower by what the second of the two may have missed, and higher by what the first may have.
    """

    value: float
    se: float
    df: float
    share_of: int | None = field(
        default=None, kw_only=True
    )  # examples that it is a share of, or a difference of shares
    below: Allowance = field(default=NO_ALLOWANCE, kw_only=True)
    above: Allowance = field(default=NO_ALLOWANCE, kw_only=True)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """The `level` confidence interval."""
        low = self.value - self.below.mean - self._half_width(level, self.below)
        return low, self.value + self.above.mean + self._half_width(level, self.above)

    def half_width(self, level: float = LEVEL) -> float:
        """Half the width of the `level` confidence interval, or how far its farther bound is from the value.

        Of a share no less than what none in `share_of` leaves possible (Clopper and Pearson, Biometrika 26, 1934), for
        a standard error of examples that hardly differ, or not at all, knows nothing of those not seen.
        """
        return max(side.mean + self._half_width(level, side) for side in (self.below, self.above))

    def _half_width(self, level: float, side: Allowance) -> float:
        half = float(stats.t.ppf((1 + level) / 2, self.df)) * self._se(side)
        return max(half, unseen((1 - level) / 2, self.share_of)) if self.share_of else half

    def _se(self, side: Allowance) -> float:
        return math.sqrt(self.se**2 + side.variance) if side.variance else self.se

    def p_different(self) -> float:
        """p of the t test against 0, two-sided; below 0.05 just where 0 lies outside the 95 % interval."""
        return float(min(2 * min(self.p_not_worse(0.0), self.p_worse(0.0)), 1.0))

    def p_equivalent(self, margin: float) -> float:
        """p of two one-sided t tests (TOST) of "at least `margin` away from 0".

        Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987. Below 0.05 just where the 90 % interval
        lies within the margin.
        """
        return max(self.p_not_worse(margin), self.p_worse(-margin))

    def p_not_worse(self, margin: float) -> float:
        """p of a one-sided t test (non-inferiority) of "worse by `margin` or more", where higher is better.

        Blackwelder, Controlled Clinical Trials 3, 1982. Better by any amount is not worse; equivalence implies it.
        """
        return self._p_beyond(margin + self.value - self.below.mean, self._se(self.below))

    def p_worse(self, margin: float) -> float:
        """p of a one-sided t test of "worse by `margin` or less, or better", where higher is better.

        Below 0.025 just where the 95 % interval lies wholly beyond the margin; then `p_different` is below 0.05.
        """
        return self._p_beyond(-self.value - margin - self.above.mean, self._se(self.above))

    def _p_beyond(self, inside: float, se: float) -> float:
        """p of a one-sided t test that the true value lies beyond a bound, from which it is `inside` away.

        Of a share no less than what none in `share_of` leaves possible.
        """
        p = float(inside <= 0.0) if se == 0.0 else float(stats.t.sf(inside / se, self.df))
        return max(p, min(max(1 - inside, 0.0), 1.0) ** self.share_of) if self.share_of else p

    def smallest_difference(self, level: float = LEVEL, power: float = POWER) -> float:
        """The true difference that a test at 1 - `level` sees with probability `power`, given this standard error.

        By the usual approximation with central t quantiles: half the width of the interval and t of the power standard
        errors, on the wider side. nan where there is none of these.
        """
        if self.se == 0.0:
            return math.nan
        widest = max(self._se(side) for side in (self.below, self.above))
        return self.half_width(level) + float(stats.t.ppf(power, self.df)) * widest


@dataclass(frozen=True)
class Crossed(Estimate):
    """An estimate over crossed seeds and examples, with the variances that they add."""

    seeds: int
    examples: int
    of_seed: float
    of_example: float
    of_both: float
    added: int = 0  # examples that stand for those not seen: see `over_seeds_and_examples`

    def needed(self, inside: float, alpha: float, power: float = POWER) -> tuple[int | None, int | None]:
        """How many seeds, with these examples, or examples, with these seeds, a one-sided t test at `alpha` needs.

        It then sees a true value that lies `inside` of its bound with probability `power`, if the variances are those
        estimated here. Of a share what none in so many examples leaves possible must lie inside, too, whatever the
        seeds. What tuning may have missed (`below`) is as it is. None for more than MOST_SEEDS or MOST_ROWS.
        """

        def enough(seeds: int, examples: int) -> bool:
            count = examples + self.added
            both = self.of_both / (seeds * count)
            a, extra = self.of_seed / seeds + both, self.of_example / count
            df, se = _satterthwaite(a, extra, both, seeds, count), math.sqrt(a + extra + self.below.variance)
            least = unseen(alpha, examples) if self.share_of else 0.0
            return inside >= max(stats.t.isf(alpha, df) * se, least) + stats.t.ppf(power, df) * se

        return (
            _smallest(lambda seeds: enough(seeds, self.examples), self.seeds, MOST_SEEDS),
            _smallest(lambda examples: enough(self.seeds, examples), self.examples, MOST_ROWS),
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


def over_examples(values: np.ndarray) -> Estimate | None:
    """Mean of one value per example [n]: other examples. None for fewer than 2, and for values that are not finite."""
    count = len(values)
    if count < 2 or not np.isfinite(values).all():
        return None
    return Estimate(float(values.mean()), float(values.std(ddof=1)) / math.sqrt(count), count - 1)


def over_seeds_and_examples(values: np.ndarray, step: float = 0.0) -> Crossed | None:
    """Mean of values [s, n], one row per seed, one column per example: other seeds and other examples.

    None for fewer than FEWEST_SEEDS seeds or 2 examples, and for values that are not finite.

    Seeds and examples are crossed random effects, so the mean's variance has three parts, estimated from the mean
    squares of a two-way analysis of variance: a = seeds + interaction, b = examples + interaction and i = interaction,
    each divided by what it is averaged over. The variance is a + b - i, where a negative b - i counts as 0. Degrees of
    freedom: Satterthwaite (Biometrics Bulletin 2, 1946), at least s - 1. Resampling seeds and examples (the pigeonhole
    bootstrap: Owen, Annals of Applied Statistics 1, 2007) counts the interaction three times and has too few seeds to
    resample; benchmarks/interval_coverage.py compares the two.

    `step` is what one example can change. Where it is not 0 the variance is that with two examples more, one of
    + `step` and one of - `step` in every seed, so that few examples that differ, or none, do not pass for a variance of
    none (Agresti and Min, Statistics in Medicine 24, 2005, for paired shares). The mean is that of the values alone.
    """
    seeds, examples = values.shape
    if seeds < FEWEST_SEEDS or examples < 2 or not np.isfinite(values).all():
        return None
    mean = values.mean()
    if step:
        values = np.column_stack([values, np.full(seeds, step), np.full(seeds, -step)])
    count = values.shape[1]
    rows, columns = values.mean(axis=1), values.mean(axis=0)
    residual = values - rows[:, None] - columns + values.mean()
    a = rows.var(ddof=1) / seeds
    if a < ROUNDING**2 * (values**2).mean():
        a = 0.0
    b = columns.var(ddof=1) / count
    i = (residual**2).sum() / ((seeds - 1) * (count - 1)) / (seeds * count)
    extra = b - i if b - i > ROUNDING * b else 0.0
    df = _satterthwaite(a, extra, i, seeds, count)
    return Crossed(
        float(mean),
        math.sqrt(a + extra),
        df,
        seeds=seeds,
        examples=examples,
        of_seed=float(max(a - i, 0.0) * seeds),
        of_example=float(extra * count),
        of_both=float(i * seeds * count),
        added=count - examples,
    )


def of_seeds(arms: Iterable[np.ndarray]) -> float:
    """The variance that seeds alone add to a run's metric, pooled over arms' values [s, n]; 0 or more.

    That of the means of rows, less what the interaction of seeds and examples makes of it.
    """
    total, freedom = 0.0, 0
    for values in arms:
        seeds, examples = values.shape
        if seeds < 2 or examples < 2 or not np.isfinite(values).all():
            continue
        rows = values.mean(axis=1)
        residual = values - rows[:, None] - values.mean(axis=0) + values.mean()
        both = (residual**2).sum() / ((seeds - 1) * (examples - 1)) / examples
        total += (seeds - 1) * (float(rows.var(ddof=1)) - float(both))
        freedom += seeds - 1
    return max(total / freedom, 0.0) if freedom else 0.0


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


def letter_display(different: np.ndarray) -> list[str]:
    """Letters of m things: two share a letter just where they are not `different` ([m, m] booleans, symmetric).

    Insert and absorb (Piepho, Journal of Computational and Graphical Statistics 13, 2004): all begin in one group; for
    each pair that differs, every group with both is replaced by two, without the one and without the other. A group is
    absorbed where each of its pairs is in another group too, and so are its members: one that is part of another always
    is. Groups are lettered in the order of their members, so give the best first: a to z, A to Z, then a2, b2 and so
    on, all with a blank between them.
    """
    size = len(different)
    groups = [frozenset(range(size))] if size else []
    for one, other in zip(*np.nonzero(np.triu(different, 1)), strict=True):
        split = [group for group in groups if {one, other} <= group]
        kept = [group for group in groups if not {one, other} <= group]
        groups = _absorbed({*kept, *(group - {gone} for group in split for gone in (one, other))}, size)
    ordered = sorted(groups, key=sorted)
    names = list(itertools.islice(_names(), len(ordered)))
    gap = "" if len(ordered) <= len(ascii_letters) else " "
    return [gap.join(name for name, group in zip(names, ordered, strict=True) if one in group) for one in range(size)]


def _absorbed(groups: set[frozenset[int]], size: int) -> list[frozenset[int]]:
    """The groups without those, the smallest first, whose every pair and member is in another one."""
    ordered = sorted(groups, key=lambda group: (len(group), sorted(group)))
    together = np.zeros((size, size), dtype=int)  # in how many groups a pair, or on the diagonal a member, is
    for group in ordered:
        together[_pairs(group)] += 1
    kept = []
    for group in ordered:
        pairs = _pairs(group)
        if together[pairs].min() > 1:
            together[pairs] -= 1
        else:
            kept.append(group)
    return kept


def _pairs(group: frozenset[int]) -> tuple[np.ndarray, ...]:
    members = np.fromiter(group, dtype=int)
    return np.ix_(members, members)


def _names() -> Iterator[str]:
    yield from ascii_letters
    for turn in itertools.count(2):
        yield from (f"{letter}{turn}" for letter in ascii_letters)


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

    values are sums of parts with signs, jobs how many processes trained each part. Seeds that one process trained share
    what makes it slow, so that their spread says nothing of another job. Where every seed had a job of its
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
        lines.append(f"{shared}: {UNKNOWN_SPREAD} (set noise), so {and_list(lacking)} {have} no interval.")
    counted = [f"{of['percent']:.2g} % of {name}" for name, of in quantities.items() if of["percent"] is not None]
    if counted:
        lines.append(
            f"Intervals of time and energy count, besides seeds, how far jobs differ: by the noise table a standard "
            f"deviation of {and_list(counted)}."
        )
    return lines


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
    return {int(seed): float(value) for seed, value in zip(values.index, values, strict=True)}, None


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


def counted(runs: pd.DataFrame, key: str) -> pd.DataFrame:
    """The runs of an arm that its mean of a measurement is taken over (see `tables.arms_frame`)."""
    done = runs[runs["status"] == COMPLETED].dropna(subset=key)
    return done if key in QUALITY else done[~done["mixed_gpus"].eq(True)]


def seed_values(runs: pd.DataFrame, key: str, scale: float = 1.0) -> np.ndarray:
    """What the mean of an arm's runs is taken over: one value per seed."""
    return counted(runs, key)[key].to_numpy(dtype=float) * scale


def interval(
    runs: pd.DataFrame, key: str, noise: pd.DataFrame | None, scale: float = 1.0
) -> tuple[float, float] | None:
    """The 95 % interval of an arm's mean over other seeds, and for time, energy and throughput over other jobs.

    `noise` is the noise table (`over_jobs`). Of a metric: on these test examples. None for fewer than
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


def failure_rate(failed: int, runs: int, level: float = 0.95) -> float:
    """The largest share of runs that may fail, by Clopper and Pearson's one-sided bound, where so many of them did."""
    return 1.0 if failed >= runs else float(stats.beta.ppf(level, failed + 1, runs - failed))


def low_seeds(arms: Mapping[str, Mapping[int, float]], margin: float) -> dict[str, int]:
    """The seed of an arm that is far worse than its other seeds, by arm; `arms` has the metric by seed.

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

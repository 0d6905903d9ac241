"""What a comparison claims of arms whose learning rates were tuned, in simulated sweeps: one trial per rate alone, the
allowance for the choice, and tied rates tried again with it.

A sweep is a baseline and four arms: two as good as it at their best rates, two worse by the margin. Five worlds with
curves of the metric over the rate have normal noise of known size; three have rows that are drawn one by one, so that
ties and their variance are estimated as tune.py and compare_arms.py do. `coverage`: how often the interval holds the
difference at the best rates that were tried; `some false claim`: sweeps in which an arm is called equivalent or worse
by more than the margin though it is worse by just that, or different though it is equal (Holm over the arms).
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import stats

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "workflow_scripts"))

from peft_tradeoffs.analysis.stats import (  # noqa: E402
    Estimate,
    holm,
    low_seeds,
    of_seeds,
    over_seeds_and_examples,
)
from peft_tradeoffs.runs.plan import NO_ALLOWANCE, Gap, allowance, gap  # noqa: E402

RATES, SEEDS, ARMS = 4, 5, 5
AS_GOOD = (1, 2)  # arms; 3 and 4 are worse by the margin
OF_ROW, OF_BOTH = 0.005, 0.016  # variances of right or wrong: an arm and rate's rows, and those of a seed of it
OF_SEED = 0.0003  # standard deviation of a run's accuracy by its seed


@dataclass(frozen=True)
class World:
    """What the arms are like, and how many rows there are."""

    name: str
    dev: int
    test: int
    left: float = 0.25  # accuracy lost per squared step below the optimum, in points
    right: float = 0.6  # above it
    margin: float = 0.01
    base: float = 0.0  # accuracy of the baseline where rows are drawn one by one
    second: bool = False  # whether the curve has another optimum


GAUSSIAN = [
    World("as SST-2, dev 5,384", 5384, 13468),
    World("as SST-2, dev 500", 500, 2000),
    World("narrow curves", 5384, 13468, left=0.6, right=2.0),
    World("wide curves", 5384, 13468, left=0.1, right=0.2),
    World("two optima", 5384, 13468, second=True),
]
BY_ROW = [
    World("47 / 122 rows, 97 %", 47, 122, margin=0.02, base=0.97),
    World("47 / 122 rows, 90 %", 47, 122, margin=0.05, base=0.90),
    World("83 / 320 rows, 72 %", 83, 320, left=1.5, right=3.0, margin=0.1, base=0.72),
]


def curves(random: np.random.Generator, world: World) -> np.ndarray:
    """Accuracy [arm, rate] less the best one's of the rates, a share; the optima lie between the grid's inner rates."""
    steps, found = np.arange(RATES), np.empty((ARMS, RATES))
    for arm in range(ARMS):
        factor, best = np.exp(random.normal(0, 0.5)), random.uniform(1, RATES - 2)

        def lost(at: float, factor: float = factor) -> np.ndarray:
            away = steps - at
            return factor * np.where(away < 0, world.left, world.right) * away**2

        curve = -lost(best)
        if world.second:
            curve = np.maximum(curve, -random.uniform(0, 0.2) - lost(best + random.choice([-2, 2])))
        found[arm] = (curve - curve.max()) / 100
    return found


class Normal:
    """A sweep whose trials and runs have normal noise of known size."""

    def __init__(self, random: np.random.Generator, world: World) -> None:
        self._random, self._world = random, world
        self.curves = curves(random, world)
        self._spread = (OF_ROW + OF_BOTH) / world.dev + OF_SEED**2
        self._trials: dict[tuple[int, int], list[float]] = {}
        for arm in range(ARMS):
            for rate in range(RATES):
                self.try_rate(arm, rate)

    def try_rate(self, arm: int, rate: int) -> None:
        value = self.curves[arm, rate] + self._random.normal(0, self._spread**0.5)
        self._trials.setdefault((arm, rate), []).append(value)

    def values(self, arm: int, rate: int) -> list[float]:
        return self._trials[arm, rate]

    def gap(self, arm: int, best: int, rate: int) -> Gap:
        pairs = list(zip(self.values(arm, best), self.values(arm, rate), strict=False))
        variance = 2 * (OF_ROW + OF_BOTH) / self._world.dev / len(pairs)
        return Gap(float(np.mean([one - other for one, other in pairs])), variance, len(pairs))

    def finals(self, chosen: list[int]) -> tuple[list[Estimate], float]:
        """The differences of the arms to the baseline, and the variance of seeds."""
        n = self._world.test
        of_seed, of_row = OF_BOTH / n + OF_SEED**2, OF_ROW / n
        made = [self.curves[arm, rate] for arm, rate in enumerate(chosen)]
        made = [value + self._random.normal(0, of_row**0.5) for value in made]
        runs = np.array(made)[:, None] + self._random.normal(0, of_seed**0.5, (ARMS, SEEDS))
        found = []
        for arm in range(1, ARMS):
            difference = runs[arm] - runs[0]
            a, extra = difference.var(ddof=1) / SEEDS, 2 * of_row
            df = (a + extra) ** 2 / (a**2 / (SEEDS - 1))
            found.append(Estimate(float(difference.mean()), (a + extra) ** 0.5, max(df, SEEDS - 1)))
        return found, max(float(runs.var(axis=1, ddof=1).mean()) - OF_BOTH / n, 0.0)


class ByRow:
    """A sweep whose rows are right or wrong: a probit of the row, of arm, rate and row, and of the seed's on top."""

    ROW, RATE, SEED = 1.0, 0.3, 0.45

    def __init__(self, random: np.random.Generator, world: World) -> None:
        self._random, self._world = random, world
        self.curves = curves(random, world)
        lost = np.where(np.isin(np.arange(ARMS), [0, *AS_GOOD]), 0.0, world.margin)
        total = (self.ROW**2 + self.RATE**2 + self.SEED**2) ** 0.5
        self._mean = stats.norm.ppf(np.clip(world.base + self.curves - lost[:, None], 0.01, 0.999)) * total
        self._trials: dict[tuple[int, int], list[np.ndarray]] = {}
        self._rows: list[tuple[np.ndarray, np.ndarray]] = []
        for arm in range(ARMS):
            for rate in range(RATES):
                self.try_rate(arm, rate)

    def _drawn(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        return self._random.normal(0, self.ROW, rows), self._random.normal(0, self.RATE, (ARMS, RATES, rows))

    def _right(self, arm: int, rate: int, rows: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        own = self._random.normal(0, self.SEED, len(rows[0]))
        return (self._mean[arm, rate] + rows[0] + rows[1][arm, rate] + own > 0).astype(float)

    def try_rate(self, arm: int, rate: int) -> None:
        made = self._trials.setdefault((arm, rate), [])
        while len(self._rows) <= len(made):
            self._rows.append(self._drawn(self._world.dev))
        made.append(self._right(arm, rate, self._rows[len(made)]))

    def values(self, arm: int, rate: int) -> list[float]:
        return [float(one.mean()) for one in self._trials[arm, rate]]

    def gap(self, arm: int, best: int, rate: int) -> Gap:
        parts = list(zip(self._trials[arm, best], self._trials[arm, rate], strict=False))
        return gap([(float(one.mean()), float(other.mean())) for one, other in parts], parts, share=True)

    def finals(self, chosen: list[int]) -> tuple[list[Estimate], float]:
        rows = self._drawn(self._world.test)
        runs = [np.stack([self._right(arm, rate, rows) for _ in range(SEEDS)]) for arm, rate in enumerate(chosen)]
        found = []
        for arm in range(1, ARMS):
            estimate = over_seeds_and_examples(runs[arm] - runs[0], 1.0)
            assert estimate is not None
            found.append(replace(estimate, share_of=self._world.test))
        return found, of_seeds(runs)


Sweep = Normal | ByRow


def choose(sweep: Sweep, arm: int, retry: int) -> tuple[int, list[Gap], int]:
    """The rate of an arm, its gaps to the others, and how many trials that took."""
    best = max(range(RATES), key=lambda rate: sweep.values(arm, rate)[0])
    others = [rate for rate in range(RATES) if rate != best]
    tied = [rate for rate in others if sweep.gap(arm, best, rate).tied]
    trials = RATES
    if retry and tied:
        for rate in [best, *tied]:
            for _ in range(retry):
                sweep.try_rate(arm, rate)
            trials += retry
        best = max([best, *tied], key=lambda rate: float(np.mean(sweep.values(arm, rate))))
    return best, [sweep.gap(arm, best, rate) for rate in range(RATES) if rate != best], trials


PROCEDURES = {"one trial per rate": (0, False), "with the allowance": (0, True), "ties retried, allowance": (2, True)}


def one(random: np.random.Generator, world: World, made: Callable[..., Sweep], retry: int, allow: bool) -> list[float]:
    """Of one sweep: coverage, some false claim, half width, trainings per arm."""
    sweep = made(random, world)
    choices = [choose(sweep, arm, retry) for arm in range(ARMS)]
    finals, of_seed = sweep.finals([rate for rate, _, _ in choices])
    missed = [allowance(gaps, of_seed) if allow else NO_ALLOWANCE for _, gaps, _ in choices]
    lost = np.where(np.isin(np.arange(ARMS), [0, *AS_GOOD]), 0.0, world.margin)
    covered, widths, p = [], [], {"different": [], "equivalent": [], "worse": []}
    for arm, final in enumerate(finals, 1):
        # Normal noise knows nothing of the margin: the arms' levels are put in here, those of rows in the draws.
        level = -lost[arm] if isinstance(sweep, Normal) else 0.0
        found = replace(final, value=final.value + level, below=missed[0], above=missed[arm])
        low, high = found.interval()
        covered.append(low <= -lost[arm] <= high)
        widths.append((high - low) / 2)
        p["different"].append(found.p_different())
        p["equivalent"].append(found.p_equivalent(world.margin))
        p["worse"].append(found.p_worse(world.margin))
    holms = {name: holm(np.array(values)) for name, values in p.items()}
    equal = np.isin(np.arange(1, ARMS), AS_GOOD)
    false = (holms["different"] < 0.05)[equal].any() or (holms["equivalent"] < 0.05)[~equal].any()
    false = false or bool((holms["worse"] < 0.025).any())
    trainings = float(np.mean([trials for _, _, trials in choices])) + SEEDS
    return [float(np.mean(covered)), float(false), float(np.mean(widths)), trainings]


def half_diverged(random: np.random.Generator, sweeps: int) -> tuple[float, float]:
    """Where one run in ten half-diverges: of the arms with such a run, the share of which nothing is claimed.

    And of the arms without one, the share that has a run which is taken for one.
    """
    silent = occurred = steady = alarms = 0
    n = 13468
    for _ in range(sweeps):
        failed = random.random((ARMS, SEEDS)) < 0.1
        lost = failed * random.uniform(0.05, 0.3, (ARMS, SEEDS))
        runs = 0.94 + random.normal(0, ((OF_ROW + OF_BOTH) / n + OF_SEED**2) ** 0.5, (ARMS, SEEDS)) - lost
        flagged = low_seeds({str(arm): dict(enumerate(runs[arm])) for arm in range(ARMS)}, 0.01)
        differences = runs[1:] - runs[0]
        a, extra = differences.var(axis=1, ddof=1) / SEEDS, 2 * OF_ROW / n
        df = np.maximum((a + extra) ** 2 / (a**2 / (SEEDS - 1)), SEEDS - 1)
        found = [
            Estimate(float(value), float(se), float(own))
            for value, se, own in zip(differences.mean(axis=1), (a + extra) ** 0.5, df, strict=True)
        ]
        tests = [lambda of: of.p_different(), lambda of: of.p_not_worse(0.01)]
        p = np.array([holm(np.array([test(of) for of in found])) for test in tests])
        for arm in range(1, ARMS):
            if not failed[arm].any():
                steady, alarms = steady + 1, alarms + (str(arm) in flagged)
            else:
                occurred += 1
                silent += str(arm) in flagged or "0" in flagged or bool((p[:, arm - 1] >= 0.05).all())
    return silent / occurred, alarms / steady


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", type=int, default=2000, help="of normal noise")
    parser.add_argument("--sweeps-by-row", type=int, default=600)
    arguments = parser.parse_args()
    print("| world | procedure | coverage, % | some false claim, % | half width, points | trainings per arm |")
    print("|---|---|--:|--:|--:|--:|")
    for world in (*GAUSSIAN, *BY_ROW):
        made, count = (ByRow, arguments.sweeps_by_row) if world.base else (Normal, arguments.sweeps)
        for name, (retry, allow) in PROCEDURES.items():
            random = np.random.default_rng(0)
            rows = np.array([one(random, world, made, retry, allow) for _ in range(count)])
            covered, false, half, trainings = rows.mean(axis=0)
            print(
                f"| {world.name} | {name} | {100 * covered:.1f} | {100 * false:.1f} | {100 * half:.2f} "
                f"| {trainings:.1f} |",
                flush=True,
            )
    share, alarms = half_diverged(np.random.default_rng(0), arguments.sweeps)
    print(
        f"\nOne run in ten half-diverged: nothing is claimed of {100 * share:.1f} % of the arms with such a run; "
        f"of the others {100 * alarms:.1f} % have a run that is taken for one."
    )


if __name__ == "__main__":
    main()

"""Do the intervals of a comparison cover what they should, and do its tests hold their level? By simulation.

Simulated benchmarks: two arms of correct answers over s seeds and n test texts, from a probit model with effects of the
seed, the text, the text in that arm, and chance. What is true is known exactly.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import norm

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow_scripts"))

from peft_tradeoffs.analysis.stats import holm, mcnemar, over_seeds, over_seeds_and_examples


@dataclass(frozen=True)
class World:
    """Standard deviations of the effects (chance has 1) and the arms' true accuracies."""

    name: str
    seed: float
    text: float
    text_in_arm: float
    accuracies: tuple[float, ...]

    def draw(self, random: np.random.Generator, seeds: int, texts: int) -> np.ndarray:
        """Correct answers [arms, seeds, texts]."""
        total = np.sqrt(1 + self.seed**2 + self.text**2 + self.text_in_arm**2)
        shared = random.normal(0, self.text, texts)
        arms = [
            norm.ppf(accuracy) * total
            + random.normal(0, self.seed, (seeds, 1))
            + random.normal(0, self.text_in_arm, texts)
            + random.normal(0, 1, (seeds, texts))
            for accuracy in self.accuracies
        ]
        return np.stack(arms) + shared > 0


WORLDS = [
    World("as SST-2", 0.05, 2.0, 0.7, (0.90, 0.90)),
    World("arms that err alike", 0.01, 3.0, 0.0, (0.90, 0.90)),
    World("arms that err on texts of their own", 0.02, 3.0, 2.0, (0.90, 0.91)),
    World("seeds that matter most", 0.30, 1.0, 0.3, (0.90, 0.89)),
    World("two points apart", 0.10, 2.0, 0.5, (0.90, 0.88)),
]


def bootstrap(values: np.ndarray, random: np.random.Generator, draws: int = 500) -> tuple[float, float]:
    """95 % percentile interval of the mean of [s, n], seeds and examples resampled (the pigeonhole bootstrap)."""
    seeds, examples = values.shape
    rows = random.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
    columns = random.multinomial(examples, np.full(examples, 1 / examples), draws) / examples
    low, high = np.quantile(((rows @ values) * columns).sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def coverage(world: World, random: np.random.Generator, repeats: int, seeds: int, texts: int) -> dict[str, float]:
    """Share of simulated benchmarks whose interval of the arms' difference holds the true one, by kind of interval."""
    truth = world.accuracies[0] - world.accuracies[1]
    covered = dict.fromkeys(("seeds and examples", "seeds alone", "bootstrap"), 0)
    every = max(1, repeats // 500)  # the bootstrap is slow
    tried = 0
    for repeat in range(repeats):
        correct = world.draw(random, seeds, texts)
        difference = correct[0].astype(float) - correct[1]
        intervals = {
            "seeds and examples": over_seeds_and_examples(difference).interval(),
            "seeds alone": over_seeds(difference.mean(axis=1)).interval(),
        }
        if repeat % every == 0:
            tried += 1
            intervals["bootstrap"] = bootstrap(difference, random)
        for name, (low, high) in intervals.items():
            covered[name] += low <= truth <= high
    return {name: count / (tried if name == "bootstrap" else repeats) for name, count in covered.items()}


def levels(random: np.random.Generator, repeats: int, seeds: int, texts: int, margin: float) -> dict[str, float]:
    """How often each test at 5 % finds what is not there."""
    equal = World("", 0.05, 2.0, 0.7, (0.9,) * 5)
    at_the_margin = World("", 0.05, 2.0, 0.7, (0.9, 0.9 - margin))
    names = ("McNemar", "t test", "Holm over four arms", "TOST at the margin", "non-inferiority at the margin")
    found = dict.fromkeys((*names, "a loss beyond the margin"), 0)
    for _ in range(repeats):
        correct = equal.draw(random, seeds, texts)
        found["McNemar"] += mcnemar(*_one_seed_each(random, texts)) < 0.05
        p = np.array([over_seeds_and_examples(correct[0].astype(float) - other).p_different() for other in correct[1:]])
        found["t test"] += p[0] < 0.05
        found["Holm over four arms"] += holm(p).min() < 0.05
        apart = at_the_margin.draw(random, seeds, texts)
        lost = over_seeds_and_examples(apart[1].astype(float) - apart[0])
        found["TOST at the margin"] += lost.p_equivalent(margin) < 0.05
        found["non-inferiority at the margin"] += lost.p_not_worse(margin) < 0.05
        found["a loss beyond the margin"] += lost.p_worse(margin) < 0.05
    return {name: count / repeats for name, count in found.items()}


def _one_seed_each(random: np.random.Generator, texts: int) -> np.ndarray:
    """Two classifiers of the same accuracy on `texts`, as McNemar's test takes them."""
    return World("", 0.0, 2.0, 0.0, (0.9, 0.9)).draw(random, 1, texts)[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2000, help="simulated benchmarks of each kind")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--texts", type=int, default=872)
    parser.add_argument("--margin", type=float, default=0.01)
    arguments = parser.parse_args()
    random, began = np.random.default_rng(0), time.perf_counter()
    print(f"coverage of 95 % intervals, %, {arguments.repeats} benchmarks of {arguments.texts} texts each\n")
    print("| world | seeds | seeds and examples | seeds alone | bootstrap |\n|---|---:|---:|---:|---:|")
    for seeds in arguments.seeds:
        for world in WORLDS:
            found = coverage(world, random, arguments.repeats, seeds, arguments.texts)
            print(f"| {world.name} | {seeds} | " + " | ".join(f"{100 * share:.1f}" for share in found.values()) + " |")
    print(f"\nfound what is not there, %, at 5 %, {arguments.seeds[-1]} seeds\n\n| test | % |\n|---|---:|")
    for name, share in levels(
        random, arguments.repeats, arguments.seeds[-1], arguments.texts, arguments.margin
    ).items():
        print(f"| {name} | {100 * share:.1f} |")
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()

"""Do intervals of BLEU cover what they should where sentences come in documents, and do tests hold their level?

Simulated comparisons of two arms over seeds: a sentence's n-grams are right with a probability that depends on its
document, on both in the arm, on the seed and on chance. What is true of all documents is known. The negative control
takes the sentences for independent, which must cover too little.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow_scripts"))

from peft_tradeoffs.analysis.comparison import Predicted, Runs, alone, contrast
from peft_tradeoffs.tasks.metrics import METRICS, Scored
from peft_tradeoffs.tasks.outputs import BLEU, STATISTICS, WORDS, bleu

METRIC = METRICS["bleu"]
COLUMNS = [STATISTICS.index(name) for name in BLEU]
EASE = np.array([0.9, -0.1, -0.75, -1.25])  # logit of a match of 1 to 4 words: BLEU near 40
LENGTHS, SHORTER = np.arange(8, 33), np.arange(-3, 3)  # of references, and what an output has more, in words
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(64)  # of a normal distribution


@dataclass(frozen=True)
class World:
    """Standard deviations, in logits, of what a sentence shares with others."""

    document: float = 0.7
    document_in_arm: float = 0.5
    document_in_run: float = 0.25  # a run is one seed of an arm
    sentence: float = 0.5
    sentence_in_run: float = 0.3
    seed: float = 0.04  # of a run, in all sentences

    def spread(self) -> float:
        """Of a run's sentences."""
        return float(
            np.linalg.norm(
                [self.document, self.document_in_arm, self.document_in_run, self.sentence, self.sentence_in_run]
            )
        )

    def true(self, better: float = 0.0) -> float:
        """BLEU of all documents, as a mean over all seeds, of an arm whose sentences are so many logits easier."""
        wanted, written = LENGTHS.mean(), LENGTHS.mean() + SHORTER.mean()
        total = [np.maximum(np.add.outer(LENGTHS, SHORTER) - n, 0).mean() for n in range(WORDS)]
        weights, found = WEIGHTS / WEIGHTS.sum(), 0.0
        for seed, weight in zip(NODES * self.seed, weights, strict=True):
            ease = better + seed + NODES[:, None] * self.spread() + EASE
            found += weight * bleu(np.array([written, wanted, *(total * (weights @ expit(ease))), *total]))
        return found

    def draw(
        self, random: np.random.Generator, seeds: int, documents: int, sentences: int, better: tuple[float, ...]
    ) -> list[list[np.ndarray]]:
        """By arm and seed the sums of each sentence [documents · sentences, 10], the columns BLEU."""
        shape = (documents, sentences)
        wanted = random.choice(LENGTHS, shape)
        shared = random.normal(0, self.document, (documents, 1)) + random.normal(0, self.sentence, shape)
        found = []
        for ease in better:
            of_arm = ease + shared + random.normal(0, self.document_in_arm, (documents, 1))
            found.append([self._run(random, of_arm, wanted) for _ in range(seeds)])
        return found

    def _run(self, random: np.random.Generator, of_arm: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        documents, _ = shape = of_arm.shape
        of_run = of_arm + random.normal(0, self.seed) + random.normal(0, self.document_in_run, (documents, 1))
        of_run = of_run + random.normal(0, self.sentence_in_run, shape)
        written = wanted + random.choice(SHORTER, shape)
        total = [np.maximum(written - n, 0) for n in range(WORDS)]
        correct = [random.binomial(one, expit(of_run + ease)) for one, ease in zip(total, EASE, strict=True)]
        return np.stack([written, wanted, *correct, *total], axis=-1).reshape(-1, len(BLEU)).astype(float)


def runs_of(arm: list[np.ndarray], documents: np.ndarray | None) -> Runs:
    """An arm's runs as the comparison takes them; `documents` [n] are its groups, None: sentences are counted."""
    found: Runs = {}
    for seed, sums in enumerate(arm):
        rows = np.arange(len(sums))
        written = np.full((len(sums), len(STATISTICS)), np.nan)
        written[:, COLUMNS] = sums
        scored = Scored(rows, rows, rows, np.zeros((len(sums), 3)), written)
        parts = METRIC.contributions(scored, documents)
        found[seed] = (METRIC.of(scored), Predicted(rows, rows, None, parts, len(parts), documents is not None))
    return found


@dataclass(frozen=True)
class Design:
    """How much is tried: documents, sentences of each, seeds."""

    documents: int
    sentences: int
    seeds: int


def coverage(
    world: World, design: Design, random: np.random.Generator, repeats: int, margin: float
) -> dict[str, float]:
    """Shares of simulated comparisons, and the mean half width of the arm's interval and of the difference's.

    By whether documents or sentences are counted: whose interval of the arm alone, and of the difference of equal arms,
    holds what is true. Of arms that are `margin` apart: found to lie within it, and not to be worse by it.
    """
    true = world.true()
    worse = brentq(lambda better: world.true(better) - (true - margin), -3, 0)
    documents = np.repeat(np.arange(design.documents), design.sentences)
    units = {"document": documents} | ({"sentence": None} if design.sentences > 1 else {})
    found: dict[str, float] = {}

    def count(what: str, share: float) -> None:
        found[what] = found.get(what, 0.0) + share / repeats

    for _ in range(repeats):
        arm, equal, apart = world.draw(
            random, design.seeds, design.documents, design.sentences, (0.0, 0.0, float(worse))
        )
        for unit, groups in units.items():
            runs, others = runs_of(arm, groups), runs_of(equal, groups)
            own = alone(runs, METRIC.name)
            count(f"{unit}, alone", own["low"] <= true <= own["high"])
            difference, _ = contrast([(1, runs), (-1, others)], METRIC.name)
            low, high = difference.interval()
            count(f"{unit}, difference", low <= 0 <= high)
            if unit == "document":
                count("half width, alone", (own["high"] - own["low"]) / 2)
                count("half width, difference", (high - low) / 2)
                lost, _ = contrast([(1, runs_of(apart, groups)), (-1, runs)], METRIC.name)
                count("within", lost.p_equivalent(margin) < 0.05)
                count("not worse", lost.p_not_worse(margin) < 0.05)
    return found


SHARES = ("document, alone", "document, difference", "within", "not worse", "sentence, alone", "sentence, difference")
WIDTHS = ("half width, alone", "half width, difference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=400, help="simulated comparisons of each kind")
    parser.add_argument("--documents", type=int, nargs="+", default=[40, 100, 200])
    parser.add_argument("--sentences", type=int, nargs="+", default=[1, 5, 10], help="of a document")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--margin", type=float, default=5.0, help="in BLEU, that arms are apart")
    arguments = parser.parse_args()
    random, began, world = np.random.default_rng(0), time.perf_counter(), World()
    print(
        f"BLEU {world.true():.1f}; %, {arguments.repeats} comparisons each; sentences counted: the negative control\n"
    )
    head = ["documents", "sentences each", "seeds", *SHARES, *WIDTHS]
    print("| " + " | ".join(head) + " |\n|" + "--:|" * len(head), flush=True)
    for sentences in arguments.sentences:
        for documents in arguments.documents:
            for seeds in arguments.seeds:
                found = coverage(
                    world, Design(documents, sentences, seeds), random, arguments.repeats, arguments.margin
                )
                cells = [f"{100 * found[name]:.1f}" if name in found else "–" for name in SHARES]
                cells += [f"{found[name]:.2f}" for name in WIDTHS]
                print("| " + " | ".join([str(documents), str(sentences), str(seeds), *cells]) + " |", flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()

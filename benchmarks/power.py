"""Is a comparison as sure as the rule of its power says? By simulation.

Simulated differences of right answers between an arm and its baseline, -1, 0 or 1 for each seed and row: they disagree
on a share of the rows, of which a part is of the row and repeats over the seeds. Each is analysed as a comparison
analyses its runs; what the rule says is found in 80 %.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow_scripts"))

from peft_tradeoffs.analysis import power
from peft_tradeoffs.analysis.power import ALPHA, Design
from peft_tradeoffs.analysis.stats import Estimate, over_seeds_and_examples

NAMES = ("the provable difference", "not worse, at its margin", "equivalent, at its margin")


def differences(design: Design, loss: float, random: np.random.Generator) -> np.ndarray:
    """Right answers of an arm that loses `loss` of them, less the baseline's [s, n]."""
    shape = design.seeds, design.rows
    of_row = design.disagree * design.repeats
    alike = random.random(design.rows) < of_row
    apart = random.random(shape) < (design.disagree - of_row) / (1 - of_row)
    lost = (1 + loss / design.disagree) / 2
    signs = [np.where(random.random(size) < lost, -1, 1) for size in (design.rows, shape)]
    return np.where(alike, signs[0], np.where(apart, signs[1], 0)).astype(float)


def estimate(design: Design, loss: float, random: np.random.Generator) -> Estimate:
    """What a comparison makes of such differences: the rows that it adds are in the variance alone."""
    values = differences(design, loss, random)
    signs = np.tile([1.0, -1.0], (design.seeds, design.added // 2))
    found = over_seeds_and_examples(np.hstack([values, signs]))
    return Estimate(float(values.mean()), found.se, found.df, share_of=design.rows)


def shares(design: Design, random: np.random.Generator, repeats: int) -> dict[str, float]:
    """How often each is found at Holm's strictest level; nothing where the rule says that it never is."""
    alpha, difference = ALPHA / design.arms, power.provable_difference(design)
    margins = power.margin_not_worse(design), power.margin_equivalent(design)
    found = dict.fromkeys(NAMES if difference else NAMES[1:], 0)
    for _ in range(repeats):
        if difference:
            found[NAMES[0]] += estimate(design, difference, random).p_different() < alpha
        equal = estimate(design, 0.0, random)
        found[NAMES[1]] += equal.p_not_worse(margins[0]) < alpha
        found[NAMES[2]] += equal.p_equivalent(margins[1]) < alpha
    return {name: count / repeats for name, count in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000, help="simulated comparisons of each kind")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--rows", type=int, nargs="+", default=[122, 320, 872, 2000, 5000, 13468])
    parser.add_argument("--arms", type=int, nargs="+", default=[2, 11], help="besides the baseline")
    parser.add_argument("--disagree", type=float, default=power.DISAGREE, help="share of rows on which runs disagree")
    parser.add_argument("--repeating", type=float, default=power.REPEATS, help="the part of it that repeats over seeds")
    arguments = parser.parse_args()
    random, began = np.random.default_rng(0), time.perf_counter()
    print(f"found, %, where the rule says 80, in {arguments.repeats} comparisons each\n")
    print(f"| rows | seeds | arms | {' | '.join(NAMES)} |\n|---:|---:|---:|---:|---:|---:|")
    for rows in arguments.rows:
        for seeds in arguments.seeds:
            for arms in arguments.arms:
                rate = {"disagree": arguments.disagree, "repeats": arguments.repeating}
                design = Design(rows=rows, seeds=seeds, arms=arms, **rate)
                found = shares(design, random, arguments.repeats)
                cells = (f"{100 * found[name]:.1f}" if name in found else "none" for name in NAMES)
                print(f"| {rows:,} | {seeds} | {arms} | {' | '.join(cells)} |", flush=True)
    print(f"\n{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()

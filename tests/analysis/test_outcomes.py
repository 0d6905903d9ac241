"""Every outcome of the recommendation, word for word, as golden/outcomes/ has it: read them aloud after a change.

After a change that is meant, UPDATE_GOLDEN=1 writes them anew.
"""

import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic
from peft_tradeoffs.analysis import tables
from peft_tradeoffs.analysis.comparison import COLUMNS
from peft_tradeoffs.analysis.recommendation import recommendation_frame
from peft_tradeoffs.analysis.recommendation_text import recommendation_markdown
from synthetic_comparison import BAD, GOOD, NO_LIMITS, OPEN, compared, one_job, pair, runs

GOLDEN = Path(__file__).parent / "golden/outcomes"
PAIR, THREE = ["full", "lora-r8"], ["full", "lora-r4", "lora-r8"]
FAIR = (-0.004, 0.0035, 0.02)  # proven to lose less than the margin, at worst 0.75 points
Outcome = tuple[list[dict[str, Any]], pd.DataFrame, dict[str, Any]]  # runs, comparison, limits


def of(comparison: pd.DataFrame, arm: str, **changes: Any) -> pd.DataFrame:
    """The comparison with changes of one arm's row."""
    rows = comparison.astype(object)
    rows.loc[rows["arm"] == arm, list(changes)] = list(changes.values())
    return rows


def alone() -> Outcome:
    return runs(["full", "lora-r8", "qlora-r8"]), compared({"lora-r8": GOOD, "qlora-r8": GOOD}), {}


def told_by_bound() -> Outcome:
    return runs(THREE), compared({"lora-r4": FAIR, "lora-r8": GOOD}), {}


def equally_good() -> Outcome:
    return runs(THREE), compared({"lora-r4": GOOD, "lora-r8": GOOD}), {}


def keep_the_baseline() -> Outcome:
    return runs(PAIR), compared({"lora-r8": BAD}), {}


def baseline_costs_the_same() -> Outcome:
    same = [run | {"probe_peak_allocated_MiB": 520.0} if run["arm"] == "full" else run for run in runs(PAIR)]
    return same, compared({"lora-r8": GOOD}), {}


def nothing_qualifies() -> Outcome:
    return runs(PAIR), compared({"lora-r8": BAD}), {"memory_GiB": 0.6}


def limits_exceeded() -> Outcome:
    return runs(THREE), compared({"lora-r4": GOOD, "lora-r8": GOOD}), {"memory_GiB": 0.4, "train_s": 70}


def baseline_failed() -> Outcome:
    failed = [synthetic.oom("full", None, seed, device="cuda") for seed in range(5)]
    quality = compared({"lora-r8": "no seed of which both this arm and the baseline have a metric"})
    return failed + runs(["lora-r8"]), of(quality, "full", mean=None, reason="none of its runs has a metric"), {}


def baseline_constant() -> Outcome:
    always = [run | {"constant_prediction": True} if run["arm"] == "full" else run for run in runs(PAIR)]
    return always, compared({"lora-r8": GOOD}), {}


def tied_rate() -> Outcome:
    quality = compared({"lora-r4": GOOD, "lora-r8": GOOD})
    tuned = quality.assign(rate="tuned", missed=0.001, missed_sd=0.001)
    return runs(THREE), of(tuned, "lora-r4", rates_as_good="0.0003; 0.001"), {}


def edge() -> Outcome:
    quality = compared({"lora-r4": GOOD, "lora-r8": GOOD})
    tuned = quality.assign(rate="tuned", missed=0.001, missed_sd=0.001)
    return runs(THREE), of(tuned, "lora-r4", edge="lowest"), {}


def rate_in_the_way() -> Outcome:
    quality = compared({"lora-r8": OPEN}).assign(rate="tuned", missed=0.006, missed_sd=0.003)
    return runs(PAIR), of(quality, "lora-r8", seeds_needed=None, examples_needed=None), {}


def unstable_seed() -> Outcome:
    quality = of(compared({"lora-r8": GOOD}), "lora-r8", unstable="seed 2: 0.5082 where the others have 0.9754")
    return runs(PAIR), quality, {}


def unstable_baseline() -> Outcome:
    quality = of(compared({"lora-r8": GOOD}), "full", unstable="seed 2: 0.5082 where the others have 0.9754")
    return runs(PAIR), quality, {}


def failing_now_and_then() -> Outcome:
    ran = runs(PAIR)
    return [*ran[:-1], synthetic.diverged("lora", 8, 4, device="cuda")], compared({"lora-r8": GOOD}), {}


def clustered() -> Outcome:
    quality = compared({"lora-r8": OPEN}).assign(test_groups=120)
    return runs(PAIR), of(quality, "lora-r8", seeds_needed=None, examples_needed=405), {}


def too_few_rows() -> Outcome:
    quality = of(compared({"lora-r8": OPEN}), "lora-r8", seeds_needed=None, examples_needed=1265)
    return runs(PAIR), quality.assign(test_rows=122), {}


def seeds_or_rows() -> Outcome:
    return runs(PAIR), of(compared({"lora-r8": OPEN}), "lora-r8", seeds_needed=9, examples_needed=1265), {}


def loses_more_as_it_stands() -> Outcome:
    return runs(PAIR), compared({"lora-r8": (-0.012, 0.005, 0.9)}), {}


def limit_open() -> Outcome:
    quality = compared({"lora-r4": GOOD, "lora-r8": GOOD})
    return runs(THREE), quality, {"train_s": 61.2, "cheapest": "time"}


def all_fail() -> Outcome:
    ran = [synthetic.diverged("lora", 8, seed, device="cuda") for seed in range(5)]
    ran += [synthetic.oom("lora", 16, seed, device="cuda") for seed in range(5)]
    none = "none of its runs has a metric"
    return runs(["full"]) + ran, compared({"lora-r8": none, "lora-r16": none}), {"memory_GiB": 0.6}


def out_of_reach() -> Outcome:
    quality = compared({"lora-r8": OPEN}).assign(test_groups=359)
    return runs(PAIR), of(quality, "lora-r8", seeds_needed=None, examples_needed=53_705), {}


def too_few_seeds() -> Outcome:
    return runs(PAIR, 2), compared({"lora-r8": "2 seeds, where 3 or more are needed"}), {}


def neither_helps() -> Outcome:
    quality = of(compared({"lora-r8": OPEN}), "lora-r8", seeds_needed=None, examples_needed=None)
    return runs(PAIR), quality, {}


def undecided_may_cost_less() -> Outcome:
    arms = ["full", "lora-r8", "qlora-r8"]
    return runs(arms), compared({"lora-r8": OPEN, "qlora-r8": GOOD}), {}


def noise_of_cost() -> Outcome:
    return runs(THREE), compared({"lora-r4": GOOD, "lora-r8": FAIR}), {"cheapest": "time"}


def jobs_shared() -> Outcome:
    return one_job(runs(THREE)), compared({"lora-r4": GOOD, "lora-r8": FAIR}), {"cheapest": "time"}


def random_weights() -> Outcome:
    ran = [
        synthetic.randomly(*pair(arm), seed, device="cuda", probe_peak_allocated_MiB=memory)
        for arm, memory in {"full": 900.0, "lora-r4": 500.0, "lora-r8": 512.0}.items()
        for seed in range(3)
    ]
    return ran, pd.DataFrame(columns=list(COLUMNS)), {"memory_GiB": 0.6}


def costs_incomparable() -> Outcome:
    ran = runs(PAIR)
    for run in ran:
        run["device_name"] = "NVIDIA A100-SXM4-80GB" if run["method"] == "lora" else run["device_name"]
    return ran, compared({"lora-r8": GOOD}), {"cheapest": "time"}


def other_split_disagrees() -> Outcome:
    heldout = compared({"lora-r8": (-0.011, 0.003, 0.9)}, split="heldout", test_rows=6737, verdict="worse")
    return runs(PAIR), pd.concat([compared({"lora-r8": GOOD}), heldout]), {}


def other_metric() -> Outcome:
    quality = compared({"lora-r4": FAIR, "lora-r8": GOOD}, metric="pearson")
    return runs(THREE, task="regression", metric="pearson"), quality, {}


OUTCOMES = (
    *(alone, told_by_bound, equally_good, keep_the_baseline, baseline_costs_the_same, nothing_qualifies),
    *(limits_exceeded, baseline_failed, baseline_constant, tied_rate, edge, rate_in_the_way, unstable_seed),
    *(unstable_baseline, failing_now_and_then, clustered, too_few_rows, out_of_reach, too_few_seeds),
    *(neither_helps, seeds_or_rows, loses_more_as_it_stands, limit_open, all_fail),
    *(undecided_may_cost_less, noise_of_cost, jobs_shared, random_weights, costs_incomparable),
    *(other_split_disagrees, other_metric),
)


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: outcome.__name__)
def test_every_outcome_is_said_as_it_was(outcome):
    ran, comparison, limits = outcome()
    chosen = NO_LIMITS | limits
    frame = recommendation_frame(tables.runs_frame(ran), comparison, chosen)
    text = recommendation_markdown(frame, chosen)
    assert frame["cheapest"].eq(True).sum() <= 1
    path = GOLDEN / f"{outcome.__name__}.md"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.md")), ids=lambda path: path.stem)
def test_the_answer_is_one_sentence_of_few_numbers(path):
    text = path.read_text(encoding="utf-8")
    said, *_ = re.findall(r"\*\*(.*)\*\*", text)  # of the warnings below it one is bold too
    assert said.count(". ") == 0 and said.endswith(".")
    assert len(re.findall(r"\d[\d,.]*", re.sub(r"\br\d+", "", said))) <= 4
    assert {path.stem for path in GOLDEN.glob("*.md")} == {outcome.__name__ for outcome in OUTCOMES}


def test_an_arm_that_gains_is_not_said_to_lose():
    """Its difference and the worse end of its interval stand there, whichever way they point."""
    quality = compared({"lora-r4": (0.006, 0.024, 0.01), "lora-r8": GOOD})
    frame = recommendation_frame(tables.runs_frame(runs(THREE)), quality, NO_LIMITS)
    text = recommendation_markdown(frame, NO_LIMITS)
    assert "LoRA r8 -0.1 points, at worst -0.3; LoRA r4 +0.6 points, at worst -1.8." in text
    assert "may lose" not in text.split("\n|")[0]

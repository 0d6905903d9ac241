"""Seeds that are far worse than the others, and what is left of a failure rate by runs that went well."""

import numpy as np
import pytest
from peft_tradeoffs.analysis.stats import failure_rate, low_seeds


@pytest.mark.parametrize(
    ("failed", "runs", "rate"), [(0, 5, 0.451), (0, 3, 0.632), (1, 5, 0.657), (5, 5, 1.0), (0, 100, 0.0295)]
)
def test_the_failure_rate_that_runs_leave_possible(failed, runs, rate):
    assert failure_rate(failed, runs) == pytest.approx(rate, abs=1e-3)


def by_seed(values):
    return dict(enumerate(values))


def test_a_half_diverged_seed_is_found_and_named():
    random = np.random.default_rng(0)
    arms = {f"arm{i}": by_seed(0.9 + random.normal(0, 0.003, 5)) for i in range(5)}
    assert low_seeds(arms, 0.01) == {}
    arms["arm2"][3] -= 0.06
    assert low_seeds(arms, 0.01) == {"arm2": 3}
    arms["arm4"][0] -= 0.06
    assert low_seeds(arms, 0.01) == {"arm2": 3, "arm4": 0}
    assert low_seeds(arms, 0.2) == {}  # what the margin allows is no failure
    assert low_seeds({"two": {0: 0.9, 1: 0.1}}, 0.01) == {}


def test_an_arm_whose_seeds_vary_is_no_failure():
    """Its lowest seed is far below in the spread of the others, not in its own."""
    arms = {"steady": by_seed([0.9, 0.901, 0.902, 0.9]), "varies": by_seed([0.5, 0.6, 0.45, 0.55])}
    assert low_seeds(arms, 0.01) == {}


@pytest.mark.parametrize("seeds", [3, 5])
def test_false_alarms_are_rare_and_failures_are_found(seeds):
    random = np.random.default_rng(1)
    alarms = found = 0
    for _ in range(300):
        arms = {i: by_seed(random.normal(0.9, 0.003, seeds)) for i in range(5)}
        alarms += len(low_seeds(arms, 0.002))
        arms[0][1] -= 0.08
        found += 0 in low_seeds(arms, 0.002)
    assert alarms <= 0.02 * 300 * 5
    assert found >= (0.8 if seeds == 3 else 0.95) * 300

"""Ties of learning rates by paired dev predictions, and the allowance for what their choice may have missed."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from peft_tradeoffs.runs.plan import (
    NO_ALLOWANCE,
    UNKNOWN_ALLOWANCE,
    Allowance,
    Gap,
    allowance,
    as_gaps,
    gap,
    gap_columns,
    trial_folder,
    trial_name,
)
from scipy import stats


def shares(*right):
    return [np.array(one, dtype=float) for one in right]


def test_a_gap_is_of_the_rows_on_which_two_trials_differ():
    """By hand: of 8 rows two are gained and one is lost; a row of +1 and one of -1 are added."""
    best, other = shares([1, 1, 1, 1, 1, 0, 0, 1], [1, 1, 0, 0, 1, 1, 0, 1])
    found = gap([(best.mean(), other.mean())], [(best, other)], share=True)
    assert found.mean == pytest.approx(1 / 8)
    assert found.variance == pytest.approx((5 / 10 - (1 / 10) ** 2) / 10)
    assert found.tied and found.trials == 1


def test_equal_predictions_are_a_tie_and_no_certainty():
    right = shares(np.ones(47))[0]
    found = gap([(1.0, 1.0)], [(right, right)], share=True)
    assert (found.mean, found.variance) == (0.0, pytest.approx(2 / 49**2))
    assert found.tied


def test_a_rate_that_is_clearly_lower_is_no_tie():
    random = np.random.default_rng(0)
    best, other = ((random.random(2000) < share).astype(float) for share in (0.9, 0.8))
    assert not gap([(best.mean(), other.mean())], [(best, other)], share=True).tied


def test_more_trials_make_a_gap_surer():
    random = np.random.default_rng(1)
    trials = [tuple((random.random(500) < 0.9).astype(float) for _ in range(2)) for _ in range(3)]
    values = [(one.mean(), other.mean()) for one, other in trials]
    single = [gap(values[i : i + 1], trials[i : i + 1], share=True) for i in range(3)]
    found = gap(values, trials, share=True)
    assert found.mean == pytest.approx(np.mean([one.mean for one in single]))
    assert found.variance == pytest.approx(sum(one.variance for one in single) / 9)
    assert found.trials == 3


def test_of_another_metric_what_one_row_can_change_is_added():
    parts = np.array([0.5, 1.5, 3.0, -1.0]), np.array([0.5, 1.5, 3.0, -1.0])
    found = gap([(1.0, 1.0)], [parts], share=False)
    assert found.variance == pytest.approx(2 * 2.0**2 / 6 / 6)
    assert gap([(1.0, 1.0)], [(np.array([1.0, np.nan]), np.ones(2))], share=False).variance == math.inf


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 4e-4), (0.01, 4e-4), (0.03, 1e-4)])
def test_the_allowance_of_two_rates_is_that_of_a_normal_difference(mean, variance):
    s = math.sqrt(variance)
    expected = s * stats.norm.pdf(mean / s) - mean * stats.norm.sf(mean / s)
    found = allowance([Gap(mean, variance, 1)], 0.0)
    assert found.mean == pytest.approx(expected, abs=0.04 * s)
    square = (
        variance * stats.norm.sf(mean / s) + mean**2 * stats.norm.sf(mean / s) - mean * s * stats.norm.pdf(mean / s)
    )
    assert found.variance == pytest.approx(square - expected**2, abs=0.05 * variance)


def test_the_allowance_grows_with_rates_and_seeds_and_is_none_of_one_rate():
    one, far = Gap(0.002, 1e-4, 1), Gap(0.2, 1e-4, 1)
    assert allowance([], 1e-4) == NO_ALLOWANCE
    assert allowance([far], 0.0).mean == pytest.approx(0.0, abs=1e-12)
    few, more = allowance([one], 0.0), allowance([one] * 3, 0.0)
    assert 0 < few.mean < more.mean
    assert allowance([one], 1e-4).mean > few.mean
    assert allowance([one], 0.0) == few  # the same draws
    assert allowance([one, Gap(0.0, math.inf, 1)], 0.0) == Allowance(math.inf, math.inf)


def test_trials_on_the_same_rows_do_not_count_these_twice():
    """Two trials that differ on the same 20 of 400 rows are as sure of these as one."""
    chosen, other = np.ones(400), np.r_[np.zeros(20), np.ones(380)]
    one = gap([(1.0, 0.95)], [(chosen, other)], True)
    same = gap([(1.0, 0.95)] * 2, [(chosen, other)] * 2, True, same_rows=True)
    apart = gap([(1.0, 0.95)] * 2, [(chosen, other)] * 2, True)
    assert same.mean == apart.mean == one.mean and same.trials == 2
    assert same.variance == pytest.approx(one.variance)
    assert apart.variance == pytest.approx(one.variance / 2)


def test_what_no_trial_can_tell_is_written_and_read_as_such():
    """Pseudo-values without an end, of a metric that one dev row decides."""
    found = gap([(0.5, 0.4)], [(np.array([np.nan, 1.0]), np.array([0.0, 1.0]))], False)
    written = json.loads(json.dumps(gap_columns(1e-3, found), allow_nan=False))
    assert written == {"learning_rate": 1e-3, "mean": pytest.approx(0.1), "variance": None, "trials": 1}
    assert as_gaps([written]) == [found] and found.tied
    assert allowance([found], 0.0) == UNKNOWN_ALLOWANCE and not UNKNOWN_ALLOWANCE.known and NO_ALLOWANCE.known


def test_a_trial_is_named_by_its_rate():
    trials = Path("results/tune/trials/reviews/tiny/full")
    assert trial_name(trial_folder(trials, 3e-4)) == "trial of learning rate 0.0003"
    assert trial_name(trial_folder(trials, 2e-5, retry=1)) == "trial 2 of learning rate 2e-05"
    assert trial_name(Path("results/runs/reviews/tiny/full/seed0")) == ""

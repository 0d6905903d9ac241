"""Statistics against values worked out by hand and other implementations; test_benchmarks.py has a simulation."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from peft_tradeoffs.analysis.stats import Estimate, holm, mcnemar, over_seeds, over_seeds_and_examples, seeds_to_decide
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.tasks.metrics import METRICS, Answers
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired


def test_an_interval_over_seeds_by_hand():
    # mean 0.9, sd 0.01, t(0.975, 4) = 2.776: 0.9 ± 2.776 · 0.01 / √5
    values = 0.9 + np.array([-1, -1, 0, 1, 1]) * 0.01
    low, high = over_seeds(values).interval()
    assert (low, high) == pytest.approx((0.9 - 0.0124166, 0.9 + 0.0124166), abs=1e-6)
    expected = scipy.stats.t.interval(0.95, 4, values.mean(), scipy.stats.sem(values))
    assert (low, high) == pytest.approx(expected)


def test_too_few_seeds_have_no_interval():
    assert over_seeds(np.array([0.9])) is None
    assert over_seeds_and_examples(np.eye(2, 10)) is None
    assert over_seeds_and_examples(np.eye(3, 1)) is None
    assert over_seeds_and_examples(np.array([[0.0, np.nan]] * 3)) is None


def test_the_crossed_variance_by_hand():
    """Means of rows 1, 3, 5 and of columns 1, 3, 5; no interaction: a = 4/3, b = 4/3, i = 0."""
    values = np.array([[-1.0, 1.0, 3.0], [1.0, 3.0, 5.0], [3.0, 5.0, 7.0]])
    found = over_seeds_and_examples(values)
    assert found.value == 3
    assert found.se**2 == pytest.approx(4 / 3 + 4 / 3)
    assert found.df == pytest.approx((8 / 3) ** 2 / (2 * (4 / 3) ** 2 / 2))


def test_seeds_that_agree_on_every_example_leave_the_examples_error_alone():
    correct = np.tile((np.arange(872) % 10 > 0).astype(float), (5, 1))
    found = over_seeds_and_examples(correct)
    assert found.se == pytest.approx(np.std(correct[0], ddof=1) / math.sqrt(872))


def test_examples_that_differ_by_nothing_but_the_seed_leave_the_seeds_error_alone():
    values = np.repeat(np.array([[0.1], [0.2], [0.4]]), 50, axis=1)
    found, seeds = over_seeds_and_examples(values), over_seeds(values[:, 0])
    assert (found.se, found.df) == pytest.approx((seeds.se, seeds.df))


def test_what_floats_round_is_no_spread():
    one = np.array([0.1, 0.2, 0.3, 0.7, 1e-3, 0.9, 1 / 3, 5.0])
    values = np.stack([one, one[::-1], np.roll(one, 3)]) - np.stack([np.roll(one, 2), one, one[::-1]])
    assert len(set(values.mean(axis=1))) > 1  # each is 0 but for rounding
    assert over_seeds_and_examples(values).se == 0


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.5])
def test_equivalence_is_statsmodels_tost(margin):
    random = np.random.default_rng(0)
    one, other = random.normal(0.9, 0.01, (2, 6))
    expected = ttost_paired(one, other, -margin, margin)[0]
    assert over_seeds(one - other).p_equivalent(margin) == pytest.approx(expected)


def test_a_difference_is_tested_as_scipy_does():
    random = np.random.default_rng(1)
    one, other = random.normal(0.9, 0.01, (2, 6))
    assert over_seeds(one - other).p_different() == pytest.approx(scipy.stats.ttest_rel(one, other).pvalue)


def test_no_spread_at_all_is_certain():
    same = over_seeds(np.zeros(5))
    assert (same.p_different(), same.p_equivalent(0.01)) == (1.0, 0.0)
    apart = over_seeds(np.full(5, 0.02))
    assert (apart.p_different(), apart.p_equivalent(0.01)) == (0.0, 1.0)


@pytest.mark.parametrize("examples", [20, 872])
def test_a_share_that_no_example_shows_is_bounded_as_clopper_and_pearson_do(examples):
    none = Estimate(0.0, 0.0, 4, share_of=examples)
    assert none.interval()[1] == pytest.approx(scipy.stats.binomtest(0, examples).proportion_ci().high)
    # 1 % of all differ, and none of these: that is how likely
    assert none.p_equivalent(0.01) == pytest.approx(scipy.stats.binom.pmf(0, examples, 0.01))
    edge = none.interval(0.9)[1]
    assert none.p_equivalent(1.01 * edge) < 0.05 < none.p_equivalent(0.99 * edge)
    assert none.p_different() == 1.0 and math.isnan(none.smallest_difference())
    assert (none.p_equivalent(0.0), none.p_equivalent(2.0)) == (1.0, 0.0)
    # Where examples do differ, the t distribution decides.
    assert Estimate(0.0, 0.2, 4, share_of=examples).interval() == Estimate(0.0, 0.2, 4).interval()


def test_the_test_of_a_difference_and_its_interval_agree():
    """Ten of 100 examples, each gained by one seed alone: seeds and examples show no spread, and ten say little."""
    values = np.zeros((5, 100))
    values[np.arange(10) % 5, np.arange(10)] = 1.0
    found = over_seeds_and_examples(values)
    assert found.se < 0.001 and found.p_different() < 1e-6
    share = replace(found, share_of=100)
    assert share.interval()[0] < 0 < share.interval()[1]
    assert share.p_different() == pytest.approx(2 * 0.98**100)
    edge = replace(share, value=share.half_width(), se=1e-4)
    assert edge.p_different() == pytest.approx(0.05)
    assert edge.smallest_difference() == pytest.approx(share.half_width(), rel=0.01)


def test_equivalence_is_the_ninety_percent_interval_within_the_margin():
    found = Estimate(0.004, 0.002, 30)
    edge = max(map(abs, found.interval(0.9)))
    assert found.p_equivalent(edge) == pytest.approx(0.05)
    assert found.p_equivalent(1.01 * edge) < 0.05 < found.p_equivalent(0.99 * edge)


def test_not_worse_is_a_one_sided_t_test_against_the_margin():
    random = np.random.default_rng(5)
    differences = random.normal(-0.002, 0.004, 6)
    found = over_seeds(differences)
    expected = scipy.stats.ttest_1samp(differences, -0.01, alternative="greater").pvalue
    assert found.p_not_worse(0.01) == pytest.approx(expected)
    assert Estimate(0.05, 0.002, 30).p_not_worse(0.01) < 0.001 < 0.05 < Estimate(0.05, 0.002, 30).p_equivalent(0.01)
    assert (Estimate(-0.01, 0.0, 4).p_not_worse(0.01), Estimate(0.0, 0.0, 4).p_not_worse(0.01)) == (1.0, 0.0)


def test_the_seeds_and_examples_that_are_needed_have_the_power_they_promise():
    random = np.random.default_rng(6)
    values = random.normal(0, 0.02, (4, 1)) + random.normal(0, 0.2, 500) + random.normal(0, 0.1, (4, 500))
    found = over_seeds_and_examples(values)
    assert found.of_seed == pytest.approx(values.mean(axis=1).var(ddof=1) - found.of_both / 500)
    seeds, examples = found.needed(0.03, 0.05)

    def power(seeds, examples):
        both = found.of_both / (seeds * examples)
        se = np.sqrt(found.of_seed / seeds + found.of_example / examples + both)
        return scipy.stats.norm.sf(scipy.stats.t.isf(0.05, 200) - 0.03 / se)

    assert power(4, 500) < power(seeds - 2, 500) < 0.8 < power(seeds + 2, 500)
    assert examples is None  # what four seeds add does not go away with more examples
    assert found.needed(0.0, 0.05) == (None, None)
    flat = over_seeds_and_examples(random.normal(0, 0.2, 500) + random.normal(0, 0.1, (4, 500)))
    seeds, examples = flat.needed(0.012, 0.05)
    assert seeds is None and 500 < examples < 5000
    apart = over_seeds_and_examples(random.normal(0, 0.1, 500) + random.normal(0, 0.4, (4, 500)))
    examples = apart.needed(0.02, 0.05)[1]
    se = np.sqrt(apart.of_seed / 4 + (apart.of_example + apart.of_both / 4) / examples)
    least, most = (law.isf(0.05) + law.ppf(0.8) for law in (scipy.stats.norm, scipy.stats.t(3)))
    assert least < 0.02 / se < most


@pytest.mark.parametrize(("alpha", "needed"), [(0.05, 299), (0.05 / 2, 368), (0.05 / 8, 505)])
def test_no_number_of_seeds_shows_what_too_few_examples_cannot(alpha, needed):
    """Of 100 examples none differs; .99^n must fall below alpha."""
    alike = replace(over_seeds_and_examples(np.zeros((3, 100))), share_of=100)
    assert alike.needed(0.01, alpha) == (None, needed)
    assert (
        replace(alike, share_of=needed).p_not_worse(0.01)
        < alpha
        < replace(alike, share_of=needed - 1).p_not_worse(0.01)
    )
    # A few examples that differ at random: more seeds bring the t test below alpha, and not the bound of 100 examples.
    random = np.random.default_rng(0)
    noisy = over_seeds_and_examples((random.random((3, 100)) < 0.02) * 1.0 - (random.random((3, 100)) < 0.02))
    seeds, examples = noisy.needed(0.03, alpha)
    assert seeds is not None
    assert replace(noisy, share_of=100).needed(0.03, alpha)[0] is None
    assert replace(noisy, share_of=100).needed(0.03, alpha)[1] >= examples


def test_the_seeds_that_put_an_interval_on_one_side():
    values = np.array([9.0, 10.0, 11.0])  # mean 10, sd 1: t(n - 1) / sqrt(n) < 0.9 from n = 8 on
    assert seeds_to_decide(values, 10.9) == 8 == seeds_to_decide(values, 9.1)
    assert seeds_to_decide(values, 10.0) is None


def test_the_smallest_difference_has_the_power_it_promises():
    null = Estimate(0.0, 0.004, 20)
    effect = null.smallest_difference(power=0.8)
    draws = scipy.stats.nct(20, effect / null.se)  # the t statistic under that difference
    critical = scipy.stats.t.ppf(0.975, 20)
    assert draws.sf(critical) == pytest.approx(0.8, abs=0.01)


def test_mcnemar_is_statsmodels():
    random = np.random.default_rng(2)
    one, other = random.random((2, 200)) < 0.8
    table = [[(one & other).sum(), (one & ~other).sum()], [(~one & other).sum(), (~one & ~other).sum()]]
    assert mcnemar(one, other) == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue)
    # 8 against 2 of 10 discordant: 2 · (1 + 10 + 45) / 1024
    one = np.repeat([True, False, True], [8, 2, 90])
    other = np.repeat([False, True, True], [8, 2, 90])
    assert mcnemar(one, other) == pytest.approx(112 / 1024)
    assert mcnemar(one, one) == 1.0


def test_holm_is_statsmodels():
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.9])
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm(p) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.9])


@pytest.mark.parametrize("metric", ["accuracy", "f1", "mcc"])
@pytest.mark.parametrize("classes", [2, 4])
def test_pseudo_values_are_those_of_leaving_each_out(metric, classes):
    random = np.random.default_rng(3)
    labels = random.integers(0, classes, 60)
    predicted = np.where(random.random(60) < 0.7, labels, random.integers(0, classes, 60))

    def value(keep):
        logits = np.eye(classes)[predicted[keep]]
        return metrics.evaluate(logits, labels[keep], "classification")[metric]

    everything = np.arange(60)
    expected = [60 * value(everything) - 59 * value(np.delete(everything, i)) for i in everything]
    found = METRICS[metric].contributions(Answers(labels, predicted, classes))
    assert found == pytest.approx(np.array(expected))


def test_pseudo_values_of_a_correlation():
    random = np.random.default_rng(4)
    x = random.normal(size=50)
    y = x + random.normal(size=50)
    r = scipy.stats.pearsonr(x, y).statistic
    left = np.array([scipy.stats.pearsonr(np.delete(x, i), np.delete(y, i)).statistic for i in range(50)])
    assert METRICS["pearson"].contributions(Answers(x, y, 1)) == pytest.approx(50 * r - 49 * left)


@pytest.mark.parametrize("digits", [6, 1, 0])
def test_pseudo_values_of_a_rank_correlation_rank_the_others_anew(digits, monkeypatch):
    """With ties or without, and where they are computed in several parts."""
    monkeypatch.setattr(metrics, "AT_ONCE", 7 * 50)
    random = np.random.default_rng(5)
    x = random.normal(size=50).round(digits)
    y = (x + random.normal(size=50)).round(digits)
    rho = scipy.stats.spearmanr(x, y).statistic
    left = np.array([scipy.stats.spearmanr(np.delete(x, i), np.delete(y, i)).statistic for i in range(50)])
    assert METRICS["spearman"].contributions(Answers(x, y, 1)) == pytest.approx(50 * rho - 49 * left)


@pytest.mark.parametrize(("rows", "points"), [(122, 5), (320, 2), (872, 1), (5384, 1)])
def test_losses_in_one_direction_alone_are_rarely_taken_for_none(rows, points):
    """Exactly: an arm errs where the baseline does and in k rows more, k binomial with the margin as its mean share."""
    margin = points / 100
    few, many = (int(scipy.stats.binom.ppf(q, rows, margin)) for q in (1e-6, 1 - 1e-6))
    false = {0.0: 0.0, 1.0: 0.0}
    for k in range(few, many + 1):
        lost = np.zeros((3, rows))
        lost[:, :k] = -1.0
        for step in false:
            found = replace(over_seeds_and_examples(lost, step), share_of=rows)
            false[step] += scipy.stats.binom.pmf(k, rows, margin) * (found.p_not_worse(margin) < 0.05)
    assert false[1.0] <= 0.066 < false[0.0]

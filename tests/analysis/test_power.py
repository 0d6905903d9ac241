"""Power before training: the rule against its tables, other libraries, and simulated comparisons."""

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tiny
from peft_tradeoffs.analysis import power
from peft_tradeoffs.analysis.power import (
    Asked,
    Design,
    margin_equivalent,
    margin_not_worse,
    provable_difference,
    rows_needed,
)
from peft_tradeoffs.tasks.metrics import METRICS
from scipy.stats import t as student


def design(rows: int, seeds: int, arms: int, **changes: float) -> Design:
    """A comparison without added rows, as the rule is written."""
    return Design(**{"rows": rows, "seeds": seeds, "arms": arms, "added": 0, **changes})


@pytest.mark.parametrize("df", [2, 2.3, 3, 4, 7.7, 12, 50, 123.4, 2000, 1e5, 1e6])
def test_the_quantile_is_students(df):
    for p in (0.5, 0.8, 0.9, 0.95, 0.975, 0.99, 0.999, 0.9999):
        assert power.t_quantile(p, df) == pytest.approx(student.ppf(p, df), rel=1e-5), p


def test_the_module_is_cheap_to_import():
    asked = f"import sys; sys.path.insert(0, {str(tiny.REPOSITORY / 'workflow_scripts')!r})\n"
    asked += "import peft_tradeoffs.analysis.power\nprint({'pandas', 'scipy', 'pyarrow', 'torch'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize(
    ("rows", "seeds", "arms", "difference", "excluded"),
    [
        (122, 5, 2, "5.8", "5.3"),
        (320, 3, 4, "4.2", "3.9"),
        (872, 5, 2, "2.2", "2.0"),
        (872, 5, 11, "2.6", "2.4"),
        (2_000, 5, 2, "1.4", "1.3"),
        (5_000, 5, 2, "0.9", "0.8"),
        (5_000, 5, 11, "1.1", "1.0"),
        (13_468, 5, 11, "0.7", "0.6"),
    ],
)
def test_what_so_many_rows_can_find_and_exclude(rows, seeds, arms, difference, excluded):
    """Points, where arms disagree on 7 % of rows, half of it in every seed."""
    found = design(rows, seeds, arms)
    assert f"{100 * provable_difference(found):.1f}" == difference
    assert f"{100 * margin_not_worse(found):.1f}" == excluded
    assert margin_equivalent(found) > margin_not_worse(found)


def test_the_demos_disagreement_gives_what_the_demo_measured():
    assert f"{100 * provable_difference(design(320, 3, 4, disagree=0.14, repeats=0.2)):.1f}" == "6.3"


@pytest.mark.parametrize(
    ("arms", "points", "not_worse", "equivalent"),
    [
        (2, 1, 3_344, 4_477),
        (2, 2, 838, 1_121),
        (2, 5, 136, 182),
        (11, 1, 5_115, 6_497),
        (11, 2, 1_282, 1_627),
        (11, 5, 208, 263),
    ],
)
def test_rows_that_a_margin_needs(arms, points, not_worse, equivalent):
    found = design(2, 5, arms)
    assert rows_needed(points / 100, found, margin_not_worse) == not_worse
    assert rows_needed(points / 100, found) == equivalent
    assert (
        margin_equivalent(design(equivalent, 5, arms))
        <= points / 100
        < margin_equivalent(design(equivalent - 1, 5, arms))
    )


def test_where_the_rule_says_none():
    assert provable_difference(Design(rows=122, seeds=5, arms=2)) < 0.07
    assert provable_difference(Design(rows=80, seeds=5, arms=2)) is None  # it would be more than 7 points
    assert rows_needed(1e-4, Design(rows=2, seeds=5, arms=2)) is None
    for nothing in ({"seeds": 2}, {"seeds": 1}, {"arms": 0}, {"rows": 1}):
        found = Design(**{"rows": 872, "seeds": 3, "arms": 2, **nothing})
        assert not found.decides
        with pytest.raises(ValueError, match="no interval"):
            provable_difference(found)
    assert Design(rows=872, seeds=power.FEWEST_SEEDS, arms=1).decides


def test_the_disagreement_follows_the_baselines_errors():
    assert power.disagreement() == 0.07 == METRICS["accuracy"].disagree
    assert METRICS["exact_match"].disagree == METRICS["numeric"].disagree == 0.2
    assert power.disagreement(0.2) == pytest.approx(0.14)


def test_rows_that_differences_of_none_need():
    """122 rows on which no run disagrees: a variance of 0 would ask for a third of these rows."""
    disagree, repeats = power.observed(np.zeros((5, 122)))
    assert (disagree, repeats) == (2 / 124, 1.0)
    found = design(122, 5, 2, disagree=disagree)
    assert rows_needed(0.01, design(122, 5, 2, disagree=disagree, repeats=1.0), margin_not_worse) == 1_268
    assert rows_needed(0.01, found, margin_not_worse) == 772


def test_what_runs_show_of_their_disagreement():
    random = np.random.default_rng(0)
    alike = random.choice([-1, 0, 1], 20_000, p=[0.05, 0.9, 0.05])
    apart = random.choice([-1, 0, 1], (5, 20_000), p=[0.05, 0.9, 0.05])
    assert power.observed(np.tile(alike, (5, 1))) == pytest.approx((0.1, 1.0), abs=0.01)
    assert power.observed(apart) == pytest.approx((0.1, 0.0), abs=0.01)
    half = np.where(np.arange(20_000) < 10_000, alike, apart)
    assert power.observed(half) == pytest.approx((0.1, 0.5), abs=0.02)


@pytest.mark.parametrize(("rows", "seeds", "arms"), [(122, 5, 2), (320, 3, 2), (872, 3, 11), (872, 5, 11)])
def test_simulated_comparisons_find_what_the_rule_says(monkeypatch, rows, seeds, arms):
    monkeypatch.syspath_prepend(str(tiny.REPOSITORY / "benchmarks"))
    import power as simulation

    repeats = 300
    found = simulation.shares(Design(rows=rows, seeds=seeds, arms=arms), np.random.default_rng(0), repeats)
    error = 3 * math.sqrt(0.8 * 0.2 / repeats)
    assert len(found) == 3
    for what, share in found.items():
        assert 0.68 - error < share < 0.90 + error, what
    assert found["equivalent, at its margin"] > 0.68, "the rows that a comparison adds count"


@pytest.mark.parametrize(
    ("rows", "arms", "margin", "said"),
    [
        (
            872,
            11,
            0.01,
            "872 test rows, 5 seeds, 11 arms against full: differences under about 2.6 points will not be found, and "
            "no arm can be proven within 1 point of full (about 6,500 rows would be needed, or a margin of 2.8 "
            "points). Assumed: arms disagree on 7 % of rows.",
        ),
        (
            872,
            11,
            0.026,
            "872 test rows, 5 seeds, 11 arms against full: differences under about 2.6 points will not be found; an "
            "arm that loses nothing can be proven to lose less than 2.6 points, but no arm can be proven within 2.6 "
            "points of full (about 1,000 rows would be needed, or a margin of 2.8 points). Assumed: arms disagree on 7 "
            "% of rows.",
        ),
        (
            13_468,
            11,
            0.01,
            "13,468 test rows, 5 seeds, 11 arms against full: differences under about 0.7 points will not be found; "
            "an arm that loses nothing can be proven to lose less than 1 point, and one that is as good as full, "
            "within 1 point of it. Assumed: arms disagree on 7 % of rows.",
        ),
        (
            5,
            1,
            0.01,
            "5 test rows, 5 seeds, 1 arm against full: no difference will be found, and no arm can be proven within 1 "
            "point of full (about 3,700 rows would be needed). Assumed: arms disagree on 7 % of rows.",
        ),
        (
            872,
            1,
            1e-4,
            "872 test rows, 5 seeds, 1 arm against full: differences under about 2.0 points will not be found, and no "
            "arm can be proven within 0.01 points of full (more than 1,000,000 rows would be needed, or a margin of "
            "2.1 points). Assumed: arms disagree on 7 % of rows.",
        ),
    ],
)
def test_the_sentence(rows, arms, margin, said):
    assert power.told(Design(rows=rows, seeds=5, arms=arms), asked(margin, f"{rows:,} test rows")) == said


def asked(margin: float, of: str = "rows", **changes: Any) -> Asked:
    return Asked(of=of, margin=margin, baseline="full", **changes)


def test_what_trials_showed_and_groups_are_said():
    found = power.told(Design(rows=120, seeds=3, arms=2, disagree=0.214), asked(0.01, "120 groups of test rows"))
    assert "Assumed: arms disagree on 21 % of rows." in found
    found = power.told(
        Design(rows=120, seeds=3, arms=2, disagree=0.214),
        asked(
            0.01,
            "120 groups of test rows",
            unit="groups",
            tuned=True,
            seen="the trials of LoRA r8 and full on 24 of 112 dev rows",
        ),
    )
    assert "groups would be needed" in found
    assert found.endswith(
        "Assumed: arms disagree on 21 % of rows (the trials of LoRA r8 and full on 24 of 112 dev rows), and learning "
        "rates are settled: what their choice may have missed comes on top."
    )


def test_rounding_does_not_hide_that_there_are_too_few_rows():
    margin = margin_equivalent(Design(rows=1_020, seeds=5, arms=2))
    assert "(about 1,020 rows would be needed" in power.told(Design(rows=1_010, seeds=5, arms=2), asked(margin))
    assert "(about 1,000 rows would be needed" in power.told(Design(rows=990, seeds=5, arms=2), asked(margin))

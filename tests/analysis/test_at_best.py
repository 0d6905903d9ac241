"""What the choice of a learning rate may have missed, in the comparison: of two statements the second decides."""

import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic_predictions
from peft_tradeoffs.analysis.comparison_text import AT_BEST, comparison_notes, comparison_readable
from peft_tradeoffs.runs.plan import allowance, as_gaps
from synthetic_predictions import compared, run

TICKETS = 122  # test rows
DEV = 47


def tuned(rate: float, *gaps: tuple[float, float], **changes: Any) -> dict[str, Any]:
    """What tune.py writes, of trials of one dev split; gaps are of a rate and how many dev rows lower it is."""
    found = [
        {"learning_rate": other, "mean": lower / DEV, "variance": (lower + 2) / (DEV + 2) ** 2, "trials": 1}
        for other, lower in gaps
    ]
    tied = [one["learning_rate"] for one in found if one["mean"] <= 2 * one["variance"] ** 0.5]
    return {
        "metric": "accuracy",
        "learning_rate": rate,
        "reason": None,
        "edge": None,
        "tied": tied,
        "gaps": found,
        **changes,
    }


def sweep(monkeypatch: pytest.MonkeyPatch, lost: int, tuned_as: str | None = "") -> list[tuple[dict, dict]]:
    """Full, and LoRA r8 that gets the same rows wrong and `lost` more, in every one of five seeds."""
    monkeypatch.setattr(synthetic_predictions, "ROWS", TICKETS)
    return [
        run(arm, seed, np.arange(3 + more), tuned_as=name if tuned_as == "" else tuned_as)
        for arm, name, more in ((("full", None), "full", 0), (("lora", 8), "lora-r8", lost))
        for seed in range(5)
    ]


def row_of(frame: pd.DataFrame) -> Any:
    return frame.set_index("arm").loc["lora-r8"]


def test_a_tied_rate_proves_nothing_of_the_method(tmp_path, monkeypatch):
    """600 tickets: at the rate taken LoRA loses 7 of 122 rows; another rate gave the same answers on all dev rows."""
    tunings = {"full": tuned(1e-4, (3e-4, 0), (1e-5, 12)), "lora-r8": tuned(3e-4, (1e-3, 0), (1e-4, 9))}
    frame = compared(tmp_path, sweep(monkeypatch, 7), tunings=lambda dataset, model, arm: tunings[arm])
    row = row_of(frame)
    assert row["verdict_at_rates"] == "worse" and row["difference_high"] < -0.01
    assert row["verdict"] == "undecided" and row["p_worse_holm"] > 0.025
    assert row["at_best_low"] < row["difference_low"] and row["at_best_high"] > 0
    missed = allowance(as_gaps(tunings["lora-r8"]["gaps"]), 0.0)
    assert (row["rate"], row["missed"], row["rates_as_good"]) == ("tuned", missed.mean, "0.001")
    notes = " ".join(comparison_notes(frame))
    assert (
        "LoRA r8: on the dev split 0.001 cannot be told from the rate taken; at the best rate it may gain 1.2 points"
        in notes
    )
    shown = comparison_readable(frame)
    assert list(shown)[3:5] == ["Difference, points", AT_BEST]
    assert re.fullmatch(r"-?\+?[\d.]+ \[-.*, \+.*\]", shown[AT_BEST][1]), shown  # no interval without its mean


def test_a_clear_choice_changes_little(tmp_path, monkeypatch):
    tunings = {"full": tuned(1e-4, (1e-5, 20)), "lora-r8": tuned(3e-4, (1e-3, 25))}
    frame = compared(tmp_path, sweep(monkeypatch, 12), tunings=lambda dataset, model, arm: tunings[arm])
    row = row_of(frame)
    assert row["verdict"] == row["verdict_at_rates"] == "worse" and row["rates_as_good"] == ""
    for side in ("low", "high"):
        assert row[f"at_best_{side}"] == pytest.approx(row[f"difference_{side}"], abs=2e-3)


def test_what_was_given_is_judged_at_the_rate_that_was_given(tmp_path, monkeypatch):
    frame = compared(tmp_path, sweep(monkeypatch, 12, tuned_as=None))
    row = row_of(frame)
    assert row["rate"] == "given" and pd.isna(row["missed"])
    assert (row["at_best_low"], row["at_best_high"]) == (row["difference_low"], row["difference_high"])
    assert AT_BEST not in comparison_readable(frame)
    assert "No learning rate was tuned: what is said of an arm is said of the rate" in " ".join(comparison_notes(frame))


def test_ranks_that_share_a_rate_and_an_edge_are_told(tmp_path, monkeypatch):
    tunings = {"full": tuned(1e-4, (1e-5, 20), edge="highest")}
    runs = sweep(monkeypatch, 2, tuned_as="full")
    frame = compared(tmp_path, runs, tunings=lambda dataset, model, arm: tunings[arm])
    assert list(frame["rate"]) == ["tuned", "shared"]
    notes = " ".join(comparison_notes(frame))
    assert "LoRA r8 has the rate that was tuned at another rank or for another method" in notes
    assert "full: the rate taken is the highest that was tried, so a better one may lie beyond." in notes


def test_without_a_trial_that_has_a_metric_nothing_was_chosen(tmp_path, monkeypatch):
    none = tuned(1e-4) | {"reason": "no trial has a metric (oom): the middle of the grid"}
    frame = compared(tmp_path, sweep(monkeypatch, 2), tunings=lambda dataset, model, arm: none)
    assert list(frame["rate"]) == ["failed", "failed"]
    notes = " ".join(comparison_notes(frame))
    assert "full, LoRA r8: no trial gave a metric that stands, so what is said is said of the rate taken" in notes
    assert "No learning rate was tuned" not in notes and "At the best rate tried" not in notes


def test_what_trials_cannot_tell_leaves_an_arm_undecided(tmp_path, monkeypatch):
    """The dev split is so small that one row decides the metric: a gap without a variance."""
    gap = {"learning_rate": 1e-3, "mean": 0.1, "variance": None, "trials": 1}
    open_ended = tuned(3e-4) | {"tied": [1e-3], "gaps": [gap]}
    tunings = {"full": tuned(1e-4, (1e-5, 12)), "lora-r8": open_ended}
    frame = compared(tmp_path / "arm", sweep(monkeypatch, 40), tunings=lambda dataset, model, arm: tunings[arm])
    row = row_of(frame)
    assert row["verdict_at_rates"] == "worse" and row["verdict"] == "undecided"
    assert np.isnan(row["p_different_holm"]) and np.isnan(row["at_best_low"]) and np.isnan(row["missed"])
    assert "a few dev rows decide the metric" in row["reason"]
    notes = " ".join(comparison_notes(frame))
    assert "LoRA r8: on the dev split 0.001 cannot be told from the rate taken." in notes
    tunings = {"full": open_ended, "lora-r8": tuned(1e-4, (1e-5, 12))}
    frame = compared(tmp_path / "baseline", sweep(monkeypatch, 40), tunings=lambda dataset, model, arm: tunings[arm])
    assert row_of(frame)["verdict"] == "undecided"


def test_a_seed_far_below_the_others_leaves_the_arm_undecided(tmp_path, monkeypatch):
    runs = sweep(monkeypatch, 0, tuned_as=None)
    assert row_of(compared(tmp_path / "steady", runs))["unstable"] is None
    monkeypatch.setattr(synthetic_predictions, "ROWS", TICKETS)
    runs[7] = run(("lora", 8), 2, np.arange(60), tuned_as=None)
    frame = compared(tmp_path / "one", runs, margin=0.2)
    row = row_of(frame)
    assert (row["verdict"], row["unstable"]) == ("undecided", "seed 2: 0.5082 where the others have 0.9754")
    said = " ".join(comparison_notes(frame))
    assert "LoRA r8: one of its 5 runs is far worse than the others (seed 2: 0.5082" in said

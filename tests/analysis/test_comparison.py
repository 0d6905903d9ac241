"""The comparison of arms: differences over the same seeds and examples, verdicts, what it refuses, its tables."""

import csv
import itertools
import json
from pathlib import Path

import forks
import numpy as np
import pandas as pd
import pytest
import synthetic
import synthetic_predictions
import tiny
from peft_tradeoffs.analysis import comparison, tables
from peft_tradeoffs.analysis.comparison import comparison_frame, read_predictions
from peft_tradeoffs.analysis.comparison_text import comparison_notes, comparison_readable, with_interval
from peft_tradeoffs.analysis.readable import latex, markdown, supported_decimals
from peft_tradeoffs.analysis.stats import over_seeds_and_examples
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.tasks.metrics import Scored, metric_called
from peft_tradeoffs.tasks.outputs import STATISTICS
from scipy import stats
from statsmodels.stats.multitest import multipletests
from synthetic_predictions import ROWS, arms, compared, run, write, write_predictions


def test_differences_are_those_of_the_same_seeds(tmp_path):
    frame = compared(tmp_path, arms({"lora-r4": 0, "lora-r8": 60, "qlora-r4": -40})).set_index("arm")
    assert frame["difference"].to_dict() == pytest.approx(
        {"full": float("nan"), "lora-r4": 0.0, "lora-r8": -0.03, "qlora-r4": 0.02}, nan_ok=True, abs=1e-12
    )
    assert frame["verdict"].to_dict() == {
        **{"full": "baseline", "lora-r4": "equivalent", "lora-r8": "worse", "qlora-r4": "better"}
    }
    assert (frame["p_not_worse_holm"] < 0.05).to_dict() == {
        **{"full": False, "lora-r4": True, "lora-r8": False, "qlora-r4": True}
    }
    # All seeds differ on the same 60 examples: only other examples can change that.
    row, share = frame.loc["lora-r8"], 60 / ROWS
    # A row of +1 and one of -1 are added.
    rows = ROWS + 2
    variance = (60 + 2) / rows - (60 / rows) ** 2
    half = stats.t.ppf(0.975, rows - 1) * np.sqrt(variance / (rows - 1))
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((-share - half, -share + half), rel=1e-3)
    assert row["difference_seeds_low"] == pytest.approx(row["difference_seeds_high"])
    p = stats.binomtest(0, 60).pvalue
    assert row["mcnemar"] == "; ".join(f"{seed}: {p:.4g}" for seed in range(5))


@pytest.mark.parametrize(
    ("margin", "errors", "metric", "called"),
    [
        *[(0.01, 0.05, "accuracy", True), (0.02, 0.1, "accuracy", True), (0.02, 0.09, "accuracy", False)],
        *[(0.021, 0.5, "accuracy", False), (0.01, 0.1, "pearson", True), (0.1, 0.28, "accuracy", False)],
    ],
)
def test_a_small_margin_alone_is_called_equivalent(margin, errors, metric, called):
    """At most 2 points, and at most a fifth of the baseline's errors."""
    assert metric_called(metric).calls_equivalent(margin, 1 - errors) == called


def test_what_is_proven_of_both_kinds_is_said_with_the_margin(tmp_path):
    """60 of 2,000 rows are 3 points, proven to be a loss and proven to be less than 5."""
    frame = compared(tmp_path, arms({"lora-r4": 0, "lora-r8": 60, "qlora-r4": -40}), margin=0.05)
    assert frame["verdict"].to_list() == ["baseline", "within", "worse_within", "better_within"]
    said = ["baseline", "within 5 points", "worse, by less than 5 points", "better, by less than 5 points"]
    assert comparison_readable(frame)["Verdict"].to_list() == said
    notes = " ".join(comparison_notes(frame, tables=4))
    assert "5 points are 98 % more errors than full makes." in notes
    assert "has its own 5 % for each kind of claim; 4 tables together have up to 20 %." in notes
    assert "tables together" not in " ".join(comparison_notes(frame))


def test_holm_counts_the_arms(tmp_path):
    frame = compared(tmp_path, arms({"lora-r4": 20, "lora-r8": 24})).set_index("arm")
    ordered = frame.loc[["lora-r8", "lora-r4"]]
    assert ordered["p_different_holm"].to_list() == pytest.approx(
        [2 * ordered["p_different"].iloc[0], max(2 * ordered["p_different"].iloc[0], ordered["p_different"].iloc[1])]
    )
    assert np.isnan(frame.loc["full", "p_different_holm"])
    for test in ("p_equivalent", "p_not_worse", "p_worse"):
        low, high = sorted(ordered[test])
        assert sorted(ordered[f"{test}_holm"]) == pytest.approx([min(2 * low, 1), min(max(2 * low, high), 1)])


def test_a_proven_loss_beyond_the_margin_is_a_verdict_of_worse(tmp_path):
    counts = {f"lora-r{rank}": more for rank, more in ((1, 33), (2, 41), (4, 46), (8, 60), (16, -10))}
    whole = compared(tmp_path, arms(counts))
    assert "without Holm's correction: one can leave out 0" in " ".join(comparison_notes(whole))
    frame = whole.iloc[1:]
    beyond = frame["p_worse_holm"] < 0.025
    assert 0 < beyond.sum() < (frame["difference_high"] < -0.01).sum()  # the interval alone says it of more arms
    assert (frame[beyond]["verdict"] == "worse").all()
    assert (2 * frame["p_worse_holm"]).clip(upper=1).ge(frame["p_different_holm"]).all()
    corrected = multipletests(frame["p_worse"], 0.05, "holm")[1]
    assert frame["p_worse_holm"].to_numpy() == pytest.approx(corrected)
    row = frame.iloc[1]
    t = (0.01 + row["difference"]) / ((row["difference_high"] - row["difference"]) / stats.t.ppf(0.975, ROWS - 1))
    assert row["p_worse"] == pytest.approx(stats.t.cdf(t, ROWS - 1), rel=0.02)


def test_what_would_prove_an_arm_not_to_be_worse(tmp_path):
    frame = compared(tmp_path, arms({"lora-r4": 15, "lora-r8": 60, "qlora-r4": 0})).set_index("arm")
    undecided = frame.loc["lora-r4"]
    assert undecided["p_not_worse_holm"] > 0.05 and undecided["examples_needed"] > ROWS
    assert pd.isna(undecided["seeds_needed"])  # all seeds err alike, so that more of them say nothing new
    assert frame.loc[["full", "lora-r8", "qlora-r4"], ["seeds_needed", "examples_needed"]].isna().all(axis=None)


def test_what_the_runs_cannot_tell_is_undecided(tmp_path):
    first, count = {"full": 0, "lora": 5}, {"full": 40, "lora": 42}
    few = [
        run((method, rank), seed, np.arange(count[method]) + first[method] + seed)
        for method, rank in (("full", None), ("lora", 4))
        for seed in range(3)
    ]
    frame = compared(tmp_path, few, margin=0.001).set_index("arm")
    assert frame.loc["lora-r4", "verdict"] == "undecided"
    notes = " ".join(comparison_notes(frame.reset_index()))
    assert "Undecided: these runs cannot tell the arm from full, nor prove it within 0.1 points of it." in notes
    assert "is found with a probability of 80 %" in notes and "hardly an answer" not in notes


def test_one_seed_has_a_difference_and_no_interval(tmp_path):
    frame = compared(tmp_path, arms({"lora-r4": 10}, seeds=1))
    row = frame.set_index("arm").loc["lora-r4"]
    assert row["difference"] == pytest.approx(-0.005)
    assert row[["sd", "low", "difference_low", "p_different", "p_equivalent", "verdict"]].isna().all()
    assert comparison_readable(frame)["Verdict"].to_list() == ["baseline", "–"]
    assert "No interval or test for full, LoRA r4: 1 seed, where 3 or more are needed." in comparison_notes(frame)


def test_two_seeds_have_an_interval_over_seeds_and_no_test(tmp_path):
    row = compared(tmp_path, arms({"lora-r4": 60}, seeds=2)).set_index("arm").loc["lora-r4"]
    assert row[["seeds_low", "difference_seeds_low"]].notna().all()
    assert row[["low", "difference_low", "p_different", "smallest_difference", "verdict"]].isna().all()
    assert row["reason"] == "2 seeds, where 3 or more are needed"


def test_a_difference_over_fewer_seeds_says_so(tmp_path):
    runs = arms({"lora-r4": 10})
    runs[0] = (synthetic.oom("full", None, 0), {"row": [], "label": [], "prediction": []})
    cells = comparison_readable(compared(tmp_path, runs))
    assert cells["Difference, points"].to_list()[1].endswith("] (n = 4)")


def test_the_smallest_difference_is_that_of_holms_strictest_step(tmp_path):
    alone = compared(tmp_path / "a", arms({"lora-r4": 20})).set_index("arm")
    beside = compared(tmp_path / "b", arms({"lora-r4": 20, "lora-r8": 20})).set_index("arm")
    assert beside.loc["lora-r4", "smallest_difference"] > 1.05 * alone.loc["lora-r4", "smallest_difference"]


def test_a_regression_that_one_example_decides_has_no_test(tmp_path):
    """All predictions but one are the same: without that one there is no correlation."""
    labels = np.linspace(0, 1, ROWS)
    runs = []
    for method, rank in (("full", None), ("lora", 4)):
        for seed in range(3):
            predicted = np.zeros(ROWS)
            predicted[-1 - seed] = 1.0
            pearson = float(np.corrcoef(labels, predicted)[0, 1])
            changes = {"task": "regression", "metric": "pearson", "metric_value": pearson, "test_rows": ROWS}
            columns = {"row": np.arange(ROWS), "label": labels, "prediction": predicted}
            runs.append((synthetic.summary(method, rank, seed, **changes), columns))
    row = compared(tmp_path, runs).set_index("arm").loc["lora-r4"]
    assert row["reason"] == "the metric is not defined without some of the test examples"
    assert np.isnan(row["p_different"]) and pd.isna(row["mcnemar"])


def test_failed_runs_and_seeds_of_one_arm_alone_are_left_out(tmp_path):
    runs = arms({"lora-r4": 10})
    runs[-1] = (synthetic.oom("lora", 4, 4), {"row": [], "label": [], "prediction": []})
    runs += [(synthetic.oom("qlora", 4, 0), {"row": [], "label": [], "prediction": []})]
    frame = compared(tmp_path, runs).set_index("arm")
    assert frame["n"].to_dict() == {"full": 5, "lora-r4": 4, "qlora-r4": 0}
    assert frame.loc["lora-r4", "n_paired"] == 4
    assert frame.loc["qlora-r4", "reason"] == "none of its runs has a metric"


def test_an_arm_that_failed_altogether_is_named_with_what_ended_it(tmp_path):
    runs = arms({"lora-r4": 10}, seeds=3)
    nothing = {"row": [], "label": [], "prediction": []}
    runs += [(synthetic.oom("qlora", 4, 0), nothing), (synthetic.diverged("qlora", 4, 1), nothing)]
    runs += [(synthetic.oom("qlora", 4, 2), nothing), (synthetic.oom("qlora", 8, 0), nothing)]
    frame = compared(tmp_path, runs)
    failed = frame.set_index("arm").loc["qlora-r4"]
    assert (failed["n"], failed["n_paired"], failed["left_out"]) == (0, 0, "oom 2; diverged 1")
    assert failed[["mean", "low", "difference", "p_different", "verdict", "groups"]].isna().all()
    row = comparison_readable(frame).iloc[2]
    assert row["n"] == "0" and set(row[3:]) == {"–"}
    notes = comparison_notes(frame)
    left_out = "QLoRA r4 (2 out of memory; 1 diverged), QLoRA r8 (1 out of memory)"
    assert f"Runs without one are left out: {left_out}." in notes
    assert "No interval or test for QLoRA r4, QLoRA r8: none of its runs has a metric." in notes
    # Nothing of the others depends on it.
    alone = compared(tmp_path / "alone", arms({"lora-r4": 10}, seeds=3))
    assert frame.iloc[:2].to_csv() == alone.to_csv()


def test_a_baseline_that_failed_altogether_is_the_reason_of_every_row(tmp_path):
    runs = arms({"lora-r4": 10, "lora-r8": 200}, seeds=3)
    for place in range(3):
        runs[place] = (synthetic.diverged("full", None, place), {"row": [], "label": [], "prediction": []})
    frame = compared(tmp_path, runs).set_index("arm")
    assert frame["reason"].to_list() == [
        "none of its runs has a metric",
        *["none of the baseline's runs has a metric"] * 2,
    ]
    assert frame["n_paired"].to_list()[1:] == [0, 0] and frame["difference"].isna().all()
    assert frame["verdict"].fillna("").to_list() == ["baseline", "", ""]
    # The others still have intervals of their own and can be told apart from each other.
    assert frame["low"].notna().to_list() == [False, True, True]
    assert frame["groups"].fillna("").to_list() == ["", "a", "b"]
    notes = comparison_notes(frame.reset_index())
    assert "No interval or test for full: none of its runs has a metric." in notes
    assert "No test of a difference for LoRA r4, LoRA r8: none of the baseline's runs has a metric." in notes


def test_arms_that_share_no_seed_have_no_difference(tmp_path):
    runs = [run for run in arms({"lora-r4": 10}, seeds=6) if run[0]["seed"] // 3 == (run[0]["arm"] == "full")]
    frame = compared(tmp_path, runs).set_index("arm")
    assert frame["n"].to_list() == [3, 3] and frame["low"].notna().all()
    assert frame.loc["lora-r4", "n_paired"] == 0
    assert frame.loc["lora-r4", "reason"] == "no seed of which both this arm and the baseline have a metric"
    assert frame["groups"].isna().all()


def test_unequal_seeds_are_compared_over_those_that_both_have(tmp_path):
    """Seeds that only one of the two has are in its mean, and change no difference."""
    runs = arms({"lora-r4": 30, "lora-r8": 60}, seeds=6)
    fewer = [
        run for run in runs if (run[0]["arm"], run[0]["seed"]) not in {("lora-r4", 5), ("lora-r8", 0), ("full", 3)}
    ]
    frame = compared(tmp_path / "fewer", fewer).set_index("arm")
    assert frame["n"].to_list() == [5, 5, 5] and frame["n_paired"].to_list()[1:] == [4, 4]
    for arm, seeds in (("lora-r4", (0, 1, 2, 4)), ("lora-r8", (1, 2, 4, 5))):
        same = [run for run in runs if run[0]["seed"] in seeds and run[0]["arm"] in ("full", arm)]
        row = compared(tmp_path / arm, same).set_index("arm").loc[arm]
        for key in ("difference", "difference_low", "difference_high", "p_different", "p_equivalent"):
            assert frame.loc[arm, key] == pytest.approx(row[key]), key


def test_one_arm_alone_has_its_mean_and_nothing_to_be_compared_with(tmp_path):
    frame = compared(tmp_path, arms({}))
    (row,) = frame.to_dict("records")
    assert row["verdict"] == "baseline" and row["n"] == 5 and row["low"] < row["mean"] < row["high"]
    assert pd.isna(row["groups"]) and pd.isna(row["reason"])
    assert "Letters" not in comparison_readable(frame)
    assert "Difference" not in " ".join(comparison_notes(frame))


@pytest.mark.parametrize(("rows", "verdict"), [(2000, "within"), (200, "undecided")])
def test_arms_that_predict_alike_are_equal_only_as_far_as_the_examples_can_say(tmp_path, monkeypatch, rows, verdict):
    """None of 200 examples differs also where 1 % of all do, with a probability of 13 %."""
    monkeypatch.setattr(synthetic_predictions, "ROWS", rows)
    runs = [
        run((method, rank), seed, np.arange(20)) for method, rank in (("full", None), ("lora", 4)) for seed in (0, 1, 2)
    ]
    frame = compared(tmp_path, runs)
    row = frame.set_index("arm").loc["lora-r4"]
    assert (row["difference"], row["p_different"], row["verdict"]) == (0, 1, verdict)
    assert row["p_equivalent"] == pytest.approx(0.99**rows)
    bound = stats.binomtest(0, rows).proportion_ci().high  # Clopper and Pearson
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((-bound, bound))
    notes = " ".join(comparison_notes(frame))
    assert bound < row["smallest_difference"] < 2 * bound
    assert (
        "LoRA r4: hardly an answer is unlike full's, and the interval of the difference, "
        f"± {100 * bound:.1f} points, is what {rows:,} examples leave possible"
    ) in notes
    assert "hardly an answer is wrong" not in notes
    assert frame["groups"].to_list() == ["a", "a"]


def test_groups_are_of_every_pair_with_holms_correction_over_all_pairs(tmp_path):
    """As letters from statsmodels' correction of the t tests of each pair."""
    counts = {"lora-r4": 3, "lora-r8": 6, "lora-r16": 90, "qlora-r4": 93}
    runs = arms(counts)
    frame = compared(tmp_path, runs).set_index("arm")
    names = list(frame.index)
    correct = {name: [] for name in names}
    for summary, columns in runs:
        correct[summary["arm"]].append((columns["label"] == columns["prediction"]).astype(float))
    pairs = list(itertools.combinations(names, 2))
    p = [
        over_seeds_and_examples(np.array(correct[one]) - np.array(correct[other])).p_different() for one, other in pairs
    ]
    rejected = multipletests(p, 0.05, "holm")[0]
    assert 3 < rejected.sum() < len(pairs) - 1
    for (one, other), different in zip(pairs, rejected, strict=True):
        assert bool(set(frame.loc[one, "groups"]) & set(frame.loc[other, "groups"])) != different, (one, other)
    assert "a" in frame.loc["full", "groups"]  # the best
    assert comparison_readable(frame.reset_index())["Letters"].to_list() == frame["groups"].to_list()


def test_an_arm_with_too_few_seeds_is_in_no_group(tmp_path):
    runs = [run for run in arms({"lora-r4": 0, "lora-r8": 200}) if run[0]["arm"] != "lora-r4" or run[0]["seed"] < 2]
    assert compared(tmp_path, runs)["groups"].fillna("").to_list() == ["a", "", "b"]


def heldout(runs: list[tuple[dict, dict]], folder: Path, differing: dict[str, int]) -> None:
    """Give the runs a heldout split of 4,000 examples, of which each arm gets so many more wrong than full."""
    for summary, _ in runs:
        summary["heldout_rows"] = 4000
        if summary["status"] != "completed":
            continue
        labels = np.arange(4000) % 2
        wrong = np.arange(200 + differing.get(summary["arm"], 0) + summary["seed"])
        predicted = labels.copy()
        predicted[wrong] = 1 - labels[wrong]
        summary["heldout_metric_value"] = 1 - len(wrong) / 4000
        place = folder / "runs/sst2/distilbert" / summary["arm"] / f"seed{summary['seed']}"
        place.mkdir(parents=True)
        columns = {"row": np.arange(4000) + 9000, "label": labels, "prediction": predicted}
        write_predictions(place / "predictions_heldout.csv", columns)


def test_a_heldout_split_has_rows_of_its_own_after_the_official_one(tmp_path):
    runs = arms({"lora-r4": 4, "lora-r8": 60})
    runs[-1] = (synthetic.oom("lora", 8, 4), {"row": [], "label": [], "prediction": []})
    official = compared(tmp_path / "official", runs)
    heldout(runs, tmp_path, {"lora-r4": 80, "lora-r8": -80})
    frame = compared(tmp_path, runs)
    assert frame["split"].to_list() == ["test"] * 3 + ["heldout"] * 3
    pd.testing.assert_frame_equal(frame.iloc[:3], official)
    own = frame.iloc[3:].set_index("arm")
    assert own["mean"].to_dict() == pytest.approx({"full": 0.9495, "lora-r4": 0.9295, "lora-r8": 0.969625})
    assert own["difference"].to_list()[1:] == pytest.approx([-0.02, 0.02])
    assert own["verdict"].to_list() == ["baseline", "worse", "better"] and own["groups"].to_list() == ["b", "c", "a"]
    assert own["test_rows"].to_list() == [4000] * 3 and own["n"].to_list() == [5, 5, 4]
    # Holm's correction is of the two arms of the split, not of both splits.
    p = own["p_different"].to_numpy()[1:]
    assert own["p_different_holm"].to_numpy()[1:] == pytest.approx(np.maximum(2 * p.min(), p))
    text = markdown(frame, comparison_readable, comparison_notes)
    first, second = text.split("\n## ")
    assert first.startswith("## sst2 · distilbert · test split") and "Where it was carved from train" not in first
    assert second.startswith("sst2 · distilbert · heldout split") and "Where it was carved from train" in second
    assert latex(frame, comparison_readable, comparison_notes).count(r"\begin{longtable}") == 2


def test_runs_with_another_heldout_split_are_refused(tmp_path):
    runs = arms({"lora-r4": 0}, seeds=2)
    heldout(runs, tmp_path, {})
    path = tmp_path / "runs/sst2/distilbert/lora-r4/seed1/predictions_heldout.csv"
    path.write_text(path.read_text().replace("\n9000,", "\n8999,"))
    with pytest.raises(InputError, match=r"different examples or labels of the heldout split"):
        compared(tmp_path, runs)


def regression(predicted: dict[str, list[np.ndarray]], labels: np.ndarray, metric: str) -> list[tuple[dict, dict]]:
    """Runs of arms by name: their predictions a seed."""
    runs = []
    for name, seeds in predicted.items():
        method, _, rank = name.partition("-r")
        for seed, values in enumerate(seeds):
            of = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[metric]
            value = None if np.ptp(values) == 0 else float(of(labels, values).statistic)
            changes = {"task": "regression", "metric": metric, "metric_value": value, "test_rows": len(labels)}
            columns = {"row": np.arange(len(labels)), "label": labels, "prediction": values}
            runs.append((synthetic.summary(method, int(rank) if rank else None, seed, **changes), columns))
    return runs


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_a_regression_is_compared_by_its_correlation(tmp_path, metric):
    """Labels with ties, as STS-B's; the difference's error is that of jackknifing the difference itself."""
    random = np.random.default_rng(1)
    labels = np.round(random.uniform(0, 5, 400) * 2) / 2
    shared = random.normal(0, 1, 400)

    def arm(noise):
        return [labels + shared + random.normal(0, noise, 400) for _ in range(4)]

    predicted = {"full": arm(0.3), "lora-r4": arm(0.3), "lora-r8": arm(2.5)}
    frame = compared(tmp_path, regression(predicted, labels, metric)).set_index("arm")
    assert frame.loc["lora-r8", "verdict"] == "worse" and frame["groups"].to_list() == ["a", "a", "b"]
    assert frame["mcnemar"].isna().all()
    row = frame.loc["lora-r8"]
    of = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}[metric]
    differences = [
        of(labels, one).statistic - of(labels, other).statistic
        for one, other in zip(predicted["lora-r8"], predicted["full"], strict=True)
    ]
    assert row["difference"] == pytest.approx(np.mean(differences))
    assert (row["difference_seeds_low"], row["difference_seeds_high"]) == pytest.approx(
        stats.t.interval(0.95, 3, np.mean(differences), stats.sem(differences))
    )
    assert row["difference_low"] < row["difference"] < row["difference_high"] < 0


def test_a_constant_prediction_has_no_correlation_and_is_left_out(tmp_path):
    labels = np.linspace(0, 1, 200)
    random = np.random.default_rng(0)
    good = [labels + random.normal(0, 0.2, 200) for _ in range(8)]
    constant = np.full(200, 0.5)
    predicted = {"full": good[:4], "lora-r4": [constant, *good[4:7]], "lora-r8": [constant] * 4}
    frame = compared(tmp_path, regression(predicted, labels, "pearson")).set_index("arm")
    assert frame["n"].to_list() == [4, 3, 0]
    assert frame["left_out"].fillna("").to_list() == ["", "undefined 1", "undefined 4"]
    assert frame.loc["lora-r4", "n_paired"] == 3 and not np.isnan(frame.loc["lora-r4", "p_different"])
    assert frame.loc["lora-r8", "reason"] == "none of its runs has a metric"
    assert "LoRA r4 (1 undefined), LoRA r8 (4 undefined)" in " ".join(comparison_notes(frame.reset_index()))


@pytest.mark.parametrize(
    ("margin", "meant"),
    [(1, "; did you mean 0.01?"), (5, "; did you mean 0.05?"), (0.5, "; did you mean 0.005?"), (50, "a point is 0.01")],
)
def test_a_margin_in_points_is_refused(margin, meant):
    with pytest.raises(InputError) as caught:
        resolve(tiny.config(Path(), comparison={"margin": margin}))
    said = str(caught.value)
    assert said.startswith(f"config key comparison.margin: {margin} is not above 0 and at most 0.2; ")
    assert "accuracy is a fraction" in said and said.endswith(meant)
    assert resolve(tiny.config(Path(), comparison={"margin": 0.2})).comparison.margin == 0.2


def test_random_weights_are_not_compared(tmp_path):
    runs = [synthetic.randomly("full", None, seed) for seed in (0, 1)]
    frame = comparison_frame(tables.runs_frame(runs), "full", 0.01, lambda _: pytest.fail("read"))
    assert frame.empty and list(frame)[:3] == ["dataset", "model", "arm"]


def test_runs_of_other_data_are_refused(tmp_path):
    runs = arms({"lora-r4": 0}, seeds=2)
    for column in ("label", "prediction"):
        runs[-1][1][column] = 1 - runs[-1][1][column]
    with pytest.raises(InputError, match=r"full/seed0 and .*lora-r4/seed1 were tested on different examples"):
        compared(tmp_path, runs)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_text(""), "not a run's predictions"),
        (lambda path: path.write_text("row,label\n1,1\n"), "not a run's predictions"),
        (lambda path: path.write_text("row,label,prediction,logit_0,logit_1\n1,1,1,0,1\n"), "1 rows, but"),
        (lambda path: path.write_text("row,label,prediction\n1,1,x\n"), "not a run's predictions"),
        (lambda path: path.write_text(path.read_text().replace(",1,0,", ",0,0,")), "its accuracy is 0.9"),
        (lambda path: change(path, "prediction", 7, ""), "1 rows with a value that is not finite, the first in line 9"),
        (lambda path: change(path, "logit_1", 0, "nan"), "1 rows with a value that is not finite, the first in line 2"),
        (
            lambda path: change(path, "logit_0", 1, "-inf"),
            "1 rows with a value that is not finite, the first in line 3",
        ),
        (lambda path: change(path, "prediction", 1000, "1"), "line 1002: a prediction that its logits contradict"),
        (lambda path: change(path, "label", 3, "2"), "line 5: a label or prediction that is none of 2 classes"),
        (lambda path: change(path, "prediction", 3, "-1"), "line 5: a label or prediction that is none of 2 classes"),
        (lambda path: change(path, "prediction", 3, "0.5"), "line 5: a label or prediction that is none of 2 classes"),
    ],
)
def test_broken_predictions_are_named(tmp_path, damage, said):
    runs = arms({"lora-r4": 0}, seeds=2)
    damaged = write(tmp_path, runs) / "sst2/distilbert/lora-r4/seed1/predictions.csv"
    damage(damaged)
    synthetic.seal(damaged.parent)
    with pytest.raises(InputError, match=said) as caught:
        read_predictions(damaged, runs[-1][0])
    assert str(caught.value).startswith(str(damaged)) and str(caught.value).endswith("run it again")


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_regression_with_a_prediction_that_is_not_finite_is_named(tmp_path, value):
    labels = np.linspace(0, 1, 50)
    runs = regression({"full": [labels**2]}, labels, "pearson")
    path = write(tmp_path, runs) / "sst2/distilbert/full/seed0/predictions.csv"
    change(path, "prediction", 4, value)
    with pytest.raises(InputError, match="1 rows with a value that is not finite, the first in line 6"):
        read_predictions(path, runs[0][0])


def test_a_regression_whose_prediction_is_not_its_output_is_named(tmp_path):
    labels = np.linspace(0, 1, 50)
    runs = regression({"full": [labels**2]}, labels, "spearman")
    path = write(tmp_path, runs) / "sst2/distilbert/full/seed0/predictions.csv"
    change(path, "prediction", 4, "0.0067")  # no other rank, so the metric does not show it
    with pytest.raises(InputError, match="line 6: a prediction that its logits contradict"):
        read_predictions(path, runs[0][0])


def change(path: Path, column: str, row: int, text: str) -> None:
    """Put another text into a CSV file that the run then published."""
    table = pd.read_csv(path, dtype=str)
    table.loc[row, column] = text
    table.to_csv(path, index=False)
    synthetic.seal(path.parent)


@pytest.mark.parametrize(("half_width", "expected"), [(0.9, 1), (1.24, 1), (2.9, 1), (3.1, 0), (12, 0), (0.023, 3)])
def test_an_interval_decides_the_digits(half_width, expected):
    assert supported_decimals(half_width) == expected


def test_intervals_as_text():
    assert with_interval(0.8765, 0.8675, 0.8855, 100) == "87.6 [86.8, 88.5]"
    assert with_interval(-0.0003, -0.05, 0.04, 100, sign=True) == "0 [-5, +4]"
    assert with_interval(-0.014, -0.0276, -0.0004, 100, sign=True) == "-1.40 [-2.76, -0.04]"
    assert with_interval(0.9, None, None, 100) == "90.0"
    assert with_interval(0.876, 0.876, 0.876, 100) == "87.6"  # every seed gave the same
    assert with_interval(48.0, 48.0, 48.0, 1, sign=True) == "+48.0"
    assert with_interval(22.1384, 22.1358, 22.1411, 1) == "22.14"  # four digits, which the interval does not change
    assert with_interval(412.704, 412.53, 412.87, 1) == "412.7 [412.5, 412.9]"
    assert with_interval(None, None, None, 100) == "–"


def test_the_workflow_compares(finished):
    folder = finished / "results/tables"
    rows = list(csv.DictReader((folder / "comparison.csv").open()))
    assert [row["arm"] for row in rows] == ["full", "lora-r4", "qlora-r4"]
    summaries = tiny.summaries(finished)
    for row in rows[1:]:
        values = [summaries[f"{row['arm']}/seed{seed}"]["metric_value"] for seed in (0, 1)]
        full = [summaries[f"full/seed{seed}"]["metric_value"] for seed in (0, 1)]
        assert float(row["difference"]) == pytest.approx(np.mean(np.subtract(values, full)))
    assert (
        "Verdict" in (folder / "comparison.md").read_text() and "longtable" in (folder / "comparison.tex").read_text()
    )


def test_the_command_line_says_that_random_weights_have_nothing_to_compare(tmp_path):
    write(tmp_path, [(synthetic.randomly("full", None, 0), {"row": [], "label": [], "prediction": []})])
    grid = {"dataset": ["sst2"], "model": ["distilbert"], "arm": ["full"], "seed": [0]}
    words = ["--runs-dir", str(tmp_path / "runs"), "--grid", json.dumps(grid), "--baseline", "full", "--margin", "0.01"]
    words += ["--contract", str(synthetic.contract(tmp_path, [synthetic.randomly("full", None, 0)]))]
    script = tiny.REPOSITORY / "workflow_scripts/compare_arms.py"
    forks.script(script, *words, "--output-dir", tmp_path).check_returncode()
    for kind in ("md", "tex"):
        assert (tmp_path / f"comparison.{kind}").read_text() == "Random weights: there is no metric to compare.\n"
    for margin, said in (("1", "at most 0.2"), ("nan", "--margin: nan is not above 0")):
        points = [margin if word == "0.01" else word for word in words]
        done = forks.script(script, *points, "--output-dir", tmp_path)
        assert done.returncode == 1 and said in done.stderr
    words[words.index("full")] = "fulll"
    done = forks.script(script, *words, "--output-dir", tmp_path)
    assert done.returncode == 1 and "--baseline: no arm 'fulll' in --grid, which has full" in done.stderr


@pytest.mark.parametrize(("metric", "right"), [("exact_match", [True, False, True]), ("rouge_l", None)])
def test_outputs_are_right_or_wrong_where_the_metric_is_a_share(metric, right, tmp_path, monkeypatch):
    """Then McNemar's test has them, and a study can keep them."""
    written = np.zeros((3, len(STATISTICS)))
    written[:, STATISTICS.index(metric)] = [1, 0, 1]
    numbers = np.column_stack([np.ones(3), [4, 5, 4], np.ones(3)])
    scored = Scored(np.arange(3), numbers[:, 1], numbers[:, 0], numbers, written)
    monkeypatch.setattr(comparison, "verified", lambda *_, **__: {})
    monkeypatch.setattr(comparison, "read_scored", lambda *_: scored)
    record = {"task": "sft", "metric": metric, "metric_value": 2 / 3, "test_rows": 3}
    found = read_predictions(tmp_path / "predictions.csv", record)
    assert (None if found.right is None else found.right.tolist()) == right and found.rarest == 3
    grouped = read_predictions(tmp_path / "predictions.csv", record, lambda _: np.array([0, 0, 1]))
    assert grouped.right is None and grouped.rarest == 2

"""The recommendation: who qualifies, the cheapest of them, ties, and when it refuses."""

import json
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pandas as pd
import pytest
import synthetic
import tiny
from peft_tradeoffs.analysis import tables
from peft_tradeoffs.analysis.comparison import COLUMNS, read_comparison
from peft_tradeoffs.analysis.recommendation import recommendation_frame
from peft_tradeoffs.analysis.recommendation_text import answer, recommendation_markdown
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.core.errors import InputError
from scipy import stats
from synthetic_comparison import BAD, GOOD, MEMORY, NO_LIMITS, OPEN, SPREAD, TIME, compared, one_job, pair, runs

HALF = stats.t.ppf(0.975, 4) / np.sqrt(5)
HIGH = 60 * np.exp(stats.t.ppf(0.975, 4) * np.sqrt(np.log1p((1 / np.sqrt(5) / 60) ** 2)))  # of a time of 60 s


def judged(
    summaries: list[dict[str, Any]], comparison: pd.DataFrame, noise: pd.DataFrame | None = None, **limits: Any
) -> tuple[pd.DataFrame, str]:
    """The frame by arm and the answer."""
    chosen = NO_LIMITS | limits
    frame = recommendation_frame(tables.runs_frame(summaries), comparison, chosen, noise)
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    said = answer(rows, chosen)
    assert f"**{said}**" in recommendation_markdown(frame, chosen)
    return frame.set_index("arm"), said


ALL = list(MEMORY)


def noise_table(cv: float, n: int = 6) -> pd.DataFrame:
    row = {"dataset": "sst2", "model": "distilbert", "arm": "full", "device_name": "NVIDIA H100 80GB HBM3"}
    return pd.DataFrame([row | {"quantity": "train_s", "n": n, "mean": 100.0, "sd": 100 * cv}])


def test_the_cheapest_of_those_that_qualify():
    frame, said = judged(runs(ALL), compared({"lora-r4": BAD, "lora-r8": GOOD, "qlora-r8": GOOD}))
    assert frame["qualifies"].to_dict() == {"full": "yes", "lora-r4": "no", "lora-r8": "yes", "qlora-r8": "yes"}
    assert frame.loc["lora-r4", "why"] == "worse by more than the margin"
    assert frame["cheapest"].to_dict() == {"full": False, "lora-r4": False, "lora-r8": True, "qlora-r8": False}
    assert said == (
        "Take LoRA r8: of the 3 arms that qualify it has the lowest peak memory, 512 MiB (full 900 MiB)"
        ", and it is proven to lose less than 1 point of accuracy."
    )
    assert frame.loc["qlora-r8", ["apart", "apart_low", "apart_high"]].to_list() == [48, 48, 48]


def test_a_cost_must_be_within_its_limit_with_its_interval():
    quality = compared({"lora-r4": GOOD, "lora-r8": GOOD, "qlora-r8": GOOD})
    frame, _ = judged(runs(ALL), quality, train_s=HIGH + 1e-6, cheapest="time")
    assert frame["train_s_kept"].to_dict() == {
        "full": "no",
        "lora-r4": "yes",
        "lora-r8": "cannot say",
        "qlora-r8": "no",
    }
    assert frame.loc["lora-r4", ["train_s", "train_s_low", "train_s_high"]].to_list() == pytest.approx(
        [60, 60**2 / HIGH, HIGH]
    )
    frame, said = judged(runs(ALL), quality, train_s=HIGH - 1e-6, cheapest="time")
    assert frame.loc["lora-r4", "train_s_kept"] == "cannot say"
    assert said == (
        "No recommendation: these runs cannot say whether LoRA r4 or LoRA r8 qualifies (full and QLoRA r8 do not); "
        "about 6 seeds of LoRA r4 (there are 5) would tell whether it keeps the limit."
    )
    assert frame.loc["lora-r4", "train_s_seeds_needed"] == "6"
    frame, _ = judged(runs(ALL), quality, train_s=60.9)  # below the mean of LoRA r8, within its interval
    assert frame.loc["lora-r8", "train_s_kept"] == "cannot say"


def test_seeds_of_one_job_give_time_no_interval_and_the_lowest_mean_is_all_that_is_said():
    quality = compared({"lora-r4": GOOD, "lora-r8": GOOD, "qlora-r8": GOOD})
    frame, said = judged(one_job(runs(ALL)), quality, train_s=60.5, cheapest="time")
    assert frame["train_s_low"].isna().all() and frame["memory_MiB_low"].notna().all()
    assert frame["apart_low"].isna().all()
    assert frame["train_s_kept"].to_dict() == {
        "full": "no",
        "lora-r4": "cannot say",
        "lora-r8": "cannot say",
        "qlora-r8": "no",
    }
    assert frame.loc["qlora-r8", "why"] == "over the limit of time"
    assert frame.loc["lora-r8", "why"] == "its time may lie on either side of the limit"  # some seeds took 60 s
    text = recommendation_markdown(frame.reset_index(), NO_LIMITS | {"train_s": 60.5, "cheapest": "time"})
    assert "(60.0 s); seeds in jobs of their own (seeds_per_job: 1) would tell more" in text
    assert "One job per arm: how far jobs differ was not measured (set noise), so training time and energy have" in text
    assert "Limits of training time were judged by the seeds as measured: kept where each is within the limit" in text
    within, _ = judged(one_job(runs(ALL)), quality, train_s=61, cheapest="time")
    assert within["train_s_kept"].to_dict() == {
        "full": "no",
        "lora-r4": "yes",
        "lora-r8": "cannot say",
        "qlora-r8": "no",
    }
    frame, said = judged(one_job(runs(ALL)), quality, cheapest="time")
    assert said == (
        "Take LoRA r4: of the 4 arms that qualify it has the lowest mean training time, 60.0 s (full 100 s)"
        ", and it is proven to lose less than 1 point of accuracy."
    )
    text = recommendation_markdown(frame.reset_index(), NO_LIMITS | {"cheapest": "time"})
    assert "LoRA r8 (training time +1.00 s)" in text and "judged by the seeds" not in text
    assert "- In other jobs another arm may have the lowest training time: one job trained several seeds" in text
    assert "the key noise, which repeats some runs, or seeds_per_job: 1 would tell.\n" in text
    _, said = judged(one_job(runs(["full", "qlora-r8"])), compared({"qlora-r8": BAD}), cheapest="time")
    assert said == "Keep full, the baseline: no arm of a lower mean training time qualifies."


def test_other_jobs_are_spoken_of_only_where_those_that_qualify_shared_one():
    good, by_time = compared(dict.fromkeys(ALL[1:], GOOD)), NO_LIMITS | {"cheapest": "time"}

    def said(ran: list[dict[str, Any]], comparison: pd.DataFrame, **limits: Any) -> tuple[str, bool]:
        frame, answered = judged(ran, comparison, cheapest="time", **limits)
        return answered, "In other jobs" in recommendation_markdown(frame.reset_index(), by_time | limits)

    alone, other_jobs = said(runs(ALL, seeds=1), good)
    assert alone.startswith("Take LoRA r4: of the 4 arms that qualify it has the lowest mean training time, 59.0 s")
    assert not other_jobs
    straggler = [run for run in runs(ALL) if run["arm"] != "qlora-r8" or run["seed"] == 0]
    straggler += [synthetic.oom("qlora", 8, seed, device="cuda") for seed in range(1, 5)]
    taken, other_jobs = said(straggler, good)
    assert taken.startswith("Take LoRA r4") and not other_jobs and "mean" not in taken
    random = [run | {"pretrained": False} for run in one_job(runs(ALL))]
    costs, other_jobs = said(random, good.iloc[:0])
    assert costs.startswith("Costs alone") and other_jobs
    only, other_jobs = said(random, good.iloc[:0], memory_GiB=505 / 1024)
    assert only.endswith("of the arms that keep the limits, 60.0 s.") and not other_jobs  # no other arm keeps it


def test_how_far_jobs_differ_counts_in_intervals_and_limits_of_time():
    """Identical seeds of one job would put 61 s above 60 s for sure; jobs that differ by 2 % do not."""
    quality = compared({"lora-r4": GOOD, "lora-r8": GOOD, "qlora-r8": GOOD})
    frame, _ = judged(one_job(runs(ALL)), quality, noise_table(0.02), train_s=62, cheapest="time")
    share = np.sqrt(1 / 5 + (0.02 * 60) ** 2) / 60
    high = 60 * np.exp(stats.t.ppf(0.975, 4) * np.sqrt(np.log1p(share**2)))
    assert frame.loc["lora-r4", "train_s_high"] == pytest.approx(high)
    half = stats.t.ppf(0.975, 4) * np.sqrt(4 / 5 + 0.02**2 * (60**2 + 100**2))
    assert frame["train_s_kept"].to_dict() == {
        "full": "no", "lora-r4": "cannot say", "lora-r8": "cannot say", "qlora-r8": "no"
    }  # fmt: skip
    assert pd.isna(frame.loc["lora-r4", "train_s_seeds_needed"])
    text = recommendation_markdown(frame.reset_index(), NO_LIMITS | {"train_s": 62, "cheapest": "time"})
    assert "seeds in jobs of their own (seeds_per_job: 1) would tell more" in text
    assert "by the noise table a standard deviation of 2 % of training time." in text
    frame, _ = judged(one_job(runs(ALL)), quality, noise_table(0.02, n=4), cheapest="time")
    half = stats.t.ppf(0.975, 3) * np.sqrt(4 / 5 + 0.02**2 * (60**2 + 61**2))
    assert frame.loc["lora-r8", "apart_high"] == pytest.approx(1 + half)
    text = recommendation_markdown(frame.reset_index(), NO_LIMITS | {"cheapest": "time"})
    assert (
        "Noise in the training time of LoRA r8 hides more than 5 %: it was judged by its mean, "
        "and a job for each seed (seeds_per_job: 1) would tell."
    ) in text


def test_an_interval_beyond_the_margin_that_the_corrected_test_does_not_bear_out_decides_nothing():
    """Both tables rest on p values with Holm's correction; the interval has none."""
    uncertain = compared({"lora-r4": BAD, "lora-r8": BAD})
    uncertain["p_worse_holm"] = [None, 0.024, 0.026]
    frame, _ = judged(runs(["full", "lora-r4", "lora-r8"]), uncertain)
    assert frame["quality"].to_dict() == {"full": "yes", "lora-r4": "no", "lora-r8": "cannot say"}
    text = recommendation_markdown(frame.reset_index(), NO_LIMITS)
    assert "Intervals of differences are of one arm each, without Holm's correction" in text
    assert "without Holm" not in recommendation_markdown(
        judged(runs(["full", "lora-r4"]), compared({"lora-r4": BAD}))[0].reset_index(), NO_LIMITS
    )


@pytest.mark.parametrize(
    ("other", "changes", "said"),
    [
        (GOOD, {"verdict": "equivalent"}, "(equivalent, within 1 point); it keeps within the margin there, too."),
        (OPEN, {}, "(undecided); there it is not proven to keep within the margin."),
        (
            (-0.011, 0.003, 0.9),
            {"verdict": "worse"},
            "(worse): the splits disagree. On test it is proven to lose less than the margin, on heldout it is proven "
            "worse than full, and not proven to lose less than the margin; which of them counts is yours to say.",
        ),
        (BAD, {"verdict": "worse"}, "on heldout it is proven to lose more than the margin; which of them counts is"),
        ("the metric is not defined without some of the test examples", {}, None),
    ],
)
def test_what_the_other_split_says_of_the_recommended_arm(other, changes, said):
    heldout = compared({"lora-r8": other}, split="heldout", test_rows=6737, **changes)
    both = pd.concat([compared({"lora-r8": GOOD}), heldout])
    frame, taken = judged(runs(["full", "lora-r8"]), both)
    assert taken.startswith("Take LoRA r8") and frame.loc["lora-r8", "quality"] == "yes"
    text = recommendation_markdown(frame.reset_index(), NO_LIMITS)
    if said is None:
        assert "On the heldout split" not in text
        return
    (line,) = (line for line in text.splitlines() if line.startswith("- On the heldout split (6,737 examples): "))
    assert " points against full (" in line and said in line
    assert frame.loc["lora-r8", "other_difference"] == other[0]
    swapped, _ = judged(runs(["full", "lora-r8"]), both, split="heldout")
    assert swapped.loc["lora-r8", "other_split"] == "test" and swapped.loc["lora-r8", "difference"] == other[0]


def test_the_other_split_is_told_of_every_arm():
    said = {
        "full": ((-0.004, 0.003, 0.01), "worse"), "lora-r4": (GOOD, "equivalent"),
        "lora-r8": ((-0.011, 0.003, 0.9), "worse"), "qlora-r8": (BAD, "worse"),
    }  # fmt: skip
    heldout = pd.concat(
        compared({arm: found}, split="heldout", test_rows=6737, verdict=verdict).query("arm == @arm")
        for arm, (found, verdict) in said.items()
    )
    alike = compared({arm: GOOD for arm in said if arm != "full"})
    text = recommendation_markdown(judged(runs(list(said)), pd.concat([alike, heldout]))[0].reset_index(), NO_LIMITS)
    disagreeing = [line.partition("disagrees on ")[2] for line in text.splitlines() if "split disagrees" in line]
    assert disagreeing == [
        "LoRA r8: proven worse than full, and not proven to lose less than the margin there.",
        "QLoRA r8: proven to lose more than the margin there.",
    ]
    assert "On heldout, points" in text and "(equivalent, within 1 point) |" in text and text.count("(worse)") == 3
    alone = recommendation_markdown(judged(runs(list(said)), alike)[0].reset_index(), NO_LIMITS)
    assert "heldout" not in alone


def elsewhere(
    quality: dict[str, Any], other: dict[str, Any], ran: list[dict[str, Any]] | None = None, **limits: Any
) -> list[str]:
    """What is said of the split that does not judge."""
    found = pd.concat([compared(quality), compared(other, split="heldout", test_rows=6737)])
    frame, _ = judged(ran or runs(ALL), found, **limits)
    text = recommendation_markdown(frame.reset_index(), NO_LIMITS | limits)
    return [line for line in text.splitlines() if "does not judge here" in line]


def test_what_the_other_split_proves_is_told_where_no_arm_qualifies():
    undecided = dict.fromkeys(ALL[1:], OPEN)
    start = "- The heldout split (6,737 examples), which does not judge here, proves of "
    end = (
        ". Where heldout was carved from train, its examples may be like each other and like those trained on, and "
        "what is proven is proven for such texts only. recommendation.split: heldout judges by it; to choose the split "
        "once the results are seen weakens what it proves."
    )
    r4, r8 = "LoRA r4 that it loses less than the margin", "LoRA r8 that it loses less than the margin"
    assert elsewhere(undecided, {"lora-r4": BAD, "lora-r8": GOOD, "qlora-r8": GOOD}) == [
        f"{start}LoRA r8 and QLoRA r8 that they lose less than the margin; of LoRA r4 that it loses more than the "
        f"margin{end}"
    ]
    worse = undecided | {"lora-r4": BAD}
    assert elsewhere(worse, undecided | {"lora-r4": GOOD}) == [f"{start}{r4}, against what is proven here{end}"]
    r8_good = undecided | {"lora-r8": GOOD}
    assert elsewhere(worse, worse | r8_good | {"lora-r4": BAD}) == [f"{start}{r8}{end}"]
    assert elsewhere(undecided, undecided | {"lora-r4": (-0.004, 0.01, 0.06)}) == []
    assert elsewhere(undecided, undecided | {"qlora-r8": GOOD}, memory_GiB=550 / 1024) == []  # it is over the limit
    assert elsewhere(undecided, r8_good, train_s=61) == []  # it may be over the limit
    assert elsewhere(undecided, undecided | {"lora-r4": BAD}) == []
    assert elsewhere(undecided, dict.fromkeys(ALL[1:], "no test")) == []
    assert elsewhere(undecided | {"lora-r4": GOOD}, r8_good) == []  # one is recommended
    cheap = [run | {"probe_peak_allocated_MiB": 100.0} if run["arm"] == "full" else run for run in runs(ALL)]
    assert elsewhere(undecided | {"lora-r4": GOOD}, r8_good, cheap) == []  # the baseline is, of two that qualify
    failed = [run for run in runs(ALL) if (run["arm"], run["seed"]) != ("lora-r8", 4)]
    assert elsewhere(undecided, r8_good, [*failed, synthetic.oom("lora", 8, 4, device="cuda")]) == []
    assert elsewhere(r8_good, undecided, split="heldout") == [
        f"- The test split (872 examples), which does not judge here, proves of {r8}. recommendation.split: test "
        "judges by it; to choose the split once the results are seen weakens what it proves."
    ]


def test_a_comparison_without_the_split_asked_for_is_named():
    for comparison in (compared({"lora-r8": GOOD}), compared({}, split="heldout")):
        with pytest.raises(InputError, match=r"comparison\.csv: no row of sst2/distilbert/\S+ on the split 'heldout'"):
            judged(runs(["full", "lora-r8"]), comparison, split="heldout")


def test_costs_have_four_digits_at_most():
    summaries = runs(["full", "lora-r8"])
    for run in summaries:
        run["probe_peak_allocated_MiB"] += 0.001 * run["seed"]
        run["train_s"] = 22.1384 + 0.001 * run["seed"]
    frame, _ = judged(summaries, compared({"lora-r8": GOOD}))
    text = recommendation_markdown(frame.reset_index(), NO_LIMITS)
    assert "peak memory 512.0 MiB (full 900.0 MiB); training time 22.14 s (full 22.14 s)" in text


def test_memory_is_limited_in_gib():
    quality = compared({"lora-r4": OPEN, "lora-r8": GOOD, "qlora-r8": GOOD})
    frame, said = judged(runs(ALL), quality, memory_GiB=0.5)
    assert frame["memory_MiB_kept"].to_dict() == {"full": "no", "lora-r4": "yes", "lora-r8": "yes", "qlora-r8": "no"}
    assert said == (
        "Take LoRA r8: it is the only arm that qualifies; its peak memory is 512 MiB (full 900 MiB), and it "
        "is proven to lose less than 1 point of accuracy."
    )
    _, said = judged(runs(ALL), quality, memory_GiB=0.4, train_s=70)
    assert said == (
        "No arm qualifies: full and QLoRA r8 (over the limit of memory; over the limit of time); LoRA r4 and LoRA r8 "
        "(over the limit of memory); LoRA r8 comes nearest, with 512 MiB of peak memory."
    )


def told(
    comparison: pd.DataFrame, ran: list[dict[str, Any]] | None = None, **limits: Any
) -> tuple[str, dict[str, str]]:
    """The arm taken, and which rule decided against those as cheap."""
    frame, _ = judged(ran or runs(ALL[:3]), comparison, **limits)
    return frame.index[frame["cheapest"].eq(True)][0], frame["told_by"].dropna().to_dict()


def test_of_arms_that_cost_the_same_one_is_taken_by_the_rule():
    """500 and 512 MiB are the same; LoRA r4 has the lower mean and the smaller rank."""
    both = {"lora-r4": GOOD, "lora-r8": GOOD}
    assert told(compared(both)) == ("lora-r4", {"lora-r8": "rank"})
    surer = compared(both | {"lora-r4": (-0.003, 0.0021, 0.01)})
    assert told(surer) == ("lora-r8", {"lora-r4": "bound"})
    nearly = compared(both | {"lora-r4": (-0.001, 0.0029, 0.01)})  # within a tenth of the margin
    assert told(nearly) == ("lora-r4", {"lora-r8": "rank"})
    tuned = compared(both).assign(rate="tuned")
    for column, value in (("rates_as_good", "0.001"), ("edge", "highest"), ("rate", "given")):
        assert told(tuned.assign(**{column: [None, value, tuned[column][2]]})) == ("lora-r8", {"lora-r4": "rate"})
        assert told(tuned.assign(**{column: [None, value, value]})) == ("lora-r4", {"lora-r8": "rank"})
    apart = [run | {"probe_peak_allocated_MiB": 526.0} if run["arm"] == "lora-r8" else run for run in runs(ALL[:3])]
    assert told(surer, apart) == ("lora-r4", {})  # 5.2 % above the lowest


def test_the_baseline_is_kept_where_it_costs_the_same_and_others_may_lose():
    equal = [run | {"probe_peak_allocated_MiB": 500.0} for run in runs(ALL[:3])]
    comparison = compared({"lora-r4": GOOD, "lora-r8": GOOD})
    assert told(comparison, equal) == ("full", {"lora-r4": "bound", "lora-r8": "bound"})
    better = compared({"lora-r4": (0.02, 0.01, 0.001), "lora-r8": GOOD})
    assert told(better, equal) == ("lora-r4", {"full": "bound", "lora-r8": "bound"})
    _, said = judged(equal, better)
    assert said.endswith("500 MiB (full 500 MiB), and it is proven to lose less than 1 point of accuracy.")
    frame, _ = judged(equal, compared({"lora-r4": (0.0, 0.0, 0.001), "lora-r8": (0.0, 0.0, 0.001)}))
    assert frame["told_by"].dropna().to_dict() == {"full": "rank", "lora-r8": "rank"}


def test_arms_of_one_rank_are_taken_in_their_order():
    same = [run | {"probe_peak_allocated_MiB": 510.0} if run["arm"] != "full" else run for run in runs(ALL)]
    ran = [run for run in same if run["arm"] != "lora-r4"]
    assert told(compared({"lora-r8": GOOD, "qlora-r8": GOOD}), ran) == ("lora-r8", {"qlora-r8": "order"})


def test_noise_of_a_cost_that_hides_more_than_5_percent_is_told():
    quality = compared({"lora-r4": GOOD, "lora-r8": GOOD, "qlora-r8": GOOD})
    frame, said = judged(runs(ALL), quality, cheapest="time")
    half = 2 * HALF  # seed by seed the two spread in opposite directions
    assert frame.loc["lora-r8", ["apart", "apart_low", "apart_high"]].to_list() == pytest.approx(
        [1, 1 - half, 1 + half]
    )
    assert frame["cost_unsure"].to_dict() == {"full": False, "lora-r4": None, "lora-r8": True, "qlora-r8": False}
    assert said == (
        "Take LoRA r4: of the 4 arms that qualify it has the shortest training time, 60.0 s (full 100 s), and it is "
        "proven to lose less than 1 point of accuracy."
    )
    text = recommendation_markdown(frame.reset_index(), NO_LIMITS | {"cheapest": "time"})
    assert "- Noise in the training time of LoRA r8 hides more than 5 %" in text and "more seeds would tell.\n" in text


def test_the_rule_is_printed_once_and_how_many_runs_went_well():
    frame, _ = judged(runs(ALL[:3]), compared({"lora-r4": GOOD, "lora-r8": GOOD}))
    text = recommendation_markdown(frame.reset_index(), NO_LIMITS)
    assert text.count("Of the arms that qualify one is taken by this rule: costs within 5 % of the lowest") == 1
    assert "- LoRA r4: 5 of 5 runs went well, which leaves a failure rate of up to 45 %.\n" in text
    assert "1 point is 10 % more errors than full makes." in text and "some false claim" not in text


def test_what_two_splits_together_may_claim_falsely_is_told():
    both = pd.concat([compared({"lora-r8": GOOD}), compared({"lora-r8": GOOD}, split="heldout", test_rows=6737)])
    text = recommendation_markdown(judged(runs(["full", "lora-r8"]), both)[0].reset_index(), NO_LIMITS)
    assert "2 tables together have up to 10 %." in text


def test_a_cheaper_arm_that_is_undecided_is_named_with_what_would_decide():
    quality = compared({"lora-r4": OPEN, "lora-r8": OPEN, "qlora-r8": GOOD})
    dear = [run | {"probe_peak_allocated_MiB": 550.0} if run["arm"] == "lora-r8" else run for run in runs(ALL)]
    frame, said = judged(dear, quality)
    assert said.startswith("Take QLoRA r8: of the 2 arms that qualify it has the lowest peak memory, 560 MiB")
    text = recommendation_markdown(frame.reset_index(), NO_LIMITS)
    assert (
        "- LoRA r4 may cost less, but it cannot be said that it qualifies: not proven to keep within the margin "
        "(-0.6 [-1.4, +0.2] points); about 9 seeds with these test examples would prove it with a probability of 80 %, "
        "if this is the true difference.\n"
    ) in text
    assert "- Cannot be said of LoRA r8: not proven" in text  # 2 % less is the same
    few = quality.assign(seeds_needed=None, examples_needed=505)
    text = recommendation_markdown(judged(runs(ALL), few)[0].reset_index(), NO_LIMITS)
    assert (
        "about 510 test examples with these seeds would prove it with a probability of 80 %, if this is the true "
        "difference; 100 seeds with these test examples would not."
    ) in text


def test_it_refuses_where_only_the_baseline_is_known_to_qualify():
    _, said = judged(runs(["full", "lora-r8"]), compared({"lora-r8": OPEN}))
    assert said == (
        "No recommendation: LoRA r8 may cost less than full, the baseline, but these runs cannot say whether it "
        "qualifies; about 9 seeds (there are 5) would probably decide."
    )
    _, said = judged(runs(["full", "lora-r8"]), compared({"lora-r8": BAD}))
    assert said == "Keep full, the baseline: no arm that may cost less qualifies."
    dearer = runs(["full", "lora-r8"])
    for run in dearer:
        run["probe_peak_allocated_MiB"] += 500 if run["method"] == "lora" else 0
    assert judged(dearer, compared({"lora-r8": OPEN}))[1].startswith("Keep full")


@pytest.mark.parametrize(
    ("arms", "named"), [(5, "LoRA r1, LoRA r2, LoRA r3, LoRA r4 and LoRA r5"), (6, "6 other arms")]
)
def test_many_undecided_arms_are_counted_in_the_answer_and_named_below(arms, named, monkeypatch):
    ranks = [f"lora-r{rank}" for rank in range(1, arms + 1)]
    for rank in ranks:
        monkeypatch.setitem(MEMORY, rank, 500.0)
        monkeypatch.setitem(TIME, rank, 60.0)
    frame, said = judged(runs(["full", *ranks]), compared(dict.fromkeys(ranks, OPEN)))
    assert said.startswith(f"No recommendation: {named} may cost less than full, the baseline, but these runs")
    assert said.endswith("whether any of them qualifies; about 9 seeds (there are 5) would probably decide on LoRA r1.")
    text = recommendation_markdown(frame.reset_index(), NO_LIMITS)
    all_of_them = f"{', '.join(f'LoRA r{rank}' for rank in range(1, arms))} and LoRA r{arms}"
    assert f"- {all_of_them} may cost less, but it cannot be said that they qualify: " in text
    _, limited = judged(runs(["full", *ranks]), compared(dict.fromkeys(ranks, OPEN)), memory_GiB=0.7)
    which = named.replace(" and", " or") if arms == 5 else "any of 6 arms"
    assert limited.startswith(f"No recommendation: these runs cannot say whether {which} qualifies (full does not); ")


def test_a_worse_point_estimate_is_no_proof_of_being_worse():
    frame, _ = judged(runs(["full", "lora-r8"]), compared({"lora-r8": (-0.012, 0.005, 0.9)}))
    assert frame.loc["lora-r8", "quality"] == "cannot say"
    text = recommendation_markdown(frame.reset_index(), NO_LIMITS)
    assert "as the runs stand it loses more than the margin, and more of them would rather show that" in text


def test_one_seed_has_no_interval_and_proves_nothing():
    quality = compared({"lora-r8": "1 seed, where 3 or more are needed"})
    frame, said = judged(runs(["full", "lora-r8"], 1), quality, train_s=62)
    assert frame["train_s_kept"].to_dict() == {"full": "no", "lora-r8": "yes"} and frame["train_s_low"].isna().all()
    assert said == (
        "No recommendation: these runs cannot say whether LoRA r8 qualifies (full does not); LoRA r8 has no test yet "
        "(1 seed, where 3 or more are needed)."
    )
    text = recommendation_markdown(frame.reset_index(), NO_LIMITS | {"train_s": 62})
    assert "Cannot be said of LoRA r8: 1 seed, where 3 or more are needed." in text
    assert "A cost of one seed has no interval and was judged by its value." in text


def test_an_arm_that_sometimes_fails_is_not_recommended():
    summaries = runs(["full", "lora-r8", "qlora-r8"])
    summaries[5] = synthetic.diverged("lora", 8, 0, device="cuda")
    summaries[10:] = [synthetic.oom("qlora", 8, seed, device="cuda") for seed in range(5)]
    quality = compared({"lora-r8": GOOD, "qlora-r8": "no seed of which both this arm and the baseline have a metric"})
    frame, said = judged(summaries, quality)
    assert frame["qualifies"].to_dict() == {"full": "yes", "lora-r8": "cannot say", "qlora-r8": "no"}
    assert frame.loc["lora-r8", "why"] == "1 of 5 runs diverged at step 17"
    assert frame.loc["qlora-r8", "why"] == "all 5 runs out of memory in probe, 12.0 GiB asked for"
    assert said.startswith("No recommendation: LoRA r8 may cost less than full, the baseline, but these runs")
    assert said.endswith("; find out first why some runs of LoRA r8 fail.")
    text = recommendation_markdown(frame.reset_index(), NO_LIMITS)
    assert "1 of 5 runs diverged at step 17, which leaves a failure rate of up to 66 %." in text


def test_costs_are_compared_over_the_seeds_that_both_arms_have():
    summaries = runs(["full", "lora-r4", "lora-r8"])
    for run in summaries:
        if run["arm"] == "lora-r8" and run["seed"] > 2:
            run |= {"train_s": None, "null_reasons": {"train_s": "lost"}}
    frame, _ = judged(summaries, compared({"lora-r4": GOOD, "lora-r8": GOOD}), cheapest="time")
    shared = np.array([1.0 - 2 * spread for spread in SPREAD[:3]])
    assert frame.loc["lora-r8", "apart"] == pytest.approx(shared.mean())
    half = stats.t.ppf(0.975, 2) * shared.std(ddof=1) / np.sqrt(3)
    assert frame.loc["lora-r8", "apart_high"] == pytest.approx(shared.mean() + half)


def test_a_baseline_without_a_result_leaves_nothing_to_judge_by():
    summaries = [synthetic.oom("full", None, seed, device="cuda") for seed in range(5)] + runs(["lora-r8"])
    quality = compared({"lora-r8": "no seed of which both this arm and the baseline have a metric"})
    quality.loc[0, ["mean", "reason"]] = [None, "no completed run that has a metric"]
    frame, said = judged(summaries, quality)
    assert said.startswith("No recommendation: full, the baseline, has no result (all 5 runs out of memory in probe")
    assert "set comparison.baseline to one of them" in recommendation_markdown(frame.reset_index(), NO_LIMITS)


def test_one_arm_alone():
    assert judged(runs(["full"]), compared({}))[1] == "Nothing to choose: full is the only arm."
    _, said = judged(runs(["full"]), compared({}), train_s=200)
    assert said == "Nothing to choose: full is the only arm, and keeps the limits."
    assert judged(runs(["full"]), compared({}), train_s=50)[1] == (
        "No arm qualifies: full (over the limit of time); full comes nearest, with 100 s of training time."
    )


def test_energy_that_was_not_measured_decides_nothing():
    frame, said = judged(runs(["full", "lora-r8"], device="cpu"), compared({"lora-r8": GOOD}), cheapest="energy")
    assert said == (
        "No recommendation by energy: full and LoRA r8 qualify, but of their energy nothing can be said (it was not "
        "measured); set recommendation.cheapest to what was measured."
    )
    frame, _ = judged(runs(["full", "lora-r8"], device="cpu"), compared({"lora-r8": GOOD}), energy_J=100.0)
    assert frame["why"].unique().tolist() == ["energy not known (no CUDA device: the run was on the CPU)"]


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        ({"recommendation": {"cheapest": "energy"}}, "recommendation.cheapest: energy: "),
        ({"recommendation": {"energy_J": 5000}}, "recommendation.energy_J: "),
        ({"budgets": {"energy_J": [5000]}}, "budgets.energy_J: "),
    ],
)
def test_energy_that_a_cpu_does_not_measure_is_refused_before_any_job(asked, key):
    with pytest.raises(InputError, match=f"^config key {key}training.device is cpu"):
        resolve(tiny.config(Path(), **asked))
    config = tiny.config(Path(), **asked)
    config["training"]["device"] = "cuda"
    resolve(config)


def test_costs_of_different_devices_are_not_compared():
    summaries = runs(["full", "lora-r8"])
    for run in summaries:
        run["device_name"] = "NVIDIA A100-SXM4-80GB" if run["method"] == "lora" else run["device_name"]
    frame, said = judged(summaries, compared({"lora-r8": GOOD}), cheapest="time")
    assert not frame["cheapest"].any() and "(not all runs ran on the same device)" in said


def test_random_weights_are_judged_by_costs_alone():
    summaries = [
        synthetic.randomly(*pair(arm), seed, device="cuda", probe_peak_allocated_MiB=MEMORY[arm])
        for arm in ALL for seed in range(3)
    ]  # fmt: skip
    frame, said = judged(summaries, pd.DataFrame(columns=list(COLUMNS)), memory_GiB=0.6)
    assert frame["qualifies"].to_dict() == {"full": "no", "lora-r4": "yes", "lora-r8": "yes", "qlora-r8": "yes"}
    assert said == (
        "Costs alone, since the weights are random and say nothing of quality: LoRA r4 has the lowest peak memory of "
        "the arms that keep the limits, 500 MiB."
    )
    assert "non-inferiority" not in recommendation_markdown(frame.reset_index(), NO_LIMITS | {"memory_GiB": 0.6})


def test_a_regression_metric():
    quality = compared({"lora-r8": GOOD}, metric="pearson")
    changes = {"task": "regression", "metric": "pearson"}
    frame, _ = judged(runs(["full", "lora-r8"], **changes), quality)
    text = recommendation_markdown(frame.reset_index(), NO_LIMITS)
    assert "Asked for: Pearson correlation proven to be less than 0.01 below that of full;" in text
    assert "Pearson correlation 0.900 [0.890, 0.910], -0.001 [-0.003, +0.001] against full" in text


def test_a_section_a_data_set():
    other = [run | {"dataset": "imdb"} for run in runs(["full", "lora-r8"])]
    first = compared({"lora-r8": GOOD})
    frame = recommendation_frame(
        tables.runs_frame(runs(["full", "lora-r8"]) + other),
        pd.concat([first, compared({"lora-r8": BAD}).assign(dataset="imdb")]),
        NO_LIMITS,
    )
    text = recommendation_markdown(frame, NO_LIMITS)
    assert "## sst2 · distilbert\n\n**Take LoRA r8" in text and "## imdb · distilbert\n\n**Keep full" in text


def test_the_workflow_recommends(finished):
    folder = finished / "results/tables"
    text = (folder / "recommendation.md").read_text()
    # The resident set of so small a model is noise: now and then full has the smallest.
    assert text.startswith(("## reviews · tiny\n\n**No recommendation: ", "## reviews · tiny\n\n**Keep full"))
    rows = pd.read_csv(folder / "recommendation.csv").set_index("arm")
    assert rows["quality"].to_dict() == {"full": "yes", "lora-r4": "cannot say", "qlora-r4": "cannot say"}
    assert rows.loc["lora-r4", "quality_why"] == "2 seeds, where 3 or more are needed"


def test_the_command_line(tmp_path):
    summaries = runs(["full", "lora-r8"])
    synthetic.write(tmp_path, summaries)
    compared({"lora-r8": GOOD}).to_csv(tmp_path / "comparison.csv", index=False)
    grid = {"dataset": ["sst2"], "model": ["distilbert"], "arm": ["full", "lora-r8"], "seed": [0, 1, 2, 3, 4]}
    words = ["--runs-dir", str(tmp_path / "runs"), "--grid", json.dumps(grid), "--output-dir", str(tmp_path)]
    words += ["--comparison", str(tmp_path / "comparison.csv"), "--noise", str(tmp_path / "noise.csv")]
    noise_table(0.001).to_csv(tmp_path / "noise.csv", index=False)
    words += ["--contract", str(synthetic.contract(tmp_path, summaries, lora="batch_size"))]
    words += ["--limits", '{"cheapest": "time"}']
    script = tiny.REPOSITORY / "workflow_scripts/recommend.py"
    forks.script(script, *words).check_returncode()
    assert (
        "**Take LoRA r8: of the 2 arms that qualify it has the shortest" in (tmp_path / "recommendation.md").read_text()
    )
    assert (
        "Not all else is equal: LoRA r8 differs from full in batch_size."
        in (tmp_path / "recommendation.md").read_text()
    )
    assert pd.read_csv(tmp_path / "recommendation.csv")["cheapest"].tolist() == [False, True]
    words[-1] = '{"memory": 1}'
    done = forks.script(script, *words)
    assert done.returncode == 1 and "--limits: unknown memory; known are memory_GiB" in done.stderr


def test_a_comparison_of_an_older_version_is_refused(tmp_path):
    path = tmp_path / "comparison.csv"
    with pytest.raises(InputError, match=r"no such file; make it again with compare_arms\.py"):
        read_comparison(path)
    compared({}).drop(columns="p_not_worse").to_csv(path, index=False)
    with pytest.raises(InputError, match="no column p_not_worse; make it again"):
        read_comparison(path)


@pytest.mark.parametrize("first", ["cpu", "cuda"])
def test_memory_of_a_cpu_is_not_compared_with_that_of_a_gpu(first):
    """On a CPU it is the sum of tensors, on a GPU what was allocated, whichever comes first."""
    other = {"cpu": "cuda", "cuda": "cpu"}[first]
    mixed = [
        synthetic.summary(*arm, seed, device=device)
        for arm, device in ((("full", None), first), (("lora", 8), other))
        for seed in range(5)
    ]
    frame, _ = judged(mixed, compared({"lora-r8": GOOD}))
    assert set(frame["incomparable"]) == {"not all runs ran on the same device"}
    assert not frame["cheapest"].fillna(False).any()

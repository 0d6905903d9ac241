"""Words of the recommendation: an arm's costs and differences, what would decide it, what to do next."""

from typing import Any

import numpy as np

from peft_tradeoffs.analysis.comparison import BETTER, BETTER_WITHIN, FAILED, SHARED, TUNED, WORSE, WORSE_WITHIN
from peft_tradeoffs.analysis.comparison_text import (
    margin_words,
    p_value,
    verdict_words,
    with_interval,
)
from peft_tradeoffs.analysis.equal_cost import round_up
from peft_tradeoffs.analysis.power import ALPHA, MOST_ROWS
from peft_tradeoffs.analysis.readable import (
    NULL,
    number,
)
from peft_tradeoffs.analysis.recommendation import (
    COSTS,
    NO,
    TESTS,
    UNKNOWN,
    YES,
    unfit_to_judge,
)
from peft_tradeoffs.analysis.stats import MOST_SEEDS, failure_rate
from peft_tradeoffs.core.text import and_list, arm_label
from peft_tradeoffs.tasks.metrics import metric_called, metric_words

Row = dict[str, Any]  # of `recommendation.recommendation_frame`, None where nothing stands
NOUN = {"memory": "peak memory", "time": "training time", "energy": "energy"}
UNITS = {"memory": "MiB", "time": "s", "energy": "J"}


def arm_name(row: Row) -> str:
    """As in tables: "LoRA r8"."""
    return arm_label(row["method"], row["rank"])


def arm_names(rows: list[Row], word: str = "and") -> str:
    """Names in a row, `word` before the last."""
    return and_list([arm_name(row) for row in rows], word)


def verb(rows: list[Row], one: str = "does", several: str = "do") -> str:
    """What goes with these arms' names."""
    return one if len(rows) == 1 else several


def cost_words(row: Row, name: str, with_unit: bool = True) -> str:
    """The cost `name` of COSTS with its interval."""
    column = COSTS[name]
    text = with_interval(row[column], row[f"{column}_low"], row[f"{column}_high"], 1.0)
    return f"{text} {UNITS[name]}" if with_unit and text != NULL else text


def difference_words(row: Row, with_unit: bool = False, on: str = "") -> str:
    """The difference to the baseline, with the interval at the best rate tried; `on`: "other_" for the other split."""
    if row[f"{on}difference"] is None:
        return NULL
    metric = metric_called(row["metric"])
    value, low, high = (row[f"{on}{key}"] for key in ("difference", "at_best_low", "at_best_high"))
    text = with_interval(value, low, high, metric.scale, sign=True)
    return f"{text} {metric.apart}" if with_unit and metric.apart else text


def facts_of(best: Row, baseline: Row | None) -> str:
    """What the recommended arm reaches and costs, beside the baseline."""
    facts = []
    if best["mean"] is not None:
        metric = metric_called(best["metric"])
        low, high = (None if best[key] is None else np.clip(best[key], *metric.bounds) for key in ("low", "high"))
        value = with_interval(best["mean"], low, high, metric.scale)
        facts.append(f"{metric_words(best)} {value} {metric.unit}".rstrip())
    against = baseline if baseline is not best else None
    if against is not None and best["difference"] is not None:
        p = p_value(best["p_not_worse_holm"])
        against_it = f"{difference_words(best, with_unit=True)} against {arm_name(against)}"
        facts[-1] += f", {against_it} (p of non-inferiority {p})"
    for name, column in COSTS.items():
        if best[column] is not None:
            facts.append(f"{NOUN[name]} {cost_words(best, name)}")
            if against is not None and against[column] is not None:
                facts[-1] += f" ({arm_name(against)} {cost_words(against, name)})"
    return "; ".join(facts)


def on_other_split(best: Row, baseline: Row) -> str:
    """What the split that does not judge says of the recommended arm, and whether it agrees."""
    split, judged = best["other_split"], "test" if best["other_split"] == "heldout" else "heldout"
    found = f"{difference_words(best, with_unit=True, on='other_')} against {arm_name(baseline)}"
    said = f"On the {split} split ({best['other_test_rows']:,.0f} examples): {found}"
    if best["other_p_not_worse_holm"] is None:
        return f"{said}, without a test"
    said += f" ({verdict_words(best, 'other_verdict')})"
    if best["other_p_not_worse_holm"] < ALPHA:
        return f"{said}; it keeps within the margin there, too"
    proven = disagreement(best, baseline)
    if not proven:
        return f"{said}; there it is not proven to keep within the margin"
    return (
        f"{said}: the splits disagree. On {judged} it is proven to lose less than the margin, on {split} it is proven "
        f"{proven}; which of them counts is yours to say"
    )


def disagreement(row: Row, baseline: Row) -> str:
    """What the other split proves against an arm that qualifies by the one that judges, or nothing."""
    if row["other_p_not_worse_holm"] is None or row["other_p_not_worse_holm"] < ALPHA:
        return ""
    if row["other_p_worse_holm"] < ALPHA / 2:
        return "to lose more than the margin"
    if row["other_verdict"] in (WORSE, WORSE_WITHIN):
        return f"worse than {arm_name(baseline)}, and not proven to lose less than the margin"
    return ""


def proven_elsewhere(rows: list[Row]) -> str:
    """What the split that does not judge proves of arms that nothing but their quality keeps from qualifying.

    Empty where it proves of none that it keeps within the margin.
    """
    tested = [row for row in rows if row["other_p_not_worse_holm"] is not None and _but_for_quality(row)]
    less = [row for row in tested if row["other_p_not_worse_holm"] < ALPHA]
    if not less:
        return ""
    found = {
        "less than the margin": [row for row in less if row["quality"] == UNKNOWN],
        "more than the margin": [
            row for row in tested if row["quality"] == UNKNOWN and row["other_p_worse_holm"] < ALPHA / 2
        ],
        "less than the margin, against what is proven here": [row for row in less if row["quality"] == NO],
    }
    said = [
        f"of {arm_names(arms)} that {verb(arms, 'it loses', 'they lose')} {what}"
        for what, arms in found.items()
        if arms
    ]
    split, examples = less[0]["other_split"], less[0]["other_test_rows"]
    return f"The {split} split ({examples:,.0f} examples), which does not judge here, proves {'; '.join(said)}"


def _but_for_quality(row: Row) -> bool:
    return row["quality"] != YES and all(row[test] in (None, YES) for test in TESTS if test != "quality")


def cost_apart(row: Row, by: str) -> str:
    """An arm that qualifies too, and how far its cost lies from the cheapest one's."""
    if row[COSTS[by]] is None:
        return arm_name(row)
    if row["apart"] is None:
        return f"{arm_name(row)} ({NOUN[by]} {cost_words(row, by)})"
    text = with_interval(row["apart"], row["apart_low"], row["apart_high"], 1.0, sign=True)
    return f"{arm_name(row)} ({NOUN[by]} {text} {UNITS[by]})"


def how_far(row: Row) -> str:
    """The numbers by which an arm does not qualify."""
    found = [cost_words(row, name) for name, column in COSTS.items() if row[f"{column}_kept"] == NO]
    if row["quality"] == NO:
        found.append(difference_words(row, with_unit=True))
    return f" ({', '.join(found)})" if found else ""


def what_would_decide(row: Row, baseline: Row | None) -> str:
    """What is not known of an arm, and what would decide it."""
    said = []
    for test in TESTS:
        if row[test] != UNKNOWN:
            continue
        why = row[f"{test.removesuffix('_kept')}_why"]
        if test == "quality" and row["unstable"] is not None:
            why = (
                f"one of its {row['n']} runs lies far below the others ({row['unstable']}); more seeds would tell how "
                "often that happens"
            )
        elif test == "quality" and baseline is not None and unfit_to_judge(baseline):
            pass
        elif test == "quality" and row["p_not_worse_holm"] is not None:
            why = f"{why} ({difference_words(row, with_unit=True)}); {_needed(row, baseline)}"
        if test == "runs":
            rate = 100 * failure_rate(row["n_failed"], row["n"] + row["n_failed"])
            why += f", which leaves a failure rate of up to {rate:.0f} %"
        for name, column in COSTS.items():
            if test == f"{column}_kept" and row[column] is not None:
                seeds = row[f"{column}_seeds_needed"]
                more = "seeds in jobs of their own (seeds_per_job: 1) would tell more"
                why += (
                    f" ({cost_words(row, name)}); {more if seeds is None else f'{_about(seeds)} seeds would decide it'}"
                )
        said.append(why)
    return "; ".join(said)


def _examples(row: Row) -> str:
    return "groups of test rows" if row["test_groups"] is not None else "test examples"


def _needed(row: Row, baseline: Row | None) -> str:
    """How many seeds or test examples would prove an arm to keep within the margin, by what is known of its spread."""
    seeds, examples = row["seeds_needed"], row["examples_needed"]
    if row["difference"] <= -row["margin"]:
        return "as the runs stand it loses more than the margin, and more of them would rather show that"
    true = "if this is the true difference" if row["difference"] < 0 else "if the true difference is 0"
    if seeds is None and examples is None:
        why = ""
        if baseline is not None and _in_the_way(row, missed := missed_most(baseline)):
            why = f"; the choice of {arm_name(baseline)}'s learning rate may have missed {points_of(row, missed)}"
        return f"neither {MOST_SEEDS} seeds nor {MOST_ROWS:,} {_examples(row)} alone would prove it, {true}{why}"
    ways = [f"about {seeds:,} seeds with these {_examples(row)}"] if seeds is not None else []
    if examples is not None:
        ways.append(f"about {round_up(examples):,.0f} {_examples(row)} with these seeds")
    rest = f"; {MOST_SEEDS} seeds with these {_examples(row)} would not" if seeds is None else ""
    return f"{' or '.join(ways)} would prove it with a probability of 80 %, {true}{rest}"


NEAR = 0.5  # of the margin: a choice of a learning rate that may have missed as much stands in the way of a proof


def points_of(row: Row, value: float) -> str:
    """A difference of a row's metric without its sign: "3.3 points"; "0.012" of a metric without such a unit."""
    metric = metric_called(row["metric"])
    size = f"{abs(value) * metric.scale:.{1 if metric.apart else 3}f}"
    return f"{size} {metric.apart}".strip()


def at_worst(row: Row, baseline: Row) -> str:
    """The lower bound of the difference to the baseline in words: "at worst 3.3 points below full"."""
    low = row["at_best_low"]
    return f"at worst {points_of(row, low)} {'below' if low < 0 else 'above'} {arm_name(baseline)}"


def short_reason(row: Row) -> str:
    """Why an arm does not qualify, without the numbers of its failures."""
    reasons = [row[f"{test.removesuffix('_kept')}_why"] for test in TESTS if test != "runs" and row[test] == NO]
    return "; ".join([*(["no run was completed"] if row["runs"] == NO else []), *reasons])


def proven_loss(row: Row) -> str:
    """What is proven of the difference to the baseline: "is proven to lose less than 1 point of accuracy"."""
    if row["verdict"] in (BETTER, BETTER_WITHIN):
        return f"is proven to be better in {metric_words(row)}"
    return f"is proven to lose less than {margin_words(row)} of {metric_words(row)}"


def next_step(rows: list[Row], baseline: Row | None) -> str:
    """What to do next about arms that cannot be judged, and what it costs: of the arm that takes least."""
    if not rows:
        return ""
    row = min(rows, key=_effort)
    return _step(row, baseline, f" on {arm_name(row)}" if len(rows) > 1 else "")


def _effort(row: Row) -> tuple[int, float]:
    tested = row["quality"] == UNKNOWN and row["p_not_worse_holm"] is not None
    needed = [row[key] for key in ("seeds_needed", "examples_needed") if row[key] is not None]
    if row["runs"] == UNKNOWN or not (tested or row["quality"] == YES):
        return 2, 0.0
    return (0, float(row["seeds_needed"] or MOST_ROWS)) if needed else (1, -float(row["difference"] or 0.0))


def _step(row: Row, baseline: Row | None, on: str) -> str:
    """What to do next about one arm; `on` names it where that is not clear."""
    name = arm_name(row)
    if row["runs"] == UNKNOWN:
        return f"find out first why some runs of {name} fail"
    if row["quality"] == UNKNOWN:
        return _step_of_quality(row, baseline, on)
    for cost, column in COSTS.items():
        if row[f"{column}_kept"] == UNKNOWN:
            seeds = row[f"{column}_seeds_needed"]
            if row[column] is None:
                return f"measure the {NOUN[cost]} of {name} first"
            if seeds is None:
                return f"a job for each seed (seeds_per_job: 1) would tell more of the {NOUN[cost]} of {name}"
            return f"{_about(seeds)} seeds of {name} (there are {row['n']}) would tell whether it keeps the limit"
    return "the points say what would decide"


def _about(seeds: str) -> str:
    return f"about {seeds}" if seeds.isdigit() else seeds


def _step_of_quality(row: Row, baseline: Row | None, on: str) -> str:
    name = arm_name(row)
    if row["unstable"] is not None:
        return f"train more seeds of {name} to see how often one lies far below the others"
    if row["p_not_worse_holm"] is None:
        return f"{name} has no test yet ({row['quality_why']})"
    margin = f"a margin of {points_of(row, margin_kept(row))}"
    if row["difference"] <= -row["margin"]:
        return f"as the runs stand {name} loses more than the margin: try larger ranks or other learning rates"
    ways = []
    if row["seeds_needed"] is not None:
        ways.append(f"about {row['seeds_needed']:,} seeds (there are {row['n']})")
    if row["examples_needed"] is not None:
        counted, there = (
            ("groups of test rows", row["test_groups"])
            if row["test_groups"] is not None
            else ("test rows", row["test_rows"])
        )
        ways.append(f"about {round_up(row['examples_needed']):,.0f} {counted} (there are {there:,})")
    if ways:
        return f"{' or '.join(ways)} would probably decide{on}"
    if baseline is not None and _in_the_way(row, missed := missed_most(baseline)):
        return (
            f"the choice of {arm_name(baseline)}'s learning rate may have missed {points_of(row, missed)}: more dev "
            f"rows, or {margin}, would help"
        )
    return f"to decide{on} would take more than {MOST_SEEDS} seeds or {MOST_ROWS:,} test rows, or {margin}"


def margin_kept(row: Row) -> float:
    """The margin, in the metric's unit, that the lower bound of the difference keeps; a tenth of a point finer."""
    scale = metric_called(row["metric"]).scale
    step = 10.0 if scale > 1 else 1000.0
    return float(np.ceil(-row["at_best_low"] * scale * step) / step / scale)


def _in_the_way(row: Row, missed: float) -> bool:
    return bool(missed >= NEAR * row["margin"])


def missed_most(baseline: Row) -> float:
    """What the choice of the baseline's rate may have missed: an arm may lose so much more at the best of its rates."""
    return 0.0 if baseline["missed"] is None else baseline["missed"] + (baseline["missed_sd"] or 0.0)


def nearest(rows: list[Row]) -> str:
    """What would let an arm qualify where none does."""
    over = []
    for row in rows:
        lacking = [column for column in COSTS.values() if row[f"{column}_kept"] == NO]
        if lacking and all(row[test] in (None, YES) for test in ("runs", "predictions", "quality")):
            over.append((max(row[column] / row[f"{column}_limit"] for column in lacking), row, lacking))
    if not over:
        return "try larger ranks, other learning rates or a larger comparison.margin"
    _, row, lacking = min(over, key=lambda found: found[0])
    names = [name for name, column in COSTS.items() if column in lacking]
    needs = and_list([f"{number(row[COSTS[name]])} {UNITS[name]} of {NOUN[name]}" for name in names])
    return f"{arm_name(row)} comes nearest, with {needs}"


def may_lose(rows: list[Row]) -> str:
    """What each may lose at worst: "LoRA r8 may lose 4.7 points and LoRA r4 6.9 points"."""
    said = []
    for row in rows:
        low = row["at_best_low"] or 0.0
        verb_ = "may lose" if low < 0 else "may gain as little as"
        said.append(f"{arm_name(row)} {verb_} {points_of(row, low)}")
    return and_list(said)


def unsettled(rows: list[Row]) -> str:
    """Why the learning rates of these are not settled."""
    said = []
    for row in rows:
        name = arm_name(row)
        if row["rate"] == FAILED:
            said.append(f"no trial of {name} gave one that stands")
        elif row["rate"] not in (TUNED, SHARED):
            said.append(f"that of {name} was not tuned")
        elif row["edge"]:
            said.append(f"that of {name} is at the edge of those tried")
        else:
            said.append(f"that of {name} cannot be told from another one")
    return and_list(said)


def tells_cost(rows: list[Row], column: str) -> str:
    """What would tell how far costs differ."""
    shared = any(row.get(f"{column}_jobs") is not None and row[f"{column}_jobs"] < row[f"{column}_n"] for row in rows)
    return "a job for each seed (seeds_per_job: 1)" if shared else "more seeds"


def cost_beside(best: Row, baseline: Row | None, by: str) -> str:
    """The mean cost of the arm to take, beside the baseline's: "512 MiB (full 900 MiB)"."""
    column, unit = COSTS[by], UNITS[by]
    cost = f"{number(best[column])} {unit}"
    if baseline is None or baseline is best or baseline[column] is None:
        return cost
    return f"{cost} ({arm_name(baseline)} {number(baseline[column])} {unit})"

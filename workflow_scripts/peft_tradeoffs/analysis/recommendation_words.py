"""Arms of a recommendation in words: names, costs and differences, and what would decide where the runs do not."""

from typing import Any

import numpy as np

from peft_tradeoffs.analysis.budgets import round_up
from peft_tradeoffs.analysis.comparison import ALPHA, WORSE
from peft_tradeoffs.analysis.comparison_text import RANGE, p_value, with_interval
from peft_tradeoffs.analysis.readable import NULL, metric_scale
from peft_tradeoffs.analysis.recommendation import COSTS, NO, TESTS, UNKNOWN, YES
from peft_tradeoffs.analysis.stats import MOST_EXAMPLES, MOST_SEEDS
from peft_tradeoffs.core.arms import arm_label
from peft_tradeoffs.tasks.metric_names import metric_label

Row = dict[str, Any]  # of `recommendation.recommendation_frame`, None where nothing stands
NOUN = {"memory": "peak memory", "time": "training time", "energy": "energy"}
UNITS = {"memory": "MiB", "time": "s", "energy": "J"}


def metric_words(row: Row) -> str:
    """The metric within a sentence."""
    return "accuracy" if row["metric"] == "accuracy" else metric_label(row)


def arm_name(row: Row) -> str:
    """As in tables: "LoRA r8"."""
    return arm_label(row["method"], row["rank"])


def arm_names(rows: list[Row], word: str = "and") -> str:
    """Names in a row, `word` before the last."""
    names = [arm_name(row) for row in rows]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def verb(rows: list[Row], one: str = "does", several: str = "do") -> str:
    """What goes with these arms' names."""
    return one if len(rows) == 1 else several


def cost_words(row: Row, name: str, with_unit: bool = True) -> str:
    """The cost `name` of COSTS with its interval."""
    column = COSTS[name]
    text = with_interval(row[column], row[f"{column}_low"], row[f"{column}_high"], 1.0)
    return f"{text} {UNITS[name]}" if with_unit and text != NULL else text


def difference_words(row: Row, with_unit: bool = False, on: str = "") -> str:
    """The difference to the baseline; `on` is "other_" for that on the other split."""
    if row[f"{on}difference"] is None:
        return NULL
    scale = metric_scale(row["metric"])
    bounds = (row[f"{on}difference{part}"] for part in ("", "_low", "_high"))
    text = with_interval(*bounds, scale, sign=True)
    return f"{text} points" if with_unit and row["metric"] == "accuracy" else text


def facts_of(best: Row, baseline: Row | None) -> str:
    """What the recommended arm reaches and costs, beside the baseline."""
    facts = []
    if best["mean"] is not None:
        bounds = (None if best[key] is None else np.clip(best[key], *RANGE[best["metric"]]) for key in ("low", "high"))
        value = with_interval(best["mean"], *bounds, metric_scale(best["metric"]))
        facts.append(f"{metric_words(best)} {value}{' %' if best['metric'] == 'accuracy' else ''}")
    against = baseline if baseline is not best else None
    if against is not None and best["difference"] is not None:
        p = p_value(best["p_not_worse_holm"])
        against_it = f"{difference_words(best, with_unit=True)} against {arm_name(against)}"
        facts[-1] += f", {against_it} (p of non-inferiority {p})"
    for name, column in COSTS.items():
        if best[column] is not None:
            also = against is not None and against[column] is not None
            facts.append(
                f"{NOUN[name]} {cost_words(best, name)}"
                + (f" ({arm_name(against)} {cost_words(against, name)})" if also else "")
            )
    return "; ".join(facts)


def on_other_split(best: Row, baseline: Row) -> str:
    """What the split that does not judge says of the recommended arm, and whether it agrees."""
    split, judged = best["other_split"], "test" if best["other_split"] == "heldout" else "heldout"
    found = f"{difference_words(best, with_unit=True, on='other_')} against {arm_name(baseline)}"
    said = f"On the {split} split ({best['other_test_rows']:,.0f} examples): {found}"
    if best["other_p_not_worse_holm"] is None:
        return f"{said}, without a test"
    said += f" ({best['other_verdict']})"
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
    if row["other_verdict"] == WORSE:
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


def same_cost(row: Row) -> bool:
    """Whether the difference in cost to the cheapest arm cannot be told from 0."""
    return row["apart_low"] is not None and row["apart_low"] <= 0 <= row["apart_high"]


def cost_apart(row: Row, by: str) -> str:
    """An arm that qualifies too, and how far its cost lies from the cheapest one's."""
    if row[COSTS[by]] is None:
        return arm_name(row)
    if row["apart"] is None:
        return f"{arm_name(row)} ({NOUN[by]} {cost_words(row, by)})"
    text = with_interval(row["apart"], row["apart_low"], row["apart_high"], 1.0, sign=True)
    return f"{arm_name(row)} ({NOUN[by]} {text} {UNITS[by]}{', cannot be told from 0' if same_cost(row) else ''})"


def how_far(row: Row) -> str:
    """The numbers by which an arm does not qualify."""
    found = [cost_words(row, name) for name, column in COSTS.items() if row[f"{column}_kept"] == NO]
    if row["quality"] == NO:
        found.append(difference_words(row, with_unit=True))
    return f" ({', '.join(found)})" if found else ""


def what_would_decide(row: Row) -> str:
    """What is not known of an arm, and what would decide it."""
    said = []
    for test in TESTS:
        if row[test] != UNKNOWN:
            continue
        why = row[f"{test.removesuffix('_kept')}_why"]
        if test == "quality" and row["p_not_worse_holm"] is not None:
            why = f"{why} ({difference_words(row, with_unit=True)}); {_needed(row)}"
        for name, column in COSTS.items():
            if test == f"{column}_kept" and row[column] is not None:
                seeds = row[f"{column}_seeds_needed"]
                more = "seeds in jobs of their own (seeds_per_job: 1) would tell more"
                why += (
                    f" ({cost_words(row, name)}); {more if seeds is None else f'about {seeds} seeds would decide it'}"
                )
        said.append(why)
    return "; ".join(said)


def _needed(row: Row) -> str:
    """How many seeds or test examples would prove an arm to keep within the margin, by what is known of its spread."""
    seeds, examples = row["seeds_needed"], row["examples_needed"]
    if row["difference"] <= -row["margin"]:
        return "as the runs stand it loses more than the margin, and more of them would rather show that"
    true = "if this is the true difference" if row["difference"] < 0 else "if the true difference is 0"
    if seeds is None and examples is None:
        return f"neither {MOST_SEEDS} seeds nor {MOST_EXAMPLES:,} test examples alone would prove it, {true}"
    ways = [f"about {seeds:,} seeds with these test examples"] if seeds is not None else []
    if examples is not None:
        ways.append(f"about {round_up(examples):,.0f} test examples with these seeds")
    rest = f"; {MOST_SEEDS} seeds with these test examples would not" if seeds is None else ""
    return f"{' or '.join(ways)} would prove it with a probability of 80 %, {true}{rest}"

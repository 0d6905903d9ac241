"""The recommendation in sentences for whoever decides: the answer first, then why, then a table."""

from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.comparison import (
    BETTER,
    BETTER_WITHIN,
    FAILED,
    SHARED,
    TUNED,
    WORSE,
    WORSE_WITHIN,
    gained,
    gained_at_worst,
    worse_end,
)
from peft_tradeoffs.analysis.comparison_text import (
    errors_of_margin,
    family,
    margin_words,
    p_value,
    verdict_words,
    with_interval,
)
from peft_tradeoffs.analysis.equal_cost import round_up
from peft_tradeoffs.analysis.power import ALPHA, MOST_ROWS
from peft_tradeoffs.analysis.readable import (
    NULL,
    PROBE,
    finer,
    grid,
    memory_name,
    metric_places,
    number,
    sections,
    sentences,
    unlike,
    warnings_box,
)
from peft_tradeoffs.analysis.recommendation import (
    BY_BOUND,
    BY_ORDER,
    BY_RANK,
    BY_RATE,
    COSTS,
    LIMITS,
    NO,
    SAME_COST,
    TESTS,
    UNKNOWN,
    YES,
    unfit_to_judge,
)
from peft_tradeoffs.analysis.stats import MOST_SEEDS, failure_rate, noise_notes
from peft_tradeoffs.analysis.tables import Pair, memory_key, warnings_of
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.text import and_list, arm_label, plural, records
from peft_tradeoffs.tasks.metrics import metric_called
from peft_tradeoffs.tasks.shown import difference_unit, metric_words
from peft_tradeoffs.tasks.task import NOTE

Row = dict[str, Any]  # of `recommendation.recommendation_frame`, None where nothing stands
NOUN = {"time": "training time", "energy": "energy"}  # that of memory depends on the device
UNITS = {"memory": "MiB", "time": "s", "energy": "J"}
LEAST = {"time": "the shortest training time", "energy": "the lowest energy"}
MOST_NAMED = 5  # arms in the answer; the points and the table name all
CARVED = (
    "Where heldout was carved from train, its examples may be like each other and like those trained on, and what is "
    "proven is proven for such texts only."
)
LOWEST_MEAN = {"time": "the lowest mean training time", "energy": "the lowest mean energy"}  # of costs without interval


def recommendation_markdown(
    frame: pd.DataFrame, limits: dict[str, Any], warnings: dict[Pair, list[str]] | None = None
) -> str:
    """One section per (data set, model) of `recommendation_frame`; `limits` are those that it was made with."""
    parts = []
    found = [(title, section, _rows(section)) for title, section in sections(frame)]
    tables = sum(_tables(rows) for _, _, rows in found)
    for title, section, rows in found:
        points = "".join(f"- {line}\n" for line in sentences("recommendation/points", _points(rows, limits)))
        warned = [*warnings_of(warnings or {}, section), *edge_warnings(rows)]
        table, box = grid(_table(rows)), warnings_box(warned)
        known = _notes(rows, limits) | {"tables": tables, "family": family(tables)}
        notes = " ".join(sentences("recommendation/notes", known))
        parts.append(f"## {title}\n\n**{answer(rows, limits)}**\n\n{box}{points}\n{table}\n\n{notes}\n")
    return "\n".join(parts)


def answer(rows: list[Row], limits: dict[str, Any]) -> str:
    """The recommendation of one data set and model, or why there is none, in a sentence."""
    facts = _facts(rows, limits)
    by, best, baseline, qualify = limits["cheapest"], facts["best"], facts["baseline"], facts["yes"]
    if baseline is None and not facts["random"]:
        raise InputError("recommendation: the baseline is none of the arms that are judged")
    shortly = [row | {"why": short_reason(row)} for row in facts["no"]]
    refused = "; ".join(f"{arm_names(arms)} ({why})" for why, arms in _by_reason(shortly).items())
    given = {
        "kind": _kind(rows, facts),
        "any_of": _any_of,
        "several": _several,
        "refused": refused,
        "nearest": nearest(facts["no"]),
    }
    given["next"] = next_step(facts["cheaper"] if qualify else facts["unknown"], baseline)
    if best is not None:
        means = [row[COSTS[by]] for row in qualify if row[COSTS[by]] is not None]
        given |= {
            "lowest": best[COSTS[by]] == min(means),
            "least": LOWEST_MEAN[by] if by_mean(qualify, by) else least_cost(by, rows),
            "cost": cost_beside(best, baseline, by),
            "worst": "" if facts["random"] or best is baseline else f", and it {proven_loss(best)}",
        }
    return " ".join(sentences("recommendation/answer", facts | given))


def _facts(rows: list[Row], limits: dict[str, Any]) -> dict[str, Any]:
    """What all templates know: the arms by kind, and the functions that say them."""
    by = limits["cheapest"]
    best = next((row for row in rows if row["cheapest"]), None)
    found = {kind: [row for row in rows if row["qualifies"] == kind] for kind in (YES, UNKNOWN, NO)}
    return {
        "best": best,
        "baseline": next((row for row in rows if row["arm"] == row["baseline"]), None),  # none of random weights
        "yes": found[YES],
        "unknown": found[UNKNOWN],
        "no": found[NO],
        "cheaper": [] if best is None else _maybe_cheaper(rows, best, by),
        "random": _random(rows),
        "limits": limits,
        "limited": any(_limited(limits, name) for name in LIMITS),
        "noun": cost_noun(by, rows),
        "by_mean": by_mean(rows, by),
        "mean": "mean " if by_mean(found[YES], by) else "",
        "same": f"{100 * SAME_COST:g}",
        "name": arm_name,
        "names": arm_names,
        "verb": verb,
        "plural": plural,
        "number": number,
    }


def _kind(rows: list[Row], facts: dict[str, Any]) -> str:
    """Which outcome it is, of those of the template of answers."""
    best, baseline = facts["best"], facts["baseline"]
    if baseline is not None and baseline["predictions"] == NO:
        return "constant"
    if baseline is not None and baseline["quality"] != YES:
        return "no_result" if baseline["unstable"] is None else "unstable"
    if not facts["yes"]:
        return "undecided" if facts["unknown"] else "none"
    if best is None:
        return "no_cost"
    if len(rows) == 1:
        return "alone"
    if best is baseline and len(facts["yes"]) == 1 and facts["cheaper"]:
        return "baseline_alone"
    return "keep" if best is baseline else "random" if facts["random"] else "take"


def _any_of(rows: list[Row]) -> str:
    return arm_names(rows, "or") if len(rows) <= MOST_NAMED else f"any of {len(rows)} arms"


def _several(rows: list[Row]) -> str:
    return arm_names(rows) if len(rows) <= MOST_NAMED else f"{len(rows)} other arms"


def _taken_for(best: Row, equal: list[Row]) -> str:
    smaller = any(row["told_by"] == BY_RANK for row in equal)
    return "for its smaller rank" if smaller else "because it comes first in the list of arms"


def _points(rows: list[Row], limits: dict[str, Any]) -> dict[str, Any]:
    """What the template of the points knows."""
    facts, by = _facts(rows, limits), limits["cheapest"]
    best, baseline = facts["best"], facts["baseline"]
    told = {rule: [row for row in rows if row["told_by"] == rule] for rule in (BY_BOUND, BY_RATE)}
    equal = [row for row in rows if row["told_by"] in (BY_RANK, BY_ORDER)]
    others = [row for row in facts["yes"] if row is not best]
    undecided: dict[tuple[bool, str], list[Row]] = {}
    for row in facts["unknown"]:
        undecided.setdefault((row in facts["cheaper"], what_would_decide(row, baseline)), []).append(row)
    disagreed: dict[str, list[Row]] = {}
    for row in others:
        if best is not None and baseline is not None and (proven := disagreement(row, baseline)):
            disagreed.setdefault(proven, []).append(row)
    unsure = [row for row in rows if row["cost_unsure"]]
    qualify = [row for row in facts["yes"] if row is not baseline]
    return facts | {
        "by_bound": told[BY_BOUND],
        "by_rate": told[BY_RATE],
        "equal": equal,
        "bounds": bounds,
        "unsettled": unsettled,
        "taken_for": best is not None and _taken_for(best, equal),
        "unsure": unsure,
        "tells_cost": tells_cost(unsure, COSTS[by]),
        "other_jobs": len(facts["yes"]) > 1 and by in LOWEST_MEAN and _jobs(facts["yes"], COSTS[by])["unknown"],
        "failure": lambda row: (
            f"{100 * failure_rate(row['n_failed'] + row['n_constant'], row['n'] + row['n_failed']):.0f}"
        ),
        "asked": _asked(rows, limits),
        "errors": None if baseline is None else errors_of_margin(baseline),
        "carved": CARVED,
        "unlike": " ".join(unlike(pd.DataFrame(rows))),
        "elsewhere": "" if qualify else proven_elsewhere(rows),
        "facts": best is not None and facts_of(best, baseline),
        "other_split": best and baseline and best["other_difference"] is not None and on_other_split(best, baseline),
        "others": ", ".join(cost_apart(row, by) for row in others),
        "disagreed": disagreed.items(),
        "undecided": undecided.items(),
        "refused": _by_reason(facts["no"]).items(),
        "with_numbers": lambda arms: ", ".join(f"{arm_name(row)}{how_far(row)}" for row in arms),
    }


def _table(rows: list[Row]) -> pd.DataFrame:
    unit, cells = difference_unit(rows[0]), []
    splits = [row["other_split"] for row in rows if row["other_difference"] is not None]
    for row in rows:
        line = {"Arm": arm_name(row), "Qualifies": row["qualifies"]}
        if not _random(rows):
            line[f"Difference, {unit}"] = difference_words(row, places=difference_places(rows))
            line["p of non-inferiority"] = p_value(row["p_not_worse_holm"])
            if splits:
                said = "" if row["other_difference"] is None else f" ({verdict_words(row, 'other_verdict')})"
                found = difference_words(row, False, "other_", difference_places(rows, "other_"))
                line[f"On {splits[0]}, {unit}"] = found + said
        for name, column in COSTS.items():
            if any(other[column] is not None for other in rows):
                header = f"{cost_noun(name, rows).capitalize()}, {UNITS[name]}"
                line[header] = cost_words(row, name, with_unit=False)
        line["Why"] = row["why"] or ("baseline" if row["arm"] == row["baseline"] else NULL)
        cells.append(line)
    return pd.DataFrame(cells)


def _notes(rows: list[Row], limits: dict[str, Any]) -> dict[str, Any]:
    """What the template of the notes knows, but for the number of tables."""
    facts = _facts(rows, limits)
    keys = dict.fromkeys(memory_key(row["device"]) for row in rows)
    means = [NOUN[name] for name in LOWEST_MEAN if _jobs(rows, COSTS[name])["unknown"] and _limited(limits, name)]
    return facts | {
        "chosen": len(facts["yes"]) > 1 and facts["best"] is not None,
        "intervals": any(row[f"{column}_low"] is not None for row in rows for column in COSTS.values()),
        "noise": noise_notes({NOUN[name]: _jobs(rows, COSTS[name]) for name in LOWEST_MEAN}),
        "limited_means": " and ".join(means),
        "tuned": any(row["rate"] in (TUNED, SHARED) for row in rows),
        "counted": "groups of test rows" if any(row["test_groups"] is not None for row in rows) else "test examples",
        "compared": sum(row["p_not_worse_holm"] is not None for row in rows),
        "one_seed": any(row["n"] == 1 for row in rows),
        "probe": PROBE,
        "memory": [NOTE[key] for key in keys],
    }


def _rows(section: pd.DataFrame) -> list[Row]:
    return records(section.astype(object).where(section.notna(), None))


def _tables(rows: list[Row]) -> int:
    """How many tables of tests there are of a data set and model: one per split."""
    return sum(any(row[key] is not None for row in rows) for key in ("p_not_worse_holm", "other_p_not_worse_holm"))


def _random(rows: list[Row]) -> bool:
    return all(row["quality"] is None for row in rows)


def _jobs(rows: list[Row], column: str) -> Row:
    """What `noise_notes` asks of a cost; more than one seed without an interval shared jobs."""
    known = [row for row in rows if row[column] is not None]
    percents = [row[f"{column}_jobs_sd_percent"] for row in known if row[f"{column}_jobs_sd_percent"] is not None]
    return {
        "unknown": any(row[f"{column}_n"] > 1 and row[f"{column}_low"] is None for row in known),
        "jobs": max((row[f"{column}_jobs"] for row in known), default=0),
        "percent": max(percents, default=None),
    }


def by_mean(rows: list[Row], by: str) -> bool:
    """Whether the least cost is that of the lowest mean and no more, for there is no interval."""
    return by in LOWEST_MEAN and any(row[COSTS[by]] is not None and row[f"{COSTS[by]}_low"] is None for row in rows)


def _limited(limits: dict[str, Any], name: str) -> bool:
    return limits[LIMITS[name][0]] is not None


def _asked(rows: list[Row], limits: dict[str, Any]) -> str:
    asked = []
    if not _random(rows):
        baseline = next(row for row in rows if row["arm"] == row["baseline"])
        margin, metric = margin_words(baseline), metric_words(baseline)
        side = "below" if metric_called(baseline["metric"]).higher_is_better else "above"
        asked.append(f"{metric} proven to be less than {margin} {side} that of {arm_name(baseline)}")
    for key, noun, units in (
        ("memory_GiB", cost_noun("memory", rows), "GiB"),
        ("train_s", "training time per run", "s"),
        ("energy_J", "energy per run", "J"),
    ):
        if limits[key] is not None:
            also = f" ({number(1024 * limits[key])} MiB)" if key == "memory_GiB" else ""
            asked.append(f"{noun} of at most {limits[key]:,g} {units}{also}")
    if not any(_limited(limits, name) for name in LIMITS):
        asked.append("no limit on costs")
    return f"{'; '.join(asked)}; of what qualifies, {least_cost(limits['cheapest'], rows)}"


def _maybe_cheaper(rows: list[Row], best: Row, by: str) -> list[Row]:
    """Undecided arms that may cost less than the one taken by more than SAME_COST of its cost."""
    column = COSTS[by]
    same = -SAME_COST * best[column]
    unknown = (row for row in rows if row["qualifies"] == UNKNOWN)
    return [
        row
        for row in unknown
        if row[column] is None
        or (row[column] - best[column] < same if row["apart_low"] is None else row["apart_low"] < same)
    ]


def _by_reason(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["why"], []).append(row)
    return found


def arm_name(row: Row) -> str:
    """As in tables: "LoRA r8"."""
    return arm_label(row["method"], row["rank"])


def arm_names(rows: list[Row], word: str = "and") -> str:
    """Names in a row, `word` before the last."""
    return and_list([arm_name(row) for row in rows], word)


def verb(rows: list[Row], one: str = "does", several: str = "do") -> str:
    """What goes with these arms' names."""
    return one if len(rows) == 1 else several


def cost_noun(name: str, rows: list[Row]) -> str:
    """What the cost `name` of COSTS is called: memory as the tables of these rows' devices call it."""
    return memory_name(row["device"] for row in rows) if name == "memory" else NOUN[name]


def least_cost(name: str, rows: list[Row]) -> str:
    """What the arm of the least such cost has."""
    return LEAST.get(name) or f"the lowest {cost_noun(name, rows)}"


def cost_words(row: Row, name: str, with_unit: bool = True) -> str:
    """The cost `name` of COSTS with its interval."""
    column = COSTS[name]
    text = with_interval(row[column], row[f"{column}_low"], row[f"{column}_high"], 1.0)
    return f"{text} {UNITS[name]}" if with_unit and text != NULL else text


def difference_words(row: Row, with_unit: bool = False, on: str = "", places: int | None = None) -> str:
    """The difference to the baseline, with the interval at the best rate tried; `on`: "other_" for the other split.

    `places`: decimals, those of this row alone where they are not given.
    """
    if row[f"{on}difference"] is None:
        return NULL
    metric = metric_called(row["metric"])
    value, low, high = (row[f"{on}{key}"] for key in ("difference", "at_best_low", "at_best_high"))
    places = difference_places([row], on) if places is None else places
    text = with_interval(value, low, high, metric.scale, True, places)
    return f"{text} {metric.apart}" if with_unit and metric.apart else text


def difference_places(rows: list[Row], on: str = "") -> int:
    """Decimals of a column of differences: the metric's, one more where a bound would pass for 0."""
    metric = metric_called(rows[0]["metric"])
    ends = [row[f"{on}{key}"] for row in rows for key in ("at_best_low", "at_best_high")]
    return finer(metric_places(metric.name), *(end * metric.scale for end in ends if end is not None))


def facts_of(best: Row, baseline: Row | None) -> str:
    """What the recommended arm reaches and costs, beside the baseline."""
    facts = []
    if best["mean"] is not None:
        metric = metric_called(best["metric"])
        low, high = (None if best[key] is None else np.clip(best[key], *metric.bounds) for key in ("low", "high"))
        value = with_interval(best["mean"], low, high, metric.scale, places=metric_places(metric.name))
        facts.append(f"{metric_words(best)} {value} {metric.unit}".rstrip())
    against = baseline if baseline is not best else None
    if against is not None and best["difference"] is not None:
        p = p_value(best["p_not_worse_holm"])
        against_it = f"{difference_words(best, with_unit=True)} against {arm_name(against)}"
        what = f"{p}, the chance of such a result if it were worse by the margin"
        facts[-1] += f", {against_it} (p of non-inferiority {what})"
    for name, column in COSTS.items():
        if best[column] is not None:
            facts.append(f"{cost_noun(name, [best])} {cost_words(best, name)}")
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
        return f"{arm_name(row)} ({cost_noun(by, [row])} {cost_words(row, by)})"
    text = with_interval(row["apart"], row["apart_low"], row["apart_high"], 1.0, sign=True)
    return f"{arm_name(row)} ({cost_noun(by, [row])} {text} {UNITS[by]})"


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
                f"one of its {row['n']} runs is far worse than the others ({row['unstable']}); more seeds would tell "
                "how often that happens"
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


TIMES = 20  # the examples there are: so many more of the same kind are hardly a way


def _out_of_reach(row: Row) -> bool:
    """Whether more than TIMES the examples that there are would be needed."""
    there = row["test_groups"] if row["test_groups"] is not None else row["test_rows"]
    return row["examples_needed"] is not None and row["examples_needed"] > TIMES * there


def _needed(row: Row, baseline: Row | None) -> str:
    """How many seeds or test examples would prove an arm to keep within the margin, by what is known of its spread."""
    seeds, examples = row["seeds_needed"], row["examples_needed"]
    gain = gained(row) or 0.0
    if gain <= -row["margin"]:
        return "as the runs stand it loses more than the margin, and more of them would rather show that"
    true = "if this is the true difference" if gain < 0 else "if the true difference is 0"
    if seeds is None and examples is None:
        why = ""
        if baseline is not None and _in_the_way(row, missed := missed_most(baseline)):
            why = f"; the choice of {arm_name(baseline)}'s learning rate may have missed {points_of(row, missed)}"
        return f"neither {MOST_SEEDS} seeds nor {MOST_ROWS:,} {_examples(row)} alone would prove it, {true}{why}"
    ways = [f"about {seeds:,} seeds with these {_examples(row)}"] if seeds is not None else []
    if examples is not None and not (seeds is not None and _out_of_reach(row)):
        ways.append(f"about {round_up(examples):,.0f} {_examples(row)} with these seeds")
    rest = f"; {MOST_SEEDS} seeds with these {_examples(row)} would not" if seeds is None else ""
    if _out_of_reach(row) and seeds is None:
        rest += f", and there are {row['test_rows'] if row['test_groups'] is None else row['test_groups']:,}"
    return f"{' or '.join(ways)} would prove it with a probability of 80 %, {true}{rest}"


NEAR = 0.5  # of the margin: a choice of a learning rate that may have missed as much stands in the way of a proof


def points_of(row: Row, value: float) -> str:
    """A difference of a row's metric without its sign: "3.3 points"; "0.012" of a metric without such a unit."""
    metric = metric_called(row["metric"])
    size = f"{abs(value) * metric.scale:.{1 if metric.scale > 1 else 3}f}"
    return f"{size} {metric.apart}".strip()


def bounds(rows: list[Row]) -> str:
    """Differences to the baseline and the worse ends of their intervals: "LoRA r8 +0.6 points, at worst -1.8"."""
    places = difference_places([row for row in rows if row["difference"] is not None])
    metric, said = metric_called(rows[0]["metric"]), []
    for row in rows:
        both = (row["difference"], worse_end(row))
        mean, end = (with_interval(value, None, None, metric.scale, True, places) for value in both)
        known = f"{mean} {metric.apart}".strip() + f", at worst {end}"
        said.append(f"{arm_name(row)} {'0, as the baseline' if row['difference'] is None else known}")
    return "; ".join(said)


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
    needed = row["seeds_needed"] is not None or (row["examples_needed"] is not None and not _out_of_reach(row))
    if row["runs"] == UNKNOWN or not (tested or row["quality"] == YES):
        return 2, 0.0
    return (0, float(row["seeds_needed"] or MOST_ROWS)) if needed else (1, -(gained(row) or 0.0))


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
                return f"measure the {cost_noun(cost, [row])} of {name} first"
            if seeds is None:
                return (
                    f"a job for each seed (seeds_per_job: 1) would tell more of the {cost_noun(cost, [row])} of {name}"
                )
            return f"{_about(seeds)} seeds of {name} (there are {row['n']}) would tell whether it keeps the limit"
    return "the points say what would decide"


def _about(seeds: str) -> str:
    return f"about {seeds}" if seeds.isdigit() else seeds


def _step_of_quality(row: Row, baseline: Row | None, on: str) -> str:
    name = arm_name(row)
    if row["unstable"] is not None:
        return f"train more seeds of {name} to see how often one is far worse than the others"
    if row["p_not_worse_holm"] is None:
        return f"{name} has no test yet ({row['quality_why']})"
    margin = f"a margin of {points_of(row, margin_kept(row))}"
    if (gained(row) or 0.0) <= -row["margin"]:
        return f"as the runs stand {name} loses more than the margin: try larger ranks or other learning rates"
    ways = []
    if row["seeds_needed"] is not None:
        ways.append(f"about {row['seeds_needed']:,} seeds (there are {row['n']})")
    counted, there = (
        ("groups of test rows", row["test_groups"])
        if row["test_groups"] is not None
        else ("test rows", row["test_rows"])
    )
    if row["examples_needed"] is not None and not _out_of_reach(row):
        ways.append(f"about {round_up(row['examples_needed']):,.0f} {counted} (there are {there:,})")
    if ways:
        return f"{' or '.join(ways)} would probably decide{on}"
    if baseline is not None and _in_the_way(row, missed := missed_most(baseline)):
        return (
            f"the choice of {arm_name(baseline)}'s learning rate may have missed {points_of(row, missed)}: more dev "
            f"rows, or {margin}, would help"
        )
    if _out_of_reach(row):
        return (
            f"to decide{on} would take about {round_up(row['examples_needed']):,.0f} {counted}, more than {TIMES} "
            f"times the {there:,} that there are; {margin} would do"
        )
    return f"more seeds or test rows alone would hardly decide{on}; {margin} would"


def margin_kept(row: Row) -> float:
    """The margin, in the metric's unit, that the worse bound of the difference keeps; a tenth of a point finer."""
    scale = metric_called(row["metric"]).scale
    step = 10.0 if scale > 1 else 1000.0
    return float(np.ceil(-(gained_at_worst(row) or 0.0) * scale * step) / step / scale)


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
    needs = and_list([f"{number(row[COSTS[name]])} {UNITS[name]} of {cost_noun(name, [row])}" for name in names])
    return f"{arm_name(row)} comes nearest, with {needs}"


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


def edge_warnings(rows: list[Row]) -> list[str]:
    """Which arms took the highest or the lowest of the learning rates tried, and what to do: one sentence per end."""
    ends: dict[str, list[Row]] = {}
    for row in rows:
        if row["edge"]:
            ends.setdefault(row["edge"], []).append(row)
    return [
        f"The learning {plural('rate', len(arms))} of {arm_names(arms)} {verb(arms, 'is', 'are')} the {end} that "
        f"{verb(arms, 'was', 'were')} tried, so {verb(arms, 'a better one', 'better ones')} may lie beyond: widen the "
        "grid, or set tune: {extend: true}."
        for end, arms in ends.items()
    ]


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

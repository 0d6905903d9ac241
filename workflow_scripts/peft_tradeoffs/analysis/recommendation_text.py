"""The recommendation in sentences for whoever decides: the answer first, then why, then a table."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.budgets import round_up
from peft_tradeoffs.analysis.comparison import ALPHA, GIVEN, WORSE
from peft_tradeoffs.analysis.comparison_text import UNCORRECTED, p_value, with_interval
from peft_tradeoffs.analysis.notices import Pair, of_rows
from peft_tradeoffs.analysis.readable import (
    NULL,
    PROBE,
    grid,
    number,
    sections,
    unlike,
    warnings_box,
)
from peft_tradeoffs.analysis.recommendation import COSTS, LIMITS, NO, TESTS, UNKNOWN, YES
from peft_tradeoffs.analysis.stats import MOST_EXAMPLES, MOST_SEEDS, noise_notes
from peft_tradeoffs.analysis.tables import memory_key
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.text import and_list, arm_label, plural, records
from peft_tradeoffs.tasks.metrics import difference_unit, metric_called, metric_words
from peft_tradeoffs.tasks.recorded import NOTE

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


LEAST = {"memory": "the lowest peak memory", "time": "the shortest training time", "energy": "the lowest energy"}
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
    for title, section in sections(frame):
        rows = records(section.astype(object).where(section.notna(), None))
        points = "".join(f"- {line}\n" for line in _points(rows, limits))
        table, box = grid(_table(rows)), warnings_box(of_rows(warnings or {}, section))
        notes = " ".join(_notes(rows, limits))
        parts.append(f"## {title}\n\n**{answer(rows, limits)}**\n\n{box}{points}\n{table}\n\n{notes}\n")
    return "\n".join(parts)


def answer(rows: list[Row], limits: dict[str, Any]) -> str:
    """The recommendation of one data set and model, or why there is none, in a sentence."""
    by = limits["cheapest"]
    found = {kind: [row for row in rows if row["qualifies"] == kind] for kind in (YES, UNKNOWN, NO)}
    best = next((row for row in rows if row["cheapest"]), None)
    baseline = next((row for row in rows if row["arm"] == row["baseline"]), None)  # none where weights are random
    if baseline is None and not _random(rows):
        raise InputError("recommendation: the baseline is none of the arms that are judged")
    if baseline is not None and baseline["predictions"] == NO:
        return (
            f"No recommendation: {arm_name(baseline)}, the baseline, gives every test row the same answer, so what "
            "other arms lose against it says nothing."
        )
    if baseline is not None and baseline["quality"] != YES:
        why = baseline["runs_why"] or baseline["quality_why"]
        lacks = "has no result" if baseline["unstable"] is None else "cannot be compared with"
        return (
            f"No recommendation: {arm_name(baseline)}, the baseline, {lacks} ({why}), so what other arms lose against "
            "it is not known."
        )
    if not found[YES]:
        if found[UNKNOWN]:
            rest = f"; {arm_names(found[NO])} {verb(found[NO])} not" if found[NO] else ""
            return f"No recommendation: whether {_any_of(found[UNKNOWN])} qualifies these runs cannot say{rest}."
        reasons = _by_reason(found[NO]).items()
        return f"No arm qualifies: {'; '.join(f'{arm_names(arms)} ({why})' for why, arms in reasons)}."
    if best is None:
        why = found[YES][0]["incomparable"] or "it was not measured"
        return (
            f"No recommendation by {NOUN[by]}: {arm_names(found[YES])} {verb(found[YES], 'qualifies', 'qualify')}, "
            f"but of their {NOUN[by]} nothing can be said ({why})."
        )
    if len(rows) == 1:
        kept = "" if _unlimited(limits) else ", and keeps the limits"
        return f"Nothing to choose: {arm_name(best)} is the only arm{kept}."
    maybe = _maybe_cheaper(rows, best, by)
    if best is baseline and len(found[YES]) == 1:
        if maybe:
            return (
                f"No recommendation: {arm_name(best)}, the baseline, is the only arm known to qualify, and whether "
                f"{_any_of(maybe, 'other ')}, which may cost less, qualifies these runs cannot say."
            )
        cheaper = f"of a lower mean {NOUN[by]}" if _by_mean(rows, by) else "that may cost less"
        return f"Keep {arm_name(best)}, the baseline: no arm {cheaper} qualifies."
    return _choice(rows, found[YES], best, by, limits)


def _any_of(rows: list[Row], word: str = "") -> str:
    return arm_names(rows, "or") if len(rows) <= MOST_NAMED else f"any of {len(rows)} {word}arms"


def _choice(rows: list[Row], qualify: list[Row], best: Row, by: str, limits: dict[str, Any]) -> str:
    equals = [row for row in qualify if same_cost(row)]
    among = [best, *equals]
    costs = ", ".join(cost_words(row, by) for row in among)
    least = _least(qualify, by)
    shared = len(qualify) > 1 and by in LOWEST_MEAN and _jobs(qualify, COSTS[by])["unknown"]
    unsure = "; in other jobs another may have it (noise, or seeds_per_job: 1, would tell)" if shared else ""
    if _random(rows):
        lead = "Costs alone, since the weights are random and say nothing of quality"
        kept = "" if _unlimited(limits) else " of the arms that keep the limits"
        if not equals:
            return f"{lead}: {arm_name(best)} has {least}{kept}, {costs}{unsure}."
        return f"{lead}: {arm_names(among)} have {least}{kept} ({costs}), and which has less cannot be told."
    lead = f"Take {arm_names(among, 'or')}"
    if len(qualify) == 1:
        return f"{lead}: it is the only arm that qualifies; its {NOUN[by]} is {costs}."
    of = f"of the {len(qualify)} arms that qualify"
    if not equals:
        return f"{lead}: {of} it has {least}, {costs}{unsure}."
    return f"{lead}: {of} they have {least} ({costs}), and which of them has less cannot be told."


def _points(rows: list[Row], limits: dict[str, Any]) -> Iterable[str]:
    """What stands behind the answer, a line each."""
    best = next((row for row in rows if row["cheapest"]), None)
    baseline = next((row for row in rows if row["arm"] == row["baseline"]), None)
    yield from _premises(rows, limits)
    qualify = [row for row in rows if row["qualifies"] == YES and row is not baseline]
    if not qualify and (elsewhere := proven_elsewhere(rows)):
        other, caution = ("heldout", f" {CARVED}") if limits["split"] == "test" else ("test", "")
        yield (
            f"{elsewhere}.{caution} recommendation.split: {other} judges by it; to choose the split once the results "
            "are seen weakens what it proves."
        )
    if best is not None:
        yield from _of_best(best, baseline)
    yield from _of_others(rows, best, baseline, limits)
    cheaper = [] if best is None else _maybe_cheaper(rows, best, limits["cheapest"])
    yield from _of_undecided(rows, cheaper)
    for why, arms in _by_reason([row for row in rows if row["qualifies"] == NO]).items():
        yield f"Does not qualify: {', '.join(f'{arm_name(row)}{how_far(row)}' for row in arms)}: {why}."
    if baseline is not None:
        yield from _of_baseline(baseline)


def _premises(rows: list[Row], limits: dict[str, Any]) -> Iterable[str]:
    """What was asked for, on which split, and what is not equal."""
    yield f"Asked for: {_asked(rows, limits)}."
    if limits["split"] != "test" and not _random(rows):
        yield f"Judged on the {limits['split']} split, not on test. {CARVED}"
    if differing := unlike(pd.DataFrame(rows)):
        yield f"Not all else is equal: {' '.join(differing)}"


def _of_best(best: Row, baseline: Row | None) -> Iterable[str]:
    """The facts of the arm to take."""
    yield f"{arm_name(best)}: {facts_of(best, baseline)}."
    if baseline is not None and best["other_difference"] is not None:
        yield f"{on_other_split(best, baseline)}."
    if best["train_process_MiB"] is not None:
        yield (
            f"A GPU for {arm_name(best)} needs more than its peak: while it trained, the whole process held "
            f"{number(best['train_process_MiB'] / 1024)} GiB by NVML, CUDA context and captured graphs included."
        )


def _of_others(rows: list[Row], best: Row | None, baseline: Row | None, limits: dict[str, Any]) -> Iterable[str]:
    """The arms that qualify beside the best one, and those of which the other split says otherwise."""
    others = [row for row in rows if row["qualifies"] == YES and row is not best]
    if others:
        apart = ", ".join(cost_apart(row, limits["cheapest"]) for row in others)
        yield f"Also {'within the limits' if _random(rows) else 'qualify'}: {apart}."
    disagreed: dict[str, list[Row]] = {}
    for row in others:
        if baseline is not None and (proven := disagreement(row, baseline)):
            disagreed.setdefault(proven, []).append(row)
    for proven, arms in disagreed.items():
        yield f"The {arms[0]['other_split']} split disagrees on {arm_names(arms)}: proven {proven} there."


def _of_undecided(rows: list[Row], cheaper: list[Row]) -> Iterable[str]:
    """The arms that cannot be judged, and what would decide; those of `cheaper` may cost less than the best."""
    undecided: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["qualifies"] == UNKNOWN:
            remark = ", which may cost less" if row in cheaper else ""
            undecided.setdefault((remark, what_would_decide(row)), []).append(row)
    for (remark, text), arms in undecided.items():
        yield f"Cannot be said of {arm_names(arms)}{remark}: {text}."


def _of_baseline(baseline: Row) -> Iterable[str]:
    """What to do where the others cannot be judged by this baseline."""
    if baseline["predictions"] == NO:
        yield (
            "To judge the other arms, set comparison.baseline to one of them, or train the baseline at other learning "
            "rates or for longer."
        )
    elif baseline["quality"] != YES:
        yield "To judge the arms that ran, set comparison.baseline to one of them, or run the baseline where it fits."


def _table(rows: list[Row]) -> pd.DataFrame:
    unit, cells = difference_unit(rows[0]), []
    splits = [row["other_split"] for row in rows if row["other_difference"] is not None]
    for row in rows:
        line = {"Arm": arm_name(row), "Qualifies": row["qualifies"]}
        if not _random(rows):
            line[f"Difference, {unit}"] = difference_words(row)
            line["p of non-inferiority"] = p_value(row["p_not_worse_holm"])
            if splits:
                said = "" if row["other_difference"] is None else f" ({row['other_verdict']})"
                line[f"On {splits[0]}, {unit}"] = difference_words(row, on="other_") + said
        for name, column in COSTS.items():
            if any(other[column] is not None for other in rows):
                header = f"{NOUN[name].capitalize()}, {UNITS[name]}"
                line[header] = cost_words(row, name, with_unit=False)
        line["Why"] = row["why"] or ("baseline" if row["arm"] == row["baseline"] else NULL)
        cells.append(line)
    return pd.DataFrame(cells)


def _notes(rows: list[Row], limits: dict[str, Any]) -> list[str]:
    lines = []
    if any(row[f"{column}_low"] is not None for row in rows for column in COSTS.values()):
        lines.append(
            "In brackets: 95 % intervals, of costs over seeds, without where every seed gave the same or an interval "
            "is narrower than the digits."
        )
    lines += noise_notes({NOUN[name]: _jobs(rows, COSTS[name]) for name in LOWEST_MEAN})
    by_mean = [NOUN[name] for name in LOWEST_MEAN if _jobs(rows, COSTS[name])["unknown"] and _limited(limits, name)]
    if by_mean:
        lines.append(
            f"Limits of {' and '.join(by_mean)} were judged by the seeds as measured: kept where each is within the "
            "limit, not kept where each is beyond; other jobs may differ."
        )
    if not _random(rows):
        compared = sum(row["p_not_worse_holm"] is not None for row in rows)
        missed = " and what the choice of learning rates may have missed" if _tuned(rows) else ""
        lines.append(
            f"Intervals of differences count other seeds{',' if missed else ' and'} other test examples{missed}."
        )
        if compared:
            lines.append(
                f"p of non-inferiority: of a one-sided test that an arm is worse by the margin or more, with Holm's "
                f"correction over {compared} {plural('arm', compared)}; below 0.05 it is proven not to be. "
                "Proven worse by more than the margin: by the test from the other side, at 2.5 % and with that "
                "correction."
            )
        if compared > 1:
            lines.append(UNCORRECTED)
    if any(row["n"] == 1 for row in rows):
        lines.append("A cost of one seed has no interval and was judged by its value.")
    lines.append(PROBE)
    keys = dict.fromkeys(memory_key(row["device"]) for row in rows)
    lines += [f"Peak memory: {NOTE[key].partition(': ')[2]}" for key in keys]
    lines.append("Training time and energy: of the training steps of one run; what tuning took is not in them.")
    return lines


def _random(rows: list[Row]) -> bool:
    return all(row["quality"] is None for row in rows)


def _tuned(rows: list[Row]) -> bool:
    return any(row["rate"] not in (None, GIVEN) for row in rows)


def _jobs(rows: list[Row], column: str) -> Row:
    """What `noise_notes` asks of a cost; more than one seed without an interval shared jobs."""
    known = [row for row in rows if row[column] is not None]
    percents = [row[f"{column}_jobs_sd_percent"] for row in known if row[f"{column}_jobs_sd_percent"] is not None]
    return {
        "unknown": any(row[f"{column}_n"] > 1 and row[f"{column}_low"] is None for row in known),
        "jobs": max((row[f"{column}_jobs"] for row in known), default=0),
        "percent": max(percents, default=None),
    }


def _by_mean(rows: list[Row], by: str) -> bool:
    """Whether the least cost is that of the lowest mean and no more, for there is no interval."""
    return by in LOWEST_MEAN and any(row[COSTS[by]] is not None and row[f"{COSTS[by]}_low"] is None for row in rows)


def _least(rows: list[Row], by: str) -> str:
    return LOWEST_MEAN[by] if _by_mean(rows, by) else LEAST[by]


def _limited(limits: dict[str, Any], name: str) -> bool:
    return limits[LIMITS[name][0]] is not None


def _unlimited(limits: dict[str, Any]) -> bool:
    return not any(_limited(limits, name) for name in LIMITS)


def _asked(rows: list[Row], limits: dict[str, Any]) -> str:
    asked = []
    if not _random(rows):
        baseline = next(row for row in rows if row["arm"] == row["baseline"])
        metric = metric_called(baseline["metric"])
        margin, units = baseline["margin"] * metric.scale, metric.apart
        size = f"{margin:g} {units.removesuffix('s') if margin == 1 else units}".strip()
        asked.append(f"{metric_words(baseline)} proven to be less than {size} below that of {arm_name(baseline)}")
    for key, noun, units in (
        ("memory_GiB", "peak memory", "GiB"),
        ("train_s", "training time per run", "s"),
        ("energy_J", "energy per run", "J"),
    ):
        if limits[key] is not None:
            also = f" ({number(1024 * limits[key])} MiB)" if key == "memory_GiB" else ""
            asked.append(f"{noun} of at most {limits[key]:,g} {units}{also}")
    if _unlimited(limits):
        asked.append("no limit on costs")
    return f"{'; '.join(asked)}; of what qualifies, {LEAST[limits['cheapest']]}"


def _maybe_cheaper(rows: list[Row], best: Row, by: str) -> list[Row]:
    """Undecided arms that are not proven to cost at least as much as the cheapest that qualifies."""
    column = COSTS[by]
    unknown = (row for row in rows if row["qualifies"] == UNKNOWN)
    return [
        row
        for row in unknown
        if row[column] is None or (row[column] < best[column] if row["apart_low"] is None else row["apart_low"] < 0)
    ]


def _by_reason(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["why"], []).append(row)
    return found

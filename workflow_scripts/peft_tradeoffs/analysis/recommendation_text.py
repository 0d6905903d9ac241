"""The recommendation in sentences for whoever decides: the answer first, then why, then a table of all arms."""

from collections.abc import Iterable
from typing import Any

import pandas as pd

from peft_tradeoffs.analysis.comparison_text import UNCORRECTED, p_value
from peft_tradeoffs.analysis.job_noise import noise_notes
from peft_tradeoffs.analysis.notices import Pair, of_rows
from peft_tradeoffs.analysis.readable import NOTE, NULL, PROBE, metric_scale, number, unlike
from peft_tradeoffs.analysis.recommendation import COSTS, NO, UNKNOWN, YES
from peft_tradeoffs.analysis.recommendation_words import (
    NOUN,
    UNITS,
    Row,
    arm_name,
    arm_names,
    cost_apart,
    cost_words,
    difference_words,
    disagreement,
    facts_of,
    how_far,
    metric_words,
    on_other_split,
    proven_elsewhere,
    same_cost,
    verb,
    what_would_decide,
)
from peft_tradeoffs.analysis.table_formats import grid, sections, warnings_box
from peft_tradeoffs.analysis.tables import memory_key
from peft_tradeoffs.tasks.metric_names import difference_unit

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
        rows = section.astype(object).where(section.notna(), None).to_dict("records")
        points = "".join(f"- {line}\n" for line in _points(rows, limits))
        table, box = grid(_table(rows)), warnings_box(of_rows(warnings or {}, section))
        notes = " ".join(_notes(rows, limits))
        parts.append(f"## {title}\n\n**{answer(rows, limits)}**\n\n{box}{points}\n{table}\n\n{notes}\n")
    return "\n".join(parts)


def answer(rows: list[Row], limits: dict[str, Any]) -> str:
    """The recommendation of one data set and model, or why there is none, in a sentence."""
    by, random = limits["cheapest"], _random(rows)
    found = {kind: [row for row in rows if row["qualifies"] == kind] for kind in (YES, UNKNOWN, NO)}
    best = next((row for row in rows if row["cheapest"]), None)
    baseline = next((row for row in rows if row["arm"] == row["baseline"]), None)
    if not random and baseline["predictions"] == NO:
        return (
            f"No recommendation: {arm_name(baseline)}, the baseline, gives every test row the same answer, so what "
            "other arms lose against it says nothing."
        )
    if not random and baseline["quality"] != YES:
        why = baseline["runs_why"] or baseline["quality_why"]
        return (
            f"No recommendation: {arm_name(baseline)}, the baseline, has no result ({why}), so what other arms lose "
            "against it is not known."
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
    by, random = limits["cheapest"], _random(rows)
    yield f"Asked for: {_asked(rows, limits)}."
    if limits["split"] != "test" and not random:
        yield f"Judged on the {limits['split']} split, not on test. {CARVED}"
    differing = unlike(pd.DataFrame(rows))
    if differing:
        yield f"Not all else is equal: {' '.join(differing)}"
    best = next((row for row in rows if row["cheapest"]), None)
    baseline = next((row for row in rows if row["arm"] == row["baseline"]), None)
    qualify = [row for row in rows if row["qualifies"] == YES and row is not baseline]
    if not qualify and (elsewhere := proven_elsewhere(rows)):
        other, caution = ("heldout", f" {CARVED}") if limits["split"] == "test" else ("test", "")
        yield (
            f"{elsewhere}.{caution} recommendation.split: {other} judges by it; to choose the split once the results "
            "are seen weakens what it proves."
        )
    if best is not None:
        yield f"{arm_name(best)}: {facts_of(best, baseline)}."
        if best["other_difference"] is not None:
            yield f"{on_other_split(best, baseline)}."
        if best["train_process_MiB"] is not None:
            yield (
                f"A GPU for {arm_name(best)} needs more than its peak: while it trained, the whole process held "
                f"{number(best['train_process_MiB'] / 1024)} GiB by NVML, CUDA context and captured graphs included."
            )
    others = [row for row in rows if row["qualifies"] == YES and row is not best]
    if others:
        apart = ", ".join(cost_apart(row, by) for row in others)
        yield f"Also {'within the limits' if random else 'qualify'}: {apart}."
    disagreed: dict[str, list[Row]] = {}
    for row in others:
        if proven := disagreement(row, baseline):
            disagreed.setdefault(proven, []).append(row)
    for proven, arms in disagreed.items():
        yield f"The {arms[0]['other_split']} split disagrees on {arm_names(arms)}: proven {proven} there."
    cheaper = [] if best is None else _maybe_cheaper(rows, best, by)
    undecided: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["qualifies"] == UNKNOWN:
            remark = ", which may cost less" if row in cheaper else ""
            undecided.setdefault((remark, what_would_decide(row)), []).append(row)
    for (remark, text), arms in undecided.items():
        yield f"Cannot be said of {arm_names(arms)}{remark}: {text}."
    for why, arms in _by_reason([row for row in rows if row["qualifies"] == NO]).items():
        yield f"Does not qualify: {', '.join(f'{arm_name(row)}{how_far(row)}' for row in arms)}: {why}."
    if baseline is not None and baseline["predictions"] == NO:
        yield (
            "To judge the other arms, set comparison.baseline to one of them, or train the baseline at other learning "
            "rates or for longer."
        )
    elif baseline is not None and baseline["quality"] != YES:
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
        lines.append("Intervals of differences count other seeds and other test examples.")
        if compared:
            lines.append(
                f"p of non-inferiority: of a one-sided test that an arm is worse by the margin or more, with Holm's "
                f"correction over {compared} arm{'' if compared == 1 else 's'}; below 0.05 it is proven not to be. "
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
    return limits[COSTS[name]] is not None


def _unlimited(limits: dict[str, Any]) -> bool:
    return all(limits[key] is None for key in ("memory_GiB", "train_s", "energy_J"))


def _asked(rows: list[Row], limits: dict[str, Any]) -> str:
    asked = []
    if not _random(rows):
        baseline = next(row for row in rows if row["arm"] == row["baseline"])
        metric, margin = baseline["metric"], baseline["margin"] * metric_scale(baseline["metric"])
        units = "points" if metric == "accuracy" else ""
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

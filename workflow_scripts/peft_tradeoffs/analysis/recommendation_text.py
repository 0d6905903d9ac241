"""The recommendation in sentences for whoever decides: the answer first, then why, then a table."""

from typing import Any

import pandas as pd

from peft_tradeoffs.analysis.comparison import SHARED, TUNED
from peft_tradeoffs.analysis.comparison_text import (
    errors_of_margin,
    family,
    margin_words,
    p_value,
    verdict_words,
)
from peft_tradeoffs.analysis.notices import Pair, of_rows
from peft_tradeoffs.analysis.readable import (
    NULL,
    PROBE,
    grid,
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
    UNKNOWN,
    YES,
)
from peft_tradeoffs.analysis.recommendation_words import (
    NOUN,
    UNITS,
    Row,
    arm_name,
    arm_names,
    at_worst,
    cost_apart,
    cost_beside,
    cost_words,
    difference_words,
    disagreement,
    facts_of,
    how_far,
    may_lose,
    nearest,
    next_step,
    on_other_split,
    proven_elsewhere,
    proven_loss,
    short_reason,
    tells_cost,
    unsettled,
    verb,
    what_would_decide,
)
from peft_tradeoffs.analysis.stats import failure_rate, noise_notes
from peft_tradeoffs.analysis.tables import memory_key
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.text import plural, records
from peft_tradeoffs.tasks.metrics import difference_unit, metric_words
from peft_tradeoffs.tasks.recorded import NOTE

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
    found = [(title, section, _rows(section)) for title, section in sections(frame)]
    tables = sum(_tables(rows) for _, _, rows in found)
    for title, section, rows in found:
        points = "".join(f"- {line}\n" for line in sentences("recommendation/points", _points(rows, limits)))
        table, box = grid(_table(rows)), warnings_box(of_rows(warnings or {}, section))
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
            "least": LOWEST_MEAN[by] if by_mean(qualify, by) else LEAST[by],
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
        "noun": NOUN[by],
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
        "at_worst": at_worst,
        "may_lose": may_lose,
        "unsettled": unsettled,
        "taken_for": best is not None and _taken_for(best, equal),
        "unsure": unsure,
        "tells_cost": tells_cost(unsure, COSTS[by]),
        "other_jobs": len(facts["yes"]) > 1 and by in LOWEST_MEAN and _jobs(facts["yes"], COSTS[by])["unknown"],
        "failure": lambda row: (
            f"{100 * failure_rate(row['n_failed'] + row['n_constant'], row['n'] + row['n_failed']):.0f}"
        ),
        "asked": _asked(rows, limits),
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
            line[f"Difference, {unit}"] = difference_words(row)
            line["p of non-inferiority"] = p_value(row["p_not_worse_holm"])
            if splits:
                said = "" if row["other_difference"] is None else f" ({verdict_words(row, 'other_verdict')})"
                line[f"On {splits[0]}, {unit}"] = difference_words(row, on="other_") + said
        for name, column in COSTS.items():
            if any(other[column] is not None for other in rows):
                header = f"{NOUN[name].capitalize()}, {UNITS[name]}"
                line[header] = cost_words(row, name, with_unit=False)
        line["Why"] = row["why"] or ("baseline" if row["arm"] == row["baseline"] else NULL)
        cells.append(line)
    return pd.DataFrame(cells)


def _notes(rows: list[Row], limits: dict[str, Any]) -> dict[str, Any]:
    """What the template of the notes knows, but for the number of tables."""
    facts = _facts(rows, limits)
    baseline = facts["baseline"]
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
        "errors": None if baseline is None else errors_of_margin(baseline),
        "one_seed": any(row["n"] == 1 for row in rows),
        "probe": PROBE,
        "memory": [NOTE[key].partition(": ")[2] for key in keys],
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
        asked.append(f"{metric} proven to be less than {margin} below that of {arm_name(baseline)}")
    for key, noun, units in (
        ("memory_GiB", "peak memory", "GiB"),
        ("train_s", "training time per run", "s"),
        ("energy_J", "energy per run", "J"),
    ):
        if limits[key] is not None:
            also = f" ({number(1024 * limits[key])} MiB)" if key == "memory_GiB" else ""
            asked.append(f"{noun} of at most {limits[key]:,g} {units}{also}")
    if not any(_limited(limits, name) for name in LIMITS):
        asked.append("no limit on costs")
    return f"{'; '.join(asked)}; of what qualifies, {LEAST[limits['cheapest']]}"


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

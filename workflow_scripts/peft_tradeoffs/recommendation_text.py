"""The recommendation in sentences for whoever decides: the answer first, then why, then a table of all arms."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.arms import arm_label
from peft_tradeoffs.budgets import round_up
from peft_tradeoffs.comparison import ALPHA, WORSE
from peft_tradeoffs.comparison_text import RANGE, UNCORRECTED, p_value, unit, with_interval
from peft_tradeoffs.job_noise import noise_notes
from peft_tradeoffs.readable import NOTE, NULL, PROBE, metric_label, metric_scale, number, unlike
from peft_tradeoffs.recommendation import COSTS, NO, TESTS, UNKNOWN, YES
from peft_tradeoffs.stats import MOST_EXAMPLES, MOST_SEEDS
from peft_tradeoffs.table_formats import grid, sections
from peft_tradeoffs.tables import memory_key

Row = dict[str, Any]
NOUN = {"memory": "peak memory", "time": "training time", "energy": "energy"}
LEAST = {"memory": "the lowest peak memory", "time": "the shortest training time", "energy": "the lowest energy"}
LOWEST_MEAN = {"time": "the lowest mean training time", "energy": "the lowest mean energy"}  # of costs without interval
UNITS = {"memory": "MiB", "time": "s", "energy": "J"}


def recommendation_markdown(frame: pd.DataFrame, limits: dict[str, Any]) -> str:
    """A section a (data set, model) of `recommendation_frame`; `limits` are those that it was made with."""
    parts = []
    for title, section in sections(frame):
        rows = section.astype(object).where(section.notna(), None).to_dict("records")
        points = "".join(f"- {line}\n" for line in _points(rows, limits))
        table = grid(_table(rows))
        parts.append(
            f"## {title}\n\n**{answer(rows, limits)}**\n\n{points}\n{table}\n\n{' '.join(_notes(rows, limits))}\n"
        )
    return "\n".join(parts)


def answer(rows: list[Row], limits: dict[str, Any]) -> str:
    """The recommendation of one data set and model, or why there is none, in a sentence."""
    by, random = limits["cheapest"], _random(rows)
    found = {kind: [row for row in rows if row["qualifies"] == kind] for kind in (YES, UNKNOWN, NO)}
    best = next((row for row in rows if row["cheapest"]), None)
    baseline = next((row for row in rows if row["arm"] == row["baseline"]), None)
    if not random and baseline["quality"] != YES:
        why = baseline["runs_why"] or baseline["quality_why"]
        return (
            f"No recommendation: {_name(baseline)}, the baseline, has no result ({why}), so what other arms lose "
            "against it is not known."
        )
    if not found[YES]:
        if found[UNKNOWN]:
            rest = f"; {_names(found[NO])} {_do(found[NO])} not" if found[NO] else ""
            return f"No recommendation: whether {_names(found[UNKNOWN], 'or')} qualifies these runs cannot say{rest}."
        reasons = _by_reason(found[NO]).items()
        return f"No arm qualifies: {'; '.join(f'{_names(arms)} ({why})' for why, arms in reasons)}."
    if best is None:
        why = found[YES][0]["incomparable"] or "it was not measured"
        return (
            f"No recommendation by {NOUN[by]}: {_names(found[YES])} {_do(found[YES], 'qualifies', 'qualify')}, but of "
            f"their {NOUN[by]} nothing can be said ({why})."
        )
    if len(rows) == 1:
        return (
            f"Nothing to choose: {_name(best)} is the only arm{'' if _unlimited(limits) else ', and keeps the limits'}."
        )
    maybe = _maybe_cheaper(rows, best, by)
    if best is baseline and len(found[YES]) == 1:
        if maybe:
            return (
                f"No recommendation: {_name(best)}, the baseline, is the only arm known to qualify, and whether "
                f"{_names(maybe, 'or')}, which may cost less, qualifies these runs cannot say."
            )
        cheaper = f"of a lower mean {NOUN[by]}" if _by_mean(rows, by) else "that may cost less"
        return f"Keep {_name(best)}, the baseline: no arm {cheaper} qualifies."
    return _choice(rows, found[YES], best, by, limits)


def _choice(rows: list[Row], qualify: list[Row], best: Row, by: str, limits: dict[str, Any]) -> str:
    equals = [row for row in qualify if _same(row)]
    among = [best, *equals]
    costs = ", ".join(_cost(row, by) for row in among)
    least = _least(rows, by)
    if _random(rows):
        lead = "Costs alone, since the weights are random and say nothing of quality"
        kept = "" if _unlimited(limits) else " of the arms that keep the limits"
        if not equals:
            return f"{lead}: {_name(best)} has {least}{kept}, {costs}."
        return f"{lead}: {_names(among)} have {least}{kept} ({costs}), and which has less cannot be told."
    lead = f"Take {_names(among, 'or')}"
    if len(qualify) == 1:
        return f"{lead}: it is the only arm that qualifies; its {NOUN[by]} is {costs}."
    of = f"of the {len(qualify)} arms that qualify"
    if not equals:
        return f"{lead}: {of} it has {least}, {costs}."
    return f"{lead}: {of} they have {least} ({costs}), and which of them has less cannot be told."


def _points(rows: list[Row], limits: dict[str, Any]) -> Iterable[str]:
    """What stands behind the answer, a line each."""
    by, random = limits["cheapest"], _random(rows)
    yield f"Asked for: {_asked(rows, limits)}."
    if limits["split"] != "test" and not random:
        yield (
            f"Judged on the {limits['split']} split, not on test. Where it was carved from train, its examples may be "
            "like each other and like those trained on, and what is proven is proven for such texts only."
        )
    differing = unlike(pd.DataFrame(rows))
    if differing:
        yield f"Not all else is equal: {' '.join(differing)}"
    best = next((row for row in rows if row["cheapest"]), None)
    baseline = next((row for row in rows if row["arm"] == row["baseline"]), None)
    if best is not None:
        yield f"{_name(best)}: {_facts(best, baseline)}."
        if best["other_difference"] is not None:
            yield f"{_on_other_split(best, baseline)}."
        if best["train_process_MiB"] is not None:
            yield (
                f"A GPU for {_name(best)} needs more than its peak: while it trained, the whole process held "
                f"{number(best['train_process_MiB'] / 1024)} GiB by NVML, CUDA context and captured graphs included."
            )
    others = [row for row in rows if row["qualifies"] == YES and row is not best]
    if others:
        yield f"Also {'within the limits' if random else 'qualify'}: {', '.join(_apart(row, by) for row in others)}."
    disagreed: dict[str, list[Row]] = {}
    for row in others:
        if proven := _disagrees(row, baseline):
            disagreed.setdefault(proven, []).append(row)
    for proven, arms in disagreed.items():
        yield f"The {arms[0]['other_split']} split disagrees on {_names(arms)}: proven {proven} there."
    cheaper = [] if best is None else _maybe_cheaper(rows, best, by)
    undecided: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["qualifies"] == UNKNOWN:
            remark = ", which may cost less" if row in cheaper else ""
            undecided.setdefault((remark, _undecided(row)), []).append(row)
    for (remark, text), arms in undecided.items():
        yield f"Cannot be said of {_names(arms)}{remark}: {text}."
    for why, arms in _by_reason([row for row in rows if row["qualifies"] == NO]).items():
        yield f"Does not qualify: {', '.join(f'{_name(row)}{_how_far(row)}' for row in arms)}: {why}."
    if baseline is not None and baseline["quality"] != YES:
        yield "To judge the arms that ran, set comparison.baseline to one of them, or run the baseline where it fits."


def _table(rows: list[Row]) -> pd.DataFrame:
    metric, cells = rows[0]["metric"], []
    splits = [row["other_split"] for row in rows if row["other_difference"] is not None]
    for row in rows:
        line = {"Arm": _name(row), "Qualifies": row["qualifies"]}
        if not _random(rows):
            line[f"Difference, {unit(metric)}"] = _difference(row)
            line["p of non-inferiority"] = p_value(row["p_not_worse_holm"])
            if splits:
                said = "" if row["other_difference"] is None else f" ({row['other_verdict']})"
                line[f"On {splits[0]}, {unit(metric)}"] = _difference(row, on="other_") + said
        for name, column in COSTS.items():
            if any(other[column] is not None for other in rows):
                header = f"{NOUN[name].capitalize()}, {UNITS[name]}"
                line[header] = _cost(row, name, with_unit=False)
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
        lines.append(f"Limits of {' and '.join(by_mean)} were judged by the mean.")
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
        units = unit(metric) if metric == "accuracy" else ""
        size = f"{margin:g} {units.removesuffix('s') if margin == 1 else units}".strip()
        asked.append(f"{_metric(metric)} proven to be less than {size} below that of {_name(baseline)}")
    for key, noun, units in (
        ("memory_GiB", "peak memory", "GiB"),
        ("train_s", "training time a run", "s"),
        ("energy_J", "energy a run", "J"),
    ):
        if limits[key] is not None:
            also = f" ({number(1024 * limits[key])} MiB)" if key == "memory_GiB" else ""
            asked.append(f"{noun} of at most {limits[key]:,g} {units}{also}")
    if _unlimited(limits):
        asked.append("no limit on costs")
    return f"{'; '.join(asked)}; of what qualifies, {LEAST[limits['cheapest']]}"


def _metric(metric: str) -> str:
    return "accuracy" if metric == "accuracy" else metric_label(metric)


def _name(row: Row) -> str:
    return arm_label(row["method"], row["rank"])


def _names(rows: list[Row], word: str = "and") -> str:
    names = [_name(row) for row in rows]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def _do(rows: list[Row], one: str = "does", several: str = "do") -> str:
    return one if len(rows) == 1 else several


def _cost(row: Row, name: str, with_unit: bool = True) -> str:
    column = COSTS[name]
    text = with_interval(row[column], row[f"{column}_low"], row[f"{column}_high"], 1.0)
    return f"{text} {UNITS[name]}" if with_unit and text != NULL else text


def _difference(row: Row, with_unit: bool = False, on: str = "") -> str:
    """The difference to the baseline; `on` is "other_" for that on the other split."""
    if row[f"{on}difference"] is None:
        return NULL
    scale = metric_scale(row["metric"])
    bounds = (row[f"{on}difference{part}"] for part in ("", "_low", "_high"))
    text = with_interval(*bounds, scale, sign=True)
    return f"{text} points" if with_unit and row["metric"] == "accuracy" else text


def _facts(best: Row, baseline: Row | None) -> str:
    facts = []
    if best["mean"] is not None:
        bounds = (None if best[key] is None else np.clip(best[key], *RANGE[best["metric"]]) for key in ("low", "high"))
        value = with_interval(best["mean"], *bounds, metric_scale(best["metric"]))
        facts.append(f"{_metric(best['metric'])} {value}{' %' if best['metric'] == 'accuracy' else ''}")
    against = baseline if baseline is not best else None
    if against is not None and best["difference"] is not None:
        p = p_value(best["p_not_worse_holm"])
        against_it = f"{_difference(best, with_unit=True)} against {_name(against)}"
        facts[-1] += f", {against_it} (p of non-inferiority {p})"
    for name, column in COSTS.items():
        if best[column] is not None:
            also = against is not None and against[column] is not None
            facts.append(
                f"{NOUN[name]} {_cost(best, name)}" + (f" ({_name(against)} {_cost(against, name)})" if also else "")
            )
    return "; ".join(facts)


def _on_other_split(best: Row, baseline: Row) -> str:
    """What the split that does not judge says of the recommended arm, and whether it agrees."""
    split, judged = best["other_split"], "test" if best["other_split"] == "heldout" else "heldout"
    found = f"{_difference(best, with_unit=True, on='other_')} against {_name(baseline)}"
    said = f"On the {split} split ({best['other_test_rows']:,.0f} examples): {found}"
    if best["other_p_not_worse_holm"] is None:
        return f"{said}, without a test"
    said += f" ({best['other_verdict']})"
    if best["other_p_not_worse_holm"] < ALPHA:
        return f"{said}; it keeps within the margin there, too"
    proven = _disagrees(best, baseline)
    if not proven:
        return f"{said}; there it is not proven to keep within the margin"
    return (
        f"{said}: the splits disagree. On {judged} it is proven to lose less than the margin, on {split} it is proven "
        f"{proven}; which of them counts is yours to say"
    )


def _disagrees(row: Row, baseline: Row) -> str:
    """What the other split proves against an arm that qualifies by the one that judges, or nothing."""
    if row["other_p_not_worse_holm"] is None or row["other_p_not_worse_holm"] < ALPHA:
        return ""
    if row["other_p_worse_holm"] < ALPHA / 2:
        return "to lose more than the margin"
    if row["other_verdict"] == WORSE:
        return f"worse than {_name(baseline)}, and not proven to lose less than the margin"
    return ""


def _same(row: Row) -> bool:
    """Whether the difference in cost to the cheapest arm cannot be told from 0."""
    return row["apart_low"] is not None and row["apart_low"] <= 0 <= row["apart_high"]


def _apart(row: Row, by: str) -> str:
    if row[COSTS[by]] is None:
        return _name(row)
    if row["apart"] is None:
        return f"{_name(row)} ({NOUN[by]} {_cost(row, by)})"
    text = with_interval(row["apart"], row["apart_low"], row["apart_high"], 1.0, sign=True)
    return f"{_name(row)} ({NOUN[by]} {text} {UNITS[by]}{', cannot be told from 0' if _same(row) else ''})"


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


def _how_far(row: Row) -> str:
    """The numbers by which an arm does not qualify."""
    found = [_cost(row, name) for name, column in COSTS.items() if row[f"{column}_kept"] == NO]
    if row["quality"] == NO:
        found.append(_difference(row, with_unit=True))
    return f" ({', '.join(found)})" if found else ""


def _undecided(row: Row) -> str:
    """What is not known of an arm, and what would decide it."""
    said = []
    for test in TESTS:
        if row[test] != UNKNOWN:
            continue
        why = row[f"{test.removesuffix('_kept')}_why"]
        if test == "quality" and row["p_not_worse_holm"] is not None:
            why = f"{why} ({_difference(row, with_unit=True)}); {_needed(row)}"
        for name, column in COSTS.items():
            if test == f"{column}_kept" and row[column] is not None:
                seeds = row[f"{column}_seeds_needed"]
                more = "seeds in jobs of their own (seeds_per_job: 1) would tell more"
                why += f" ({_cost(row, name)}); {more if seeds is None else f'about {seeds} seeds would decide it'}"
        said.append(why)
    return "; ".join(said)


def _needed(row: Row) -> str:
    """How many seeds or test examples would prove an arm to keep within the margin, by what is known of its spread."""
    seeds, examples = row["seeds_needed"], row["examples_needed"]
    if row["difference"] <= -row["margin"]:
        return "as the runs stand it loses more than the margin, and more of them would rather show that"
    true = "if this is the true difference" if row["difference"] < 0 else "if the true difference is 0"
    if seeds is None and examples is None:
        return f"neither {MOST_SEEDS} seeds nor {MOST_EXAMPLES:,} test examples would prove it, {true}"
    ways = [f"about {seeds:,} seeds with these test examples"] if seeds is not None else []
    if examples is not None:
        ways.append(f"about {round_up(examples):,.0f} test examples with these seeds")
    rest = f"; {MOST_SEEDS} seeds with these test examples would not" if seeds is None else ""
    return f"{' or '.join(ways)} would prove it with a probability of 80 %, {true}{rest}"

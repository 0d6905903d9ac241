"""The check against a reference as its reader sees it: what moved, what differs, a verdict."""

import math
from collections import Counter
from typing import Any

import pandas as pd

from peft_tradeoffs.analysis.readable import LABEL, NULL, metric_scale, number
from peft_tradeoffs.analysis.reference import Sweep
from peft_tradeoffs.analysis.reference_check import (
    ALPHA,
    FAILING,
    LARGEST_CHANGE,
    LARGEST_OF_ENERGY,
    LEAST_CHANGE,
    LEAST_EXAMPLES,
    RUNS,
    differences,
    identical,
)
from peft_tradeoffs.analysis.reference_spread import METRIC, OF_NOISE, OF_SEEDS
from peft_tradeoffs.analysis.table_formats import markdown
from peft_tradeoffs.core.arms import arm_label
from peft_tradeoffs.tasks.metric_names import difference_unit, metric_label

SHOWN = 5  # names in a sentence
SPREAD = {
    OF_NOISE: "the spread of repeats of the same seed (the noise floor)",
    OF_SEEDS: "the spread of the reference's seeds (no noise floor was measured, and seeds do not show how processes "
    "differ: set `noise` in the config)",
}


def check_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `reference_check.check` of one data set and model as text, those that fail the check first."""
    first = rows["verdict"].isin(FAILING)
    return pd.DataFrame([_cells(row) for row in pd.concat([rows[first], rows[~first]]).to_dict("records")])


def _cells(row: dict[str, Any]) -> dict[str, str]:
    metric, scale, what = _unit(row)
    size = row["tolerance"] if row["tolerance"] > 0 else abs(row["change"])
    places = _places(size * scale)
    absolute = None if pd.isna(size) else _places(size * (scale if metric else abs(row["reference"])))
    shown = scale if metric else 1.0
    if row["quantity"] == RUNS:
        absolute = 0
    return {
        "Arm": arm_label(row["method"], row["rank"]),
        "Quantity": _quantity(row),
        "n": NULL if pd.isna(row["n"]) else str(row["n"]),
        "Reference": number(row["reference"] * shown, absolute),
        "Now": number(row["now"] * shown, absolute),
        "Change": _change(row["change"] * scale, places, what),
        "Tolerance": NULL if pd.isna(row["tolerance"]) else f"± {number(row['tolerance'] * scale, places)} {what}",
        "Verdict": row["verdict"],
    }


def _unit(row: dict[str, Any]) -> tuple[bool, float, str]:
    """Whether it is the metric; what a change is multiplied by, and its unit then."""
    metric = row["quantity"] == METRIC
    return metric, metric_scale(row["metric"]) if metric else 100.0, difference_unit(row) if metric else "%"


def _places(size: float) -> int:
    """Decimals that give two significant digits of a size."""
    return 0 if pd.isna(size) or size in (0, math.inf) else max(0, 1 - math.floor(math.log10(size)))


def _change(value: float, places: int, what: str) -> str:
    if pd.isna(value):
        return NULL
    return "0" if value == 0 else f"{value:+,.{places}f} {what}"


def _quantity(row: dict[str, Any]) -> str:
    if row["quantity"] == RUNS:
        return "Runs"
    return metric_label(row) if row["quantity"] == METRIC else LABEL[row["quantity"]]


def check_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of a check: one sentence each."""
    lines = ["Means over the n seeds that both completed."]
    judged = rows.dropna(subset="tolerance")
    if len(judged):
        lines.append(f"What the gate sees in every arm is a change of {'; '.join(_seen(judged))}. Less it may miss.")
    costs, metric = rows[rows["quantity"] != METRIC], rows[rows["quantity"] == METRIC]
    for source, own in costs.groupby("source", sort=False):
        if source in SPREAD:
            which = "; ".join(dict.fromkeys(map(_quantity, own.to_dict("records"))))
            lines.append(
                f"Tolerance of {which}: what noise explains, half the prediction interval of the change, by "
                f"{SPREAD[source]}, as a share of the mean pooled over arms ({own['df'].min()} degrees of freedom); at "
                f"least {LEAST_CHANGE * 100:g} %, at most {LARGEST_CHANGE * 100:g} %, of energy "
                f"{LARGEST_OF_ENERGY * 100:g} %."
            )
    if metric["tolerance"].notna().any():
        lines.append(
            f"Tolerance of {_quantity(metric.iloc[0])}: half the prediction interval of the change, by the spread of "
            f"the reference's seeds pooled over arms that spread alike ({metric['df'].min()} degrees of freedom at "
            f"least); at least {LEAST_EXAMPLES} test examples, at most the comparison's margin."
        )
    for reason, own in rows.dropna(subset="reason").groupby("reason", sort=False):
        names = dict.fromkeys(arm_label(row["method"], row["rank"]) for row in own.to_dict("records"))
        lines.append(f"{own['verdict'].iloc[0].capitalize()} ({', '.join(names)}): {reason}.")
    return lines


def _seen(judged: pd.DataFrame) -> list[str]:
    """Of each quantity the largest tolerance of an arm: "Accuracy beyond 0.93 points"."""
    parts = []
    for _, own in judged.groupby("quantity", sort=False):
        row = own.loc[own["tolerance"].idxmax()].to_dict()
        _, scale, what = _unit(row)
        size = row["tolerance"] * scale
        parts.append(f"{_quantity(row).partition(',')[0]} beyond {number(size, _places(size))} {what}")
    return parts


def report(rows: pd.DataFrame, reference: Sweep, now: Sweep) -> tuple[str, bool]:
    """The report as Markdown, whose last line is the verdict, and whether nothing moved and nothing is missing."""
    counts = Counter(rows["verdict"])
    good = not any(counts[verdict] for verdict in FAILING)
    parts = [
        "# Check against the reference",
        markdown(rows, check_readable, check_notes).rstrip(),
        _level(rows),
        "## What differs",
        "\n".join(_differing(reference, now)),
        "\n".join(_identical(what, reference, now) for what in ("weights", "predictions")),
    ]
    said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items(), key=_failing_first))
    return "\n\n".join(parts) + f"\n\nReference check: {'passed' if good else 'failed'} ({said})\n", good


def _level(rows: pd.DataFrame) -> str:
    """What the tolerances promise together, and where they cannot."""
    lines = [
        f"The {rows['tolerance'].notna().sum()} tolerances hold together (Bonferroni): if nothing changed and every "
        f"arm has that spread, the chance of any false alarm is at most {ALPHA * 100:g} %."
    ]
    costs = rows[rows["quantity"] != METRIC]
    if costs["source"].eq(OF_SEEDS).any():
        lines.append("But not where seeds stand in for a noise floor: a process that is slower is an alarm there.")
    loud = rows[rows["explained"] > rows["tolerance"]]
    if len(loud):
        found = loud.to_dict("records")
        which = "; ".join(dict.fromkeys(_quantity(row).partition(",")[0] for row in found))
        arms = _listed(list(dict.fromkeys(arm_label(row["method"], row["rank"]) for row in found)))
        lines.append(
            f"And not of {which} ({arms}), whose noise explains more than may pass: noise alone can leave them "
            "undecided."
        )
    return " ".join(lines)


def _failing_first(count: tuple[str, int]) -> bool:
    return count[0] not in FAILING


def _differing(reference: Sweep, now: Sweep) -> list[str]:
    found = differences(reference, now)
    if not found:
        return ["Nothing that is recorded: settings, data, model, code, versions, machine and driver are the same."]
    shared = {arm for arm in now.facts if arm in reference.facts}
    lines = []
    for name, old, new, arms in found:
        where = "every arm" if len(arms) == len(shared) else _listed(arms)
        lines.append(f"- {name}: {_shown_values(old)} → {_shown_values(new)} ({where})")
    return lines


def _identical(what: str, reference: Sweep, now: Sweep) -> str:
    same, other = identical(reference, now, what)
    if not same and not other:
        return f"{what.capitalize()}: no run of which both sweeps have them."
    text = f"{what.capitalize()}: bit-identical in {same} of the {same + len(other)} runs that both completed"
    return f"{text}; not in {_listed(other)}." if other else f"{text}."


def _shown_values(values: list[Any]) -> str:
    texts = ("null" if value is None else str(value) for value in values)
    return " and ".join(text[:12] + " …" if len(text) == 64 else text for text in texts) or "not recorded"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

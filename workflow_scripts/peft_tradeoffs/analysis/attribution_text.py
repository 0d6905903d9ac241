"""An attribution as readers see it: a sentence a quantity, and a table of effects with their intervals."""

import math
from typing import Any

import pandas as pd

from peft_tradeoffs.analysis.attribution import BASE, ENERGY, FACTOR, INTERACTION, TIMED, TOTAL
from peft_tradeoffs.analysis.comparison_text import with_interval
from peft_tradeoffs.analysis.digits import at_most, supported_decimals
from peft_tradeoffs.analysis.job_noise import UNKNOWN_SPREAD, noise_notes
from peft_tradeoffs.analysis.readable import LABEL, NOTE, NULL, PROBE, metric_scale, number
from peft_tradeoffs.tasks.metric_names import difference_unit, metric_label, metric_name

NAMES = {**LABEL, "activations_MiB": "Activations, MiB", ENERGY: "Energy, J/1,000 rows"}
UNTOLD = " (cannot be told from 0)"
METRIC = "metric_value"


def attribution_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `attribution_frame` of one factorial as text; quantities of which nothing is known are left out."""
    known = _known(rows) or list(rows["quantity"].unique())
    cells = []
    for row in rows[rows["quantity"].isin(known)].to_dict("records"):
        base, quantity = row["kind"] == BASE, row["quantity"]
        percent = NULL if base or quantity == METRIC or pd.isna(row["percent"]) else _percent(row["percent"])
        cells.append(
            {
                "Quantity": _name(rows, quantity),
                "Effect": f"{row['arm']} (base)" if base else row["effect"],
                "Mean or change": with_interval(
                    row["value"], row["low"], row["high"], _scale(rows, quantity), sign=not base
                ),
                "Of the base, %": percent,
            }
        )
    return pd.DataFrame(cells)


def attribution_sentences(rows: pd.DataFrame) -> list[str]:
    """A sentence a quantity: of how much in all each factor takes what part; then what is not known, and why."""
    known = _known(rows)
    unknown: dict[str, list[str]] = {}
    for quantity in dict.fromkeys(rows["quantity"]):
        if quantity not in known:
            own = rows[(rows["quantity"] == quantity) & (rows["kind"] != INTERACTION)]
            reasons = "; ".join(dict.fromkeys(own["reason"].dropna()))
            unknown.setdefault(reasons, []).append(_name(rows, quantity).partition(",")[0])
    return [
        *(_sentence(rows, quantity) for quantity in known),
        *(f"{', '.join(names)}: nothing is known ({reason})." for reason, names in unknown.items()),
    ]


def attribution_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of an attribution: one sentence each."""
    base, last = (rows.loc[rows["kind"] == kind, "arm"].iloc[0] for kind in (BASE, TOTAL))
    lines = [
        f"Base: {base}, which has none of the factors. A factor alone: {base} with that factor, less {base}. Total: "
        f"{last}, which has them all, less {base}.",
        "Interaction (A × B): what A and B change together beyond the sum of what each changes alone. Where it is 0 "
        "their effects add up; where it is not, what one of them is worth depends on whether the other is there.",
    ]
    if rows["low"].notna().any():
        lines.append(
            f"In brackets: 95 % t intervals over the {rows['n'].max()} seeds that the arms share; without brackets, "
            "every seed gave the same, or an interval is narrower than the digits."
        )
    elif rows["n"].max() == 1:
        lines.append("One seed: no intervals, so how much of this is chance is not known.")
    short = rows[(rows["n"] > 0) & (rows["n"] < rows["n_seeds"])]
    if len(short):
        few = " or ".join(map(str, sorted(short["n"].unique())))
        lines.append(f"{few} of the {short['n_seeds'].iloc[0]} seeds count: a seed that an arm lacks counts in none.")
    if pd.notna(failed := rows["failed"].iloc[0]):
        lines.append(f"Failed runs are left out: {failed}.")
    lines += noise_notes({_short(key): _jobs(rows[rows["quantity"] == key]) for key in TIMED if key in _known(rows)})
    lines += [PROBE, *(NOTE[key] for key in rows["quantity"].unique() if key in NOTE)]
    lines.append("Weights and activations: from tensor sizes.")
    if ENERGY in _known(rows) and rows["energy_window_short"].any():
        lines.append("Energy: measured over less than 30 s in some runs.")
    if pd.notna(rates := rows["learning_rates"].iloc[0]) and METRIC in _known(rows):
        lines.append(f"Learning rates differ ({rates}): what the metric changes by is theirs, too.")
    if pd.notna(differs := rows["differs"].iloc[0]):
        lines.append(f"By the contract, which compares every arm with the comparison's baseline: {differs}")
    return lines


def _short(quantity: str) -> str:
    name = NAMES[quantity].partition(",")[0]
    return name[0].lower() + name[1:]


def _jobs(rows: pd.DataFrame) -> dict[str, Any]:
    """What `noise_notes` asks of a quantity of time or energy."""
    return {
        "unknown": rows["reason"].eq(UNKNOWN_SPREAD).any(),
        "jobs": rows["jobs"].max(),
        "percent": None if rows["jobs_sd_percent"].isna().all() else rows["jobs_sd_percent"].max(),
    }


def _known(rows: pd.DataFrame) -> list[str]:
    """The quantities of which some change is known."""
    return list(dict.fromkeys(rows[rows["kind"] != BASE].dropna(subset="value")["quantity"]))


def _name(rows: pd.DataFrame, quantity: str) -> str:
    return metric_label(rows.iloc[0]) if quantity == METRIC else NAMES[quantity]


def _scale(rows: pd.DataFrame, quantity: str) -> float:
    return metric_scale(rows["metric"].iloc[0]) if quantity == METRIC else 1.0


def _no_spread(row: Any) -> bool:
    """Whether every seed gave the same, or there was one alone."""
    return pd.isna(row["low"]) or row["high"] - row["low"] <= 1e-9 * abs(row["value"])


def _signed(value: float, places: int | None = None) -> str:
    """A number with its sign, three significant digits unless decimals are given; 0 has none."""
    text = number(abs(value), places)
    return text if not text.strip("0.,") else ("+" if value > 0 else "-") + text


def _percent(value: float) -> str:
    return _signed(value, 0 if abs(value) >= 10 else 1)


def _sentence(rows: pd.DataFrame, quantity: str) -> str:
    own = rows[rows["quantity"] == quantity]
    scale = _scale(rows, quantity)
    if quantity == METRIC:
        name, units = metric_name(own.iloc[0]), difference_unit(own.iloc[0])
    else:
        name, _, units = _name(rows, quantity).partition(", ")
    units = "" if units == name else f" {units}"
    total = own[own["kind"] == TOTAL].iloc[0]
    places = _places(total, scale)
    single = (own["kind"] == INTERACTION).sum() == 1
    parts, lacking, untold = [], [], []
    for row in own[own["kind"].isin((FACTOR, INTERACTION))].to_dict("records"):
        interaction = "their interaction" if single else f"the interaction {row['effect']}"
        effect = f"{row['effect']} alone" if row["kind"] == FACTOR else interaction
        if pd.isna(row["value"]):
            lacking.append((effect, row["reason"]))
        else:
            parts.append(f"{effect} {_signed(row['value'] * scale, places)}")
            untold.append(_untold(row))
    if all(untold) and len(untold) > 1:
        parts[-1] += " (none can be told from 0)"
    else:
        parts = [part + remark for part, remark in zip(parts, untold, strict=True)]
    unknown = f"; not known: {', '.join(effect for effect, _ in lacking)} ({lacking[-1][1]})" if lacking else ""
    if pd.isna(total["value"]):
        return f"{name}, change in{units or ' it'}: {', '.join(parts)}{unknown}."
    size = number(abs(total["value"] * scale), places)
    share = f" ({_percent(total['percent'])} %)" if quantity != METRIC and size.strip("0.,") else ""
    whole = f"of {size}{units} {'more' if total['value'] > 0 else 'less'}{share} in all{_untold(total)}"
    if not size.strip("0.,"):
        whole = f"no change in all{_untold(total)};"
    return f"{name}: {whole}, {', '.join(parts)}{unknown}.".replace(";,", ";")


def _places(total: Any, scale: float) -> int | None:
    """Decimals for a sentence's numbers, so that they can be added up: those that the total supports."""
    if pd.isna(total["value"]):
        return None
    if _no_spread(total):
        value = abs(total["value"] * scale)
        return max(0, 2 - math.floor(math.log10(value))) if value else None
    return at_most(supported_decimals((total["high"] - total["low"]) / 2 * scale), total["value"] * scale)


def _untold(row: Any) -> str:
    return UNTOLD if row["low"] <= 0 <= row["high"] and row["low"] < row["high"] else ""

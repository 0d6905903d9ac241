"""A sweep against a reference: what moved by more than noise, which setting differs, and what the reader is told."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy import stats

from peft_tradeoffs.analysis.readable import NULL, markdown, memory_keys, number
from peft_tradeoffs.analysis.reference import Sweep, arm_name, run_name
from peft_tradeoffs.analysis.stats import pooled, processes
from peft_tradeoffs.analysis.tables import ARM, COMPLETED, SPLIT, memory_key
from peft_tradeoffs.core.text import arm_label, first_record, groups_of, records
from peft_tradeoffs.tasks.metrics import metric_called
from peft_tradeoffs.tasks.shown import Margin, difference_unit, margin_of, metric_label
from peft_tradeoffs.tasks.task import LABEL

METRIC = "metric_value"
OF_NOISE, OF_SEEDS, OF_SIZES = "repeats", "seeds", "tensor sizes"  # where a spread comes from
APART = 0.01  # chance that any arm that spreads like the others is set apart from them


@dataclass(frozen=True)
class Spread:
    """Standard deviation of one run (as a share of the mean, of the metric in its unit), its freedom and its source."""

    sd: float
    df: int
    source: str


def spread_of_metric(row: dict[str, Any], reference: Sweep) -> Spread | None:
    """Spread of the metric over the reference's seeds, pooled over arms; None if no arm has two.

    Another seed draws the head, the adapter and the order of the rows anew, so this bounds what a run of the same seed
    that rounds otherwise, by another version or GPU, can do. Repeats on one GPU do not: bit for bit alike, they spread
    by nothing. An arm that spreads more than the others (F test of the widest against the rest, again and again, at
    APART over the arms) is left out of the pool and has its own.
    """
    runs = reference.runs
    done = runs[(runs["status"] == COMPLETED) & _same(runs, row)]
    arms = done[METRIC].astype(float).groupby(done["arm"], sort=False).agg(["var", "count"]).dropna()
    pool = arms.sort_values("var")
    while len(pool) > 1 and _is_wider(pool.iloc[-1], pool.iloc[:-1], len(arms)):
        pool = pool.iloc[:-1]
    own = arms.loc[[row["arm"]]] if row["arm"] in arms.index.difference(pool.index) else pool
    df = int((own["count"] - 1).sum())
    return Spread(math.sqrt(_pooled(own)), df, OF_SEEDS) if df else None


def _is_wider(widest: pd.Series, rest: pd.DataFrame, arms: int) -> bool:
    level = stats.f.ppf(1 - APART / arms, widest["count"] - 1, (rest["count"] - 1).sum())
    return bool(widest["var"] > level * _pooled(rest))


def _pooled(arms: pd.DataFrame) -> float:
    """The variance of one run, weighed by degrees of freedom."""
    return float((arms["var"] * (arms["count"] - 1)).sum() / (arms["count"] - 1).sum())


def spread_of_cost(row: dict[str, Any], reference: Sweep, now: Sweep) -> Spread | None:
    """Spread of a cost on a device, pooled over the arms of a data set and model; None if nothing shows it.

    From the repeats of the reference's noise floor; where it measured none, from today's, whose repeats are of one
    state as well; else from the seeds of each of the reference's arms. Weights have none. Pooling takes the standard
    deviation, as a share of the mean, to be the same in every arm.
    """
    key = row["quantity"]
    if key in SPLIT:
        return Spread(0.0, 1, OF_SIZES)
    device = _device(row, reference)
    for noise in (reference.noise, now.noise):
        if noise is not None:
            own = noise[(noise["quantity"] == key) & (noise["device_name"] == device) & _same(noise, row)]
            if found := _of_shares(own[["mean", "sd", "n"]], OF_NOISE):
                return found
    runs = reference.runs
    if key not in runs:
        return None
    done = runs[(runs["status"] == COMPLETED) & (runs["device_name"] == device) & _same(runs, row)]
    arms = done[key].astype(float).groupby(done["arm"], sort=False).agg(["mean", "std", "count"])
    return _of_shares(arms.set_axis(["mean", "sd", "n"], axis=1), OF_SEEDS)


def _of_shares(arms: pd.DataFrame, source: str) -> Spread | None:
    found = pooled(arms)
    return Spread(found.cv, found.df, source) if found else None


def _same(frame: pd.DataFrame, row: dict[str, Any]) -> pd.Series:
    return (frame["dataset"] == row["dataset"]) & (frame["model"] == row["model"])


def _device(row: dict[str, Any], sweep: Sweep) -> str:
    own = sweep.runs[_same(sweep.runs, row) & (sweep.runs["arm"] == row["arm"])]
    return str(own["device_name"].dropna().iloc[0])


ALPHA = 0.05  # of a false alarm in the whole check: half of it for the metric's rows, half for those of costs
LEAST_CHANGE = 0.005  # of time, memory and energy, as a share: a smaller one never counts
LEAST_EXAMPLES = 2  # of the metric, in test examples on the mean over seeds: less never counts
LARGEST_CHANGE = 0.1  # of time and memory, as a share: a larger one never passes, whatever the noise
LARGEST_OF_ENERGY = 0.2  # one job's energy varies by 3 to 4 % (sd), which two jobs differ by 5 % for
RUNS = "runs"
WITHIN, MOVED, GONE, NEW = "within", "moved", "only in the reference", "only now"
OTHER_DEVICE, UNDECIDED = "not compared", "undecided"
FAILING = (MOVED, GONE, OTHER_DEVICE, UNDECIDED)
COLUMNS = (
    *ARM, "method", "rank", "pretrained", "metric", "positive_class", "quantity", "n", "reference", "now", "change",
    "tolerance", "explained", "df", "source", "verdict", "reason",
)  # fmt: skip
NO_SPREAD = "one seed or run shows no spread: set `noise` in the config"
TOO_NOISY = (
    "larger than the gate lets pass, and no larger than noise explains: more seeds, or repeats of `noise`, would decide"
)
CUDA = ("probe_peak_reserved_MiB", "probe_process_MiB")


def check(reference: Sweep, now: Sweep, margin: Margin) -> pd.DataFrame:
    """One row per (data set, model, arm, quantity), columns as in COLUMNS, arms in the order of `now`.

    Quantities: runs (how many of the seeds that both have completed; how many seeds, where one lacks some), the metric,
    and time, memory and energy. Values are means over the n seeds that both sweeps completed; change and tolerance are
    shares of the reference, of the metric in its own unit. Noise explains half the prediction interval of the
    difference of two means,

        t(1 - a / 2m; df) · sd · sqrt(1/j + 1/k),

    where sd is that of one run and df its degrees of freedom, both by the reference's own runs and repeats
    (`spread_of_metric`, `spread_of_cost`), lest a change explain itself by its own spread. Of the metric j = k = n; of
    a cost they are the processes that trained the arm's seeds, since seeds of one process share what makes it slow. m
    rows share a = ALPHA / 2 (Bonferroni): those of the metric one, those of costs the other.

    The tolerance is what noise explains, but at least `_least` and at most `_largest`: `margin` of the metric,
    LARGEST_CHANGE of time and memory, LARGEST_OF_ENERGY. What is within it passes; so no larger change does, however
    loud the noise. A larger one moved, unless noise explains it too: then it is undecided. Without a spread only a
    change below the least is within; a larger one is undecided.
    """
    rows: list[dict[str, Any]] = []
    known, found = _arms(reference.runs), _arms(now.runs)
    for name in [*found, *(name for name in known if name not in found)]:
        if name not in found:
            rows.append(_alone(known[name], GONE, "no such arm now"))
        elif name not in known:
            rows.append(_alone(found[name], NEW, "a new arm"))
        else:
            rows += [_identity(found[name]) | row for row in _compared(known[name], found[name])]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = ("reference", "now", "change", "tolerance", "explained")
    frame = frame.astype(dict.fromkeys(("rank", "n", "df"), "Int64") | dict.fromkeys(numbers, float))
    return _judged(frame, reference, now, margin)


def _arms(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    runs = runs.astype({"seed": int})
    return {arm_name(first_record(own)): own.set_index("seed") for _, own in runs.groupby(ARM, sort=False)}


def _identity(runs: pd.DataFrame) -> dict[str, Any]:
    first = runs.iloc[0]
    return dict.fromkeys(COLUMNS) | {
        key: first.get(key) for key in (*ARM, "method", "rank", "pretrained", "metric", "positive_class")
    }


def _alone(runs: pd.DataFrame, verdict: str, reason: str) -> dict[str, Any]:
    """The row of an arm that one sweep lacks."""
    counts = {"reference": len(runs), "now": 0} if verdict == GONE else {"reference": 0, "now": len(runs)}
    return _identity(runs) | {"quantity": RUNS, **counts, "verdict": verdict, "reason": reason}


def _compared(known: pd.DataFrame, found: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of an arm that both sweeps have; without tolerances and, where those decide, verdicts."""
    shared = [seed for seed in found.index if seed in known.index]
    rows = []
    for lacking, have, verdict in ((found, known, GONE), (known, found, NEW)):
        if seeds := [seed for seed in have.index if seed not in lacking.index]:
            counts = {"reference": len(known), "now": len(found)}
            rows.append(
                {"quantity": RUNS, **counts, "verdict": verdict, "reason": f"seeds {', '.join(map(str, seeds))}"}
            )
    known, found = known.loc[shared], found.loc[shared]
    ended = [seed for seed in shared if known["status"][seed] != found["status"][seed]]
    if ended:
        counts = {"reference": (known["status"] == COMPLETED).sum(), "now": (found["status"] == COMPLETED).sum()}
        words = [f"seed {seed}: {known['status'][seed]}, now {found['status'][seed]}" for seed in ended]
        rows.append({"quantity": RUNS, **counts, "verdict": MOVED, "reason": "; ".join(words)})
    done = [seed for seed in shared if known["status"][seed] == found["status"][seed] == COMPLETED]
    known, found = known.loc[done], found.loc[done]
    return rows + [row for key in _quantities(found) if (row := _of_quantity(key, known, found)) is not None]


def _quantities(runs: pd.DataFrame) -> list[str]:
    """What is compared; samples/s are not, for they say what train_s says."""
    memory = memory_keys(runs["device"])
    if memory_key("cuda") in memory:
        memory += CUDA
    return [METRIC, *memory, "weights_MiB", "step_p50_ms", "train_s", "energy_J_per_sample"]


def _of_quantity(key: str, known: pd.DataFrame, found: pd.DataFrame) -> dict[str, Any] | None:
    """Values and change; None where neither has the quantity."""
    if key != METRIC:
        known, found = (runs[~runs["mixed_gpus"].astype(str).eq("True")] for runs in (known, found))
    before, after = (_values(runs, key) for runs in (known, found))
    both = [seed for seed in after.index if seed in before.index]
    row: dict[str, Any] = {"quantity": key, "n": len(both)}
    if not len(both):
        if not len(before) and not len(after):
            return None
        return row | {"reference": before.mean(), "now": after.mean(), "verdict": NEW if len(after) else GONE}
    before, after = before.loc[both], after.loc[both]
    difference = float(after.mean() - before.mean()) if (before != after).any() else 0.0
    row |= {"reference": float(before.mean()), "now": float(after.mean()), "change": difference}
    if key == METRIC:
        return row
    if difference:
        row["change"] = difference / row["reference"] if row["reference"] else math.copysign(math.inf, difference)
    devices = [" and ".join(sorted(set(runs["device_name"].dropna()))) for runs in (known, found)]
    if devices[0] != devices[1] or " and " in devices[0]:
        row |= {
            "change": None,
            "verdict": OTHER_DEVICE,
            "reason": f"the reference is of {devices[0]}, this sweep of {devices[1]}",
        }
    return row


def _values(runs: pd.DataFrame, key: str) -> pd.Series:
    return runs[key].astype(float).dropna() if key in runs else pd.Series(dtype=float)


def _judged(rows: pd.DataFrame, reference: Sweep, now: Sweep, margin: Margin) -> pd.DataFrame:
    """The rows with tolerances, and verdicts that follow from them."""
    open_rows = rows[rows["verdict"].isna()]
    metrics = int((open_rows["quantity"] == METRIC).sum())
    known, found = _arms(reference.runs), _arms(now.runs)
    for index, row in zip(open_rows.index, records(open_rows), strict=True):
        own = known[arm_name(row)], found[arm_name(row)]
        of_metric = row["quantity"] == METRIC
        spread = spread_of_metric(row, reference) if of_metric else spread_of_cost(row, reference, now)
        explained = None
        if spread is not None:
            means = [row["n"]] * 2 if of_metric else list(map(processes, own))
            level = 1 - ALPHA / 2 / 2 / (metrics if of_metric else len(open_rows) - metrics)
            explained = float(stats.t.ppf(level, spread.df)) * spread.sd * math.sqrt(sum(1 / count for count in means))
        of_arm = margin_of(margin, own[0]["metric"].iloc[0]) if of_metric else 0.0
        least, largest = _least(row, own), _largest(row["quantity"], of_arm)
        tolerance = min(max(least, explained or 0.0), largest)
        change, reason = abs(row["change"]), None
        verdict = WITHIN if change <= tolerance else UNDECIDED if explained is None or change <= explained else MOVED
        if verdict == UNDECIDED:
            reason = NO_SPREAD if explained is None else TOO_NOISY
        filled = {"tolerance": tolerance, "explained": explained, "verdict": verdict, "reason": reason}
        filled |= {"df": spread.df, "source": spread.source} if spread else {"df": None, "source": None}
        for key, value in filled.items():
            rows.at[index, key] = value
    return rows


def _least(row: dict[str, Any], own: tuple[pd.DataFrame, pd.DataFrame]) -> float:
    """The change that always passes: of a metric what some examples make of a share, of a loss none."""
    if row["quantity"] != METRIC:
        return LEAST_CHANGE
    low, high = (metric := metric_called(own[0]["metric"].iloc[0])).bounds
    if not metric.higher_is_better or math.isinf(high - low):
        return 0.0
    return (high - max(low, 0.0)) * LEAST_EXAMPLES / min(runs["test_rows"].min() for runs in own)


def _largest(quantity: str, margin: float) -> float:
    """The change above which none passes."""
    if quantity == METRIC:
        return margin
    return LARGEST_OF_ENERGY if quantity.startswith("energy") else LARGEST_CHANGE


def differences(reference: Sweep, now: Sweep) -> list[tuple[str, list[Any], list[Any], list[str]]]:
    """Facts (`reference.run_facts`) that differ: name, the reference's values, today's, the arms that both have.

    No values where it was not recorded.
    """
    shared = [arm for arm in now.facts if arm in reference.facts]
    names = dict.fromkeys(name for sweep in (reference, now) for arm in shared for name in sweep.facts[arm])
    found: dict[tuple[str, str, str], tuple[str, list[Any], list[Any], list[str]]] = {}
    for name in names:
        for arm in shared:
            old, new = (sorted(sweep.facts[arm].get(name, []), key=repr) for sweep in (reference, now))
            if old != new:
                found.setdefault((name, repr(old), repr(new)), (name, old, new, []))[3].append(arm)
    return list(found.values())


def identical(reference: Sweep, now: Sweep, what: str) -> tuple[int, list[str]]:
    """How many runs that both completed have the same "weights" or "predictions" bit for bit, and which have not."""
    done = [
        {run_name(run) for run in records(sweep.runs[sweep.runs["status"] == COMPLETED])} for sweep in (reference, now)
    ]
    both = [
        run
        for run in now.checksums
        if run in done[0] & done[1] and all(sweep.checksums.get(run, {}).get(what) for sweep in (reference, now))
    ]
    other = [run for run in both if reference.checksums[run][what] != now.checksums[run][what]]
    return len(both) - len(other), other


SHOWN = 5  # names in a sentence
SPREAD = {
    OF_NOISE: "the spread of repeats of the same seed (the noise floor)",
    OF_SEEDS: "the spread of the reference's seeds (no noise floor was measured, and seeds do not show how processes "
    "differ: set `noise` in the config)",
}


def check_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `gate.check` of one data set and model as text, those that fail the check first."""
    first = rows["verdict"].isin(FAILING)
    return pd.DataFrame([_cells(row) for row in records(pd.concat([rows[first], rows[~first]]))])


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
    return metric, metric_called(row["metric"]).scale if metric else 100.0, difference_unit(row) if metric else "%"


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
    for source, own in groups_of(costs, "source"):
        if source in SPREAD:
            which = "; ".join(dict.fromkeys(map(_quantity, records(own))))
            lines.append(
                f"Tolerance of {which}: what noise explains, half the prediction interval of the change, by "
                f"{SPREAD[source]}, as a share of the mean pooled over arms ({own['df'].min()} degrees of freedom); at "
                f"least {LEAST_CHANGE * 100:g} %, at most {LARGEST_CHANGE * 100:g} %, of energy "
                f"{LARGEST_OF_ENERGY * 100:g} %."
            )
    if metric["tolerance"].notna().any():
        name, df = _quantity(first_record(metric)), metric["df"].min()
        lines.append(
            f"Tolerance of {name}: half the prediction interval of the change, by the spread of "
            f"the reference's seeds pooled over arms that spread alike ({df} degrees of freedom at "
            f"least); at least {LEAST_EXAMPLES} test examples, at most the comparison's margin."
        )
    for reason, own in rows.dropna(subset="reason").groupby("reason", sort=False):
        names = dict.fromkeys(arm_label(row["method"], row["rank"]) for row in records(own))
        lines.append(f"{own['verdict'].iloc[0].capitalize()} ({', '.join(names)}): {reason}.")
    return lines


def _seen(judged: pd.DataFrame) -> list[str]:
    """Of each quantity the largest tolerance of an arm: "Accuracy beyond 0.93 points"."""
    parts = []
    for _, own in judged.groupby("quantity", sort=False):
        row = max(records(own), key=lambda row: row["tolerance"])
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
        found = records(loud)
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

"""A sweep against a reference: what moved by more than noise, and which setting differs."""

import math
from typing import Any

import pandas as pd
from scipy import stats

from peft_tradeoffs.analysis.job_noise import processes
from peft_tradeoffs.analysis.readable import memory_keys
from peft_tradeoffs.analysis.reference import Sweep, arm_name, run_name
from peft_tradeoffs.analysis.reference_spread import METRIC, spread_of_cost, spread_of_metric
from peft_tradeoffs.analysis.tables import ARM, COMPLETED, memory_key

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


def check(reference: Sweep, now: Sweep, margin: float) -> pd.DataFrame:
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
        if name not in known or name not in found:
            rows.append(_identity(found.get(name, known.get(name))) | _alone(known.get(name), found.get(name)))
        else:
            rows += [_identity(found[name]) | row for row in _compared(known[name], found[name])]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = ("reference", "now", "change", "tolerance", "explained")
    frame = frame.astype(dict.fromkeys(("rank", "n", "df"), "Int64") | dict.fromkeys(numbers, float))
    return _judged(frame, reference, now, margin)


def _arms(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    runs = runs.astype({"seed": int})
    return {arm_name(own.iloc[0]): own.set_index("seed") for _, own in runs.groupby(ARM, sort=False)}


def _identity(runs: pd.DataFrame) -> dict[str, Any]:
    first = runs.iloc[0]
    return dict.fromkeys(COLUMNS) | {
        key: first.get(key) for key in (*ARM, "method", "rank", "pretrained", "metric", "positive_class")
    }


def _alone(known: pd.DataFrame | None, found: pd.DataFrame | None) -> dict[str, Any]:
    """The row of an arm that one sweep lacks."""
    if found is None:
        return {"quantity": RUNS, "reference": len(known), "now": 0, "verdict": GONE, "reason": "no such arm now"}
    return {"quantity": RUNS, "reference": 0, "now": len(found), "verdict": NEW, "reason": "a new arm"}


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
    row = {"quantity": key, "n": len(both)}
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


def _judged(rows: pd.DataFrame, reference: Sweep, now: Sweep, margin: float) -> pd.DataFrame:
    """The rows with tolerances, and verdicts that follow from them."""
    open_rows = rows[rows["verdict"].isna()]
    metrics = int((open_rows["quantity"] == METRIC).sum())
    known, found = _arms(reference.runs), _arms(now.runs)
    for index, row in zip(open_rows.index, open_rows.to_dict("records"), strict=True):
        own = known[arm_name(row)], found[arm_name(row)]
        of_metric = row["quantity"] == METRIC
        spread = spread_of_metric(row, reference) if of_metric else spread_of_cost(row, reference, now)
        explained = None
        if spread is not None:
            means = [row["n"]] * 2 if of_metric else list(map(processes, own))
            level = 1 - ALPHA / 2 / 2 / (metrics if of_metric else len(open_rows) - metrics)
            explained = float(stats.t.ppf(level, spread.df)) * spread.sd * math.sqrt(sum(1 / count for count in means))
        least, largest = _least(row, own), _largest(row["quantity"], margin)
        tolerance = min(max(least, explained or 0.0), largest)
        change, reason = abs(row["change"]), None
        verdict = WITHIN if change <= tolerance else UNDECIDED if explained is None or change <= explained else MOVED
        if verdict == UNDECIDED:
            reason = NO_SPREAD if explained is None else TOO_NOISY
        filled = {"tolerance": tolerance, "explained": explained, "verdict": verdict, "reason": reason}
        filled |= {"df": spread and spread.df, "source": spread and spread.source}
        for key, value in filled.items():
            rows.at[index, key] = value
    return rows


def _least(row: dict[str, Any], own: tuple[pd.DataFrame, pd.DataFrame]) -> float:
    """The change that always passes."""
    return LEAST_EXAMPLES / min(runs["test_rows"].min() for runs in own) if row["quantity"] == METRIC else LEAST_CHANGE


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
        {run_name(run) for run in sweep.runs[sweep.runs["status"] == COMPLETED].to_dict("records")}
        for sweep in (reference, now)
    ]
    both = [
        run
        for run in now.checksums
        if run in done[0] & done[1] and all(sweep.checksums.get(run, {}).get(what) for sweep in (reference, now))
    ]
    other = [run for run in both if reference.checksums[run][what] != now.checksums[run][what]]
    return len(both) - len(other), other

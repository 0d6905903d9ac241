"""A sweep against a reference: what moved by more than noise, and which setting differs."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy import stats

from peft_tradeoffs.job_noise import processes
from peft_tradeoffs.readable import memory_keys
from peft_tradeoffs.reference import Sweep, arm_name, run_name
from peft_tradeoffs.tables import ARM, COMPLETED, SPLIT, memory_key

ALPHA = 0.05  # of a false alarm in the whole check
LEAST_CHANGE = 0.005  # of time, memory and energy, as a share: a smaller one never counts
LEAST_EXAMPLES = 2  # of the metric, in test examples on the mean over seeds: less never counts
METRIC, RUNS = "metric_value", "runs"
WITHIN, MOVED, GONE, NEW = "within", "moved", "only in the reference", "only now"
OTHER_DEVICE, UNDECIDED = "not compared", "undecided"
FAILING = (MOVED, GONE, OTHER_DEVICE, UNDECIDED)
OF_NOISE, OF_SEEDS, OF_SIZES, OF_PAIRS = (
    "repeats",
    "seeds",
    "tensor sizes",
    "paired seeds",
)  # where a tolerance comes from
COLUMNS = (
    *ARM, "method", "rank", "pretrained", "metric", "quantity", "n", "reference", "now", "change", "tolerance", "df",
    "source", "verdict", "reason",
)  # fmt: skip
CUDA = ("probe_peak_reserved_MiB", "probe_process_MiB")


@dataclass(frozen=True)
class Spread:
    """Standard deviation of one run as a share of the mean, its degrees of freedom, and what shows it."""

    cv: float
    df: int
    source: str


def check(reference: Sweep, now: Sweep) -> pd.DataFrame:
    """One row a (data set, model, arm, quantity), columns as in COLUMNS, arms in the order of `now`.

    Quantities: runs (how many of the seeds that both have completed; how many seeds, where one lacks some), the metric,
    and time, memory and energy. Values are means over the n seeds that both sweeps completed; change and tolerance are
    shares of the reference, of the metric in its own unit. A change moved if it is larger than the tolerance. Those of
    the m rows that have values on both sides are together at ALPHA, each at ALPHA / m (Bonferroni):

    - Time, memory, energy: half the prediction interval of the difference of two means,
      t(1 - ALPHA / 2m; df) · cv · sqrt(1/j + 1/k), where j and k are the processes that trained the arm's seeds (seeds
      of one process share what makes a process slow), and cv that of one run: `spread`. At least LEAST_CHANGE.
    - Metric: half the t interval of the mean difference over the same seeds. At least LEAST_EXAMPLES.

    Without a spread only a change below the least one is within; a larger one is undecided.
    """
    rows: list[dict[str, Any]] = []
    known, found = _arms(reference.runs), _arms(now.runs)
    for name in [*found, *(name for name in known if name not in found)]:
        if name not in known or name not in found:
            rows.append(_identity(found.get(name, known.get(name))) | _alone(known.get(name), found.get(name)))
        else:
            rows += [_identity(found[name]) | row for row in _compared(known[name], found[name])]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = ("reference", "now", "change", "tolerance")
    frame = frame.astype(dict.fromkeys(("rank", "n", "df"), "Int64") | dict.fromkeys(numbers, float))
    return _judged(frame, reference, now)


def _arms(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    runs = runs.astype({"seed": int})
    return {arm_name(own.iloc[0]): own.set_index("seed") for _, own in runs.groupby(ARM, sort=False)}


def _identity(runs: pd.DataFrame) -> dict[str, Any]:
    first = runs.iloc[0]
    return dict.fromkeys(COLUMNS) | {key: first.get(key) for key in (*ARM, "method", "rank", "pretrained", "metric")}


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


def _judged(rows: pd.DataFrame, reference: Sweep, now: Sweep) -> pd.DataFrame:
    """The rows with tolerances, and verdicts that follow from them."""
    open_rows = rows.index[rows["verdict"].isna()]
    level = 1 - ALPHA / 2 / max(1, len(open_rows))
    known, found = _arms(reference.runs), _arms(now.runs)
    for index in open_rows:
        row = rows.loc[index].to_dict()
        own = known[arm_name(row)], found[arm_name(row)]
        if row["quantity"] == METRIC:
            least, half, df, source = _of_pairs(row, *own, level)
        else:
            least, half, df, source = LEAST_CHANGE, None, None, None
            if (one := spread(row, reference, now)) is not None:
                jobs = [processes(runs) for runs in own]
                half = float(stats.t.ppf(level, one.df)) * one.cv * math.sqrt(sum(1 / count for count in jobs))
                df, source = one.df, one.source
        tolerance = least if half is None else max(least, half)
        change = abs(row["change"])
        verdict = WITHIN if change <= tolerance else UNDECIDED if half is None else MOVED
        reason = "one seed or run shows no spread: set `noise` in the config" if verdict == UNDECIDED else None
        filled = {"tolerance": None if half is None else tolerance, "df": df, "source": source}
        for key, value in (filled | {"verdict": verdict, "reason": reason}).items():
            rows.at[index, key] = value
    return rows


def _of_pairs(
    row: dict[str, Any], known: pd.DataFrame, found: pd.DataFrame, level: float
) -> tuple[float, float | None, int | None, str | None]:
    """Least change of the metric, half the interval of its mean difference, degrees of freedom and source."""
    before, after = (_values(runs[runs["status"] == COMPLETED], METRIC) for runs in (known, found))
    differences = (after - before).dropna()
    least = LEAST_EXAMPLES / min(found["test_rows"].min(), known["test_rows"].min())
    if len(differences) < 2:
        return least, None, None, None
    se = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    df = len(differences) - 1
    return least, float(stats.t.ppf(level, df)) * se, df, OF_PAIRS


def spread(row: dict[str, Any], reference: Sweep, now: Sweep) -> Spread | None:
    """Spread of one run of a quantity of a data set and model, pooled over arms and both sweeps; None if none shows it.

    From the repeats of the noise floor, if one was measured on the device; else from the seeds of each arm; weights
    have none. Pooling takes the standard deviation, as a share of the mean, to be the same in every arm.
    """
    key, device = row["quantity"], _device(row, now)
    if key in SPLIT:
        return Spread(0.0, 1, OF_SIZES)
    found = set()  # arm, mean, sd, n: a floor that both sweeps share counts once
    for noise in (reference.noise, now.noise):
        if noise is not None:
            own = noise[(noise["quantity"] == key) & (noise["device_name"] == device) & _same(noise, row)]
            found |= set(own[["arm", "mean", "sd", "n"]].dropna().itertuples(index=False, name=None))
    source = OF_NOISE
    if not found:
        source = OF_SEEDS
        for runs in (reference.runs, now.runs):
            if key in runs:
                done = runs[(runs["status"] == COMPLETED) & (runs["device_name"] == device) & _same(runs, row)]
                arms = done[key].astype(float).groupby(done["arm"], sort=False).agg(["mean", "std", "count"])
                found |= set(arms.dropna().itertuples(name=None))
    df = int(sum(n - 1 for _, _, _, n in found))
    if not df:
        return None
    return Spread(math.sqrt(sum((n - 1) * (sd / mean) ** 2 for _, mean, sd, n in found) / df), df, source)


def _same(frame: pd.DataFrame, row: dict[str, Any]) -> pd.Series:
    return (frame["dataset"] == row["dataset"]) & (frame["model"] == row["model"])


def _device(row: dict[str, Any], sweep: Sweep) -> str:
    runs = sweep.runs
    own = runs[_same(runs, row) & (runs["arm"] == row["arm"])]
    return str(own["device_name"].dropna().iloc[0])


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

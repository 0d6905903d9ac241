"""Which arms keep the limits that the user sets and lose no more than the margin, and which of them to take."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.comparison import SHARED, TUNED, gained_at_worst
from peft_tradeoffs.analysis.finished import read_env, verified
from peft_tradeoffs.analysis.power import ALPHA
from peft_tradeoffs.analysis.stats import (
    MOST_SEEDS,
    Estimate,
    JobNoise,
    by_seed,
    failures,
    incomparable,
    job_noise,
    over_jobs,
    over_seeds,
    processes,
    seeds_to_decide,
)
from peft_tradeoffs.analysis.tables import ARM, COMPLETED, Pair, constant, first, memory_key, random_weights
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import run_folder
from peft_tradeoffs.core.text import and_list, arm_label, first_record, groups_of
from peft_tradeoffs.tasks.task import MEASURED_AS

Span = tuple[Any, float, float]  # the host of an attempt, its start and its end, s
UNEQUAL = 25  # percentage points between arms in how much of their time other runs were beside them
YES, NO, UNKNOWN = "yes", "no", "cannot say"
COSTS = {"memory": "memory_MiB", "time": "train_s", "energy": "energy_J"}
LIMITS = {"memory": ("memory_GiB", 1024.0), "time": ("train_s", 1.0), "energy": ("energy_J", 1.0)}
FROM_COMPARISON = (
    "metric", "positive_class", "margin", "test_rows", "test_groups", "mean", "low", "high", "difference",
    "at_best_low", "at_best_high", "rate", "missed", "missed_sd", "rates_as_good", "edge", "unstable",
    "p_not_worse_holm", "p_worse_holm", "seeds_needed", "examples_needed", "verdict",
)  # fmt: skip
OF_OTHER = (
    "test_rows",
    "difference",
    "at_best_low",
    "at_best_high",
    "p_not_worse_holm",
    "p_worse_holm",
    "verdict",
)
COLUMNS = (
    *ARM, "method", "rank", "pretrained", "baseline", "device", "device_name", "n", "n_failed", "n_constant",
    *FROM_COMPARISON,
    "other_split", *(f"other_{key}" for key in OF_OTHER),
    "runs", "runs_why", "predictions", "predictions_why", "quality", "quality_why",
    *(f"{column}{part}" for column in COSTS.values()
      for part in ("", "_low", "_high", "_limit", "_kept", "_why", "_seeds_needed")),
    *(f"{column}_{part}" for column in ("train_s", "energy_J") for part in ("n", "jobs", "jobs_sd_percent")),
    "qualifies", "cheapest_by", "cheapest", "told_by", "cost_unsure", "apart", "apart_low", "apart_high",
    "incomparable", "train_process_MiB", "differs", "why",
)  # fmt: skip
OF_JOBS = ("train_s_n", "train_s_jobs", "energy_J_n", "energy_J_jobs")
TESTS = (
    "runs",
    "predictions",
    "quality",
    *(f"{column}_kept" for column in COSTS.values()),
)  # that an arm must pass, null: not asked
SAME_COST = 0.05  # of the lowest mean cost: costs no further above it are the same for the decision
SAME_BOUND = 0.1  # of the margin: lower bounds no further apart are the same
BY_BOUND, BY_RATE, BY_RANK, BY_ORDER = "bound", "rate", "rank", "order"
CONSTANT = "it gives every test row the same answer"


@dataclass(frozen=True)
class Cost:
    """A cost of an arm by seed; of time and energy also how many processes trained the arm, and how far they differ."""

    values: dict[int, float]
    jobs: int | None = None
    noise: JobNoise | None = None

    def mean(self) -> Estimate | None:
        """The mean over seeds and jobs; None where there is no interval of it."""
        return self.less(None, list(self.values))

    def less(self, other: "Cost | None", seeds: list[int]) -> Estimate | None:
        """The mean of this cost, less another's if there is one, over these seeds."""
        costs = [self] if other is None else [self, other]
        parts = [np.array([cost.values[seed] for seed in seeds]) for cost in costs]
        values = parts[0] if other is None else parts[0] - parts[1]
        if self.jobs is None:
            return over_seeds(values)
        jobs = [cost.jobs for cost in costs if cost.jobs is not None]
        return over_jobs(values, parts, jobs, self.noise)

    def shares_jobs(self) -> bool:
        """Whether several seeds were trained by one process."""
        return self.jobs is not None and self.jobs < len(self.values)


def recommendation_frame(
    runs: pd.DataFrame, comparison: pd.DataFrame, limits: dict[str, Any], noise: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row per (data set, model, arm) in the order of `runs`, columns as in COLUMNS.

    `comparison` is what `comparison_frame` gives (no rows of random weights, of which costs alone are judged), `limits`
    are memory_GiB, train_s and energy_J (None: no limit), cheapest and split. `qualifies` is yes if every test is, no
    if one is no, else cannot say: `runs` (all were completed), `predictions` (no if every completed run gives all test
    rows the same answer, whatever the metric says of it), `quality` on that split (the baseline; or proven, with Holm's
    correction, not to be worse than it by the margin; no if proven, with the same correction, to be worse by more, at
    the 2.5 % of one side; neither where one seed is far worse than the others) and a cost that is kept (its 95 % t
    interval over seeds, or every seed if it has none, lies within the limit; no if beyond). Intervals of time and
    energy count, by the noise table `noise`, how far jobs differ too (jobs_sd_percent of a mean; null where every seed
    had a job of its own); where seeds shared a job and that is not known there is none. `cheapest_by` is the cost that
    decides. `cheapest` marks the arm to
    take of those that qualify: mean costs within SAME_COST of the lowest are the same; among these it is the arm that
    loses least at worst (the baseline's bound is 0, and bounds within SAME_BOUND of the margin are the same), then one
    whose rate was tuned and is neither tied nor at the grid's edge, then that of the smaller rank, then the first.
    n_constant are the completed runs that give every test row the same answer. told_by is of the arms that were as
    cheap the rule that decided against them (bound, rate, rank or order), so that rank and order mark those that are as
    good. apart is by how much an arm costs more than the one taken, over the seeds of both, with its 95 % t interval
    (null where a cost has none); cost_unsure marks the arms of which the interval of the difference to the lowest mean
    leaves open whether it is more than SAME_COST. There is no cheapest where costs are `incomparable` and where the
    baseline judges no arm. What the comparison has of an arm on the split that does not judge (`other_split`, null:
    none) is other_difference and so on.

    Raises InputError for a comparison without an arm on the split asked for.
    """
    rows = []
    for (dataset, model), own in runs.groupby(["dataset", "model"], sort=False):
        compared = comparison[(comparison["dataset"] == dataset) & (comparison["model"] == model)]
        rows += _judged(own, compared, limits, noise)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(
        dict.fromkeys(
            (
                "rank",
                "n",
                "n_failed",
                "n_constant",
                "seeds_needed",
                "examples_needed",
                "test_rows",
                "test_groups",
                "other_test_rows",
                *OF_JOBS,
            ),
            "Int64",
        )
    )


def _judged(
    runs: pd.DataFrame, compared: pd.DataFrame, limits: dict[str, Any], noise: pd.DataFrame | None
) -> list[dict[str, Any]]:
    random = random_weights(runs)
    if not random:
        _check_compared(runs, compared, limits["split"])
    on_split = compared["split"] == limits["split"]
    judging, other = compared[on_split].set_index("arm"), compared[~on_split].set_index("arm")
    rows: list[dict[str, Any]] = []
    costs: dict[str, Cost] = {}
    chosen = COSTS[limits["cheapest"]]
    for arm, own in groups_of(runs, "arm"):
        row: dict[str, Any] = dict.fromkeys(COLUMNS)
        row |= first_record(own[[*ARM, "method", "rank", "pretrained", "differs"]])
        row |= {
            "cheapest_by": limits["cheapest"],
            "device": first(own["device"]),
            "device_name": first(own["device_name"]),
        }
        done = own["status"] == COMPLETED
        row |= {"n": int(done.sum()), "n_failed": int((~done).sum()), "n_constant": int(constant(own)[done].sum())}
        row |= dict(zip(("runs", "runs_why"), _ran(own, row), strict=True))
        if not random:
            row |= dict(zip(("predictions", "predictions_why"), _predicted(own), strict=True))
            row |= _quality(judging.loc[arm])
            row |= _on_other(other.loc[arm]) if arm in other.index else {}
        for name, column in COSTS.items():
            key = memory_key(row["device"]) if name == "memory" else column
            values, why = by_seed(own, key)
            limit, scale = LIMITS[name]
            cost = Cost(values)
            if key in MEASURED_AS:
                cost = Cost(values, processes(own[own["seed"].isin(values)]), job_noise(noise, own, key))
            row |= _cost(column, cost, why, limits[limit] and limits[limit] * scale)
            if column == chosen:
                costs[arm] = cost
        process, _ = by_seed(own, "train_process_MiB")
        row["train_process_MiB"] = max(process.values(), default=None)
        rows.append(row)
    _qualify(rows)
    key = memory_key(first(runs["device"])) if chosen == COSTS["memory"] else chosen
    mixed = incomparable(runs[~runs["mixed_gpus"].eq(True)], key)
    if chosen == COSTS["memory"] and len({memory_key(device) for device in runs["device"].dropna()}) > 1:
        mixed = "not all runs ran on the same device"
    if mixed is None and _has_baseline(rows):
        _choose(rows, costs)
    return [{**row, "incomparable": mixed} for row in rows]


def _qualify(rows: list[dict[str, Any]]) -> None:
    """Set whether each arm qualifies, and why not: none by a baseline that can judge no other arm."""
    unfit = next((why for row in rows if row["arm"] == row["baseline"] and (why := unfit_to_judge(row))), None)
    for row in rows:
        if unfit and row["arm"] != row["baseline"] and row["p_not_worse_holm"] is not None:
            row |= {"quality": UNKNOWN, "quality_why": f"the baseline {unfit}"}
        found = [row[test] for test in TESTS if row[test] is not None]
        row["qualifies"] = NO if NO in found else UNKNOWN if UNKNOWN in found else YES
        reasons = [row[f"{test.removesuffix('_kept')}_why"] for test in TESTS if row[test] == row["qualifies"] != YES]
        row["why"] = "; ".join(reasons) or None


def unfit_to_judge(baseline: dict[str, Any]) -> str | None:
    """Why this baseline can judge no other arm, though it has a result; None where it can."""
    if baseline["predictions"] == NO:
        return "gives every test row the same answer"
    return None if baseline["unstable"] is None else "has a run far worse than its others"


def _check_compared(runs: pd.DataFrame, compared: pd.DataFrame, split: str) -> None:
    have = compared[compared["split"] == split]["arm"]
    if missing := [arm for arm in runs["arm"].unique() if arm not in set(have)]:
        name = "/".join([*runs.iloc[0][["dataset", "model"]], missing[0]])
        splits = ", ".join(compared[compared["arm"] == missing[0]]["split"]) or "none"
        raise InputError(
            f"comparison.csv: no row of {name} on the split {split!r} (it has: {splits}); ask for a split that the "
            "runs have (recommendation.split), or make it again with compare_arms.py over the same runs"
        )


def _ran(runs: pd.DataFrame, row: dict[str, Any]) -> tuple[str, str | None]:
    """Whether all runs were completed: an arm that sometimes fails is not what its other runs show."""
    if row["n_failed"] == 0:
        return YES, None
    return UNKNOWN if row["n"] else NO, failures(runs)


def _predicted(runs: pd.DataFrame) -> tuple[str | None, str | None]:
    """Whether the answers of some completed run depend on the text; None without such a run."""
    done = runs["status"] == COMPLETED
    if not done.any():
        return None, None
    return (NO, CONSTANT) if constant(runs)[done].all() else (YES, None)


def _quality(compared: pd.Series) -> dict[str, Any]:
    known = compared[[*FROM_COMPARISON, "baseline"]].to_dict()
    found: dict[str, Any] = {str(key): None if pd.isna(value) else value for key, value in known.items()}
    if found["unstable"] is not None and not (found["p_worse_holm"] or 1.0) < ALPHA / 2:
        return {
            **found,
            "quality": UNKNOWN,
            "quality_why": f"one of its runs is far worse than the others ({found['unstable']})",
        }
    if compared.name == compared["baseline"]:
        why = compared["reason"] if pd.isna(compared["mean"]) else None
        return {**found, "quality": UNKNOWN if why else YES, "quality_why": why}
    if found["p_not_worse_holm"] is None:
        return {**found, "quality": UNKNOWN, "quality_why": compared["reason"]}
    if found["p_not_worse_holm"] < ALPHA:
        return {**found, "quality": YES}
    if found["p_worse_holm"] < ALPHA / 2:
        return {**found, "quality": NO, "quality_why": "worse by more than the margin"}
    return {**found, "quality": UNKNOWN, "quality_why": "not proven to keep within the margin"}


def _on_other(compared: pd.Series) -> dict[str, Any]:
    """What the comparison says of an arm on the split that does not judge."""
    found = {f"other_{key}": None if pd.isna(compared[key]) else compared[key] for key in OF_OTHER}
    return {"other_split": compared["split"], **found}


def _cost(column: str, cost: Cost, why: str | None, limit: float | None) -> dict[str, Any]:
    """Mean and interval of a cost, and whether it is within its limit, if there is one."""
    found: dict[str, Any] = {f"{column}_limit": limit}
    name = next(name for name, known in COSTS.items() if known == column)
    low = high = None
    values = np.array(list(cost.values.values()))
    if len(values):
        found[column] = float(values.mean())
        low, high = values.min(), values.max()  # in place of an interval, if there is none
        if cost.jobs is not None:
            found |= {f"{column}_n": len(values), f"{column}_jobs": cost.jobs}
    estimate = cost.mean()
    if estimate is not None:
        low, high = estimate.interval()
        found |= {f"{column}_low": low, f"{column}_high": high}
        if cost.noise and cost.shares_jobs():
            found[f"{column}_jobs_sd_percent"] = 100 * cost.noise.cv
    if limit is None:
        return found
    if low is None or high is None:
        return {**found, f"{column}_kept": UNKNOWN, f"{column}_why": f"{name} not known ({why})"}
    if high <= limit:
        return {**found, f"{column}_kept": YES}
    if low > limit:
        return {**found, f"{column}_kept": NO, f"{column}_why": f"over the limit of {name}"}
    found[f"{column}_kept"] = UNKNOWN
    if not cost.shares_jobs():  # more seeds of the same job would not tell
        needed = seeds_to_decide(values, limit)
        found[f"{column}_seeds_needed"] = f"more than {MOST_SEEDS}" if needed is None else f"{needed}"
    return {**found, f"{column}_why": f"its {name} may lie on either side of the limit"}


def _has_baseline(rows: list[dict[str, Any]]) -> bool:
    """Whether the baseline can judge other arms; of random weights there is nothing to judge."""
    baseline = [row for row in rows if row["arm"] == row["baseline"]]
    return all(row["quality"] == YES and row["predictions"] != NO for row in baseline)


def _choose(rows: list[dict[str, Any]], costs: dict[str, Cost]) -> None:
    """Mark the row to take of those that qualify, what told those as cheap from it, and how far costs are from its."""
    means = {
        row["arm"]: float(np.mean(list(costs[row["arm"]].values.values())))
        for row in rows
        if row["qualifies"] == YES and costs[row["arm"]].values
    }
    if not means:
        return
    lowest = min(means, key=lambda arm: means[arm])
    same = means[lowest] * (1 + SAME_COST)
    best = _told_apart([row for row in rows if row["arm"] in means and means[row["arm"]] <= same])
    for row in rows:
        row["cheapest"] = row is best
        if row is not best:
            row["apart"], estimate = _apart(costs[row["arm"]], costs[best["arm"]])
            if estimate is not None:
                row["apart_low"], row["apart_high"] = estimate.interval()
        if row["arm"] in means and row["arm"] != lowest:
            _, estimate = _apart(costs[row["arm"]], costs[lowest])
            if estimate is not None:
                low, high = estimate.interval()
                row["cost_unsure"] = bool(low <= same - means[lowest] < high)


def load_warnings(runs: pd.DataFrame, runs_dir: Path) -> dict[Pair, list[str]]:
    """Which arms of a CPU ran beside other runs of this study for longer than others did, by (data set, model).

    By when the attempts of each run began and ended. Their training times differ for that reason too.
    """
    found: dict[Pair, list[str]] = {}
    spans: dict[Any, list[Span]] = {}
    for index, run in runs[runs["device"] == "cpu"].iterrows():
        folder = run_folder(runs_dir, run["dataset"], run["model"], run["arm"], run["seed"])
        spans[index] = _spans(read_env(folder, verified(folder)))
    for (dataset, model), own in runs[runs.index.isin(spans)].groupby(["dataset", "model"], sort=False):
        shares: dict[int, list[str]] = {}
        for _, arm in own.groupby("arm", sort=False):
            taken = [_taken(span, index, spans) for index in arm.index for span in spans[index]]
            whole = sum(seconds for seconds, _ in taken)
            if whole:
                share = round(100 * sum(beside for _, beside in taken) / whole)
                shares.setdefault(share, []).append(arm_label(arm["method"].iloc[0], arm["rank"].iloc[0]))
        if shares and max(shares) - min(shares) > UNEQUAL:
            said = "; ".join(f"{and_list(shares[share])} {share} %" for share in sorted(shares))
            found[str(dataset), str(model)] = [
                "Training times were taken under unequal load, so an arm may be the fastest for that reason alone. "
                f"Share of its time that an arm had another run of this study beside it on the same machine: {said}. "
                "To compare times, train one job at a time (--cores 1)."
            ]
    return found


def _spans(env: dict[str, Any]) -> list[Span]:
    """Where and from when to when a run was under way: one per attempt whose end is known."""
    known = [one for one in env.get("attempts") or [] if one.get("started_at") and one.get("ended_at")]
    ends = [(datetime.fromisoformat(one[key]).timestamp() for key in ("started_at", "ended_at")) for one in known]
    return [(one.get("host"), *times) for one, times in zip(known, ends, strict=True)]


def _taken(span: Span, index: Any, spans: dict[Any, list[Span]]) -> tuple[float, float]:
    """Seconds of an attempt of the run `index`, and of these, seconds beside the attempts of other runs there."""
    host, start, end = span
    others = sorted(
        (max(start, since), min(end, until))
        for other, own in spans.items()
        for where, since, until in own
        if other != index and where == host and since < end and until > start
    )
    beside, seen = 0.0, start
    for since, until in others:
        beside += max(0.0, until - max(since, seen))
        seen = max(seen, until)
    return end - start, beside


def _apart(cost: Cost, other: Cost) -> tuple[float | None, Estimate | None]:
    """By how much a cost is more than another, over the seeds of both."""
    seeds = [seed for seed in cost.values if seed in other.values]
    if len(seeds) < 2:
        return None, None
    return float(np.mean([cost.values[seed] - other.values[seed] for seed in seeds])), cost.less(other, seeds)


def _told_apart(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row to take of those that cost the same; told_by of the others is set."""
    margin = rows[0]["margin"] or 0.0
    bounds = {row["arm"]: gained_at_worst(row) or 0.0 for row in rows}  # the baseline's, and of random weights
    surest = max(bounds.values())
    apart = {arm: surest - bound for arm, bound in bounds.items()}
    left = _keep(rows, BY_BOUND, lambda row: apart[row["arm"]] == 0 or apart[row["arm"]] < SAME_BOUND * margin)
    if any(settled(row) for row in left):
        left = _keep(left, BY_RATE, settled)
    ranks = {row["arm"]: float("inf") if row["rank"] is None or pd.isna(row["rank"]) else row["rank"] for row in left}
    left = _keep(left, BY_RANK, lambda row: ranks[row["arm"]] == min(ranks.values()))
    for row in left[1:]:
        row["told_by"] = BY_ORDER
    return left[0]


def _keep(rows: list[dict[str, Any]], rule: str, good: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    for row in rows:
        if not good(row):
            row["told_by"] = rule
    return [row for row in rows if good(row)]


def settled(row: dict[str, Any]) -> bool:
    """Whether its learning rate was tuned, can be told from the others on dev, and is not at the grid's edge."""
    return row["rate"] in (TUNED, SHARED) and not row["rates_as_good"] and not row["edge"]

"""Arms at equal cost: the metric that each has reached by a time or an energy, and at the largest batch under a cap."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.comparison_text import with_interval
from peft_tradeoffs.analysis.contract import DIFFERS, compare
from peft_tradeoffs.analysis.finished import FACTS, Recorded, read_env, read_summary, verified
from peft_tradeoffs.analysis.readable import (
    NULL,
    column_places,
    failed_counts,
    mean_sd,
    metric_places,
    number,
    setting,
    uncompared,
    unlike,
)
from peft_tradeoffs.analysis.stats import by_seed, failures, job_noise, over_seeds, processes
from peft_tradeoffs.analysis.tables import ARM, COMPLETED, arms_frame, peak_key, random_weights, runs_frame
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import REMEDY
from peft_tradeoffs.core.quantities import LARGEST, LIBRARIES, ROWS
from peft_tradeoffs.core.text import arm_label, first_record, groups_of, records, sort_runs
from peft_tradeoffs.tasks.metrics import Metric, metric_called
from peft_tradeoffs.tasks.shown import metric_label, metric_name, with_unit
from peft_tradeoffs.tasks.task import LABEL, NOTE

UNITS = {"train_s": "s", "energy_J": "J"}
NEEDED = {"train_s": "train_s", "energy_J": "mean_power_W"}  # what of a run's summary a budget needs
BUDGET_COLUMNS = (
    *ARM, "method", "rank", "pretrained", "metric", "positive_class", "kind", "budget", "set", "n_runs", "n", "failed",
    "differs", "first_epoch", "last_epoch", "end", "mean", "sd", "low", "high", "reason",
)  # fmt: skip
BUDGET_WHOLE = ("rank", "n_runs", "n")
BUDGET_NUMBERS = ("budget", "first_epoch", "last_epoch", "mean", "sd", "low", "high")
Evaluations = pd.DataFrame  # of the test split: epoch, train_s, value


def read_evaluations(path: Path, metric: str) -> Evaluations:
    """Evaluations of the test split of a run's metrics.csv. Raises InputError if the file is broken."""
    remedy = REMEDY
    verified(path.parent, path.name)
    try:
        table = pd.read_csv(path)
        rows = table[table["split"] == "test"]
        found = pd.DataFrame({"epoch": rows["epoch"], "train_s": rows["train_s"], "value": rows[metric]}).astype(float)
    except KeyError as error:
        raise InputError(f"{path}: not a run's metrics (no column {error}); {remedy}") from None
    except ValueError as error:
        raise InputError(f"{path}: not a run's metrics ({error}); {remedy}") from None
    if found.empty:
        raise InputError(f"{path}: no evaluation of the test split; {remedy}")
    return found.sort_values("train_s").reset_index(drop=True)


def budgets_frame(
    runs: pd.DataFrame,
    budgets: dict[str, list[float]],
    evaluations: Callable[[dict[str, Any]], Evaluations],
    noise: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """One row per (data set, model, budget, arm) in the order of `runs`, columns as in BUDGET_COLUMNS.

    There is none of random weights, nor, for an empty list, of a time that arms are not compared by: that of one job
    per arm on a CPU, where `noise`, the noise table, does not say how far jobs differ. `budgets` are seconds of
    training steps and joules, by kind; for an empty list what the cheapest arm and the dearest take to their ends
    (`set` is False), by their slowest seed, rounded up to two digits. `evaluations` gives those of a run. The metric
    is that of a run's last evaluation within the budget: mean over the n seeds that have one, 95 % t interval over
    seeds (none for one seed), first_epoch to last_epoch, and whether all of them were at their `end`. The energy at an
    evaluation is not recorded: it is taken as the run's mean power times its training time by then. n_runs are all
    runs of the arm, `failed` how some of them ended, if not all. What a null means is in `reason`.
    """
    rows = []
    for _, own in runs.groupby(["dataset", "model"], sort=False):
        if not random_weights(own):
            curves = {(run["arm"], run["seed"]): evaluations(run) for run in records(own[own["status"] == COMPLETED])}
            for kind in UNITS:
                if budgets[kind] or not times_uncompared(own, kind, noise):
                    rows += _of_kind(own, kind, budgets[kind], curves)
    types = dict.fromkeys(BUDGET_WHOLE, "Int64") | dict.fromkeys(BUDGET_NUMBERS, float)
    return pd.DataFrame(rows, columns=list(BUDGET_COLUMNS)).astype(types)


def times_uncompared(runs: pd.DataFrame, kind: str, noise: pd.DataFrame | None) -> bool:
    """Whether arms are not compared by this cost of their runs of one data set and model; see `readable.uncompared`."""
    done = runs[runs["status"] == COMPLETED]
    return any(
        job_noise(noise, own, kind) is None
        and uncompared(kind, str(device), min(processes(arm) for _, arm in own.groupby("arm"))) is not None
        for device, own in done.groupby("device")
    )


def _of_kind(
    runs: pd.DataFrame, kind: str, budgets: list[float], curves: dict[tuple[str, int], Evaluations]
) -> list[dict[str, Any]]:
    """The rows of one data set and model for budgets of time, or of energy."""
    arms = dict(groups_of(runs, "arm"))
    spent: dict[str, dict[int, Evaluations]] = {}  # with a column `spent`
    reasons = {}
    for arm, own in arms.items():
        values, reasons[arm] = by_seed(own, NEEDED[kind])
        spent[arm] = {
            seed: (curve := curves[arm, seed]).assign(spent=curve["train_s"] * (value if kind == "energy_J" else 1.0))
            for seed, value in values.items()
        }
    chosen = budgets or _ends(spent)
    rows = []
    for budget in sorted(chosen):
        for arm, own in arms.items():
            row = first_record(own[[*ARM, "method", "rank", "pretrained", "metric", "positive_class", "differs"]])
            row |= {"kind": kind, "budget": budget, "set": bool(budgets), "n": 0}
            row["n_runs"] = len(own)
            row["failed"] = failures(own) if (own["status"] == COMPLETED).any() else None
            found = {"reason": reasons[arm]} if reasons[arm] is not None else _reached(spent[arm], budget, UNITS[kind])
            rows.append(row | found)
    return rows


def _ends(spent: dict[str, dict[int, Evaluations]]) -> list[float]:
    """What the arm that is cheapest in the mean takes to its end, and the dearest; rounded up to two digits."""
    ends = {arm: [curve["spent"].iloc[-1] for curve in seeds.values()] for arm, seeds in spent.items() if seeds}
    if not ends:
        return []
    by_mean = sorted(ends, key=lambda arm: np.mean(ends[arm]))
    return list(dict.fromkeys(round_up(max(ends[arm])) for arm in (by_mean[0], by_mean[-1])))


def round_up(value: float) -> float:
    """The next number of two significant digits that is not less."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / step * (1 - 1e-12)) * step:.12g}")


def _reached(curves: dict[int, Evaluations], budget: float, unit: str) -> dict[str, Any]:
    """The metric of an arm at the last evaluations within a budget."""
    last = [within.iloc[-1] for curve in curves.values() if len(within := curve[curve["spent"] <= budget])]
    if not last:
        first = min(curve["spent"].iloc[0] for curve in curves.values())
        return {"reason": f"first evaluation after {first:.3g} {unit}"}
    epochs = [row["epoch"] for row in last]
    ends = [curve["spent"].iloc[-1] <= budget for curve in curves.values()]
    values = np.array([row["value"] for row in last])
    found = {"n": len(last), "first_epoch": min(epochs), "last_epoch": max(epochs), "end": all(ends)}
    if np.isnan(values).any():
        return {**found, "reason": "the metric was not defined then"}
    found["mean"] = float(values.mean())
    estimate = over_seeds(values)
    if estimate is None:
        return {**found, "reason": "one seed, which gives no interval"}
    low, high = estimate.interval()
    return {**found, "sd": float(values.std(ddof=1)), "low": low, "high": high}


WHAT = {"train_s": "training time", "energy_J": "energy"}


def budgets_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `budgets_frame` of one data set and model as text: the metric and the epoch by each budget."""
    metric = metric_called(rows["metric"].iloc[0])
    name = metric_name(rows.iloc[0])
    cells: dict[str, dict[str, str]] = {}
    for row in records(rows):
        line = cells.setdefault(row["arm"], {"Arm": arm_label(row["method"], row["rank"])})
        line[with_unit(f"{name} by {_amount(row['budget'], row['kind'])}", row)] = _reached_text(row, metric)
    return pd.DataFrame(list(cells.values()))


def budgets_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of a table of budgets: one sentence each."""
    lines = [
        "The metric at the last evaluation of the test split within each budget, mean over seeds, and the epoch that "
        "was; end: the arm was done by then.",
        "Training time: the sum of the step times, in the jobs that ran; another job of the same arm may take a little "
        "more or less.",
        "Where the learning rate falls to 0 at a run's end, a point on its way is worse than a run planned for that "
        "budget would be: compare what has not reached its end with care.",
    ]
    if rows["low"].notna().any():
        lines.append(
            "In brackets: 95 % t intervals over seeds, without where every seed gave the same; other test examples are "
            "not counted."
        )
    if (rows["n"] == 1).any():
        lines.append("One seed gives no interval.")
    failed = rows.dropna(subset="failed").drop_duplicates("arm")
    if len(failed):
        ways = (f"{arm_label(row['method'], row['rank'])} ({row['failed']})" for row in records(failed))
        lines.append(f"Failed runs are left out, so those that are shown may flatter the arm: {', '.join(ways)}.")
    kinds = {kind: own["set"].iloc[0] for kind, own in groups_of(rows, "kind")}
    unset = [WHAT[kind] for kind, was_set in kinds.items() if not was_set]
    if unset:
        lines.append(f"Budgets of {' and '.join(unset)}: what the cheapest arm and the dearest take to their ends.")
    if "energy_J" in kinds:
        lines.append("Energy by then: the run's mean power times its training time by then, since it is not recorded.")
    elif not rows.empty:
        lines.append("No view of equal energy: none was measured.")
    if "train_s" not in kinds and not rows.empty:
        lines.append("No view of equal time: arms are not compared by the time of one job on a CPU.")
    named: dict[str, list[str]] = {}
    for row in records(rows[rows["mean"].isna()]):
        names = named.setdefault(row["reason"], [])
        if (name := arm_label(row["method"], row["rank"])) not in names:
            names.append(name)
    first = [f"{', '.join(names)}: {reason}" for reason, names in named.items()]
    return [*lines, *([f"{NULL}: {'; '.join(first)}."] if first else []), *unlike(rows)]


def _amount(budget: float, kind: str) -> str:
    return f"{f'{budget:,.0f}' if budget == int(budget) else f'{budget:g}'} {UNITS[kind]}"


def _reached_text(row: dict[str, Any], metric: Metric) -> str:
    if pd.isna(row["mean"]):
        return NULL
    low, high = (np.clip(row[bound], *metric.bounds) for bound in ("low", "high"))
    text = with_interval(row["mean"], low, high, metric.scale, places=metric_places(metric.name))
    first, last = (f"{row[key]:.3g}" for key in ("first_epoch", "last_epoch"))
    epoch = "end" if row["end"] else f"epoch {first}" if first == last else f"epochs {first}–{last}"
    if row["n"] != row["n_runs"]:
        epoch += f", n = {row['n']} of {row['n_runs']}"
    return f"{text} ({epoch})"


MEASURED = ("train_peak_MiB", "train_s", "samples_per_s", "energy_J_per_sample")
MEMORY_COLUMNS = (
    *ARM, "method", "rank", "device", "metric", "positive_class", "pretrained", "cap_GiB", "batch_size", "peak_MiB",
    "next_size", "next_peak_MiB", "ended_at", "learning_rate", "steps", "n", "n_failed", "failures", "mean", "low",
    "high", *(f"{key}_{part}" for key in MEASURED for part in ("mean", "sd", "n")), "base_batch_size", "rule",
    "largest", "train_rows", "gradient_accumulation_steps", "max_steps", "differs", "differs_at_cap",
)  # fmt: skip
RULE = {"sqrt": "multiplied by the square root of k", "linear": "multiplied by k", "constant": "the same"}
MEMORY_WHOLE = (
    "max_steps", "rank", "batch_size", "next_size", "steps", "n", "n_failed", "base_batch_size", "largest",
    "train_rows", "gradient_accumulation_steps",
)  # fmt: skip
MEMORY_TEXT = (
    *ARM, "method", "device", "metric", "positive_class", "pretrained", "ended_at", "failures", "rule", "differs",
    "differs_at_cap",
)  # fmt: skip
ABOVE = "*"  # a training peak above the cap
# Facts of the contract that say what runs ran on; the others are equal by design, or not meant to be.
RAN_ON = (
    "device_name", "threads", "driver", "power_limit_W", "torch_flags", *LIBRARIES, "cuda_runtime", "cudnn", "python",
    "code",
)  # fmt: skip


def read_capped(path: Path) -> dict[str, Any]:
    """What train_at_equal_memory.py wrote of an arm. Raises InputError for a file that is missing or was changed."""
    remedy = "delete it, and Snakemake makes it again from the runs that stand"
    try:
        return files.read_signed(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; train_at_equal_memory.py writes it") from None
    except InputError as error:
        raise InputError(f"{error}; {remedy}") from None


def equal_memory_frame(found: list[dict[str, Any]], pretrained: dict[str, bool], runs_dir: Path) -> pd.DataFrame:
    """One row per (data set, model, cap, arm) of what train_at_equal_memory.py wrote, columns as in MEMORY_COLUMNS.

    batch_size is null where the smallest batch does not fit; peak_MiB is the search's, low and high the metric's 95 % t
    interval over seeds, null for one; differs_at_cap says in what the runs ran on otherwise than those of the first arm
    at that cap; differs is null: contract.with_differences fills it in. `pretrained`: by model, whether its
    weights are. `runs_dir` holds {dataset}/{model}/{arm}/batch{N}/seed{N}/env.json.
    """
    unlike_at = _unlike_at_caps(found, runs_dir)
    rows = [
        {
            **dict.fromkeys(MEMORY_COLUMNS),
            **{key: of_arm[key] for key in MEMORY_COLUMNS if key in of_arm},
            "pretrained": pretrained[of_arm["model"]],
            "cap_GiB": fit["cap_MiB"] / 1024,
            **{key: fit[key] for key in ("batch_size", "peak_MiB", "next_size", "next_peak_MiB", "ended_at")},
            **_trained(fit["summaries"]),
            "differs_at_cap": unlike_at.get((*(of_arm[key] for key in ARM), fit["cap_MiB"])),
        }
        for of_arm in found
        for fit in of_arm["caps"]
    ]
    frame = sort_runs(pd.DataFrame(rows, columns=list(MEMORY_COLUMNS)).assign(seed=0)).drop(columns="seed")
    types = dict.fromkeys(MEMORY_WHOLE, "Int64") | dict.fromkeys(
        set(MEMORY_COLUMNS) - {*MEMORY_WHOLE, *MEMORY_TEXT}, float
    )
    return frame.astype(types).sort_values(["dataset", "model", "cap_GiB"], kind="stable", ignore_index=True)


def _trained(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """What the runs at one batch gave."""
    if not summaries:
        return {"n": 0, "n_failed": 0}
    runs = runs_frame(summaries)
    arm = arms_frame(runs).iloc[0].to_dict()
    peak = peak_key(arm["device"], "train")
    arm |= {f"train_peak_MiB_{part}": arm[f"{peak}_{part}"] for part in ("mean", "sd", "n")}
    values = runs[runs["status"] == COMPLETED]["metric_value"].dropna().to_numpy(dtype=float)
    estimate = over_seeds(values)
    low, high = estimate.interval() if estimate else (None, None)
    steps = runs["steps"].dropna()
    return {
        **{key: arm[key] for key in ("n", "n_failed", "failures", "learning_rate")},
        **{f"{key}_{part}": arm[f"{key}_{part}"] for key in MEASURED for part in ("mean", "sd", "n")},
        "steps": steps.iloc[0] if len(steps) else None,
        "mean": float(np.mean(values)) if len(values) else None,
        "low": low,
        "high": high,
    }


def _unlike_at_caps(found: list[dict[str, Any]], runs_dir: Path) -> dict[tuple[Any, ...], str]:
    """By data set, model, arm and cap (MiB): in what its runs ran on otherwise than the first arm's, or each other."""
    at_cap: dict[tuple[Any, ...], dict[str, list[Recorded]]] = {}
    names = {}
    for of_arm in found:
        dataset, model, arm = (of_arm[key] for key in ARM)
        names[arm] = arm_label(of_arm["method"], of_arm["rank"])
        for fit in (fit for fit in of_arm["caps"] if fit["summaries"]):
            folder = runs_dir / dataset / model / arm / f"batch{fit['batch_size']}"
            runs = [_recorded(folder / f"seed{summary['seed']}", summary) for summary in fit["summaries"]]
            at_cap.setdefault((dataset, model, fit["cap_MiB"]), {})[arm] = runs
    texts: dict[tuple[Any, ...], list[str]] = {}
    for (dataset, model, cap), of_arms in at_cap.items():
        facts: dict[tuple[str, str], list[str]] = {}
        for one in compare(of_arms, next(iter(of_arms)), {}, [FACTS[name] for name in RAN_ON]):
            if one.verdict == DIFFERS:
                facts.setdefault((one.arm, one.compared_with), []).append(one.fact)
        for (arm, other), differing in facts.items():
            whom = "between its seeds" if other == arm else f"from {names[other]}"
            texts.setdefault((dataset, model, arm, cap), []).append(f"{whom} in {', '.join(differing)}")
    return {key: "; ".join(parts) for key, parts in texts.items()}


def _recorded(folder: Path, summary: dict[str, Any]) -> Recorded:
    try:
        now = read_summary(folder / "summary.json", place=False)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: missing; run train_at_equal_memory.py again for that arm") from None
    if now != summary:
        raise InputError(f"{folder}: trained again meanwhile; run train_at_equal_memory.py again for that arm")
    return Recorded(read_env(folder, now), summary, [])


def equal_memory_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one data set and model as text, units in the header."""
    metric, energy = metric_called(rows["metric"].iloc[0]), rows["energy_J_per_sample_mean"].notna().any()
    places = {key: column_places(rows[f"{key}_mean"]) for key in ("train_peak_MiB", "train_s", "samples_per_s")}
    places["energy_J_per_sample"] = column_places(1000 * rows["energy_J_per_sample_mean"])
    cells = []
    for row in records(rows):
        failed = failed_counts(row["failures"])
        low, high = (np.clip(row[bound], *metric.bounds) for bound in ("low", "high"))
        value = with_interval(row["mean"], low, high, metric.scale, places=metric_places(metric.name))
        cells.append(
            {
                "Cap, GiB": f"{row['cap_GiB']:g}",
                "Arm": arm_label(row["method"], row["rank"]),
                "Batch size": "none fits" if pd.isna(row["batch_size"]) else str(row["batch_size"]),
                "Probe peak, MiB": number(row["peak_MiB"]),
                "Training peak, MiB": mean_sd(row, "train_peak_MiB", 1.0, places["train_peak_MiB"])
                + ABOVE * bool(_above_cap(row)),
                "Learning rate": setting(row["learning_rate"], "{:.3g}"),
                "Steps": NULL if pd.isna(row["steps"]) else f"{row['steps']:,}",
                metric_label(row): value if failed == NULL else f"{value} ({failed})",
                LABEL["train_s"]: mean_sd(row, "train_s", 1.0, places["train_s"]),
                LABEL["samples_per_s"]: mean_sd(row, "samples_per_s", 1.0, places["samples_per_s"]),
                **(
                    {"Energy, J/1,000 rows": mean_sd(row, "energy_J_per_sample", 1000, places["energy_J_per_sample"])}
                    if energy
                    else {}
                ),
            }
        )
    return pd.DataFrame(cells).replace("nan", NULL)


def _above_cap(row: Any) -> Any:
    return row["train_peak_MiB_mean"] > row["cap_GiB"] * 1024


def equal_memory_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of the view: one sentence each."""
    first = rows.iloc[0]
    rule = RULE[first["rule"]]
    fixed = rows["max_steps"].notna().any()
    length = f"{first['max_steps']:,} steps each" if fixed else "the same epochs; so steps differ between arms"
    parts, most = first["gradient_accumulation_steps"], min(first["largest"], first["train_rows"])
    times = f"{parts} times " if parts > 1 else ""
    all_rows = f"the {most:,} training rows" if first["train_rows"] < first["largest"] else f"{most:,}"
    lines = [
        f"Each arm trains at the largest batch whose probe stays under the cap ({times}1, 2, 4 and multiples of 8, up "
        f"to {all_rows}), for {length}.",
        f"For a batch of k times {first['base_batch_size']} the learning rate is {rule}; it was not tuned there.",
        "The cap bounds the probe alone, eager steps on the longest texts"
        + ("; captured training holds more." if first["device"] == "cuda" else "."),
        NOTE[peak_key(first["device"])],
    ]
    if _above_cap(rows).any():
        lines.append(f"{ABOVE}: the training peak is above the cap.")
    if rows["low"].notna().any():
        lines.append("In brackets: 95 % t intervals over seeds.")
    elif rows["mean"].notna().any():
        lines.append("No intervals: one completed run an arm.")
    for end, what in (
        (LARGEST, "before the cap was reached for {}: raise equal_memory.largest_batch_size."),
        (ROWS, "at the number of training rows, before the cap was reached, for {}."),
    ):
        ended = records(rows[rows["ended_at"] == end])
        if names := list(dict.fromkeys(arm_label(row["method"], row["rank"]) for row in ended)):
            lines.append(f"The search ended {what.format(', '.join(names))}")
    for cap, own in rows.groupby("cap_GiB", sort=False):
        lines += [f"At {cap:g} GiB, {text}" for text in unlike(own.assign(differs=own["differs_at_cap"]))]
    return [*lines, *(f"In the main runs, {text}" for text in unlike(rows))]

"""The view of equal memory: each arm at the largest batch under a cap."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.comparison_text import with_interval
from peft_tradeoffs.analysis.contract import DIFFERS, compare
from peft_tradeoffs.analysis.facts import FACTS, Recorded
from peft_tradeoffs.analysis.finished import read_env, read_summary
from peft_tradeoffs.analysis.readable import NULL, failed_counts, mean_sd, number, setting, unlike
from peft_tradeoffs.analysis.stats import over_seeds
from peft_tradeoffs.analysis.tables import ARM, COMPLETED, arms_frame, memory_key, runs_frame
from peft_tradeoffs.core import seal
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.quantities import LARGEST, LIBRARIES, ROWS
from peft_tradeoffs.core.text import arm_label, records, sort_runs
from peft_tradeoffs.tasks.metrics import metric_called, metric_label
from peft_tradeoffs.tasks.recorded import LABEL, NOTE

MEASURED = ("train_peak_MiB", "train_s", "samples_per_s", "energy_J_per_sample")
COLUMNS = (
    *ARM, "method", "rank", "device", "metric", "positive_class", "pretrained", "cap_GiB", "batch_size", "peak_MiB",
    "next_size", "next_peak_MiB", "ended_at", "learning_rate", "steps", "n", "n_failed", "failures", "mean", "low",
    "high", *(f"{key}_{part}" for key in MEASURED for part in ("mean", "sd", "n")), "base_batch_size", "rule",
    "largest", "train_rows", "gradient_accumulation_steps", "max_steps", "differs", "differs_at_cap",
)  # fmt: skip
RULE = {"sqrt": "multiplied by the square root of k", "linear": "multiplied by k", "constant": "the same"}
WHOLE = (
    "max_steps", "rank", "batch_size", "next_size", "steps", "n", "n_failed", "base_batch_size", "largest",
    "train_rows", "gradient_accumulation_steps",
)  # fmt: skip
TEXT = (
    *ARM, "method", "device", "metric", "positive_class", "pretrained", "ended_at", "failures", "rule", "differs",
    "differs_at_cap",
)  # fmt: skip
ABOVE = "*"  # a training peak above the cap
# Facts of the contract that say what runs ran on; the others are equal by design, or not meant to be.
RAN_ON = (
    "device_name", "threads", "driver", "power_limit_W", "torch_flags", *LIBRARIES, "cuda_runtime", "cudnn", "python",
    "code",
)  # fmt: skip


def read_found(path: Path) -> dict[str, Any]:
    """What train_at_equal_memory.py wrote of an arm. Raises InputError for a file that is missing or was changed."""
    remedy = "delete it, and Snakemake makes it again from the runs that stand"
    try:
        return seal.read_signed(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; train_at_equal_memory.py writes it") from None
    except InputError as error:
        raise InputError(f"{error}; {remedy}") from None


def equal_memory_frame(found: list[dict[str, Any]], pretrained: dict[str, bool], runs_dir: Path) -> pd.DataFrame:
    """One row per (data set, model, cap, arm) of what train_at_equal_memory.py wrote, columns as in COLUMNS.

    batch_size is null where the smallest batch does not fit; peak_MiB is the search's, low and high the metric's 95 % t
    interval over seeds, null for one; differs_at_cap says in what the runs ran on otherwise than those of the first arm
    at that cap; differs is null: contract.with_differences fills it in. `pretrained`: by model, whether its
    weights are. `runs_dir` holds {dataset}/{model}/{arm}/batch{N}/seed{N}/env.json.
    """
    unlike_at = _unlike_at_caps(found, runs_dir)
    rows = [
        {
            **dict.fromkeys(COLUMNS),
            **{key: of_arm[key] for key in COLUMNS if key in of_arm},
            "pretrained": pretrained[of_arm["model"]],
            "cap_GiB": fit["cap_MiB"] / 1024,
            **{key: fit[key] for key in ("batch_size", "peak_MiB", "next_size", "next_peak_MiB", "ended_at")},
            **_trained(fit["summaries"]),
            "differs_at_cap": unlike_at.get((*(of_arm[key] for key in ARM), fit["cap_MiB"])),
        }
        for of_arm in found
        for fit in of_arm["caps"]
    ]
    frame = sort_runs(pd.DataFrame(rows, columns=list(COLUMNS)).assign(seed=0)).drop(columns="seed")
    types = dict.fromkeys(WHOLE, "Int64") | dict.fromkeys(set(COLUMNS) - {*WHOLE, *TEXT}, float)
    return frame.astype(types).sort_values(["dataset", "model", "cap_GiB"], kind="stable", ignore_index=True)


def _trained(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    """What the runs at one batch gave."""
    if not summaries:
        return {"n": 0, "n_failed": 0}
    runs = runs_frame(summaries)
    arm = arms_frame(runs).iloc[0].to_dict()
    peak = memory_key(arm["device"]).replace("probe_", "train_")
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
    cells = []
    for row in records(rows):
        failed = failed_counts(row["failures"])
        low, high = (np.clip(row[bound], *metric.bounds) for bound in ("low", "high"))
        value = with_interval(row["mean"], low, high, metric.scale)
        cells.append(
            {
                "Cap, GiB": f"{row['cap_GiB']:g}",
                "Arm": arm_label(row["method"], row["rank"]),
                "Batch size": "none fits" if pd.isna(row["batch_size"]) else str(row["batch_size"]),
                "Probe peak, MiB": number(row["peak_MiB"]),
                "Training peak, MiB": mean_sd(row, "train_peak_MiB") + ABOVE * bool(_above_cap(row)),
                "Learning rate": setting(row["learning_rate"], "{:.3g}"),
                "Steps": NULL if pd.isna(row["steps"]) else f"{row['steps']:,}",
                metric_label(row): value if failed == NULL else f"{value} ({failed})",
                LABEL["train_s"]: mean_sd(row, "train_s"),
                LABEL["samples_per_s"]: mean_sd(row, "samples_per_s"),
                **({"Energy, J/1,000 rows": mean_sd(row, "energy_J_per_sample", 1000)} if energy else {}),
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
        NOTE[memory_key(first["device"])],
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

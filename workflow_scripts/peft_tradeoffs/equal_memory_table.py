"""The view of equal memory: each arm at the largest batch under a cap."""

from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.arms import arm_label, sort_runs
from peft_tradeoffs.comparison_text import RANGE, with_interval
from peft_tradeoffs.readable import LABEL, NULL, failed_counts, mean_sd, metric_label, metric_scale, number, setting
from peft_tradeoffs.stats import over_seeds
from peft_tradeoffs.tables import COMPLETED, arms_frame, memory_key, runs_frame

ARM = ["dataset", "model", "arm"]
COLUMNS = (
    *ARM, "method", "rank", "device", "metric", "pretrained", "cap_GiB", "batch_size", "peak_MiB", "next_size",
    "next_peak_MiB", "learning_rate", "steps", "n", "n_failed", "failures", "mean", "low", "high",
    "train_s_mean", "train_s_sd", "train_s_n", "samples_per_s_mean", "samples_per_s_sd", "samples_per_s_n",
    "energy_J_per_sample_mean", "energy_J_per_sample_sd", "energy_J_per_sample_n", "base_batch_size", "rule", "largest",
    "max_steps",
)  # fmt: skip
RULE = {"sqrt": "multiplied by the square root of k", "linear": "multiplied by k", "constant": "the same"}
WHOLE = ("max_steps", "rank", "batch_size", "next_size", "steps", "n", "n_failed", "base_batch_size", "largest")
TEXT = (*ARM, "method", "device", "metric", "pretrained", "failures", "rule")


def equal_memory_frame(found: list[dict[str, Any]], pretrained: dict[str, bool]) -> pd.DataFrame:
    """One row a (data set, model, cap, arm) of what train_at_equal_memory.py wrote, columns as in COLUMNS.

    batch_size is null where the smallest batch does not fit; peak_MiB is the search's, low and high the metric's 95 % t
    interval over seeds, null for one. `pretrained`: by model, whether its weights are.
    """
    rows = [
        {
            **dict.fromkeys(COLUMNS),
            **{key: of_arm[key] for key in COLUMNS if key in of_arm},
            "pretrained": pretrained[of_arm["model"]],
            "cap_GiB": fit["cap_MiB"] / 1024,
            **{key: fit[key] for key in ("batch_size", "peak_MiB", "next_size", "next_peak_MiB")},
            **_trained(fit["summaries"]),
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
    values = runs[runs["status"] == COMPLETED]["metric_value"].dropna().to_numpy(dtype=float)
    estimate = over_seeds(values)
    low, high = estimate.interval() if estimate else (None, None)
    steps = runs["steps"].dropna()
    return {
        **{key: value for key, value in arm.items() if key in COLUMNS and key not in ("batch_size", "rank")},
        "steps": steps.iloc[0] if len(steps) else None,
        "mean": float(np.mean(values)) if len(values) else None,
        "low": low,
        "high": high,
    }


def equal_memory_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one data set and model as text, units in the header."""
    metric, key = rows["metric"].iloc[0], memory_key(rows["device"].iloc[0])
    cells = []
    for row in rows.to_dict("records"):
        failed = failed_counts(row["failures"])
        low, high = (np.clip(row[bound], *RANGE[metric]) for bound in ("low", "high"))
        value = with_interval(row["mean"], low, high, metric_scale(metric))
        cells.append(
            {
                "Cap, GiB": f"{row['cap_GiB']:g}",
                "Arm": arm_label(row["method"], row["rank"]),
                "Batch size": "none fits" if pd.isna(row["batch_size"]) else str(row["batch_size"]),
                LABEL[key]: number(row["peak_MiB"]),
                "Learning rate": setting(row["learning_rate"], "{:.3g}"),
                "Steps": NULL if pd.isna(row["steps"]) else f"{row['steps']:,}",
                metric_label(metric): value if failed == NULL else f"{value} ({failed})",
                "Training time, s": mean_sd(row, "train_s"),
                "Samples/s": mean_sd(row, "samples_per_s"),
                "Energy, J/1,000 rows": mean_sd(row, "energy_J_per_sample", 1000),
            }
        )
    return pd.DataFrame(cells).replace("nan", NULL)


def equal_memory_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of the view: one sentence each."""
    first = rows.iloc[0]
    rule = RULE[first["rule"]]
    fixed = rows["max_steps"].notna().any()
    length = f"{first['max_steps']:,} steps each" if fixed else "the same epochs; so steps differ between arms"
    lines = [
        "Each arm trains at the largest batch whose probe stays under the cap (1, 2, 4 and multiples of 8, up to "
        f"{first['largest']}), for {length}.",
        f"For a batch of k times {first['base_batch_size']} the learning rate is {rule}; it was not tuned there.",
    ]
    if rows["low"].notna().any():
        lines.append("In brackets: 95 % t intervals over seeds.")
    else:
        lines.append("No intervals: one seed.")
    at_end = rows[rows["batch_size"].notna() & rows["next_size"].isna()]
    if len(at_end):
        names = ", ".join(sorted({arm_label(row["method"], row["rank"]) for row in at_end.to_dict("records")}))
        lines.append(f"The search ended before the cap was reached for {names}: raise equal_memory.largest_batch_size.")
    return lines

"""The noise floor as readers see it: no more digits than the repeats' spread supports."""

from typing import Any

import pandas as pd

from peft_tradeoffs.analysis.digits import supported_decimals
from peft_tradeoffs.analysis.noise import METRIC
from peft_tradeoffs.analysis.readable import LABEL, NULL, SHORT, mark, metric_scale, number
from peft_tradeoffs.core.arms import arm_label
from peft_tradeoffs.tasks.metric_names import metric_label


def noise_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `noise_frame` of one data set and model as text, one line per quantity, units in its name."""
    cells = []
    for row in rows.to_dict("records"):
        scale = metric_scale(row["metric"]) if row["quantity"] == METRIC else 1.0
        places = supported_decimals(row["sd"] * scale) if row["sd"] > 0 else None
        cells.append(
            {
                "Arm": arm_label(row["method"], row["rank"]),
                "Quantity": _quantity(row),
                "n": NULL if pd.isna(row["n"]) else str(row["n"]),
                "Mean": number(row["mean"] * scale, places),
                "SD": number(row["sd"] * scale, places),
                "Range": number(row["range"] * scale, places),
                "SD, % of mean": _rounded(row["cv_percent"]),
                "Range, % of mean": _rounded(row["range_percent"]),
            }
        )
    return pd.DataFrame(cells)


def noise_notes(rows: pd.DataFrame) -> list[str]:
    """What the repeats showed of each arm, and what a reader must know: one sentence each."""
    arms = rows.drop_duplicates("arm").to_dict("records")
    lines = [
        "The same arm with the same seed, each repeat in a job of its own. SD: sample standard deviation; range: "
        "highest less lowest; over the n completed repeats that have the quantity.",
        *map(_identity, arms),
    ]
    for row in arms:
        name = arm_label(row["method"], row["rank"])
        if not pd.isna(row["n_gpus"]) and row["n_gpus"] > 1:
            lines.append(f"The repeats of {name} ran on {row['n_gpus']} GPUs, whose differences are in its spread.")
        if row["shared_gpu"]:
            lines.append(f"Another process was on the GPU in some repeats of {name} (shared_gpu).")
    for reason, own in rows.dropna(subset=["quantity", "reason"]).groupby("reason", sort=False):
        which = [f"{arm_label(row['method'], row['rank'])} ({_quantity(row)})" for row in own.to_dict("records")]
        lines.append(f"No spread of {', '.join(which)}: {reason}.")
    if rows["quantity"].eq("energy_J_per_sample").any() and rows["energy_window_short"].any():
        lines.append(f"{SHORT}: measured over less than 30 s.")
    return lines


def _identity(row: dict[str, Any]) -> str:
    """How far apart the completed repeats of an arm ended."""
    completed = f"{arm_label(row['method'], row['rank'])}: {row['n_completed']} of {row['n_repeats']} repeats completed"
    if not pd.isna(row["failures"]):
        completed += f" ({row['failures']})"
    if row["n_completed"] < 2:
        return f"{completed}, so nothing can be said of their differences."
    weights = {True: "bit-identical weights", False: "weights that differ"}.get(row["identical_weights"])
    weights = weights or "weights that are no longer there"
    if row["identical_predictions"]:
        return f"{completed}, with {weights} and bit-identical predictions."
    return (
        f"{completed}, with {weights}; they predict {row['differing_predictions']:,} of {row['test_rows']:,} test rows "
        f"differently, and a logit differs by at most {row['largest_logit_difference']:.2g}."
    )


def _quantity(row: dict[str, Any]) -> str:
    if pd.isna(row["quantity"]):
        return NULL
    name = metric_label(row) if row["quantity"] == METRIC else LABEL[row["quantity"]]
    return mark(row, row["quantity"], name)


def _rounded(value: float) -> str:
    """To one significant digit, to two where the first is 1 or 2: a spread of few runs is itself uncertain."""
    return number(value, supported_decimals(value) if value > 0 else 0)

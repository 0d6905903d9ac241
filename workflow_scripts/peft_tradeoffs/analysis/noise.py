"""The noise floor: the same arm with the same seed, again and again, and how readers see it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.finished import (
    check_all,
    has_weights,
    predictions_sha256,
    verified,
    weights_sha256,
)
from peft_tradeoffs.analysis.readable import (
    NULL,
    SHORT,
    cost_keys,
    mark,
    null_reasons,
    number,
    shown,
    supported_decimals,
    ways_of_failing,
)
from peft_tradeoffs.analysis.tables import ARM, COMPLETED, random_weights, read_scored, runs_frame
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import PREDICTIONS
from peft_tradeoffs.core.text import arm_label, records
from peft_tradeoffs.tasks.metrics import metric_called
from peft_tradeoffs.tasks.shown import metric_label
from peft_tradeoffs.tasks.task import DEFAULT, LABEL, TASKS

METRIC = "metric_value"
COLUMNS = (
    *ARM, "method", "rank", "pretrained", "device", "device_name", "n_gpus", "seed", "n_repeats", "n_completed",
    "failures", "identical_weights", "identical_predictions", "largest_logit_difference", "differing_predictions",
    "test_rows", "metric", "positive_class", "quantity", "n", "mean", "sd", "cv_percent", "range", "range_percent",
    "energy_window_short", "shared_gpu", "reason",
)  # fmt: skip
WHOLE = ("rank", "n_gpus", "n_repeats", "n_completed", "differing_predictions", "test_rows", "n")
NUMBERS = ("largest_logit_difference", "mean", "sd", "cv_percent", "range", "range_percent")


def repeats_frame(repeats: dict[int, list[dict[str, Any]]]) -> pd.DataFrame:
    """One row per run, as `runs_frame`, its number in the column `repeat`; `repeats` has the summaries by number."""
    frames = [runs_frame(summaries).assign(repeat=number) for number, summaries in repeats.items()]
    return pd.concat(frames, ignore_index=True)


def noise_frame(runs: pd.DataFrame, folder: Callable[[dict[str, Any]], Path]) -> pd.DataFrame:
    """One row per (data set, model, arm, quantity), columns as in COLUMNS, of the runs of `repeats_frame`.

    `folder` gives the folder of a run. What is said of an arm stands in each of its rows: n_repeats and how many of
    them completed; whether those have the same weights and predictions bit for bit; the largest difference of a logit
    (of texts: of a row's loss) of one test row between any two, and the test rows that they do not all predict alike
    (null with one repeat or none completed). Then n, mean, sd (ddof=1), sd in % of the mean, range (highest - lowest),
    also in % of the mean, of each quantity: the metric (a fraction or a coefficient) and what it costs, in the unit of
    its name. What depends on the machine or the engine is null where the repeats had different ones; `reason` says so.
    Raises InputError for files that are not as their runs published them, and for repeats that were not made from the
    same settings, data, model, code and versions.
    """
    rows = []
    for _, own in runs.groupby(ARM, sort=False):
        _check_alike(own)
        done = own[own["status"] == COMPLETED]
        said = _of_arm(own, done, [folder(run) for run in records(done)])
        found = [said | _of_quantity(done, key) for key in _keys(own)]
        rows += found if len(done) else [said | {"reason": "no repeat completed"}]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(WHOLE, "Int64") | dict.fromkeys(NUMBERS, float))


def _keys(runs: pd.DataFrame) -> list[str]:
    """What is measured: the metric, if the model has one, and the costs that tables show."""
    costs = [key for key in cost_keys(runs) if shown(runs.iloc[0], key) and key != "weights_MiB"]  # from tensor sizes
    return costs if random_weights(runs) else [METRIC, *costs]


def _check_alike(runs: pd.DataFrame) -> None:
    if runs["fingerprint"].nunique() > 1:
        name = "/".join(runs.iloc[0][ARM])
        raise InputError(
            f"the repeats of {name} were not made from the same settings, data, model, code and versions: "
            "delete their folders and run them again"
        )


def _of_arm(runs: pd.DataFrame, done: pd.DataFrame, folders: list[Path]) -> dict[str, Any]:
    first = runs.iloc[0]
    found = {
        key: first[key]
        for key in (*ARM, "method", "rank", "pretrained", "device", "seed", "metric", "positive_class", "test_rows")
    }
    found |= {
        "device_name": "; ".join(dict.fromkeys(runs["device_name"].dropna())),
        "n_gpus": runs["gpu_uuid"].nunique() if first["device"] == "cuda" else None,
        "n_repeats": len(runs),
        "n_completed": len(done),
        "failures": "; ".join(f"{count} {words}" for words, count in ways_of_failing(runs)) or None,
        "energy_window_short": done["energy_window_short"].eq(True).any(),
        "shared_gpu": runs["shared_gpu"].eq(True).any(),
    }
    if len(done) < 2:
        return found
    found_runs = [(folder, verified(folder)) for folder in folders]
    for folder, summary in found_runs:
        check_all(folder, summary, keep_weights=False)
    task = TASKS[first["task"]]
    scored = [read_scored(folder / PREDICTIONS, task, summary["test_rows"]) for folder, summary in found_runs]
    predictions = np.stack([one.prediction for one in scored])
    # Of texts the losses alone: their other columns are counts.
    logits = predictions if task.reader else np.stack([one.logits for one in scored])
    return found | {
        "identical_weights": _identical(
            [weights_sha256(summary) if has_weights(folder, summary) else None for folder, summary in found_runs]
        ),
        "identical_predictions": _identical([predictions_sha256(summary) for _, summary in found_runs]),
        "largest_logit_difference": float(np.ptp(logits, axis=0).max()),
        "differing_predictions": int((predictions != predictions[0]).any(axis=0).sum()),
    }


def _identical(checksums: list[str | None]) -> bool | None:
    """Whether all are the same; None if one is missing."""
    return None if None in checksums else len(set(checksums)) == 1


def _of_quantity(done: pd.DataFrame, key: str) -> dict[str, Any]:
    found: dict[str, Any] = {"quantity": key, "n": 0}
    timed = done if key == METRIC else done[~done["mixed_gpus"].eq(True)]
    if key != METRIC:
        for column, what in (("device_name", "devices"), ("engine", "engines")):
            if timed[column].nunique() > 1:
                return found | {"reason": f"the repeats ran on different {what}: {'; '.join(timed[column].unique())}"}
    values = timed[key].astype(float).dropna()
    found["n"] = len(values)
    if not len(values):
        return found | {"reason": "; ".join(null_reasons(done, key)) or "all went on on a GPU of another model"}
    mean, spread = float(values.mean()), float(values.max() - values.min())
    found["mean"] = mean
    if len(values) < 2:
        return found | {"reason": "one repeat has a value"}
    sd = float(values.std(ddof=1))
    found |= {"sd": sd, "range": spread}
    if not mean:
        return found
    return found | {"cv_percent": 100 * sd / abs(mean), "range_percent": 100 * spread / abs(mean)}


def noise_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `noise_frame` of one data set and model as text, one line per quantity, units in its name."""
    cells = []
    for row in records(rows):
        scale = metric_called(row["metric"]).scale if row["quantity"] == METRIC else 1.0
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
    arms = records(rows.drop_duplicates("arm"))
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
        which = [f"{arm_label(row['method'], row['rank'])} ({_quantity(row)})" for row in records(own)]
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
    task = next((task for task in TASKS.values() if row["metric"] in task.metrics), TASKS[DEFAULT])
    differ = task.apart(f"{row['differing_predictions']:,} of {row['test_rows']:,} test rows")
    return f"{completed}, with {weights}; {differ} differs by at most {row['largest_logit_difference']:.2g}."


def _quantity(row: dict[str, Any]) -> str:
    if pd.isna(row["quantity"]):
        return NULL
    name = metric_label(row) if row["quantity"] == METRIC else LABEL[row["quantity"]]
    return mark(row, row["quantity"], name)


def _rounded(value: float) -> str:
    """To one significant digit, to two where the first is 1 or 2: a spread of few runs is itself uncertain."""
    return number(value, supported_decimals(value) if value > 0 else 0)

"""Imported results as a table: what others measured, shown apart and never compared with runs of this workflow."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from peft_tradeoffs.analysis.readable import NULL, number, setting
from peft_tradeoffs.core.text import SPELLING
from peft_tradeoffs.report.imported import row
from peft_tradeoffs.tasks.metrics import metric_called, metric_label

WHOLE = ("rank", "trainable_parameters", "total_parameters", "batch_size", "max_steps", "seed")
NUMBERS = (
    "metric_value", "peak_memory_MiB", "memory_p99_MiB", "memory_mean_MiB", "train_s", "total_s", "trainable_percent",
    "file_size_MiB", "learning_rate",
)  # fmt: skip
SUCCESS = "success"
NOT_MEASURED_HERE = (
    "Not measured here: these rows were imported from published result files of PEFT's method_comparison. They are of "
    "another task, loop and machine than this workflow's runs, so they are compared with none of them."
)
NOTES = (
    "One run each, so there is no interval.",
    "Peak memory: the accelerator's reserved memory at its highest (torch.cuda.max_memory_reserved), over the whole "
    "process with its evaluations, less what was reserved at its start.",
    "Training time: by the clock, from the optimizer's making to the end of the test evaluation, less the evaluations "
    "on the validation split.",
    "File size: of the saved adapter; of full fine-tuning it was computed from the parameters.",
)


def imported_frame(files: dict[str, Iterable[str]]) -> pd.DataFrame:
    """One row per result file, by label and then in the order given.

    Columns: source (the label), file, sha256 (of it), measured_here (False), pretrained (True: the benchmark starts
    from published weights), those of `imported.COLUMNS`, null_reasons as JSON.
    """
    rows = [row(label, Path(path)) for label, paths in files.items() for path in paths]
    frame = pd.DataFrame(rows)
    return frame.astype(dict.fromkeys(WHOLE, "Int64") | dict.fromkeys(NUMBERS, float))


def imported_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one data set, model and source as text, a few columns, units in the header."""
    return pd.DataFrame([_cells(row, rows) for row in rows.to_dict("records")])


def _cells(row: dict[str, Any], rows: pd.DataFrame) -> dict[str, str]:
    cells = {
        "Experiment": row["experiment"],
        "Method": SPELLING.get(setting(row["method"]).lower(), setting(row["method"])),
        "Rank": setting(row["rank"]),
        "Status": row["status"],
    }
    for name in rows["metric"].dropna().unique():
        metric = metric_called(name)
        value = number(row["metric_value"] * metric.scale, metric.decimals) if row["metric"] == name else NULL
        cells[metric_label({"metric": name})] = value
    return cells | {
        "Peak reserved, MiB": number(row["peak_memory_MiB"]),
        "Training time, s": number(row["train_s"]),
        "Trainable parameters": setting(row["trainable_parameters"], "{:,.0f}"),
        "Trainable, %": number(row["trainable_percent"]),
        "File, MiB": number(row["file_size_MiB"]),
        "dtype": setting(row["dtype"]),
        "PEFT": setting(row["peft_version"]),
        "torch": setting(row["torch_version"]),
        "Device": setting(row["device_name"]),
        "Date": NULL if pd.isna(row["created_at"]) else row["created_at"][:10],
    }


def imported_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of these rows: one sentence each."""
    lines = list(NOTES)
    if (rows["status"] != SUCCESS).any():
        lines.append("A run whose status is not success did not end; its figures are of what it reached.")
    return lines


def imported_lead(rows: pd.DataFrame) -> list[str]:
    """What stands above the table."""
    return [NOT_MEASURED_HERE]

"""The untrained model: what a model as it is fetched wrote, read, as a table, and in a line beside the arms."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.comparison import of_one, predicted
from peft_tradeoffs.analysis.finished import check_files, has
from peft_tradeoffs.analysis.readable import number
from peft_tradeoffs.analysis.tables import COMPLETED, read_scored, read_table
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import OUTPUTS, PREDICTIONS, REMEDY, SCORES
from peft_tradeoffs.core.text import records
from peft_tradeoffs.inputs.splits import read_groups
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.tasks.metrics import Metric, metric_called
from peft_tradeoffs.tasks.shown import metric_label, metric_words
from peft_tradeoffs.tasks.task import TASKS

METRICS = (*metrics.of_task(metrics.OUTPUTS), *metrics.of_task(metrics.TOKENS))
NUMBER: tuple[type, ...] = (int, float, type(None))
SUMMARY: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("dataset", "model", "status", "task", "precision", "dtype", "device", "data_sha256"), (str,)),
    **{"failed_phase": (str, type(None)), "device_name": (str, type(None)), "test_rows": (int,)},
    **{"pretrained": (bool,)},
    **{"max_new_tokens": (int,), "null_reasons": (dict,)},
    **dict.fromkeys(("ended_share", "answer_tokens", *(metric.name for metric in METRICS)), NUMBER),
}
SETTINGS = ("status", "pretrained", "precision", "dtype", "device", "device_name", "max_new_tokens", "test_rows")
WRITTEN = ("ended_share", "answer_tokens")
VALUES = [f"{metric.name}{end}" for metric in METRICS for end in ("", "_low", "_high")]
COLUMNS = ("dataset", "model", *SETTINGS, "test_groups", *VALUES, *WRITTEN, "reason")
WHOLE = ("max_new_tokens", "test_rows", "test_groups")
NOT_COMPARED = "It is no arm: nothing is tested against it, and no verdict takes it in."


def read_untrained(folder: Path) -> dict[str, Any]:
    """The summary of what answer_untrained.py wrote in `folder`, {dataset}/{model}, its answers as it published them.

    Raises InputError for one that is missing, damaged, edited or of another data set or model.
    """
    path = folder / "summary.json"
    try:
        summary = files.read_object(path, SUMMARY, "what an untrained model gave", REMEDY)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; answer_untrained.py writes it") from None
    files.check_summary(summary, path)
    own = Path(summary["dataset"], summary["model"])
    if folder.absolute().parts[-len(own.parts) :] != own.parts:
        raise InputError(f"{path}: of another model, {own}; {REMEDY}")
    check_files(folder, summary, [name for name in (PREDICTIONS, OUTPUTS, SCORES) if has(summary, name)])
    return summary


def untrained_frame(folders: Iterable[Path], data_dir: Path | None) -> pd.DataFrame:
    """One row per data set and model, columns as in COLUMNS, of what stands in `folders`.

    Of each metric, as stored, its value, and _low and _high, its 95 % interval over other test examples alone; over
    groups of them where `data_dir` says that the data set has such. What a null means is in `reason`.
    """
    rows = [_row(folder, read_untrained(folder), data_dir) for folder in folders]
    types = dict.fromkeys(WHOLE, "Int64") | dict.fromkeys((*VALUES, *WRITTEN), float)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(types)


def _row(folder: Path, summary: dict[str, Any], data_dir: Path | None) -> dict[str, Any]:
    row = {key: summary[key] for key in ("dataset", "model", *SETTINGS, *WRITTEN)}
    if summary["status"] != COMPLETED:
        oom = summary["status"] == "oom"
        return row | {"reason": f"out of memory in {summary['failed_phase']}" if oom else "its loss is not finite"}
    task = TASKS[summary["task"]]
    scored = read_scored(folder / PREDICTIONS, task, summary["test_rows"])
    groups = read_groups(data_dir, summary["dataset"], "test", scored.rows) if data_dir else None
    if groups is not None:
        row["test_groups"] = int(groups.max()) + 1
    reasons: dict[str, None] = {}
    for metric in METRICS:
        if (value := summary[metric.name]) is None:
            continue
        found = metric.of(scored)
        if found is None or not math.isclose(found, value, abs_tol=1e-6):
            raise InputError(f"{folder}: its {metric.name} is {found}, but its summary says {value}; {REMEDY}")
        own = of_one(predicted(scored, metric, task.right(scored), groups), value, metric.name)
        row[metric.name] = value
        if "reason" in own:
            reasons[own["reason"]] = None
        else:  # none lies beyond its range, whatever t says
            low, high = np.clip([own["low"], own["high"]], *metric.bounds).tolist()
            row |= {f"{metric.name}_low": low, f"{metric.name}_high": high}
    return row | {"reason": "; ".join(reasons) or None}


def read_table_of_untrained(path: Path) -> pd.DataFrame:
    """An untrained.csv that `untrained_frame` made. Raises InputError if it is missing, damaged or lacks columns."""
    texts = [name for name in COLUMNS if name not in (*WHOLE, *VALUES, *WRITTEN)]
    kinds = dict.fromkeys(WHOLE, "Int64") | dict.fromkeys(texts, object)
    return read_table(path, COLUMNS, "delete it, and Snakemake makes it again", kinds, (*VALUES, *WRITTEN))


def with_bounds(row: dict[str, Any], metric: Metric) -> str:
    """The metric of a row of `untrained_frame` with its interval, in its unit, which is left out, and decimals."""
    value, low, high = (row[f"{metric.name}{end}"] * metric.scale for end in ("", "_low", "_high"))
    text = number(value, metric.decimals)
    return text if pd.isna(low) else f"{text} [{number(low, metric.decimals)}, {number(high, metric.decimals)}]"


def beside_arms(row: dict[str, Any], metric: str) -> dict[str, str]:
    """What stands beside the arms' metric: `cell`, of the column of the metric, and `line`, a sentence or two.

    `row` is of `untrained_frame`.
    """
    found = metric_called(metric)
    if found not in METRICS or pd.isna(row[metric]):
        why = "it is not scored" if pd.isna(row["reason"]) else row["reason"]
        return {"cell": "", "line": f"Untrained: not known ({why}). {NOT_COMPARED}"}
    cell = with_bounds(row, found)
    value, _, interval = cell.partition(" ")
    unit = f" {found.unit}" if found.unit else ""
    over = f" {interval} (95 %, {_over(row)})" if interval else ""
    said = f"Untrained: {metric_words({'metric': metric})} {value}{unit}{over}, by the model as it is fetched."
    return {"cell": cell, "line": f"{said} {NOT_COMPARED}"}


def _over(row: dict[str, Any]) -> str:
    return "over other test examples" if pd.isna(row["test_groups"]) else "over other groups of test rows"


def untrained_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The row of one data set and model as text, a line per quantity, units behind their names."""
    (row,) = records(rows)
    cells = {metric_label({"metric": one.name}): with_bounds(row, one) for one in METRICS if not pd.isna(row[one.name])}
    cells["Answers that it ended, %"] = number(row["ended_share"] * 100, 1)
    cells["Length of an answer (mean), tokens"] = number(row["answer_tokens"], 1)
    return pd.DataFrame({"Quantity": list(cells), "Untrained": list(cells.values())})


def untrained_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of the table: one sentence each."""
    (row,) = records(rows)
    lines = [
        "What the model as it is fetched wrote, before any training, by the settings that the arms answer by.",
        NOT_COMPARED,
        f"Weights in {row['dtype']}, not quantised, {row['precision']} on {row['device_name'] or row['device']}; "
        f"{row['test_rows']:,} test rows, at most {row['max_new_tokens']} new tokens each.",
    ]
    if any(not pd.isna(row[f"{metric.name}_low"]) for metric in METRICS):
        lines.append(
            f"In brackets: 95 % intervals {_over(row)} alone; it writes the same every time, so it has no seeds."
        )
    return lines if pd.isna(row["reason"]) else [*lines, f"What is missing: {row['reason']}."]

"""Published results of PEFT's method_comparison, a benchmark in its repository: found, read, and as a table.

They are shown apart and never compared with runs of this workflow.
"""

import glob
import hashlib
import json
import math
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd

from peft_tradeoffs.analysis.readable import NULL, number, setting
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import json_schema
from peft_tradeoffs.core.quantities import Missing, without_missing
from peft_tradeoffs.core.text import SPELLING, records
from peft_tradeoffs.report.sweep import finite
from peft_tradeoffs.tasks.metrics import metric_called
from peft_tradeoffs.tasks.shown import metric_label

MIB = 2**20
FULL = "full-finetuning"  # as the benchmark calls a run without a PEFT configuration
LARGEST = 2**63  # that a column of whole numbers holds
NO_SIZE = 99_999_999  # what the benchmark writes where it could not save the adapter
WHAT = "a result of PEFT's method_comparison (run_info, train_info and meta_info)"
TEST = "test "  # before the metric's name, in the entry of the evaluation on the test split


def find(imported: dict[str, list[str]]) -> dict[str, list[str]]:
    """The files that the paths and patterns of the config key `imported` name, sorted, by label.

    Raises InputError, naming the key, for a path or pattern without a file, and for a file that is not such a result.
    """
    found: dict[str, list[str]] = {}
    for label, patterns in imported.items():
        paths: dict[str, None] = {}
        for index, pattern in enumerate(patterns):
            key = f"config key imported.{label}.{index}"
            # Path.glob takes no absolute pattern.
            named = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207
            if not named:
                raise InputError(f"{key}: no such file: {pattern} (relative paths start at {Path.cwd()})")
            for name in named:
                if set(name) & set("{}"):
                    raise InputError(f"{key}: {name} has braces, which are wildcards in Snakemake; rename the file")
                try:
                    read_result(Path(name))
                except InputError as error:
                    raise InputError(f"{key}: {error}") from None
                paths[name] = None
        found[label] = list(paths)
    return found


def read_result(path: Path) -> dict[str, Any]:
    """A result as its JSON holds it. Raises InputError for a file that is no such result."""
    if path.is_dir():
        raise InputError(f"{path}: a folder; name its files, as in {path}/*.json")
    try:
        result = files.read_json(path, f"name {WHAT}")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    for keys, kind in (
        (("run_info", "experiment_name"), str),
        (("run_info", "train_config", "model_id"), str),
        (("train_info", "status"), str),
        (("train_info", "metrics"), list),
        (("meta_info",), dict),
    ):
        value = _at(result, *keys)
        if not isinstance(value, kind) or (isinstance(value, str) and not value.strip()):
            raise InputError(f"{path}: no {'.'.join(keys)}, so it is not {WHAT}; name one, or take the file out")
    return result


def row(label: str, path: Path) -> dict[str, Any]:
    """A result as a row of the table, columns as in COLUMNS; what it does not state is None, with a reason."""
    result = read_result(path)
    values, reasons = without_missing({column: read(result) for column, read in COLUMNS.items()})
    return {
        **{
            "source": label,
            "file": path.name if path.is_absolute() else path.as_posix(),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        },
        **{"measured_here": False, "pretrained": True},
        **values,
        "null_reasons": json.dumps(reasons, sort_keys=True, ensure_ascii=False),
    }


def _at(value: Any, *keys: str) -> Any:
    """What stands at these keys; None where there is no such place."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _text(*keys: str) -> Callable[[dict[str, Any]], str | Missing]:
    def read(result: dict[str, Any]) -> str | Missing:
        value = _at(result, *keys)
        text = " ".join(value.split()) if isinstance(value, str) else ""
        return text or Missing("the file does not say")

    return read


def _number(kind: type, *places: tuple[str, ...], per: int = 1) -> Callable[[dict[str, Any]], float | Missing]:
    """A number that stands at one of these places, divided by `per`; a bool is none."""

    def read(result: dict[str, Any]) -> float | Missing:
        for keys in places:
            value = _at(result, *keys)
            number = isinstance(value, kind | int) and not isinstance(value, bool)
            if number and abs(value) < LARGEST:  # NaN is not
                return value / per if per != 1 else kind(value)
        return Missing("the file does not say")

    return read


def _memory(name: str) -> Callable[[dict[str, Any]], float | Missing]:
    """MiB of a memory figure, which was called cuda_* until 2025 and accelerator_* since."""
    return _number(float, ("train_info", f"accelerator_memory_{name}"), ("train_info", f"cuda_memory_{name}"), per=MIB)


def _method(result: dict[str, Any]) -> str | Missing:
    peft = _at(result, "run_info", "peft_config")
    return _text("run_info", "peft_config", "peft_type")(result) if peft else FULL


def _rank(result: dict[str, Any]) -> float | Missing:
    """By the field that this version of PEFT has for it: some types carry an `r` that they do not use."""
    method = _method(result)
    if isinstance(method, Missing):
        return method
    if method == FULL:
        return Missing("full fine-tuning has no rank")
    known = json_schema("peft")["$defs"]
    if method not in known:
        return Missing(f"it is not known which field of {method} is a rank")
    field = known[method]["x-rank-field"]
    if field is None:
        return Missing(f"{method} has no rank")
    return _number(int, ("run_info", "peft_config", field))(result)


def _dataset(result: dict[str, Any]) -> str:
    """The data set's id, or the names of those whose revisions are recorded. Never null: sections are made by it."""
    named = _text("run_info", "train_config", "dataset_id")(result)
    if not isinstance(named, Missing):
        return named
    recorded = _at(result, "meta_info", "dataset_info")
    names = [name for name, of in recorded.items() if isinstance(of, dict)] if isinstance(recorded, dict) else []
    return "; ".join(names) or "not stated"


def _tested(result: dict[str, Any]) -> tuple[str, Any] | None:
    """Name and value of the metric on the test split: the last entry that has one."""
    for entry in reversed(result["train_info"]["metrics"]):
        for key, value in entry.items() if isinstance(entry, dict) else ():
            if key.startswith(TEST):
                return key.removeprefix(TEST), value
    return None


def _metric(result: dict[str, Any]) -> str | Missing:
    tested = _tested(result)
    return tested[0] if tested else Missing("it was not evaluated on the test split")


def _metric_value(result: dict[str, Any]) -> float | Missing:
    tested = _tested(result)
    if tested is None:
        return Missing("it was not evaluated on the test split")
    return _number(float, ("value",))({"value": tested[1]})


def _step_s(result: dict[str, Any]) -> float | Missing:
    """Seconds of the optimizer steps alone, as the entries of all evaluations on the way have them together."""
    entries = [entry for entry in result["train_info"]["metrics"] if isinstance(entry, dict)]
    seconds = [_number(float, ("train time",))(entry) for entry in entries if "train time" in entry]
    known = [value for value in seconds if not isinstance(value, Missing)]
    steps = [entry.get("step") for entry in entries]
    if not known or len(known) < len(seconds):
        return Missing("the file does not say")
    if "train time" not in entries[-1] and steps[-1] != steps[len(seconds) - 1]:
        return Missing("the file has those up to its last evaluation on the validation split alone")
    return sum(known)


def _file_size(result: dict[str, Any]) -> float | Missing:
    if _at(result, "train_info", "file_size") == NO_SIZE:
        return Missing("the benchmark could not save it")
    return _number(float, ("train_info", "file_size"), per=MIB)(result)


def _trainable_percent(result: dict[str, Any]) -> float | Missing:
    trainable, total = (_number(int, ("train_info", f"num_{of}_params"))(result) for of in ("trainable", "total"))
    if isinstance(trainable, Missing) or isinstance(total, Missing) or total == 0:
        return Missing("the file does not say")
    return 100 * trainable / total


def _error(result: dict[str, Any]) -> str | Missing:
    found = _text("run_info", "error_msg")(result)
    return Missing("there was none") if isinstance(found, Missing) else found


CONFIG = ("run_info", "train_config")
PACKAGES = ("meta_info", "package_info")
# The columns of the table between those of the file and null_reasons, in order, and where each is read from.
COLUMNS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "status": _text("train_info", "status"),
    "error": _error,
    "experiment": _text("run_info", "experiment_name"),
    "method": _method,
    "rank": _rank,
    "model": _text(*CONFIG, "model_id"),
    "model_revision": _text("meta_info", "model_info", "sha"),
    "dataset": _dataset,
    "metric": _metric,
    "metric_value": _metric_value,
    "peak_memory_MiB": _memory("max"),
    "memory_p99_MiB": _memory("reserved_99th"),
    "memory_mean_MiB": _memory("reserved_avg"),
    "train_s": _number(float, ("train_info", "train_time")),
    "step_s": _step_s,
    "total_s": _number(float, ("run_info", "total_time")),
    "trainable_parameters": _number(int, ("train_info", "num_trainable_params")),
    "total_parameters": _number(int, ("train_info", "num_total_params")),
    "trainable_percent": _trainable_percent,
    "file_size_MiB": _file_size,
    "dtype": _text(*CONFIG, "dtype"),
    "batch_size": _number(int, (*CONFIG, "batch_size")),
    "max_steps": _number(int, (*CONFIG, "max_steps")),
    "learning_rate": _number(float, (*CONFIG, "optimizer_kwargs", "lr")),
    "seed": _number(int, (*CONFIG, "seed")),
    "peft_version": _text(*PACKAGES, "peft-version"),
    "transformers_version": _text(*PACKAGES, "transformers-version"),
    "torch_version": _text(*PACKAGES, "torch-version"),
    "device_name": lambda result: next(
        (
            name
            for key in ("accelerator", "gpu")
            if isinstance(name := _at(result, "meta_info", "system_info", key), str)
        ),
        Missing("the file does not say"),
    ),
    "created_at": _text("run_info", "created_at"),
}


WHOLE = ("rank", "trainable_parameters", "total_parameters", "batch_size", "max_steps", "seed")
NUMBERS = (
    "metric_value", "peak_memory_MiB", "memory_p99_MiB", "memory_mean_MiB", "train_s", "step_s", "total_s",
    "trainable_percent", "file_size_MiB", "learning_rate",
)  # fmt: skip
SUCCESS = "success"
NOT_MEASURED_HERE = (
    "Not measured here: these rows were imported from published result files of PEFT's method_comparison. They are of "
    "another task, loop and machine than this workflow's runs, so they are compared with none of them."
)
NOTES = (
    "One run each, so there is no interval.",
    "Peak memory: the accelerator's reserved memory at its highest (torch.cuda.max_memory_reserved), over the whole "
    "process, less what was reserved at its start. It holds the evaluations, which generate in larger batches than "
    "training has, and so may be no memory of training.",
    "Training time: by the clock, from the optimizer's making to the end of the test evaluation, less the evaluations "
    "on the validation split. It holds the generation of the test split's answers and the making of the data, so "
    "ratios of it are none of training: compare the seconds in steps, where the file has them.",
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
    return pd.DataFrame([_cells(row, rows) for row in records(rows)])


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
        "Of it in steps, s": number(row["step_s"]),
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
    lines = [*NOTES, *_told_apart(rows)]
    if (rows["status"] != SUCCESS).any():
        lines.append("A run whose status is not success did not end; its figures are of what it reached.")
    return lines


MOST_ITEMS = 100_000  # of a test split, that a share is taken to be of
DIGITS = 12  # of a share that was not rounded


def items_of(share: float) -> int | None:
    """The fewest items of which this is exactly the share of a whole number; None if there are none, or it was rounded.

    A file does not say how many items its test split has, but the share that is right tells it, unless it was rounded.
    """
    if not 0 < share < 1 or len(repr(float(share)).partition(".")[2].lstrip("0")) < DIGITS:
        return None
    found = Fraction(share).limit_denominator(MOST_ITEMS)
    return found.denominator if float(found) == share else None


def _told_apart(rows: pd.DataFrame) -> list[str]:
    """How far two results of one test split may lie apart by its items alone, where the files tell how many it has.

    Half the 95 % interval of a difference of two shares p of n items, unpaired: 1.96 √(2 p (1 - p) / n).
    """
    known = rows.dropna(subset=["metric", "metric_value"])
    lines = []
    for name, own in known.groupby("metric", sort=False):
        metric, shares = metric_called(name), own["metric_value"].tolist()
        items = [items_of(share) for share in shares] if metric.share else []
        if not items or None in items or (count := math.lcm(*filter(None, items))) > MOST_ITEMS:
            continue
        mean = sum(shares) / len(shares)
        half = 100 * 1.96 * math.sqrt(2 * mean * (1 - mean) / count)
        lines.append(
            f"{metric.label} is a share of {count:,} test items, as its digits tell: by them alone two results of one "
            f"seed each, unpaired, lie up to {half:.1f} points apart by chance (95 %)."
        )
    return lines


def imported_lead(rows: pd.DataFrame) -> list[str]:
    """What stands above the table."""
    return [NOT_MEASURED_HERE]


def imported_data(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Results that were not measured here: the rows of imported.csv, as one chart draws them."""
    return [
        {
            "source": row["source"],
            "status": row["status"],
            "experiment": row["experiment"],
            "method": row["method"],
            "rank": None if pd.isna(row["rank"]) else int(row["rank"]),
            "model": row["model"],
            "dataset": row["dataset"],
            "metric": None if pd.isna(row["metric"]) else row["metric"],
            "metric_value": finite(row["metric_value"]),
            "peak_memory_MiB": finite(row["peak_memory_MiB"]),
            "train_s": finite(row["train_s"]),
        }
        for row in records(rows)
    ]

"""Run summaries as frames, one row per run, one per arm; tables of scripts read back; warnings beside them."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from peft_tradeoffs.analysis.finished import read_summary
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import KEYS as SEAL
from peft_tradeoffs.core.files import REMEDY, restored
from peft_tradeoffs.core.layout import AXES, command, run_folder
from peft_tradeoffs.core.quantities import ANYWHERE, COMPLETED, PARTS, PEAKS, SAME_DEVICE
from peft_tradeoffs.core.text import and_list, arm_label, records, sort_runs, visible
from peft_tradeoffs.tasks.metrics import ACCURACY, Scored
from peft_tradeoffs.tasks.shown import metric_name
from peft_tradeoffs.tasks.task import QUANTITIES, TASKS, Task


def read_table(
    path: Path,
    needed: Iterable[str],
    remedy: str,
    dtype: Mapping[str, Any] | None = None,
    numbers: Iterable[str] = (),
) -> pd.DataFrame:
    """The table; an empty cell is null, and nothing else is.

    `dtype` as pandas has it; `numbers` are columns that must hold numbers, true and false, or nothing. Raises
    InputError, which ends in `remedy`, for a file that is missing, cut, damaged, or lacks a column of `needed`.
    """
    try:
        content = files.read_bytes(path, remedy)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {remedy}") from None
    try:
        _check_whole(content)
        frame = restored(pd.read_csv(io.BytesIO(content), keep_default_na=False, na_values=[""], dtype=dtype))
    except (ValueError, OverflowError, csv.Error) as error:
        raise InputError(f"{path}: not a table of this workflow ({error}); {remedy}") from None
    if missing := [name for name in needed if name not in frame]:
        raise InputError(f"{path}: no column {', '.join(missing)}; {remedy}")
    for name in numbers:
        if name in frame and not _are_numbers(frame[name]):
            raise InputError(f"{path}: column {name} holds more than numbers; {remedy}")
    return frame


def _check_whole(content: bytes) -> None:
    """Raise ValueError for a table that ends in mid-line, or with a line of more or fewer cells than it has columns."""
    text = content.decode("utf-8")
    if not text.endswith("\n"):
        raise ValueError("it is cut off: its last line has no end")
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    columns = len(next(rows, []))
    for row in rows:
        if row and len(row) != columns:
            raise ValueError(f"line {rows.line_num} has {len(row)} cells, the table {columns} columns")


def _are_numbers(values: pd.Series) -> bool:
    return values.dtype.kind in "iufb" or all(isinstance(value, bool) for value in values.dropna())


SPLIT = tuple(f"{part}_MiB" for part in PARTS)
TENSORS = "tensors_MiB"  # the sum of SPLIT
ADDED = (TENSORS, "gpus", "parallel", "train_gpu_s")  # columns that tables of earlier versions lack
MEASURED_SPLIT = tuple(f"{part}_measured_MiB" for part in PARTS)
IDENTITY = tuple(name for name, quantity in QUANTITIES.items() if quantity.kind == "identity")
COLUMNS = (*IDENTITY, *(name for name in QUANTITIES if name not in IDENTITY))
SETTINGS = [name for name, quantity in QUANTITIES.items() if quantity.kind == "setting"]
# In tables of arms what marks an energy stands behind what marks times.
SETTINGS.insert(SETTINGS.index("stood_still_s") + 1, SETTINGS.pop(SETTINGS.index("energy_window_short")))
AVERAGED = {name: quantity for name, quantity in QUANTITIES.items() if quantity.averaged}
# What does not depend on the machine, so that runs of one arm on different machines may be averaged.
QUALITY = tuple(name for name, quantity in AVERAGED.items() if quantity.comparable == ANYWHERE)
# What is taken before training, the same whatever engine trains.
BEFORE_TRAINING = tuple(name for name, quantity in AVERAGED.items() if quantity.comparable == SAME_DEVICE)
# How columns of runs are read: texts, whole numbers that may be null; those that hold numbers.
KINDS = {name: object for name, quantity in QUANTITIES.items() if quantity.type in ("string", "object")} | {
    name: "Int64" for name, quantity in QUANTITIES.items() if quantity.type == "integer" and quantity.null is not None
}
NUMBERS = tuple(name for name in COLUMNS if name not in KINDS)
ARM = ["dataset", "model", "arm"]
# The keys of the reported metric and of the number of examples, by split.
OF_SPLIT = {"test": ("metric_value", "test_rows"), "heldout": ("heldout_metric_value", "heldout_rows")}


def memory_key(device: Any) -> str:
    """The column of runs that "memory" means on a device ("cpu" or "cuda")."""
    return "probe_peak_allocated_MiB" if device == "cuda" else TENSORS


def peak_key(device: Any, phase: str = "probe") -> str:
    """The column of runs that has the highest memory of a phase on a device, libraries of a CPU's process too."""
    return f"{phase}_{'peak_allocated' if device == 'cuda' else 'peak_rss'}_MiB"


def random_weights(rows: pd.DataFrame) -> bool:
    """Whether runs or arms among these rows started from random weights: speed and memory only."""
    return bool(rows["pretrained"].astype(str).str.contains("False").any())


def first(values: pd.Series) -> Any:
    """The first value that is not null, or None."""
    values = values.dropna()
    return values.iloc[0] if len(values) else None


def read_summaries(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Read summary.json files, each once. Raises InputError, one line per file, for those that no run left so."""
    summaries, problems = [], []
    for path in paths:
        try:
            summaries.append(read_summary(path))
        except FileNotFoundError:
            raise InputError(f"{path}: no such summary; run `{command('runs')}` first") from None
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError("\n".join(problems))
    if not summaries:
        raise InputError("no run summaries given: the list of summary.json paths is empty")
    return summaries


def typed(values: pd.Series) -> pd.Series:
    """A column of JSON values as Int64 (all whole numbers), float64 (numbers, or all null) or object."""
    kinds = {type(value) for value in values if value is not None and value == value}
    if kinds == {int}:
        return values.astype("Int64")
    return values.astype(float) if kinds <= {int, float} else values


def runs_frame(summaries: list[dict[str, Any]]) -> pd.DataFrame:
    """One row per run, columns as in COLUMNS, then keys this version does not know; null_reasons as JSON last.

    The keys of the seal are left out. differs is null: contract.with_differences fills it in.

    Raises InputError if a run is there twice or the runs of one data set and model differ in metric.
    """
    known = {*COLUMNS, *SEAL}
    extra = dict.fromkeys(key for summary in summaries for key in summary if key not in known)
    columns = [*COLUMNS[:-1], *extra, "null_reasons"]
    data = {key: pd.Series([summary.get(key) for summary in summaries], dtype=object) for key in columns}
    data["null_reasons"] = data["null_reasons"].map(
        lambda reasons: json.dumps(reasons or {}, sort_keys=True, ensure_ascii=False)
    )
    runs = pd.DataFrame({key: typed(values) for key, values in data.items()})
    runs[TENSORS] = _tensors(runs)
    check(runs)
    return sort_runs(runs)


def _tensors(runs: pd.DataFrame) -> pd.Series:
    """MiB of weights, gradients, optimizer's state and activations; null where one of them is."""
    return runs[list(SPLIT)].astype(float).sum(axis=1, skipna=False)


def as_of_today(runs: pd.DataFrame) -> pd.DataFrame:
    """These runs with what a table of an earlier version lacks: the sum of their tensors; each had one GPU then."""
    if TENSORS not in runs and set(SPLIT) <= set(runs):
        runs.insert(list(runs).index(SPLIT[-1]) + 1, TENSORS, _tensors(runs))
    if "gpus" not in runs and {"device", "train_s"} <= set(runs):
        runs = runs.assign(gpus=1, parallel=None, train_gpu_s=runs["train_s"].where(runs["device"].eq("cuda")))
    return runs


def with_tensors(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary with what tables have beside it, the sum of its tensors; null where a part is."""
    parts = [summary[key] for key in SPLIT]
    return {**summary, TENSORS: None if None in parts else sum(parts)}


def check(runs: pd.DataFrame) -> None:
    """Raise InputError for a run that is there twice, or for runs that no table may compare."""
    twice = runs[runs.duplicated([*ARM, "seed"])]
    if len(twice):
        name = "/".join(str(value) for value in twice.iloc[0][[*ARM, "seed"]])
        raise InputError(f"run {name} is given twice: list each summary once")
    metrics: dict[tuple[str, str], list[str]] = {}
    for row in records(runs.dropna(subset="metric")):
        names = metrics.setdefault((row["dataset"], row["model"]), [])
        if (name := metric_name(row)) not in names:
            names.append(name)
    for (dataset, model), names in metrics.items():
        if len(names) > 1:
            raise InputError(
                f"runs of {dataset}/{model} report different metrics ({', '.join(names)}): "
                "run the older ones again or remove their folders"
            )


def read_runs(path: Path) -> pd.DataFrame:
    """Read a runs.csv that `runs_frame` made. Raises InputError if it is missing, damaged or lacks columns."""
    remedy = "make it again with make_tables.py"
    needed = [name for name in COLUMNS if name not in ADDED]
    runs = as_of_today(read_table(path, needed, remedy, KINDS, NUMBERS))
    if empty := [key for key in IDENTITY if key != "rank" and runs[key].isna().any()]:
        raise InputError(f"{path}: a run without {', '.join(empty)}; {remedy}")
    for text in runs["null_reasons"].unique():
        try:
            right = isinstance(json.loads(text), dict)
        except (ValueError, TypeError, RecursionError):
            right = False
        if not right:
            raise InputError(f"{path}: null_reasons cannot be {files.shown(text)}; {remedy}")
    return runs


def arms_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per (data set, model, arm) in the order of `runs`.

    Columns: dataset, model, arm, method, rank, n (completed runs), n_failed, failures ("oom 2; diverged 1"),
    the settings once (several values are joined with "; "), then {key}_mean, {key}_sd (ddof=1, null with one
    run) and {key}_n (completed runs that have a value) a measurement. Measurements that depend on the machine or
    the engine are null, with {key}_n 0, where the completed runs of an arm ran on different ones; a run that
    itself ran on GPUs of different models (mixed_gpus) has no part in them.
    """
    groups = runs.groupby(ARM, sort=False)
    completed = runs["status"] == COMPLETED
    done = runs[completed]
    arms = groups[["method", "rank"]].first()
    arms["n"] = completed.groupby([runs[key] for key in ARM], sort=False).sum()
    arms["n_failed"] = groups.size() - arms["n"]
    failed = runs[~completed].groupby(ARM, sort=False)["status"].value_counts().reset_index(level="status")
    words = [f"{status} {count}" for status, count in zip(failed["status"], failed["count"], strict=True)]
    texts = pd.Series(words, failed.index, dtype=object).groupby(level=ARM, sort=False)
    arms["failures"] = texts.agg("; ".join).reindex(arms.index) if len(failed) else None

    settings = groups[SETTINGS].first()
    several = groups[SETTINGS].nunique() > 1
    for key in several.columns[several.any()]:
        settings[key] = settings[key].astype(object)
        for arm in several.index[several[key]]:
            values = groups.get_group(arm)[key].dropna().unique()
            settings.at[arm, key] = "; ".join(str(value) for value in values)

    new = [str(key) for key in runs if key not in COLUMNS and runs[key].dtype.kind in "if"]
    keys = [*AVERAGED, *new]
    numbers, on_one = done[keys].astype(float), ~done["mixed_gpus"].eq(True)
    numbers.loc[~on_one, [key for key in keys if key not in QUALITY]] = math.nan
    by_arm = done[ARM].join(numbers).groupby(ARM, sort=False)[keys]
    mean, sd, count = (table.reindex(arms.index) for table in (by_arm.mean(), by_arm.std(ddof=1), by_arm.count()))
    timed = done[on_one]
    machine = timed["device"].astype(str) + " " + timed["device_name"].astype(str)
    for differing, alike in ((machine, QUALITY), (timed["engine"], (*QUALITY, *BEFORE_TRAINING))):
        mixed = differing.groupby([timed[key] for key in ARM], sort=False).nunique().reindex(arms.index) > 1
        dependent = [key for key in keys if key not in alike]
        mean.loc[mixed, dependent] = math.nan
        sd.loc[mixed, dependent] = math.nan
        count.loc[mixed, dependent] = 0
    measured: dict[str, pd.Series] = {}
    for key in keys:
        measured |= {
            f"{key}_mean": mean[key],
            f"{key}_sd": sd[key],
            f"{key}_n": count[key].fillna(0).astype("int64"),
        }
    return pd.concat([arms, settings, pd.DataFrame(measured)], axis=1).reset_index()


def memory_frame(arms: pd.DataFrame) -> pd.DataFrame:
    """The columns of `arms_frame` that say what memory went to, MiB, and what it depends on."""
    settings = ["pretrained", "device", "device_name", "precision", "optimizer", "dtype", "frozen_linear_dtype"]
    settings += ["batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "differs"]
    peaks = [f"probe_{peak}_MiB" for peak in PEAKS]
    keys = [*SPLIT, *MEASURED_SPLIT, *peaks, "data_MiB", "held_before_MiB"]
    measured = [f"{key}_{part}" for key in keys for part in ("mean", "sd", "n")]
    return arms[[*ARM, "method", "rank", "n", "n_failed", "failures", *settings, *measured]]


def read_scored(path: Path, task: Task, count: int) -> Scored:
    """A predictions file of a run of a task, on `count` rows; InputError for one that no run wrote so.

    Whether it is as the run published it, `finished.verified` says.
    """
    try:
        table = pd.read_csv(path, dtype=dict(task.columns))
    except ValueError as error:
        raise InputError(f"{path}: not a run's predictions ({error}); {REMEDY}") from None
    return task.read(path, {str(name): values.to_numpy() for name, values in table.items()}, count)


Pair = tuple[str, str]  # data set and model
LEAST_SPREAD = 0.01  # standard deviation of predicted values, as a share of the targets'
SKIPPED, SKIPPED_SHARE = 5, 0.01  # of the steps of a run: more is not how a loss scale finds its size
FETCH = "delete it and run `{}`"
TOKENIZE = "delete it, and the next call makes it again"
WARNINGS: dict[str, tuple[type, ...]] = {"warnings": (list,)}  # of every description
DESCRIPTION: dict[str, tuple[type, ...]] = {"labels": (list, type(None))} | WARNINGS  # of dataset.json


def warnings_by_pair(
    runs: pd.DataFrame, runs_dir: Path, data_dir: Path | None, tokens_dir: Path | None = None
) -> dict[Pair, list[str]]:
    """Plain sentences by (data set, model) of `runs_frame`: what data and tokens warn of, then the runs.

    `data_dir` holds {dataset}/dataset.json, `tokens_dir` {dataset}/{model}.json; None: nothing of them is asked. Raises
    InputError for a description that is broken; one that is not there is a warning.
    """
    described = {name: _described(data_dir, name) for name in runs["dataset"].unique()}
    return {
        (str(dataset), str(model)): [
            *map(visible, described[dataset]["warnings"]),
            *map(visible, _of_tokens(tokens_dir, str(dataset), str(model))),
            *prediction_warnings(own, runs_dir, described[dataset]["labels"]),
            *update_warnings(own),
        ]
        for (dataset, model), own in runs.groupby(["dataset", "model"], sort=False)
    }


def constant(runs: pd.DataFrame) -> pd.Series:
    """Which completed runs give every test row the same answer, and a wrong one to some; of values: nearly the same.

    A run of which that is not known, one of random weights say, is none of them; nor is one of a single test row.
    """
    same = runs["constant_prediction"].astype(str).eq("True") & ~runs[ACCURACY.name].astype(float).eq(1)
    if "prediction_spread" in runs:
        same |= runs["prediction_spread"].astype(float) < LEAST_SPREAD
    return same & runs["status"].eq(COMPLETED) & runs["test_rows"].gt(1)


def prediction_warnings(runs: pd.DataFrame, runs_dir: Path, classes: list[Any] | None) -> list[str]:
    """One sentence for the arms that give the same constant answer in as many seeds; `runs` are of one pair."""
    same: dict[tuple[str, int, int], list[str]] = {}
    flat = constant(runs)
    for _, own in runs.groupby(ARM, sort=False):
        found = own[flat[own.index]]
        if len(found):
            answers = {_answer(run, runs_dir, classes) for run in records(found)}
            said = answers.pop() if len(answers) == 1 else TASKS[own["task"].iloc[0]].answer(None, classes)
            count = (len(found), int(own["status"].eq(COMPLETED).sum()))
            same.setdefault((said, *count), []).append(arm_label(own["method"].iloc[0], own["rank"].iloc[0]))
    return [_sentence(arms, *what) for what, arms in same.items()]


def update_warnings(runs: pd.DataFrame) -> list[str]:
    """Sentences about steps that fp16 skipped, where they are more than a few, and about memory that no peak holds."""
    said = []
    if "skipped_steps" in runs:
        worst: dict[str, float] = {}
        for run in records(runs.dropna(subset=["skipped_steps", "steps"])):
            skipped, arm = int(run["skipped_steps"]), arm_label(run["method"], run["rank"])
            if skipped > SKIPPED and skipped > SKIPPED_SHARE * run["steps"]:
                worst[arm] = max(skipped / run["steps"], worst.get(arm, 0.0))
        parts = [f"{arm} up to {100 * share:.0f} %" for arm, share in worst.items()]
        if parts:
            said.append(
                f"Some runs skipped many steps, whose gradients overflowed in fp16 ({and_list(parts)} of a run's): "
                "they learned from fewer steps than the others."
            )
    if "optimizer" in runs and (paged := runs["optimizer"].astype(str).str.startswith("paged")).any():
        said.append(
            f"No memory peak holds the optimizer's state of {runs.loc[paged, 'optimizer'].iloc[0]} (column "
            "optimizer_MiB): arms that train more weights need more than their peaks show."
        )
    return said


def warnings_of(warnings: dict[Pair, list[str]], rows: pd.DataFrame) -> list[str]:
    """The warnings of the data set and model that all these rows are of."""
    return warnings.get(tuple(rows.iloc[0][["dataset", "model"]]), [])


def _sentence(arms: list[str], said: str, count: int, of: int) -> str:
    verb, whose = ("predicts", "its") if len(arms) == 1 else ("predict", "their")
    where = f"{count} of {of} seeds" if count < of else f"all {of} seeds" if of > 1 else f"{whose} only seed"
    return (
        f"{and_list(arms)} {verb} {said} for every test row in {where}: there the answer does not depend on the text."
    )


def _answer(run: dict[str, Any], runs_dir: Path, classes: list[Any] | None) -> str:
    """What a constant run predicts, in words."""
    path = run_folder(runs_dir, *(run[axis] for axis in AXES)) / files.PREDICTIONS
    try:
        with path.open(encoding="utf-8") as file:
            predicted = next(csv.DictReader(file))["prediction"]
    except (OSError, StopIteration, KeyError, ValueError, csv.Error):
        predicted = None  # whoever compares the runs says what is wrong with the file
    return visible(TASKS[run["task"]].answer(predicted, classes))


def _described(data_dir: Path | None, dataset: str) -> dict[str, Any]:
    """What dataset.json says, its warnings and labels checked."""
    nothing: dict[str, Any] = {"labels": None, "warnings": []}
    if data_dir is None:
        return nothing
    path = data_dir / dataset / "dataset.json"
    missing = (
        f"{path} is not there, so warnings about the data set '{dataset}' are not known, nor whether its rows have "
        "groups."
    )
    try:
        return _description(path, nothing, DESCRIPTION, "a data set's description", FETCH.format(command("fetch")))
    except FileNotFoundError:
        return nothing | {"warnings": [missing]}


def _of_tokens(tokens_dir: Path | None, dataset: str, model: str) -> list[str]:
    """What the description of a model's tokens warns of."""
    if tokens_dir is None:
        return []
    path = tokens_dir / dataset / f"{model}.json"
    try:
        found = _description(path, {"warnings": []}, WARNINGS, "a description of tokens", TOKENIZE)
    except FileNotFoundError:
        return [f"{path} is not there, so which texts of '{dataset}' were cut or left out is not known."]
    warnings: list[str] = found["warnings"]
    return warnings


def _description(
    path: Path, nothing: dict[str, Any], needed: dict[str, tuple[type, ...]], what: str, remedy: str
) -> dict[str, Any]:
    """A description that a step wrote, `nothing` where an earlier version said nothing; its warnings are texts.

    Raises InputError for one that is broken, FileNotFoundError where there is none.
    """
    found = files.read_json(path, remedy)
    if isinstance(found, dict):
        found = nothing | found
    checked = files.check_object(path, found, needed, what, remedy)
    if not all(isinstance(text, str) for text in checked["warnings"]):
        raise InputError(f"{path}: not {what}: warnings holds more than texts; {remedy}")
    return checked

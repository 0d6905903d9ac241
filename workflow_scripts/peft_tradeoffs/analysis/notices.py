"""Warnings that stand beside results: those of the data sets' descriptions, and runs whose predictions are constant."""

import csv
from pathlib import Path
from typing import Any

import pandas as pd

from peft_tradeoffs.analysis.tables import ARM, COMPLETED
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import AXES, run_folder
from peft_tradeoffs.core.text import and_list, arm_label, records, visible
from peft_tradeoffs.tasks.metrics import ACCURACY
from peft_tradeoffs.tasks.task import TASKS

Pair = tuple[str, str]  # data set and model
LEAST_SPREAD = 0.01  # standard deviation of predicted values, as a share of the targets'
REMEDY = "delete it and run the workflow's target `fetch`"
KINDS = {"labels": (list, type(None)), "warnings": (list,)}  # of dataset.json


def warnings_by_pair(runs: pd.DataFrame, runs_dir: Path, data_dir: Path | None) -> dict[Pair, list[str]]:
    """Plain sentences by (data set, model) of `runs_frame`: what the data set's description warns of, then `constant`.

    `data_dir` holds {dataset}/dataset.json; None: nothing of the data is asked. Raises InputError for a description
    that is broken; one that is not there is a warning.
    """
    described = {name: _described(data_dir, name) for name in runs["dataset"].unique()}
    return {
        (str(dataset), str(model)): [
            *map(visible, described[dataset]["warnings"]),
            *prediction_warnings(own, runs_dir, described[dataset]["labels"]),
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


def of_rows(warnings: dict[Pair, list[str]], rows: pd.DataFrame) -> list[str]:
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
    path = run_folder(runs_dir, *(run[axis] for axis in AXES)) / "predictions.csv"
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
    try:
        found = files.read_json(path, REMEDY)
    except FileNotFoundError:
        missing = (
            f"{path} is not there, so warnings about the data set '{dataset}' are not known, nor whether its rows have "
            "groups."
        )
        return nothing | {"warnings": [missing]}
    if isinstance(found, dict):
        found = nothing | found  # an earlier version knew no warnings
    found = files.check_object(path, found, KINDS, "a data set's description", REMEDY)
    if not all(isinstance(text, str) for text in found["warnings"]):
        raise InputError(f"{path}: not a data set's description: warnings holds more than texts; {REMEDY}")
    return found

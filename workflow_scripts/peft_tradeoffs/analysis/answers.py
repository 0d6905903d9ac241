"""What a reference keeps of its answers: which rows each run, and each trial, was right on, one bit per row."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.comparison import PREDICTIONS, Predicted, Predictions, read_predictions
from peft_tradeoffs.analysis.finished import verified
from peft_tradeoffs.analysis.tables import COMPLETED, OF_SPLIT
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import atomic
from peft_tradeoffs.core.text import groups_of, records
from peft_tradeoffs.runs.tuning import Gap, eligible, failed_again, gap, trial_folder
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.tasks.metrics import ACCURACY, METRICS

ANSWERS = "answers.npz"
DEV = "dev"  # of the first trials; dev1 and so on of those that were made again
REMEDY = "store the reference again"


@dataclass(frozen=True)
class Answers:
    """The answers of several runs, or trials, on the same n rows."""

    rows: np.ndarray  # int [n], in the source
    labels: np.ndarray  # int [n]
    groups: np.ndarray | None  # int [n] from 0
    right: dict[str, np.ndarray]  # by "arm/seed0" or "arm/lr0.001": bool [n]


Kept = dict[str, Answers]  # by "dataset/model/split"
Groups = Callable[[str, str, np.ndarray], np.ndarray | None]  # of rows [n] of a data set's split: [n] from 0, or None


def of_runs(runs: pd.DataFrame, predictions: Predictions, groups: Groups) -> Kept:
    """Those of completed runs whose metric is a share of right answers; `predictions` without groups."""
    found: Kept = {}
    known = {name for name, metric in METRICS.items() if metric.share}
    done = runs[runs["status"].eq(COMPLETED) & runs["pretrained"].eq(True) & runs["metric"].isin(known)]
    for (dataset, model), own in groups_of(done, ["dataset", "model"]):
        for split, (metric, examples) in OF_SPLIT.items():
            of_split = own.assign(split=split, metric_value=own[metric], test_rows=own[examples])
            for run in records(of_split[of_split[examples].notna()]):
                of_run = predictions(run, split)
                _add(found, f"{dataset}/{model}/{split}", f"{run['arm']}/seed{run['seed']}", of_run)
    return {place: replace(one, groups=groups(*_source(place), one.rows)) for place, one in found.items()}


def of_trials(tunings: list[dict[str, Any]], folder: Path, groups: Groups) -> Kept:
    """Those of trials; `tunings` are what tune.py wrote, `folder` holds {dataset}/{model}/{arm} of their trials."""
    found: Kept = {}
    sources = {}
    for tuning in tunings:
        if METRICS[tuning["metric"]].share:
            for place, name, path in _trials(tuning, folder):
                summary = verified(path.parent, path.name, place=False)
                _add(found, place, name, read_predictions(path, summary, place=False))
                sources[place] = (tuning["dataset"], tuning["dev"])
    return {place: replace(one, groups=groups(*sources[place], one.rows)) for place, one in found.items()}


def _add(found: Kept, place: str, name: str, of_run: Predicted) -> None:
    assert of_run.right is not None  # of a metric that is a share, read without groups
    kept = found.setdefault(place, Answers(of_run.rows, of_run.labels, None, {}))
    kept.right[name] = of_run.right


def _source(place: str) -> tuple[str, str]:
    dataset, _, split = place.split("/")
    return dataset, split


def _trials(tuning: dict[str, Any], folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Of each trial that gave a metric its place among what is kept, its name and its predictions."""
    dataset, model, arm = (tuning[axis] for axis in ("dataset", "model", "arm"))
    for trial in eligible([*tuning["trials"], *tuning["retries"]]):
        number = trial.get("retry", 0)
        place = trial_folder(folder / dataset / model / arm, trial["learning_rate"], number)
        yield f"{dataset}/{model}/{DEV}{number or ''}", f"{arm}/{place.name}", place / PREDICTIONS["test"]


def write(kept: Kept, path: Path) -> None:
    """Write them as .npz: {place}/rows, /labels, /groups, /names, and /right, bits [names, ceil(n / 8)]."""
    arrays: dict[str, np.ndarray] = {}
    for place, of_place in kept.items():
        arrays[f"{place}/rows"] = of_place.rows.astype(np.int32)
        arrays[f"{place}/labels"] = of_place.labels.astype(np.int16)
        if of_place.groups is not None:
            arrays[f"{place}/groups"] = of_place.groups.astype(np.int32)
        arrays[f"{place}/names"] = np.array(list(of_place.right))
        arrays[f"{place}/right"] = np.packbits(np.stack(list(of_place.right.values())), axis=1)
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type] # numpy's stub takes names for its own option


def read(path: Path) -> Kept:
    """What `write` wrote. Raises InputError for a file that is missing or not that."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        places = dict.fromkeys(name.rpartition("/")[0] for name in arrays)
        return {place: _read(place, arrays) for place in places}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {REMEDY}") from None
    except Exception as error:  # of numpy and zipfile, as they please
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: not the answers of a reference ({what}); {REMEDY}") from None


def _read(place: str, arrays: Mapping[str, np.ndarray]) -> Answers:
    rows = arrays[f"{place}/rows"]
    bits = np.unpackbits(arrays[f"{place}/right"], axis=1, count=len(rows)).astype(bool)
    names = arrays[f"{place}/names"].tolist()
    right = dict(zip(names, bits, strict=True))
    return Answers(rows, arrays[f"{place}/labels"].astype(int), arrays.get(f"{place}/groups"), right)


def predictions_of(kept: Kept) -> Predictions:
    """What `comparison.read_predictions` gives of a run with its groups, of what is kept."""

    def predicted(run: dict[str, Any], split: str) -> Predicted:
        name = f"{run['arm']}/seed{run['seed']}"
        of_place = kept.get(f"{run['dataset']}/{run['model']}/{split}")
        if of_place is None or name not in of_place.right:
            raise InputError(f"{run['dataset']}/{run['model']}/{name}: no answers on {split} are kept; {REMEDY}")
        right = of_place.right[name]
        groups, grouped = of_place.groups, of_place.groups is not None
        own = np.arange(len(right)) if groups is None else groups
        of_class = (of_place.labels == label for label in np.unique(of_place.labels))
        rarest = min(len(np.unique(own[rows])) for rows in of_class)
        return Predicted(
            of_place.rows, of_place.labels, None if grouped else right, contributions(right, groups), rarest, grouped
        )

    return predicted


def contributions(right: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """What each row, or group, adds to the share of right answers."""
    return ACCURACY.contributions(metrics.Answers(np.ones(len(right), int), right.astype(int), 2), groups)


def gaps(tuning: dict[str, Any], kept: Kept, same_rows: bool) -> dict[float, Gap]:
    """By rate how far others lie below the one that was chosen, of what is kept: as tune.py found it."""
    chosen = _answers(tuning, kept, tuning["learning_rate"])
    found = {}
    failed = failed_again(tuning["retries"])
    for trial in eligible(tuning["trials"]):
        rate = trial["learning_rate"]
        other = _answers(tuning, kept, rate)
        shared = [place for place in chosen if place in other]
        if rate != tuning["learning_rate"] and shared and rate not in failed:
            parts = [(chosen[place], other[place]) for place in shared]
            values = [(float(one.mean()), float(two.mean())) for one, two in parts]
            groups = {place: kept[place].groups for place in shared}
            of_rows = [
                (contributions(one, groups[place]), contributions(two, groups[place]))
                for place, (one, two) in zip(shared, parts, strict=True)
            ]
            found[rate] = gap(values, of_rows, True, same_rows)
    return found


def _answers(tuning: dict[str, Any], kept: Kept, rate: float) -> dict[str, np.ndarray]:
    """By place which dev rows an arm's trials of a rate were right on; the first trials' first."""
    dataset, model, name = tuning["dataset"], tuning["model"], str(trial_folder(Path(tuning["arm"]), rate))
    places = [f"{dataset}/{model}/{DEV}{number}" for number in ("", *range(1, 21))]
    return {place: kept[place].right[name] for place in places if place in kept and name in kept[place].right}

"""A reference: the runs of a finished sweep, their noise floor and what they ran on, small enough to be committed.

And that noise floor: the same arm with the same seed, again and again.

It keeps of its answers which rows each run, and each trial, was right on, one bit per row.
"""

import csv
import datetime
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.comparison import Predicted, Predictions, read_predictions
from peft_tradeoffs.analysis.finished import (
    check_all,
    has_weights,
    predictions_sha256,
    verified,
    weights_sha256,
)
from peft_tradeoffs.analysis.finished import read_env as read_env_json
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
from peft_tradeoffs.analysis.tables import (
    ARM,
    COMPLETED,
    IDENTITY,
    KINDS,
    NUMBERS,
    OF_SPLIT,
    as_of_today,
    random_weights,
    read_scored,
    read_table,
    runs_frame,
)
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import atomic, to_csv
from peft_tradeoffs.core.layout import AXES, run_folder
from peft_tradeoffs.core.text import arm_label, groups_of, records
from peft_tradeoffs.runs.plan import Gap, eligible, failed_again, gap, trial_folder
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.tasks.metrics import ACCURACY, METRICS, metric_called
from peft_tradeoffs.tasks.shown import metric_label
from peft_tradeoffs.tasks.task import DEFAULT, LABEL, TASKS

RUNS, NOISE, ENV = "runs.csv", "noise.csv", "env.json"
ANSWERS, TUNINGS, FACTORIALS = "answers.npz", "tunings.json", "factorials.json"
FILES = (RUNS, NOISE, ANSWERS, TUNINGS, FACTORIALS)
AGAIN = "put back what is missing, or store the reference again"
STORE = "store the reference again"
SHOWN = 5  # names in a sentence
DEV = "dev"  # of the first trials; dev1 and so on of those that were made again
# Of a run's env.json: what decides its result or its cost, and does not change from job to job.
FACTS = (
    *("device", "device_name", "cpu", "threads", "python", "platform", "cuda_runtime_version", "cudnn_version"),
    *("attention_mask", "data_sha256", "model_sha256", "code_sha256"),
)
GPU_FACTS = (
    *("driver_version", "cuda_driver_version", "power_limit_W", "max_sm_clock_MHz", "max_memory_clock_MHz"),
    *("memory_MiB", "mig_mode", "mig_instance", "compute_mode", "persistence_mode"),
)
NEEDED = {RUNS: (*IDENTITY, "metric", "startup_s"), NOISE: (*ARM, "device_name", "quantity", "n", "mean", "sd")}
OF_SUMMARY = ("engine", "engine_reason", "frozen_linear_dtype", "shared_gpu", "mixed_gpus")

Facts = dict[str, list[Any]]  # by name: the values that the runs of an arm have, as a rule one


@dataclass(frozen=True)
class Sweep:
    """What is compared of a sweep."""

    runs: pd.DataFrame  # one row per run, as tables/runs.csv
    noise: pd.DataFrame | None  # as tables/noise.csv
    facts: dict[str, Facts]  # by arm, "dataset/model/arm"
    checksums: dict[str, dict[str, str | None]]  # by run, "dataset/model/arm/seed0": of weights and predictions


def of_runs(runs: pd.DataFrame, runs_dir: Path, noise: Path | None, keep_weights: bool = True) -> Sweep:
    """The sweep whose `runs_frame` this is; raises InputError for a file that is not as its run published it.

    Without `keep_weights` the runs may have lost their weights, whose checksums their summaries keep.
    """
    facts: dict[str, Facts] = {}
    checksums = {}
    for run in records(runs):
        folder = run_folder(runs_dir, *(run[axis] for axis in AXES))
        summary = verified(folder)
        check_all(folder, summary, keep_weights)
        env = read_env_json(folder, summary)
        known = facts.setdefault(arm_name(run), {})
        for name, value in run_facts(env, run).items():
            if value not in known.setdefault(name, []):
                known[name].append(value)
        checksums[run_name(run)] = {"weights": weights_sha256(summary), "predictions": predictions_sha256(summary)}
    return Sweep(runs, None if noise is None else _read_csv(noise), facts, checksums)


def arm_name(row: dict[str, Any]) -> str:
    """ "dataset/model/arm" of a run or an arm."""
    return "/".join(row[axis] for axis in ARM)


def run_name(row: dict[str, Any]) -> str:
    """ "dataset/model/arm/seed0" of a run."""
    return f"{arm_name(row)}/seed{row['seed']}"


def run_facts(env: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """What a run ran on and with, as one value per name: each setting, versions.torch, gpu.driver_version.

    `env` is its env.json, `run` its row of `runs_frame`. Host, ids of jobs and GPUs and the clocks of a moment are
    left out.
    """
    found = {name: env[name] for name in FACTS if name in env}
    gpu = env.get("gpu", {})
    found |= {f"gpu.{name}": gpu[name] for name in GPU_FACTS if name in gpu}
    found["git.commit"] = env.get("git", {}).get("commit")
    for block in ("versions", "flags", "settings"):
        found |= _flat(block, env.get(block, {}))
    for axis in ARM:
        found.pop(f"settings.{axis}", None)
    return found | {f"run.{name}": None if pd.isna(run[name]) else run[name] for name in OF_SUMMARY}


def _flat(name: str, value: Any) -> dict[str, Any]:
    """A JSON value as scalars by dotted name; a list as its JSON."""
    if isinstance(value, dict):
        return {inner: end for key, item in value.items() for inner, end in _flat(f"{name}.{key}", item).items()}
    return {name: json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value}


@dataclass(frozen=True)
class Answers:
    """The answers of several runs, or trials, on the same n rows."""

    rows: np.ndarray  # int [n], in the source
    labels: np.ndarray  # int [n]
    groups: np.ndarray | None  # int [n] from 0
    right: dict[str, np.ndarray]  # by "arm/seed0" or "arm/lr0.001": bool [n]


Kept = dict[str, Answers]  # by "dataset/model/split"
Groups = Callable[[str, str, np.ndarray], np.ndarray | None]  # of rows [n] of a data set's split: [n] from 0, or None


@dataclass(frozen=True)
class Study:
    """What the statistics of a sweep are made of, beside its runs."""

    kept: Kept  # which rows runs and trials were right on
    tunings: list[dict[str, Any]]  # what tune.py wrote
    factorials: dict[str, Any]  # as `attribution_frame` takes them


def store(sweep: Sweep, folder: Path, study: Study | None = None) -> None:
    """Write the sweep as runs.csv, noise.csv (if the floor was measured) and env.json, with the checksums of the rest.

    With a `study` also answers.npz, tunings.json and factorials.json, of which every statistic of the sweep can be made
    again (`benchmarks/study.py`).
    """
    known = dict.fromkeys(name for facts in sweep.facts.values() for name in facts)
    arms = list(sweep.facts)
    common = [
        name for name in known if all(sweep.facts[arm].get(name) == sweep.facts[arms[0]].get(name) for arm in arms)
    ]
    env = {
        "stored_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "common": _written({name: sweep.facts[arms[0]][name] for name in common}),
        "arms": {
            arm: _written({name: values for name, values in sweep.facts[arm].items() if name not in common})
            for arm in arms
        },
        "checksums": sweep.checksums,
    }
    tables = {RUNS: sweep.runs} | ({} if sweep.noise is None else {NOISE: sweep.noise})
    for name, table in tables.items():
        files.write_text(folder / name, to_csv(table))
    names = list(tables)
    if study is not None:
        write_answers(study.kept, folder / ANSWERS)
        files.write_json(folder / TUNINGS, study.tunings)
        files.write_json(folder / FACTORIALS, study.factorials)
        names += [ANSWERS, TUNINGS, FACTORIALS]
    files.write_json(folder / ENV, env | {"files": checksums(folder, names)})


def _written(facts: Facts) -> dict[str, Any]:
    """One value stands alone, several are a list."""
    return {name: values if len(values) > 1 else values[0] for name, values in facts.items()}


def _read(facts: dict[str, Any]) -> Facts:
    return {name: value if isinstance(value, list) else [value] for name, value in facts.items()}


def read(folder: Path) -> Sweep:
    """The sweep that `store` wrote; raises InputError if a file is missing, none of it or not as it was stored."""
    env = read_env(folder)
    try:
        facts = {arm: _read(env["common"] | own) for arm, own in env["arms"].items()}
    except (TypeError, AttributeError) as error:
        raise InputError(f"{folder / ENV}: not of a reference ({error}); {STORE}") from None
    noise = _read_csv(folder / NOISE) if NOISE in env["files"] else None
    return Sweep(_read_csv(folder / RUNS), noise, facts, env["checksums"])


def _read_csv(path: Path) -> pd.DataFrame:
    numbers = (*NUMBERS, "n", "mean", "sd")
    return as_of_today(read_table(path, NEEDED[path.name], STORE, KINDS, numbers))


def checksums(folder: Path, names: list[str]) -> dict[str, str]:
    """SHA-256 of the files that lie beside env.json, as it keeps them."""
    return {name: files.sha256(folder / name) for name in names}


def read_env(folder: Path) -> dict[str, Any]:
    """env.json of a reference, whose other files are as they were stored.

    Raises InputError for a file that is missing, broken or changed; of runs.csv it names the runs that it lost.
    """
    path = folder / ENV
    kinds: dict[str, tuple[type, ...]] = dict.fromkeys(("common", "arms", "checksums", "files"), (dict,))
    what = "of a reference of this version"
    try:
        env = files.read_object(path, kinds, what, STORE)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; a reference is a folder that `snakemake store_reference` made"
        ) from None
    for of_run in env["checksums"].values():
        files.check_object(path, of_run, dict.fromkeys(("weights", "predictions"), (str, type(None))), what, STORE)
    for of_arm in env["arms"].values():
        files.check_object(path, of_arm, {}, what, STORE)
    if strange := [name for name in env["files"] if name not in FILES]:
        raise InputError(f"{path}: names {', '.join(strange)}, which is no file of a reference; {STORE}")
    for name in dict.fromkeys([RUNS, *env["files"]]):
        _check(folder / name, env["files"].get(name), env["checksums"])
    return env


def _check(path: Path, stored: str | None, runs: dict[str, Any]) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file, though the reference was stored with it; {AGAIN}")
    if files.sha256(path) == stored:
        return
    lost = sorted(set(runs) - _runs(path)) if path.name == RUNS else []
    more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
    which = f": it lacks {', '.join(lost[:SHOWN])}{more}" if lost else " (by its SHA-256 in env.json)"
    raise InputError(f"{path}: not as it was stored{which}; {AGAIN}")


def _runs(path: Path) -> set[str]:
    """The runs of a table as "dataset/model/arm/seed0", as far as it can be read."""
    rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8", errors="replace")))
    return {f"{row.get('dataset')}/{row.get('model')}/{row.get('arm')}/seed{row.get('seed')}" for row in rows}


def answers_of_runs(runs: pd.DataFrame, predictions: Predictions, groups: Groups) -> Kept:
    """The answers of completed runs whose metric is a share of right answers; `predictions` without groups."""
    found: Kept = {}
    known = {name for name, metric in METRICS.items() if metric.share}
    done = runs[runs["status"].eq(COMPLETED) & runs["pretrained"].eq(True) & runs["metric"].isin(known)]
    for (dataset, model), own in groups_of(done, ["dataset", "model"]):
        for split, (metric, examples) in OF_SPLIT.items():
            of_split = own.assign(split=split, metric_value=own[metric], test_rows=own[examples])
            for run in records(of_split[of_split[examples].notna()]):
                of_run = predictions(run, split)
                _add_run(found, f"{dataset}/{model}/{split}", f"{run['arm']}/seed{run['seed']}", of_run)
    return {place: replace(one, groups=groups(*_split_of(place), one.rows)) for place, one in found.items()}


def answers_of_trials(tunings: list[dict[str, Any]], folder: Path, groups: Groups) -> Kept:
    """The answers of trials.

    `tunings` are what tune.py wrote, `folder` holds {dataset}/{model}/{arm} of their trials.
    """
    found: Kept = {}
    sources = {}
    for tuning in tunings:
        if METRICS[tuning["metric"]].share:
            for place, name, path in _trials(tuning, folder):
                summary = verified(path.parent, path.name, place=False)
                _add_run(found, place, name, read_predictions(path, summary, place=False))
                sources[place] = (tuning["dataset"], tuning["dev"])
    return {place: replace(one, groups=groups(*sources[place], one.rows)) for place, one in found.items()}


def _add_run(found: Kept, place: str, name: str, of_run: Predicted) -> None:
    assert of_run.right is not None  # of a metric that is a share, read without groups
    kept = found.setdefault(place, Answers(of_run.rows, of_run.labels, None, {}))
    kept.right[name] = of_run.right


def _split_of(place: str) -> tuple[str, str]:
    dataset, _, split = place.split("/")
    return dataset, split


def _trials(tuning: dict[str, Any], folder: Path) -> Iterator[tuple[str, str, Path]]:
    """Of each trial that gave a metric its place among what is kept, its name and its predictions."""
    dataset, model, arm = (tuning[axis] for axis in ("dataset", "model", "arm"))
    for trial in eligible([*tuning["trials"], *tuning["retries"]]):
        number = trial.get("retry", 0)
        place = trial_folder(folder / dataset / model / arm, trial["learning_rate"], number)
        yield f"{dataset}/{model}/{DEV}{number or ''}", f"{arm}/{place.name}", place / files.PREDICTIONS


def write_answers(kept: Kept, path: Path) -> None:
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


def read_answers(path: Path) -> Kept:
    """What `write_answers` wrote. Raises InputError for a file that is missing or not that."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        places = dict.fromkeys(name.rpartition("/")[0] for name in arrays)
        return {place: _answers_at(place, arrays) for place in places}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {STORE}") from None
    except Exception as error:  # of numpy and zipfile, as they please
        what = f"{type(error).__name__}: {error}"
        raise InputError(f"{path}: not the answers of a reference ({what}); {STORE}") from None


def _answers_at(place: str, arrays: Mapping[str, np.ndarray]) -> Answers:
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
            raise InputError(f"{run['dataset']}/{run['model']}/{name}: no answers on {split} are kept; {STORE}")
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
    chosen = _of_rate(tuning, kept, tuning["learning_rate"])
    found = {}
    failed = failed_again(tuning["retries"])
    for trial in eligible(tuning["trials"]):
        rate = trial["learning_rate"]
        other = _of_rate(tuning, kept, rate)
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


def _of_rate(tuning: dict[str, Any], kept: Kept, rate: float) -> dict[str, np.ndarray]:
    """By place which dev rows an arm's trials of a rate were right on; the first trials' first."""
    dataset, model, name = tuning["dataset"], tuning["model"], str(trial_folder(Path(tuning["arm"]), rate))
    places = [f"{dataset}/{model}/{DEV}{number}" for number in ("", *range(1, 21))]
    return {place: kept[place].right[name] for place in places if place in kept and name in kept[place].right}


# The noise floor -----------------------------------------------------------------------------------------------------

VALUE = "metric_value"
NOISE_COLUMNS = (
    *ARM, "method", "rank", "pretrained", "device", "device_name", "n_gpus", "seed", "n_repeats", "n_completed",
    "failures", "identical_weights", "identical_predictions", "largest_logit_difference", "differing_predictions",
    "test_rows", "metric", "positive_class", "quantity", "n", "mean", "sd", "cv_percent", "range", "range_percent",
    "energy_window_short", "shared_gpu", "reason",
)  # fmt: skip
NOISE_WHOLE = ("rank", "n_gpus", "n_repeats", "n_completed", "differing_predictions", "test_rows", "n")
NOISE_NUMBERS = ("largest_logit_difference", "mean", "sd", "cv_percent", "range", "range_percent")


def repeats_frame(repeats: dict[int, list[dict[str, Any]]]) -> pd.DataFrame:
    """One row per run, as `runs_frame`, its number in the column `repeat`; `repeats` has the summaries by number."""
    frames = [runs_frame(summaries).assign(repeat=number) for number, summaries in repeats.items()]
    return pd.concat(frames, ignore_index=True)


def noise_frame(runs: pd.DataFrame, folder: Callable[[dict[str, Any]], Path]) -> pd.DataFrame:
    """One row per (data set, model, arm, quantity), columns as in NOISE_COLUMNS, of the runs of `repeats_frame`.

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
        found = [said | _of_quantity(done, key) for key in _measured(own)]
        rows += found if len(done) else [said | {"reason": "no repeat completed"}]
    frame = pd.DataFrame(rows, columns=list(NOISE_COLUMNS))
    return frame.astype(dict.fromkeys(NOISE_WHOLE, "Int64") | dict.fromkeys(NOISE_NUMBERS, float))


def _measured(runs: pd.DataFrame) -> list[str]:
    """What is measured: the metric, if the model has one, and the costs that tables show."""
    costs = [key for key in cost_keys(runs) if shown(runs.iloc[0], key) and key != "weights_MiB"]  # from tensor sizes
    return costs if random_weights(runs) else [VALUE, *costs]


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
    scored = [read_scored(folder / files.PREDICTIONS, task, summary["test_rows"]) for folder, summary in found_runs]
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
    timed = done if key == VALUE else done[~done["mixed_gpus"].eq(True)]
    if key != VALUE:
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
        scale = metric_called(row["metric"]).scale if row["quantity"] == VALUE else 1.0
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
    name = metric_label(row) if row["quantity"] == VALUE else LABEL[row["quantity"]]
    return mark(row, row["quantity"], name)


def _rounded(value: float) -> str:
    """To one significant digit, to two where the first is 1 or 2: a spread of few runs is itself uncertain."""
    return number(value, supported_decimals(value) if value > 0 else 0)

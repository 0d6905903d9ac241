"""Each arm against the baseline on the same seeds and test examples: differences, intervals, tests, verdicts."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.errors import InputError
from peft_tradeoffs.jackknife import pseudo_values
from peft_tradeoffs.stats import LEVEL, Estimate, holm, mcnemar, over_seeds, over_seeds_and_examples
from peft_tradeoffs.tables import ARM, COMPLETED, random_weights

ALPHA = 1 - LEVEL
BASELINE, EQUIVALENT, BETTER, WORSE, UNDECIDED = "baseline", "equivalent", "better", "worse", "undecided"
COLUMNS = (
    *ARM, "method", "rank", "pretrained", "baseline", "metric", "margin", "test_rows", "n", "n_paired",
    "mean", "sd", "seeds_low", "seeds_high", "low", "high",
    "difference", "difference_seeds_low", "difference_seeds_high", "difference_low", "difference_high",
    "p_different", "p_different_holm", "p_equivalent", "p_equivalent_holm", "smallest_difference", "mcnemar",
    "verdict", "reason",
)  # fmt: skip


@dataclass(frozen=True)
class Predicted:
    """What a run's predictions.csv says of the test split."""

    rows: np.ndarray  # [n] rows in the source
    labels: np.ndarray  # [n]
    predicted: np.ndarray  # [n]
    contributions: np.ndarray  # [n] jackknife pseudo-values of the metric


def read_predictions(path: Path, run: dict[str, Any]) -> Predicted:
    """Read a completed run's predictions. Raises InputError if they are missing, broken or do not give its metric."""
    kind = float if run["task"] == "regression" else int
    remedy = "delete the run's folder and run it again"
    try:
        classes = sum(name.startswith("logit_") for name in pd.read_csv(path, nrows=0).columns)
        table = pd.read_csv(path, usecols=["row", "label", "prediction"], dtype={"label": kind, "prediction": kind})
    except FileNotFoundError:
        raise InputError(f"{path}: missing, though the run's summary stands; {remedy}") from None
    except ValueError as error:
        raise InputError(f"{path}: not a run's predictions ({error}); {remedy}") from None
    labels, predicted = table["label"].to_numpy(), table["prediction"].to_numpy()
    if len(table) != run["test_rows"]:
        raise InputError(f"{path}: {len(table)} rows, but the run's summary says {run['test_rows']}; {remedy}")
    contributions = pseudo_values(labels, predicted, run["metric"], classes)
    return Predicted(table["row"].to_numpy(), labels, predicted, contributions)


def comparison_frame(
    runs: pd.DataFrame, baseline: str, margin: float, predictions: Callable[[dict[str, Any]], Predicted]
) -> pd.DataFrame:
    """One row a (data set, model, arm) in the order of `runs`, columns as in COLUMNS; none where weights are random.

    `baseline` is an arm, `margin` in the metric's unit, `predictions` gives those of a run. Intervals and tests count
    both other seeds and other test examples, those named seeds other seeds alone. Holm's correction is over the arms of
    a data set and model, for each kind of test. Raises InputError for runs that were tested on different examples.
    """
    rows: list[dict[str, Any]] = []
    for _, own in runs.groupby(["dataset", "model"], sort=False):
        if not random_weights(own):
            rows += _compared(own, baseline, margin, predictions)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(("rank", "test_rows", "n", "n_paired"), "Int64"))


def _compared(
    runs: pd.DataFrame, baseline: str, margin: float, predictions: Callable[[dict[str, Any]], Predicted]
) -> list[dict[str, Any]]:
    """The rows of one data set and model."""
    arms = {str(arm): _arm(own, predictions) for arm, own in runs.groupby("arm", sort=False)}
    _check_examples(runs, arms)
    rows = []
    for arm, own in runs.groupby("arm", sort=False):
        row = dict.fromkeys(COLUMNS) | own.iloc[0][[*ARM, "method", "rank", "pretrained", "metric"]].to_dict()
        row |= {"baseline": baseline, "margin": margin, **_alone(arms[str(arm)])}
        if arm == baseline:
            row["verdict"] = BASELINE
        else:
            row |= _against(arms[str(arm)], arms.get(baseline, {}), margin)
        rows.append(row)
    for test in ("p_different", "p_equivalent"):
        p = np.array([math.nan if row[test] is None else row[test] for row in rows])
        for row, adjusted in zip(rows, holm(p), strict=True):
            row[f"{test}_holm"] = None if math.isnan(adjusted) else adjusted
    for row in rows:
        row["verdict"] = row["verdict"] or _verdict(row)
    return rows


Runs = dict[int, tuple[float, Predicted]]  # by seed: the metric and the predictions


def _arm(runs: pd.DataFrame, predictions: Callable[[dict[str, Any]], Predicted]) -> Runs:
    done = runs[(runs["status"] == COMPLETED) & runs["metric_value"].notna()]
    return {run["seed"]: (run["metric_value"], predictions(run)) for run in done.to_dict("records")}


def _check_examples(runs: pd.DataFrame, arms: dict[str, Runs]) -> None:
    found = [(arm, seed, of_run) for arm, seeds in arms.items() for seed, (_, of_run) in seeds.items()]
    for arm, seed, of_run in found[1:]:
        first = found[0][2]
        if not (np.array_equal(of_run.rows, first.rows) and np.array_equal(of_run.labels, first.labels)):
            name = "/".join(runs.iloc[0][["dataset", "model"]])
            raise InputError(
                f"runs {name}/{found[0][0]}/seed{found[0][1]} and {name}/{arm}/seed{seed} were tested on different "
                "examples or labels: one is of other data; delete its folder and run it again"
            )


def _alone(runs: Runs) -> dict[str, Any]:
    """Mean and intervals of an arm."""
    if not runs:
        return {"n": 0}
    values = np.array([value for value, _ in runs.values()])
    found = {"n": len(runs), "test_rows": len(next(iter(runs.values()))[1].rows), "mean": float(values.mean())}
    seeds = over_seeds(values)
    if seeds is None:
        return found
    both = over_seeds_and_examples(np.stack([of_run.contributions for _, of_run in runs.values()]))
    return {
        **found,
        "sd": float(values.std(ddof=1)),
        **_bounds("seeds", seeds),
        **_bounds("", replace(both, value=seeds.value)),
    }


def _against(runs: Runs, baseline: Runs, margin: float) -> dict[str, Any]:
    """Difference to the baseline over the seeds that both have."""
    shared = [seed for seed in runs if seed in baseline]
    found: dict[str, Any] = {"n_paired": len(shared)}
    if not shared:
        return {**found, "reason": "no seed that this arm and the baseline have both completed"}
    differences = np.array([runs[seed][0] - baseline[seed][0] for seed in shared])
    pairs = [(runs[seed][1], baseline[seed][1]) for seed in shared]
    found["difference"] = float(differences.mean())
    if np.issubdtype(pairs[0][0].labels.dtype, np.integer):
        p = [mcnemar(one.predicted == one.labels, other.predicted == other.labels) for one, other in pairs]
        found["mcnemar"] = "; ".join(f"{value:.4g}" for value in p)
    seeds = over_seeds(differences)
    if seeds is None:
        return {**found, "reason": "one seed: nothing says how much another would differ"}
    both = over_seeds_and_examples(np.stack([one.contributions - other.contributions for one, other in pairs]))
    both = replace(both, value=seeds.value)
    return {
        **found,
        **_bounds("difference_seeds", seeds),
        **_bounds("difference", both),
        "p_different": both.p_different(),
        "p_equivalent": both.p_equivalent(margin),
        "smallest_difference": both.smallest_difference(),
    }


def _bounds(name: str, estimate: Estimate) -> dict[str, float]:
    low, high = estimate.interval()
    prefix = f"{name}_" if name else ""
    return {f"{prefix}low": low, f"{prefix}high": high}


def _verdict(row: dict[str, Any]) -> str | None:
    """What the tests say at 5 %, Holm-corrected; None where there are none."""
    if row["p_different"] is None:
        return None
    if row["p_equivalent_holm"] < ALPHA:
        return EQUIVALENT
    if row["p_different_holm"] < ALPHA:
        return BETTER if row["difference"] > 0 else WORSE
    return UNDECIDED

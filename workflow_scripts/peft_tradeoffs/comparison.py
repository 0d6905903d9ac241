"""Each arm against the baseline on the same seeds and test examples: differences, intervals, tests, verdicts."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.errors import InputError
from peft_tradeoffs.jackknife import metric_of, pseudo_values
from peft_tradeoffs.stats import FEWEST_SEEDS, LEVEL, Estimate, holm, mcnemar, over_seeds, over_seeds_and_examples
from peft_tradeoffs.tables import ARM, COMPLETED, random_weights

ALPHA = 1 - LEVEL
BASELINE, EQUIVALENT, BETTER, WORSE, UNDECIDED = "baseline", "equivalent", "better", "worse", "undecided"
COLUMNS = (
    *ARM, "method", "rank", "pretrained", "baseline", "metric", "margin", "test_rows", "n", "n_paired",
    "mean", "sd", "seeds_low", "seeds_high", "low", "high",
    "difference", "difference_seeds_low", "difference_seeds_high", "difference_low", "difference_high",
    "p_different", "p_different_holm", "p_equivalent", "p_equivalent_holm", "smallest_difference", "mcnemar",
    "verdict", "differs", "reason",
)  # fmt: skip


WHOLE = ("rank", "test_rows", "n", "n_paired")
NO_NUMBERS = (*ARM, "method", "pretrained", "baseline", "metric", "mcnemar", "verdict", "differs", "reason")


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
        table = pd.read_csv(path, dtype={"row": int, "label": kind, "prediction": kind})
        labels, predicted, rows = (table[key].to_numpy() for key in ("label", "prediction", "row"))
    except FileNotFoundError:
        raise InputError(f"{path}: missing, though the run's summary stands; {remedy}") from None
    except KeyError as error:
        raise InputError(f"{path}: not a run's predictions (no column {error}); {remedy}") from None
    except ValueError as error:
        raise InputError(f"{path}: not a run's predictions ({error}); {remedy}") from None
    if len(table) != run["test_rows"]:
        raise InputError(f"{path}: {len(table)} rows, but the run's summary says {run['test_rows']}; {remedy}")
    classes = sum(name.startswith("logit_") for name in table)
    found = metric_of(labels, predicted, run["metric"], classes)
    if not math.isclose(found, run["metric_value"], abs_tol=1e-6):
        of_summary = f"the run's summary says {run['metric_value']:.6f}"
        raise InputError(f"{path}: its {run['metric']} is {found:.6f}, but {of_summary}; {remedy}")
    return Predicted(rows, labels, predicted, pseudo_values(labels, predicted, run["metric"], classes))


def comparison_frame(
    runs: pd.DataFrame, baseline: str, margin: float, predictions: Callable[[dict[str, Any]], Predicted]
) -> pd.DataFrame:
    """One row a (data set, model, arm) in the order of `runs`, columns as in COLUMNS; none where weights are random.

    `baseline` is an arm, `margin` in the metric's unit, `predictions` gives those of a run. In the metric's unit too:
    mean and sd over the n completed runs that have a metric; low and high, its 95 % interval over other seeds and other
    test examples, seeds_low and seeds_high over other seeds alone; difference (the arm's less the baseline's) over the
    n_paired seeds that both have, its intervals likewise; smallest_difference, the true one that the test of a
    difference finds with a probability of 80 % at Holm's strictest level. p_different and p_equivalent are of the t
    test and of TOST over seeds and examples, _holm corrected over the arms of the data set and model; mcnemar has
    McNemar's exact p a seed ("seed: p; …"), not corrected. What a null means is in `reason`. Raises InputError for runs
    that were tested on different examples.
    """
    rows: list[dict[str, Any]] = []
    for _, own in runs.groupby(["dataset", "model"], sort=False):
        if not random_weights(own):
            rows += _compared(own, baseline, margin, predictions)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(WHOLE, "Int64") | dict.fromkeys(set(COLUMNS) - {*WHOLE, *NO_NUMBERS}, float))


Runs = dict[int, tuple[float, Predicted]]  # by seed: the metric and the predictions


def _compared(
    runs: pd.DataFrame, baseline: str, margin: float, predictions: Callable[[dict[str, Any]], Predicted]
) -> list[dict[str, Any]]:
    """The rows of one data set and model."""
    arms = {str(arm): _arm(own, predictions) for arm, own in runs.groupby("arm", sort=False)}
    _check_examples(runs, arms)
    rows, estimates = [], {}
    for arm, own in runs.groupby("arm", sort=False):
        row = (
            dict.fromkeys(COLUMNS) | own.iloc[0][[*ARM, "method", "rank", "pretrained", "metric", "differs"]].to_dict()
        )
        row |= {"baseline": baseline, "margin": margin, **_alone(arms[str(arm)])}
        if arm == baseline:
            row["verdict"] = BASELINE
        else:
            found, estimate = _against(arms[str(arm)], arms[baseline])
            row |= found
            if estimate is not None:
                estimates[len(rows)] = estimate
        rows.append(row)
    if not estimates:
        return rows
    level = 1 - ALPHA / len(estimates)
    different, equivalent = (
        dict(zip(estimates, holm(np.array(p)), strict=True))
        for p in (
            [estimate.p_different() for estimate in estimates.values()],
            [estimate.p_equivalent(margin) for estimate in estimates.values()],
        )
    )
    for place, estimate in estimates.items():
        rows[place] |= {
            "p_different": estimate.p_different(),
            "p_different_holm": different[place],
            "p_equivalent": estimate.p_equivalent(margin),
            "p_equivalent_holm": equivalent[place],
            "smallest_difference": estimate.smallest_difference(level),
            "verdict": _verdict(estimate.value, different[place], equivalent[place]),
        }
    return rows


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
        return {"n": 0, "reason": "no completed run that has a metric"}
    values = np.array([value for value, _ in runs.values()])
    found = {"n": len(runs), "test_rows": len(next(iter(runs.values()))[1].rows), "mean": float(values.mean())}
    seeds = over_seeds(values)
    if seeds is not None:
        found |= {"sd": float(values.std(ddof=1)), **_bounds("seeds", seeds)}
    both = over_seeds_and_examples(np.stack([of_run.contributions for _, of_run in runs.values()]))
    if both is None:
        return {**found, "reason": _why_none(len(values))}
    return {**found, **_bounds("", replace(both, value=found["mean"]))}


def _against(runs: Runs, baseline: Runs) -> tuple[dict[str, Any], Estimate | None]:
    """Difference to the baseline over the seeds that both have; an estimate of it where the seeds suffice."""
    shared = [seed for seed in runs if seed in baseline]
    found: dict[str, Any] = {"n_paired": len(shared)}
    if not shared:
        return {**found, "reason": "no seed of which both this arm and the baseline have a metric"}, None
    differences = np.array([runs[seed][0] - baseline[seed][0] for seed in shared])
    pairs = [(runs[seed][1], baseline[seed][1]) for seed in shared]
    found["difference"] = float(differences.mean())
    if np.issubdtype(pairs[0][0].labels.dtype, np.integer):
        p = [mcnemar(one.predicted == one.labels, other.predicted == other.labels) for one, other in pairs]
        found["mcnemar"] = "; ".join(f"{seed}: {value:.4g}" for seed, value in zip(shared, p, strict=True))
    seeds = over_seeds(differences)
    if seeds is not None:
        found |= _bounds("difference_seeds", seeds)
    both = over_seeds_and_examples(np.stack([one.contributions - other.contributions for one, other in pairs]))
    if both is None:
        return {**found, "reason": _why_none(len(shared))}, None
    both = replace(both, value=found["difference"])
    return {**found, **_bounds("difference", both)}, both


def _why_none(seeds: int) -> str:
    if seeds < FEWEST_SEEDS:
        return f"{seeds} seed{'' if seeds == 1 else 's'}, where {FEWEST_SEEDS} or more are needed"
    return "the metric is not defined without some of the test examples"


def _bounds(name: str, estimate: Estimate) -> dict[str, float]:
    low, high = estimate.interval()
    prefix = f"{name}_" if name else ""
    return {f"{prefix}low": low, f"{prefix}high": high}


def _verdict(difference: float, p_different: float, p_equivalent: float) -> str:
    """What the tests say at 5 %, given p values with Holm's correction."""
    if p_equivalent < ALPHA:
        return EQUIVALENT
    if p_different < ALPHA:
        return BETTER if difference > 0 else WORSE
    return UNDECIDED

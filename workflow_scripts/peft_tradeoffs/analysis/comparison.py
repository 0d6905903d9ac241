"""Arms on the same seeds and examples: differences to the baseline, intervals, tests, verdicts."""

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.finished import verified
from peft_tradeoffs.analysis.power import ALPHA, FEWEST_SEEDS
from peft_tradeoffs.analysis.stats import (
    Crossed,
    Estimate,
    holm,
    letter_display,
    low_seeds,
    mcnemar,
    of_seeds,
    over_examples,
    over_seeds,
    over_seeds_and_examples,
)
from peft_tradeoffs.analysis.tables import ARM, COMPLETED, OF_SPLIT, random_weights, read_scored, read_table
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import REMEDY
from peft_tradeoffs.core.layout import AXES, run_folder
from peft_tradeoffs.core.text import first_record, groups_of, plural, records
from peft_tradeoffs.inputs.splits import read_groups
from peft_tradeoffs.runs.plan import NO_ALLOWANCE, UNKNOWN_ALLOWANCE, Allowance, allowance, as_gaps
from peft_tradeoffs.tasks.metrics import METRICS, Metric, Scored, metric_called
from peft_tradeoffs.tasks.shown import Margin, margin_of, metric_words
from peft_tradeoffs.tasks.task import TASKS

BASELINE, EQUIVALENT, BETTER, WORSE, UNDECIDED = "baseline", "equivalent", "better", "worse", "undecided"
WITHIN, BETTER_WITHIN, WORSE_WITHIN = "within", "better_within", "worse_within"  # proven to be within the margin
VERDICTS = (BASELINE, EQUIVALENT, WITHIN, BETTER_WITHIN, WORSE_WITHIN, BETTER, WORSE, UNDECIDED)
COLUMNS = (
    *ARM, "split", "method", "rank", "pretrained", "baseline", "metric", "positive_class", "margin",
    "test_rows", "test_groups", "n", "n_paired", "mean", "sd", "seeds_low", "seeds_high", "low", "high",
    "difference", "difference_seeds_low", "difference_seeds_high", "difference_low", "difference_high",
    "rate", "missed", "missed_sd", "rates_as_good", "edge", "at_best_low", "at_best_high",
    "p_different", "p_different_holm", "p_equivalent", "p_equivalent_holm", "p_not_worse", "p_not_worse_holm",
    "p_worse", "p_worse_holm", "seeds_needed", "examples_needed", "smallest_difference", "mcnemar",
    "verdict_at_rates", "verdict", "groups", "differs", "left_out", "unstable", "reason",
)  # fmt: skip
WHOLE = ("rank", "test_rows", "test_groups", "n", "n_paired", "seeds_needed", "examples_needed")
NO_NUMBERS = (
    *ARM, "split", "method", "pretrained", "baseline", "metric", "positive_class", "rate", "rates_as_good", "edge",
    "mcnemar", "verdict_at_rates", "verdict", "groups", "differs", "left_out", "unstable", "reason",
)  # fmt: skip
TUNED, SHARED, GIVEN, FAILED = "tuned", "shared", "given", "failed"  # how an arm came by its learning rate
AT_BEST = ("at_best_low", "at_best_high")
FEWEST_GROUPS = 10  # of test rows, that an interval is had of
FEWEST_OF_CLASS = 10  # test examples; with fewer an interval of an arm alone covers 86 to 87 % in simulation
MISSED_UNKNOWN = "a few dev rows decide the metric, so the trials do not tell what the choice of a rate may have missed"
OF_OTHER = "rates were chosen by {}, so the trials do not tell what that choice may have missed of {}"
NOT_WITHOUT_SOME = "the metric is not defined without some of the test examples"
UNDEFINED = "undefined"  # the metric of a run that was completed
PREDICTIONS = {"test": files.PREDICTIONS, "heldout": files.HELDOUT}  # of a run, by split


@dataclass(frozen=True)
class Predicted:
    """What a run's predictions say of a split."""

    rows: np.ndarray  # [n] rows in the source
    labels: np.ndarray  # [n]
    right: np.ndarray | None  # [n] bool; None where no answer is right or wrong
    contributions: np.ndarray  # [n] jackknife pseudo-values of the metric, of groups where rows are in such
    rarest: int  # examples, or groups, of the rarest class that occurs; of numbers all
    grouped: bool = False  # whether what is counted are groups


Groups = Callable[[np.ndarray], np.ndarray | None]  # of rows [n] in the source: [n] from 0, None where there are none


def read_predictions(path: Path, run: dict[str, Any], groups: Groups | None = None, place: bool = True) -> Predicted:
    """Read a completed run's predictions on a split, of which `run` has task, metric, metric_value and test_rows.

    `groups` gives those of the rows: what is counted are groups then. Without `place` the run is a trial.

    Raises InputError if they are missing, not as the run published them, broken, not finite, not what the logits say or
    do not give its metric.
    """
    verified(path.parent, path.name, place=place)
    task = TASKS[run["task"]]
    scored, metric = read_scored(path, task, run["test_rows"]), METRICS[run["metric"]]
    found = math.nan if (value := metric.of(scored)) is None else value
    if not math.isclose(found, run["metric_value"], abs_tol=1e-6):
        of_summary = f"the run's summary says {run['metric_value']:.6f}"
        raise InputError(f"{path}: its {metric.name} is {found:.6f}, but {of_summary}; {REMEDY}")
    return predicted(scored, metric, task.right(scored), groups(scored.rows) if groups else None)


def predicted(scored: Scored, metric: Metric, right: np.ndarray | None, of_row: np.ndarray | None) -> Predicted:
    """What a split's predictions say of a metric.

    `right`: which rows [n] are answered right, where the task says that. `of_row`: the groups [n] of the rows.
    """
    parts = metric.contributions(scored, of_row)
    if right is None:
        rarest = len(parts)
        right = parts == 1 if metric.share else None
    else:
        of_class = (scored.target == label for label in np.unique(scored.target))
        rarest = min(int(own.sum()) if of_row is None else len(np.unique(of_row[own])) for own in of_class)
    return Predicted(
        scored.rows, scored.target, None if of_row is not None else right, parts, rarest, of_row is not None
    )


def stored_predictions(runs_dir: Path, data_dir: Path | None) -> "Predictions":
    """Those that runs below `runs_dir` published; `data_dir` has what says of which groups the rows are, if any."""
    return lambda run, split: read_predictions(
        run_folder(runs_dir, *(run[axis] for axis in AXES)) / PREDICTIONS[split],
        run,
        functools.partial(read_groups, data_dir, run["dataset"], split) if data_dir else None,
    )


Predictions = Callable[[dict[str, Any], str], Predicted]  # of a run, as `read_predictions` takes it, on a split
Tunings = Callable[[str, str, str], dict[str, Any]]  # of a data set, a model and an arm what tune.py wrote


def comparison_frame(
    runs: pd.DataFrame,
    baseline: str,
    margin: Margin,
    predictions: Predictions,
    tunings: Tunings | None = None,
) -> pd.DataFrame:
    """One row per (data set, model, split, arm), arms in the order of `runs`; none where weights are random.

    Columns as in COLUMNS. A split is test, or heldout where a run of the data set and model has it; test_rows are its
    examples, test_groups their groups where the data set has such: groups are counted then wherever examples are, and
    examples_needed is of groups. `baseline` is an arm, `margin` in the metric's unit, `predictions` gives those of a
    run (as `read_predictions` takes it) on a split. In the metric's unit too:
    mean and sd over the n completed runs that have a metric; low and high, its 95 % interval over other seeds and other
    test examples, seeds_low and seeds_high over other seeds alone; difference (the arm's less the baseline's) over the
    n_paired seeds that both have, its intervals likewise, none of them corrected for the number of arms.

    Two statements are kept apart. difference_low and _high are of the two arms at the learning rates that they were
    trained with, and so is verdict_at_rates. at_best_low and _high, all p values and verdict are of the arms at the
    best of the rates that their tuning tried: what the choice may have missed (missed and missed_sd, of `runs.plan`,
    by what `tunings` gives) widens the interval, on either side in favour of the one whose rate it is. Where the trials
    do not tell it, for a few dev rows decide the metric, there is no such interval or test, and the verdict is
    undecided. rate is tuned, shared (of the tuning of another rank or method), given, or failed (no trial gave a metric
    that stands): of the last two nothing is known of other rates; rates_as_good names those that cannot be told from
    the one taken on dev, edge says that this is the grid's lowest or highest.

    verdict is one of VERDICTS: within where TOST proves a difference smaller than the margin, equivalent where that
    margin is small too (`Metric.calls_equivalent`); better or worse where a difference is proven, better_within or
    worse_within where both are. `comparison_text.verdict_words` says it.

    smallest_difference, the true one that the test of a difference finds with a probability of 80 % at Holm's strictest
    level. p_different, p_equivalent, p_not_worse and p_worse are of the t test, of TOST, and of one-sided tests (that
    of non-inferiority, and that of a loss beyond the margin) over seeds and examples, _holm corrected over the arms of
    the data set, model and split. unstable names a seed far worse than the arm's others: no verdict is given of such an
    arm, nor of any where the baseline is one. Of an arm that is not proven not worse: seeds_needed with these examples,
    or examples_needed with these seeds, to prove it with a probability of 80 % at Holm's strictest level, if the true
    difference is the one found (0 where that is positive); null where there is no such number in reach. mcnemar has
    McNemar's exact p a seed ("seed: p; …"), not corrected. groups are letters: arms that share one cannot be told
    apart, by the same test of every pair of arms with Holm's correction over the pairs. left_out counts the runs
    without a metric ("oom 1; undefined 2"). What another null means is in `reason`. Raises InputError for runs that
    were tested on different examples.
    """
    rows: list[dict[str, Any]] = []
    for _, own in runs.groupby(["dataset", "model"], sort=False):
        if not random_weights(own):
            of_metric = margin_of(margin, own["metric"].iloc[0])
            for split, (metric, examples) in OF_SPLIT.items():
                if split == "test" or own[examples].notna().any():
                    of_split = own.assign(split=split, metric_value=own[metric], test_rows=own[examples])
                    rows += _compared(of_split, baseline, of_metric, predictions, tunings)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(WHOLE, "Int64") | dict.fromkeys(set(COLUMNS) - {*WHOLE, *NO_NUMBERS}, float))


def read_comparison(path: Path) -> pd.DataFrame:
    """A comparison.csv that `comparison_frame` made. Raises InputError if it is missing, damaged or lacks columns."""
    kinds = dict.fromkeys(WHOLE, "Int64") | dict.fromkeys(set(NO_NUMBERS) - {"pretrained"}, object)
    numbers = [key for key in COLUMNS if key not in (*WHOLE, *NO_NUMBERS)]
    return read_table(path, COLUMNS, "make it again with compare_arms.py", kinds, numbers)


Runs = dict[int, tuple[float, Predicted]]  # by seed: the metric and the predictions


def _compared(
    runs: pd.DataFrame,
    baseline: str,
    margin: float,
    predictions: Predictions,
    tunings: Tunings | None,
) -> list[dict[str, Any]]:
    """The rows of one data set, model and split."""
    arms = runs_by_seed(runs, predictions)
    rates = _rates(runs, arms, tunings)
    missed = {arm: found.missed for arm, found in rates.items()}
    groups = _groups(arms, runs["metric"].iloc[0], missed)
    unstable = _unstable(arms, runs["metric"].iloc[0], margin)
    rows: list[dict[str, Any]] = []
    estimates: dict[int, Crossed] = {}
    for arm, own in groups_of(runs, "arm"):
        known = [*ARM, "split", "method", "rank", "pretrained", "metric", "positive_class", "differs"]
        row: dict[str, Any] = dict.fromkeys(COLUMNS) | first_record(own[known]) | rates[arm].columns()
        row |= {"baseline": baseline, "margin": margin, "groups": groups.get(arm), "left_out": _left_out(own)}
        row |= {"unstable": unstable.get(arm), **alone(arms[arm], row["metric"])}
        if arm == baseline:
            row["verdict"] = row["verdict_at_rates"] = BASELINE
        else:
            found, estimate = _against(arms[arm], arms[baseline], row["metric"])
            reasons = dict.fromkeys(reason for reason in (row["reason"], found.get("reason")) if reason)
            row |= {**found, "reason": "; ".join(reasons) or None}
            if estimate is not None:
                estimates[len(rows)] = estimate
        rows.append(row)
    at_best = {
        place: replace(estimate, below=missed[baseline], above=missed[rows[place]["arm"]])
        for place, estimate in estimates.items()
        if missed[baseline].known and missed[rows[place]["arm"]].known
    }
    same = _calls_equivalent(runs["metric"].iloc[0], margin, arms[baseline])
    for place, tests in _tested(estimates, margin).items():
        row = rows[place]
        cannot_say = row["arm"] in unstable or baseline in unstable
        row["verdict"] = UNDECIDED
        row["verdict_at_rates"] = UNDECIDED if cannot_say else _verdict(row["difference"], tests, same)
        if place not in at_best:
            unknown = next(rates[one] for one in (row["arm"], baseline) if not rates[one].missed.known)
            row["reason"] = "; ".join(reason for reason in (row["reason"], unknown.why_unknown) if reason)
    for place, tests in _tested(at_best, margin).items():
        row, estimate = rows[place], at_best[place]
        row |= {**_bounds("at_best", estimate), **tests}
        row["smallest_difference"] = estimate.smallest_difference(1 - ALPHA / len(at_best))
        if row["arm"] not in unstable and baseline not in unstable:
            row["verdict"] = _verdict(estimate.value, tests, same)
        if row["p_not_worse_holm"] >= ALPHA:
            inside = margin + min(estimate.value, 0.0) - estimate.below.mean
            needed = estimate.needed(inside, ALPHA / len(at_best))
            row |= dict(zip(("seeds_needed", "examples_needed"), needed, strict=True))
    return rows if metric_called(runs["metric"].iloc[0]).higher_is_better else [_turned(row) for row in rows]


BOUNDS = (("difference_seeds_low", "difference_seeds_high"), ("difference_low", "difference_high"), AT_BEST)


def _turned(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose differences are gains, of a metric that is better the lower it is: the arm's less the baseline's."""
    turned = {"difference": row["difference"]}
    for low, high in BOUNDS:
        turned |= {low: row[high], high: row[low]}
    return row | {key: None if value is None else -value for key, value in turned.items()}


def gained(row: Mapping[str, Any]) -> float | None:
    """What an arm gains on the baseline, negative where it is worse."""
    found = row["difference"]
    return None if pd.isna(found) else float(metric_called(row["metric"]).gain(found))


def gained_at_worst(row: Mapping[str, Any]) -> float | None:
    """The lowest gain on the baseline that the interval at the best rate tried leaves possible."""
    found = worse_end(row)
    return None if pd.isna(found) else float(metric_called(row["metric"]).gain(found))


def worse_end(row: Mapping[str, Any]) -> Any:
    """The end of that interval at which the arm is worse, in the metric's own direction; null without an interval."""
    return row[AT_BEST[0] if metric_called(row["metric"]).higher_is_better else AT_BEST[1]]


def _tested(estimates: dict[int, Crossed], margin: float) -> dict[int, dict[str, float]]:
    """The p values of each arm's tests, and with Holm's correction over the arms."""
    tests: dict[str, Callable[[Crossed], float]] = {
        "p_different": lambda estimate: estimate.p_different(),
        "p_equivalent": lambda estimate: estimate.p_equivalent(margin),
        "p_not_worse": lambda estimate: estimate.p_not_worse(margin),
        "p_worse": lambda estimate: estimate.p_worse(margin),
    }
    found: dict[int, dict[str, float]] = {place: {} for place in estimates}
    for name, test in tests.items():
        values = [test(estimate) for estimate in estimates.values()]
        for place, p, corrected in zip(estimates, values, holm(np.array(values)), strict=True):
            found[place] |= {name: p, f"{name}_holm": float(corrected)}
    return found


@dataclass(frozen=True)
class Rate:
    """How an arm came by its learning rate, and what that choice may have missed."""

    how: str  # TUNED, SHARED, GIVEN or FAILED
    missed: Allowance = NO_ALLOWANCE
    as_good: tuple[float, ...] = ()  # other rates, ascending
    edge: str | None = None
    why_unknown: str = MISSED_UNKNOWN  # of what the choice may have missed, where that is not known

    def columns(self) -> dict[str, Any]:
        """Of a comparison's row."""
        found: dict[str, Any] = {
            "rate": self.how,
            "edge": self.edge,
            "rates_as_good": "; ".join(f"{rate:g}" for rate in self.as_good),
        }
        if self.how in (TUNED, SHARED) and self.missed.known:
            found |= {"missed": self.missed.mean, "missed_sd": math.sqrt(self.missed.variance)}
        return found


def _rates(runs: pd.DataFrame, arms: dict[str, Runs], tunings: Tunings | None) -> dict[str, Rate]:
    """By arm."""
    of_seed = of_seeds(_stacked(seeds) for seeds in arms.values() if seeds)
    found = {}
    for arm, own in groups_of(runs, "arm"):
        tuned_as = own["tuned_as"].iloc[0] if "tuned_as" in own else None
        found[arm] = Rate(GIVEN)
        if tunings is not None and not pd.isna(tuned_as):
            dataset, model = own[["dataset", "model"]].iloc[0]
            tuning = tunings(dataset, model, tuned_as)
            found[arm] = Rate(FAILED)
            if tuning["reason"] is None:
                missed, why = allowance(as_gaps(tuning["gaps"]), of_seed), MISSED_UNKNOWN
                if (judged := tuning["metric"]) != (metric := own["metric"].iloc[0]):
                    missed = UNKNOWN_ALLOWANCE
                    why = OF_OTHER.format(*(metric_words({"metric": name}) for name in (judged, metric)))
                how = TUNED if tuned_as == arm else SHARED
                found[arm] = Rate(how, missed, tuple(tuning["tied"]), tuning["edge"], why)
    return found


def _stacked(runs: Runs) -> np.ndarray:
    """The contributions of an arm's runs, [s, n]."""
    return np.stack([of_run.contributions for _, of_run in runs.values()])


def _unstable(arms: dict[str, Runs], metric: str, margin: float) -> dict[str, str]:
    """By arm the seed that is far worse than its others, in words; of arms without one nothing."""
    gain = metric_called(metric).gain
    values = {arm: {seed: gain(value) for seed, (value, _) in runs.items()} for arm, runs in arms.items()}
    found = {}
    for arm, low in low_seeds(values, margin).items():
        others = np.mean([value for seed, value in values[arm].items() if seed != low])
        found[arm] = f"seed {low}: {gain(values[arm][low]):.4g} where the others have {gain(others):.4g}"
    return found


def runs_by_seed(runs: pd.DataFrame, predictions: Predictions) -> dict[str, Runs]:
    """By arm its completed runs that have a metric, of one data set, model and split (columns of `runs`).

    Raises InputError for runs that were tested on different examples.
    """
    done = runs[(runs["status"] == COMPLETED) & runs["metric_value"].notna()]
    found = {
        arm: {run["seed"]: (run["metric_value"], predictions(run, run["split"])) for run in records(own)}
        for arm, own in groups_of(done, "arm")
    }
    arms = {arm: found.get(arm, {}) for arm, _ in groups_of(runs, "arm")}
    _check_examples(runs, arms)
    return arms


def _left_out(runs: pd.DataFrame) -> str | None:
    """The runs of an arm that have no metric: what became of them, and how many."""
    without = runs[(runs["status"] != COMPLETED) | runs["metric_value"].isna()]
    counts = without["status"].replace(COMPLETED, UNDEFINED).value_counts()
    return "; ".join(f"{what} {count}" for what, count in counts.items()) or None


def _check_examples(runs: pd.DataFrame, arms: dict[str, Runs]) -> None:
    found = [(arm, seed, of_run) for arm, seeds in arms.items() for seed, (_, of_run) in seeds.items()]
    for arm, seed, of_run in found[1:]:
        first = found[0][2]
        if not (np.array_equal(of_run.rows, first.rows) and np.array_equal(of_run.labels, first.labels)):
            name = "/".join(runs.iloc[0][["dataset", "model"]])
            raise InputError(
                f"runs {name}/{found[0][0]}/seed{found[0][1]} and {name}/{arm}/seed{seed} were tested on different "
                f"examples or labels of the {runs['split'].iloc[0]} split: one is of other data; delete its folder and "
                "run it again"
            )


def alone(runs: Runs, metric: str) -> dict[str, Any]:
    """Mean and intervals of an arm: n, test_rows, mean, sd, seeds_low, seeds_high, low, high, and why some are not."""
    if not runs:
        return {"n": 0, "reason": "none of its runs has a metric"}
    values = np.array([value for value, _ in runs.values()])
    first = next(iter(runs.values()))[1]
    found = {"n": len(runs), "test_rows": len(first.rows), "mean": float(values.mean())}
    if first.grouped:
        found["test_groups"] = len(first.contributions)
    seeds = over_seeds(values)
    if seeds is not None:
        found |= {"sd": float(values.std(ddof=1)), **_bounds("seeds", seeds)}
    if (why := _too_few(first, metric)) is not None:
        return {**found, "reason": why}
    both = over_seeds_and_examples(_stacked(runs))
    if both is None:
        return {**found, "reason": _why_none(len(values))}
    floor = _floor(both, both.examples, metric, first.rarest)
    return {**found, **_bounds("", replace(both, value=float(values.mean()), share_of=floor))}


def of_one(run: Predicted, value: float, metric: str) -> dict[str, Any]:
    """The interval of one model's metric over other test examples alone: low, high, or the reason why there is none.

    By the rules of an arm alone (`alone`), whose interval is over other seeds too.
    """
    if (why := _too_few(run, metric)) is not None:
        return {"reason": why}
    found = over_examples(run.contributions)
    if found is None:
        return {"reason": NOT_WITHOUT_SOME}
    return _bounds("", replace(found, value=value, share_of=_floor(found, len(run.contributions), metric, run.rarest)))


def _too_few(of_run: Predicted, metric: str) -> str | None:
    """Why there is no interval of an arm alone on these examples, whatever its seeds; None where there may be one."""
    if (why := _too_few_groups(of_run)) is not None or METRICS[metric].share or of_run.rarest >= FEWEST_OF_CLASS:
        return why
    few = f"{of_run.rarest} test {plural('group' if of_run.grouped else 'example', of_run.rarest)} of the rarest class"
    return f"{few}, where {FEWEST_OF_CLASS} or more are needed"


def _shared(runs: Runs, others: Runs) -> list[int]:
    """The seeds that two arms both have."""
    return [seed for seed in runs if seed in others]


def _too_few_groups(of_run: Predicted) -> str | None:
    """Why nothing is said of so few groups of examples; None where there are enough, or no groups."""
    groups = len(of_run.contributions)
    if not of_run.grouped or groups >= FEWEST_GROUPS:
        return None
    return f"{groups} {plural('group', groups)} of test rows, where {FEWEST_GROUPS} or more are needed"


def _floor(found: Estimate, examples: int, metric: str, rarest: int) -> int | None:
    """Examples of which none was seen that differs: of a share all, else those of the rarest class if all are alike."""
    if METRICS[metric].share:
        return examples
    return rarest if found.se == 0.0 else None


def contrast(cells: Sequence[tuple[int, Runs]], metric: str) -> tuple[Crossed | None, str | None]:
    """Half of the arms' metrics, of sign +1, less the other half, of sign -1, over the seeds that all of them have.

    Of a metric that is better the lower it is the other way round, so that more is better (`Metric.gain`).
    Or why there is none. One arm less another one is the case of two; an interaction has four or more.
    """
    seeds = [seed for seed in cells[0][1] if all(seed in runs for _, runs in cells)]
    if len(seeds) < FEWEST_SEEDS:
        return None, _why_none(len(seeds))
    up = int(METRICS[metric].gain(1))
    by_seed = [[(up * sign, *runs[seed]) for sign, runs in cells] for seed in seeds]
    first, differences = by_seed[0][0][2], len(cells) // 2
    if (few := _too_few_groups(first)) is not None:
        return None, few
    values = np.array([sum(sign * value for sign, value, _ in of_seed) for of_seed in by_seed])
    with np.errstate(invalid="ignore"):  # infinity less infinity, of a metric that one example decides
        parts = np.stack([sum(sign * of_run.contributions for sign, _, of_run in of_seed) for of_seed in by_seed])
        steps = [np.abs(of_run.contributions - value).max() for of_seed in by_seed for _, value, of_run in of_seed]
    share = METRICS[metric].share
    found = over_seeds_and_examples(parts, differences * (1.0 if share and not first.grouped else float(max(steps))))
    if found is None:
        return None, _why_none(len(seeds))
    alike = first.rarest if not parts.any() else None  # that none of so many differs is all that is known
    unseen_of = found.examples if share else alike
    return replace(found, value=float(values.mean()), share_of=unseen_of and max(unseen_of // differences, 1)), None


def _groups(arms: dict[str, Runs], metric: str, missed: dict[str, Allowance]) -> dict[str, str]:
    """Letters by arm, the best arm's first; those of a pair that cannot be tested share one.

    Arms of which no pair can be tested have none.
    """
    pairs = {
        (one, other): replace(estimate, below=missed[other], above=missed[one])
        for one, other in itertools.combinations(arms, 2)
        if (estimate := contrast([(1, arms[one]), (-1, arms[other])], metric)[0]) is not None
    }
    if not pairs:
        return {}
    known = {(one, other): missed[one].known and missed[other].known for one, other in pairs}
    found = dict.fromkeys(itertools.chain.from_iterable(pairs))
    gain = metric_called(metric).gain
    means = {arm: np.mean([gain(value) for value, _ in arms[arm].values()]) for arm in found}
    ordered = sorted(found, key=lambda arm: -means[arm])
    place = {arm: index for index, arm in enumerate(ordered)}
    different = np.zeros((len(ordered), len(ordered)), dtype=bool)
    p = holm(np.array([estimate.p_different() if known[pair] else 1.0 for pair, estimate in pairs.items()]))
    for (one, other), value in zip(pairs, p, strict=True):
        different[place[one], place[other]] = different[place[other], place[one]] = value < ALPHA
    return dict(zip(ordered, letter_display(different), strict=True))


def _against(runs: Runs, baseline: Runs, metric: str) -> tuple[dict[str, Any], Crossed | None]:
    """Difference to the baseline over the seeds that both have; an estimate of it where the seeds suffice."""
    shared = _shared(runs, baseline)
    found: dict[str, Any] = {"n_paired": len(shared)}
    if not runs:
        return found, None
    if not baseline:
        return {**found, "reason": "none of the baseline's runs has a metric"}, None
    if not shared:
        return {**found, "reason": "no seed of which both this arm and the baseline have a metric"}, None
    gain = metric_called(metric).gain
    differences = np.array([gain(runs[seed][0] - baseline[seed][0]) for seed in shared])
    pairs = [(runs[seed][1], baseline[seed][1]) for seed in shared]
    found["difference"] = float(differences.mean())
    both_right = [(one.right, other.right) for one, other in pairs if one.right is not None and other.right is not None]
    if both_right:
        p = [mcnemar(one, other) for one, other in both_right]
        found["mcnemar"] = "; ".join(f"{seed}: {value:.4g}" for seed, value in zip(shared, p, strict=True))
    seeds = over_seeds(differences)
    if seeds is not None:
        found |= _bounds("difference_seeds", seeds)
    both, why = contrast([(1, runs), (-1, baseline)], metric)
    return ({**found, "reason": why}, None) if both is None else ({**found, **_bounds("difference", both)}, both)


def _why_none(seeds: int) -> str:
    if seeds < FEWEST_SEEDS:
        return f"{seeds} {plural('seed', seeds)}, where {FEWEST_SEEDS} or more are needed"
    return NOT_WITHOUT_SOME


def _bounds(name: str, estimate: Estimate) -> dict[str, float]:
    low, high = estimate.interval()
    prefix = f"{name}_" if name else ""
    return {f"{prefix}low": low, f"{prefix}high": high}


def _calls_equivalent(metric: str, margin: float, baseline: Runs) -> bool:
    values = [value for value, _ in baseline.values()]
    return bool(values) and metric_called(metric).calls_equivalent(margin, float(np.mean(values)))


def _verdict(difference: float, tests: dict[str, float], same: bool) -> str:
    """What the tests say at 5 %, with Holm's correction; `same`: whether all within the margin is called equivalent."""
    differs, within = tests["p_different_holm"] < ALPHA, tests["p_equivalent_holm"] < ALPHA
    if differs and within:
        return BETTER_WITHIN if difference > 0 else WORSE_WITHIN
    if differs:
        return BETTER if difference > 0 else WORSE
    return UNDECIDED if not within else EQUIVALENT if same else WITHIN

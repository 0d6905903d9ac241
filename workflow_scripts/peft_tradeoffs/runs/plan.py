"""What decides a run's result: its settings, its plan (seed, data, model, code), and the rate that trials choose.

Which other rates cannot be told from that one, and what the choice may have missed, follow from the same trials. What
is finished is compared with what is asked for by the same facts.
"""

import contextlib
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from peft_tradeoffs.core import code, files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import SCRIPTS, UNTRAINED
from peft_tradeoffs.core.quantities import Span

Fields = dict[str, Any]
# What settings say where nothing is trained, whatever the arms do: they decide no answer.
NO_TRAINING: Fields = {
    **{"rank": None, "learning_rate": None, "quantization": None, "gradient_checkpointing": False},
    **{"peft": None, "compile": False, "epochs": 0, "max_steps": None, "batch_size": 1},
    **{"gradient_accumulation_steps": 1, "lr_scheduler_type": "linear", "warmup_ratio": 0.0, "optimizer": "adamw"},
    **{"weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "max_grad_norm": 1.0},
    **{"early_stopping": None, "tuned_as": None, "save_weights": False, "gpus": 1, "parallel": None},
}


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run as its env.json has them; schemas/config.schema.yaml says what each means.

    They are part of the run's fingerprint, so `to_dict` gives back every value and the order of keys as `of` took them.
    """

    dataset: str
    model: str
    arm: str
    method: str
    rank: int | None  # None where the method has none
    task: str
    metric: str
    head: list[str] | None  # modules trained in full; None: what stands outside the base model
    learning_rate: float | None  # None: tuned, and not known yet
    quantization: Fields | None  # of transformers.BitsAndBytesConfig
    gradient_checkpointing: bool
    dtype: str  # of base weights
    peft: Fields | None  # None: full fine-tuning
    device: str
    precision: str
    engine: str
    compile: bool
    gpus: int
    parallel: str | None  # None of one GPU
    allow_shared_gpu: bool
    epochs: int
    max_steps: int | None
    batch_size: int
    gradient_accumulation_steps: int
    evaluation_batch_size: int
    max_length: int
    generate: Fields | None  # max_new_tokens, batch_size; None: no answers are asked for
    lr_scheduler_type: str
    warmup_ratio: float
    optimizer: str
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    max_grad_norm: float
    early_stopping: Fields | None  # patience (epochs), min_delta
    tuned_as: str | None  # the arm whose tuning gives this one its learning rate
    save_weights: bool
    order: tuple[str, ...] = field(default=(), compare=False, repr=False)  # of the keys, as they were given

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "RunSettings":
        """Settings from a mapping with the keys that env.json has; raises InputError for others."""
        known = _names()
        if missing := [name for name in known if name not in settings]:
            raise InputError(f"settings of a run lack {', '.join(missing)}; take all of env.json's `settings`")
        if unknown := [name for name in settings if name not in known]:
            raise InputError(f"settings of a run have no {', '.join(unknown)}; take env.json's `settings` alone")
        return cls(**settings, order=tuple(settings))

    def untrained(self, metric: str, dtype: str) -> "RunSettings":
        """Those of the same model as it is fetched, its weights held in `dtype`."""
        return replace(self, arm=UNTRAINED, method=UNTRAINED, metric=metric, dtype=dtype, **NO_TRAINING)

    def to_dict(self) -> dict[str, Any]:
        """The same as a dict, for JSON."""
        return {name: getattr(self, name) for name in self.order or _names()}


@functools.cache
def _names() -> dict[str, None]:
    """Names of the settings, in order."""
    return dict.fromkeys(one.name for one in fields(RunSettings) if one.name != "order")


@dataclass(frozen=True)
class ModelFolder:
    """A model as fetch_model.py left it: its folder, and the manifest beside it."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def of(cls, path: Path) -> "ModelFolder":
        """The model in the folder `path`. Raises InputError for a manifest that is missing or none."""
        return cls(path, _read_manifest(path))


@dataclass(frozen=True)
class Plan:
    """All that decides the result of a run."""

    settings: dict[str, Any]
    seed: int
    tokens: Path
    model: ModelFolder
    conditions: dict[str, Any]  # of every run of a job: SHA-256 of data, model and code; versions

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it."""
        return code.digest({"seed": self.seed, "settings": self.settings, **self.conditions})


def _read_manifest(model: Path) -> dict[str, Any]:
    path = model.with_name(f"{model.name}.json")
    try:
        manifest: dict[str, Any] = files.read_json(path, "delete it and run again")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; fetch_model.py writes it beside the model") from None
    if missing := [key for key in ("sha256", "files") if not isinstance(manifest, dict) or key not in manifest]:
        raise InputError(f"{path}: not a model's manifest, no {', '.join(missing)}; delete it and run again")
    return manifest


# Which rate trials choose ---------------------------------------------------------------------------------------------

# learning_rate, added, status, value (the metric on the dev split), loss (there); lower_is_better of such a metric
Trial = dict[str, Any]
# Of what tune.py writes: what those who read it cannot do without. A trial has TRIAL.
FOUND: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("dataset", "model", "arm", "method", "metric"), (str,)),
    **{"rank": (int, type(None)), "learning_rate": (int, float), "rates": (list,), "tied": (list,), "dev": (str,)},
    **{"trials": (list,), "retries": (list,), "gaps": (list,), "earlier": (list,)},
}
TRIAL: dict[str, tuple[type, ...]] = {
    **{"learning_rate": (int, float), "added": (bool,), "status": (str,)},
    **dict.fromkeys(("value", "loss"), (int, float, type(None))),
}
GAP: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("learning_rate", "mean"), (int, float)),
    **{"variance": (int, float, type(None)), "trials": (int,)},
}
DRAWS = 4000  # of an allowance
WITHIN = 2.0  # standard errors within which rates are tied
REMEDY = "delete it, and Snakemake tunes that arm again from its trials"


def read_found(path: Path) -> dict[str, Any]:
    """What tune.py wrote. Raises InputError for a file that it did not write so; FileNotFoundError without one."""
    what = "what tune.py writes"
    try:
        found = files.read_signed(path)
    except InputError as error:
        raise InputError(f"{error}; {REMEDY}") from None
    files.check_object(path, found, FOUND, what, REMEDY)
    for key, kinds in (("trials", TRIAL), ("retries", TRIAL), ("earlier", TRIAL), ("gaps", GAP)):
        for one in found[key]:
            files.check_object(path, one, kinds, f"{what} ({key})", REMEDY)
    return found


def trial_folder(folder: Path, rate: float, retry: int = 0) -> Path:
    """Where the trial of a rate stands among those of its arm; that of its `retry`, from 1, where the rate was tied."""
    return (folder / f"retry{retry}" if retry else folder) / f"lr{rate:g}"


def trial_name(folder: Path) -> str:
    """What a person reads of the trial in this folder, "" where no trial stands there."""
    if not folder.name.startswith("lr"):
        return ""
    again = folder.parent.name.startswith("retry")
    number = f" {1 + int(folder.parent.name.removeprefix('retry'))}" if again else ""
    return f"trial{number} of learning rate {folder.name.removeprefix('lr')}"


def disagreement(folder: Path, arms: Mapping[str, str], baseline: str) -> tuple[str, int, int] | None:
    """Which arm's trial disagrees most with the baseline's, on how many dev rows, and of how many.

    Of a metric that is a share of right answers. `folder` holds {arm}.json of tune.py, `arms` are the tuned arms by
    their names for readers. The trials are the first ones at the rates taken. None where the baseline, or no other arm,
    is tuned on the same dev rows with another result than that no rate is known.
    """
    right = {arm: found for arm, own in arms.items() if (found := _right_on_dev(folder, own)) is not None}
    if baseline not in right:
        return None
    apart = {
        arm: int((found != right[baseline]).sum())
        for arm, found in right.items()
        if arm != baseline and len(found) == len(right[baseline])
    }
    most = max(apart, key=lambda arm: apart[arm], default=None)
    return None if most is None else (most, apart[most], len(right[baseline]))


def _right_on_dev(folder: Path, arm: str) -> np.ndarray | None:
    """Which dev rows the first trial at the rate that an arm takes is right on; None where that is not known."""
    try:
        found = read_found(folder / f"{arm}.json")
        dataset, model = found["dataset"], found["model"]
        trials = folder.parents[2] / "trials" / dataset / model / arm
        if found["reason"] is not None:
            return None
        with (trial_folder(trials, found["learning_rate"]) / files.PREDICTIONS).open(encoding="utf-8") as file:
            columns = file.readline().strip().split(",")
            table = np.loadtxt(file, delimiter=",", usecols=[columns.index(name) for name in ("label", "prediction")])
    except (InputError, OSError, ValueError):
        return None  # what compares the runs says what is wrong with it
    return np.asarray(table[:, 0] == table[:, 1])


def rank_key(trial: Trial) -> tuple[float, float, float]:
    """Best last: by metric; then by lower loss, which tells apart what a small split does not; then lower rate."""
    value = -trial["value"] if trial.get("lower_is_better") else trial["value"]
    return value, -trial["loss"], -trial["learning_rate"]


def eligible(trials: list[Trial]) -> list[Trial]:
    """Trials that were completed and have a metric."""
    return [trial for trial in trials if trial["status"] == "completed" and trial["value"] is not None]


def failed_again(retries: list[Trial]) -> set[float]:
    """Rates of which a trial that was made again gave no metric."""
    had = eligible(retries)
    return {trial["learning_rate"] for trial in retries if trial not in had}


def best_trial(trials: list[Trial]) -> Trial | None:
    """The trial whose rate is chosen; None where none has a metric."""
    return max(eligible(trials), key=rank_key, default=None)


def edge(trials: list[Trial]) -> str | None:
    """Where the best rate is the grid's lowest or highest, so that a better one may lie beyond: which of the two."""
    best = best_trial(trials)
    return None if best is None else _edge_of(trials, best["learning_rate"])


def _edge_of(trials: list[Trial], rate: float) -> str | None:
    rates = sorted(trial["learning_rate"] for trial in trials)
    return {rates[0]: "lowest", rates[-1]: "highest"}.get(rate)


def beyond(trials: list[Trial], rate: float | None = None) -> float | None:
    """The next rate beyond the edge that `rate`, or the best of the trials, is on, in the grid's own step there.

    None if it is on no edge.
    """
    rates = sorted(trial["learning_rate"] for trial in trials)
    match edge(trials) if rate is None else _edge_of(trials, rate):
        case "lowest":
            further = rates[0] ** 2 / rates[1]
        case "highest":
            further = rates[-1] ** 2 / rates[-2]
        case _:
            return None
    return float(f"{further:.3g}")


def retried(trials: list[Trial], retries: Iterable[Trial]) -> list[Trial]:
    """The trials whose rates were tried again, each with the means of all that were made of its rate.

    A rate of which one trial failed or has no metric has failed: it does not always learn.
    """
    found = []
    by_rate: dict[float, list[Trial]] = {}
    for retry in retries:
        by_rate.setdefault(retry["learning_rate"], []).append(retry)
    for trial in trials:
        if trial["learning_rate"] in by_rate:
            of_rate = [trial, *by_rate[trial["learning_rate"]]]
            failed = next((one for one in of_rate if one not in eligible(of_rate)), None)
            means = {key: _mean(one[key] for one in of_rate) for key in ("value", "loss")} if failed is None else {}
            found.append({**(failed or trial), **means})
    return found


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)


def chosen(trials: list[Trial], retries: Iterable[Trial] = ()) -> dict[str, Any]:
    """The rate that final runs take and how it was found.

    learning_rate: of the best trial, or where that rate was tried again, of the best mean among those that were; where
    all of these failed then, of the best other trial. edge; reason, why it is not the best of those that did not fail:
    where all failed that were completed at first it is the best of these, and where none was it is the middle of the
    grid, so that the final runs show what becomes of it.
    """
    again = retried(trials, retries)
    once = [trial for trial in trials if trial["learning_rate"] not in {one["learning_rate"] for one in again}]
    best = best_trial(trials)
    if best not in once:
        best = best_trial(again) or best_trial(once)
    if best is None and (best := best_trial(trials)) is not None:
        reason = "every rate that gave a metric failed when it was tried again: the best of the first trials"
        return {"learning_rate": best["learning_rate"], "edge": None, "reason": reason}
    if best is None:
        rates = sorted(trial["learning_rate"] for trial in trials)
        states = ", ".join(sorted({trial["status"] for trial in trials} - {"completed"})) or "no metric"
        reason = f"no trial has a metric ({states}): the middle of the grid"
        return {"learning_rate": rates[(len(rates) - 1) // 2], "edge": None, "reason": reason}
    rate = best["learning_rate"]
    return {"learning_rate": rate, "edge": _edge_of(trials, rate), "reason": None}


@dataclass(frozen=True)
class Gap:
    """How far the trials of a rate lie below those of the rate that was chosen, on the same dev rows."""

    mean: float  # in the metric's unit; above 0 where the rate is worse
    variance: float  # of the mean, over other dev rows
    trials: int  # of either rate, each on a dev split of its own

    @property
    def tied(self) -> bool:
        """Whether the rate cannot be told from the chosen one: the gap is within two standard errors of none."""
        return self.mean <= WITHIN * float(np.sqrt(self.variance))


@dataclass(frozen=True)
class Allowance:
    """What the best of the rates tried may have of the metric beyond the chosen one: its mean, and its variance."""

    mean: float = 0.0
    variance: float = 0.0

    @property
    def known(self) -> bool:
        """Whether the trials tell what may have been missed; not where a few dev rows decide the metric."""
        return bool(np.isfinite(self.variance))


NO_ALLOWANCE = Allowance()
UNKNOWN_ALLOWANCE = Allowance(np.inf, np.inf)


def gap(
    values: Sequence[tuple[float, float]],
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
    share: bool,
    same_rows: bool = False,
) -> Gap:
    """The gap between the chosen rate and another one, trial by trial; `same_rows`: all on the same dev rows.

    `values` are the metric of both in each trial, as `Metric.gain` gives it, `parts` what each dev row, or group of
    rows, adds to it ([n], jackknife pseudo-values, of a `share` 1 where the row is right). The variance is that
    of the paired differences with a row of + step and one of - step more, step being what one row can change (1 of a
    share, or more), so that equal predictions are no certainty (Agresti and Min, Statistics in Medicine 24, 2005).
    Infinite where some part is not finite.
    """
    each = []
    for (chosen, other), (value, of_other) in zip(parts, values, strict=True):
        step = max(np.abs(chosen - value).max(), np.abs(other - of_other).max(), 1.0 if share else 0.0)
        each.append((chosen - other, step))
    if same_rows:
        each = [(np.mean([differences for differences, _ in each], axis=0), max(step for _, step in each))]
    variances = []
    for difference, step in each:
        rows = len(difference) + 2
        squares = ((difference**2).sum() + 2 * step**2) / rows
        variances.append((squares - (difference.sum() / rows) ** 2) / rows)
    mean = float(np.mean([chosen - other for chosen, other in values]))
    variance = float(np.sum(variances)) / len(variances) ** 2
    return Gap(mean, variance if np.isfinite(variance) else np.inf, len(values))


def allowance(gaps: Sequence[Gap], of_seed: float) -> Allowance:
    """What the choice of a rate may have missed, by its `gaps` to the other rates that have a metric.

    The true metric of each rate is drawn around what its trials gave, independently, so that the difference of a rate
    to the chosen one has its gap's variance and that of two seeds per trial (`of_seed` each); what is missed is the
    largest of them less the chosen one's, 0 or more.
    """
    if not gaps:
        return NO_ALLOWANCE
    variances = np.array([one.variance + 2 * of_seed / one.trials for one in gaps])
    if not np.isfinite(variances).all():
        return UNKNOWN_ALLOWANCE
    own = variances.min() / 2  # of the chosen rate
    draws = np.random.default_rng(0).standard_normal((DRAWS, len(gaps) + 1))
    chosen = np.sqrt(own) * draws[:, 0]
    others = np.sqrt(variances - own) * draws[:, 1:] - [one.mean for one in gaps]
    missed = np.maximum(others.max(axis=1) - chosen, 0.0)
    return Allowance(float(missed.mean()), float(missed.var()))


def as_gaps(found: Sequence[Mapping[str, Any]]) -> list[Gap]:
    """The gaps that tune.py wrote (`gap_columns`)."""
    return [Gap(one["mean"], np.inf if one["variance"] is None else one["variance"], one["trials"]) for one in found]


def gap_columns(rate: float, found: Gap) -> dict[str, Any]:
    """A gap as tune.py writes it; an infinite variance is null, for JSON has no infinity."""
    variance = found.variance if np.isfinite(found.variance) else None
    return {"learning_rate": rate, "mean": found.mean, "variance": variance, "trials": found.trials}


# What is finished of what is asked for --------------------------------------------------------------------------------

OF_BUDGET = ("metric", "epochs", "max_steps", "batch_size")  # settings of trials that tune.py writes down


class Tuning(Protocol):
    """What is asked for of all tunings."""

    @property
    def seed(self) -> int: ...
    @property
    def fraction(self) -> float: ...
    @property
    def retry(self) -> int: ...
    @property
    def extend(self) -> bool: ...
    @property
    def max_extensions(self) -> int: ...


class Asked(Protocol):
    """What finished trainings are compared with: an experiment as the configuration asks for it."""

    @property
    def output(self) -> str: ...
    @property
    def trials(self) -> Mapping[str, list[float]]: ...
    @property
    def tune(self) -> Tuning: ...

    def run_settings(self, dataset: str, model: str, arm: str) -> RunSettings: ...
    def trial_settings(self, dataset: str, model: str, arm: str) -> RunSettings: ...


@dataclass(frozen=True)
class Made:
    """How a finished training must have been made to count: None is any."""

    settings: RunSettings  # learning_rate None: any
    code_sha256: str
    seed: int | None = None
    data_sha256: str | None = None

    def stands(self, folder: Path) -> bool:
        """Whether such a run or trial is finished in `folder`.

        It is, too, where Snakemake removed its summary with a job that failed: the next call puts it back.
        """
        summary = _finished(folder)
        try:
            env = files.read_json(folder / "env.json")
            asked, had = self.settings.to_dict(), dict(env["settings"])
        except (InputError, OSError, KeyError, TypeError, ValueError):
            return False
        if summary is None or summary.get("fingerprint") != env.get("fingerprint"):
            return False
        if asked["learning_rate"] is None:
            asked["learning_rate"] = had.get("learning_rate")
        facts = [
            (self.code_sha256, env.get("code_sha256")),
            (self.seed, summary.get("seed")),
            (self.data_sha256, env.get("data_sha256")),
        ]
        same = all(wanted in (None, found) for wanted, found in facts)
        return same and code.digest(asked) == code.digest(had)


def _finished(folder: Path) -> Fields | None:
    """The summary of the finished run in `folder`, or the copy of it that the run's state keeps."""
    for path in (folder / "summary.json", folder / "state/summary.json"):
        with contextlib.suppress(InputError, OSError):
            summary: Fields = files.read_json(path)
            files.check_summary(summary, path)
            return summary
    return None


class Standing:
    """What is finished of the trainings that are asked for of an arm, on a data set with a model."""

    def __init__(self, asked: Asked, dataset: str, model: str, arm: str) -> None:
        self._asked, self._pair, self._arm = asked, (dataset, model), arm
        self._output = Path(asked.output)
        self._settings = asked.run_settings(dataset, model, arm)
        self._code = code.fingerprint(SCRIPTS / "train.py")  # trials are of it too
        self._rates = sorted(asked.trials.get(arm, []))
        # Rates that tuning may add at most.
        self.extensions = asked.tune.max_extensions * asked.tune.extend if self._rates else 0

    # Runs

    @functools.cached_property
    def rate(self) -> float | None:
        """The learning rate of the runs: as it is set, or as it was chosen last; None where none was chosen yet."""
        if self._settings.tuned_as is None:
            return self._settings.learning_rate
        found = self._chosen(self._settings.tuned_as)
        return None if found is None else float(found["learning_rate"])

    @functools.cached_property
    def rate_is_settled(self) -> bool:
        """Whether no tuning is to come that may choose another rate for the runs."""
        own = self._settings.tuned_as
        return own is None or Standing(self._asked, *self._pair, own).tuned is not None

    def run(self, folder: str, **changes: Any) -> bool:
        """Whether the run in this folder of the output is finished; `changes`: settings that it has of its own."""
        settings = replace(self._settings, **{"learning_rate": self.rate, **changes})
        return settings.learning_rate is not None and Made(settings, self._code).stands(self._output / folder)

    def run_may_stand(self, folder: str) -> bool:
        """Whether the run in this folder of the output is finished, at any rate where none is chosen now."""
        any_rate = Made(replace(self._settings, learning_rate=self.rate), self._code)
        return any_rate.stands(self._output / folder)

    def runs(self, folders: Sequence[str]) -> tuple[int, Span]:
        """How many of these runs are finished, and how many are still to run.

        Where another rate may be chosen yet, these may be all, and a finished run of any rate may be right.
        """
        done = sum(map(self.run, folders))
        if self.rate_is_settled:
            return done, Span(len(folders) - done, len(folders) - done)
        any_rate = Made(replace(self._settings, learning_rate=None), self._code)
        return done, Span(sum(not any_rate.stands(self._output / folder) for folder in folders), len(folders))

    # Trials

    @functools.cached_property
    def tuned(self) -> Fields | None:
        """What tune.py wrote of this arm; None where its tuning is to come, for other things are asked of it now.

        Its trials may have been deleted since. Those that are there must be as they are asked for.
        """
        found, tune = self._chosen(self._arm), self._asked.tune
        if found is None:
            return None
        trial = self._asked.trial_settings(*self._pair, self._arm)
        wanted = {
            **{"rates": self._rates, "extensions": self.extensions, "retry": tune.retry, "seed": tune.seed},
            **{key: getattr(trial, key) for key in OF_BUDGET},
            "code_sha256": self._code,
        }
        if not self._dev_is_as_asked(0) or any(found.get(key) != value for key, value in wanted.items()):
            return None
        there = [rate for rate in self._rates if (self._trial(rate) / "summary.json").exists()]
        return found if all(self.trial(rate) for rate in there) else None

    def trial(self, rate: float, retry: int = 0) -> bool:
        """Whether the trial of a rate, or its `retry`, is finished, with the seed and the dev split asked for."""
        if not self._dev_is_as_asked(retry):
            return False
        settings = self._asked.trial_settings(*self._pair, self._arm)
        seed, data_sha256 = self._asked.tune.seed + retry, self._dev(retry).get("sha256")
        return Made(settings, self._code, seed, data_sha256).stands(self._trial(rate, retry))

    def trials(self) -> tuple[int, Span]:
        """How many trials are finished that this tuning asks for, or may ask for, and how many are still to run."""
        if found := self.tuned:
            return len(found["trials"]) + len(found["retries"]), Span(0, 0)
        retry, further = self._asked.tune.retry, beyond_edges(self._rates, self.extensions)
        of_grid = sum(map(self.trial, self._rates))
        added = min(self.extensions, sum(map(self.trial, further)))
        again = [(rate, number) for rate in (*self._rates, *further) for number in range(1, 1 + retry)]
        done = of_grid + added + sum(self.trial(*one) for one in again)
        least = len(self._rates) - of_grid + self._is_at_an_edge()
        most = (len(self._rates) + self.extensions) * (1 + retry)
        return done, Span(least, max(least, most - done))

    def _is_at_an_edge(self) -> bool:
        """Whether a rate beyond the grid is sure to be tried: the one chosen last, of this grid, is at its edge."""
        found = self._chosen(self._arm)
        if found is None or found["rates"] != self._rates or found.get("edge") is None:
            return False
        further = beyond(found["trials"], found["learning_rate"])
        may_add = sum(trial["added"] for trial in found["trials"]) < self.extensions
        return may_add and further is not None and not self.trial(further)

    def _trial(self, rate: float, retry: int = 0) -> Path:
        return trial_folder(self._output.joinpath("tune/trials", *self._pair, self._arm), rate, retry)

    def _chosen(self, arm: str) -> Fields | None:
        with contextlib.suppress(InputError, OSError):
            return read_found(self._output.joinpath("tune/best", *self._pair, f"{arm}.json"))
        return None

    def _dev_is_as_asked(self, retry: int) -> bool:
        """Whether the dev split that is there was carved as it would be now; one that was not carved is."""
        dev, tune = self._dev(retry), self._asked.tune
        return dev.get("carved") in (None, {"fraction": tune.fraction, "seed": tune.seed + retry})

    def _dev(self, retry: int) -> Fields:
        """The description of a dev split's tokens; empty where it is not there."""
        dataset, model = self._pair
        folder = self._output / "tune/tokens" / dataset
        with contextlib.suppress(InputError, OSError):
            found = files.read_json((folder / f"retry{retry}" if retry else folder) / f"{model}.json")
            return found if isinstance(found, dict) else {}
        return {}


def beyond_edges(rates: list[float], count: int) -> list[float]:
    """The rates that a tuning may add, up to `count` at either edge of the grid."""
    found: list[float] = []
    for edge in (min, max):
        known = list(rates)
        for _ in range(count):
            further = beyond([{"learning_rate": rate} for rate in known], edge(known))
            if further is not None:
                known.append(further)
        found += known[len(rates) :]
    return found


def of_all(ended: int, left: Span) -> str:
    """How many have ended, of how many: such as "3 of 12", "3 of at most 36"."""
    most = f"{ended + left.most:.0f}"
    return f"{ended} of {most if left.least == left.most else f'at most {most}'}"


class Trials(NamedTuple):
    """The trials of a tuning that is to run."""

    paths: list[Path]  # every summary that it may write: of its grid, beyond an edge, and of tied rates anew
    stood: int  # how many were finished before
    left: Span  # how many were to come then


def possible_trials(folder: Path, rates: list[float], extensions: int, retry: int) -> list[Path]:
    """The summaries of all trials that an arm's tuning may make in `folder`; `extensions`: rates beyond the grid."""
    every = [*rates, *beyond_edges(rates, extensions)]
    return [trial_folder(folder, rate, number) / "summary.json" for rate in every for number in range(1 + retry)]


@dataclass(frozen=True)
class Finished:
    """Trainings that are finished: made with the settings, the learning rate and the code that are asked for."""

    trials: int = 0
    runs: int = 0
    repeats: int = 0
    at_caps: int = 0

    @property
    def all(self) -> int:
        """All of them."""
        return self.trials + self.runs + self.repeats + self.at_caps


@dataclass(frozen=True)
class Left:
    """What is still to run; ranges where tuning has not ended, whose trials nobody knows, and which may choose anew."""

    trials: Span
    runs: Span
    repeats: Span
    at_caps: Span

    @property
    def all(self) -> Span:
        """All of it."""
        return self.trials + self.runs + self.repeats + self.at_caps


@dataclass(frozen=True)
class Counts:
    """The trainings of an arm on a data set with a model."""

    trials: int  # of its grid
    again: int  # trials of tied rates at most
    added: int  # rates beyond the grid's edge at most, counted without their repeats
    runs: int
    repeats: int  # for the noise floor
    at_caps: int  # at equal memory, at most
    finished: Finished
    left: Left
    settled: bool  # tuning has ended: no more trials

    @property
    def trials_all(self) -> Span:
        """All trials."""
        return Span(self.finished.trials, self.finished.trials) + self.left.trials

    @property
    def trainings(self) -> Span:
        """All of them."""
        return self.trials_all + Span(self.runs + self.repeats, self.runs + self.repeats + self.at_caps)

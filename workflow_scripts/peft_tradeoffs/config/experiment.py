"""The experiment that a configuration asks for: checked, its defaults written out, expanded into arms."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError

from peft_tradeoffs.analysis.facts import FACTS
from peft_tradeoffs.config.arms import Arm, Methods, check_tuning, expand, factorial
from peft_tradeoffs.config.file import (
    check_splits,
    config_schema,
    expand_paths,
    explain,
    first_error,
    key_of,
    own_copy,
    retype,
    settle,
    suggestion,
)
from peft_tradeoffs.config.model import (
    Budgets,
    Comparison,
    Config,
    Contract,
    Dataset,
    EqualMemory,
    Model,
    Noise,
    Profiles,
    Recommendation,
    Training,
    Tune,
)
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.groups import CONTAINED, MODULE
from peft_tradeoffs.runs.settings import RunSettings
from peft_tradeoffs.tasks.metrics import check_margin
from peft_tradeoffs.tasks.task import TASKS


@dataclass(frozen=True)
class Experiment:
    """A configuration that can be run, with every default written out."""

    output: str
    datasets: dict[str, Dataset]
    models: dict[str, Model]
    arms: dict[str, Arm]
    training: Training
    comparison: Comparison
    tune: Tune
    trials: dict[str, list[float]]  # learning rates to try, by arm: those that decide a rate, then those that check it
    contract: Contract
    attribution: dict[str, list[str]]  # arms by the name of the factorial
    budgets: Budgets
    equal_memory: EqualMemory | None
    recommendation: Recommendation
    noise: Noise | None
    profiles: Profiles
    reference: str | None
    imported: dict[str, list[str]]  # paths or patterns by label
    tracking: str  # one of tracking.PACKAGES, or none
    seeds: list[int]
    seeds_per_job: Literal["all", 1]
    keep_weights: bool  # no setting of a run: its results are the same

    @functools.cached_property
    def _training(self) -> dict[str, Any]:
        return self.training.to_dict()

    def run_settings(self, dataset: str, model: str, arm: str) -> RunSettings:
        """All that decides the result of a run but its seed, data, weights and code."""
        chosen = self.arms[arm]
        return RunSettings.of(
            {
                "dataset": dataset,
                "model": model,
                "arm": arm,
                "method": chosen.method,
                "rank": chosen.rank,
                "task": self.datasets[dataset].task,
                "metric": self.datasets[dataset].metric,
                "head": self.models[model].head,
                **chosen.settings,
                **self._training,
                "tuned_as": chosen.tuned_as,
                "save_weights": True,
            }
        )

    def trial_settings(self, dataset: str, model: str, arm: str) -> RunSettings:
        """The same of a trial in the tuning of an arm, but for its learning rate."""
        own: dict[str, Any] = {"epochs": self.tune.epochs, "max_steps": self.tune.max_steps}
        if self.tune.epochs is None:
            own = {key: count for key, count in own.items() if count is not None}
        settings = self.run_settings(dataset, model, arm)
        return replace(settings, **own, learning_rate=None, early_stopping=None, save_weights=False)


def resolve(config: Mapping[str, Any], command_line: Mapping[str, Any] | None = None) -> Experiment:
    """Check `config` and expand it; raises InputError that names the key and the remedy.

    `command_line` is the part of it that came with `--config`, as Snakemake parsed it.
    """
    asked = _typed(config, command_line or {})
    datasets = {name: _dataset(f"datasets.{name}", dataset) for name, dataset in asked.datasets.items()}
    check_varies(asked.methods)
    arms = expand(asked.methods, asked.tune)
    training = asked.training.settled()
    _check_training(training, datasets)
    _check_precision(training, asked.methods)
    metrics = [dataset.metric for dataset in datasets.values() if dataset.metric]
    check_margin("config key comparison.margin", asked.comparison.margin, metrics)
    baseline = _baseline(asked.comparison, arms)
    noise = asked.noise and asked.noise.settled(baseline, asked.seeds)
    memory = asked.equal_memory and asked.equal_memory.settled(list(arms))
    for key, view in (("noise", noise), ("equal_memory", memory)):
        _check_arms(f"{key}.arms", (view and view.arms) or [], arms)
    profiles = _profiles(asked.profiles, training, arms)
    _check_recommendation(asked.recommendation, datasets)
    if training.device == "cpu":
        _refuse_energy(asked.recommendation, asked.budgets)
    for name, cells in asked.attribution.items():
        _check_arms(f"attribution.{name}", cells, arms)
        factors(name, cells, arms)
    return Experiment(
        output=asked.output,
        datasets=datasets,
        models=asked.models,
        arms=arms,
        training=training,
        comparison=asked.comparison.but(baseline=baseline),
        tune=asked.tune,
        trials=check_tuning(asked.tune, asked.methods, asked.seeds),
        contract=asked.contract,
        attribution=asked.attribution,
        budgets=asked.budgets,
        equal_memory=memory,
        recommendation=asked.recommendation,
        noise=noise,
        profiles=profiles,
        reference=asked.reference,
        imported=asked.imported,
        tracking=asked.tracking,
        seeds=asked.seeds,
        seeds_per_job=asked.seeds_per_job,
        keep_weights=asked.keep_weights,
    )


def factors(name: str, cells: list[str], grid: Mapping[str, Arm]) -> dict[str, Any]:
    """What `factorial` finds of these arms of the grid."""
    return factorial(name, {arm: (grid[arm].rank, grid[arm].settings) for arm in cells})


def check_varies(methods: Methods) -> None:
    """Raise InputError for a name under a method's `varies` that is no fact, or one that no arm may have otherwise."""
    for name, method in methods.items():
        for fact in method.varies:
            where = f"config key methods.{name}.varies"
            if fact not in FACTS:
                raise InputError(f"{where}: there is no fact {fact!r}; {suggestion(fact, FACTS, 'facts: ')}")
            if (found := FACTS[fact]).required is not None:
                raise InputError(f"{where}: {fact} must be {found.required!r} in every arm and cannot vary; remove it")
            if not found.may_vary:
                raise InputError(
                    f"{where}: {fact} must be the same in every arm that is compared and cannot vary; remove it"
                )


def _typed(config: Mapping[str, Any], command_line: Mapping[str, Any]) -> Config:
    """The configuration by its types, numbers and paths as they are meant; raises InputError for what has none."""
    own = own_copy(config)
    retype(own, command_line)
    if error := first_error(config_schema(), own):
        raise InputError(explain(error))
    settle(own)
    expand_paths(own)
    try:
        return Config.model_validate(own)
    except ValidationError as refused:  # the schema was written of other types
        first = refused.errors(include_url=False)[0]
        raise InputError(f"{key_of(map(str, first['loc']))}: {first['msg']}") from None


def _dataset(key: str, dataset: Dataset) -> Dataset:
    """The data set with its metric; raises InputError for keys that do not go together."""
    dataset, task = dataset.settled(), TASKS[dataset.task]
    if dataset.metric not in task.metrics:
        raise InputError(
            f"config key {key}.metric: {dataset.metric} does not go with {task.name}; "
            f"must be one of {', '.join(task.metrics)}"
        )
    task.check_block(key, dataset.to_dict())
    if dataset.label in (dataset.text or []):
        raise InputError(
            f"config key {key}.text: {dataset.label} is the label, which the model would read; name other columns"
        )
    _check_group(key, dataset)
    check_splits(key, dataset.source, dataset.splits or {})
    _check_carved(key, dataset)
    return dataset


def _check_group(key: str, dataset: Dataset) -> None:
    """Raise InputError for a group that is no group."""
    if dataset.group is None:
        return
    if dataset.group == dataset.label:
        raise InputError(
            f"config key {key}.group: {dataset.group} is the label; name the column that says which rows belong "
            f"together, or {CONTAINED}"
        )
    if dataset.source == "docstrings" and dataset.group not in (MODULE, CONTAINED):
        raise InputError(
            f"config key {key}.group: {dataset.group!r} is unknown; docstrings are grouped by {MODULE} or {CONTAINED}"
        )


def _check_carved(key: str, dataset: Dataset) -> None:
    """Raise InputError for a data set without a test split, or with shares or limits of what it has not."""
    if both := set(dataset.fractions) & set(dataset.splits or ["train"]):
        raise InputError(f"config key {key}.fractions.{min(both)}: splits has it too; keep one of the two")
    if "test" not in dataset.all_splits():
        raise InputError(f"config key {key}: no test split; set splits.test or fractions.test (0.2, say)")
    if sum(dataset.fractions.values()) > 0.9:
        raise InputError(f"config key {key}.fractions: more than 0.9 in all; leave something to train on")
    if unknown := set(dataset.limit) - dataset.all_splits():
        raise InputError(f"config key {key}.limit.{min(unknown)}: there is no such split; remove it")


def _check_training(training: Training, datasets: Mapping[str, Dataset]) -> None:
    if training.engine == "captured" and training.device == "cpu":
        raise InputError(
            "config key training.engine: captured needs CUDA graphs, which device cpu has not; set eager or remove it"
        )
    if training.batch_size % training.gradient_accumulation_steps:
        raise InputError(
            f"config key training.gradient_accumulation_steps: batch_size {training.batch_size} "
            f"cannot be split into {training.gradient_accumulation_steps} equal parts; choose a divisor of it"
        )
    for name, dataset in datasets.items() if training.early_stopping else ():
        if "validation" not in dataset.all_splits():
            raise InputError(
                f"config key training.early_stopping: data set {name} has no validation split, and "
                "stopping on test would select on it; set fractions.validation (0.1, say)"
            )


def _check_precision(training: Training, methods: Methods) -> None:
    """All arms compute in training.precision: what a method holds or unpacks in another one is refused."""
    precision = training.precision
    wanted = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    for name, method in methods.items():
        if method.dtype == "bfloat16" and precision != "bf16":
            raise InputError(
                f"config key methods.{name}.dtype: bfloat16 weights need autocast; set training.precision bf16, "
                "or dtype float32"
            )
        if method.quantization and (computed := method.quantization.bnb_4bit_compute_dtype) != wanted:
            raise InputError(
                f"config key methods.{name}.quantization.bnb_4bit_compute_dtype: "
                f"{computed} with training.precision {precision}: the arms would compute "
                f"in different precisions; set {wanted}"
            )


def _baseline(comparison: Comparison, arms: Mapping[str, Arm]) -> str:
    """The arm that others are compared with; raises InputError for one that is not in the grid."""
    if comparison.baseline is None:
        return next((name for name, arm in arms.items() if arm.peft is None), next(iter(arms)))
    if comparison.baseline not in arms:
        raise InputError(
            f"config key comparison.baseline: there is no arm {comparison.baseline!r}; "
            f"{suggestion(comparison.baseline, arms, 'arms: ')}"
        )
    return comparison.baseline


def _check_arms(key: str, named: list[str], arms: Mapping[str, Arm]) -> None:
    for arm in named:
        if arm not in arms:
            raise InputError(f"config key {key}: there is no arm {arm!r}; {suggestion(arm, arms, 'arms: ')}")


def _profiles(profiles: Profiles, training: Training, arms: Mapping[str, Arm]) -> Profiles:
    """The profiles with their arms and engines; raises InputError for those that there are not."""
    _check_arms("profiles.arms", profiles.arms or [], arms)
    captured = [engine for engine in profiles.engines or [] if engine.startswith("captured")]
    if captured and training.device != "cuda":
        raise InputError(
            f"config key profiles.engines: {captured[0]} needs CUDA graphs, which device cpu has not; remove it"
        )
    return profiles.settled(list(arms), training)


def _check_recommendation(recommendation: Recommendation, datasets: Mapping[str, Dataset]) -> None:
    for name, dataset in datasets.items() if recommendation.split == "heldout" else ():
        if "heldout" not in dataset.all_splits():
            raise InputError(
                f"config key recommendation.split: heldout, but data set {name} has no such split; set "
                f"datasets.{name}.fractions.heldout (0.1, say), or test here"
            )


def _refuse_energy(recommendation: Recommendation, budgets: Budgets) -> None:
    """Raise InputError for what asks for the energy of runs on the CPU."""
    asked = {
        "recommendation.cheapest: energy": (recommendation.cheapest == "energy", "memory or time"),
        "recommendation.energy_J": (recommendation.energy_J, "null"),
        "budgets.energy_J": (budgets.energy_J, "[]"),
    }
    for key, (wanted, instead) in asked.items():
        if wanted:
            raise InputError(
                f"config key {key}: training.device is cpu, and only a GPU's energy is measured; set {instead} here, "
                "or training.device cuda"
            )

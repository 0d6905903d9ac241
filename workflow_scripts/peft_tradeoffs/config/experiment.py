"""The experiment that a configuration asks for: checked, its defaults written out, expanded into arms.

An arm says where it takes its learning rate, a factorial in which factors some of them differ.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError

from peft_tradeoffs.analysis.finished import FACTS
from peft_tradeoffs.config.fields import how_to_write, is_rate
from peft_tradeoffs.config.file import (
    check_splits,
    config_schema,
    expand_paths,
    explain,
    first_error,
    is_number,
    key_of,
    own_copy,
    retype,
    settle,
    suggestion,
    where_to_read,
)
from peft_tradeoffs.config.model import (
    COMPUTED,
    Budgets,
    Comparison,
    Config,
    Contract,
    Cost,
    Dataset,
    EqualMemory,
    Method,
    Model,
    Noise,
    Profiles,
    Recommendation,
    Training,
    Tune,
)
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import digest
from peft_tradeoffs.core.layout import json_schema
from peft_tradeoffs.inputs.groups import CONTAINED, MODULE
from peft_tradeoffs.inputs.model_files import check_all_linear
from peft_tradeoffs.runs.plan import RunSettings
from peft_tradeoffs.tasks.outputs import SCORED, check_answers, pattern_of
from peft_tradeoffs.tasks.shown import check_margins
from peft_tradeoffs.tasks.task import TASKS

Methods = Mapping[str, Method]
Settings = dict[str, Any]
VARIANTS = ("dora", "qlora", "rslora")  # names of methods that are no types of PEFT's


@dataclass(frozen=True)
class Arm:
    """One (method, rank) of the grid; `name` stands in paths."""

    name: str
    method: str
    rank: int | None  # None where the method has none
    learning_rate: float | None  # None: tuned
    quantization: Settings | None
    gradient_checkpointing: bool
    gpus: int
    dtype: str  # of base weights
    peft: Settings | None  # None: full fine-tuning
    tuned_as: str | None  # the arm whose tuning gives this one its learning rate
    varies: list[str]  # facts of the contract that differ from the baseline on purpose

    @property
    def settings(self) -> Settings:
        """What the arm has of its own in the settings of a run, as they are stored."""
        names = ("learning_rate", "quantization", "gradient_checkpointing", "dtype", "peft")
        return {name: getattr(self, name) for name in names}


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
    cost: Cost
    noise: Noise | None
    profiles: Profiles
    reference: str | None
    imported: dict[str, list[str]]  # paths or patterns by label
    tracking: str  # one of tracking.PACKAGES, or none
    seeds: list[int]
    seeds_per_job: Literal["all", 1]
    keep_weights: bool  # no setting of a run: its results are the same

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
                **self.training.of_run(chosen.gpus),
                "generate": _decoded(self.datasets[dataset]),
                "tuned_as": chosen.tuned_as,
                "save_weights": True,
            }
        )

    def untrained_settings(self, dataset: str, model: str) -> RunSettings:
        """All that decides what a model answers as it is fetched, weights held as the arms hold theirs if all agree."""
        dtypes = sorted({arm.dtype for arm in self.arms.values()})  # of both float32 is last
        any_metric = TASKS[self.datasets[dataset].task].metrics[0]  # all are taken, whichever is reported
        return self.run_settings(dataset, model, next(iter(self.arms))).untrained(any_metric, dtypes[-1])

    def scoring(self, dataset: str) -> dict[str, Any] | None:
        """What scores the answers to a data set's prompts, as the scripts that train take it; None: none are asked for.

        The content of a scorer's file, and of modules of yours that it imports, counts, not their dates.
        """
        asked = self.datasets[dataset]
        if asked.generate is None:
            return None
        scorer = asked.scorer and {**asked.scorer.to_dict(), "sha256": digest(asked.scorer.files())}
        number = pattern_of(asked.generate.number, asked.metric)
        return {"data": f"{self.output}/data/{dataset}", "number": number, "scorer": scorer}

    def fetched(self, dataset: str) -> dict[str, Any]:
        """What of a data set's block decides what is fetched: not how models answer, nor how that is judged."""
        block = self.datasets[dataset].to_dict()
        own = {key: value for key, value in block.items() if key not in ("metric", "scorer", "generate")}
        in_trials = bool(self.trials) and self.tune.metric != "loss"
        return own | ({"generate": self.datasets[dataset].numbers(in_trials)} if block.get("generate") else {})

    def trial_settings(self, dataset: str, model: str, arm: str) -> RunSettings:
        """The same of a trial in the tuning of an arm, but for its learning rate."""
        own: dict[str, Any] = {"epochs": self.tune.epochs, "max_steps": self.tune.max_steps}
        if self.tune.epochs is None:
            own = {key: count for key, count in own.items() if count is not None}
        settings = self.run_settings(dataset, model, arm)
        if self.tune.metric == "loss" and settings.generate:
            own |= {"generate": None, "metric": TASKS[settings.task].metrics[0]}
        return replace(settings, **own, learning_rate=None, early_stopping=None, save_weights=False)


def resolve(config: Mapping[str, Any], command_line: Mapping[str, Any] | None = None) -> Experiment:
    """Check `config` and expand it; raises InputError that names the key and the remedy.

    `command_line` is the part of it that came with `--config`, as Snakemake parsed it.
    """
    asked = _typed(config, command_line or {}).settled()
    datasets = {name: _dataset(f"datasets.{name}", dataset) for name, dataset in asked.datasets.items()}
    check_varies(asked.methods)
    arms = expand(asked.methods, asked.tune)
    training = asked.training.settled()
    _check_training(training, datasets)
    _check_precision(training, asked.methods)
    check_margins(
        "config key comparison.margin",
        asked.comparison.margin,
        {str(dataset.metric) for dataset in datasets.values()},
        asked.comparison.chosen,
    )
    baseline = _baseline(asked.comparison, arms)
    noise = asked.noise and asked.noise.settled(baseline, asked.seeds)
    memory = asked.equal_memory and asked.equal_memory.settled([name for name in arms if arms[name].gpus == 1])
    _check_gpus(training, {arm.method: arm.gpus for arm in arms.values()})
    if wide := [name for name in (memory and memory.arms) or [] if name in arms and arms[name].gpus > 1]:
        raise InputError(
            f"config key equal_memory.arms: runs of {wide[0]} have several GPUs, the view is of one; remove it"
        )
    for key, view in (("noise", noise), ("equal_memory", memory)):
        _check_arms(f"{key}.arms", (view and view.arms) or [], arms)
    profiles = _profiles(asked.profiles, training, arms)
    _check_recommendation(asked.recommendation, datasets)
    _refuse_memory_of_pages(training, memory, asked.recommendation)
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
        trials=_trials(asked, datasets),
        contract=asked.contract,
        attribution=asked.attribution,
        budgets=asked.budgets,
        equal_memory=memory,
        recommendation=asked.recommendation,
        cost=asked.cost,
        noise=noise,
        profiles=profiles,
        reference=asked.reference,
        imported=asked.imported,
        tracking=asked.tracking,
        seeds=asked.seeds,
        seeds_per_job=asked.seeds_per_job,
        keep_weights=asked.keep_weights,
    )


def _trials(asked: Config, datasets: Mapping[str, Dataset]) -> dict[str, list[float]]:
    """Learning rates to try, by arm. Raises InputError for a `tune` that cannot be."""
    if asked.tune.metric == "loss":
        for name, dataset in datasets.items():
            if dataset.generate is None and TASKS[dataset.task].metrics[0] != dataset.metric:
                raise InputError(
                    f"config key tune.metric: loss, but data set {name} reports {dataset.metric}, which costs trials "
                    "nothing more; remove the key"
                )
    return check_tuning(asked.tune, asked.methods, asked.seeds)


def factors(name: str, cells: list[str], grid: Mapping[str, Arm]) -> dict[str, Any]:
    """What `factorial` finds of these arms of the grid."""
    from peft_tradeoffs.analysis.contract import factorial  # pandas, for which `status` does not wait

    return factorial(name, {arm: (grid[arm].rank, {**grid[arm].settings, "gpus": grid[arm].gpus}) for arm in cells})


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
        raise InputError(explain(error) + where_to_read(own, error))
    settle(own)
    expand_paths(own)
    try:
        return Config.model_validate(own)
    except ValidationError as refused:  # the schema was written of other types
        first = refused.errors(include_url=False)[0]
        raise InputError(f"{key_of(map(str, first['loc']))}: {first['msg']}") from None


def _dataset(key: str, dataset: Dataset) -> Dataset:
    """The data set with its metric; raises InputError for keys that do not go together."""
    task = TASKS[dataset.task]
    if dataset.generate is not None and dataset.metric is None:
        raise InputError(f"config key {key}.metric: with generate it must be named; one of {', '.join(task.metrics)}")
    dataset = dataset.settled()
    if dataset.metric not in task.metrics:
        raise InputError(
            f"config key {key}.metric: {dataset.metric} does not go with {task.name}; "
            f"must be one of {', '.join(task.metrics)}"
        )
    task.check_block(key, dataset.to_dict())
    check_answers(key, dataset.to_dict(), str(dataset.metric))
    if dataset.label in (dataset.text or []):
        raise InputError(
            f"config key {key}.text: {dataset.label} is the label, which the model would read; name other columns"
        )
    _check_group(key, dataset)
    if dataset.forgetting and task.reader is None:
        learned = " or ".join(name for name, one in TASKS.items() if one.reader is not None)
        raise InputError(
            f"config key {key}.forgetting: {task.name} learns no tokens, so it has no loss on a general text; remove "
            f"it, or set task to {learned}"
        )
    check_splits(key, dataset.source, dataset.splits or {})
    _check_carved(key, dataset)
    return dataset


def _decoded(dataset: Dataset) -> dict[str, Any] | None:
    """What of a data set's `generate` decides what is written."""
    if (asked := dataset.generate) is None:
        return None
    return {"max_new_tokens": asked.max_new_tokens, "batch_size": asked.batch_size}


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
    if training.parallel == "sharded":
        _check_sharded(training)
    if training.engine == "captured" and training.device == "cpu":
        raise InputError(
            "config key training.engine: captured needs CUDA graphs, which device cpu has not; set eager or remove it"
        )
    if training.batch_size % training.gradient_accumulation_steps:
        raise InputError(
            f"config key training.gradient_accumulation_steps: batch_size {training.batch_size} "
            f"cannot be split into {training.gradient_accumulation_steps} equal parts; choose a divisor of it"
        )
    if training.optimizer.startswith("paged") and training.device == "cpu":
        raise InputError(
            f"config key training.optimizer: {training.optimizer} moves pages between a GPU and the host, and "
            "training.device is cpu; set adamw_8bit, or training.device cuda"
        )
    for name, dataset in datasets.items() if training.early_stopping else ():
        if "validation" not in dataset.all_splits():
            raise InputError(
                f"config key training.early_stopping: data set {name} has no validation split, and "
                "stopping on test would select on it; set fractions.validation (0.1, say)"
            )


def _check_gpus(training: Training, by_method: Mapping[str, int]) -> None:
    """Raise InputError for GPUs that a batch has no rows for, and for what runs on several, or on one, cannot have."""
    parts, several = training.gradient_accumulation_steps, max(by_method.values()) > 1
    if training.parallel == "sharded" and not several:
        raise InputError("config key training.parallel: sharded, but each run has one GPU; set gpus, or remove it")
    if several and training.optimizer == "paged_adamw_8bit":
        raise InputError(
            "config key training.optimizer: paged_adamw_8bit keeps its state in pages, which GPUs cannot send each "
            "other; set adamw or adamw_8bit where runs have several GPUs"
        )
    for name, gpus in by_method.items():
        key = f"config key {'training' if gpus == training.gpus else f'methods.{name}'}.gpus"
        if training.batch_size < gpus * parts:
            each = f" in {parts} parts (gradient_accumulation_steps)" if parts > 1 else ""
            raise InputError(
                f"{key}: {gpus} GPUs share batches of training.batch_size {training.batch_size}{each}, and some would "
                f"have no row; raise batch_size to {gpus * parts} or more, or take fewer GPUs"
            )


def _check_sharded(training: Training) -> None:
    if training.engine == "captured":
        raise InputError(
            "config key training.engine: captured, but steps of training.parallel sharded cannot be captured in CUDA "
            "graphs; set eager or remove it"
        )
    if training.optimizer != "adamw":
        raise InputError(
            f"config key training.optimizer: {training.optimizer} has blocks of moments that training.parallel sharded "
            "would cut in two; set adamw, or parallel data"
        )


def _check_precision(training: Training, methods: Methods) -> None:
    """All arms compute in training.precision: what a method holds or unpacks in another one is refused."""
    precision, wanted = training.precision, COMPUTED[training.precision]
    for name, method in methods.items():
        if method.dtype == "bfloat16" and precision != "bf16":
            raise InputError(
                f"config key methods.{name}.dtype: bfloat16 weights with training.precision {precision}: they need "
                "bf16 autocast; set training.precision bf16, or dtype float32"
            )
        if method.quantization and (computed := method.quantization.bnb_4bit_compute_dtype) != wanted:
            raise InputError(
                f"config key methods.{name}.quantization.bnb_4bit_compute_dtype: "
                f"{computed} with training.precision {precision}: the arms would compute "
                f"in different precisions; set {wanted}, or remove the key"
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
    """The profiles with their arms and engines; raises InputError for those that there cannot be."""
    _check_arms("profiles.arms", profiles.arms or [], arms)
    if wide := [name for name in profiles.arms or [] if arms[name].gpus > 1]:
        raise InputError(f"config key profiles.arms: runs of {wide[0]} have several GPUs, a profile has one; remove it")
    captured = [engine for engine in profiles.engines or [] if engine.startswith("captured")]
    if captured and training.device != "cuda":
        raise InputError(
            f"config key profiles.engines: {captured[0]} needs CUDA graphs, which device cpu has not; remove it"
        )
    return profiles.settled([name for name, arm in arms.items() if arm.gpus == 1], training)


def _check_recommendation(recommendation: Recommendation, datasets: Mapping[str, Dataset]) -> None:
    for name, dataset in datasets.items() if recommendation.split == "heldout" else ():
        if "heldout" not in dataset.all_splits():
            raise InputError(
                f"config key recommendation.split: heldout, but data set {name} has no such split; set "
                f"datasets.{name}.fractions.heldout (0.1, say), or test here"
            )
        if dataset.metric in SCORED:
            raise InputError(
                f"config key recommendation.split: heldout, but models answer the test prompts of data set {name} "
                f"alone, so there is no {dataset.metric} on heldout; set test"
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


def _refuse_memory_of_pages(training: Training, caps: EqualMemory | None, recommendation: Recommendation) -> None:
    """Raise InputError for a limit of memory where no peak holds what the optimizer does."""
    by_memory = recommendation.cheapest == "memory"
    limits = {
        "equal_memory": caps,
        "recommendation.memory_GiB": recommendation.memory_GiB,
        "recommendation.cheapest": by_memory,
    }
    for key, limit in limits.items() if training.optimizer.startswith("paged") else ():
        if limit:
            raise InputError(
                f"config key {key}: with training.optimizer {training.optimizer} peaks do not hold the optimizer's "
                "state, which moves to the host when memory is short; "
                + ("set it to time or energy" if limit is by_memory else "remove the key")
                + ", or set adamw_8bit"
            )


def expand(methods: Methods, tune: Tune) -> dict[str, Arm]:
    """The arms of these methods by name; raises InputError for a method that cannot be one."""
    arms: dict[str, Arm] = {}
    for name in methods:
        for arm in _method_arms(name, methods, tune):
            if arm.name in arms:
                raise InputError(f"config key methods.{name}: the arm name {arm.name} is taken; rename it")
            arms[arm.name] = arm
    return arms


def _method_arms(name: str, methods: Methods, tune: Tune) -> list[Arm]:
    method = methods[name]
    whole = Arm(
        name=name,
        method=name,
        rank=None,
        learning_rate=method.learning_rate if isinstance(method.learning_rate, int | float) else None,
        quantization=method.quantization.to_dict() if method.quantization else None,
        gradient_checkpointing=method.gradient_checkpointing,
        gpus=method.gpus or 1,
        dtype=method.dtype,
        peft=None,
        tuned_as=None,
        varies=method.varies,
    )
    if method.peft is None:
        _check_full(name, method)
        return [replace(whole, tuned_as=tuned_as(name, None, methods, tune))]
    fields = _peft_fields(f"methods.{name}", method, method.peft)
    rank_field, alpha_field = fields["x-rank-field"], fields["x-alpha-field"]
    arms = []
    for rank in method.each_rank:
        block = dict(method.peft)
        if rank is not None:
            block[rank_field] = rank
        rank_used = block.get(rank_field) if rank_field else None
        if alpha_field and rank_used is not None:
            block.setdefault(alpha_field, 2 * rank_used)
        arm = name if rank is None else f"{name}-r{rank}"
        rate_of = tuned_as(name, rank, methods, tune)
        arms.append(replace(whole, name=arm, rank=rank_used, peft=block, tuned_as=rate_of))
    return arms


def _check_full(name: str, method: Method) -> None:
    """Raise InputError for a method without peft that asks for what full fine-tuning has not."""
    key, schema = f"methods.{name}", json_schema("peft")
    if re.split(r"[._-]", name.lower())[0] in {*map(str.lower, schema["$defs"]), *VARIANTS}:
        raise InputError(
            f"config key {key}.peft: missing, so {name} would be full fine-tuning; add peft, or give the method "
            "another name"
        )
    for field in ("quantization", "ranks"):
        if getattr(method, field) is not None:
            raise InputError(f"config key {key}.{field}: full fine-tuning has none; add peft or remove it")


def _peft_fields(key: str, method: Method, peft: Settings) -> Settings:
    """What PEFT's schema has of the type of a method; raises InputError for a block that is not one of it."""
    schema = json_schema("peft")
    known = schema["$defs"]
    if peft["peft_type"] not in known:
        where, excluded = f"config key {key}.peft.peft_type: {peft['peft_type']!r}", schema["x-excluded-types"]
        if peft["peft_type"] in excluded:
            raise InputError(f"{where} cannot be used: {excluded[peft['peft_type']]}; choose another")
        raise InputError(f"{where} is unknown; {suggestion(peft['peft_type'].upper(), known, 'must be one of ')}")
    fields = known[peft["peft_type"]]
    if error := first_error(fields, peft):
        raise InputError(explain(error, f"{key}.peft"))
    try:
        check_all_linear(peft.get("target_modules"))
    except InputError as error:
        raise InputError(f"config key {key}.peft.{error}") from None
    if method.quantization and not fields["x-quantization"]:
        able = sorted(name for name, about in known.items() if about["x-quantization"])
        raise InputError(
            f"config key {key}.quantization: PEFT cannot put {peft['peft_type']} on a quantised model; remove the key, "
            f"or take one of {', '.join(able)}"
        )
    if method.ranks is not None:
        if fields["x-rank-field"] is None:
            raise InputError(f"config key {key}.ranks: {peft['peft_type']} has no rank; remove the key")
        if fields["x-rank-field"] in peft:
            raise InputError(f"config key {key}.peft.{fields['x-rank-field']}: ranks sets it; keep one of the two")
    return fields


# Where an arm takes its rate ------------------------------------------------------------------------------------------


def tuned_as(method: str, rank: int | None, methods: Methods, tune: Tune) -> str | None:
    """The arm whose tuning gives an arm its learning rate; None where that is a number.

    Raises InputError for a learning rate that names no tuned method.
    """
    rates = methods[method].learning_rate
    if isinstance(rates, int | float):
        return None
    if isinstance(rates, str):
        method = _followed(method, rates, methods)
    ranks = methods[method].ranks
    if not ranks:
        return method
    if tune.by == "method":
        rank = tune.tuned_rank(ranks)
    elif rank not in ranks:
        lacks = (
            "is tuned at each of its ranks, and an arm without a rank has none"
            if rank is None
            else f"has no rank {rank}"
        )
        remedy = "give a rate" if rank is None else "give it that rank"
        raise InputError(
            f"config key tune.by: arm, but {method}, whose rate is taken, {lacks}; {remedy}, or set tune.by method"
        )
    return f"{method}-r{rank}"


def _followed(method: str, named: str, methods: Methods) -> str:
    where = f"config key methods.{method}.learning_rate"
    how = how_to_write(named, ["number", "array"], is_rate)
    if is_number(named):
        raise InputError(f"{where}: {named!r} is a text; must be a number: {how}")
    if named not in methods:
        how = how or suggestion(named, methods, "methods: ")
        raise InputError(f"{where}: {named!r} is no number, and there is no method {named!r}; {how}")
    if not methods[named].rates:
        raise InputError(f"{where}: {named} has no list of rates to tune; give it one, or write a number here")
    return named


def check_tuning(tune: Tune, methods: Methods, seeds: list[int]) -> dict[str, list[float]]:
    """The learning rates to try, ascending, by arm: of those that decide a rate, then of those that check it.

    Raises InputError for a grid that would not tune all methods alike.
    """
    grids = {name: method.rates for name, method in methods.items() if method.rates}
    if not grids:
        return {}
    of_trials = range(tune.seed, tune.seed + tune.retry + 1)
    if both := sorted(set(of_trials) & set(seeds)):
        own = f"the seeds {tune.seed} to {of_trials[-1]}" if tune.retry else f"the seed {tune.seed}"
        raise InputError(
            f"config key tune.seed: trials have {own}, and {both[0]} is one of seeds, whose runs would not be fresh; "
            "change it"
        )
    first = next(iter(grids))
    for name, rates in grids.items():
        if len(rates) != len(grids[first]):
            raise InputError(
                f"config key methods.{name}.learning_rate: {len(rates)} rates, but methods.{first} has "
                f"{len(grids[first])}; give every method as many trials"
            )
    _check_tuned_ranks(tune, [methods[name].ranks or [] for name in grids])
    arms = [(name, rank) for name in grids for rank in methods[name].each_rank]
    deciding = {arm: grids[name] for name, rank in arms if (arm := tuned_as(name, rank, methods, tune))}
    checking = {f"{name}-r{rank}": grids[name] for name, rank in arms if rank in tune.check_ranks}
    return {**deciding, **{arm: rates for arm, rates in checking.items() if arm not in deciding}}


def _check_tuned_ranks(tune: Tune, known: list[list[int]]) -> None:
    """Raise InputError for a rank to tune at that no tuned method has, or that is one of all that are tuned."""
    if tune.by == "arm":
        for key in ("rank", "check_ranks"):
            if getattr(tune, key):
                raise InputError(
                    f"config key tune.{key}: with tune.by arm every rank is tuned; remove it, or set tune.by: method"
                )
    for key, ranks in (("rank", [tune.rank] if tune.rank else []), ("check_ranks", tune.check_ranks)):
        for rank in ranks:
            if not any(rank in own for own in known):
                raise InputError(f"config key tune.{key}: no tuned method has rank {rank}; name one that is in ranks")

"""The experiment that a configuration asks for: checked, its defaults written out, expanded into arms.

An arm says where it takes its learning rate, a factorial in which factors some of them differ.
"""

import itertools
import json
import re
from collections import Counter
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
from peft_tradeoffs.config.training import check_training
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
OFF = (None, False, "float32")  # what a setting is without its factor; of another pair, what the first arm has
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
    check_training(training, datasets)
    _check_precision(training, asked.methods)
    check_margins(
        "config key comparison.margin",
        asked.comparison.margin,
        {str(dataset.metric) for dataset in datasets.values()},
        asked.comparison.chosen,
    )
    baseline = _baseline(asked.comparison, arms)
    noise = asked.noise and asked.noise.settled(baseline, asked.seeds)
    memory = asked.equal_memory and asked.equal_memory.settled(list(arms))
    training.check_gpus({arm.method: arm.gpus for arm in arms.values()}, memory is not None)
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


# Factorials -----------------------------------------------------------------------------------------------------------


def factorial(name: str, arms: dict[str, tuple[int | None, Settings]]) -> dict[str, Any]:
    """{"factors": [name, …], "arms": {arm: [0 or 1 a factor]}} of arms given by rank and resolved settings.

    A factor is a setting (quantization, gradient checkpointing, dtype, rank or a field of the PEFT configuration) with
    two values. Learning rates may differ. Raises InputError unless the arms have every combination of two or more
    factors once.
    """
    where = f"config key attribution.{name}"
    table = _settings(arms)
    values = {key: list(dict.fromkeys(_text(row.get(key)) for row in table.values())) for key in _keys(table)}
    differing = [key for key, found in values.items() if len(found) > 1]
    ons = {key: _on(key, table) for key in differing}
    if len(differing) < 2:
        among = f"in {_label(differing[0], ons[differing[0]])} alone" if differing else "in no setting"
        raise InputError(
            f"{where}: its arms differ {among} (learning rates aside); name the arms of every combination of two "
            "settings or more"
        )
    for key in differing:
        if len(values[key]) > 2:
            first: dict[str, str] = {}
            for arm, row in table.items():
                first.setdefault(_text(row.get(key)), arm)
            raise InputError(
                f"{where}: {_said(key)} has {len(first)} values (in {', '.join(first.values())}), where a "
                "factor has two; name arms that have two of them"
            )
    factors = [_label(key, ons[key]) for key in differing]
    cells = {arm: [int(_text(row.get(key)) == _text(ons[key])) for key in differing] for arm, row in table.items()}
    for (i, one), (j, other) in itertools.combinations(enumerate(factors), 2):
        if len({cell[i] ^ cell[j] for cell in cells.values()}) == 1:
            raise InputError(
                f"{where}: {one} and {other} change together, so that what each does cannot be told; give both the "
                "same value in all arms but for one of them, or add arms"
            )
    counts = Counter(map(tuple, cells.values()))
    if twice := next((cell for cell, count in counts.items() if count > 1), None):
        same = [arm for arm, cell in cells.items() if tuple(cell) == twice]
        raise InputError(f"{where}: {' and '.join(same)} have the same settings; name one of them")
    for cell in itertools.product((0, 1), repeat=len(factors)):
        if cell not in counts:
            on = " and ".join(itertools.compress(factors, cell))
            off = " and ".join(itertools.compress(factors, [not bit for bit in cell]))
            lacking = " and ".join([f"with {on}"] * bool(on) + [f"without {off}"] * bool(off))
            raise InputError(
                f"{where}: its arms differ in {len(factors)} settings ({', '.join(factors)}), so there must be "
                f"{2 ** len(factors)}, one per combination; add one {lacking}, or name arms that differ in fewer"
            )
    return {"factors": factors, "arms": cells}


def _settings(arms: dict[str, tuple[int | None, Settings]]) -> dict[str, Settings]:
    """What decides memory, time and energy, flat: what all arms have field by field, what some lack as a whole."""
    known = json_schema("peft")["$defs"]
    whole = {key for key in ("quantization", "peft") if any(settings[key] is None for _, settings in arms.values())}
    table = {}
    for arm, (rank, settings) in arms.items():
        row = {key: settings[key] for key in ("gradient_checkpointing", "dtype")}
        for key in ("quantization", "peft"):
            block = settings[key]
            if key in whole:
                row[key] = block
                continue
            if key == "peft":
                fields = known[block["peft_type"]]
                block = _per_rank(block, rank, fields["x-rank-field"], fields["x-alpha-field"])
            row |= {f"{key}.{field}": value for field, value in block.items()}
        table[arm] = row
    return table


def _per_rank(peft: Settings, rank: int | None, rank_field: str | None, alpha_field: str | None) -> Settings:
    """The PEFT configuration with alpha as a multiple of the rank, which it follows."""
    if rank is None or alpha_field not in peft:
        return peft
    others = {key: value for key, value in peft.items() if key not in (rank_field, alpha_field)}
    return {"rank": rank, f"{alpha_field} / rank": peft[alpha_field] / rank, **others}


def _keys(table: dict[str, Settings]) -> list[str]:
    """Every setting, quantization first."""
    found = dict.fromkeys(key for row in table.values() for key in row)
    return sorted(found, key=lambda key: not key.startswith("quantization"))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _on(key: str, table: dict[str, Settings]) -> Any:
    """The value of a setting that has its factor on, where it has two."""
    values = [row.get(key) for row in table.values()]
    others = [value for value in values if not any(value is off or value == off for off in OFF)]
    if len(others) < len(values) and others:
        return others[0]
    return next(value for value in values if _text(value) != _text(values[0]))


def _said(key: str) -> str:
    """A setting as readers know it."""
    return key.removeprefix("peft.").removeprefix("quantization.").replace("gradient_check", "gradient check")


def _label(key: str, on: Any) -> str:
    """A factor's name."""
    if key == "quantization":
        return on["bnb_4bit_quant_type"].upper()
    if key == "peft":
        return on["peft_type"]
    if key == "dtype":
        return f"{on} base weights"
    if on is True:
        return _said(key)
    value = ", ".join(on) if isinstance(on, list) else on if isinstance(on, str) else _text(on)
    return f"{_said(key)} {value}"

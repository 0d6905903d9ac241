"""The configuration: validated, defaults written out, expanded into arms."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snakemake.utils import validate

from peft_tradeoffs.analysis.facts import FACTS
from peft_tradeoffs.config.factorial import factorial
from peft_tradeoffs.config.file import own_copy, retype, settle
from peft_tradeoffs.config.paths import check_splits, expand_paths
from peft_tradeoffs.config.schema import CONFIG, config_schema, explain, first_error, is_number, suggestion
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import json_schema
from peft_tradeoffs.inputs.model_files import check_all_linear
from peft_tradeoffs.tasks.metrics import check_margin
from peft_tradeoffs.tasks.task import TASKS

Methods = dict[str, dict[str, Any]]


def tuned_as(method: str, rank: int | None, methods: Methods, tune: dict[str, Any]) -> str | None:
    """The arm whose tuning gives an arm its learning rate; None where that is a number.

    Raises InputError for a learning rate that names no tuned method.
    """
    rates = methods[method]["learning_rate"]
    if isinstance(rates, int | float):
        return None
    if isinstance(rates, str):
        method = _followed(method, rates, methods)
    ranks = methods[method].get("ranks")
    if not ranks:
        return method
    if tune["by"] == "method":
        rank = tune["rank"] if tune["rank"] in ranks else sorted(ranks)[(len(ranks) - 1) // 2]
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
    if is_number(named):
        raise InputError(f"{where}: {named!r} is a text; must be a number (in YAML write 5.0e-4, not 5e-4 or '5')")
    if named not in methods:
        raise InputError(
            f"{where}: {named!r} is no number, and there is no method {named!r}; "
            f"{suggestion(named, methods, 'methods: ')}"
        )
    if not isinstance(methods[named]["learning_rate"], list):
        raise InputError(f"{where}: {named} has no list of rates to tune; give it one, or write a number here")
    return named


def check_tuning(tune: dict[str, Any], methods: Methods, seeds: list[int]) -> dict[str, list[float]]:
    """The learning rates to try, ascending, by arm: of those that decide a rate, then of those that check it.

    Raises InputError for a grid that would not tune all methods alike.
    """
    grids = {name: sorted(block["learning_rate"]) for name, block in methods.items() if _has_grid(block)}
    if not grids:
        return {}
    if tune["seed"] in seeds:
        raise InputError(
            f"config key tune.seed: {tune['seed']} is one of seeds, whose runs would not be fresh; change it"
        )
    first = next(iter(grids))
    for name, rates in grids.items():
        if len(rates) != len(grids[first]):
            raise InputError(
                f"config key methods.{name}.learning_rate: {len(rates)} rates, but methods.{first} has "
                f"{len(grids[first])}; give every method as many trials"
            )
    ranked = {name: methods[name]["ranks"] for name in grids if methods[name].get("ranks")}
    if tune["by"] == "arm":
        for key in ("rank", "check_ranks"):
            if tune[key]:
                raise InputError(f"config key tune.{key}: with tune.by arm every rank is tuned; remove it")
    for key, ranks in (("rank", [tune["rank"]] if tune["rank"] else []), ("check_ranks", tune["check_ranks"])):
        for rank in ranks:
            if not any(rank in known for known in ranked.values()):
                raise InputError(f"config key tune.{key}: no tuned method has rank {rank}; name one that is in ranks")
    arms = [(name, rank) for name in grids for rank in methods[name].get("ranks", [None])]
    deciding = {tuned_as(name, rank, methods, tune): grids[name] for name, rank in arms}
    checking = {f"{name}-r{rank}": grids[name] for name, rank in arms if rank in tune["check_ranks"]}
    return {**deciding, **{arm: rates for arm, rates in checking.items() if arm not in deciding}}


def _has_grid(method: dict[str, Any]) -> bool:
    return isinstance(method["learning_rate"], list)


def check_varies(methods: dict[str, dict[str, Any]]) -> None:
    """Raise InputError for a name under a method's `varies` that is no fact, or one that no arm may have otherwise."""
    for name, method in methods.items():
        for fact in method["varies"]:
            where = f"config key methods.{name}.varies"
            if fact not in FACTS:
                raise InputError(f"{where}: there is no fact {fact!r}; {suggestion(fact, FACTS, 'facts: ')}")
            if (found := FACTS[fact]).required is not None:
                raise InputError(f"{where}: {fact} must be {found.required!r} in every arm and cannot vary; remove it")
            if not found.may_vary:
                raise InputError(
                    f"{where}: {fact} must be the same in every arm that is compared and cannot vary; remove it"
                )


def complete_views(config: dict[str, Any], grid: Mapping[str, Any]) -> None:
    """Write out the defaults of `noise`, `equal_memory` and `profiles`; `grid` are the arms by name.

    Raises InputError for an arm that the grid has not, an engine that the device has not, arms of an attribution that
    are no factorial, or energy that a CPU does not measure.
    """
    arms = list(grid)
    if (noise := config["noise"]) is not None:
        noise.setdefault("arms", [config["comparison"]["baseline"]])
        noise.setdefault("repeats", 3)
        noise.setdefault("seed", config["seeds"][0])
        _check_arms("noise.arms", noise["arms"], arms)
    if (memory := config["equal_memory"]) is not None:
        memory.setdefault("arms", arms)
        memory.setdefault("largest_batch_size", 1024)
        memory.setdefault("learning_rate_rule", "sqrt")
        _check_arms("equal_memory.arms", memory["arms"], arms)
    _complete_profiles(config["profiles"], config["training"], arms)
    if config["recommendation"]["split"] == "heldout":
        for name, dataset in config["datasets"].items():
            if "heldout" not in {*dataset.get("splits", {}), *dataset["fractions"]}:
                raise InputError(
                    f"config key recommendation.split: heldout, but data set {name} has no such split; set "
                    f"datasets.{name}.fractions.heldout (0.1, say), or test here"
                )
    if config["training"]["device"] == "cpu":
        _refuse_energy(config["recommendation"], config["budgets"])
    for name, cells in config["attribution"].items():
        _check_arms(f"attribution.{name}", cells, arms)
        factors(name, cells, grid)


def factors(name: str, cells: list[str], grid: Mapping[str, Any]) -> dict[str, Any]:
    """What `factorial` finds of these arms of the grid."""
    return factorial(name, {arm: (grid[arm].rank, grid[arm].settings) for arm in cells})


def _complete_profiles(profiles: dict[str, Any], training: dict[str, Any], arms: list[str]) -> None:
    profiles.setdefault("arms", arms)
    _check_arms("profiles.arms", profiles["arms"], arms)
    cuda = training["device"] == "cuda"
    asked = profiles.setdefault("engines", ["captured", "compiled"] if cuda else [])
    if not cuda and (captured := [engine for engine in asked if engine.startswith("captured")]):
        raise InputError(
            f"config key profiles.engines: {captured[0]} needs CUDA graphs, which device cpu has not; remove it"
        )
    trained = "-".join(["captured"] * (training["engine"] == "captured") + ["compiled"] * training["compile"])
    profiles["engines"] = list(dict.fromkeys(["eager", *asked, trained or "eager"]))


def _refuse_energy(recommendation: dict[str, Any], budgets: dict[str, list[float]]) -> None:
    """Raise InputError for what asks for the energy of runs on the CPU."""
    asked = {
        "recommendation.cheapest: energy": (recommendation["cheapest"] == "energy", "memory or time"),
        "recommendation.energy_J": (recommendation["energy_J"], "null"),
        "budgets.energy_J": (budgets["energy_J"], "[]"),
    }
    for key, (wanted, instead) in asked.items():
        if wanted:
            raise InputError(
                f"config key {key}: training.device is cpu, and only a GPU's energy is measured; set {instead} here, "
                "or training.device cuda"
            )


def _check_arms(key: str, named: list[str], arms: list[str]) -> None:
    for arm in named:
        if arm not in arms:
            raise InputError(f"config key {key}: there is no arm {arm!r}; {suggestion(arm, arms, 'arms: ')}")


VIEWS = (
    *("contract", "attribution", "budgets", "equal_memory", "recommendation", "noise", "profiles", "reference"),
    *("imported", "tracking"),
)
VARIANTS = ("dora", "qlora", "rslora")  # names of methods that are no types of PEFT's


@dataclass(frozen=True)
class Arm:
    """One (method, rank) of the grid; `name` stands in paths."""

    name: str
    method: str
    rank: int | None  # None where the method has none
    settings: dict[str, Any]  # learning_rate (None: tuned), peft, quantization, gradient_checkpointing, dtype
    tuned_as: str | None  # the arm whose tuning gives this one its learning rate
    varies: list[str]  # facts of the contract that differ from the baseline on purpose


@dataclass(frozen=True)
class Experiment:
    """A validated configuration with every default written out."""

    output: str
    datasets: dict[str, dict]
    models: dict[str, dict]
    arms: dict[str, Arm]
    training: dict[str, Any]
    comparison: dict[str, Any]
    tune: dict[str, Any]
    trials: dict[str, list[float]]  # learning rates to try, by arm: those that decide a rate, then those that check it
    contract: dict[str, Any]
    attribution: dict[str, list[str]]
    budgets: dict[str, list[float]]
    equal_memory: dict[str, Any] | None
    recommendation: dict[str, Any]
    noise: dict[str, Any] | None
    profiles: dict[str, Any]
    reference: str | None
    imported: dict[str, list[str]]
    tracking: str  # one of tracking.PACKAGES, or none
    seeds: list[int]
    seeds_per_job: str | int
    keep_weights: bool  # no setting of a run: its results are the same

    def run_settings(self, dataset: str, model: str, arm: str) -> dict[str, Any]:
        """All that decides the result of a run but its seed, data, weights and code."""
        chosen = self.arms[arm]
        return {
            "dataset": dataset,
            "model": model,
            "arm": arm,
            "method": chosen.method,
            "rank": chosen.rank,
            "task": self.datasets[dataset]["task"],
            "metric": self.datasets[dataset]["metric"],
            "head": self.models[model].get("head"),
            **chosen.settings,
            **self.training,
            "tuned_as": chosen.tuned_as,
            "save_weights": True,
        }

    def trial_settings(self, dataset: str, model: str, arm: str) -> dict[str, Any]:
        """The same of a trial in the tuning of an arm, but for its learning rate."""
        budget = {key: self.tune[key] for key in ("epochs", "max_steps")}
        if budget["epochs"] is None:
            budget = {key: steps for key, steps in budget.items() if steps is not None}
        settings = self.run_settings(dataset, model, arm)
        return settings | budget | {"learning_rate": None, "early_stopping": None, "save_weights": False}


def resolve(config: Mapping[str, Any], command_line: Mapping[str, Any] | None = None) -> Experiment:
    """Validate `config` and expand it; raises InputError that names the key and the remedy.

    `command_line` is the part of it that came with `--config`, as Snakemake parsed it.
    """
    config = own_copy(config)  # defaults are filled in below
    retype(config, command_line or {})
    if error := first_error(config_schema(), config):
        raise InputError(explain(error))
    settle(config)
    validate(config, CONFIG)  # fills in the defaults, for which the types must be right already
    expand_paths(config)
    for name, dataset in config["datasets"].items():
        _check_dataset(f"datasets.{name}", dataset)
    check_varies(config["methods"])
    arms = _arms(config["methods"], config["tune"])
    _check_training(config)
    _check_precision(config)
    asked = [dataset["metric"] for dataset in config["datasets"].values()]
    check_margin("config key comparison.margin", config["comparison"]["margin"], asked)
    _choose_baseline(config["comparison"], arms)
    complete_views(config, arms)
    return Experiment(
        output=config["output"],
        datasets=config["datasets"],
        models=config["models"],
        arms=arms,
        training=config["training"],
        comparison=config["comparison"],
        tune=config["tune"],
        trials=check_tuning(config["tune"], config["methods"], config["seeds"]),
        **{key: config[key] for key in VIEWS},
        seeds=config["seeds"],
        seeds_per_job=config["seeds_per_job"],
        keep_weights=config["keep_weights"],
    )


def _check_dataset(key: str, dataset: dict[str, Any]) -> None:
    task = TASKS[dataset["task"]]
    dataset.setdefault("metric", task.metrics[0])
    if dataset["metric"] not in task.metrics:
        raise InputError(
            f"config key {key}.metric: {dataset['metric']} does not go with {task.name}; "
            f"must be one of {', '.join(task.metrics)}"
        )
    task.check_block(key, dataset)
    if dataset.get("label") in dataset.get("text", []):
        raise InputError(
            f"config key {key}.text: {dataset['label']} is the label, which the model would read; name other columns"
        )
    check_splits(key, dataset)
    own, carved = set(dataset.get("splits", {"train": ""})), set(dataset["fractions"])
    if both := own & carved:
        raise InputError(f"config key {key}.fractions.{min(both)}: splits has it too; keep one of the two")
    if "test" not in own | carved:
        raise InputError(f"config key {key}: no test split; set splits.test or fractions.test (0.2, say)")
    if sum(dataset["fractions"].values()) > 0.9:
        raise InputError(f"config key {key}.fractions: more than 0.9 in all; leave something to train on")
    if unknown := set(dataset["limit"]) - own - carved:
        raise InputError(f"config key {key}.limit.{min(unknown)}: there is no such split; remove it")


def _check_training(config: dict[str, Any]) -> None:
    training = config["training"]
    if training["engine"] is None:
        training["engine"] = "captured" if training["device"] == "cuda" else "eager"
    if training["engine"] == "captured" and training["device"] == "cpu":
        raise InputError(
            "config key training.engine: captured needs CUDA graphs, which device cpu has not; set eager or remove it"
        )
    if training["batch_size"] % training["gradient_accumulation_steps"]:
        raise InputError(
            f"config key training.gradient_accumulation_steps: batch_size {training['batch_size']} "
            f"cannot be split into {training['gradient_accumulation_steps']} equal parts; choose a divisor of it"
        )
    if training["early_stopping"]:
        training["early_stopping"].setdefault("min_delta", 0.0)
        for name, dataset in config["datasets"].items():
            if "validation" not in dataset.get("splits", {}) and "validation" not in dataset["fractions"]:
                raise InputError(
                    f"config key training.early_stopping: data set {name} has no validation split, and "
                    "stopping on test would select on it; set fractions.validation (0.1, say)"
                )


def _check_precision(config: dict[str, Any]) -> None:
    """All arms compute in training.precision: what a method holds or unpacks in another one is refused."""
    precision = config["training"]["precision"]
    wanted = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    for name, method in config["methods"].items():
        if method["dtype"] == "bfloat16" and precision != "bf16":
            raise InputError(
                f"config key methods.{name}.dtype: bfloat16 weights need autocast; set training.precision bf16, "
                "or dtype float32"
            )
        quantization = method.get("quantization")
        if quantization and quantization["bnb_4bit_compute_dtype"] != wanted:
            raise InputError(
                f"config key methods.{name}.quantization.bnb_4bit_compute_dtype: "
                f"{quantization['bnb_4bit_compute_dtype']} with training.precision {precision}: the arms would compute "
                f"in different precisions; set {wanted}"
            )


def _choose_baseline(comparison: dict[str, Any], arms: dict[str, Arm]) -> None:
    if comparison["baseline"] is None:
        whole = (name for name, arm in arms.items() if arm.settings["peft"] is None)
        comparison["baseline"] = next(whole, next(iter(arms)))
    elif comparison["baseline"] not in arms:
        raise InputError(
            f"config key comparison.baseline: there is no arm {comparison['baseline']!r}; "
            f"{suggestion(comparison['baseline'], arms, 'arms: ')}"
        )


def _arms(methods: dict[str, dict], tune: dict[str, Any]) -> dict[str, Arm]:
    schema = json_schema("peft")
    arms: dict[str, Arm] = {}
    for name in methods:
        for arm in _method_arms(name, methods, tune, schema):
            if arm.name in arms:
                raise InputError(f"config key methods.{name}: the arm name {arm.name} is taken; rename it")
            arms[arm.name] = arm
    return arms


def _method_arms(name: str, methods: dict[str, dict], tune: dict[str, Any], schema: dict[str, Any]) -> list[Arm]:
    key, method = f"methods.{name}", methods[name]
    peft = method.get("peft")
    common = {
        "learning_rate": method["learning_rate"] if isinstance(method["learning_rate"], int | float) else None,
        "quantization": method.get("quantization"),
        "gradient_checkpointing": method["gradient_checkpointing"],
        "dtype": method["dtype"],
    }
    if peft is None:
        if re.split(r"[._-]", name.lower())[0] in {*map(str.lower, schema["$defs"]), *VARIANTS}:
            raise InputError(
                f"config key {key}.peft: missing, so {name} would be full fine-tuning; add peft, or give the method "
                "another name"
            )
        for field in ("quantization", "ranks"):
            if field in method:
                raise InputError(f"config key {key}.{field}: full fine-tuning has none; add peft or remove it")
        if method["dtype"] != "float32":
            raise InputError(
                f"config key {key}.dtype: full fine-tuning trains all weights, in float32; add peft, or remove "
                f"{method['dtype']}"
            )
        return [Arm(name, name, None, {**common, "peft": None}, tuned_as(name, None, methods, tune), method["varies"])]
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
    if common["quantization"] and not fields["x-quantization"]:
        able = sorted(name for name, about in known.items() if about["x-quantization"])
        raise InputError(
            f"config key {key}.quantization: PEFT cannot put {peft['peft_type']} on a quantised model; remove the key, "
            f"or take one of {', '.join(able)}"
        )
    rank_field, alpha_field = fields["x-rank-field"], fields["x-alpha-field"]
    if "ranks" in method:
        if rank_field is None:
            raise InputError(f"config key {key}.ranks: {peft['peft_type']} has no rank; remove the key")
        if rank_field in peft:
            raise InputError(f"config key {key}.peft.{rank_field}: ranks sets it; keep one of the two")
    arms = []
    for rank in method.get("ranks", [None]):
        block = dict(peft)
        if rank is not None:
            block[rank_field] = rank
        rank_used = block.get(rank_field) if rank_field else None
        if alpha_field and rank_used is not None:
            block.setdefault(alpha_field, 2 * rank_used)
        arm = name if rank is None else f"{name}-r{rank}"
        rate_of = tuned_as(name, rank, methods, tune)
        arms.append(Arm(arm, name, rank_used, {**common, "peft": block}, rate_of, method["varies"]))
    return arms

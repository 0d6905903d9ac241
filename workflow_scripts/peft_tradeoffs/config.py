"""The configuration: validated, defaults written out, expanded into arms."""

import difflib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from snakemake.utils import validate

from peft_tradeoffs.errors import InputError

SCHEMAS = Path(__file__).parents[2] / "schemas"
METRICS = {"classification": ["accuracy", "f1", "mcc"], "regression": ["pearson", "spearman"]}


@dataclass(frozen=True)
class Arm:
    """One (method, rank) of the grid; `name` stands in paths."""

    name: str
    method: str
    rank: int | None  # None where the method has none
    settings: dict[str, Any]  # learning_rate, peft, quantization, gradient_checkpointing


@dataclass(frozen=True)
class Experiment:
    """A validated configuration with every default written out."""

    output: str
    datasets: dict[str, dict]
    models: dict[str, dict]
    arms: dict[str, Arm]
    training: dict[str, Any]
    seeds: list[int]
    seeds_per_job: str | int

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
        }


def resolve(config: dict[str, Any]) -> Experiment:
    """Validate `config` and expand it; raises InputError that names the key and the remedy."""
    config = json.loads(json.dumps(config))  # own copy: defaults are filled in below
    path = SCHEMAS / "config.schema.yaml"
    schema = yaml.safe_load(path.read_text(encoding="utf-8"))
    if error := _first_error(schema, config):
        raise InputError(explain(error))
    validate(config, path)  # fills in the defaults, for which the types must be right already
    for name, dataset in config["datasets"].items():
        _check_dataset(f"datasets.{name}", dataset)
    arms = _arms(config["methods"])
    _check_training(config)
    return Experiment(
        output=config["output"],
        datasets=config["datasets"],
        models=config["models"],
        arms=arms,
        training=config["training"],
        seeds=config["seeds"],
        seeds_per_job=config["seeds_per_job"],
    )


def _first_error(schema: dict[str, Any], value: Any) -> jsonschema.ValidationError | None:
    return jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(value))


def explain(error: jsonschema.ValidationError, prefix: str = "") -> str:
    """One line that names the key, the value and what would be right."""
    path = [*([prefix] if prefix else []), *map(str, error.absolute_path)]
    value, schema = error.instance, error.schema
    if error.validator == "additionalProperties":
        known = sorted(schema.get("properties", {}))
        unknown = sorted(set(value) - set(known))[0]
        close = difflib.get_close_matches(unknown, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
        return f"config key {'.'.join([*path, unknown])}: unknown key; {hint}"
    where = f"config key {'.'.join(path) or '(top level)'}"
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in value)
        return f"{where}: the key {missing} is missing"
    if error.validator == "not":
        return f"{where}: this key does not belong to this source; remove it"
    if error.validator == "pattern" and "description" in schema:
        return f"{where}: {value!r} is not allowed: {schema['description']}"
    if error.validator == "type" and isinstance(value, str) and "number" in str(error.validator_value):
        return f"{where}: {value!r} is a text; must be a number (in YAML write 5.0e-4, not 5e-4)"
    if error.validator == "type":
        return f"{where}: {value!r} has the wrong type; must be {_either(error.validator_value)}"
    if error.validator == "enum":
        return f"{where}: {value!r} is unknown; must be one of {_either(error.validator_value)}"
    return f"{where}: {error.message}"


def _either(values: str | list) -> str:
    return values if isinstance(values, str) else ", ".join(map(str, values))


def _check_dataset(key: str, dataset: dict[str, Any]) -> None:
    metrics = METRICS[dataset["task"]]
    dataset.setdefault("metric", metrics[0])
    if dataset["metric"] not in metrics:
        raise InputError(
            f"config key {key}.metric: {dataset['metric']} does not go with {dataset['task']}; "
            f"must be one of {', '.join(metrics)}"
        )
    if dataset["source"] == "docstrings" and dataset["task"] != "classification":
        raise InputError(f"config key {key}.task: docstrings are a classification; remove the key")
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
    if training["batch_size"] % training["gradient_accumulation_steps"]:
        raise InputError(
            f"config key training.gradient_accumulation_steps: batch_size {training['batch_size']} "
            f"cannot be split into {training['gradient_accumulation_steps']} equal parts"
        )
    if training["early_stopping"]:
        training["early_stopping"].setdefault("min_delta", 0.0)
        for name, dataset in config["datasets"].items():
            if "validation" not in dataset.get("splits", {}) and "validation" not in dataset["fractions"]:
                raise InputError(
                    f"config key training.early_stopping: data set {name} has no validation split, and "
                    "stopping on test would select on it; set fractions.validation (0.1, say)"
                )


def _arms(methods: dict[str, dict]) -> dict[str, Arm]:
    schema = json.loads((SCHEMAS / "peft.schema.json").read_text(encoding="utf-8"))
    arms: dict[str, Arm] = {}
    for name, method in methods.items():
        for arm in _method_arms(name, method, schema):
            if arm.name in arms:
                raise InputError(f"config key methods.{name}: the arm name {arm.name} is taken; rename it")
            arms[arm.name] = arm
    return arms


def _method_arms(name: str, method: dict[str, Any], schema: dict[str, Any]) -> list[Arm]:
    key = f"methods.{name}"
    peft = method.get("peft")
    common = {
        "learning_rate": method["learning_rate"],
        "quantization": method.get("quantization"),
        "gradient_checkpointing": method["gradient_checkpointing"],
    }
    if peft is None:
        for field in ("quantization", "ranks"):
            if field in method:
                raise InputError(f"config key {key}.{field}: full fine-tuning has none; add peft or remove it")
        return [Arm(name, name, None, {**common, "peft": None})]
    known = schema["$defs"]
    if peft["peft_type"] not in known:
        close = difflib.get_close_matches(str(peft["peft_type"]).upper(), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"must be one of {', '.join(sorted(known))}"
        raise InputError(f"config key {key}.peft.peft_type: {peft['peft_type']!r} is unknown; {hint}")
    fields = known[peft["peft_type"]]
    if error := _first_error(fields, peft):
        raise InputError(explain(error, f"{key}.peft"))
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
        arms.append(Arm(arm, name, rank_used, {**common, "peft": block}))
    return arms


class _UniqueKeys(yaml.SafeLoader):
    """A YAML loader that refuses a key written twice, of which PyYAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise InputError(
                    f"{key.start_mark.name}, line {key.start_mark.line + 1}: the key {key.value} stands "
                    "twice; names must be unique"
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def check_unique_keys(path: Path) -> None:
    """Raise InputError, naming file and line, if a mapping in the YAML file has a key twice."""
    with path.open(encoding="utf-8") as file:
        yaml.load(file, Loader=_UniqueKeys)

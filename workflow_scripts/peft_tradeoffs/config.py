"""The configuration: validated, defaults written out, expanded into arms."""

import datetime
import difflib
import json
import math
from collections.abc import Iterable
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
    settings: dict[str, Any]  # learning_rate, peft, quantization, gradient_checkpointing, dtype


@dataclass(frozen=True)
class Experiment:
    """A validated configuration with every default written out."""

    output: str
    datasets: dict[str, dict]
    models: dict[str, dict]
    arms: dict[str, Arm]
    training: dict[str, Any]
    comparison: dict[str, Any]
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
    config = _own_copy(config)  # defaults are filled in below
    path = SCHEMAS / "config.schema.yaml"
    schema = yaml.safe_load(path.read_text(encoding="utf-8"))
    if error := _first_error(schema, config):
        raise InputError(explain(error))
    validate(config, path)  # fills in the defaults, for which the types must be right already
    for name, dataset in config["datasets"].items():
        _check_dataset(f"datasets.{name}", dataset)
    arms = _arms(config["methods"])
    _check_training(config)
    _check_precision(config)
    _choose_baseline(config["comparison"], arms)
    return Experiment(
        output=config["output"],
        datasets=config["datasets"],
        models=config["models"],
        arms=arms,
        training=config["training"],
        comparison=config["comparison"],
        seeds=config["seeds"],
        seeds_per_job=config["seeds_per_job"],
    )


def _own_copy(value: Any, key: str = "") -> Any:
    """A copy of a YAML value; raises InputError for one that JSON, and so the schema, does not know."""
    if isinstance(value, dict):
        return {str(name): _own_copy(item, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_own_copy(item, f"{key}.{index}") for index, item in enumerate(value)]
    if isinstance(value, datetime.date):
        raise InputError(f"config key {key}: YAML reads {value} as a date; put it in quotes")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"config key {key}: {value} is not a finite number; write one")
    return value


def _first_error(schema: dict[str, Any], value: Any) -> jsonschema.ValidationError | None:
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(value))
    unknown = [error for error in errors if error.validator == "additionalProperties"]
    return jsonschema.exceptions.best_match(unknown or errors)  # a misspelt key before the one it leaves missing


def explain(error: jsonschema.ValidationError, prefix: str = "") -> str:
    """One line that names the key, the value and what would be right."""
    path = [*([prefix] if prefix else []), *map(str, error.absolute_path)]
    value, schema, wanted = error.instance, error.schema, error.validator_value
    where = f"config key {'.'.join(path) or '(top level)'}"
    match error.validator:
        case "additionalProperties":
            known, refused = schema.get("properties", {}), schema.get("x-excluded-fields", {})
            unknown = sorted(set(value) - set(known))[0]
            where = f"config key {'.'.join([*path, unknown])}"
            if unknown in refused:
                return f"{where}: cannot be set: {refused[unknown]}; remove it"
            return f"{where}: unknown key; {_suggestion(unknown, known, 'known keys: ')}"
        case "required":
            return f"{where}: the key {next(key for key in wanted if key not in value)} is missing; add it"
        case "not":
            return f"{where}: this key does not belong to this source; remove it"
        case "pattern" if "description" in schema:
            return f"{where}: {value!r} is not allowed: {schema['description']}"
        case "pattern":
            return f"{where}: {value!r} is not allowed: it must match {wanted}"
        case "type" if value is None:
            return f"{where}: nothing stands there; must be {_kinds(wanted)}"
        case "type" if isinstance(value, str) and _is_number(value) and {"number", "integer"} & set(_listed(wanted)):
            return f"{where}: {value!r} is a text; must be {_kinds(wanted)} (in YAML write 5.0e-4, not 5e-4 or '5')"
        case "type":
            return f"{where}: {value!r} has the wrong type; must be {_kinds(wanted)}"
        case "enum":
            return f"{where}: {value!r} is unknown; must be one of {', '.join(map(_shown, wanted))}"
        case "const":
            return f"{where}: {value!r} is not allowed; must be {json.dumps(wanted)}"
        case "uniqueItems":
            return f"{where}: {value} has an entry twice; remove one"
        case "minItems" | "minProperties" | "minLength":
            return f"{where}: {value!r} is too short; at least {wanted} must stand there"
        case "maxItems":
            return f"{where}: {value} is too long; at most {wanted} may stand there"
        case "anyOf":
            return f"{where}: {value!r} is none of what it can be: {json.dumps(wanted)}"
    return f"{where}: {error.message}"


_KINDS = {
    "object": "a mapping (lines of `key: value`)",
    "array": "a list, as in [a, b]",
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "null": "null",
}


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _kinds(types: str | list[str]) -> str:
    return " or ".join(_KINDS[name] for name in _listed(types))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _suggestion(word: str, known: Iterable[str], otherwise: str) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"{otherwise}{', '.join(known)}"


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
            f"{_suggestion(comparison['baseline'], arms, 'arms: ')}"
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
        "dtype": method["dtype"],
    }
    if peft is None:
        for field in ("quantization", "ranks"):
            if field in method:
                raise InputError(f"config key {key}.{field}: full fine-tuning has none; add peft or remove it")
        if method["dtype"] != "float32":
            raise InputError(
                f"config key {key}.dtype: full fine-tuning trains all weights, in float32; add peft, or remove "
                f"{method['dtype']}"
            )
        return [Arm(name, name, None, {**common, "peft": None})]
    known = schema["$defs"]
    if peft["peft_type"] not in known:
        where, excluded = f"config key {key}.peft.peft_type: {peft['peft_type']!r}", schema["x-excluded-types"]
        if peft["peft_type"] in excluded:
            raise InputError(f"{where} cannot be used: {excluded[peft['peft_type']]}; choose another")
        raise InputError(f"{where} is unknown; {_suggestion(peft['peft_type'].upper(), known, 'must be one of ')}")
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
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {key.value} stands twice and names must be unique"
                    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def check_file(path: Path) -> None:
    """Raise InputError, naming file and line, unless `path` is a YAML (or JSON) mapping that has no key twice."""
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.load(text, Loader=_UniqueKeys)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file in {Path.cwd()}; name one with --configfile") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(filter(None, (error.context, error.problem)))
        raise InputError(f"{path}, line {mark.line + 1}: broken YAML: {said}; mend that line or one before") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path}: broken YAML: {' '.join(str(error).split())}; take the character out") from error
    if not isinstance(content, dict):
        found = "empty" if content is None else f"a {type(content).__name__}"
        raise InputError(f"{path}: {found}; must hold the keys datasets, models, methods, training and seeds")

"""Write schemas/peft.schema.json: which fields a method's `peft` block may have, by its `peft_type`.

The fields and their types are read from the config classes of the installed PEFT, so that a block can be
validated without importing PEFT. Run it again after a change of PEFT's version. Each definition carries
`x-rank-field` and `x-alpha-field` (the fields that hold the rank and LoRA's alpha, or null), `x-quantization` (whether
it goes with a quantised base model) and `x-excluded-fields` (why a field that PEFT has is refused here).
"""

import argparse
import dataclasses
import enum
import types
import typing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.files import write_json

WORKFLOW_SETS = "the workflow sets it"
CALLS_IN_THE_LOOP = "it needs calls in the training loop that PEFT leaves to the user"
DATA_FIRST = "it needs a pass over data before training"

RESERVED_FIELDS = {
    "task_type": WORKFLOW_SETS,
    "inference_mode": WORKFLOW_SETS,
    "base_model_name_or_path": WORKFLOW_SETS,
    "revision": WORKFLOW_SETS,
    "peft_version": WORKFLOW_SETS,
    "auto_mapping": WORKFLOW_SETS,
    "modules_to_save": "the workflow trains the same head in every arm",
}
HEAD_HIDDEN = "its model hides which parameters are the head's, which every arm must train alike"
EXCLUDED_TYPES = {
    "ADALORA": f"{CALLS_IN_THE_LOOP}; without them it never reallocates ranks",
    "ADAPTION_PROMPT": "it cannot train the head beside the adapter",
    "CARTRIDGE": "its key-value cache is made from a text by code of its own",
    "CPT": "PEFT has it for causal language models alone",
    "MULTITASK_PROMPT_TUNING": "it needs task ids in every batch",
    "POLY": "it needs task ids in every batch",
    **dict.fromkeys(("P_TUNING", "PREFIX_TUNING", "PROMPT_TUNING"), HEAD_HIDDEN),
    "SHADOW": "PEFT cannot train it with a sequence classification head",
    "TRAINABLE_TOKENS": "it cannot train the head beside the adapter; use LORA's trainable_token_indices",
    "XLORA": "it mixes LoRA adapters trained before",
}
EXCLUDED_FIELDS = {
    "ADAMSS": dict.fromkeys(
        (
            "use_asa",
            "asa_target_subspaces",
            "init_warmup",
            "final_warmup",
            "mask_interval",
            "asa_importance_beta",
            "asa_uncertainty_beta",
            "asa_schedule_exponent",
        ),
        CALLS_IN_THE_LOOP,
    ),
    "LORA": {
        "alora_invocation_tokens": "PEFT has it for causal language models alone",
        "arrow_config": "it routes between adapters trained before",
        "corda_config": DATA_FIRST,
        "eva_config": DATA_FIRST,
        "kasa_config": CALLS_IN_THE_LOOP,
        "layer_replication": "it changes the backbone, so that the arms no longer share one",
        "loftq_config": "it changes the backbone's weights by a quantisation of its own",
        "lora_ga_config": DATA_FIRST,
        "megatron_config": "it needs Megatron",
        "megatron_core": "it needs Megatron",
        "monteclora_config": CALLS_IN_THE_LOOP,
        "runtime_config": "it needs a Python object",
        "use_bdlora": "it is for serving over several GPUs",
    },
    "PVERA": {"sample_at_inference": "predictions could not be reproduced"},
}
# PEFT reads or changes the base layer's weights as a matrix, which those of a 4-bit layer are not.
NOT_QUANTIZED = (
    *("ADAMSS", "DEFT", "DELORA", "FROD", "GLORA", "GRALORA", "HRA", "LOHA", "LOKR", "OSF", "PEANUT", "PSOFT"),
    *("SUPERTUNING", "TINYLORA"),
)
# Initial weights that PEFT takes without a word and that then are not what they say, or differ at each load.
EXCLUDED_VALUES = {
    ("LORA", "init_lora_weights"): {"eva", "corda", "loftq", "pissa_niter_[number of iters]"},
}
# OFT's `r` is a number of blocks and OSF's `effective_rank` counts what stays frozen: the larger, the smaller
# the adapter. Neither is a rank to sweep.
RANK_FIELD = "r"
NO_RANK = {"OFT"}
# RandLoRA's `randlora_alpha` is left out: its scale (20 r by default) is not that of LoRA's alpha.
ALPHA_FIELDS = ("lora_alpha", "alpha", "psoft_alpha")


def type_schema(annotation: Any, refused: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The JSON schema of a type annotation, less the strings in `refused`; {} where it is no simple type."""
    simple = {
        bool: "boolean",
        int: "integer",
        float: "number",
        str: "string",
        type(None): "null",
        dict: "object",
    }
    if annotation in simple:
        return {"type": simple[annotation]}
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any_of([type_schema(argument, refused) for argument in arguments])
    if origin is typing.Literal:
        return {"enum": [value for value in arguments if value not in refused]}
    if origin is list:
        return {"type": "array", "items": type_schema(arguments[0], refused)}
    if origin is dict:
        return {"type": "object", "additionalProperties": type_schema(arguments[1], refused)}
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return {"enum": [member.value for member in annotation]}
    return {}


def any_of(options: list[dict[str, Any]]) -> dict[str, Any]:
    """One schema for any of `options`: plain types become one list, and an enumeration narrows a string."""
    if {} in options:
        return {}
    if any("enum" in option for option in options):
        options = [option for option in options if option != {"type": "string"}]
    plain = [option["type"] for option in options if option.keys() == {"type"}]
    rest = [option for option in options if option.keys() != {"type"}]
    if plain:
        rest.insert(0, {"type": plain if len(plain) > 1 else plain[0]})
    return rest[0] if len(rest) == 1 else {"anyOf": rest}


def config_schema(peft_type: str, config_class: type) -> dict[str, Any]:
    """The JSON schema of the `peft` block of one PEFT type."""
    hints = typing.get_type_hints(config_class)
    fields = {field.name: field for field in dataclasses.fields(config_class) if field.init}
    excluded = RESERVED_FIELDS | EXCLUDED_FIELDS.get(peft_type, {})
    properties: dict[str, Any] = {"peft_type": {"const": peft_type}}
    for name, field in fields.items():
        if name in excluded or name == "peft_type":
            continue
        hint = hints[name] | None if field.default is None else hints[name]
        properties[name] = type_schema(hint, frozenset(EXCLUDED_VALUES.get((peft_type, name), ())))
    rank = RANK_FIELD if RANK_FIELD in properties and peft_type not in NO_RANK else None
    if rank:
        properties[rank]["minimum"] = 1
    return {
        "type": "object",
        "required": ["peft_type"],
        "properties": properties,
        "additionalProperties": False,
        "x-rank-field": rank,
        "x-alpha-field": next((name for name in ALPHA_FIELDS if name in properties), None),
        "x-quantization": peft_type not in NOT_QUANTIZED,
        "x-excluded-fields": {name: reason for name, reason in excluded.items() if name in fields},
    }


def peft_schema() -> dict[str, Any]:
    """The schema of a method's `peft` block, for every usable PEFT type of the installed PEFT."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    classes = {str(peft_type.value): config for peft_type, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    usable = sorted(classes.keys() - EXCLUDED_TYPES.keys())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A method's peft block",
        "description": f"generated by workflow_scripts/write_peft_schema.py from peft {version('peft')}",
        "type": "object",
        "required": ["peft_type"],
        "properties": {"peft_type": {"enum": usable}},
        "allOf": [
            {
                "if": {"properties": {"peft_type": {"const": name}}, "required": ["peft_type"]},
                "then": {"$ref": f"#/$defs/{name}"},
            }
            for name in usable
        ],
        "x-excluded-types": EXCLUDED_TYPES,
        "$defs": {name: config_schema(name, classes[name]) for name in usable},
    }


def main() -> None:
    """Parse the command line and write the schema."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("schemas/peft.schema.json"), help="file to write")
    write_json(parser.parse_args().output, peft_schema())


if __name__ == "__main__":
    run(main)

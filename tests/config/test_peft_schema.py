"""schemas/peft.schema.json: in step with the installed PEFT, and right about what it refuses."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import write_peft_schema
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas/peft.schema.json").read_text(encoding="utf-8"))
CONFIG_CLASSES = {str(peft_type.value): config for peft_type, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
FIELDS = {name: {field.name: field for field in dataclasses.fields(config)} for name, config in CONFIG_CLASSES.items()}


def is_valid(block: dict[str, Any]) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(block)


def test_the_committed_schema_is_what_the_script_writes() -> None:
    assert write_peft_schema.peft_schema() == SCHEMA, "run workflow_scripts/write_peft_schema.py"


def test_it_is_a_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_peft_type_is_usable_or_has_a_reason() -> None:
    assert not SCHEMA["$defs"].keys() & SCHEMA["x-excluded-types"].keys()
    assert SCHEMA["$defs"].keys() | SCHEMA["x-excluded-types"].keys() == CONFIG_CLASSES.keys()


def test_every_field_is_allowed_or_has_a_reason() -> None:
    for name, definition in SCHEMA["$defs"].items():
        assert definition["properties"].keys() | definition["x-excluded-fields"].keys() == FIELDS[name].keys()


def test_the_exclusions_name_what_peft_has() -> None:
    for peft_type, excluded in write_peft_schema.EXCLUDED_FIELDS.items():
        assert excluded.keys() <= FIELDS[peft_type].keys()
    for (peft_type, field), values in write_peft_schema.EXCLUDED_VALUES.items():
        assert all(value in str(FIELDS[peft_type][field].type) for value in values)


@pytest.mark.parametrize("name", SCHEMA["$defs"])
def test_pefts_own_defaults_are_valid(name: str) -> None:
    block = {"peft_type": name}
    for field in SCHEMA["$defs"][name]["properties"].keys() - {"peft_type"}:
        default = FIELDS[name][field].default
        if default is not dataclasses.MISSING and (name, field) != ("OFT", "r"):
            block[field] = getattr(default, "value", default)
    jsonschema.Draft202012Validator(SCHEMA["$defs"][name]).validate(block)
    assert is_valid(block)


@pytest.mark.parametrize(
    "block",
    [
        {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_lin", "v_lin"]},
        {"peft_type": "LORA", "target_modules": "all-linear", "use_dora": True, "lora_dropout": 0},
        {"peft_type": "LORA", "use_rslora": True, "init_lora_weights": "pissa", "rank_pattern": {"q_lin": 4}},
        {"peft_type": "IA3", "target_modules": ["k_lin", "lin2"], "feedforward_modules": ["lin2"]},
        {"peft_type": "VERA", "r": 64, "projection_prng_key": 1},
        {"peft_type": "OFT", "oft_block_size": 16},
    ],
)
def test_blocks_that_peft_takes(block: dict[str, Any]) -> None:
    assert is_valid(block)
    CONFIG_CLASSES[block["peft_type"]](**{key: value for key, value in block.items() if key != "peft_type"})


@pytest.mark.parametrize(
    "block",
    [
        {"r": 8},
        {"peft_type": "LORE"},
        {"peft_type": "XLORA"},
        {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4},
        {"peft_type": "LORA", "lora_alfa": 16},
        {"peft_type": "LORA", "r": 0},
        {"peft_type": "LORA", "r": "8"},
        {"peft_type": "LORA", "r": 8.5},
        {"peft_type": "LORA", "bias": "some"},
        {"peft_type": "LORA", "target_modules": [1]},
        {"peft_type": "LORA", "init_lora_weights": "eva"},
        {"peft_type": "LORA", "modules_to_save": ["classifier"]},
        {"peft_type": "LORA", "task_type": "SEQ_CLS"},
        {"peft_type": "IA3", "r": 8},
        {"peft_type": "ROAD", "variant": "road_3"},
    ],
)
def test_blocks_that_are_refused(block: dict[str, Any]) -> None:
    assert not is_valid(block)


@pytest.mark.parametrize(
    ("name", "rank", "alpha"),
    [
        ("LORA", "r", "lora_alpha"),
        ("LOHA", "r", "alpha"),
        ("VERA", "r", None),
        ("RANDLORA", "r", None),
        ("OFT", None, None),
        ("IA3", None, None),
    ],
)
def test_rank_and_alpha_fields(name: str, rank: str | None, alpha: str | None) -> None:
    assert SCHEMA["$defs"][name]["x-rank-field"] == rank
    assert SCHEMA["$defs"][name]["x-alpha-field"] == alpha

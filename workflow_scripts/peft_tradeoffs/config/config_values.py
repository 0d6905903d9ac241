"""The values of a configuration: a copy of our own, and what the command line made texts of."""

import datetime
import math
import re
from collections.abc import Mapping
from typing import Any

from peft_tradeoffs.config.config_errors import is_number, key_of
from peft_tradeoffs.config.config_file import DEEPEST, MOST
from peft_tradeoffs.config.config_schema import (
    Schema,
    config_schema,
    followed,
    inner,
    kinds,
    options,
    peft_schema,
    values,
)
from peft_tradeoffs.core.errors import InputError

LARGEST_WHOLE = 2**63  # that a column of whole numbers holds
LARGEST = 1e100  # its square can still be added up
WORDS = {"true": True, "false": False, "null": None, "~": None}


def own_copy(config: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a configuration, aliases written out; raises InputError for what JSON, and so the schema, has not."""
    budget = iter(range(MOST))

    def copy(value: Any, keys: tuple[str, ...]) -> Any:
        key = key_of(keys)
        if len(keys) > DEEPEST or next(budget, None) is None:
            raise InputError(f"{key}: more than {DEEPEST} levels or {MOST:,} values, aliases written out; write less")
        if any("\ud800" <= sign <= "\udfff" for text in (*keys[-1:], value) if isinstance(text, str) for sign in text):
            raise InputError(f"{key}: {value!a:.80} has half of a character, as UTF-16 has them; write it in UTF-8")
        if isinstance(value, Mapping):
            return {str(name): copy(item, (*keys, str(name))) for name, item in value.items()}
        if isinstance(value, list):
            return [copy(item, (*keys, str(index))) for index, item in enumerate(value)]
        if isinstance(value, datetime.date):
            raise InputError(f"{key}: YAML reads {value} as a date; put it in quotes")
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{key}: {value} is not a finite number; write one")
        if isinstance(value, int) and abs(value) >= LARGEST_WHOLE:
            raise InputError(f"{key}: a number of {len(str(abs(value)))} digits is too large; write a smaller one")
        if isinstance(value, float) and abs(value) > LARGEST:
            raise InputError(f"{key}: {value:g} is too large; write a smaller number")
        if isinstance(value, str | int | float | None):
            return value
        raise InputError(f"{key}: a {type(value).__name__}, which no configuration has; write a text or a number")

    return copy(config, ())


def retype(config: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Make numbers, booleans and nulls again of those that `--config` made texts of, below its keys, in place.

    `given` is what Snakemake made of the command line: whatever stands in a list or mapping there is a text. A text
    becomes what the schema wants where it is exactly that; others stay, and the schema refuses them.
    """
    for name in given:
        if name in config:
            config[name] = _retyped(config[name], given[name], inner(config_schema(), name))
    methods = config.get("methods")
    for name, method in (given.get("methods") or {}).items() if isinstance(given.get("methods"), Mapping) else ():
        peft = methods[name].get("peft") if isinstance(methods[name], dict) else None
        if isinstance(method, Mapping) and isinstance(method.get("peft"), Mapping) and isinstance(peft, dict):
            fields = peft_schema()["$defs"].get(str(peft.get("peft_type")), {})
            methods[name]["peft"] = _retyped(peft, method["peft"], fields)


def settle(config: dict[str, Any]) -> None:
    """Write whole numbers as such where the schema wants them, in place: to it, and to YAML, 8.0 is one too.

    Raises InputError for one that no column of whole numbers holds, as 1e30 is.
    """
    for name in config:
        config[name] = _settled(config[name], inner(config_schema(), name), (name,))
    for name, method in config["methods"].items():
        if peft := method.get("peft"):
            schema = peft_schema()["$defs"].get(peft["peft_type"], {})
            method["peft"] = _settled(peft, schema, ("methods", name, "peft"))


def _settled(value: Any, schema: Schema, keys: tuple[str, ...]) -> Any:
    if isinstance(value, dict):
        return {name: _settled(item, inner(schema, name), (*keys, name)) for name, item in value.items()}
    if isinstance(value, list):
        lists = inner(_lists(schema), 0)
        return [_settled(item, lists, (*keys, str(index))) for index, item in enumerate(value)]
    wanted = kinds(schema)
    if not (isinstance(value, float) and value.is_integer() and "integer" in wanted and "number" not in wanted):
        return value
    if abs(value) >= LARGEST_WHOLE:
        raise InputError(f"{key_of(keys)}: {value:g} is too large; write a smaller number")
    return int(value)


def _lists(schema: Schema) -> Schema:
    """The schema that lists at a place must fit."""
    return next((option for option in options(followed(schema)) if "array" in kinds(option)), schema)


def _retyped(value: Any, given: Any, schema: Schema) -> Any:
    if isinstance(value, dict) and isinstance(given, Mapping):
        return {
            name: _retyped(item, given[name], inner(schema, name)) if name in given else item
            for name, item in value.items()
        }
    if isinstance(value, list):
        lists = _lists(schema)
        return [_retyped(item, item, inner(lists, 0)) for item in value]
    return _value(value, followed(schema)) if isinstance(value, str) else value


def _value(text: str, schema: Schema) -> Any:
    wanted, listed = kinds(schema), values(schema)
    if text in listed:
        return text
    number = None
    if re.fullmatch(r"[-+]?[0-9]+", text):
        number = int(text)
    elif re.fullmatch(r"[-+0-9.eE]+", text) and is_number(text):
        number = float(text)
    if number is not None and ("number" in wanted or ("integer" in wanted and isinstance(number, int))):
        return number
    word = WORDS.get(text.lower(), text)
    if (isinstance(word, bool) and "boolean" in wanted) or (word is None and "null" in wanted):
        return word
    return text

"""What the schemas want at a place of the configuration."""

import functools
from collections.abc import Iterable
from typing import Any

import yaml

from peft_tradeoffs.core.layout import SCHEMAS, json_schema

CONFIG = SCHEMAS / "config.schema.yaml"
Schema = dict[str, Any]
_NAMED = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}


@functools.cache
def config_schema() -> Schema:
    """The schema of the configuration. Do not change what is returned."""
    return yaml.load(CONFIG.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def peft_schema() -> Schema:
    """The schema of a method's `peft` block. Do not change what is returned."""
    return json_schema("peft")


def inner(schema: Schema, key: str | int) -> Schema:
    """The schema of what stands at `key` of a mapping or list; empty where anything may stand."""
    schema = followed(schema)
    if isinstance(key, int):
        found = schema.get("items", {})
    else:
        found = schema.get("properties", {}).get(key, schema.get("additionalProperties", {}))
    return followed(found) if isinstance(found, dict) else {}


def followed(schema: Schema) -> Schema:
    """The schema that a reference names, or the schema itself."""
    while reference := schema.get("$ref"):
        schema = config_schema()["$defs"][reference.rpartition("/")[2]]
    return schema


def kinds(schema: Schema) -> set[str]:
    """The JSON types of the values that a schema takes; empty for any."""
    schema = followed(schema)
    listed = schema.get("type", [])
    found = {listed} if isinstance(listed, str) else set(listed)
    for value in values(schema):
        found.add(_NAMED[type(value)])
    for option in options(schema):
        found |= kinds(option)
    return found


def options(schema: Schema) -> Iterable[Schema]:
    """The schemas of which a value must fit one."""
    return schema.get("anyOf", schema.get("oneOf", []))


def values(schema: Schema) -> list[Any]:
    """The values that a schema lists."""
    return [schema["const"]] if "const" in schema else schema.get("enum", [])

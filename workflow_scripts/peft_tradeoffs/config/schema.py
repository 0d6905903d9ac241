"""What the schemas want at a place of the configuration, and what is wrong there, in one line."""

import difflib
import functools
import json
from collections.abc import Iterable
from typing import Any

import jsonschema
import yaml

from peft_tradeoffs.core.layout import SCHEMAS

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
    found: list[Schema] = schema["anyOf"] if "anyOf" in schema else schema.get("oneOf", [])
    return found


def values(schema: Schema) -> list[Any]:
    """The values that a schema lists."""
    return [schema["const"]] if "const" in schema else schema.get("enum", [])


def first_error(schema: dict[str, Any], value: Any) -> jsonschema.ValidationError | None:
    errors = list(jsonschema.Draft202012Validator(schema).iter_errors(value))
    unknown = [error for error in errors if error.validator == "additionalProperties"]
    best = jsonschema.exceptions.best_match(unknown or errors)  # a misspelt key before the one it leaves missing
    place = list(best.absolute_path) if best is not None else []
    if not place or not isinstance(place[-1], int):
        return best
    for error in errors:  # a list's first bad entry
        other = list(error.absolute_path)
        if other[:-1] == place[:-1] and isinstance(other[-1], int) and other[-1] < best.absolute_path[-1]:
            best = error
    return best


def explain(error: jsonschema.ValidationError, prefix: str = "") -> str:
    """One line that names the key, the value and what would be right."""
    path = [*([prefix] if prefix else []), *map(str, error.absolute_path)]
    schema: Any = error.schema
    wanted: Any = error.validator_value
    match error.validator:
        case "additionalProperties":
            return _unknown_key(error, path)
        case "required":
            return _missing_key(error, path)
        case "type" | "enum" | "anyOf" if error.instance is None:
            said = f"nothing stands there; must be {choices(schema)}"
        case "pattern":
            pattern = schema.get("description", f"it must match {wanted}")
            said = f"{error.instance!r} is not allowed: {pattern}"
        case "type":
            said = _wrong_type(error)
        case rule if rule in _WRONG:
            words = {"wanted": wanted, "value": error.instance, "seen": _seen(error.instance)}
            allowed = choices(wanted if rule == "propertyNames" else schema) if "{allowed}" in _WRONG[rule] else ""
            said = _WRONG[rule].format(**words, shown=_shown(wanted), allowed=allowed)
        case _:
            said = f"{_seen(error.instance)} is not allowed: {' '.join(error.message.split())[:200]}"
    return f"{key_of(path)}: {said}"


def _unknown_key(error: jsonschema.ValidationError, path: list[str]) -> str:
    schema: Any = error.schema
    known, refused = schema.get("properties", {}), schema.get("x-excluded-fields", {})
    given: Any = error.instance
    unknown = min(set(given) - set(known))
    where = key_of([*path, unknown])
    if unknown in refused:
        return f"{where}: cannot be set: {refused[unknown]}; remove it"
    return f"{where}: unknown key; {suggestion(unknown, known, 'known keys: ')}"


def _missing_key(error: jsonschema.ValidationError, path: list[str]) -> str:
    schema: Any = error.schema
    wanted: Any = error.validator_value
    given: Any = error.instance
    missing = next(key for key in wanted if key not in given)
    about = schema.get("properties", {}).get(missing, {})
    kind = f": it must be {choices(about)}" if {"type", "enum", "anyOf"} & set(about) else ""
    return f"{key_of([*path, missing])}: missing; add it{kind}"


def _wrong_type(error: jsonschema.ValidationError) -> str:
    schema: Any = error.schema
    wanted: Any = error.validator_value
    value, kinds, allowed = error.instance, _listed(wanted), choices(schema)
    if isinstance(value, str) and is_number(value) and {"number", "integer"} & set(kinds):
        how = "without quotes" if set("eE.").isdisjoint(value) else "without quotes and with a point, as 5.0e-4"
        return f"{value!r} is a text; must be {allowed}: write it {how}"
    quotes = ": put a text in quotes" if isinstance(value, int | float) and "string" in kinds else ""
    return f"{_seen(value)} has the wrong type; must be {allowed}{quotes}"


LONGEST = 100  # characters of a value that a message shows
_SHORT = "{value!r} is too short; at least {wanted} must stand there"
_WRONG = {
    "not": "this key does not belong to this source; remove it",
    "enum": "{seen} is unknown; must be {allowed}",
    "const": "{seen} is not allowed; must be {shown}",
    "uniqueItems": "{value} has an entry twice; remove one",
    "minItems": _SHORT,
    "minProperties": _SHORT,
    "minLength": _SHORT,
    "maxItems": "{value} is too long; at most {wanted} may stand there",
    "minimum": "{value} is not allowed; must be at least {wanted}",
    "maximum": "{value} is not allowed; must be at most {wanted}",
    "exclusiveMinimum": "{value} is not allowed; must be above {wanted}",
    "exclusiveMaximum": "{value} is not allowed; must be below {wanted}",
    "anyOf": "{seen} is not allowed; must be {allowed}",
    "oneOf": "{seen} is not allowed; must be {allowed}",
    "propertyNames": "a name in it is not allowed; must be {allowed}",
}
_KINDS = {
    "object": "a mapping (lines of `key: value`)",
    "array": "a list, as in [a, b]",
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "null": "null",
}


def key_of(names: Iterable[str]) -> str:
    """A place in the configuration as messages name it, in one line whatever stands in the names."""
    key = ".".join(names) or "(top level)"
    return f"config key {key if key.isprintable() else ascii(key)[1:-1]}"


def choices(schema: dict[str, Any]) -> str:
    """What a schema takes, in words: the values that it lists, or the kinds."""
    found = _alternatives(schema)
    if len(found) > 1 and all(kind == "value" for kind, _ in found):
        return "one of " + ", ".join(word for _, word in found)
    words = list(dict.fromkeys(word for _, word in found)) or ["something else"]
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _alternatives(schema: dict[str, Any]) -> list[tuple[str, str]]:
    """Values and kinds that a schema takes, each as ("value" or "kind", its word)."""
    if "const" in schema or "enum" in schema:
        return [("value", _shown(value)) for value in schema.get("enum", [schema.get("const")])]
    options = schema.get("anyOf", schema.get("oneOf"))
    if options:
        return [found for option in options for found in _alternatives(option)]
    kinds = _listed(schema.get("type", []))
    items = schema.get("items", {}).get("type")
    of = {"string": "a list of texts, as in [a, b]", "integer": "a list of whole numbers, as in [1, 2]"}
    named = {"array": of[items]} if "array" in kinds and items in of else {}
    return [("kind", named.get(kind, _KINDS[kind])) for kind in kinds]


def _seen(value: Any) -> str:
    """A value as the configuration has it, cut short."""
    text = _shown(value) if isinstance(value, bool) or value is None else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, str) else json.dumps(value)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def suggestion(word: str, known: Iterable[str], otherwise: str) -> str:
    known = sorted(known)
    begun = [name for name in known if name.startswith(word)]
    close = difflib.get_close_matches(word, known, n=1) or (begun if word and len(begun) == 1 else [])
    return f"did you mean {close[0]}?" if close else f"{otherwise}{', '.join(known)}"

"""What is wrong with a configuration, in one line that names the key, the value and what would be right."""

import difflib
import json
from collections.abc import Iterable
from typing import Any

import jsonschema


def first_error(schema: dict[str, Any], value: Any) -> jsonschema.ValidationError | None:
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
            return f"{where}: unknown key; {suggestion(unknown, known, 'known keys: ')}"
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
        case "type" if isinstance(value, str) and is_number(value) and {"number", "integer"} & set(_listed(wanted)):
            how = "without quotes" if set("eE.").isdisjoint(value) else "without quotes and with a point, as 5.0e-4"
            return f"{where}: {value!r} is a text; must be {_kinds(wanted)}: write it {how}"
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
        case "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum":
            return f"{where}: {value} is not allowed; must be {_BOUNDS[error.validator]} {wanted}"
        case "anyOf":
            return f"{where}: {value!r} is none of what it can be: {json.dumps(wanted)}"
    return f"{where}: {error.message}"


_BOUNDS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "above",
    "exclusiveMaximum": "below",
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


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def _kinds(types: str | list[str]) -> str:
    return " or ".join(_KINDS[name] for name in _listed(types))


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def suggestion(word: str, known: Iterable[str], otherwise: str) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"{otherwise}{', '.join(known)}"

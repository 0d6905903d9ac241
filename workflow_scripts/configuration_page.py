"""The schema of the configuration as a page for readers: one table per block, of key, kind, default and meaning."""

from collections.abc import Iterator
from typing import Any

import yaml

Schema = dict[str, Any]
NAMED = ("datasets", "models", "methods")  # mappings whose keys are names of the reader's choice
KINDS = {
    "string": "text",
    "number": "number",
    "integer": "whole number",
    "boolean": "`true` or `false`",
    "array": "list",
    "object": "mapping",
    "null": "`null`",
}
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
}
INTRODUCTION = """# Every key of the configuration

<!-- Written by workflow_scripts/write_schemas.py of peft_tradeoffs/config/model.py. Edit that. -->

A configuration is one YAML file. Name it with `--configfile=my.yaml`, with the equals sign. A file that names
`datasets` stands alone. One that does not is laid over `config.yaml` of the folder that you call Snakemake in.
[Your data](your-data.md) builds such a file step by step.

A mistake is one line that names the key and says what would be right, before anything runs. YAML reads `5e-4` as a
text: write `5.0e-4`.

In the tables below, **required** stands for a key that must be there, and – for one that is absent unless you set it.
`NAME` is a name of your choice. These words come up throughout:

- An **arm** is one method at one rank. A **run** is one seed of an arm.
- A **trial** is a run that helps to choose a learning rate. The **dev split** is the rows that trials are judged on.
- The **probe** is a few training steps on the longest texts, of which peak memory is taken.
- The **held-out** split (`heldout`) is a second test split, of many rows. Arms are compared on it as well.
- The **contract** is the list of facts that must be the same in every arm, so that the comparison is fair.
- A **prompt** is what a language model reads, and a **completion** what it learns to write after it.
"""


def configuration_page(schema: Schema) -> str:
    """The page of a configuration's schema, as Markdown."""
    blocks = list(_blocks(schema, schema["properties"], ""))
    parts = [INTRODUCTION, f"## All keys at the top\n\n{_table(schema, schema, '')}\n"]
    parts += [_section(schema, path, block) for path, block in blocks]
    return "\n".join(parts)


def _blocks(root: Schema, keys: Schema, above: str) -> Iterator[tuple[str, Schema]]:
    """Every block below `keys` with its path, the outer before the inner."""
    for key, about in keys.items():
        found = followed(root, about)
        path = f"{above}.{key}" if above else key
        inner = found.get("additionalProperties")
        if key in NAMED and not above and isinstance(inner, dict):
            found, path = followed(root, inner), f"{path}.NAME"
        if _is_block(found):
            yield path, found
            yield from _blocks(root, found["properties"], path)


def _is_block(schema: Schema) -> bool:
    """Whether a schema has keys of its own; `peft` names one and takes PEFT's."""
    keys = schema.get("properties", {})
    return len(keys) > 1 or (bool(keys) and schema.get("additionalProperties") is False)


def _section(root: Schema, path: str, block: Schema) -> str:
    about = block.get("description", "")
    rules = "".join(f"- {rule}\n" for condition in block.get("allOf", ()) for rule in _rules(condition))
    level = "#" * min(2 + path.replace(".NAME", "").count("."), 4)
    shown = [f"{level} `{path}`", _sentence(about), _table(root, block, path), rules.rstrip()]
    return "\n\n".join(part for part in shown if part) + "\n"


def _table(root: Schema, block: Schema, path: str) -> str:
    rows = ["| Key | Kind | Default | Meaning |", "|:--|:--|:--|:--|"]
    for key, about in block["properties"].items():
        cells = (
            f"`{key}`",
            _kind(root, about, f"{path}.{key}" if path else key),
            _default(key, about, block),
            _meaning(root, about),
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def followed(root: Schema, schema: Schema) -> Schema:
    """A schema with what its `$ref` names; its own keywords stand above."""
    if "$ref" not in schema:
        return schema
    name = schema["$ref"].rpartition("/")[2]
    return {**root["$defs"][name], **{key: value for key, value in schema.items() if key != "$ref"}}


def _link(path: str) -> str:
    anchor = "".join(sign for sign in path.lower() if sign.isalnum() or sign in "_-")
    return f"[`{path}`](#{anchor})"


def _kind(root: Schema, about: Schema, path: str) -> str:
    found = followed(root, about)
    inner = found.get("additionalProperties")
    if path in NAMED:
        return f"blocks by name: {_link(path + '.NAME')}"
    if _is_block(found):
        return f"block: {_link(path)}"
    if "anyOf" in found:
        return " or ".join(_kind(root, one, path) for one in found["anyOf"])
    if "enum" in found:
        return _either([_value(one) for one in found["enum"]])
    if "const" in found:
        return _value(found["const"])
    types = found["type"] if isinstance(found.get("type"), list) else [found.get("type", "object")]
    return _either([_named(root, one, found, inner) for one in types])


def _named(root: Schema, kind: str, found: Schema, inner: Any) -> str:
    """One type of a key, in words, with its bounds."""
    words = KINDS[kind]
    if kind == "array" and "items" in found:
        words = f"list of {_plural(_kind(root, found['items'], ''))}"
    elif kind == "object" and isinstance(inner, dict):
        words = f"mapping of names to {_plural(_kind(root, inner, ''))}"
    lists = kind == "array"
    bounds = [
        text.format(_number(found[word]))
        for word, text in BOUNDS.items()
        if word in found and word.endswith("Items") == lists and kind in ("array", "number", "integer")
    ]
    if found.get("minItems") == found.get("maxItems") and lists and "minItems" in found:
        bounds = [f"{found['minItems']} {'entry' if found['minItems'] == 1 else 'entries'}"]
    return f"{words} ({', '.join(bounds)})".replace("at least 1 entries", "not empty") if bounds else words


def _plural(kind: str) -> str:
    for one in ("whole number", "number", "text", "list"):
        if kind.startswith(one):
            return f"{one}s{kind[len(one) :]}"
    return kind


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _value(value: Any) -> str:
    """A value as YAML writes it."""
    if isinstance(value, float) and not value.is_integer() and "e" in repr(value):
        mantissa, _, exponent = repr(value).partition("e")
        return f"`{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent)}`"
    written = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
    return f"`{written}`"


def _default(key: str, about: Schema, block: Schema) -> str:
    if key in block.get("required", ()):
        return "**required**"
    return _value(about["default"]) if "default" in about else "–"


def _meaning(root: Schema, about: Schema) -> str:
    found = followed(root, about)
    said = found.get("description") or ""
    inner = found.get("items")
    if not said and isinstance(inner, dict):
        said = followed(root, inner).get("description") or ""
    return _sentence(said)


def _sentence(said: str) -> str:
    """With a capital where a word begins it, and a full stop."""
    if not said:
        return ""
    first = said.split(" ", 1)[0].rstrip(":,")
    plain = first.isalpha() and first in ("must", "a", "letters", "true", "false")
    said = said[0].upper() + said[1:] if plain and first not in ("true", "false") else said
    return said if said.endswith((".", ")")) else f"{said}."


def _rules(condition: Schema) -> Iterator[str]:
    """What a condition of the schema asks for, one sentence each."""
    when = " and ".join(f"`{key}` is {_asked(asked)}" for key, asked in condition["if"]["properties"].items())
    for opposite, branch in ((False, condition.get("then", {})), (True, condition.get("else", {}))):
        where = f"Unless {when}" if opposite else f"Where {when}"
        if needed := branch.get("required"):
            yield f"{where}, {_keys(needed)} must be there."
        refused = [key for key, asked in branch.get("properties", {}).items() if _refused(asked)]
        if refused:
            yield f"{where}, {_keys(refused)} must not be there."


def _refused(asked: Schema) -> bool:
    return asked == {"not": {}} or ("const" in asked and asked["const"] is None)


def _asked(asked: Schema) -> str:
    return _either([_value(one) for one in asked.get("enum", [asked.get("const")])])


def _keys(names: list[str]) -> str:
    shown = [f"`{name}`" for name in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"

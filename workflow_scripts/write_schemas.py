"""Write the schemas that are made of the code: of the configuration, and of what a run records.

schemas/config.schema.yaml and docs/configuration.md follow from config/model.py, summary.schema.json and
metrics.schema.json from core/quantities.py and the metrics. Run it again after a change of either; a test compares.
schemas/peft.schema.json has a script of its own, which imports PEFT.
"""

import argparse
from pathlib import Path
from typing import Any

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.files import write_json, write_text
from peft_tradeoffs.core.layout import REPOSITORY, SCHEMAS
from peft_tradeoffs.tasks.task import evaluation_schema, summary_schema

HEADER = "# Written by workflow_scripts/write_schemas.py of peft_tradeoffs/config/model.py. Edit that.\n"
# Blocks that several places, or a mapping of any names, refer to; all others stand where they are used.
REFERRED = (
    *("Name", "Revision", "Dataset", "Model", "Tokenizer", "Requirement", "Subfolder", "Sha256", "Method", "Training"),
)
NULL = {"type": "null"}
FIRST = ("description", "type", "additionalProperties", "required", "minimum", "exclusiveMinimum")
LAST = ("default", "items", "properties", "allOf")


def config_schema() -> dict[str, Any]:
    """The JSON schema of the configuration."""
    from peft_tradeoffs.config import model

    made = model.Config.model_json_schema()
    blocks = {name: kind for name, kind in vars(model).items() if isinstance(kind, type)}
    definitions = made.pop("$defs")

    def tidied(schema: Any) -> Any:
        """Inlined, without titles, with null as one of the types."""
        if isinstance(schema, list):
            return [tidied(item) for item in schema]
        if not isinstance(schema, dict):
            return schema
        if name := schema.get("$ref", "").rpartition("/")[2]:
            if name in REFERRED:
                return {**schema, "$ref": f"#/$defs/{name.lower()}"}
            own = {key: value for key, value in schema.items() if key != "$ref"}
            return {**defined(name), **tidied(own)}
        return flat({key: below(key, value) for key, value in schema.items() if key != "title"})

    def below(key: str, value: Any) -> Any:
        if key in ("default", "enum", "const", "required", "type"):
            return value
        if key == "description":
            return " ".join(value.split())
        if key == "properties":
            return {name: tidied(about) for name, about in value.items()}
        return tidied(value)

    def defined(name: str) -> dict[str, Any]:
        found = tidied(definitions[name])
        conditions = getattr(blocks.get(name), "conditions", None)
        return {**found, "allOf": conditions} if conditions else found

    root = tidied(made)
    about = root.pop("description")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "peft-tradeoffs configuration",
        "description": about,
        **root,
        "$defs": {name.lower(): defined(name) for name in REFERRED},
    }


def flat(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema in the words of which messages are made: an alternative null is one of its types or values."""
    options = schema.pop("anyOf", [])
    if len(options) == 2 and NULL in options:
        (other,) = [option for option in options if option != NULL]
        schema = {**other, **schema}
        if "enum" in other:
            schema["enum"] = [*other["enum"], None]
        else:
            schema["type"] = [other["type"], "null"]
    elif options:
        schema["anyOf"] = options
    if "enum" in schema or "const" in schema:
        schema.pop("type", None)
    between = [key for key in schema if key not in FIRST + LAST]
    return {key: schema[key] for key in (*FIRST, *between, *LAST) if key in schema}


def write_config_schema(path: Path) -> None:
    """Write the JSON schema of the configuration as YAML."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """What fits a line in a line, and everything written out."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

        def represent_data(self, data: Any) -> yaml.Node:
            node = super().represent_data(data)
            if isinstance(node, yaml.CollectionNode):
                node.flow_style = "description" not in data and len(str(data)) < 90
            return node

    write_text(path, HEADER + yaml.dump(config_schema(), Dumper=Dumper, sort_keys=False, width=118))


def write_config_page(path: Path) -> None:
    """Write the page that describes every key of the configuration, as Markdown."""
    from configuration_page import configuration_page

    write_text(path, configuration_page(config_schema()))


def main() -> None:
    """Write every schema."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, default=SCHEMAS, metavar="DIR", help="folder they go to")
    page = REPOSITORY / "docs/configuration.md"
    parser.add_argument("--page", type=Path, default=page, metavar="FILE", help="page of the configuration's keys")
    asked = parser.parse_args()
    folder = asked.output_dir
    write_config_schema(folder / "config.schema.yaml")
    write_config_page(asked.page)
    write_json(folder / "summary.schema.json", summary_schema())
    write_json(folder / "metrics.schema.json", evaluation_schema())


if __name__ == "__main__":
    run(main)

"""A configuration as it is written: one mapping, each key once, its paths; and by the schema what is wrong where."""

import datetime
import difflib
import functools
import json
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from peft_tradeoffs.config.fields import how_to_write
from peft_tradeoffs.config.model import Config
from peft_tradeoffs.core.errors import InputError, error_text
from peft_tradeoffs.core.layout import SCHEMAS, json_schema
from peft_tradeoffs.tasks.task import TASKS

CONFIG_SCHEMA = SCHEMAS / "config.schema.yaml"
Schema = dict[str, Any]
DEEPEST = 50  # levels; the deepest key of the schema is at 6
MOST = 200_000  # values, those behind an alias as often as it stands
STANDARD = "tag:yaml.org,2002:"
PYTHON_KEYS = ("__use_yte__", "__definitions__", "__variables__")
# What YAML reads in base 8 or 60, whoever wrote it.
BASES = re.compile(r"[-+]?(?:0[0-7_]+|[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?)")
_READ_AS = {"bool": "", "null": "", "int": "the number ", "float": "the number ", "timestamp": "the date "}


def check_file(path: Path) -> dict[str, Any]:
    """The mapping of a YAML or JSON file.

    Raises InputError, with file and line, for any other file, a key that stands twice, a name or text that YAML reads
    as something else, Python that Snakemake would run, and for what would take too much time or memory.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file in {Path.cwd()}; name one with --configfile") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: a folder; name a file with --configfile") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from error
    if text.lstrip().startswith("{") and (found := _json(path, text)) is not None:
        return _mapping(path, found)
    try:
        _check_events(path, text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if isinstance(node, yaml.MappingNode):
            _Nodes(path).check(node)
        return _mapping(path, yaml.safe_load(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(", ".join(filter(None, (error.context, error.problem))).split())
        line = mark.line + 1 if mark else 1
        raise InputError(f"{path}, line {line}: broken YAML: {said}; fix that line or one before") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        reason = error_text(error)
        raise InputError(f"{path}: broken YAML: {reason}; correct that value, or put it in quotes") from error


def _mapping(path: Path, found: Any) -> dict[str, Any]:
    if not isinstance(found, dict):
        kind = "empty" if found is None else f"a {type(found).__name__}"
        raise InputError(f"{path}: {kind}; must hold the keys datasets, models, methods, training and seeds")
    for key in PYTHON_KEYS:
        if key in found:
            raise InputError(
                f"config key {key}: {path} asks Snakemake to run Python that stands in it (which it does before this "
                "check, where the file comes with --configfile); take such keys out, and use no file that you do not "
                "trust"
            )
    return found


def _json(path: Path, text: str) -> Any:
    """What JSON holds, which Snakemake tries first; None for what is YAML alone."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{path}: the key {twice} stands twice and names must be unique")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError:
        raise InputError(f"{path}: nested more than {DEEPEST} levels deep; a configuration needs 6") from None
    except ValueError:
        return None


def _check_events(path: Path, text: str) -> None:
    """Raise InputError for a file that is nested deeply, which no reader of trees survives."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise InputError(f"{path}, line {line}: nested more than {DEEPEST} levels deep; a configuration needs 6")


class _Nodes:
    """The checks of a file's nodes, which keep how a word was spelled."""

    def __init__(self, path: Path):
        self.path = path
        self.sizes: dict[int, tuple[int, int]] = {}  # values in a node and its levels, by its id

    def check(self, node: yaml.MappingNode) -> None:
        self._size(node)
        self._walk(node, config_schema(), [])

    def _size(self, node: yaml.Node) -> tuple[int, int]:
        """Values and levels of a node once its aliases are written out."""
        if isinstance(node, yaml.ScalarNode):
            return 1, 0
        if id(node) not in self.sizes:
            self.sizes[id(node)] = (MOST + 1, DEEPEST + 1)  # of a node within itself
            pairs = isinstance(node, yaml.MappingNode)
            below = [self._size(part) for part in (chain(*node.value) if pairs else node.value)]
            self.sizes[id(node)] = (
                1 + sum(size for size, _ in below),
                1 + max((level for _, level in below), default=0),
            )
        values, levels = self.sizes[id(node)]
        if values > MOST or levels > DEEPEST:
            many = f"more than {MOST:,} values" if values > MOST else f"more than {DEEPEST} levels"
            raise InputError(f"{self._at(node)}: written out, the aliases (*name) make {many}; write less")
        return values, levels

    def _walk(self, node: yaml.Node, schema: Schema, keys: list[str]) -> None:
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node, schema, keys)
            for key, value in node.value:
                merged = key.tag == f"{STANDARD}merge"
                self._walk(
                    value, schema if merged else inner(schema, key.value), keys if merged else [*keys, key.value]
                )
        elif isinstance(node, yaml.SequenceNode):
            merged = "object" in kinds(schema)  # << with a list of mappings
            for index, value in enumerate(node.value):
                self._walk(value, schema if merged else inner(schema, index), keys if merged else [*keys, str(index)])
        elif isinstance(node, yaml.ScalarNode) and node.tag != f"{STANDARD}null" and (read := _read(node)):
            if _is_text(schema) and not values(followed(schema)):  # of a list of values, the schema names them
                raise InputError(
                    f"{key_of(keys)}: YAML reads {node.value} as {read}, and a text must stand there; put "
                    f"it in quotes: {json.dumps(node.value)} ({self._at(node)})"
                )
            if BASES.fullmatch(node.value):
                raise InputError(
                    f"{key_of(keys)}: YAML reads {node.value} as {read}; write the number that is meant, or a text in "
                    f"quotes ({self._at(node)})"
                )

    def _check_keys(self, node: yaml.MappingNode, schema: Schema, keys: list[str]) -> None:
        seen: set[str] = set()
        where, before = key_of(keys), ""
        for key, given in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise InputError(f"{where}: a list or mapping stands for a key; write a name ({self._at(key)})")
            if key.tag == f"{STANDARD}merge":
                continue
            if key.value in seen:
                raise InputError(f"{self._at(key)}: the key {key.value} stands twice and names must be unique")
            seen.add(key.value)
            # What Transformers or PEFT read may have numbers for keys, as id2label has.
            number = not kinds(schema) and re.fullmatch("0|-?[1-9][0-9]*", key.value)
            if before and not number and given.value == "" and key.value.isdecimal():
                raise InputError(
                    f"{where}: a comma ends a value; write {before}.{key.value} with a point, or a list in brackets: "
                    f"[{before}, {key.value}] ({self._at(key)})"
                )
            before = given.value if isinstance(given, yaml.ScalarNode) and given.value.isdecimal() else ""
            if (read := _read(key)) and not number:
                word = json.dumps(key.value, ensure_ascii=False)
                raise InputError(
                    f"{where}: YAML reads the name {key.value or '(nothing)'} as {read}; put it in quotes: {word} "
                    f"({self._at(key)})"
                )

    def _at(self, node: yaml.Node) -> str:
        return f"{self.path}, line {node.start_mark.line + 1}"


def _is_text(schema: Schema) -> bool:
    return "string" in kinds(schema) and kinds(schema) <= {"string", "null"}


def _read(node: yaml.ScalarNode) -> str:
    """What YAML makes of a word without quotes, in words; "" for a text."""
    kind = node.tag.removeprefix(STANDARD)
    if kind not in _READ_AS:
        return ""
    try:
        value = yaml.safe_load(yaml.serialize(node))
    except (ValueError, OverflowError):
        return f"a {kind} that is none"
    return f"{_READ_AS[kind]}{'null' if value is None else str(value).lower()}"


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
    methods: Any = config.get("methods")
    for name, method in (given.get("methods") or {}).items() if isinstance(given.get("methods"), Mapping) else ():
        peft = methods[name].get("peft") if isinstance(methods[name], dict) else None
        if isinstance(method, Mapping) and isinstance(method.get("peft"), Mapping) and isinstance(peft, dict):
            fields = json_schema("peft")["$defs"].get(str(peft.get("peft_type")), {})
            methods[name]["peft"] = _retyped(peft, method["peft"], fields)


def settle(config: dict[str, Any]) -> None:
    """Write whole numbers as such where the schema wants them, in place: to it, and to YAML, 8.0 is one too.

    Raises InputError for one that no column of whole numbers holds, as 1e30 is.
    """
    for name in config:
        config[name] = _settled(config[name], inner(config_schema(), name), (name,))
    for name, method in config["methods"].items():
        if peft := method.get("peft"):
            schema = json_schema("peft")["$defs"].get(peft["peft_type"], {})
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
    number: int | float | None = None
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


# Paths ----------------------------------------------------------------------------------------------------------------

VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})", re.ASCII)
REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
UNSEEN = ("Cc", "Zl", "Zp")  # control characters, line and paragraph separators


def expand_paths(config: dict[str, Any]) -> None:
    """Write out `~`, `$NAME` and `${NAME}` in every path of a configuration that fits the schema, in place.

    Raises InputError, naming the key, for a variable that is not set and for a path that Snakemake or a shell would
    read as something else. Ids of the hub are no paths.
    """
    if "output" in config:
        config["output"] = _output(expanded("output", config["output"], there=False))
    for name, dataset in config["datasets"].items():
        if dataset["source"] == "files":
            splits = dataset["splits"]
            splits.update({split: expanded(f"datasets.{name}.splits.{split}", splits[split]) for split in splits})
        if scorer := dataset.get("scorer"):
            path, _, function = scorer["python"].rpartition(":")
            scorer["python"] = f"{expanded(f'datasets.{name}.scorer.python', path)}:{function}"
        general = dataset.get("forgetting", {})
        if general.get("source") == "files":
            general["path"] = expanded(f"datasets.{name}.forgetting.path", general["path"])
    output = config.get("output", Config.model_fields["output"].default)
    for name, model in config["models"].items():
        for key, block in ((f"models.{name}", model), (f"models.{name}.tokenizer", model.get("tokenizer", {}))):
            if block.get("source") == "folder":
                block["path"] = expanded(f"{key}.path", block["path"])
                _refuse_within(f"config key {key}.path", block["path"], output)
    if config.get("reference") is not None:
        config["reference"] = _no_option("reference", expanded("reference", config["reference"]))
    for label, paths in config.get("imported", {}).items():
        paths[:] = [expanded(f"imported.{label}.{index}", path) for index, path in enumerate(paths)]


def expanded(key: str, path: str, there: bool = True) -> str:
    """A path with `~` and variables written out; one that is `there` as it is written, with a $ in its name, stays."""
    where = f"config key {key}"
    _refuse_signs(where, path, path)
    if there and "$" in path and not path.startswith("~") and os.path.lexists(path):
        found = path
    else:
        found = VARIABLE.sub(lambda match: _variable(where, path, match[1] or match[2]), path)
        if path.startswith("~"):
            found = os.path.expanduser(found)  # noqa: PTH111  (a Path would take ./ and // out)
            if found.startswith("~"):
                raise InputError(f"{where}: {path!r}: there is no such user; write the folder out, or ./{path}")
    if set(found) & set("{}"):
        remedy = "rename the file or folder, or give it a link without them" if there else "leave them out"
        raise InputError(f"{where}: {path!r} has braces, which are wildcards in Snakemake; {remedy}")
    _refuse_signs(where, path, found)
    return found


def _variable(where: str, path: str, name: str) -> str:
    value = os.environ.get(name)
    if not value:
        how = "is empty" if value == "" else "is not set"
        raise InputError(f"{where}: {path!r}: the environment variable {name} {how}; set it, or write the path out")
    return value


def _refuse_signs(where: str, path: str, found: str) -> None:
    shown = repr(path) if path == found else f"{path!r}, which is {found!r},"
    if any(unicodedata.category(sign) in UNSEEN for sign in found):
        raise InputError(f"{where}: {shown} has a line break or another sign that cannot be seen; take it out")
    if found != found.strip():
        raise InputError(f"{where}: {shown} begins or ends with a blank; take it out, or rename the file")
    if REMOTE.match(found):
        raise InputError(
            f"{where}: {shown} is an address, and files must be on a disk here; download it first (what is on the "
            "Hugging Face hub has source: hub)"
        )
    if any(len(os.fsencode(part)) > 255 for part in found.split("/")) or len(os.fsencode(found)) > 4000:
        raise InputError(f"{where}: {shown[:100]}… is too long for a path; write a shorter one")


def _no_option(key: str, path: str) -> str:
    if path.startswith("-"):
        raise InputError(f"config key {key}: {path!r} begins with -, as an option does; rename it")
    return path


def _output(folder: str) -> str:
    """The output folder as paths in rules begin with it: without ./, // or / at its end."""
    folder = os.path.normpath(folder)
    if folder == os.curdir:
        raise InputError(
            "config key output: the working folder itself cannot be it; name a folder in it, as results/mine"
        )
    if folder in (os.sep, os.sep * 2):
        raise InputError("config key output: / is the whole disk; name a folder, as results/mine")
    return _no_option("output", folder)


def _refuse_within(where: str, folder: str, output: str) -> None:
    """Raise InputError for an output that lies in a model's folder, all files of which are the model's."""
    if Path(folder).resolve() in (Path("/"), Path("~").expanduser().resolve()):  # which would be searched for minutes
        raise InputError(f"{where}: {folder} has all your files in it; name the folder of the model")
    if Path(output).resolve().is_relative_to(Path(folder).resolve()):
        raise InputError(
            f"{where}: the output folder {output} lies in it, so results would be files of the model; set `output` to "
            "another folder"
        )


def check_splits(key: str, source: str, splits: Mapping[str, str]) -> None:
    """Raise InputError for two splits of a data set that are one file, under whatever names, or one hub split."""
    ordered = sorted(splits.items(), key=lambda item: item[0] != "train")
    same = _one_file if source == "files" else str.__eq__
    for index, (split, named) in enumerate(ordered):
        for other, earlier in ordered[:index]:
            if same(named, earlier):
                also = "" if os.path.normpath(named) == os.path.normpath(earlier) else f" ({earlier})"
                what = "file" if source == "files" else "split of the hub"
                raise InputError(
                    f"config key {key}.splits.{split}: {named} is {other} too{also}, and every split needs rows of "
                    f"its own; name another {what}, or use fractions"
                )


def _one_file(path: str, other: str) -> bool:
    if os.path.normpath(path) == os.path.normpath(other):
        return True
    try:
        return os.path.samefile(path, other)  # noqa: PTH121
    except OSError:
        return False  # one is not there, which the check of the disk says


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
    return yaml.load(CONFIG_SCHEMA.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


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
    if best is not None and best.validator == "not":  # a key that goes with other sources: is the source one?
        best = next((error for error in errors if error.validator in ("enum", "type")), best)
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
        case "anyOf" if how := how_to_write(error.instance, kinds(schema), _fits(schema)):
            said = f"{_seen(error.instance)} is not allowed; must be {choices(schema)}: {how}"
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


HUB = "https://huggingface.co"


def where_to_read(config: Mapping[str, Any], error: jsonschema.ValidationError) -> str:
    """Where the commit of a hub's model or data set is to be read, for a message about a revision that is none."""
    *above, key = error.absolute_path or [""]
    given: Any = error.instance
    wanted: Any = error.validator_value
    lacking = error.validator == "required" and next(one for one in wanted if one not in given)
    if "revision" not in (key, lacking):
        return ""
    place = above if key == "revision" else list(error.absolute_path)
    block: Any = config
    for name in place:
        block = block[name]
    path = block.get("path")
    if block.get("source") != "hub" or not isinstance(path, str):
        return ""
    return f"; {how_to_read(path, of_data='datasets' in place)}"


def how_to_read(path: str, of_data: bool = False) -> str:
    """How to find the newest commit of a repository of the hub."""
    address = f"{HUB}/{'datasets/' * of_data}{path}"
    return f"read it at {address}/commits/main, or with `git ls-remote {address} HEAD`"


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
    return f"{key_of([*path, missing])}: missing; add it{kind}{_of_another_task(missing, given)}"


def _of_another_task(missing: str, given: dict[str, Any]) -> str:
    """The task whose keys a data set's block has that names none and lacks what the default task needs, if any."""
    if missing not in ("text", "label") or "task" in given:
        return ""
    readers = (task.reader for task in TASKS.values() if task.reader is not None)
    found = [(reader.name, key) for reader in readers for key in reader.keys if key in given]
    return f"; or set `task: {found[0][0]}`, to which {found[0][1]} belongs" if found else ""


def _fits(schema: Schema) -> Callable[[Any], bool]:
    """Whether a value may stand where a part of the configuration's schema is."""
    return jsonschema.Draft202012Validator(config_schema()).evolve(schema=schema).is_valid


def _wrong_type(error: jsonschema.ValidationError) -> str:
    schema: Any = error.schema
    wanted: Any = error.validator_value
    value, allowed = error.instance, choices(schema)
    how = how_to_write(value, _listed(wanted), _fits(schema))
    what = "is a text" if isinstance(value, str) and is_number(value) else "has the wrong type"
    return f"{_seen(value)} {what}; must be {allowed}{how and ': '}{how}"


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

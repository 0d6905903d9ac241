"""The configuration as rules take it."""

import json
import re
from pathlib import Path

import pytest
import tiny
import yaml
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import SCHEMAS
from snakemake.utils import update_config


@pytest.mark.parametrize("given", ["results/x/", "./results/x", "results//x", "results/y/../x"])
def test_the_output_folder_is_as_rules_need_it(given):
    """Rules put names behind it: a slash or a dot too many would be another file to Snakemake."""
    assert resolve(tiny.config(Path(), output=given)).output == "results/x"


# The command line


def test_the_command_line_may_have_numbers_in_lists_and_mappings():
    """Snakemake makes texts of all that stands in a list or mapping of `--config`."""
    given = {
        "seeds": ["0", "3"],
        "training": {"epochs": "2", "weight_decay": "1e-2", "compile": "true", "early_stopping": "null"},
        "methods": {"full": {"learning_rate": "5e-4"}, "lora": {"ranks": ["2", "8"], "peft": {"lora_dropout": "0"}}},
        "comparison": {"baseline": "null", "margin": ".02"},
        "contract": {"strict": "False"},
    }
    settings = json.loads(json.dumps(tiny.config(Path())))
    update_config(settings, given)
    found = resolve(settings, given)
    assert found.seeds == [0, 3]
    assert (found.training.epochs, found.training.weight_decay) == (2, 0.01)
    assert found.training.compile is True
    assert found.training.early_stopping is None
    assert [*found.arms] == ["full", "lora-r2", "lora-r8", "qlora-r4"]
    assert found.arms["full"].settings["learning_rate"] == 5e-4
    assert found.arms["lora-r2"].settings["peft"]["lora_dropout"] == 0
    assert (found.comparison.baseline, found.comparison.margin) == ("full", 0.02)
    assert found.contract.strict is False


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seeds": ["0", "x"]}, "config key seeds.1: 'x' has the wrong type; must be a whole number"),
        ({"seeds": ["0.5"]}, "config key seeds.0: '0.5' is a text; must be a whole number"),
        ({"training": {"epochs": "two"}}, "config key training.epochs: 'two' has the wrong type"),
        ({"training": {"compile": "maybe"}}, "config key training.compile: 'maybe' has the wrong type; must be true"),
        ({"output": 2024}, "config key output: 2024 has the wrong type; must be a text: put a text in quotes"),
    ],
)
def test_what_else_the_command_line_has(given, said):
    settings = json.loads(json.dumps(tiny.config(Path())))
    update_config(settings, given)
    with pytest.raises(InputError, match=re.escape(said)):
        resolve(settings, given)


def test_a_file_is_not_read_as_the_command_line():
    with pytest.raises(InputError, match=r"config key seeds\.0: '0' is a text"):
        resolve(tiny.config(Path(), seeds=["0"]))


def test_names_on_the_command_line_stay_texts():
    """Of a column named 1, say, or a data set named true."""
    settings = json.loads(json.dumps(tiny.config(Path())))
    settings["datasets"] = {"true": {**settings["datasets"]["reviews"], "label": "1", "text": ["0"]}}
    found = resolve(settings, {"datasets": settings["datasets"]})
    assert found.datasets["true"].label == "1"


# Values


def test_whole_numbers_with_a_point():
    """To YAML and JSON 8.0 is a whole number; range(8.0) is none."""
    training = {**tiny.config(Path())["training"], "batch_size": 16.0, "epochs": 2.0, "weight_decay": 1.0}
    settings = json.loads(json.dumps(tiny.config(Path(), seeds=[1.0], training=training)))
    settings["methods"]["lora"] |= {"ranks": [8.0], "peft": {**tiny.LORA, "lora_alpha": 32.0}}
    found = resolve(settings)
    assert json.dumps([found.seeds, found.training.batch_size, found.training.epochs]) == "[[1], 16, 2]"
    assert json.dumps(found.arms["lora-r8"].settings["peft"]["lora_alpha"]) == "32"
    assert isinstance(found.training.weight_decay, float)


@pytest.mark.parametrize("value", [10**400, -(2**63), 2**64])
def test_numbers_that_no_column_holds(value):
    with pytest.raises(InputError, match=r"config key training\.epochs: a number of \d+ digits is too large"):
        resolve(tiny.config(Path(), training={**tiny.config(Path())["training"], "epochs": value}))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("methods.lora.peft.target_modules", 3, "must be a text, null or a list of texts, as in [a, b]"),
        ("methods.lora.peft.init_lora_weights", "gausian", "must be true or false, gaussian, olora, pissa, orthogonal"),
        ("methods.lora.peft.layers_to_transform", "x", "must be a whole number, null or a list of whole numbers"),
        ("methods.lora.peft.trainable_token_indices", "x", "must be null, a list of whole numbers"),
        ("methods.lora.peft.bias", "non", "must be one of none, all, lora_only"),
        ("methods.lora.peft.use_dora", None, "nothing stands there; must be true or false"),
        ("methods.lora.peft.lora_alhpa", 1, "unknown key; did you mean lora_alpha?"),
        ("methods.lora.peft.peft_type", None, "nothing stands there; must be a text"),
        ("methods.full.learning_rate", {"a": 1}, "must be a number, a list, as in [a, b] or a text"),
        ("methods.full.learning_rate", "fast", "'fast' is no number, and there is no method 'fast'; methods: full,"),
        ("methods.full.learning_rate", True, "true has the wrong type; must be a number,"),
        ("training.device", None, "nothing stands there; must be one of cpu, cuda"),
        ("training.engine", "fast", "'fast' is unknown; must be one of captured, eager, null"),
        ("training.early_stopping", True, "true has the wrong type; must be a mapping (lines of `key: value`) or null"),
        ("datasets.reviews.source", "nope", "'nope' is unknown; must be one of hub, files, docstrings"),
        ("datasets.reviews.source", ["files"], "must be one of hub, files, docstrings"),
        ("datasets.reviews.task", False, "false is unknown; must be one of classification, regression"),
        ("datasets.reviews.label", 5, "5 has the wrong type; must be a text: put a text in quotes"),
        ("models.tiny.source", None, "nothing stands there; must be one of hub, folder, wheel, random"),
        ("models.tiny", "bert", "'bert' has the wrong type; must be a mapping"),
        ("comparison", {"baseline": False}, "false has the wrong type; must be a text or null: put a text in quotes"),
        ("seeds_per_job", 2, "2 is unknown; must be one of all, 1"),
        ("training", {"a\nb": 1, **tiny.config(Path())["training"]}, r"config key training.a\nb: unknown key"),
        ("imported", {"a": "x.json"}, "must be a list of texts, as in [a, b]"),
        ("datasets.reviews.label", ["x" * 500], "… has the wrong type; must be a text"),
    ],
)
def test_an_unknown_alternative_lists_alternatives(key, value, said):
    """In words, never a piece of a schema."""
    settings = json.loads(json.dumps(tiny.config(Path())))
    above, _, last = key.rpartition(".")
    block = settings
    for name in filter(None, above.split(".")):
        block = block[name]
    block[last] = value
    with pytest.raises(InputError) as caught:
        resolve(settings)
    assert f"config key {key}" in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert '"type"' not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("change", [{"output": "a\ud800"}, {"budgets": {"\udcff": [1]}}, {"methods": {"\ude00": {}}}])
def test_half_a_character(change):
    with pytest.raises(InputError, match="has half of a character") as caught:
        resolve(tiny.config(Path(), **change))
    str(caught.value).encode()


# Patterns


def test_no_pattern_takes_a_line_break_at_the_end():
    """In Python's expressions `$` stands before a last line break too."""
    patterns = set()
    for path in sorted(SCHEMAS.iterdir()):
        _collect(yaml.safe_load(path.read_text()), patterns)
    assert len(patterns) >= 5
    assert {pattern for pattern in patterns if "$" in pattern and not pattern.endswith(r"$(?!\n)")} == set()


def _collect(schema, patterns: set[str]) -> None:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            patterns.add(schema["pattern"])
        for value in schema.values():
            _collect(value, patterns)
    elif isinstance(schema, list):
        for value in schema:
            _collect(value, patterns)


@pytest.mark.parametrize(
    ("section", "name"), [("datasets", "a\n"), ("models", "a\n"), ("methods", "a\n"), ("imported", "a\n")]
)
def test_a_name_that_ends_in_a_line_break(section, name):
    settings = json.loads(json.dumps(tiny.config(Path(), imported={"x": ["y.json"]})))
    settings[section] = {name: next(iter(settings[section].values()))}
    with pytest.raises(InputError, match=r"config key \w+: 'a\\n' is not allowed"):
        resolve(settings)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("models.tiny", {"source": "hub", "path": "a/b", "revision": "0" * 40 + "\n"}),
        ("models.tiny", {"source": "wheel", "requirement": "a==1\n", "subfolder": "a"}),
        ("models.tiny", {"source": "folder", "path": "model", "sha256": {"config.json": "0" * 64 + "\n"}}),
        ("datasets.reviews", {"source": "docstrings", "packages": ["a", "b\n"], "fractions": {"test": 0.2}}),
    ],
)
def test_a_value_that_ends_in_a_line_break(key, value):
    settings = tiny.config(Path())
    section, _, name = key.partition(".")
    settings[section][name] = value
    with pytest.raises(InputError, match=f"config key {key}.* is not allowed"):
        resolve(settings)


@pytest.mark.parametrize("rank", [1e308, 1e30, 2.0**63, 10**400])
def test_a_number_without_measure_is_refused_where_it_stands(rank: float, tmp_path: Path) -> None:
    settings = tiny.config(tmp_path)
    settings["methods"]["lora"]["ranks"] = [rank]
    with pytest.raises(InputError, match=r"methods\.lora\.ranks\.0: .* too large"):
        resolve(settings)


def test_a_learning_rate_that_diverges_is_tried():
    """Divergence is a result; a rate whose square is no number is a slip."""
    settings = tiny.config(Path())
    settings["methods"]["full"] = {"learning_rate": 1e30}
    assert resolve(settings).arms["full"].settings["learning_rate"] == 1e30
    settings["methods"]["full"] = {"learning_rate": 1e200}
    with pytest.raises(InputError, match=r"methods\.full\.learning_rate: 1e\+200 is too large"):
        resolve(settings)


@pytest.mark.parametrize(
    ("targets", "said"),
    [([None, "value"], "target_modules.0: nothing stands there"), (["query", 1, None], "target_modules.1: 1 ")],
)
def test_of_a_list_the_first_bad_entry_is_named(targets, said):
    """Within alternatives too, whose errors have places of their own (found by make fuzz)."""
    settings = tiny.config(Path())
    settings["methods"]["lora"]["peft"] = {**tiny.LORA, "target_modules": targets}
    with pytest.raises(InputError, match=rf"methods\.lora\.peft\.{said}"):
        resolve(settings)

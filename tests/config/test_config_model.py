"""The typed configuration: the schema that is written of it, its defaults, and the settings of runs that it gives.

`python tests/test_config_model.py` (with workflow_scripts and tests on PYTHONPATH) records the settings of the examples
anew, after a change of an example or of a default that is meant.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import write_schemas
import yaml
from configuration_page import configuration_page
from peft_tradeoffs.config import experiment, model
from peft_tradeoffs.config.experiment import Experiment, resolve
from peft_tradeoffs.config.file import config_schema
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.runs.plan import RunSettings
from snakemake.utils import update_config

CONFIGS = [tiny.REPOSITORY / "config.yaml", *sorted((tiny.REPOSITORY / "examples").glob("*.yaml"))]
HUB_ROWS = {"source": "hub", "path": "owner/rows", "splits": {"train": "a", "test": "b"}, "text": ["t"], "label": "l"}
RECORDED = Path(__file__).with_name("recorded_settings.json")


def resolved(path: Path) -> Experiment:
    """An example as the Snakefile reads it."""
    own = yaml.safe_load(path.read_text(encoding="utf-8"))
    settings = {} if "datasets" in own else yaml.safe_load(CONFIGS[0].read_text(encoding="utf-8"))
    update_config(settings, own)
    return resolve(settings)


def settings_of(found: Experiment) -> dict[str, dict[str, Any]]:
    """Settings of every run of one seed, and of the trials of every arm that is tuned, by a name."""
    named = {}
    for dataset in found.datasets:
        for kind in found.models:
            for arm in found.arms:
                named[f"{dataset}/{kind}/{arm}"] = found.run_settings(dataset, kind, arm).to_dict()
            for arm in found.trials:
                named[f"trial {dataset}/{kind}/{arm}"] = found.trial_settings(dataset, kind, arm).to_dict()
    return named


# The schema


def test_the_committed_schema_is_what_the_script_writes(tmp_path):
    write_schemas.write_config_schema(tmp_path / "config.schema.yaml")
    written = (tmp_path / "config.schema.yaml").read_text()
    assert written == (tiny.REPOSITORY / "schemas/config.schema.yaml").read_text(), (
        "run workflow_scripts/write_schemas.py"
    )
    assert yaml.safe_load(written) == write_schemas.config_schema() == config_schema()


def test_the_committed_page_of_keys_is_what_the_script_writes(tmp_path):
    write_schemas.write_config_page(tmp_path / "configuration.md")
    written = (tmp_path / "configuration.md").read_text()
    assert written == (tiny.REPOSITORY / "docs/configuration.md").read_text(), "run workflow_scripts/write_schemas.py"


def test_the_page_has_a_row_for_every_key():
    sections = re.split(r"(?m)^#+ ", configuration_page(config_schema()))
    rows = {part.split("\n")[0].strip("`"): set(re.findall(r"(?m)^\| `(\w+)` \|", part)) for part in sections}
    assert rows["training"] == set(model.Training.model_fields)
    assert rows["tune"] == set(model.Tune.model_fields)
    assert rows["datasets.NAME"] == set(model.Dataset.model_fields)
    assert rows["datasets.NAME.forgetting"] == set(model.GeneralText.model_fields)
    assert rows["contract"] == {"strict"}
    assert rows["All keys at the top"] == set(model.Config.model_fields)


def test_the_page_says_kinds_defaults_and_conditions():
    key = {"type": ["integer", "null"], "minimum": 1, "default": None, "description": "Of a b|c."}
    inner = {"type": "object", "additionalProperties": False, "properties": {"one": {"$ref": "#/$defs/few"}}}
    condition = {
        "if": {"properties": {"kind": {"const": "a"}}},
        "then": {"required": ["count"]},
        "else": {"properties": {"count": {"not": {}}}},
    }
    kinds = {"enum": ["a", "b"]}
    outer = {
        "type": "object",
        "additionalProperties": False,
        "required": ["kind"],
        "properties": {"kind": kinds, "count": key},
        "allOf": [condition],
    }
    root = {
        "required": [],
        "properties": {"inner": inner, "outer": outer},
        "$defs": {"few": {"type": "array", "items": {"type": "number"}, "default": [5e-05]}},
    }
    page = configuration_page(root)
    assert "| `inner` | block: [`inner`](#inner) | – |  |" in page
    assert "| `one` | list of numbers | – |  |" in page
    assert "| `kind` | `a` or `b` | **required** |  |" in page
    assert "| `count` | whole number (at least 1) or `null` | `null` | Of a b\\|c. |" in page
    assert "- Where `kind` is `a`, `count` must be there." in page
    assert "- Unless `kind` is `a`, `count` must not be there." in page


def blocks(kind: type[model.Block] = model.Block) -> list[type[model.Block]]:
    return [found for below in kind.__subclasses__() for found in (below, *blocks(below))]


@pytest.mark.parametrize("kind", blocks(), ids=lambda kind: kind.__name__)
def test_every_default_fits_its_own_bounds(kind):
    """Pydantic does not look at defaults."""
    required = {
        "Dataset": {"source": "hub"},
        "GeneralText": {"source": "hub"},
        "Tokenizer": {"source": "hub"},
        "Model": {"source": "hub"},
        "Quantization": {"load_in_4bit": True},
        "Method": {"learning_rate": 1e-3},
        "EarlyStopping": {"patience": 1},
        "Generate": {"max_new_tokens": 1},
        "Scorer": {"python": "own.py:f", "range": [0.0, 1.0]},
        "Training": {"device": "cpu", "precision": "fp32"},
        "EqualMemory": {"caps_GiB": [1.5]},
        "Config": {
            "datasets": {"d": {"source": "hub"}},
            "models": {"m": {"source": "hub"}},
            "methods": {"f": {"learning_rate": 1}},
            "training": {"device": "cpu", "precision": "fp32"},
            "seeds": [0],
        },
    }
    given = required.get(kind.__name__, {})
    whole = json.loads(json.dumps(kind.model_validate(given).to_dict(), default=lambda block: block.to_dict()))
    assert kind.model_validate(whole).to_dict().keys() == whole.keys() >= given.keys()


def test_a_block_is_given_back_in_the_order_in_which_it_was_written():
    given = {"epochs": 2, "precision": "fp32", "weight_decay": 0, "device": "cpu"}
    found = model.Training.model_validate(given).settled()
    assert list(found.to_dict())[:4] == list(given)
    assert json.dumps(found.to_dict()["weight_decay"]) == "0"  # not 0.0: settings are hashed as they are written
    assert found.to_dict()["engine"] == "eager"
    engines = [model.Training(device="cuda", precision="bf16", parallel=how).settled().engine for how in (None, "data")]
    assert engines == ["captured", "captured"]
    assert model.Training(device="cuda", precision="bf16", parallel="sharded").settled().engine == "eager"
    dataset = {"source": "files", "splits": {"train": "a"}, "text": ["t"], "label": "l"}
    assert "path" not in model.Dataset.model_validate(dataset).to_dict()


def test_what_the_schema_lets_through_and_no_type_takes_is_named(monkeypatch):
    """Nothing is known to get there."""
    monkeypatch.setattr(experiment, "config_schema", lambda: {})
    training = {**tiny.config(Path())["training"], "epochs": "two"}
    with pytest.raises(InputError, match=r"^config key training\.epochs: Input should be a valid integer"):
        resolve(tiny.config(Path(), training=training))


# Settings of runs


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_settings_of_an_example_are_byte_for_byte_those_recorded(path):
    """They are part of every run's fingerprint: another byte would train all of a user's runs again."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[path.name]
    found = settings_of(resolved(path))
    assert {name: json.dumps(own) for name, own in found.items()} == {
        name: json.dumps(own) for name, own in recorded.items()
    }


def test_settings_of_a_run_are_given_back_as_they_were_taken():
    settings = json.loads(RECORDED.read_text(encoding="utf-8"))["demo.yaml"]["docstrings/minilm/lora-r4"]
    turned = dict(reversed(settings.items()))
    assert json.dumps(RunSettings.of(turned).to_dict()) == json.dumps(turned)
    assert RunSettings.of(turned) == RunSettings.of(settings)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda settings: settings.pop("epochs"), "settings of a run lack epochs"),
        (lambda settings: settings.update(speed=1), "settings of a run have no speed"),
    ],
)
def test_other_settings_are_refused(change, said):
    settings = json.loads(RECORDED.read_text(encoding="utf-8"))["demo.yaml"]["docstrings/minilm/full"]
    change(settings)
    with pytest.raises(InputError, match=said):
        RunSettings.of(settings)


@pytest.mark.parametrize(("precision", "computed"), [("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")])
def test_four_bits_alone_are_the_settings_that_were_spelled_out(precision, computed):
    training = {**tiny.config(Path())["training"], "precision": precision}
    spelled = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    spelled |= {"bnb_4bit_compute_dtype": computed}
    found = []
    for quantization in ({"load_in_4bit": True}, spelled):
        own = tiny.config(Path(), training=training)
        own["methods"]["qlora"]["quantization"] = quantization
        found.append(settings_of(resolve(own)))
    assert json.dumps(found[0]) == json.dumps(found[1])
    assert found[0]["reviews/tiny/qlora-r4"]["quantization"] == spelled


@pytest.mark.parametrize(
    ("change", "address"),
    [
        ({"models": {"tiny": {"source": "hub", "path": "owner/model", "revision": "main"}}}, "owner/model"),
        ({"models": {"tiny": {"source": "hub", "path": "owner/model"}}}, "owner/model"),
        ({"datasets": {"d": {**HUB_ROWS, "revision": "v1"}}}, "datasets/owner/rows"),
    ],
)
def test_a_revision_that_is_none_says_where_to_read_one(change, address):
    with pytest.raises(InputError) as caught:
        resolve(tiny.config(Path(), **change))
    where = f"https://huggingface.co/{address}"
    assert ".revision: " in str(caught.value)
    assert str(caught.value).endswith(f"; read it at {where}/commits/main, or with `git ls-remote {where} HEAD`")


if __name__ == "__main__":
    every = {path.name: settings_of(resolved(path)) for path in CONFIGS}
    files = [
        f"{json.dumps(name)}: {{\n" + ",\n".join(f"{json.dumps(run)}: {json.dumps(own)}" for run, own in runs.items())
        for name, runs in every.items()
    ]
    RECORDED.write_text("{\n" + "\n},\n".join(files) + "\n}\n}\n", encoding="utf-8")

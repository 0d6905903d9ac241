"""What is saved names the classes of the data, whatever names the base model came with."""

import json
from pathlib import Path

import pytest
from peft_tradeoffs.core.layout import HEAD
from peft_tradeoffs.report import cards
from peft_tradeoffs.training import methods
from tiny import build
from tiny_arms import LORA, NF4
from transformers import AutoConfig, AutoModelForSequenceClassification

STRANGE = ["😀 glad", "x" * 300, "1", "01", "1e3", "null", "NaN", "true", "name_or_path", 'a "quote"\nand a line', "é"]


@pytest.fixture(scope="module")
def reversed_bert(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier whose own classes stand the other way round."""
    folder = tmp_path_factory.mktemp("models") / "reversed"
    names = {"id2label": {0: "pos", 1: "neg"}, "label2id": {"pos": 0, "neg": 1}}
    AutoModelForSequenceClassification.from_pretrained(tiny_bert, **names).save_pretrained(folder)
    return folder


def config_of(folder: Path, base: Path) -> AutoConfig:
    """The configuration of what was saved, of an adapter as its base model is loaded with what stands beside it."""
    if not (beside := folder / HEAD).exists():
        return AutoConfig.from_pretrained(folder)
    fields = json.loads(beside.read_text(encoding="utf-8"))
    labels = fields.pop("labels")
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
    return AutoModelForSequenceClassification.from_pretrained(
        base, **fields, **names, ignore_mismatched_sizes=True
    ).config


@pytest.mark.parametrize(
    "arm", [{}, {"peft": LORA}, {"peft": LORA, "quantization": NF4}], ids=["full", "lora", "qlora"]
)
def test_the_base_models_own_names_do_not_stay(reversed_bert, tmp_path, arm):
    methods.save(build(reversed_bert, labels=["neg", "pos"], **arm), tmp_path)
    config = config_of(tmp_path, reversed_bert)
    assert (config.id2label, config.label2id) == ({0: "neg", 1: "pos"}, {"neg": 0, "pos": 1})
    assert config.problem_type == "single_label_classification"


def test_a_head_of_another_number_of_classes_and_a_decoders(reversed_bert, tiny_llama, tmp_path):
    for base, names in ((reversed_bert, ["a", "b", "c"]), (tiny_llama, ["0", "1"])):
        folder = tmp_path / base.name
        methods.save(build(base, labels=names, num_labels=len(names), pad_token_id=1), folder)
        config = AutoConfig.from_pretrained(folder)
        assert list(config.id2label.values()) == names and config.pad_token_id == 1


@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "lora"])
def test_a_regression_has_one_value_and_no_classes(reversed_bert, tmp_path, peft):
    methods.save(build(reversed_bert, task="regression", num_labels=1, peft=peft), tmp_path)
    config = config_of(tmp_path, reversed_bert)
    assert (config.num_labels, config.problem_type) == (1, "regression")
    assert (config.id2label, config.label2id) == ({0: "value"}, {"value": 0})


@pytest.mark.parametrize("peft", [None, LORA], ids=["full", "lora"])
def test_names_of_any_kind_come_back(tiny_bert, tmp_path, peft):
    run = tmp_path / "run" / ("adapter" if peft else "checkpoint")
    methods.save(build(tiny_bert, labels=STRANGE, num_labels=len(STRANGE), peft=peft), run)
    cards.write_folder(run.iterdir(), tmp_path / "out", None, "the card")
    for folder in (run, tmp_path / "out"):
        config = config_of(folder, tiny_bert)
        assert config.id2label == dict(enumerate(STRANGE))
        assert config.label2id == {name: index for index, name in enumerate(STRANGE)}


def test_a_run_says_them(finished):
    for arm, saved, expected in (
        ("full", "checkpoint/config.json", {"id2label": {"0": "0", "1": "1"}}),
        ("qlora-r4", f"adapter/{HEAD}", {"labels": ["0", "1"], "pad_token_id": 0}),
    ):
        config = json.loads((finished / "results/runs/reviews/tiny" / arm / "seed0" / saved).read_text())
        assert {key: config[key] for key in expected} == expected

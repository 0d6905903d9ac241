"""Every PEFT type of the schema: trained, saved and loaded with what it predicted, or refused by one line."""

import copy
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from peft import PeftModel
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.measure.devices import Phases, dense_parts
from peft_tradeoffs.training import engine, methods
from peft_tradeoffs.training.batches import ResidentSplit, Sizes, longest_text, padding_mask
from peft_tradeoffs.training.methods import hold_as_computed
from small_fits import CPU, SETTINGS, Memory, Silent, split, subject
from tiny import build
from tiny_arms import NF4
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

SCHEMA = json.loads((Path(__file__).parents[2] / "schemas/peft.schema.json").read_text(encoding="utf-8"))
TYPES = SCHEMA["$defs"]
# Of the tiny model, whose layers are 64 wide, not what their defaults ask for.
REFUSED = {"C3A": "block size should be a factor", "VBLORA": "must be divisible by `vector_length`"}
LORA = {"peft_type": "LORA", "target_modules": ["query", "value"], "r": 4}


def texts(rows: int, seed: int = 0) -> Any:
    made = split(rows, seed)
    return dataclasses.replace(made, input_ids=np.minimum(made.input_ids, 27))  # the words that the model has


def train_and_reload(folder: Path, saved: Path, peft: dict[str, Any], quantization: dict | None = None) -> np.ndarray:
    """Differences of logits between a trained arm and what is loaded of it."""
    built = build(folder, peft=copy.deepcopy(peft), quantization=quantization)
    assert methods.training_bytes(built.model)["weights"] > 0
    splits = {"train": texts(16), "test": texts(6, seed=1)}
    hold_as_computed(built.model, "fp32", CPU, longest_text(splits["train"]))
    settings = dataclasses.replace(SETTINGS, epochs=1, learning_rate=1e-2, batch_size=8)
    before = {name: p.detach().clone() for name, p in built.model.named_parameters() if p.requires_grad}
    state = Memory(every=True)
    watch = engine.Watch(state, Silent())
    logits = engine.train(subject(built.model, splits, settings), CPU, Phases(CPU), watch).logits
    assert state.history, "no state was saved on the way"
    adapter = [name for name in before if "modules_to_save" not in name]
    changed = [name for name in adapter if not torch.equal(before[name], built.model.get_parameter(name))]
    assert changed, "the adapter was not trained"
    methods.save(built, saved)
    base = AutoModelForSequenceClassification.from_pretrained(
        folder,
        quantization_config=quantization
        and BitsAndBytesConfig(**quantization, llm_int8_skip_modules=["classifier", "bert.pooler.dense"]),
    )
    loaded = PeftModel.from_pretrained(base, saved)
    test = splits["test"]
    again = engine.predict(subject(loaded, splits, settings), ResidentSplit(test, 0, CPU), Sizes.of(test), padding_mask)
    return np.abs(again - logits)


@pytest.mark.parametrize("name", TYPES)
def test_a_type_with_its_type_and_targets_alone(name, tiny_bert, tmp_path):
    block = {"peft_type": name, "target_modules": ["query", "value"]}
    if name in REFUSED:
        with pytest.raises(InputError, match=rf"^{name} with target_modules .*{REFUSED[name]}") as caught:
            build(tiny_bert, peft=block)
        assert "\n" not in str(caught.value)
    else:
        assert train_and_reload(tiny_bert, tmp_path, block).max() == 0


@pytest.mark.parametrize("name", sorted(name for name, about in TYPES.items() if not about["x-quantization"]))
def test_a_type_that_takes_no_quantised_layers_is_refused_at_once(name, tmp_path):
    method = {"learning_rate": 1e-3, "quantization": tiny.NF4, "peft": {"peft_type": name, "target_modules": ["query"]}}
    with pytest.raises(InputError, match=rf"methods\.q\.quantization: PEFT cannot put {name} on .* LORA, "):
        resolve(tiny.config(tmp_path, methods={"q": method}))


@pytest.mark.parametrize(
    "peft",
    [
        {"peft_type": "IA3", "target_modules": ["query", "value"]},
        {**LORA, "use_dora": True, "trainable_token_indices": [1, 2], "bias": "all"},
        {"peft_type": "LN_TUNING", "target_modules": ["LayerNorm"]},
    ],
    ids=["ia3", "dora", "ln"],
)
def test_types_on_quantised_layers(peft, tiny_bert, tmp_path):
    assert train_and_reload(tiny_bert, tmp_path, peft, NF4).max() < 0.01


def test_types_whose_block_is_set_train_too(tiny_bert, tmp_path):
    for peft in (
        {"peft_type": "C3A", "target_modules": ["query"], "block_size": 16},
        {"peft_type": "VBLORA", "target_modules": ["query"], "vector_length": 16, "num_vectors": 32},
    ):
        assert train_and_reload(tiny_bert, tmp_path / peft["peft_type"], peft).max() == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank_pattern": {"nothing": 2}}, "rank_pattern: nothing fits none .* end in query, value"),
        ({"alpha_pattern": {"layer.0.query": 2}}, "alpha_pattern: layer.0.query fits none"),
        ({"layers_to_transform": [0, 9]}, r"layers_to_transform: no module is adapted in layer 9; .*: 0 \(they count"),
        ({"layers_to_transform": 99}, "LORA with target_modules .* No modules were targeted"),
        ({"trainable_token_indices": [9999]}, "LORA with .* index 9999 is out of bounds"),
        ({"exclude_modules": ["query", "value"]}, "LORA with .* No modules were targeted"),
        ({"target_modules": ["dropout"]}, "LORA with .* is not supported"),
        ({"lora_dropout": 2.0}, "LORA with .* dropout probability has to be between 0 and 1"),
        ({"exclude_modules": "("}, "LORA with .* unterminated subpattern"),
    ],
)
def test_settings_that_fit_nothing_are_one_line(changes, message, tiny_bert):
    with pytest.raises(InputError, match=message) as caught:
        build(tiny_bert, peft={**LORA, **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"target_modules": "all-linear"},
        {"target_modules": r".*layer\.0.*query"},
        {"rank_pattern": {"query": 2, r"layer\.1.*value": 3}, "alpha_pattern": {"layer.0.attention.self.query": 3}},
        {"layers_to_transform": [1]},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora", "use_rslora": True},
        {"lora_bias": True},
    ],
    ids=["all-linear", "regex", "patterns", "layer", "pissa", "olora", "bias"],
)
def test_settings_that_fit_train(changes, tiny_bert, tmp_path):
    assert train_and_reload(tiny_bert, tmp_path, {**LORA, **changes}).max() < 1e-5


def test_a_library_that_is_missing_is_named(tiny_bert, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r"ADAMSS: scikit-learn is required .*; install what it needs, or choose"):
        build(tiny_bert, peft={"peft_type": "ADAMSS", "target_modules": ["query"]})


def test_memory_that_runs_out_in_peft_is_no_refusal(tiny_bert, monkeypatch):
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("peft.get_peft_model", full)
    with pytest.raises(torch.OutOfMemoryError):
        build(tiny_bert, peft=LORA)


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.strided])
def test_a_sparse_tensor_is_its_indices_and_values(layout):
    dense = torch.eye(4)
    parts = dense_parts(dense.to_sparse(layout=layout) if layout != torch.strided else dense)
    assert sum(part.numel() for part in parts) == {torch.sparse_coo: 8 + 4, torch.strided: 16}.get(layout, 5 + 4 + 4)

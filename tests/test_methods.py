"""Models of an arm: heads, counts, and the traps of bitsandbytes and PEFT on a CPU."""

import copy
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import tiny
import torch
from peft_tradeoffs import methods
from peft_tradeoffs.errors import InputError

LORA = {**tiny.LORA, "r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
NF4 = {**tiny.NF4, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


def build(folder: Path, **changes: Any) -> methods.Built:
    arguments = {
        "peft": None,
        "quantization": None,
        "gradient_checkpointing": False,
        "head": None,
        "task": "classification",
        "num_labels": 2,
        "pad_token_id": 0,
        "seed": 0,
        "device": "cpu",
    }
    return methods.build(folder, **{**arguments, **changes})


def head_weights(built: methods.Built) -> dict[str, torch.Tensor]:
    weights = {}
    for name, parameter in built.model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
        if parameter.requires_grad and plain.startswith(tuple(built.head)):
            weights[plain] = parameter
    return weights


def batch(rows: int = 8) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randint(5, 20, (rows, 16), generator=random),
        "attention_mask": torch.ones(rows, 16, dtype=torch.long),
        "labels": torch.arange(rows) % 2,
    }


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    torch.manual_seed(3)
    model(**batch()).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "arm",
    [
        {"peft": LORA},
        {"peft": LORA, "quantization": NF4},
        {"peft": {**LORA, "target_modules": "all-linear"}, "quantization": NF4},
        {"peft": {**LORA, "target_modules": ["dense"]}},
        {"peft": {"peft_type": "IA3", "target_modules": ["key"], "feedforward_modules": []}},
    ],
    ids=["lora", "qlora", "qlora-all-linear", "lora-dense", "ia3"],
)
def test_every_arm_of_a_seed_trains_the_same_whole_head(tiny_bert, arm):
    full, other = build(tiny_bert), build(tiny_bert, **arm)
    expected, found = head_weights(full), head_weights(other)
    assert (
        set(found)
        == set(expected)
        == {
            "bert.pooler.dense.weight",
            "bert.pooler.dense.bias",
            "classifier.weight",
            "classifier.bias",
        }
    )
    for name, weight in found.items():
        assert torch.equal(weight, expected[name]), name
        assert weight.dtype == torch.float32
    assert other.parameters.head == full.parameters.head == 64 * 64 + 64 + 2 * 64 + 2


def test_another_seed_draws_another_head(tiny_bert):
    first, second = build(tiny_bert), build(tiny_bert, seed=1)
    assert not torch.equal(first.model.classifier.weight, second.model.classifier.weight)
    assert torch.equal(first.model.bert.pooler.dense.weight, second.model.bert.pooler.dense.weight)


def test_the_head_is_never_quantised(tiny_bert):
    model = build(tiny_bert, peft=LORA, quantization=NF4).model
    quantised = {name for name, m in model.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    assert len(quantised) == 2 * 6
    assert not any("pooler" in name or "classifier" in name for name in quantised)


def test_counts_are_logical_and_each_weight_counts_once(tiny_bert):
    full = build(tiny_bert).parameters
    qlora = build(tiny_bert, peft=LORA, quantization=NF4).parameters
    weights = sum(p.numel() for p in build(tiny_bert).model.parameters())
    assert full.total == full.trainable == weights
    assert (qlora.backbone, qlora.head) == (full.backbone, full.head)
    assert qlora.adapter == 2 * 2 * (4 * 64 + 64 * 4)  # layers × modules × (A + B)
    assert qlora.trainable == qlora.adapter + qlora.head
    assert qlora.total == qlora.backbone + qlora.head + qlora.adapter


def test_weight_bytes_count_packed_weights_and_their_constants(tiny_bert):
    full, qlora = build(tiny_bert), build(tiny_bert, peft=LORA, quantization=NF4)
    linear = 2 * (4 * 64 * 64 + 2 * 64 * 64)
    adapter = 4 * qlora.parameters.adapter
    copies = 4 * qlora.parameters.head  # PEFT keeps the head's first weights beside the trained ones
    packed = methods.weight_bytes(qlora.model) - adapter - copies
    unpacked = methods.weight_bytes(full.model)
    assert unpacked - 4 * linear + linear // 2 < packed < unpacked - 4 * linear + linear


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_survive_an_evaluation_of_quantised_layers(tiny_bert, bias):
    model = build(tiny_bert, peft=LORA, quantization=NF4).model
    layers = [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    if not bias:
        for layer in layers:
            layer.bias = None
    before = gradients(model)
    model.eval()
    with torch.no_grad():
        model(**batch())
    after = gradients(model)
    assert any(value.abs().max() > 0 for name, value in before.items() if "lora_B" in name)
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert not any(getattr(layer, "support_avx512bf16_for_cpu", False) for layer in layers)


def test_nf4_differs_from_full_precision_and_lora_starts_from_it(tiny_bert):
    plain, lora, qlora = (
        build(tiny_bert, **arm).model.eval() for arm in ({}, {"peft": LORA}, {"peft": LORA, "quantization": NF4})
    )
    with torch.no_grad():
        logits = [model(**batch()).logits for model in (plain, lora, qlora)]
    assert torch.equal(logits[0], logits[1])
    assert 0 < (logits[0] - logits[2]).abs().max() < 0.2


@pytest.mark.parametrize("peft", [None, LORA])
def test_gradient_checkpointing_changes_no_gradient(tiny_bert, peft):
    plain = build(tiny_bert, peft=peft)
    checkpointed = build(tiny_bert, peft=peft, gradient_checkpointing=True)
    assert not any(getattr(m, "gradient_checkpointing", False) for m in plain.model.modules())
    assert any(getattr(m, "gradient_checkpointing", False) for m in checkpointed.model.modules())
    expected, found = gradients(plain.model), gradients(checkpointed.model)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_alpha_scales_what_lora_adds(tiny_bert):
    """A guard against a PEFT block that is not handed through."""
    scales = {
        build(tiny_bert, peft={**LORA, "lora_alpha": alpha})
        .model.base_model.model.bert.encoder.layer[0]
        .attention.self.query.scaling["default"]
        for alpha in (8, 16)
    }
    assert scales == {2.0, 4.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft": {**LORA, "target_modules": ["q_lin"]}}, ["q_lin", "query"]),
        ({"peft": {**LORA, "target_modules": ["query", "valu"]}}, ["valu", "value"]),
        ({"peft": {**LORA, "target_modules": "nothing.*"}}, ["nothing.*"]),
        ({"head": ["score"]}, ["score", "no module"]),
    ],
)
def test_modules_that_do_not_exist_are_named(tiny_bert, changes, words):
    with pytest.raises(InputError) as caught:
        build(tiny_bert, **changes)
    assert all(word in str(caught.value) for word in words)


def test_a_checkpoint_without_backbone_weights_is_refused(tiny_bert, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "layer.1" in name)
    save_file({name: weight for name, weight in weights.items() if name != lost}, folder / "model.safetensors")
    with pytest.raises(InputError, match="lacks 1 backbone weights"):
        build(folder)


def test_decoder_head_is_score_and_pad_token_is_set(tiny_llama):
    built = build(tiny_llama, pad_token_id=1, peft={**LORA, "target_modules": "all-linear"})
    assert built.head == ["score"]
    assert built.model.config.pad_token_id == 1


def test_a_built_model_is_not_changed_by_saving(tiny_bert, tmp_path):
    built = build(tiny_bert, peft=LORA, quantization=NF4)
    before = copy.deepcopy({name: p.detach().clone() for name, p in built.model.named_parameters()})
    methods.save(built, tmp_path / "adapter")
    for name, parameter in built.model.named_parameters():
        assert torch.equal(parameter, before[name])
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_a_head_of_another_task_is_drawn_anew(tiny_bert, tmp_path):
    build(tiny_bert, num_labels=3).model.save_pretrained(tmp_path / "nli")
    built, again = build(tmp_path / "nli"), build(tmp_path / "nli", peft=LORA)
    assert built.model.classifier.weight.shape == (2, 64)
    expected, found = head_weights(built), head_weights(again)
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())


def test_code_that_comes_with_a_model_is_never_run(tiny_bert, tmp_path, monkeypatch):
    import io
    import json

    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('executed')")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(InputError, match="code that comes with a model is never run"):
        build(folder)

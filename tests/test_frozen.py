"""Frozen linear layers are held in the precision they are computed in, unless a bit changes."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft_tradeoffs import methods
from peft_tradeoffs.frozen import hold_as_computed

CPU = torch.device("cpu")
LORA = {**tiny.LORA, "r": 4, "lora_alpha": 8}


def build(folder: Path, peft: dict[str, Any] | None) -> torch.nn.Module:
    built = methods.build(
        folder,
        **{"peft": peft, "quantization": None, "gradient_checkpointing": False, "head": None},
        **{"task": "classification", "num_labels": 2, "pad_token_id": 0, "seed": 0, "device": "cpu"},
    )
    return built.model


def logits(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.tensor([[2, 5, 9, 3], [2, 7, 3, 0]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return model.eval()(input_ids=ids, attention_mask=(ids != 0).long()).logits


def test_frozen_weights_under_lora_take_half_and_compute_the_same(tiny_bert):
    model = build(tiny_bert, LORA)
    expected, before = logits(model), methods.weight_bytes(model)
    assert hold_as_computed(model, "bf16", CPU)
    assert torch.equal(logits(model), expected)
    assert methods.weight_bytes(model) < 0.75 * before
    kinds = {p.requires_grad: p.dtype for name, p in model.named_parameters() if "dense.weight" in name}
    assert kinds == {False: torch.bfloat16, True: torch.float32}  # the pooler is trained
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize(("peft", "precision"), [({**LORA, "use_dora": True}, "bf16"), (LORA, "fp32"), (None, "bf16")])
def test_what_would_change_or_is_trained_stays_in_float32(tiny_bert, peft, precision):
    model = build(tiny_bert, peft)
    expected = logits(model)
    assert not hold_as_computed(model, precision, CPU)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(logits(model), expected)

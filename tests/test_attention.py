"""The attention mask of a GPU run says the same as a padding mask."""

import contextlib

import numpy as np
import pytest
import torch
from peft_tradeoffs.attention import additive_mask, choose_mask, no_mask, padding_mask
from peft_tradeoffs.batches import ResidentSplit, Split
from transformers import AutoModelForSequenceClassification

CPU = torch.device("cpu")
LENGTHS = np.array([19, 3, 11])


@pytest.fixture
def data() -> ResidentSplit:
    tokens = np.random.default_rng(0).integers(5, 20, LENGTHS.sum()).astype(np.int32)
    offsets = np.concatenate([[0], LENGTHS.cumsum()])
    return ResidentSplit(Split(tokens, None, offsets, np.zeros(3, np.int64), np.arange(3)), 0, CPU)


def test_masks_by_hand():
    lengths = torch.tensor([2, 1])
    assert padding_mask(lengths, 3, torch.float32).tolist() == [[1, 1, 0], [1, 0, 0]]
    mask = additive_mask(lengths, 3, torch.bfloat16)
    assert mask.shape == (2, 1, 3, 3) and mask.dtype == torch.bfloat16
    inf = torch.inf
    assert mask[:, 0].tolist() == [[[0, 0, -inf]] * 3, [[0, -inf, -inf]] * 3]
    assert no_mask(lengths, 3, torch.float32) is None


@pytest.mark.parametrize(("kind", "expected"), [("bert", additive_mask), ("llama", no_mask)])
def test_the_choice_follows_the_architecture(kind, expected, data, tiny_bert, tiny_llama):
    folder = {"bert": tiny_bert, "llama": tiny_llama}[kind]
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, pad_token_id=0)
    mask = choose_mask(model, data, LENGTHS, torch.float32, contextlib.nullcontext)
    assert mask is expected
    model.eval()
    rows, length = torch.arange(3), 24
    inputs, sizes, _ = data.gather(rows, length)
    with torch.no_grad():
        found = model(**inputs, attention_mask=mask(sizes, length, torch.float32)).logits
        plain = model(**inputs, attention_mask=padding_mask(sizes, length, torch.float32)).logits
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)


def test_a_model_that_takes_no_other_mask_keeps_the_padding_mask(data, tiny_bert, monkeypatch):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    forward = model.forward

    def two_dimensions_only(attention_mask=None, **inputs):
        if attention_mask.ndim != 2:
            raise ValueError("attention_mask must have two dimensions")
        return forward(attention_mask=attention_mask, **inputs)

    monkeypatch.setattr(model, "forward", two_dimensions_only)
    assert choose_mask(model, data, LENGTHS, torch.float32, contextlib.nullcontext) is padding_mask


def test_a_mask_that_changes_what_the_model_says_is_not_taken(data, tiny_bert, monkeypatch):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    for module in model.modules():
        if hasattr(module, "is_causal"):
            monkeypatch.setattr(module, "is_causal", True)  # a lie: then no mask at all would be tried first
    mask = choose_mask(model, data, LENGTHS, torch.float32, contextlib.nullcontext)
    assert mask in (additive_mask, padding_mask)

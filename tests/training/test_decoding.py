"""Greedy decoding: the tokens are those of Transformers' generate, whatever the family, the arm and the ends."""

import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tiny
import tiny_causal
import torch
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.runs.interruption import Interrupted
from peft_tradeoffs.training import decoding
from peft_tradeoffs.training.batches import UNMASKED, choose_kernels, no_mask
from peft_tradeoffs.training.decoding import Decoding, decode
from peft_tradeoffs.training.step import CaptureError

CPU = torch.device("cpu")
LORA = {"peft_type": "LORA", "target_modules": "all-linear", "r": 4, "lora_alpha": 8}
NEVER = Decoding(32, 12, (), 0, "fp32")  # batches of 12, 12 and 8
WINDOWS = {"mistral": {"sliding_window": 12}, "gemma": {"sliding_window": 12}, "phi": {"sliding_window": 12}}


def built(folder: Path, family: str = "llama", **recipe: Any) -> torch.nn.Module:
    """A model of which what is written depends on all that was: random weights as they are hardly attend."""
    changes = {**tiny_causal.FAMILIES, family: {**tiny_causal.FAMILIES[family], **WINDOWS.get(family, {})}}
    with mock.patch.dict(tiny_causal.FAMILIES, changes):
        tiny_causal.causal(folder, family)
    model = tiny.build(folder, task="sft", num_labels=0, **recipe).model
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.ndim == 2:
                parameter += 0.3 * torch.randn(parameter.shape, generator=random)
    return model


def prompts(count: int = 32, longest: int = 40) -> list[np.ndarray]:
    """Random tokens, of 1 to `longest` each; none is a special one."""
    random = np.random.default_rng(0)
    return [random.integers(3, 300, size).astype(np.int32) for size in random.integers(1, longest + 1, count)]


@torch.no_grad()
def generated(model: Any, texts: list[np.ndarray], wanted: Decoding) -> list[list[int]]:
    """What Transformers writes behind each prompt alone, the end token left out; the model is as before."""
    training, found = model.training, []
    model.eval()
    for text in texts:
        ids = torch.from_numpy(text).long()[None]
        ends = list(wanted.end_tokens) or None
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True,
            max_new_tokens=wanted.max_new_tokens, eos_token_id=ends, pad_token_id=wanted.pad_token_id,
        )  # fmt: skip
        tokens = output[0, len(text) :].tolist()
        found.append(tokens[:-1] if tokens[-1] in wanted.end_tokens else tokens)
    model.train(training)
    return found


def lists(found: decoding.Decoded) -> list[list[int]]:
    return [tokens.tolist() for tokens in found.tokens]


def changed(values: Decoding = NEVER, **changes: Any) -> Decoding:
    return dataclasses.replace(values, **changes)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    return built(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def endless(llama: torch.nn.Module) -> list[list[int]]:
    """What it writes where nothing ends it."""
    return generated(llama, prompts(), NEVER)


@pytest.mark.parametrize("family", tiny_causal.FAMILIES)
def test_the_tokens_are_those_of_generate_for_each_prompt_alone(family, tmp_path):
    model = built(tmp_path, family)
    found = decode(model, prompts(), NEVER, CPU)
    assert lists(found) == generated(model, prompts(), NEVER)
    assert len({tuple(tokens) for tokens in lists(found)}) > 25
    assert all(tokens.dtype == np.int32 for tokens in found.tokens)

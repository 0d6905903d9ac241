"""Tiny models whose text depends on all that was written before, prompts, and what `generate` writes behind them."""

import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import tiny
import tiny_causal
import torch
from peft_tradeoffs.runs.interruption import Interrupted
from peft_tradeoffs.training.decoding import Decoded, Decoding

LORA = {"peft_type": "LORA", "target_modules": "all-linear", "r": 4, "lora_alpha": 8}
NEVER = Decoding(32, 12, (), 0, "fp32")  # batches of 12, 12 and 8
LENGTHS = [1, 2, 5, 8, 9, 16, 17, 29, 40]
WINDOWS = {"mistral": {"sliding_window": 12}, "gemma": {"sliding_window": 12}, "phi": {"sliding_window": 12}}


def built(folder: Path, family: str = "llama", **recipe: Any) -> torch.nn.Module:
    """A model of which what is written depends on all that was: random weights as they are hardly attend."""
    changes = {**tiny_causal.FAMILIES, family: {**tiny_causal.FAMILIES[family], **WINDOWS.get(family, {})}}
    with mock.patch.dict(tiny_causal.FAMILIES, changes):
        tiny_causal.causal(folder, family)
    model = tiny.build(folder, task="sft", num_labels=0, **recipe).model
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point() and parameter.ndim == 2 and "embed_tokens" not in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=noise).to(parameter.device)
    return model


def prompts(count: int = 32) -> list[np.ndarray]:
    """Random tokens; none is a special one."""
    drawn = np.random.default_rng(0)
    return [drawn.integers(3, 300, size).astype(np.int32) for size in drawn.choice(LENGTHS, count)]


@torch.no_grad()
def generated(model: Any, texts: list[np.ndarray], wanted: Decoding) -> list[list[int]]:
    """What Transformers writes behind prompts without padding, those of one length together; the model is as before.

    The end token is left out.
    """
    training, found = model.training, [[0]] * len(texts)
    model.eval()
    for size in {len(text) for text in texts}:
        rows = [row for row, text in enumerate(texts) if len(text) == size]
        ids = torch.from_numpy(np.stack([texts[row] for row in rows])).long().to(model.device)
        ends = list(wanted.end_tokens) or None
        output = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True,
            max_new_tokens=wanted.max_new_tokens, eos_token_id=ends, pad_token_id=wanted.pad_token_id,
        )  # fmt: skip
        for row, tokens in zip(rows, output[:, size:].tolist(), strict=True):
            end = next((place for place, token in enumerate(tokens) if token in wanted.end_tokens), None)
            found[row] = tokens[:end]
    model.train(training)
    return found


def lists(found: Decoded) -> list[list[int]]:
    """The tokens of each prompt."""
    return [tokens.tolist() for tokens in found.tokens]


def polled() -> mock.Mock:
    """A poll that ends the decoding when it is asked for the fourth time."""
    return mock.Mock(side_effect=[None, None, None, Interrupted("SIGTERM", "while decoding")])


def changed(**changes: Any) -> Decoding:
    """NEVER, but for these."""
    return dataclasses.replace(NEVER, **changes)

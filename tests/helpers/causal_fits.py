"""A tiny causal model trained under each of the settings that decide how gradients become updates, on any device."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import tiny
import tiny_causal
import torch
from peft_tradeoffs.measure.devices import Phases, free_memory
from peft_tradeoffs.training import engine, updates
from peft_tradeoffs.training.batches import Data, longest_text
from peft_tradeoffs.training.methods import hold_as_computed
from peft_tradeoffs.training.step import Settings, Subject
from small_fits import Memory, Silent

LORA = {"peft_type": "LORA", "target_modules": "all-linear", "r": 8, "lora_alpha": 16}
QLORA_FP16 = {"peft": LORA, "quantization": tiny.NF4_FP16}
SETTINGS = Settings(
    **{**tiny.TRAINING, "task": "sft", "metric": "token_loss", "epochs": 100, "batch_size": 16, "warmup_ratio": 0.05}
)
PARTS = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.05}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # recipe, settings
    "cosine": ({"peft": LORA}, {"lr_scheduler_type": "cosine"}),
    "fp16": ({}, {"precision": "fp16", **PARTS}),
    "fp16-qlora": (QLORA_FP16, {"precision": "fp16"}),
    "bfloat16": ({"dtype": "bfloat16"}, {"learning_rate": 1e-2}),
    "8-bit": ({}, {"optimizer": "adamw_8bit", **PARTS}),
    "8-bit-fp16": ({}, {"optimizer": "adamw_8bit", "precision": "fp16"}),
    "8-bit-bfloat16": ({"dtype": "bfloat16"}, {"optimizer": "adamw_8bit", "learning_rate": 1e-2}),
    "paged": ({}, {"optimizer": "paged_adamw_8bit"}),
}


def wide(folder: Path) -> Path:
    """A model of which some weights are large enough for pages, and others small enough for 32 bits."""
    with mock.patch.dict(tiny_causal.FAMILIES["llama"], {"intermediate_size": 1600}):
        return tiny_causal.causal(folder)


def splits(rows: int) -> dict[str, Any]:
    """Of so many training texts."""
    own = tiny_causal.tokenizer()
    return {"train": tiny_causal.encoded(rows, own), "test": tiny_causal.encoded(rows // 5, own, 1)}


@contextlib.contextmanager
def first_steps_overflow(scale: float = 2.0**22) -> Iterator[None]:
    """Within it fp16's loss is scaled so that the first steps are skipped."""
    with mock.patch.object(updates, "INIT_SCALE", scale):
        yield


def fit(
    folder: Path, data: dict[str, Any], case: str, device: torch.device, state: Memory | None = None, **changes: Any
) -> tuple[dict[str, torch.Tensor], engine.Result]:
    """The trained weights and the result."""
    recipe, own = CASES[case]
    settings = dataclasses.replace(SETTINGS, **{**own, **changes})
    model = tiny.build(folder, task="sft", num_labels=0, device=str(device), **recipe).model
    hold_as_computed(model, settings.precision, device, longest_text(data["train"]))
    free_memory(device)
    subject = Subject(model, Data.of(data, 0, settings.task), settings, 3)
    with first_steps_overflow():
        result = engine.train(subject, device, Phases(device), engine.Watch(state or Memory(), Silent()))
    return {name: p.detach().clone() for name, p in subject.parameters.items()}, result

"""Small fits on a CPU: a model of two layers, its texts and settings, a state kept in memory, no reports."""

import copy
import dataclasses
from typing import Any

import numpy as np
import tiny
import torch
from peft_tradeoffs.inputs.tokens import Split
from peft_tradeoffs.measure.devices import Phases
from peft_tradeoffs.training import engine
from peft_tradeoffs.training.batches import Data
from peft_tradeoffs.training.step import Settings, Subject
from torch import nn

SETTINGS = Settings(
    **{
        **tiny.TRAINING,
        **{"learning_rate": 0.1, "epochs": 3, "evaluation_batch_size": 5, "warmup_ratio": 0.25},
        **{"precision": "fp32", "engine": "eager"},
    }
)
CPU = torch.device("cpu")


class Bag(nn.Module):
    """Mean of embeddings, then a linear layer: the smallest thing with the interface of a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(30, 6)
        self.linear = nn.Linear(6, 2)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor | None = None) -> Any:
        mask = attention_mask[..., None]
        logits = self.linear((self.embedding(input_ids) * mask).sum(1) / mask.sum(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return type("Output", (), {"loss": loss, "logits": logits})


class Memory:
    """A state kept in this process: all that were saved, in order. Due at no step, at `every` one, or at `due_at`."""

    def __init__(self, given: dict | None = None, every: bool = False, due_at: int | None = None) -> None:
        self.given, self.every, self.due_at, self.steps = given, every, due_at, 0
        self.history: list[dict] = []

    @property
    def saved(self) -> dict | None:
        """The last one."""
        return self.history[-1] if self.history else None

    def load(self) -> dict | None:
        return self.given

    def begin(self, step: int) -> None:
        pass

    def reached(self, step: int, total: int) -> None:
        pass

    def interrupted(self) -> str | None:
        return None

    def due(self) -> bool:
        self.steps += 1
        return self.every or self.steps == self.due_at

    def save(self, state: dict) -> None:
        self.history.append(copy.deepcopy(state))


class Silent:
    """A reporter that reports nothing."""

    def due(self) -> bool:
        return False

    def losses(self, row: dict) -> None:
        pass

    def evaluation(self, rows: list[dict]) -> None:
        pass


def split(rows: int, seed: int = 0, lengths: tuple[int, int] = (2, 20), words: int = 14) -> Split:
    """Texts of random `lengths` (from, below), whose words tell their class; each of the two has `words` of its own."""
    random = np.random.default_rng(seed)
    sizes = random.integers(*lengths, rows)
    labels = np.arange(rows) % 2
    tokens = [random.integers(1, words + 1, n) + words * label for n, label in zip(sizes, labels, strict=True)]
    offsets = np.concatenate([[0], sizes.cumsum()])
    return Split(np.concatenate(tokens).astype(np.int32), None, offsets, labels, np.arange(rows))


def fit(state: Memory | None = None, model: nn.Module | None = None, splits: dict | None = None, **changes: Any):
    """Train; `changes` replace settings. The model and the result."""
    settings = dataclasses.replace(SETTINGS, **changes)
    model = model or Bag()
    splits = splits or {"train": split(50), "test": split(11, seed=1)}
    watch = engine.Watch(state or Memory(), Silent())
    return model, engine.train(subject(model, splits, settings), CPU, Phases(CPU), watch)


def subject(model: nn.Module, splits: dict[str, Split], settings: Settings = SETTINGS) -> Subject:
    """What is trained, by seed 7."""
    return Subject(model, Data.of(splits, 0, settings.task), settings, 7)

"""Tokenised splits and the batches made of them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

MULTIPLE = 8  # tokens that a batch's length is padded to a multiple of
GROUP = 50  # batches that are sorted by length together


@dataclass(frozen=True)
class Split:
    """One tokenised split: n texts of together t tokens."""

    input_ids: np.ndarray  # int32 [t]
    token_type_ids: np.ndarray | None  # int8 [t]
    offsets: np.ndarray  # int64 [n + 1]
    labels: np.ndarray  # int64 [n], or float32 for regression
    rows: np.ndarray  # int64 [n], row in the source

    @property
    def lengths(self) -> np.ndarray:
        """Tokens a text, int64 [n]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.labels)


def load_tokens(path: Path) -> tuple[dict[str, Split], dict[str, Any]]:
    """The splits in `path` (.npz) by name, and the description (.json) beside it."""
    description = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    with np.load(path) as arrays:
        splits = {
            name: Split(
                arrays[f"{name}_input_ids"],
                arrays.get(f"{name}_token_type_ids"),
                arrays[f"{name}_offsets"],
                arrays[f"{name}_labels"],
                arrays[f"{name}_rows"],
            )
            for name in description["rows"]
        }
    return splits, description


def collate(split: Split, indices: np.ndarray, pad_token_id: int) -> dict[str, torch.Tensor]:
    """Right-padded tensors of the texts `indices` [b]: int64 [b, length], labels [b]."""
    lengths = split.lengths[indices]
    length = -(-int(lengths.max()) // MULTIPLE) * MULTIPLE
    input_ids = np.full((len(indices), length), pad_token_id, np.int64)
    attention_mask = np.zeros((len(indices), length), np.int64)
    token_type_ids = None if split.token_type_ids is None else np.zeros((len(indices), length), np.int64)
    for row, (index, size) in enumerate(zip(indices, lengths, strict=True)):
        tokens = slice(split.offsets[index], split.offsets[index + 1])
        input_ids[row, :size] = split.input_ids[tokens]
        attention_mask[row, :size] = 1
        if token_type_ids is not None:
            token_type_ids[row, :size] = split.token_type_ids[tokens]
    batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": split.labels[indices]}
    if token_type_ids is not None:
        batch["token_type_ids"] = token_type_ids
    return {key: torch.from_numpy(value) for key, value in batch.items()}


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Indices of the batches of one epoch, every text once, texts of like length together.

    Shuffled, cut into groups of `GROUP` batches, sorted by length within a group, and the batches shuffled
    again. The order depends on nothing but `seed` and `epoch`, so it is the same in every arm.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    groups = [order[i : i + batch_size * GROUP] for i in range(0, len(order), batch_size * GROUP)]
    order = np.concatenate([group[np.argsort(-lengths[group], kind="stable")] for group in groups])
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Indices of batches over all texts, longest first."""
    order = np.argsort(-lengths, kind="stable")
    return (order[i : i + batch_size] for i in range(0, len(order), batch_size))

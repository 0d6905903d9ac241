"""What a model is trained and evaluated on: tokenised splits, their targets to scale, their batches."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from peft_tradeoffs.inputs.tokens import Split
from peft_tradeoffs.tasks.task import TASKS, Scale

MULTIPLE = 8  # tokens that a batch's length is padded to a multiple of
GROUP = 50  # batches that are sorted by length together


@dataclass(frozen=True)
class Data:
    """The splits of a data set by name, as they are and as a model is trained on them."""

    splits: dict[str, Split]
    scaled: dict[str, Split]  # with labels as they are learned
    scale: Scale | None  # None: as they are
    pad_token_id: int

    @classmethod
    def of(cls, splits: dict[str, Split], pad_token_id: int, task: str) -> "Data":
        """The data of a task. Raises InputError for targets that cannot be scaled."""
        scale = TASKS[task].scale(splits["train"].labels)
        if scale is None:
            return cls(splits, splits, None, pad_token_id)
        scaled = {name: dataclasses.replace(s, labels=scale.scaled(s.labels)) for name, s in splits.items()}
        return cls(splits, scaled, scale, pad_token_id)


class ResidentSplit:
    """A split on the device, padded to its longest text, so that a batch is gathered there without the CPU."""

    def __init__(self, split: Split, pad_token_id: int, device: torch.device) -> None:
        lengths = split.lengths
        longest = int(lengths.max())
        real = np.arange(longest) < lengths[:, None]
        self.lengths = torch.from_numpy(lengths).to(device)
        self.labels = torch.from_numpy(split.labels).to(device)
        self._tensors = {"input_ids": _padded(split.input_ids, real, pad_token_id, device)}
        if split.token_type_ids is not None:
            self._tensors["token_type_ids"] = _padded(split.token_type_ids, real, 0, device)
        self._longest, self._pad_token_id = longest, pad_token_id

    def gather(self, rows: torch.Tensor, length: int) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """Inputs int64 [b, length], their lengths [b] and labels [b] of the texts `rows` int64 [b], right-padded."""
        inputs = {}
        for name, tensor in self._tensors.items():
            taken = tensor.index_select(0, rows)[:, :length].long()
            if length > self._longest:  # padded to a multiple beyond the longest text
                value = self._pad_token_id if name == "input_ids" else 0
                taken = torch.nn.functional.pad(taken, (0, length - self._longest), value=value)
            inputs[name] = taken
        return inputs, self.lengths.index_select(0, rows), self.labels.index_select(0, rows)

    @property
    def bytes(self) -> int:
        """Bytes of the split on the device."""
        return sum(t.numel() * t.element_size() for t in (*self._tensors.values(), self.lengths, self.labels))


def padded_length(lengths: np.ndarray) -> int:
    """Tokens that a batch of texts of these lengths is padded to."""
    return -(-int(lengths.max()) // MULTIPLE) * MULTIPLE


def longest_text(split: Split) -> torch.Tensor:
    """The tokens of its longest text, int64 [t]."""
    return torch.from_numpy(split.take(longest_rows(split.lengths, 1)).input_ids).long()


def shortest_texts(split: Split, count: int) -> list[torch.Tensor]:
    """The tokens of its `count` shortest texts (all, if there are fewer), int64 [t] each."""
    rows = np.argsort(split.lengths, kind="stable")[:count]
    return [torch.from_numpy(split.take(rows[i : i + 1]).input_ids).long() for i in range(len(rows))]


def longest_rows(lengths: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` longest texts (all, if there are fewer)."""
    return np.argsort(-lengths, kind="stable")[:count]


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


def _padded(values: np.ndarray, real: np.ndarray, fill: int, device: torch.device) -> torch.Tensor:
    """[n, longest] of ragged `values` [t]; `real` [n, longest] says where they stand."""
    table = np.full(real.shape, fill, values.dtype)
    table[real] = values
    return torch.from_numpy(table).to(device)

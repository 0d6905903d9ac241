"""Tokenised splits: loaded, and a dev split carved from train, so that tuning does not look at test."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.token_files import check_tokens, read_description


@dataclass(frozen=True)
class Split:
    """One tokenised split: n texts of together t tokens."""

    input_ids: np.ndarray  # int32 [t]
    token_type_ids: np.ndarray | None  # int8 [t]
    offsets: np.ndarray  # int64 [n + 1]
    labels: np.ndarray  # int64 [n], or float64 for regression; float32 where they are scaled
    rows: np.ndarray  # int64 [n], row in the source

    @property
    def lengths(self) -> np.ndarray:
        """Tokens a text, int64 [n]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Split":
        """The texts `indices`, in that order."""
        sizes = self.lengths[indices]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        tokens = np.repeat(self.offsets[indices] - offsets[:-1], sizes) + np.arange(offsets[-1])
        types = None if self.token_type_ids is None else self.token_type_ids[tokens]
        return Split(self.input_ids[tokens], types, offsets, self.labels[indices], self.rows[indices])


def load_tokens(path: Path) -> tuple[dict[str, Split], dict[str, Any]]:
    """The splits in `path` (.npz) by name, and the description (.json) beside it.

    Raises InputError for tokens that are not those described: their SHA-256 is compared, once for each state of the
    file that this process meets.
    """
    description = read_description(path)
    check_tokens(path, description["sha256"])
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


def carve(train: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """`train` without the dev split, and the dev split: about `fraction` of its texts.

    Drawn by class (not for regression, whose labels are no integers); texts of the same tokens stay on one side. Raises
    InputError if either side would get too few rows.
    """
    from peft_tradeoffs.inputs.splits import stratified_sample  # with pyarrow, which training does without

    ids: dict[bytes, int] = {}
    groups = np.array(
        [
            ids.setdefault(train.input_ids[start:end].tobytes(), len(ids))
            for start, end in itertools.pairwise(train.offsets)
        ]
    )
    first = np.unique(groups, return_index=True)[1]
    classification = np.issubdtype(train.labels.dtype, np.integer)
    strata = train.labels[first] if classification else np.zeros(len(first), dtype=np.int64)
    size, least = round(fraction * len(first)), max(2, len(np.unique(strata)))
    if not least <= size <= len(first) - least:
        raise InputError(
            f"config key tune.fraction: {fraction} of the {len(first)} different texts of train is {size}, at least "
            f"{least} are needed on either side; take another fraction, or more rows"
        )
    in_dev = np.isin(groups, stratified_sample(strata, size, seed))
    return train.take(np.flatnonzero(~in_dev)), train.take(np.flatnonzero(in_dev))

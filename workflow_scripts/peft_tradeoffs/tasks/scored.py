"""What a task takes and what it gives: a split's column of labels, and one run's predictions on one split."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peft_tradeoffs.core.errors import Faults

Names = list[str] | None  # of classes, in the order of their indices; None of a task without classes


@dataclass(frozen=True)
class Column:
    """The labels of one split as its source has them, n of them."""

    table: str  # what an error calls the table
    values: Sequence[Any]
    places: Sequence[int]  # [n] 1-based lines or rows
    faults: Faults  # takes what is wrong at a place
    declared: Sequence[str] | None = None  # class names in their order, where the source fixes them


@dataclass(frozen=True)
class Scored:
    """One run on one split, n examples, as its predictions file says."""

    rows: np.ndarray  # int64 [n], in the source
    target: np.ndarray  # [n] class indices, or values
    prediction: np.ndarray  # [n] likewise
    logits: np.ndarray  # [n, k] what the model gives, in the data's units

    @property
    def classes(self) -> int:
        """How many classes there are; 1 for values."""
        return int(self.logits.shape[1])

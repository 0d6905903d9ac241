"""What a finished run's files say: checksums of its weights and predictions, its logits."""

import csv
import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from peft_tradeoffs.analysis.finished import verified
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.seal import FILES, REMEDY, TENSORS, weight_files

PREDICTIONS = "predictions.csv"


def weights_sha256(summary: dict[str, Any]) -> str | None:
    """SHA-256 over the weights that the run saved, adapter or checkpoint, by its summary; None if it saved none.

    Whether they still are so, `finished.check_files` says.
    """
    names = [name for name in weight_files(summary) if name.endswith(TENSORS)]
    if not names:
        return None
    lines = (f"{PurePosixPath(name).name} {summary[FILES][name]}\n" for name in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def predictions_sha256(summary: dict[str, Any]) -> str | None:
    """SHA-256 of the run's predictions.csv, whose digits tell any two logits apart; None if there is none."""
    return summary[FILES].get(PREDICTIONS)


def read_logits(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Predictions [n] and logits [n, classes] of a completed run; raises InputError unless they are as it left them."""
    path = run / PREDICTIONS
    verified(run, PREDICTIONS)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        values = np.array(rows, dtype=float)
        first = header.index("logit_0")
        return values[:, header.index("prediction")], values[:, first:]
    except (ValueError, IndexError) as error:
        raise InputError(f"{path}: not a run's predictions ({error}); {REMEDY}") from None

"""What a finished run's files say: checksums of its weights and predictions, its logits."""

import csv
import hashlib
from pathlib import Path

import numpy as np

from peft_tradeoffs import files
from peft_tradeoffs.errors import InputError

REMEDY = "delete the run's folder and run it again"


def weights_sha256(run: Path) -> str | None:
    """SHA-256 over the weights that the run saved, adapter or checkpoint, of all their files; None if it saved none."""
    saved = sorted(path for name in ("adapter", "checkpoint") for path in (run / name).glob("*.safetensors"))
    if not saved:
        return None
    digest = hashlib.sha256()
    for path in saved:
        digest.update(f"{path.name} {files.sha256(path)}\n".encode())
    return digest.hexdigest()


def predictions_sha256(run: Path) -> str | None:
    """SHA-256 of the run's predictions.csv, whose digits tell any two logits apart; None if there is none."""
    path = run / "predictions.csv"
    return files.sha256(path) if path.is_file() else None


def read_logits(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Predictions [n] and logits [n, classes] of a completed run; raises InputError without them."""
    path = run / "predictions.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        values = np.array(rows, dtype=float)
        first = header.index("logit_0")
        return values[:, header.index("prediction")], values[:, first:]
    except FileNotFoundError:
        raise InputError(f"{path}: missing, though the run's summary stands; {REMEDY}") from None
    except (ValueError, IndexError) as error:
        raise InputError(f"{path}: not a run's predictions ({error}); {REMEDY}") from None

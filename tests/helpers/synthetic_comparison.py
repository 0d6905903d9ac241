"""Comparisons of arms that never ran, with differences as a test wants them, and no limits to judge them by."""

from typing import Any

import pandas as pd
from peft_tradeoffs.analysis.comparison import COLUMNS

NO_LIMITS = {"memory_GiB": None, "train_s": None, "energy_J": None, "cheapest": "memory", "split": "test"}
GOOD, BAD, OPEN = (-0.001, 0.002, 0.001), (-0.03, 0.004, 1.0), (-0.006, 0.008, 0.3)  # difference, half width, p


def compared(quality: dict[str, tuple[float, float, float] | str], **changes: Any) -> pd.DataFrame:
    """A comparison with full; a text is the reason for which an arm has no test."""
    rows = []
    for arm, found in {"full": "", **quality}.items():
        row = dict.fromkeys(COLUMNS) | {
            "dataset": "sst2",
            "model": "distilbert",
            "arm": arm,
            "baseline": "full",
            "split": "test",
        }
        row |= {"metric": "accuracy", "margin": 0.01, "test_rows": 872, "mean": 0.9, "low": 0.89, "high": 0.91}
        if isinstance(found, str):
            row["reason"] = found or None
        else:
            difference, half, p = found
            row |= {"difference": difference, "difference_low": difference - half, "difference_high": difference + half}
            row |= {"at_best_low": difference - half, "at_best_high": difference + half, "rate": "given"}
            beyond = difference + half < -0.01
            row |= {"p_not_worse_holm": p, "p_worse_holm": 0.001 if beyond else 1.0, "verdict": "undecided"}
            row |= {"seeds_needed": 9 if p > 0.05 else None}
        rows.append(row | changes)
    return pd.DataFrame(rows)

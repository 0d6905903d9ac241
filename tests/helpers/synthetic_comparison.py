"""Arms that never ran: their runs and costs, and comparisons with differences as a test wants them."""

from typing import Any

import pandas as pd
import synthetic
from peft_tradeoffs.analysis.comparison import COLUMNS

NO_LIMITS = {"memory_GiB": None, "train_s": None, "energy_J": None, "cheapest": "memory", "split": "test"}
GOOD, BAD, OPEN = (-0.001, 0.002, 0.001), (-0.03, 0.004, 1.0), (-0.006, 0.008, 0.3)  # difference, half width, p

SPREAD = (-1.0, 0.0, 1.0, -1.0, 1.0)  # of a cost over five seeds: mean 0, standard deviation 1
MEMORY = {"full": 900.0, "lora-r4": 500.0, "lora-r8": 512.0, "qlora-r8": 560.0}
TIME = {"full": 100.0, "lora-r4": 60.0, "lora-r8": 61.0, "qlora-r8": 90.0}


def pair(arm: str) -> tuple[str, int | None]:
    method, _, rank = arm.partition("-r")
    return method, int(rank) if rank else None


def runs(arms: list[str], seeds: int = 5, device: str = "cuda", **changes: Any) -> list[dict[str, Any]]:
    found = []
    for arm in arms:
        for seed in range(seeds):
            time = TIME[arm] + SPREAD[seed] * (1 if arm != "lora-r8" else -1)
            energy = {"energy_J": 300 * time} if device == "cuda" else {}
            memory = {"probe_peak_allocated_MiB": MEMORY[arm]} if device == "cuda" else {}
            found.append(
                synthetic.summary(*pair(arm), seed, device=device, train_s=time, **energy, **memory, **changes)
            )
    return found


def one_job(summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same runs, the seeds of an arm trained by one process."""
    for run in summaries:
        run["startup_s"] = run["startup_s"] if run["seed"] == 0 else None
        run["null_reasons"] |= {"startup_s": "the process was started for an earlier seed"} if run["seed"] else {}
    return summaries


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

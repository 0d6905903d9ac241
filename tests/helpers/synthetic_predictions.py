"""Runs that never ran, with a prediction for each test example, and the comparison of their arms."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import synthetic
from peft_tradeoffs.analysis import tables
from peft_tradeoffs.analysis.comparison import PREDICTIONS, Tunings, comparison_frame, read_predictions
from peft_tradeoffs.core.layout import AXES, run_folder

ROWS = 2000


def run(arm: tuple[str, int | None], seed: int, wrong: np.ndarray, **changes: Any) -> tuple[dict, dict]:
    """A run's summary and the columns of its predictions; `wrong` are the examples it gets wrong."""
    labels = np.arange(ROWS) % 2
    predicted = labels.copy()
    predicted[wrong] = 1 - labels[wrong]
    accuracy = 1 - len(wrong) / ROWS
    values = {"accuracy": accuracy, "metric_value": accuracy, "test_rows": ROWS, **changes}
    return synthetic.summary(*arm, seed, **values), {"row": np.arange(ROWS), "label": labels, "prediction": predicted}


def write(folder: Path, runs: list[tuple[dict, dict]]) -> Path:
    """Write the runs as the workflow does; the folder of runs."""
    synthetic.write(folder, [summary for summary, _ in runs])
    for summary, columns in runs:
        place = folder / "runs" / summary["dataset"] / summary["model"] / summary["arm"] / f"seed{summary['seed']}"
        write_predictions(place / "predictions.csv", columns)
    synthetic.seal_all(folder / "runs")
    return folder / "runs"


def answer(folder: Path, summaries: list[dict[str, Any]]) -> Path:
    """Write these runs, with predictions that give about the metric that each has, which is then theirs."""
    found = []
    for summary in summaries:
        wrong = np.arange(round((1 - summary["metric_value"]) * ROWS))
        answered, columns = run((summary["method"], summary["rank"]), summary["seed"], wrong)
        summary |= {key: answered[key] for key in ("accuracy", "metric_value", "test_rows")}
        found.append((summary, columns))
    return write(folder, found)


def write_predictions(path: Path, columns: dict) -> None:
    """A predictions.csv whose logits say what was predicted."""
    table = pd.DataFrame(columns)
    if table["prediction"].dtype == float:
        table["logit_0"] = table["prediction"]
    else:
        for label in range(2):
            table[f"logit_{label}"] = (table["prediction"] == label).astype(float)
    table.to_csv(path, index=False)


def compared(
    folder: Path,
    runs: list[tuple[dict, dict]],
    margin: float = 0.01,
    baseline: str = "full",
    tunings: Tunings | None = None,
) -> pd.DataFrame:
    """The comparison of the runs, which are written first."""
    where = write(folder, runs)
    frame = tables.runs_frame([summary for summary, _ in runs])

    def predictions(of: dict[str, Any], split: str):
        return read_predictions(run_folder(where, *(of[axis] for axis in AXES)) / PREDICTIONS[split], of)

    return comparison_frame(frame, baseline, margin, predictions, tunings)


def arms(differing: dict[str, int], seeds: int = 5, common: int = 100) -> list[tuple[dict, dict]]:
    """full gets `common` examples wrong, LoRA r4 and so on as many more, each seed a few of its own besides."""
    runs = []
    for name, more in {"full": 0, **differing}.items():
        method, _, rank = name.partition("-r")
        for seed in range(seeds):
            own = [1990 - 3 * seed, 1991 - 3 * seed]
            runs.append(run((method, int(rank) if rank else None), seed, np.r_[0 : common + more, own]))
    return runs

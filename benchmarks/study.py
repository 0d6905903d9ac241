"""Make the statistics of a study anew from what its reference keeps, and say where they differ from its tables.

    python benchmarks/study.py docs/sst2-minilm --baseline full --margin 0.01

The folder is one that `snakemake store_reference` made, with the tables that are to be checked beside it. From
answers.npz (which rows each run and each trial was right on), tunings.json, factorials.json, runs.csv and noise.csv
come the gaps and ties of the trials, comparison.csv, tuning.csv, attribution.csv and recommendation.csv. Numbers that
differ by more than one part in a million are printed, and the status is 1. What the contract says of arms (the column
`differs`) is not made anew. Metrics must be a share of right answers: of others no answers are kept. --table prints the
table of docs/study.md.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow_scripts"))

from peft_tradeoffs.analysis import reference
from peft_tradeoffs.analysis.attribution import attribution_frame
from peft_tradeoffs.analysis.comparison import comparison_frame
from peft_tradeoffs.analysis.comparison_text import at_best_words, verdict_words, with_interval
from peft_tradeoffs.analysis.recommendation import recommendation_frame
from peft_tradeoffs.analysis.tuning_table import tuning_frame
from peft_tradeoffs.core.errors import InputError, run
from peft_tradeoffs.core.layout import VALIDATION
from peft_tradeoffs.core.text import arm_label, records
from peft_tradeoffs.runs.plan import gap_columns
from peft_tradeoffs.tasks.metrics import METRICS

NEAR = 1e-6  # relative; tables keep all digits, sums may be made in another order
LIMITS = {"memory_GiB": None, "train_s": None, "energy_J": None, "cheapest": "memory", "split": "test"}
OF_CONTRACT = ("differs",)  # columns that other files than the reference's are asked for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the reference, and the tables")
    parser.add_argument("--baseline", default="full", metavar="ARM")
    parser.add_argument("--margin", type=float, default=0.01)
    parser.add_argument("--limits", type=json.loads, default={}, metavar="JSON", help="keys of `recommendation`")
    parser.add_argument("--table", action="store_true", help="print the table of the docs, and check nothing")
    arguments = parser.parse_args()
    made = remade(arguments.folder, arguments.baseline, arguments.margin, LIMITS | arguments.limits)
    if arguments.table:
        print(table(made["comparison"], reference.read(arguments.folder).runs))
        return
    differ = [
        line
        for name, frame in made.items()
        if (arguments.folder / f"{name}.csv").exists()
        for line in differences(name, frame, pd.read_csv(arguments.folder / f"{name}.csv"))
    ]
    differ += tied(arguments.folder)
    print("\n".join(differ) or "every statistic is what the tables say")
    sys.exit(bool(differ))


def remade(folder: Path, baseline: str, margin: float, limits: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """The tables by name, made of what the reference keeps. Raises InputError where it keeps no answers of a run."""
    if not (folder / reference.ANSWERS).exists():
        raise InputError(f"{folder}: no {reference.ANSWERS}; it is of an earlier version: store the reference again")
    sweep, kept = reference.read(folder), reference.read_answers(folder / reference.ANSWERS)
    tunings = read_tunings(folder)
    by_arm = {(one["dataset"], one["model"], one["arm"]): one for one in tunings}
    predicted = reference.predictions_of(kept)
    runs = sweep.runs.assign(differs=None)
    if lacking := sorted(set(runs["metric"]) - {name for name, metric in METRICS.items() if metric.share}):
        what = ", ".join(lacking)
        raise InputError(f"{folder}: {what} is no share of right answers, and of such alone answers are kept")
    tuned: Callable[[str, str, str], dict[str, Any]] = lambda *arm: by_arm[arm]  # noqa: E731
    comparison = comparison_frame(runs, baseline, margin, predicted, tuned if tunings else None)
    found = {"comparison": comparison}
    if tunings:
        found["tuning"] = tuning_frame(tunings, set(runs["tuned_as"].dropna()))
    if factorials := json.loads((folder / reference.FACTORIALS).read_text(encoding="utf-8")):
        found["attribution"] = attribution_frame(runs, factorials, predicted, sweep.noise)
    found["recommendation"] = recommendation_frame(runs, comparison, limits, sweep.noise)
    return found


def read_tunings(folder: Path) -> list[dict[str, Any]]:
    """What tune.py wrote, as the reference keeps it: nothing where nothing was tuned."""
    found: list[dict[str, Any]] = json.loads((folder / reference.TUNINGS).read_text(encoding="utf-8"))
    return found


def differences(name: str, made: pd.DataFrame, stored: pd.DataFrame) -> list[str]:
    """Where a table that was made anew is not the stored one: a line per value."""
    if len(made) != len(stored):
        return [f"{name}.csv: {len(stored)} rows are stored, {len(made)} were made anew"]
    lines = [f"{name}.csv: no column {key}" for key in made if key not in stored]
    lines += [f"{name}.csv: a column {key} that is not made any more" for key in stored if key not in made]
    for key in (key for key in made if key in stored and key not in OF_CONTRACT):
        for row, (one, other) in enumerate(zip(made[key], stored[key], strict=True)):
            if not same(one, other):
                lines.append(f"{name}.csv, row {row + 1}, {key}: stored {other}, made anew {one}")
    return lines


def same(one: Any, other: Any) -> bool:
    """Whether two values of a table are the same, numbers to one part in a million."""
    if pd.isna(one) or pd.isna(other):
        return bool((pd.isna(one) or one == "") and pd.isna(other))
    try:
        return math.isclose(float(one), float(other), rel_tol=NEAR, abs_tol=1e-12)
    except (TypeError, ValueError):
        return str(one) == str(other)


def tied(folder: Path) -> list[str]:
    """Where the gaps between trials, made anew of their answers, are not those that tune.py wrote."""
    kept, lines = reference.read_answers(folder / reference.ANSWERS), []
    for tuning in read_tunings(folder):
        made = reference.gaps(tuning, kept, tuning["dev"] == VALIDATION)
        written = {one["learning_rate"]: one for one in tuning["gaps"]}
        name = f"tunings.json, {tuning['arm']}"
        if set(made) != set(written):
            lines.append(f"{name}: gaps of the rates {sorted(written)} are stored, {sorted(made)} were made anew")
            continue
        for rate, found in made.items():
            for key, value in gap_columns(rate, found).items():
                if not same(value, written[rate][key]):
                    lines.append(f"{name}, rate {rate:g}, {key}: stored {written[rate][key]}, made anew {value}")
        ties = sorted(rate for rate, found in made.items() if found.tied)
        if ties != tuning["tied"]:
            lines.append(f"{name}: tied {tuning['tied']} is stored, {ties} was made anew")
    return lines


def table(comparison: pd.DataFrame, runs: pd.DataFrame) -> str:
    """The table of the docs, of one data set and model: arms, every split, peak memory and training time."""
    means = runs.groupby("arm", sort=False)[["probe_peak_allocated_MiB", "train_s"]].mean()
    splits = [rows.set_index("arm") for _, rows in comparison.groupby("split", sort=False)]
    head = ["Arm"]
    for rows in splits:
        head += [f"On {int(rows['test_rows'].max()):,} {rows['split'].iloc[0]} rows", "At the best rate", "Verdict"]
    lines = [[*head, "Peak, MiB", "Training, s"], [":--", *["--:", "--:", ":--"] * len(splits), "--:", "--:"]]
    for arm in splits[0].index:
        cells = [arm_label(splits[0].loc[arm, "method"], splits[0].loc[arm, "rank"])]
        for rows in splits:
            row = records(rows.loc[[arm]].reset_index())[0]
            value = ("mean", "low", "high") if row["verdict"] == "baseline" else None
            value = value or ("difference", "difference_low", "difference_high")
            cells.append(with_interval(*(row[key] for key in value), 100.0, sign=value[0] == "difference"))
            cells += [at_best_words(row), verdict_words(row)]
        cells += [f"{means.loc[arm, 'probe_peak_allocated_MiB']:.0f}", f"{means.loc[arm, 'train_s']:.1f}"]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    run(main)

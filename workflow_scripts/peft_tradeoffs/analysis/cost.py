"""What the runs of an arm cost together: hours of a GPU or a machine, time in SLURM's queue, energy."""

import math

import pandas as pd

from peft_tradeoffs.analysis.readable import NULL, number, setting, unlike
from peft_tradeoffs.analysis.tables import ARM
from peft_tradeoffs.core.arms import arm_label

SETTINGS = ["pretrained", "device", "device_name"]
HOUR_S = 3600.0


def cost_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per (data set, model, arm) in the order of `runs_frame`: sums over all its runs, failed ones too.

    Columns: dataset, model, arm, method, rank, n_runs, pretrained, device, device_name, differs, attempts, hours (of
    every attempt, start to end), training_hours (of the steps), queue_hours (null unless every run has one: outside
    SLURM) and energy_Wh (of the steps; null unless every run that trained has one).
    """
    groups = runs.groupby(ARM, sort=False)
    found = groups[["method", "rank"]].first()
    found["n_runs"] = groups.size()
    for key in SETTINGS:
        found[key] = groups[key].agg(lambda values: "; ".join(dict.fromkeys(map(str, values.dropna()))))
    found["differs"] = groups["differs"].first()
    found["attempts"] = groups["attempts"].sum()
    arms = [runs[name] for name in ARM]
    sums = {"hours": "wall_s", "training_hours": "train_s", "queue_hours": "queue_s", "energy_Wh": "energy_J"}
    for column, key in sums.items():
        found[column] = runs[key].astype(float).groupby(arms, sort=False).sum(min_count=1) / HOUR_S
    unknown = {"queue_hours": runs["queue_s"].isna(), "energy_Wh": runs["train_s"].notna() & runs["energy_J"].isna()}
    for column, missing in unknown.items():  # the sum of the others would pass for the whole
        found[column] = found[column].where(~missing.groupby(arms, sort=False).any())
    return found.reset_index()


def cost_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `cost_frame` of one data set and model as text, their sum last."""
    numbers = ["attempts", "hours", "training_hours", "queue_hours", "energy_Wh"]
    total = {key: rows[key].astype(float).sum(skipna=False) for key in ["n_runs", *numbers]}
    hours = f"{'GPU' if rows['device'].eq('cuda').all() else 'Machine'} hours"
    several = rows["device_name"].nunique() > 1
    cells = []
    for row in [*rows.to_dict("records"), total]:
        arm = arm_label(row["method"], row["rank"]) if "method" in row else "All"
        line = {"Arm": arm, "Runs": f"{row['n_runs']:.0f}", "Attempts": f"{row['attempts']:.0f}"}
        line |= {hours: number(row["hours"]), "In steps, %": number(_share(row))}
        if rows["queue_hours"].notna().any():
            line["Queue hours"] = number(row["queue_hours"])
        if rows["energy_Wh"].notna().any():
            line["Energy, Wh"] = number(row["energy_Wh"])
        if several:
            line["Device"] = setting(row.get("device_name", math.nan))
        cells.append(line)
    return pd.DataFrame(cells).fillna(NULL)


def cost_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of a table of costs: one sentence each."""
    lines = [
        "Sums over all runs of an arm, failed ones and every attempt too.",
        "Hours: from the start of a run to its end, imports, probe and evaluation too, the wait for another job's GPU "
        "not; of a job's imports its first run has all. In steps: the share of the hours that training steps took.",
    ]
    if rows["queue_hours"].notna().any():
        lines.append("Queue hours: from when SLURM could have started the job to when it did.")
    if rows["energy_Wh"].notna().any():
        lines.append("Energy: of the GPU during the training steps alone, by NVML's counter.")
    return [*lines, *unlike(rows)]


def _share(row: dict) -> float:
    return 100 * row["training_hours"] / row["hours"] if row["hours"] else math.nan

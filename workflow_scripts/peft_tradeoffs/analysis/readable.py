"""What readers see of runs and arms: names with units, numbers as text, a few columns, notes, failures in words."""

import json
import math
import textwrap
from collections.abc import Iterable
from typing import Any

import pandas as pd

from peft_tradeoffs.analysis.digits import metric_places, supported_decimals
from peft_tradeoffs.analysis.tables import (
    ARM,
    COMPLETED,
    MEASURED_SPLIT,
    OF_SPLIT,
    SPLIT,
    first,
    memory_key,
    random_weights,
)
from peft_tradeoffs.core.arms import arm_label
from peft_tradeoffs.tasks.metric_names import heldout_label, metric_label, metric_of

NULL = "–"
GIB = 2**30
LABEL = {
    "probe_peak_rss_MiB": "Peak RSS, MiB",
    "probe_peak_allocated_MiB": "Peak CUDA allocated, MiB",
    "probe_peak_reserved_MiB": "Peak CUDA reserved, MiB",
    "probe_process_MiB": "NVML process, MiB",
    "weights_MiB": "Weights, MiB",
    "step_p50_ms": "Step p50, ms",
    "probe_step_p50_ms": "Eager probe p50, ms",
    "energy_J_per_sample": "Energy, J/sample",
    "train_s": "Training time, s",
    "samples_per_s": "Samples/s",
}
PARTS = ("Weights", "Gradients", "Optimizer", "Activations")  # of SPLIT, in its order
RANDOM = "random weights: speed and memory only"
SHORT = "*"  # an energy that was measured over a short window
PROBE = "Memory is that of the probe: eager steps on the batch_size longest training texts, the same for every arm."
NOTE = {
    "probe_peak_rss_MiB": "Peak RSS: the process's highest resident set.",
    "probe_peak_allocated_MiB": "Peak CUDA allocated: torch.cuda.max_memory_allocated.",
    "probe_peak_reserved_MiB": "Peak CUDA reserved: torch.cuda.max_memory_reserved.",
    "probe_process_MiB": "NVML process: what NVML counts for this process at the probe's end, CUDA context included.",
}
FAILURE = {"oom": "out of memory"}


def metric_scale(metric: str) -> float:
    """What a stored metric is multiplied by when shown: accuracy is stored as a fraction, shown in %."""
    return 100.0 if metric == "accuracy" else 1.0


def metric_decimals(metric: str) -> int:
    """Decimals of a run's metric: 0.01 points of accuracy, 0.0001 of a coefficient."""
    return 2 if metric == "accuracy" else 4


def number(value: Any, decimals: int | None = None) -> str:
    """A number with thousands separators; `decimals` None means three significant digits."""
    if pd.isna(value):
        return NULL
    if decimals is None:
        decimals = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def mean_sd(row: Any, key: str, scale: float = 1.0, decimals: int | None = None) -> str:
    """Mean ± sample standard deviation of a measurement in a row of `arms_frame`, for readers.

    Without `decimals` three significant digits of the mean, or fewer if the standard deviation supports no more. The
    count of runs follows where some completed runs of the arm have no value.
    """
    mean, sd, count = row[f"{key}_mean"] * scale, row[f"{key}_sd"] * scale, row[f"{key}_n"]
    if pd.isna(mean):
        return NULL
    if decimals is None:
        decimals = 0 if mean == 0 else max(0, 2 - math.floor(math.log10(abs(mean))))
        if sd > 0:
            decimals = min(decimals, supported_decimals(sd))
    small = sd > 0 and not round(sd, decimals)  # never 0
    spread = f"< {number(10**-decimals, decimals)}" if small else number(sd, decimals)
    text = number(mean, decimals) + ("" if pd.isna(sd) else f" ± {spread}")
    return text if count == row["n"] else f"{text} (n = {count})"


def mean_metric(row: Any, split: str) -> str:
    """Mean ± sample standard deviation of the metric in a row of `arms_frame`, no more digits than are sure."""
    metric = row["metric"]
    key, rows = OF_SPLIT[split]
    mean, sd, count = (row[f"{key}_{part}"] for part in ("mean", "sd", "n"))
    if pd.isna(mean):
        return NULL
    scale = metric_scale(metric)
    return mean_sd(row, key, scale, metric_places(metric, mean, sd, count, row[rows], scale))


def setting(value: Any, form: str = "{:g}") -> str:
    """A setting for readers; several joined values stay as they are."""
    return NULL if pd.isna(value) else value if isinstance(value, str) else form.format(value)


def percent(value: Any) -> str:
    """A percentage for readers, three significant digits."""
    return value if isinstance(value, str) else number(value)


def failed_counts(failures: Any) -> str:
    """The column `failures` of `arms_frame` in words: "oom 2; diverged 1" is "2 out of memory; 1 diverged"."""
    if pd.isna(failures):
        return NULL
    pairs = (text.rsplit(" ", 1) for text in failures.split("; "))
    return "; ".join(f"{count} {FAILURE.get(status, status)}" for status, count in pairs)


def failure(runs: pd.DataFrame) -> str:
    """What ended these failed runs of one status and phase: where, how much was asked for, at which steps."""
    run = runs.iloc[0]
    text = FAILURE.get(run["status"], run["status"])
    steps = [f"{step:,.0f}" for step in sorted(runs["diverged_step"].dropna().unique())]
    if steps:
        return f"{text} at step{'' if len(steps) == 1 else 's'} {' and '.join(steps)}"
    if not pd.isna(run["failed_phase"]):
        text += f" in {run['failed_phase']}"
    asked = runs["oom_bytes"].dropna()
    return f"{text}, {number(float(asked.max()) / GIB)} GiB asked for" if len(asked) else text


def ways_of_failing(runs: pd.DataFrame) -> list[tuple[str, int]]:
    """How the runs that did not complete ended, in words, and how many did so."""
    failed = runs[runs["status"] != COMPLETED]
    groups = failed.groupby(["status", "failed_phase"], sort=False, dropna=False)
    return [(failure(own), len(own)) for _, own in groups]


def heading(rows: pd.DataFrame) -> str:
    """The data set and model of these rows, and the split where tables have one each; random weights are marked."""
    text = f"{rows['dataset'].iloc[0]} · {rows['model'].iloc[0]}"
    if "split" in rows:
        text += f" · {rows['split'].iloc[0]} split"
    return f"{text} ({RANDOM})" if random_weights(rows) else text


def memory_keys(devices: pd.Series) -> list[str]:
    """The definitions of peak memory that a table of these devices needs."""
    names = {name for text in devices.dropna() for name in text.split("; ")}
    return list(dict.fromkeys(memory_key(name) for name in sorted(names))) or [memory_key("cpu")]


def cost_keys(rows: pd.DataFrame) -> list[str]:
    """The measured columns of a table of these runs or arms, in order."""

    def measured(key: str) -> bool:
        return bool(rows[f"{key}_mean" if f"{key}_mean" in rows else key].notna().any())

    memory = memory_keys(rows["device"])
    if memory_key("cuda") in memory:
        memory += ["probe_peak_reserved_MiB", "probe_process_MiB"]
    optional = [key for key in ("probe_step_p50_ms", "energy_J_per_sample") if measured(key)]
    return [*memory, "weights_MiB", "step_p50_ms", *optional, "train_s", "samples_per_s"]


def shown(row: Any, key: str) -> bool:
    """Whether a row has a place for this measurement: the resident set is not a GPU run's memory."""
    return key != memory_key("cpu") or (not pd.isna(row["device"]) and memory_key(row["device"]) == key)


def mark(row: Any, key: str, text: str) -> str:
    """The text of a measurement, marked where it is an energy over a short window."""
    short = key == "energy_J_per_sample" and text != NULL and "True" in str(row["energy_window_short"])
    return text + SHORT if short else text


def differing(rows: pd.DataFrame) -> dict[str, str]:
    """Columns of settings that these rows do not share: header by key."""
    headers = {"dtype": "Base weights", "engine": "Engine", "device_name": "Device"}
    found = {key: header for key, header in headers.items() if rows[key].nunique() > 1}
    if rows["engine_reason"].notna().any():
        found["engine"] = headers["engine"]
    return {key: header for key, header in headers.items() if key in found}


def arms_readable(arms: pd.DataFrame) -> pd.DataFrame:
    """The rows of `arms_frame` of one data set and model as text, a few columns, units in the header."""
    metric = None if random_weights(arms) else metric_of(arms)
    keys, settings, some_failed = cost_keys(arms), differing(arms), arms["n_failed"].any()
    rows = []
    for row in arms.to_dict("records"):
        cells = {"Arm": arm_label(row["method"], row["rank"]), "n": str(row["n"])}
        if some_failed:
            cells["Failed"] = failed_counts(row["failures"])
        cells["Learning rate"] = setting(row["learning_rate"])
        if metric is not None:
            cells[metric_label(metric)] = mean_metric(row, "test")
            if arms["heldout_rows"].notna().any():
                cells[heldout_label(metric)] = mean_metric(row, "heldout")
        for key in keys:
            text = number(row[f"{key}_mean"]) if key == "weights_MiB" else mean_sd(row, key)
            cells[LABEL[key]] = mark(row, key, text) if shown(row, key) else NULL
        cells["Trainable parameters"] = setting(row["trainable_parameters"], "{:,.0f}")
        cells["Trainable, %"] = percent(row["trainable_percent"])
        cells |= {header: setting(row[key]) for key, header in settings.items()}
        cells |= differs(arms, row)
        rows.append(cells)
    return pd.DataFrame(rows)


def runs_readable(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of `runs_frame` of one data set and model as text, a few columns, units in the header."""
    metric = None if random_weights(runs) else metric_of(runs)
    keys, settings = cost_keys(runs), differing(runs)
    rows = []
    for index, row in enumerate(runs.to_dict("records")):
        cells = {"Arm": arm_label(row["method"], row["rank"]), "Seed": str(row["seed"])}
        done = row["status"] == COMPLETED
        cells["Status"] = COMPLETED if done else failure(runs.iloc[[index]])
        if metric is not None:
            scale, places = metric_scale(row["metric"]), metric_decimals(row["metric"])
            cells[metric_label(metric)] = number(row["metric_value"] * scale, places)
            if runs["heldout_rows"].notna().any():
                cells[heldout_label(metric)] = number(row["heldout_metric_value"] * scale, places)
        for key in keys:
            cells[LABEL[key]] = mark(row, key, number(row[key])) if shown(row, key) else NULL
        cells["Trainable parameters"] = setting(row["trainable_parameters"], "{:,.0f}")
        cells["Trainable, %"] = percent(row["trainable_percent"])
        cells |= {header: setting(row[key]) for key, header in settings.items()}
        rows.append(cells)
    return pd.DataFrame(rows)


def memory_readable(arms: pd.DataFrame) -> pd.DataFrame:
    """The rows of `memory_frame` of one data set and model as text: each part, and what was measured of it."""
    gpu = arms[[f"{key}_mean" for key in MEASURED_SPLIT]].notna().any(axis=None)
    some_failed = arms["n_failed"].any()
    rows = []
    for row in arms.to_dict("records"):
        cells = {"Arm": arm_label(row["method"], row["rank"]), "n": str(row["n"])}
        if some_failed:
            cells["Failed"] = failed_counts(row["failures"])
        for part, key, measured in zip(PARTS, SPLIT, MEASURED_SPLIT, strict=True):
            cells[f"{part}, MiB"] = number(row[f"{key}_mean"])
            if gpu:
                cells[f"{part} measured, MiB"] = number(row[f"{measured}_mean"])
        cells["Sum, MiB"] = number(sum(row[f"{key}_mean"] for key in SPLIT))  # nan if a part is
        for key in memory_keys(arms["device"]):
            cells[LABEL[key]] = number(row[f"{key}_mean"]) if shown(row, key) else NULL
        rows.append(cells)
    return pd.DataFrame(rows)


def costs_notes(rows: pd.DataFrame, runs: pd.DataFrame | None = None) -> list[str]:
    """What a reader must know of a table of these runs or arms: one sentence each.

    `runs` has the runs of these arms, and maybe others: they say why something has no value, if they are given.
    """
    keys, settings = cost_keys(rows), differing(rows)
    averaged = "n_failed" in rows
    lines = ["Mean ± sample standard deviation over the n completed runs (seeds)."] if averaged else []
    if rows["heldout_rows"].notna().any() and not random_weights(rows):
        lines.append(f"Heldout: {first(rows['heldout_rows']):,} examples kept out of training, evaluated once per run.")
    lines += [PROBE, *(NOTE[key] for key in keys if key in NOTE)]
    how = ", captured in CUDA graphs" if rows["engine"].eq("captured").all() else ""
    how += ", compiled" if rows["compile"].eq(True).all() else ""
    lines.append(f"Step p50: the median training step{how}.")
    if "probe_step_p50_ms" in keys:
        lines.append("Eager probe p50: the probe's median step, run eagerly on the longest texts.")
    lines.append("Training time: the sum of the step times.")
    if "energy_J_per_sample" in keys:
        lines.append("Energy: of the GPU over the training phase, by NVML's counter.")
        if rows["energy_window_short"].astype(str).str.contains("True").any():
            lines.append(f"{SHORT}: measured over less than 30 s.")
    lines += [] if averaged else unlike(rows)  # arms have a column
    lines += fallbacks(rows)
    if rows["shared_gpu"].astype(str).str.contains("True").any():
        lines.append("Another process was on the GPU in some runs (shared_gpu).")
    if rows["mixed_gpus"].astype(str).str.contains("True").any():
        text = "Some runs went on, when they were resumed, on a GPU of another model (mixed_gpus)"
        lines.append(f"{text}; no mean of time, memory or energy has them." if averaged else f"{text}.")
    if rows["stood_still_s"].astype(str).str.contains("[1-9]").any():
        lines.append("Some runs were suspended for a while; their times hold that (stood_still_s).")
    if averaged and any("; " in str(name) for name in rows["device_name"]):
        lines.append("No mean of time or memory where an arm's runs ran on different devices.")
    if averaged and "engine" in settings and any("; " in str(name) for name in rows["engine"]):
        lines.append("No mean of training time or energy where an arm's runs ran with different engines.")
    if runs is not None:
        own = runs.merge(rows[ARM].drop_duplicates(), on=ARM)
        lines += without_value(own, dict.fromkeys([*keys, "energy_J_per_sample"]))
    return lines


def without_value(runs: pd.DataFrame, keys: Iterable[str]) -> list[str]:
    """Which of the metrics and the columns `keys` completed runs have no value of, and why: a sentence."""
    names = LABEL
    if not random_weights(runs):
        metric = metric_of(runs)
        names = {"metric_value": metric_label(metric), **names}
        if runs["heldout_rows"].notna().any():
            names["heldout_metric_value"] = heldout_label(metric)
        keys = [*(key for key in names if key not in LABEL), *keys]
    reasons: dict[str, list[str]] = {}
    for key in keys:
        for why in null_reasons(runs, key):
            reasons.setdefault(why, []).append(names[key].partition(",")[0])
    texts = [f"{', '.join(named)} ({why})" for why, named in reasons.items()]
    return [f"Without a value in some runs or all: {'; '.join(texts)}."] if texts else []


def differs(rows: pd.DataFrame, row: Any) -> dict[str, str]:
    """The cell that says what a row's arm differs in, in a table where some arm does."""
    return {"Differs": setting(row["differs"])} if rows["differs"].notna().any() else {}


def unlike(rows: pd.DataFrame) -> list[str]:
    """Which arms differ in what, against the contract or as a method declares: one sentence per difference."""
    own = rows.dropna(subset="differs")
    arms: dict[str, dict[str, None]] = {}
    for method, rank, text in zip(own["method"], own["rank"], own["differs"], strict=True):
        arms.setdefault(text, {})[arm_label(method, rank)] = None
    return [f"{', '.join(names)} differ{'s' if len(names) == 1 else ''} {text}." for text, names in arms.items()]


def fallbacks(rows: pd.DataFrame) -> list[str]:
    """Which arms trained eagerly although captured steps were asked for, and why: one sentence per reason."""
    fell = rows.dropna(subset="engine_reason")
    names = [arm_label(method, rank) for method, rank in zip(fell["method"], fell["rank"], strict=True)]
    reasons: dict[str, dict[str, None]] = {}
    for name, text in zip(names, fell["engine_reason"], strict=True):
        why = textwrap.shorten(text, 200, placeholder=" …").rstrip(".")
        reasons.setdefault(why, {})[name] = None
    return [f"Eager instead of captured: {', '.join(arms)} ({why})." for why, arms in reasons.items()]


def memory_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of a table of memory: one sentence each."""
    lines = ["Means of the n completed runs (seeds).", PROBE, "Parts: from tensor sizes."]
    if rows[[f"{key}_mean" for key in MEASURED_SPLIT]].notna().any(axis=None):
        lines.append("Measured: what was asked of the CUDA allocator and in use after the part came, and not before.")
    else:
        lines.append("Not measured part by part: that takes a GPU.")
    if rows["gradient_accumulation_steps"].astype(str).ne("1").any():
        lines.append("Activations: of one part of a batch where gradients are accumulated.")
    lines += [NOTE[key] for key in memory_keys(rows["device"])]
    held = rows.dropna(subset="frozen_linear_dtype")
    if held["frozen_linear_dtype"].nunique() > 1:
        names = [arm_label(method, rank) for method, rank in zip(held["method"], held["rank"], strict=True)]
        kinds = [f"{name} {dtype}" for name, dtype in zip(names, held["frozen_linear_dtype"], strict=True)]
        lines.append(f"Frozen linear layers are held in: {', '.join(kinds)}.")
    lines += unlike(rows)
    return [*lines, "The sum is no peak: not all parts are held at once, and kernels need room of their own."]


def null_reasons(runs: pd.DataFrame, key: str) -> list[str]:
    """The reasons that completed runs without a value of `key` give, each once."""
    own = runs[(runs["status"] == COMPLETED) & runs[key].isna()]
    texts = (json.loads(text).get(key, "not measured") for text in own["null_reasons"].dropna())
    return list(dict.fromkeys(texts))

"""Run summaries as frames (a row a run, a row an arm) and as Markdown and LaTeX tables."""

import json
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from peft_tradeoffs.arms import arm_label, sort_runs
from peft_tradeoffs.errors import InputError

COMPLETED = "completed"
COLUMNS = (
    "status", "dataset", "model", "method", "arm", "rank", "seed", "task", "metric", "metric_value",
    "accuracy", "f1", "mcc", "pearson", "spearman", "test_loss",
    "learning_rate", "epochs", "steps", "stopped_early", "batch_size", "gradient_accumulation_steps",
    "gradient_checkpointing", "precision", "device", "device_name", "train_rows",
    "test_rows", "truncated_train", "truncated_test", "backbone_parameters", "head_parameters",
    "adapter_parameters", "total_parameters", "trainable_parameters", "trainable_percent",
    "startup_s", "load_s", "train_s", "evaluate_s", "save_s", "step_p50_ms", "step_p95_ms",
    "samples_per_s", "tokens_per_s", "peak_rss_MiB", "rss_before_MiB", "weights_MiB",
    "gpu_peak_allocated_MiB", "gpu_peak_reserved_MiB", "gpu_process_MiB",
    "attempts", "fingerprint", "finished_at", "null_reasons",
)  # fmt: skip
IDENTITY = COLUMNS[:7]
NOT_AVERAGED = ("stopped_early", "attempts", "fingerprint", "finished_at", "null_reasons")
SETTINGS = (
    "task", "metric", "learning_rate", "batch_size", "gradient_accumulation_steps", "gradient_checkpointing",
    "precision", "device", "device_name", "train_rows", "test_rows", "truncated_train", "truncated_test",
    "backbone_parameters", "head_parameters", "adapter_parameters", "total_parameters",
    "trainable_parameters", "trainable_percent",
)  # fmt: skip
MEASUREMENTS = tuple(key for key in COLUMNS if key not in {*IDENTITY, *SETTINGS, *NOT_AVERAGED})
# What does not depend on the machine, so that runs of one arm on different machines may be averaged.
QUALITY = (
    "metric_value", "accuracy", "f1", "mcc", "pearson", "spearman", "test_loss", "epochs", "steps", "weights_MiB",
)  # fmt: skip
TEXT = (
    "status", "dataset", "model", "method", "arm", "task", "metric", "precision", "device", "device_name",
    "fingerprint", "finished_at", "null_reasons",
)  # fmt: skip
ARM = ["dataset", "model", "arm"]
MEMORY_LABEL = {"peak_rss_MiB": "Peak RSS, MiB", "gpu_peak_allocated_MiB": "Peak CUDA allocated, MiB"}
METRIC_LABEL = {
    "accuracy": "Accuracy, %",
    "f1": "F1",
    "mcc": "MCC",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}
NULL = "–"
LEFT = ("Arm", "Status", "Failed", "Device")
LATEX = str.maketrans(
    {char: rf"\{char}" for char in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"}
    | {NULL: "--", "·": r"$\cdot$"}
)
NOTE = {
    "peak_rss_MiB": "Peak RSS: the process's highest resident set during training steps.",
    "gpu_peak_allocated_MiB": "Peak CUDA allocated: torch.cuda.max_memory_allocated during training steps.",
}


def memory_key(device: Any) -> str:
    """The summary key that "peak memory" means on a device ("cpu" or "cuda")."""
    return "gpu_peak_allocated_MiB" if device == "cuda" else "peak_rss_MiB"


def metric_label(metric: str) -> str:
    """A metric's name with its unit, e.g. "Accuracy, %"."""
    return METRIC_LABEL.get(metric, metric)


def metric_scale(metric: str) -> float:
    """What a stored metric is multiplied by when shown: accuracy is stored as a fraction, shown in %."""
    return 100.0 if metric == "accuracy" else 1.0


def read_summaries(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Read summary.json files, each once. Raises InputError for a file that is no summary."""
    summaries = []
    for path in paths:
        try:
            summary = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise InputError(f"{path}: no such summary; run the workflow's target `runs` first") from None
        except ValueError as error:
            raise InputError(f"{path}: not JSON ({error}); delete it and run that arm again") from None
        missing = [key for key in IDENTITY if not isinstance(summary, dict) or key not in summary]
        if missing:
            raise InputError(f"{path}: not a run's summary, no {', '.join(missing)}; run that arm again")
        summaries.append(summary)
    if not summaries:
        raise InputError("no run summaries given: the list of summary.json paths is empty")
    return summaries


def typed(values: pd.Series) -> pd.Series:
    """A column of JSON values as Int64 (all whole numbers), float64 (numbers, or all null) or object."""
    kinds = {type(value) for value in values if value is not None and value == value}
    if kinds == {int}:
        return values.astype("Int64")
    return values.astype(float) if kinds <= {int, float} else values


def runs_frame(summaries: list[dict[str, Any]]) -> pd.DataFrame:
    """One row a run, columns as in COLUMNS, then keys this version does not know; null_reasons as JSON last.

    Raises InputError if a run is there twice or the runs of one data set and model differ in metric.
    """
    known = set(COLUMNS)
    extra = dict.fromkeys(key for summary in summaries for key in summary if key not in known)
    columns = [*COLUMNS[:-1], *extra, "null_reasons"]
    data = {key: pd.Series([summary.get(key) for summary in summaries], dtype=object) for key in columns}
    data["null_reasons"] = data["null_reasons"].map(
        lambda reasons: json.dumps(reasons or {}, sort_keys=True, ensure_ascii=False)
    )
    runs = pd.DataFrame({key: typed(values) for key, values in data.items()})
    check(runs)
    return sort_runs(runs)


def check(runs: pd.DataFrame) -> None:
    """Raise InputError for a run that is there twice, or for runs that no table may compare."""
    twice = runs[runs.duplicated([*ARM, "seed"])]
    if len(twice):
        name = "/".join(str(value) for value in twice.iloc[0][[*ARM, "seed"]])
        raise InputError(f"run {name} is given twice: list each summary once")
    metrics = runs.dropna(subset="metric").groupby(["dataset", "model"], sort=False)["metric"].unique()
    for (dataset, model), names in metrics.items():
        if len(names) > 1:
            raise InputError(
                f"runs of {dataset}/{model} report different metrics ({', '.join(names)}): "
                "run the older ones again or remove their folders"
            )


def read_runs(path: Path) -> pd.DataFrame:
    """Read a runs.csv that `runs_frame` made. Raises InputError if it is missing or lacks columns."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; make_tables.py writes it")
    runs = pd.read_csv(
        path, keep_default_na=False, na_values=[""], dtype=dict.fromkeys(TEXT, object) | {"rank": "Int64"}
    )
    missing = [key for key in COLUMNS if key not in runs]
    if missing:
        raise InputError(f"{path}: no column {', '.join(missing)}; make it again with make_tables.py")
    return runs


def arms_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a (data set, model, arm) in the order of `runs`.

    Columns: dataset, model, arm, method, rank, n (completed runs), n_failed, failures ("oom 2; diverged 1"),
    the settings once (several values are joined with "; "), then {key}_mean, {key}_sd (ddof=1, null with one
    run) and {key}_n (completed runs that have a value) a measurement. Measurements that depend on the machine
    are null, with {key}_n 0, where the completed runs of an arm ran on different devices.
    """
    groups = runs.groupby(ARM, sort=False)
    completed = runs["status"] == COMPLETED
    done = runs[completed]
    arms = groups[["method", "rank"]].first()
    arms["n"] = completed.groupby([runs[key] for key in ARM], sort=False).sum()
    arms["n_failed"] = groups.size() - arms["n"]
    failed = runs[~completed].groupby(ARM, sort=False)["status"].value_counts().reset_index(level="status")
    texts = (failed["status"] + " " + failed["count"].astype(str)).groupby(level=ARM, sort=False)
    arms["failures"] = texts.agg("; ".join).reindex(arms.index) if len(failed) else None

    settings = groups[list(SETTINGS)].first()
    several = groups[list(SETTINGS)].nunique() > 1
    for key in several.columns[several.any()]:
        settings[key] = settings[key].astype(object)
        for arm in several.index[several[key]]:
            values = groups.get_group(arm)[key].dropna().unique()
            settings.at[arm, key] = "; ".join(str(value) for value in values)

    new = [key for key in runs if key not in COLUMNS and runs[key].dtype.kind in "if"]
    keys = [*MEASUREMENTS, *new]
    values = done[ARM].join(done[keys].astype(float)).groupby(ARM, sort=False)[keys]
    mean, sd, count = (table.reindex(arms.index) for table in (values.mean(), values.std(ddof=1), values.count()))
    machine = done["device"].astype(str) + " " + done["device_name"].astype(str)
    mixed = machine.groupby([done[key] for key in ARM], sort=False).nunique().reindex(arms.index) > 1
    dependent = [key for key in keys if key not in QUALITY]
    mean.loc[mixed, dependent] = math.nan
    sd.loc[mixed, dependent] = math.nan
    count.loc[mixed, dependent] = 0
    measured = {}
    for key in keys:
        measured |= {
            f"{key}_mean": mean[key],
            f"{key}_sd": sd[key],
            f"{key}_n": count[key].fillna(0).astype("int64"),
        }
    return pd.concat([arms, settings, pd.DataFrame(measured)], axis=1).reset_index()


def number(value: Any, decimals: int | None = None) -> str:
    """A number with thousands separators; `decimals` None means three significant digits."""
    if pd.isna(value):
        return NULL
    if decimals is None:
        decimals = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def mean_sd(row: Any, key: str, scale: float = 1.0, decimals: int | None = None) -> str:
    """Mean ± sample standard deviation of a measurement in a row of `arms_frame`, for readers.

    The count of runs follows where some completed runs of the arm have no value.
    """
    mean, sd, count = row[f"{key}_mean"] * scale, row[f"{key}_sd"] * scale, row[f"{key}_n"]
    if pd.isna(mean):
        return NULL
    if decimals is None:
        decimals = 0 if mean == 0 else max(0, 2 - math.floor(math.log10(abs(mean))))
    text = number(mean, decimals) + ("" if pd.isna(sd) else f" ± {number(sd, decimals)}")
    return text if count == row["n"] else f"{text} (n = {count})"


def metric_decimals(metric: str) -> int:
    """Decimals of a shown metric: 0.01 points of accuracy, 0.0001 of a coefficient."""
    return 2 if metric == "accuracy" else 4


def setting(value: Any, form: str = "{:g}") -> str:
    """A setting for readers; several joined values stay as they are."""
    return NULL if pd.isna(value) else value if isinstance(value, str) else form.format(value)


def percent(value: Any) -> str:
    """A percentage for readers, three significant digits."""
    return value if isinstance(value, str) else number(value)


def first(values: pd.Series) -> Any:
    """The first value that is not null, or None."""
    values = values.dropna()
    return values.iloc[0] if len(values) else None


def memory_keys(devices: pd.Series) -> list[str]:
    """The definitions of peak memory that a table of these devices needs."""
    names = {name for text in devices.dropna() for name in text.split("; ")}
    return list(dict.fromkeys(memory_key(name) for name in sorted(names))) or ["peak_rss_MiB"]


def arms_readable(arms: pd.DataFrame) -> pd.DataFrame:
    """The rows of `arms_frame` of one data set and model as text, a few columns, units in the header."""
    metric = first(arms["metric"])
    keys = memory_keys(arms["device"])
    some_failed, devices = arms["n_failed"].any(), arms["device_name"].nunique()
    rows = []
    for row in arms.to_dict("records"):
        cells = {"Arm": arm_label(row["method"], row["rank"]), "n": str(row["n"])}
        if some_failed:
            cells["Failed"] = setting(row["failures"])
        cells["Learning rate"] = setting(row["learning_rate"])
        if metric is not None:
            cells[metric_label(metric)] = mean_sd(row, "metric_value", metric_scale(metric), metric_decimals(metric))
        for key in keys:
            shown = not pd.isna(row["device"]) and key == memory_key(row["device"])
            cells[MEMORY_LABEL[key]] = mean_sd(row, key) if shown else NULL
        cells["Weights, MiB"] = number(row["weights_MiB_mean"])
        cells["Training time, s"] = mean_sd(row, "train_s")
        cells["Samples/s"] = mean_sd(row, "samples_per_s")
        cells["Trainable parameters"] = setting(row["trainable_parameters"], "{:,.0f}")
        cells["Trainable, %"] = percent(row["trainable_percent"])
        if devices > 1:
            cells["Device"] = setting(row["device_name"])
        rows.append(cells)
    return pd.DataFrame(rows)


def runs_readable(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of `runs_frame` of one data set and model as text, a few columns, units in the header."""
    metric = first(runs["metric"])
    keys = memory_keys(runs["device"])
    devices = runs["device_name"].nunique()
    rows = []
    for row in runs.to_dict("records"):
        cells = {"Arm": arm_label(row["method"], row["rank"]), "Seed": str(row["seed"])}
        cells["Status"] = row["status"]
        if metric is not None:
            cells[metric_label(metric)] = number(row["metric_value"] * metric_scale(metric), metric_decimals(metric))
        for key in keys:
            cells[MEMORY_LABEL[key]] = number(row[key] if key == memory_key(row["device"]) else None)
        cells["Training time, s"] = number(row["train_s"])
        cells["Samples/s"] = number(row["samples_per_s"])
        cells["Step p50, ms"] = number(row["step_p50_ms"])
        cells["Trainable parameters"] = setting(row["trainable_parameters"], "{:,.0f}")
        cells["Trainable, %"] = percent(row["trainable_percent"])
        if devices > 1:
            cells["Device"] = setting(row["device_name"])
        rows.append(cells)
    return pd.DataFrame(rows)


def sections(frame: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The frame's (data set, model) pairs in its order: a heading and the pair's rows."""
    for (dataset, model), rows in frame.groupby(["dataset", "model"], sort=False):
        yield f"{dataset} · {model}", rows


def notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of the table of these rows: one sentence each."""
    lines = [NOTE[key] for key in memory_keys(rows["device"])] + ["Training time: the sum of the step times."]
    if "n_failed" in rows:
        lines.insert(0, "Mean ± sample standard deviation over the n completed runs (seeds).")
        if any("; " in str(name) for name in rows["device_name"]):
            lines.append("No mean of time or memory where an arm's runs ran on different devices.")
    return lines


def escape_pipes(text: str) -> str:
    """Plain text as a cell of a Markdown table."""
    return text.replace("|", "\\|")


def markdown(frame: pd.DataFrame, readable: Callable[[pd.DataFrame], pd.DataFrame]) -> str:
    """A Markdown section with a table a (data set, model), cells from `readable`."""
    parts = []
    for heading, rows in sections(frame):
        table = readable(rows).map(escape_pipes)
        align = ["left" if key in LEFT else "right" for key in table]
        grid = table.to_markdown(index=False, disable_numparse=True, colalign=align)
        parts.append(f"## {heading}\n\n{grid}\n\n{' '.join(notes(rows))}\n")
    return "\n".join(parts)


def escape_latex(text: str) -> str:
    """Plain text as LaTeX that prints it."""
    return text.translate(LATEX)


def stack(lines: list[str], side: str) -> str:
    """Several short lines in one cell, as LaTeX; `side` is "l" or "r"."""
    text = r" \\ ".join(map(escape_latex, lines))
    return rf"\shortstack[{side}]{{{text}}}"


def latex_header(key: str) -> str:
    """A column's header on several short lines, the unit on the last one."""
    name, comma, unit = key.partition(", ")
    return stack([*textwrap.wrap(name, 11), *([unit] if comma else [])], "l" if key in LEFT else "r")


def latex(frame: pd.DataFrame, readable: Callable[[pd.DataFrame], pd.DataFrame]) -> str:
    """A booktabs longtable a (data set, model), cells from `readable`."""
    parts = [r"% needs \usepackage{booktabs,longtable} and a text width of 16 cm"]
    for heading, rows in sections(frame):
        shown = readable(rows)
        table = shown.map(escape_latex)
        if "Device" in shown:
            table["Device"] = shown["Device"].map(lambda name: stack(textwrap.wrap(name, 11), "l"))
        align = "".join("l" if key in LEFT else "r" for key in table)
        text = table.rename(columns=latex_header).to_latex(
            index=False,
            escape=False,
            longtable=True,
            column_format=f"@{{}}{align}@{{}}",
            caption=escape_latex(heading),
        )
        size = r"\footnotesize" if len(align) < 12 else r"\scriptsize"
        parts.append(f"{{{size}\\setlength{{\\tabcolsep}}{{2.5pt}}\n{text}")
        parts.append(f"\\noindent {escape_latex(' '.join(notes(rows)))}\\par}}\n")
    return "\n".join(parts) + "\n"

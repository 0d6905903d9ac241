"""What readers see of runs and arms: names with units, numbers as text, notes, Markdown and LaTeX, costs."""

import json
import math
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.tables import (
    ARM,
    COMPLETED,
    MEASURED_SPLIT,
    OF_SPLIT,
    SPLIT,
    TENSORS,
    first,
    memory_key,
    peak_key,
    random_weights,
)
from peft_tradeoffs.core import quantities
from peft_tradeoffs.core.files import to_csv, write_text
from peft_tradeoffs.core.layout import REPOSITORY, TEMPLATES
from peft_tradeoffs.core.text import and_list, arm_label, groups_of, inert, one_line, plain, plural, records
from peft_tradeoffs.tasks.metrics import metric_called
from peft_tradeoffs.tasks.shown import heldout_label, metric_label, metric_of
from peft_tradeoffs.tasks.task import LABEL, MEASURED_AS, NOTE


def supported_decimals(half_width: float) -> int:
    """Decimals that an interval supports: its half width to one digit, to two where the first is 1 or 2."""
    if not half_width > 0:
        return 0
    exponent = math.floor(math.log10(half_width))
    return max(0, -exponent + (half_width / 10**exponent < 3))


def at_most(places: int, value: float, digits: int = 4) -> int:
    """`places`, or fewer where they would show more than so many significant digits of the value."""
    return min(places, max(0, digits - 1 - math.floor(math.log10(abs(value))))) if value else places


def finer(places: int, *values: float) -> int:
    """`places`, or a decimal more where one of these values, not 0 but for rounding, would be rounded to 0."""
    return places + any(abs(value) > 1e-9 and not round(value, places) for value in values)


def metric_places(metric: str | None) -> int:
    """Decimals of a mean metric and of its differences, as shown: 1 of accuracy in per cent."""
    return max(0, metric_called(metric).decimals - 1)


def column_places(values: Iterable[Any], most: int = 2) -> int:
    """Decimals of a column of numbers: three significant digits of the largest, and two of the smallest but 0.

    The smallest gets at most `most` decimals more than the largest asks for.
    """
    sizes = [abs(float(value)) for value in values if not pd.isna(value) and value]
    if not sizes:
        return 0
    of_largest = max(0, 2 - math.floor(math.log10(max(sizes))))
    of_smallest = 1 - math.floor(math.log10(min(sizes)))
    return max(of_largest, min(of_smallest, of_largest + most))


NULL = "–"
GIB = 2**30
PARTS = tuple(part.capitalize() for part in quantities.PARTS)  # of SPLIT, in its order
RANDOM = "random weights: speed and memory only"
SHORT = "*"  # an energy that was measured over a short window
PROBE = "Memory is that of the probe: eager steps on the batch_size longest training texts, the same for every arm."
FAILURE = {"oom": "out of memory"}


def number(value: Any, decimals: int | None = None) -> str:
    """A number with thousands separators; `decimals` None means three significant digits."""
    if pd.isna(value):
        return NULL
    if decimals is None:
        decimals = 0 if value == 0 else max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def mean_sd(row: Any, key: str, scale: float = 1.0, decimals: int | None = None) -> str:
    """Mean ± sample standard deviation of a measurement in a row of `arms_frame`, for readers; see `spread_known`.

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
    text = number(mean, decimals) + (f" ± {spread}" if not pd.isna(sd) and spread_known(row, key) else "")
    return text if count == row["n"] else f"{text} (n = {count})"


def spread_known(row: Any, key: str) -> bool:
    """Whether the spread over an arm's seeds, a row of `arms_frame`, says how far another run may lie."""
    return uncompared(key, str(row.get("device")), row.get("startup_s_n", math.nan)) is None


def uncompared(key: str, device: str, jobs: float) -> str | None:
    """Why a measurement of arms is shown and compared with none; None if it is compared.

    `jobs`: processes that trained an arm's runs, the fewest of any arm; nan if that is not known.
    """
    if device != "cpu":
        return None
    if key.endswith("_rss_MiB"):
        return "a process's resident set holds libraries and freed memory too"
    if key in MEASURED_AS and jobs <= 1:
        return "one job per arm, on a CPU that others may use"
    return None


def mean_metric(row: Any, split: str) -> str:
    """Mean ± sample standard deviation of the metric in a row of `arms_frame`, all with as many decimals."""
    metric = row["metric"]
    return mean_sd(row, OF_SPLIT[split][0], metric_called(metric).scale, metric_places(metric))


def setting(value: Any, form: str = "{:g}") -> str:
    """A setting for readers; several joined values stay as they are."""
    return NULL if pd.isna(value) else value if isinstance(value, str) else form.format(value)


def percents(values: pd.Series) -> list[str]:
    """A column of percentages for readers; several joined values stay as they are."""
    places = column_places(pd.to_numeric(values, errors="coerce"))
    return [value if isinstance(value, str) else number(value, places) for value in values]


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
        return f"{text} at {plural('step', len(steps))} {' and '.join(steps)}"
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


def memory_name(devices: Iterable[Any]) -> str:
    """What the memory that arms are compared by is called on these devices; "memory" where they do not share one."""
    names = {LABEL[memory_key(device)].partition(",")[0].lower() for device in devices if not pd.isna(device)}
    return names.pop() if len(names) == 1 else "memory"


def _peaks(rows: pd.DataFrame) -> list[str]:
    """What a table of the parts of memory, which has their sum, has beside it."""
    return [peak_key("cpu") if key == TENSORS else key for key in memory_keys(rows["device"])]


OF_CPU = (memory_key("cpu"), peak_key("cpu"))
OPTIONAL = ("step_p50_ms", "probe_step_p50_ms", "energy_J_per_sample")  # without a column where no run has a value


def cost_keys(rows: pd.DataFrame) -> list[str]:
    """The measured columns of a table of these runs or arms, in order."""

    def measured(key: str) -> bool:
        return bool(rows[f"{key}_mean" if f"{key}_mean" in rows else key].notna().any())

    memory = memory_keys(rows["device"])
    if memory_key("cuda") in memory:
        memory += ["probe_peak_reserved_MiB", "probe_process_MiB"]
    optional = [key for key in OPTIONAL if measured(key)]
    return [*memory, "weights_MiB", *optional, "train_s", "samples_per_s"]


def shown(row: Any, key: str) -> bool:
    """Whether a row has a place for this measurement: a GPU run's memory is what was allocated."""
    return key not in OF_CPU or (not pd.isna(row["device"]) and memory_key(row["device"]) == memory_key("cpu"))


def mark(row: Any, key: str, text: str) -> str:
    """The text of a measurement, marked where it is an energy over a short window."""
    short = key == "energy_J_per_sample" and text != NULL and "True" in str(row["energy_window_short"])
    return text + SHORT if short else text


def differing(rows: pd.DataFrame) -> dict[str, str]:
    """Columns of settings that these rows do not share: header by key."""
    headers = {"dtype": "Base weights", "engine": "Engine", "gpus": "GPUs", "device_name": "Device"}
    found = {key: header for key, header in headers.items() if rows[key].nunique() > 1}
    if rows["engine_reason"].notna().any():
        found["engine"] = headers["engine"]
    return {key: header for key, header in headers.items() if key in found}


def arms_readable(arms: pd.DataFrame) -> pd.DataFrame:
    """The rows of `arms_frame` of one data set and model as text, a few columns, units in the header."""
    metric = None if random_weights(arms) else metric_of(arms)
    keys, settings, some_failed = cost_keys(arms), differing(arms), arms["n_failed"].any()
    places = {key: column_places(arms[f"{key}_mean"]) for key in keys}
    rows = []
    for row, share in zip(records(arms), percents(arms["trainable_percent"]), strict=True):
        cells = {"Arm": arm_label(row["method"], row["rank"]), "n": str(row["n"])}
        if some_failed:
            cells["Failed"] = failed_counts(row["failures"])
        cells["Learning rate"] = setting(row["learning_rate"])
        if metric is not None:
            cells[metric_label(metric)] = mean_metric(row, "test")
            if arms["heldout_rows"].notna().any():
                cells[heldout_label(metric)] = mean_metric(row, "heldout")
        for key in keys:
            mean = row[f"{key}_mean"]
            exact = key in ("weights_MiB", TENSORS)
            text = number(mean, places[key]) if exact else mean_sd(row, key, 1.0, places[key])
            cells[LABEL[key]] = mark(row, key, text) if shown(row, key) else NULL
        cells[LABEL["trainable_parameters"]] = setting(row["trainable_parameters"], "{:,.0f}")
        cells["Trainable, %"] = share
        cells |= {header: setting(row[key]) for key, header in settings.items()}
        cells |= differs(arms, row)
        rows.append(cells)
    return pd.DataFrame(rows)


def runs_readable(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of `runs_frame` of one data set and model as text, a few columns, units in the header."""
    metric = None if random_weights(runs) else metric_of(runs)
    keys, settings, shares = cost_keys(runs), differing(runs), percents(runs["trainable_percent"])
    places = {key: column_places(runs[key]) for key in keys}
    rows = []
    for index, row in enumerate(records(runs)):
        cells = {"Arm": arm_label(row["method"], row["rank"]), "Seed": str(row["seed"])}
        done = row["status"] == COMPLETED
        cells["Status"] = COMPLETED if done else failure(runs.iloc[[index]])
        if metric is not None:
            own = metric_called(row["metric"])
            cells[metric_label(metric)] = number(row["metric_value"] * own.scale, own.decimals)
            if runs["heldout_rows"].notna().any():
                cells[heldout_label(metric)] = number(row["heldout_metric_value"] * own.scale, own.decimals)
        for key in keys:
            cells[LABEL[key]] = mark(row, key, number(row[key], places[key])) if shown(row, key) else NULL
        cells[LABEL["trainable_parameters"]] = setting(row["trainable_parameters"], "{:,.0f}")
        cells["Trainable, %"] = shares[index]
        cells |= {header: setting(row[key]) for key, header in settings.items()}
        rows.append(cells)
    return pd.DataFrame(rows)


def memory_readable(arms: pd.DataFrame) -> pd.DataFrame:
    """The rows of `memory_frame` of one data set and model as text: each part, and what was measured of it."""
    gpu = arms[[f"{key}_mean" for key in MEASURED_SPLIT]].notna().any(axis=None)
    some_failed = arms["n_failed"].any()
    parts = zip(SPLIT, MEASURED_SPLIT, strict=True)
    columns = {
        LABEL[key]: arms[f"{key}_mean"] for part, measured in parts for key in ((part, measured) if gpu else (part,))
    }
    columns["Sum, MiB"] = arms[[f"{key}_mean" for key in SPLIT]].sum(axis=1, skipna=False)
    for key in _peaks(arms):
        of_device = np.array([shown(row, key) for row in records(arms)], dtype=bool)
        columns[LABEL[key]] = arms[f"{key}_mean"].where(of_device)
    texts = {name: [number(value, column_places(values)) for value in values] for name, values in columns.items()}
    rows = []
    for index, row in enumerate(records(arms)):
        cells = {"Arm": arm_label(row["method"], row["rank"]), "n": str(row["n"])}
        if some_failed:
            cells["Failed"] = failed_counts(row["failures"])
        rows.append(cells | {name: values[index] for name, values in texts.items()})
    return pd.DataFrame(rows)


def costs_notes(rows: pd.DataFrame, runs: pd.DataFrame | None = None) -> list[str]:
    """What a reader must know of a table of these runs or arms: one sentence each.

    `runs` has the runs of these arms, and maybe others: they say why something has no value, if they are given.
    """
    keys, settings = cost_keys(rows), differing(rows)
    averaged = "n_failed" in rows
    lines = ["Mean ± sample standard deviation over the n completed runs (seeds)."] if averaged else []
    lines += not_compared(rows, keys) if averaged else []
    if rows["heldout_rows"].notna().any() and not random_weights(rows):
        lines.append(f"Heldout: {first(rows['heldout_rows']):,} examples kept out of training, evaluated once per run.")
    lines += [PROBE, *(NOTE[key] for key in keys if key in NOTE)]
    how = ", captured in CUDA graphs" if rows["engine"].eq("captured").all() else ""
    how += ", compiled" if rows["compile"].eq(True).all() else ""
    if "step_p50_ms" in keys:
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
        lines += without_value(own, dict.fromkeys([*keys, "step_p50_ms", "energy_J_per_sample"]))
    return lines


def not_compared(arms: pd.DataFrame, keys: Iterable[str]) -> list[str]:
    """Which measurements of these rows of `arms_frame` have no ±, and why: one sentence per reason."""
    reasons: dict[str, list[str]] = {}
    for key in keys:
        for row in records(arms):
            if row["n"] and not spread_known(row, key):
                why = uncompared(key, row["device"], row["startup_s_n"])
                reasons.setdefault(str(why), []).append(LABEL[key].partition(",")[0])
    named = {why: list(dict.fromkeys(names)) for why, names in reasons.items()}
    return [f"{and_list(names)} {'has' if len(names) == 1 else 'have'} no ±: {why}." for why, names in named.items()]


def without_value(runs: pd.DataFrame, keys: Iterable[str]) -> list[str]:
    """Which of the metrics and the columns `keys` completed runs have no value of, and why: a sentence."""
    names: dict[str, str] = {}
    if not random_weights(runs):
        metric = metric_of(runs)
        names["metric_value"] = metric_label(metric)
        if runs["heldout_rows"].notna().any():
            names["heldout_metric_value"] = heldout_label(metric)
    keys, names = [*names, *keys], LABEL | names
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
    lines += [NOTE[key] for key in _peaks(rows)]
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
    reasons = [json.loads(text) for text in own["null_reasons"].dropna()]
    parts = SPLIT if key == TENSORS else (key,)
    found = (next((each[part] for part in parts if part in each), "not measured") for each in reasons)
    return list(dict.fromkeys(found))


Readable = Callable[[pd.DataFrame], pd.DataFrame]
Notes = Callable[[pd.DataFrame], list[str]]
LEFT = (
    *("Arm", "Quantity", "Effect", "Status", "Failed", "Base weights", "Engine", "Device", "Verdict", "Letters"),
    *("Qualifies", "Why", "Differs", "Fact", "Value", "Compared with", "Its value", "Experiment", "Method"),
)
# Characters a line of these columns in LaTeX.
WRAPPED = {
    "Status": 16,
    "Failed": 9,
    "Base weights": 9,
    "Engine": 9,
    "Device": 11,
    "Differs": 20,
    "Value": 28,
    "Its value": 28,
    "Experiment": 20,
}
UPRIGHT = 10  # columns that still fit across a page held upright
# Up to so many columns: size of the text and gap between columns, pt.
SIZES = ((10, "footnotesize", 2.5), (12, "scriptsize", 2.5), (17, "scriptsize", 1.5), (99, "tiny", 1.5))
LATEX = str.maketrans(
    {char: rf"\{char}" for char in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"}
    | {NULL: "--", "·": r"$\cdot$", "×": r"$\times$"}
)


def templates() -> jinja2.Environment:
    """What reads the templates of `layout.TEMPLATES`."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(REPOSITORY / TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,  # of what one includes
        trim_blocks=True,
        lstrip_blocks=True,
    )


def sentences(template: str, given: dict[str, Any]) -> list[str]:
    """The lines that a template of `layout.TEMPLATES` leaves, without the empty ones; `given` is what it names."""
    text = templates().get_template(f"{template}.md.j2").render(given)
    return [line.strip() for line in text.splitlines() if line.strip()]


def sections(frame: pd.DataFrame, by: str | None = None) -> Iterator[tuple[str, pd.DataFrame]]:
    """Heading and rows of each (data set, model, split) of the frame, in its order; of each value of column `by`."""
    keys = [key for key in ("dataset", "model", "split") if key in frame] + ([by] if by else [])
    for key, rows in groups_of(frame, keys):
        yield " · ".join([heading(rows), *([key[-1]] if by else [])]), rows


def escape_pipes(text: str) -> str:
    """Plain text as a cell of a Markdown table, inert."""
    return inert(text).replace("|", "\\|")


def markdown(
    frame: pd.DataFrame,
    readable: Readable,
    notes: Notes,
    lead: Notes | None = None,
    by: str | None = None,
    warned: Notes | None = None,
) -> str:
    """One Markdown section per (data set, model): a table of `readable` cells, `notes` below, `lead` listed above.

    With `by`, one section per value of that column. Texts of `warned` may quote a user's; they are listed below the
    table, before the notes.
    """
    parts = []
    for title, rows in sections(frame, by):
        above = "".join(f"- {line}\n" for line in lead(rows)) + "\n" if lead else ""
        below = warnings_box(warned(rows)) if warned else ""
        parts.append(f"## {inert(title)}\n\n{above}{grid(readable(rows))}\n\n{below}{' '.join(notes(rows))}\n")
    return "\n".join(parts)


def warnings_box(warnings: list[str]) -> str:
    """Warnings as a quote in Markdown, with an empty line below; nothing where there are none."""
    if not warnings:
        return ""
    lines = [f"> **{plural('Warning', len(warnings))}**", ">", *(f"> - {plain(text)}" for text in warnings)]
    return "\n".join(lines) + "\n\n"


def grid(readable: pd.DataFrame) -> str:
    """Text cells as a Markdown table."""
    align = ["left" if key in LEFT else "right" for key in readable]
    return readable.map(escape_pipes).to_markdown(index=False, disable_numparse=True, colalign=align)


def escape_latex(text: str) -> str:
    """Plain text as LaTeX that prints it, on one line; not as the option of a line break before it."""
    escaped = one_line(text).translate(LATEX)
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


def stack(lines: list[str], side: str) -> str:
    """Several short lines in one cell, as LaTeX; `side` is "l" or "r"."""
    text = r" \\ ".join(map(escape_latex, lines))
    return rf"\shortstack[{side}]{{{text}}}"


def latex_header(key: str) -> str:
    """A column's header on several short lines, the unit on the last one."""
    name, comma, unit = key.partition(", ")
    return stack(
        [*textwrap.wrap(name, 11, break_long_words=False), *([unit] if comma else [])], "l" if key in LEFT else "r"
    )


def latex(
    frame: pd.DataFrame,
    readable: Readable,
    notes: Notes,
    lead: Notes | None = None,
    by: str | None = None,
    warned: Notes | None = None,
) -> str:
    """One booktabs longtable per (data set, model), on its side where it is wide; arguments as those of `markdown`."""
    parts = [r"% needs \usepackage{booktabs,longtable,pdflscape} and a text of 16 cm by 24 cm"]
    for title, rows in sections(frame, by):
        shown = readable(rows)
        table = shown.map(escape_latex)
        for key in [key for key in WRAPPED if key in shown]:
            table[key] = shown[key].map(lambda text, width=WRAPPED[key]: stack(textwrap.wrap(text, width), "l"))
        align = "".join("l" if key in LEFT else "r" for key in table)
        text = table.rename(columns=latex_header).to_latex(
            index=False,
            escape=False,
            longtable=True,
            column_format=f"@{{}}{align}@{{}}",
            caption=escape_latex(title),
        )
        size, gap = next((size, gap) for columns, size, gap in SIZES if len(align) <= columns)
        text = f"{{\\{size}\\setlength{{\\tabcolsep}}{{{gap}pt}}\n{text}"
        warnings = [f"Warning: {one_line(said)}" for said in warned(rows)] if warned else []
        said = [*(lead(rows) if lead else []), *warnings, *notes(rows)]
        text += f"\\noindent\\sloppy {escape_latex(' '.join(said))}\\par}}\n"
        parts.append(f"\\begin{{landscape}}\n{text}\\end{{landscape}}\n" if len(align) > UPRIGHT else text)
    return "\n".join(parts) + "\n"


@dataclass(frozen=True)
class Beside:
    """What a table says but for its cells and notes; see `markdown`."""

    lead: Notes | None = None
    by: str | None = None
    warned: Notes | None = None
    nothing: str = ""  # of a frame without rows, in place of all


ALONE = Beside()


def write_tables(
    folder: Path,
    name: str,
    frame: pd.DataFrame,
    readable: Readable,
    notes: Notes,
    beside: Beside = ALONE,
) -> None:
    """Write {folder}/{name}.csv, .md and .tex."""
    write_text(folder / f"{name}.csv", to_csv(frame))
    for kind, write in (("md", markdown), ("tex", latex)):
        if frame.empty and beside.nothing:
            text = beside.nothing
        else:
            text = write(frame, readable, notes, beside.lead, beside.by, beside.warned)
        write_text(folder / f"{name}.{kind}", text)


SETTINGS = ["gpus", "pretrained", "device", "device_name"]
HOUR_S = 3600.0


def cost_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per (data set, model, arm) in the order of `runs_frame`: sums over all its runs, failed ones too.

    Columns: dataset, model, arm, method, rank, n_runs, gpus, pretrained, device, device_name, differs, attempts, hours
    (of every attempt, start to end, times its GPUs), training_hours (of the steps, likewise), wall_hours (of every
    attempt, as a clock has them), queue_hours (null unless every run has one: outside SLURM) and energy_Wh (of the
    steps; null unless every run that trained has one).
    """
    gpus = runs["gpus"].where(runs["device"].eq("cuda"), 1).astype(float)
    runs = runs.assign(**{f"gpu_{key}": runs[key].astype(float) * gpus for key in ("wall_s", "train_s")})
    groups = runs.groupby(ARM, sort=False)
    found = groups[["method", "rank"]].first()
    found["n_runs"] = groups.size()
    for key in SETTINGS:
        found[key] = groups[key].agg(lambda values: "; ".join(dict.fromkeys(map(str, values.dropna()))))
    found["differs"] = groups["differs"].first()
    found["attempts"] = groups["attempts"].sum()
    arms = [runs[name] for name in ARM]
    sums = {"hours": "gpu_wall_s", "training_hours": "gpu_train_s", "wall_hours": "wall_s"}
    sums |= {"queue_hours": "queue_s", "energy_Wh": "energy_J"}
    for column, key in sums.items():
        found[column] = runs[key].astype(float).groupby(arms, sort=False).sum(min_count=1) / HOUR_S
    unknown = {"queue_hours": runs["queue_s"].isna(), "energy_Wh": runs["train_s"].notna() & runs["energy_J"].isna()}
    for column, missing in unknown.items():  # the sum of the others would pass for the whole
        found[column] = found[column].where(~missing.groupby(arms, sort=False).any())
    return found.reset_index()


def cost_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `cost_frame` of one data set and model as text, their sum last."""
    numbers = ["attempts", "hours", "training_hours", "wall_hours", "queue_hours", "energy_Wh"]
    total = {key: rows[key].astype(float).sum(skipna=False) for key in ["n_runs", *numbers]}
    hours = f"{'GPU' if rows['device'].eq('cuda').all() else 'Machine'} hours"
    several, shared = rows["device_name"].nunique() > 1, _shared(rows)
    every = [*records(rows), total]
    places = {
        key: column_places(row[key] for row in every) for key in ("hours", "wall_hours", "queue_hours", "energy_Wh")
    }
    cells = []
    for row in every:
        arm = arm_label(row["method"], row["rank"]) if "method" in row else "All"
        line = {"Arm": arm, "Runs": f"{row['n_runs']:.0f}", "Attempts": f"{row['attempts']:.0f}"}
        if shared:
            line |= {"GPUs": setting(row.get("gpus", math.nan))}
        line |= {hours: number(row["hours"], places["hours"])}
        if shared:
            line |= {"Wall hours": number(row["wall_hours"], places["wall_hours"])}
        line |= {"In steps, %": number(_share(row), 0)}
        if rows["queue_hours"].notna().any():
            line["Queue hours"] = number(row["queue_hours"], places["queue_hours"])
        if rows["energy_Wh"].notna().any():
            line["Energy, Wh"] = number(row["energy_Wh"], places["energy_Wh"])
        if several:
            line["Device"] = setting(row.get("device_name", math.nan))
        cells.append(line)
    return pd.DataFrame(cells).fillna(NULL)


def cost_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of a table of costs: one sentence each."""
    lines = [
        "Sums over all runs of an arm, failed ones and every attempt too. They are without trials, which choose a "
        "learning rate: what these took stands below the table of learning rates tried.",
        "Hours: from the start of a run to its end, imports, probe and evaluation too, the wait for another job's GPU "
        "not; of a job's imports its first run has all. In steps: the share of the hours that training steps took.",
    ]
    if _shared(rows):
        lines.append("GPU hours count each GPU of a run, wall hours the run once.")
    if rows["queue_hours"].notna().any():
        lines.append("Queue hours: from when SLURM could have started the job to when it did.")
    if rows["energy_Wh"].notna().any():
        lines.append("Energy: of all GPUs of a run during the training steps alone, by NVML's counter.")
    return [*lines, *unlike(rows)]


def _shared(rows: pd.DataFrame) -> bool:
    """Whether some arm's runs had several GPUs."""
    return bool((rows["device"].eq("cuda") & rows["gpus"].ne("1")).any())


def _share(row: dict) -> float:
    return 100 * row["training_hours"] / row["hours"] if row["hours"] else math.nan

"""The runs of one data set and model as figures and the page draw them, what both say of them, and their colours.

Needs no plotting library.
"""

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis import readable, stats, tables
from peft_tradeoffs.analysis.attribution import NAMES
from peft_tradeoffs.analysis.comparison import read_comparison
from peft_tradeoffs.analysis.comparison_text import methods_paragraph
from peft_tradeoffs.analysis.finished import read_env, verified
from peft_tradeoffs.analysis.stats import read_noise
from peft_tradeoffs.analysis.tables import COMPLETED, OF_SPLIT, SPLIT
from peft_tradeoffs.analysis.tuning_table import read_tuning, ruined
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.text import FULL, and_list, arm_label, method_order, plural, records
from peft_tradeoffs.tasks.metrics import metric_called
from peft_tradeoffs.tasks.shown import metric_name, metric_of, with_unit
from peft_tradeoffs.tasks.task import MEASURED_AS

# seaborn's "colorblind" without its palest (pink, yellow) and grey, then three dark ones of Paul Tol's "muted".
PALETTE = (
    *("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#56b4e9", "#ca9161"),
    *("#882255", "#332288", "#999933"),
)
FULL_MARKER, MARKERS = "o", "sD^vPXp"


@dataclass(frozen=True)
class MethodStyle:
    """How one method is drawn in every figure."""

    colour: tuple[float, float, float]
    marker: str


def method_styles(methods: Iterable[str]) -> dict[str, MethodStyle]:
    """One style per method, in `method_order`; full fine-tuning is near-black, the others colour-blind safe."""
    styles = {}
    others = 0
    for method in method_order(methods):
        if method == FULL:
            styles[method] = MethodStyle(_rgb("#222222"), FULL_MARKER)
            continue
        styles[method] = MethodStyle(_rgb(PALETTE[others % len(PALETTE)]), MARKERS[others % len(MARKERS)])
        others += 1
    return styles


def colours(methods: Iterable[str], dark: bool = False) -> dict[str, str]:
    """The colour of each method as "#rrggbb", on a dark ground if asked; `methods`: all of runs.csv."""
    looks = method_styles(methods)
    return {name: _hex(on_dark(look.colour) if dark else look.colour) for name, look in looks.items()}


def tint(colour: tuple[float, float, float], share: float) -> tuple[float, float, float]:
    """The colour mixed with white; `share` 1 is the colour itself, 0 is white."""
    red, green, blue = (1 - share * (1 - part) for part in colour)
    return red, green, blue


def on_dark(colour: tuple[float, float, float]) -> tuple[float, float, float]:
    """The colour as it is shown on a dark page: what is nearly black nearly white, others lighter."""
    return tint(colour, 0.12) if max(colour) < 0.2 else tint(colour, 0.75)


def _rgb(colour: str) -> tuple[float, float, float]:
    red, green, blue = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue


def _hex(colour: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)


@dataclass(frozen=True)
class Sweep:
    """The runs of one data set and model, and what figures and the page need beside them."""

    dataset: str
    model: str
    runs_dir: Path  # one folder {arm}/seed{seed} per run
    metric: str | None  # None if no run says
    runs: pd.DataFrame  # rows of runs.csv
    curves: pd.DataFrame  # metrics.csv of the completed runs: arm, seed, epoch, step, split and scores
    tuning: pd.DataFrame  # rows of tuning.csv; none where nothing was tuned
    styles: dict[str, MethodStyle]  # of every method in runs.csv
    noise: pd.DataFrame | None = None  # the noise table, if there is one
    comparison: pd.DataFrame | None = None  # rows of comparison.csv, if there is one

    @functools.cached_property
    def arms(self) -> pd.DataFrame:
        """One row per arm (see `tables.arms_frame`)."""
        return tables.arms_frame(self.runs)

    @property
    def scale(self) -> float:
        """What stored metrics are multiplied by when shown."""
        return metric_called(self.metric).scale

    @property
    def metric_axis(self) -> str:
        """The label of a metric axis, e.g. "Accuracy on the test split, %"."""
        return with_unit(f"{self.metric_name} on the test split", self.named)

    @property
    def metric_name(self) -> str:
        """The metric's name in titles."""
        return metric_name(self.named) or "Metric"

    @property
    def named(self) -> dict[str, Any]:
        """The metric as `tasks.metrics` takes it."""
        return metric_of(self.runs) | {"metric": self.metric}

    def interval(self, runs: pd.DataFrame, key: str, scale: float = 1.0) -> tuple[float, float] | None:
        """The 95 % interval of the mean of an arm's `runs`: of a metric the comparison's, else as `stats.interval`.

        None of what is not compared (`uncompared`).
        """
        if self.uncompared(key):
            return None
        split = next((split for split, (metric, _) in OF_SPLIT.items() if metric == key), None)
        if split is None or self.comparison is None:
            return stats.interval(runs, key, self.noise, scale)
        own = self.comparison[(self.comparison["split"] == split) & self.comparison["arm"].isin(runs["arm"])]
        if own.empty or pd.isna(own["low"].iloc[0]):
            return None
        low, high = np.clip(own[["low", "high"]].iloc[0].astype(float), *metric_called(self.metric).bounds)
        return float(low) * scale, float(high) * scale

    def uncompared(self, key: str) -> str | None:
        """Why arms are not compared by a measurement: it has no interval, no line and no front. None if they are."""
        done = self.runs[self.runs["status"] == COMPLETED]
        for device, runs in done.groupby("device"):
            known = key in MEASURED_AS and stats.job_noise(self.noise, runs, key) is not None
            jobs = min(stats.processes(own) for _, own in runs.groupby("arm"))
            if not known and (why := readable.uncompared(key, str(device), jobs)):
                return why
        return None

    def interval_notes(self, keys: Iterable[str]) -> list[str]:
        """What the intervals of these measurements are, and which have none for what reason."""
        left: dict[str, list[str]] = {}
        for key in keys:
            if why := self.uncompared(key):
                left.setdefault(why, []).append(readable.LABEL[key].partition(",")[0])
        keys = [key for key in keys if not self.uncompared(key)]
        metrics = [key for key, _ in OF_SPLIT.values() if key in keys and self.comparison is not None]
        notes = stats.interval_notes(self.runs, self.noise, [key for key in keys if key not in metrics])
        arms = [own for _, own in self.runs.groupby("arm")]
        if any(self.interval(own, key) for own in arms for key in metrics):
            over = "Whiskers of metrics: 95 % interval over other seeds and other test examples, as in the comparison."
            notes = [over, *(note.replace("Whiskers:", "Other whiskers:") for note in notes)]
        return notes + [
            f"{and_list(names)}: as measured, arms are not compared by it ({why})." for why, names in left.items()
        ]


@dataclass(frozen=True)
class Tables:
    """The tables that a sweep is read from."""

    runs: Path
    tuning: Path | None = None
    noise: Path | None = None
    comparison: Path | None = None


def load(files: Tables, runs_dir: Path, dataset: str, model: str) -> Sweep:
    """Read the runs of one data set and model, their metrics.csv files, and the tables beside them.

    Raises InputError if runs.csv has no such runs or the metrics.csv of a completed run is missing or damaged.
    """
    every = tables.read_runs(files.runs)
    runs = every[(every["dataset"] == dataset) & (every["model"] == model)].reset_index(drop=True)
    if runs.empty:
        pairs = every[["dataset", "model"]].drop_duplicates().agg("/".join, axis=1)
        raise InputError(f"{files.runs}: no run of {dataset}/{model}; it has {', '.join(pairs) or 'no run'}")
    curves = []
    for run in records(runs[runs["status"] == COMPLETED]):
        folder = runs_dir / run["arm"] / f"seed{run['seed']}"
        if verified(folder, "metrics.csv")["fingerprint"] != run["fingerprint"]:
            raise InputError(f"{files.runs}: of another run than {folder} has now; make it again with make_tables.py")
        curves.append(pd.read_csv(folder / "metrics.csv").assign(arm=run["arm"], seed=run["seed"]))
    trials = read_tuning(files.tuning) if files.tuning else pd.DataFrame(columns=["dataset", "model"])
    compared = read_comparison(files.comparison) if files.comparison else None

    def own(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[(frame["dataset"] == dataset) & (frame["model"] == model)].reset_index(drop=True)

    return Sweep(
        dataset=dataset,
        model=model,
        runs_dir=runs_dir,
        metric=tables.first(runs["metric"]),
        runs=runs,
        curves=pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(),
        tuning=own(trials),
        styles=method_styles(every["method"]),
        noise=read_noise(files.noise),
        comparison=None if compared is None else own(compared),
    )


def methods(sweep: Sweep, checks: int | None) -> str:
    """The methods paragraph of a sweep (`methods_paragraph`). Raises InputError for an env.json that is missing."""
    envs = {}
    for run in records(sweep.runs.drop_duplicates("arm")):
        folder = sweep.runs_dir / run["arm"] / f"seed{run['seed']}"
        envs[run["arm"]] = read_env(folder, verified(folder))
    compared = pd.DataFrame(columns=["split"]) if sweep.comparison is None else sweep.comparison
    return methods_paragraph(sweep.runs, envs, compared, sweep.tuning, checks)


def conditions(runs: pd.DataFrame) -> str:
    """What the runs have in common, as one line: device, precision, engine, batch size, epochs, runs per arm."""
    done = runs[runs["status"] == COMPLETED]
    parts = []
    for key, form in (
        ("device_name", "{}"),
        ("precision", "{}"),
        ("batch_size", "batch size {:g}"),
        ("epochs", "epochs {:.3g}"),
    ):
        values = done[key].dropna().unique()
        if len(values) == 1:
            parts.append(form.format(values[0]))
        elif key == "device_name" and len(values):
            parts.append("Several devices")
        if key == "precision" and (done["device"] == "cuda").any():
            parts += [f"{' and '.join(sorted(done['engine'].unique()))} training steps"]
            parts += ["compiled"] if done["compile"].eq(True).all() else []
    counts = done.groupby("arm").size()
    if len(counts):
        low, high = counts.min(), counts.max()
        number = f"{low}" if low == high else f"{low} to {high}"
        parts.append(f"n = {number} {plural('seed', high)}")
    return " · ".join(parts)


def reason(runs: pd.DataFrame, *keys: str) -> str:
    """Why these runs lack a value of one of `keys`: their failures, or the reasons they give."""
    ways = readable.ways_of_failing(runs)
    if len(ways) > 1:  # room for all: without the size asked for
        ways = [(text.partition(", ")[0], count) for text, count in ways]
    failures = [f"{text}, {count} {plural('run', count)}" for text, count in ways]
    return "; ".join([*failures, *dict.fromkeys(text for key in keys for text in readable.null_reasons(runs, key))])


def no_metric(sweep: Sweep) -> str:
    """Why a figure of the metric has nothing to show, or nothing if it has."""
    if tables.random_weights(sweep.runs):
        return "the weights are random, so no metric was taken"
    return reason(sweep.runs, "metric_value") if sweep.runs["metric_value"].isna().all() else ""


def devices(sweep: Sweep) -> list[tuple[str, pd.DataFrame]]:
    """The runs device by device ("cpu", "cuda"), since what they measure does not compare."""
    named = sweep.runs["device"].fillna(tables.first(sweep.runs["device"]) or "cpu")
    return [(device, sweep.runs[named == device]) for device in dict.fromkeys(named)]


DIGITS = 7  # significant digits of a number on the page


def finite(value: Any) -> float | None:
    """A JSON number of `DIGITS` significant digits; None for null, nan and infinity."""
    if pd.isna(value) or math.isinf(value):
        return None
    return float(f"{float(value):.{DIGITS}g}")


def curves_data(sweep: Sweep) -> list[dict[str, Any]]:
    """The metric at every evaluation that came several times per run: on the validation split if there is one."""
    if sweep.metric is None or sweep.curves.empty or sweep.metric not in sweep.curves:
        return []
    splits = list(sweep.curves["split"].unique())
    split = "validation" if "validation" in splits else "test"
    own = sweep.curves[sweep.curves["split"] == split].dropna(subset=sweep.metric)
    return [
        {
            "arm": row["arm"],
            "seed": int(row["seed"]),
            "split": split,
            "epoch": finite(row["epoch"]),
            "step": int(row["step"]),
            "train_s": finite(row["train_s"]),
            "value": finite(row[sweep.metric] * sweep.scale),
        }
        for row in records(own)
    ]


def trials_data(sweep: Sweep) -> list[dict[str, Any]]:
    """Every learning rate that was tried, as the page's figure draws it."""
    if sweep.tuning.empty:
        return []
    trials = sweep.tuning.assign(ruined=ruined(sweep.tuning))
    return [
        {
            "arm": row["arm"],
            "method": row["method"],
            "label": arm_label(row["method"], row["rank"]),
            "rank": finite(row["rank"]),
            "check": not row["decides"],
            "rate": finite(row["learning_rate"]),
            "value": finite(row["value"] * sweep.scale),
            "ruined": row["ruined"],
            "chosen": bool(row["chosen"] and row["decides"]),
            "status": row["status"],
        }
        for row in records(trials)
    ]


def memory_data(arms: pd.DataFrame) -> list[dict[str, Any]]:
    """The parts of each arm's memory, one row per part, with the measured peak of a GPU."""
    found = []
    for row in records(arms):
        peak = tables.memory_key(row["device"])
        for order, (part, key) in enumerate(zip(readable.PARTS, SPLIT, strict=True)):
            if (size := finite(row[f"{key}_mean"])) is not None:
                found.append(
                    {
                        "arm": row["arm"],
                        "part": part,
                        "order": order,
                        "MiB": size,
                        "peak": finite(row[f"{peak}_mean"]) if row["device"] == "cuda" else None,
                    }
                )
    return found


def attribution_data(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The change of each quantity by each factor, in percent of the base."""
    found = []
    for row in records(rows[rows["kind"] != "base"]):
        if row["quantity"] == "metric_value" or pd.isna(row["percent"]):
            continue
        share = row["percent"] / row["value"] if row["value"] else 0.0
        found.append(
            {
                "factorial": row["factorial"],
                "quantity": NAMES.get(row["quantity"], row["quantity"]).partition(",")[0],
                "effect": row["effect"],
                "percent": finite(row["percent"]),
                "low": finite(row["low"] * share),
                "high": finite(row["high"] * share),
            }
        )
    return found

"""The model before training, beside the arms: what they forgot of a general text, and what it writes itself."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.comparison import of_one, predicted
from peft_tradeoffs.analysis.comparison_text import with_interval
from peft_tradeoffs.analysis.finished import check_files, has, verified
from peft_tradeoffs.analysis.power import FEWEST_SEEDS
from peft_tradeoffs.analysis.readable import NULL, null_reasons, number, unlike
from peft_tradeoffs.analysis.stats import Crossed, over_seeds_and_examples
from peft_tradeoffs.analysis.tables import ARM, COMPLETED, random_weights, read_scored, read_table
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import OUTPUTS, PREDICTIONS, REMEDY, SCORES
from peft_tradeoffs.core.layout import AXES, run_folder
from peft_tradeoffs.core.quantities import IS_THE_ORIGINAL
from peft_tradeoffs.core.text import arm_label, first_record, groups_of, plural, records
from peft_tradeoffs.inputs.splits import read_groups
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.tasks.metrics import Metric, metric_called
from peft_tradeoffs.tasks.shown import metric_label, metric_words
from peft_tradeoffs.tasks.task import TASKS

COLUMNS = (
    *ARM, "method", "rank", "pretrained", "baseline", "texts", "tokens", "n", "n_paired", "before", "after",
    "forgetting", "forgetting_low", "forgetting_high", "original", "vs_original", "vs_original_low", "vs_original_high",
    "difference", "difference_low", "difference_high", "differs", "reason",
)  # fmt: skip
WHOLE = ("rank", "texts", "tokens", "n", "n_paired")
NO_NUMBERS = (*ARM, "method", "pretrained", "baseline", "differs", "reason")


@dataclass(frozen=True)
class Losses:
    """What a run lost on each of n general texts: sums over a text's tokens, in nats."""

    rows: np.ndarray  # [n] rows in the source
    tokens: np.ndarray  # [n]
    before: np.ndarray  # [n]
    after: np.ndarray  # [n]
    original: np.ndarray | None = None  # [n], of the model that was quantised

    def per_token(self, losses: np.ndarray) -> float:
        """The loss per token of all texts."""
        return float(losses.sum() / self.tokens.sum())

    def parts(self, earlier: np.ndarray) -> np.ndarray:
        """Jackknife pseudo-values [n] of the loss per token after training, less that of the losses `earlier` [n].

        A difference of two ratios of sums over the same texts: total difference over total tokens. As those of a loss
        per token (`Metric.contributions`): n times it, less n - 1 times it without that text.
        """
        lost, tokens, count = self.after - earlier, self.tokens.astype(float), len(self.tokens)
        without = (lost.sum() - lost) / (tokens.sum() - tokens)
        return np.asarray(count * lost.sum() / tokens.sum() - (count - 1) * without)


def read_losses(path: Path, run: Mapping[str, Any]) -> Losses:
    """A completed run's predictions_general.csv, of which `run` has the summary's figures.

    Raises InputError if it is missing, not as the run published it, broken, or does not give those figures.
    """
    verified(path.parent, path.name)
    try:
        table = pd.read_csv(path)
        found = {name: table[name].to_numpy(float) for name in ("row", "tokens", "loss_before", "loss_after")}
        original = table["loss_original"].to_numpy(float) if not pd.isna(run["forgetting_vs_original"]) else None
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: not a run's losses on a general text ({error}); {REMEDY}") from None
    rows, tokens = (found[name].astype(np.int64) for name in ("row", "tokens"))
    losses = Losses(rows, tokens, found["loss_before"], found["loss_after"], original)
    if len(rows) < 2 or (tokens < 1).any():
        raise InputError(f"{path}: {len(rows)} texts, and 2 or more with tokens are written; {REMEDY}")
    given = {"forgetting_loss_before": losses.before, "forgetting_loss_after": losses.after}
    if original is not None:
        given["forgetting_loss_original"] = original
    for key, values in given.items():
        value = losses.per_token(values)
        if not math.isclose(value, run[key], rel_tol=1e-6):
            raise InputError(f"{path}: {key} is {value:.6f}, but the summary says {run[key]:.6f}; {REMEDY}")
    return losses


def stored_losses(runs_dir: Path) -> Callable[[dict[str, Any]], Losses]:
    """Those that runs below `runs_dir` published."""
    return lambda run: read_losses(run_folder(runs_dir, *(run[axis] for axis in AXES)) / files.GENERAL, run)


def forgetting_frame(runs: pd.DataFrame, baseline: str, losses: Callable[[dict[str, Any]], Losses]) -> pd.DataFrame:
    """One row per (data set, model, arm) in the order of `runs`, columns as in COLUMNS; `baseline` is an arm.

    Of pretrained models whose data set names a general text; `losses` gives those of a run. All in nats per token:
    before and after, means over the n completed runs; forgetting, the second less the first; original, the loss of the
    model that a quantised arm quantises, and vs_original, after less that (null where nothing is quantised); difference
    to the baseline's forgetting over the n_paired seeds that both have. _low and _high: 95 % intervals over other seeds
    and other texts, paired by text (`stats.over_seeds_and_examples` of the jackknife's pseudo-values, its `step` the
    most that one text changes). What another null means is in `reason`. Raises InputError for runs of other texts.
    """
    rows: list[dict[str, Any]] = []
    for _, own in runs.groupby(["dataset", "model"], sort=False):
        asked = own["forgetting_s"].notna().any()
        if asked and not random_weights(own):
            rows += _rows(own, baseline, losses)
    types = dict.fromkeys(WHOLE, "Int64") | dict.fromkeys(set(COLUMNS) - {*WHOLE, *NO_NUMBERS}, float)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(types)


def _rows(runs: pd.DataFrame, baseline: str, losses: Callable[[dict[str, Any]], Losses]) -> list[dict[str, Any]]:
    """The rows of one data set and model."""
    done = runs[(runs["status"] == COMPLETED) & runs["forgetting"].notna()]
    arms = {arm: {run["seed"]: losses(run) for run in records(own)} for arm, own in groups_of(done, "arm")}
    every = [(arm, seed, of_run) for arm, seeds in arms.items() for seed, of_run in seeds.items()]
    for arm, seed, of_run in every[1:]:
        first = every[0][2]
        if not (np.array_equal(of_run.rows, first.rows) and np.array_equal(of_run.tokens, first.tokens)):
            raise InputError(
                f"runs {every[0][0]}/seed{every[0][1]} and {arm}/seed{seed} read other general texts: one is of other "
                "data; delete its folder and run it again"
            )
    rows = []
    for arm, own in groups_of(runs, "arm"):
        row = {**first_record(own[[*ARM, "method", "rank", "pretrained", "differs"]]), "baseline": baseline}
        other = None if arm == baseline else arms.get(baseline, {})
        lacking = own[(own["status"] == COMPLETED) & own["forgetting"].isna()]
        rows.append(row | _of_arm(arms.get(arm, {}), other, _why_no_original(own), _why_none(lacking)))
    return rows


def _why_no_original(runs: pd.DataFrame) -> str:
    """Why a quantised arm has no loss of the original model; "" of others."""
    found = null_reasons(runs, "forgetting_loss_original")
    return "; ".join(why for why in found if why != IS_THE_ORIGINAL)


def _why_none(runs: pd.DataFrame) -> str:
    """How many completed runs have no figure, and why; "" of no runs."""
    why = "; ".join(null_reasons(runs, "forgetting")) if len(runs) else ""
    return f"{_seeds(len(runs))} without a figure: {why}" if why else ""


def _of_arm(runs: dict[int, Losses], baseline: dict[int, Losses] | None, missing: str, lacking: str) -> dict[str, Any]:
    """An arm's figures, by seed its losses, and the difference to the baseline's (None: it is the baseline itself).

    `missing`: why a quantised arm has no loss of the original model. `lacking`: why completed runs have no figure.
    """
    if not runs:
        return {"n": 0, "reason": lacking or "no run of it gave a loss on the general text"}
    first = next(iter(runs.values()))
    found: dict[str, Any] = {"n": len(runs)}
    found |= {"texts": len(first.tokens), "tokens": int(first.tokens.sum())}
    for name in ("before", "after"):
        found[name] = _mean([one.per_token(getattr(one, name)) for one in runs.values()])
    found |= _estimated("forgetting", [[(1, one, one.before)] for one in runs.values()])
    pairs = [(one, one.original) for one in runs.values() if one.original is not None]
    if len(pairs) == len(runs):
        found["original"] = _mean([one.per_token(original) for one, original in pairs])
        found |= _estimated("vs_original", [[(1, one, original)] for one, original in pairs])
    shared = [seed for seed in runs if seed in (baseline or {})]
    if baseline is not None:
        found["n_paired"] = len(shared)
    if shared:
        both = [(runs[seed], (baseline or {})[seed]) for seed in shared]
        found |= _estimated("difference", [[(1, one, one.before), (-1, other, other.before)] for one, other in both])
    why = []
    if len(runs) < FEWEST_SEEDS:
        why.append(f"{_seeds(len(runs))}, where {FEWEST_SEEDS} or more are needed for an interval")
    elif baseline is not None and len(shared) < FEWEST_SEEDS:
        why.append(f"{_seeds(len(shared))} that the baseline has too, where {FEWEST_SEEDS} or more are needed")
    if found.get("original") is None and missing:
        why.append(f"no loss of the original model: {missing}")
    if lacking:
        why.append(lacking)
    if why:
        found["reason"] = "; ".join(why)
    return found


def _seeds(count: int) -> str:
    return f"{count} {plural('seed', count)}"


Cells = Sequence[tuple[int, Losses, np.ndarray]]  # of one seed: a sign, a run, and the losses that its own are less


def _estimated(name: str, seeds: Sequence[Cells]) -> dict[str, float]:
    """The mean over seeds of a sum of differences, and its interval over seeds and texts, where there is one."""
    values = [
        sum(sign * (run.per_token(run.after) - run.per_token(earlier)) for sign, run, earlier in cells)
        for cells in seeds
    ]
    found = {name: _mean(values)}
    estimate = estimated([sum(sign * run.parts(earlier) for sign, run, earlier in cells) for cells in seeds], values)
    if estimate is not None:
        found[f"{name}_low"], found[f"{name}_high"] = estimate.interval()
    return found


def estimated(parts: Sequence[Any], values: Sequence[float]) -> Crossed | None:
    """The mean of `values` [s], by seed, whose pseudo-values are `parts` [s, n]; None for too few seeds.

    `step` is the most that one text changes the difference itself, not a loss alone: nearly every text changes a little
    and none is right or wrong, so few of them hide no certainty, and what a loss varies between texts cancels.
    """
    stacked = np.stack(list(parts))
    step = float(np.abs(stacked - np.array(values)[:, None]).max())
    found = over_seeds_and_examples(stacked, step if stacked.any() else 0.0)
    return None if found is None else replace(found, value=_mean(values))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def forgetting_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one data set and model as text, units in the header."""
    quantised = rows["original"].notna().any()
    cells = []
    for row in records(rows):
        shown = {
            "Arm": arm_label(row["method"], row["rank"]),
            "n": str(row["n"]),
            "Before, nats/token": _number(row["before"]),
            "After, nats/token": _number(row["after"]),
            "Forgetting, nats/token": _interval(row, "forgetting"),
        }
        if quantised:
            shown["Original, nats/token"] = _number(row["original"])
            shown["Against the original, nats/token"] = _interval(row, "vs_original")
        shown[f"To {arm_of(rows, row['baseline'])}, nats/token"] = (
            "baseline" if row["arm"] == row["baseline"] else _interval(row, "difference")
        )
        cells.append(shown)
    return pd.DataFrame(cells)


def arm_of(rows: pd.DataFrame, arm: str) -> str:
    """An arm's name for readers; `rows` have its method and rank, where they have it at all."""
    own = records(rows[rows["arm"] == arm])
    return arm_label(own[0]["method"], own[0]["rank"]) if own else arm


def _number(value: Any) -> str:
    return NULL if pd.isna(value) else f"{value:.4f}"


def _interval(row: Mapping[str, Any], name: str) -> str:
    return with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], 1.0, sign=True)


def forgetting_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of the table: one sentence each."""
    first = rows[rows["n"] > 0]
    lines = [
        "Forgetting: what a model loses per token on a general text after training, less what it lost before; above 0 "
        "it reads that text worse."
    ]
    if len(first):
        lines.append(f"The text: {first['texts'].iloc[0]:,} rows, {first['tokens'].iloc[0]:,} tokens that count.")
    if rows["forgetting_low"].notna().any():
        lines.append("In brackets: 95 % intervals over other seeds and other texts, not corrected for how many arms.")
    if rows["original"].notna().any():
        lines.append(
            "A quantised arm starts from the quantised model; against the original, what quantisation lost counts too"
            + (
                f"; {NULL}: nothing is quantised, unless a reason stands below."
                if rows["original"].isna().any()
                else "."
            )
        )
    lines.append("The last column: forgetting less that of the baseline, each against its own start.")
    named: dict[str, list[str]] = {}
    for row in records(rows[rows["reason"].notna()]):
        named.setdefault(row["reason"], []).append(arm_label(row["method"], row["rank"]))
    if named:
        why = "; ".join(f"{', '.join(who)}: {reason}" for reason, who in named.items())
        lines.append(f"No interval, or {NULL}: {why}.")
    return [*lines, *unlike(rows)]


METRICS = (*metrics.of_task(metrics.OUTPUTS), *metrics.of_task(metrics.TOKENS))
NUMBER: tuple[type, ...] = (int, float, type(None))
SUMMARY: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("dataset", "model", "status", "task", "precision", "dtype", "device", "data_sha256"), (str,)),
    **{"failed_phase": (str, type(None)), "device_name": (str, type(None)), "test_rows": (int,)},
    **{"pretrained": (bool,)},
    **{"max_new_tokens": (int,), "null_reasons": (dict,)},
    **dict.fromkeys(("ended_share", "answer_tokens", *(metric.name for metric in METRICS)), NUMBER),
}
SETTINGS = ("status", "pretrained", "precision", "dtype", "device", "device_name", "max_new_tokens", "test_rows")
WRITTEN = ("ended_share", "answer_tokens")
VALUES = [f"{metric.name}{end}" for metric in METRICS for end in ("", "_low", "_high")]
OF_UNTRAINED = ("dataset", "model", *SETTINGS, "test_groups", *VALUES, *WRITTEN, "reason")
COUNTS = ("max_new_tokens", "test_rows", "test_groups")
NOT_COMPARED = "It is no arm: nothing is tested against it, and no verdict takes it in."


def read_untrained(folder: Path) -> dict[str, Any]:
    """The summary of what answer_untrained.py wrote in `folder`, {dataset}/{model}, its answers as it published them.

    Raises InputError for one that is missing, damaged, edited or of another data set or model.
    """
    path = folder / "summary.json"
    try:
        summary = files.read_object(path, SUMMARY, "what an untrained model gave", REMEDY)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; answer_untrained.py writes it") from None
    files.check_summary(summary, path)
    own = Path(summary["dataset"], summary["model"])
    if folder.absolute().parts[-len(own.parts) :] != own.parts:
        raise InputError(f"{path}: of another model, {own}; {REMEDY}")
    check_files(folder, summary, [name for name in (PREDICTIONS, OUTPUTS, SCORES) if has(summary, name)])
    return summary


def untrained_frame(folders: Iterable[Path], data_dir: Path | None) -> pd.DataFrame:
    """One row per data set and model, columns as in OF_UNTRAINED, of what stands in `folders`.

    Of each metric, as stored, its value, and _low and _high, its 95 % interval over other test examples alone; over
    groups of them where `data_dir` says that the data set has such. What a null means is in `reason`.
    """
    rows = [_untrained_row(folder, read_untrained(folder), data_dir) for folder in folders]
    types = dict.fromkeys(COUNTS, "Int64") | dict.fromkeys((*VALUES, *WRITTEN), float)
    return pd.DataFrame(rows, columns=list(OF_UNTRAINED)).astype(types)


def _untrained_row(folder: Path, summary: dict[str, Any], data_dir: Path | None) -> dict[str, Any]:
    row = {key: summary[key] for key in ("dataset", "model", *SETTINGS, *WRITTEN)}
    if summary["status"] != COMPLETED:
        oom = summary["status"] == "oom"
        return row | {"reason": f"out of memory in {summary['failed_phase']}" if oom else "its loss is not finite"}
    task = TASKS[summary["task"]]
    scored = read_scored(folder / PREDICTIONS, task, summary["test_rows"])
    groups = read_groups(data_dir, summary["dataset"], "test", scored.rows) if data_dir else None
    if groups is not None:
        row["test_groups"] = int(groups.max()) + 1
    reasons: dict[str, None] = {}
    for metric in METRICS:
        if (value := summary[metric.name]) is None:
            continue
        found = metric.of(scored)
        if found is None or not math.isclose(found, value, abs_tol=1e-6):
            raise InputError(f"{folder}: its {metric.name} is {found}, but its summary says {value}; {REMEDY}")
        own = of_one(predicted(scored, metric, task.right(scored), groups), value, metric.name)
        row[metric.name] = value
        if "reason" in own:
            reasons[own["reason"]] = None
        else:  # none lies beyond its range, whatever t says
            low, high = np.clip([own["low"], own["high"]], *metric.bounds).tolist()
            row |= {f"{metric.name}_low": low, f"{metric.name}_high": high}
    return row | {"reason": "; ".join(reasons) or None}


def read_table_of_untrained(path: Path) -> pd.DataFrame:
    """An untrained.csv that `untrained_frame` made. Raises InputError if it is missing, damaged or lacks columns."""
    texts = [name for name in OF_UNTRAINED if name not in (*COUNTS, *VALUES, *WRITTEN)]
    kinds = dict.fromkeys(COUNTS, "Int64") | dict.fromkeys(texts, object)
    return read_table(path, OF_UNTRAINED, "delete it, and Snakemake makes it again", kinds, (*VALUES, *WRITTEN))


def with_bounds(row: dict[str, Any], metric: Metric) -> str:
    """The metric of a row of `untrained_frame` with its interval, in its unit, which is left out, and decimals."""
    value, low, high = (row[f"{metric.name}{end}"] * metric.scale for end in ("", "_low", "_high"))
    text = number(value, metric.decimals)
    return text if pd.isna(low) else f"{text} [{number(low, metric.decimals)}, {number(high, metric.decimals)}]"


def beside_arms(row: dict[str, Any], metric: str) -> dict[str, str]:
    """What stands beside the arms' metric: `cell`, of the column of the metric, and `line`, a sentence or two.

    `row` is of `untrained_frame`.
    """
    found = metric_called(metric)
    if found not in METRICS or pd.isna(row[metric]):
        why = "it is not scored" if pd.isna(row["reason"]) else row["reason"]
        return {"cell": "", "line": f"Untrained: not known ({why}). {NOT_COMPARED}"}
    cell = with_bounds(row, found)
    value, _, interval = cell.partition(" ")
    unit = f" {found.unit}" if found.unit else ""
    over = f" {interval} (95 %, {_over(row)})" if interval else ""
    said = f"Untrained: {metric_words({'metric': metric})} {value}{unit}{over}, by the model as it is fetched."
    return {"cell": cell, "line": f"{said} {NOT_COMPARED}"}


def _over(row: dict[str, Any]) -> str:
    return "over other test examples" if pd.isna(row["test_groups"]) else "over other groups of test rows"


def untrained_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The row of one data set and model as text, a line per quantity, units behind their names."""
    (row,) = records(rows)
    cells = {metric_label({"metric": one.name}): with_bounds(row, one) for one in METRICS if not pd.isna(row[one.name])}
    cells["Answers that it ended, %"] = number(row["ended_share"] * 100, 1)
    cells["Length of an answer (mean), tokens"] = number(row["answer_tokens"], 1)
    return pd.DataFrame({"Quantity": list(cells), "Untrained": list(cells.values())})


def untrained_notes(rows: pd.DataFrame) -> list[str]:
    """What a reader must know of the table: one sentence each."""
    (row,) = records(rows)
    lines = [
        "What the model as it is fetched wrote, before any training, by the settings that the arms answer by.",
        NOT_COMPARED,
        f"Weights in {row['dtype']}, not quantised, {row['precision']} on {row['device_name'] or row['device']}; "
        f"{row['test_rows']:,} test rows, at most {row['max_new_tokens']} new tokens each.",
    ]
    if any(not pd.isna(row[f"{metric.name}_low"]) for metric in METRICS):
        lines.append(
            f"In brackets: 95 % intervals {_over(row)} alone; it writes the same every time, so it has no seeds."
        )
    return lines if pd.isna(row["reason"]) else [*lines, f"What is missing: {row['reason']}."]

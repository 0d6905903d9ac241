"""What the rows of each data set can decide, said before anything is trained."""

import functools
import json
import sys
from pathlib import Path
from typing import Any

from peft_tradeoffs.analysis import power
from peft_tradeoffs.config.experiment import Experiment
from peft_tradeoffs.config.model import Dataset
from peft_tradeoffs.config.preflight import run_folders
from peft_tradeoffs.core.text import arm_label
from peft_tradeoffs.inputs.data_files import count_rows
from peft_tradeoffs.tasks.metrics import METRICS


def say_what_can_be_decided(experiment: Experiment) -> None:
    """Print to stderr, while a run is still to be trained, a note on each data set whose rows can be counted here.

    Of data sets whose metric is a share of right answers, and of models that were trained before.
    """
    finished = all((run / "summary.json").exists() for run in run_folders(experiment))
    if finished or not (compared := _compared(experiment)):
        return
    if (seeds := len(experiment.seeds)) < power.FEWEST_SEEDS:
        said = "1 seed" if seeds == 1 else f"{seeds} seeds"
        needed = f"{power.FEWEST_SEEDS} or more are needed"
        print(f"note: {said}, where {needed}: no difference will have an interval, or be proven", file=sys.stderr)
        return
    for name in compared:
        if rows := rows_of(experiment, name):
            print(f"note: data set {name}: {_told(experiment, name, rows)}", file=sys.stderr)


def question(experiment: Experiment, name: str) -> dict[str, Any] | None:
    """What the step that fetches a data set needs to say the same; None where nothing can be said of it.

    `said` are the rows of which the plan has said it, or 0.
    """
    if name not in _compared(experiment) or len(experiment.seeds) < power.FEWEST_SEEDS:
        return None
    return {
        "split": experiment.recommendation.split,
        "seeds": len(experiment.seeds),
        "arms": len(experiment.arms) - 1,
        "margin": experiment.comparison.margin,
        "baseline": _baseline(experiment),
        "said": rows_of(experiment, name) or 0,
    }


def rows_of(experiment: Experiment, name: str) -> int | None:
    """How many rows of a data set arms are judged on, where its files or an earlier call say it; None elsewhere.

    Of a split that is carved from train about as many, for rows of the same text stay together.
    """
    dataset, split = experiment.datasets[name], experiment.recommendation.split
    rows = _in_files(dataset, split) or _fetched(Path(experiment.output, "data", name, "dataset.json"), dataset, split)
    limit = dataset.limit.get(split)
    return rows if limit is None else min(rows or limit, limit)


def _in_files(dataset: Dataset, split: str) -> int | None:
    if dataset.source != "files":
        return None
    assert dataset.splits  # which the schema requires of files
    own = dataset.splits.get(split)
    path = Path(own or dataset.splits["train"])
    try:
        found = path.stat()
    except OSError:
        return None
    rows = _counted(path, dataset.separator, found.st_mtime_ns, found.st_size, found.st_ino)
    return rows if own or rows is None else round(dataset.fractions[split] * rows)


@functools.cache
def _counted(path: Path, separator: str | None, mtime_ns: int, size: int, inode: int) -> int | None:
    return count_rows(path, separator)


def _fetched(described: Path, dataset: Dataset, split: str) -> int | None:
    """What `fetch_dataset` wrote of the split, if it was of this source."""
    try:
        found = json.loads(described.read_bytes())
        source, rows = found["source"], int(found["splits"][split]["rows"])
        same = source["source"] == dataset.source and all(
            source.get(key) == getattr(dataset, key) for key in ("path", "config", "revision")
        )
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None  # what reads it says what is wrong with it
    return rows if same else None


def _told(experiment: Experiment, name: str, rows: int) -> str:
    dataset, split = experiment.datasets[name], experiment.recommendation.split
    about = "about " if split in dataset.fractions and split not in dataset.limit else ""
    design = power.Design(rows=rows, seeds=len(experiment.seeds), arms=len(experiment.arms) - 1)
    of = f"{about}{rows:,} {split} rows"
    return power.told(design, experiment.comparison.margin, of, _baseline(experiment))


def _baseline(experiment: Experiment) -> str:
    assert experiment.comparison.baseline is not None  # `resolve` names one where the configuration does not
    arm = experiment.arms[experiment.comparison.baseline]
    return arm_label(arm.method, arm.rank)


def _compared(experiment: Experiment) -> list[str]:
    """Data sets on which arms are compared by a share of right answers."""
    if len(experiment.arms) < 2 or all(model.source == "random" for model in experiment.models.values()):
        return []
    return [name for name, dataset in experiment.datasets.items() if dataset.metric and METRICS[dataset.metric].share]

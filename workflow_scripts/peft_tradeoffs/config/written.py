"""What earlier calls wrote, looked at before a plan: is it still what they wrote?"""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peft_tradeoffs.config.experiment import Experiment
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.seal import is_weight
from peft_tradeoffs.inputs.content import checksum

SHOWN = 3  # runs that a warning names


def check_written(experiment: Experiment) -> None:
    """Raise InputError for tokens or fetched rows whose content is not what the step that wrote them recorded.

    Rows may be gone once all runs, or tokens of them for every model, are there: a study can be brought home without
    its texts.
    """
    output = Path(experiment.output)
    finished = all((run / "summary.json").exists() for run in _runs(experiment))
    for dataset in experiment.datasets:
        tokens = (output / "tokens" / dataset / f"{model}.npz" for model in experiment.models)
        _check_rows(output / "data" / dataset, needed=not (finished or all(path.exists() for path in tokens)))
        for model in experiment.models:
            for folder in (output / "tokens", output / "tune/tokens"):
                _check_tokens(folder / dataset / f"{model}.npz")


def _check_rows(folder: Path, needed: bool) -> None:
    described = folder / "dataset.json"
    splits = _object(described).get("splits")
    for split, entry in splits.items() if isinstance(splits, dict) else ():
        path, recorded = folder / f"{split}.parquet", entry.get("sha256") if isinstance(entry, dict) else None
        if recorded and (needed or path.exists()) and checksum(path) != recorded:
            raise InputError(
                f"{path}: {'not' if path.exists() else 'missing, so not'} what fetch_dataset wrote (its SHA-256 is not "
                f"that in {described}); delete {described}, and the next call makes both again"
            )


def _check_tokens(path: Path) -> None:
    described = path.with_suffix(".json")
    recorded = _object(described).get("sha256") if path.exists() else None
    if recorded and checksum(path) != recorded:
        raise InputError(
            f"{path}: not what tokenize wrote (its SHA-256 is not that in {described}); delete {path}, and the next "
            "call makes it again; runs that were made from what it wrote stay"
        )


def _object(path: Path) -> dict[str, Any]:
    """A JSON object that a step wrote; empty where there is none yet. Raises InputError for anything else."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it, and the next call makes it again") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: damaged (no JSON object); delete it, and the next call makes it again")
    return found


def warn_of_missing(experiment: Experiment) -> None:
    """Print a warning for finished runs that lack a file which their summary lists. Reads no file but the summaries."""
    lacking = list(_lacking(experiment))
    for run, lost in lacking[:SHOWN]:
        name, *others = lost
        more = f" and {len(others)} more file{'s'[: len(others) - 1]}" if others else ""
        kept = ", or set keep_weights: false where weights were removed on purpose" if all(map(is_weight, lost)) else ""
        print(
            f"warning: {run} lacks {name}{more}, which it published; delete the run's folder to train it again{kept}",
            file=sys.stderr,
        )
    if len(lacking) > SHOWN:
        print(f"warning: {len(lacking) - SHOWN} further runs lack published files", file=sys.stderr)


def _lacking(experiment: Experiment) -> Iterator[tuple[Path, list[str]]]:
    """Folders of finished runs, each with those of its files that are not there, weights first."""
    for run in _runs(experiment):
        lost = [
            name
            for name in _listed(run / "summary.json")
            if not (run / name).exists() and not (is_weight(name) and not experiment.keep_weights)
        ]
        if lost:
            yield run, sorted(lost, key=lambda name: not name.endswith(".safetensors"))


def _runs(experiment: Experiment) -> Iterator[Path]:
    """The folders of all runs, whether they are there or not."""
    grid = itertools.product(experiment.datasets, experiment.models, experiment.arms, experiment.seeds)
    for dataset, model, arm, seed in grid:
        yield Path(experiment.output, "runs", dataset, model, arm, f"seed{seed}")


def _listed(summary: Path) -> list[str]:
    """The files that a summary lists; none where there is no summary, or not one as runs write it."""
    try:
        listed = json.loads(summary.read_bytes())["files"]
        return sorted(map(str, listed))
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return []  # what reads the summary says what is wrong with it

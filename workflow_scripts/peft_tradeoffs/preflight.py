"""What can be checked on disk before any job starts."""

import os
from pathlib import Path

from peft_tradeoffs.config import Experiment
from peft_tradeoffs.errors import InputError


def check_paths(experiment: Experiment) -> None:
    """Raise InputError for a missing file or folder, or an output folder that cannot be written."""
    for name, dataset in experiment.datasets.items():
        if dataset["source"] == "files":
            for split, path in dataset["splits"].items():
                if not Path(path).is_file():
                    raise InputError(
                        f"config key datasets.{name}.splits.{split}: no such file: {path} "
                        f"(relative paths start at {Path.cwd()})"
                    )
    for name, model in experiment.models.items():
        if model["source"] == "folder" and not Path(model["path"]).is_dir():
            raise InputError(
                f"config key models.{name}.path: no such folder: {model['path']} (a model on the hub has source: hub)"
            )
    output = Path(experiment.output)
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"config key output: {existing} is a file; name a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"config key output: {existing} cannot be written; name a folder that can be")

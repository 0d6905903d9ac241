"""What can be checked on disk before any job starts."""

import json
import os
from pathlib import Path

from peft_tradeoffs.config import Experiment
from peft_tradeoffs.errors import InputError
from peft_tradeoffs.targets import check_targets


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


def check_arms(experiment: Experiment) -> None:
    """Raise InputError for target modules that a model already fetched does not have.

    A model not yet fetched is checked by the arm's own job, before it trains.
    """
    for name, model in experiment.models.items():
        path = Path(experiment.output, "models", f"{name}.json")
        if not path.exists():
            continue
        manifest = json.loads(path.read_text(encoding="utf-8"))
        origin = model.get("path", model.get("requirement"))
        if (manifest["source"], manifest["path"], manifest["revision"]) != (
            model["source"],
            origin,
            model.get("revision"),
        ):
            continue  # of an earlier configuration
        for arm in experiment.arms.values():
            try:
                peft = arm.settings["peft"] or {}
                check_targets(peft.get("target_modules"), manifest["modules"], manifest["linear"])
            except InputError as error:
                raise InputError(f"config key methods.{arm.method}.peft.{error} (model {name})") from None

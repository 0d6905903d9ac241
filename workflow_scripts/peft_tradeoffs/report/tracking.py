"""What a tracker gets of a finished run, from its recorded files, and the trackers there are. Cheap to import."""

import csv
import importlib.util
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peft_tradeoffs.analysis.finished import read_env, verified
from peft_tradeoffs.core.code import digest

NONE = "none"
# Packages by the names of accelerate's trackers; one of them must be installed.
PACKAGES = {
    "aim": ("aim",),
    "clearml": ("clearml",),
    "comet_ml": ("comet_ml",),
    "dvclive": ("dvclive",),
    "mlflow": ("mlflow",),
    "swanlab": ("swanlab",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
OF_TRAINING = ("epoch", "train_loss", "learning_rate", "train_s")  # columns of metrics.csv that no split has its own of
Scalar = bool | int | float | str | None


@dataclass(frozen=True)
class TrackedRun:
    """A finished run as every tracker gets it."""

    name: str  # dataset/model/arm/seed0
    group: str  # dataset/model/arm
    hyperparameters: dict[str, Scalar]
    points: list[tuple[int, dict[str, float]]]  # optimizer step and the values there, in the order of steps

    @property
    def id(self) -> str:
        """The same for the same content alone; of a run that was trained again the first half stays (`key`)."""
        return self.key + digest(asdict(self))[:8]

    @property
    def key(self) -> str:
        """The same for the same run, whatever was recorded of it."""
        return digest(self.name)[:8]


def not_installed(tracker: str) -> str | None:
    """What to say where the tracker's package is missing; None where it is there or none is needed."""
    packages = PACKAGES.get(tracker, ())
    if not packages or any(importlib.util.find_spec(package) for package in packages):
        return None
    return f"{tracker} is not installed here (pip install {packages[0].replace('_', '-')})"


def project_name(output: str) -> str:
    """The project of an experiment, after the folder that it writes to."""
    return re.sub(r"[^\w.-]+", "-", Path(output).resolve().name) or "peft-tradeoffs"


def offline(tracker: str, folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that keep a tracker to `folder` and off the network, but for those that `environment` sets itself."""
    common = {"DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    own = _own(tracker, folder)
    if not {"TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"} & set(environment):
        common["HF_HUB_OFFLINE"] = "1"  # trackio asks the hub for the user's name
    return {name: value for name, value in (common | own).items() if name not in environment}


def is_local(tracker: str, folder: Path, environment: Mapping[str, str]) -> bool:
    """Whether the tracker writes to `folder` alone, where all that it has of an experiment is ours."""
    return all(environment.get(name) == value for name, value in _own(tracker, folder).items())


def _own(tracker: str, folder: Path) -> dict[str, str]:
    """The variables of one tracker that keep it to `folder`."""
    place = str(folder.absolute())
    return {
        "clearml": {"CLEARML_OFFLINE_MODE": "1", "CLEARML_CACHE_DIR": place},
        "comet_ml": {
            "COMET_START_ONLINE": "0",
            "COMET_OFFLINE_DIRECTORY": place,
            "COMET_ERROR_TRACKING_ENABLE": "false",
            "COMET_INTERNAL_REPORTING": "false",
        },
        "dvclive": {"DVC_NO_ANALYTICS": "1", "DVC_STUDIO_OFFLINE": "1"},
        "mlflow": {"MLFLOW_TRACKING_URI": f"sqlite:///{place}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"},
        "swanlab": {"SWANLAB_MODE": "offline", "SWANLAB_LOG_DIR": place, "SWANLAB_SAVE_DIR": place},
        "trackio": {"TRACKIO_DIR": place},
        "wandb": {
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(folder.absolute().parent),  # to which it adds wandb/
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_DISABLE_CODE": "true",
            "WANDB_DISABLE_GIT": "true",
        },
    }.get(tracker, {})


def read_run(folder: Path) -> TrackedRun:
    """What the files of the finished run in `folder` say. Raises InputError if they are not as it published them."""
    summary = verified(folder, "metrics.csv")
    environment = read_env(folder, summary)
    group = "/".join(summary[key] for key in ("dataset", "model", "arm"))
    numbers = {key: value for key, value in summary.items() if type(value) in (int, float)}
    settings = _flat(environment["settings"])
    said = {key: value for key, value in summary.items() if isinstance(value, bool | str)}
    said = {key: value for key, value in said.items() if settings.get(key) != value}  # that they do not say already
    points = read_points(folder / "metrics.csv")
    last = max(points, default=summary.get("steps") or 0)
    points.setdefault(last, {}).update({f"summary/{key}": value for key, value in numbers.items()})
    return TrackedRun(
        name=f"{group}/seed{summary['seed']}",
        group=group,
        hyperparameters={
            **settings,
            "seed": summary["seed"],
            "status": said.pop("status"),
            **{f"summary/{key}": value for key, value in said.items()},
        },
        points=sorted(points.items()),
    )


def read_points(metrics: Path) -> dict[int, dict[str, float]]:
    """The values of metrics.csv by optimizer step: what a split has of its own by split/column. A gap stays one."""
    points: dict[int, dict[str, float]] = {}
    with metrics.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            step, split = int(row.pop("step")), row.pop("split")
            values = points.setdefault(step, {})
            for column, text in row.items():
                if text != "":
                    values[column if column in OF_TRAINING else f"{split}/{column}"] = float(text)
    return points


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Nested settings by dotted keys; lists as JSON, which every tracker takes."""
    flat: dict[str, Scalar] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value) if isinstance(value, list) else value
    return flat

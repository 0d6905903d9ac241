"""Finished runs given to accelerate's trackers. For a process of its own: a tracker may hang, raise or print."""

import contextlib
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from peft_tradeoffs.tracking import TrackedRun

LOST = re.compile("could not|failed|skipped|degraded", re.IGNORECASE)


def send(tracker: str, project: str, folder: Path, run: TrackedRun) -> None:
    """Give the tracker a run, in place of what this disk has of it; raises whatever the tracker raises."""
    PartialState(cpu=True)  # else it takes a GPU
    _forget(tracker, project, folder, run)
    with _refused(tracker):
        writer = _writer(tracker, project, folder, run)
        writer.start()
        writer.store_init_configuration(run.hyperparameters)
        for step, values in run.points:
            writer.log(values, step=step)
        writer.finish()


def _writer(tracker: str, project: str, folder: Path, run: TrackedRun) -> GeneralTracker:
    """The tracker, told project and run by its own words; nothing of the machine that sends, which did not train."""
    make = LOGGER_TYPE_TO_CLASS[tracker]
    options: dict[str, Any] = {}
    match tracker:
        case "tensorboard":
            return make(run.name, folder)
        case "aim":
            return make(run.name, folder, experiment=project, system_tracking_interval=None, log_system_params=False)
        case "wandb":
            import wandb

            quiet = wandb.Settings(
                console="off", x_disable_stats=True, x_disable_meta=True, x_save_requirements=False, silent=True
            )
            resume = {} if os.environ.get("WANDB_MODE") == "offline" else {"resume": "allow"}  # it drops steps it has
            options = {"name": run.name, "group": run.group, "id": run.id, "settings": quiet, **resume}
        case "trackio":
            options = {"name": run.name, "group": run.group, "embed": False}
            options |= {"auto_log_gpu": False, "auto_log_cpu": False}
        case "mlflow":
            options = {"run_name": run.name}
        case "swanlab":
            options = {"experiment_name": run.name, "logdir": str(folder)}
        case "dvclive":
            options = {"dir": str(folder / run.name), "save_dvc_exp": False, "dvcyaml": None, "report": None}
        case "comet_ml":
            import comet_ml

            options["experiment_config"] = comet_ml.ExperimentConfig(
                name=run.name, log_code=False, log_git_metadata=False, log_git_patch=False, log_env_details=False
            )
        case "clearml":
            options = {"task_name": run.name, "reuse_last_task_id": False, "auto_resource_monitoring": False}
            options |= {"auto_connect_arg_parser": False, "auto_connect_frameworks": False}
    return make(project, **options)


def _forget(tracker: str, project: str, folder: Path, run: TrackedRun) -> None:
    """Remove what this disk has of the run, whole or in part, so that no point stands twice."""
    folder.mkdir(parents=True, exist_ok=True)
    if tracker == "tensorboard":
        shutil.rmtree(folder / run.name, ignore_errors=True)
    elif tracker == "wandb":
        for left in Path(os.environ["WANDB_DIR"], "wandb").glob(f"offline-run-*-{run.id}"):
            shutil.rmtree(left)
    elif tracker == "trackio":
        import trackio

        with contextlib.suppress(ValueError):  # no such project yet
            for left in trackio.Api().runs(project):
                if left.name == run.name:
                    left.delete()


@contextlib.contextmanager
def _refused(tracker: str) -> Iterator[None]:
    """Raise ConnectionError where trackio, which never raises, warns that it could not write or send."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said = [str(warning.message) for warning in caught if Path(warning.filename).parent.name == tracker == "trackio"]
    if lost := [text for text in said if LOST.search(text)]:
        raise ConnectionError(lost[0])

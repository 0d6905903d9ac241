"""Finished runs given to accelerate's trackers. For a process of its own: a tracker may hang, raise or print."""

import contextlib
import importlib
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from peft_tradeoffs.core import files
from peft_tradeoffs.report.tracking import TrackedRun, is_local

BY_FILES = ("clearml", "comet_ml", "swanlab")  # offline a folder or an archive of its own for each run
ID_TAG = "peft_tradeoffs.id"
LOST = re.compile("could not|failed|skipped|degraded", re.IGNORECASE)


def send(tracker: str, project: str, folder: Path, run: TrackedRun, earlier: list[str]) -> str | None:
    """Give the tracker a run, in place of what it has of it; raises whatever the tracker raises.

    `earlier`: the ids of the run as it was trained before, where that was sent. Gives what a person must do, if
    anything.
    """
    PartialState(cpu=True)  # else it takes a GPU
    local = is_local(tracker, folder, os.environ)
    _forget(tracker, project, folder, run, earlier, local)
    before = _entries(folder)
    with _refused(tracker):
        writer = _writer(tracker, project, folder, run)
        writer.start()
        if tracker == "tensorboard":
            _store_hyperparameters(writer, folder, run)
        else:
            writer.store_init_configuration(run.hyperparameters)
        for step, values in run.points:
            writer.log(values, step=step)
        writer.finish()
    if tracker in BY_FILES:
        left = sorted(_entries(folder) - before)
        files.write_json(_left_by(folder, run), {"run": run.name, "left": left})
        if earlier and not local:
            return f"{tracker} keeps what it had of this run before it was trained again: remove it there"
    return None


def _store_hyperparameters(writer: GeneralTracker, folder: Path, run: TrackedRun) -> None:
    """Hyperparameters beside the metrics of TensorBoard's HPARAMS page, in the run's own events.

    accelerate stores them as a run of its own, without a metric, which doubles TensorBoard's list.
    """
    events = writer.tracker
    summary = importlib.import_module(f"{type(events).__module__.rpartition('.')[0]}.summary")
    metrics = {key: value for _, values in run.points for key, value in values.items() if key.startswith("summary/")}
    known = {key: value for key, value in run.hyperparameters.items() if value is not None}
    for part in summary.hparams(known, metrics):
        events.file_writer.add_summary(part)
    (folder / run.name / "hparams.yml").write_text(yaml.safe_dump(run.hyperparameters), encoding="utf-8")


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
            options = {"run_name": run.name, "tags": {ID_TAG: run.id}}
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


def _forget(tracker: str, project: str, folder: Path, run: TrackedRun, earlier: list[str], local: bool) -> None:
    """Remove what the tracker has of the run, whole or in part, so that neither it nor a point stands twice.

    By the run's name where all that the tracker has is ours (`local`), else by the ids that we gave it: others may call
    a run of theirs so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    match tracker:
        case "tensorboard" | "dvclive":
            shutil.rmtree(folder / run.name, ignore_errors=True)
        case "wandb":
            _forget_wandb(project, run, earlier, local)
        case "mlflow":
            _forget_mlflow(project, run, earlier, local)
        case "trackio":
            import trackio

            with contextlib.suppress(ValueError):  # no such project yet
                for left in trackio.Api().runs(project):
                    if left.name == run.name:
                        left.delete()
        case "aim" if (folder / ".aim").is_dir():
            import aim

            repository = aim.Repo(str(folder))
            repository.delete_runs([left.hash for left in repository.iter_runs() if left.name == run.name])
        case _ if _left_by(folder, run).is_file():
            for name in files.read_json(_left_by(folder, run))["left"]:
                path = folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _forget_wandb(project: str, run: TrackedRun, earlier: list[str], local: bool) -> None:
    ids = [f"{run.key}????????"] if local else [run.id]
    for name in [*ids, *earlier]:
        for left in Path(os.environ["WANDB_DIR"], "wandb").glob(f"offline-run-*-{name}"):
            shutil.rmtree(left)
    if earlier and os.environ.get("WANDB_MODE", "online") not in ("offline", "disabled"):
        import wandb

        for name in earlier:
            try:
                wandb.Api().run(f"{project}/{name}").delete()
            except (ValueError, wandb.errors.CommError) as error:
                if "not find" not in str(error):
                    raise


def _forget_mlflow(project: str, run: TrackedRun, earlier: list[str], local: bool) -> None:
    import mlflow

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name(os.environ.get("MLFLOW_EXPERIMENT_NAME", project))
    if experiment is None:
        return
    wanted = [f"tags.`{ID_TAG}` = '{name}'" for name in (run.id, *earlier)]
    for text in [f"attributes.run_name = '{run.name}'"] if local else wanted:
        for left in client.search_runs([experiment.experiment_id], text):
            client.delete_run(left.info.run_id)


def _left_by(folder: Path, run: TrackedRun) -> Path:
    """Holds what the sending of a run left in the folder."""
    return folder / ".sent" / f"{run.key}.json"


def _entries(folder: Path) -> set[str]:
    """Files and folders at most two levels below the folder; none of ours."""
    found = [*folder.glob("*"), *folder.glob("*/*")]
    names = {str(path.relative_to(folder)) for path in found}
    return {name for name in names if not name.startswith(".sent")}


@contextlib.contextmanager
def _refused(tracker: str) -> Iterator[None]:
    """Raise ConnectionError where trackio, which never raises, warns that it could not write or send."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said = [str(warning.message) for warning in caught if Path(warning.filename).parent.name == tracker == "trackio"]
    if lost := [text for text in said if LOST.search(text)]:
        raise ConnectionError(lost[0])

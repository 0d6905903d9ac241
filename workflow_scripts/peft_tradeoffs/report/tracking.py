"""Runs in trackers: what one gets of a finished run, and of one that trains; what each is told, within a time limit.

A tracker may hang, raise or print, so `send` is for a process of its own, send_runs.py, which alone loads torch, and
`Follower` for another, follow_runs.py.
"""

import contextlib
import csv
import fcntl
import importlib
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from peft_tradeoffs.analysis.finished import read_env, verified
from peft_tradeoffs.core import files
from peft_tradeoffs.core.code import digest
from peft_tradeoffs.core.errors import InputError, redacted
from peft_tradeoffs.core.layout import SCRIPTS
from peft_tradeoffs.runs import status
from peft_tradeoffs.runs.status import POINTS, now

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
# Columns that no split has its own of; the last is of points between two evaluations.
OF_TRAINING = ("epoch", "train_loss", "learning_rate", "train_s", "recent_train_loss")
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

    @classmethod
    def unfinished(cls, name: str) -> "TrackedRun":
        """A run as it is followed while it trains: its id is the same before its first point and after its last."""
        return cls(name, name.rpartition("/")[0], {}, [])


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
    """The values of metrics.csv by optimizer step."""
    with metrics.open(encoding="utf-8", newline="") as file:
        return by_step(csv.DictReader(file))


def by_step(rows: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
    """The values of rows by optimizer step: what a split has of its own by split/column. A gap stays one."""
    points: dict[int, dict[str, float]] = {}
    for row in rows:
        values = points.setdefault(int(row["step"]), {})
        for column, value in row.items():
            if column not in ("step", "split") and value not in ("", None):
                values[column if column in OF_TRAINING else f"{row['split']}/{column}"] = float(value)
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


WAITS = "not tried yet"
SENDER = SCRIPTS / "send_runs.py"
START_S = 300.0  # for Python to import accelerate and torch, from a slow disk too
GRACE_S = 5.0  # to end by itself, and to be gone after SIGKILL, which one that waits for a dead disk is not


def failed_attempts(record: Path) -> int:
    """How often a run could not be sent, as its record says; 0 without one that can be read."""
    return _read(record).get("failed_attempts", 0)


@dataclass(frozen=True)
class Account:
    """Where runs are sent to."""

    tracker: str  # of PACKAGES
    project: str
    folder: Path  # of what the tracker keeps here


def track(
    account: Account, records: dict[Path, Path], all_records: Path, call: str, limit_s: float
) -> dict[Path, dict[str, Any]]:
    """Send the finished runs that the tracker does not have; `records`: the file of what is known, by a run's folder.

    A tracker that gives no sign for `limit_s` is ended, and not tried again by the same `call` of Snakemake, which
    the records below `all_records` tell. Whatever it does, nothing is raised: a run that was not sent has the reason
    in its record.
    """
    found = {run: _known(run, _read(record)) for run, record in records.items()}
    waiting = [run for run in records if found[run]["reason"] == WAITS]
    why = waiting and (not_installed(account.tracker) or _silent_before(all_records, account.tracker, call))
    earlier = {run: found[run].get("earlier", []) for run in waiting}
    none = ((run, why, False, None) for run in waiting)
    with turn(account, limit_s, fcntl.LOCK_SH):
        for run, reason, silent, remark in none if why else _send(account, earlier, limit_s):
            found[run] |= {"status": "not sent" if reason else "sent", "reason": reason, "at": now(), "remark": remark}
            found[run] |= {} if reason else {"earlier": []}
            found[run] |= {"tracker": account.tracker, "project": account.project, "call": call, "silent": silent}
            found[run]["failed_attempts"] += bool(reason)
            files.write_json(records[run], found[run])
        for run, record in records.items():  # also those kept: Snakemake wants them newer than the summaries
            files.write_json(record, found[run])
    return found


@contextlib.contextmanager
def turn(account: Account, wait_s: float, kind: int) -> Iterator[bool]:
    """Whether those that send finished runs (LOCK_SH) and who follows the others (LOCK_EX) do it one at a time.

    After `wait_s`, or on a file system that knows no locks, it is False.
    """
    account.folder.parent.mkdir(parents=True, exist_ok=True)
    deadline, mine = time.monotonic() + wait_s, False
    with account.folder.with_name(f".{account.tracker}.lock").open("w") as file:
        while not mine:
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
                mine = True
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.1)
            except OSError:
                break
        yield mine


def _known(run: Path, earlier: dict[str, Any]) -> dict[str, Any]:
    """The record of a run before anything is sent; `earlier`, what it was."""
    failed = earlier.get("failed_attempts", 0)
    known = {"status": "not sent", "reason": WAITS, "id": None, "at": now(), "failed_attempts": failed}
    # What the tracker may have of the run as it was trained before; an attempt that failed may have sent a part.
    ids = dict.fromkeys([*earlier.get("earlier", []), earlier.get("id")])
    try:
        known["id"] = read_run(run).id
    except InputError as error:
        reason = f"its files cannot be read: {error}"
        return known | {"reason": reason, "failed_attempts": failed + 1, "earlier": list(filter(None, ids))}
    if (earlier.get("status"), earlier.get("id")) == ("sent", known["id"]):
        return earlier
    return known | {"earlier": [one for one in ids if one and one != known["id"]]}


def _send(
    account: Account, earlier: dict[Path, list[str]], limit_s: float
) -> Iterator[tuple[Path, str | None, bool, str | None]]:
    """For each run why it was not sent, None if it was; whether the tracker was silent; and what is to be said of it.

    `earlier`: the ids under which the tracker may have each run as it was before.

    After a run that made the tracker raise, the next one is tried in a new process.
    """
    runs = list(earlier)
    while runs:
        error = "the process that sent it ended without giving a reason"
        with contextlib.closing(_sent(account, runs, earlier, limit_s)) as words:
            for said in words:
                if "sent" in said:
                    yield runs[0], None, False, said["remark"]
                    runs = runs[1:]
                elif said.get("silent"):
                    yield from ((run, said["error"], True, None) for run in runs)
                    return
                elif "error" in said:
                    error = redacted(said["error"])
        if runs:
            yield runs[0], error, False, None
            runs = runs[1:]


def _sent(
    account: Account, runs: list[Path], earlier: dict[Path, list[str]], limit_s: float
) -> Generator[dict[str, Any], None, None]:
    """What a process that sends the runs says of each; it is ended, with all it started, when it says nothing."""
    words: list[str | Path] = ["--tracker", account.tracker, "--project", account.project, "--folder", account.folder]
    words += ["--runs", *runs, "--earlier", *(",".join(earlier[run]) or "-" for run in runs)]
    process = subprocess.Popen(
        [sys.executable, SENDER, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # a tracker may print what it logs in with
        bufsize=0,
        start_new_session=True,
    )
    assert process.stdout is not None
    wait_s = START_S
    try:
        while True:
            if not select.select([process.stdout], [], [], wait_s)[0]:
                yield {"error": f"no answer within {wait_s:g} s", "silent": True}
                return
            wait_s = limit_s
            line = process.stdout.readline()
            if not line:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_S)
                return
            yield json.loads(line)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)


def _silent_before(all_records: Path, tracker: str, call: str) -> str | None:
    """Why there is no use in trying, if this call of Snakemake found the tracker silent over another run."""
    for other in sorted(all_records.rglob("*.json")):
        known = _read(other)
        if call and known.get("silent") and known.get("call") == call:
            return f"{tracker} gave no answer for {other.relative_to(all_records).with_suffix('')}"
    return None


def _read(record: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, InputError):
        return files.read_object(record, {"failed_attempts": (int,)}, "a record", "")
    return {}


BY_FILES = ("clearml", "comet_ml", "swanlab")  # offline a folder or an archive of its own for each run
ID_TAG = "peft_tradeoffs.id"
LOST = re.compile("could not|failed|skipped|degraded", re.IGNORECASE)


def send(tracker: str, project: str, folder: Path, run: TrackedRun, earlier: list[str]) -> str | None:
    """Give the tracker a run, in place of what it has of it; raises whatever the tracker raises.

    `earlier`: the ids of the run as it was trained before, where that was sent. Gives what a person must do, if
    anything.
    """
    from accelerate import PartialState  # loads torch: only in a process of its own

    PartialState(cpu=True)  # else it takes a GPU
    local = is_local(tracker, folder, os.environ)
    followed = [TrackedRun.unfinished(run.name).id] if tracker in LIVE else []
    _forget(tracker, project, folder, run, [*earlier, *followed], local)
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


def _store_hyperparameters(writer: Any, folder: Path, run: TrackedRun) -> None:
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


def _writer(tracker: str, project: str, folder: Path, run: TrackedRun) -> Any:
    """The tracker, told project and run by its own words; nothing of the machine that sends, which did not train."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    make = LOGGER_TYPE_TO_CLASS[tracker]
    options: dict[str, Any] = {}
    match tracker:
        case "tensorboard":
            return make(run.name, folder, purge_step=0)  # a page that is open drops what it has of the run
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


# While a run trains ---------------------------------------------------------------------------------------------------

LIVE = ("dvclive", "mlflow", "tensorboard", "trackio")  # they show a run before it has ended
FOLLOWER = SCRIPTS / "follow_runs.py"


def is_live(tracker: str, environment: Mapping[str, str]) -> bool:
    """Whether a tracker gets the points of runs while they train. Those of a trackio that is elsewhere come late."""
    return tracker in LIVE and not (
        tracker == "trackio" and {"TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"} & {*environment}
    )


def start_following(account: Account, output: Path, log: Path) -> "subprocess.Popen[bytes]":
    """Start a process that follows the runs below `output` until this one has ended."""
    log.parent.mkdir(parents=True, exist_ok=True)
    words: list[str | Path] = ["--tracker", account.tracker, "--project", account.project, "--folder", account.folder]
    words += ["--output", output, "--parent", str(os.getpid())]
    with log.open("w") as said:
        return subprocess.Popen(
            [sys.executable, FOLLOWER, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )


def end_following(process: "subprocess.Popen[bytes]") -> None:
    """Let the process look once more, and end it."""
    process.terminate()
    try:
        process.wait(2 * GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()


@dataclass
class _Followed:
    """What a tracker has of a run that trains."""

    attempt: dict[str, Any]  # as points.jsonl begins
    writer: "_Writer"
    sent: set[tuple[int, str]]  # steps and names of values


class Follower:
    """Gives a tracker the points of runs that are new since it was made; `changed` and `send` in turn."""

    def __init__(self, account: Account, output: Path) -> None:
        self._account, self._output = account, output
        self._records = output / "tracking/sent" / account.tracker
        self._seen = self._marks()  # what an earlier call left is followed when it goes on
        self._live: dict[Path, _Followed] = {}
        self._given_up: set[Path] = set()

    def prepare(self) -> None:
        """Import the tracker, which may take longer than a run may."""
        for module in WRITERS[self._account.tracker].modules:
            importlib.import_module(module)

    def changed(self) -> list[Path]:
        """Folders of runs that have come further, or whose state is gone."""
        now = self._marks()
        before, self._seen = self._seen, now
        new = [run for run, mark in now.items() if mark != before.get(run)]
        return [run for run in (*new, *(self._live.keys() - now.keys())) if run not in self._given_up]

    def send(self, run: Path) -> None:
        """Give the tracker what it does not have of a run, unless it has the run whole by now."""
        attempt, rows = status.points_of(run / "state" / POINTS)
        known = self._live.get(run)
        record = self._records.joinpath(*run.parts[-4:]).with_suffix(".json")
        has_all = _read(record).get("status") == "sent" and (known is not None or _is_finished(run, attempt))
        if not attempt or has_all:
            self._close(run, finished=True)
            return
        if known is None or known.attempt != attempt:
            self._close(run)
            known = self._live[run] = _Followed(attempt, self._begin(run, record), set())
        with _refused(self._account.tracker):
            for step, values in sorted(by_step(rows).items()):
                new = {key: value for key, value in values.items() if (step, key) not in known.sent}
                if new:
                    known.writer.log(step, new)
                    known.sent.update((step, key) for key in new)
            known.writer.flush()

    def give_up(self, run: Path) -> None:
        """Send no more of a run."""
        self._given_up.add(run)
        self._live.pop(run, None)

    def close(self) -> None:
        """Say that what is not finished has ended."""
        for run in list(self._live):
            self._close(run)

    def _marks(self) -> dict[Path, tuple[int, int]]:
        found = {}
        for path in self._output.glob(f"runs/*/*/*/seed*/state/{POINTS}"):
            with contextlib.suppress(OSError):  # published meanwhile
                found[path.parents[1]] = (path.stat().st_size, path.stat().st_mtime_ns)
        return found

    def _begin(self, run: Path, record: Path) -> "_Writer":
        """An empty run in the tracker in place of what it has of it; the record says that it must be sent again."""
        tracker, project, folder = self._account.tracker, self._account.project, self._account.folder
        had = _read(record)
        ids = [one for one in (*had.get("earlier", []), had.get("id")) if one]
        if had.get("status") == "sent":
            again = {"status": "not sent", "reason": WAITS, "failed_attempts": had["failed_attempts"] + 1}
            files.write_json(record, had | again | {"earlier": ids})
        tracked = TrackedRun.unfinished("/".join(run.parts[-4:]))
        _forget(tracker, project, folder, tracked, ids, is_local(tracker, folder, os.environ))
        return WRITERS[tracker](self._account, tracked)

    def _close(self, run: Path, finished: bool = False) -> None:
        if known := self._live.pop(run, None):
            known.writer.close(finished)


def _is_finished(run: Path, attempt: dict[str, Any]) -> bool:
    """Whether the run's results are those of its state."""
    summary = status.read(run / "summary.json", {"fingerprint": (str,)})
    return summary is not None and summary["fingerprint"] == attempt.get("fingerprint")


class _Writer:
    """A run in a tracker while it trains. Several may be open in a process, which loads no torch."""

    modules: tuple[str, ...]

    def __init__(self, account: Account, run: TrackedRun) -> None: ...
    def log(self, step: int, values: dict[str, float]) -> None: ...
    def flush(self) -> None: ...
    def close(self, finished: bool) -> None: ...


class _TensorBoard(_Writer):
    modules = ("tensorboard.compat.proto.event_pb2", "tensorboard.summary.writer.event_file_writer")

    def __init__(self, account: Account, run: TrackedRun) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._proto, self._events = event_pb2, EventFileWriter(str(account.folder / run.name))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._events.add_event(event_pb2.Event(wall_time=time.time(), step=0, session_log=start))  # as purge_step=0

    def log(self, step: int, values: dict[str, float]) -> None:
        found = [{"tag": key, "simple_value": value} for key, value in values.items()]
        self._events.add_event(self._proto.Event(wall_time=time.time(), step=step, summary={"value": found}))

    def flush(self) -> None:
        self._events.flush()

    def close(self, finished: bool) -> None:
        self._events.close()


class _Mlflow(_Writer):
    modules = ("mlflow",)

    def __init__(self, account: Account, run: TrackedRun) -> None:
        import mlflow

        self._client, self._metric = mlflow.MlflowClient(), mlflow.entities.Metric
        self._new: list[Any] = []
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", account.project)
        experiment = self._client.get_experiment_by_name(name)
        place = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self._run = self._client.create_run(place, run_name=run.name, tags={ID_TAG: run.id}).info.run_id

    def log(self, step: int, values: dict[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        self._new += [self._metric(key, value, now_ms, step) for key, value in values.items()]

    def flush(self) -> None:
        while self._new:
            self._client.log_batch(self._run, self._new[:1000])  # it takes no more at once
            self._new = self._new[1000:]

    def close(self, finished: bool) -> None:
        if self._client.get_run(self._run).info.lifecycle_stage == "active":  # not replaced yet
            self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


class _Trackio(_Writer):
    modules = ("trackio",)

    def __init__(self, account: Account, run: TrackedRun) -> None:
        self._options: dict[str, Any] = {"project": account.project, "name": run.name, "group": run.group}
        self._options |= {"resume": "allow", "embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        self._run: Any = None

    def log(self, step: int, values: dict[str, float]) -> None:
        import trackio

        self._run = self._run or trackio.init(**self._options)
        self._run.log(values, step=step)

    def flush(self) -> None:
        if self._run is not None:
            self._run.finish()  # else a thread writes later
        self._run = None


class _DvcLive(_Writer):
    modules = ("dvclive",)

    def __init__(self, account: Account, run: TrackedRun) -> None:
        from dvclive import Live

        self._live = Live(dir=str(account.folder / run.name), save_dvc_exp=False, dvcyaml=None, report=None)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._live.step = step
        for key, value in values.items():
            self._live.log_metric(key, value)

    def flush(self) -> None:
        self._live.make_summary()


WRITERS: dict[str, type[_Writer]] = dict(zip(LIVE, (_DvcLive, _Mlflow, _TensorBoard, _Trackio), strict=True))

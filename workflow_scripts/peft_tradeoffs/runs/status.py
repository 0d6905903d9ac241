"""How far runs are: attempts and status, kept beside the state of each, and what a person sees of runs."""

import contextlib
import datetime
import itertools
import json
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_tradeoffs.core import files, slurm
from peft_tradeoffs.core.errors import InputError, LockLost
from peft_tradeoffs.core.quantities import Span
from peft_tradeoffs.core.slurm import Job
from peft_tradeoffs.runs.interruption import Interrupted
from peft_tradeoffs.runs.plan import Standing, of_all, read_found, trial_folder, trial_name
from peft_tradeoffs.tasks.metrics import METRICS
from peft_tradeoffs.tasks.shown import said

# What a run writes down while it is under way -------------------------------------------------------------------------

NO_WORD = "ended without giving a reason"


class Attempts:
    """`attempts.json` and `status.json` in a run's state directory. Attempts of another fingerprint are forgotten.

    An attempt: started_at and ended_at (for readers: the machine's clock when it began, and elapsed_s later), elapsed_s
    (of the monotonic clock, which nobody sets; None: it left no sign), host, slurm, queued_s (of its SLURM job),
    gpu_uuid, gpu_name, waited_s (for the GPU), first_step (from 1; where it began), last_step (None: it did none),
    stood_still_s (suspended, after its first step) and reason, why it ended. One that left no reason gets it from the
    next: NO_WORD, with what its last sign of life said. Both files end in the SHA-256 of what they say; one that says
    something else is damaged. Whenever status.json is written, so are the points of the run that are new (`Points`).
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        confirm: Callable[[], None] = lambda: None,
        queued: slurm.Queued | None = None,
    ) -> None:
        """`confirm` is called before attempts.json is written; it raises LockLost if the run is another's by then.

        `queued` is that of the process, which all of its runs share.
        """
        self._path, self._status = folder / "attempts.json", folder / "status.json"
        self._fingerprint, self._confirm = fingerprint, confirm
        self._queued = queued or slurm.Queued()
        self.damaged = False  # attempts.json, when this process began
        self._began_s = 0.0  # time.monotonic() then
        self._all: list[dict[str, Any]] = []
        self._writing = threading.Lock()  # status.json: the heartbeat's thread writes it too
        self._step: int | None = None
        self._total: int | None = None
        self._waits_since: float | None = None  # s
        self._first: tuple[float, int] | None = None  # s and step when the first step of this attempt was done
        self._points = Points(folder / POINTS)

    def begin(self) -> None:
        """A new attempt starts, if this process has not started one already."""
        if self._all:
            return
        self._began_s = time.monotonic()
        earlier = self._read()
        if earlier and earlier[-1]["reason"] is None:
            earlier[-1] |= {"reason": NO_WORD, **self._last_sign(earlier[-1])}
        where = {"host": socket.gethostname(), "slurm": slurm.job(), "queued_s": self._queued.seconds()}
        where |= {"gpu_uuid": None, "gpu_name": None, "waited_s": 0.0}
        steps = {"first_step": None, "last_step": None, "stood_still_s": 0.0}
        when = {"started_at": now(), "ended_at": None, "elapsed_s": None}
        self._all = [*earlier, {**when, **where, **steps, "reason": None}]
        self._write()
        self.write_status()

    def beat(self, stood_still_s: float) -> None:
        """Write status.json as of now if the attempt is under way; count the seconds if it was at its steps."""
        with self._writing:
            if self._running():
                if self._first is not None:  # before that, an import from a slow disk looks the same
                    self._all[-1]["stood_still_s"] += stood_still_s
                self._write_status()

    @contextlib.contextmanager
    def under_way(self) -> Iterator[None]:
        """Begin an attempt, or go on with it, and note what ends it early; nothing if the run is another's by then."""
        try:
            self.begin()
            yield
        except LockLost:
            raise
        except Interrupted as end:
            self.end(f"signal {end.signal_name}")
            raise Interrupted(end.signal_name, f"{end.where} of {self._path.parents[1]}") from None
        except BaseException:
            self.end("error")
            raise

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The process waits for a GPU; the time is this attempt's waited_s, also if it ends meanwhile."""
        self._waits_since = time.monotonic()
        try:
            yield
        finally:
            waited_s, self._waits_since = self._waited_s(), None
            self._all[-1]["waited_s"] = waited_s

    def on(self, gpu_uuid: str | None, gpu_name: str | None) -> None:
        """The GPU that this attempt has."""
        self._all[-1] |= {"gpu_uuid": gpu_uuid, "gpu_name": gpu_name}
        self._write()

    def start_at(self, done: int) -> None:
        """Training begins, `done` steps having been done by earlier attempts."""
        self._all[-1]["first_step"] = done + 1
        self._write()
        with self._writing:
            self._points.begin({"fingerprint": self._fingerprint, "started_at": self._all[-1]["started_at"]}, done)

    def point(self, row: dict[str, Any]) -> None:
        """What is known of the training at a step; nothing is written yet."""
        self._points.add(row)

    def reached(self, step: int, total: int) -> None:
        """`step` of `total` is done; nothing is written yet."""
        if self._first is None:
            self._first = (time.monotonic(), step)
        self._step, self._total = step, total

    def end(self, reason: str) -> list[dict[str, Any]]:
        """This attempt ends; all attempts at the run."""
        if self._all and self._all[-1]["reason"] is None:
            self._all[-1] |= {
                **self._ended(self._all[-1], self._elapsed_s()),
                "last_step": self._step,
                "reason": reason,
            }
            self._write()
            self.write_status()
        return self._all

    def write_status(self) -> None:
        """Write status.json as of now, if this process has begun an attempt."""
        with self._writing:
            if self._all:
                self._write_status()

    def status(self) -> dict[str, Any]:
        """How far this attempt is."""
        running, job = self._running(), slurm.job()
        first = self._all[-1]["first_step"] if self._all else None
        return {
            "status": "running" if running else "ended",
            "step": self._step or (None if first is None else first - 1),
            "total": self._total,
            "eta_s": self._eta_s() if running else None,
            "waited_s": self._waited_s() if self._all else 0.0,
            "stood_still_s": self._all[-1]["stood_still_s"] if self._all else 0.0,
            "started_at": self._all[-1]["started_at"] if self._all else None,
            "elapsed_s": self._elapsed_s() if self._all else 0.0,
            "updated_at": now(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "slurm_job_id": job["job_id"] if job else None,
        }

    def _running(self) -> bool:
        return bool(self._all) and self._all[-1]["reason"] is None

    def _write_status(self) -> None:
        """A reader never meets half of it; whether the disk has it at once does not matter."""
        temporary = self._status.with_name(f".{self._status.name}.tmp")
        temporary.write_text(json.dumps(files.signed(self.status()), indent=2) + "\n", encoding="utf-8")
        temporary.replace(self._status)
        self._points.write()

    def _eta_s(self) -> float | None:
        if self._first is None or self._step is None or self._total is None or self._step == self._first[1]:
            return None
        began, step = self._first
        return (time.monotonic() - began) / (self._step - step) * (self._total - self._step)

    def _waited_s(self) -> float:
        since = self._waits_since  # another thread may end the wait
        waited_s: float = self._all[-1]["waited_s"]
        return waited_s + (0.0 if since is None else time.monotonic() - since)

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    @staticmethod
    def _ended(attempt: dict[str, Any], elapsed_s: float) -> dict[str, Any]:
        began = datetime.datetime.fromisoformat(attempt["started_at"])
        ended = began + datetime.timedelta(seconds=elapsed_s)
        return {"ended_at": ended.isoformat(timespec="milliseconds"), "elapsed_s": elapsed_s}

    def _read(self) -> list[dict[str, Any]]:
        try:
            kept = files.read_signed(self._path)
        except FileNotFoundError:
            return []
        except InputError:
            if self._is_of_another_version():
                return []
            self.damaged = True
            print(
                f"{self._path}: not what an earlier attempt wrote (a disk that failed?), so this attempt counts as the "
                "first",
                file=sys.stderr,
                flush=True,
            )
            return []
        return kept["attempts"] if kept["fingerprint"] == self._fingerprint else []

    def _is_of_another_version(self) -> bool:
        """Whether attempts.json is whole, of a version that wrote no SHA-256 and so of another fingerprint."""
        with contextlib.suppress(OSError, ValueError, RecursionError, InputError):
            found = files.read_json(self._path)
            keys = {"fingerprint", "attempts"}
            return isinstance(found, dict) and found.keys() == keys and found["fingerprint"] != self._fingerprint
        return False

    def _last_sign(self, attempt: dict[str, Any]) -> dict[str, Any]:
        with contextlib.suppress(FileNotFoundError, InputError):
            status = files.read_signed(self._status)
            if status["started_at"] == attempt["started_at"]:
                did_one = (status["step"] or 0) >= (attempt["first_step"] or 1)
                return {
                    **self._ended(attempt, status["elapsed_s"]),
                    "waited_s": max(attempt["waited_s"], status["waited_s"]),
                    "stood_still_s": status["stood_still_s"],
                    "last_step": status["step"] if did_one else None,
                }
        return {}

    def _write(self) -> None:
        self._confirm()
        files.write_json(self._path, files.signed({"fingerprint": self._fingerprint, "attempts": self._all}))


POINTS = "points.jsonl"  # in a run's state directory


class Points:
    """What a run has come to while it trains, for who draws it: a line for its attempt, then one per point.

    A point is a row of metrics.csv, or, between two evaluations, epoch, step, learning_rate and recent_train_loss (the
    mean since the point before, in the unit of train_loss). Of two rows of the same step and split the later holds.
    Nothing of a run depends on the file: what cannot be written is left out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new: deque[dict[str, Any]] = deque()  # the training adds, the thread of the heartbeat writes
        self._begun = False

    def begin(self, attempt: dict[str, Any], done: int) -> None:
        """An attempt goes on after step `done`: later points of an earlier one go, and all of another fingerprint."""
        header, rows = points_of(self._path)
        if header.get("fingerprint") != attempt["fingerprint"]:
            rows = []
        kept = [attempt, *(row for row in rows if row["step"] <= done)]
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        with contextlib.suppress(OSError):
            temporary.write_text("".join(map(_line_of, kept)), encoding="utf-8")
            temporary.replace(self._path)
            self._begun = True

    def add(self, row: dict[str, Any]) -> None:
        self._new.append(row)

    def write(self) -> None:
        """Append the points that are new."""
        lines = "".join(_line_of(self._new.popleft()) for _ in range(len(self._new)))
        if lines and self._begun:
            with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:
                file.write(lines)


def points_of(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The attempt and the points of a file of `Points`, ({}, []) if there is none; a line not whole is left out."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except OSError:
        return {}, []
    found = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            found.append(json.loads(line))
    header, *rows = [each for each in found if isinstance(each, dict)] or [{}]
    return header, [row for row in rows if type(row.get("step")) is int]


def _line_of(said: dict[str, Any]) -> str:
    return json.dumps(said, default=float) + "\n"


def mixed_gpus(attempts: list[dict[str, Any]]) -> bool:
    """Whether the steps that made the result ran on GPUs of different models.

    An attempt whose steps were all done again, from an earlier state, has no part in it.
    """
    names, begin = set(), None
    for attempt in reversed(attempts):
        first = attempt["first_step"]
        if attempt["last_step"] is not None and first is not None and (begin is None or first < begin):
            names.add(attempt["gpu_name"])
            begin = first
    return len(names) > 1


def wall_s(attempts: list[dict[str, Any]]) -> float:
    """Seconds from the start to the end of each attempt (or its last sign of life), those for a GPU left out."""
    timed = [attempt for attempt in attempts if attempt["elapsed_s"] is not None]
    seconds: float = sum(max(0.0, attempt["elapsed_s"] - attempt["waited_s"]) for attempt in timed)
    return seconds


def stood_still_s(attempts: list[dict[str, Any]]) -> float:
    """Seconds for which the attempts were suspended while they trained."""
    seconds: float = sum(attempt["stood_still_s"] for attempt in attempts)
    return seconds


def queue_s(attempts: list[dict[str, Any]]) -> float | None:
    """Seconds that the attempts' SLURM jobs were queued; None if one of them was in none, or did not say."""
    waits = [attempt["queued_s"] for attempt in attempts]
    return None if None in waits else sum(waits)


def now() -> str:
    """UTC, ISO 8601, with milliseconds."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


# What a person sees of runs -------------------------------------------------------------------------------------------

INTERVAL_S = 30.0  # between two lines of a run on a terminal
STATES = ("done", "running", "queued", "interrupted", "failed", "not started")
ALIVE_S = 120.0  # a run under way writes its status every few seconds
STATUS = "state/status.json"  # of a run
PACE, FEWEST_ENDED = 9, 3  # trainings that ended last, of which the time left is told
NUMBER = (int, float, type(None))
NONE = Span(0, 0)
# What is read of a status.json and of a summary.json, with the types that it has.
LIVE: dict[str, tuple[type, ...]] = {
    **{"status": (str,), "host": (str,), "pid": (int,), "eta_s": NUMBER},
    **dict.fromkeys(("step", "total", "slurm_job_id"), (int, type(None))),
}
RESULT_KEYS: dict[str, tuple[type, ...]] = {
    **{"status": (str,), "metric": (str,), "failed_phase": (str, type(None)), "metric_value": NUMBER},
    "fingerprint": (str,),
}
RESULT = {"oom": "out of memory", "diverged": "diverged"}


@dataclass(frozen=True)
class RunStatus:
    """The state of a run, or of an arm's tuning, one of STATES, and what there is to say of it."""

    arm: str
    seed: int | None  # None: the arm's tuning
    state: str
    detail: str
    ended: int = 0  # trainings of it
    left: Span = NONE


Standings = Callable[[str, str, str], Standing]  # by data set, model and arm


def in_slurm(output: Path) -> bool:
    """Whether some process that trains, or did, was one of Slurm's."""
    folders = (path.parents[1] for name in ("runs", "tune/trials") for path in (output / name).glob(f"**/{STATUS}"))
    return any(live is not None and live["slurm_job_id"] is not None for live in map(read_live, folders))


def grid_status(
    output: Path,
    grid: dict[str, list[Any]],
    jobs: list[Job],
    unfinished: set[str] | None = None,
    standing: Standings | None = None,
) -> dict[str, list[RunStatus]]:
    """The runs of `grid` ({"dataset": [...], "model": [...], "arm": [...], "seed": [...]}) by data set and model.

    `unfinished`: ids of this user's unfinished jobs, those that are not in `jobs` too; None if Slurm did not say.
    `standing`: what is finished as it is asked for; without it whatever is finished is done.
    """
    found: dict[str, list[RunStatus]] = {}
    for dataset, model, arm in itertools.product(*(grid[key] for key in ("dataset", "model", "arm"))):
        names = (dataset, model, arm)
        folders = {seed: output / "runs" / Path(*names) / f"seed{seed}" for seed in grid["seed"]}
        live = {seed: read_live(folder) for seed, folder in folders.items()}
        job = {seed: _job_of(jobs, names, seed, live[seed]) for seed in folders}
        alive = [seed for seed in folders if is_alive(folders[seed], live[seed], job[seed], unfinished)]
        trained = {own.comment: seed for seed in alive if (own := job[seed])}  # now, by jobs of that name
        for seed, folder in folders.items():
            last, own = live[seed], job[seed]
            if last is not None and seed in alive:
                state, detail = "running", progress(last, own)
            else:
                before = trained.get(own.comment) if own else None
                place = str(folder.relative_to(output))
                as_asked = standing is None or standing(*names).run_may_stand(place)
                state, detail = _status(folder, _log(output, names, seed), last, _Now(own, before, as_asked))
            done = state == "done"
            one = RunStatus(arm, seed, state, detail, int(done), Span(not done, not done))
            found.setdefault(f"{dataset} · {model}", []).append(one)
    return found


def table(runs: dict[str, list[RunStatus]]) -> str:
    """One line per run and per tuning, aligned, under its data set and model; the last line counts them."""
    every = [run for group in runs.values() for run in group]
    arm = max((len(run.arm) for run in every), default=0)
    seed = max((len(str(run.seed)) for run in every if run.seed is not None), default=0)
    what = max((len(_what(run, seed)) for run in every), default=0)
    state = max((len(run.state) for run in every), default=0)
    lines = []
    for heading, group in runs.items():
        lines += [heading, *(_line(run, arm, f"{_what(run, seed):<{what}}", state) for run in group)]
    counts = Counter(run.state for run in every)
    counted = ", ".join(f"{counts[name]} {name}" for name in STATES if counts[name]) or "no runs"
    if any(run.seed is None for run in every):
        ended, left = sum(run.ended for run in every), sum((run.left for run in every), NONE)
        counted += f"; {of_all(ended, left)} trainings"
    return "\n".join([*lines, counted])


def _what(run: RunStatus, seed: int) -> str:
    return "tuning" if run.seed is None else f"seed {run.seed:>{seed}}"


def _line(run: RunStatus, arm: int, what: str, state: int) -> str:
    return f"  {run.arm:<{arm}}  {what}  {run.state:<{state}}  {run.detail}".rstrip()


@dataclass(frozen=True)
class _Now:
    """What is to be known of a run that no process trains."""

    job: Job | None
    before: int | None  # the seed that its job trains now
    as_asked: bool  # whether a result of it that is there is of what is asked for now


def _status(folder: Path, log: Path, live: dict[str, Any] | None, now: _Now) -> tuple[str, str]:
    """State and detail of a run that no process trains."""
    job, before, other = now.job, now.before, ""
    try:
        if summary := read_result(folder / "summary.json") or _kept(folder):
            if now.as_asked:
                return "done", _result(summary)
            other = f"what is there is of other settings, code or rate ({_result(summary)})"
    except InputError as error:
        return "failed", str(error)
    saved = f"at step {live['step']}/{live['total']}" if live and live["step"] else "resumes" if live else ""
    if job is not None and not job.waits and before is None:
        return "running", f"job {job.id} on {job.node}, not at its steps yet"
    if job is not None:
        reason = job.reason if before is None else f"after seed {before}"
        return "queued", f"job {job.id}, {reason}" + (f"; {saved}" if saved else "")
    if says_an_error(log):
        return "failed", str(log)
    if live:
        return "interrupted", f"{saved}; the next call goes on with it" if live["step"] else "the next call starts it"
    if (folder / STATUS).exists():
        return "interrupted", f"{folder / STATUS} is damaged; the next call goes on with what is saved"
    return "not started", other


def _kept(folder: Path) -> dict[str, Any] | None:
    """The summary of a finished run that Snakemake removed with its failed job; the next call puts it back."""
    if not (folder / "state").is_dir():
        return None
    summary = read_result(folder / "state/summary.json")
    last = read(folder / "state/attempts.json", {"fingerprint": (str,)})
    return summary if summary and (last is None or last["fingerprint"] == summary["fingerprint"]) else None


def progress(live: dict[str, Any], job: Job | None) -> str:
    where = f"job {job.id} on {job.node}" if job else f"process {live['pid']} on {live['host']}"
    if live["step"] is None:
        return f"not at its steps yet, {where}"
    eta = "" if live["eta_s"] is None else f", {duration(live['eta_s'])} left"
    return f"step {live['step']}/{live['total']}{eta}, {where}"


def _result(summary: dict[str, Any]) -> str:
    if summary["status"] != "completed":
        return f"{RESULT.get(summary['status'], summary['status'])} in {summary['failed_phase']}"
    if summary["metric_value"] is None:
        return f"{said(summary)} –"
    return f"{said(summary)} {summary['metric_value']:.4f}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds: 1:02:03, or 2:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def is_alive(folder: Path, live: dict[str, Any] | None, job: Job | None, unfinished: set[str] | None) -> bool:
    """Whether the process that wrote this status still works."""
    if live is None or live["status"] != "running":
        return False
    if live["slurm_job_id"] is not None:
        number = str(live["slurm_job_id"])
        if job is not None:
            return job.id == number and not job.waits
        if unfinished is not None and _is_ours(folder / STATUS):
            return number in unfinished
    elif live["host"] == socket.gethostname():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(live["pid"], 0)
            return True
        return False
    return _is_recent(folder / STATUS)


def _is_recent(path: Path) -> bool:
    """Whether the file was written a moment ago, by the clock of its file system: those of nodes may go wrong.

    A time that lies ahead is no sign of life: a file system's clock was set back, and nobody has written since.
    """
    try:
        with tempfile.TemporaryFile(dir=path.parent) as file:
            now = os.fstat(file.fileno()).st_mtime
    except OSError:  # another user's folder: this machine's clock must do
        now = time.time()
    try:
        return abs(now - path.stat().st_mtime) < ALIVE_S
    except OSError:
        return False


def _is_ours(path: Path) -> bool:
    """Whether this user wrote it: another's jobs are in no queue of ours."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_uid == os.getuid()
    return False


def _job_of(jobs: list[Job], names: tuple[str, ...], seed: int, live: dict[str, Any] | None) -> Job | None:
    """The job that trains this run: of all seeds of its arm, or of this one.

    Of several (an orphan, and one that waits for it) the one that wrote the run's status, else the last.
    """
    arm = "rule_train_wildcards_" + "_".join(names)
    own = [job for job in reversed(jobs) if job.comment in (arm, f"{arm}_{seed}")]
    writer = str(live["slurm_job_id"]) if live else ""
    return next((job for job in own if job.id == writer), own[0] if own else None)


def _log(output: Path, names: tuple[str, ...], seed: int) -> Path:
    """The log of the run's job: one per seed, or one for all of them."""
    folder = output / "logs/train" / Path(*names)
    own = folder / f"seed{seed}.log"
    return own if own.exists() else folder / "train.log"


def says_an_error(log: Path) -> bool:
    with contextlib.suppress(OSError):
        text = log.read_text(encoding="utf-8", errors="replace")
        return any(line.startswith(("error: ", "Traceback ")) or "Error: " in line for line in text.splitlines())
    return False


def read_result(path: Path) -> dict[str, Any] | None:
    """The summary of a finished run, None if there is none; InputError for one that is not as the run sealed it."""
    try:
        summary = files.read_object(path, RESULT_KEYS, "a run's summary", files.REMEDY)
    except FileNotFoundError:
        return None
    files.check_summary(summary, path)
    return summary


def read_live(folder: Path) -> dict[str, Any] | None:
    """What the process that trains a run, or did, last said of it; None if it said nothing that can be read."""
    return read(folder / STATUS, LIVE)


def read(path: Path, kinds: dict[str, tuple[type, ...]]) -> dict[str, Any] | None:
    """A signed JSON object with these keys, that may not be there, or be half written on a slow file system."""
    try:
        return files.check_object(path, files.read_signed(path), kinds, "what a run writes", "")
    except (OSError, InputError):
        return None


def tuning_status(
    output: Path,
    grid: dict[str, list[Any]],
    trials: dict[str, list[float]],
    jobs: list[Job],
    unfinished: set[str] | None = None,
    standing: Standings | None = None,
) -> dict[str, list[RunStatus]]:
    """One line per arm that is tuned, by data set and model, as `grid_status` has them for runs.

    `trials`: the learning rates to try, by arm. Without `standing` the trials of the grid alone are counted.
    """
    found: dict[str, list[RunStatus]] = {}
    for dataset, model, arm in itertools.product(grid["dataset"], grid["model"], trials):
        names, rates = (dataset, model, arm), trials[arm]
        own = None if standing is None else standing(*names)
        ended, left = own.trials() if own else _of_grid(output.joinpath("tune/trials", *names), rates)
        try:
            best = read_found(output.joinpath("tune/best", dataset, model, f"{arm}.json"))
            as_asked = best["rates"] == rates if own is None else own.tuned is not None
            state, detail = ("done", _choice(best)) if as_asked else ("", "")
        except FileNotFoundError:
            state, detail = "", ""
        except InputError as error:
            state, detail = "failed", str(error)
        if not state:
            state, detail = _tuning_status(output, names, jobs, unfinished, (ended, left))
        found.setdefault(f"{dataset} · {model}", []).append(RunStatus(arm, None, state, detail, ended, left))
    return found


def _choice(best: dict[str, Any]) -> str:
    """What tune.py wrote, in words."""
    again = f", {len(best['retries'])} trials made again" if best["retries"] else ""
    return f"learning rate {best['learning_rate']:.3g} of {len(best['trials'])} tried{again}"


def _of_grid(folder: Path, rates: list[float]) -> tuple[int, Span]:
    ended = sum((trial_folder(folder, rate) / "summary.json").exists() for rate in rates)
    return ended, Span(len(rates) - ended, len(rates) - ended)


def _tuning_status(
    output: Path, names: tuple[str, str, str], jobs: list[Job], unfinished: set[str] | None, trials: tuple[int, Span]
) -> tuple[str, str]:
    """State and detail of a tuning that has not chosen a rate; `trials`: how many have ended, and are left."""
    own = [job for job in jobs if job.comment == "rule_tune_wildcards_" + "_".join(names)]
    job = own[-1] if own else None
    counted = f"{of_all(*trials)} trials"
    folder = output.joinpath("tune/trials", *names)
    live = {one: read_live(one) for one in [*sorted(folder.glob("lr*")), *sorted(folder.glob("retry*/lr*"))]}
    for one, last in live.items():
        if last is not None and is_alive(one, last, job, unfinished):
            return "running", f"{counted}; {trial_name(one)}: {progress(last, job)}"
    if job is not None:
        return ("queued", f"job {job.id}, {job.reason}") if job.waits else ("running", f"{counted}, job {job.id}")
    log = output.joinpath("logs/tune", *names[:2], f"{names[2]}.log")
    if says_an_error(log):
        return "failed", str(log)
    begun = trials[0] or any(live.values())
    return ("interrupted", f"{counted}; the next call goes on") if begun else ("not started", "")


def time_left(output: Path, runs: dict[str, list[RunStatus]]) -> str:
    """About how long what is left takes at the pace at which the last trainings ended, "" where none can be told.

    `runs`: all runs and tunings. None is told while nothing runs, and before three trainings ended one after another. A
    tuning that may try rates again, or beyond its grid, makes it a range.
    """
    every = [run for group in runs.values() for run in group]
    places = [place for name in ("runs", "tune/trials") for place in (output / name).glob("*/*/*/**/summary.json")]
    now = time.time()
    ended = sorted(place.stat().st_mtime for place in places if place.parent.name != "state")
    ended = [moment for moment in ended if moment <= now][-PACE:]
    missing = sum((run.left for run in every), NONE)
    if not missing.most or len(ended) < FEWEST_ENDED or not any(run.state == "running" for run in every):
        return ""
    apart = statistics.median(later - earlier for earlier, later in itertools.pairwise(ended))
    left = [apart * count - (now - ended[-1]) for count in (missing.least, missing.most)]
    # Files that were copied together, and a sweep that stood still since, tell no pace.
    if apart < 1 or left[1] <= 0:
        return ""
    least, most = duration(max(left[0], 0.0)), duration(left[1])
    told = f"{least} left" if missing.least == missing.most else f"{least} to {most} left"
    return f"about {told}, at the pace of the last {len(ended)} trainings"


class TerminalReporter:
    """A line of a run when it ends; on a terminal one now and then: epoch, step, loss, time left.

    `point` gets every row that is known on the way.
    """

    def __init__(self, name: str, point: Callable[[dict[str, Any]], None] = lambda row: None) -> None:
        self._name, self._point = name, point
        self._terminal = sys.stdout.isatty()
        self._started = self._last = time.monotonic()
        self._first_step: int | None = None

    def due(self) -> bool:
        return self._terminal and time.monotonic() - self._last >= INTERVAL_S

    def step(self, step: int, total: int, epoch: int, epochs: int, loss: float) -> None:
        now = time.monotonic()
        if self._first_step is None:  # warm-up and steps of an earlier attempt do not count
            self._first_step, self._started, eta = step, now, "…"
        else:
            left = (now - self._started) / (step - self._first_step) * (total - step)
            eta = f"{int(left // 60)}:{int(left % 60):02d}"
        self._last = now
        self._print(f"epoch {epoch} of {epochs}, step {step} of {total}, loss {loss:.3f}, {eta} left")

    def losses(self, row: dict[str, Any]) -> None:
        self._point(row)

    def evaluation(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            self._point(row)
        if self.due():
            self._last = time.monotonic()
            shown = [name for name, metric in METRICS.items() if metric.on_terminal and row[name] is not None]
            figures = "".join(f", {name} {row[name]:.3f}" for name in shown)
            self._print(f"epoch {row['epoch']:g}, {row['split']} loss {row['loss']:.3f}{figures}")

    def done(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {self._name}: {text}", flush=True)

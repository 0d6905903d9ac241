"""The executor of snakemake-executor-plugin-slurm, made to outlast a Slurm that does not answer.

Each method of `Outlasting` that stands before one of the plugin's, and each function that opens one of its functions,
says what the plugin does without it.
"""

import asyncio
import contextlib
import contextvars
import datetime
import importlib.metadata
import os
import re
import shutil
import sys
import threading
import time
import types
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

from peft_tradeoffs.core import slurm

SOURCES = ("squeue", "sacct")
TIMEOUT_S = 20.0  # of one query: both sources have had theirs within a minute
BACK = datetime.timedelta(days=2)  # sacct lists jobs that were queued, ran or ended since then
PENDING = re.compile(r"(?P<array>\d+)_\[(?P<tasks>[\d,:-]*?)(?P<cut>[,-]?\.\.\.)?(?:%\d+)?\]")
TASKS = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")
CUT = "_[...]"  # stands for the tasks of an array that a cut-off list does not name


class NoAnswer(Exception):
    """A source could not answer; the message is its own."""


def sources_from(first: str) -> list[str]:
    """The commands to ask, `first` the one that is set; those that are not installed are left out."""
    return sorted((name for name in SOURCES if shutil.which(name)), key=lambda name: name != first)


async def job_states(name: str, jobs: Sequence[str], asked: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The states of `jobs` (ids; 17_2 is a task of an array) among those called `name`, and the sources that failed.

    The sources in `asked` are asked in turn, each for the jobs that the ones before did not list. The second value has
    what a source that could not answer said, by its name.
    """
    found: dict[str, str] = {}
    failed: dict[str, str] = {}
    for source in asked:
        if missing := [job for job in jobs if job not in found]:
            try:
                answer = await ask(source, name)
            except NoAnswer as error:
                failed[source] = str(error)
                continue
            for job in missing:
                state = answer.get(job) or answer.get(job.partition("_")[0] + CUT)
                found |= {job: state} if state else {}
    return found, failed


async def ask(source: str, name: str) -> dict[str, str]:
    """The state of every job called `name`, by its id. Raises NoAnswer."""
    environment = slurm.neutral(os.environ) | {"SLURM_BITSTR_LEN": "0"}  # lists of tasks are not cut off
    try:
        process = await asyncio.create_subprocess_exec(
            *_command(source, name),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
    except OSError as error:
        raise NoAnswer(f"{source}: {error.strerror}") from None
    try:
        out, err = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    except TimeoutError:
        raise NoAnswer(f"{source}: no answer within {TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
                await process.wait()
    if process.returncode:
        raise NoAnswer(slurm.said_by(source, err.decode(errors="replace"), process.returncode))
    return read(out.decode(errors="replace"))


def read(listing: str) -> dict[str, str]:
    """States by id of a listing with a line `id|state` for each job; tasks of arrays each by its own."""
    found: dict[str, str] = {}
    for line in listing.splitlines():
        job, bar, state = line.strip().partition("|")
        if bar and state:
            # sacct: "CANCELLED by 0", a state that the plugin does not know, so that it waits for such jobs
            found |= dict.fromkeys(expand(job), state.split()[0])
    return found


def expand(job: str) -> list[str]:
    """The ids that an id of squeue or sacct stands for: 17_[1-3,7%2] for four tasks, which wait."""
    match = PENDING.fullmatch(job)
    if match is None:
        return [job]
    tasks = [match["array"] + CUT] if match["cut"] else []
    for first, last, step in TASKS.findall(match["tasks"]):
        tasks += [f"{match['array']}_{task}" for task in range(int(first), int(last or first) + 1, int(step or 1))]
    return tasks


def _command(source: str, name: str) -> list[str]:
    if source == "squeue":
        return ["squeue", "--array", "--states=all", "--noheader", "--format=%i|%T", f"--name={name}"]
    start = f"{datetime.datetime.now() - BACK:%Y-%m-%dT%H:00}"
    words = ["sacct", "--allocations", "--parsable2", "--noheader", "--clusters=all", "--format=JobID,State"]
    return [*words, f"--starttime={start}", "--endtime=now", f"--name={name}"]


# slurmctld may have got the request, and the answer may have been lost.
LOST_ANSWER = re.compile(
    "Socket timed out|Zero Bytes were transmitted or received|receive failure|Connection reset by peer", re.IGNORECASE
)
MOMENTARY = re.compile(
    "|".join(
        (
            "Unable to contact slurm controller",
            "Zero Bytes were transmitted or received",
            "Resource temporarily unavailable",
            "Socket timed out",
            "temporarily unable to accept job",
            "(connect|send|receive|shutdown|connection) failure",
            "Connection (refused|reset by peer|timed out)",
            "Transport endpoint is not connected",
            "Temporary failure in name resolution",
            "(Network is unreachable|No route to host)",
            "in standby mode",
            "rate limit",
            "Munge encode failed",
            "Interrupted system call",
            "Cannot allocate memory",
        )
    ),
    re.IGNORECASE,
)
# The reasons that Slurm gives for a limit on the number of jobs; those on their size or time are permanent.
LIMIT = re.compile(r"\b(?:Assoc|QOS)\w*?Submit\w*", re.IGNORECASE)
OWN_LIMIT = re.compile(r"\b(?:QOSMaxSubmitJobs?PerUser|AssocMaxSubmitJob)", re.IGNORECASE)  # own jobs alone count
OTHER_LIMIT = re.compile(r"\b(?:Assoc|QOS)[A-Z]\w+")
POLICY = re.compile(r"Job violates accounting/QOS policy \(job submit limit", re.IGNORECASE)


def passes(said: str) -> bool:
    """Whether sbatch failed for a reason that passes by itself, a limit on the number of jobs too."""
    return bool(MOMENTARY.search(sbatch_words(said))) or limited(said) is not None


def answer_lost(said: str) -> bool:
    """Whether slurmctld may have the job all the same."""
    return bool(LOST_ANSWER.search(sbatch_words(said)))


def limited(said: str) -> str | None:
    """The limit on the number of jobs that is reached, in Slurm's word for it; None if it is no such limit.

    Without a word of Slurm's, its sentence on policies in general, which may be of any limit.
    """
    words = sbatch_words(said)
    if found := LIMIT.search(words):
        return found[0]
    return None if OTHER_LIMIT.search(words) or not POLICY.search(words) else "job submit limit"


def only_own_jobs_count(limit: str) -> bool:
    """Whether the limit is one on this user's jobs, so that it is free where the user has none."""
    return bool(OWN_LIMIT.search(limit))


def named(limit: str) -> bool:
    """Whether Slurm named the limit."""
    return bool(LIMIT.fullmatch(limit))


def sbatch_words(said: str) -> str:
    """What sbatch said, on one line, of the plugin's report of it; without the call, which holds texts of a user's."""
    words = re.split(r"\n\s*sbatch call:", said)[0]
    words = re.sub(r"^.*?The error message was '", "", words, flags=re.DOTALL)
    return re.sub(r"\s*sbatch: (error: )?", "; ", " ".join(words.rstrip(" .'\n").split())).removeprefix("; ")


class Heard:
    """The executor's logger, without the tracebacks of refused submissions; `take` may keep an error for itself."""

    def __init__(self, logger: Any, take: Callable[[str], bool]) -> None:
        self._logger, self._take = logger, take

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)

    def error(self, message: Any, *arguments: Any, **options: Any) -> None:
        """Log an error, unless it is taken."""
        raised = options.get("exc_info") and sys.exc_info()[0]
        if raised and raised.__name__ == "WorkflowError":
            options.pop("exc_info")
        if not self._take(str(message)):
            self._logger.error(message, *arguments, **options)


PLUGIN = "snakemake-executor-plugin-slurm"
KNOWN = "2.8."  # versions whose source was read and which the tests run
PATIENCE_S = 1800.0  # how long a submission waits for a slurmctld that does not take it; for a slot it has no end
RESUBMIT_S, LONGEST_S = 5.0, 60.0  # pauses between two submissions of a job grow from the one to the other
REMIND_S = 600.0  # between two lines that say that Slurm does not answer
FORGOTTEN_S = 300.0  # between two looks for jobs that Slurm no longer lists
UNSEEN = "Slurm no longer lists it (MinJobAge)"
# What the plugin's two functions that are opened here give in a call of ours.
_states: contextvars.ContextVar[dict[str, str] | None] = contextvars.ContextVar("states", default=None)
_of_array: contextvars.ContextVar[bool] = contextvars.ContextVar("of_array", default=False)


def install() -> None:
    """Have Snakemake use the class made here, if it has the plugin; with another version, one that warns alone."""
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    plugin = ExecutorPluginRegistry().plugins.get("slurm")
    if plugin is None or hasattr(plugin.executor, "outlasts"):
        return
    version = importlib.metadata.version(PLUGIN)
    make = outlasting if version.startswith(KNOWN) else warning
    plugin.executor = make(plugin.executor)


def outlasting(plugin_executor: type) -> type:
    """The plugin's executor with `Outlasting` before it."""
    import snakemake_executor_plugin_slurm as plugin

    _open_states(plugin)
    _open_wildcards(plugin)
    return types.new_class("Executor", (Outlasting, plugin_executor))


def warning(plugin_executor: type) -> type:
    """The plugin's executor of a version that is not known, which says so when it is used."""
    return types.new_class("Executor", (Unknown, plugin_executor))


def _open_states(plugin: Any) -> None:
    """Let the plugin's look at jobs take their states from here: 2026-11, 2.8.0.

    Its own query gives none for a Slurm that does not answer as for one that forgot the jobs, asks one source alone,
    and does not list the tasks of an array that wait.
    """
    if hasattr(plugin, "opened_states"):
        return
    query = plugin.query_job_status

    async def query_job_status(command: str, logger: Any) -> Any:
        states = _states.get()
        return await query(command, logger) if states is None else (states, 0.0)

    plugin.query_job_status = query_job_status
    plugin.opened_states = True


def _open_wildcards(plugin: Any) -> None:
    """Let an array's comment be without the wildcards of its first job: 2026-11, 2.8.0.

    The plugin gives them to all of its jobs, so that each would be listed as the first one's arm.
    """
    if hasattr(plugin, "opened_wildcards"):
        return
    wildcards = plugin.get_job_wildcards
    plugin.get_job_wildcards = lambda job: "" if _of_array.get() else wildcards(job)
    plugin.opened_wildcards = True


@dataclass
class Wait:
    """How long a submission has been waiting, and what was said of it."""

    what: str
    deadline: float = field(default_factory=lambda: time.monotonic() + PATIENCE_S)
    pause_s: float = field(default_factory=lambda: RESUBMIT_S)
    told: str = ""
    why: str = ""  # it does not wait any longer


class Submission(threading.local):
    """What the plugin said of the submission that this thread is at."""

    def __init__(self) -> None:
        self.hears = False  # whether it is at one
        self.said = ""
        self.taken = False  # the last error was kept for the next try
        self.refused: list[Any] = []  # jobs


if TYPE_CHECKING:

    class Plugin:
        """What is used here of the plugin's executor and its bases, which carry no types."""

        workflow: Any
        logger: Any
        wait: bool
        run_uuid: str
        slurm_logdir: Path
        next_seconds_between_status_checks: float
        _submitted_job_clusters: set[str]
        _job_submission_executor: ThreadPoolExecutor

        def __init__(self, *arguments: Any, **options: Any) -> None: ...
        def __post_init__(self, *arguments: Any, **options: Any) -> None: ...
        def get_status_command(self) -> str | None: ...
        def check_active_jobs(self, active_jobs: list[Any]) -> AsyncIterator[Any]: ...
        async def _wait_for_jobs(self) -> None: ...
        def report_job_submission(self, job_info: Any, *arguments: Any, **options: Any) -> None: ...
        def report_job_success(self, job_info: Any) -> None: ...
        def report_job_error(self, job_info: Any, *arguments: Any, **options: Any) -> None: ...
        def _report_job_submission_threadsafe(self, job_info: Any) -> None: ...
        def _report_job_error_threadsafe(self, job_info: Any, msg: str) -> None: ...
        def run_job(self, job: Any) -> None: ...
        def run_array_jobs(self, jobs: list[Any]) -> None: ...
        def cancel(self) -> None: ...
        def cancel_jobs(self, active_jobs: Sequence[Any]) -> None: ...
        def shutdown(self) -> None: ...
        def clean_old_logs(self) -> None: ...

else:
    Plugin = object


class Unknown(Plugin):
    """Stands before the executor of a version of the plugin that is not known, and leaves it as it is."""

    outlasts = False

    def __post_init__(self, *arguments: Any, **options: Any) -> None:
        """Warn."""
        super().__post_init__(*arguments, **options)
        self.logger.warning(
            f"{PLUGIN} {importlib.metadata.version(PLUGIN)} is not {KNOWN}x, which this workflow knows how to keep "
            "from waiting for ever after slurmctld was down: should it hang, end it and run "
            "workflow_scripts/recover.py; envs/constraints.txt has the version that was tested"
        )


class Outlasting(Plugin):
    """What stands before the plugin's executor: each method of the plugin's that it changes says why.

    The reasons are those of version 2.8.0, read in 2026-11.
    """

    outlasts = True

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Set up first: the plugin starts the thread that looks at jobs before it calls __post_init__."""
        self._set_up()
        super().__init__(*arguments, **options)

    def _set_up(self) -> None:
        """Take out a user's SQUEUE_STATES and the like, which hide jobs from the commands that the plugin starts."""
        for name in os.environ.keys() - slurm.neutral(os.environ).keys():
            del os.environ[name]
        self._submitted = False
        self._ids: set[str] = set()  # of the jobs that were submitted
        self._silence: dict[str, str] = {}  # what sources said that could not answer, in the last round
        self._answered = True
        self._told_at = 0.0
        self._looked_at = time.monotonic()
        self._unlisted: set[str] = set()
        self._submission = Submission()
        self._ending = threading.Event()

    def __post_init__(self, *arguments: Any, **options: Any) -> None:
        """Hear what is logged: the plugin logs why sbatch refused an array, and tells nobody else."""
        super().__post_init__(*arguments, **options)
        self.logger = Heard(self.logger, self._take)

    # Status

    async def check_active_jobs(self, active_jobs: list[Any]) -> AsyncIterator[Any]:
        """Yield every job whose end was not reported, those of a round without an answer too.

        The plugin yields none then, so that nobody looks at them any more and Snakemake waits for ever. It asks one
        command alone, for ever, and does not show what that says; here squeue and sacct stand in for each other. Its
        pause between rounds grows to 180 s, whatever `seconds-between-status-checks` says.
        """
        if not active_jobs:  # the executor may not be whole yet
            return
        ids = [job.external_jobid for job in active_jobs]
        first = self.get_status_command() or SOURCES[0]
        sources = sources_from(first)
        found, failed = await job_states(self.run_uuid, ids, sources)
        self._say_who_answered(first, failed, answered=len(failed) < len(sources) or bool(found))
        if not self._answered:
            for job in active_jobs:
                yield job
            return
        forgotten = self._forgotten(set(ids) - found.keys()) if "squeue" not in failed else set()
        token = _states.set(found)
        try:
            looked_at = [job async for job in super().check_active_jobs(active_jobs)]
        finally:
            _states.reset(token)
        for job in looked_at:
            if job.external_jobid in forgotten:
                self.report_job_error(job, msg=f"SLURM-job '{job.external_jobid}' ended unseen: {UNSEEN}. ")
            else:
                yield job
        longest = self.workflow.remote_execution_settings.seconds_between_status_checks
        self.next_seconds_between_status_checks = min(self.next_seconds_between_status_checks, longest)

    def _forgotten(self, unlisted: set[str]) -> set[str]:
        """Jobs that no source listed in two looks, `FORGOTTEN_S` apart: for those the plugin waits for ever."""
        if time.monotonic() - self._looked_at < FORGOTTEN_S or self._submitted_job_clusters:
            return set()
        self._looked_at = time.monotonic()
        before, self._unlisted = self._unlisted, unlisted
        return unlisted & before

    def _say_who_answered(self, first: str, failed: dict[str, str], answered: bool) -> None:
        """Say once what a source that cannot answer says, and again while none does."""
        said = "; ".join(failed.values()) or f"there is neither {' nor '.join(SOURCES)}"
        if not answered:
            if self._answered or time.monotonic() - self._told_at > REMIND_S:
                self._told_at = time.monotonic()
                self.logger.warning(
                    f"Slurm does not answer; its jobs run on. Asking again. It says: {said}. SIGTERM ends the wait."
                )
        elif not self._answered:
            self.logger.warning("Slurm answers again.")
        elif first in failed and failed.get(first) != self._silence.get(first):
            other = next(name for name in SOURCES if name != first)
            self.logger.warning(
                f"{first} cannot tell the states of jobs: {failed[first]}. {other} is asked in its place "
                f"(slurm-status-command: {other})."
            )
        self._silence, self._answered = failed, answered

    # The end

    def _told_to_end(self) -> bool:
        """Whether Snakemake got a signal."""
        return self._ending.is_set() or bool(getattr(self.workflow.scheduler, "_user_kill", None))

    def _pause(self, seconds: float) -> bool:
        """Wait; whether Snakemake has not been told to end meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self._told_to_end():
            self._ending.wait(min(left, 0.2))
        return not self._told_to_end()

    async def _wait_for_jobs(self) -> None:
        """Look at jobs until shutdown, which ends a pause at once, or a signal while Slurm does not answer.

        The plugin sleeps through both, for 40 s at first, even where no job was submitted.
        """
        looking = asyncio.ensure_future(super()._wait_for_jobs())
        while self.wait and not looking.done():
            await asyncio.wait({looking}, timeout=0.2)
            if not self._answered and self._told_to_end() and not self._ending.is_set():
                self._leave()
                break
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking

    def _leave(self) -> None:
        """End without the jobs, whose states Slurm does not tell."""
        said = "; ".join(self._silence.values())
        self.workflow.scheduler.executor_error_callback(
            WorkflowError(
                f"Ended by a signal while Slurm does not answer ({said}). Its jobs run on: before the next call of "
                "Snakemake run workflow_scripts/recover.py, which waits for them or ends them."
            )
        )

    def cancel(self) -> None:
        """End the jobs and submit no more: what the plugin's threads still submit after Ctrl-C stays in the queue."""
        self._ending.set()
        self._job_submission_executor.shutdown(wait=True, cancel_futures=True)
        super().cancel()

    def cancel_jobs(self, active_jobs: Sequence[Any]) -> None:
        """End the jobs; where scancel cannot reach Slurm, say so and go on: the plugin's error would end nothing."""
        try:
            super().cancel_jobs(active_jobs)
        except WorkflowError as error:
            self.logger.error(f"{error}. The jobs run on: run workflow_scripts/recover.py --cancel when Slurm answers.")

    def shutdown(self) -> None:
        """End every wait of a submission, for which the plugin's shutdown waits."""
        self._ending.set()
        super().shutdown()

    def clean_old_logs(self) -> None:
        """Tidy up once, if this call submitted jobs and no job from its folder is left, of another call say.

        The plugin removes empty folders whenever it ends, and a job that waits fails without the folder of its log.
        """
        if self._submitted:
            self._submitted = False
            with contextlib.suppress(slurm.NoAnswer):
                if not slurm.jobs(Path(self.workflow.workdir_init)):
                    super().clean_old_logs()

    def report_job_submission(self, job_info: Any, *arguments: Any, **options: Any) -> None:
        """Note that this call submitted the job, for `clean_old_logs` and `_arrived`; the plugin does the rest."""
        self._submitted = True
        self._ids.add(job_info.external_jobid)
        super().report_job_submission(job_info, *arguments, **options)

    # Submission

    def run_job(self, job: Any) -> None:
        """Submit a job; wait out what passes by itself, and do not submit what slurmctld has.

        The plugin fails the job at the first refusal, a momentary error or a limit on the number of jobs too, and its
        retries go within a second. Where an answer is lost, it submits the job a second time.
        """
        from snakemake_executor_plugin_slurm.utils import get_job_wildcards

        wait = Wait(f"Job {job.jobid}")
        while said := self._attempt(super().run_job, job):
            if not self._waits(wait, said):
                return self._refuse([job], wait, said)
            if answer_lost(said):
                wildcards = get_job_wildcards(job)
                arrived = self._arrived(f"rule_{job.name}" + (f"_wildcards_{wildcards}" if wildcards else ""), wait)
                if arrived:
                    return self._found(job, arrived[0], wildcards)

    def run_array_jobs(self, jobs: list[Any]) -> None:
        """Submit a job array as `run_job` does a job; one that meets a limit on their number becomes single jobs.

        The plugin fails all of its jobs then.
        """
        wait = Wait(f"An array of {len(jobs)} jobs")
        token = _of_array.set(True)
        try:
            while said := self._attempt(super().run_array_jobs, jobs):
                jobs, tasks = self._submission.refused, jobs
                if limited(said):
                    break
                if not self._waits(wait, said):
                    return self._refuse(jobs, wait, said)
                if answer_lost(said):
                    for found in self._arrived(f"rule_{jobs[0].name}", wait):
                        job = tasks[int(found.partition("_")[2]) - 1]
                        jobs = [other for other in jobs if other is not job]
                        self._found(job, found, "")
                if not jobs:
                    return
            else:
                return
        finally:
            _of_array.reset(token)
        self.logger.warning(f"{wait.what} meets a limit ({limited(said)}): submitted one by one.")
        for job in jobs:
            self.run_job(job)

    def _attempt(self, submit: Callable[[Any], None], what: Any) -> str:
        """Submit; what was said of it where that is worth another try, and "" else."""
        if self._told_to_end():
            self._submission.refused = what if isinstance(what, list) else [what]
            return "not submitted: Snakemake was told to end. "
        own = self._submission
        own.hears, own.said, own.taken, own.refused = True, "", False, []
        try:
            submit(what)
        finally:
            own.hears = False
        return own.said

    def _take(self, message: str) -> bool:
        """Whether an error that is logged is one of a submission that is tried again."""
        own = self._submission
        own.taken = own.hears and passes(message)
        own.said = message if own.taken else own.said
        return own.taken

    def _report_job_error_threadsafe(self, job_info: Any, msg: str) -> None:
        """Keep what is tried again to `_attempt`: the plugin reports here that sbatch refused."""
        own = self._submission
        of_array = msg.startswith("Part of failed array") and own.taken
        if own.hears and (of_array or passes(msg)):
            own.said = own.said or msg
            own.refused.append(job_info.job)
        else:
            super()._report_job_error_threadsafe(job_info, msg)

    def _waits(self, wait: Wait, said: str) -> bool:
        """Wait before the next try; whether there is to be one."""
        limit = limited(said)
        if limit and not self._frees(limit):
            wait.why = "none of your jobs is queued, so that no slot becomes free"
            return False
        if limit and named(limit):
            wait.deadline = time.monotonic() + PATIENCE_S
        elif time.monotonic() > wait.deadline:
            return False
        words = sbatch_words(said)
        line = f"waits for a slot ({limit})" if limit else f"sbatch cannot reach slurmctld ({words})"
        if line != wait.told:
            self.logger.warning(f"{wait.what}: {line}. Trying again; this is no attempt of the job.")
        wait.told = line
        wait.pause_s, pause_s = min(2 * wait.pause_s, LONGEST_S), wait.pause_s
        return self._pause(pause_s)

    def _frees(self, limit: str) -> bool:
        """Whether the end of a job can make room: not where own jobs alone count and there are none."""
        if named(limit) and not only_own_jobs_count(limit):
            return True
        try:
            return bool(slurm.unfinished())
        except (slurm.NoAnswer, OSError):
            return True

    def _refuse(self, jobs: list[Any], wait: Wait, said: str) -> None:
        for job in jobs:
            message = f"{said.rstrip()}\n    {wait.why}" if wait.why else said
            super()._report_job_error_threadsafe(SubmittedJobInfo(job), message)

    def _arrived(self, comment: str, wait: Wait) -> list[str]:
        """The ids of jobs that Slurm has though sbatch got no answer; waits for squeue to say."""
        while not self._told_to_end() and time.monotonic() < wait.deadline:
            try:
                listed = slurm.jobs(Path(self.workflow.workdir_init))
            except slurm.NoAnswer:
                self._pause(RESUBMIT_S)
                continue
            own = [one for one in listed if (one.name, one.comment) == (self.run_uuid, comment)]
            return [one.id for one in own if one.id not in self._ids]
        return []

    def _found(self, job: Any, number: str, wildcards: str) -> None:
        """Watch a job that Slurm has."""
        self.logger.info(f"Job {job.jobid} has been submitted with SLURM jobid {number}, as squeue says.")
        log = self.slurm_logdir / f"rule_{job.name}" / wildcards / f"{number}.log"
        info = SubmittedJobInfo(job, external_jobid=number, aux={"slurm_logfile": log})
        self._report_job_submission_threadsafe(info)

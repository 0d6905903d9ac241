"""The executor of snakemake-executor-plugin-slurm, made to outlast a Slurm that does not answer for a while.

Written as changes upstream would be, each a method of the plugin's class; what the plugin does without it:

- a round of status queries that all fail forgets every job, and the workflow waits for ever (`check_active_jobs`)
- the pause between rounds grows to 180 s, whatever `seconds-between-status-checks` says (`check_active_jobs`)
- a user's SQUEUE_STATES and the like hide jobs from it (`_set_up`)
- a job that Slurm no longer lists is waited for, for ever (`_forgotten`)
- a submission that does not reach slurmctld is a failed job, and its retries go within a second (`run_job`)
- a submission whose answer is lost is a failed job, and is submitted a second time (`run_job`)
- the end waits for the pause, 40 s even where no job was submitted (`_wait_for_jobs`)
- the end removes empty log folders, and a job of another call that waits fails without its own (`clean_old_logs`)
"""

import asyncio
import contextlib
import importlib.metadata
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from peft_tradeoffs import slurm, squeue

PLUGIN = "snakemake-executor-plugin-slurm"
KNOWN = "2.8."  # versions whose source was read and which the tests run
UNREACHABLE = "Unable to contact slurm controller"  # sbatch's words; nothing was submitted
UNANSWERED = "Socket timed out on send/recv"  # the same; slurmctld may have the job
PATIENCE_S = 1800.0  # how long a submission waits for slurmctld
RESUBMIT_S = 5.0
FORGOTTEN_S = 300.0  # between two looks for jobs that Slurm no longer lists
UNSEEN = "Slurm no longer lists it (MinJobAge)"


def install() -> None:
    """Have Snakemake use the class made here, if it has the plugin; with another version, one that warns alone."""
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    plugin = ExecutorPluginRegistry().plugins.get("slurm")
    if plugin is None or hasattr(plugin.executor, "outlasts"):
        return
    version = importlib.metadata.version(PLUGIN)
    make = outlasting if version.startswith(KNOWN) else warning
    plugin.executor = make(plugin.executor)


def warning(plugin_executor: type) -> type:
    """A version of the plugin that is not known is left as it is, and said so when it is used."""

    class Executor(plugin_executor):
        outlasts = False

        def __post_init__(self) -> None:
            super().__post_init__()
            self.logger.warning(
                f"{PLUGIN} {importlib.metadata.version(PLUGIN)} is not {KNOWN}x, which this workflow knows how to keep "
                "from waiting for ever after slurmctld was down: should it hang, end it and run "
                "workflow_scripts/recover.py; envs/constraints.txt has the version that was tested"
            )

    return Executor


def outlasting(plugin_executor: type) -> type:
    """The plugin's executor with what the head of this file lists."""
    from snakemake_executor_plugin_slurm import job_status_query
    from snakemake_executor_plugin_slurm.utils import get_job_wildcards
    from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

    class Executor(plugin_executor):
        outlasts = True

        def __init__(self, *arguments: Any, **options: Any) -> None:
            self._set_up()  # the parent starts the thread that looks at jobs before it calls __post_init__
            super().__init__(*arguments, **options)

        def _set_up(self) -> None:
            for name in os.environ.keys() - slurm.neutral(os.environ).keys():  # the plugin's squeue inherits them
                del os.environ[name]
            self._ended: set[int] = set()
            self._submitted = False
            self._ids: set[str] = set()  # of the jobs that were submitted
            self._answered = True
            self._looked_at = time.monotonic()
            self._unlisted: set[str] = set()
            self._submission = threading.local()
            self._ending = threading.Event()

        # Status

        async def check_active_jobs(self, active_jobs: list[Any]) -> AsyncIterator[Any]:
            """Yield every job whose end was not reported, those of a round without an answer too."""
            if not active_jobs:  # the executor may not be whole yet
                return
            self._ended.clear()
            forgotten = await self._forgotten(active_jobs)
            yielded = set()
            async for job in super().check_active_jobs(active_jobs):
                yielded.add(id(job))
                if job.external_jobid in forgotten:
                    self.report_job_error(job, msg=f"SLURM-job '{job.external_jobid}' ended unseen: {UNSEEN}. ")
                else:
                    yield job
            lost = [job for job in active_jobs if id(job) not in yielded | self._ended]
            self._say_whether_answered(not lost)
            for job in lost:
                yield job
            longest = self.workflow.remote_execution_settings.seconds_between_status_checks
            self.next_seconds_between_status_checks = min(self.next_seconds_between_status_checks, longest)

        def report_job_success(self, job_info: Any) -> None:
            self._ended.add(id(job_info))
            super().report_job_success(job_info)

        def report_job_error(self, job_info: Any, *arguments: Any, **options: Any) -> None:
            self._ended.add(id(job_info))
            super().report_job_error(job_info, *arguments, **options)

        async def _forgotten(self, active_jobs: list[Any]) -> set[str]:
            """Jobs that squeue, which answered, did not list in two looks, `FORGOTTEN_S` apart."""
            if time.monotonic() - self._looked_at < FORGOTTEN_S or self._submitted_job_clusters or not active_jobs:
                return set()
            self._looked_at = time.monotonic()
            listed, _ = await job_status_query.query_job_status(
                job_status_query.query_job_status_squeue(self.run_uuid), self.logger
            )
            if listed is None:
                return set()
            before = self._unlisted
            self._unlisted = {job.external_jobid for job in active_jobs} - listed.keys()
            return self._unlisted & before

        def _say_whether_answered(self, answered: bool) -> None:
            if answered != self._answered:
                self.logger.warning(
                    "Slurm answers again." if answered else "Slurm does not answer; its jobs run on. Asking again."
                )
            self._answered = answered

        # The end

        async def _wait_for_jobs(self) -> None:
            """Look at jobs until shutdown, which ends a pause at once."""
            looking = asyncio.ensure_future(super()._wait_for_jobs())
            while self.wait and not looking.done():
                await asyncio.wait({looking}, timeout=0.2)
            looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await looking

        def shutdown(self) -> None:
            self._ending.set()
            super().shutdown()

        def clean_old_logs(self) -> None:
            """Tidy up once, if this call submitted jobs and no job from its folder is left, of another call say."""
            if self._submitted:
                self._submitted = False
                with contextlib.suppress(squeue.NoAnswer):
                    if not squeue.jobs(Path(self.workflow.workdir_init)):
                        super().clean_old_logs()

        def report_job_submission(self, job_info: Any, *arguments: Any, **options: Any) -> None:
            self._submitted = True
            self._ids.add(job_info.external_jobid)
            super().report_job_submission(job_info, *arguments, **options)

        # Submission

        def run_job(self, job: Any) -> None:
            """Submit a job; wait where slurmctld cannot be reached, and do not submit what it has."""
            deadline = time.monotonic() + PATIENCE_S
            while True:
                self._submission.patient = not self._ending.is_set() and time.monotonic() < deadline
                self._submission.failure = ""
                super().run_job(job)
                if not self._submission.failure:
                    return
                self.logger.warning(f"Job {job.jobid}: sbatch cannot reach slurmctld. Trying again.")
                self._ending.wait(RESUBMIT_S)
                if UNANSWERED in self._submission.failure and (found := self._arrived(job, deadline)):
                    self.logger.info(f"Job {job.jobid} has been submitted with SLURM jobid {found}, as squeue says.")
                    log = self.slurm_logdir / f"rule_{job.name}" / get_job_wildcards(job) / f"{found}.log"
                    self._report_job_submission_threadsafe(
                        SubmittedJobInfo(job, external_jobid=found, aux={"slurm_logfile": log})
                    )
                    return

        def _arrived(self, job: Any, deadline: float) -> str | None:
            """The id of a job that Slurm has though sbatch got no answer; until `deadline`, waits for it to say."""
            wildcards = get_job_wildcards(job)
            comment = f"rule_{job.name}" + (f"_wildcards_{wildcards}" if wildcards else "")
            while not self._ending.is_set() and time.monotonic() < deadline:
                try:
                    listed = squeue.jobs(Path(self.workflow.workdir_init))
                except squeue.NoAnswer:
                    self._ending.wait(RESUBMIT_S)
                    continue
                own = [one for one in listed if (one.name, one.comment) == (self.run_uuid, comment)]
                return next((one.id for one in own if one.id not in self._ids), None)
            return None

        def _report_job_error_threadsafe(self, job_info: Any, msg: str) -> None:
            if (UNREACHABLE in msg or UNANSWERED in msg) and getattr(self._submission, "patient", False):
                self._submission.failure = msg
            else:
                super()._report_job_error_threadsafe(job_info, msg)

    return Executor

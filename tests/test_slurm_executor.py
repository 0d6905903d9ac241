"""The plugin's executor as the workflow uses it, beside the plugin's own: a Slurm that does not answer, or forgot."""

import asyncio
import logging
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from peft_tradeoffs import slurm_executor, squeue
from peft_tradeoffs.squeue import Job

plugin = pytest.importorskip("snakemake_executor_plugin_slurm")
FAILED = (None, None)  # what the plugin's query gives where squeue ends with an error


class Unlimited:
    """A rate limiter that lets everything through."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: Any) -> None: ...


class Recorder:
    """Snakemake's scheduler, as far as executors report to it."""

    def __init__(self) -> None:
        self.finished: list[Any] = []
        self.failed: list[Any] = []

    def finish_callback(self, job: Any) -> None:
        self.finished.append(job)

    def error_callback(self, job: Any) -> None:
        self.failed.append(job)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What status queries answer, one after another."""
    given: list[Any] = []

    async def query(command: str, logger: Any) -> Any:
        return given.pop(0)

    monkeypatch.setattr(plugin, "query_job_status", query)
    monkeypatch.setattr(plugin.job_status_query, "query_job_status", query)
    monkeypatch.setattr(plugin, "get_min_job_age", lambda: 300)
    return given


@pytest.fixture
def original() -> type:
    """The plugin's own class, whatever is installed in this process."""
    return plugin.Executor


def executor(kind: type) -> Any:
    """An executor without its thread; two attempts a round, at most 30 s between two rounds."""
    made = object.__new__(kind)
    settings = {"status_attempts": 2, "init_seconds_before_status_checks": 40, "status_command": "squeue"}
    settings |= {"keep_successful_logs": True, "requeue": False, "jobname_prefix": "tests", "exclude_failed_nodes": ""}
    settings |= {"array_jobs": "", "array_limit": 1000, "partition_config": None, "logdir": None}
    settings |= {"delete_logfiles_older_than": 0}
    made.workflow = SimpleNamespace(
        executor_settings=SimpleNamespace(**settings),
        remote_execution_settings=SimpleNamespace(seconds_between_status_checks=30),
        scheduler=Recorder(),
        persistence=SimpleNamespace(path="."),
        workdir_init=".",
    )
    made.logger = logging.getLogger("tests")
    made.status_rate_limiter = Unlimited()
    made._next_seconds_between_status_checks = None
    made.print_job_error = lambda *_, **__: None
    getattr(made, "_set_up", lambda: None)()
    made.__post_init__()
    return made


def job(number: int) -> SimpleNamespace:
    return SimpleNamespace(job=number, external_jobid=str(number), aux={})


def look(made: Any, jobs: list[Any]) -> list[int]:
    """One round; the jobs that are still watched after it."""

    async def watched() -> list[int]:
        return [found.job async for found in made.check_active_jobs(jobs)]

    return asyncio.run(watched())


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugin, "get_max_array_size", lambda: 1000)
    monkeypatch.setattr(plugin, "validate_status_command_settings", lambda *_: None)
    yield


def test_the_plugin_alone_forgets_its_jobs_and_so_waits_for_ever(original, answers):
    answers += [FAILED, FAILED]
    assert look(executor(original), [job(1), job(2)]) == []


def test_a_look_before_the_executor_is_whole(original):
    """Its thread starts in the parent's __init__, before __post_init__."""
    assert look(object.__new__(slurm_executor.outlasting(original)), []) == []


def test_jobs_of_a_round_without_an_answer_are_kept(original, answers, caplog):
    made = executor(slurm_executor.outlasting(original))
    jobs = [job(1), job(2)]
    answers += [FAILED] * 4
    assert look(made, jobs) == look(made, jobs) == [1, 2]
    answers += [FAILED, ({"1": "COMPLETED", "2": "FAILED"}, 0.0)]
    assert look(made, jobs) == []
    assert (made.workflow.scheduler.finished, made.workflow.scheduler.failed) == ([1], [2])
    said = [record.message for record in caplog.records if "answer" in record.message]
    assert said == ["Slurm does not answer; its jobs run on. Asking again.", "Slurm answers again."]


def test_a_users_own_view_of_the_queue_hides_no_job(original, monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    executor(slurm_executor.outlasting(original))
    assert "SQUEUE_STATES" not in os.environ


def test_the_pause_has_a_bound(original, answers):
    for kind, longest in ((original, 60), (slurm_executor.outlasting(original), 30)):
        made = executor(kind)
        for _ in range(5):
            answers.append(({"1": "RUNNING"}, 0.0))
            assert look(made, [job(1)]) == [1]
        assert made.next_seconds_between_status_checks >= longest
        assert kind is original or made.next_seconds_between_status_checks == longest


def test_a_job_that_slurm_no_longer_lists_is_an_error_at_the_second_look(original, answers, monkeypatch):
    monkeypatch.setattr(slurm_executor, "FORGOTTEN_S", 0)
    made = executor(slurm_executor.outlasting(original))
    jobs = [job(1), job(2)]
    round_of_two = [({"1": "RUNNING"}, 0.0)] * 2  # our look, then the plugin's
    answers += round_of_two
    assert look(made, jobs) == [1, 2]
    answers += [FAILED, *round_of_two[1:]]
    assert look(made, jobs) == [1, 2]
    answers += round_of_two
    assert look(made, jobs) == [1]
    assert made.workflow.scheduler.failed == [2]


@pytest.mark.parametrize("reached", [True, False], ids=["reached_later", "never_reached"])
def test_a_submission_waits_for_slurmctld(original, monkeypatch, reached):
    said = f"sbatch: error: Batch job submission failed: {slurm_executor.UNREACHABLE} (connect failure)"
    calls, errors = [], []

    def run_job(self: Any, job: Any) -> None:
        calls.append(job)
        if len(calls) < 3 or not reached:
            self._report_job_error_threadsafe(SimpleNamespace(job=job), said)

    monkeypatch.setattr(original, "run_job", run_job)
    monkeypatch.setattr(original, "_report_job_error_threadsafe", lambda self, info, msg: errors.append(msg))
    monkeypatch.setattr(slurm_executor, "RESUBMIT_S", 0.01)
    monkeypatch.setattr(slurm_executor, "PATIENCE_S", 60 if reached else 0.1)
    made = executor(slurm_executor.outlasting(original))
    made.run_job(SimpleNamespace(jobid=1))
    assert errors == ([] if reached else [said])
    assert len(calls) == 3 or not reached


@pytest.mark.parametrize("arrived", [True, False])
def test_a_submission_whose_answer_is_lost_is_looked_for_before_the_next(original, monkeypatch, arrived):
    calls, errors, submitted = [], [], []

    def run_job(self: Any, job: Any) -> None:
        calls.append(job)
        if len(calls) == 1:
            said = f"sbatch: error: Batch job submission failed: {slurm_executor.UNANSWERED} operation"
            self._report_job_error_threadsafe(SimpleNamespace(job=job), said)

    monkeypatch.setattr(original, "run_job", run_job)
    monkeypatch.setattr(original, "_report_job_error_threadsafe", lambda self, info, msg: errors.append(msg))
    monkeypatch.setattr(original, "_report_job_submission_threadsafe", lambda self, info: submitted.append(info))
    monkeypatch.setattr(slurm_executor, "RESUBMIT_S", 0.01)
    made = executor(slurm_executor.outlasting(original))
    made._ids.add("6")  # an attempt before, about to end
    train = ("RUNNING", "None", "node1", "rule_train_wildcards_a_b")
    others = [Job("4", *train, "another call"), Job("5", *train[:3], "rule_train_wildcards_c_d", made.run_uuid)]
    answers = [squeue.NoAnswer("busy"), [*others, *(Job(number, *train, made.run_uuid) for number in ("6", "7"))]]

    def jobs(folder: Any) -> list[Job]:
        found = answers.pop(0)
        if isinstance(found, squeue.NoAnswer):
            raise found
        return found if arrived else found[:-1]

    monkeypatch.setattr(slurm_executor.squeue, "jobs", jobs)
    made.run_job(SimpleNamespace(jobid=1, name="train", wildcards=["a", "b"]))
    assert (len(calls), [info.external_jobid for info in submitted]) == ((1, ["7"]) if arrived else (2, []))
    assert errors == []


def test_any_other_refusal_is_an_error_at_once(original, monkeypatch):
    errors = []
    monkeypatch.setattr(
        original, "run_job", lambda self, job: self._report_job_error_threadsafe(job, "invalid partition specified")
    )
    monkeypatch.setattr(original, "_report_job_error_threadsafe", lambda self, info, msg: errors.append(msg))
    executor(slurm_executor.outlasting(original)).run_job(SimpleNamespace(jobid=1))
    assert errors == ["invalid partition specified"]


@pytest.mark.parametrize(
    ("submitted", "left", "cleaned"), [(True, [], 1), (True, ["7"], 0), (False, [], 0)], ids=["done", "jobs", "none"]
)
def test_log_folders_stay_while_jobs_of_the_folder_are_left(original, monkeypatch, submitted, left, cleaned):
    """A job that waits fails at its start without the folder of its log."""
    calls = []
    monkeypatch.setattr(original, "clean_old_logs", lambda self: calls.append(1))
    monkeypatch.setattr(slurm_executor.squeue, "jobs", lambda folder: left)
    made = executor(slurm_executor.outlasting(original))
    made._submitted = submitted
    made.clean_old_logs()
    made.clean_old_logs()
    assert sum(calls) == cleaned


def test_another_version_of_the_plugin_is_left_alone_with_a_warning(original, monkeypatch, caplog):
    monkeypatch.setattr(slurm_executor, "KNOWN", "1.")
    registered = SimpleNamespace(executor=original)
    registry = SimpleNamespace(plugins={"slurm": registered})
    monkeypatch.setattr("snakemake_interface_executor_plugins.registry.ExecutorPluginRegistry", lambda: registry)
    slurm_executor.install()
    assert registered.executor.check_active_jobs is original.check_active_jobs
    executor(registered.executor)
    assert "recover.py" in caplog.text


def test_it_is_installed_once(original, monkeypatch):
    registered = SimpleNamespace(executor=original)
    registry = SimpleNamespace(plugins={"slurm": registered})
    monkeypatch.setattr("snakemake_interface_executor_plugins.registry.ExecutorPluginRegistry", lambda: registry)
    slurm_executor.install()
    first = registered.executor
    slurm_executor.install()
    assert registered.executor is first and first.outlasts
    registry.plugins.clear()
    slurm_executor.install()

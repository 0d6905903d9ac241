"""The plugin's executor as the workflow uses it, beside the plugin's own: a Slurm that does not answer, or forgot."""

import asyncio
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from peft_tradeoffs.core import slurm
from peft_tradeoffs.core.slurm import Job
from peft_tradeoffs.runs import slurm_executor

plugin = pytest.importorskip("snakemake_executor_plugin_slurm")
FAILED = (None, None)  # what the plugin's query gives where squeue ends with an error
SAID = "sacct: error: Slurm accounting storage is disabled"


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
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What each source answers, one after another: states by id, or the error that it ends with."""
    given: dict[str, list[Any]] = {"squeue": [], "sacct": []}

    async def ask(source: str, name: str) -> dict[str, str]:
        answer = given[source].pop(0)
        if isinstance(answer, str):
            raise slurm_executor.NoAnswer(answer)
        return answer

    monkeypatch.setattr(slurm_executor, "ask", ask)
    monkeypatch.setattr(slurm_executor, "sources_from", lambda first: sorted(slurm_executor.SOURCES, key=first.__ne__))
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


def test_the_plugin_alone_forgets_its_jobs_and_so_waits_for_ever(original, monkeypatch):
    async def query(command: str, logger: Any) -> Any:
        return FAILED

    monkeypatch.setattr(plugin, "query_job_status", query)
    monkeypatch.setattr(plugin, "get_min_job_age", lambda: 300)
    assert look(executor(original), [job(1), job(2)]) == []


def test_a_look_before_the_executor_is_whole(original):
    """Its thread starts in the parent's __init__, before __post_init__."""
    assert look(object.__new__(slurm_executor.outlasting(original)), []) == []


def test_jobs_of_a_round_without_an_answer_are_kept(original, answers, caplog):
    made = executor(slurm_executor.outlasting(original))
    jobs = [job(1), job(2)]
    for _ in range(2):
        answers["squeue"].append("squeue: error: no controller")
        answers["sacct"].append(SAID)
        assert look(made, jobs) == [1, 2]
    answers["squeue"].append({"1": "COMPLETED", "2": "FAILED"})
    assert look(made, jobs) == []
    assert (made.workflow.scheduler.finished, made.workflow.scheduler.failed) == ([1], [2])
    said = [record.message for record in caplog.records if "answer" in record.message]
    assert said == [
        "Slurm does not answer; its jobs run on. Asking again. It says: squeue: error: no controller; "
        f"{SAID}. SIGTERM ends the wait.",
        "Slurm answers again.",
    ]


def test_a_source_that_cannot_answer_says_so_once_and_the_other_is_asked(original, answers, caplog):
    """`slurm-status-command: sacct` on a cluster without accounting."""
    made = executor(slurm_executor.outlasting(original))
    made.workflow.executor_settings.status_command = "sacct"
    answers["sacct"] += [SAID, SAID]
    answers["squeue"] += [{"1": "RUNNING"}, {"1": "COMPLETED"}]
    assert look(made, [job(1)]) == [1]
    assert look(made, [job(1)]) == []
    assert made.workflow.scheduler.finished == [1]
    assert [record.message for record in caplog.records if SAID in record.message] == [
        f"sacct cannot tell the states of jobs: {SAID}. squeue is asked in its place (slurm-status-command: squeue)."
    ]


def test_a_job_that_the_source_does_not_list_is_asked_of_the_other(original, answers):
    made = executor(slurm_executor.outlasting(original))
    answers["squeue"].append({"1": "RUNNING"})
    answers["sacct"].append({"1": "PENDING", "2": "COMPLETED"})
    assert look(made, [job(1), job(2)]) == [1]
    assert made.workflow.scheduler.finished == [2]


def watches(made: Any, jobs: list[Any]) -> None:
    """What the parent's __init__ sets up for its thread, without the thread."""
    made.wait, made.lock, made.active_jobs = True, threading.Lock(), jobs
    now = SimpleNamespace(init_seconds_before_status_checks=0)
    made.workflow.executor_plugin = SimpleNamespace(common_settings=now)


def test_a_signal_ends_the_wait_for_a_slurm_that_does_not_answer(original, answers):
    made = executor(slurm_executor.outlasting(original))
    answers["squeue"] += ["squeue: error: no controller"] * 9
    answers["sacct"] += [SAID] * 9
    made.wait, made.lock, made.active_jobs = True, threading.Lock(), [job(1)]
    made.workflow.executor_plugin = SimpleNamespace(
        common_settings=SimpleNamespace(init_seconds_before_status_checks=0)
    )
    errors: list[Any] = []
    made.workflow.scheduler.executor_error_callback = errors.append
    made.workflow.scheduler._user_kill = "graceful"
    asyncio.run(asyncio.wait_for(made._wait_for_jobs(), 10))
    assert len(errors) == 1 and SAID in str(errors[0]) and "recover.py" in str(errors[0])


def test_a_signal_waits_for_running_jobs_while_slurm_answers(original, answers):
    made = executor(slurm_executor.outlasting(original))
    answers["squeue"] += [{"1": "RUNNING"}]
    made.wait, made.lock, made.active_jobs = True, threading.Lock(), [job(1)]
    made.workflow.executor_plugin = SimpleNamespace(
        common_settings=SimpleNamespace(init_seconds_before_status_checks=0)
    )
    made.workflow.scheduler._user_kill = "graceful"
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(made._wait_for_jobs(), 0.5))
    assert [one.job for one in made.active_jobs] == [1]


def test_a_users_own_view_of_the_queue_hides_no_job(original, monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "PENDING")
    executor(slurm_executor.outlasting(original))
    assert "SQUEUE_STATES" not in os.environ


def test_the_pause_has_a_bound(original, answers):
    made = executor(slurm_executor.outlasting(original))
    for _ in range(5):
        answers["squeue"].append({"1": "RUNNING"})
        assert look(made, [job(1)]) == [1]
    assert made.next_seconds_between_status_checks == 30


def test_a_job_that_slurm_no_longer_lists_is_an_error_at_the_second_look(original, answers, monkeypatch):
    monkeypatch.setattr(slurm_executor, "FORGOTTEN_S", 0)
    made = executor(slurm_executor.outlasting(original))
    jobs = [job(1), job(2)]
    answers["sacct"] += [SAID] * 3
    answers["squeue"] += [{"1": "RUNNING"}, "squeue: error: no controller", {"1": "RUNNING"}]
    assert look(made, jobs) == [1, 2]
    assert look(made, jobs) == [1, 2]
    assert look(made, jobs) == [1]
    assert made.workflow.scheduler.failed == [2]


def task(number: str) -> SimpleNamespace:
    return SimpleNamespace(job=number, external_jobid=number, aux={})


def test_tasks_of_an_array_that_wait_are_not_forgotten(original, answers, monkeypatch):
    monkeypatch.setattr(slurm_executor, "FORGOTTEN_S", 0)
    made = executor(slurm_executor.outlasting(original))
    jobs = [task(f"17_{number}") for number in (1, 2, 3, 4)]
    answers["squeue"] += [slurm_executor.read("17_[2-4%2]|PENDING\n17_1|RUNNING\n")] * 3
    for _ in range(3):
        assert look(made, jobs) == ["17_1", "17_2", "17_3", "17_4"]
    answers["squeue"].append(slurm_executor.read("17_[4]|PENDING\n17_1|COMPLETED\n17_2|FAILED\n17_3|RUNNING\n"))
    assert look(made, jobs) == ["17_3", "17_4"]
    assert (made.workflow.scheduler.finished, made.workflow.scheduler.failed) == (["17_1"], ["17_2"])


@pytest.mark.parametrize(
    ("listed", "tasks"),
    [
        ("17", ["17"]),
        ("17_3", ["17_3"]),
        ("17_[1-4]", ["17_1", "17_2", "17_3", "17_4"]),
        ("17_[1-4%2]", ["17_1", "17_2", "17_3", "17_4"]),
        ("17_[3,5,9-11]", ["17_3", "17_5", "17_9", "17_10", "17_11"]),
        ("17_[1-7:3]", ["17_1", "17_4", "17_7"]),
        ("17_[1,5,...]", ["17_[...]", "17_1", "17_5"]),
        ("17_[1-...]", ["17_[...]", "17_1"]),
    ],
)
def test_the_ids_of_tasks_that_wait(listed, tasks):
    assert slurm_executor.expand(listed) == tasks


def test_a_task_beyond_a_list_that_is_cut_off_waits_with_the_others(answers):
    answers["squeue"].append(slurm_executor.read("17_[1,3,...]|PENDING"))
    states, failed = asyncio.run(slurm_executor.job_states("name", ["17_99", "18_1"], ["squeue"]))
    assert (states, failed) == ({"17_99": "PENDING"}, {})


def test_a_state_of_two_words_ends_a_job(original, answers):
    made = executor(slurm_executor.outlasting(original))
    answers["squeue"].append(slurm_executor.read("1|CANCELLED by 0\n"))
    assert look(made, [job(1)]) == []
    assert made.workflow.scheduler.failed == [1]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'sacct: error: Problem talking to the database' >&2; exit 1", "Problem talking"),
        ("exec sleep 9", "no answer"),
    ],
    ids=["fails", "hangs"],
)
def test_what_a_source_says_for_itself(tmp_path, monkeypatch, script, said):
    monkeypatch.setattr(slurm_executor, "TIMEOUT_S", 0.3)
    (tmp_path / "sacct").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(slurm_executor.NoAnswer, match=f"^sacct: .*{said}"):
        asyncio.run(slurm_executor.ask("sacct", "name"))


POLICY = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time)"
FAILED_CALL = "SLURM sbatch failed. The error message was '{}'.\n    sbatch call:\n        sbatch QOSMaxSubmit\n"


@pytest.fixture
def sbatch(original, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An executor whose sbatch says `says`, one after another, and then takes a job; what came of it."""
    made = SimpleNamespace(says=[], calls=[], errors=[])

    def run_job(self: Any, job: Any) -> None:
        made.calls.append(job)
        if made.says:
            said = FAILED_CALL.format(made.says.pop(0) if len(made.says) > 1 or made.passes else made.says[0])
            self._report_job_error_threadsafe(SimpleNamespace(job=job), said)

    monkeypatch.setattr(original, "run_job", run_job)
    monkeypatch.setattr(original, "_report_job_error_threadsafe", lambda self, info, msg: made.errors.append(msg))
    monkeypatch.setattr(slurm_executor, "RESUBMIT_S", 0.01)
    monkeypatch.setattr(slurm_executor.slurm, "jobs", lambda folder: [])
    monkeypatch.setattr(slurm_executor.slurm, "unfinished", lambda: {"7"})
    made.passes = True
    made.executor = executor(slurm_executor.outlasting(original))
    return made


@pytest.mark.parametrize(
    "said",
    [
        "Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "Batch job submission failed: Zero Bytes were transmitted or received",
        "Batch job submission failed: Resource temporarily unavailable",
        "Slurm temporarily unable to accept job, sleeping and retrying",
        "Batch job submission failed: Socket timed out on send/recv operation",
        "Batch job submission failed: Slurm backup controller in standby mode",
        "Munge encode failed: Failed to access /run/munge/munge.socket.2: No such file or directory",
        f"QOSMaxSubmitJobPerUserLimit\nsbatch: error: {POLICY}",
        f"AssocMaxSubmitJobLimit\nsbatch: error: {POLICY}",
        f"QOSGrpSubmitJobsLimit\nsbatch: error: {POLICY}",
        f"AssocGrpSubmitJobsLimit\nsbatch: error: {POLICY}",
        POLICY,
    ],
)
def test_what_passes_by_itself_is_waited_out_and_is_no_attempt(sbatch, said, caplog):
    sbatch.says = [f"sbatch: error: {said}"] * 3
    sbatch.executor.run_job(SimpleNamespace(jobid=1, name="train", wildcards=[]))
    assert (len(sbatch.calls), sbatch.errors) == (4, [])
    lines = [record.message for record in caplog.records if "no attempt" in record.message]
    assert len(lines) == 1 and "\n" not in lines[0]


@pytest.mark.parametrize(
    "said",
    [
        "Batch job submission failed: Invalid partition name specified",
        "Batch job submission failed: Invalid account or account/partition combination specified",
        f"QOSMaxWallDurationPerJobLimit\nsbatch: error: {POLICY}",
        f"AssocMaxCpuPerJobLimit\nsbatch: error: {POLICY}",
        f"QOSMaxMemoryPerJob\nsbatch: error: {POLICY}",
        "Batch job submission failed: Requested node configuration is not available",
        "Batch job submission failed: Invalid generic resource (gres) specification",
    ],
)
def test_what_does_not_pass_is_an_error_at_once(sbatch, said):
    sbatch.says = [f"sbatch: error: {said}"]
    sbatch.executor.run_job(SimpleNamespace(jobid=1))
    assert len(sbatch.calls) == 1
    assert sbatch.errors == [FAILED_CALL.format(f"sbatch: error: {said}")]


def test_a_slurmctld_that_never_answers_is_an_error_at_last(sbatch, monkeypatch):
    monkeypatch.setattr(slurm_executor, "PATIENCE_S", 0.1)
    sbatch.says, sbatch.passes = ["sbatch: error: Unable to contact slurm controller (connect failure)"], False
    sbatch.executor.run_job(SimpleNamespace(jobid=1))
    assert len(sbatch.calls) > 1
    assert sbatch.errors == [FAILED_CALL.format(sbatch.says[0])]


def test_a_slot_is_waited_for_longer_than_slurmctld(sbatch, monkeypatch):
    monkeypatch.setattr(slurm_executor, "PATIENCE_S", 0.0)
    sbatch.says = [f"sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: {POLICY}"] * 4
    sbatch.executor.run_job(SimpleNamespace(jobid=1))
    assert (len(sbatch.calls), sbatch.errors) == (5, [])


@pytest.mark.parametrize("said", ["QOSMaxSubmitJobPerUserLimit", "AssocMaxSubmitJobLimit", ""])
def test_a_limit_that_no_job_of_the_user_fills_never_becomes_free(sbatch, monkeypatch, said):
    monkeypatch.setattr(slurm_executor.slurm, "unfinished", lambda: set())
    sbatch.says, sbatch.passes = [f"sbatch: error: {said}\nsbatch: error: {POLICY}"], False
    sbatch.executor.run_job(SimpleNamespace(jobid=1))
    assert len(sbatch.calls) == 1 and "none of your jobs is queued" in sbatch.errors[0]


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_wait_of_a_submission(sbatch, way):
    made = sbatch.executor
    sbatch.says, sbatch.passes = [f"sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: {POLICY}"], False
    made._job_submission_executor.submit(made.run_job, SimpleNamespace(jobid=1))
    made._job_submission_executor.submit(made.run_job, SimpleNamespace(jobid=2))
    made._job_submission_executor.submit(made.run_job, SimpleNamespace(jobid=3))  # still to be submitted
    while len(sbatch.calls) < 4:
        threading.Event().wait(0.01)
    if way == "SIGTERM":
        made.workflow.scheduler._user_kill = "graceful"
    else:
        made._ending.set()
    made._job_submission_executor.shutdown(wait=True)
    assert len(sbatch.errors) == 3 and 3 not in {job.jobid for job in sbatch.calls}


def test_ctrl_c_submits_no_more_and_ends_where_scancel_cannot_reach_slurm(original, monkeypatch, caplog):
    from snakemake_interface_common.exceptions import WorkflowError

    def refuse(self: Any, jobs: Any) -> None:
        raise WorkflowError("Unable to cancel jobs with scancel (exit code 1): no controller")

    calls: list[str] = []
    monkeypatch.setattr(original, "cancel_jobs", refuse)
    monkeypatch.setattr(original, "shutdown", lambda self: calls.append("shutdown"))
    made = executor(slurm_executor.outlasting(original))
    made.lock, made.active_jobs = threading.Lock(), [job(1)]
    made.cancel()
    assert calls == ["shutdown"] and "recover.py --cancel" in caplog.text
    with pytest.raises(RuntimeError, match="after shutdown"):
        made._job_submission_executor.submit(print)


class ArraySbatch:
    """The plugin's `run_array_jobs` as far as it reports: sbatch says `says` of its calls, one after another."""

    def __init__(self, says: list[str]) -> None:
        self.says, self.calls, self.submitted, self.errors = says, [], [], []

    def run_array_jobs(self, made: Any, jobs: list[Any]) -> None:
        self.calls.append(([one.jobid for one in jobs], plugin.get_job_wildcards(jobs[0])))
        if said := self.says.pop(0) if self.says else "":
            made.logger.error(f"SLURM sbatch failed for array job submission. The error message was '{said}'.")
            for one in jobs:
                made._report_job_error_threadsafe(SimpleNamespace(job=one), "Part of failed array sbatch submission")
        else:
            self.submitted += [one.jobid for one in jobs]


@pytest.mark.parametrize(
    ("says", "alone", "refused"),
    [
        ([], [], []),
        (["sbatch: error: Resource temporarily unavailable"] * 2, [], []),
        ([f"sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: {POLICY}"], [1, 2, 3], []),
        (["sbatch: error: Invalid partition name specified"], [], [1, 2, 3]),
    ],
    ids=["taken", "momentary", "limit", "permanent"],
)
def test_an_array_is_submitted_as_a_job_is(original, monkeypatch, caplog, says, alone, refused):
    array, single, errors = ArraySbatch(list(says)), [], []
    monkeypatch.setattr(original, "run_array_jobs", lambda self, jobs: array.run_array_jobs(self, jobs))
    monkeypatch.setattr(original, "run_job", lambda self, job: single.append(job.jobid))
    monkeypatch.setattr(original, "_report_job_error_threadsafe", lambda self, info, msg: errors.append(info.job.jobid))
    monkeypatch.setattr(slurm_executor, "RESUBMIT_S", 0.01)
    monkeypatch.setattr(slurm_executor.slurm, "jobs", lambda folder: [])
    monkeypatch.setattr(slurm_executor.slurm, "unfinished", lambda: {"7"})
    made = executor(slurm_executor.outlasting(original))
    jobs = [SimpleNamespace(jobid=number, name="train", wildcards=["d", "m", "full"]) for number in (1, 2, 3)]
    made.run_array_jobs(jobs)
    assert (single, errors, array.submitted) == (alone, refused, [] if alone or refused else [1, 2, 3])
    assert {wildcards for _, wildcards in array.calls} == {""}  # no arm's name for all of them
    assert plugin.get_job_wildcards(jobs[0]) == "d_m_full"
    assert ("Invalid partition" in caplog.text) == bool(refused)


def test_an_array_whose_answer_is_lost_is_not_submitted_again(original, monkeypatch):
    array, submitted = ArraySbatch(["sbatch: error: Zero Bytes were transmitted or received"]), []
    monkeypatch.setattr(original, "run_array_jobs", lambda self, jobs: array.run_array_jobs(self, jobs))
    monkeypatch.setattr(
        original, "_report_job_submission_threadsafe", lambda self, info: submitted.append(info.external_jobid)
    )
    monkeypatch.setattr(slurm_executor, "RESUBMIT_S", 0.01)
    made = executor(slurm_executor.outlasting(original))
    waits = ("PENDING", "Resources", "", "rule_train", made.run_uuid)
    monkeypatch.setattr(slurm_executor.slurm, "jobs", lambda folder: [Job(f"17_{n}", *waits) for n in (1, 2)])
    made.run_array_jobs([SimpleNamespace(jobid=n, name="train", wildcards=["d"]) for n in (4, 5)])
    assert (submitted, len(array.calls)) == (["17_1", "17_2"], 1)


@pytest.mark.parametrize("arrived", [True, False])
def test_a_submission_whose_answer_is_lost_is_looked_for_before_the_next(original, monkeypatch, arrived):
    calls, errors, submitted = [], [], []

    def run_job(self: Any, job: Any) -> None:
        calls.append(job)
        if len(calls) == 1:
            said = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
            self._report_job_error_threadsafe(SimpleNamespace(job=job), said)

    monkeypatch.setattr(original, "run_job", run_job)
    monkeypatch.setattr(original, "_report_job_error_threadsafe", lambda self, info, msg: errors.append(msg))
    monkeypatch.setattr(original, "_report_job_submission_threadsafe", lambda self, info: submitted.append(info))
    monkeypatch.setattr(slurm_executor, "RESUBMIT_S", 0.01)
    made = executor(slurm_executor.outlasting(original))
    made._ids.add("6")  # an attempt before, about to end
    train = ("RUNNING", "None", "node1", "rule_train_wildcards_a_b")
    others = [Job("4", *train, "another call"), Job("5", *train[:3], "rule_train_wildcards_c_d", made.run_uuid)]
    answers = [slurm.NoAnswer("busy"), [*others, *(Job(number, *train, made.run_uuid) for number in ("6", "7"))]]

    def jobs(folder: Any) -> list[Job]:
        found = answers.pop(0)
        if isinstance(found, slurm.NoAnswer):
            raise found
        return found if arrived else found[:-1]

    monkeypatch.setattr(slurm_executor.slurm, "jobs", jobs)
    made.run_job(SimpleNamespace(jobid=1, name="train", wildcards=["a", "b"]))
    assert (len(calls), [info.external_jobid for info in submitted]) == ((1, ["7"]) if arrived else (2, []))
    assert errors == []


@pytest.mark.parametrize(
    ("submitted", "left", "cleaned"), [(True, [], 1), (True, ["7"], 0), (False, [], 0)], ids=["done", "jobs", "none"]
)
def test_log_folders_stay_while_jobs_of_the_folder_are_left(original, monkeypatch, submitted, left, cleaned):
    """A job that waits fails at its start without the folder of its log."""
    calls = []
    monkeypatch.setattr(original, "clean_old_logs", lambda self: calls.append(1))
    monkeypatch.setattr(slurm_executor.slurm, "jobs", lambda folder: left)
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


def test_what_stands_before_the_plugins_says_what_it_does_without():
    ours = vars(slurm_executor.Outlasting)
    overrides = [name for name, of in ours.items() if callable(of) and hasattr(plugin.Executor, name)]
    opens = [slurm_executor._open_states, slurm_executor._open_wildcards]
    assert "check_active_jobs" in overrides and "run_job" in overrides
    silent = [
        each.__name__ for each in (*map(ours.get, overrides), *opens) if "plugin" not in (each.__doc__ or "").lower()
    ]
    assert not silent


@pytest.mark.parametrize(
    "reason", ["180 s", "SQUEUE_STATES", "for ever", "a second time", "CANCELLED by", "within a second"]
)
def test_no_reason_is_lost(reason):
    assert reason in Path(slurm_executor.__file__).read_text()

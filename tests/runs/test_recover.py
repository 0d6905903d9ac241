"""The way back after Snakemake was killed refuses while one lives: here, elsewhere, or begun meanwhile."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from lock_holder import holder
from peft_tradeoffs.core import slurm
from peft_tradeoffs.runs import lock
from peft_tradeoffs.runs.lock import LOCKS, Owner, is_snakemake

UUID = "13f32f26-3e76-4285-b0bf-0f28cc44a36f"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that a Snakemake had locked."""
    folder = tmp_path / "work"
    (folder / LOCKS).mkdir(parents=True)
    (folder / LOCKS / "0.output.lock").write_text("results/tables/runs.csv\n")
    return folder


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What squeue prints here."""
    path = tmp_path / "bin/queue"
    path.parent.mkdir()
    path.touch()
    (path.parent / "squeue").write_text('#!/bin/sh\ncat "$(dirname "$0")/queue"\n')
    (path.parent / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without Slurm's commands."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def recover(folder: Path, *words: str) -> subprocess.Popen[str]:
    script = tiny.REPOSITORY / "workflow_scripts/recover.py"
    command = [sys.executable, str(script), "--directory", str(folder), "--interval", "0.1", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def recovered(folder: Path, *words: str) -> tuple[int, str]:
    """Exit status and what was said on stderr."""
    process = recover(folder, *words)
    said = process.communicate(timeout=600)[1]
    return process.returncode, said


@pytest.fixture
def snakemake() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes to be ended after the test."""
    begun: list[subprocess.Popen[str]] = []
    yield begun
    for process in begun:
        process.kill()
        process.wait()


def begin(tmp_path: Path, folder: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    """A process that looks like a Snakemake at work in the folder."""
    script = tmp_path / "snakemake"
    script.write_text("import sys; print('works', flush=True); sys.stdin.read()")
    process = subprocess.Popen(
        [sys.executable, *words, str(script)],
        cwd=folder, env={**os.environ, **variables}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "works\n"
    return process


def record(folder: Path, **changes: object) -> None:
    """The lock's owner, as the Snakemake that began there wrote it: this process but for the changes."""
    owner = dataclasses.replace(Owner.here(), **changes)
    (folder / LOCKS / f"{owner.host}.{owner.pid}.json").write_text(json.dumps(dataclasses.asdict(owner)))


def locked(folder: Path) -> bool:
    return (folder / LOCKS / "0.output.lock").exists()


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ("/venv/bin/python /venv/bin/snakemake --cores 2", True),
        ("/venv/bin/python3.11 -u -m snakemake -n", True),
        ("python -X dev -Im snakemake", True),
        ("python -W ignore -msnakemake --cores 1", True),
        ("python /x/site-packages/snakemake/__main__.py --cores 1", True),
        ("snakemake --cores 2", True),
        ("python -m snakemake --snakefile S --target-jobs train: --mode remote", False),
        ("python -m pytest snakemake", False),
        ("python train.py -m snakemake", False),
        ("python -c print() snakemake", False),
        ("vim snakemake", False),
        ("tmux new snakemake", False),
        ("", False),
    ],
)
def test_which_processes_are_snakemake(line: str, is_one: bool) -> None:
    assert is_snakemake(line.split()) == is_one


@pytest.mark.parametrize("variables", [{}, {"SLURM_JOB_ID": "7"}], ids=["here", "in_a_job_of_its_own"])
def test_one_that_lives_is_refused(tmp_path, folder, queue, snakemake, variables) -> None:
    snakemake.append(begin(tmp_path, folder, "-u", **variables))
    code, said = recovered(folder)
    assert (code, f"(process {snakemake[0].pid})" in said, locked(folder)) == (1, True, True)


def test_one_that_began_while_jobs_ended_is_refused(tmp_path, folder, queue, snakemake) -> None:
    queue.write_text(f"8|{UUID}|RUNNING|None|node1|rule_all|{folder}\n")
    process = recover(folder)
    assert process.stdout.readline() == "1 job left:\n"
    snakemake.append(begin(tmp_path, folder))
    queue.write_text("")
    said = process.communicate(timeout=600)[1]
    assert (process.returncode, f"(process {snakemake[0].pid})" in said, locked(folder)) == (1, True, True)


def test_the_recorded_owner_is_refused_whatever_its_command_line(folder, queue) -> None:
    record(folder)
    code, said = recovered(folder, "--not-running")
    assert (code, f"(process {os.getpid()})" in said, locked(folder)) == (1, True, True)


@pytest.mark.parametrize(
    "gone",
    [{"started": 1}, {"machine": "another-boot pid:[1]"}],
    ids=["its_number_is_another_process's", "this_machine_was_started_again"],
)
def test_an_owner_that_is_gone_is_not_in_the_way(folder, queue, gone) -> None:
    record(folder, **gone)
    assert recovered(folder)[0] == 0
    assert not locked(folder)


@pytest.mark.parametrize(
    "where",
    [{"host": "login2", "machine": "another-boot pid:[1]"}, {"machine": f"{lock.machine().split()[0]} pid:[1]"}],
    ids=["login_node", "container"],
)
def test_an_owner_elsewhere_is_named_and_refused_unless_it_is_known_to_be_gone(folder, queue, where) -> None:
    record(folder, **where)
    code, said = recovered(folder)
    host = where.get("host", socket.gethostname())
    assert (code, f"another machine, {host} (process {os.getpid()}" in said, locked(folder)) == (1, True, True)
    assert recovered(folder, "--not-running")[0] == 0
    assert not locked(folder)


def test_without_squeue_jobs_that_were_submitted_are_no_guess(folder, no_slurm) -> None:
    (folder / ".snakemake/slurm_logs").mkdir()
    code, said = recovered(folder)
    assert (code, "no squeue" in said, locked(folder)) == (1, True, True)
    assert recovered(folder, "--not-running")[0] == 0
    assert not locked(folder)


def test_without_slurm_there_are_no_jobs(folder, no_slurm) -> None:
    assert recovered(folder)[0] == 0
    assert not locked(folder)


@pytest.fixture
def no_answer(queue) -> None:
    """squeue is installed, but no cluster is configured."""
    (queue.parent / "squeue").write_text("#!/bin/sh\necho 'squeue: error: no cluster configured' >&2; exit 1\n")


def test_a_slurm_that_does_not_answer_is_in_the_way_of_no_folder_that_never_submitted(folder, no_answer) -> None:
    process = recover(folder)
    said = process.communicate(timeout=600)[0]
    assert "Slurm does not answer (squeue: error: no cluster configured): no job was ever submitted" in said
    assert (process.returncode, locked(folder)) == (0, False)


def test_the_wait_for_slurm_has_an_end_and_not_running_skips_it(folder, no_answer) -> None:
    (folder / ".snakemake/slurm_logs").mkdir()
    code, said = recovered(folder, "--no-answer", "0.5")
    assert "waits for Slurm to answer, up to 0 s: squeue:" in said
    assert (code, "try again later, or, if no job of this folder can run any more" in said) == (1, True)
    assert locked(folder)
    assert recovered(folder, "--not-running")[0] == 0
    assert not locked(folder)


def trains(run: Path) -> subprocess.Popen[str]:
    """A process that has a run's lock until its input ends, as train.py does."""
    process = holder(run)
    assert process.stdout.readline() == "has it\n"
    return process


@pytest.mark.parametrize("place", ["work/results", "elsewhere"])
def test_training_that_goes_on_here_is_named_and_waited_for(tmp_path, folder, no_slurm, snakemake, place) -> None:
    run = tmp_path / place / "runs/d/m/full/seed0"
    with (folder / LOCKS / "0.output.lock").open("a") as listing:
        listing.write(f"{run}/summary.json\n")
    snakemake.append(trains(run))
    process = recover(folder)
    lines = [process.stdout.readline() for _ in range(3)]
    assert lines[1] == "still at work:\n" and f"process {snakemake[0].pid} trains " in lines[2]
    assert "runs/d/m/full/seed0 (since " in lines[2] and locked(folder)
    snakemake[0].stdin.close()
    said = process.communicate(timeout=600)[0]
    assert f"seed0: process {snakemake[0].pid} is done with it" in said
    assert (process.returncode, locked(folder)) == (0, False)


def test_cancel_ends_training_that_goes_on_here(tmp_path, folder, no_slurm, snakemake) -> None:
    snakemake.append(trains(folder / "results/runs/d/m/full/seed0"))
    assert recovered(folder, "--cancel")[0] == 0
    assert snakemake[0].wait(timeout=600) == -signal.SIGTERM


def forged(run: Path, pid: int, started: int | None = None) -> None:
    """A lock file of the run that names a process of this machine, its start time and all."""
    run.parent.mkdir(parents=True, exist_ok=True)
    owner = dataclasses.replace(Owner.here(), pid=pid, started=started or lock.process_started(pid))
    (run.parent / f".{run.name}.lock.1").write_text(json.dumps(dataclasses.asdict(owner)))


@pytest.mark.parametrize("kind", ["stranger", "trains_another_run", "ended"])
def test_cancel_ends_no_process_that_a_forged_lock_names(folder, no_slurm, snakemake, kind) -> None:
    run = folder / "results/runs/d/m/full/seed0"
    other = run.with_name("seed1")
    if kind == "trains_another_run":
        process = trains(folder.parent / "elsewhere" / other.name)
    else:
        process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()", str(run)], stdin=-1)
    snakemake.append(process)
    forged(run, process.pid, started=1 if kind == "ended" else None)
    assert recovered(folder, "--cancel")[0] == 0
    assert process.poll() is None and not locked(folder)
    process.stdin.close()


def test_cancel_leaves_a_process_that_it_cannot_look_into(folder, monkeypatch) -> None:
    """Another user's, whose open files /proc does not show."""
    from peft_tradeoffs.runs import lock

    forged(folder / "results/runs/d/m/full/seed0", os.getpid())
    monkeypatch.setattr(lock, "holds", lambda pid, path: None)
    (orphan,) = lock.at_work(folder)
    assert not orphan.known
    sys.path.insert(0, str(tiny.REPOSITORY / "workflow_scripts"))
    import recover as script

    with pytest.raises(script.InputError, match=r"seed0: its lock names process .*another user"):
        script.end_processes(folder, SimpleNamespace(cancel=True, interval=0.1))


@pytest.mark.parametrize(
    "name", ["two\nlines", "a|b", "99|RUNNING", "\x1b[31mred\t", "8|x|RUNNING|None|node1|rule_all|/", "", "é·😀"]
)
def test_the_name_of_another_job_is_in_nobodys_way(folder, queue, name) -> None:
    queue.write_text(
        f"7|{name}|RUNNING|None|node1||{folder}\n8|{UUID}|PENDING|Resources||rule_train_wildcards_a|{folder}\n"
        f"9_[1-3]|{UUID}|PENDING|Resources||rule_train|{folder}\n"
    )
    assert [job.id for job in slurm.jobs(folder)] == ["8", "9_[1-3]"]

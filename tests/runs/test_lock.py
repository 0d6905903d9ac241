"""A run has one writer: on one machine, and on several that share nothing but its folder."""

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny
from lock_holder import holder
from peft_tradeoffs.core.errors import InputError, LockLost
from peft_tradeoffs.runs import lock
from peft_tradeoffs.runs.lock import BEAT_S, MISSED, Owner, RunLock


def files(run: Path) -> list[Path]:
    return sorted(run.parent.glob(f".{run.name}.*"))


def elsewhere(run: Path, age_s: float, job: int | None = None, number: int = 1) -> Path:
    """A lock of a process on another machine whose last beat was `age_s` ago."""
    owner = dataclasses.replace(Owner.here(), host="node7", machine="another", pid=4711, slurm_job_id=job)
    path = run.with_name(f".{run.name}.lock.{number}")
    path.write_text(json.dumps(dataclasses.asdict(owner)))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(lock, "POLL_S", 0.02)
    return tmp_path / "arm/seed0"


def test_the_second_says_who_has_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    first, second = RunLock(run), RunLock(run)
    first.acquire()
    who = rf"another process trains this run: process {os.getpid()} on \S+, SLURM job 77, since 20\d\d-.*or end it"
    with pytest.raises(InputError, match=who):
        second.acquire()
    first.release()
    assert files(run) == []
    second.acquire()
    second.confirm()
    second.release()
    assert files(run) == []


def test_a_killed_owner_of_this_machine_is_succeeded_at_once(run: Path) -> None:
    first = holder(run)
    assert first.stdout.readline() == "has it\n"
    with pytest.raises(InputError, match=f"process {first.pid} on"):
        RunLock(run).acquire()
    first.kill()
    first.wait()
    begun = time.monotonic()
    second = RunLock(run)
    second.acquire()
    assert time.monotonic() - begun < 1
    assert [path.name for path in files(run)] == [".seed0.lock.2"]
    second.release()


def test_a_stopped_owner_of_this_machine_keeps_it(run: Path) -> None:
    """However old its last beat: it may go on at any time."""
    first = RunLock(run)
    first.acquire()
    os.utime(files(run)[0], (0, 0))
    with pytest.raises(InputError, match="another process"):
        RunLock(run).acquire()
    first.release()


def test_another_process_with_the_owners_number_is_not_the_owner(run: Path) -> None:
    run.parent.mkdir()
    owner = dataclasses.replace(Owner.here(), started=1)
    run.with_name(".seed0.lock.1").write_text(json.dumps(dataclasses.asdict(owner)))
    taken = RunLock(run)
    taken.acquire()
    taken.release()


@pytest.mark.parametrize(
    ("age_s", "job", "job_runs", "dead"),
    [
        (0, None, None, False),
        (MISSED * BEAT_S - 5, None, None, False),
        (MISSED * BEAT_S + 5, None, None, True),
        (2 * BEAT_S + 5, 12, False, True),
        (2 * BEAT_S + 5, 12, True, False),
        (2 * BEAT_S + 5, 12, None, False),
        (0, 12, False, False),  # cut off from SLURM, but it beats
        (MISSED * BEAT_S + 5, 12, True, True),
    ],
)
def test_an_owner_elsewhere_lives_by_its_beats(
    run: Path, monkeypatch: pytest.MonkeyPatch, age_s: float, job: int | None, job_runs: bool | None, dead: bool
) -> None:
    run.parent.mkdir()
    elsewhere(run, age_s, job)
    monkeypatch.setattr(lock, "job_is_running", lambda number: job_runs)
    mine = RunLock(run)
    if dead:
        mine.acquire()
        assert [path.name for path in files(run)] == [".seed0.lock.2"]
        mine.release()
    else:
        with pytest.raises(InputError, match="process 4711 on node7"):
            mine.acquire()
        assert [path.name for path in files(run)] == [".seed0.lock.1"]


def test_clocks_of_machines_may_differ(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ages are the file system's: a clock an hour ahead takes no lock from the living."""
    run.parent.mkdir()
    elsewhere(run, 5)
    hour_ahead = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: hour_ahead)
    with pytest.raises(InputError, match="node7"):
        RunLock(run).acquire()


@pytest.mark.parametrize("beats", [False, True])
def test_a_servers_clock_that_was_set_back_keeps_no_run_for_ever(
    run: Path, monkeypatch: pytest.MonkeyPatch, beats: bool
) -> None:
    """The last beat of an owner elsewhere is of the future: it lives if it beats on."""
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    run.parent.mkdir(parents=True)
    path = elsewhere(run, age_s=-600.0)
    beating = threading.Timer(0.1, os.utime, [path])
    if beats:
        beating.start()
        with pytest.raises(InputError, match="another process trains this run"):
            RunLock(run).acquire()
        beating.join()
    else:
        mine = RunLock(run)
        mine.acquire()
        mine.release()


def test_it_waits_for_an_orphan_and_says_so(run: Path, capsys: pytest.CaptureFixture) -> None:
    first = holder(run)
    assert first.stdout.readline() == "has it\n"
    threading.Timer(0.5, first.stdin.close).start()
    mine = RunLock(run)
    mine.acquire(wait_s=60)
    assert capsys.readouterr().err.count(f"waits up to 60 s for {run}: process {first.pid} on") == 1
    mine.release()
    first.wait()


def test_of_many_takers_one_wins(run: Path) -> None:
    run.parent.mkdir()
    for attempt in range(3):
        elsewhere(run, 1000, number=attempt + 1)
        takers = [holder(run) for _ in range(6)]
        said = [taker.stdout.readline() for taker in takers]
        assert said.count("has it\n") == 1
        for taker in takers:
            taker.stdin.close()
            assert taker.wait() in (0, 1)
        assert len(files(run)) <= 1


def test_many_threads_take_turns(run: Path) -> None:
    """Hundreds of take-overs and give-backs: never two owners at a time."""
    inside, most, turns = [], [], []

    def work() -> None:
        for _ in range(8):
            mine = RunLock(run)
            mine.acquire(wait_s=60)
            inside.append(1)
            most.append(len(inside))
            mine.confirm()
            inside.pop()
            turns.append(1)
            mine.release()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (max(most), len(turns)) == (1, 48)


def test_a_late_taker_gives_way(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It saw a dead lock; before it makes its own, another takes that over, gives it back, and a third begins."""
    run.parent.mkdir()
    elsewhere(run, 1000, number=3)
    third, late = RunLock(run), RunLock(run)
    real = os.open

    def slowly(path, *words, **named):
        if str(path).endswith(".lock.4"):
            monkeypatch.setattr(os, "open", real)
            run.with_name(".seed0.lock.3").unlink()
            third.acquire()
        return real(path, *words, **named)

    monkeypatch.setattr(os, "open", slowly)
    with pytest.raises(InputError):
        late.acquire()
    third.confirm()
    assert [path.name for path in files(run)] == [".seed0.lock.1"]
    third.release()


@pytest.mark.parametrize("how", ["removed", "another's"])
def test_an_owner_that_lost_it_writes_no_more(run: Path, how: str) -> None:
    first = RunLock(run)
    first.acquire()
    (path,) = files(run)
    path.unlink()
    if how == "another's":
        elsewhere(run, 0)
    first.check()  # nobody looked yet
    with pytest.raises(LockLost, match="another took the run over"):
        first.confirm()
    with pytest.raises(LockLost):
        first.check()
    first.release()
    assert len(files(run)) == (how == "another's")


def test_a_run_directory_that_lost_its_lock_saves_nothing(run: Path) -> None:
    import torch
    from peft_tradeoffs.training.job import RunDirectory

    directory = RunDirectory(run, "f", 60)
    directory.lock()
    directory.save({"weights": torch.zeros(3)})
    directory.attempts.begin()
    before = {path: path.stat().st_mtime_ns for path in (run / "state").iterdir()}
    files(run)[0].unlink()
    for write in (
        *(lambda: directory.save({"weights": torch.ones(3)}), lambda: directory.publish({}), directory.confirm),
        lambda: directory.attempts.end("error"),
    ):
        with pytest.raises(LockLost):
            write()
    assert {path: path.stat().st_mtime_ns for path in (run / "state").iterdir()} == before
    directory.unlock()


STANDS = """
import sys
sys.path.insert(0, {scripts!r})
from pathlib import Path
from peft_tradeoffs.runs import lock
lock.BEAT_S = 1.0
mine = lock.RunLock(Path({run!r}), lambda stood_still_s: print(stood_still_s, flush=True))
mine.acquire()
sys.stdin.read()
"""


def test_it_tells_how_long_the_process_stood_still(run: Path) -> None:
    script = STANDS.format(scripts=str(tiny.REPOSITORY / "workflow_scripts"), run=str(run))
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, text=True)
    assert float(process.stdout.readline()) == 0
    time.sleep(0.2)  # its wait for the next has begun
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    told = map(float, itertools.islice(process.stdout, 100))
    assert 1.5 < next(seconds for seconds in told if seconds) < 60
    process.stdin.close()
    assert process.wait() == 0


def test_it_beats(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.02)
    beats = threading.Event()
    mine = RunLock(run, lambda stood_still_s: beats.set())
    mine.acquire()
    (path,) = files(run)
    os.utime(path, (0, 0))
    assert beats.wait(200)
    assert path.stat().st_mtime > 1e9
    path.unlink()
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        try:
            mine.check()
        except LockLost:
            break
        time.sleep(0.01)
    else:
        raise AssertionError("a beat did not find it lost")
    mine.release()

"""Leases of several GPUs for one job: all of them or none, whoever else wants them, however the job ends."""

import fcntl
import multiprocessing
import os
import random
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.quantities import Missing
from peft_tradeoffs.measure import devices
from peft_tradeoffs.measure.devices import Device, Held, Lease, acquire, lease

GPUS = ["b3", "a0", "c7", "d1"]
AT_MOST_S = 20.0  # far more than any order of jobs takes
FORKS = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "POLL_S", 0.001)


def give_back(leases: list[Lease]) -> None:
    for each in leases:
        os.close(each.descriptor)


class Job:
    """A process that takes GPUs, says which, and keeps them until it is ended."""

    def __init__(self, folder: Path, uuids: list[str], count: int) -> None:
        self._said, says = FORKS.Pipe(duplex=False)
        self.process: BaseProcess = FORKS.Process(target=_take, args=(folder, uuids, count, says), daemon=True)
        self.process.start()
        says.close()
        self._uuids = uuids

    def has(self, within_s: float = AT_MOST_S) -> list[str] | None:
        """The GPUs that it took; None if it still waits after so long."""
        return [self._uuids[index] for index in self._said.recv()] if self._said.poll(within_s) else None

    def kill(self) -> None:
        """With SIGKILL."""
        self.process.kill()
        self.process.join()


def _take(folder: Path, uuids: list[str], count: int, says: Connection) -> None:
    says.send([each.index for each in acquire(uuids, folder=folder, count=count)])
    time.sleep(1000)


@pytest.fixture
def jobs() -> Iterator[list[Job]]:
    started: list[Job] = []
    yield started
    for job in started:
        job.kill()


def start(jobs: list[Job], folder: Path, uuids: list[str], count: int) -> Job:
    jobs.append(Job(folder, uuids, count))
    return jobs[-1]


def waiting(job: Job) -> bool:
    return job.has(0.3) is None


@pytest.mark.parametrize("seed", range(50))
def test_jobs_of_one_and_two_gpus_in_any_order_never_wait_for_each_other_and_share_none(tmp_path: Path, seed: int):
    draw = random.Random(seed)
    on: dict[str, int] = dict.fromkeys(GPUS[:2], 0)
    shared: list[str] = []
    done: list[int] = []

    def job(count: int, uuids: list[str], starts_s: float, holds_s: float) -> None:
        time.sleep(starts_s)
        leases = acquire(uuids, folder=tmp_path, count=count)
        own = [uuids[each.index] for each in leases]
        for uuid in own:
            on[uuid] += 1
            shared.extend([uuid] * (on[uuid] > 1))
        time.sleep(holds_s)
        for uuid in own:
            on[uuid] -= 1
        give_back(leases)
        done.append(len(set(own)))

    counts = [1, 1, 1, 2, 2, 2]
    draw.shuffle(counts)
    threads = [
        threading.Thread(
            target=job,
            args=(count, draw.sample(GPUS[:2], 2), draw.uniform(0, 0.01), draw.uniform(0, 0.01)),
            daemon=True,
        )
        for count in counts
    ]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + AT_MOST_S
    for thread in threads:
        thread.join(max(0.0, ends - time.monotonic()))
    assert not [thread for thread in threads if thread.is_alive()]
    assert sorted(done) == sorted(counts)
    assert not shared


def test_one_that_collects_keeps_what_it_has_got(tmp_path: Path, jobs: list[Job], capfd: pytest.CaptureFixture[str]):
    """Else jobs of one GPU, which take what is free, would always be before it."""
    first, _ = start(jobs, tmp_path, GPUS[:2], 1), jobs[0].has()
    several = start(jobs, tmp_path, GPUS[:2], 2)
    assert waiting(several)
    one = start(jobs, tmp_path, GPUS[:2], 1)
    assert waiting(one)
    said = capfd.readouterr().out
    pids = [job.process.pid for job in jobs]
    assert f"waits for 2 GPUs, has {GPUS[1]}: taken are {GPUS[0]} by process {pids[0]}\n" in said
    assert f"taken are {GPUS[0]} by process {pids[0]}, {GPUS[1]} by process {pids[1]}\n" in said
    first.kill()
    if one.has(0.3):  # it came before
        one.kill()
    assert several.has() == GPUS[:2]


def test_of_two_that_collect_one_waits_for_the_other(
    tmp_path: Path, jobs: list[Job], capfd: pytest.CaptureFixture[str]
) -> None:
    single = start(jobs, tmp_path, GPUS[:1], 1)
    assert single.has() == GPUS[:1]
    first = start(jobs, tmp_path, GPUS[:3], 3)
    assert waiting(first)
    second = start(jobs, tmp_path, GPUS[2::-1], 2)
    assert waiting(second)
    assert f"waits for 2 GPUs: first come those of process {first.process.pid}\n" in capfd.readouterr().out
    single.kill()
    assert first.has() == GPUS[:3]
    assert waiting(second)
    first.kill()
    assert len(second.has() or ()) == 2  # whichever the kernel frees first


def test_a_job_does_not_wait_for_gpus_that_it_does_not_see(tmp_path: Path, jobs: list[Job]) -> None:
    assert start(jobs, tmp_path, GPUS[:1], 1).has() == GPUS[:1]
    assert waiting(start(jobs, tmp_path, GPUS[:2], 2))
    assert start(jobs, tmp_path, GPUS[2:], 2).has() == GPUS[2:]


def test_one_that_waits_for_another_to_collect_holds_nothing(tmp_path: Path, jobs: list[Job]) -> None:
    """Neither a GPU nor the gate of one that the other does not see."""
    assert start(jobs, tmp_path, ["d1"], 1).has() == ["d1"]
    assert waiting(start(jobs, tmp_path, ["c7", "d1"], 2))
    assert waiting(start(jobs, tmp_path, ["a0", "c7"], 2))
    assert start(jobs, tmp_path, ["b3", "a0"], 2).has() == ["b3", "a0"]


@pytest.mark.parametrize("count", [1, 2])
def test_one_that_is_killed_while_it_collects_leaves_all_to_the_next(tmp_path: Path, jobs: list[Job], count: int):
    assert start(jobs, tmp_path, GPUS[:1], 1).has() == GPUS[:1]
    killed = start(jobs, tmp_path, GPUS[:3], 3)
    assert waiting(killed)
    after = start(jobs, tmp_path, GPUS[1:3], count)
    assert waiting(after)
    killed.kill()
    assert len(after.has() or ()) == count


def test_one_that_is_told_to_end_while_it_collects_leaves_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (held,) = acquire(GPUS[:1], folder=tmp_path)

    def told(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(devices.time, "sleep", told)
        acquire(GPUS[:2], folder=tmp_path, count=2)
    os.close(held.descriptor)
    give_back(acquire(GPUS[:2], folder=tmp_path, count=2))


@pytest.mark.parametrize("its_lease", ["free", "held"])
def test_a_gate_of_another_user_is_passed_over_where_a_gpu_stays_free_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], its_lease: str
) -> None:
    gate = tmp_path / f"peft-tradeoffs-{GPUS[0]}.gate.lock"
    gate.write_text("4711")
    monkeypatch.setattr(devices, "_is_another_users", lambda path: path == gate)
    monkeypatch.setattr(devices, "IDLE_S", 0.3)
    held = acquire(GPUS[:1], folder=tmp_path) if its_lease == "held" else []
    with gate.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        later = threading.Timer(1.0, file.close)  # the holder ends
        later.start()
        began = time.monotonic()
        threading.Timer(1.0, give_back, [held]).start()
        leases = acquire(GPUS[:2], folder=tmp_path, count=2)
        waited_s = time.monotonic() - began
        later.join()
    give_back(leases)
    passed = f"takes the gate of GPU {GPUS[0]}: another user's process 4711 has held" in capfd.readouterr().out
    assert passed == (its_lease == "free")
    assert waited_s < 0.9 if passed else waited_s > 0.9


@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder"])
def test_a_planted_gate_is_refused(tmp_path: Path, kind: str) -> None:
    gate = tmp_path / f"peft-tradeoffs-{GPUS[1]}.gate.lock"
    {"symlink": lambda: gate.symlink_to(tmp_path / "new"), "fifo": lambda: os.mkfifo(gate), "folder": gate.mkdir}[
        kind
    ]()
    with pytest.raises(InputError, match=r"lease.*remove it"):
        acquire(GPUS[:2], folder=tmp_path, count=2)
    assert not (tmp_path / "new").exists()


# What a job holds -----------------------------------------------------------------------------------------------------


class Idle:
    """A first reading of idle power."""

    def finish(self, gpu: str) -> float | Missing:
        return {"0": 70.0, "1": 75.5}.get(gpu, Missing("the GPU could not be read at the process's start"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Three GPUs, the last of which NVML cannot read, with leases in a folder of the test's own."""
    monkeypatch.setattr(devices, "visible_uuids", lambda: GPUS[:3])
    monkeypatch.setattr(devices.Gpu, "find", lambda index: str(index))
    monkeypatch.setattr(devices.acquire, "__defaults__", (tmp_path, None, 1))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")


def test_fewer_gpus_than_a_run_is_to_have(machine: None) -> None:
    with pytest.raises(InputError) as caught:
        lease(4, "training.gpus (or methods.full.gpus)")
    assert str(caught.value) == (
        "config key training.gpus (or methods.full.gpus): 4 GPUs per run, but this job sees 3 GPUs "
        "(CUDA_VISIBLE_DEVICES: 0,1,2); set 3, or give it as many (under SLURM by the resource gpu or gres)"
    )


def test_idle_power_is_that_of_all_gpus_of_the_job(machine: None) -> None:
    held = lease(2, "training.gpus", Idle())
    assert held.indices == [0, 1] and held.idle_W == [70.0, 75.5]
    assert device(held).idle_power_W == 145.5


@pytest.mark.parametrize(
    ("idle_W", "reason"),
    [([70.0, Missing("not read")], "rank 1: not read"), ([Missing("not read")], "not read")],
)
def test_idle_power_is_missing_where_it_is_of_one_gpu(idle_W: list[float | Missing], reason: str) -> None:
    assert device(Held([0, 1], idle_W, 0.0)).idle_power_W == Missing(reason)


def device(held: Held) -> Device:
    return Device(None, None, None, held.idle_W, held.waited_s)  # type: ignore[arg-type]

"""The lease of a GPU, contended for by real processes."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.measure import devices
from peft_tradeoffs.measure.devices import acquire
from recorded_nvml import OTHER_UUID, UUID

UUIDS = [UUID, OTHER_UUID]
HOLDER = """
import sys
from pathlib import Path
from peft_tradeoffs.measure.devices import acquire
(lease,) = acquire(sys.argv[2:], folder=Path(sys.argv[1]))
print(lease.index, flush=True)
sys.stdin.read()
"""


class Holder:
    """Another process that takes a lease and keeps it until it ends."""

    def __init__(self, folder: Path, *uuids: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, folder, *uuids],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tiny.REPOSITORY / "workflow_scripts",
        )
        self.index = int(self.process.stdout.readline())
        self.pid = self.process.pid

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def kill(self) -> None:
        self.process.kill()
        self.end()


@pytest.fixture
def holders(tmp_path) -> Iterator[list[Holder]]:
    started: list[Holder] = []
    yield started
    for holder in started:
        if holder.process.returncode is None:
            holder.end()


def test_jobs_take_gpus_of_their_own(tmp_path, holders):
    holders.append(Holder(tmp_path, *UUIDS))
    assert holders[0].index == 0
    (lease,) = acquire(UUIDS, folder=tmp_path)
    assert lease.index == 1
    os.close(lease.descriptor)
    (lease,) = acquire(UUIDS, folder=tmp_path)
    assert lease.index == 1
    os.close(lease.descriptor)


@pytest.mark.parametrize("ending", [Holder.end, Holder.kill])
def test_a_job_waits_until_a_lease_ends_with_its_process(tmp_path, holders, ending, capfd):
    holders.append(Holder(tmp_path, UUID))
    later = threading.Timer(1.0, ending, holders)
    later.start()
    began = time.monotonic()
    (lease,) = acquire([UUID], folder=tmp_path)
    assert time.monotonic() - began > 0.9
    later.join()
    assert lease.index == 0
    assert capfd.readouterr().out == f"waits for a GPU: taken are {UUID} by process {holders[0].pid}\n"
    (file,) = tmp_path.iterdir()
    assert file.read_text() == str(os.getpid())
    os.close(lease.descriptor)


def test_jobs_see_gpus_in_different_orders(tmp_path, holders):
    holders.append(Holder(tmp_path, OTHER_UUID))
    (lease,) = acquire([OTHER_UUID, UUID], folder=tmp_path)
    assert lease.index == 1
    os.close(lease.descriptor)


def test_every_user_may_open_the_file(tmp_path):
    before = os.umask(0o077)
    try:
        (lease,) = acquire([UUID], folder=tmp_path)
    finally:
        os.umask(before)
    assert os.fstat(lease.descriptor).st_mode & 0o777 == 0o666
    os.close(lease.descriptor)


def test_what_a_holder_wrote_is_not_trusted(tmp_path, holders, capfd):
    holders.append(Holder(tmp_path, UUID))
    (file,) = tmp_path.iterdir()
    file.write_text("\x1b[31m, end me")
    later = threading.Timer(0.3, Holder.end, holders)
    later.start()
    os.close(acquire([UUID], folder=tmp_path)[0].descriptor)
    later.join()
    assert capfd.readouterr().out == f"waits for a GPU: taken are {UUID} by process unknown\n"


def test_a_file_tidied_away_between_opening_and_locking(tmp_path, monkeypatch):
    flock, tidied = devices.fcntl.flock, []

    def tidy_then_lock(descriptor, how):
        if not tidied:
            tidied.append(True)
            (file,) = tmp_path.iterdir()
            file.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(devices.fcntl, "flock", tidy_then_lock)
    (held,) = acquire([UUID], folder=tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_ino == os.fstat(held.descriptor).st_ino
    assert acquire([UUID, OTHER_UUID], folder=tmp_path)[0].index == 1
    os.close(held.descriptor)


@pytest.mark.parametrize("kind", ["symlink", "dangling", "hardlink", "folder", "fifo"])
def test_a_planted_file_is_refused_and_left_alone(tmp_path, kind):
    acquire_in = tmp_path / "leases"
    acquire_in.mkdir()
    path = acquire_in / f"peft-tradeoffs-{UUID}.lock"
    victim = tmp_path / "victim"
    victim.write_text("precious")
    match kind:
        case "symlink":
            path.symlink_to(victim)
        case "dangling":
            path.symlink_to(tmp_path / "new")
        case "hardlink":
            path.hardlink_to(victim)
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
    with pytest.raises(InputError, match=r"lease.*remove it"):
        acquire([UUID], folder=acquire_in)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "new").exists()


def test_the_file_is_another_users(tmp_path, monkeypatch):
    """Linux refuses O_CREAT on another user's file in a folder like /tmp (fs.protected_regular)."""
    os.close(acquire([UUID], folder=tmp_path)[0].descriptor)
    opened = os.open

    def protected(path, flags, *mode, **words):
        if flags & os.O_CREAT and Path(path).exists():
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *mode, **words)

    monkeypatch.setattr(os, "open", protected)
    (lease,) = acquire([UUID], folder=tmp_path)
    assert lease.index == 0
    os.close(lease.descriptor)


class Foreign:
    """What the kernel says of the lease's holder, and NVML of the GPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, uses: bool) -> None:
        monkeypatch.setattr(devices, "_is_another_users", lambda path: True)
        monkeypatch.setattr(devices, "IDLE_S", 0.3)
        self.uses = uses

    def in_use(self, index: int) -> bool:
        return self.uses


def test_a_lease_of_another_user_over_a_gpu_that_nobody_uses_is_passed_over(tmp_path, holders, monkeypatch, capfd):
    holders.append(Holder(tmp_path, UUID))
    foreign = Foreign(monkeypatch, uses=False)
    (lease,) = acquire([UUID], folder=tmp_path, in_use=foreign.in_use)
    assert "has held its lease for 0 s without using it" in capfd.readouterr().out
    assert os.fstat(lease.descriptor).st_mode & 0o777 == 0o600
    holders[0].end()  # and leaves the shared file: this user's next job still waits for this one
    later = threading.Timer(0.3, os.close, [lease.descriptor])
    later.start()
    began = time.monotonic()
    os.close(acquire([UUID], folder=tmp_path)[0].descriptor)
    assert time.monotonic() - began > 0.2
    later.join()


@pytest.mark.parametrize("why", ["the_gpu_is_used", "it_is_this_users", "nobody_can_tell"])
def test_any_other_lease_is_waited_for(tmp_path, holders, monkeypatch, why):
    holders.append(Holder(tmp_path, UUID))
    foreign = Foreign(monkeypatch, uses=why == "the_gpu_is_used")
    if why == "it_is_this_users":
        monkeypatch.undo()
        monkeypatch.setattr(devices, "IDLE_S", 0.1)
    later = threading.Timer(0.7, Holder.end, holders)
    later.start()
    began = time.monotonic()
    (lease,) = acquire([UUID], folder=tmp_path, in_use=None if why == "nobody_can_tell" else foreign.in_use)
    assert time.monotonic() - began > 0.6
    assert os.fstat(lease.descriptor).st_mode & 0o777 == 0o666
    os.close(lease.descriptor)
    later.join()


def test_whose_lease_it_is_is_the_kernels_word(tmp_path, holders):
    """Not what is written in the file, which any user can change."""
    holders.append(Holder(tmp_path, UUID))
    (path,) = tmp_path.iterdir()
    assert not devices._is_another_users(path)
    if os.geteuid() == 0:
        code = "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDWR); os.setuid(65534); "
        code += "fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); sys.stdin.read()"
        other = tmp_path / "other"
        other.write_text(str(os.getpid()))
        with subprocess.Popen([sys.executable, "-c", code, other], stdin=-1, stdout=-1) as process:
            process.stdout.readline()
            assert devices._is_another_users(other)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make another user's file")
def test_a_file_planted_by_another_user_keeps_nobody_off(tmp_path):
    """In /tmp only its owner can remove it."""
    own = tmp_path / f"peft-tradeoffs-{UUID}.{os.geteuid()}.lock"
    own.touch()
    os.chown(own, 65534, 65534)
    (lease,) = acquire([UUID], folder=tmp_path)
    assert lease.index == 0
    os.close(lease.descriptor)


@pytest.mark.parametrize("kind", ["symlink", "fifo"])
def test_a_strange_file_of_ones_own_is_refused(tmp_path, kind):
    own = tmp_path / f"peft-tradeoffs-{UUID}.{os.geteuid()}.lock"
    if kind == "symlink":
        own.symlink_to(tmp_path / "new")
    else:
        os.mkfifo(own)
    with pytest.raises(InputError, match=r"lease.*remove it"):
        acquire([UUID], folder=tmp_path)

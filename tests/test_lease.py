"""The lease of a GPU, contended for by real processes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from peft_tradeoffs.errors import InputError
from peft_tradeoffs.lease import acquire
from recorded_nvml import OTHER_UUID, UUID

UUIDS = [UUID, OTHER_UUID]
HOLDER = """
import sys
from pathlib import Path
from peft_tradeoffs.lease import acquire
index, _ = acquire(sys.argv[2:], folder=Path(sys.argv[1]))
print(index, flush=True)
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


@pytest.fixture(autouse=True)
def no_slurm(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def test_jobs_take_gpus_of_their_own(tmp_path, holders):
    holders.append(Holder(tmp_path, *UUIDS))
    assert holders[0].index == 0
    index, descriptor = acquire(UUIDS, folder=tmp_path)
    assert index == 1
    with pytest.raises(InputError) as caught:
        acquire(UUIDS, folder=tmp_path)
    message = str(caught.value)
    assert f"{UUID} by process {holders[0].pid}, {OTHER_UUID} by process {os.getpid()}" in message
    assert "`resources: gpu` in profiles/local/profile.yaml" in message
    assert "at most 2" in message
    assert acquire(UUIDS, allow_shared=True, folder=tmp_path) == (0, None)
    os.close(descriptor)
    index, descriptor = acquire(UUIDS, folder=tmp_path)
    assert index == 1
    os.close(descriptor)


@pytest.mark.parametrize("ending", [Holder.end, Holder.kill])
def test_a_lease_ends_with_its_process(tmp_path, holders, ending):
    holders.append(Holder(tmp_path, UUID))
    with pytest.raises(InputError, match=rf"{UUID} by process {holders[0].pid}\."):
        acquire([UUID], folder=tmp_path)
    ending(holders[0])
    index, descriptor = acquire([UUID], folder=tmp_path)
    assert index == 0
    (file,) = tmp_path.iterdir()
    assert file.read_text() == str(os.getpid())
    os.close(descriptor)


def test_jobs_see_gpus_in_different_orders(tmp_path, holders):
    holders.append(Holder(tmp_path, OTHER_UUID))
    index, descriptor = acquire([OTHER_UUID, UUID], folder=tmp_path)
    assert index == 1
    os.close(descriptor)


def test_every_user_may_open_the_file(tmp_path):
    before = os.umask(0o077)
    try:
        _, descriptor = acquire([UUID], folder=tmp_path)
    finally:
        os.umask(before)
    assert os.fstat(descriptor).st_mode & 0o777 == 0o666
    os.close(descriptor)


def test_slurm_assigns_gpus_itself(tmp_path, holders, monkeypatch):
    holders.append(Holder(tmp_path, UUID))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert acquire([UUID], folder=tmp_path) == (0, None)
    index, descriptor = acquire(UUIDS, folder=tmp_path)  # jobs of one allocation with several GPUs
    assert index == 1
    os.close(descriptor)


def test_what_a_holder_wrote_is_not_trusted(tmp_path, holders):
    holders.append(Holder(tmp_path, UUID))
    (file,) = tmp_path.iterdir()
    file.write_text("\x1b[31m, end me")
    with pytest.raises(InputError, match=rf"{UUID} by process unknown\."):
        acquire([UUID], folder=tmp_path)


def test_a_file_tidied_away_between_opening_and_locking(tmp_path, monkeypatch):
    from peft_tradeoffs import lease

    flock, tidied = lease.fcntl.flock, []

    def tidy_then_lock(descriptor, how):
        if not tidied:
            tidied.append(True)
            (file,) = tmp_path.iterdir()
            file.unlink()
        flock(descriptor, how)

    monkeypatch.setattr(lease.fcntl, "flock", tidy_then_lock)
    _, descriptor = acquire([UUID], folder=tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_ino == os.fstat(descriptor).st_ino
    with pytest.raises(InputError):
        acquire([UUID], folder=tmp_path)
    os.close(descriptor)


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
    _, descriptor = acquire([UUID], folder=tmp_path)
    os.close(descriptor)
    opened = os.open

    def protected(path, flags, *mode, **words):
        if flags & os.O_CREAT and Path(path).exists():
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *mode, **words)

    monkeypatch.setattr(os, "open", protected)
    index, descriptor = acquire([UUID], folder=tmp_path)
    assert index == 0
    os.close(descriptor)

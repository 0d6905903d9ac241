"""The tests' Slurm itself: it gives jobs their GPUs, outlives what tests do to it, and leaves nothing."""

import contextlib
import subprocess
from pathlib import Path

import psutil
import pytest

from slurm import cluster as module
from slurm import settings
from slurm.cluster import ACCOUNTING_OFF_AND_ON, SLURM_CONF, Cluster, contents, wait_for
from slurm.jobs import most_at_once, sharing

ONE_GPU = ("srun", "--quiet", "--partition=gpu", "--gpus=1")


def submit(cluster: Cluster, script: str, *options: str) -> int:
    """Submit a batch job and give its id."""
    return int(cluster.run("sbatch", "--parsable", "--output=/dev/null", *options, f"--wrap={script}"))


def state(cluster: Cluster, job: int) -> str:
    """A job's state."""
    return next(found.state for found in cluster.jobs() if found.id == job)


@ACCOUNTING_OFF_AND_ON
def test_a_job_gets_a_gpu(cluster: Cluster) -> None:
    assert cluster.run(*ONE_GPU, "printenv", "CUDA_VISIBLE_DEVICES").strip() in {"0", "1"}
    assert cluster.run("srun", "--partition=gpu", "--gpus=2", "printenv", "CUDA_VISIBLE_DEVICES").strip() == "0,1"


@ACCOUNTING_OFF_AND_ON
def test_two_jobs_never_share_a_gpu(cluster: Cluster) -> None:
    before = {job.id for job in cluster.jobs()}
    jobs = [subprocess.Popen([*ONE_GPU, "sleep", "0.5"]) for _ in range(5)]
    assert [job.wait(300) for job in jobs] == [0] * 5
    cluster.wait_idle()
    uses = [use for use in cluster.uses() if use.job not in before]
    assert [len(use.gpus) for use in uses] == [1] * 5
    assert most_at_once(uses) == 2
    assert not sharing(uses)


@pytest.mark.parametrize("cluster", [True], ids=["accounting_on"], indirect=True)
def test_accounting_records_jobs_of_the_account(cluster: Cluster) -> None:
    cluster.run(*ONE_GPU, "--job-name=recorded", "true")

    def recorded() -> str:
        return cluster.run("sacct", "-XnP", "--name=recorded", "--format=State,Account,AllocTRES").strip()

    fields = wait_for(lambda: recorded() if "COMPLETED" in recorded() else "", "the job in sacct").split("|")
    assert fields[:2] == ["COMPLETED", settings.ACCOUNT]
    assert "gres/gpu=1" in fields[2]
    refused = subprocess.run(["sbatch", "--account=nobody", "--wrap=true"], capture_output=True, text=True)
    assert "Invalid account" in refused.stderr


def test_jobs_outlive_the_controller(cluster: Cluster) -> None:
    running = submit(cluster, "sleep 2")
    wait_for(lambda: state(cluster, running) == "RUNNING", "a job running")
    cluster.restart_controller(downtime_s=0.5)
    wait_for(lambda: state(cluster, running) == "COMPLETED", "the job's end known")


def test_a_drained_node_starts_no_job(cluster: Cluster) -> None:
    (node,) = cluster.states()
    cluster.drain(node)
    waiting = submit(cluster, "true")
    assert cluster.states() == {node: "drained"}
    assert state(cluster, waiting) == "PENDING"
    cluster.resume(node)
    wait_for(lambda: state(cluster, waiting) == "COMPLETED", "the job's end")


def test_a_job_over_its_memory_is_killed(cluster: Cluster) -> None:
    fill = "python3 -c 'import time; kept = bytearray(400_000_000); time.sleep(1000)'"
    greedy = submit(cluster, fill, "--mem=100")
    wait_for(lambda: next(job for job in cluster.jobs() if job.id == greedy).finished, "the job killed")
    assert state(cluster, greedy) == "FAILED"


def test_it_is_put_in_order_for_the_next_test(cluster: Cluster) -> None:
    (node,) = cluster.states()
    running = submit(cluster, "sleep 1000")
    wait_for(lambda: state(cluster, running) == "RUNNING", "a job running")
    cluster.drain(node)
    cluster.stop_node(node)
    cluster.stop_controller()
    cluster.reset()
    assert cluster.states() == {node: "idle"}
    assert state(cluster, running) == "CANCELLED"


@ACCOUNTING_OFF_AND_ON
def test_it_listens_on_loopback_alone(cluster: Cluster) -> None:
    listening = []
    for process in cluster.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            listening += [one for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    addresses = {one.laddr.ip for one in listening}
    assert addresses == {"127.0.0.1"} or not settings.loopback(module.socket.gethostname())


def name(process: psutil.Process) -> str | None:
    """A process's name; None if it ended meanwhile."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return None


def lives(process: psutil.Process) -> bool:
    """Whether a process runs, and is not only waiting to be reaped."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("cluster", "controller"),
    [(False, "up"), (False, "down"), (True, "up")],
    ids=["accounting_off", "controller_down", "accounting_on"],
    indirect=["cluster"],
)
def test_stopping_leaves_nothing(cluster: Cluster, controller: str, etc_before: dict) -> None:
    job = submit(cluster, "sleep 1000 & sleep 1000")

    def asleep() -> bool:
        return [name(one) for one in cluster.processes()].count("sleep") == 2

    wait_for(asleep, "a job running", why=lambda: (cluster.show(job), cluster.states(), cluster.uses()))
    running, folder = cluster.processes(), cluster.folder
    assert {"munged", "slurmctld", "slurmd", "sleep"} <= {name(one) for one in running}
    if controller == "down":
        cluster.stop_controller()
    cluster.stop()
    assert not [name(one) for one in running if lives(one)]
    assert not folder.exists()
    assert contents(SLURM_CONF.parent) == etc_before


@pytest.mark.parametrize("before", ["nothing", "folder", "file", "left by a killed test"])
def test_what_stood_in_etc_is_put_back(before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = tmp_path / "etc/slurm.conf"
    monkeypatch.setattr(module, "SLURM_CONF", conf)
    monkeypatch.setattr(module, "BACKUP", conf.with_name("backup"))
    left = tmp_path / f"{module.PREFIX}left"
    if before != "nothing":
        conf.parent.mkdir()
    if before == "file":
        conf.write_text("ClusterName=theirs")
    if before == "left by a killed test":
        left.mkdir()
        conf.symlink_to(left / "slurm.conf")
    stood = contents(conf.parent)

    own = tmp_path / "slurm.conf"
    own.write_text("ClusterName=tests")
    created = module._install(own)
    assert conf.read_text() == "ClusterName=tests"
    module._uninstall(own, created)
    assert contents(conf.parent) == stood
    assert not left.exists()
    assert before != "left by a killed test" or not conf.is_symlink()


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert module.missing() == ""
    monkeypatch.setattr(module, "SEARCHED", str(tmp_path))
    assert "munged" in module.missing()
    assert "apt" not in module.missing()

"""A real Slurm on this machine for the time of a test: fake GPUs, loopback only, nothing left afterwards."""

import contextlib
import fcntl
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from slurm import jobs, settings
from slurm.jobs import Job, Use

# For a test that runs with each; [True] alone is one with accounting.
ACCOUNTING_OFF_AND_ON = pytest.mark.parametrize(
    "cluster", [False, True], ids=["accounting_off", "accounting_on"], indirect=True
)

# The plugin's jobstep drops SLURM_CONF, so the file must be where Slurm looks for it.
SLURM_CONF = Path("/etc/slurm/slurm.conf")
BACKUP = SLURM_CONF.with_name("slurm.conf.before-tests")
PREFIX = "slurm-tests-"
PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "mariadb-install-db", "sbatch", "srun", "setpriv")
SEARCHED = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def missing() -> str:
    """Why no Slurm can be started here; empty if one can."""
    if os.geteuid() != 0:
        return "Slurm's daemons must be started by root here"
    absent = [name for name in PROGRAMS if not shutil.which(name, path=SEARCHED)]
    needed = "munge slurm-wlm slurmdbd mariadb-server"
    return f"not installed: {', '.join(absent)} (Debian packages: {needed})" if absent else ""


def wait_for(
    condition: Callable[[], Any], what: str, seconds: float = 300.0, why: Callable[[], Any] = lambda: ""
) -> Any:
    """The first true value of `condition`; AssertionError, with `what` and `why`, if there is none within `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {seconds} s {why()}")
        time.sleep(0.05)
    return value


class Cluster:
    """Munged, slurmctld and slurmd, with slurmdbd and MariaDB where accounting is on; all die with this process."""

    def __init__(self, **changes: Any) -> None:
        self.settings = settings.Settings(**changes)
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.folder = Path()
        self.ports: dict[str, int] = {}
        self._lock: int | None = None
        self._created = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # Start and stop

    def start(self) -> None:
        """Start every daemon and wait until all nodes are idle."""
        self._lock = _take_lock()
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/tmp"))  # sockets' paths must be short
        try:
            self.folder.chmod(0o755)
            (self.folder / "state").mkdir()
            (self.folder / "events").touch()
            self.ports = _free_ports("slurmctld", "slurmdbd", *self.settings.names)
            settings.write(self.folder, socket.gethostname(), self.ports, self.settings)
            self._created = _install(self.folder / "slurm.conf")
            self._start_munged()
            if self.settings.accounting:
                self._start_accounting()
            self.start_controller()
            for node in self.settings.names:
                self.start_node(node)
            self.wait_idle()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Cancel what runs, stop every daemon and put back what stood in /etc/slurm."""
        if self._lock is None:
            return
        try:
            if self.daemons.keys() >= {"slurmctld", *self.settings.names}:
                self.cancel_all()
            for name in reversed(list(self.daemons)):
                self._end(name)
        finally:
            for daemon in self.daemons.values():  # if one of the above failed
                daemon.kill()
                daemon.wait()
            self.daemons.clear()
            while left := self.processes():  # of jobs that outlived their daemons
                for process in left:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                psutil.wait_procs(left, timeout=60)
            _uninstall(self.folder / "slurm.conf", self._created)
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._lock)
            self._lock = None

    def processes(self) -> list[psutil.Process]:
        """Every process of this cluster: Slurm's own work in its folder, those of jobs have its slurm.conf."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):  # ended meanwhile
                own = process.cwd() == str(self.folder)
                if own or process.environ().get("SLURM_CONF") == str(self.folder / "slurm.conf"):
                    found.append(process)
        return found

    # Daemons

    def start_controller(self) -> None:
        """Start slurmctld, which reads the state that it left, and wait until it answers and its nodes registered."""
        self._begin("slurmctld", "slurmctld", "-D", "-f", self.folder / "slurm.conf")
        self._until("slurmctld", lambda: self._succeeds("scontrol", "ping"))
        for node in self.daemons.keys() & set(self.settings.names):
            self._wait_registered(node)

    def stop_controller(self) -> None:
        """Stop slurmctld as a restart does; jobs run on."""
        self._end("slurmctld")

    def restart_controller(self, downtime_s: float) -> None:
        """Stop slurmctld and start it again `downtime_s` later."""
        self.stop_controller()
        time.sleep(downtime_s)
        self.start_controller()

    def start_node(self, node: str) -> None:
        """Start a node's slurmd and wait until it is registered."""
        self._begin(node, "slurmd", "-D", "-N", node, "-f", self.folder / "slurm.conf")
        self._until(node, lambda: _listens(self.ports[node]))
        self._wait_registered(node)

    def stop_node(self, node: str) -> None:
        """Stop a node's slurmd; its jobs run on."""
        self._end(node)

    def wait_idle(self, seconds: float = 300.0) -> None:
        """Wait until every node is idle."""
        wait_for(lambda: set(self.states().values()) == {"idle"}, "all nodes idle", seconds)

    def states(self) -> dict[str, str]:
        """The state of every node, as sinfo words it."""
        lines = self.run("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines)

    def drain(self, node: str) -> None:
        """Let the node's jobs end and start no others there."""
        self.run("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")

    def resume(self, node: str) -> None:
        """Use a drained or failed node again (an error if it is neither)."""
        self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")

    def reset(self) -> None:
        """Back to an idle cluster: daemons up, no jobs, nodes resumed; a stopped one is started."""
        if self._lock is None:
            return self.start()
        if "slurmctld" not in self.daemons:
            self.start_controller()
        for node in self.settings.names:
            if node not in self.daemons:
                self.start_node(node)
        self.cancel_all()
        for node, state in self.states().items():
            if state.startswith(("drain", "down", "fail")):
                self.resume(node)
        self.wait_idle()

    # Jobs

    def run(self, *words: str | Path) -> str:
        """What a command of Slurm prints; AssertionError with what it says if it fails."""
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, f"{words} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def jobs(self, name: str = "") -> list[Job]:
        """Jobs of the last day whose name begins with `name`, oldest first."""
        text = self.run("squeue", "--all", "--noheader", "--states=all", f"--format={jobs.FORMAT}")
        return [job for job in jobs.listed(text) if job.name.startswith(name)]

    def show(self, job: int) -> dict[str, str]:
        """What `scontrol show job` says, by its keys (JobState, Restarts, Reason, NumCPUs, ...)."""
        text = self.run("scontrol", "--oneliner", "show", "job", str(job))
        return dict(re.findall(r"([A-Z][\w/:]*)=(.*?)(?=\s+[A-Z][\w/:]*=|\s*$)", text))

    def names(self) -> set[str]:
        """Names of the jobs of the last day: with the plugin, one a call of Snakemake."""
        return {job.name for job in self.jobs()}

    def cancel(self, *jobs: int) -> None:
        """Scancel the jobs."""
        self.run("scancel", *map(str, jobs))

    def cancel_all(self) -> None:
        """Cancel every job and wait until none is left."""
        if unfinished := [job.id for job in self.jobs() if not job.finished]:
            self.cancel(*unfinished)
            wait_for(lambda: all(job.finished for job in self.jobs()), "no jobs after scancel")

    def uses(self) -> list[Use]:
        """Every start of every job, as the nodes' prologs and epilogs recorded it."""
        return jobs.recorded((self.folder / "events").read_text())

    # Parts

    def _start_munged(self) -> None:
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        options = {"key-file": key, "socket": self.folder / "munge.socket", "pid-file": self.folder / "munged.pid"}
        options |= {"log-file": self.folder / "munged.log", "seed-file": self.folder / "munge.seed"}
        words = [f"--{name}={path}" for name, path in options.items()]
        self._begin("munged", "munged", "--foreground", "--force", *words)
        self._until("munged", (self.folder / "munge.socket").exists)

    def _start_accounting(self) -> None:
        """MariaDB and slurmdbd; cluster, account and user must be registered before slurmctld starts."""
        defaults = f"--defaults-file={self.folder}/mariadb.conf"
        with (self.folder / "mariadb-install.log").open("wb") as log:
            words = ["mariadb-install-db", defaults, "--user=root", "--auth-root-authentication-method=normal"]
            subprocess.run([*words, "--skip-test-db"], check=True, stdout=log, stderr=log, env=self._environment())
        self._begin("mariadbd", "mariadbd", defaults, "--user=root")
        self._until("mariadbd", (self.folder / "mariadb.socket").exists)
        self._begin("slurmdbd", "slurmdbd", "-D")
        self._until("slurmdbd", lambda: _listens(self.ports["slurmdbd"]))
        account = settings.ACCOUNT
        self.run("sacctmgr", "--immediate", "add", "cluster", "tests")
        self.run("sacctmgr", "--immediate", "add", "account", account, "Cluster=tests")
        self.run("sacctmgr", "--immediate", "add", "user", "root", f"Account={account}", "Cluster=tests")
        self.run("sacctmgr", "--immediate", "modify", "user", "root", "set", f"DefaultAccount={account}")

    def _environment(self) -> dict[str, str]:
        own = {"SLURM_CONF": str(self.folder / "slurm.conf"), "MYSQL_UNIX_PORT": str(self.folder / "mariadb.socket")}
        return {**os.environ, **own, "PATH": SEARCHED}

    def _begin(self, name: str, *words: str | Path) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", "--", *words],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.folder,
            )

    def _end(self, name: str) -> None:
        """Stop a daemon and wait until it is gone."""
        daemon = self.daemons.pop(name)
        daemon.terminate()
        try:
            daemon.wait(150)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _until(self, name: str, ready: Callable[[], Any]) -> None:
        """Wait until a daemon is ready; if it ends before, say why."""

        def answered() -> bool:
            code = self.daemons[name].poll()
            if code is not None:
                logs = [
                    path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob(f"*{name}*.[lo]*"))
                ]
                raise AssertionError(f"{name} ended with {code}\n" + "\n".join(logs))
            return bool(ready())

        wait_for(answered, f"{name} ready")

    def _wait_registered(self, node: str) -> None:
        """Until then slurmctld refuses some requests for the node, and its state is unknown."""
        words = ("scontrol", "--oneliner", "show", "node", node)
        wait_for(lambda: "SlurmdStartTime=None" not in self.run(*words), f"{node} registered")

    def _succeeds(self, *words: str) -> bool:
        return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=300).returncode == 0


def ids(cluster: Cluster) -> set[int]:
    """Jobs that Slurm lists."""
    return {job.id for job in cluster.jobs()}


def contents(folder: Path) -> dict[str, bytes | str | None]:
    """What is in a folder: a file's bytes, where a link points, None for a folder; empty if there is none."""

    def content(path: Path) -> bytes | str | None:
        if path.is_symlink():
            return str(path.readlink())
        return path.read_bytes() if path.is_file() else None

    return {str(path): content(path) for path in sorted([folder, *folder.rglob("*")]) if path.exists()}


def _take_lock(seconds: float = 1200.0) -> int:
    """One cluster a machine: wait for the other's end. The lock, on /etc, lasts until the descriptor is closed."""
    descriptor = os.open(SLURM_CONF.parents[1], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def taken() -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    wait_for(taken, "another process runs the tests' Slurm: its end", seconds)
    return descriptor


def left_by_a_killed_test() -> bool:
    """Whether /etc/slurm/slurm.conf is a link of an earlier cluster of these tests."""
    return SLURM_CONF.is_symlink() and SLURM_CONF.readlink().parent.name.startswith(PREFIX)


def _install(file: Path) -> bool:
    """Link /etc/slurm/slurm.conf to `file`, what stood there set aside; whether the folder had to be made.

    A link of ours is what a killed test left: whoever holds the lock removes it, with its folder.
    """
    created = not SLURM_CONF.parent.exists()
    SLURM_CONF.parent.mkdir(exist_ok=True)
    if left_by_a_killed_test():
        shutil.rmtree(SLURM_CONF.readlink().parent, ignore_errors=True)
        SLURM_CONF.unlink()
    elif SLURM_CONF.exists() or SLURM_CONF.is_symlink():
        SLURM_CONF.rename(BACKUP)
    SLURM_CONF.symlink_to(file)
    return created


def _uninstall(file: Path, created: bool) -> None:
    """Undo `_install`."""
    if SLURM_CONF.is_symlink() and SLURM_CONF.readlink() == file:
        SLURM_CONF.unlink()
    if BACKUP.exists() or BACKUP.is_symlink():
        BACKUP.rename(SLURM_CONF)
    if created:
        SLURM_CONF.parent.rmdir()


def _free_ports(*names: str) -> dict[str, int]:
    """A free port of loopback for each name."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return dict(zip(names, ports, strict=True))


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0

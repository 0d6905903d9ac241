"""Several processes on this machine's CPU that train together, forked of the test's own: nothing is imported anew."""

import os
import pickle
import runpy
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny
import torch
from peft_tradeoffs.runs.interruption import Rank
from peft_tradeoffs.training import parallel
from peft_tradeoffs.training.parallel import World

LONG_S = 60.0  # far more than any of these tests takes


def together(count: int, work: Callable[[World], Any], timeout_s: float = LONG_S) -> list[Any]:
    """What `work` gives on each of `count` ranks, by rank; an AssertionError with the traceback of one that fails."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        found = [Path(folder, str(number)) for number in range(count)]
        pids = []
        for number, path in enumerate(found):
            pid = os.fork()
            if not pid:
                _be(number, count, listener, path, work, timeout_s)
            pids.append(pid)
        listener.detach()  # the first rank's
        codes = _ended(pids)
        results = [pickle.loads(path.read_bytes()) if path.exists() else None for path in found]
    for number, (code, result) in sorted(enumerate(zip(codes, results, strict=True)), key=lambda one: one[1][0] == -9):
        if code:  # those that were killed for another's sake last
            raise AssertionError(f"rank {number} ended with {code}: {result}")
    return results


def _be(number: int, count: int, listener: Any, path: Path, work: Callable[[World], Any], timeout_s: float) -> None:
    status = 1
    try:
        torch.set_num_threads(1)
        rank = Rank(number, count, listener.getsockname()[1], None if number else listener.detach())
        store = parallel.connect(rank)
        world = parallel.join(rank, store, torch.device("cpu"), timeout_s)
        path.write_bytes(pickle.dumps(work(world)))
        world.agree(False)  # the first one holds the store
        status = 0
    except BaseException:
        path.write_bytes(pickle.dumps(traceback.format_exc()))
    finally:
        time.sleep(0.2 * (not number))
        os._exit(status)


def _ended(pids: list[int]) -> list[int]:
    """Exit statuses; who takes too long is killed."""
    ends, codes = time.monotonic() + LONG_S, {}
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                codes[pid] = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > ends or any(codes.values()):
                os.kill(pid, 9)
        time.sleep(0.01)
    return [codes[pid] for pid in pids]


class Job:
    """A script of ours in a fork of this process, which has imported the libraries; what it says is kept in files."""

    def __init__(self, script: str, words: list[str], folder: Path, inside: Callable[[], None] = lambda: None) -> None:
        """`inside` is called in the fork before the script."""
        folder.mkdir(parents=True, exist_ok=True)
        self._said = Path(tempfile.mkdtemp(dir=folder))
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            self._be(tiny.REPOSITORY / "workflow_scripts" / script, words, inside)

    def _be(self, script: Path, words: list[str], inside: Callable[[], None]) -> None:
        status = 1
        try:
            os.setsid()
            for descriptor, name in ((1, "stdout"), (2, "stderr")):
                os.dup2(os.open(self._said / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
            sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", 1) for descriptor in (1, 2))
            for name in [name for name in os.environ if name.startswith("SLURM_")]:
                del os.environ[name]
            sys.argv[:] = [str(script), *words]
            sys.path.insert(0, str(script.parent))
            torch.set_num_threads(1)
            inside()
            runpy.run_path(str(script), run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def poll(self) -> int | None:
        """The exit status, as subprocess has it; None while it runs."""
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if done else None
        return self.returncode

    def wait(self, within_s: float) -> int:
        """The same once it has ended."""
        ends = time.monotonic() + within_s
        while (status := self.poll()) is None:
            if time.monotonic() > ends:
                os.kill(self.pid, 9)
                raise AssertionError(f"the job did not end within {within_s:g} s: {self.said()}")
            time.sleep(0.01)
        return status

    def said(self, on: str = "stderr") -> str:
        """What it has said there, or on stdout."""
        return (self._said / on).read_text() if (self._said / on).exists() else ""

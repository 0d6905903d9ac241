"""Signals that ask a job to end: SLURM's before a time limit or a preemption, a person's Ctrl-C; and its processes.

A script that trains imports this first. From then on a signal ends its process with EXIT_STATUS: at once until the
process has anything to tidy up; then by an exception; once a run has done a step of its own, when the training loop
asks for it between two steps. Further signals change nothing, through to the last moment of the process.
"""

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: run again
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
AGAIN = "nothing is lost, run again to go on"
# Of the processes of a job on several GPUs:
LEFT = 76  # how one ends that is not the reason why the job does
ANEW = 77  # how the first one ends where all are to be started anew: a run ended in a way that took the others along
LOOK_S = 0.05  # between two looks at whether one has ended
GRACE_S = 10.0  # in which the first one can end by itself once another is gone
PR_SET_PDEATHSIG = 1


class Interrupted(BaseException):
    """The process was asked to end. No Exception, so that nothing takes it for a failure."""

    def __init__(self, signal_name: str, where: str = "before the first step") -> None:
        super().__init__(f"ended by {signal_name} {where}")
        self.signal_name, self.where = signal_name, where


class Interruption:
    """Which signal asked this process to end, and whether that may wait."""

    def __init__(self) -> None:
        self.signal_name: str | None = None  # of the first
        self._held = False
        self._raised = False

    @contextmanager
    def answered(self) -> Iterator[None]:
        """Take the signals over; one that ends the block ends the process with EXIT_STATUS. For the main thread.

        After the block, which the process has not long to live, they are ignored.
        """
        try:
            for number in SIGNALS:
                signal.signal(number, self._receive)
            yield
            self._held = True
        except Interrupted as end:
            _say(f"{end}: {AGAIN}")
            sys.exit(EXIT_STATUS)
        except Exception as error:
            self._held = True
            if not self._raised:
                raise
            # Some library made another error of it.
            _say(f"{Interrupted(str(self.signal_name))} ({type(error).__name__} on the way): {AGAIN}")
            sys.exit(EXIT_STATUS)
        finally:
            _ignore()

    def hold(self) -> None:
        """From now on a signal is only noted, in `signal_name`."""
        self._held = True

    def release(self) -> None:
        """From now on a signal ends the process at once; raises Interrupted for one that was noted."""
        self._held = False
        if self.signal_name is not None:
            self._held = True
            raise Interrupted(self.signal_name, "after a run was finished")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal_name is None:
            self.signal_name = signal.Signals(number).name
            if not self._held:
                self._held = self._raised = True  # what ends the process is not interrupted again
                raise Interrupted(self.signal_name)


def end_at_once() -> None:
    """Until `answered`, a signal ends this process where it is, with EXIT_STATUS: nothing has begun that it could harm.

    For the main thread, before anything that takes time.
    """
    for number in SIGNALS:
        signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    _ignore()
    _say(f"{Interrupted(signal.Signals(number).name)}: {AGAIN}")
    os._exit(EXIT_STATUS)


def _say(line: str) -> None:
    """On stderr, unless that is on a full disk."""
    with suppress(OSError):
        os.write(2, f"{line}\n".encode())


def _ignore() -> None:
    """From now on signals are nothing to this process, at its very end too, when Python takes its handlers down."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


# The processes of a job on several GPUs -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rank:
    """One of the processes of a job, each of which has a GPU. The first one is the job; the others take part."""

    number: int
    count: int
    port: int  # on the loopback, where they find each other
    listener: int | None  # the first one's: its descriptor


def become(count: int, timeout_s: float) -> Rank:
    """Go on as `count` processes, and stay behind as a further one that watches them, and ends as the first one ends.

    Not by torch's elastic launcher: it would import torch once more, it takes an end that is to be gone on from for a
    failure, and waits for 30 s before it kills. A signal to any of the processes is one to the first. Where another one
    ends, all do, and it is said which; where the watching one is killed, the kernel kills the others. One that ends
    because the others do has `timeout_s` to see the first one end. For the main thread.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # else stacks of C++ where the first one has gone
    while True:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        listener = socket.create_server(("127.0.0.1", 0), backlog=4 * count)
        port, watching, pids = listener.getsockname()[1], os.getpid(), []
        for number in range(count):
            pid = os.fork()
            if not pid:
                _die_with(watching)
                for wanted in SIGNALS if number else ():
                    signal.signal(wanted, lambda got, frame, to=watching: _send(to, got))  # type: ignore[misc]
                signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
                if not number:
                    return Rank(number, count, port, listener.detach())
                listener.close()
                return Rank(number, count, port, None)
            pids.append(pid)
        listener.close()
        for wanted in SIGNALS:
            signal.signal(wanted, lambda got, frame, to=pids[0]: _send(to, got))  # type: ignore[misc]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        status = _watched(pids, timeout_s)
        if status != ANEW:
            os._exit(status)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends."""
    control = getattr(ctypes.CDLL(None), "prctl", None)  # Linux
    if control is not None:
        control(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(LEFT)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _watched(pids: list[int], timeout_s: float) -> int:
    """Wait for the end of the first of these processes, and end the others; the status that the job ends with."""
    ended: dict[int, int] = {}
    guilty: int | None = None
    ends = float("inf")
    while 0 not in ended:
        _reap(pids, ended)
        if guilty is None and (found := [number for number in ended if number and ended[number] not in (0, LEFT)]):
            guilty = found[0]
            _say(f"error: {_how(guilty, pids, ended)}, so the others are ended: {AGAIN}")
            _send(pids[0], signal.SIGTERM)
            ends = time.monotonic() + GRACE_S
        elif ended and ends == float("inf"):
            ends = time.monotonic() + timeout_s
        if time.monotonic() > ends:
            _send(pids[0], signal.SIGKILL)
        time.sleep(LOOK_S)
    first = ended[0]
    ends = time.monotonic() + (GRACE_S if first == 0 else 0.0)  # they have nothing to tidy up
    while len(ended) < len(pids):
        if time.monotonic() > ends:
            for number in set(range(len(pids))) - set(ended):
                _send(pids[number], signal.SIGKILL)
        time.sleep(LOOK_S)
        _reap(pids, ended)
    if guilty is not None:
        return 1
    if first < 0:
        _say(f"error: {_how(0, pids, ended)}: {AGAIN}")
        return 128 - first
    return first


def _reap(pids: list[int], ended: dict[int, int]) -> None:
    """Note the exit statuses of those that have ended; of one that a signal killed, its number below 0."""
    for number, pid in enumerate(pids):
        if number not in ended:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                ended[number] = os.waitstatus_to_exitcode(status)


def _how(number: int, pids: list[int], ended: dict[int, int]) -> str:
    status = ended[number]
    how = f"ended with status {status}" if status >= 0 else f"was killed by {signal.Signals(-status).name}"
    return f"rank {number} (process {pids[number]}) {how}"

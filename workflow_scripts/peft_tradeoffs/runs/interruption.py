"""Signals that ask a job to end: SLURM's before a time limit or a preemption, a person's Ctrl-C.

A script that trains imports this first. From then on a signal ends its process with EXIT_STATUS: at once until the
process has anything to tidy up; then by an exception; once a run has done a step of its own, when the training loop
asks for it between two steps. Further signals change nothing, through to the last moment of the process.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: run again
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
AGAIN = "nothing is lost, run again to go on"


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

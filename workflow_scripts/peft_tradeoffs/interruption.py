"""Signals that ask a job to end: SLURM's before a time limit or a preemption, a person's Ctrl-C. Cheap to import.

Until a run has done a step of its own there is nothing to lose, and a signal ends the process at once. From then on it
is kept until the training loop asks for it between two steps.
"""

import signal
from types import FrameType

EXIT_STATUS = 75  # EX_TEMPFAIL of sysexits.h: run again
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


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

    def install(self) -> None:
        """Take the signals over from here on. Call it in the main thread."""
        for number in SIGNALS:
            signal.signal(number, self._receive)

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
                self._held = True  # what ends the process is not interrupted again
                raise Interrupted(self.signal_name)

"""Let processes contest one run's lock again and again, and say whether two ever had it at once.

- holders that are killed while three processes wait for the run, all on one machine
- the same between machines, as far as a lock can tell: each process has a machine name of its own, so that beats alone
  say who lives; some holders are killed, the others give the lock back
- holders that are suspended for longer than a lock waits: another takes over, and they write no more
"""

import argparse
import contextlib
import io
import itertools
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "workflow_scripts"))

from peft_tradeoffs.core.errors import LockLost  # noqa: E402
from peft_tradeoffs.runs import lock  # noqa: E402

BEAT_S = 0.3  # instead of 10: an owner is dead after 1.8 s without a beat
HELD_S = 0.05  # by those who wait, once they have it
WAIT_S = 120.0


@dataclass(frozen=True)
class Held:
    """A time for which a process had the lock: seconds of the monotonic clock."""

    pid: int
    start: float
    end: float


class Contest:
    """One lock, its processes, and the log that each of them adds lines to."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._run, self._log = folder / "seed0", folder / "log"
        self._log.touch()
        self._ends: dict[int, float] = {}

    def start(self, seconds: float, machine: str | None = None) -> int:
        """Process id of a child that takes the lock and has it for so long; `machine` replaces this one's name."""
        if child := os.fork():
            return child
        try:
            lock.BEAT_S, lock.POLL_S = BEAT_S, 0.01
            if machine is not None:
                lock.machine = lambda: machine
            mine = lock.RunLock(self._run)
            with contextlib.redirect_stderr(io.StringIO()):  # where it says for whom it waits
                mine.acquire(WAIT_S)
            self._say("start")
            time.sleep(seconds)
            try:
                mine.confirm()
                self._say("end")
            except LockLost:
                self._say("lost")
            mine.release()
            os._exit(0)
        except BaseException as error:
            self._say(type(error).__name__)
            os._exit(1)

    def _say(self, word: str) -> None:
        line = f"{os.getpid()} {time.monotonic()} {word}\n"
        descriptor = os.open(self._log, os.O_WRONLY | os.O_APPEND)
        os.write(descriptor, line.encode())
        os.close(descriptor)

    def signal(self, child: int, number: int) -> None:
        """Send it; what the child holds ends here if it can write no more."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        self._ends.setdefault(child, time.monotonic())

    def has(self, child: int) -> None:
        """Wait until the child has the lock."""
        while f"{child} " not in self._log.read_text():
            time.sleep(0.005)

    def words(self, child: int) -> list[str]:
        lines = (line.split() for line in self._log.read_text().splitlines())
        return [word for pid, _, word in lines if int(pid) == child]

    def held(self) -> list[Held]:
        """In the order in which the processes took the lock. A killed or suspended one had it until its signal."""
        starts: dict[int, float] = {}
        found = []
        for line in self._log.read_text().splitlines():
            pid, moment, word = line.split()
            if word == "start":
                starts[int(pid)] = float(moment)
            elif word == "end":
                found.append(Held(int(pid), starts.pop(int(pid)), float(moment)))
        found += [Held(pid, start, self._ends[pid]) for pid, start in starts.items() if pid in self._ends]
        return sorted(found, key=lambda one: one.start)


def overlaps(held: list[Held]) -> int:
    return sum(after.start < before.end for before, after in itertools.pairwise(held))


def contest(folder: Path, seconds: float, *, ends: int | None, apart: bool) -> tuple[int, int, bool]:
    """One holder and three who wait: how often the lock was taken, overlaps, whether all ended as they should.

    Args:
        folder: A new one.
        seconds: For which a holder has the lock that no signal ends.
        ends: SIGKILL, SIGSTOP or None, sent within 0.3 s. A suspended holder goes on once the others have ended.
        apart: Whether each process has a machine name of its own.
    """
    names = [f"machine {number}" if apart else None for number in range(4)]
    one = Contest(folder)
    # One that a signal ends has it until then.
    holder = one.start({signal.SIGKILL: WAIT_S, signal.SIGSTOP: 1.0}.get(ends, seconds), names[0])
    one.has(holder)
    others = [one.start(HELD_S, name) for name in names[1:]]
    if ends is not None:
        time.sleep(random.uniform(0.0, 0.3))
        one.signal(holder, ends)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in others]
    if ends == signal.SIGSTOP:
        os.kill(holder, signal.SIGCONT)
    os.waitpid(holder, 0)
    last = {signal.SIGKILL: ["start"], signal.SIGSTOP: ["start", "lost"]}.get(ends, ["start", "end"])
    good = statuses == [0, 0, 0] and one.words(holder) == last
    held = one.held()
    return len(held), overlaps(held), good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--killed", type=int, default=60)
    parser.add_argument("--apart", type=int, default=123, help="between machines")
    parser.add_argument("--apart-killed", type=int, default=19, help="as many of them have a holder that is killed")
    parser.add_argument("--suspended", type=int, default=12)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="contests-"))
    returned = arguments.apart - arguments.apart_killed
    kinds = {
        "killed holders": (arguments.killed, signal.SIGKILL, False),
        "between machines, given back": (returned, None, True),
        "between machines, killed": (arguments.apart_killed, signal.SIGKILL, True),
        "between machines, suspended": (arguments.suspended, signal.SIGSTOP, True),
    }
    wrong = False
    for place, (name, (count, ends, apart)) in enumerate(kinds.items()):
        found = [
            contest(work / f"{place}-{number}", random.uniform(0.0, 0.3), ends=ends, apart=apart)
            for number in range(count)
        ]
        taken, twice, good = (sum(values) for values in zip(*found, strict=True)) if found else (0, 0, 0)
        wrong |= bool(twice) or good < count
        print(
            f"{name}: {count} contests, the lock taken {taken} times, held by two {twice} times, {good} as they should"
        )
    shutil.rmtree(work)
    sys.exit(wrong)


if __name__ == "__main__":
    main()

"""Feed broken inputs to the workflow's doors, and stop at none: each must be read, or refused by a line.

    make fuzz                                           an hour
    make fuzz FUZZ="--seconds 600 --only data config"
    make fuzz FUZZ="--seconds 60 --plant run"           with a fault planted on purpose, which must be found

A door is a command of workflow_scripts that reads files of one kind. A traceback, a refusal in no words, a damage that
passes where none may, or more than SECONDS_PER_INPUT is a finding: its smallest input is kept in --findings, its
traceback printed, and the status is 1.
"""

import argparse
import contextlib
import io
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import doors
import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

SECONDS_PER_INPUT = 20.0
MEMORY = 8 << 30  # bytes of address space above what stands at the start
BATCH = 50  # inputs between two looks at the clock
SLICE_S = 20.0  # of one door before the next: the slow ones get fewer inputs


class Hang(BaseException):
    """An input took too long. No Exception, so that nothing takes it for a failure of its own."""


def _alarm(number: int, frame: FrameType | None) -> None:
    raise Hang(f"more than {SECONDS_PER_INPUT:.0f} s")


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Within it a hang is an exception, and what the door prints is swallowed."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_INPUT)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def batch(door: doors.Door, number: int, seed: int) -> tuple[int, BaseException | None, bytes]:
    """Inputs tried, the first finding and its smallest input."""
    tried, last = 0, b""

    @hypothesis.seed(seed)
    @settings(
        max_examples=number,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(door.inputs)
    def one(given_input: object) -> None:
        nonlocal tried, last
        tried += 1
        content = door.make(given_input)
        last = content
        with watched():
            door.judge(content)

    try:
        one()
    except (Exception, Hang) as error:
        return tried, error, last  # Hypothesis tries the smallest input last
    return tried, None, b""


def main() -> int:
    """The exit status: 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--inputs", type=int, help="end after so many, too")
    parser.add_argument("--seed", type=int, help="the same inputs again (default: new ones)")
    parser.add_argument("--only", nargs="+", choices=doors.NAMES, default=doors.NAMES, help="doors to try")
    parser.add_argument("--plant", choices=doors.FAULTS, help="break a door on purpose")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), help="folder for inputs that fail")
    arguments = parser.parse_args()
    seed = random.randrange(2**32) if arguments.seed is None else arguments.seed
    signal.signal(signal.SIGALRM, _alarm)
    memory = Path("/dev/shm")  # where syncing a file costs nothing
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if os.access(memory, os.W_OK) else None))
    counts, findings = dict.fromkeys(arguments.only, 0), dict.fromkeys(arguments.only, 0)
    began = time.monotonic()
    try:
        opened = [doors.open_door(name, scratch / name) for name in arguments.only]
        if arguments.plant:
            doors.FAULTS[arguments.plant]()
        soft = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (soft, resource.getrlimit(resource.RLIMIT_AS)[1]))
        print(f"seed {seed}", flush=True)
        size = BATCH if arguments.inputs is None else min(BATCH, -(-arguments.inputs // len(opened)))
        ends = began + arguments.seconds

        def over() -> bool:
            return time.monotonic() >= ends or sum(counts.values()) >= (arguments.inputs or sys.maxsize)

        while not over():
            for door in opened:
                until = time.monotonic() + SLICE_S
                while not over() and time.monotonic() < until:
                    seed += 1
                    tried, error, content = batch(door, size, seed)
                    counts[door.name] += tried
                    if error is not None:  # it ends its batch, not the hour: others may stand behind it
                        findings[door.name] += 1
                        report(door.name, seed, error, content, arguments.findings)
            print(f"{time.monotonic() - began:,.0f} s, {sum(counts.values()):,} inputs", flush=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    spent = time.monotonic() - began
    for name in arguments.only:
        print(f"{name:10} {counts[name]:9,} inputs, {findings[name]} findings")
    print(f"{'all':10} {sum(counts.values()):9,} inputs, {sum(findings.values())} findings, {spent:,.0f} s")
    return int(any(findings.values()))


def report(name: str, seed: int, error: BaseException, content: bytes, folder: Path) -> None:
    """Keep the input and print what happened."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{name}-{seed}"
    kept.write_bytes(content)
    print(f"--- {kept}: {content[:300]!r}", flush=True)
    print("".join(traceback.format_exception(error, limit=-8)), flush=True)


if __name__ == "__main__":
    sys.exit(main())

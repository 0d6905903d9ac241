"""Send points of runs to an experiment tracker while they train, as points.jsonl of their states has them.

Snakemake starts it where it runs itself. It ends with the process that started it, or on SIGTERM. Whatever a tracker
does is no error: stderr has a line of it. track.py sends each run whole when it is done, in place of what this sent.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from fcntl import LOCK_EX
from pathlib import Path

from peft_tradeoffs.core.errors import redacted
from peft_tradeoffs.report.tracking import LIVE, Account, Follower, not_installed, offline, turn
from peft_tradeoffs.runs.status import now

INTERVAL_S = 5.0  # between two looks
SILENCE_S = 30.0  # the longest that a tracker may take over a run's points
START_S = 300.0  # the same over its import
GRACE_S = 5.0  # the same once all has ended


def main() -> None:
    """Follow the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracker", required=True, choices=LIVE)
    parser.add_argument("--project", required=True, help="the project's name in the tracker")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="where trackers that write files do")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="of the workflow: it has runs/")
    parser.add_argument("--parent", type=int, required=True, metavar="PID", help="the process that started this one")
    parser.add_argument("--interval", type=float, default=INTERVAL_S, metavar="S", help="between two looks, s (5)")
    parser.add_argument("--limit", type=float, default=SILENCE_S, metavar="S", help="longest silence, s (30)")
    args = parser.parse_args()
    told_to_end = []
    signal.signal(signal.SIGTERM, lambda *_: told_to_end.append(True))
    os.environ.update(offline(args.tracker, args.folder, os.environ))
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nothing of it needs a GPU that others measure on
    os.nice(19)
    log = os.fdopen(os.dup(2), "w", buffering=1)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)  # a tracker may print what it logs in with

    def tell(text: str) -> None:
        print(f"{now()}  {text}", file=log)

    def ended() -> bool:
        return bool(told_to_end) or os.getppid() != args.parent

    sys.excepthook = lambda kind, error, _: tell(f"{kind.__name__}: {error}")
    account = Account(args.tracker, args.project, args.folder)
    if missing := not_installed(args.tracker):
        tell(missing)
    elif not follow(Follower(account, args.output), account, ended, tell, (args.interval, args.limit)):
        tell(f"{args.tracker} gave no answer: no more points are sent; runs that are done are")
    os._exit(0)  # a tracker that hangs is left alone


def follow(
    follower: Follower,
    account: Account,
    ended: Callable[[], bool],
    tell: Callable[[str], None],
    seconds: tuple[float, float],
) -> bool:
    """Send what is new until all has `ended`; False: the tracker gave no sign for too long, and a thread waits for it.

    A tracker that raises gets no more of that run, which `tell` is told. `seconds`: interval and limit.
    """
    pool, last = ThreadPoolExecutor(1), False
    interval_s, limit_s = seconds
    work = pool.submit(follower.prepare)
    if not in_time(work, START_S, ended):
        return False
    work.result()
    while not last:
        last = ended()
        with turn(account, 0.0, LOCK_EX) as mine:
            for run in follower.changed() if mine else []:
                work = pool.submit(follower.send, run)
                if not in_time(work, limit_s, ended):
                    return False
                if error := work.exception():
                    tell(f"{run}: no more points before it is done: {redacted(f'{type(error).__name__}: {error}')}")
                    follower.give_up(run)
        end = time.monotonic() + interval_s
        while not last and not ended() and time.monotonic() < end:
            time.sleep(0.2)
    return in_time(pool.submit(follower.close), limit_s, ended)


def in_time(work: "Future[None]", limit_s: float, ended: Callable[[], bool]) -> bool:
    """Whether it is done within `limit_s`, or within GRACE_S of the end of all."""
    deadline, told = time.monotonic() + limit_s, False
    while not work.done() and time.monotonic() < deadline:
        if not told and ended():
            deadline, told = min(deadline, time.monotonic() + GRACE_S), True
        wait([work], 0.2)
    return work.done()


if __name__ == "__main__":
    main()

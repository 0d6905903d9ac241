"""Send the finished runs of an arm to an experiment tracker, but for those that it has already.

Reads metrics.csv, summary.json and env.json of each run and writes a record of what was sent, or why not. A tracker
that is missing, down or silent is no error: the record says so, and the next call tries again.
"""

import argparse
import signal
import sys
from pathlib import Path

from peft_tradeoffs.errors import run
from peft_tradeoffs.tracking import PACKAGES

LIMIT_S = 60.0


def main() -> None:
    """Send what the tracker does not have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracker", required=True, choices=list(PACKAGES))
    parser.add_argument("--project", required=True, help="the project's name in the tracker")
    parser.add_argument("--arm", type=Path, required=True, metavar="DIR", help="holds a folder seed{seed} a run")
    parser.add_argument("--seeds", type=int, required=True, nargs="+")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="where trackers that write files do")
    parser.add_argument("--output", type=Path, required=True, metavar="JSON", help="the record")
    parser.add_argument("--call", default="", help="what arms tried by one call have alike; silent once, tried once")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="longest silence over a run, s (60)")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what it started ends too
    from peft_tradeoffs.tracking_record import track

    runs = [args.arm / f"seed{seed}" for seed in args.seeds]
    record = track(args.tracker, args.project, args.folder, runs, args.output, args.call, args.limit)
    for name, found in record["runs"].items():
        if found["status"] != "sent":
            print(f"{args.arm}/{name}: not sent to {args.tracker}: {found['reason']}; the next call tries again")


if __name__ == "__main__":
    run(main)

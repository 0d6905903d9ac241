"""Send finished runs to an experiment tracker, but for those that it has already.

Reads metrics.csv, summary.json and env.json of each run and writes a record of it: that it was sent, or why not. A
tracker that is missing, down or silent is no error: the record says so, and the next call tries again.
"""

import argparse
import signal
import sys
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.report.tracking import PACKAGES

LIMIT_S = 60.0


def main() -> None:
    """Send what the tracker does not have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracker", required=True, choices=list(PACKAGES))
    parser.add_argument("--project", required=True, help="the project's name in the tracker")
    parser.add_argument("--runs", type=Path, required=True, nargs="+", metavar="DIR", help="folders of finished runs")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="where trackers that write files do")
    parser.add_argument("--output", type=Path, required=True, nargs="+", metavar="JSON", help="one record per run")
    parser.add_argument("--records", type=Path, required=True, metavar="DIR", help="holds the records of all runs")
    parser.add_argument("--call", default="", help="a name for this attempt: one silence is enough for all of it")
    parser.add_argument("--limit", type=float, default=LIMIT_S, metavar="S", help="longest silence over a run, s (60)")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what it started ends too
    from peft_tradeoffs.report.tracking import Account, track

    records = dict(zip(args.runs, args.output, strict=True))
    found = track(Account(args.tracker, args.project, args.folder), records, args.records, args.call, args.limit)
    for folder, record in found.items():
        if record["status"] != "sent":
            print(f"{folder}: not sent to {args.tracker}: {record['reason']}; the next call tries again")
        elif remark := record.get("remark"):
            print(f"{folder}: {remark}")


if __name__ == "__main__":
    run(main)

"""Send finished runs to an experiment tracker, one after another, as their metrics.csv and summary.json stand.

Prints a line of JSON when it is ready, one per run that was sent, and one for the error that ended it; what the tracker
prints goes to stderr. It has no time limit and keeps no record: track.py calls it with both.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from types import TracebackType

from peft_tradeoffs.report.tracking import PACKAGES, offline, read_run, send

# What makes accelerate join other processes: srun and mpirun set them for whatever they start.
LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def main() -> None:
    """Send the runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracker", required=True, choices=list(PACKAGES))
    parser.add_argument("--project", required=True, help="the project's name in the tracker")
    parser.add_argument("--folder", type=Path, required=True, metavar="DIR", help="where trackers that write files do")
    parser.add_argument("--runs", type=Path, required=True, nargs="+", metavar="DIR", help="folders of finished runs")
    parser.add_argument("--earlier", required=True, nargs="+", metavar="IDS", help="what was sent of each before, or -")
    args = parser.parse_args()
    os.environ.update(offline(args.tracker, args.folder, os.environ))
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # nothing of it needs a GPU that others measure on
    for name in LAUNCHED:
        os.environ.pop(name, None)
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        print(json.dumps({"error": f"{kind.__name__}: {error}"}), file=told)
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = tell
    import accelerate.tracking  # noqa: F401 (loads torch, which may take longer than a run may)

    print(json.dumps({"ready": args.tracker}), file=told)
    for folder, ids in zip(args.runs, args.earlier, strict=True):
        earlier = [] if ids == "-" else ids.split(",")
        remark = send(args.tracker, args.project, args.folder, read_run(folder), earlier)
        print(json.dumps({"sent": str(folder), "remark": remark}), file=told)


if __name__ == "__main__":
    main()

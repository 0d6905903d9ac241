"""Show how far each run is: done, running, queued, interrupted, failed or not started.

Reads the folders of the runs and Slurm's queue, if there is one; changes nothing.
"""

import argparse
from pathlib import Path

from peft_tradeoffs import run_status, squeue
from peft_tradeoffs.errors import run
from peft_tradeoffs.grid import add_grid


def main() -> None:
    """Print a line a run and, last, how many there are of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the config's `output`")
    add_grid(parser)
    args = parser.parse_args()
    try:
        jobs = squeue.jobs(Path.cwd())
        unfinished = squeue.unfinished() if squeue.installed() else None
    except squeue.NoAnswer as error:
        jobs, unfinished = [], None
        print(f"{error}\nSo what is queued is not shown.")
    print(run_status.table(run_status.grid_status(args.output, args.grid, jobs, unfinished)))


if __name__ == "__main__":
    run(main)

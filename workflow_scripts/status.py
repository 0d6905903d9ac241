"""Show how far each tuning and run is: done, running, queued, interrupted, failed or not started.

Reads the folders of the runs and Slurm's queue, if there is one; changes nothing.
"""

import argparse
import json
from pathlib import Path

from peft_tradeoffs.core import slurm
from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.layout import add_grid
from peft_tradeoffs.runs import status


def main() -> None:
    """Print one line per run and, last, how many there are of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the config's `output`")
    add_grid(parser)
    parser.add_argument(
        "--trials", type=json.loads, default={}, metavar="JSON", help='learning rates to tune: {"full": [1e-5, 1e-4]}'
    )
    args = parser.parse_args()
    try:
        jobs = slurm.jobs(Path.cwd())
        unfinished = slurm.unfinished() if slurm.installed() else None
    except slurm.NoAnswer as error:
        jobs, unfinished = [], None
        print(f"{error}\nSo what is queued is not shown.")
    tuning = status.tuning_status(args.output, args.grid, args.trials, jobs, unfinished)
    runs = status.grid_status(args.output, args.grid, jobs, unfinished)
    every = {name: [*tuning.get(name, []), *of_name] for name, of_name in runs.items()}
    print(status.table(every))
    if left := status.time_left(args.output, every, args.trials):
        print(left)


if __name__ == "__main__":
    run(main)

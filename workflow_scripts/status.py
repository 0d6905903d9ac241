"""Show how far each tuning and run is: done, running, queued, interrupted, failed or not started.

Reads the folders of the runs, and Slurm's queue where jobs were sent to it; changes nothing. A run that was made with
other settings, other code or another learning rate than are asked for now is not done.
"""

import argparse
import functools
import json
from pathlib import Path

from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.core import slurm
from peft_tradeoffs.core.errors import run
from peft_tradeoffs.runs import status
from peft_tradeoffs.runs.plan import Standing


def main() -> None:
    """Print one line per run and, last, how many there are of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=json.loads, metavar="JSON", help="the configuration")
    parser.add_argument(
        "--command-line", type=json.loads, default={}, metavar="JSON", help="the part of it that came with --config"
    )
    parser.add_argument("--slurm", action="store_true", help="jobs are sent to Slurm from here")
    args = parser.parse_args()
    asked = resolve(args.config, args.command_line)
    output = Path(asked.output)
    grid = {"dataset": [*asked.datasets], "model": [*asked.models], "arm": [*asked.arms], "seed": asked.seeds}
    jobs: list[slurm.Job] = []
    unfinished = None
    if slurm.installed() and (args.slurm or slurm.submitted_from(Path.cwd()) or status.in_slurm(output)):
        try:
            jobs, unfinished = slurm.jobs(Path.cwd()), slurm.unfinished()
        except slurm.NoAnswer as error:
            print(f"{error}\nSo what is queued is not shown.")
    standing = functools.cache(functools.partial(Standing, asked))
    tuning = status.tuning_status(output, grid, asked.trials, jobs, unfinished, standing)
    runs = status.grid_status(output, grid, jobs, unfinished, standing)
    every = {name: [*tuning.get(name, []), *of_name] for name, of_name in runs.items()}
    print(status.table(every))
    if left := status.time_left(output, every):
        print(left)


if __name__ == "__main__":
    run(main)

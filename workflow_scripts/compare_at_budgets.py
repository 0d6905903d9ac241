"""Compare arms at equal cost: the metric that each has reached by a training time or an energy.

Reads the summary.json and metrics.csv of every run of a grid and writes equal_cost as .csv, .md and .tex. Models with
random weights have no metric and are left out.
"""

import argparse
import json
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.layout import AXES, add_contract, add_noise, add_runs, run_folder

NOTHING = "Random weights: there is no metric to compare.\n"
UNCOMPARED = (
    "Nothing to compare: the time of one job per arm, on a CPU that others may use, says little of the next job, and "
    "no energy was measured. With `seeds_per_job: 1` or `noise` times are compared on a CPU too; `budgets.train_s` "
    "asks for the metric by given times all the same.\n"
)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    add_contract(parser)
    add_noise(parser)
    parser.add_argument(
        "--budgets",
        type=json.loads,
        default={"train_s": [], "energy_J": []},
        metavar="JSON",
        help='{"train_s": [...], "energy_J": [...]}; an empty list: what the cheapest arm and the dearest take',
    )
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder the tables go to")
    return parser.parse_args()


def main() -> None:
    """Write the tables."""
    args = arguments()
    from peft_tradeoffs.analysis import tables
    from peft_tradeoffs.analysis.contract import read_runs
    from peft_tradeoffs.analysis.equal_cost import budgets_frame, budgets_notes, budgets_readable, read_evaluations
    from peft_tradeoffs.analysis.readable import Beside, write_tables
    from peft_tradeoffs.analysis.stats import read_noise

    runs = read_runs(args)
    frame = budgets_frame(
        runs,
        args.budgets,
        lambda of: read_evaluations(
            run_folder(args.runs_dir, *(of[axis] for axis in AXES)) / "metrics.csv", of["metric"]
        ),
        read_noise(args.noise),
    )
    nothing = NOTHING if tables.random_weights(runs) else "No run was completed: there is no metric to compare.\n"
    if runs["status"].eq(tables.COMPLETED).any() and not tables.random_weights(runs):
        nothing = UNCOMPARED
    write_tables(args.output_dir, "equal_cost", frame, budgets_readable, budgets_notes, Beside(nothing=nothing))


if __name__ == "__main__":
    run(main)

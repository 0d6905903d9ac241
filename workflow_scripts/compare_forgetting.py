"""Tell what each arm has forgotten: the loss on a general text before and after training, with intervals.

Reads the summary.json and predictions_general.csv of every run of a grid and writes forgetting as .csv, .md and .tex.
Models with random weights, and data sets that name no general text, are left out.
"""

import argparse
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.layout import add_contract, add_runs

NOTHING = "Random weights, or no run got so far: there is no loss on a general text.\n"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    parser.add_argument("--baseline", required=True, metavar="ARM", help="the arm that the others are compared with")
    add_contract(parser)
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder the tables go to")
    return parser.parse_args()


def main() -> None:
    """Write the tables."""
    args = arguments()
    from peft_tradeoffs.analysis.before_training import (
        forgetting_frame,
        forgetting_notes,
        forgetting_readable,
        stored_losses,
    )
    from peft_tradeoffs.analysis.contract import read_runs
    from peft_tradeoffs.analysis.readable import Beside, write_tables

    frame = forgetting_frame(read_runs(args), args.baseline, stored_losses(args.runs_dir))
    write_tables(args.output_dir, "forgetting", frame, forgetting_readable, forgetting_notes, Beside(nothing=NOTHING))


if __name__ == "__main__":
    run(main)

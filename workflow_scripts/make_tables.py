"""Gather run summaries into tables as CSV, Markdown and LaTeX: runs, arms, what memory went to, what it all cost.

Reads the summary.json of every run of a grid and writes runs, arms, memory and cost, each as .csv, .md and .tex. Only
completed runs are averaged; the others are counted. What was not measured stays empty.
"""

import argparse
import functools
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.layout import add_contract, add_data, add_runs, add_tokens


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    add_contract(parser)
    add_data(parser)
    add_tokens(parser)
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder the tables go to")
    return parser.parse_args()


def main() -> None:
    """Write the tables."""
    args = arguments()
    from peft_tradeoffs.analysis import readable, tables
    from peft_tradeoffs.analysis.contract import read_runs
    from peft_tradeoffs.analysis.readable import Beside, write_tables
    from peft_tradeoffs.analysis.tables import warnings_by_pair, warnings_of

    runs = read_runs(args)
    arms = tables.arms_frame(runs)
    costs_notes = functools.partial(readable.costs_notes, runs=runs)
    warned = functools.partial(warnings_of, warnings_by_pair(runs, args.runs_dir, args.data_dir, args.tokens_dir))
    for name, frame, cells, notes, warnings in (
        ("runs", runs, readable.runs_readable, costs_notes, warned),
        ("arms", arms, readable.arms_readable, costs_notes, warned),
        ("memory", tables.memory_frame(arms), readable.memory_readable, readable.memory_notes, None),
        ("cost", readable.cost_frame(runs), readable.cost_readable, readable.cost_notes, None),
    ):
        write_tables(args.output_dir, name, frame, cells, notes, Beside(warned=warnings))


if __name__ == "__main__":
    run(main)

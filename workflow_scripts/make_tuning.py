"""Gather the trials of tuning into tables/tuning as CSV, Markdown and LaTeX: one row per learning rate tried."""

import argparse
from pathlib import Path

from peft_tradeoffs.core.errors import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tunings", type=Path, nargs="+", required=True, metavar="JSON", help="what tune.py wrote")
    parser.add_argument("--deciding", nargs="+", required=True, metavar="ARM", help="whose rates final runs take")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder the tables go to")
    args = parser.parse_args()
    from peft_tradeoffs.analysis.readable import write_tables
    from peft_tradeoffs.analysis.tuning_table import tuning_frame, tuning_notes, tuning_readable
    from peft_tradeoffs.runs.plan import read_found

    frame = tuning_frame([read_found(path) for path in args.tunings], set(args.deciding))
    write_tables(args.output_dir, "tuning", frame, tuning_readable, tuning_notes)


if __name__ == "__main__":
    run(main)

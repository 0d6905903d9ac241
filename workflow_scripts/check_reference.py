"""Compare a finished sweep with a stored reference: what moved by more than noise, and which setting differs.

Prints a report, whose last line is the verdict, and writes it to a file. Ends with status 1 if a metric, time, memory
or energy moved or may have, a run or a number is missing, or the reference is of another device.
"""

import argparse
import sys
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.layout import add_keep_weights, add_runs, summaries
from peft_tradeoffs.tasks.shown import read_margin


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR", help="what store_reference.py wrote")
    add_runs(parser)
    add_keep_weights(parser)
    parser.add_argument("--noise", type=Path, metavar="FILE", help="the sweep's own noise.csv")
    parser.add_argument(
        "--margin", type=read_margin, required=True, metavar="M", help="a change of the metric above this never passes"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="gets the report, as Markdown")
    return parser.parse_args()


def main() -> None:
    """Print the report, and write it to a file."""
    args = arguments()
    from peft_tradeoffs.analysis import reference
    from peft_tradeoffs.analysis.gate import check, report
    from peft_tradeoffs.analysis.tables import read_summaries, runs_frame
    from peft_tradeoffs.core.files import write_text

    stored = reference.read(args.reference)
    runs = runs_frame(read_summaries(summaries(args.runs_dir, args.grid)))
    now = reference.of_runs(runs, args.runs_dir, args.noise, args.keep_weights)
    text, good = report(check(stored, now, args.margin), stored, now)
    write_text(args.output, text)
    print(text, end="", flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    run(main)

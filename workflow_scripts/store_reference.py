"""Store a finished sweep as a reference for check_reference.py: small files, meant to be kept and committed.

Writes runs.csv (one row per run), env.json (what the runs of each arm ran on and with, and checksums of their weights
and predictions) and, where the noise floor was measured, noise.csv.
"""

import argparse
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.layout import add_keep_weights, add_runs, summaries


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    add_keep_weights(parser)
    parser.add_argument("--noise", type=Path, metavar="FILE", help="the sweep's noise.csv")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder of the reference")
    return parser.parse_args()


def main() -> None:
    """Write the reference."""
    args = arguments()
    from peft_tradeoffs.analysis import reference
    from peft_tradeoffs.analysis.tables import read_summaries, runs_frame

    runs = runs_frame(read_summaries(summaries(args.runs_dir, args.grid)))
    reference.store(reference.of_runs(runs, args.runs_dir, args.noise, args.keep_weights), args.output_dir)


if __name__ == "__main__":
    run(main)

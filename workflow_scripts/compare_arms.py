"""Compare each arm with the baseline over the same seeds and examples: differences, intervals, tests, verdicts.

Reads every run of a grid (summary.json, predictions.csv, and predictions_heldout.csv where the data set has a heldout
split) and what the tuning of each arm found, and writes comparison as .csv, .md and .tex. Models with random weights
have no accuracy to compare and are left out.
"""

import argparse
import functools
from pathlib import Path

from peft_tradeoffs.core.errors import InputError, run
from peft_tradeoffs.core.layout import add_contract, add_data, add_runs, add_tokens
from peft_tradeoffs.tasks.shown import ABOUT_MARGIN, check_margins, read_margin

NOTHING = "Random weights: there is no metric to compare.\n"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    parser.add_argument("--baseline", required=True, metavar="ARM", help="the arm that the others are compared with")
    parser.add_argument(
        "--margin",
        type=read_margin,
        required=True,
        help=f"differences below it count as none, {ABOUT_MARGIN}; or JSON, by metric",
    )
    parser.add_argument(
        "--tunings-dir", type=Path, metavar="DIR", help="holds {dataset}/{model}/{arm}.json of tune.py; none: not tuned"
    )
    add_contract(parser)
    add_data(parser)
    add_tokens(parser)
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder the tables go to")
    return parser.parse_args()


def main() -> None:
    """Write the tables."""
    args = arguments()
    check_margins("--margin", args.margin)
    if args.baseline not in args.grid["arm"]:
        raise InputError(f"--baseline: no arm {args.baseline!r} in --grid, which has {', '.join(args.grid['arm'])}")
    from peft_tradeoffs.analysis.comparison import comparison_frame, stored_predictions
    from peft_tradeoffs.analysis.comparison_text import comparison_notes, comparison_readable
    from peft_tradeoffs.analysis.contract import read_runs
    from peft_tradeoffs.analysis.readable import Beside, write_tables
    from peft_tradeoffs.analysis.tables import warnings_by_pair, warnings_of
    from peft_tradeoffs.runs.plan import read_found

    runs = read_runs(args)
    check_margins("--margin", args.margin, runs["metric"].unique())
    frame = comparison_frame(
        runs,
        args.baseline,
        args.margin,
        stored_predictions(args.runs_dir, args.data_dir),
        args.tunings_dir
        and (lambda dataset, model, arm: read_found(args.tunings_dir / dataset / model / f"{arm}.json")),
    )
    warned = functools.partial(warnings_of, warnings_by_pair(runs, args.runs_dir, args.data_dir, args.tokens_dir))
    tables = len(frame[frame["p_different"].notna()].groupby(["dataset", "model", "split"]))
    write_tables(
        args.output_dir,
        "comparison",
        frame,
        comparison_readable,
        functools.partial(comparison_notes, tables=tables),
        Beside(warned=warned, nothing=NOTHING),
    )


if __name__ == "__main__":
    run(main)

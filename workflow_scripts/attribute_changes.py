"""Split what changes between the arms of a factorial into its factors and their interaction.

Reads every run of a grid (summary.json, predictions.csv) and writes attribution as .csv, .md and .tex: for memory,
time, energy and the metric, what each factor changes alone and what several change together beyond that.
"""

import argparse
import json
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.layout import add_contract, add_data, add_noise, add_runs


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    add_contract(parser)
    add_data(parser)
    add_noise(parser)
    parser.add_argument(
        "--factorials",
        type=json.loads,
        required=True,
        metavar="JSON",
        help='by name: {"factors": [name, ...], "arms": {arm: [0 or 1 a factor], ...}}, every combination once',
    )
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder the tables go to")
    return parser.parse_args()


def main() -> None:
    """Write the tables."""
    args = arguments()
    from peft_tradeoffs.analysis.attribution import (
        attribution_frame,
        attribution_notes,
        attribution_readable,
        attribution_sentences,
    )
    from peft_tradeoffs.analysis.comparison import stored_predictions
    from peft_tradeoffs.analysis.contract import read_runs
    from peft_tradeoffs.analysis.readable import Beside, write_tables
    from peft_tradeoffs.analysis.stats import read_noise

    runs = read_runs(args)
    predictions = stored_predictions(args.runs_dir, args.data_dir)
    frame = attribution_frame(runs, args.factorials, predictions, read_noise(args.noise))
    words = attribution_readable, attribution_notes
    write_tables(args.output_dir, "attribution", frame, *words, Beside(lead=attribution_sentences, by="factorial"))


if __name__ == "__main__":
    run(main)

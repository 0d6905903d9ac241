"""Write a model card for every adapter and checkpoint, in a folder that can be pushed to a hub as it is.

A folder {dataset}/{model}/{arm}/seed{N} a run: its weights (hard links where possible), configuration and tokenizer
without paths of this machine, and README.md, the card. index.csv lists them, and why a run has none. The runs' own
folders are not changed.
"""

import argparse
import json
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.layout import add_contract, add_keep_weights, add_runs


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    add_contract(parser)
    add_keep_weights(parser)
    parser.add_argument(
        "--comparison",
        type=Path,
        required=True,
        metavar="CSV",
        help="comparison.csv of compare_arms.py over these runs",
    )
    parser.add_argument(
        "--datasets",
        type=json.loads,
        required=True,
        metavar="JSON",
        help="the data sets' blocks of the config, by name",
    )
    parser.add_argument("--data-dir", type=Path, required=True, metavar="DIR", help="holds {dataset}/dataset.json")
    parser.add_argument("--tokens-dir", type=Path, required=True, metavar="DIR", help="holds {dataset}/{model}.json")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="gets the folders")
    return parser.parse_args()


def main() -> None:
    """Write the folders."""
    args = arguments()
    from peft_tradeoffs.analysis import tables
    from peft_tradeoffs.analysis.comparison import read_comparison
    from peft_tradeoffs.analysis.contract import read_runs
    from peft_tradeoffs.report.cards import Folders, publish

    runs = read_runs(args)
    comparison = read_comparison(args.comparison)
    folders = Folders(args.runs_dir, args.data_dir, args.tokens_dir, args.output_dir)
    publish(runs, tables.arms_frame(runs), comparison, args.datasets, folders, args.keep_weights)


if __name__ == "__main__":
    run(main)

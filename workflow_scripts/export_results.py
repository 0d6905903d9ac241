"""Export the runs of a grid as CSV, Parquet and JSON, with a schema that describes every column.

Writes runs, arms (equal in values to the tables of make_tables.py), metrics (every evaluation of every run) and
null_reasons (why a run has no value), each as .csv, .parquet, .json and .schema.json (a Frictionless Table Schema), and
datapackage.json, which lists them. What was not measured is null.
"""

import argparse
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.layout import add_contract, add_runs


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    add_contract(parser)
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder the export goes to")
    return parser.parse_args()


def main() -> None:
    """Write the export."""
    args = arguments()
    from peft_tradeoffs.analysis.contract import read_runs
    from peft_tradeoffs.report import export

    runs = read_runs(args)
    export.write(args.output_dir, export.results(runs, export.read_metrics(runs, args.runs_dir)))


if __name__ == "__main__":
    run(main)

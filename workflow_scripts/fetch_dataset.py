"""Read a data set, from the hub, local files or installed packages' docstrings, and write its splits.

Writes train.parquet, test.parquet and, if asked for, validation.parquet and heldout.parquet (columns text_a, text_b
for pairs, label, row), groups.parquet (split, row, group) if rows have groups, then dataset.json, which says what they
hold and where it comes from. Fractions and limits are seeded and stratified by class: the same input gives the same
rows. Only the source `hub` uses the network.
"""

import argparse
import json
from pathlib import Path

from peft_tradeoffs.core.errors import InputError, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True, metavar="JSON", help="the data set's block of the config")
    parser.add_argument("--output-dir", required=True, type=Path, help="folder for the splits")
    arguments = parser.parse_args()
    try:
        block = json.loads(arguments.source)
    except json.JSONDecodeError as error:
        raise InputError(f"--source: not JSON ({error})") from error

    from peft_tradeoffs.inputs.datasets import fetch_dataset

    fetch_dataset(block, arguments.output_dir)


if __name__ == "__main__":
    run(main)

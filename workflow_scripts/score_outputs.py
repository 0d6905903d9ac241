"""Score the answers of one run, in a process apart from the one that trains.

Reads outputs.jsonl of the run and the references of the fetched data set, and writes what each answer adds to exact
match, token F1, ROUGE-L, BLEU, chrF, the numeric answer, and to a scorer of the user's own.
"""

import argparse
import json
import os
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.training.scoring import score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outputs", required=True, type=Path, metavar="JSONL", help="the run's answers")
    parser.add_argument("--data-dir", required=True, type=Path, metavar="DIR", help="the fetched data set")
    parser.add_argument("--split", required=True, help="the split of the data set that the rows are of")
    parser.add_argument("--asked", required=True, help="JSON: number, scorer, begins")
    parser.add_argument("--output", required=True, type=Path, metavar="CSV", help="one line per answer")
    parser.add_argument(
        "--marks", type=int, help="descriptor of a file: a byte where the user's scorer begins, and where it has ended"
    )
    arguments = parser.parse_args()

    def mark() -> None:
        if arguments.marks is not None:
            os.write(arguments.marks, b".")

    asked = json.loads(arguments.asked)
    score(arguments.outputs, arguments.data_dir, arguments.split, asked, arguments.output, mark)


if __name__ == "__main__":
    run(main)

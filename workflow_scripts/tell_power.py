"""Say what the rows of a fetched data set can decide, where the plan could not count them, on stderr."""

import argparse
import json
import sys
from pathlib import Path

from peft_tradeoffs.analysis.power import Design, told
from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.files import read_json

NEAR = 0.05  # a count that differs by less says the same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True, type=Path, help="folder that fetch_dataset.py wrote")
    parser.add_argument("--asked", required=True, metavar="JSON", help="split, seeds, arms, margin, baseline, said")
    arguments = parser.parse_args()
    asked = json.loads(arguments.asked)
    rows = read_json(arguments.data_dir / "dataset.json")["splits"][asked["split"]]["rows"]
    if abs(rows - asked["said"]) <= NEAR * rows:
        return
    design = Design(rows=rows, seeds=asked["seeds"], arms=asked["arms"])
    words = told(design, asked["margin"], f"{rows:,} {asked['split']} rows", asked["baseline"])
    print(f"note: data set {arguments.data_dir.name}: {words}", file=sys.stderr)


if __name__ == "__main__":
    run(main)

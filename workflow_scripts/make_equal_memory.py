"""Gather the view of equal memory into tables/equal_memory as CSV, Markdown and LaTeX: one row per cap and arm.

Its notes say what the contract of the main runs found, and where the runs of one cap ran on different machines,
versions or code.
"""

import argparse
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.layout import add_contract


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--found", type=Path, nargs="+", required=True, metavar="JSON", help="what train_at_equal_memory.py wrote"
    )
    parser.add_argument(
        "--runs-dir", type=Path, required=True, metavar="DIR", help="holds {dataset}/{model}/{arm}/batch{N}/seed{N}"
    )
    add_contract(parser)
    parser.add_argument("--models", type=Path, nargs="+", required=True, metavar="JSON", help="manifests of the models")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder the tables go to")
    args = parser.parse_args()
    from peft_tradeoffs.analysis.contract import with_differences
    from peft_tradeoffs.analysis.equal_cost import (
        equal_memory_frame,
        equal_memory_notes,
        equal_memory_readable,
        read_capped,
    )
    from peft_tradeoffs.analysis.readable import write_tables
    from peft_tradeoffs.core.files import read_json

    pretrained = {path.stem: read_json(path)["pretrained"] for path in args.models}
    frame = equal_memory_frame([read_capped(path) for path in args.found], pretrained, args.runs_dir)
    frame = with_differences(frame, args.contract)
    write_tables(args.output_dir, "equal_memory", frame, equal_memory_readable, equal_memory_notes)


if __name__ == "__main__":
    run(main)

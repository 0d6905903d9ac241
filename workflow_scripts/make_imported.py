"""Write published results of PEFT's method_comparison as a table of their own: CSV, Markdown and LaTeX.

One row per result file. Nothing in it was measured by this workflow, and every row says so.
"""

import argparse
import json
from pathlib import Path

from peft_tradeoffs.core.errors import run


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--results", type=json.loads, required=True, metavar="JSON", help='{"label": ["result.json", ...], ...}'
    )
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder the table goes to")
    return parser.parse_args()


def main() -> None:
    """Write the table."""
    args = arguments()
    from peft_tradeoffs.analysis.readable import Beside, write_tables
    from peft_tradeoffs.report import imported as text

    frame = text.imported_frame(args.results)
    write_tables(
        args.output_dir,
        "imported",
        frame,
        text.imported_readable,
        text.imported_notes,
        Beside(lead=text.imported_lead, by="source"),
    )


if __name__ == "__main__":
    run(main)

"""Tell what each model writes before any training: its metrics with intervals, beside the arms and compared with none.

Reads what answer_untrained.py wrote of every data set and model, and writes untrained as .csv, .md and .tex.
"""

import argparse
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.layout import UNTRAINED, add_data


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--untrained",
        type=Path,
        nargs="*",
        required=True,
        metavar="JSON",
        help="summary.json of answer_untrained.py, one per data set and model",
    )
    add_data(parser)
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder the tables go to")
    return parser.parse_args()


def main() -> None:
    """Write the tables."""
    args = arguments()
    from peft_tradeoffs.analysis.before_training import untrained_frame, untrained_notes, untrained_readable
    from peft_tradeoffs.analysis.readable import Beside, write_tables

    frame = untrained_frame([path.parent for path in args.untrained], args.data_dir)
    nothing = Beside(nothing="What the untrained models answered was not brought here.\n")
    write_tables(args.output_dir, UNTRAINED, frame, untrained_readable, untrained_notes, nothing)


if __name__ == "__main__":
    run(main)

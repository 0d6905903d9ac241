"""Make the report: one HTML file to open, sort, filter and send on, from the tables and runs of a sweep.

It holds its script and its data, opens from disk and asks the network for nothing. Tables are given as CSV files, the
Markdown of each is read beside it.
"""

import argparse
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.layout import add_data, add_tokens


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tables", type=Path, nargs="+", required=True, metavar="CSV", help="tables, runs.csv among them"
    )
    parser.add_argument(
        "--runs-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the runs: {dataset}/{model}/{arm}/seed{seed}/ below it",
    )
    add_data(parser)
    add_tokens(parser)
    parser.add_argument(
        "--untrained-dir",
        type=Path,
        metavar="DIR",
        help="holds one folder {dataset}/{model} of what answer_untrained.py wrote, shown beside the arms' answers",
    )
    parser.add_argument(
        "--profiles", type=Path, metavar="CSV", help="index.csv of the profiles, beside whose folder the report stands"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="HTML", help="the file to write")
    return parser.parse_args()


def main() -> None:
    """Write the page."""
    args = arguments()
    from peft_tradeoffs.core.files import write_text
    from peft_tradeoffs.report.page import report

    files = {path.stem: path for path in args.tables}
    if args.profiles:
        files["profiles"] = args.profiles
    write_text(args.output, report(files, args.runs_dir, args.data_dir, args.tokens_dir, args.untrained_dir))


if __name__ == "__main__":
    run(main)

"""Gather run summaries into tables: a row a run and a row an arm, as CSV, Markdown and LaTeX.

Reads the summary.json files that a list names and writes runs.csv, arms.csv, runs.md, arms.md, runs.tex and
arms.tex. Only completed runs are averaged; the others are counted. What was not measured stays empty.
"""

import argparse
from pathlib import Path

from peft_tradeoffs.errors import InputError, run


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--summaries-from",
        type=Path,
        required=True,
        metavar="FILE",
        help="text file with the path of one summary.json a line",
    )
    parser.add_argument(
        "--output-dir", type=Path, required=True, metavar="DIR", help="folder the tables go to"
    )
    return parser.parse_args()


def main() -> None:
    """Write the six tables."""
    args = arguments()
    from peft_tradeoffs import tables
    from peft_tradeoffs.files import write_text

    if not args.summaries_from.is_file():
        raise InputError(f"--summaries-from {args.summaries_from}: no such file")
    lines = args.summaries_from.read_text(encoding="utf-8").splitlines()
    runs = tables.runs_frame(tables.read_summaries(Path(line) for line in lines if line.strip()))
    arms = tables.arms_frame(runs)
    for name, frame, readable in (
        ("runs", runs, tables.runs_readable),
        ("arms", arms, tables.arms_readable),
    ):
        write_text(args.output_dir / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n"))
        write_text(args.output_dir / f"{name}.md", tables.markdown(frame, readable))
        write_text(args.output_dir / f"{name}.tex", tables.latex(frame, readable))


if __name__ == "__main__":
    run(main)

"""Gather run summaries into tables: a row a run and a row an arm, as CSV, Markdown and LaTeX.

Reads the summary.json of every run of a grid and writes runs.csv, arms.csv, runs.md, arms.md, runs.tex and
arms.tex. Only completed runs are averaged; the others are counted. What was not measured stays empty.
"""

import argparse
import itertools
import json
from pathlib import Path

from peft_tradeoffs.errors import run


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="holds {dataset}/{model}/{arm}/seed{seed}/summary.json",
    )
    parser.add_argument(
        "--grid",
        type=json.loads,
        required=True,
        metavar="JSON",
        help='{"dataset": [...], "model": [...], "arm": [...], "seed": [...]}: the runs are all combinations',
    )
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder the tables go to")
    return parser.parse_args()


def main() -> None:
    """Write the six tables."""
    args = arguments()
    from peft_tradeoffs import tables
    from peft_tradeoffs.files import write_text

    axes = (args.grid[axis] for axis in ("dataset", "model", "arm", "seed"))
    paths = (
        args.runs_dir / dataset / model / arm / f"seed{seed}" / "summary.json"
        for dataset, model, arm, seed in itertools.product(*axes)
    )
    runs = tables.runs_frame(tables.read_summaries(paths))
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

"""Draw the figures of one data set and model, each as SVG, PDF and PNG, and bare with its caption in paper/.

Reads runs.csv (of make_tables.py), the metrics.csv of each completed run and the labels in one's predictions.csv.
A figure for which nothing was measured is drawn too: it says why.
"""

import argparse
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.layout import add_noise


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, metavar="CSV", help="runs.csv of make_tables.py")
    parser.add_argument(
        "--runs-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of this data set's and model's runs: {arm}/seed{seed} below it",
    )
    parser.add_argument("--dataset", required=True, help="the data set, as runs.csv names it")
    parser.add_argument("--model", required=True, help="the model, as runs.csv names it")
    parser.add_argument(
        "--tuning", type=Path, nargs="?", metavar="CSV", help="tuning.csv of make_tuning.py, where rates were tuned"
    )
    parser.add_argument(
        "--comparison", type=Path, metavar="CSV", help="comparison.csv of compare_arms.py, for the metric's intervals"
    )
    add_noise(parser)
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder the figures go to")
    return parser.parse_args()


def main() -> None:
    """Draw every figure."""
    args = arguments()
    from peft_tradeoffs.core.layout import FIGURES, TUNING_FIGURES
    from peft_tradeoffs.report import style
    from peft_tradeoffs.report.style import drawings, sweeps
    from peft_tradeoffs.report.sweep import Tables, load

    files = Tables(args.runs, args.tuning, args.noise, args.comparison)
    grid = load(files, args.runs_dir, args.dataset, args.model)
    figures = drawings(FIGURES) | sweeps(grid) | drawings(TUNING_FIGURES if args.tuning else {})
    for name, draw in figures.items():
        figure = draw(grid)
        style.save(figure, args.output_dir, name)
        style.save_bare(figure, args.output_dir, name)


if __name__ == "__main__":
    run(main)

"""Measure the noise floor: what of a result and of its cost differs between runs of the same arm with the same seed.

Reads the runs of all repeats and writes noise as .csv, .md and .tex: whether weights and predictions are the same bit
for bit, how far apart they are if not, and the spread of the metric, of time, memory and energy.
"""

import argparse
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.files import to_csv
from peft_tradeoffs.core.layout import AXES, add_grid, run_folder, summaries


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--noise-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="holds one folder repeat{N}/{dataset}/{model}/{arm}/seed{seed} per run",
    )
    add_grid(parser)
    parser.add_argument("--repeats", type=int, required=True, metavar="K", help="runs per arm: repeat1 to repeatK")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder the tables go to")
    return parser.parse_args()


def main() -> None:
    """Write the tables."""
    args = arguments()
    from peft_tradeoffs.analysis.readable import latex, markdown
    from peft_tradeoffs.analysis.reference import noise_frame, noise_notes, noise_readable, repeats_frame
    from peft_tradeoffs.analysis.tables import read_summaries
    from peft_tradeoffs.core.files import write_text

    folders = {number: args.noise_dir / f"repeat{number}" for number in range(1, args.repeats + 1)}
    runs = repeats_frame({n: read_summaries(summaries(folder, args.grid)) for n, folder in folders.items()})
    frame = noise_frame(runs, lambda of: run_folder(folders[of["repeat"]], *(of[axis] for axis in AXES)))
    write_text(args.output_dir / "noise.csv", to_csv(frame))
    write_text(args.output_dir / "noise.md", markdown(frame, noise_readable, noise_notes))
    write_text(args.output_dir / "noise.tex", latex(frame, noise_readable, noise_notes))


if __name__ == "__main__":
    run(main)

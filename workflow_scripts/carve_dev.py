"""Make the dev splits on which learning rates are tuned, once for all trials.

Writes tokens as tokenize_dataset.py does, of which `test` is the dev split: the validation split where there is one,
the same in each file, and elsewhere carved from train, one of its own per file; `train` is what is left of it. The
reported test split is not in the file, so tuning cannot look at it. Rows of one group, where the data set has groups,
stay on one side.
"""

import argparse
from pathlib import Path

from peft_tradeoffs.core.errors import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", required=True, type=Path, metavar="NPZ", help="tokenised splits, .json beside it")
    parser.add_argument("--data-dir", required=True, type=Path, help="folder that fetch_dataset.py wrote")
    parser.add_argument("--fraction", required=True, type=float, help="share of train's texts carved off")
    parser.add_argument("--seed", required=True, type=int, help="of the first draw; one more for each next")
    parser.add_argument(
        "--output", required=True, type=Path, nargs="+", metavar="NPZ", help="the .npz to write, .json beside each"
    )
    arguments = parser.parse_args()

    from peft_tradeoffs.inputs.tokens import carve_dev

    for number, output in enumerate(arguments.output):
        carve_dev(arguments.tokens, arguments.fraction, arguments.seed + number, output, arguments.data_dir)


if __name__ == "__main__":
    run(main)

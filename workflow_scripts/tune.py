"""Tune the learning rate of one arm: train one trial per rate on the dev split's data and write down the best rate.

A trial is a run like any other, resumed and measured as one, but for its weights, which are not kept. The best has the
highest metric on the dev split after its last step; of several, the lowest loss. With --extend rates are added beyond
the grid's edge as long as the best rate is on it. Rates that cannot be told from the best one are tried again with it,
once on each dev split of --again, and the best mean decides. Out of memory and divergence are results of a trial. A
trial of an earlier grid that still stands is written down too, but never chosen.
"""

import signals_first  # noqa: F401

# isort: split
import argparse
import functools
import os
from pathlib import Path

from peft_tradeoffs.analysis.finished import read_summary
from peft_tradeoffs.core import errors, files
from peft_tradeoffs.training.job import add_training, process, read_settings
from peft_tradeoffs.training.search import Grid, tune

os.environ["HF_HUB_OFFLINE"] = "1"  # training never touches the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training(parser)
    parser.add_argument("--rates", required=True, type=float, nargs="+", help="the grid")
    parser.add_argument("--seed", required=True, type=int, help="of every trial")
    parser.add_argument(
        "--again", type=Path, nargs="*", default=[], metavar="NPZ", help="tokens of the dev splits of further trials"
    )
    parser.add_argument("--extend", type=int, default=0, metavar="N", help="rates added beyond an edge at most")
    parser.add_argument(
        "--trials-dir", required=True, type=Path, metavar="DIR", help="gets one folder lr{RATE} per trial"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="JSON", help="the chosen rate and all trials")
    arguments = parser.parse_args()
    settings = read_settings(arguments)
    grid = Grid(sorted(arguments.rates), arguments.extend, arguments.seed, arguments.trials_dir, arguments.again)
    with process(arguments, gpus=settings["gpus"]) as job:
        found = tune(job, settings, grid, functools.partial(read_summary, place=False))
    files.write_json(arguments.output, files.signed(found))


if __name__ == "__main__":
    errors.run(main)

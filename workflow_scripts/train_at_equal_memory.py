"""Train one arm at the largest batch that stays under each memory cap: the view of equal memory.

A search measures the probe's peak at growing batch sizes, as a run would; each peak is kept for the next call. The
learning rate follows the batch by --rule; epochs stay the same, so that every arm sees the same texts equally often.
Caps that come to the same batch share its runs, whose weights are not kept. Writes the search and the runs' summaries
to --output.
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
from peft_tradeoffs.training.search import Caps, train_at_equal_memory

os.environ["HF_HUB_OFFLINE"] = "1"  # training never touches the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training(parser)
    parser.add_argument("--caps", required=True, type=float, nargs="+", metavar="GIB", help="caps on peak memory")
    parser.add_argument("--largest", required=True, type=int, metavar="N", help="batch size that the search ends at")
    parser.add_argument("--rule", required=True, choices=("sqrt", "linear", "constant"), help="of the learning rate")
    parser.add_argument("--seeds", required=True, type=int, nargs="+")
    parser.add_argument(
        "--runs-dir", required=True, type=Path, metavar="DIR", help="gets one folder batch{N}/seed{N} per run"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="JSON", help="what was found and trained")
    arguments = parser.parse_args()
    settings = read_settings(arguments)
    caps = Caps(arguments.caps, arguments.largest, arguments.rule, arguments.seeds, arguments.runs_dir)
    with process(arguments) as job:
        found = train_at_equal_memory(job, settings, caps, functools.partial(read_summary, place=False))
    files.write_json(arguments.output, files.signed(found))


if __name__ == "__main__":
    errors.run(main)

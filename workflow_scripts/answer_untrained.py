"""Have a model answer the test prompts as it is fetched, before any training, and write what it gave.

It answers by the settings that trained models answer by, its test loss is taken too, and the answers are scored as
those of runs are. Answers that stand, of the same settings, data, model, code and libraries, are kept. On SIGTERM,
SIGUSR1 or SIGINT the exit status is 75: run again.
"""

import signals_first  # noqa: F401

# isort: split
import argparse
import os
from pathlib import Path

from peft_tradeoffs.core import errors
from peft_tradeoffs.training.job import Run, Untrained, add_training, process, read_settings

os.environ["HF_HUB_OFFLINE"] = "1"  # it never touches the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training(parser)
    parser.add_argument("--output-dir", required=True, type=Path, metavar="DIR", help="gets what the model gave")
    arguments = parser.parse_args()
    with process(arguments, Untrained) as job:
        job.train([Run(arguments.output_dir, 0, read_settings(arguments), probed=False)])


if __name__ == "__main__":
    errors.run(main)

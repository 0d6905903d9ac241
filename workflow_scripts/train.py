"""Train the seeds of one arm, one after another, and write what each run gave.

A seed whose results stand, made from the same settings, data, model, code and libraries, is kept. One that was
interrupted resumes from its state and ends with the weights of an uninterrupted run. On SIGTERM, SIGUSR1 or SIGINT the
state is written between two steps and the exit status is 75: run again to go on.
"""

import signals_first  # noqa: F401

# isort: split
import argparse
import os
from pathlib import Path

from peft_tradeoffs.core import errors
from peft_tradeoffs.training.job import Run, add_training, process, read_settings

os.environ["HF_HUB_OFFLINE"] = "1"  # training never touches the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_training(parser)
    parser.add_argument("--seeds", required=True, type=int, nargs="+")
    parser.add_argument("--output-dir", required=True, type=Path, help="gets one folder seed{N} per run")
    arguments = parser.parse_args()
    settings = read_settings(arguments)
    with process(arguments, gpus=settings["gpus"]) as job:
        job.train([Run(arguments.output_dir / f"seed{seed}", seed, settings) for seed in arguments.seeds])


if __name__ == "__main__":
    errors.run(main)

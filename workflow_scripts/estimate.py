"""Estimate a sweep before anything is trained: trainings, memory, time, disk, energy, money, and what it can show.

Works with the models and tokens that are there; what cannot be known of them is said to be unknown, and why. Writes
estimate.md and estimate.json, and prints the first.
"""

import argparse
import json
import os
import warnings
from pathlib import Path

from peft_tradeoffs.config.estimate import BUDGET_S, Site, look
from peft_tradeoffs.config.estimate_text import as_json, text
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.files import write_json, write_text

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    """Print the estimate, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=json.loads, metavar="JSON", help="the configuration")
    parser.add_argument(
        "--command-line", type=json.loads, default={}, metavar="JSON", help="the part of it that came with --config"
    )
    parser.add_argument(
        "--site", type=json.loads, default={}, metavar="JSON", help='of the profile: {"local": true, "gpus": 2, …}'
    )
    parser.add_argument("--no-steps", action="store_true", help="take no real steps: seconds stay unknown")
    parser.add_argument("--budget", type=float, default=BUDGET_S, metavar="S", help="before ranks are interpolated")
    parser.add_argument("--output-dir", required=True, type=Path, metavar="DIR", help="gets estimate.md and .json")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")

    experiment = resolve(args.config, args.command_line)
    found = look(experiment, Site(**args.site), not args.no_steps, args.budget)
    said = text(found)
    write_json(args.output_dir / "estimate.json", as_json(found))
    write_text(args.output_dir / "estimate.md", said)
    print(said, end="", flush=True)


if __name__ == "__main__":
    run(main)

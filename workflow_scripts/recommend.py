"""Recommend one arm of those that keep the limits and are proven to lose no more than the margin, or say why none.

Reads the summary.json of every run of a grid and the comparison.csv of compare_arms.py, and writes recommendation.csv
and recommendation.md. Of models with random weights costs alone are judged.
"""

import argparse
import json
from pathlib import Path

from peft_tradeoffs.config.model import Recommendation
from peft_tradeoffs.core.errors import InputError, run
from peft_tradeoffs.core.files import to_csv
from peft_tradeoffs.core.layout import add_contract, add_data, add_noise, add_runs, add_tokens

LIMITS = Recommendation().to_dict()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    add_contract(parser)
    add_noise(parser)
    add_data(parser)
    add_tokens(parser)
    parser.add_argument("--comparison", type=Path, required=True, metavar="CSV", help="comparison.csv of these runs")
    parser.add_argument(
        "--limits",
        type=json.loads,
        default={},
        metavar="JSON",
        help=f"{json.dumps(LIMITS)}: null is no limit; cheapest is memory, time or energy",
    )
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder the tables go to")
    return parser.parse_args()


def main() -> None:
    """Write the tables."""
    args = arguments()
    from peft_tradeoffs.analysis.comparison import read_comparison
    from peft_tradeoffs.analysis.contract import read_runs
    from peft_tradeoffs.analysis.recommendation import load_warnings, recommendation_frame
    from peft_tradeoffs.analysis.recommendation_text import recommendation_markdown
    from peft_tradeoffs.analysis.stats import read_noise
    from peft_tradeoffs.analysis.tables import warnings_by_pair
    from peft_tradeoffs.core.files import write_text

    limits = LIMITS | args.limits
    if unknown := set(limits) - set(LIMITS):
        raise InputError(f"--limits: unknown {', '.join(sorted(unknown))}; known are {', '.join(LIMITS)}")
    runs = read_runs(args)
    frame = recommendation_frame(runs, read_comparison(args.comparison), limits, read_noise(args.noise))
    warnings = warnings_by_pair(runs, args.runs_dir, args.data_dir, args.tokens_dir)
    if limits["cheapest"] == "time" or limits["train_s"] is not None:
        for pair, lines in load_warnings(runs, args.runs_dir).items():
            warnings[pair] += lines
    write_text(args.output_dir / "recommendation.csv", to_csv(frame))
    write_text(args.output_dir / "recommendation.md", recommendation_markdown(frame, limits, warnings))


if __name__ == "__main__":
    run(main)

"""Store a finished sweep as a reference for check_reference.py: small files, meant to be kept and committed.

Writes runs.csv (one row per run), env.json (what the runs of each arm ran on and with, and checksums of their weights
and predictions) and, where the noise floor was measured, noise.csv. And what benchmarks/study.py makes every statistic
anew of: answers.npz, which rows each run and each trial was right on, of metrics that are a share of right answers;
tunings.json, what tune.py wrote; and factorials.json.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.layout import add_data, add_keep_weights, add_runs, summaries

if TYPE_CHECKING:
    import numpy as np


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    add_keep_weights(parser)
    parser.add_argument("--noise", type=Path, metavar="FILE", help="the sweep's noise.csv")
    parser.add_argument("--tunings", type=Path, nargs="*", default=[], metavar="JSON", help="what tune.py wrote")
    parser.add_argument("--factorials", type=json.loads, default={}, metavar="JSON", help="as attribute_changes.py has")
    parser.add_argument("--trials-dir", type=Path, metavar="DIR", help="holds the trials of tune.py")
    add_data(parser)
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder of the reference")
    return parser.parse_args()


def main() -> None:
    """Write the reference."""
    args = arguments()
    from peft_tradeoffs.analysis import reference
    from peft_tradeoffs.analysis.comparison import stored_predictions
    from peft_tradeoffs.analysis.tables import read_summaries, runs_frame
    from peft_tradeoffs.inputs.splits import read_groups
    from peft_tradeoffs.runs.plan import read_found

    def groups(dataset: str, split: str, rows: "np.ndarray") -> "np.ndarray | None":
        return read_groups(args.data_dir, dataset, split, rows) if args.data_dir else None

    runs = runs_frame(read_summaries(summaries(args.runs_dir, args.grid)))
    sweep = reference.of_runs(runs, args.runs_dir, args.noise, args.keep_weights)
    tunings = [read_found(path) for path in args.tunings]
    kept = reference.answers_of_runs(runs, stored_predictions(args.runs_dir, None), groups)
    kept |= reference.answers_of_trials(tunings, args.trials_dir, groups)
    reference.store(sweep, args.output_dir, reference.Study(kept, tunings, args.factorials))


if __name__ == "__main__":
    run(main)

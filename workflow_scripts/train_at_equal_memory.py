"""Train one arm at the largest batch that stays under each memory cap: the view of equal memory.

A search measures the probe's peak at growing batch sizes, as a run would, and is kept for the next call. The learning
rate follows the batch by --rule; epochs stay the same, so that every arm sees the same texts equally often. Writes the
search and the runs' summaries to --output.
"""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

from peft_tradeoffs import errors, files
from peft_tradeoffs.batch_search import candidates, largest_batches, scaled_rate
from peft_tradeoffs.training import Run, TrainingProcess, add_training, process, read_settings

os.environ["HF_HUB_OFFLINE"] = "1"  # training never touches the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
GIB = 1024.0  # MiB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training(parser)
    parser.add_argument("--caps", required=True, type=float, nargs="+", metavar="GIB", help="caps on peak memory")
    parser.add_argument("--largest", required=True, type=int, metavar="N", help="batch size that the search ends at")
    parser.add_argument("--rule", required=True, choices=("sqrt", "linear", "constant"), help="of the learning rate")
    parser.add_argument("--seeds", required=True, type=int, nargs="+")
    parser.add_argument("--runs-dir", required=True, type=Path, metavar="DIR", help="gets cap{GiB}/seed{N} a run")
    parser.add_argument("--output", required=True, type=Path, metavar="JSON", help="what was found and trained")
    arguments = parser.parse_args()
    settings = read_settings(arguments)
    base, rate = settings["batch_size"], settings["learning_rate"]
    with process(arguments) as training:
        search = _search(training, settings, arguments)
        found = []
        for fit in search["fits"]:
            runs = []
            if fit["batch_size"] is not None:
                factor = fit["batch_size"] / base
                own = settings | {
                    "batch_size": fit["batch_size"],
                    "learning_rate": scaled_rate(rate, factor, arguments.rule),
                }
                folder = arguments.runs_dir / f"cap{fit['cap_MiB'] / GIB:g}"
                runs = [Run(folder / f"seed{seed}", seed, own) for seed in arguments.seeds]
                training.train(runs)
            found.append({**fit, "summaries": [files.read_json(run.folder / "summary.json") for run in runs]})
    keys = ("dataset", "model", "arm", "method", "rank", "metric", "device", "max_steps")
    files.write_json(
        arguments.output,
        {
            **{key: settings[key] for key in keys},
            "base_batch_size": base,
            "rule": arguments.rule,
            "largest": arguments.largest,
            "tried": search["tried"],
            "caps": found,
        },
    )


def _search(training: TrainingProcess, settings: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """The fits of all caps and every peak measured, by batch size; of an earlier call where nothing has changed."""
    asked = {"caps_GiB": sorted(arguments.caps), "largest": arguments.largest}
    path = arguments.runs_dir / "search.json"
    fingerprint = training.fingerprint(arguments.seeds[0], {**settings, "learning_rate": None, "search": asked})
    if path.exists() and (kept := files.read_json(path))["fingerprint"] == fingerprint:
        return kept
    peaks = training.probe_peaks(settings, arguments.seeds[0])
    sizes = candidates(min(arguments.largest, peaks.rows), settings["gradient_accumulation_steps"])
    tried: dict[int, float | None] = {}

    def measured(size: int) -> float | None:
        tried[size] = peaks(size)
        return tried[size]

    fits = largest_batches(measured, [cap * GIB for cap in asked["caps_GiB"]], sizes, settings["batch_size"])
    search = {
        "fingerprint": fingerprint,
        "fits": [dataclasses.asdict(fit) for fit in fits],
        "tried": [{"batch_size": size, "peak_MiB": tried[size]} for size in sorted(tried)],
    }
    files.write_json(path, search)
    return search


if __name__ == "__main__":
    errors.run(main)

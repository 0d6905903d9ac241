"""Train one arm at the largest batch that stays under each memory cap: the view of equal memory.

A search measures the probe's peak at growing batch sizes, as a run would; each peak is kept for the next call. The
learning rate follows the batch by --rule; epochs stay the same, so that every arm sees the same texts equally often.
Caps that come to the same batch share its runs, whose weights are not kept. Writes the search and the runs' summaries
to --output.
"""

from peft_tradeoffs.runs import signals_first  # noqa: F401

# isort: split
import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

from peft_tradeoffs.analysis.finished import read_summary
from peft_tradeoffs.core import code, errors, files, seal
from peft_tradeoffs.tasks.task import TASKS
from peft_tradeoffs.training.batch_search import Fit, KeptPeaks, candidates, ended_at, largest_batches, scaled_rate
from peft_tradeoffs.training.job import Run, TrainingProcess, add_training, process, read_settings

os.environ["HF_HUB_OFFLINE"] = "1"  # training never touches the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
GIB = 1024.0  # MiB
NO_PEAK = ("learning_rate", "batch_size", "save_weights")  # settings that a peak at a given size does not depend on


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
    tokens = files.read_json(arguments.tokens.with_suffix(".json"))
    rows = tokens["rows"]["train"]
    sizes = candidates(arguments.largest, rows, settings["gradient_accumulation_steps"])
    summaries: dict[int, list[dict[str, Any]]] = {}
    with process(arguments) as training:
        fits, tried = _search(training, settings, sizes, arguments)
        for size in {fit.batch_size: None for fit in fits if fit.batch_size is not None}:
            rate = scaled_rate(settings["learning_rate"], size / settings["batch_size"], arguments.rule)
            own = settings | {"batch_size": size, "learning_rate": rate, "save_weights": False}
            runs = [Run(arguments.runs_dir / f"batch{size}/seed{seed}", seed, own) for seed in arguments.seeds]
            training.train(runs)
            summaries[size] = [read_summary(run.folder / "summary.json", place=False) for run in runs]
    keys = ("dataset", "model", "arm", "method", "rank", "metric", "device", "max_steps", "gradient_accumulation_steps")
    found = seal.signed(
        {
            **{key: settings[key] for key in keys},
            "positive_class": TASKS[tokens["task"]].positive_class(tokens["labels"]),
            "base_batch_size": settings["batch_size"],
            "rule": arguments.rule,
            "largest": arguments.largest,
            "train_rows": rows,
            "tried": tried,
            "caps": [
                {
                    **dataclasses.asdict(fit),
                    "ended_at": ended_at(fit, arguments.largest, rows),
                    "summaries": summaries.get(fit.batch_size, []),
                }
                for fit in fits
            ],
        }
    )
    files.write_json(arguments.output, found)


def _search(
    training: TrainingProcess, settings: dict[str, Any], sizes: list[int], arguments: argparse.Namespace
) -> tuple[list[Fit], list[dict[str, Any]]]:
    """The fits of all caps, and every peak that is known."""
    device = training.device(settings)
    from peft_tradeoffs.measure.environment import device_name
    from peft_tradeoffs.training.probe_peaks import ProbePeaks

    seed = arguments.seeds[0]
    conditions = {
        **training.conditions,
        "code_sha256": code.fingerprint(Path(__file__)),  # of the search too
        "device_name": device_name(settings["device"]),
        "seed": seed,
        "settings": {key: value for key, value in settings.items() if key not in NO_PEAK},
    }
    with training.apart():
        measure = ProbePeaks(settings, seed, training.manifest, arguments.model, arguments.tokens, device)
        peaks = KeptPeaks(arguments.runs_dir / "search.json", conditions, measure)
        caps_MiB = [cap * GIB for cap in sorted(arguments.caps)]
        return largest_batches(peaks, caps_MiB, sizes, settings["batch_size"]), peaks.known()


if __name__ == "__main__":
    errors.run(main)

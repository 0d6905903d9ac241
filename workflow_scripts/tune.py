"""Tune the learning rate of one arm: train one trial per rate on the dev split's data and write down the best rate.

A trial is a run like any other, resumed and measured as one, but for its weights, which are not kept. The best has the
highest metric on the dev split after its last step; of several, the lowest loss. With --extend rates are added beyond
the grid's edge as long as the best rate is on it. Out of memory and divergence are results of a trial. A trial of an
earlier grid that still stands is written down too, but never chosen: methods have as many trials each.
"""

from peft_tradeoffs.runs import signals_first  # noqa: F401

# isort: split
import argparse
import os
import sys
from pathlib import Path
from typing import Any

from peft_tradeoffs.analysis.finished import read_summary
from peft_tradeoffs.core import code, errors, files, seal
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.runs.tuning import beyond, chosen
from peft_tradeoffs.tasks.task import TASKS
from peft_tradeoffs.training.job import Run, add_training, process, read_settings

os.environ["HF_HUB_OFFLINE"] = "1"  # training never touches the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
BUDGET = ("epochs", "max_steps", "batch_size")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training(parser)
    parser.add_argument("--rates", required=True, type=float, nargs="+", help="the grid")
    parser.add_argument("--seed", required=True, type=int, help="of every trial")
    parser.add_argument("--extend", type=int, default=0, metavar="N", help="rates added beyond an edge at most")
    parser.add_argument(
        "--trials-dir", required=True, type=Path, metavar="DIR", help="gets one folder lr{RATE} per trial"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="JSON", help="the chosen rate and all trials")
    arguments = parser.parse_args()
    settings = read_settings(arguments)

    def run(rate: float) -> Run:
        return Run(arguments.trials_dir / f"lr{rate:g}", arguments.seed, settings | {"learning_rate": rate})

    planned = sorted(arguments.rates)
    with process(arguments) as training:
        training.train([run(rate) for rate in planned])
        trials = [_trial(run(rate).folder, False) for rate in planned]
        while sum(trial["added"] for trial in trials) < arguments.extend and (rate := beyond(trials)):
            training.train([run(rate)])
            trials.append(_trial(run(rate).folder, True))
        earlier = _earlier([run(trial["learning_rate"]) for trial in trials], training.conditions)
    tokens = files.read_json(arguments.tokens.with_suffix(".json"))
    found = seal.signed(
        {
            **{key: settings[key] for key in ("dataset", "model", "arm", "method", "rank", "metric")},
            "positive_class": TASKS[tokens["task"]].positive_class(tokens["labels"]),
            **chosen(trials),
            "rates": planned,
            "extensions": arguments.extend,
            "seed": arguments.seed,
            **{key: settings[key] for key in BUDGET},
            "train_rows": tokens["rows"]["train"],
            "dev_rows": tokens["rows"]["test"],
            "data_sha256": tokens["sha256"],
            "code_sha256": training.conditions["code_sha256"],
            "versions": training.conditions["versions"],
            "trials": sorted(trials, key=lambda trial: trial["learning_rate"]),
            "earlier": earlier,
        }
    )
    files.write_json(arguments.output, found)


def _earlier(runs: list[Run], conditions: dict[str, Any]) -> list[dict[str, Any]]:
    """The finished trials beside these runs' that are of the same seed, settings, data, model, code and versions."""
    found = []
    for summary in runs[0].folder.parent.glob("lr*/summary.json"):
        if summary.parent in (run.folder for run in runs):
            continue
        try:
            trial = read_summary(summary, place=False)
        except InputError as error:
            print(f"warning: an earlier trial is left out: {error}", file=sys.stderr, flush=True)
            continue
        settings = runs[0].settings | {"learning_rate": trial["learning_rate"]}
        if trial["fingerprint"] == code.digest({"seed": runs[0].seed, "settings": settings, **conditions}):
            found.append(_trial(summary.parent, False))
    return sorted(found, key=lambda trial: trial["learning_rate"])


def _trial(folder: Path, added: bool) -> dict[str, Any]:
    """What is kept of a trial; its `test` split is the dev split."""
    summary = read_summary(folder / "summary.json", place=False)
    same = (
        "learning_rate",
        "status",
        "failed_phase",
        "diverged_step",
        "steps",
        "train_s",
        "energy_J",
        "pretrained",
        "device_name",
    )
    found = {key: summary[key] for key in same}
    return {**found, "added": added, "value": summary["metric_value"], "loss": summary["test_loss"]}


if __name__ == "__main__":
    errors.run(main)

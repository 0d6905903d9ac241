"""Train the seeds of one arm, one after another, and write what each run gave.

A seed whose results stand, made from the same settings, data, model, code and libraries, is kept. One that was
interrupted resumes from its state and ends with the weights of an uninterrupted run. On SIGTERM, SIGUSR1 or SIGINT the
state is written between two steps and the exit status is 75: run again to go on.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from peft_tradeoffs import code, errors, files, slurm
from peft_tradeoffs.energy import IdlePower
from peft_tradeoffs.environment import versions
from peft_tradeoffs.interruption import EXIT_STATUS, Interrupted, Interruption
from peft_tradeoffs.state import RunDirectory

os.environ["HF_HUB_OFFLINE"] = "1"  # training never touches the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--settings", required=True, help="resolved settings of the arm: JSON, or a file of it")
    parser.add_argument("--seeds", required=True, type=int, nargs="+")
    parser.add_argument("--tokens", required=True, type=Path, help="tokenised splits (.npz, .json beside it)")
    parser.add_argument("--model", required=True, type=Path, help="model folder (its manifest .json beside it)")
    parser.add_argument("--output-dir", required=True, type=Path, help="gets a folder seed{N} a run")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--checkpoint-interval", type=float, default=60.0, help="seconds between saved states")
    parser.add_argument(
        "--lock-wait",
        type=float,
        help="seconds to wait for another process that trains one of these seeds (default: 600 under SLURM, where a "
        "job's predecessor may be on its way out, else 0)",
    )
    arguments = parser.parse_args()
    interruption = Interruption()
    interruption.install()
    try:
        with contextlib.ExitStack() as locks:
            train(arguments, interruption, locks)
    except Interrupted as end:
        print(f"{end}: nothing is lost, run again to go on", file=sys.stderr)
        sys.exit(EXIT_STATUS)


def train(arguments: argparse.Namespace, interruption: Interruption, locks: contextlib.ExitStack) -> None:
    """Train the seeds that are missing. Raises Interrupted if the process must end before that."""
    settings = read_settings(arguments.settings)
    manifest = files.read_json(arguments.model.with_name(f"{arguments.model.name}.json"))
    tokens = files.read_json(arguments.tokens.with_suffix(".json"))
    conditions = {
        "settings": settings,
        "data_sha256": tokens["sha256"],
        "model_sha256": manifest["sha256"],
        "code_sha256": code.fingerprint(Path(__file__).resolve()),
        "versions": versions(),
    }

    directories = {
        seed: RunDirectory(
            arguments.output_dir / f"seed{seed}",
            code.digest({"seed": seed, **conditions}),
            arguments.checkpoint_interval,
            interruption,
        )
        for seed in arguments.seeds
    }
    wait_s = arguments.lock_wait
    if wait_s is None:
        wait_s = 600.0 if slurm.job() else 0.0
    waited, began = False, time.monotonic()
    for _, directory in sorted(directories.items()):  # one order for all, so that no two wait for each other
        locks.callback(directory.unlock)
        waited |= directory.lock(wait_s)
    locked_s = time.monotonic() - began
    missing = [seed for seed, directory in directories.items() if not directory.finished()]
    if missing:
        attempts = directories[missing[0]].attempts
        with attempts.under_way():
            # The GPU is idle while torch and the others are imported.
            idle = IdlePower() if settings["device"] == "cuda" else None
            from peft_tradeoffs import runs

            device = runs.prepare_process(settings, arguments.threads, idle, attempts.waiting())
        for seed in missing:
            with directories[seed].attempts.under_way():
                runs.run(
                    directories[seed],
                    seed,
                    conditions,
                    manifest,
                    arguments.model,
                    arguments.tokens,
                    arguments.threads,
                    device,
                    locked_s,
                )
            interruption.release()  # between two seeds; before the state of finished ones goes, which mends a summary
    # Who held the locks before may be ending, and its Snakemake removes the summaries that it had made: now, or in a
    # moment, after this process has ended too.
    if not all([directory.finished() for directory in directories.values()]):
        raise errors.InputError(f"{arguments.output_dir}: results of finished runs were removed meanwhile; run again")
    for directory in directories.values():
        directory.clear_state(keep_summary=waited)


def read_settings(text: str) -> dict[str, Any]:
    """Settings given as JSON or as the path of a JSON file."""
    try:
        return json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise errors.InputError(f"--settings: neither JSON nor a file of it: {error}") from error


if __name__ == "__main__":
    errors.run(main)

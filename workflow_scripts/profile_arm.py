"""Profile a few training steps of one arm: a job of its own, no part of which is in a benchmark's figures.

The steps are the engine's own, prepared as for training, on a typical batch and on that of the longest texts, with
every engine that is asked for. Writes trace_{engine}.json.gz (Perfetto opens it), engines.csv, operators.csv,
kernels.csv, memory.csv and env.json. An engine that cannot do the steps is a row that says
why.
"""

import signals_first  # noqa: F401

# isort: split
import argparse
import os
from pathlib import Path

from peft_tradeoffs.core import code, errors
from peft_tradeoffs.training.job import add_training, process, read_settings

os.environ["HF_HUB_OFFLINE"] = "1"  # training never touches the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_training(parser)
    parser.add_argument("--seed", required=True, type=int, help="of head, adapter, batch order and dropout")
    parser.add_argument("--engines", required=True, nargs="+", metavar="NAME", help="the first of them: eager")
    parser.add_argument("--steps", required=True, type=int, help="recorded, of each batch with each engine")
    parser.add_argument("--warmup-steps", required=True, type=int, help="before anything is measured")
    parser.add_argument("--timed-steps", required=True, type=int, help="without the profiler")
    parser.add_argument("--output-dir", required=True, type=Path, metavar="DIR")
    arguments = parser.parse_args()
    settings = read_settings(arguments)
    with process(arguments) as job:
        device = job.device(settings)
        from peft_tradeoffs.training.profiling import ArmProfile, StepCounts

        counts = StepCounts(arguments.warmup_steps, arguments.timed_steps, arguments.steps)
        for earlier in arguments.output_dir.glob("trace_*.json.gz"):
            earlier.unlink()
        arm = ArmProfile(job.plan(arguments.seed, settings), device, counts)
        for engine in arguments.engines:
            arm.add(engine, arguments.output_dir)
        conditions = {**job.conditions, "code_sha256": code.fingerprint(Path(__file__))}
        arm.write(arguments.output_dir, conditions, arguments.threads)


if __name__ == "__main__":
    errors.run(main)

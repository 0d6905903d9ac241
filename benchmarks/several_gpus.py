"""Steps of one run on one, two and four GPUs: a 1 B Llama shape, LoRA r16 and full, eager and captured.

Strong: the batch is that of one GPU, shared. Weak: each GPU has such a batch. Each row is a job of its own, with one
process per GPU. Steps are those of the slowest GPU, the peak is the highest. The ratio is to one GPU with the same
engine: how many times as many tokens per second.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
import transformers
from large_model import ARMS, SHAPES, texts
from peft_tradeoffs.measure.devices import DROPPED
from peft_tradeoffs.runs.interruption import Rank, become
from peft_tradeoffs.training.parallel import ALONE, World, connect, join, leave

KINDS = ("strong", "weak")
ENGINES = ("eager", "captured")
TIMEOUT_S = 300.0


def main() -> None:
    """Print a table, or be one of its rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--gpus", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--shape", default="1B", choices=SHAPES, help="tiny: a rehearsal")
    parser.add_argument("--batch", type=int, default=8, help="rows of one GPU")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=30, help="timed steps, after 20 that are dropped")
    names = [arm.name for arm in ARMS]
    parser.add_argument("--arms", nargs="*", default=["LoRA r16", "full"], choices=names)
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=KINDS)
    parser.add_argument("--engines", nargs="*", default=ENGINES, choices=ENGINES)
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        measure(arguments, arguments.row)
        return
    there = torch.cuda.device_count() if arguments.device == "cuda" else max(arguments.gpus)
    config = transformers.LlamaConfig(**SHAPES[arguments.shape])
    print(
        f"{harness.chip(arguments.device)[0]}; {harness.versions()}; {arguments.batch} x {arguments.length} per GPU\n"
    )
    print("| arm | engine | batch | GPUs | ms per step | tokens/s | times one GPU | peak of a GPU, GiB |")
    print("|---|---|---|---:|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = harness.random_checkpoint(config, Path(scratch, "model"), torch.bfloat16, "cpu")
        for arm in arguments.arms:
            for engine in arguments.engines if arguments.device == "cuda" else ("eager",):
                table(arguments, {"arm": arm, "engine": engine, "folder": str(folder)}, there)


def table(arguments: argparse.Namespace, of_arm: dict[str, Any], there: int) -> None:
    """The rows of an arm with an engine."""
    alone: float | None = None
    for kind in arguments.kinds:
        for gpus in sorted(arguments.gpus):
            if gpus == 1 and kind != arguments.kinds[0]:
                continue
            cells = f"| {of_arm['arm']} | {of_arm['engine']} | {'alone' if gpus == 1 else kind} | {gpus} "
            if gpus > there:
                print(f"{cells}| – | – | – | there are {there} |", flush=True)
                continue
            rows = arguments.batch * (gpus if kind == "weak" else 1)
            row = {**of_arm, "gpus": gpus, "rows": rows, "vocabulary": SHAPES[arguments.shape]["vocab_size"]}
            found = started(arguments, row)
            if "error" in found:
                print(f"{cells}| – | – | – | {found['error']} |", flush=True)
                continue
            rate = rows * arguments.length / found["step_s"]
            alone = rate if gpus == 1 else alone
            ratio = f"{rate / alone:.2f}" if alone else "–"
            peak = "–" if found["peak_MiB"] is None else f"{found['peak_MiB'] / 1024:.1f}"
            reason = f" ({found['reason']})" if found["reason"] else ""
            print(f"{cells}| {1000 * found['step_s']:.1f}{reason} | {rate:,.0f} | {ratio} | {peak} |", flush=True)


def started(arguments: argparse.Namespace, row: dict[str, Any], script: str = __file__) -> dict[str, Any]:
    """What a job of a row gives, or its error."""
    words = [sys.executable, script, "--row", json.dumps(row)]
    for key in ("device", "length", "steps"):
        words += [f"--{key}", str(getattr(arguments, key))]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.strip().splitlines() if line]
        if any("out of memory" in line for line in said):
            return {"error": "out of memory"}
        return {"error": said[-1][:120] if said else f"ended with status {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def measure(arguments: argparse.Namespace, row: dict[str, Any]) -> None:
    """Train some steps as one of a row's processes; the first prints what was measured."""
    rank = become(row["gpus"], TIMEOUT_S) if row["gpus"] > 1 else None
    harness.quiet()
    device = torch.device(arguments.device, rank.number if rank else 0) if arguments.device == "cuda" else "cpu"
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    world = come_together(rank, device)
    arm = next(arm for arm in ARMS if arm.name == row["arm"])
    built = harness.build(Path(row["folder"]), arm, str(device))
    count = arguments.steps + DROPPED
    split = texts(max(64, row["rows"] * count), arguments.length, row["vocabulary"])
    chosen = harness.settings(max_steps=count, batch_size=row["rows"], engine=row["engine"])
    result, phases = harness.train(built.model, split, chosen, str(device), world)
    own = [phases.peaks.get(f"{name}_peak_allocated_MiB") for name in ("probe", "train")]
    probe, training = (
        max((peak for peak in of_ranks if peak is not None), default=None)
        for of_ranks in zip(*world.gather(own), strict=True)
    )
    if world.leads:
        found = {"step_s": float(np.median(result.progress.step_s[DROPPED:])), "reason": result.progress.engine_reason}
        peak = max(probe, training) if probe and training else None
        print(json.dumps({**found, "probe_MiB": probe, "peak_MiB": peak}), flush=True)
    world.agree(False)  # the first one holds the store
    leave(world)


def come_together(rank: Rank | None, device: torch.device) -> World:
    """The processes of a row."""
    return ALONE if rank is None else join(rank, connect(rank), device, TIMEOUT_S)


if __name__ == "__main__":
    main()

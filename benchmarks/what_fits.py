"""Which arm fits on how many GPUs: 8 B and 13 B Llama shapes, full, LoRA r16 and QLoRA r16.

Of each the peak of a GPU is predicted from shapes, before anything is loaded; then the arm is loaded and trains some
steps, or runs out of memory. Data parallel: each GPU holds the whole model, and computes its rows of the batch.
"""

import argparse
import json
import tempfile
from pathlib import Path

import harness
import several_gpus
import torch
import transformers
from large_model import ARMS
from peft_tradeoffs.training import forecast
from peft_tradeoffs.training.forecast import Batch
from peft_tradeoffs.training.methods import Outputs, Recipe

SHAPES = {
    "8B": {  # of Llama 3.1
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 128256,
    },
    "13B": {  # of Llama 2
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "intermediate_size": 13824,
        "vocab_size": 32000,
    },
    "tiny": several_gpus.SHAPES["tiny"],
}
MIB = 2**20


def main() -> None:
    """Print a table, or be one of its rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--shapes", nargs="*", default=["8B", "13B"], choices=SHAPES, help="tiny: a rehearsal")
    parser.add_argument("--gpus", nargs="*", type=int, default=[1, 2, 4])
    parser.add_argument("--batch", type=int, default=8, help="rows of a step, on all GPUs together")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=10, help="timed steps, after 20 that are dropped")
    parser.add_argument("--arms", nargs="*", default=[arm.name for arm in ARMS], choices=[arm.name for arm in ARMS])
    parser.add_argument("--row", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        several_gpus.measure(arguments, arguments.row)
        return
    harness.quiet()
    there = torch.cuda.device_count() if arguments.device == "cuda" else max(arguments.gpus)
    print(f"{harness.chip(arguments.device)[0]}; {harness.versions()}; {arguments.batch} x {arguments.length}\n")
    print("| shape | arm | GPUs | predicted, GiB of a GPU | measured | ratio | tokens/s |")
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    for shape in arguments.shapes:
        with tempfile.TemporaryDirectory() as scratch:
            config = transformers.LlamaConfig(**SHAPES[shape])
            folder = Path(scratch, "model")
            config.save_pretrained(folder)
            rows = [(name, gpus) for name in arguments.arms for gpus in sorted(arguments.gpus) if gpus <= there]
            predicted = {(name, gpus): peak_MiB(arguments, folder, name, gpus) for name, gpus in rows}
            harness.random_checkpoint(config, folder, torch.bfloat16, arguments.device)
            torch.cuda.empty_cache()
            for name, gpus in rows:
                row = {"arm": name, "engine": "eager", "folder": str(folder), "gpus": gpus, "rows": arguments.batch}
                found = several_gpus.started(arguments, {**row, "vocabulary": config.vocab_size}, __file__)
                print(line(arguments, (shape, name, gpus), predicted[name, gpus], found), flush=True)


def peak_MiB(arguments: argparse.Namespace, folder: Path, name: str, gpus: int) -> float:
    """The peak of a GPU, from shapes alone."""
    arm = next(arm for arm in ARMS if arm.name == name)
    recipe = Recipe(arm.peft, arm.quantization, False, None, "classification", arm.dtype)
    built = forecast.build(folder, recipe, Outputs(2, 0, None), "bf16")
    rows = -(-arguments.batch // gpus)
    return forecast.needed(built, Batch((rows, arguments.length)), "bf16", "adamw").probe_peak_allocated_MiB


def line(arguments: argparse.Namespace, which: tuple[str, str, int], predicted: float, found: dict) -> str:
    """A row of the table."""
    cells = f"| {which[0]} | {which[1]} | {which[2]} | {predicted / 1024:.2f} "
    if "error" in found:
        return f"{cells}| {found['error']} | – | – |"
    rate = f"{arguments.batch * arguments.length / found['step_s']:,.0f}"
    peak = found["probe_MiB"]
    if peak is None:
        return f"{cells}| – | – | {rate} |"
    return f"{cells}| {peak / 1024:.2f} | {peak / predicted:.2f} | {rate} |"


if __name__ == "__main__":
    main()

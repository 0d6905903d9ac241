"""Greedy decoding: milliseconds per token, tokens/s and peak memory of Transformers' generate and of our steps.

Full fine-tuning's model, LoRA r16 as it is and merged, QLoRA r16 as it is (all linear layers), of a Llama shape with
random weights, behind random prompts of one length, to the last token that is asked for. bf16 autocast, all in one
process. Milliseconds per token are those of a batch, its prompts' pass counted, captures and compilation not.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
import transformers
from harness import Arm
from peft_tradeoffs.measure.devices import MIB, free_memory
from peft_tradeoffs.training.batches import choose_kernels, padding_mask
from peft_tradeoffs.training.decoding import Decoding, decode
from peft_tradeoffs.training.step import autocast
from sft import LLAMA, LORA, SHAPES

MERGED = "LoRA r16 merged"
ARMS = [Arm("full"), Arm("LoRA r16", LORA), Arm(MERGED, LORA), Arm("QLoRA r16", LORA, harness.NF4)]
STATIC = "generate, static"
LOOPS = ["generate", STATIC, "eager", "captured"]
REFUSALS = (RuntimeError, ValueError, TypeError)  # of a static cache, by generate


@dataclass(frozen=True)
class Row:
    """What a loop took for some batches of prompts, and wrote."""

    seconds: float  # of all batches, `once_s` left out
    once_s: float  # capture or compilation
    peak_MiB: float | None  # allocated; None on a CPU
    tokens: list[list[int]]
    reason: str | None = None  # why the engine is another


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--shape", default="smollm2-135m", choices=SHAPES, help="tiny: a rehearsal")
    parser.add_argument("--batch", type=int, default=128, help="prompts of a batch")
    parser.add_argument("--batches", type=int, default=4, help="that are timed together")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens written behind each")
    parser.add_argument("--arms", nargs="*", default=[arm.name for arm in ARMS], choices=[arm.name for arm in ARMS])
    parser.add_argument("--skip", nargs="*", default=[], choices=LOOPS)
    arguments = parser.parse_args()
    harness.quiet()
    print(f"{harness.chip(arguments.device)[0]}; {harness.versions()}; {arguments.shape}, random weights")
    print(
        f"{arguments.batches} x {arguments.batch} prompts of {arguments.prompt} tokens, {arguments.new} behind each\n"
    )
    print("| arm | loop | ms per token | tokens/s | peak, MiB | once, s | same as generate |")
    print("|---|---|---:|---:|---:|---:|---:|", flush=True)
    config = transformers.LlamaConfig(**SHAPES[arguments.shape], **LLAMA)
    random = np.random.default_rng(0)
    prompts = list(random.integers(1, config.vocab_size, (arguments.batches * arguments.batch, arguments.prompt)))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        harness.random_checkpoint(config, folder, torch.float32, arguments.device, task="sft")
        for arm in (arm for arm in ARMS if arm.name in arguments.arms):
            usual: list[list[int]] | None = None
            for loop, row in loops(folder, arm, prompts, arguments):
                usual = row.tokens if loop == "generate" else usual
                print_row(arm, loop, row, usual, arguments)


def print_row(arm: Arm, loop: str, row: Row, usual: list[list[int]] | None, arguments: argparse.Namespace) -> None:
    """A line of the table; `usual`: what generate wrote, None if it was skipped."""
    said = f"{loop} ({row.reason})" if row.reason else loop
    if not row.tokens:
        print(f"| {arm.name} | {said} | – | – | – | – | – |", flush=True)
        return
    count = arguments.batches * arguments.new
    held = "–" if row.peak_MiB is None else f"{row.peak_MiB:,.0f}"
    same = "–" if usual is None else f"{100 * np.mean([a == b for a, b in zip(row.tokens, usual, strict=True)]):.1f} %"
    print(
        f"| {arm.name} | {said} | {1000 * row.seconds / count:.2f} | {count * arguments.batch / row.seconds:,.0f} "
        f"| {held} | {row.once_s:.1f} | {same} |",
        flush=True,
    )


def loops(
    folder: Path, arm: Arm, prompts: list[np.ndarray], arguments: argparse.Namespace
) -> Iterator[tuple[str, Row]]:
    """Each loop's name and what it took."""
    for name in LOOPS:
        if name in arguments.skip or (arguments.device == "cpu" and name in (STATIC, "captured")):
            continue
        model = built(folder, arm, arguments.device)
        yield name, (of_ours if name in ("eager", "captured") else of_generate)(model, name, prompts, arguments)
        del model


def built(folder: Path, arm: Arm, device: str) -> Any:
    """The arm's model, as a run has it after training; merged in float32."""
    model: Any = harness.build(folder, arm, device, "fp32" if arm.name == MERGED else "bf16", task="sft").model
    if arm.name == MERGED:
        model = model.merge_and_unload()
    choose_kernels(padding_mask, model)
    free_memory(torch.device(device))
    return model.eval()


def of_ours(model: Any, engine: str, prompts: list[np.ndarray], arguments: argparse.Namespace) -> Row:
    """Our steps; captured anew at each call, which is what a run pays once."""
    device = torch.device(arguments.device)
    wanted = Decoding(arguments.new, arguments.batch, (), 0, "bf16", engine)
    decode(model, prompts[: arguments.batch], wanted, device)  # libraries are loaded, kernels chosen
    seconds, peak, found = timed(lambda: decode(model, prompts, wanted, device), arguments.device)
    rows = [tokens.tolist() for tokens in found.tokens]
    return Row(seconds - found.capture_s, found.capture_s, peak, rows, found.engine_reason)


@torch.no_grad()
def of_generate(model: Any, name: str, prompts: list[np.ndarray], arguments: argparse.Namespace) -> Row:
    """Transformers' own loop; with a static cache, which it compiles for, of bf16 weights without autocast.

    Under autocast keys and values have two precisions, which its static cache does not take.
    """
    device, static = torch.device(arguments.device), name == STATIC
    options: dict[str, Any] = {"cache_implementation": "static"} if static else {}
    try:
        model = model.to(torch.bfloat16) if static else model

        def batch(start: int) -> list[list[int]]:
            ids = torch.from_numpy(np.stack(prompts[start : start + arguments.batch])).to(device)
            with autocast("fp32" if static else "bf16", device):
                output = model.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, use_cache=True,
                    max_new_tokens=arguments.new, eos_token_id=None, pad_token_id=0, **options,
                )  # fmt: skip
            rows: list[list[int]] = output[:, arguments.prompt :].tolist()
            return rows

        def whole() -> list[list[int]]:
            return [row for start in range(0, len(prompts), arguments.batch) for row in batch(start)]

        first = timed(lambda: batch(0), arguments.device)[0]
        seconds, peak, rows = timed(whole, arguments.device)
    except REFUSALS as error:
        return Row(0, 0, None, [], f"{type(error).__name__}: {' '.join(str(error).split())[:80]}")
    return Row(seconds, max(0.0, first - seconds / arguments.batches) if static else 0.0, peak, rows)


def timed(call: Callable[[], Any], device: str) -> tuple[float, float | None, Any]:
    """Seconds of a call, the device idle before and after; MiB allocated at most; what it returns."""
    free_memory(torch.device(device))
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    found = call()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    return seconds, torch.cuda.max_memory_allocated() / MIB if device == "cuda" else None, found


if __name__ == "__main__":
    main()

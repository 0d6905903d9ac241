"""Speed and memory of a 1 B Llama-shaped classifier: full, LoRA r16 on all linear layers and QLoRA, eager and compiled.

Random weights, texts of one length. TFLOP/s counts products and attention of forward and backward (torch's counter,
recomputation and dequantisation left out); its share is that of the chip's dense bf16 peak.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import harness
import numpy as np
import torch
import transformers
from harness import Arm
from peft_tradeoffs.inputs.tokens import Split
from peft_tradeoffs.measure.devices import DROPPED

LORA = harness.lora("all-linear", 16, lora_dropout=0.0)
ARMS = [
    Arm("full"),
    Arm("LoRA r16", LORA, dtype="bfloat16"),
    Arm("QLoRA r16", LORA, harness.NF4, dtype="bfloat16"),
]
ENGINES = {
    "eager": {"engine": "eager"},
    "captured": {"engine": "captured"},
    "captured + compile": {"engine": "captured", "compile": True},
}
SHAPES = {
    "1B": {
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "vocab_size": 32000,
    },
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 500,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--shape", default="1B", choices=SHAPES, help="tiny: a rehearsal")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--steps", type=int, default=30, help="timed steps, after 20 that are dropped")
    parser.add_argument("--arms", nargs="*", default=[arm.name for arm in ARMS], choices=[arm.name for arm in ARMS])
    parser.add_argument("--skip", nargs="*", default=[], choices=ENGINES)
    arguments = parser.parse_args()
    harness.quiet()
    name, peak, _ = harness.chip(arguments.device)
    print(f"{name}; {harness.versions()}; batch {arguments.batch} x {arguments.length}\n")
    print("| arm | loop | ms per step | tokens/s | TFLOP/s | share of peak | probe peak, GiB | once, s |")
    print("|---|---|---:|---:|---:|---:|---:|---:|", flush=True)
    config = transformers.LlamaConfig(**SHAPES[arguments.shape])
    split = texts(arguments.batch * 64, arguments.length, config.vocab_size)
    with tempfile.TemporaryDirectory() as scratch:
        folder = harness.random_checkpoint(config, Path(scratch, "model"), torch.bfloat16, arguments.device)
        for arm in ARMS:
            flops = None
            for row, options in ENGINES.items():
                if arm.name not in arguments.arms or row in arguments.skip:
                    continue
                if arguments.device == "cpu" and row != "eager":
                    continue
                if flops is None:
                    unpacked = harness.build(folder, replace(arm, quantization=None), arguments.device)
                    flops = harness.flops_a_step(unpacked.model, arguments.batch, arguments.length)
                    del unpacked
                built = harness.build(folder, arm, arguments.device)
                count = arguments.steps + DROPPED
                chosen = harness.settings(max_steps=count, batch_size=arguments.batch, **options)
                result, phases = harness.train(built.model, split, chosen, arguments.device)
                step = float(np.median(result.progress.step_s[DROPPED:]))
                rate = flops / step / 1e12
                share = f"{100 * rate / peak:.0f} %" if peak else "–"
                peak_MiB = phases.peaks.get("probe_peak_allocated_MiB")
                gib = "–" if peak_MiB is None else f"{peak_MiB / 1024:.1f}"
                once = result.progress.compile_s + result.progress.capture_s
                reason = result.progress.engine_reason
                print(
                    f"| {arm.name} | {row}{f' ({reason})' if reason else ''} | {step * 1000:.1f} "
                    f"| {arguments.batch * arguments.length / step:,.0f} | {rate:.0f} | {share} "
                    f"| {gib} | {once:.1f} |",
                    flush=True,
                )
                del built, result


def texts(rows: int, length: int, vocabulary: int) -> Split:
    """Random texts of one length; never the pad token 0."""
    random = np.random.default_rng(0)
    tokens = random.integers(1, vocabulary, rows * length).astype(np.int32)
    return Split(tokens, None, np.arange(rows + 1) * length, np.arange(rows) % 2, np.arange(rows))


if __name__ == "__main__":
    main()

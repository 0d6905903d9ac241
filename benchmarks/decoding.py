"""Greedy decoding: seconds, tokens/s and peak memory of Transformers' generate and of our steps.

Of random weights: full fine-tuning's model, LoRA r16 as it is and merged, QLoRA r16 as it is (all linear layers), of a
Llama shape, behind random prompts of one length, to the last token that is asked for. With --results: the models that
the first seed of each arm of a finished study kept, adapters unmerged, behind all test prompts, in the same batches
for every loop, padded alike (to the lengths that our steps are captured for), rows ending as in a run. All in one
process, under bf16 autocast or in float32, quantized layers too. `once` is what of the seconds went into captures or
compilation.
"""

import argparse
import dataclasses
import json
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
from peft_tradeoffs.inputs.tokens import END_TOKENS, load_tokens
from peft_tradeoffs.measure.devices import MIB, free_memory
from peft_tradeoffs.training import methods
from peft_tradeoffs.training.batches import choose_kernels, longest_text, padded_length, padding_mask
from peft_tradeoffs.training.decoding import Decoding, decode
from peft_tradeoffs.training.step import autocast
from safetensors.torch import load_file
from sft import LLAMA, LORA, SHAPES

MERGED = "LoRA r16 merged"
ARMS = [Arm("full"), Arm("LoRA r16", LORA), Arm(MERGED, LORA), Arm("QLoRA r16", LORA, harness.NF4)]
DYNAMIC, STATIC = "generate", "generate, static"
LOOPS = [DYNAMIC, STATIC, "eager", "captured"]
REFUSALS = (RuntimeError, ValueError, TypeError)  # of a static cache, by generate
CLOSE = 1e-4  # logits that rounding may put in another order


@dataclass(frozen=True)
class Work:
    """A model that answers prompts."""

    name: str
    build: Callable[[], Any]  # the model as a run has it after training
    prompts: list[np.ndarray]  # int [t] each
    wanted: Decoding  # by our steps; its engine is the loop's


@dataclass(frozen=True)
class Row:
    """What a loop took for all prompts, and wrote."""

    seconds: float
    once_s: float  # of these: capture or compilation
    peak_MiB: float | None  # allocated; None on a CPU
    tokens: list[list[int]]
    reason: str | None = None  # why the engine is another


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--results", type=Path, help="of a finished study of one data set and model: its kept models")
    parser.add_argument("--shape", default="smollm2-135m", choices=SHAPES, help="tiny: a rehearsal")
    parser.add_argument("--batch", type=int, default=128, help="prompts of a batch")
    parser.add_argument("--batches", type=int, default=4, help="of random prompts")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a random prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens written at most behind each")
    parser.add_argument("--test-prompts", type=int, metavar="N", help="the first N of a study's; all")
    parser.add_argument("--arms", nargs="*", help="names of arms; all")
    parser.add_argument("--skip", nargs="*", default=[], choices=LOOPS)
    arguments = parser.parse_args()
    harness.quiet()
    print(f"{harness.chip(arguments.device)[0]}; {harness.versions()}; {arguments.precision}")
    with tempfile.TemporaryDirectory() as scratch:
        works = kept(arguments) if arguments.results else random_weights(Path(scratch), arguments)
        head = "\n| arm | loop | seconds | once, s | times generate | tokens/s | peak, MiB | same as generate |"
        print(f"{head}\n|---|---|---:|---:|---:|---:|---:|---|", flush=True)
        for work in works:
            if arguments.arms and work.name not in arguments.arms:
                continue
            usual: Row | None = None
            for loop in LOOPS:
                if loop in arguments.skip or (arguments.device == "cpu" and loop in (STATIC, "captured")):
                    continue
                model = work.build()
                row = (of_ours if loop in ("eager", "captured") else of_generate)(model, loop, work, arguments)
                usual = row if loop == DYNAMIC else usual
                print_row(work, loop, row, usual, parted(model, work, row, usual, arguments))
                del model


def print_row(work: Work, loop: str, row: Row, usual: Row | None, agreement: str) -> None:
    """A line of the table; `usual`: what generate took, None if it was skipped."""
    said = f"{loop} ({row.reason})" if row.reason else loop
    if not row.tokens:
        print(f"| {work.name} | {said} | – | – | – | – | – | – |", flush=True)
        return
    held = "–" if row.peak_MiB is None else f"{row.peak_MiB:,.0f}"
    times = "–" if usual is None else f"{usual.seconds / row.seconds:.1f}"
    rate = sum(map(len, row.tokens)) / row.seconds
    print(
        f"| {work.name} | {said} | {row.seconds:.2f} | {row.once_s:.1f} | {times} | {rate:,.0f} | {held} "
        f"| {agreement} |",
        flush=True,
    )


@torch.no_grad()
def parted(model: Any, work: Work, row: Row, usual: Row | None, arguments: argparse.Namespace) -> str:
    """Share of outputs that are generate's; in float32, how near the two best logits lie where the others part."""
    if usual is None or not row.tokens:
        return "–"
    pairs = list(zip(work.prompts, row.tokens, usual.tokens, strict=True))
    others = [(prompt, one, other) for prompt, one, other in pairs if one != other]
    said = f"{100 * (1 - len(others) / len(pairs)):.2f} %"
    if arguments.precision != "fp32" or not others:
        return said
    gaps = []
    for prompt, one, other in others:
        place = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        ids = torch.tensor([[*prompt.tolist(), *one[:place]]], device=arguments.device)
        best = model(input_ids=ids).logits[0, -1].float().topk(2).values
        gaps.append(float(best[0] - best[1]))
    return f"{said}; {sum(gap <= CLOSE for gap in gaps)} of {len(gaps)} others part at logits within {CLOSE:g}"


def random_weights(scratch: Path, arguments: argparse.Namespace) -> Iterator[Work]:
    """A Llama shape behind random prompts; nothing ends before the last token that is asked for."""
    config = transformers.LlamaConfig(**SHAPES[arguments.shape], **LLAMA)
    random = np.random.default_rng(0)
    prompts = list(random.integers(1, config.vocab_size, (arguments.batches * arguments.batch, arguments.prompt)))
    harness.random_checkpoint(config, scratch / "model", torch.float32, arguments.device, task="sft")
    wanted = Decoding(arguments.new, arguments.batch, (), 0, arguments.precision)

    def build(arm: Arm) -> Any:
        precision = "fp32" if arm.name == MERGED else arguments.precision
        arm = dataclasses.replace(arm, quantization=computing_in(precision, arm.quantization))
        model: Any = harness.build(scratch / "model", arm, arguments.device, precision, task="sft").model
        return ready(model.merge_and_unload() if arm.name == MERGED else model, arguments.device)

    for arm in ARMS:
        yield Work(arm.name, lambda arm=arm: build(arm), prompts, wanted)


def kept(arguments: argparse.Namespace) -> Iterator[Work]:
    """The models that a finished study kept, of the first seed of each arm, behind its test prompts."""
    for folder in sorted(arguments.results.glob("runs/*/*/*/seed0")):
        settings = json.loads((folder / "env.json").read_text())["settings"]
        data_set, model_name, arm = folder.parts[-4:-1]
        (tokens,) = arguments.results.glob(f"tokens/{data_set}/{model_name}*.npz")
        splits, found = load_tokens(tokens)
        base = arguments.results / "models" / model_name
        wanted = Decoding(
            settings["generate"]["max_new_tokens"], settings["generate"]["batch_size"], tuple(found[END_TOKENS]),
            found["pad_token_id"], arguments.precision,
        )  # fmt: skip

        def build(
            folder: Path = folder, settings: Any = settings, base: Path = base, splits: Any = splits, found: Any = found
        ) -> Any:
            stored = computing_in(arguments.precision, settings["quantization"])
            recipe = methods.Recipe.of({**settings, "quantization": stored})
            built = methods.build(base, recipe, methods.Outputs.of(found), 0, arguments.device)
            model: Any = built.model
            if built.is_peft:
                from peft import set_peft_model_state_dict

                set_peft_model_state_dict(model, load_file(folder / "adapter/adapter_model.safetensors"))
            else:
                left = model.load_state_dict(load_file(folder / "checkpoint/model.safetensors"), strict=False)
                assert not left.unexpected_keys and set(left.missing_keys) <= {"lm_head.weight"}, left
            device = torch.device(arguments.device)
            methods.hold_as_computed(model, arguments.precision, device, longest_text(splits["train"]))
            return ready(model, arguments.device)

        yield Work(arm, build, list(splits["test"].prompts)[: arguments.test_prompts], wanted)


def computing_in(precision: str, quantization: dict[str, Any] | None) -> dict[str, Any] | None:
    """The quantization, its layers' products in float32 where everything is; else as it is."""
    if quantization is None or precision != "fp32":
        return quantization
    return {**quantization, "bnb_4bit_compute_dtype": "float32"}


def ready(model: Any, device: str) -> Any:
    """The model as evaluation has it."""
    choose_kernels(padding_mask, model)
    free_memory(torch.device(device))
    return model.eval()


def of_ours(model: Any, engine: str, work: Work, arguments: argparse.Namespace) -> Row:
    """Our steps; captured anew at each call, which is what a run pays once."""
    device, wanted = torch.device(arguments.device), dataclasses.replace(work.wanted, engine=engine)
    decode(model, work.prompts[: wanted.batch_size], wanted, device)  # libraries are loaded, kernels chosen
    seconds, peak, found = timed(lambda: decode(model, work.prompts, wanted, device), arguments.device)
    return Row(seconds, found.capture_s, peak, [tokens.tolist() for tokens in found.tokens], found.engine_reason)


@torch.no_grad()
def of_generate(model: Any, name: str, work: Work, arguments: argparse.Namespace) -> Row:
    """Transformers' own loop; with a static cache, which it compiles for, of bf16 weights without autocast.

    Under autocast keys and values have two precisions, which its static cache does not take.
    """
    device, wanted, static = torch.device(arguments.device), work.wanted, name == STATIC
    lower = static and wanted.precision == "bf16"
    options: dict[str, Any] = {"cache_implementation": "static"} if static else {}
    order = np.argsort([-len(prompt) for prompt in work.prompts], kind="stable")
    starts = range(0, len(order), wanted.batch_size)
    try:
        model = model.to(torch.bfloat16) if lower else model

        def batch(rows: np.ndarray, tokens: list[list[int]]) -> None:
            length = padded_length(np.array([len(work.prompts[row]) for row in rows]))  # as ours: the last bit is of it
            ids = torch.full((len(rows), length), wanted.pad_token_id)
            mask = torch.zeros_like(ids)
            for place, row in enumerate(rows):
                count = len(work.prompts[row])
                ids[place, length - count :] = torch.from_numpy(work.prompts[row].astype(np.int64))
                mask[place, length - count :] = 1
            with autocast("fp32" if lower else wanted.precision, device):
                output = model.generate(
                    input_ids=ids.to(device), attention_mask=mask.to(device), do_sample=False, use_cache=True,
                    max_new_tokens=wanted.max_new_tokens, eos_token_id=list(wanted.end_tokens) or None,
                    pad_token_id=wanted.pad_token_id, **options,
                )  # fmt: skip
            for row, written in zip(rows, output[:, length:].tolist(), strict=True):
                ends = [place for place, token in enumerate(written) if token in wanted.end_tokens]
                tokens[row] = written[: ends[0]] if ends else written

        def whole() -> list[list[int]]:
            tokens: list[list[int]] = [[] for _ in work.prompts]
            for start in starts:
                batch(order[start : start + wanted.batch_size], tokens)
            return tokens

        first = timed(lambda: batch(order[: wanted.batch_size], [[]] * len(order)), arguments.device)[0]
        seconds, peak, rows = timed(whole, arguments.device)
    except REFUSALS as error:
        return Row(0, 0, None, [], f"{type(error).__name__}: {' '.join(str(error).split())[:80]}")
    once = max(0.0, first - seconds / len(starts)) if static else 0.0
    return Row(seconds + once, once, peak, rows)


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

"""Milliseconds a training step: transformers.Trainer against the engines, for full, LoRA r8 and QLoRA r8.

One process, DistilBERT with random weights, the texts of a tokenised data set. What is compared stands in one table.
"""

import argparse
import collections
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
import transformers
from harness import Arm
from peft_tradeoffs.inputs.tokens import Split, load_tokens
from peft_tradeoffs.measure.devices import DROPPED
from peft_tradeoffs.training.batches import MULTIPLE, epoch_batches, padded_length
from peft_tradeoffs.training.methods import training_bytes

LORA = harness.lora(["q_lin", "v_lin"], 8, lora_dropout=0.05)
ARMS = [Arm("full"), Arm("LoRA r8", LORA), Arm("QLoRA r8", LORA, harness.NF4)]
ENGINES = {
    "eager": {"engine": "eager"},
    "captured": {"engine": "captured"},
    "captured + compile": {"engine": "captured", "compile": True},
}
TRAINERS = {
    "Trainer, fp32": {},
    "Trainer, bf16, by length": {
        "bf16": True,
        "train_sampling_strategy": "group_by_length",
        "dataloader_num_workers": 2,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=Path, required=True, help="tokens/{dataset}/{model}.npz of a workflow run")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--steps", type=int, default=250, help="timed steps, after 20 that are dropped")
    parser.add_argument("--layers", type=int, default=6, help="less than 6 for a rehearsal")
    parser.add_argument("--width", type=int, default=768, help="less than 768, a multiple of 12, for a rehearsal")
    parser.add_argument("--skip", nargs="*", default=[], help=f"of {', '.join([*TRAINERS, *ENGINES])}")
    parser.add_argument("--arms", nargs="*", default=[arm.name for arm in ARMS], choices=[arm.name for arm in ARMS])
    parser.add_argument("--profile", type=int, default=0, metavar="STEPS", help="profile so many captured steps")
    arguments = parser.parse_args()
    harness.quiet()
    split = load_tokens(arguments.tokens)[0]["train"]
    name, flops, bandwidth = harness.chip(arguments.device)
    print(f"{name}; {harness.versions()}; DistilBERT, random weights, {arguments.layers} layers, batch 32\n")
    rows: dict[str, dict[str, float]] = collections.defaultdict(dict)
    once: dict[str, dict[str, float]] = collections.defaultdict(dict)
    with tempfile.TemporaryDirectory() as scratch:
        width = arguments.width
        config = transformers.DistilBertConfig(n_layers=arguments.layers, dim=width, hidden_dim=4 * width)
        folder = harness.random_checkpoint(config, Path(scratch, "model"), torch.float32, arguments.device)
        arms = [arm for arm in ARMS if arm.name in arguments.arms]
        for arm in arms:
            for row, options in TRAINERS.items():
                if row not in arguments.skip:
                    rows[row][arm.name] = trainer_ms(folder, arm, split, arguments, options, Path(scratch, "out"))
                    print(f"{arm.name}, {row}: {rows[row][arm.name]:.2f} ms", flush=True)
            for row, options in ENGINES.items():
                if row in arguments.skip or (arguments.device == "cpu" and row != "eager"):
                    continue
                built = harness.build(folder, arm, arguments.device)
                chosen = harness.settings(max_steps=arguments.steps + DROPPED, **options)
                result, _ = harness.train(built.model, split, chosen, arguments.device)
                if result.progress.engine_reason:
                    print(f"{arm.name}, {row}: {result.progress.engine_reason}")
                steps = result.progress.step_s[DROPPED:]
                rows[row][arm.name] = sum(steps) / len(steps) * 1000
                once[row][arm.name] = result.progress.compile_s + result.progress.capture_s
                print(f"{arm.name}, {row}: {rows[row][arm.name]:.2f} ms, once {once[row][arm.name]:.1f} s", flush=True)
                if row == "captured":
                    print(floor(built.model, split, arm, flops, bandwidth))
                del built, result
        print_table(rows, once)
        if arguments.profile:
            for arm in arms:
                profile(folder, arm, split, arguments.profile)


class Texts(torch.utils.data.Dataset):
    """The texts as Trainer wants them: a dict of lists each."""

    def __init__(self, split: Split) -> None:
        self._split = split

    def __len__(self) -> int:
        return len(self._split)

    def __getitem__(self, index: int) -> dict[str, Any]:
        tokens = slice(self._split.offsets[index], self._split.offsets[index + 1])
        return {"input_ids": self._split.input_ids[tokens].tolist(), "labels": int(self._split.labels[index])}


def pad(texts: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Dynamic padding, as DataCollatorWithPadding does with pad_to_multiple_of=8."""
    length = padded_length(np.array([len(text["input_ids"]) for text in texts]))
    ids = torch.zeros(len(texts), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        ids[row, : len(text["input_ids"])] = torch.tensor(text["input_ids"])
        mask[row, : len(text["input_ids"])] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([text["labels"] for text in texts])}


class Clock(transformers.TrainerCallback):
    """Seconds from the end of step `DROPPED` to the end of training, the device idle at both."""

    def __init__(self, cuda: bool) -> None:
        self._cuda = cuda
        self.began = self.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step in (DROPPED, state.max_steps):
            if self._cuda:
                torch.cuda.synchronize()
            self.began, self.seconds = time.perf_counter(), time.perf_counter() - self.began


def trainer_ms(
    folder: Path, arm: Arm, split: Split, arguments: argparse.Namespace, options: dict[str, Any], output: Path
) -> float:
    """Milliseconds a step of transformers.Trainer, its data loading counted, as its users wait for it."""
    built = harness.build(folder, arm, arguments.device, "bf16" if options.get("bf16") else "fp32")
    clock = Clock(arguments.device == "cuda")
    if arguments.device == "cpu":
        options = {**options, "use_cpu": True}
    trainer = transformers.Trainer(
        model=built.model,
        args=transformers.TrainingArguments(
            output_dir=str(output),
            per_device_train_batch_size=32,
            max_steps=arguments.steps + DROPPED,
            learning_rate=1e-5,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **options,
        ),
        train_dataset=Texts(split),
        data_collator=pad,
        callbacks=[clock],
    )
    trainer.train()
    return clock.seconds / arguments.steps * 1000


def floor(model: torch.nn.Module, split: Split, arm: Arm, flops: float | None, bandwidth: float | None) -> str:
    """What a step must take: its matrix products at the chip's peak, and its weights' traffic at full bandwidth.

    Traffic: weights as stored read in the forward and the backward pass; of each trained one the gradient written,
    and by AdamW gradient, weight and two moments read, weight and moments written. Activations are left out.
    """
    held = training_bytes(model)
    gib = (2 * held["weights"] + held["gradients"] * (1 + 7)) / 1e9
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    counted = harness.flops_a_step(model, 32, mean_length(split))
    text = f"  {arm.name}: {counted / 1e9:.0f} GFLOP and at least {gib:.2f} GB a step, {trained:,} trained"
    if flops and bandwidth:
        text += f"; floor {counted / flops / 1e9:.2f} ms of arithmetic, {gib / bandwidth * 1000:.2f} ms of traffic"
    return text


def mean_length(split: Split) -> int:
    """Mean padded length of a batch, to a multiple of what batches are padded to."""
    lengths = [padded_length(split.lengths[rows]) for rows in epoch_batches(split.lengths, 32, 0, 0)]
    return round(np.mean(lengths) / MULTIPLE) * MULTIPLE


def print_table(rows: dict[str, dict[str, float]], once: dict[str, dict[str, float]]) -> None:
    """Mean ms per step, the ratio to Trainer in fp32, and seconds of capture and compilation."""
    names = list(next(iter(rows.values())))
    print("\n| loop | " + " | ".join(f"{name}, ms" for name in names) + " | times Trainer fp32 | once, s |")
    print("|---|" + "---:|" * (len(names) + 2))
    base = rows.get("Trainer, fp32", {})
    for row, values in rows.items():
        ratios = " / ".join(f"{base[name] / values[name]:.1f}" if base else "–" for name in names)
        paid = " / ".join(f"{once[row][name]:.1f}" if row in once else "–" for name in names)
        print(f"| {row} | " + " | ".join(f"{values[name]:.2f}" for name in names) + f" | {ratios} | {paid} |")


def profile(folder: Path, arm: Arm, split: Split, steps: int) -> None:
    """Print where the GPU's time goes in captured steps: kernels by name, and the gaps between them."""
    built = harness.build(folder, arm, "cuda")
    activities = [torch.profiler.ProfilerActivity.CUDA]
    harness.train(built.model, split, harness.settings(max_steps=40), "cuda")  # libraries load
    with torch.profiler.profile(activities=activities) as profiler:
        result, _ = harness.train(built.model, split, harness.settings(max_steps=steps), "cuda")
    events = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    events = sorted(events, key=lambda event: event.time_range.start)
    window = sum(result.progress.step_s) * 1e6
    end = events[-1].time_range.end
    inside = [event for event in events if event.time_range.start > end - window]
    busy: dict[str, list[float]] = collections.defaultdict(list)
    for event in inside:
        busy[event.name.split("<")[0][:60]].append(event.time_range.elapsed_us())
    total = sum(map(sum, busy.values()))
    step_ms, busy_ms, kernels = window / steps / 1000, total / steps / 1000, len(inside) / steps
    print(f"\n{arm.name}: {step_ms:.2f} ms per step, kernels busy {busy_ms:.2f} ms, {kernels:.0f} kernels per step")
    for name, times in sorted(busy.items(), key=lambda item: -sum(item[1]))[:12]:
        print(f"  {sum(times) / steps:7.1f} us  {len(times) / steps:6.1f} x  {name}")


if __name__ == "__main__":
    main()

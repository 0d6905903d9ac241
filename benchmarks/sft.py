"""Supervised fine-tuning: milliseconds a step, tokens/s and peak memory of TRL's SFTTrainer and of the engines.

Full fine-tuning, LoRA r16 and QLoRA r16 (all linear layers) of a Llama shape with random weights, on random texts of
one length, of which the last half are targets, or of the lengths of a tokenised data set. All in one process. The share
of the chip's bf16 peak counts 6 FLOP per token and parameter of a linear layer for full fine-tuning, 4 for an adapter,
the head at target positions alone; attention and what is computed again are not counted.
"""

import argparse
import gc
import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
import transformers
from harness import Arm
from peft_tradeoffs.inputs.tokens import Split, load_tokens
from peft_tradeoffs.measure.devices import DROPPED, MIB, free_memory
from peft_tradeoffs.tasks.texts import IGNORED
from peft_tradeoffs.training.batches import epoch_batches

LORA = harness.lora("all-linear", 16, lora_dropout=0.0)
ARMS = [Arm("full"), Arm("LoRA r16", LORA), Arm("QLoRA r16", LORA, harness.NF4)]
ENGINES = {
    "eager": {"engine": "eager"},
    "captured": {"engine": "captured"},
    "compiled": {"engine": "captured", "compile": True},
}
TRL = {"TRL": {}, "TRL, nothing computed again": {"gradient_checkpointing": False}}  # it checkpoints by default
LLAMA = {"max_position_embeddings": 8192, "rope_theta": 100000.0}
SHAPES = {
    "smollm2-135m": {
        **{"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3},
        **{"intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True},
    },
    "llama-1b": {
        **{"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8},
        **{"intermediate_size": 8192, "vocab_size": 32000, "tie_word_embeddings": False},
    },
    "tiny": {
        **{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"intermediate_size": 128, "vocab_size": 500, "tie_word_embeddings": True},
    },
}


@dataclass(frozen=True)
class Row:
    """What a loop took on some texts."""

    seconds: list[float]  # of each step, the first DROPPED left out
    tokens: float  # of a step, padding not counted
    peak_MiB: float | None  # allocated while it trains; None on a CPU
    once_s: float = 0.0  # capture and compilation
    reason: str | None = None  # why the engine is another


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--shape", default="smollm2-135m", choices=SHAPES, help="tiny: a rehearsal")
    parser.add_argument("--texts", nargs="*", default=["32x128", "8x1024"], help="rows x tokens of a batch")
    parser.add_argument("--tokens", type=Path, help="tokens/{dataset}/{model}.npz of a workflow run, in batches of 32")
    parser.add_argument("--steps", type=int, default=60, help=f"timed steps, after {DROPPED} that are dropped")
    parser.add_argument("--arms", nargs="*", default=[arm.name for arm in ARMS], choices=[arm.name for arm in ARMS])
    parser.add_argument("--skip", nargs="*", default=[], choices=[*TRL, *ENGINES])
    arguments = parser.parse_args()
    harness.quiet()
    name, peak, _ = harness.chip(arguments.device)
    print(f"{name}; {harness.versions()}; {arguments.shape}, random weights\n")
    print("| texts | arm | loop | ms per step | p95 | tokens/s | peak, MiB | share of peak | once, s |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|", flush=True)
    config = transformers.LlamaConfig(**SHAPES[arguments.shape], **LLAMA)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        harness.random_checkpoint(config, folder, torch.float32, arguments.device, task="sft")
        for label, batch, split in cases(arguments, config.vocab_size):
            for arm in (arm for arm in ARMS if arm.name in arguments.arms):
                for loop, row in loops(folder, arm, split, batch, arguments):
                    share = (
                        "–" if peak is None else f"{100 * flops(config, arm, split, batch, row) / peak / 1e12:.0f} %"
                    )
                    mean = float(np.mean(row.seconds))
                    held = "–" if row.peak_MiB is None else f"{row.peak_MiB:,.0f}"
                    said = f"{loop} ({row.reason})" if row.reason else loop
                    print(
                        f"| {label} | {arm.name} | {said} | {1000 * mean:.1f} "
                        f"| {1000 * np.percentile(row.seconds, 95):.1f} | {row.tokens / mean:,.0f} | {held} | {share} "
                        f"| {row.once_s:.1f} |",
                        flush=True,
                    )


def cases(arguments: argparse.Namespace, vocabulary: int) -> Iterator[tuple[str, int, Split]]:
    """Texts to train on: what they are called, how many are a batch, and they."""
    for text in arguments.texts:
        rows, length = map(int, text.split("x"))
        yield text, rows, texts(rows * 16, length, vocabulary)
    if arguments.tokens:
        yield f"{arguments.tokens.parent.name}, 32", 32, load_tokens(arguments.tokens)[0]["train"]


def texts(rows: int, length: int, vocabulary: int) -> Split:
    """Random texts of one length, the last half of each targets; never the pad token 0."""
    random = np.random.default_rng(0)
    tokens = random.integers(1, vocabulary, rows * length).astype(np.int32)
    targets = np.tile(np.arange(length) >= length // 2, rows)
    return Split(tokens, None, np.arange(rows + 1) * length, np.zeros(rows, np.int64), np.arange(rows), targets)


def loops(folder: Path, arm: Arm, split: Split, batch: int, arguments: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Each loop's name and what it took."""
    for name, options in TRL.items():
        if name not in arguments.skip:
            yield name, of_trl(folder, arm, split, batch, arguments, options)
    for name, options in ENGINES.items():
        if name not in arguments.skip and (arguments.device == "cuda" or name == "eager"):
            yield name, of_engine(folder, arm, split, batch, arguments, options)


def of_engine(
    folder: Path, arm: Arm, split: Split, batch: int, arguments: argparse.Namespace, options: dict[str, Any]
) -> Row:
    torch.compiler.reset()  # so that no arm is compiled again for what another one was
    built = harness.build(folder, arm, arguments.device, task="sft")
    chosen = harness.settings(
        task="sft",
        metric="token_loss",
        batch_size=batch,
        evaluation_batch_size=batch,
        max_steps=arguments.steps + DROPPED,
        epochs=1000,
        **options,
    )
    result, phases = harness.train(built.model, split, chosen, arguments.device)
    progress = result.progress
    return Row(
        progress.step_s[DROPPED:],
        progress.tokens / progress.step,
        phases.peaks.get("train_peak_allocated_MiB"),
        progress.compile_s + progress.capture_s,
        progress.engine_reason,
    )


class Clock(transformers.TrainerCallback):
    """When each step ended, the device idle then; the allocator's peak is reset after those that are dropped."""

    def __init__(self, cuda: bool) -> None:
        self._cuda = cuda
        self.ended: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._cuda:
            torch.cuda.synchronize()
            if state.global_step == DROPPED:
                torch.cuda.reset_peak_memory_stats()
        self.ended.append(time.perf_counter())


def of_trl(
    folder: Path, arm: Arm, split: Split, batch: int, arguments: argparse.Namespace, options: dict[str, Any]
) -> Row:
    """TRL's SFTTrainer in bf16 on the batches that the engines take, its data loading counted."""
    import peft
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    free_memory(torch.device(arguments.device))
    labels = np.where(split.targets, split.input_ids, IGNORED)
    rows = [
        {"input_ids": split.input_ids[a:b].tolist(), "labels": labels[a:b].tolist()}
        for a, b in itertools.pairwise(split.offsets)
    ]
    count = arguments.steps + DROPPED
    order: list[np.ndarray] = []
    while len(order) < count:
        order += epoch_batches(split.lengths, batch, 0, len(order))
    tokens = float(np.mean([split.lengths[indices].sum() for indices in order[:count]]))

    class SameBatches(SFTTrainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            loader = (self.data_collator([rows[index] for index in indices]) for indices in order[:count])
            return _Sized(self.accelerator, loader, count)

    quantization = harness.methods.BitsAndBytesConfig(**arm.quantization) if arm.quantization else None
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=quantization, device_map={"": arguments.device}
    )
    adapter = peft.LoraConfig(**{k: v for k, v in (arm.peft or {}).items() if k != "peft_type"}, task_type="CAUSAL_LM")
    clock = Clock(arguments.device == "cuda")
    config = SFTConfig(
        output_dir=str(folder.parent / "trl"),
        max_steps=count,
        per_device_train_batch_size=batch,
        learning_rate=1e-5,
        bf16=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
        **({"use_cpu": True} if arguments.device == "cpu" else {}),
        **options,
    )
    trainer = SameBatches(
        model,
        config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
        peft_config=adapter if arm.peft else None,
        callbacks=[clock],
    )
    trainer.train()
    peak = torch.cuda.max_memory_allocated() / MIB if arguments.device == "cuda" else None
    seconds = np.diff(clock.ended)[DROPPED - 1 :].tolist()
    del trainer, model
    gc.collect()
    return Row(seconds, tokens, peak)


class _Sized:
    """A loader that says how long it is; its batches are on the device, as Accelerate's are."""

    def __init__(self, accelerator: Any, batches: Iterator[Any], count: int) -> None:
        self._device, self._batches, self._count = accelerator.device, batches, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        return ({key: value.to(self._device) for key, value in batch.items()} for batch in self._batches)


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """One that TRL takes a pad token from; the texts are tokens already."""
    import tokenizers

    model = tokenizers.models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>")
    made = tokenizers.Tokenizer(model)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")


def flops(config: transformers.LlamaConfig, arm: Arm, split: Split, batch: int, row: Row) -> float:
    """FLOP/s of a step's products by the rule of the heading."""
    layer = 2 * config.hidden_size * config.hidden_size * (1 + config.num_key_value_heads / config.num_attention_heads)
    layer += 3 * config.hidden_size * config.intermediate_size
    head = config.hidden_size * config.vocab_size
    learned = float(split.targets.sum()) / len(split) * batch if split.targets is not None else 0.0
    each = 4 if arm.peft else 6
    return each * (layer * config.num_hidden_layers * row.tokens + head * learned) / float(np.mean(row.seconds))


if __name__ == "__main__":
    main()

"""Tries a GPU as training uses it: a tiny model of random weights, made here, takes captured steps, full and QLoRA."""

import copy
import datetime
import math
import os
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.tokens import Split
from peft_tradeoffs.measure import machine
from peft_tradeoffs.measure.devices import Device, check_precision, open_device
from peft_tradeoffs.tasks.task import DEFAULT, TASKS
from peft_tradeoffs.training import methods
from peft_tradeoffs.training.batches import (
    Data,
    ResidentSplit,
    additive_mask,
    choose_kernels,
    longest_text,
    padding_mask,
)
from peft_tradeoffs.training.methods import hold_as_computed
from peft_tradeoffs.training.step import (
    DTYPES,
    CapturedSteps,
    CaptureError,
    EagerSteps,
    Settings,
    Subject,
    TrainingStep,
)
from peft_tradeoffs.training.updates import Updates

STEPS = 20
ROWS, LENGTH, TOKENS = 16, 24, 100  # of each batch; size of the vocabulary
TOLERANCE = 0.05  # between the last losses of captured and eager steps
LORA = {"peft_type": "LORA", "target_modules": ["query", "value"], "r": 8, "lora_alpha": 16}
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
ARMS: dict[str, dict[str, Any]] = {
    "full": {"peft": None, "quantization": None},
    "QLoRA (NF4)": {"peft": LORA, "quantization": NF4},
}


@dataclass(frozen=True)
class Tried:
    """Steps of one engine."""

    engine: str
    losses: list[float]
    step_ms: float  # mean


def check(kind: str, precision: str, allow_shared: bool) -> tuple[str, bool]:
    """A report whose last line is the verdict, and whether it is good. `kind` and `precision` are the config's."""
    lines = [f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC, {socket.gethostname()}{_job()}"]
    lines += [_row(name, version or "not installed") for name, version in machine.versions().items()]
    lines.append(_row("torch built for", f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"))
    if kind == "cuda":
        lines.append(_row("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", "not set")))
        if not torch.cuda.is_available():
            return _report(lines, f"no GPU ({_why_none()}), and config key training.device is cuda"), False
    try:
        device = open_device(kind, allow_shared)
        check_precision(device.torch, precision)
    except InputError as error:
        return _report(lines, f"failed ({error})"), False
    lines += _facts(device)
    notes = []
    for name, arm in ARMS.items():
        try:
            line, note = _arm(arm, device.torch, precision)
        except (RuntimeError, ImportError, ValueError, AssertionError) as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            return _report(lines, f"failed ({name}: {reason})"), False
        lines.append(_row(name, line))
        notes += [f"{name}: {note}"] if note else []
    if kind == "cpu":
        return _report(lines, "no GPU (none is asked for: config key training.device is cpu); the CPU passed"), True
    return _report(lines, "; ".join([f"passed on {torch.cuda.get_device_name()}", *notes])), True


def _arm(arm: dict[str, Any], device: torch.device, precision: str) -> tuple[str, str]:
    """What the steps gave, and a note if they cannot be captured. Raises ValueError for losses that cannot be right."""
    with tempfile.TemporaryDirectory() as folder:
        _write_model(Path(folder))
        eager = _steps(Path(folder), arm, device, precision, captured=False)
        tried, note = eager, ""
        if device.type == "cuda":
            try:
                tried = _steps(Path(folder), arm, device, precision, captured=True)
            except CaptureError as error:
                note = f"steps cannot be captured ({error}), so training runs eagerly"
    first, last = tried.losses[0], tried.losses[-1]
    if not all(map(math.isfinite, tried.losses)) or last >= first:
        raise ValueError(f"{tried.engine} steps: the loss goes from {first:.3f} to {last:.3f}")
    if abs(last - eager.losses[-1]) > TOLERANCE * first:
        raise ValueError(f"captured steps end with loss {last:.3f}, eager ones with {eager.losses[-1]:.3f}")
    losses = f"loss {first:.3f} to {last:.3f}"
    text = f"{STEPS} {tried.engine} steps in {precision}, {losses}, {tried.step_ms:.2f} ms per step"
    return text + (f" (eager {eager.step_ms:.2f})" if tried is not eager else ""), note


def _steps(folder: Path, arm: dict[str, Any], device: torch.device, precision: str, captured: bool) -> Tried:
    """Train the model in `folder` from its weights on."""
    dtype = str(DTYPES[precision]).removeprefix("torch.")
    quantization = arm["quantization"] and {**arm["quantization"], "bnb_4bit_compute_dtype": dtype}
    recipe = methods.Recipe(copy.deepcopy(arm["peft"]), quantization, False, None, DEFAULT)
    built = methods.build(folder, recipe, methods.Outputs(2, 0), 0, str(device))
    texts = _texts()
    hold_as_computed(built.model, precision, device, longest_text(texts))
    built.model.train()
    settings = _settings(precision)
    subject = Subject(built.model, Data.of({"train": texts}, 0, settings.task), settings, 0)
    updates = Updates(subject.parameters, settings, device)
    updates.allocate_state()
    mask = additive_mask if device.type == "cuda" else padding_mask
    choose_kernels(mask, built.model)
    step = TrainingStep(subject, ResidentSplit(texts, 0, device), mask, updates, [1e-3] * STEPS)
    steps = (CapturedSteps if captured else EagerSteps)(step, False, None)
    step.begin([np.arange(ROWS)] * STEPS, 0, 0)
    steps.prepare([(ROWS, LENGTH)])
    if not captured:
        step.try_out((ROWS, LENGTH))  # libraries load
    _synchronize(device)
    began = time.perf_counter()
    for _ in range(STEPS):
        steps((ROWS, LENGTH))
    _synchronize(device)
    return Tried(steps.name, step.losses(0, STEPS), (time.perf_counter() - began) / STEPS * 1000)


def _write_model(folder: Path) -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=TOKENS,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=256,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    BertModel(config).save_pretrained(folder)


def _texts() -> Split:
    """Random tokens; the label is in which half of the vocabulary they are."""
    random = np.random.default_rng(0)
    lengths = random.integers(LENGTH // 2, LENGTH + 1, ROWS)
    lengths[0] = LENGTH
    labels = np.arange(ROWS) % 2
    half = TOKENS // 2
    tokens = [random.integers(1, half, n) + (half - 1) * label for n, label in zip(lengths, labels, strict=True)]
    offsets = np.concatenate([[0], lengths.cumsum()])
    return Split(np.concatenate(tokens).astype(np.int32), None, offsets, labels, np.arange(ROWS))


def _settings(precision: str) -> Settings:
    return Settings(
        learning_rate=1e-3,
        epochs=1,
        max_steps=None,
        batch_size=ROWS,
        gradient_accumulation_steps=1,
        evaluation_batch_size=ROWS,
        lr_scheduler_type="linear",
        warmup_ratio=0.0,
        optimizer="adamw",
        weight_decay=0.0,
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        max_grad_norm=1.0,
        precision=precision,
        early_stopping=None,
        task=DEFAULT,
        metric=TASKS[DEFAULT].metrics[0],
        engine="captured",
        compile=False,
    )


def _facts(device: Device) -> list[str]:
    if device.torch.type == "cpu":
        return [_row("processor", machine.cpu_name())]
    if not device.gpu:
        return [_row("GPU", f"{torch.cuda.get_device_name()} (NVML: {device.gpu.reason})")]
    facts = device.gpu.facts()
    size = "" if facts["memory_MiB"] is None else f", {facts['memory_MiB']:.0f} MiB"
    driver = f"{facts['driver_version']} (CUDA {facts['cuda_driver_version']})"
    return [_row("GPU", f"{facts['name']}{size}, {facts['uuid']}"), _row("driver", driver)]


def _why_none() -> str:
    if torch.version.cuda is None:
        return "this torch is a CPU build: make the environment from an index with CUDA builds"
    if not os.environ.get("CUDA_VISIBLE_DEVICES", "0"):
        return "CUDA_VISIBLE_DEVICES is empty: the job was given none"
    return "torch sees none: no GPU was given to the job, or the driver does not fit"


def _job() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return f", SLURM job {job}" if job else ""


def _row(name: str, value: str) -> str:
    return f"{name:<22}{value}"


def _report(lines: list[str], verdict: str) -> str:
    return "\n".join([*lines, f"GPU check: {verdict}", ""])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()

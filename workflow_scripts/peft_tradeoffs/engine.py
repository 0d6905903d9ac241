"""Trains and evaluates a model. Knows no method by name."""

import contextlib
import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from peft_tradeoffs import metrics
from peft_tradeoffs.batches import Split, collate, epoch_batches, evaluation_batches
from peft_tradeoffs.errors import InputError
from peft_tradeoffs.measure import PeakMemory, StepTimer


@dataclass(frozen=True)
class Settings:
    """What decides the training of any arm; described in schemas/config.schema.yaml."""

    learning_rate: float
    epochs: int
    max_steps: int | None
    batch_size: int
    gradient_accumulation_steps: int
    evaluation_batch_size: int
    warmup_ratio: float
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    max_grad_norm: float
    precision: str
    early_stopping: dict[str, Any] | None
    task: str
    metric: str

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Settings":
        """Take from a run's settings those that training needs."""
        return cls(**{field.name: settings[field.name] for field in dataclasses.fields(cls)})


@dataclass
class Progress:
    """Where a run is; with the weights, the optimizer and the generators all that a resume needs."""

    step: int = 0  # optimizer steps done
    stopped: bool = False  # by early stopping
    losses: list[float] = field(default_factory=list)  # since the last evaluation
    rows: list[dict[str, Any]] = field(default_factory=list)  # of metrics.csv
    step_s: list[float] = field(default_factory=list)
    samples: int = 0
    tokens: int = 0
    evaluate_s: float = 0.0
    best: float = -math.inf
    epochs_without_better: int = 0
    peaks: dict[str, float] = field(default_factory=dict)  # MiB
    attempts: int = 0


@dataclass(frozen=True)
class Result:
    progress: Progress
    logits: np.ndarray  # float32 [n, k] of the test split after the last step
    memory: PeakMemory


class State(Protocol):
    """Keeps a run's state between attempts."""

    def load(self) -> dict[str, Any] | None: ...
    def due(self) -> bool: ...
    def save(self, state: dict[str, Any]) -> None: ...


class Reporter(Protocol):
    """Tells a person how far a run is."""

    def due(self) -> bool: ...
    def step(self, step: int, total: int, epoch: int, epochs: int, loss: float) -> None: ...
    def evaluation(self, row: dict[str, Any]) -> None: ...


def train(
    model: nn.Module,
    splits: dict[str, Split],
    pad_token_id: int,
    settings: Settings,
    seed: int,
    device: torch.device,
    state: State,
    reporter: Reporter,
) -> Result:
    """Train `model` on splits["train"] and evaluate it on the others after every epoch.

    The result is that of the last step. Resumes from `state`, to the same weights on the same device.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = adamw(parameters, settings)
    torch.manual_seed(seed)  # dropout
    progress = Progress()
    if saved := state.load():
        progress = restore(saved, parameters, optimizer)
    del saved  # a second copy of the weights
    progress.attempts += 1
    timer, memory = StepTimer(device, progress.step_s), PeakMemory(device, progress.peaks)

    train_split = splits["train"]
    per_epoch = math.ceil(len(train_split) / settings.batch_size)
    total = settings.max_steps or settings.epochs * per_epoch
    warmup = math.ceil(settings.warmup_ratio * total)
    losses: list[torch.Tensor] = []
    logits = np.empty(0)

    def checkpoint() -> None:
        progress.losses += torch.stack(losses).tolist() if losses else []
        losses.clear()
        progress.step_s, progress.peaks = timer.seconds(), memory.peaks()
        state.save(snapshot(progress, parameters, optimizer))

    model.train()
    memory.start()
    while progress.step < total and not progress.stopped:
        epoch, done = divmod(progress.step, per_epoch)
        batches = epoch_batches(train_split.lengths, settings.batch_size, seed, epoch)
        for indices in batches[done : done + total - progress.step]:
            rate = settings.learning_rate * linear_schedule(progress.step, warmup, total)
            for group in optimizer.param_groups:
                group["lr"] = rate
            parts = [
                collate(train_split, part, pad_token_id)
                for part in np.array_split(indices, settings.gradient_accumulation_steps)
                if len(part)
            ]
            timer.start()
            losses.append(train_step(model, parts, optimizer, parameters, settings, device))
            timer.stop()
            progress.step += 1
            progress.samples += len(indices)
            progress.tokens += int(train_split.lengths[indices].sum())
            if reporter.due():
                reporter.step(progress.step, total, epoch + 1, settings.epochs, losses[-1].item())
            if progress.step % per_epoch == 0 or progress.step == total:
                memory.stop()
                progress.losses += torch.stack(losses).tolist()
                losses.clear()
                progress.step_s = timer.seconds()
                logits = _evaluate_splits(model, splits, pad_token_id, settings, device, progress, rate, per_epoch)
                reporter.evaluation(progress.rows[-1])
                model.train()
                memory.start()
            if state.due() and progress.step < total and not progress.stopped:
                checkpoint()
            if progress.stopped:
                break
    memory.stop()
    progress.step_s = timer.seconds()
    return Result(progress, logits, memory)


def train_step(
    model: nn.Module,
    parts: list[dict[str, torch.Tensor]],
    optimizer: torch.optim.Optimizer,
    parameters: dict[str, nn.Parameter],
    settings: Settings,
    device: torch.device,
) -> torch.Tensor:
    """One optimizer step over a batch given in parts; returns the batch's mean loss, a scalar on `device`.

    Parts are weighted by their rows, so that the gradient is that of the whole batch.
    """
    rows = sum(len(part["labels"]) for part in parts)
    loss = torch.zeros((), device=device)
    for part in parts:
        share = len(part["labels"]) / rows
        with autocast(settings.precision, device):
            part_loss = model(**{key: value.to(device, non_blocking=True) for key, value in part.items()}).loss
        (part_loss * share).backward()
        loss += part_loss.detach() * share
    nn.utils.clip_grad_norm_(parameters.values(), settings.max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


@torch.no_grad()
def predict(model: nn.Module, split: Split, pad_token_id: int, settings: Settings, device: torch.device) -> np.ndarray:
    """Logits float32 [n, k] of `split`, in its order."""
    model.eval()
    logits = None
    for indices in evaluation_batches(split.lengths, settings.evaluation_batch_size):
        batch = collate(split, indices, pad_token_id)
        batch.pop("labels")
        with autocast(settings.precision, device):
            output = model(**{key: value.to(device) for key, value in batch.items()}).logits
        if logits is None:
            logits = torch.empty(len(split), output.shape[1], device=device)
        logits[torch.from_numpy(indices)] = output.float()
    return logits.cpu().numpy()


def adamw(parameters: dict[str, nn.Parameter], settings: Settings) -> torch.optim.AdamW:
    """AdamW, fused; biases and norms (one dimension) are not decayed."""
    matrices = [p for p in parameters.values() if p.ndim > 1]
    vectors = [p for p in parameters.values() if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused=True,
    )


def linear_schedule(step: int, warmup: int, total: int) -> float:
    """Factor of the learning rate in step `step` (from 0): linear to 1 over `warmup` steps, then to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return (total - step) / max(1, total - warmup)


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """bf16 autocast, or nothing for fp32."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def snapshot(
    progress: Progress, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """All that a resume needs, as plain values and tensors."""
    return {
        "progress": dataclasses.asdict(progress),
        "parameters": {name: p.detach() for name, p in parameters.items()},
        "optimizer": optimizer.state_dict(),
        "generator": torch.get_rng_state(),
        "cuda_generators": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore(saved: dict[str, Any], parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> Progress:
    """Put a `snapshot` back."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved["parameters"][name])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["generator"])
    if saved["cuda_generators"]:
        torch.cuda.set_rng_state_all(saved["cuda_generators"])
    return Progress(**saved["progress"])


def _evaluate_splits(
    model: nn.Module,
    splits: dict[str, Split],
    pad_token_id: int,
    settings: Settings,
    device: torch.device,
    progress: Progress,
    rate: float,
    per_epoch: int,
) -> np.ndarray:
    """Append a row a split to progress.rows, decide on early stopping; returns the test split's logits."""
    train_loss = float(np.mean(progress.losses))
    if not math.isfinite(train_loss):
        raise InputError(
            f"the training loss is not finite at step {progress.step}: lower methods.*.learning_rate "
            f"(now {settings.learning_rate}) or training.max_grad_norm"
        )
    progress.losses = []
    for name in [split for split in ("validation", "test") if split in splits]:
        timer = StepTimer(device, [])
        timer.start()
        logits = predict(model, splits[name], pad_token_id, settings, device)
        timer.stop()
        progress.evaluate_s += sum(timer.seconds())
        progress.rows.append(
            {
                "epoch": progress.step / per_epoch,
                "step": progress.step,
                "split": name,
                "train_loss": train_loss,
                "learning_rate": rate,
                "train_s": sum(progress.step_s),
                **metrics.evaluate(logits, splits[name].labels, settings.task),
            }
        )
        if name == "validation" and settings.early_stopping:
            value = progress.rows[-1][settings.metric]
            if value is not None and value > progress.best + settings.early_stopping["min_delta"]:
                progress.best, progress.epochs_without_better = value, 0
            else:
                progress.epochs_without_better += 1
            progress.stopped = progress.epochs_without_better >= settings.early_stopping["patience"]
    return logits

"""Memory and latency of a training step on the batch that takes most: the longest texts, the same for every arm.

Always eager, so that what a CUDA graph keeps allocated does not count as the method's. Leaves weights as they were,
but for a gradient that is not finite, which would end training too.
"""

import gc
import math
from dataclasses import dataclass

import torch
from torch import nn

from peft_tradeoffs.measure.devices import requested_bytes
from peft_tradeoffs.measure.phases import MIB, StepTimer, dense_parts
from peft_tradeoffs.training.attention import Mask
from peft_tradeoffs.training.batches import ResidentSplit, longest_rows, padded_length
from peft_tradeoffs.training.step import Subject, TrainingStep, adamw

TIMED_STEPS = 30  # on a GPU
WARM_STEPS = 5  # before them, on a batch that the passes for memory have seen
CPU_STEPS = 2  # for memory alone: training itself is eager there


@dataclass(frozen=True)
class Probe:
    """What one worst-case step takes."""

    step_s: list[float]  # empty on a CPU
    activations_MiB: float  # saved for the backward pass, by tensor sizes
    gradients_measured_MiB: float | None  # by allocator differences; None on a CPU
    optimizer_measured_MiB: float | None
    activations_measured_MiB: float | None


def probe(subject: Subject, device: torch.device, mask: Mask) -> Probe:
    """Train the model for some steps with a learning rate of 0 and an optimizer of its own."""
    split, settings = subject.data.scaled["train"], subject.settings
    rows = longest_rows(split.lengths, settings.batch_size)
    worst = ResidentSplit(split.take(rows), subject.data.pad_token_id, device)
    shape = len(rows), padded_length(split.lengths[rows])
    optimizer = adamw(subject.parameters, settings, device)
    count = WARM_STEPS + TIMED_STEPS if device.type == "cuda" else CPU_STEPS
    step = TrainingStep(subject, worst, mask, optimizer, [0.0] * count)
    step.begin([torch.arange(len(rows)).numpy()] * count, 0, 0)

    part = torch.arange(math.ceil(shape[0] / settings.gradient_accumulation_steps), device=device)
    saved = _SavedTensors(subject.model)
    with torch.autograd.graph.saved_tensors_hooks(saved.count, lambda tensor: tensor):
        loss, _ = step.forward(part, shape[1])
    del loss
    gc.collect()

    cuda = device.type == "cuda"
    measured = _allocator_split(step, optimizer, part, shape) if cuda else (None, None, None)
    timer = StepTimer(device, [])
    for _ in range(count):
        timer.start()
        step(*shape)
        timer.stop()
    return Probe(timer.seconds() if cuda else [], saved.bytes / MIB, *measured)


def _allocator_split(
    step: TrainingStep, optimizer: torch.optim.Optimizer, part: torch.Tensor, shape: tuple[int, int]
) -> tuple[float, float, float]:
    """MiB that gradients, optimizer state and activations of one part add to what is asked of the allocator."""
    step.backward(*shape)  # libraries take their workspaces
    step.drop_gradients()
    start = requested_bytes()
    loss, _ = step.forward(part, shape[1])
    forward = requested_bytes()
    del loss
    step.backward(*shape)
    backward = requested_bytes()
    optimizer.step()
    updated = requested_bytes()
    step.drop_gradients()
    return (backward - start) / MIB, (updated - backward) / MIB, (forward - start) / MIB


class _SavedTensors:
    """Counts the bytes of tensors saved for the backward pass, each storage once, weights left out."""

    def __init__(self, model: nn.Module) -> None:
        held = (*model.parameters(), *model.buffers())
        self._seen = {part.untyped_storage().data_ptr() for tensor in held for part in dense_parts(tensor)}
        self.bytes = 0

    def count(self, tensor: torch.Tensor) -> torch.Tensor:
        for part in dense_parts(tensor):
            storage = part.untyped_storage()
            if storage.data_ptr() not in self._seen:
                self._seen.add(storage.data_ptr())
                self.bytes += storage.nbytes()
        return tensor.detach()

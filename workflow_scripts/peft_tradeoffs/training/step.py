"""One optimizer step that finds all it needs on the device, so that a CUDA graph can hold it."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from peft_tradeoffs.tasks.task import TASKS
from peft_tradeoffs.training.attention import Mask
from peft_tradeoffs.training.batches import ResidentSplit

Pair = tuple[torch.Generator, torch.Generator]


class BlockGenerators:
    """A pair of CUDA generators a checkpointed block, taken in the order in which the blocks run."""

    def __init__(self, seed: int) -> None:
        torch.cuda.init()  # makes the default generators
        self._default = torch.cuda.default_generators[torch.cuda.current_device()]
        self._seed = seed
        self._pairs: list[Pair] = []
        self._next = 0

    def checkpoint_arguments(self) -> dict[str, Any]:
        """Arguments of torch.utils.checkpoint."""
        return {"preserve_rng_state": False, "context_fn": self._contexts}

    def begin(self) -> None:
        """Start a forward pass: its first block comes next."""
        self._next = 0

    def register(self, graph: torch.cuda.CUDAGraph) -> None:
        """Have replays of `graph`, which is yet to be captured, advance the generators."""
        for generator in (one for pair in self._pairs for one in pair):
            graph.register_generator_state(generator)

    def state(self) -> list[torch.Tensor]:
        """State of every block's generators, which is one for both."""
        return [forward.get_state() for forward, _ in self._pairs]

    def load(self, states: list[torch.Tensor]) -> None:
        """Put back a `state`; blocks that it does not know start anew."""
        while len(self._pairs) < len(states):
            self._pairs.append(self._new_pair(len(self._pairs)))
        for block, pair in enumerate(self._pairs):
            for generator in pair:
                if block < len(states):
                    generator.set_state(states[block])
                else:
                    generator.manual_seed(self._block_seed(block))

    def renew(self, states: list[torch.Tensor]) -> None:
        """As `load`, with generators made anew."""
        self._pairs = []
        self.load(states)

    def _contexts(self) -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
        if self._next == len(self._pairs):
            self._pairs.append(self._new_pair(self._next))
        forward, recomputed = self._pairs[self._next]
        self._next += 1
        return self._using(forward), self._using(recomputed)

    @contextlib.contextmanager
    def _using(self, generator: torch.Generator) -> Iterator[None]:
        before = self._default.graphsafe_get_state()
        self._default.graphsafe_set_state(generator)
        try:
            yield
        finally:
            self._default.graphsafe_set_state(before)

    def _new_pair(self, block: int) -> Pair:
        pair = self._default.clone_state(), self._default.clone_state()
        for generator in pair:
            generator.manual_seed(self._block_seed(block))
        return pair

    def _block_seed(self, block: int) -> int:
        return int(np.random.SeedSequence([self._seed, block]).generate_state(1, np.uint32)[0])


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
    engine: str
    compile: bool

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Settings":
        """Take from a run's settings those that training needs."""
        return cls(**{field.name: settings[field.name] for field in dataclasses.fields(cls)})

    @property
    def dtype(self) -> torch.dtype:
        """Precision of matrix products."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


class TrainingStep:
    """Gather a batch, forward, backward, clip, update; called with the batch's shape alone.

    Which batch and which learning rate is read on the device, from `begin` and `rates`; the losses stay there.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ResidentSplit,
        mask: Mask,
        parameters: dict[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        rates: list[float],
        settings: Settings,
        generators: BlockGenerators | None = None,
    ) -> None:
        """`rates`: the learning rate of every step; `generators`: of checkpointed blocks, on a GPU."""
        device = data.lengths.device
        # fused AdamW reads fp32 rates on a GPU; on a CPU the rate is used as it is
        kind = torch.float64 if device.type == "cpu" else torch.float32
        self.parameters = parameters
        self._forward: Callable[..., Any] = model
        self._data, self._mask, self._settings, self._device = data, mask, settings, device
        self._optimizer, self._generators = optimizer, generators
        self._task = TASKS[settings.task]
        self._run_rates = torch.tensor(rates, dtype=kind, device=device)
        self._rates = self._run_rates[:0]  # of the epoch's batches
        self._rate = torch.zeros((), dtype=kind, device=device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)  # in the epoch
        self._order = torch.zeros(0, settings.batch_size, dtype=torch.int64, device=device)
        self._losses = torch.zeros(0, device=device)
        for group in optimizer.param_groups:
            group["lr"] = self._rate

    def compile(self) -> None:
        """Have torch.compile make the forward and backward pass; one compilation for all lengths, if it can."""
        self._forward = torch.compile(self._forward, dynamic=True)

    def begin(self, batches: list[np.ndarray], place: int, step: int) -> None:
        """Start an epoch of `batches` (row indices) at batch `place`, which is step `step` of the run."""
        if len(self._losses) < len(batches):  # in place otherwise: a graph reads these addresses
            self._order = self._order.new_zeros(len(batches), self._settings.batch_size)
            self._losses = self._losses.new_zeros(len(batches))
            self._rates = self._rates.new_zeros(len(batches))
        table = np.zeros(self._order.shape, np.int64)
        for row, indices in enumerate(batches):
            table[row, : len(indices)] = indices
        self._order.copy_(torch.from_numpy(table))
        self._place.fill_(place)
        rates = self._run_rates[step : step + len(batches) - place]
        self._rates[place : place + len(rates)] = rates

    def __call__(self, rows: int, length: int) -> None:
        """One optimizer step over the next batch, of `rows` texts padded to `length` tokens."""
        self._rate.copy_(self._rates.index_select(0, self._place)[0])
        loss = self.backward(rows, length)
        nn.utils.clip_grad_norm_(self.parameters.values(), self._settings.max_grad_norm)
        self._optimizer.step()
        self.drop_gradients()
        self._losses.index_copy_(0, self._place, loss[None])
        self._place += 1

    def backward(self, rows: int, length: int) -> torch.Tensor:
        """Gradients of the batch's mean loss, which is returned; parts count by their weight in the whole batch."""
        indices = self._order.index_select(0, self._place)[0, :rows]
        parts = torch.tensor_split(indices, min(rows, self._settings.gradient_accumulation_steps))
        whole = self._task.weight(self._data.labels, indices)
        losses = []
        for part in parts:
            loss, weight = self.forward(part, length)
            if len(parts) > 1:  # a single part is left untouched
                loss = loss * (weight / whole)
            loss.backward()
            losses.append(loss.detach())
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def forward(self, part: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor | int]:
        """Mean loss of the texts `part` [b], and its weight."""
        if self._generators is not None:
            self._generators.begin()
        inputs, sizes, labels = self._data.gather(part, length)
        mask = self._mask(sizes, length, self._settings.dtype)
        with autocast(self._settings.precision, self._device):
            output = self._forward(**inputs, attention_mask=mask, labels=labels)
            return self._task.loss(output), self._task.weight(self._data.labels, part)

    def drop_gradients(self) -> None:
        """Free the gradients; the next backward pass makes new ones instead of adding to them."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def losses(self, start: int, end: int) -> list[float]:
        """Losses of the epoch's batches `start` to `end`; waits for the device."""
        return self._losses[start:end].tolist()


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """bf16 autocast, or nothing for fp32. Its cache is off: it would hold tensors of one graph for another."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def adamw(parameters: dict[str, nn.Parameter], settings: Settings, device: torch.device) -> torch.optim.AdamW:
    """AdamW, fused, its state at hand; biases and norms (one dimension) are not decayed."""
    matrices = [p for p in parameters.values() if p.ndim > 1]
    vectors = [p for p in parameters.values() if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=torch.zeros((), device=device),
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused=True,
        capturable=device.type == "cuda",
    )


def allocate_state(optimizer: torch.optim.AdamW) -> None:
    """Make AdamW's moments now rather than in the first step, where a CUDA graph would reset them at every replay.

    A step with gradients and a learning rate of 0 changes no weight; its count is taken back.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter in parameters:
        parameter.grad = None
        optimizer.state[parameter]["step"].zero_()


def linear_schedule(step: int, warmup: int, total: int) -> float:
    """Factor of the learning rate in step `step` (from 0): linear to 1 over `warmup` steps, then to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return (total - step) / max(1, total - warmup)

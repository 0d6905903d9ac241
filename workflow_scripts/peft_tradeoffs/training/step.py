"""One optimizer step that finds all it needs on the device, the engines that take it, and what the dearest one takes.

Eagerly, or each padded length as one CUDA graph.
"""

import contextlib
import dataclasses
import functools
import gc
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from peft_tradeoffs.measure.devices import MIB, StepTimer, dense_parts, requested_bytes
from peft_tradeoffs.tasks.metrics import METRICS, OUTPUTS
from peft_tradeoffs.tasks.task import TASKS
from peft_tradeoffs.training.batches import Data, Mask, ResidentSplit, Shape, Sizes, longest_rows
from peft_tradeoffs.training.parallel import ALONE, Gradients, World
from peft_tradeoffs.training.sharding import Shards
from peft_tradeoffs.training.targets import AtTargets
from peft_tradeoffs.training.updates import Updates

TIMED_STEPS = 30  # of the probe, on a GPU
FEW_STEPS, SLOW_S = 10, 2.0  # timed steps that suffice where they take longer
WARM_STEPS = 5  # before them, on a batch that the passes for memory have seen
CPU_STEPS = 2  # for memory alone: training itself is eager there
WARM_UP = 2  # passes before a capture: libraries allocate, kernels are compiled and chosen

Pair = tuple[torch.Generator, torch.Generator]
Weight = int | torch.Tensor  # what a mean loss is a mean over: a count, or [] on the device
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}  # of matrix products, by precision


class BlockGenerators:
    """A pair of CUDA generators per checkpointed block, taken in the order in which the blocks run.

    torch.utils.checkpoint copies the generator's state to the CPU and back, which a capture forbids. Here one generator
    of a pair is for the forward pass, and one in step with it for the pass that computes it again.
    """

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

    def _contexts(self) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
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
class Randomness:
    """The states of the process's generators, which a run leaves as it found them."""

    torch_cpu: torch.Tensor
    torch_cuda: torch.Tensor | None  # of the run's GPU
    numpy: dict[str, Any] | tuple[Any, ...]
    python: tuple[Any, ...]

    @classmethod
    def now(cls, device: torch.device) -> "Randomness":
        """As they are, of a run on `device`."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), cuda, np.random.get_state(), random.getstate())

    def restore(self, device: torch.device) -> None:
        """Put them back."""
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda is not None:
            torch.cuda.set_rng_state(self.torch_cuda, device)
        np.random.set_state(self.numpy)
        random.setstate(self.python)

    @classmethod
    @contextlib.contextmanager
    def kept(cls, device: torch.device) -> Iterator[None]:
        """Within it a run may seed and draw; afterwards all is as before."""
        before = cls.now(device)
        try:
            yield
        finally:
            before.restore(device)


@dataclass(frozen=True)
class Settings:
    """What decides the training of any arm; described in schemas/config.schema.yaml."""

    learning_rate: float
    epochs: int
    max_steps: int | None
    batch_size: int
    gradient_accumulation_steps: int
    evaluation_batch_size: int
    lr_scheduler_type: str
    warmup_ratio: float
    optimizer: str
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    max_grad_norm: float
    precision: str
    early_stopping: dict[str, Any] | None
    task: str
    metric: str  # that early stopping looks at
    engine: str
    compile: bool
    generate: dict[str, Any] | None = None  # what comes after training

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Settings":
        """Take from a run's settings those that training needs.

        Of a metric of answers, which training does not have, it has the task's first one.
        """
        found = {field.name: settings[field.name] for field in dataclasses.fields(cls)}
        if METRICS[found["metric"]].task == OUTPUTS:
            found["metric"] = TASKS[found["task"]].metrics[0]
        return cls(**found)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of matrix products."""
        return DTYPES[self.precision]


@dataclass(frozen=True)
class Subject:
    """What is trained, and all that decides what becomes of it."""

    model: nn.Module
    data: Data
    settings: Settings
    seed: int
    generators: BlockGenerators | None = None  # of gradient checkpointing on a GPU, where it is not compiled
    world: World = ALONE  # the processes that train it together
    shards: Shards | None = None  # where each of them holds a part of every weight

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Those that are trained, by name; of a sharded model this rank's parts."""
        if self.shards is not None:
            return self.shards.parts
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def apart(self) -> World:
        """The ranks of which each has a part of every parameter."""
        return ALONE if self.shards is None else self.world

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """What a forward and a backward pass is within."""
        return contextlib.nullcontext() if self.shards is None else self.world.computing()

    @functools.cached_property
    def forward(self) -> nn.Module:
        """What a step calls: the model, or where tokens are learned its head at these alone."""
        if self.data.splits["train"].targets is None:
            return self.model
        device = next(self.model.parameters()).device
        return AtTargets(self.model, functools.partial(autocast, self.settings.precision, device))


class TrainingStep:
    """Gather a batch, forward, backward, clip, update; called with the batch's shape alone.

    Which batch and which learning rate is read on the device, from `begin` and `rates`; the losses stay there.
    """

    def __init__(
        self,
        subject: Subject,
        data: ResidentSplit,
        mask: Mask,
        updates: Updates,
        rates: list[float],
    ) -> None:
        """`data`: what batches are taken from; `rates`: the learning rate of every step."""
        device = data.lengths.device
        # fused AdamW reads fp32 rates on a GPU; on a CPU the rate is used as it is
        kind = torch.float64 if device.type == "cpu" else torch.float32
        self.parameters = subject.parameters
        self._forward: Callable[..., Any] = subject.forward
        self._data, self._mask, self._settings, self._device = data, mask, subject.settings, device
        self._updates, self._generators = updates, subject.generators
        self._world, self._shards, self._computing = subject.world, subject.shards, subject.computing
        self._gradients = subject.shards or Gradients(subject.world, self.parameters.values())
        self._task = TASKS[subject.settings.task]
        self._host_rates, self._next = rates, 0  # the next step's place in them
        self._run_rates = torch.tensor(rates, dtype=kind, device=device)
        self._rates = self._run_rates[:0]  # of the epoch's batches
        self._rate = torch.zeros((), dtype=kind, device=device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)  # in the epoch
        self._order = torch.zeros(0, subject.settings.batch_size, dtype=torch.int64, device=device)
        self._losses = torch.zeros(0, device=device)
        updates.follow(self._rate)

    def compile(self) -> None:
        """Have torch.compile make the forward and backward pass; one compilation for all lengths, if it can."""
        if self._shards is not None:
            self._shards.compile()
        elif isinstance(self._forward, AtTargets):
            self._forward.compile(dynamic=True)
        else:
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
        self._next = step
        rates = self._run_rates[step : step + len(batches) - place]
        self._rates[place : place + len(rates)] = rates

    def __call__(self, rows: int, *padded: int) -> None:
        """One optimizer step over the next batch, of `rows` texts; `padded`: the rest of its shape."""
        self.on_device(rows, *padded)
        self.on_host()

    def on_device(self, rows: int, *padded: int) -> None:
        """As much of the step as a CUDA graph can hold; the rest is `on_host`."""
        self._rate.copy_(self._rates.index_select(0, self._place)[0])
        loss = self.backward(rows, *padded)
        self._updates.on_device()
        self._losses.index_copy_(0, self._place, loss[None])
        self._place += 1

    def on_host(self) -> None:
        """What the optimizer does with numbers of the host."""
        self._updates.on_host(self._host_rates[self._next])
        self._next += 1

    def backward(self, rows: int, *padded: int) -> torch.Tensor:
        """Gradients of the batch's mean loss, which is returned; parts count by their weight in that of the batch.

        A batch in one part, on one rank, is left as it is. Of several ranks each computes its rows; a part that has
        none is the first row, which counts nothing there, so that all sum the same gradients.
        """
        indices = self._order.index_select(0, self._place)[0, :rows]
        whole = self._weight(indices)
        losses = []
        self._updates.begin()
        parts = self._parts(indices)
        for part in parts:
            idle = not len(part)
            with self._computing():
                loss, weight = self.forward(indices[:1] if idle else part, *padded)
                if len(parts) > 1 or self._world.size > 1:
                    loss = loss * (0.0 if idle else weight / whole)
                self._updates.backward(loss)
            losses.append(loss.detach())
        self._gradients.sum()
        return self._world.sum(losses[0] if len(losses) == 1 else torch.stack(losses).sum())

    def _parts(self, indices: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """This rank's rows of a batch in the parts that it is computed in; as many on all ranks of a sharded model."""
        own = self._world.rows(indices)
        most = len(own) if self._shards is None else self._world.most_rows(len(indices))
        return torch.tensor_split(own, max(1, min(most, self._settings.gradient_accumulation_steps)))

    def forward(self, part: torch.Tensor, length: int, *targets: int) -> tuple[torch.Tensor, Weight]:
        """Mean loss of the texts `part` [b], and the weight of that mean."""
        if self._generators is not None:
            self._generators.begin()
        batch = self._data.gather(part, length, *targets)
        mask = self._mask(batch.sizes, length, self._settings.dtype)
        with autocast(self._settings.precision, self._device):
            output = self._forward(**batch.inputs, attention_mask=mask, **batch.answers)
            return self._task.loss(output), self._weight(part)

    def _weight(self, rows: torch.Tensor) -> Weight:
        """What the mean loss of the texts `rows` [b] is a mean over. Known before any forward pass."""
        return self._task.weight(self._data.labels, rows)

    def rest(self) -> None:
        """After a forward pass alone: let a sharded model go of what is whole for the backward pass."""
        if self._shards is not None:
            self._shards.rest()

    def drop_gradients(self) -> None:
        """Free the gradients; the next backward pass makes new ones instead of adding to them."""
        self._updates.drop()

    def try_out(self, shape: Shape) -> None:
        """Forward and backward passes that change no weight. Raises RuntimeError before `begin`: there are no rows."""
        if not len(self._order):  # a GPU would read beyond it
            raise RuntimeError("a step is tried out on the rows of a batch: call begin first")
        self.backward(*shape)
        self._updates.end()

    def losses(self, start: int, end: int) -> list[float]:
        """Losses of the epoch's batches `start` to `end`; waits for the device."""
        return self._losses[start:end].tolist()


class Step(Protocol):
    """What an engine takes time and again: a step of training, or of decoding."""

    @property
    def parameters(self) -> Mapping[str, nn.Parameter]: ...
    def __call__(self, rows: int, *padded: int) -> None: ...
    def on_device(self, rows: int, *padded: int) -> None: ...
    def on_host(self) -> None: ...
    def try_out(self, shape: Shape) -> None: ...
    def drop_gradients(self) -> None: ...


class EagerSteps:
    """Launches every kernel from Python."""

    name = "eager"
    capture_s = 0.0

    def __init__(self, step: Step, compiled: bool, generators: BlockGenerators | None) -> None:
        self._step, self._compiled, self._generators = step, compiled, generators
        self._seen: set[Shape] = set()
        self.compile_s = 0.0

    def prepare(self, shapes: Iterable[Shape], stop: Callable[[], object] = lambda: None) -> None:
        """Compile for shapes not seen yet, longest first, outside the timed steps; none after `stop` gives a value."""
        if not self._compiled:
            return
        with _kept(self._generators):
            for shape in _longest_first(set(shapes) - self._seen):
                if stop():
                    return
                began = time.perf_counter()
                _warm_up(self._step, shape)
                self.compile_s += time.perf_counter() - began
                self._seen.add(shape)

    def __call__(self, shape: Shape) -> None:
        self._step(*shape)


class CapturedSteps:
    """Replays one CUDA graph per shape, all in one memory pool; the same kernels in the same order as eager steps."""

    name = "captured"

    def __init__(self, step: Step, compiled: bool, generators: BlockGenerators | None, world: World = ALONE) -> None:
        self._step, self._compiled, self._generators, self._world = step, compiled, generators, world
        self._graphs: dict[Shape, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()
        self.capture_s = self.compile_s = 0.0

    def prepare(self, shapes: Iterable[Shape], stop: Callable[[], object] = lambda: None) -> None:
        """Capture shapes not seen yet, longest first so that the pool serves them all; none after `stop` gives a value.

        Raises CaptureError, with the state of the device as it was, if a step cannot be captured, or not in the memory
        that there is: graphs take more than the steps themselves. Of several ranks it fails on all or none; memory that
        runs out on one while others wait for its gradients ends the run.
        """
        with _kept(self._generators):
            for shape in _longest_first(set(shapes) - set(self._graphs)):
                if stop():
                    return
                began = time.perf_counter()
                try:
                    self._stream.wait_stream(torch.cuda.current_stream())
                    with torch.cuda.stream(self._stream):
                        _warm_up(self._step, shape)
                    torch.cuda.current_stream().wait_stream(self._stream)
                except torch.OutOfMemoryError as error:
                    self._step.drop_gradients()
                    if self._world.size > 1:
                        raise
                    raise CaptureError(str(error).splitlines()[0]) from None
                warm = time.perf_counter()
                self._graphs[shape] = self._captured(shape)
                self.capture_s += time.perf_counter() - (warm if self._compiled else began)
                self.compile_s += warm - began if self._compiled else 0.0

    def __call__(self, shape: Shape) -> None:
        self._graphs[shape].replay()
        self._step.on_host()

    def _captured(self, shape: Shape) -> torch.cuda.CUDAGraph:
        failed: CaptureError | None = None
        try:
            graph = self._capture(shape)
        except CaptureError as error:
            failed = error
        if self._world.agree(failed is not None):
            raise failed or CaptureError("on another GPU of the run")
        return graph

    def _capture(self, shape: Shape) -> torch.cuda.CUDAGraph:
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        untouched = generator.clone_state()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        if self._generators is not None:
            self._generators.register(graph)
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                self._step.on_device(*shape)
        except RuntimeError as error:
            generator.graphsafe_set_state(untouched)  # a broken capture leaves the generator unusable
            self._step.drop_gradients()
            torch.cuda.set_stream(stream)  # a capture that fails to end leaves its own
            lines = str(error.__context__ or error).strip().splitlines()  # leaving the capture raises a second one
            raise CaptureError(" ".join(lines[: 2 if lines[0].endswith("raised:") else 1])) from None
        return graph


class CaptureError(Exception):
    """A step that cannot be a CUDA graph; the message says why."""


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bf16 or fp16 autocast, or nothing for fp32. Its cache is off: it would hold tensors of one graph for another."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision], cache_enabled=False)


def _longest_first(shapes: set[Shape]) -> list[Shape]:
    return sorted(shapes, key=lambda shape: (-math.prod(shape), shape))


@contextlib.contextmanager
def _kept(generators: BlockGenerators | None) -> Iterator[None]:
    """Put the blocks' generators back at the end; anew after a broken capture, which leaves them unusable."""
    before = generators.state() if generators is not None else []
    try:
        yield
    except CaptureError:
        if generators is not None:
            generators.renew(before)
        raise
    if generators is not None:
        generators.load(before)


def _warm_up(step: Step, shape: Shape) -> None:
    """Passes that leave weights, optimizer and random state as they were."""
    device = next(iter(step.parameters.values())).device
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        for _ in range(WARM_UP):
            step.try_out(shape)
    if cuda:
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Probe:
    """What one worst-case step takes."""

    step_s: list[float]  # empty on a CPU
    activations_MiB: float  # saved for the backward pass, by tensor sizes
    gradients_measured_MiB: float | None  # by allocator differences; None on a CPU
    optimizer_measured_MiB: float | None  # None too of state that the allocator does not see
    activations_measured_MiB: float | None


def probe(subject: Subject, device: torch.device, mask: Mask) -> Probe:
    """Memory and latency of a step on the batch that takes most: the longest texts, the same for every arm.

    Some steps with a learning rate of 0 and an optimizer and loss scale of its own. Always eager, so that what a CUDA
    graph keeps allocated does not count as the method's. Leaves weights as they were, but for a gradient that is not
    finite, which would end training too (in fp16 its step is skipped).
    """
    split, settings = subject.data.scaled["train"], subject.settings
    rows = longest_rows(split.lengths, settings.batch_size)
    worst = ResidentSplit(split.take(rows), subject.data.pad_token_id, device)
    shape = Sizes.of(split).largest(rows)
    updates = Updates(subject.parameters, settings, device, subject.apart)
    count = WARM_STEPS + TIMED_STEPS if device.type == "cuda" else CPU_STEPS
    step = TrainingStep(subject, worst, mask, updates, [0.0] * count)
    step.begin([torch.arange(len(rows)).numpy()] * count, 0, 0)

    own = max(1, len(subject.world.rows(torch.arange(shape[0]))))
    part = torch.arange(math.ceil(own / settings.gradient_accumulation_steps), device=device)
    saved = _SavedTensors(subject.model, subject.shards)
    with torch.autograd.graph.saved_tensors_hooks(saved.count, lambda tensor: tensor):
        loss, _ = step.forward(part, *shape[1:])
    del loss
    gc.collect()
    step.rest()

    cuda = device.type == "cuda"
    measured = _allocator_split(step, updates, part, shape) if cuda else (None, None, None)
    timer = StepTimer(device, [])
    for taken in range(1, count + 1):
        timer.start()
        step(*shape)
        timer.stop()
        if taken == WARM_STEPS + FEW_STEPS and subject.world.agree(sum(timer.seconds()[WARM_STEPS:]) > SLOW_S):
            break
    step.drop_gradients()
    return Probe(timer.seconds() if cuda else [], saved.bytes / MIB, *measured)


def _allocator_split(
    step: TrainingStep, updates: Updates, part: torch.Tensor, shape: Shape
) -> tuple[float, float | None, float]:
    """MiB that gradients, optimizer state and activations of one part add to what is asked of the allocator.

    None of state that the allocator does not see.
    """
    step.backward(*shape)  # libraries take their workspaces
    step.drop_gradients()
    start = requested_bytes()
    loss, _ = step.forward(part, *shape[1:])
    forward = requested_bytes()
    del loss
    step.rest()
    step.backward(*shape)
    backward = requested_bytes()
    step.drop_gradients()
    updates.allocate_state()
    state = None if updates.paged else (requested_bytes() - start) / MIB
    return (backward - start) / MIB, state, (forward - start) / MIB


class _SavedTensors:
    """Counts the bytes of tensors saved for the backward pass, each storage once, weights left out."""

    def __init__(self, model: nn.Module, shards: Shards | None) -> None:
        held = (*(model.parameters() if shards is None else ()), *model.buffers())
        self._seen = {part.untyped_storage().data_ptr() for tensor in held for part in dense_parts(tensor)}
        self.bytes, self._shards = 0, shards

    def count(self, tensor: torch.Tensor) -> torch.Tensor:
        for part in dense_parts(tensor):
            storage = part.untyped_storage()
            whole = self._shards is not None and self._shards.is_weight(storage)
            if storage.data_ptr() not in self._seen and not whole:
                self._seen.add(storage.data_ptr())
                self.bytes += storage.nbytes()
        return tensor.detach()

"""Runs training steps: as they are, or each padded length as one CUDA graph."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator

import torch

from peft_tradeoffs.training.step import BlockGenerators, TrainingStep

WARM_UP = 2  # passes before a capture: libraries allocate, kernels are compiled and chosen

Shape = tuple[int, int]  # texts, padded length


class EagerSteps:
    """Launches every kernel from Python."""

    name = "eager"
    capture_s = 0.0

    def __init__(self, step: TrainingStep, compiled: bool, generators: BlockGenerators | None) -> None:
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
    """Replays one CUDA graph a shape, all in one memory pool; the same kernels in the same order as eager steps."""

    name = "captured"

    def __init__(self, step: TrainingStep, compiled: bool, generators: BlockGenerators | None) -> None:
        self._step, self._compiled, self._generators = step, compiled, generators
        self._graphs: dict[Shape, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()
        self.capture_s = self.compile_s = 0.0

    def prepare(self, shapes: Iterable[Shape], stop: Callable[[], object] = lambda: None) -> None:
        """Capture shapes not seen yet, longest first so that the pool serves them all; none after `stop` gives a value.

        Raises CaptureError, with the state of the device as it was, if a step cannot be captured, or not in the memory
        that there is: graphs take more than the steps themselves.
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
                    raise CaptureError(str(error).splitlines()[0]) from None
                warm = time.perf_counter()
                self._graphs[shape] = self._capture(shape)
                self.capture_s += time.perf_counter() - (warm if self._compiled else began)
                self.compile_s += warm - began if self._compiled else 0.0

    def __call__(self, shape: Shape) -> None:
        self._graphs[shape].replay()

    def _capture(self, shape: Shape) -> torch.cuda.CUDAGraph:
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        untouched = generator.clone_state()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        if self._generators is not None:
            self._generators.register(graph)
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                self._step(*shape)
        except RuntimeError as error:
            generator.graphsafe_set_state(untouched)  # a broken capture leaves the generator unusable
            self._step.drop_gradients()
            torch.cuda.set_stream(stream)  # a capture that fails to end leaves its own
            reason = str(error.__context__ or error).strip().splitlines()[0]  # leaving the capture raises a second one
            raise CaptureError(reason) from None
        return graph


class CaptureError(Exception):
    """A step that cannot be a CUDA graph; the message says why."""


def _longest_first(shapes: set[Shape]) -> list[Shape]:
    return sorted(shapes, key=lambda shape: (-shape[0] * shape[1], shape))


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


def _warm_up(step: TrainingStep, shape: Shape) -> None:
    """Forward and backward passes that leave weights, optimizer and random state as they were."""
    device = next(iter(step.parameters.values())).device
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        for _ in range(WARM_UP):
            step.backward(*shape)
            step.drop_gradients()
    if cuda:
        torch.cuda.synchronize()

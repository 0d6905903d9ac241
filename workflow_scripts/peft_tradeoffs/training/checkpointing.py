"""Gradient checkpointing whose recomputed dropout a CUDA graph can replay.

torch.utils.checkpoint copies the generator's state to the CPU and back, which a capture forbids. Here each block
has two generators in step with each other: one for its forward pass, one for the pass that recomputes it.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

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

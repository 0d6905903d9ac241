"""Several processes that train one run, each on a GPU of its own: whose rows are whose, what they sum and agree on.

The global batch, its order and the weight of each row in it are those of one process: a rank computes its rows of the
batch, its loss counts by their share in it, and gradients and losses are summed. Nothing is divided by the number of
ranks.
"""

import contextlib
import datetime
import json
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.measure.devices import refused_bytes
from peft_tradeoffs.runs.interruption import Rank

BUCKET_BYTES = 25 * 2**20  # of gradients that are summed at once: few calls, and little memory beside the gradients
FOREVER = datetime.timedelta(days=365)  # the next run may wait for a GPU, or for the scores of the one before
WORD_S = 20.0  # that a rank whose run has ended has to say what it measured


class RanksApart(InputError):
    """The ranks of a run do not do the same any more: one is gone, or did not come in time."""


class World:
    """The processes that train a run, seen from one of them. Of one process alone nothing here changes any bit."""

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        store: dist.Store | None = None,
        host: dist.ProcessGroup | None = None,
        device: dist.ProcessGroup | None = None,
    ) -> None:
        """`host`: the group of what ranks agree on, on the CPU; `device`: that of what they compute."""
        self.rank, self.size, self._store, self._host, self._device = rank, size, store, host, device
        self.broken = False  # the ranks have parted: they must be started anew for a further run
        self._met = 0  # how often this rank came together with the others
        self._runs = 0

    @property
    def leads(self) -> bool:
        """Whether this is the rank that writes, prints and holds the run's lock."""
        return self.rank == 0

    def rows(self, indices: torch.Tensor) -> torch.Tensor:
        """Of the rows of a global batch those that this rank computes; they may be none."""
        return indices if self.size == 1 else torch.tensor_split(indices, self.size)[self.rank]

    def most_rows(self, rows: int) -> int:
        """How many of so many rows of a batch some rank computes at most."""
        return -(-rows // self.size)

    def dealt(self, batches: Iterable[Any], idle: bool = True) -> Iterator[tuple[Any, bool]]:
        """This rank's batches, one per turn of all ranks, and whether it counts.

        In a turn that has none left for it None, or where no rank may be `idle` the turn's first one, for nothing.
        """
        found = list(batches)
        for start in range(0, len(found), self.size):
            own = start + self.rank < len(found)
            yield (found[start + self.rank] if own else None if idle else found[start]), own

    def seed(self, seed: int) -> int:
        """Where a rank's own stream of random numbers starts: by the run's seed and the rank."""
        if self.size == 1:
            return seed
        return int(np.random.SeedSequence([seed, self.rank]).generate_state(1, np.uint32)[0])

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor, which is changed in place, summed over the ranks."""
        if self.size > 1:
            with self._together():
                dist.all_reduce(tensor, group=self._device)
        return tensor

    def send(self, tensor: torch.Tensor) -> None:
        """Make the tensor of all ranks what rank 0 has."""
        if self.size > 1:
            with self._together():
                dist.broadcast(tensor, 0, group=self._device)

    def assemble(self, whole: torch.Tensor, part: torch.Tensor) -> None:
        """Make `whole` [ranks, n] what each rank has as its `part` [n], bit for bit; within `computing`."""
        dist.all_gather_into_tensor(whole.view(-1), part, group=self._device)

    def most(self, number: int) -> int:
        """The largest of the ranks' numbers. Like `agree` it waits for all ranks, not for their GPUs."""
        if self.size == 1:
            return number
        found = torch.tensor([number])
        with self._together():
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self._host)
        return int(found)

    def agree(self, wish: bool) -> bool:
        """Whether any rank wishes it."""
        return bool(self.most(int(wish)))

    def largest(self, numbers: list[float]) -> list[float]:
        """The largest of the ranks' numbers, place by place; each has as many."""
        if self.size == 1:
            return numbers
        found = torch.tensor(numbers, dtype=torch.float64)
        with self._together():
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self._host)
        return found.tolist()

    def share(self, value: Any) -> Any:
        """What rank 0 has, on every rank."""
        if self.size == 1:
            return value
        found = [value]
        with self._together():
            dist.broadcast_object_list(found, 0, group=self._host)
        return found[0]

    def gather(self, value: Any) -> list[Any]:
        """What each rank has, by rank, on every rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        with self._together():
            dist.all_gather_object(found, value, group=self._host)
        return found

    def mesh(self, device: torch.device) -> Any:
        """The ranks as torch's DeviceMesh, by which models are sharded."""
        from torch.distributed.device_mesh import DeviceMesh

        assert self._device is not None
        return DeviceMesh.from_group(self._device, device.type)

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """Within it ranks that hold parts of a model meet as they compute; raises RanksApart if one does not come."""
        return self._together(_of_a_collective)

    @contextlib.contextmanager
    def _together(self, apart: Callable[[RuntimeError], bool] = lambda error: True) -> Iterator[None]:
        """Within it all ranks meet; raises RanksApart, which says who did not come, if they do not.

        `apart`: whether that is what an error says.
        """
        assert self._store is not None
        self._met += 1
        self._store.set(f"met/{self.rank}", str(self._met))
        try:
            yield
        except RuntimeError as error:
            if not apart(error) or refused_bytes(error)[0] or _is_capturing():
                raise
            raise RanksApart(f"rank {self.rank} lost the others{self._behind()}: {first_line(error)}") from None

    def _behind(self) -> str:
        """Which ranks came together with the others less often than this one; "" where that is not known."""
        assert self._store is not None
        try:
            met = {rank: int(self._store.get(f"met/{rank}")) for rank in range(self.size)}
        except RuntimeError:
            return ""
        behind = [str(rank) for rank, count in met.items() if count < self._met]
        return f" (rank {', '.join(behind)} did not come)" if behind else ""

    # What rank 0 tells the others, and what they tell it, beside what they compute together

    def begin(self, task: Any) -> None:
        """Have the other ranks take part in a run."""
        self._runs += 1
        if self._store is not None:
            tell(self._store, self._runs, task)

    def tasks(self) -> Iterator[Any]:
        """What rank 0 has the other ranks take part in, until it is done."""
        assert self._store is not None
        while (task := told(self._store, self._runs + 1)) is not None:
            self._runs += 1
            yield task

    def part(self) -> None:
        """Have the other ranks, which may wait for this one, see that it computes nothing more with them."""
        if self.size > 1:
            self.broken, self._host, self._device = True, None, None
            leave(self)

    def dismiss(self) -> None:
        """Let the other ranks go: there is no further run."""
        self.begin(None)

    def report(self, facts: dict[str, Any]) -> None:
        """Leave word of what this rank measured in the run."""
        if self._store is not None:
            self._store.set(f"facts/{self._runs}/{self.rank}", json.dumps(facts))

    def reports(self) -> list[dict[str, Any] | None]:
        """What the other ranks measured in the run, by rank from 1; None of one that has left no word."""
        if self._store is None:
            return []
        keys = [f"facts/{self._runs}/{rank}" for rank in range(1, self.size)]
        with contextlib.suppress(RuntimeError):
            self._store.wait(keys, datetime.timedelta(seconds=WORD_S))
        return [json.loads(self._store.get(key)) if self._store.check([key]) else None for key in keys]

    def say_full(self, phase: str | None, refused: int | None) -> None:
        """Leave word that this rank ran out of memory, in which phase and for how many bytes."""
        if self._store is not None:
            self._store.set(f"full/{self._runs}", json.dumps({"rank": self.rank, "phase": phase, "bytes": refused}))

    def full(self) -> dict[str, Any] | None:
        """What a rank of the run left word of as it ran out of memory, if one did."""
        key = f"full/{self._runs}"
        if self._store is None or not self._store.check([key]):
            return None
        found: dict[str, Any] = json.loads(self._store.get(key))
        return found


ALONE = World()


def _of_a_collective(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)


class Gradients:
    """Sums the gradients of a batch over the ranks, in flat buckets, in float32 or what is wider."""

    def __init__(self, world: World, parameters: Iterable[nn.Parameter]) -> None:
        self._world, self._parameters = world, list(parameters)
        self._buckets: list[list[nn.Parameter]] | None = None  # until the first backward pass has shown who is in one

    def sum(self) -> None:
        """Make each gradient the sum of all ranks'. The first time, which no capture may be, ranks agree on buckets."""
        if self._world.size == 1:
            return
        if self._buckets is None:
            self._buckets = self._laid_out()
        held = {id(parameter) for bucket in self._buckets for parameter in bucket}
        if any(p.grad is not None and id(p) not in held for p in self._parameters):
            raise RuntimeError("a weight has a gradient that had none in the first step, and would not be summed")
        for bucket in self._buckets:
            self._sum(bucket)

    def _sum(self, bucket: list[nn.Parameter]) -> None:
        for parameter in bucket:
            if parameter.grad is None:  # on this rank: of an expert, say, that its rows did not ask for
                parameter.grad = torch.zeros_like(parameter)
        grads = [parameter.grad for parameter in bucket if parameter.grad is not None]
        if len(grads) == 1 and grads[0].dtype == _summed_in(grads[0].dtype) and grads[0].is_contiguous():
            self._world.sum(grads[0])
            return
        flat = self._world.sum(torch.cat([grad.reshape(-1).to(_summed_in(grad.dtype)) for grad in grads]))
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    def _laid_out(self) -> list[list[nn.Parameter]]:
        """Weights that have a gradient on any rank, the last ones first, as a backward pass makes them."""
        buckets: list[list[nn.Parameter]] = []
        size, kind = BUCKET_BYTES, None
        for parameter in reversed(self._parameters):
            if not self._world.agree(parameter.grad is not None):
                continue
            wide = _summed_in(parameter.dtype)
            bytes_ = parameter.numel() * wide.itemsize
            if size + bytes_ > BUCKET_BYTES or wide != kind:
                buckets.append([])
                size, kind = 0, wide
            buckets[-1].append(parameter)
            size += bytes_
        return buckets


def _summed_in(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


REDUCTION = "float32"  # what gradients of float32 and narrower ones are summed in


def _is_capturing() -> bool:
    """Whether a graph is captured now, which what cannot be captured ends: no rank is apart for it."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def first_line(error: BaseException) -> str:
    """Of its message."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


# The processes come together ------------------------------------------------------------------------------------------


def connect(rank: Rank) -> dist.Store:
    """The store through which the ranks of a job find each other, on this machine alone; rank 0 holds it."""
    leads = rank.listener is not None
    named = {"master_listen_fd": rank.listener} if leads else {}
    return dist.TCPStore("127.0.0.1", rank.port, None, leads, FOREVER, wait_for_workers=False, **named)


def tell(store: dist.Store, name: int | str, value: Any) -> None:
    """Say something to all ranks that ask for it by this name, or the number of a run."""
    store.set(f"told/{name}", pickle.dumps(value))


def told(store: dist.Store, name: int | str) -> Any:
    """What rank 0 tells by this name or number; waits for it as long as it takes."""
    return pickle.loads(store.get(f"told/{name}"))  # of this job's own process


def join(rank: Rank, store: dist.Store, device: torch.device, timeout_s: float) -> World:
    """Come together with the other ranks; what one of them does not do within `timeout_s` fails."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    wait = datetime.timedelta(seconds=timeout_s)
    own = dist.PrefixStore("groups", store)
    try:
        dist.init_process_group("gloo", store=own, rank=rank.number, world_size=rank.count, timeout=wait)
        host = dist.group.WORLD
        kinds = {"device_id": device} if device.type == "cuda" else {}
        group = dist.new_group(backend="nccl" if device.type == "cuda" else "gloo", timeout=wait, **kinds)
    except RuntimeError as error:
        raise RanksApart(f"rank {rank.number} did not find the others: {first_line(error)}") from None
    return World(rank.number, rank.count, store, host, group)


def leave(world: World) -> None:
    """Take the groups down: in order where all ranks do, at once where they have parted."""
    if world.size > 1 and dist.is_initialized():
        with contextlib.suppress(RuntimeError):
            if world.broken and dist.is_nccl_available():
                dist.distributed_c10d._abort_process_group()  # noqa: SLF001  # another rank may never come
            else:
                dist.destroy_process_group()


def merged(totals: Sequence[dict[str, Any]], size: int, rank: int) -> list[dict[str, Any]]:
    """What earlier attempts at a run measured, by rank, of which a rank of now `size` takes over its part.

    Of a rank that is no more another one takes it over, without the seconds, which would count twice.
    """
    own = [found if place == rank else {**found, "seconds": {}} for place, found in enumerate(totals)]
    return own[rank::size]

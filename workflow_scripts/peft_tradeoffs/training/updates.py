"""From gradients to the next weights: learning rates by step, loss scaling of fp16, optimizers and their state."""

import math
import weakref
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import nn

from peft_tradeoffs.training.parallel import ALONE, World

INIT_SCALE, GROWTH, BACKOFF, GROWS_AFTER = 2.0**16, 2.0, 0.5, 2000  # as torch.amp.GradScaler has them
SMALLEST_8BIT, BLOCK = 4096, 256  # elements: bitsandbytes keeps smaller tensors in float32, and a scale per block
MAPS_BYTES = 2 * 256 * 4  # of its two code books, which all tensors share
ADAMW, PAGED = "adamw", "paged_adamw_8bit"


class UpdateSettings(Protocol):
    """What of a run's settings decides its updates."""

    @property
    def optimizer(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def adam_beta1(self) -> float: ...
    @property
    def adam_beta2(self) -> float: ...
    @property
    def adam_epsilon(self) -> float: ...
    @property
    def max_grad_norm(self) -> float: ...


# Learning rates -------------------------------------------------------------------------------------------------------


def schedule_factor(kind: str, step: int, warmup: int, total: int) -> float:
    """Factor of the learning rate in step `step` (from 0): linear to 1 over `warmup` steps, then as `kind` says.

    `kind` is a name of Transformers' SchedulerType, and the factor that of its get_{kind}_schedule_with_warmup at the
    same step; in the warm-up that of the next one, so that the first step learns something. linear falls to 0 after the
    last step, cosine does by half a wave, constant_with_warmup stays 1.
    """
    if step < warmup:
        return (step + 1) / warmup
    if kind == "linear":
        return (total - step) / max(1, total - warmup)
    if kind == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((step - warmup) / max(1, total - warmup)))))
    if kind == "constant_with_warmup":
        return 1.0
    raise ValueError(f"no schedule {kind!r}")


# Optimizers -----------------------------------------------------------------------------------------------------------


def optimizer_bytes(parameters: Iterable[torch.Tensor], optimizer: str) -> int:
    """Bytes of the state of trained `parameters` between two steps, from tensor sizes.

    adamw: two moments in the parameter's dtype and a step count of 4 bytes. 8-bit: two moments of a byte per element
    and two scales of 4 bytes per 256 elements, of tensors below 4,096 elements two moments in float32; and the code
    books, once.
    """
    trained = list(parameters)
    if optimizer == ADAMW:
        return sum(2 * p.numel() * p.element_size() + 4 for p in trained)
    small = [p.numel() for p in trained if p.numel() < SMALLEST_8BIT]
    large = [p.numel() for p in trained if p.numel() >= SMALLEST_8BIT]
    blocks = sum(math.ceil(size / BLOCK) for size in large)
    return 2 * 4 * sum(small) + 2 * sum(large) + 2 * 4 * blocks + (MAPS_BYTES if large else 0)


def _optimizer(parameters: list[nn.Parameter], settings: UpdateSettings, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer by its name; biases and norms (one dimension) are not decayed."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    betas, epsilon = (settings.adam_beta1, settings.adam_beta2), settings.adam_epsilon
    if settings.optimizer == ADAMW:
        return torch.optim.AdamW(
            groups,
            lr=torch.zeros((), device=device),
            betas=betas,
            eps=epsilon,
            fused=True,
            capturable=device.type == "cuda",
        )
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    kind: Any = {"adamw_8bit": AdamW8bit, PAGED: PagedAdamW8bit}[settings.optimizer]
    found: torch.optim.Optimizer = kind(groups, lr=0.0, betas=betas, eps=epsilon)
    if settings.optimizer == PAGED:
        _reuse_pages(found)
    return found


_pages: list[tuple[weakref.ref[Any], torch.Tensor]] = []  # by the optimizer that has them


def _reuse_pages(optimizer: Any) -> None:
    """Have it take the pages of optimizers that are gone: bitsandbytes frees none before the process ends."""
    own, kind = weakref.ref(optimizer), type(optimizer)

    def buffer(parameter: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        for index, (owner, held) in enumerate(_pages):
            if owner() is None and (held.shape, held.dtype) == (parameter.shape, dtype):
                _pages[index] = own, held
                return held
        made: torch.Tensor = kind.get_state_buffer(own(), parameter, dtype)
        if getattr(made, "is_paged", False):
            _pages.append((own, made))
        return made

    optimizer.get_state_buffer = buffer


class LossScale:
    """The loss scaling of fp16: what torch.amp.GradScaler does, with all it knows in tensors that stay where they are.

    GradScaler keeps on the host, and in tensors made anew, what a replayed CUDA graph would not see.
    """

    def __init__(self, device: torch.device) -> None:
        self._scale = torch.full((), INIT_SCALE, device=device)
        self._since = torch.zeros((), dtype=torch.int32, device=device)  # steps since it last grew or shrank
        self.overflowed = torch.zeros((), device=device)  # 1 where a gradient of the step is not finite

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss whose gradients float16 can hold."""
        return loss * self._scale

    def unscale(self, gradients: list[torch.Tensor]) -> None:
        """Divide the gradients by the scale, and see whether they are finite."""
        self.overflowed.zero_()
        inverse = self._scale.double().reciprocal().float()
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, self.overflowed, inverse)  # GradScaler's

    def update(self) -> None:
        """Halve the scale after an overflow, double it after 2,000 steps without one."""
        torch._amp_update_scale_(self._scale, self._since, self.overflowed, GROWTH, BACKOFF, GROWS_AFTER)

    def state(self) -> dict[str, torch.Tensor]:
        """What a resume needs."""
        return {"scale": self._scale, "since": self._since}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Put a `state` back."""
        self._scale.copy_(state["scale"])
        self._since.copy_(state["since"])


class Updates:
    """Unscales and clips the gradients of a batch and changes the weights by them.

    AdamW finds all it needs on the device, so that a CUDA graph can hold its update; in fp16 it skips by itself a step
    whose gradients overflowed. bitsandbytes' optimizers take step count and learning rate from the host, which a graph
    would freeze: their update comes after it (`on_host`), from gradients that stay in place for every graph.
    """

    def __init__(
        self,
        parameters: dict[str, nn.Parameter],
        settings: UpdateSettings,
        device: torch.device,
        apart: World = ALONE,
    ) -> None:
        """`apart`: the ranks of which each has a part of every parameter."""
        self._parameters, self._apart = list(parameters.values()), apart
        self._max_grad_norm = settings.max_grad_norm
        self._in_graph = settings.optimizer == ADAMW
        self.paged = settings.optimizer == PAGED  # in managed memory, which torch's allocator does not see
        self.optimizer = _optimizer(self._parameters, settings, device)
        self._scale = LossScale(device) if settings.precision == "fp16" else None
        if self._scale and self._in_graph:
            self.optimizer.found_inf = self._scale.overflowed  # type: ignore[attr-defined] # as GradScaler tells it

    def allocate_state(self) -> None:
        """Make the moments now rather than in the first step, where a CUDA graph would reset them at every replay.

        A step with gradients and a learning rate of 0 changes no weight; its count is taken back.
        """
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        self.drop()
        for parameter in self._parameters:
            state = self.optimizer.state[parameter]
            if self._in_graph:
                state["step"].zero_()
                continue
            state["step"] = 0
            for name in ("state1", "state2", "absmax1", "absmax2"):
                if name in state:
                    state[name].zero_()

    def follow(self, rate: torch.Tensor) -> None:
        """Have updates on the device take their learning rate from `rate`."""
        for group in self.optimizer.param_groups if self._in_graph else ():
            group["lr"] = rate

    def begin(self) -> None:
        """Before the backward passes of a batch: gradients that stay in place become 0."""
        for parameter in self._parameters if not self._in_graph else ():
            if parameter.grad is not None:
                parameter.grad.zero_()

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of a loss, in fp16 of the scaled loss, to those that there are."""
        (self._scale.scaled(loss) if self._scale else loss).backward()

    def on_device(self) -> None:
        """What a CUDA graph can hold after the backward passes: unscale, clip, and AdamW's update."""
        if self._scale:
            self._scale.unscale([p.grad for p in self._parameters if p.grad is not None])
            if self._apart.size > 1:
                self._apart.sum(self._scale.overflowed).clamp_(max=1)
        self._clip()
        if self._in_graph:
            self.optimizer.step()
            if self._scale:
                self._scale.update()
            self.drop()

    def _clip(self) -> None:
        if self._apart.size == 1:
            nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
            return
        norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        norm = self._apart.sum(norm.square()).sqrt()
        nn.utils.clip_grads_with_norm_(self._parameters, self._max_grad_norm, norm)

    def on_host(self, rate: float) -> None:
        """The rest of the update, of an optimizer that reads its step count and this learning rate on the host."""
        if self._in_graph:
            return
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self._scale is None or not self._scale.overflowed.item():
            self.optimizer.step()
        if self._scale:
            self._scale.update()

    def end(self) -> None:
        """After passes that change no weight: free gradients that do not stay in place."""
        if self._in_graph:
            self.drop()

    def drop(self) -> None:
        """Free the gradients; the next backward pass makes new ones instead of adding to them."""
        for parameter in self._parameters:
            parameter.grad = None

    def taken(self) -> int:
        """Steps that changed weights since training began: all but those that overflowed. Waits for the device."""
        return max((int(state["step"]) for state in self.optimizer.state.values() if "step" in state), default=0)

    def tensors(self) -> list[torch.Tensor]:
        """The optimizer's state on the device."""
        values = (value for state in self.optimizer.state.values() for value in state.values())
        return [value for value in values if isinstance(value, torch.Tensor) and not getattr(value, "is_paged", False)]

    def state(self) -> dict[str, Any]:
        """What a resume needs, as plain values and tensors: the optimizer's state by parameter, the loss's scale."""
        states = [dict(self.optimizer.state[parameter]) for parameter in self.ordered()]
        return {"optimizer": dict(enumerate(states)), "scale": self._scale.state() if self._scale else None}

    def load(self, saved: dict[str, Any]) -> None:
        """Put a `state` back into that which `allocate_state` made."""
        ordered = self.ordered()
        for index, values in saved["optimizer"].items():
            state = self.optimizer.state[ordered[index]]
            for name, value in values.items():
                if isinstance(value, torch.Tensor):
                    state[name].copy_(value)
                else:
                    state[name] = value
        if self._scale:
            self._scale.load(saved["scale"])

    def ordered(self) -> list[nn.Parameter]:
        """The parameters by the numbers that `state` has them under."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

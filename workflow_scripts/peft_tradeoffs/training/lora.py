"""Plain LoRA layers in fewer kernels: PEFT's products in mixed precision, the adapter's added in place.

PEFT scales what an adapter makes and adds it by kernels of their own, forwards and backwards, and casts the input once
for each product. Of the step of a small model that is an eighth. In float32, and for all that is not plain (DoRA, a
bias of the adapter, a layer that is trained itself), PEFT's own layers compute.
"""

from collections.abc import Callable
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import bnb, layer
from torch import nn


def join_products(model: nn.Module) -> None:
    """Have the LoRA layers of `model` over linear and NF4 or FP4 ones join their products where they can.

    Names, weights, how they are saved, merged and switched off are PEFT's; hooks on A and B alone are not called.
    """
    for module in model.modules():
        if type(module) in JOINED:
            module.__class__ = JOINED[type(module)]


class Linear(layer.Linear):  # type: ignore[misc]  # PEFT has no types
    """LoRA over a linear layer."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As PEFT's."""
        return _joined(self, super().forward, x, *args, **kwargs)


class LinearOf4Bits(bnb.Linear4bit):  # type: ignore[misc]
    """LoRA over a layer that bitsandbytes holds in 4 bits."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As PEFT's."""
        return _joined(self, super().forward, x, *args, **kwargs)


JOINED: dict[type, type] = {layer.Linear: Linear, bnb.Linear4bit: LinearOf4Bits}


def _joined(lora: Any, own: Callable[..., torch.Tensor], x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """What the layer's `own` forward pass gives, in fewer kernels where it is plain."""
    kind = x.device.type
    # torch.compile joins by itself, and does not trace what is here
    if torch.compiler.is_compiling() or not torch.is_autocast_enabled(kind) or args or kwargs or not _plain(lora):
        return own(x, *args, **kwargs)
    (name,) = lora.active_adapters
    x = x.to(torch.get_autocast_dtype(kind))
    dropout = lora.lora_dropout[name]
    dropped = None if isinstance(dropout, nn.Identity) or not dropout.training else dropout(x)
    weights = lora.lora_A[name].weight, lora.lora_B[name].weight
    apply: Callable[..., torch.Tensor] = _Product.apply
    return apply(x, dropped, *weights, (lora.base_layer, float(lora.scaling[name])))


def _plain(lora: Any) -> bool:
    """Whether a LoRA layer is x W^T + b + scaling * x A^T B^T, W and b frozen, by one adapter."""
    base, names = lora.base_layer, lora.active_adapters
    if lora.disable_adapters or lora.merged or len(names) != 1 or names[0] not in lora.lora_A:
        return False
    adapter = lora.lora_A[names[0]], lora.lora_B[names[0]]
    if names[0] in lora.lora_variant or any(type(one) is not nn.Linear or one.bias is not None for one in adapter):
        return False
    if any(parameter.requires_grad for parameter in base.parameters(recurse=False)):
        return False
    if type(base) is not Linear4bit:
        return type(base) is nn.Linear
    return bool(base.compute_dtype == torch.get_autocast_dtype(base.weight.device.type))


class _Product(torch.autograd.Function):
    """x W^T + b + scaling * dropped A^T B^T, in the precision of `x`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        dropped: torch.Tensor | None,
        first: torch.Tensor,
        second: torch.Tensor,
        how: tuple[nn.Module, float],
    ) -> torch.Tensor:
        """`x` [..., in]; `dropped`, what A gets instead where there is dropout; A [r, in], B [out, r]."""
        base, scaling = how
        inner = (x if dropped is None else dropped).reshape(-1, x.shape[-1])
        a, b = first.to(x.dtype), second.to(x.dtype)
        low = inner @ a.T
        found: torch.Tensor = base(x)
        found.view(-1, found.shape[-1]).addmm_(low, b.T, alpha=scaling)
        ctx.save_for_backward(inner, low, a, b)
        ctx.base, ctx.scaling, ctx.dtypes = base, scaling, (first.dtype, second.dtype)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        inner, low, a, b = ctx.saved_tensors
        shape = gradients[0].shape
        gradient = gradients[0].reshape(-1, shape[-1])
        of_low = torch.addmm(low, gradient, b, beta=0, alpha=ctx.scaling)
        of_first = (of_low.T @ inner).to(ctx.dtypes[0])
        of_second = torch.addmm(b, gradient.T, low, beta=0, alpha=ctx.scaling).to(ctx.dtypes[1])
        of_x, of_dropped = None, None
        if ctx.needs_input_grad[0]:
            of_x = gradient @ _weight(ctx.base, gradient.dtype)
        if ctx.needs_input_grad[1]:
            of_dropped = (of_low @ a).view(*shape[:-1], a.shape[1])
        elif of_x is not None:
            of_x.addmm_(of_low, a)
        return None if of_x is None else of_x.view(*shape[:-1], a.shape[1]), of_dropped, of_first, of_second, None


def _weight(base: Any, dtype: torch.dtype) -> torch.Tensor:
    """[out, in] of a linear layer, in `dtype`."""
    weight: torch.Tensor = base.weight
    if type(base) is Linear4bit:
        weight = dequantize_4bit(weight.data, base.weight.quant_state)
    return weight.to(dtype)

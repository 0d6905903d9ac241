"""Attention masks that need no look at their content, which would make the GPU wait and forbid a CUDA graph."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from peft_tradeoffs.batches import ResidentSplit, padded_length

Mask = Callable[[torch.Tensor, int, torch.dtype], torch.Tensor | None]


def padding_mask(lengths: torch.Tensor, length: int, dtype: torch.dtype) -> torch.Tensor:
    """int64 [b, length], 1 where there is text: what every Transformers model takes."""
    return (torch.arange(length, device=lengths.device) < lengths[:, None]).long()


def additive_mask(lengths: torch.Tensor, length: int, dtype: torch.dtype) -> torch.Tensor:
    """dtype [b, 1, length, length], added to the attention scores: 0 where there is text, else -inf."""
    padding = torch.arange(length, device=lengths.device) >= lengths[:, None]
    mask = torch.zeros(padding.shape, dtype=dtype, device=lengths.device).masked_fill_(padding, -torch.inf)
    return mask[:, None, None, :].expand(-1, 1, length, -1)


def no_mask(lengths: torch.Tensor, length: int, dtype: torch.dtype) -> None:
    """None: under causal attention no text sees the padding on its right."""


def choose_kernels(mask: Mask) -> None:
    """Leave cuDNN's attention to causal models without a mask; for short texts with one its kernels are slower."""
    torch.backends.cuda.enable_cudnn_sdp(mask is no_mask)


@torch.no_grad()
def choose_mask(
    model: nn.Module, data: ResidentSplit, lengths: np.ndarray, dtype: torch.dtype, autocast: Callable[[], object]
) -> Mask:
    """The cheapest mask under which `model` says the same as under a padding mask.

    Tried on the longest text beside the shortest one; a model that takes no other form (or sees a window only)
    keeps the padding mask. `dtype` is that of attention, `autocast` makes the context of a forward pass.
    """
    rows = np.array([np.argmax(lengths), np.argmin(lengths)])
    length = padded_length(lengths[rows])
    inputs, sizes, _ = data.gather(torch.from_numpy(rows).to(data.lengths.device), length)
    training = model.training
    model.eval()
    try:
        with autocast():
            expected = model(**inputs, attention_mask=padding_mask(sizes, length, dtype)).logits.float()
        tolerance = (1e-3 if dtype == torch.float32 else 3e-2) * max(1.0, expected.abs().max().item())
        for mask in (no_mask, additive_mask) if _is_causal(model) else (additive_mask,):
            try:
                with autocast():
                    found = model(**inputs, attention_mask=mask(sizes, length, dtype)).logits.float()
            except (RuntimeError, ValueError, TypeError, IndexError):
                continue  # this architecture does not take it
            if torch.allclose(found, expected, rtol=0, atol=tolerance):
                return mask
        return padding_mask
    finally:
        model.train(training)


def _is_causal(model: nn.Module) -> bool:
    flags = [module.is_causal for module in model.modules() if isinstance(getattr(module, "is_causal", None), bool)]
    return bool(flags) and all(flags)

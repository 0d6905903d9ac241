"""Attention masks that need no look at their content, which would make the GPU wait and forbid a CUDA graph."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from peft_tradeoffs.core.errors import InputError

Mask = Callable[[torch.Tensor, int, torch.dtype], torch.Tensor | None]
Context = Callable[[], AbstractContextManager[Any]]  # makes that of a forward pass


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


MASKS = {mask.__name__: mask for mask in (no_mask, additive_mask, padding_mask)}
SHORT = 3  # real tokens of the text that would see most padding
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2}  # of hidden states' norm: rounding of other kernels
CHANGED = 0.1  # of logits' norm: far above the rounding of other kernels, also in bf16
WINDOWS = ("sliding_window", "local_attention", "attention_window")  # in a config: tokens that a token sees


@torch.no_grad()
def choose_mask(model: nn.Module, ids: torch.Tensor, pad_token_id: int, dtype: torch.dtype, autocast: Context) -> Mask:
    """The cheapest mask under which `model` computes the same as under a padding mask.

    Tried on `ids` int64 [length], as many as any text has, and on their first tokens beside them, by the hidden states
    of the real tokens. A model that takes neither these texts nor another form, that shows no hidden states a token, or
    whose config has a window of fewer tokens keeps the padding mask. `dtype` is that of attention, `autocast` makes the
    context of a forward pass. Raises torch.OutOfMemoryError.
    """
    length = len(ids)
    if any(window < length for window in _windows(model)):
        return padding_mask
    sizes = torch.tensor([length, min(SHORT, length)], device=ids.device)
    real = torch.arange(length, device=ids.device) < sizes[:, None]
    texts = torch.where(real, ids, pad_token_id)

    def hidden(mask: Mask) -> list[torch.Tensor] | None:
        """Hidden states [2, length, d] of every layer, on the CPU; None from a model that does not give them."""
        try:
            with autocast():
                output = model(
                    input_ids=texts, attention_mask=mask(sizes, length, dtype), output_hidden_states=True,
                    return_dict=True,
                )  # fmt: skip
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
            return None
        states = getattr(output, "hidden_states", None) or ()
        if not states or any(layer.shape[:2] != real.shape for layer in states):
            return None
        return [layer.cpu() for layer in states]

    training = model.training
    model.eval()
    try:
        expected = hidden(padding_mask)
        masks: tuple[Mask, ...] = (no_mask, additive_mask) if _is_causal(model) else (additive_mask,)
        for mask in masks if expected else ():
            found = hidden(mask)
            if (
                found
                and expected
                and all(_alike(*pair, real.cpu(), TOLERANCE[dtype]) for pair in zip(found, expected, strict=True))
            ):
                return mask
        return padding_mask
    finally:
        model.train(training)


@torch.no_grad()
def check_padding(
    model: nn.Module, texts: list[torch.Tensor], length: int, pad_token_id: int, autocast: Context
) -> None:
    """Raise InputError for a model whose logits of a text depend on the padding beside it.

    FNet mixes all tokens and knows no mask; XLNet takes the last token, which is padding. Tried on whole `texts`, int64
    [t] each, alone and padded to `length`, as `autocast` computes. A model that refuses one is let be: training says
    what is wrong. Raises torch.OutOfMemoryError.
    """

    def logits(text: torch.Tensor, size: int) -> torch.Tensor:
        ids = torch.nn.functional.pad(text, (0, size - len(text)), value=pad_token_id)[None]
        mask = padding_mask(torch.tensor([len(text)], device=text.device), size, torch.float32)
        with autocast():
            output: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits.float()
        return output

    training = model.training
    model.eval()
    try:
        alone = torch.cat([logits(text, len(text)) for text in texts])
        padded = torch.cat([logits(text, length) for text in texts])
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return
    finally:
        model.train(training)
    changed = ((padded - alone).norm() / alone.norm()).item()
    if changed > CHANGED:
        config: Any = model.config
        raise InputError(
            f"config key models: {config.model_type} reads the padding beside a text (its logits change by "
            f"{100 * changed:.0f} %), so its results would depend on which texts share a batch: choose a model that "
            "heeds the attention mask of texts padded on the right"
        )


def _alike(found: torch.Tensor, expected: torch.Tensor, real: torch.Tensor, tolerance: float) -> bool:
    """Whether the states [2, length, d] of each text's `real` tokens differ by less than a share of their norm."""
    found, expected = (states.float() * real[..., None] for states in (found, expected))
    difference, norm = (found - expected).flatten(1).norm(dim=1), expected.flatten(1).norm(dim=1)
    return bool((difference <= tolerance * norm).all())


def _windows(model: nn.Module) -> list[int]:
    """Sizes of the windows that the model's config names."""
    values = [getattr(model.config, name, None) for name in WINDOWS]
    return [size for value in values for size in (value if isinstance(value, list | tuple) else [value]) if size]


def _is_causal(model: nn.Module) -> bool:
    flags = [module.is_causal for module in model.modules() if isinstance(getattr(module, "is_causal", None), bool)]
    return bool(flags) and all(flags)

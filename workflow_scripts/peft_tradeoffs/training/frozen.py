"""The precision in which frozen linear layers are held, and quantised ones dequantised."""

from collections import Counter
from typing import Any

import torch
from torch import nn

from peft_tradeoffs.inputs.classifier import is_linear
from peft_tradeoffs.training.step import autocast


@torch.no_grad()
def hold_as_computed(model: nn.Module, precision: str, device: torch.device, ids: torch.Tensor) -> str | None:
    """Hold frozen linear layers in the precision that autocast would cast them to in every step, if it is the same.

    Same products, fewer bytes, no cast. A quantised layer is dequantised to that precision at once, where its backward
    pass would dequantise to float32 and cast. Left as they were where a bit of the hidden states or logits of the text
    `ids`, int64 [t], changes: under an adapter that reads the base's weights themselves, as DoRA does. Returns what
    most of them are held in then, as `frozen_dtype`.
    """
    _hold(model, precision, device, ids)
    return frozen_dtype(model)


def frozen_dtype(model: nn.Module) -> str | None:
    """What most frozen linear layers are held in: "float32", "bfloat16", "nf4", "fp4" …; None if none is frozen."""
    held = Counter(
        getattr(module.weight, "quant_type", None) or str(module.weight.dtype).removeprefix("torch.")
        for module in model.modules()
        if is_linear(module) and not module.weight.requires_grad
    )
    return held.most_common(1)[0][0] if held else None


def _hold(model: nn.Module, precision: str, device: torch.device, ids: torch.Tensor) -> None:
    held, packed = ([], []) if precision == "fp32" else (_frozen(model), _packed(model))
    if not held and not packed:
        return
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    start = [parameter.data for parameter in trained]
    originals = [parameter.data.cpu() for parameter in held]  # on a GPU both would need 1.5 times the weights
    random = torch.Generator(device).manual_seed(0)
    for parameter in trained:  # adapters start as no change at all, which would hide what they read
        noise = torch.randn(parameter.shape, generator=random, device=device, dtype=parameter.dtype)
        parameter.data = parameter.data + 0.05 * noise
    text = ids.to(device)[None]
    expected = _outputs(model, precision, device, text)
    for parameter in held:
        parameter.data = parameter.data.to(torch.bfloat16)
    for state in packed:
        state.dtype = torch.bfloat16
    found = _outputs(model, precision, device, text) if expected else None
    same = bool(found) and all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    for parameter, values in zip(trained, start, strict=True):
        parameter.data = values
    if not same:
        for parameter, values in zip(held, originals, strict=True):
            parameter.data = values.to(device)
        for state in packed:
            state.dtype = torch.float32


def _packed(model: nn.Module) -> list[Any]:
    """The quantisation states of weights that are, dequantised to bfloat16, those dequantised to float32 and cast.

    Of layers that compute in bfloat16 alone: the backward pass casts to the precision of the gradient, which is theirs.
    """
    weights = {
        id(module.weight): module.weight
        for module in model.modules()
        if is_linear(module) and getattr(module, "compute_dtype", None) == torch.bfloat16
    }
    return [weight.quant_state for weight in weights.values() if _dequantised_alike(weight)]


def _dequantised_alike(weight: nn.Parameter) -> bool:
    state = getattr(weight, "quant_state", None)
    if state is None or state.dtype != torch.float32:
        return False
    from bitsandbytes.functional import dequantize_4bit

    cast = dequantize_4bit(weight.data, state).to(torch.bfloat16)
    state.dtype = torch.bfloat16
    try:
        return torch.equal(dequantize_4bit(weight.data, state), cast)
    finally:
        state.dtype = torch.float32


def _frozen(model: nn.Module) -> list[nn.Parameter]:
    found = {}
    for module in model.modules():
        if is_linear(module):
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad and parameter.dtype == torch.float32:
                    found[id(parameter)] = parameter
    return list(found.values())


def _outputs(model: nn.Module, precision: str, device: torch.device, ids: torch.Tensor) -> list[torch.Tensor] | None:
    """Hidden states and logits of a text [1, t], without dropout, on the CPU; None where the model does not take it.

    An adapter that multiplies held weights with its own refuses too.
    """
    training = model.training
    model.eval()
    try:
        with autocast(precision, device):
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        return [states.cpu() for states in (*(getattr(output, "hidden_states", None) or ()), output.logits)]
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return None
    finally:
        model.train(training)

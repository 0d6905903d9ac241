"""A saved model that gives the data's own units, where targets were scaled for training."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from peft_tradeoffs.inputs.classifier import in_head
from peft_tradeoffs.tasks.task import Scale

CLOSE = 1e-3  # of a standard deviation: what rounding may change where the weights give the data's units


@contextlib.contextmanager
def in_own_units(
    model: nn.Module, head: list[str], scale: Scale, forward: Callable[[], torch.Tensor]
) -> Iterator[bool]:
    """Within it the model gives the data's units: its last linear layer, if it has a bias, is scaled and moved.

    Yields whether it does. It does not where that layer has no bias, as a decoder's, and where float32 cannot tell the
    targets apart as they are: a standard deviation of 1 about 1e9. Checked on what `forward` gives, the model's output
    of some text. The weights are as before afterwards.
    """
    layer = _last_layer(model, head)
    states = None if layer is None else _input_of(layer, forward)
    if states is None:
        yield False
        return
    kept = layer.weight.data, layer.bias.data
    try:
        expected = scale.own_units(_output(layer, states))
        layer.weight.data = (kept[0].double() * scale.sd).float()
        layer.bias.data = (kept[1].double() * scale.sd + scale.mean).float()
        fits = bool(np.abs(_output(layer, states) - expected).max() < CLOSE * scale.sd)  # not for nan either
        if not fits:
            layer.weight.data, layer.bias.data = kept
        yield fits
    finally:
        layer.weight.data, layer.bias.data = kept


def _last_layer(model: nn.Module, head: list[str]) -> nn.Module | None:
    """The one trained linear layer of the head that has a single output, and a bias; None if there is none."""
    found = []
    for name, module in model.named_modules():
        within = in_head(f"{name.removeprefix('base_model.model.')}.", head)
        if within and isinstance(module, nn.Linear) and module.weight.requires_grad and module.out_features == 1:
            found.append(module)
    return found[0] if len(found) == 1 and found[0].bias is not None else None


def _input_of(layer: nn.Module, forward: Callable[[], torch.Tensor]) -> torch.Tensor | None:
    """What the layer is given in a forward pass; None unless what it makes of it is what the model gives."""
    seen = []
    hook = layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    try:
        logits = forward()
    finally:
        hook.remove()
    return seen[0][0] if len(seen) == 1 and torch.isin(logits, seen[0][1]).all() else None


@torch.no_grad()
def _output(layer: nn.Module, states: torch.Tensor) -> np.ndarray:
    """The layer's output of `states` as float32, whatever precision matrices are multiplied in here."""
    output = states.double() @ layer.weight.double().T + layer.bias.double()
    return output.float().double().cpu().numpy()

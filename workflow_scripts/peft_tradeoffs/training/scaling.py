"""Regression targets: standardised for training, in the data's own units everywhere else."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.classifier import in_head
from peft_tradeoffs.inputs.tokens import Split

CLOSE = 1e-3  # of a standard deviation: what rounding may change where the weights give the data's units


@dataclass(frozen=True)
class TargetScale:
    """Mean and standard deviation of the training targets, in their units."""

    mean: float
    sd: float

    @classmethod
    def of(cls, labels: np.ndarray) -> "TargetScale":
        """The scale of targets [n]. Raises InputError for some that are too large, too small or too close to scale."""
        largest = float(np.abs(labels).max()) or 1.0
        mean, sd = float((labels / largest).mean()) * largest, _sd(labels)
        if not (np.isfinite(mean) and 1e-150 < sd < 1e150):
            raise InputError(
                f"the training targets reach {largest:.3g} and their standard deviation is {sd:.3g}, whose square is "
                "no number that a computer holds; multiply the label column by a power of ten"
            )
        return cls(mean, sd)

    def scaled(self, split: Split) -> Split:
        """The split with labels as float32 [n] in standard deviations from the mean."""
        return dataclasses.replace(split, labels=((split.labels - self.mean) / self.sd).astype(np.float32))

    def own_units(self, outputs: np.ndarray) -> np.ndarray:
        """What a model's outputs [n, 1] are in the data's units, float64."""
        return outputs.astype(np.float64) * self.sd + self.mean


def target_scale(splits: dict[str, Split], task: str) -> TargetScale | None:
    """The scale of the training split's targets; None for a classification."""
    return TargetScale.of(splits["train"].labels) if task == "regression" else None


def spread(logits: np.ndarray, labels: np.ndarray) -> float:
    """Standard deviation of predictions [n, 1] over that of the labels [n]; 0 where all predictions are the same."""
    return _sd(logits[:, 0]) / _sd(labels)


@contextlib.contextmanager
def in_own_units(
    model: nn.Module, head: list[str], scale: TargetScale, forward: Callable[[], torch.Tensor]
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


def _sd(values: np.ndarray) -> float:
    """Standard deviation of values whose squares may be beyond what float64 holds."""
    values = values.astype(np.float64)
    largest = float(np.abs(values).max()) or 1.0
    return 0.0 if np.ptp(values / largest) == 0 else float((values / largest).std()) * largest


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

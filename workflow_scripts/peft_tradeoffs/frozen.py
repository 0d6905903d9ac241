"""The precision in which frozen linear layers are held."""

import torch
from torch import nn

from peft_tradeoffs.classifier import is_linear
from peft_tradeoffs.step import autocast


@torch.no_grad()
def hold_as_computed(model: nn.Module, precision: str, device: torch.device) -> bool:
    """Hold frozen linear layers in the precision that autocast would cast them to in every step, if it is the same.

    Same products, fewer bytes, no cast. Left as they were, and False returned, where a bit of the hidden states or
    logits changes: under an adapter that reads the base's weights themselves, as DoRA does.
    """
    held = [] if precision == "fp32" else _frozen(model)
    if not held:
        return False
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    start = [parameter.data for parameter in trained]
    originals = [parameter.data.cpu() for parameter in held]  # on a GPU both would need 1.5 times the weights
    random = torch.Generator(device).manual_seed(0)
    for parameter in trained:  # adapters start as no change at all, which would hide what they read
        noise = torch.randn(parameter.shape, generator=random, device=device, dtype=parameter.dtype)
        parameter.data = parameter.data + 0.05 * noise
    expected = _outputs(model, precision, device)
    for parameter in held:
        parameter.data = parameter.data.to(torch.bfloat16)
    found = _outputs(model, precision, device) if expected else None
    same = bool(found) and all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    for parameter, values in zip(trained, start, strict=True):
        parameter.data = values
    if not same:
        for parameter, values in zip(held, originals, strict=True):
            parameter.data = values.to(device)
    return same


def _frozen(model: nn.Module) -> list[nn.Parameter]:
    found = {}
    for module in model.modules():
        if is_linear(module):
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad and parameter.dtype == torch.float32:
                    found[id(parameter)] = parameter
    return list(found.values())


def _outputs(model: nn.Module, precision: str, device: torch.device) -> list[torch.Tensor] | None:
    """Hidden states and logits of two made-up texts, without dropout; None where the model does not take them.

    An adapter that multiplies held weights with its own refuses too.
    """
    training = model.training
    model.eval()
    ids = torch.arange(1, 17, device=device).view(2, 8) % model.config.vocab_size
    try:
        with autocast(precision, device):
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
        return [*(getattr(output, "hidden_states", None) or ()), output.logits]
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return None
    finally:
        model.train(training)

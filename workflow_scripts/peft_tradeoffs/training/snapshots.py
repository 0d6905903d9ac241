"""What a run's state holds: all that a resume needs, as plain values and tensors."""

from typing import Any

import torch
from torch import nn

from peft_tradeoffs.training.checkpointing import BlockGenerators


def snapshot(
    progress: dict[str, Any],
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    generators: BlockGenerators | None,
) -> dict[str, Any]:
    """All that a resume needs, as plain values and tensors."""
    return {
        "progress": progress,
        "parameters": {name: p.detach() for name, p in parameters.items()},
        "optimizer": optimizer.state_dict()["state"],
        "generator": torch.get_rng_state(),
        "cuda_generator": torch.cuda.get_rng_state() if _on_gpu(parameters) else None,
        "block_generators": generators.state() if generators is not None else [],
    }


def restore(
    saved: dict[str, Any],
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    generators: BlockGenerators | None,
) -> None:
    """Put the weights, optimizer and generators of a `snapshot` back."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved["parameters"][name])
    ordered = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in saved["optimizer"].items():
        for name, value in values.items():
            optimizer.state[ordered[index]][name].copy_(value)
    torch.set_rng_state(saved["generator"])
    if saved["cuda_generator"] is not None:
        torch.cuda.set_rng_state(saved["cuda_generator"])
    if generators is not None:
        generators.load(saved["block_generators"])


def _on_gpu(parameters: dict[str, nn.Parameter]) -> bool:
    return any(parameter.is_cuda for parameter in parameters.values())

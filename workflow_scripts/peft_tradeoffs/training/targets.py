"""A causal model called so that its head computes at target positions alone, and what its target tokens lose."""

from typing import Any, NamedTuple

import torch
from torch import nn

from peft_tradeoffs.tasks.texts import IGNORED


class Output(NamedTuple):
    """What such a model gives of a part of a batch."""

    loss: torch.Tensor  # [], mean over the target tokens
    logits: torch.Tensor  # [b, c, vocabulary], of the target positions


class AtTargets(nn.Module):
    """Calls `model` (a causal model of Transformers, or one that PEFT wrapped) with its head at target positions alone.

    The head is most of a small model's memory and time. A hook before it takes the hidden states from which target
    tokens are predicted, so that what the model does behind its head (a cap on logits, a scale) stays the model's. Of a
    model whose head takes something else than hidden states [b, length, d] nothing is left out.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._before: torch.Tensor | None = None  # int64 [b, c]: the positions before the target tokens
        self._length = 0
        output_embeddings(model).register_forward_pre_hook(self._take)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are logits of."""
        tokens: int = output_embeddings(self.model).out_features
        return tokens

    def forward(self, positions: torch.Tensor, labels: torch.Tensor, **inputs: torch.Tensor | None) -> Output:
        """`positions` int64 [b, c] of target tokens in the texts, `labels` int64 [b, c] those tokens, or IGNORED."""
        logits = self.logits(positions, **inputs)
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        return Output(loss, logits)

    def logits(self, positions: torch.Tensor, **inputs: torch.Tensor | None) -> torch.Tensor:
        """[b, c, vocabulary] of the target positions."""
        ids = inputs["input_ids"]
        assert ids is not None
        self._before, self._length = positions - 1, ids.shape[1]
        try:
            output: Any = self.model(**inputs)
        finally:
            self._before = None
        logits: torch.Tensor = output.logits
        return logits

    def _take(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._before is None:
            return None
        hidden = inputs[0]
        virtual = hidden.shape[1] - self._length  # tokens that prompt learning puts before a text
        places = (self._before.clamp(min=0) + virtual)[..., None].expand(-1, -1, hidden.shape[-1])
        return (hidden.gather(1, places), *inputs[1:])


def output_embeddings(model: Any) -> Any:
    """The layer that makes logits of hidden states; what PEFT put around it, where it did."""
    found = model.get_output_embeddings()
    if found is None:
        raise ValueError(f"{type(model).__name__} has no output embeddings")
    return found


@torch.no_grad()
def token_scores(
    model: AtTargets, positions: torch.Tensor, labels: torch.Tensor, **inputs: torch.Tensor | None
) -> torch.Tensor:
    """[b, 3] float64, of each text the columns `metrics.OF_TEXT`: the sum of losses, target tokens, how many right."""
    logits = model.logits(positions, **inputs).float()
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view(labels.shape)
    counted = labels != IGNORED
    right = (logits.argmax(-1) == labels) & counted
    return torch.stack([losses.double().sum(1), counted.double().sum(1), right.double().sum(1)], dim=1)

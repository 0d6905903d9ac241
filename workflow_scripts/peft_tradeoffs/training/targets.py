"""A causal model called so that its head computes at target positions alone, and what its target tokens lose.

Where the head is one linear layer, and what the model does behind it is known, loss and gradient of few positions at a
time are computed, so that no more of the logits is held.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import nn

from peft_tradeoffs.tasks.texts import IGNORED

AT_ONCE = 2**24  # logits that are held: 64 MiB of float32
ALIKE = 1e-2  # of logits' norm: rounding of a cap in bf16

Context = Callable[[], AbstractContextManager[Any]]  # makes that of a forward pass


class Output(NamedTuple):
    """What such a model gives of a part of a batch."""

    loss: torch.Tensor  # [], mean over the target tokens


class Behind(NamedTuple):
    """What a model makes of its head's output: `scale` times it, then `cap` * tanh(it / `cap`), unless `cap` is 0."""

    scale: float = 1.0
    cap: float = 0.0

    def __call__(self, raw: torch.Tensor) -> torch.Tensor:
        """Logits of the head's output."""
        logits = raw if self.scale == 1 else raw * self.scale
        return self.cap * torch.tanh(logits / self.cap) if self.cap else logits

    def backward(self, gradient: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The gradient of the head's output, from that of the logits."""
        if self.cap:
            gradient = gradient * (1 - (logits / self.cap) ** 2)
        return gradient if self.scale == 1 else gradient * self.scale


class AtTargets(nn.Module):
    """Calls `model` (a causal model of Transformers, or one that PEFT wrapped) with its head at target positions alone.

    The head is most of a small model's memory and time. A hook before it takes the hidden states from which target
    tokens are predicted. What the model does behind its head (a cap on logits, a scale) is found by a forward pass of
    two tokens in the context that `autocast` makes; where it is none of these, or the head is not one linear layer, the
    model's own logits of all target positions are held.
    """

    def __init__(self, model: nn.Module, autocast: Context) -> None:
        super().__init__()
        self.model = model
        self.behind: Behind | None = None
        self._before: torch.Tensor | None = None  # int64 [b, c]: the positions before the target tokens
        self._length = 0
        self._taken: torch.Tensor | None = None  # [b, c, d]: the hidden states there
        head = output_embeddings(model)
        self.behind = found_behind(model, head, autocast)
        self._call: Callable[..., Any] = model
        self._piece: Callable[..., Piece] = piece
        head.register_forward_pre_hook(self._take)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are logits of."""
        tokens: int = output_embeddings(self.model).out_features
        return tokens

    def compile(self, **options: Any) -> None:
        """Have torch.compile make what training computes, the model and the loss of some positions; not evaluation.

        Layers that are alike are compiled once; all of them together, at any length, would take minutes. What stands
        beside them stays as it is: the head's hook has other positions at every call.
        """
        from accelerate.utils import compile_regions

        call = compile_regions(self.model, **options).train()
        for parent in list(call.modules()):
            for name, child in parent.named_children():
                if hasattr(child, "_orig_mod") and not isinstance(parent, nn.ModuleList):
                    setattr(parent, name, child._orig_mod)  # noqa: SLF001  # torch.compile's name for what it wraps
        self._call = call
        self._piece = torch.compile(piece, **options)

    def forward(self, positions: torch.Tensor, labels: torch.Tensor, **inputs: torch.Tensor | None) -> Output:
        """`positions` int64 [b, c] of target tokens in the texts, `labels` int64 [b, c] those tokens, or IGNORED."""
        found = self._given(self._call, positions, inputs)
        if self.behind is None:
            loss = nn.functional.cross_entropy(found.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
            return Output(loss)
        head = output_embeddings(self.model)
        states, tokens = found.flatten(0, 1), labels.flatten()
        return Output(loss_of(states, head.weight, head.bias, tokens, self.behind, self._piece))

    @torch.no_grad()
    def scores(self, positions: torch.Tensor, labels: torch.Tensor, **inputs: torch.Tensor | None) -> torch.Tensor:
        """[b, 3] float64, of each text the columns `metrics.OF_TEXT`: the sum of losses, target tokens, how many right.

        `positions` and `labels` as `forward` takes them.
        """
        found = self._given(self.model, positions, inputs).flatten(0, 1)
        head = output_embeddings(self.model)
        losses, right = [], []
        for states, tokens in zip(*_in_pieces(self.vocabulary, found, labels.flatten()), strict=True):
            logits = (states if self.behind is None else self.behind(head(states))).float()
            losses.append(nn.functional.cross_entropy(logits, tokens, ignore_index=IGNORED, reduction="none").double())
            right.append(logits.argmax(-1) == tokens)
        counted = labels != IGNORED
        sums = (torch.cat(losses).view(labels.shape), counted, torch.cat(right).view(labels.shape) & counted)
        return torch.stack([values.double().sum(1) for values in sums], dim=1)

    def _given(
        self, call: Callable[..., Any], positions: torch.Tensor, inputs: dict[str, torch.Tensor | None]
    ) -> torch.Tensor:
        """Of the target positions the hidden states [b, c, d]; where it is not known what is behind them the logits."""
        ids = inputs["input_ids"]
        assert ids is not None
        self._before, self._length = positions - 1, ids.shape[1]
        try:
            output = call(**inputs)
            taken = self._taken
        finally:
            self._before = self._taken = None
        if self.behind is None:
            logits: torch.Tensor = output.logits
            return logits
        assert taken is not None
        return taken

    def _take(self, _: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if self._before is None:
            return None
        hidden = inputs[0]
        virtual = hidden.shape[1] - self._length  # tokens that prompt learning puts before a text
        places = (self._before.clamp(min=0) + virtual)[..., None].expand(-1, -1, hidden.shape[-1])
        taken = hidden.gather(1, places)
        if self.behind is None:
            return (taken, *inputs[1:])
        self._taken = taken
        return (hidden[:, :1], *inputs[1:])  # a model gives some logits


class Piece(NamedTuple):
    """Of some positions their summed loss [], and its gradient: of their hidden states [m, d], of the head's output."""

    loss: torch.Tensor
    states: torch.Tensor
    output: torch.Tensor  # [m, vocabulary], in the precision of products


def piece(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, labels: torch.Tensor, behind: Behind
) -> Piece:
    """Cross-entropy of `labels` int64 [m] (IGNORED ones lose nothing) and its gradient, softmax minus one-hot.

    `states` [m, d], `weight` [vocabulary, d] and `bias` [vocabulary] in the precision of products.
    """
    logits = behind(nn.functional.linear(states, weight, bias)).float()
    counted = labels != IGNORED
    tokens = torch.where(counted, labels, 0)[:, None]
    total = logits.logsumexp(1, keepdim=True)
    loss = torch.where(counted, (total - logits.gather(1, tokens))[:, 0], 0.0).sum()
    gradient = (logits - total if behind.cap else logits.sub_(total)).exp_()
    gradient.scatter_add_(1, tokens, gradient.new_full((), -1.0).expand(tokens.shape)).mul_(counted[:, None])
    output = behind.backward(gradient, logits).to(states.dtype)
    return Piece(loss, output @ weight, output)


def loss_of(
    states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    behind: Behind,
    compute: Callable[..., Piece] = piece,
) -> torch.Tensor:
    """Mean loss [] of the tokens `labels` int64 [n] from hidden states [n, d] and a linear head, piece by piece.

    Products are in autocast's precision. The gradient is computed with the loss, so that no logits are kept or computed
    again. It is divided by the number of tokens in the backward pass alone: in float16 one's share would be 0.
    """
    apply: Callable[..., torch.Tensor] = _Loss.apply
    return apply(states, weight, bias, labels, (behind, compute))


class _Loss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        how: tuple[Behind, Callable[..., Piece]],
    ) -> torch.Tensor:
        behind, compute = how
        kind = states.device.type
        product = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
        cast = weight.to(product)
        offset = None if bias is None else bias.to(product)
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and ctx.needs_input_grad[2] else None
        losses, of_states = [], []
        for some, tokens in zip(*_in_pieces(len(weight), states, labels), strict=True):
            some = some.to(product)
            found = compute(some, cast, offset, tokens, behind)
            losses.append(found.loss)
            of_states.append(found.states)
            if of_weight is not None:
                of_weight += found.output.T @ some
            if of_bias is not None:
                of_bias += found.output.float().sum(0)
        count = (labels != IGNORED).sum()
        ctx.dtypes = states.dtype, weight.dtype, None if bias is None else bias.dtype
        ctx.save_for_backward(torch.cat(of_states), of_weight, of_bias, count)
        return torch.stack(losses).sum() / count

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        *found, count = ctx.saved_tensors
        share = gradients[0] / count
        scaled = [
            None if value is None else (value.float() * share).to(dtype)  # the share would be rounded to 16 bits
            for value, dtype in zip(found, ctx.dtypes, strict=True)
        ]
        return (*scaled, None, None)


def _in_pieces(vocabulary: int, *tables: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Each of the tables [n, …] in pieces of about as many rows, their logits AT_ONCE at most."""
    count = math.ceil(len(tables[0]) / max(1, AT_ONCE // vocabulary))
    return [table.tensor_split(count) for table in tables]


def output_embeddings(model: Any) -> Any:
    """The layer that makes logits of hidden states; what PEFT put around it, where it did."""
    found = model.get_output_embeddings()
    if found is None:
        raise ValueError(f"{type(model).__name__} has no output embeddings")
    return found


@torch.no_grad()
def found_behind(model: nn.Module, head: nn.Module, autocast: Context) -> Behind | None:
    """What `model` does behind its head, by the head's output and the logits of a text of two tokens.

    By the names that Transformers' models have for them. None for a head that is not one plain linear layer, and where
    it is something else than a scale or a cap.
    """
    if type(head) is not nn.Linear:
        return None
    seen: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda _, inputs, output: seen.append(output))
    training = model.training
    model.eval()
    try:
        with autocast():
            logits = model(input_ids=torch.tensor([[0, 1]], device=head.weight.device)).logits.double()
    finally:
        hook.remove()
        model.train(training)
    if len(seen) != 1 or seen[0].shape != logits.shape:
        return None
    config: Any = model.config
    cap = float(getattr(config, "final_logit_softcapping", None) or 0)
    scale = float(getattr(config, "logit_scale", None) or 1 / float(getattr(config, "logits_scaling", None) or 1))
    behind, raw = Behind(scale, cap), seen[0].double()
    if behind == Behind():
        return behind if torch.equal(raw, logits) else None
    return behind if (behind(raw) - logits).norm() <= ALIKE * logits.norm() else None

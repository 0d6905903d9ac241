"""Greedy decoding with a causal model: batches padded on the left, a static cache, a step per token that is captured.

The same tokens as `generate(do_sample=False)`, but for what rounding makes of other batches and paddings.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig, StaticCache
from transformers.cache_utils import StaticLayer, StaticSlidingWindowLayer

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.measure.devices import empty_caches, free_memory
from peft_tradeoffs.training.batches import (
    Shape,
    choose_kernels,
    evaluation_batches,
    inner_model,
    last_logits,
    padded_length,
    padding_mask,
)
from peft_tradeoffs.training.parallel import ALONE, World
from peft_tradeoffs.training.step import DTYPES, CapturedSteps, CaptureError, EagerSteps, autocast

ASKED = 8  # steps between two looks of the host at whether all rows have ended
GENERATE = "generate"  # the engine of models whose state is not keys and values of tokens alone

Poll = Callable[[], None]


@dataclass(frozen=True)
class Decoding:
    """How prompts are continued. All of it decides which tokens are written, in the last bit the batch size too."""

    max_new_tokens: int  # at least 1
    batch_size: int  # prompts
    end_tokens: tuple[int, ...]  # a row ends with any of them; without one at `max_new_tokens` alone
    pad_token_id: int  # fills a batch on the left, and a row that has ended
    precision: str  # of matrix products: a key of step.DTYPES
    engine: str = EagerSteps.name  # or captured, on a GPU


@dataclass(frozen=True)
class Decoded:
    """What a model wrote, and how."""

    tokens: list[np.ndarray]  # int32 [t] of each prompt, the end token left out
    ended: np.ndarray  # bool [n]: with an end token, not at `max_new_tokens`
    batches: list[list[int]]  # indices of prompts, in the order in which they were decoded
    padded: list[int]  # tokens that the prompts of each batch were padded to
    steps: int  # forward passes of one token per row, over all batches; a pass over each batch's prompts came before
    engine: str  # that ran: "captured", "eager" or "generate"
    engine_reason: str | None  # why it is not the one asked for
    capture_s: float  # of the seconds that decoding took


def context_of(model: nn.Module) -> int | None:
    """Tokens that the model's config says a text may have, less those that prompt learning puts before it.

    None where it names no limit.
    """
    config = inner_model(model).config.get_text_config(decoder=True)
    limit = getattr(config, "max_position_embeddings", None)
    adapters = getattr(model, "peft_config", {}).values()
    virtual = max((getattr(adapter, "num_virtual_tokens", None) or 0 for adapter in adapters), default=0)
    return limit - virtual if isinstance(limit, int) and limit > 0 else None


def check_prompts(prompts: Sequence[np.ndarray], wanted: Decoding, context: int | None) -> None:
    """Raise InputError for prompts without tokens, and for those that `max_new_tokens` do not fit behind."""
    lengths = np.array([len(prompt) for prompt in prompts])
    if wanted.max_new_tokens < 1:
        raise InputError(f"max_new_tokens is {wanted.max_new_tokens}; it must be at least 1")
    if not len(lengths):
        raise InputError("there are no prompts to decode")
    if not lengths.all():
        raise InputError(f"{np.count_nonzero(lengths == 0)} of {len(lengths)} prompts have no tokens to decode from")
    if context is None:
        return
    room = context - wanted.max_new_tokens
    long = np.count_nonzero(lengths > room)
    if long:
        most = context - int(lengths.max())
        remedy = f"set max_new_tokens to {most} or less, or " if most > 0 else ""
        raise InputError(
            f"{long} of {len(lengths)} prompts have more than {max(room, 0)} tokens (the longest {lengths.max()}), so "
            f"max_new_tokens {wanted.max_new_tokens} do not fit behind them in the model's {context}: {remedy}"
            f"leave these prompts out"
        )


@torch.no_grad()
def decode(
    model: nn.Module,
    prompts: Sequence[np.ndarray],
    wanted: Decoding,
    device: torch.device,
    poll: Poll = lambda: None,
    world: World = ALONE,
) -> Decoded:
    """Continue each prompt (token ids, int [t]) with the tokens that the model gives the largest logit.

    `model`: a causal model of Transformers, or one that PEFT wrapped. Batches are of prompts of like length, longest
    first. A step that cannot be captured is taken eagerly; a model that keeps more than keys and values is left to
    Transformers' `generate`, in batches of one length. Ranks take the batches in turn, and all of them get all that was
    written. `poll` is called between batches and every few steps; what it
    raises ends the decoding. Config, attention, training mode and random state are as before afterwards, and graphs and
    cache are freed. Raises InputError for prompts that cannot be decoded, and torch.OutOfMemoryError.
    """
    check_prompts(prompts, wanted, context_of(model))
    try:
        with _answering(model):
            return _together(_decoded(model, prompts, (wanted, device, poll), world), world)
    finally:
        empty_caches(device)


def _decoded(
    model: nn.Module, prompts: Sequence[np.ndarray], how: tuple[Decoding, torch.device, Poll], world: World
) -> Decoded:
    """What this rank's turns gave; prompts of the others have no tokens here."""
    wanted, device, poll = how
    lengths = np.array([len(prompt) for prompt in prompts])
    reason = why_not_static(model)
    batches = list((_of_one_length if reason else evaluation_batches)(lengths, wanted.batch_size))
    writer = Generating(model, wanted, device, poll) if reason else Writer(model, wanted, device, poll)
    tokens = [np.zeros(0, np.int32)] * len(prompts)
    ended = np.zeros(len(prompts), bool)
    padded = [int(lengths[rows].max()) if reason else padded_length(lengths[rows]) for rows in batches]
    for turn, _ in world.dealt(zip(batches, padded, strict=True)):
        if turn is None:
            continue
        rows, length = turn
        poll()
        written = writer(_left_padded([prompts[row] for row in rows], length, wanted.pad_token_id), lengths[rows])
        for row, values in zip(rows, written, strict=True):
            ends = np.flatnonzero(np.isin(values, wanted.end_tokens))
            ended[row] = len(ends) > 0
            tokens[row] = values[: ends[0] if len(ends) else len(values)].astype(np.int32)
    indices = [rows.tolist() for rows in batches]
    reason = reason or writer.reason
    return Decoded(tokens, ended, indices, padded, writer.steps, writer.engine, reason, writer.capture_s)


def _together(own: Decoded, world: World) -> Decoded:
    """What all ranks' turns gave."""
    if world.size == 1:
        return own
    parts: list[Decoded] = world.gather(own)
    tokens, ended = list(own.tokens), own.ended.copy()
    for place, rows in enumerate(own.batches):
        of_rank = parts[place % world.size]
        for row in rows:
            tokens[row], ended[row] = of_rank.tokens[row], of_rank.ended[row]
    fell_back = next((part for part in parts if part.engine_reason), own)
    return dataclasses.replace(
        own,
        tokens=tokens,
        ended=ended,
        steps=sum(part.steps for part in parts),
        engine=fell_back.engine,
        engine_reason=fell_back.engine_reason,
        capture_s=max(part.capture_s for part in parts),
    )


def _of_one_length(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Indices of batches without padding, longest first."""
    for length in np.unique(lengths)[::-1]:
        rows = np.flatnonzero(lengths == length)
        yield from (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))


def _left_padded(prompts: list[np.ndarray], length: int, pad: int) -> np.ndarray:
    """int64 [b, length]."""
    table = np.full((len(prompts), length), pad, np.int64)
    for row, prompt in enumerate(prompts):
        table[row, length - len(prompt) :] = prompt
    return table


class Writer:
    """Writes the tokens of one batch after another, by steps that are captured where they can be."""

    def __init__(self, model: nn.Module, wanted: Decoding, device: torch.device, poll: Poll) -> None:
        self._wanted, self._poll = wanted, poll
        self._step = DecodingStep(model, wanted, device)
        captured = wanted.engine == CapturedSteps.name
        self._steps = (CapturedSteps if captured else EagerSteps)(self._step, False, None)
        self.steps = 0
        self.reason: str | None = None
        self._lost_s = 0.0  # capturing before that failed

    @property
    def engine(self) -> str:
        """That which takes the steps."""
        return self._steps.name

    @property
    def capture_s(self) -> float:
        """Seconds that captures took."""
        return self._lost_s + self._steps.capture_s

    def __call__(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """int64 [b, t] tokens behind the prompts `ids` [b, length], of which the last `lengths` [b] are real.

        An ended row goes on with the pad token; a batch stops soon after its last row has ended.
        """
        step, most = self._step, self._wanted.max_new_tokens
        shape = step.begin(ids, lengths)
        taken = 1  # by `begin`
        while taken < most and not step.all_ended():
            self._poll()
            if taken == 1:
                self._make_ready(shape)
            count = min(ASKED, most - taken)
            for _ in range(count):
                self._steps(shape)
            taken += count
        self.steps += taken - 1
        return step.written(taken)

    def _make_ready(self, shape: Shape) -> None:
        try:
            self._steps.prepare([shape])
            return
        except CaptureError as error:
            self.reason = f"capture failed: {error}"
        self._lost_s += self._steps.capture_s
        self._steps = EagerSteps(self._step, False, None)
        free_memory(self._step.device)  # the failed capture and its pool


class DecodingStep:
    """The next token of every row of a batch: model, choice, end, and where the one after it goes.

    All of it is found on the device. It is called with the batch's shape alone: rows, tokens of the cache, and a number
    that is another one each time that place is made anew, whose addresses no earlier graph knows.
    """

    def __init__(self, model: nn.Module, wanted: Decoding, device: torch.device) -> None:
        self.parameters = dict(model.named_parameters())
        self.device = device
        self._model: Any = model
        self._wanted = wanted
        self._ends = torch.tensor(wanted.end_tokens, dtype=torch.int64, device=device)
        self._last = last_logits(model, 1)
        self._shape: Shape = ()
        self._numbers = itertools.count(1)
        self._cache: StaticCache | None = None

    def begin(self, ids: np.ndarray, lengths: np.ndarray) -> Shape:
        """Read prompts (see `Writer`) and write the first token of each. Returns the shape of the steps to come."""
        rows, length = ids.shape
        whole = length + padded_length(np.array([self._wanted.max_new_tokens]))
        if (rows, whole) != self._shape[:2]:
            self._allocate(rows, whole)
        assert self._cache is not None
        self._cache.reset()
        sizes = torch.from_numpy(lengths).to(self.device)
        places = torch.arange(whole, device=self.device) - (length - sizes[:, None])  # in the text
        self._seen.copy_(places >= 0)  # what is not written yet is hidden as the future
        self._out.fill_(self._wanted.pad_token_id)
        self._ended.fill_(False)
        self._place.zero_()
        self._positions.copy_(sizes[:, None])
        start = places[:, :length].clamp(min=0)
        self._write(self._logits(torch.from_numpy(ids).to(self.device), self._seen[:, :length], start))
        return self._shape

    def __call__(self, rows: int, *padded: int) -> None:
        """Write one token more of each row."""
        self.on_device(rows, *padded)
        self.on_host()

    def on_device(self, rows: int, *padded: int) -> None:
        """The step, all of which a CUDA graph can hold."""
        logits = self._logits(self._tokens, self._seen, self._positions)
        self._positions += 1
        self._write(logits)

    def on_host(self) -> None:
        """Nothing is left to the host."""

    def try_out(self, shape: Shape) -> None:
        """A step of which nothing remains, but for keys and values that the next one writes again."""
        assert self._cache is not None
        layers: list[Any] = self._cache.layers
        state = [self._tokens, self._ended, self._out, self._place, self._positions]
        state += [layer.cumulative_length for layer in layers]
        kept = [tensor.clone() for tensor in state]
        try:
            self.on_device(*shape)
        finally:
            for tensor, values in zip(state, kept, strict=True):
                tensor.copy_(values)

    def drop_gradients(self) -> None:
        """There are none."""

    def all_ended(self) -> bool:
        """Whether no row goes on; waits for the device."""
        return bool(self._ended.all())

    def written(self, count: int) -> np.ndarray:
        """int64 [b, count]: what has been written of each row."""
        return self._out[:, :count].cpu().numpy()

    def _allocate(self, rows: int, length: int) -> None:
        """Make place for batches of a shape, in place of the one before."""
        self._cache = None
        self._cache = static_cache(self._model, length, self._wanted.precision)
        new, device = self._wanted.max_new_tokens, self.device
        self._tokens = torch.zeros(rows, 1, dtype=torch.int64, device=device)  # written last
        self._positions = torch.zeros(rows, 1, dtype=torch.int64, device=device)  # theirs in the texts
        self._ended = torch.zeros(rows, dtype=torch.bool, device=device)
        self._seen = torch.zeros(rows, length, dtype=torch.bool, device=device)  # no padding
        self._place = torch.zeros(1, dtype=torch.int64, device=device)  # of the next token in `out`
        self._out = torch.zeros(rows, new, dtype=torch.int64, device=device)
        self._shape = rows, length, next(self._numbers)

    def _logits(self, ids: torch.Tensor, seen: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """float32 [b, vocabulary] behind the last of the tokens `ids` [b, t], which the cache takes up."""
        with autocast(self._wanted.precision, self.device):
            output = self._model(
                input_ids=ids,
                attention_mask=seen,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                **self._last,
            )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits

    def _write(self, logits: torch.Tensor) -> None:
        chosen = logits.argmax(-1).masked_fill_(self._ended, self._wanted.pad_token_id)
        self._out.index_copy_(1, self._place, chosen[:, None])
        self._ended.logical_or_((chosen[:, None] == self._ends).any(1))
        self._tokens.copy_(chosen[:, None])
        self._place += 1


class Generating:
    """Writes the tokens of one batch after another by Transformers' `generate`; called as a `Writer` is.

    Batches are of prompts of one length: PEFT takes no positions for its virtual tokens, and a recurrent state does not
    know of padding.
    """

    engine = GENERATE
    capture_s = 0.0
    reason: str | None = None

    def __init__(self, model: nn.Module, wanted: Decoding, device: torch.device, poll: Poll) -> None:
        self._model: Any = model
        self._wanted, self._device, self._poll = wanted, device, poll
        self.steps = 0

    def __call__(self, ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """As a `Writer`."""
        inner, wanted = inner_model(self._model), self._wanted
        before = inner.generation_config
        inner.generation_config = GenerationConfig()  # a checkpoint's own may punish repetition
        tokens = torch.from_numpy(ids).to(self._device)
        try:
            with autocast(wanted.precision, self._device):
                texts = self._model.generate(
                    input_ids=tokens,
                    attention_mask=torch.ones_like(tokens),
                    do_sample=False,
                    max_new_tokens=wanted.max_new_tokens,
                    eos_token_id=list(wanted.end_tokens) or None,
                    pad_token_id=wanted.pad_token_id,
                    use_cache=True,
                )
        finally:
            inner.generation_config = before
        written: np.ndarray = texts[:, ids.shape[1] :].cpu().numpy()
        self.steps += written.shape[1] - 1
        return written


class _Layer(StaticLayer):  # type: ignore[misc]
    """Keys and values of one layer in the precision that attention computes in.

    Under autocast over float32 weights keys come in float32 (turned by float32 cosines) and values in autocast's
    precision, to which attention casts both.
    """

    def __init__(self, max_cache_len: int, dtype: torch.dtype | None) -> None:
        super().__init__(max_cache_len)
        self._kept = dtype

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self._kept is not None:
            key_states, value_states = key_states.to(self._kept), value_states.to(self._kept)
        found: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states, *args, **named)
        return found


def static_cache(model: nn.Module, length: int, precision: str) -> StaticCache:
    """A cache of `length` tokens in every layer; see `why_not_static`.

    Also in layers that see a window alone, which their mask shows: a cache of the window's size asks the host whether
    it is full.
    """
    cache = StaticCache(config=inner_model(model).config, max_cache_len=length)
    dtype = None if precision == "fp32" else DTYPES[precision]
    cache.layers = [_Layer(length, dtype) for _ in cache.layers]
    return cache


def why_not_static(model: nn.Module) -> str | None:
    """Why a model cannot be decoded with a `static_cache`; None if it can."""
    inner: Any = inner_model(model)
    settings: Any = getattr(model, "active_peft_config", None)
    if getattr(settings, "is_prompt_learning", False):
        return f"{settings.peft_type.value} puts tokens of its own before a text"
    layers = StaticCache(config=inner.config, max_cache_len=1).layers
    others = sorted(
        {type(layer).__name__ for layer in layers} - {StaticLayer.__name__, StaticSlidingWindowLayer.__name__}
    )
    return f"{type(inner).__name__} keeps more than keys and values ({', '.join(others)})" if others else None


@contextlib.contextmanager
def _answering(model: nn.Module) -> Iterator[None]:
    """Within it a model evaluates, with the kernels that heed a padding mask; afterwards all is as before."""
    inner: Any = inner_model(model)
    attention = getattr(inner.config, "_attn_implementation", None)
    cudnn = torch.backends.cuda.cudnn_sdp_enabled()
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        choose_kernels(padding_mask, model)
        yield
    finally:
        if inner.config._attn_implementation != attention:  # noqa: SLF001
            inner.set_attn_implementation(attention)
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        for module, was in training:
            module.training = was

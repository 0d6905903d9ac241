"""What a model is trained and evaluated on: tokenised splits, targets to scale, batches, masks over their padding.

No mask is found by a look at its content, which would make the GPU wait and forbid a CUDA graph.
"""

import dataclasses
import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.tokens import Split
from peft_tradeoffs.tasks.task import TASKS, Scale
from peft_tradeoffs.tasks.texts import GENERAL, IGNORED

Mask = Callable[[torch.Tensor, int, torch.dtype], torch.Tensor | None]
Context = Callable[[], AbstractContextManager[Any]]  # makes that of a forward pass

MULTIPLE = 8  # tokens that a batch's length is padded to a multiple of
GROUP = 50  # batches that are sorted by length together
FEW, LARGER = 10, 1.6  # batches of a shape that pay for its graph; how much larger one may be that stands in for it


@dataclass(frozen=True)
class Data:
    """The splits of a data set by name, as they are and as a model is trained on them."""

    splits: dict[str, Split]
    scaled: dict[str, Split]  # with labels as they are learned
    scale: Scale | None  # None: as they are
    pad_token_id: int
    general: Split | None = None  # a general text, which is on the device only while its loss is taken

    @classmethod
    def of(cls, splits: dict[str, Split], pad_token_id: int, task: str) -> "Data":
        """The data of a task. Raises InputError for targets that cannot be scaled."""
        general = splits.get(GENERAL)
        splits = {name: split for name, split in splits.items() if name != GENERAL}
        scale = TASKS[task].scale(splits["train"].labels)
        if scale is None:
            return cls(splits, splits, None, pad_token_id, general)
        scaled = {name: dataclasses.replace(s, labels=scale.scaled(s.labels)) for name, s in splits.items()}
        return cls(splits, scaled, scale, pad_token_id)


Shape = tuple[int, ...]  # texts, padded length, and where tokens are learned the padded number of targets


@dataclass(frozen=True)
class Sizes:
    """How long the texts of a split are, and how many of their tokens are learned."""

    lengths: np.ndarray  # int64 [n]
    targets: np.ndarray | None  # int64 [n]; None where labels are learned

    @classmethod
    def of(cls, split: Split) -> "Sizes":
        """Those of a split."""
        return cls(split.lengths, split.target_counts)

    def shape(self, rows: np.ndarray) -> Shape:
        """That of a batch of the texts with the indices `rows` [b]."""
        if self.targets is None:
            return len(rows), padded_length(self.lengths[rows])
        length = min(_coarse(int(self.lengths[rows].max()), 8), padded_length(self.lengths))
        return len(rows), length, _coarse(int(self.targets[rows].max()), 4)

    def shapes(self, batches: Sequence[np.ndarray]) -> list[Shape]:
        """Those of an epoch's batches; where tokens are learned, one that few have is padded to another of them."""
        found = [self.shape(rows) for rows in batches]
        return found if self.targets is None else _fewer(found)

    def largest(self, rows: np.ndarray) -> Shape:
        """As `shape`, with as many targets as any text has: no batch of so many texts takes more."""
        shape = self.shape(rows)
        return shape if self.targets is None else (*shape[:2], _coarse(int(self.targets.max()), 4))


def _coarse(size: int, steps: int) -> int:
    """A size padded to a multiple of MULTIPLE, and to one of `steps` sizes between two powers of two.

    Batches of long texts hardly ever have the same length and the same number of targets; each pair is a graph.
    """
    step = max(MULTIPLE, (1 << (size.bit_length() - 1)) // steps)
    return -(-size // step) * step


def _fewer(shapes: list[Shape]) -> list[Shape]:
    """The shapes, each that fewer than `FEW` batches have padded to the smallest of the others that holds it.

    None to one that is larger than its own by more than `LARGER`: a graph costs about as much as `FEW` steps.
    """
    count, now = Counter(shapes), {shape: shape for shape in shapes}
    smallest = {shape: math.prod(shape) for shape in shapes}  # of those that are padded to it
    for shape in sorted(count, key=_size):
        others = [
            other
            for other in count
            if other[0] == shape[0]
            and other != shape
            and all(here <= there for here, there in zip(shape, other, strict=True))
            and math.prod(other) <= LARGER * smallest[shape]
        ]
        if others and count[shape] < FEW:
            chosen = min(others, key=_size)
            count[chosen] += count.pop(shape)
            smallest[chosen] = min(smallest[chosen], smallest[shape])
            now = {was: chosen if to == shape else to for was, to in now.items()}
    return [now[shape] for shape in shapes]


def _size(shape: Shape) -> tuple[int, Shape]:
    return math.prod(shape), shape


@dataclass(frozen=True)
class Batch:
    """Texts on the device, right-padded, and what is learned of them."""

    inputs: dict[str, torch.Tensor]  # int64 [b, length] each
    sizes: torch.Tensor  # [b], tokens of each text
    answers: dict[str, torch.Tensor]  # labels [b]; or positions [b, c] of target tokens, and these as labels [b, c]


class ResidentSplit:
    """A split on the device, padded to its longest text, so that a batch is gathered there without the CPU."""

    def __init__(self, split: Split, pad_token_id: int, device: torch.device) -> None:
        lengths = split.lengths
        longest = int(lengths.max())
        real = np.arange(longest) < lengths[:, None]
        self.lengths = torch.from_numpy(lengths).to(device)
        counts = split.target_counts
        # what is learned of each text: its label, or how many tokens
        self.labels = torch.from_numpy(split.labels if counts is None else counts).to(device)
        self._positions = None if counts is None else _positions(split, counts, device)
        self._tensors = {"input_ids": _padded(split.input_ids, real, pad_token_id, device)}
        if split.token_type_ids is not None:
            self._tensors["token_type_ids"] = _padded(split.token_type_ids, real, 0, device)
        self._longest, self._pad_token_id = longest, pad_token_id

    def gather(self, rows: torch.Tensor, length: int, targets: int = 0) -> Batch:
        """The texts `rows` int64 [b], right-padded to `length` tokens; of `targets` target tokens each, if any."""
        inputs = {}
        for name, tensor in self._tensors.items():
            value = self._pad_token_id if name == "input_ids" else 0
            inputs[name] = _columns(tensor.index_select(0, rows), length, value).long()
        sizes, labels = self.lengths.index_select(0, rows), self.labels.index_select(0, rows)
        if self._positions is None:
            return Batch(inputs, sizes, {"labels": labels})
        positions = _columns(self._positions.index_select(0, rows), targets, 0).long()
        positions = positions.clamp(max=length - 1)  # a step is warmed up at other sizes than its batch has
        learned = torch.arange(targets, device=rows.device) < labels[:, None]
        tokens = inputs["input_ids"].gather(1, positions)
        return Batch(inputs, sizes, {"positions": positions, "labels": torch.where(learned, tokens, IGNORED)})

    @property
    def bytes(self) -> int:
        """Bytes of the split on the device."""
        places = () if self._positions is None else (self._positions,)
        held = (*self._tensors.values(), *places, self.lengths, self.labels)
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


def _columns(table: torch.Tensor, count: int, fill: int) -> torch.Tensor:
    """The first `count` columns of a table [b, k]; beyond its own they are `fill`."""
    more = count - table.shape[1]
    return torch.nn.functional.pad(table, (0, more), value=fill) if more > 0 else table[:, :count]


def _positions(split: Split, counts: np.ndarray, device: torch.device) -> torch.Tensor:
    """Where the target tokens of each text stand in it, int32 [n, most], 0 behind the last one."""
    within = np.arange(len(split.input_ids)) - np.repeat(split.offsets[:-1], split.lengths)
    real = np.arange(int(counts.max())) < counts[:, None]
    return _padded(within[split.targets].astype(np.int32), real, 0, device)


def padded_length(lengths: np.ndarray) -> int:
    """Tokens that a batch of texts of these lengths is padded to."""
    return -(-int(lengths.max()) // MULTIPLE) * MULTIPLE


def longest_text(split: Split) -> torch.Tensor:
    """The tokens of its longest text, int64 [t]."""
    return torch.from_numpy(split.take(longest_rows(split.lengths, 1)).input_ids).long()


def shortest_texts(split: Split, count: int) -> list[torch.Tensor]:
    """The tokens of its `count` shortest texts (all, if there are fewer), int64 [t] each."""
    rows = np.argsort(split.lengths, kind="stable")[:count]
    return [torch.from_numpy(split.take(rows[i : i + 1]).input_ids).long() for i in range(len(rows))]


def longest_rows(lengths: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` longest texts (all, if there are fewer)."""
    return np.argsort(-lengths, kind="stable")[:count]


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Indices of the batches of one epoch, every text once, texts of like length together.

    Shuffled, cut into groups of `GROUP` batches, sorted by length within a group, and the batches shuffled
    again. The order depends on nothing but `seed` and `epoch`, so it is the same in every arm.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(lengths))
    groups = [order[i : i + batch_size * GROUP] for i in range(0, len(order), batch_size * GROUP)]
    order = np.concatenate([group[np.argsort(-lengths[group], kind="stable")] for group in groups])
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def evaluation_batches(lengths: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Indices of batches over all texts, longest first."""
    order = np.argsort(-lengths, kind="stable")
    return (order[i : i + batch_size] for i in range(0, len(order), batch_size))


def _padded(values: np.ndarray, real: np.ndarray, fill: int, device: torch.device) -> torch.Tensor:
    """[n, longest] of ragged `values` [t]; `real` [n, longest] says where they stand."""
    table = np.full(real.shape, fill, values.dtype)
    table[real] = values
    return torch.from_numpy(table).to(device)


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


UNMASKED = "sdpa_unmasked"  # Transformers makes no masks for an attention that it does not know
AttentionInterface.register(UNMASKED, sdpa_attention_forward)


def choose_kernels(mask: Mask, model: nn.Module | None = None) -> None:
    """Leave cuDNN's attention to causal models without a mask; for short texts with one its kernels are slower.

    `model` then gets none from Transformers either, which would make a causal one while a step is captured or compiled:
    other kernels than those of eager steps, and slower ones.
    """
    torch.backends.cuda.enable_cudnn_sdp(mask is no_mask)
    if model is not None:
        _attend(model, mask)


def inner_model(model: Any) -> Any:
    """The model of Transformers, where PEFT put something around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _attend(model: nn.Module, mask: Mask) -> None:
    inner = inner_model(model)
    if getattr(getattr(inner, "config", None), "_attn_implementation", None) in ("sdpa", UNMASKED):
        inner.set_attn_implementation(UNMASKED if mask is no_mask else "sdpa")


MASKS = {mask.__name__: mask for mask in (no_mask, additive_mask, padding_mask)}
SHORT = 3  # real tokens of the text that would see most padding
TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 3e-2}  # of hidden states' norm: rounding
LEAK = 1e-3  # of logits' norm: the same kernels on rows that are alike but for a later token round alike
CHANGED = 0.1  # of logits' norm: far above the rounding of other kernels, also in bf16
CHECKED = 64  # positions whose logits are compared: of a long text all would take more memory than training
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
        _attend(model, mask)
        try:
            with autocast():
                output = model(
                    input_ids=texts, attention_mask=mask(sizes, length, dtype), output_hidden_states=True,
                    return_dict=True, **last_logits(model, 1),
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
        _attend(model, padding_mask)
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
        """[1, k]; of a model that gives logits of every token those of the text's last one."""
        ids = torch.nn.functional.pad(text, (0, size - len(text)), value=pad_token_id)[None]
        mask = padding_mask(torch.tensor([len(text)], device=text.device), size, torch.float32)
        place = len(text) - 1 - size  # from the end: prompt learning puts tokens before a text
        with autocast():
            kept = last_logits(model, torch.tensor([place], device=text.device))
            output: torch.Tensor = model(input_ids=ids, attention_mask=mask, **kept).logits.float()
        return output if output.ndim == 2 else output[:, 0 if kept else place]

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


@torch.no_grad()
def check_causal(model: nn.Module, text: torch.Tensor, autocast: Context) -> None:
    """Raise InputError for a model whose logits of a token depend on a later one, which it would be asked to predict.

    Transformers makes causal models of encoders too. Tried on `text`, int64 [t], and the same with another last token.
    """
    other = text.clone()
    other[-1] = text[0] if text[0] != text[-1] else (text[-1] + 1) % 2
    ids = torch.stack([text, other])
    training = model.training
    model.eval()
    try:
        with autocast():
            kept = last_logits(model, CHECKED)
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids), **kept).logits.float()
    finally:
        model.train(training)
    before = logits[:, : -1 if len(text) > 1 else 1]
    changed = ((before[1] - before[0]).norm() / before[0].norm()).item()
    if len(text) > 1 and changed > LEAK:
        config: Any = model.config
        raise InputError(
            f"config key models: {config.model_type} sees the tokens that it is to predict (logits before a token "
            f"change by {100 * changed:.2g} % with it): choose a decoder"
        )


def last_logits(model: nn.Module, kept: int | torch.Tensor) -> dict[str, Any]:
    """What to call `model` with so that it gives the logits of some tokens alone; {} where it cannot.

    `kept`: how many of the last ones, or int64 [k] which, from the end.
    """
    accepted = inspect.signature(inner_model(model).forward)
    return {"logits_to_keep": kept} if "logits_to_keep" in accepted.parameters else {}


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

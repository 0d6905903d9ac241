"""What an arm will take, before it is trained: memory from shapes, on the meta device; seconds of some real steps.

Memory is that of a GPU's probe (`step.probe`). The model is built without weights and takes one step, in which every
tensor that PyTorch would make is noted, with its life; what autocast, attention and dropout do on a GPU is done here as
they do it there, and CUDA's caching allocator is played with these tensors.
"""

import bisect
import contextlib
import dataclasses
import functools
import math
import shutil
import statistics
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from peft_tradeoffs.inputs.model_check import empty_model, in_head, is_linear, load_config, name_outputs
from peft_tradeoffs.inputs.tokens import Split
from peft_tradeoffs.measure.devices import MASK, MIB, PREPARE, Device, Phases, StepTimer
from peft_tradeoffs.runs.plan import Plan
from peft_tradeoffs.tasks.task import TASKS
from peft_tradeoffs.tasks.texts import GENERAL
from peft_tradeoffs.training import engine, methods
from peft_tradeoffs.training.batches import (
    ResidentSplit,
    Shape,
    Sizes,
    _is_causal,
    additive_mask,
    choose_kernels,
    epoch_batches,
    evaluation_batches,
    longest_rows,
    no_mask,
    padded_length,
)
from peft_tradeoffs.training.decoding import decode
from peft_tradeoffs.training.methods import Outputs, Recipe
from peft_tradeoffs.training.run import Arm, Tokens, _decoding
from peft_tradeoffs.training.step import DTYPES, Subject
from peft_tradeoffs.training.targets import AtTargets, Behind, output_embeddings, piece
from peft_tradeoffs.training.updates import ADAMW, BLOCK, SMALLEST_8BIT, optimizer_bytes

META = torch.device("meta")
HOPPER_WORKSPACE, WORKSPACE = (
    2 * 32 * MIB,
    2 * 8519680,
)  # bytes of cuBLAS, of two threads: on an H100, H200 or newer GPU; else


# The model, without weights -------------------------------------------------------------------------------------------


def build(folder: Path, recipe: Recipe, outputs: Outputs, precision: str) -> nn.Module:
    """The model of an arm as `methods.build` makes it, on the meta device, of the folder's config.json alone.

    Frozen linear layers are held as `methods.hold_as_computed` would hold them, which cannot be tried here: in the
    precision of products, but under an adapter that reads the weights themselves. Raises InputError as `methods.build`.
    """
    task = TASKS[recipe.task]
    fields = task.model_fields(outputs.num_labels)
    if task.reader is None:
        fields["pad_token_id"] = outputs.pad_token_id
    config = load_config(folder, **fields)
    name_outputs(config, task.output_names(outputs.labels))
    model: Any = empty_model(config, task)
    head = task.head(model, recipe.head)
    exact = head or [name for name, module in model.named_modules() if module is model.get_output_embeddings()]
    for name, parameter in model.named_parameters():
        kept = in_head(name, head)
        parameter.data = parameter.data.to(torch.float32 if kept else getattr(torch, recipe.dtype))
    model.config.use_cache = False
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    if recipe.quantization:
        _quantise(model, recipe.quantization, exact)
    wrapped: nn.Module = model
    if recipe.peft:
        with META:
            wrapped = methods.add_adapter(model, recipe.peft, head, task.peft_task_type)
    if precision != "fp32" and not (recipe.peft or {}).get("use_dora"):
        _hold(wrapped, DTYPES[precision])
    return wrapped


def _quantise(model: nn.Module, quantization: dict[str, Any], skipped: list[str]) -> None:
    """Have linear layers hold 4 bits per weight, and the constants that bitsandbytes keeps beside them."""
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Linear4bit, Params4bit

    compute = getattr(torch, quantization["bnb_4bit_compute_dtype"])
    kind, nested = quantization["bnb_4bit_quant_type"], quantization["bnb_4bit_use_double_quant"]
    for name, layer in list(model.named_modules()):
        if type(layer) is not nn.Linear or any(name == part or name.startswith(f"{part}.") for part in skipped):
            continue
        with META:
            made = Linear4bit(layer.in_features, layer.out_features, layer.bias is not None, compute, nested, kind)
            blocks = math.ceil(layer.weight.numel() / 64)
            second = None
            if nested:
                second = QuantState(torch.empty(-(-blocks // 256)), None, torch.empty(256), 256, dtype=torch.float32)
            state = QuantState(
                absmax=torch.empty(blocks, dtype=torch.uint8 if nested else torch.float32),
                shape=layer.weight.shape,
                code=torch.empty(16),
                blocksize=64,
                quant_type=kind,
                dtype=layer.weight.dtype,
                offset=torch.empty(()) if nested else None,
                state2=second,
            )
            packed = torch.empty(math.ceil(layer.weight.numel() / 2), 1, dtype=torch.uint8)
        made.weight = Params4bit(
            packed, requires_grad=False, quant_state=state, blocksize=64, compress_statistics=nested, quant_type=kind,
            quant_storage=torch.uint8, bnb_quantized=True, module=made,
        )  # fmt: skip
        made.bias = layer.bias
        made.quant_state = state
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, made)
    model.requires_grad_(False)
    methods._treat_as_linear(model)  # noqa: SLF001


def _hold(model: nn.Module, dtype: torch.dtype) -> None:
    for parameter in methods._frozen(model):  # noqa: SLF001
        parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if is_linear(module) and state is not None and module.compute_dtype == dtype:
            state.dtype = dtype
    methods._cast_inputs(model, False)  # noqa: SLF001


def config_folder(source: dict[str, Any], fetched: Path, scratch: Path) -> Path | None:
    """A folder with the config.json of a model by its block of the configuration; None where there is none at hand.

    It is fetched, or stands in `scratch`, or is the user's, or the hub's cache has it; nothing is asked of the network.
    """
    for folder in (fetched, scratch):
        if (folder / "config.json").exists():
            return folder
    if source["source"] == "hub":
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(source["path"], "config.json", revision=source["revision"])
        if isinstance(found, str):
            shutil.copyfile(found, scratch / "config.json")
            return scratch
    own = Path(source.get("path") or "")
    return own if source["source"] == "folder" and (own / "config.json").exists() else None


# A step, without numbers ----------------------------------------------------------------------------------------------

LOWER, HIGHER = (  # what autocast computes in the precision of products on a GPU, and what in float32
    frozenset(names.split())
    for names in (
        "linear matmul __matmul__ __rmatmul__ mm bmm mv addmm addbmm baddbmm addmv addr einsum conv1d conv2d conv3d "
        "conv_transpose1d conv_transpose2d chain_matmul multi_dot prelu",
        "exp expm1 log log10 log2 log1p reciprocal rsqrt sinh cosh tan acos asin pow __pow__ __rpow__ softplus sum "
        "layer_norm group_norm rms_norm norm nll_loss cosine_similarity kl_div l1_loss smooth_l1_loss huber_loss "
        "mse_loss dist cdist cross_entropy binary_cross_entropy_with_logits renorm logsumexp prod softmax log_softmax "
        "cumprod cumsum softmin vector_norm",
    )
)


class _OnGpu(TorchFunctionMode):
    """Has functions on the meta device make the tensors that they make on a GPU under autocast to `product`, if any."""

    def __init__(self, product: torch.dtype | None) -> None:
        super().__init__()
        self._product = product

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            return _attention(self._product, *args, **kwargs)
        if name == "dropout" and func is not torch.dropout:
            return _dropout(*args, **kwargs)
        if self._product is not None and name in LOWER:
            args, kwargs = tree_map(functools.partial(_cast, self._product), (args, kwargs))
        elif self._product is not None and name in HIGHER:
            args, kwargs = tree_map(functools.partial(_cast, torch.float32), (args, kwargs))
        return func(*args, **kwargs)


def _cast(dtype: torch.dtype, value: Any) -> Any:
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point() and value.dtype != torch.float64
    return value.to(dtype) if is_float else value


def _dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """As on a GPU, where one byte per element is kept for the backward pass."""
    return torch.native_dropout(input, p, True)[0] if training and p > 0 else input


def _attention(product: torch.dtype | None, query: Any, key: Any, value: Any, attn_mask: Any = None, *_: Any,
               **options: Any) -> torch.Tensor:  # fmt: skip
    if product is not None:
        query, key, value = (_cast(product, one) for one in (query, key, value))
        attn_mask = _cast(product, attn_mask)
    apply: Callable[..., Any] = _Attention.apply
    found: torch.Tensor = apply(query, key, value, attn_mask)
    return found


class _Attention(torch.autograd.Function):
    """What a fused kernel makes and keeps: its inputs, its output and a float32 per query."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, mask: Any) -> torch.Tensor:
        batch, heads, length = query.shape[:3]
        output: torch.Tensor = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(
            query, key, value, mask, output, query.new_empty(batch, heads, length, dtype=torch.float32)
        )
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        query, key, value, _, _, kept = ctx.saved_tensors
        found = [torch.empty_like(one) for one in (query, key, value)]
        torch.empty_like(kept)  # the products of output and gradient, summed
        return (*found, None)


@contextlib.contextmanager
def _as_on_gpu(precision: str) -> Iterator[None]:
    """Within it modules on the meta device compute as on a GPU under autocast, and ask for it as they do there."""
    product = None if precision == "fp32" else DTYPES[precision]
    with (
        mock.patch.object(torch, "is_autocast_enabled", lambda *_: product is not None),
        mock.patch.object(torch, "get_autocast_dtype", lambda _: product or torch.bfloat16),
        _OnGpu(product),
    ):
        yield


class _AtTargets(AtTargets):
    """`AtTargets` of a model whose head nobody can look behind: it has the cap or scale that its config names."""

    def __init__(self, model: nn.Module) -> None:
        nn.Module.__init__(self)
        config: Any = getattr(model, "config", None)
        head = output_embeddings(model)
        cap = float(getattr(config, "final_logit_softcapping", None) or 0)
        scale = float(getattr(config, "logit_scale", None) or 1 / float(getattr(config, "logits_scaling", None) or 1))
        self.model, self._before, self._length, self._taken = model, None, 0, None
        self.behind = Behind(scale, cap) if type(head) is nn.Linear else None
        self._call = model
        self._piece = piece
        head.register_forward_pre_hook(self._take)


@dataclass(frozen=True)
class Need:
    """What a step of an arm holds on a GPU, in MiB; the names are those of a run's summary."""

    weights_MiB: float
    gradients_MiB: float
    optimizer_MiB: float
    activations_MiB: float
    probe_peak_allocated_MiB: float
    trainable_parameters: int

    @property
    def tensors_MiB(self) -> float:
        """The sizes of tensors added, which is the memory that a CPU's run is compared by."""
        return self.weights_MiB + self.gradients_MiB + self.optimizer_MiB + self.activations_MiB


@dataclass(frozen=True)
class Batch:
    """The batch of the probe: its shape, in so many parts, and whether texts have token types."""

    shape: Shape
    parts: int = 1
    token_types: bool = False


def needed(model: nn.Module, batch: Batch, precision: str, optimizer: str, workspace: int = HOPPER_WORKSPACE) -> Need:
    """What the probe of a model of `build` takes with a batch; `workspace`: bytes of the library of products."""
    held = _held(model, optimizer)
    allocator = Allocator()
    for tensor in _stored(model):
        allocator.take(tensor.untyped_storage().nbytes())
    allocator.take(workspace)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    paged = optimizer.startswith("paged")
    if not paged:
        for parameter in trained:
            for size in _moments(parameter, optimizer):
                allocator.take(size)
    model.train()
    mask = no_mask if _is_causal(model) else additive_mask
    choose_kernels(mask, model)
    rows = math.ceil(batch.shape[0] / batch.parts)
    saved = _Saved(model)
    with _as_on_gpu(precision), _Watched(allocator):
        for _ in range(min(2, batch.parts)):
            with torch.autograd.graph.saved_tensors_hooks(saved.count, lambda tensor: tensor):
                loss = _loss(model, rows, batch, precision, mask)
            saved.end()
            _backward(loss)
            del loss
    for parameter in model.parameters():
        parameter.grad = None
    return Need(
        weights_MiB=held["weights"] / MIB,
        gradients_MiB=held["gradients"] / MIB,
        optimizer_MiB=held["optimizer"] / MIB,
        activations_MiB=saved.bytes / MIB,
        probe_peak_allocated_MiB=allocator.peak / MIB,
        trainable_parameters=sum(parameter.numel() for parameter in trained),
    )


def _backward(loss: torch.Tensor) -> None:
    """As its method backward, in which a mode would see no function that a checkpointed block calls again."""
    gradient = torch.ones_like(loss)
    torch.autograd.graph._engine_run_backward(  # noqa: SLF001
        (loss,), (gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True
    )


def _loss(model: nn.Module, rows: int, batch: Batch, precision: str, mask: Any) -> torch.Tensor:
    _, length, *targets = batch.shape
    ids = torch.empty(rows, length, dtype=torch.int64, device=META)
    inputs = {"input_ids": ids} | ({"token_type_ids": torch.empty_like(ids)} if batch.token_types else {})
    seen = mask(torch.empty(rows, dtype=torch.int64, device=META), length, DTYPES[precision])
    if targets:
        places = torch.empty(rows, targets[0], dtype=torch.int64, device=META)
        found = _AtTargets(model)(positions=places, labels=places, attention_mask=seen, **inputs)
    else:
        found = model(**inputs, attention_mask=seen, labels=torch.empty(rows, dtype=torch.int64, device=META))
    loss: torch.Tensor = found.loss
    return loss


class _Saved:
    """Counts the bytes kept for the backward pass as `step.probe` does: each storage once, weights left out."""

    def __init__(self, model: nn.Module) -> None:
        self._weights = {_key(tensor) for tensor in _stored(model)}
        self._seen: dict[int, torch.UntypedStorage] = {}  # held, so that no other storage takes its place
        self.bytes = 0

    def count(self, tensor: torch.Tensor) -> torch.Tensor:
        """Take note of a tensor that is kept."""
        storage = tensor.untyped_storage()
        if _key(tensor) not in self._weights:
            self._seen.setdefault(_key(tensor), storage)
        return tensor.detach()

    def end(self) -> None:
        """The forward pass is over."""
        self.bytes = sum(storage.nbytes() for storage in self._seen.values())
        self._seen.clear()


class _Watched(TorchDispatchMode):
    """Tells an allocator of every storage that is made, and when it is freed."""

    def __init__(self, allocator: "Allocator") -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch's has no types
        self._allocator = allocator
        self._live: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_key(one) for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)}
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor) and (key := _key(tensor)) not in self._live and key not in given:
                storage = tensor.untyped_storage()
                self._live.add(key)
                block = self._allocator.take(storage.nbytes())
                weakref.finalize(storage, self._freed, key, block)
        return found

    def _freed(self, key: int, block: "Block | None") -> None:
        self._live.discard(key)
        self._allocator.give(block)


def _key(tensor: torch.Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata  # noqa: SLF001  (on the meta device nothing has an address)
    return key


def _stored(model: nn.Module) -> list[torch.Tensor]:
    """What holds the model's parameters and buffers, the constants of quantised ones too, each storage once."""
    constants = (one for parameter in model.parameters() for one in methods._quantization_constants(parameter))  # noqa: SLF001
    return list({_key(one): one for one in (*model.parameters(), *constants, *model.buffers())}.values())


def _held(model: nn.Module, optimizer: str) -> dict[str, int]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return {
        "weights": sum(tensor.untyped_storage().nbytes() for tensor in _stored(model)),
        "gradients": sum(parameter.numel() * parameter.element_size() for parameter in trained),
        "optimizer": optimizer_bytes(trained, optimizer),
    }


def _moments(parameter: torch.Tensor, optimizer: str) -> list[int]:
    """Bytes of each tensor that an optimizer keeps of a parameter."""
    if optimizer == ADAMW:
        return [parameter.numel() * parameter.element_size()] * 2 + [4]
    if parameter.numel() < SMALLEST_8BIT:
        return [4 * parameter.numel()] * 2
    return [parameter.numel()] * 2 + [4 * math.ceil(parameter.numel() / BLOCK)] * 2


# The allocator --------------------------------------------------------------------------------------------------------

ROUNDED, SMALL, LARGE = 512, MIB, 10 * MIB  # bytes, as in PyTorch's CUDACachingAllocator


@dataclass(eq=False)
class Block:
    """A piece of a segment of memory."""

    size: int
    small: bool  # of which pool
    free: bool = False
    before: "Block | None" = None
    after: "Block | None" = None


class Allocator:
    """CUDA's caching allocator: what is allocated counts what a block has more than was asked for, up to 1 MiB."""

    def __init__(self) -> None:
        self._free: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}
        self.allocated = self.peak = 0

    def take(self, size: int) -> Block | None:
        """A block of so many bytes."""
        if size == 0:
            return None
        size = -(-size // ROUNDED) * ROUNDED
        small = size <= SMALL
        pool = self._free[small]
        place = bisect.bisect_left(pool, (size, -1))
        block = pool.pop(place)[2] if place < len(pool) else Block(_segment(size), small)
        block.free = False
        rest = block.size - size
        if rest >= ROUNDED if small else rest > SMALL:
            block.size, after = size, Block(rest, small, True, block, block.after)
            if block.after is not None:
                block.after.before = after
            block.after = after
            self._put(after)
        self.allocated += block.size
        self.peak = max(self.peak, self.allocated)
        return block

    def give(self, block: Block | None) -> None:
        """Take a block back; neighbours that are free become one."""
        if block is None:
            return
        self.allocated -= block.size
        if (before := block.before) is not None and before.free:
            self._drop(before)
            block.size, block.before = block.size + before.size, before.before
            if block.before is not None:
                block.before.after = block
        if (after := block.after) is not None and after.free:
            self._drop(after)
            block.size, block.after = block.size + after.size, after.after
            if block.after is not None:
                block.after.before = block
        block.free = True
        self._put(block)

    def _put(self, block: Block) -> None:
        bisect.insort(self._free[block.small], (block.size, id(block), block))

    def _drop(self, block: Block) -> None:
        pool = self._free[block.small]
        del pool[bisect.bisect_left(pool, (block.size, id(block)))]


def _segment(size: int) -> int:
    """Bytes that are asked of the driver for a block that no free one can be."""
    if size <= SMALL:
        return 2 * MIB
    return 20 * MIB if size < LARGE else -(-size // (2 * MIB)) * 2 * MIB


# Some real steps ------------------------------------------------------------------------------------------------------

SHAPES = 4  # that steps are taken of, from the smallest to the largest
TAKEN = {"cpu": (1, 3), "cuda": (3, 10)}  # steps of each: before, and timed
POWER_S = 2.0  # of steps, of which power is the mean
SLOW_S = 2.0  # steps of a shape are no longer repeated once they have taken so long
EVALUATED = 4  # batches
ORDERED = 3  # epochs whose batches are looked at


@dataclass(frozen=True)
class Work:
    """What one run has to do: steps by shape, padded tokens of what each evaluation reads, prompts to answer."""

    rows: int
    steps: int
    shapes: dict[Shape, float]  # steps of each
    evaluations: int
    evaluated: int  # padded tokens each time
    once: int  # and once, after the last step or before the first: heldout, a general text
    prompts: int
    prompt_shapes: int  # of their batches
    predicted: int  # rows whose predictions are kept
    largest: Batch

    @property
    def per_shape(self) -> dict[int, float]:
        """Steps by padded tokens of their batch."""
        found: dict[int, float] = {}
        for (rows, length, *_), count in self.shapes.items():
            found[rows * length] = found.get(rows * length, 0) + count
        return found

    def share(self, gpus: int) -> "Work":
        """What one of so many GPUs has of it: its rows of every batch, and its turns of what is evaluated."""
        shapes: dict[Shape, float] = {}
        for (rows, *padded), count in self.shapes.items():
            shape = (-(-rows // gpus), *padded)
            shapes[shape] = shapes.get(shape, 0) + count
        rows, *padded = self.largest.shape
        largest = dataclasses.replace(self.largest, shape=(-(-rows // gpus), *padded))
        evaluated, once = -(-self.evaluated // gpus), -(-self.once // gpus)
        own = {"evaluated": evaluated, "once": once, "prompts": -(-self.prompts // gpus)}
        return dataclasses.replace(self, shapes=shapes, largest=largest, **own)

    def of_trial(self, share: float, epochs: int, max_steps: int | None, dev: int, batch_size: int) -> "Work":
        """That of a trial on a `share` of the rows, which reads `dev` padded tokens after each of its epochs."""
        rows = round(share * self.rows)
        per_epoch = math.ceil(rows / batch_size)
        steps = max_steps or epochs * per_epoch
        shapes = {shape: count * steps / self.steps for shape, count in self.shapes.items()}
        return dataclasses.replace(
            self, rows=rows, steps=steps, shapes=shapes, evaluations=math.ceil(steps / per_epoch), evaluated=dev, once=0
        )


def work(splits: dict[str, Split], settings: dict[str, Any], seed: int) -> Work:
    """What a run by these settings does with these splits."""
    train = splits["train"]
    sizes, batch_size = Sizes.of(train), settings["batch_size"]
    per_epoch = math.ceil(len(train) / batch_size)
    steps = settings["max_steps"] or settings["epochs"] * per_epoch
    counted: dict[Shape, float] = {}
    epochs = math.ceil(steps / per_epoch)
    for epoch in range(min(epochs, ORDERED)):
        batches = epoch_batches(sizes.lengths, batch_size, seed, epoch)
        for shape in sizes.shapes(batches):
            counted[shape] = counted.get(shape, 0) + 1
    looked_at = min(epochs, ORDERED) * per_epoch
    longest = sizes.largest(longest_rows(train.lengths, batch_size))
    again = [split for name, split in splits.items() if name in ("validation", "test")]
    once = [split for name, split in splits.items() if name == "heldout"]
    general = splits.get(GENERAL)
    size = settings["evaluation_batch_size"]
    asks = settings["generate"]
    prompts = [len(prompt) for prompt in splits["test"].prompts] if asks else []
    return Work(
        rows=len(train),
        steps=steps,
        shapes={shape: count * steps / looked_at for shape, count in counted.items()},
        evaluations=epochs,
        evaluated=sum(padded_tokens(split, size) for split in again),
        once=sum(padded_tokens(split, size) for split in once) + (2 * padded_tokens(general, size) if general else 0),
        prompts=len(prompts),
        prompt_shapes=_shapes(np.array(prompts), asks["batch_size"]) if prompts else 0,
        predicted=sum(len(split) for name, split in splits.items() if name in ("test", "heldout")),
        largest=Batch(longest, settings["gradient_accumulation_steps"], train.token_type_ids is not None),
    )


def _shapes(lengths: np.ndarray, batch_size: int) -> int:
    """How many shapes there are among batches of texts of these lengths."""
    return len({(len(rows), padded_length(lengths[rows])) for rows in evaluation_batches(lengths, batch_size)})


def padded_tokens(split: Split, batch_size: int) -> int:
    """Tokens of a split's batches of evaluation, padding too."""
    sizes = Sizes.of(split)
    shapes = (sizes.shape(rows) for rows in evaluation_batches(sizes.lengths, batch_size))
    return sum(shape[0] * shape[1] for shape in shapes)


@dataclass(frozen=True)
class Timed:
    """Seconds of an arm's parts on this device, each taken from a few real ones."""

    load_s: float  # of each run, before its probe
    probe_s: float
    prepare_s: float  # without what `shape_s` has
    shape_s: float  # of each shape: its graph
    compile_s: float
    steps: list[tuple[int, float]]  # padded tokens of a batch, ascending, and seconds of a step
    token_s: float  # of a padded token in an evaluation
    answers_s: float | None  # of a batch of prompts, all its tokens written
    answers_shape_s: float  # of each shape of such batches: its graph
    peak_MiB: float | None  # of the probe; None on a CPU
    power_W: float | None  # while it trained; None without a GPU's counter

    def step_s(self, padded: int) -> float:
        """Seconds of a step of so many padded tokens."""
        sizes, seconds = zip(*self.steps, strict=True)
        return float(np.interp(padded, sizes, seconds))

    def train_s(self, work: Work) -> float:
        """Seconds of a run's steps."""
        return sum(count * self.step_s(padded) for padded, count in work.per_shape.items())

    def run_s(self, work: Work, prompts_at_once: int, probed: bool = True) -> float:
        """Seconds of a run, but for the start of its job, saving, and the scoring of its answers."""
        read = work.evaluations * work.evaluated + work.once
        answers = math.ceil(work.prompts / prompts_at_once) * (self.answers_s or 0.0)
        answers += min(work.prompt_shapes, work.prompts) * self.answers_shape_s
        own = self.load_s + self.prepare_s + self.compile_s + len(work.shapes) * self.shape_s
        return own + self.probe_s * probed + self.train_s(work) + read * self.token_s + answers


def timed(plan: Plan, tokens: Tokens, device: Device, work: Work) -> Timed:
    """Prepare an arm as a run does, probe included, and take some steps, evaluate and answer some batches.

    No weight changes: the learning rate is 0. Raises torch.OutOfMemoryError, or a RuntimeError that says the same.
    """
    plan = dataclasses.replace(plan, settings={**plan.settings, "learning_rate": 0.0})
    kind, settings = device.torch, plan.settings
    meter = device.energy_meter()
    phases = Phases(kind, meters={"train": {"energy": meter}})
    phases.switch("load")
    arm = Arm.of(plan, tokens, kind)
    subject = arm.subject(plan, tokens.data(settings["task"]))
    prepared = engine.Prepared.of(subject, engine.begin(subject, kind, phases), kind, phases)
    chosen = _representative(subject, work)
    prepared.step.begin([next(reversed(chosen.values()))], 0, 0)  # what is captured is tried out on the largest
    prepared.make_ready(list(chosen))
    phases.switch("train")
    steps = {shape[0] * shape[1]: _step_s(prepared, shape, rows) for shape, rows in chosen.items()}
    if kind.type == "cuda":  # its counter of energy moves every tenth of a second
        began, shape = time.perf_counter(), list(chosen)[len(chosen) // 2]
        while time.perf_counter() - began < POWER_S:
            _step_s(prepared, shape, chosen[shape])
    phases.switch("evaluate")
    token_s = _token_s(prepared, settings["evaluation_batch_size"])
    phases.switch(None)
    answers_s, answers_shape_s = _answers_s(prepared, plan, tokens) if work.prompts else (None, 0.0)
    seconds, made = phases.seconds, prepared.steps
    used = meter.totals()
    read = used["energy_window_s"] > 0 and not used["energy_reason"]
    return Timed(
        load_s=seconds["load"] + seconds.get(MASK, 0.0),
        probe_s=seconds.get("probe", 0.0),
        prepare_s=max(0.0, seconds.get(PREPARE, 0.0) - made.capture_s - made.compile_s),
        shape_s=made.capture_s / len(chosen),
        compile_s=made.compile_s,
        steps=sorted(steps.items()),
        token_s=token_s,
        answers_s=answers_s,
        answers_shape_s=answers_shape_s,
        peak_MiB=phases.peaks.get("probe_peak_allocated_MiB"),
        power_W=used["energy_J"] / used["energy_window_s"] if read else None,
    )


def _representative(subject: Subject, work: Work) -> dict[Shape, np.ndarray]:
    """Some of the shapes of a run's batches, from the smallest to the largest, and rows of a batch of each."""
    sizes = Sizes.of(subject.data.splits["train"])
    batches = epoch_batches(sizes.lengths, subject.settings.batch_size, subject.seed, 0)
    found = dict(zip(sizes.shapes(batches), batches, strict=True))
    whole = {shape: rows for shape, rows in found.items() if len(rows) == len(max(batches, key=len))}
    ordered = sorted(whole, key=lambda shape: (shape[0] * shape[1], shape))
    places = np.linspace(0, len(ordered) - 1, min(SHAPES, len(ordered))).round().astype(int)
    return {ordered[place]: whole[ordered[place]] for place in places}


def _step_s(prepared: engine.Prepared, shape: Shape, rows: np.ndarray) -> float:
    warm, count = TAKEN[prepared.device.type]
    prepared.subject.model.train()
    seconds: list[float] = []
    for _ in range(warm):
        prepared.step.begin([rows], 0, 0)  # each is the run's first: it may have fewer steps than are taken here
        prepared.steps(shape)
    for _ in range(count):
        prepared.step.begin([rows], 0, 0)
        timer = StepTimer(prepared.device, [])
        timer.start()
        prepared.steps(shape)
        timer.stop()
        seconds += timer.seconds()
        if sum(seconds) > SLOW_S:
            break
    return statistics.median(seconds)


def _token_s(prepared: engine.Prepared, batch_size: int) -> float:
    """Seconds per padded token of some batches of the test split, spread over its lengths."""
    subject, device = prepared.subject, prepared.device
    split = subject.data.scaled["test"]
    batches = list(evaluation_batches(split.lengths, batch_size))
    places = np.linspace(0, len(batches) - 1, min(EVALUATED, len(batches))).round().astype(int)
    some = split.take(np.concatenate([batches[place] for place in places]))
    resident, sizes = ResidentSplit(some, subject.data.pad_token_id, device), Sizes.of(some)
    predict = functools.partial(engine.predict, subject, resident, sizes, prepared.mask)
    if device.type == "cuda":
        predict()  # the first meets kernels that are not loaded yet
    began = time.perf_counter()
    predict()
    return (time.perf_counter() - began) / padded_tokens(some, batch_size)


def _answers_s(prepared: engine.Prepared, plan: Plan, tokens: Tokens) -> tuple[float, float]:
    """Seconds in which a batch of prompts is answered, if no answer ends before it must, and those of its graph."""
    wanted = dataclasses.replace(_decoding(plan, tokens), end_tokens=())
    few = wanted if prepared.device.type == "cuda" else dataclasses.replace(wanted, max_new_tokens=FEW_TOKENS)
    few = few if few.max_new_tokens < wanted.max_new_tokens else wanted
    prompts = sorted(tokens.splits["test"].prompts, key=len)
    middle = max(0, len(prompts) - wanted.batch_size) // 2
    chosen, model, device = prompts[middle : middle + wanted.batch_size], prepared.subject.model, prepared.device
    if device.type == "cuda":
        decode(model, chosen, dataclasses.replace(few, max_new_tokens=1), device)  # as in `_token_s`
    began = time.perf_counter()
    decoded = decode(model, chosen, few, device)
    seconds = time.perf_counter() - began - decoded.capture_s
    return seconds * wanted.max_new_tokens / few.max_new_tokens, decoded.capture_s


FEW_TOKENS = 8  # that answers have on a CPU

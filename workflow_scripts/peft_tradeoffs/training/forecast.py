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
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from peft_tradeoffs.inputs.model_check import empty_model, in_head, is_linear, load_config, name_outputs
from peft_tradeoffs.measure.devices import MIB
from peft_tradeoffs.tasks.task import TASKS
from peft_tradeoffs.tasks.texts import IGNORED
from peft_tradeoffs.training import methods
from peft_tradeoffs.training.batches import Shape, _is_causal, additive_mask, choose_kernels, no_mask
from peft_tradeoffs.training.methods import Outputs, Recipe
from peft_tradeoffs.training.step import DTYPES
from peft_tradeoffs.training.targets import AtTargets, Behind, output_embeddings, piece
from peft_tradeoffs.training.updates import ADAMW, BLOCK, SMALLEST_8BIT, optimizer_bytes

META = torch.device("meta")
HOPPER_WORKSPACE, WORKSPACE = 2 * 32 * MIB, 2 * 8519680  # bytes of cuBLAS, of two threads: on an H100, H200 or newer GPU; else


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


# A step, without numbers ----------------------------------------------------------------------------------------------

LOWER = frozenset(  # what autocast computes in the precision of products on a GPU
    "linear matmul __matmul__ __rmatmul__ mm bmm mv addmm addbmm baddbmm addmv addr einsum conv1d conv2d conv3d prelu "
    "conv_transpose1d conv_transpose2d chain_matmul multi_dot".split()
)
HIGHER = frozenset(  # and in float32
    "exp expm1 log log10 log2 log1p reciprocal rsqrt sinh cosh tan acos asin pow __pow__ __rpow__ softplus layer_norm "
    "group_norm rms_norm norm nll_loss cosine_similarity kl_div l1_loss smooth_l1_loss huber_loss mse_loss cross_entropy "
    "binary_cross_entropy_with_logits dist cdist renorm logsumexp prod softmax log_softmax cumprod cumsum sum "
    "softmin vector_norm".split()
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
    apply: Callable[..., torch.Tensor] = _Attention.apply
    return apply(query, key, value, attn_mask)


class _Attention(torch.autograd.Function):
    """What a fused kernel makes and keeps: its inputs, its output and a float32 per query."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, mask: Any) -> torch.Tensor:
        batch, heads, length = query.shape[:3]
        output = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        ctx.save_for_backward(query, key, value, mask, output, query.new_empty(batch, heads, length, dtype=torch.float32))
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
        mock.patch.object(torch, "get_autocast_dtype", lambda _: product),
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
    """As `loss.backward()`, in which a mode would see no function that a checkpointed block calls again."""
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
            self._seen.setdefault(storage._cdata, storage)
        return tensor.detach()

    def end(self) -> None:
        """The forward pass is over."""
        self.bytes = sum(storage.nbytes() for storage in self._seen.values())
        self._seen.clear()


class _Watched(TorchDispatchMode):
    """Tells an allocator of every storage that is made, and when it is freed."""

    def __init__(self, allocator: "Allocator") -> None:
        super().__init__()
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
    return tensor.untyped_storage()._cdata


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

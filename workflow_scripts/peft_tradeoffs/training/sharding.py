"""A model of whose every weight each rank holds a part: what FSDP2 shards, what is quantised, the state of one process.

Layers are whole while they compute, one or two at a time. What is trained is seen by optimizer and state as this rank's
part of it, a plain tensor.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from peft_tradeoffs.core.errors import InputError, error_text
from peft_tradeoffs.training.parallel import World


class Shards:
    """The parts of a sharded model that this rank holds."""

    def __init__(self, model: nn.Module, world: World) -> None:
        """Shard `model` in place: each repeated layer, and together what else there is."""
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        self._model, self._world = model, world
        trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        if any(parameter._backward_hooks for parameter in trained.values()):  # noqa: SLF001  # FSDP2 would lose them
            raise InputError(
                "config key training.parallel: sharded cannot train this peft_type, which changes gradients on their "
                "way; set data, or choose another type"
            )
        for parameter in trained.values():  # drawn alike by every rank, which is not left to chance
            world.send(parameter.detach())
        device = next(model.parameters()).device
        self._mesh: Any = world.mesh(device)
        self._layers = layers(model)
        packed = {one for layer in self._layers for one in layer.parameters() if not one.is_floating_point()}
        self._packed = [Packed([one for one in layer.parameters() if one in packed], world) for layer in self._layers]
        ignored = {one for one in model.parameters() if not one.is_floating_point()}  # all on each rank, if in no layer
        for module in (*self._layers, *_of_another_dtype(model, self._layers), model):
            try:
                sharded: Any = fully_shard(module, mesh=self._mesh, mp_policy=_policy(module), ignored_params=ignored)
            except (TypeError, ValueError, NotImplementedError) as error:
                raise InputError(
                    f"config key training.parallel: sharded cannot cut this model ({error_text(error)}); set data, or "
                    "choose another peft_type"
                ) from error
            sharded.set_gradient_divide_factor(1.0)  # gradients are summed: see `parallel`
            sharded.set_force_sum_reduction_for_comms(True)
        if hasattr(model, "generate"):  # PEFT's calls the model within, beside the root's hooks
            register_fsdp_forward_method(model, "generate")
        self._held: dict[str, Any] = {name: p for name, p in model.named_parameters() if name in trained}
        self.parts = {name: nn.Parameter(p.to_local().detach()) for name, p in self._held.items()}
        self._backward = False  # whether layers compute backwards now
        self._hooks = [] if not packed else [model.register_forward_pre_hook(lambda *_: self._release())]
        for number, layer in enumerate(self._layers if packed else ()):
            before = layer.register_forward_pre_hook(lambda *_, number=number: self._packed[number].assemble())
            after = layer.register_forward_hook(lambda _, __, output, number=number: self._computed(number, output))
            self._hooks += [before, after]

    def sum(self) -> None:
        """Give this rank's parts the gradients that the backward pass has summed over the ranks."""
        self._release()
        for name, part in self.parts.items():
            held = self._held[name]
            part.grad = None if held.grad is None else held.grad.to_local()
            held.grad = None

    def rest(self) -> None:
        """Let go of what a forward pass without a backward pass left whole; weights may change then."""
        root: Any = self._model
        if root._get_fsdp_state()._is_root is not None:  # noqa: SLF001  # it has computed
            root.reset_iter_state()
        self._release()

    def _release(self) -> None:
        self._backward = False
        for packed in self._packed:
            packed.release()

    def _computed(self, number: int, output: Any) -> None:
        """After a layer's forward pass, or that pass done again in the backward pass, which needs its weights yet."""
        if self._backward:
            return
        self._packed[number].release()
        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(lambda _: self._computes_backwards(number))

    def _computes_backwards(self, number: int) -> None:
        """Before a layer's backward pass: those that came before it are done."""
        self._backward = True
        for other, packed in enumerate(self._packed):
            if other != number:
                packed.release()
        self._packed[number].assemble()

    def compile(self) -> None:
        """Have torch.compile make what layers compute in training, between FSDP's hooks."""
        for layer in self._layers:
            layer.forward = _compiled_in_training(layer.forward)

    def is_weight(self, storage: torch.UntypedStorage) -> bool:
        """Whether it is one that a weight is in while it is whole."""
        groups = (group for module in self._model.modules() for group in _groups(module))
        found = (getattr(one, "_unsharded_param", None) for group in groups for one in group.fsdp_params)
        return any(storage._cdata == p.untyped_storage()._cdata for p in found if p is not None)  # noqa: SLF001

    # State

    def whole(self, name: str, part: torch.Tensor) -> torch.Tensor:
        """On every rank a weight, its gradient or its moment, of which each has a part."""
        from torch.distributed.tensor import DTensor

        held = self._held[name]
        shape = {"shape": held.shape, "stride": held.stride()}
        sharded = DTensor.from_local(part.detach(), self._mesh, held.placements, run_check=False, **shape)
        found: torch.Tensor = sharded.full_tensor()
        return found

    def gathered(self, saved: dict[str, Any], order: list[nn.Parameter]) -> dict[str, Any]:
        """A `snapshot` of this rank's parts as one process has it; all ranks take part, and rank 0 gets the tensors."""
        names = {id(part): name for name, part in self.parts.items()}
        parameters = {name: self._taken(self.whole(name, part)) for name, part in saved["parameters"].items()}
        states = {
            index: {
                key: self._taken(self.whole(names[id(order[index])], value)) if _is_part(value, order[index]) else value
                for key, value in state.items()
            }
            for index, state in saved["updates"]["optimizer"].items()
        }
        return {**saved, "parameters": parameters, "updates": {**saved["updates"], "optimizer": states}}

    def scattered(self, saved: dict[str, Any], own: dict[int, dict[str, Any]], order: list[nn.Parameter]) -> Any:
        """The `snapshot` of one process, which rank 0 has, as this rank's parts; `own`: the optimizer's state here."""
        self.rest()
        names = {id(part): name for name, part in self.parts.items()}
        parameters = {name: self._part(name, saved["parameters"].get(name), part) for name, part in self.parts.items()}
        states = {
            index: {
                **saved["updates"]["optimizer"][index],
                **{
                    key: self._part(
                        names[id(order[index])] if _is_part(value, order[index]) else None,
                        saved["updates"]["optimizer"][index].get(key),
                        value,
                    )
                    for key, value in sorted(state.items())
                    if isinstance(value, torch.Tensor)
                },
            }
            for index, state in own.items()
        }
        return {**saved, "parameters": parameters, "updates": {**saved["updates"], "optimizer": states}}

    def unite(self, computes: bool) -> None:
        """Make the model a plain one again on rank 0, of what is trained alone unless it `computes`; no rank trains on.

        One that does not compute has its weights on the CPU, for a rank may not have the memory.
        """
        from torch.distributed.tensor import DTensor

        self.rest()
        for hook in self._hooks:
            hook.remove()
        for packed in self._packed if computes else ():
            packed.assemble()
        united: dict[int, nn.Parameter] = {}  # a weight may stand in two modules
        for module in self._model.modules():
            for name, held in list(module._parameters.items()):  # noqa: SLF001
                if isinstance(held, DTensor) and (computes or held.requires_grad):
                    if id(held) not in united:
                        whole = self._taken(held.detach().full_tensor(), computes)
                        united[id(held)] = nn.Parameter(whole, held.requires_grad)
                    module._parameters[name] = united[id(held)]  # noqa: SLF001
        self._model.__dict__.pop("generate", None)
        for module in self._model.modules():
            _forget(module)

    def _taken(self, tensor: torch.Tensor, computes: bool = False) -> torch.Tensor:
        if not self._world.leads:
            return tensor.new_empty(0)
        return tensor if computes else tensor.cpu()

    def _part(self, name: str | None, whole: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
        """Of a tensor that rank 0 has this rank's part; all of it where no weight is named."""
        shape = like.shape if name is None else self._held[name].shape
        sent = torch.empty(shape, dtype=like.dtype, device=like.device)
        if whole is not None:
            sent.copy_(whole)
        self._world.send(sent)
        if name is None:
            return sent
        rows = -(-len(sent) // self._world.size)  # as FSDP2 cuts them: the last ranks may have fewer, or none
        return sent[rows * self._world.rank : rows * self._world.rank + len(like)].clone()


class Packed:
    """The quantised weights of a layer: bytes, of which each rank has a part, and all of them while the layer computes.

    FSDP2 would have them require gradients, or take them for numbers, whose bits a copy may change.
    """

    def __init__(self, weights: list[nn.Parameter], world: World) -> None:
        """Let go of all bytes but this rank's."""
        self._weights, self._world = weights, world
        self._sizes = [weight.nbytes for weight in weights]
        parts = []
        for weight, size in zip(weights, self._sizes, strict=True):
            if weight.untyped_storage().nbytes() != size or not weight.is_contiguous():
                weight.data = weight.data.clone(memory_format=torch.contiguous_format)
            rows = -(-size // world.size)
            padded = torch.zeros(rows * world.size, dtype=torch.uint8, device=weight.device)
            padded[:size] = _bytes_of(weight)
            parts.append(padded[rows * world.rank : rows * (world.rank + 1)])
        self.part = torch.cat(parts) if parts else None
        self._whole = True
        self.release()

    def assemble(self) -> None:
        """Have all bytes, where they were: what autograd keeps of a weight sees them too."""
        if self._whole or self.part is None:
            return
        self._whole = True
        found = self.part.new_empty(self._world.size, len(self.part))
        self._world.assemble(found, self.part)
        rows = [-(-size // self._world.size) for size in self._sizes]
        for weight, size, bytes_ in zip(self._weights, self._sizes, found.split(rows, dim=1), strict=True):
            weight.untyped_storage().resize_(size)
            _bytes_of(weight).copy_(bytes_.reshape(-1)[:size])

    def release(self) -> None:
        """Let go of what other ranks have."""
        for weight in self._weights if self._whole else ():
            weight.untyped_storage().resize_(0)
        self._whole = False


def _bytes_of(weight: nn.Parameter) -> torch.Tensor:
    """[n] uint8, in place. Not through autograd, to which the bytes stay what they were."""
    return weight.data.view(-1).view(torch.uint8)


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    """Those that a layer gives."""
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, dict):
        yield from _tensors(tuple(output.values()))
    elif isinstance(output, (tuple, list)):
        for one in output:
            yield from _tensors(one)


def _is_part(value: Any, part: nn.Parameter) -> bool:
    """Whether an optimizer's state has an element for each of a weight's part."""
    return isinstance(value, torch.Tensor) and value.ndim > 0 and value.shape == part.shape


def layers(model: nn.Module) -> list[nn.Module]:
    """The modules that a model repeats, by the names that Transformers has for them, else its longest list of a kind.

    None of them shares a weight with another part of the model, which FSDP2 would refuse.
    """
    named = {name for module in model.modules() for name in getattr(module, "_no_split_modules", None) or ()}
    found = list(_outermost(model, named))
    if not found:
        lists = [one for one in model.modules() if isinstance(one, nn.ModuleList) and len({type(m) for m in one}) == 1]
        found = list(max(lists, key=len, default=[]))
    owners: dict[int, set[int]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():  # noqa: SLF001
            owners.setdefault(id(parameter), set()).add(id(module))
    layers_of = Counter(id(parameter) for module in found for parameter in set(module.parameters()))
    return [
        module
        for module in found
        if any(True for _ in module.parameters())
        and _alone(module, owners)
        and all(layers_of[id(parameter)] == 1 for parameter in module.parameters())  # nor a module that has it
    ]


def _outermost(module: nn.Module, names: set[str]) -> Iterator[nn.Module]:
    for child in module.children():
        if type(child).__name__ in names:
            yield child
        else:
            yield from _outermost(child, names)


def _alone(module: nn.Module, owners: dict[int, set[int]]) -> bool:
    """Whether no other part of the model has a weight of the module's."""
    own = {id(one) for one in module.modules()}
    return all(owners[id(parameter)] <= own for parameter in module.parameters())


def _of_another_dtype(model: nn.Module, apart: list[nn.Module]) -> list[nn.Module]:
    """Modules beside the layers whose trained weights are not of the dtype of most: FSDP2 reduces one dtype at once."""
    within = {id(one) for module in apart for one in module.modules()}
    trained = {
        module: parameter
        for module in model.modules()
        for parameter in module.parameters(recurse=False)
        if parameter.requires_grad and id(module) not in within
    }
    sizes: dict[torch.dtype, int] = {}
    for parameter in trained.values():
        sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
    most = max(sizes, key=lambda dtype: sizes[dtype], default=None)
    return [module for module, parameter in trained.items() if parameter.dtype != most]


def _policy(module: nn.Module) -> Any:
    """Gradients of 16 bits are summed in float32, as those of `parallel.Gradients` are."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    narrow = any(p.requires_grad and p.is_floating_point() and p.dtype.itemsize < 4 for p in module.parameters())
    return MixedPrecisionPolicy(reduce_dtype=torch.float32 if narrow else None)


def _compiled_in_training(forward: Callable[..., Any]) -> Callable[..., Any]:
    compiled = torch.compile(forward, dynamic=True)
    return lambda *words, **named: (compiled if torch.is_grad_enabled() else forward)(*words, **named)


def _groups(module: Any) -> list[Any]:
    """FSDP's groups of weights whose layer a module is."""
    from torch.distributed.fsdp import FSDPModule

    return module._get_fsdp_state()._fsdp_param_groups if isinstance(module, FSDPModule) else []  # noqa: SLF001


def _forget(module: Any) -> None:
    """Take FSDP's hooks and class from a module."""
    from torch.distributed.fsdp import FSDPModule

    if isinstance(module, FSDPModule):
        state: Any = module._get_fsdp_state()  # noqa: SLF001
        state._pre_forward_hook_handle.remove()  # noqa: SLF001
        state._post_forward_hook_handle.remove()  # noqa: SLF001
        module.__class__ = type(module).__mro__[module._orig_cls_mro_index]  # noqa: SLF001

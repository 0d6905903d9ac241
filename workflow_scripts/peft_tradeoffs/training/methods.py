"""Builds the model of an arm: weights, quantisation, adapter, head, the precision of what is frozen."""

import contextlib
import dataclasses
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from peft_tradeoffs.core.errors import InputError, error_text
from peft_tradeoffs.core.files import shared, system_errors, write_json
from peft_tradeoffs.core.layout import HEAD
from peft_tradeoffs.inputs.model_check import (
    check_loaded,
    empty_model,
    in_head,
    is_linear,
    linear_names,
    load_config,
    name_outputs,
    saved_head,
)
from peft_tradeoffs.inputs.model_files import check_layers, check_patterns, check_targets
from peft_tradeoffs.measure.devices import dense_parts, refused_bytes
from peft_tradeoffs.tasks.task import TASKS, Scale
from peft_tradeoffs.training.batches import CHECKED, last_logits
from peft_tradeoffs.training.step import DTYPES, autocast
from peft_tradeoffs.training.updates import ADAMW, optimizer_bytes

# What PEFT raises for settings that it cannot use on a model; it does not check them all itself.
REFUSALS = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError, RuntimeError, re.error)

CLOSE = 1e-3  # of a standard deviation: what rounding may change where the weights give the data's units

# On its import it advises a package that we do not take: its kernels compute otherwise, and come from the hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "pip install kernels" not in str(record.msg)
)


@dataclass(frozen=True)
class Parameters:
    """Logical parameter counts: quantised weights unpacked, every weight once."""

    backbone: int
    head: int
    adapter: int
    trainable: int

    @property
    def total(self) -> int:
        return self.backbone + self.head + self.adapter


@dataclass(frozen=True)
class Built:
    """A model ready to train."""

    model: nn.Module
    parameters: Parameters
    head: list[str]  # module names in the base model
    is_peft: bool
    use_cache: bool | None = None  # of the checkpoint's configuration; it is off while the model trains


@dataclass(frozen=True)
class Recipe:
    """What an arm makes of a checkpoint; described in schemas/config.schema.yaml.

    `dtype` (float32 or, under autocast alone, bfloat16) is what the base weights are held in, of a quantised model
    those that are not quantised. Adapter and head are float32, whatever `dtype`.
    """

    peft: dict[str, Any] | None
    quantization: dict[str, Any] | None
    gradient_checkpointing: bool
    head: list[str] | None  # None: as the architecture has it
    task: str
    dtype: str = "float32"

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Recipe":
        """Take from a run's settings those that the model needs."""
        return cls(**{field.name: settings[field.name] for field in dataclasses.fields(cls)})


@dataclass(frozen=True)
class Outputs:
    """What the data ask of a model."""

    num_labels: int
    pad_token_id: int
    labels: list[str] | None = None  # names of the classes in the order of their indices

    @classmethod
    def of(cls, description: dict[str, Any]) -> "Outputs":
        """Take them from the description of tokenised splits."""
        return cls(description["num_labels"], description["pad_token_id"], description["labels"])


def build(
    folder: Path,
    recipe: Recipe,
    outputs: Outputs,
    seed: int,
    device: str,
    checkpoint_arguments: dict[str, Any] | None = None,
) -> Built:
    """Load the model in `folder` and make it the arm's.

    Its configuration gets the names of the classes in place of those of the checkpoint, which are another task's.
    `checkpoint_arguments` of gradient checkpointing are laid over {"use_reentrant": False}.

    The head is drawn from `seed` alone, so every arm of a seed starts with the same one; it is trained in
    full and never quantised. Raises InputError for a checkpoint that lacks backbone weights, a head module
    that does not exist, or target modules that match nothing.
    """
    task, peft, quantization = TASKS[recipe.task], recipe.peft, recipe.quantization
    fields = task.model_fields(outputs.num_labels)
    if task.reader is None:  # a causal model's embedding of its pad token, which may be eos, would not be trained
        fields["pad_token_id"] = outputs.pad_token_id
    config = load_config(folder, **fields)
    name_outputs(config, task.output_names(outputs.labels))
    empty = empty_model(config, task)
    head = task.head(empty, recipe.head)
    exact = head or [name for name, module in empty.named_modules() if module is empty.get_output_embeddings()]
    loader: Any = _keeping_in_float32(type(empty), head)
    with _saying_why():
        model, info = loader.from_pretrained(
            folder,
            config=config,
            dtype=getattr(torch, recipe.dtype),
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # a head of another task; any other is refused below
            output_loading_info=True,
            device_map={"": device},
            quantization_config=_quantization_config(quantization, exact, empty),
        )
    model.__class__ = type(empty)
    missing = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    check_loaded(info, head, folder)
    _draw_head(model, missing, head, seed)
    logical = logical_sizes(model)
    use_cache = getattr(model.config, "use_cache", None)
    model.config.use_cache = False
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, **(checkpoint_arguments or {})})
    if quantization:
        _treat_as_linear(model)
    if peft:
        torch.manual_seed(seed)  # the adapter's draw
        model = add_adapter(model, peft, head, task.peft_task_type)
    return Built(model, _count(model, logical, head), head, bool(peft), use_cache)


def add_adapter(model: PreTrainedModel, peft: dict[str, Any], head: list[str], task_type: str) -> nn.Module:
    """Wrap `model` with the PEFT configuration `peft` ({"peft_type": ..., field: value}); `task_type` is PEFT's.

    Raises InputError if PEFT refuses it, naming the model's linear layers where no target module matches.
    """
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftConfig, PeftType, TaskType, get_peft_model

    from peft_tradeoffs.training.lora import join_products

    fields = {key: value for key, value in peft.items() if key != "peft_type"}
    if peft["peft_type"] == "IA3" and isinstance(peft.get("target_modules"), list):
        fields.setdefault("feedforward_modules", _targeted_feedforward(model, peft["target_modules"]))
    targets, linear = peft.get("target_modules"), linear_names(model)
    check_targets(targets, [name for name, _ in model.named_modules()], linear)
    try:
        kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(peft["peft_type"])]
        config = kind(task_type=TaskType[task_type], modules_to_save=list(head), **fields)
        wrapped: nn.Module = get_peft_model(model, config)
        join_products(wrapped)
        # As whoever loads the adapter will:
        PeftConfig.from_peft_type(**config.to_dict())
    except ImportError as error:
        raise InputError(
            f"{peft['peft_type']}: {error_text(error)}; install what it needs, or choose another peft_type"
        ) from error
    except REFUSALS as error:
        if refused_bytes(error)[0]:
            raise
        raise InputError(
            f"{peft['peft_type']} with target_modules {targets or 'by default'} does not "
            f"fit {type(model).__name__}: {error_text(error)} (its linear layers: {', '.join(linear)})"
        ) from error
    adapted = list(getattr(wrapped.base_model, "targeted_module_names", []))
    if adapted:
        check_patterns(peft, adapted)
        check_layers(peft.get("layers_to_transform"), adapted)
    for parameter in wrapped.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:  # PEFT casts most adapters, not all
            parameter.data = parameter.data.float()
    return wrapped


def head_facts(built: Built) -> dict[str, Any]:
    """What holds of the head: its modules, how many of its parameters are trained, the dtypes that it is in.

    The first weights that PEFT keeps beside the trained ones (see `weight_bytes`) have no part in it.
    """
    named = ((name.removeprefix("base_model.model."), parameter) for name, parameter in built.model.named_parameters())
    weights = [parameter for name, parameter in named if in_head(name, built.head) and ".original_module." not in name]
    return {
        "modules": built.head,
        "trained_parameters": sum(parameter.numel() for parameter in weights if parameter.requires_grad),
        "dtypes": sorted({str(parameter.dtype).removeprefix("torch.") for parameter in weights}),
    }


def logical_sizes(model: nn.Module) -> dict[str, int]:
    """Parameter name to number of weights, 4-bit weights unpacked; tied weights once."""
    return {name: _logical_size(parameter) for name, parameter in model.named_parameters()}


def weight_bytes(model: nn.Module) -> int:
    """Bytes that the parameters hold in memory, each tensor once: packed 4-bit weights with their constants.

    PEFT keeps the head's first weights beside the trained ones (`original_module`); they are held, so they count.
    """
    return _bytes(
        tensor for parameter in model.parameters() for tensor in (parameter, *_quantization_constants(parameter))
    )


def training_bytes(model: nn.Module, optimizer: str = ADAMW) -> dict[str, int]:
    """Bytes that training with this optimizer holds between two steps, from tensor sizes, by what holds them.

    weights: all parameters as stored (see `weight_bytes`) and all buffers; gradients: of the trainable parameters,
    in their dtype; optimizer: see `updates.optimizer_bytes`.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return {
        "weights": weight_bytes(model) + _bytes(model.buffers()),
        "gradients": _bytes(trained),
        "optimizer": optimizer_bytes(trained, optimizer),
    }


def save(
    built: Built, folder: Path, scale: Scale | None = None, forward: Callable[[], torch.Tensor] | None = None
) -> dict[str, Any] | None:
    """Save `built` to `folder`: the whole model, or the adapter with the head. Raises OSError, for a full disk say.

    The configuration of an adapter does not know the head's classes: HEAD beside it does. `scale`: that of the
    targets, in whose units the saved model predicts; where it cannot (see `in_own_units`, which takes
    `forward`), its configuration has the mean and standard deviation that its outputs are to be scaled by. Returns
    both and whether they are in the weights; None without a scale.
    """
    model: Any = built.model
    config = model.config
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(system_errors(folder))
        warnings.filterwarnings("ignore", message="Could not find a config file")
        targets = None
        if scale is not None:
            if forward is None:
                raise ValueError("a scale, and no forward pass to check it by")
            own = stack.enter_context(in_own_units(built.model, built.head, scale, forward))
            targets = {"mean": scale.mean, "sd": scale.sd, "in_weights": own}
            if not own:
                config.target_mean, config.target_sd = scale.mean, scale.sd
        stack.enter_context(_own_cache(config, built.use_cache))
        model.save_pretrained(folder)
        if built.is_peft and built.head:
            write_json(folder / HEAD, saved_head(config))
    shared(folder)
    return targets


@contextlib.contextmanager
def _own_cache(config: Any, use_cache: bool | None) -> Iterator[None]:
    """Within it the configuration says of the cache what the checkpoint's said: what is saved writes as fast."""
    trained = getattr(config, "use_cache", None)
    if use_cache is not None:
        config.use_cache = use_cache
    try:
        yield
    finally:
        if use_cache is not None:
            config.use_cache = trained


@contextlib.contextmanager
def in_own_units(
    model: nn.Module, head: list[str], scale: Scale, forward: Callable[[], torch.Tensor]
) -> Iterator[bool]:
    """Within it the model gives the data's units: its last linear layer, if it has a bias, is scaled and moved.

    Yields whether it does. It does not where that layer has no bias, as a decoder's, and where float32 cannot tell the
    targets apart as they are: a standard deviation of 1 about 1e9. Checked on what `forward` gives, the model's output
    of some text. The weights are as before afterwards.
    """
    layer = _last_layer(model, head)
    states = None if layer is None else _input_of(layer, forward)
    if layer is None or states is None:
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


def _targeted_feedforward(model: PreTrainedModel, targets: list[str]) -> list[str]:
    """Of the feed-forward modules that PEFT knows of the model's type, those that are targets.

    Its own default is all of them, which it then refuses to load.
    """
    from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as KNOWN

    return sorted(set(KNOWN.get(model.config.model_type, ())) & set(targets))


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the tensors; one that stands there twice, or shares its memory, counts once."""
    parts = [part for tensor in tensors for part in dense_parts(tensor)]
    sizes = {(t.device, t.data_ptr()): t.numel() * t.element_size() for t in parts if t.numel()}
    return sum(sizes.values())


def _quantization_constants(parameter: nn.Parameter) -> Iterator[torch.Tensor]:
    """Scales, code book and offset that bitsandbytes keeps beside a packed weight, those of the scales too."""
    state = getattr(parameter, "quant_state", None)
    while state is not None:
        yield from (value for value in (state.absmax, state.code, state.offset) if isinstance(value, torch.Tensor))
        state = state.state2


def _keeping_in_float32(model_class: type[PreTrainedModel], head: list[str]) -> type[PreTrainedModel]:
    """A class of the model that loads the head in float32, whatever dtype is asked of the rest."""
    kept = [*(model_class._keep_in_fp32_modules_strict or []), *(rf"^{re.escape(part)}\." for part in head)]  # noqa: SLF001
    fields = {"__module__": model_class.__module__, "_keep_in_fp32_modules_strict": kept}
    return type(model_class.__name__, (model_class,), fields)


def _quantization_config(
    quantization: dict[str, Any] | None, head: list[str], empty: PreTrainedModel
) -> BitsAndBytesConfig | None:
    if quantization is None:
        return None
    skip = [
        name
        for name, module in empty.named_modules()
        if is_linear(module) and any(name == part or name.startswith(f"{part}.") for part in head)
    ]
    return BitsAndBytesConfig(
        **{**quantization, "bnb_4bit_compute_dtype": getattr(torch, quantization["bnb_4bit_compute_dtype"])},
        llm_int8_skip_modules=skip,
    )


def _draw_head(model: PreTrainedModel, missing: set[str], head: list[str], seed: int) -> None:
    """Initialise the head modules that the checkpoint lacks, as the architecture does, from `seed`."""
    torch.manual_seed(seed)
    lacking = {key.rsplit(".", 1)[0] for key in missing if in_head(key, head)}
    with torch.no_grad():
        for name, module in model.named_modules():
            if name in lacking:
                # What a checkpoint lacks comes in the dtype of the rest.
                model._init_weights(module.float())  # noqa: SLF001


@contextlib.contextmanager
def _saying_why() -> Iterator[None]:
    """Raise a failed conversion of weights with its reason, a memory that ran out for one.

    Transformers says that only in a report, which it logs as a warning before it raises.
    """
    log, heard = logging.getLogger("transformers.modeling_utils"), []

    def listen(record: logging.LogRecord) -> bool:
        heard.append(record.getMessage())
        return record.levelno >= logging.ERROR

    level = log.level
    log.addFilter(listen)
    log.setLevel(logging.WARNING)
    try:
        yield
    except RuntimeError as error:
        if "automatic conversion" not in str(error):
            raise
        raise RuntimeError("\n".join([*heard, str(error)])) from error
    finally:
        log.removeFilter(listen)
        log.setLevel(level)


def _treat_as_linear(model: nn.Module) -> None:
    """Let quantised layers do under autocast, in training and evaluation, what any linear layer does."""
    import bitsandbytes

    linear_4bit: Any = bitsandbytes.nn.Linear4bit
    for module in model.modules():
        if not isinstance(module, linear_4bit):
            continue
        module.register_forward_pre_hook(_round_input)
        if hasattr(module, "support_avx512bf16_for_cpu"):  # weights repacked for a CPU kernel that has no gradients
            module.support_avx512bf16_for_cpu = False


def _round_input(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
    """The input in autocast's precision, which the output then has too.

    bitsandbytes gives the output the precision of the input, not the one it computed in: between its layers QLoRA would
    hold float32 where LoRA holds autocast's precision, and pay for it in activations and casts.
    """
    kind = inputs[0].device.type
    return (inputs[0].to(torch.get_autocast_dtype(kind)),) if torch.is_autocast_enabled(kind) else None


def _count(model: nn.Module, logical: dict[str, int], head: list[str]) -> Parameters:
    """Count parameters, and check that the head, the whole head, is trained."""
    head_size = sum(size for name, size in logical.items() if in_head(name, head))
    trained_head = adapter = backbone_trained = 0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        base_name = name.removeprefix("base_model.model.")
        if in_head(base_name, head):
            trained_head += parameter.numel()
        elif base_name in logical:
            backbone_trained += parameter.numel()
        else:
            adapter += parameter.numel()
    if trained_head != head_size:
        raise RuntimeError(f"{trained_head} of the head's {head_size} parameters are trained; all must be")
    return Parameters(
        backbone=sum(logical.values()) - head_size,
        head=head_size,
        adapter=adapter,
        trainable=trained_head + adapter + backbone_trained,
    )


def _logical_size(parameter: nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


@torch.no_grad()
def hold_as_computed(model: nn.Module, precision: str, device: torch.device, ids: torch.Tensor) -> str | None:
    """Hold frozen linear layers in the precision that autocast would cast them to in every step, if it is the same.

    Same products, fewer bytes, no cast; nor do adapters cast what they get there and back. A quantised layer is
    dequantised to that precision at once, where its backward pass would dequantise to float32 and cast. Left as it was
    where a bit of the hidden states or logits of the text `ids`, int64 [t], changes: under an adapter that reads the
    base's weights themselves, as DoRA does. Returns what most of them are held in then, as `frozen_dtype`.
    """
    _hold(model, precision, device, ids)
    return frozen_dtype(model)


def frozen_dtype(model: nn.Module) -> str | None:
    """What most frozen linear layers are held in: "float32", "bfloat16", "nf4" …; None if none is frozen."""
    held = Counter(
        getattr(module.weight, "quant_type", None) or str(module.weight.dtype).removeprefix("torch.")
        for module in model.modules()
        if is_linear(module) and not module.weight.requires_grad
    )
    return held.most_common(1)[0][0] if held else None


def _hold(model: nn.Module, precision: str, device: torch.device, ids: torch.Tensor) -> None:
    dtype = DTYPES[precision]
    held, packed = ([], []) if precision == "fp32" else (_frozen(model), _packed(model, dtype))
    if not held and not packed:
        return
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    start = [parameter.data for parameter in trained]
    originals = [parameter.data.cpu() for parameter in held]  # on a GPU both would need 1.5 times the weights
    random = torch.Generator(device).manual_seed(0)
    for parameter in trained:  # adapters start as no change at all, which would hide what they read
        noise = torch.randn(parameter.shape, generator=random, device=device, dtype=parameter.dtype)
        parameter.data = parameter.data + 0.05 * noise
    text = ids.to(device)[None]
    expected = _outputs(model, precision, device, text)
    for parameter in held:
        parameter.data = parameter.data.to(dtype)
    for state in packed:
        state.dtype = dtype
    _cast_inputs(model, False)
    found = _outputs(model, precision, device, text) if expected else None
    same = (
        found is not None
        and expected is not None
        and all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    )
    for parameter, values in zip(trained, start, strict=True):
        parameter.data = values
    if not same:
        for parameter, values in zip(held, originals, strict=True):
            parameter.data = values.to(device)
        for state in packed:
            state.dtype = torch.float32
        _cast_inputs(model, True)


def _cast_inputs(model: nn.Module, wanted: bool) -> None:
    """Whether PEFT's layers cast what they get to their weights' float32, from which autocast would cast it back."""
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "cast_input_dtype_enabled")]
    for layer in layers:
        layer.cast_input_dtype_enabled = wanted


def _packed(model: nn.Module, dtype: torch.dtype) -> list[Any]:
    """The quantisation states of weights that are, dequantised to `dtype`, those dequantised to float32 and cast.

    Of layers that compute in `dtype` alone: the backward pass casts to the precision of the gradient, which is theirs.
    """
    weights: dict[int, Any] = {
        id(module.weight): module.weight
        for module in model.modules()
        if is_linear(module) and getattr(module, "compute_dtype", None) == dtype
    }
    return [weight.quant_state for weight in weights.values() if _dequantised_alike(weight, dtype)]


def _dequantised_alike(weight: nn.Parameter, dtype: torch.dtype) -> bool:
    state = getattr(weight, "quant_state", None)
    if state is None or state.dtype != torch.float32:
        return False
    from bitsandbytes.functional import dequantize_4bit

    cast = dequantize_4bit(weight.data, state).to(dtype)
    state.dtype = dtype
    try:
        return torch.equal(dequantize_4bit(weight.data, state), cast)
    finally:
        state.dtype = torch.float32


def _frozen(model: nn.Module) -> list[nn.Parameter]:
    """Weights of frozen linear layers; none that is an embedding too, whose output would be rounded."""
    tied = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    found = {}
    for module in model.modules():
        if is_linear(module):
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad and parameter.dtype == torch.float32 and id(parameter) not in tied:
                    found[id(parameter)] = parameter
    return list(found.values())


def _outputs(model: nn.Module, precision: str, device: torch.device, ids: torch.Tensor) -> list[torch.Tensor] | None:
    """Hidden states and logits of a text [1, t], without dropout, on the CPU; None where the model does not take it.

    Of a causal model's logits those of the last CHECKED tokens. An adapter that multiplies held weights with its own
    refuses too.
    """
    training = model.training
    model.eval()
    try:
        with autocast(precision, device):
            few = last_logits(model, CHECKED)
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True, **few)
        return [states.cpu() for states in (*(getattr(output, "hidden_states", None) or ()), output.logits)]
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        return None
    finally:
        model.train(training)


def _last_layer(model: nn.Module, head: list[str]) -> nn.Linear | None:
    """The one trained linear layer of the head that has a single output, and a bias; None if there is none."""
    found = []
    for name, module in model.named_modules():
        within = in_head(f"{name.removeprefix('base_model.model.')}.", head)
        if within and isinstance(module, nn.Linear) and module.weight.requires_grad and module.out_features == 1:
            found.append(module)
    return found[0] if len(found) == 1 and found[0].bias is not None else None


def _input_of(layer: nn.Linear, forward: Callable[[], torch.Tensor]) -> torch.Tensor | None:
    """What the layer is given in a forward pass; None unless what it makes of it is what the model gives."""
    seen = []
    hook = layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
    try:
        logits = forward()
    finally:
        hook.remove()
    return seen[0][0] if len(seen) == 1 and torch.isin(logits, seen[0][1]).all() else None


@torch.no_grad()
def _output(layer: nn.Linear, states: torch.Tensor) -> np.ndarray:
    """The layer's output of `states` as float32, whatever precision matrices are multiplied in here."""
    output = states.double() @ layer.weight.double().T + layer.bias.double()
    return output.float().double().cpu().numpy()

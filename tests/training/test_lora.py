"""Joined LoRA layers: PEFT's outputs and gradients to rounding, its own layers wherever one is not plain."""

import copy

import bitsandbytes
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.bnb import Linear4bit
from peft.tuners.lora.layer import Linear
from peft_tradeoffs.training import lora, methods
from torch import nn

RANK, TEXTS, LENGTH, INNER, OUTER = 4, 3, 5, 64, 96


class Net(nn.Module):
    """One layer that an adapter is put on."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.layer = base
        self.is_loaded_in_4bit = isinstance(base, bitsandbytes.nn.Linear4bit)  # PEFT asks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def wrapped(*, four_bits: bool = False, with_bias: bool = True, **changes) -> nn.Module:
    """PEFT's own model over one layer, its adapter drawn so that it does something."""
    torch.manual_seed(0)
    base = nn.Linear(INNER, OUTER, bias=with_bias)
    if four_bits:
        weight = bitsandbytes.nn.Params4bit(base.weight.data, requires_grad=False, quant_type="nf4")
        packed = bitsandbytes.nn.Linear4bit(
            INNER, OUTER, bias=with_bias, compute_dtype=torch.bfloat16, quant_type="nf4"
        )
        packed.weight = weight
        if with_bias:
            packed.bias = base.bias
        base = packed.to("cpu")
        methods._treat_as_linear(base)
    model = get_peft_model(Net(base), LoraConfig(r=RANK, lora_alpha=6, target_modules=["layer"], **changes))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "magnitude" not in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def joined(model: nn.Module) -> nn.Module:
    """A copy whose layers join their products."""
    other = copy.deepcopy(model)
    lora.join_products(other)
    return other


def dequantised(model: nn.Module) -> nn.Module:
    """A copy over the same weights in float32."""
    other = copy.deepcopy(model)
    layer = other.base_model.model.layer
    packed = layer.base_layer
    if isinstance(packed, bitsandbytes.nn.Linear4bit):
        layer.base_layer = nn.Linear(INNER, OUTER, bias=packed.bias is not None).requires_grad_(False)
        weight = packed.weight
        layer.base_layer.weight.data = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state).float()
        if packed.bias is not None:
            layer.base_layer.bias.data = packed.bias.data.float()
    return other


def results(model: nn.Module, *, precision: torch.dtype | None, trained_input: bool = True) -> dict[str, torch.Tensor]:
    """Its output, and the gradients of input and adapter, of the same dropout."""
    torch.manual_seed(1)
    leaf = torch.randn(TEXTS, LENGTH, INNER, requires_grad=trained_input)
    x = leaf * 1.0  # as a norm gives it: PEFT adds the gradients of its products in float32
    model.zero_grad(set_to_none=True)
    torch.manual_seed(2)
    with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
        output = model(x)
    weights = torch.linspace(-1, 1, output.numel()).view(output.shape)
    (output.float() * weights).sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"output": output.detach(), **({"input": leaf.grad} if trained_input else {}), **found}


def distance(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """How far each tensor is off, as a share of the expected one's norm."""
    assert found.keys() == expected.keys()
    assert all(found[name].shape == expected[name].shape for name in expected)
    return {
        name: float((found[name].double() - value.double()).norm() / value.double().norm())
        for name, value in expected.items()
    }


@pytest.mark.parametrize("trained_input", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("four_bits", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_a_joined_layer_is_off_as_peft_s_but_for_a_rounding_of_the_input_s_gradient(
    four_bits, with_bias, dropout, trained_input
):
    own = wrapped(four_bits=four_bits, with_bias=with_bias, lora_dropout=dropout)
    other = joined(own)
    exact = results(dequantised(own), precision=None, trained_input=trained_input)
    theirs = results(own, precision=torch.bfloat16, trained_input=trained_input)
    ours = results(other, precision=torch.bfloat16, trained_input=trained_input)
    off, usual = distance(ours, exact), distance(theirs, exact)
    assert {name: value.dtype for name, value in ours.items()} == {name: value.dtype for name, value in theirs.items()}
    bounds = {name: (1.4 if name == "input" else 1.1) * error + 1e-4 for name, error in usual.items()}
    assert all(off[name] <= bounds[name] for name in usual), (off, usual)
    assert max(off.values()) < 0.02


@pytest.mark.parametrize("four_bits", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_no_rows_give_none(four_bits, dropout):
    model = joined(wrapped(four_bits=four_bits, lora_dropout=dropout))
    x = torch.zeros(0, LENGTH, INNER, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(x * 1.0)
    output.sum().backward()
    assert output.shape == (0, LENGTH, OUTER)
    assert x.grad.shape == x.shape


def test_its_products_are_joined_under_autocast_alone():
    own = joined(wrapped())
    x = torch.randn(2, INNER)
    assert "Product" not in own(x).grad_fn.name()
    with torch.autocast("cpu", torch.bfloat16):
        assert "Product" in own(x).grad_fn.name()


@pytest.mark.parametrize(
    "changes",
    [{"use_dora": True}, {"lora_bias": True}, {"bias": "all"}],
    ids=["DoRA", "a bias of the adapter", "a trained bias"],
)
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_a_layer_that_is_not_plain_gives_the_bits_of_peft_s(changes, precision):
    own = wrapped(**changes)
    theirs, ours = results(own, precision=precision), results(joined(own), precision=precision)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_in_float32_every_bit_is_peft_s():
    own = wrapped()
    theirs, ours = results(own, precision=None), results(joined(own), precision=None)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


@pytest.mark.parametrize("four_bits", [False, True])
def test_switched_off_two_and_merged_adapters_are_peft_s(four_bits):
    own = wrapped(four_bits=four_bits)
    other = joined(own)
    x = torch.randn(2, INNER)
    with torch.autocast("cpu", torch.bfloat16):
        with own.disable_adapter(), other.disable_adapter():
            assert torch.equal(other(x), own(x))
        if not four_bits:
            own.merge_adapter(), other.merge_adapter()
            assert torch.equal(other(x), own(x))
            own.unmerge_adapter(), other.unmerge_adapter()
        for model in (own, other):
            torch.manual_seed(3)
            model.add_adapter("more", LoraConfig(r=2, target_modules=["layer"], init_lora_weights=False))
            model.base_model.set_adapter(["default", "more"])
        assert torch.equal(other(x), own(x))


def test_all_else_of_a_joined_layer_is_peft_s():
    own, packed = wrapped(), wrapped(four_bits=True)
    for model, kind in ((own, Linear), (packed, Linear4bit)):
        other = joined(model)
        layer = other.base_model.model.layer
        assert isinstance(layer, kind)
        assert type(layer) is lora.JOINED[kind]
        assert list(other.state_dict()) == list(model.state_dict())
        assert all(torch.equal(other.state_dict()[name], value) for name, value in model.state_dict().items())

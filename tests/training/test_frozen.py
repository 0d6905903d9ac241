"""Frozen linear layers are held in the precision they are computed in, unless a bit changes."""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from peft_tradeoffs.training import methods
from peft_tradeoffs.training.methods import frozen_dtype, hold_as_computed
from transformers import (
    BartConfig,
    BartForSequenceClassification,
    Gemma3Config,
    Gemma3ForSequenceClassification,
)

CPU = torch.device("cpu")
TEXT = torch.tensor([2, 5, 9, 7, 11, 3])
LORA = {**tiny.LORA, "r": 4, "lora_alpha": 8}


def build(
    folder: Path, peft: dict[str, Any] | None, quantization: dict[str, Any] | None = None, device: str = "cpu"
) -> torch.nn.Module:
    built = tiny.build(folder, peft=peft, quantization=quantization, device=device)
    return built.model


def logits(model: torch.nn.Module) -> torch.Tensor:
    ids = torch.tensor([[2, 5, 9, 3], [2, 7, 3, 0]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        return model.eval()(input_ids=ids, attention_mask=(ids != 0).long()).logits


def test_frozen_weights_under_lora_take_half_and_compute_the_same(tiny_bert):
    model = build(tiny_bert, LORA)
    expected, before = logits(model), methods.weight_bytes(model)
    assert frozen_dtype(model) == "float32"
    assert hold_as_computed(model, "bf16", CPU, TEXT) == "bfloat16"
    assert torch.equal(logits(model), expected)
    assert methods.weight_bytes(model) < 0.75 * before
    kinds = {p.requires_grad: p.dtype for name, p in model.named_parameters() if "dense.weight" in name}
    assert kinds == {False: torch.bfloat16, True: torch.float32}  # the pooler is trained
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize(
    ("peft", "precision", "held"),
    [({**LORA, "use_dora": True}, "bf16", "float32"), (LORA, "fp32", "float32"), (None, "bf16", None)],
)
def test_what_would_change_or_is_trained_stays_in_float32(tiny_bert, peft, precision, held):
    model = build(tiny_bert, peft)
    expected = logits(model)
    assert hold_as_computed(model, precision, CPU, TEXT) == held
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(getattr(module, "cast_input_dtype_enabled", True) for module in model.modules())
    assert torch.equal(logits(model), expected)


def test_in_fp16_frozen_weights_are_held_in_it(tiny_bert):
    model = build(tiny_bert, LORA)
    ids, mask = TEXT[None], torch.ones_like(TEXT[None])
    expected = model.eval()(input_ids=ids, attention_mask=mask).logits
    assert hold_as_computed(model, "fp16", CPU, TEXT) == "float16"
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    with torch.autocast("cpu", torch.float16):
        found = model(input_ids=ids, attention_mask=mask).logits
    assert (found - expected).norm() < 5e-3 * expected.norm()  # of half as many bits more than bfloat16


def test_adapters_cast_nothing_there_and_back(tiny_bert):
    """PEFT casts what a layer gets to float32, and autocast back: four passes over it in a step, and no bit changes."""
    model = build(tiny_bert, LORA)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(1))

    def gradients() -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            model.eval()(input_ids=TEXT[None], labels=torch.tensor([1])).loss.backward()
        found = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
        model.zero_grad()
        return found

    expected = gradients()
    hold_as_computed(model, "bf16", CPU, TEXT)
    layers = [module for module in model.modules() if hasattr(module, "cast_input_dtype_enabled")]
    assert layers and not any(module.cast_input_dtype_enabled for module in layers)
    assert all(torch.equal(one, other) for one, other in zip(gradients(), expected, strict=True))


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_quantised_layers_are_named_by_how_they_are_stored(tiny_bert, kind):
    model = build(tiny_bert, LORA, {**tiny.NF4, "bnb_4bit_quant_type": kind})
    assert hold_as_computed(model, "bf16", CPU, TEXT) == kind


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)
def test_quantised_weights_are_dequantised_to_what_they_are_computed_in_with_the_same_gradients(tiny_bert, device):
    model = build(tiny_bert, LORA, tiny.NF4_BF16, device)
    states = [module.weight.quant_state for module in model.modules() if hasattr(module, "quant_state")]
    assert states and {state.dtype for state in states} == {torch.float32}
    expected = gradients(model)
    hold_as_computed(model, "bf16", torch.device(device), TEXT)
    assert {state.dtype for state in states} == {torch.bfloat16}
    found = gradients(model)
    assert found and all(torch.equal(found[name], expected[name]) for name in expected)


def test_layers_that_compute_in_float32_are_dequantised_to_it(tiny_bert):
    model = build(tiny_bert, LORA, tiny.NF4)
    hold_as_computed(model, "bf16", CPU, TEXT)
    states = [module.weight.quant_state for module in model.modules() if hasattr(module, "quant_state")]
    assert states and {state.dtype for state in states} == {torch.float32}


def test_an_adapter_that_reads_the_dequantised_weights_keeps_them_in_float32(tiny_bert):
    model = build(tiny_bert, {**LORA, "use_dora": True}, tiny.NF4_BF16)
    hold_as_computed(model, "bf16", CPU, TEXT)
    states = [module.weight.quant_state for module in model.modules() if hasattr(module, "quant_state")]
    assert states and {state.dtype for state in states} == {torch.float32}


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Of all that is trained, after a step's backward pass in which the adapters differ from nothing."""
    device = next(model.parameters()).device
    ids = torch.tensor([[2, 5, 9, 3], [2, 7, 3, 4]], device=device)
    model.eval().zero_grad()
    random = torch.Generator().manual_seed(1)
    kept = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for name, parameter in kept.items():
        if "lora_B" in name:
            parameter.data = torch.randn(parameter.shape, generator=random).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        loss = model(input_ids=ids, labels=torch.tensor([0, 1], device=device)).loss
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in kept.items() if parameter.grad is not None}


def with_lora(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj", "v_proj"]))


def test_a_model_that_reads_its_texts_end_is_held_too():
    """BART takes the hidden state of the end token, which made-up ids lack."""
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = BartConfig(vocab_size=30, max_position_embeddings=32, **sizes, **heads)
    text = torch.tensor([0, 5, 9, 7, config.eos_token_id])
    assert hold_as_computed(with_lora(BartForSequenceClassification(config)), "bf16", CPU, text) == "bfloat16"
    assert hold_as_computed(with_lora(BartForSequenceClassification(config)), "bf16", CPU, text[:-1]) == "float32"


def test_a_model_whose_config_has_no_vocabulary_size_of_its_own():
    """Gemma 3's config holds one of texts and one of images."""
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": 30, "num_key_value_heads": 1, "head_dim": 16}
    image = {**sizes, "image_size": 28, "patch_size": 14}
    tokens = {"image_token_index": 27, "boi_token_index": 28, "eoi_token_index": 29}
    config = Gemma3Config(text_config=text, vision_config=image, mm_tokens_per_image=4, **tokens)
    assert not hasattr(config, "vocab_size")
    model = Gemma3ForSequenceClassification(config)
    model.config.pad_token_id = config.text_config.pad_token_id = 0
    assert hold_as_computed(with_lora(model), "bf16", CPU, TEXT) == "bfloat16"

"""The attention mask of a GPU run says the same as a padding mask."""

import contextlib

import pytest
import torch
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.training.batches import (
    additive_mask,
    check_padding,
    choose_kernels,
    choose_mask,
    no_mask,
    padding_mask,
)
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BartConfig,
    BartForSequenceClassification,
    FNetConfig,
    GPT2Config,
    MistralConfig,
    MistralForSequenceClassification,
    XLNetConfig,
    masking_utils,
)

LENGTH = 24
IDS = torch.arange(LENGTH) % 15 + 3


def chosen(model):
    return choose_mask(model, IDS, 0, torch.float32, contextlib.nullcontext)


def test_masks_by_hand():
    lengths = torch.tensor([2, 1])
    assert padding_mask(lengths, 3, torch.float32).tolist() == [[1, 1, 0], [1, 0, 0]]
    mask = additive_mask(lengths, 3, torch.bfloat16)
    assert mask.shape == (2, 1, 3, 3) and mask.dtype == torch.bfloat16
    inf = torch.inf
    assert mask[:, 0].tolist() == [[[0, 0, -inf]] * 3, [[0, -inf, -inf]] * 3]
    assert no_mask(lengths, 3, torch.float32) is None


@pytest.mark.parametrize(("kind", "expected"), [("bert", additive_mask), ("llama", no_mask)])
def test_the_choice_follows_the_architecture(kind, expected, tiny_bert, tiny_llama):
    folder = {"bert": tiny_bert, "llama": tiny_llama}[kind]
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, pad_token_id=0)
    assert chosen(model) is expected
    model.eval()
    sizes = torch.tensor([19, 3, 11])
    ids = torch.where(torch.arange(LENGTH) < sizes[:, None], IDS, 0)
    with torch.no_grad():
        found = model(ids, attention_mask=expected(sizes, LENGTH, torch.float32)).logits
        plain = model(ids, attention_mask=padding_mask(sizes, LENGTH, torch.float32)).logits
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-5)


def test_a_model_that_takes_no_other_mask_keeps_the_padding_mask(tiny_bert, monkeypatch):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    forward = model.forward

    def two_dimensions_only(attention_mask=None, **inputs):
        if attention_mask.ndim != 2:
            raise ValueError("attention_mask must have two dimensions")
        return forward(attention_mask=attention_mask, **inputs)

    monkeypatch.setattr(model, "forward", two_dimensions_only)
    assert chosen(model) is padding_mask


def test_a_mask_that_changes_what_the_model_says_is_not_taken(tiny_bert, monkeypatch):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    for module in model.modules():
        if hasattr(module, "is_causal"):
            monkeypatch.setattr(module, "is_causal", True)  # a lie: then no mask at all would be tried first
    assert chosen(model) is additive_mask


def test_a_model_that_shows_no_hidden_states_keeps_the_padding_mask(tiny_bert, monkeypatch):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda output_hidden_states, **inputs: forward(**inputs))
    assert chosen(model) is padding_mask


def test_a_model_that_does_not_take_made_up_texts_keeps_the_padding_mask():
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    assert chosen(BartForSequenceClassification(BartConfig(vocab_size=30, **sizes, **heads))) is padding_mask


def test_memory_that_runs_out_under_a_mask_is_not_a_reason_to_take_another(tiny_bert, monkeypatch):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    forward = model.forward

    def refuses(attention_mask=None, **inputs):
        if attention_mask.ndim == 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(attention_mask=attention_mask, **inputs)

    monkeypatch.setattr(model, "forward", refuses)
    with pytest.raises(torch.OutOfMemoryError):
        chosen(model)


@pytest.mark.parametrize(("window", "expected"), [(8, padding_mask), (None, no_mask)])
def test_a_window_needs_the_padding_mask(window, expected):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = MistralConfig(vocab_size=30, sliding_window=window, pad_token_id=0, **sizes, **heads)
    assert chosen(MistralForSequenceClassification(config)) is expected


BART = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
PADDING = {
    "fnet": (FNetConfig(vocab_size=30, hidden_size=32, num_hidden_layers=2, intermediate_size=32), True),
    "xlnet": (XLNetConfig(vocab_size=30, d_model=32, n_layer=2, n_head=2, d_inner=32), True),
    "gpt2": (GPT2Config(vocab_size=30, n_embd=32, n_layer=2, n_head=2), False),
    "bart": (BartConfig(vocab_size=30, encoder_attention_heads=2, decoder_attention_heads=2, **BART), False),
}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", PADDING)
def test_a_model_that_reads_padding_is_refused(kind, precision):
    config, reads = PADDING[kind]
    torch.manual_seed(0)
    config.pad_token_id = 1
    model = AutoModelForSequenceClassification.from_config(config).train()
    texts = [torch.cat([IDS[:size], torch.tensor([2])]) for size in (5, 6, 8, 9)]  # 2 ends BART's
    context = lambda: torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16)  # noqa: E731
    with pytest.raises(InputError, match=f"{kind} reads the padding") if reads else contextlib.nullcontext():
        check_padding(model, texts, LENGTH, 1, context)
    assert model.training


def test_a_model_that_refuses_the_texts_is_left_to_training(tiny_bert):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert, num_labels=2)
    check_padding(model, [torch.arange(70) % 20], 80, 0, contextlib.nullcontext)  # more tokens than positions


@pytest.mark.parametrize("kind", [MistralConfig, GPT2Config])
def test_a_model_without_a_mask_gets_none_while_a_step_is_captured(kind, monkeypatch, tmp_path):
    """Transformers makes one then, and the captured step would take other kernels than the eager one."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 20}
    more = {"num_key_value_heads": 1, "intermediate_size": 16} if kind is MistralConfig else {}
    model = AutoModelForCausalLM.from_config(kind(**sizes, **more)).eval()
    assert choose_mask(model, IDS, 0, torch.float32, contextlib.nullcontext) is no_mask
    seen, kernel = [], torch.nn.functional.scaled_dot_product_attention

    def attention(*inputs, attn_mask=None, is_causal=False, **options):
        seen.append((attn_mask is None, is_causal))
        return kernel(*inputs, attn_mask=attn_mask, is_causal=is_causal, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    # what Transformers 5.17 answers while a step is captured, and any while it is traced
    monkeypatch.setattr(masking_utils, "_ignore_causal_mask_sdpa", lambda *inputs, **options: False)
    expected = model(IDS[None], attention_mask=None).logits
    assert (True, True) not in seen
    seen.clear()
    choose_kernels(no_mask, model)
    found = model(IDS[None], attention_mask=None).logits
    assert set(seen) == {(True, True)}
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    model.save_pretrained(tmp_path)
    assert "unmasked" not in (tmp_path / "config.json").read_text()
    choose_kernels(padding_mask, model)
    seen.clear()
    model(IDS[None], attention_mask=torch.ones_like(IDS)[None])
    assert (True, True) not in seen
    choose_kernels(no_mask)  # of the process, as before

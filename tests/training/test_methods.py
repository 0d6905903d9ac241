"""Models of an arm: heads, counts, and the traps of bitsandbytes and PEFT on a CPU."""

import copy
import logging
from pathlib import Path

import bitsandbytes
import pytest
import torch
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.models import write_random_model
from peft_tradeoffs.training import methods
from tiny import build
from tiny_arms import LORA, NF4, batch

BFLOAT16 = {"bnb_4bit_compute_dtype": "bfloat16"}


def head_weights(built: methods.Built) -> dict[str, torch.Tensor]:
    weights = {}
    for name, parameter in built.model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".modules_to_save.default", "")
        if parameter.requires_grad and plain.startswith(tuple(built.head)):
            weights[plain] = parameter
    return weights


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    torch.manual_seed(3)
    model(**batch()).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    "arm",
    [
        {"peft": LORA},
        {"peft": LORA, "quantization": NF4},
        {"peft": {**LORA, "target_modules": "all-linear"}, "quantization": NF4},
        {"peft": {**LORA, "target_modules": ["dense"]}},
        {"peft": {"peft_type": "IA3", "target_modules": ["key"], "feedforward_modules": []}},
    ],
    ids=["lora", "qlora", "qlora-all-linear", "lora-dense", "ia3"],
)
def test_every_arm_of_a_seed_trains_the_same_whole_head(tiny_bert, arm):
    full, other = build(tiny_bert), build(tiny_bert, **arm)
    expected, found = head_weights(full), head_weights(other)
    assert (
        set(found)
        == set(expected)
        == {
            "bert.pooler.dense.weight",
            "bert.pooler.dense.bias",
            "classifier.weight",
            "classifier.bias",
        }
    )
    for name, weight in found.items():
        assert torch.equal(weight, expected[name]), name
        assert weight.dtype == torch.float32
    assert other.parameters.head == full.parameters.head == 64 * 64 + 64 + 2 * 64 + 2


def test_another_seed_draws_another_head(tiny_bert):
    first, second = build(tiny_bert), build(tiny_bert, seed=1)
    assert not torch.equal(first.model.classifier.weight, second.model.classifier.weight)
    assert torch.equal(first.model.bert.pooler.dense.weight, second.model.bert.pooler.dense.weight)


def test_the_head_is_never_quantised(tiny_bert):
    model = build(tiny_bert, peft=LORA, quantization=NF4).model
    quantised = {name for name, m in model.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    assert len(quantised) == 2 * 6
    assert not any("pooler" in name or "classifier" in name for name in quantised)


def test_counts_are_logical_and_each_weight_counts_once(tiny_bert):
    full = build(tiny_bert).parameters
    qlora = build(tiny_bert, peft=LORA, quantization=NF4).parameters
    weights = sum(p.numel() for p in build(tiny_bert).model.parameters())
    assert full.total == full.trainable == weights
    assert (qlora.backbone, qlora.head) == (full.backbone, full.head)
    assert qlora.adapter == 2 * 2 * (4 * 64 + 64 * 4)  # layers × modules × (A + B)
    assert qlora.trainable == qlora.adapter + qlora.head
    assert qlora.total == qlora.backbone + qlora.head + qlora.adapter


def test_weight_bytes_count_packed_weights_and_their_constants(tiny_bert):
    full, qlora = build(tiny_bert), build(tiny_bert, peft=LORA, quantization=NF4)
    linear = 2 * (4 * 64 * 64 + 2 * 64 * 64)
    adapter = 4 * qlora.parameters.adapter
    copies = 4 * qlora.parameters.head  # PEFT keeps the head's first weights beside the trained ones
    packed = methods.weight_bytes(qlora.model) - adapter - copies
    unpacked = methods.weight_bytes(full.model)
    assert unpacked - 4 * linear + linear // 2 < packed < unpacked - 4 * linear + linear


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_survive_an_evaluation_of_quantised_layers(tiny_bert, bias):
    model = build(tiny_bert, peft=LORA, quantization=NF4).model
    layers = [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    if not bias:
        for layer in layers:
            layer.bias = None
    before = gradients(model)
    model.eval()
    with torch.no_grad():
        model(**batch())
    after = gradients(model)
    assert any(value.abs().max() > 0 for name, value in before.items() if "lora_B" in name)
    for name, value in before.items():
        assert torch.equal(value, after[name]), name
    assert not any(getattr(layer, "support_avx512bf16_for_cpu", False) for layer in layers)


def test_nf4_differs_from_full_precision_and_lora_starts_from_it(tiny_bert):
    plain, lora, qlora = (
        build(tiny_bert, **arm).model.eval() for arm in ({}, {"peft": LORA}, {"peft": LORA, "quantization": NF4})
    )
    with torch.no_grad():
        logits = [model(**batch()).logits for model in (plain, lora, qlora)]
    assert torch.equal(logits[0], logits[1])
    assert 0 < (logits[0] - logits[2]).abs().max() < 0.2


@pytest.mark.parametrize("peft", [None, LORA])
def test_gradient_checkpointing_changes_no_gradient(tiny_bert, peft):
    plain = build(tiny_bert, peft=peft)
    checkpointed = build(tiny_bert, peft=peft, gradient_checkpointing=True)
    assert not any(getattr(m, "gradient_checkpointing", False) for m in plain.model.modules())
    assert any(getattr(m, "gradient_checkpointing", False) for m in checkpointed.model.modules())
    expected, found = gradients(plain.model), gradients(checkpointed.model)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_alpha_scales_what_lora_adds(tiny_bert):
    """A guard against a PEFT block that is not handed through."""
    scales = {
        build(tiny_bert, peft={**LORA, "lora_alpha": alpha})
        .model.base_model.model.bert.encoder.layer[0]
        .attention.self.query.scaling["default"]
        for alpha in (8, 16)
    }
    assert scales == {2.0, 4.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft": {**LORA, "target_modules": ["q_lin"]}}, ["q_lin", "query"]),
        ({"peft": {**LORA, "target_modules": ["query", "valu"]}}, ["valu", "value"]),
        ({"peft": {**LORA, "target_modules": "nothing.*"}}, ["nothing.*"]),
        ({"head": ["score"]}, ["score", "no module"]),
    ],
)
def test_modules_that_do_not_exist_are_named(tiny_bert, changes, words):
    with pytest.raises(InputError) as caught:
        build(tiny_bert, **changes)
    assert all(word in str(caught.value) for word in words)


def test_a_checkpoint_without_backbone_weights_is_refused(tiny_bert, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "layer.1" in name)
    save_file({name: weight for name, weight in weights.items() if name != lost}, folder / "model.safetensors")
    with pytest.raises(InputError, match="lacks 1 backbone weights"):
        build(folder)


def test_decoder_head_is_score_and_pad_token_is_set(tiny_llama):
    built = build(tiny_llama, pad_token_id=1, peft={**LORA, "target_modules": "all-linear"})
    assert built.head == ["score"]
    assert built.model.config.pad_token_id == 1


def test_a_built_model_is_not_changed_by_saving(tiny_bert, tmp_path):
    built = build(tiny_bert, peft=LORA, quantization=NF4)
    before = copy.deepcopy({name: p.detach().clone() for name, p in built.model.named_parameters()})
    methods.save(built, tmp_path / "adapter")
    for name, parameter in built.model.named_parameters():
        assert torch.equal(parameter, before[name])
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_a_head_of_another_task_is_drawn_anew(tiny_bert, tmp_path):
    build(tiny_bert, num_labels=3).model.save_pretrained(tmp_path / "nli")
    built, again = build(tmp_path / "nli"), build(tmp_path / "nli", peft=LORA)
    assert built.model.classifier.weight.shape == (2, 64)
    expected, found = head_weights(built), head_weights(again)
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())


def test_code_that_comes_with_a_model_is_never_run(tiny_bert, tmp_path, monkeypatch):
    import io
    import json

    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny_bert.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('executed')")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(InputError, match="code that comes with a model is never run"):
        build(folder)


BF16 = {
    "lora": {"peft": {**LORA, "target_modules": "all-linear"}},
    "qlora": {"peft": {**LORA, "target_modules": "all-linear"}, "quantization": {**NF4, **BFLOAT16}},
    "dora": {"peft": {**LORA, "target_modules": "all-linear", "use_dora": True}},
    "qdora": {
        "peft": {**LORA, "target_modules": "all-linear", "use_dora": True},
        "quantization": {**NF4, **BFLOAT16},
    },
}


@pytest.fixture(scope="module")
def distilbert(tiny_bert, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "distilbert"
    fields = {"model_type": "distilbert", "dim": 64, "n_heads": 2, "n_layers": 2, "hidden_dim": 64, "vocab_size": 28}
    write_random_model(fields, tiny_bert, folder)
    return folder


@pytest.mark.parametrize("arm", BF16)
@pytest.mark.parametrize("kind", ["tiny_bert", "distilbert", "tiny_llama"])
def test_frozen_weights_in_bfloat16_train_under_autocast(kind, arm, request):
    folder = request.getfixturevalue(kind)
    built = build(folder, dtype="bfloat16", pad_token_id=1, **BF16[arm])
    packed = {id(p) for p in built.model.parameters() if hasattr(p, "quant_state")}
    assert bool(packed) == arm.startswith("q")
    untrained_head = "original_module"
    for name, parameter in built.model.named_parameters():
        if id(parameter) not in packed:
            wide = parameter.requires_grad or untrained_head in name
            assert parameter.dtype == (torch.float32 if wide else torch.bfloat16), name
    assert type(built.model.get_base_model()) is type(build(folder, pad_token_id=1).model)
    built.model.train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = built.model(**batch()).loss
    loss.backward()
    assert torch.isfinite(loss)
    trained = [p for p in built.model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in trained)
    heads = head_weights(built)
    assert all(weight.grad.abs().max() > 0 for weight in heads.values())
    expected = head_weights(build(folder, pad_token_id=1))
    assert set(heads) == set(expected)
    for name, weight in heads.items():
        assert torch.equal(weight, expected[name]), name


@pytest.mark.parametrize("peft_type", ["IA3", "VERA", "OFT", "LOHA", "LOKR", "BOFT"])
def test_what_is_trained_is_float32_whatever_peft_makes(tiny_bert, peft_type):
    block = {"peft_type": peft_type, "target_modules": ["query"]}
    block |= {"feedforward_modules": []} if peft_type == "IA3" else {}
    block |= {"boft_block_size": 4} if peft_type == "BOFT" else {}
    model = build(tiny_bert, peft=block, dtype="bfloat16").model
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}


def test_full_fine_tuning_in_bfloat16_trains_all_but_the_head_in_it(tiny_bert):
    built = build(tiny_bert, dtype="bfloat16")
    heads = head_weights(built)
    for name, parameter in built.model.named_parameters():
        assert parameter.requires_grad
        assert parameter.dtype == (torch.float32 if name in heads else torch.bfloat16), name
    expected = head_weights(build(tiny_bert))
    assert all(torch.equal(weight, expected[name]) for name, weight in heads.items())


def layer_outputs(model: torch.nn.Module, precision: str) -> dict[str, torch.Tensor]:
    """Outputs of the frozen linear layers of a text, by name."""
    from peft_tradeoffs.training.step import autocast

    found, hooks = {}, []
    for name, module in model.named_modules():
        if name.endswith("base_layer") or name.endswith("intermediate.dense"):
            hooks.append(module.register_forward_hook(lambda m, i, out, name=name: found.update({name: out})))
    with torch.no_grad(), autocast(precision, torch.device("cpu")):
        model.eval()(**batch())
    for hook in hooks:
        hook.remove()
    return found


def test_quantised_layers_compute_in_the_precision_of_the_others(tiny_bert):
    """bitsandbytes alone returns float32 between its layers under autocast."""
    quantization = {**NF4, **BFLOAT16}
    lora, qlora = (
        layer_outputs(build(tiny_bert, peft=LORA, quantization=block).model, "bf16") for block in (None, quantization)
    )
    assert lora.keys() == qlora.keys() and len(lora) == 6
    assert {out.dtype for out in lora.values()} == {out.dtype for out in qlora.values()} == {torch.bfloat16}


def test_quantised_layers_give_the_products_that_bitsandbytes_gives(tiny_bert):
    built = build(tiny_bert, peft=LORA, quantization={**NF4, **BFLOAT16})
    name, layer = next((n, m) for n, m in built.model.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit))
    states = torch.randn(3, layer.in_features)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = layer(states)
        hooks, layer._forward_pre_hooks = layer._forward_pre_hooks, {}
        plain = layer(states)
    assert (found.dtype, plain.dtype) == (torch.bfloat16, torch.float32), name
    assert torch.equal(found.float(), plain)
    layer._forward_pre_hooks = hooks
    with torch.no_grad():
        assert layer(states).dtype == torch.float32  # without autocast nothing is rounded


@pytest.mark.parametrize("arm", ["lora", "qlora"])
def test_an_adapter_on_bfloat16_reloads(tiny_bert, tmp_path, arm):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

    built = build(tiny_bert, dtype="bfloat16", **BF16[arm])
    with torch.no_grad():
        for name, parameter in built.model.named_parameters():
            if "lora_B" in name or "classifier" in name:
                parameter.normal_()
    methods.save(built, tmp_path / "adapter")
    quantization = BF16[arm].get("quantization")
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny_bert,
        dtype=torch.bfloat16,
        quantization_config=quantization
        and BitsAndBytesConfig(**quantization, llm_int8_skip_modules=["classifier", "bert.pooler.dense"]),
    )
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    built.model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected, found = built.model(**batch()).logits, loaded(**batch()).logits
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), built.model.disable_adapter():
        plain = built.model(**batch()).logits
    scale = (plain - expected).abs().max()
    assert scale > 0.5, "the adapter must matter here"
    assert (found - expected).abs().max() < 0.05 * scale


def test_gradient_checkpointing_takes_further_arguments(tiny_bert, monkeypatch):
    from transformers import PreTrainedModel

    given = []
    monkeypatch.setattr(PreTrainedModel, "gradient_checkpointing_enable", lambda self, kwargs: given.append(kwargs))
    build(tiny_bert, gradient_checkpointing=True)
    build(tiny_bert, gradient_checkpointing=True, checkpoint_arguments={"preserve_rng_state": False})
    assert given == [{"use_reentrant": False}, {"use_reentrant": False, "preserve_rng_state": False}]


WIDTH, LAYERS, WORDS, PLACES, RANK = 64, 2, 28, 64, 4  # of tiny.bert, and of LORA
LINEAR = LAYERS * 6 * WIDTH * WIDTH  # weights that NF4 packs
EMBEDDINGS = (WORDS + PLACES + 2) * WIDTH + 2 * WIDTH
REST = LAYERS * (6 * WIDTH + 2 * 2 * WIDTH)  # biases and layer norms
HEAD = WIDTH * WIDTH + WIDTH + 2 * WIDTH + 2
ADAPTER = LAYERS * 2 * 2 * RANK * WIDTH  # query and value
BUFFERS = 2 * PLACES * 8  # position and token type ids
BLOCKS = LINEAR // 64  # one scale a block, double quantised: 8 bits each, and one float32 a 256 of them
PACKED = LINEAR // 2 + BLOCKS + LAYERS * 6 * 4  # a layer has 64 blocks: one scale of scales


@pytest.mark.parametrize(
    ("arm", "weights", "trained", "tensors"),
    [
        ({}, 4 * (EMBEDDINGS + LINEAR + REST + HEAD), EMBEDDINGS + LINEAR + REST + HEAD, 5 + LAYERS * 16 + 4),
        (
            {"dtype": "bfloat16"},
            2 * (EMBEDDINGS + LINEAR + REST) + 4 * HEAD,
            (EMBEDDINGS + LINEAR + REST) // 2 + HEAD,
            5 + LAYERS * 16 + 4,
        ),
        (
            {"peft": LORA},
            4 * (EMBEDDINGS + LINEAR + REST + 2 * HEAD + ADAPTER),
            HEAD + ADAPTER,
            4 + LAYERS * 4,
        ),
        (
            {"peft": LORA, "dtype": "bfloat16"},
            2 * (EMBEDDINGS + LINEAR + REST) + 4 * (2 * HEAD + ADAPTER),
            HEAD + ADAPTER,
            4 + LAYERS * 4,
        ),
        (
            {"peft": LORA, "quantization": NF4},
            4 * (EMBEDDINGS + REST + 2 * HEAD + ADAPTER) + PACKED,
            HEAD + ADAPTER,
            4 + LAYERS * 4,
        ),
    ],
    ids=["full", "full-bfloat16", "lora", "lora-bfloat16", "qlora"],
)
def test_training_bytes_by_hand(tiny_bert, arm, weights, trained, tensors):
    """`trained`: as many float32 weights as take what those that are trained do."""
    built = build(tiny_bert, **arm)
    found = methods.training_bytes(built.model)
    # The code books (16 and 256 floats) and the offset of the scales: bitsandbytes may share them between layers.
    books = (LAYERS * 6 if "quantization" in arm else 0) * (16 * 4 + 256 * 4 + 4)
    assert weights + BUFFERS <= found["weights"] <= weights + BUFFERS + books
    assert found["gradients"] == 4 * trained
    assert found["optimizer"] == 2 * 4 * trained + 4 * tensors
    assert found["weights"] == methods.weight_bytes(built.model) + BUFFERS
    built.model.train()
    with torch.autocast("cpu", torch.bfloat16, enabled="dtype" in arm):
        built.model(**batch()).loss.backward()
    optimizer = torch.optim.AdamW([p for p in built.model.parameters() if p.requires_grad], fused=True)
    optimizer.step()
    held = [value for state in optimizer.state.values() for value in state.values()]
    assert found["optimizer"] == sum(value.numel() * value.element_size() for value in held)
    held = [p.grad for p in built.model.parameters() if p.grad is not None]
    assert found["gradients"] == sum(value.numel() * value.element_size() for value in held)


def test_advice_on_a_package_that_is_not_taken_is_silent(caplog):
    """bitsandbytes logs it when it is imported on some processors."""
    log = logging.getLogger("bitsandbytes.backends.cpu.ops")
    log.warning("Failed to load gemm: %s. Please make sure you already `pip install kernels`", "x")
    log.warning("another")
    assert [record.getMessage() for record in caplog.records] == ["another"]

"""On a GPU: captured decoding writes what eager steps and generate write; marked gpu, skipped without one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_causal
import torch
from peft_tradeoffs.measure.devices import free_memory
from peft_tradeoffs.runs.interruption import Interrupted
from peft_tradeoffs.training import decoding
from peft_tradeoffs.training.batches import choose_kernels, no_mask, padding_mask
from peft_tradeoffs.training.decoding import decode
from peft_tradeoffs.training.methods import hold_as_computed
from prompted import LORA, built, changed, generated, lists, polled, prompts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ARMS: dict[str, dict[str, Any]] = {
    "full": {},
    "bfloat16": {"dtype": "bfloat16"},
    "lora": {"peft": LORA},
    "dora": {"peft": {**LORA, "use_dora": True}},
    "qlora": {"peft": LORA, "quantization": tiny.NF4_BF16},
}
CAPTURED, EAGER = changed(engine="captured"), changed()
CLOSE = 1e-4  # logits that rounding may put in another order
GPU = torch.device("cuda", 0)


def on_gpu(folder: Path, arm: str, precision: str, family: str = "llama") -> torch.nn.Module:
    model = built(folder, family, device="cuda", **ARMS[arm])
    hold_as_computed(model, precision, GPU, torch.arange(3, 60))
    return model


@torch.no_grad()
def assert_alike(model: Any, found: list[list[int]], expected: list[list[int]]) -> None:
    """Equal, but for outputs that part at a token whose logit is as good as the other one's."""
    model.eval()
    parted = 0
    for prompt, one, other in zip(prompts(), found, expected, strict=True):
        if one == other:
            continue
        parted += 1
        place = next(i for i, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
        ids = torch.tensor([[*prompt.tolist(), *one[:place]]], device=GPU)
        logits = model(input_ids=ids).logits[0, -1]
        assert logits.max() - logits[[one[place], other[place]]].min() < CLOSE
    assert parted <= 2


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("arm", ARMS)
def test_captured_steps_write_what_eager_ones_write(arm, precision, tmp_path):
    if arm == "bfloat16" and precision == "fp32":
        pytest.skip("bfloat16 weights are for autocast")
    model = on_gpu(tmp_path, arm, precision)
    found = decode(model, prompts(), changed(engine="captured", precision=precision), GPU)
    assert (found.engine, found.engine_reason, found.steps) == ("captured", None, 3 * 31)
    eager = decode(model, prompts(), changed(precision=precision), GPU)
    assert (eager.engine, eager.capture_s) == ("eager", 0.0) and found.capture_s > 0
    assert lists(found) == lists(eager)
    assert len({tuple(tokens) for tokens in lists(found)}) > 25


@pytest.mark.parametrize("family", tiny_causal.FAMILIES)
def test_every_family_is_captured_and_writes_what_generate_writes(family, tmp_path):
    model = on_gpu(tmp_path, "full", "fp32", family)
    found = decode(model, prompts(), CAPTURED, GPU)
    assert (found.engine, found.engine_reason) == ("captured", None)
    assert_alike(model, lists(found), generated(model, prompts(), EAGER))


def test_graphs_and_cache_are_freed_and_random_state_is_as_before(tmp_path):
    model = on_gpu(tmp_path, "lora", "bf16")
    wanted = changed(engine="captured", precision="bf16")
    expected = lists(decode(model, prompts(), wanted, GPU))  # libraries have what they keep
    free_memory(GPU)
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    state = torch.cuda.get_rng_state(GPU)
    assert lists(decode(model, prompts(), wanted, GPU)) == expected
    assert torch.cuda.memory_allocated() <= before[0]
    assert torch.cuda.memory_reserved() <= before[1] + 2**25  # the allocator's segments are of 2 or 20 MiB
    assert torch.equal(torch.cuda.get_rng_state(GPU), state)
    torch.rand(3, device=GPU)  # the generator is in no graph's hands


def test_a_poll_ends_captured_decoding_and_it_can_begin_again(tmp_path):
    model = on_gpu(tmp_path, "full", "fp32")
    poll = polled()
    choose_kernels(no_mask, model)
    attention = model.config._attn_implementation
    with pytest.raises(Interrupted):
        decode(model, prompts(), CAPTURED, GPU, poll)
    assert model.config._attn_implementation == attention and torch.backends.cuda.cudnn_sdp_enabled()
    found = lists(decode(model, prompts(), CAPTURED, GPU))
    choose_kernels(padding_mask, model)
    assert found == lists(decode(model, prompts(), CAPTURED, GPU))


def test_a_step_that_cannot_be_captured_is_taken_eagerly(tmp_path, monkeypatch):
    model = on_gpu(tmp_path, "full", "fp32")
    expected = lists(decode(model, prompts(), EAGER, GPU))
    step = decoding.DecodingStep.on_device

    def asks(self: Any, rows: int, *padded: int) -> None:
        step(self, rows, *padded)
        self.all_ended()

    monkeypatch.setattr(decoding.DecodingStep, "on_device", asks)
    found = decode(model, prompts(), CAPTURED, GPU)
    assert found.engine == "eager" and found.engine_reason.startswith("capture failed: ")
    assert lists(found) == expected
    monkeypatch.undo()
    assert decode(model, prompts(), CAPTURED, GPU).engine == "captured"


def test_rows_that_end_are_those_of_eager_steps(tmp_path):
    model = on_gpu(tmp_path, "full", "fp32")
    endless = lists(decode(model, prompts(), CAPTURED, GPU))
    ends = (endless[3][5], endless[8][0], endless[20][17])
    found = decode(model, prompts(), changed(engine="captured", end_tokens=ends), GPU)
    eager = decode(model, prompts(), changed(end_tokens=ends), GPU)
    assert lists(found) == lists(eager) and np.array_equal(found.ended, eager.ended)
    assert found.steps == eager.steps and 3 <= found.ended.sum() < 32
    most = decode(model, prompts(), changed(engine="captured", max_new_tokens=2), GPU)
    assert lists(most) == [tokens[:2] for tokens in endless]

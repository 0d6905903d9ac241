"""Greedy decoding: the tokens are those of Transformers' generate, whatever the family, the arm and the ends."""

import contextlib
import gc
import os
import random
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tiny
import tiny_causal
import torch
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.runs.interruption import Interrupted
from peft_tradeoffs.training import decoding
from peft_tradeoffs.training.batches import UNMASKED, choose_kernels, no_mask
from peft_tradeoffs.training.decoding import decode
from peft_tradeoffs.training.step import CaptureError, EagerSteps
from peft_tradeoffs.training.targets import AtTargets
from prompted import LORA, NEVER, built, changed, generated, lists, polled, prompts

CPU = torch.device("cpu")
QUESTIONS = [
    "What is the capital of France? Answer with one word.",
    "Say yes.",
    "Name three colours.",
    "Write a regular expression for lines that begin with a capital letter and end with a number.",
    "How many legs has a spider?",
    "Tell me a story of a fox who wants to cross a river but cannot swim, and of the bear that helps him.",
    "Translate into German: Good morning, how are you today?",
    "Which is larger, 17 or 71?",
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Steps of a tiny model are too short to share: threads that wait for each other take ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    return built(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def endless(llama: torch.nn.Module) -> list[list[int]]:
    """What it writes where nothing ends it."""
    return generated(llama, prompts(), NEVER)


@pytest.mark.parametrize("family", tiny_causal.FAMILIES)
def test_the_tokens_are_those_of_generate_without_padding(family, tmp_path):
    model = built(tmp_path, family)
    found = decode(model, prompts(), NEVER, CPU)
    assert lists(found) == generated(model, prompts(), NEVER)
    assert len({tuple(tokens) for tokens in lists(found)}) > 25
    assert all(tokens.dtype == np.int32 for tokens in found.tokens)


@pytest.mark.skipif("CHECKPOINT" not in os.environ, reason="needs CHECKPOINT, the folder of a causal model")
def test_a_real_model_answers_as_generate_does():
    """As SmolLM2-135M-Instruct; eight questions of unequal lengths, some of which it ends early."""
    from transformers import AutoTokenizer

    folder = Path(os.environ["CHECKPOINT"])
    tokenizer, model = AutoTokenizer.from_pretrained(folder), tiny.build(folder, task="sft", num_labels=0).model
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    texts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for chat in chats]
    asked = [np.array(text, np.int32) for text in texts]
    wanted = changed(end_tokens=(tokenizer.eos_token_id,), pad_token_id=tokenizer.pad_token_id or 0)
    found = decode(model, asked, wanted, CPU)
    assert lists(found) == generated(model, asked, wanted)
    assert len({len(text) for text in asked}) > 4 and 0 < found.ended.sum() < len(asked)


@pytest.mark.parametrize("quantization", [None, tiny.NF4], ids=["lora", "qlora"])
def test_an_adapter_is_decoded_with_as_it_is(quantization, tmp_path):
    model = built(tmp_path, peft=LORA, quantization=quantization)
    few = prompts(12)
    found = decode(model, few, NEVER, CPU)
    assert lists(found) == generated(model, few, NEVER)
    with model.disable_adapter():
        assert lists(decode(model, few[:4], NEVER, CPU)) != lists(found)[:4]


def test_a_row_ends_with_any_of_the_end_tokens(llama, endless):
    ends = (endless[3][5], endless[8][0], endless[20][17])
    wanted = changed(end_tokens=ends, pad_token_id=ends[0])
    found = decode(llama, prompts(), wanted, CPU)
    first = [next((place for place, token in enumerate(row) if token in ends), None) for row in endless]
    assert lists(found) == [row[:place] for row, place in zip(endless, first, strict=True)]
    assert found.ended.tolist() == [place is not None for place in first]
    assert 3 <= found.ended.sum() < 32 and found.tokens[8].tolist() == []


def test_a_model_that_never_ends_writes_as_many_tokens_as_it_may(llama, endless):
    found = decode(llama, prompts(), NEVER, CPU)
    assert lists(found) == endless and {len(row) for row in endless} == {32}
    assert not found.ended.any() and found.steps == 3 * 31
    assert (found.engine, found.engine_reason, found.capture_s) == ("eager", None, 0.0)


def test_rows_that_all_end_at_once_take_no_step(llama, endless):
    found = decode(llama, prompts(), changed(end_tokens=tuple({row[0] for row in endless})), CPU)
    assert lists(found) == [[]] * 32 and found.ended.all() and found.steps == 0


def test_a_batch_stops_soon_after_its_last_row_has_ended(llama, endless):
    wanted = changed(batch_size=1, end_tokens=(endless[0][2],))
    assert endless[0][2] not in endless[0][:2]
    assert decode(llama, prompts()[:1], wanted, CPU).steps == decoding.ASKED


@pytest.mark.parametrize("new", [1, 2, decoding.ASKED + 1])
def test_no_more_tokens_are_written_than_asked_for(llama, endless, new):
    found = decode(llama, prompts(), changed(max_new_tokens=new), CPU)
    assert lists(found) == [row[:new] for row in endless] and found.steps == 3 * (new - 1)


def test_batches_are_of_prompts_of_like_length_and_recorded(llama):
    found, texts = decode(llama, prompts(), NEVER, CPU), prompts()
    assert [len(rows) for rows in found.batches] == [12, 12, 8]
    order = [len(texts[row]) for rows in found.batches for row in rows]
    assert order == sorted(order, reverse=True)
    assert sorted(row for rows in found.batches for row in rows) == list(range(32))
    assert found.padded == [-(-len(texts[rows[0]]) // 8) * 8 for rows in found.batches]


def test_prompts_that_leave_no_room_are_refused(llama):
    texts = [*prompts(5), np.ones(481, np.int32), np.ones(500, np.int32)]
    with pytest.raises(InputError) as refused:
        decode(llama, texts, NEVER, CPU)
    assert str(refused.value) == (
        "2 of 7 prompts have more than 480 tokens (the longest 500), so max_new_tokens 32 do not fit behind them in "
        "the model's 512: set max_new_tokens to 12 or less, or leave these prompts out"
    )
    found = decode(llama, [texts[5]], changed(max_new_tokens=31), CPU)
    assert lists(found) == generated(llama, [texts[5]], changed(max_new_tokens=31))


def test_prompts_longer_than_the_context_are_refused():
    with pytest.raises(InputError, match="do not fit behind them in the model's 16: leave these prompts out"):
        decoding.check_prompts([np.ones(17)], NEVER, 16)
    with pytest.raises(InputError, match="1 of 2 prompts have no tokens to decode from"):
        decoding.check_prompts([np.ones(3), np.ones(0)], NEVER, 512)
    with pytest.raises(InputError, match="no prompts"):
        decoding.check_prompts([], NEVER, 512)
    with pytest.raises(InputError, match="max_new_tokens is 0; it must be at least 1"):
        decoding.check_prompts([np.ones(3)], changed(max_new_tokens=0), 512)
    decoding.check_prompts([np.ones(100_000)], NEVER, None)


def test_a_poll_ends_it_and_all_is_as_before(llama):
    poll = polled()
    with unchanged(llama), pytest.raises(Interrupted):
        decode(llama, prompts(), NEVER, CPU, poll)
    assert poll.call_count == 4  # before the first batch, and before its first, 9th and 17th step


def test_what_it_changes_is_put_back(llama):
    choose_kernels(no_mask, llama)
    llama.train()
    llama.lm_head.eval()  # a part in another mode than the rest
    try:
        assert llama.config._attn_implementation == UNMASKED and not llama.config.use_cache
        with unchanged(llama):
            found = decode(llama, prompts(8), NEVER, CPU)
        assert lists(found) == generated(built_like(llama), prompts(8), NEVER)
    finally:
        llama.train()
        choose_kernels(decoding.padding_mask, llama)


def built_like(model: Any) -> Any:
    """The same weights under the usual attention."""
    other = type(model)(model.config.__class__(**{**model.config.to_dict(), "attn_implementation": "sdpa"}))
    other.load_state_dict(model.state_dict())
    return other


def test_a_model_whose_head_training_computes_at_targets_alone_decodes_as_before(tmp_path):
    model = built(tmp_path, gradient_checkpointing=True).train()
    few, wanted = prompts(4), changed(max_new_tokens=8)
    expected = generated(model, few, wanted)
    AtTargets(model, contextlib.nullcontext)
    with unchanged(model):
        assert lists(decode(model, few, wanted, CPU)) == expected


class unchanged:  # reads as a statement
    """Asserts at its end that config, kernels, modes, weights and random state are what they were."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __enter__(self) -> None:
        self._before = self._state()
        self._weights = [parameter.clone() for parameter in self._model.parameters()]

    def __exit__(self, *_: object) -> None:
        assert self._state() == self._before
        assert all(torch.equal(*pair) for pair in zip(self._weights, self._model.parameters(), strict=True))

    def _state(self) -> Any:
        model = self._model
        return (
            model.config.to_dict(),
            model.config._attn_implementation,
            model.generation_config.to_dict(),
            [module.training for module in model.modules()],
            [parameter.requires_grad for parameter in model.parameters()],
            torch.backends.cuda.cudnn_sdp_enabled(),
            (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())),
            torch.is_grad_enabled(),
        )


@pytest.mark.parametrize("held", ["float32", "bfloat16"])
def test_under_autocast_keys_are_of_the_precision_that_attention_computes_in(held, tmp_path):
    model, wanted = built(tmp_path, peft=LORA, dtype=held), changed(precision="bf16", max_new_tokens=6)
    model.eval()
    step = decoding.DecodingStep(model, wanted, CPU)
    with torch.no_grad():
        step.begin(np.full((2, 8), 5), np.array([8, 3]))
    layers = step._cache.layers
    assert {states.dtype for layer in layers for states in (layer.keys, layer.values)} == {torch.bfloat16}
    few = prompts(6)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        expected = generated(model, few, wanted)
    same = sum(one == other for one, other in zip(lists(decode(model, few, wanted, CPU)), expected, strict=True))
    assert same >= 5  # batches round otherwise


def test_a_step_that_is_tried_out_leaves_nothing(llama, endless):
    class Trying(EagerSteps):
        """Tries a step out twice, as a capture does."""

        def prepare(self, shapes: Any, stop: Any = None) -> None:
            for shape in 2 * list(shapes):
                self._step.try_out(shape)

    with mock.patch.object(decoding, "EagerSteps", Trying):
        assert lists(decode(llama, prompts(), NEVER, CPU)) == endless
        assert lists(decode(llama, prompts(), changed(max_new_tokens=2), CPU)) == [row[:2] for row in endless]


def test_the_cache_is_freed_at_once(llama):
    held = []

    def remembered(*arguments: Any) -> Any:
        cache = static_cache(*arguments)
        held.append(weakref.ref(cache))
        return cache

    static_cache = decoding.static_cache
    gc.disable()  # there is no reference cycle to be found
    try:
        with mock.patch.object(decoding, "static_cache", remembered):
            decode(llama, prompts(), changed(max_new_tokens=2), CPU)
        assert [each() for each in held] == [None] * 3  # two of 12 rows and other lengths, and one of 8
    finally:
        gc.enable()


def test_steps_that_cannot_be_captured_are_taken_eagerly(llama, endless):
    class Refused(EagerSteps):
        """Captures one shape, and no second one."""

        name, capture_s, prepared = "captured", 1.5, 0

        def prepare(self, shapes: Any, stop: Any = None) -> None:
            self.prepared += 1
            if self.prepared == 2:
                raise CaptureError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with mock.patch.object(decoding, "CapturedSteps", Refused):
        found = decode(llama, prompts(), changed(engine="captured"), CPU)
    assert lists(found) == endless
    assert (found.engine, found.capture_s) == ("eager", 1.5)
    assert found.engine_reason == "capture failed: CUDA out of memory. Tried to allocate 2.00 GiB."


def test_what_keeps_more_than_keys_and_values_is_left_to_generate(tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=4)).train()
    few, wanted = [*prompts(6), prompts(1)[0]], changed(max_new_tokens=8)
    with unchanged(model):
        found = decode(model, few, wanted, CPU)
    assert lists(found) == generated(model, few, wanted)
    assert (found.engine, found.steps) == ("generate", 7 * len(found.batches))
    assert [{len(few[row]) for row in rows} for rows in found.batches] == [{length} for length in found.padded]
    assert found.engine_reason.startswith("MambaForCausalLM keeps more than keys and values (")


def test_an_adapter_of_virtual_tokens_is_left_to_generate(tmp_path):
    model = built(tmp_path, peft={"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4})
    few, wanted = prompts(6), changed(max_new_tokens=8)
    found = decode(model, few, wanted, CPU)
    assert lists(found) == generated(model, few, wanted)
    assert found.engine_reason == "PROMPT_TUNING puts tokens of its own before a text"
    assert decoding.context_of(model) == decoding.context_of(model.get_base_model()) - 4

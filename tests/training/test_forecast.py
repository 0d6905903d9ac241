"""Memory from shapes: against what H200s were measured to take, and against bytes counted by hand."""

import csv
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_causal
import torch
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.inputs.tokens import END_TOKENS, Split
from peft_tradeoffs.measure.devices import open_device
from peft_tradeoffs.runs.plan import ModelFolder, Plan
from peft_tradeoffs.training import forecast
from peft_tradeoffs.training.methods import Outputs, Recipe
from peft_tradeoffs.training.run import Tokens
from peft_tradeoffs.training.step import EagerSteps

MIB = 2**20
MINILM = {
    **{"model_type": "bert", "architectures": ["BertModel"], "vocab_size": 30522, "hidden_size": 384},
    **{"intermediate_size": 1536, "num_attention_heads": 12, "num_hidden_layers": 6, "pad_token_id": 0},
}
SHAPE = (32, 64)  # the batch of the study's longest texts
LORA = {"peft_type": "LORA", "target_modules": "all-linear", "lora_dropout": 0.05}


def settings_of(arm: str) -> Recipe:
    """The recipe of an arm of docs/sst2-minilm."""
    method, _, rank = arm.rpartition("-r") if "-r" in arm else (arm, "", "0")
    peft = None if method == "full" else {**LORA, "r": int(rank), "lora_alpha": 2 * int(rank)}
    if peft and method == "lora-qv":
        peft["target_modules"] = ["query", "value"]
    nf4 = tiny.NF4_BF16 if method.startswith("qlora") else None
    return Recipe(peft, nf4, "checkpointed" in method, None, "classification")


def folder_of(config: dict, folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, str]]:
    """Of each arm of the study one run that was not the first of its process."""
    with (tiny.REPOSITORY / "docs/sst2-minilm/runs.csv").open(encoding="utf-8") as file:
        return {row["arm"]: row for row in csv.DictReader(file) if row["seed"] == "1"}


def test_the_arms_of_the_study(measured, tmp_path):
    """All twelve: what is held and kept to a thousandth, the peak within a tenth."""
    assert len(measured) == 12
    folder = folder_of(MINILM, tmp_path)
    for arm, row in measured.items():
        built = forecast.build(folder, settings_of(arm), Outputs(2, 0, ["a", "b"]), "bf16")
        found = forecast.needed(built, forecast.Batch(SHAPE, 1, token_types=True), "bf16", "adamw")
        for key in ("weights_MiB", "gradients_MiB", "optimizer_MiB", "activations_MiB"):
            assert getattr(found, key) == pytest.approx(float(row[key]), rel=1e-3), (arm, key)
        assert found.probe_peak_allocated_MiB == pytest.approx(float(row["probe_peak_allocated_MiB"]), rel=0.1), arm
        assert found.trainable_parameters == int(row["trainable_parameters"])


def test_bytes_by_hand(tiny_bert):
    """Weights, gradients and moments of AdamW and of its 8-bit form; NF4 has half a byte per weight and constants."""
    full = forecast.build(tiny_bert, Recipe(None, None, False, None, "classification"), Outputs(2, 0), "fp32")
    sizes = [parameter.numel() for parameter in full.parameters()]
    found = forecast.needed(full, forecast.Batch((8, 32)), "fp32", "adamw")
    assert found.gradients_MiB * MIB == 4 * sum(sizes)
    assert found.optimizer_MiB * MIB == sum(2 * 4 * size + 4 for size in sizes)
    lighter = forecast.needed(full, forecast.Batch((8, 32)), "fp32", "adamw_8bit")
    large, small = ([s for s in sizes if (s >= 4096) == big] for big in (True, False))
    blocks = sum(-(-size // 256) for size in large)
    assert lighter.optimizer_MiB * MIB == 2 * sum(large) + 8 * blocks + 8 * sum(small) + 2048
    assert lighter.probe_peak_allocated_MiB < found.probe_peak_allocated_MiB
    peft = {**tiny.LORA, "r": 4, "lora_alpha": 8}
    packed = forecast.build(
        tiny_bert, Recipe(peft, tiny.NF4_BF16, False, None, "classification"), Outputs(2, 0), "bf16"
    )
    linear = [module.weight.quant_state for module in packed.modules() if hasattr(module, "compute_dtype")]
    assert linear
    for state in linear:
        blocks = -(-state.shape.numel() // 64)
        assert (state.absmax.numel(), state.absmax.element_size()) == (blocks, 1)
        assert state.state2.absmax.numel() == -(-blocks // 256)


def test_a_batch_in_parts_and_blocks_computed_again_take_less(tiny_bert):
    """And the weights that are held do not change by it."""

    def peak(checkpointing: bool, parts: int) -> forecast.Need:
        recipe = Recipe(None, None, checkpointing, None, "classification")
        built = forecast.build(tiny_bert, recipe, Outputs(2, 0), "fp32")
        return forecast.needed(built, forecast.Batch((256, 64), parts), "fp32", "adamw", workspace=0)

    whole, parts, again = peak(False, 1), peak(False, 4), peak(True, 1)
    assert parts.activations_MiB == pytest.approx(whole.activations_MiB / 4, rel=0.05)
    assert again.activations_MiB < whole.activations_MiB / 2
    for one in (parts, again):
        assert one.probe_peak_allocated_MiB < whole.probe_peak_allocated_MiB
        assert one.weights_MiB == whole.weights_MiB


def test_the_head_of_a_causal_model_counts_at_targets_alone(tiny_llama):
    def peak(targets: int) -> float:
        built = forecast.build(tiny_llama, Recipe(None, None, False, None, "sft"), Outputs(0, 0), "bf16")
        return forecast.needed(built, forecast.Batch((8, 64, targets)), "bf16", "adamw").activations_MiB

    assert peak(8) < peak(64)


def test_the_allocator():
    """A block is split where more than 1 MiB is left of it, joined when its neighbour is free, and counts whole."""
    allocator = forecast.Allocator()
    first = allocator.take(19 * MIB + 1)  # of a segment of 20 MiB: less than 1 MiB is left
    assert allocator.allocated == 20 * MIB
    allocator.give(first)
    halves = [allocator.take(9 * MIB), allocator.take(9 * MIB)]
    assert allocator.allocated == allocator.peak - 2 * MIB == 18 * MIB
    for half in halves:
        allocator.give(half)
    assert allocator.take(18 * MIB) is not None
    assert (allocator.allocated, allocator.peak) == (18 * MIB, 20 * MIB)
    assert allocator.take(0) is None
    allocator.take(1)
    assert allocator.allocated == 18 * MIB + 512


def texts(count: int, seed: int) -> Split:
    """Texts of 5 to 30 tokens, of two classes."""
    random = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(random.integers(5, 31, count))])
    ids = random.integers(5, 20, offsets[-1]).astype(np.int32)
    return Split(ids, np.zeros(len(ids), np.int8), offsets, np.arange(count) % 2, np.arange(count))


def tried_out(steps: EagerSteps, shapes: Iterable[tuple[int, ...]], _: object = None) -> None:
    """What a capture and a compilation do before the first step."""
    for shape in shapes:
        steps._step.try_out(shape)


ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(
    ("device", "ahead"), [("cpu", False), ("cpu", True), pytest.param("cuda", False, marks=ON_GPU)]
)
def test_some_real_steps(device, ahead, tiny_bert, tmp_path, monkeypatch):
    """An arm of each kind is prepared as a run is; every part takes time, and a longer batch no less."""
    if ahead:
        monkeypatch.setattr(EagerSteps, "prepare", tried_out)
    splits = {"train": texts(60, 0), "test": texts(20, 1)}
    tokens = Tokens(splits, {"pad_token_id": 0, "num_labels": 2, "labels": ["bad", "good"]})
    asked = resolve(tiny.config(tmp_path))
    on_gpu = device == "cuda"
    device = open_device(device, on_gpu)
    for arm in asked.arms:
        settings = asked.run_settings("reviews", "tiny", arm).to_dict()
        settings |= {"device": "cuda", "engine": "captured"} if on_gpu else {}
        work = forecast.work(splits, settings, 0)
        assert sum(work.shapes.values()) == work.steps == -(-len(splits["train"]) // 8)
        model = ModelFolder(tiny_bert, {"source": "folder", "pretrained": True})
        found = forecast.timed(Plan(settings, 0, tmp_path, model, {}), tokens, device, work)
        assert found.load_s > 0 and found.probe_s > 0 and found.token_s > 0
        assert found.steps == sorted(found.steps) and min(seconds for _, seconds in found.steps) > 0
        assert found.answers_s is None and (found.peak_MiB is not None) == (found.power_W is not None) == on_gpu
        assert (found.shape_s > 0) == on_gpu
        assert found.run_s(work, 1) > found.train_s(work) > 0


def test_answers_are_timed_too(tmp_path):
    """A language model that answers prompts; a run with them takes longer than without."""
    train, test = texts(40, 0), texts(16, 1)
    learned = [
        replace(one, token_type_ids=None, labels=np.zeros(len(one)), targets=np.arange(one.offsets[-1]) % 3 > 0)
        for one in (train, test)
    ]
    learned[1] = replace(learned[1], prompt_ids=test.input_ids, prompt_offsets=test.offsets)
    splits = dict(zip(("train", "test"), learned, strict=True))
    description = {"pad_token_id": 0, "num_labels": 0, "labels": None, END_TOKENS: [1]}
    block = {"source": "files", "splits": {"train": "a.csv", "test": "b.csv"}, "task": "sft"}
    block |= {"prompt": "p", "completion": "c", "metric": "exact_match", "generate": {"max_new_tokens": 16}}
    methods = {"full": {"learning_rate": 1e-3}}
    margin = {"margin": {"exact_match": 0.01}}
    asked = resolve(tiny.config(tmp_path, datasets={"qa": block}, methods=methods, comparison=margin))
    settings = asked.run_settings("qa", "tiny", "full").to_dict()
    work = forecast.work(splits, settings, 0)
    assert (work.prompts, len(work.largest.shape)) == (16, 3)
    model = ModelFolder(tiny_causal.causal(tmp_path / "model"), {"source": "folder", "pretrained": True})
    plan = Plan(settings, 0, tmp_path, model, {})
    found = forecast.timed(plan, Tokens(splits, description), open_device("cpu", False), work)
    assert found.answers_s > 0
    one, none = found.run_s(work, 64), found.run_s(replace(work, prompts=0), 64)
    assert one == pytest.approx(none + found.answers_s)

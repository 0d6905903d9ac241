"""On a GPU: profiles of every engine, whole tables, and memory as the allocator counts it; marked gpu."""

import json
from pathlib import Path
from typing import Any

import gpu_runs
import numpy as np
import pandas as pd
import pytest
import torch
from peft_tradeoffs.measure import traces
from peft_tradeoffs.measure.traces import CATEGORIES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ENGINES = ["eager", "captured", "compiled", "captured-compiled"]
STEPS = 4


@pytest.fixture(scope="module")
def prepared(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpu_runs.prepare(tmp_path_factory.mktemp("prepared"), tiny_bert)


def profile(prepared: Path, arm: str, output: Path, engines: list[str], **changes: Any) -> Path:
    words = ["--tokens", str(prepared / "tokens.npz"), "--model", str(prepared / "models/tiny"), "--seed", "0"]
    words += ["--settings", json.dumps(gpu_runs.settings(arm, **changes)), "--engines", *engines]
    words += ["--steps", str(STEPS), "--warmup-steps", "2", "--timed-steps", "10", "--output-dir", str(output)]
    gpu_runs.step("profile_arm.py", *words)
    return output


@pytest.fixture(scope="module")
def full(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return profile(prepared, "full", tmp_path_factory.mktemp("full"), ENGINES)


def test_every_engine_has_a_trace_that_can_be_opened(full):
    assert json.loads((full / "env.json").read_text())["problems"] == []
    for engine in ENGINES:
        trace = traces.read(full / f"trace_{engine}.json.gz")
        assert traces.problems(trace) == []
        assert any(event.get("cat") == "kernel" for event in trace["traceEvents"])


def test_self_times_sum_to_the_window_on_both_sides(full):
    operators, kernels = pd.read_csv(full / "operators.csv"), pd.read_csv(full / "kernels.csv")
    for (_, _), own in operators.groupby(["engine", "batch"]):
        for side in ("cpu", "gpu"):
            assert own[f"self_{side}_share"].sum() == pytest.approx(1, abs=traces.TOLERANCE)
        assert traces.NO_LAUNCH not in set(own["operator"])
    assert np.allclose(kernels.groupby(["engine", "batch"])["gpu_share"].sum(), 1, atol=traces.TOLERANCE)
    assert len(operators.groupby(["engine", "batch"])) == 2 * len(ENGINES)


def test_a_replayed_graph_is_one_launch_of_the_kernels_that_eager_launches_one_by_one(full):
    engines = pd.read_csv(full / "engines.csv").set_index(["engine", "batch"])
    assert engines["reason"].isna().all()
    for batch in ("typical", "longest"):
        eager, captured = engines.loc["eager", batch], engines.loc["captured", batch]
        for engine in ("captured", "captured-compiled"):  # the graph, and what moves dropout's generator on
            assert 1 <= engines.loc[engine, batch]["launches"] <= 3
        assert captured["kernels"] == pytest.approx(eager["kernels"], rel=0.1)
        assert eager["launches"] > 50 and 0 < eager["gpu_busy_share"] < captured["gpu_busy_share"] <= 1
        assert engines.loc["compiled", batch]["kernels"] < eager["kernels"]
    kernels = pd.read_csv(full / "kernels.csv")
    names = {engine: set(own["kernel"]) for engine, own in kernels[kernels["batch"] == "typical"].groupby("engine")}
    assert len(names["eager"] & names["captured"]) > 0.8 * len(names["eager"])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("arm", gpu_runs.ARMS)
def test_memory_is_what_the_allocator_counts(prepared, tmp_path, arm, checkpointing):
    folder = profile(prepared, arm, tmp_path, ["eager"], gradient_checkpointing=checkpointing)
    memory = pd.read_csv(folder / "memory.csv")
    parts = memory[[f"{name}_MiB" for name in CATEGORIES]]
    assert (parts >= -1e-9).all(axis=None)
    assert np.allclose(parts.sum(axis=1), memory["total_MiB"])
    first, last = memory.iloc[0], memory.iloc[-1]
    assert (last["gradients_MiB"], last["activations_MiB"]) == (0, 0)
    assert last["total_MiB"] == pytest.approx(first["total_MiB"], abs=0.01)
    assert memory["activations_MiB"].max() > 0 and memory["gradients_MiB"].max() > 0
    assert set(memory["phase"]) >= {"forward", "backward"}


def test_the_tables_for_readers(full, tmp_path):
    place = tmp_path / "reviews/tiny/full"
    place.parent.mkdir(parents=True)
    place.symlink_to(full)
    grid = {"dataset": ["reviews"], "model": ["tiny"], "arm": ["full"]}
    gpu_runs.step("make_profiles.py", "--profiles-dir", str(tmp_path), "--grid", json.dumps(grid))
    text = (full / "operators.md").read_text()
    assert "By GPU time:" in text and "| GPU idle" in text and "cudaGraphLaunch" in text
    index = (tmp_path / "index.md").read_text()
    assert "captured-compiled" in index and "Launches" in index
    assert (full / "memory.svg").stat().st_size

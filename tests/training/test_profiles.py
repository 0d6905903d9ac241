"""Profiles: traces that can be opened, self times that sum to the window, memory by category, and their own target."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.core.code import dependencies
from peft_tradeoffs.inputs.tokens import Split
from peft_tradeoffs.measure import traces
from peft_tradeoffs.measure.devices import Device
from peft_tradeoffs.measure.machine import NO_GPU
from peft_tradeoffs.measure.traces import CATEGORIES, MIB, Held, engine_row, kernel_rows, operator_rows, timeline
from peft_tradeoffs.report.profiles import index_frame, index_text, operators_text
from peft_tradeoffs.runs.plan import ModelFolder, Plan
from peft_tradeoffs.training import methods, profiling
from peft_tradeoffs.training.batches import Data
from peft_tradeoffs.training.step import Settings, Subject
from torch.profiler import ProfilerActivity, profile, record_function

SCRIPTS = tiny.REPOSITORY / "workflow_scripts"
LORA = {**tiny.LORA, "r": 4, "lora_alpha": 8}
COUNTS = profiling.StepCounts(warmup_steps=1, timed_steps=2, steps=2)
CPU = torch.device("cpu")


def texts(rows: int = 90) -> Split:
    random = np.random.default_rng(0)
    lengths = random.integers(4, 60, rows)
    offsets = np.concatenate([[0], lengths.cumsum()])
    return Split(
        random.integers(5, 28, offsets[-1]).astype(np.int32), None, offsets, np.arange(rows) % 2, np.arange(rows)
    )


def profiled_steps(folder: Path, peft: dict[str, Any] | None, **changes: Any) -> profiling.ProfiledSteps:
    built = tiny.build(folder, peft=peft)
    settings = profiling.engine_plan(plan({**tiny.TRAINING, "precision": "fp32", **changes}), "eager").settings
    data = Data.of({"train": texts()}, 0, "classification")
    return profiling.ProfiledSteps(Subject(built.model, data, Settings.of(settings), 0), CPU, COUNTS)


def plan(settings: dict[str, Any], results: Path = Path(), manifest: dict[str, Any] | None = None) -> Plan:
    model = ModelFolder(results / "models/tiny", manifest or {})
    return Plan(settings, 0, results / "tokens/reviews/tiny.npz", model, {})


@pytest.fixture(scope="module")
def steps(tiny_bert: Path) -> profiling.ProfiledSteps:
    return profiled_steps(tiny_bert, None)


@pytest.fixture(scope="module")
def trace(steps: profiling.ProfiledSteps) -> dict[str, Any]:
    return steps.trace()


# The format.


def test_a_trace_has_the_format_and_comes_back_from_its_file(trace, tmp_path):
    assert traces.problems(trace) == []
    path = tmp_path / "trace_eager.json.gz"
    traces.write(path, trace)
    assert traces.read(path) == trace
    assert "/tmp" not in json.dumps(trace)


def event(ts: float, dur: float, name: str = "aten::mm", **more: Any) -> dict[str, Any]:
    return {"ph": "X", "name": name, "cat": "cpu_op", "pid": 1, "tid": 1, "ts": ts, "dur": dur, "args": {}, **more}


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([], "no list of events"),
        ([{"name": "a"}], "no event of a known phase: event 0"),
        ([event(0, 5), event(1, -1)], "no duration of a complete event: event 1"),
        ([event(0, 5), event(float("nan"), 1)], "no time: event 1"),
        ([{**event(0, 5), "tid": None}], "no pid or tid: event 0"),
        ([{**event(0, 5), "ph": "s"}], "a flow without id: event 0"),
        ([event(0, 5, "outer"), event(3, 4, "inner")], "1 events cross others: inner ends 2.000 µs after outer"),
        ([event(0, 50), event(40, 20, cat="cuda_runtime")], "1 events cross others"),
    ],
)
def test_what_a_trace_lacks_is_said(events, said):
    (problem,) = traces.problems({"traceEvents": events})
    assert said in problem


def test_events_within_one_another_or_apart_are_no_problem():
    fine = [event(0, 5), event(0, 2), event(2, 3), event(5, 1), event(3, 4, tid=2), event(4, 3, cat="cuda_runtime")]
    assert traces.problems({"traceEvents": fine}) == []


def test_kernels_that_overlap_stand_on_tracks_of_their_own_and_keep_their_times():
    def kernel(ts: float, dur: float) -> dict[str, Any]:
        return event(ts, dur, "gemm", cat="kernel", pid=0, tid=7)

    arrow = {"ph": "f", "bp": "e", "id": 3, "name": "ac2g", "cat": "ac2g", "pid": 0, "tid": 7, "ts": 4.0}
    around = event(0, 30, "step", cat="gpu_user_annotation", pid=0, tid=7)
    recorded = {"traceEvents": [around, kernel(0, 5), kernel(4, 4), arrow, kernel(7, 2), kernel(9, 1), event(4.0, 1)]}
    assert "cross others" in traces.problems(recorded)[0]
    apart = traces.with_overlaps_apart(recorded)
    assert traces.problems(apart) == []
    found = {(e["cat"], e["ts"]): (e["tid"], e.get("dur")) for e in apart["traceEvents"] if e["ph"] != "M"}
    own, second = 7, "7, overlap 1"
    assert [found["kernel", ts] for ts in (0, 4, 7, 9)] == [(own, 5), (second, 4), (own, 2), (own, 1)]
    assert found["ac2g", 4.0][0] == second and found["cpu_op", 4.0][0] == 1
    about = [(e["pid"], e["tid"], e["args"]) for e in apart["traceEvents"] if e["ph"] == "M"]
    assert about == [(0, second, {"name": "stream 7, overlap 1"}), (0, second, {"sort_index": 7})]
    ties = {"traceEvents": [kernel(0, 10), kernel(0, 5), arrow | {"ts": 0}, kernel(6, 8)]}
    assert traces.problems(ties) != []
    apart = traces.with_overlaps_apart(ties)
    assert traces.problems(apart) == []
    assert [e["tid"] for e in apart["traceEvents"] if e["ph"] != "M"] == [own, second, own, second]
    fine = {"traceEvents": [event(0, 5), event(1, 2), kernel(0, 5), kernel(5, 1)]}
    assert traces.with_overlaps_apart(fine) == fine


# Times.


def test_self_times_of_every_window_sum_to_it(trace):
    typical, longest = traces.windows(trace)
    assert [typical.name, longest.name] == ["typical", "longest"]
    for window in (typical, longest):
        assert window.steps == COUNTS.steps
        assert sum(row.cpu_us for row in window.rows) == pytest.approx(window.us, rel=1e-6)
        rows = {(row.kind, row.name): row for row in window.rows}
        assert rows["operator", "aten::_fused_adamw_"].calls == 2 * COUNTS.steps  # matrices, vectors
        assert 0 < window.cpu_share("Python") < 1
        assert {name for kind, name in rows if kind == "Python"} >= {"forward", "optimizer", "step"}


def test_self_times_are_those_of_torch(tmp_path):
    first, second = torch.randn(2, 64, 64, requires_grad=True)
    with (
        profile(activities=[ProfilerActivity.CPU]) as recorded,
        record_function("window: one"),
        record_function("step"),
    ):
        torch.nn.functional.gelu(first @ second).sum().backward()
    recorded.export_chrome_trace(str(tmp_path / "trace.json"))
    (window,) = traces.windows(traces.read(tmp_path / "trace.json"))
    own = {row.name: row for row in window.rows if row.kind == "operator"}
    of_torch = {entry.key: entry for entry in recorded.key_averages() if entry.key not in ("window: one", "step")}
    assert own.keys() == of_torch.keys()
    for name, row in own.items():
        assert row.calls == of_torch[name].count
        assert row.cpu_us == pytest.approx(of_torch[name].self_cpu_time_total, abs=0.1)


def annotation(ts: float, dur: float, name: str) -> dict[str, Any]:
    return event(ts, dur, name, cat="user_annotation")


def on_gpu(ts: float, dur: float, name: str, correlation: int, stream: int = 7, cat: str = "kernel") -> dict[str, Any]:
    return event(ts, dur, name, cat=cat, pid=0, tid=stream, args={"correlation": correlation})


def call(ts: float, dur: float, name: str, correlation: int, tid: int = 1) -> dict[str, Any]:
    return event(ts, dur, name, cat="cuda_runtime", tid=tid, args={"correlation": correlation})


GPU_TRACE = {
    "traceEvents": [
        annotation(1000, 100, "window: typical"),
        annotation(1000, 90, "step"),
        annotation(1002, 70, "forward and backward"),
        annotation(1002, 20, "forward"),
        event(1005, 10, "aten::mm"),
        call(1008, 2, "cudaLaunchKernel", 1),
        event(1030, 30, "MmBackward0", tid=2),  # the thread of the backward pass
        event(1035, 10, "aten::mm", tid=2),
        call(1036, 4, "cuLaunchKernelEx", 2, tid=2),
        call(1075, 5, "cudaGraphLaunch", 3),
        call(1092, 8, "cudaDeviceSynchronize", 4),
        on_gpu(1010, 20, "gemm", 1),
        on_gpu(1040, 20, "gemm", 2),
        on_gpu(1080, 6, "gemm", 3),
        on_gpu(1086, 4, "adamw", 3),
        on_gpu(1090, 4, "Memcpy DtoD", 3, cat="gpu_memcpy"),
        on_gpu(900, 5, "before", 9),
        event(1000, 90, "step", cat="gpu_user_annotation", pid=0, tid=7),
    ]
}


def test_a_gpu_s_window_is_kernels_and_idle_and_every_kernel_is_of_what_launched_it():
    (window,) = traces.windows(GPU_TRACE)
    rows = {(row.kind, row.name): (row.calls, row.cpu_us, row.gpu_us) for row in window.rows}
    assert rows == {
        ("operator", "aten::mm"): (2, 8 + 6, 40),
        ("operator", "MmBackward0"): (1, 20, 0),
        ("CUDA call", "cudaLaunchKernel"): (1, 2, 0),
        ("CUDA call", "cuLaunchKernelEx"): (1, 4, 0),
        ("CUDA call", "cudaGraphLaunch"): (1, 5, 14),
        ("CUDA call", "cudaDeviceSynchronize"): (1, 8, 0),
        ("Python", "forward"): (1, 10, 0),
        ("Python", "forward and backward"): (1, 50 - 30, 0),  # less what the thread of the backward pass did meanwhile
        ("Python", "step"): (1, 2 + 3 + 10, 0),
        ("Python", "between steps"): (1, 2, 0),
        ("idle", "GPU idle"): (0, 0, 100 - 54),
    }
    assert window.sums() == {"cpu": 1.0, "gpu": 1.0}
    assert (window.launched, window.launches, window.busy_us) == (4, 3, 54)
    assert window.kernels == {"gemm": (3, 46), "adamw": (1, 4), "Memcpy DtoD": (1, 4)}


def test_what_runs_twice_at_a_time_is_said_beyond_five_per_cent():
    beside = [on_gpu(1040, 4, "gemm", 2, stream=8)]
    (window,) = traces.windows({"traceEvents": GPU_TRACE["traceEvents"] + beside})
    assert window.sums()["gpu"] == pytest.approx(1.04) and window.busy_us == 54 and window.problems() == []
    beside.append(on_gpu(1010, 10, "gemm", 1, stream=8))
    (window,) = traces.windows({"traceEvents": GPU_TRACE["traceEvents"] + beside})
    assert window.problems() == ["typical batch: self times of the GPU sum to 114.0% of the window"]


def test_tables_of_a_gpu():
    (window,) = traces.windows(GPU_TRACE)
    engine = engine_row("captured", window, (32, 48), 0.05, {"capture_s": 1.0, "compile_s": 0.0})
    assert (engine["gpu_busy_share"], engine["kernels"], engine["launches"], engine["reason"]) == (0.54, 4, 3, None)
    operators, kernels = pd.DataFrame(operator_rows("captured", window)), pd.DataFrame(kernel_rows("captured", window))
    assert operators["self_gpu_share"].sum() == kernels["gpu_share"].sum() == pytest.approx(1)
    assert operators["self_cpu_ms"].sum() == pytest.approx(0.1)
    text = operators_text("Profile", operators, pd.DataFrame([engine]), ["captured: no time: event 1"])
    by_gpu = text.split("By GPU time:")[1]
    assert re.search(r"GPU idle +\| +\| +– \| +0\.0460 \| +46\.0 % \|", by_gpu)
    assert re.search(r"cudaGraphLaunch +\| CUDA call \| +1\.00 \| +0\.0140", by_gpu)
    assert re.search(r"Sum +\| +\| +– \| +0\.100 \| +100\.0 %", by_gpu)
    assert "Problem in the trace of captured: no time: event 1." in text
    place = {"dataset": "sst2", "model": "bert", "arm": "full"}
    frame = index_frame([(place, pd.DataFrame([engine]), operators, pd.DataFrame(columns=["total_MiB"]))])
    assert frame.loc[0, "top_gpu"] == "aten::mm (40.0 %)"
    text = index_text(frame)
    assert re.search(r"\| +54\.0 % \| +4\.00 \| +3\.00 \| aten::mm \(40\.0 %\)", text)
    assert "](sst2/bert/full/trace_captured.json.gz)" in text


# Memory.


@pytest.fixture(scope="module")
def memory(steps: profiling.ProfiledSteps) -> pd.DataFrame:
    return pd.DataFrame(timeline(*steps.memory(), "cpu"))


def test_categories_sum_to_the_total_and_are_what_tensors_take(steps, memory):
    parts = memory[[f"{name}_MiB" for name in CATEGORIES]]
    assert (parts >= 0).all(axis=None)
    assert np.allclose(parts.sum(axis=1), memory["total_MiB"], rtol=0, atol=1e-9)
    known = methods.training_bytes(steps.prepared.subject.model)
    for name in ("weights", "optimizer", "gradients"):
        assert memory[f"{name}_MiB"].max() * MIB == pytest.approx(known[name])
    saved = steps.prepared.progress.probe["activations_MiB"]  # counted another way: tensors saved for the backward pass
    assert saved <= memory["activations_MiB"].max() < 1.1 * saved
    assert list(memory["phase"].drop_duplicates()) == ["between", "forward", "backward", "optimizer"]


def test_a_step_gives_back_all_that_it_took(memory):
    first, last = memory.iloc[0], memory.iloc[-1]
    assert (last["gradients_MiB"], last["activations_MiB"]) == (0, 0)
    assert last["total_MiB"] == pytest.approx(first["total_MiB"])


def test_gradients_of_an_adapter_in_parts(tiny_bert):
    steps = profiled_steps(tiny_bert, LORA, gradient_accumulation_steps=2)
    before = {name: p.detach().clone() for name, p in steps.prepared.subject.model.named_parameters()}
    rows = pd.DataFrame(timeline(*steps.memory(), "cpu"))
    known = methods.training_bytes(steps.prepared.subject.model)["gradients"]
    assert rows["gradients_MiB"].max() * MIB == known < 0.2 * rows["weights_MiB"].max() * MIB
    second = rows[rows["phase"] == "forward"]
    assert (second["gradients_MiB"] > 0).any() and (second["gradients_MiB"] == 0).any()  # the first part's are kept
    assert all(torch.equal(before[name], p) for name, p in steps.prepared.subject.model.named_parameters())


def test_the_total_of_a_gpu_is_the_allocator_s():
    def memory(ts: float, address: int, size: int, total: int, kind: int = 1) -> dict[str, Any]:
        of = {"Addr": address, "Bytes": size, "Total Allocated": total, "Device Type": kind}
        return {"ph": "i", "name": "[memory]", "pid": 1, "tid": 1, "ts": ts, "args": of}

    events = [
        annotation(0, 100, "window: longest"),
        annotation(5, 60, "forward and backward"),
        annotation(10, 20, "forward"),
        annotation(70, 20, "Optimizer.step#AdamW.step"),
        memory(12, 1, 512, 4512),  # temporary
        memory(13, 2, 1024, 5536),  # an activation
        memory(14, 1, -512, 5024),
        memory(15, 9, 4096, 4096, kind=0),  # of the CPU
        memory(40, 1, 512, 5536),  # a gradient, where the temporary was
        memory(41, 2, -1024, 4512),
        memory(80, 3, -1000, 3512),  # held before the step
        memory(90, 1, -512, 3000),
    ]
    rows = pd.DataFrame(timeline({"traceEvents": events}, "window: longest", Held(1000, 2000, 4000, [{1}]), "cuda"))
    assert list(rows["total_MiB"] * MIB) == [4000, 4512, 5536, 5024, 5536, 4512, 3512, 3000]
    assert list(rows["activations_MiB"] * MIB) == [0, 0, 1024, 1024, 1024, 0, 0, 0]
    assert list(rows["gradients_MiB"] * MIB) == [0, 0, 0, 0, 512, 512, 512, 0]
    assert list(rows["other_MiB"] * MIB) == [1000, 1512, 1512, 1000, 1000, 1000, 0, 0]
    assert list(rows["phase"]) == ["between", *["forward"] * 3, *["backward"] * 2, *["optimizer"] * 2]


# The job and the target.


@pytest.fixture(scope="module")
def profiled(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished `snakemake profiles`, nothing else, with learning rates that are to be tuned."""
    folder = tmp_path_factory.mktemp("profiled")
    tiny.write_inputs(folder, tiny_bert)
    settings = tiny.config(folder, profiles={"arms": ["full", "qlora-r4"], "steps": 1, "timed_steps": 2})
    for method in settings["methods"].values():
        method["learning_rate"] = [1e-3, 1e-4]
    tiny.snakemake(folder, settings, "profiles")
    return folder


class OutOfMemory:
    def __init__(self, *_: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")


class NotCompiled:
    def __init__(self, *_: Any) -> None:
        from torch._dynamo.exc import Unsupported

        raise Unsupported("no such thing\nin a graph", "")


class NoGraph:
    def __init__(self, *_: Any) -> None:
        raise profiling.NotCaptured("capture failed: a copy to the CPU")


@pytest.mark.parametrize(
    ("engine", "fails", "reason"),
    [
        ("eager", OutOfMemory, "out of memory"),
        ("compiled", NotCompiled, "torch.compile failed: no such thing"),
        ("captured", NoGraph, "capture failed: a copy to the CPU"),
    ],
)
def test_an_engine_that_cannot_is_a_row_that_says_why(profiled, tmp_path, monkeypatch, engine, fails, reason):
    monkeypatch.setattr(profiling, "ProfiledSteps", fails)
    results = profiled / "results"
    settings = json.loads((results / "profiles/reviews/tiny/full/env.json").read_text())["settings"]
    manifest = json.loads((results / "models/tiny.json").read_text())
    device = Device(CPU, NO_GPU, None, [NO_GPU], 0.0)
    arm = profiling.ArmProfile(plan(settings, results, manifest), device, COUNTS)
    arm.add(engine, tmp_path)
    arm.write(tmp_path, {}, 1)
    engines = pd.read_csv(tmp_path / "engines.csv")
    assert list(engines["reason"]) == [reason] * 2 and engines["step_p50_ms"].isna().all()
    operators, memory = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("operators", "memory"))
    assert f"Not profiled: {reason}." in operators_text("Profile", operators, engines, [])
    place = {"dataset": "reviews", "model": "tiny", "arm": "full"}
    assert f"not profiled: {reason}" in index_text(index_frame([(place, engines, operators, memory)]))


def test_training_knows_nothing_of_profiles():
    own = {"profiling.py", "traces.py"}
    assert not own & {path.name for path in dependencies(SCRIPTS / "train.py")}
    assert own <= {path.name for path in dependencies(SCRIPTS / "profile_arm.py")}
    shown = {"profiles.py"}  # an edit of these profiles nothing again
    assert not shown & {path.name for path in dependencies(SCRIPTS / "profile_arm.py")}


@pytest.mark.parametrize(
    ("training", "profiles", "engines"),
    [
        ({}, {}, ["eager"]),
        ({"compile": True}, {}, ["eager", "compiled"]),
        ({"device": "cuda"}, {}, ["eager", "captured", "compiled"]),
        ({"device": "cuda", "compile": True}, {}, ["eager", "captured", "compiled", "captured-compiled"]),
        ({"device": "cuda"}, {"engines": []}, ["eager", "captured"]),
        ({"device": "cuda", "engine": "eager"}, {"engines": ["compiled"]}, ["eager", "compiled"]),
    ],
)
def test_engines_that_are_profiled(training, profiles, engines):
    settings = tiny.config(Path(), profiles=profiles)
    settings["training"].update(training)
    found = resolve(settings).profiles.to_dict()
    assert found == {"arms": ["full", "lora-r4", "qlora-r4"], "engines": engines} | {
        "steps": 5, "warmup_steps": 3, "timed_steps": 20,
    }  # fmt: skip


def test_the_target_profiles_what_is_asked_for_and_trains_nothing(profiled):
    results = profiled / "results"
    assert sorted(path.name for path in results.iterdir()) == ["data", "logs", "models", "profiles", "tokens"]
    folder = results / "profiles/reviews/tiny"
    assert sorted(path.name for path in folder.iterdir()) == ["full", "qlora-r4"]
    for arm in folder.iterdir():
        assert traces.problems(traces.read(arm / "trace_eager.json.gz")) == []
        operators = pd.read_csv(arm / "operators.csv")
        sums = operators.groupby("batch")["self_cpu_share"].sum()
        assert set(sums.index) == {"typical", "longest"} and np.allclose(sums, 1)
        assert operators["self_gpu_ms"].isna().all() and pd.read_csv(arm / "kernels.csv").empty
        env = json.loads((arm / "env.json").read_text())
        assert env["versions"]["torch"] == torch.__version__ and env["device_name"] and env["problems"] == []
        assert env["plan"] == {"warmup_steps": 3, "timed_steps": 2, "steps": 1}
        memory = pd.read_csv(arm / "memory.csv")
        assert memory["total_MiB"].max() > memory["total_MiB"].iloc[0] > 0
        assert (arm / "memory.svg").stat().st_size and (arm / "memory.png").stat().st_size
        assert "Self CPU, ms" in (arm / "operators.md").read_text()
    index = pd.read_csv(results / "profiles/index.csv")
    assert list(index["arm"]) == ["full", "full", "qlora-r4", "qlora-r4"]
    for column in ("trace", "operators", "memory"):
        assert all((results / "profiles" / path).is_file() for path in index[column])
    assert not re.search(r"^profile", tiny.snakemake(profiled, None, "-n").stdout, re.M)

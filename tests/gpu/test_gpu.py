"""On a GPU: every step by its own command line, bf16, all arms; marked gpu, skipped without one."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gpu_runs import ARMS, SCRIPTS, command, prepare, settings, step, summaries
from peft_tradeoffs.core.quantities import Missing
from peft_tradeoffs.measure.devices import Phases
from peft_tradeoffs.measure.machine import EnergyMeter, Gpu

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A folder with model, data and tokens."""
    return prepare(tmp_path_factory.mktemp("gpu"), tiny_bert)


def train(prepared: Path, arm: str, output: Path, check: bool = True, **changes: Any) -> subprocess.CompletedProcess:
    done = subprocess.run(command(prepared, arm, output, **changes), capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return done


@pytest.fixture(scope="module")
def trained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Both seeds' summaries of every arm."""
    folder = tmp_path_factory.mktemp("trained")
    for arm in ARMS:
        train(prepared, arm, folder / arm)
    return {arm: summaries(folder / arm) for arm in ARMS}


@pytest.mark.parametrize("arm", ARMS)
def test_arm_trains_and_measures_on_a_gpu(trained, arm):
    for summary in trained[arm]:
        assert summary["device_name"] == torch.cuda.get_device_name()
        assert (summary["engine"], summary["engine_reason"]) == ("captured", None)
        assert summary["metric_value"] > 0.8
        for phase in ("load", "probe", "train", "evaluate", "save"):
            allocated, reserved = (summary[f"{phase}_peak_{kind}_MiB"] for kind in ("allocated", "reserved"))
            assert 0 < summary["weights_MiB"] <= allocated <= reserved < summary[f"{phase}_process_MiB"]
        assert summary["energy_window_short"] or summary["null_reasons"]["energy_J"]


@pytest.mark.parametrize("arm", ARMS)
def test_seeds_of_one_process_do_not_share_their_peaks(trained, arm):
    first, second = trained[arm]
    assert first["held_before_MiB"] < 0.01 and second["held_before_MiB"] < 0.01
    assert second["probe_peak_allocated_MiB"] == pytest.approx(first["probe_peak_allocated_MiB"], abs=1)


def test_another_process_on_the_gpu_is_an_error_that_names_it(prepared, tmp_path):
    held = torch.empty(300 * 2**20, dtype=torch.uint8, device="cuda")
    done = train(prepared, "full", tmp_path, check=False, allow_shared_gpu=False)
    assert done.returncode == 1 and not list(tmp_path.glob("*/summary.json"))
    error = done.stderr.strip().splitlines()[-1]
    assert error.startswith("error: ") and f"pid {os.getpid()} " in error and "allow_shared_gpu" in error, held.size()
    train(prepared, "full", tmp_path)
    assert all(summary["shared_gpu"] is True for summary in summaries(tmp_path))


def test_a_known_allocation_is_found_in_its_phase_alone():
    device = torch.device("cuda", 0)
    phases = Phases(device)
    known = {"load": 100, "probe": 300, "train": 200, "evaluate": 50, "save": 10}
    before = torch.cuda.memory_allocated() / 2**20
    for phase, size in known.items():
        phases.switch(phase)
        held = torch.empty(size * 2**20, dtype=torch.uint8, device=device)
        del held
    phases.switch(None)
    peaks = phases.summary()
    for phase, size in known.items():
        assert peaks[f"{phase}_peak_allocated_MiB"] - before == pytest.approx(size, abs=1)
        assert peaks[f"{phase}_peak_reserved_MiB"] >= peaks[f"{phase}_peak_allocated_MiB"]


def test_the_drivers_figure_is_this_process_s():
    gpu = Gpu(0)
    held = torch.empty(512 * 2**20, dtype=torch.uint8, device="cuda")
    before = gpu.process_MiB(os.getpid())
    more = torch.empty(1024 * 2**20, dtype=torch.uint8, device="cuda")
    after = gpu.process_MiB(os.getpid())
    assert after - before == pytest.approx(1024, abs=2), (held.size(), more.size())


@pytest.mark.parametrize("arm", ARMS)
def test_the_analytic_split_agrees_with_the_allocator(trained_wide, arm):
    summary = trained_wide[arm]
    for part in ("weights", "gradients", "optimizer"):
        assert summary[f"{part}_measured_MiB"] == pytest.approx(summary[f"{part}_MiB"], rel=0.02, abs=0.25), part
    total = sum(summary[f"{part}_MiB"] for part in ("weights", "gradients", "optimizer"))
    measured = sum(summary[f"{part}_measured_MiB"] for part in ("weights", "gradients", "optimizer"))
    assert measured == pytest.approx(total, rel=0.02)


@pytest.fixture(scope="module")
def trained_wide(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """A summary of every arm on a model so large that the allocator's blocks of 512 bytes do not matter."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("wide")
    shutil.copytree(prepared, folder, dirs_exist_ok=True, symlinks=False)
    model = shutil.copytree(prepared / "models/tiny", folder / "wide")
    BertModel(BertConfig(vocab_size=1000, num_hidden_layers=4)).save_pretrained(model)
    source = json.dumps({"source": "folder", "path": str(model)})
    shutil.rmtree(folder / "models/tiny")
    step("fetch_model.py", "--source", source, "--output", str(folder / "models/tiny.json"))
    for arm in ARMS:
        train(folder, arm, folder / arm, max_steps=2)
    return {arm: summaries(folder / arm)[1] for arm in ARMS}


def test_out_of_memory_is_a_result_and_the_seeds_go_on(prepared, tmp_path):
    limited = (
        "import sys, torch; torch.cuda.set_per_process_memory_fraction(0.0005); "
        f"sys.path.insert(0, {str(SCRIPTS)!r}); sys.argv[0] = 'train.py'; import train; train.main()"
    )
    words = ("--tokens", str(prepared / "tokens.npz"), "--model", str(prepared / "models/tiny"))
    options = json.dumps(settings("full", batch_size=400))
    command = [sys.executable, "-c", limited, "--settings", options, "--seeds", "0", "1"]
    done = subprocess.run([*command, "--output-dir", str(tmp_path), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for summary in summaries(tmp_path):
        assert (summary["status"], summary["failed_phase"]) == ("oom", "probe")
        assert summary["oom_bytes"] > 2**20
        assert summary["train_s"] is None
        assert summary["null_reasons"]["train_s"] == "not reached: the run ended in probe"
        assert summary["trainable_parameters"] > 0


def test_divergence_is_a_result_and_the_seeds_go_on(prepared, tmp_path):
    train(prepared, "full", tmp_path, learning_rate=1e30)
    for summary in summaries(tmp_path):
        assert (summary["status"], summary["failed_phase"]) == ("diverged", "train")
        assert 1 < summary["diverged_step"] <= 250
        assert summary["metric_value"] is None


def test_the_energy_counter_agrees_with_integrated_power():
    """Over 30 s of matrix products, within 10 % of the sampled power's integral."""
    import pynvml

    gpu = Gpu(0)
    meter = EnergyMeter(gpu)
    handle = pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    samples: list[tuple[float, float]] = []
    torch.cuda.synchronize()
    meter.start()
    began = time.perf_counter()
    while time.perf_counter() - began < 31:
        for _ in range(20):
            matrix @ matrix
        torch.cuda.synchronize()
        samples.append((time.perf_counter(), pynvml.nvmlDeviceGetPowerUsage(handle) / 1000))
    meter.stop()
    found = meter.summary(samples=1)
    times, power = map(np.array, zip(*samples, strict=True))
    integrated = np.trapezoid(power, times)
    print(f"counter {found['energy_J']:.0f} J, integrated power {integrated:.0f} J, {len(samples)} samples")
    assert found["energy_window_short"] is False and not isinstance(found["energy_J"], Missing)
    assert found["energy_J"] == pytest.approx(integrated, rel=0.1)

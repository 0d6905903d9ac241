"""Running out of memory and divergence are results: the other seeds and arms go on, and the tables show them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from peft_tradeoffs.core import files
from peft_tradeoffs.measure.devices import refused_bytes

METHODS = {
    "full": {"learning_rate": 1e30},
    "lora": {"learning_rate": 1e-2, "ranks": [4], "peft": tiny.LORA},
}


def test_a_diverged_arm_is_a_result_and_the_others_go_on(tmp_path, tiny_bert):
    tiny.write_inputs(tmp_path, tiny_bert)
    tiny.snakemake(tmp_path, tiny.config(tmp_path, methods=METHODS), "tables")
    found = tiny.summaries(tmp_path)
    assert {name: run["status"] for name, run in found.items()} == {
        **{f"full/seed{seed}": "diverged" for seed in (0, 1)},
        **{f"lora-r4/seed{seed}": "completed" for seed in (0, 1)},
    }
    for seed in (0, 1):
        run = found[f"full/seed{seed}"]
        assert run["failed_phase"] == "train" and 1 < run["diverged_step"] <= 8
        assert (
            run["metric_value"] is None and run["null_reasons"]["metric_value"] == "not reached: the run ended in train"
        )
        assert run["null_reasons"]["compile_s"] == "compile was off"
        folder = tmp_path / f"results/runs/reviews/tiny/full/seed{seed}"
        assert not (folder / "predictions.csv").exists() and not (folder / "checkpoint").exists()
        assert json.loads((folder / "env.json").read_text())["fingerprint"] == run["fingerprint"]
    table = (tmp_path / "results/tables/runs.md").read_text()
    assert f"diverged at step {found['full/seed0']['diverged_step']}" in table
    assert "diverged 2" in (tmp_path / "results/tables/arms.csv").read_text()
    assert "Nothing to be done" in tiny.snakemake(tmp_path, None, "tables").stdout


RAISES = """
import sys, torch
sys.path.insert(0, {scripts!r})
from peft_tradeoffs.training import engine
def full(subject, device, phases, *others):
    phases.switch("probe")
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79 GiB")
engine.train = full
import train
train.main()
"""


def test_out_of_memory_is_a_result_of_every_seed(tmp_path, finished):
    """The allocator is made to refuse in the probe; an earlier result's files do not stay beside it."""
    results = finished / "results"
    arm = tmp_path / "lora-r4"
    shutil.copytree(results / "runs/reviews/tiny/lora-r4", arm)
    (arm / "seed0/predictions_heldout.csv").write_text("of an earlier run")
    settings = json.loads((arm / "seed0/env.json").read_text())["settings"] | {"learning_rate": 0.5}
    words = ["--settings", json.dumps(settings), "--seeds", "0", "1", "--output-dir", str(arm)]
    words += ["--tokens", str(results / "tokens/reviews/tiny.npz"), "--model", str(results / "models/tiny")]
    script = RAISES.format(scripts=str(finished / "workflow/workflow_scripts"))
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, cwd=finished)
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        run = json.loads((arm / f"seed{seed}/summary.json").read_text())
        assert (run["status"], run["failed_phase"], run["oom_bytes"]) == ("oom", "probe", 2.5 * 2**30)
        assert run["trainable_parameters"] > 0 and run["weights_MiB"] > 0 and run["load_s"] > 0
        assert run["train_s"] is None and run["null_reasons"]["train_s"] == "not reached: the run ended in probe"
        assert sorted(path.name for path in Path(arm, f"seed{seed}").iterdir()) == [
            *("env.json", "metrics.csv", "summary.csv", "summary.json"),
        ]
    assert "out of memory in phase probe" in done.stdout


RAISES_LATE = """
import sys, torch
sys.path.insert(0, {scripts!r})
from peft_tradeoffs.training import engine, methods
predict, save = engine.Loop._predict, methods.save
def refuse(*arguments):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 …")
def second(self, name):
    return refuse() if self._progress.rows else predict(self, name)
def half(*arguments):
    save(*arguments)
    raise RuntimeError("CUDA error: out of memory")
match sys.argv.pop(1):
    case "evaluate":
        engine.Loop._predict = second
    case "save":
        methods.save = half
    case "train":
        engine.Updates.allocate_state = refuse
import train
train.main()
"""


@pytest.mark.parametrize(("phase", "steps", "evaluations"), [("train", 0, 0), ("evaluate", 16, 1), ("save", 16, 2)])
def test_out_of_memory_late_in_a_run_keeps_what_was_reached(tmp_path, finished, phase, steps, evaluations):
    results = finished / "results"
    settings = json.loads((results / "runs/reviews/tiny/full/seed0/env.json").read_text())["settings"]
    words = ["--settings", json.dumps({**settings, "epochs": 2}), "--seeds", "0", "--output-dir", str(tmp_path)]
    words += ["--tokens", str(results / "tokens/reviews/tiny.npz"), "--model", str(results / "models/tiny")]
    script = RAISES_LATE.format(scripts=str(finished / "workflow/workflow_scripts"))
    done = subprocess.run([sys.executable, "-c", script, phase, *words], capture_output=True, text=True, cwd=finished)
    assert done.returncode == 0, done.stderr
    run = json.loads((tmp_path / "seed0/summary.json").read_text())
    assert (run["status"], run["failed_phase"], run["steps"]) == ("oom", phase, steps)
    assert run["activations_MiB"] > 0
    for key in ("train_s", "samples_per_s"):
        assert run[key] > 0 if steps else run["null_reasons"][key] == "not reached: the run ended in train"
    if phase != "save":
        assert run["metric_value"] is None and run["null_reasons"]["metric_value"].startswith("not reached")
    rows = (tmp_path / "seed0/metrics.csv").read_text().splitlines()
    assert len(rows) == (1 + evaluations if evaluations else 1)
    assert not (tmp_path / "seed0/checkpoint").exists() and not (tmp_path / "seed0/predictions.csv").exists()


def test_a_model_that_reads_padding_is_an_error_before_training(tmp_path, finished):
    from transformers import FNetConfig, FNetModel

    results = finished / "results"
    sizes = {"vocab_size": 28, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 32}
    FNetModel(FNetConfig(**sizes)).save_pretrained(tmp_path / "fnet")
    manifest = json.loads((results / "models/tiny.json").read_text())
    manifest["files"] = {path.name: files.sha256(path) for path in (tmp_path / "fnet").iterdir()}
    (tmp_path / "fnet.json").write_text(json.dumps(manifest))
    settings = json.loads((results / "runs/reviews/tiny/full/seed0/env.json").read_text())["settings"]
    words = ["--settings", json.dumps(settings), "--seeds", "0", "--output-dir", str(tmp_path / "arm")]
    words += ["--tokens", str(results / "tokens/reviews/tiny.npz"), "--model", str(tmp_path / "fnet")]
    script = tiny.REPOSITORY / "workflow_scripts/train.py"
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: config key models: fnet reads the padding beside a text")
    assert not (tmp_path / "arm/seed0/summary.json").exists()


def test_memory_that_ran_out_while_quantising_is_told_from_a_bad_checkpoint(tiny_bert, monkeypatch):
    """Transformers gives the reason in its log alone."""
    from transformers.integrations.bitsandbytes import Bnb4bitQuantize

    def build():
        return tiny.build(tiny_bert, peft={**tiny.LORA, "r": 4, "lora_alpha": 8}, quantization=tiny.NF4)

    def refuse(error):
        def convert(*arguments, **named):
            raise error

        monkeypatch.setattr(Bnb4bitQuantize, "convert", convert)

    refuse(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79 GiB"))
    with pytest.raises(RuntimeError) as caught:
        build()
    assert refused_bytes(caught.value) == (True, 2 * 2**30)
    refuse(ValueError("no such blocksize"))
    with pytest.raises(RuntimeError, match="no such blocksize") as caught:
        build()
    assert refused_bytes(caught.value) == (False, None)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 …"), (True, 20 * 2**20)),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."), (True, 4096)),
        (MemoryError(), (True, None)),
        (RuntimeError("CUDA error: out of memory"), (True, None)),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), (True, None)),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), (False, None)),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), (True, None)),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm(…)`"), (False, None)),
        (RuntimeError("cudaErrorMemoryAllocation: the API call could not allocate"), (True, None)),
        (MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,)"), (True, 7999376589)),
        (MemoryError("Unable to allocate 1.50 TiB for an array with shape (9,)"), (True, 3 * 2**39)),
        (RuntimeError("mat1 and mat2 must have the same dtype"), (False, None)),
    ],
)
def test_what_an_error_says_of_memory(error, expected):
    assert refused_bytes(error) == expected


@pytest.mark.parametrize(("free_MiB", "ran_out"), [(100, True), (4000, False)])
def test_a_handle_that_cublas_could_not_make_is_out_of_memory_where_little_is_free(monkeypatch, free_MiB, ran_out):
    error = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free_MiB * 2**20, 80_000 * 2**20))
    assert refused_bytes(error) == (ran_out, None)


def test_a_cuda_that_is_broken_is_not_out_of_memory(monkeypatch):
    def broken():
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "mem_get_info", broken)
    error = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")
    assert refused_bytes(error) == (False, None)

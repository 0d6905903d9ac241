"""Running out of memory and divergence are results: the other seeds and arms go on, and the tables show them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from peft_tradeoffs.devices import refused_bytes

METHODS = {
    "full": {"learning_rate": 1e30},
    "lora": {"learning_rate": 1e-2, "ranks": [4], "peft": tiny.LORA},
}


def test_a_diverged_arm_is_a_result_and_the_others_go_on(tmp_path, tiny_bert):
    tiny.write_inputs(tmp_path, tiny_bert)
    tiny.snakemake(tmp_path, tiny.config(tmp_path, methods=METHODS))
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
        folder = tmp_path / f"results/runs/reviews/tiny/full/seed{seed}"
        assert not (folder / "predictions.csv").exists() and not (folder / "checkpoint").exists()
        assert json.loads((folder / "env.json").read_text())["fingerprint"] == run["fingerprint"]
    table = (tmp_path / "results/tables/runs.md").read_text()
    assert f"diverged at step {found['full/seed0']['diverged_step']}" in table
    assert "diverged 2" in (tmp_path / "results/tables/arms.csv").read_text()
    assert "Nothing to be done" in tiny.snakemake(tmp_path, None).stdout


RAISES = """
import sys, torch
sys.path.insert(0, {scripts!r})
from peft_tradeoffs import engine
def full(*arguments):
    arguments[8].switch("probe")
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79 GiB")
engine.Trainer = full
import train
train.main()
"""


def test_out_of_memory_is_a_result_of_every_seed(tmp_path, finished):
    """The allocator is made to refuse in the probe; an earlier result's files do not stay beside it."""
    results = finished / "results"
    arm = tmp_path / "lora-r4"
    shutil.copytree(results / "runs/reviews/tiny/lora-r4", arm)
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


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 …"), (True, 20 * 2**20)),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."), (True, 4096)),
        (MemoryError(), (True, None)),
        (RuntimeError("CUDA error: out of memory"), (True, None)),
        (RuntimeError("mat1 and mat2 must have the same dtype"), (False, None)),
    ],
)
def test_what_an_error_says_of_memory(error, expected):
    assert refused_bytes(error) == expected

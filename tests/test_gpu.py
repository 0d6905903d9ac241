"""On a GPU: every step by its own command line, bf16, all arms; marked gpu, skipped without one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
SCRIPTS = tiny.REPOSITORY / "workflow_scripts"
LORA = {**tiny.LORA, "r": 4, "lora_alpha": 8}
NF4 = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
ARMS = {
    "full": {"peft": None, "quantization": None, "rank": None, "learning_rate": 1e-3},
    "lora-r4": {"peft": LORA, "quantization": None, "rank": 4, "learning_rate": 1e-2},
    "qlora-r4": {"peft": LORA, "quantization": NF4, "rank": 4, "learning_rate": 1e-2},
}


def settings(arm: str, **changes: Any) -> dict[str, Any]:
    """Resolved settings of an arm, as the workflow hands them to train.py."""
    return {
        "dataset": "reviews",
        "model": "tiny",
        "arm": arm,
        "method": arm.split("-")[0],
        "task": "classification",
        "metric": "accuracy",
        "head": None,
        "gradient_checkpointing": False,
        "device": "cuda",
        "precision": "bf16",
        "epochs": 5,
        "max_steps": None,
        "batch_size": 8,
        "gradient_accumulation_steps": 1,
        "evaluation_batch_size": 16,
        "max_length": 32,
        "warmup_ratio": 0.1,
        "weight_decay": 0.01,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "early_stopping": None,
        **ARMS[arm],
        **changes,
    }


def step(script: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, str(SCRIPTS / script), *words], capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return done


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """A folder with model, data and tokens, made without Snakemake."""
    folder = tmp_path_factory.mktemp("gpu")
    tiny.write_inputs(folder, tiny_bert, rows=400)
    model = {"source": "folder", "path": str(tiny_bert)}
    data = {
        "source": "files",
        "splits": {"train": str(folder / "train.tsv"), "test": str(folder / "test.tsv")},
        **{"text": ["sentence"], "label": "label", "task": "classification"},
        **{"fractions": {}, "limit": {}, "split_seed": 0, "separator": None},
    }
    step("fetch_model.py", "--source", json.dumps(model), "--output", str(folder / "models/tiny.json"))
    step("fetch_dataset.py", "--source", json.dumps(data), "--output-dir", str(folder / "data"))
    tokens = ("--model", str(folder / "models/tiny"), "--max-length", "32", "--output", str(folder / "tokens.npz"))
    step("tokenize_dataset.py", "--data-dir", str(folder / "data"), *tokens)
    return folder


def train(prepared: Path, arm: str, output: Path, check: bool = True, **changes: Any) -> subprocess.CompletedProcess:
    words = ("--tokens", str(prepared / "tokens.npz"), "--model", str(prepared / "models/tiny"))
    return step(
        "train.py",
        *("--settings", json.dumps(settings(arm, **changes)), "--seeds", "0", "1", "--output-dir", str(output)),
        *words,
        check=check,
    )


@pytest.mark.parametrize("arm", ARMS)
def test_arm_trains_and_measures_on_a_gpu(prepared, tmp_path, arm):
    train(prepared, arm, tmp_path)
    for seed in (0, 1):
        summary = json.loads((tmp_path / f"seed{seed}/summary.json").read_text())
        assert summary["device_name"] == torch.cuda.get_device_name()
        assert 0 < summary["weights_MiB"] <= summary["gpu_peak_allocated_MiB"] <= summary["gpu_peak_reserved_MiB"]
        assert summary["metric_value"] > 0.8
        assert not [key for key in summary["null_reasons"] if key.startswith("gpu_peak")]


@pytest.mark.parametrize("arm", ARMS)
def test_seeds_of_one_process_do_not_share_their_peaks(prepared, tmp_path, arm):
    train(prepared, arm, tmp_path)
    first, second = (json.loads((tmp_path / f"seed{seed}/summary.json").read_text()) for seed in (0, 1))
    assert second["gpu_peak_allocated_MiB"] == pytest.approx(first["gpu_peak_allocated_MiB"], rel=0.01)

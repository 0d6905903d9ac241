"""What the tests on a GPU share: settings as the workflow resolves them, and every step by its own command line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import tiny
from peft_tradeoffs.config.experiment import resolve

SCRIPTS = tiny.REPOSITORY / "workflow_scripts"
ARMS = ("full", "lora-r4", "qlora-r4")
TRAINING = {
    "device": "cuda",
    "allow_shared_gpu": True,  # these tests hold a context too
    **{"engine": "captured", "precision": "bf16"},
    **{"epochs": 5, "batch_size": 8, "evaluation_batch_size": 16, "max_length": 32},
}


def settings(arm: str, **changes: Any) -> dict[str, Any]:
    """Resolved settings of an arm, as the workflow hands them to train.py."""
    config = tiny.config(Path(), training=TRAINING)
    config["methods"]["qlora"]["quantization"] = tiny.NF4_BF16
    return {**resolve(config).run_settings("reviews", "tiny", arm).to_dict(), **changes}


def step(script: str, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, str(SCRIPTS / script), *words], capture_output=True, text=True)
    assert done.returncode == 0 or not check, done.stderr
    return done


def prepare(folder: Path, tiny_bert: Path) -> Path:
    """Put model, data and tokens into `folder`, without Snakemake."""
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


def command(prepared: Path, arm: str, output: Path, **changes: Any) -> list[str]:
    """The command line that trains two seeds of an arm."""
    words = ["--tokens", str(prepared / "tokens.npz"), "--model", str(prepared / "models/tiny")]
    words += ["--settings", json.dumps(settings(arm, **changes)), "--seeds", "0", "1", "--output-dir", str(output)]
    return [sys.executable, str(SCRIPTS / "train.py"), *words]


def summaries(folder: Path) -> list[dict[str, Any]]:
    """Both seeds' summaries."""
    return [json.loads((folder / f"seed{seed}/summary.json").read_text()) for seed in (0, 1)]

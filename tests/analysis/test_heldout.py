"""The heldout split from files to tables, step by step, without Snakemake."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
import tiny
from peft_tradeoffs.config.experiment import resolve

SCRIPTS = tiny.REPOSITORY / "workflow_scripts"


def call(script: str, *words: Any) -> None:
    done = subprocess.run([sys.executable, str(SCRIPTS / script), *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """Folder of the data and runs (full, two seeds) of a data set with a heldout split."""
    folder = tmp_path_factory.mktemp("heldout")
    tiny.write_inputs(folder, tiny_bert, rows=80)
    config = tiny.config(folder, methods={"full": {"learning_rate": 1e-3}})
    source = config["datasets"]["reviews"]
    source |= {"fractions": {"heldout": 0.3}, "limit": {"heldout": 20}}
    source["splits"] = {split: str(folder / name) for split, name in source["splits"].items()}
    config["training"]["epochs"] = 2
    experiment = resolve(config)
    call(
        "fetch_dataset.py",
        "--source",
        json.dumps(experiment.datasets["reviews"].to_dict()),
        "--output-dir",
        folder / "data",
    )
    model = json.dumps({"source": "folder", "path": str(tiny_bert)})
    call("fetch_model.py", "--source", model, "--output", folder / "models/tiny.json")
    tokens = folder / "tokens.npz"
    words = ["--data-dir", folder / "data", "--model", folder / "models/tiny"]
    call("tokenize_dataset.py", *words, "--max-length", 32, "--output", tokens)
    settings = json.dumps(experiment.run_settings("reviews", "tiny", "full").to_dict())
    words = ["--settings", settings, "--seeds", 0, 1, "--tokens", tokens, "--model", folder / "models/tiny"]
    call("train.py", *words, "--output-dir", folder / "runs/reviews/tiny/full")
    return folder


def test_the_run_has_predictions_and_a_metric_of_it(trained):
    run = trained / "runs/reviews/tiny/full/seed0"
    summary = json.loads((run / "summary.json").read_text())
    heldout, test = rows(run / "predictions_heldout.csv"), rows(run / "predictions.csv")
    assert list(heldout[0]) == list(test[0])
    right = [row["label"] == row["prediction"] for row in heldout]
    assert summary["heldout_rows"] == len(heldout) == 20
    assert summary["heldout_metric_value"] == pytest.approx(np.mean(right))
    assert summary["metric_value"] == pytest.approx(np.mean([row["label"] == row["prediction"] for row in test]))
    curve = [(row["step"], row["split"]) for row in rows(run / "metrics.csv")]
    assert curve == [("7", "test"), ("14", "test"), ("14", "heldout")]


def test_nothing_of_it_is_trained_on(trained):
    """56 of 80 texts are left, and none of the 20 is among them."""
    with np.load(trained / "tokens.npz") as arrays:
        kept = set(arrays["train_rows"].tolist())
        assert len(kept) == 56 and not kept & set(arrays["heldout_rows"].tolist())
    predictions = rows(trained / "runs/reviews/tiny/full/seed0/predictions_heldout.csv")
    assert not kept & {int(row["row"]) for row in predictions}


def test_the_comparison_has_a_section_of_each_split(trained):
    grid = {"dataset": ["reviews"], "model": ["tiny"], "arm": ["full"], "seed": [0, 1]}
    words = ["--runs-dir", trained / "runs", "--grid", json.dumps(grid), "--output-dir", trained / "tables"]
    runs = [json.loads(path.read_text()) for path in sorted(trained.glob("runs/*/*/*/*/summary.json"))]
    words += ["--contract", synthetic.contract(trained, runs)]
    call("compare_arms.py", *words, "--baseline", "full", "--margin", 0.01)
    assert [row["split"] for row in rows(trained / "tables/comparison.csv")] == ["test", "heldout"]
    text = (trained / "tables/comparison.md").read_text()
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads == ["## reviews · tiny · test split", "## reviews · tiny · heldout split"]
    call("make_tables.py", *words)
    assert "Accuracy (heldout), %" in (trained / "tables/arms.md").read_text()

"""The noise floor: what repeats of the same arm and seed show, and what they cannot."""

import csv
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import forks
import pandas as pd
import pytest
import synthetic
import tiny

GRID = {"dataset": ["sst2"], "model": ["distilbert"], "arm": ["full"], "seed": [0]}
LOGITS = [[0.5, -0.5], [-1.0, 1.0], [0.25, 0.0]]


def write(folder: Path, repeats: list[dict[str, Any]], logits: list[list[list[float]]], weights: list[bytes]) -> None:
    """Write repeat1 … as the workflow does; for each repeat its test rows' logits and its weights."""
    for number, (run, rows, content) in enumerate(zip(repeats, logits, weights, strict=True), start=1):
        synthetic.write(folder, [run])
        place = folder / f"noise/repeat{number}"
        place.parent.mkdir(exist_ok=True)
        (folder / "runs").rename(place)
        place = place / run["dataset"] / run["model"] / run["arm"] / f"seed{run['seed']}"
        (place / "checkpoint").mkdir()
        (place / "checkpoint/model.safetensors").write_bytes(content)
        with (place / "predictions.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["row", "label", "prediction", "logit_0", "logit_1"])
            writer.writerows([row, 0, int(b > a), a, b] for row, (a, b) in enumerate(rows))
        synthetic.seal(place)


def measure(folder: Path, repeats: int, **axes: list) -> subprocess.CompletedProcess[str]:
    words = ["--noise-dir", str(folder / "noise"), "--grid", json.dumps(GRID | axes), "--repeats", str(repeats)]
    script = tiny.REPOSITORY / "workflow_scripts/measure_noise.py"
    return forks.script(script, *words, "--output-dir", folder / "tables")


def measured(folder: Path, repeats: int) -> tuple[pd.DataFrame, str]:
    """noise.csv by quantity, and noise.md."""
    done = measure(folder, repeats)
    assert done.returncode == 0, done.stderr
    frame = pd.read_csv(folder / "tables/noise.csv").set_index("quantity")
    return frame, (folder / "tables/noise.md").read_text()


def run(**changes: Any) -> dict[str, Any]:
    return synthetic.summary("full", None, 0, test_rows=3, **changes)


def cells(text: str, quantity: str) -> list[str]:
    line = next(line for line in text.splitlines() if f"| {quantity} " in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_identical_repeats_are_said_to_be(tmp_path):
    write(tmp_path, [run(train_s=s, metric_value=0.875) for s in (10.0, 11.0, 12.0)], [LOGITS] * 3, [b"one"] * 3)
    frame, text = measured(tmp_path, 3)
    assert frame["identical_weights"].all() and frame["identical_predictions"].all()
    row = frame.loc["train_s"]
    assert row[["n", "mean", "sd", "range"]].to_list() == [3, 11.0, 1.0, 2.0]
    assert row[["cv_percent", "range_percent"]].to_list() == pytest.approx([100 / 11, 200 / 11])
    assert frame.loc["metric_value", ["mean", "sd", "range"]].to_list() == [0.875, 0, 0]
    assert "full: 3 of 3 repeats completed, with bit-identical weights and bit-identical predictions." in text
    assert cells(text, "Training time, s") == ["full", "Training time, s", "3", "11.0", "1.0", "2.0", "9", "18"]
    assert cells(text, "Accuracy, %")[3:] == ["87.5", "0", "0", "0", "0"]
    assert (tmp_path / "tables/noise.tex").read_text().count(r"\toprule") == 2


def test_repeats_that_differ_say_how_far(tmp_path):
    other = [LOGITS[0], LOGITS[1], [0.25, 0.375]]  # the last row is predicted differently
    write(tmp_path, [run(), run(), run()], [LOGITS, other, LOGITS], [b"one", b"one", b"two"])
    frame, text = measured(tmp_path, 3)
    assert not frame["identical_weights"].any() and not frame["identical_predictions"].any()
    assert set(frame["largest_logit_difference"]) == {0.375} and set(frame["differing_predictions"]) == {1}
    assert (
        "with weights that differ; they predict 1 of 3 test rows differently, and a logit differs by at most 0.38."
        in text
    )


def test_repeats_that_learned_tokens_differ_in_the_losses_of_rows(tmp_path):
    runs = [run(task="sft", metric="token_loss", metric_value=value, accuracy=None) for value in (1.0, 1.0625)]
    write(tmp_path, runs, [LOGITS] * 2, [b"one", b"two"])
    for number, last in ((1, 4.0), (2, 4.5)):
        place = tmp_path / f"noise/repeat{number}/sst2/distilbert/full/seed0"
        (place / "predictions.csv").write_text(f"row,loss,tokens,right\n0,2.0,2,1\n1,2.0,2,{number}\n2,{last},4,1\n")
        synthetic.seal(place)
    frame, text = measured(tmp_path, 2)
    assert set(frame["largest_logit_difference"]) == {0.5} and set(frame["differing_predictions"]) == {1}
    assert (
        "they give 1 of 3 test rows another loss, and the sum of the losses of a row's tokens differs by at most 0.5."
        in text
    )


def test_weights_that_are_gone_are_not_said_to_be_identical(tmp_path):
    write(tmp_path, [run(), run()], [LOGITS] * 2, [b"one"] * 2)
    for path in tmp_path.rglob("model.safetensors"):
        path.unlink()
    frame, text = measured(tmp_path, 2)
    assert frame["identical_weights"].isna().all() and "weights that are no longer there" in text


@pytest.mark.parametrize("name", ["predictions.csv", "checkpoint/model.safetensors"])
def test_a_repeat_that_is_damaged_is_named(tmp_path, name):
    write(tmp_path, [run(), run()], [LOGITS] * 2, [b"one"] * 2)
    path = tmp_path / f"noise/repeat2/sst2/distilbert/full/seed0/{name}"
    path.write_bytes(path.read_bytes() + b" ")
    done = measure(tmp_path, 2)
    assert done.returncode == 1 and done.stderr.startswith(f"error: {path}: changed after the run wrote it")


def test_other_devices_among_the_repeats_have_no_spread_of_costs(tmp_path):
    names = ("NVIDIA A100", "NVIDIA H100")
    runs = [run(device="cuda", device_name=name, gpu_uuid=name) for name in names]
    write(tmp_path, runs, [LOGITS] * 2, [b"one"] * 2)
    frame, text = measured(tmp_path, 2)
    costs = frame.drop(index="metric_value")
    assert costs[["mean", "sd"]].isna().all(axis=None) and not costs["n"].any()
    assert frame.loc["metric_value", "sd"] == 0
    assert "the repeats ran on different devices: NVIDIA A100; NVIDIA H100." in text
    assert "The repeats of full ran on 2 GPUs" in text


def test_an_arm_that_failed_says_so(tmp_path):
    runs = [synthetic.oom("full", None, 0), run(), synthetic.oom("full", None, 0)]
    write(tmp_path, runs, [LOGITS] * 3, [b"one"] * 3)
    frame, text = measured(tmp_path, 3)
    assert set(frame["n_completed"]) == {1} and frame["sd"].isna().all() and frame["identical_weights"].isna().all()
    assert "full: 1 of 3 repeats completed (2 out of memory in probe, 12.0 GiB asked for), so nothing can be" in text

    shutil.rmtree(tmp_path / "noise")
    write(tmp_path, [runs[0], runs[2]], [LOGITS] * 2, [b"one"] * 2)
    frame, text = measured(tmp_path, 2)
    assert frame["reason"].to_list() == ["no repeat completed"]
    assert "full: 0 of 2 repeats completed (2 out of memory" in text


def test_repeats_of_another_experiment_are_refused(tmp_path):
    write(tmp_path, [run(), run(fingerprint="1" * 64)], [LOGITS] * 2, [b"one"] * 2)
    done = measure(tmp_path, 2)
    assert done.returncode == 1 and "sst2/distilbert/full" in done.stderr and "delete their folders" in done.stderr


def test_the_workflow_repeats_an_arm_bit_for_bit(tmp_path, finished):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    assert not re.search(r"^measure_noise|^repeat", tiny.snakemake(folder, None, "-n", "tables", "-F").stdout, re.M)
    settings = tiny.config(folder, noise={"arms": ["lora-r4"], "repeats": 2})
    plan = tiny.snakemake(folder, settings, "-n", "-p").stdout
    assert re.search(r"(?m)^repeat +2$", plan) and "\ntrain " not in plan
    assert re.search(r"make_figures\.py .* --noise results/tables/noise\.csv ", plan)
    tiny.snakemake(folder, None, "tables")
    frame = pd.read_csv(folder / "results/tables/noise.csv").set_index("quantity")
    assert frame["identical_weights"].all() and frame["identical_predictions"].all()
    assert frame.loc["train_s", "n"] == 2 and frame.loc["train_s", "sd"] > 0
    # As in the sweep, where another seed had the process first or after it.
    alone, swept = (
        folder / f"results/{part}/reviews/tiny/lora-r4/seed0/adapter/adapter_model.safetensors"
        for part in ("noise/repeat1", "runs")
    )
    assert alone.read_bytes() == swept.read_bytes()
    assert "Nothing to be done" in tiny.snakemake(folder, None, "tables").stdout

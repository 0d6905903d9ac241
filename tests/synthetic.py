"""Summaries and metrics.csv files of runs that never ran, for the tests of tables and figures."""

import csv
import json
import math
import random
from pathlib import Path
from typing import Any

PARAMETERS = 66_955_010
HEAD = 592_130
MEMORY = {"full": 1306.0, "lora": 815.0, "qlora": 690.0, "ia3": 780.0}
RANKLESS = ("full", "ia3")


def grid(methods: list[str], ranks: list[int], rankless: tuple[str, ...] = RANKLESS) -> list[tuple]:
    """The arms as (method, rank) pairs; methods in `rankless` have one arm of rank None."""
    return [(method, rank) for method in methods for rank in ([None] if method in rankless else ranks)]


def summary(method: str, rank: int | None, seed: int, **changes: Any) -> dict[str, Any]:
    """One completed run's summary with plausible, reproducible numbers; `changes` replaces keys."""
    device = changes.get("device", "cpu")
    noise = random.Random(f"{method} {rank} {seed} {device}")
    step = 0 if rank is None else math.log2(rank)
    own = random.Random(method).random()
    accuracy = (0.905 if method == "full" else 0.845 + 0.03 * own + 0.004 * step) + noise.gauss(0, 0.004)
    memory = MEMORY.get(method, 650 + 400 * own) + 6 * (rank or 0) + noise.gauss(0, 3)
    adapter = 0 if method == "full" else 18_432 * (rank or 1)
    trainable = PARAMETERS if method == "full" else adapter + HEAD
    speed = 100.0 if method == "full" else 140 + 60 * own + noise.gauss(0, 4)
    cpu = device == "cpu"
    gpu_reason = "no CUDA device: the run was on the CPU"
    reasons = dict.fromkeys(("pearson", "spearman"), "task is classification")
    if cpu:
        keys = ("gpu_peak_allocated_MiB", "gpu_peak_reserved_MiB", "gpu_process_MiB")
        reasons |= dict.fromkeys(keys, gpu_reason)
    return {
        "status": "completed", "dataset": "sst2", "model": "distilbert", "method": method,
        "arm": method if rank is None else f"{method}-r{rank}", "rank": rank, "seed": seed,
        "task": "classification", "metric": "accuracy", "metric_value": accuracy,
        "accuracy": accuracy, "f1": accuracy - 0.002, "mcc": 2 * accuracy - 1,
        "pearson": None, "spearman": None, "test_loss": 1.2 - accuracy,
        "learning_rate": 3e-5 if method == "full" else 5e-4, "epochs": 3.0, "steps": 600, "stopped_early": False,
        "batch_size": 32, "gradient_accumulation_steps": 1, "gradient_checkpointing": False,
        "precision": "fp32", "device": device,
        "device_name": "Example CPU, 2 cores" if cpu else "NVIDIA H100 80GB HBM3",
        "train_rows": 6400, "test_rows": 872, "truncated_train": 3, "truncated_test": 0,
        "backbone_parameters": PARAMETERS - HEAD, "head_parameters": HEAD, "adapter_parameters": adapter,
        "total_parameters": PARAMETERS + adapter, "trainable_parameters": trainable,
        "trainable_percent": 100 * trainable / (PARAMETERS + adapter),
        "startup_s": 9.1, "load_s": 1.4, "train_s": 19_200 / speed, "evaluate_s": 3.2, "save_s": 0.4,
        "step_p50_ms": 32_000 / speed, "step_p95_ms": 41_000 / speed,
        "samples_per_s": speed, "tokens_per_s": 26 * speed,
        "peak_rss_MiB": memory + 900 if cpu else None, "rss_before_MiB": 880.0, "weights_MiB": 255.4,
        "gpu_peak_allocated_MiB": None if cpu else memory,
        "gpu_peak_reserved_MiB": None if cpu else memory + 60,
        "gpu_process_MiB": None if cpu else memory + 560,
        "attempts": 1, "fingerprint": "0" * 64, "finished_at": "2026-01-01T00:00:00+00:00",
        "null_reasons": reasons,
    } | changes  # fmt: skip


def oom(method: str, rank: int | None, seed: int, **changes: Any) -> dict[str, Any]:
    """A run that did not fit: no measurement, a reason for each."""
    run = summary(method, rank, seed, **changes)
    measured = ("metric_value", "accuracy", "f1", "mcc", "test_loss", "train_s", "evaluate_s", "save_s")
    measured += ("step_p50_ms", "step_p95_ms", "samples_per_s", "tokens_per_s", "peak_rss_MiB")
    measured += ("gpu_peak_allocated_MiB", "gpu_peak_reserved_MiB", "gpu_process_MiB")
    run["null_reasons"] |= dict.fromkeys(measured, "out of memory at step 0")
    return run | dict.fromkeys(measured) | {"status": "oom"}


def write(folder: Path, summaries: list[dict[str, Any]], epochs: int = 3) -> Path:
    """Write the runs under `folder`/runs as the workflow does; the list of summaries' paths is returned."""
    paths = []
    for run in summaries:
        target = folder / "runs" / run["dataset"] / run["model"] / run["arm"] / f"seed{run['seed']}"
        target.mkdir(parents=True, exist_ok=True)
        (target / "summary.json").write_text(json.dumps(run), encoding="utf-8")
        paths.append(target / "summary.json")
        if run["status"] == "completed":
            write_metrics(target / "metrics.csv", run, epochs)
    listing = folder / "summaries.txt"
    listing.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    return listing


def write_metrics(path: Path, run: dict[str, Any], epochs: int) -> None:
    """A metrics.csv whose last test row agrees with the summary."""
    noise = random.Random(f"{path.parent.name} {run['arm']} curve")
    header = ("epoch", "step", "split", "train_loss", "learning_rate", "train_s", "loss")
    scores = ("accuracy", "f1", "mcc", "pearson", "spearman")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*header, *scores])
        for epoch in range(1, epochs + 1):
            gap = 0.0 if epoch == epochs else 0.09 * 2 ** (1 - epoch) + noise.gauss(0, 0.006)
            for split, shift in (("validation", 0.01), ("test", 0.0)):
                values = [None if run[key] is None else run[key] - gap + shift for key in scores]
                start = (epoch, 200 * epoch, split, 0.6 / epoch, 1e-4 * (1 - epoch / epochs), 40.0 * epoch)
                writer.writerow([*start, 0.4 + gap, *values])

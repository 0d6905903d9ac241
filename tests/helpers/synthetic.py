"""Summaries and metrics.csv files of runs that never ran, for the tests of tables and figures."""

import csv
import json
import math
import random
import re
from pathlib import Path
from typing import Any

import pandas as pd
from peft_tradeoffs.analysis.tuning_table import tuning_frame
from peft_tradeoffs.core.files import seal as sealed
from peft_tradeoffs.core.quantities import LIBRARIES, PHASES
from peft_tradeoffs.tasks.metrics import NAMES, of_task
from peft_tradeoffs.tasks.task import QUANTITIES

PARAMETERS = 66_955_010
HEAD = 592_130
MEMORY = {"full": 1306.0, "lora": 815.0, "qlora": 690.0, "ia3": 780.0}
RANKLESS = ("full", "ia3")
OF_CLASSES = [metric.name for metric in of_task("classification")]
FORGOTTEN = ("forgetting_loss_before", "forgetting_loss_after", "forgetting")
FORGOTTEN += ("forgetting_loss_original", "forgetting_vs_original")
GENERATED = ("ended_share", "answer_tokens", "max_new_tokens", "scored_as")  # and generate_…
GENERATED += tuple(name for name in QUANTITIES if name.startswith("generate_"))
NOTHING = ("failed_phase", "oom_bytes", "diverged_step", "engine_reason", "parallel")  # null says it
GPU_ONLY = re.compile(
    r"gpu_uuid|shared_gpu|train_gpu_s|mask_s|capture_s|probe_step|_peak_(allocated|reserved)_|_process_|held_|_measured_|energy|_power_"
)
PREDICTIONS = "row,label,prediction,logit_0,logit_1\n" + "".join(
    f"{row},{int(row < 444)},{int(row < 400)},0.5,-0.5\n" for row in range(872)
)
OF_PHASE = {phase: phase + "_(?!rows)" for phase in PHASES}
OF_PHASE["train"] += "|train_gpu|prepare|capture|compile_s|step_p|samples_per|tokens_per|energy|mean_power"


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
    values = {
        "status": "completed", "failed_phase": None, "oom_bytes": None, "diverged_step": None,
        "dataset": "sst2", "model": "distilbert", "method": method,
        "arm": method if rank is None else f"{method}-r{rank}", "rank": rank, "seed": seed,
        "task": "classification", "metric": "accuracy", "positive_class": "good", "pretrained": True,
        "metric_value": accuracy,
        **{name: accuracy if name in OF_CLASSES else None for name in NAMES},
        "f1": accuracy - 0.002, "mcc": 2 * accuracy - 1,
        "prediction_spread": None, "test_loss": 1.2 - accuracy,
        "constant_prediction": False,
        "heldout_metric_value": None, **dict.fromkeys((*FORGOTTEN, *GENERATED)),
        "learning_rate": 3e-5 if method == "full" else 5e-4, "tuned_as": None, "epochs": 3.0,
        "steps": 600, "skipped_steps": None, "stopped_early": False,
        "batch_size": 32, "gradient_accumulation_steps": 1, "gradient_checkpointing": False,
        "precision": "fp32", "dtype": "float32", "optimizer": "adamw",
        "frozen_linear_dtype": {"full": None, "qlora": "nf4"}.get(method, "float32"),
        "engine": "eager" if cpu else "captured", "engine_reason": None, "compile": False, "device": device,
        "device_name": "Example CPU, 2 cores" if cpu else "NVIDIA H100 80GB HBM3",
        "gpus": 1, "parallel": None,
        "gpu_uuid": "GPU-00000000-0000-0000-0000-000000000000", "shared_gpu": False, "mixed_gpus": False,
        "stood_still_s": 0.0,
        "train_rows": 6400, "test_rows": 872, "heldout_rows": None, "truncated_train": 3, "truncated_test": 0,
        "backbone_parameters": PARAMETERS - HEAD, "head_parameters": HEAD, "adapter_parameters": adapter,
        "total_parameters": PARAMETERS + adapter, "trainable_parameters": trainable,
        "trainable_percent": 100 * trainable / (PARAMETERS + adapter),
        "startup_s": 9.1, "load_s": 1.4, "mask_s": 0.2, "probe_s": 2.5, "prepare_s": 1.1, "train_s": 19_200 / speed,
        "train_gpu_s": 19_200 / speed,
        "capture_s": 0.8,
        "compile_s": None, "evaluate_s": 3.2, "forgetting_s": None, "save_s": 0.4, "state_s": 0.1,
        **{f"step_p{percent}_ms": slow / speed for percent, slow in ((50, 32_000), (95, 41_000), (99, 52_000))},
        **{f"probe_step_p{percent}_ms": slow / speed for percent, slow in ((50, 99e3), (95, 102e3), (99, 110e3))},
        "samples_per_s": speed, "tokens_per_s": 26 * speed,
        **phases(memory, cpu), "held_before_MiB": 0.0,
        **split(trainable, memory), "data_MiB": 3.4,
        "energy_J": 300 * 19_200 / speed, "energy_J_per_sample": 300 / speed, "mean_power_W": 300.0,
        "idle_power_W": 71.0, "energy_window_s": 19_200 / speed, "energy_window_short": 19_200 / speed < 30,
        "attempts": 1, "wall_s": 19_200 / speed + 20, "queue_s": None,
        "fingerprint": "0" * 64, "finished_at": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    if cpu:
        values |= dict.fromkeys(key for key in values if GPU_ONLY.search(key))
    values |= changes
    return values | {"null_reasons": reasons(values) | changes.get("null_reasons", {})}


def phases(memory: float, cpu: bool) -> dict[str, float]:
    """MiB of every phase: the probe holds `memory`, the captured training more, the others less."""
    shares = {"load": 0.4, "probe": 1.0, "train": 1.2, "evaluate": 0.7, "save": 0.5}
    extra = {"peak_allocated": 0, "peak_reserved": 60, "process": 560, "peak_rss": 900 if cpu else 2100}
    return {
        f"{phase}_{name}_MiB": share * memory + more for phase, share in shares.items() for name, more in extra.items()
    }


def split(trainable: int, memory: float) -> dict[str, float]:
    """MiB of each part, from sizes and measured: what `memory` leaves is activations."""
    parts = {"weights": 255.4, "gradients": 4 * trainable / 2**20, "optimizer": 8 * trainable / 2**20}
    parts["activations"] = max(40.0, memory - sum(parts.values()))
    return {f"{part}_MiB": size for part, size in parts.items()} | {
        f"{part}_measured_MiB": 1.01 * size for part, size in parts.items()
    }


def reasons(values: dict[str, Any]) -> dict[str, str]:
    """A reason for each null but those that the schema explains: nothing failed, nothing fell back."""
    found = {}
    for key in (key for key, value in values.items() if value is None and key not in NOTHING):
        found[key] = (
            "the method has no rank" if key == "rank"
            else "task is classification" if key == "prediction_spread" or (key in NAMES and key not in OF_CLASSES)
            else "the data set has no heldout split" if key.startswith("heldout")
            else "the data set names no general text" if key.startswith("forgetting")
            else "the data set asks for no answers (generate)" if key in GENERATED
            else "no linear layer is frozen" if key == "frozen_linear_dtype"
            else "not compiled" if key == "compile_s"
            else "no CUDA device: the run was on the CPU" if GPU_ONLY.search(key) and values["device"] == "cpu"
            else "not measured"
        )  # fmt: skip
    return found


def randomly(method: str, rank: int | None, seed: int, **changes: Any) -> dict[str, Any]:
    """A completed run of random weights: no metric."""
    scores = ("metric_value", *NAMES, "constant_prediction")
    scores += ("heldout_metric_value", *FORGOTTEN)
    run = summary(method, rank, seed, pretrained=False, **dict.fromkeys(scores), **changes)
    run["null_reasons"] |= dict.fromkeys(scores, "random weights")
    return run


def oom(method: str, rank: int | None, seed: int, phase: str = "probe", **changes: Any) -> dict[str, Any]:
    """A run that did not fit in `phase`: 12 GiB were refused, what came after was not reached."""
    return failed(method, rank, seed, {"status": "oom", "failed_phase": phase, "oom_bytes": 12 * 2**30, **changes})


def diverged(method: str, rank: int | None, seed: int, step: int = 17, **changes: Any) -> dict[str, Any]:
    """A run whose loss was not finite at `step`."""
    changes = {"status": "diverged", "failed_phase": "train", "diverged_step": step, **changes}
    return failed(method, rank, seed, changes)


def failed(method: str, rank: int | None, seed: int, changes: dict[str, Any]) -> dict[str, Any]:
    """A run that ended in changes["failed_phase"], with nothing of that phase or later ones."""
    phase = changes["failed_phase"]
    run = summary(method, rank, seed, **changes)
    missed = "|".join(OF_PHASE[name] for name in PHASES[PHASES.index(phase) :])
    lost = [key for key in run if re.match(missed, key)]
    if phase in ("load", "probe"):
        lost += ["steps", "epochs", "stopped_early"]
        lost += [key for key in run if re.match("(gradients|optimizer|activations)_", key)]
    if phase == "load":
        lost += [key for key in run if key.endswith("_parameters") or key.startswith("weights_")]
        lost += ["trainable_percent", "data_MiB", "frozen_linear_dtype"]
    lost += ["metric_value", *OF_CLASSES, "test_loss", "constant_prediction", "heldout_metric_value", *FORGOTTEN]
    why = f"not reached: the run ended in {phase}"
    run["null_reasons"] |= {key: why for key in lost if run[key] is not None}
    return run | dict.fromkeys(lost)


def write(folder: Path, summaries: list[dict[str, Any]], epochs: int = 3) -> Path:
    """Write the runs under `folder`/runs as the workflow does; the list of summaries' paths is returned."""
    paths = []
    for run in summaries:
        target = folder / "runs" / run["dataset"] / run["model"] / run["arm"] / f"seed{run['seed']}"
        target.mkdir(parents=True, exist_ok=True)
        (target / "env.json").write_text(json.dumps(environment(run)), encoding="utf-8")
        paths.append(target / "summary.json")
        write_metrics(target / "metrics.csv", run, epochs if run["status"] == "completed" else 0)
        if run["status"] == "completed":
            (target / "predictions.csv").write_text(PREDICTIONS, encoding="utf-8")
        seal(target, run)
    listing = folder / "summaries.txt"
    listing.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    return listing


def seal(target: Path, run: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write the sealed summary of the run whose other files stand in `target`; without `run`, the one there anew."""
    path = target / "summary.json"
    found = json.loads(path.read_text(encoding="utf-8")) if run is None else run
    found = sealed(found, target)
    path.write_text(json.dumps(found), encoding="utf-8")
    return found


def seal_all(folder: Path) -> None:
    """Seal every run below `folder` anew, so that what a test changed in its files is what the run published."""
    for path in folder.rglob("summary.json"):
        seal(path.parent)


def environment(run: dict[str, Any]) -> dict[str, Any]:
    """The env.json beside a summary."""
    peft = (
        None
        if run["method"] == "full"
        else {"peft_type": "LORA", "r": run["rank"], "lora_alpha": 2 * (run["rank"] or 1)}
    )
    keys = ("dataset", "model", "method", "arm", "rank", "task", "metric", "learning_rate", "batch_size")
    keys += (
        "gradient_accumulation_steps",
        "gradient_checkpointing",
        "precision",
        "dtype",
        "optimizer",
        "compile",
        "device",
        "engine",
        "gpus",
        "parallel",
    )
    cpu = run["device"] == "cpu"
    head = {"modules": ["classifier"], "trained_parameters": run["head_parameters"], "dtypes": ["float32"]}
    gpu = {"driver_version": "580.82.07", "power_limit_W": 700.0, "reasons": {}}
    on_gpu = {"gpu": gpu, "cuda_runtime_version": "13.0", "cudnn_version": 91002, "flags": {"tf32_matmul": False}}
    return {
        "versions": {name: "1.0.0" for name in LIBRARIES},
        **{"python": "3.11.9", "threads": 1, "device": run["device"], "device_name": run["device_name"]},
        **({} if cpu else on_gpu),
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "attempts": [{"gpu_name": None if cpu else run["device_name"]}],
        "reduction_dtype": None if run["gpus"] == 1 else "float32",
        "head": head if run["head_parameters"] is not None else None,
        **{"seed": run["seed"], "fingerprint": run["fingerprint"]},
        **{f"{name}_sha256": digit * 64 for name, digit in (("data", "d"), ("model", "a"), ("code", "c"))},
        "model": {"head": ["classifier"], "path": "distilbert", "revision": None},
        "settings": {
            **{key: run[key] for key in keys},
            **{"peft": peft, "quantization": None, "tuned_as": None, "early_stopping": None, "max_steps": None},
            **{"epochs": 3, "max_length": 128, "evaluation_batch_size": 64, "weight_decay": 0.01},
            **{"lr_scheduler_type": "linear", "warmup_ratio": 0.1},
            **{"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "max_grad_norm": 1.0},
        },
    }


def contract(folder: Path, summaries: list[dict[str, Any]], **differs: str) -> Path:
    """A contract.csv that all arms keep, but for one fact of those that `differs` names by their method."""
    path = folder / "contract.csv"
    columns = ("dataset", "model", "arm", "method", "rank", "pretrained", "fact", "compared_with", "verdict")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for run in {(run["dataset"], run["model"], run["arm"]): run for run in summaries}.values():
            fact = differs.get(run["method"])
            verdict = "differs" if fact else "equal"
            writer.writerow([*(run[key] for key in columns[:6]), fact or "batch_size", "full", verdict])
    return path


def write_metrics(path: Path, run: dict[str, Any], epochs: int) -> None:
    """A metrics.csv whose last test row agrees with the summary."""
    noise = random.Random(f"{path.parent.name} {run['arm']} curve")
    header = ("epoch", "step", "split", "train_loss", "learning_rate", "train_s", "loss")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*header, *NAMES])
        for epoch in range(1, epochs + 1):
            gap = 0.0 if epoch == epochs else 0.09 * 2 ** (1 - epoch) + noise.gauss(0, 0.006)
            for split, shift in (("validation", 0.01), ("test", 0.0)):
                values = [None if run[key] is None else run[key] - gap + shift for key in NAMES]
                start = (epoch, 200 * epoch, split, 0.6 / epoch, 1e-4 * (1 - epoch / epochs), 40.0 * epoch)
                writer.writerow([*start, 0.4 + gap, *values])


def tuning(summaries: list[dict[str, Any]], lost: dict[str, float]) -> pd.DataFrame:
    """A tuning.csv of `tunings`."""
    found = tunings(summaries, lost)
    return tuning_frame(found, {one["arm"] for one in found})


def tunings(summaries: list[dict[str, Any]], lost: dict[str, float]) -> list[dict[str, Any]]:
    """What tune.py wrote of each arm of `summaries`: three rates, the middle one taken.

    `lost`: by arm, how much accuracy the highest rate costs; 0.01 where nothing is said.
    """
    return [
        {
            **{key: run[key] for key in ("dataset", "model", "arm", "method", "rank", "pretrained", "metric")},
            "learning_rate": 2e-4, "tied": [], "gaps": [], "retries": [], "earlier": [], "extensions": 0,
            "seed": 1000, "batch_size": 32,
            "train_rows": 900, "dev_rows": 100, "dev": "train",
            "trials": [
                {"learning_rate": rate, "value": value, "loss": 0.3, "status": "completed", "steps": 28, "added": False}
                for rate, value in ((1e-4, 0.90), (2e-4, 0.92), (4e-4, 0.92 - lost.get(run["arm"], 0.01)))
            ],
        }
        for run in {run["arm"]: run for run in summaries}.values()
    ]  # fmt: skip

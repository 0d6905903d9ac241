"""One run: load, train, evaluate, save, and write down what it gave."""

import csv
import ctypes
import datetime
import gc
import importlib
import json
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import psutil
import torch
import transformers

from peft_tradeoffs import engine, environment, files, methods, metrics
from peft_tradeoffs.batches import load_tokens
from peft_tradeoffs.errors import InputError
from peft_tradeoffs.measure import MIB, step_summary
from peft_tradeoffs.model_files import tokenizer_files
from peft_tradeoffs.progress import TerminalReporter
from peft_tradeoffs.state import RunDirectory

SCHEMAS = Path(__file__).parents[2] / "schemas"


def prepare_process(settings: dict[str, Any], threads: int) -> None:
    """Import what the arm needs, set threads, quiet libraries; raises InputError if its device is not there."""
    for needed, library in ((settings["peft"], "peft"), (settings["quantization"], "bitsandbytes")):
        if needed:
            importlib.import_module(library)  # start-up, not loading
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    if settings["device"] == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "config key training.device: cuda, but torch sees no GPU (CUDA_VISIBLE_DEVICES, driver, or a CPU "
            "build of torch); set device: cpu for a CPU run"
        )


def run(
    directory: RunDirectory,
    seed: int,
    conditions: dict[str, Any],
    manifest: dict[str, Any],
    model_folder: Path,
    tokens: Path,
    threads: int,
) -> None:
    """Train one seed of an arm, or go on with it, and publish its results in `directory`."""
    settings = conditions["settings"]
    device = torch.device(settings["device"])
    reporter = TerminalReporter(f"{settings['dataset']}/{settings['model']}/{settings['arm']} seed {seed}")
    _free_memory(device)
    began = time.perf_counter()
    startup_s = _startup_s()
    splits, description = load_tokens(tokens)
    built = methods.build(
        model_folder,
        peft=settings["peft"],
        quantization=settings["quantization"],
        gradient_checkpointing=settings["gradient_checkpointing"],
        head=settings["head"],
        task=settings["task"],
        num_labels=description["num_labels"],
        pad_token_id=description["pad_token_id"],
        seed=seed,
        device=settings["device"],
    )
    if built.is_peft and manifest["source"] == "hub":  # so that the adapter is found its base model anywhere
        adapter = built.model.peft_config["default"]
        adapter.base_model_name_or_path, adapter.revision = manifest["path"], manifest["revision"]
    _check_space(directory.path, built)
    load_s = time.perf_counter() - began
    trained = engine.train(
        built.model,
        splits,
        description["pad_token_id"],
        engine.Settings.of(settings),
        seed,
        device,
        directory,
        reporter,
    )
    began = time.perf_counter()
    results = directory.results
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    weights = results / ("adapter" if built.is_peft else "checkpoint")
    methods.save(built, weights)
    if not built.is_peft:
        for name in tokenizer_files(set(manifest["files"])):
            shutil.copyfile(model_folder / name, weights / name)
    save_s = time.perf_counter() - began

    summary = summarise(
        settings,
        seed,
        description,
        built,
        trained,
        {"startup_s": startup_s, "load_s": load_s, "save_s": save_s},
    )
    summary["fingerprint"] = directory.fingerprint
    summary["device_name"] = environment.device_name(settings["device"])
    check("summary", summary)
    for row in trained.progress.rows:
        check("metrics", row)
    _write_csv(results / "summary.csv", [{**summary, "null_reasons": json.dumps(summary["null_reasons"])}])
    _write_csv(results / "metrics.csv", trained.progress.rows)
    _write_predictions(results / "predictions.csv", splits["test"], trained.logits, description)
    files.write_json(
        results / "env.json",
        {
            **environment.describe(settings["device"], threads),
            "seed": seed,
            "fingerprint": directory.fingerprint,
            **{key: conditions[key] for key in ("data_sha256", "model_sha256", "code_sha256")},
            "model": manifest,
            "settings": settings,
        },
    )
    directory.publish(summary)
    value = "undefined" if summary["metric_value"] is None else f"{summary['metric_value']:.4f}"
    reporter.done(f"{settings['metric']} {value}  {summary['train_s']:.1f} s of training")


def summarise(
    settings: dict[str, Any],
    seed: int,
    description: dict[str, Any],
    built: methods.Built,
    trained: engine.Result,
    phases: dict[str, float | None],
) -> dict[str, Any]:
    """The summary of a run; every key is described in schemas/summary.schema.json."""
    progress = trained.progress
    final = next(row for row in reversed(progress.rows) if row["split"] == "test")
    memory, reasons = trained.memory.summary()
    if phases["startup_s"] is None:
        reasons["startup_s"] = "the process was started for an earlier seed"
    for name in metrics.NAMES:
        if final[name] is None:
            of_task = (name in ("pearson", "spearman")) == (settings["task"] == "regression")
            reasons[name] = "not defined: all values are the same" if of_task else f"not for {settings['task']}"
    if final[settings["metric"]] is None:
        reasons["metric_value"] = reasons[settings["metric"]]
    if settings["rank"] is None:
        reasons["rank"] = "the method has no rank"
    counts = built.parameters
    return {
        "status": "completed",
        **{key: settings[key] for key in ("dataset", "model", "method", "arm", "rank")},
        "seed": seed,
        "task": settings["task"],
        "metric": settings["metric"],
        "metric_value": final[settings["metric"]],
        **{name: final[name] for name in metrics.NAMES},
        "test_loss": final["loss"],
        "learning_rate": settings["learning_rate"],
        "epochs": final["epoch"],
        "steps": progress.step,
        "stopped_early": progress.stopped,
        "batch_size": settings["batch_size"],
        "gradient_accumulation_steps": settings["gradient_accumulation_steps"],
        "gradient_checkpointing": settings["gradient_checkpointing"],
        "precision": settings["precision"],
        "device": settings["device"],
        "train_rows": description["rows"]["train"],
        "test_rows": description["rows"]["test"],
        "truncated_train": description["truncated"]["train"],
        "truncated_test": description["truncated"]["test"],
        "backbone_parameters": counts.backbone,
        "head_parameters": counts.head,
        "adapter_parameters": counts.adapter,
        "total_parameters": counts.total,
        "trainable_parameters": counts.trainable,
        "trainable_percent": 100 * counts.trainable / counts.total,
        **phases,
        "evaluate_s": progress.evaluate_s,
        **step_summary(progress.step_s, progress.samples, progress.tokens),
        **memory,
        "rss_before_MiB": trained.memory.rss_before_MiB,
        "weights_MiB": methods.weight_bytes(built.model) / MIB,
        "attempts": progress.attempts,
        "finished_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "null_reasons": reasons,
    }


def check(schema: str, value: dict[str, Any]) -> None:
    """Validate what a run writes against schemas/{schema}.schema.json."""
    jsonschema.validate(value, files.read_json(SCHEMAS / f"{schema}.schema.json"))


def _free_memory(device: torch.device) -> None:
    """Give back what earlier seeds of the process left, reference cycles and freed heap, so it is not this run's."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc
    if trim is not None:
        trim(0)


_process_started: float | None = psutil.Process().create_time()


def _startup_s() -> float | None:
    """Seconds from the start of the process to its first run; None for the runs after it."""
    global _process_started
    started, _process_started = _process_started, None
    return None if started is None else time.time() - started


def _check_space(folder: Path, built: methods.Built) -> None:
    """Raise InputError if the disk cannot hold a state (weights, two moments) twice and the results."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = sum(p.numel() * p.element_size() for p in built.model.parameters() if p.requires_grad)
    needed, free = 7 * trained, shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: {free / MIB:.0f} MiB free, a run needs up to {needed / MIB:.0f} MiB for its state and "
            "results: free some or set `output` to another disk; what is finished stays"
        )


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _write_predictions(path: Path, split: Any, logits: np.ndarray, description: dict[str, Any]) -> None:
    """One row a test text: its row in the source, label, prediction (class index or value) and logits.

    Nine digits tell any two float32 values apart.
    """
    predicted = metrics.predictions(logits, description["task"])
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "label", "prediction", *(f"logit_{i}" for i in range(logits.shape[1]))])
        for row, label, prediction, values in zip(split.rows, split.labels, predicted, logits, strict=True):
            writer.writerow([row, label, f"{prediction:.9g}", *(f"{value:.9g}" for value in values)])

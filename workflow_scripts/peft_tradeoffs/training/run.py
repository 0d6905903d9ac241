"""One run: load, train, evaluate, save, and write down what it gave."""

import csv
import functools
import gc
import importlib
import json
import shutil
import warnings
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import marked
from peft_tradeoffs.inputs.model_files import tokenizer_files
from peft_tradeoffs.inputs.tokens import Split, load_tokens
from peft_tradeoffs.measure import environment
from peft_tradeoffs.measure.devices import Device, free_memory, open_device, refused_bytes, requested_bytes
from peft_tradeoffs.measure.gpu import Clocks, IdlePower
from peft_tradeoffs.measure.phases import MASK, MIB, PREPARE, STATE, Phases, process_age_s
from peft_tradeoffs.runs.progress import TerminalReporter
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.tasks.metric_names import said
from peft_tradeoffs.training import engine, methods
from peft_tradeoffs.training.attention import check_padding, choose_kernels, no_mask
from peft_tradeoffs.training.batches import longest_text, padded_length, shortest_texts
from peft_tradeoffs.training.methods import hold_as_computed
from peft_tradeoffs.training.scaling import spread
from peft_tradeoffs.training.state import RunDirectory
from peft_tradeoffs.training.step import BlockGenerators, autocast
from peft_tradeoffs.training.summary import Outcome, check, summarise

PADDED = 8  # texts by which a model shows whether it reads padding
WEIGHTS = ("checkpoint", "adapter")  # folder of a full model's, of an adapter's
REPORTED = {MASK: "probe", PREPARE: "train", STATE: "train", None: "evaluate"}  # phases that the summary does not name


def prepare_process(
    settings: dict[str, Any], threads: int, idle: IdlePower | None, waiting: AbstractContextManager[None]
) -> Device:
    """Import what the arm needs, set threads, quiet libraries and take the device.

    `idle`: a first reading of the GPU's idle power. `waiting`: entered while other jobs have the GPU. Raises
    InputError if the device is not there or not free.
    """
    libraries = {
        "peft": settings["peft"],
        "bitsandbytes": settings["quantization"],
        "scipy.stats": settings["task"] == "regression",
    }
    for library, needed in libraries.items():
        if needed:
            importlib.import_module(library)  # start-up, not loading
    gc.freeze()  # the libraries' half a million objects: 0.3 s per collection
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    return open_device(settings["device"], settings["allow_shared_gpu"], idle, waiting)


def run(
    directory: RunDirectory,
    seed: int,
    conditions: dict[str, Any],
    manifest: dict[str, Any],
    model_folder: Path,
    tokens: Path,
    threads: int,
    device: Device,
    apart_s: float,
    keep_weights: bool = True,
) -> None:
    """Train one seed of an arm, or go on with it, and publish its results in `directory`.

    `apart_s`: seconds before its first run that the process waited for another writer of its runs, or did what belongs
    to none of them. `keep_weights`: where the settings save weights, save them. Running out of memory and a loss that
    is not finite are results too. Raises Interrupted, the state saved, if the process must end.
    """
    settings = conditions["settings"]
    reporter = TerminalReporter(f"{settings['dataset']}/{settings['model']}/{settings['arm']} seed {seed}")
    gpu_name = environment.device_name("cuda") if device.torch.type == "cuda" else None
    startup_s = _startup_s(device.waited_s + apart_s)
    directory.attempts.on(device.gpu.uuid if device.gpu else None, gpu_name)
    free_memory(device.torch)
    device.isolation.begin()
    energy, clocks = device.energy_meter(), Clocks(device.gpu)
    meters = {"train": {"energy": energy, "clocks": clocks, "isolation": device.isolation}}
    phases = Phases(device.torch, device.isolation.process_MiB, meters)
    phases.switch("load")
    splits, description = load_tokens(tokens)
    results = directory.results
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    outcome = Outcome()
    saved = settings["save_weights"] and keep_weights
    try:
        _train(
            *(outcome, settings, seed, manifest, model_folder, splits, description, directory, device, phases),
            *(reporter, saved),
        )
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        ran_out, outcome.oom_bytes = refused_bytes(error)
        if not ran_out:
            raise
        outcome.status = "oom"
        outcome.failed_phase = REPORTED.get(phases.current, phases.current)
        for name in WEIGHTS:
            shutil.rmtree(results / name, ignore_errors=True)  # half of one
    phases.switch(None)
    if outcome.trained is None and outcome.reached is not None:
        outcome.trained = outcome.reached()
    device.isolation.check()
    directory.interruption.hold()  # a few seconds more, and nothing of the run is to be done again
    attempts = directory.attempts.end(outcome.status)

    summary = summarise(
        *(settings, seed, description, manifest["pretrained"], outcome, phases, energy, device, startup_s),
        *(_compiled_before(outcome), attempts, directory.fingerprint),
    )
    _write_csv(results / "summary.csv", [{**summary, "null_reasons": json.dumps(summary["null_reasons"])}])
    rows = outcome.trained.progress.rows if outcome.trained else []
    for row in rows:
        check("metrics", row)
    _write_csv(results / "metrics.csv", rows)
    files.write_json(
        results / "env.json",
        {
            **environment.describe(settings["device"], threads, device.gpu, device.no_gpu),
            "under_load": clocks.totals() if device.gpu else None,
            "other_processes": device.isolation.others(),
            "attempts": attempts,
            "attention_mask": outcome.trained.progress.mask if outcome.trained else None,
            "head": outcome.head,
            "targets": outcome.targets,
            "seed": seed,
            "fingerprint": directory.fingerprint,
            **{key: conditions[key] for key in ("data_sha256", "model_sha256", "code_sha256")},
            "model": manifest,
            "settings": settings,
        },
    )
    directory.publish(summary)
    reporter.done(_last_line(summary))


def build_arm(
    settings: dict[str, Any],
    seed: int,
    manifest: dict[str, Any],
    model_folder: Path,
    train: Split,
    description: dict[str, Any],
    device: torch.device,
) -> tuple[methods.Built, BlockGenerators | None, str | None]:
    """The model of an arm on `device`, its generators of dropout, and what its frozen linear layers are held in."""
    # torch.compile recomputes dropout by itself, and cannot trace generators of our own.
    own = device.type == "cuda" and settings["gradient_checkpointing"] and not settings["compile"]
    generators = BlockGenerators(seed) if own else None
    choose_kernels(no_mask)  # as when the process began: an earlier seed may have left some out
    built = methods.build(
        model_folder,
        peft=settings["peft"],
        quantization=settings["quantization"],
        gradient_checkpointing=settings["gradient_checkpointing"],
        gradient_checkpointing_kwargs=generators.checkpoint_arguments() if generators else None,
        head=settings["head"],
        task=settings["task"],
        num_labels=description["num_labels"],
        pad_token_id=description["pad_token_id"],
        seed=seed,
        device=str(device),
        dtype=settings["dtype"],
        labels=description["labels"],
    )
    if built.is_peft and manifest["source"] == "hub":  # so that the adapter is found its base model anywhere
        adapter = built.model.peft_config["default"]
        adapter.base_model_name_or_path, adapter.revision = manifest["path"], manifest["revision"]
    held = hold_as_computed(built.model, settings["precision"], device, longest_text(train))
    free_memory(device)  # the workspaces of its forward pass are no weights
    return built, generators, held


def _train(
    outcome: Outcome,
    settings: dict[str, Any],
    seed: int,
    manifest: dict[str, Any],
    model_folder: Path,
    splits: dict[str, Any],
    description: dict[str, Any],
    directory: RunDirectory,
    device: Device,
    phases: Phases,
    reporter: TerminalReporter,
    save_weights: bool,
) -> None:
    """Build, train and save; `outcome` keeps what was reached should memory run out."""
    cuda = device.torch.type == "cuda"
    outcome.held_before = requested_bytes() if cuda else None
    built, generators, outcome.frozen_linear_dtype = build_arm(
        settings, seed, manifest, model_folder, splits["train"], description, device.torch
    )
    outcome.parameters, outcome.head = built.parameters, methods.head_facts(built)
    outcome.training_bytes = methods.training_bytes(built.model)
    if cuda:
        outcome.weights_measured = requested_bytes() - outcome.held_before
    _check_space(directory.path, built)
    try:
        _check_padding(built.model, splits["train"], description["pad_token_id"], settings["precision"], device.torch)
    except methods.REFUSALS as error:  # that PEFT raises only where the model computes
        if not built.is_peft or refused_bytes(error)[0]:
            raise
        kind = settings["peft"]["peft_type"] + (" on a quantised model" if settings["quantization"] else "")
        raise InputError(f"{kind} cannot compute: {methods.said(error)}; choose another peft_type") from error
    free_memory(device.torch)
    trainer = engine.Trainer(
        *(built.model, splits, description["pad_token_id"], engine.Settings.of(settings), seed, device.torch),
        *(directory, reporter, phases, generators),
    )
    outcome.reached = trainer.result
    outcome.trained = trained = trainer.train()
    if trained.logits is None:
        outcome.status, outcome.failed_phase = "diverged", "train"
        return
    phases.switch("save")
    directory.confirm()
    if trainer.scale is not None:
        outcome.prediction_spread = spread(trained.logits, splits["test"].labels)
    if save_weights:
        weights = directory.results / WEIGHTS[built.is_peft]
        forward = functools.partial(
            _logits, built.model, longest_text(splits["train"]), settings["precision"], device.torch
        )
        outcome.targets = methods.save(built, weights, trainer.scale, forward)
        if not built.is_peft:
            for name in tokenizer_files(set(manifest["files"])):
                shutil.copyfile(model_folder / name, weights / name)
    _write_predictions(directory.results / "predictions.csv", splits["test"], trained.logits, description)
    if trained.heldout_logits is not None:
        path = directory.results / "predictions_heldout.csv"
        _write_predictions(path, splits["heldout"], trained.heldout_logits, description)


@torch.no_grad()
def _logits(model: torch.nn.Module, text: torch.Tensor, precision: str, device: torch.device) -> torch.Tensor:
    """Logits [1, k] of a text, int64 [t]."""
    ids = text.to(device)[None]
    model.eval()
    with autocast(precision, device):
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def _check_padding(
    model: torch.nn.Module, split: Split, pad_token_id: int, precision: str, device: torch.device
) -> None:
    """Raise InputError for a model that reads the padding beside a text."""
    texts = [text.to(device) for text in shortest_texts(split, PADDED)]
    context = functools.partial(autocast, precision, device)
    check_padding(model, texts, padded_length(split.lengths), pad_token_id, context)


def _last_line(summary: dict[str, Any]) -> str:
    """How the run ended, for a person."""
    if summary["status"] == "oom":
        return f"out of memory in phase {summary['failed_phase']}"
    if summary["status"] == "diverged":
        return f"diverged: loss not finite at step {summary['diverged_step']}"
    value = "undefined" if summary["metric_value"] is None else f"{summary['metric_value']:.4f}"
    return f"{said(summary)} {value}  {summary['train_s']:.1f} s of training"


_first_run = True  # of this process


_compiled = False  # by a run of this process


def _compiled_before(outcome: Outcome) -> bool:
    """Whether an earlier run of this process compiled what this one trained with."""
    global _compiled
    before = _compiled
    _compiled |= bool(outcome.trained and outcome.trained.progress.compile_s)
    return before


def _startup_s(waited_s: float) -> float | None:
    """Seconds from the start of the process to its first run, but for those waited; None for the runs after it."""
    global _first_run
    first, _first_run = _first_run, False
    return max(0.0, process_age_s() - waited_s) if first else None


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
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows({key: marked(value) for key, value in row.items()} for row in rows)


def _write_predictions(path: Path, split: Any, logits: np.ndarray, description: dict[str, Any]) -> None:
    """One row per text of the split: its row in the source, label, prediction (class index or value) and logits.

    Nine digits tell any two float32 values apart, seventeen the values of a regression, which are float64.
    """
    predicted = metrics.predictions(logits, description["task"])
    form = ".17g" if description["task"] == "regression" else ".9g"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "label", "prediction", *(f"logit_{i}" for i in range(logits.shape[1]))])
        for row, label, prediction, values in zip(split.rows, split.labels, predicted, logits, strict=True):
            writer.writerow([row, label, format(prediction, form), *(format(value, form) for value in values)])

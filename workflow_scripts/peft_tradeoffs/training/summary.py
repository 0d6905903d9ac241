"""What a run is measured with, what it came to, and summary.json of both.

Of every run, whether it was completed or not; schemas/summary.schema.json describes every key.
"""

import datetime
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import numpy as np

from peft_tradeoffs.core.layout import json_schema
from peft_tradeoffs.core.quantities import Missing, without_missing
from peft_tradeoffs.measure import machine
from peft_tradeoffs.measure.devices import (
    FORGETTING,
    MASK,
    MIB,
    ON_CPU,
    PEAKS,
    PREPARE,
    STATE,
    Device,
    Meters,
    Phases,
    free_memory,
    step_percentiles,
)
from peft_tradeoffs.measure.machine import Clocks
from peft_tradeoffs.runs.plan import Plan
from peft_tradeoffs.runs.status import mixed_gpus, queue_s, stood_still_s, wall_s
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.tasks.task import TASKS
from peft_tradeoffs.tasks.texts import GENERAL
from peft_tradeoffs.training import engine, methods
from peft_tradeoffs.training.decoding import Decoded
from peft_tradeoffs.training.parallel import ALONE
from peft_tradeoffs.training.step import WARM_STEPS, Probe
from peft_tradeoffs.training.updates import PAGED

SETTINGS = (
    *("dataset", "model", "method", "arm", "rank", "task", "metric", "learning_rate", "tuned_as"),
    *("batch_size", "gradient_accumulation_steps", "gradient_checkpointing", "precision", "dtype", "optimizer"),
    *("compile", "gpus", "parallel", "device"),
)
OF_ONE_ENGINE = (
    *("step_p50_ms", "step_p95_ms", "step_p99_ms", "samples_per_s", "tokens_per_s"),
    *("energy_J_per_sample", "mean_power_W"),
)
NO_GENERAL = Missing("the data set names no general text")
NO_HELDOUT = Missing("the data set has no heldout split")
NO_MEMORY = Missing("memory did not suffice for the general text")
NOT_PROBED = Missing("a trial of a learning rate is not probed")
NOT_ASKED = Missing("the data set asks for no answers (generate)")
TEST_ALONE = Missing("the answers are to prompts of the test split alone")
UNSCORED = Missing("the answers are not scored yet")
OF_ANSWERS = (
    *("max_new_tokens", "generate_batch_size", "generate_engine", "generate_engine_reason", "ended_share"),
    *("answer_tokens", "generate_s", "generate_tokens_per_s", "generate_energy_J", "scored_as"),
)
TIMED = ("load", MASK, "probe", PREPARE, "evaluate", FORGETTING, "save", STATE)


class Bench:
    """What a run is done and measured with: a device, and meters of its own."""

    def __init__(
        self, device: Device, *, threads: int, keep_weights: bool, startup_s: float | None, compiled_before: bool
    ) -> None:
        """Clear the device for the run, and begin to watch it.

        `keep_weights`: where the settings save weights, save them. `startup_s`: seconds from the start of the process
        to its first run; None for the runs after it. `compiled_before`: by an earlier run of the process.
        """
        self.device, self.threads, self.keep_weights = device, threads, keep_weights
        self.startup_s, self.compiled_before = startup_s, compiled_before
        self.originals: dict[str, np.ndarray | Missing] = {}  # by arm, `Outcome.original`; of the process, if it is set
        self.probed = True  # whether the run begins with the probe
        self.world = ALONE  # the processes that share the run
        self.ranks: list[dict[str, Any] | None] = []  # of several: what each measured
        free_memory(device.torch)
        device.isolation.begin()
        self.energy, self.clocks = device.energy_meter(), Clocks(device.gpu)
        self.decoding_energy = device.energy_meter()
        meters: Meters = {
            "train": {"energy": self.energy, "clocks": self.clocks, "isolation": device.isolation},
            "generate": {"decoding_energy": self.decoding_energy},
        }
        self.phases = Phases(device.torch, device.isolation.process_MiB, meters)


@dataclass
class Outcome:
    """What a run came to, as far as it came."""

    status: str = "completed"
    failed_phase: str | None = None
    oom_bytes: int | None = None
    original: np.ndarray | Missing = NO_GENERAL  # losses on the general text of the model that was quantised
    frozen_linear_dtype: str | None = None
    parameters: methods.Parameters | None = None
    head: dict[str, Any] | None = None  # methods.head_facts
    targets: dict[str, Any] | None = None  # methods.save
    prediction_spread: float | None = None
    training_bytes: dict[str, int] = field(default_factory=dict)
    held_before: int | None = None  # CUDA bytes
    weights_measured: int | None = None  # CUDA bytes
    trained: engine.Result | None = None
    answers: Decoded | None = None  # to the test split's prompts
    reached: Callable[[], engine.Result] | None = None  # of a training that has begun

    def ask(self, reached: Callable[[], engine.Result]) -> None:
        """Have `reached` say what was reached, should memory run out."""
        self.reached = reached


def summarise(
    plan: Plan, bench: Bench, description: dict[str, Any], outcome: Outcome, attempts: list[dict[str, Any]]
) -> dict[str, Any]:
    """The summary of a run on tokens of this description, after these attempts at it.

    Raises jsonschema.ValidationError, or ValueError for a null without a reason.
    """
    settings, pretrained = plan.settings, plan.model.manifest["pretrained"]
    device, phases = bench.device, bench.phases
    probed = bench.probed or bool(outcome.trained and outcome.trained.probe)
    trained, cuda, task = outcome.trained, device.torch.type == "cuda", TASKS[settings["task"]]
    values: dict[str, Any] = {
        "status": outcome.status,
        "failed_phase": outcome.failed_phase,
        "oom_bytes": outcome.oom_bytes,
        "diverged_step": trained.diverged_step if trained else None,
        **{key: settings[key] for key in SETTINGS},
        "seed": plan.seed,
        "positive_class": task.positive_class(description["labels"]),
        "pretrained": pretrained,
        "engine": trained.engine if trained else settings["engine"],
        "engine_reason": trained.progress.engine_reason if trained else None,
        "device_name": machine.device_name(settings["device"]),
        "gpu_uuid": _uuids(bench),
        "shared_gpu": device.isolation.shared() if cuda else ON_CPU,
        "mixed_gpus": mixed_gpus(attempts) or len({gpu["name"] for gpu in _gpus(bench)}) > 1,
        "stood_still_s": stood_still_s(attempts),
        **{f"{split}_rows": description["rows"][split] for split in ("train", "test")},
        "heldout_rows": description["rows"].get("heldout", NO_HELDOUT),
        **{f"truncated_{split}": description["truncated"][split] for split in ("train", "test")},
        "startup_s": bench.startup_s,
        **{f"{phase}_s": phases.seconds.get(phase) for phase in TIMED},
        **phases.summary(),
        **({} if probed else dict.fromkeys((f"probe_{name}" for name in PEAKS), NOT_PROBED)),
        **_of_answers(outcome, bench, settings),
        "held_before_MiB": _mib(outcome.held_before) if cuda else ON_CPU,
        **{f"{name}_MiB": _mib(size) for name, size in outcome.training_bytes.items()},
        "weights_measured_MiB": _mib(outcome.weights_measured) if cuda else ON_CPU,
        "attempts": len(attempts),
        "wall_s": wall_s(attempts),
        "queue_s": queue_s(attempts),
        "finished_at": _now(),
        "fingerprint": plan.fingerprint,
        **(_counts(outcome.parameters) if outcome.parameters else {}),
        **({"frozen_linear_dtype": outcome.frozen_linear_dtype} if outcome.parameters else {}),
    }
    if not values["heldout_rows"]:
        values["heldout_metric_value"] = NO_HELDOUT
    otherwise = {  # why one is null where nothing else says so
        "failed_phase": "the run was completed",
        "oom_bytes": "the allocator's message names no size" if outcome.status == "oom" else "memory sufficed",
        "diverged_step": "no loss that was not finite was seen",
        "positive_class": task.no_positive_class,
        "rank": "the method has no rank",
        "tuned_as": "the learning rate was given in the config",
        "frozen_linear_dtype": "no linear layer is frozen",
        "engine_reason": "the engine that was asked for ran",
        "parallel": "the run had one GPU",
        "startup_s": "the process was started for an earlier seed",
        **dict.fromkeys(("truncated_train", "truncated_test"), "of texts carved from train not counted apart"),
        "mask_s": "on a CPU the padding mask is taken unseen",
        **({} if probed else {"probe_s": NOT_PROBED.reason}),
        "queue_s": "an attempt ran outside SLURM, or SLURM did not say",
    }
    if GENERAL not in description["rows"]:
        otherwise["forgetting_s"] = NO_GENERAL.reason
    elif not pretrained:
        otherwise["forgetting_s"] = "random weights"
    if trained is not None:
        progress = trained.progress
        values |= _training(trained)
        values["train_gpu_s"] = _gpu_seconds(values["train_s"], settings["gpus"]) if cuda else ON_CPU
        values["compile_s"] = _compiling(progress, settings["compile"], bench.compiled_before)
        values |= _quality(trained, settings, pretrained, outcome.prediction_spread)
        values |= forgetting(trained, outcome.original, pretrained)
        values |= {**bench.energy.summary(progress.samples), "idle_power_W": _idle_power_W(bench)}
        values |= _of_two_engines(progress)
        values |= _unscored(values, settings, pretrained)
        values |= _of_updates(trained, settings)
    return _complete(values, otherwise)


def summarise_untrained(
    plan: Plan, bench: Bench, description: dict[str, Any], outcome: Outcome, scores: dict[str, float | None]
) -> dict[str, Any]:
    """What the model gave before any training: no run's summary, but each key is as a run's (core/quantities.py).

    `scores` are loss and metrics of tokens, empty where it did not get so far.
    """
    settings, failed = plan.settings, outcome.status != "completed"
    own = ("dataset", "model", "task", "precision", "dtype", "device")
    of_outputs = metrics.names_of(metrics.OUTPUTS)
    values, reasons = without_missing(
        {
            "status": outcome.status,
            "failed_phase": outcome.failed_phase,
            "oom_bytes": outcome.oom_bytes,
            **{key: settings[key] for key in own},
            "pretrained": plan.model.manifest["pretrained"],
            "device_name": machine.device_name(settings["device"]),
            "test_rows": description["rows"]["test"],
            **dict.fromkeys(OF_ANSWERS),
            **_of_answers(outcome, bench, settings),
            "test_loss": scores.get("loss"),
            **{name: scores.get(name) for name in metrics.names_of(metrics.TOKENS)},
            **(dict.fromkeys(of_outputs) if failed else dict.fromkeys(of_outputs, UNSCORED)),
            "finished_at": _now(),
            "fingerprint": plan.fingerprint,
            **{key: plan.conditions[key] for key in ("data_sha256", "model_sha256")},
        }
    )
    ended = f"not reached: it ended in {outcome.failed_phase}" if failed else "it was completed"
    return {**values, "null_reasons": {key: reasons.get(key, ended) for key in values if values[key] is None}}


def check(schema: str, value: dict[str, Any]) -> None:
    """Validate what a run writes against schemas/{schema}.schema.json."""
    jsonschema.validate(value, json_schema(schema))


def _counts(counts: methods.Parameters) -> dict[str, Any]:
    return {
        "backbone_parameters": counts.backbone,
        "head_parameters": counts.head,
        "adapter_parameters": counts.adapter,
        "total_parameters": counts.total,
        "trainable_parameters": counts.trainable,
        "trainable_percent": 100 * counts.trainable / counts.total,
    }


def _training(trained: engine.Result) -> dict[str, Any]:
    """What the steps took. Rates are over step time alone, padding not counted."""
    progress = trained.progress
    train_s = sum(progress.step_s)
    return {
        "steps": progress.step,
        "stopped_early": progress.stopped,
        "train_s": train_s or None,
        "capture_s": progress.capture_s or (Missing("the engine was eager") if trained.engine == "eager" else None),
        "samples_per_s": progress.samples / train_s if train_s else None,
        "tokens_per_s": progress.tokens / train_s if train_s else None,
        "data_MiB": _mib(trained.data_bytes),
        **step_percentiles(progress.step_s),
        **_probed(trained.probe),
    }


def _gpus(bench: Bench) -> list[dict[str, Any]]:
    """Facts of the GPUs of the other ranks too, as far as they are known; none of a run on one GPU."""
    return [found["gpu"] for found in bench.ranks if found and found["gpu"]]


def _uuids(bench: Bench) -> str | Missing:
    gpu = bench.device.gpu
    if not gpu or not bench.ranks:
        return gpu.uuid if gpu else gpu
    uuids = [gpu["uuid"] for gpu in _gpus(bench)]
    return ", ".join(uuids) if len(uuids) == bench.world.size else Missing("a GPU of the run is not known")


def _idle_power_W(bench: Bench) -> float | Missing:
    """Of all GPUs of the run together."""
    own = bench.device.idle_power_W
    if not bench.ranks or isinstance(own, Missing):
        return own
    watts = [found.get("idle_power_W") if found else None for found in bench.ranks]
    if None in watts:
        return Missing("not taken of each GPU of the run")
    return float(sum(value for value in watts if value is not None))


def _gpu_seconds(seconds: float | None, gpus: int) -> float | None:
    return None if seconds is None else gpus * seconds


def _probed(probe: Probe | None) -> dict[str, Any]:
    """What one worst-case step took."""
    eager = step_percentiles(probe.step_s if probe else [], "probe_step", WARM_STEPS)
    parts = [f"{name}_measured_MiB" for name in ("gradients", "optimizer", "activations")]
    if probe is None:
        return dict.fromkeys((*eager, "activations_MiB", *parts), NOT_PROBED)
    if probe.activations_measured_MiB is None:
        eager = dict.fromkeys(eager, Missing("on a CPU training itself is eager"))
    measured = {name: getattr(probe, name) for name in parts}
    return {
        "activations_MiB": probe.activations_MiB,
        **eager,
        **{name: ON_CPU if size is None else size for name, size in measured.items()},
    }


def _compiling(progress: engine.Progress, compiled: bool, compiled_before: bool) -> float | Missing | None:
    """Seconds of torch.compile, which keeps what it made for the seeds that the process trains later."""
    if not compiled:
        return Missing("compile was off")
    return Missing("an earlier seed of the process paid it") if compiled_before else progress.compile_s or None


def _of_answers(outcome: Outcome, bench: Bench, settings: dict[str, Any]) -> dict[str, Any]:
    """What answering the test split's prompts took, and what it came to but for their scores."""
    wanted, answers = settings["generate"], outcome.answers
    if wanted is None:
        peaks = [f"generate_{name}" for name in PEAKS]
        return dict.fromkeys((*OF_ANSWERS, *peaks), NOT_ASKED)
    found = {"max_new_tokens": wanted["max_new_tokens"], "generate_batch_size": wanted["batch_size"]}
    found["scored_as"] = UNSCORED
    if answers is None:
        return found
    lengths = np.array([len(ids) for ids in answers.tokens])
    seconds = bench.phases.seconds["generate"]
    written = int(lengths.sum() + answers.ended.sum())
    return found | {
        "ended_share": float(answers.ended.mean()),
        "answer_tokens": float(lengths.mean()),
        "generate_engine": answers.engine,
        "generate_engine_reason": answers.engine_reason or Missing("it was the engine that was asked for"),
        "generate_s": seconds,
        "generate_tokens_per_s": written / seconds,
        "generate_energy_J": bench.decoding_energy.summary(1)["energy_J"],
    }


def _unscored(values: dict[str, Any], settings: dict[str, Any], pretrained: bool) -> dict[str, Any]:
    """Why metrics of answers are null so far."""
    why = UNSCORED if settings["generate"] else NOT_ASKED
    if not pretrained or TASKS[settings["task"]].reader is None:
        return {}
    names = metrics.names_of(metrics.OUTPUTS)
    found = dict.fromkeys(names, why)
    if settings["metric"] in names:
        found |= {"metric_value": why}
        found |= {"heldout_metric_value": TEST_ALONE} if values.get("heldout_rows") else {}
    return found


def _of_two_engines(progress: engine.Progress) -> dict[str, Missing]:
    """What steps of two engines do not have in common, where a run fell back on its way."""
    if not progress.captured_steps:
        return {}
    why = Missing(f"steps of two engines: {progress.captured_steps} captured, the others eager")
    return dict.fromkeys(OF_ONE_ENGINE, why)


def _of_updates(trained: engine.Result, settings: dict[str, Any]) -> dict[str, Any]:
    """What depends on the loss scale, and on where the optimizer keeps its state."""
    fp16, cuda = settings["precision"] == "fp16", settings["device"] == "cuda"
    found: dict[str, Any] = {"skipped_steps": trained.skipped_steps if fp16 else Missing("precision is not fp16")}
    if settings["optimizer"] == PAGED and cuda:
        found["optimizer_measured_MiB"] = Missing("in managed memory, which torch's allocator does not see")
    return found


def _quality(
    trained: engine.Result, settings: dict[str, Any], pretrained: bool, prediction_spread: float | None
) -> dict[str, Any]:
    """What the last evaluation of the test split gave, and that of the heldout split where there is one."""
    if trained.logits is None:
        return {}
    last = {row["split"]: row for row in trained.progress.rows}
    final, heldout = last["test"], last.get("heldout")
    values: dict[str, Any] = {"epochs": final["epoch"]}
    if not pretrained:
        scores = ["metric_value", "test_loss", "prediction_spread", *metrics.NAMES]
        scores += ["heldout_metric_value"] if heldout else []
        return values | dict.fromkeys([*scores, "constant_prediction"], Missing("random weights"))
    task, other = TASKS[settings["task"]], Missing(f"not for {settings['task']}")
    undefined = Missing("not defined: all values are the same")
    for name in metrics.NAMES:
        values[name] = _or(final[name], undefined if name in task.metrics else other)
    values |= {"metric_value": values[settings["metric"]], "test_loss": final["loss"]}
    values["prediction_spread"] = _or(prediction_spread, other)
    if heldout:
        values["heldout_metric_value"] = _or(heldout[settings["metric"]], undefined)
    values["constant_prediction"] = bool(np.ptp(task.answers(trained.logits)) == 0)
    return values


FORGOTTEN = (
    *("forgetting_loss_before", "forgetting_loss_after", "forgetting"),
    *("forgetting_loss_original", "forgetting_vs_original"),
)


def general_losses(trained: engine.Result, original: np.ndarray | Missing) -> dict[str, np.ndarray]:
    """Of each general text [n] its tokens and the sums of their losses; nothing where training did not come to its end.

    Columns of predictions_general.csv beside `row`.
    """
    before, after = trained.progress.general_before, trained.general
    if not before or after is None:
        return {}
    found = {"tokens": after[:, 1], "loss_before": np.array(before)[:, 0], "loss_after": after[:, 0]}
    return found if isinstance(original, Missing) else {**found, "loss_original": original[:, 0]}


def forgetting(trained: engine.Result, original: np.ndarray | Missing, pretrained: bool) -> dict[str, Any]:
    """Losses per token on the general text, and how far they lie apart."""
    if not pretrained:
        return dict.fromkeys(FORGOTTEN, Missing("random weights"))
    if trained.progress.general_before is None:
        return dict.fromkeys(FORGOTTEN, NO_GENERAL)
    if trained.general is None and trained.logits is None:
        return {}
    before, after = (_per_token(sums) for sums in (trained.progress.general_before, trained.general))
    first = original if isinstance(original, Missing) else _per_token(original)
    return dict(zip(FORGOTTEN, (before, after, _less(after, before), first, _less(after, first)), strict=True))


def _per_token(sums: Sequence[Sequence[float]] | np.ndarray | None) -> float | Missing:
    """The loss per token of texts whose columns are `metrics.OF_TEXT`; none or empty where memory did not suffice."""
    if sums is None or not len(sums):
        return NO_MEMORY
    losses, tokens, _ = np.array(sums).sum(axis=0)
    loss = float(losses / tokens)
    return loss if math.isfinite(loss) else Missing("the loss on the general text is not finite")


def _less(loss: float | Missing, other: float | Missing) -> float | Missing:
    """Their difference, or why one is missing."""
    if isinstance(loss, Missing):
        return loss
    return other if isinstance(other, Missing) else loss - other


def _or(value: Any, missing: Missing) -> Any:
    return missing if value is None else value


def _complete(found: dict[str, Any], otherwise: dict[str, str]) -> dict[str, Any]:
    """Every key of the schema in its order; a null has its reason."""
    values, reasons = without_missing(found)
    reasons = otherwise | reasons
    keys = [key for key in json_schema("summary")["required"] if key != "null_reasons"]
    summary = {key: values.get(key) for key in keys}
    missing = [key for key in keys if summary[key] is None]
    if summary["status"] != "completed":
        unreached = f"not reached: the run ended in {summary['failed_phase']}"
        known = {"failed_phase", "oom_bytes", "diverged_step", "rank", "tuned_as", "engine_reason", "parallel"}
        reasons = {key: reasons.get(key, unreached) if key in values or key in known else unreached for key in missing}
    if unexplained := [key for key in missing if key not in reasons]:
        raise ValueError(f"null without a reason: {', '.join(unexplained)}")
    summary["null_reasons"] = {key: reasons[key] for key in missing}
    check("summary", summary)
    return summary


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _mib(size: int | None) -> float | None:
    return None if size is None else size / MIB

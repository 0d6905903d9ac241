"""Every recorded quantity, once: what summary.json, the tables, the page and the exports know of it.

One line here is one key of summary.json and one column of the tables. `tasks/task.py` puts the metrics beside them;
schemas, tables, page and exports read that. A run knows its keys from schemas/summary.schema.json, which
write_schemas.py makes from here: a better word here retrains nothing, a new quantity trains every run anew.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeVar

T = TypeVar("T")

# Libraries that can change a result: their versions are recorded.
LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "tokenizers",
    "safetensors",
    "numpy",
)
# What a search for the largest batch ended at.
CAP, LARGEST, ROWS = "cap", "largest_batch_size", "train rows"

# identity: names the run. setting: held for the run; an arm's row has it, or every value that its runs have. result,
# cost: what came out and what it took; numbers are averaged over an arm's runs. bookkeeping: of the run alone.
Kind = Literal["identity", "setting", "result", "cost", "bookkeeping"]
Type = Literal["integer", "number", "boolean", "string", "object"]
Comparable = Literal["anywhere", "same device", "same device and engine"]
ANYWHERE: Final = "anywhere"
SAME_DEVICE: Final = "same device"
SAME_ENGINE: Final = "same device and engine"
NO_GENERAL = "Null: the data set names no general text, or memory did not suffice for it."
IS_THE_ORIGINAL = "the base model is not quantised"  # why a run has no loss of the model that was
NOT_QUANTISED = "Null: no general text, the base model is not quantised, or memory did not suffice."
NOT_GENERATED = "Null: the data set asks for no answers (generate)."
UNREACHED = ""  # null where the run did not get so far, or could not tell
HIGH: Final = "high"
LOW: Final = "low"
SHA256 = "^[0-9a-f]{64}$(?!\\n)"
COMPLETED, OOM, DIVERGED = STATUS = ("completed", "oom", "diverged")
PHASES = ("load", "probe", "train", "evaluate", "generate", "save")
PEAKS = ("peak_allocated", "peak_reserved", "process", "peak_rss")
PARTS = ("weights", "gradients", "optimizer", "activations")  # of memory, as it is drawn
SPLITS = ("validation", "test", "heldout")  # that are evaluated
PERCENTILES = (50, 95, 99)  # of a step


@dataclass(frozen=True)
class Span:
    """At least and at most."""

    least: float
    most: float

    def __add__(self, other: "Span") -> "Span":
        return Span(self.least + other.least, self.most + other.most)

    def times(self, factor: float) -> "Span":
        """Both times a factor."""
        return Span(self.least * factor, self.most * factor)


@dataclass(frozen=True)
class Missing:
    """What stands where there is no value: why. It is false."""

    reason: str

    def __bool__(self) -> Literal[False]:
        return False


def between(low: T, high: T, share: float) -> T:
    """What lies between two of a kind, dataclasses of numbers, number by number; the one that is missing if one is."""
    for one in (low, high):
        if not one:
            return one

    def number(one: Any, other: Any) -> Any:
        if isinstance(one, list | tuple):
            return type(one)(number(*pair) for pair in zip(one, other, strict=True))
        if not isinstance(one, int | float) or not isinstance(other, int | float):
            return one
        found = one + (other - one) * share
        return round(found) if isinstance(one, int) and isinstance(other, int) else found

    both: Any = [dataclasses.asdict(one) for one in (low, high)]  # type: ignore[call-overload]
    return type(low)(**{key: number(value, both[1][key]) for key, value in both[0].items()})


def without_missing(values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The values, None for each that is missing, and the reasons of those by key."""
    reasons = {key: value.reason for key, value in values.items() if isinstance(value, Missing)}
    return {key: None if key in reasons else value for key, value in values.items()}, reasons


@dataclass(frozen=True, eq=False)
class Rule:
    """What the schema says of runs of one kind: which quantities they have, and which are null."""

    about: str
    given: dict[str, Any]  # properties of such a run
    then: dict[str, Any] | None = None  # further properties that they have
    otherwise: bool = False  # what such runs have is null in all others


IF_COMPLETED = Rule(
    "A completed run has no failure and every figure that does not depend on the machine.",
    {"status": {"const": COMPLETED}},
)
IF_ONE_ENGINE = Rule(
    "A completed run of one engine has its rates.",
    {"status": {"const": COMPLETED}, "engine_reason": {"type": "null"}},
)
IF_EVALUATED = Rule(
    "A completed run of pretrained weights was evaluated.",
    {"status": {"const": COMPLETED}, "pretrained": {"const": True}},
)
IF_FAILED = Rule("A failed run says where.", {"status": {"enum": [OOM, DIVERGED]}})
IF_DIVERGED = Rule(
    "A diverged run says at which step; an oom run has no such step.",
    {"status": {"const": DIVERGED}},
    otherwise=True,
)
IF_RANDOM = Rule("Random weights have no metric.", {"pretrained": {"const": False}})
IF_ON_CPU = Rule("A CPU run has no figure of a GPU.", {"device": {"const": "cpu"}}, {"engine": {"const": "eager"}})
IF_COMPLETED_ON_GPU = Rule(
    "A completed GPU run has the allocator's peaks of every phase but the probe.",
    {"device": {"const": "cuda"}, "status": {"const": COMPLETED}},
)
IF_PROBED = Rule(
    "A completed run that was probed has what the probe took.",
    {"status": {"const": COMPLETED}, "probe_s": {"type": "number"}},
)
IF_PROBED_ON_GPU = Rule(
    "On a GPU it has the probe's peaks in the allocator too.",
    {"device": {"const": "cuda"}, "status": {"const": COMPLETED}, "probe_s": {"type": "number"}},
)
IF_GENERATED = Rule(
    "A completed run that generates has what it took and what was written; no other run has.",
    {"status": {"const": COMPLETED}, "max_new_tokens": {"type": "integer"}},
    otherwise=True,
)
IF_GENERATED_ON_GPU = Rule(
    "On a GPU it has the phase's peaks in the allocator too.",
    {"device": {"const": "cuda"}, "status": {"const": COMPLETED}, "max_new_tokens": {"type": "integer"}},
)
IF_CAPTURED = Rule(
    "Captured steps took time to capture, and nothing fell back.",
    {"status": {"const": COMPLETED}, "engine": {"const": "captured"}},
)
RULES = (
    IF_COMPLETED,
    IF_ONE_ENGINE,
    IF_EVALUATED,
    IF_FAILED,
    IF_DIVERGED,
    IF_RANDOM,
    IF_ON_CPU,
    IF_COMPLETED_ON_GPU,
    IF_PROBED,
    IF_PROBED_ON_GPU,
    IF_GENERATED,
    IF_GENERATED_ON_GPU,
    IF_CAPTURED,
)


@dataclass(frozen=True)
class Quantity:
    """A recorded number, text or truth value."""

    name: str
    kind: Kind
    type: Type
    unit: str | None
    about: str  # what it is and how it was taken
    null: str | None = None  # why it can be null, as a sentence, or UNREACHED; None: it never is
    comparable: Comparable = SAME_ENGINE  # where two of them may be averaged and compared
    label: str | None = None  # for readers, with its unit
    note: str | None = None  # what readers must know of it
    better: Literal["high", "low"] | None = None  # of what arms are compared by: an axis of the page
    noise: str | None = None  # the quantity whose noise floor, as a share of the mean, is this one's: of time or energy
    minimum: float | None = 0  # of a number
    maximum: float | None = None
    values: tuple[str, ...] | None = None  # the only ones
    pattern: str | None = None
    has: Rule | None = None  # runs that have a value
    lacks: tuple[Rule, ...] = ()  # runs of which it is null
    recorded: bool = True  # by the run; else tables alone have it

    @property
    def description(self) -> str:
        """What it is, how it was taken and why it can be null."""
        return f"{self.about} {self.null}" if self.null else self.about

    @property
    def numeric(self) -> bool:
        """Whether it is a number."""
        return self.type in ("integer", "number")

    @property
    def averaged(self) -> bool:
        """Whether an arm's row has its mean, standard deviation and count."""
        return self.kind in ("result", "cost") and self.numeric

    def schema(self) -> dict[str, Any]:
        """Its property in a JSON schema."""
        found: dict[str, Any] = {"type": self.type if self.null is None else [self.type, "null"]}
        found["description"] = self.description
        if self.numeric:
            bounds = {"minimum": self.minimum, "maximum": self.maximum}
            found |= {key: bound for key, bound in bounds.items() if bound is not None}
        if self.values is not None:
            found["enum"] = [*self.values, *([] if self.null is None else [None])]
        if self.pattern is not None:
            found["pattern"] = self.pattern
        if self.type == "object":
            found["additionalProperties"] = {"type": "string", "minLength": 1}
        return found


# How a phase is called in a description: while it ran, and at its end.
_DURING = {
    "load": "the load phase",
    "probe": "the probe (eager steps on the batch_size longest training texts)",
    "train": "training (optimizer, data and graphs made ready, then the steps, of all attempts)",
    "evaluate": "evaluation",
    "generate": "decoding of the test split's prompts",
    "save": "saving",
}


def _memory(phase: str, peak: str) -> Quantity:
    """A peak of a phase. That of the probe is the memory that tables and figures show."""
    during, probe = _DURING[phase], phase == "probe"
    end = during.partition(" (")[0]
    label, note, about, null = {
        "peak_allocated": (
            "Peak memory",
            "what CUDA had allocated at its highest (torch.cuda.max_memory_allocated).",
            f"Peak MiB allocated on the GPU during {during}: torch.cuda.max_memory_allocated, reset before.",
            "GPU only. The peak memory of tables and figures on CUDA." if probe else "GPU only.",
        ),
        "peak_reserved": (
            "Peak CUDA reserved",
            "torch.cuda.max_memory_reserved.",
            f"Peak MiB that the caching allocator reserved during {during}: torch.cuda.max_memory_reserved, reset "
            "before.",
            "GPU only.",
        ),
        "process": (
            "NVML process",
            "what NVML counts for this process at the probe's end, CUDA context included.",
            f"MiB that NVML counts for this process, CUDA context included, at the end of {end}, the highest if that "
            "came several times.",
            "GPU only.",
        ),
        "peak_rss": (
            "Peak RSS",
            "the process's highest resident set.",
            f"Peak resident set of the process in MiB (VmHWM, reset before) during {during}. It holds libraries and "
            "freed memory too: arms are not compared by it, though caps of equal memory bound it on a CPU.",
            UNREACHED,
        ),
    }[peak]
    on_gpu = {"probe": IF_PROBED_ON_GPU, "generate": IF_GENERATED_ON_GPU}.get(phase, IF_COMPLETED_ON_GPU)
    return Quantity(
        f"{phase}_{peak}_MiB", "cost", "number", "MiB", about, null,
        comparable=SAME_DEVICE if phase in ("load", "probe", "generate") else SAME_ENGINE,
        label=f"{label}, MiB" if probe else None,
        note=f"{label}: {note}" if probe else None,
        better=LOW if probe and peak != "peak_rss" else None,
        has=on_gpu if peak in ("peak_allocated", "peak_reserved") else None,
        lacks=() if peak == "peak_rss" else (IF_ON_CPU,),
    )  # fmt: skip


def _step(percent: int) -> Quantity:
    median = percent == 50
    return Quantity(
        f"step_p{percent}_ms", "cost", "number", "ms",
        f"{'Median' if median else f'{percent}th percentile of the'} training step in ms (CUDA "
        "events on a GPU read after one synchronise, clock on a CPU), the first 20 of the run dropped.",
        "Null with fewer than 40 steps.",
        label=f"Step p{percent}, ms", better=LOW if median else None,
        noise=None if percent == 99 else f"step_p{percent}_ms",
    )  # fmt: skip


def _probe_step(percent: int) -> Quantity:
    median = percent == 50
    return Quantity(
        f"probe_step_p{percent}_ms", "cost", "number", "ms",
        f"{'Median' if median else f'{percent}th percentile'} of 30 eager steps on the probe's batch, or of "
        f"10 where these take more than 2 s, in ms (CUDA events){', after 5 that are dropped' if median else ''}.",
        "GPU only: on a CPU training itself is eager.",
        comparable=SAME_DEVICE, label=f"Eager probe p{percent}, ms", lacks=(IF_ON_CPU,),
    )  # fmt: skip


# When the parts of memory are measured.
_AFTER = ("loading", "the first backward pass", "the first optimizer step", "the forward pass on the probe's batch")


def _measured(part: str, when: str) -> Quantity:
    return Quantity(
        f"{part}_measured_MiB", "cost", "number", "MiB",
        f"MiB asked of the allocator that are in use after {when} and were not before.", "GPU only.",
        comparable=SAME_DEVICE, label=f"{part.capitalize()} measured, MiB", minimum=None, lacks=(IF_ON_CPU,),
    )  # fmt: skip


# In the order of summary.json. Tables have what names a run first.
QUANTITIES = (
    Quantity("status", "identity", "string", None,
        "How the run ended. oom (out of memory) and diverged (loss not finite) are results; what they did not reach "
        "is null.", values=STATUS),
    Quantity("failed_phase", "bookkeeping", "string", None,
        "Phase in which an oom or diverged run ended; train also stands for making ready what it needs and for "
        "saving and loading the state.", "Null: the run completed.", values=PHASES, has=IF_FAILED,
        lacks=(IF_COMPLETED,)),
    Quantity("oom_bytes", "bookkeeping", "integer", "B",
        "Bytes that the refused allocation asked for, from the allocator's message.",
        "Null: not oom, or the message does not say.", lacks=(IF_COMPLETED, IF_DIVERGED)),
    Quantity("diverged_step", "bookkeeping", "integer", None,
        "Optimizer step, from 1, whose loss was not finite.", "Null: not diverged.", minimum=1, has=IF_DIVERGED,
        lacks=(IF_COMPLETED,)),
    Quantity("dataset", "identity", "string", None, "Name of the data set in the config."),
    Quantity("model", "identity", "string", None, "Name of the model in the config."),
    Quantity("method", "identity", "string", None, "Name of the method in the config."),
    Quantity("arm", "identity", "string", None, "Method, and rank where it has one."),
    Quantity("rank", "identity", "integer", None, "Rank of the adapter.", UNREACHED, minimum=1),
    Quantity("seed", "identity", "integer", None, "Decides head, adapter, batch order and dropout."),
    Quantity("task", "setting", "string", None, "Kind of task."),
    Quantity("metric", "setting", "string", None, "The reported metric."),
    Quantity("positive_class", "setting", "string", None,
        "The class that f1 is of, the second in the order of the classes: the one that positive_class names in the "
        "config, or else that of the data.",
        "Null: several classes, of which f1 is the macro average, or a regression."),
    Quantity("pretrained", "setting", "boolean", None,
        "false: random weights (source: random), for speed and memory only; the metrics are null."),
    Quantity("metric_value", "result", "number", None,
        "The reported metric on the test split after the last step.", UNREACHED, comparable=ANYWHERE, label="Metric",
        better=HIGH, lacks=(IF_RANDOM,)),
    Quantity("prediction_spread", "result", "number", None,
        "Standard deviation of the predictions over that of the labels, on the test split; 0: every prediction is "
        "the same.", "Null: no regression.", comparable=ANYWHERE),
    Quantity("test_loss", "result", "number", None,
        "Mean cross-entropy over the test split, or mean squared error for regression.", UNREACHED,
        comparable=ANYWHERE, label="Loss on the test split", better=LOW, has=IF_EVALUATED),
    Quantity("heldout_metric_value", "result", "number", None,
        "The reported metric on the heldout split, which is evaluated once, after the last step.",
        "Null: there is no such split.", comparable=ANYWHERE, label="Metric (heldout)", better=HIGH,
        lacks=(IF_RANDOM,)),
    Quantity("forgetting_loss_before", "result", "number", "nats/token",
        "Loss per token on the general text before the first step, of the model as training starts from it.",
        NO_GENERAL, comparable=ANYWHERE, lacks=(IF_RANDOM,)),
    Quantity("forgetting_loss_after", "result", "number", "nats/token",
        "The same after the last step.", NO_GENERAL, comparable=ANYWHERE, lacks=(IF_RANDOM,)),
    Quantity("forgetting", "result", "number", "nats/token",
        "forgetting_loss_after - forgetting_loss_before: what training lost on the general text.", NO_GENERAL,
        comparable=ANYWHERE, label="Forgetting, nats/token", better=LOW, minimum=None, lacks=(IF_RANDOM,)),
    Quantity("forgetting_loss_original", "result", "number", "nats/token",
        "The same loss of the model that was quantised, in the arm's `dtype`, without an adapter.",
        NOT_QUANTISED, comparable=ANYWHERE, lacks=(IF_RANDOM,)),
    Quantity("forgetting_vs_original", "result", "number", "nats/token",
        "forgetting_loss_after - forgetting_loss_original: what quantisation and training lost together.",
        NOT_QUANTISED, comparable=ANYWHERE, minimum=None, lacks=(IF_RANDOM,)),
    Quantity("ended_share", "result", "number", None,
        "Share of the answers to the test split's prompts that the model ended itself; the others were cut at "
        "max_new_tokens.", NOT_GENERATED, comparable=ANYWHERE, maximum=1, has=IF_GENERATED),
    Quantity("answer_tokens", "result", "number", "tokens",
        "Mean length of these answers, the token that ends them left out.", NOT_GENERATED, comparable=ANYWHERE,
        has=IF_GENERATED),
    Quantity("learning_rate", "setting", "number", None, "Peak learning rate, after the warm-up."),
    Quantity("tuned_as", "setting", "string", None,
        "Arm in whose tuning the learning rate was found.", "Null: the config gives it."),
    Quantity("epochs", "result", "number", None,
        "Passes over the training split that were run.", UNREACHED, comparable=ANYWHERE, has=IF_COMPLETED),
    Quantity("steps", "result", "integer", None,
        "Optimizer steps that were run.", UNREACHED, comparable=ANYWHERE, has=IF_COMPLETED),
    Quantity("skipped_steps", "result", "integer", None,
        "Steps of those that changed no weight, because gradients of the scaled loss overflowed in fp16.",
        "Null: precision is not fp16.", comparable=ANYWHERE),
    Quantity("stopped_early", "result", "boolean", None,
        "Early stopping ended the run, by the validation split.", UNREACHED, has=IF_COMPLETED),
    Quantity("batch_size", "setting", "integer", None, "Rows an optimizer step.", minimum=1),
    Quantity("gradient_accumulation_steps", "setting", "integer", None, "Parts a batch was computed in.", minimum=1),
    Quantity("gradient_checkpointing", "setting", "boolean", None, "Activations were recomputed in the backward pass."),
    Quantity("precision", "setting", "string", None,
        "fp32, or autocast of bf16, or of fp16 with a scaled loss; over fp32 weights but for those of dtype.",
        values=("fp32", "bf16", "fp16")),
    Quantity("dtype", "setting", "string", None,
        "Precision that the base weights are loaded in where they are not quantised; in full fine-tuning they are "
        "trained in it, gradients and moments too. Adapter and head are float32. What frozen linear layers are then "
        "held in is frozen_linear_dtype.", values=("float32", "bfloat16")),
    Quantity("optimizer", "setting", "string", None,
        "AdamW: torch's in the dtype of the weights, or bitsandbytes' with its moments in 8 bits, on pages of managed "
        "memory too.", values=("adamw", "adamw_8bit", "paged_adamw_8bit")),
    Quantity("frozen_linear_dtype", "setting", "string", None,
        "What the frozen linear layers (most of them, should they differ) are held in: nf4 or fp4 where they are "
        "quantised; bfloat16 where dtype says so; what precision computes in where that changes no bit of what the "
        "longest training text gives; else float32. weights_MiB is of that.", "Null: no linear layer is frozen.",
        values=("float32", "bfloat16", "float16", "nf4", "fp4")),
    Quantity("engine", "setting", "string", None,
        "What ran the training steps: captured (CUDA graphs) or eager.", values=("captured", "eager")),
    Quantity("engine_reason", "setting", "string", None,
        "Why a run that asked for captured steps went on eagerly; where it did after some captured ones, what steps "
        "of two engines have no common figure of is null.", "Null: it ran as asked.", lacks=(IF_CAPTURED,)),
    Quantity("compile", "setting", "boolean", None, "The training steps went through torch.compile."),
    Quantity("max_new_tokens", "setting", "integer", None,
        "Tokens after which an answer was cut.", NOT_GENERATED, minimum=1),
    Quantity("generate_batch_size", "setting", "integer", None, "Prompts decoded at once.", NOT_GENERATED, minimum=1),
    Quantity("generate_engine", "setting", "string", None,
        "What took the decoding steps: captured (CUDA graphs), eager, or generate of Transformers, where the model "
        "keeps more than keys and values.", NOT_GENERATED, values=("captured", "eager", "generate"), has=IF_GENERATED),
    Quantity("generate_engine_reason", "setting", "string", None,
        "Why it was not the engine that training was asked for.", "Null: it was, or nothing was generated."),
    Quantity("gpus", "setting", "integer", None,
        "GPUs of one node that shared the run, each with a process of its own; on a CPU such processes. Peaks are the "
        "highest of any of them, a step lasts as long as that of the slowest, energy and idle power are sums.",
        minimum=1),
    Quantity("parallel", "setting", "string", None,
        "How several GPUs shared the run. data: each has the whole model and computes its rows of every batch. "
        "sharded: each also holds a part of every weight alone, and layers are put together as they compute.",
        "Null: it had one.", values=("data", "sharded")),
    Quantity("device", "setting", "string", None, "Where the run was.", values=("cpu", "cuda")),
    Quantity("device_name", "setting", "string", None, "Model name of the GPU or processor."),
    Quantity("gpu_uuid", "setting", "string", None,
        "UUID of the GPU (or MIG slice), by which NVML found it.", "GPU only.", lacks=(IF_ON_CPU,)),
    Quantity("shared_gpu", "setting", "boolean", None,
        "Another process was on the GPU: times, power and energy are not this run's alone.", "GPU only.",
        lacks=(IF_ON_CPU,)),
    Quantity("mixed_gpus", "setting", "boolean", None,
        "The steps of this run were done by attempts on GPUs of different models: its times, power and energy are "
        "those of neither."),
    Quantity("stood_still_s", "setting", "number", "s",
        "Seconds for which the process was suspended (SIGSTOP, SLURM) while it trained, of all attempts, as far as "
        "they were more than 10 s at a time: in its times, mean power and energy."),
    Quantity("train_rows", "setting", "integer", None, "Rows of the training split."),
    Quantity("test_rows", "setting", "integer", None, "Rows of the test split."),
    Quantity("heldout_rows", "setting", "integer", None,
        "Rows of the heldout split, on which arms are compared too.", "Null: there is none."),
    Quantity("truncated_train", "setting", "integer", None, "Training texts longer than max_length, cut.", UNREACHED),
    Quantity("truncated_test", "setting", "integer", None, "Test texts longer than max_length, cut.", UNREACHED),
    Quantity("constant_prediction", "result", "boolean", None,
        "Whether every test row got the same prediction: the same class, or the same value.", UNREACHED),
    Quantity("backbone_parameters", "setting", "integer", None,
        "Weights of the base model without its head, 4-bit weights unpacked.", UNREACHED, has=IF_COMPLETED),
    Quantity("head_parameters", "setting", "integer", None,
        "Weights of the classification head, trained in every arm.", UNREACHED, has=IF_COMPLETED),
    Quantity("adapter_parameters", "setting", "integer", None,
        "Trained weights that the PEFT method adds.", UNREACHED, has=IF_COMPLETED),
    Quantity("total_parameters", "setting", "integer", None, "backbone + head + adapter.", UNREACHED, has=IF_COMPLETED),
    Quantity("trainable_parameters", "setting", "integer", None,
        "Weights that training changes.", UNREACHED, label="Trainable parameters", better=LOW, has=IF_COMPLETED),
    Quantity("trainable_percent", "setting", "number", "%",
        "100 × trainable / total.", UNREACHED, maximum=100, has=IF_COMPLETED),
    Quantity("startup_s", "cost", "number", "s",
        "Seconds from the start of the process to its first run: interpreter, imports and CUDA's context, not the "
        "wait for another job's GPU or for another writer of the run.", "Paid once per job, null for its later seeds.",
        comparable=SAME_DEVICE),
    Quantity("load_s", "cost", "number", "s",
        "Seconds of loading tokens and weights, quantisation, adapter, the move to the device, and of the forward "
        "passes that choose what frozen layers are held in and refuse models that read padding; of all attempts.",
        UNREACHED, comparable=SAME_DEVICE, has=IF_COMPLETED),
    Quantity("mask_s", "cost", "number", "s",
        "Seconds of choosing the form of the attention mask, on a GPU.", "Null: a CPU.", comparable=SAME_DEVICE,
        lacks=(IF_ON_CPU,)),
    Quantity("probe_s", "cost", "number", "s",
        "Seconds of the probe: eager steps on the batch_size longest training texts, then weights and states put "
        "back.", "Null: a trial of tuning.", comparable=SAME_DEVICE),
    Quantity("prepare_s", "cost", "number", "s",
        "Seconds of making ready for training, of all attempts: optimizer, data on the device, and compilation and "
        "capture, which have their own keys too.", UNREACHED, has=IF_COMPLETED),
    Quantity("train_s", "cost", "number", "s",
        "Seconds of training: the sum of the step times, of all attempts. Evaluation, capture and compilation are "
        "not in it.", UNREACHED, label="Training time, s", better=LOW, noise="train_s", has=IF_COMPLETED),
    Quantity("train_gpu_s", "cost", "number", "s",
        "gpus × train_s: seconds of GPUs that the training steps kept.", "GPU only.", label="GPU time of training, s",
        better=LOW, noise="train_s", lacks=(IF_ON_CPU,)),
    Quantity("capture_s", "cost", "number", "s",
        "Seconds of capturing the step in CUDA graphs, warm-up included; of a run that fell back on its way too.",
        "Null: eager.", has=IF_CAPTURED, lacks=(IF_ON_CPU,)),
    Quantity("compile_s", "cost", "number", "s",
        "Seconds of torch.compile.", "Paid once per job, null for its later seeds. Null too: not compiled."),
    Quantity("evaluate_s", "cost", "number", "s", "Seconds of all evaluations.", UNREACHED, has=IF_COMPLETED),
    Quantity("generate_s", "cost", "number", "s",
        "Seconds of decoding the test split's prompts, capture included; scoring is in no phase.", NOT_GENERATED,
        comparable=SAME_DEVICE, label="Decoding, s", better=LOW, has=IF_GENERATED),
    Quantity("generate_tokens_per_s", "cost", "number", "tokens/s",
        "Tokens of answers, those that end them included, over generate_s.", NOT_GENERATED, comparable=SAME_DEVICE,
        label="Decoded tokens/s", better=HIGH, has=IF_GENERATED),
    Quantity("generate_energy_J", "cost", "number", "J",
        "Joules of the GPU over generate_s, as energy_J.", "Null: nothing was generated, or no counter.",
        comparable=SAME_DEVICE, lacks=(IF_ON_CPU,)),
    Quantity("forgetting_s", "cost", "number", "s",
        "Seconds of taking the loss on the general text, the load of the model that was quantised among them, of all "
        "attempts; in no other phase's time, memory or energy.", NO_GENERAL, comparable=SAME_DEVICE),
    Quantity("save_s", "cost", "number", "s",
        "Seconds of writing the adapter or checkpoint (a trial of tuning keeps none) and the predictions.", UNREACHED,
        has=IF_COMPLETED),
    Quantity("state_s", "cost", "number", "s",
        "Seconds of saving and loading the state that a resume needs, of all attempts.", UNREACHED, has=IF_COMPLETED),
    *(_step(percent) for percent in PERCENTILES),
    *(_probe_step(percent) for percent in PERCENTILES),
    Quantity("samples_per_s", "cost", "number", "rows/s",
        "Training rows over train_s.", UNREACHED, label="Samples/s", better=HIGH, noise="samples_per_s",
        has=IF_ONE_ENGINE),
    Quantity("tokens_per_s", "cost", "number", "tokens/s",
        "Training tokens, padding not counted, over train_s.", UNREACHED, label="Tokens/s", better=HIGH,
        noise="samples_per_s", has=IF_ONE_ENGINE),
    *(_memory(phase, peak) for phase in PHASES for peak in PEAKS),
    Quantity("held_before_MiB", "cost", "number", "MiB",
        "MiB in use on the GPU, as asked of the allocator, before loading: what an earlier seed left.", "GPU only.",
        comparable=SAME_DEVICE, lacks=(IF_ON_CPU,)),
    Quantity("weights_MiB", "cost", "number", "MiB",
        "MiB of all weights as stored, from tensor sizes: 4-bit weights packed, with their quantisation constants.",
        UNREACHED, comparable=ANYWHERE, label="Weights, MiB", better=LOW, has=IF_COMPLETED),
    Quantity("gradients_MiB", "cost", "number", "MiB",
        "MiB of the gradients of all trained weights, from tensor sizes.", UNREACHED, comparable=ANYWHERE,
        label="Gradients, MiB", has=IF_COMPLETED),
    Quantity("optimizer_MiB", "cost", "number", "MiB",
        "MiB of the optimizer's state, from tensor sizes. That of paged_adamw_8bit is in managed memory and no peak.",
        UNREACHED, comparable=ANYWHERE, label="Optimizer, MiB", has=IF_COMPLETED),
    Quantity("activations_MiB", "cost", "number", "MiB",
        "MiB saved for the backward pass on the probe's batch (one part of it where gradients are accumulated), from "
        "tensor sizes; weights not counted.", "Null: a trial of tuning.", comparable=ANYWHERE, label="Activations, MiB",
        has=IF_PROBED),
    Quantity("tensors_MiB", "cost", "number", "MiB",
        "weights_MiB + gradients_MiB + optimizer_MiB + activations_MiB: from tensor sizes, the same on every machine. "
        "The memory of tables and figures on a CPU.", UNREACHED, comparable=ANYWHERE,
        label="Memory of tensors, MiB", better=LOW, recorded=False,
        note="Memory of tensors: the sizes of weights, gradients, optimizer's state and activations, added; what a "
        "process holds besides is not in them."),
    *(_measured(part, when) for part, when in zip(PARTS, _AFTER, strict=True)),
    Quantity("data_MiB", "cost", "number", "MiB",
        "MiB of the tokenised training split held on the device.", UNREACHED, comparable=SAME_DEVICE),
    Quantity("energy_J", "cost", "number", "J",
        "Joules of the GPU over the training phase: differences of NVML's total-energy counter around the stretches "
        "of training steps.", "GPU only; null without a counter and on MIG.", label="Energy of a run, J", better=LOW,
        noise="energy_J_per_sample"),
    Quantity("energy_J_per_sample", "cost", "number", "J/row",
        "energy_J over the training rows of that phase, in joules a row.", UNREACHED, label="Energy, J/sample",
        better=LOW, noise="energy_J_per_sample"),
    Quantity("mean_power_W", "cost", "number", "W", "energy_J over energy_window_s, in watts.", UNREACHED),
    Quantity("idle_power_W", "cost", "number", "W",
        "Watts of the GPU before the job used it: the same counter from the start of the process to its CUDA context.",
        "GPU only; null where another process was on it or the job waited for it.", comparable=SAME_DEVICE),
    Quantity("energy_window_s", "cost", "number", "s",
        "Seconds between the readings of the energy counter, of all stretches of training steps and attempts.",
        UNREACHED),
    Quantity("energy_window_short", "setting", "boolean", None,
        "energy_window_s is under 30 s: the counter moves every 0.1 s and power takes seconds to settle.", UNREACHED),
    Quantity("attempts", "bookkeeping", "integer", None,
        "Times the run was started, those included that were killed before they saved a state; env.json lists them. "
        "1: not interrupted.", minimum=1),
    Quantity("wall_s", "bookkeeping", "number", "s",
        "Seconds from the start to the end of every attempt (its last sign of life, if it was killed), the wait for "
        "another job's GPU left out. A job's imports are its first run's."),
    Quantity("queue_s", "bookkeeping", "number", "s",
        "Seconds that SLURM could have started the jobs of the attempts and did not, as sacct's Planned; a job's are "
        "its first run's.", "Null outside SLURM."),
    Quantity("fingerprint", "bookkeeping", "string", None,
        "SHA-256 over settings, seed, data, model, code and library versions.", pattern=SHA256),
    Quantity("finished_at", "bookkeeping", "string", None, "UTC, ISO 8601."),
    Quantity("scored_as", "bookkeeping", "string", None,
        "SHA-256 over what scored the answers: code, versions, the data set, and a scorer of the user's own.",
        "Null: nothing was generated, or it is not scored yet.", pattern=SHA256),
    Quantity("differs", "setting", "string", None,
        "What the arm differs in from others or between its seeds.", "Null: nothing.", recorded=False),
    Quantity("null_reasons", "bookkeeping", "object", None, 'Why a key is null; "not reached: …" after a failure.'),
)  # fmt: skip
# Columns of metrics.csv, beside those of the metrics: one row per evaluation of one split.
EVALUATION = (
    Quantity("epoch", "bookkeeping", "number", None, "Passes over the training split so far."),
    Quantity("step", "bookkeeping", "integer", None, "Optimizer steps so far.", minimum=1),
    Quantity("split", "identity", "string", None, "Split that was evaluated.", values=SPLITS),
    Quantity("train_loss", "result", "number", None, "Mean loss of the batches since the last evaluation, dropout on."),
    Quantity("learning_rate", "setting", "number", None, "Learning rate of the last step."),
    Quantity("train_s", "cost", "number", "s", "Sum of the step times so far."),
    Quantity("loss", "result", "number", None, "Mean cross-entropy over the split, or mean squared error."),
)


def with_metrics(metrics: Sequence[Quantity], tasks: Sequence[str]) -> tuple[Quantity, ...]:
    """QUANTITIES with the metrics behind the reported one, which is one of them."""
    lowest = [metric.minimum for metric in metrics if metric.minimum is not None]
    highest = [metric.maximum for metric in metrics if metric.maximum is not None]
    bounds = {
        "minimum": min(lowest) if len(lowest) == len(metrics) else None,
        "maximum": max(highest) if len(highest) == len(metrics) else None,
    }
    of_metrics: dict[str, dict[str, Any]] = {
        "task": {"values": tuple(tasks)},
        "metric": {"values": tuple(metric.name for metric in metrics)},
        "metric_value": bounds,
        "heldout_metric_value": bounds,
    }
    found: list[Quantity] = []
    for quantity in QUANTITIES:
        found.append(replace(quantity, **of_metrics.get(quantity.name, {})))
        if quantity.name == "metric_value":
            found += metrics
    return tuple(found)

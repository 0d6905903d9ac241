"""Finished runs, read through one door, and the facts in which the contract wants them alike. Cheap to import.

Nothing counts that is not as the run wrote it: whoever reads a run asks `read_summary` for its summary, and `verified`
before it reads a file beside it.
"""

import csv
import functools
import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import FILES, REMEDY, TENSORS, weight_files
from peft_tradeoffs.core.layout import json_schema
from peft_tradeoffs.core.quantities import COMPLETED, LIBRARIES
from peft_tradeoffs.runs.plan import read_found
from peft_tradeoffs.tasks.metrics import metric_called
from peft_tradeoffs.tasks.shown import metric_name

# Reading a run --------------------------------------------------------------------------------------------------------

PLACE = ("dataset", "model", "arm")  # the folders above that of the seed
TYPES: dict[str, tuple[type, ...]] = {
    **{"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "object": (dict,)},
    "null": (type(None),),
}
LARGEST = 1e100  # of a number: its square can still be added up
ENV, METRICS = "env.json", "metrics.csv"
# Of files that Transformers or PEFT may read from a folder of weights.
LOADED = {
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"),
    *(".json", ".txt", ".model", ".py", ".jinja"),
}
LINE_ENDS = "its line ends were converted (git does that: set core.autocrlf false and check it out again)"


def read_summary(path: Path, place: bool = True) -> dict[str, Any]:
    """The summary of a finished run, as the run sealed it; with `place`, one that lies in the folder of its own run.

    Raises InputError for one that is damaged, edited, of another run or of another version; FileNotFoundError without.
    """
    summary = files.read_json(path, REMEDY, unique=True)
    try:
        files.check_summary(summary, path)
    except RecursionError:
        raise InputError(f"{path}: not a run's summary (nested too deep); {REMEDY}") from None
    for key, (types, allowed, low, high) in _keys().items():
        value = summary.get(key, ...)
        if value is ...:
            raise InputError(f"{path}: not a run's summary of this version, no {key}; {REMEDY}")
        right = type(value) in types and (allowed is None or value in allowed)
        if right and type(value) in (int, float):
            right = low <= value <= high
        if not right:
            raise InputError(f"{path}: {key} cannot be {files.shown(value)}; {REMEDY}")
    for key, value in summary.items():
        if type(value) is int and abs(value) >= 2**63:  # what no column of whole numbers holds
            raise InputError(f"{path}: {key} cannot be {files.shown(value)}; {REMEDY}")
    if any(not isinstance(reason, str) for reason in summary["null_reasons"].values()):
        raise InputError(f"{path}: null_reasons holds more than texts; {REMEDY}")
    own = (*(summary[axis] for axis in PLACE), f"seed{summary['seed']}")
    parts = Path(*own).parts  # a name with a slash is more than one folder
    if place and path.absolute().parts[-1 - len(parts) : -1] != parts:
        raise InputError(f"{path}: of another run, {'/'.join(own)}; {REMEDY}")
    return summary


def verified(folder: Path, *names: str, place: bool = True) -> dict[str, Any]:
    """The summary of the finished run in `folder`, whose files `names` are as it published them; InputError if not.

    `place` as of `read_summary`.
    """
    try:
        summary = read_summary(folder / "summary.json", place=place)
    except FileNotFoundError:
        raise InputError(f"{folder / 'summary.json'}: no such summary; run that arm again") from None
    check_files(folder, summary, names)
    return summary


def has(summary: dict[str, Any], name: str) -> bool:
    """Whether the run published a file of this name."""
    return name in summary[files.FILES]


def read_env(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The env.json of the finished run in `folder`; InputError unless it is what the run published."""
    check_files(folder, summary, [ENV])
    env = files.read_object(folder / ENV, {"settings": (dict,)}, "a run's environment", REMEDY)
    if env.get("fingerprint") != summary["fingerprint"]:
        raise InputError(f"{folder / ENV}: of another run than summary.json beside it; {REMEDY}")
    return env


def read_evaluations(folder: Path, summary: dict[str, Any]) -> list[dict[str, str]]:
    """The rows of the metrics.csv of the finished run in `folder`; InputError unless it is as the run published it."""
    check_files(folder, summary, [METRICS])
    with (folder / METRICS).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check_files(folder: Path, summary: dict[str, Any], names: Iterable[str]) -> None:
    """Raise InputError, one line per file, for those of `names` that are missing or not as the run published them."""
    lines = []
    for name in names:
        path = folder / name
        try:
            files.check_files(folder, summary, [name])
        except InputError as error:
            why = _converted(path, summary[files.FILES].get(name))
            lines.append(f"{path}: {why}" if why else str(error))
        except OSError as error:
            lines.append(f"{path}: cannot be read ({error.strerror}); give yourself the right to, or {REMEDY}")
    if lines:
        raise InputError("\n".join(lines))


def check_all(folder: Path, summary: dict[str, Any], keep_weights: bool = True) -> None:
    """As `check_files` for all that the run published, and for files beside its weights that it did not.

    Without `keep_weights` it may have no weights any more.
    """
    problems = []
    try:
        check_files(folder, summary, files.expected(folder, summary, keep_weights))
    except InputError as error:
        problems.append(str(error))
    problems += [f"{path}: the run did not write it; move it away" for path in strangers(folder, summary)]
    if problems:
        raise InputError("\n".join(problems))


def has_weights(folder: Path, summary: dict[str, Any]) -> bool:
    """Whether the run published weights that are all still there."""
    names = files.weight_files(summary)
    return bool(names) and all((folder / name).is_file() for name in names)


def strangers(folder: Path, summary: dict[str, Any]) -> list[Path]:
    """Files among a run's weights that it did not publish and a loader might take for the run's, by their suffix.

    Hidden ones, which a file system or a Finder makes, and an editor's copies are none.
    """
    found = sorted(path for name in files.FOLDERS for path in (folder / name).rglob("*") if not path.is_dir())
    names = {path: path.relative_to(folder) for path in found if path.suffix.lower() in LOADED}
    hidden = {path for path, name in names.items() if any(part.startswith(".") for part in name.parts)}
    return [path for path in names if path not in hidden and names[path].as_posix() not in summary[files.FILES]]


def _converted(path: Path, sha256: str | None) -> str | None:
    """What to say of a text file that differs from the published one in its line ends alone."""
    if path.suffix == ".safetensors" or not path.is_file():
        return None
    try:
        text = path.read_bytes().replace(b"\r\n", b"\n")
    except OSError:
        return None
    both = (text, text.replace(b"\n", b"\r\n"))
    return LINE_ENDS if sha256 in [hashlib.sha256(content).hexdigest() for content in both] else None


@functools.cache
def _keys() -> dict[str, tuple[tuple[type, ...], list[Any] | None, float, float]]:
    """By required key of a summary: types, the only values, the lowest and the highest number."""
    schema = json_schema("summary")
    found = {}
    for key in schema["required"]:
        about = schema["properties"][key]
        kinds = about.get("type", list(TYPES))
        kinds = kinds if isinstance(kinds, list) else [kinds]
        types = tuple(kind for name in kinds for kind in TYPES[name])
        low, high = about.get("minimum", -LARGEST), about.get("maximum", LARGEST)
        found[key] = (types, about.get("enum"), max(low, -LARGEST), min(high, LARGEST))
    return found


def weights_sha256(summary: dict[str, Any]) -> str | None:
    """SHA-256 over the weights that the run saved, adapter or checkpoint, by its summary; None if it saved none.

    Whether they still are so, `finished.check_files` says.
    """
    names = [name for name in weight_files(summary) if name.endswith(TENSORS)]
    if not names:
        return None
    lines = (f"{PurePosixPath(name).name} {summary[FILES][name]}\n" for name in names)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def predictions_sha256(summary: dict[str, Any]) -> str | None:
    """SHA-256 of the run's predictions.csv, whose digits tell any two logits apart; None if there is none."""
    return summary[FILES].get(files.PREDICTIONS)


# The facts of the contract: what recordings must say alike in every arm -----------------------------------------------

NOT_RECORDED = "not recorded"
NOT_REACHED = object()  # of a run that ended before it: no difference
AS_SET = "delete the runs made with the other setting and run again"
SAME_MACHINE = "delete the runs made on the other and run again"
SAME_VERSION = "delete the runs of the older version and run again"


@dataclass(frozen=True)
class Recorded:
    """What a run wrote down: env.json, summary.json and metrics.csv."""

    env: dict[str, Any]
    summary: dict[str, Any]
    evaluations: list[dict[str, str]]

    @property
    def settings(self) -> dict[str, Any]:
        """The resolved settings."""
        return self.env["settings"]

    @property
    def completed(self) -> bool:
        """Whether it came to its end."""
        return self.summary.get("status") == COMPLETED

    @property
    def trains_all(self) -> bool:
        """Whether it is full fine-tuning."""
        return self.settings["peft"] is None


@dataclass(frozen=True)
class Fact:
    """Something that arms must have alike."""

    name: str
    about: str
    read: Callable[[Recorded], Any]  # a JSON value, or NOT_REACHED
    remedy: str = AS_SET
    required: Any = None  # the only value that is right, whatever the others have
    of_all: bool = False  # no method may have it otherwise: what is compared would not be one thing
    key: str | None = None  # of a method in the config, where the config shows it before anything runs
    detail: Callable[[Recorded], str | None] = lambda run: None  # for the reader, not compared

    @property
    def may_vary(self) -> bool:
        """Whether a method's `varies` can declare it."""
        return self.required is None and not self.of_all


def read_run(folder: Path, tunings: Path, keep_weights: bool = True) -> Recorded | None:
    """What the run in `folder` recorded; None without a summary.

    The settings get `tuning`, what tune.py wrote to the folder `tunings` for the arm in whose tuning the learning rate
    was found: as it is now, since a grid that has grown leaves a run alone whose rate is still the best.

    `keep_weights`: whether its weights must be there. Raises InputError, one line per file, for those that are missing,
    not as the run published them, or of another run.
    """
    try:
        summary = read_summary(folder / "summary.json")
    except FileNotFoundError:
        return None
    check_all(folder, summary, keep_weights)
    env = read_env(folder, summary)
    if "tuned_as" in env["settings"]:
        arm = env["settings"]["tuned_as"]
        try:
            env["settings"]["tuning"] = arm and read_found(tunings / f"{arm}.json")
        except FileNotFoundError as error:
            raise InputError(f"{error.filename}: missing, though {folder} took its rate from it; run again") from None
    return Recorded(env, summary, read_evaluations(folder, summary))


def setting(key: str) -> Callable[[Recorded], Any]:
    """Reads a setting."""
    return lambda run: run.settings.get(key, NOT_RECORDED)


def settings(*keys: str) -> Callable[[Recorded], Any]:
    """Reads several settings that are one fact."""
    return lambda run: {key: run.settings.get(key, NOT_RECORDED) for key in keys}


def of_whole_run(key: str) -> Callable[[Recorded], Any]:
    """Reads a key of the summary that is a run's own result where it failed or early stopping ended it."""

    def read(run: Recorded) -> Any:
        whole = run.completed and not run.summary.get("stopped_early")
        return run.summary.get(key, NOT_RECORDED) if whole else NOT_REACHED

    return read


def recorded(*path: str) -> Callable[[Recorded], Any]:
    """Reads a value of env.json."""

    def read(run: Recorded) -> Any:
        value: Any = run.env
        for key in path:
            if not isinstance(value, dict) or key not in value:
                return NOT_RECORDED
            value = value[key]
        return value

    return read


def of_gpu(*path: str) -> Callable[[Recorded], Any]:
    """Reads a value of env.json that a run on a CPU does not have: null there."""
    read = recorded(*path)
    return lambda run: None if run.settings.get("device") == "cpu" else read(run)


def _device_name(run: Recorded) -> Any:
    if run.summary.get("mixed_gpus"):  # of its attempts, one of which may have been in vain
        names = {attempt["gpu_name"] for attempt in run.env.get("attempts", []) if attempt.get("gpu_name")}
        return " and ".join(sorted(names)) or "GPUs of two models"
    return run.summary.get("device_name", NOT_RECORDED)


def _data(run: Recorded) -> dict[str, Any]:
    keys = ("train_rows", "test_rows", "truncated_train", "truncated_test")
    rows = {key: run.summary.get(key, NOT_RECORDED) for key in keys}
    return {"sha256": run.env.get("data_sha256", NOT_RECORDED), **rows}


def _head(run: Recorded) -> Any:
    """Modules, size and dtypes; older recordings say no dtypes."""
    size, head = run.summary.get("head_parameters", NOT_RECORDED), run.env.get("head") or {}
    if size is None:
        return NOT_REACHED
    modules = head.get("modules", (run.env.get("model") or {}).get("head", NOT_RECORDED))
    return {"modules": modules, "parameters": size, "dtypes": head.get("dtypes", NOT_RECORDED)}


def _gpus(run: Recorded) -> Any:
    """How many GPUs a run has; of several also how they share it. Runs of earlier versions had one."""
    gpus = run.settings.get("gpus", 1)
    if gpus == 1:
        return gpus
    summed_in = run.env.get("reduction_dtype")
    return f"{gpus} ({run.settings['parallel']}{f', gradients summed in {summed_in}' if summed_in else ''})"


def _nccl(run: Recorded) -> str | None:
    version = run.env.get("nccl_version")
    return f"NCCL {version}" if version and run.settings.get("gpus", 1) > 1 else None


def _trained_head(run: Recorded) -> Any:
    """all, or how many are; in older recordings from the counts of the trained parameters."""
    size, head = run.summary.get("head_parameters", NOT_RECORDED), run.env.get("head")
    if size is None:
        return NOT_REACHED
    if size == NOT_RECORDED:
        return size
    if head:
        trained = head["trained_parameters"]
    else:
        trained = min(size, run.summary["trainable_parameters"] - run.summary["adapter_parameters"])
    return "all" if trained == size else f"{trained} of {size} parameters"


def _reported_step(run: Recorded) -> Any:
    """the last, or the step of the evaluation that the summary reports."""
    if not run.completed:
        return NOT_REACHED
    rows, metric = [row for row in run.evaluations if row["split"] == "test"], run.summary["metric"]
    steps, value = run.summary["steps"], run.summary["metric_value"]
    if not rows:
        return NOT_RECORDED
    if int(rows[-1]["step"]) != steps:
        return f"last evaluated at step {rows[-1]['step']} of {steps}"
    if run.settings.get("generate") and not rows[-1][metric]:  # of answers, which are given after the last step alone
        metric, value = "loss", run.summary["test_loss"]
    of_value = [row["step"] for row in reversed(rows) if _is(row[metric], value)]
    if value is None or (of_value and int(of_value[0]) == steps):  # null too with random weights
        return "the last"
    return f"step {of_value[0]} of {steps}" if of_value else "that of no evaluation"


def _scoring(run: Recorded) -> Any:
    """None of runs that answer nothing."""
    if not run.settings.get("generate"):
        return None
    return run.summary.get("scored_as") if run.completed else NOT_REACHED


def _is(text: str, value: float | None) -> bool:
    return bool(text) and value is not None and math.isclose(float(text), value, abs_tol=1e-9)


def _engine(run: Recorded) -> Any:
    trained = run.completed or run.summary.get("train_s") is not None
    return run.summary.get("engine", NOT_RECORDED) if trained else NOT_REACHED


def _learning_rate(run: Recorded) -> Any:
    """The rate and the arm that it was tuned for, if any."""
    rate = run.summary.get("learning_rate", run.settings.get("learning_rate"))
    tuning = run.settings.get("tuning")
    return {"rate": rate, "tuned_for": tuning["arm"] if tuning else None}


def _tuning(run: Recorded) -> Any:
    """What all methods must have alike: as many planned rates and retries, on the same budget, seed and dev split."""
    tuning = run.settings.get("tuning", NOT_RECORDED)
    if not isinstance(tuning, dict):
        return tuning
    rates = tuning.get("rates", NOT_RECORDED)
    alike = ("retry", "seed", "epochs", "max_steps", "batch_size", "train_rows", "dev_rows", "data_sha256")
    found = {
        "rates": len(rates) if isinstance(rates, list) else rates,
        **{key: tuning.get(key, NOT_RECORDED) for key in alike},
    }
    best, taken = tuning.get("learning_rate"), run.settings["learning_rate"]
    if best not in (None, taken):  # None: planned
        found = {"taken": f"{taken:g}, not the best, {best:g}", **found}
    then, now = tuning.get("versions", {}), run.env.get("versions", {})
    others = [f"{name} {then[name]}" for name in then if name in now and then[name] != now[name]]
    if tuning.get("code_sha256", run.env.get("code_sha256")) != run.env.get("code_sha256"):
        others.append("other code")
    devices = {trial.get("device_name", NOT_RECORDED) for trial in tuning.get("trials", [])} - {
        run.summary.get("device_name")
    }
    others += sorted(devices)
    return {**found, "tuned_with": ", ".join(others)} if others else found


def _tried(run: Recorded) -> str | None:
    """How many rates were tried in all, where some were added beyond the grid's edge."""
    tuning = run.settings.get("tuning")
    trials = tuning.get("trials", []) if isinstance(tuning, dict) else []
    return f"{len(trials)} tried" if any(trial["added"] for trial in trials) else None


def _peft_fields() -> dict[str, Any]:
    return json_schema("peft")["$defs"]


def _adapter(run: Recorded) -> dict[str, Any] | None:
    """The PEFT settings less rank and alpha; names of modules in alphabetical order. None of full fine-tuning."""
    if (peft := run.settings["peft"]) is None:
        return None
    fields = _peft_fields().get(peft.get("peft_type"), {})
    rest = {key: peft[key] for key in peft if key not in (fields.get("x-rank-field"), fields.get("x-alpha-field"))}
    return {key: sorted(value, key=str) if isinstance(value, list) else value for key, value in rest.items()}


def _alpha_and_rank(run: Recorded) -> tuple[float, int] | None:
    """None of a method that has not both."""
    peft = run.settings["peft"] or {}
    fields = _peft_fields().get(peft.get("peft_type", ""), {})
    alpha, rank = (peft.get(fields.get(f"x-{name}-field")) for name in ("alpha", "rank"))
    return (alpha, rank) if alpha and rank else None


def _scaling(run: Recorded) -> float | None:
    """What an adapter's output is multiplied by."""
    if (found := _alpha_and_rank(run)) is None:
        return None
    alpha, rank = found
    return alpha / math.sqrt(rank) if run.settings["peft"].get("use_rslora") else alpha / rank


def _alpha(run: Recorded) -> str | None:
    found = _alpha_and_rank(run)
    return found and f"alpha {found[0]:g} at rank {found[1]}"


def _commit(run: Recorded) -> str | None:
    git = run.env.get("git") or {}
    if not git.get("commit"):
        return None
    return f"commit {git['commit'][:12]}{', changed' if git.get('dirty') else ''}"


def _of_class(run: Recorded) -> str | None:
    """Of which class the metric is, where it is of one."""
    return metric_name(run.summary) if metric_called(run.settings.get("metric")).of_class else None


_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay", "max_grad_norm")
TUNING = "tuning"
LEARNING_RATE, ADAPTER, SCALING, SEEDS = "learning_rate", "adapter", "scaling", "seeds"  # compared in their own ways

_FACTS = (
    Fact("batch_size", "Rows an optimizer step.", setting("batch_size")),
    Fact(
        "gradient_accumulation_steps",
        "Parts that a batch is computed in.",
        setting("gradient_accumulation_steps"),
    ),
    Fact(
        "gpus",
        "GPUs that share a run, how they do, and what they sum gradients in.",
        _gpus,
        "set it alike",
        key="gpus",
        detail=_nccl,
    ),
    Fact("steps", "Optimizer steps, of runs that early stopping did not end.", of_whole_run("steps")),
    Fact("epochs", "Passes over the training split, of runs that early stopping did not end.", of_whole_run("epochs")),
    Fact("early_stopping", "The rule that ends a run on the validation split.", setting("early_stopping")),
    Fact("max_length", "Tokens after which a text is cut.", setting("max_length")),
    Fact("precision", "What the steps compute in: fp32, or bf16 or fp16 autocast.", setting("precision")),
    Fact(
        "dtype",
        "What base weights are loaded in, and trained in by full fine-tuning.",
        setting("dtype"),
        "set it alike",
        key="dtype",
    ),
    Fact(
        "gradient_checkpointing",
        "Activations are recomputed in the backward pass: less memory, more time.",
        setting("gradient_checkpointing"),
        "set it alike",
        key="gradient_checkpointing",
    ),
    Fact(
        "optimizer",
        "Which AdamW, its settings, and the norm that gradients are clipped at.",
        settings("optimizer", *_ADAM),
    ),
    Fact(
        "schedule",
        "The learning rate's schedule, and the warm-up's share of its steps.",
        settings("lr_scheduler_type", "warmup_ratio"),
    ),
    Fact(
        LEARNING_RATE,
        "Each method's own: full fine-tuning and PEFT need rates that are about ten times apart.",
        _learning_rate,
        "give each method a list of rates to tune, or a rate of its own",
        key="learning_rate",
    ),
    Fact(
        TUNING,
        "How the learning rate was tuned: planned rates, how often ties are tried again, budget, seed and dev split.",
        _tuning,
        "give every method a list of as many rates",
        key="learning_rate",
        detail=_tried,
    ),
    Fact(
        ADAPTER,
        "PEFT's settings but rank and alpha, alike in all arms of one PEFT type.",
        _adapter,
        "set the fields of peft alike",
        key="peft",
    ),
    Fact(
        SCALING,
        "Alpha over rank (with rsLoRA over its square root), alike at every rank and in all methods of one PEFT type.",
        _scaling,
        "leave alpha out, which is twice the rank then",
        key="peft",
        detail=_alpha,
    ),
    Fact("head", "Modules trained in full, their size and dtypes.", _head),
    Fact("trained_head", "How much of the head is trained.", _trained_head, SAME_VERSION, required="all"),
    Fact(
        "model",
        "Checksum of the model's files.",
        recorded("model_sha256"),
        "delete the runs of the other model",
        of_all=True,
    ),
    Fact("data", "Checksum and rows of the tokenised splits.", _data, "delete the runs of the other data", of_all=True),
    Fact("metric", "The reported metric.", setting("metric"), of_all=True, detail=_of_class),
    Fact(
        "decoding",
        "Tokens that answers may have, and prompts decoded at once.",
        lambda run: run.settings.get("generate"),
        of_all=True,
    ),
    Fact(
        "scoring",
        "Checksum of what scored the answers.",
        _scoring,
        "run again, which scores the answers anew without training",
    ),
    Fact(
        "reported_step",
        "The evaluation whose metric is reported; the best of several would be chosen on the test split.",
        _reported_step,
        "delete the run and run it again",
        required="the last",
    ),
    Fact(SEEDS, "The seeds that were run.", lambda run: run.env.get("seed", NOT_RECORDED), "run the missing seeds"),
    Fact("evaluation_batch_size", "Rows an evaluation step.", setting("evaluation_batch_size")),
    Fact(
        "engine",
        "What ran the training steps.",
        _engine,
        "set training.engine: eager for all and run again",
        detail=lambda run: run.summary.get("engine_reason"),
    ),
    Fact("compile", "The training steps went through torch.compile.", setting("compile")),
    Fact("device_name", "Model of the GPU, or of the processor where there was none.", _device_name, SAME_MACHINE),
    Fact("threads", "CPU threads of the training process.", recorded("threads"), SAME_MACHINE),
    Fact(
        "shared_gpu",
        "Another process was on the GPU.",
        lambda run: None if run.settings.get("device") == "cpu" else run.summary.get("shared_gpu", NOT_RECORDED),
        "run it again on a GPU of its own",
    ),
    Fact("driver", "Version of the GPU's driver.", of_gpu("gpu", "driver_version"), SAME_MACHINE),
    Fact("power_limit_W", "Power limit of the GPU.", of_gpu("gpu", "power_limit_W"), SAME_MACHINE),
    Fact("torch_flags", "Torch's switches for TF32 and determinism.", of_gpu("flags"), SAME_VERSION),
    *(Fact(name, f"Version of {name}.", recorded("versions", name), SAME_VERSION) for name in LIBRARIES),
    Fact("cuda_runtime", "Version of CUDA's runtime.", of_gpu("cuda_runtime_version"), SAME_VERSION),
    Fact("cudnn", "Version of cuDNN.", of_gpu("cudnn_version"), SAME_VERSION),
    Fact("python", "Version of Python.", recorded("python"), SAME_VERSION),
    Fact("code", "Checksum of this workflow's training code.", recorded("code_sha256"), SAME_VERSION, detail=_commit),
)
FACTS: dict[str, Fact] = {fact.name: fact for fact in _FACTS}

"""The table of bad inputs: each with what its message must say. test_bad_inputs.py makes and judges them."""

import errno
import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny

RUN = "results/runs/reviews/tiny/lora-r4/seed0"
FILES = tiny.config(Path())["datasets"]["reviews"]
REGRESSION = {**FILES, "task": "regression"}
DOCSTRINGS = {"source": "docstrings", "packages": ["numpy", "scipy"], "fractions": {"test": 0.2}}
HUB = {"source": "hub", "revision": "0" * 40}
HUB_DATA = {**FILES, **HUB, "path": "owner/reviews", "splits": {"train": "train", "test": "test"}}
WHEEL = {"source": "wheel", "requirement": "tiny-model==1.0", "subfolder": "tiny_model/model"}
ROWS = "".join(f"a {word} film\t{i % 2}\n" for i, word in enumerate(tiny.GOOD + tiny.BAD))
ORDER = [(i % 2, word) for i, word in enumerate(tiny.GOOD + tiny.BAD)][::-1]  # of ROWS, the last first
INPUTS = {
    "no_label.tsv": "sentence\tstars\n" + ROWS,
    "header_only.tsv": "sentence\tlabel\n",
    "blank.csv": "",
    "notes.docx": "sentence\tlabel\n" + ROWS,
    "one_class.tsv": "sentence\tlabel\n" + ROWS.replace("\t0", "\t1"),
    "third_label.tsv": "sentence\tlabel\n" + ROWS + "a dog\t2\n",
    "latin1.tsv": ("sentence\tlabel\n" + ROWS + "a caf\u00e9\t1\n").encode("latin-1"),
    "ragged.tsv": "sentence\tlabel\n" + ROWS + "a film\twith a tab\t1\n" + ROWS,
    "nan.tsv": "sentence\tlabel\n" + ROWS + "a story\tnan\n",
    "no_group.tsv": "sentence\tauthor\tlabel\n" + ROWS.replace("\t", "\tann\t") + "a story\t\t1\n",
    "no_text.tsv": "sentence\tlabel\n" + ROWS + " \t1\n",
    "gzip.tsv": gzip.compress(b"sentence\tlabel\n" + ROWS.encode()),
    "pointer.tsv": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    "utf16.tsv": ("sentence\tlabel\n" + ROWS).encode("utf-16"),
    "missing_label.tsv": "sentence\tlabel\n" + ROWS + "a story\tNaN\n",
    "many_bad.tsv": b"sentence\tlabel\n" + ROWS.encode() + b"a\nb\tc\t1\ncaf\xe9\t1\n",
    "train_again.tsv": "sentence\tlabel\n" + "".join(f"a {word} film\t{i}\n" for i, word in ORDER),
    "first_rows.tsv": "sentence\tlabel\n" + ROWS,
    "first_copied.tsv": "sentence\tlabel\n" + ROWS,
}

Change = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Plan:
    """A mistake that the configuration or the disk shows: no job starts, and `snakemake -n` says it too."""

    change: Change | None = None
    text: Callable[[str], str | bytes] | None = None  # of config.yaml, where no mapping can hold the mistake


@dataclass(frozen=True)
class Fetch:
    """A data set or model that only its own job can judge; all of them are fetched by one call."""

    kind: str
    block: dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A mistake that a later job meets."""

    change: Change
    target: str
    log: str | None  # None: it is told before the first job


@dataclass(frozen=True)
class Step:
    """A mistake that only the step sees, run by its own command line, with `patch` run before it."""

    script: str
    words: tuple[str, ...]
    settings: dict[str, Any] | None = None  # laid over those of a finished run
    patch: str = ""


def put(key: str, value: Any) -> Change:
    """A change that sets one key."""
    above, _, last = key.rpartition(".")
    return lambda settings: at(settings, above).update({last: value})


def both(*changes: Change) -> Change:
    """Several changes."""

    def change(settings: dict[str, Any]) -> None:
        for one in changes:
            one(settings)

    return change


def without(key: str) -> Change:
    """A change that takes one key out."""
    above, _, last = key.rpartition(".")
    return lambda settings: at(settings, above).pop(last)


def add(section: str, name: str, block: dict[str, Any]) -> Change:
    """A change that adds a data set, model or method of any name."""
    return lambda settings: settings[section].update({name: block})


def at(settings: dict[str, Any], key: str) -> dict[str, Any]:
    """The mapping at a key; at "", the whole."""
    for name in filter(None, key.split(".")):
        settings = settings[name]
    return settings


def lora(**fields: Any) -> Change:
    """A change of the fields of LoRA's `peft` block."""
    return lambda settings: settings["methods"]["lora"]["peft"].update(fields)


def peft(**fields: Any) -> Change:
    """A change that replaces LoRA's `peft` block."""
    return put("methods.lora.peft", fields)


def split(kind: str, name: str) -> dict[str, Any]:
    """The reviews with another file for one split."""
    return {**FILES, "splits": {**FILES["splits"], kind: name}}


TRAIN = ("--seeds", "7", "--tokens", "results/tokens/reviews/tiny.npz", "--model", "results/models/tiny")
TABLES = ("--runs-dir", "results/runs", "--contract", "results/tables/contract.csv")
TABLES += ("--output-dir", "results/tables", "--grid")
GRID = json.dumps({"dataset": ["reviews"], "model": ["tiny"], "arm": ["full"], "seed": [0]})
NO_GPU = "import os; os.environ['CUDA_VISIBLE_DEVICES'] = ''"
FULL_DISK = "import shutil; shutil.disk_usage = lambda path: shutil._ntuple_diskusage(1, 1, 0)"
NO_SPACE = f"import os\ndef fsync(_):\n    raise OSError({errno.ENOSPC}, 'No space left on device')\nos.fsync = fsync"
FRESH = {"source": "folder", "path": "model"}

CASES: dict[str, tuple[Plan | Fetch | Job | Step, tuple[str, ...]]] = {
    # The file.
    "broken YAML": (
        Plan(text=lambda good: good.replace("seeds:", "seeds: [0, 1")),
        ("config.yaml, line 4", "broken YAML", "expected ',' or ']'", "fix that line"),
    ),
    "a tab in YAML": (Plan(text=lambda good: f"output: a\n\tb: c\n{good}"), ("config.yaml, line 2", r"'\t'", "fix")),
    "an empty file": (Plan(text=lambda _: ""), ("config.yaml: empty", "must hold the keys datasets")),
    "a list for a file": (Plan(text=lambda _: "- datasets\n"), ("config.yaml: a list", "must hold the keys")),
    "a file not in UTF-8": (Plan(text=lambda good: good.encode() + b"# \xe9\n"), ("line ", "not UTF-8", "save")),
    "a key written twice": (
        Plan(text=lambda good: f"{good}seeds: [3]\n"),
        ("config.yaml, line ", "the key seeds stands twice", "unique"),
    ),
    "a date": (
        Plan(text=lambda good: good.replace("path: model", "path: 2026-01-01")),
        ("config key models.tiny.path", "the date 2026-01-01", "put it in quotes"),
    ),
    # Keys.
    "unknown key at the top": (Plan(put("traning", {})), ("config key traning: unknown key; did you mean training?",)),
    "unknown key": (
        Plan(put("training.batchsize", 8)),
        ("config key training.batchsize: unknown key; did you mean batch_size?",),
    ),
    "unknown key of a method": (
        Plan(put("methods.lora.rank", [4])),
        ("config key methods.lora.rank: unknown key; did you mean ranks?",),
    ),
    "unknown key of a data set": (
        Plan(put("datasets.reviews.columns", 1)),
        ("config key datasets.reviews.columns: unknown key; known keys: chat_template, ",),
    ),
    "keys of another task": (
        Plan(lambda config: (without("datasets.reviews.text")(config), put("datasets.reviews.prompt", "a")(config))),
        ("config key datasets.reviews.text: missing; add it", "or set `task: sft`, to which prompt belongs"),
    ),
    "missing key": (
        Plan(without("datasets.reviews.label")),
        ("config key datasets.reviews.label: missing; add it",),
    ),
    "missing section": (
        Plan(without("seeds")),
        ("config key seeds: missing; add it: it must be a list of whole numbers, as in [1, 2]",),
    ),
    "a list's first bad entry": (
        Plan(put("seeds", ["0", "1"])),
        ("config key seeds.0: '0' is a text; must be a whole number: write 0, without quotes",),
    ),
    "a key by its first letter": (
        Plan(put("methods.lora.r", 4)),
        ("config key methods.lora.r: unknown key; did you mean ranks?",),
    ),
    "all-linear in another spelling": (
        Plan(put("methods.lora.peft.target_modules", "all_linear")),
        ("config key methods.lora.peft.target_modules: 'all_linear' names no module; did you mean all-linear",),
    ),
    "all-linear in a list": (
        Plan(put("methods.lora.peft.target_modules", ["all-linear"])),
        ("config key methods.lora.peft.target_modules: ['all-linear'] names no module; did you mean all-linear",),
    ),
    "the end of a module's name as a text": (
        Plan(put("methods.lora.peft.target_modules", "query")),
        ("config key methods.lora.peft.target_modules: query as a text must match", "; write [query] for every module"),
    ),
    "a method that is named as an adapter and has none": (
        Plan(without("methods.lora.peft")),
        ("config key methods.lora.peft: missing, so lora would be full fine-tuning; add peft, or give the method",),
    ),
    "key of another source": (
        Plan(put("models.tiny.revision", "0" * 40)),
        ("config key models.tiny.revision: this key does not belong to this source; remove it",),
    ),
    # Types and values.
    "text for a number": (
        Plan(text=lambda good: good.replace("learning_rate: 0.001", "learning_rate: 5e-4")),
        ("config key methods.full.learning_rate: '5e-4' is a text; must be a number", "must be a number: write 0.0005"),
    ),
    "per cent": (
        Plan(put("comparison", {"margin": "2 %"})),
        ("config key comparison.margin: '2 %'", ": write 0.02 for 2 % of 1"),
    ),
    "decimal comma within braces": (
        Plan(text=lambda good: f"{good}\ncomparison: {{margin: 0,05}}\n"),
        ("config key comparison: a comma ends a value; write 0.05 with a point, or a list in brackets: [0, 05]",),
    ),
    "decimal comma": (Plan(put("tune", {"fraction": "0,3"})), ("config key tune.fraction: '0,3'", ": write 0.3")),
    "None": (Plan(put("training.epochs", "None")), ("config key training.epochs: 'None'", "or leave it out")),
    "truth in quotes": (
        Plan(put("keep_weights", "No")),
        ("config key keep_weights: 'No'", "write false, without"),
    ),
    "unit": (
        Plan(put("recommendation", {"memory_GiB": "8 GiB"})),
        ("config key recommendation.memory_GiB: '8 GiB'", "write the number alone, without its unit"),
    ),
    "list for a number": (
        Plan(put("training.epochs", [2])),
        ("config key training.epochs: [2] has the wrong type", "write one value, without brackets"),
    ),
    "unknown source": (
        Plan(put("models.tiny.source", "hf")),
        ("config key models.tiny.source: 'hf' is unknown; must be one of hub, folder, wheel, random",),
    ),
    "number for a name of a list": (
        Plan(text=lambda good: good.replace("precision: fp32", "precision: 16")),
        ("config key training.precision: 16 is unknown; must be one of fp32, bf16, fp16",),
    ),
    "number for a list": (Plan(put("seeds", 3)), ("config key seeds: 3 has the wrong type; must be a list",)),
    "text for a list": (
        Plan(put("datasets.reviews.text", "sentence")),
        ("config key datasets.reviews.text: 'sentence' has the wrong type; must be a list",),
    ),
    "scalar for a section": (
        Plan(put("training", 5)),
        ("config key training: 5 has the wrong type; must be a mapping",),
    ),
    "section with nothing in it": (
        Plan(put("methods", None)),
        ("config key methods: nothing stands there; must be a mapping",),
    ),
    "no method": (Plan(put("methods", {})), ("config key methods: {} is too short; at least 1",)),
    "not a finite number": (
        Plan(put("training.weight_decay", float("nan"))),
        ("config key training.weight_decay: nan is not a finite number; write one",),
    ),
    "unknown device": (
        Plan(put("training.device", "gpu")),
        ("config key training.device: 'gpu' is unknown; must be one of cpu, cuda",),
    ),
    "max_length 0": (Plan(put("training.max_length", 0)), ("config key training.max_length: 0 is", "at least 4")),
    "batch size 0": (Plan(put("training.batch_size", 0)), ("config key training.batch_size: 0 is", "at least 1")),
    "no seed": (Plan(put("seeds", [])), ("config key seeds: [] is too short; at least 1 must stand there",)),
    "a seed twice": (Plan(put("seeds", [0, 1, 0])), ("config key seeds: [0, 1, 0] has an entry twice; remove one",)),
    "a negative seed": (Plan(put("seeds", [0, -1])), ("config key seeds.1: -1 is not allowed; must be at least 0",)),
    "CUDA graphs of a sharded model": (
        Plan(both(put("training.gpus", 2), put("training.parallel", "sharded"), put("training.engine", "captured"))),
        ("config key training.engine: captured, but steps of training.parallel sharded cannot be captured",),
    ),
    "8-bit moments of a sharded model": (
        Plan(
            both(put("training.gpus", 2), put("training.parallel", "sharded"), put("training.optimizer", "adamw_8bit"))
        ),
        ("config key training.optimizer: adamw_8bit has blocks of moments that training.parallel sharded would cut",),
    ),
    "accumulation that does not divide": (
        Plan(put("training.gradient_accumulation_steps", 3)),
        ("training.gradient_accumulation_steps: batch_size 8 cannot be split into 3 equal parts; choose a divisor",),
    ),
    "no GPU for a run": (
        Plan(put("training.gpus", 0)),
        ("config key training.gpus: 0 is not allowed; must be at least 1",),
    ),
    "GPUs as a word": (
        Plan(put("methods.full.gpus", "two")),
        ("config key methods.full.gpus: 'two' has the wrong type; must be a whole number",),
    ),
    "a sharded run on one GPU": (
        Plan(put("training.parallel", "sharded")),
        ("config key training.parallel: sharded, but each run has one GPU; set gpus, or remove it",),
    ),
    "pages on several GPUs": (
        Plan(
            both(
                *(put("training.gpus", 2), put("training.optimizer", "paged_adamw_8bit")),
                *(put("training.device", "cuda"), put("training.engine", "eager")),
            )
        ),
        ("config key training.optimizer: paged_adamw_8bit keeps its state in pages", "set adamw or adamw_8bit"),
    ),
    "an unknown way to share a run": (
        Plan(put("training.parallel", "tensor")),
        ("config key training.parallel: 'tensor' is", "data"),
    ),
    "more GPUs than rows of a batch": (
        Plan(put("training.gpus", 9)),
        ("config key training.gpus: 9 GPUs share batches of training.batch_size 8, and some would have no row", "to 9"),
    ),
    "more GPUs than rows of a batch's part": (
        Plan(both(put("methods.full.gpus", 4), put("training.gradient_accumulation_steps", 4))),
        ("config key methods.full.gpus: 4 GPUs share batches of training.batch_size 8 in 4 parts", "to 16"),
    ),
    "the largest batch of several GPUs": (
        Plan(
            both(
                put("methods.full.gpus", 2),
                put("methods.full.varies", ["gpus"]),
                put("equal_memory", {"caps_GiB": [1], "arms": ["full"]}),
            )
        ),
        ("config key equal_memory.arms: runs of full have several GPUs, the view is of one; remove it",),
    ),
    "the profile of several GPUs": (
        Plan(
            both(put("methods.full.gpus", 2), put("methods.full.varies", ["gpus"]), put("profiles", {"arms": ["full"]}))
        ),
        ("config key profiles.arms: runs of full have several GPUs, a profile has one; remove it",),
    ),
    "GPUs that differ and are not declared": (
        Plan(put("methods.full.gpus", 2)),
        ("config key methods.lora.gpus: 1, but full has 2 (data); set it alike, or add gpus to methods.lora.varies",),
    ),
    "an unknown tracker": (
        Plan(put("tracking", "wandbb")),
        ("config key tracking: 'wandbb' is unknown", "none, aim, clearml", "tensorboard, trackio, wandb"),
    ),
    # Methods.
    "unknown peft_type": (
        Plan(lora(peft_type="LOAR")),
        ("config key methods.lora.peft.peft_type: 'LOAR' is unknown; did you mean LORA?",),
    ),
    "peft_type that is no text": (
        Plan(lora(peft_type=["LORA"])),
        ("config key methods.lora.peft.peft_type: ['LORA'] has the wrong type; must be a text",),
    ),
    "excluded peft_type": (
        Plan(lora(peft_type="ADALORA")),
        ("config key methods.lora.peft.peft_type: 'ADALORA' cannot be used: it needs calls in the training loop",),
    ),
    "unknown PEFT field": (
        Plan(lora(lora_droput=0.1)),
        ("config key methods.lora.peft.lora_droput: unknown key; did you mean lora_dropout?",),
    ),
    "PEFT field of the wrong type": (
        Plan(lora(use_dora="yes")),
        ("config key methods.lora.peft.use_dora: 'yes' has the wrong type; must be true or false",),
    ),
    "modules_to_save": (
        Plan(lora(modules_to_save=["classifier"])),
        ("peft.modules_to_save: cannot be set: the workflow trains the same head in every arm; remove it",),
    ),
    "task_type": (
        Plan(lora(task_type="SEQ_CLS")),
        ("config key methods.lora.peft.task_type: cannot be set: the workflow sets it; remove it",),
    ),
    "GPU hour for nothing": (Plan(put("cost", {"gpu_hour": 0})), ("cost.gpu_hour: 0 is", "must be above 0")),
    "rate 0": (Plan(put("methods.full.learning_rate", 0)), ("methods.full.learning_rate: 0 is", "must be above 0")),
    "a checksum in upper case": (
        Plan(put("models.tiny.sha256", {"model.safetensors": "A" * 64})),
        ("config key models.tiny.sha256.model.safetensors: ", "64 hexadecimal digits in lower case"),
    ),
    "a seed as text": (Plan(put("seeds", ["0"])), ("config key seeds.0: '0' is a text", "write 0, without quotes")),
    "rank 0": (Plan(put("methods.lora.ranks", [0])), ("config key methods.lora.ranks.0: 0 is", "at least 1")),
    "negative rank": (Plan(put("methods.lora.ranks", [4, -8])), ("methods.lora.ranks.1: -8 is", "at least 1")),
    "ranks of a method without": (
        Plan(peft(peft_type="IA3")),
        ("config key methods.lora.ranks: IA3 has no rank; remove the key",),
    ),
    "a rank in two places": (Plan(lora(r=4)), ("config key methods.lora.peft.r: ranks sets it; keep one of the two",)),
    "ranks of full fine-tuning": (
        Plan(put("methods.full.ranks", [4])),
        ("config key methods.full.ranks: full fine-tuning has none; add peft or remove it",),
    ),
    "quantised full fine-tuning": (
        Plan(put("methods.full.quantization", tiny.NF4)),
        ("config key methods.full.quantization: full fine-tuning has none; add peft or remove it",),
    ),
    "two arms of one name": (
        Plan(put("methods.lora-r4", {"learning_rate": 0.01, "peft": {**tiny.LORA, "r": 4}})),
        ("config key methods.lora-r4: the arm name lora-r4 is taken; rename it",),
    ),
    "grids of unequal length": (
        Plan(
            both(put("methods.full.learning_rate", [1e-4, 1e-3]), put("methods.lora.learning_rate", [1e-4, 1e-3, 1e-2]))
        ),
        ("config key methods.lora.learning_rate: 3 rates, but methods.full has 2; give every method as many trials",),
    ),
    "tuning with a seed of final runs": (
        Plan(both(put("methods.full.learning_rate", [1e-4, 1e-3]), put("tune", {"seed": 1}))),
        ("config key tune.seed: trials have the seeds 1 to 3, and 1 is one of seeds, whose runs would not be fresh",),
    ),
    "a rate of a method that is not tuned": (
        Plan(put("methods.lora.learning_rate", "full")),
        ("config key methods.lora.learning_rate: full has no list of rates to tune; give it one, or write a number",),
    ),
    "a rate of a method that is not there": (
        Plan(put("methods.lora.learning_rate", "ful")),
        ("methods.lora.learning_rate: 'ful' is no number, and there is no method 'ful'; did you mean full?",),
    ),
    "tuning at a rank that is not there": (
        Plan(both(put("methods.lora.learning_rate", [1e-4, 1e-3]), put("tune", {"by": "method", "rank": 5}))),
        ("config key tune.rank: no tuned method has rank 5; name one that is in ranks",),
    ),
    "checks of ranks that are tuned anyway": (
        Plan(both(put("methods.lora.learning_rate", [1e-4, 1e-3]), put("tune", {"by": "arm", "check_ranks": [4]}))),
        ("config key tune.check_ranks: with tune.by arm every rank is tuned; remove it, or set tune.by: method",),
    ),
    "noise of an arm that is not there": (
        Plan(put("noise", {"arms": ["lora"]})),
        ("config key noise.arms: there is no arm 'lora'; did you mean lora-r4?",),
    ),
    "profile of an arm that is not there": (
        Plan(put("profiles", {"arms": ["lora-r8"]})),
        ("config key profiles.arms: there is no arm 'lora-r8'; did you mean lora-r4?",),
    ),
    "profile of CUDA graphs on a CPU": (
        Plan(put("profiles", {"engines": ["captured"]})),
        ("config key profiles.engines: captured needs CUDA graphs, which device cpu has not; remove it",),
    ),
    **{
        f"unsafe name {name!r:.12}": (
            Plan(add(section, name, block)),
            (f"config key {section}: {name!r} is not allowed: letters, digits, ", "at most 64"),
        )
        for section, name, block in (
            ("methods", "../x", {"learning_rate": 0.1}),
            ("datasets", "a b", FILES),
            ("models", "", FRESH),
            ("methods", "m" * 100, {"learning_rate": 0.1}),
        )
    },
    "targets that match nothing": (
        Plan(lora(target_modules=["query", "q_lin"])),
        ("config key methods.lora.peft.target_modules: q_lin matches nothing", "query, value", "(model tiny)"),
    ),
    "targets that are no expression": (
        Plan(lora(target_modules="(query")),
        ("config key methods.lora.peft.target_modules: (query is no regular expression", "correct it"),
    ),
    # Data sets.
    "metric of another task": (
        Plan(put("datasets.reviews.metric", "pearson")),
        ("datasets.reviews.metric: pearson does not go with classification; must be one of accuracy, f1, mcc",),
    ),
    "no test split": (
        Plan(without("datasets.reviews.splits.test")),
        ("config key datasets.reviews: no test split; set splits.test or fractions.test",),
    ),
    "two test splits": (
        Plan(put("datasets.reviews.fractions", {"test": 0.2})),
        ("config key datasets.reviews.fractions.test: splits has it too; keep one of the two",),
    ),
    "limit of no split": (
        Plan(put("datasets.reviews.limit", {"validation": 10})),
        ("config key datasets.reviews.limit.validation: there is no such split; remove it",),
    ),
    "a baseline that is no arm": (
        Plan(put("comparison", {"baseline": "lora-r5"})),
        ("config key comparison.baseline: there is no arm 'lora-r5'; did you mean lora-r4?",),
    ),
    "a margin of nothing": (Plan(put("comparison", {"margin": 0})), ("config key comparison.margin: 0",)),
    "a margin in points": (
        Plan(put("comparison", {"margin": 1})),
        ("config key comparison.margin: 1 is not above 0 and at most 0.2", "a point is 0.01", "did you mean 0.01?"),
    ),
    "early stopping on nothing": (
        Plan(put("training.early_stopping", {"patience": 2})),
        ("training.early_stopping: data set reviews has no validation split", "set fractions.validation"),
    ),
    "missing file": (
        Plan(put("datasets.reviews.splits.train", "trian.tsv")),
        ("config key datasets.reviews.splits.train: no such file: trian.tsv (relative paths start at ",),
    ),
    "folder for a file": (Plan(put("datasets.reviews.splits.test", "model")), ("splits.test: model: a folder; give",)),
    "unknown extension": (
        Plan(put("datasets.reviews.splits.test", "notes.docx")),
        ("splits.test: notes.docx: unknown extension '.docx'; one of .csv, .tsv,",),
    ),
    "missing column": (
        Plan(put("datasets.reviews.splits.test", "no_label.tsv")),
        ("splits.test: no_label.tsv: no column 'label'; its columns are 'sentence', 'stars'", "name one of these"),
    ),
    "missing group column": (
        Plan(put("datasets.reviews.group", "author")),
        ("config key datasets.reviews.splits.", ".tsv: no column 'author'; its columns are 'sentence', 'label'"),
    ),
    "header and no row": (
        Plan(put("datasets.reviews.splits.train", "header_only.tsv")),
        ("config key datasets.reviews.splits.train: header_only.tsv: no rows; at least 2",),
    ),
    "file with nothing in it": (
        Plan(put("datasets.reviews.splits.test", "blank.csv")),
        ("config key datasets.reviews.splits.test: blank.csv: no rows; at least 2",),
    ),
    "gzip for a table": (
        Plan(put("datasets.reviews.splits.train", "gzip.tsv")),
        ("config key datasets.reviews.splits.train: gzip.tsv: it is gzip, not a table; unpack it (gunzip)",),
    ),
    "Git LFS pointer for a table": (
        Plan(put("datasets.reviews.splits.test", "pointer.tsv")),
        ("splits.test: pointer.tsv: a Git LFS pointer, not the file itself; run `git lfs pull`",),
    ),
    "UTF-16": (
        Plan(put("datasets.reviews.splits.test", "utf16.tsv")),
        ("splits.test: utf16.tsv: UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8 utf16.tsv > utf8.tsv",),
    ),
    "test is train in another order": (
        Fetch("datasets", {**FILES, "splits": {"train": "first_rows.tsv", "test": "train_again.tsv"}}),
        ("splits test (train_again.tsv) and train (first_rows.tsv) have the same 10 texts", "carve it off train"),
    ),
    "a positive class that is none": (
        Fetch("datasets", {**FILES, "splits": {"train": "train.tsv", "test": "test.tsv"}, "positive_class": "good"}),
        (
            "config key datasets.a-positive-class-that-is-none.positive_class: 'good' is no class of the data; the "
            "classes are '0', '1'",
        ),
    ),
    "missing label among numbers": (
        Fetch("datasets", split("test", "missing_label.tsv")),
        ("missing_label.tsv, line 12: no 'label' ('NaN' among numbers is a missing value); fill in or remove",),
    ),
    "several bad lines": (
        Fetch("datasets", split("train", "many_bad.tsv")),
        ("line 14: not UTF-8 (byte 0xe9", "; also many_bad.tsv, line 12: 1 fields found", "line 13: 3 fields found"),
    ),
    "one class": (Fetch("datasets", split("test", "one_class.tsv")), ("one_class.tsv", "every label is '1'", "two")),
    "label not in train": (
        Fetch("datasets", split("test", "third_label.tsv")),
        ("third_label.tsv, line 12: 'label' is '2', which no training row has", "correct it or add training rows"),
    ),
    "not UTF-8": (
        Fetch("datasets", split("train", "latin1.tsv")),
        ("latin1.tsv, line 12: not UTF-8 (byte 0xe9", "convert it: iconv"),
    ),
    "ragged line": (
        Fetch("datasets", split("train", "ragged.tsv")),
        ("ragged.tsv, line 12: 3 fields found, 2 expected", "take tabs"),
    ),
    "NaN for a number": (
        Fetch("datasets", {**REGRESSION, "splits": {"train": "train.tsv", "test": "nan.tsv"}}),
        ("nan.tsv, line 12: 'label' is nan, not a finite number; correct or remove it",),
    ),
    "empty text": (
        Fetch("datasets", split("test", "no_text.tsv")),
        ("no_text.tsv, line 12: empty text in 'sentence'; fill in or remove",),
    ),
    "empty group": (
        Fetch(
            "datasets", {**FILES, "splits": {"train": "no_group.tsv"}, "fractions": {"test": 0.2}, "group": "author"}
        ),
        ("no_group.tsv, line 12: no group in 'author'; fill it in",),
    ),
    "a fraction too small": (
        Fetch("datasets", {**FILES, "splits": {"train": "train.tsv"}, "fractions": {"test": 0.001}}),
        ("fractions: test 0.001 of ", "take a larger fraction or more rows"),
    ),
    "package that is not installed": (
        Fetch("datasets", {"source": "docstrings", "packages": ["numpy", "no_such"], "fractions": {"test": 0.2}}),
        ("package 'no_such': not installed here", "pip install no_such", "or take it out"),
    ),
    "data set on a hub out of reach": (
        Fetch("datasets", HUB_DATA),
        (
            "owner/reviews at 000",
            "http://127.0.0.1:9 cannot be reached",
            " fetch` where there is network",
        ),
    ),
    # Models.
    "model folder that is not there": (
        Plan(put("models.tiny.path", "modle")),
        ("config key models.tiny.path: no such folder: modle (a model on the hub has source: hub)",),
    ),
    "model folder without weights": (
        Plan(put("models.tiny.path", "weightless")),
        ("config key models.tiny.path: weightless: no model.safetensors; a model needs config.json,",),
    ),
    "branch for a revision": (
        Plan(put("models.tiny", {**HUB, "path": "owner/model", "revision": "main"})),
        (
            "config key models.tiny.revision: 'main' is not allowed: a full commit hash (40 hexadecimal digits)",
            "read it at https://huggingface.co/owner/model/commits/main",
        ),
    ),
    "requirement that is not pinned": (
        Plan(put("models.tiny", {**WHEEL, "requirement": "tiny-model>=1"})),
        ("config key models.tiny.requirement: 'tiny-model>=1' is not allowed: Pinned wheel (name==version)",),
    ),
    "wrong checksum": (
        Fetch("models", {**FRESH, "sha256": {"model.safetensors": "0" * 64}}),
        ("model model: model.safetensors has the wrong checksum: expected sha256 000", "or correct `sha256`"),
    ),
    "model on a hub out of reach": (
        Fetch("models", {**HUB, "path": "owner/model"}),
        ("hub model owner/model at 000", "cannot be reached", " fetch` where there is network"),
    ),
    "wheel on an index out of reach": (
        Fetch("models", WHEEL),
        ("model wheel tiny-model==1.0: pip cannot download it", " fetch` where one is"),
    ),
    "max_length above the model's": (
        Job(put("training.max_length", 65), "results/tokens/reviews/tiny.npz", "tokenize/reviews/tiny.log"),
        ("max_length 65 is above what the model 'tiny' takes, 64 tokens; set it to 64 or less",),
    ),
    "targets of a model not fetched before": (
        Step(
            "train.py",
            (*TRAIN, "--output-dir", "results/runs/reviews/tiny/lora-r4"),
            {"peft": {"target_modules": ["q"]}},
        ),
        ("target_modules: q matches nothing in the model; its linear layers: ", "query, value"),
    ),
    # Imported results.
    "imported results that are not there": (
        Plan(put("imported", {"peft": ["published/*.json"]})),
        ("config key imported.peft.0: no such file: published/*.json (relative paths start at ",),
    ),
    "an imported file that is none of PEFT's results": (
        Plan(put("imported", {"peft": ["results/models/tiny.json"]})),
        ("imported.peft.0: results/models/tiny.json: no run_info.experiment_name, so it is not a result of PEFT's",),
    ),
    "imported results without a label": (
        Plan(put("imported", ["train.tsv"])),
        ("config key imported: ['train.tsv'] has the wrong type; must be a mapping",),
    ),
    # The machine.
    "no GPU": (
        Job(put("training.device", "cuda"), f"{RUN}/summary.json", None),
        (
            "config key training.device: cuda, but there is no GPU here",
            "and train would run here",
            "or set device: cpu",
        ),
    ),
    "no GPU in a job": (
        Step("train.py", (*TRAIN, "--output-dir", "results/runs/reviews/tiny/lora-r4"), {"device": "cuda"}, NO_GPU),
        ("config key training.device: cuda, but torch sees no GPU", "set device: cpu for a CPU run"),
    ),
    "output with a wildcard": (
        Plan(put("output", "results/{x}")),
        ("config key output: 'results/{x}'", "leave them out"),
    ),
    "output is the working folder": (Plan(put("output", "./")), ("config key output: ", "name a folder in it")),
    "label among the texts": (
        Plan(put("datasets.reviews.text", ["sentence", "label"])),
        ("config key datasets.reviews.text: label is the label", "name other columns"),
    ),
    "label as the group": (
        Plan(put("datasets.reviews.group", "label")),
        ("config key datasets.reviews.group: label is the label; name the column", "or contained"),
    ),
    "a list for the group": (
        Plan(put("datasets.reviews.group", ["author"])),
        ("config key datasets.reviews.group: ['author'] has the wrong type; must be a text",),
    ),
    "another group of docstrings": (
        Plan(
            put("datasets.reviews", {**DOCSTRINGS, "group": "package"}),
        ),
        ("config key datasets.reviews.group: 'package' is unknown; docstrings are grouped by module or contained",),
    ),
    "test is train": (
        Plan(put("datasets.reviews.splits.test", "./train.tsv")),
        ("config key datasets.reviews.splits.test: ./train.tsv is train too", "name another file"),
    ),
    "test is a copy of train": (
        Plan(put("datasets.reviews.splits", {"train": "first_rows.tsv", "test": "first_copied.tsv"})),
        (
            "config key datasets.reviews.splits.test: first_copied.tsv has the same content as train (first_rows.tsv)",
            "name another file, or use fractions",
        ),
    ),
    "output is a file": (Plan(put("output", "train.tsv/new")), ("config key output: ", "train.tsv is a file; name a")),
    "output that cannot be written": (
        Plan(put("output", "/proc/no/such")),
        ("config key output: /proc cannot be written (", "name a folder that can be"),
    ),
    "a disk too small for a run": (
        Step("train.py", (*TRAIN, "--output-dir", "results/runs/reviews/tiny/lora-r4"), {}, FULL_DISK),
        ("0 MiB free, a run needs up to ", "free some or set `output` to another disk; what is finished stays"),
    ),
    "a disk that fills up": (
        Step("make_tables.py", (*TABLES, GRID), patch=NO_SPACE),
        ("no space left on the device: free some or set `output` to another disk",),
    ),
}

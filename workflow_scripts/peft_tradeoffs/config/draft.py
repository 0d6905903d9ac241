"""Drafts a configuration of a data file, a model and this machine: what is seen decides, and comments say what it was.

A draft is checked as a plan checks it before it is given back, so none is written that does not plan.
"""

import contextlib
import io
import json
import math
import re
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import yaml

from peft_tradeoffs.analysis import power
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.config.file import how_to_read
from peft_tradeoffs.config.preflight import check_paths, check_planned
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import read_json
from peft_tradeoffs.core.layout import REPOSITORY, TEMPLATES
from peft_tradeoffs.inputs.data_files import columns_in, read_table
from peft_tradeoffs.inputs.datasets import fetch_dataset
from peft_tradeoffs.inputs.groups import CONTAINED
from peft_tradeoffs.measure import machine
from peft_tradeoffs.tasks.metrics import METRICS
from peft_tradeoffs.tasks.task import TASKS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Block = dict[str, Any]
UNKNOWN = "FILL_IN"  # stands for a commit that could not be asked for
CLASSIFICATION, REGRESSION, SFT, LM = "classification", "regression", "sft", "lm"
ARMS = 4  # besides full fine-tuning: LoRA and QLoRA at two ranks
FRACTIONS = (0.2, 0.3, 0.4, 0.5)  # of train for test, the first at which every class has its rows
LOPSIDED = 0.8  # share of the largest class from which accuracy says little
SAMPLE = 2000  # rows whose tokens are counted
COVERED = 99  # per cent of the texts that max_length leaves whole
LENGTHS = (32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048)
TOKENS_PER_WORD = 1.5
CAPS = {CLASSIFICATION: 512, REGRESSION: 512, SFT: 2048, LM: 1024}  # tokens, where the model's own most is not known
FEW_VALUES = 20  # of numbers that may be classes
LONG_TEXT = 20  # words, from which a lone column is one to model
WORD = re.compile(  # a sign of a script that parts no words counts as one
    r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\s\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
LETTER = re.compile(r"[^\W\d_]")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
ANSWERS_CHATS = re.compile(r"instruct|chat|[-_]it\b", re.IGNORECASE)
ENCODERS = ("albert", "bert", "deberta", "deberta-v2", "distilbert", "electra", "modernbert", "mpnet", "roberta")
# Names by which columns are known, in this order.
LABELS = ("label labels class category target y sentiment intent score similarity rating stars topic team tag "
          "priority polarity gold").split()  # fmt: skip
PAIRS = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text_a", "text_b")),
    *(("text1", "text2"), ("question", "sentence"), ("query", "passage"), ("subject", "body"), ("title", "text")),
)
READ_AND_WRITTEN = (
    *(("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("input", "output")),
    *(("source", "target"), ("article", "summary"), ("document", "summary"), ("text", "summary")),
    *(("instruction", "response"), ("query", "response"), ("mr", "ref")),
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line says; what it does not is decided by what is seen."""

    train: str
    model: str
    test: str | None = None
    validation: str | None = None
    text: Sequence[str] = ()
    label: str | None = None
    prompt: str | None = None
    completion: str | None = None
    task: str | None = None


@dataclass(frozen=True)
class Draft:
    """A configuration as YAML with comments, and what a person is told of it, one line each."""

    text: str
    said: list[str]


@dataclass(frozen=True)
class Column:
    """A column of the file; `filled` are its values that are there."""

    name: str
    filled: list[Any]
    rows: int

    @property
    def kind(self) -> str:
        """chat, number, text, or other for what a model can neither read nor predict."""
        if self.filled and all(isinstance(value, list) and value and _is_turn(value[0]) for value in self.filled):
            return "chat"
        if self.filled and all(isinstance(value, bool | str) for value in self.filled):
            return "number" if all(_is_number(value) for value in self.filled) else "text"
        return "number" if self.filled and all(isinstance(value, int | float) for value in self.filled) else "other"

    @property
    def distinct(self) -> int:
        """How many values differ."""
        return len({str(value) for value in self.filled})

    @property
    def words(self) -> float:
        """Mean number of words that have a letter."""
        return sum(sum(map(bool, map(LETTER.search, WORD.findall(str(one))))) for one in self.filled) / self.rows

    @property
    def task(self) -> str | None:
        """The task that has this column as its label, if one could."""
        if self.distinct < 2 or self.kind not in ("number", "text"):
            return None
        repeated = self.distinct <= max(2, self.rows / 4)
        if self.kind == "text":
            return CLASSIFICATION if repeated and self.words <= 10 else None
        whole = all(float(value).is_integer() for value in self.filled)
        if self.distinct <= (100 if whole else FEW_VALUES) and repeated:
            return CLASSIFICATION
        return None if whole and self.distinct == self.rows else REGRESSION  # each its own whole number: an id

    @property
    def known(self) -> int:
        """The place of its name among those of labels, or their number."""
        parts = re.split(r"[\W_]+", self.name.lower())
        return next((place for place, name in enumerate(LABELS) if name in parts), len(LABELS))


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and bool({"role", "from"} & set(value))


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(float(value))
    except ValueError:
        return False


def _missing(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


@dataclass(frozen=True)
class Roles:
    """Which columns are what: keys of the data set's block, and in words what was guessed."""

    task: str
    keys: Block
    guessed: list[str] = field(default_factory=list)


def read_columns(path: Path) -> tuple[dict[str, Column], str | None]:
    """The columns of a file by name, and the separator that its block needs. Raises InputError for what is no table."""
    names, separator = columns_in(path)
    table = read_table(path, names, separator)
    columns = {
        name: Column(name, [value for value in values if not _missing(value)], len(table))
        for name, values in table.columns.items()
    }
    return columns, separator


def find_roles(asked: Asked, columns: Mapping[str, Column]) -> Roles:
    """What each column is. Raises InputError that says what is lacking, or which option would say it."""
    for option, name in _named(asked):
        if name not in columns:
            raise InputError(f"{option} {name}: no such column; {asked.train} has {', '.join(columns) or 'none'}")
    if asked.label is None and not asked.text and (found := _completions(asked, columns)):
        return found
    label, guessed = _label(asked, columns)
    if label is None and asked.task != LM and asked.label is None and not asked.text:
        texts = [name for name, one in columns.items() if one.kind == "text" and one.distinct > max(2, one.rows / 10)]
        if len(texts) > 1 and asked.task in (None, SFT):
            first, second = texts[:2]
            said = f"{first} is the prompt and {second} the completion, for no column could be a label (--prompt, --completion)"
            return Roles(SFT, {"prompt": first, "completion": second}, [said])
    text, more = _text(asked, columns, label)
    if label is not None:
        return Roles(asked.task or columns[label].task or CLASSIFICATION, {"text": text, "label": label}, guessed + more)
    if asked.task == LM or (asked.task is None and columns[text[0]].words >= LONG_TEXT):
        return Roles(LM, {"text": text[:1]}, [f"{text[0]} is a text to model, for nothing else could be a label"])
    others = [name for name in columns if name not in text]
    lacking = f"none of {', '.join(others)} could be one" if others else f"{text[0]} is its only column"
    raise InputError(
        f"{asked.train}: no label: {lacking}; add a column of classes or numbers, name it with --label, or give "
        "--task lm to model the texts themselves"
    )


def _named(asked: Asked) -> Iterator[tuple[str, str]]:
    options = {"--label": asked.label, "--prompt": asked.prompt, "--completion": asked.completion}
    yield from (("--text", name) for name in asked.text)
    yield from ((option, name) for option, name in options.items() if name is not None)


def _completions(asked: Asked, columns: Mapping[str, Column]) -> Roles | None:
    """Chats, or prompts and completions that are asked for or known by their names; None where there are none."""
    if (asked.prompt is None) != (asked.completion is None):
        raise InputError("--prompt and --completion go together; name both columns")
    if asked.prompt is not None:
        return Roles(SFT, {"prompt": asked.prompt, "completion": asked.completion})
    if asked.task not in (None, SFT):
        return None
    if chat := next((name for name, one in columns.items() if one.kind == "chat"), None):
        return Roles(SFT, {"messages": chat}, [f"{chat} holds chats; every turn of the assistant is learned"])
    free = {name.lower(): name for name, one in columns.items() if one.kind == "text" and one.task is None}
    if {"instruction", "output"} <= set(free):
        own = {key: free[key] for key in ("instruction", "output")}
        given = next((name for name in columns if name.lower() == "input"), None)
        return Roles(SFT, {**own, "input": given} if given else own, ["instructions are written as Alpaca's"])
    labelled = any(one.known < len(LABELS) and one.task for one in columns.values())
    for first, second in READ_AND_WRITTEN if not labelled else ():
        if first in free and second in free:
            return Roles(SFT, {"prompt": free[first], "completion": free[second]})
    return None


def _label(asked: Asked, columns: Mapping[str, Column]) -> tuple[str | None, list[str]]:
    """The column that is predicted, and what else it might be."""
    if asked.label is not None or asked.task in (SFT, LM):
        return asked.label, []
    able = [one for one in columns.values() if one.task and one.name not in asked.text]
    able = [one for one in able if asked.task in (None, one.task) or (asked.task == REGRESSION and one.kind == "number")]
    readable = [one for one in columns.values() if one.kind == "text" and one.task is None]
    if not readable and len(able) > 1:  # texts that repeat: the one with most words is read
        able.remove(max(able, key=lambda one: one.words))
    order = {name: place for place, name in enumerate(columns)}
    able.sort(key=lambda one: (one.known, one.task == REGRESSION, -order[one.name]))
    others = ", ".join(f"--label {shlex.quote(one.name)}" for one in able[1:3])
    if not able:
        return None, []
    return able[0].name, [f"{able[0].name} is the label{f' (it could also be {others})' if others else ''}"]


def _text(asked: Asked, columns: Mapping[str, Column], label: str | None) -> tuple[list[str], list[str]]:
    """The one or two columns that are read, and what was guessed of them."""
    if asked.text:
        return list(asked.text), []
    own = [one for one in columns.values() if one.kind == "text" and one.name != label]
    varied = [one for one in own if one.distinct > max(2, one.rows / 20)] or own
    prose = [one for one in varied if one.words >= 1.5] or [one for one in varied if one.words >= 0.5]
    if not prose:
        kinds = ", ".join(f"{one.name} ({one.kind}s)" for one in columns.values()) or "none with a name"
        raise InputError(
            f"{asked.train}: no column of texts for a model to read; its columns are {kinds}: add one, or name it with --text"
        )
    names = {one.name.lower(): one.name for one in prose}
    pair = next(([names[a], names[b]] for a, b in PAIRS if a in names and b in names), None)
    if pair is None and len(prose) == 2:
        pair = [one.name for one in prose]
    if pair:
        return pair, [f"{pair[0]} and {pair[1]} are read as a pair (--text, to read one of them)"]
    longest = max(prose, key=lambda one: one.words)
    others = ", ".join(one.name for one in prose if one is not longest)
    return [longest.name], [f"{longest.name} is read{f', not {others}' if others else ''} (--text)"]


@dataclass(frozen=True)
class Base:
    """The model: its block, the folder of its files where they are on this disk, and a comment."""

    name: str
    block: Block
    folder: Path | None
    comment: str
    lacking: str = ""  # what a person must fill in, and how

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase | None":
        """Its tokenizer, if it is on this disk."""
        from peft_tradeoffs.inputs.model_check import load_tokenizer

        if self.folder is None:
            return None
        try:
            return load_tokenizer(self.folder)
        except InputError:  # of one GGUF file, say; what is wrong with a folder the plan says
            return None


def find_model(asked: str) -> Base:
    """The model of a folder or of the hub. Raises InputError for one that is neither, or that the hub refuses."""
    path = Path(asked).expanduser()
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().name if path.is_dir() else asked.rpartition("/")[2])
    name = name.strip("._-")[:64].lower() or "model"
    if path.is_dir():
        return Base(name, {"source": "folder", "path": asked}, path, "")
    if path.exists():
        raise InputError(f"--model {asked}: a file; name the folder of the model, or its id on the hub")
    if not HUB_ID.fullmatch(asked) or asked.endswith((".safetensors", ".gguf", ".bin")):
        raise InputError(f"--model {asked}: no such folder, and no id on the hub, which is like owner/name")
    from peft_tradeoffs.inputs.network import check_hub_variables

    check_hub_variables()
    from peft_tradeoffs.inputs.hub import Unreached, cached_model, newest_commit

    block = {"source": "hub", "path": asked}
    try:
        revision = newest_commit(asked)
    except Unreached as error:
        how = f"{how_to_read(asked)}"
        comment = f"40 digits: {how}"
        return Base(name, {**block, "revision": UNKNOWN}, None, comment, f"the hub was not asked ({error}); {how}")
    return Base(name, {**block, "revision": revision}, cached_model(asked, revision), "its newest commit as this was written")


def draft(asked: Asked) -> Draft:
    """The configuration for what is asked. Raises InputError, in one line, for what gives none."""
    columns, separator = read_columns(Path(asked.train))
    roles = find_roles(asked, columns)
    base = find_model(asked.model)
    files = {"train": asked.train, "validation": asked.validation, "test": asked.test}
    block: Block = {"source": "files", "splits": {split: path for split, path in files.items() if path}}
    block |= ({"separator": separator} if separator else {}) | roles.keys | {"task": roles.task}
    tokenizer = base.tokenizer
    comments: dict[str, str] = {}
    if roles.task == SFT:
        _refuse_encoder(base)
        _add_template(block, base, tokenizer, comments)
    table = read_table(Path(asked.train), _read(roles), separator)
    texts = [tuple(map(_as_text, own)) for own in zip(*(table.columns[name] for name in _read(roles)), strict=True)]
    block["metric"], comments["metric"] = _metric(roles, columns)
    described = _split(block, asked, comments)
    rows = {split: one["rows"] for split, one in described["splits"].items()}
    device = _device()
    training = {**device, **_training(rows["train"], roles.task, _tokens(texts, base, tokenizer, roles.task))}
    seeds = 5 if rows["train"] <= 10_000 else 3
    given = {
        "output": f"results/{_name(asked.train)}",
        "dataset": _name(asked.train),
        "block": block,
        "model": base,
        "training": training,
        "margin": _margin(block, described, seeds),
        "tune": _tune(described, rows),
        "seeds": list(range(seeds)),
        "comments": comments | {"dataset": _seen(asked, columns, roles, texts)},
        "asked": asked,
    }
    text = _render(given)
    _check(text)
    return Draft(text, _said(given, roles))


def _read(roles: Roles) -> list[str]:
    """The columns that the model reads and learns, without the label."""
    keys = ("text", "prompt", "completion", "instruction", "input", "output", "messages")
    found = (roles.keys[key] for key in keys if key in roles.keys)
    return [name for one in found for name in ([one] if isinstance(one, str) else one)]


def _as_text(value: Any) -> str:
    """A cell as text: of a chat all that its turns say."""
    if isinstance(value, list):
        turns = (one for one in value if isinstance(one, dict))
        return " ".join(str(one.get("content", one.get("value", ""))) for one in turns)
    return "" if value is None else str(value)


def _refuse_encoder(base: Base) -> None:
    path = base.folder and base.folder / "config.json"
    if path is None or not path.is_file():
        return
    with contextlib.suppress(ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.get("model_type") in ENCODERS and not found.get("is_decoder"):
            raise InputError(
                f"--model {base.block['path']}: {found['model_type']} reads texts and writes none; prompts and "
                "completions need a causal language model"
            )


def _add_template(block: Block, base: Base, tokenizer: "PreTrainedTokenizerBase | None", comments: dict[str, str]) -> None:
    """Turns are written by the template of the tokenizer, where it has one. Raises InputError for chats without one."""
    has = bool(tokenizer.chat_template) if tokenizer is not None else None
    if has or "messages" in block or (has is None and ANSWERS_CHATS.search(str(base.block["path"]))):
        if has is False:
            raise InputError(
                f"--model {base.block['path']}: its tokenizer has no chat template, by which chats are written; take "
                "the instruct model of its family"
            )
        block["chat_template"] = "tokenizer"
        comments["chat_template"] = "turns are written as the model's tokenizer does"
        comments["chat_template"] += "" if has else "; a base model has no template for them"
    elif "prompt" in block:
        comments["prompt"] = "joined to the completion as it is; an instruct model takes chat_template: tokenizer"


def _metric(roles: Roles, columns: Mapping[str, Column]) -> tuple[str, str]:
    """The metric, and why."""
    if roles.task != CLASSIFICATION:
        return TASKS[roles.task].metrics[0], ""
    counts = Counter(map(str, columns[roles.keys["label"]].filled)).most_common()
    largest = counts[0][1] / sum(count for _, count in counts)
    if largest <= LOPSIDED:
        return "accuracy", ""
    said = f"{100 * largest:.3g} % of the rows are {counts[0][0]}, so accuracy would praise a model that always says so"
    return "mcc", said


def _split(block: Block, asked: Asked, comments: dict[str, str]) -> Block:
    """What the workflow writes of the data set; its test fraction and group are put into the block.

    Raises the InputError of the first fraction where none gives test and train what they need.
    """
    found = _carved(block, asked, comments)
    if any(f"`group: {CONTAINED}`" in warning for warning in found["warnings"]):
        with contextlib.suppress(InputError):
            grouped = {**block, "group": CONTAINED}
            found = _carved(grouped, asked, comments)
            block |= grouped
            rows, groups = (sum(one[key] for one in found["splits"].values()) for key in ("rows", "groups"))
            comments["group"] = f"texts repeat or contain each other: {groups:,} groups of {rows:,} rows"
    return found


def _carved(block: Block, asked: Asked, comments: dict[str, str]) -> Block:
    refused: list[InputError] = []
    for fraction in FRACTIONS if asked.test is None else (None,):
        if fraction:
            block["fractions"] = {"test": fraction}
        try:
            found = _fetched(block, _name(asked.train))
        except InputError as error:
            refused.append(error)
            continue
        if fraction:
            rows = found["splits"]["test"]["rows"]
            comments["fractions"] = f"{rows:,} rows, carved from train; or name a file of your own under splits"
        return found
    raise refused[0]


def _fetched(block: Block, name: str) -> Block:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        fetch_dataset(block, Path(folder, name))
        found: Block = read_json(Path(folder, name, "dataset.json"))
        return found


def _device() -> Block:
    """Device and precision as this machine has them, and what was seen."""
    try:
        gpu = machine.machine_gpus()[0]
        bf16 = machine.capability(gpu) >= (8, 0)
    except (machine.Unavailable, IndexError):
        return {"device": "cpu", "precision": "fp32", "seen": "no GPU here; on a machine with one: cuda and bf16"}
    said = gpu.name if bf16 else f"{gpu.name}, which has no bf16"
    return {"device": "cuda", "precision": "bf16" if bf16 else "fp16", "seen": said}


def _tokens(texts: Sequence[tuple[str, ...]], base: Base, tokenizer: "PreTrainedTokenizerBase | None", task: str) -> Block:
    """max_length, and how it was found: a usual number of tokens that leaves COVERED % of the texts whole."""
    step = max(1, len(texts) // SAMPLE)
    sample = texts[::step]
    most = CAPS[task]
    if tokenizer is not None and base.folder is not None:
        from peft_tradeoffs.inputs.tokens import longest_input

        added = tokenizer.num_special_tokens_to_add(pair=len(texts[0]) == 2) + (32 if task == SFT else 0)  # a template's
        counts = [sum(len(ids) for ids in tokenizer(list(own), add_special_tokens=False)["input_ids"]) for own in sample]
        counts = [count + added for count in counts]
        with contextlib.suppress(OSError):
            most = min(longest_input(base.folder, tokenizer), max(most, 512))
        how = "tokens"
    else:
        counts = [math.ceil(TOKENS_PER_WORD * sum(len(WORD.findall(text)) for text in own)) + 2 for own in sample]
        how = f"tokens, at {TOKENS_PER_WORD} per word"
    reach = float(np.percentile(counts, COVERED))
    chosen = min(next((length for length in LENGTHS if length >= reach), LENGTHS[-1]), most)
    cut = sum(count > chosen for count in counts)
    said = f"{COVERED} % of the texts have up to {reach:.0f} {how}"
    return {"max_length": chosen, "lengths": said + (f"; about {100 * cut / len(counts):.2g} % are cut" if cut else "")}


def _training(rows: int, task: str, tokens: Block) -> Block:
    """Epochs and batch size by the rows and their length."""
    epochs = 1 if rows >= 50_000 else 3
    batch = 16 if rows < 1000 or tokens["max_length"] >= 512 or task in (SFT, LM) else 32
    return {"epochs": epochs, "batch_size": batch, "steps": math.ceil(rows / batch) * epochs, **tokens}


def _tune(described: Block, rows: Mapping[str, int]) -> Block:
    """The share of train on which rates are judged: a tenth, or more where that is few rows, or fewer than classes."""
    if "validation" in rows:
        return {}
    needed = 1.1 * len(described["labels"] or [])  # on either side
    share = 0.1 if 0.1 * rows["train"] >= 100 else 0.2
    return {"fraction": next((one for one in (share, 0.3, 0.4) if one * rows["train"] >= needed), 0.5)}


def _margin(block: Block, described: Block, seeds: int) -> Block:
    """The smallest margin that the test split can prove, at least the default, and why."""
    metric, test = METRICS[block["metric"]], described["splits"]["test"]
    unit = "groups of test rows" if "groups" in test else "test rows"
    design = power.Design(rows=test.get("groups", test["rows"]), seeds=seeds, arms=ARMS)
    if not metric.share or not design.decides:
        why = f"in the unit of {block['metric']}; what the test rows can prove of it is known after the runs"
        return {"margin": 0.01, "why": why}
    least = max(0.01, math.ceil(1000 * power.margin_equivalent(design)) / 1000)
    margin = min(least, metric.largest_margin)
    if margin == 0.01:
        return {"margin": margin, "why": "a point, which so many test rows can prove"}
    needed = power.rows_needed(0.01, design)
    proven = f"the smallest that {design.rows:,} {unit} can prove" if margin == least else "the largest that is allowed"
    return {"margin": margin, "why": f"{proven}, if arms disagree on 7 % of them; for 0.01 about {needed:,} are needed"}


def _seen(asked: Asked, columns: Mapping[str, Column], roles: Roles, texts: Sequence[tuple[str, ...]]) -> str:
    """What the file has, in one line."""
    parts = [f"{len(texts):,} rows"]
    if (label := roles.keys.get("label")) is not None:
        values = columns[label].filled
        if roles.task == CLASSIFICATION:
            counts = Counter(map(str, values)).most_common()
            name, count = counts[-1]
            parts.append(f"{label}: {len(counts)} classes, the rarest {name} ({count:,} rows)")
        else:
            numbers = [float(value) for value in values if _is_number(value)]
            parts.append(f"{label}: numbers from {min(numbers):g} to {max(numbers):g}" if numbers else label)
    words = [sum(len(WORD.findall(text)) for text in own) for own in texts]
    parts.append(f"texts of {min(words):,} to {max(words):,} words")
    if twice := len(texts) - len(set(texts)):
        parts.append(f"{twice:,} texts repeated")
    return "; ".join(parts)


def _name(path: str) -> str:
    """A data set's name, of its file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(path).stem).strip("._-")[:64] or "data"


def _yaml(value: Any) -> str:
    """A value as it stands in a line of YAML."""
    if isinstance(value, float) and value < 0.001:
        return f"{value:.1e}".replace("e-0", "e-")
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _comment(text: str) -> str:
    """A comment at the end of a line; nothing where nothing is said."""
    shown = "".join(sign if sign.isprintable() else " " for sign in text)
    return f" # {' '.join(shown.split())}" if text else ""


def _render(given: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(REPOSITORY / TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"yaml": _yaml, "comment": _comment}
    return environment.get_template("draft/config.yaml.j2").render(given)


def _check(text: str) -> None:
    """Raise InputError unless the configuration plans, with a commit where one is to be filled in."""
    config = yaml.safe_load(text)
    for model in config["models"].values():
        if model.get("revision") == UNKNOWN:
            model["revision"] = "0" * 40
    experiment = resolve(config)
    check_paths(experiment)
    check_planned(experiment)


def _said(given: Mapping[str, Any], roles: Roles) -> list[str]:
    block, training, base = given["block"], given["training"], given["model"]
    metric = f"{roles.task}, judged by {block['metric']}; a difference of {given['margin']['margin']:g} counts as none"
    return [
        f"full fine-tuning, LoRA and QLoRA (ranks 8 and 32) of {base.name} on {given['asked'].train}",
        f"seen: {given['comments']['dataset']}",
        f"seen: {training['seen'] if training['device'] == 'cuda' else 'no GPU, so device: cpu; on a GPU set cuda and bf16'}",
        *(f"assumed: {said}" for said in roles.guessed[:2]),
        f"assumed: {metric}",
        *([f"to fill in: models.{base.name}.revision: {base.lacking}"] if base.lacking else []),
    ]

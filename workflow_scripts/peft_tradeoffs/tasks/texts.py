"""Texts of which a model learns the next token: completions of prompts, the assistant's turns of chats, or all."""

import abc
import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from peft_tradeoffs.core.errors import Faults, InputError, RowError
from peft_tradeoffs.core.files import PREDICTIONS, REMEDY, SCORES, read_text
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.tasks.classes import Column, Names, clean, encodable
from peft_tradeoffs.tasks.metrics import OF_TEXT, OUTPUTS, TOKENS, Scored, names_of
from peft_tradeoffs.tasks.outputs import STATISTICS, refuse_calls, written_before

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # as a token's label: it is no target
OF_TOKENIZER = "tokenizer"  # value of chat_template: the one that comes with the tokenizer
ROLES = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "human": "user",
    "gpt": "assistant",
}
KEPT = ("name", "tool_calls", "tool_call_id", "reasoning_content")  # of a turn, beside role and content
DATE = "26 Jul 2024"  # that templates write as today's: tokens are to be the same on any day
ALPACA = (
    "Below is an instruction that describes a task{with_input}. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n{instruction}\n\n{input}### Response:\n"
)  # Taori and others, Stanford Alpaca, 2023
WITH_INPUT = ", paired with an input that provides further context"
COMPLETION, MESSAGES, PLAIN = "completion", "messages", "plain"  # kinds of rows
FACTS = ("kind", "chat_template", "last", "alpaca", "generates")  # of a form, that its data set keeps


@dataclass(frozen=True)
class Form:
    """How a row's texts become tokens, and which of them are targets, as `NextToken.form` reads it of a block."""

    kind: str  # COMPLETION: (prompt, completion); MESSAGES: a chat as JSON; PLAIN: a text
    chat_template: str | None = None  # OF_TOKENIZER, or Jinja; None: texts are joined as they are
    last: bool = False  # of a chat: only the assistant's last turn is a target
    alpaca: bool = False  # prompts are instructions
    columns: tuple[str, ...] = ()  # that are read of the source
    generates: bool = False  # models answer the prompts of a split, so these become tokens of their own
    references: str | None = None  # the column of further ones of an answer

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> "Form":
        """The form that `facts` gave."""
        return cls(**{name: found[name] for name in FACTS})

    def facts(self) -> dict[str, Any]:
        """What dataset.json keeps of it."""
        return {name: getattr(self, name) for name in FACTS}


@dataclass(frozen=True)
class Encoded:
    """One row's tokens, at most max_length of them, which are targets, and how many there were before truncation."""

    ids: list[int]
    targets: list[bool]
    length: int
    prompt: list[int] | None = None  # what a model is given to write the last target from; None: it writes none
    begins: str | None = ""  # as outputs.written_before


class NextToken(abc.ABC):
    """What supervised fine-tuning and language modelling have in common: a causal model, a loss per target token.

    `task.Task` says what the methods are for.
    """

    name: ClassVar[str]
    metrics: tuple[str, ...] = names_of(TOKENS)
    libraries: tuple[str, ...] = ()
    keys: ClassVar[tuple[str, ...]] = ()  # of a data set's block, that it alone takes
    auto_class = "AutoModelForCausalLM"
    model_kind = "causal language model"
    peft_task_type = "CAUSAL_LM"
    pipeline_tag = "text-generation"
    no_positive_class = "no classes"
    columns: ClassVar[Mapping[str, type]] = {"row": int, "loss": float, "tokens": float, "right": float}

    # data

    @property
    def reader(self) -> "NextToken":
        return self

    @abc.abstractmethod
    def form(self, key: str, block: Mapping[str, Any]) -> Form:
        """How a data set's block, which the configuration has as `key`, says that rows become tokens.

        Raises InputError for a block that does not say it.
        """

    @abc.abstractmethod
    def texts(
        self, form: Form, columns: Mapping[str, Sequence[Any]], places: Sequence[int], faults: Faults
    ) -> list[tuple[str, ...]]:
        """The text or two of each of n rows, from its columns [n]; what is wrong at a place [n] goes to `faults`."""

    @abc.abstractmethod
    def encode(
        self, tokenizer: "PreTrainedTokenizerBase", texts: Sequence[tuple[str, ...]], form: Form, max_length: int
    ) -> list[Encoded]:
        """The tokens of each row. Raises InputError for what the tokenizer or a chat's template does not take."""

    def prompt(self, form: Mapping[str, Any]) -> tuple[str, list[str]]:
        """For a card, arguments of the tokenizer that make inputs to go on with, and lines of Python before it.

        `form` is what `Form.facts` gave.
        """
        template = form["chat_template"]
        if template is None:
            instruction = ALPACA.format(with_input="", instruction="an instruction", input="")
            return repr(instruction) if form["alpaca"] else '"a prompt"', []
        own = [] if template == OF_TOKENIZER else [f"tokenizer.chat_template = {template!r}"]
        turns = '[{"role": "user", "content": "a prompt"}]'
        return "text, add_special_tokens=False", [
            *own,
            f"text = tokenizer.apply_chat_template({turns}, tokenize=False, add_generation_prompt=True)",
        ]

    def read_labels(
        self, label: str, columns: Mapping[str, Column], warnings: list[str]
    ) -> tuple[Names, dict[str, np.ndarray]]:
        """Rows have no labels: zeros."""
        return None, {split: np.zeros(len(column.places), dtype=np.int64) for split, column in columns.items()}

    def arrange(
        self, key: str, block: Mapping[str, Any], names: Names, labels: Mapping[str, np.ndarray]
    ) -> tuple[Names, dict[str, np.ndarray]]:
        return names, dict(labels)

    def strata(self, labels: np.ndarray) -> np.ndarray:
        return np.zeros(len(labels), dtype=np.int64)

    def shown(self, label: Any, names: Names) -> str:
        return "a text"

    def counts(self, labels: np.ndarray, names: Names) -> dict[str, int] | None:
        return None

    def positive_class(self, names: Names) -> str | None:
        return None

    # model

    def outputs(self, names: Names) -> int:
        return 0

    def model_fields(self, outputs: int) -> dict[str, Any]:
        return {}

    def output_names(self, names: Names) -> Names:
        return None

    def head(self, model: Any, named: list[str] | None = None) -> list[str]:
        """None: the checkpoint has the head, which is one of its layers. Raises InputError for some that are named."""
        if named:
            raise InputError(f"config key models.*.head: a {self.model_kind} has its head already; remove the key")
        return []

    # training

    def scale(self, labels: np.ndarray) -> None:
        return None

    def loss(self, output: Any) -> "torch.Tensor":
        mean: torch.Tensor = output.loss
        return mean

    def weight(self, labels: "torch.Tensor", rows: "torch.Tensor") -> "torch.Tensor":
        """The target tokens of the rows; `labels` [n] are those of every row."""
        return labels.index_select(0, rows).sum()

    # evaluation

    def answers(self, logits: np.ndarray) -> np.ndarray:
        return logits[:, 0]

    def predicted(self, rows: np.ndarray, target: np.ndarray, logits: np.ndarray) -> Scored:
        return Scored(rows, logits[:, 1], logits[:, 0], logits)

    def evaluate(self, scored: Scored) -> dict[str, float | None]:
        found: dict[str, float | None] = dict.fromkeys(("loss", *metrics.NAMES))
        kinds = (TOKENS,) if scored.written is None else (TOKENS, OUTPUTS)
        own = (metrics.METRICS[name] for name in self.metrics)
        found |= {metric.name: metric.of(scored) for metric in own if metric.task in kinds}
        return found | {"loss": found["token_loss"]}

    def spread(self, scored: Scored) -> float | None:
        return None

    def right(self, scored: Scored) -> np.ndarray | None:
        return None

    # the predictions file

    def write(self, path: Path, scored: Scored) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["row", *OF_TEXT])
            for row, (loss, tokens, right) in zip(scored.rows, scored.logits, strict=True):
                writer.writerow([row, format(loss, ".17g"), int(tokens), int(right)])

    def read(self, path: Path, columns: Mapping[str, np.ndarray], count: int) -> Scored:
        try:
            rows = columns["row"]
            numbers = np.column_stack([columns[name] for name in OF_TEXT]).astype(float)
        except (KeyError, ValueError) as error:
            raise InputError(f"{path}: not a run's predictions ({error}); {REMEDY}") from None
        if len(rows) != count:
            raise InputError(f"{path}: {len(rows)} rows, but the run's summary says {count}; {REMEDY}")
        loss, tokens, right = numbers.T
        with np.errstate(invalid="ignore"):
            whole = np.isfinite(numbers).all(axis=1) & (numbers[:, 1:] == np.floor(numbers[:, 1:])).all(axis=1)
            broken = ~(whole & (loss >= 0) & (tokens >= 1) & (right >= 0) & (right <= tokens))
        if broken.any():
            where = f"the first in line {int(broken.argmax()) + 2}"
            raise InputError(f"{path}: {broken.sum()} rows that no model gives, {where}; {REMEDY}")
        # answers are to the prompts of the test split alone, so those on heldout have no scores beside them
        written = read_scores(path.with_name(SCORES), rows) if path.name == PREDICTIONS else None
        return replace(self.predicted(rows, tokens, numbers), written=written)

    # words

    def apart(self, rows: str) -> str:
        return f"they give {rows} another loss, and the sum of the losses of a row's tokens"

    def answer(self, prediction: str | None, names: Sequence[Any] | None) -> str:
        return "the same loss"

    def head_options(self, names: Names) -> tuple[list[str], list[str]]:
        return [], []

    def usage(self, inputs: str, targets: Mapping[str, Any] | None) -> list[str]:
        return [
            "model.eval()",
            f'inputs = tokenizer({inputs}, return_tensors="pt")',
            "with torch.no_grad():",
            "    output = model.generate(**inputs, max_new_tokens=64, do_sample=False)",
            'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
        ]


class LanguageModelling(NextToken):
    """Plain texts, of which every token counts but the first."""

    name = "lm"

    def form(self, key: str, block: Mapping[str, Any]) -> Form:
        refuse_keys(key, block, self.name, OF_SFT)
        text = [DOCSTRING] if block["source"] == "docstrings" else block.get("text") or []
        if len(text) != 1:
            raise InputError(f"config key {key}.text: {self.name} takes one text column; name it, as in text: [text]")
        return Form(PLAIN, columns=tuple(text))

    def check_block(self, key: str, block: Mapping[str, Any]) -> None:
        refuse_keys(key, block, self.name, UNLABELLED)
        self.form(key, block)

    def texts(
        self, form: Form, columns: Mapping[str, Sequence[Any]], places: Sequence[int], faults: Faults
    ) -> list[tuple[str, ...]]:
        (column,) = form.columns
        return [(_text(value, column, place, faults),) for place, value in zip(places, columns[column], strict=True)]

    def encode(
        self, tokenizer: "PreTrainedTokenizerBase", texts: Sequence[tuple[str, ...]], form: Form, max_length: int
    ) -> list[Encoded]:
        found = []
        for ids in tokenizer([text for (text,) in texts], verbose=False)["input_ids"]:
            targets = [False, *[True] * (len(ids) - 1)] if ids else []
            found.append(Encoded(ids[:max_length], targets[:max_length], len(ids)))
        return found


DOCSTRING = "text"  # the column of a docstring
ANY_TEXT: NextToken = LanguageModelling()  # reads a general text, whatever the task
GENERAL = "general"  # the split that it is, on which the loss is taken before training and after
OF_SFT = (
    *("prompt", "completion", "instruction", "input", "output", "messages", "tools", "chat_template", "loss_on"),
    *("generate", "references"),
)


class SupervisedFineTuning(NextToken):
    """Completions of prompts, or the assistant's turns of chats; the rest is read and no target."""

    name = "sft"
    metrics = (*names_of(TOKENS), *names_of(OUTPUTS))
    keys = OF_SFT

    def form(self, key: str, block: Mapping[str, Any]) -> Form:
        found, references = self._form(key, block), block.get("references")
        if references in found.columns:
            raise InputError(f"config key {key}.references: {references} is read already; name another column")
        return replace(found, references=references)

    def _form(self, key: str, block: Mapping[str, Any]) -> Form:
        ways = {"prompt": ("prompt", "completion"), "instruction": ("instruction", "output"), "messages": ("messages",)}
        given = [first for first, keys in ways.items() if any(block.get(one) is not None for one in keys)]
        if len(given) != 1:
            said = f"{' and '.join(given)} are two ways at once" if given else "none is given"
            raise InputError(
                f"config key {key}: {self.name} takes the columns prompt and completion, or instruction, input and "
                f"output, or messages; {said}"
            )
        way = given[0]
        for one in ways[way]:
            if block.get(one) is None:
                raise InputError(f"config key {key}.{one}: {way} needs it too; name the column")
        if block.get("input") is not None and way != "instruction":
            raise InputError(f"config key {key}.input: it goes with instruction and output; remove it")
        template, last = block.get("chat_template"), block.get("loss_on") == "last"
        generates = block.get("generate") is not None
        if template not in (None, OF_TOKENIZER) and "{{" not in template and "{%" not in template:
            raise InputError(
                f"config key {key}.chat_template: {template!r:.60} is no template in Jinja, without {{{{ or {{%; "
                f"write one out (it is no file's name), or {OF_TOKENIZER} for the one that comes with the model"
            )
        if way == "messages":
            columns = tuple(block[one] for one in ("messages", "tools") if block.get(one) is not None)
            if len(set(columns)) < len(columns):
                raise InputError(f"config key {key}.tools: {columns[1]} is read as messages; name another column")
            return Form(MESSAGES, template or OF_TOKENIZER, last, columns=columns, generates=generates)
        if block.get("tools") is not None:
            raise InputError(f"config key {key}.tools: they go with messages; remove it")
        if block.get("loss_on") is not None:
            raise InputError(f"config key {key}.loss_on: it goes with messages, whose turns it tells apart; remove it")
        names = [block[one] for one in (way, "input", ways[way][1]) if block.get(one) is not None]
        if len(set(names)) < len(names):
            raise InputError(f"config key {key}.{ways[way][1]}: {names[-1]} is read before it too; name another column")
        alpaca = way == "instruction"
        return Form(COMPLETION, template, alpaca=alpaca, columns=tuple(names), generates=generates)

    def check_block(self, key: str, block: Mapping[str, Any]) -> None:
        if block["source"] == "docstrings":
            raise InputError(f"config key {key}.task: docstrings have no completions; take lm, or another source")
        refuse_keys(key, block, self.name, UNLABELLED)
        if block.get("text") is not None:
            raise InputError(f"config key {key}.text: {self.name} reads prompt and completion, or messages; remove it")
        self.form(key, block)

    def texts(
        self, form: Form, columns: Mapping[str, Sequence[Any]], places: Sequence[int], faults: Faults
    ) -> list[tuple[str, ...]]:
        if form.kind == MESSAGES:
            chats, *tools = (columns[name] for name in form.columns)
            of_row = tools[0] if tools else [None] * len(chats)
            return [
                (_chat(chat, own_tools, form.columns, _Place(place, faults)),)
                for place, chat, own_tools in zip(places, chats, of_row, strict=True)
            ]
        *before, completion = form.columns
        rows = zip(places, *(columns[name] for name in form.columns), strict=True)
        found: list[tuple[str, ...]] = []
        for place, *values in rows:
            own = [
                _text(value, name, place, faults, may_lack=bool(i))
                for i, (name, value) in enumerate(zip(before, values, strict=False))
            ]
            prompt = _instruction([*own, ""][:2], form.chat_template is not None) if form.alpaca else own[0]
            found.append((prompt, _text(values[-1], completion, place, faults)))
        return found

    def encode(
        self, tokenizer: "PreTrainedTokenizerBase", texts: Sequence[tuple[str, ...]], form: Form, max_length: int
    ) -> list[Encoded]:
        if not tokenizer.is_fast:
            raise InputError("the tokenizer does not say where its tokens stand; take a model with a tokenizer.json")
        if form.kind == COMPLETION and form.chat_template is None:
            return _completions(tokenizer, texts, form.generates, max_length)
        template = template_of(tokenizer, form.chat_template)
        special = [*tokenizer.all_special_tokens, *_special(tokenizer).values()]
        found, prompts, begins = [], [], []
        for number, own in enumerate(texts):
            if form.kind == MESSAGES:
                read = json.loads(own[0])
                chat = _Chat(read["messages"], read["tools"]) if isinstance(read, dict) else _Chat(read)
            else:
                chat = _Chat([{"role": "user", "content": own[0]}, {"role": "assistant", "content": own[1]}])
            try:
                found.append(_turns(tokenizer, chat, template, form.last, max_length))
                if form.generates:
                    last = chat.answered[-1]
                    refuse_calls(chat.messages[last])
                    prompts.append(_render(tokenizer, chat.until(last), template, prompt=True))
                    turn = _render(tokenizer, chat.until(last + 1), template)
                    begins.append(written_before(turn, prompts[-1], chat.messages[last]["content"], special))
            except InputError as error:
                raise RowError(number, str(error)) from error
        if not form.generates:
            return found
        given = tokenizer(prompts, add_special_tokens=False, verbose=False)["input_ids"]
        return [replace(row, prompt=ids, begins=own) for row, ids, own in zip(found, given, begins, strict=True)]


def _special(tokenizer: "PreTrainedTokenizerBase") -> dict[int, str]:
    """The added tokens that are special, those of no name too, such as an end of a turn that is not eos."""
    return {index: token.content for index, token in tokenizer.added_tokens_decoder.items() if token.special}


def read_scores(path: Path, rows: np.ndarray) -> np.ndarray | None:
    """What each answer to `rows` [n] adds to its metrics, float64 [n, k], the columns `outputs.STATISTICS`.

    None where there is no such file: no answers were asked for, or they are not scored yet. Raises InputError for one
    of other rows, or that is broken.
    """
    if not path.exists():
        return None
    try:
        header, *lines = csv.reader(read_text(path, REMEDY).splitlines())
        table = np.array([[float(cell or "nan") for cell in line] for line in lines])
        if header != ["row", *STATISTICS] or not np.array_equal(table[:, 0], rows):
            raise ValueError("not the scores of the answers beside it")
        return table[:, 1:]
    except (ValueError, IndexError) as error:
        raise InputError(f"{path}: not scores that a run has ({error}); {REMEDY}") from None


UNLABELLED = ("label", "positive_class")  # keys of data with labels


def template_of(tokenizer: "PreTrainedTokenizerBase", template: str | None) -> str:
    """The chat template that is meant. Raises InputError where there is none, or it writes the day of its use."""
    if template == OF_TOKENIZER:
        try:
            template = tokenizer.get_chat_template()
        except ValueError as error:
            raise InputError(
                "the tokenizer has no chat template; give one as `chat_template`, or take the instruct model of this "
                "family"
            ) from error
    assert template is not None
    refuse_date(template)
    return template


def refuse_date(template: str) -> None:
    """Raise InputError for a chat template that writes the day of its use."""
    if "strftime_now" in template and "date_string" not in template:
        raise InputError(
            "the chat template writes the day on which it is used, so tokens would be others tomorrow; give a "
            "`chat_template` with a date in place of strftime_now"
        )


def refuse_keys(key: str, block: Mapping[str, Any], task: str, keys: Sequence[str]) -> None:
    """Raise InputError for one of these keys in the block of a data set, of a task that does not take them."""
    for one in keys:
        if block.get(one) is not None:
            raise InputError(f"config key {key}.{one}: {task} does not take it; remove it")


def _text(value: Any, column: str, place: int, faults: Faults, may_lack: bool = False) -> str:
    """A text; what is none goes to `faults`."""
    if value is None or (isinstance(value, str) and not clean(value)):
        if not may_lack:
            faults.add(place, f"empty text in {column!r}", "fill in or remove")
        return ""
    if not isinstance(value, str):
        faults.add(
            place, f"{column!r} is {type(value).__name__}, not text", "name a text column, or write this one as text"
        )
        return ""
    if not encodable(value):
        faults.add(place, f"{column!r} has half of a surrogate pair", "correct the escapes")
        return ""
    return value


def _instruction(own: list[str], chat: bool) -> str:
    """A prompt of an instruction and its input, which may be empty: a user's turn, or as Alpaca's are written."""
    instruction, given = own
    if chat:
        return f"{instruction}\n\n{given}" if given else instruction
    with_input = (
        {"with_input": WITH_INPUT, "input": f"### Input:\n{given}\n\n"} if given else {"with_input": "", "input": ""}
    )
    return ALPACA.format(instruction=instruction, **with_input)


@dataclass(frozen=True)
class _Place:
    """Where a row stands, and what is wrong with such."""

    number: int
    faults: Faults


@dataclass(frozen=True)
class _Chat:
    """The turns of a chat, and the tools that it may call."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None

    def until(self, number: int) -> "_Chat":
        """The chat's first turns."""
        return _Chat(self.messages[:number], self.tools)

    @property
    def answered(self) -> list[int]:
        """Which turns are the assistant's."""
        return [number for number, turn in enumerate(self.messages) if turn["role"] == "assistant"]


class _Refused(Exception):
    """What is wrong with a chat, and what helps."""


def _chat(value: Any, tools: Any, columns: Sequence[str], at: "_Place") -> str:
    """A chat as JSON, its turns in the words role and content, with its tools if there are any.

    `columns` are those of the chat and of its tools. What is none goes to the faults of the place.
    """
    column = columns[0]
    try:
        if tools is not None and tools != "":
            column = columns[1]
            tools = _tools(tools)
            column = columns[0]
        turns = [_turn(turn) for turn in _listed(value)]
        if all(turn["role"] != "assistant" for turn in turns):
            raise _Refused("has no assistant's turn", "add one, or remove the row: nothing is learned of it")
        if turns[0]["role"] == "assistant":
            raise _Refused("begins with the assistant's turn", "put a user's turn before it, or remove the row")
        try:
            found = json.dumps({"messages": turns, "tools": tools} if tools else turns, ensure_ascii=False)
        except (TypeError, ValueError):
            raise _Refused("has a turn that is no JSON", "write texts, numbers, lists and mappings") from None
        if not encodable(found):
            raise _Refused("has half of a surrogate pair", "correct the escapes")
        return found
    except _Refused as refused:
        what, remedy = refused.args
        at.faults.add(at.number, f"{column!r} {what}", remedy)
        return ""


def _tools(value: Any) -> list[dict[str, Any]]:
    """The tools of a chat, which may be written as JSON."""
    remedy = "write a list as OpenAI's: type function, and its name, description and parameters"
    found = _parsed(value, "is text and no JSON list of tools", remedy)
    if not isinstance(found, list) or not all(isinstance(tool, dict) for tool in found):
        raise _Refused("is no list of tools", remedy)
    for tool in found:
        own = tool.get("function", tool)
        if not isinstance(own, dict) or not isinstance(own.get("name"), str):
            raise _Refused("has a tool without a name", remedy)
    return found


def _calls(value: Any) -> list[dict[str, Any]]:
    """The calls of a turn, and each call's arguments, which may be written as JSON: templates take mappings."""
    remedy = "write a list as OpenAI's: type function, and its name and arguments"
    found = _parsed(value, "has tool_calls that are text and no JSON", remedy)
    if not isinstance(found, list) or not all(isinstance(call, dict) for call in found):
        raise _Refused("has tool_calls that are no list of calls", remedy)
    calls = []
    for call in found:
        own = call.get("function", call)
        if not isinstance(own, dict) or not isinstance(own.get("name"), str):
            raise _Refused("has a call without the name of a tool", remedy)
        if "arguments" in own:
            said = f"has a call of {own['name']!r:.40} whose arguments are no JSON"
            own = {**own, "arguments": _parsed(own["arguments"], said, remedy)}
        calls.append({**call, "function": own} if "function" in call else own)
    return calls


def _parsed(value: Any, what: str, remedy: str) -> Any:
    """What a text in JSON says; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise _Refused(what, remedy) from None


def _listed(value: Any) -> list[Any]:
    """The turns of a chat, which may be written as JSON."""
    remedy = "write a list of turns with role and content"
    value = _parsed(value, "is text and no JSON list of turns", remedy)
    if not isinstance(value, list) or not value:
        raise _Refused("is no list of turns", remedy)
    return value


def _turn(turn: Any) -> dict[str, Any]:
    """A turn as templates take it."""
    if not isinstance(turn, dict) or not {"role", "from"} & set(turn):
        raise _Refused("has a turn without a role", "write role and content, or from and value")
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if not isinstance(role, str) or role not in ROLES:
        raise _Refused(f"has the role {role!r:.40}", f"one of {', '.join(ROLES)} is known")
    calls = turn.get("tool_calls")
    if not isinstance(content, str) and not (content is None and calls):
        raise _Refused("has a turn without a text", "fill in its content, or remove the row")
    if ROLES[role] == "assistant" and not calls and not clean(content or ""):
        raise _Refused("has an assistant's turn that is empty", "fill it in, or remove the row")
    rest = {key: turn[key] for key in KEPT if turn.get(key) is not None}
    if calls:
        rest["tool_calls"] = _calls(calls)
    return {"role": ROLES[role], "content": content, **rest}


def _completions(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[tuple[str, ...]], generates: bool, max_length: int
) -> list[Encoded]:
    """Prompt and completion as one text, parted by where tokens stand in it; the end of the text is a target too.

    A token that stands in both is of the completion. Where a model is to answer the prompts (`generates`) they are
    tokenised alone too, as whoever asks it does.
    """
    whole = tokenizer([prompt + completion for prompt, completion in texts], return_offsets_mapping=True, verbose=False)
    end, found = tokenizer.eos_token_id, []
    if end is None:
        raise InputError("the tokenizer has no eos token, so a completion would never end; set its eos_token")
    alone = tokenizer([prompt for prompt, _ in texts], verbose=False)["input_ids"] if generates else [None] * len(texts)
    rows = zip(texts, alone, whole["input_ids"], whole["offset_mapping"], strict=True)
    special = [*tokenizer.all_special_tokens, *_special(tokenizer).values()]
    for (prompt, completion), given, ids, offsets in rows:
        targets = [finish > len(prompt) for _, finish in offsets]
        if ids and ids[-1] == end:
            targets[-1] = True
        else:
            ids, targets = [*ids, end], [*targets, True]
        given = given[:-1] if given and given[-1] == end else given  # that a tokenizer puts behind every text
        begins = None if any(token in completion for token in special) else ""
        found.append(replace(_cut(ids, targets, max_length), prompt=given, begins=begins))
    return found


def _cut(ids: list[int], targets: list[bool], max_length: int) -> Encoded:
    """Without what is beyond max_length; the first token is predicted from none, so it is no target."""
    return Encoded(ids[:max_length], [False, *targets[1:max_length]], len(ids))


GENERATION = re.compile(r"{%-?\s*generation\b")  # with which a template says itself what the assistant writes


def _turns(
    tokenizer: "PreTrainedTokenizerBase",
    chat: _Chat,
    template: str,
    last: bool,
    max_length: int,
) -> Encoded:
    """A chat by its template; targets are the assistant's turns, each with what ends it."""
    text = _render(tokenizer, chat, template)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
    if GENERATION.search(template):
        spans = _marked(tokenizer, chat, template, offsets)
    else:
        spans = _assistants(tokenizer, chat, template, text, last)
    special = {*tokenizer.all_special_ids, *_special(tokenizer)}
    targets = [False] * len(ids)
    for begins, ends in spans[-1:] if last else spans:
        own = [place for place, (start, finish) in enumerate(offsets) if start < ends and finish > begins]
        closing = [place for place in own if ids[place] in special]
        if closing:  # a line break after the end of the turn is not the assistant's
            own = [place for place in own if place <= closing[-1]]
        for place in own:
            targets[place] = True
    return _cut(ids, targets, max_length)


def _assistants(
    tokenizer: "PreTrainedTokenizerBase", chat: _Chat, template: str, text: str, last: bool
) -> list[tuple[int, int]]:
    """Where the assistant's turns, or the last one, begin and end in the text: what each adds to the chat before it."""
    found = []
    for number in chat.answered[-1:] if last else chat.answered:
        before = _render(tokenizer, chat.until(number), template, prompt=True)
        after = _render(tokenizer, chat.until(number + 1), template)
        if not (text.startswith(after) and after.startswith(before)):
            raise InputError(
                "the chat template writes a turn otherwise once others follow, so what the assistant writes cannot "
                "be found; give a `chat_template` that marks it with {% generation %}, or set `loss_on: last`"
            )
        found.append((len(before), len(after)))
    return found


def _marked(
    tokenizer: "PreTrainedTokenizerBase",
    chat: _Chat,
    template: str,
    offsets: Sequence[tuple[int, int]],
) -> list[tuple[int, int]]:
    """Where a template that marks what the assistant writes says that it does."""
    marked = tokenizer.apply_chat_template(
        chat.messages,
        tools=chat.tools,
        chat_template=template,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        date_string=DATE,
    )
    mask = np.asarray(marked["assistant_masks"], dtype=bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(offsets[first][0], offsets[end - 1][1]) for first, end in edges.reshape(-1, 2).tolist()]


def _render(tokenizer: "PreTrainedTokenizerBase", chat: _Chat, template: str, prompt: bool = False) -> str:
    """The text of a chat. Raises InputError for a template that refuses it."""
    try:
        found = tokenizer.apply_chat_template(
            chat.messages,
            tools=chat.tools,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=prompt,
            date_string=DATE,
        )
    except Exception as error:  # a template raises what it likes
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"the chat template refuses a chat: {said}; correct the row, or give another `chat_template`"
        ) from error
    return str(found)

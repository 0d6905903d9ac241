"""References: what is right of a prompt, of a row's completion or last turn and of a column of further ones."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from peft_tradeoffs.core.errors import Faults, InputError
from peft_tradeoffs.tasks.classes import clean, encodable

REMEDY = (
    "write a text, or in JSON lines and Parquet a list of texts; a row that has no further reference repeats its own"
)


def further_references(
    column: str, values: Sequence[Any], places: Sequence[int], faults: Faults
) -> list[tuple[str, ...]]:
    """The further references of n rows, a text or a list of texts each; what is none goes to `faults`."""
    found = []
    for place, value in zip(places, values, strict=True):
        own = tuple(value) if isinstance(value, list) else (value,)
        if fault := _fault(own, isinstance(value, list)):
            faults.add(place, f"{column!r} {fault}", REMEDY)
        found.append(own)
    return found


def _fault(own: tuple[Any, ...], listed: bool) -> str:
    """What is wrong with the further references of a row; "" where nothing is."""
    if not own:
        return "is an empty list"
    start = "has in its list" if listed else "is"
    for one in own:
        if one is None:
            return f"{start} no text (null)"
        if not isinstance(one, str):
            return f"{start} {type(one).__name__}, not text"
        if not clean(one):
            return f"{start} an empty text"
        if not encodable(one):
            return "has half of a surrogate pair"
    return ""


def written_before(turn: str, prompt: str, content: str, special: Sequence[str]) -> str | None:
    """What a chat template writes in the assistant's turn before its content, as an answer has it: "" mostly.

    `turn` is the chat up to the end of that turn and `prompt` what the answer follows, both by the template; `special`
    tokens are no text of an answer. None where the turn does not go on from the prompt, or ends otherwise than its
    content, or that has special tokens in it: an answer as it was learned has other text than the reference then.
    """
    if not turn.startswith(prompt) or any(token in content for token in special):
        return None
    own = turn[len(prompt) :]
    for token in sorted(special, key=len, reverse=True):
        own = own.replace(token, "")
    own = own.strip()
    for end in (content.rstrip(), content.strip()):  # templates may trim a content
        if own.endswith(end):
            before = own[: len(own) - len(end)]
            return before if before.strip() else ""
    return None


def without_start(output: str, begins: str) -> str:
    """An answer without what a chat template `begins` every turn of the assistant with, where it begins so."""
    return output.lstrip().removeprefix(begins) if begins and output.lstrip().startswith(begins) else output


def refuse_calls(turn: Mapping[str, Any]) -> None:
    """Raise InputError for a last turn of the assistant that calls a tool: its text is no answer."""
    if turn.get("tool_calls") or not clean(turn["content"] or ""):
        raise InputError(
            "the assistant's last turn calls a tool, and answers are compared as texts; remove such rows, or `generate`"
        )


def reference_of(texts: Sequence[str], further: Sequence[str] = ()) -> tuple[Any, list[str]]:
    """Of a row as its data set keeps it what a model is asked, and what is right: a prompt, or turns of a chat.

    Its own completion is always right, `further` ones are beside it.
    """
    if len(texts) == 2:
        return texts[0], [texts[1], *further]
    read = json.loads(texts[0])
    turns = read["messages"] if isinstance(read, dict) else read
    last = max(number for number, turn in enumerate(turns) if turn["role"] == "assistant")
    return turns[:last], [turns[last]["content"] or "", *further]

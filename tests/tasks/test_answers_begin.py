"""An answer exactly as it was learned is an exact match, whatever a chat template writes around it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny_causal
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.datasets import fetch_dataset
from peft_tradeoffs.inputs.models import fetch_model
from peft_tradeoffs.inputs.tokens import BEGINS, carve_dev, encode_split, read_description, tokenize
from peft_tradeoffs.tasks.outputs import exact_match, reference_of, without_start, written_before
from peft_tradeoffs.tasks.task import TASKS

SPECIAL = ["<|im_start|>", "<|im_end|>"]
LOOP = "{% for message in messages %}<|im_start|>{{ message['role'] }}\n%s<|im_end|>\n{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
OF = "{% if message['role'] == 'assistant' %}"
THINKING = LOOP.replace("%s", OF + "<think>\n\n</think>\n\n{% endif %}{{ message['content'] }}") + PROMPT
TEMPLATES = {
    "as it is": (LOOP.replace("%s", "{{ message['content'] }}") + PROMPT, ""),
    "an empty thought": (THINKING, "<think>\n\n</think>\n\n"),
    "an empty thought, its text trimmed": (
        THINKING.replace("['content']", "['content'] | trim"),
        "<think>\n\n</think>\n\n",
    ),
    "a channel": (
        LOOP.replace("%s", OF + "<|endoftext|>final<|endoftext|>{% endif %}{{ message['content'] }}") + PROMPT,
        "final",
    ),
    "blanks": (LOOP.replace("%s", " {{ message['content'] | trim }} ") + PROMPT, ""),
    "no prompt for an answer": (LOOP.replace("%s", "{{ message['content'] }}"), "assistant\n"),
    "text rewritten": (LOOP.replace("%s", "{{ message['content'] | upper }}") + PROMPT, None),
    "a prompt that no turn begins with": (
        LOOP.replace("%s", "{% generation %}{{ message['content'] }}{% endgeneration %}")
        + PROMPT.replace("{% endif", "<think>{% endif"),
        None,
    ),
}
CONTENTS = ["d.*", "  spaced and\nbroken ", "im_end", "n", "<think>"]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("content", CONTENTS)
def test_what_was_learned_is_the_reference(name: str, content: str) -> None:
    template, begins = TEMPLATES[name]
    own, reader = tiny_causal.tokenizer(chat_template=template), TASKS["sft"].reader
    chat = [{"role": "user", "content": "the dog"}, {"role": "assistant", "content": content}]
    form = reader.form("x", {"messages": "m", "generate": {}, "chat_template": "tokenizer"})
    (row,) = reader.encode(own, [(json.dumps(chat),)], form, 512)
    if begins is None:
        assert row.begins is None
        return
    assert row.begins is not None and row.begins.rstrip(" ") == begins
    answer = own.decode(row.ids[len(row.prompt) :], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    (reference,) = reference_of([json.dumps(chat)])[1]
    assert exact_match(without_start(answer, row.begins), reference) == 1
    assert exact_match(answer, reference) == (begins == "")  # as it was without


def test_a_text_with_special_tokens_is_no_answer() -> None:
    assert written_before("<|im_start|>a<|im_end|>", "<|im_start|>", "a<|im_end|>", SPECIAL) is None
    assert written_before("<|im_start|>a<|im_end|>", "<|im_start|>", "a", SPECIAL) == ""


def test_an_answer_that_begins_otherwise_is_left_as_it_is() -> None:
    assert without_start("<think>\nso\n</think>\n\n7", "<think>\n\n</think>\n\n") == "<think>\nso\n</think>\n\n7"
    assert without_start(" 7", "") == " 7"
    assert without_start("\n<think></think>  7", "<think></think>") == "  7"


def tokenized(folder: Path, template: str, chats: list[list[dict[str, Any]]], **block: Any) -> dict[str, Any]:
    """The description of the tokens of chats with a model of this template; a dev split of them lies beside it."""
    tiny_causal.causal(folder / "model", chat_template=template)
    for name, own in (("train", chats), ("test", chats[:2])):
        rows = [{"messages": [{"role": "user", "content": name}, *chat]} for chat in own]
        tiny_causal.write_rows(folder / f"{name}.jsonl", rows)
    splits = {name: str(folder / f"{name}.jsonl") for name in ("train", "test")}
    given = {"source": "files", "splits": splits, "task": "sft", "messages": "messages", "generate": {}, **block}
    fetch_dataset(given, folder / "data/own")
    fetch_model({"source": "folder", "path": str(folder / "model")}, folder / "models/tiny.json")
    path = folder / "tokens.npz"
    tokenize(folder / "data/own", folder / "models/tiny", 128, path)
    carve_dev(path, 0.3, 0, folder / "dev.npz")
    return read_description(path)


def turns(text: str, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"say {text}"}, {"role": "assistant", "content": text, **more}]


def test_the_start_that_a_template_writes_is_kept_with_the_tokens(tmp_path: Path) -> None:
    found = tokenized(tmp_path, THINKING, [turns(f"text {number}") for number in range(8)])
    assert found[BEGINS] == "<think>\n\n</think>\n\n" and not [one for one in found["warnings"] if "exact match" in one]
    dev = read_description(tmp_path / "dev.npz")
    assert (dev[BEGINS], dev["data_sha256"]) == (found[BEGINS], found["data_sha256"])


REASONED = THINKING.replace("<think>\n\n", "<think>\n{{ message['reasoning_content'] }}\n")


def test_a_start_that_differs_between_rows_is_said_with_the_template(tmp_path: Path) -> None:
    chats = [turns(f"text {row}", reasoning_content="" if row else "so") for row in range(8)]
    found = tokenized(tmp_path, REASONED, chats)
    (said,) = [one for one in found["warnings"] if "exact match" in one]
    assert said.startswith(
        "An answer as it was learned is no exact match in 1 of 8 rows of train and 1 of 2 rows of test: the chat "
        "template of the tokenizer writes the assistant's last turn otherwise than its text, or behind a start that "
    )


def test_a_call_of_a_tool_is_still_no_answer(tmp_path: Path) -> None:
    calls = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
    with pytest.raises(InputError, match="the assistant's last turn calls a tool"):
        tokenized(tmp_path, THINKING, [turns(f"text {row}", tool_calls=calls) for row in range(3)])


def test_a_row_is_named_by_its_number_in_the_source(tmp_path: Path) -> None:
    """As where data is read; the split has rows that were drawn of it."""
    calls = [{"type": "function", "function": {"name": "f", "arguments": {}}}]
    rows = [json.dumps(turns("a")), json.dumps(turns("b", tool_calls=calls))]
    pd.DataFrame({"text_a": rows, "row": [5, 9]}).to_parquet(tmp_path / "test.parquet")
    reader = TASKS["sft"].reader
    form = reader.form("x", {"messages": "m", "generate": {}})
    own = tiny_causal.tokenizer()
    with pytest.raises(InputError, match=r"test.parquet, row 10: the assistant's last turn calls a tool"):
        encode_split(tmp_path / "test.parquet", own, reader, form, 64, None)
    with pytest.raises(InputError, match=r"test.parquet, rows 6, 10: token \d+ .* is beyond the model's 3 embeddings"):
        encode_split(tmp_path / "test.parquet", own, reader, replace(form, generates=False), 64, 3)

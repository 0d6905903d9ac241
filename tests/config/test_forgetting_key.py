"""The key `forgetting` of a data set: what it takes, and what is said of a mistake before any job starts."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_causal
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.config.preflight import check_paths, content
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs import datasets
from peft_tradeoffs.inputs.splits import Split
from peft_tradeoffs.tasks.texts import GENERAL

SFT = {"source": "files", "splits": {"train": "train.jsonl", "test": "test.jsonl"}, "task": "sft"}
SFT |= {"prompt": "prompt", "completion": "completion"}
FILE = {"source": "files", "path": "general.csv", "text": ["text"]}
HUB = {"source": "hub", "path": "owner/texts", "revision": "0" * 40, "split": "test", "text": ["text"]}
DOCSTRINGS = {"source": "docstrings", "packages": ["numpy", "pandas"]}


def settings(general: Any, dataset: dict[str, Any] = SFT) -> dict[str, Any]:
    return tiny.config(Path(), datasets={"regex": copy.deepcopy({**dataset, "forgetting": general})})


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working folder, with the files of a data set and its general text."""
    monkeypatch.chdir(tmp_path)
    tiny_causal.write_completions(tmp_path / "train.jsonl", 8)
    tiny_causal.write_completions(tmp_path / "test.jsonl", 8, 1)
    (tmp_path / "general.csv").write_text("text,n\nOne text.,1\nAnother text.,2\n")
    tiny_causal.causal(tmp_path / "model")
    return tmp_path


@pytest.mark.parametrize("general", [FILE, HUB, DOCSTRINGS])
def test_every_source_is_taken_and_its_rows_are_written_out(general):
    block = resolve(settings(general)).datasets["regex"].to_dict()
    assert block["forgetting"] == {**general, "rows": 500}
    assert "forgetting" not in resolve(settings(FILE) | tiny.config(Path())).datasets["reviews"].to_dict()


@pytest.mark.parametrize(
    ("general", "said"),
    [
        ({**FILE, "path": None}, "forgetting.path: nothing stands there; must be a text"),
        ({"source": "files", "text": ["text"]}, "forgetting.path: missing; add it"),
        ({"source": "files", "path": "general.csv"}, "forgetting.text: missing; add it"),
        ({**FILE, "text": ["a", "b"]}, "forgetting.text: ['a', 'b'] is too long"),
        ({**FILE, "text": "text"}, "forgetting.text: 'text' has the wrong type; must be a list"),
        ({**FILE, "split": "test"}, "forgetting.split: this key does not belong to this source; remove it"),
        ({**FILE, "splits": {}}, "forgetting.splits: unknown key; did you mean split?"),
        ({**HUB, "revision": "main"}, "forgetting.revision: 'main'"),
        ({key: HUB[key] for key in HUB if key != "split"}, "forgetting.split: missing; add it"),
        ({**DOCSTRINGS, "text": ["text"]}, "forgetting.text: this key does not belong to this source"),
        ({**FILE, "rows": 1}, "forgetting.rows: 1 is not allowed; must be at least 2"),
        ({**FILE, "path": "$NO_SUCH_NAME/a.csv"}, "forgetting.path: "),
    ],
)
def test_a_block_that_cannot_be(general, said):
    with pytest.raises(InputError) as error:
        resolve(settings(general))
    assert str(error.value).startswith(f"config key datasets.regex.{said}") and "\n" not in str(error.value)


def test_a_task_that_learns_no_tokens_has_none():
    reviews = tiny.config(Path())["datasets"]["reviews"]
    with pytest.raises(InputError) as error:
        resolve(settings(FILE, reviews))
    assert str(error.value) == (
        "config key datasets.regex.forgetting: classification learns no tokens, so it has no loss on a general text; "
        "remove it, or set task to sft or lm"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": "nowhere.csv"}, "no such file: nowhere.csv (relative paths start at "),
        ({"text": ["texts"]}, "general.csv: no column 'texts'; its columns are 'text', 'n'"),
    ],
)
def test_a_file_that_is_not_there_or_lacks_the_column(folder, change, said):
    check_paths(resolve(settings(FILE)))
    with pytest.raises(InputError) as error:
        check_paths(resolve(settings({**FILE, **change})))
    assert str(error.value).startswith(f"config key datasets.regex.forgetting.path: {said}")


def test_other_texts_are_fetched_anew_whatever_the_data_set_is_read_from(folder):
    docstrings = {**DOCSTRINGS, "fractions": {"test": 0.2}, "task": "lm"}
    blocks = [resolve(settings(FILE, of)).datasets["regex"].to_dict() for of in (SFT, docstrings)]
    before = [content(block) for block in blocks]
    assert content({**blocks[0], "forgetting": None}) != before[0] and content({**docstrings}) == ""
    (folder / "general.csv").write_text("text,n\nOne text.,1\nA third text.,2\n")
    assert all(content(block) != earlier for block, earlier in zip(blocks, before, strict=True))


@pytest.mark.parametrize(
    ("rows", "shared"),
    [
        ([("One  text.", "an answer"), ("a", "b")], 1),
        ([("One", "text."), ("Another text.", "b")], 2),
        ([('[{"role": "user", "content": "x"}, {"role": "assistant", "content": "One text."}]',)], 1),
        ([('{"messages": [{"role": "user", "content": "Another text."}], "tools": []}',)], 1),
        ([("One text", "Another"), ("[no JSON", "{")], 0),
    ],
    ids=["a cell", "a whole row", "a turn", "a turn of a chat with tools", "none"],
)
def test_general_texts_that_stand_in_training_rows_are_counted(rows, shared):
    def split(texts):
        return Split(texts, np.zeros(len(texts), np.int64), np.arange(len(texts)))

    general = split([("One text.",), ("Another text.",), ("A third.",)])
    said = datasets._trained_on({"train": split(rows), GENERAL: general})
    start = f"{shared} of the 3 general texts of `forgetting` stand in training rows too" if shared else ""
    assert said.startswith(start)
    assert bool(said) == bool(shared)

"""Further references of a row: read of a column, kept beside its texts, and refused with file and line."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny_causal
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.datasets import fetch_dataset
from peft_tradeoffs.inputs.groups import columns_of, needed_columns
from peft_tradeoffs.inputs.splits import read_references
from peft_tradeoffs.tasks.outputs import NUMBER

ROWS = [{"prompt": f"the {word}", "completion": word, "references": [word * 2, f"a {word}"]} for word in "abcd"]
WITHOUT = [{key: value for key, value in row.items() if key != "references"} for row in ROWS]
CHAT = [{"role": "user", "content": "the dog"}, {"role": "assistant", "content": "d.*"}]


def block(folder: Path, train: str = "train.jsonl", test: str | None = "test.jsonl", **changes: Any) -> dict[str, Any]:
    """A data set's block as a job is told of it."""
    splits = {"train": str(folder / train)} | ({"test": str(folder / test)} if test else {})
    way = {} if "messages" in changes else {"prompt": "prompt", "completion": "completion"}
    own = {"task": "sft", "references": "references", "generate": {}, "fractions": {}, "limit": {}}
    return {"source": "files", "splits": splits, **way, **own, **changes}


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    path = folder / name
    if path.suffix == ".jsonl":
        tiny_causal.write_rows(path, rows)
    elif path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        pd.DataFrame(rows).to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")


def fetched(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    fetch_dataset(given, folder / "data/own")
    return json.loads((folder / "data/own/dataset.json").read_text(encoding="utf-8"))


def right(folder: Path, split: str = "test", rows: tuple[int, ...] = (0, 1)) -> list[list[str]]:
    return [own for _, own in read_references(folder / f"data/own/{split}.parquet", rows)]


@pytest.mark.parametrize("name", ["test.jsonl", "test.parquet"])
def test_a_list_of_texts_is_beside_the_completion(tmp_path: Path, name: str) -> None:
    written(tmp_path, "train.jsonl", WITHOUT)
    unequal = [{**ROWS[0], "references": ["one"]}, *ROWS[1:]]
    written(tmp_path, name, [dict(row, prompt=f"{row['prompt']}?") for row in unequal])
    fetched(tmp_path, block(tmp_path, test=name))
    assert right(tmp_path) == [["a", "one"], ["b", "bb", "a b"]]
    assert right(tmp_path, "train") == [["a"], ["b"]]  # which has no such column, and is not answered


@pytest.mark.parametrize("name", ["test.csv", "test.tsv", "test.jsonl", "test.parquet"])
def test_a_text_is_one_reference_whatever_it_looks_like(tmp_path: Path, name: str) -> None:
    written(tmp_path, "train.jsonl", WITHOUT)
    written(tmp_path, name, [{**row, "prompt": "?" * i, "references": '[1, "x"]'} for i, row in enumerate(ROWS, 1)])
    fetched(tmp_path, block(tmp_path, test=name))
    assert right(tmp_path)[0] == ["a", '[1, "x"]']


def test_of_a_chat_the_last_turn_is_one_of_them(tmp_path: Path) -> None:
    for name, more in (("train", {}), ("test", {"references": ["dog", "d+"]})):
        chats = [[{**CHAT[0], "content": f"{name} {row}"}, CHAT[1]] for row in range(3)]
        written(tmp_path, f"{name}.jsonl", [{"messages": chat, **more} for chat in chats])
    fetched(tmp_path, block(tmp_path, messages="messages"))
    assert right(tmp_path) == [["d.*", "dog", "d+"]] * 2


def test_rows_of_one_prompt_are_no_references_of_each_other(tmp_path: Path) -> None:
    """They are a group; the key says what else is right."""
    written(tmp_path, "train.jsonl", WITHOUT)
    written(tmp_path, "test.jsonl", [{"prompt": "z" if text == "z" else "same", "completion": text} for text in "xyz"])
    found = fetched(tmp_path, block(tmp_path, references=None))
    assert right(tmp_path, rows=(0, 1, 2)) == [["x"], ["y"], ["z"]] and found["splits"]["test"]["groups"] == 2


def test_rows_that_are_carved_keep_their_own(tmp_path: Path) -> None:
    many = [{"prompt": f"p{i}", "completion": f"c{i}", "references": [f"r{i}"]} for i in range(40)]
    written(tmp_path, "train.jsonl", many)
    fetched(tmp_path, block(tmp_path, test=None, fractions={"test": 0.25}, limit={"test": 5}))
    rows = pd.read_parquet(tmp_path / "data/own/test.parquet")["row"].tolist()
    assert right(tmp_path, rows=tuple(rows)) == [[f"c{row}", f"r{row}"] for row in rows] and len(rows) == 5


def test_other_references_are_other_data_and_none_are_the_data_of_before(tmp_path: Path) -> None:
    written(tmp_path, "train.jsonl", WITHOUT)
    found = []
    asked = [{**row, "prompt": "?" + row["prompt"]} for row in ROWS]
    for references in (["x"], ["y"]):
        written(tmp_path, "test.jsonl", [{**row, "references": references} for row in asked])
        found += [fetched(tmp_path, block(tmp_path, **own))["sha256"] for own in ({}, {"references": None})]
    assert found[0] != found[2] and found[1] == found[3] != found[0]


BAD: dict[str, tuple[Any, str]] = {
    "an empty list": ([], r"test.jsonl, line 3: 'references' is an empty list; write a text, or in JSON lines"),
    "a number in a list": (["a", 4], r"line 3: 'references' has in its list int, not text"),
    "null in a list": (["a", None], r"line 3: 'references' has in its list no text \(null\)"),
    "an empty text in a list": (["a", " "], r"line 3: 'references' has in its list an empty text"),
    "an empty text": ("", r"line 3: 'references' is an empty text"),
    "null": (None, r"line 3: 'references' is no text \(null\); .* repeats its own"),
    "a number": (4, r"line 3: 'references' is int, not text"),
    "half of a surrogate pair": (["\ud800"], r"line 3: 'references' has half of a surrogate pair"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_reference_is_one_line(tmp_path: Path, name: str) -> None:
    value, said = BAD[name]
    written(tmp_path, "train.jsonl", WITHOUT)
    lines = [json.dumps({**row, "references": value if place == 2 else "x"}) for place, row in enumerate(ROWS)]
    (tmp_path / "test.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=said) as error:
        fetched(tmp_path, block(tmp_path))
    assert "\n" not in str(error.value)


def test_an_empty_field_of_a_csv_is_named(tmp_path: Path) -> None:
    written(tmp_path, "train.jsonl", WITHOUT)
    (tmp_path / "test.csv").write_text("prompt,completion,references\n?,a,x\n??,b,\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"test.csv, line 3: 'references' is an empty text"):
        fetched(tmp_path, block(tmp_path, test="test.csv"))


def test_a_column_that_is_not_there_is_named_where_answers_need_it(tmp_path: Path) -> None:
    written(tmp_path, "train.jsonl", WITHOUT)
    written(tmp_path, "test.jsonl", WITHOUT)
    with pytest.raises(InputError, match=r"test.jsonl.*: no column 'references'"):
        fetched(tmp_path, block(tmp_path))
    with pytest.raises(InputError, match=r"train.jsonl.*: no column 'references'"):
        fetched(tmp_path, block(tmp_path, test=None, fractions={"test": 0.25}))


def test_which_splits_need_it() -> None:
    def needs(splits: list[str], fractions: list[str]) -> list[str]:
        given = block(Path(), splits=dict.fromkeys(splits, ""), fractions=dict.fromkeys(fractions, 0.1))
        assert columns_of(given) == ["prompt", "references", "completion"]
        return [split for split in splits if "references" in needed_columns(given, split)]

    assert needs(["train", "test"], []) == ["test"]
    assert needs(["train", "test"], ["heldout"]) == ["test"]
    assert needs(["train", "test"], ["validation"]) == ["train", "test"]
    assert needs(["train", "validation", "test", "heldout"], []) == ["validation", "test"]
    assert needs(["train"], ["test"]) == ["train"]


NUMBERS = [{"prompt": f"p{row}", "completion": f"it is {row}"} for row in range(20)]


def numeric(folder: Path, name: str, lacking: tuple[int, ...], **more: Any) -> None:
    """A file of numeric answers, some of which have none."""
    rows = [{**row, "prompt": name + row["prompt"]} for row in NUMBERS]
    written(
        folder, name, [{**row, "completion": "none"} if at in lacking else row | more for at, row in enumerate(rows)]
    )


def asked(*answered: str) -> dict[str, Any]:
    return {"references": None, "generate": {"number": NUMBER, "answered": list(answered)}}


def test_a_reference_without_a_number_is_named_with_file_and_line(tmp_path: Path) -> None:
    numeric(tmp_path, "train.jsonl", (2,))
    numeric(tmp_path, "test.csv", (3, 7))
    with pytest.raises(InputError) as error:
        fetched(tmp_path, block(tmp_path, test="test.csv", **asked("test", "train")))
    told = str(error.value)
    assert told.startswith(f"{tmp_path}/test.csv, lines 5, 9: no number in the reference 'none', which a numeric ")
    assert f"; also {tmp_path}/train.jsonl, line 3: no number" in told and "\n" not in told
    assert not (tmp_path / "data/own/dataset.json").exists()


def test_rows_that_are_not_answered_need_no_number(tmp_path: Path) -> None:
    numeric(tmp_path, "train.jsonl", (2,))
    numeric(tmp_path, "test.parquet", ())
    fetched(tmp_path, block(tmp_path, test="test.parquet", **asked("test")))
    numeric(tmp_path, "test.parquet", (1,))
    with pytest.raises(InputError, match=r"test.parquet, row 2: no number in the reference 'none'"):
        fetched(tmp_path, block(tmp_path, test="test.parquet", **asked("test")))


def test_a_further_reference_may_have_the_number(tmp_path: Path) -> None:
    numeric(tmp_path, "train.jsonl", ())
    rows = [{"prompt": f"t{row}", "completion": "six", "references": ["6"]} for row in range(3)]
    written(tmp_path, "test.jsonl", rows)
    fetched(tmp_path, block(tmp_path, **{**asked("test"), "references": "references"}))


def test_of_rows_that_were_carved_their_line_in_train_is_named(tmp_path: Path) -> None:
    numeric(tmp_path, "train.jsonl", tuple(range(20)))
    with pytest.raises(InputError, match=r"train.jsonl, lines (\d+, ){4}\d+: no number"):
        fetched(tmp_path, block(tmp_path, test=None, fractions={"test": 0.25}, **asked("test")))

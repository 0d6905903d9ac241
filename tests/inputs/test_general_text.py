"""A general text beside a data set: which rows are read of it, and the tokens that they become."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_causal
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.datasets import fetch_dataset
from peft_tradeoffs.inputs.models import fetch_model
from peft_tradeoffs.inputs.tokens import carve_dev, load_tokens, tokenize
from peft_tradeoffs.tasks.texts import GENERAL

TEXTS = ["lines with the letter a", "words ending", "not a dog", "lines with the letter a", "the truck or the dog"]


def block(folder: Path, texts: list[Any] = TEXTS, **general: Any) -> dict[str, Any]:
    """A data set of completions with a general text, as a job is told of it."""
    for name, count in (("train", 24), ("test", 8)):
        tiny_causal.write_completions(folder / f"{name}.jsonl", count, len(name))
    tiny_causal.write_rows(folder / "general.jsonl", [{"text": text} for text in texts])
    own = {"source": "files", "path": str(folder / "general.jsonl"), "text": ["text"], "rows": 500, **general}
    splits = {name: str(folder / f"{name}.jsonl") for name in ("train", "test")}
    rest = {"task": "sft", "prompt": "prompt", "completion": "completion", "fractions": {}, "limit": {}}
    return {"source": "files", "splits": splits, "split_seed": 0, **rest, "forgetting": own}


def fetched(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    fetch_dataset(given, folder / "data/regex")
    return json.loads((folder / "data/regex/dataset.json").read_text(encoding="utf-8"))


def test_texts_that_differ_are_read_and_the_data_is_other_data_for_it(tmp_path):
    found = fetched(tmp_path, block(tmp_path))
    assert found["splits"][GENERAL]["rows"] == 4
    assert found["source"][GENERAL]["source"] == "files" and len(found["source"][GENERAL]["files"]) == 1
    without = {key: value for key, value in block(tmp_path).items() if key != "forgetting"}
    plain = fetched(tmp_path, without)
    assert plain["sha256"] != found["sha256"] and GENERAL not in plain["splits"] and GENERAL not in plain["source"]
    assert {key: found["splits"][key] for key in ("train", "test")} == plain["splits"]


def test_rows_are_drawn_by_the_seed(tmp_path):
    import pyarrow.parquet as pq

    texts, drawn = [f"text {number}" for number in range(40)], []
    for seed in (0, 0, 1):
        fetched(tmp_path, block(tmp_path, texts, rows=10) | {"split_seed": seed})
        table = pq.read_table(tmp_path / f"data/regex/{GENERAL}.parquet")
        assert table.column("text_a").to_pylist() == [texts[row] for row in table.column("row").to_pylist()]
        drawn.append(table.column("row").to_pylist())
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 10 and drawn[0] == sorted(drawn[0])


def test_docstrings_keep_their_names(tmp_path):
    """Nothing is to be guessed of them."""
    import pyarrow.parquet as pq

    given = block(tmp_path)
    given["forgetting"] = {"source": "docstrings", "packages": ["jinja2", "jsonschema"], "rows": 60}
    found = fetched(tmp_path, given)
    assert set(found["source"][GENERAL]["packages"]) == {"jinja2", "jsonschema"}
    texts = pq.read_table(tmp_path / f"data/regex/{GENERAL}.parquet").column("text_a").to_pylist()
    assert len(texts) == 60 and not any("package." in text for text in texts)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["a", "b", " "], r"general\.jsonl, line 3: empty text in 'text'"),
        (["a", 7, "b"], r"'text' is int, not text"),
        (["a", "a"], r"general\.jsonl has 1 text, and at least 2 are needed; add some"),
    ],
)
def test_what_is_no_text_is_named(tmp_path, texts, said):
    with pytest.raises(InputError, match=f"^config key datasets.regex.forgetting: .*{said}"):
        fetched(tmp_path, block(tmp_path, texts))


def test_every_token_but_the_first_counts_and_trials_have_none_of_them(tmp_path, capsys):
    """As plain text: the chat template of the data set is not theirs, nor is the end that completions have."""
    model, texts = tmp_path / "models/tiny", [*TEXTS, " ".join(["ending", "vowel"] * 30)]
    tiny_causal.causal(tmp_path / "origin")
    fetch_model({"source": "folder", "path": str(tmp_path / "origin")}, model.with_suffix(".json"))
    fetched(tmp_path, block(tmp_path, texts) | {"chat_template": "tokenizer"})
    output = tmp_path / "tokens/regex/tiny.npz"
    output.parent.mkdir(parents=True)
    tokenize(tmp_path / "data/regex", model, 56, output)
    splits, described = load_tokens(output)
    general, own = splits[GENERAL], tiny_causal.tokenizer()
    ids = [own(text)["input_ids"] for text in dict.fromkeys(texts)]
    assert [general.take(np.array([index])).input_ids.tolist() for index in range(5)] == [one[:56] for one in ids]
    assert general.target_counts.tolist() == [min(len(one), 56) - 1 for one in ids]
    assert described["truncated"][GENERAL] == 1
    assert "completions end with" not in capsys.readouterr().err
    dev = tmp_path / "dev.npz"
    carve_dev(output, 0.5, 0, dev)
    assert set(load_tokens(dev)[0]) == {"train", "test"}

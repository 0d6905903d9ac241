"""tokenize_dataset.py on small tokenizers that the tests build."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_causal
import tokenize_dataset
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.data_files import Table
from peft_tradeoffs.inputs.datasets import fetch_dataset
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SCRIPT = Path(__file__).parents[2] / "workflow_scripts" / "tokenize_dataset.py"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d"]


def bert(folder: Path, positions: int = 16) -> Path:
    """A model folder with a word-level BERT tokenizer whose ids are WORDS' indices, and its manifest."""
    folder.mkdir(parents=True)
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.enable_truncation(3)  # as some hub models are saved: must have no effect
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    config = {"model_type": "bert", "max_position_embeddings": positions, "vocab_size": len(WORDS)}
    (folder / "config.json").write_text(json.dumps(config))
    return manifest(folder, "m0")


def decoder(folder: Path, eos: bool = True) -> Path:
    """A model folder with a Llama-like tokenizer: no special tokens around a text and no pad token."""
    folder.mkdir(parents=True)
    vocabulary = {"<unk>": 0, "</s>": 1, "a": 2, "b": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Split("!", "removed")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | ({"eos_token": "</s>"} if eos else {})))
    (folder / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 32}')
    return manifest(folder, "m1")


def manifest(folder: Path, sha256: str, embeddings: int | None = None) -> Path:
    """The folder, once its manifest stands beside it."""
    (folder / "model.safetensors").touch()
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}
    content = {"sha256": sha256, "files": files, "embeddings": embeddings}
    folder.with_name(f"{folder.name}.json").write_text(json.dumps(content))
    return folder


def data(folder: Path, texts, pairs=None, labels=None, task="classification") -> Path:
    """A data set whose train and test splits are these rows."""
    labels = labels or [i % 2 for i in range(len(texts))]
    columns = {"a": texts, "label": labels} | ({"b": pairs} if pairs else {})
    table = Table("a.tsv", columns, range(len(texts)), "line")
    text = ["a", "b"] if pairs else ["a"]
    splits, names = tiny.splits({"train": table, "test": table}, text, task)
    tiny.write_splits(splits, names, folder, task)
    return folder


def command(data_dir: Path, model: Path, max_length: int, output: Path) -> list[str]:
    paths = ["--data-dir", str(data_dir), "--model", str(model), "--output", str(output)]
    return [str(SCRIPT), *paths, "--max-length", str(max_length)]


@pytest.fixture
def tokenize(monkeypatch):
    """Calls the script's main in this process, where Transformers is imported once for all tests."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # main sets it: restored after the test

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", command(*arguments))
        tokenize_dataset.main()

    return call


def rows(arrays, split: str, name: str = "input_ids") -> list[list[int]]:
    return [part.tolist() for part in np.split(arrays[f"{split}_{name}"], arrays[f"{split}_offsets"][1:-1])]


def test_arrays_and_description(tmp_path, tokenize):
    folder = data(tmp_path / "data", ["a b", "c", "a b c d x", "d"], labels=["y", "x", "y", "x"])
    tokenize(folder, bert(tmp_path / "m.1"), 6, tmp_path / "t" / "m.1.npz")
    arrays = np.load(tmp_path / "t" / "m.1.npz")
    assert rows(arrays, "train") == [[2, 4, 5, 3], [2, 6, 3], [2, 4, 5, 6, 7, 3], [2, 7, 3]]
    assert {name: str(array.dtype) for name, array in arrays.items() if name.startswith("test")} == {
        "test_input_ids": "int32",
        "test_token_type_ids": "int8",
        "test_offsets": "int64",
        "test_labels": "int64",
        "test_rows": "int64",
    }
    assert arrays["train_labels"].tolist() == [1, 0, 1, 0]
    assert arrays["train_rows"].tolist() == [0, 1, 2, 3]
    described = json.loads((tmp_path / "t" / "m.1.json").read_text())
    assert len(described.pop("sha256")) == 64
    assert described == {
        "max_length": 6,
        "pad_token_id": 0,
        "num_labels": 2,
        "labels": ["x", "y"],
        "task": "classification",
        "truncated": {"train": 1, "test": 1},
        "tokens": {split: {"mean": 4.25, "p99": 7, "max": 7} for split in ("train", "test")},
        "rows": {"train": 4, "test": 4},
        "warnings": ["max_length 6 cut the end of texts: 1 of 4 rows of train and 1 of 4 rows of test."],
        "data_sha256": json.loads((folder / "dataset.json").read_text())["sha256"],
        "model_sha256": "m0",
    }


def test_what_chats_lose_and_how_they_end_is_said(tmp_path, tokenize, capsys):
    model = manifest(tiny_causal.causal(tmp_path / "model", eos_token="<|endoftext|>"), "m0")
    chats = tiny_causal.chats(4)
    chats[0][0]["content"] = "the letter " * 400
    for name in ("train", "test"):
        tiny_causal.write_rows(tmp_path / f"{name}.jsonl", [{"chat": own} for own in chats[name == "test" :]])
    splits = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    fetch_dataset({"source": "files", "splits": splits, "task": "sft", "messages": "chat"}, tmp_path / "data")
    tokenize(tmp_path / "data", model, 256, tmp_path / "t/m.npz")
    described = json.loads((tmp_path / "t/m.json").read_text())
    assert described["warnings"] == [
        "max_length 256 cut the end of texts: 1 of 4 rows of train.",
        "Rows that have no token to learn within max_length 256 were left out: 1 of 4 rows of train.",
        "Completions that were not cut end with '<|im_end|>', at which this model's generation does not stop (it stops "
        "at '<|endoftext|>'): 3 of 3 of train and 3 of 3 of test.",
    ]
    said = capsys.readouterr().err
    assert all(f"warning: data set t, model model: {warning}" in said for warning in described["warnings"])


def test_the_same_input_gives_the_same_bytes(tmp_path, tokenize):
    folder, model = data(tmp_path / "data", ["a b", "c"]), bert(tmp_path / "m")
    outputs = [tmp_path / name / "m.npz" for name in ("one", "two")]
    for output in outputs:
        tokenize(folder, model, 8, output)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert outputs[0].with_suffix(".json").read_bytes() == outputs[1].with_suffix(".json").read_bytes()


def test_pairs_have_token_types_and_lose_the_longer_text_s_end(tmp_path, tokenize):
    folder = data(tmp_path / "data", ["a b c d", "a"], pairs=["b", "c d"])
    tokenize(folder, bert(tmp_path / "m"), 6, tmp_path / "m.npz")
    arrays = np.load(tmp_path / "m.npz")
    assert rows(arrays, "test") == [[2, 4, 5, 3, 5, 3], [2, 4, 3, 6, 7, 3]]
    assert rows(arrays, "test", "token_type_ids") == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]]


def test_regression_has_one_label_as_it_is(tmp_path, tokenize):
    folder = data(tmp_path / "data", ["a", "b"], labels=[0.1, 2.0], task="regression")
    tokenize(folder, bert(tmp_path / "m"), 6, tmp_path / "m.npz")
    labels = np.load(tmp_path / "m.npz")["train_labels"]
    assert (labels.dtype, labels.tolist()) == (np.float64, [0.1, 2.0])
    described = json.loads((tmp_path / "m.json").read_text())
    assert (described["num_labels"], described["labels"]) == (1, None)


def test_a_decoder_without_a_pad_token_pads_with_eos(tmp_path, tokenize):
    folder = data(tmp_path / "data", ["a b", "b"])
    tokenize(folder, decoder(tmp_path / "m"), 6, tmp_path / "m.npz")
    arrays = np.load(tmp_path / "m.npz")
    assert rows(arrays, "train") == [[2, 3], [3]]
    assert "train_token_type_ids" not in arrays
    assert json.loads((tmp_path / "m.json").read_text())["pad_token_id"] == 1


def test_tokens_that_the_model_has_no_embedding_of_are_named_with_their_rows(tmp_path, tokenize):
    model = manifest(bert(tmp_path / "m"), "m0", embeddings=6)
    tokenize(data(tmp_path / "known", ["a", "b a"]), model, 8, tmp_path / "known.npz")
    folder = data(tmp_path / "beyond", ["a d", "b", "c"], labels=[0, 1, 0])
    message = r"train\.parquet, rows 1, 3: token 7 \('d'\) is beyond the model's 6 embeddings; resize them"
    with pytest.raises(InputError, match=message):
        tokenize(folder, model, 8, tmp_path / "beyond.npz")
    manifest(model, "m0", embeddings=0)
    with pytest.raises(InputError, match=r"pad token 0 \('\[PAD\]'\) is beyond the model's 0 embeddings"):
        tokenize(folder, model, 8, tmp_path / "beyond.npz")


def test_a_model_or_split_that_changed_since_it_was_fetched(tmp_path, tokenize):
    folder, model = data(tmp_path / "data", ["a", "b"]), bert(tmp_path / "m")
    described = json.loads((folder / "dataset.json").read_text())
    described["splits"]["test"]["sha256"] = "0" * 64
    (folder / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"test\.parquet: changed since dataset\.json was written"):
        tokenize(folder, model, 8, tmp_path / "m.npz")
    (folder / "test.parquet").unlink()
    with pytest.raises(InputError, match=r"test\.parquet: no such file"):
        tokenize(folder, model, 8, tmp_path / "m.npz")
    (model / "vocab.txt").write_text("other")
    with pytest.raises(InputError, match=r"vocab\.txt: changed since the model was fetched"):
        tokenize(folder, model, 8, tmp_path / "m.npz")


def test_a_description_of_a_task_that_is_none(tmp_path, tokenize):
    folder, model = data(tmp_path / "data", ["a", "b"]), bert(tmp_path / "m")
    described = json.loads((folder / "dataset.json").read_text()) | {"task": "regresion"}
    (folder / "dataset.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"dataset\.json: no task 'regresion'; delete it"):
        tokenize(folder, model, 8, tmp_path / "m.npz")
    assert not (tmp_path / "m.npz").exists()


def only_config(folder: Path) -> Path:
    for path in bert(folder).iterdir():
        if path.name != "config.json":
            path.unlink()
    return manifest(folder, "m0")


def broken(folder: Path) -> Path:
    (bert(folder) / "tokenizer.json").write_text("{")
    return manifest(folder, "m0")


def no_manifest(folder: Path) -> Path:
    folder.with_name(f"{bert(folder).name}.json").unlink()
    return folder


def roberta(folder: Path) -> Path:
    """Positions 0 and 1 of 16 are never used."""
    config = {"model_type": "roberta", "max_position_embeddings": 16, "pad_token_id": 1}
    (bert(folder) / "config.json").write_text(json.dumps(config))
    return manifest(folder, "m0")


@pytest.mark.parametrize(
    ("model", "max_length", "message"),
    [
        (bert, 17, "max_length 17 is above what the model 'm' takes, 16 tokens; set it to 16 or less"),
        (roberta, 15, "max_length 15 is above what the model 'm' takes, 14 tokens"),
        (bert, 2, "max_length 2: the model 'm' adds 2 special tokens, so at least 3 are needed"),
        (only_config, 8, "no tokenizer; a tokenizer.json or the vocabulary"),
        (broken, 8, "its tokenizer cannot be loaded"),
        (no_manifest, 8, "m.json: no such file; make it with fetch_model.py"),
        (lambda folder: decoder(folder, eos=False), 8, "no pad token and no eos token"),
        (decoder, 8, "train.parquet, row 2: ('!',) has no tokens"),
    ],
)
def test_bad_input(tmp_path, tokenize, model, max_length, message):
    folder = data(tmp_path / "data", ["a", "!"])
    with pytest.raises(InputError, match=re.escape(message)):
        tokenize(folder, model(tmp_path / "m"), max_length, tmp_path / "out" / "m.npz")
    assert not (tmp_path / "out").exists()


def test_max_length_of_the_model_itself_is_allowed(tmp_path, tokenize):
    folder = data(tmp_path / "data", ["a", "b"])
    tokenize(folder, roberta(tmp_path / "m"), 14, tmp_path / "m.npz")


def test_the_command_ends_on_bad_input_with_one_line_and_status_1(tmp_path):
    (tmp_path / "m.json").write_text("{}")
    folder = data(tmp_path / "data", ["a", "b"])
    arguments = command(folder, tmp_path / "m", 8, tmp_path / "m.npz")
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        f"error: {tmp_path / 'm'}: no such folder; make it with fetch_model.py\n",
    )

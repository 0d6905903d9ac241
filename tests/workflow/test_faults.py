"""Inputs that public reports found the workflow to do wrong with: each is read rightly, or refused by one line.

The numbers are those of the reports. What can be tried in this process is; plans run in forks of a process that has
imported Snakemake, and one small study is run for what only a finished one shows.
"""

import contextlib
import csv
import gzip
import json
import os
import runpy
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forks
import pyarrow.parquet as pq
import pytest
import tiny
import yaml

SCRIPTS = tiny.REPOSITORY / "workflow_scripts"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 12345\n"
FULL = {"methods": {"full": {"learning_rate": 1e-3}}, "seeds": [0]}
Step = Callable[..., tuple[int, str]]


@pytest.fixture
def step(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Step:
    """Run one of the commands in this process: exit status, and all that it said on stderr."""

    def run(script: str, *words: Any) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", [script, *map(str, words)])
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        capfd.readouterr()
        status: Any = 0
        try:
            runpy.run_path(str(SCRIPTS / script), run_name="__main__")
        except SystemExit as end:
            status = end.code
        said = capfd.readouterr().err
        if isinstance(status, str):  # as the interpreter does
            status, said = 1, f"{said}{status}\n"
        return status or 0, said

    return run


def refused(outcome: tuple[int, str], *parts: str) -> None:
    """It ended with one line that has these parts."""
    status, said = outcome
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert status != 0 and len(lines) == 1 and "Traceback" not in said, said
    assert [part for part in parts if part.lower() not in lines[0].lower()] == [], lines[0]


# Data sets.


@dataclass
class Fetched:
    """What fetch_dataset.py made of a data set."""

    outcome: tuple[int, str]
    folder: Path

    @property
    def described(self) -> dict[str, Any]:
        assert self.outcome[0] == 0, self.outcome[1]
        return json.loads((self.folder / "dataset.json").read_text())

    def texts(self) -> list[str]:
        assert self.outcome[0] == 0, self.outcome[1]
        return pq.read_table(self.folder / "train.parquet").column("text_a").to_pylist()


@pytest.fixture
def fetch(step: Step, tmp_path: Path) -> Callable[..., Fetched]:
    """Fetch a data set of two files with these contents."""

    def run(train: str | bytes, test: str | bytes, suffix: str = ".csv", **block: Any) -> Fetched:
        for name, content in (("train", train), ("test", test)):
            (tmp_path / name).with_suffix(suffix).write_bytes(content.encode() if isinstance(content, str) else content)
        splits = {name: str(tmp_path / f"{name}{suffix}") for name in ("train", "test")}
        source = {"source": "files", "splits": splits, "text": ["text"], "label": "label", **block}
        out = tmp_path / "fetched"
        return Fetched(step("fetch_dataset.py", "--source", json.dumps(source), "--output-dir", out), out)

    return run


def rows(labels: str, name: str = "text number", header: str = "text,label") -> str:
    """A CSV file with a row for each of these labels, which spaces part."""
    lines = (f"{name} {number},{label}" for number, label in enumerate(labels.split(" ")))
    return "\n".join([header, *lines]) + "\n"


def test_04_a_test_split_that_is_train_under_another_name(fetch):
    refused(fetch(rows("a b a b"), rows("a b a b")).outcome, "train", "test")


def test_04_test_rows_that_stand_in_train(fetch):
    found = fetch(rows("a b a b a b a b"), rows("a b", "text number") + rows("a b", "another", "x,a").split("\n", 1)[1])
    (warning,) = found.described["warnings"]
    assert "2 of 4 test rows (50 %)" in warning
    assert warning in found.outcome[1]


def test_06_two_spellings_of_a_number_are_one_class(fetch):
    found = fetch(rows("0 1 0 1 0.0 1.0 0.0 1.0"), rows("0 1 0.0 1.0", "line"))
    assert found.described["labels"] == ["0", "1"]
    assert len(found.described["warnings"]) == 2


@pytest.mark.parametrize("kind", ["gzip", "zip"])
def test_08_a_compressed_file_whose_name_says_csv(fetch, tmp_path, kind):
    content = gzip.compress(rows("a b a b").encode())
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "inside", "w") as archive:
            archive.writestr("a.csv", rows("a b a b"))
        content = (tmp_path / "inside").read_bytes()
    refused(fetch(content, rows("a b", "line")).outcome, "train.csv", kind, "unpack")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_09_a_git_lfs_pointer_as_data(fetch, suffix):
    refused(
        fetch(POINTER, POINTER.replace("12345", "1"), suffix).outcome,
        f"train{suffix}",
        "Git LFS pointer",
        "git lfs pull",
    )


def test_15_a_space_before_a_quote(fetch):
    train, test = (
        "label, text\n" + "".join(f'{row % 2}, "hello, {name} {row}"\n' for row in range(6))
        for name in ("world", "all")
    )
    for text in (" text", "text"):  # as the header has it, and as a reader sees it
        assert fetch(train, test, text=[text]).texts()[0] == "hello, world 0"


@pytest.mark.parametrize("head", ["text\tlabel", '"text"\t"label"'])
def test_16_a_tsv_file_as_pandas_writes_it(fetch, head):
    train, test = (
        head + "\n" + "".join(f'"{name} said ""hi"" {row}"\t{row % 2}\n' for row in range(6)) for name in ("He", "She")
    )
    assert fetch(train, test, ".tsv").texts()[0] == 'He said "hi" 0'


def test_26_classes_that_differ_in_case_are_warned_of(fetch):
    found = fetch(rows("pos neg pos neg pos neg Pos NEG") + "t 3,pos \n", rows("pos neg pos neg", "line"))
    described = found.described
    said = " ".join(described["warnings"])
    assert all(repr(name) in said for name in ("pos", "Pos", "neg", "NEG")), said
    assert "pos " not in described["labels"] and set(described["labels"]) == {"pos", "Pos", "neg", "NEG"}
    assert all(warning in found.outcome[1] for warning in described["warnings"])


def test_26_classes_that_differ_in_an_invisible_character_are_one(fetch):
    found = fetch(rows("pos neg pos\u200b pos neg pos\u200b"), rows("pos neg", "line"))
    assert found.described["labels"] == ["neg", "pos"]


# Models.


@pytest.fixture
def model(tmp_path: Path, tiny_bert: Path) -> Path:
    """A copy of the tiny BERT, to damage."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


@pytest.fixture
def fetch_model(step: Step, tmp_path: Path) -> Callable[[Path], tuple[int, str]]:
    def run(folder: Path) -> tuple[int, str]:
        source = json.dumps({"source": "folder", "path": str(folder)})
        return step("fetch_model.py", "--source", source, "--output", tmp_path / "models/tiny.json")

    return run


def test_10_weights_that_are_a_git_lfs_pointer(fetch_model, model):
    (model / "model.safetensors").write_text(POINTER)
    refused(fetch_model(model), "model.safetensors", "Git LFS pointer", "git lfs pull")


def test_12_a_token_beyond_the_embedding(fetch, fetch_model, step, model, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    beyond = len(tokenizer)
    tokenizer.add_tokens(["<user>", "<url>"])
    tokenizer.save_pretrained(model)
    status, said = fetch_model(model)  # tokens that the data do not use do no harm
    assert status == 0 and f"{beyond} ('<user>')" in said, said
    data = fetch(rows("a b a b", "<user> film"), rows("a b", "line"))
    words = ("--data-dir", data.folder, "--model", tmp_path / "models/tiny", "--max-length", 16)
    outcome = step("tokenize_dataset.py", *words, "--output", tmp_path / "tokens.npz")
    refused(outcome, "<user>", str(beyond), "embedding")


def test_14_checkpoints_that_are_quantised_already(fetch_model, model):
    path = model / "config.json"
    plain = json.loads(path.read_text())
    for method in ({"quant_method": "gptq", "bits": 4, "group_size": 128}, {"quant_method": "bitsandbytes"}):
        path.write_text(json.dumps(plain | {"quantization_config": method}))
        refused(fetch_model(model), "quanti", method["quant_method"])


def test_28_an_adapter_beside_the_model(fetch_model, model):
    (model / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "target_modules": ["key"]}')
    shutil.copyfile(model / "model.safetensors", model / "adapter_model.safetensors")
    refused(fetch_model(model), "adapter", str(model))


# Plans.


def planned(folder: Path, settings: dict[str, Any] | str, *words: str, **variables: str) -> tuple[int, str]:
    """What `snakemake` with these words says of a config, on one core."""
    text = settings if isinstance(settings, str) else yaml.safe_dump(settings)
    (folder / "config.yaml").write_text(text)
    said = folder / "said.txt"
    call = forks.start(tiny.command(folder, *words, cores=1)[3:], said, tiny.environment(**variables))
    call.join()
    return call.exitcode or 0, said.read_text()


@pytest.fixture
def study(tmp_path: Path, tiny_bert: Path) -> Path:
    tiny.write_inputs(tmp_path, tiny_bert)
    return tmp_path


def with_splits(folder: Path, **splits: str) -> dict[str, Any]:
    settings = tiny.config(folder, **FULL)
    settings["datasets"]["reviews"]["splits"] |= splits
    return settings


def test_03_a_validation_split_that_is_test(study):
    settings = with_splits(study, validation="test.tsv")
    settings["training"]["early_stopping"] = {"patience": 1}
    refused(planned(study, settings, "-n"), "datasets.reviews.splits", "validation", "test")


def test_17_braces_in_a_path(study):
    (study / "da{1}ta").mkdir()
    shutil.copyfile(study / "train.tsv", study / "da{1}ta/train.tsv")
    refused(planned(study, with_splits(study, train="da{1}ta/train.tsv"), "-n"), "datasets.reviews.splits.train", "{1}")


def test_18_a_tilde_is_the_home_folder_in_every_path(study):
    home = study / "home"
    home.mkdir()
    for name in ("train.tsv", "model"):
        (study / name).rename(home / name)
    settings = with_splits(study, train="~/train.tsv", test="$HOME/../test.tsv")
    settings["output"], settings["models"]["tiny"]["path"] = "~/res", "~/model"
    status, said = planned(study, settings, "-n", "fetch", HOME=str(home))
    assert status == 0 and f"{home}/res/data/reviews/dataset.json" in said, said
    assert f"{home}/train.tsv" in said and f"{home}/model" in said and "~" not in said
    assert not (study / "~").exists()


def test_19_a_name_that_yaml_reads_as_something_else(study):
    text = yaml.safe_dump(tiny.config(study, **FULL)).replace("reviews:", "no:")
    refused(planned(study, text, "-n"), "config key datasets", 'put it in quotes: "no"')


def test_20_seeds_on_the_command_line(study):
    status, said = planned(study, tiny.config(study, **FULL), "-n", "--config", "seeds=[0,1]")
    assert status == 0 and "seed1/summary.json" in said, said


def test_25_lint_has_nothing_to_say(study):
    status, said = planned(study, tiny.config(study, **FULL), "--lint")
    assert status == 0 and "Congratulations" in said, said


# A finished study.

RUNS = ("results/tables/arms.md", "results/tables/recommendation.md", "results/report.html")


@pytest.fixture(scope="module")
def finished_study(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """Full fine-tuning of a model that names its classes the other way round.

    On reviews, judged by F1, some of whose test rows stand in train, and on prices far from unit scale.
    """
    from transformers import AutoTokenizer, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("faults")
    names = {"id2label": {0: "pos", 1: "neg"}, "label2id": {"pos": 0, "neg": 1}}
    BertForSequenceClassification.from_pretrained(tiny_bert, num_labels=2, **names).save_pretrained(folder / "model")
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(folder / "model")
    train, test = tiny.sentences(64, seed=1), tiny.sentences(32, seed=2)
    words = ("neg", "pos")
    for name, own in (("train", train), ("test", [*test[4:], *train[:4]])):
        tiny.write_tsv(folder / f"{name}.tsv", [(text, words[label]) for text, label in own])
    for name, own in (("prices", train), ("test_prices", test)):
        tiny.write_tsv(folder / f"{name}.tsv", [(text, 1e6 * y + 1e3 * row) for row, (text, y) in enumerate(own)])
    settings = tiny.config(folder, **FULL)
    reviews = settings["datasets"].pop("reviews")
    prices = reviews | {"splits": {"train": "prices.tsv", "test": "test_prices.tsv"}, "task": "regression"}
    settings["datasets"] = {"rev": reviews | {"metric": "f1"}, "prices": prices}
    tiny.snakemake(folder, settings, *RUNS)
    return folder


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_01_a_checkpoint_names_the_classes_of_the_data(finished_study):
    labels = json.loads((finished_study / "results/data/rev/dataset.json").read_text())["labels"]
    run = finished_study / "results/runs/rev/tiny/full/seed0"
    saved = json.loads((run / "checkpoint/config.json").read_text())
    assert saved["id2label"] == {str(index): name for index, name in enumerate(labels)}
    assert saved["label2id"] == {name: index for index, name in enumerate(labels)}


def test_02_f1_is_said_with_its_class(finished_study):
    for name in ("tables/arms.md", "tables/recommendation.md", "report.html"):
        text = (finished_study / "results" / name).read_text()
        assert "F1 of 'pos'" in text or "F1 of &#39;pos&#39;" in text or "F1 of 'pos'".replace("'", "\\u0027") in text


def test_04_what_leaked_stands_beside_the_verdict(finished_study):
    results = finished_study / "results"
    assert "4 of 32 test rows (12" in (results / "logs/fetch_dataset/rev.log").read_text()
    for name in ("tables/runs.md", "tables/arms.md", "tables/comparison.md", "tables/recommendation.md", "report.html"):
        assert "4 of 32 test rows (12" in (results / name).read_text(), name


def test_27_regression_far_from_unit_scale(finished_study):
    predicted = read_rows(finished_study / "results/runs/prices/tiny/full/seed0/predictions.csv")
    values = [float(row["prediction"]) for row in predicted]
    middle = sum(values) / len(values)
    assert 1e5 < middle < 1e6, values
    spread = max(values) - min(values)
    said = (finished_study / "results/tables/recommendation.md").read_text()
    assert spread > 1e4 or "nearly the same value for every test row" in said


def test_05_older_content_is_other_content(finished_study):
    """As cp -p, tar, unzip, rsync -t and mv leave it."""
    new = finished_study / "new.tsv"
    new.write_text("".join((finished_study / "train.tsv").read_text().splitlines(keepends=True)[:33]))
    os.utime(new, (1.5e9, 1.5e9))
    new.replace(finished_study / "train.tsv")
    settings = (finished_study / "config.yaml").read_text()
    with contextlib.chdir(finished_study):
        status, said = planned(finished_study, settings, "-n", *RUNS)
    assert status == 0 and "fetch_dataset" in said and "train" in said, said

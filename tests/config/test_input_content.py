"""Inputs by their content, and what earlier calls wrote."""

import itertools
import json
import os
from pathlib import Path

import pytest
import tiny
from peft_tradeoffs.config import preflight
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.config.preflight import content
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs import data_files

OLD = (1_600_000_000, 1_600_000_000)


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    preflight._remembered.cache_clear()


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors", "README.md"):
        (folder / name).write_text(f"{{}} {name}")
    return folder


def test_other_content_with_an_old_date_is_another_data_set(tmp_path):
    block = {"source": "files", "splits": {"train": "train.tsv", "test": "test.tsv"}}
    tiny.write_tsv(tmp_path / "train.tsv", tiny.sentences(4))
    tiny.write_tsv(tmp_path / "test.tsv", tiny.sentences(2))
    before = content(block)
    os.utime("train.tsv", OLD)
    assert content(block) == before
    tiny.write_tsv(tmp_path / "train.tsv", tiny.sentences(4, seed=1))
    os.utime("train.tsv", OLD)
    assert content(block) != before


def test_two_files_that_change_places_are_another_data_set(tmp_path):
    tiny.write_tsv(tmp_path / "a.tsv", tiny.sentences(4))
    tiny.write_tsv(tmp_path / "b.tsv", tiny.sentences(2))
    one = content({"source": "files", "splits": {"train": "a.tsv", "test": "b.tsv"}})
    assert content({"source": "files", "splits": {"train": "b.tsv", "test": "a.tsv"}}) != one


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_another_file_of_a_model_is_another_model(model, name):
    block = {"source": "folder", "path": "model"}
    before = content(block)
    (model / name).write_text("other")
    os.utime(model / name, OLD)
    assert content(block) != before


def test_what_a_model_does_not_read(model):
    """A README may change; that an adapter lies there now is another folder."""
    block = {"source": "folder", "path": "model"}
    before = content(block)
    (model / "README.md").write_text("other")
    assert content(block) == before
    (model / "adapter_config.json").write_text("{}")
    assert content(block) != before


def test_the_tokenizer_of_a_random_model(model):
    block = {"source": "random", "config": {}, "tokenizer": {"source": "folder", "path": "model"}}
    before = content(block)
    (model / "model.safetensors").write_text("other")
    assert content(block) == before
    (model / "tokenizer.json").write_text("other")
    assert content(block) != before


def test_what_is_on_the_hub_has_no_files_here():
    assert content({"source": "hub", "path": "a/b"}) == ""


def test_large_files_are_read_once(tmp_path, monkeypatch):
    """As long as nothing of them changes; a date that was set back is a change of the inode's."""
    path = tmp_path / "large"
    path.write_bytes(b"x" * (preflight.SMALL + 1))
    monkeypatch.setattr(preflight, "SETTLED_S", -1)
    (tmp_path / ".snakemake").mkdir()
    first = preflight.checksum(path)
    assert first == files.sha256(path)
    preflight._remembered.cache_clear()
    monkeypatch.setattr(files, "sha256", lambda path: "read again")
    assert preflight.checksum(path) == first
    found = path.stat()
    path.write_bytes(b"y" * (preflight.SMALL + 1))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert preflight.checksum(path) == "read again"


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path):
    (tmp_path / "large").write_bytes(b"x" * (preflight.SMALL + 1))
    preflight.checksum(tmp_path / "large")
    assert not preflight.REMEMBERED.exists()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', '{"a": [1]}', '{"a": [null, null]}', "null"])
def test_damaged_memory_is_none(tmp_path, text):
    path = tmp_path / "large"
    path.write_bytes(b"x" * (preflight.SMALL + 1))
    preflight.REMEMBERED.parent.mkdir()
    preflight.REMEMBERED.write_text(text)
    assert preflight.checksum(path) == files.sha256(path)


def test_memory_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    path = tmp_path / "large"
    path.write_bytes(b"x" * (preflight.SMALL + 1))
    monkeypatch.setattr(preflight, "SETTLED_S", -1)
    preflight.REMEMBERED.parent.write_text("a file")
    assert preflight.checksum(path) == files.sha256(path)


def test_what_is_no_file_has_no_checksum(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert preflight.checksum(tmp_path / "pipe") == preflight.checksum(tmp_path / "absent") == ""


# What earlier calls wrote


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Rows, tokens and a finished run, as far as the plan looks at them."""
    results = tmp_path / "results"
    tables = {
        split: data_files.Table(
            "rows", {"text": [f"{split} {i}" for i in range(4)], "label": [0, 1] * 2}, range(4), "row"
        )
        for split in ("train", "test")
    }
    parts, names, *_ = tiny.splits(tables)
    (results / "data/reviews").mkdir(parents=True)
    tiny.write_splits(parts, names, results / "data/reviews")
    tokens = results / "tokens/reviews/tiny.npz"
    tokens.parent.mkdir(parents=True)
    tokens.write_bytes(b"tokens" * 100)
    tokens.with_suffix(".json").write_text(json.dumps({"sha256": files.sha256(tokens)}))
    for arm in ("full", "lora-r4"):
        run = results / f"runs/reviews/tiny/{arm}/seed1"
        (run / "adapter").mkdir(parents=True)
        for name in ("predictions.csv", "metrics.csv", "adapter/adapter_model.safetensors"):
            (run / name).touch()
        (run / "summary.json").write_text("{}")
    return results


def flip(path: Path) -> None:
    """Change one bit in the middle, with the date of before."""
    found, whole = path.stat(), bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("tokens/reviews/tiny.npz", "tokens/reviews/tiny.npz"),
        ("data/reviews/train.parquet", "data/reviews/dataset.json"),
        ("data/reviews/test.parquet", "data/reviews/dataset.json"),
    ],
)
def test_a_bit_that_was_flipped(study, name, named):
    experiment = resolve(tiny.config(Path()))
    preflight.check_written(experiment)
    flip(study / name)
    with pytest.raises(InputError, match=rf"^results/{name}: not what .*; delete results/{named}, and the next call"):
        preflight.check_written(experiment)


@pytest.mark.parametrize("name", ["tokens/reviews/tiny.json", "data/reviews/dataset.json"])
@pytest.mark.parametrize("text", ["", "[]", "{", "null", "\0"])
def test_a_description_that_is_none(study, name, text):
    (study / name).write_text(text)
    with pytest.raises(InputError, match=rf"^results/{name}: damaged"):
        preflight.check_written(resolve(tiny.config(Path())))


@pytest.mark.parametrize("state", ["changed", "missing"])
def test_groups_of_rows(study, state):
    """They are read whenever arms are compared, so they are needed though all runs are there."""
    rows = {"text": ["a", "b", "c", "d"], "label": [0, 1] * 2, "author": ["x", "x", "y", "z"]}
    tables = {split: data_files.Table(split, rows, range(4), "row") for split in ("train", "test")}
    parts, names, *_ = tiny.splits(tables, group="author")
    tiny.write_splits(parts, names, study / "data/reviews")
    preflight.check_written(resolve(tiny.config(Path())))
    path = study / "data/reviews/groups.parquet"
    flip(path) if state == "changed" else path.unlink()
    with pytest.raises(InputError, match=r"groups\.parquet: .*not what fetch_dataset wrote .*; put it back, or delete"):
        preflight.check_written(resolve(tiny.config(Path())))


def test_rows_that_are_missing(study):
    experiment = resolve(tiny.config(Path()))
    (study / "data/reviews/test.parquet").unlink()
    preflight.check_written(resolve(tiny.config(Path())))  # nothing reads them any more
    (study / "tokens/reviews/tiny.npz").unlink()
    with pytest.raises(InputError, match=r"test\.parquet: missing, so not what fetch_dataset wrote"):
        preflight.check_written(experiment)
    for arm, seed in itertools.product(experiment.arms, experiment.seeds):
        run = study / f"runs/reviews/tiny/{arm}/seed{seed}"
        run.mkdir(parents=True, exist_ok=True)
        (run / "summary.json").touch()
    preflight.check_written(experiment)  # nothing reads them any more


def test_nothing_written_yet():
    preflight.check_written(resolve(tiny.config(Path())))


def publish(run: Path, *names: str) -> None:
    """A summary that lists these files."""
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "files": dict.fromkeys(names, "0" * 64)}))


def test_runs_that_lack_what_they_published(study, capsys):
    experiment = resolve(tiny.config(Path()))
    run = study / "runs/reviews/tiny/lora-r4/seed1"
    publish(run, "predictions.csv", "metrics.csv", "adapter/adapter_model.safetensors")
    preflight.warn_of_missing(experiment)
    assert capsys.readouterr().err == ""
    (run / "adapter/adapter_model.safetensors").unlink()
    preflight.warn_of_missing(experiment)
    said = capsys.readouterr().err
    assert "seed1 lacks adapter/adapter_model.safetensors" in said
    assert "delete the run's folder to train it again, or set keep_weights: false" in said
    publish(run, "adapter/README.md", "adapter/adapter_model.safetensors", "adapter/head.json")
    for name in ("README.md", "head.json"):
        (run / "adapter" / name).unlink(missing_ok=True)
    preflight.warn_of_missing(experiment)
    said = capsys.readouterr().err
    assert "seed1 lacks adapter/adapter_model.safetensors and 2 more files, which it published" in said
    assert "or set keep_weights: false" in said
    (run / "predictions.csv").unlink()
    publish(run, "predictions.csv", "adapter/adapter_model.safetensors")
    preflight.warn_of_missing(experiment)
    said = capsys.readouterr().err
    assert "seed1 lacks adapter/adapter_model.safetensors and 1 more file, which it published" in said
    assert "keep_weights" not in said
    publish(run, "predictions.csv")
    preflight.warn_of_missing(experiment)
    said = capsys.readouterr().err
    assert "lacks predictions.csv" in said
    assert "keep_weights" not in said


@pytest.mark.parametrize("text", ["", "[]", '"x"', '{"files": 3}', '{"files": null}', "{}", "[" * 100_000])
def test_summaries_that_are_none_are_left_to_who_reads_them(study, capsys, text):
    (study / "runs/reviews/tiny/full/seed1/summary.json").write_text(text)
    preflight.warn_of_missing(resolve(tiny.config(Path())))
    assert "full/seed1" not in capsys.readouterr().err

"""What a data set's rows can decide: counted where that is cheap, and said once, before anything is trained."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
from peft_tradeoffs.config.experiment import Experiment, resolve
from peft_tradeoffs.config.preflight import check_paths, question, rows_of, say_what_can_be_decided
from peft_tradeoffs.core.errors import InputError

FILES = tiny.config(Path())["datasets"]["reviews"]
HUB = {"source": "hub", "path": "a/b", "revision": "0" * 40, "splits": {"train": "train", "test": "test"}}
HUB |= {"text": ["sentence"], "label": "label"}
DOCSTRINGS = {"source": "docstrings", "packages": ["numpy", "pandas"], "fractions": {"test": 0.3}}
HUB_MODEL = {"source": "hub", "path": "owner/model", "revision": "0" * 40}
RANDOM = {"source": "random", "config": {"model_type": "bert"}, "tokenizer": {"source": "folder", "path": "model"}}
SAID = (
    "note: data set reviews: 100 test rows, 3 seeds, 2 arms against full: no difference will be found; an arm "
    "that loses nothing can be proven to lose less than 10\n  points, and one that is as good as full, within 10 "
    "points of it. Assumed: arms disagree on 7 % of rows.\n"
)


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    tiny.write_tsv(tmp_path / "train.tsv", tiny.sentences(400, seed=1))
    tiny.write_tsv(tmp_path / "test.tsv", tiny.sentences(100, seed=2))


def asked(block: dict[str, Any] = FILES, **changes: Any) -> Experiment:
    """Three arms and three seeds on one data set, judged by a margin of 10 points."""
    settings = {"datasets": {"reviews": block}, "seeds": [0, 1, 2], "comparison": {"margin": 0.1}, **changes}
    return resolve(tiny.config(Path(), **settings))


def fetched(rows: int, **source: Any) -> None:
    """A data set's description as an earlier call left it."""
    path = Path("results/data/reviews/dataset.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"source": source, "splits": {"test": {"rows": rows}}}))


def test_rows_of_local_files():
    assert rows_of(asked(), "reviews") == 100
    assert rows_of(asked({**FILES, "limit": {"test": 60}}), "reviews") == 60
    assert rows_of(asked({**FILES, "limit": {"test": 600}}), "reviews") == 100
    assert rows_of(asked({**FILES, "splits": {"train": "train.tsv"}, "fractions": {"test": 0.2}}), "reviews") == 80
    held = asked({**FILES, "fractions": {"heldout": 0.5}}, recommendation={"split": "heldout"})
    assert rows_of(held, "reviews") == 200


def test_files_that_cannot_be_counted_are_left_to_what_reads_them(capsys):
    Path("test.tsv").unlink()
    assert rows_of(asked(), "reviews") is None
    Path("test.tsv").write_bytes(b"\xff\xfe broken \x00")
    assert rows_of(asked(), "reviews") is None
    Path("test.tsv").unlink()
    Path("test.tsv").mkdir()
    say_what_can_be_decided(asked())
    assert capsys.readouterr().err == ""


def test_rows_of_what_is_elsewhere_are_known_once_they_are_fetched():
    hub = asked(HUB)
    assert rows_of(hub, "reviews") is None
    assert rows_of(asked({**HUB, "limit": {"test": 50}}), "reviews") == 50
    fetched(872, source="hub", path="a/b", config=None, revision="0" * 40)
    assert rows_of(hub, "reviews") == 872
    fetched(872, source="hub", path="a/b", config=None, revision="1" * 40)
    assert rows_of(hub, "reviews") is None
    fetched(30, source="docstrings", packages={"numpy": "1", "pandas": "2"})
    assert rows_of(asked({**DOCSTRINGS, "limit": {"test": 40}}), "reviews") == 30
    for text in ("", "[]", "{}", '{"source": 3}', '{"source": {}, "splits": []}', "[" * 100_000):
        Path("results/data/reviews/dataset.json").write_text(text)
        assert rows_of(hub, "reviews") is None


def test_what_is_said(capsys):
    say_what_can_be_decided(asked())
    assert capsys.readouterr().err == SAID
    say_what_can_be_decided(asked({**FILES, "splits": {"train": "train.tsv"}, "fractions": {"test": 0.2}}))
    assert "data set reviews: about 80 test rows, 3 seeds" in capsys.readouterr().err
    say_what_can_be_decided(asked(comparison={"margin": 0.1, "baseline": "lora-r4"}))
    assert "2 arms against LoRA r4:" in capsys.readouterr().err


def test_groups_are_counted_once_they_are_known(capsys):
    grouped = asked({**FILES, "group": "contained"})
    assert rows_of(grouped, "reviews") is None  # texts are not compared by a plan
    say_what_can_be_decided(grouped)
    assert "what its rows can show is told when they are fetched" in " ".join(capsys.readouterr().err.split())
    path = Path("results/data/reviews/dataset.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"source": {"source": "files"}, "splits": {"test": {"rows": 100, "groups": 24}}}))
    assert rows_of(grouped, "reviews") == 24
    limited = asked({**FILES, "group": "contained", "limit": {"test": 20}})
    assert rows_of(limited, "reviews") == 24  # a limit is of rows, and was kept when groups were counted
    say_what_can_be_decided(grouped)
    said = capsys.readouterr().err
    assert said.startswith(
        "note: data set reviews: 24 groups of test rows, 3 seeds, 2 arms against full: no difference"
    )
    assert "groups would be needed" in said


def test_what_tuning_may_have_missed_is_said_to_come_on_top(capsys):
    tuned = {"full": {"learning_rate": [1e-3, 1e-4]}, "lora": {"learning_rate": 1e-3, "ranks": [4], "peft": tiny.LORA}}
    say_what_can_be_decided(asked(methods=tuned))
    assert capsys.readouterr().err.endswith("settled: what their choice may have missed comes on top.\n")


def test_what_cannot_be_compared_says_nothing(capsys):
    full = {"full": {"learning_rate": 1e-3}}
    for nothing in (
        asked(methods=full),
        asked(models={"tiny": RANDOM}),
    ):
        say_what_can_be_decided(nothing)
        assert question(nothing, "reviews") is None
    assert capsys.readouterr().err == ""
    say_what_can_be_decided(asked(models={"tiny": RANDOM, "other": {"source": "folder", "path": "model"}}))
    assert capsys.readouterr().err == SAID


TEXTS = {"source": "files", "splits": FILES["splits"], "task": "lm", "text": ["sentence"]}


@pytest.mark.parametrize(
    ("block", "noun", "what"),
    [
        (TEXTS, "loss per token", "losses of"),
        ({**FILES, "task": "regression"}, "Pearson correlation", "predictions of"),
        ({**FILES, "metric": "f1"}, "F1", "predictions of"),
    ],
    ids=["loss", "correlation", "f1"],
)
def test_of_what_is_no_share_it_is_said_that_nothing_is_known_before_the_runs(capsys, block, noun, what):
    margins = {"comparison": {"margin": {"f1": 0.1}}} if noun == "F1" else {}
    say_what_can_be_decided(asked(block, **margins))
    said = capsys.readouterr().err.replace("\n ", "")
    assert said.startswith(f"note: data set reviews: which differences of {noun} its rows can show is not known")
    assert f"it depends on how much the {what} rows differ between arms" in said
    assert question(asked(block, **margins), "reviews") is None


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ messages", "broken Jinja, line 1: unexpected end of template"),
        ("a\n{% for m in messages %}", "broken Jinja, line 2: Unexpected end of template"),
        ("{{ messages | nothing }}", "broken Jinja, line 1: No filter named 'nothing'"),
        ("{{ strftime_now('%d') }}", "the chat template writes the day on which it is used"),
        ("{% generation %}{% break %}{{ messages | tojson }}{% endgeneration %}", "'break' outside loop"),
        ("{% for m in messages %}{% generation %}{{ m | tojson }}{% endgeneration %}{% break %}{% endfor %}", None),
    ],
)
def test_a_chat_template_is_checked_by_the_plan(template, said):
    (Path("model")).mkdir()
    texts = {"source": "files", "splits": FILES["splits"], "task": "sft", "prompt": "sentence", "completion": "label"}
    experiment = asked(texts | {"chat_template": template}, models={"tiny": HUB_MODEL})
    if said is None:
        check_paths(experiment)
        return
    with pytest.raises(InputError) as refused:
        check_paths(experiment)
    assert str(refused.value).startswith("config key datasets.reviews.chat_template: ")
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(("seeds", "said"), [([0], "1 seed"), ([0, 1], "2 seeds")])
def test_too_few_seeds_have_no_interval(capsys, seeds, said):
    experiment = asked(HUB, seeds=seeds)
    say_what_can_be_decided(experiment)
    rest = "where 3 or more are needed: no difference will have an interval, or be proven"
    assert capsys.readouterr().err == f"note: {said}, {rest}\n"
    assert question(experiment, "reviews") is None


def test_it_is_said_while_a_run_is_to_be_trained(capsys):
    experiment = asked()
    for arm in experiment.arms:
        for seed in experiment.seeds:
            run = Path("results/runs/reviews/tiny", arm, f"seed{seed}")
            run.mkdir(parents=True)
            (run / "summary.json").write_text("{}")
    say_what_can_be_decided(experiment)
    assert capsys.readouterr().err == ""
    shutil.rmtree(run)
    say_what_can_be_decided(experiment)
    assert capsys.readouterr().err == SAID


def test_the_plan_says_it_once_and_the_fetching_what_the_plan_could_not_count(tmp_path):
    hub = {"source": "hub", "path": "owner/model", "revision": "0" * 40}
    settings = tiny.config(tmp_path, models={"tiny": hub}, seeds=[0, 1, 2], comparison={"margin": 0.1})
    settings["datasets"]["docstrings"] = DOCSTRINGS
    target = "results/data/{}/dataset.json"
    planned = tiny.snakemake(tmp_path, settings, "-n").stdout
    assert planned.count("note: data set") == planned.count(SAID) == 1
    done = tiny.snakemake(tmp_path, None, *map(target.format, ("reviews", "docstrings"))).stdout
    assert done.count("note: data set reviews: 100 test rows") == 1, "in the jobs, and behind the fetching, not again"
    (rows,) = re.findall(r"note: data set docstrings: ([\d,]+) test rows, 3 seeds, 2 arms against full: ", done)
    described = json.loads((tmp_path / target.format("docstrings")).read_text())
    assert int(rows.replace(",", "")) == described["splits"]["test"]["rows"]
    again = tiny.snakemake(tmp_path, None, "-n", "--config", "comparison={margin: 0.05}").stdout
    assert again.count(f"note: data set docstrings: about {rows} test rows") == 1
    assert "rule fetch_dataset:" not in again, "another margin fetches nothing anew"

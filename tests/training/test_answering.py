"""A run that answers prompts: ended while it answers, with a scorer that fails, and answered again without training."""

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import tiny
import tiny_causal
from peft_tradeoffs.analysis.before_training import untrained_frame, untrained_notes
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import read_outputs
from peft_tradeoffs.runs.interruption import EXIT_STATUS
from peft_tradeoffs.training import job, run
from peft_tradeoffs.training.decoding import decode
from peft_tradeoffs.training.job import Run, add_training, process

GOOD = "def f(prompt, references, output):\n    return 1\n"
BAD = "def f(prompt, references, output):\n    return 2\n"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens and model of a data set that asks for answers."""
    folder = tmp_path_factory.mktemp("answers")
    tiny_causal.causal(folder / "model")
    for name, count, seed in (("train", 32, 1), ("test", 12, 2)):
        tiny_causal.write_completions(folder / f"data/{name}.jsonl", count, seed)
    (folder / "own.py").write_text(GOOD)
    tiny.snakemake(folder, settings(folder), "results/tokens/pairs/tiny.npz")
    return folder


def settings(folder: Path) -> dict[str, Any]:
    block = {
        "source": "files",
        "splits": {name: str(folder / f"data/{name}.jsonl") for name in ("train", "test")},
        **{"task": "sft", "prompt": "prompt", "completion": "completion", "metric": "own_score"},
        "generate": {"max_new_tokens": 6, "batch_size": 5},
        "scorer": {"python": f"{folder}/own.py:f", "range": [0, 1]},
    }
    return {
        "output": "results",
        "datasets": {"pairs": block},
        "models": {"tiny": {"source": "folder", "path": str(folder / "model")}},
        "methods": {"full": {"learning_rate": 1e-3}},
        "training": {"device": "cpu", "precision": "fp32", "epochs": 2, "batch_size": 8, "max_length": 64},
        "comparison": {"margin": 0.1},
        "seeds": [0],
    }


def train(prepared: Path, folder: Path, scorer: str = GOOD) -> dict[str, Any]:
    """Have one run trained, answered and scored, in this process; its summary."""
    own = folder / "own.py"
    own.write_text(scorer)
    asked = settings(prepared)
    asked["datasets"]["pairs"]["scorer"]["python"] = f"{own}:f"
    experiment = resolve(asked)
    scoring = {**experiment.scoring("pairs"), "data": str(prepared / "results/data/pairs")}
    parser = argparse.ArgumentParser()
    add_training(parser)
    words = ["--settings", "{}", "--tokens", str(prepared / "results/tokens/pairs/tiny.npz")]
    words += ["--model", str(prepared / "results/models/tiny"), "--scoring", json.dumps(scoring)]
    with process(parser.parse_args(words)) as found:
        found.train([Run(folder / "seed0", 0, experiment.run_settings("pairs", "tiny", "full").to_dict())])
    return json.loads((folder / "seed0/summary.json").read_text())


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("it is trained again")


@pytest.fixture(scope="module")
def whole(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    summary = train(prepared, folder)
    assert summary["metric_value"] == summary["own_score"] == 1 and summary["attempts"] == 1
    return folder


@contextlib.contextmanager
def ended_while_it_answers() -> Iterator[None]:
    """A signal to end comes when the model begins to answer; the process ends for it."""

    def interrupted(*words: Any) -> Any:
        signals[0].signal_name = "SIGTERM"
        return decode(*words)

    signals: list[Any] = []
    made = job.Interruption

    def kept() -> Any:
        signals.append(made())
        return signals[-1]

    with (
        mock.patch.object(job, "Interruption", kept),
        mock.patch.object(run, "decode", interrupted),
        pytest.raises(SystemExit) as end,
    ):
        yield
    assert end.value.code == EXIT_STATUS


def test_a_signal_while_it_answers_costs_no_step(prepared: Path, whole: Path, tmp_path: Path) -> None:
    with ended_while_it_answers():
        train(prepared, tmp_path)
    assert not (tmp_path / "seed0/summary.json").exists()
    summary = train(prepared, tmp_path)
    first, second = json.loads((tmp_path / "seed0/env.json").read_text())["attempts"]
    assert (first["last_step"], second["first_step"], summary["steps"]) == (8, 9, 8)
    for name in ("checkpoint/model.safetensors", "outputs.jsonl", "predictions.csv", "scores.csv"):
        assert (tmp_path / "seed0" / name).read_bytes() == (whole / "seed0" / name).read_bytes()


def test_a_scorer_that_fails_loses_nothing(prepared: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"own.py:f, row 1: it gives 2, which is no number from 0 to 1"):
        train(prepared, tmp_path, BAD)
    before = json.loads((tmp_path / "seed0/summary.json").read_text())
    assert before["metric_value"] is None and before["null_reasons"]["bleu"] == "the answers are not scored yet"
    with mock.patch.object(run.engine, "train", refuse):
        after = train(prepared, tmp_path)
    assert after["own_score"] == 1 and after["finished_at"] == before["finished_at"]
    assert (tmp_path / "seed0/scores.csv").read_bytes() == (whole / "seed0/scores.csv").read_bytes()
    assert not (tmp_path / "seed0/state").exists()


def test_answers_are_scored_again_where_the_scorer_changed_and_only_there(prepared: Path, whole: Path) -> None:
    with mock.patch.object(run.engine, "train", refuse), mock.patch.object(job, "scored", refuse):
        train(prepared, whole)
    with mock.patch.object(run.engine, "train", refuse):
        changed = train(prepared, whole, "def f(prompt, references, output):\n    return 0\n")
        assert changed["own_score"] == changed["metric_value"] == 0
        assert train(prepared, whole)["own_score"] == 1


def test_answers_are_scored_again_where_references_changed_and_tokens_did_not(
    prepared: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = prepared / "results/data/pairs/test.parquet"
    before = pd.read_parquet(data)
    answers = {one["row"]: one["output"] for one in read_outputs(whole / "seed0/outputs.jsonl")}
    try:
        before.assign(references=[[answers[row]] for row in before["row"]]).to_parquet(data)
        found = job.read_description
        monkeypatch.setattr(job, "read_description", lambda path: {**found(path), "data_sha256": "2" * 64})
        with mock.patch.object(run.engine, "train", refuse):
            assert train(prepared, whole)["exact_match"] == 1
    finally:
        before.to_parquet(data)


def test_more_tokens_than_the_model_has_room_for_are_named_before_the_first_step(
    prepared: Path, tmp_path: Path
) -> None:
    asked = settings(prepared)
    asked["datasets"]["pairs"]["generate"]["max_new_tokens"] = 600
    with (
        mock.patch(f"{__name__}.settings", lambda _: asked),
        mock.patch.object(run.engine, "train", refuse),
        pytest.raises(
            InputError, match=r"max_new_tokens 600 do not fit behind them in the model's 512: set max_new_tok"
        ),
    ):
        train(prepared, tmp_path)


def answer(prepared: Path, folder: Path, scorer: str = GOOD, **training: Any) -> dict[str, Any]:
    """Have the model answer as it is fetched, and what it wrote scored, in this process; its summary."""
    own = folder / "own.py"
    own.write_text(scorer)
    asked = settings(prepared)
    asked["datasets"]["pairs"]["scorer"]["python"] = f"{own}:f"
    asked["training"] |= training
    experiment = resolve(asked)
    scoring = {**experiment.scoring("pairs"), "data": str(prepared / "results/data/pairs")}
    words = ["--settings", "{}", "--tokens", str(prepared / "results/tokens/pairs/tiny.npz")]
    words += ["--model", str(prepared / "results/models/tiny"), "--scoring", json.dumps(scoring)]
    parser = argparse.ArgumentParser()
    add_training(parser)
    made = folder / "pairs/tiny"
    with process(parser.parse_args(words), job.Untrained) as found:
        found.train([Run(made, 0, experiment.untrained_settings("pairs", "tiny").to_dict(), probed=False)])
    return json.loads((made / "summary.json").read_text())


@pytest.fixture(scope="module")
def untrained(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the model as it is fetched answers."""
    folder = tmp_path_factory.mktemp("untrained")
    summary = answer(prepared, folder)
    assert summary["own_score"] == 1 and summary["test_loss"] > 0 and summary["status"] == "completed"
    return folder / "pairs/tiny"


def test_an_untrained_model_takes_no_step_and_keeps_its_answers_whatever_training_does(
    prepared: Path, untrained: Path
) -> None:
    """Epochs and the optimizer decide nothing of it; how it answers does."""
    before = (untrained / "summary.json").read_bytes()
    assert sorted(path.name for path in untrained.iterdir()) == [
        *("env.json", "outputs.jsonl", "predictions.csv", "scores.csv", "summary.csv", "summary.json")
    ]
    with mock.patch.object(run.engine, "train", refuse), mock.patch.object(run, "decode", refuse):
        answer(prepared, untrained.parents[1], epochs=7, optimizer="adamw_8bit")
    assert (untrained / "summary.json").read_bytes() == before


def test_an_untrained_model_that_is_ended_while_it_answers_leaves_nothing_half_and_answers_again(
    prepared: Path, untrained: Path, tmp_path: Path
) -> None:
    with ended_while_it_answers():
        answer(prepared, tmp_path)
    folder = tmp_path / "pairs/tiny"
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == ["state"]
    answer(prepared, tmp_path)
    reasons = [one["reason"] for one in json.loads((folder / "env.json").read_text())["attempts"]]
    assert reasons == ["signal SIGTERM", "completed"]
    for name in ("outputs.jsonl", "predictions.csv", "scores.csv"):
        assert (folder / name).read_bytes() == (untrained / name).read_bytes()


def test_a_scorer_that_fails_leaves_the_answers_of_an_untrained_model(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"own.py:f, row 1: it gives 2, which is no number from 0 to 1"):
        answer(prepared, tmp_path, BAD)
    before = json.loads((tmp_path / "pairs/tiny/summary.json").read_text())
    assert before["own_score"] is None and before["null_reasons"]["bleu"] == "the answers are not scored yet"
    with mock.patch.object(run, "decode", refuse):
        assert answer(prepared, tmp_path)["own_score"] == 1


def test_memory_that_does_not_suffice_for_an_untrained_model_is_a_result(prepared: Path, tmp_path: Path) -> None:
    with mock.patch.object(run, "decode", side_effect=run.torch.OutOfMemoryError("Tried to allocate 2.00 GiB.")):
        summary = answer(prepared, tmp_path)
    assert (summary["status"], summary["failed_phase"], summary["oom_bytes"]) == ("oom", "generate", 2 << 30)
    assert summary["null_reasons"]["exact_match"] == "not reached: it ended in generate"
    frame = untrained_frame([tmp_path / "pairs/tiny"], None)
    assert frame["reason"].tolist() == ["out of memory in generate"]
    assert "out of memory in generate" in " ".join(untrained_notes(frame))

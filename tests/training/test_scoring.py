"""Answers are kept as text and scored in a process of its own; whatever a scorer does, the run stands."""

import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sacrebleu
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import read_outputs
from peft_tradeoffs.tasks.metrics import METRICS, Scored
from peft_tradeoffs.tasks.outputs import STATISTICS
from peft_tradeoffs.tasks.task import TASKS
from peft_tradeoffs.tasks.texts import read_scores
from peft_tradeoffs.training import scoring
from peft_tradeoffs.training.job import RunDirectory
from peft_tradeoffs.training.scoring import Scoring, load_scorer, run_scorer, score, write_outputs

ANSWERS = ["a b", "a c", "", "7 dogs"]
RIGHT = ["a b", "a b", "x", "7"]
ROWS = [3, 5, 6, 9]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's answers, and the data set that they are to."""
    (tmp_path / "run").mkdir()
    write_outputs(tmp_path / "run/outputs.jsonl", ROWS, ANSWERS, [2, 2, 0, 2], [True, True, True, False])
    frame = pd.DataFrame({"text_a": ["?"] * 10, "text_b": ["-"] * 10, "row": range(10)})
    for row, text in zip(ROWS, RIGHT, strict=True):
        frame.loc[row, "text_b"] = text
    (tmp_path / "data").mkdir()
    frame.to_parquet(tmp_path / "data/test.parquet")
    return tmp_path


def scored(folder: Path, scorer: dict[str, Any] | None = None) -> np.ndarray:
    path = folder / "scores.csv"
    score(
        folder / "run/outputs.jsonl",
        folder / "data",
        "test",
        {"number": None, "scorer": scorer, "begins": ""},
        path,
        lambda: None,
    )
    found = read_scores(path, np.array(ROWS))
    assert found is not None
    return found


HEAD = "def f(prompt, references, output):\n    "


def scorer(folder: Path, text: str, **changes: Any) -> dict[str, Any]:
    """A scorer in a file of its own: what its function does, or all of the file."""
    text = text if "\n" in text else f"{HEAD}{text}\n"
    (folder / "own.py").write_text(text, encoding="utf-8")
    return {"python": f"{folder}/own.py:f", "range": [0, 1], "timeout_s": 60.0, "sha256": "0" * 64, **changes}


def column(found: np.ndarray, name: str) -> list[float]:
    return found[:, STATISTICS.index(name)].tolist()


def test_answers_come_back_as_they_were_written(tmp_path: Path) -> None:
    texts = ["line\nbreak", 'quotes " and \\', "ü\u2028…", ""]
    write_outputs(tmp_path / "outputs.jsonl", range(4), texts, [1, 2, 3, 0], np.array([True, False, True, True]))
    found = read_outputs(tmp_path / "outputs.jsonl")
    assert [one["output"] for one in found] == texts
    assert found[1] == {"row": 1, "output": texts[1], "tokens": 2, "ended": False}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 1: not JSON"),
        ('{"row": 1}', "no output"),
        ('{"row": 1, "output": "a", "tokens": 1, "ended": 1}', "ended is 1"),
        ("[]", "no JSON object"),
    ],
)
def test_answers_that_no_run_wrote_are_named(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "outputs.jsonl").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=said):
        read_outputs(tmp_path / "outputs.jsonl")


def test_each_answer_is_scored_against_its_own_reference(folder: Path) -> None:
    found = scored(folder)
    assert column(found, "exact_match") == [1, 0, 0, 0]
    assert np.isnan(column(found, "own_score")).all()


def test_further_references_count_as_those_libraries_have_them(folder: Path) -> None:
    """Rows have unequal numbers of them."""
    frame = pd.read_parquet(folder / "data/test.parquet")
    further = {3: ["a b c d e"], 5: ["x", "a c e g h"], 6: ["y z", "y"], 9: ["about 7 dogs", "seven", "9"]}
    frame["references"] = [further.get(row, ["-"]) for row in range(10)]
    frame.to_parquet(folder / "data/test.parquet")
    answers = ["a b c d e", "a c e g", "", "about 7 cats"]
    write_outputs(folder / "run/outputs.jsonl", ROWS, answers, [1] * 4, [True] * 4)
    found = scored(folder, scorer(folder, "return len(references) / 10"))
    assert column(found, "exact_match") == [1, 0, 0, 0] and column(found, "own_score") == [0.2, 0.3, 0.3, 0.4]
    every = [[text, *further[row]] for row, text in zip(ROWS, RIGHT, strict=True)]
    streams = [[own[place] if place < len(own) else None for own in every] for place in range(4)]
    whole = Scored(np.array(ROWS), np.ones(4), np.ones(4), np.ones((4, 3)), found)
    assert METRICS["bleu"].of(whole) == sacrebleu.corpus_bleu(answers, streams).score > 50
    assert METRICS["chrf"].of(whole) == sacrebleu.corpus_chrf(answers, streams).score > 50
    frame.drop(columns="references").to_parquet(folder / "data/test.parquet")
    assert METRICS["bleu"].of(replace(whole, written=scored(folder))) < 50


def test_what_a_template_begins_answers_with_is_compared_with_nothing(folder: Path) -> None:
    answers = [f"<think></think>{text}" for text in ANSWERS[:2]] + ["x", "so</think>7"]
    write_outputs(folder / "run/outputs.jsonl", ROWS, answers, [2] * 4, [True] * 4)
    own = Scoring(folder / "data", None, scorer(folder, "return 'think' in output"), begins="<think></think>")
    assert run_scorer(folder / "run", own, "test", folder / "scores.csv", lambda: None) is None
    found = read_scores(folder / "scores.csv", np.array(ROWS))
    assert found is not None and column(found, "exact_match") == [1, 0, 1, 0]
    assert column(found, "own_score") == [0, 0, 0, 1] and own.digest != replace(own, begins="").digest


def test_a_scorer_is_given_prompt_references_and_answer(folder: Path) -> None:
    own = scorer(folder, "return output in references and prompt == '?'")
    assert column(scored(folder, own), "own_score") == [1, 0, 0, 0]


def test_a_scorer_imports_what_lies_beside_it(folder: Path) -> None:
    (folder / "beside_the_scorer.py").write_text("HALF = 0.5\n", encoding="utf-8")
    own = scorer(folder, f"from beside_the_scorer import HALF\n\n\n{HEAD}return HALF\n")
    assert column(scored(folder, own), "own_score") == [0.5] * 4


BAD = {
    "it raises": (
        "def f(p, r, o):\n    raise ZeroDivisionError('no way')\n",
        r"row 4: it raises ZeroDivisionError: no",
    ),
    "not a number": (
        "def f(p, r, o):\n    return float('nan')\n",
        r"row 4: it gives nan, .* no number from 0 to 1",
    ),
    "out of its range": ("return 1.5", r"row 4: it gives 1.5, .*scorer.range"),
    "infinite": ("return float('inf')", r"it gives inf"),
    "a text": ("return 'good'", r"it gives 'good'"),
    "nothing": ("pass", r"it gives None"),
    "of one row alone": (
        "def f(p, r, o):\n    return 1 / len(o)\n",
        r"row 7: it raises ZeroDivisionError.*own.py, line 2",
    ),
    "no such function": ("def g(p, r, o):\n    return 1\n", r"no function f"),
    "no function": ("f = 3\n", r"no function f"),
    "two arguments": ("def f(p, o):\n    return 1\n", r"does not take prompt, references and output"),
    "a wrong import": ("import no_such_module_anywhere\n", r"cannot be imported \(ModuleNotFoundError"),
    "no Python": ("def f(:\n", r"cannot be imported \(SyntaxError"),
    "it exits": ("raise SystemExit", r"row 4: it raises SystemExit"),
    "it exits when imported": (f"{HEAD}return 1\n\n\nraise SystemExit(0)\n", r"cannot be imported \(SystemExit"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_scorer_is_one_clear_error(folder: Path, name: str) -> None:
    text, said = BAD[name]
    with pytest.raises(InputError, match=said):
        scored(folder, scorer(folder, text))
    assert not (folder / "scores.csv").exists()


def test_a_scorer_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"nowhere.py: no such file"):
        load_scorer("nowhere.py:f")


def test_answers_to_rows_that_the_data_does_not_have_are_named(folder: Path) -> None:
    write_outputs(folder / "run/outputs.jsonl", [77], ["a"], [1], [True])
    with pytest.raises(InputError, match="no row 78"):
        scored(folder)


def parent(folder: Path, own: dict[str, Any] | None, ends: Any = lambda: None) -> str | None:
    return run_scorer(folder / "run", Scoring(folder / "data", None, own), "test", folder / "scores.csv", ends)


def test_scoring_is_a_process_of_its_own(folder: Path) -> None:
    own = scorer(
        folder,
        "import os, pathlib\n\n\ndef f(p, r, o):\n    "
        "pathlib.Path(__file__).with_name('pid').write_text(str(os.getpid()))\n    "
        "return 'torch' not in __import__('sys').modules\n",
    )
    assert parent(folder, own) is None
    found = read_scores(folder / "scores.csv", np.array(ROWS))
    assert found is not None and column(found, "own_score") == [1] * 4  # nor does torch come into it
    assert int((folder / "pid").read_text()) != os.getpid()


def test_what_a_scorer_says_is_said_once_and_clearly(folder: Path) -> None:
    with pytest.raises(InputError, match=r"^[^\n]*own.py:f, row 4: it gives 2[^\n]*$"):
        parent(folder, scorer(folder, "return 2"))


def test_a_scorer_that_hangs_is_ended_with_all_that_it_started(folder: Path) -> None:
    own = scorer(
        folder,
        "import pathlib, subprocess, time\n\n\ndef f(p, r, o):\n    child = subprocess.Popen(['sleep', '600'])\n"
        "    pathlib.Path(__file__).with_name('pid').write_text(str(child.pid))\n    time.sleep(600)\n",
        timeout_s=1.0,
    )
    with pytest.raises(InputError, match=r"own.py:f has not ended after 1 s.*scorer.timeout_s.*without training"):
        parent(folder, own)
    pid = int((folder / "pid").read_text())
    deadline = time.monotonic() + 60
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pid)


def test_the_limit_is_of_the_scorer_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    assert parent(folder, scorer(folder, "return 1", timeout_s=0.3)) is None
    assert time.monotonic() - began > 0.3  # the process and our own metrics
    with pytest.raises(InputError, match=r"own.py:f has not ended after 0.3 s"):  # all rows together
        parent(
            folder, scorer(folder, "import time\n\n\ndef f(p, r, o):\n    return time.sleep(0.2) or 1\n", timeout_s=0.3)
        )
    with pytest.raises(InputError, match=r"own.py:f has not ended after 0.3 s"):
        parent(folder, scorer(folder, f"import time\n\ntime.sleep(9)\n\n\n{HEAD}return 1\n", timeout_s=0.3))
    monkeypatch.setattr(scoring, "BUILT_IN_s", 0.0)
    with pytest.raises(InputError, match=r"score_outputs.py has not ended after 0 s; see what slows"):
        parent(folder, None)


def test_what_a_scorer_started_ends_with_it_and_holds_nothing_up(folder: Path) -> None:
    own = scorer(
        folder,
        "import pathlib, subprocess\n\nCHILD = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path(__file__).with_name('pid').write_text(str(CHILD.pid))\n\n\n{HEAD}return 1\n",
    )
    assert parent(folder, own) is None
    pid = int((folder / "pid").read_text())
    deadline = time.monotonic() + 60
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(pid)


def test_a_scorer_that_ends_its_process_leaves_no_scores_of_before(folder: Path) -> None:
    scored(folder)  # those that a killed call left
    with pytest.raises(InputError, match=r"own.py:f ended its process before the answers were scored.*without trainin"):
        parent(folder, scorer(folder, "__import__('os')._exit(0)"))
    assert not (folder / "scores.csv").exists()


def test_a_scorer_may_have_what_looks_its_module_up(folder: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n\n"
        f"@dataclass\nclass One:\n    value: int = 1\n\n\n{HEAD}return One().value\n"
    )
    assert column(scored(folder, scorer(folder, text)), "own_score") == [1] * 4


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_signal_ends_the_scoring(folder: Path) -> None:
    own = scorer(folder, "import time\n\n\ndef f(p, r, o):\n    time.sleep(600)\n", timeout_s=600.0)
    asked = threading.Event()
    threading.Timer(1.0, asked.set).start()
    assert parent(folder, own, lambda: "SIGTERM" if asked.is_set() else None) == "SIGTERM"


def test_what_scores_decides_whether_answers_are_scored_again(folder: Path) -> None:
    own = scorer(folder, "")
    first = Scoring(folder / "data", None, own).digest
    assert first == Scoring(Path("elsewhere"), None, {**own, "timeout_s": 5.0}).digest  # neither place nor patience
    assert first != Scoring(folder / "data", None, own, "2" * 64).digest  # references of which are others
    others = [None, {**own, "sha256": "1" * 64}, {**own, "range": [0, 2]}]
    assert len({first, Scoring(folder, "x", own).digest, *(Scoring(folder, None, one).digest for one in others)}) == 5


class TestAmended:
    """A finished run gets another summary and further files, and a kill at any moment loses neither."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> RunDirectory:
        found = RunDirectory(tmp_path / "seed0", "0" * 64, 60)
        found.path.mkdir()
        found.lock()
        found.results.mkdir(parents=True)
        (found.results / "predictions.csv").write_text("row\n1\n")
        (found.results / "summary.csv").write_text("before\n")
        found.publish({"fingerprint": "0" * 64, "metric_value": None})
        yield found
        found.unlock()

    @staticmethod
    def amend(run: RunDirectory) -> None:
        for name, text in (("scores.csv", "row,a\n1,2\n"), ("summary.csv", "after\n")):
            (run.path / "state" / name).write_text(text)
        summary = {**files.read_json(run.path / "summary.json"), "metric_value": 2.0}
        run.amend(summary, {name: run.path / "state" / name for name in ("scores.csv", "summary.csv")})

    def test_it_is_published_with_them(self, run: RunDirectory) -> None:
        self.amend(run)
        assert run.stands()
        summary = files.read_json(run.path / "summary.json")
        assert summary["metric_value"] == 2.0
        assert set(summary["files"]) == {"predictions.csv", "scores.csv", "summary.csv"}
        assert (run.path / "summary.csv").read_text() == "after\n"

    @pytest.mark.parametrize("writes", range(4))
    def test_a_kill_on_the_way_leaves_a_run_that_stands(
        self, run: RunDirectory, monkeypatch: pytest.MonkeyPatch, writes: int
    ) -> None:
        """Every file that `amend` moves or writes is the last one in turn."""
        replace, left = Path.replace, [writes]

        def once(source: Path, target: Path) -> Path:
            if "state/results" in str(target) or left[0]:
                left[0] -= "state/results" not in str(target)
                return replace(source, target)
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "replace", once)
        with pytest.raises(KeyboardInterrupt):
            self.amend(run)
        monkeypatch.setattr(Path, "replace", replace)
        assert run.finished() and run.stands()
        value = files.read_json(run.path / "summary.json")["metric_value"]
        assert value == (None if writes == 0 else 2.0)
        self.amend(run)
        assert run.stands()


def test_a_signal_to_the_parent_is_not_the_scorers(folder: Path) -> None:
    """A scorer's process group is its own: Ctrl-C at a terminal reaches the parent alone."""
    own = scorer(
        folder,
        "import os, pathlib\n\n\ndef f(p, r, o):\n    "
        "pathlib.Path(__file__).with_name('group').write_text(str(os.getpgrp()))\n    return 1\n",
    )
    parent(folder, own)
    assert int((folder / "group").read_text()) != os.getpgrp()


def test_predictions_on_heldout_have_no_scores_beside_them(folder: Path) -> None:
    scored(folder)
    columns = {"row": np.array([0, 1]), "loss": np.ones(2), "tokens": np.full(2, 3), "right": np.ones(2)}
    found = TASKS["sft"].read(folder / "predictions_heldout.csv", columns, 2)
    assert found.written is None


def test_the_scores_of_other_answers_are_refused(folder: Path) -> None:
    scored(folder)
    with pytest.raises(InputError, match="not the scores of the answers beside it"):
        read_scores(folder / "scores.csv", np.array([3, 5, 6, 8]))
    lines = (folder / "scores.csv").read_text().splitlines()
    (folder / "scores.csv").write_text("\n".join([lines[0], *lines[2:]]))
    with pytest.raises(InputError, match="not scores that a run has"):
        read_scores(folder / "scores.csv", np.array(ROWS))

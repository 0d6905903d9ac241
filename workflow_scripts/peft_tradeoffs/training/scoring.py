"""What trained models answer: kept as text, and scored in a process of its own. Cheap to import.

No metric's library and no code of a user's ever enters a process that trains.
"""

import contextlib
import csv
import importlib.metadata
import importlib.util
import inspect
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peft_tradeoffs.core import code, files
from peft_tradeoffs.core.errors import InputError, RowError
from peft_tradeoffs.core.layout import SCRIPTS
from peft_tradeoffs.runs.interruption import Interrupted, Interruption
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.tasks.outputs import LIBRARIES, NOT_DEFINED, OWN, STATISTICS, statistics, without_start
from peft_tradeoffs.tasks.task import TASKS

SCRIPT = SCRIPTS / "score_outputs.py"
SAID = 300  # characters of what a scorer says
SHOWN = 80  # characters of a text in a message
POLL_s = 0.2
BUILT_IN_s = 3600.0  # that metrics of ours may take, and the start of the process
BEFORE, SCORER = 0, 1  # how often the process has said that the user's scorer begins, or has ended


@dataclass(frozen=True)
class Scoring:
    """What the answers of a data set are scored with."""

    data: Path  # the folder of the fetched data set
    number: str | None  # a regular expression that finds a numeric answer
    scorer: dict[str, Any] | None  # python, range, timeout_s, and the sha256 of its file
    data_sha256: str | None = None  # of the data set, whose references may change where its tokens do not
    begins: str = ""  # text with which a chat template begins answers

    @classmethod
    def of(cls, text: str) -> "Scoring":
        """As the option --scoring has it, JSON."""
        found = json.loads(text)
        return cls(Path(found["data"]), found["number"], found["scorer"])

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides the scores of answers."""
        own = self.scorer and {key: self.scorer[key] for key in ("python", "range", "sha256")}
        versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
        found = {"code": code.fingerprint(SCRIPT), "versions": versions, "number": self.number, "scorer": own}
        found |= {"data": self.data_sha256, "begins": self.begins}
        return code.digest(found)


def write_outputs(path: Path, rows: Sequence[int], texts: Sequence[str], tokens: Sequence[int], ended: Any) -> None:
    """Write answers as JSON lines: of which row, the text, its length in tokens, whether the model ended it."""
    with path.open("w", encoding="utf-8") as file:
        for row, text, count, whole in zip(rows, texts, tokens, ended, strict=True):
            line = {"row": int(row), "output": text, "tokens": int(count), "ended": bool(whole)}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


# In the process that trains -------------------------------------------------------------------------------------------


def scored(
    folder: Path, summary: Mapping[str, Any], scoring: Scoring, split: str, interruption: Interruption
) -> tuple[dict[str, Any], dict[str, Path]]:
    """The summary of the run in `folder` with the metrics of its answers, and the files that go with it, by name.

    The answers are to rows of a `split` of the source. Raises InputError as `run_scorer`, Interrupted if a signal asks
    the process to end.
    """
    state = folder / "state"
    state.mkdir(exist_ok=True)
    scores = state / files.SCORES
    interruption.hold()
    name = run_scorer(folder, scoring, split, scores, lambda: interruption.signal_name)
    if name is not None:
        raise Interrupted(name, "while answers were scored")
    task = TASKS[summary["task"]]
    with (folder / files.PREDICTIONS).open(encoding="utf-8") as file:
        header = file.readline().strip().split(",")
    table = np.loadtxt(folder / files.PREDICTIONS, delimiter=",", skiprows=1, ndmin=2)
    found = task.read(scores.with_name(files.PREDICTIONS), dict(zip(header, table.T, strict=True)), len(table))
    values = {metric.name: metric.of(found) for metric in metrics.of_task(metrics.OUTPUTS)}
    if summary.get("metric") in values:  # none is reported of a model that is not trained
        values["metric_value"] = values[summary["metric"]]
    reasons = {key: why for key, why in summary["null_reasons"].items() if key not in values and key != "scored_as"}
    reasons |= {key: NOT_DEFINED.get(key, "not defined") for key, value in values.items() if value is None}
    new = {**summary, **values, "scored_as": scoring.digest, "null_reasons": reasons}
    lines = state / "summary.csv"
    kept = {key: value for key, value in new.items() if key not in files.KEYS}
    files.write_csv(lines, [{**kept, "null_reasons": json.dumps(reasons)}])
    interruption.release()
    return new, {files.SCORES: scores, lines.name: lines}


def run_scorer(folder: Path, scoring: Scoring, split: str, output: Path, ends: Callable[[], str | None]) -> str | None:
    """Score the answers of the run in `folder`, to the rows of a `split` of the source, to `output`.

    `ends` names a signal that asks this process to end; then the scoring is ended too and the name given back. Raises
    InputError with what the scoring process said, or where it took too long.
    """
    words = ["--outputs", str(folder / files.OUTPUTS), "--data-dir", str(scoring.data), "--split", split]
    asked = {"number": scoring.number, "scorer": scoring.scorer, "begins": scoring.begins}
    words += ["--asked", json.dumps(asked), "--output", str(output)]
    output.unlink(missing_ok=True)  # of an earlier call that was killed
    # No pipes, which a process that a scorer started could keep open.
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as marks:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *words, "--marks", str(marks.fileno())],
            pass_fds=[marks.fileno()],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,  # so that what a scorer started ends with it
        )
        try:
            if (name := _await(process, folder, scoring, marks.fileno(), ends)) is not None:
                return name
        finally:
            _end(process)
        said.seek(0)
        words_of_it = said.read().decode("utf-8", "replace").strip().removeprefix("error: ")
    if process.returncode:
        raise InputError(words_of_it or f"{folder / files.OUTPUTS}: {_who(scoring)} ended with {process.returncode}")
    if not output.is_file():
        raise InputError(
            f"{folder / files.OUTPUTS}: {_who(scoring)} ended its process before the answers were scored; correct it; "
            "the run stands, and the next call scores it without training"
        )
    return None


def _await(
    process: "subprocess.Popen[bytes]", folder: Path, scoring: Scoring, marks: int, ends: Callable[[], str | None]
) -> str | None:
    """Wait until a scoring process has ended; the name of a signal that came meanwhile. Raises InputError as above.

    `marks`: a file that grows by a byte where the user's scorer begins, and where it has ended; its limit is of the
    time between.
    """
    began, seen = time.monotonic(), BEFORE
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL_s)
            return None
        if (name := ends()) is not None:
            return name
        if os.fstat(marks).st_size != seen:
            began, seen = time.monotonic(), os.fstat(marks).st_size
        own = scoring.scorer if seen == SCORER else None
        limit_s = float(own["timeout_s"]) if own else BUILT_IN_s
        if time.monotonic() - began >= limit_s:
            who = f"{_who(scoring)} has not ended after {limit_s:g} s; correct it, or raise scorer.timeout_s"
            if own is None:
                who = f"{SCRIPT.name} has not ended after {limit_s:g} s; see what slows this machine"
            raise InputError(
                f"{folder / files.OUTPUTS}: {who}; the run stands, and the next call scores it without training"
            )


def _who(scoring: Scoring) -> str:
    return f"the scorer {scoring.scorer['python']}" if scoring.scorer else SCRIPT.name


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process, and what it started, also where it has ended itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# In the process that scores -------------------------------------------------------------------------------------------


def score(
    outputs: Path, data_dir: Path, split: str, asked: Mapping[str, Any], path: Path, mark: Callable[[], Any]
) -> None:
    """Write what each answer adds to its metrics to `path` as CSV: row, and the columns STATISTICS.

    `mark` is called before a scorer of the user's own is imported, and after it has scored all. Raises InputError for
    answers to other rows than the data's, and for a scorer that raises or leaves its range.
    """
    from peft_tradeoffs.inputs.splits import read_references  # with pyarrow, which training does without

    answers = files.read_outputs(outputs)
    rows = [one["row"] for one in answers]
    found_of = read_references(data_dir / f"{split}.parquet", rows)
    prompts, references = [prompt for prompt, _ in found_of], [own for _, own in found_of]
    texts = [without_start(one["output"], asked["begins"]) for one in answers]
    try:
        found = statistics(texts, references, asked["number"])
    except RowError as error:
        raise InputError(f"{data_dir / split}.parquet, row {rows[error.index] + 1}: {error.said}") from None
    if asked["scorer"]:
        mark()
        found[:, STATISTICS.index(OWN)] = list(_own_scores(asked["scorer"], rows, prompts, references, texts))
        mark()
    with files.atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", *STATISTICS])
        for one, values in zip(answers, found, strict=True):
            writer.writerow([one["row"], *("" if math.isnan(value) else format(value, ".17g") for value in values)])


def _own_scores(
    scorer: Mapping[str, Any], rows: list[int], prompts: list[Any], references: list[list[str]], texts: list[str]
) -> Iterator[float]:
    """What a scorer gives of each row."""
    function, (low, high) = load_scorer(scorer["python"]), scorer["range"]
    for row, prompt, own, text in zip(rows, prompts, references, texts, strict=True):
        where = f"{scorer['python']}, row {row + 1}"
        try:
            value = function(prompt, own, text)
        except (Exception, SystemExit) as error:  # of a user's code, as it pleases
            line = traceback.extract_tb(error.__traceback__)[-1]
            said = ascii(" ".join(f"{type(error).__name__}: {error}".split())[:SAID])[1:-1]
            raise InputError(
                f"{where}: it raises {said} ({Path(line.filename).name}, line {line.lineno}); answer {text!r:.{SHOWN}}"
            ) from None
        if isinstance(value, np.generic):
            value = value.item()
        if not isinstance(value, bool | int | float) or not low <= value <= high:  # NaN is not within either
            raise InputError(
                f"{where}: it gives {value!r:.{SHOWN}}, which is no number from {low:g} to {high:g} (scorer.range); "
                f"answer {text!r:.{SHOWN}}"
            )
        yield float(value)


def load_scorer(python: str) -> Callable[..., Any]:
    """The function that `file.py:name` means. Raises InputError where there is none of three arguments."""
    path, _, name = python.rpartition(":")
    spec = importlib.util.spec_from_file_location("scorer", path)
    assert spec is not None and spec.loader is not None  # of a name that ends in .py
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # as dataclasses and pickle need it
    sys.path.insert(0, str(Path(path).absolute().parent))
    try:
        spec.loader.exec_module(module)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; scorer.python names it") from None
    except (Exception, SystemExit) as error:  # of a user's code, as it pleases
        raise InputError(f"{path}: it cannot be imported ({type(error).__name__}: {error})") from None
    function: Callable[..., Any] | None = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"{path}: no function {name}; scorer.python names one of prompt, references and output")
    try:
        inspect.signature(function).bind("", [], "")
    except TypeError as error:
        raise InputError(f"{python}: it does not take prompt, references and output ({error})") from None
    return function

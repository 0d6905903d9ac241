"""Damaged tables, references, tunings and a run's recordings: one line that names the file, never a traceback."""

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import published
import pytest
import synthetic
from peft_tradeoffs.analysis import reference, tables
from peft_tradeoffs.analysis.comparison import read_comparison
from peft_tradeoffs.analysis.contract import with_differences
from peft_tradeoffs.analysis.reference import read_env
from peft_tradeoffs.analysis.stats import read_noise
from peft_tradeoffs.analysis.tables import read_table
from peft_tradeoffs.analysis.tuning_table import read_tuning
from peft_tradeoffs.core import errors, files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.report import imported, tracking
from peft_tradeoffs.runs import lock, plan
from peft_tradeoffs.runs.status import grid_status, table, tuning_status
from peft_tradeoffs.training.search import KeptPeaks

RUNS = [synthetic.summary("full", None, seed) for seed in (0, 1)]
DEEP = "[" * 200_000
BROKEN = [
    "",
    "{",
    "[]",
    "null",
    "3",
    '"text"',
    "{}",
    DEEP,
    '{"a": ' * 100_000,
    "\ufeff{}",
    "[1e999]",
    "9" * 5000,
    "\x00",
]


@pytest.mark.parametrize("content", BROKEN)
def test_json_that_is_broken_in_any_way_is_an_input_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"a\.json: .*; do this$"):
        files.read_object(path, {"key": (int,)}, "a file of ours", "do this")


def test_what_is_no_file_is_an_input_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_bytes(b"\xff")
    said = {"pipe": "a named pipe, where a file must be", "folder": "a folder, where a file must be"}
    said |= {
        "loop": r"cannot be read \(Too many levels",
        "file": "not UTF-8",
        "file/below": r"cannot be read \(Not a dir",
    }
    for name, words in said.items():
        with pytest.raises(InputError, match=f"{name}: {words}"):
            files.read_json(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / "none")
    with pytest.raises(InputError, match="says 'a' twice"):
        (tmp_path / "twice").write_text('{"b": {"a": 1, "a": 2}}')
        files.read_json(tmp_path / "twice", unique=True)
    with pytest.raises(InputError, match="key is true"):
        (tmp_path / "true").write_text('{"key": true}')
        files.read_object(tmp_path / "true", {"key": (int,)}, "ours", "")


@pytest.mark.parametrize("number", ["EISDIR", "ELOOP", "EIO"])
def test_errors_of_the_system_end_in_a_line(number: str) -> None:
    def fail() -> None:
        raise OSError(getattr(errors.errno, number), "said", "/a/file")

    with pytest.raises(SystemExit, match=r"^error: /a/file: "):
        errors.run(fail)


# Tables that later scripts read.


def write_tables(folder: Path) -> dict[str, tuple[Path, Callable[[Path], Any]]]:
    """Tables by name, with what reads them."""
    frame = tables.runs_frame(RUNS)
    folder.mkdir(exist_ok=True)
    frame.to_csv(folder / "runs.csv", index=False, lineterminator="\n")
    synthetic.contract(folder, RUNS)
    synthetic.tuning(RUNS, {}).to_csv(folder / "tuning.csv", index=False, lineterminator="\n")
    place = "dataset,model,arm,device_name,quantity,n,mean,sd"
    (folder / "noise.csv").write_text(f"{place}\nsst2,distilbert,full,a CPU,train_s,5,10.5,0.25\n")
    readers: dict[str, Callable[[Path], Any]] = {
        "runs": tables.read_runs,
        "contract": lambda path: with_differences(frame, path),
        "tuning": read_tuning,
        "noise": read_noise,
    }
    return {name: (folder / f"{name}.csv", reader) for name, reader in readers.items()}


def header_alone(text: str) -> str:
    return text.splitlines()[0]


def without_a_column(text: str) -> str:
    return "\n".join(line.partition(",")[2] for line in text.splitlines()) + "\n"


DAMAGES: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "cut in a line": lambda text: text[: len(text) - 7],
    "header cut": header_alone,
    "a column less": without_a_column,
    "a cell more": lambda text: text[:-1] + ",1\n",
    "a quote left open": lambda text: text.replace("\n", '\n"', 1),
    "NUL": lambda text: text.replace("sst2", "\x00st2,", 1),
    "another kind of file": lambda text: "%PDF-1.7\n",
    "a page": lambda text: "<!DOCTYPE html>\n<a,b>\n",
}


@pytest.mark.parametrize("name", ["runs", "contract", "tuning", "noise"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_named(tmp_path: Path, name: str, damage: str) -> None:
    path, read = write_tables(tmp_path)[name]
    read(path)
    path.write_text(DAMAGES[damage](path.read_text()))
    with pytest.raises(InputError, match=rf"{name}\.csv: .*make it again"):
        read(path)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [("runs", "completed", ""), ("runs", ",6400,", ",many,"), ("runs", '"{""', '"[""'), ("noise", "10.5", "ten")],
)
def test_a_text_for_a_number_in_a_table_is_named(tmp_path: Path, name: str, old: str, new: str) -> None:
    path, read = write_tables(tmp_path)[name]
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=rf"{name}\.csv: .*make it again"):
        read(path)


def test_tables_that_are_no_files_are_named(tmp_path: Path) -> None:
    for name, (path, read) in write_tables(tmp_path).items():
        path.unlink()
        with pytest.raises(InputError, match=rf"{name}\.csv: no such file; make it again"):
            read(path)
        path.mkdir()
        with pytest.raises(InputError, match=rf"{name}\.csv: a folder"):
            read(path)
    with pytest.raises(InputError, match="no such file; make it again with compare_arms"):
        read_comparison(tmp_path / "comparison.csv")


def test_a_table_is_read_as_it_was_whatever_its_cells_hold(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": ['x "y", z', "NA", "two\nlines"], "b": [1.5, None, -0.1], "c": [True, None, False]})
    for name, end in (("lf", "\n"), ("crlf", "\r\n")):
        frame.to_csv(tmp_path / name, index=False, lineterminator=end)
        found = read_table(tmp_path / name, ["a"], "", {"a": str}, ["b", "c"])
        assert found["a"].str.replace("\r\n", "\n").tolist() == frame["a"].tolist()
        assert found["b"].tolist()[::2] == [1.5, -0.1] and found["c"].tolist()[::2] == [True, False]


# References and published results.


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    synthetic.write(tmp_path, RUNS)
    folder = tmp_path / "reference"
    reference.store(reference.of_runs(tables.runs_frame(RUNS), tmp_path / "runs", None), folder)
    return folder


def test_a_reference_is_read(stored: Path) -> None:
    assert len(reference.read(stored).runs) == 2


@pytest.mark.parametrize(
    "changes",
    [
        *({key: value} for key in ("common", "arms", "checksums", "files") for value in (None, [], "x", 3)),
        {"arms": {"sst2/distilbert/full": []}},
        {"checksums": {"sst2/distilbert/full/seed0": "a" * 64}},
        {"checksums": {"sst2/distilbert/full/seed0": {"weights": 1, "predictions": None}}},
        {"files": {"../../../etc/passwd": "a" * 64}},
        {"files": {"runs.csv": 5}},
    ],
)
def test_a_reference_of_wrong_types_is_named(stored: Path, changes: dict[str, Any]) -> None:
    env = json.loads((stored / "env.json").read_text())
    (stored / "env.json").write_text(json.dumps(env | changes))
    with pytest.raises(InputError, match="store the reference again"):
        reference.read(stored)


@pytest.mark.parametrize("content", BROKEN)
def test_a_reference_that_is_broken_is_named(stored: Path, content: str) -> None:
    (stored / "env.json").write_text(content)
    with pytest.raises(InputError, match=r"env\.json: "):
        read_env(stored)


def test_a_reference_of_damaged_runs_is_not_stored(tmp_path: Path) -> None:
    synthetic.write(tmp_path, RUNS)
    predictions = tmp_path / "runs/sst2/distilbert/full/seed1/predictions.csv"
    predictions.write_text(predictions.read_text().replace("0.5", "1.5"))
    with pytest.raises(InputError, match=r"seed1/predictions\.csv: changed after the run wrote it"):
        reference.of_runs(tables.runs_frame(RUNS), tmp_path / "runs", None)


def test_a_pipe_among_published_results_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"config key imported\.x\.0: .*a named pipe"):
        imported.find({"x": [str(tmp_path / "a.json")]})
    (tmp_path / "b.json").write_bytes(b"\xff\xfe" + json.dumps(published.result()).encode("utf-16-le"))
    with pytest.raises(InputError, match=r"b\.json: not UTF-8"):
        imported.read_result(tmp_path / "b.json")


# What tune.py, searches, locks and trackers left.


def test_a_tuning_that_was_edited_is_named(tmp_path: Path) -> None:
    (found,) = synthetic.tunings(RUNS[:1], {})
    found["rates"] = [1e-4, 2e-4, 4e-4]
    path = tmp_path / "full.json"
    files.write_json(path, files.signed(found))
    assert plan.read_found(path)["learning_rate"] == 2e-4
    for changed in (found, {**files.signed(found), "learning_rate": 1e-3}, files.signed({**found, "trials": [{}]}), []):
        path.write_text(json.dumps(changed))
        with pytest.raises(InputError, match=r"full\.json: .*Snakemake tunes that arm again from its trials"):
            plan.read_found(path)


def test_peaks_that_were_edited_are_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, asked = tmp_path / "search.json", []
    measure = lambda size: asked.append(size) or 100.0  # noqa: E731
    KeptPeaks(path, {}, measure)(8)
    KeptPeaks(path, {}, measure)(8)
    assert asked == [8] and not capsys.readouterr().err
    for text in (path.read_text().replace("100.0", "10.0"), "[]", DEEP):
        path.write_text(text)
        assert KeptPeaks(path, {}, measure)(8) == 100.0
        assert "search.json: " in capsys.readouterr().err
    assert asked == [8] * 4


@pytest.mark.parametrize("content", [*BROKEN, '{"pid": "x"}'])
def test_a_lock_that_is_broken_has_no_owner(tmp_path: Path, content: str) -> None:
    path = tmp_path / ".seed0.lock.1"
    path.write_text(content)
    assert lock.read_owner(path) is None
    wrong = {**vars(lock.Owner.here()), "pid": "1; reboot"}
    path.write_text(json.dumps(wrong))
    assert lock.read_owner(path) is None
    path.write_text(json.dumps({**wrong, "pid": 1, "more": 2}))
    assert lock.read_owner(path).pid == 1


@pytest.mark.parametrize("content", BROKEN)
def test_a_tracker_record_that_is_broken_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "seed0.json").write_text(content)
    assert tracking.failed_attempts(tmp_path / "seed0.json") == 0


# Status: one damaged file says so of its run, and nothing of the others.

GRID = {"dataset": ["sst2"], "model": ["distilbert"], "arm": ["full"], "seed": [0, 1]}


@pytest.mark.parametrize("content", [*BROKEN, '{"status": "completed"}', json.dumps(RUNS[0])])
@pytest.mark.parametrize("name", ["summary.json", "state/status.json", "state/attempts.json", "state/summary.json"])
def test_status_shows_every_run_whatever_one_of_them_holds(tmp_path: Path, name: str, content: str) -> None:
    synthetic.write(tmp_path, RUNS)
    run = tmp_path / "runs/sst2/distilbert/full/seed0"
    (run / "state").mkdir()
    if name != "summary.json":
        shutil.move(run / "summary.json", run / "state/summary.json")
        if name == "state/status.json":
            (run / "state/summary.json").unlink()
    (run / name).write_text(content)
    shown = table(grid_status(tmp_path, GRID, [])).splitlines()
    states = {"summary.json": "failed", "state/summary.json": "failed", "state/status.json": "interrupted"}
    assert shown[1].split()[3] == states.get(name, "done") and "done" in shown[2], shown
    assert states.get(name) is None or f"{run / name}" in shown[1]


@pytest.mark.parametrize(
    "changes", [{"pid": "x"}, {"step": "many"}, {"eta_s": "soon"}, {"slurm_job_id": []}, {"host": None}, {"status": 1}]
)
def test_a_status_of_wrong_types_is_damaged(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = tmp_path / "runs/sst2/distilbert/full/seed0/state"
    folder.mkdir(parents=True)
    values = {"status": "running", "step": 1, "total": 9, "eta_s": 1.0, "host": socket.gethostname(), "pid": 1}
    values |= {"slurm_job_id": None}
    files.write_json(folder / "status.json", files.signed(values | changes))
    assert "status.json is damaged" in table(grid_status(tmp_path, GRID, []))


@pytest.mark.parametrize("content", BROKEN)
def test_status_names_a_tuning_that_is_broken(tmp_path: Path, content: str) -> None:
    best = tmp_path / "tune/best/sst2/distilbert/full.json"
    best.parent.mkdir(parents=True)
    best.write_text(content)
    (found,) = tuning_status(tmp_path, GRID, {"full": [1e-4]}, [])["sst2 · distilbert"]
    assert found.state == "failed" and str(best) in found.detail

"""A run's state and results: what is not as it was written is not taken, and stderr says so."""

import argparse
import contextlib
import errno
import json
import os
import random
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.tokens import load_tokens
from peft_tradeoffs.measure.devices import open_device, process_age_s
from peft_tradeoffs.runs import status
from peft_tradeoffs.runs.interruption import Interruption
from peft_tradeoffs.runs.status import NO_WORD, Attempts, wall_s
from peft_tradeoffs.training.job import TRAILER, Job, Run, RunDirectory, write_state
from safetensors.torch import save_file

STATE = {"weights": {"a": torch.arange(600.0)}, "progress": {"step": 3, "name": "é"}}
BEGINS_ANEW = "cannot be used, so the run begins anew"


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "seed0", "f" * 64, 60)
    directory.attempts.begin()
    directory.save(STATE)
    return directory


def checkpoint(run: RunDirectory) -> Path:
    return run.path / "state/checkpoint.pt"


def test_a_whole_state_is_loaded_and_torch_alone_can_read_it(run: RunDirectory) -> None:
    loaded = run.load()
    assert torch.equal(loaded["weights"]["a"], STATE["weights"]["a"])
    assert loaded["progress"] == STATE["progress"]
    assert torch.load(checkpoint(run), weights_only=True)["progress"] == STATE["progress"]


def test_a_flipped_bit_anywhere_in_a_state_is_seen(run: RunDirectory, capsys: pytest.CaptureFixture) -> None:
    """Of every part of the file: zip headers, the pickle, weights, the directory at the end, the checksum itself."""
    content = checkpoint(run).read_bytes()
    places = random.Random(0).sample(range(8 * len(content)), 120)
    ends = [*range(40), *range(8 * len(content) - 8 * TRAILER, 8 * len(content), 23)]
    for place in [*places, *ends]:
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        checkpoint(run).write_bytes(flipped)
        assert run.load() is None, place
        assert BEGINS_ANEW in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:10],
        lambda content: content[:-1],
        lambda content: content[:-TRAILER],
        lambda content: content[TRAILER:],
        lambda content: content + b"\0",
        lambda content: content + content,
        lambda content: b"\0" + content,
        lambda content: content.replace(content[2000:2100], content[2100:2200], 1),
        lambda content: content[:-8] + content[-8:].upper(),
        lambda content: bytes(len(content)),
    ],
)
def test_a_state_cut_or_pieced_together_is_seen(run: RunDirectory, damage: Any, capsys: pytest.CaptureFixture) -> None:
    content = checkpoint(run).read_bytes()
    damaged = damage(content)
    checkpoint(run).write_bytes(damaged)
    (left := checkpoint(run).with_name(".checkpoint.pt.123.tmp")).touch()  # by a process that was killed
    if damaged == content:  # the checksum's last digits were none that have capitals
        return
    assert run.load() is None
    assert BEGINS_ANEW in capsys.readouterr().err
    assert not left.exists()


class Bomb:
    def __reduce__(self) -> tuple:
        return (os.mkdir, ("exploded",))


def test_a_state_that_is_sealed_but_not_ours_is_not_taken(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in ({"fingerprint": run.fingerprint, "bomb": Bomb()}, [1, 2], {"no": "fingerprint"}):
        write_state(value, checkpoint(run))
        assert run.load() is None
        assert BEGINS_ANEW in capsys.readouterr().err
    assert not (tmp_path / "exploded").exists()
    assert RunDirectory(run.path, "e" * 64, 60).load() is None  # of other settings: nothing to say


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b"[" * 200_000, "digit"])
def test_attempts_that_are_damaged_take_the_state_with_them(
    run: RunDirectory, damage: bytes | str, capsys: pytest.CaptureFixture
) -> None:
    """Otherwise a run's steps would count more than the hours of its attempts."""
    path = run.path / "state/attempts.json"
    text = path.read_text()
    path.write_bytes(text.replace('"waited_s": 0.0', '"waited_s": 1.0').encode() if damage == "digit" else damage)
    again = RunDirectory(run.path, run.fingerprint, 60)
    again.attempts.begin()
    assert again.load() is None
    said = capsys.readouterr().err
    assert "attempts.json: not what an earlier attempt wrote" in said and BEGINS_ANEW in said
    assert len(again.attempts.end("completed")) == 1


def test_attempts_of_a_version_without_checksums_are_forgotten(
    run: RunDirectory, capsys: pytest.CaptureFixture
) -> None:
    """Its code was another, and so were its runs."""
    files.write_json(run.path / "state/attempts.json", {"fingerprint": "e" * 64, "attempts": [{}, {}]})
    again = Attempts(run.path / "state", run.fingerprint)
    again.begin()
    assert len(again.end("completed")) == 1
    assert not again.damaged and capsys.readouterr().err == ""


def test_a_full_disk_is_one_error_that_names_the_file(tmp_path: Path) -> None:
    for part in (STATE, {"weights": torch.zeros(2_000_000)}):
        with pytest.raises(OSError) as caught:
            write_state(part, Path("/dev/full"))
        assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as caught, files.atomic(tmp_path / "checkpoint.pt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "checkpoint.pt")
    assert not list(tmp_path.iterdir())


# Published results


def published(folder: Path, fingerprint: str = "f" * 64) -> RunDirectory:
    directory = RunDirectory(folder / "seed0", fingerprint, 60)
    results = directory.results
    (results / "adapter").mkdir(parents=True)
    (results / "adapter/adapter_model.safetensors").write_bytes(bytes(range(200)))
    for name in ("summary.csv", "metrics.csv", "predictions.csv"):
        (results / name).write_text(f"{name}\n1\n")
    files.write_json(results / "env.json", {"fingerprint": fingerprint})
    directory.publish({"fingerprint": fingerprint, "status": "completed"})
    return directory


def test_published_results_stand_and_their_files_came_to_the_disk_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(files, "sync", lambda path: synced.append(path.name.split(".json")[0].strip(".")))
    directory = published(tmp_path)
    assert directory.stands() and directory.stands(without_weights=True)
    summary = max(place for place, name in enumerate(synced) if name == "summary")
    for name in ("adapter_model.safetensors", "adapter", "predictions.csv", "metrics.csv", "env", "results", "seed0"):
        assert synced.index(name) < summary
    (directory.path / "summary.json").unlink()  # as Snakemake does with a failed job's
    assert directory.stands()


NAMES = ("adapter/adapter_model.safetensors", "predictions.csv", "metrics.csv", "env.json", "summary.csv")


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_bit_in_anything_published_has_the_run_done_again(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    directory = published(tmp_path)
    path = directory.path / name
    content = path.read_bytes()
    for place in random.Random(name).sample(range(8 * len(content)), min(40, 8 * len(content))):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        assert not directory.stands(), place
        assert f"{name}: changed after the run wrote it" in capsys.readouterr().err
    path.unlink()
    assert not directory.stands()
    assert f"{name}: missing" in (said := capsys.readouterr().err) and "the run is done again" in said


def test_weights_that_were_removed_are_accepted_where_the_config_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    directory = published(tmp_path)
    weights = directory.path / "adapter/adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:50])
    assert not directory.stands(without_weights=True)  # damaged is not removed
    weights.unlink()
    (weights.parent / ".DS_Store").write_text("")  # of a folder that rsync left empty
    assert directory.stands(without_weights=True)
    shutil.rmtree(weights.parent)
    assert directory.stands(without_weights=True)
    assert not directory.stands()
    (directory.path / "predictions.csv").unlink()
    assert not directory.stands(without_weights=True)
    assert "predictions.csv: missing" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"fingerprint": 3}', "[" * 200_000])
def test_a_summary_that_is_none_has_the_run_done_again(tmp_path: Path, text: str) -> None:
    directory = published(tmp_path)
    directory.clear_state()
    (directory.path / "summary.json").write_text(text)
    assert not directory.stands()


def test_a_summary_that_was_edited_has_the_run_done_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    directory = published(tmp_path)
    path = directory.path / "summary.json"
    path.write_text(path.read_text().replace("completed", "oom"))
    assert not directory.stands()
    assert "summary.json: changed after the run wrote it" in capsys.readouterr().err


# Clocks


class Clock:
    """The machine's clock, which somebody sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall, self.true = 1_800_000_000.0, 5000.0
        monkeypatch.setattr(status, "now", self.now)
        monkeypatch.setattr(status.time, "time", lambda: self.wall)
        monkeypatch.setattr(status.time, "monotonic", lambda: self.true)

    def now(self) -> str:
        moment = status.datetime.datetime.fromtimestamp(self.wall, status.datetime.UTC)
        return moment.isoformat(timespec="milliseconds")

    def passes(self, seconds: float, step_s: float = 0.0) -> None:
        self.true += seconds
        self.wall += seconds + step_s


@pytest.mark.parametrize("step_s", [-600.0, 86_400.0, -10 * 86_400.0, 0.0])
@pytest.mark.parametrize("killed", [False, True])
def test_a_clock_that_is_set_while_a_run_trains_changes_no_duration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: float, killed: bool
) -> None:
    """In the first of two attempts, which ends by itself or without a word, and between the two."""
    clock = Clock(monkeypatch)
    first = Attempts(tmp_path, "f")
    first.begin()
    first.start_at(0)
    clock.passes(10.0)
    first.reached(5, 20)
    clock.passes(20.0, step_s)
    first.beat(0.0)
    if not killed:
        first.end("signal SIGTERM")
    clock.passes(1000.0, step_s)
    second = Attempts(tmp_path, "f")
    second.begin()
    with second.waiting():
        clock.passes(7.0, -step_s)
    second.start_at(5)
    clock.passes(40.0, step_s)
    second.reached(20, 20)
    one, two = second.end("completed")
    assert (one["reason"], one["elapsed_s"], one["last_step"]) == (NO_WORD if killed else "signal SIGTERM", 30.0, 5)
    assert (two["elapsed_s"], two["waited_s"]) == (47.0, 7.0)
    assert wall_s([one, two]) == 70.0
    for attempt in (one, two):
        began, ended = (status.datetime.datetime.fromisoformat(attempt[key]) for key in ("started_at", "ended_at"))
        assert (ended - began).total_seconds() == attempt["elapsed_s"]


def test_a_sign_of_life_of_another_attempt_is_not_taken_for_its_successors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between its first two files, an attempt leaves the status of the one before, later by the clock."""
    clock = Clock(monkeypatch)
    first = Attempts(tmp_path, "f")
    first.begin()
    clock.passes(500.0)
    first.end("error")
    status = (tmp_path / "status.json").read_bytes()
    clock.passes(60.0, -3600.0)
    Attempts(tmp_path, "f").begin()
    (tmp_path / "status.json").write_bytes(status)
    third = Attempts(tmp_path, "f")
    third.begin()
    lost = third.end("completed")[1]
    assert (lost["reason"], lost["elapsed_s"], lost["ended_at"]) == (NO_WORD, None, None)


def test_a_status_that_was_changed_is_no_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    first = Attempts(tmp_path, "f")
    first.begin()
    clock.passes(8.0)
    first.beat(0.0)
    path = tmp_path / "status.json"
    path.write_text(path.read_text().replace('"elapsed_s": 8.0', '"elapsed_s": 9.0'))
    second = Attempts(tmp_path, "f")
    second.begin()
    assert second.end("completed")[0]["elapsed_s"] is None


def test_the_age_of_the_process_is_not_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    before = process_age_s()
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert 0 < before <= process_age_s() < before + 60


# Tokens


def tokens(folder: Path) -> Path:
    path = folder / "tiny.npz"
    arrays = {"input_ids": np.arange(6, dtype=np.int32), "offsets": np.array([0, 2, 6]), "labels": np.array([0, 1])}
    arrays |= {"rows": np.arange(2)}
    np.savez(path, **{f"train_{name}": array for name, array in arrays.items()})
    path.with_suffix(".json").write_text(json.dumps({"rows": {"train": 2}, "sha256": files.sha256(path)}))
    return path


@pytest.mark.parametrize("damage", ["labels", "bit", "another's", "cut", "gone"])
def test_tokens_that_are_not_those_described_are_refused(tmp_path: Path, damage: str) -> None:
    path = tokens(tmp_path)
    assert len(load_tokens(path)[0]["train"]) == 2
    content, times = path.read_bytes(), path.stat()
    if damage in ("labels", "another's"):
        with np.load(path) as found:
            arrays = dict(found)
        arrays["train_labels" if damage == "labels" else "train_input_ids"] = np.array(
            [1, 0, 0, 0, 0, 0][: 2 if damage == "labels" else 6]
        )
        np.savez(path, **arrays)
    elif damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-3] if damage == "cut" else content[:300] + bytes([content[300] ^ 1]) + content[301:])
    if damage == "bit":
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    with pytest.raises(InputError, match=r"tiny\.npz: (its SHA-256 is not that of tiny\.json|no such file)"):
        load_tokens(path)


@pytest.mark.parametrize("changed", ["tiny.npz", "model/config.json", "model/model.safetensors"])
def test_a_process_does_not_begin_on_tokens_or_a_model_that_changed(tmp_path: Path, changed: str) -> None:
    """The fingerprints of its runs would be of others; dates and sizes stay."""
    path, model = tokens(tmp_path), tmp_path / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_bytes(name.encode())
    hashes = {file.name: files.sha256(file) for file in model.iterdir()}
    (tmp_path / "model.json").write_text(json.dumps({"files": hashes, "sha256": "a" * 64}))
    target = tmp_path / changed
    content, times = target.read_bytes(), target.stat()
    target.write_bytes(content[:5] + bytes([content[5] ^ 2]) + content[6:])
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    arguments = argparse.Namespace(tokens=path, model=model, threads=1)
    with contextlib.ExitStack() as locks, pytest.raises(InputError, match=target.name):
        Job(arguments, Interruption(), locks).device({"device": "cpu"})


def test_the_start_is_the_first_runs_and_compilation_that_of_the_run_that_did_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each job, also where a process has two."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    hashes = {"config.json": files.sha256(tmp_path / "model/config.json")}
    (tmp_path / "model.json").write_text(json.dumps({"files": hashes, "sha256": "a" * 64}))
    arguments = argparse.Namespace(tokens=tokens(tmp_path), model=tmp_path / "model", threads=1)
    arguments.checkpoint_interval, arguments.keep_weights = 60.0, 1
    device, benches = open_device("cpu", False), []
    monkeypatch.setattr("peft_tradeoffs.training.run.prepare_process", lambda *_: device)
    monkeypatch.setattr("peft_tradeoffs.training.run.run", lambda plan, bench, directory: benches.append(bench) or True)
    for _ in range(2):
        with contextlib.ExitStack() as locks:
            job = Job(arguments, Interruption(), locks)
            for seed in (0, 1):
                one = Run(tmp_path / f"runs/seed{seed}", seed, {"device": "cpu"})
                job._train(one, job._directory(one))
    assert [bench.startup_s is None for bench in benches] == [False, True] * 2
    assert [bench.compiled_before for bench in benches] == [False, True] * 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 3}', "[" * 200_000])
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tokens(tmp_path)
    path.with_suffix(".json").write_text(text)
    with pytest.raises(InputError, match=r"tiny\.json: not "):
        load_tokens(path)


# Modes


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600), (0o027, 0o640)])
def test_saved_weights_have_the_mode_of_other_files(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        (tmp_path / "deep").mkdir()
        for path in (tmp_path / "model.safetensors", tmp_path / "deep/adapter_model.safetensors"):
            save_file({"a": torch.zeros(3)}, path)
        files.shared(tmp_path)
    finally:
        os.umask(before)
    found = [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*.safetensors")]
    assert found == [mode, mode]

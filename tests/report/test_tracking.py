"""Finished runs sent to a tracker: read back by the tool itself, and a tracker that fails costs a run nothing."""

import csv
import importlib.util
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import synthetic
import tiny
import yaml
from peft_tradeoffs.core import code, files
from peft_tradeoffs.core.errors import InputError, redacted
from peft_tradeoffs.report import tracking

SCRIPTS = tiny.REPOSITORY / "workflow_scripts"
KEYS = ("WANDB_API_KEY", "HF_TOKEN", "SWANLAB_API_KEY", "TRACKIO_WRITE_TOKEN")
SECRETS = {name: f"not-to-be-written-{i}" for i, name in enumerate(KEYS)}
# Settings of trackers that take a URL, with a password in it.
SECRETS |= {
    name: f"http://me:not-to-be-written-{name.lower()}@127.0.0.1:9"
    for name in ("WANDB_BASE_URL", "COMET_URL_OVERRIDE", "CLEARML_API_HOST", "SWANLAB_API_HOST", "MLFLOW_TRACKING_URI")
}
PASSWORD = b"not-to-be-written"
TRAINING = ("epoch", "train_loss", "learning_rate", "train_s")
# A package in place of a tracker's: accelerate calls these, and `run.log` and `run.finish` of what init returns.
FAKE = "import os, sys, time\nfrom types import SimpleNamespace\nconfig = {}\ndef init(**_):\n    "
HANGS = "open(os.environ['FAKE_PID'], 'a').write(f'{os.getpid()}\\n')\n    time.sleep(1e6)\n"
RAISES = "raise RuntimeError(f'key {os.environ[\"SWANLAB_API_KEY\"]} refused\\nby https://me:pw@host/?k=v')\n"
WORKS = "return SimpleNamespace(log=lambda *_, **__: None, finish=lambda: None)\n"
TRACKIO = """
import json, sys, trackio
from trackio.sqlite_storage import SQLiteStorage
runs = trackio.Api().runs(sys.argv[1])
logs = [[run.name, run.config, SQLiteStorage.get_logs(run.project, run.name, run_id=run.id)] for run in runs]
print("\\n" + json.dumps(logs, default=str))
"""

Read = tuple[dict, dict[int, dict[str, float]]]  # hyperparameters, and values by step


@pytest.fixture(scope="module")
def folder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished benchmark whose LoRA runs were evaluated on two splits, at steps 4 and 8."""
    folder = tmp_path_factory.mktemp("tracked") / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    for metrics in folder.glob("results/runs/reviews/tiny/lora-r4/*/metrics.csv"):
        header, last = metrics.read_text().splitlines()
        first = ",".join(["0.5", "4", "test", "0.75", *last.split(",")[4:]])
        splits = [row.replace(",test,", f",{split},") for row in (first, last) for split in ("validation", "test")]
        metrics.write_text("\n".join([header, *splits]) + "\n")
        synthetic.seal(metrics.parent)
    return folder


@pytest.fixture
def proxy() -> Iterator[tuple[socket.socket, dict[str, str]]]:
    """A loopback port, and the variables that make it everyone's way out; it answers no one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        way = f"http://127.0.0.1:{server.getsockname()[1]}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
        yield server, dict.fromkeys(names, way)


def fake(folder: Path, does: str) -> dict[str, str]:
    """Variables with which swanlab is a package whose `init` does so."""
    (folder / "swanlab").mkdir(parents=True, exist_ok=True)
    (folder / "swanlab/__init__.py").write_text(FAKE + does)
    return {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "FAKE_PID": str(folder / "pids"), **SECRETS}


def train_again(folder: Path) -> None:
    """The LoRA runs as another training of them would leave them: other values, and fewer of them."""
    for run in folder.glob("results/runs/reviews/tiny/lora-r4/seed*"):
        summary = files.read_json(run / "summary.json")
        files.write_json(run / "summary.json", summary | {"train_s": summary["train_s"] + 1.0})
        lines = (run / "metrics.csv").read_text().splitlines(keepends=True)
        (run / "metrics.csv").write_text("".join([lines[0], *lines[3:]]))
        synthetic.seal(run)


def send(folder: Path, tracker: str, output: str, **variables: str) -> list[dict]:
    """Call track.py for the two LoRA runs; their records."""
    runs = [f"reviews/tiny/lora-r4/seed{seed}" for seed in (0, 1)]
    records = [f"{output}/sent/{run}.json" for run in runs]
    call = [sys.executable, SCRIPTS / "track.py", "--tracker", tracker, "--project", "trial"]
    call += ["--runs", *(f"results/runs/{run}" for run in runs), "--output", *records]
    call += ["--folder", f"{output}/{tracker}", "--records", f"{output}/sent"]
    unset = ("WANDB_MODE", "WANDB_DIR", "TRACKIO_DIR", "HF_HUB_OFFLINE")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | variables
    done = subprocess.run(call, cwd=folder, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert PASSWORD.decode() not in done.stdout + done.stderr
    return [files.read_json(folder / record) for record in records]


def sent(folder: Path) -> list[dict]:
    """The records that the workflow wrote."""
    return [files.read_json(path) for path in folder.glob("results/tracking/sent/swanlab/reviews/tiny/*/seed*.json")]


def read_tensorboard(folder: Path) -> dict[str, Read]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    found = {}
    for run in folder.glob("*/*/*/seed*"):
        assert len(list(run.rglob("events.*"))) == 1  # else the list has the run twice
        events = EventAccumulator(str(run)).Reload()
        points: dict[int, dict[str, float]] = {}
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                assert tag not in points.setdefault(event.step, {})
                points[event.step][tag] = event.value
        parameters = yaml.safe_load((run / "hparams.yml").read_text())
        found[str(run.relative_to(folder))] = parameters, points
        shown = events.summary_metadata["_hparams_/experiment"].plugin_data.content
        experiment = plugin_data_pb2.HParamsPluginData.FromString(shown).experiment
        metrics = {info.name.tag for info in experiment.metric_infos}
        assert "summary/metric_value" in metrics and metrics < set(events.Tags()["scalars"])
        assert {info.name for info in experiment.hparam_infos} == {k for k, v in parameters.items() if v is not None}
    return found


def read_wandb(folder: Path) -> dict[str, Read]:
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    found = {}
    for file in folder.glob("offline-run-*/*.wandb"):
        store = DataStore()
        store.open_for_scan(str(file))
        name, config, points = "", {}, {}
        while (data := store.scan_data()) is not None:
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                name = record.run.display_name
                assert record.run.project == "trial"
            elif kind == "config":
                config |= {item.key: json.loads(item.value_json) for item in record.config.update}
            elif kind == "history":
                values = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
                values = {key: json.loads(text) for key, text in values.items() if not key.startswith("_")}
                assert record.history.step.num not in points
                points[record.history.step.num] = values
        assert name not in found
        found[name] = config, points
    return found


def read_trackio(folder: Path) -> dict[str, Read]:
    environment = {**os.environ, "TRACKIO_DIR": str(folder.absolute()), "HF_HUB_OFFLINE": "1"}
    call = [sys.executable, "-c", TRACKIO, "trial"]
    done = subprocess.run(call, env=environment, text=True, check=True, stdout=subprocess.PIPE)
    found = {}
    for name, config, logs in json.loads(done.stdout.splitlines()[-1]):
        assert name not in found
        assert len({log["step"] for log in logs}) == len(logs)
        points = {log.pop("step"): {key: value for key, value in log.items() if key != "timestamp"} for log in logs}
        found[name] = config, points
    return found


def recorded(run: Path) -> dict[int, dict[str, float]]:
    """What metrics.csv and summary.json say, in a tracker's terms."""
    summary, points = files.read_json(run / "summary.json"), {}
    with (run / "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            values = points.setdefault(int(row["step"]), {})
            values |= {key: float(row[key]) for key in TRAINING}
            rest = set(row) - {*TRAINING, "step", "split"}
            values |= {f"{row['split']}/{key}": float(row[key]) for key in rest if row[key]}
    numbers = {key: value for key, value in summary.items() if type(value) in (int, float)}  # a bool is neither
    points[summary["steps"]] |= {f"summary/{key}": value for key, value in numbers.items()}
    return points


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", "trackio"])
def test_the_tool_reads_back_what_was_recorded(tracker, folder, proxy):
    server, ways = proxy
    for _ in range(2):  # the second time nothing is known of the first
        shutil.rmtree(folder / "tracking/sent", ignore_errors=True)
        records = send(folder, tracker, "tracking", **ways, **SECRETS)
        assert [record["status"] for record in records] == ["sent", "sent"], records
        read = {"tensorboard": read_tensorboard, "wandb": read_wandb, "trackio": read_trackio}[tracker]
        found = read(folder / "tracking" / tracker)
        assert set(found) == {f"reviews/tiny/lora-r4/seed{seed}" for seed in (0, 1)}
        for name, (hyperparameters, points) in found.items():
            wanted = recorded(folder / "results/runs" / name)
            assert {"validation/loss", "test/loss", "train_s"} < set(wanted[4]) < set(wanted[8])
            assert wanted[4]["epoch"] == 0.5 and "summary/train_s" in wanted[8]
            if tracker == "tensorboard":  # whose scalars are float32
                wanted = {step: {key: float(np.float32(v)) for key, v in row.items()} for step, row in wanted.items()}
            assert points == wanted
            expected = {"peft.r": 4, "training": None, "status": "completed", "seed": int(name[-1]), "batch_size": 8}
            assert {key: hyperparameters.get(key) for key in expected} == expected
    assert send(folder, tracker, "tracking", **ways) == records  # nothing was sent a third time
    before = {path: path.read_bytes() for path in folder.glob("results/runs/reviews/tiny/lora-r4/*/*.[cj]s*")}
    train_again(folder)
    try:
        assert [record["status"] for record in send(folder, tracker, "tracking", **ways, **SECRETS)] == ["sent"] * 2
        found = read(folder / "tracking" / tracker)  # which has no run and no step twice
        assert {name: set(points) for name, (_, points) in found.items()} == {name: {8} for name in found}
        for name, (_, points) in found.items():
            assert points[8]["summary/train_s"] == pytest.approx(
                recorded(folder / "results/runs" / name)[8]["summary/train_s"]
            )
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    for file in folder.rglob("*"):
        assert not file.is_file() or PASSWORD not in file.read_bytes(), file
    with pytest.raises(BlockingIOError):
        server.accept()


def test_a_tracker_that_hangs_costs_one_wait_and_is_tried_again_by_the_next_call(finished, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    settings = tiny.config(folder, tracking="swanlab")
    before = {path: path.stat().st_mtime_ns for path in (folder / "results").rglob("*") if path.is_file()}
    hanging = fake(tmp_path / "fake", HANGS)
    said = tiny.snakemake(folder, settings, "--set-resources", "track:limit_s=3", "--cores", "1", **hanging).stdout
    assert "  track " in said and "  train " not in said and "  make_tables" not in said
    reasons = [record["reason"] for record in sent(folder)]
    assert reasons.count("no answer within 3 s") == 2  # of one arm; no other was tried
    assert len([why for why in reasons if why.startswith("swanlab gave no answer for reviews/tiny/")]) == 4
    with pytest.raises(ProcessLookupError):  # it is gone, and there was no other
        os.kill(int((tmp_path / "fake/pids").read_text()), 0)

    said = tiny.snakemake(folder, None, **fake(tmp_path / "fake", WORKS)).stdout
    assert "  track " in said and "  train " not in said
    assert [(record["status"], record["failed_attempts"]) for record in sent(folder)] == [("sent", 1)] * 6
    for tracker in ("swanlab", "none"):
        said = tiny.snakemake(folder, tiny.config(folder, tracking=tracker), "-n", **fake(tmp_path / "fake", WORKS))
        assert "Nothing to be done" in said.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_tracker_that_raises_is_a_reason_without_its_secrets(folder, tmp_path):
    records = send(folder, "swanlab", "raised", **fake(tmp_path, RAISES))
    why = "RuntimeError: key … refused by https://…@host/?…"
    assert [(record["reason"], record["silent"]) for record in records] == [(why, False)] * 2  # each was tried
    records = send(folder, "swanlab", "raised", **fake(tmp_path, WORKS))
    assert [(record["status"], record["failed_attempts"]) for record in records] == [("sent", 1)] * 2


def test_a_tracker_that_is_down_is_not_taken_for_one_that_has_the_runs(folder):
    records = send(folder, "trackio", "down", TRACKIO_SERVER_URL="http://127.0.0.1:9", **SECRETS)
    assert [record["status"] for record in records] == ["not sent", "not sent"]  # though trackio raises nothing
    assert "could not" in records[0]["reason"] and "127.0.0.1:9" in records[0]["reason"]


def test_a_tracker_that_is_missing_is_told_and_fails_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(tracking.PACKAGES, "comet_ml", ("comet_ml_of_no_one",))
    run, path = folder / "results/runs/reviews/tiny/full/seed0", tmp_path / "sent/seed0.json"
    records = tracking.track(tracking.Account("comet_ml", "trial", tmp_path), {run: path}, tmp_path / "sent", "1", 1.0)
    assert records[run]["reason"] == "comet_ml is not installed here (pip install comet-ml-of-no-one)"
    assert tracking.failed_attempts(path) == 1
    settings = tiny.config(folder, tracking="dvclive", seeds_per_job=1)
    said = tiny.snakemake(folder, settings, "-n", "-p").stdout
    assert "--runs results/runs/reviews/tiny/full/seed1 --folder results/tracking/dvclive" in said  # one job per run
    warning = "warning: config key tracking: dvclive is not installed here (pip install dvclive)"
    assert (warning in said) == (importlib.util.find_spec("dvclive") is None)


def test_a_run_that_failed_is_sent_with_its_status(folder, tmp_path):
    run = tmp_path / "reviews/tiny/full/seed0"
    shutil.copytree(folder / "results/runs/reviews/tiny/full/seed0", run)
    summary = files.read_json(run / "summary.json")
    files.write_json(run / "summary.json", summary | {"status": "oom", "failed_phase": "probe", "steps": None})
    (run / "metrics.csv").write_text("\n")  # as a run without an evaluation writes it
    synthetic.seal(run)
    sent = tracking.read_run(run)
    assert (sent.hyperparameters["status"], sent.hyperparameters["summary/failed_phase"]) == ("oom", "probe")
    assert [step for step, _ in sent.points] == [0]
    assert sent.points[0][1]["summary/weights_MiB"] == summary["weights_MiB"]
    assert sent.id != tracking.read_run(folder / "results/runs/reviews/tiny/full/seed0").id


def test_every_tracker_of_accelerate_can_be_named():
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    assert sorted(tracking.PACKAGES) == sorted(LOGGER_TYPE_TO_CLASS)
    schema = yaml.safe_load((tiny.REPOSITORY / "schemas/config.schema.yaml").read_text())
    assert schema["properties"]["tracking"]["enum"] == ["none", *sorted(tracking.PACKAGES)]


def test_no_training_process_imports_it():
    for script in ("train.py", "tune.py", "train_at_equal_memory.py", "answer_untrained.py"):
        assert not [path for path in code.dependencies(SCRIPTS / script) if "track" in path.name]


def test_the_user_s_own_environment_wins():
    assert tracking.offline("wandb", Path("w"), {})["WANDB_MODE"] == "offline"
    assert "WANDB_MODE" not in tracking.offline("wandb", Path("w"), {"WANDB_MODE": "online"})
    assert tracking.offline("trackio", Path("t"), {})["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in tracking.offline("trackio", Path("t"), {"TRACKIO_SPACE_ID": "me/space"})


def test_what_looks_like_a_secret_is_left_out(monkeypatch):
    monkeypatch.setenv("MY_PASSWORD", "tulip")
    assert redacted("tulip at\n  http://a:b@h/p?token=x") == "… at http://…@h/p?…"
    assert redacted("key 0123456789abcdef0123 is bad, ModuleNotFoundError") == "key … is bad, ModuleNotFoundError"


def tracked(seed: int) -> tracking.TrackedRun:
    group = "reviews/tiny/full"
    return tracking.TrackedRun(f"{group}/seed{seed}", group, {"seed": seed}, [(8, {"summary/train_s": 1.0})])


class FakeMlflow:
    """mlflow with a list for a server."""

    def __init__(self, *others: dict) -> None:
        self.runs = list(others)
        self.MlflowClient = lambda: self

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        return SimpleNamespace(experiment_id=name) if name == "trial" else None

    def search_runs(self, experiments: list[str], text: str) -> list[SimpleNamespace]:
        key, value = re.fullmatch(r"(.+) = '(.+)'", text).groups()
        found = [run for run in self.runs if {"attributes.run_name": run["name"]}.get(key, run["id"]) == value]
        return [SimpleNamespace(info=SimpleNamespace(run_id=run)) for run in found]

    def delete_run(self, run: dict) -> None:
        self.runs.remove(run)


@pytest.mark.parametrize("local", [True, False], ids=["own_store", "server"])
def test_mlflow_keeps_one_of_a_run_and_all_of_others(tmp_path, monkeypatch, local):
    run = tracked(0)
    other = {"name": "reviews/tiny/full/seed1", "id": "other"}
    colleague = {"name": run.name, "id": "of somebody else, of the same name"}
    fake = FakeMlflow(other, {"name": run.name, "id": "before"}, {"name": run.name, "id": run.id}, colleague)
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    tracking._forget("mlflow", "trial", tmp_path, run, ["before"], local)
    assert fake.runs == ([other] if local else [other, colleague])
    tracking._forget("mlflow", "another project", tmp_path, run, ["other"], local)
    assert other in fake.runs


class FakeWandb:
    """wandb's API with a list for a server."""

    def __init__(self, *runs: str) -> None:
        self.runs = list(runs)
        self.errors = SimpleNamespace(CommError=ConnectionError)
        self.Api = lambda: self

    def run(self, path: str) -> SimpleNamespace:
        if path not in self.runs:
            raise ValueError(f"Could not find run {path}")
        return SimpleNamespace(delete=lambda: self.runs.remove(path))


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_wandb_online_loses_what_we_sent_before_and_nothing_else(tmp_path, monkeypatch, mode):
    run = tracked(0)
    fake = FakeWandb("trial/before", "trial/other", "another/before")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for left in ("before", run.id, f"{run.key}00000000", "00000000"):
        (tmp_path / f"wandb/offline-run-1-{left}").mkdir(parents=True)
    tracking._forget("wandb", "trial", tmp_path / "wandb", run, ["before", "gone"], local=mode == "offline")
    assert fake.runs == (["trial/other", "another/before"] if mode == "online" else fake.runs)
    left = {path.name.rpartition("-")[2] for path in tmp_path.glob("wandb/offline-run-*")}
    assert left == ({"00000000"} if mode == "offline" else {"00000000", f"{run.key}00000000"})


@pytest.mark.parametrize("tracker", tracking.BY_FILES)
@pytest.mark.parametrize("local", [True, False], ids=["offline", "online"])
def test_a_tracker_that_writes_files_has_each_run_once(tmp_path, monkeypatch, tracker, local):
    """swanlab a folder, comet_ml an archive, clearml one below a folder: each sending leaves its own."""
    count = itertools.count()

    class Writer:
        def start(self) -> None:
            number = next(count)
            (tmp_path / f"run-{number}/files").mkdir(parents=True)
            (tmp_path / f"{number}.zip").touch()

        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: None

    monkeypatch.setattr(tracking, "_writer", lambda *_: Writer())
    monkeypatch.setattr(tracking, "is_local", lambda *_: local)
    runs = [tracked(seed) for seed in (0, 1)]
    for run in runs:
        assert tracking.send(tracker, "trial", tmp_path, run, []) is None
    said = tracking.send(tracker, "trial", tmp_path, runs[0], ["before"])
    assert (said is None) == local and (local or "remove it there" in said)
    left = {path.name for path in tmp_path.iterdir()} - {".sent"}
    assert left == {"run-1", "1.zip", "run-2", "2.zip"}


def test_what_was_sent_before_a_run_was_trained_again_is_remembered_until_it_is_replaced(tmp_path, monkeypatch):
    run, path = tmp_path / "seed0", tmp_path / "sent/seed0.json"
    files.write_json(path, {"status": "sent", "id": "before", "failed_attempts": 0})
    told = []

    def send(account: tracking.Account, earlier: dict[Path, list[str]], limit_s: float) -> Iterator[Any]:
        if not earlier:
            return
        told.append(earlier[run])
        yield run, "down" if len(told) == 1 else None, False, None

    def damaged(folder: Path) -> Any:
        raise InputError("its summary was changed")

    monkeypatch.setattr(tracking, "_send", send)
    monkeypatch.setattr(tracking, "read_run", damaged)
    tracking.track(tracking.Account("tensorboard", "trial", tmp_path), {run: path}, tmp_path / "sent", "0", 1.0)
    monkeypatch.setattr(tracking, "read_run", lambda folder: tracked(0))
    for _ in range(3):
        record = tracking.track(
            tracking.Account("tensorboard", "trial", tmp_path), {run: path}, tmp_path / "sent", "1", 1.0
        )[run]
    assert told == [["before"], ["before"]]
    assert (record["status"], record["earlier"]) == ("sent", [])

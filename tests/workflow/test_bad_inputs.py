"""Bad input: one line that names the place and the remedy, a status that is not 0, and nothing computed is lost."""

import contextlib
import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import bad_computing
import bad_inputs
import forks
import pytest
import tiny
import yaml
from bad_inputs import INPUTS, RUN, Fetch, Job, Plan, Step
from peft_tradeoffs.core import files
from safetensors import SafetensorError

CASES = {**bad_inputs.CASES, **bad_computing.CASES}
SHOWN = ("--keep-going", "--show-failed-logs")  # as the profiles do


@pytest.fixture(scope="module")
def folder(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished benchmark, with bad files beside it."""
    folder = tmp_path_factory.mktemp("bad") / "copy"
    copy(finished, folder)
    return folder


def copy(finished: Path, folder: Path) -> None:
    shutil.copytree(finished, folder, symlinks=True)
    for name, content in INPUTS.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    weightless = shutil.ignore_patterns("*.safetensors")
    shutil.copytree((folder / "model").resolve(), folder / "weightless", ignore=weightless)


@pytest.fixture(scope="module")
def fetched(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """One call that fetches every bad data set and model: its folder, exit status and what it said."""
    folder = tmp_path_factory.mktemp("fetched") / "copy"
    copy(finished, folder)
    settings = tiny.config(folder)
    for name, (bad, _) in CASES.items():
        if isinstance(bad, Fetch):
            settings[bad.kind][slug(name)] = bad.block
    before = content(folder / "results/runs")
    cache = tmp_path_factory.mktemp("cache")
    done = tiny.snakemake(folder, settings, *SHOWN, "fetch", check=False, HF_HOME=str(cache))
    assert content(folder / "results/runs") == before
    return folder, done.returncode, done.stdout


def slug(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def content(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Bytes and time of change (ns) of every file below `folder`."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name, finished, folder, fetched, tmp_path):
    bad, parts = CASES[name]
    if isinstance(bad, Fetch):
        folder, status, said = fetched
        rule = f"fetch_{bad.kind.removesuffix('s')}"
        log = (folder / f"results/logs/{rule}/{slug(name)}.log").read_text()
        assert log.strip() in said
        made = {"datasets": "data/{}/dataset.json", "models": "models/{}.json"}[bad.kind].format(slug(name))
        assert not (folder / "results" / made).exists()
        outcomes = [(status, log)]
    elif isinstance(bad, Plan):
        outcomes = planned(folder, bad)
    else:
        copy(finished, tmp_path / "copy")
        before = content(tmp_path / "copy/results/runs")
        outcomes = [job(tmp_path / "copy", bad) if isinstance(bad, Job) else step(tmp_path / "copy", bad)]
        after = content(tmp_path / "copy/results/runs")
        assert {path: after.get(path, ("lost",))[0] for path in before} == {path: before[path][0] for path in before}
    for status, said in outcomes:
        assert status != 0, said
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, said
        assert [part for part in parts if part not in lines[0]] == [], lines[0]
        assert "Traceback" not in said and '  File "' not in said, said


def planned(folder: Path, bad: Plan) -> list[tuple[int, str]]:
    """What snakemake and snakemake -n say; neither starts a job or changes a file of the results."""
    settings = json.loads(json.dumps(tiny.config(folder)))  # so that no two methods share a block
    if bad.change:
        bad.change(settings)
    text = yaml.safe_dump(settings)
    text = bad.text(text) if bad.text else text
    (folder / "config.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    before = content(folder / "results")
    calls = []
    for words in ((), ("-n",)):
        said = folder / f"said{len(words)}.txt"
        calls.append((forks.start(tiny.command(folder, *words)[3:], said, dict(os.environ)), said))
    for call, _ in calls:
        call.join()
    outcomes = [(call.exitcode, said.read_text()) for call, said in calls]
    assert content(folder / "results") == before
    for _, said in outcomes:
        assert "Job stats" not in said and "rule " not in said, said
    return outcomes


def job(folder: Path, bad: Job) -> tuple[int, str]:
    """Exit status, and what the failed job said, which the terminal shows as well."""
    settings = json.loads(json.dumps(tiny.config(folder)))
    bad.change(settings)
    done = tiny.snakemake(folder, settings, *SHOWN, bad.target, check=False, CUDA_VISIBLE_DEVICES="")
    if bad.log is None:
        assert "rule train" not in done.stdout
        return done.returncode, done.stdout
    log = (folder / "results/logs" / bad.log).read_text()
    assert log.strip() in done.stdout
    return done.returncode, log


def step(folder: Path, bad: Step) -> tuple[int, str]:
    """Exit status and output of the step's own command line."""
    script = folder / "workflow/workflow_scripts" / bad.script
    words = list(bad.words)
    if bad.settings is not None:
        settings = json.loads((folder / RUN / "env.json").read_text())["settings"]
        settings["peft"].update(bad.settings.get("peft", {}))
        settings |= {key: value for key, value in bad.settings.items() if key != "peft"}
        words += ["--settings", json.dumps(settings)]
    call = f"{bad.patch}\nimport runpy, sys\nsys.path[0] = sys.argv[0] = {str(script.parent)!r}\n"
    call += f"runpy.run_path({str(script)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", call, *words],
        cwd=folder,
        env=tiny.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def test_a_disk_that_fills_up_under_a_state(tmp_path, monkeypatch):
    """torch.save says so only where it writes to an open file."""
    import torch
    from peft_tradeoffs.training.job import RunDirectory

    @contextlib.contextmanager
    def full(path: Path) -> Iterator[Path]:
        yield Path("/dev/full")

    monkeypatch.setattr(files, "atomic", full)
    with pytest.raises(OSError) as caught:
        RunDirectory(tmp_path, "fingerprint", 0).save({"weights": torch.zeros(100_000)})
    assert caught.value.errno == errno.ENOSPC


def test_a_disk_that_fills_up_under_an_adapter(tmp_path):
    """safetensors names the error in its message alone."""
    from peft_tradeoffs.training import methods

    class Full:
        config = None

        def save_pretrained(self, folder: Path) -> None:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(OSError) as caught:
        methods.save(methods.Built(Full(), None, [], True), tmp_path / "adapter")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "adapter")

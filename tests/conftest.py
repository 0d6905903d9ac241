"""Fixtures that several test files share."""

import compileall
import gc
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small_examples
import tiny
from filelock import FileLock

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each process works out anew what scripts mean
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models' steps are too short to share: threads spin while they wait
pytest.register_assert_rewrite("fetched_models", "reloaded")  # what they assert is shown as in a test file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With xdist the tests of a file go to one worker, and those of Slurm, of which there is one, to one as well."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", 1)[0]
            return "tests/slurm" if file.startswith("tests/slurm/") else file

    return ByFile(config, log)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(FailuresAtOnce(config))


class FailuresAtOnce:
    """Names a test when it fails, so that a session that is ended early has said which ones did."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            crash = getattr(report.longrepr, "reprcrash", None)
            said = crash.message.split("\n")[0] if crash else str(report.longrepr).strip().split("\n")[-1]
            terminal.write_line(f"\nFAILED at {report.when}: {report.nodeid}: {said[:200]}")


FIRST = ("tests/slurm/", "tests/workflow/", "tests/runs/", "tests/training/")  # the longest files, by folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, so that no worker is left alone with them: Slurm's above all, which one worker takes."""
    places = {folder: place for place, folder in enumerate(FIRST)}
    items.sort(key=lambda item: next((places[each] for each in FIRST if item.nodeid.startswith(each)), len(FIRST)))


@pytest.fixture(autouse=True, scope="module")
def frozen_libraries() -> Iterator[None]:
    """As a training process does: collecting the libraries' objects takes a second each time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_lock_left() -> Iterator[None]:
    """A lock that a test keeps would beat on in every test after it: reads, writes and clocks that are not theirs."""
    before = set(threading.enumerate())
    yield
    kept = [each for each in threading.enumerate() if each not in before and each.name.startswith("lock of")]
    assert not kept, f"{kept}: released by nobody"


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]) -> Path:
    """The folder `name` as `make` fills it: by the first worker that asks for it, for all of them."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, made = base / name, base / f"{name}.made"
    with FileLock(base / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a worker left that was killed
            folder.mkdir()
            make(folder)
            made.touch()
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer BERT. Copy it to change it."""
    return shared(tmp_path_factory, "bert", tiny.bert)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random two-layer Llama without a pad token. Copy it to change it."""
    return shared(tmp_path_factory, "llama", tiny.llama)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """What the demo in small left. Copy it to change it."""
    return shared(tmp_path_factory, "demo", lambda folder: small_examples.run_demo(folder, tiny_bert)) / "results"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """Folder of a finished small benchmark (full, LoRA, QLoRA; two seeds) beside its workflow. Copy it to change it."""

    def make(folder: Path) -> None:
        tiny.copy_workflow(folder)
        tiny.write_inputs(folder, tiny_bert)
        compileall.compile_dir(folder / "workflow", quiet=1)  # nothing of it is written while others copy it
        tiny.snakemake(folder, tiny.config(folder))

    return shared(tmp_path_factory, "finished", make)

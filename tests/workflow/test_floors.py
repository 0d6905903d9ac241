"""`make lint` refuses an import that runs upwards and one that loads what a floor must not load."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

RUN = "from importlinter.cli import lint_imports_command as run; run()"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    shutil.copyfile(tiny.REPOSITORY / ".importlinter", folder / ".importlinter")
    environment = {**os.environ, "PYTHONPATH": str(folder / "workflow_scripts")}
    words = [sys.executable, "-c", RUN, "--no-cache"]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("floors")
    shutil.copytree(tiny.REPOSITORY / "workflow_scripts", folder / "workflow_scripts")
    return folder


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("core/files.py", "from peft_tradeoffs.runs import lock", "Imports run downwards"),
        ("inputs/tokens.py", "from peft_tradeoffs.measure import machine", "Imports run downwards"),
        ("analysis/stats.py", "import torch", "never loads torch"),
        ("report/cost_page.py", "from torch import nn", "never loads torch"),
        ("training/step.py", "import pandas", "never loads pandas"),
        ("report/page.py", "import matplotlib.pyplot", "never loads a plotting library"),
        ("report/page.py", "from peft_tradeoffs.report import style", "never loads a plotting library"),
    ],
)
def test_an_import_that_runs_upwards_or_loads_too_much_fails(copy, module, line, broken):
    path = copy / "workflow_scripts/peft_tradeoffs" / module
    before = path.read_text() if path.exists() else None
    path.write_text(f"{line}\n{before or ''}")
    try:
        done = lint(copy)
    finally:
        path.unlink() if before is None else path.write_text(before)
    assert done.returncode == 1
    (said,) = [text for text in " ".join(done.stdout.split()).split("---") if broken in text and "BROKEN" in text][:1]
    assert "1 broken" in said


def test_the_house_as_it_is_passes(copy):
    done = lint(copy)
    assert done.returncode == 0, done.stdout


def test_every_module_has_a_room_and_every_room_a_line_that_says_what_it_is_for():
    package = tiny.REPOSITORY / "workflow_scripts/peft_tradeoffs"
    assert [path.name for path in package.glob("*.py")] == ["__init__.py"]
    rooms = sorted(path.parent.name for path in package.glob("*/__init__.py"))
    assert rooms == sorted(["analysis", "config", "core", "inputs", "measure", "report", "runs", "tasks", "training"])
    for path in package.glob("*/__init__.py"):
        assert path.read_text().startswith('"""') and path.read_text().count("\n") == 1


def test_every_room_has_its_tests_and_no_test_stands_outside_a_room():
    tests = tiny.REPOSITORY / "tests"
    assert [path.name for path in tests.glob("*.py")] == ["conftest.py"]
    for room in (tiny.REPOSITORY / "workflow_scripts/peft_tradeoffs").glob("*/__init__.py"):
        assert list((tests / room.parent.name).glob("test_*.py")), room.parent.name
    others = {path.parent.name for path in tests.glob("*/test_*.py")} - {
        path.parent.name for path in (tiny.REPOSITORY / "workflow_scripts/peft_tradeoffs").glob("*/__init__.py")
    }
    assert others == {"workflow", "gpu", "slurm"}


def imported(path: Path) -> Iterator[str]:
    """Dotted names of what a file imports, in its functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = f"{node.module or ''}." if isinstance(node, ast.ImportFrom) else ""
            yield from (f"{module}{alias.name}" for alias in node.names)


def test_no_test_file_is_imported():
    """What several of them use stands in tests/helpers/, or beside them in tests/slurm/."""
    files = [*tiny.REPOSITORY.glob("tests/**/*.py"), *tiny.REPOSITORY.glob("benchmarks/*.py")]
    wrong = [f"{path}: {name}" for path in files for name in imported(path) if ".test_" in f".{name}"]
    assert not wrong


def test_no_module_is_longer_than_a_thought():
    modules = list((tiny.REPOSITORY / "workflow_scripts/peft_tradeoffs").rglob("*.py"))
    longest = max(modules, key=lambda path: path.read_text(encoding="utf-8").count("\n"))
    assert longest.read_text(encoding="utf-8").count("\n") <= 750, longest

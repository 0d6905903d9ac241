"""Snakemake and scripts in forks of a process that has imported their libraries: most of their time is the imports."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        # What Snakemake imports on its way to the Snakefile.
        *("snakemake.cli", "snakemake.profiles", "snakemake.report.html_reporter", "snakemake.storage"),
        *("jsonschema", "numpy.polynomial", "pygments.formatters.html", "requests", "smart_open"),
        # What scripts that make tables import.
        *("jinja2", "pandas", "scipy.stats", "yaml"),
    ]
)


def start(words: list[str], said: Path, environment: dict[str, str]) -> BaseProcess:
    """Begin the command `snakemake` with these words, its output in `said`, its input empty."""
    return _start(_snakemake, words, (said, said), environment)


def script(path: Path | str, *words: Any) -> subprocess.CompletedProcess[str]:
    """Run one of our scripts to its end."""
    command = [str(path), *map(str, words)]
    with tempfile.TemporaryDirectory() as folder:
        said = (Path(folder, "stdout"), Path(folder, "stderr"))
        call = _start(_script, command, said, dict(os.environ))
        call.join()
        return subprocess.CompletedProcess(command, call.exitcode or 0, *(file.read_text() for file in said))


def _start(
    function: Callable[[list[str]], None], words: list[str], said: tuple[Path, Path], environment: dict[str, str]
) -> BaseProcess:
    for path in said:
        path.write_bytes(b"")
    call = FORKS.Process(target=_run, args=(function, words, said, environment, Path.cwd()))
    call.start()
    return call


def _run(
    function: Callable[[list[str]], None],
    words: list[str],
    said: tuple[Path, Path],
    environment: dict[str, str],
    folder: Path,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for descriptor, path in enumerate(said, 1):
        with path.open("a") as file:
            os.dup2(file.fileno(), descriptor)
    function(words)


def _snakemake(words: list[str]) -> None:
    from snakemake.cli import main

    sys.argv = ["snakemake", *words]
    main(words)


def _script(words: list[str]) -> None:
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).parent))
    runpy.run_path(words[0], run_name="__main__")

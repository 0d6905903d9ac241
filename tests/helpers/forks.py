"""Snakemake in forks of a process that has imported it: most of the time of a plan is the imports."""

import multiprocessing
import os
from multiprocessing.process import BaseProcess
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
# What Snakemake imports on its way to the Snakefile, too.
FORKS.set_forkserver_preload(
    [
        *("snakemake.cli", "snakemake.profiles", "snakemake.report.html_reporter", "snakemake.storage"),
        *("jsonschema", "numpy.polynomial", "pygments.formatters.html", "requests", "smart_open"),
    ]
)


def start(words: list[str], said: Path, environment: dict[str, str]) -> BaseProcess:
    """Begin the command `snakemake` with these words, its output in `said`, its input empty."""
    call = FORKS.Process(target=_snakemake, args=(words, said, environment, Path.cwd()))
    call.start()
    return call


def _snakemake(words: list[str], said: Path, environment: dict[str, str], folder: Path) -> None:
    from snakemake.cli import main

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    main(words)

"""The states of the jobs of one call of Snakemake, as squeue and sacct tell them. Cheap to import."""

import asyncio
import contextlib
import datetime
import os
import re
import shutil
from collections.abc import Sequence

from peft_tradeoffs.core import slurm

SOURCES = ("squeue", "sacct")
TIMEOUT_S = 20.0  # of one query: both sources have had theirs within a minute
BACK = datetime.timedelta(days=2)  # sacct lists jobs that were queued, ran or ended since then
PENDING = re.compile(r"(?P<array>\d+)_\[(?P<tasks>[\d,:-]*?)(?P<cut>[,-]?\.\.\.)?(?:%\d+)?\]")
TASKS = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")
CUT = "_[...]"  # stands for the tasks of an array that a cut-off list does not name


class NoAnswer(Exception):
    """A source could not answer; the message is its own."""


def sources_from(first: str) -> list[str]:
    """The commands to ask, `first` the one that is set; those that are not installed are left out."""
    return sorted((name for name in SOURCES if shutil.which(name)), key=lambda name: name != first)


async def job_states(name: str, jobs: Sequence[str], asked: Sequence[str]) -> tuple[dict[str, str], dict[str, str]]:
    """The states of `jobs` (ids; 17_2 is a task of an array) among those called `name`, and the sources that failed.

    The sources in `asked` are asked in turn, each for the jobs that the ones before did not list. The second value has
    what a source that could not answer said, by its name.
    """
    found: dict[str, str] = {}
    failed: dict[str, str] = {}
    for source in asked:
        if missing := [job for job in jobs if job not in found]:
            try:
                answer = await ask(source, name)
            except NoAnswer as error:
                failed[source] = str(error)
                continue
            for job in missing:
                state = answer.get(job) or answer.get(job.partition("_")[0] + CUT)
                found |= {job: state} if state else {}
    return found, failed


async def ask(source: str, name: str) -> dict[str, str]:
    """The state of every job called `name`, by its id. Raises NoAnswer."""
    environment = slurm.neutral(os.environ) | {"SLURM_BITSTR_LEN": "0"}  # lists of tasks are not cut off
    try:
        process = await asyncio.create_subprocess_exec(
            *_command(source, name),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
    except OSError as error:
        raise NoAnswer(f"{source}: {error.strerror}") from None
    try:
        out, err = await asyncio.wait_for(process.communicate(), TIMEOUT_S)
    except TimeoutError:
        raise NoAnswer(f"{source}: no answer within {TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
                await process.wait()
    if process.returncode:
        said = " ".join(err.decode(errors="replace").split()) or f"exit status {process.returncode}"
        raise NoAnswer(said if said.startswith(source) else f"{source}: {said}")
    return read(out.decode(errors="replace"))


def read(listing: str) -> dict[str, str]:
    """States by id of a listing with a line `id|state` for each job; tasks of arrays each by its own."""
    found = {}
    for line in listing.splitlines():
        job, bar, state = line.strip().partition("|")
        if bar and state:
            found |= dict.fromkeys(expand(job), state.split()[0])  # sacct: CANCELLED by 0
    return found


def expand(job: str) -> list[str]:
    """The ids that an id of squeue or sacct stands for: 17_[1-3,7%2] for four tasks, which wait."""
    match = PENDING.fullmatch(job)
    if match is None:
        return [job]
    tasks = [match["array"] + CUT] if match["cut"] else []
    for first, last, step in TASKS.findall(match["tasks"]):
        tasks += [f"{match['array']}_{task}" for task in range(int(first), int(last or first) + 1, int(step or 1))]
    return tasks


def _command(source: str, name: str) -> list[str]:
    if source == "squeue":
        return ["squeue", "--array", "--states=all", "--noheader", "--format=%i|%T", f"--name={name}"]
    start = f"{datetime.datetime.now() - BACK:%Y-%m-%dT%H:00}"
    words = ["sacct", "--allocations", "--parsable2", "--noheader", "--clusters=all", "--format=JobID,State"]
    return [*words, f"--starttime={start}", "--endtime=now", f"--name={name}"]

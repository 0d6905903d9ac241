"""Slurm's commands, its queue, this process's job, and resources that no submission would survive."""

import ast
import builtins
import datetime
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_tradeoffs.core.errors import InputError

VARIABLES = {
    "restart_count": "SLURM_RESTART_COUNT",
    "node": "SLURMD_NODENAME",
    "partition": "SLURM_JOB_PARTITION",
    "account": "SLURM_JOB_ACCOUNT",
    "cluster": "SLURM_CLUSTER_NAME",
}
FORMATTING = ("SQUEUE_", "SCANCEL_", "SACCT_")  # a user's own defaults of what they list, and how


def neutral(variables: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Slurm's commands do and print what their command line says, times as ISO 8601."""
    kept = {name: value for name, value in variables.items() if not name.startswith(FORMATTING)}
    return {**kept, "SLURM_TIME_FORMAT": "standard"}


def command(*words: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands, whatever the user's variables. Raises OSError or subprocess.TimeoutExpired."""
    return subprocess.run(
        words, env=neutral(os.environ), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
    )


def job() -> dict[str, Any] | None:
    """Its job_id, restart_count, node, partition, account and cluster, each None if the environment lacks it.

    None outside SLURM. Snakemake's jobstep hides restart_count and account from the processes it starts.
    """
    number = os.environ.get("SLURM_JOB_ID")
    if not number or not number.isdecimal():
        return None
    found: dict[str, Any] = {key: os.environ.get(name) or None for key, name in VARIABLES.items()}
    if found["restart_count"] is not None:
        found["restart_count"] = int(found["restart_count"])
    return {"job_id": int(number), **found}


class Queued:
    """How long this process's job waited in Slurm's queue. It is told once, for later runs of the job did not wait."""

    def __init__(self) -> None:
        self._told = False

    def seconds(self) -> float | None:
        """Seconds from when the job could have started to when it did, as sacct's Planned; then always 0.

        None outside SLURM, or where scontrol does not say.
        """
        found = job()
        if found is None or self._told:
            return None if found is None else 0.0
        try:
            done = command("scontrol", "show", "job", str(found["job_id"]), "--oneliner", timeout_s=30)
            times = [re.search(rf"{key}=(\S+)", done.stdout) for key in (r"\bEligibleTime", r"\bStartTime")]
            eligible, start = (datetime.datetime.fromisoformat(time[1]) for time in times if time)
        except (OSError, subprocess.TimeoutExpired, ValueError):  # no scontrol, no answer, "Unknown"
            return None
        seconds = (start - eligible).total_seconds()
        if seconds < 0:  # the controller's clock was set back meanwhile
            return None
        self._told = True
        return seconds


FORMAT = "%i|%j|%T|%r|%N|%k|%Z"
# The plugin names all jobs of one call of Snakemake alike: slurm-jobname-prefix, "_" and a UUID.
NAME = re.compile(r"(?:[A-Za-z0-9_-]{1,50}_)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ID = re.compile(r"\d+(?:_\d+|_\[[^|]*\]|\+\d+)?")  # of a job, a task of an array, several tasks, a part of a job
TIMEOUT_S = 60.0
LOGS = ".snakemake/slurm_logs"  # the plugin's, and the profile's


class NoAnswer(Exception):
    """Slurm is there, but squeue or scancel failed; the message says how."""


@dataclass(frozen=True)
class Job:
    """A job that is queued, runs or is about to end."""

    id: str
    state: str  # as squeue has it: PENDING, RUNNING, COMPLETING, ...
    reason: str  # why it waits
    node: str
    comment: str  # the plugin's: rule_NAME_wildcards_A_B
    name: str = ""  # the plugin's: one for all jobs of a call of Snakemake

    @property
    def waits(self) -> bool:
        """Whether it has not started."""
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "CONFIGURING")

    def __str__(self) -> str:
        where = self.reason if self.waits else f"on {self.node}"
        what = self.comment.removeprefix("rule_").replace("_wildcards_", " ")
        return f"{self.id} {what}: {self.state} {where}"


def submitted_from(folder: Path) -> bool:
    """Whether Snakemake submitted jobs from this working folder: their logs, or the place of them, are there."""
    return (folder / LOGS).is_dir()


def installed() -> bool:
    """Whether this machine has Slurm's commands."""
    return shutil.which("squeue") is not None


def jobs(folder: Path) -> list[Job]:
    """This user's unfinished jobs that Snakemake submitted with `folder` as its working folder, oldest first.

    Empty where Slurm is not installed; raises NoAnswer where it does not answer.
    """
    if not installed():
        return []
    listing = _run("squeue", "--me", "--array", "--noheader", "--sort=i", f"--format={FORMAT}")
    return [job for job, where in map(_read, listing.split("\n")) if job and Path(where).resolve() == folder.resolve()]


def _read(line: str) -> tuple[Job | None, str]:
    """A job of Snakemake's and its folder; None for any other, in whose name may stand "|" and line breaks."""
    fields = line.split("|", maxsplit=FORMAT.count("|"))
    if len(fields) <= FORMAT.count("|") or not ID.fullmatch(fields[0]) or not NAME.fullmatch(fields[1]):
        return None, ""
    number, name, state, reason, node, comment, where = fields
    return Job(number, state, reason, node, comment, name), where


def unfinished() -> set[str]:
    """The ids of all of this user's unfinished jobs, whoever submitted them. Raises NoAnswer."""
    return set(_run("squeue", "--me", "--noheader", "--format=%A").split())


def cancel(jobs: list[Job]) -> None:
    """Scancel the jobs. Raises NoAnswer if Slurm refuses."""
    _run("scancel", *(job.id for job in jobs))


def _run(*words: str) -> str:
    try:
        done = command(*words, timeout_s=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{words[0]}: no answer within {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        raise NoAnswer(said_by(words[0], done.stderr, done.returncode))
    return done.stdout


def said_by(name: str, stderr: str, status: int) -> str:
    """What a command that failed said, on one line that begins with its name, once."""
    said = " ".join(stderr.split()) or f"exit status {status}"
    return said if said.startswith(f"{name}:") else f"{name}: {said}"


TEXTS = ("slurm_partition", "slurm_account", "qos", "constraint", "gres", "gpu_model", "slurm_extra", "clusters")
SLURM = ("slurm_partition", "slurm_account", "slurm_extra", "gres")  # who sets one of these has SLURM in mind
EVALUATED = ("wildcards", "input", "attempt", "threads", "rulename", "shutil")  # names beside Python's own
GRES = re.compile(r"[a-zA-Z0-9_]+(:[a-zA-Z0-9_.]+)?(:[0-9]+[TGM]?)?")  # the plugin's
MODEL = re.compile(r"[a-zA-Z0-9_.]+")
TIME = re.compile(r"[0-9]+(\.[0-9]+)? ?(s|m|h|d|w|min|mins|sec|secs|(second|minute|hour|day|week)s?)", re.IGNORECASE)


def check_resources(default: Mapping[str, Any] | None, by_rule: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InputError for resources as they were written that cannot be what was meant.

    `default` and `by_rule` are Snakemake's, of --default-resources and --set-resources or a profile's blocks; where a
    value is an expression of `attempt` or `wildcards`, it is left to the job.
    """
    blocks = {
        "default-resources": default or {},
        **{f"set-resources, {rule}": block for rule, block in by_rule.items()},
    }
    slurm = any(name in SLURM for block in blocks.values() for name in block)
    for where, block in blocks.items():
        for name, value in block.items():
            written = getattr(value, "raw", value)
            if problem := next(_problems(name, written, slurm), None):
                raise InputError(f"profile or command line, {where}: {name}: {written}: {problem}")


def check_commands(executor: Any) -> None:
    """Raise InputError if jobs are to be submitted from where there is no sbatch, before the local ones run.

    `executor` is Snakemake's plugin, None where it does not say.
    """
    if getattr(executor, "name", None) == "slurm" and shutil.which("sbatch") is None:
        raise InputError(
            "executor slurm: there is no sbatch on the PATH; call Snakemake where jobs can be submitted (a login "
            "node), or with --profile profiles/local"
        )


def _problems(name: str, written: Any, slurm: bool) -> Iterator[str]:
    """What is wrong with one resource, in words."""
    if name == "runtime" and isinstance(written, str):
        yield from _time(written)
    if name not in TEXTS or not slurm:
        return
    if not isinstance(written, str):
        if isinstance(written, int) and name in ("gres", "gpu_model"):
            yield f"a number; write it in two pairs of quotes, as \"'{written}'\""
        return
    word = written.strip()
    if word.isidentifier() and (hasattr(builtins, word) or word in EVALUATED):
        yield f"Python's own {word}, not the name; write it in two pairs of quotes, as \"'{word}'\""
    text = _text(word)
    if text is None:
        if _constant(word):
            yield f"Python calculates with it; write it in two pairs of quotes, as \"'{word}'\""
        return
    if name == "gres" and not GRES.fullmatch(text):
        if "," in text:
            yield "several kinds of gres; the executor plugin for SLURM hands on one, as gpu:1 or gpu:a100:1"
        yield "not NAME, NAME:NUMBER or NAME:TYPE:NUMBER in letters, digits, _ and ., as the executor plugin takes it"
    if name == "gpu_model" and not MODEL.fullmatch(text):
        yield (
            "the executor plugin takes letters, digits, _ and . alone; ask for such nodes by a feature instead "
            "(constraint), or for another name of the GPU"
        )


def _time(written: str) -> Iterator[str]:
    """What is wrong with a run time; nothing with minutes, a number with its unit, or an expression."""
    written = _unquoted(written.strip())
    if written.isdecimal() or TIME.fullmatch(written):
        return
    remedy = "write minutes, as 1440, or one number with its unit, as 24h or 1d"
    if re.fullmatch(r"[0-9]+-[0-9]+(:[0-9]+)*|[0-9]+(:[0-9]+)+", written):
        yield f"SLURM's way to write a time, which Snakemake reads as something else; {remedy}"
    try:
        tree = ast.parse(written, mode="eval")
    except SyntaxError:
        yield f"neither a time nor an expression; {remedy}"
        return
    if isinstance(tree.body, ast.Constant | ast.Name):
        yield f"not a whole number of minutes; {remedy}"


def _unquoted(written: str) -> str:
    """A constant without its quotes; an expression, which may begin and end with a text, as it is."""
    try:
        tree = ast.parse(written, mode="eval").body
    except SyntaxError:
        return written
    return str(tree.value).strip() if isinstance(tree, ast.Constant) else written


def _text(written: str) -> str | None:
    """The text that Snakemake makes of a resource; None where that is an expression."""
    try:
        tree = ast.parse(written, mode="eval").body
    except SyntaxError:
        return written
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        return tree.value
    known = {*EVALUATED, *dir(builtins)}
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return written if names and not any(name in known for name in names) else None


def _constant(written: str) -> bool:
    """Whether Python makes a number of it."""
    try:
        tree = ast.parse(written, mode="eval").body
    except SyntaxError:
        return False
    return isinstance(tree, ast.BinOp | ast.UnaryOp) and not any(isinstance(node, ast.Name) for node in ast.walk(tree))

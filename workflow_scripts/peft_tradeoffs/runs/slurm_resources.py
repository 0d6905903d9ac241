"""Resources of a profile that Snakemake would read as something else, or that no submission to SLURM would survive."""

import ast
import builtins
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from peft_tradeoffs.core.errors import InputError

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

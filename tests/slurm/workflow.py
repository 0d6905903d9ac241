"""Run the workflow on the tests' Slurm through profiles/slurm."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import tiny
import yaml

PROFILE = tiny.REPOSITORY / "profiles/slurm"
ARMS = ("full", "lora-r4", "qlora-r4")  # of tiny.config
SAVED = ("*.safetensors", "predictions.csv")
FIRST_LOOK_s = 3
NEXT_LOOK_s = 2


def shipped() -> dict[str, Any]:
    """The profile in profiles/slurm."""
    return yaml.safe_load((PROFILE / "profile.yaml").read_text(encoding="utf-8"))


def site(folder: Path, train: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A profile of the test cluster, to be laid over profiles/slurm: a GPU for CPU training, quick status checks.

    `train` adds resources of training jobs, `changes` replaces other keys ("_" for "-").
    """
    resources = shipped()["set-resources"]
    resources["train"] |= {"gpu": 1, **(train or {})}
    settings = {
        "slurm-init-seconds-before-status-checks": FIRST_LOOK_s,
        "seconds-between-status-checks": NEXT_LOOK_s,
        "set-resources": resources,
        **{key.replace("_", "-"): value for key, value in changes.items()},
    }
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site/profile.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return folder / "site"


def command(folder: Path, *words: str) -> list[str]:
    """The snakemake command line for config.yaml in `folder` with both profiles."""
    copy = folder / "workflow/Snakefile"
    return [
        *(sys.executable, "-m", "snakemake"),
        *("--snakefile", str(copy if copy.exists() else tiny.REPOSITORY / "Snakefile"), "--directory", str(folder)),
        *("--profile", str(PROFILE), "--profile", str(folder / "site"), *words),
    ]


def start(
    folder: Path,
    settings: dict[str, Any] | None,
    *words: str,
    before: Callable[[], None] | None = None,
    **variables: str,
) -> subprocess.Popen[str]:
    """Begin a run whose output goes to `folder`/snakemake.out. What it needs of `site` must be there.

    `before` is called in the new process before it becomes Snakemake.
    """
    if settings is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    with (folder / "snakemake.out").open("ab") as output:
        return subprocess.Popen(
            command(folder, *words),
            env=tiny.environment(**variables),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=before,
        )


def finish(folder: Path, process: subprocess.Popen[str], check: bool = True, seconds: float = 1200.0) -> str:
    """Wait for the end of a run and give what Snakemake said; on failure show every log with it.

    One that goes on for longer than `seconds` is killed and fails, `check` or not.
    """
    try:
        code: int | str = process.wait(seconds)
    except subprocess.TimeoutExpired:
        code, check = f"nothing within {seconds} s", True
    finally:
        process.kill()
    said = (folder / "snakemake.out").read_text(encoding="utf-8", errors="replace")
    if check and code:
        logs = [*folder.rglob("logs/**/*.log"), *folder.glob(".snakemake/slurm_logs/**/*.log")]
        shown = [f"--- {log}\n{log.read_text(errors='replace')}" for log in sorted(logs) if log.stat().st_size]
        raise AssertionError("\n".join([f"snakemake ended with {code}\n{said}", *shown]))
    return said


def run(folder: Path, settings: dict[str, Any] | None, *words: str, check: bool = True, **variables: str) -> str:
    """Run to the end: `start`, then `finish`."""
    return finish(folder, start(folder, settings, *words, **variables), check)


def recover(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Begin the way back after Snakemake was killed."""
    script = folder / "workflow/workflow_scripts/recover.py"
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, str(script), "--interval", "1", *words], cwd=folder, stdout=pipe, stderr=pipe, text=True
    )


def status(folder: Path) -> str:
    """What the target `status` shows."""
    pipe = subprocess.PIPE
    done = subprocess.run(command(folder, "status"), env=tiny.environment(), stdout=pipe, stderr=pipe, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def untrained(finished: Path, folder: Path, methods: Collection[str] = ("full", "lora", "qlora")) -> Path:
    """A copy of a finished benchmark (with its workflow and `site`) in `folder`, its runs still to be trained.

    Each arm is three processes a job, so that a test names the `methods` it needs.
    """
    shutil.copytree(finished, folder, symlinks=True, dirs_exist_ok=True)
    for name in ("runs", "tables", "figures", "logs"):
        shutil.rmtree(folder / "results" / name, ignore_errors=True)
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    settings["methods"] = {name: settings["methods"][name] for name in methods}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    site(folder)
    return folder


def weights_and_predictions(folder: Path, arms: Collection[str] = ARMS) -> dict[str, bytes]:
    """What a run's numbers rest on, by its path: every weight file and every prediction of the arms."""
    runs = folder / "results/runs"
    files = [path for arm in arms for name in SAVED for path in runs.glob(f"*/*/{arm}/**/{name}")]
    return {str(path.relative_to(runs)): path.read_bytes() for path in files}

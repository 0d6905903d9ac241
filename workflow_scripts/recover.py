"""After Snakemake was killed: wait for the SLURM jobs it left, or cancel them, and unlock the folder.

Its jobs run on and its lock stays, and a new call knows neither. Run this on the machine where it ran, in its working
folder; then call Snakemake as before: it does what is missing, and a run that its job finished is not trained again.
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

import psutil
from peft_tradeoffs import squeue
from peft_tradeoffs.errors import InputError, run


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--directory", type=Path, default=Path(), metavar="DIR", help="Snakemake's working folder (default: this one)"
    )
    parser.add_argument("--cancel", action="store_true", help="cancel the jobs; a run's last saved state stays")
    parser.add_argument("--interval", type=float, default=10.0, metavar="S", help="seconds between two looks")
    return parser.parse_args()


def main() -> None:
    """See that nothing of the killed Snakemake is left; unlock."""
    args = arguments()
    folder = args.directory.resolve()
    if not (folder / ".snakemake").is_dir():
        raise InputError(f"{folder}: no Snakemake ran here (no .snakemake in it); name its folder with --directory")
    refuse_living(folder)
    if not squeue.installed():
        print("Slurm is not installed here: no jobs to look for")
    elif left := listed(folder, args.interval):
        print(f"{len(left)} job{'' if len(left) == 1 else 's'} left:", *left, sep="\n  ", flush=True)
        if args.cancel:
            cancel(left, args.interval)
        wait(folder, left, args.interval)
    else:
        print("no jobs left")
    shutil.rmtree(folder / ".snakemake/locks", ignore_errors=True)  # what `snakemake --unlock` does
    print(f"unlocked: {folder}")


def refuse_living(folder: Path) -> None:
    """Raise InputError if a Snakemake works in the folder, on this machine; its SLURM jobs do not count."""
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            snakemake = any(Path(word).name == "snakemake" or "snakemake/__main__.py" in word for word in words[:3])
            own = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if snakemake and own and Path(process.cwd()) == folder and "SLURM_JOB_ID" not in process.environ():
                raise InputError(
                    f"Snakemake works in {folder} (process {process.pid}): wait for its end, or end it with "
                    f"`kill -INT {process.pid}`, which cancels its jobs too"
                )
        except psutil.Error:  # ended meanwhile, or somebody else's
            continue


def listed(folder: Path, interval_s: float) -> list[squeue.Job]:
    """The jobs left; waits for a Slurm that does not answer."""
    told = False
    while True:
        try:
            return squeue.jobs(folder)
        except squeue.NoAnswer as error:
            if not told:
                print(f"waits for Slurm to answer: {error}", file=sys.stderr, flush=True)
            told = True
            time.sleep(interval_s)


def cancel(left: list[squeue.Job], interval_s: float) -> None:
    """Cancel the jobs; waits for a Slurm that does not answer."""
    while True:
        try:
            return squeue.cancel(left)
        except squeue.NoAnswer as error:
            print(f"not cancelled yet: {error}", file=sys.stderr, flush=True)
            time.sleep(interval_s)


def wait(folder: Path, left: list[squeue.Job], interval_s: float) -> None:
    """Until none of the jobs is left, each one's end said."""
    while left:
        time.sleep(interval_s)
        now = listed(folder, interval_s)
        for job in left:
            if job.id not in {other.id for other in now}:
                print(f"{job.id} ended", flush=True)
        left = now


if __name__ == "__main__":
    run(main)

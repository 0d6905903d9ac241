"""After Snakemake was killed: wait for the SLURM jobs it left, or cancel them, and unlock the folder.

Its jobs run on and its lock stays, and a new call knows neither. Run this on the machine where it ran, in its working
folder; then call Snakemake as before: it does what is missing, and a run that its job finished is not trained again.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

from peft_tradeoffs import snakemake_lock, squeue
from peft_tradeoffs.errors import InputError, run

SLURM_LOGS = ".snakemake/slurm_logs"  # the plugin's, and the profile's


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--directory", type=Path, default=Path(), metavar="DIR", help="Snakemake's working folder (default: this one)"
    )
    parser.add_argument("--cancel", action="store_true", help="cancel the jobs; a run's last saved state stays")
    parser.add_argument(
        "--not-running", action="store_true", help="what cannot be seen from this machine no longer runs, as you know"
    )
    parser.add_argument("--interval", type=float, default=10.0, metavar="S", help="seconds between two looks")
    return parser.parse_args()


def main() -> None:
    """See that nothing of the killed Snakemake is left; unlock."""
    args = arguments()
    folder = args.directory.resolve()
    if not (folder / ".snakemake").is_dir():
        raise InputError(f"{folder}: no Snakemake ran here (no .snakemake in it); name its folder with --directory")
    refuse_living(folder, args.not_running)
    if not squeue.installed():
        if (folder / SLURM_LOGS).is_dir() and not args.not_running:
            raise InputError(
                f"{folder}: Snakemake submitted jobs from here, and this machine has no squeue to look for them: run "
                "this on a login node, or, if none can run any more, here with --not-running"
            )
        print("Slurm is not installed here: no jobs to look for")
    elif left := listed(folder, args.interval):
        print(f"{len(left)} job{'' if len(left) == 1 else 's'} left:", *left, sep="\n  ", flush=True)
        if args.cancel:
            cancel(left, args.interval)
        wait(folder, left, args.interval)
    else:
        print("no jobs left")
    refuse_living(folder, args.not_running)  # one that began meanwhile
    shutil.rmtree(folder / snakemake_lock.LOCKS, ignore_errors=True)  # what `snakemake --unlock` does
    print(f"unlocked: {folder}")


def refuse_living(folder: Path, not_running: bool) -> None:
    """Raise InputError if a Snakemake works in the folder, or began on another machine and is not known to be gone."""
    if pid := snakemake_lock.living(folder):
        raise InputError(
            f"Snakemake works in {folder} (process {pid}): wait for its end, or end it with `kill -INT {pid}`, which "
            "cancels its jobs too"
        )
    if not not_running and (owner := snakemake_lock.elsewhere(folder)):
        raise InputError(
            f"Snakemake locked {folder} on another machine, {owner.host} (process {owner.pid}, since {owner.since}): "
            "run this there, or, if it cannot run any more, here with --not-running"
        )


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

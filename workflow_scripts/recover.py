"""After Snakemake was killed: wait for the jobs and training processes it left, or end them, and unlock the folder.

They run on and its lock stays, and a new call knows neither. Run this on the machine where it ran, in its working
folder; then call Snakemake as before: it does what is missing, and a run that its job finished is not trained again.
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from peft_tradeoffs.core import slurm
from peft_tradeoffs.core.errors import InputError, run
from peft_tradeoffs.runs import lock

Answer = TypeVar("Answer")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--directory", type=Path, default=Path(), metavar="DIR", help="Snakemake's working folder (default: this one)"
    )
    parser.add_argument("--cancel", action="store_true", help="end jobs and processes; a run's last saved state stays")
    parser.add_argument(
        "--not-running", action="store_true", help="what cannot be seen from this machine no longer runs, as you know"
    )
    parser.add_argument("--interval", type=float, default=10.0, metavar="S", help="seconds between two looks")
    parser.add_argument(
        "--no-answer",
        type=float,
        default=900.0,
        metavar="S",
        help="seconds that a Slurm which does not answer is waited for (default: 900)",
    )
    return parser.parse_args()


def main() -> None:
    """See that nothing of the killed Snakemake is left; unlock."""
    args = arguments()
    folder = args.directory.resolve()
    if not (folder / ".snakemake").is_dir():
        raise InputError(f"{folder}: no Snakemake ran here (no .snakemake in it); name its folder with --directory")
    refuse_living(folder, args.not_running)
    end_jobs(folder, args)
    end_processes(folder, args)
    refuse_living(folder, args.not_running)  # one that began meanwhile
    shutil.rmtree(folder / lock.LOCKS, ignore_errors=True)  # what `snakemake --unlock` does
    print(f"unlocked: {folder}")


def refuse_living(folder: Path, not_running: bool) -> None:
    """Raise InputError if a Snakemake works in the folder, or began on another machine and is not known to be gone."""
    if pid := lock.living(folder):
        raise InputError(
            f"Snakemake works in {folder} (process {pid}): wait for its end, or end it with `kill -INT {pid}`, which "
            "cancels its jobs too"
        )
    if not not_running and (owner := lock.elsewhere(folder)):
        raise InputError(
            f"Snakemake locked {folder} on another machine, {owner.host} (process {owner.pid}, since {owner.since}): "
            "run this there, or, if it cannot run any more, here with --not-running"
        )


def end_jobs(folder: Path, args: argparse.Namespace) -> None:
    """Wait for the SLURM jobs that were submitted from the folder, or cancel them."""
    submitted = slurm.submitted_from(folder)
    if not slurm.installed():
        if submitted and not args.not_running:
            raise InputError(
                f"{folder}: Snakemake submitted jobs from here, and this machine has no squeue to look for them: run "
                "this on a login node, or, if none can run any more, here with --not-running"
            )
        print("Slurm is not installed here: no jobs to look for")
        return
    try:
        left = slurm.jobs(folder) if args.not_running or not submitted else listed(folder, args)
    except slurm.NoAnswer as error:
        why = "as --not-running says, none runs any more" if submitted else "no job was ever submitted from here"
        print(f"Slurm does not answer ({error}): {why}")
        return
    if not left:
        print("no SLURM jobs left")
        return
    print(f"{len(left)} job{'' if len(left) == 1 else 's'} left:", *left, sep="\n  ", flush=True)
    if args.cancel:
        asked(lambda: slurm.cancel(left), args, "not cancelled yet")
    while left:
        time.sleep(args.interval)
        now = listed(folder, args)
        for job in left:
            if job.id not in {other.id for other in now}:
                print(f"{job.id} ended", flush=True)
        left = now


def listed(folder: Path, args: argparse.Namespace) -> list[slurm.Job]:
    """The jobs left."""
    return asked(lambda: slurm.jobs(folder), args, "waits for Slurm to answer")


def asked(ask: Callable[[], Answer], args: argparse.Namespace, meanwhile: str) -> Answer:
    """What Slurm answers; raises InputError if it does not for too long, which is said at once."""
    deadline, told = time.monotonic() + args.no_answer, False
    while True:
        try:
            return ask()
        except slurm.NoAnswer as error:
            if time.monotonic() >= deadline:
                raise InputError(
                    f"Slurm has not answered for {args.no_answer:.0f} s ({error}): try again later, or, if no job of "
                    "this folder can run any more, with --not-running"
                ) from None
            if not told:
                print(f"{meanwhile}, up to {args.no_answer:.0f} s: {error}", file=sys.stderr, flush=True)
            told = True
            time.sleep(args.interval)


def end_processes(folder: Path, args: argparse.Namespace) -> None:
    """Wait for the training processes of this machine, or end them: on SIGTERM they save their state."""
    left = lock.at_work(folder)
    if not left:
        print("no training process left on this machine")
        return
    print("still at work:", *left, sep="\n  ", flush=True)
    if args.cancel:
        if unknown := [orphan for orphan in left if not orphan.known]:
            raise InputError(
                f"{unknown[0].run}: its lock names process {unknown[0].owner.pid}, which is another user's or cannot "
                "be looked into: ask its owner to end it, or wait for it (without --cancel)"
            )
        for pid in {orphan.owner.pid for orphan in left}:
            with contextlib.suppress(ProcessLookupError):  # ended meanwhile
                os.kill(pid, signal.SIGTERM)
    while left:
        time.sleep(args.interval)
        now = lock.at_work(folder)
        for orphan in left:
            if orphan not in now:
                print(f"{orphan.run}: process {orphan.owner.pid} is done with it", flush=True)
        left = now


if __name__ == "__main__":
    run(main)

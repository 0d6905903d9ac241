"""Kill, interrupt and starve a training process again and again, and say what it came to.

- kill -9 at random moments of a run, then the same command: the weights and predictions of an uninterrupted run?
- storms of two to four signals, 0 to 300 ms apart, from random moments on: status 75, and the same results afterwards?
- a disk of growing size (tmpfs in a mount namespace of its own: `unshare`): one line, no traceback, and the same
  results with room?
- flipped bits in a saved state, weights and predictions: is any of them taken?

Takes a folder of tokens and a model and a run's settings (see --help). Training processes are forked from one that has
imported what they need, so that a moment at random is one of training, not of the imports; some are started anew.
"""

import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "workflow_scripts"))
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
SAME = ("adapter/adapter_model.safetensors", "checkpoint/model.safetensors", "predictions.csv")
STATUS = 75


class Runs:
    """Starts training processes of one run."""

    def __init__(self, arguments: argparse.Namespace, work: Path) -> None:
        self.work = work
        settings = json.loads(arguments.settings.read_text()) | {"epochs": arguments.epochs}
        self._words = ["--settings", json.dumps(settings), "--seeds", "0", "--tokens", str(arguments.tokens)]
        self._words += ["--model", str(arguments.model), "--checkpoint-interval", "0.2"]

    def words(self, arm: Path) -> list[str]:
        return [*self._words, "--output-dir", str(arm)]

    def fork(self, arm: Path, log: Path) -> int:
        """Process id of a child that trains, its output in `log`."""
        if child := os.fork():
            return child
        import signals_first  # noqa: F401

        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = ["train.py", *self.words(arm)]
        import train

        train.errors.run(train.main)  # its exit is this process's, with all that Python does at its end
        sys.exit(0)

    def whole(self, arm: Path) -> int:
        """Exit status of a run that nothing disturbs."""
        return wait(self.fork(arm, self.work / "whole.log"))

    def anew(self, arm: Path, log: Path) -> subprocess.Popen[bytes]:
        """A process from its interpreter on."""
        with log.open("wb") as file:
            script = str(REPOSITORY / "workflow_scripts/train.py")
            return subprocess.Popen([sys.executable, script, *self.words(arm)], stdout=file, stderr=file)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def same(arm: Path, expected: Path) -> bool:
    files = [name for name in SAME if (expected / "seed0" / name).exists()]
    found = [arm / "seed0" / name for name in files]
    return all(
        path.exists() and path.read_bytes() == (expected / "seed0" / name).read_bytes()
        for path, name in zip(found, files, strict=True)
    )


def kills(runs: Runs, count: int, whole_s: float, expected: Path) -> str:
    survived = 0
    for number in range(count):
        arm = runs.work / f"kill{number}"
        child = runs.fork(arm, runs.work / "kill.log")
        time.sleep(random.uniform(0.0, whole_s))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        wait(child)
        survived += runs.whole(arm) == 0 and same(arm, expected)
        shutil.rmtree(arm)
    return f"kill -9: {survived} of {count} ended with the same weights and predictions when run again"


def storms(runs: Runs, count: int, whole_s: float, expected: Path, started_anew: int) -> str:
    statuses: list[int] = []
    survived = tracebacks = 0
    for number in range(count):
        arm, log = runs.work / f"storm{number}", runs.work / "storm.log"
        process = runs.anew(arm, log) if number < started_anew else None
        child = process.pid if process else runs.fork(arm, log)
        time.sleep(random.uniform(0.1, whole_s * 0.9 + (3.0 if process else 0.0)))
        for _ in range(random.randint(2, 4)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, random.choice(SIGNALS))
            time.sleep(random.uniform(0.0, 0.3))
        statuses.append(process.wait() if process else wait(child))
        tracebacks += "Traceback" in log.read_text()
        survived += runs.whole(arm) == 0 and same(arm, expected)
        shutil.rmtree(arm)
    others = [status for status in statuses if status not in (0, STATUS)]
    return (
        f"storms: {statuses.count(STATUS)} of {count} ended with status {STATUS}, {statuses.count(0)} had finished, "
        f"others {others}; {tracebacks} tracebacks; {survived} of {count} ended with the same weights and predictions "
        "when run again"
    )


def full_disks(runs: Runs, sizes: list[int], expected: Path) -> str:
    """Each in a mount namespace of its own, where `disk` is a tmpfs of that size; then with room."""
    ended: dict[str, int] = {}
    survived = 0
    for size in sizes:
        disk, log = runs.work / "disk", runs.work / f"disk{size}.log"
        disk.mkdir(exist_ok=True)
        script = str(REPOSITORY / "workflow_scripts/train.py")
        command = [sys.executable, script, *runs.words(disk / "arm")]
        inside = "\n".join(
            (
                f"mount -t tmpfs -o size={size}k none {disk}",
                '"$@"; status=$?',
                f"mount -o remount,size=400m {disk}",
                '[ $status = 0 ] || "$@" || exit 3',
                f"cp -r {disk}/arm {runs.work}/disk{size}",
                "exit $status",
            )
        )
        with log.open("wb") as file:
            own = [] if os.geteuid() == 0 else ["--map-root-user"]
            done = subprocess.run(
                ["unshare", "--mount", *own, "sh", "-c", inside, "sh", *command], stdout=file, stderr=file
            )
        said = log.read_text()
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        what = "traceback" if "Traceback" in said else "one line" if len(lines) == 1 else f"status {done.returncode}"
        ended[what] = ended.get(what, 0) + 1
        survived += same(runs.work / f"disk{size}", expected)
    return f"full disks: {ended}; {survived} of {len(sizes)} ended with the same weights and predictions with room"


def flips(path: Path, count: int, taken: Callable[[], bool]) -> int:
    """How many of `count` files with one flipped bit are taken."""
    content = path.read_bytes()
    number = 0
    for place in (random.randrange(8 * len(content)) for _ in range(count)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        number += taken()
    path.write_bytes(content)
    return number


def flipped_bits(runs: Runs, count: int, whole_s: float, expected: Path) -> str:
    from peft_tradeoffs.training.job import RunDirectory

    with (runs.work / "flips.log").open("w") as log, contextlib.redirect_stderr(log):
        arm = runs.work / "flips"
        state = arm / "seed0/state/checkpoint.pt"
        child = runs.fork(arm, runs.work / "flipped.log")
        while not state.exists():
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        wait(child)
        fingerprint = json.loads((state.parent / "attempts.json").read_text())["fingerprint"]
        directory = RunDirectory(arm / "seed0", fingerprint, 60)
        assert directory.load() is not None
        found = {"checkpoint.pt": flips(state, count, lambda: directory.load() is not None)}
        shutil.copytree(expected, runs.work / "published")
        run = runs.work / "published/seed0"
        fingerprint = json.loads((run / "summary.json").read_text())["fingerprint"]
        directory = RunDirectory(run, fingerprint, 60)
        assert directory.stands()
        for name in SAME:
            if (run / name).exists():
                found[name] = flips(run / name, count, directory.stands)
    return "; ".join(f"flipped bits: {taken} of {count} in {name} were taken" for name, taken in found.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", required=True, type=Path, help="`settings` of a run's env.json, as JSON")
    parser.add_argument("--tokens", required=True, type=Path)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=15)
    parser.add_argument("--storms", type=int, default=12)
    parser.add_argument("--anew", type=int, default=2, help="storms on processes that were not forked")
    parser.add_argument(
        "--disks", type=int, nargs="*", default=[16, 64, 200, 400, 700, 1000, 1500, 2000], metavar="KiB"
    )
    parser.add_argument("--flips", type=int, default=200)
    arguments = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="survival-"))
    runs = Runs(arguments, work)
    for library in ("peft_tradeoffs.training.run", "peft"):
        importlib.import_module(library)

    began = time.monotonic()
    status = runs.whole(work / "expected")
    whole_s = time.monotonic() - began
    if status:
        sys.exit((work / "whole.log").read_text())
    print(f"an undisturbed run takes {whole_s:.1f} s", flush=True)
    for part in (
        lambda: flipped_bits(runs, arguments.flips, whole_s, work / "expected"),
        lambda: kills(runs, arguments.kills, whole_s, work / "expected"),
        lambda: storms(runs, arguments.storms, whole_s, work / "expected", arguments.anew),
        lambda: full_disks(runs, arguments.disks, work / "expected"),
    ):
        try:
            print(part(), flush=True)
        except Exception:
            traceback.print_exc()
    shutil.rmtree(work)


if __name__ == "__main__":
    main()

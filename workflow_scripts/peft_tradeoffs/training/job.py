"""Runs trained one after another in one process, each in its directory: state while it trains, results when it is done.

Cheap to import: torch comes with a state. A state is as torch writes it, with the SHA-256 of all its bytes behind them:
no part of it can change unseen. The zip file's own checksums do not cover its headers, and torch does not ask for them.
"""

import argparse
import contextlib
import copy
import dataclasses
import errno
import hashlib
import json
import os
import pickle
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from peft_tradeoffs.core import code, files, slurm
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import SCRIPTS
from peft_tradeoffs.inputs.model_files import check_manifest
from peft_tradeoffs.inputs.tokens import BEGINS, check_tokens, read_description
from peft_tradeoffs.measure.machine import IdlePower, versions
from peft_tradeoffs.runs.interruption import ANEW, Interruption, Rank, become
from peft_tradeoffs.runs.lock import RunLock
from peft_tradeoffs.runs.plan import ModelFolder, Plan
from peft_tradeoffs.runs.status import Attempts
from peft_tradeoffs.training.scoring import Scoring, scored

if TYPE_CHECKING:
    from peft_tradeoffs.measure.devices import Device
    from peft_tradeoffs.training.parallel import World
    from peft_tradeoffs.training.summary import Bench

STATE_ERRORS = (
    RuntimeError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
)
PREFIX, DIGITS = b"\nsha256 ", 64
TRAILER = len(PREFIX) + DIGITS  # bytes
CHUNK = 2**20  # bytes


class RunDirectory:
    """`{output}/runs/{dataset}/{model}/{arm}/seed{seed}`, for one fingerprint.

    `state/` holds what an unfinished run needs to go on, and the summary of a finished one until its job is
    done, so that Snakemake's cleaning after a failure loses nothing. It is undeclared to Snakemake. The summary stays
    alone in it where another job's cleaning may come yet.
    """

    def __init__(
        self,
        path: Path,
        fingerprint: str,
        interval_s: float,
        interruption: Interruption | None = None,
        queued: slurm.Queued | None = None,
    ) -> None:
        """`interruption` and `queued` are those of the process, which all of its runs share."""
        self.path = path
        self.fingerprint = fingerprint
        self.interruption = interruption or Interruption()
        self._state = path / "state"
        self.attempts = Attempts(self._state, fingerprint, self.confirm, queued)
        self._checkpoint = self._state / "checkpoint.pt"
        self._summary = self._state / "summary.json"
        self._interval_s = interval_s
        self._saved_at = time.monotonic()
        self._lock = RunLock(path, self.attempts.beat)

    @property
    def results(self) -> Path:
        """Where a run's results are gathered before they take the place of earlier ones."""
        return self._state / "results"

    def lock(self, wait_s: float = 0.0) -> bool:
        """Make this process the run's only writer until it ends, however it ends; whether it waited for another.

        Raises InputError if another one is, and still is after `wait_s`.
        """
        return self._lock.acquire(wait_s)

    def confirm(self) -> None:
        """Raise LockLost if another process has taken the run over. Call it before writing to `results`."""
        self._lock.confirm()

    def unlock(self) -> None:
        """Let others write."""
        self._lock.release()

    def finished(self) -> bool:
        """Whether the run's summary is there, of this fingerprint; one lost or put back is restored from the state.

        So are files that go with it and were on their way when the process was killed.
        """
        summary = self.path / "summary.json"
        if self._matches(self._summary):
            kept = self._summary.read_text(encoding="utf-8")
            if not self._matches(summary) or self._was_amended(summary, kept):
                self._place(json.loads(kept)[files.FILES])
                files.write_text(summary, kept)
        return self._matches(summary)

    def stands(self, without_weights: bool = False) -> bool:
        """Whether the run is finished and all that its summary lists is there, unchanged.

        If not, stderr says why the run is done again. `without_weights`: weights that are gone were removed on purpose.
        """
        path = self.path / "summary.json"
        if not self.finished():
            if path.is_file() and _fingerprint(path) is None:
                print(f"{path}: not a run's summary; the run is done again", file=sys.stderr, flush=True)
            return False
        try:
            summary = files.read_json(path)
            files.check_summary(summary, path)
            names = files.expected(self.path, summary, not without_weights)
            files.check_files(
                self.path, summary, [name for name in names if name != files.SCORES]
            )  # made anew of answers
        except InputError as error:
            print(f"{str(error).removesuffix(f'; {files.REMEDY}')}; the run is done again", file=sys.stderr, flush=True)
            return False
        return True

    def has(self, name: str, summary: dict[str, Any]) -> bool:
        """Whether a published file is there, unchanged."""
        try:
            files.check_files(self.path, summary, [name])
        except InputError:
            return False
        return True

    def load(self) -> dict[str, Any] | None:
        """The last saved state of this fingerprint, or None; the checkpoint interval begins.

        One that is not as it was written (a node or a disk that failed) is reported on stderr, and the run begins anew.
        """
        from peft_tradeoffs.measure.devices import refused_bytes

        self._saved_at = time.monotonic()
        for left in self._state.glob(f".{self._checkpoint.name}.*.tmp"):  # by a process that was killed
            left.unlink(missing_ok=True)
        if not self._checkpoint.exists():
            return None
        try:
            if self.attempts.damaged:
                raise Damaged("attempts.json beside it, which belongs to it, is damaged")
            state = read_state(self._checkpoint)
            return state if state["fingerprint"] == self.fingerprint else None
        except STATE_ERRORS as error:
            # EINVAL is what torch makes of a file that ends too early.
            of_system = isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.EIO)
            if of_system or refused_bytes(error)[0]:
                raise
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        except Damaged as damage:
            reason = str(damage)
        print(
            f"{self._checkpoint}: the saved state cannot be used, so the run begins anew ({reason})",
            file=sys.stderr,
            flush=True,
        )
        return None

    def begin(self, step: int) -> None:
        """Training begins or goes on after `step`: a signal to end waits until `interrupted` is asked."""
        self.interruption.hold()
        self.attempts.start_at(step)

    def reached(self, step: int, total: int) -> None:
        """`step` of `total` is done. Raises LockLost if another process has taken the run over."""
        self._lock.check()
        self.attempts.reached(step, total)

    def interrupted(self) -> str | None:
        """The name of the signal that asks the process to end."""
        return self.interruption.signal_name

    def due(self) -> bool:
        """Whether the checkpoint interval has passed."""
        return time.monotonic() - self._saved_at >= self._interval_s

    def save(self, state: dict[str, Any]) -> None:
        """Write the state; the one before stays until this one is whole. Raises LockLost if the run is another's."""
        self._lock.confirm()
        with files.atomic(self._checkpoint) as temporary:
            write_state({"fingerprint": self.fingerprint, **state}, temporary)
        self.attempts.write_status()
        self._saved_at = time.monotonic()

    def publish(self, summary: dict[str, Any]) -> None:
        """Move the gathered results into place, then seal them by the summary; env.json comes after the others.

        The disk has all of them before it has the summary.
        """
        self._lock.confirm()
        sealed = files.seal(summary, self.results)
        files.sync_tree(self.results)
        (self.path / "env.json").unlink(missing_ok=True)
        new = {source.name for source in self.results.iterdir()}
        for stale in (*files.NAMES, *files.FOLDERS):
            if stale not in new:  # of a run that got further under other settings
                _remove(self.path / stale)
        for source in sorted(self.results.iterdir(), key=lambda path: (path.name == "env.json", path.name)):
            target = self.path / source.name
            if target.is_dir():
                _remove(target)
            source.replace(target)
        files.sync(self.path)
        files.write_json(self._summary, sealed)
        files.write_json(self.path / "summary.json", sealed)
        self._checkpoint.unlink(missing_ok=True)

    def amend(self, summary: dict[str, Any], added: Mapping[str, Path]) -> None:
        """Publish the finished run with another summary, and with `added` files by name, which are moved.

        The disk has the new files and the new summary before any takes the place of an older one, so that the next
        call (`finished`) brings to its end what a killed process began.
        """
        self._lock.confirm()
        shutil.rmtree(self.results, ignore_errors=True)
        self.results.mkdir(parents=True)
        for name, source in added.items():
            source.replace(self.results / name)
        files.sync_tree(self.results)
        new = {name: files.sha256(self.results / name) for name in added}
        sealed = files.signed({**summary, files.FILES: dict(sorted({**summary[files.FILES], **new}.items()))})
        files.write_json(self._summary, sealed)
        self._place(sealed[files.FILES])
        files.write_json(self.path / "summary.json", sealed)

    def _place(self, listed: Mapping[str, str]) -> None:
        """Move those of the gathered files into place that a summary lists as they are."""
        for name, checksum in listed.items():
            source = self.results / name
            if source.is_file() and files.sha256(source) == checksum:
                source.replace(self.path / name)
        files.sync(self.path)

    def clear_state(self, keep_summary: bool = False) -> None:
        """Remove the state of a run whose job is done, or all of it but the summary."""
        if not (keep_summary and self._matches(self._summary)):
            shutil.rmtree(self._state, ignore_errors=True)
            return
        for path in self._state.iterdir():
            if path != self._summary:
                _remove(path)

    @staticmethod
    def _was_amended(summary: Path, kept: str) -> bool:
        """Whether a summary is as a run wrote it, and another one, `kept`, was to take its place."""
        if summary.read_text(encoding="utf-8") == kept:
            return False
        try:
            files.check_summary(files.read_json(summary), summary)
        except InputError:
            return False  # edited by hand
        return True

    def _matches(self, summary: Path) -> bool:
        return bool(_fingerprint(summary) == self.fingerprint)


class Damaged(Exception):
    """The file is not what was written; the message says in what way."""


def write_state(state: dict[str, Any], path: Path) -> None:
    """Write `state` (tensors and plain values) to `path`. Raises OSError, for a full disk say."""
    import torch

    with path.open("wb") as file, ThreadPoolExecutor(1) as pool:
        hashing = _Hashing(file, pool)
        try:
            torch.save(state, cast(IO[bytes], hashing))  # it writes and flushes, no more
        except (RuntimeError, OSError):
            if hashing.error is not None:
                raise hashing.error from None
            raise
        file.write(PREFIX + hashing.hexdigest().encode())


def read_state(path: Path) -> dict[str, Any]:
    """The state in `path`, its tensors on the CPU. Raises Damaged if it is not, byte by byte, what was written."""
    import torch

    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END) - TRAILER
        if size < 0:
            raise Damaged("it is cut off")
        file.seek(size)
        trailer = file.read()
        if not re.fullmatch(re.escape(PREFIX) + rb"[0-9a-f]{%d}" % DIGITS, trailer):
            raise Damaged("it does not end in its SHA-256: it is cut off, or not a state of this version")
        file.seek(0)
        if _sha256(file.read, size) != trailer[len(PREFIX) :].decode():
            raise Damaged("its content is not that of its SHA-256")
        file.seek(0)
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        return state


class _Hashing:
    """An open file that hashes what is written to it, large parts while they are written, and keeps the disk's error.

    torch may answer a write that failed with an error of its own, which does not name it.
    """

    def __init__(self, file: BinaryIO, pool: ThreadPoolExecutor) -> None:
        self._file, self._pool = file, pool
        self._hash = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, part: bytes | memoryview) -> int:
        large = len(part) >= CHUNK
        hashed: Future[None] | None = self._pool.submit(self._hash.update, part) if large else None
        try:
            return self._file.write(part)
        except OSError as error:
            self.error = self.error or error
            raise
        finally:
            if hashed is None:
                self._hash.update(part)
            else:
                hashed.result()  # the memory is torch's again after this

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _fingerprint(summary: Path) -> Any:
    """What a summary gives as its fingerprint; None if it is not there, or no summary."""
    try:
        found = files.read_json(summary)
    except (FileNotFoundError, InputError):
        return None
    return found.get("fingerprint") if isinstance(found, dict) else None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sha256(read: Callable[[int], bytes], size: int) -> str:
    digest = hashlib.sha256()
    while size > 0 and (part := read(min(size, CHUNK))):
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()


@dataclass(frozen=True)
class Run:
    """One run to train: its folder, its seed and all that decides its result beside seed, data, weights and code."""

    folder: Path
    seed: int
    settings: dict[str, Any]
    probed: bool = True  # whether its memory and its eager steps are measured before it


def add_training(parser: argparse.ArgumentParser) -> None:
    """The options that every script that trains has."""
    parser.add_argument("--settings", required=True, help="resolved settings of the arm: JSON, or a file of it")
    parser.add_argument(
        "--learning-rate-from",
        type=Path,
        nargs="?",  # of an arm that is not tuned the workflow has no file to name
        metavar="JSON",
        help="what tune.py wrote: its rate is taken, not the settings'",
    )
    parser.add_argument("--tokens", required=True, type=Path, help="tokenised splits (.npz, .json beside it)")
    parser.add_argument("--model", required=True, type=Path, help="model folder (its manifest .json beside it)")
    parser.add_argument(
        "--scoring", type=Scoring.of, metavar="JSON", help="of answers: data (the fetched data set), number, scorer"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, of all processes of a job together")
    parser.add_argument("--checkpoint-interval", type=float, default=60.0, help="seconds between saved states")
    parser.add_argument(
        "--keep-weights",
        type=int,
        choices=(0, 1),
        default=1,
        help="0: save no weights, and take finished runs whose weights are gone as they are",
    )
    parser.add_argument(
        "--rank-timeout",
        type=float,
        default=600.0,
        metavar="S",
        help="of a run on several GPUs: seconds in which each process must come to where the others wait for it",
    )
    parser.add_argument(
        "--lock-wait",
        type=float,
        help="seconds to wait for another process that trains one of these runs (default: 600 under SLURM, where a "
        "job's predecessor may be on its way out, else 0)",
    )


def read_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings given as JSON or as the path of a JSON file, with the learning rate that was tuned."""
    text = arguments.settings
    try:
        settings: dict[str, Any] = json.loads(
            text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8")
        )
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--settings: neither JSON nor a file of it: {error}") from error
    if arguments.learning_rate_from:
        settings["learning_rate"] = _read_rate(arguments.learning_rate_from)
    return settings


def _read_rate(tuned: Path) -> float:
    """The learning rate that tune.py wrote; InputError if the file is missing or no longer what it wrote."""
    try:
        rate: float = files.read_signed(tuned)["learning_rate"]
        return rate
    except FileNotFoundError:
        raise InputError(f"{tuned}: no such file; tune.py writes it") from None
    except InputError as error:
        raise InputError(f"{error}; delete it and run again, which takes it from the trials that stand") from None


@contextlib.contextmanager
def process(arguments: argparse.Namespace, kind: "type[Job] | None" = None, gpus: int = 1) -> Iterator["Job"]:
    """A `Job`, or another `kind` of it, from the options of `add_training`; exit status 75 if a signal ends it.

    Of runs on several GPUs it is the first of as many processes; the others take part in its runs and never get here.
    """
    rank = become(gpus, arguments.rank_timeout) if gpus > 1 else None
    arguments.threads = max(1, arguments.threads // gpus)  # of this process: Snakemake may have given fewer than asked
    if rank is not None and rank.number:
        from peft_tradeoffs.training.run import take_part

        sys.exit(take_part(rank, arguments.threads))
    interruption = Interruption()
    with interruption.answered(), contextlib.ExitStack() as locks:
        job = (kind or Job)(arguments, interruption, locks)
        job.rank = rank
        yield job
        job.dismiss()


class Job:
    """Trains runs on the same data and model; imports and the GPU are had once, for the first run that is missing."""

    script = SCRIPTS / "train.py"  # a run is of this code, whatever script trains it

    def __init__(self, arguments: argparse.Namespace, interruption: Interruption, locks: contextlib.ExitStack) -> None:
        """`locks` lets the runs go when the process ends."""
        self._arguments, self._interruption, self._locks = arguments, interruption, locks
        self.model = ModelFolder.of(arguments.model)
        self.tokens_path: Path = arguments.tokens
        self.tokens = read_description(arguments.tokens)
        self.conditions = {  # of every run: what decides a result beside its seed and settings
            "data_sha256": self.tokens["sha256"],
            "model_sha256": self.model.manifest["sha256"],
            "code_sha256": code.fingerprint(self.script),
            "versions": versions(),
        }
        self.rank: Rank | None = None  # the first of several processes; None of one alone
        self._world: World | None = None  # until the first run that is missing
        self._device: Device | None = None  # likewise
        self._apart_s = 0.0
        self._began = False  # its first run
        self._compiled = False  # in a run
        self._originals: dict[str, Any] = {}  # see Bench
        self._queued = slurm.Queued()

    def on(self, tokens: Path) -> "Job":
        """The same job on other tokens, from here on; this one must train nothing more."""
        other = copy.copy(self)
        other.tokens_path, other.tokens = tokens, read_description(tokens)
        check_tokens(tokens, other.tokens["sha256"])
        other.conditions = {**self.conditions, "data_sha256": other.tokens["sha256"]}
        other._originals = {}  # noqa: SLF001  (of this class)
        return other

    def train(self, runs: list[Run]) -> None:
        """Train those of the runs that are missing. Raises Interrupted if the process must end before that."""
        directories = {run.folder: self._directory(run) for run in runs}
        wait_s = self._arguments.lock_wait
        if wait_s is None:
            wait_s = 600.0 if slurm.job() else 0.0
        waited = False
        with self.apart():
            for _, directory in sorted(directories.items()):  # one order for all, so that no two wait for each other
                self._locks.callback(directory.unlock)
                waited |= directory.lock(wait_s)
        for run in runs:
            if not directories[run.folder].stands(without_weights=not self._arguments.keep_weights):
                self._train(run, directories[run.folder])
        for run in runs:  # a scorer that fails keeps none of them from training
            self._score(directories[run.folder])
        # Who held the locks before may be ending, and its Snakemake removes the summaries that it had made: now, or in
        # a moment, after this process has ended too.
        if not all([directory.finished() for directory in directories.values()]):
            folder = runs[0].folder.parent
            raise InputError(f"{folder}: results of finished runs were removed meanwhile; run again")
        for directory in directories.values():
            directory.clear_state(keep_summary=waited)

    def plan(self, seed: int, settings: dict[str, Any]) -> Plan:
        """The plan of a run on this job's data and model."""
        return Plan(settings, seed, self.tokens_path, self.model, self.conditions)

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Within it time passes that is not the first run's start-up."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._apart_s += time.monotonic() - began

    def device(
        self, settings: dict[str, Any], waiting: contextlib.AbstractContextManager[None] | None = None
    ) -> "Device":
        """What the runs compute on; `waiting`: entered while other jobs have the GPU.

        Raises InputError for tokens or a model whose files are no longer those that the runs' fingerprints are of.
        """
        if self._device is None:
            with self.apart():
                check_tokens(self.tokens_path, self.tokens["sha256"])
                check_manifest(self._arguments.model, self.model.manifest)
            # The GPU is idle while torch and the others are imported.
            idle = IdlePower() if settings["device"] == "cuda" else None
            from peft_tradeoffs.training.run import bring_together, prepare_process

            threads = self._arguments.threads
            waiting = waiting or contextlib.nullcontext()
            if self.rank is None:
                self._device = prepare_process(settings, threads, idle, waiting)
            else:
                at_most_s = self._arguments.rank_timeout
                self._device, self._world = bring_together(self.rank, settings, threads, at_most_s, idle, waiting)
        return self._device

    def dismiss(self) -> None:
        """Let the other processes of runs on several GPUs go: there is no further run."""
        if self._world is not None:
            from peft_tradeoffs.training.parallel import leave

            self._world.dismiss()
            leave(self._world)

    def _train(self, run: Run, directory: RunDirectory) -> None:
        with directory.attempts.under_way():
            device = self.device(run.settings, directory.attempts.waiting())
            from peft_tradeoffs.training.summary import Bench

            bench = Bench(
                device,
                threads=self._arguments.threads,
                keep_weights=bool(self._arguments.keep_weights),
                startup_s=self._startup_s(device),
                compiled_before=self._compiled,
            )
            bench.originals, bench.probed = self._originals, run.probed
            bench.world = self._world or bench.world
            self._compiled |= self._do(self.plan(run.seed, run.settings), bench, directory)
        self._interruption.release()  # between two runs; before the state of finished ones goes, which mends a summary
        if self._world is not None and self._world.broken:
            sys.exit(ANEW)

    def _do(self, plan: Plan, bench: "Bench", directory: RunDirectory) -> bool:
        """Publish in `directory` what a plan gives; whether torch.compile made something."""
        from peft_tradeoffs.training.run import run

        return run(plan, bench, directory)

    def _score(self, directory: RunDirectory) -> None:
        """Have a finished run's answers scored, unless they are as they would be now."""
        if not directory.finished():  # removed meanwhile, and not to be put back: `train` says so
            return
        summary = files.read_json(directory.path / "summary.json")
        if summary["max_new_tokens"] is None or summary["status"] != "completed" or not summary["pretrained"]:
            return
        scoring: Scoring | None = self._arguments.scoring
        if scoring is None:
            raise InputError("--scoring: this run's answers are to be scored, and it says with what; give it")
        found = {"data_sha256": self.tokens.get("data_sha256"), "begins": self.tokens.get(BEGINS, "")}
        scoring = dataclasses.replace(scoring, **found)
        if summary["scored_as"] == scoring.digest and directory.has(files.SCORES, summary):
            return
        with self.apart():
            amended = scored(directory.path, summary, scoring, self.tokens.get("dev", "test"), self._interruption)
            directory.amend(*amended)

    def _startup_s(self, device: "Device") -> float | None:
        """Seconds from the start of the process to its first run; None for the runs after it.

        Without those in which it waited for a GPU or for another writer of its runs, or did what belongs to no run.
        """
        from peft_tradeoffs.measure.devices import process_age_s

        first, self._began = not self._began, True
        return max(0.0, process_age_s() - device.waited_s - self._apart_s) if first else None

    def _directory(self, run: Run) -> RunDirectory:
        fingerprint = self.plan(run.seed, run.settings).fingerprint
        interval_s = self._arguments.checkpoint_interval
        return RunDirectory(run.folder, fingerprint, interval_s, self._interruption, self._queued)


class Untrained(Job):
    """Has a model answer as it is fetched, where a `Job` trains: resumed, sealed and scored as runs are."""

    script = SCRIPTS / "answer_untrained.py"

    def _do(self, plan: Plan, bench: "Bench", directory: RunDirectory) -> bool:
        from peft_tradeoffs.training.run import answer_untrained

        return answer_untrained(plan, bench, directory)

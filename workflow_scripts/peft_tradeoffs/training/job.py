"""Runs trained one after another in one process. Cheap to import."""

import argparse
import contextlib
import copy
import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_tradeoffs.core import code, files, slurm
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import SCRIPTS
from peft_tradeoffs.inputs.model_files import check_manifest
from peft_tradeoffs.inputs.tokens import BEGINS, check_tokens, read_description
from peft_tradeoffs.measure.machine import IdlePower, versions
from peft_tradeoffs.runs.interruption import Interruption
from peft_tradeoffs.runs.settings import ModelFolder, Plan
from peft_tradeoffs.training.scoring import Scoring, scored
from peft_tradeoffs.training.state import RunDirectory

if TYPE_CHECKING:
    from peft_tradeoffs.measure.devices import Device
    from peft_tradeoffs.training.summary import Bench


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
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--checkpoint-interval", type=float, default=60.0, help="seconds between saved states")
    parser.add_argument(
        "--keep-weights",
        type=int,
        choices=(0, 1),
        default=1,
        help="0: save no weights, and take finished runs whose weights are gone as they are",
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
def process(arguments: argparse.Namespace, kind: "type[Job] | None" = None) -> Iterator["Job"]:
    """A `Job`, or another `kind` of it, from the options of `add_training`; exit status 75 if a signal ends it."""
    interruption = Interruption()
    with interruption.answered(), contextlib.ExitStack() as locks:
        yield (kind or Job)(arguments, interruption, locks)


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
        self._device: Device | None = None  # until the first run that is missing
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
            from peft_tradeoffs.training.run import prepare_process

            threads = self._arguments.threads
            self._device = prepare_process(settings, threads, idle, waiting or contextlib.nullcontext())
        return self._device

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
            self._compiled |= self._do(self.plan(run.seed, run.settings), bench, directory)
        self._interruption.release()  # between two runs; before the state of finished ones goes, which mends a summary

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

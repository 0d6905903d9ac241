"""Searches: the learning rate of trials, and the largest batch whose peak memory stays under a cap. Cheap to import."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peft_tradeoffs.core import code, files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import SCRIPTS, VALIDATION
from peft_tradeoffs.core.quantities import CAP, LARGEST, ROWS
from peft_tradeoffs.inputs.tokens import read_dev_groups
from peft_tradeoffs.runs.plan import (
    Gap,
    Plan,
    Trial,
    best_trial,
    beyond,
    chosen,
    eligible,
    failed_again,
    gap,
    gap_columns,
    trial_folder,
)
from peft_tradeoffs.tasks.metrics import METRICS
from peft_tradeoffs.tasks.task import TASKS
from peft_tradeoffs.training.job import Job, Run

if TYPE_CHECKING:
    from peft_tradeoffs.measure.devices import Device, Phases
    from peft_tradeoffs.training.run import Arm

Read = Callable[[Path], dict[str, Any]]  # the summary of a finished run
GIB = 1024.0  # MiB
STEP = 8  # rows computed at once are multiples of it from 8 on


BUDGET = ("epochs", "max_steps", "batch_size")  # of trials, for whoever reads them
# What is kept of a trial, whose `test` split is the dev split.
OF_TRIAL = (
    *("learning_rate", "status", "failed_phase", "diverged_step", "steps", "train_s", "energy_J"),
    *("pretrained", "device_name"),
)
NO_PEAK = ("learning_rate", "batch_size", "save_weights")  # settings that a peak at a given size does not depend on


@dataclass(frozen=True)
class Grid:
    """Learning rates to try."""

    rates: list[float]  # ascending
    extensions: int  # added beyond an edge at most
    seed: int  # of every trial
    folder: Path  # gets one folder lr{RATE} per trial
    again: list[Path]  # tokens of the dev splits on which tied rates are tried again, once each

    def run(self, settings: dict[str, Any], rate: float) -> Run:
        """The trial of a rate."""
        return self.retry(settings, rate, 0)

    def retry(self, settings: dict[str, Any], rate: float, number: int) -> Run:
        """The trial of a rate that is tied, on the dev split `number` of `again`, from 1; 0 is the first trial."""
        folder = trial_folder(self.folder, rate, number)
        return Run(folder, self.seed + number, settings | {"learning_rate": rate}, probed=False)


def tune(job: Job, settings: dict[str, Any], grid: Grid, read: Read) -> dict[str, Any]:
    """Train one trial per rate, and rates beyond the edge as long as the best one is on it; the best, and all trials.

    Rates that cannot be told from the best one (`runs.plan`), and that one, are tried again, each time with a seed
    and, where it is carved, a dev split of its own; the best mean decides among them. If that one is at an edge, the
    grid is extended there too. A trial of an earlier grid that still stands is listed too, but never chosen. `read`
    gives a trial's summary.
    """
    job.train([grid.run(settings, rate) for rate in grid.rates])
    trials = [_trial(read, grid.run(settings, rate), False) for rate in grid.rates]
    tried = _Tried(job, settings, grid)
    retries: list[Trial] = []
    while True:
        found = chosen(trials, retries)
        if (further := _further(grid, trials, found)) is not None:
            job = job.on(tried.tokens)
            job.train([grid.run(settings, further)])
            trials.append(_trial(read, grid.run(settings, further), True))
            continue
        if not grid.again or not (rates := _to_retry(tried, trials, retries)):
            break
        for number, tokens in enumerate(grid.again, 1):
            job = job.on(tokens)
            runs = [grid.retry(settings, rate, number) for rate in rates]
            job.train(runs)
            retries += [{**_trial(read, run, False), "retry": number} for run in runs]
    job = job.on(tried.tokens)
    earlier = _earlier(job, settings, grid, {trial["learning_rate"] for trial in trials}, read)
    gaps = {}
    if found["reason"] is None:
        taken = next(trial for trial in trials if trial["learning_rate"] == found["learning_rate"])
        gaps = tried.gaps(taken, trials, retries)
    return {
        **{key: settings[key] for key in ("dataset", "model", "arm", "method", "rank", "metric")},
        "positive_class": TASKS[job.tokens["task"]].positive_class(job.tokens["labels"]),
        **found,
        "tied": sorted(rate for rate, one in gaps.items() if one.tied),
        "gaps": [gap_columns(rate, gaps[rate]) for rate in sorted(gaps)],
        "rates": grid.rates,
        "extensions": grid.extensions,
        "retry": len(grid.again),
        "seed": grid.seed,
        **{key: settings[key] for key in BUDGET},
        "train_rows": job.tokens["rows"]["train"],
        "dev_rows": job.tokens["rows"]["test"],
        "dev": job.tokens["dev"],
        "data_sha256": job.tokens["sha256"],
        "code_sha256": job.conditions["code_sha256"],
        "versions": job.conditions["versions"],
        "trials": sorted(trials, key=lambda trial: trial["learning_rate"]),
        "retries": retries,
        "earlier": earlier,
    }


def _further(grid: Grid, trials: list[Trial], found: dict[str, Any]) -> float | None:
    """The rate beyond the edge that the chosen one is on, while rates may be added."""
    if found["reason"] is not None or sum(trial["added"] for trial in trials) >= grid.extensions:
        return None
    return beyond(trials, found["learning_rate"])


def _to_retry(tried: "_Tried", trials: list[Trial], retries: list[Trial]) -> list[float]:
    """Rates, ascending, that are to be tried again: those tied with the best of the first trials, and that one."""
    best = best_trial(trials)
    if best is None:
        return []
    tied = [rate for rate, found in tried.gaps(best, trials, []).items() if found.tied]
    made = {trial["learning_rate"] for trial in retries}
    return sorted({*tied, best["learning_rate"]} - made) if tied else []


class _Tried:
    """What the dev predictions of an arm's trials say."""

    def __init__(self, job: Job, settings: dict[str, Any], grid: Grid) -> None:
        self.tokens = job.tokens_path  # of the first trials
        self._metric, self._task = METRICS[settings["metric"]], TASKS[job.tokens["task"]]
        self._settings, self._grid, self._same_rows = settings, grid, job.tokens["dev"] == VALIDATION
        self._read: dict[Path, np.ndarray] = {}

    def gaps(self, best: Trial, trials: list[Trial], retries: list[Trial]) -> dict[float, Gap]:
        """By rate, ascending: how far the others with a metric lie below `best`, over the trials that both have."""
        own, failed = self._of_rate(best["learning_rate"], trials, retries), failed_again(retries)
        found = {}
        for rate in sorted(trial["learning_rate"] for trial in eligible(trials)):
            others = self._of_rate(rate, trials, retries)
            shared = [number for number in own if number in others]
            if rate == best["learning_rate"] or not shared or rate in failed:
                continue
            gain = self._metric.gain
            values = [(gain(own[number]["value"]), gain(others[number]["value"])) for number in shared]
            parts = [(self._parts(best["learning_rate"], number), self._parts(rate, number)) for number in shared]
            found[rate] = gap(values, parts, self._metric.share, self._same_rows)
        return found

    @staticmethod
    def _of_rate(rate: float, trials: list[Trial], retries: list[Trial]) -> dict[int, Trial]:
        """The trials of a rate that have a metric, by the number of the retry; 0 is the first one."""
        made = [trial for trial in (*trials, *retries) if trial["learning_rate"] == rate]
        return {trial.get("retry", 0): trial for trial in eligible(made)}

    def _parts(self, rate: float, number: int) -> np.ndarray:
        """What each dev row adds to the metric of a trial, [n]."""
        grid, settings = self._grid, self._settings
        folder = grid.retry(settings, rate, number).folder
        if folder not in self._read:
            path = folder / files.PREDICTIONS
            table = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
            with path.open(encoding="utf-8") as file:
                columns = dict(zip(file.readline().strip().split(","), table.T, strict=True))
            groups = read_dev_groups(grid.again[number - 1] if number else self.tokens)
            parts = self._metric.contributions(self._task.read(path, columns, len(table)), groups)
            self._read[folder] = self._metric.gain(parts)
        return self._read[folder]


def _earlier(job: Job, settings: dict[str, Any], grid: Grid, rates: set[float], read: Read) -> list[Trial]:
    """Finished trials of other rates that are of the same seed, settings, data, model, code and versions."""
    found = []
    folders = [grid.run(settings, rate).folder for rate in rates]
    for summary in grid.folder.glob("lr*/summary.json"):
        if summary.parent in folders:
            continue
        try:
            trial = read(summary)
        except InputError as error:
            print(f"warning: an earlier trial is left out: {error}", file=sys.stderr, flush=True)
            continue
        same = job.plan(grid.seed, settings | {"learning_rate": trial["learning_rate"]})
        if trial["fingerprint"] == same.fingerprint:
            rate = trial["learning_rate"]
            found.append(_trial(read, grid.run(settings, rate), False))
    return sorted(found, key=lambda trial: trial["learning_rate"])


def _trial(read: Read, run: Run, added: bool) -> Trial:
    """What is kept of a trial."""
    summary = read(run.folder / "summary.json")
    if summary["status"] == "completed":
        files.check_files(run.folder, summary, [files.PREDICTIONS])
    kept = {key: summary[key] for key in OF_TRIAL}
    if not METRICS[summary["metric"]].higher_is_better:
        kept["lower_is_better"] = True
    return {**kept, "seed": run.seed, "added": added, "value": summary["metric_value"], "loss": summary["test_loss"]}


@dataclass(frozen=True)
class Caps:
    """Caps on peak memory, and how an arm is trained under them."""

    GiB: list[float]
    largest: int  # batch size that the search ends at
    rule: str  # of the learning rate: see `scaled_rate`
    seeds: list[int]
    folder: Path  # gets one folder batch{N}/seed{N} per run


def train_at_equal_memory(job: Job, settings: dict[str, Any], caps: Caps, read: Read) -> dict[str, Any]:
    """Train an arm at the largest batch under each cap: what the search found, and the summaries that `read` gives.

    Epochs stay the same, so that every arm sees the same texts equally often. Caps that come to the same batch share
    its runs, whose weights are not kept.
    """
    rows = job.tokens["rows"]["train"]
    sizes = candidates(caps.largest, rows, settings["gradient_accumulation_steps"])
    fits, tried = _search(job, settings, caps, sizes)
    summaries: dict[int | None, list[dict[str, Any]]] = {}
    for size in dict.fromkeys(fit.batch_size for fit in fits if fit.batch_size is not None):
        rate = scaled_rate(settings["learning_rate"], size / settings["batch_size"], caps.rule)
        own = settings | {"batch_size": size, "learning_rate": rate, "save_weights": False}
        runs = [Run(caps.folder / f"batch{size}/seed{seed}", seed, own) for seed in caps.seeds]
        job.train(runs)
        summaries[size] = [read(run.folder / "summary.json") for run in runs]
    keys = ("dataset", "model", "arm", "method", "rank", "metric", "device", "max_steps", "gradient_accumulation_steps")
    return {
        **{key: settings[key] for key in keys},
        "positive_class": TASKS[job.tokens["task"]].positive_class(job.tokens["labels"]),
        "base_batch_size": settings["batch_size"],
        "rule": caps.rule,
        "largest": caps.largest,
        "train_rows": rows,
        "tried": tried,
        "caps": [
            {
                **dataclasses.asdict(fit),
                "ended_at": ended_at(fit, caps.largest, rows),
                "summaries": summaries.get(fit.batch_size, []),
            }
            for fit in fits
        ],
    }


def _search(
    job: Job, settings: dict[str, Any], caps: Caps, sizes: list[int]
) -> tuple[list["Fit"], list[dict[str, Any]]]:
    """The fits of all caps, and every peak that is known."""
    device = job.device(settings)
    from peft_tradeoffs.measure.machine import device_name

    seed = caps.seeds[0]
    conditions = {
        **job.conditions,
        "code_sha256": code.fingerprint(SCRIPTS / "train_at_equal_memory.py"),  # of the search too
        "device_name": device_name(settings["device"]),
        "seed": seed,
        "settings": {key: value for key, value in settings.items() if key not in NO_PEAK},
    }
    with job.apart():
        peaks = KeptPeaks(caps.folder / "search.json", conditions, ProbePeaks(job.plan(seed, settings), device))
        caps_MiB = [cap * GIB for cap in sorted(caps.GiB)]
        return largest_batches(peaks, caps_MiB, sizes, settings["batch_size"]), peaks.known()


@dataclass(frozen=True)
class Fit:
    """The largest batch under a cap: its size and peak (MiB), None where the smallest does not fit."""

    cap_MiB: float
    batch_size: int | None
    peak_MiB: float | None
    next_size: int | None  # the next larger one that was tried; None: none is larger
    next_peak_MiB: float | None  # None: out of memory


class KeptPeaks:
    """Peaks by batch size (MiB, None where memory ran out), each kept in a file as soon as it is measured."""

    def __init__(self, path: Path, conditions: dict[str, Any], measure: Callable[[int], float | None]) -> None:
        """`conditions` are all that decides a peak beside the size: under others the file at `path` says nothing."""
        self._path, self._fingerprint, self._measure = path, code.digest(conditions), measure
        self._known: dict[int, float | None] = {peak["batch_size"]: peak["peak_MiB"] for peak in self._kept()}

    def __call__(self, size: int) -> float | None:
        """The peak at a batch size, measured if it is not known."""
        if size not in self._known:
            self._known[size] = self._measure(size)
            files.write_json(self._path, files.signed({"fingerprint": self._fingerprint, "peaks": self.known()}))
        return self._known[size]

    def _kept(self) -> list[dict[str, Any]]:
        """What the file holds of these conditions; a damaged one is reported, and all is measured again."""
        try:
            kept = files.read_signed(self._path)
        except FileNotFoundError:
            return []
        except InputError as error:
            print(f"{error}; its peaks are measured again", file=sys.stderr, flush=True)
            return []
        peaks: list[dict[str, Any]] = kept["peaks"]
        return peaks if kept["fingerprint"] == self._fingerprint else []

    def known(self) -> list[dict[str, Any]]:
        """All of them, ascending by size: batch_size, peak_MiB."""
        return [{"batch_size": size, "peak_MiB": self._known[size]} for size in sorted(self._known)]


class ProbePeaks:
    """The peak that a run's summary would have for the probe, on this device, by batch size."""

    def __init__(self, plan: Plan, device: "Device") -> None:
        from peft_tradeoffs.inputs.tokens import load_tokens
        from peft_tradeoffs.training.run import Tokens

        self._plan, self._device = plan, device
        self._tokens = Tokens(*load_tokens(plan.tokens))

    def __call__(self, batch_size: int) -> float | None:
        """MiB: of CUDA's allocator, or on a CPU of the resident set; None where memory ran out."""
        import torch

        from peft_tradeoffs.measure.devices import Phases, free_memory, refused_bytes

        phases = Phases(self._device.torch)
        try:
            self._probe(batch_size, phases)
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not refused_bytes(error)[0]:
                raise
            return None
        finally:
            phases.switch(None)
            free_memory(self._device.torch)
        return phases.peaks["probe_peak_allocated_MiB" if self._device.torch.type == "cuda" else "probe_peak_rss_MiB"]

    @functools.cached_property
    def _arm(self) -> "Arm":
        from peft_tradeoffs.training.run import Arm

        return Arm.of(self._plan, self._tokens, self._device.torch)

    def _probe(self, batch_size: int, phases: "Phases") -> None:
        from peft_tradeoffs.training.engine import probed

        settings = {**self._plan.settings, "batch_size": batch_size}
        plan, data = dataclasses.replace(self._plan, settings=settings), self._tokens.data(settings["task"])
        arm = self._arm
        try:
            probed(arm.subject(plan, data), self._device.torch, phases)
        finally:
            arm.built.model.zero_grad(set_to_none=True)


def candidates(largest: int, rows: int, parts: int = 1) -> list[int]:
    """Batch sizes to try, ascending: `parts` times 1, 2, 4 and multiples of 8, up to `largest` and the training rows.

    Raises InputError where there is none.
    """
    most = min(largest, rows) // parts
    sizes = [parts * rows_at_once for rows_at_once in (1, 2, 4, *range(STEP, most + 1, STEP)) if rows_at_once <= most]
    if not sizes and rows < parts:
        raise InputError(f"{rows} training rows make no batch of {parts} parts; lower gradient_accumulation_steps")
    if not sizes:
        raise InputError(
            f"config key equal_memory.largest_batch_size: {largest} rows do not divide into the {parts} parts of "
            "training.gradient_accumulation_steps; raise it, or lower those"
        )
    return sizes


def ended_at(fit: Fit, largest: int, rows: int) -> str:
    """What kept the search from a larger batch: CAP, or the end of the sizes to try, which LARGEST or ROWS sets."""
    if fit.next_size is not None:
        return CAP
    return ROWS if rows < largest else LARGEST


def largest_batches(
    peak_MiB: Callable[[int], float | None], caps_MiB: Iterable[float], sizes: list[int], start: int
) -> list[Fit]:
    """The largest of `sizes` under each cap.

    `peak_MiB` measures a batch size, None where memory ran out; it is taken to grow with the size, and asked once per
    size. From the size nearest `start` the search doubles until one does not fit, then bisects: it ends after
    2 log2(n) measurements per cap at most.
    """
    known: dict[int | None, float | None] = {}

    def fits(place: int, cap: float) -> bool:
        size = sizes[place]
        if size not in known:
            known[size] = peak_MiB(size)
        peak = known[size]
        return peak is not None and peak <= cap

    return [_largest(fits, cap, sizes, start, known) for cap in caps_MiB]


def _largest(
    fits: Callable[[int, float], bool], cap: float, sizes: list[int], start: int, known: dict[int | None, float | None]
) -> Fit:
    low, high = -1, len(sizes)  # what fits, what does not
    place = max((i for i, size in enumerate(sizes) if size <= start), default=0)
    while low < place < high:
        if fits(place, cap):
            low, larger = place, 2 * sizes[place]
            place = max((i for i, size in enumerate(sizes) if size <= larger), default=place)
        else:
            high = place
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle, cap):
            low = middle
        else:
            high = middle
    size, beyond = (sizes[place] if 0 <= place < len(sizes) else None for place in (low, high))
    return Fit(cap, size, known.get(size), beyond, known.get(beyond))


def scaled_rate(learning_rate: float, factor: float, rule: str) -> float:
    """The learning rate for a batch `factor` times as large, by a rule of `equal_memory.learning_rate_rule`.

    sqrt: Malladi et al., On the SDEs and Scaling Rules for Adaptive Gradient Algorithms, NeurIPS 2022.
    """
    factors: dict[str, float] = {"sqrt": factor**0.5, "linear": factor, "constant": 1.0}
    return learning_rate * factors[rule]

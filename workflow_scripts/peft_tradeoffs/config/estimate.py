"""What a sweep will take, before anything is trained: trainings, memory, time, disk, energy, money; what it can show.

Trainings are counted of the configuration alone. The rest needs the models and tokens that are there already: memory is
taken from shapes, seconds from some real steps of each arm where the device is. What is not known is a `Missing` that
says why, and never 0.
"""

import contextlib
import dataclasses
import heapq
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_tradeoffs.config.experiment import Arm, Experiment
from peft_tradeoffs.config.model import EqualMemory
from peft_tradeoffs.core import code
from peft_tradeoffs.core.errors import InputError, error_text
from peft_tradeoffs.core.files import read_signed, size
from peft_tradeoffs.core.layout import SCRIPTS, VALIDATION, command
from peft_tradeoffs.core.quantities import Missing, Span, between
from peft_tradeoffs.measure import machine
from peft_tradeoffs.runs.plan import Counts, Finished, Left, Made, ModelFolder, Plan, Standing

if TYPE_CHECKING:
    from peft_tradeoffs.measure.devices import Device
    from peft_tradeoffs.training.forecast import Batch, Need, Timed, Work
    from peft_tradeoffs.training.run import Tokens

GIB = 2**10  # MiB
BUDGET_S = 300.0  # for the memory of all arms, and again for their steps: beyond it ranks are interpolated
PREDICTION_B = 40  # bytes of a row in a predictions file
ANSWER_B = 6  # bytes of a token in an answers file
ANSWER = "answer_untrained.py"
NOTHING_LEFT = "nothing is left to run"
SHARDED = "its model is sharded over several GPUs, of which an estimate has one"
STATE = 7  # times the trained weights: what `run` wants free for its state, weights and moments written twice


# Trainings ------------------------------------------------------------------------------------------------------------


def counted(experiment: Experiment, dataset: str, model: str, arm: str) -> Counts:
    """The trainings that the configuration asks for, and how many of them are finished."""
    tune, place = experiment.tune, f"{dataset}/{model}/{arm}"
    standing = Standing(experiment, dataset, model, arm)
    rates = experiment.trials.get(arm, [])
    added = standing.extensions
    noise = experiment.noise
    repeats = noise.repeats if noise and arm in (noise.arms or []) else 0
    again = [f"noise/repeat{n}/{place}/seed{noise.seed}" for n in range(1, 1 + repeats) if noise]
    at_caps, at_caps_done = _at_caps(experiment, standing, place)
    tried, trials_left = standing.trials()
    done, runs_left = standing.runs([f"runs/{place}/seed{seed}" for seed in experiment.seeds])
    repeated, repeats_left = standing.runs(again)
    at_caps_left = Span(0, at_caps - at_caps_done if standing.rate_is_settled else at_caps)
    return Counts(
        trials=len(rates),
        again=(len(rates) + added) * tune.retry if rates else 0,
        added=added,
        runs=len(experiment.seeds),
        repeats=repeats,
        at_caps=at_caps,
        finished=Finished(tried, done, repeated, at_caps_done),
        left=Left(trials_left, runs_left, repeats_left, at_caps_left),
        settled=standing.tuned is not None,
    )


def _at_caps(experiment: Experiment, standing: Standing, place: str) -> tuple[int, int]:
    """Runs of an arm at equal memory: how many there are at most, and how many are finished."""
    memory, out = experiment.equal_memory, Path(experiment.output)
    if not memory or place.rpartition("/")[2] not in (memory.arms or []):
        return 0, 0
    from peft_tradeoffs.training.search import scaled_rate

    base, sizes = experiment.training.batch_size, _sizes_found(experiment, memory, place)
    known = sizes
    if known is None:
        names = (one.name.removeprefix("batch") for one in out.glob(f"equal_memory/runs/{place}/batch*"))
        known = [int(name) for name in names if name.isdecimal()]
    most, done = len(memory.caps_GiB if sizes is None else sizes) * len(experiment.seeds), 0
    for rows in known:
        rate = standing.rate and scaled_rate(standing.rate, rows / base, memory.learning_rate_rule)
        own = {"batch_size": rows, "learning_rate": rate, "save_weights": False}
        runs = (f"equal_memory/runs/{place}/batch{rows}/seed{seed}" for seed in experiment.seeds)
        done += sum(standing.run(run, **own) for run in runs)
    return most, min(most, done)


def _sizes_found(experiment: Experiment, memory: EqualMemory, place: str) -> list[int] | None:
    """The batch sizes that the search for an arm at equal memory ended in; None where it is to come, or to go on."""
    try:
        found = read_signed(Path(experiment.output, f"equal_memory/found/{place}.json"))
        asked = (memory.learning_rate_rule, memory.largest_batch_size, experiment.training.batch_size)
        same = asked == (found["rule"], found["largest"], found["base_batch_size"])
        same &= sorted(cap["cap_MiB"] for cap in found["caps"]) == [cap * GIB for cap in sorted(memory.caps_GiB)]
        return sorted({cap["batch_size"] for cap in found["caps"]} - {None}) if same else None
    except (InputError, OSError, KeyError, TypeError):
        return None


def untrained(experiment: Experiment) -> list[tuple[str, str]]:
    """Data sets and models whose untrained model answers too, in a job of its own each."""
    return [
        (dataset, model)
        for dataset, block in experiment.datasets.items()
        for model, one in experiment.models.items()
        if block.generate is not None and one.source != "random"
    ]


def answered(experiment: Experiment, dataset: str, model: str) -> bool:
    """Whether the answers of the untrained model are there, of these settings and this code."""
    made = Made(experiment.untrained_settings(dataset, model), code.fingerprint(SCRIPTS / ANSWER))
    return made.stands(Path(experiment.output, "untrained", dataset, model))


# What an arm takes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """Where the jobs run: the profile's limits, and whether that is this machine."""

    local: bool = True
    gpus: int | None = None  # the profile's resource gpu
    jobs: int | None = None
    cores: int = 1


@dataclass
class ArmEstimate:
    """What one arm on one data set with one model will take."""

    dataset: str
    model: str
    arm: Arm
    counts: Counts
    work: "Work | Missing"
    trial: "Work | None" = None
    need: "Need | Missing" = field(default_factory=lambda: Missing("not looked at"))
    timed: "Timed | Missing" = field(default_factory=lambda: Missing("not looked at"))
    between: bool = False  # its steps were not taken, but those of other ranks
    prompts_at_once: int = 1
    answer_tokens: int = 0  # at most
    on_cpu: bool = False

    @property
    def peak_MiB(self) -> float | None:
        """Memory that arms are compared by: on a GPU the probe's that ran here, else of shapes; on a CPU of sizes."""
        if self.timed and self.timed.peak_MiB is not None:
            return self.timed.peak_MiB
        if not self.need:
            return None
        return self.need.tensors_MiB if self.on_cpu else self.need.probe_peak_allocated_MiB

    @property
    def run_s(self) -> float | None:
        """Seconds of one run."""
        return self.timed.run_s(self.work, self.prompts_at_once) if self.timed and self.work else None

    @property
    def trial_s(self) -> float | None:
        """Seconds of one trial."""
        if not (self.timed and self.trial):
            return None
        return self.timed.run_s(self.trial, self.prompts_at_once, probed=False)

    def seconds(self) -> Span | None:
        """Of all that is still to run, but for the starts of jobs. A run at equal memory counts as any run."""
        left = self.counts.left
        if not left.all.most:
            return Span(0.0, 0.0)
        if self.run_s is None:
            return None
        return left.trials.times(self.trial_s or 0.0) + (left.runs + left.repeats + left.at_caps).times(self.run_s)


Tuning = tuple[str, str, str]  # data set, model and arm


@dataclass(frozen=True)
class _Job:
    """Seconds of a job, but for its start."""

    seconds: float
    gpus: int = 1
    after: Tuning | None = None  # whose rate it takes
    tunes: Tuning | None = None


@dataclass
class Estimate:
    """What all of it will take."""

    experiment: Experiment
    site: Site
    arms: list[ArmEstimate]
    start_s: float | Missing  # of a job
    device: str  # as readers are told of it
    device_MiB: float | None = None
    at_most: bool = False  # memory is that of texts of max_length
    took_s: float = 0.0

    @property
    def kind(self) -> str:
        """Of the device."""
        return "GPU" if self.experiment.training.device == "cuda" else "CPU"

    @property
    def trainings(self) -> Span:
        """Of all arms."""
        return sum((one.counts.trainings for one in self.arms), Span(0, 0))

    @property
    def left(self) -> Span:
        """Those of them that are still to run."""
        return sum((one.counts.left.all for one in self.arms), Span(0, 0))

    @property
    def unanswered(self) -> list[tuple[str, str]]:
        """Data sets and models whose untrained model is still to answer."""
        return [pair for pair in untrained(self.experiment) if not answered(self.experiment, *pair)]

    @property
    def nothing_left(self) -> bool:
        """Whether all that trains, or answers, has ended."""
        return not self.left.most and not self.unanswered

    def jobs(self) -> dict[str, int]:
        """How many jobs of each rule train, as a plan of all of it has them."""
        own, pairs = self.experiment, len({(one.dataset, one.model) for one in self.arms})
        memory = len(own.equal_memory.arms or []) if own.equal_memory else 0
        found = {
            "tune": pairs * len(own.trials),
            "train": pairs * len(own.arms) * (len(own.seeds) if own.seeds_per_job == 1 else 1),
            "repeat": sum(one.counts.repeats for one in self.arms),
            "train_at_equal_memory": pairs * memory,
            "answer_untrained": len(untrained(own)),
        }
        return {rule: count for rule, count in found.items() if count}

    def slots(self) -> int | None:
        """How many of these jobs run at once; None where that is not known."""
        limits, gpu = [self.site.jobs], self.kind == "GPU"
        if gpu and self.site.local and not machine.gpus_here():
            return None  # it is planned here, and run elsewhere
        limits.append(self.site.gpus if gpu else None)
        if self.site.local:
            limits.append(machine.gpus_here() if gpu else self.site.cores)
        known = [limit for limit in limits if limit]
        return min(known) if known else None

    def begun(self) -> int | None:
        """How many jobs have begun at once: here more than there are GPUs, where the profile lets them wait for one."""
        slots = self.slots()
        if slots is None or self.kind != "GPU" or not self.site.local:
            return slots
        return max(slots, min(limit for limit in (self.site.jobs, self.site.gpus, self.site.cores) if limit))

    def device_s(self) -> Span | None:
        """Seconds that all that is still to run takes, one job after another; each of its GPUs counts."""
        if not self._is_timed:
            return None
        start_s = float(self.start_s or 0.0)
        return Span(*(sum((start_s + job.seconds) * job.gpus for job in self._jobs(most)) for most in (False, True)))

    def wall_s(self) -> Span | None:
        """Seconds until the last job has ended, if as many run at once as `slots` and `begun` say."""
        slots, begun = self.slots(), self.begun()
        if slots is None or begun is None or not self._is_timed or self.widest > slots:
            return None
        return Span(*(self._last_end(slots, begun, most) for most in (False, True)))

    @property
    def widest(self) -> int:
        """GPUs of the runs that have most."""
        return max(one.arm.gpus for one in self.arms)

    @property
    def _is_timed(self) -> bool:
        return isinstance(self.start_s, float) and None not in [one.seconds() for one in self.arms]

    def _last_end(self, slots: int, begun: int, most: bool) -> float:
        """When the last job ends: jobs begin in the plan's order, a run's after the tuning of its rate.

        A job's start needs one of `begun` places per GPU, what comes after it as many of `slots` devices too.
        """
        start, free, devices = float(self.start_s or 0.0), [0.0] * max(begun, self.widest), [0.0] * slots
        ends: dict[Tuning, float] = {}
        for job in self._jobs(most):
            begins = max(
                *(heapq.heappop(free) for _ in range(job.gpus)), ends.get(job.after, 0.0) if job.after else 0.0
            )
            end = max(*(heapq.heappop(devices) for _ in range(job.gpus)), begins + start) + job.seconds
            for _ in range(job.gpus):
                heapq.heappush(free, end)
                heapq.heappush(devices, end)
            if job.tunes:
                ends[job.tunes] = end
        return max(free)

    def _jobs(self, most: bool) -> Iterator["_Job"]:
        """What is still to run, at least or at most, in the plan's order."""
        own = self.experiment
        by_name = {(one.dataset, one.model, one.arm.name): one for one in self.arms}

        def number(span: Span) -> int:
            return int(span.most if most else span.least)

        for pair in self.unanswered:
            yield _Job(self._answers_s(pair))
        for name, one in by_name.items():
            if count := number(one.counts.left.trials):
                yield _Job(count * (one.trial_s or 0.0), one.arm.gpus, tunes=name)
        for (dataset, model, _), one in by_name.items():
            after, run_s, gpus = (dataset, model, one.arm.tuned_as or ""), one.run_s or 0.0, one.arm.gpus
            left = one.counts.left
            runs, each = number(left.runs), own.seeds_per_job == 1
            for _ in range(runs if each else min(1, runs)):
                yield _Job(run_s * (1 if each else runs), gpus, after)
            for _ in range(number(left.repeats)):
                yield _Job(run_s, gpus, after)
            if at_caps := number(left.at_caps):
                yield _Job(run_s * at_caps, gpus, after)

    def _answers_s(self, pair: tuple[str, str]) -> float:
        """Seconds in which an untrained model answers, at the speed of the first arm that took steps."""
        first = next((one for one in self.arms if (one.dataset, one.model) == pair and one.timed), None)
        if first is None or not (first.timed and first.work):
            return 0.0
        once = dataclasses.replace(first.work, steps=0, shapes={}, evaluations=1, once=0)
        return first.timed.run_s(once, first.prompts_at_once, probed=False)

    def energy_J(self) -> float | None:
        """At the power that was measured while each arm took steps; at least."""
        arms = [one for one in self.arms if one.counts.left.all.most]
        watts = [one.timed.power_W if one.timed else None for one in arms]
        seconds = [one.seconds() for one in arms]
        if None in watts or None in seconds:
            return None
        taken = zip(arms, watts, seconds, strict=True)
        return sum(one.arm.gpus * power * span.least for one, power, span in taken if power and span)

    def disk_MiB(self) -> Span | None:
        """What stays: models, weights, predictions and answers; and with the states of as many jobs as run at once."""
        biggest = 0.0
        stays = size(Path(self.experiment.output, "models")) / 2**20
        for one in self.arms:
            if not one.need or not one.work:
                return None
            answers = one.work.prompts * one.answer_tokens * ANSWER_B / 2**20
            rows = one.work.predicted * PREDICTION_B / 2**20
            kept = one.need.gradients_MiB if self.experiment.keep_weights else 0.0
            stays += (one.counts.runs + one.counts.repeats) * (kept + rows + answers)
            stays += one.counts.trials_all.least * rows
            biggest = max(biggest, one.need.gradients_MiB * STATE)
        return Span(stays, stays + biggest * (self.slots() or 1))

    def too_large(self) -> list[str]:
        """Arms whose memory is above what the recommendation may take, or the device has: a sentence per limit."""
        limit_GiB = self.experiment.recommendation.memory_GiB
        limits = [(limit_GiB * GIB, f"recommendation.memory_GiB {limit_GiB:g}")] if limit_GiB else []
        if self.device_MiB is not None:
            limits.append((self.device_MiB, f"the {self.device_MiB / GIB:.0f} GiB of {self.device}"))
        found = []
        for limit, what in limits:
            large = [(one.arm.name, one.peak_MiB) for one in self.arms if one.peak_MiB and one.peak_MiB > limit]
            if large:
                found.append(f"Above {what}: {', '.join(f'{name} ({peak / GIB:.2f} GiB)' for name, peak in large)}")
        slots = self.slots() if self.kind == "GPU" else None
        if slots is not None and self.widest > slots:
            wide = ", ".join(f"{one.arm.name} ({one.arm.gpus})" for one in self.arms if one.arm.gpus > slots)
            found.append(f"More GPUs than the {slots} that jobs may have at once: {wide}")
        return found


# Looking --------------------------------------------------------------------------------------------------------------


def look(experiment: Experiment, site: Site, steps: bool = True, budget_s: float = BUDGET_S) -> Estimate:
    """Look at what is there; `steps`: take some real ones, where the device is. Where nothing is left, none are taken.

    `budget_s`: seconds that memory may take, and again steps; ranks between two others are interpolated beyond it.
    """
    began, arms = time.monotonic(), _arms(experiment)
    found = Estimate(experiment, site, arms, Missing(NOTHING_LEFT), "")
    if found.nothing_left:
        return found
    looker = _Looker(experiment, steps, budget_s)
    for pair in dict.fromkeys((one.dataset, one.model) for one in arms):
        looker.look_at([one for one in arms if (one.dataset, one.model) == pair])
    found = Estimate(experiment, site, arms, looker.start_s, looker.device_name, looker.device_MiB, looker.at_most)
    found.took_s = time.monotonic() - began
    return found


def _arms(experiment: Experiment) -> list[ArmEstimate]:
    """All arms, of which nothing was looked at but what is finished."""
    found = []
    for dataset, model in itertools.product(experiment.datasets, experiment.models):
        for name, arm in experiment.arms.items():
            one = ArmEstimate(dataset, model, arm, counted(experiment, dataset, model, name), Missing("not looked at"))
            generate = experiment.run_settings(dataset, model, name).generate or {}
            one.on_cpu = experiment.training.device == "cpu"
            one.prompts_at_once = generate.get("batch_size", 1)
            one.answer_tokens = generate.get("max_new_tokens", 0)
            found.append(one)
    return found


class _Looker:
    """Looks at one data set and model after another, on one device."""

    def __init__(self, experiment: Experiment, steps: bool, budget_s: float) -> None:
        self._experiment, self._budget_s = experiment, budget_s
        self._device: Device | Missing = Missing("no steps were asked for")
        self.start_s: float | Missing = Missing("no job was started")
        self.device_name, self.device_MiB, self.at_most = "", None, False
        if steps and experiment.training.device == "cuda" and not machine.gpus_here():
            self._device = Missing(
                "no GPU here; estimate in a job, with your cluster's profile and the same configuration"
            )
        elif steps:
            pairs = [(dataset, model) for dataset in experiment.datasets for model in experiment.models]
            found = [missing for pair in pairs if (missing := self._why_no_tokens(*pair))]
            self._device = Missing(found[0]) if len(found) == len(pairs) else self._opened()

    def look_at(self, arms: list[ArmEstimate]) -> None:
        """Look at the arms of a data set with a model."""
        dataset, model = arms[0].dataset, arms[0].model
        settings = {one.arm.name: self._experiment.run_settings(dataset, model, one.arm.name).to_dict() for one in arms}
        splits = self._tokens(dataset, model)
        if isinstance(splits, Missing):
            for one in arms:
                one.work = splits
        self._plan_work(arms, settings, splits)
        self._memory(arms, settings, splits, model)
        self._time(arms, settings, splits)

    def _why_no_tokens(self, dataset: str, model: str) -> str | None:
        """What is to be done first; None where the pair is tokenised."""
        out = Path(self._experiment.output)
        if not (out / "models" / f"{model}.json").exists():
            return f"model {model} is not fetched yet; {fetch_first()}"
        if (out / "tokens" / dataset / f"{model}.npz").exists():
            return None
        there = (out / "data" / dataset / "dataset.json").exists()
        return f"data set {dataset} is not {'tokenised' if there else 'fetched'} yet; {fetch_first()}"

    def _tokens(self, dataset: str, model: str) -> "Tokens | Missing":
        if why := self._why_no_tokens(dataset, model):
            return Missing(why)
        from peft_tradeoffs.inputs.tokens import load_tokens
        from peft_tradeoffs.training.run import Tokens

        return Tokens(*load_tokens(Path(self._experiment.output, "tokens", dataset, f"{model}.npz")))

    def _plan_work(self, arms: list[ArmEstimate], settings: dict[str, Any], splits: "Tokens | Missing") -> None:
        if isinstance(splits, Missing):
            return
        from peft_tradeoffs.training import forecast

        own, tune = self._experiment, self._experiment.tune
        whole = forecast.work(splits.splits, settings[arms[0].arm.name], own.seeds[0])
        dev_name = VALIDATION if VALIDATION in splits.splits else "train"
        dev = forecast.padded_tokens(splits.splits[dev_name], own.training.evaluation_batch_size)
        share = 1.0 if dev_name == VALIDATION else 1 - tune.fraction
        for one in arms:
            trial = own.trial_settings(one.dataset, one.model, one.arm.name)
            one.work = whole.share(one.arm.gpus)
            asks = trial.generate is not None and whole.prompts
            dev_rows = len(splits.splits[dev_name]) * (1.0 if dev_name == VALIDATION else tune.fraction)
            read = round(dev * (1.0 if dev_name == VALIDATION else tune.fraction))
            made = whole.of_trial(share, trial.epochs, trial.max_steps, read, trial.batch_size)
            made = dataclasses.replace(made, prompts=round(dev_rows) if asks else 0)
            one.trial = made.share(one.arm.gpus)

    # memory

    def _memory(self, arms: list[ArmEstimate], settings: dict[str, Any], splits: Any, model: str) -> None:
        from peft_tradeoffs.training import forecast
        from peft_tradeoffs.training.methods import Outputs, Recipe

        training = self._experiment.training
        if isinstance(splits, Missing):
            outputs = Outputs(2, 0, None)
            self.at_most = True
        else:
            outputs = Outputs.of(splits.description)

        block, fetched = self._experiment.models[model].to_dict(), Path(self._experiment.output, "models", model)
        with tempfile.TemporaryDirectory() as scratch:
            if block["source"] == "random":
                from peft_tradeoffs.inputs import models

                models._config(block["config"]).save_pretrained(scratch)  # noqa: SLF001  (a new name would fetch anew)
            folder = forecast.config_folder(block, fetched, Path(scratch))

            def need(one: ArmEstimate) -> "Need | Missing":
                if settings[one.arm.name]["parallel"] == "sharded":
                    return Missing(SHARDED)
                if folder is None:
                    return Missing(f"model {model} is not fetched yet; {fetch_first()}")
                built = forecast.build(folder, Recipe.of(settings[one.arm.name]), outputs, training.precision)
                batch = one.work.largest if one.work else self._largest(one)
                return forecast.needed(built, batch, training.precision, training.optimizer)

            _along_ranks(arms, need, "need", self._budget_s)

    def _largest(self, one: ArmEstimate) -> "Batch":
        from peft_tradeoffs.tasks.task import TASKS
        from peft_tradeoffs.training.forecast import Batch

        training = self._experiment.training
        length = -(-training.max_length // 8) * 8
        learns = TASKS[self._experiment.datasets[one.dataset].task].reader is not None
        shape = (-(-training.batch_size // one.arm.gpus), length, *[length] * learns)
        return Batch(shape, training.gradient_accumulation_steps)

    # time

    def _time(self, arms: list[ArmEstimate], settings: dict[str, Any], splits: "Tokens | Missing") -> None:
        device = self._device
        if isinstance(device, Missing) or isinstance(splits, Missing):
            for one in arms:
                one.timed = device if isinstance(device, Missing) else Missing(getattr(splits, "reason", ""))
            return
        from peft_tradeoffs.training import forecast

        out, first = Path(self._experiment.output), arms[0]
        folder = ModelFolder.of(out / "models" / first.model)
        tokens = out / "tokens" / first.dataset / f"{first.model}.npz"

        def timed(one: ArmEstimate) -> "Timed | Missing":
            own = settings[one.arm.name]
            if own["parallel"] == "sharded":
                return Missing(SHARDED)
            if one.arm.gpus > 1:  # one GPU takes its share
                own = own | {"batch_size": -(-own["batch_size"] // one.arm.gpus), "gpus": 1, "parallel": None}
            plan = Plan(own, self._experiment.seeds[0], tokens, folder, {})
            return one.work if isinstance(one.work, Missing) else forecast.timed(plan, splits, device, one.work)

        pending = [one for one in arms if one.counts.left.all.most]
        for one in arms:
            one.timed = Missing(NOTHING_LEFT)
        _along_ranks(pending or arms[:1], timed, "timed", self._budget_s)  # one says how long answers take

    def _opened(self) -> "Device":
        """The device, taken before anything else is imported, as a run's job does."""
        arms = self._experiment.arms
        first = max(arms, key=lambda name: bool(arms[name].peft) + bool(arms[name].quantization))  # it imports most
        dataset, model = next(iter(self._experiment.datasets)), next(iter(self._experiment.models))
        settings = self._experiment.run_settings(dataset, model, first).to_dict()
        began = time.monotonic()
        from peft_tradeoffs.training.run import prepare_process

        device = prepare_process(settings, 1, None, contextlib.nullcontext())
        self.start_s = time.monotonic() - began + START_S
        self.device_name = machine.device_name(settings["device"])
        if device.gpu:
            self.device_MiB = device.gpu.facts().get("memory_MiB")
        return device


START_S = 1.0  # of Python itself, before what a training job imports


def _along_ranks(arms: list[ArmEstimate], look: Callable[[ArmEstimate], Any], name: str, budget_s: float) -> None:
    """Give each arm what `look` finds: of each method the smallest and the largest rank first, then those between.

    Once that has taken `budget_s`, what lies between is interpolated. Memory that did not suffice and what a user did
    wrong are the arm's `Missing`.
    """
    began = time.monotonic()
    by_method: dict[str, list[ArmEstimate]] = {}
    for one in arms:
        by_method.setdefault(one.arm.method, []).append(one)
    ordered = {method: sorted(own, key=lambda one: one.arm.rank or 0) for method, own in by_method.items()}
    ends = [one for own in ordered.values() for one in (own[:1] + own[1:][-1:])]
    for one in ends + [one for one in arms if one not in ends]:
        spent, same = time.monotonic() - began, ordered[one.arm.method]
        if one in ends or spent < budget_s:
            setattr(one, name, _or_why(look, one))
        else:
            setattr(one, name, between(getattr(same[0], name), getattr(same[-1], name), _share(same, one)))
            one.between = True


def _share(same: list[ArmEstimate], one: ArmEstimate) -> float:
    low, rank, high = (each.arm.rank or 0 for each in (same[0], one, same[-1]))
    return (rank - low) / max(1, high - low)


def _or_why(look: Callable[[ArmEstimate], Any], one: ArmEstimate) -> Any:
    import torch

    from peft_tradeoffs.measure.devices import free_memory, refused_bytes

    try:
        return look(one)
    except InputError as error:
        return Missing(str(error))
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if not refused_bytes(error)[0]:
            return Missing(f"it could not be looked at: {error_text(error)}")
        return Missing("it does not fit: memory ran out while it was tried here")
    finally:
        free_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def fetch_first() -> str:
    return f"run `{command('fetch')}` first"

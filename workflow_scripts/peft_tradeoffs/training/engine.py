"""Trains and evaluates a model step by step, and what a resume needs of it. Knows no method by name."""

import dataclasses
import enum
import functools
import gc
import math
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from peft_tradeoffs.measure.devices import (
    FORGETTING,
    MASK,
    PREPARE,
    STATE,
    Phases,
    StepTimer,
    free_memory,
    refused_bytes,
)
from peft_tradeoffs.runs.interruption import Interrupted
from peft_tradeoffs.tasks.metrics import METRICS
from peft_tradeoffs.tasks.task import TASKS
from peft_tradeoffs.training.batches import (
    MASKS,
    Mask,
    ResidentSplit,
    Shape,
    Sizes,
    choose_kernels,
    choose_mask,
    epoch_batches,
    evaluation_batches,
    padded_length,
)
from peft_tradeoffs.training.parallel import World, merged
from peft_tradeoffs.training.step import (
    CapturedSteps,
    CaptureError,
    EagerSteps,
    Probe,
    Settings,
    Subject,
    TrainingStep,
    autocast,
    probe,
)
from peft_tradeoffs.training.targets import AtTargets
from peft_tradeoffs.training.updates import Updates, schedule_factor


@dataclass
class Progress:
    """Where a run is; with the weights, the optimizer and the generators all that a resume needs."""

    step: int = 0  # optimizer steps done
    stopped: bool = False  # by early stopping
    losses: list[float] = field(default_factory=list)  # since the last evaluation
    rows: list[dict[str, Any]] = field(default_factory=list)  # of metrics.csv
    step_s: list[float] = field(default_factory=list)
    samples: int = 0
    tokens: int = 0
    capture_s: float = 0.0
    compile_s: float = 0.0
    best: float = -math.inf
    epochs_without_better: int = 0
    phases: dict[str, Any] = field(default_factory=dict)  # Phases.totals()
    probe: dict[str, Any] = field(default_factory=dict)
    mask: str = "padding_mask"  # of batches.MASKS
    engine_reason: str | None = None  # why the engine is not the one asked for
    captured_steps: int = 0  # done before that
    # `general_losses` before the first step; empty where memory did not suffice, None without a general text
    general_before: list[list[float]] | None = None


@dataclass(frozen=True)
class Result:
    """What a run has come to, also where memory ended it."""

    progress: Progress
    logits: np.ndarray | None  # [n, k] of the test split after the last step; None if it was not reached
    diverged_step: int | None  # from 1
    probe: Probe | None  # None of a run that began without
    engine: str  # that ran
    data_bytes: int | None  # of the train split on the device
    heldout_logits: np.ndarray | None = None  # of the heldout split after the last step, where there is one
    general: np.ndarray | None = None  # `general_losses` after the last step, where there is a general text and memory
    skipped_steps: int | None = None  # of fp16, whose gradients overflowed; None before the first step


class State(Protocol):
    """Keeps a run's state between attempts."""

    def load(self) -> dict[str, Any] | None: ...
    def begin(self, step: int) -> None: ...
    def reached(self, step: int, total: int) -> None: ...
    def interrupted(self) -> str | None: ...
    def due(self) -> bool: ...
    def save(self, state: dict[str, Any]) -> None: ...


class Reporter(Protocol):
    """Tells a person how far a run is."""

    def due(self) -> bool: ...
    def step(self, step: int, total: int, epoch: int, epochs: int, loss: float) -> None: ...
    def losses(self, row: dict[str, Any]) -> None: ...
    def evaluation(self, rows: list[dict[str, Any]]) -> None: ...


@dataclass(frozen=True)
class Watch:
    """Who keeps a run's state, and who tells how far it is."""

    state: State
    reporter: Reporter


def train(
    subject: Subject,
    device: torch.device,
    phases: Phases,
    watch: Watch,
    reached: Callable[[Callable[[], Result]], None] = lambda result: None,
    probing: bool = True,
) -> Result:
    """Probe a model, unless `probing` is off, and train it; evaluate it after every epoch on the other splits.

    The split heldout is evaluated after the last step alone. The result is that of the last step. Resumes from the
    state that was saved, to the same weights on the same device. `reached` is told, before the first step and again
    later, whom to ask for what the run has come to, should memory run out. Raises Interrupted, the state saved, if the
    process must end.
    """
    start = begin(subject, device, phases, watch.state.load, probing)
    reached(functools.partial(start.result, subject.settings, phases))
    if subject.data.general is not None and not start.saved:
        phases.switch(FORGETTING)
        losses = losses_if_they_fit(subject, device, MASKS[start.progress.mask])
        start.progress.general_before = [] if losses is None else losses.tolist()
        phases.switch(PREPARE)
    loop = Loop(Prepared.of(subject, start, device, phases), watch)
    reached(loop.result)
    loop.resume()
    while not loop.ended:
        loop.advance()
    phases.switch(None)
    return loop.result()


@dataclass
class Start:
    """Where a run begins, or goes on: its progress, and the rest of the state that it was saved with."""

    progress: Progress
    saved: dict[str, Any] | None = None  # a `snapshot`; None of a run that begins

    def result(self, settings: Settings, phases: Phases) -> Result:
        """What a run has come to before its first step."""
        progress = dataclasses.replace(self.progress, phases=phases.totals())
        return Result(progress, None, None, _probe_of(progress), settings.engine, None)


def begin(
    subject: Subject,
    device: torch.device,
    phases: Phases,
    load: Callable[[], dict[str, Any] | None] = lambda: None,
    probing: bool = True,
) -> Start:
    """Take up the state that `load` gives, or probe the model, unless `probing` is off."""
    phases.switch(STATE)
    world = subject.world
    saved = load()
    if world.size > 1:
        shared = world.share(without_weights(saved) if saved else None)
        saved = saved if world.leads else shared
    if saved:
        progress = Progress(**saved["progress"])
        totals = [progress.phases, *(other["phases"] for other in saved["others"])]
        for found in merged(totals, world.size, world.rank):
            phases.restore(found)
        return Start(progress, saved)
    progress = probed(subject, device, phases, probing)
    phases.switch(PREPARE)
    return Start(progress)


def probed(subject: Subject, device: torch.device, phases: Phases, probing: bool = True) -> Progress:
    """The progress of a run that begins: its probe, unless `probing` is off, and the mask that all its steps take."""
    progress = Progress()
    if device.type == "cuda":  # on a CPU nothing waits
        phases.switch(MASK)
        names = list(MASKS)  # the one that assumes most first
        progress.mask = names[subject.world.most(names.index(chosen_mask(subject, device).__name__))]
    mask = MASKS[progress.mask]
    choose_kernels(mask, subject.model)
    subject.model.train()
    if not probing:
        return progress
    phases.switch("probe")
    progress.probe = dataclasses.asdict(probe(subject, device, mask))
    return progress


def _probe_of(progress: Progress) -> Probe | None:
    return Probe(**progress.probe) if progress.probe else None


def chosen_mask(subject: Subject, device: torch.device) -> Mask:
    """The mask that a model on a GPU takes for texts as long as the longest."""
    splits, settings = subject.data.splits, subject.settings
    general = [] if subject.data.general is None else [subject.data.general]
    longest = max(padded_length(split.lengths) for split in (*splits.values(), *general))
    ids = torch.from_numpy(np.resize(splits["train"].input_ids, longest)).long().to(device)
    context = functools.partial(autocast, settings.precision, device)
    return choose_mask(subject.model, ids, subject.data.pad_token_id, settings.dtype, context)


@dataclass(frozen=True)
class Schedule:
    """How many steps a run has, and the learning rate of each."""

    per_epoch: int
    total: int
    rates: list[float]

    @classmethod
    def of(cls, settings: Settings, texts: int) -> "Schedule":
        """The schedule of a training split of so many texts."""
        per_epoch = math.ceil(texts / settings.batch_size)
        total = settings.max_steps or settings.epochs * per_epoch
        warmup = math.ceil(settings.warmup_ratio * total)
        kind, rate = settings.lr_scheduler_type, settings.learning_rate
        return cls(per_epoch, total, [rate * schedule_factor(kind, step, warmup, total) for step in range(total)])


@dataclass
class Prepared:
    """A model with all that its steps need, on the device: what the loop and a profile of it share."""

    subject: Subject
    device: torch.device
    phases: Phases
    progress: Progress
    schedule: Schedule
    mask: Mask
    updates: Updates
    data: dict[str, ResidentSplit]
    step: TrainingStep
    steps: CapturedSteps | EagerSteps  # the engine that takes it

    @classmethod
    def of(cls, subject: Subject, start: Start, device: torch.device, phases: Phases) -> "Prepared":
        """Put optimizer, saved state and data in place."""
        settings, generators, progress = subject.settings, subject.generators, start.progress
        schedule = Schedule.of(settings, len(subject.data.splits["train"]))
        mask = MASKS[progress.mask]
        choose_kernels(mask, subject.model)
        parameters = subject.parameters
        updates = Updates(parameters, settings, device, subject.apart)
        updates.allocate_state()
        torch.manual_seed(subject.world.seed(subject.seed))  # dropout
        if generators is not None:
            generators.load([])
        if start.saved:
            restore(start.saved, subject, updates)
            start.saved = None  # a second copy of the weights
        for parameter in parameters.values() if subject.shards is None else ():
            subject.world.send(parameter.detach())  # drawn alike by every rank, which is not left to chance
        free_memory(device)

        phases.switch(PREPARE)
        pad = subject.data.pad_token_id
        data = {name: ResidentSplit(split, pad, device) for name, split in subject.data.scaled.items()}
        step = TrainingStep(subject, data["train"], mask, updates, schedule.rates)
        if settings.compile:
            step.compile()
        captured = settings.engine == "captured" and progress.engine_reason is None
        steps: CapturedSteps | EagerSteps = EagerSteps(step, settings.compile, generators)
        if captured:
            steps = CapturedSteps(step, settings.compile, generators, subject.world)
        return cls(subject, device, phases, progress, schedule, mask, updates, data, step, steps)

    def make_ready(self, shapes: list[Shape], stop: Callable[[], object] = lambda: None) -> None:
        """Compile or capture what steps of these shapes need; an arm that cannot be captured goes on eagerly.

        Nothing more is made once `stop` gives a value.
        """
        self.phases.switch(PREPARE)
        self.subject.model.train()
        try:
            self.steps.prepare(shapes, stop)
            return
        except CaptureError as error:
            self.progress.engine_reason = f"capture failed: {error}"
            self.progress.captured_steps = self.progress.step
        self.progress.capture_s += self.steps.capture_s
        self.progress.compile_s += self.steps.compile_s
        self.steps = EagerSteps(self.step, self.subject.settings.compile, self.subject.generators)
        gc.collect()  # the failed capture and its pool
        torch.cuda.empty_cache()
        self.steps.prepare(shapes, stop)


# Steps after which ranks agree on signals, on saving and on reading losses. An agreement takes the host some 0.2 ms and
# has it wait for the slowest: of steps of 2 ms that is 1 %; and of steps of 5 s a signal waits for 40 s, of SLURM's 90.
AGREED_EVERY = 8


class Event(enum.Enum):
    """What a call of `Loop.advance` came to."""

    STEPPED = enum.auto()
    EVALUATED = enum.auto()  # after the last step of an epoch
    FINISHED = enum.auto()  # evaluated after the last step of all
    DIVERGED = enum.auto()  # a loss, or what the model gives, is not finite


class Diverged(Exception):
    """A loss, or what the model gives, is not finite after `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the training loss is not finite at step {step}")
        self.step = step


class Loop:
    """The training of a prepared model, a step at a time."""

    def __init__(self, prepared: Prepared, watch: Watch) -> None:
        self._prepared, self._state, self._reporter = prepared, watch.state, watch.reporter
        self._settings, self._schedule, self._data = prepared.subject.settings, prepared.schedule, prepared.subject.data
        self._sizes = Sizes.of(self._data.splits["train"])
        self._lengths = self._sizes.lengths
        self._world = prepared.subject.world
        self._progress = prepared.progress
        self._timer = StepTimer(prepared.device, self._progress.step_s)
        self._batches: deque[tuple[np.ndarray, Shape]] = deque()  # of the epoch that are to come
        self._epoch_began = self._progress.step  # the steps done before the epoch
        self._read = 0  # batches of the epoch whose loss has been read
        self._saved = self._progress.step  # the step of the last saved state
        self._logits: dict[str, np.ndarray] = {}  # of the last evaluation, by split
        self._general: np.ndarray | None = None
        self._diverged_step: int | None = None

    def resume(self) -> None:
        """Begin, or go on after the last step done. From here on a signal waits for `advance` to ask."""
        self._state.begin(self._progress.step)

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do: the last step is done and evaluated, or a loss was not finite."""
        if self._diverged_step is not None:
            return True
        return (self._progress.step == self._schedule.total or self._progress.stopped) and not self._evaluation_due()

    def advance(self) -> Event:
        """Take the next step, or do the evaluation that is due after the last one; then save the state if it is time.

        An evaluation may be due at the start: a state that was saved because the process had to end may be that of a
        step whose evaluation did not come to its end. Raises Interrupted, the state saved, if the process must end.
        """
        try:
            event = self._evaluate() if self._evaluation_due() else self._step()
            goes_on = not self.ended and not self._evaluation_due()
            if goes_on and self._progress.step > self._saved and self._wished(self._state.due()):
                self._save()
        except Diverged as error:
            self._diverged_step = error.step
            event = Event.DIVERGED
        return event

    def snapshot(self) -> dict[str, Any]:
        """All that a resume needs, as plain values and tensors. Raises Diverged."""
        self._read_losses()
        progress = dataclasses.asdict(self._measured())
        subject = self._prepared.subject
        found = snapshot(progress, subject, self._prepared.updates)
        own = {**generators_of(found), "phases": progress["phases"]} if self._world.size > 1 else {}
        return {**found, "others": self._world.gather(own)[1:]}

    def result(self) -> Result:
        """What the run has come to, also where memory ended it."""
        logits = self._logits if self.ended and self._diverged_step is None else {}
        prepared = self._prepared
        return Result(
            progress=self._measured(),
            logits=logits.get("test"),
            diverged_step=self._diverged_step,
            probe=_probe_of(self._progress),
            engine=prepared.steps.name,
            data_bytes=prepared.data["train"].bytes,
            heldout_logits=logits.get("heldout"),
            general=self._general if logits else None,
            skipped_steps=self._progress.step - prepared.updates.taken(),
        )

    def _step(self) -> Event:
        if not self._batches:
            self._begin_epoch()
        indices, shape = self._batches.popleft()
        self._timer.start()
        self._prepared.steps(shape)
        self._timer.stop()
        progress, total = self._progress, self._schedule.total
        progress.step += 1
        progress.samples += len(indices)
        progress.tokens += int(self._lengths[indices].sum())
        self._state.reached(progress.step, total)
        if self._wished(self._reporter.due()):
            self._read_losses()
            epoch = math.ceil(progress.step / self._schedule.per_epoch)
            self._reporter.step(progress.step, total, epoch, self._settings.epochs, progress.losses[-1])
        if self._agrees:
            self._poll()
        return Event.STEPPED

    def _begin_epoch(self) -> None:
        """Order the batches of the epoch that the next step is of, and make ready what is left of them."""
        progress, settings, prepared = self._progress, self._settings, self._prepared
        epoch, done = divmod(progress.step, self._schedule.per_epoch)
        batches = epoch_batches(self._lengths, settings.batch_size, prepared.subject.seed, epoch)
        now = slice(done, done + self._schedule.total - progress.step)
        todo, shapes = batches[now], self._sizes.shapes(batches)[now]
        prepared.step.begin(batches, done, progress.step)
        self._epoch_began, self._read = progress.step - done, done
        prepared.make_ready(shapes, self._interrupted)
        self._poll()
        prepared.phases.switch("train")
        self._batches.extend(zip(todo, shapes, strict=True))

    def _evaluation_due(self) -> bool:
        """Whether the step done is one after which the model is evaluated, and was not yet."""
        step, rows = self._progress.step, self._progress.rows
        ends = step > 0 and (step % self._schedule.per_epoch == 0 or step == self._schedule.total)
        return ends and (rows[-1]["step"] if rows else 0) < step

    def _evaluate(self) -> Event:
        """Append one row per split to the progress, and decide on early stopping."""
        self._read_losses()
        progress, settings, splits = self._progress, self._settings, self._data.splits
        if settings.generate and progress.step == self._schedule.total > self._saved:
            self._save()  # answers may take long, and a signal meanwhile is to cost no step
        self._prepared.phases.switch("evaluate")
        evaluated: list[str] = [name for name in ("validation", "test") if name in splits]
        logits = {name: self._predict(name) for name in evaluated}
        scores = {name: self._scores(name, values) for name, values in logits.items()}
        stopping = settings.early_stopping
        watched = self._watch(scores["validation"][settings.metric], stopping) if stopping else {}
        last = progress.step == self._schedule.total or watched.get("stopped")
        if "heldout" in splits and last:
            logits["heldout"] = self._predict("heldout")
            scores["heldout"] = self._scores("heldout", logits["heldout"])
        if progress.general_before and last:
            self._prepared.phases.switch(FORGETTING)
            prepared = self._prepared
            self._general = losses_if_they_fit(prepared.subject, prepared.device, prepared.mask, self._poll)
        self._prepared.phases.switch(None)
        progress.step_s = self._seconds()
        rows = [
            {
                "epoch": progress.step / self._schedule.per_epoch,
                "step": progress.step,
                "split": name,
                "train_loss": self._mean(progress.losses),
                "learning_rate": self._schedule.rates[progress.step - 1],
                "train_s": sum(progress.step_s),
                **scores[name],
            }
            for name in logits
        ]
        progress.rows += rows
        progress.losses = []
        for key, value in watched.items():
            setattr(progress, key, value)
        self._logits = logits
        self._reporter.evaluation(rows)
        return Event.FINISHED if self.ended else Event.EVALUATED

    def _scores(self, name: str, logits: np.ndarray) -> dict[str, float | None]:
        """Loss and metrics of a split's logits, in the data's units. Raises Diverged where these are not."""
        if not np.isfinite(logits).all():
            raise Diverged(self._progress.step)  # in the last update, which no loss has seen
        task, split = TASKS[self._settings.task], self._data.splits[name]
        return task.evaluate(task.predicted(split.rows, split.labels, logits))

    def _watch(self, value: float | None, stopping: dict[str, Any]) -> dict[str, Any]:
        """What early stopping makes of the validation split's metric: the fields of Progress that change."""
        progress = self._progress
        gain = None if value is None else METRICS[self._settings.metric].gain(value)
        if gain is not None and gain > progress.best + stopping["min_delta"]:
            return {"best": gain, "epochs_without_better": 0}
        waited = progress.epochs_without_better + 1
        return {
            "epochs_without_better": waited,
            "stopped": waited >= stopping["patience"] and progress.step < self._schedule.total,
        }

    def _predict(self, name: str) -> np.ndarray:
        """Logits [n, k] of a split, in the data's units; where tokens are learned the columns `metrics.OF_TEXT`."""
        prepared, sizes = self._prepared, Sizes.of(self._data.splits[name])
        logits = predict(prepared.subject, prepared.data[name], sizes, prepared.mask, self._poll)
        return logits if self._data.scale is None else self._data.scale.own_units(logits)

    def _poll(self) -> None:
        """Save what is not saved yet and raise Interrupted if the process must end."""
        signal_name = self._interrupted()
        if signal_name is None:
            return
        if self._progress.step > self._saved:
            self._save()
        raise Interrupted(signal_name, f"after step {self._progress.step} of {self._schedule.total}")

    @property
    def _agrees(self) -> bool:
        """Whether the ranks agree after this step, on the host: of one rank after every step."""
        return self._world.size == 1 or self._progress.step % AGREED_EVERY == 0

    def _wished(self, wish: bool) -> bool:
        """Whether any rank wishes something after this step, where they agree after it."""
        return self._agrees and self._world.agree(wish)

    def _interrupted(self) -> str | None:
        """The signal that asks the ranks to end, if one of them has been sent one."""
        name = self._state.interrupted()
        if self._world.size == 1:
            return name
        number = self._world.most(0 if name is None else signal.Signals[name].value)
        return signal.Signals(number).name if number else None

    def _seconds(self) -> list[float]:
        """Of every step so far those of the slowest rank."""
        seconds = self._timer.seconds()
        seconds[:] = self._world.largest(seconds)
        return seconds

    def _read_losses(self) -> None:
        """Take the losses of the steps done from the device, and report them; raises Diverged."""
        progress = self._progress
        end = progress.step - self._epoch_began
        losses = self._prepared.step.losses(self._read, end)
        for index, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise Diverged(progress.step - len(losses) + index + 1)
        progress.losses += losses
        self._read = end
        if losses:
            self._reporter.losses(
                {
                    "epoch": progress.step / self._schedule.per_epoch,
                    "step": progress.step,
                    "recent_train_loss": self._mean(losses),
                    "learning_rate": self._schedule.rates[progress.step - 1],
                }
            )

    def _mean(self, losses: list[float]) -> float:
        """Mean of training losses, in the data's units."""
        scale = self._data.scale
        return float(np.mean(losses)) * (scale.sd**2 if scale else 1)

    def _save(self) -> None:
        self._read_losses()
        phases = self._prepared.phases
        phase = phases.current
        phases.switch(STATE)
        self._seconds()
        self._state.save(self.snapshot())
        self._saved = self._progress.step
        phases.switch(phase)

    def _measured(self) -> Progress:
        """The progress with the times of all steps, captures and phases so far."""
        steps, progress = self._prepared.steps, self._progress
        return dataclasses.replace(
            progress,
            step_s=self._timer.seconds(),
            phases=self._prepared.phases.totals(),
            capture_s=progress.capture_s + steps.capture_s,
            compile_s=progress.compile_s + steps.compile_s,
        )


def general_losses(
    subject: Subject, device: torch.device, mask: Mask, poll: Callable[[], None] = lambda: None
) -> np.ndarray:
    """What a model as it is now loses on each general text: float64 [n, 3], the columns `metrics.OF_TEXT`."""
    data = subject.data
    assert data.general is not None
    resident = ResidentSplit(data.general, data.pad_token_id, device)
    return predict(subject, resident, Sizes.of(data.general), mask, poll)


def losses_if_they_fit(
    subject: Subject, device: torch.device, mask: Mask, poll: Callable[[], None] = lambda: None
) -> np.ndarray | None:
    """`general_losses`; None where memory does not suffice, which is no failure of the training."""
    try:
        return general_losses(subject, device, mask, poll)
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if not refused_bytes(error)[0]:
            raise
    free_memory(device)
    return None


AT_ONCE = 2**28  # logits that an evaluation holds where they do not come in pieces: 1 GiB of float32


@torch.no_grad()
def predict(
    subject: Subject, data: ResidentSplit, sizes: Sizes, mask: Mask, poll: Callable[[], None] = lambda: None
) -> np.ndarray:
    """Logits float32 [n, k] of a split, in its order, of which `sizes` are those of its texts.

    Of a model that learns tokens (`targets.AtTargets`) float64 [n, 3], the columns `metrics.OF_TEXT`. Ranks take the
    batches in turn, and all of them get all logits. `poll` is called between batches; what it raises ends the
    evaluation. Memory that runs out on one rank does so on all.
    """
    world = subject.world
    subject.forward.eval()
    device = data.lengths.device
    found: torch.Tensor | None = None
    failed: Exception | None = None
    together = subject.shards is not None  # no rank computes without the others
    for indices, own in world.dealt(evaluation_batches(sizes.lengths, _rows_at_once(subject, sizes)), not together):
        poll()
        if indices is None or failed is not None:
            continue
        try:
            output = _outputs(subject, data, indices, sizes.shape(indices), mask)
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if world.size == 1 or together or not refused_bytes(error)[0]:
                raise
            failed = error
            continue
        if not own:
            continue
        if found is None:
            make = torch.empty if world.size == 1 else torch.zeros
            found = make(len(sizes.lengths), output.shape[1], device=device, dtype=output.dtype)
        found[torch.from_numpy(indices).to(device)] = output
    if subject.shards is not None:
        subject.shards.rest()
    if world.agree(failed is not None):
        raise failed or torch.OutOfMemoryError("another GPU of the run ran out of memory")
    if world.size > 1:
        found = _of_all(world, found, sizes, device)
    if found is None:
        raise ValueError("a split without texts")
    return found.cpu().numpy()


def _rows_at_once(subject: Subject, sizes: Sizes) -> int:
    model, size = subject.forward, subject.settings.evaluation_batch_size
    if sizes.targets is None:
        return size
    assert isinstance(model, AtTargets)
    if model.behind is not None:
        return size
    return max(1, min(size, AT_ONCE // (int(sizes.targets.max()) * model.vocabulary)))


def _of_all(world: World, found: torch.Tensor | None, sizes: Sizes, device: torch.device) -> torch.Tensor:
    """What the ranks found, of which each has rows of its own and 0 elsewhere."""
    width = world.most(0 if found is None else found.shape[1])
    if found is None:  # fewer batches than ranks
        kind = torch.float32 if sizes.targets is None else torch.float64
        found = torch.zeros(len(sizes.lengths), width, device=device, dtype=kind)
    return world.sum(found)


def _outputs(subject: Subject, data: ResidentSplit, indices: np.ndarray, shape: Shape, mask: Mask) -> torch.Tensor:
    """What `predict` gives of one batch."""
    model, settings, device = subject.forward, subject.settings, data.lengths.device
    _, length, *targets = shape
    batch = data.gather(torch.from_numpy(indices).to(device), length, *targets)
    with autocast(settings.precision, device), subject.computing():
        seen = mask(batch.sizes, length, settings.dtype)
        if isinstance(model, AtTargets):
            return model.scores(**batch.answers, **batch.inputs, attention_mask=seen)
        logits: torch.Tensor = model(**batch.inputs, attention_mask=seen).logits.float()
        return logits


def snapshot(progress: dict[str, Any], subject: Subject, updates: Updates) -> dict[str, Any]:
    """All that a resume needs, as plain values and tensors."""
    parameters, generators = subject.parameters, subject.generators
    found = {
        "progress": progress,
        "parameters": {name: p.detach() for name, p in parameters.items()},
        "updates": updates.state(),
        "generator": torch.get_rng_state(),
        "cuda_generator": torch.cuda.get_rng_state() if _on_gpu(parameters) else None,
        "block_generators": generators.state() if generators is not None else [],
    }
    return found if subject.shards is None else subject.shards.gathered(found, updates.ordered())


def without_weights(saved: dict[str, Any]) -> dict[str, Any]:
    """A `snapshot` without the large tensors in it, which ranks send each other from device to device."""
    states = saved["updates"]["optimizer"]
    plain = {
        index: {name: value for name, value in state.items() if not isinstance(value, torch.Tensor)}
        for index, state in states.items()
    }
    return {**saved, "parameters": {}, "updates": {**saved["updates"], "optimizer": plain}}


def generators_of(saved: dict[str, Any]) -> dict[str, Any]:
    """The states of a rank's generators in its `snapshot`."""
    return {key: saved[key] for key in ("generator", "cuda_generator", "block_generators")}


def restore(saved: dict[str, Any], subject: Subject, updates: Updates) -> None:
    """Put the weights, optimizer, loss scale and generators of a `snapshot` back.

    Where it was saved by another number of ranks, streams of random numbers are new ones.
    """
    world, generators, shards = subject.world, subject.generators, subject.shards
    if shards is not None:
        saved = shards.scattered(saved, updates.state()["optimizer"], updates.ordered())
    with torch.no_grad():
        for name, values in saved["parameters"].items():
            subject.parameters[name].copy_(values)
    updates.load(saved["updates"])
    for state in updates.state()["optimizer"].values() if world.size > 1 and shards is None else ():
        for name in sorted(state):
            if isinstance(state[name], torch.Tensor):
                world.send(state[name])
    if 1 + len(saved["others"]) != world.size:
        torch.manual_seed(world.seed(saved["progress"]["step"]))
        return
    own = saved if world.leads else saved["others"][world.rank - 1]
    torch.set_rng_state(own["generator"])
    if own["cuda_generator"] is not None:
        torch.cuda.set_rng_state(own["cuda_generator"])
    if generators is not None:
        generators.load(own["block_generators"])


def _on_gpu(parameters: dict[str, nn.Parameter]) -> bool:
    return any(parameter.is_cuda for parameter in parameters.values())

"""Trains and evaluates a model, and what a resume needs of it. Knows no method by name."""

import dataclasses
import functools
import gc
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from peft_tradeoffs.inputs.tokens import Split
from peft_tradeoffs.measure.devices import free_memory
from peft_tradeoffs.measure.phases import MASK, PREPARE, STATE, Phases, StepTimer
from peft_tradeoffs.runs.interruption import Interrupted
from peft_tradeoffs.tasks.task import TASKS
from peft_tradeoffs.training.attention import MASKS, Mask, choose_kernels, choose_mask
from peft_tradeoffs.training.batches import ResidentSplit, epoch_batches, evaluation_batches, padded_length
from peft_tradeoffs.training.capture import CapturedSteps, CaptureError, EagerSteps
from peft_tradeoffs.training.probe import Probe, probe
from peft_tradeoffs.training.step import (
    BlockGenerators,
    Settings,
    TrainingStep,
    adamw,
    allocate_state,
    autocast,
    linear_schedule,
)


def snapshot(
    progress: dict[str, Any],
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    generators: BlockGenerators | None,
) -> dict[str, Any]:
    """All that a resume needs, as plain values and tensors."""
    return {
        "progress": progress,
        "parameters": {name: p.detach() for name, p in parameters.items()},
        "optimizer": optimizer.state_dict()["state"],
        "generator": torch.get_rng_state(),
        "cuda_generator": torch.cuda.get_rng_state() if _on_gpu(parameters) else None,
        "block_generators": generators.state() if generators is not None else [],
    }


def restore(
    saved: dict[str, Any],
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    generators: BlockGenerators | None,
) -> None:
    """Put the weights, optimizer and generators of a `snapshot` back."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(saved["parameters"][name])
    ordered = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in saved["optimizer"].items():
        for name, value in values.items():
            optimizer.state[ordered[index]][name].copy_(value)
    torch.set_rng_state(saved["generator"])
    if saved["cuda_generator"] is not None:
        torch.cuda.set_rng_state(saved["cuda_generator"])
    if generators is not None:
        generators.load(saved["block_generators"])


def _on_gpu(parameters: dict[str, nn.Parameter]) -> bool:
    return any(parameter.is_cuda for parameter in parameters.values())


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
    mask: str = "padding_mask"  # of attention.MASKS
    engine_reason: str | None = None  # why the engine is not the one asked for
    captured_steps: int = 0  # done before that


@dataclass(frozen=True)
class Result:
    progress: Progress
    logits: np.ndarray | None  # [n, k] of the test split after the last step; None if it was not reached
    diverged_step: int | None  # from 1
    probe: Probe
    engine: str  # that ran
    data_bytes: int | None  # of the train split on the device
    heldout_logits: np.ndarray | None = None  # of the heldout split after the last step, where there is one


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
    def evaluation(self, row: dict[str, Any]) -> None: ...


class Diverged(Exception):
    """A training loss that is not finite."""

    def __init__(self, step: int) -> None:
        super().__init__(f"the training loss is not finite at step {step}")
        self.step = step


class Trainer:
    """One run: probes a model, trains it on splits["train"] and evaluates it on the others after every epoch.

    The split heldout is evaluated after the last step alone.

    `train` does it; `result` is what the run has come to, also when memory ran out on the way. It is that of the last
    step. Resumes from `state`, to the same weights on the same device.
    """

    def __init__(
        self,
        model: nn.Module,
        splits: dict[str, Split],
        pad_token_id: int,
        settings: Settings,
        seed: int,
        device: torch.device,
        state: State,
        reporter: Reporter,
        phases: Phases,
        generators: BlockGenerators | None = None,
    ) -> None:
        """`generators` are those of a model with gradient checkpointing on a GPU that is not compiled."""
        self.model, self.settings, self.seed, self.device = model, settings, seed, device
        self.state, self.reporter, self.phases, self.generators = state, reporter, phases, generators
        self.splits, self.pad_token_id = splits, pad_token_id
        self.task = TASKS[settings.task]
        self.scale = scale = self.task.scale(splits["train"].labels)
        self.scaled = splits
        if scale is not None:
            self.scaled = {name: dataclasses.replace(s, labels=scale.scaled(s.labels)) for name, s in splits.items()}
        self.lengths = splits["train"].lengths
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.progress: Progress | None = None
        self.timer = StepTimer(device, [])
        self.data: dict[str, ResidentSplit] = {}
        self.steps: CapturedSteps | EagerSteps | None = None
        self.per_epoch = math.ceil(len(self.lengths) / settings.batch_size)
        self.total = settings.max_steps or settings.epochs * self.per_epoch
        warmup = math.ceil(settings.warmup_ratio * self.total)
        factors = (linear_schedule(step, warmup, self.total) for step in range(self.total))
        self.rates = [settings.learning_rate * factor for factor in factors]

    def _begin(self) -> None:
        """Probe the model, or take up a saved state, and put what training needs on the device."""
        settings, generators, phases = self.settings, self.generators, self.phases
        phases.switch(STATE)
        saved = self.state.load()
        if saved:
            self.progress = Progress(**saved["progress"])
            phases.restore(self.progress.phases)
            self.timer = StepTimer(self.device, self.progress.step_s)
        else:
            self.progress = self.probed()
            phases.switch(PREPARE)
        self.mask = MASKS[self.progress.mask]
        choose_kernels(self.mask)
        self.optimizer = adamw(self.parameters, settings, self.device)
        allocate_state(self.optimizer)
        torch.manual_seed(self.seed)  # dropout
        if generators is not None:
            generators.load([])
        if saved:
            restore(saved, self.parameters, self.optimizer, generators)
        del saved  # a second copy of the weights
        free_memory(self.device)

        phases.switch(PREPARE)
        self.data = {name: ResidentSplit(split, self.pad_token_id, self.device) for name, split in self.scaled.items()}
        self.step = TrainingStep(
            *(self.model, self.data["train"], self.mask, self.parameters, self.optimizer, self.rates, settings),
            generators,
        )
        if settings.compile:
            self.step.compile()
        captured = settings.engine == "captured" and self.progress.engine_reason is None
        self.steps = CapturedSteps(self.step, settings.compile, generators) if captured else self._eager()
        self.epoch_began = self.progress.step  # the steps done before the epoch
        self.read = 0  # batches of the epoch whose loss has been read
        self.saved = self.progress.step  # the step of the last saved state

    def train(self) -> Result:
        """Train to the end, or until the loss is not finite. Raises Interrupted, the state saved, if it must end."""
        self._begin()
        try:
            logits, diverged_step = self._run(), None
        except Diverged as diverged:
            logits, diverged_step = None, diverged.step
        self.phases.switch(None)
        return self.result(logits, diverged_step)

    def result(self, logits: dict[str, np.ndarray] | None = None, diverged_step: int | None = None) -> Result | None:
        """What the run has come to, also of one that memory ended; None before the end of its probe."""
        if self.progress is None:
            return None
        engine = self.steps.name if self.steps else self.settings.engine
        data_bytes = self.data["train"].bytes if self.data else None
        test, heldout = ((logits or {}).get(split) for split in ("test", "heldout"))
        found = Probe(**self.progress.probe)
        return Result(self._measured(), test, diverged_step, found, engine, data_bytes, heldout)

    def _run(self) -> dict[str, np.ndarray]:
        """Train to the end; the last evaluation's logits by split. Raises Diverged."""
        progress, settings = self.progress, self.settings
        self.state.begin(progress.step)
        # A state saved because the process had to end may be that of a step whose evaluation did not come to its end.
        evaluated = progress.rows[-1]["step"] if progress.rows else 0
        logits = self._evaluate() if self._evaluates() and evaluated < progress.step else {}
        while progress.step < self.total and not progress.stopped:
            epoch, done = divmod(progress.step, self.per_epoch)
            batches = epoch_batches(self.lengths, settings.batch_size, self.seed, epoch)
            todo = batches[done : done + self.total - progress.step]
            shapes = [(len(indices), padded_length(self.lengths[indices])) for indices in todo]
            self.step.begin(batches, done, progress.step)
            self.epoch_began, self.read = progress.step - done, done
            self._prepare(shapes)
            self.phases.switch("train")
            for indices, shape in zip(todo, shapes, strict=True):
                self.timer.start()
                self.steps(shape)
                self.timer.stop()
                progress.step += 1
                progress.samples += len(indices)
                progress.tokens += int(self.lengths[indices].sum())
                self.state.reached(progress.step, self.total)
                if self.reporter.due():
                    self._read_losses()
                    self.reporter.step(progress.step, self.total, epoch + 1, settings.epochs, progress.losses[-1])
                self._poll()
                if self._evaluates():
                    self._read_losses()
                    logits = self._evaluate()
                if self.state.due() and progress.step < self.total and not progress.stopped:
                    self._checkpoint()
                if progress.stopped:
                    break
        return logits

    def _evaluates(self) -> bool:
        """Whether the step done is one after which the model is evaluated."""
        step = self.progress.step
        return step > 0 and (step % self.per_epoch == 0 or step == self.total)

    def _poll(self) -> None:
        """Save what is not saved yet and raise Interrupted if the process must end."""
        signal_name = self.state.interrupted()
        if signal_name is None:
            return
        if self.progress.step > self.saved:
            self._checkpoint()
        raise Interrupted(signal_name, f"after step {self.progress.step} of {self.total}")

    def probed(self) -> Progress:
        """The progress of a run that begins: its probe, and the mask that all its steps take."""
        progress = Progress()
        if self.device.type == "cuda":  # on a CPU nothing waits
            self.phases.switch(MASK)
            progress.mask = self._choose_mask().__name__
        self.phases.switch("probe")
        choose_kernels(MASKS[progress.mask])
        self.model.train()
        train, mask = self.scaled["train"], MASKS[progress.mask]
        found = probe(self.model, train, self.pad_token_id, self.settings, self.device, mask, self.generators)
        progress.probe = dataclasses.asdict(found)
        return progress

    def _choose_mask(self) -> Mask:
        longest = max(padded_length(split.lengths) for split in self.splits.values())
        ids = torch.from_numpy(np.resize(self.splits["train"].input_ids, longest)).long().to(self.device)
        context = functools.partial(autocast, self.settings.precision, self.device)
        return choose_mask(self.model, ids, self.pad_token_id, self.settings.dtype, context)

    def _eager(self) -> EagerSteps:
        return EagerSteps(self.step, self.settings.compile, self.generators)

    def _prepare(self, shapes: list[tuple[int, int]]) -> None:
        """Compile or capture what the coming batches need; an arm that cannot be captured goes on eagerly."""
        self.phases.switch(PREPARE)
        self.model.train()
        try:
            self.steps.prepare(shapes, self.state.interrupted)
            return self._poll()
        except CaptureError as error:
            self.progress.engine_reason = f"capture failed: {error}"
            self.progress.captured_steps = self.progress.step
        self.progress.capture_s += self.steps.capture_s
        self.progress.compile_s += self.steps.compile_s
        self.steps = self._eager()
        gc.collect()  # the failed capture and its pool
        torch.cuda.empty_cache()
        self.steps.prepare(shapes, self.state.interrupted)
        self._poll()

    def _read_losses(self) -> None:
        """Take the losses of the steps done from the device; raises Diverged."""
        progress = self.progress
        end = progress.step - self.epoch_began
        losses = self.step.losses(self.read, end)
        for index, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise Diverged(progress.step - len(losses) + index + 1)
        progress.losses += losses
        self.read = end

    def _checkpoint(self) -> None:
        self._read_losses()
        phase = self.phases.current
        self.phases.switch(STATE)
        progress = dataclasses.asdict(self._measured())
        self.state.save(snapshot(progress, self.parameters, self.optimizer, self.generators))
        self.saved = self.progress.step
        self.phases.switch(phase)

    def _measured(self) -> Progress:
        """The progress with the times of all steps, captures and phases so far."""
        return dataclasses.replace(
            self.progress,
            step_s=self.timer.seconds(),
            phases=self.phases.totals(),
            capture_s=self.progress.capture_s + (self.steps.capture_s if self.steps else 0.0),
            compile_s=self.progress.compile_s + (self.steps.compile_s if self.steps else 0.0),
        )

    def _evaluate(self) -> dict[str, np.ndarray]:
        """Append one row per split to progress.rows, decide on early stopping; returns the logits by split."""
        progress, settings = self.progress, self.settings
        self.phases.switch("evaluate")
        logits = {name: self._predict(name) for name in ("validation", "test") if name in self.splits}
        scores = {name: self._scores(name, values) for name, values in logits.items()}
        watched = self._watch(scores["validation"][settings.metric]) if settings.early_stopping else {}
        if "heldout" in self.splits and (progress.step == self.total or watched.get("stopped")):
            logits["heldout"] = self._predict("heldout")
            scores["heldout"] = self._scores("heldout", logits["heldout"])
        self.phases.switch(None)
        progress.step_s = self.timer.seconds()
        for name in logits:
            progress.rows.append(
                {
                    "epoch": progress.step / self.per_epoch,
                    "step": progress.step,
                    "split": name,
                    "train_loss": float(np.mean(progress.losses)) * (self.scale.sd**2 if self.scale else 1),
                    "learning_rate": self.rates[progress.step - 1],
                    "train_s": sum(progress.step_s),
                    **scores[name],
                }
            )
        progress.losses = []
        for key, value in watched.items():
            setattr(progress, key, value)
        self.reporter.evaluation(progress.rows[-1])
        return logits

    def _scores(self, name: str, logits: np.ndarray) -> dict[str, float | None]:
        """Loss and metrics of a split's logits, in the data's units. Raises Diverged where these are not finite."""
        if not np.isfinite(logits).all():
            raise Diverged(self.progress.step)  # in the last update, which no loss has seen
        return self.task.evaluate(self.task.predicted(self.splits[name].rows, self.splits[name].labels, logits))

    def _watch(self, value: float | None) -> dict[str, Any]:
        """What early stopping makes of the validation split's metric: the fields of Progress that change."""
        progress, stopping = self.progress, self.settings.early_stopping
        if value is not None and value > progress.best + stopping["min_delta"]:
            return {"best": value, "epochs_without_better": 0}
        waited = progress.epochs_without_better + 1
        return {
            "epochs_without_better": waited,
            "stopped": waited >= stopping["patience"] and progress.step < self.total,
        }

    def _predict(self, name: str) -> np.ndarray:
        """Logits [n, k] of a split, in the data's units."""
        of = (self.model, self.data[name], self.splits[name].lengths, self.mask, self.settings, self._poll)
        return predict(*of) if self.scale is None else self.scale.own_units(predict(*of))


@torch.no_grad()
def predict(
    model: nn.Module,
    data: ResidentSplit,
    lengths: np.ndarray,
    mask: Mask,
    settings: Settings,
    poll: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Logits float32 [n, k] of a split, in its order; `lengths` [n] are its texts' tokens.

    `poll` is called between batches; what it raises ends the evaluation.
    """
    model.eval()
    device = data.lengths.device
    logits = None
    for indices in evaluation_batches(lengths, settings.evaluation_batch_size):
        poll()
        rows = torch.from_numpy(indices).to(device)
        length = padded_length(lengths[indices])
        inputs, sizes, _ = data.gather(rows, length)
        with autocast(settings.precision, device):
            output = model(**inputs, attention_mask=mask(sizes, length, settings.dtype)).logits
        if logits is None:
            logits = torch.empty(len(lengths), output.shape[1], device=device)
        logits[rows] = output.float()
    return logits.cpu().numpy()

"""The profile of one arm: what each engine gave on a typical batch and on the probe's, and the files of it."""

import dataclasses
import functools
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from peft_tradeoffs.core.files import rows_to_csv, write_json, write_text
from peft_tradeoffs.inputs.tokens import load_tokens
from peft_tradeoffs.measure import machine, traces
from peft_tradeoffs.measure.devices import Device, Phases, StepTimer, free_memory, refused_bytes
from peft_tradeoffs.measure.traces import (
    COLUMNS,
    ENGINES,
    KERNELS,
    OPERATORS,
    PHASES,
    STEP,
    WINDOW,
    Held,
    engine_row,
    failed_row,
    kernel_rows,
    operator_rows,
    timeline,
    windows,
)
from peft_tradeoffs.runs.plan import Plan
from peft_tradeoffs.training import engine, methods
from peft_tradeoffs.training.batches import Shape, Sizes, epoch_batches, longest_rows, padded_length
from peft_tradeoffs.training.run import Arm, Tokens
from peft_tradeoffs.training.step import Subject, TrainingStep

TYPICAL, LONGEST = "typical", "longest"
KEPT_CUPTI = {"TEARDOWN_CUPTI": "0", "DISABLE_CUPTI_LAZY_REINIT": "1"}  # as torch.profiler sets for CUDA graphs


@dataclass(frozen=True)
class StepCounts:
    """How many steps of each batch are done before, without and under the profiler."""

    warmup_steps: int
    timed_steps: int
    steps: int

    @property
    def most(self) -> int:
        """Steps that one table of batches must hold."""
        return max(self.warmup_steps + self.timed_steps, self.steps)


def batches(lengths: np.ndarray, batch_size: int, seed: int) -> dict[str, np.ndarray]:
    """Rows of the training split: the batch of median padded length of the first epoch, and the longest texts'."""
    every = epoch_batches(lengths, batch_size, seed, 0)
    whole = sorted(
        (rows for rows in every if len(rows) == len(every[0])), key=lambda rows: padded_length(lengths[rows])
    )
    return {TYPICAL: whole[len(whole) // 2], LONGEST: longest_rows(lengths, batch_size)}


def engine_plan(plan: Plan, name: str) -> Plan:
    """The plan of an arm for the engine eager, captured, compiled or captured-compiled.

    The learning rate is 0, so that every step computes the same.
    """
    launch = "captured" if name.startswith("captured") else "eager"
    changes = {"engine": launch, "compile": name.endswith("compiled"), "learning_rate": 0.0}
    return dataclasses.replace(plan, settings={**plan.settings, **changes})


class ProfiledSteps:
    """A run prepared as for training, probe included, that does the steps it is asked for."""

    def __init__(self, subject: Subject, device: torch.device, counts: StepCounts) -> None:
        """Raises NotCaptured if the steps cannot be a CUDA graph."""
        phases = Phases(device)
        sizes, batch_size = Sizes.of(subject.data.splits["train"]), subject.settings.batch_size
        self._device, self._counts = device, counts
        self.batches = batches(sizes.lengths, batch_size, subject.seed)
        self.shapes: dict[str, Shape] = {name: sizes.shape(rows) for name, rows in self.batches.items()}
        self.prepared = engine.Prepared.of(subject, engine.begin(subject, device, phases), device, phases)
        self._load(LONGEST)
        self.prepared.make_ready(list(self.shapes.values()))
        phases.switch(None)
        if self.prepared.progress.engine_reason is not None:
            raise NotCaptured(self.prepared.progress.engine_reason)

    @property
    def prepared_s(self) -> dict[str, float]:
        """Seconds that capturing and compiling both batches took."""
        return {"capture_s": self.prepared.steps.capture_s, "compile_s": self.prepared.steps.compile_s}

    def timed(self) -> dict[str, float]:
        """Median ms of a step of each batch without the profiler, after the warm-up."""
        return {name: self._time(name) for name in self.batches}

    def trace(self) -> dict[str, Any]:
        """A trace with a window of the steps that count of each batch."""
        with _annotated(self.prepared.step), _profile(self._device) as recorded:
            self._load(TYPICAL)
            self.prepared.steps(self.shapes[TYPICAL])  # the profiler's warm-up, which it drops
            self._wait()
            recorded.begin()
            for name in self.batches:
                self._load(name)
                self._window(name, self._counts.steps)
        return recorded.trace

    def memory(self) -> tuple[dict[str, Any], str, Held]:
        """A trace of one eager step on the longest texts with its allocations, its window, and what was held before."""
        weights = methods.training_bytes(self.prepared.subject.model)["weights"]
        optimizer = _bytes(self.prepared.updates.tensors())
        gradients: list[set[int]] = []
        with _annotated(self.prepared.step, gradients), _profile(self._device, memory=True) as recorded:
            self._load(LONGEST)
            self.prepared.steps(self.shapes[LONGEST])
            self._wait()
            gradients.clear()
            total = weights + optimizer + sum(split.bytes for split in self.prepared.data.values())
            if self._device.type == "cuda":
                total = torch.cuda.memory_allocated(self._device)
            recorded.begin()
            self._window(LONGEST, 1)
        return recorded.trace, WINDOW + LONGEST, Held(weights, optimizer, total, gradients)

    def _time(self, name: str) -> float:
        self._load(name)
        for _ in range(self._counts.warmup_steps):
            self.prepared.steps(self.shapes[name])
        timer = StepTimer(self._device, [])
        for _ in range(self._counts.timed_steps):
            timer.start()
            self.prepared.steps(self.shapes[name])
            timer.stop()
        return 1000 * statistics.median(timer.seconds())

    def _load(self, name: str) -> None:
        """Have the next steps, as many as are needed at most, take this batch."""
        self.prepared.subject.model.train()
        self.prepared.step.begin([self.batches[name]] * self._counts.most, 0, 0)

    def _window(self, name: str, count: int) -> None:
        """Do `count` steps, annotated, from an idle device to an idle device."""
        self._wait()
        with record_function(WINDOW + name):
            for _ in range(count):
                with record_function(STEP):
                    self.prepared.steps(self.shapes[name])
            self._wait()

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class NotCaptured(Exception):
    """The engine that was asked for cannot capture the steps; the message says why."""


class _Recorder:
    """A profile under way, and its trace once it has ended."""

    def __init__(self, begin: Callable[[], None]) -> None:
        self.begin = begin  # ends the warm-up
        self.trace: dict[str, Any] = {}


@contextmanager
def _profile(device: torch.device, memory: bool = False) -> Iterator[_Recorder]:
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        os.environ.update(KEPT_CUPTI)
        activities.append(ProfilerActivity.CUDA)
    # The profiler's first events cost it more, CUPTI's start above all; what comes before `begin` is dropped.
    plan = schedule(wait=0, warmup=1, active=1, repeat=1)
    with profile(activities=activities, schedule=plan, profile_memory=memory) as profiler:
        recorder = _Recorder(profiler.step)
        yield recorder
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        recorder.trace = traces.with_overlaps_apart(traces.read(path))
    recorder.trace.pop("traceName", None)  # a path that is gone


@contextmanager
def _annotated(step: TrainingStep, gradients: list[set[int]] | None = None) -> Iterator[None]:
    """Within it the passes of eager steps are annotated, and `gradients` gets the addresses each backward leaves."""
    passes = dict(zip(("forward", "backward"), PHASES, strict=True))
    methods_ = {name: getattr(step, name) for name in passes}

    def annotate(method: Callable[..., Any], label: str, *arguments: Any) -> Any:
        with record_function(label):
            result = method(*arguments)
        if gradients is not None and label == passes["backward"]:
            gradients.append(
                {p.grad.untyped_storage().data_ptr() for p in step.parameters.values() if p.grad is not None}
            )
        return result

    for name, method in methods_.items():
        setattr(step, name, functools.partial(annotate, method, passes[name]))
    try:
        yield
    finally:
        for name in passes:
            delattr(step, name)


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


class ArmProfile:
    """Collects an arm's profile, one engine at a time."""

    def __init__(self, plan: Plan, device: Device, counts: StepCounts) -> None:
        self._plan, self._device, self._counts = plan, device, counts
        self._tokens = Tokens(*load_tokens(plan.tokens))
        sizes = Sizes.of(self._tokens.splits["train"])
        of_shape = batches(sizes.lengths, plan.settings["batch_size"], plan.seed)
        self._shapes = {name: sizes.shape(rows) for name, rows in of_shape.items()}
        self._engines: list[dict[str, Any]] = []
        self._operators: list[dict[str, Any]] = []
        self._kernels: list[dict[str, Any]] = []
        self._memory: list[dict[str, Any]] = []
        self._problems: list[str] = []

    def add(self, engine: str, folder: Path) -> None:
        """Profile one engine, its trace into `folder`; of eager, the memory too. What cannot be done is noted."""
        try:
            self._add(engine, folder)
        except NotCaptured as error:
            self._failed(engine, str(error))
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if refused_bytes(error)[0]:
                self._failed(engine, "out of memory")
            elif engine.endswith("compiled") and _compiler_failed(error):
                self._failed(engine, f"torch.compile failed: {str(error).strip().splitlines()[0]}")
            else:
                raise
        finally:
            if engine.endswith("compiled"):
                torch.compiler.reset()
            free_memory(self._device.torch)

    def write(self, folder: Path, conditions: dict[str, Any], threads: int) -> None:
        """Write all but the traces into `folder`; `conditions` go into env.json."""
        settings = self._plan.settings
        tables = {
            "engines": (self._engines, ENGINES),
            "operators": (self._operators, OPERATORS),
            "kernels": (self._kernels, KERNELS),
            "memory": (self._memory, COLUMNS),
        }
        for name, (rows, columns) in tables.items():
            write_text(folder / f"{name}.csv", rows_to_csv(rows, columns))
        described = machine.describe(settings["device"], threads, self._device.gpu)
        own = {"seed": self._plan.seed, "plan": dataclasses.asdict(self._counts), "batches": self._shapes}
        own |= {"problems": self._problems, "model": self._plan.model.manifest, "settings": settings}
        write_json(folder / "env.json", {**described, **conditions, **own})

    def _add(self, engine: str, folder: Path) -> None:
        plan, device = engine_plan(self._plan, engine), self._device.torch
        arm = Arm.of(plan, self._tokens, device)
        steps = ProfiledSteps(arm.subject(plan, self._tokens.data(plan.settings["task"])), device, self._counts)
        p50 = steps.timed()
        trace = steps.trace()
        found = windows(trace)
        memory = timeline(*steps.memory(), device.type) if engine == "eager" else []
        problems = traces.problems(trace) + [problem for window in found for problem in window.problems()]
        self._problems += [f"{engine}: {problem}" for problem in problems]
        traces.write(folder / f"trace_{engine}.json.gz", trace)
        self._memory += memory
        for window in found:
            shape = self._shapes[window.name]
            self._engines.append(engine_row(engine, window, shape, p50[window.name], steps.prepared_s))
            self._operators += operator_rows(engine, window)
            self._kernels += kernel_rows(engine, window)

    def _failed(self, engine: str, reason: str) -> None:
        self._engines += [failed_row(engine, batch, shape, reason) for batch, shape in self._shapes.items()]


def _compiler_failed(error: BaseException) -> bool:
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)

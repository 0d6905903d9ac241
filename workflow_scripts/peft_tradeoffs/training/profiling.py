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
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from peft_tradeoffs.core.files import rows_to_csv, write_json, write_text
from peft_tradeoffs.inputs.tokens import Split, load_tokens
from peft_tradeoffs.measure import environment, traces
from peft_tradeoffs.measure.devices import Device, free_memory, refused_bytes
from peft_tradeoffs.measure.phases import Phases, StepTimer
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
from peft_tradeoffs.training import engine, methods
from peft_tradeoffs.training.batches import epoch_batches, longest_rows, padded_length
from peft_tradeoffs.training.capture import Shape
from peft_tradeoffs.training.run import build_arm
from peft_tradeoffs.training.step import BlockGenerators, Settings, TrainingStep

TYPICAL, LONGEST = "typical", "longest"
KEPT_CUPTI = {"TEARDOWN_CUPTI": "0", "DISABLE_CUPTI_LAZY_REINIT": "1"}  # as torch.profiler sets for CUDA graphs


@dataclass(frozen=True)
class Plan:
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


def engine_settings(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """The settings of an arm for the engine eager, captured, compiled or captured-compiled.

    The learning rate is 0, so that every step computes the same.
    """
    launch = "captured" if name.startswith("captured") else "eager"
    return {**settings, "engine": launch, "compile": name.endswith("compiled"), "learning_rate": 0.0}


class ProfiledSteps(engine.Trainer):
    """A run prepared as for training, probe included, that does the steps it is asked for."""

    def __init__(
        self,
        model: nn.Module,
        splits: dict[str, Split],
        pad_token_id: int,
        settings: Settings,
        seed: int,
        device: torch.device,
        generators: BlockGenerators | None,
        plan: Plan,
    ) -> None:
        """Raises NotCaptured if the steps cannot be a CUDA graph."""
        phases = Phases(device)
        super().__init__(model, splits, pad_token_id, settings, seed, device, _Unsaved(), None, phases, generators)
        self._plan, self._wanted = plan, settings.engine
        self.batches = batches(self.lengths, settings.batch_size, seed)
        self.shapes: dict[str, Shape] = {
            name: (len(rows), padded_length(self.lengths[rows])) for name, rows in self.batches.items()
        }
        self._begin()
        self._load(LONGEST)
        self._prepare(list(self.shapes.values()))
        phases.switch(None)
        if self.progress.engine_reason is not None:
            raise NotCaptured(self.progress.engine_reason)

    @property
    def prepared_s(self) -> dict[str, float]:
        """Seconds that capturing and compiling both batches took."""
        return {"capture_s": self.steps.capture_s, "compile_s": self.steps.compile_s}

    def timed(self) -> dict[str, float]:
        """Median ms of a step of each batch without the profiler, after the warm-up."""
        return {name: self._time(name) for name in self.batches}

    def trace(self) -> dict[str, Any]:
        """A trace with a window of the plan's steps of each batch."""
        with _annotated(self.step), _profile(self.device) as recorded:
            self._load(TYPICAL)
            self.steps(self.shapes[TYPICAL])  # the profiler's warm-up, which it drops
            self._wait()
            recorded.begin()
            for name in self.batches:
                self._load(name)
                self._window(name, self._plan.steps)
        return recorded.trace

    def memory(self) -> tuple[dict[str, Any], str, Held]:
        """A trace of one eager step on the longest texts with its allocations, its window, and what was held before."""
        state = [value for values in self.optimizer.state.values() for value in values.values()]
        weights, optimizer = methods.training_bytes(self.model)["weights"], _bytes(state)
        gradients: list[set[int]] = []
        with _annotated(self.step, gradients), _profile(self.device, memory=True) as recorded:
            self._load(LONGEST)
            self.steps(self.shapes[LONGEST])
            self._wait()
            gradients.clear()
            total = weights + optimizer + sum(split.bytes for split in self.data.values())
            if self.device.type == "cuda":
                total = torch.cuda.memory_allocated(self.device)
            recorded.begin()
            self._window(LONGEST, 1)
        return recorded.trace, WINDOW + LONGEST, Held(weights, optimizer, total, gradients)

    def _time(self, name: str) -> float:
        self._load(name)
        for _ in range(self._plan.warmup_steps):
            self.steps(self.shapes[name])
        timer = StepTimer(self.device, [])
        for _ in range(self._plan.timed_steps):
            timer.start()
            self.steps(self.shapes[name])
            timer.stop()
        return 1000 * statistics.median(timer.seconds())

    def _load(self, name: str) -> None:
        """Have the next steps, as many as the plan needs at most, take this batch."""
        self.model.train()
        self.step.begin([self.batches[name]] * self._plan.most, 0, 0)

    def _window(self, name: str, count: int) -> None:
        """Do `count` steps, annotated, from an idle device to an idle device."""
        self._wait()
        with record_function(WINDOW + name):
            for _ in range(count):
                with record_function(STEP):
                    self.steps(self.shapes[name])
            self._wait()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class NotCaptured(Exception):
    """The engine that was asked for cannot capture the steps; the message says why."""


class _Unsaved:
    """The state of a run that keeps none."""

    def load(self) -> None:
        return None

    def interrupted(self) -> None:
        return None


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

    def __init__(
        self, settings: dict[str, Any], seed: int, source: tuple[dict[str, Any], Path, Path], device: Device, plan: Plan
    ) -> None:
        """`source`: the model's manifest and folder, and the tokens."""
        self._settings, self._seed, self._device, self._plan = settings, seed, device, plan
        self._manifest, self._folder, tokens = source
        self._splits, self._description = load_tokens(tokens)
        lengths = self._splits["train"].lengths
        self._shapes = {
            name: (len(rows), padded_length(lengths[rows]))
            for name, rows in batches(lengths, settings["batch_size"], seed).items()
        }
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
        settings = self._settings
        tables = {
            "engines": (self._engines, ENGINES),
            "operators": (self._operators, OPERATORS),
            "kernels": (self._kernels, KERNELS),
            "memory": (self._memory, COLUMNS),
        }
        for name, (rows, columns) in tables.items():
            write_text(folder / f"{name}.csv", rows_to_csv(rows, columns))
        described = environment.describe(settings["device"], threads, self._device.gpu, self._device.no_gpu)
        own = {"seed": self._seed, "plan": dataclasses.asdict(self._plan), "batches": self._shapes}
        own |= {"problems": self._problems, "model": self._manifest, "settings": settings}
        write_json(folder / "env.json", {**described, **conditions, **own})

    def _add(self, engine: str, folder: Path) -> None:
        settings, device = engine_settings(self._settings, engine), self._device.torch
        splits, description = self._splits, self._description
        build = (settings, self._seed, self._manifest, self._folder, splits["train"], description, device)
        built, generators, _ = build_arm(*build)
        own = (built.model, splits, description["pad_token_id"], Settings.of(settings), self._seed, device, generators)
        steps = ProfiledSteps(*own, self._plan)
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

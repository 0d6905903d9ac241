"""The profile of one arm: what each engine gave, and the files of it."""

import dataclasses
from pathlib import Path
from typing import Any

import torch

from peft_tradeoffs.core.csv_text import rows_to_csv
from peft_tradeoffs.core.files import write_json, write_text
from peft_tradeoffs.inputs.tokens import load_tokens
from peft_tradeoffs.measure import environment, trace_format
from peft_tradeoffs.measure.devices import Device, free_memory, refused_bytes
from peft_tradeoffs.measure.memory_timeline import COLUMNS, timeline
from peft_tradeoffs.measure.profile_tables import (
    ENGINES,
    KERNELS,
    OPERATORS,
    engine_row,
    failed_row,
    kernel_rows,
    operator_rows,
)
from peft_tradeoffs.measure.trace_times import windows
from peft_tradeoffs.training.batches import padded_length
from peft_tradeoffs.training.profiling import NotCaptured, Plan, ProfiledSteps, batches, engine_settings
from peft_tradeoffs.training.run import build_arm
from peft_tradeoffs.training.step import Settings


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
        problems = trace_format.problems(trace) + [problem for window in found for problem in window.problems()]
        self._problems += [f"{engine}: {problem}" for problem in problems]
        trace_format.write(folder / f"trace_{engine}.json.gz", trace)
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

"""Peak memory of an arm's probe at any batch size."""

from pathlib import Path
from typing import Any

import torch

from peft_tradeoffs.inputs.tokens import load_tokens
from peft_tradeoffs.measure.devices import Device, free_memory, refused_bytes
from peft_tradeoffs.measure.phases import Phases
from peft_tradeoffs.training import engine
from peft_tradeoffs.training.run import build_arm


class ProbePeaks:
    """The peak that a run's summary would have for the probe, on this device, by batch size."""

    def __init__(
        self, settings: dict[str, Any], seed: int, manifest: dict[str, Any], folder: Path, tokens: Path, device: Device
    ) -> None:
        self._settings, self._seed, self._device = settings, seed, device
        self._splits, self._description = load_tokens(tokens)
        self._built, self._generators = None, None
        self._source = (manifest, folder)

    def __call__(self, batch_size: int) -> float | None:
        """MiB: of CUDA's allocator, or on a CPU of the resident set; None where memory ran out."""
        device = self._device.torch
        phases = Phases(device)
        settings = engine.Settings.of({**self._settings, "batch_size": batch_size})
        try:
            if self._built is None:
                build = (self._settings, self._seed, *self._source, self._splits["train"], self._description, device)
                self._built, self._generators, _ = build_arm(*build)
            trainer = engine.Trainer(
                *(self._built.model, self._splits, self._description["pad_token_id"], settings, self._seed, device),
                *(None, None, phases, self._generators),
            )
            trainer.probed()
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            if not refused_bytes(error)[0]:
                raise
            return None
        finally:
            phases.switch(None)
            if self._built is not None:
                self._built.model.zero_grad(set_to_none=True)
            free_memory(device)
        return phases.peaks["probe_peak_allocated_MiB" if device.type == "cuda" else "probe_peak_rss_MiB"]

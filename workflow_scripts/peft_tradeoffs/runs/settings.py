"""What decides the result of a run: its settings; and its plan, which has its seed, data, model and code too."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from peft_tradeoffs.core import code, files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import UNTRAINED

Fields = dict[str, Any]
# What settings say where nothing is trained, whatever the arms do: they decide no answer.
NO_TRAINING: Fields = {
    **{"rank": None, "learning_rate": None, "quantization": None, "gradient_checkpointing": False},
    **{"peft": None, "compile": False, "epochs": 0, "max_steps": None, "batch_size": 1},
    **{"gradient_accumulation_steps": 1, "lr_scheduler_type": "linear", "warmup_ratio": 0.0, "optimizer": "adamw"},
    **{"weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "max_grad_norm": 1.0},
    **{"early_stopping": None, "tuned_as": None, "save_weights": False},
}


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run as its env.json has them; schemas/config.schema.yaml says what each means.

    They are part of the run's fingerprint, so `to_dict` gives back every value and the order of keys as `of` took them.
    """

    dataset: str
    model: str
    arm: str
    method: str
    rank: int | None  # None where the method has none
    task: str
    metric: str
    head: list[str] | None  # modules trained in full; None: what stands outside the base model
    learning_rate: float | None  # None: tuned, and not known yet
    quantization: Fields | None  # of transformers.BitsAndBytesConfig
    gradient_checkpointing: bool
    dtype: str  # of base weights
    peft: Fields | None  # None: full fine-tuning
    device: str
    precision: str
    engine: str
    compile: bool
    allow_shared_gpu: bool
    epochs: int
    max_steps: int | None
    batch_size: int
    gradient_accumulation_steps: int
    evaluation_batch_size: int
    max_length: int
    generate: Fields | None  # max_new_tokens, batch_size; None: no answers are asked for
    lr_scheduler_type: str
    warmup_ratio: float
    optimizer: str
    weight_decay: float
    adam_beta1: float
    adam_beta2: float
    adam_epsilon: float
    max_grad_norm: float
    early_stopping: Fields | None  # patience (epochs), min_delta
    tuned_as: str | None  # the arm whose tuning gives this one its learning rate
    save_weights: bool
    order: tuple[str, ...] = field(default=(), compare=False, repr=False)  # of the keys, as they were given

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "RunSettings":
        """Settings from a mapping with the keys that env.json has; raises InputError for others."""
        known = _names()
        if missing := [name for name in known if name not in settings]:
            raise InputError(f"settings of a run lack {', '.join(missing)}; take all of env.json's `settings`")
        if unknown := [name for name in settings if name not in known]:
            raise InputError(f"settings of a run have no {', '.join(unknown)}; take env.json's `settings` alone")
        return cls(**settings, order=tuple(settings))

    def untrained(self, metric: str, dtype: str) -> "RunSettings":
        """Those of the same model as it is fetched, its weights held in `dtype`."""
        return replace(self, arm=UNTRAINED, method=UNTRAINED, metric=metric, dtype=dtype, **NO_TRAINING)

    def to_dict(self) -> dict[str, Any]:
        """The same as a dict, for JSON."""
        return {name: getattr(self, name) for name in self.order or _names()}


@functools.cache
def _names() -> dict[str, None]:
    """Names of the settings, in order."""
    return dict.fromkeys(one.name for one in fields(RunSettings) if one.name != "order")


@dataclass(frozen=True)
class ModelFolder:
    """A model as fetch_model.py left it: its folder, and the manifest beside it."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def of(cls, path: Path) -> "ModelFolder":
        """The model in the folder `path`. Raises InputError for a manifest that is missing or none."""
        return cls(path, _read_manifest(path))


@dataclass(frozen=True)
class Plan:
    """All that decides the result of a run."""

    settings: dict[str, Any]
    seed: int
    tokens: Path
    model: ModelFolder
    conditions: dict[str, Any]  # of every run of a job: SHA-256 of data, model and code; versions

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it."""
        return code.digest({"seed": self.seed, "settings": self.settings, **self.conditions})


def _read_manifest(model: Path) -> dict[str, Any]:
    path = model.with_name(f"{model.name}.json")
    try:
        manifest: dict[str, Any] = files.read_json(path, "delete it and run again")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; fetch_model.py writes it beside the model") from None
    if missing := [key for key in ("sha256", "files") if not isinstance(manifest, dict) or key not in manifest]:
        raise InputError(f"{path}: not a model's manifest, no {', '.join(missing)}; delete it and run again")
    return manifest

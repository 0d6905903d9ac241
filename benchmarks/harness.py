"""What the benchmarks of training share: arms, models with random weights, and a run of the engine."""

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "workflow_scripts"))

from peft_tradeoffs.inputs.tokens import Split  # noqa: E402
from peft_tradeoffs.measure.devices import Phases, free_memory  # noqa: E402
from peft_tradeoffs.training import engine, methods  # noqa: E402
from peft_tradeoffs.training.batches import Data  # noqa: E402
from peft_tradeoffs.training.methods import hold_as_computed  # noqa: E402
from peft_tradeoffs.training.parallel import ALONE, World  # noqa: E402
from peft_tradeoffs.training.step import Settings, Subject  # noqa: E402

NF4 = {
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
# dense bf16 TFLOP/s and memory GB/s, from NVIDIA's data sheets of the SXM modules
CHIPS = {"H100": (989.4, 3350.0), "H200": (989.4, 4800.0), "A100": (312.0, 2039.0)}


@dataclass(frozen=True)
class Arm:
    """A method as the config gives it."""

    name: str
    peft: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    dtype: str = "float32"


class Nothing:
    """No state is kept, nothing is reported."""

    def load(self) -> None: ...
    def begin(self, step: int) -> None: ...
    def reached(self, step: int, total: int) -> None: ...
    def interrupted(self) -> None: ...
    def due(self) -> bool:
        return False

    def save(self, state: dict) -> None: ...
    def losses(self, row: dict) -> None: ...
    def evaluation(self, rows: list[dict]) -> None: ...


def lora(targets: list[str] | str, rank: int, **changes: Any) -> dict[str, Any]:
    """A LoRA configuration, alpha = 2r."""
    return {"peft_type": "LORA", "target_modules": targets, "r": rank, "lora_alpha": 2 * rank, **changes}


def random_checkpoint(
    config: transformers.PreTrainedConfig, folder: Path, dtype: torch.dtype, device: str, task: str = "classification"
) -> Path:
    """A folder with a model of random weights; drawn on `device`, which for a large one is faster on a GPU."""
    torch.manual_seed(0)
    kind = transformers.AutoModel if task == "classification" else transformers.AutoModelForCausalLM
    with torch.device(device):
        model = kind.from_config(config, dtype=dtype)
    model.save_pretrained(folder)
    return folder


def build(folder: Path, arm: Arm, device: str, precision: str = "bf16", task: str = "classification") -> methods.Built:
    """The arm's model, as a run builds it."""
    free_memory(torch.device(device))
    recipe = methods.Recipe(arm.peft, arm.quantization, False, None, task, arm.dtype)
    outputs = methods.Outputs(num_labels=2 if task == "classification" else 0, pad_token_id=0)
    built = methods.build(folder, recipe, outputs, seed=0, device=device)
    hold_as_computed(built.model, precision, torch.device(device), torch.arange(1, 17))
    return built


def flops_a_step(model: torch.nn.Module, batch: int, length: int) -> float:
    """FLOPs of forward and backward of a batch, by torch's counter (matrix products and attention)."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(model.parameters()).device
    ids = torch.randint(1, 400, (batch, length), device=device)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    counter = FlopCounterMode(display=False)
    model.train()
    model.set_attn_implementation("eager")  # the counter does not know attention of grouped queries
    with counter, torch.autocast(device.type, torch.bfloat16):
        model(input_ids=ids, labels=labels).loss.backward()
    model.set_attn_implementation("sdpa")
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops()


def settings(**changes: Any) -> Settings:
    """Settings of a benchmark: bf16, batch 32, a rate at which random weights stay finite."""
    values: dict[str, Any] = {
        "learning_rate": 1e-5,
        "epochs": 1,
        "max_steps": 270,
        "batch_size": 32,
        "gradient_accumulation_steps": 1,
        "evaluation_batch_size": 64,
        "lr_scheduler_type": "linear",
        "warmup_ratio": 0.1,
        "optimizer": "adamw",
        "weight_decay": 0.01,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,
        "precision": "bf16",
        "early_stopping": None,
        "task": "classification",
        "metric": "accuracy",
        "engine": "captured",
        "compile": False,
    }
    return Settings(**{**values, **changes})


def train(
    model: torch.nn.Module, train_split: Split, chosen: Settings, device: str, world: World = ALONE
) -> tuple[engine.Result, Phases]:
    """Run the engine; the test split is the first 64 training texts."""
    where = torch.device(device)
    phases = Phases(where)
    splits = {"train": train_split, "test": train_split.take(np.arange(64))}
    subject = Subject(model, Data.of(splits, 0, chosen.task), chosen, 0, world=world)
    return engine.train(subject, where, phases, engine.Watch(Nothing(), Nothing())), phases


def quiet() -> None:
    """Leave out what the libraries say."""
    warnings.filterwarnings("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def chip(device: str) -> tuple[str, float | None, float | None]:
    """Device name, its peak bf16 TFLOP/s and GB/s, None where not known."""
    if device == "cpu":
        return "cpu", None, None
    name = torch.cuda.get_device_name()
    flops, bandwidth = next((values for key, values in CHIPS.items() if key in name), (None, None))
    return name, flops, bandwidth


def versions() -> str:
    """Versions that decide the figures."""
    import peft

    return f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"

"""What of the settings of training does not go together."""

from collections.abc import Mapping

from peft_tradeoffs.config.model import Dataset, Training
from peft_tradeoffs.core.errors import InputError


def check_training(training: Training, datasets: Mapping[str, Dataset]) -> None:
    """Raise InputError for settings of a settled `training` that do not go together, or with the data sets."""
    if training.parallel == "sharded":
        _check_sharded(training)
    if training.engine == "captured" and training.device == "cpu":
        raise InputError(
            "config key training.engine: captured needs CUDA graphs, which device cpu has not; set eager or remove it"
        )
    if training.batch_size % training.gradient_accumulation_steps:
        raise InputError(
            f"config key training.gradient_accumulation_steps: batch_size {training.batch_size} "
            f"cannot be split into {training.gradient_accumulation_steps} equal parts; choose a divisor of it"
        )
    if training.optimizer.startswith("paged") and training.device == "cpu":
        raise InputError(
            f"config key training.optimizer: {training.optimizer} moves pages between a GPU and the host, and "
            "training.device is cpu; set adamw_8bit, or training.device cuda"
        )
    for name, dataset in datasets.items() if training.early_stopping else ():
        if "validation" not in dataset.all_splits():
            raise InputError(
                f"config key training.early_stopping: data set {name} has no validation split, and "
                "stopping on test would select on it; set fractions.validation (0.1, say)"
            )


def _check_sharded(training: Training) -> None:
    if training.engine == "captured":
        raise InputError(
            "config key training.engine: captured, but steps of training.parallel sharded cannot be captured in CUDA "
            "graphs; set eager or remove it"
        )
    if training.optimizer != "adamw":
        raise InputError(
            f"config key training.optimizer: {training.optimizer} has blocks of moments that training.parallel sharded "
            "would cut in two; set adamw, or parallel data"
        )

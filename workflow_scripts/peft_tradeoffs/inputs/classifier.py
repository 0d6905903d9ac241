"""The model that Transformers makes of a folder for a task, without its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from peft_tradeoffs.core.errors import InputError, error_text
from peft_tradeoffs.tasks.classes import Names
from peft_tradeoffs.tasks.task import Task

# What Transformers raises for values of a config.json that make no model, or that want a package that is not there.
UNBUILDABLE = (
    *(ValueError, TypeError, RuntimeError, AttributeError, AssertionError, ArithmeticError, LookupError),
    ImportError,
)


def load_config(folder: Path, **fields: Any) -> PreTrainedConfig:
    """The config of a model folder, never by code from the folder.

    Raises InputError for a folder that is gone, needs such code, is of a type Transformers does not know or has
    values that this type does not take.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: the model is gone; delete {folder}.json and run again, which fetches it")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, **fields)
    except (StrictDataclassError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise InputError(f"{folder}/config.json: {error_text(error)}; correct it") from error
    except ValueError as error:
        reason = (str(error).strip().splitlines() or ["no model's config.json"])[0]
        unknown = any(words in reason for words in ("model type", "custom code", "Unrecognized model"))
        remedy = (
            "code that comes with a model is never run; choose a model that Transformers knows"
            if unknown
            else "correct its config.json"
        )
        raise InputError(f"{folder}: {reason} ({remedy})") from error


def name_outputs(config: PreTrainedConfig, names: Names) -> None:
    """Give the config the names of the outputs; None: no names are known.

    The names that a base model's config has are those of the task that it was trained for.
    """
    if names is not None:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: index for index, name in enumerate(names)}


def saved_head(config: PreTrainedConfig) -> dict[str, Any]:
    """What Transformers must be given, beside the base model, to make this classifier's head."""
    return {
        "problem_type": config.problem_type,
        "labels": [config.id2label[index] for index in range(config.num_labels)],
        "pad_token_id": config.pad_token_id,
        **{key: getattr(config, key) for key in ("target_mean", "target_sd") if hasattr(config, key)},
    }


def empty_model(config: PreTrainedConfig, task: Task) -> PreTrainedModel:
    """The task's model of a config on the meta device.

    Raises InputError for a model type that has none, and for values that make no model.
    """
    place = Path(config.name_or_path) / "config.json"
    with torch.device("meta"):
        try:
            return getattr(transformers, task.auto_class).from_config(config, trust_remote_code=False)
        except UNBUILDABLE as error:
            if "Unrecognized configuration class" in str(error):
                raise InputError(
                    f"Transformers has no {task.model_kind} for model type {config.model_type}: choose an "
                    f"encoder or a decoder that {task.auto_class} knows"
                ) from error
            if "Padding_idx" in str(error):
                raise InputError(
                    f"{place}: pad_token_id {config.pad_token_id} is beyond the model's {config.vocab_size} "
                    "embeddings; set it to a token of the vocabulary, or resize them: "
                    "model.resize_token_embeddings(len(tokenizer))"
                ) from error
            said = error_text(error)
            raise InputError(f"{place}: no {config.model_type} model can be built of it: {said}") from error


def in_head(name: str, head: list[str]) -> bool:
    """Whether the parameter `name` belongs to one of the modules `head`."""
    return any(name.startswith(f"{part}.") for part in head)


def check_loaded(info: Mapping[str, Any], head: list[str], folder: Path) -> None:
    """Raise InputError if weights outside the head are not the checkpoint's; `info` is Transformers' loading_info.

    Transformers draws those at random that the checkpoint lacks or has in another shape.
    """
    lacking = sorted(key for key in info["missing_keys"] if not in_head(key, head))
    if lacking:
        raise InputError(
            f"{folder}: the checkpoint lacks {len(lacking)} backbone weights ({', '.join(lacking[:3])}"
            f"{', …' if len(lacking) > 3 else ''}); its config.json and weights belong to different models"
        )
    other = sorted((key, tuple(found), tuple(needed)) for key, found, needed in info["mismatched_keys"])
    for key, found, needed in other:
        if not in_head(key, head):
            raise InputError(
                f"{folder}: the checkpoint's {key} is {list(found)}, its config.json asks for {list(needed)}; "
                "they belong to different models"
            )


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer (GPT-2's Conv1D is one)."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def linear_names(model: nn.Module) -> list[str]:
    """Last parts of the names of all linear layers, sorted: what target_modules usually lists."""
    return sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if is_linear(module)})

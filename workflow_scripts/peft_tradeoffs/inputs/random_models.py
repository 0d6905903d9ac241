"""A model with random weights, for measuring speed and memory where no pretrained model of that shape is at hand.

The folder is one that `save_pretrained` could have written, so nothing that reads it knows the difference.
"""

import dataclasses
import difflib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import read_json, shared, system_errors, write_json
from peft_tradeoffs.inputs.model_files import folder_files, tokenizer_files
from peft_tradeoffs.inputs.pointers import refuse_pointer
from peft_tradeoffs.inputs.tokenizer_check import bare_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

SEED = 0
DTYPES = ("float32", "bfloat16")
OF_THE_TASK = ("id2label", "label2id", "problem_type")  # the data set decides them
PROBE = "A probe of the tokenizer: 42 words, naïve ones too."


def write_random_model(fields: dict[str, Any], origin: Path, folder: Path) -> None:
    """Write config.json, weights drawn from seed 0 and the tokenizer of the model folder `origin` to `folder`.

    `fields` are those of the Transformers config, with model_type; dtype is what the weights are drawn and stored
    in, float32 by default. Raises InputError for fields that the config does not know or that make no model, and
    for a vocabulary smaller than the tokenizer's; OSError for a full disk, say.
    """
    config = _config(fields)
    _check_shape(config)
    folder.mkdir(parents=True, exist_ok=True)
    for name in tokenizer_files(folder_files(origin)):
        refuse_pointer(origin / name)
    tokenizer = _load_tokenizer(origin)
    _check_vocabulary(config, tokenizer)
    _copy_tokenizer(tokenizer, origin, folder)
    _write_weights(config, fields.get("dtype", DTYPES[0]), folder)
    _check_tokenizer(tokenizer, folder)


def _config(fields: dict[str, Any]) -> "PreTrainedConfig":
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    where = "config key models.*.config"
    kind = fields.get("model_type")
    if kind not in CONFIG_MAPPING:
        close = difflib.get_close_matches(str(kind), CONFIG_MAPPING.keys(), n=1)
        known = f"did you mean {close[0]}?" if close else "it is that of a model's config.json, such as bert or llama"
        raise InputError(f"{where}.model_type: Transformers knows no {kind!r}; {known}")
    config_class = CONFIG_MAPPING[kind]
    known = {field.name for field in dataclasses.fields(config_class)} | set(config_class.attribute_map)
    known = {name for name in known if not name.startswith("_")}.difference(OF_THE_TASK)
    for name in fields.keys() - {"model_type"}:
        if name not in known:  # Transformers would keep it and build the model without it
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known fields: {', '.join(sorted(known))}"
            raise InputError(f"{where}.{name}: {config_class.__name__} has no such field to set; {hint}")
    values = {"dtype": DTYPES[0], **{name: value for name, value in fields.items() if name != "model_type"}}
    if values["dtype"] not in DTYPES:
        raise InputError(f"{where}.dtype: {values['dtype']!r} is unknown; must be one of {', '.join(DTYPES)}")
    try:
        return config_class(**values)
    except (StrictDataclassError, ValueError, TypeError, ArithmeticError) as error:
        raise InputError(f"{where}: {_one_line(error)}; correct it") from error


def _check_shape(config: "PreTrainedConfig") -> None:
    """Build the model without weights; raises InputError for sizes that do not go together."""
    import torch
    from transformers import AutoModel

    from peft_tradeoffs.inputs.classifier import empty_classifier

    try:
        with torch.device("meta"):
            AutoModel.from_config(config, trust_remote_code=False)
        empty_classifier(config)
    except (ValueError, TypeError, RuntimeError, AssertionError, ArithmeticError, LookupError) as error:
        raise InputError(f"config key models.*.config: no model can be built of it: {_one_line(error)}") from error


def _load_tokenizer(folder: Path) -> "PreTrainedTokenizerBase":
    return bare_tokenizer(folder, "config key models.*.tokenizer: it")


def _check_vocabulary(config: "PreTrainedConfig", tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raise InputError for fewer tokens than the tokenizer's; a model that hashes its tokens takes any."""
    needed = max(tokenizer.get_vocab().values(), default=-1) + 1
    size = getattr(config.get_text_config(), "vocab_size", None)
    if size is not None and size < needed:
        raise InputError(
            f"config key models.*.config.vocab_size: {size} is below the tokenizer's {needed} tokens; "
            f"set it to {needed} or more"
        )


def _copy_tokenizer(tokenizer: "PreTrainedTokenizerBase", origin: Path, folder: Path) -> None:
    """Copy tokenizer files alone, and write down the class, which AutoTokenizer may have from the model's type."""
    for name in tokenizer_files(folder_files(origin)):
        (folder / name).parent.mkdir(exist_ok=True)  # of chat templates
        shutil.copyfile(origin / name, folder / name)
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    if "tokenizer_class" not in settings:
        write_json(path, {**settings, "tokenizer_class": type(tokenizer).__name__})


def _check_tokenizer(expected: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Raise InputError unless the tokenizer in `folder`, now beside another config.json, still reads as it did."""
    found = _load_tokenizer(folder)
    if found(PROBE)["input_ids"] != expected(PROBE)["input_ids"] or found.get_vocab() != expected.get_vocab():
        raise InputError(
            f"config key models.*.tokenizer: {type(expected).__name__} becomes {type(found).__name__} beside a model "
            "of this type and reads texts otherwise; take the tokenizer of a model of the same type"
        )


def _write_weights(config: "PreTrainedConfig", dtype: str, folder: Path) -> None:
    import torch
    from transformers import AutoModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = AutoModel.from_config(config, dtype=getattr(torch, dtype), trust_remote_code=False)
    with system_errors(folder):
        model.save_pretrained(folder)
    shared(folder)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

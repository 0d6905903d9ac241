"""What a message about a value of a wrong type advises is accepted, or nothing is advised."""

import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.core.errors import InputError


def put(settings: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    *above, last = key.split(".")
    block = settings
    for name in above:
        block = block.setdefault(name, {})
    block[last] = value
    return settings


@pytest.mark.parametrize(
    ("key", "value", "advised"),
    [
        ("training.max_length", "1,000", 1000),
        ("training.epochs", "3", 3),
        ("training.epochs", "3.0", 3),
        ("training.epochs", "3 epochs", "the number alone"),
        ("training.warmup_ratio", "10 %", 0.1),
        ("training.warmup_ratio", "0,1", 0.1),
        ("training.warmup_ratio", "500 %", None),
        ("recommendation.memory_GiB", "1,500", "it without a comma"),
        ("recommendation.memory_GiB", "7,5", 7.5),
        ("recommendation.memory_GiB", "None", None),
        ("keep_weights", "No", False),
        ("seeds", "0, 1, 2,", [0, 1, 2]),
        ("seeds", "0 1 2", [0, 1, 2]),
        ("seeds", "[8, 16]", [8, 16]),
        ("seeds", "3 seeds", None),
        ("seeds", "0-2", None),
        ("methods.lora.ranks", "8 16", [8, 16]),
        ("methods.full.learning_rate", "1e-4", 1e-4),
        ("methods.full.learning_rate", "1e-4, 3e-4", [1e-4, 3e-4]),
        ("methods.full.learning_rate", True, None),
        ("datasets.reviews.text", "yes", ["yes"]),
        ("datasets.reviews.text", "1", ["1"]),
        ("training.epochs", [2], "one value, without brackets"),
    ],
)
def test_advice_is_accepted_or_there_is_none(key, value, advised, tmp_path: Path):
    settings = put(tiny.config(tmp_path), key, value)
    with pytest.raises(InputError) as refused:
        resolve(settings)
    said = re.search(
        r"[:;] write (.+?)(?:, without quotes|, and decimals behind a point| for .*)?$", str(refused.value)
    )
    if advised is None:
        assert not said or said[1] in ("null", "a value, or leave it out"), refused.value
        return
    assert said, refused.value
    if isinstance(advised, str):
        assert said[1].startswith(advised)
        return
    found = yaml.safe_load(said[1])
    assert found == advised and type(found) is type(advised)
    try:
        resolve(put(tiny.config(tmp_path), key, found))
    except InputError as error:  # of other keys: a list of rates asks for one in every method
        assert f"config key {key}: " not in str(error), error

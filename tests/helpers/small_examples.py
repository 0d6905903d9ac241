"""The files in examples/ in small: tiny models, fewer rows and epochs."""

import re
from pathlib import Path
from typing import Any

import tiny
import yaml

EXAMPLES = tiny.REPOSITORY / "examples"


def example(name: str, **model: Any) -> dict[str, Any]:
    """The example, its model replaced by a tiny one and its sizes cut."""
    settings = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    settings["output"] = "results"
    settings["models"] = {key: model or {"source": "folder", "path": "model"} for key in settings["models"]}
    settings["training"].update(epochs=min(2, settings["training"].get("epochs", 1)), batch_size=16, max_length=32)
    settings["seeds"] = settings["seeds"][:1]
    return settings


def docstrings(settings: dict[str, Any]) -> dict[str, Any]:
    settings["datasets"]["docstrings"]["limit"] = {"train": 64, "test": 32}
    return settings


def run_demo(folder: Path, tiny_bert: Path) -> Path:
    """Run the demo as it is, but for a tiny wheel and fewer rows, in `folder`; returns its output."""
    index = folder / "wheels"
    index.mkdir()
    tiny.wheel(tiny_bert, index)
    model = {"source": "wheel", "requirement": "tiny-model==1.0", "subfolder": "tiny_model/model"}
    settings = docstrings(example("demo", **model))
    said = tiny.snakemake(folder, settings | {"seeds": [0, 1, 2]}, PIP_FIND_LINKS=str(index)).stdout
    lines = said.splitlines()
    of_events = [line for line in lines if re.match(r"\d\d:\d\d:\d\d  ", line)]
    assert len(of_events) > 20 and len(lines) <= 120, said
    assert [line for line in lines if len(line) > 160 and str(folder) not in line] == []
    assert "The page is results/report.html" in said
    return folder / "results"

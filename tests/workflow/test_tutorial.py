"""The tutorial, docs/your-data.md: its commands in their order and its configuration, with a tiny model."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import yaml

ROOT = tiny.REPOSITORY
PAGE = (ROOT / "docs/your-data.md").read_text(encoding="utf-8")
VERDICT = "results/tickets/tables/recommendation.md"
RATES = {"full": {"learning_rate": 3e-4}, "lora": {"learning_rate": 3e-3}}
STEPS, AFTER = PAGE.split("## Your own model")


def blocks(kind: str, text: str) -> list[str]:
    """Code blocks of a kind."""
    return [block for one, block in re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", text) if one == kind]


ENVIRONMENT = (["make", "env"], [".", ".venv/bin/activate"])  # the tests are in it
FIRST, LONGER = STEPS.split("In `my.yaml` change `epochs: 2` to `epochs: 6`, and call again:")


def commands(text: str) -> Iterator[list[str]]:
    """Every command that some of the tutorial shows, in words."""
    for block in blocks("console", text):
        for line in block.splitlines():
            assert line.startswith("$ "), line
            words = shlex.split(line[2:], comments=True)
            if words not in ENVIRONMENT:
                yield words


def carried_out(words: list[str], folder: Path) -> str:
    """What a command of the page says, called in `folder` with the repository's own files."""
    if words[0] == "python":
        call = [sys.executable, str(ROOT / words[1]), *words[2:]]
        return subprocess.run(call, cwd=folder, check=True, capture_output=True, text=True).stdout
    assert words[0] == "snakemake", words
    places = {"profiles/": ROOT, "my.yaml": folder}
    wanted = [re.sub(r"profiles/|my\.yaml", lambda found: f"{places[found[0]]}/{found[0]}", word) for word in words[1:]]
    if "-n" not in words:
        # Trials, figures and page take most of the time, and have tests: test_demo_in_small_from_a_wheel.
        target = [] if {"estimate", "fetch"} & set(words) else [VERDICT]
        wanted = [*target, *wanted, "--config", f"methods={json.dumps(RATES)}"]
    return tiny.snakemake(folder, None, *wanted).stdout


def summaries(output: Path) -> dict[str, dict[str, Any]]:
    """Every run's summary, by "arm/seed"."""
    found = sorted(output.glob("runs/*/*/*/seed*/summary.json"))
    return {f"{path.parts[-3]}/{path.parts[-2]}": json.loads(path.read_text(encoding="utf-8")) for path in found}


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> tuple[Path, dict[str, str]]:
    """A folder in which the tutorial was followed, and what each of its commands said."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "model").symlink_to(tiny_bert)
    (text,) = blocks("yaml", STEPS)
    settings = yaml.safe_load(text)
    settings["models"] = {name: {"source": "folder", "path": "model"} for name in settings["models"]}
    settings["datasets"]["tickets"]["limit"] = {"train": 64}
    settings["training"] |= {"epochs": 1}
    settings["tune"] |= {"retry": 0}
    (folder / "my.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return folder, {shlex.join(words): carried_out(words, folder) for words in commands(FIRST)}


def test_the_file_is_as_the_page_shows_it(followed):
    folder, _ = followed
    (shown,) = (block for block in blocks("", STEPS) if block.startswith("body,team"))
    assert (folder / "tickets.csv").read_text(encoding="utf-8").startswith(shown)
    tickets = pd.read_csv(folder / "tickets.csv")
    assert len(tickets) == 600 and tickets["team"].nunique() == 3 and tickets["body"].is_unique


def test_the_plan_says_what_the_page_shows(followed):
    (plan,) = (said for words, said in followed[1].items() if "-n" in words and "seeds" not in words)
    (shown,) = (block for block in blocks("", STEPS) if block.startswith("note:"))
    assert " ".join(shown.split()).rstrip(" …") in " ".join(plan.split())
    assert re.search(r"(?m)^tune +2$", plan) and re.search(r"(?m)^train +2$", plan)


def test_the_tutorial_ends_in_a_verdict(followed):
    folder, _ = followed
    runs = summaries(folder / "results/tickets")
    assert set(runs) == {f"{arm}/seed{seed}" for arm in ("full", "lora-r8") for seed in range(3)}
    assert {run["test_rows"] for run in runs.values()} == {300}
    assert "| LoRA r8 |" in (folder / VERDICT).read_text(encoding="utf-8")
    assert not (folder / "results/first").exists()  # that was a plan


def test_more_epochs_train_the_runs_again(followed, tmp_path):
    folder = shutil.copytree(followed[0], tmp_path / "copy", symlinks=True)
    (again,) = commands(LONGER)
    text = (folder / "my.yaml").read_text(encoding="utf-8")
    (folder / "my.yaml").write_text(text.replace("epochs: 1", "epochs: 2"), encoding="utf-8")
    before = summaries(folder / "results/tickets")
    carried_out(again, folder)
    after = summaries(folder / "results/tickets")
    assert set(after) == set(before) and all(after[run]["steps"] == 2 * before[run]["steps"] for run in before)


def test_what_the_page_shows_of_other_models_is_taken():
    from peft_tradeoffs.config.experiment import resolve

    (text,) = blocks("yaml", STEPS)
    arms = set()
    for block in blocks("yaml", AFTER):
        settings = yaml.safe_load(text)
        for key, value in yaml.safe_load(block).items():
            settings[key] = value if key == "models" else settings[key] | value
        arms |= set(resolve(settings).arms)
    assert arms == {"full", "lora-r8", "qlora-r8"}

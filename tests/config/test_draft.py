"""A configuration drafted from a file: ten shapes of data, what each is taken for, and that each plans as it is."""

import csv
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forks
import pandas
import pytest
import tiny
import tiny_causal
import yaml
from hub_client import MODEL, REVISION, python, tiny_bert as hub_bert
from hub_server import HubServer
from peft_tradeoffs.config import draft as drafting
from peft_tradeoffs.config.draft import UNKNOWN, Asked, draft
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.core.errors import InputError

INIT = tiny.REPOSITORY / "workflow_scripts/init.py"
WORDS = (*tiny.GOOD, *tiny.BAD, *tiny.FILLER)
GERMAN = "die Rechnung wurde doppelt abgebucht und der Bildschirm bleibt schwarz bitte um Rückruf größer über".split()
JAPANESE = "請求書が二重に届きました画面真っ暗荷物まだ来ない返金お願い"


def prose(count: int, seed: int, words: Any = WORDS, low: int = 3, high: int = 12, gap: str = " ") -> list[str]:
    """Different texts."""
    chance = random.Random(seed)
    return [gap.join(chance.choices(words, k=chance.randint(low, high))) + f"{gap}{number}x" for number in range(count)]


def write_csv(path: Path, columns: dict[str, list[Any]], separator: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=separator)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def cycle(names: list[Any], count: int) -> list[Any]:
    return [names[number % len(names)] for number in range(count)]


def semicolon(folder: Path) -> Path:
    path = folder / "tickets.csv"
    teams = cycle(["billing", "technical", "shipping"], 90)
    texts = [f"{text}, {number}" for number, text in enumerate(prose(90, 1))]
    write_csv(path, {"id": list(range(90)), "body": texts, "team": teams}, ";")
    return path


def pairs(folder: Path) -> Path:
    path = folder / "pairs.tsv"
    labels = cycle(["yes", "no"], 80)
    columns = {"premise": prose(80, 1), "hypothesis": prose(80, 2), "label": labels, "source": cycle(list("abc"), 80)}
    write_csv(path, columns, "\t")
    return path


def regression(folder: Path) -> Path:
    path = folder / "essays.csv"
    write_csv(path, {"essay": prose(80, 1), "score": [round(1 + 4 * number / 79, 3) for number in range(80)]})
    return path


def chats(folder: Path) -> Path:
    rows = [{"id": number, "messages": turns} for number, turns in enumerate(tiny_causal.chats(40))]
    return tiny_causal.write_rows(folder / "chats.jsonl", rows)


def completions(folder: Path) -> Path:
    return tiny_causal.write_completions(folder / "answers.jsonl", 40)


def forty(folder: Path) -> Path:
    path = folder / "intents.csv"
    write_csv(path, {"utterance": prose(800, 1), "intent": cycle(list(range(40)), 800)})
    return path


def lopsided(folder: Path) -> Path:
    path = folder / "fraud.csv"
    labels = ["fraud" if number % 100 == 0 else "fine" for number in range(600)]
    write_csv(path, {"note": prose(600, 1), "outcome": labels})
    return path


def parquet(folder: Path) -> Path:
    path = folder / "reviews.parquet"
    frame = pandas.DataFrame({"text": prose(80, 1), "stars": cycle([1, 2, 3, 4, 5], 80), "when": range(80)})
    frame.to_parquet(path)
    return path


def two_texts(folder: Path) -> Path:
    path = folder / "mail.csv"
    columns = {"subject": prose(80, 1, high=4), "body": prose(80, 2), "team": cycle(["a", "b"], 80)}
    write_csv(path, columns)
    return path


def japanese(folder: Path) -> Path:
    path = folder / "問い合わせ.csv"
    texts = prose(80, 1, JAPANESE, 10, 30, "")
    write_csv(path, {"本文": texts, "担当": cycle(["請求", "技術"], 80)})
    return path


SHAPES: dict[str, tuple[Callable[[Path], Path], dict[str, Any], dict[str, Any]]] = {
    # the file; what of the data set's block; what of the rest
    "semicolon": (
        semicolon,
        {"separator": ";", "text": ["body"], "label": "team", "task": "classification", "metric": "accuracy"},
        {"precision": "fp32", "max_length": 32},
    ),
    "pairs": (pairs, {"text": ["premise", "hypothesis"], "label": "label", "metric": "accuracy"}, {"max_length": 32}),
    "regression": (regression, {"text": ["essay"], "label": "score", "task": "regression", "metric": "pearson"}, {}),
    "chats": (chats, {"messages": "messages", "chat_template": "tokenizer", "task": "sft", "metric": "token_loss"}, {}),
    "completions": (
        completions,
        {"prompt": "prompt", "completion": "completion", "chat_template": "tokenizer", "task": "sft"},
        {},
    ),
    "forty classes": (forty, {"text": ["utterance"], "label": "intent", "task": "classification"}, {}),
    "99 to 1": (lopsided, {"text": ["note"], "label": "outcome", "metric": "mcc", "fractions": {"test": 0.3}}, {}),
    "parquet": (parquet, {"text": ["text"], "label": "stars", "task": "classification"}, {}),
    "two texts": (two_texts, {"text": ["subject", "body"], "label": "team"}, {}),
    "japanese": (japanese, {"text": ["本文"], "label": "担当", "metric": "accuracy"}, {}),
}


@pytest.fixture(scope="module")
def causal(tmp_path_factory) -> Path:
    return tiny_causal.causal(tmp_path_factory.mktemp("causal"))


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path, tiny_bert):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").symlink_to(tiny_bert)
    monkeypatch.setattr(drafting.machine, "machine_gpus", list)


def drafted(train: Path | str, model: str = "bert", **options: Any) -> dict[str, Any]:
    return yaml.safe_load(draft(Asked(train=str(train), model=model, **options)).text)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_of_this_shape_plans_as_it_is_drafted(tmp_path, causal, shape):
    write, of_data, of_training = SHAPES[shape]
    (tmp_path / "causal").symlink_to(causal)
    path = write(tmp_path).relative_to(tmp_path)
    made = draft(Asked(train=str(path), model="causal" if of_data.get("task") == "sft" else "bert"))
    config = yaml.safe_load(made.text)
    ((_, block),) = config["datasets"].items()
    assert {key: block.get(key) for key in of_data} == of_data
    assert {key: config["training"][key] for key in of_training} == of_training
    assert list(resolve(config).arms) == ["full", "lora-r8", "lora-r32", "qlora-r8", "qlora-r32"]
    assert len(made.said) <= 8
    (tmp_path / "my.yaml").write_text(made.text)
    done = tiny.snakemake(tmp_path, None, "-n", "--quiet", "rules", f"--configfile={tmp_path}/my.yaml")
    assert "fetch_dataset             1" in done.stdout

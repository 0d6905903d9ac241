"""Nothing outside tasks/ names a task, or looks at labels to guess it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import yaml
from peft_tradeoffs.core.layout import SCHEMAS, SCRIPTS, json_schema
from peft_tradeoffs.tasks.task import DEFAULT, TASKS

ROOM = SCRIPTS / "peft_tradeoffs" / "tasks"
# A literal that has a task's name in it, and why it may.
EXCEPTIONS = {
    ("write_peft_schema.py", "PEFT cannot train it with a sequence classification head"): "an architecture, no task",
    **{
        ("peft_tradeoffs/core/quantities.py", text): "what a recorded quantity is, as schemas and exports say it"
        for text in (
            "Null: several classes, of which f1 is the macro average, or a regression.",
            "Null: no regression.",
            "Mean cross-entropy over the test split, or mean squared error for regression.",
            "Weights of the classification head, trained in every arm.",
        )
    },
}
ASKED = {"labels", "num_labels"}  # of a data set's description, by whose absence a task could be guessed


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """String literals with their lines, but for docstrings, which say and decide nothing."""
    said = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.lineno, node.value


def names_a_task(source: str) -> list[tuple[int, str]]:
    words = re.compile(rf"\b({'|'.join(map(re.escape, TASKS))})\b")
    return [(line, text) for line, text in texts(ast.parse(source)) if words.search(text)]


def guesses_the_task(source: str) -> list[int]:
    """Lines that compare labels or their number with None or 1."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and isinstance(other := node.comparators[0], ast.Constant):
            asked = {part.id for part in ast.walk(node.left) if isinstance(part, ast.Name)}
            asked |= {text for _, text in texts(node.left)}
            if other.value in (None, 1) and asked & ASKED:
                found.append(node.lineno)
    return found


def outside() -> list[Path]:
    return sorted(path for path in SCRIPTS.rglob("*.py") if ROOM not in path.parents)


@pytest.mark.parametrize("path", outside(), ids=lambda path: path.relative_to(SCRIPTS).as_posix())
def test_nothing_outside_the_room_names_a_task(path):
    source, name = path.read_text(encoding="utf-8"), path.relative_to(SCRIPTS).as_posix()
    found = [(line, text) for line, text in names_a_task(source) if (name, text) not in EXCEPTIONS]
    assert not found, f"{name}: take it from peft_tradeoffs.tasks.task, or say why not in EXCEPTIONS"


def test_every_exception_is_one():
    for name, text in EXCEPTIONS:
        assert text in {found for _, found in names_a_task((SCRIPTS / name).read_text(encoding="utf-8"))}


def test_nothing_outside_the_room_guesses_the_task_from_labels():
    found = {path.name: guesses_the_task(path.read_text(encoding="utf-8")) for path in outside()}
    assert not {name: lines for name, lines in found.items() if lines}


@pytest.mark.parametrize(
    ("source", "names", "guesses"),
    [
        ('task == "regression"', 1, 0),
        ('raise ValueError(f"{x}: set `task: classification`")', 1, 0),
        ('"""A classification."""', 0, 0),
        ('x = "reclassification"', 0, 0),
        ("labels is None", 0, 1),
        ('description["labels"] is not None', 0, 1),
        ('tokens["num_labels"] == 1', 0, 1),
        ("labels == 2", 0, 0),
        ("rows is None", 0, 0),
    ],
)
def test_the_test_sees_what_it_looks_for(source, names, guesses):
    assert (len(names_a_task(source)), len(guesses_the_task(source))) == (names, guesses)


def test_schemas_offer_the_tasks_that_there_are():
    text = (SCHEMAS / "config.schema.yaml").read_text(encoding="utf-8")
    offered = [node["task"] for node in _nodes(yaml.safe_load(text)) if "default" in (node.get("task") or {})]
    assert [(task["enum"], task["default"]) for task in offered] == [(list(TASKS), DEFAULT)]
    assert json_schema("summary")["properties"]["task"]["enum"] == list(TASKS)


def test_every_task_has_an_example():
    used = set()
    for path in (tiny.REPOSITORY / "examples").glob("*.yaml"):
        blocks = yaml.safe_load(path.read_text(encoding="utf-8"))["datasets"].values()
        used |= {block.get("task", DEFAULT) for block in blocks}
    assert used == set(TASKS)


def _nodes(value: object) -> Iterator[dict]:
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from _nodes(part)
    elif isinstance(value, list):
        for part in value:
            yield from _nodes(part)

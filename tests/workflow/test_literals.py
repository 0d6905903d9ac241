"""No module and no script outside `tasks/` names a metric, but for exceptions with a reason."""

import ast
import functools
import re
from collections.abc import Iterator

import pytest
import tiny
from peft_tradeoffs.tasks.metrics import METRICS

SCRIPTS = tiny.REPOSITORY / "workflow_scripts"
ROOM = SCRIPTS / "peft_tradeoffs" / "tasks"
NAMES = {"metric": tuple(METRICS)}  # by what has them: the names that stand in `tasks/` alone
# By module and beginning of a literal (of an f-string its part): why a name may stand there.
EXCEPTIONS = {
    ("peft_tradeoffs/report/export.py", "Runs of peft-tradeoffs: accuracy against memory, "): (
        "the title of the exported package, which says what the project is about"
    ),
    ("peft_tradeoffs/report/page.py", "numeric"): "a key of the page's table: which of its columns are numbers",
    **{
        (
            "peft_tradeoffs/core/quantities.py",
            text,
        ): "what positive_class is, as schemas and exports say it"
        for text in ("The class that f1 is of, ", "Null: several classes, of which f1 is the macro average")
    },
}


def literals(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every string literal but docstrings; of an f-string, of each of its parts."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.lineno, node.value


def named(text: str, names: tuple[str, ...]) -> list[str]:
    """The names that stand in a text as words of their own."""
    return re.findall(rf"(?<![\w-])(?:{'|'.join(map(re.escape, names))})(?![\w-])", text)


@functools.cache
def places(kind: str) -> list[tuple[str, int, str]]:
    """Module, line and literal, wherever such a name stands outside the room."""
    modules = [path for path in sorted(SCRIPTS.rglob("*.py")) if ROOM not in path.parents]
    assert len(modules) > 90
    return [
        (str(path.relative_to(SCRIPTS)), line, text)
        for path in modules
        for line, text in literals(ast.parse(path.read_text(encoding="utf-8")))
        if named(text, NAMES[kind])
    ]


def excepted(module: str, text: str) -> list[tuple[str, str]]:
    """The exceptions that a literal is one of."""
    return [(where, begins) for where, begins in EXCEPTIONS if where == module and text.startswith(begins)]


@pytest.mark.parametrize("kind", NAMES)
def test_no_name_stands_outside_its_room(kind):
    found = [f"{module}:{line}: {text!r}" for module, line, text in places(kind) if not excepted(module, text)]
    assert not found


def test_every_exception_is_needed():
    used = {name for kind in NAMES for module, _, text in places(kind) for name in excepted(module, text)}
    assert used == set(EXCEPTIONS)


def test_what_counts_as_a_name():
    tree = ast.parse('"""Of accuracy."""\nx = {"accuracy": 1, f"{y} f1": 2, "accuracy_gain": 3, "F1": 4}  # accuracy\n')
    assert [name for _, text in literals(tree) for name in named(text, ("accuracy", "f1"))] == ["accuracy", "f1"]

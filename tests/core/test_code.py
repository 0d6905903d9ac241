"""The checksum of a script's code changes with what the code means, and with nothing else."""

import ast
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny
from peft_tradeoffs.core import code
from peft_tradeoffs.core.code import dependencies, fingerprint

SCRIPTS = tiny.REPOSITORY / "workflow_scripts"
SCRIPT = '''
"""A script."""
import math
from pkg import steps
from pkg.rates import LARGEST, schedule

def main():
    print(steps.train(schedule(LARGEST), math.sin))

if __name__ == "__main__":
    main()
'''
STEPS = '''
"""Steps of a training."""
import functools
from dataclasses import dataclass, field
from math import exp

from pkg.errors import Refused
from pkg.noise import add

SMALLEST = 1e-3
SCALE = {"mean": 0.5}
SCALE["sum"] = 2


@dataclass
class Step:
    """One step."""

    size: float = 0.1
    seen: list[int] = field(default_factory=list)

    def go(self, by: float, times: int = 3) -> float:
        # A reason.
        for _ in range(times):
            self.size = self.size * by + SMALLEST
        return self.size


@functools.cache
def squared(value: float) -> float:
    return value**2


def unused():
    return 7


def train(rates: list, wave) -> float:
    """Train."""
    if not rates:
        raise Refused(f"no rates: {rates}, write some")
    step = Step()
    weights = [add(exp(wave(rate))) for rate in rates]
    from pkg import late

    return late.finish(step.go(squared(sum(weights)))) - SCALE["mean"]
'''
RATES = """
LARGEST: int = 4
HALF = 2


def schedule(count, *, start=0.1):
    return [decayed(start, number) for number in range(count)]


def decayed(start, number, HALF=HALF):
    return HALF * start / (1 + number) if number < 3 else schedule(0) or start
"""
DECAYED = """

def decayed(start, number, HALF=HALF):
    return HALF * start / (1 + number) if number < 3 else schedule(0) or start
"""
GUARD = """    if not rates:
        raise Refused(f"no rates: {rates}, write some")
"""
FILES = {
    "script.py": SCRIPT,
    "pkg/__init__.py": "",
    "pkg/steps.py": STEPS,
    "pkg/rates.py": RATES,
    "pkg/errors.py": "class Refused(Exception):\n    status = 3\n",
    "pkg/noise.py": "def add(value):\n    return value + 1\n\n\ndef take(value):\n    return value + 1\n",
    "pkg/other.py": "def add(value):\n    return value - 1\n",
    "pkg/late.py": "import os\n\nos.environ['X'] = '1'\n\n\ndef finish(value):\n    return value\n",
}
KEPT = f"__pycache__/script.{sys.implementation.cache_tag}.meaning"


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        text = (folder / name).read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}"
        (folder / name).write_text(text.replace(old, new))

    return do


def renamed(old: str, new: str, *importers: tuple[str, str, str]) -> Callable[[Path], None]:
    """A module that moves, and the lines that import it."""

    def do(folder: Path) -> None:
        (folder / new).parent.mkdir(exist_ok=True)
        (folder / new).parent.joinpath("__init__.py").touch()
        (folder / old).rename(folder / new)
        for name, before, after in importers:
            edit(name, before, after)(folder)

    return do


def both(*edits: Callable[[Path], None]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        for each in edits:
            each(folder)

    return do


def written(folder: Path, change: Callable[[Path], None] = lambda folder: None) -> str:
    """Fingerprint of the script after a change of its files."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    change(folder)
    return fingerprint(folder / "script.py")


@pytest.mark.parametrize(
    "change",
    {
        "comment": edit("pkg/steps.py", "# A reason.", "# Another reason."),
        "docstring of a module": edit("pkg/steps.py", '"""Steps of a training."""', '"""Other words."""'),
        "docstring of a class": edit("pkg/steps.py", '    """One step."""\n', ""),
        "docstring of a function": edit("pkg/steps.py", '"""Train."""', '"""Train, and more."""'),
        "layout": edit("pkg/rates.py", "HALF * start / (1 + number)", "(HALF * start\n    / (1 + number))"),
        "annotation": edit("pkg/steps.py", "by: float, times: int = 3) -> float", "by, times=3) -> object"),
        "annotation of a constant": edit("pkg/rates.py", "LARGEST: int = 4", "LARGEST = 4"),
        "text of an exception": edit("pkg/steps.py", "no rates: {rates}, write some", "write a rate"),
        "unused function": edit("pkg/steps.py", "return 7", "return 8"),
        "new function": edit("pkg/noise.py", "def take", "def new():\n    return 1\n\n\ndef take"),
        "order of definitions": both(
            edit("pkg/steps.py", "SMALLEST = 1e-3\n", ""),
            edit("pkg/steps.py", "@functools.cache", "SMALLEST = 1e-3\n@functools.cache"),
        ),
        "unused import": edit("pkg/rates.py", "LARGEST: int", "import json\nLARGEST: int"),
        "renamed module": renamed(
            "pkg/rates.py", "pkg/plan.py", ("script.py", "from pkg.rates import", "from pkg.plan import")
        ),
        "module in a package": renamed(
            "pkg/steps.py", "pkg/train/steps.py", ("script.py", "from pkg import steps", "from pkg.train import steps")
        ),
        "module with effects that moves": renamed(
            "pkg/late.py",
            "pkg/deep/last.py",
            ("pkg/steps.py", "from pkg import late", "from pkg.deep import last as late"),
        ),
        "way of importing": both(
            edit("script.py", "from pkg import steps", "from pkg.steps import train"),
            edit("script.py", "steps.train(", "train("),
        ),
        "name of an import": both(
            edit("script.py", "import math", "import math as m"), edit("script.py", "math.sin", "m.sin")
        ),
        "function in another module": both(
            edit("pkg/rates.py", DECAYED, ""),
            edit("pkg/rates.py", "LARGEST: int", "from pkg.noise import decayed\n\nLARGEST: int"),
            edit("pkg/noise.py", "def take", f"from pkg.rates import HALF, schedule\n{DECAYED}\n\ndef take"),
        ),
        "name of a function as that of a local variable elsewhere": edit(
            "pkg/steps.py",
            "def unused():",
            "def step():\n    return 1\n\n\ndef rate(rates):\n    return 2\n\n\ndef unused():",
        ),
        "import inside a function": both(
            edit("pkg/steps.py", "from math import exp\n", ""),
            edit("pkg/steps.py", "    step = Step()\n", "    from math import exp\n    step = Step()\n"),
        ),
    }.items(),
    ids=lambda item: item[0],
)
def test_what_means_the_same_has_the_same_fingerprint(change, tmp_path):
    assert written(tmp_path / "after", change[1]) == written(tmp_path / "before")


@pytest.mark.parametrize(
    "change",
    {
        "constant": edit("pkg/steps.py", "SMALLEST = 1e-3", "SMALLEST = 1e-4"),
        "type of a constant": edit("pkg/steps.py", '["sum"] = 2', '["sum"] = 2.0'),
        "sign of zero": edit("pkg/rates.py", "schedule(0)", "schedule(-0.0)"),
        "operator": edit("pkg/steps.py", "self.size * by + SMALLEST", "self.size * by - SMALLEST"),
        "precedence": edit("pkg/steps.py", "self.size * by + SMALLEST", "self.size * (by + SMALLEST)"),
        "default": edit("pkg/steps.py", "times: int = 3", "times: int = 4"),
        "default that only a name tells": edit("pkg/rates.py", "*, start=0.1", "*, start=0.2"),
        "default of a field": edit("pkg/steps.py", "size: float = 0.1", "size: float = 0.2"),
        "annotation of a field": edit("pkg/steps.py", "size: float = 0.1", "size: int = 0.1"),
        "factory of a field": edit("pkg/steps.py", "default_factory=list", "default_factory=tuple"),
        "callee": edit("pkg/steps.py", "[add(exp(", "[abs(exp("),
        "callee of the same name": edit("pkg/steps.py", "from pkg.noise import add", "from pkg.other import add"),
        "callee with the same body": both(
            edit("pkg/steps.py", "from pkg.noise import add", "from pkg.noise import take as add")
        ),
        "body of a callee": edit("pkg/noise.py", "value + 1\n\n\ndef take", "value + 2\n\n\ndef take"),
        "callee of a callee": edit("pkg/rates.py", "1 + number", "2 + number"),
        "callee in a library": edit("script.py", "math.sin", "math.cos"),
        "library": edit("script.py", "import math", "import cmath as math"),
        "name from a library": edit("pkg/steps.py", "from math import exp", "from math import expm1 as exp"),
        "attribute": edit("pkg/steps.py", "step.go(", "step.run("),
        "argument by name": edit("script.py", "schedule(LARGEST)", "schedule(LARGEST, start=0.1)"),
        "default that has the argument's own name": edit("pkg/rates.py", "HALF = 2", "HALF = 3"),
        "global that a function sets": both(
            edit(
                "pkg/late.py",
                "def finish(value):\n",
                "SEEN = 0\n\n\ndef finish(value):\n    global SEEN\n    SEEN += 1\n",
            ),
        ),
        "order of arguments": edit("pkg/rates.py", "decayed(start, number) for", "decayed(number, start) for"),
        "order of statements": edit("pkg/steps.py", f"{GUARD}    step = Step()\n", f"    step = Step()\n{GUARD}"),
        "condition": edit("pkg/rates.py", "number < 3", "number <= 3"),
        "decorator": edit("pkg/steps.py", "@functools.cache\n", ""),
        "type of an exception": edit("pkg/steps.py", "raise Refused(", "raise ValueError("),
        "attribute of an exception": edit("pkg/errors.py", "status = 3", "status = 4"),
        "key": edit("pkg/steps.py", '- SCALE["mean"]', '- SCALE["sum"]'),
        "item that is set at import": edit("pkg/steps.py", '["sum"] = 2', '["sum"] = 3'),
        "variable of the environment that an import sets": edit("pkg/late.py", "= '1'", "= '2'"),
        "module that is imported for what it does": both(
            edit("pkg/rates.py", "LARGEST: int", "import pkg.loud\n\nLARGEST: int"),
            lambda folder: (folder / "pkg/loud.py").write_text("print('here')\n"),
        ),
        "module that a function imports for what it does": both(
            edit("pkg/rates.py", "    return [decayed", "    import pkg.loud\n\n    return [decayed"),
            lambda folder: (folder / "pkg/loud.py").write_text("print('here')\n"),
        ),
        "text that is printed": edit("script.py", "print(steps", "print('loss', steps"),
    }.items(),
    ids=lambda item: item[0],
)
def test_what_means_something_else_has_another_fingerprint(change, tmp_path):
    assert written(tmp_path / "after", change[1]) != written(tmp_path / "before")


def test_what_a_decorator_of_ours_registers_counts(tmp_path):
    register = "FOUND = []\n\n\ndef register(function):\n    FOUND.append(function)\n    return function\n"

    def using(number: int) -> Callable[[Path], None]:
        def do(folder: Path) -> None:
            (folder / "pkg/registry.py").write_text(register)
            (folder / "pkg/late.py").write_text(
                f"from pkg.registry import register\n\n\n@register\ndef hook():\n    return {number}\n\n\n"
                "def finish(value):\n    return value\n"
            )

        return do

    assert written(tmp_path / "a", using(1)) != written(tmp_path / "b", using(2))


def test_a_relative_import_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"line \d+: a relative import"):
        written(tmp_path, edit("pkg/steps.py", "from pkg.noise import add", "from .noise import add"))


READER = "def json_schema(name):\n    return open(name)\n"
KNOWN = '{"required": ["a"], "properties": {"a": {"description": "What it is.", "minimum": 0}}}'


@pytest.mark.parametrize(
    ("asked", "old", "new", "counts"),
    [
        ('json_schema("known")', "What it is.", "Other words.", False),
        ('json_schema("known")', '"minimum": 0', '"minimum": 1', True),
        ('json_schema("known")', '": [', '":  [', False),
        ('layout.json_schema("known")["properties"].get("a")', '"minimum": 0', '"minimum": 1', True),
        ('json_schema("known")["properties"][rates]', '["a"]', '["b"]', False),
        ('json_schema("known")["required"][0]', '"minimum": 0', '"minimum": 1', False),
        ('json_schema("known")["required"]', '["a"]', '["a", "b"]', True),
        ('json_schema("other")', '["a"]', '["b"]', False),
    ],
)
def test_what_is_read_of_a_schema_counts(asked, old, new, counts, tmp_path):
    def using(text: str) -> Callable[[Path], None]:
        def do(folder: Path) -> None:
            (folder / "pkg/layout.py").write_text(READER)
            edit("pkg/steps.py", "    step = Step()\n", f"    step = Step()\n    {asked}\n")(folder)
            edit("pkg/steps.py", "from math", "from pkg import layout\nfrom pkg.layout import json_schema\nfrom math")(
                folder
            )
            (folder.parent / "schemas").mkdir()
            (folder.parent / "schemas/known.schema.json").write_text(text)
            (folder.parent / "schemas/other.schema.json").write_text("{}")

        return do

    assert old in KNOWN
    before = written(tmp_path / "before/scripts", using(KNOWN))
    assert (written(tmp_path / "after/scripts", using(KNOWN.replace(old, new))) != before) == counts


@pytest.mark.parametrize(
    ("schema", "old", "new", "scripts", "others"),
    [
        (
            "peft",
            '"x-rank-field": "r"',
            '"x-rank-field": "rank"',
            {"check_contract.py", "make_imported.py"},
            {"train.py", "make_figures.py"},
        ),
        ("summary", '"minimum": 0', '"minimum": 1', {"make_tables.py", "export_results.py"}, {"train.py"}),
        ("summary", '"description": "', '"description": "Also ', set(), {"train.py", "tune.py", "make_tables.py"}),
        ("summary", '"failed_phase",', '"failed_phase", "new",', {"train.py", "make_tables.py"}, {"fetch_dataset.py"}),
    ],
)
def test_who_decides_by_a_schema_runs_again_when_it_is_edited(schema, old, new, scripts, others, tmp_path):
    """No description of what a run records trains it again: of the summary's schema training asks for the keys."""
    copy = workflow(tmp_path)
    file = tmp_path / f"schemas/{schema}.schema.json"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    names = scripts | others
    changed = {name for name in names if fingerprint(copy / name) != fingerprint(SCRIPTS / name)}
    assert changed == scripts


def workflow(folder: Path) -> Path:
    """A copy of the scripts and of the schemas beside them."""
    shutil.copytree(tiny.REPOSITORY / "schemas", folder / "schemas")
    return shutil.copytree(SCRIPTS, folder / "scripts")


def test_a_copy_of_the_workflow_elsewhere_has_the_same_fingerprints(tmp_path):
    scripts, copy = SCRIPTS, workflow(tmp_path)
    for name in ("train.py", "make_report.py"):
        assert fingerprint(copy / name) == fingerprint(scripts / name)
        assert len(dependencies(copy / name)) == len(dependencies(scripts / name)) > 20


def test_a_later_pythons_syntax_trees_have_the_same_fingerprint(tmp_path, monkeypatch):
    """From 3.12 on functions and classes have type parameters, empty where none are written: no other code."""
    before = written(tmp_path / "before")
    for kind in (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef):
        others = tuple(field for field in kind._fields if field != "type_params")
        monkeypatch.setattr(kind, "_fields", (*others, "type_params"))
        monkeypatch.setattr(kind, "type_params", [], raising=False)
    assert written(tmp_path / "later") == before


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("return torch.optim.AdamW(", "return torch.optim.Adam(", True),
        ("# by the optimizer that has them", "# by whose they are", False),
        ("device: torch.device) -> torch.optim.Optimizer:", "device: torch.device) -> object:", False),
    ],
)
def test_what_stands_far_from_the_script_counts(old, new, counts, tmp_path):
    scripts, copy = SCRIPTS, workflow(tmp_path)
    (place,) = copy.rglob("updates.py")
    edit(place.name, old, new)(place.parent)
    assert (fingerprint(copy / "train.py") != fingerprint(scripts / "train.py")) == counts


# Constructs that the checksum cannot follow, as `file: code`, and why each is harmless.
BLIND = {
    **{
        f"peft_tradeoffs/config/estimate.py: getattr(same[{end}], name)": "fields of an estimate, of no result"
        for end in (0, -1)
    },
    "peft_tradeoffs/core/code.py: json_schema(asked, self._root.parent / SCHEMAS.name)": "it makes the checksum",
    "peft_tradeoffs/training/summary.py: json_schema(schema)": "it refuses what a run wrote, and makes no number",
    "peft_tradeoffs/inputs/datasets.py: getattr(rows.features[found[-1]], 'names', None)": "a data set's feature",
    "peft_tradeoffs/report/style.py: getattr(modules[module], name)": "names the modules, which then count whole",
    "peft_tradeoffs/report/tracking.py: importlib.import_module": "imports a tracker's library, none of ours",
    "peft_tradeoffs/training/run.py: importlib.import_module": "imports libraries, none of ours",
    "peft_tradeoffs/training/scoring.py: sys.modules": "a user's scorer, whose content is part of `scored_as`",
    "write_schemas.py: vars(model)": "no rule runs it, and a test compares what it writes",
}
# Decorators of libraries that keep what they decorate under its name, and register it nowhere.
DECORATORS = {
    "abc.abstractmethod", "classmethod", "contextlib.contextmanager", "contextmanager", "dataclass", "final",
    "functools.cache", "functools.cached_property", "functools.lru_cache", "functools.wraps", "model_validator",
    "property", "staticmethod", "torch.no_grad",
}  # fmt: skip
NAMES = {"globals", "locals", "vars", "eval", "exec", "__import__"}
ATTRIBUTES = {"importlib.import_module", "sys.modules", "functools.singledispatch", "functools.singledispatchmethod"}


def blind(tree: ast.Module, root: str) -> Iterator[ast.AST]:
    """Constructs by which code of the package `root` is reached, or does something, unseen by `fingerprint`."""
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            bound |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            bound |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}

    def ours(name: str) -> bool:
        return bound.get(name, name).partition(".")[0] == root

    def root_of(node: ast.AST) -> ast.AST:
        while isinstance(node, ast.Attribute | ast.Call):
            node = node.value if isinstance(node, ast.Attribute) else node.func
        return node

    defined = {name for node in tree.body for name in [getattr(node, "name", None)] if name}
    for statement in tree.body:
        if isinstance(statement, ast.If | ast.With | ast.Try | ast.For | ast.While):
            if isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING":
                yield from (each for each in statement.orelse if not ast.unparse(each).endswith(" = object"))
                continue
            inner = (each for each in ast.walk(statement) if isinstance(each, ast.Import | ast.ImportFrom))
            yield from (each for each in inner if ast.unparse(each).split()[1].partition(".")[0] == root)
        elif isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "_":
            yield statement
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(names=[ast.alias(name="*")]) | ast.FunctionDef(name="__init_subclass__"):
                yield node
            case ast.Attribute(attr="__subclasses__"):
                yield node
            case ast.Attribute() if ast.unparse(node) in ATTRIBUTES:
                yield node
            case ast.Name() if bound.get(node.id) in ATTRIBUTES:
                yield node
            case ast.Call(func=ast.Name(id=name)) if name in NAMES:
                yield node
            case ast.Call(func=ast.Name(id="getattr"), args=[ast.Subscript(), *_]):
                yield node
            case ast.Call(func=ast.Name(id="getattr"), args=[ast.Name(id=name), *_]) if ours(name):
                yield node
            case ast.Call(func=ast.Name(id="json_schema") | ast.Attribute(attr="json_schema"), args=[asked, *_]):
                if not isinstance(asked, ast.Constant):
                    yield node
            case ast.FunctionDef() | ast.ClassDef():
                for each in node.decorator_list:
                    name = root_of(each)
                    own = isinstance(name, ast.Name) and (name.id in defined or ours(name.id))
                    if not own and ast.unparse(each).partition("(")[0] not in DECORATORS:
                        yield each


@pytest.mark.parametrize(
    "text",
    [
        "if here:\n    from pkg.a import f",
        "with quiet():\n    import pkg.a",
        "try:\n    from pkg.a import f\nexcept ImportError:\n    f = None",
        "class Base:\n    def __init_subclass__(cls):\n        FOUND.append(cls)",
        "Base.__subclasses__()",
        "globals()[name]()",
        "import importlib\nimportlib.import_module('pkg.a')",
        "from importlib import import_module\nimport_module('pkg.a')",
        "import sys\nsys.modules['pkg.a']",
        "import pkg.a\ngetattr(pkg, 'a')",
        "from pkg import a\ngetattr(a, 'f')",
        "getattr(modules['a'], 'f')",
        "from pkg.a import *",
        "import functools\n@functools.singledispatch\ndef f(x): ...",
        "import torch\n@torch.library.custom_op('m::k')\ndef f(x): ...",
        "_ = torch.set_default_dtype(torch.float64)",
        "if TYPE_CHECKING:\n    X = 1\nelse:\n    X = 2",
        "json_schema(name)",
    ],
)
def test_what_the_checksum_cannot_follow_is_found(text):
    assert [*blind(ast.parse(text), "pkg")]


@pytest.mark.parametrize(
    "text",
    [
        "from pkg.a import f\n@f\ndef g(): ...",
        "def f():\n    from pkg import a\n    return a.g()",
        "if here:\n    import json",
        "getattr(torch, 'float32')",
        "json_schema('peft')",
    ],
)
def test_what_the_checksum_follows_is_allowed(text):
    assert not [*blind(ast.parse(text), "pkg")]


def test_no_script_hides_code_from_its_checksum():
    found = set()
    for path in SCRIPTS.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        place = path.relative_to(SCRIPTS).as_posix()
        found |= {f"{place}: {ast.unparse(node)}" for node in blind(tree, "peft_tradeoffs")}
    assert found == BLIND.keys()


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytecode is written, and what scripts mean with it."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", None)


def planted(folder: Path, copy: Path, change: Callable[[Path], None] = lambda folder: None) -> tuple[str, str]:
    """What is found in a copy with another meaning kept, after a change; and what it means."""
    shutil.copytree(folder, copy)
    change(copy)
    made_of, _, _ = (copy / KEPT).read_text().partition(" ")
    (copy / KEPT).write_text(f"{made_of} {'0' * 64}")
    return fingerprint(copy / "script.py"), code._meaning(copy / "script.py")


def test_what_a_script_means_is_kept_until_a_file_changes(keeping, tmp_path):
    folder = tmp_path / "scripts"
    found = written(folder)
    made_of, _, kept = (folder / KEPT).read_text().partition(" ")
    assert kept == found == code._meaning(folder / "script.py") and len(made_of) == 64
    assert planted(folder, tmp_path / "same/scripts") == ("0" * 64, found)
    changes = {
        "edited": edit("pkg/rates.py", "LARGEST: int = 4", "LARGEST: int = 5"),
        "added": lambda copy: (copy / "pkg/more.py").write_text("MORE = 1\n"),
        "moved": lambda copy: (copy / "pkg/other.py").rename(copy / "pkg/late2.py"),
    }
    for name, change in changes.items():
        now, means = planted(folder, tmp_path / name / "scripts", change)
        assert now == means and (now != found) == (name == "edited"), name
        assert (tmp_path / name / "scripts" / KEPT).read_text().endswith(f" {means}")


def test_another_schema_is_another_meaning_kept(keeping, tmp_path):
    for name, schema in (("one", "{}"), ("other", '{"a": 1}')):
        (tmp_path / name / "schemas").mkdir(parents=True)
        (tmp_path / name / "schemas/peft.schema.json").write_text(schema)
        written(tmp_path / name / "scripts")
    one, other = ((tmp_path / name / "scripts" / KEPT).read_text().partition(" ")[0] for name in ("one", "other"))
    assert one != other


@pytest.mark.parametrize("kept", [b"", b"0", b"\xff\xfe", b"0" * 64 + b" " + b"1" * 64])
def test_what_is_kept_and_broken_counts_for_nothing(keeping, tmp_path, kept):
    (tmp_path / KEPT).parent.mkdir()
    (tmp_path / KEPT).write_bytes(kept)
    assert written(tmp_path) == code._meaning(tmp_path / "script.py")


def test_nothing_is_kept_where_bytecode_is_not_or_cannot_be(keeping, tmp_path, monkeypatch):
    (tmp_path / "file").mkdir()
    (tmp_path / "file/__pycache__").write_text("in the way")
    found = written(tmp_path / "file")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert written(tmp_path / "none") == found
    assert not os.path.lexists(tmp_path / "none/__pycache__")

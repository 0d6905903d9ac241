"""What a script's code means: a checksum of the definitions that it can reach.

What decides a number counts: constants, operators, defaults, callees, the order of statements, and the name of every
function, attribute and library that is called. What does not: comments, docstrings, layout, annotations outside
classes, the texts of exceptions, and the names and places of our modules. So an edited comment or a function that moves
retrains nothing. A module is followed only if it is imported by name. Of a schema
that part counts, without its texts, which a definition asks for: all of `json_schema("peft")`, one list of
`json_schema("summary")["required"]`. It is kept beside Python's bytecode until a file of ours changes.
"""

import ast
import contextlib
import functools
import hashlib
import importlib.util
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_tradeoffs.core import files
from peft_tradeoffs.core.layout import SCHEMAS, json_schema

# Fields of syntax nodes that say nothing of what they do.
NO_MEANING = {"ctx", "type_comment", "type_ignores", "kind", "returns", "simple", "lineno"}


@dataclass(frozen=True)
class Definition:
    """A name at the top of one of our modules, or, where `name` is None, the statements that importing it runs."""

    module: Path
    name: str | None


Token = str | Definition


@functools.cache
def fingerprint(script: Path) -> str:
    """SHA-256 of every definition that `script` can reach, in the order in which they refer to each other.

    Our modules are those that stand beside the script or in packages beside it. Each definition is written with a
    number instead of each reference to another one, as graphs are written in a canonical order.
    """
    script = script.resolve()
    made_of = _sources(script.parent)  # before the first of them is parsed
    kept = Path(importlib.util.cache_from_source(str(script))).with_suffix(".meaning")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        was_made_of, _, found = kept.read_text(encoding="ascii").partition(" ")
        if was_made_of == made_of and len(found) == len(made_of):
            return found
    found = _meaning(script)
    if not sys.dont_write_bytecode and _sources.__wrapped__(script.parent) == made_of:
        with contextlib.suppress(OSError):  # a checkout that cannot be written to
            files.write_text(kept, f"{made_of} {found}")
    return found


@functools.cache
def _sources(root: Path) -> str:
    """SHA-256 of all that decides what a script means: our modules below `root`, the schemas, this file."""
    schemas = root.parent / SCHEMAS.name
    paths = sorted([*root.rglob("*.py"), *(path for path in schemas.rglob("*") if path.is_file())])
    digest = hashlib.sha256(sys.version.encode() + Path(__file__).read_bytes())
    for path in paths:
        digest.update(f"\0{path.relative_to(root.parent)}\0".encode(errors="surrogateescape"))
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _meaning(script: Path) -> str:
    root = script.parent
    numbers: dict[Definition, int] = {}
    loaded: set[Path] = set()
    digest = hashlib.sha256()

    def follow(start: Definition) -> None:
        numbers[start] = len(numbers)
        queue = [start]
        for definition in queue:  # it grows
            module = _module(root, definition.module)
            loaded.update(_loaded(root, definition.module), module.imported_in(definition.name))
            for token in module.tokens(definition.name):
                if isinstance(token, Definition):
                    if token not in numbers:
                        numbers[token] = len(numbers)
                        queue.append(token)
                    token = f"@{numbers[token]}"
                digest.update(token.encode() + b"\0")
            digest.update(b"\1")

    def order(effect: Definition) -> tuple[str, str, str]:
        """That of their content, for neither names nor the order of imports count."""
        return _module(root, effect.module).bare(effect.name), str(effect.module), effect.name or ""

    left = {Definition(script, None)}
    while left:
        for effect in sorted(left, key=order):
            if effect not in numbers:  # reached from another one
                follow(effect)
        left = {effect for path in loaded for effect in _module(root, path).at_import()} - numbers.keys()
    return digest.hexdigest()


def dependencies(script: Path) -> list[Path]:
    """The script, then every module of ours that it imports, anywhere in it and directly or not, sorted."""
    script = script.resolve()
    found, queue = set(), [script]
    while queue:
        path = queue.pop()
        if path not in found:
            found.add(path)
            queue.extend(_module(script.parent, path).imported)
    return [script, *sorted(found - {script})]


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


@functools.cache
def _loaded(root: Path, path: Path) -> tuple[Path, ...]:
    """The module and those of ours that importing it imports."""
    found: dict[Path, None] = {}
    queue = [path]
    for module in queue:  # it grows
        if module not in found:
            found[module] = None
            queue.extend(_module(root, module).imported_at_once)
    return tuple(found)


@functools.cache
def _module(root: Path, path: Path) -> "_Module":
    return _Module(root, path)


class _Module:
    """One file, parsed once."""

    def __init__(self, root: Path, path: Path) -> None:
        self._root, self._path = root, path
        tree = ast.parse(path.read_text(encoding="utf-8"))
        self._defined: dict[str, list[ast.stmt]] = {}
        self._effects: list[ast.stmt] = []
        self._registered: set[str] = set()
        self._imports = [node for node in ast.walk(tree) if isinstance(node, _IMPORTS)]
        self._bound = dict(_bindings(node for node in tree.body if isinstance(node, _IMPORTS)))
        for statement in tree.body:
            if isinstance(statement, _IMPORTS) or _is_text(statement) or _is_for_types(statement):
                continue
            names = list(_names(statement))
            for name in names:
                self._defined.setdefault(name, []).append(statement)
            if not names or not isinstance(statement, _DEFINES):
                self._effects.append(statement)
            elif self._is_registered(statement):
                self._registered.update(names)
        self.imported = self._modules(self._imports)
        at_once = (node for statement in tree.body for node in _at_once(statement))
        self.imported_at_once = self._modules([node for node in at_once if isinstance(node, _IMPORTS)])
        self._written: dict[str | None, tuple[Token, ...]] = {}

    def tokens(self, name: str | None) -> tuple[Token, ...]:
        """A definition, or what importing the module does, as words and references."""
        if name not in self._written:
            statements = self._effects if name is None else self._defined[name]
            self._written[name] = _joined(token for each in statements for token in self._write(each))
        return self._written[name]

    def imported_in(self, name: str | None) -> tuple[Path, ...]:
        """Modules of ours that a definition imports when it runs."""
        statements = self._effects if name is None else self._defined[name]
        return self._modules([node for each in statements for node in self._inside(each)])

    def at_import(self) -> set[Definition]:
        """What importing the module does."""
        names = {None, *self._registered} if self._effects else self._registered
        return {Definition(self._path, name) for name in names}

    def bare(self, name: str | None) -> str:
        """A definition without what it refers to."""
        return "\0".join("@" if isinstance(token, Definition) else token for token in self.tokens(name))

    def names(self) -> Iterable[str]:
        return self._defined

    def find(self, name: str) -> tuple[Token, ...]:
        """What a name at the top of this module stands for."""
        if name in self._defined:
            return (Definition(self._path, name),)
        return self._resolve(self._bound[name]) if name in self._bound else ()

    def _is_registered(self, statement: ast.stmt) -> bool:
        """Whether a decorator of ours may do something with it when the module is imported."""
        decorators = getattr(statement, "decorator_list", [])
        names = [node.id for each in decorators for node in ast.walk(each) if isinstance(node, ast.Name)]
        roots = (self._bound.get(name, name).partition(".")[0] for name in names)
        return any(name in self._defined or _file(self._root, root) for name, root in zip(names, roots, strict=True))

    def _modules(self, nodes: Sequence[ast.Import | ast.ImportFrom]) -> tuple[Path, ...]:
        dotted = [target for _, target in _bindings(nodes)]
        dotted += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        parts = [itertools.accumulate(target.split("."), "{}.{}".format) for target in dotted]
        found = [_file(self._root, part) for part in itertools.chain.from_iterable(parts)]
        return tuple(dict.fromkeys(file for file in found if file))

    def _write(self, statement: ast.stmt) -> list[Token]:
        inside = dict(_bindings(self._inside(statement)))
        bound = {**self._bound, **inside} if inside else self._bound
        out: list[Token] = [*self._contents(statement, bound)]
        self._node(statement, bound, out, frozenset())
        return out

    def _contents(self, statement: ast.stmt, bound: dict[str, str]) -> Iterator[str]:
        """Checksums of what a statement asks of schemas whose names are written out."""
        seen: set[ast.AST] = set()
        for node in ast.walk(statement):  # what is around comes first
            if node in seen:
                continue
            call, keys = _subscripted(node)
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name | ast.Attribute):
                continue
            match self._target(call.func, bound, frozenset()), call.args:
                case (Definition(name=json_schema.__name__),), [ast.Constant(value=str(asked))]:
                    schema = json_schema(asked, self._root.parent / SCHEMAS.name)
                    yield digest(functools.reduce(lambda part, key: part[key], keys, schema))
                    seen.update(ast.walk(node))

    def _inside(self, statement: ast.stmt) -> list[ast.Import | ast.ImportFrom]:
        lines = range(statement.lineno, (statement.end_lineno or statement.lineno) + 1)
        return [node for node in self._imports if node.lineno in lines]

    def _node(
        self,
        node: Any,
        bound: dict[str, str],
        out: list[Token],
        own: frozenset[str],
        *,
        text: bool = True,
        typed: bool = False,
    ) -> None:
        """Add a node's tokens to `out`.

        Args:
            node: A node, a list of nodes or a field's value.
            bound: What imported names stand for.
            out: Tokens so far.
            own: Names of the functions around the node, whatever stands at the module's top under the same name.
            text: Whether texts count, which they do not in an exception.
            typed: Whether annotations count, which they do in the body of a class.
        """
        if isinstance(node, list):
            out.append("[")
            for item in node:
                self._node(item, bound, out, own, text=text, typed=typed)
            out.append("]")
        elif isinstance(node, ast.Constant):
            out.append("text" if isinstance(node.value, str) and not text else repr(node.value))
        elif not isinstance(node, ast.AST):
            out.append(repr(node))
        elif isinstance(node, _NOTHING) or _is_text(node) or _is_for_types(node):
            return
        elif isinstance(node, ast.JoinedStr) and not text:
            out.append("text")
        elif isinstance(node, ast.Name | ast.Attribute) and (target := self._target(node, bound, own)):
            out.extend(target)
        else:
            if isinstance(node, ast.AnnAssign) and not typed and node.value is not None:
                node = ast.Assign(targets=[node.target], value=node.value)
            self._fields(node, bound, out, own, text=text and not isinstance(node, ast.Raise), typed=typed)

    def _fields(
        self, node: ast.AST, bound: dict[str, str], out: list[Token], own: frozenset[str], *, text: bool, typed: bool
    ) -> None:
        """Add the node's kind and what it consists of; arguments as `_node`'s."""
        within = own | _own_names(node) if isinstance(node, _SCOPES) else own
        out.append(type(node).__name__)
        for field in node._fields:
            if field in NO_MEANING or (field == "annotation" and not typed):
                continue
            names = within
            if field in ("args", "decorator_list"):  # of the scope around a function
                names = own
            elif typed and field in ("target", "targets"):  # what a class assigns is its own
                names = own | _assigned(node)
            value = getattr(node, field, None)
            if field == "type_params" and not value:  # a field that Python 3.11 does not have
                continue
            self._node(value, bound, out, names, text=text, typed=isinstance(node, ast.ClassDef))

    def _target(self, node: ast.Name | ast.Attribute, bound: dict[str, str], own: frozenset[str]) -> tuple[Token, ...]:
        """What a dotted name stands for, where its first part is imported or defined in this module."""
        parts: list[str] = []
        base: ast.expr = node
        while isinstance(base, ast.Attribute):
            parts.insert(0, base.attr)
            base = base.value
        if not isinstance(base, ast.Name) or base.id in own:
            return ()
        if base.id in bound:
            return self._resolve(".".join((bound[base.id], *parts)))
        if base.id in self._defined:
            return (Definition(self._path, base.id), *(f".{part}" for part in parts))
        return ()

    def _resolve(self, dotted: str) -> tuple[Token, ...]:
        """A definition of ours and the attributes behind it, all definitions of our module, or a library's name."""
        parts = dotted.split(".")
        for length in range(len(parts), 0, -1):
            file = _file(self._root, ".".join(parts[:length]))
            if file is None:
                continue
            module, behind = _module(self._root, file), parts[length:]
            if behind and (found := module.find(behind[0])):
                return (*found, *(f".{part}" for part in behind[1:]))
            return (*(Definition(file, name) for name in module.names()), *(f".{part}" for part in behind))
        return (dotted,)


_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, *_COMPREHENSIONS)
_IMPORTS = (ast.Import, ast.ImportFrom)
_NOTHING = (*_IMPORTS, ast.Pass)
_Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | _Comprehension
_DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)


def _is_text(node: ast.AST) -> bool:
    """Whether it is a docstring, or a constant that stands for nothing."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_for_types(node: ast.AST) -> bool:
    """Whether it is `if TYPE_CHECKING:`, which never runs."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _assigned(node: ast.AST) -> frozenset[str]:
    """Names to which a statement assigns."""
    stored = (part for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store))
    return frozenset(part.id for part in stored)


def _names(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement at the top of a module binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    for node in _at_once(statement):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _own_names(scope: _Scope) -> frozenset[str]:
    """Names that a function, lambda or comprehension binds for itself: arguments and what it assigns.

    Not what it imports, nor what it declares global.
    """
    found: set[str] = set()
    elsewhere: set[str] = set()
    if isinstance(scope, _COMPREHENSIONS):
        targets = [generator.target for generator in scope.generators]
        return frozenset(node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name))
    arguments = scope.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    found.update(argument.arg for argument in every if argument)
    queue: list[ast.AST] = list(scope.body) if isinstance(scope.body, list) else [scope.body]
    for node in queue:  # it grows
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.ExceptHandler) and node.name:
            found.add(node.name)
        elif isinstance(node, ast.Global | ast.Nonlocal):
            elsewhere.update(node.names)
        if not isinstance(node, _SCOPES):
            queue.extend(ast.iter_child_nodes(node))
    return frozenset(found - elsewhere)


def _at_once(node: ast.AST) -> Iterator[ast.AST]:
    """The node and what is in it but for bodies of functions: what runs when the module is imported."""
    yield node
    for field, value in ast.iter_fields(node):
        if field == "body" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, ast.AST):
                yield from _at_once(item)


def _subscripted(node: ast.AST) -> tuple[ast.AST, list[Any]]:
    """What a chain of subscripts begins with, and the keys that are written out, up to the first that is not."""
    keys: list[ast.expr] = []
    while isinstance(node, ast.Subscript):
        keys.insert(0, node.slice)
        node = node.value
    constants = itertools.takewhile(lambda key: isinstance(key, ast.Constant), keys)
    return node, [key.value for key in constants if isinstance(key, ast.Constant)]


def _joined(tokens: Iterable[Token]) -> tuple[Token, ...]:
    """Tokens with each run of words as one."""
    found: list[Token] = []
    for token in tokens:
        if isinstance(token, str) and found and isinstance(found[-1], str):
            found[-1] += f"\0{token}"
        else:
            found.append(token)
    return tuple(found)


def _bindings(nodes: Iterable[ast.Import | ast.ImportFrom]) -> Iterator[tuple[str, str]]:
    """By name that an import statement binds: what it stands for, dotted."""
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"line {node.lineno}: a relative import; write it as absolute")
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"
        else:
            for alias in node.names:
                first = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (first, first)


@functools.cache
def _file(root: Path, dotted: str) -> Path | None:
    """The file of one of our modules or packages."""
    if not dotted:
        return None
    place = root.joinpath(*dotted.split("."))
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None

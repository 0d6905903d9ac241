"""A scorer of the user's own, looked at before any job: its file is read and not run."""

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path

from peft_tradeoffs.config.model import Scorer
from peft_tradeoffs.core.errors import InputError

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
OWN_SCOPE = (*FUNCTIONS, ast.ClassDef, ast.Lambda)
BINDERS = {"exec", "eval", "globals", "vars", "locals", "setattr", "modules"}  # by which a module gets any name


def check_scorer(key: str, scorer: Scorer) -> None:
    """Raise InputError for a scorer that certainly gives no number: no such file, no Python, no such name, or no
    function of prompt, references and output.

    What it imports may be installed where it scores alone, so what cannot be told by reading is left to that process.
    """
    name = scorer.python.rpartition(":")[2]
    tree = _read(key, scorer.file)
    bound = [node for node in _of_module(tree) if name in _names(node)]
    if _any_name(tree, name):
        return
    if not bound:
        functions = dict.fromkeys(node.name for node in _of_module(tree) if isinstance(node, FUNCTIONS))
        known = f"; it has {', '.join(functions)}" if functions else ""
        raise InputError(f"{key}: {scorer.file} has no function {name}{known}")
    if len(bound) == 1:  # of several only running it tells which one counts
        _check_function(key, scorer.file, name, bound[0])


def _read(key: str, path: Path) -> ast.Module:
    """A file as Python reads it, in the encoding that it declares."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{key}: {path}: {error.strerror}; name a file that can be read") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is Python all the same
            compile(content, str(path), "exec", dont_inherit=True)
            return ast.parse(content)
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise InputError(f"{key}: {path}{line}: no Python ({error.msg}); correct it") from None
    except (ValueError, RecursionError, MemoryError) as error:  # NUL bytes; nested too deep
        raise InputError(f"{key}: {path}: no Python ({error}); correct it") from None


def _of_module(node: ast.AST) -> Iterator[ast.AST]:
    """All below a node that is of the same scope: what if, try, for, with and match hold too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.comprehension) and child is node.target:
            continue  # of the comprehension alone
        yield child
        if not isinstance(child, OWN_SCOPE):
            yield from _of_module(child)


def _names(node: ast.AST) -> list[str]:
    """The names that a node itself binds."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [node.id]
    if isinstance(node, ast.alias):
        return [node.asname or node.name.partition(".")[0]]
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return [node.name] if node.name else []
    if isinstance(node, ast.MatchMapping):
        return [node.rest] if node.rest else []
    return []


def _any_name(tree: ast.Module, name: str) -> bool:
    """Whether the module may get this name by what is no statement of its own."""
    by_function = any(isinstance(node, ast.Global) and name in node.names for node in ast.walk(tree))
    stars = any(isinstance(node, ast.alias) and node.name == "*" for node in ast.walk(tree))
    looked_up = any(isinstance(node, FUNCTIONS) and node.name == "__getattr__" for node in _of_module(tree))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return by_function or stars or looked_up or not BINDERS.isdisjoint(used)


def _check_function(key: str, path: Path, name: str, node: ast.AST) -> None:
    """Raise InputError for the one thing that a name can be, where that certainly gives no number of three texts."""
    if isinstance(node, ast.ClassDef):
        made = any(isinstance(one, FUNCTIONS) and one.name == "__new__" for one in node.body)
        if not (node.bases or node.keywords or node.decorator_list or made):
            raise InputError(f"{key}: {path} has no function {name}, but a class, whose objects are no numbers")
    if not isinstance(node, FUNCTIONS) or node.decorator_list:  # a decorator may make anything of it
        return
    if isinstance(node, ast.AsyncFunctionDef):
        raise InputError(f"{key}: {name} is asynchronous; it must return its number, so write it without async")
    places, given = [*node.args.posonlyargs, *node.args.args], len(node.args.defaults)
    fits = len(places) - given <= 3 <= len(places) or (node.args.vararg and len(places) - given <= 3)
    if not fits or len(node.args.kwonlyargs) > sum(one is not None for one in node.args.kw_defaults):
        raise InputError(f"{key}: {name} must take three arguments: prompt, references and output")

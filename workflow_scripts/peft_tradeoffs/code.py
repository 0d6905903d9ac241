"""Which of our files a script runs: the code a result depends on."""

import ast
import functools
import hashlib
import json
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent


@functools.cache
def _imports(path: Path) -> frozenset[Path]:
    """Modules of this package that the file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    files = (PACKAGE.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in names)
    return frozenset(file for file in files if file.is_file())


@functools.cache
def dependencies(script: Path) -> list[Path]:
    """The script, then every module of this package it imports, directly or not, sorted."""
    found, queue = set(), [script]
    while queue:
        path = queue.pop()
        if path not in found:
            found.add(path)
            queue.extend(_imports(path))
    return [script, *sorted(found - {script})]


def fingerprint(script: Path) -> str:
    """SHA-256 over the script and the modules it depends on."""
    digest = hashlib.sha256()
    for path in dependencies(script):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

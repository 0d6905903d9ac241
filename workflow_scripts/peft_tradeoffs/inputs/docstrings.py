"""The docstring data set: which installed package wrote this paragraph?"""

import ast
import importlib.metadata
import importlib.util
import inspect
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.classes import encodable
from peft_tradeoffs.inputs.data_files import Table

MASK = "package"  # one plain word, so that a masked `numpy.ndarray` stays readable: `package.ndarray`
ALIASES = ("np", "pd", "plt", "mpl", "nx", "sa", "sp")  # as imports abbreviate the packages; whole words
SKIPPED_FOLDERS = {"test", "tests", "testing", "_vendor", "_vendored"}
WORDS = (6, 100)  # least and most words of a paragraph
LEAST_ROWS = 20  # of a package
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstring_table(packages: Sequence[str], seed: int) -> Table:
    """Columns `text` and `label` (the package's name): first paragraphs of docstrings, equally many each.

    The packages are read, never imported. A paragraph has 6 to 100 words, its white space collapsed and the
    names of all `packages` masked. Paragraphs that several packages share are dropped, repeated ones kept
    once, and every package is cut down (seeded) to the rows of the smallest. Rows stand in the order of
    `packages`, of sorted files and of the source.
    Raises InputError for a package that is not installed or has too few docstrings.
    """
    if len(set(packages)) != len(packages) or len(packages) < 2:
        raise InputError(f"packages {list(packages)}: at least two packages are needed, each named once")
    mask = _mask_pattern(packages)
    texts = {package: _paragraphs(package, mask) for package in packages}
    for package in packages:
        elsewhere = set().union(*(texts[other] for other in packages if other != package))
        own = [text for text in texts[package] if text not in elsewhere]
        if len(own) < LEAST_ROWS:
            raise InputError(
                f"package {package!r}: {len(own)} usable docstrings, at least {LEAST_ROWS} are needed; "
                "take it out of `packages`"
            )
        texts[package] = own
    size = min(map(len, texts.values()))
    rng = np.random.default_rng(seed)
    columns: dict[str, list[str]] = {"text": [], "label": []}
    for package, own in texts.items():
        kept = np.sort(rng.permutation(len(own))[:size])
        columns["text"] += [own[index] for index in kept]
        columns["label"] += [package] * size
    return Table("docstrings", columns, range(1, size * len(packages) + 1), "row")


def package_versions(packages: Sequence[str]) -> dict[str, str | None]:
    """Each package's version; None for one that no installed distribution provides."""
    providers = importlib.metadata.packages_distributions()
    return {
        package: importlib.metadata.version(providers[package][0]) if package in providers else None
        for package in packages
    }


def _mask_pattern(packages: Sequence[str]) -> re.Pattern[str]:
    """Matches the packages' names in any case, inside identifiers too, and the aliases as whole words."""
    names = "|".join(re.escape(name) for name in sorted(packages, key=len, reverse=True))
    return re.compile(rf"(?i:{names})|\b(?:{'|'.join(ALIASES)})\b")


def _paragraphs(package: str, mask: re.Pattern[str]) -> list[str]:
    """The package's masked first paragraphs of usable length, each once, in source order."""
    texts: dict[str, None] = {}
    for path in _source_files(package):
        for docstring in _docstrings(path):
            first = re.split(r"\n\s*\n", inspect.cleandoc(docstring), maxsplit=1)[0]
            words = mask.sub(MASK, first).split()
            if WORDS[0] <= len(words) <= WORDS[1] and encodable(first):
                texts[" ".join(words)] = None
    return list(texts)


def _source_files(package: str) -> list[Path]:
    """The package's Python files, sorted, without its tests."""
    # find_spec would import the parent of a dotted name
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None:
        raise InputError(
            f"package {package!r}: not installed here; `packages` takes names as they are imported. "
            f"Install it (pip install {package}) or take it out"
        )
    if not spec.submodule_search_locations:
        return [Path(spec.origin)] if spec.origin and spec.origin.endswith(".py") else []
    return [
        path
        for root in map(Path, spec.submodule_search_locations)
        for path in sorted(root.rglob("*.py"))
        if SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts[:-1])
        and not path.name.startswith(("test_", "conftest"))
    ]


def _docstrings(path: Path) -> Iterator[str]:
    """Docstrings of the file's module, classes and functions, in source order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # invalid escapes in other people's source
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError, RecursionError, MemoryError, OSError):
            return  # a template, source of another Python version or a broken link: no module of this package
    nodes = [node for node in ast.walk(tree) if isinstance(node, DOCUMENTED)]
    for node in sorted(nodes, key=lambda node: getattr(node, "lineno", 0)):
        docstring = ast.get_docstring(node, clean=False)
        if docstring:
            yield docstring

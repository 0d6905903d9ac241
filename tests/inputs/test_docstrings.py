"""The docstring data set, built from small packages that each test writes."""

import sys
from pathlib import Path

import pytest
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs import datasets
from peft_tradeoffs.inputs.datasets import docstring_table, package_versions

WORDS = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon"


def functions(owner: str, count: int) -> str:
    """Source of `count` functions, each with a docstring of its own."""
    words = WORDS.split()
    return "".join(
        f'def f{i}():\n    """Return the {words[i % 20]} of {owner} item {i}."""\n\n\n' for i in range(count)
    )


@pytest.fixture
def packages(tmp_path, monkeypatch) -> Path:
    """A folder on sys.path with the packages `ponds` (25 docstrings) and `lakes` (30)."""
    for name, count in {"ponds": 25, "lakes": 30}.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").write_text('raise RuntimeError("a package must not be imported")\n')
        (folder / "b.py").write_text(functions(f"a {name[:-1]}", count))
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def texts(table, package):
    pairs = zip(table.columns["text"], table.columns["label"], strict=True)
    return [text for text, label in pairs if label == package]


def test_classes_are_balanced_and_nothing_is_imported(packages):
    table = docstring_table(["ponds", "lakes"], seed=0)
    assert table.columns["label"] == ["ponds"] * 25 + ["lakes"] * 25
    assert len(table) == 50
    assert not {"ponds", "lakes"} & set(sys.modules)


def test_the_same_seed_gives_the_same_rows_in_source_order(packages):
    table = docstring_table(["ponds", "lakes"], seed=3)
    assert table == docstring_table(["ponds", "lakes"], seed=3)
    assert table != docstring_table(["ponds", "lakes"], seed=4)
    numbers = [int(text.split()[-1].rstrip(".")) for text in texts(table, "lakes")]
    assert numbers == sorted(numbers)
    assert texts(table, "ponds")[0] == "Return the alpha of a pond item 0."


def test_what_is_kept_of_a_docstring(packages):
    (packages / "ponds" / "a.py").write_text(
        '"""The module\'s own first   paragraph\nof eight words.\n\nNot this second one, however long."""\n'
        'class C:\n    """Ponds and the LakesError, ponds.deep, np.array\n    and spam."""\n'
        '    async def method(self):\n        """Too short by one word."""\n'
        'def long():\n    """' + "word " * 101 + '"""\n'
        'def path():\n    r"""Matches \\d one or more times."""\n'
    )
    (packages / "ponds" / "broken.py").write_text('"""A template of some six words."""\n{{ not python }}\n')
    found = list(datasets._paragraphs("ponds", datasets._mask_pattern(["ponds", "lakes"])))
    assert found[:3] == [
        "The module's own first paragraph of eight words.",
        "package and the packageError, package.deep, package.array and spam.",
        r"Matches \d one or more times.",
    ]
    assert found[3].startswith("Return the alpha")  # b.py follows a.py


def test_tests_are_left_out(packages):
    for path in ("tests/a.py", "testing/a.py", "sub/test_x.py", "conftest.py"):
        file = packages / "ponds" / path
        file.parent.mkdir(exist_ok=True)
        file.write_text('"""A docstring that belongs to the tests alone."""\n')
    (packages / "ponds" / "sub" / "a.py").write_text('"""A docstring that belongs to the package itself."""\n')
    found = datasets._paragraphs("ponds", datasets._mask_pattern(["ponds"]))
    assert len(found) == 26
    assert "A docstring that belongs to the package itself." in found


def test_shared_texts_are_dropped_and_repeated_ones_kept_once(packages):
    shared = '"""Both of the packages say exactly this."""\n'
    (packages / "ponds" / "a.py").write_text(shared + 'def f():\n    """Only the one package repeats this."""\n')
    (packages / "ponds" / "c.py").write_text('"""Only the one package repeats this."""\n')
    (packages / "lakes" / "a.py").write_text(shared)
    found = docstring_table(["ponds", "lakes"], seed=0).columns["text"]
    assert "Both of the packages say exactly this." not in found
    assert found.count("Only the one package repeats this.") == 1


def test_a_single_module_counts_as_a_package(packages):
    (packages / "puddle.py").write_text(functions("a puddle", 21))
    assert len(docstring_table(["ponds", "puddle"], seed=0)) == 42


@pytest.mark.parametrize("name", ["no_such_package", "no such", "os.path"])
def test_a_package_that_is_not_installed(packages, name):
    with pytest.raises(InputError, match=rf"package '{name}': not installed.*pip install"):
        docstring_table(["ponds", name], seed=0)


def test_a_package_with_too_few_docstrings(packages):
    (packages / "puddle.py").write_text(functions("a puddle", 19))
    with pytest.raises(InputError, match=r"package 'puddle': 19 usable docstrings, at least 20"):
        docstring_table(["ponds", "puddle"], seed=0)


@pytest.mark.parametrize("names", [["ponds"], ["ponds", "ponds"]])
def test_two_packages_are_needed(packages, names):
    with pytest.raises(InputError, match="at least two packages"):
        docstring_table(names, seed=0)


def test_versions(packages):
    versions = package_versions(["pytest", "ponds"])
    assert versions == {"pytest": pytest.__version__, "ponds": None}

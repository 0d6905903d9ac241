"""The pinned environments agree with one another and with what is installed."""

import re
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ENVS = Path(__file__).parents[2] / "envs"


def read_pins(lines: list[str]) -> dict[str, str]:
    """Canonical package name -> version; every line but comments must be an exact pin."""
    pins = {}
    for line in lines:
        if line.strip() and not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", line.strip())
            assert match, f"not an exact pin: {line!r}"
            name = canonicalize_name(match[1])
            assert name not in pins, f"pinned twice: {name}"
            pins[name] = match[2]
    return pins


def read_file(name: str) -> dict[str, str]:
    return read_pins((ENVS / name).read_text(encoding="utf-8").splitlines())


REQUIREMENTS = read_file("requirements.txt")
REQUIREMENTS_DEV = read_file("requirements-dev.txt")
CONSTRAINTS = read_file("constraints.txt")


Need = tuple[str, frozenset[str]]  # a package and the extras asked of it


def required_by(name: str, extras: frozenset[str]) -> set[Need]:
    """What an installed package requires here with these extras, less the CUDA libraries of a torch build."""
    found = set()
    for requirement in map(Requirement, metadata.requires(name) or []):
        environments = [default_environment() | {"extra": extra} for extra in ("", *extras)]
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            found.add((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    return {need for need in found if name != "torch" or need[0] in CONSTRAINTS}


def test_the_conda_environment_has_the_requirements() -> None:
    environment = yaml.safe_load((ENVS / "environment.yaml").read_text(encoding="utf-8"))
    assert "python=3.11" in environment["dependencies"]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert read_pins(pip) == REQUIREMENTS


@pytest.mark.parametrize("pins", [REQUIREMENTS, REQUIREMENTS_DEV], ids=["requirements", "requirements-dev"])
def test_the_constraints_hold_every_requirement(pins: dict[str, str]) -> None:
    assert {name: CONSTRAINTS.get(name) for name in pins} == pins


def test_torch_is_pinned_for_every_build() -> None:
    assert REQUIREMENTS["torch"] == "2.13.0"


def test_nothing_says_where_packages_come_from() -> None:
    for path in ENVS.iterdir():
        assert "://" not in path.read_text(encoding="utf-8"), path.name


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_the_installed_package_is_the_pinned_one(name: str) -> None:
    installed = Version(metadata.version(name))
    assert installed.public == CONSTRAINTS[name]


def test_the_constraints_hold_all_that_the_requirements_need() -> None:
    seen: set[Need] = set()
    waiting = {(name, frozenset[str]()) for name in REQUIREMENTS.keys() | REQUIREMENTS_DEV.keys()}
    while waiting:
        need = waiting.pop()
        seen.add(need)
        waiting |= required_by(*need) - seen
    assert {name for name, _ in seen} == CONSTRAINTS.keys()

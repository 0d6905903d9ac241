"""The tests' Slurm: started when a test asks for it, stopped when the last one here is done."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slurm.cluster import SLURM_CONF, Cluster, contents, left_by_a_killed_test, missing


@pytest.fixture(scope="package", autouse=True)
def slurm_programs() -> None:
    """Skip where no Slurm can be started; with REQUIRE_SLURM=1, as .ci/run sets, fail."""
    if reason := missing():
        if os.environ.get("REQUIRE_SLURM") == "1":
            pytest.fail(f"REQUIRE_SLURM=1, but {reason}", pytrace=False)
        pytest.skip(reason)


@pytest.fixture(scope="package")
def etc_before() -> dict[str, Any]:
    """What is in /etc/slurm before a cluster starts, less what a killed test left there, which goes."""
    found = contents(SLURM_CONF.parent)
    if left_by_a_killed_test():
        found.pop(str(SLURM_CONF), None)  # a link to nowhere is not among them
    return found


@pytest.fixture(scope="package")
def cluster(request: pytest.FixtureRequest, slurm_programs: None, etc_before: dict[str, Any]) -> Iterator[Cluster]:
    """A running cluster with two GPUs, accounting off; a test parametrizes it with True for accounting on.

    There is one at a time: pytest stops it and starts another where a test wants the other kind.
    """
    with Cluster(accounting=getattr(request, "param", False)) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def idle(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test finds the cluster idle and whole, whatever the last one did to it."""
    if "cluster" in request.fixturenames:
        request.getfixturevalue("cluster").reset()
    yield


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with accounting last, so that there are two clusters and not one a change."""

    def accounting(item: pytest.Item) -> bool:
        callspec = getattr(item, "callspec", None)
        return bool(callspec and callspec.params.get("cluster"))

    own = [i for i, item in enumerate(items) if item.path.is_relative_to(Path(__file__).parent)]
    for i, item in zip(own, sorted((items[i] for i in own), key=accounting), strict=True):
        items[i] = item

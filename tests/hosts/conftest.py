"""Clusters of simulated hosts; one for each module, since to start one takes some seconds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from hosts.clusters import Cluster, missing


@pytest.fixture(scope="module")
def new_cluster() -> Iterator[Callable[..., Cluster]]:
    """Make clusters that end with the module."""
    lacking = missing()
    if lacking is not None:
        pytest.skip(f"needs {lacking}")
    with contextlib.ExitStack() as made:
        yield lambda *arguments, **options: made.enter_context(Cluster(*arguments, **options))


@pytest.fixture(scope="module")
def make_cluster(new_cluster: Callable[..., Cluster]) -> Callable[[], Cluster]:
    """Make the cluster of `cluster`: five hosts, whose daemons run."""

    def make() -> Cluster:
        made = new_cluster(5)
        made.start()
        return made

    return make


@pytest.fixture(scope="module")
def kept() -> list[Cluster]:
    """The module's cluster, while no test has failed in it."""
    return []


@pytest.fixture
def cluster(
    make_cluster: Callable[[], Cluster], kept: list[Cluster], request: pytest.FixtureRequest
) -> Iterator[Cluster]:
    """The module's cluster, all up before the test; after it nothing is left, and its history is proved."""
    found = kept.pop() if kept else make_cluster()
    try:
        yield found
        if not request.node.stash.get(_FAILED, False):
            found.prove_rest()
            kept.append(found)
    finally:
        if not kept:  # it failed, and no second failure is to follow from its remains
            found.close()


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Note that a test failed."""
    report = yield
    if call.when == "call" and call.excinfo is not None:
        item.stash[_FAILED] = True
    return report

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
def five(new_cluster: Callable[..., Cluster]) -> Cluster:
    """Five hosts, whose daemons run."""
    cluster = new_cluster(5)
    cluster.start()
    return cluster


@pytest.fixture
def cluster(five: Cluster, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The same, all up before the test; after it nothing is left, and its history is proved."""
    yield five
    if request.node.stash.get(_FAILED, False):
        return
    five.prove_rest()


_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Note that a test failed, so that no second failure follows from its remains."""
    report = yield
    if call.when == "call" and call.excinfo is not None:
        item.stash[_FAILED] = True
    return report

"""Trees: in memory, and a real one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fakes.clock import FakeClock
from fakes.tree import FakeServers, FakeTree

from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session


@pytest.fixture
def servers() -> FakeServers:
    """The nodes of a tree in memory."""
    return FakeServers()


@pytest.fixture
def tree(servers: FakeServers) -> FakeTree:
    """A session on a tree in memory."""
    return servers.session()


@pytest.fixture
def clock() -> FakeClock:
    """A clock that nobody waits for."""
    return FakeClock()


@pytest.fixture
def session(endpoint: Endpoint) -> Iterator[Session]:
    """A session with a real server, below a root of the test's own."""
    session = Session(endpoint)
    session.start()
    yield session
    session.close()

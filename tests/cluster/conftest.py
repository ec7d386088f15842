"""A tree in memory, and a clock for it."""

from __future__ import annotations

import pytest
from fakes.clock import FakeClock
from fakes.tree import FakeServers, FakeTree


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

"""Hosts and channels for tests of the whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo.packages import fabricate, index
from fakes.processes import subreaper
from whole_hosts import Host


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here builds environments with real processes."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def small_channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A channel that no test changes: ``app`` needs ``lib``; ``one`` to ``eight`` need ``lib`` and ``base``."""
    channel = tmp_path_factory.mktemp("small") / "channel"
    fabricate(channel, "lib", "1.0", files={f"share/lib/{number}": f"lib {number}\n" for number in range(20)})
    fabricate(channel, "base", "1.0", files={"share/base/data.bin": os.urandom(1 << 20)})
    fabricate(channel, "app", "1.0", depends=["lib"])
    for word in ("one", "two", "three", "four", "five", "six", "seven", "eight"):
        fabricate(channel, word, "1.0", depends=["lib", "base"])
    index(channel)
    return channel


@pytest.fixture
def channel(tmp_path: Path) -> Path:
    """A channel of this test's own: ``app`` needs ``lib``, both small."""
    directory = tmp_path / "channel"
    fabricate(directory, "lib", "1.0")
    fabricate(directory, "app", "1.0", depends=["lib"])
    index(directory)
    return directory


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """A host with an empty store and no default channels."""
    return Host(tmp_path / "host", {"default_channels": []})


@pytest.fixture(scope="session")
def python_host(tmp_path_factory: pytest.TempPathFactory, demo_channel: str) -> Host:
    """A host whose default channel has a real Python; shared, so that Python is unpacked once."""
    host = Host(tmp_path_factory.mktemp("python") / "host", {"default_channels": [demo_channel]})
    host.create(host.spec("python"))  # it stays, or each gc would throw the unpacked Python away
    return host


@pytest.fixture
def orphanage() -> Iterator[None]:
    """Let the orphans of killed processes become this process's children, so that it can wait for them."""
    with subreaper():
        yield

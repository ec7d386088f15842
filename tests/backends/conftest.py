"""What the backends' tests share: one host, and a fabricated channel."""

from __future__ import annotations

from pathlib import Path

import pytest
from backend_hosts import Host
from demo.packages import fabricate, index


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """One host with empty caches."""
    return Host(tmp_path / "store")


@pytest.fixture(scope="session")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A channel of a few small packages: app 1.0 needs lib; lib 1.0 and 2.0; tool has a program. Not to be changed."""
    directory = tmp_path_factory.mktemp("channel") / "chan"
    fabricate(directory, "lib", "1.0")
    fabricate(directory, "lib", "2.0")
    fabricate(directory, "app", "1.0", depends=["lib >=1"], noarch=None)
    fabricate(
        directory, "tool", "1.0", files={"bin/tool": "#!/bin/sh\necho tool\n", "share/tool/data.bin": b"\0" * 5000}
    )
    index(directory)
    return directory

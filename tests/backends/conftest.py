"""What the backends' tests share: one host, and a fabricated channel."""

from __future__ import annotations

from pathlib import Path

import carried_conda
import pytest
from backend_hosts import Host
from demo.packages import fabricate, index


@pytest.fixture(scope="session")
def site_conda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real conda: this host's own, or the one that conda-lock carries."""
    own = carried_conda.found()
    if own is not None:
        return own.path
    if (lack := carried_conda.missing()) is not None:
        pytest.skip(lack)
    return carried_conda.install(tmp_path_factory.mktemp("conda") / "home")


@pytest.fixture
def host(request: pytest.FixtureRequest, tmp_path: Path) -> Host:
    """One host with empty caches; its backend is rattler, or what a test's parameter says."""
    if getattr(request, "param", "rattler") == "rattler":
        return Host(tmp_path / "store")
    conda = request.getfixturevalue("site_conda")
    return Host(tmp_path / "store", backend=request.param, conda_executable=str(conda))


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

"""A box with the service; each module has one of its own, so that a failure in one does not follow into the next."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from service_hosts import ServiceHost, make_channel, new_box
from systemd_box import Box, missing


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    lacking = missing()
    if lacking is not None:
        pytest.skip(f"needs {lacking}")
    with new_box() as made:
        yield made


@pytest.fixture(scope="module")
def bare_host(box: Box, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceHost]:
    """A host with users and a channel, and nothing of envmgr."""
    made = ServiceHost(box, make_channel(tmp_path_factory.mktemp("service") / "channel"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def host(bare_host: ServiceHost) -> ServiceHost:
    """A host whose service runs."""
    bare_host.install("--admin-group", "envadmins", "--use-group", "envusers", "--start")
    return bare_host

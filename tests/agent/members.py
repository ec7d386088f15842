"""Daemons over a fake backend that are hosts of one cluster, on loopback."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from coordination.polling import until
from daemon.served import Daemon
from fakes.worlds import spec_of

from envmgr.cluster.administration import Administration
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session
from envmgr.manager.context import SystemClock
from envmgr.names import EnvName
from envmgr.wire.cluster import Declaration, DeclaredEnvironment, Row
from envmgr.wire.tree import Selector

INTERVAL_S = 0.5


def member(directory: Path, endpoint: Endpoint, host: str, **settings: object) -> Daemon:
    """Return a daemon, not started yet, that is a host of the cluster; `settings` as they stand in the file."""
    directory.mkdir()
    servers = ", ".join(f'"{server}"' for server in endpoint.servers)
    own = {
        "zookeeper": f"[{servers}]",
        "zookeeper_root": f'"{endpoint.root}"',
        "zookeeper_session_s": endpoint.session_s,
        "host_id": f'"{host}"',
        "agent_interval_s": INTERVAL_S,
        "coordinator_wait_s": 5,
        **settings,
    }
    return Daemon(directory, "".join(f"{key} = {value}\n" for key, value in own.items()))


@contextlib.contextmanager
def members(directory: Path, endpoint: Endpoint, *hosts: str) -> Iterator[list[Daemon]]:
    """Have a daemon run as each of these hosts for the length of the block."""
    with contextlib.ExitStack() as ends:
        found = []
        for host in hosts:
            daemon = member(directory / host, endpoint, host)
            ends.callback(daemon.close)
            found.append(daemon.start())
        yield found


class Admin:
    """An administrator of the cluster, with a session of his own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.session = Session(endpoint)
        self.session.start()
        self.verbs = Administration(self.session, by="test", clock=SystemClock())

    def close(self) -> None:
        self.session.close()

    def create(
        self,
        *requirements: str,
        hosts: tuple[str, ...] = (),
        labels: Mapping[str, str] | None = None,
        alias: str | None = None,
        parallel: int = 0,
    ) -> EnvName:
        """Declare an environment of these packages."""
        spec = spec_of(*requirements)
        selector = Selector(hosts=hosts, labels=labels or {})
        self.verbs.create(
            Declaration(spec=dataclasses.asdict(spec), selector=selector, alias=alias, max_parallel=parallel)
        )
        return spec.name

    def row(self, name: EnvName, host: str) -> Row:
        return self.verbs.why(name, host)

    def until_state(self, name: EnvName, state: str, *hosts: str) -> DeclaredEnvironment:
        """Wait until each of these hosts says so of an environment."""

        def look() -> DeclaredEnvironment | None:
            found = self.verbs.show(name)
            by_host = {row.host: row for row in found.rows}
            return found if all(host in by_host and by_host[host].state == state for host in hosts) else None

        found = until(look)
        assert found is not None
        return found


@contextlib.contextmanager
def administrator(endpoint: Endpoint) -> Iterator[Admin]:
    admin = Admin(endpoint)
    try:
        yield admin
    finally:
        admin.close()

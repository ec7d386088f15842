"""Clusters for the contract of `envmgr.ports.Coordinator`: hosts, and what befalls them, on the fake and for real."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from fakes.coordinator import FakeCluster, FakeCoordinator
from fakes.worlds import NOWHERE
from link_proxy import LinkProxy

from envmgr import settings
from envmgr.coordination.zookeeper import tree
from envmgr.coordination.zookeeper.coordinator import ZookeeperCoordinator
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session
from envmgr.names import EnvName
from envmgr.ports import Coordinator, Siblings

WAIT_S = 0.5
"""How long hosts wait for a coordinator that does not answer."""


class Told(Coordinator, Protocol):
    """What the agent tells a coordinator."""

    def declared(self, generations: Mapping[EnvName, int]) -> None: ...

    def classes(self, classes: Mapping[str, Mapping[str, str]]) -> None: ...

    def living(self, siblings: Siblings) -> None: ...


class Cluster(Protocol):
    """Hosts by name; each is made when it is first asked for."""

    def host(
        self, name: str, *, store_id: str | None = None, is_shared: bool = False, stall_s: float = 900
    ) -> Told: ...

    def cut(self, name: str) -> None:
        """Let the coordinator not answer this host."""

    def mend(self, name: str) -> None: ...

    def take_solve_claim(self, name: EnvName, machine_class: str) -> None:
        """Let whoever holds the claim on a solve hold it no longer, without knowing."""


class FakeOne:
    """The fake."""

    def __init__(self, directory: Path) -> None:
        self._cluster = FakeCluster(directory)
        self._hosts: dict[str, FakeCoordinator] = {}

    def host(self, name: str, *, store_id: str | None = None, is_shared: bool = False, stall_s: float = 900) -> Told:
        if name not in self._hosts:
            self._hosts[name] = self._cluster.host(
                name, store_id=store_id, is_shared=is_shared, stall_s=stall_s, wait_s=WAIT_S
            )
        return self._hosts[name]

    def cut(self, name: str) -> None:
        self._hosts[name].is_down = True

    def mend(self, name: str) -> None:
        self._hosts[name].is_down = False

    def take_solve_claim(self, name: EnvName, machine_class: str) -> None:  # noqa: ARG002 - hosts hold one at a time
        for host in self._hosts.values():
            host.lose_claims()


class RealOne:
    """A real ZooKeeper, each host behind a link of its own."""

    def __init__(self, endpoint: Endpoint, held: contextlib.ExitStack) -> None:
        self._endpoint = endpoint
        self._held = held
        self._hosts: dict[str, ZookeeperCoordinator] = {}
        self._links: dict[str, LinkProxy] = {}
        self.outside = self._session(endpoint)

    def host(
        self, name: str, *, store_id: str | None = None, is_shared: bool = False, stall_s: float = 900
    ) -> ZookeeperCoordinator:
        if name not in self._hosts:
            link = self._links[name] = self._held.enter_context(LinkProxy(self._endpoint.servers[0]))
            session = self._session(dataclasses.replace(self._endpoint, servers=(link.address,)))
            values = settings.load(
                root=NOWHERE,
                mode="personal",
                environ={"ENVMGR_COORDINATOR_WAIT_S": str(WAIT_S), "ENVMGR_SOLVE_STALL_S": str(stall_s)},
                home=NOWHERE,
                etc=NOWHERE,
            )
            coordinator = ZookeeperCoordinator(
                session, host=name, store_id=store_id or name, is_shared=is_shared, settings_of=lambda: values
            )
            self._held.callback(coordinator.close)
            self._hosts[name] = coordinator
        return self._hosts[name]

    def cut(self, name: str) -> None:
        self._links[name].cut()

    def mend(self, name: str) -> None:
        self._links[name].mend()
        self._hosts[name].session.wait_connected(20.0)

    def mend_all(self) -> None:
        for name in self._hosts:
            self.mend(name)

    def take_solve_claim(self, name: EnvName, machine_class: str) -> None:
        path = tree.solve_claim(name, machine_class)
        for node in self.outside.children(path):
            self.outside.delete(f"{path}/{node}")

    def _session(self, endpoint: Endpoint) -> Session:
        session = Session(endpoint)
        self._held.callback(session.close)
        session.start()
        return session


@contextlib.contextmanager
def real(endpoint: Endpoint) -> Iterator[RealOne]:
    with contextlib.ExitStack() as held:
        cluster = RealOne(endpoint, held)
        try:
            yield cluster
        finally:
            cluster.mend_all()  # a session that cannot be ended takes seconds to give up

"""Hosts of a cluster that build nothing: they read the intent and write the status that a test ordered of them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from envmgr.coordination.zookeeper import tree
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.nodes import NodeExists
from envmgr.coordination.zookeeper.session import Session
from envmgr.errors import EnvmgrError
from envmgr.wire.tree import (
    EnvironmentStatus,
    Host,
    HostProgress,
    HostStatus,
    Intent,
    Progress,
    Revision,
    decode,
    encode,
)

LOOK_S = 0.02
Order = Callable[[Intent], EnvironmentStatus]


def ready(intent: Intent) -> EnvironmentStatus:
    """Do at once what the intent says."""
    now = time.time()
    return EnvironmentStatus(
        name=intent.name, state="ready" if intent.state == "present" else "absent", generation=intent.generation,
        lock_generation=intent.lock_generation, lock_digest="d" * 64, attempts=1, started_at=now - 3, finished_at=now,
    )  # fmt: skip


def drifted(intent: Intent) -> EnvironmentStatus:
    """Have it from another lockfile than the cluster's."""
    return replace(ready(intent), lock_digest="e" * 64, is_drift=True)


def failing(error: EnvmgrError) -> Order:
    """Fail with this error, for good, until an administrator has it tried again."""

    def fail(intent: Intent) -> EnvironmentStatus:
        if intent.retries:
            return ready(intent)
        now = time.time()
        return EnvironmentStatus(
            name=intent.name, state="failed", generation=intent.generation, error=error.to_json(), attempts=1,
            started_at=now - 1, finished_at=now,
        )  # fmt: skip

    return fail


def building(intent: Intent) -> EnvironmentStatus:
    """Begin, and never come to an end."""
    return EnvironmentStatus(
        name=intent.name, state="building", generation=intent.generation, attempts=1, started_at=time.time()
    )


@dataclass
class Hosts:
    """The hosts of one cluster; `orders` may be changed at any time, `away` are known but do not live."""

    session: Session
    orders: dict[str, Order] = field(default_factory=dict)
    away: tuple[str, ...] = ()
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def join(self) -> None:
        """Let all of them say that they are there."""
        tree.found(self.session)
        for host in (*self.orders, *self.away):
            labels = self.labels.get(host, {})
            status = HostStatus(host=host, instance="1", labels=labels, at=time.time())
            self.session.create(tree.status(host), encode(status))
            if host not in self.away:
                found = Host(
                    host=host, instance="1", machine_id=host, boot_id="1", store_id=host, machine_class="linux-64",
                    version="0.1.0", labels=labels, since=time.time(),
                )  # fmt: skip
                self.session.create(tree.host(host), encode(found), is_ephemeral=True)

    def run(self) -> None:
        """Do what is ordered until told to stop; looks again and again."""
        told: dict[str, bytes] = {}
        while not self._stop.wait(LOOK_S):
            node = self.session.get(tree.REVISION)
            revision = 0 if node is None else decode(Revision, node.data, tree.REVISION).number
            intents = [
                decode(Intent, found.data, name)
                for name in self.session.children(tree.ENVS)
                if (found := self.session.get(tree.intent(name))) is not None
            ]
            for host, order in tuple(self.orders.items()):
                labels = self.labels.get(host, {})
                mine = [intent for intent in intents if intent.selector.matches(host, labels)]
                status = HostStatus(
                    host=host, instance="1", revision=revision, labels=labels, environments=tuple(map(order, mine))
                )
                key = repr([(it.name, it.state, it.generation) for it in status.environments]).encode()
                if told.get(host) != key:
                    told[host] = key
                    self._tell_progress(host, status)
                    self.session.put(tree.status(host), encode(status))

    def _tell_progress(self, host: str, status: HostStatus) -> None:
        builds = [Progress(name=it.name, phase="link", percent=40) for it in status.environments]
        data = encode(HostProgress(host=host, builds=tuple(builds)))
        try:
            self.session.create(tree.progress(host), data, is_ephemeral=True)
        except NodeExists:
            self.session.put(tree.progress(host), data)

    def stop(self) -> None:
        self._stop.set()


@contextlib.contextmanager
def living(
    endpoint: Endpoint,
    orders: dict[str, Order],
    *,
    away: tuple[str, ...] = (),
    labels: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[Hosts]:
    """Have hosts live for the length of the block."""
    session = Session(endpoint)
    session.start()
    hosts = Hosts(session, orders, away, labels or {})
    thread = threading.Thread(target=hosts.run)
    try:
        hosts.join()
        thread.start()
        yield hosts
    finally:
        hosts.stop()
        if thread.ident is not None:
            thread.join()
        session.close()

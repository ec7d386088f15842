"""The daemon as a member of a cluster: its session with ZooKeeper, its agent, and the archives that it gives.

Only a daemon with the setting ``zookeeper`` imports this, and kazoo with it. Where ZooKeeper is, and who this host is
there, is settled as the daemon starts; other values of those settings count from the next start.

Order: who we are (a copied store gets its own id before anybody uses it), the coordinator for all that is built here,
then the agent. At the end nothing new is begun first; when what runs has ended, the host says how it stands and is gone
from the cluster at once. Nothing here waits for a ZooKeeper that does not answer, but for the end, and that is bounded.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from envmgr.agent import identity, memory
from envmgr.agent.agent import Agent
from envmgr.cluster.administration import Administration
from envmgr.coordination.zookeeper import coordinator, endpoint
from envmgr.coordination.zookeeper.session import BOOT_CLOCK, Session
from envmgr.daemon.archives import ArchiveServer
from envmgr.daemon.declared import Declared
from envmgr.store import opening

if TYPE_CHECKING:
    from envmgr.daemon.service import Service
    from envmgr.names import EnvName
    from envmgr.ports import Administration as AdministrationPort
    from envmgr.ports import Clock
    from envmgr.settings import Settings
    from envmgr.wire import socket as wire

_log = logging.getLogger(__name__)


class _BootTime:
    """The clock of the agent: its durations run on while the machine is suspended, as ZooKeeper's do."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def time(self) -> float:
        return self._clock.time()

    def monotonic(self) -> float:
        return BOOT_CLOCK.monotonic()

    def sleep(self, seconds: float) -> None:
        self._clock.sleep(seconds)


class Member:
    """See the module; to be made under the daemon's lock. Raises `UsageError` for settings that cannot be."""

    def __init__(self, service: Service) -> None:
        context = service.manager.context
        layout, settings = context.layout, context.settings
        self._service = service
        self._clock = context.clock
        machine = identity.machine(socket.gethostname())
        outside = identity.runtime_directory(layout)
        is_shared = opening.is_on_shared_filesystem(layout)
        who = identity.settle(layout, machine, host_id=settings.host_id, is_shared=is_shared, outside=outside)
        if who.copied_from is not None:
            _log.warning(
                "the disk is a copy of that of %s: this is another host, and its store has the id %s from now on",
                who.copied_from, who.store_id,
            )  # fmt: skip
        found = endpoint.of_settings(settings)
        if found is None:
            raise ValueError("the setting zookeeper is empty")
        self._session = Session(found)
        self._coordinator = coordinator.of_store(
            self._session, layout, host=who.host, settings_of=self._settings, uuid_of=lambda: self._agent.uuid
        )
        hands = Declared(service, self._coordinator, layout)
        self._archives: ArchiveServer | None = None
        if settings.share_archives and settings.archives_listen is not None:
            self._archives = ArchiveServer(layout, self._settings, self._coming)
        self._agent = Agent(
            self._session, self._coordinator, hands, hands, who,
            settings_of=self._settings,
            clock=_BootTime(context.clock),
            memory=memory.read(layout, machine),
            keep=lambda new: memory.write(layout, machine, new),
            keep_identity=lambda new: identity.keep(layout, new, outside),
            archives=self._archives_url,
            memory_path=memory.path_text(layout, machine),
        )  # fmt: skip
        self._host_name = machine.host_name
        service.work_with(replace(context, coordinator=self._coordinator))
        service.membership = self._agent.glance
        service.declared = self.declared

    def start(self) -> None:
        """Begin; waits for nothing. Raises `UsageError` when the address of the archives cannot be had."""
        if self._archives is not None:
            self._archives.start()
        self._session.start(0.0)
        self._coordinator.hold()
        self._agent.start()

    def look_soon(self) -> None:
        """Compare this host with what the cluster wants now: the settings were read again."""
        self._agent.look_soon()

    def declared(self) -> Collection[EnvName]:
        """Return the environments that the cluster wants here."""
        return self._agent.declared()

    def membership(self) -> wire.Membership:
        """Return how this host stands to its cluster."""
        return self._agent.glance()

    def administration(self, by: str) -> AdministrationPort:
        """Return what administers the cluster for a user of this host."""
        by = f"{by}@{self._host_name}"
        return Administration(self._session, by=by, clock=self._clock, uuid_of=lambda: self._agent.uuid)

    def stop_beginning(self) -> None:
        """Begin nothing for the cluster from now on."""
        self._agent.stop_beginning()

    def leave(self) -> None:
        """Be gone from the cluster, once what runs has ended."""
        with contextlib.ExitStack() as ends:
            ends.callback(self._session.close)
            ends.callback(self._coordinator.close)
            if self._archives is not None:
                ends.callback(self._archives.stop)
            self._agent.leave()

    def _settings(self) -> Settings:
        return self._service.settings

    def _coming(self) -> Collection[EnvName]:
        return self._service.coming() | frozenset(self._agent.coming())

    def _archives_url(self) -> str | None:
        return None if self._archives is None else self._archives.url(self._host_name)

"""The daemon's life: begin, serve, reload, drain, end.

* It begins when it is the only one of its store and listens; then it says so to the service manager (``READY=1``). What
  a killed one left is cleared away meanwhile.
* SIGHUP rereads the settings and the tokens. What the sockets are made of (``listen``, ``use_group``, ``tls_…``) counts
  from the next start.
* SIGTERM or SIGINT: nothing new is begun, builds that run have `DRAIN_S` to end and are cancelled then, everybody who
  listens hears of it, and those to whom a lease was handed over have `HANDOVER_S` to take theirs. A second signal
  cancels at once.
* With the setting ``zookeeper`` it is a member of a cluster (`envmgr.daemon.member`); a ZooKeeper that does not answer
  keeps it from nothing here.
* The watchdog hears that all is well only after the event loop and a thread that asked for the list of operations have
  come round.

Nothing here polls; at rest the process sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from uvicorn.config import Config
from uvicorn.server import ServerState

from envmgr.agent import identity
from envmgr.daemon import listening, protocol, systemd
from envmgr.daemon.app import Gate, application
from envmgr.daemon.cluster_routes import ClusterRoutes
from envmgr.daemon.cluster_service import ClusterService, no_cluster
from envmgr.daemon.housekeeping import Housekeeping
from envmgr.daemon.logs import Log
from envmgr.daemon.metrics import Metrics
from envmgr.daemon.observers import Observers
from envmgr.daemon.peers import Callers, Groups
from envmgr.daemon.protocol import Door, PeerProtocol
from envmgr.daemon.routes import Routes
from envmgr.daemon.service import Service
from envmgr.daemon.telling import Teller
from envmgr.daemon.tokens import Tokens
from envmgr.daemon.workers import Workers
from envmgr.errors import EnvmgrError
from envmgr.manager.manager import Manager
from envmgr.model import Caller
from envmgr.operations import Operations
from envmgr.store import locks, opening
from envmgr.version import __version__

if TYPE_CHECKING:
    from envmgr.daemon.listening import Listener
    from envmgr.daemon.member import Member
    from envmgr.names import EnvName
    from envmgr.ports import Administration
    from envmgr.settings import Settings

DRAIN_S = 30.0
HANDOVER_S = 2.0
HOUSEKEEPING_S = 5.0
_ANSWER_S = 5.0
_HURRY_S = 1.0
_log = logging.getLogger(__name__)


class Daemon:
    """One daemon of one store; `run` is its life."""

    def __init__(self, manager: Manager, *, reread: Callable[[], Settings]) -> None:
        context = manager.context
        settings = context.settings
        self._layout = context.layout
        self._notifier = systemd.Notifier()
        self._inherited = systemd.inherited_sockets()
        self._log = Log(settings.log_format, host=context.host, clock=context.clock)
        operations = Operations(
            max_running=settings.max_builds,
            max_waiting=settings.max_waiting,
            max_waiting_per_caller=settings.max_waiting_per_user,
            clock=context.clock,
        )
        self._door = Door(lambda: self._service.settings.max_connections_per_user)
        self._metrics = Metrics(
            self._layout,
            operations=lambda: [flight.snapshot() for flight in operations.all()],
            connections=lambda: self._door.connections,
        )
        self._observers = observers = Observers(self._log, self._metrics)
        self._service = Service(manager, operations=operations, observer=observers, reread=reread)
        self._housekeeping = observers.housekeeping = Housekeeping(
            lambda: self._service.manager, context.clock, observers, protected=self._declared
        )
        self._member: Member | None = None
        self._workers = Workers()
        self._routes = Routes(self._service, self._workers, metrics=self._metrics.text)
        cluster = ClusterService(Teller(observers, self._layout, context.clock), context.clock, self._administration)
        self._cluster_routes = ClusterRoutes(cluster, self._routes)
        uid, _ = opening.owner(self._layout)
        self._callers = Callers(uid, self._groups, context.clock)
        self._state = ServerState()
        self._hurry = False

    def run(self) -> int:
        """Serve until told to stop; return the exit code."""
        _raise_descriptor_limit()
        locks.load()
        with self._log.capturing(), listening.only_daemon(self._layout, self._machine_of_shared()):
            self._member = self._membership()
            with listening.listeners(self._layout, self._service.settings, self._inherited) as found:
                self._housekeeping.start()
                if self._member is not None:
                    self._member.start()
                asyncio.run(self._live(found))
            if self._member is not None:
                self._member.leave()
            has_ended = self._housekeeping.stop(HOUSEKEEPING_S)
        self._workers.close()
        if self._workers.is_busy or not has_ended:
            _log.warning("work that does not come to an end is left behind")
            os._exit(0)
        return 0

    def _machine_of_shared(self) -> str | None:
        """Return this machine's id where other hosts have daemons for the same store."""
        if not self._service.settings.zookeeper or not opening.is_on_shared_filesystem(self._layout):
            return None
        return identity.machine(socket.gethostname()).id

    def _membership(self) -> Member | None:
        if not self._service.settings.zookeeper:
            return None
        from envmgr.daemon.member import Member  # noqa: PLC0415 - kazoo, which other hosts do without

        return Member(self._service)

    def _declared(self) -> Collection[EnvName]:
        return () if self._member is None else self._member.declared()

    def _administration(self, by: str) -> Administration:
        return no_cluster(by) if self._member is None else self._member.administration(by)

    def _groups(self) -> Groups:
        settings = self._service.settings
        return Groups(use=settings.use_group, admin=settings.admin_group)

    async def _live(self, found: Sequence[Listener]) -> None:
        settings = self._service.settings
        tokens = None if settings.tokens_file is None else Tokens(Path(settings.tokens_file))
        gate = Gate(
            application(self._routes, self._cluster_routes),
            callers=self._callers,
            tokens=tokens,
            workers=self._workers,
            seen=self._metrics.request,
        )
        config = Config(
            gate, ws="none", lifespan="off", interface="asgi3", log_config=None, access_log=False, proxy_headers=False,
            server_header=False, date_header=False,
        )  # fmt: skip
        config.load()
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # of each request that is not HTTP, it warns
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_stop, stop)
        reloads: set[asyncio.Task[None]] = set()
        loop.add_signal_handler(signal.SIGHUP, lambda: reloads.add(loop.create_task(self._reload())))
        servers = [
            await loop.create_server(
                lambda: PeerProtocol(config, self._state, self._door),
                sock=listener.socket,
                backlog=listening.BACKLOG,
                ssl=listener.tls,
                ssl_handshake_timeout=None if listener.tls is None else protocol.LIMITS.header_s,
            )
            for listener in found
        ]
        gc.collect()
        gc.freeze()  # what is there now stays: collections need not walk through it
        words = " and ".join(listener.words for listener in found)
        self._log.event("started", message=f"listening on {words}", version=__version__, root=str(self._layout.root))
        self._notifier.tell("READY=1", f"STATUS=serving {self._layout.root} on {words}")
        watchdog = loop.create_task(self._watchdog())
        await stop.wait()
        await self._drain()
        watchdog.cancel()
        for server in servers:
            server.close()
        await self._finish()

    # ---------------------------------------------------------------------------------------------------- while it runs

    async def _watchdog(self) -> None:
        if self._notifier.watchdog_s is None:
            return
        pause_s = self._notifier.watchdog_s / 2
        while True:
            if await self._workers.is_alive(self._probe, pause_s / 2):
                self._notifier.tell("WATCHDOG=1")
            await asyncio.sleep(pause_s / 2)

    def _probe(self) -> None:
        """Do what fails to come back when a thread or a lock is stuck."""
        self._service.operations(Caller(user="watchdog", role="admin"))

    async def _reload(self) -> None:
        self._notifier.reloading()
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._service.reload)
        except EnvmgrError as error:
            _log.warning("the settings could not be read again; those from before stay in force: %s", error.message)
        except Exception:  # noqa: BLE001 - the old settings stay in force, whatever is wrong with the new ones
            _log.exception("the settings could not be read again; those from before stay in force")
        else:
            self._log.log_format = self._service.settings.log_format
            self._log.event("reloaded")
            if self._member is not None:
                self._member.look_soon()
        self._callers.forget()
        self._notifier.tell("READY=1")

    # --------------------------------------------------------------------------------------------------------- its end

    def _asked_to_stop(self, stop: asyncio.Event) -> None:
        if stop.is_set() and not self._hurry:
            self._hurry = True
            asyncio.get_running_loop().run_in_executor(None, self._service.drain, 0.0)
        stop.set()

    async def _drain(self) -> None:
        self._routes.is_draining = True
        self._log.event("stopping")
        self._notifier.tell("STOPPING=1", "STATUS=waiting for builds to end")
        if self._member is not None:
            self._member.stop_beginning()
        await asyncio.get_running_loop().run_in_executor(None, self._service.drain, DRAIN_S)

    async def _finish(self) -> None:
        """Let answers that were begun be ended and read, and leases be taken over; then end every connection."""
        patience_s = _HURRY_S if self._hurry else _ANSWER_S
        for connection in self._connections():
            connection.finish()
        if self._state.tasks:
            await asyncio.wait(set(self._state.tasks), timeout=patience_s)
        for connection in self._connections():
            if self._hurry:
                connection.connection.release()
            connection.finish()
        left = [connection.connection for connection in self._connections()]
        await _all_lost(left, _HURRY_S if self._hurry else HANDOVER_S)
        for connection in self._connections():
            connection.transport.abort()
        for task in tuple(self._state.tasks):
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)
        # It ends already; without the loop a further signal would kill it before all is put away.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))

    def _connections(self) -> list[PeerProtocol]:
        return [connection for connection in self._state.connections if isinstance(connection, PeerProtocol)]


async def _all_lost(connections: Sequence[protocol.Connection], patience_s: float) -> None:
    """Wait until these connections have ended, but not for longer."""
    lost = asyncio.Event()
    left = {id(connection) for connection in connections if not connection.is_lost}

    def note(connection: protocol.Connection) -> None:
        left.discard(id(connection))
        if not left:
            lost.set()

    for connection in connections:
        connection.when_lost.add(lambda connection=connection: note(connection))  # type: ignore[misc]  # a lambda's default
    if left:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(lost.wait(), patience_s)


def _raise_descriptor_limit() -> None:
    """Allow as many descriptors as may be: each connection and each lease that is held takes one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

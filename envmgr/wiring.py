"""From a root to a running manager: settings, store and backend put together. The one place that knows them all.

`manager` works on the store itself; `front` asks the store's daemon where one listens, and is what everybody uses but
the daemon. Only the store's owner writes it: where no daemon listens, he works by himself, and everybody else, root
included, is told what to start.

It never imports rattler or conda_lock; those live in the builder's process.
"""

# ruff: noqa: PLC0415 - what only some of the callers need costs the others nothing

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from envmgr import ready
from envmgr import settings as settings_
from envmgr.backends.spawner import Spawner
from envmgr.coordination.alone import Alone
from envmgr.errors import DaemonUnavailable, PermissionRefused, UsageError
from envmgr.manager.context import Context, SystemClock
from envmgr.manager.manager import Manager
from envmgr.names import EnvName
from envmgr.remote import connection
from envmgr.store import opening
from envmgr.store.layout import Layout
from envmgr.wire import address

if TYPE_CHECKING:
    from envmgr.ports import Administration, Backend, Coordinator
    from envmgr.remote.manager import RemoteManager
    from envmgr.settings import Settings
    from envmgr.store.opening import Mode

_CONNECT_S = 5.0
"""Longer than servers that are well take to answer; whoever waits at a terminal is told then."""


def manager(root: str | None = None, *, writable: bool = True, backend: Backend | None = None) -> Manager:
    """Return the manager of the store at `root` (default: `envmgr.ready.default_root`).

    A writable one makes the store if it is not there, and raises what `envmgr.store.opening` refuses with. With
    ``writable=False`` nothing is made or changed, and a store that is not there is an empty one.
    """
    path = Path(root if root is not None else ready.default_root())
    layout = opening.open_for_writing(path, _mode(path)) if writable else opening.open_for_reading(path)
    found = settings(path)
    return Manager(
        Context(
            layout=layout or Layout(path),
            settings=found,
            backend=backend or Spawner(),
            clock=SystemClock(),
            host=socket.gethostname(),
            coordinator=Alone() if layout is None or not found.zookeeper else _coordinator(layout, found),
        )
    )


def _coordinator(layout: Layout, settings: Settings) -> Coordinator:
    """Return the coordinator of a host in a cluster, which connects when it is needed."""
    from envmgr.agent import identity, memory
    from envmgr.coordination.lazily import Lazily

    machine = identity.machine(socket.gethostname())
    remembered = memory.read(layout, machine)

    def connect() -> Coordinator:
        import atexit

        from envmgr.coordination.zookeeper import coordinator, endpoint
        from envmgr.coordination.zookeeper.session import Session

        found = endpoint.of_settings(settings)
        if found is None:
            return Alone()
        session = Session(found)
        session.start(0.0)
        atexit.register(session.close)
        host = identity.name_of(layout, machine, settings.host_id)
        return coordinator.of_store(
            session, layout, host=host, settings_of=lambda: settings, uuid_of=lambda: remembered.uuid
        )

    is_shared = opening.is_on_shared_filesystem(layout)
    declared = {EnvName(name): held.lock_generation or 1 for name, held in remembered.environments.items()}
    return Lazily(connect, is_shared=is_shared, declared=declared, classes=remembered.classes)


def front(root: str | None = None, *, backend: Backend | None = None) -> Manager | RemoteManager:
    """Return what changes the store at `root`: its daemon where one listens, else the store's own writable manager.

    `backend` is for the latter. Raises `DaemonUnavailable` for a service's store of another user without its daemon,
    or when the daemon takes no connections; `PermissionRefused` when this user may not connect; and what `manager`
    raises.
    """
    path = root if root is not None else ready.default_root()
    socket_path = address.socket_of(path)
    if socket_path is not None and _answers(Path(path), socket_path):
        # Its records take longer to import than all the rest; only those who have a daemon pay for them.
        from envmgr.remote.manager import RemoteManager

        return RemoteManager(Path(path), socket_path)
    _refuse_others(Path(path))
    return manager(path, backend=backend)


@contextlib.contextmanager
def administration(root: str | None = None) -> Iterator[Administration]:
    """Give what administers the cluster for the length of a block.

    That is the daemon of the store at `root` where one answers, else the cluster's ZooKeeper itself, as the settings
    name it. Raises `UsageError` where they name none.
    """
    # Neither kazoo nor the cluster's records are loaded by whoever only wants an environment.
    path = root if root is not None else ready.default_root()
    socket_path = address.socket_of(path)
    if socket_path is not None and _answers(Path(path), socket_path):
        from envmgr.remote.administration import RemoteAdministration

        yield RemoteAdministration(socket_path)
        return
    from envmgr.coordination.zookeeper import endpoint

    found = endpoint.of_settings(settings(Path(path)))
    if found is None:
        raise UsageError(
            f"no daemon answers for {path}, and no cluster is set",
            hint="start the daemon of a host of the cluster, or let the setting zookeeper (ENVMGR_ZOOKEEPER) name the "
            "servers of its ZooKeeper",
            setting="zookeeper",
        )
    import getpass

    from envmgr.cluster.administration import Administration as OnTree
    from envmgr.coordination.zookeeper.session import Session

    session = Session(found)
    session.start(timeout_s=_CONNECT_S)
    try:
        if not session.is_connected:  # the first call would wait as long again
            raise session.unavailable(f"ZooKeeper does not answer within {_CONNECT_S:g} s")
        by = f"{getpass.getuser()}@{socket.gethostname()}"
        yield OnTree(session, by=by, clock=SystemClock())
    finally:
        session.close()


def _answers(root: Path, socket_path: str) -> bool:
    try:
        return connection.answers(socket_path)
    except PermissionRefused:
        # Somebody's own daemon serves nobody else: that the store is not ours says more than that its socket is not.
        if owner(root)[1] == "personal":
            return False
        raise


def owner(root: Path) -> tuple[int, Mode]:
    """Return the uid that owns the store at `root`, or would if it were made now, and the store's mode."""
    try:
        return opening.owner(Layout(root))
    except (FileNotFoundError, NotADirectoryError):
        return root.stat().st_uid if _mode(root) == "service" and root.is_dir() else os.geteuid(), _mode(root)


def _refuse_others(root: Path) -> None:
    """Raise `DaemonUnavailable` for a service's store that this user does not own, also before it is made."""
    try:
        uid, mode = owner(root)
    except OSError:
        return  # `manager` says it better
    if mode == "service" and uid != os.geteuid():
        raise DaemonUnavailable(
            f"the daemon of {root} is not running, and only its user (uid {uid}) changes that store",
            hint="systemctl start envmgr.service starts it; ready environments can be used without it",
        )


def settings(root: Path) -> Settings:
    """Return the settings in force for the store at `root`; of a host in a cluster, with what the cluster shares."""
    own = settings_.load(root=root, mode=_mode(root), environ=os.environ, home=Path.home())
    if not own.zookeeper:
        return own
    from envmgr.agent import identity, memory
    from envmgr.settings.overlay import overlay

    remembered = memory.read(Layout(root), identity.machine(socket.gethostname()))
    return overlay(own, remembered.settings)[0]


def _mode(root: Path) -> Mode:
    return "service" if str(root) == ready.SERVICE_ROOT else "personal"

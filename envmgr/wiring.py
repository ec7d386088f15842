"""From a root to a running manager: settings, store and backend put together. The one place that knows them all.

It never imports rattler or conda_lock; those live in the builder's process.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from envmgr import ready
from envmgr import settings as settings_
from envmgr.backends.spawner import Spawner
from envmgr.manager.context import Context, SystemClock
from envmgr.manager.manager import Manager
from envmgr.store import opening
from envmgr.store.layout import Layout

if TYPE_CHECKING:
    from envmgr.ports import Backend
    from envmgr.settings import Settings
    from envmgr.store.opening import Mode


def manager(root: str | None = None, *, writable: bool = True, backend: Backend | None = None) -> Manager:
    """Return the manager of the store at `root` (default: `envmgr.ready.default_root`).

    A writable one makes the store if it is not there, and raises what `envmgr.store.opening` refuses with. With
    ``writable=False`` nothing is made or changed, and a store that is not there is an empty one.
    """
    path = Path(root if root is not None else ready.default_root())
    layout = opening.open_for_writing(path, _mode(path)) if writable else opening.open_for_reading(path)
    clock = SystemClock()
    return Manager(
        Context(
            layout=layout or Layout(path),
            settings=settings(path),
            backend=backend or Spawner(),
            clock=clock,
            host=socket.gethostname(),
        )
    )


def settings(root: Path) -> Settings:
    """Return the settings in force for the store at `root`."""
    return settings_.load(root=root, mode=_mode(root), environ=os.environ, home=Path.home())


def _mode(root: Path) -> Mode:
    return "service" if str(root) == ready.SERVICE_ROOT else "personal"

"""Where the daemon of a store listens, and how a client finds it.

The service's socket has one place. The daemon of a personal store chooses its own (a directory that only its user can
search: the length of a socket's path is bounded) and leaves the link ``<root>/socket`` to it. ``ENVMGR_SOCKET`` names
another one, or, empty, none: then nothing asks a daemon.

Source: unix(7).
"""

from __future__ import annotations

import os

from envmgr import ready

SOCKET_NAME = "envmgr.sock"
LINK_NAME = "socket"
VARIABLE = "ENVMGR_SOCKET"


def socket_of(root: str) -> str | None:
    """Return where a daemon of the store at `root` would listen, or ``None``; whether one does is not known."""
    chosen = os.environ.get(VARIABLE)
    if chosen is not None:
        return chosen or None
    if root == ready.SERVICE_ROOT:
        return f"{ready.SERVICE_SOCKET_DIR}/{SOCKET_NAME}"
    try:
        return os.path.join(root, os.readlink(f"{root}/{LINK_NAME}"))
    except OSError:
        return None

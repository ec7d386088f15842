"""Where the daemon of a store listens, and how a client finds it.

The service's socket has one place. The daemon of a personal store chooses its own (a directory that only its user can
search: the length of a socket's path is bounded) and leaves the link ``<root>/socket`` to it. ``ENVMGR_SOCKET`` names
another one, or, empty, none: then nothing asks a daemon.

A daemon that was killed leaves its link, and once the temporary directory was cleaned, anybody can make what it leads
to. So a socket of somebody else than the link's owner, root and ourselves is none.

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
    link = f"{root}/{LINK_NAME}"
    try:
        path = os.path.join(root, os.readlink(link))
        trusted = (os.lstat(link).st_uid, 0, os.geteuid())
    except OSError:
        return None
    try:
        return path if os.stat(path).st_uid in trusted else None
    except OSError:
        return path

"""The service's capabilities are the daemon's own: what it starts gets none.

systemd hands them over as *ambient* ones (naming who uses an environment means looking into other users' processes),
and every program that a build starts would inherit those: uv, a package's activation script, a source distribution's
``setup.py`` could read every file of the host. Dropping the ambient set takes nothing from this process.

Source: capabilities(7), PR_CAP_AMBIENT in prctl(2).
"""

from __future__ import annotations

import ctypes
import os

_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4


def keep_to_this_process() -> None:
    """Let no program that this thread, or one that it starts later, executes inherit a capability.

    Capabilities belong to threads: call it before there is a second one.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"cannot drop ambient capabilities: {os.strerror(ctypes.get_errno())}")

"""What the service manager and the daemon tell each other: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).

The variables are taken out of the environment, so that no builder speaks in the daemon's name. Without a service
manager nothing is said and nothing is found.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

_FIRST_FD = 3


class Notifier:
    """Tells the service manager what state the daemon is in."""

    def __init__(self) -> None:
        self._address = os.environ.pop("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self.watchdog_s = _watchdog_s()
        """How often the service manager wants to hear that all is well, in seconds; ``None``: it does not."""

    def tell(self, *lines: str) -> None:
        """Send assignments such as ``READY=1``; that nobody listens any more is no error."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto("\n".join(lines).encode(), self._address)

    def reloading(self) -> None:
        """Say that settings are being read again; ``READY=1`` says that it is done."""
        self.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def _watchdog_s() -> float | None:
    usec, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
    if not usec.isdigit() or not int(usec) or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1e6


def inherited_sockets() -> tuple[socket.socket, ...]:
    """Return the listening sockets that the service manager passed to this very process, once."""
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return ()
    made = []
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        os.set_inheritable(fd, False)
        made.append(socket.socket(fileno=fd))
    return tuple(made)

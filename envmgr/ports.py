"""The seams to the outside: tiny protocols that the manager is written against.

Real adapters live in `envmgr.backends` and `envmgr.coordination`, fakes in ``tests/``; both pass the same contract
suite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from envmgr.events import Reporter
from envmgr.wire.pipe import BuildRequest, BuildResult, Channel, Network


class Clock(Protocol):
    """Time, injected so that a test can move it."""

    def time(self) -> float:
        """Return UTC seconds since the epoch; for records only."""

    def monotonic(self) -> float:
        """Return seconds that never go back; for durations and deadlines."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class Deadline(Protocol):
    """When an operation must stop; asked between steps and while waiting."""

    def check(self) -> None:
        """Raise `envmgr.errors.TimedOut` when the time is up, `envmgr.errors.Cancelled` when the caller gave up."""

    def remaining_s(self) -> float | None:
        """Return the seconds left, or ``None`` without a limit."""


class Backend(Protocol):
    """What turns a request into a prefix.

    On return of `build` the prefix is whole, checked and synced to disk, ``conda-lock.yml`` and ``activation`` stand in
    the build's directory, and no process that the backend started is left. On an exception, too, no process is left;
    what lies in the build's directory is the caller's to throw away.
    """

    def build(
        self,
        request: BuildRequest,
        *,
        lease_fd: int,
        deadline: Deadline,
        report: Reporter,
        on_locked: Callable[[str], None],
    ) -> BuildResult:
        """Do `request`; every process that works on it holds `lease_fd` open.

        `on_locked` gets the text of the complete lockfile once, before packages of the pip section are installed.
        """

    def probe(self, channel: Channel, network: Network, subdir: str) -> str | None:
        """Look whether a channel answers; return what is wrong with it, or ``None``."""

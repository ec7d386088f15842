"""The seams to the outside: tiny protocols that the manager is written against.

Real adapters live in `envmgr.backends` and `envmgr.coordination`, fakes in ``tests/``; both pass the same contract
suite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from envmgr.errors import EnvmgrError
from envmgr.events import Reporter
from envmgr.model import PublishedLockfile
from envmgr.names import EnvName
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


class Claim(Protocol):
    """A lock held in the cluster; it can be lost at any moment, and says so before anybody else can have it."""

    @property
    def token(self) -> int:
        """A number that rises with every holder of this claim (ZooKeeper's czxid)."""

    @property
    def is_lost(self) -> bool:
        """Whether it is no longer certainly held; once true, true for ever."""

    def check(self) -> None:
        """Raise `envmgr.errors.ClaimLost` if it is lost; to be asked before each durable step that it guards."""


class Solving(Protocol):
    """The right to solve one generation of a lockfile, held under a claim."""

    @property
    def found(self) -> PublishedLockfile | None:
        """The generation, if another host published it before this one came to its turn."""

    def progress(self) -> None:
        """Say that the solver lives and gets on; one that does not for ``solve_stall_s`` is replaced."""

    def publish(self, text: str) -> PublishedLockfile:
        """Publish a complete conda-lock.yml, once and for ever, and return what is in force now.

        Another host's, if it was faster: then the caller installs that one. An unknown result is read again. Raises
        `ClaimLost`, `LockfileTooLarge`, `CoordinatorUnavailable`.
        """

    def fail(self, error: EnvmgrError) -> None:
        """Publish a permanent failure, so that not every host solves in vain; transient ones are left alone."""


@dataclass(frozen=True, slots=True)
class Siblings:
    """The hosts that give archives to each other: URLs of their archives; `own` is ``None`` where this one gives none.

    Every host of the cluster knows each by the same URL, so that all rank them alike.
    """

    own: str | None = None
    others: tuple[str, ...] = ()


class Coordinator(Protocol):
    """What the hosts of a cluster agree on; `envmgr.coordination.alone` is that of a host in no cluster.

    May be called from any thread. A coordinator that cannot be reached costs a short, bounded time wherever the work
    can go on without it, and `envmgr.errors.CoordinatorUnavailable` where it cannot.
    """

    @property
    def is_clustered(self) -> bool:
        """Whether this host is in a cluster at all."""

    def building(self, name: EnvName, *, deadline: Deadline, report: Reporter) -> AbstractContextManager[Claim | None]:
        """Hold the claim on (store id, name) for the length of a block; call it under the name's build lock.

        ``None``: the coordinator does not answer, or there is none, and the store does not need it. A store on a
        shared file system does: `CoordinatorUnavailable`.
        """

    def lockfile(self, name: EnvName, machine_class: str) -> PublishedLockfile | None:
        """Return the generation in force, ``None`` if there is none; `CoordinatorUnavailable` when nobody knows."""

    def solving(
        self, name: EnvName, machine_class: str, generation: int, *, deadline: Deadline, report: Reporter
    ) -> AbstractContextManager[Solving]:
        """Hold the claim on the solve of one generation for the length of a block; waits for who holds it.

        A permanent failure that another host published is raised, its field ``is_repeated`` true. Raises
        `CoordinatorUnavailable` after the setting ``coordinator_wait_s``.
        """

    def virtual_packages(self, machine_class: str) -> Mapping[str, str] | None:
        """Return what the cluster declares of a class for solving, ``__glibc`` → version; ``None``: nothing."""

    def is_declared(self, name: EnvName) -> bool:
        """Tell whether the cluster wants the environment on this host, as far as is known; never waits."""

    def siblings(self) -> Siblings:
        """Return the hosts that live, as far as is known; never waits."""

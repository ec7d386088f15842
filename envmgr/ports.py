"""The seams to the outside: tiny protocols that the manager is written against.

Real adapters live in `envmgr.backends` and `envmgr.coordination`, fakes in ``tests/``; both pass the same contract
suite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from envmgr.errors import EnvmgrError
from envmgr.events import Reporter
from envmgr.model import LockInForce, PublishedLockfile
from envmgr.names import EnvName
from envmgr.wire.pipe import BuildRequest, BuildResult, Channel, Network

if TYPE_CHECKING:
    from envmgr.names import Alias
    from envmgr.wire import cluster as wire
    from envmgr.wire.tree import Cluster


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

    def site_conda(self, executable: str | None) -> str:
        """Return in words which conda, mamba or micromamba the setting ``conda_executable`` leads to.

        Raises `envmgr.errors.UsageError` when there is none.
        """


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
        """Say that the solver gets on. One that does not for ``solve_stall_s`` loses the claim to whoever waits."""

    def check(self) -> None:
        """Raise `ClaimLost` when the claim was given up for want of progress: the solver is to end.

        A claim that was lost because ZooKeeper went away raises nothing here; what was solved can still be published
        under another claim.
        """

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

    Every host of the cluster knows each by the same URL, so that all rank them alike; in a large cluster some give
    archives that the others do not know of (`is_ranked` false). `solver` is the URL of the host that solved the
    lockfile in force of the environment in question: it has all of its archives.
    """

    own: str | None = None
    others: tuple[str, ...] = ()
    solver: str | None = None
    is_ranked: bool = True


class Coordinator(Protocol):
    """What the hosts of a cluster agree on; `envmgr.coordination.alone` is that of a host in no cluster.

    May be called from any thread. A coordinator that cannot be reached costs a short, bounded time wherever the work
    can go on without it, and `envmgr.errors.CoordinatorUnavailable` where it cannot.
    """

    @property
    def is_clustered(self) -> bool:
        """Whether this host is in a cluster at all."""

    @property
    def is_shared(self) -> bool:
        """Whether other hosts write the same store: then what a claim guards is not done without it."""

    def building(self, name: EnvName, *, deadline: Deadline, report: Reporter) -> AbstractContextManager[Claim | None]:
        """Hold the claim on (store id, name) for the length of a block; call it under the name's build lock.

        ``None``: the coordinator does not answer, or there is none, and the store does not need it. A store on a
        shared file system does: `CoordinatorUnavailable`.
        """

    def lockfile(self, name: EnvName, machine_class: str) -> PublishedLockfile | None:
        """Return the highest generation, ``None`` if there is none; `CoordinatorUnavailable` when nobody knows."""

    def lock_in_force(self, name: EnvName, machine_class: str) -> LockInForce | None:
        """Return number and digest of that generation, which costs less than its text; ``None`` if there is none."""

    def least_generation(self, name: EnvName) -> int:
        """Return the least generation that the cluster wants installed, 1 unless it relocked; never waits."""

    def solving(
        self,
        name: EnvName,
        machine_class: str,
        generation: int,
        *,
        deadline: Deadline,
        report: Reporter,
        is_retry: bool = False,
    ) -> AbstractContextManager[Solving]:
        """Hold the claim on the solve of one generation for the length of a block; waits for who holds it.

        A host that solves is waited for as long as it gets on; ZooKeeper for the setting ``coordinator_wait_s``, then
        `CoordinatorUnavailable`. A permanent failure that another host published is raised, its field ``is_repeated``
        true; with `is_retry` it is forgotten instead.
        """

    def virtual_packages(self, machine_class: str) -> Mapping[str, str] | None:
        """Return what the cluster declares of a class for solving, ``__glibc`` → version; ``None``: nothing."""

    def is_declared(self, name: EnvName) -> bool:
        """Tell whether the cluster wants the environment on this host, as far as is known; never waits."""

    def check_deletion(self) -> None:
        """Raise `envmgr.errors.UnsuitableFilesystem` unless the leases of all hosts of the store are seen here.

        Asked before anything that may be in use is deleted; a store of this host alone passes at no cost.
        """

    def siblings(self, name: EnvName) -> Siblings:
        """Return the hosts that live, as far as is known, for a build of `name`; never waits."""


class Watching(Protocol):
    """One declared environment, looked at again and again."""

    def show(self) -> wire.DeclaredEnvironment:
        """Return it as it is now."""

    def wait(self, timeout_s: float) -> None:
        """Wait until something may have changed, at most so long (and never so short that looking is all it does)."""


class Administration(Protocol):
    """What administrators of a cluster do; straight on ZooKeeper, or asked of a daemon of one of its hosts.

    Each call is bounded. `CoordinatorUnavailable` when ZooKeeper does not answer; `EnvironmentNotFound` for what is not
    declared, `HostUnknown` for a host that never was.
    """

    def resolve(self, word: str) -> EnvName:
        """Return the name that a name or an alias of the cluster stands for."""

    def create(self, declaration: wire.Declaration) -> wire.DeclaredEnvironment:
        """Declare an environment, or change for whom it is declared; `AliasTaken`."""

    def remove(self, name: EnvName) -> wire.DeclaredEnvironment:
        """Unpublish an environment everywhere."""

    def relock(self, name: EnvName) -> wire.DeclaredEnvironment:
        """Have an environment solved again, once for all hosts of a machine class."""

    def retry(self, name: EnvName, host: str | None = None) -> wire.DeclaredEnvironment:
        """Have what failed tried again at once, on one host or on all."""

    def status(self) -> wire.ClusterStatus:
        """Return the cluster at one moment."""

    def show(self, name: EnvName) -> wire.DeclaredEnvironment:
        """Return one declared environment, with a row for each of its hosts."""

    def why(self, name: EnvName, host: str) -> wire.Row:
        """Return how one environment does on one host."""

    def hosts(self) -> tuple[wire.HostInfo, ...]:
        """Return the hosts that are known."""

    def watching(self, name: EnvName, *, has_progress: bool = False) -> AbstractContextManager[Watching]:
        """Follow one environment for the length of a block; `has_progress`: somebody is shown how far builds are."""

    def heal(self) -> Cluster:
        """Have the hosts bring what drifted back in line."""

    def cordon(self, host: str, *, is_cordoned: bool) -> None:
        """Let a host begin nothing new, or begin again."""

    def forget(self, host: str) -> None:
        """Wait for a host no longer that has gone for ever."""

    def aliases(self) -> Mapping[Alias, EnvName]:
        """Return alias → name."""

    def set_alias(self, alias: Alias, name: EnvName, *, move: bool = False) -> None:
        """Let an alias stand for a declared environment; `AliasTaken` unless `move`."""

    def remove_alias(self, alias: Alias) -> EnvName:
        """Drop an alias, and return what it stood for."""

    def cluster(self) -> Cluster:
        """Return who the cluster is, and what all its hosts share."""

    def change_settings(
        self,
        changes: Mapping[str, object | None],
        classes: Mapping[str, Mapping[str, str] | None] | None = None,
        *,
        upgrade_format: bool = False,
    ) -> Cluster:
        """Change cluster-wide settings and machine classes; ``None`` takes one away. Raises `UsageError`.

        A value is as in a settings file (a list, a table, …), or the text that an environment variable would hold.
        """

    def export(self) -> wire.Exported:
        """Return the whole intent."""

    def import_(self, document: wire.Exported, *, replace: bool = False) -> Cluster:
        """Put an exported intent into the tree: into an empty one, or with `replace` in place of what is there."""

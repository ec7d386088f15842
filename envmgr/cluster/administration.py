"""The administrator's verbs, straight on the cluster's tree; `envmgr.remote.administration` is the same by a daemon."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from envmgr.names import Alias, EnvName
    from envmgr.ports import Clock
    from envmgr.wire.cluster import (
        Cluster,
        ClusterStatus,
        Declaration,
        DeclaredEnvironment,
        Exported,
        HostInfo,
        Row,
    )


class Watching(Protocol):
    """One environment, looked at again and again: only what changed is read again."""

    def show(self) -> DeclaredEnvironment:
        """Return it as it is now."""

    def wait(self, timeout_s: float) -> None:
        """Wait until something may have changed, at most so long (and never so short that looking is all it does)."""


class Administration:
    """See the module; from any thread.

    Every verb raises `CoordinatorUnavailable` when ZooKeeper does not answer, `ClusterTreeRefused` for a tree of a
    newer envmgr, and, but for `create` and `import_`, for none at all.
    """

    def __init__(self, tree: object, *, by: str, clock: Clock) -> None:
        """`by` is who administers, for the records."""

    def create(self, declaration: Declaration) -> DeclaredEnvironment:
        """Declare an environment, or change for which hosts and how fast; makes the tree if there is none."""
        raise NotImplementedError

    def remove(self, name: EnvName) -> DeclaredEnvironment:
        """Take an environment from every host, and its aliases with it."""
        raise NotImplementedError

    def status(self) -> ClusterStatus:
        raise NotImplementedError

    def show(self, name: EnvName) -> DeclaredEnvironment:
        """Return one environment with rows and lockfiles; raises `EnvironmentNotFound`."""
        raise NotImplementedError

    def hosts(self) -> tuple[HostInfo, ...]:
        raise NotImplementedError

    def why(self, name: EnvName, host: str) -> Row:
        """Return what there is to say of one environment on one host; raises `HostUnknown`."""
        raise NotImplementedError

    def retry(self, name: EnvName, host: str | None = None) -> DeclaredEnvironment:
        """Have what failed tried again at once, on one host or on all; solves, too."""
        raise NotImplementedError

    def heal(self) -> Cluster:
        """Have every host bring back in line what it built from another lockfile than the cluster's."""
        raise NotImplementedError

    def cordon(self, host: str, *, is_cordoned: bool) -> None:
        raise NotImplementedError

    def forget(self, host: str) -> None:
        """Wait no longer for a host that is gone for ever; raises `UsageError` for one that lives."""
        raise NotImplementedError

    def relock(self, name: EnvName) -> DeclaredEnvironment:
        raise NotImplementedError

    def aliases(self) -> dict[Alias, EnvName]:
        raise NotImplementedError

    def set_alias(self, alias: Alias, name: EnvName, *, move: bool = False) -> None:
        raise NotImplementedError

    def remove_alias(self, alias: Alias) -> EnvName:
        raise NotImplementedError

    def cluster(self) -> Cluster:
        raise NotImplementedError

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
        raise NotImplementedError

    def resolve(self, word: str) -> EnvName:
        """Return the name that `word`, a name or an alias of the cluster, stands for; raises `EnvironmentNotFound`."""
        raise NotImplementedError

    def export(self) -> Exported:
        raise NotImplementedError

    def import_(self, document: Exported, *, replace: bool = False) -> Cluster:
        raise NotImplementedError

    def watching(self, name: EnvName) -> AbstractContextManager[Watching]:
        """Follow one environment, for ``--wait``; see `envmgr.cluster.rollout.wait`."""
        raise NotImplementedError

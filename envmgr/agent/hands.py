"""What the agent works with: its host, the cluster's tree, and who hears what it read. The fakes are in ``tests/``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from envmgr.coordination.zookeeper.nodes import Tree

if TYPE_CHECKING:
    from envmgr.events import Reporter
    from envmgr.model import LockInForce, Spec
    from envmgr.names import Alias, BuildId, EnvName
    from envmgr.ports import Siblings


@dataclass(frozen=True, slots=True)
class Installed:
    """What is published under a name. `lock_digest` is ``None`` where the cluster's lockfile has no say in it.

    That is an environment whose spec is a lockfile, or one whose record cannot be read.
    """

    build_id: BuildId
    lock_digest: str | None
    machine_class: str = ""


class Hands(Protocol):
    """Everything raises `EnvmgrError`, and `OSError` of the store's disk; the first group is quick."""

    def published(self) -> Mapping[EnvName, Installed]:
        """Return what is ready on this host; costs a listing of a directory."""

    def cluster_lock(self, name: EnvName, machine_class: str) -> LockInForce | None:
        """Return which lockfile the cluster has in force, ``None`` if there is none; asks ZooKeeper."""

    def target(self, alias: Alias) -> EnvName | None:
        """Return what an alias stands for here, whoever set it; ``None``: it is not set."""

    def set_alias(self, alias: Alias, name: EnvName) -> None:
        """Let an alias stand for a published environment, whatever it stood for before."""

    def remove_alias(self, alias: Alias, name: EnvName) -> None:
        """Drop an alias if it stands for this environment."""

    def share(self, settings: Mapping[str, object]) -> tuple[str, ...]:
        """Lay the cluster's settings over the host's; return what is wrong with those that cannot be."""

    # ----------------------------------------------------------------------------------- what takes long, in a thread

    def make(self, spec: Spec, *, is_retry: bool, report: Reporter, is_cancelled: Callable[[], bool]) -> None:
        """Have an environment ready, sharing the build with whoever else on this host wants it."""

    def align(self, name: EnvName, *, report: Reporter, is_cancelled: Callable[[], bool]) -> None:
        """Bring a published environment to the cluster's lockfile; a lockfile that only this host has is published."""

    def remove(self, name: EnvName) -> None:
        """Take an environment away; its files stay until its last user is gone. Raises `EnvironmentNotFound`."""


class Turns(Protocol):
    """The right to be one of so many hosts that work on an environment at a time."""

    def turn(self, name: EnvName, places: int, *, is_cancelled: Callable[[], bool]) -> AbstractContextManager[object]:
        """Wait for a turn and hold it for the length of the block; `CoordinatorUnavailable`, `Cancelled`."""


class Session(Tree, Protocol):
    """The tree, and the session on which it is read."""

    @property
    def is_connected(self) -> bool:
        """Whether a server answers, as far as is known."""

    @property
    def epoch(self) -> int:
        """How many sessions there were."""

    @property
    def session_id(self) -> int:
        """The owner of the ephemeral nodes that this session makes."""

    def hear(self, listener: Callable[[str], None]) -> Callable[[], None]:
        """Call `listener` with each change of state, on any thread; return what ends that."""


class Told(Protocol):
    """The coordinator, as far as the agent tells it what it has read."""

    def named(self, host: str) -> None:
        """Hear under which name this host has joined."""

    def declared(self, names: Mapping[EnvName, int]) -> None:
        """Hear what the cluster wants here, with the least generation of each lockfile."""

    def living(self, siblings: Siblings) -> None:
        """Hear which hosts give archives."""

    def classes(self, classes: Mapping[str, Mapping[str, str]]) -> None:
        """Hear which machine classes the cluster declares."""

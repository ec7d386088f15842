"""Nodes of ZooKeeper's tree, what can be done with them in one transaction, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.endpoint import Endpoint


class TreeError(Exception):
    """A node is not as the call needs it; `index` is the operation's place in a transaction."""

    def __init__(self, path: str, index: int = 0) -> None:
        super().__init__(path)
        self.path = path
        self.index = index


class NodeExists(TreeError):
    """There is a node already."""


class NoNode(TreeError):
    """There is no such node."""


class BadVersion(TreeError):
    """The node has another version: somebody wrote it in between."""


class NotEmpty(TreeError):
    """The node has children and cannot be deleted."""


Stamp = tuple[int, int, float]
"""What no two writes of a node have in common: its czxid, its mzxid, and when it was modified."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node's data and what ZooKeeper knows of it; `modified_at` is UTC seconds by the leader's clock.

    `children` is how many there are.
    """

    data: bytes
    version: int
    czxid: int
    mzxid: int
    ephemeral_owner: int
    modified_at: float
    children: int = 0

    @property
    def stamp(self) -> Stamp:
        return self.czxid, self.mzxid, self.modified_at


@dataclass(frozen=True, slots=True)
class Create:
    """Make a node; its parent must be there."""

    path: str
    data: bytes = b""
    is_ephemeral: bool = False


@dataclass(frozen=True, slots=True)
class Put:
    """Replace a node's data; version -1: whatever it was."""

    path: str
    data: bytes
    version: int = -1


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a node without children."""

    path: str
    version: int = -1


@dataclass(frozen=True, slots=True)
class Check:
    """Let the transaction fail unless the node is there, with that version."""

    path: str
    version: int = -1


Operation = Create | Put | Delete | Check


class Tree(Protocol):
    """The verbs of `envmgr.coordination.zookeeper.session.Session`; a fake in ``tests/fakes`` keeps the same contract.

    Any thread. Every verb is bounded, and raises `CoordinatorUnavailable` without an answer. A watch is called once, on
    any thread, after the next change of what was read; it may also never be called.
    """

    @property
    def endpoint(self) -> Endpoint:
        """Where the tree is."""

    def get(self, path: str, *, watch: Callable[[], None] | None = None, timeout_s: float = ...) -> Node | None:
        """Return a node, or ``None``; it may be a little behind (see `sync`), never behind what was read before."""

    def stamp(self, path: str, *, watch: Callable[[], None] | None = None, timeout_s: float = ...) -> Stamp | None:
        """Return the `Node.stamp` of a node, or ``None``, without reading its data; `watch` as with `get`."""

    def children(
        self, path: str, *, watch: Callable[[], None] | None = None, timeout_s: float = ...
    ) -> tuple[str, ...]:
        """Return the names of a node's children, sorted; none if it is missing."""

    def create(self, path: str, data: bytes = b"", *, is_ephemeral: bool = False, timeout_s: float = ...) -> Node:
        """Make a node and the parents it lacks; raises `NodeExists`."""

    def put(self, path: str, data: bytes, *, version: int = -1, timeout_s: float = ...) -> Node:
        """Replace a node's data; raises `NoNode`, and `BadVersion` if it is not the version given."""

    def delete(self, path: str, *, version: int = -1, timeout_s: float = ...) -> None:
        """Delete a node without children; raises `NoNode`, `BadVersion`, `NotEmpty`."""

    def write(self, operations: Sequence[Operation], *, timeout_s: float = ...) -> None:
        """Do all or none; raises the error of the first that fails, its `index` set.

        `CoordinatorUnavailable` whose field ``is_unknown`` is true: nobody knows whether it was done.
        """

    def sync(self, path: str = "/", *, timeout_s: float = ...) -> None:
        """Bring what is read next up to date with all that was written before."""

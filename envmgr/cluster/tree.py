"""What the cluster's code asks of ZooKeeper: the verbs of `envmgr.coordination.zookeeper.session.Session`, and no more.

A fake in ``tests/fakes`` passes the same contract suite as the session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from envmgr.coordination.zookeeper.nodes import Node, Operation


class Tree(Protocol):
    """The cluster's tree; any thread. Every verb is bounded, and raises `CoordinatorUnavailable` without an answer.

    A watch is called once, on any thread, after the next change of what was read; it may also never be called.
    """

    def get(self, path: str, *, watch: Callable[[], None] | None = None) -> Node | None:
        """Return a node, or ``None``; it may be a little behind (see `sync`), never behind what was read before."""

    def children(self, path: str, *, watch: Callable[[], None] | None = None) -> tuple[str, ...]:
        """Return the names of a node's children; none if it is missing."""

    def create(self, path: str, data: bytes = b"", *, is_ephemeral: bool = False) -> Node:
        """Make a node and the parents it lacks; raises `NodeExists`."""

    def put(self, path: str, data: bytes, *, version: int = -1) -> Node:
        """Replace a node's data; raises `NoNode`, and `BadVersion` if it is not the version given."""

    def delete(self, path: str, *, version: int = -1) -> None:
        """Delete a node without children; raises `NoNode`, `BadVersion`."""

    def write(self, operations: Sequence[Operation]) -> None:
        """Do all or none; raises the error of the first that fails.

        `CoordinatorUnavailable` whose field ``is_unknown`` is true: nobody knows whether it was done.
        """

    def sync(self, path: str = "/") -> None:
        """Bring what is read next up to date with all that was written before."""

"""Nodes of ZooKeeper's tree, what can be done with them in one transaction, and what can be wrong with them."""

from __future__ import annotations

from dataclasses import dataclass


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

"""A cluster's tree in memory: many sessions on one set of nodes; it can lose answers, and lag behind."""

from __future__ import annotations

import dataclasses
import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.nodes import (
    BadVersion,
    Check,
    Create,
    Delete,
    Node,
    NodeExists,
    NoNode,
    NotEmpty,
    Operation,
    Put,
    Stamp,
)
from envmgr.errors import CoordinatorUnavailable, LockfileTooLarge
from envmgr.wire.tree import LARGEST_NODE_BYTES

Watch = Callable[[], None]
Loss = Literal["request", "answer"]


class FakeServers:
    """The nodes, shared by all sessions."""

    def __init__(self) -> None:
        self.nodes: Mapping[str, Node] = {}
        self.lock = threading.RLock()
        self._zxids = itertools.count(1)
        self._sessions = itertools.count(1)
        self._watches: dict[tuple[str, str], list[Watch]] = {}

    def session(self) -> FakeTree:
        return FakeTree(self, next(self._sessions))

    def empty(self) -> None:
        """Lose all nodes, as by an operator's hand; nobody is told."""
        self.nodes = {}

    def watch(self, kind: str, path: str, watch: Watch) -> None:
        self._watches.setdefault((kind, path), []).append(watch)

    def apply(self, operations: Sequence[Operation], owner: int) -> None:
        with self.lock:
            zxid = next(self._zxids)
            nodes = dict(self.nodes)
            touched: set[tuple[str, str]] = set()
            for index, operation in enumerate(operations):
                _apply(nodes, operation, index, zxid, owner)
                if not isinstance(operation, Check):
                    touched.add(("data", operation.path))
                if isinstance(operation, Create | Delete):
                    touched |= {("children", _parent(operation.path)), ("children", operation.path)}
            self.nodes = nodes
            due = [watch for key in touched for watch in self._watches.pop(key, [])]
        for watch in due:
            watch()

    def end(self, session: int) -> None:
        """End a session: its ephemeral nodes go."""
        gone = [path for path, node in self.nodes.items() if node.ephemeral_owner == session]
        for path in gone:
            self.apply([Delete(path)], 0)


def _apply(nodes: dict[str, Node], operation: Operation, index: int, zxid: int, owner: int) -> None:
    path = operation.path
    node = nodes.get(path)
    if isinstance(operation, Create):
        if node is not None:
            raise NodeExists(path, index)
        if _parent(path) and _parent(path) not in nodes:
            raise NoNode(path, index)
        nodes[path] = Node(operation.data, 0, zxid, zxid, owner if operation.is_ephemeral else 0, float(next(_times)))
        return
    if node is None:
        raise NoNode(path, index)
    if not isinstance(operation, Put) and isinstance(operation, Delete) and _children(nodes, path):
        raise NotEmpty(path, index)
    if operation.version not in (-1, node.version):
        raise BadVersion(path, index)
    if isinstance(operation, Put):
        nodes[path] = dataclasses.replace(
            node, data=operation.data, version=node.version + 1, mzxid=zxid, modified_at=float(next(_times))
        )
    elif isinstance(operation, Delete):
        del nodes[path]


_times = itertools.count(1_800_000_000)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _children(nodes: Mapping[str, Node], path: str) -> tuple[str, ...]:
    above = path.rstrip("/") + "/"
    return tuple(sorted(name for name in (it[len(above) :] for it in nodes if it.startswith(above)) if "/" not in name))


# The port's parameters, for which a fake that answers at once has no use.
# ruff: noqa: ARG002
class FakeTree:
    """One session.

    `reads` holds what was asked for, `glances` of what only the stamp was; `lose_next` says what becomes of the next
    write (this session lags behind it); `interlude` is done before it.
    """

    def __init__(self, servers: FakeServers, session: int) -> None:
        self._servers = servers
        self._session = session
        self._lags_at: Mapping[str, Node] | None = None
        self.endpoint = Endpoint(servers=("memory:1",), root="/fake")
        self.lose_next: Loss | None = None
        self.interlude: Callable[[], object] | None = None
        self.reads: list[str] = []
        self.glances: list[str] = []

    def lag(self) -> None:
        """See no write of others from now on, until `sync` or a write."""
        self._lags_at = self._servers.nodes

    def close(self) -> None:
        self._servers.end(self._session)

    @property
    def _nodes(self) -> Mapping[str, Node]:
        return self._servers.nodes if self._lags_at is None else self._lags_at

    def get(self, path: str, *, watch: Watch | None = None, timeout_s: float = 5.0) -> Node | None:
        with self._servers.lock:
            self.reads.append(path)
            if watch is not None:
                self._servers.watch("data", path, watch)
            node = self._nodes.get(path)
            return None if node is None else dataclasses.replace(node, children=len(_children(self._nodes, path)))

    def stamp(self, path: str, *, watch: Watch | None = None, timeout_s: float = 5.0) -> Stamp | None:
        with self._servers.lock:
            self.glances.append(path)
            if watch is not None:
                self._servers.watch("data", path, watch)
            node = self._nodes.get(path)
            return None if node is None else node.stamp

    def children(self, path: str, *, watch: Watch | None = None, timeout_s: float = 5.0) -> tuple[str, ...]:
        with self._servers.lock:
            self.reads.append(path)
            if watch is not None:
                self._servers.watch("children", path, watch)
            return _children(self._nodes, path)

    def create(self, path: str, data: bytes = b"", *, is_ephemeral: bool = False, timeout_s: float = 5.0) -> Node:
        with self._servers.lock:
            above = list(itertools.accumulate(path.split("/")[1:-1], "{}/{}".format, initial=""))[1:]
            for parent in above:
                if parent not in self._servers.nodes:
                    self._servers.apply([Create(parent)], 0)
            self.write([Create(path, data, is_ephemeral)])
            return self._servers.nodes[path]

    def put(self, path: str, data: bytes, *, version: int = -1, timeout_s: float = 5.0) -> Node:
        with self._servers.lock:
            self.write([Put(path, data, version)])
            return self._servers.nodes[path]

    def delete(self, path: str, *, version: int = -1, timeout_s: float = 5.0) -> None:
        self.write([Delete(path, version)])

    def write(self, operations: Sequence[Operation], *, timeout_s: float = 5.0) -> None:
        size = sum(len(operation.data) for operation in operations if isinstance(operation, Create | Put))
        if size > LARGEST_NODE_BYTES:
            raise LockfileTooLarge(f"{size} bytes are too many")
        interlude, self.interlude = self.interlude, None
        if interlude is not None:
            interlude()
        loss, self.lose_next = self.lose_next, None
        before = self._nodes
        if loss != "request":
            self._lags_at = None  # also by a write that is refused: it is answered in its turn
            self._servers.apply(operations, self._session)
        if loss is not None:
            self._lags_at = before  # another server is asked now, which may not know yet of what was not heard of
            raise CoordinatorUnavailable("the connection was lost", is_unknown=True)

    def sync(self, path: str = "/", *, timeout_s: float = 5.0) -> None:
        self._lags_at = None

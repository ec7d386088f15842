"""A session with ZooKeeper that bounds every call, knows how long it certainly lives, and never gives up.

One for each process that needs the cluster: the daemon, or a command. Any thread may call it.

* Every call ends within its `timeout_s`: with its result, with what the servers say is wrong, or with
  `CoordinatorUnavailable`, also while no server answers. What only reads is asked again after a lost connection, until
  the time is up. What writes is sent once: when its answer was lost, the field ``is_unknown`` is true and the caller
  must look. Nothing is sent on that cannot be answered in time: a call waits for the connection before it is queued.
* A lost connection is made again for as long as the session object lives, at most two seconds after a server is back
  (after twice the session's length where it comes back with data older than was seen of it, which is a new session); a
  session that the servers gave up is followed by a new one, and `epoch` rises. A start without servers is no error.
* `certainly_alive_until` is by our own clock (`envmgr.coordination.zookeeper.lease`). The answers that it needs are
  fetched while somebody relies on the session (`relying`); at rest only kazoo's own pings are sent, and it may lag.
* Watches and listeners are called one at a time on a thread of our own, on which they may call the session. A watch is
  called once: when its node changed, or when the connection was lost, since changes may then be missed: look again.
* A child made by fork cannot use it (its calls raise at once); the parent's is not harmed.

Not promised: that what a call did not answer was not done; that a session whose id somebody else closes is noticed
before the next contact.

All errors of kazoo are translated here, and nowhere else: hence all calls in one module, which is a little long for it.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

from kazoo import exceptions as kazoo_errors
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.security import CREATOR_ALL_ACL

from envmgr.coordination.zookeeper import security
from envmgr.coordination.zookeeper.client import Client
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.link import BOOT_CLOCK, BootClock, Link, State, Watch, Watcher
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
    TreeError,
)
from envmgr.errors import LockfileTooLarge, PermissionRefused
from envmgr.wire.tree import LARGEST_NODE_BYTES

__all__ = [
    "BOOT_CLOCK",
    "CALL_S",
    "BadVersion",
    "BootClock",
    "Check",
    "Create",
    "Delete",
    "NoNode",
    "Node",
    "NodeExists",
    "NotEmpty",
    "Operation",
    "Put",
    "Session",
    "State",
    "TreeError",
    "Watch",
]

CALL_S = 5.0
"""How long a call waits for its answer, if it is not told otherwise."""
_OPERATION_BYTES = 256
"""What an operation of a transaction takes beside its path and its data, access control list included, at most."""


class Session(Link):
    """See the module."""

    def __init__(self, endpoint: Endpoint, clock: BootClock = BOOT_CLOCK) -> None:
        super().__init__(endpoint, clock)
        self._own_acl: tuple[int, list[security.Acl]] | None = None

    # --------------------------------------------------------------------------------------------------------- calls

    def get(
        self, path: str, *, watch: Watch | None = None, is_to_come: bool = True, timeout_s: float = CALL_S
    ) -> Node | None:
        """Return a node, ``None`` if there is none; `watch` is called once when that changes.

        Not ``is_to_come``: one that is missing is not watched, for who only waits for it to go.
        """
        deadline = self._clock.monotonic() + timeout_s
        full, watcher = self._full(path), self._watcher(watch)
        while True:
            with contextlib.suppress(NoNode):
                data, stat = self._ask(path, lambda c: c.get_async(full, watch=watcher), deadline, may_repeat=True)
                return _node(data, stat)
            # kazoo keeps no watch for a node that is not there; `exists` does.
            if watch is None or not is_to_come:
                return None
            if self._ask(path, lambda c: c.exists_async(full, watch=watcher), deadline, may_repeat=True) is None:
                return None

    def stamp(self, path: str, *, watch: Watch | None = None, timeout_s: float = CALL_S) -> Stamp | None:
        """Return the stamp of a node, ``None`` if there is none, without its data."""
        deadline = self._clock.monotonic() + timeout_s
        full, watcher = self._full(path), self._watcher(watch)
        stat = self._ask(path, lambda c: c.exists_async(full, watch=watcher), deadline, may_repeat=True)
        return None if stat is None else _node(b"", stat).stamp

    def children(
        self, path: str, *, watch: Watch | None = None, is_current: bool = False, timeout_s: float = CALL_S
    ) -> tuple[str, ...]:
        """Return the names of a node's children, sorted; of a missing one none.

        With `is_current` they are as of this call or later, and it proves that the session lives, as `sync` does: for
        the price of one call, since a server answers in the order in which it was asked.
        """
        deadline = self._clock.monotonic() + timeout_s
        full, watcher = self._full(path), self._watcher(watch)
        sent = (self.epoch, 0.0)

        def begin(client: Client) -> Any:
            nonlocal sent
            if is_current:
                sent = (self.epoch, self._clock.monotonic())
                client.sync_async(full)
            return client.get_children_async(full, watch=watcher)

        while True:
            with contextlib.suppress(NoNode):
                found = self._ask(path, begin, deadline, may_repeat=True)
                if is_current:
                    self._proved(*sent)
                return tuple(sorted(found))
            if watch is None:
                return ()
            if self._ask(path, lambda c: c.exists_async(full, watch=watcher), deadline, may_repeat=True) is None:
                return ()

    def create(
        self,
        path: str,
        data: bytes = b"",
        *,
        is_ephemeral: bool = False,
        is_sequential: bool = False,
        timeout_s: float = CALL_S,
    ) -> Node:
        """Make a node, and its parents where they are missing; raises `NodeExists`.

        `create_named` also tells the name of a sequential one.
        """
        return self.create_named(
            path, data, is_ephemeral=is_ephemeral, is_sequential=is_sequential, timeout_s=timeout_s
        )[1]

    def create_named(
        self,
        path: str,
        data: bytes = b"",
        *,
        is_ephemeral: bool = False,
        is_sequential: bool = False,
        timeout_s: float = CALL_S,
    ) -> tuple[str, Node]:
        """Do as `create`; return the path, too: a sequential node's has ten digits at its end."""
        _check_size(path, len(data))
        deadline = self._clock.monotonic() + timeout_s
        full = self._full(path)

        def begin(client: Client) -> Any:
            return client.create_async(
                full, data, self._acl(path, is_ephemeral, deadline), is_ephemeral, is_sequential, include_data=True
            )

        while True:
            try:
                made, stat = self._ask(path, begin, deadline)
            except NoNode:
                self._make_parents(path, deadline)  # and again, should somebody remove them in between
            else:
                return made[len(self.endpoint.root) :], _node(data, stat)

    def put(self, path: str, data: bytes, *, version: int = -1, timeout_s: float = CALL_S) -> Node:
        """Replace a node's data; raises `NoNode`, `BadVersion`."""
        _check_size(path, len(data))
        deadline = self._clock.monotonic() + timeout_s
        return _node(data, self._ask(path, lambda c: c.set_async(self._full(path), data, version), deadline))

    def delete(self, path: str, *, version: int = -1, timeout_s: float = CALL_S) -> None:
        """Delete a node; raises `NoNode`, `BadVersion`, `NotEmpty`."""
        deadline = self._clock.monotonic() + timeout_s
        self._ask(path, lambda c: c.delete_async(self._full(path), version), deadline)

    def delete_empty_unheard(self, paths: Sequence[str]) -> None:
        """Have nodes deleted in that order until one has children; returns at once, and may fail unheard."""
        client = self._client
        if not (paths and self.is_connected and client is not None):
            return
        full = self._full(paths[0])

        def deleted(answer: Any) -> None:
            if answer.successful():
                self.delete_empty_unheard(paths[1:])

        def seen(answer: Any) -> None:
            # A look costs less than a refused write, which all servers would have to agree on.
            if answer.successful() and answer.value is not None and answer.value.numChildren == 0:
                client.delete_async(full).rawlink(deleted)

        client.exists_async(full).rawlink(seen)

    def write(self, operations: Sequence[Operation], *, timeout_s: float = CALL_S) -> None:
        """Do all operations or none; raises the first failing one's error, its `index` set."""
        sizes = (len(getattr(operation, "data", b"")) + len(self._full(operation.path)) for operation in operations)
        _check_size(operations[0].path, sum(sizes) + _OPERATION_BYTES * (len(operations) - 1))
        deadline = self._clock.monotonic() + timeout_s

        def begin(client: Client) -> Any:
            transaction = client.transaction()
            for operation in operations:
                self._add(transaction, operation, deadline)
            return transaction.commit_async()

        results = self._ask(operations[0].path, begin, deadline)
        for index, (operation, result) in enumerate(zip(operations, results, strict=True)):
            # The operations before and after the one that failed have errors, too, that say only that.
            is_cause = not isinstance(result, kazoo_errors.RolledBackError | kazoo_errors.RuntimeInconsistency)
            if isinstance(result, Exception) and is_cause:
                raise self._translated(result, operation.path, index) from result
        if any(isinstance(result, Exception) for result in results):
            raise self.unavailable(f"ZooKeeper did not do a transaction on {operations[0].path}")

    def sync(self, path: str = "/", *, timeout_s: float = CALL_S) -> None:
        """Bring the server that we ask up to the leader; what is read afterwards is no older than this call.

        It proves that the session lives (`certainly_alive_until`).
        """
        deadline = self._clock.monotonic() + timeout_s
        full = self._full(path)
        sent = (self.epoch, 0.0)

        def begin(client: Client) -> Any:
            nonlocal sent
            sent = (self.epoch, self._clock.monotonic())
            return client.sync_async(full)

        self._ask(path, begin, deadline, may_repeat=True)
        self._proved(*sent)

    def _proved(self, epoch: int, before: float) -> None:
        self._lease.touched(epoch, before)
        self._lease.proved(epoch, before)

    # ------------------------------------------------------------------------------------------------------- asking

    def _ask(self, path: str, begin: Callable[[Client], Any], deadline: float, *, may_repeat: bool = False) -> Any:
        """Send what `begin` begins once there is a connection, and return the answer."""
        while True:
            client = self._connected_client(deadline)
            try:
                return begin(client).get(timeout=max(0.0, deadline - self._clock.monotonic()))
            except KazooTimeoutError as error:
                raise self.unavailable(f"ZooKeeper does not answer about {path}", is_unknown=not may_repeat) from error
            except (
                kazoo_errors.ConnectionLoss,
                kazoo_errors.SessionExpiredError,
                kazoo_errors.SessionMovedError,
            ) as error:
                if not may_repeat:
                    # An expired session's write was not done; a lost connection's may have been.
                    is_unknown = not isinstance(error, kazoo_errors.SessionExpiredError)
                    message = f"the connection to ZooKeeper was lost while {path} was written"
                    raise self.unavailable(message, is_unknown=is_unknown) from error
                self._await_change(client, deadline)
            except kazoo_errors.KazooException as error:
                raise self._translated(error, path) from error
            except RuntimeError as error:  # kazoo does not understand the server any more; a new client follows
                message = f"the connection to ZooKeeper failed while {path} was asked for: {error}"
                raise self.unavailable(message, is_unknown=not may_repeat) from error

    def _connected_client(self, deadline: float) -> Client:
        self.check_usable()
        if not self._is_connected and not self.wait_connected(deadline - self._clock.monotonic()):
            raise self.unavailable("ZooKeeper does not answer")
        client = self._client
        if client is None:
            raise self.unavailable("the connection to ZooKeeper was not begun")
        return client

    def _await_change(self, client: Client, deadline: float) -> None:
        """Wait a moment for kazoo to tell us that the connection is lost, which it does after it fails the calls."""
        with self._changed:
            left = deadline - self._clock.monotonic()
            self._changed.wait_for(
                lambda: not self._is_connected or self._is_closed or self._client is not client,
                min(0.05, max(0.0, left)),
            )
        if deadline <= self._clock.monotonic():
            raise self.unavailable("the connection to ZooKeeper was lost")

    def _translated(self, error: Exception, path: str, index: int = 0) -> Exception:
        """Return our error for one of kazoo's."""
        match error:
            case kazoo_errors.NoNodeError():
                return NoNode(path, index)
            case kazoo_errors.NodeExistsError():
                return NodeExists(path, index)
            case kazoo_errors.BadVersionError():
                return BadVersion(path, index)
            case kazoo_errors.NotEmptyError():
                return NotEmpty(path, index)
            case kazoo_errors.NoAuthError() | kazoo_errors.AuthFailedError() | kazoo_errors.InvalidACLError():
                return PermissionRefused(
                    f"ZooKeeper does not let this host have {self._full(path)}",
                    hint="zookeeper_auth_file and zookeeper_cert_file must be those with which the tree was made",
                    path=path,
                )
        return self.unavailable(f"ZooKeeper refused {path}: {type(error).__name__} {error}".rstrip())

    def _full(self, path: str) -> str:
        return self.endpoint.root if path == "/" else self.endpoint.root + path

    def _watcher(self, watch: Watch | None) -> Watcher | None:
        return None if watch is None else Watcher(self._told.put, watch)

    def _add(self, transaction: Any, operation: Operation, deadline: float) -> None:
        full = self._full(operation.path)
        match operation:
            case Create():
                acl = self._acl(operation.path, operation.is_ephemeral, deadline)
                transaction.create(full, operation.data, acl, ephemeral=operation.is_ephemeral)
            case Put():
                transaction.set_data(full, operation.data, operation.version)
            case Delete():
                transaction.delete(full, operation.version)
            case Check():
                transaction.check(full, operation.version)

    # ------------------------------------------------------------------------------------------------ making, security

    def _make_parents(self, path: str, deadline: float) -> None:
        """Make the nodes above `path`, from the lowest that can be made downwards.

        Mostly one or two are missing, and each that is asked for costs every server a write, also if it is there.
        Those at the top may be somebody else's, and forbid it: they are not touched.
        """
        parts = self._full(path).split("/")[1:-1]
        above = ["/" + "/".join(parts[: count + 1]) for count in range(len(parts))]
        acl, depth = security.shared(self.endpoint), len(above) - 1
        while depth < len(above):
            node = above[depth]
            try:
                self._ask(path, functools.partial(_create, node=node, acl=acl), deadline)
            except NodeExists:
                depth += 1
            except NoNode:
                depth -= 1
            else:
                depth += 1

    def _acl(self, path: str, is_ephemeral: bool, deadline: float) -> list[security.Acl]:
        if not (security.needs_own(self.endpoint) and security.is_own(path, is_ephemeral=is_ephemeral)):
            return security.shared(self.endpoint)
        known = self._own_acl
        if known is None or known[0] != self.epoch:
            known = self._own_acl = (self.epoch, security.own(self.endpoint, self._identities(deadline)))
        return known[1]

    def _identities(self, deadline: float) -> list[security.Acl]:
        """Ask ZooKeeper who we are: it writes that into the list of a node that is its maker's."""
        path = f"/v1/claims/who-{os.urandom(8).hex()}"
        full = self._full(path)
        self._make_parents(path, deadline)
        self._ask(path, lambda c: c.create_async(full, b"", CREATOR_ALL_ACL, ephemeral=True), deadline)
        entries, _stat = self._ask(path, lambda c: c.get_acls_async(full), deadline)
        self.delete_empty_unheard([path])
        return list(entries)


def _create(client: Client, *, node: str, acl: list[security.Acl]) -> Any:
    return client.create_async(node, b"", acl)


def _node(data: bytes, stat: Any) -> Node:
    owner, modified_at = stat.ephemeralOwner, stat.mtime / 1000
    return Node(data, stat.version, stat.czxid, stat.mzxid, owner, modified_at, stat.numChildren)


def _check_size(path: str, size_bytes: int) -> None:
    # ZooKeeper answers a request that is too large by dropping the connection, of the whole session.
    if size_bytes > LARGEST_NODE_BYTES:
        raise LockfileTooLarge(
            f"{size_bytes} bytes for {path} are more than ZooKeeper takes at a time ({LARGEST_NODE_BYTES})",
            path=path,
            size_bytes=size_bytes,
            limit_bytes=LARGEST_NODE_BYTES,
        )

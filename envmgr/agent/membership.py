"""Being there: the ephemeral node ``/v1/hosts/<host>``, and under which name.

Who finds a node of that name already there, waits for it to go, for as long as a session lives. What is there then:

* this very host's own earlier daemon (the same machine and store): replaced, since its session is longer than ours;
* somebody else's (another machine, or another store of this one): this host joins with the beginning of its machine's
  (or store's) id behind its name, keeps that name, and says so.

Who finds that his node was replaced by another instance of himself while he lived, was pushed aside: he stops, for two
that act for one host would take turns for ever.

What is not promised: that a name is one host's alone at every moment, in every reader's view; the instance in each
record tells them apart.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.nodes import BadVersion, NodeExists, NoNode
from envmgr.errors import Corrupt
from envmgr.wire.tree import Host, decode, encode

if TYPE_CHECKING:
    from envmgr.agent.identity import Identity
    from envmgr.coordination.zookeeper.nodes import Node, Tree
    from envmgr.ports import Clock

_MOST_NAMES = 3
_SLACK = 1.25
"""The servers notice the end of a session up to a tick late."""
_log = logging.getLogger(__name__)


class Session(Protocol):
    """What is asked of the session besides what stands in the tree."""

    @property
    def epoch(self) -> int:
        """How many sessions there were."""

    @property
    def session_id(self) -> int:
        """The owner of what this session makes."""


class Membership:
    """See the module; for the agent's thread alone, but for `on_change`, which is called on any.

    `describe` returns this host's record under its present name; `keep` writes down the name that it joined under.
    """

    def __init__(
        self,
        tree: Tree,
        session: Session,
        identity: Identity,
        clock: Clock,
        *,
        describe: Callable[[Identity], Host],
        keep: Callable[[Identity], None],
        on_change: Callable[[], None],
        session_s: Callable[[], float],
    ) -> None:
        self.identity = identity
        self.note: str | None = None
        """What an administrator should know of how this host joined."""
        self.problem: str | None = None
        """Why it has not joined."""
        self.due: float | None = None
        """When to look again, by the monotonic clock."""
        self.is_pushed_aside = False
        self._tree = tree
        self._session = session
        self._clock = clock
        self._describe = describe
        self._keep = keep
        self._on_change = on_change
        self._session_s = session_s
        self._joined_in: int | None = None
        self._told: Host | None = None
        self._is_touched = False
        self._waits_for: tuple[str, float] | None = None

    @property
    def has_joined(self) -> bool:
        """Whether this host's node stands there, as far as is known."""
        return self._joined_in == self._session.epoch and not self.is_pushed_aside

    def attend(self) -> bool:
        """Join, or see that this host still is; costs nothing while nothing changed. Tell whether it has joined.

        Raises `CoordinatorUnavailable`.
        """
        if self.is_pushed_aside:
            return False
        wanted = self._describe(self.identity)
        if self.has_joined and not self._is_touched and wanted == self._told:
            self._settle()
            return True
        for _ in range(_MOST_NAMES * 3):
            if self._try(self._describe(self.identity)):
                return True
            if self.problem is not None:
                return False
        return False

    def leave(self) -> None:
        """Take the node away, if it is this host's; raises `CoordinatorUnavailable`."""
        path = paths.host(self.identity.host)
        node = self._tree.get(path)
        if node is not None and node.ephemeral_owner == self._session.session_id:
            self._delete(path, node)

    def _touch(self) -> None:
        self._is_touched = True
        self._on_change()

    def _try(self, wanted: Host) -> bool:
        """Do one step; tell whether this host has joined with it."""
        path = paths.host(self.identity.host)
        self._is_touched = False
        self.problem = self.due = None
        if self._tree.get(path) is None:  # without a watch, which would tell of what we make ourselves
            return self._join(path, wanted)
        node = self._tree.get(path, watch=self._touch)
        if node is None:
            return False
        other = _record(node, path)
        # What this session made is ours, whatever somebody has written there; 0 is nobody's session.
        is_of_session = node.ephemeral_owner == self._session.session_id != 0
        if is_of_session or (other is not None and other.instance == wanted.instance):
            if not is_of_session:  # of a session that was lost
                self._delete(path, node)
            else:
                if other != wanted:
                    try:
                        self._tree.put(path, encode(wanted), version=node.version)
                    except (NoNode, BadVersion):  # somebody was here in between: look again
                        return False
                self._joined(wanted)
                return True
        else:
            self._meet(path, node, other, wanted)
        return False

    def _join(self, path: str, wanted: Host) -> bool:
        try:
            self._tree.create(path, encode(wanted), is_ephemeral=True)
        except NodeExists:
            return False
        node = self._tree.get(path, watch=self._touch)
        if node is None or node.ephemeral_owner != self._session.session_id:
            return False  # somebody took it away before the watch, which tells nothing of that
        self._joined(wanted)
        return True

    def _joined(self, wanted: Host) -> None:
        self._told = wanted
        self._waits_for = None
        self._joined_in = self._session.epoch
        self._settle()

    def _settle(self) -> None:
        """Have the name written down; raises `OSError` of a full disk, and is repeated until there is room."""
        if not self.identity.is_settled:
            settled = replace(self.identity, is_settled=True)
            self._keep(settled)
            self.identity = settled

    def _meet(self, path: str, node: Node, other: Host | None, wanted: Host) -> None:
        """Deal with somebody else's node of this name."""
        is_self = other is None or (other.machine_id, other.store_id) == (wanted.machine_id, wanted.store_id)
        if is_self and self._joined_in is not None:
            whose = "" if other is None else f" (instance {other.instance}, boot {other.boot_id})"
            self.is_pushed_aside = True
            self.problem = (
                f"another daemon has joined the cluster as {wanted.host}{whose}, and this one does nothing for it any "
                "more; two machines with one machine id need different settings host_id"
            )
            return
        until = self._wait_until(node, other)
        if self._clock.monotonic() < until:
            whose = "its own earlier session" if is_self else f"the session of another host named {wanted.host}"
            self.problem = f"waits for {whose} to end before it joins the cluster"
            self.due = until
            return
        if is_self or other is None:
            self._delete(path, node)
            return
        self._take_other_name(other, wanted)

    def _wait_until(self, node: Node, other: Host | None) -> float:
        whom = f"{node.ephemeral_owner} {other.instance if other else ''}"
        if self._waits_for is None or self._waits_for[0] != whom:
            self._waits_for = whom, self._clock.monotonic() + self._session_s() * _SLACK
        return self._waits_for[1]

    def _take_other_name(self, other: Host, wanted: Host) -> None:
        own = wanted.machine_id if other.machine_id != wanted.machine_id else wanted.store_id
        name = self.identity.with_suffix(own)
        if self.identity.host.endswith(f"-{own[:6]}"):
            self.problem = (
                f"{self.identity.host} is another host's name, too; the setting host_id gives this one its own"
            )
            self.due = self._clock.monotonic() + self._session_s()
            return
        self.note = f"it is in the cluster as {name}, since {wanted.host} is " + (
            "another machine" if other.machine_id != wanted.machine_id else "another store of this machine"
        )
        _log.warning("this host %s", self.note)
        self.identity = replace(self.identity, host=name, is_settled=False)
        self._waits_for = None

    def _delete(self, path: str, node: Node) -> None:
        with contextlib.suppress(NoNode, BadVersion):
            self._tree.delete(path, version=node.version)


def _record(node: Node, path: str) -> Host | None:
    try:
        return decode(Host, node.data, path)
    except Corrupt:
        return None

"""One holding of a claim, one who wants it, and who it is that others wait for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envmgr.coordination.zookeeper.nodes import Check
from envmgr.errors import ClaimLost

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.limit import Limit
    from envmgr.coordination.zookeeper.nodes import Node
    from envmgr.coordination.zookeeper.session import Session


_LONGEST_WORDS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who has a node in a claim's queue; `at` is UTC seconds by that host's clock, `token` the node's czxid."""

    host: str
    pid: int
    at: float
    what: str
    node: str
    token: int

    def __str__(self) -> str:
        return f"{self.what or 'process'} on {self.host} (pid {self.pid})"


class Claim:
    """One holding of a claim; satisfies `envmgr.ports.Claim`."""

    def __init__(self, session: Session, node: str, epoch: int, token: int) -> None:
        self._session = session
        self._node = node
        self._epoch = epoch
        self._token = token
        self._is_lost = False

    @property
    def node(self) -> str:
        """The path of the holder's node."""
        return self._node

    @property
    def token(self) -> int:
        return self._token

    @property
    def is_lost(self) -> bool:
        if not self._is_lost and not self._session.is_certain(self._epoch):
            self._is_lost = True
        return self._is_lost

    def check(self) -> None:
        if self.is_lost:
            raise ClaimLost(
                f"the claim {self._node} may be held by another host now; what it guarded was not done",
                hint="the connection to ZooKeeper was away for too long, or this process stood still; try again",
                claim=self._node,
                token=self._token,
            )

    def guard(self) -> Check:
        """Return what makes a transaction fail (`NoNode`) unless this node still stands."""
        return Check(self._node)

    def end(self) -> None:
        """Be lost from now on; it is given back."""
        self._is_lost = True


class Contender:
    """Who stands in a queue, and whether he has been told whom he waits for."""

    def __init__(self, record: dict[str, object], on_wait: Callable[[str], None] | None) -> None:
        self._record = record
        self._on_wait = on_wait
        self.is_told = False

    def data(self) -> bytes:
        return json.dumps(self._record, ensure_ascii=False).encode()

    def wait_for(self, holder: Holder | None, limit: Limit) -> None:
        """Say once whom he waits for."""
        self.is_told = True
        limit.holder = None if holder is None else str(holder)
        if self._on_wait is not None:
            self._on_wait(limit.holder or "another host")


def holder_of(node: str, found: Node) -> Holder:
    """Return who stands at `node`; of a record that cannot be read the little that ZooKeeper knows."""
    try:
        record = json.loads(found.data)
        return Holder(
            host=str(record["host"])[:_LONGEST_WORDS],
            pid=int(record["pid"]),
            at=float(record["at"]),
            what=str(record.get("what", ""))[:_LONGEST_WORDS],
            node=node,
            token=found.czxid,
        )
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError):
        return Holder(host="an unknown host", pid=0, at=found.modified_at, what="", node=node, token=found.czxid)

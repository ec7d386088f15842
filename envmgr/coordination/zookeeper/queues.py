"""Standing in the queue of a claim: a node of ours among the contenders', until it is the first, and giving it back.

What `envmgr.coordination.zookeeper.claims` promises of one queue is kept here: the node belongs to the present session,
which certainly lives; one deadline for all of it; what could not be deleted is remembered. Counted claims
(`envmgr.coordination.zookeeper.counted`) are made of such queues.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from envmgr.coordination.zookeeper.debris import Debris
from envmgr.coordination.zookeeper.holding import Claim, Contender, Holder, holder_of
from envmgr.coordination.zookeeper.limit import Limit
from envmgr.coordination.zookeeper.link import Instant
from envmgr.coordination.zookeeper.nodes import NoNode
from envmgr.coordination.zookeeper.session import Session
from envmgr.errors import EnvmgrError

RELEASE_S = 2.0
_PAUSE_S = 0.05
_LEAVE_S = 0.5
_DIGITS = 10
observer: Callable[[str, int, bool], None] | None = None
"""Told of each claim's path and token, and whether it was got now or is about to be given back; tests set it."""


class Queues:
    """The queues in which one process stands; any thread."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.debris = Debris(session)
        self._lock = threading.Lock()
        self._waiters: dict[str, set[threading.Event]] = {}

    def stand(self, path: str, contender: Contender, limit: Limit) -> Claim:
        """Have a node in the queue at `path`, and return when it is the first."""
        mark, epoch, name, token = uuid.uuid4().hex, 0, "", 0
        is_begun = is_done = False
        try:
            while True:
                with limit.answering(self._session):
                    if not name or epoch != self._session.epoch:  # it went with its session
                        # Asked again, it may have been made before without our hearing of it.
                        is_repeated, is_begun = is_begun, True
                        epoch, name = self._session.epoch, ""  # should we give up now, it is looked for by its mark
                        name, token = self._enter(path, mark, contender, limit, is_repeated=is_repeated)
                    queue = in_order(self._session.children(path, is_current=True, timeout_s=limit.call_s()))
                    if name not in queue:
                        name = ""  # somebody deleted our node
                    elif name != queue[0]:
                        limit.refuse_waiting()
                        self._await_departure(path, queue[queue.index(name) - 1], queue[0], contender, limit)
                    elif self.is_certain(epoch, limit):
                        is_done = True
                        return Claim(self._session, f"{path}/{name}", epoch, token)
        finally:
            if is_begun and not is_done:
                self._delete(path, name or mark, _LEAVE_S if name else 0.0)

    def _enter(self, path: str, mark: str, contender: Contender, limit: Limit, *, is_repeated: bool) -> tuple[str, int]:
        """Make our node, unless it is there already, and return its name and czxid."""
        if is_repeated:
            self._session.sync(timeout_s=limit.call_s())  # what was on its way is seen after this
            for name in self._session.children(path, timeout_s=limit.call_s()):
                node = self._session.get(f"{path}/{name}", timeout_s=limit.call_s()) if name.startswith(mark) else None
                if node is not None and node.ephemeral_owner == self._session.session_id:
                    return name, node.czxid
        made, node = self._session.create_named(
            f"{path}/{mark}-", contender.data(), is_ephemeral=True, is_sequential=True, timeout_s=limit.call_s()
        )
        if node.ephemeral_owner != self._session.session_id:
            return "", 0  # of a session that ended meanwhile
        return made.rpartition("/")[2], node.czxid

    def is_certain(self, epoch: int, limit: Limit) -> bool:
        """Tell whether our session certainly lives, as far as was proved; wait a moment if not."""
        if self._session.is_certain(epoch):
            return True
        limit.wait(threading.Event(), _PAUSE_S)
        return False

    def _await_departure(self, path: str, before: str, first: str, contender: Contender, limit: Limit) -> None:
        """Wait until the node before ours is gone, and say once who holds the first."""
        node = f"{path}/{before}"
        with self.waiting(node) as gone:
            watch = Departure(self, node)
            found = self._session.get(node, watch=watch, is_to_come=False, timeout_s=limit.call_s())
            if found is None:
                return
            if not contender.is_told:
                is_next = first == before
                holder = holder_of(node, found) if is_next else self.holder(f"{path}/{first}", limit.call_s())
                contender.wait_for(holder, limit)
            limit.wait(gone)

    def holder(self, node: str, timeout_s: float) -> Holder | None:
        found = self._session.get(node, timeout_s=timeout_s)
        return None if found is None else holder_of(node, found)

    # ---------------------------------------------------------------------------------------- waiting and giving back

    @contextlib.contextmanager
    def waiting(self, node: str) -> Iterator[threading.Event]:
        event = threading.Event()
        with self._lock:
            self._waiters.setdefault(node, set()).add(event)
        try:
            yield event
        finally:
            with self._lock:
                events = self._waiters[node]
                events.discard(event)
                if not events:
                    del self._waiters[node]

    def departed(self, node: str) -> None:
        """Wake who waits for a change of `node`."""
        with self._lock:
            for event in self._waiters.get(node, ()):
                event.set()

    def release(self, claim: Claim) -> None:
        """Give a claim back, now or when ZooKeeper answers again."""
        path, _, name = claim.node.rpartition("/")
        observe(path, claim, is_held=False)
        claim.end()
        self._delete(path, name, RELEASE_S)

    def _delete(self, path: str, name: str, timeout_s: float) -> None:
        """Delete a node of ours in that time, or else when ZooKeeper answers again."""
        try:
            if not timeout_s or not self._session.is_connected:
                self.debris.add(path, name)
                return
            self._session.delete(f"{path}/{name}", timeout_s=timeout_s)
        except NoNode:
            pass
        except EnvmgrError:
            self.debris.add(path, name)
            return
        self.debris.tidy(path)


def observe(path: str, claim: Claim, *, is_held: bool) -> None:
    """Tell the observer, if there is one."""
    if observer is not None:
        observer(path, claim.token, is_held)


@dataclass(frozen=True, slots=True)
class Departure(Instant):
    """A watch that wakes those who wait for a node; equal for one node, so that kazoo keeps it once."""

    queues: Queues
    node: str

    def __call__(self) -> None:
        self.queues.departed(self.node)


def in_order(names: tuple[str, ...]) -> list[str]:
    """Return the contenders in the order of their numbers."""
    return sorted((name for name in names if name[-_DIGITS:].isdigit()), key=lambda name: name[-_DIGITS:])

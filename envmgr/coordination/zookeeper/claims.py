"""Claims: locks that the hosts of a cluster hold in ZooKeeper, and that never say they are held when they may not be.

Under the path of a claim every contender has an ephemeral node ``<uuid>-<ten digits>``; the lowest number holds it, and
each of the others watches the one before it. A counted claim has two such nodes below it: whoever holds ``gate`` waits
until fewer than so many nodes stand in ``places``, takes one there, and lets the next to the gate. So at most that many
hold it, only one waiter looks at the places, and each goes by its own number of them. Where `_CROWD` stand at the gate,
who comes stands in one of sixteen lanes, or in one of the sixteen behind that: the first of a lane stands in the queue
before it until he is the first there. So thousands may want it, and nobody reads more than a few dozen names. ::

    claims/build/<store id>/<name>/<uuid>-0000000007        {"host": …, "pid": …, "at": …, "what": …}
    claims/gates/<kind>@<…>                               who enters a queue that thousands may want to (`Claims.alone`)
    claims/rollout/<name>/gate/<uuid>-0000000003
    claims/rollout/<name>/lanes/b4/<uuid>-0000000001      behind lanes/b, which is behind the gate
    claims/rollout/<name>/places/<uuid>-0000000012

What holds:

* A claim says that it is lost, by this host's own clock, before the servers can give it to somebody else
  (`envmgr.coordination.zookeeper.lease`), also when the process or the machine was stopped, and for ever after.
* Its `token` (the node's czxid) is higher than that of every earlier holder, whatever was deleted in between.
* A claim is handed out only when its node belongs to the present session, and that session certainly lives.
* One deadline counts for the whole of an acquire, also while ZooKeeper does not answer.
* What could not be deleted (a contender's node, or one of which nobody knows whether it was made) is remembered and
  deleted when ZooKeeper answers again; it goes with its session at the latest.
* A `Claim` is for one holding; after a fork the child holds nothing. A claim is not re-entrant.

Not promised: that a counted claim is got in the order of arrival, once there are lanes; each queue is in order, so that
everybody comes to the gate at some time. Nor that nothing happens between asking a claim and doing what it guards:
`Claim.guard` in the transaction of a write closes that gap for writes to ZooKeeper; for the disk there are the host's
own lock and the store's.

The order for who needs several: the host's lock on the name, then the claim of the build, then the claim of the solve.

All ways to take and to wait for a claim are here, one protocol, although that makes the module a little long.

Source: ZooKeeper Recipes, "Locks"; kazoo issues 732, 282, 563.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envmgr.coordination.zookeeper import tree
from envmgr.coordination.zookeeper.debris import Debris
from envmgr.coordination.zookeeper.holding import Claim, Contender, Holder, holder_of
from envmgr.coordination.zookeeper.limit import Limit, Taken
from envmgr.coordination.zookeeper.link import Instant
from envmgr.coordination.zookeeper.nodes import Create, NodeExists, NoNode
from envmgr.coordination.zookeeper.session import BOOT_CLOCK, CALL_S, BootClock, Session
from envmgr.errors import EnvmgrError

__all__ = ["Claim", "Claims", "Holder"]

if TYPE_CHECKING:
    from envmgr.ports import Deadline

_PAUSE_S = 0.05
_RELEASE_S = 2.0
_LEAVE_S = 0.5
_DIGITS = 10
_CROWD = 16
"""So many stand in one queue of a counted claim before others stand behind it; there may be some more."""
_DEEPEST_LANE = 6
_FEW_PLACES = 32
_LOOK_S = 0.5
"""How often the one at the gate counts the places where there are more than that; fewer are watched."""
observer: Callable[[str, int, bool], None] | None = None
"""Told of each claim's path and token, and whether it was got now or is about to be given back; tests set it."""


class Claims:
    """The claims that one process takes for one host; `host` is what they say of it from now on."""

    def __init__(self, session: Session, host: str, clock: BootClock = BOOT_CLOCK) -> None:
        self._session = session
        self.host = host
        self._clock = clock
        self._debris = Debris(session)
        self._lock = threading.Lock()
        self._waiters: dict[str, set[threading.Event]] = {}

    @contextlib.contextmanager
    def acquire(
        self,
        path: str,
        *,
        places: int | None = None,
        deadline: Deadline | None = None,
        timeout_s: float | None = None,
        unreachable_s: float | None = None,
        on_wait: Callable[[str], None] | None = None,
        what: str = "",
    ) -> Iterator[Claim]:
        """Hold the claim at `path` for the length of a block.

        `places`: it is a counted claim of so many; every contender of one path must say some number, or none. Of many
        who wait for one each gets it at some time, not in the order in which they came. The acquire ends with the
        `deadline` (its errors) or after `timeout_s` (`TimedOut`), and with `CoordinatorUnavailable` once ZooKeeper has
        not answered for `unreachable_s`. `on_wait` is told once, and only if it has to wait, who holds it. On leaving,
        the node is deleted, which takes two seconds at most; the claim is lost from then on.
        """
        limit = Limit(self._clock, path, deadline, timeout_s, unreachable_s)
        claim = self._take(path, places, limit, on_wait, what)
        try:
            with self._session.relying():
                _observe(path, claim, is_held=True)
                yield claim
        finally:
            self._release(claim)

    def try_acquire(
        self, path: str, *, places: int | None = None, timeout_s: float = CALL_S, what: str = ""
    ) -> contextlib.AbstractContextManager[Claim | None]:
        """Hold the claim for the length of a block if nobody else has it; else ``None``. It waits for no holder.

        Raises `CoordinatorUnavailable` when ZooKeeper does not answer in time.
        """
        return self._tried(path, places, timeout_s, what)

    @contextlib.contextmanager
    def _tried(self, path: str, places: int | None, timeout_s: float, what: str) -> Iterator[Claim | None]:
        limit = Limit(self._clock, path, None, timeout_s, timeout_s, is_trying=True)
        try:
            claim = self._take(path, places, limit, None, what)
        except Taken:
            yield None
            return
        try:
            with self._session.relying():
                _observe(path, claim, is_held=True)
                yield claim
        finally:
            self._release(claim)

    def outwait(
        self,
        path: str,
        *,
        deadline: Deadline | None = None,
        timeout_s: float | None = None,
        unreachable_s: float | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> bool:
        """Wait until whoever holds a plain claim now has given it back; false, at once, if nobody does.

        For the many who want what one makes under the claim, not the claim: where thousands stood in its queue, each
        would read all of it, and one after the other would be let in for nothing. The parameters are those of
        `acquire`.
        """
        limit = Limit(self._clock, path, deadline, timeout_s, unreachable_s)
        contender = Contender({}, on_wait)
        while True:
            with limit.answering(self._session):
                queue = _queue(self._session.children(path, timeout_s=limit.call_s()))
                if not queue:
                    return False
                node = f"{path}/{queue[0]}"
                while self._wait_for(node, contender, limit):
                    pass
                return True

    @contextlib.contextmanager
    def alone(
        self, path: str, *, deadline: Deadline | None = None, unreachable_s: float | None = None
    ) -> Iterator[bool]:
        """Be the only one who enters the queue of the claim at `path`, for the length of a block.

        False: another one is just entering it, or was a moment ago; look again. It keeps the queue short when
        thousands find it empty at the same moment, and excludes nobody: that is the claim's to do.
        """
        above, name = f"{tree.CLAIMS}/gates", path.removeprefix(f"{tree.CLAIMS}/").replace("/", "@")
        limit = Limit(self._clock, path, deadline, None, unreachable_s)
        is_alone = is_done = False
        try:
            with limit.answering(self._session):
                try:
                    self._session.create(f"{above}/{name}", is_ephemeral=True, timeout_s=limit.call_s())
                    is_alone = True
                except NodeExists:
                    self._wait_for(f"{above}/{name}", Contender({}, None), limit)
                is_done = True
            yield is_alone
        finally:
            if is_alone or not is_done:
                try:
                    self._session.delete(f"{above}/{name}", timeout_s=_RELEASE_S)
                except NoNode:
                    pass
                except EnvmgrError:
                    self._debris.add(above, name)

    def _wait_for(self, node: str, contender: Contender, limit: Limit) -> bool:
        """Wait a while for a node to go; tell whether it is still there, as far as is known."""
        with self._waiting(node) as gone:
            found = self._session.get(node, watch=_Departure(self, node), timeout_s=limit.call_s())
            if found is None:
                return False
            if not contender.is_told:
                contender.wait_for(holder_of(node, found), limit)
            limit.wait(gone)
            is_told = gone.is_set()  # of a lost connection, too
        return not is_told or self._session.get(node, timeout_s=limit.call_s()) is not None

    def holders(self, path: str, *, timeout_s: float = CALL_S) -> tuple[Holder, ...]:
        """Return who stands in a claim's queue, in its order: for a plain claim the first holds it.

        For a counted claim these are its holders only, in the order in which they got it.
        """
        names = self._session.children(path, timeout_s=timeout_s)
        if not {"places", "gate", "lanes"}.isdisjoint(names):
            path = f"{path}/places"
            names = self._session.children(path, timeout_s=timeout_s)
        found = (self._holder(f"{path}/{name}", timeout_s) for name in names)
        return tuple(sorted((holder for holder in found if holder is not None), key=lambda holder: holder.token))

    def close(self) -> None:
        """Stop deleting what could not be deleted; it goes with the session."""
        self._debris.close()

    # ------------------------------------------------------------------------------------------------------- taking

    def _take(
        self, path: str, places: int | None, limit: Limit, on_wait: Callable[[str], None] | None, what: str
    ) -> Claim:
        self._session.check_usable()
        contender = Contender({"host": self.host, "pid": os.getpid(), "at": time.time(), "what": what}, on_wait)
        if places is None:
            return self._stand(path, contender, limit)
        while True:
            gate = self._come_to_gate(path, contender, limit)
            try:
                with self._session.relying():
                    claim = self._take_place(f"{path}/places", places, gate, contender, limit)
            finally:
                self._release(gate)
            if claim is not None:
                return claim

    def _come_to_gate(self, path: str, contender: Contender, limit: Limit) -> Claim:
        """Be the first at the gate of a counted claim, through lanes if many stand there."""
        lane, queues = uuid.uuid4().hex[:_DEEPEST_LANE], [f"{path}/gate"]
        while len(queues) <= _DEEPEST_LANE and self._count(queues[-1], limit) >= _CROWD:
            limit.refuse_waiting()
            queues.append(f"{path}/lanes/{lane[: len(queues)]}")
        here = self._stand(queues.pop(), contender, limit)
        while queues:
            behind = here
            try:
                here = self._stand(queues.pop(), contender, limit)
            finally:
                self._release(behind)  # not before: of each lane only one is to stand in the queue before it
        return here

    def _count(self, path: str, limit: Limit) -> int:
        """Return how many nodes there are below `path`, without reading their names."""
        while True:
            with limit.answering(self._session):
                node = self._session.get(path, timeout_s=limit.call_s())
                return 0 if node is None else node.children

    def _stand(self, path: str, contender: Contender, limit: Limit) -> Claim:
        """Have a node in the queue at `path`, and return when it is the first."""
        mark, epoch, name, token = uuid.uuid4().hex, 0, "", 0
        is_begun = is_done = False
        try:
            while True:
                with limit.answering(self._session):
                    if not name or epoch != self._session.epoch:  # it went with its session
                        # Asked again, it may have been made before without our hearing of it.
                        is_repeated, is_begun = is_begun, True
                        epoch = self._session.epoch
                        name, token = self._enter(path, mark, contender, limit, is_repeated=is_repeated)
                    queue = _queue(self._session.children(path, is_current=True, timeout_s=limit.call_s()))
                    if name not in queue:
                        name = ""  # somebody deleted our node
                    elif name != queue[0]:
                        limit.refuse_waiting()
                        self._await_departure(path, queue[queue.index(name) - 1], queue[0], contender, limit)
                    elif self._is_certain(epoch, limit):
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

    def _take_place(self, path: str, places: int, gate: Claim, contender: Contender, limit: Limit) -> Claim | None:
        """Wait until fewer than `places` nodes stand below `path` and take one; ``None``: the gate was lost."""
        name = gate.node.rpartition("/")[2]
        epoch, node = self._session.epoch, f"{path}/{name}"
        is_begun = is_done = False
        try:
            while not gate.is_lost:
                with limit.answering(self._session):
                    if not is_begun and not self._has_place(path, places, contender, limit):
                        continue
                    is_begun = True
                    token = self._place(path, node, gate, contender, limit)
                    self._session.sync(timeout_s=limit.call_s())
                    if token is not None and self._is_certain(epoch, limit):
                        is_done = True
                        return Claim(self._session, node, epoch, token)
            return None
        finally:
            if is_begun and not is_done:
                self._debris.add(path, name)

    def _has_place(self, path: str, places: int, contender: Contender, limit: Limit) -> bool:
        """Tell whether there is a place, after waiting for a change, or a moment, if there is none."""
        if places > _FEW_PLACES:
            node = self._session.get(path, timeout_s=limit.call_s())
            if node is None or node.children < places:
                return True
            limit.refuse_waiting()
            if not contender.is_told:
                contender.wait_for(None, limit)
            limit.wait(threading.Event(), _LOOK_S)
            return False
        with self._waiting(path) as changed:
            names = self._session.children(path, watch=_Departure(self, path), timeout_s=limit.call_s())
            if len(names) < places:
                return True
            limit.refuse_waiting()
            if not contender.is_told:
                contender.wait_for(self._holder(f"{path}/{_queue(names)[0]}", limit.call_s()), limit)
            limit.wait(changed)
        return False

    def _place(self, path: str, node: str, gate: Claim, contender: Contender, limit: Limit) -> int | None:
        """Make the node that stands for a place, while the gate is ours, and return its czxid; ``None``: not made."""
        try:
            # In one transaction: whoever lost the gate takes no place that another one counts as free.
            self._session.write(
                [gate.guard(), Create(node, contender.data(), is_ephemeral=True)], timeout_s=limit.call_s()
            )
        except NodeExists:
            pass  # made before, unheard
        except NoNode as error:
            if error.index == 0:
                gate.end()
                return None
            with contextlib.suppress(NodeExists):
                self._session.create(path, timeout_s=limit.call_s())
            return None
        made = self._session.get(node, timeout_s=limit.call_s())
        return None if made is None or made.ephemeral_owner != self._session.session_id else made.czxid

    def _is_certain(self, epoch: int, limit: Limit) -> bool:
        """Tell whether our session certainly lives, as far as was proved; wait a moment if not."""
        if self._session.is_certain(epoch):
            return True
        limit.wait(threading.Event(), _PAUSE_S)
        return False

    def _await_departure(self, path: str, before: str, first: str, contender: Contender, limit: Limit) -> None:
        """Wait until the node before ours is gone, and say once who holds the first."""
        node = f"{path}/{before}"
        with self._waiting(node) as gone:
            found = self._session.get(node, watch=_Departure(self, node), timeout_s=limit.call_s())
            if found is None:
                return
            if not contender.is_told:
                is_next = first == before
                holder = holder_of(node, found) if is_next else self._holder(f"{path}/{first}", limit.call_s())
                contender.wait_for(holder, limit)
            limit.wait(gone)

    def _holder(self, node: str, timeout_s: float) -> Holder | None:
        found = self._session.get(node, timeout_s=timeout_s)
        return None if found is None else holder_of(node, found)

    # ----------------------------------------------------------------------------------------- waiting and giving back

    @contextlib.contextmanager
    def _waiting(self, node: str) -> Iterator[threading.Event]:
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

    def _release(self, claim: Claim) -> None:
        """Give a claim back, now or when ZooKeeper answers again."""
        path, _, name = claim.node.rpartition("/")
        _observe(path, claim, is_held=False)
        claim.end()
        self._delete(path, name, _RELEASE_S)

    def _delete(self, path: str, name: str, timeout_s: float) -> None:
        """Delete a node of ours in that time, or else when ZooKeeper answers again."""
        try:
            if not timeout_s or not self._session.is_connected:
                self._debris.add(path, name)
                return
            self._session.delete(f"{path}/{name}", timeout_s=timeout_s)
        except NoNode:
            pass
        except EnvmgrError:
            self._debris.add(path, name)
            return
        self._debris.tidy(path)


def _observe(path: str, claim: Claim, *, is_held: bool) -> None:
    if observer is not None:
        observer(path, claim.token, is_held)


@dataclass(frozen=True, slots=True)
class _Departure(Instant):
    """A watch that wakes those who wait for a node; equal for one node, so that kazoo keeps it once."""

    claims: Claims
    node: str

    def __call__(self) -> None:
        self.claims.departed(self.node)


def _queue(names: tuple[str, ...]) -> list[str]:
    """Return the contenders in the order of their numbers."""
    return sorted((name for name in names if name[-_DIGITS:].isdigit()), key=lambda name: name[-_DIGITS:])

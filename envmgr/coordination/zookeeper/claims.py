"""Claims: locks that the hosts of a cluster hold in ZooKeeper, and that never say they are held when they may not be.

Under the path of a claim every contender has an ephemeral node ``<uuid>-<ten digits>``; the lowest number holds it, and
each of the others watches the one before it (`envmgr.coordination.zookeeper.queues`). A counted claim is made of
several such queues (`envmgr.coordination.zookeeper.counted`). ::

    claims/build/<store id>/<name>/<uuid>-0000000007        {"host": …, "pid": …, "at": …, "what": …}
    claims/gates/<kind>@<…>                               who enters a queue that thousands may want to (`Claims.alone`)
    claims/rollout/<name>/…                               counted

What holds:

* A claim says that it is lost, by this host's own clock, before the servers can give it to somebody else
  (`envmgr.coordination.zookeeper.lease`), also when the process or the machine was stopped, and for ever after.
* Its `token` (the node's czxid) is higher than that of every earlier holder, whatever was deleted in between.
* A claim is handed out only when its node belongs to the present session, and that session certainly lives.
* One deadline counts for the whole of an acquire, also while ZooKeeper does not answer.
* What could not be deleted (a contender's node, or one of which nobody knows whether it was made) is remembered and
  deleted when ZooKeeper answers again; it goes with its session at the latest.
* A `Claim` is for one holding; after a fork the child holds nothing. A claim is not re-entrant.

Not promised: that nothing happens between asking a claim and doing what it guards: `Claim.guard` in the transaction of
a write closes that gap for writes to ZooKeeper; for the disk there are the host's own lock and the store's. Nor that a
virtual machine knows that it was paused from outside, where its clocks stand still as well: until its next contact, a
claim that it held seems to be held. The same things help against that.

The order for who needs several: the host's lock on the name, then the claim of the build, then the claim of the solve.

Source: ZooKeeper Recipes, "Locks"; kazoo issues 732, 282, 563.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from envmgr.coordination.zookeeper import tree
from envmgr.coordination.zookeeper.counted import Counted
from envmgr.coordination.zookeeper.holding import Claim, Contender, Holder, holder_of
from envmgr.coordination.zookeeper.limit import Limit, Taken
from envmgr.coordination.zookeeper.nodes import NodeExists, NoNode
from envmgr.coordination.zookeeper.queues import RELEASE_S, Departure, Queues, in_order, observe
from envmgr.coordination.zookeeper.session import BOOT_CLOCK, CALL_S, BootClock, Session
from envmgr.errors import CoordinatorUnavailable, EnvmgrError

__all__ = ["Claim", "Claims", "Holder"]

if TYPE_CHECKING:
    from envmgr.ports import Deadline


class Claims:
    """The claims that one process takes for one host; `host` is what they say of it from now on."""

    def __init__(self, session: Session, host: str, clock: BootClock = BOOT_CLOCK) -> None:
        self._session = session
        self.host = host
        self._clock = clock
        self._queues = Queues(session)
        self._counted = Counted(session, self._queues)

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
                observe(path, claim, is_held=True)
                yield claim
        finally:
            self._queues.release(claim)

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
                observe(path, claim, is_held=True)
                yield claim
        finally:
            self._queues.release(claim)

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
                queue = in_order(self._session.children(path, timeout_s=limit.call_s()))
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
        is_alone = False
        try:
            with limit.answering(self._session):
                try:
                    self._session.create(f"{above}/{name}", is_ephemeral=True, timeout_s=limit.call_s())
                    is_alone = True
                except NodeExists:
                    self._wait_for(f"{above}/{name}", Contender({}, None), limit)
                except CoordinatorUnavailable:
                    # It may have been made, unheard, and nobody is to wait for it: least of all we, who come again.
                    self._queues.debris.add(above, name)
                    raise
            yield is_alone
        finally:
            if is_alone:
                try:
                    self._session.delete(f"{above}/{name}", timeout_s=RELEASE_S)
                except NoNode:
                    pass
                except EnvmgrError:
                    self._queues.debris.add(above, name)

    def _wait_for(self, node: str, contender: Contender, limit: Limit) -> bool:
        """Wait a while for a node to go; tell whether it is still there, as far as is known."""
        with self._queues.waiting(node) as gone:
            watch = Departure(self._queues, node)
            found = self._session.get(node, watch=watch, is_to_come=False, timeout_s=limit.call_s())
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
        found = (self._queues.holder(f"{path}/{name}", timeout_s) for name in names)
        return tuple(sorted((holder for holder in found if holder is not None), key=lambda holder: holder.token))

    def close(self) -> None:
        """Stop deleting what could not be deleted; it goes with the session."""
        self._queues.debris.close()

    # ------------------------------------------------------------------------------------------------------- taking

    def _take(
        self, path: str, places: int | None, limit: Limit, on_wait: Callable[[str], None] | None, what: str
    ) -> Claim:
        self._session.check_usable()
        contender = Contender({"host": self.host, "pid": os.getpid(), "at": time.time(), "what": what}, on_wait)
        if places is None:
            return self._queues.stand(path, contender, limit)
        return self._counted.take(path, places, contender, limit)

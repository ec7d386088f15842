"""Counted claims: so many may hold one at a time, thousands may want it, and nobody reads more than a few dozen names.

Whoever holds ``gate`` waits until fewer than so many nodes stand in ``places``, takes one there, and lets the next to
the gate: at most that many hold it, only one waiter looks at the places, and each goes by its own number of them. Where
`_CROWD` stand at the gate, who comes stands in one of sixteen lanes, or in one of the sixteen behind that: the first of
a lane stands in the queue before it until he is the first there. Each of these is a queue
(`envmgr.coordination.zookeeper.queues`). ::

    claims/rollout/<name>/gate/<uuid>-0000000003
    claims/rollout/<name>/lanes/b4/<uuid>-0000000001      behind lanes/b, which is behind the gate
    claims/rollout/<name>/places/<uuid>-0000000012

Not promised: that it is got in the order of arrival, once there are lanes; each queue is in order, so that everybody
comes to the gate at some time.
"""

from __future__ import annotations

import contextlib
import threading
import uuid

from envmgr.coordination.zookeeper.holding import Claim, Contender
from envmgr.coordination.zookeeper.limit import Limit
from envmgr.coordination.zookeeper.nodes import Create, NodeExists, NoNode
from envmgr.coordination.zookeeper.queues import Departure, Queues, in_order
from envmgr.coordination.zookeeper.session import Session

_DEEPEST_LANE = 6
_CROWD = 16
"""So many stand in one queue of a counted claim before others stand behind it; there may be some more."""
_FEW_PLACES = 32
_LOOK_S = 0.5
"""How often the one at the gate counts the places where there are more than that; fewer are watched."""


class Counted:
    """See the module; any thread."""

    def __init__(self, session: Session, queues: Queues) -> None:
        self._session = session
        self._queues = queues

    def take(self, path: str, places: int, contender: Contender, limit: Limit) -> Claim:
        """Have a place of so many at `path`; `release` gives it back."""
        while True:
            gate = self._come_to_gate(path, contender, limit)
            try:
                with self._session.relying():
                    claim = self._take_place(f"{path}/places", places, gate, contender, limit)
            finally:
                self._queues.release(gate)
            if claim is not None:
                return claim

    def _come_to_gate(self, path: str, contender: Contender, limit: Limit) -> Claim:
        """Be the first at the gate of a counted claim, through lanes if many stand there."""
        lane, queues = uuid.uuid4().hex[:_DEEPEST_LANE], [f"{path}/gate"]
        while len(queues) <= _DEEPEST_LANE and self._count(queues[-1], limit) >= _CROWD:
            limit.refuse_waiting()
            queues.append(f"{path}/lanes/{lane[: len(queues)]}")
        here = self._queues.stand(queues.pop(), contender, limit)
        while queues:
            behind = here
            try:
                here = self._queues.stand(queues.pop(), contender, limit)
            finally:
                self._queues.release(behind)  # not before: of each lane only one is to stand in the queue before it
        return here

    def _count(self, path: str, limit: Limit) -> int:
        """Return how many nodes there are below `path`, without reading their names."""
        while True:
            with limit.answering(self._session):
                node = self._session.get(path, timeout_s=limit.call_s())
                return 0 if node is None else node.children

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
                    if token is not None and self._queues.is_certain(epoch, limit):
                        is_done = True
                        return Claim(self._session, node, epoch, token)
            return None
        finally:
            if is_begun and not is_done:
                self._queues.debris.add(path, name)

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
        with self._queues.waiting(path) as changed:
            names = self._session.children(path, watch=Departure(self._queues, path), timeout_s=limit.call_s())
            if len(names) < places:
                return True
            limit.refuse_waiting()
            if not contender.is_told:
                contender.wait_for(self._queues.holder(f"{path}/{in_order(names)[0]}", limit.call_s()), limit)
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

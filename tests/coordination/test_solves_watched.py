"""A solve gives its claim back by itself, once; and hears the deadline of who wants it, whatever does not answer."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from coordination.polling import until
from fakes.tree import FakeServers
from fakes.worlds import NOWHERE, name_of
from link_proxy import LinkProxy

from envmgr import settings
from envmgr.coordination.zookeeper import tree
from envmgr.coordination.zookeeper.coordinator import ZookeeperCoordinator
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session
from envmgr.coordination.zookeeper.solving import watched
from envmgr.errors import CoordinatorUnavailable, TimedOut
from envmgr.events import ignore
from envmgr.manager.waiting import TimeLimit


class Clock:
    def monotonic(self) -> float:
        return time.monotonic()


@pytest.mark.parametrize("is_there", [True, False])
def test_a_stalled_solve_deletes_its_node_once(is_there: bool) -> None:
    """Also one that is gone: its session ended meanwhile, or the first answer was lost."""
    session, stalls = FakeServers().session(), []
    node = "/v1/claims/solve/x/0"
    if is_there:
        session.create(node, is_ephemeral=True)
    solve = SimpleNamespace(progressed_at=time.monotonic(), claim=SimpleNamespace(node=node), stall=stalls.append)
    with watched(solve, session, 0.01):
        until(lambda: not [thread for thread in threading.enumerate() if thread.name == "envmgr-solve-watch"], 5)
        assert stalls == [0.01]
        assert session.get(node) is None


@pytest.mark.slow
def test_a_deadline_counts_while_nobody_says_whose_the_tree_is(endpoint: Endpoint) -> None:
    """The connection is there and nothing answers: who has half a second is told after that."""
    values = settings.load(root=NOWHERE, mode="personal", environ={}, home=NOWHERE)
    with LinkProxy(endpoint.servers[0]) as link:
        session = Session(replace(endpoint, servers=(link.address,), session_s=30.0))
        session.start()
        cluster = tree.found(session)
        coordinator = ZookeeperCoordinator(
            session, host="a", store_id="a", is_shared=True, settings_of=lambda: values, uuid_of=lambda: cluster.uuid
        )
        try:
            link.silence()
            for hold in (
                lambda limit: coordinator.solving(name_of("x"), "linux-64", 1, deadline=limit, report=ignore),
                lambda limit: coordinator.building(name_of("x"), deadline=limit, report=ignore),
            ):
                began = time.monotonic()
                with pytest.raises((TimedOut, CoordinatorUnavailable)), hold(TimeLimit(Clock(), 0.5)):
                    pytest.fail("nobody answered")
                assert time.monotonic() - began < 2
        finally:
            link.mend()
            coordinator.close()
            session.close()

"""A host that belongs to a cluster, and a tree that is not that cluster's; and how soon who waits there is let go."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from coordination.polling import until
from fakes.worlds import NOWHERE, name_of
from link_proxy import LinkProxy

from envmgr import settings
from envmgr.coordination.zookeeper import tree
from envmgr.coordination.zookeeper.coordinator import SHORT_S, ZookeeperCoordinator
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session
from envmgr.errors import Cancelled, CoordinatorUnavailable
from envmgr.events import Event, ignore
from envmgr.manager.context import SystemClock
from envmgr.manager.waiting import TimeLimit, never
from envmgr.wire.tree import encode

NAME, CLASS = name_of("x"), "linux-64"


def _limit() -> TimeLimit:
    return TimeLimit(SystemClock(), 20.0, never)


class Patience(Session):
    """A session that keeps how long each call waited for a connection at most."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint)
        self.waits_s: list[float] = []

    def wait_connected(self, timeout_s: float) -> bool:
        self.waits_s.append(timeout_s)
        return super().wait_connected(timeout_s)


@contextmanager
def _host(endpoint: Endpoint, uuid: str | None, *, coordinator_wait_s: float = 60.0) -> Iterator[ZookeeperCoordinator]:
    session = Patience(endpoint)
    session.start()
    environ = {"ENVMGR_COORDINATOR_WAIT_S": f"{coordinator_wait_s:g}"}
    values = settings.load(root=NOWHERE, mode="personal", environ=environ, home=NOWHERE)
    host = ZookeeperCoordinator(
        session, host="a", store_id="a", is_shared=False, settings_of=lambda: values, uuid_of=lambda: uuid
    )
    try:
        yield host
    finally:
        host.close()
        session.close()


def _refused(host: ZookeeperCoordinator, why: str) -> None:
    """Assert that the host goes on without the tree."""
    with host.building(NAME, deadline=_limit(), report=ignore) as claim:
        assert claim is None
    with pytest.raises(CoordinatorUnavailable, match=why):
        host.lockfile(NAME, CLASS)
    with (
        pytest.raises(CoordinatorUnavailable, match=why),
        host.solving(NAME, CLASS, 1, deadline=_limit(), report=ignore),
    ):
        pass


@pytest.mark.slow
def test_nothing_is_written_into_an_emptied_tree(endpoint: Endpoint) -> None:
    """Local builds go on without it, what is to be solved is not; no claim and no lockfile comes to stand there."""
    with _host(endpoint, "0123") as host:
        _refused(host, "was emptied")
        assert host.session.children("/v1") == ()


@pytest.mark.slow
def test_another_clusters_tree_is_left_alone(endpoint: Endpoint) -> None:
    """Also when it became another's while the host looked on; it is used again once it is the host's own."""
    reader = Session(endpoint)
    reader.start()
    own = tree.found(reader)
    with _host(endpoint, own.uuid) as host:
        with host.building(NAME, deadline=_limit(), report=ignore) as claim:
            assert claim is not None
        assert host.lockfile(NAME, CLASS) is None
        reader.put(tree.CLUSTER, encode(dataclasses.replace(own, uuid="other")))
        _refused(host, "is cluster other")
        assert reader.children(tree.LOCKFILES) == ()
        reader.put(tree.CLUSTER, encode(dataclasses.replace(own, settings={"offline": True})))
        with host.building(NAME, deadline=_limit(), report=ignore) as claim:
            assert claim is not None
    reader.close()


@pytest.mark.slow
def test_where_no_cluster_is_declared_yet_hosts_share_what_they_solve(endpoint: Endpoint) -> None:
    """A host that belongs to no cluster yet has nothing to be mistaken about."""
    with _host(endpoint, None) as host:
        with host.building(NAME, deadline=_limit(), report=ignore) as claim:
            assert claim is not None
        with host.solving(NAME, CLASS, 1, deadline=_limit(), report=ignore) as solving:
            assert solving.found is None


@pytest.mark.slow
def test_who_waits_for_an_answer_can_be_told_to_stop(endpoint: Endpoint) -> None:
    """A daemon that ends is not held up by a solve that waits a minute for a ZooKeeper that stands still."""
    with LinkProxy(endpoint.servers[0]) as link:
        behind = dataclasses.replace(endpoint, servers=(link.address,))
        with _host(behind, None) as host:
            link.cut()
            is_over = threading.Event()
            timer = threading.Timer(0.5, is_over.set)
            timer.start()
            began = time.monotonic()
            with pytest.raises(Cancelled):
                host._published(NAME, CLASS, 1, TimeLimit(SystemClock(), None, is_over.is_set))
            assert time.monotonic() - began < 15
            timer.join()


@pytest.mark.slow
def test_who_solves_hears_that_zookeeper_does_not_answer(endpoint: Endpoint) -> None:
    """A minute without a word looks like a hang: whom it waits for is said once, and that it is over."""
    told: list[Event] = []
    with LinkProxy(endpoint.servers[0]) as link:
        behind = dataclasses.replace(endpoint, servers=(link.address,))
        with _host(behind, "0123", coordinator_wait_s=1.5) as host:
            link.cut()
            with (
                pytest.raises(CoordinatorUnavailable),
                host.solving(NAME, CLASS, 1, deadline=_limit(), report=told.append),
            ):
                pass
    begin, end = told
    assert (begin.kind, begin.phase, begin.message) == ("begin", "wait", "waiting for ZooKeeper, which does not answer")
    assert (end.kind, end.phase) == ("end", "wait")


@pytest.mark.slow
def test_a_build_waits_once_for_an_answer_that_it_can_do_without(endpoint: Endpoint) -> None:
    """However often it asks: nobody waits again for a connection that has been lost for as long as that."""
    with LinkProxy(endpoint.servers[0]) as link:
        behind = dataclasses.replace(endpoint, servers=(link.address,))
        with _host(behind, "0123") as host:
            session = host.session
            assert isinstance(session, Patience)
            assert session.away_s == 0
            link.cut()
            until(lambda: session.away_s > SHORT_S)
            session.waits_s.clear()
            with host.building(NAME, deadline=_limit(), report=ignore) as claim:
                assert claim is None
            with pytest.raises(CoordinatorUnavailable):
                host.lockfile(NAME, CLASS)
            assert len(session.waits_s) > 1
            assert max(session.waits_s) <= 0
            link.mend()
            until(lambda: session.is_connected)
            assert session.away_s == 0

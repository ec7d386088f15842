"""Who follows a rollout asks ZooKeeper so much for each host, however long it lasts and however many there are."""

from __future__ import annotations

from typing import Any

import pytest
from cluster_worlds import declaration, is_so, join, name_of, say
from fakes.clock import FakeClock
from fakes.tree import FakeServers, FakeTree

from envmgr.cluster.administration import Administration
from envmgr.cluster.reading import Watcher
from envmgr.cluster.statuses import MOST_PROGRESS
from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.nodes import Node
from envmgr.errors import CoordinatorUnavailable
from envmgr.wire.tree import HostProgress, Progress, encode

X = declaration("x")
NAME = name_of(X)


@pytest.fixture
def admin(tree: FakeTree, clock: FakeClock) -> Administration:
    """An administrator of a cluster that wants one environment."""
    found = Administration(tree, by="ada", clock=clock)
    found.create(X)
    return found


def live(tree: FakeTree, hosts: int) -> list[str]:
    """Let so many hosts live."""
    names = [f"h{number:04}" for number in range(hosts)]
    for name in names:
        join(tree, name)
        say(tree, name)
    return names


def building(tree: FakeTree, host: str, percent: int) -> None:
    """Let a host say how far its build is."""
    path = paths.progress(host)
    data = encode(HostProgress(host=host, builds=(Progress(name=NAME, phase="link", percent=percent),)))
    if tree.get(path) is None:
        tree.create(path, data)
    else:
        tree.put(path, data)


def asked(servers: FakeServers, tree: FakeTree, clock: FakeClock, hosts: int) -> int:
    """Return what was read in the time in which each of so many hosts begins and ends, one in a second."""
    looker = servers.session()
    names = live(tree, hosts)
    watcher = Watcher(looker, clock, NAME)
    for state in ("building", "ready"):
        for name in names:
            building(tree, name, 1)
            say(tree, name, is_so(NAME, state, 1))
            watcher.show()
            clock.now += 1.0
    assert {row.state for row in watcher.show().rows} == {"ready"}
    return len(looker.reads)


def test_the_reads_of_a_wait_grow_as_the_hosts(clock: FakeClock) -> None:
    """Ten times the hosts, and ten times the length: not more reads for each host."""
    counts = []
    for hosts in (20, 200):
        servers = FakeServers()
        tree = servers.session()
        Administration(tree, by="ada", clock=clock).create(X)
        counts.append(asked(servers, tree, clock, hosts) / hosts)
    assert counts[1] <= counts[0] + 2
    assert counts[1] < 10


@pytest.mark.usefixtures("admin")
def test_a_long_wait_reads_each_host_a_few_times(servers: FakeServers, tree: FakeTree, clock: FakeClock) -> None:
    """In a day in which nobody says anything, each host is read so often as to make up for a lost watch, no more."""
    live(tree, 10)
    looker = servers.session()
    watcher = Watcher(looker, clock, NAME)
    for _ in range(24 * 3600 // 5):
        watcher.show()
        clock.now += 5.0
    assert 1 < looker.reads.count(paths.status("h0003")) <= 25


@pytest.mark.usefixtures("admin")
def test_progress_is_read_for_a_table_only_and_so_often(servers: FakeServers, tree: FakeTree, clock: FakeClock) -> None:
    """Nobody else reads any; a table reads no more than it can show, and a small cluster's each second."""
    for name in live(tree, 100):
        say(tree, name, is_so(NAME, "building", 1))
        building(tree, name, 10)
    looker, quiet = servers.session(), servers.session()
    watcher = Watcher(looker, clock, NAME, has_progress=True)
    silent = Watcher(quiet, clock, NAME)
    for _ in range(10):
        rows = watcher.show().rows
        assert sum(row.percent == 10 for row in rows) == MOST_PROGRESS
        assert not any(row.phase for row in silent.show().rows)
    assert sum(path.startswith(paths.PROGRESS + "/") for path in looker.reads) == MOST_PROGRESS
    assert not [path for path in quiet.reads if path.startswith(paths.PROGRESS)]
    building(tree, "h0000", 20)
    clock.now += 2.0
    assert watcher.show().rows[0].percent == 20


@pytest.mark.usefixtures("admin")
def test_a_change_heard_of_before_a_look_that_failed_is_not_forgotten(
    servers: FakeServers, tree: FakeTree, clock: FakeClock
) -> None:
    """ZooKeeper does not answer when the host's word is to be read; the next look reads it."""

    class Failing(FakeTree):
        fails = False

        def get(self, path: str, **facts: Any) -> Node | None:
            if self.fails and path == paths.status("h0001"):
                raise CoordinatorUnavailable("no answer")
            return super().get(path, **facts)

    live(tree, 3)
    looker = Failing(servers, 99)
    watcher = Watcher(looker, clock, NAME)
    watcher.show()
    say(tree, "h0001", is_so(NAME, "ready", 1))
    looker.fails = True
    with pytest.raises(CoordinatorUnavailable):
        watcher.show()
    looker.fails = False
    assert [row.state for row in watcher.show().rows] == ["pending", "ready", "pending"]

"""Who follows a rollout asks ZooKeeper so much for each host, however long it lasts and however many there are."""

from __future__ import annotations

import contextlib
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


class Busy(FakeTree):
    """A session whose servers leave each so many hundredth host's word unanswered when it is asked for at first."""

    def __init__(self, servers: FakeServers, each: int, times: int = 1) -> None:
        super().__init__(servers, 98)
        self.each = each
        self.left: dict[str, int] = {}
        self.times = times

    def get(self, path: str, **facts: Any) -> Node | None:
        if path.startswith((f"{paths.STATUS}/", f"{paths.HOSTS}/")) and int(path[-4:]) % self.each == 0:
            left = self.left[path] = self.left.get(path, self.times) - 1
            if left >= 0:
                self.reads.append(path)
                raise CoordinatorUnavailable(f"no answer about {path}")
        return super().get(path, **facts)


def statuses_read(tree: FakeTree) -> int:
    """Return how many hosts' words were asked for since the last time."""
    found = sum(path.startswith(f"{paths.STATUS}/") for path in tree.reads)
    tree.reads.clear()
    return found


@pytest.mark.usefixtures("admin")
def test_reads_that_got_no_answer_are_asked_for_again_alone(
    servers: FakeServers, tree: FakeTree, clock: FakeClock
) -> None:
    """Of hundreds of hosts some are not answered: a command asks for those again, and for no other."""
    live(tree, 300)
    busy = Busy(servers, 50)
    looker = Administration(busy, by="ada", clock=clock)
    assert len(looker.show(NAME).rows) == 300
    assert statuses_read(busy) == 300 + 6
    assert all(host.live is not None for host in looker.hosts())
    assert sum(path.startswith(f"{paths.HOSTS}/") for path in busy.reads) == 300 + 6


@pytest.mark.usefixtures("admin")
def test_who_looks_again_asks_for_the_rest(servers: FakeServers, tree: FakeTree, clock: FakeClock) -> None:
    """A look that gives up keeps what was answered, but not what has changed since: the next ones ask for the rest."""
    names = live(tree, 300)
    busy = Busy(servers, 50, times=2)
    watcher = Watcher(busy, clock, NAME)
    with pytest.raises(CoordinatorUnavailable):
        watcher.show()
    say(tree, names[7], is_so(NAME, "ready", 1))
    tree.delete(paths.host(names[8]))
    for _ in range(6):
        with contextlib.suppress(CoordinatorUnavailable):
            rows = watcher.show().rows
    assert (len(rows), rows[7].state, rows[8].is_live, rows[9].is_live) == (300, "ready", False, True)
    counts = [busy.reads.count(paths.status(name)) for name in names]
    assert (counts[7], counts[50]) == (2, 3)
    assert statuses_read(busy) == 300 + 6 * 2 + 1

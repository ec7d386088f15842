"""Who waits for the cluster's hosts through a daemon: each look reads what is new, and little is kept for how long."""

from __future__ import annotations

from typing import Any

import pytest
from cluster.cluster_worlds import declaration, is_so, join, name_of, say
from fakes.clock import FakeClock
from fakes.tree import FakeServers, FakeTree

from envmgr.cluster.administration import Administration
from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.nodes import Node
from envmgr.daemon import waiters
from envmgr.daemon.waiters import Waiters
from envmgr.errors import CoordinatorUnavailable, EnvironmentNotFound
from envmgr.names import EnvName
from envmgr.wire.cluster import DeclaredEnvironment

X = declaration("x")
NAME = EnvName(name_of(X))


class World:
    """A cluster that wants one environment on twenty hosts, and a daemon's session that counts what it reads."""

    def __init__(self) -> None:
        self.clock, servers = FakeClock(), FakeServers()
        self.tree, self.session = servers.session(), servers.session()
        self.admin(self.tree).create(X)
        self.hosts = [f"h{number:02}" for number in range(20)]
        for host in self.hosts:
            join(self.tree, host)
            say(self.tree, host)
        self.waiters = Waiters(self.clock)

    def admin(self, tree: FakeTree) -> Administration:
        return Administration(tree, by="ada", clock=self.clock)

    def look(self, waiter: str, name: EnvName = NAME) -> DeclaredEnvironment:
        return self.waiters.look(waiter, name, self.admin(self.session))

    def read(self) -> int:
        """Return how many hosts' words were read since the last time."""
        found = sum(path.startswith(f"{paths.STATUS}/") for path in self.session.reads)
        self.session.reads.clear()
        return found


@pytest.fixture
def world() -> World:
    return World()


def test_each_look_reads_what_is_new(world: World) -> None:
    """The first reads all hosts, each later one those that said something, and its answer is that of a plain look."""
    world.look("one")
    assert world.read() == 20
    world.look("one")
    assert world.read() == 0
    say(world.tree, "h03", is_so(NAME, "ready", 1))
    found = world.look("one")
    assert world.read() == 1
    assert found == world.admin(world.tree).show(NAME)


def test_each_waiter_is_one_of_its_own(world: World) -> None:
    """Who comes later sees what was declared meanwhile, an alias, too; and is read for by itself."""
    world.look("one")
    world.admin(world.tree).set_alias("science", NAME)  # type: ignore[arg-type]  # an alias
    world.read()
    assert world.look("two").aliases == ("science",)
    assert world.read() == 20


def test_what_is_done_or_gone_is_not_kept(world: World) -> None:
    """When every host is decided, when it is not declared, and when nobody has looked for a while."""
    world.look("one")
    for host in world.hosts:
        say(world.tree, host, is_so(NAME, "ready", 1))
    assert {row.success for row in world.look("one").rows} == {True}
    assert not world.waiters._kept
    with pytest.raises(EnvironmentNotFound):
        world.look("one", EnvName("env-0123456789abcdef"))
    assert not world.waiters._kept
    say(world.tree, "h00", is_so(NAME, "building", 1))
    world.look("one")
    world.clock.now += waiters.KEPT_S + 1
    world.look("two")
    assert [waiter for waiter, _ in world.waiters._kept] == ["two"]


def test_so_many_are_kept(world: World) -> None:
    """Of more than that those are kept that looked last; the others are answered all the same."""
    for number in range(waiters.MOST + 1):
        world.look(str(number))
    world.look("1")
    world.read()
    world.look("1")
    assert world.read() == 0
    assert len(world.look("0").rows) == world.read() == 20
    assert len(world.waiters._kept) == waiters.MOST


def test_what_was_answered_is_kept_though_not_all_was(world: World) -> None:
    """A look in which ZooKeeper did not answer for some hosts is no waste: the next one reads those alone."""

    class Busy(FakeTree):
        left = 1

        def get(self, path: str, **facts: Any) -> Node | None:
            if path == paths.status("h19") and self.left:
                self.left -= 1
                self.is_silent = True
            if self.is_silent:
                raise CoordinatorUnavailable(f"no answer about {path}")
            return super().get(path, **facts)

        is_silent = False

    busy = world.session = Busy(world.tree._servers, 97)
    with pytest.raises(CoordinatorUnavailable):
        world.look("one")
    assert world.read() == 19
    busy.is_silent = False
    assert len(world.look("one").rows) == 20
    assert world.read() == 1

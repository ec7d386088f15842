"""A host is known to its cluster before it begins anything, so that an `absent` stays until it has obeyed."""

from __future__ import annotations

import pytest
from agent.worlds import World

from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.nodes import Create, Node, Operation, Put
from envmgr.errors import CoordinatorUnavailable
from envmgr.wire.tree import HostStatus, decode


class Cut:
    """Loses the connection to ZooKeeper at the host's first or second write of its status; `world` goes on with it."""

    def __init__(self, world: World, at: int) -> None:
        self.world, self.left = world, at
        world.session.interlude = self.look

    def look(self) -> None:
        self.world.session.interlude = self.look
        # The fake tells of no operation; the writes of a host that joins are its life and its status, in this order.
        self.left -= 1
        if self.left == 0:
            self.world.session.is_connected = False
            raise CoordinatorUnavailable("the connection was lost")


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_host_that_is_cut_off_as_it_joins_obeys_all_the_same(at: int) -> None:
    """Whichever of its first writes is lost: what is removed meanwhile is not left on the host as its own."""
    world = World()
    name = world.declare("numpy")
    cut = Cut(world, at)
    world.turn()
    assert cut.left == 0
    world.turn()
    begun = bool(world.jobs.begun)
    world.admin.remove(name)
    assert begun == (at == 3) == (world.session.get(paths.intent(name)) is not None)
    world.jobs.run()
    world.session.interlude = None
    world.session.is_connected = True
    world.settle(6)
    assert world.hands.builds == {}
    assert world.session.get(paths.intent(name)) is None


def test_what_was_removed_before_the_host_was_known_is_not_made() -> None:
    """It had read that the environment is wanted; until it is known, that may go without a word to it."""
    world = World()
    name = world.declare("numpy")
    create = world.session.create

    def removed_meanwhile(path: str, data: bytes = b"", **facts: bool) -> Node:
        if path == paths.status("here") and world.session.get(paths.intent(name)) is not None:
            world.admin.remove(name)
        return create(path, data, **facts)

    world.session.create = removed_meanwhile  # type: ignore[assignment]  # what happens in between
    world.settle()
    assert world.session.get(paths.intent(name)) is None
    assert world.hands.take_done() == []


def test_a_host_that_comes_back_says_nothing_before_it_has_looked() -> None:
    """The document of a host that is known stays as it is until there is something new to say."""
    world = World()
    name = world.declare("numpy")
    world.settle()
    written: list[HostStatus] = []
    write = world.session.write

    def seen(operations: list[Operation], **facts: float) -> None:
        written.extend(
            decode(HostStatus, it.data, "status")
            for it in operations
            if isinstance(it, Create | Put) and it.path == paths.status("here")
        )
        write(operations, **facts)

    world.session.write = seen  # type: ignore[assignment]  # looks on
    world.restart()
    world.settle()
    assert written
    assert all(found.environments[0].state == "ready" and found.environments[0].name == name for found in written)

"""Numbers of the tree that go back with an import: what an administrator asks for afterwards is heard all the same."""

from __future__ import annotations

from agent.worlds import World

from envmgr.errors import BuildFailed
from envmgr.names import EnvName
from envmgr.wire.cluster import Exported


def imported(world: World, document: Exported) -> None:
    """Lose the tree, and import a document; this host lives on."""
    world.servers.empty()
    world.admin.import_(document)
    world.session.lose()
    world.settle()
    assert world.agent.glance().problem is None


def backup(world: World) -> tuple[EnvName, Exported]:
    """Declare an environment, and return what is wanted then."""
    name = world.declare("numpy")
    return name, world.admin.export()


def test_a_retry_is_heard() -> None:
    """As many retries as before the loss, or fewer: what failed for good is tried again."""
    world = World()
    name, document = backup(world)
    world.hands.fails[name] = BuildFailed("it cannot be")
    for _ in range(3):
        world.admin.retry(name)
        world.settle()
    imported(world, document)
    world.hands.take_done()
    world.hands.fails.clear()
    world.admin.retry(name)
    world.settle()
    assert world.state(name).state == "ready"


def test_a_heal_is_heard() -> None:
    """As many heals as before the loss, or fewer: what drifted since is brought in line."""
    world = World()
    name, document = backup(world)
    for _ in range(3):
        world.admin.heal()
        world.settle()
    imported(world, document)
    world.hands.put(name, "alone")
    world.settle()
    assert world.state(name).is_drift
    world.admin.heal()
    world.settle()
    assert (world.state(name).is_drift, world.told.heal) == (False, 1)


def test_a_relock_is_heard() -> None:
    """A generation that is lower than one that this host had before the loss is brought in."""
    world = World()
    name, document = backup(world)
    world.settle()
    for generation in (2, 3):
        world.solve(name, generation - 1, f"old {generation - 1}")
        world.admin.relock(name)
    world.solve(name, 3, "old 3")
    world.settle()
    assert (world.state(name).lock_digest, world.state(name).lock_generation) == ("old 3", 3)
    imported(world, document)
    world.solve(name, 1, "first")
    world.admin.relock(name)
    world.solve(name, 2, "second")
    world.settle()
    told = world.state(name)
    assert (told.state, told.lock_digest, told.lock_generation, told.is_drift) == ("ready", "second", 2, False)


def test_a_restored_tree_takes_no_number_back() -> None:
    """It may be out of date: what this host has answered stays answered, should the newer tree come back."""
    world = World()
    name = world.declare("numpy")
    world.settle()
    world.solve(name, 1, "first")
    restored = {path: node for path, node in world.servers.nodes.items() if node.ephemeral_owner == 0}
    world.admin.heal()
    world.admin.relock(name)
    world.solve(name, 2, "second")
    world.settle()
    newer = {path: node for path, node in world.servers.nodes.items() if node.ephemeral_owner == 0}
    for nodes in (restored, newer):
        world.servers.nodes = nodes
        world.session.lose()
        world.settle()
        assert (world.memory.heal, world.memory.environments[name].lock_generation) == (1, 2)

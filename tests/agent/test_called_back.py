"""What changes while a host waits: for its turn in a rollout, for an answer, or in a tree that was restored."""

from __future__ import annotations

from agent.worlds import World

from envmgr.cluster.rollout import summary
from envmgr.coordination.zookeeper import tree as paths
from envmgr.names import Alias


def test_a_host_that_is_cordoned_while_it_waits_for_its_turn_begins_nothing() -> None:
    """Its turn may come hours later: by then it is not to begin any more; it waits again when it is uncordoned."""
    world = World()
    name = world.declare("numpy", parallel=1)
    world.turn()
    assert world.state(name).state == "waiting"
    world.admin.cordon("here", is_cordoned=True)
    world.settle()
    assert world.state(name).state == "pending"
    assert "make" not in world.hands.take_done()
    world.admin.cordon("here", is_cordoned=False)
    world.settle()
    assert world.state(name).state == "ready"


def test_a_build_that_has_its_turn_is_not_ended_by_a_cordon() -> None:
    """A cordoned host begins nothing new; what it has begun goes on."""
    world = World()
    name = world.declare("numpy", parallel=1)
    world.turn()
    job, work = world.jobs.begun[0]
    make = world.hands.make

    def cordoned_meanwhile(*facts: object, **more: object) -> None:
        world.admin.cordon("here", is_cordoned=True)
        world.turn()
        assert (job.is_recalled, job.is_cancelled()) == (True, False)
        make(*facts, **more)  # type: ignore[arg-type]  # passed on

    world.hands.make = cordoned_meanwhile  # type: ignore[method-assign]  # what happens meanwhile
    work()
    assert name in world.hands.builds


def test_a_rollout_that_is_declared_faster_is_waited_for_no_longer() -> None:
    """Who waits for one of few turns stands in the new, longer row, or in none, when the bound is changed."""
    world = World()
    name = world.declare("numpy", parallel=1)
    world.turn()
    world.declare("numpy", parallel=5)
    world.settle()
    assert world.state(name).state == "ready"
    assert world.hands.take_done() == ["turn of 1", "turn of 5", "make"]


def test_a_relock_that_nobody_could_ask_about_is_not_done() -> None:
    """ZooKeeper does not say what the new generation is: the host is not ready for it, and no rollout ends early."""
    world = World()
    name = world.declare("numpy")
    world.settle()
    world.solve(name, 1, "first")
    world.admin.relock(name)
    world.solve(name, 2, "second")
    world.hands.is_cut_off = True
    world.turn()
    assert world.state(name).state == "pending"
    assert not summary(world.admin.show(name)).is_done
    world.hands.is_cut_off = False
    world.settle()
    told = world.state(name)
    assert (told.state, told.lock_digest, told.lock_generation) == ("ready", "second", 2)


def test_a_restored_tree_changes_no_alias() -> None:
    """What was set or moved since the backup stays so on the host, until an import says what is wanted."""
    world = World()
    name, other = world.declare("numpy"), world.declare("scipy")
    world.admin.set_alias(Alias("moved"), other)
    world.settle()
    restored = {path: node for path, node in world.servers.nodes.items() if node.ephemeral_owner == 0}
    world.admin.set_alias(Alias("tools"), name)
    world.admin.set_alias(Alias("moved"), name, move=True)
    world.settle()
    world.servers.nodes = restored
    world.session.lose()
    world.settle(6)
    assert "older" in str(world.told.problem)
    assert world.hands.aliases == {"tools": name, "moved": name}
    world.admin.import_(world.admin.export(), replace=True)
    world.settle()
    assert world.told.problem is None
    assert world.hands.aliases == {"moved": other}


def test_a_sign_of_life_that_somebody_damaged_is_written_anew() -> None:
    """The node is of this host's own session: nobody has pushed it aside, and it need not be started anew."""
    world = World()
    world.declare("numpy")
    world.settle()
    world.session.put(paths.host("here"), b"damaged")
    name = world.declare("scipy")
    world.settle()
    assert world.agent.glance().problem is None
    assert world.host_record("here") is not None
    assert world.state(name).state == "ready"

"""What the agent does with each pass: from what the cluster wants and what is there to what is begun and told."""

from __future__ import annotations

import dataclasses
import logging

import pytest
from agent.worlds import World

from envmgr.agent.memory import Memory
from envmgr.coordination.zookeeper import tree as paths
from envmgr.errors import BuildFailed, Cancelled, CoordinatorUnavailable, NetworkError, NoSpace, Unsatisfiable
from envmgr.wire.cluster import Declaration
from envmgr.wire.tree import Cluster, Intent, decode, encode


def test_what_is_declared_is_made_and_told() -> None:
    """A declared environment is made once, adopted before it is begun, and told as ready with its lockfile."""
    world = World()
    name = world.declare("numpy", alias="tools")
    world.turn()
    assert world.state(name).state == "building"
    assert world.memory.environments[name].generation == world.agent._wanted.revision
    world.jobs.run()
    world.turn()
    told = world.state(name)
    assert (told.state, told.lock_digest, told.is_drift, told.lock_generation) == ("ready", "first", False, 1)
    assert world.hands.aliases == {"tools": name}
    assert world.coordinator.names == {name: 1}
    assert list(world.agent.declared()) == [name]
    world.settle()
    assert world.hands.take_done() == ["make"]


def test_at_rest_a_pass_is_one_look() -> None:
    """Where nothing changed, a pass looks at the revision's stamp, reads and writes nothing, asks for no lockfile."""
    world = World()
    for number in range(5):
        world.declare(f"p{number}")
    world.settle(5)
    nodes, asked = world.servers.nodes, world.hands.asked
    world.session.reads.clear()
    world.session.glances.clear()
    for _ in range(10):
        world.turn()
    assert (world.session.glances, world.session.reads) == ([paths.REVISION] * 10, [])
    assert world.servers.nodes == nodes
    assert world.hands.asked == asked


def test_what_is_for_others_is_left() -> None:
    """An environment for another host is not made; when it is for this one too, it is."""
    world = World()
    name = world.declare("numpy", hosts=("there",))
    world.settle()
    assert world.hands.take_done() == []
    assert world.told.environments == ()
    world.declare("numpy", hosts=("here", "there"))
    world.settle()
    assert world.hands.take_done() == ["make"]
    world.declare("numpy", hosts=("there",))
    world.settle()
    assert world.hands.take_done() == []
    assert name in world.hands.builds
    assert world.told.environments == ()
    assert world.agent.declared() == ()


def test_what_is_absent_goes_and_is_acknowledged() -> None:
    """`absent` takes away what the cluster brought; the intent goes when every host has said so."""
    world = World()
    name = world.declare("numpy", alias="tools")
    world.settle()
    world.admin.remove(name)
    world.turn()
    assert world.state(name).state == "removing"
    world.jobs.run()
    world.turn()
    assert world.state(name).state == "absent"
    assert world.memory.environments == {}
    world.settle()
    assert world.hands.take_done() == ["make", "remove"]
    assert world.hands.aliases == {}
    assert world.session.get(paths.intent(name)) is None
    assert world.told.environments == ()


def test_what_a_host_made_for_itself_is_never_touched() -> None:
    """Neither without an intent, nor when one for it came and went while the host was down."""
    world = World()
    name = world.declare("numpy")
    world.admin.remove(name)
    world.hands.put(name, "own")
    world.settle()
    assert world.hands.builds[name].lock_digest == "own"
    assert "remove" not in world.hands.take_done()
    assert world.told.environments == ()


def test_what_was_here_before_is_adopted_and_goes_with_absent() -> None:
    """An environment that existed before it was declared is the cluster's from then on."""
    world = World()
    world.hands.solved = {}
    name = world.declare("numpy")
    world.hands.put(name, "own")
    world.settle()
    assert world.state(name).state == "ready"
    assert world.hands.take_done() == ["align"]  # its lockfile is the cluster's first
    world.admin.remove(name)
    world.settle()
    assert world.hands.builds == {}


def test_a_host_that_was_down_while_it_was_removed() -> None:
    """What the host remembers as the cluster's goes when it comes back, and only that."""
    world = World()
    name, own = world.declare("numpy"), world.declare("scipy")
    world.admin.remove(own)
    world.settle()
    world.hands.put(own, "own")
    world.admin.remove(name)
    world.restart()
    world.settle()
    assert list(world.hands.builds) == [own]


def test_what_is_made_anew_while_absent_stays() -> None:
    """After the cluster took it away, somebody on this host makes it for himself: that stays."""
    world = World()
    other = World("there", world.servers)  # has not acknowledged yet
    name = world.declare("numpy")
    world.settle()
    other.settle()
    world.admin.remove(name)
    world.settle()
    assert world.session.get(paths.intent(name)) is not None
    world.hands.put(name, "own")
    world.settle()
    assert name in world.hands.builds
    other.settle()
    world.settle()
    other.settle()
    assert world.session.get(paths.intent(name)) is None
    assert name in world.hands.builds


# ------------------------------------------------------------------------------------------------------------ failures


def test_a_passing_failure_is_tried_again_after_longer_and_longer() -> None:
    """10 s at least, then twice as long, up to 300 s; all is told, with the time of the next try."""
    world = World()
    name = world.declare("numpy")
    world.hands.fails[name] = NetworkError("the mirror is away", hint="wait")
    pauses = []
    for attempt in range(1, 9):
        world.turn(0)
        world.jobs.run()
        world.turn(0)
        told = world.state(name) if attempt < 4 else world.agent._reconciler.statuses()[0]
        assert (told.state, told.attempts) == ("failed", attempt)
        assert told.error is not None
        assert (told.error["code"], told.error["message"], told.error["hint"]) == (
            "network", "the mirror is away", "wait",
        )  # fmt: skip
        assert told.retry_at is not None
        pauses.append(told.retry_at - world.clock.now)
        world.turn(pauses[-1] - 0.1)
        assert world.jobs.begun == []
        world.clock.now += 0.2
    assert all(
        max(10.0, 0.8 * least) <= pause <= least + 0.01
        for pause, least in zip(pauses, (10, 20, 40, 80, 160, 300, 300, 300), strict=True)
    )
    del world.hands.fails[name]
    world.settle()
    assert world.state(name).error is None


def test_a_permanent_failure_waits_for_an_administrator() -> None:
    """It is shown and kept; a retry for another host changes nothing, one for this host does."""
    world = World()
    name = world.declare("numpy")
    world.hands.fails[name] = BuildFailed("it cannot be")
    world.settle()
    for _ in range(20):
        world.turn(1000)
    assert world.jobs.begun == []
    assert world.hands.take_done() == ["make"]
    assert world.state(name).retry_at is None
    World("there", world.servers).settle()
    world.admin.retry(name, "there")
    world.settle()
    assert world.hands.take_done() == []
    del world.hands.fails[name]
    world.admin.retry(name, "here")
    world.settle()
    assert world.hands.retried == [name]
    assert world.state(name).state == "ready"


def test_a_published_failure_of_any_code_waits() -> None:
    """What another host wrote does not have this one try again and again without a pause."""
    world = World()
    name = world.declare("numpy")
    world.hands.fails[name] = Cancelled("so it says", is_repeated=True, host="another")
    world.settle()
    assert world.hands.take_done() == ["make"]
    assert world.state(name).state == "failed"


def test_no_password_is_told_to_the_cluster() -> None:
    """What another program said of a URL is shown without its credentials."""
    world = World()
    name = world.declare("numpy")
    world.hands.fails[name] = BuildFailed("http://ada:geheim@channel.invalid", hint="see http://a:geheim@b.invalid")
    world.settle()
    error = world.state(name).error
    assert error is not None
    assert "channel.invalid" in str(error)
    assert "geheim" not in str(error)


def test_a_full_disk_is_tried_again() -> None:
    """Nobody has to ask: collections free space, and the host catches up."""
    world = World()
    name = world.declare("numpy")
    world.hands.fails[name] = NoSpace("no space left")
    world.settle()
    assert world.state(name).state == "failed"
    assert world.state(name).retry_at is not None
    world.hands.fails.clear()
    world.settle()
    assert world.state(name).state == "ready"


def test_a_damaged_intent_fails_alone() -> None:
    """A spec that is not the name's is a failure of that environment; the others are made."""
    world = World()
    name, other = world.declare("numpy"), world.declare("scipy")
    node = world.session.get(paths.intent(name))
    assert node is not None
    intent = decode(Intent, node.data, "intent")
    wrong = dataclasses.replace(intent, spec={**intent.spec, "digest": "0" * 64})
    world.session.put(paths.intent(name), encode(wrong))
    world.settle()
    assert world.state(name).state == "failed"
    assert world.state(other).state == "ready"


# ------------------------------------------------------------------------------------------------- how much at a time


def test_builds_are_bounded_and_in_the_order_of_declaration() -> None:
    """No more than `max_builds` at a time; what waits is pending."""
    world = World(max_builds="2")
    names = [world.declare(word) for word in ("d", "c", "b", "a")]
    world.turn()
    assert [job.name for job, _ in world.jobs.begun] == names[:2]
    assert world.state(names[2]).state == "pending"
    assert set(world.agent.coming()) == set(names)
    world.settle(4)
    assert all(world.state(name).state == "ready" for name in names)


def test_a_rollout_takes_its_turn() -> None:
    """Where the intent bounds the hosts, this one waits for its turn, and does not keep others waiting meanwhile."""
    world = World(max_builds="1")
    name, other = world.declare("numpy", parallel=1), world.declare("scipy")
    world.turn()
    assert world.state(name).state == "waiting"
    assert world.state(other).state == "building"
    assert set(world.agent.coming()) == {other}
    world.settle()
    assert "turn of 1" in world.hands.take_done()
    assert world.state(name).state == "ready"


def test_a_cordoned_host_begins_nothing_new() -> None:
    """Nothing is made while the host is cordoned, and what is absent still goes."""
    world = World()
    first = world.declare("numpy")
    world.settle()
    world.admin.cordon("here", is_cordoned=True)
    name = world.declare("scipy")
    world.admin.remove(first)
    world.settle()
    assert world.agent.glance().is_cordoned
    assert name not in world.hands.builds
    assert first not in world.hands.builds
    assert world.state(name).state == "pending"
    world.admin.cordon("here", is_cordoned=False)
    world.settle()
    assert world.state(name).state == "ready"


def test_what_may_not_begin_yet_is_not_looked_at_without_end() -> None:
    """A try that is due while the host may not begin one waits for what keeps it, and the agent sleeps meanwhile."""
    world = World(max_builds="1")
    name = world.declare("numpy")
    world.hands.fails[name] = NetworkError("the mirror is away")
    world.turn()
    world.jobs.run()
    world.turn()
    other = world.declare("scipy")
    world.turn(0)
    world.agent.look_soon()
    world.turn(0)
    assert [job.name for job, _ in world.jobs.begun] == [other]
    world.clock.now += 15
    world.agent.turn()
    assert world.agent._reconciler.next_at() is None
    assert world.agent.turn() > world.clock.monotonic()


def test_what_is_not_wanted_any_more_is_ended() -> None:
    """A build of an environment that was removed meanwhile is told to stop; then it is taken away."""
    world = World()
    name = world.declare("numpy")
    world.turn()
    world.admin.remove(name)
    world.turn()
    assert world.jobs.begun[0][0].is_unwanted
    world.settle()
    assert world.hands.take_done() == ["remove"]


def test_one_that_leaves_begins_nothing() -> None:
    """From the order to stop on, nothing is begun; at the end the host is gone and its last word stands."""
    world = World()
    world.turn()
    world.agent.stop_beginning()
    name = world.declare("numpy")
    world.settle()
    assert world.hands.take_done() == []
    world.agent.leave()
    assert world.host_record("here") is None
    assert world.state(name).state == "pending"


# ----------------------------------------------------------------------------------------------- lockfiles, and drift


def test_relock_brings_every_build_to_the_new_generation() -> None:
    """A higher generation of lockfiles is brought in once, and told; also after the host was down."""
    world = World()
    name = world.declare("numpy")
    world.settle()
    world.solve(name, 1, "first")
    for generation, digest in ((2, "second"), (3, "third")):
        world.admin.relock(name)
        world.solve(name, generation, digest)
        if digest == "third":
            world.restart()
        world.settle()
        told = world.state(name)
        assert (told.state, told.lock_digest, told.is_drift) == ("ready", digest, False)
        assert told.lock_generation == generation
    assert world.hands.take_done() == ["make", "align", "align"]
    assert world.coordinator.names == {name: 3}


def test_a_relock_is_a_new_try_of_what_could_not_be_made() -> None:
    """A new generation is tried at once, whatever the host remembers of how the one before failed."""
    world = World()
    name = world.declare("numpy")
    world.hands.fails[name] = Unsatisfiable("no numpy")
    world.settle()
    assert world.state(name).state == "failed"
    world.hands.fails.clear()
    world.solve(name, 1, "first")
    world.admin.relock(name)
    world.settle()
    assert (world.state(name).state, world.hands.retried) == ("ready", [name])


def test_a_build_that_missed_a_relock_is_brought_to_it() -> None:
    """What is made may be an older lockfile's (begun by others before; ZooKeeper was away): it is brought in, too."""
    world = World()
    name = world.declare("numpy")
    world.solve(name, 1, "first")
    world.admin.relock(name)
    world.turn()
    world.jobs.run()
    assert world.hands.builds[name].lock_digest == "first"
    world.turn()
    assert world.state(name).state == "building"
    world.solve(name, 2, "second")
    world.settle()
    told = world.state(name)
    assert (told.state, told.lock_digest, told.is_drift, told.lock_generation) == ("ready", "second", False, 2)
    assert world.hands.take_done() == ["make", "align"]


def test_a_build_of_the_newest_lockfile_needs_nothing_more() -> None:
    """A host that joins after a relock makes what is in force, once."""
    world = World()
    name = world.declare("numpy")
    world.solve(name, 1, "first")
    world.admin.relock(name)
    world.solve(name, 2, "second")
    world.settle()
    told = world.state(name)
    assert (told.state, told.lock_digest, told.lock_generation) == ("ready", "second", 2)
    assert world.hands.take_done() == ["make"]


def test_drift_is_shown_and_healed_when_asked_for() -> None:
    """What was built from another lockfile is told, left alone, and brought in line by `heal`; the host's own, too."""
    world = World()
    name = world.declare("numpy")
    world.declare("scipy")
    own = world.declare("pandas", hosts=("there",))
    world.hands.solved = {name: "theirs", own: "theirs"}
    world.hands.put(name, "ours")
    world.hands.put(own, "ours")
    world.settle()
    assert world.state(name).is_drift
    assert world.told.drift == (own,)
    assert world.hands.take_done() == ["make"]
    world.admin.heal()
    world.settle()
    assert not world.state(name).is_drift
    assert world.told.drift == ()
    assert world.told.heal == 1
    assert sorted(world.hands.take_done()) == ["align", "align"]
    world.restart()
    world.settle()
    assert world.hands.take_done() == []


def test_a_heal_that_fails_is_answered_and_shown() -> None:
    """A host that cannot bring something in line says so, and does not try for ever."""
    world = World()
    name = world.declare("numpy")
    world.hands.solved = {name: "theirs"}
    world.hands.put(name, "ours")
    world.hands.fails[name] = BuildFailed("it cannot be")
    world.settle()
    world.admin.heal()
    world.settle(5)
    assert world.told.heal == 1
    assert world.hands.take_done() == ["align"]


def test_a_heal_goes_on_after_what_passes() -> None:
    """What kept a host from bringing something in line for a while does not end the heal; its own, too, is healed."""
    world = World()
    name, own = world.declare("numpy"), world.declare("pandas", hosts=("there",))
    world.hands.solved = {name: "theirs", own: "theirs"}
    for it in (name, own):
        world.hands.put(it, "ours")
        world.hands.fails[it] = CoordinatorUnavailable("its leader was killed")
    world.settle()
    world.admin.heal()
    world.settle()
    told = world.state(name)
    assert (world.told.heal, told.state, told.is_drift, world.told.drift) == (0, "failed", True, (own,))
    assert told.retry_at is not None
    world.hands.fails.clear()
    world.settle(6)
    assert (world.told.heal, world.state(name).is_drift, world.told.drift) == (1, False, ())


def test_a_heal_is_not_answered_before_lockfiles_could_be_compared() -> None:
    """A host that cannot ask what is in force when it hears of a heal has not healed; it does when it can ask."""
    world = World()
    name = world.declare("numpy")
    world.hands.solved = {name: "theirs"}
    world.hands.put(name, "ours")
    world.hands.is_cut_off = True
    world.admin.heal()
    world.settle()
    assert world.told.heal == 0
    world.hands.is_cut_off = False
    world.settle()
    assert (world.told.heal, world.state(name).is_drift) == (1, False)


def test_what_was_built_alone_is_compared_after_a_reconnection() -> None:
    """Lockfiles that others published while ZooKeeper was away are seen with the new session."""
    world = World()
    name = world.declare("numpy")
    world.settle()
    world.hands.put(name, "alone")
    world.session.is_connected = False
    world.hands.is_cut_off = True
    world.settle()
    world.hands.is_cut_off = False
    world.session.is_connected = True
    world.session.lose()
    world.settle()
    assert world.state(name).is_drift


# ----------------------------------------------------------------------------------------------------- what is shared


def test_settings_and_classes_of_the_cluster() -> None:
    """They are handed on and remembered; what this host cannot take of them is told as its problem."""
    world = World()
    world.declare("numpy")
    node = world.session.get(paths.CLUSTER)
    assert node is not None
    cluster = decode(Cluster, node.data, "cluster")
    classes = {"linux-64+cuda12": {"__cuda": "12.0"}}
    world.session.put(paths.CLUSTER, encode(dataclasses.replace(cluster, settings={"offline": True}, classes=classes)))
    world.settle()
    assert world.hands.shared == {"offline": True}
    assert world.coordinator.declared_classes == classes
    assert world.memory.settings == {"offline": True}
    assert world.told.problem is not None
    assert "offline" in world.told.problem


def test_aliases_of_the_cluster_win_and_follow() -> None:
    """An alias of the cluster replaces the host's own, moves, and goes; others stay."""
    world = World()
    name, other = world.declare("numpy"), world.declare("scipy")
    world.hands.aliases = {"tools": other, "mine": other}  # type: ignore[dict-item]
    world.settle()
    world.admin.set_alias("tools", name)  # type: ignore[arg-type]
    world.settle()
    assert world.hands.aliases == {"tools": name, "mine": other}
    world.admin.set_alias("tools", other, move=True)  # type: ignore[arg-type]
    world.settle()
    assert world.hands.aliases == {"tools": other, "mine": other}
    world.admin.remove_alias("tools")  # type: ignore[arg-type]
    world.settle()
    assert world.hands.aliases == {"mine": other}


# ------------------------------------------------------------------------------------------------------- wrong trees


def test_the_log_does_not_say_that_all_is_well_while_nobody_answers(caplog: pytest.LogCaptureFixture) -> None:
    """Calls without an answer are told as a problem; that it is over is told when there is a connection again."""
    world = World()
    world.declare("numpy")
    world.settle()
    world.session.is_silent = True
    with caplog.at_level(logging.INFO):
        world.turn()
        assert "does not answer" in caplog.text
        world.session.is_connected = False
        world.settle()
        assert "all is well" not in caplog.text
        world.session.is_silent, world.session.is_connected = False, True
        world.settle()
        assert "all is well" in caplog.text


def test_an_emptied_tree_stops_the_agent() -> None:
    """Nothing is touched, nothing is written into it, and the host says so; it goes on when the tree is back."""
    world = World()
    name = world.declare("numpy")
    world.settle()
    before = world.servers.nodes
    world.servers.empty()
    world.settle()
    assert world.servers.nodes == {}
    assert name in world.hands.builds
    assert "emptied" in str(world.agent.glance().problem)
    world.servers.nodes = before
    world.settle()
    assert world.agent.glance().problem is None


def test_another_clusters_tree_stops_the_agent() -> None:
    """So does a tree with another uuid, also when the daemon is started anew."""
    world, other = World(), World(servers=None)
    name = world.declare("numpy")
    world.settle()
    other.declare("scipy")
    world.servers.nodes = other.servers.nodes
    for _ in range(2):
        world.settle()
        assert world.hands.take_done() in (["make"], [])
        assert name in world.hands.builds
        assert "belongs to" in str(world.agent.glance().problem)
        assert world.servers.nodes == other.servers.nodes
        world.restart()


def test_a_restored_tree_takes_nothing_away() -> None:
    """In a tree that is older than what the host has seen, an `absent` may be out of date: it is not obeyed."""
    world = World()
    name = world.declare("numpy")
    world.settle()
    world.admin.remove(name)
    restored = {path: node for path, node in world.servers.nodes.items() if node.ephemeral_owner == 0}
    world.admin.create(_declaration(world, name))
    world.declare("scipy")
    world.settle()
    assert name in world.hands.builds
    world.servers.nodes = restored
    world.session.lose()
    world.settle(6)
    assert name in world.hands.builds
    assert "older" in str(world.told.problem)
    assert world.state(name).state == "pending"


def _declaration(world: World, name: str) -> Declaration:
    node = world.session.get(paths.intent(name))
    assert node is not None
    return Declaration(spec=decode(Intent, node.data, "intent").spec)


def test_no_tree_yet_is_no_error() -> None:
    """A host that is there before its cluster waits, writes nothing, and says what makes one."""
    world = World()
    world.settle()
    assert world.servers.nodes == {}
    assert "cluster create" in str(world.agent.glance().problem)
    assert world.memory == Memory()
    world.declare("numpy")
    world.settle()
    assert world.agent.glance().problem is None

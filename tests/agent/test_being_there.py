"""Under which name a host is in its cluster, and what it writes there."""

from __future__ import annotations

import dataclasses
import errno
import os
import random
from collections.abc import Callable

from agent.worlds import Session, World, identity

from envmgr.agent import givers
from envmgr.agent.identity import Identity
from envmgr.agent.status import StatusWriter
from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.nodes import Delete, Node
from envmgr.errors import NetworkError
from envmgr.wire.tree import EnvironmentStatus, Host, HostProgress, HostStatus, decode, encode


def test_a_host_is_there_and_keeps_its_name() -> None:
    """Its record tells machine, store, boot, instance and labels; the name is written down once."""
    world = World(host_labels="zone=west")
    world.declare("numpy")
    world.turn()
    record = world.host_record("here")
    assert record is not None
    assert (record.machine_id, record.store_id, record.instance) == (world.identity.machine.id, "s1", "i1")
    assert record.labels == {"zone": "west"}
    world.settle()
    assert [kept.host for kept in world.kept_identities] == ["here"]
    world.agent.leave()
    assert world.host_record("here") is None


class _Swept(Session):
    """A session whose sign of life somebody deletes before it is looked at, once."""

    swept: str | None = None

    def get(self, path: str, *, watch: Callable[[], None] | None = None, timeout_s: float = 5.0) -> Node | None:
        if self.swept is None and path == paths.host("here") and path in self._servers.nodes:
            self.swept = path
            self._servers.apply([Delete(path)], 0)
        return super().get(path, watch=watch, timeout_s=timeout_s)


def test_a_sign_of_life_that_goes_before_it_is_watched_is_made_again() -> None:
    """Who deletes a tree while its hosts live meets their nodes at any moment; of that one no event would ever tell."""
    world = World()
    name = world.declare("numpy")
    world.session = session = _Swept(world.servers)
    world.start()
    world.settle()
    assert session.swept is not None
    assert world.host_record("here") is not None
    assert world.state(name).state == "ready"


def test_its_own_old_session_is_waited_out() -> None:
    """A daemon that was killed and started again does nothing until its old node is gone, and takes the name then."""
    world = World()
    name = world.declare("numpy")
    world.settle()
    old = world.session.session_id
    world.session.renew()
    world.identity = dataclasses.replace(world.identity, instance="i2", is_settled=True)
    world.start()
    world.turn(0.0)
    record = world.host_record("here")
    assert record is not None
    assert record.instance == "i1"
    assert "earlier session" in str(world.agent.glance().problem)
    world.servers.end(old)
    world.turn(0.0)
    record = world.host_record("here")
    assert record is not None
    assert record.instance == "i2"
    assert world.state(name).state == "ready"


def test_an_old_session_that_does_not_end_is_replaced() -> None:
    """One that was begun with a longer timeout than ours is taken over when our session's time is up."""
    world = World(zookeeper_session_s="30")
    world.declare("numpy")
    world.settle()
    world.session.renew()
    world.identity = dataclasses.replace(world.identity, instance="i2", is_settled=True)
    world.start()
    world.turn(0.0)
    world.turn(29.0)
    assert str(world.agent.glance().problem)
    world.turn(10.0)
    record = world.host_record("here")
    assert record is not None
    assert record.instance == "i2"
    assert world.agent.glance().problem is None


def _other(world: World, of: Identity) -> World:
    """Have another host's agent on the same cluster."""
    other = World(of.host, world.servers)
    other.identity = of
    other.start()
    return other


def test_another_machine_of_that_name_gets_another_one() -> None:
    """While the first lives, the second joins with its machine's first digits behind the name, keeps that, says so."""
    world = World()
    name = world.declare("numpy")
    world.settle()
    other = _other(world, identity("here", machine="m2", store="s2", instance="i2"))
    other.turn(0.0)
    assert "another host" in str(other.agent.glance().problem)
    other.settle()
    assert other.agent.glance().host == "here-m2m2m2"
    assert "another machine" in str(other.told.problem)
    assert [kept.host for kept in other.kept_identities] == ["here-m2m2m2"]
    assert (other.coordinator.host, world.coordinator.host) == ("here-m2m2m2", None)
    assert other.state(name).state == "ready"
    record = world.host_record("here")
    assert record is not None
    assert record.instance == "i1"


def test_another_store_of_the_same_machine_gets_another_name() -> None:
    """Two stores of one machine that want one name are two hosts."""
    world = World()
    world.declare("numpy")
    world.settle()
    other = _other(world, identity("here", store="abcdef01", instance="i2"))
    other.settle()
    assert other.agent.glance().host == "here-abcdef"


def test_who_is_pushed_aside_stops() -> None:
    """Two daemons that take themselves for one host do not take turns: the one that was replaced does nothing more."""
    world = World()
    world.declare("numpy")
    world.settle()
    node = world.session.get(paths.host("here"))
    assert node is not None
    record = decode(Host, node.data, "host")
    thief = world.servers.session()
    thief.delete(paths.host("here"))
    thief.create(paths.host("here"), encode(dataclasses.replace(record, instance="other")), is_ephemeral=True)
    name = world.declare("scipy")
    world.settle()
    assert name not in world.hands.builds
    assert "another daemon" in str(world.agent.glance().problem)
    record = world.host_record("here")
    assert record is not None
    assert record.instance == "other"


def test_a_new_session_is_joined_at_once() -> None:
    """After its session was lost the host is there again with the next pass, whether its old node is gone or not."""
    world = World()
    world.declare("numpy")
    world.settle()
    for lose in (world.session.lose, world.session.renew):
        lose()
        world.turn(0.0)
        node = world.session.get(paths.host("here"))
        assert node is not None
        assert node.ephemeral_owner == world.session.session_id


# ----------------------------------------------------------------------------------------------------------- its word


def test_the_status_is_one_document_written_when_something_changed() -> None:
    """However much happens in a moment, a few writes follow, then one each two seconds; at rest none."""
    world = World(max_builds="1")
    names = [world.declare(f"p{number}") for number in range(20)]
    versions = []
    for _ in names:
        world.turn(0.01)
        world.jobs.run()
        node = world.session.get(paths.status("here"))
        versions.append(-1 if node is None else node.version)
    assert versions[-1] <= 3
    world.turn(2.0)
    world.settle()
    assert len(world.told.environments) == 20
    node = world.session.get(paths.status("here"))
    for _ in range(5):
        world.turn()
    assert world.session.get(paths.status("here")) == node


def test_a_forgotten_host_that_lives_is_known_again() -> None:
    """Its document is made anew with its next word."""
    world = World()
    world.declare("numpy")
    world.settle()
    world.session.delete(paths.status("here"))
    world.declare("scipy")
    world.settle()
    assert len(world.told.environments) == 2


def test_an_answer_that_was_lost() -> None:
    """A word that may have been heard is looked at before it is said again."""
    world = World()
    world.declare("numpy")
    world.settle()
    world.declare("scipy")
    world.turn()
    world.jobs.run()
    world.session.lose_next = "answer"
    world.turn()
    assert world.agent.glance().problem is not None
    world.turn()
    assert [found.state for found in world.told.environments] == ["ready", "ready"]
    assert world.agent.glance().problem is None


def test_an_older_instances_last_word_is_overwritten() -> None:
    """A daemon that was frozen and wakes does not have the last word of this host."""
    world = World()
    world.declare("numpy")
    world.settle()
    world.session.put(paths.status("here"), encode(HostStatus(host="here", instance="old")))
    world.declare("scipy")
    world.settle()
    assert world.told.instance == "i1"


def test_long_errors_are_cut_and_a_large_status_still_fits() -> None:
    """Thousands of failures with long messages do not make the document too large for ZooKeeper."""
    world = World()
    writer = StatusWriter(world.session, world.clock, "here")
    words = random.Random(1)
    failures = tuple(
        EnvironmentStatus(
            name=f"env-{number}", state="failed",
            error={"code": "network", "message": words.randbytes(450).hex(), "hint": None},
        )
        for number in range(2200)
    )  # fmt: skip
    writer.tell(HostStatus(host="here", instance="i1", environments=failures), ())
    writer.flush()
    assert len(world.told.environments) == 2200
    assert all(len(str(found.error)) < 200 for found in world.told.environments)
    name = world.declare("numpy")
    world.hands.fails[name] = NetworkError("x" * 100_000)
    world.settle(1)
    error = world.state(name).error
    assert error is not None
    assert len(str(error["message"])) < 2000


def test_a_host_whose_disk_is_full_still_says_so() -> None:
    """What cannot be remembered is not begun and not acknowledged; the host tells why, and goes on when it can."""
    world = World()
    world.declare("numpy")
    world.settle()
    world.is_full = True
    name = world.declare("scipy")
    world.settle()
    assert "No space left" in str(world.told.problem)
    assert world.told.revision < world.agent._wanted.revision
    assert name not in world.hands.builds
    world.is_full = False
    world.settle()
    assert world.state(name).state == "ready"
    assert world.told.problem is None


def test_a_name_that_could_not_be_written_down_is_written_later() -> None:
    """A host that joined while its disk was full keeps its name for good, once there is room."""
    world = World()
    name = world.declare("numpy")
    keep = world.agent._membership._keep

    def full(_identity: Identity) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    world.agent._membership._keep = full
    world.settle()
    assert "No space left" in str(world.agent.glance().problem)
    assert (world.kept_identities, world.hands.builds) == ([], {})
    world.agent._membership._keep = keep
    world.settle()
    assert [identity.host for identity in world.kept_identities] == ["here"]
    assert world.state(name).state == "ready"


def test_on_a_full_disk_what_is_to_go_goes() -> None:
    """It makes room, and nobody on the host may remove what the cluster declared; acknowledged is it afterwards."""
    world = World()
    name, other = world.declare("numpy"), world.declare("scipy")
    world.settle()
    world.is_full = True
    world.admin.remove(name)
    world.settle()
    world.admin.remove(other)
    world.settle()
    assert world.hands.builds == {}
    assert world.hands.take_done() == ["make", "make", "remove", "remove"]
    assert {it.state for it in world.told.environments} == {"removing"}
    assert "No space left" in str(world.told.problem)
    world.is_full = False
    world.settle()
    assert (world.told.environments, world.memory.environments) == ((), {})
    assert world.session.children(paths.ENVS) == ()


def test_settings_that_could_not_be_remembered_are_shared_later() -> None:
    """They are read from where the host remembers them, so they count once its disk has room again."""
    world = World()
    world.declare("numpy")
    world.settle()
    world.is_full = True
    world.admin.change_settings({"channel_priority": "flexible"}, None)
    world.turn()
    assert "channel_priority" not in world.hands.shared
    world.is_full = False
    world.turn()
    assert world.hands.shared == {"channel_priority": "flexible"}


def test_without_zookeeper_it_sleeps() -> None:
    """A pass that is due is not tried without end while nobody answers; it comes at once with the connection."""
    world = World()
    world.session.is_connected = False
    world.clock.now += 1000
    assert world.agent.turn() > world.clock.monotonic() + 1
    world.agent.look_soon()
    assert world.agent.turn() > world.clock.monotonic() + 1
    name = world.declare("numpy")
    world.session.is_connected = True
    world.agent.look_soon()
    world.turn(0)
    world.jobs.run()
    assert name in world.hands.builds


def test_a_look_that_nobody_answered_is_repeated_soon() -> None:
    """What a watch has told of is not left until the next full pass because one call found no answer."""
    world = World()
    world.declare("numpy")
    world.settle()
    name = world.declare("scipy")
    world.agent.look_soon()
    world.session.is_silent = True
    assert world.agent.turn() <= world.clock.monotonic() + 5
    world.session.is_silent = False
    world.turn(5.0)
    world.jobs.run()
    assert name in world.hands.builds


def test_progress_is_there_while_something_builds() -> None:
    """Phase and percentage of each build are told while it runs, in an ephemeral node, which goes with the last."""
    world = World()
    name = world.declare("numpy")
    world.turn()
    node = world.session.get(paths.progress("here"))
    assert node is not None
    assert node.ephemeral_owner == world.session.session_id
    assert [build.name for build in decode(HostProgress, node.data, "progress").builds] == [name]
    world.jobs.run()
    world.turn()
    assert world.session.get(paths.progress("here")) is None


def test_hosts_that_give_archives_are_known_before_anything_is_made() -> None:
    """They are looked for when something is missing here, and not at rest."""
    world = World()
    world.declare("numpy")
    givers.found(world.servers.session(), "there", "http://there:1")
    world.settle()
    assert world.coordinator.siblings.others == ("http://there:1",)
    world.session.reads.clear()
    world.session.glances.clear()
    world.turn()
    assert (world.session.glances, world.session.reads) == ([paths.REVISION], [])

"""The administrator's verbs: what they declare, what they refuse, and what they tell of the hosts."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from cluster_worlds import declaration, is_so, join, name_of, number_of, say
from fakes.clock import FakeClock
from fakes.tree import FakeServers, FakeTree

from envmgr import codec, spec
from envmgr.cluster import rollout
from envmgr.cluster.administration import Administration
from envmgr.cluster.declaring import check_size
from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.nodes import Node
from envmgr.errors import (
    AliasTaken,
    ClusterTreeRefused,
    CoordinatorUnavailable,
    EnvironmentNotFound,
    HostUnknown,
    InvalidSpec,
    LockfileTooLarge,
    NameCollision,
    UsageError,
)
from envmgr.names import Alias
from envmgr.wire.tree import HostProgress, Intent, Manifest, Progress, Selector, SolveFailure, decode, encode

X, Y = declaration("x"), declaration("y")
PROD = Alias("prod")


@pytest.fixture
def admin(tree: FakeTree, clock: FakeClock) -> Administration:
    return Administration(tree, by="ada", clock=clock)


def intent_of(tree: FakeTree, name: str) -> Intent:
    node = tree.get(paths.intent(name))
    assert node is not None
    return decode(Intent, node.data, name)


def publish(tree: FakeTree, name: str, generation: int, machine_class: str = "linux-64") -> None:
    """Publish a generation whose text nobody reads."""
    manifest = Manifest(
        name=name,
        machine_class=machine_class,
        generation=generation,
        digest=f"digest-{generation}",
        sha256="",
        size_bytes=0,
        parts_in="",
        parts=0,
        published_by="a",
        published_at=1.0,
        token=0,
    )
    tree.create(paths.manifest(name, machine_class, generation), encode(manifest))


def fail(tree: FakeTree, name: str, generation: int, machine_class: str = "linux-64") -> None:
    """Publish that a generation cannot be solved."""
    failure = SolveFailure(error={"code": "unsatisfiable", "message": "no"}, host="a", at=1.0)
    tree.create(paths.failure(name, machine_class, generation), encode(failure))


# -------------------------------------------------------------------------------------------------------- declaring


def test_a_declaration_holds_who_when_for_whom_and_the_spec(tree: FakeTree, admin: Administration) -> None:
    """The intent is the whole spec, under its name, with the selector and the bound."""
    declared = dataclasses.replace(declaration("x", labels={"gpu": "yes"}), alias="prod", max_parallel=3)
    told = admin.create(declared)
    assert (told.state, told.label, told.aliases, told.max_parallel) == ("present", "demo", ("prod",), 3)
    assert (told.declared_by, told.lock_generation, told.selector.labels) == ("ada", 1, {"gpu": "yes"})
    intent = intent_of(tree, told.name)
    assert intent.generation == told.generation == number_of(tree)
    assert intent.spec["canonical_text"] == declared.spec["canonical_text"]


def test_declaring_again_changes_for_whom_and_raises_the_generation_only_then(admin: Administration) -> None:
    """The same declaration changes nothing; another selector is another generation of the same environment."""
    first = admin.create(X)
    assert admin.create(X).generation == first.generation
    second = admin.create(dataclasses.replace(X, selector=Selector(hosts=("a",))))
    assert second.generation > first.generation
    assert second.selector.hosts == ("a",)
    third = admin.create(dataclasses.replace(X, selector=Selector(hosts=("a",)), max_parallel=2))
    assert (third.generation > second.generation, third.max_parallel) == (True, 2)


def test_what_was_removed_can_be_declared_again(tree: FakeTree, admin: Administration) -> None:
    """It becomes present with a higher generation, also after its intent was swept, and keeps its lockfiles."""
    say(tree, "a", revision=0)
    one = admin.create(X)
    two = admin.remove(name_of(X))
    assert two.state == "absent"
    three = admin.create(X)
    assert (three.state, three.generation > two.generation > one.generation) == ("present", True)
    say(tree, "a", revision=three.generation + 1)
    assert tree.get(paths.intent(name_of(X))) is not None
    admin.remove(name_of(X))
    assert tree.get(paths.intent(name_of(X))) is None
    assert admin.create(X).generation > three.generation


def test_a_percentage_is_of_the_hosts_that_live_and_are_meant(tree: FakeTree, admin: Administration) -> None:
    """A quarter of eight live hosts with the label is two, whoever else there is."""
    for number in range(8):
        join(tree, f"gpu{number}", gpu="yes")
        join(tree, f"cpu{number}")
    say(tree, "gpu-away", gpu="yes")
    told = admin.create(dataclasses.replace(declaration("x", labels={"gpu": "yes"}), percent_parallel=25))
    assert told.max_parallel == 2


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "0" * 64},
        {"name": "env-0000000000000000"},
        {"conda": 7},
        {"conda": [{"match_spec": "evil", "platforms": []}]},
        {"channels": ["https://elsewhere.example/evil"]},
        {"is_lockfile": True, "conda": []},
        {"source_text": "dependencies: [evil]"},
    ],
)
def test_a_damaged_spec_is_refused(tree: FakeTree, admin: Administration, change: dict[str, object]) -> None:
    """What is not the spec of its name never enters the tree, also where only what is built differs from the text."""
    with pytest.raises(InvalidSpec):
        admin.create(dataclasses.replace(X, spec={**X.spec, **change}))
    assert tree.children("/v1") == ()


def test_a_spec_that_no_node_can_hold_is_refused_before_it_is_sent(tree: FakeTree, admin: Administration) -> None:
    """The error names size and limit; one that is a lockfile has its own. So is one that no host would unpack."""
    text = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=1_600_000))
    for found, given in ((InvalidSpec, {}), (LockfileTooLarge, {"is_lockfile": True})):
        with pytest.raises(found, match="900000"):
            check_size(Intent(name="x", generation=1, state="present", spec={"source_text": text, **given}))
    document = "dependencies: [pip, pip: [" + ", ".join(f"-r {number}.txt" for number in range(20)) + "]]"
    included = spec.parse(document, read_include=lambda path: b"# " + path.encode() + b'"' * 900_000)
    with pytest.raises(InvalidSpec, match="900000"):
        admin.create(dataclasses.replace(X, spec=json.loads(codec.dump(included))))
    assert tree.children(paths.ENVS) == ()


_VERBS: dict[str, Callable[[Administration], object]] = {
    "create": lambda admin: admin.create(Y),
    "remove": lambda admin: admin.remove(name_of(X)),
    "retry": lambda admin: admin.retry(name_of(X), "a"),
    "show": lambda admin: admin.show(name_of(X)),
    "status": lambda admin: admin.status(),
    "hosts": lambda admin: admin.hosts(),
    "cordon": lambda admin: admin.cordon("a", is_cordoned=True),
    "alias": lambda admin: admin.set_alias(PROD, name_of(X)),
    "aliases": lambda admin: admin.aliases(),
    "settings": lambda admin: admin.change_settings({"channel_priority": "flexible"}),
    "heal": lambda admin: admin.heal(),
    "export": lambda admin: admin.export(),
}


@pytest.mark.parametrize("verb", _VERBS)
def test_a_host_of_a_cluster_makes_no_second_one(
    servers: FakeServers, tree: FakeTree, clock: FakeClock, admin: Administration, verb: str
) -> None:
    """Through a daemon of a cluster every verb but an import says that its tree was emptied, or is another's now."""
    admin.create(X)
    document = admin.export()
    own = Administration(tree, by="ada", clock=clock, uuid_of=lambda: document.uuid)
    servers.empty()
    with pytest.raises(ClusterTreeRefused, match="was emptied; this host belongs to"):
        _VERBS[verb](own)
    assert servers.nodes == {}
    admin.create(X)
    whole = servers.nodes
    with pytest.raises(ClusterTreeRefused, match="this host belongs to"):
        _VERBS[verb](own)
    assert servers.nodes == whole
    own.import_(document, replace=True)
    assert own.cluster().uuid == document.uuid


def test_of_a_tree_that_was_emptied_in_part_it_is_said_what_to_do(
    servers: FakeServers, tree: FakeTree, admin: Administration
) -> None:
    """To be told that `create` makes a cluster helps nobody where `create` refuses to; an import puts it right."""
    admin.create(X)
    document = admin.export()
    tree.delete(paths.CLUSTER)
    with pytest.raises(ClusterTreeRefused, match="emptied in part") as caught:
        admin.create(Y)
    assert "import" in str(caught.value.hint)
    admin.import_(document)
    assert admin.cluster().uuid == document.uuid


def test_two_specs_of_one_name_are_refused(tree: FakeTree, admin: Administration) -> None:
    """A collision of short names is no change of the spec."""
    admin.create(X)
    intent = intent_of(tree, name_of(X))
    other = dataclasses.replace(intent, spec={**intent.spec, "digest": "0" * 64})
    tree.put(paths.intent(name_of(X)), encode(other))
    with pytest.raises(NameCollision):
        admin.create(X)


# ----------------------------------------------------------------------------------------------------------- aliases


def test_an_alias_never_changes_its_target_silently(tree: FakeTree, admin: Administration) -> None:
    """Another environment gets it only with `move`; nothing of the refused declaration is written."""
    admin.create(dataclasses.replace(X, alias="prod"))
    before = number_of(tree)
    with pytest.raises(AliasTaken, match=name_of(X)):
        admin.create(dataclasses.replace(Y, alias="prod"))
    assert number_of(tree) == before
    assert tree.get(paths.intent(name_of(Y))) is None
    admin.create(Y)
    with pytest.raises(AliasTaken):
        admin.set_alias(PROD, name_of(Y))
    admin.set_alias(PROD, name_of(Y), move=True)
    assert admin.aliases() == {"prod": name_of(Y)}
    assert admin.resolve("prod") == name_of(Y)


def test_aliases_go_with_what_they_stand_for(tree: FakeTree, admin: Administration) -> None:
    """Removing an environment drops its aliases in the same write; one can be dropped alone, too."""
    admin.create(dataclasses.replace(X, alias="prod"))
    admin.create(dataclasses.replace(Y, alias="test"))
    before = number_of(tree)
    say(tree, "a")
    admin.remove(name_of(X))
    assert admin.aliases() == {"test": name_of(Y)}
    assert number_of(tree) == before + 1
    assert admin.remove_alias(Alias("test")) == name_of(Y)
    for verb in (admin.resolve, admin.remove_alias):
        with pytest.raises(EnvironmentNotFound):
            verb(Alias("test"))


def test_an_alias_needs_what_it_stands_for(tree: FakeTree, admin: Administration) -> None:
    """Nothing may be called by a name in the cluster that the cluster does not want."""
    admin.create(X)
    say(tree, "a")
    with pytest.raises(EnvironmentNotFound, match="not declared"):
        admin.set_alias(PROD, name_of(Y))
    admin.remove(name_of(X))
    with pytest.raises(EnvironmentNotFound, match="was removed"):
        admin.set_alias(PROD, name_of(X))
    for bad in ("env-0123456789abcdef", "a/b", "../x", "x.yml"):
        with pytest.raises(UsageError):
            admin.set_alias(Alias(bad), name_of(X))


# ------------------------------------------------------------------------------------------------- relock and retry


def test_relock_is_one_more_than_there_is(tree: FakeTree, admin: Administration) -> None:
    """The next generation follows the highest of all classes, failed ones, too; before any there is nothing to do."""
    admin.create(X)
    assert admin.relock(name_of(X)).lock_generation == 1
    publish(tree, name_of(X), 1)
    publish(tree, name_of(X), 2, "linux-64+cuda12")
    assert admin.relock(name_of(X)).lock_generation == 3
    assert admin.relock(name_of(X)).lock_generation == 3
    fail(tree, name_of(X), 3)
    told = admin.relock(name_of(X))
    assert told.lock_generation == 4
    found = [(info.machine_class, info.generation, info.error is None) for info in told.lockfiles]
    assert found == [("linux-64", 1, True), ("linux-64", 3, False), ("linux-64+cuda12", 2, True)]


def test_retry_forgets_failed_solves_and_asks_one_host_or_all(tree: FakeTree, admin: Administration) -> None:
    """Each asking is counted, so that a host sees one that came while it was looking away."""
    admin.create(X)
    say(tree, "a")
    publish(tree, name_of(X), 1)
    fail(tree, name_of(X), 2)
    assert all(info.error is None for info in admin.retry(name_of(X)).lockfiles)
    admin.retry(name_of(X), "a")
    admin.retry(name_of(X), "a")
    assert intent_of(tree, name_of(X)).retries == {"*": 1, "a": 2}
    with pytest.raises(HostUnknown):
        admin.retry(name_of(X), "b")
    for verb in (admin.retry, admin.relock, admin.remove, admin.show):
        with pytest.raises(EnvironmentNotFound):
            verb(name_of(Y))


# -------------------------------------------------------------------------------------------------------------- hosts


def test_a_row_for_every_host_that_is_meant(tree: FakeTree, admin: Administration) -> None:
    """Rows tell state, progress, times and reasons of each host; one that is not meant has none."""
    told = admin.create(declaration("x", labels={"zone": "1"}))
    name, now = told.name, told.generation
    error = {"code": "no_space", "message": "the disk is full", "hint": "free some"}
    for host in ("building", "fresh", "other", "ready", "failed", "late"):
        join(tree, host, zone="2" if host == "other" else "1")
    say(tree, "ready", is_so(name, "ready", now, lock_digest="d", started_at=1.0, finished_at=2.0), zone="1")
    say(tree, "failed", is_so(name, "failed", now, error=error, retry_at=9.0, attempts=2), zone="1")
    say(tree, "building", is_so(name, "building", now, started_at=3.0), zone="1")
    say(tree, "late", is_so(name, "ready", now - 1), zone="1")
    say(tree, "away", zone="1")
    say(tree, "other", zone="2")
    builds = (Progress(name=name, phase="fetch", percent=40),)
    tree.create(paths.progress("building"), encode(HostProgress(host="building", builds=builds)))
    rows = {row.host: row for row in admin.show(name).rows}
    assert list(rows) == ["away", "building", "failed", "fresh", "late", "ready"]
    assert {host: row.success for host, row in rows.items() if row.success is not None} == {
        "ready": True,
        "failed": False,
    }
    ready, failed, building = rows["ready"], rows["failed"], rows["building"]
    assert (ready.start, ready.end, ready.lock_digest, ready.message) == (1.0, 2.0, "d", None)
    assert (failed.message, failed.code, failed.hint) == ("the disk is full", "no_space", "free some")
    assert (failed.retry_at, failed.attempts) == (9.0, 2)
    assert (building.state, building.phase, building.percent) == ("building", "fetch", 40)
    assert (rows["late"].state, rows["late"].success) == ("pending", None)
    assert not rows["away"].is_live
    assert "away" in str(rows["away"].message)


def test_a_host_that_was_named_has_a_row_though_nobody_knows_it(tree: FakeTree, admin: Administration) -> None:
    """A name with a slip in it is seen, instead of being waited for without a word."""
    told = admin.create(declaration("x", hosts=("a", "tpyo")))
    join(tree, "a")
    rows = {row.host: row for row in admin.show(told.name).rows}
    assert list(rows) == ["a", "tpyo"]
    assert "no host of that name" in str(rows["tpyo"].message)
    assert not rollout.summary(admin.show(told.name)).is_done


def test_hosts_are_told_with_what_they_have_and_what_drifted(tree: FakeTree, admin: Administration) -> None:
    """A line per known host: live or not, cordoned or not, and how many environments are in which state."""
    name = admin.create(X).name
    join(tree, "a", zone="1")
    say(tree, "a", is_so(name, "ready", 1, is_drift=True), is_so(name_of(Y), "failed", 1))
    say(tree, "b")
    admin.cordon("b", is_cordoned=True)
    one, two = admin.hosts()
    assert (one.host, one.is_live, one.is_cordoned, one.ready, one.failed) == ("a", True, False, 1, 1)
    assert one.drift == (name,)
    assert one.live is not None
    assert one.live.labels == {"zone": "1"}
    assert (two.host, two.is_live, two.is_cordoned, two.live, two.seen_at) == ("b", False, True, None, 7.0)
    status = admin.status()
    assert status.hosts == (one, two)
    assert [environment.name for environment in status.environments] == [name]
    admin.cordon("b", is_cordoned=False)
    assert not any(host.is_cordoned for host in admin.hosts())


@pytest.mark.parametrize("host", ["nobody", "", "a/b", "..", "../../x"])
def test_unknown_hosts_are_refused(tree: FakeTree, admin: Administration, host: str) -> None:
    """Whoever is not known, or cannot be a host, is named; nothing is written."""
    name = admin.create(X).name
    before = number_of(tree)
    for verb in (
        lambda: admin.why(name, host),
        lambda: admin.cordon(host, is_cordoned=True),
        lambda: admin.cordon(host, is_cordoned=False),
        lambda: admin.forget(host),
        lambda: admin.retry(name, host or "/"),
    ):
        with pytest.raises(HostUnknown):
            verb()
    assert number_of(tree) == before


def test_why_says_what_is_known_of_one_host(tree: FakeTree, admin: Administration) -> None:
    """One row, of a host that is cordoned, or that has a problem as a whole."""
    name = admin.create(X).name
    say(tree, "a")
    join(tree, "a")
    admin.cordon("a", is_cordoned=True)
    row = admin.why(name, "a")
    assert (row.state, row.is_cordoned) == ("pending", True)
    assert "cordoned" in str(row.message)
    tree.put(paths.status("a"), b"rubbish")
    admin.cordon("a", is_cordoned=False)
    assert "damaged" in str(admin.why(name, "a").message)


def test_why_says_that_a_host_is_not_meant(tree: FakeTree, admin: Administration) -> None:
    """Nobody waits for a host that the declaration leaves out: the row says so."""
    name = admin.create(declaration("x", hosts=("b",))).name
    say(tree, "a")
    row = admin.why(name, "a")
    assert (row.state, row.success) == ("absent", None)
    assert str(row.message).startswith("it is not declared for this host; whether it has one of its own")


def test_one_damaged_node_hides_nobody_else(tree: FakeTree, admin: Administration) -> None:
    """A host, an intent or a lockfile that cannot be read leaves the rest to be seen, and is mended by its verb."""
    one, other = admin.create(X).name, admin.create(Y).name
    join(tree, "a")
    join(tree, "b")
    tree.put(paths.host("b"), b"rubbish")
    tree.create(paths.status("b"), b"rubbish")
    document = admin.export()
    tree.put(paths.intent(one), encode(intent_of(tree, other)))  # of another environment
    tree.create(paths.manifest(other, "linux-64", 1), b"rubbish")
    tree.create(f"{paths.generations(other, 'linux-64')}/²", b"rubbish")
    tree.create(paths.failure(other, "linux-64", 2), b"rubbish")
    whole = admin.status()
    assert [it.name for it in whole.environments] == [other]
    assert [(it.host, it.is_live, it.live is None, it.problem is None) for it in whole.hosts] == [
        ("a", True, False, True), ("b", True, True, False),
    ]  # fmt: skip
    assert [info.error is None for info in admin.show(other).lockfiles] == [True, False]
    admin.retry(other)
    assert [info.error is None for info in admin.show(other).lockfiles] == [True]
    assert admin.relock(other).lock_generation == 2
    admin.import_(document, replace=True)
    assert {it.name for it in admin.status().environments} == {one, other}


class Overloaded(FakeTree):
    """A session that gets no answer about the hosts' words; writes are done."""

    def get(self, path: str, **facts: Any) -> Node | None:
        if path.startswith(f"{paths.STATUS}/"):
            raise CoordinatorUnavailable(f"ZooKeeper does not answer about {path}")
        return super().get(path, **facts)


def test_a_change_that_is_written_is_said_to_be(servers: FakeServers, tree: FakeTree, clock: FakeClock) -> None:
    """Servers that have no time for thousands of reads did the write: who asked for it is told both."""
    say(tree, "a")
    busy = Administration(Overloaded(servers, 99), by="ada", clock=clock)
    verbs: list[Callable[[], object]] = [
        lambda: busy.create(X),
        lambda: busy.retry(name_of(X)),
        lambda: busy.remove(name_of(X)),
    ]
    for number, verb in enumerate(verbs, start=1):
        with pytest.raises(CoordinatorUnavailable, match=r"is written down, but .* not answer") as caught:
            verb()
        assert caught.value.hint == f"envmgr cluster show {name_of(X)} tells how it goes on"
        assert number_of(tree) == number
    assert Administration(tree, by="ada", clock=clock).show(name_of(X)).state == "absent"


def test_forgetting_is_for_hosts_that_are_gone(
    servers: FakeServers, tree: FakeTree, clock: FakeClock, admin: Administration
) -> None:
    """A host that lives is not forgotten; one that is gone takes its status, its cordon and what waited for it."""
    name = admin.create(X).name
    agent = servers.session()
    join(agent, "a")
    say(tree, "a", is_so(name, "ready", 1), revision=1)
    admin.cordon("a", is_cordoned=True)
    with pytest.raises(UsageError, match="lives"):
        admin.forget("a")
    admin.remove(name)
    assert tree.get(paths.intent(name)) is not None
    agent.close()
    admin.forget("a")
    assert admin.hosts() == ()
    assert tree.children(paths.CORDONS) == ()
    assert tree.children(paths.HOSTS) == ()
    assert tree.get(paths.intent(name)) is None


def test_following_reads_only_hosts_that_said_something(
    servers: FakeServers, tree: FakeTree, clock: FakeClock, admin: Administration
) -> None:
    """Who waits for a rollout reads each host once, and then those whose word is new."""
    name = admin.create(X).name
    for number in range(40):
        join(tree, f"h{number}")
        say(tree, f"h{number}")
    looker = servers.session()
    with Administration(looker, by="ada", clock=clock).watching(name) as watching:
        assert len(watching.show().rows) == 40
        looker.reads.clear()
        assert len(watching.show().rows) == 40
        assert not [path for path in looker.reads if path.startswith(paths.STATUS + "/")]
        say(tree, "h7", is_so(name, "ready", 1))
        watching.wait(0.3)
        looker.reads.clear()
        assert rollout.summary(watching.show()).ready == 1
        assert [path for path in looker.reads if path.startswith(paths.STATUS + "/")] == [paths.status("h7")]


def test_a_removal_is_followed_to_its_end(tree: FakeTree, admin: Administration) -> None:
    """Once every host has acknowledged, the intent is gone and the removal is done."""
    name = admin.create(X).name
    join(tree, "a")
    say(tree, "a", is_so(name, "ready", 1), revision=1)
    generation = admin.remove(name).generation
    with admin.watching(name) as watching:
        assert not rollout.summary(watching.show()).is_done
        say(tree, "a", is_so(name, "absent", generation), revision=generation)
        watching.wait(0.3)
        assert rollout.summary(watching.show()).is_done
        assert tree.get(paths.intent(name)) is None
        assert rollout.summary(watching.show()).is_done

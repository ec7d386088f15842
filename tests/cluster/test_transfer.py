"""The whole intent as one document: out of one tree, into another, or into the same one after it was emptied."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from cluster_worlds import declaration, is_so, name_of, number_of, say
from fakes.clock import FakeClock
from fakes.tree import FakeServers, FakeTree

from envmgr import codec, lockfile
from envmgr.cluster.administration import Administration
from envmgr.cluster.intent import Wanted
from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.lockfiles import Lockfiles
from envmgr.coordination.zookeeper.nodes import Tree
from envmgr.errors import ClusterTreeRefused, CoordinatorUnavailable, LockfileMismatch, UsageError
from envmgr.names import Alias
from envmgr.wire.cluster import Exported
from envmgr.wire.tree import FORMAT, Intent, Manifest, encode

X, Y, Z = declaration("x"), declaration("y"), declaration("z", labels={"gpu": "yes"})


@pytest.fixture
def admin(tree: FakeTree, clock: FakeClock) -> Administration:
    return Administration(tree, by="ada", clock=clock)


def publish(tree: Tree, name: str, text: str, generation: int = 1) -> None:
    """Publish a lockfile as a host does."""
    tree.create(paths.part(name, "linux-64", "solve", 0), zlib.compress(text.encode()))
    manifest = Manifest(
        name=name,
        machine_class="linux-64",
        generation=generation,
        digest=f"digest of {text}",
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        size_bytes=len(text),
        parts_in="solve",
        parts=1,
        published_by="a",
        published_at=1.0,
        token=0,
    )
    tree.create(paths.manifest(name, "linux-64", generation), encode(manifest))


def fill(tree: FakeTree, admin: Administration) -> Exported:
    """Declare something of everything, and return it as read from its JSON."""
    say(tree, "a")
    say(tree, "b")
    admin.create(dataclasses.replace(X, alias="prod"))
    admin.create(Y)
    admin.create(Z)
    admin.remove(name_of(Y))
    admin.cordon("b", is_cordoned=True)
    admin.change_settings({"channel_priority": "strict"}, {"linux-64": {"cuda": ""}})
    publish(tree, name_of(X), "text of x")
    return codec.load(Exported, json.loads(codec.dump(admin.export())))


def test_a_document_is_all_that_was_declared(tree: FakeTree, admin: Administration) -> None:
    """It holds intents, aliases, cordons, settings, classes, and the lockfiles in force with their text."""
    document = fill(tree, admin)
    assert document.uuid == admin.cluster().uuid
    assert {intent.name: intent.state for intent in document.environments} == {
        name_of(X): "present",
        name_of(Y): "absent",
        name_of(Z): "present",
    }
    assert document.aliases == {"prod": name_of(X)}
    assert document.cordons == ("b",)
    assert document.cluster.settings == {"channel_priority": "strict"}
    assert document.cluster.classes == {"linux-64": {"__cuda": ""}}
    assert document.revision == number_of(tree)
    assert [(found["name"], found["generation"], found["text"]) for found in document.lockfiles] == [
        (name_of(X), 1, "text of x")
    ]


class Watched(FakeTree):
    """A session between whose reads another administrator acts."""

    def __init__(self, servers: FakeServers, at: str, act: Callable[[], object]) -> None:
        super().__init__(servers, 99)
        self.at, self.act = at, act

    def children(self, path: str, **facts: Any) -> tuple[str, ...]:
        if path == self.at:
            self.act()
        return super().children(path, **facts)


def test_a_document_is_of_one_moment(
    servers: FakeServers, tree: FakeTree, admin: Administration, clock: FakeClock
) -> None:
    """What others declare and remove while it is read is in it as a whole or not at all; so it can be imported."""
    admin.create(dataclasses.replace(X, alias="first"))
    other = [
        lambda: admin.create(dataclasses.replace(Y, alias="second")),
        lambda: admin.set_alias(Alias("third"), name_of(X)),
    ]
    looker = Watched(servers, paths.ALIASES, lambda: other.pop()() if other else None)
    document = Administration(looker, by="ada", clock=clock).export()
    assert document.aliases == {"first": name_of(X), "second": name_of(Y), "third": name_of(X)}
    assert {intent.name for intent in document.environments} == {name_of(X), name_of(Y)}
    assert document.revision == number_of(tree)
    servers.empty()
    assert admin.import_(document).uuid == document.uuid


def test_what_changes_all_the_time_is_not_told_by_half(
    servers: FakeServers, admin: Administration, clock: FakeClock
) -> None:
    """Who never has a quiet moment is told so."""
    admin.create(X)
    looker = Watched(servers, paths.ALIASES, admin.heal)
    with pytest.raises(CoordinatorUnavailable, match="changed by others"):
        Administration(looker, by="ada", clock=clock).export()


def test_into_an_empty_tree_it_gives_the_same_cluster_back(
    servers: FakeServers, tree: FakeTree, admin: Administration
) -> None:
    """After a loss, hosts go on where they were: same uuid, same intents and generations, same lockfiles."""
    document = fill(tree, admin)
    wanted = Wanted(host="a").refresh(tree)
    servers.empty()
    with pytest.raises(ClusterTreeRefused):
        wanted.refresh(tree)
    assert admin.import_(document).uuid == document.uuid
    again = admin.export()
    for field in ("uuid", "environments", "aliases", "cordons", "lockfiles"):
        assert getattr(again, field) == getattr(document, field)
    assert (again.cluster.settings, again.cluster.classes) == (document.cluster.settings, document.cluster.classes)
    back = wanted.refresh(tree)
    assert back.may_remove
    assert back.intents == wanted.intents
    found = Lockfiles(tree, "a").in_force(name_of(X), "linux-64")
    assert found is not None
    assert found.text == "text of x"


def test_what_was_absent_is_not_swept_after_an_import(
    servers: FakeServers, tree: FakeTree, admin: Administration
) -> None:
    """Without statuses nobody knows for whom ``absent`` is still to be said: it stays, until it is said anew."""
    document = fill(tree, admin)
    servers.empty()
    admin.import_(document)
    generation = admin.show(name_of(Y)).generation
    say(tree, "c", revision=number_of(tree))
    say(tree, "b", revision=number_of(tree))
    admin.forget("b")
    assert admin.show(name_of(Y)).state == "absent"
    assert admin.remove(name_of(Y)).generation > generation
    say(tree, "c", revision=number_of(tree))
    say(tree, "d", is_so(name_of(Y), "absent", number_of(tree)))
    with admin.watching(name_of(Y)) as watching:
        watching.show()
    assert tree.get(paths.intent(name_of(Y))) is None


def test_a_tree_that_is_there_is_replaced_only_when_that_is_said(tree: FakeTree, admin: Administration) -> None:
    """Without `replace` a second import is refused, whoever's tree it is."""
    document = fill(tree, admin)
    before = number_of(tree)
    with pytest.raises(UsageError, match="has a cluster already"):
        admin.import_(document)
    assert number_of(tree) == before


def test_replacing_leaves_what_the_document_names(tree: FakeTree, admin: Administration) -> None:
    """Intents, aliases and cordons that it does not name are not declared any more; what is the same is not touched."""
    document = fill(tree, admin)
    unchanged = tree.get(paths.intent(name_of(X)))
    newer = admin.create(dataclasses.replace(declaration("w"), alias="test")).name
    later = admin.create(dataclasses.replace(Z, max_parallel=7)).generation
    admin.cordon("a", is_cordoned=True)
    wanted = Wanted(host="a").refresh(tree)
    admin.import_(document, replace=True)
    again = admin.export()
    assert again.aliases == document.aliases
    assert again.cordons == document.cordons
    assert newer not in {intent.name for intent in again.environments}
    assert tree.get(paths.intent(name_of(X))) == unchanged
    assert admin.show(name_of(Z)).max_parallel == 0
    assert admin.show(name_of(Z)).generation > later
    now = wanted.refresh(tree)
    assert now.may_remove
    assert newer not in now.intents
    assert newer not in now.absent()


def test_moving_a_cluster_moves_its_packages(clock: FakeClock, tree: FakeTree, admin: Administration) -> None:
    """Another ensemble gets the same cluster, and never another lockfile under a number that is taken."""
    document = fill(tree, admin)
    elsewhere = FakeServers().session()
    there = Administration(elsewhere, by="eve", clock=clock)
    there.create(X)
    publish(elsewhere, name_of(X), "another text of x")
    with pytest.raises(LockfileMismatch, match="generation 1"):
        there.import_(document, replace=True)
    empty = Administration(FakeServers().session(), by="eve", clock=clock)
    empty.import_(document)
    assert empty.export().lockfiles == document.lockfiles


def test_numbers_go_on_above_all_that_hosts_have_seen(
    servers: FakeServers, tree: FakeTree, admin: Administration
) -> None:
    """What was written between the export and the loss is less than the import adds."""
    document = fill(tree, admin)
    for _ in range(5):
        admin.heal()
    seen = Wanted(host="a").refresh(tree).seen
    servers.empty()
    admin.import_(document)
    assert seen is not None
    assert number_of(tree) > seen.revision
    assert Wanted(host="a", seen=seen).refresh(tree).may_remove


def test_many_environments_take_several_writes(servers: FakeServers, tree: FakeTree, admin: Administration) -> None:
    """No transaction is larger than ZooKeeper takes, however much there is."""
    document = fill(tree, admin)
    servers.empty()
    declared = [declaration(f"package{number}") for number in range(450)]
    many = tuple(
        Intent(name=name_of(one), generation=1, state="present", spec=json.loads(json.dumps(one.spec)))
        for one in declared
    )
    names = {intent.name for intent in many}
    document = dataclasses.replace(document, environments=many, aliases={}, lockfiles=())
    admin.import_(document)
    assert {intent.name for intent in admin.export().environments} == names
    assert Wanted(host="a").refresh(tree).present().keys() == names


@pytest.mark.parametrize(
    "change",
    [
        lambda it: dataclasses.replace(it, aliases={"prod": "env-0000000000000000"}),
        lambda it: dataclasses.replace(it, aliases={"../x": name_of(X)}),
        lambda it: dataclasses.replace(it, cordons=("a/b",)),
        lambda it: dataclasses.replace(
            it, environments=(dataclasses.replace(it.environments[0], name="env-0000000000000000"),)
        ),
        lambda it: dataclasses.replace(it, lockfiles=({"name": "x"},)),
        lambda it: dataclasses.replace(it, lockfiles=({**it.lockfiles[0], "name": "../../claims"},)),
        lambda it: dataclasses.replace(it, lockfiles=({**it.lockfiles[0], "machine_class": "linux-64/x"},)),
        lambda it: dataclasses.replace(it, lockfiles=({**it.lockfiles[0], "generation": -1},)),
        lambda it: dataclasses.replace(it, environments=(it.environments[0], *it.environments)),
        lambda it: dataclasses.replace(it, revision=-(10**9)),
        lambda it: dataclasses.replace(it, uuid=""),
        lambda it: dataclasses.replace(it, cluster=dataclasses.replace(it.cluster, settings={"offline": True})),
        lambda it: dataclasses.replace(it, cluster=dataclasses.replace(it.cluster, classes={"big": {"cuda": "1"}})),
    ],
)
def test_a_document_that_no_verb_could_have_made_is_refused(
    servers: FakeServers, tree: FakeTree, admin: Administration, change: object
) -> None:
    """It is looked at before anything is written."""
    document = fill(tree, admin)
    servers.empty()
    assert callable(change)
    with pytest.raises(UsageError):
        admin.import_(change(document))
    assert tree.children("/v1") == ()


def test_credentials_of_a_document_stay_outside(servers: FakeServers, tree: FakeTree, admin: Administration) -> None:
    """Neither beside a spec, nor in its text or a lockfile's, do they come into the tree."""
    document = fill(tree, admin)
    one = document.environments[0]
    text = f"{one.spec['source_text']}# http://ada:geheim@channel.invalid/x\n"
    spec = {**one.spec, "source_text": text, "password": "geheim"}
    packages = lockfile.write([], subdir="linux-64", channels=["https://channel.invalid/demo"])
    carried = {**document.lockfiles[0], "text": f"{packages}# http://ada:geheim@channel.invalid/x\n"}
    servers.empty()
    changed = dataclasses.replace(one, spec=spec)
    admin.import_(
        dataclasses.replace(document, environments=(changed, *document.environments[1:]), lockfiles=(carried,))
    )
    assert admin.export().environments[0].name == one.name
    assert "geheim" not in codec.dump(admin.export())


def test_a_document_of_a_newer_envmgr_is_refused(servers: FakeServers, tree: FakeTree, admin: Administration) -> None:
    """What this one may not understand, it does not import."""
    document = dataclasses.replace(fill(tree, admin), format=FORMAT + 1)
    servers.empty()
    with pytest.raises(ClusterTreeRefused, match="upgrade"):
        admin.import_(document)


def test_the_alias_of_an_import_is_an_alias(servers: FakeServers, tree: FakeTree, admin: Administration) -> None:
    """What was imported is used as what was declared."""
    document = fill(tree, admin)
    servers.empty()
    admin.import_(document)
    assert admin.resolve("prod") == name_of(X)
    admin.set_alias(Alias("prod"), name_of(Z), move=True)
    assert admin.aliases() == {"prod": name_of(Z)}

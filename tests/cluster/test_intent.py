"""What a host reads of the cluster's intent: only what changed, and nothing that it must not believe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from cluster_worlds import declaration, is_so, join, name_of, number_of, say
from fakes.clock import FakeClock
from fakes.tree import FakeServers, FakeTree

from envmgr.cluster import writing
from envmgr.cluster.absent import sweep_absent
from envmgr.cluster.administration import Administration
from envmgr.cluster.intent import Wanted
from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.nodes import Operation
from envmgr.errors import ClusterTreeRefused
from envmgr.names import EnvName
from envmgr.wire.tree import FORMAT, Cluster, Intent, decode, encode

X, Y = declaration("x"), declaration("y")


@pytest.fixture
def admin(tree: FakeTree, clock: FakeClock) -> Administration:
    return Administration(tree, by="ada", clock=clock)


@pytest.fixture
def host(servers: FakeServers) -> FakeTree:
    """The session of a host."""
    return servers.session()


def read_by(host: FakeTree, wanted: Wanted) -> tuple[Wanted, list[str]]:
    """Return what is wanted now, and what was read for it."""
    host.reads.clear()
    return wanted.refresh(host), list(host.reads)


def test_before_there_is_a_cluster_nothing_is_wanted(host: FakeTree) -> None:
    """A host whose tree was not made yet waits: it is not told that anything is absent."""
    wanted = Wanted(host="a").refresh(host)
    assert wanted.cluster is None
    assert not wanted.may_remove
    assert wanted.present() == {}


def test_nothing_new_costs_one_read(host: FakeTree, admin: Administration) -> None:
    """A host at rest looks whether the revision was written, and reads nothing, however many environments there are."""
    admin.create(X)
    admin.create(Y)
    wanted = Wanted(host="a").refresh(host)
    assert wanted.present().keys() == {name_of(X), name_of(Y)}
    host.glances.clear()
    again, reads = read_by(host, wanted)
    assert again is wanted
    assert (host.glances, reads) == ([paths.REVISION], [])


def test_a_change_costs_one_more_read(host: FakeTree, admin: Administration) -> None:
    """Of what changed since, each node is read once; the others are not."""
    admin.create(X)
    wanted = Wanted(host="a").refresh(host)
    admin.create(Y)
    wanted, reads = read_by(host, wanted)
    assert reads == [paths.REVISION, paths.intent(name_of(Y))]
    assert wanted.present().keys() == {name_of(X), name_of(Y)}


def test_aliases_cordons_and_settings_are_read_as_they_change(
    host: FakeTree, tree: FakeTree, admin: Administration
) -> None:
    """Whatever is no environment comes the same way; another host's cordon is not this one's."""
    admin.create(X)
    say(tree, "a")
    say(tree, "b")
    wanted = Wanted(host="a").refresh(host)
    admin.set_alias("prod", name_of(X))
    admin.cordon("b", is_cordoned=True)
    wanted = wanted.refresh(host)
    assert wanted.aliases == {"prod": name_of(X)}
    assert not wanted.is_cordoned
    admin.cordon("a", is_cordoned=True)
    admin.heal()
    wanted = wanted.refresh(host)
    assert wanted.is_cordoned
    assert wanted.cluster is not None
    assert wanted.cluster.heal == 1
    admin.remove_alias("prod")
    admin.cordon("a", is_cordoned=False)
    wanted = wanted.refresh(host)
    assert (wanted.aliases, wanted.is_cordoned) == ({}, False)


def test_a_host_that_is_far_behind_reads_all(host: FakeTree, tree: FakeTree, admin: Administration) -> None:
    """Where the kept changes do not reach back to what a host has read, everything is read again."""
    admin.create(X)
    say(tree, "a")
    wanted = Wanted(host="a").refresh(host)
    for _ in range(writing.KEPT_CHANGES // 2 + 1):
        admin.cordon("a", is_cordoned=True)
        admin.cordon("a", is_cordoned=False)
    admin.remove(name_of(X))
    admin.create(Y)
    assert number_of(tree) > writing.KEPT_CHANGES
    wanted, reads = read_by(host, wanted)
    assert paths.ENVS in reads
    assert wanted.present().keys() == {name_of(Y)}
    assert wanted.absent().keys() == {name_of(X)}


def test_the_selector_decides(host: FakeTree, admin: Administration) -> None:
    """A host wants what is meant for its name or its labels; what is absent, it is told in any case."""
    admin.create(declaration("x", hosts=("b",)))
    admin.create(declaration("y", labels={"gpu": "yes"}))
    assert Wanted(host="a").refresh(host).present() == {}
    assert Wanted(host="b").refresh(host).present().keys() == {name_of(X)}
    assert Wanted(host="c", labels={"gpu": "yes", "zone": "1"}).refresh(host).present().keys() == {name_of(Y)}


def test_an_emptied_tree_and_another_clusters_are_refused(
    servers: FakeServers, host: FakeTree, tree: FakeTree, clock: FakeClock, admin: Administration
) -> None:
    """A host that knows its cluster believes no tree without it: nothing is wanted, and nothing is absent."""
    admin.create(X)
    wanted = Wanted(host="a").refresh(host)
    whole = servers.nodes
    servers.empty()
    with pytest.raises(ClusterTreeRefused, match="emptied") as caught:
        wanted.refresh(host)
    assert caught.value.fields["reason"] == "emptied"
    assert "import" in str(caught.value.hint)
    Administration(tree, by="eve", clock=clock).create(Y)
    for known in (wanted, Wanted(host="a", seen=wanted.seen)):
        with pytest.raises(ClusterTreeRefused) as caught:
            known.refresh(host)
        assert caught.value.fields["reason"] == "other"
    servers.nodes = whole
    assert wanted.refresh(host) is wanted


def test_a_tree_of_a_newer_envmgr_is_refused(host: FakeTree, tree: FakeTree, admin: Administration) -> None:
    """A host reads nothing that it may not understand; nor does it write."""
    admin.create(X)
    wanted = Wanted(host="a").refresh(host)
    node = tree.get(paths.CLUSTER)
    assert node is not None
    newer = dataclasses.replace(decode(Cluster, node.data, ""), format=FORMAT + 1)
    tree.put(paths.CLUSTER, encode(newer))
    with pytest.raises(ClusterTreeRefused, match="upgrade"):
        Wanted(host="b", seen=wanted.seen).refresh(host)
    with pytest.raises(ClusterTreeRefused, match="upgrade"):
        admin.create(Y)


def restored(servers: FakeServers, admin: Administration, host: FakeTree) -> Wanted:
    """Return what a host has read of a tree that is put back to an older state afterwards."""
    admin.create(X)
    admin.remove(name_of(X))
    old = servers.nodes
    admin.create(X)
    admin.create(Y)
    wanted = Wanted(host="a").refresh(host)
    servers.nodes = old
    return wanted


@pytest.mark.parametrize("is_new_process", [False, True])
def test_in_a_restored_old_tree_nothing_is_removed(
    servers: FakeServers, host: FakeTree, tree: FakeTree, admin: Administration, *, is_new_process: bool
) -> None:
    """A tree that went back may say ``absent`` of what was declared since: it is not obeyed, and said so."""
    say(tree, "a")
    wanted = restored(servers, admin, host)
    if is_new_process:
        wanted = Wanted(host="a", seen=wanted.seen)
    wanted = wanted.refresh(host)
    assert wanted.absent().keys() == {name_of(X)}
    assert not wanted.may_remove
    assert "restored" in str(wanted.problem)
    assert wanted.refresh(host) is wanted


def test_a_restored_tree_is_known_for_one_after_it_has_caught_up_in_numbers(
    servers: FakeServers, host: FakeTree, tree: FakeTree, admin: Administration
) -> None:
    """Writes after the restore lead past the number that a host has seen; that does not make the tree right again."""
    say(tree, "a")
    seen = restored(servers, admin, host).seen
    assert seen is not None
    while number_of(tree) <= seen.revision:
        admin.heal()
    late = Wanted(host="a", seen=seen).refresh(host)
    assert not late.may_remove
    for _ in range(writing.KEPT_CHANGES + 1):
        admin.heal()
    late = late.refresh(host)
    assert not late.may_remove
    assert not Wanted(host="a", seen=late.seen).refresh(host).may_remove


def test_an_import_says_that_the_tree_is_wanted_as_it_is(
    servers: FakeServers, host: FakeTree, tree: FakeTree, admin: Administration
) -> None:
    """After a restore, an administrator who imports what he exported has his word obeyed again."""
    say(tree, "a")
    wanted = restored(servers, admin, host).refresh(host)
    assert not wanted.may_remove
    admin.import_(admin.export(), replace=True)
    for known in (wanted, Wanted(host="a", seen=wanted.seen)):
        obeyed = known.refresh(host)
        assert obeyed.may_remove
        assert obeyed.problem is None
        assert obeyed.absent().keys() == {name_of(X)}


def test_a_server_that_is_behind_is_no_restored_tree(
    servers: FakeServers, tree: FakeTree, admin: Administration
) -> None:
    """A new session may read from a server that lags: the host asks for the newest before it concludes anything."""
    slow = servers.session()
    slow.lag()
    admin.create(X)
    wanted = Wanted(host="a").refresh(tree)
    again = Wanted(host="a", seen=wanted.seen).refresh(slow)
    assert again.may_remove
    assert again.present().keys() == {name_of(X)}
    slow.lag()
    admin.create(Y)
    newest = wanted.refresh(tree)
    assert dataclasses.replace(newest, cluster=None).refresh(slow).may_remove


def test_a_damaged_intent_holds_up_no_other(host: FakeTree, tree: FakeTree, admin: Administration) -> None:
    """What was known of an environment stays while its node cannot be read; the others are read, and it is said."""
    admin.create(X)
    admin.create(Y)
    wanted = Wanted(host="a").refresh(host)
    tree.put(paths.intent(name_of(X)), b"rubbish")
    afresh = dataclasses.replace(wanted, cluster=None).refresh(host)
    assert afresh.present().keys() == {name_of(X), name_of(Y)}
    assert "damaged" in str(afresh.problem)
    assert Wanted(host="b").refresh(host).present().keys() == {name_of(Y)}


def test_an_intent_that_names_another_environment_is_damaged(
    host: FakeTree, tree: FakeTree, admin: Administration
) -> None:
    """Nothing that stands at one name can have another one removed."""
    admin.create(X)
    admin.create(Y)
    wanted = Wanted(host="a").refresh(host)
    for name in (str(name_of(Y)), "../../../etc"):
        other = dataclasses.replace(wanted.intents[name_of(X)], state="absent", name=name)
        tree.put(paths.intent(name_of(X)), encode(other))
        afresh = Wanted(host="a").refresh(host)
        assert afresh.absent() == {}
        assert afresh.present().keys() == {name_of(Y)}
        assert "another environment" in str(afresh.problem)


def test_absent_goes_when_all_known_hosts_have_acknowledged(
    host: FakeTree, tree: FakeTree, clock: FakeClock, admin: Administration
) -> None:
    """The intent stays for the host that was away, and goes with the last word; who never had it, only has to know."""
    join(tree, "a")
    generation = admin.create(X).generation
    say(tree, "a", is_so(name_of(X), "ready", generation), revision=generation)
    say(tree, "b", is_so(name_of(X), "ready", generation), revision=generation)
    say(tree, "c", revision=generation)
    generation = admin.remove(name_of(X)).generation
    wanted = Wanted(host="a").refresh(host)
    for known, words in (("a", [is_so(name_of(X), "absent", generation)]), ("c", []), ("b", [])):
        assert sweep_absent(tree, clock, wanted.absent()) == ()
        say(tree, known, *words, revision=generation)
    assert sweep_absent(tree, clock, wanted.absent()) == (name_of(X),)
    assert wanted.refresh(host).intents == {}


def test_many_that_gathered_go_in_several_writes(
    host: FakeTree, tree: FakeTree, clock: FakeClock, admin: Administration
) -> None:
    """One transaction has its limit of bytes: what gathered while a host was away goes all the same."""
    admin.create(X)
    generation = admin.remove(name_of(X)).generation
    join(tree, "a")
    say(tree, "a", revision=generation)
    intent = Intent(name="", generation=generation, state="absent", spec={})
    names = [EnvName(f"env-{number:016x}") for number in range(writing.MOST_NODES + 5)]
    for name in names:
        tree.create(paths.intent(name), encode(dataclasses.replace(intent, name=name)))
    sizes: list[int] = []
    write = host.write

    def counted(operations: Sequence[Operation], **facts: float) -> None:
        sizes.append(len(operations) - 1)
        write(operations, **facts)

    host.write = counted  # type: ignore[method-assign]  # looks on
    assert sweep_absent(host, clock, names) == tuple(names)
    assert sizes == [writing.MOST_NODES, 5]
    assert tree.children(paths.ENVS) == ()

"""Writes of intent by compare-and-set with the revision: none is lost, none is done twice."""

from __future__ import annotations

import pytest
from cluster_worlds import declaration, name_of, number_of, say
from fakes.clock import FakeClock
from fakes.tree import FakeServers, FakeTree

from envmgr.cluster import writing
from envmgr.cluster.administration import Administration
from envmgr.cluster.writing import Draft, write
from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.nodes import Tree
from envmgr.errors import ClusterTreeRefused, CoordinatorUnavailable, Corrupt
from envmgr.wire.tree import Revision, decode

X, Y = declaration("x"), declaration("y")


@pytest.fixture
def admin(tree: FakeTree, clock: FakeClock) -> Administration:
    return Administration(tree, by="ada", clock=clock)


def revision_of(tree: Tree) -> Revision:
    node = tree.get(paths.REVISION)
    assert node is not None
    return decode(Revision, node.data, paths.REVISION)


def test_each_write_is_one_revision_with_what_it_changed(tree: FakeTree, admin: Administration) -> None:
    """Revisions are numbered without a gap, and each names what it wrote."""
    admin.create(X)
    admin.create(Y)
    admin.set_alias("prod", name_of(X))
    revision = revision_of(tree)
    assert [(change.revision, change.what) for change in revision.changes] == [
        (1, (name_of(X),)),
        (2, (name_of(Y),)),
        (3, ("aliases/prod",)),
    ]
    assert len({change.token for change in revision.changes}) == 3
    assert revision.cluster == admin.cluster().uuid


def test_only_so_many_changes_are_kept(tree: FakeTree, admin: Administration) -> None:
    """The node of the revision does not grow for ever."""
    admin.create(X)
    for _ in range(writing.KEPT_CHANGES):
        admin.heal()
    changes = revision_of(tree).changes
    assert len(changes) == writing.KEPT_CHANGES
    assert changes[-1].revision == writing.KEPT_CHANGES + 1


@pytest.mark.parametrize("loss", ["answer", "request"])
def test_a_write_whose_answer_was_lost_is_done_once(tree: FakeTree, admin: Administration, loss: str) -> None:
    """Whether the request or its answer was lost, the change is made, once, and the verb says so."""
    admin.create(X)
    tree.lose_next = "answer" if loss == "answer" else "request"
    admin.heal()
    assert admin.cluster().heal == 1
    assert number_of(tree) == 2


def test_who_lost_the_race_reads_again(servers: FakeServers, clock: FakeClock, admin: Administration) -> None:
    """A plan made on what is old is not carried out, but made anew on what is there now."""
    admin.create(X)
    slow = servers.session()
    slow.interlude = admin.heal
    Administration(slow, by="eve", clock=clock).heal()
    assert admin.cluster().heal == 2


def test_what_is_so_already_is_so_now(servers: FakeServers, clock: FakeClock, admin: Administration) -> None:
    """An administrator whose server lags is not told that an environment was removed which is there again."""
    admin.create(X)
    say(servers.session(), "a")
    admin.remove(name_of(X))
    slow = servers.session()
    slow.lag()
    admin.create(X)
    assert Administration(slow, by="eve", clock=clock).remove(name_of(X)).state == "absent"
    assert admin.show(name_of(X)).state == "absent"


def test_who_always_loses_is_told(tree: FakeTree, clock: FakeClock, admin: Administration) -> None:
    """Tries are bounded; then nothing was changed, and it is said so."""
    admin.create(X)
    asked = []

    def plan(number: int) -> Draft[None]:
        asked.append(number)
        node = tree.get(paths.REVISION)
        assert node is not None
        tree.put(paths.REVISION, node.data)
        draft: Draft[None] = Draft(None)
        draft.put("/v1/cordons/a", b"", None, "cordons/a")
        return draft

    with pytest.raises(CoordinatorUnavailable, match="nothing was changed"):
        write(tree, plan, clock)
    assert len(asked) > 10
    assert tree.get("/v1/cordons/a") is None


def test_without_a_change_nothing_is_written(tree: FakeTree, admin: Administration) -> None:
    """Verbs that find all as it should be leave the tree alone, and wake no host."""
    admin.create(X)
    say(tree, "a")
    admin.cordon("a", is_cordoned=True)
    admin.set_alias("prod", name_of(X))
    admin.create(Y)
    admin.remove(name_of(Y))
    before = number_of(tree)
    admin.create(X)
    admin.cordon("a", is_cordoned=True)
    admin.set_alias("prod", name_of(X))
    admin.remove(name_of(Y))
    admin.change_settings({})
    admin.relock(name_of(X))
    assert number_of(tree) == before


def test_without_a_cluster_only_a_declaration_makes_one(tree: FakeTree, admin: Administration) -> None:
    """Every other verb says that there is none, and leaves the tree empty."""
    for verb in (admin.status, admin.hosts, admin.heal, admin.export, admin.cluster, lambda: admin.show(name_of(X))):
        with pytest.raises(ClusterTreeRefused, match="no cluster"):
            verb()
    assert tree.children("/v1") == ()
    admin.create(X)
    assert admin.status().uuid == admin.cluster().uuid


def test_a_tree_without_its_revision_is_written_by_nobody(tree: FakeTree, admin: Administration) -> None:
    """Numbers that began anew would be taken for those of an old tree by every host."""
    admin.create(X)
    tree.delete(paths.REVISION)
    with pytest.raises(Corrupt, match="revision"):
        admin.create(Y)
    assert tree.children(paths.ENVS) == (name_of(X),)

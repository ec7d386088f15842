"""Whose tree it is, with a real ZooKeeper: made once, and refused when it is not this host's cluster."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from envmgr.coordination.zookeeper import tree
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session
from envmgr.errors import ClusterTreeRefused, Corrupt
from envmgr.wire.tree import FORMAT, Cluster, Revision, decode, encode


def data(session: Session, path: str) -> bytes:
    node = session.get(path)
    assert node is not None
    return node.data


def test_a_tree_is_made_once_however_many_ask(session: Session, endpoint: Endpoint) -> None:
    """Two sessions and many threads: one uuid, one revision that names it, also below a root of several nodes."""
    deep = Session(replace(endpoint, root=f"{endpoint.root}/site/cluster"))
    deep.start()
    found: list[str] = []
    for one in (session, deep):
        threads = [threading.Thread(target=lambda one=one: found.append(tree.found(one).uuid)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert decode(Revision, data(one, tree.REVISION), "") == Revision(number=0, cluster=tree.found(one).uuid)
    deep.close()
    assert len(found) == 12
    assert len(set(found)) == 2


def test_no_tree_is_told_from_an_emptied_one(session: Session) -> None:
    """A host that never joined finds nothing; one that knew a cluster finds that it is gone. Neither makes one."""
    with pytest.raises(ClusterTreeRefused) as missing:
        tree.check(session, None)
    assert missing.value.fields["reason"] == "missing"
    with pytest.raises(ClusterTreeRefused) as unmade:
        tree.found(session, may_create=False)
    assert unmade.value.fields["reason"] == "missing"
    with pytest.raises(ClusterTreeRefused) as emptied:
        tree.check(session, "0123")
    assert (emptied.value.fields["reason"], emptied.value.fields["expected"]) == ("emptied", "0123")
    assert "restore" in str(emptied.value.hint)
    assert session.get(tree.CLUSTER) is None


def test_a_tree_that_was_half_emptied_is_not_made_anew(session: Session) -> None:
    """Its cluster's node is gone, its revision stands: nobody makes another cluster over what is left."""
    uuid = tree.found(session).uuid
    session.delete(tree.CLUSTER)
    with pytest.raises(ClusterTreeRefused):
        tree.found(session)
    with pytest.raises(ClusterTreeRefused, match="emptied"):
        tree.check(session, uuid)


def test_another_clusters_tree_is_refused(session: Session) -> None:
    """A host that belongs to one cluster does nothing in the tree of another."""
    found = tree.found(session)
    assert tree.check(session, found.uuid) == found
    with pytest.raises(ClusterTreeRefused) as other:
        tree.check(session, "0123")
    assert (other.value.fields["reason"], other.value.fields["found"]) == ("other", found.uuid)


def test_a_newer_tree_is_refused_and_an_older_reader_skips_what_it_does_not_know(session: Session) -> None:
    """A higher format is for a newer envmgr; unknown keys alone are not."""
    found = tree.found(session)
    session.put(tree.CLUSTER, encode(replace(found, format=FORMAT + 1, envmgr_version="99")))
    for look in (
        lambda: tree.check(session, found.uuid),
        lambda: tree.check(session, None),
        lambda: tree.found(session),
    ):
        with pytest.raises(ClusterTreeRefused, match="99") as newer:
            look()
        assert newer.value.fields["reason"] == "newer"
        assert newer.value.hint == "upgrade envmgr on this host"


def test_a_damaged_cluster_node_is_named(session: Session) -> None:
    """Bytes that are no record are said to be damaged, with the node's path."""
    tree.found(session)
    session.put(tree.CLUSTER, b"rubbish")
    with pytest.raises(Corrupt, match=tree.CLUSTER):
        tree.check(session, None)


def test_where_everything_stands() -> None:
    """The paths are part of the tree's format."""
    assert tree.manifest("env-0", "linux-64", 7) == "/v1/lockfiles/env-0/linux-64/0000000007"
    assert tree.failure("env-0", "linux-64", 7) == "/v1/lockfiles/env-0/linux-64/0000000007-failed"
    assert tree.part("env-0", "linux-64", "ab", 3) == "/v1/lockfiles/env-0/linux-64/parts-ab/3"
    assert tree.build_claim("s", "env-0") == "/v1/claims/build/s/env-0"
    assert tree.solve_claim("env-0", "linux-64") == "/v1/claims/solve/env-0/linux-64"
    assert tree.rollout_claim("env-0") == "/v1/claims/rollout/env-0"
    assert [tree.intent("e"), tree.alias("a"), tree.cordon("h")] == ["/v1/envs/e", "/v1/aliases/a", "/v1/cordons/h"]
    assert [tree.host("h"), tree.status("h"), tree.progress("h")] == ["/v1/hosts/h", "/v1/status/h", "/v1/progress/h"]
    assert Cluster(uuid="u").format == FORMAT

"""What the cluster's code relies on: the same of the fake and of a session with a real server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from fakes.tree import FakeServers

from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.nodes import (
    BadVersion,
    Check,
    Create,
    Delete,
    NodeExists,
    NoNode,
    NotEmpty,
    Put,
    Tree,
)
from envmgr.coordination.zookeeper.session import Session
from envmgr.errors import LockfileTooLarge
from envmgr.wire.tree import LARGEST_NODE_BYTES

Opening = Callable[[], Tree]


@pytest.fixture(params=["fake", pytest.param("zookeeper", marks=pytest.mark.slow)])
def opening(request: pytest.FixtureRequest) -> Iterator[Opening]:
    """Open another session on the same tree."""
    if request.param == "fake":
        yield FakeServers().session
        return
    endpoint: Endpoint = request.getfixturevalue("endpoint")
    sessions: list[Session] = []

    def begin() -> Session:
        sessions.append(Session(endpoint))
        sessions[-1].start()
        return sessions[-1]

    yield begin
    for session in sessions:
        session.close()


@pytest.fixture
def one(opening: Opening) -> Tree:
    return opening()


def test_a_node_has_a_version_and_times_in_the_order_of_writes(one: Tree) -> None:
    """Each write of a node raises its version and `mzxid`; `czxid` stays, and rises from node to node."""
    made = one.create("/v1/a", b"1")
    assert (made.data, made.version, made.ephemeral_owner) == (b"1", 0, 0)
    put = one.put("/v1/a", b"2", version=0)
    assert (put.data, put.version, put.czxid) == (b"2", 1, made.czxid)
    assert put.mzxid > made.mzxid
    assert one.get("/v1/a") == put
    assert one.create("/v1/b").czxid > put.mzxid


def test_what_is_not_there_is_none_and_has_no_children(one: Tree) -> None:
    """Reading what is missing is no error; changing it is."""
    assert one.get("/v1/missing") is None
    assert one.children("/v1/missing") == ()
    for change in (lambda: one.put("/v1/missing", b""), lambda: one.delete("/v1/missing")):
        with pytest.raises(NoNode):
            change()


def test_creating_makes_parents_and_never_replaces(one: Tree) -> None:
    """`create` makes what is missing above; what is there already is not touched."""
    one.create("/v1/a/b/c", b"x")
    assert one.children("/v1/a") == ("b",)
    with pytest.raises(NodeExists):
        one.create("/v1/a/b/c", b"y")
    assert one.children("/v1/a/b") == ("c",)
    with pytest.raises(NotEmpty):
        one.delete("/v1/a/b")


def test_children_are_sorted_names(one: Tree) -> None:
    """Children come sorted, and only the direct ones; their parent knows how many there are."""
    for name in ("b", "a", "c/d"):
        one.create(f"/v1/top/{name}")
    assert one.children("/v1/top") == ("a", "b", "c")
    parent = one.get("/v1/top")
    assert parent is not None
    assert parent.children == 3


def test_another_version_is_refused(one: Tree) -> None:
    """Who writes or deletes with an old version learns that somebody was faster."""
    one.create("/v1/a", b"1")
    one.put("/v1/a", b"2")
    with pytest.raises(BadVersion):
        one.put("/v1/a", b"3", version=0)
    with pytest.raises(BadVersion):
        one.delete("/v1/a", version=0)
    node = one.get("/v1/a")
    assert node is not None
    assert node.data == b"2"


def test_a_transaction_is_all_or_nothing_and_names_the_culprit(one: Tree) -> None:
    """One operation that fails undoes all, and its place is told."""
    one.create("/v1/a", b"1")
    for operations, error, index in (
        ([Put("/v1/a", b"2"), Create("/v1/b"), Put("/v1/c", b"")], NoNode, 2),
        ([Put("/v1/a", b"2", 7), Create("/v1/b")], BadVersion, 0),
        ([Create("/v1/b"), Create("/v1/a")], NodeExists, 1),
        ([Create("/v1/b"), Check("/v1/a", 3)], BadVersion, 1),
        ([Create("/v1/b"), Create("/v1/none/c")], NoNode, 1),
    ):
        with pytest.raises(error) as caught:
            one.write(operations)
        assert caught.value.index == index
        assert one.children("/v1") == ("a",)
    one.write([Check("/v1/a", 0), Put("/v1/a", b"2", 0), Create("/v1/b"), Delete("/v1/b")])
    assert one.children("/v1") == ("a",)


def test_one_session_sees_what_another_wrote_after_a_sync(opening: Opening) -> None:
    """After `sync` a session sees all that was written before."""
    one, other = opening(), opening()
    one.create("/v1/a", b"1")
    other.sync()
    assert other.children("/v1") == ("a",)


def test_an_ephemeral_node_has_an_owner(opening: Opening) -> None:
    """A node that goes with its session says whose it is."""
    one, other = opening(), opening()
    owners = {one.create("/v1/a", is_ephemeral=True).ephemeral_owner}
    owners.add(other.create("/v1/b", is_ephemeral=True).ephemeral_owner)
    assert len(owners) == 2
    assert 0 not in owners


@pytest.mark.parametrize("is_there", [True, False])
def test_a_watch_is_called_once_after_the_next_change(opening: Opening, is_there: bool) -> None:
    """Whoever reads with a watch is called when the node is made, changed or deleted by anybody."""
    one, other = opening(), opening()
    if is_there:
        one.create("/v1/a", b"1")
    rung = threading.Event()
    one.get("/v1/a", watch=rung.set)
    if is_there:
        other.put("/v1/a", b"2")
    else:
        other.create("/v1/a")
    assert rung.wait(5)


def test_a_watch_on_children_tells_of_those_that_come_and_go(opening: Opening) -> None:
    """A list read with a watch rings when a child is made or deleted."""
    one, other = opening(), opening()
    one.create("/v1/top")
    for change in (lambda: other.create("/v1/top/a"), lambda: other.delete("/v1/top/a")):
        rung = threading.Event()
        one.children("/v1/top", watch=rung.set)
        change()
        assert rung.wait(5)


def test_what_is_too_large_is_refused_before_it_is_sent(one: Tree) -> None:
    """More than a node may hold is an error that says so, and costs nobody the connection."""
    one.create("/v1/a", b"x" * LARGEST_NODE_BYTES)
    with pytest.raises(LockfileTooLarge):
        one.create("/v1/b", b"x" * (LARGEST_NODE_BYTES + 1))
    with pytest.raises(LockfileTooLarge):
        one.write([Put("/v1/a", b"x" * (LARGEST_NODE_BYTES - 1)), Create("/v1/b", b"xx")])
    assert one.children("/v1") == ("a",)

"""A manifest leads to parts that are all there, whoever publishes beside it and whatever was not heard of."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from fakes.tree import FakeServers, FakeTree
from fakes.worlds import name_of

from envmgr import lockfile
from envmgr.coordination.zookeeper import tree
from envmgr.coordination.zookeeper.holding import Claim
from envmgr.coordination.zookeeper.lockfiles import Lockfiles
from envmgr.coordination.zookeeper.nodes import Operation
from envmgr.errors import ClaimLost, CoordinatorUnavailable

NAME = name_of("x")
CLASS = "linux-64"
TEXT = lockfile.write([], subdir=CLASS, channels=["https://channel.invalid/demo"])
CLAIM = tree.solve_claim(NAME, CLASS)


class Certain:
    """A session that has noticed nothing."""

    def is_certain(self, _epoch: int) -> bool:
        return True


class Stepped(FakeTree):
    """A session to which something happens at the transaction that makes a manifest."""

    def __init__(self, servers: FakeServers, happens: Callable[[Stepped, Callable[[], None]], None]) -> None:
        super().__init__(servers, servers.session()._session)
        self._happens: Callable[[Stepped, Callable[[], None]], None] | None = happens
        self.is_silent = False

    def write(self, operations: Sequence[Operation], *, timeout_s: float = 5.0) -> None:
        def commit() -> None:
            super(Stepped, self).write(operations, timeout_s=timeout_s)

        happens = self._happens
        if happens is not None and any(operation.path == tree.manifest(NAME, CLASS, 1) for operation in operations):
            self._happens = None
            happens(self, commit)
        else:
            commit()

    def sync(self, path: str = "/", *, timeout_s: float = 5.0) -> None:
        if self.is_silent:
            self.is_silent = False
            raise CoordinatorUnavailable("it does not answer")
        super().sync(path, timeout_s=timeout_s)


def claimed(session: FakeTree, name: str) -> Claim:
    node = session.create(f"{CLAIM}/{name}", is_ephemeral=True)
    return Claim(Certain(), f"{CLAIM}/{name}", 1, node.czxid)


def test_one_that_lost_the_claim_takes_nothing_of_who_has_it_now() -> None:
    """It stood still before it looked for what dead solvers left, and finds what the present one has just written."""
    servers = FakeServers()
    early = servers.session()
    lost = claimed(early, "early")

    def awake(_session: FakeTree, commit: Callable[[], None]) -> None:
        with pytest.raises(ClaimLost):
            Lockfiles(early, "early").publish(NAME, CLASS, 1, TEXT, lost)
        commit()

    present = Stepped(servers, awake)
    early.delete(lost.node)
    made = Lockfiles(present, "present").publish(NAME, CLASS, 1, TEXT, claimed(present, "present"))
    assert Lockfiles(servers.session(), "third").newest(NAME, CLASS) == made


def test_what_was_published_unheard_is_not_taken_for_a_leftover() -> None:
    """The manifest is there, its answer was lost, and the server that is asked now does not know of it yet."""
    servers = FakeServers()

    def unheard(session: Stepped, commit: Callable[[], None]) -> None:
        session.lose_next, session.is_silent = "answer", True
        commit()

    session = Stepped(servers, unheard)
    files, claim = Lockfiles(session, "one"), claimed(session, "one")
    with pytest.raises(CoordinatorUnavailable):
        files.publish(NAME, CLASS, 1, TEXT, claim)
    made = files.publish(NAME, CLASS, 1, f"{TEXT}# again\n", claim)
    assert made.text == TEXT
    assert Lockfiles(servers.session(), "two").newest(NAME, CLASS) == made
    assert len(servers.session().children(tree.generations(NAME, CLASS))) == 2


def test_leftovers_go_while_the_claim_is_held() -> None:
    """Each with all its parts at once; what a manifest leads to stays."""
    servers = FakeServers()
    session = servers.session()
    files, claim = Lockfiles(session, "one"), claimed(session, "one")
    first = files.publish(NAME, CLASS, 1, TEXT, claim)
    for number in range(3):
        session.create(tree.part(NAME, CLASS, "dead", number), b"left")
    files.publish(NAME, CLASS, 2, TEXT, claim)
    assert session.get(tree.parts(NAME, CLASS, "dead")) is None
    manifest = files._manifest(NAME, CLASS, 1, 5.0)
    assert manifest is not None
    assert files.read(manifest) == first

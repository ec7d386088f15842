"""Claims of which an answer was lost at a second blow: nothing stays behind, and nobody waits for what is his own."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from coordination.polling import until
from kazoo.client import KazooClient
from link_proxy import LinkProxy
from zookeeper_servers import Servers

from envmgr.coordination.zookeeper import tree
from envmgr.coordination.zookeeper.claims import Claims
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session
from envmgr.errors import TimedOut

pytestmark = pytest.mark.slow  # a real ZooKeeper
PATH = tree.solve_claim("env-0123456789abcdef", "linux-64")
GATES = f"{tree.CLAIMS}/gates"


@pytest.fixture
def link(zookeeper: Servers) -> Iterator[LinkProxy]:
    with LinkProxy(zookeeper.addresses[0]) as link:
        yield link


@pytest.fixture
def behind(endpoint: Endpoint, link: LinkProxy) -> Iterator[Session]:
    """A session behind the link."""
    session = Session(replace(endpoint, servers=(link.address,), session_s=20.0))
    session.start()
    yield session
    link.mend()
    session.close()


def queue(session: Session) -> tuple[str, ...]:
    session.sync()
    return session.children(PATH)


class Deadline:
    """A caller who wants to hear soon what becomes of it, and gives up when the test says so."""

    def __init__(self) -> None:
        self.is_over = threading.Event()
        self.looks = 0

    def check(self) -> None:
        self.looks += 1
        if self.is_over.is_set():
            raise TimedOut("over")

    def remaining_s(self) -> float | None:
        return 0.3


def test_who_enters_again_in_a_new_session_unheard_leaves_no_ghost(
    session: Session, behind: Session, link: LinkProxy, endpoint: Endpoint
) -> None:
    """A waiter's session ends while nobody answers, it enters again, the answer is lost, and it gives up: both go."""
    told: list[str] = []
    deadline = Deadline()

    def wait() -> None:
        claims = Claims(behind, "behind")
        with (
            contextlib.suppress(TimedOut),
            claims.acquire(PATH, deadline=deadline, on_wait=told.append, what="to be lost"),
        ):
            pytest.fail("it was held")

    with Claims(session, "outside").acquire(PATH, timeout_s=5) as held:
        waiter = threading.Thread(target=wait)
        waiter.start()
        until(lambda: told)
        holder = held.node.rpartition("/")[2]
        client = behind._client
        assert client is not None
        thief = KazooClient(",".join(endpoint.servers), client_id=client.client_id)
        link.cut()
        thief.start()
        thief.stop()
        thief.close()
        until(lambda: queue(session) == (holder,))
        looks = deadline.looks
        until(lambda: deadline.looks > looks + 4)  # it has asked once in vain
        link.mend()
        link.silence_after(b"to be lost")
        until(lambda: len(queue(session)) == 2)
        deadline.is_over.set()
        waiter.join(20)
        assert not waiter.is_alive()
        link.break_all()
        link.mend()
        until(lambda: queue(session) == (holder,), 10)
        assert behind.epoch == 2


def test_a_gate_whose_making_was_not_heard_of_goes_at_once(session: Session, behind: Session, link: LinkProxy) -> None:
    """Neither who made it waits for it when it comes again, nor does anybody else."""
    session.create(GATES)
    claims = Claims(behind, "behind")
    link.silence_after(b"/gates/")

    def mend() -> None:
        until(lambda: session.children(GATES))
        link.break_all()
        link.mend()

    mender = threading.Thread(target=mend)
    mender.start()
    with claims.alone(PATH, unreachable_s=20) as is_alone:
        mender.join(20)
        assert not is_alone
        began = time.monotonic()
        with claims.alone(PATH, unreachable_s=20):
            pass
        until(lambda: not session.children(GATES))
        assert time.monotonic() - began < 5
    assert behind.epoch == 1


class Interrupted(Session):
    """A session to which something happens right after the first list of names that it reads."""

    happens: Callable[[], None] | None = None

    def children(self, path: str, **options: Any) -> tuple[str, ...]:
        found = super().children(path, **options)
        happens, self.happens = self.happens, None
        if happens is not None:
            happens()
        return found


@pytest.mark.parametrize("how", ["acquire", "outwait"])
def test_who_goes_before_he_is_watched_leaves_no_watch(session: Session, endpoint: Endpoint, how: str) -> None:
    """His node will never be there again: a watch for it would stay, here and in the server, for the session's life."""
    session = Interrupted(endpoint)
    session.start()
    try:
        with contextlib.ExitStack() as held:
            held.enter_context(Claims(session, "outside").acquire(PATH, timeout_s=5))
            session.happens = held.close
            claims = Claims(session, "one")
            if how == "outwait":
                assert claims.outwait(PATH, timeout_s=5)
            else:
                with claims.acquire(PATH, timeout_s=5):
                    pass
        assert session.happens is None
        client = session._client
        assert client is not None
        assert not any(client._data_watchers.values())
    finally:
        session.close()

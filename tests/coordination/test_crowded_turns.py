"""Turns of a rollout that many more want than may have them: what each reads, and that the bound holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from coordination.polling import until
from kazoo.client import KazooClient

from envmgr.coordination.zookeeper.claims import Claims
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session

TURNS = "/v1/claims/rollout/env-0123456789abcdef"
SESSIONS = 4
CROWD = 20


class Counting(Session):
    """A session that counts the names that it was told."""

    names = 0
    _counting = threading.Lock()

    def children(self, path: str, **facts: Any) -> tuple[str, ...]:
        found = super().children(path, **facts)
        with self._counting:
            self.names += len(found)
        return found


class Crowd:
    """So many contenders, a few sessions."""

    def __init__(self, sessions: list[Counting]) -> None:
        self.sessions = sessions
        self.claims = [Claims(session, f"host-{number}") for number, session in enumerate(sessions)]
        self.most = 0
        self.names = 0
        self._now = 0
        self._lock = threading.Lock()

    def take(self, number: int, places: int) -> None:
        with self.claims[number % SESSIONS].acquire(TURNS, places=places, timeout_s=120):
            with self._lock:
                self._now += 1
                self.most = max(self.most, self._now)
            threading.Event().wait(0.005)
            with self._lock:
                self._now -= 1

    def standing(self) -> int:
        """Return how many wait at the gate and in lanes."""
        look = self.sessions[0]
        lanes = (f"{TURNS}/lanes/{lane}" for lane in look.children(f"{TURNS}/lanes"))
        return sum(len(look.children(queue)) for queue in (f"{TURNS}/gate", *lanes))

    @contextmanager
    def waiting(self, contenders: int, places: int) -> Iterator[list[Future[None]]]:
        """Have nearly all of so many stand in the queues while all places are held; after the block they run."""
        with ThreadPoolExecutor(contenders) as pool, ExitStack() as held:
            for _ in range(places):
                held.enter_context(self.claims[0].acquire(TURNS, places=places, timeout_s=10))
            # Who comes together counts the same few at the gate, and would stand there together: so first a crowd.
            taken = [pool.submit(self.take, number, places) for number in range(CROWD)]
            until(lambda: self.standing() >= CROWD, 60)
            taken += [pool.submit(self.take, number, places) for number in range(CROWD, contenders)]
            until(lambda: self.standing() >= contenders, 60)
            self.names = sum(session.names for session in self.sessions)
            yield taken

    def names_each(self, contenders: int) -> float:
        """Return how many names each of so many was told, from the first turn to the last."""
        with self.waiting(contenders, 3) as taken:
            pass
        for each in taken:
            each.result()
        return (sum(session.names for session in self.sessions) - self.names) / contenders


@pytest.fixture
def crowd(endpoint: Endpoint) -> Iterator[Crowd]:
    """Four sessions, for as many contenders as a test wants; none is lost because this machine is busy."""
    lasting = replace(endpoint, session_s=15.0)
    with ExitStack() as held:
        sessions = [held.enter_context(closing(Counting(lasting))) for _ in range(SESSIONS)]
        for session in sessions:
            session.start()
        yield Crowd(sessions)


def test_four_times_the_contenders_read_less_than_twice_the_names_each(crowd: Crowd) -> None:
    """Where each listed all the others, it would be four times; never more than three have a turn; nothing is left."""
    # Of fewer, what each read would depend on how many of the first `CROWD` happened to come to an empty gate.
    few, many = crowd.names_each(80), crowd.names_each(320)
    assert many < 2 * few
    assert 1 <= crowd.most <= 3
    until(lambda: crowd.sessions[0].children("/v1/claims/rollout") == (), 20)


def test_who_dies_at_the_gate_or_in_a_lane_holds_nobody_up(crowd: Crowd) -> None:
    """A quarter of those that wait, lose their session: all waiters have their turn, in some order."""
    with crowd.waiting(60, 2) as taken, ExitStack() as held:
        assert len(crowd.sessions[0].children(f"{TURNS}/lanes")) > 1
        assert [holder.host for holder in crowd.claims[0].holders(TURNS)] == ["host-0"] * 2
        with crowd.claims[1].try_acquire(TURNS, places=2) as claim:
            assert claim is None
        client = crowd.sessions[3]._client
        assert client is not None
        thief = held.enter_context(
            closing(KazooClient(crowd.sessions[3].endpoint.servers[0], client_id=client.client_id))
        )
        thief.start()
        thief.stop()
    for each in taken:
        each.result()
    assert 1 <= crowd.most <= 2


def test_many_places_are_counted_and_not_listed(crowd: Crowd) -> None:
    """Of forty places none is given twice, and the next one comes when one goes."""
    one, two = crowd.claims[:2]
    with ThreadPoolExecutor(1) as pool, ExitStack() as held:
        for _ in range(39):
            held.enter_context(one.acquire(TURNS, places=40, timeout_s=10))
        before = crowd.sessions[0].names
        with one.acquire(TURNS, places=40, timeout_s=10):
            assert crowd.sessions[0].names - before < 39
            with two.try_acquire(TURNS, places=40) as claim:
                assert claim is None
            told = threading.Event()

            def wait() -> None:
                with two.acquire(TURNS, places=40, timeout_s=30, on_wait=lambda _: told.set()):
                    pass

            waiting = pool.submit(wait)
            assert told.wait(10)
            assert not waiting.done()
        waiting.result(20)

"""Hosts that want one lockfile wait for who solves it outside the queue of his claim, so that thousands may."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from fakes.worlds import NOWHERE, name_of

from envmgr import lockfile, settings
from envmgr.coordination.zookeeper import tree
from envmgr.coordination.zookeeper.coordinator import ZookeeperCoordinator
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session
from envmgr.errors import TimedOut
from envmgr.events import Event

CLASS = "linux-64"
LIMIT_S = 20.0


class _Hearing:
    """A reporter that says when it was told to wait."""

    def __init__(self) -> None:
        self.waits = threading.Event()

    def __call__(self, event: Event) -> None:
        if event.phase == "wait" and event.kind == "begin":
            self.waits.set()


class _Ever:
    """A deadline that a test ends."""

    def __init__(self) -> None:
        self.is_over = threading.Event()

    def check(self) -> None:
        if self.is_over.is_set():
            raise TimedOut("over")

    def remaining_s(self) -> float | None:
        return None


@contextmanager
def _host(endpoint: Endpoint, name: str) -> Iterator[ZookeeperCoordinator]:
    session = Session(endpoint)
    session.start()
    values = settings.load(root=NOWHERE, mode="personal", environ={}, home=NOWHERE)
    coordinator = ZookeeperCoordinator(session, host=name, store_id=name, is_shared=False, settings_of=lambda: values)
    try:
        yield coordinator
    finally:
        coordinator.close()
        session.close()


def _solve(host: ZookeeperCoordinator, heard: _Hearing, deadline: _Ever) -> str | None:
    with host.solving(name_of("x"), CLASS, 1, deadline=deadline, report=heard) as solving:
        return None if solving.found is None else solving.found.text


@pytest.fixture
def queue() -> str:
    """The path of the claim on the solve."""
    return tree.solve_claim(name_of("x"), CLASS)


def test_who_waits_gets_what_the_holder_published_and_never_stood_in_the_queue(endpoint: Endpoint, queue: str) -> None:
    """While one solves, two wait without a node of theirs; both get his lockfile and never had the claim."""
    text = lockfile.write([], subdir=CLASS, channels=["https://channel.invalid/demo"])
    deadline, hearings = _Ever(), [_Hearing(), _Hearing()]
    with (
        _host(endpoint, "one") as one, _host(endpoint, "two") as two, _host(endpoint, "three") as three,
        ThreadPoolExecutor() as pool,
    ):  # fmt: skip
        with one.solving(name_of("x"), CLASS, 1, deadline=deadline, report=_Hearing()) as solving:
            waiting = [
                pool.submit(_solve, host, heard, deadline) for host, heard in zip((two, three), hearings, strict=True)
            ]
            assert all(heard.waits.wait(LIMIT_S) for heard in hearings)
            assert len(one.claims.holders(queue)) == 1
            solving.publish(text)
        assert [each.result(LIMIT_S) for each in waiting] == [text, text]
        assert one.claims.holders(queue) == ()


def test_when_the_holder_goes_without_a_result_one_of_those_who_waited_is_next(endpoint: Endpoint) -> None:
    """A solver that gives up is followed by who waited, under a claim of his own."""
    deadline, heard = _Ever(), _Hearing()
    with _host(endpoint, "one") as one, _host(endpoint, "two") as two, ThreadPoolExecutor() as pool:
        with one.solving(name_of("x"), CLASS, 1, deadline=deadline, report=_Hearing()):
            waiting = pool.submit(_solve, two, heard, deadline)
            assert heard.waits.wait(LIMIT_S)
            assert not waiting.done()
        assert waiting.result(LIMIT_S) is None


def test_who_waits_hears_his_own_deadline(endpoint: Endpoint) -> None:
    """A caller that gives up does not wait for the solver."""
    deadline, heard = _Ever(), _Hearing()
    with (
        _host(endpoint, "one") as one,
        _host(endpoint, "two") as two,
        ThreadPoolExecutor() as pool,
        one.solving(name_of("x"), CLASS, 1, deadline=_Ever(), report=_Hearing()),
    ):
        waiting = pool.submit(_solve, two, heard, deadline)
        assert heard.waits.wait(LIMIT_S)
        deadline.is_over.set()
        with pytest.raises(TimedOut):
            waiting.result(LIMIT_S)

"""Operations under a clock that the test moves, which leave nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from fakes.clock import FakeClock

from envmgr.operations import Flight, Operations


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def told() -> list[Flight]:
    """The flights whose end was told, in order."""
    return []


@pytest.fixture
def make(clock: FakeClock, told: list[Flight]) -> Iterator[Callable[..., Operations]]:
    """Make operations; at the test's end they are drained, and no thread of theirs is left."""
    made = []
    before = set(threading.enumerate())

    def make_one(max_running: int = 1, max_waiting: int = 100, max_waiting_per_caller: int = 100) -> Operations:
        operations = Operations(
            max_running=max_running, max_waiting=max_waiting, max_waiting_per_caller=max_waiting_per_caller,
            clock=clock, on_end=told.append,
        )  # fmt: skip
        made.append(operations)
        return operations

    yield make_one
    for operations in made:
        operations.drain(0.0)
    for thread in set(threading.enumerate()) - before:
        thread.join(5.0)
    assert set(threading.enumerate()) <= before


@pytest.fixture
def operations(make: Callable[..., Operations]) -> Operations:
    """One runs at a time."""
    return make()

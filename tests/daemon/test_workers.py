"""Threads for what may block: fair to users, bounded in time, and honest about whether they still work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.processes import LIMIT_S
from fakes.worlds import begin, make_world

from envmgr.daemon.workers import Workers
from envmgr.errors import TimedOut
from envmgr.ready import Lease


class Stop:
    """Calls that stand still until they are let go."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go = threading.Event()

    def __call__(self, lease: Lease | None = None) -> Lease | None:
        self.begun.release()
        assert self.go.wait(LIMIT_S)
        return lease


@pytest.fixture
def stop() -> Iterator[Stop]:
    found = Stop()
    yield found
    found.go.set()


def fails() -> None:
    raise OSError("no thread, no lock, no disk")


async def begun(stop: Stop, count: int) -> None:
    for _ in range(count):
        assert await asyncio.get_running_loop().run_in_executor(None, stop.begun.acquire, True, LIMIT_S)


def test_one_user_does_not_take_all_threads(stop: Stop) -> None:
    """While one user's calls fill all he may have, another's is done; his own waits and is done then."""

    async def work() -> None:
        workers = Workers(threads=3, per_user=2)
        crowd = [asyncio.create_task(workers.run("greedy", stop)) for _ in range(5)]
        await begun(stop, 2)
        assert await workers.run("modest", lambda: "done") == "done"
        assert stop.begun.acquire(blocking=False) is False
        stop.go.set()
        await asyncio.gather(*crowd)
        assert not workers.is_busy
        workers.close()

    asyncio.run(work())


def test_a_call_that_takes_too_long_is_told_and_its_lease_is_given_back(tmp_path: Path, stop: Stop) -> None:
    """The caller hears of it in time; what comes after that is held by nobody."""
    lease = begin(make_world(tmp_path).layout, "late")

    async def work() -> None:
        workers = Workers(call_s=0.05)
        with pytest.raises(TimedOut):
            await workers.run("user", stop, lease)
        assert workers.is_busy
        stop.go.set()
        while lease.fd >= 0:
            await workers.run("another", lambda: None)
        workers.close()

    asyncio.run(work())


def test_an_error_is_the_callers() -> None:
    """What the call raises, the caller gets."""

    async def work() -> None:
        workers = Workers()
        with pytest.raises(ZeroDivisionError):
            await workers.run("user", lambda: 1 // 0)
        workers.close()

    asyncio.run(work())


def test_whether_they_are_alive(stop: Stop) -> None:
    """A probe that comes back is life, one that fails or hangs is not; threads that are merely busy are alive."""

    async def work() -> None:
        idle = Workers()
        assert await idle.is_alive(lambda: None, LIMIT_S)
        assert not await idle.is_alive(fails, LIMIT_S)
        assert not await idle.is_alive(stop, 0.05)
        busy = Workers(threads=1)
        stuck = Workers(threads=1, call_s=0.01)
        calls = [asyncio.create_task(workers.run("user", stop)) for workers in (busy, stuck)]
        await begun(stop, 3)
        assert await busy.is_alive(lambda: None, 0.05)
        assert not await stuck.is_alive(lambda: None, 0.05)
        stop.go.set()
        await asyncio.gather(*calls, return_exceptions=True)
        for workers in (idle, busy, stuck):
            workers.close()

    asyncio.run(work())

"""`envmgr.aio.ensure`: whatever becomes of the task or the loop, a lease that nobody gets is given back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from fakes.worlds import World, make_world

import envmgr.aio
from envmgr import spec
from envmgr.store import leases, publication

LIMIT_S = 60.0
DOCUMENT = {"dependencies": ["numpy"]}


class Held(Mapping[str, object]):
    """A spec that the thread of `envmgr.aio` reads only when the test lets it; the loop's own look is not held."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.is_read = asyncio.Event()
        self.release = threading.Event()
        self.reader: threading.Thread | None = None

    def __getitem__(self, key: str) -> object:
        return DOCUMENT[key]

    def __len__(self) -> int:
        return len(DOCUMENT)

    def __iter__(self) -> Iterator[str]:
        if threading.current_thread() is not threading.main_thread() and self.reader is None:
            assert self.loop is not None
            self.reader = threading.current_thread()
            self.loop.call_soon_threadsafe(self.is_read.set)
            assert self.release.wait(LIMIT_S)
        return iter(DOCUMENT)

    def finish(self) -> None:
        """Let the reader go on and wait for its end."""
        self.release.set()
        assert self.reader is not None
        self.reader.join(LIMIT_S)
        assert not self.reader.is_alive()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


async def _begun(held: Held, world: World) -> asyncio.Task[envmgr.Environment]:
    """Begin an `ensure` that will find the environment, which is made only after the loop's own look."""
    held.loop = asyncio.get_running_loop()
    task = asyncio.create_task(envmgr.aio.ensure(held, root=world.root))
    await held.is_read.wait()
    world.manager().ensure(spec.parse_mapping(DOCUMENT)).lease.close()
    return task


def _is_free(world: World) -> bool:
    (build_id,) = publication.published(world.layout).values()
    with leases.exclusive(world.layout.build(build_id)) as is_granted:
        return is_granted


async def _cancel_to_the_end(task: asyncio.Task[envmgr.Environment]) -> None:
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0)
    assert task.cancelled()


def test_a_task_cancelled_twice_leaves_no_lease(world: World) -> None:
    """A second cancellation ends the waiting, and the environment that comes after it is given back in the loop."""

    async def main() -> None:
        held = Held()
        task = await _begun(held, world)
        await _cancel_to_the_end(task)
        assert _is_free(world)
        await asyncio.to_thread(held.finish)

    asyncio.run(main())
    assert _is_free(world)


def test_a_task_cancelled_once_waits_for_its_lease_to_be_given_back(world: World) -> None:
    """When a task that was cancelled once has ended, what came for it is free again."""

    async def main() -> None:
        held = Held()
        task = await _begun(held, world)
        task.cancel()
        await asyncio.wait([task], timeout=0)
        assert not task.done()
        held.release.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert _is_free(world)

    asyncio.run(main())


def test_an_alias_does_not_hold_the_loop(world: World) -> None:
    """Setting an alias may need a daemon's answer: not in the loop's thread, although the environment is ready."""
    world.manager().ensure(spec.parse_mapping(DOCUMENT)).lease.close()

    async def main() -> None:
        held = Held()
        held.loop = asyncio.get_running_loop()
        task = asyncio.create_task(envmgr.aio.ensure(held, alias="production", root=world.root))
        reading = asyncio.create_task(held.is_read.wait())
        await asyncio.wait([task, reading], return_when=asyncio.FIRST_COMPLETED)
        assert not task.done()
        assert publication.all_aliases(world.layout) == {}
        held.release.set()
        (await task).close()

    asyncio.run(main())
    assert list(publication.all_aliases(world.layout)) == ["production"]


@pytest.mark.parametrize("is_cancelled", [True, False], ids=["cancelled", "abandoned"])
def test_a_closed_loop_leaves_no_lease(world: World, *, is_cancelled: bool) -> None:
    """An environment that comes after its loop was closed is given back, and the thread ends without an error."""
    errors: list[object] = []
    before, threading.excepthook = threading.excepthook, errors.append
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it is told of the task that we abandon
    held = Held()
    try:
        task = loop.run_until_complete(_begun(held, world))
        if is_cancelled:
            loop.run_until_complete(_cancel_to_the_end(task))
        loop.close()
        held.finish()
    finally:
        threading.excepthook = before
    assert errors == []
    assert _is_free(world)

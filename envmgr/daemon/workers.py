"""Threads for what may block, so that the event loop never does and no user takes them all.

One user has at most so many of the threads; what more he asks waits for one of his own, not in a thread. Who waits too
long for an answer is told so (504); the call itself goes on to its end.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Hashable
from typing import ParamSpec, TypeVar

from envmgr.errors import Busy, TimedOut
from envmgr.ready import Lease

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """For one event loop's thread; `close` waits for nobody."""

    def __init__(self, *, threads: int = 32, per_user: int = 8, call_s: float = 60.0) -> None:
        self._per_user = per_user
        self._call_s = call_s
        self._pool = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix="request")
        self._turns: dict[Hashable, asyncio.Semaphore] = {}
        self._since: dict[object, float] = {}

    async def run(self, user: Hashable, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `call` returns; raise what it raises, or `TimedOut`. A lease that comes too late is closed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._call_s
        turn = self._turns.setdefault(user, asyncio.Semaphore(self._per_user))
        try:
            await asyncio.wait_for(turn.acquire(), self._call_s)
        except asyncio.TimeoutError:
            raise self._too_long() from None
        token = object()
        try:
            future = asyncio.wrap_future(self._pool.submit(call, *args, **kwargs))
        except RuntimeError:  # no thread can be started, or the pool is closed
            turn.release()
            raise Busy("the daemon has no thread left for this", hint="ask again soon", retry_after_s=5) from None
        self._since[token] = loop.time()

        def ended(_future: asyncio.Future[T]) -> None:
            turn.release()
            del self._since[token]

        future.add_done_callback(ended)
        try:
            done, _ = await asyncio.wait({future}, timeout=max(0.0, deadline - loop.time()))
        except asyncio.CancelledError:
            future.add_done_callback(_drop)
            raise
        if not done:
            future.add_done_callback(_drop)
            raise self._too_long()
        return future.result()

    @property
    def is_busy(self) -> bool:
        """Tell whether a call has not come to its end."""
        return bool(self._since)

    async def is_alive(self, probe: Callable[[], None], patience_s: float) -> bool:
        """Tell whether a thread does `probe` in time; where all are busy, whether none of them is new to its call."""
        try:
            probing = self._pool.submit(probe)
        except RuntimeError:  # no thread can be started
            return False
        done, _ = await asyncio.wait({asyncio.wrap_future(probing)}, timeout=patience_s)
        for future in done:
            return future.exception() is None
        if not probing.cancel():  # it was begun, and hangs
            return False
        now = asyncio.get_running_loop().time()
        return any(now - since < 2 * self._call_s for since in self._since.values())

    def _too_long(self) -> TimedOut:
        return TimedOut(
            f"the daemon did not come to an answer within {self._call_s:g} s",
            hint="it may still do it; look before you repeat it",
        )

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _drop(future: asyncio.Future[T]) -> None:
    if not future.cancelled() and future.exception() is None and isinstance(future.result(), Lease):
        future.result().close()  # type: ignore[attr-defined]  # a Lease, as just seen

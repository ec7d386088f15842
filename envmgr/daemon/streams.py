"""The events of an operation as server-sent events: any number of readers, each at its own pace, none lost.

The stream begins behind ``Last-Event-ID`` and ends behind ``end``. A reader that went away is counted as gone at once.
The lease on what an ``ensure`` came to is taken before ``end`` is sent, and held on the connection.

Source: the HTML standard, section 9.2 (server-sent events).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from envmgr.daemon import responses
from envmgr.daemon.protocol import Connection
from envmgr.errors import EnvmgrError, UsageError
from envmgr.wire.socket import KEEPALIVE_S

if TYPE_CHECKING:
    from envmgr.operations import Flight, JournalEntry

CONTENT_TYPE = "text/event-stream"
_KEEPALIVE = b": still here\n\n"


def first_wanted(last_event_id: str | None) -> int:
    """Return the number behind which a reader wants to go on; `UsageError` when it is none."""
    if last_event_id is None or not last_event_id.strip():
        return 0
    text = last_event_id.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise UsageError("Last-Event-ID is not the number of an event", header="Last-Event-ID")
    return int(text)


class EventStream(Response):
    """The answer that lasts as long as its operation."""

    def __init__(self, flight: Flight, connection: Connection, after: int) -> None:
        super().__init__(None, 200, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, CONTENT_TYPE)
        self._flight = flight
        self._connection = connection
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's
        bell = _Bell()
        stop = self._flight.listen(bell.ring)
        leave = _both(stop, bell.ring_here)
        self._connection.when_lost.add(leave)
        try:
            headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await self._follow(bell, send)
        finally:
            self._connection.when_lost.discard(leave)
            stop()

    async def _follow(self, bell: _Bell, send: Send) -> None:
        after = self._after
        while not self._connection.is_lost:
            entries = self._flight.since(after)
            if not entries and not self._flight.is_finished:
                if not await bell.wait(KEEPALIVE_S):
                    await send({"type": "http.response.body", "body": _KEEPALIVE, "more_body": True})
                continue
            entries = entries or self._flight.since(after)
            is_end = self._flight.is_finished and (not entries or entries[-1].event == "end")
            if is_end:
                await self._hold()
            await send({"type": "http.response.body", "body": b"".join(map(_event, entries)), "more_body": not is_end})
            if is_end:
                return
            after = entries[-1].id

    async def _hold(self) -> None:
        """Hold a lease on what it came to; an environment that is gone or in the way is the client's to find out."""
        with contextlib.suppress(EnvmgrError, OSError):
            lease = await asyncio.get_running_loop().run_in_executor(None, self._flight.lease)
            if lease is not None:
                self._connection.hold(lease)


class _Bell:
    """Wakes one waiter, from any thread; rings that come while nobody waits are one ring."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._has_rung = False
        self._is_on_its_way = False
        self._waiter: asyncio.Future[bool] | None = None

    def ring(self) -> None:
        """Ring from any thread."""
        if not self._is_on_its_way:
            self._is_on_its_way = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self.ring_here)

    def ring_here(self) -> None:
        """Ring from the loop's thread."""
        self._is_on_its_way = False
        self._has_rung = True
        self._wake(True)

    def _wake(self, has_rung: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(has_rung)

    async def wait(self, timeout_s: float) -> bool:
        """Return true after a ring, false after the time."""
        if not self._has_rung:
            self._waiter = self._loop.create_future()
            timer = self._loop.call_later(timeout_s, self._wake, False)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        has_rung, self._has_rung = self._has_rung, False
        return has_rung


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def call() -> None:
        first()
        second()

    return call


def _event(entry: JournalEntry) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (entry.id, entry.event.encode(), responses.encode(entry.data))

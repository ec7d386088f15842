"""Thousands of ZooKeeper sessions on one event loop.

A `Line` is one session over one connection: requests are answered in their order, a watch calls back once, a ping goes
out when nothing else did for a third of the session's time. It does not connect again: in a bench, a session that ends
is an error. All lines of a `Fleet` count into one `Traffic`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence

from benchmarks.cluster import jute
from benchmarks.cluster.jute import Answer, Request
from benchmarks.cluster.traffic import Operation, Traffic
from benchmarks.measuring import BenchError

_TICKS = 20
"""Into how many steps the time between two pings is divided."""
_AT_ONCE = 200
"""Connections that are opened at a time, so that a server's queue of new ones does not overflow."""


class Line(asyncio.Protocol):
    """One session; made by `Fleet.open`."""

    __slots__ = (
        "_buffer",
        "_is_open",
        "_lost",
        "_pending",
        "_spoke_at",
        "_transport",
        "_watches",
        "_xid",
        "trace",
        "traffic",
    )

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self.trace: list[Operation] | None = None
        self._spoke_at = 0.0
        self._is_open = False
        self._lost = "the connection was closed"
        self._xid = 0
        self._buffer = bytearray()
        self._pending: deque[tuple[Request, int, asyncio.Future[Answer]]] = deque()
        self._watches: dict[str, list[Callable[[], None]]] = {}
        self._transport: asyncio.Transport | None = None

    # ------------------------------------------------------------------------------------------------------- asking

    async def open(self, session_ms: int) -> None:
        """Open the session; raises `BenchError` when the server refuses it."""
        answer = self._wait_for(Request("ping"), 0)
        self._write(jute.opening(session_ms))
        if not (await answer).czxid:
            raise BenchError("ZooKeeper refuses a session")

    async def ask(self, request: Request, heard: Callable[[], None] | None = None) -> Answer:
        """Send a request and wait for its answer; with a watch, `heard` is called once when the node changes."""
        if heard is not None:
            self._watches.setdefault(request.path, []).append(heard)
        self._xid += 1
        frame = jute.encode(self._xid, request)
        answer = self._wait_for(request, len(frame))
        self._write(frame)
        return await answer

    def is_silent(self, since: float) -> bool:
        """Tell whether nothing was sent since then (monotonic), although the session is open."""
        return self._is_open and self._spoke_at < since

    def ping(self) -> None:
        frame = jute.encode(jute.PING, Request("ping"))
        self.traffic.operations["ping"] += 1
        self._write(frame)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _wait_for(self, request: Request, sent: int) -> asyncio.Future[Answer]:
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending.append((request, sent, answer))
        return answer

    def _write(self, frame: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            raise BenchError(f"a session ended early: {self._lost}")
        self._spoke_at = time.monotonic()
        self.traffic.sent_bytes += len(frame)
        self._transport.write(frame)

    # ------------------------------------------------------------------------------------------------------ hearing

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # TCP's can write

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = str(exc or self._lost)
        for _, _, answer in self._pending:
            if not answer.done():
                answer.set_exception(BenchError(f"a session ended early: {self._lost}"))
                answer.exception()  # who waited for it may be gone, too
        self._pending.clear()

    def data_received(self, data: bytes) -> None:
        self.traffic.received_bytes += len(data)
        self._buffer += data
        for body in jute.frames(self._buffer):
            self._hear(body)

    def _hear(self, body: bytes) -> None:
        if not self._is_open:
            self._is_open = True
            _, _, answer = self._pending.popleft()
            answer.set_result(Answer(czxid=jute.opened(body)[1]))
            return
        xid, _, _ = jute.REPLY.unpack_from(body)
        if xid == jute.PING:
            return
        if xid == jute.EVENT:
            self.traffic.events += 1
            for heard in self._watches.pop(jute.event_path(body), ()):
                heard()
            return
        request, sent, answer = self._pending.popleft()
        said = jute.answer(request.kind, body)
        self.traffic.operations[request.kind] += 1
        if self.trace is not None:
            self.trace.append(Operation(request, said.error, sent, len(body) + 4, time.monotonic()))
        if not answer.done():
            answer.set_result(said)


class Fleet:
    """Sessions with the servers at `addresses`, evenly spread; `async with` keeps them alive and closes them."""

    def __init__(self, addresses: Sequence[str], *, session_ms: int = 30_000) -> None:
        self.traffic = Traffic()
        self.lines: list[Line] = []
        self._addresses = [(host, int(port)) for host, _, port in (each.rpartition(":") for each in addresses)]
        self._session_ms = session_ms
        self._pinging: asyncio.Task[None] | None = None
        self._opening = asyncio.Semaphore(_AT_ONCE)

    async def __aenter__(self) -> Fleet:  # noqa: PYI034 - there is no `Self` in Python 3.10
        self._pinging = asyncio.create_task(self._ping())
        return self

    async def __aexit__(self, *_exception: object) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
        for line in self.lines:
            line.close()

    async def open(self) -> Line:
        """Return a new session."""
        host, port = self._addresses[len(self.lines) % len(self._addresses)]
        line = Line(self.traffic)
        self.lines.append(line)
        async with self._opening:
            await asyncio.get_running_loop().create_connection(lambda: line, host, port)
            await line.open(self._session_ms)
        return line

    async def _ping(self) -> None:
        period_s = self._session_ms / 1000 / 3
        while True:
            await asyncio.sleep(period_s / _TICKS)
            silent_since = time.monotonic() - period_s
            for line in self.lines:
                if line.is_silent(silent_since):
                    line.ping()

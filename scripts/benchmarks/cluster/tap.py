"""A proxy between one real host and ZooKeeper that writes down what the host asks.

It hands every byte on as it comes, and reads along.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from benchmarks.cluster import jute
from benchmarks.cluster.jute import Request
from benchmarks.cluster.traffic import Operation, Traffic

_BLOCK = 1 << 16


class Tap:
    """What one host says to the server at `server`; the host is told to connect to `address`."""

    def __init__(self, server: str) -> None:
        self.address = ""
        self.traffic = Traffic()
        self.operations: list[Operation] = []
        self._server = server.rpartition(":")
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Tap:  # noqa: PYI034 - there is no `Self` in Python 3.10
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        host, port = self._listener.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    async def __aexit__(self, *_exception: object) -> None:
        if self._listener is not None:
            self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        host, _, port = self._server
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        reading = _Reading(self)
        try:
            await asyncio.gather(
                _pass_on(reader, far_writer, reading.asked), _pass_on(far_reader, writer, reading.answered)
            )
        except asyncio.CancelledError:
            pass  # by us, at the end
        finally:
            for each in (writer, far_writer):
                each.close()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, read: Callable[[bytes, bool], None]
) -> None:
    buffer, is_first = bytearray(), True
    with suppress(ConnectionError):
        while block := await reader.read(_BLOCK):
            buffer += block
            for body in jute.frames(buffer):
                read(body, is_first)
                is_first = False
            writer.write(block)
            await writer.drain()
        writer.write_eof()


class _Reading:
    """Reads one connection along: which answer belongs to which request."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self._asked: deque[tuple[int, Request, int]] = deque()

    def asked(self, body: bytes, is_first: bool) -> None:
        self._tap.traffic.sent_bytes += len(body) + 4
        if is_first:
            return
        xid, request = jute.decode(body)
        if xid == jute.PING:
            self._tap.traffic.operations["ping"] += 1
        else:
            self._asked.append((xid, request, len(body) + 4))

    def answered(self, body: bytes, is_first: bool) -> None:
        traffic = self._tap.traffic
        traffic.received_bytes += len(body) + 4
        if is_first:
            return
        xid, _, _ = jute.REPLY.unpack_from(body)
        if xid == jute.PING:
            return
        if xid == jute.EVENT:
            traffic.events += 1
            return
        _, request, sent = self._asked.popleft()
        traffic.operations[request.kind] += 1
        error = jute.answer(request.kind, body).error
        self._tap.operations.append(Operation(request, error, sent, len(body) + 4, time.monotonic()))

"""Gives this host's archives to the other hosts of its cluster; how they ask is told in `envmgr.wire.archives`.

A thread of its own with an event loop of its own, so that who asks the daemon for an environment waits for no archive;
the kernel copies the bytes (sendfile), without the interpreter's lock. What it has to know of the daemon it asks for as
it needs it: the settings in force, and what is being built.

* Only ``archives/<sha256>`` of the package cache is read, whose bytes the builder that put them there had hashed.
  Nothing is listed, nothing is written, and what is asked for never becomes part of a path unless it is 64 hexadecimal
  digits.
* A request has `_HEADER_BYTES` and `_HEADER_S`; of an archive each `_CHUNK_BYTES` have `_CHUNK_S` to be taken. At most
  ``archives_connections`` archives are given at a time; who asks for one more is told 503. `_MOST_LOOKING` more
  connections may ask what is there; further ones are closed as they come.
* ``archives_bytes_per_s`` is for all of them together: each chunk has its turn in one row.

Not promised: that a host which asks too much is kept from taking all the connections; the others then fetch from the
channel. Nobody has to prove who he is.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import parse_qs

from envmgr import fsio
from envmgr.errors import UsageError
from envmgr.wire import archives as wire

if TYPE_CHECKING:
    from envmgr.names import EnvName
    from envmgr.settings import Settings
    from envmgr.store.layout import Layout

_REQUEST = re.compile(
    rb"(GET|HEAD) /archives/([0-9a-fA-F]{64})(?:\?([!-~]{0,512}))? HTTP/1\.[01]\r\n(?:[^\r\n]+\r\n)*\r\n"
)
_HEADER_BYTES = 8192
_HEADER_S = 5.0
_CHUNK_BYTES = 1 << 18
_CHUNK_S = 20.0
_MOST_LOOKING = 256
_BACKLOG = 1024
_LINGER_S = 1.0
_FRESH_S = 60.0
"""An unfinished archive that has not grown for so long was a killed builder's."""
_SCAN_S = 0.1
_END_S = 5.0
_log = logging.getLogger(__name__)

Wanted = Callable[[], Collection["EnvName"]]


class ArchiveServer:
    """The archives of one store, on one address; `start`, `url`, `stop`.

    `wanted` names the environments that this host builds now or will without waiting for another host's turn: siblings
    wait for the archives of those. It is called in this server's thread and must not block.
    """

    def __init__(self, layout: Layout, settings_of: Callable[[], Settings], wanted: Wanted) -> None:
        self._directory = layout.packages / "archives"
        self._settings_of = settings_of
        self._wanted = wanted
        self._loop: asyncio.AbstractEventLoop
        self._accepting: asyncio.Task[None]
        self._listening: socket.socket
        self._address: tuple[str, int] = ("", 0)
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._giving = 0
        self._turn_at = 0.0
        self._unfinished: dict[str, float] = {}
        self._progress = ""
        self._scanned_at = 0.0
        self.given_bytes = 0

    def start(self) -> None:
        """Listen, and serve in a thread; `UsageError` when the address cannot be had."""
        where = self._settings_of().archives_listen
        if where is None:
            raise UsageError("there is no address to give archives at", hint="setting archives_listen")
        self._listening = _listen(where)
        self._address = self._listening.getsockname()[:2]
        self._loop = asyncio.new_event_loop()
        self._accepting = self._loop.create_task(self._accept())
        self._thread = threading.Thread(target=self._run, name="archives", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End all connections and the thread; a second call does nothing."""
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._accepting.cancel)
            self._thread.join(_END_S)
            self._thread = None

    def url(self, host: str) -> str:
        """Return the URL at which other hosts reach it: by `host` where it listens on every address."""
        address, port = self._address
        shown = host if ipaddress.ip_address(address.partition("%")[0]).is_unspecified else address
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"

    # ------------------------------------------------------------------------------------------------------ its thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        with self._listening, contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._accepting)
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        while left := [task for task in self._tasks if not task.done()]:
            for task in left:  # again and again: `wait_for` may lose a cancellation (before Python 3.12)
                task.cancel()
            await asyncio.wait(left, timeout=0.05)

    async def _accept(self) -> None:
        while True:
            try:
                connection, _ = await self._loop.sock_accept(self._listening)
            except OSError as error:  # no descriptor is left: it passes
                _log.warning("no connection can be taken for archives: %s", error)
                await asyncio.sleep(1.0)
                continue
            if len(self._tasks) >= self._settings_of().archives_connections + _MOST_LOOKING:
                connection.close()
                continue
            task = self._loop.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.setblocking(False)
            try:
                await self._answer(connection)
                connection.shutdown(socket.SHUT_WR)
                # What is closed with bytes unread is reset, and the answer may be lost with it.
                await asyncio.wait_for(self._loop.sock_recv(connection, _HEADER_BYTES), _LINGER_S)
            except (OSError, asyncio.TimeoutError):
                pass  # the other side is gone, or too slow
            except Exception:  # noqa: BLE001 - of one connection; the others go on
                _log.exception("an archive could not be given")

    async def _answer(self, connection: socket.socket) -> None:
        try:
            head = await asyncio.wait_for(self._head(connection), _HEADER_S)
        except asyncio.TimeoutError:
            await self._say(connection, "408 Request Timeout")
            return
        request = _REQUEST.fullmatch(head)
        if request is None:
            await self._say(connection, "400 Bad Request")
            return
        method, sha256, query = request.groups()
        await self._look(connection, sha256.decode().lower(), (query or b"").decode(), has_body=method == b"GET")

    async def _head(self, connection: socket.socket) -> bytes:
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _HEADER_BYTES:
            block = await self._loop.sock_recv(connection, _HEADER_BYTES - len(head))
            if not block:
                break
            head += block
        return head

    async def _look(self, connection: socket.socket, sha256: str, query: str, *, has_body: bool) -> None:
        settings = self._settings_of()
        file = self._open(sha256)
        if file is None:
            if self._is_coming(sha256, query, settings.machine_class):
                await self._say(connection, "202 Accepted", f"{wire.PROGRESS}: {self._how_far()}\r\n")
            else:
                await self._say(connection, "404 Not Found")
            return
        with file:
            if self._giving >= settings.archives_connections:
                await self._say(connection, "503 Service Unavailable", "Retry-After: 1\r\n")
                return
            self._giving += 1
            try:
                size_bytes = os.fstat(file.fileno()).st_size
                await self._say(connection, "200 OK", "Content-Type: application/octet-stream\r\n", size_bytes)
                offset = 0
                while has_body and offset < size_bytes:
                    offset += await self._give(connection, file, offset, size_bytes - offset)
            finally:
                self._giving -= 1

    def _open(self, sha256: str) -> BinaryIO | None:
        try:
            return open(os.open(self._directory / sha256, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb", 0)
        except OSError:
            return None

    async def _give(self, connection: socket.socket, file: BinaryIO, offset: int, left: int) -> int:
        """Send the next chunk of a file when its turn has come."""
        rate = self._settings_of().archives_bytes_per_s
        size_bytes = min(left, _CHUNK_BYTES if not rate else max(4096, min(_CHUNK_BYTES, rate // 20)))
        if rate:
            now = time.monotonic()
            turn_at = max(now, self._turn_at)
            self._turn_at = turn_at + size_bytes / rate
            await asyncio.sleep(turn_at - now)
        sent = await asyncio.wait_for(self._loop.sock_sendfile(connection, file, offset, size_bytes), _CHUNK_S)
        if not sent:
            raise OSError("the archive has become shorter")
        self.given_bytes += sent
        return sent

    async def _say(self, connection: socket.socket, status: str, headers: str = "", size_bytes: int = 0) -> None:
        head = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {size_bytes}\r\nConnection: close\r\n\r\n"
        await asyncio.wait_for(self._loop.sock_sendall(connection, head.encode()), _CHUNK_S)

    # --------------------------------------------------------------------------------------------------- what is coming

    def _is_coming(self, sha256: str, query: str, machine_class: str) -> bool:
        asked = parse_qs(query, max_num_fields=8)
        if asked.get("class") in (None, [machine_class]) and asked.get("for", [""])[0] in self._wanted():
            return True
        self._scan()
        return time.time() - self._unfinished.get(sha256, 0.0) < _FRESH_S

    def _how_far(self) -> str:
        """Return a text that changes whenever something came into the store."""
        self._scan()
        return self._progress

    def _scan(self) -> None:
        """See what builders are fetching, unless that was seen just now."""
        now = time.monotonic()
        if now - self._scanned_at < _SCAN_S:
            return
        self._scanned_at = now
        self._unfinished, come = {}, 0
        try:
            with os.scandir(self._directory) as entries:
                for entry in entries:
                    if entry.name.startswith(fsio.TEMPORARY):
                        with contextlib.suppress(FileNotFoundError):
                            status = entry.stat(follow_symlinks=False)
                            come += status.st_size
                            sha256 = entry.name.removeprefix(fsio.TEMPORARY).partition("-")[0]
                            self._unfinished[sha256] = status.st_mtime
            self._progress = f"{come}-{self._directory.stat().st_mtime_ns}"
        except FileNotFoundError:  # nothing was ever built
            self._progress = ""


def _listen(where: str) -> socket.socket:
    host, _, port = where.rpartition(":")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen(_BACKLOG)
            listening.setblocking(False)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise UsageError(
            f"cannot listen on {where} for archives: {error}", hint="setting archives_listen", setting="archives_listen"
        ) from error
    return listening

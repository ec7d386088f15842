"""Slow, half gone, greedy and hostile clients: each costs itself a connection, and nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.processes import LIMIT_S
from served import Client, connect, running
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from envmgr.daemon.protocol import KEY, MOST_LARGE, Connection, Door, Limits, PeerProtocol, connection_of
from envmgr.daemon.routes import NAME
from envmgr.errors import Cancelled
from envmgr.wire import socket as wire

BLOCK = b"x" * (1 << 20)


class Lease:
    """Something that can be held, and tells when it is given back."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class Serving:
    """A server of the daemon's own protocol with short limits, and an application that does as the path says."""

    def __init__(self, path: Path, limits: Limits, most_per_user: int) -> None:
        self.path = str(path)
        self.leases: list[Lease] = []
        self.door = Door(lambda: most_per_user)
        self._limits = limits
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()))
        self._thread.start()
        assert self._ready.wait(LIMIT_S)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/hold":
            self.leases.append(Lease())
            connection_of(scope).hold(self.leases[-1])
        message = await receive()
        while message.get("more_body"):
            message = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        for _ in range(100 if scope["path"] == "/much" else 0):
            await send({"type": "http.response.body", "body": BLOCK, "more_body": True})
        await send({"type": "http.response.body", "body": b"done"})

    async def _live(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        config = Config(self._app, ws="none", lifespan="off", interface="asgi3", log_config=None, access_log=False)
        state = ServerState()
        server = await self._loop.create_unix_server(
            lambda: PeerProtocol(config, state, self.door, self._limits), self.path
        )
        self._ready.set()
        await self._stop.wait()
        server.close()
        for connection in tuple(state.connections):
            connection.transport.abort()
        await asyncio.gather(*state.tasks, return_exceptions=True)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@contextlib.contextmanager
def serving(directory: Path, limits: Limits, most_per_user: int = 100) -> Iterator[Serving]:
    found = Serving(directory / "s", limits, most_per_user)
    try:
        yield found
    finally:
        found.close()


def to_the_end(sock: socket.socket) -> bytes:
    """Return what still comes until the other side ends the connection."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while block := sock.recv(1 << 16):
            received += block
    return received


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost:",
        b"\r\n\r\n",
        b"G",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\n",
    ],
)
def test_half_a_request_is_timed_out(tmp_path: Path, sent: bytes) -> None:
    """Whatever is missing, and whatever came before it, the client is told and cut off."""
    with serving(tmp_path, Limits(header_s=0.1, body_s=0.1)) as server, connect(server.path) as sock:
        sock.sendall(sent)
        head, _, body = to_the_end(sock).rpartition(b"\r\n\r\n")
        assert b"HTTP/1.1 408" in head
        assert json.loads(body)["error"]["code"] == "timed_out"


def test_a_slow_trickle_does_not_extend_the_time(tmp_path: Path) -> None:
    """The limit is for the whole head, not for each of its bytes."""
    with serving(tmp_path, Limits(header_s=0.3)) as server, connect(server.path) as sock:
        sock.settimeout(0.02)
        sock.sendall(b"GET / HTTP/1.1\r\nX-Long: ")
        answer = b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while not answer:
                sock.sendall(b"a")
                with contextlib.suppress(TimeoutError):
                    answer = sock.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 408")


def test_who_says_nothing_is_disconnected(tmp_path: Path) -> None:
    """Without a byte of a request there is nobody to tell, before the first one and between two."""
    with serving(tmp_path, Limits(header_s=0.1, idle_s=1)) as server:
        with connect(server.path) as sock:
            assert to_the_end(sock) == b""
        with connect(server.path) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert to_the_end(sock).endswith(b"0\r\n\r\n")


def test_who_does_not_read_is_cut_off(tmp_path: Path) -> None:
    """An answer that nobody takes does not stay in memory."""
    with serving(tmp_path, Limits(write_s=0.1)) as server, connect(server.path) as sock:
        sock.sendall(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n")
        ended = threading.Event()
        while server.door.connections:  # it counts the connection until it is gone; the client reads nothing
            ended.wait(0.01)
        assert len(to_the_end(sock)) < 100 * len(BLOCK)


def test_one_user_has_so_many_connections(tmp_path: Path) -> None:
    """One more is answered 429 with Retry-After; when one ends there is room again."""
    with serving(tmp_path, Limits(), most_per_user=2) as server:
        with Client(server.path) as first, Client(server.path) as second:
            for client in (first, second):
                assert client.ask("GET", "/").status == 200
            with connect(server.path) as sock:
                answer = to_the_end(sock)
            assert answer.startswith(b"HTTP/1.1 429")
            assert b"Retry-After: 1" in answer or b"retry-after: 1" in answer
            assert first.ask("GET", "/").status == 200
        ended = threading.Event()
        while server.door.connections:
            ended.wait(0.01)
        with Client(server.path) as third:
            assert third.ask("GET", "/").status == 200


def test_one_users_large_bodies_take_turns() -> None:
    """More than so many large bodies of one user are not read on; another user's, and small ones, are."""

    def post(connection: Connection, text: str) -> asyncio.Task[wire.NameRequest]:
        async def receive() -> Message:
            body = json.dumps({"spec": {"text": text, "includes": {}}}).encode()
            return {"type": "http.request", "body": body, "more_body": False}

        scope = {"type": "http", "headers": [], "state": {KEY: connection}}
        return asyncio.create_task(NAME.read(Request(scope, receive)))

    async def scene() -> None:
        door = Door(lambda: 100)
        mine = [Connection(None, door.turns("me")) for _ in range(MOST_LARGE + 2)]
        for connection in mine[:MOST_LARGE]:
            await post(connection, "#" * 100_000)
        first, second = (post(connection, "#" * 100_000) for connection in mine[MOST_LARGE:])
        await post(Connection(None, door.turns("me")), "#")
        await post(Connection(None, door.turns("you")), "#" * 100_000)
        assert not first.done()
        mine[-2].lose()
        with pytest.raises(Cancelled):
            await first
        assert not second.done()
        mine[0].end_large()
        assert (await second).spec.text == "#" * 100_000

    asyncio.run(scene())


def test_a_lease_is_held_until_the_next_request_or_the_end(tmp_path: Path) -> None:
    """Neither longer, nor shorter."""
    with serving(tmp_path, Limits()) as server, Client(server.path) as client:
        client.ask("GET", "/hold")
        assert not server.leases[0].closed.is_set()
        client.ask("GET", "/hold")
        assert server.leases[0].closed.is_set()
        assert not server.leases[1].closed.is_set()
        client.close()
        assert server.leases[1].closed.wait(LIMIT_S)


def test_a_lease_for_a_connection_that_is_gone_is_given_back() -> None:
    """A lease that comes after the end of its connection is closed at once."""
    connection, lease, gone = Connection(None), Lease(), []
    connection.when_lost.add(lambda: gone.append(True))
    connection.lose()
    connection.hold(lease)
    assert lease.closed.is_set()
    assert gone == [True]


@pytest.fixture
def _many_descriptors() -> Iterator[None]:
    """As many descriptors as this process may have."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("_many_descriptors")
def test_a_thousand_half_open_connections_harm_nobody(tmp_path: Path) -> None:
    """While a thousand clients have begun a request and gone quiet, another is served, and the daemon ends in time."""
    with running(tmp_path, "max_connections_per_user = 2000\n") as daemon, contextlib.ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(connect(daemon.socket)).sendall(b"POST /v1/names HTTP/1.1\r\nHost: x\r\nContent-Le")
        name = daemon.made("numpy")
        with daemon.client() as client:
            assert client.ask("POST", "/v1/environments", {"name": name}).status == 200
            assert b"envmgr_connections 1001.0" in client.ask("GET", "/metrics").body
        assert daemon.stop() == 0
